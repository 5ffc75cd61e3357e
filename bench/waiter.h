/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's threads: each waits, layer by layer, for one grant at a time, and tells the other
 * end when each layer was whole. */
#ifndef KVX_BENCH_WAITER_H
#define KVX_BENCH_WAITER_H

#include "channel.h"
#include "ledger.h"

#include <stdbool.h>

/* What a waiter has to do for one request. */
struct kvx_wait {
	uint32_t slot;
	uint64_t request;
	uint32_t blocks;
	bool verify;
	bool timeline; /* look for each layer's first byte too, which costs CPU */
};

struct kvx_waiter {
	struct kvx_endpoint *endpoint;
	struct kvx_ledger *ledger;
	struct kvx_channel *channel;
	uint32_t place;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock: */
	struct kvx_wait wait;
	struct kvx_grant *grant; /* NULL: idle. The thread closes it, others may revoke it */
	bool quit;
	/* The thread's own, while a grant is open: */
	int64_t *first_ns;
	int64_t *whole_ns;
};

/* Returns 0 or -1 (kvx_failure_text()). */
int kvx_waiter_start(struct kvx_waiter *waiter, struct kvx_endpoint *endpoint,
		     struct kvx_ledger *ledger, struct kvx_channel *channel, uint32_t place);

/* Revokes what it waits for and ends the thread. */
void kvx_waiter_stop(struct kvx_waiter *waiter);

/* Opens the grant, sends its ticket and waits in the background. Returns 0 or -1
 * (kvx_failure_text()): then nothing was begun. */
int kvx_waiter_grant(struct kvx_waiter *waiter, const struct kvx_wait *wait);

/* Ends the wait early, if there is one. */
void kvx_waiter_cancel(struct kvx_waiter *waiter);

#endif
