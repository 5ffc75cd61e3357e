/* SPDX-License-Identifier: Apache-2.0 */
#include "core/region.h"

#include "base/error.h"
#include "memory/kind.h"
#include "memory/memory.h"

#include <stdlib.h>

/* The worker: transports drop what they know of the memory. */
static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct kvx_region *region = kvx_container_of(submission, struct kvx_region, submission);
	struct kvx_engine *engine = region->engine;

	(void)wanted;
	for (uint32_t i = 0; i < engine->transport_count; i++)
		engine->transports[i].ops->forget(engine->transports[i].instance, &region->memory);
	kvx_engine_acknowledge(engine, &region->forgotten);
}

static bool overlaps(const struct kvx_region *region, const char *address, uint64_t bytes)
{
	return address < region->memory.address + region->memory.bytes &&
	       region->memory.address < address + bytes;
}

/* Puts a region with its memory set into the engine's list. */
static int add(struct kvx_region *region)
{
	struct kvx_engine *engine = region->engine;
	struct kvx_list *entry, *next;
	int error = 0;

	region->submission.take = take;
	kvx_list_init(&region->entry);
	pthread_mutex_lock(&engine->lock);
	kvx_list_for_each (entry, next, &engine->regions) {
		struct kvx_region *other = kvx_container_of(entry, struct kvx_region, entry);
		if (overlaps(other, region->memory.address, region->memory.bytes))
			error = kvx_fail(
				KVX_E_INVALID,
				"region %p of %llu bytes: overlaps region %p of %llu bytes",
				(void *)region->memory.address,
				(unsigned long long)region->memory.bytes,
				(void *)other->memory.address,
				(unsigned long long)other->memory.bytes);
	}
	if (!error) {
		region->memory.index = engine->region_count++;
		kvx_list_append(&engine->regions, &region->entry);
	}
	pthread_mutex_unlock(&engine->lock);
	return error;
}

int kvx_region_register(struct kvx_engine *engine, void *address, size_t bytes,
			struct kvx_region **region)
{
	if (!engine || !address || !region || !bytes)
		return kvx_fail(KVX_E_INVALID, "region: needs an engine, an address and a size");
	if ((uintptr_t)address % KVX_ALIGN || (uintptr_t)address + bytes < bytes)
		return kvx_fail(KVX_E_INVALID,
				"region %p of %zu bytes: not aligned to %u bytes, or past "
				"the end of the address space",
				address, bytes, KVX_ALIGN);
	int error = kvx_memory_kind_of(address)->check(address, bytes);
	if (error)
		return error;
	struct kvx_region *made = calloc(1, sizeof(*made));
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "region: out of memory");
	made->engine = engine;
	made->memory = (struct kvx_memory){.address = address, .bytes = bytes, .fd = -1};
	error = add(made);
	if (error) {
		free(made);
		return error;
	}
	*region = made;
	return 0;
}

int kvx_region_alloc(struct kvx_engine *engine, size_t bytes, struct kvx_region **region)
{
	int error;

	if (!engine || !region || !bytes)
		return kvx_fail(KVX_E_INVALID, "region: needs an engine and a size");
	struct kvx_region *made = calloc(1, sizeof(*made));
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "region: out of memory");
	made->engine = engine;
	made->allocated = true;
	error = kvx_memory_alloc(&made->memory, bytes);
	if (error)
		goto fail_memory;
	error = add(made);
	if (error)
		goto fail_add;
	*region = made;
	return 0;

fail_add:
	kvx_memory_free(&made->memory);
fail_memory:
	free(made);
	return error;
}

void *kvx_region_address(const struct kvx_region *region)
{
	return region->memory.address;
}

size_t kvx_region_bytes(const struct kvx_region *region)
{
	return region->memory.bytes;
}

int kvx_region_close(struct kvx_region *region)
{
	if (!region)
		return 0;
	struct kvx_engine *engine = region->engine;
	pthread_mutex_lock(&engine->lock);
	uint32_t pools = region->pools;
	if (!pools)
		kvx_list_remove(&region->entry);
	pthread_mutex_unlock(&engine->lock);
	if (pools)
		return kvx_fail(KVX_E_BUSY,
				"region: %u tensors of pools lie over it; close the pools first",
				pools);
	kvx_engine_request(engine, &region->submission, 1, &region->forgotten);
	kvx_region_free(region);
	return 0;
}

void kvx_region_free(struct kvx_region *region)
{
	if (region->allocated)
		kvx_memory_free(&region->memory);
	free(region);
}
