/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/driver.h"

#include "base/error.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libcuda.so.1"
#define WHY_BYTES 512

/* kernels.ptx, as text. */
extern const char kvx_cuda_ptx[];

/* Written once, under `once`. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct kvx_cu table;
static bool found;
static uint32_t device_count;
static pid_t owner; /* the process that initialised the driver */
static char why_not[WHY_BYTES];

/* A device's entry is written once, by whoever holds the lock, before `opened` is set. The lock is
 * held over the driver: whoever comes second needs what the first one makes. */
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static struct kvx_cuda_device devices[KVX_CUDA_DEVICES_MAX];
static _Atomic bool opened[KVX_CUDA_DEVICES_MAX];

/* Of pairs of enter and leave, and the capture mode from before the outermost. */
static _Thread_local uint32_t depth;
static _Thread_local enum kvx_cu_capture_mode mode_before;

/* What to do about an error of the driver. */
static const struct {
	enum kvx_cu_result result;
	const char *change;
} changes[] = {
	{KVX_CU_ERROR_OUT_OF_MEMORY, "free memory of the device, or make the pools smaller"},
	{KVX_CU_ERROR_NOT_INITIALIZED,
	 "a process that was forked from one that used CUDA cannot use it: start it by exec"},
	{KVX_CU_ERROR_DEINITIALIZED, "the process is ending: close the engine before that"},
	{KVX_CU_ERROR_STUB_LIBRARY,
	 "take the toolkit's folder of stubs out of LD_LIBRARY_PATH, so that the driver is found"},
	{KVX_CU_ERROR_NO_DEVICE, "see nvidia-smi, and the variable CUDA_VISIBLE_DEVICES"},
	{KVX_CU_ERROR_INVALID_DEVICE, "see nvidia-smi, and the variable CUDA_VISIBLE_DEVICES"},
	{KVX_CU_ERROR_INVALID_CONTEXT,
	 "the device was reset: close the engine before cudaDeviceReset()"},
	{KVX_CU_ERROR_OPERATING_SYSTEM, "see the kernel's log, and RLIMIT_MEMLOCK"},
	{KVX_CU_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
	 "memory that is given to the library must not be registered by others"},
	{KVX_CU_ERROR_ILLEGAL_ADDRESS,
	 "memory of the device was freed while it was in use, or a kernel of this process went "
	 "astray (compute-sanitizer finds it); restart the process, as nothing of CUDA works in it "
	 "any more"},
	{KVX_CU_ERROR_LAUNCH_FAILED,
	 "a kernel of this process failed (compute-sanitizer finds it); restart the process, as "
	 "nothing of CUDA works in it any more"},
	{KVX_CU_ERROR_SYSTEM_NOT_READY, "start the service nvidia-fabricmanager"},
	{KVX_CU_ERROR_SYSTEM_DRIVER_MISMATCH,
	 "the driver's library and its kernel module are of two versions: restart the machine"},
};

static const char *change_for(enum kvx_cu_result result)
{
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
		if (changes[i].result == result)
			return changes[i].change;
	return "see the kernel's log for messages of the driver";
}

/* "CUDA_ERROR_NO_DEVICE (no device ...); see ...". Before the table is whole too. */
static void describe_result(enum kvx_cu_result result, char *text, size_t size)
{
	const char *name = NULL, *meaning = NULL;

	if (table.get_error_name && table.get_error_string) {
		table.get_error_name(result, &name);
		table.get_error_string(result, &meaning);
	}
	snprintf(text, size, "%s %d (%s); %s", name ? name : "error", (int)result,
		 meaning ? meaning : "of a kind that this driver does not name",
		 change_for(result));
}

