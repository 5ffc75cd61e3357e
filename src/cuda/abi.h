/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of the CUDA driver's binary interface that is used here, so that no toolkit is needed to
 * build: handles, values, structs and, as lists, the functions. tests/cuda/abi.c compares all of it
 * with a toolkit's cuda.h where there is one, by putting that header's names in the place of these.
 */
#ifndef KVX_CUDA_ABI_H
#define KVX_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef uint64_t kvx_cu_ptr;    /* an address of the device; with unified addressing any address */
typedef int kvx_cu_device;      /* its number */
typedef uint64_t kvx_cu_memory; /* physical memory, which has no address by itself */

struct kvx_cu_context;
struct kvx_cu_stream; /* NULL is the context's default stream */
struct kvx_cu_event;
struct kvx_cu_module;
struct kvx_cu_function;
struct kvx_cu_graph;
struct kvx_cu_graph_exec;

/* --- values --- */

enum kvx_cu_result {
	KVX_CU_SUCCESS = 0,
	KVX_CU_ERROR_INVALID_VALUE = 1,
	KVX_CU_ERROR_OUT_OF_MEMORY = 2,
	KVX_CU_ERROR_NOT_INITIALIZED = 3,
	KVX_CU_ERROR_DEINITIALIZED = 4, /* the process is ending */
	KVX_CU_ERROR_STUB_LIBRARY = 34,
	KVX_CU_ERROR_NO_DEVICE = 100,
	KVX_CU_ERROR_INVALID_DEVICE = 101,
	KVX_CU_ERROR_INVALID_IMAGE = 200,
	KVX_CU_ERROR_INVALID_CONTEXT = 201,
	KVX_CU_ERROR_ALREADY_MAPPED = 208,
	KVX_CU_ERROR_NO_BINARY_FOR_GPU = 209,
	KVX_CU_ERROR_PEER_ACCESS_UNSUPPORTED = 217,
	KVX_CU_ERROR_INVALID_PTX = 218,
	KVX_CU_ERROR_UNSUPPORTED_PTX_VERSION = 222,
	KVX_CU_ERROR_OPERATING_SYSTEM = 304,
	KVX_CU_ERROR_INVALID_HANDLE = 400,
	KVX_CU_ERROR_NOT_FOUND = 500,
	KVX_CU_ERROR_NOT_READY = 600,
	KVX_CU_ERROR_ILLEGAL_ADDRESS = 700,
	KVX_CU_ERROR_HOST_MEMORY_ALREADY_REGISTERED = 712,
	KVX_CU_ERROR_HOST_MEMORY_NOT_REGISTERED = 713,
	KVX_CU_ERROR_LAUNCH_FAILED = 719,
	KVX_CU_ERROR_NOT_PERMITTED = 800,
	KVX_CU_ERROR_NOT_SUPPORTED = 801,
	KVX_CU_ERROR_SYSTEM_NOT_READY = 802,
	KVX_CU_ERROR_SYSTEM_DRIVER_MISMATCH = 803,
	KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
	KVX_CU_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
	KVX_CU_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
	KVX_CU_ERROR_STREAM_CAPTURE_ISOLATION = 905,
	KVX_CU_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
	KVX_CU_ERROR_CAPTURED_EVENT = 907,
	KVX_CU_ERROR_UNKNOWN = 999,
};

