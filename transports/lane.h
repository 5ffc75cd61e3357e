/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What loop, shm and cuda_ipc have in common: a link whose two ends share a ring for each
 *direction, and the consumer that copies batches from the sender's memory to where the sink wants
 *them. Nobody but the receiver, or copies that its worker began, writes into the receiver's memory.
 *
 * In the ring a message is its header and its bytes; a batch is a header of two entries and an
 * entry per slice:
 *
 *	kind 8 | 0 8 | count 16 | bytes 32	place 64
 *	imm 32 | generation 32			state 64
 *	where 64				memory 32 | length 32
 *
 * `state` decides whether a batch counts. It goes from fresh to busy (the consumer copies) to done;
 * the producer sets it to withdrawn at any time, and the consumer reports only what it took from
 * busy to done by one exchange. So bytes read while the sender reused its blocks never count.
 *
 * Where copies are only begun (cuda_ipc), a batch stays busy, and in the ring, until they are done;
 * meanwhile what stands behind it is taken too, and all of it is released in order.
 */
#ifndef KVX_LANE_H
#define KVX_LANE_H

#include "base/list.h"
#include "base/ring.h"
#include "transport.h"

#define KVX_LANE_FORWARD_ENTRIES 1024u /* from the connector: seven full batches */
#define KVX_LANE_BACK_ENTRIES 512u     /* to the connector: messages only */
#define KVX_LANE_PIECES_MAX 128u       /* of one call of move() */
#define KVX_LANE_TAKEN_MAX 64u         /* batches under way on one link */
#define KVX_LANE_TEXT_MAX 255u

/* One slice of a batch that is being taken. */
struct kvx_lane_slice {
	uint64_t where;   /* in the ring: offset in the memory, or address in this process */
	uint32_t memory;  /* index; 0 where `where` is an address */
	uint32_t length;  /* bytes, 1 to KVX_BATCH_BYTES_MAX */
	const char *from; /* set by resolve(); what it means is up to move() */
	bool remote;      /* set by resolve(): `from` is an address of the peer's process */
};

/* What to copy, contiguous at both ends. */
struct kvx_lane_piece {
	char *to;
	const char *from;
	uint32_t bytes;
	uint32_t memory; /* of the slice */
	bool remote;
};

/* A queue of copies: of all calls of begin(), those up to `done` are over. */
struct kvx_lane_copier {
	uint64_t done;
};

/* The last of some copies. */
struct kvx_lane_mark {
	const struct kvx_lane_copier *copier; /* NULL: there are none */
	uint64_t number;
};

/* Entries that were taken from the ring and are to be released in their turn. */
struct kvx_lane_taken {
	uint32_t entries;
	_Atomic uint64_t *state; /* of a batch; NULL: nobody waits for it */
	struct kvx_lane_mark mark;
	struct kvx_unit unit;
	uint64_t place;
	uint32_t bytes;   /* that count once the copies are done */
	uint32_t answers; /* of place() */
};

struct kvx_lane;

struct kvx_lane_ops {
	/* Finds and checks the memory of slices that the peer sent. Returns 0, 1 (not known yet:
	 * ask again at the next progress), or negative after kvx_lane_fail(). */
	int (*resolve)(struct kvx_lane *lane, struct kvx_lane_slice *slices, uint32_t count);

	/* Copies. Returns 0, or an errno if the source cannot be read: then the batch was
	 * withdrawn meanwhile, or the link ends. */
	int (*move)(struct kvx_lane *lane, const struct kvx_lane_piece *pieces, uint32_t count);

	/* In the place of move(), of asynchronous transports: begins to copy. Copies of a batch are
	 * begun on one copier, and done in their order. Returns 0 and sets the mark, or an errno
	 * after kvx_lane_fail(). */
	int (*begin)(struct kvx_lane *lane, const struct kvx_lane_piece *pieces, uint32_t count,
		     struct kvx_lane_mark *mark);

	/* Makes a descriptor of the peer's poller ready. */
	void (*bell)(struct kvx_lane *lane);

	/* The link has ended: from now on nothing calls the sink for it. */
	void (*silence)(struct kvx_lane *lane);
};

