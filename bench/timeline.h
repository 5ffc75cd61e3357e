/* SPDX-License-Identifier: Apache-2.0 */
/* A request's layers, drawn for people: at most 100 columns. */
#ifndef KVX_BENCH_TIMELINE_H
#define KVX_BENCH_TIMELINE_H

#include <stdint.h>
#include <stdio.h>

/* Times in ns from the same point on, on the same clock. */
struct kvx_timeline {
	uint32_t layers;
	const int64_t *ready_ns;
	const int64_t *first_ns; /* 0: was not seen before the layer was whole */
	const int64_t *whole_ns;
	int64_t begin_ns; /* the first layer's compute began */
};

void kvx_timeline_draw(const struct kvx_timeline *timeline, FILE *file);

#endif