enum kvx_cu_device_attribute {
	KVX_CU_DEVICE_MULTIPROCESSORS = 16,
	KVX_CU_DEVICE_INTEGRATED = 18,
	KVX_CU_DEVICE_PCI_BUS = 33,
	KVX_CU_DEVICE_PCI_DEVICE = 34,
	KVX_CU_DEVICE_ASYNC_ENGINES = 40,
	KVX_CU_DEVICE_UNIFIED_ADDRESSING = 41,
	KVX_CU_DEVICE_PCI_DOMAIN = 50,
	KVX_CU_DEVICE_CAPABILITY_MAJOR = 75,
	KVX_CU_DEVICE_CAPABILITY_MINOR = 76,
	KVX_CU_DEVICE_HOST_POINTER_FOR_REGISTERED = 91,
	KVX_CU_DEVICE_STREAM_MEM_OPS_V1 = 92,
	KVX_CU_DEVICE_FLUSH_REMOTE_WRITES = 98,
	KVX_CU_DEVICE_HOST_REGISTER = 99,
	KVX_CU_DEVICE_VIRTUAL_MEMORY = 102,
	KVX_CU_DEVICE_GPU_DIRECT_RDMA_WITH_VMM = 110,
	KVX_CU_DEVICE_MEMORY_POOLS = 115,
	KVX_CU_DEVICE_GPU_DIRECT_RDMA = 116,
	KVX_CU_DEVICE_FLUSH_OPTIONS = 117,   /* kvx_cu_flush_option */
	KVX_CU_DEVICE_WRITES_ORDERING = 118, /* kvx_cu_writes_ordering */
	KVX_CU_DEVICE_DMA_BUF = 124,
};

enum kvx_cu_flush_option {
	KVX_CU_FLUSH_OPTION_HOST = 1,
	KVX_CU_FLUSH_OPTION_MEMOPS = 2,
};

enum kvx_cu_writes_ordering {
	KVX_CU_WRITES_ORDERING_NONE = 0,
	KVX_CU_WRITES_ORDERING_OWNER = 100,
	KVX_CU_WRITES_ORDERING_ALL_DEVICES = 200,
};

enum kvx_cu_flush_target {
	KVX_CU_FLUSH_TARGET_CURRENT_CONTEXT = 0,
};

enum kvx_cu_flush_scope {
	KVX_CU_FLUSH_TO_OWNER = 100,
	KVX_CU_FLUSH_TO_ALL_DEVICES = 200,
};

/* With the type of what the answer is written to. */
enum kvx_cu_pointer_attribute {
	KVX_CU_POINTER_CONTEXT = 1,                /* struct kvx_cu_context * */
	KVX_CU_POINTER_MEMORY_TYPE = 2,            /* uint32_t, a kvx_cu_memory_type */
	KVX_CU_POINTER_DEVICE_POINTER = 3,         /* kvx_cu_ptr */
	KVX_CU_POINTER_HOST_POINTER = 4,           /* void * */
	KVX_CU_POINTER_SYNC_MEMOPS = 6,            /* uint32_t */
	KVX_CU_POINTER_BUFFER_ID = 7,              /* uint64_t */
	KVX_CU_POINTER_IS_MANAGED = 8,             /* uint32_t */
	KVX_CU_POINTER_DEVICE_ORDINAL = 9,         /* int */
	KVX_CU_POINTER_IS_IPC_CAPABLE = 10,        /* uint32_t */
	KVX_CU_POINTER_RANGE_START = 11,           /* kvx_cu_ptr; of all that was reserved */
	KVX_CU_POINTER_RANGE_SIZE = 12,            /* size_t */
	KVX_CU_POINTER_MAPPED = 13,                /* uint32_t */
	KVX_CU_POINTER_IS_GPU_DIRECT_CAPABLE = 15, /* uint32_t */
	KVX_CU_POINTER_MEMPOOL = 17,               /* void *, NULL: not of a pool */
};

enum kvx_cu_memory_type {
	KVX_CU_MEMORY_HOST = 1,
	KVX_CU_MEMORY_DEVICE = 2,
	KVX_CU_MEMORY_UNIFIED = 4,
};

enum kvx_cu_host_flags {
	KVX_CU_HOST_ALLOC_PORTABLE = 1,
	KVX_CU_HOST_ALLOC_DEVICEMAP = 2,
	KVX_CU_HOST_REGISTER_PORTABLE = 1,
	KVX_CU_HOST_REGISTER_DEVICEMAP = 2,
};

enum kvx_cu_stream_flags {
	KVX_CU_STREAM_DEFAULT = 0,
	KVX_CU_STREAM_NON_BLOCKING = 1, /* does not wait for the default stream, nor it for this */
};

enum kvx_cu_event_flags {
	KVX_CU_EVENT_DEFAULT = 0,
	KVX_CU_EVENT_BLOCKING_SYNC = 1,
	KVX_CU_EVENT_DISABLE_TIMING = 2,
};

