/* SPDX-License-Identifier: Apache-2.0 */
/* The baseline of shm and loop: one thread copies the same blocks, by memcpy, from memory like the
 * sender's pool into the receiver's. */
#ifndef KVX_BENCH_COPIES_H
#define KVX_BENCH_COPIES_H

#include "endpoint.h"

struct kvx_copies {
	char *source; /* NULL: not open */
	uint32_t *source_table;
	uint32_t slot; /* where the next run goes on */
};

/* endpoint: the receiver's. Returns 0 or -1 (kvx_failure_text()). */
int kvx_copies_open(struct kvx_copies *copies, const struct kvx_endpoint *endpoint);
void kvx_copies_close(struct kvx_copies *copies, const struct kvx_endpoint *endpoint);

/* Copies slot after slot, at most all of them once, for about half a second at most. */
void kvx_copies_run(struct kvx_copies *copies, const struct kvx_endpoint *endpoint, uint64_t *bytes,
		    int64_t *elapsed_ns);

#endif
