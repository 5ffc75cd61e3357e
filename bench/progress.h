/* SPDX-License-Identifier: Apache-2.0 */
/* Rows for people: one for each second of transfer, and a line on a terminal meanwhile. */
#ifndef KVX_BENCH_PROGRESS_H
#define KVX_BENCH_PROGRESS_H

#include "statistics.h"

#include <stdbool.h>
#include <stdio.h>

struct kvx_progress {
	FILE *rows; /* where rows go */
	bool has_terminal;
	bool has_header;
	uint32_t second; /* of the row that is being filled */
	uint64_t bytes;  /* of that row */
	uint64_t requests;
	struct kvx_histogram latency_ns;
	uint64_t total_bytes;
	int64_t elapsed_ns; /* transfer time at the last request */
};

void kvx_progress_init(struct kvx_progress *progress, FILE *rows);

/* A request that was whole at elapsed_ns of transfer time. */
void kvx_progress_add(struct kvx_progress *progress, int64_t elapsed_ns, uint64_t bytes);

/* One of its latencies; before kvx_progress_add(). */
void kvx_progress_latency(struct kvx_progress *progress, int64_t latency_ns);

/* On a terminal, what is being done; NULL takes the line away. */
void kvx_progress_show(struct kvx_progress *progress, const char *doing);

/* Prints the last row. */
void kvx_progress_finish(struct kvx_progress *progress);

#endif
