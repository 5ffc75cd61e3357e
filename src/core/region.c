/* SPDX-License-Identifier: Apache-2.0 */
#include "core/region.h"

#include "base/error.h"
#include "memory/kind.h"
#include "memory/memory.h"
#include "topology/topology.h"

#include <stdio.h>
#include <stdlib.h>

#define WEIGHT_MAX 255

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

static void detach(struct kvx_region *region, uint32_t transports)
{
	struct kvx_engine *engine = region->engine;

	while (transports-- > 0)
		if (engine->transports[transports].ops->one_sided)
			engine->transports[transports].ops->detach(
				engine->transports[transports].instance, &region->memory);
}

/* Which ports are to be used for the memory, as far as that is known. */
static void find_near_ports(struct kvx_region *region)
{
	const struct kvx_topology *topology = region->engine->topology;
	struct kvx_topology_choice choices[KVX_NEAR_MAX];
	struct kvx_memory *memory = &region->memory;
	uint32_t place;

	if (!topology || memory->dmabuf >= 0 ||
	    kvx_topology_place_of_memory(topology, memory->address, memory->bytes, &place))
		return;
	int count = kvx_topology_choices(topology, place, choices, KVX_NEAR_MAX);
	for (int i = 0; i < count && memory->near_count < KVX_NEAR_MAX; i++) {
		struct kvx_near *near = &memory->near[memory->near_count++];
		snprintf(near->device, sizeof(near->device), "%s", choices[i].device);
		near->port = (uint8_t)choices[i].number;
		near->weight = choices[i].is_failover
				       ? 0
				       : (uint8_t)(1 + choices[i].weight * (WEIGHT_MAX - 1));
	}
}

/* Hardware that reads and writes memory by itself has to know it first. */
static int attach(struct kvx_region *region)
{
	struct kvx_engine *engine = region->engine;

	find_near_ports(region);
	for (uint32_t i = 0; i < engine->transport_count; i++) {
		const struct kvx_engine_transport *transport = &engine->transports[i];
		if (!transport->ops->one_sided)
			continue;
		int error = transport->ops->attach(transport->instance, &region->memory);
		if (error) {
			detach(region, i);
			return error;
		}
	}
	return 0;
}

static void remove_from_list(struct kvx_region *region)
{
	pthread_mutex_lock(&region->engine->lock);
	kvx_list_remove(&region->entry);
	pthread_mutex_unlock(&region->engine->lock);
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
	if (error)
		return error;
	error = attach(region);
	if (error)
		remove_from_list(region);
	return error;
}

static int check_range(const struct kvx_engine *engine, const void *address, size_t bytes,
		       struct kvx_region *const *region)
{
	if (!engine || !address || !region || !bytes)
		return kvx_fail(KVX_E_INVALID, "region: needs an engine, an address and a size");
	if ((uintptr_t)address % KVX_ALIGN || (uintptr_t)address + bytes < bytes)
		return kvx_fail(KVX_E_INVALID,
				"region %p of %zu bytes: not aligned to %u bytes, or past "
				"the end of the address space",
				address, bytes, KVX_ALIGN);
	return 0;
}

/* A region over memory of somebody else's. */
static int make_region(struct kvx_engine *engine, const struct kvx_memory *memory,
		       struct kvx_region **region)
{
	struct kvx_region *made = calloc(1, sizeof(*made));

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "region: out of memory");
	made->engine = engine;
	made->memory = *memory;
	int error = add(made);
	if (error) {
		free(made);
		return error;
	}
	*region = made;
	return 0;
}

int kvx_region_register(struct kvx_engine *engine, void *address, size_t bytes,
			struct kvx_region **region)
{
	struct kvx_memory memory = {.address = address, .bytes = bytes, .fd = -1, .dmabuf = -1};
	int error = check_range(engine, address, bytes, region);

	if (!error)
		error = kvx_memory_kind_of(address)->check(address, bytes);
	return error ? error : make_region(engine, &memory, region);
}

static bool has_one_sided_transport(const struct kvx_engine *engine)
{
	for (uint32_t i = 0; i < engine->transport_count; i++)
		if (engine->transports[i].ops->one_sided)
			return true;
	return false;
}

int kvx_region_register_dmabuf(struct kvx_engine *engine, int fd, uint64_t offset, void *address,
			       size_t bytes, struct kvx_region **region)
{
	int error = check_range(engine, address, bytes, region);

	if (error)
		return error;
	if (fd < 0)
		return kvx_fail(KVX_E_INVALID, "region: %d is not a descriptor", fd);
	if (!has_one_sided_transport(engine))
		return kvx_fail(KVX_E_UNSUPPORTED,
				"region: only verbs moves a dma-buf, and engine %s does not have "
				"it; see option transports, and whether there is an RDMA device",
				engine->name);
	struct kvx_memory memory = {.address = address,
				    .bytes = bytes,
				    .fd = -1,
				    .dmabuf = fd,
				    .dmabuf_offset = offset};
	return make_region(engine, &memory, region);
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
	detach(region, region->engine->transport_count);
	if (region->allocated)
		kvx_memory_free(&region->memory);
	free(region);
}