enum kvx_cu_write_flags {
	KVX_CU_WRITE_VALUE_DEFAULT = 0, /* all that the stream wrote before is visible first */
	KVX_CU_WRITE_VALUE_NO_MEMORY_BARRIER = 1,
};

enum kvx_cu_wait_flags {
	KVX_CU_WAIT_VALUE_GEQ = 0, /* (int32_t)(word - value) >= 0 */
	KVX_CU_WAIT_VALUE_EQ = 1,
	KVX_CU_WAIT_VALUE_AND = 2,
	KVX_CU_WAIT_VALUE_FLUSH = 1 << 30, /* and makes remote writes visible afterwards */
};

enum kvx_cu_capture_status {
	KVX_CU_CAPTURE_NONE = 0,
	KVX_CU_CAPTURE_ACTIVE = 1,
	KVX_CU_CAPTURE_INVALIDATED = 2,
};

/* Of a thread: whose captures forbid it what might disturb them (allocating, registering, queries
 * and waits, loading modules). Such a call fails, and the capture with it. */
enum kvx_cu_capture_mode {
	KVX_CU_CAPTURE_GLOBAL = 0, /* how a thread begins: any of the process, and its own */
	KVX_CU_CAPTURE_THREAD_LOCAL = 1,
	KVX_CU_CAPTURE_RELAXED = 2, /* none */
};

enum kvx_cu_ipc_flags {
	KVX_CU_IPC_LAZY_PEER_ACCESS = 1,
};

enum kvx_cu_range_handle_type {
	KVX_CU_RANGE_HANDLE_DMA_BUF_FD = 1, /* int */
};

enum kvx_cu_range_handle_flags {
	KVX_CU_RANGE_DMA_BUF_PCIE = 1, /* 12.8: as seen through the PCI BAR */
};

enum kvx_cu_symbol_flags {
	KVX_CU_SYMBOL_DEFAULT = 0,
};

enum kvx_cu_symbol_status {
	KVX_CU_SYMBOL_FOUND = 0,
	KVX_CU_SYMBOL_NOT_FOUND = 1,
	KVX_CU_SYMBOL_VERSION_NOT_SUFFICIENT = 2,
};

enum kvx_cu_copy_source_order {
	KVX_CU_COPY_SOURCE_STREAM = 1, /* read in the stream's order */
	KVX_CU_COPY_SOURCE_DURING_CALL = 2,
	KVX_CU_COPY_SOURCE_ANY = 3,
};

enum kvx_cu_copy_flags {
	KVX_CU_COPY_DEFAULT = 0,
	KVX_CU_COPY_OVERLAP_WITH_COMPUTE = 1, /* rather on the copy engines */
};

enum kvx_cu_location_type {
	KVX_CU_LOCATION_NONE = 0,
	KVX_CU_LOCATION_DEVICE = 1,
	KVX_CU_LOCATION_HOST = 2,
};

enum kvx_cu_allocation_type {
	KVX_CU_ALLOCATION_PINNED = 1,
};

enum kvx_cu_handle_type {
	KVX_CU_HANDLE_NONE = 0,
	KVX_CU_HANDLE_POSIX_FD = 1,
};

enum kvx_cu_granularity {
	KVX_CU_GRANULARITY_MINIMUM = 0,
	KVX_CU_GRANULARITY_RECOMMENDED = 1,
};

enum kvx_cu_access_flags {
	KVX_CU_ACCESS_NONE = 0,
	KVX_CU_ACCESS_READ = 1,
	KVX_CU_ACCESS_READ_WRITE = 3,
};

/* --- structs --- */

#define KVX_CU_IPC_HANDLE_BYTES 64

struct kvx_cu_ipc_handle {
	char reserved[KVX_CU_IPC_HANDLE_BYTES];
};

struct kvx_cu_location {
	enum kvx_cu_location_type type;
	int id;
};

struct kvx_cu_copy_attributes {
	enum kvx_cu_copy_source_order source_order;
	struct kvx_cu_location from_hint; /* of managed memory; else it is not looked at */
	struct kvx_cu_location to_hint;
	unsigned int flags;
};

