/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seam between the engine and its transports. To add a transport, start here: write its folder,
 * add its line to registry.c and to meson.build. transports/loop is the smallest example.
 *
 * A transport makes links to other engines, carries short messages over them in order, and moves
 * batches of slices. It knows no grants. A link is directed: batches go from the engine that
 * connected to the one that accepted; messages go both ways. Both ends may belong to one process.
 *
 * There are two sorts. Where the receiver's worker places every byte (loop, shm, tcp), the
 * transport asks the sink where bytes go and tells it when they have landed: an answer withheld is
 * a fence. A one-sided transport (verbs) writes into the receiver's memory without asking: that
 * needs memory attached to it, slices that name remote memory, and permits, which are given and
 * taken back.
 *
 * Where the receiver's worker only begins copies (cuda_ipc), the transport is asynchronous: it asks
 * for places as above, tells when nothing is written to them any more, and what has landed after
 * that.
 *
 * Rules for all operations:
 * - They run on the engine's worker (one thread at a time), unless their comment says otherwise.
 * - None blocks: no waiting for a peer, no lock that a peer or a slow call can hold.
 * - The sink is called only from within progress(), arm() and poller callbacks, never from within
 *   another operation: a failure found in post() or message() is reported at the next progress().
 * - The sink may call message(), post(), withdraw(), permit() and forbid() while it is called, but
 *   never disconnect().
 * - What comes from a peer is not trusted: lengths, indices and offsets are checked before use. A
 * peer that breaks the transport's protocol gets its link ended (link_down), and nobody else
 * notices.
 */
#ifndef KVX_TRANSPORT_H
#define KVX_TRANSPORT_H

#include "base/list.h"
#include "base/log.h"
#include "base/options.h"
#include "base/poller.h"
#include "base/slice.h"
#include "base/waker.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define KVX_MESSAGE_MAX 1024u /* bytes of one message */
#define KVX_MESSAGE_QUEUE_MAX \
	(1u << 20)           /* bytes of messages a link holds for a peer that does not take them */
#define KVX_ADDRESS_MAX 255u /* characters of one transport's address */
#define KVX_RAILS_MAX 64u    /* rails of one link */
#define KVX_HINT_MAX 64u     /* bytes of a hint */
#define KVX_PLACE_LATER (-1) /* an answer of place() */

/* One stream's batches on a link, as the transport sees them: one flow for each grant. Embedded in
 * the stream. */
struct kvx_flow {
	uint32_t slot, generation; /* of the grant that they are for */
	bool accepted;             /* the permit is for it; set by the engine */
	uint32_t in_flight;        /* batches whose memory the hardware may still read */
	bool withdrawn;            /* by withdraw(); set by the transport */
	void *state;               /* the transport's, as are the rest */
	struct kvx_list draining;
	int64_t due_ns;
};

/* Leave for the link's peer to write into these memories, or to read them, without asking.
 * One-sided transports only. Embedded in the grant; constant while it is lent, but for state. */
struct kvx_permit {
	uint32_t slot, generation;
	const struct kvx_memory *const *memories; /* slices name them by index */
	uint32_t memory_count;
	bool readable; /* leave to read; else to write */
	void *state;   /* the transport's */
};

/*
 * Slices of one unit that follow each other in the receiver's layer image without a gap.
 * place is where the first begins there, in bytes. Batches of a unit are posted on one rail
 * in order, and a rail carries no batch of another unit between them, unless the unit is
 * given up.
 *
 * One-sided, slices name their own targets, and a batch that is not the last of its unit may hold
 * bytes of other units of the flow too, whose last batches come later on the same rail. A unit
 * counts as arrived when all that was posted on its rail before its end has arrived.
 */
struct kvx_batch {
	struct kvx_unit unit;
	uint64_t place;
	uint32_t bytes; /* sum of the slices' lengths, at most KVX_BATCH_BYTES_MAX */
	uint32_t count; /* 1 to KVX_BATCH_SLICES_MAX */
	const struct kvx_slice *slices;
	struct kvx_flow *flow;
	bool last; /* ends its unit */
	bool read; /* one-sided: from the remote memory into the slices */

	/* NULL, or, not one-sided: counts this rail's batches whose memory the transport does not
	 * read any more, in the order of their posting, also when they were withdrawn. Those of a
	 * rail that goes down may be counted or not: nothing reads them then. */
	uint32_t *released;
};

struct kvx_transport; /* each transport's own, one per engine */

/* The first member of each transport's link. */
struct kvx_link {
	const struct kvx_transport_ops *ops;
	struct kvx_transport *transport;
	void *owner;              /* the sink's; the transport leaves it alone */
	struct kvx_link *refused; /* the sink's too: the next one that it has no owner for */
	uint32_t rails; /* number of rails, up or not; fixed before link_up or link_accepted */
};

/* Which part of a layer each rail is to carry: weights relative to each other; 0: only what rails
 * that are down leave behind, if it is usable at all. */
struct kvx_shares {
	uint8_t weight[KVX_RAILS_MAX];
	uint64_t usable; /* a bit for each rail */
};

