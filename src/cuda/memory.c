/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of NVIDIA's GPUs as a kind (memory/kind.h). */
#include "base/error.h"
#include "cuda/copier.h"
#include "cuda/driver.h"
#include "cuda/share.h"

#include <ctype.h>
#include <unistd.h>

static kvx_cu_ptr ptr(const void *address)
{
	return (kvx_cu_ptr)(uintptr_t)address;
}

/* --- whose memory --- */

/* Managed memory and pinned memory of the host are the CPU's too, and are the kind host. */
static bool is_device_memory(const struct kvx_cu *cu, kvx_cu_ptr address)
{
	uint32_t type = 0, managed = 0;

	return cu->pointer_get_attribute(&type, KVX_CU_POINTER_MEMORY_TYPE, address) ==
		       KVX_CU_SUCCESS &&
	       type == KVX_CU_MEMORY_DEVICE &&
	       (cu->pointer_get_attribute(&managed, KVX_CU_POINTER_IS_MANAGED, address) !=
			KVX_CU_SUCCESS ||
		!managed);
}

static bool cuda_owns(const void *address)
{
	const struct kvx_cu *cu = kvx_cuda_is_used() ? kvx_cuda() : NULL;

	return cu && is_device_memory(cu, ptr(address));
}

/* --- what there is of a range --- */

/* One allocation, or one mapping of several that stand side by side. */
struct piece {
	kvx_cu_ptr from, to;
};

static int fail_hole(const void *address, size_t bytes, kvx_cu_ptr at)
{
	return kvx_fail(KVX_E_INVALID,
			"region %p of %zu bytes: from byte %llu on it is not mapped memory of a "
			"GPU; map all of it first (cuMemMap), and keep it until the region is "
			"closed",
			address, bytes, (unsigned long long)(at - ptr(address)));
}

/* Only mappings that the caller made himself (cuMemMap) have rights of their own. */
static bool is_accessible(const struct kvx_cu *cu, uint32_t device, kvx_cu_ptr at)
{
	struct kvx_cu_location location = {KVX_CU_LOCATION_DEVICE, (int)device};
	unsigned long long flags = KVX_CU_ACCESS_READ_WRITE;

	return !cu->mem_get_access || cu->mem_get_access(&flags, &location, at) != KVX_CU_SUCCESS ||
	       flags == KVX_CU_ACCESS_READ_WRITE;
}

static int piece_check(const struct kvx_cu *cu, const void *address, size_t bytes, uint32_t device,
		       kvx_cu_ptr at)
{
	const struct kvx_cuda_device *known;
	struct kvx_cu_context *context = NULL;
	uint32_t mapped = 1;
	int number = 0;

	if (!is_device_memory(cu, at) ||
	    (cu->pointer_get_attribute(&mapped, KVX_CU_POINTER_MAPPED, at) == KVX_CU_SUCCESS &&
	     !mapped))
		return fail_hole(address, bytes, at);
	if (cu->pointer_get_attribute(&number, KVX_CU_POINTER_DEVICE_ORDINAL, at) ==
		    KVX_CU_SUCCESS &&
	    (uint32_t)number != device)
		return kvx_fail(KVX_E_INVALID,
				"region %p of %zu bytes: it begins on cuda:%u, and from byte %llu "
				"on it is on cuda:%d; give each device's part as a region",
				address, bytes, device, (unsigned long long)(at - ptr(address)),
				number);
	if (!is_accessible(cu, device, at))
		return kvx_fail(KVX_E_INVALID,
				"region %p of %zu bytes: from byte %llu on cuda:%u may not read "
				"and write it; call cuMemSetAccess() first",
				address, bytes, (unsigned long long)(at - ptr(address)), device);

	int error = kvx_cuda_device(device, &known);
	if (error)
		return error;
	if (cu->pointer_get_attribute(&context, KVX_CU_POINTER_CONTEXT, at) == KVX_CU_SUCCESS &&
	    context && context != known->context)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"region %p of %zu bytes: it was allocated in a context of the "
				"caller's own (cuCtxCreate); allocate it in the primary context of "
				"cuda:%u, which the CUDA runtime uses",
				address, bytes, device);
	return 0;
}

/* In the device's context. */
static int range_check(const struct kvx_cu *cu, const void *address, size_t bytes, uint32_t device)
{
	kvx_cu_ptr at = ptr(address), end = at + bytes;

	while (at < end) {
		kvx_cu_ptr base = 0;
		size_t size = 0;
		int error = piece_check(cu, address, bytes, device, at);

		if (error)
			return error;
		/* The first byte behind the piece: every round comes nearer to the end. */
		if (cu->mem_get_address_range(&base, &size, at) != KVX_CU_SUCCESS ||
		    base + size <= at)
			return fail_hole(address, bytes, at);
		at = base + size;
	}
	return 0;
}