struct kvx_cu_allocation {
	enum kvx_cu_allocation_type type;
	enum kvx_cu_handle_type handle_types;
	struct kvx_cu_location location;
	void *win32_attributes;
	struct {
		unsigned char compression;
		unsigned char gpu_direct_capable;
		unsigned short usage;
		unsigned char reserved[4];
	} flags;
};

struct kvx_cu_access {
	struct kvx_cu_location location;
	enum kvx_cu_access_flags flags;
};

/* --- functions --- */

/* X(member of a table, symbol, arguments); all return enum kvx_cu_result. Without one of these a
 * driver is of no use. Each symbol is the one that cuda.h's name without suffix stands for. */
#define KVX_CU_FUNCTIONS(X)                                                                        \
	X(init, cuInit, (unsigned int flags))                                                      \
	X(driver_get_version, cuDriverGetVersion, (int *version))                                  \
	X(get_error_name, cuGetErrorName, (enum kvx_cu_result error, const char **text))           \
	X(get_error_string, cuGetErrorString, (enum kvx_cu_result error, const char **text))       \
	X(device_get_count, cuDeviceGetCount, (int *count))                                        \
	X(device_get, cuDeviceGet, (kvx_cu_device * device, int ordinal))                          \
	X(device_get_name, cuDeviceGetName, (char *name, int size, kvx_cu_device device))          \
	X(device_get_pci_bus_id, cuDeviceGetPCIBusId,                                              \
	  (char *name, int size, kvx_cu_device device))                                            \
	X(device_get_attribute, cuDeviceGetAttribute,                                              \
	  (int *value, enum kvx_cu_device_attribute attribute, kvx_cu_device device))              \
	X(device_primary_ctx_retain, cuDevicePrimaryCtxRetain,                                     \
	  (struct kvx_cu_context * *context, kvx_cu_device device))                                \
	X(device_primary_ctx_release, cuDevicePrimaryCtxRelease_v2, (kvx_cu_device device))        \
	X(ctx_push_current, cuCtxPushCurrent_v2, (struct kvx_cu_context * context))                \
	X(ctx_pop_current, cuCtxPopCurrent_v2, (struct kvx_cu_context * *context))                 \
	X(ctx_get_current, cuCtxGetCurrent, (struct kvx_cu_context * *context))                    \
	X(ctx_get_device, cuCtxGetDevice, (kvx_cu_device * device))                                \
	X(ctx_synchronize, cuCtxSynchronize, (void))                                               \
	X(pointer_get_attribute, cuPointerGetAttribute,                                            \
	  (void *value, enum kvx_cu_pointer_attribute attribute, kvx_cu_ptr address))              \
	X(pointer_get_attributes, cuPointerGetAttributes,                                          \
	  (unsigned int count, enum kvx_cu_pointer_attribute *attributes, void **values,           \
	   kvx_cu_ptr address))                                                                    \
	X(mem_get_address_range, cuMemGetAddressRange_v2,                                          \
	  (kvx_cu_ptr * base, size_t * bytes, kvx_cu_ptr address))                                 \
	X(mem_alloc, cuMemAlloc_v2, (kvx_cu_ptr * address, size_t bytes))                          \
	X(mem_free, cuMemFree_v2, (kvx_cu_ptr address))                                            \
	X(mem_host_alloc, cuMemHostAlloc, (void **address, size_t bytes, unsigned int flags))      \
	X(mem_free_host, cuMemFreeHost, (void *address))                                           \
	X(mem_host_get_device_pointer, cuMemHostGetDevicePointer_v2,                               \
	  (kvx_cu_ptr * device, void *address, unsigned int flags))                                \
	X(mem_host_register, cuMemHostRegister_v2,                                                 \
	  (void *address, size_t bytes, unsigned int flags))                                       \
	X(mem_host_unregister, cuMemHostUnregister, (void *address))                               \
	X(mem_copy, cuMemcpy, (kvx_cu_ptr to, kvx_cu_ptr from, size_t bytes))                      \
	X(mem_copy_async, cuMemcpyAsync,                                                           \
	  (kvx_cu_ptr to, kvx_cu_ptr from, size_t bytes, struct kvx_cu_stream * stream))           \
	X(stream_create, cuStreamCreate, (struct kvx_cu_stream * *stream, unsigned int flags))     \
	X(stream_create_with_priority, cuStreamCreateWithPriority,                                 \
	  (struct kvx_cu_stream * *stream, unsigned int flags, int priority))                      \
	X(stream_destroy, cuStreamDestroy_v2, (struct kvx_cu_stream * stream))                     \
	X(stream_synchronize, cuStreamSynchronize, (struct kvx_cu_stream * stream))                \
	X(stream_query, cuStreamQuery, (struct kvx_cu_stream * stream))                            \
	X(stream_wait_event, cuStreamWaitEvent,                                                    \
	  (struct kvx_cu_stream * stream, struct kvx_cu_event * event, unsigned int flags))        \
	X(stream_get_ctx, cuStreamGetCtx,                                                          \
	  (struct kvx_cu_stream * stream, struct kvx_cu_context * *context))                       \
	X(stream_is_capturing, cuStreamIsCapturing,                                                \
	  (struct kvx_cu_stream * stream, enum kvx_cu_capture_status * status))                    \
	X(thread_exchange_capture_mode, cuThreadExchangeStreamCaptureMode,                         \
	  (enum kvx_cu_capture_mode * mode))                                                       \
	X(event_create, cuEventCreate, (struct kvx_cu_event * *event, unsigned int flags))         \
	X(event_record, cuEventRecord,                                                             \
	  (struct kvx_cu_event * event, struct kvx_cu_stream * stream))                            \
	X(event_query, cuEventQuery, (struct kvx_cu_event * event))                                \
	X(event_synchronize, cuEventSynchronize, (struct kvx_cu_event * event))                    \
	X(event_destroy, cuEventDestroy_v2, (struct kvx_cu_event * event))                         \
	X(module_load_data, cuModuleLoadData, (struct kvx_cu_module * *module, const void *image)) \
	X(module_unload, cuModuleUnload, (struct kvx_cu_module * module))                          \
	X(module_get_function, cuModuleGetFunction,                                                \
	  (struct kvx_cu_function * *function, struct kvx_cu_module * module, const char *name))   \
	X(launch_kernel, cuLaunchKernel,                                                           \
	  (struct kvx_cu_function * function, unsigned int grid_x, unsigned int grid_y,            \
	   unsigned int grid_z, unsigned int block_x, unsigned int block_y, unsigned int block_z,  \
	   unsigned int shared_bytes, struct kvx_cu_stream *stream, void **parameters,             \
	   void **extra))                                                                          \
	X(ipc_get_mem_handle, cuIpcGetMemHandle,                                                   \
	  (struct kvx_cu_ipc_handle * handle, kvx_cu_ptr address))                                 \
	X(ipc_open_mem_handle, cuIpcOpenMemHandle_v2,                                              \
	  (kvx_cu_ptr * address, struct kvx_cu_ipc_handle handle, unsigned int flags))             \
	X(ipc_close_mem_handle, cuIpcCloseMemHandle, (kvx_cu_ptr address))

