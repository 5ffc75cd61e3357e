/* SPDX-License-Identifier: Apache-2.0 */
#include "core/region.h"

#include "base/error.h"
#include "memory/kind.h"
#include "memory/memory.h"
#include "topology/topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#define WEIGHT_MAX 255
#define SHARE_ROUNDING 1e-6 /* shares that differ by less are the same */

enum { FORGET = 1, ASK_AGAIN = 2 };

/* Peers hold none of it open any more. */
static bool is_forgotten(const struct kvx_region *region)
{
	struct kvx_engine *engine = region->engine;

	for (uint32_t i = 0; i < engine->transport_count; i++)
		if (engine->transports[i].ops->devices_only && region->memory.registered[i] &&
		    !engine->transports[i].ops->forgotten(engine->transports[i].instance,
							  &region->memory))
			return false;
	return true;
}

/* The worker: transports drop what they know of the memory. */
static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct kvx_region *region = kvx_container_of(submission, struct kvx_region, submission);
	struct kvx_engine *engine = region->engine;

	for (uint32_t i = 0; wanted & FORGET && i < engine->transport_count; i++)
		engine->transports[i].ops->forget(engine->transports[i].instance, &region->memory);
	if (is_forgotten(region))
		kvx_engine_acknowledge(engine, &region->forgotten);
	else
		kvx_engine_submit(engine, &region->submission, ASK_AGAIN);
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
		if (region->memory.registered[transports])
			engine->transports[transports].ops->detach(
				engine->transports[transports].instance, &region->memory);
}

/* Ports that are chosen for a region's memory, or kept for failover. */
struct near {
	uint32_t place; /* where the memory is */
	uint32_t count; /* 0: all ports are alike */
	struct kvx_topology_choice choices[KVX_NEAR_MAX];
};

/* Of a device's memory: the GPU of its PCI address. */
static int find_place(const struct kvx_topology *topology, const struct kvx_memory *memory,
		      uint32_t *place)
{
	struct kvx_topology_place found;

	if (memory->touchable)
		return kvx_topology_place_of_memory(topology, memory->address, memory->bytes,
						    place);
	for (*place = 0; memory->device && !kvx_topology_place(topology, *place, &found); ++*place)
		if (strcasecmp(found.pci, memory->device->pci) == 0)
			return 0;
	return KVX_E_UNSUPPORTED;
}

/* Which ports are to be used for the memory, as far as that is known. */
static void find_near_ports(struct kvx_region *region, struct near *near)
{
	const struct kvx_topology *topology = region->engine->topology;
	struct kvx_memory *memory = &region->memory;

	near->count = 0;
	if (!topology || find_place(topology, memory, &near->place))
		return;
	int count = kvx_topology_choices(topology, near->place, near->choices, KVX_NEAR_MAX);
	if (count > 0)
		near->count = (uint32_t)count < KVX_NEAR_MAX ? (uint32_t)count : KVX_NEAR_MAX;
	for (uint32_t i = 0; i < near->count; i++) {
		struct kvx_near *to = &memory->near[memory->near_count++];
		snprintf(to->device, sizeof(to->device), "%s", near->choices[i].device);
		to->port = (uint8_t)near->choices[i].number;
		to->weight = near->choices[i].is_failover
				     ? 0
				     : (uint8_t)(1 + near->choices[i].weight * (WEIGHT_MAX - 1));
	}
}

/* The part of the memory's bytes that ports of the NUMA node carry; a device on one of them. */
static double share_of_node(const struct kvx_topology *topology, const struct near *near,
			    uint32_t numa, const char **device)
{
	struct kvx_topology_port port;
	double share = 0;

	for (uint32_t i = 0; i < near->count; i++) {
		const struct kvx_topology_choice *choice = &near->choices[i];
		if (choice->is_failover || kvx_topology_port(topology, choice->port, &port) ||
		    port.numa != numa)
			continue;
		share += choice->weight;
		*device = choice->device;
	}
	return share;
}

/* The node whose ports carry most, or the memory's own if none carries more; KVX_TOPOLOGY_NONE
 * where it is not known which nodes ports are near to. */
