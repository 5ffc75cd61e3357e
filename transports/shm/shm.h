/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm: links between processes of one host and one user. They meet on a unix socket; messages and
 * batches then go through rings that both map (lane.h), and the receiver copies out of the sender's
 * pools: out of its own read-only mapping of them where the sender's memory is a memfd, otherwise
 * by process_vm_readv(2). The socket carries what is rare: the greeting, announcements of memory,
 * and the doorbell of a side that sleeps. It is the doorbell, and not an eventfd, because a shared
 * eventfd could be made to block by the other side, and because it tells of a peer's death.
 *
 * cuda_ipc is the same between memories of GPUs: the receiver opens the sender's by a handle, and
 * its own GPU copies. A medium is what the two differ in (host.c, gpu.c).
 */
#ifndef KVX_SHM_H
#define KVX_SHM_H

#include "../lane.h"
#include "base/wire.h"

#define SHM_HALF_MADE_MAX 256u  /* connections that have not said hello */
#define SHM_MEMORIES_MAX 16384u /* of one link */
/* Mappings of all links' memories, and their bytes: half of what Linux gives a process
 * (vm.max_map_count, 2^47 bytes), so that peers cannot use up what the rest of it needs. */
#define SHM_MAPPINGS_MAX 32768u
#define SHM_MAPPED_BYTES_MAX (UINT64_C(1) << 46)
#define SHM_NAME_MAX 63u /* characters of a socket's name */
#define SHM_BOOT_ID_MAX 63u
#define SHM_PACKET_MAX 320u     /* bytes */
#define SHM_PACKETS_AT_ONCE 64u /* read from one socket before others have their turn */

/* Packets on the socket: the kind in 8 bits, then its fields. */
enum shm_kind {
	SHM_HELLO = 1, /* connector: magic 64, version 32, bytes of the rings 32, and the medium's:
			  address of a nonce 64, nonce 64, or of some memory what SHM_MEMORY says;
			  the rings' memfd */
	SHM_WELCOME,   /* acceptor: magic 64, version 32, can it read the nonce 8 */
	SHM_REFUSED,   /* acceptor: text */
	SHM_MEMORY,    /* connector: index 32, bytes 64, and the medium's: address 64 and its memfd,
			  if it is one, or device 32, address 64, handle, offset 64 */
	SHM_FORGET,    /* connector: index 32 */
	SHM_BELL,      /* look at the rings */
	SHM_FORGOTTEN, /* acceptor, cuda_ipc alone: index 32 */
};

struct shm_packet {
	uint8_t bytes[SHM_PACKET_MAX];
	uint32_t length; /* bytes */
	int fd;          /* passed with it, or -1; the receiver closes it */
};

/* A memory of the sender, as one side knows it. */
struct shm_memory {
	uint32_t index;
	bool mapped;    /* receiver: mapping is ours; sender: it could be mapped */
	bool forgotten; /* sender: the peer is still to be told; receiver: to be closed */
	bool told;      /* sender, cuda_ipc: the peer is still to answer */
	uint64_t bytes; /* receiver only, as are the rest */
	char *mapping;  /* mapped: our mapping; otherwise its address in the peer's process, or NULL
			   where only its import has addresses */
	struct shm_import *import; /* cuda_ipc's */
};

/* Sorted by index. */
struct shm_memories {
	struct shm_memory *entries;
	uint32_t count, size;
	uint32_t last; /* found last: the slices of a batch tend to lie in one memory */
};

enum shm_phase {
	SHM_KNOCKING, /* connector: the listener's queue was full, try again */
	SHM_GREETING, /* connector: waits for welcome; acceptor: for hello */
	SHM_MET,
};

/* Owner: the worker. */
struct shm_link {
	struct kvx_lane lane;         /* first */
	struct kvx_pollable pollable; /* the socket; fd -1: none */
	enum shm_phase phase;
	bool connector;
	bool watching_room; /* EPOLLOUT: a packet is to be sent again */
	bool peer_readable; /* the receiver may read the sender's memory */
	bool tracer;        /* the peer is this process's tracer, as far as yama cares */
	int peer_pid;
	int64_t deadline_ns; /* to be up */
	int64_t retry_ns;    /* to knock again */
	uint64_t nonce;
	uint32_t forgetting; /* receiver, cuda_ipc: memories that are to be closed */
	void *shared;        /* the rings */
	struct shm_memories memories;
	char name[SHM_NAME_MAX + 1]; /* connector: of the peer's socket */
};

/* What shm and cuda_ipc differ in. All are called by the worker. */
struct shm_medium {
	const struct kvx_transport_ops *ops;
	struct kvx_lane_ops lane;
	uint64_t magic;

	/* Connector: adds to its hello. KVX_E_UNREACHABLE: it cannot work. */
	int (*greet)(struct shm_link *link, struct kvx_writer *writer);

	/* Acceptor: reads that. An error refuses the peer, with its text. */
	int (*greeted)(struct shm_link *link, struct kvx_reader *reader);

	/* Connector: adds to the announcement of a memory. False after kvx_lane_fail(). */
	bool (*announce)(struct shm_link *link, const struct kvx_memory *memory,
			 struct shm_packet *packet, struct kvx_writer *writer);

	/* Connector: the peer knows a memory, or not any more. */
	void (*count)(struct shm_link *link, uint32_t index, int change);

	/* Acceptor: reads that. False after kvx_lane_fail(). */
	bool (*learn)(struct shm_link *link, struct shm_memory *memory, struct kvx_reader *reader,
		      int fd);