/* As above. Older drivers lack them: the member is NULL then, and what needs it is off. The comment
 * is the version that has it first. */
#define KVX_CU_OPTIONAL_FUNCTIONS(X)                                                               \
	/* 11.3 */                                                                                 \
	X(flush_gpu_direct_rdma_writes, cuFlushGPUDirectRDMAWrites,                                \
	  (enum kvx_cu_flush_target target, enum kvx_cu_flush_scope scope))                        \
	/* 11.7 */                                                                                 \
	X(mem_get_handle_for_address_range, cuMemGetHandleForAddressRange,                         \
	  (void *handle, kvx_cu_ptr address, size_t bytes, enum kvx_cu_range_handle_type type,     \
	   unsigned long long flags))                                                              \
	/* 11.7, by this symbol */                                                                 \
	X(stream_write_value32, cuStreamWriteValue32_v2,                                           \
	  (struct kvx_cu_stream * stream, kvx_cu_ptr address, uint32_t value, unsigned int flags)) \
	X(stream_wait_value32, cuStreamWaitValue32_v2,                                             \
	  (struct kvx_cu_stream * stream, kvx_cu_ptr address, uint32_t value, unsigned int flags)) \
	/* 12.0 */                                                                                 \
	X(get_proc_address, cuGetProcAddress_v2,                                                   \
	  (const char *symbol, void **function, int version, uint64_t flags,                       \
	   enum kvx_cu_symbol_status *status))

