/* SPDX-License-Identifier: Apache-2.0 */
/* The sender announces each memory before the first batch that names it; the receiver maps it, or
 * reads it by process_vm_readv(2). */
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

/* Receiver: its mapping, if it has one. */
static void unmap(struct shm_link *link, const struct shm_memory *memory)
{
	if (!memory->mapped)
		return;
	munmap(memory->mapping, memory->bytes);
	link->lane.link.transport->mappings--;
	link->lane.link.transport->mapped_bytes -= memory->bytes;
}

void kvx_shm_memories_finish(struct shm_link *link)
{
	struct shm_memories *memories = &link->memories;

	for (uint32_t i = 0; !link->connector && i < memories->count; i++)
		unmap(link, &memories->entries[i]);
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
			      "shm: cannot announce memory to process %d: %s", link->peer_pid,
			      strerror(error));
	}
	return error == 0;
}

static bool announce_memory(struct shm_link *link, const struct kvx_memory *memory)
{
	struct shm_packet packet;

	if (memory->fd < 0 && !link->peer_readable) {
		kvx_lane_fail(&link->lane, KVX_E_TRANSPORT,
			      "shm: process %d can neither map the region at %p nor read it with "
			      "process_vm_readv; allocate it with kvx_pool_alloc() or "
			      "kvx_region_alloc(), or set kernel.yama.ptrace_scope to 0",
			      link->peer_pid, (void *)memory->address);
		return false;
	}
	int error = reserve(&link->memories);
	if (error) {
		kvx_lane_fail(&link->lane, error,
			      "shm: out of memory, or more than %u regions used on one link",
			      SHM_MEMORIES_MAX);
		return false;
	}

	struct kvx_writer writer = kvx_shm_packet_begin(&packet, SHM_MEMORY);
	kvx_put_u32(&writer, memory->index);
	kvx_put_u64(&writer, memory->bytes);
	kvx_put_u64(&writer, (uintptr_t)memory->address);
	kvx_shm_packet_end(&packet, &writer);
	packet.fd = memory->fd;
	if (!send_surely(link, &packet))
		return false;
	insert(&link->memories,
	       &(struct shm_memory){.index = memory->index, .mapped = memory->fd >= 0});
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

static bool tell_forget(struct shm_link *link, uint32_t index)
{
	struct shm_packet packet;
	struct kvx_writer writer = kvx_shm_packet_begin(&packet, SHM_FORGET);

	kvx_put_u32(&writer, index);
	kvx_shm_packet_end(&packet, &writer);
	return send_surely(link, &packet);
}

void kvx_shm_forget(struct shm_link *link, uint32_t index)
{
	struct shm_memory *memory = kvx_shm_memory_find(&link->memories, index);

	if (!memory)
		return;
	if (tell_forget(link, index))
		erase(&link->memories, memory);
	else
		memory->forgotten = true;
}

void kvx_shm_forget_pending(struct shm_link *link)
{
	for (uint32_t i = link->memories.count; i-- > 0;) {
		struct shm_memory *memory = &link->memories.entries[i];
		if (!memory->forgotten)
			continue;
		if (!tell_forget(link, memory->index))
			return;
		erase(&link->memories, memory);
	}
}

/* ----------------------------------------------------------------------------------- receiver */

/* Only a file that cannot shrink below the mapping is safe to read: otherwise SIGBUS. */
static char *map_memory(struct kvx_transport *transport, int fd, uint64_t bytes)
{
	struct stat status;
	int seals = fcntl(fd, F_GET_SEALS);

	if (transport->mappings >= SHM_MAPPINGS_MAX ||
	    bytes > SHM_MAPPED_BYTES_MAX - transport->mapped_bytes) {
		errno = ENOMEM;
		return NULL;
	}
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &status) < 0 || status.st_size < 0 ||
	    (uint64_t)status.st_size < bytes) {
		errno = EINVAL;
		return NULL;
	}
	char *mapping = kvx_map_shared(fd, bytes, PROT_READ);
	if (mapping) {
		transport->mappings++;
		transport->mapped_bytes += bytes;
	}
	return mapping;
}

/* Maps it where that is possible, notes its address where it is not. */
static bool learn_memory(struct shm_link *link, struct shm_memory *memory, uint64_t address, int fd)
{
	struct kvx_transport *transport = link->lane.link.transport;

	memory->mapping = fd >= 0 ? map_memory(transport, fd, memory->bytes) : NULL;
	memory->mapped = memory->mapping != NULL;
	if (memory->mapped)
		return true;
	memory->mapping = (char *)(uintptr_t)address;
	if (!link->peer_readable)
		kvx_lane_fail(&link->lane, KVX_E_TRANSPORT,
			      "shm: cannot map %llu bytes of process %d: %s, and may not read them "
			      "with process_vm_readv; raise RLIMIT_NOFILE or vm.max_map_count",
			      (unsigned long long)memory->bytes, link->peer_pid,
			      fd >= 0 ? strerror(errno) : "no descriptor came");
	return link->peer_readable;
}

