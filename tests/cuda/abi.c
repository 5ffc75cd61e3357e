/* SPDX-License-Identifier: Apache-2.0 */
/* What src/cuda/abi.h says of the driver's interface is what the toolkit's header says. */
#include "cuda/abi.h"

#include <criterion/criterion.h>
#include <cuda.h>
#include <cudaTypedefs.h>

/* --- values --- */

#define VALUES(X)                                                                                  \
	X(KVX_CU_SUCCESS, CUDA_SUCCESS)                                                            \
	X(KVX_CU_ERROR_INVALID_VALUE, CUDA_ERROR_INVALID_VALUE)                                    \
	X(KVX_CU_ERROR_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY)                                    \
	X(KVX_CU_ERROR_NOT_INITIALIZED, CUDA_ERROR_NOT_INITIALIZED)                                \
	X(KVX_CU_ERROR_DEINITIALIZED, CUDA_ERROR_DEINITIALIZED)                                    \
	X(KVX_CU_ERROR_STUB_LIBRARY, CUDA_ERROR_STUB_LIBRARY)                                      \
	X(KVX_CU_ERROR_NO_DEVICE, CUDA_ERROR_NO_DEVICE)                                            \
	X(KVX_CU_ERROR_INVALID_DEVICE, CUDA_ERROR_INVALID_DEVICE)                                  \
	X(KVX_CU_ERROR_INVALID_IMAGE, CUDA_ERROR_INVALID_IMAGE)                                    \
	X(KVX_CU_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_CONTEXT)                                \
	X(KVX_CU_ERROR_ALREADY_MAPPED, CUDA_ERROR_ALREADY_MAPPED)                                  \
	X(KVX_CU_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_NO_BINARY_FOR_GPU)                            \
	X(KVX_CU_ERROR_PEER_ACCESS_UNSUPPORTED, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED)                \
	X(KVX_CU_ERROR_INVALID_PTX, CUDA_ERROR_INVALID_PTX)                                        \
	X(KVX_CU_ERROR_UNSUPPORTED_PTX_VERSION, CUDA_ERROR_UNSUPPORTED_PTX_VERSION)                \
	X(KVX_CU_ERROR_OPERATING_SYSTEM, CUDA_ERROR_OPERATING_SYSTEM)                              \
	X(KVX_CU_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_HANDLE)                                  \
	X(KVX_CU_ERROR_NOT_FOUND, CUDA_ERROR_NOT_FOUND)                                            \
	X(KVX_CU_ERROR_NOT_READY, CUDA_ERROR_NOT_READY)                                            \
	X(KVX_CU_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_ILLEGAL_ADDRESS)                                \
	X(KVX_CU_ERROR_HOST_MEMORY_ALREADY_REGISTERED, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED)  \
	X(KVX_CU_ERROR_HOST_MEMORY_NOT_REGISTERED, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)          \
	X(KVX_CU_ERROR_LAUNCH_FAILED, CUDA_ERROR_LAUNCH_FAILED)                                    \
	X(KVX_CU_ERROR_NOT_PERMITTED, CUDA_ERROR_NOT_PERMITTED)                                    \
	X(KVX_CU_ERROR_NOT_SUPPORTED, CUDA_ERROR_NOT_SUPPORTED)                                    \
	X(KVX_CU_ERROR_SYSTEM_NOT_READY, CUDA_ERROR_SYSTEM_NOT_READY)                              \
	X(KVX_CU_ERROR_SYSTEM_DRIVER_MISMATCH, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)                  \
	X(KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)          \
	X(KVX_CU_ERROR_STREAM_CAPTURE_INVALIDATED, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)          \
	X(KVX_CU_ERROR_STREAM_CAPTURE_UNMATCHED, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)              \
	X(KVX_CU_ERROR_STREAM_CAPTURE_ISOLATION, CUDA_ERROR_STREAM_CAPTURE_ISOLATION)              \
	X(KVX_CU_ERROR_STREAM_CAPTURE_IMPLICIT, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)                \
	X(KVX_CU_ERROR_CAPTURED_EVENT, CUDA_ERROR_CAPTURED_EVENT)                                  \
	X(KVX_CU_ERROR_UNKNOWN, CUDA_ERROR_UNKNOWN)                                                \
	X(KVX_CU_DEVICE_MULTIPROCESSORS, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)                 \
	X(KVX_CU_DEVICE_INTEGRATED, CU_DEVICE_ATTRIBUTE_INTEGRATED)                                \
	X(KVX_CU_DEVICE_PCI_BUS, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)                                   \
	X(KVX_CU_DEVICE_PCI_DEVICE, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)                             \
	X(KVX_CU_DEVICE_ASYNC_ENGINES, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT)                     \
	X(KVX_CU_DEVICE_UNIFIED_ADDRESSING, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING)                \
	X(KVX_CU_DEVICE_PCI_DOMAIN, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)                             \
	X(KVX_CU_DEVICE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)            \
	X(KVX_CU_DEVICE_CAPABILITY_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)            \
	X(KVX_CU_DEVICE_HOST_POINTER_FOR_REGISTERED,                                               \
	  CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM)                             \
	X(KVX_CU_DEVICE_STREAM_MEM_OPS_V1, CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1)          \
	X(KVX_CU_DEVICE_FLUSH_REMOTE_WRITES, CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES)          \
	X(KVX_CU_DEVICE_HOST_REGISTER, CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED)                \
	X(KVX_CU_DEVICE_VIRTUAL_MEMORY, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)   \
	X(KVX_CU_DEVICE_GPU_DIRECT_RDMA_WITH_VMM,                                                  \
	  CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED)                             \
	X(KVX_CU_DEVICE_MEMORY_POOLS, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)                  \
	X(KVX_CU_DEVICE_GPU_DIRECT_RDMA, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED)            \
	X(KVX_CU_DEVICE_FLUSH_OPTIONS, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS)   \
	X(KVX_CU_DEVICE_WRITES_ORDERING, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING)      \
	X(KVX_CU_DEVICE_DMA_BUF, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED)                            \
	X(KVX_CU_FLUSH_OPTION_HOST, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST)                   \
	X(KVX_CU_FLUSH_OPTION_MEMOPS, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_MEMOPS)               \
	X(KVX_CU_WRITES_ORDERING_NONE, CU_GPU_DIRECT_RDMA_WRITES_ORDERING_NONE)                    \
	X(KVX_CU_WRITES_ORDERING_OWNER, CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER)                  \
	X(KVX_CU_WRITES_ORDERING_ALL_DEVICES, CU_GPU_DIRECT_RDMA_WRITES_ORDERING_ALL_DEVICES)      \
	X(KVX_CU_FLUSH_TARGET_CURRENT_CONTEXT, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX) \
	X(KVX_CU_FLUSH_TO_OWNER, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER)                         \
	X(KVX_CU_FLUSH_TO_ALL_DEVICES, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_ALL_DEVICES)             \
	X(KVX_CU_POINTER_CONTEXT, CU_POINTER_ATTRIBUTE_CONTEXT)                                    \
	X(KVX_CU_POINTER_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE)                            \
	X(KVX_CU_POINTER_DEVICE_POINTER, CU_POINTER_ATTRIBUTE_DEVICE_POINTER)                      \
	X(KVX_CU_POINTER_HOST_POINTER, CU_POINTER_ATTRIBUTE_HOST_POINTER)                          \
	X(KVX_CU_POINTER_SYNC_MEMOPS, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS)                            \
	X(KVX_CU_POINTER_BUFFER_ID, CU_POINTER_ATTRIBUTE_BUFFER_ID)                                \
	X(KVX_CU_POINTER_IS_MANAGED, CU_POINTER_ATTRIBUTE_IS_MANAGED)                              \
	X(KVX_CU_POINTER_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)                      \
	X(KVX_CU_POINTER_IS_IPC_CAPABLE, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE)          \
	X(KVX_CU_POINTER_RANGE_START, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR)                       \
	X(KVX_CU_POINTER_RANGE_SIZE, CU_POINTER_ATTRIBUTE_RANGE_SIZE)                              \
	X(KVX_CU_POINTER_MAPPED, CU_POINTER_ATTRIBUTE_MAPPED)                                      \
	X(KVX_CU_POINTER_IS_GPU_DIRECT_CAPABLE, CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE)   \
	X(KVX_CU_POINTER_MEMPOOL, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE)                             \
	X(KVX_CU_MEMORY_HOST, CU_MEMORYTYPE_HOST)                                                  \
	X(KVX_CU_MEMORY_DEVICE, CU_MEMORYTYPE_DEVICE)                                              \
	X(KVX_CU_MEMORY_UNIFIED, CU_MEMORYTYPE_UNIFIED)                                            \
	X(KVX_CU_HOST_ALLOC_PORTABLE, CU_MEMHOSTALLOC_PORTABLE)                                    \
	X(KVX_CU_HOST_ALLOC_DEVICEMAP, CU_MEMHOSTALLOC_DEVICEMAP)                                  \
	X(KVX_CU_HOST_REGISTER_PORTABLE, CU_MEMHOSTREGISTER_PORTABLE)                              \
	X(KVX_CU_HOST_REGISTER_DEVICEMAP, CU_MEMHOSTREGISTER_DEVICEMAP)                            \
	X(KVX_CU_STREAM_DEFAULT, CU_STREAM_DEFAULT)                                                \
	X(KVX_CU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING)                                      \
	X(KVX_CU_EVENT_DEFAULT, CU_EVENT_DEFAULT)                                                  \
	X(KVX_CU_EVENT_BLOCKING_SYNC, CU_EVENT_BLOCKING_SYNC)                                      \
	X(KVX_CU_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING)                                    \
	X(KVX_CU_WRITE_VALUE_DEFAULT, CU_STREAM_WRITE_VALUE_DEFAULT)                               \
	X(KVX_CU_WRITE_VALUE_NO_MEMORY_BARRIER, CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER)           \
	X(KVX_CU_WAIT_VALUE_GEQ, CU_STREAM_WAIT_VALUE_GEQ)                                         \
	X(KVX_CU_WAIT_VALUE_EQ, CU_STREAM_WAIT_VALUE_EQ)                                           \
	X(KVX_CU_WAIT_VALUE_AND, CU_STREAM_WAIT_VALUE_AND)                                         \
	X(KVX_CU_WAIT_VALUE_FLUSH, CU_STREAM_WAIT_VALUE_FLUSH)                                     \
	X(KVX_CU_CAPTURE_NONE, CU_STREAM_CAPTURE_STATUS_NONE)                                      \
	X(KVX_CU_CAPTURE_ACTIVE, CU_STREAM_CAPTURE_STATUS_ACTIVE)                                  \
	X(KVX_CU_CAPTURE_INVALIDATED, CU_STREAM_CAPTURE_STATUS_INVALIDATED)                        \
	X(KVX_CU_CAPTURE_GLOBAL, CU_STREAM_CAPTURE_MODE_GLOBAL)                                    \
	X(KVX_CU_CAPTURE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)                        \
	X(KVX_CU_CAPTURE_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED)                                  \
	X(KVX_CU_IPC_LAZY_PEER_ACCESS, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)                         \
	X(KVX_CU_RANGE_HANDLE_DMA_BUF_FD, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD)                     \
	X(KVX_CU_RANGE_DMA_BUF_PCIE, CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE)                  \
	X(KVX_CU_SYMBOL_DEFAULT, CU_GET_PROC_ADDRESS_DEFAULT)                                      \
	X(KVX_CU_SYMBOL_FOUND, CU_GET_PROC_ADDRESS_SUCCESS)                                        \
	X(KVX_CU_SYMBOL_NOT_FOUND, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND)                           \
	X(KVX_CU_SYMBOL_VERSION_NOT_SUFFICIENT, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT)        \
	X(KVX_CU_COPY_SOURCE_STREAM, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM)                            \
	X(KVX_CU_COPY_SOURCE_DURING_CALL, CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL)              \
	X(KVX_CU_COPY_SOURCE_ANY, CU_MEMCPY_SRC_ACCESS_ORDER_ANY)                                  \
	X(KVX_CU_COPY_DEFAULT, CU_MEMCPY_FLAG_DEFAULT)                                             \
	X(KVX_CU_COPY_OVERLAP_WITH_COMPUTE, CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE)            \
	X(KVX_CU_LOCATION_NONE, CU_MEM_LOCATION_TYPE_INVALID)                                      \
	X(KVX_CU_LOCATION_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE)                                     \
	X(KVX_CU_LOCATION_HOST, CU_MEM_LOCATION_TYPE_HOST)                                         \
	X(KVX_CU_ALLOCATION_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED)                                 \
	X(KVX_CU_HANDLE_NONE, CU_MEM_HANDLE_TYPE_NONE)                                             \
	X(KVX_CU_HANDLE_POSIX_FD, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)                        \
	X(KVX_CU_GRANULARITY_MINIMUM, CU_MEM_ALLOC_GRANULARITY_MINIMUM)                            \
	X(KVX_CU_GRANULARITY_RECOMMENDED, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)                    \
	X(KVX_CU_ACCESS_NONE, CU_MEM_ACCESS_FLAGS_PROT_NONE)                                       \
	X(KVX_CU_ACCESS_READ, CU_MEM_ACCESS_FLAGS_PROT_READ)                                       \
	X(KVX_CU_ACCESS_READ_WRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE)                            \
	X(KVX_CU_IPC_HANDLE_BYTES, CU_IPC_HANDLE_SIZE)

