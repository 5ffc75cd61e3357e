/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"
#include "cuda/driver.h"

#include <kvxfer/cuda.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What was allocated. The driver is not asked whose an address is: where a stream is captured it
 * need not answer, and it does not know where words end. */
struct words {
	uint32_t *first;
	uint32_t count;
	uint32_t device; /* in whose context */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of these */
static struct words *table;                              /* by address */
static size_t table_count, table_room;

/* The first entry that ends behind an address. The lock is held. */
static size_t search(const uint32_t *word)
{
	size_t low = 0, high = table_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if ((uintptr_t)(table[middle].first + table[middle].count) <= (uintptr_t)word)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int add(const struct words *words)
{
	pthread_mutex_lock(&lock);
	if (table_count == table_room) {
		size_t room = table_room ? table_room * 2 : 16;
		struct words *wider = realloc(table, room * sizeof(*table));
		if (!wider) {
			pthread_mutex_unlock(&lock);
			return kvx_fail(KVX_E_MEMORY, "words: out of memory");
		}
		table = wider;
		table_room = room;
	}
	size_t at = search(words->first);
	memmove(&table[at + 1], &table[at], (table_count - at) * sizeof(*table));
	table[at] = *words;
	table_count++;
	pthread_mutex_unlock(&lock);
	return 0;
}

/* The allocation that begins at an address leaves the table. */
static bool take(const uint32_t *first, struct words *words)
{
	pthread_mutex_lock(&lock);
	size_t at = search(first);
	bool found = at < table_count && table[at].first == first;
	if (found) {
		*words = table[at];
		table_count--;
		memmove(&table[at], &table[at + 1], (table_count - at) * sizeof(*table));
	}
	/* A library that is unloaded leaves nothing behind. */
	if (!table_count) {
		free(table);
		table = NULL;
		table_room = 0;
	}
	pthread_mutex_unlock(&lock);
	return found;
}

/* How many words there are from this one to the end of its allocation; 0: it is none. */
static uint32_t words_from(const uint32_t *word)
{
	uint32_t left = 0;

	pthread_mutex_lock(&lock);
	size_t at = search(word);
	if (at < table_count && (uintptr_t)table[at].first <= (uintptr_t)word)
		left = table[at].count - (uint32_t)(word - table[at].first);
	pthread_mutex_unlock(&lock);
	return left;
}

static int check_word(const char *what, const uint32_t *word)
{
	if (!word)
		return kvx_fail(KVX_E_INVALID,
				"%s: the word is NULL; give one of kvx_cuda_words_alloc()", what);
	if ((uintptr_t)word % sizeof(*word))
		return kvx_fail(KVX_E_INVALID, "%s: word %p is not aligned to %zu bytes", what,
				(const void *)word, sizeof(*word));
	if (!words_from(word))
		return kvx_fail(KVX_E_INVALID,
				"%s: word %p is in no memory of kvx_cuda_words_alloc(), or was "
				"freed; devices and the engine share no other words",
				what, (const void *)word);
	return 0;
}

/* What broke, by what the driver says of a call with a caller's stream. */
static int code_of(enum kvx_cu_result result)
{
	switch (result) {
	case KVX_CU_ERROR_INVALID_VALUE:
	case KVX_CU_ERROR_INVALID_CONTEXT:
	case KVX_CU_ERROR_INVALID_HANDLE:
	case KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED:
	case KVX_CU_ERROR_STREAM_CAPTURE_INVALIDATED:
	case KVX_CU_ERROR_STREAM_CAPTURE_UNMATCHED:
	case KVX_CU_ERROR_STREAM_CAPTURE_ISOLATION:
	case KVX_CU_ERROR_STREAM_CAPTURE_IMPLICIT:
		return KVX_E_INVALID;
	case KVX_CU_ERROR_OUT_OF_MEMORY:
		return KVX_E_MEMORY;
	case KVX_CU_ERROR_NOT_PERMITTED:
	case KVX_CU_ERROR_NOT_SUPPORTED:
		return KVX_E_UNSUPPORTED;
	default:
		return KVX_E_TRANSPORT;
	}
}

static int need_driver(const char *what, const struct kvx_cu **cu)
{
	*cu = kvx_cuda();
	return *cu ? 0 : kvx_fail(KVX_E_UNSUPPORTED, "%s: %s", what, kvx_cuda_why());
}

/* The number of the device of a context, which is made the thread's meanwhile. */
static enum kvx_cu_result device_of(const struct kvx_cu *cu, struct kvx_cu_context *context,
				    uint32_t *device)
{
	struct kvx_cu_context *popped;
	kvx_cu_device handle, other;

	enum kvx_cu_result result = cu->ctx_push_current(context);
	if (result)
		return result;
	result = cu->ctx_get_device(&handle);
	cu->ctx_pop_current(&popped);
	for (uint32_t i = 0; !result && i < kvx_cuda_device_count(); i++)
		if (!cu->device_get(&other, (int)i) && other == handle) {
			*device = i;
			return KVX_CU_SUCCESS;
		}
	return result ? result : KVX_CU_ERROR_INVALID_DEVICE;
}

/* That of the thread's context, so that a rank makes no context on another one's device. */
static uint32_t current_device(const struct kvx_cu *cu)
{
	struct kvx_cu_context *context = NULL;
	uint32_t device;

	if (cu->ctx_get_current(&context) || !context || device_of(cu, context, &device))
		return 0;
	return device;
}

/* The device's context is the thread's. */
static int pin(const struct kvx_cu *cu, struct words *words)
{
	size_t bytes = (size_t)words->count * sizeof(*words->first);
	const struct kvx_cuda_device *device;
	kvx_cu_ptr seen = 0;
	void *address;

	int error = kvx_cuda_device(words->device, &device);
	if (error)
		return error;
	if (!device->unified)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"words: cuda:%u has no unified addressing, so that no word has one "
				"address for it and for the engine",
				words->device);
	enum kvx_cu_result result = cu->mem_host_alloc(
		&address, bytes, KVX_CU_HOST_ALLOC_PORTABLE | KVX_CU_HOST_ALLOC_DEVICEMAP);
	if (result)
		return kvx_cuda_fail(code_of(result), result,
				     "words: cuda:%u: cannot pin %zu bytes of the host's memory",
				     words->device, bytes);
	result = cu->mem_host_get_device_pointer(&seen, address, 0);
	if (result || seen != (uintptr_t)address) {
		cu->mem_free_host(address);
		return kvx_fail(KVX_E_UNSUPPORTED,
				"words: cuda:%u does not see pinned memory where the engine does",
				words->device);
	}
	memset(address, 0, bytes);
	words->first = address;
	return 0;
}

int kvx_cuda_words_alloc(uint32_t count, uint32_t **words)
{
	struct words new = {.count = count};
	const struct kvx_cu *cu;

	int error = need_driver("words", &cu);
	if (error)
		return error;
	if (!words || !count || count > KVX_CUDA_WORDS_MAX)
		return kvx_fail(KVX_E_INVALID,
				"words: %u of them, to %p; ask for 1 to %u, and give a place for "
				"their address",
				count, (void *)words, KVX_CUDA_WORDS_MAX);
	new.device = current_device(cu);
	error = kvx_cuda_enter(new.device);
	if (error)
		return error;
	error = pin(cu, &new);
	if (!error) {
		error = add(&new);
		if (error)
			cu->mem_free_host(new.first);
	}
	kvx_cuda_leave();
	if (!error)
		*words = new.first;
	return error;
}

int kvx_cuda_words_free(uint32_t *words)
{
	struct words old;
	const struct kvx_cu *cu;

	if (!words)
		return 0;
	int error = need_driver("words", &cu);
	if (error)
		return error;
	if (!take(words, &old))
		return kvx_fail(KVX_E_INVALID,
				"words: %p is not the first of what kvx_cuda_words_alloc() gave, "
				"or was freed already",
				(void *)words);
	error = kvx_cuda_enter(old.device);
	if (error)
		return error;
	enum kvx_cu_result result = cu->mem_free_host(old.first);
	kvx_cuda_leave();
	return result ? kvx_cuda_fail(code_of(result), result, "words: cuda:%u: cannot free %p",
				      old.device, (void *)words)
		      : 0;
}

static int fail_stream(enum kvx_cu_result result, const char *what, const void *stream)
{
	const char *hint = "";

	if (result == KVX_CU_ERROR_INVALID_CONTEXT && !stream)
		hint = ", as no device is current in this thread; call cudaSetDevice() first";
	else if (result == KVX_CU_ERROR_INVALID_CONTEXT || result == KVX_CU_ERROR_INVALID_HANDLE)
		hint = "; give a stream that exists, of its device's primary context";
	return kvx_cuda_fail(code_of(result), result, "%s: stream %p%s", what, stream, hint);
}

/* A caller's stream: its device, and the context in which it is to be used. */
struct target {
	const char *what; /* for errors */
	struct kvx_cu_stream *stream;
	struct kvx_cu_context *context;
	const struct kvx_cuda_device *device;
	uint32_t number; /* the device's */
};

/* The default streams are those of the thread's context, others have one of their own. */
static int find_target(const struct kvx_cu *cu, const char *what, void *stream,
		       struct target *target)
{
	*target = (struct target){.what = what, .stream = stream};
	enum kvx_cu_result result = cu->stream_get_ctx(target->stream, &target->context);
	if (!result)
		result = device_of(cu, target->context, &target->number);
	if (result)
		return fail_stream(result, what, stream);
	return kvx_cuda_device(target->number, &target->device);
}

/* The target's context is the thread's. */
static int launch(const struct kvx_cu *cu, const struct target *target, enum kvx_cuda_kernel kernel,
		  void **parameters)
{
	struct kvx_cu_function *function = target->device->kernels[kernel];

	if (!function)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"%s: the driver did not take the kernels of kvxfer for cuda:%u; "
				"wait for an event on the CPU instead",
				target->what, target->number);
	enum kvx_cu_result result =
		cu->launch_kernel(function, 1, 1, 1, 1, 1, 1, 0, target->stream, parameters, NULL);
	return result ? fail_stream(result, target->what, target->stream) : 0;
}

