/* SPDX-License-Identifier: Apache-2.0 */
/* How many slots the pools have: enough to rotate, if there is the memory. */
#ifndef KVX_BENCH_CAPACITY_H
#define KVX_BENCH_CAPACITY_H

#include <stdbool.h>
#include <stdint.h>

struct kvx_capacity {
	uint64_t request_bytes;
	uint64_t pool_bytes;      /* wanted for each pool */
	uint64_t available_bytes; /* of memory for all pools; 0: not known */
	uint32_t pools;           /* that share it */
	uint32_t inflight;        /* wanted */
	bool reuse_buffer;        /* no more slots than requests in flight */
	uint32_t blocks;          /* of a request: a pool has at most blocks_max */
	uint64_t blocks_max;
};

/* Sets the slots, and the requests that can be in flight. Returns false if there is no memory for
 * even one. */
bool kvx_capacity_plan(const struct kvx_capacity *capacity, uint32_t *slots, uint32_t *inflight);

#endif