static int cuda_check(const void *address, size_t bytes, uint32_t *device)
{
	const struct kvx_cuda_device *known;
	const struct kvx_cu *cu = kvx_cuda();
	int number = 0;

	if (!cu)
		return kvx_fail(KVX_E_UNSUPPORTED, "region %p of %zu bytes: %s", address, bytes,
				kvx_cuda_why());
	enum kvx_cu_result result =
		cu->pointer_get_attribute(&number, KVX_CU_POINTER_DEVICE_ORDINAL, ptr(address));
	if (result != KVX_CU_SUCCESS)
		return kvx_cuda_fail(KVX_E_INVALID, result,
				     "region %p of %zu bytes: the driver does not know whose it is",
				     address, bytes);
	int error = kvx_cuda_device((uint32_t)number, &known);
	if (error)
		return error;
	if (!known->unified)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"cuda:%d: its addresses are not unique in the process; use a "
				"device with unified addressing",
				number);
	error = kvx_cuda_enter((uint32_t)number);
	if (error)
		return error;
	error = range_check(cu, address, bytes, (uint32_t)number);
	kvx_cuda_leave();
	if (!error)
		*device = (uint32_t)number;
	return error;
}

static int cuda_count(uint32_t *count)
{
	*count = kvx_cuda_device_count();
	return *count ? 0 : kvx_fail(KVX_E_UNSUPPORTED, "%s", kvx_cuda_why());
}

static int cuda_describe(uint32_t device, char pci[KVX_PCI_TEXT_BYTES], char *model, size_t size)
{
	const struct kvx_cuda_device *known;
	int error = kvx_cuda_device(device, &known);

	if (error)
		return error;
	const struct kvx_cu *cu = kvx_cuda();
	enum kvx_cu_result result =
		cu->device_get_pci_bus_id(pci, (int)KVX_PCI_TEXT_BYTES, known->handle);
	if (result == KVX_CU_SUCCESS)
		result = cu->device_get_name(model, (int)size, known->handle);
	if (result != KVX_CU_SUCCESS)
		return kvx_cuda_fail(KVX_E_TRANSPORT, result,
				     "cuda:%u: cannot be asked for its name", device);
	/* As the kernel writes it. */
	for (char *at = pci; *at; at++)
		*at = (char)tolower((unsigned char)*at);
	return 0;
}

/* --- memory of the library's own --- */

static int cuda_alloc(uint32_t device, size_t bytes, void **address)
{
	kvx_cu_ptr made = 0;
	int error = kvx_cuda_enter(device);

	if (error)
		return error;
	enum kvx_cu_result result = kvx_cuda()->mem_alloc(&made, bytes);
	kvx_cuda_leave();
	if (result != KVX_CU_SUCCESS)
		return kvx_cuda_fail(KVX_E_MEMORY, result, "cuda:%u: cannot allocate %zu bytes",
				     device, bytes);
	*address = (void *)(uintptr_t)made;
	return 0;
}

static void cuda_free(uint32_t device, void *address)
{
	if (kvx_cuda_enter(device) == 0) {
		kvx_cuda()->mem_free(ptr(address));
		kvx_cuda_leave();
	}
}

/* --- for RDMA --- */

/* Why a driver that exports memory does not export this. */
static int fail_export(const struct kvx_cu *cu, const void *address, size_t bytes,
		       enum kvx_cu_result result)
{
	uint32_t capable = 1;
	void *pool = NULL;

	if (cu->pointer_get_attribute(&pool, KVX_CU_POINTER_MEMPOOL, ptr(address)) ==
		    KVX_CU_SUCCESS &&
	    pool)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"region %p of %zu bytes: memory of a pool (cudaMallocAsync) has no "
				"dma-buf; allocate it with cudaMalloc()",
				address, bytes);
	if (cu->pointer_get_attribute(&capable, KVX_CU_POINTER_IS_GPU_DIRECT_CAPABLE,
				      ptr(address)) == KVX_CU_SUCCESS &&
	    !capable)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"region %p of %zu bytes: it was not made for GPUDirect RDMA; set "
				"allocFlags.gpuDirectRDMACapable for cuMemCreate(), or allocate it "
				"with cudaMalloc()",
				address, bytes);
	return kvx_cuda_fail(KVX_E_UNSUPPORTED, result,
			     "region %p of %zu bytes: the driver gives no dma-buf for it", address,
			     bytes);
}