/* What the engine offers to transports. `engine` is the context's. */
struct kvx_sink {
	/* A link of connect() is usable: all its rails, and messages. */
	void (*link_up)(void *engine, struct kvx_link *link);

	/* A peer connected; usable as above. The transport bounds how many half-made connections it
	 * holds and how long, before this. */
	void (*link_accepted)(void *engine, struct kvx_link *link);

	/* The link ended, or connect() failed: code (KVX_E_UNREACHABLE, KVX_E_PEER_LOST,
	 * KVX_E_PROTOCOL, KVX_E_TRANSPORT, ...) and why. Once per link, not after disconnect(). The
	 * engine calls disconnect() afterwards; until then operations on the link do nothing. */
	void (*link_down)(void *engine, struct kvx_link *link, int code, const char *text);

	/* One rail of the link can no longer carry batches (the bytes posted on it may or may not
	 * arrive), or can again. A link whose last rail fails goes down, at once or when the
	 * transport could not make one anew within connect_timeout_ms. Before link_up, a rail is
	 * taken to be up. */
	void (*rail_changed)(void *engine, struct kvx_link *link, uint32_t rail, bool up,
			     const char *text);

	/* A message arrived, whole. bytes are valid during the call. */
	void (*message)(void *engine, struct kvx_link *link, const void *bytes, uint32_t length);

	/*
	 * Where do `bytes` bytes at `place` of this unit's layer image go? Fills at most iov_max
	 * entries and returns their number; they cover the first bytes, maybe not all: ask again
	 * for the rest. 0: nowhere (dead generation, counted already, not the plan's): the
	 * transport drops them. KVX_PLACE_LATER, only where nothing of the batch has a place yet:
	 * buffers are full; ask again at the next progress(). Valid until the worker returns to the
	 * engine, so never keep an answer over progress() calls: that is what makes a revoke
	 * effective at once. Asynchronous transports begin copies to it by then, and tell
	 * settled().
	 */
	int (*place)(void *engine, struct kvx_link *link, const struct kvx_unit *unit,
		     uint64_t place, uint64_t bytes, struct iovec *iov, int iov_max);

	/* From asynchronous transports: as many answers of place() for this unit, of those above 0,
	 * are written to no more. For each answer once, before its landed() if there is one; also
	 * after disconnect() of the link. */
	void (*settled)(void *engine, const struct kvx_unit *unit, uint32_t answers);

	/* Bytes that place() gave room to, or that a batch read, are there, visible to every thread
	 * that synchronises with this one. Reported in order on each rail; need not match the
	 * sender's batches. */
	void (*landed)(void *engine, struct kvx_link *link, uint32_t rail,
		       const struct kvx_unit *unit, uint64_t place, uint64_t bytes);

	/* --- from one-sided transports --- */

	/* All of a unit's bytes are there, visible as above. Only the low bits of the generation
	 * came with it; a peer may claim what it likes. */
	void (*arrived)(void *engine, struct kvx_link *link, uint32_t rail, uint32_t imm);

	/* A permit is in force at the peer, whatever is said over the link from now on. */
	void (*permitted)(void *engine, struct kvx_permit *permit);

	/* No byte lands by this permit any more: follows forbid(), or disconnect() of its link. The
	 * transport knows it no more. */
	void (*forbidden)(void *engine, struct kvx_permit *permit);

	/* A withdrawn flow has nothing in flight any more. Also after disconnect(). */
	void (*drained)(void *engine, struct kvx_flow *flow);

	/* The peer's hardware refused this flow's bytes: its permit is not in force. */
	void (*refused)(void *engine, struct kvx_flow *flow, const char *text);
};

struct kvx_keyring;

struct kvx_transport_context {
	const struct kvx_sink *sink;
	void *engine;
	struct kvx_poller *poller; /* to sleep on; callbacks run on the worker */
	struct kvx_waker *waker;   /* wakes this engine's worker from any thread of this process */
	const struct kvx_log *log;
	const struct kvx_options *options;
	struct kvx_keyring
		*keyring; /* NULL: the engine has no secret; peers are not authenticated */
	uint64_t incarnation;
	uint32_t index; /* of the transport in its engine, below KVX_TRANSPORTS_MAX */
};

struct kvx_transport_ops {
	const char *name;

	/* Bytes land without the receiver's worker. The operations at the end are called for these
	 * transports only, and attach() and detach(). */
	bool one_sided;

	/* It reaches memory of devices alone, and there the memory itself: the engine stages
	 * nothing for it. attach(), detach() and forgotten() are called for such memory; what is
	 * refused goes over others. */
	bool devices_only;

	/* Bytes that place() gave room to are copied later. */
	bool asynchronous;

	/* Begins to listen. Runs on the opener's thread before the worker starts; may block. Fails
	 * with kvx_fail(); KVX_E_UNSUPPORTED if it cannot work on this machine. The context
	 * outlives it. */
	int (*open)(const struct kvx_transport_context *context, struct kvx_transport **transport);

	/* After the last link is disconnected; on the closer's thread, when the worker has ended.
	 */
	void (*close)(struct kvx_transport *transport);