static uint32_t busiest_node(const struct kvx_topology *topology, const struct near *near,
			     const char **device)
{
	struct kvx_topology_place place;
	struct kvx_topology_port port;

	if (!near->count || kvx_topology_place(topology, near->place, &place))
		return KVX_TOPOLOGY_NONE;
	uint32_t numa = place.numa;
	double most = share_of_node(topology, near, numa, device);
	for (uint32_t i = 0; i < near->count; i++) {
		const char *other = "";
		if (kvx_topology_port(topology, near->choices[i].port, &port) ||
		    port.numa == KVX_TOPOLOGY_NONE)
			continue;
		double share = share_of_node(topology, near, port.numa, &other);
		if (share <= most + SHARE_ROUNDING)
			continue;
		most = share;
		numa = port.numa;
		*device = other;
	}
	return most > 0 ? numa : KVX_TOPOLOGY_NONE;
}

/* The engine's own thread follows the first memory that tells where to. */
static void place_thread(struct kvx_engine *engine, const struct near *near)
{
	char reason[KVX_TOPOLOGY_NAME_MAX + 8];
	const char *device = "";

	if (!atomic_load(&engine->unplaced))
		return;
	uint32_t numa = busiest_node(engine->topology, near, &device);
	if (numa == KVX_TOPOLOGY_NONE || !atomic_exchange(&engine->unplaced, false))
		return;
	snprintf(reason, sizeof(reason), "near %s", device);
	kvx_worker_place(engine, engine->topology, numa, reason);
}

/* By a dma-buf of the range, or else by its address alone, which the kernel knows with peer memory
 * modules. What hardware cannot reach the device's copier moves. */
static int attach_device_memory(const struct kvx_engine_transport *transport,
				struct kvx_memory *memory)
{
	const struct kvx_log *log = transport->context.log;
	int fd = memory->dmabuf;
	int error = KVX_E_UNSUPPORTED;

	if (fd < 0 && memory->kind->export_dmabuf(memory->address, memory->bytes, &memory->dmabuf,
						  &memory->dmabuf_offset))
		kvx_log_write(log, KVX_LOG_INFO, "region %p: %s", (void *)memory->address,
			      kvx_error_text());
	memory->gpudirect = "dma-buf";
	if (memory->dmabuf >= 0)
		error = transport->ops->attach(transport->instance, memory);
	if (fd < 0 && memory->dmabuf >= 0)
		close(memory->dmabuf);
	memory->dmabuf = fd;
	if (error && fd < 0) {
		memory->dmabuf_offset = 0;
		memory->gpudirect = "peer memory";
		error = transport->ops->attach(transport->instance, memory);
	}
	if (error) {
		memory->gpudirect = NULL;
		kvx_log_write(log, KVX_LOG_WARNING,
			      "region %p: no GPUDirect over %s, its bytes are staged: %s",
			      (void *)memory->address, transport->ops->name, kvx_error_text());
	}
	return error;
}

/* Whether it can be opened by other processes. */
static bool attach_shared(const struct kvx_engine_transport *transport, struct kvx_memory *memory)
{
	if (!transport->ops->attach(transport->instance, memory))
		return true;
	kvx_log_write(transport->context.log, KVX_LOG_INFO, "region %p: not over %s: %s",
		      (void *)memory->address, transport->ops->name, kvx_error_text());
	return false;
}

/* Memory of a device that hardware does not reach is copied for the other transports. */
static int attach_to(const struct kvx_engine_transport *transport, struct kvx_region *region,
		     bool *reached)
{
	struct kvx_memory *memory = &region->memory;
	bool staged = memory->device || memory->touchable;

	*reached = true;
	if (transport->ops->devices_only)
		*reached = memory->device && attach_shared(transport, memory);
	else if (!transport->ops->one_sided)
		*reached = staged;
	else if (memory->device)
		*reached = !attach_device_memory(transport, memory);
	else
		return transport->ops->attach(transport->instance, memory);
	return 0;
}

/* Hardware that reads and writes memory by itself has to know it first. */
static int attach(struct kvx_region *region)
{
	struct kvx_engine *engine = region->engine;
	struct near near;
	bool reached;

	find_near_ports(region, &near);
	for (uint32_t i = 0; i < engine->transport_count; i++) {
		int error = attach_to(&engine->transports[i], region, &reached);
		if (error) {
			detach(region, i);
			return error;
		}
		region->reach |= (uint32_t)reached << i;
	}
	atomic_store_explicit(&region->attached, true, memory_order_release);
	place_thread(engine, &near);
	return 0;
}

