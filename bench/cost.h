/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cost model: a link of known goodput carries layers in the order in which they become ready.
 * For one request this is exposed = alpha + delta + max over k of (sum of X from k on - sum of C
 * after k), X being a layer's wire time and C its compute; for several in flight it is the same
 * link, shared.
 */
#ifndef KVX_BENCH_COST_H
#define KVX_BENCH_COST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvx_cost_job {
	double ready_ns; /* the layer is computed */
	double wire_ns;  /* its bytes over the goodput */
	double whole_ns; /* set by kvx_cost_schedule(): when a link without latency has moved it */
	uint32_t request;
	bool is_last; /* layer of its request; left alone */
};

/* Sorts the jobs by ready_ns, those of the same time by request, and sets whole_ns of each. */
void kvx_cost_schedule(struct kvx_cost_job *jobs, size_t count);

/* Goodput in bytes per ns from the times of a larger and a smaller request: what the bytes between
 * them took, which leaves out what a request costs whatever its size. If the times do not allow
 * that, from the larger one alone. */
double kvx_cost_goodput(double large_bytes, double large_ns, double small_bytes, double small_ns);

/* The share of a transfer of `alone_ns` that compute hid, 0..1. */
double kvx_cost_hidden(double exposed_ns, double alone_ns);

#endif