/* X(member, symbol, version, arguments): these had other arguments in another version, so that only
 * cuGetProcAddress() with that version finds what is meant. All are optional. */
#define KVX_CU_VERSIONED_FUNCTIONS(X)                                             \
	X(mem_copy_batch_async, cuMemcpyBatchAsync, 12080,                        \
	  (kvx_cu_ptr * to, kvx_cu_ptr * from, size_t * bytes, size_t count,      \
	   struct kvx_cu_copy_attributes * attributes, size_t * attribute_firsts, \
	   size_t attribute_count, size_t * failed, struct kvx_cu_stream * stream))

/* X(member, symbol, arguments): what tests use besides; the library does not load these. */
#define KVX_CU_TEST_FUNCTIONS(X)                                                                  \
	X(mem_set_async, cuMemsetD8Async,                                                         \
	  (kvx_cu_ptr address, unsigned char value, size_t bytes, struct kvx_cu_stream *stream))  \
	X(event_elapsed_time, cuEventElapsedTime,                                                 \
	  (float *ms, struct kvx_cu_event *start, struct kvx_cu_event *end))                      \
	X(stream_begin_capture, cuStreamBeginCapture_v2,                                          \
	  (struct kvx_cu_stream * stream, enum kvx_cu_capture_mode mode))                         \
	X(stream_end_capture, cuStreamEndCapture,                                                 \
	  (struct kvx_cu_stream * stream, struct kvx_cu_graph * *graph))                          \
	X(graph_instantiate, cuGraphInstantiateWithFlags,                                         \
	  (struct kvx_cu_graph_exec * *exec, struct kvx_cu_graph * graph,                         \
	   unsigned long long flags))                                                             \
	X(graph_launch, cuGraphLaunch,                                                            \
	  (struct kvx_cu_graph_exec * exec, struct kvx_cu_stream * stream))                       \
	X(graph_exec_destroy, cuGraphExecDestroy, (struct kvx_cu_graph_exec * exec))              \
	X(graph_destroy, cuGraphDestroy, (struct kvx_cu_graph * graph))                           \
	X(mem_create, cuMemCreate,                                                                \
	  (kvx_cu_memory * memory, size_t bytes, const struct kvx_cu_allocation *allocation,      \
	   unsigned long long flags))                                                             \
	X(mem_release, cuMemRelease, (kvx_cu_memory memory))                                      \
	X(mem_address_reserve, cuMemAddressReserve,                                               \
	  (kvx_cu_ptr * address, size_t bytes, size_t alignment, kvx_cu_ptr wish,                 \
	   unsigned long long flags))                                                             \
	X(mem_address_free, cuMemAddressFree, (kvx_cu_ptr address, size_t bytes))                 \
	X(mem_map, cuMemMap,                                                                      \
	  (kvx_cu_ptr address, size_t bytes, size_t offset, kvx_cu_memory memory,                 \
	   unsigned long long flags))                                                             \
	X(mem_unmap, cuMemUnmap, (kvx_cu_ptr address, size_t bytes))                              \
	X(mem_set_access, cuMemSetAccess,                                                         \
	  (kvx_cu_ptr address, size_t bytes, const struct kvx_cu_access *accesses, size_t count)) \
	X(mem_get_allocation_granularity, cuMemGetAllocationGranularity,                          \
	  (size_t * bytes, const struct kvx_cu_allocation *allocation,                            \
	   enum kvx_cu_granularity option))                                                       \
	X(mem_alloc_async, cuMemAllocAsync,                                                       \
	  (kvx_cu_ptr * address, size_t bytes, struct kvx_cu_stream * stream))                    \
	X(mem_free_async, cuMemFreeAsync, (kvx_cu_ptr address, struct kvx_cu_stream * stream))

#endif