	/* Acceptor: gives it back. */
	void (*drop)(struct shm_link *link, struct shm_memory *memory);

	/* Acceptor: has nothing that is under way to do with it? NULL: never. */
	bool (*is_idle)(const struct shm_memory *memory);
};

struct kvx_transport {
	struct kvx_transport_context context;
	const struct shm_medium *medium;
	struct shm_gpu *gpu;       /* cuda_ipc's */
	struct kvx_list lanes;     /* known to the sink */
	struct kvx_list orphans;   /* disconnected, with copies under way */
	struct kvx_list half_made; /* accepted, not yet greeted; oldest first */
	uint32_t half_made_count;
	uint32_t mappings; /* of peers' memories */
	uint64_t mapped_bytes;
	struct kvx_pollable listener;
	int64_t accept_again_ns; /* out of descriptors until then; 0: accepting */
	char boot_id[SHM_BOOT_ID_MAX + 1];
	char address[KVX_ADDRESS_MAX + 1];
};

extern const struct kvx_transport_ops kvx_shm_transport;
extern const struct kvx_transport_ops kvx_cuda_ipc_transport;
extern const struct shm_medium kvx_shm_host, kvx_shm_gpu; /* host.c, gpu.c */

/* What the transport is called. */
static inline const char *shm_name(const struct shm_link *link)
{
	return link->lane.link.ops->name;
}

/* packet.c: the socket. Neither blocks. */

/* Sends the fields of a writer over packet->bytes, and packet->fd. Returns 0 or an errno. */
int kvx_shm_packet_send(int fd, const struct shm_packet *packet);

/* Returns 1 (a packet), 0 (none), or -1 (the peer has closed or died). */
int kvx_shm_packet_receive(int fd, struct shm_packet *packet);

/* A packet that holds its kind; the rest is written through the writer, then ended. */
struct kvx_writer kvx_shm_packet_begin(struct shm_packet *packet, enum shm_kind kind);
void kvx_shm_packet_end(struct shm_packet *packet, const struct kvx_writer *writer);

/* meet.c: how two processes find and greet each other. */

uint64_t kvx_shm_random(void);

int kvx_shm_listen(struct kvx_transport *transport);
void kvx_shm_unlisten(struct kvx_transport *transport);

/* Connector: tries to reach the listener. Errors as the seam's connect(). */
int kvx_shm_knock(struct shm_link *link);

/* A greeting came, or the end of the socket (NULL). May free a link that the sink does not know. */
void kvx_shm_greeted(struct shm_link *link, const struct shm_packet *packet);

/* Retries and deadlines. */
void kvx_shm_meet_progress(struct kvx_transport *transport, int64_t now_ns);

/* link.c: a link and its socket. */

struct shm_link *kvx_shm_link_new(struct kvx_transport *transport, bool connector);
void kvx_shm_link_free(struct shm_link *link);

/* Takes the socket over, also if it fails. */
int kvx_shm_link_watch(struct shm_link *link, int fd);

/* Reads at most SHM_PACKETS_AT_ONCE packets of a link that is up; returns how many there were. */
uint32_t kvx_shm_link_read(struct shm_link *link);

/* memories.c: what is known of the sender's memory. */

struct shm_memory *kvx_shm_memory_find(struct shm_memories *memories, uint32_t index);
void kvx_shm_memories_finish(struct shm_link *link);

/* Sender: makes the peer know the memories of a batch. False: not now, or the link has failed. */
bool kvx_shm_announce(struct shm_link *link, const struct kvx_batch *batch);
void kvx_shm_forget(struct shm_link *link, uint32_t index);
void kvx_shm_forget_pending(struct shm_link *link);

/* Receiver: a memory was announced, which makes no sense if so, or goes away. */
void kvx_shm_announced_impossible(struct shm_link *link);
void kvx_shm_memory_announced(struct shm_link *link, const struct shm_packet *packet);
void kvx_shm_memory_forgotten(struct shm_link *link, const struct shm_packet *packet);

/* Receiver: closes memories that are to be forgotten, once nothing is under way. Returns how many
 * there were. */
uint32_t kvx_shm_close_forgotten(struct shm_link *link);

/* Sender: the receiver has closed a memory. */
void kvx_shm_memory_closed(struct shm_link *link, const struct shm_packet *packet);

/* Receiver: of the lane's operations. */
int kvx_shm_resolve(struct kvx_lane *lane, struct kvx_lane_slice *slices, uint32_t count);

/* link.c: of the lane's operations. */
void kvx_shm_bell(struct kvx_lane *lane);
void kvx_shm_silence(struct kvx_lane *lane);

/* host.c: the peer may no longer read this process's memory. */
void kvx_shm_untrace(struct shm_link *link);

/* gpu.c: memory that is sent from and to, and whatever copies it. */
int kvx_shm_gpu_open(struct kvx_transport *transport);
void kvx_shm_gpu_close(struct kvx_transport *transport);

/* Waits for all copies. */
void kvx_shm_gpu_stop(struct kvx_transport *transport);
int kvx_shm_gpu_attach(struct kvx_transport *transport, struct kvx_memory *memory);
void kvx_shm_gpu_detach(struct kvx_transport *transport, struct kvx_memory *memory);
bool kvx_shm_gpu_forgotten(struct kvx_transport *transport, const struct kvx_memory *memory);

/* Looks which copies are done. */
void kvx_shm_gpu_progress(struct kvx_transport *transport);

#endif
