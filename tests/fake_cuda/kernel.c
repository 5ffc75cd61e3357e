/* SPDX-License-Identifier: Apache-2.0 */
/* Modules, and kernels that are C functions. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

struct kvx_cu_function {
	struct kvx_cu_module *module;
	enum fake_kernel kernel;
};

struct kvx_cu_module {
	struct kvx_list entry;
	bool known[FAKE_KERNELS];
	struct kvx_cu_function functions[FAKE_KERNELS];
};

static const struct {
	const char *name;
	bool single; /* it is meant for one thread */
	unsigned parameters;
	uint8_t bytes[FAKE_PARAMETERS_MAX];
} kernels[] = {
	[FAKE_SIGNAL] = {"kvx_signal", true, 1, {8}},
	[FAKE_WAIT] = {"kvx_wait", true, 2, {8, 4}},
	[FAKE_GATHER] = {"kvx_gather", false, 2, {8, 4}},
	[FAKE_FILL] = {FAKE_CUDA_FILL, false, 3, {8, 4, 8}},
};

/* --- modules --- */

/* A compiler would look at the text; here it has to have the names, as entries of PTX. */
static enum kvx_cu_result read_text(struct kvx_cu_module *module, const char *text)
{
	bool own = strncmp(text, FAKE_CUDA_MODULE, strlen(FAKE_CUDA_MODULE)) == 0;

	if (!own && !strstr(text, ".version"))
		return KVX_CU_ERROR_INVALID_IMAGE;
	for (unsigned i = 0; i < FAKE_KERNELS; i++) {
		module->functions[i] = (struct kvx_cu_function){module, i};
		module->known[i] = i == FAKE_FILL ? own : strstr(text, kernels[i].name) != NULL;
	}
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuModuleLoadData(struct kvx_cu_module **module, const void *image)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct kvx_cu_module *own;

	if (result)
		return result;
	if (!fake_option(FAKE_kernels))
		return fake_leave(KVX_CU_ERROR_UNSUPPORTED_PTX_VERSION);
	own = calloc(1, sizeof(*own));
	if (!own)
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	result = read_text(own, image);
	if (result) {
		free(own);
		return fake_leave(result);
	}
	kvx_list_append(&context->modules, &own->entry);
	fake_counters.live++;
	*module = own;
	return fake_leave(KVX_CU_SUCCESS);
}

static struct kvx_cu_module *find(struct kvx_cu_context *context,
				  const struct kvx_cu_module *module)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &context->modules) {
		struct kvx_cu_module *own = kvx_container_of(entry, struct kvx_cu_module, entry);
		if (own == module)
			return own;
	}
	return NULL;
}

static void unload(struct kvx_cu_module *module)
{
	kvx_list_remove(&module->entry);
	free(module);
	fake_counters.live--;
}

EXPORT enum kvx_cu_result cuModuleUnload(struct kvx_cu_module *module)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);

	if (result)
		return result;
	module = find(context, module);
	if (!module)
		return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
	unload(module);
	return fake_leave(KVX_CU_SUCCESS);
}

void fake_modules_end(struct kvx_cu_context *context)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &context->modules)
		unload(kvx_container_of(entry, struct kvx_cu_module, entry));
}

EXPORT enum kvx_cu_result cuModuleGetFunction(struct kvx_cu_function **function,
					      struct kvx_cu_module *module, const char *name)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	module = find(context, module);
	if (!module)
		return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
	for (unsigned i = 0; i < FAKE_KERNELS; i++)
		if (module->known[i] && strcmp(kernels[i].name, name) == 0) {
			*function = &module->functions[i];
			return fake_leave(KVX_CU_SUCCESS);
		}
	return fake_leave(KVX_CU_ERROR_NOT_FOUND);
}

/* --- launches --- */

static void read_parameters(struct fake_operation *operation, void **parameters)
{
	for (unsigned i = 0; i < kernels[operation->kernel].parameters; i++) {
		operation->parameters[i] = 0;
		memcpy(&operation->parameters[i], parameters[i],
		       kernels[operation->kernel].bytes[i]);
	}
}

EXPORT enum kvx_cu_result cuLaunchKernel(struct kvx_cu_function *function, unsigned int grid_x,
					 unsigned int grid_y, unsigned int grid_z,
					 unsigned int block_x, unsigned int block_y,
					 unsigned int block_z, unsigned int shared_bytes,
					 struct kvx_cu_stream *stream, void **parameters,
					 void **extra)
{
	uint64_t threads = (uint64_t)grid_x * grid_y * grid_z * block_x * block_y * block_z;
	struct kvx_cu_context *context;
	struct fake_operation *operation;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	if (!stream)
		return fake_leave(result);
	if (!threads || (uint64_t)block_x * block_y * block_z > 1024 || shared_bytes || extra)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	if (!find(context, function->module))
		return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
	if (kernels[function->kernel].single && threads != 1)
		fake_die("%s: launched with %llu threads", kernels[function->kernel].name,
			 (unsigned long long)threads);
	operation = fake_operation_new(FAKE_LAUNCH, 0);
	if (operation) {
		operation->kernel = function->kernel;
		read_parameters(operation, parameters);
	}
	return fake_leave(fake_stream_put(stream, operation));
}

/* --- the kernels --- */

static bool signal_word(uint64_t address)
{
	struct fake_range *range;
	uint32_t *word;

	fake_lock();
	word = (uint32_t *)(void *)fake_resolve(address, sizeof(*word), &range);
	fake_unlock();
	if (!word)
		return false;
	__atomic_fetch_add(word, 1, __ATOMIC_RELEASE);
	fake_lock();
	fake_release(range);
	fake_unlock();
	return true;
}

static bool gather(struct kvx_cu_stream *stream, uint64_t address, uint32_t count)
{
	uint64_t bytes = (uint64_t)count * sizeof(struct fake_copy);
	const struct fake_copy *copies;
	struct fake_range *range;
	bool done = true;

	fake_lock();
	copies = (const struct fake_copy *)(void *)fake_resolve(address, bytes, &range);
	fake_unlock();
	if (!copies)
		return false;
	for (uint32_t i = 0; i < count && done; i++)
		done = fake_copy_do(stream, &copies[i], false);
	fake_lock();
	fake_release(range);
	fake_unlock();
	return done;
}

static bool fill(uint64_t address, uint32_t value, uint64_t words)
{
	struct fake_range *range;
	uint32_t *word;

	fake_lock();
	word = (uint32_t *)(void *)fake_resolve(address, words * sizeof(*word), &range);
	fake_unlock();
	if (!word)
		return false;
	for (uint64_t i = 0; i < words; i++)
		word[i] = value + (uint32_t)i;
	fake_lock();
	fake_release(range);
	fake_unlock();
	return true;
}

bool fake_kernel_do(struct kvx_cu_stream *stream, enum fake_kernel kernel,
		    const uint64_t *parameters)
{
	fake_lock();
	fake_counters.launches++;
	fake_unlock();
	switch (kernel) {
	case FAKE_SIGNAL:
		return signal_word(parameters[0]);
	case FAKE_WAIT:
		return fake_await_word(stream, parameters[0], (uint32_t)parameters[1],
				       KVX_CU_WAIT_VALUE_GEQ);
	case FAKE_GATHER:
		return gather(stream, parameters[0], (uint32_t)parameters[1]);
	default:
		return fill(parameters[0], (uint32_t)parameters[1], parameters[2]);
	}
}