/* In the device's context. A driver knows pages alone, so the descriptor may begin before. */
static int export_entered(const struct kvx_cu *cu, const void *address, size_t bytes, int *fd,
			  uint64_t *offset)
{
	static const unsigned long long flags[] = {KVX_CU_RANGE_DMA_BUF_PCIE, 0};
	kvx_cu_ptr page = (kvx_cu_ptr)sysconf(_SC_PAGESIZE);
	kvx_cu_ptr first = ptr(address) & ~(page - 1);
	kvx_cu_ptr end = (ptr(address) + bytes + page - 1) & ~(page - 1);
	enum kvx_cu_result result = KVX_CU_ERROR_NOT_SUPPORTED;
	int made = -1;

	/* Through the PCI BAR, where a NIC looks for it; drivers and devices with a single way to
	 * the memory refuse to be told which. */
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		result = cu->mem_get_handle_for_address_range(
			&made, first, end - first, KVX_CU_RANGE_HANDLE_DMA_BUF_FD, flags[i]);
		if (result == KVX_CU_SUCCESS) {
			*fd = made;
			*offset = ptr(address) - first;
			return 0;
		}
	}
	return fail_export(cu, address, bytes, result);
}

static int cuda_export_dmabuf(const void *address, size_t bytes, int *fd, uint64_t *offset)
{
	const struct kvx_cuda_device *known;
	uint32_t device;
	int error = cuda_check(address, bytes, &device);

	if (!error)
		error = kvx_cuda_device(device, &known);
	if (error)
		return error;
	if (!known->exports_dmabuf)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"cuda:%u: its driver gives no dma-buf; that needs the open kernel "
				"modules of version 515 or later, and Linux 5.12",
				device);
	error = kvx_cuda_enter(device);
	if (error)
		return error;
	error = export_entered(kvx_cuda(), address, bytes, fd, offset);
	kvx_cuda_leave();
	return error;
}

/* Of itself a device may show its memory's reader what was written first. */
static bool is_ordered(const struct kvx_cuda_device *device)
{
	return device->writes_ordering >= KVX_CU_WRITES_ORDERING_OWNER;
}

static int cuda_needs_flush(uint32_t device, bool *needed)
{
	const struct kvx_cuda_device *known;
	int error = kvx_cuda_device(device, &known);

	if (!error)
		*needed = !is_ordered(known);
	return error;
}

static int cuda_flush(uint32_t device)
{
	const struct kvx_cuda_device *known;
	int error = kvx_cuda_device(device, &known);

	if (error)
		return error;
	if (is_ordered(known))
		return 0;

	const struct kvx_cu *cu = kvx_cuda();
	if (!(known->flush_options & KVX_CU_FLUSH_OPTION_HOST) || !cu->flush_gpu_direct_rdma_writes)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"cuda:%u: what a NIC writes into its memory becomes visible in no "
				"certain order, and its driver cannot flush it; update the driver, "
				"or use a transport that copies (tcp, shm)",
				device);
	error = kvx_cuda_enter(device);
	if (error)
		return error;
	enum kvx_cu_result result = cu->flush_gpu_direct_rdma_writes(
		KVX_CU_FLUSH_TARGET_CURRENT_CONTEXT, KVX_CU_FLUSH_TO_OWNER);
	kvx_cuda_leave();
	return result == KVX_CU_SUCCESS
		       ? 0
		       : kvx_cuda_fail(KVX_E_TRANSPORT, result,
				       "cuda:%u: cannot flush what was written to it", device);
}

/* --- copies that are waited for --- */

/* By the default stream, since it alone takes memory of the host that is not pinned. It returns
 * when such memory may be used again, which is before all of it has reached the device. */
static int cuda_transfer(uint32_t device, const struct kvx_copy *copies, uint32_t count)
{
	enum kvx_cu_result result = KVX_CU_SUCCESS;
	int error = kvx_cuda_enter(device);

	if (error)
		return error;
	const struct kvx_cu *cu = kvx_cuda();
	for (uint32_t i = 0; i < count && result == KVX_CU_SUCCESS; i++)
		result = cu->mem_copy(ptr(copies[i].to), ptr(copies[i].from), copies[i].bytes);
	if (result == KVX_CU_SUCCESS)
		result = cu->stream_synchronize(NULL);
	kvx_cuda_leave();
	return result == KVX_CU_SUCCESS
		       ? 0
		       : kvx_cuda_fail(KVX_E_TRANSPORT, result,
				       "cuda:%u: cannot copy %u pieces between it and the host",
				       device, count);
}

const struct kvx_memory_kind kvx_memory_cuda = {
	.name = "cuda",
	.touchable = false,
	.owns = cuda_owns,
	.check = cuda_check,
	.count = cuda_count,
	.describe = cuda_describe,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.export_dmabuf = cuda_export_dmabuf,
	.transfer = cuda_transfer,
	.flush = cuda_flush,
	.needs_flush = cuda_needs_flush,
	.open = kvx_cuda_copier_open,
	.close = kvx_cuda_copier_close,
	.pin = kvx_cuda_copier_pin,
	.unpin = kvx_cuda_copier_unpin,
	.copy = kvx_cuda_copier_copy,
	.copied = kvx_cuda_copier_copied,
	.available = kvx_cuda_available,
	.share = kvx_cuda_share,
	.reach = kvx_cuda_reach,
	.leave = kvx_cuda_leave_shared,
};
