/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVX_BENCH_WORKLOADS_H
#define KVX_BENCH_WORKLOADS_H

#include "drive.h"

/* Each fills drive->results. Returns 0, also if requests failed, or -1 (kvx_failure_text()). */

/* Requests of blocks, all ready at once, as fast as possible. */
int kvx_workload_blocks(struct kvx_drive *drive);

/* Requests whose layers become ready one after another, as prefill computes them. */
int kvx_workload_stream(struct kvx_drive *drive);

/* One block and one request at a time. */
int kvx_workload_latency(struct kvx_drive *drive);

#endif