/* Puts a region with its memory set into the engine's list. */
static int add(struct kvx_region *region)
{
	struct kvx_engine *engine = region->engine;
	struct kvx_list *entry, *next;
	int error = 0;

	region->submission.take = take;
	kvx_roster_init(&region->entry);
	pthread_mutex_lock(&engine->lists);
	kvx_list_for_each (entry, next, &engine->regions.list) {
		struct kvx_region *other = kvx_container_of(entry, struct kvx_region, entry.list);
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
		region->id = ++engine->last_id;
		kvx_roster_insert(&engine->regions, &region->entry, region->id);
	}
	pthread_mutex_unlock(&engine->lists);
	if (error)
		return error;
	error = attach(region);
	if (error)
		kvx_engine_delist(engine, &region->entry);
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

/* What kind of memory it is, whether all of it is there, and the device that it belongs to. */
static int look_at(struct kvx_engine *engine, struct kvx_memory *memory)
{
	uint32_t number;

	memory->kind = kvx_memory_kind_of(memory->address);
	int error = memory->kind->check(memory->address, memory->bytes, &number);
	memory->touchable = memory->kind->touchable;
	if (!error && !memory->touchable)
		error = kvx_device_find(engine, memory->kind, number, &memory->device);
	return error;
}

int kvx_region_register(struct kvx_engine *engine, void *address, size_t bytes,
			struct kvx_region **region)
{
	struct kvx_memory memory = {.address = address, .bytes = bytes, .fd = -1, .dmabuf = -1};
	int error = check_range(engine, address, bytes, region);

	if (!error)
		error = look_at(engine, &memory);
	return error ? error : make_region(engine, &memory, region);
}

static bool has_one_sided_transport(const struct kvx_engine *engine)
{
	for (uint32_t i = 0; i < engine->transport_count; i++)
		if (engine->transports[i].ops->one_sided)
			return true;
	return false;
}

/* A dma-buf of memory that a copier moves too, where hardware does not reach it. */
static int register_known(struct kvx_engine *engine, int fd, uint64_t offset, void *address,
			  size_t bytes, struct kvx_region **region)
{
	struct kvx_memory memory = {.address = address,
				    .bytes = bytes,
				    .fd = -1,
				    .dmabuf = fd,
				    .dmabuf_offset = offset};
	int error = look_at(engine, &memory);

	return error ? error : make_region(engine, &memory, region);
}

int kvx_region_register_dmabuf(struct kvx_engine *engine, int fd, uint64_t offset, void *address,
			       size_t bytes, struct kvx_region **region)
{
	int error = check_range(engine, address, bytes, region);

	if (error)
		return error;
	if (fd < 0)
		return kvx_fail(KVX_E_INVALID, "region: %d is not a descriptor", fd);
	if (!kvx_memory_kind_of(address)->touchable)
		return register_known(engine, fd, offset, address, bytes, region);
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
	return kvx_region_alloc_near(engine, bytes, -1, region);
}

int kvx_region_alloc_near(struct kvx_engine *engine, size_t bytes, int numa,
			  struct kvx_region **region)
{
	int error;

	if (!engine || !region || !bytes)
		return kvx_fail(KVX_E_INVALID, "region: needs an engine and a size");
	struct kvx_region *made = calloc(1, sizeof(*made));
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "region: out of memory");
	made->engine = engine;
	made->allocated = true;
	made->memory.kind = &kvx_memory_host;
	made->memory.touchable = true;
	error = kvx_memory_alloc(&made->memory, bytes, numa);
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
	uint32_t users = kvx_engine_delist_unused(engine, &region->entry, &region->users);
	if (users)
		return kvx_fail(KVX_E_BUSY,
				"region: %u tensors of pools or tails lie over it; close the pools "
				"first",
				users);
	kvx_engine_request(engine, &region->submission, FORGET, &region->forgotten);
	kvx_region_free(region);
	return 0;
}

void kvx_region_use(struct kvx_region *region, int change)
{
	if (!region)
		return;
	pthread_mutex_lock(&region->engine->lock);
	region->users += (uint32_t)change;
	pthread_mutex_unlock(&region->engine->lock);
}

void kvx_region_free(struct kvx_region *region)
{
	detach(region, region->engine->transport_count);
	if (region->allocated)
		kvx_memory_free(&region->memory);
	free(region);
}