int(kvx_cuda_fail)(int code, enum kvx_cu_result result, const char *format, ...)
{
	char what[KVX_ERROR_TEXT_MAX], why[WHY_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	describe_result(result, why, sizeof(why));
	return kvx_fail(code, "%s: %s", what, why);
}

static bool cannot(const char *what, enum kvx_cu_result result)
{
	char text[WHY_BYTES - 64];

	describe_result(result, text, sizeof(text));
	snprintf(why_not, sizeof(why_not), "%s: %s", what, text);
	return false;
}

/* Where a function stands in the table. */
struct row {
	const char *symbol;
	size_t offset;
	bool needed;
	int version; /* 0: the symbol itself; else by the driver's own look-up */
};

static const struct row rows[] = {
#define ROW(name, symbol, needed, version) \
	{#symbol, offsetof(struct kvx_cu, name), needed, version},
#define NEEDED(name, symbol, arguments) ROW(name, symbol, true, 0)
#define OPTIONAL(name, symbol, arguments) ROW(name, symbol, false, 0)
#define VERSIONED(name, symbol, version, arguments) ROW(name, symbol, false, version)
	KVX_CU_FUNCTIONS(NEEDED) KVX_CU_OPTIONAL_FUNCTIONS(OPTIONAL)
		KVX_CUDA_OPTIONAL_FUNCTIONS(OPTIONAL) KVX_CU_VERSIONED_FUNCTIONS(VERSIONED)
#undef VERSIONED
#undef OPTIONAL
#undef NEEDED
#undef ROW
};

#define ROW_COUNT (sizeof(rows) / sizeof(rows[0]))

/* As bytes: C converts no pointer to an object to one to a function. */
static void function_store(const struct row *row, void *address)
{
	memcpy((char *)&table + row->offset, &address, sizeof(address));
}

static bool symbols_find(void *library)
{
	for (size_t i = 0; i < ROW_COUNT; i++) {
		void *address = rows[i].version ? NULL : dlsym(library, rows[i].symbol);

		if (!address && rows[i].needed) {
			snprintf(why_not, sizeof(why_not),
				 LIBRARY " has no %s; install a driver of version 450 or later",
				 rows[i].symbol);
			return false;
		}
		function_store(&rows[i], address);
	}
	return true;
}

/* After cuInit(), which the driver's own look-up needs. */
static void versions_find(void)
{
	for (size_t i = 0; i < ROW_COUNT; i++) {
		void *address = NULL;

		if (rows[i].version && table.get_proc_address &&
		    table.get_proc_address(rows[i].symbol, &address, rows[i].version,
					   KVX_CU_SYMBOL_DEFAULT, NULL) == KVX_CU_SUCCESS)
			function_store(&rows[i], address);
	}
}

static bool driver_load(void)
{
	/* It stays, whatever comes: its threads and handlers cannot be taken down. */
	void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	int count = 0;

	if (!library) {
		snprintf(why_not, sizeof(why_not), "no CUDA driver: %s", dlerror());
		return false;
	}
	if (!symbols_find(library))
		return false;

	enum kvx_cu_result result = table.init(0);
	if (result != KVX_CU_SUCCESS)
		return cannot("cuInit", result);
	result = table.device_get_count(&count);
	if (result != KVX_CU_SUCCESS)
		return cannot("cuDeviceGetCount", result);
	if (count <= 0)
		return cannot("cuDeviceGetCount", KVX_CU_ERROR_NO_DEVICE);
	versions_find();
	device_count = count < (int)KVX_CUDA_DEVICES_MAX ? (uint32_t)count : KVX_CUDA_DEVICES_MAX;
	owner = getpid();
	return true;
}

static void load_once(void)
{
	found = driver_load();
}

static bool is_forked(void)
{
	return found && getpid() != owner;
}

const struct kvx_cu *kvx_cuda(void)
{
	pthread_once(&once, load_once);
	return found && !is_forked() ? &table : NULL;
}

const char *kvx_cuda_why(void)
{
	pthread_once(&once, load_once);
	if (is_forked())
		return "this process was forked from one that had initialised CUDA, which does not "
		       "work in such a process; start it by exec, or fork before CUDA is used";
	return why_not;
}

bool kvx_cuda_is_used(void)
{
	enum kvx_cu_result (*get_count)(int *count) = NULL;
	void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_NOLOAD);
	int count;

	if (!library)
		return false;
	/* Of all functions the one that does nothing but to look whether cuInit() was called. */
	void *address = dlsym(library, "cuDeviceGetCount");
	memcpy(&get_count, &address, sizeof(address));
	bool used = get_count && get_count(&count) == KVX_CU_SUCCESS && count > 0;
	dlclose(library);
	return used;
}

uint32_t kvx_cuda_device_count(void)
{
	return kvx_cuda() ? device_count : 0;
}

/* 0 where a driver does not know the attribute. */
static int attribute_of(kvx_cu_device handle, enum kvx_cu_device_attribute attribute)
{
	int value = 0;

	return table.device_get_attribute(&value, attribute, handle) == KVX_CU_SUCCESS ? value : 0;
}

/* Into the current context. A kernel that is missing is another way that is left out. */
static void kernels_load(struct kvx_cuda_device *device)
{
	static const char *const names[KVX_CUDA_KERNELS] = {
		[KVX_CUDA_SIGNAL] = "kvx_signal",
		[KVX_CUDA_WAIT] = "kvx_wait",
		[KVX_CUDA_GATHER] = "kvx_gather",
	};
	struct kvx_cu_module *module;

	if (table.module_load_data(&module, kvx_cuda_ptx) != KVX_CU_SUCCESS)
		return;
	for (uint32_t i = 0; i < KVX_CUDA_KERNELS; i++)
		if (table.module_get_function(&device->kernels[i], module, names[i]) !=
		    KVX_CU_SUCCESS)
			device->kernels[i] = NULL;
}

static void capture_relax(void)
{
	if (depth++ > 0)
		return;
	mode_before = KVX_CU_CAPTURE_RELAXED;
	table.thread_exchange_capture_mode(&mode_before);
}

static void capture_restore(void)
{
	if (--depth == 0)
		table.thread_exchange_capture_mode(&mode_before);
}

static int context_push(uint32_t number, const struct kvx_cuda_device *device)
{
	enum kvx_cu_result result = table.ctx_push_current(device->context);

	if (result != KVX_CU_SUCCESS)
		return kvx_cuda_fail(KVX_E_TRANSPORT, result,
				     "cuda:%u: its context cannot be made current", number);
	capture_relax();
	return 0;
}

void kvx_cuda_leave(void)
{
	struct kvx_cu_context *context;

	capture_restore();
	table.ctx_pop_current(&context);
}

/* A word of the host's, written and waited for by a stream. */
static bool word_try(struct kvx_cu_stream *stream, uint32_t *word)
{
	kvx_cu_ptr there = (kvx_cu_ptr)(uintptr_t)word;

	*word = 0;
	return table.stream_write_value32(stream, there, 1, KVX_CU_WRITE_VALUE_DEFAULT) ==
		       KVX_CU_SUCCESS &&
	       table.stream_wait_value32(stream, there, 1, KVX_CU_WAIT_VALUE_GEQ) ==
		       KVX_CU_SUCCESS &&
	       table.stream_synchronize(stream) == KVX_CU_SUCCESS &&
	       *(volatile uint32_t *)word == 1;
}

/* By trying, in the current context: the attribute that told it is of an interface that is gone,
 * and some devices have the functions and refuse them. */
static bool words_try(void)
{
	struct kvx_cu_stream *stream;
	bool works = false;
	void *word;

	if (!table.stream_write_value32 || !table.stream_wait_value32 ||
	    table.mem_host_alloc(&word, sizeof(uint32_t), KVX_CU_HOST_ALLOC_DEVICEMAP) !=
		    KVX_CU_SUCCESS)
		return false;
	if (table.stream_create(&stream, KVX_CU_STREAM_NON_BLOCKING) == KVX_CU_SUCCESS) {
		works = word_try(stream, word);
		table.stream_destroy(stream);
	}
	table.mem_free_host(word);
	return works;
}

static int device_open(uint32_t number)
{
	struct kvx_cuda_device *device = &devices[number];
	enum kvx_cu_result result = table.device_get(&device->handle, (int)number);

	if (result == KVX_CU_SUCCESS)
		result = table.device_primary_ctx_retain(&device->context, device->handle);
	if (result != KVX_CU_SUCCESS)
		return kvx_cuda_fail(KVX_E_TRANSPORT, result, "cuda:%u: it has no context", number);

	device->writes_ordering = attribute_of(device->handle, KVX_CU_DEVICE_WRITES_ORDERING);
	device->flush_options = attribute_of(device->handle, KVX_CU_DEVICE_FLUSH_OPTIONS);
	device->exports_dmabuf = attribute_of(device->handle, KVX_CU_DEVICE_DMA_BUF) &&
				 table.mem_get_handle_for_address_range;
	device->unified = attribute_of(device->handle, KVX_CU_DEVICE_UNIFIED_ADDRESSING);
	device->reads_host_pointers =
		attribute_of(device->handle, KVX_CU_DEVICE_HOST_POINTER_FOR_REGISTERED);
	int error = context_push(number, device);
	if (error) {
		table.device_primary_ctx_release(device->handle);
		return error;
	}
	kernels_load(device);
	device->has_stream_memory_operations = device->reads_host_pointers && words_try();
	kvx_cuda_leave();
	atomic_store_explicit(&opened[number], true, memory_order_release);
	return 0;
}

int kvx_cuda_device(uint32_t number, const struct kvx_cuda_device **device)
{
	int error = 0;

	if (!kvx_cuda())
		return kvx_fail(KVX_E_UNSUPPORTED, "cuda:%u: %s", number, kvx_cuda_why());
	if (number >= device_count)
		return kvx_fail(KVX_E_INVALID,
				"cuda:%u: there is no such device; there are %u, counted from 0",
				number, device_count);
	if (!atomic_load_explicit(&opened[number], memory_order_acquire)) {
		pthread_mutex_lock(&opening);
		if (!atomic_load_explicit(&opened[number], memory_order_relaxed))
			error = device_open(number);
		pthread_mutex_unlock(&opening);
	}
	if (!error)
		*device = &devices[number];
	return error;
}

int kvx_cuda_enter(uint32_t number)
{
	const struct kvx_cuda_device *device;
	int error = kvx_cuda_device(number, &device);

	return error ? error : context_push(number, device);
}
