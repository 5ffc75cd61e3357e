/* SPDX-License-Identifier: Apache-2.0 */
/* The sender announces each memory before the first batch that names it. */
#include "base/error.h"
#include "base/map.h"
#include "base/wire.h"
#include "shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct shm_medium *medium_of(const struct shm_link *link)
{
	return link->lane.link.transport->medium;
}

/* Position of the first entry whose index is not lower. */
static uint32_t position_of(const struct shm_memories *memories, uint32_t index)
{
	uint32_t low = 0, high = memories->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (memories->entries[middle].index < index)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct shm_memory *kvx_shm_memory_find(struct shm_memories *memories, uint32_t index)
{
	if (memories->last >= memories->count || memories->entries[memories->last].index != index)
		memories->last = position_of(memories, index);
	if (memories->last >= memories->count || memories->entries[memories->last].index != index)
		return NULL;
	return &memories->entries[memories->last];
}

/* Makes room for one more: 0, or why there may be no more. */
static int reserve(struct shm_memories *memories)
{
	if (memories->count < memories->size)
		return 0;
	if (memories->count >= SHM_MEMORIES_MAX)
		return KVX_E_LIMIT;

	uint32_t size = memories->size ? 2 * memories->size : 16;
	void *grown = realloc(memories->entries, size * sizeof(*memories->entries));
	if (!grown)
		return KVX_E_MEMORY;
	memories->entries = grown;
	memories->size = size;
	return 0;
}

/* There is room, and none of that index. */
static void insert(struct shm_memories *memories, const struct shm_memory *memory)
{
	uint32_t at = position_of(memories, memory->index);

	memmove(memories->entries + at + 1, memories->entries + at,
		(memories->count - at) * sizeof(*memories->entries));
	memories->entries[at] = *memory;
	memories->count++;
}

static void erase(struct shm_memories *memories, struct shm_memory *memory)
{
	uint32_t at = (uint32_t)(memory - memories->entries);

	memories->count--;
	memmove(memory, memory + 1, (memories->count - at) * sizeof(*memory));
}

/* Sender: the peer knows it, or not any more. */
static void count(struct shm_link *link, const struct shm_memory *memory, int change)
{
	if (medium_of(link)->count)
		medium_of(link)->count(link, memory->index, change);
}

void kvx_shm_memories_finish(struct shm_link *link)
{
	struct shm_memories *memories = &link->memories;

	for (uint32_t i = 0; i < memories->count; i++) {
		if (link->connector)
			count(link, &memories->entries[i], -1);
		else
			medium_of(link)->drop(link, &memories->entries[i]);
	}
	free(memories->entries);
}

/* ------------------------------------------------------------------------------------- sender */

/* Sends a packet that must not be lost. False: not now (it will be seen to that there is a later
 * call), or the link has failed. */
static bool send_surely(struct shm_link *link, const struct shm_packet *packet)
{
	int error = kvx_shm_packet_send(link->pollable.fd, packet);

	if (error == EAGAIN) {
		link->watching_room = true;
		kvx_poller_change(link->lane.context->poller, &link->pollable, EPOLLIN | EPOLLOUT);
	} else if (error && error != EPIPE && error != ECONNRESET) {
		/* A peer that is gone shows as the end of its socket. */
		kvx_lane_fail(&link->lane, KVX_E_TRANSPORT,
			      "%s: cannot announce memory to process %d: %s", shm_name(link),
			      link->peer_pid, strerror(error));
	}
	return error == 0;
}

static bool announce_memory(struct shm_link *link, const struct kvx_memory *memory)
{
	struct shm_packet packet;

	int error = reserve(&link->memories);
	if (error) {
		kvx_lane_fail(&link->lane, error,
			      "%s: out of memory, or more than %u regions used on one link",
			      shm_name(link), SHM_MEMORIES_MAX);
		return false;
	}

	struct kvx_writer writer = kvx_shm_packet_begin(&packet, SHM_MEMORY);
	kvx_put_u32(&writer, memory->index);
	kvx_put_u64(&writer, memory->bytes);
	if (!medium_of(link)->announce(link, memory, &packet, &writer))
		return false;
	kvx_shm_packet_end(&packet, &writer);
	if (!send_surely(link, &packet))
		return false;
	const struct shm_memory known = {.index = memory->index, .mapped = memory->fd >= 0};
	insert(&link->memories, &known);
	count(link, &known, 1);
	return true;
}

bool kvx_shm_announce(struct shm_link *link, const struct kvx_batch *batch)
{
	const struct kvx_memory *known = NULL;

	for (uint32_t i = 0; i < batch->count; i++) {
		const struct kvx_memory *memory = batch->slices[i].memory;
		if (memory == known)
			continue;
		if (!kvx_shm_memory_find(&link->memories, memory->index) &&
		    !announce_memory(link, memory))
			return false;
		known = memory;
	}
	return true;
}

static bool tell(struct shm_link *link, enum shm_kind kind, uint32_t index)
{
	struct shm_packet packet;
	struct kvx_writer writer = kvx_shm_packet_begin(&packet, kind);

	kvx_put_u32(&writer, index);
	kvx_shm_packet_end(&packet, &writer);
	return send_surely(link, &packet);
}

/* The peer was told; where its answer matters the memory is known until that comes. */
static void forget_told(struct shm_link *link, struct shm_memory *memory)
{
	memory->forgotten = false;
	memory->told = medium_of(link)->is_idle != NULL;
	if (!memory->told)
		erase(&link->memories, memory);
}

void kvx_shm_forget(struct shm_link *link, uint32_t index)
{
	struct shm_memory *memory = kvx_shm_memory_find(&link->memories, index);

	if (!memory || memory->told)
		return;
	memory->forgotten = !tell(link, SHM_FORGET, index);
	if (!memory->forgotten)
		forget_told(link, memory);
}

void kvx_shm_forget_pending(struct shm_link *link)
{
	for (uint32_t i = link->memories.count; i-- > 0;) {
		struct shm_memory *memory = &link->memories.entries[i];
		if (!memory->forgotten)
			continue;
		if (!tell(link, SHM_FORGET, memory->index))
			return;
		forget_told(link, memory);
	}
}

void kvx_shm_memory_closed(struct shm_link *link, const struct shm_packet *packet)
{
	struct kvx_reader reader = kvx_reader_over(packet->bytes + 1, packet->length - 1);
	struct shm_memory *memory = kvx_shm_memory_find(&link->memories, kvx_get_u32(&reader));

	if (reader.failed || !memory || !memory->told) {
		kvx_lane_fail(&link->lane, KVX_E_PROTOCOL,
			      "%s: process %d closed memory that it was not told to",
			      shm_name(link), link->peer_pid);
		return;
	}
	count(link, memory, -1);
	erase(&link->memories, memory);
}

/* ----------------------------------------------------------------------------------- receiver */

void kvx_shm_announced_impossible(struct shm_link *link)
{
	kvx_lane_fail(&link->lane, KVX_E_PROTOCOL, "%s: process %d announced impossible memory",
		      shm_name(link), link->peer_pid);
}

void kvx_shm_memory_announced(struct shm_link *link, const struct shm_packet *packet)
{
	struct kvx_reader reader = kvx_reader_over(packet->bytes + 1, packet->length - 1);
	struct shm_memory memory = {.index = kvx_get_u32(&reader), .bytes = kvx_get_u64(&reader)};
	int error = 0;

	if (reader.failed || !memory.bytes || memory.bytes > SIZE_MAX / 2 ||
	    kvx_shm_memory_find(&link->memories, memory.index))
		kvx_shm_announced_impossible(link);
	else if ((error = reserve(&link->memories)) != 0)
		kvx_lane_fail(&link->lane, error,
			      "%s: out of memory, or process %d announced more than %u regions",
			      shm_name(link), link->peer_pid, SHM_MEMORIES_MAX);
	else if (medium_of(link)->learn(link, &memory, &reader, packet->fd))
		insert(&link->memories, &memory);
}

void kvx_shm_memory_forgotten(struct shm_link *link, const struct shm_packet *packet)
{
	struct kvx_reader reader = kvx_reader_over(packet->bytes + 1, packet->length - 1);
	struct shm_memory *memory = kvx_shm_memory_find(&link->memories, kvx_get_u32(&reader));

	if (reader.failed || !memory || memory->forgotten) {
		kvx_lane_fail(&link->lane, KVX_E_PROTOCOL, "%s: process %d forgot unknown memory",
			      shm_name(link), link->peer_pid);
		return;
	}
	memory->forgotten = true;
	link->forgetting++;
	kvx_shm_close_forgotten(link);
}

/* False: later. */
static bool close_forgotten(struct shm_link *link, struct shm_memory *memory)
{
	bool (*is_idle)(const struct shm_memory *memory) = medium_of(link)->is_idle;

	if (is_idle && !is_idle(memory))
		return false;
	medium_of(link)->drop(link, memory);
	if (is_idle && !tell(link, SHM_FORGOTTEN, memory->index))
		return false;
	erase(&link->memories, memory);
	return true;
}

uint32_t kvx_shm_close_forgotten(struct shm_link *link)
{
	uint32_t before = link->forgetting;

	for (uint32_t i = link->memories.count; link->forgetting && i-- > 0;) {
		struct shm_memory *memory = &link->memories.entries[i];
		if (memory->forgotten && close_forgotten(link, memory))
			link->forgetting--;
	}
	return before;
}

/* The announcement was sent before the batch was published, so it is in the socket if it is not
 * known yet. Returns 1 (resolve all again: what is read may forget other memory) or -1. */
static int look_for_memory(struct shm_link *link, uint32_t index)
{
	uint32_t read = kvx_shm_link_read(link);

	if (kvx_shm_memory_find(&link->memories, index) || read == SHM_PACKETS_AT_ONCE)
		return 1;
	kvx_lane_fail(&link->lane, KVX_E_PROTOCOL,
		      "%s: process %d sends from memory that it did not announce", shm_name(link),
		      link->peer_pid);
	return -1;
}

int kvx_shm_resolve(struct kvx_lane *lane, struct kvx_lane_slice *slices, uint32_t count)
{
	struct shm_link *link = (struct shm_link *)lane;

	for (uint32_t i = 0; i < count; i++) {
		struct kvx_lane_slice *slice = &slices[i];
		const struct shm_memory *memory =
			kvx_shm_memory_find(&link->memories, slice->memory);
		if (!memory)
			return look_for_memory(link, slice->memory);
		if (memory->forgotten || slice->where > memory->bytes ||
		    slice->length > memory->bytes - slice->where) {
			kvx_lane_fail(lane, KVX_E_PROTOCOL,
				      "%s: process %d sends from beyond its memory", shm_name(link),
				      link->peer_pid);
			return -1;
		}
		slice->from = (const char *)((uintptr_t)memory->mapping + slice->where);
		slice->remote = !memory->mapped;
	}
	return 0;
}
