/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVX_CORE_GRANT_H
#define KVX_CORE_GRANT_H

#include "core/message.h"
#include "core/pool.h"
#include "core/transfer.h"

enum { KVX_GRANT_START = 1, KVX_GRANT_REVOKE = 2, KVX_GRANT_CLOSE = 4 };

/* Between a grant and the bytes that a one-sided transport lets land. */
enum kvx_fence {
	KVX_FENCE_CLOSED,   /* none lands: nothing is lent, or not any more */
	KVX_FENCE_OPEN,     /* the permit is lent, or about to be */
	KVX_FENCE_DRAINING, /* the sender was asked to stop */
	KVX_FENCE_CLOSING   /* the permit is taken back */
};

/* The counter of one layer. bits is the worker's; arrived is its number of set bits, for everybody.
 */
struct kvx_counter {
	uint64_t bits;
	_Atomic uint32_t arrived;
};

/* Made by its opener, then owned by the worker; what is constant or atomic anybody may read. */
struct kvx_grant {
	struct kvx_transfer transfer; /* first */
	struct kvx_list entry;        /* in the engine, under its lock */
	struct kvx_submission submission;
	_Atomic bool fenced, closed; /* answers to requests */

	/* Constant. */
	struct kvx_pool *pool;
	uint32_t slot, generation;
	uint64_t key;
	uint32_t lease_ms;
	int64_t opened_ns;
	uint32_t *table;
	uint64_t table_hash;
	uint8_t *ticket;
	size_t ticket_bytes;
	struct kvx_image image;  /* its units are 0 until a sender was accepted */
	_Atomic uint32_t target; /* image.units, for everybody */

	/* The worker's. */
	struct kvx_counter *counters; /* one for each layer */
	struct kvx_peer *peer;        /* the sender, while it is connected and the grant goes on */
	struct kvx_list peer_entry;
	uint64_t stream; /* the sender's name of its stream */
	uint64_t hash;   /* of the plan that was accepted */
	struct kvx_list report_entry;
	uint64_t reported[KVX_LAYER_WORDS]; /* whole layers that the sender was told of */
	struct kvx_timer lease;

	/* The worker's: its permit. */
	struct kvx_permit permit;
	enum kvx_fence fence;
	struct kvx_peer *lender;    /* over whose link the permit is lent; NULL: it is gone */
	struct kvx_list lent_entry; /* the lender's */
	struct kvx_timer drain;     /* the sender has to stop before it runs out */
	bool drained;               /* it has stopped already */
	uint32_t requests;          /* to be acknowledged once the fence is closed */
	_Atomic uint32_t drain_ms;  /* set by who revokes */
};

/* The worker. */

/* A sender presents its ticket. Fails with the code and text to refuse it with. */
int kvx_grant_accept(struct kvx_grant *grant, struct kvx_peer *peer,
		     const struct kvx_message *open);

/* Tells the sender of the layers that became whole since the last time. */
void kvx_grant_report(struct kvx_grant *grant);

/* Ends a grant that goes on: from here on nothing lands in it. Does nothing to one that has ended.
 */
void kvx_grant_end(struct kvx_grant *grant, int code, const char *text);

/* It has ended: soon no byte lands in it any more. */
void kvx_grant_fence(struct kvx_grant *grant);

/* The sender says that nothing is under way any more. */
void kvx_grant_drained(struct kvx_grant *grant);

/* The transport's answers: the permit is in force; it is not any more. */
void kvx_grant_permitted(struct kvx_grant *grant);
void kvx_grant_forbidden(struct kvx_grant *grant);

/* The link that its permit was lent over is disconnected: the transport takes it back. */
void kvx_grant_orphan(struct kvx_grant *grant);

/* Ends a grant because its sender has given the stream up. */
void kvx_grant_cancel(struct kvx_grant *grant, const char *text);

/* The grant of that slot, if it is of that generation; else NULL. */
struct kvx_grant *kvx_grant_find(struct kvx_engine *engine, uint32_t slot, uint32_t generation);

/* Frees it; the worker knows it no more, or has ended. */
void kvx_grant_free(struct kvx_grant *grant);

#endif
