/* SPDX-License-Identifier: Apache-2.0 */
/* Address space and physical memory apart, as growing segments of other allocators have them. */
#include "internal.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define GRANULARITY (UINT64_C(2) << 20)

static struct kvx_list memories = {&memories, &memories};

static struct fake_segment *segment_of(struct kvx_list *entry)
{
	return kvx_container_of(entry, struct fake_segment, entry);
}

static struct fake_memory *memory_of(struct kvx_list *entry)
{
	return kvx_container_of(entry, struct fake_memory, entry);
}

/* --- physical memory --- */

static bool is_placed(const struct fake_memory *memory, kvx_cu_memory handle)
{
	return (uintptr_t)memory == handle && !memory->released;
}

static struct fake_memory *find_memory(kvx_cu_memory handle)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &memories)
		if (is_placed(memory_of(entry), handle))
			return memory_of(entry);
	return NULL;
}

static void release_memory(struct fake_memory *memory)
{
	if (--memory->users)
		return;
	kvx_list_remove(&memory->entry);
	close(memory->fd);
	free(memory);
	fake_counters.live--;
}

static bool is_sound(const struct kvx_cu_allocation *allocation)
{
	return allocation && allocation->type == KVX_CU_ALLOCATION_PINNED &&
	       allocation->location.type == KVX_CU_LOCATION_DEVICE &&
	       fake_is_device(allocation->location.id);
}

EXPORT enum kvx_cu_result cuMemGetAllocationGranularity(size_t *bytes,
							const struct kvx_cu_allocation *allocation,
							enum kvx_cu_granularity option)
{
	(void)option;
	if (!is_sound(allocation))
		return KVX_CU_ERROR_INVALID_VALUE;
	*bytes = GRANULARITY;
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuMemCreate(kvx_cu_memory *memory, size_t bytes,
				      const struct kvx_cu_allocation *allocation,
				      unsigned long long flags)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_memory *own;

	if (result)
		return result;
	if (flags || !bytes || bytes % GRANULARITY || !is_sound(allocation))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	own = calloc(1, sizeof(*own));
	if (!own)
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	own->fd = fake_file_new("fake-cuda-virtual", bytes);
	if (own->fd < 0) {
		free(own);
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	}
	own->context = &fake_contexts[allocation->location.id];
	own->bytes = bytes;
	own->users = 1;
	own->gpu_direct = allocation->flags.gpu_direct_capable;
	kvx_list_append(&memories, &own->entry);
	fake_counters.live++;
	*memory = (uintptr_t)own;
	return fake_leave(KVX_CU_SUCCESS);
}

/* What is mapped stays. */
EXPORT enum kvx_cu_result cuMemRelease(kvx_cu_memory memory)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_memory *own;

	if (result)
		return result;
	own = find_memory(memory);
	if (!own)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	own->released = true;
	release_memory(own);
	return fake_leave(KVX_CU_SUCCESS);
}

void fake_memories_end(struct kvx_cu_context *context)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &memories)
		if (memory_of(entry)->context == context && !memory_of(entry)->released) {
			memory_of(entry)->released = true;
			release_memory(memory_of(entry));
		}
}

/* --- address space --- */

EXPORT enum kvx_cu_result cuMemAddressReserve(kvx_cu_ptr *address, size_t bytes, size_t alignment,
					      kvx_cu_ptr wish, unsigned long long flags)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	(void)wish; /* a hint */
	if (result)
		return result;
	if (flags || !bytes || bytes % GRANULARITY || (alignment & (alignment - 1)))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	range = fake_range_add(context, FAKE_RESERVED);
	if (!range)
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	result = fake_range_map(range, bytes, alignment > GRANULARITY ? alignment : GRANULARITY);
	if (result) {
		fake_range_remove(range);
		return fake_leave(result);
	}
	range->base = (uintptr_t)range->map;
	range->view = range->view_map;
	range->bytes = bytes;
	*address = range->base;
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuMemAddressFree(kvx_cu_ptr address, size_t bytes)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_range *range;

	if (result)
		return result;
	range = fake_range_at(address, FAKE_RESERVED);
	if (!range || range->bytes != bytes || !kvx_list_empty(&range->segments))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	fake_range_remove(range);
	return fake_leave(KVX_CU_SUCCESS);
}

/* --- one in the other --- */

struct fake_segment *fake_segment_find(struct fake_range *range, uint64_t address)
{
	uint64_t offset = address - range->base;
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &range->segments)
		if (offset - segment_of(entry)->offset < segment_of(entry)->bytes)
			return segment_of(entry);
	return NULL;
}

