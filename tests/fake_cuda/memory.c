/* SPDX-License-Identifier: Apache-2.0 */
/* Allocations of device and host memory, registrations, and what an address is. */
#include "internal.h"

#include <string.h>
#include <sys/mman.h>

/* Drivers put small allocations side by side. */
#define SMALL_BYTES (UINT64_C(1) << 20)
#define SMALL_OFFSET 512u
#define BLOCK_ALIGNMENT (UINT64_C(2) << 20)
#define PAGES_AT_ONCE 4096u

/* --- the device's --- */

static enum kvx_cu_result allocate(struct kvx_cu_context *context, enum fake_range_kind kind,
				   uint64_t bytes, kvx_cu_ptr *address)
{
	uint64_t offset = bytes < SMALL_BYTES ? SMALL_OFFSET : 0;
	struct fake_range *range = fake_range_add(context, kind);
	enum kvx_cu_result result = KVX_CU_ERROR_OUT_OF_MEMORY;

	if (!range)
		return result;
	range->fd = fake_file_new("fake-cuda", bytes + offset);
	if (range->fd >= 0)
		result = fake_range_map(range, bytes + offset, BLOCK_ALIGNMENT);
	if (result) {
		fake_range_remove(range);
		return result;
	}
	range->base = (uintptr_t)range->map + offset;
	range->view = range->view_map + offset;
	range->bytes = bytes;
	*address = range->base;
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuMemAlloc_v2(kvx_cu_ptr *address, size_t bytes)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);

	if (result)
		return result;
	if (!bytes)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	return fake_leave(allocate(context, FAKE_ALLOCATED, bytes, address));
}

EXPORT enum kvx_cu_result cuMemFree_v2(kvx_cu_ptr address)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	if (result)
		return result;
	range = fake_range_at(address, FAKE_ALLOCATED);
	if (!range)
		range = fake_range_at(address, FAKE_POOLED);
	if (!range)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	fake_range_remove(range);
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuMemAllocAsync(kvx_cu_ptr *address, size_t bytes,
					  struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	if (stream && stream->capture)
		result = KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	if (!result)
		result = bytes ? allocate(context, FAKE_POOLED, bytes, address)
			       : KVX_CU_ERROR_INVALID_VALUE;
	return fake_leave(result);
}

EXPORT enum kvx_cu_result cuMemFreeAsync(kvx_cu_ptr address, struct kvx_cu_stream *stream)
{
	struct fake_operation *operation;
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	if (stream && stream->capture)
		result = KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	else if (stream && !fake_range_at(address, FAKE_POOLED))
		result = KVX_CU_ERROR_INVALID_VALUE;
	if (result)
		return fake_leave(result);
	operation = fake_operation_new(FAKE_FREE, 0);
	if (operation)
		operation->address = address;
	return fake_leave(fake_stream_put(stream, operation));
}

/* --- the host's --- */

EXPORT enum kvx_cu_result cuMemHostAlloc(void **address, size_t bytes, unsigned int flags)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	(void)flags; /* with unified addressing all is portable and mapped */
	if (result)
		return result;
	if (!bytes)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	range = fake_range_add(context, FAKE_HOST);
	if (!range)
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	range->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (range->map == MAP_FAILED) {
		range->map = NULL;
		fake_range_remove(range);
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	}
	range->map_bytes = range->bytes = bytes;
	range->base = (uintptr_t)range->map;
	range->view = range->map;
	*address = range->map;
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuMemFreeHost(void *address)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	if (result)
		return result;
	range = fake_range_at((uintptr_t)address, FAKE_HOST);
	if (!range)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	fake_range_remove(range);
	return fake_leave(KVX_CU_SUCCESS);
}