static const struct {
	const char *name;
	long long own, toolkit;
} values[] = {
#define X(own, toolkit) {#own, (own), (toolkit)},
	VALUES(X)
#undef X
};

Test(cuda_abi, values_are_the_toolkits)
{
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		cr_expect_eq(values[i].own, values[i].toolkit, "%s is %lld, not %lld",
			     values[i].name, values[i].toolkit, values[i].own);
}

/* --- structs --- */

/* The sizes of two types, or the places of two members. */
#define MEMBERS(X)                                                                               \
	X(kvx_cu_copy_attributes, source_order, CUmemcpyAttributes, srcAccessOrder)              \
	X(kvx_cu_copy_attributes, from_hint, CUmemcpyAttributes, srcLocHint)                     \
	X(kvx_cu_copy_attributes, to_hint, CUmemcpyAttributes, dstLocHint)                       \
	X(kvx_cu_copy_attributes, flags, CUmemcpyAttributes, flags)                              \
	X(kvx_cu_location, type, CUmemLocation, type)                                            \
	X(kvx_cu_location, id, CUmemLocation, id)                                                \
	X(kvx_cu_access, location, CUmemAccessDesc, location)                                    \
	X(kvx_cu_access, flags, CUmemAccessDesc, flags)                                          \
	X(kvx_cu_allocation, type, CUmemAllocationProp, type)                                    \
	X(kvx_cu_allocation, handle_types, CUmemAllocationProp, requestedHandleTypes)            \
	X(kvx_cu_allocation, location, CUmemAllocationProp, location)                            \
	X(kvx_cu_allocation, win32_attributes, CUmemAllocationProp, win32HandleMetaData)         \
	X(kvx_cu_allocation, flags, CUmemAllocationProp, allocFlags)                             \
	X(kvx_cu_allocation, flags.compression, CUmemAllocationProp, allocFlags.compressionType) \
	X(kvx_cu_allocation, flags.gpu_direct_capable, CUmemAllocationProp,                      \
	  allocFlags.gpuDirectRDMACapable)                                                       \
	X(kvx_cu_allocation, flags.usage, CUmemAllocationProp, allocFlags.usage)

