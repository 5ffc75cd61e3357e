/* SPDX-License-Identifier: Apache-2.0 */
/* Which request each slot of the receiver holds, whole and not yet verified. */
#ifndef KVX_BENCH_LEDGER_H
#define KVX_BENCH_LEDGER_H

#include "endpoint.h"

#include <pthread.h>
#include <stdbool.h>

struct kvx_ledger {
	pthread_mutex_t lock;
	struct kvx_ledger_record {
		uint64_t request;
		uint32_t blocks;
		bool pending;
	} * records;
	uint32_t slots;
	bool corrupted; /* setup.corrupt was done: once in a session */
};

/* Returns 0 or -1 (kvx_failure_text()). */
int kvx_ledger_init(struct kvx_ledger *ledger, uint32_t slots);
void kvx_ledger_finish(struct kvx_ledger *ledger);

/* Any thread: the slot's bytes are whole. */
void kvx_ledger_note(struct kvx_ledger *ledger, uint32_t slot, uint64_t request, uint32_t blocks);

/* Any thread: the slot is about to be written again. */
void kvx_ledger_forget(struct kvx_ledger *ledger, uint32_t slot);

/* Verifies all that is pending, while nothing is written. */
void kvx_ledger_verify(struct kvx_ledger *ledger, struct kvx_endpoint *endpoint,
		       struct kvx_verdict *verdict);

#endif