/* What is pinned has to be there. */
static bool is_mapped(const void *address, size_t bytes)
{
	uintptr_t page = (uintptr_t)address & ~(uintptr_t)(PAGE_BYTES - 1);
	uintptr_t end = (uintptr_t)address + bytes;
	unsigned char resident[PAGES_AT_ONCE];

	for (; page < end; page += (uintptr_t)PAGES_AT_ONCE * PAGE_BYTES) {
		size_t some = end - page;
		if (some > (size_t)PAGES_AT_ONCE * PAGE_BYTES)
			some = (size_t)PAGES_AT_ONCE * PAGE_BYTES;
		if (mincore((void *)page, some, resident))
			return false;
	}
	return true;
}

EXPORT enum kvx_cu_result cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	(void)flags;
	if (result)
		return result;
	if (!address || !bytes || !is_mapped(address, bytes))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	if (fake_range_touches((uintptr_t)address, bytes)) {
		range = fake_range_find((uintptr_t)address);
		return fake_leave(!range || fake_range_is_host(range)
					  ? KVX_CU_ERROR_HOST_MEMORY_ALREADY_REGISTERED
					  : KVX_CU_ERROR_INVALID_VALUE);
	}
	range = fake_option(FAKE_pin) ? fake_range_add(context, FAKE_PINNED) : NULL;
	if (!range)
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	range->base = (uintptr_t)address;
	range->bytes = bytes;
	range->view = address;
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuMemHostUnregister(void *address)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	if (result)
		return result;
	range = fake_range_at((uintptr_t)address, FAKE_PINNED);
	if (!range)
		return fake_leave(KVX_CU_ERROR_HOST_MEMORY_NOT_REGISTERED);
	fake_range_remove(range);
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuMemHostGetDevicePointer_v2(kvx_cu_ptr *device, void *address,
						       unsigned int flags)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);
	struct fake_range *range;

	if (result)
		return result;
	range = fake_range_find((uintptr_t)address);
	if (flags || !range || !fake_range_is_host(range))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	*device = (uintptr_t)address;
	return fake_leave(KVX_CU_SUCCESS);
}

/* --- what an address is --- */

#define ANSWER(type, word) (*(type *)value = (type)(word), KVX_CU_SUCCESS)

/* Of reserved space without memory only where it is, and that it has none. */
static enum kvx_cu_result tell_of_space(struct fake_range *range, bool mapped, void *value,
					enum kvx_cu_pointer_attribute attribute)
{
	switch (attribute) {
	case KVX_CU_POINTER_RANGE_START:
		return ANSWER(kvx_cu_ptr, range->base);
	case KVX_CU_POINTER_RANGE_SIZE:
		return ANSWER(size_t, range->bytes);
	case KVX_CU_POINTER_MAPPED:
		return ANSWER(uint32_t, mapped);
	default:
		return KVX_CU_ERROR_INVALID_VALUE;
	}
}

static enum kvx_cu_result tell(struct fake_range *range, struct fake_segment *segment,
			       kvx_cu_ptr address, void *value,
			       enum kvx_cu_pointer_attribute attribute)
{
	bool host = fake_range_is_host(range);
	bool virtual = range->kind == FAKE_RESERVED;

