/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVX_CORE_GRANT_H
#define KVX_CORE_GRANT_H

#include "core/message.h"
#include "core/pool.h"
#include "core/transfer.h"

enum { KVX_GRANT_START = 1, KVX_GRANT_REVOKE = 2, KVX_GRANT_CLOSE = 4 };

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
	uint8_t *ticket;
	size_t ticket_bytes;
	struct kvx_image image;  /* its units are 0 until a sender was accepted */
	_Atomic uint32_t target; /* image.units, for everybody */

	/* The worker's. */
	struct kvx_counter *counters; /* one for each layer */
	struct kvx_peer *peer;        /* the sender, while it is connected and the grant goes on */
	struct kvx_list peer_entry;
	uint64_t stream; /* the sender's name of its stream */
	struct kvx_list report_entry;
	uint64_t reported[KVX_LAYER_WORDS]; /* whole layers that the sender was told of */
	struct kvx_timer lease;
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

/* Ends a grant because its sender has given the stream up. */
void kvx_grant_cancel(struct kvx_grant *grant, const char *text);

/* The grant of that slot, if it is of that generation; else NULL. */
struct kvx_grant *kvx_grant_find(struct kvx_engine *engine, uint32_t slot, uint32_t generation);

/* Frees it; the worker knows it no more, or has ended. */
void kvx_grant_free(struct kvx_grant *grant);

#endif
