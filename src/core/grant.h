/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVX_CORE_GRANT_H
#define KVX_CORE_GRANT_H

#include "core/feed.h"
#include "core/pool.h"
#include "core/transfer.h"

enum { KVX_GRANT_START = 1, KVX_GRANT_REVOKE = 2, KVX_GRANT_CLOSE = 4, KVX_GRANT_MIRROR = 8 };

/* The counter of one layer, or of the tail. bits and wanted are the worker's; arrived is the number
 * of set bits and target of wanted ones, for everybody. */
struct kvx_counter {
	uint64_t bits, wanted;
	uint64_t landed; /* of bits to come: a device copies them to their blocks */
	_Atomic uint32_t arrived, target;
};

/* Made by its opener, then owned by the worker; what is constant or atomic anybody may read. */
struct kvx_grant {
	struct kvx_transfer transfer; /* first */
	struct kvx_roster entry;      /* in the engine, under its lock */
	struct kvx_submission submission;
	_Atomic(uint32_t *) words;   /* to be mirrored to; set once */
	_Atomic bool fenced, closed; /* answers to requests */
	_Atomic bool still;          /* it has ended and nothing lands any more; for who looks */

	/* Constant. */
	struct kvx_pool *pool;
	uint32_t slot, generation;
	uint64_t key;
	uint32_t lease_ms;
	int64_t opened_ns;
	uint32_t *table;
	uint32_t count;                  /* blocks of the table */
	uint32_t token_first, token_end; /* of the request; those before are held already */
	uint64_t table_hash;
	uint8_t *ticket;
	size_t ticket_bytes;
	struct kvx_tail tail;
	struct kvx_source tail_place;
	const struct kvx_memory **memories; /* that senders may write: the pool's, the tail's */
	uint32_t memory_count;
	uint32_t senders;

	/* The worker's. */
	struct kvx_counter *counters; /* one for each layer, and the tail's */
	struct kvx_feed *feeds;       /* one for each sender, came of them */
	_Atomic uint32_t came;        /* stored after the feed's peer is known; any thread reads */
	char *refusal;                /* why the last sender that had the ticket was refused */
	bool shared_out;              /* all came, and bytes may move */
	uint8_t feed_of_unit[KVX_UNITS_MAX]; /* once they may */
	struct kvx_list pulls;               /* offers that are asked to feed it */
	struct kvx_timer lease;
	uint32_t landing;          /* calls of copy() that write its blocks */
	uint32_t requests;         /* to be acknowledged once all fences are closed */
	_Atomic uint32_t drain_ms; /* set by who revokes */
};

/* The worker. */

/* Ends a grant that goes on: from here on nothing lands in it. Does nothing to one that has ended.
 */
void kvx_grant_end(struct kvx_grant *grant, int code, const char *text);

/* It has ended: soon no byte lands in it any more. */
void kvx_grant_fence(struct kvx_grant *grant);

/* No byte lands by a permit any more, nor out of a device's ring. */
bool kvx_grant_is_fenced(const struct kvx_grant *grant);

/* Requests that waited for the fences are answered. */
void kvx_grant_acknowledge(struct kvx_grant *grant);

/* The counter of a layer, or of KVX_TAIL. */
static inline struct kvx_counter *kvx_grant_counter(const struct kvx_grant *grant, uint32_t layer)
{
	return &grant->counters[layer == KVX_TAIL ? grant->transfer.layers : layer];
}

/* Ends a grant because its sender has given the stream up. */
void kvx_grant_cancel(struct kvx_grant *grant, const char *text);

/* The grant of that slot, if it is of that generation; else NULL. */
struct kvx_grant *kvx_grant_find(struct kvx_engine *engine, uint32_t slot, uint32_t generation);

/* Frees it; the worker knows it no more, or has ended. */
void kvx_grant_free(struct kvx_grant *grant);

#endif