/* A batch in the outgoing ring. */
struct kvx_lane_posted {
	const struct kvx_flow *flow;
	uint32_t at;        /* index of its header */
	uint32_t *released; /* of the batch, or NULL */
};

/* Messages that wait for room in the ring: 16 bits of length and the bytes of each. */
struct kvx_lane_queue {
	uint8_t *bytes;
	uint32_t begin, end, size; /* in bytes */
};

/* The first member of a link of loop, shm or cuda_ipc. Owner: the worker. */
struct kvx_lane {
	struct kvx_link link; /* first */
	struct kvx_list entry;
	const struct kvx_lane_ops *ops;
	const struct kvx_transport_context *context;
	struct kvx_ring out, in;
	struct kvx_lane_posted
		*posted; /* those in the ring, oldest first; NULL: this side accepted */
	uint32_t posted_head, posted_tail;
	uint32_t awaited;             /* of them: with somebody to tell when they are released */
	struct kvx_lane_taken *taken; /* NULL: copies are done when they were taken */
	uint32_t taken_head, taken_tail;
	uint32_t ahead; /* entries of those */
	struct kvx_lane_queue queue;
	uint32_t wanted; /* entries that post() lacked; 0: none, or progress() has found them */
	bool by_address; /* slices name addresses of this process */
	bool up;         /* the sink knows it as usable */
	bool asleep;     /* the rings say that this side sleeps */
	bool draining;   /* failed, but what the peer had sent is still taken */
	bool down;       /* link_down was told */
	int failure;     /* 0, or why it goes down */
	char text[KVX_LANE_TEXT_MAX + 1];
};

enum kvx_lane_state {
	KVX_LANE_WITHDRAWN,
	KVX_LANE_FRESH,
	KVX_LANE_BUSY,
	KVX_LANE_DONE,
};

enum kvx_lane_kind { KVX_LANE_MESSAGE = 1, KVX_LANE_BATCH = 2 };

/* Size of what both sides share, in bytes. */
size_t kvx_lane_shared_bytes(void);

/* ops, context and link.transport are set by the caller before. Fails with KVX_E_MEMORY. */
int kvx_lane_init(struct kvx_lane *lane, bool connector);

/* Gives it the shared memory: zeroed when the connector does this, and aligned to 64 bytes. */
void kvx_lane_attach(struct kvx_lane *lane, void *shared);

/* Does not free the shared memory. */
void kvx_lane_finish(struct kvx_lane *lane);

/* The link goes down at the next progress; the first reason counts. */
void kvx_lane_fail(struct kvx_lane *lane, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* As kvx_lane_fail(), once what the peer has sent by now is taken. */
void kvx_lane_end(struct kvx_lane *lane, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Of the seam. */
void kvx_lane_message(struct kvx_link *link, const void *bytes, uint32_t length);
bool kvx_lane_post(struct kvx_link *link, uint32_t rail, const struct kvx_batch *batch);

/* Withdraws the batches of a flow (NULL: all). wait: until the consumer does not read them. */
void kvx_lane_withdraw(struct kvx_lane *lane, const struct kvx_flow *flow, bool wait);

/* Gives the ring what it has room for of the queued messages. Returns how many. */
int kvx_lane_flush(struct kvx_lane *lane);

/* Copies pieces of this process's memory. */
void kvx_lane_copy(const struct kvx_lane_piece *pieces, uint32_t count);

/* Takes the next message or batch from the ring, if there is one. Returns what that cost, in bytes,
 * or 0. */
uint32_t kvx_lane_take(struct kvx_lane *lane);

/* Of an asynchronous transport: notes what was taken out of the ring. */
void kvx_lane_set_aside(struct kvx_lane *lane, const struct kvx_lane_taken *taken);
bool kvx_lane_is_full(const struct kvx_lane *lane);

/* Reports batches whose copies are done, and releases them. Returns how many there were and are:
 * 0 means that nothing is under way. */
int kvx_lane_settle(struct kvx_lane *lane);

/* For all lanes of a transport: progress() and arm() of the seam. */
int kvx_lane_progress(struct kvx_list *lanes);
bool kvx_lane_arm(struct kvx_list *lanes);

#endif