bool fake_segments_accessible(struct fake_range *range, uint64_t address, uint64_t bytes)
{
	uint64_t end = address + bytes;

	while (address < end) {
		struct fake_segment *segment = fake_segment_find(range, address);
		if (!segment || !segment->accessible)
			return false;
		address = range->base + segment->offset + segment->bytes;
	}
	return true;
}

static bool is_free(struct fake_range *range, uint64_t offset, uint64_t bytes)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &range->segments)
		if (segment_of(entry)->offset < offset + bytes &&
		    offset < segment_of(entry)->offset + segment_of(entry)->bytes)
			return false;
	return true;
}

static enum kvx_cu_result place(struct fake_range *range, uint64_t offset, uint64_t bytes,
				struct fake_memory *memory, uint64_t memory_offset)
{
	struct fake_segment *segment = calloc(1, sizeof(*segment));

	if (!segment)
		return KVX_CU_ERROR_OUT_OF_MEMORY;
	if (mmap(range->view + offset, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 memory->fd, (off_t)memory_offset) == MAP_FAILED) {
		free(segment);
		return KVX_CU_ERROR_OUT_OF_MEMORY;
	}
	segment->offset = offset;
	segment->bytes = bytes;
	segment->memory = memory;
	segment->memory_offset = memory_offset;
	memory->users++;
	kvx_list_append(&range->segments, &segment->entry);
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuMemMap(kvx_cu_ptr address, size_t bytes, size_t offset,
				   kvx_cu_memory memory, unsigned long long flags)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_memory *own;
	struct fake_range *range;

	if (result)
		return result;
	own = find_memory(memory);
	range = fake_range_find(address);
	/* Drivers take no other offset. */
	if (flags || offset || !own || !bytes || bytes % GRANULARITY || bytes > own->bytes ||
	    !range || range->kind != FAKE_RESERVED || (address - range->base) % GRANULARITY ||
	    bytes > range->bytes - (address - range->base))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	if (!is_free(range, address - range->base, bytes))
		return fake_leave(KVX_CU_ERROR_ALREADY_MAPPED);
	return fake_leave(place(range, address - range->base, bytes, own, offset));
}

static void unplace(struct fake_range *range, struct fake_segment *segment)
{
	kvx_list_remove(&segment->entry);
	while (range->users)
		fake_wait();
	mmap(range->view + segment->offset, segment->bytes, PROT_NONE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	release_memory(segment->memory);
	free(segment);
}

EXPORT enum kvx_cu_result cuMemUnmap(kvx_cu_ptr address, size_t bytes)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_segment *segment;
	struct fake_range *range;

	if (result)
		return result;
	for (kvx_cu_ptr end = address + bytes; address < end;) {
		range = fake_range_find(address);
		segment = range && range->kind == FAKE_RESERVED ? fake_segment_find(range, address)
								: NULL;
		if (!segment || range->base + segment->offset != address ||
		    segment->bytes > end - address)
			return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
		address += segment->bytes;
		unplace(range, segment);
	}
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuMemSetAccess(kvx_cu_ptr address, size_t bytes,
					 const struct kvx_cu_access *accesses, size_t count)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_segment *segment;
	struct fake_range *range;

	if (result)
		return result;
	range = fake_range_find(address);
	if (count != 1 || accesses->location.type != KVX_CU_LOCATION_DEVICE || !range ||
	    range->kind != FAKE_RESERVED || bytes > range->bytes - (address - range->base))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	for (kvx_cu_ptr end = address + bytes; address < end; address += segment->bytes) {
		segment = fake_segment_find(range, address);
		if (!segment || range->base + segment->offset != address)
			return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
		segment->accessible = accesses->flags == KVX_CU_ACCESS_READ_WRITE;
	}
	return fake_leave(KVX_CU_SUCCESS);
}

/* Only what is mapped so has rights of its own; they are not told apart by devices here. */
EXPORT enum kvx_cu_result cuMemGetAccess(unsigned long long *flags,
					 const struct kvx_cu_location *location, kvx_cu_ptr address)
{
	enum kvx_cu_result result = KVX_CU_ERROR_INVALID_VALUE;
	struct fake_segment *segment;
	struct fake_range *range;

	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	if (location->type != KVX_CU_LOCATION_DEVICE || !fake_is_device(location->id))
		return KVX_CU_ERROR_INVALID_VALUE;
	fake_lock();
	range = fake_range_find(address);
	segment = range && range->kind == FAKE_RESERVED ? fake_segment_find(range, address) : NULL;
	if (segment) {
		*flags = segment->accessible ? KVX_CU_ACCESS_READ_WRITE : KVX_CU_ACCESS_NONE;
		result = KVX_CU_SUCCESS;
	}
	return fake_leave(result);
}

void fake_segments_end(struct fake_range *range)
{
	while (!kvx_list_empty(&range->segments))
		unplace(range, segment_of(range->segments.next));
}