	switch (attribute) {
	case KVX_CU_POINTER_CONTEXT:
		/* Such memory is the device's, and no context's. */
		return ANSWER(struct kvx_cu_context *,
			      virtual || range->kind == FAKE_POOLED ? NULL : range->context);
	case KVX_CU_POINTER_MEMORY_TYPE:
		return ANSWER(uint32_t, host ? KVX_CU_MEMORY_HOST : KVX_CU_MEMORY_DEVICE);
	case KVX_CU_POINTER_DEVICE_POINTER:
		return ANSWER(kvx_cu_ptr, address);
	case KVX_CU_POINTER_HOST_POINTER:
		return host ? ANSWER(void *, (uintptr_t)address) : KVX_CU_ERROR_INVALID_VALUE;
	case KVX_CU_POINTER_SYNC_MEMOPS:
	case KVX_CU_POINTER_IS_MANAGED:
		return ANSWER(uint32_t, 0);
	case KVX_CU_POINTER_BUFFER_ID:
		return ANSWER(uint64_t, range->id);
	case KVX_CU_POINTER_DEVICE_ORDINAL:
		return ANSWER(int, (virtual ? segment->memory->context : range->context)->device);
	case KVX_CU_POINTER_IS_IPC_CAPABLE:
		return ANSWER(uint32_t, range->kind == FAKE_ALLOCATED && fake_option(FAKE_ipc));
	case KVX_CU_POINTER_IS_GPU_DIRECT_CAPABLE:
		return ANSWER(uint32_t, virtual ? segment->memory->gpu_direct
						: range->kind == FAKE_ALLOCATED);
	case KVX_CU_POINTER_MEMPOOL:
		return ANSWER(void *, range->kind == FAKE_POOLED ? range->context : NULL);
	default:
		return tell_of_space(range, true, value, attribute);
	}
}

EXPORT enum kvx_cu_result
cuPointerGetAttribute(void *value, enum kvx_cu_pointer_attribute attribute, kvx_cu_ptr address)
{
	enum kvx_cu_result result = KVX_CU_ERROR_INVALID_VALUE;
	struct fake_segment *segment = NULL;
	struct fake_range *range;

	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	fake_lock();
	range = fake_range_find(address);
	if (range && range->kind == FAKE_RESERVED) {
		segment = fake_segment_find(range, address);
		result = segment ? tell(range, segment, address, value, attribute)
				 : tell_of_space(range, false, value, attribute);
	} else if (range) {
		result = tell(range, NULL, address, value, attribute);
	}
	return fake_leave(result);
}

/* How many bytes an answer takes, to fill in that there is none. */
static size_t answer_bytes(enum kvx_cu_pointer_attribute attribute)
{
	switch (attribute) {
	case KVX_CU_POINTER_MEMORY_TYPE:
	case KVX_CU_POINTER_SYNC_MEMOPS:
	case KVX_CU_POINTER_IS_MANAGED:
	case KVX_CU_POINTER_DEVICE_ORDINAL:
	case KVX_CU_POINTER_IS_IPC_CAPABLE:
	case KVX_CU_POINTER_MAPPED:
	case KVX_CU_POINTER_IS_GPU_DIRECT_CAPABLE:
		return sizeof(uint32_t);
	default:
		return sizeof(uint64_t);
	}
}

/* Unlike the function for one this succeeds for any address. */
EXPORT enum kvx_cu_result cuPointerGetAttributes(unsigned int count,
						 enum kvx_cu_pointer_attribute *attributes,
						 void **values, kvx_cu_ptr address)
{
	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	for (unsigned int i = 0; i < count; i++) {
		if (!cuPointerGetAttribute(values[i], attributes[i], address))
			continue;
		memset(values[i], 0, answer_bytes(attributes[i]));
		if (attributes[i] == KVX_CU_POINTER_DEVICE_ORDINAL)
			*(int *)values[i] = -2; /* as the driver says of a device that is none */
	}
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuMemGetAddressRange_v2(kvx_cu_ptr *base, size_t *bytes,
						  kvx_cu_ptr address)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);
	struct fake_segment *segment;
	struct fake_range *range;
	uint64_t begin, size;

	if (result)
		return result;
	range = fake_range_find(address);
	if (!range)
		return fake_leave(KVX_CU_ERROR_NOT_FOUND);
	begin = range->base;
	size = range->bytes;
	if (range->kind == FAKE_RESERVED) {
		segment = fake_segment_find(range, address);
		if (!segment)
			return fake_leave(KVX_CU_ERROR_NOT_FOUND);
		begin += segment->offset;
		size = segment->bytes;
	}
	if (base)
		*base = begin;
	if (bytes)
		*bytes = size;
	return fake_leave(KVX_CU_SUCCESS);
}