void kvx_shm_memory_announced(struct shm_link *link, const struct shm_packet *packet)
{
	struct kvx_reader reader = kvx_reader_over(packet->bytes + 1, packet->length - 1);
	struct shm_memory memory = {.index = kvx_get_u32(&reader), .bytes = kvx_get_u64(&reader)};
	uint64_t address = kvx_get_u64(&reader);
	int error = 0;

	if (reader.failed || !memory.bytes || memory.bytes > SIZE_MAX / 2 ||
	    address > UINT64_MAX - memory.bytes ||
	    kvx_shm_memory_find(&link->memories, memory.index))
		kvx_lane_fail(&link->lane, KVX_E_PROTOCOL,
			      "shm: process %d announced impossible memory", link->peer_pid);
	else if ((error = reserve(&link->memories)) != 0)
		kvx_lane_fail(&link->lane, error,
			      "shm: out of memory, or process %d announced more than %u regions",
			      link->peer_pid, SHM_MEMORIES_MAX);
	else if (learn_memory(link, &memory, address, packet->fd))
		insert(&link->memories, &memory);
}

void kvx_shm_memory_forgotten(struct shm_link *link, const struct shm_packet *packet)
{
	struct kvx_reader reader = kvx_reader_over(packet->bytes + 1, packet->length - 1);
	struct shm_memory *memory = kvx_shm_memory_find(&link->memories, kvx_get_u32(&reader));

	if (reader.failed || !memory) {
		kvx_lane_fail(&link->lane, KVX_E_PROTOCOL, "shm: process %d forgot unknown memory",
			      link->peer_pid);
		return;
	}
	unmap(link, memory);
	erase(&link->memories, memory);
}

/* The announcement was sent before the batch was published, so it is in the socket if it is not
 * known yet. Returns 1 (resolve all again: what is read may forget other memory) or -1. */
static int look_for_memory(struct shm_link *link, uint32_t index)
{
	uint32_t read = kvx_shm_link_read(link);

	if (kvx_shm_memory_find(&link->memories, index) || read == SHM_PACKETS_AT_ONCE)
		return 1;
	kvx_lane_fail(&link->lane, KVX_E_PROTOCOL,
		      "shm: process %d sends from memory that it did not announce", link->peer_pid);
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
		if (slice->where > memory->bytes || slice->length > memory->bytes - slice->where) {
			kvx_lane_fail(lane, KVX_E_PROTOCOL,
				      "shm: process %d sends from beyond its memory",
				      link->peer_pid);
			return -1;
		}
		slice->from = memory->mapping + slice->where;
		slice->remote = !memory->mapped;
	}
	return 0;
}

/* Reads all of it, over as many calls as that takes. Returns 0 or an errno. */
static int read_peer(int pid, struct iovec *local, struct iovec *remote, size_t count)
{
	while (count) {
		ssize_t bytes = process_vm_readv(pid, local, count, remote, count, 0);
		if (bytes <= 0)
			return bytes < 0 ? errno : EFAULT;
		for (; count && (size_t)bytes >= local->iov_len; count--) {
			bytes -= (ssize_t)local->iov_len;
			local++;
			remote++;
		}
		if (count) {
			local->iov_base = (char *)local->iov_base + bytes;
			remote->iov_base = (char *)remote->iov_base + bytes;
			local->iov_len = remote->iov_len -= (size_t)bytes;
		}
	}
	return 0;
}

static int move_remote(struct shm_link *link, const struct kvx_lane_piece *pieces, uint32_t count)
{
	struct iovec local[KVX_LANE_PIECES_MAX], remote[KVX_LANE_PIECES_MAX];

	for (uint32_t i = 0; i < count; i++) {
		local[i] = (struct iovec){pieces[i].to, pieces[i].bytes};
		remote[i] = (struct iovec){(void *)pieces[i].from, pieces[i].bytes};
	}
	return read_peer(link->peer_pid, local, remote, count);
}

int kvx_shm_move(struct kvx_lane *lane, const struct kvx_lane_piece *pieces, uint32_t count)
{
	int error = 0;

	/* Runs of pieces that are moved the same way. */
	for (uint32_t first = 0, end; first < count && !error; first = end) {
		for (end = first + 1; end < count && pieces[end].remote == pieces[first].remote;)
			end++;
		if (pieces[first].remote)
			error = move_remote((struct shm_link *)lane, pieces + first, end - first);
		else
			kvx_lane_copy(pieces + first, end - first);
	}
	return error;
}