static int signal_in(const struct kvx_cu *cu, const struct target *target, const uint32_t *word)
{
	void *parameters[] = {&word};

	return launch(cu, target, KVX_CUDA_SIGNAL, parameters);
}

static int wait_in(const struct kvx_cu *cu, const struct target *target, const uint32_t *word)
{
	uint32_t least = KVX_WORD_WHOLE;
	void *parameters[] = {&word, &least};

	if (target->device->has_stream_memory_operations) {
		enum kvx_cu_result result = cu->stream_wait_value32(target->stream, (uintptr_t)word,
								    least, KVX_CU_WAIT_VALUE_GEQ);
		if (!result)
			return 0;
		/* Some drivers have them, but not for each stream, nor in a capture. */
		if (result != KVX_CU_ERROR_NOT_SUPPORTED &&
		    result != KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED)
			return fail_stream(result, target->what, target->stream);
	}
	return launch(cu, target, KVX_CUDA_WAIT, parameters);
}

/* Both of the above, in the stream's context. */
static int put(const struct kvx_cu *cu, const char *what, void *stream, const uint32_t *word,
	       int (*operation)(const struct kvx_cu *cu, const struct target *target,
				const uint32_t *word))
{
	struct kvx_cu_context *popped;
	struct target target;

	int error = find_target(cu, what, stream, &target);
	if (error)
		return error;
	enum kvx_cu_result result = cu->ctx_push_current(target.context);
	if (result)
		return fail_stream(result, what, stream);
	error = operation(cu, &target, word);
	cu->ctx_pop_current(&popped);
	return error;
}

/* The header says what it takes: the device writes it. */
/* NOLINTNEXTLINE(readability-non-const-parameter) */
int kvx_cuda_signal_ready(void *stream, uint32_t *word)
{
	static const char what[] = "signal";
	const struct kvx_cu *cu;

	int error = need_driver(what, &cu);
	if (!error)
		error = check_word(what, word);
	return error ? error : put(cu, what, stream, word, signal_in);
}

int kvx_cuda_wait_layer(void *stream, const uint32_t *words, uint32_t layer)
{
	static const char what[] = "wait";
	const struct kvx_cu *cu;

	int error = need_driver(what, &cu);
	if (!error)
		error = check_word(what, words);
	if (error)
		return error;
	if (layer >= words_from(words))
		return kvx_fail(KVX_E_INVALID,
				"wait: there is no word for layer %u behind %p: %u were allocated; "
				"allocate one more than the pool has layers, for the tail",
				layer, (const void *)words, words_from(words));
	return put(cu, what, stream, words + layer, wait_in);
}
