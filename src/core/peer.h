/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A remote engine, reached over one link. Links are directed: this engine's streams go over the
 * links that it made (outgoing), and its grants are fed over those that it accepted (incoming).
 */
#ifndef KVX_CORE_PEER_H
#define KVX_CORE_PEER_H

#include "core/engine.h"
#include "core/message.h"
#include "core/ticket.h"
#include "plan/plan.h"

enum { KVX_PEER_START = 1, KVX_PEER_RELEASE = 2 };

/* The sending end of a rail: what it carries now. */
struct kvx_rail {
	bool up;
	struct kvx_stream *stream; /* whose unit is under way, or NULL */
	uint32_t layer, unit;
	uint32_t layers; /* from that one on, whose same unit is under way too */
	bool joined;     /* what they have side by side leaves now, then the rest of each */
	uint32_t slices; /* posted of it */
	struct kvx_cursor cursor;
	char *gathered;          /* a buffer with what follows the cursor, or NULL */
	struct kvx_cursor after; /* it */
	struct kvx_lift *lift;   /* of devices' memory; NULL: it has carried none yet */
};

/* post.c: gives up a unit of the layer if the rail carries one. */
void kvx_rail_give_up(struct kvx_rail *rail, struct kvx_stream *stream, uint32_t layer);

/* The receiving end of a rail: the unit under way, and where its next byte must begin. */
struct kvx_rail_arrival {
	struct kvx_unit unit;
	uint64_t next;
};

/* Owner: the worker, but for what says otherwise. */
struct kvx_peer {
	struct kvx_engine *engine;
	struct kvx_roster entry; /* in engine->peers */
	uint64_t id;
	bool outgoing;

	/* For the threads that hold a handle. */
	struct kvx_submission submission;
	_Atomic int state; /* enum kvx_peer_state; stored with release after info and code */
	struct kvx_event event;
	pthread_mutex_t mutex; /* of info, and of which figures there are */
	struct kvx_peer_info info;
	struct kvx_rail_figures *figures; /* of each rail that there ever was, or NULL */
	uint32_t figure_count;
	int code;  /* why it is down */
	bool held; /* a handle exists */

	char *address;     /* where to connect to: outgoing only */
	uint64_t expected; /* incarnation that a ticket named; 0: any */
	char expected_name[KVX_NAME_MAX + 1];
	uint32_t next_transport; /* to try */
	uint32_t reach;          /* transports that may be tried */

	struct kvx_link *link; /* or NULL */
	bool condemned;        /* the link is to be disconnected when the step ends */
	bool trying;           /* no link: the next transport is to be tried when the step ends */
	bool greeted;          /* the other side's HELLO has come */
	struct kvx_timer handshake;
	_Atomic uint32_t transfers;      /* streams and feeds; for who looks */
	struct kvx_list streams, active; /* all; those with units to post */
	struct kvx_list pulls;           /* of grants, from offers of this peer: outgoing */
	uint32_t asked_bytes;            /* of tickets that it has not answered */
	struct kvx_list pulled;          /* offers that this peer pulls: incoming */
	struct kvx_list feeds;           /* of grants, that come over it */
	struct kvx_list draining;        /* ended streams whose bytes may be under way */
	struct kvx_list lent;            /* feeds whose permits the transport holds */
	struct kvx_rail *rails;          /* outgoing: rail_count of them, as the link has */
	uint32_t rail_count;
	struct kvx_rail_arrival *arrivals; /* incoming: likewise */
	struct kvx_unit refused;           /* last unit refused, so that it is counted once */
	int64_t heard_ns;                  /* by kvx_figure_add(): others look */
	int64_t said_ns;
	int64_t silence_ns; /* longer is lost */
};

extern const struct kvx_sink kvx_engine_sink;

/* Not in the engine's list yet. NULL: no memory. */
struct kvx_peer *kvx_peer_new(struct kvx_engine *engine, bool outgoing);
void kvx_peer_free(struct kvx_peer *peer);

/* The worker: puts it into the engine's list. */
void kvx_peer_enlist(struct kvx_peer *peer);

/* The peer is down for good, and whatever goes on over it ends: a later stream makes a new one. */
void kvx_peer_end(struct kvx_peer *peer, int code, const char *text);

/* One of its name was lost before, as far as is remembered. */
bool kvx_peer_was_lost(const struct kvx_peer *peer);

/* For those who hold a handle. */
void kvx_peer_set_state(struct kvx_peer *peer, enum kvx_peer_state state);

/* What kvx_peer_info() tells: how the chosen transport works, and why those before it did not. */
void kvx_peer_tell_why(struct kvx_peer *peer);
void kvx_peer_tell_why_not(struct kvx_peer *peer, const char *transport, const char *said);

/* connect.c: tries the transports of this engine, best first, until one begins to connect. */
void kvx_peer_try_next(struct kvx_peer *peer);

/* The other side must greet within connect_timeout_ms from now. */
void kvx_peer_arm_handshake(struct kvx_peer *peer);

/* The peer's address leads to another incarnation than the ticket named. */
void kvx_peer_end_restarted(struct kvx_peer *peer, uint64_t incarnation);

/* The peer that a ticket's stream goes to: the living one of that incarnation over a transport that
 * the ticket names, or a new one that begins to connect.
 * KVX_E_MEMORY. */
int kvx_peer_for(struct kvx_engine *engine, const struct kvx_ticket *ticket, uint32_t reach,
		 struct kvx_peer **peer);

void kvx_peer_say(struct kvx_peer *peer, const struct kvx_message *message);

static inline bool kvx_peer_is_up(const struct kvx_peer *peer)
{
	return atomic_load_explicit(&peer->state, memory_order_relaxed) == KVX_PEER_UP;
}

static inline bool kvx_peer_is_down(const struct kvx_peer *peer)
{
	return atomic_load_explicit(&peer->state, memory_order_relaxed) == KVX_PEER_DOWN;
}

/* Ends the link and whatever goes on over it. While connecting: another transport is tried. */
void kvx_peer_condemn(struct kvx_peer *peer, int code, const char *text);

/* What was heard counts as a sign of life. */
static inline void kvx_peer_heard(struct kvx_peer *peer)
{
	__atomic_store_n(&peer->heard_ns, peer->engine->now_ns, __ATOMIC_RELAXED);
}

/* The worker's step: heartbeats; links to disconnect, peers to free. Return how much was done. */
int kvx_peers_tick(struct kvx_engine *engine);
int kvx_peers_reap(struct kvx_engine *engine);

/* The engine closes: says good-bye to all, disconnects and frees them. */
void kvx_peers_finish(struct kvx_engine *engine);

/* post.c: posts what rails take. Returns how many batches. */
int kvx_peer_post(struct kvx_peer *peer);

/* arrive.c: the sink's half of the data path. */
int kvx_arrival_place(void *context, struct kvx_link *link, const struct kvx_unit *unit,
		      uint64_t place, uint64_t bytes, struct iovec *iov, int iov_max);
void kvx_arrival_settled(void *context, const struct kvx_unit *unit, uint32_t answers);
void kvx_arrival_landed(void *context, struct kvx_link *link, uint32_t rail,
			const struct kvx_unit *unit, uint64_t place, uint64_t bytes);
void kvx_arrival_counted(void *context, struct kvx_link *link, uint32_t rail, uint32_t imm);

/* A device has taken what landed to where it belongs; the last of a unit. */
void kvx_arrival_copied(struct kvx_engine *engine, const struct kvx_pending *pending);

#endif
