/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/share.h"

#include "base/error.h"
#include "cuda/driver.h"

#include <assert.h>
#include <dlfcn.h>
#include <string.h>

static_assert(sizeof(struct kvx_cu_ipc_handle) == KVX_HANDLE_BYTES, "a handle is the driver's");

static kvx_cu_ptr ptr(const void *address)
{
	return (kvx_cu_ptr)(uintptr_t)address;
}

int kvx_cuda_available(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);

	if (!library)
		return kvx_fail(KVX_E_UNSUPPORTED, "no CUDA driver: %s", dlerror());
	dlclose(library);
	return 0;
}

/* --- the side that has the memory --- */

/* Why a driver gives no handle for this. */
static int fail_share(const struct kvx_cu *cu, const void *address, size_t bytes,
		      enum kvx_cu_result result)
{
	uint32_t capable = 1;
	void *pool = NULL;

	if (cu->pointer_get_attribute(&pool, KVX_CU_POINTER_MEMPOOL, ptr(address)) ==
		    KVX_CU_SUCCESS &&
	    pool)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"region %p of %zu bytes: memory of a pool (cudaMallocAsync) cannot "
				"be opened by other processes; allocate it with cudaMalloc()",
				address, bytes);
	if (cu->pointer_get_attribute(&capable, KVX_CU_POINTER_IS_IPC_CAPABLE, ptr(address)) ==
		    KVX_CU_SUCCESS &&
	    !capable)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"region %p of %zu bytes: the driver lets no other process open "
				"it, as all memory that was mapped (cuMemMap, which PyTorch's "
				"expandable segments use); allocate it with cudaMalloc()",
				address, bytes);
	return kvx_cuda_fail(KVX_E_UNSUPPORTED, result,
			     "region %p of %zu bytes: the driver gives no handle by which other "
			     "processes could open it",
			     address, bytes);
}

/* In the device's context. */
static int share_entered(const struct kvx_cu *cu, const void *address, size_t bytes,
			 uint8_t handle[KVX_HANDLE_BYTES], uint64_t *offset)
{
	struct kvx_cu_ipc_handle made;
	kvx_cu_ptr base = 0;
	size_t size = 0;
	enum kvx_cu_result result = cu->mem_get_address_range(&base, &size, ptr(address));

	if (result == KVX_CU_SUCCESS)
		result = cu->ipc_get_mem_handle(&made, ptr(address));
	if (result != KVX_CU_SUCCESS)
		return fail_share(cu, address, bytes, result);
	if (ptr(address) - base > size || bytes > size - (ptr(address) - base))
		return kvx_fail(KVX_E_UNSUPPORTED,
				"region %p of %zu bytes: it goes on past its allocation's end, and "
				"other processes can only open one; register each as a region",
				address, bytes);
	memcpy(handle, &made, KVX_HANDLE_BYTES);
	*offset = ptr(address) - base;
	return 0;
}

int kvx_cuda_share(const void *address, size_t bytes, uint8_t handle[KVX_HANDLE_BYTES],
		   uint64_t *offset)
{
	uint32_t device;
	int error = kvx_memory_cuda.check(address, bytes, &device);

	if (!error)
		error = kvx_cuda_enter(device);
	if (error)
		return error;
	error = share_entered(kvx_cuda(), address, bytes, handle, offset);
	kvx_cuda_leave();
	return error;
}

/* --- the side that reads it --- */

/* In the device's context. Copies from beyond the allocation's end would end the context. */
static int reach_entered(const struct kvx_cu *cu, uint32_t device,
			 const uint8_t handle[KVX_HANDLE_BYTES], uint64_t bytes, kvx_cu_ptr *opened)
{
	struct kvx_cu_ipc_handle given;
	kvx_cu_ptr base = 0;
	size_t size = 0;

	memcpy(&given, handle, KVX_HANDLE_BYTES);
	enum kvx_cu_result result =
		cu->ipc_open_mem_handle(opened, given, KVX_CU_IPC_LAZY_PEER_ACCESS);
	if (result != KVX_CU_SUCCESS)
		return kvx_cuda_fail(KVX_E_TRANSPORT, result,
				     "cuda:%u: cannot open GPU memory of another process", device);
	result = cu->mem_get_address_range(&base, &size, *opened);
	if (result == KVX_CU_SUCCESS && *opened - base <= size && bytes <= size - (*opened - base))
		return 0;
	cu->ipc_close_mem_handle(*opened);
	if (result != KVX_CU_SUCCESS)
		return kvx_cuda_fail(KVX_E_TRANSPORT, result,
				     "cuda:%u: cannot tell how much GPU memory of another process "
				     "was opened",
				     device);
	return kvx_fail(
		KVX_E_TRANSPORT,
		"cuda:%u: GPU memory of another process has %zu bytes, not the %llu that it "
		"tells of",
		device, size, (unsigned long long)bytes);
}

int kvx_cuda_reach(uint32_t device, const uint8_t handle[KVX_HANDLE_BYTES], uint64_t bytes,
		   char **base)
{
	kvx_cu_ptr opened = 0;
	int error = kvx_cuda_enter(device);

	if (error)
		return error;
	error = reach_entered(kvx_cuda(), device, handle, bytes, &opened);
	kvx_cuda_leave();
	if (!error)
		*base = (char *)(uintptr_t)opened; /* NOLINT(performance-no-int-to-ptr) */
	return error;
}

void kvx_cuda_leave_shared(uint32_t device, char *base)
{
	if (kvx_cuda_enter(device) == 0) {
		kvx_cuda()->ipc_close_mem_handle(ptr(base));
		kvx_cuda_leave();
	}
}
