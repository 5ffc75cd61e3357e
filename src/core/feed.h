/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One sender of a grant, as the receiver sees it: what it holds, which part of the request and
 * which units are its own, and the fence between it and the granted blocks.
 */
#ifndef KVX_CORE_FEED_H
#define KVX_CORE_FEED_H

#include "base/timer.h"
#include "core/message.h"
#include "core/transfer.h"
#include "plan/plan.h"

struct kvx_grant;

/* Between a grant and the bytes that a one-sided transport lets land. */
enum kvx_fence {
	KVX_FENCE_CLOSED,   /* none lands: nothing is lent, or not any more */
	KVX_FENCE_OPEN,     /* the permit is lent, or about to be */
	KVX_FENCE_DRAINING, /* the sender was asked to stop */
	KVX_FENCE_CLOSING   /* the permit is taken back */
};

/* The worker's. */
struct kvx_feed {
	struct kvx_grant *grant;
	struct kvx_peer *peer; /* while it is connected and the grant needs it */
	struct kvx_list peer_entry;
	char name[KVX_NAME_MAX + 1]; /* the peer's, and its incarnation: under the engine's lock,
					since others look */
	uint64_t incarnation;
	uint64_t stream; /* the sender's name of its stream */
	struct kvx_geometry geometry;
	bool tail; /* it has the request's tail */
	uint32_t units;
	bool weighted;
	uint8_t weights[KVX_UNITS_MAX];

	/* Constant once all senders have come. */
	struct kvx_share share;
	struct kvx_image image;
	struct kvx_lay lays[KVX_PLANES_MAX];
	uint32_t unit_first; /* the grant's number of its first unit */
	uint64_t wanted;     /* a bit for each unit that is its, as the grant numbers them */
	uint64_t hash;       /* of the plan */

	uint32_t layers_left;               /* with units that have not arrived; the tail is one */
	uint64_t arrived[KVX_LAYER_WORDS];  /* layers of which all its units have */
	uint64_t reported[KVX_LAYER_WORDS]; /* of these, those that it was told of */
	struct kvx_list report_entry;

	/* Its permit. */
	struct kvx_permit permit;
	bool permitted; /* it is in force */
	enum kvx_fence fence;
	struct kvx_peer *lender;    /* over whose link the permit is lent; NULL: it is gone */
	struct kvx_list lent_entry; /* the lender's */
	struct kvx_timer drain;     /* the sender has to stop before it runs out */
	bool drained;               /* it has stopped already */
};

void kvx_feed_init(struct kvx_feed *feed, struct kvx_grant *grant);

/* A sender presents its ticket. Fails with the code and text to refuse it with; then another may
 * come in its place, also when it is the last one and together they do not make the whole. */
int kvx_feed_accept(struct kvx_grant *grant, struct kvx_peer *peer, const struct kvx_message *open);

/* Those that have come: "0 is prefill-3, 1 is prefill-0". Returns the length, or `size` or more. */
size_t kvx_feed_names(const struct kvx_grant *grant, char *text, size_t size);

/* The grant's sender that this peer is, or NULL. */
struct kvx_feed *kvx_feed_find(struct kvx_grant *grant, const struct kvx_peer *peer);

/* Tells the sender of the layers that arrived since the last time. */
void kvx_feed_report(struct kvx_feed *feed);

/* The grant needs its peer no more. */
void kvx_feed_detach(struct kvx_feed *feed);

/* Its peer is gone: the grant ends, unless this sender had done its part. */
void kvx_feed_lost(struct kvx_feed *feed, int code, const char *text);

/* The grant has ended: soon no byte of this sender lands in it any more. */
void kvx_feed_fence(struct kvx_feed *feed);

/* The sender has as long as the grant says to stop. */
void kvx_feed_drain(struct kvx_feed *feed);

/* The sender says that nothing is under way any more. */
void kvx_feed_drained(struct kvx_feed *feed);

/* The transport's answers: the permit is in force; it is not any more. */
void kvx_feed_permitted(struct kvx_feed *feed);
void kvx_feed_forbidden(struct kvx_feed *feed);

/* The link that its permit was lent over is disconnected: the transport takes it back. */
void kvx_feed_orphan(struct kvx_feed *feed);

#endif