	/* Where peers reach it, without the transport's name: "127.0.0.1:4711". Constant. */
	const char *(*address)(const struct kvx_transport *transport);

	/* Turns an address that a person wrote into one that connect() takes (host names into
	 * numbers) and checks its form. Any thread; may block. Needs no instance. */
	int (*resolve)(const char *address, char *resolved, size_t size);

	/* Begins to connect; link_up or link_down follows within connect_timeout_ms. At once: only
	 * KVX_E_INVALID, KVX_E_UNREACHABLE (certain not to work: another host, another process),
	 * KVX_E_MEMORY, KVX_E_SYSTEM. */
	int (*connect)(struct kvx_transport *transport, const char *address,
		       struct kvx_link **link);

	/* Ends and frees the link, of either side, in any state. Messages queued so far are sent if
	 * that needs no waiting. Its source memory is not read any more, as after withdraw(). */
	void (*disconnect)(struct kvx_link *link);

	/* Sends a message in order with the other messages of this link, not with batches. length 1
	 * to KVX_MESSAGE_MAX; copied. What the peer does not take yet is queued, up to
	 * KVX_MESSAGE_QUEUE_MAX; past that the link goes down. */
	void (*message)(struct kvx_link *link, const void *bytes, uint32_t length);

	/* Takes the batch whole (true; the slices array is copied, the memory they point to is not)
	 * or, for lack of room or because the rail is down, not at all (false: call again after a
	 * progress call, and arm() will see to it that one comes). Only on links of connect(). */
	bool (*post)(struct kvx_link *link, uint32_t rail, const struct kvx_batch *batch);

	/* Gives up this flow's batches: when flow->in_flight is 0, at once or when drained() says
	 * so, their memory is not read any more in a way that could be counted at the receiver or
	 * fault in this process. Bounded time: after drain_ms a one-sided transport breaks the
	 * rails that do not finish. The engine withdraws all flows before disconnect(). */
	void (*withdraw)(struct kvx_link *link, struct kvx_flow *flow);

	/* The memory goes away: drop what is known of it, here and at the peers. */
	void (*forget)(struct kvx_transport *transport, const struct kvx_memory *memory);

	/* Does what can be done now without descriptors having become ready: looks at shared
	 * memory, retries, timers. Called again and again while the engine is hot, at least every
	 * 100 ms otherwise. Bounded work. Returns how many things were done. */
	int (*progress)(struct kvx_transport *transport, int64_t now_ns);

	/* The worker is about to sleep on the poller: from now on whatever progress() would have
	 * work for makes a descriptor ready. Returns true if there is work already. Undone by the
	 * next progress(). */
	bool (*arm)(struct kvx_transport *transport);

	/* How this link moves bytes, for people: "mapped pools", "4 connections to 127.0.0.1:4711".
	 */
	void (*explain)(const struct kvx_link *link, char *text, size_t size);

	/* The local port that carries a rail, for figures: "mlx5_0:1"; of few different names, so
	 * not the peer's. */
	void (*port)(const struct kvx_link *link, uint32_t rail, char *text, size_t size);

	/* --- those of devices alone --- */

	/* After forget(): is the memory known no more at the peers, or not worth waiting for?
	 * Bounded time: drain_ms. */
	bool (*forgotten)(struct kvx_transport *transport, const struct kvx_memory *memory);

	/* --- these, and one-sided transports --- */

	/* Registers memory with the hardware, before it is used; sets memory->registered[index].
	 * Any thread; may block. KVX_E_MEMORY says which limit to raise. */
	int (*attach)(struct kvx_transport *transport, struct kvx_memory *memory);

	/* Undoes it, after forget(). Any thread; may block. */
	void (*detach)(struct kvx_transport *transport, struct kvx_memory *memory);

	/* --- one-sided transports --- */

	/* What a sender should know of attached memory to share well: bytes of the transport's own,
	 * which go with the ticket. Any thread. Returns how many. */
	uint32_t (*hint)(const struct kvx_transport *transport, const struct kvx_memory *memory,
			 uint8_t hint[KVX_HINT_MAX]);

	/* What each rail of a link of connect() is to carry of a request from this memory to the
	 * one of the hint, which is not trusted; no bytes: unknown. A rail that is down has weight
	 * 0. Returns how many have a share. */
	uint32_t (*share)(const struct kvx_link *link, const struct kvx_memory *memory,
			  const uint8_t *hint, uint32_t hint_bytes, struct kvx_shares *shares);

	/* Lends the permit to the peer of an accepted link; permitted() follows, or the link goes
	 * down. False: no memory; nothing is lent. */
	bool (*permit)(struct kvx_link *link, struct kvx_permit *permit);

	/* Takes it back, in any state; forbidden() follows. stopped: the peer has said that it
	 * writes no more, so it is not disturbed. */
	void (*forbid)(struct kvx_link *link, struct kvx_permit *permit, bool stopped);
};

/* The transports of this build, best first; NULL-terminated. */
extern const struct kvx_transport_ops *const kvx_transports[];

/* By name; NULL if there is none. */
const struct kvx_transport_ops *kvx_transport_find(const char *name);

#endif