Test(cuda_abi, members_lie_where_the_toolkits_do)
{
#define X(own, member, toolkit, other)                                                          \
	cr_expect_eq(offsetof(struct own, member), offsetof(toolkit, other), #own "." #member); \
	cr_expect_eq(sizeof(((struct own *)NULL)->member), sizeof(((toolkit *)NULL)->other),    \
		     "the size of " #own "." #member);
	MEMBERS(X)
#undef X
}

Test(cuda_abi, types_have_the_toolkits_sizes)
{
	cr_expect_eq(sizeof(kvx_cu_ptr), sizeof(CUdeviceptr));
	cr_expect_eq(sizeof(kvx_cu_device), sizeof(CUdevice));
	cr_expect_eq(sizeof(kvx_cu_memory), sizeof(CUmemGenericAllocationHandle));
	cr_expect_eq(sizeof(uint32_t), sizeof(cuuint32_t));
	cr_expect_eq(sizeof(uint64_t), sizeof(cuuint64_t));
	cr_expect_eq(sizeof(enum kvx_cu_result), sizeof(CUresult));
	cr_expect_eq(sizeof(enum kvx_cu_device_attribute), sizeof(CUdevice_attribute));
	cr_expect_eq(sizeof(enum kvx_cu_pointer_attribute), sizeof(CUpointer_attribute));
	cr_expect_eq(sizeof(enum kvx_cu_capture_status), sizeof(CUstreamCaptureStatus));
	cr_expect_eq(sizeof(enum kvx_cu_capture_mode), sizeof(CUstreamCaptureMode));
	cr_expect_eq(sizeof(enum kvx_cu_range_handle_type), sizeof(CUmemRangeHandleType));
	cr_expect_eq(sizeof(enum kvx_cu_symbol_status), sizeof(CUdriverProcAddressQueryResult));
	cr_expect_eq(sizeof(enum kvx_cu_granularity), sizeof(CUmemAllocationGranularity_flags));
	cr_expect_eq(sizeof(struct kvx_cu_ipc_handle), sizeof(CUipcMemHandle));
	cr_expect_eq(sizeof(struct kvx_cu_location), sizeof(CUmemLocation));
	cr_expect_eq(sizeof(struct kvx_cu_copy_attributes), sizeof(CUmemcpyAttributes));
	cr_expect_eq(sizeof(struct kvx_cu_allocation), sizeof(CUmemAllocationProp));
	cr_expect_eq(sizeof(struct kvx_cu_access), sizeof(CUmemAccessDesc));
}

/* --- functions --- */

/* The lists are text, so that with the toolkit's names in the place of its own each prototype of
 * them has to be the very type that the toolkit declares. */
#define kvx_cu_ptr CUdeviceptr
#define kvx_cu_device CUdevice
#define kvx_cu_memory CUmemGenericAllocationHandle
#define kvx_cu_context CUctx_st
#define kvx_cu_stream CUstream_st
#define kvx_cu_event CUevent_st
#define kvx_cu_module CUmod_st
#define kvx_cu_function CUfunc_st
#define kvx_cu_graph CUgraph_st
#define kvx_cu_graph_exec CUgraphExec_st
#define kvx_cu_result cudaError_enum
#define kvx_cu_device_attribute CUdevice_attribute_enum
#define kvx_cu_pointer_attribute CUpointer_attribute_enum
#define kvx_cu_capture_status CUstreamCaptureStatus_enum
#define kvx_cu_capture_mode CUstreamCaptureMode_enum
#define kvx_cu_range_handle_type CUmemRangeHandleType_enum
#define kvx_cu_flush_target CUflushGPUDirectRDMAWritesTarget_enum
#define kvx_cu_flush_scope CUflushGPUDirectRDMAWritesScope_enum
#define kvx_cu_symbol_status CUdriverProcAddressQueryResult_enum
#define kvx_cu_granularity CUmemAllocationGranularity_flags_enum
#define kvx_cu_ipc_handle CUipcMemHandle_st
#define kvx_cu_copy_attributes CUmemcpyAttributes_st
#define kvx_cu_allocation CUmemAllocationProp_st
#define kvx_cu_access CUmemAccessDesc_st

#define SAME(a, b) __builtin_types_compatible_p(a, b)

static const struct {
	const char *name;
	bool same;
} functions[] = {
#define X(member, symbol, arguments) \
	{#symbol, SAME(__typeof__(symbol), enum kvx_cu_result arguments)},
	KVX_CU_FUNCTIONS(X) KVX_CU_OPTIONAL_FUNCTIONS(X) KVX_CU_TEST_FUNCTIONS(X)
#undef X
#define X(member, symbol, version, arguments) \
	{#symbol, SAME(PFN_##symbol##_v##version, enum kvx_cu_result(*) arguments)},
		KVX_CU_VERSIONED_FUNCTIONS(X)
#undef X
};

Test(cuda_abi, functions_have_the_toolkits_types)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		cr_expect(functions[i].same, "%s has another type", functions[i].name);
}

/* The symbols of the lists are those that the toolkit's names stand for. */
#define TEXT(...) #__VA_ARGS__
#define SYMBOL(name) TEXT(name)

Test(cuda_abi, symbols_are_those_of_the_toolkits_names)
{
	static const char *const names[] = {
		SYMBOL(cuDevicePrimaryCtxRelease),
		SYMBOL(cuCtxPushCurrent),
		SYMBOL(cuCtxPopCurrent),
		SYMBOL(cuMemGetAddressRange),
		SYMBOL(cuMemAlloc),
		SYMBOL(cuMemFree),
		SYMBOL(cuMemHostGetDevicePointer),
		SYMBOL(cuMemHostRegister),
		SYMBOL(cuStreamDestroy),
		SYMBOL(cuEventDestroy),
		SYMBOL(cuIpcOpenMemHandle),
		SYMBOL(cuStreamWriteValue32),
		SYMBOL(cuStreamWaitValue32),
		SYMBOL(cuGetProcAddress),
		SYMBOL(cuStreamBeginCapture),
		SYMBOL(cuGraphInstantiate),
	};
#define X(member, symbol, arguments) #symbol,
	static const char *const listed[] = {KVX_CU_FUNCTIONS(X) KVX_CU_OPTIONAL_FUNCTIONS(X)
						     KVX_CU_TEST_FUNCTIONS(X)};
#undef X

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		bool found = false;
		for (size_t j = 0; j < sizeof(listed) / sizeof(listed[0]); j++)
			found |= strcmp(names[i], listed[j]) == 0;
		cr_expect(found, "no %s", names[i]);
	}
}
