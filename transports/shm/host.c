/* SPDX-License-Identifier: Apache-2.0 */
/* The medium of shm: the receiver maps the sender's memory, or reads it by process_vm_readv(2). */
#include "base/error.h"
#include "base/map.h"
#include "shm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

/* --- greeting --- */

/* Where yama restricts ptrace, a process names the one that may read its memory. There can be only
 * one, so the first peer keeps it until its link ends. */
static _Atomic int tracer_pid;

static void trace_by_peer(struct shm_link *link)
{
	int none = 0;

	if (link->peer_pid <= 0 ||
	    !atomic_compare_exchange_strong(&tracer_pid, &none, link->peer_pid))
		return;
	link->tracer = true;
	/* Fails where there is no yama, and is not needed there. */
	prctl(PR_SET_PTRACER, (unsigned long)link->peer_pid, 0, 0, 0);
}

void kvx_shm_untrace(struct shm_link *link)
{
	if (!link->tracer)
		return;
	prctl(PR_SET_PTRACER, 0, 0, 0, 0);
	link->tracer = false;
	atomic_store(&tracer_pid, 0);
}

static int host_greet(struct shm_link *link, struct kvx_writer *writer)
{
	trace_by_peer(link);
	link->nonce = kvx_shm_random();
	kvx_put_u64(writer, (uintptr_t)&link->nonce);
	kvx_put_u64(writer, link->nonce);
	return 0;
}

/* Can this process read the peer's memory? */
static bool probe(int pid, uint64_t address, uint64_t nonce)
{
	uint64_t seen = ~nonce;
	struct iovec local = {&seen, sizeof(seen)};
	struct iovec remote = {(void *)(uintptr_t)address, sizeof(seen)};

	return pid > 0 && process_vm_readv(pid, &local, 1, &remote, 1, 0) == sizeof(seen) &&
	       seen == nonce;
}

static int host_greeted(struct shm_link *link, struct kvx_reader *reader)
{
	uint64_t address = kvx_get_u64(reader), nonce = kvx_get_u64(reader);

	if (reader->failed)
		return kvx_fail(KVX_E_PROTOCOL, "shm: process %d does not speak kvxfer",
				link->peer_pid);
	link->peer_readable = probe(link->peer_pid, address, nonce);
	return 0;
}

/* --- memory --- */

static bool host_announce(struct shm_link *link, const struct kvx_memory *memory,
			  struct shm_packet *packet, struct kvx_writer *writer)
{
	if (memory->fd < 0 && !link->peer_readable) {
		kvx_lane_fail(&link->lane, KVX_E_TRANSPORT,
			      "shm: process %d can neither map the region at %p nor read it with "
			      "process_vm_readv; allocate it with kvx_pool_alloc() or "
			      "kvx_region_alloc(), or set kernel.yama.ptrace_scope to 0",
			      link->peer_pid, (void *)memory->address);
		return false;
	}
	kvx_put_u64(writer, (uintptr_t)memory->address);
	packet->fd = memory->fd;
	return true;
}

/* Receiver: its mapping, if it has one. */
static void host_drop(struct shm_link *link, struct shm_memory *memory)
{
	if (!memory->mapped)
		return;
	munmap(memory->mapping, memory->bytes);
	link->lane.link.transport->mappings--;
	link->lane.link.transport->mapped_bytes -= memory->bytes;
}

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
static bool host_learn(struct shm_link *link, struct shm_memory *memory, struct kvx_reader *reader,
		       int fd)
{
	struct kvx_transport *transport = link->lane.link.transport;
	uint64_t address = kvx_get_u64(reader);

	if (reader->failed || address > UINT64_MAX - memory->bytes) {
		kvx_shm_announced_impossible(link);
		return false;
	}
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

static int host_move(struct kvx_lane *lane, const struct kvx_lane_piece *pieces, uint32_t count)
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

const struct shm_medium kvx_shm_host = {
	.ops = &kvx_shm_transport,
	.lane =
		{
			.resolve = kvx_shm_resolve,
			.move = host_move,
			.bell = kvx_shm_bell,
			.silence = kvx_shm_silence,
		},
	.magic = UINT64_C(0x6d68732d7866766b), /* "kvxf-shm" */
	.greet = host_greet,
	.greeted = host_greeted,
	.announce = host_announce,
	.learn = host_learn,
	.drop = host_drop,
};
