/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether pieces are worth gathering before they are sent. A model of the sending worker's time:
 *
 *   direct = pieces that are contiguous at both ends * KVX_COST_SLICE
 *   staged = pieces at the sender * KVX_COST_PIECE + bytes / KVX_COST_COPY
 *            + pieces at the receiver * KVX_COST_SLICE
 *
 * Pieces that are whole chunks are counted by the request's runs where blocks are packed.
 * Where the receiver places the bytes itself, its pieces are not the sender's slices, and count
 * nothing on either side.
 */
#ifndef KVX_PLAN_COST_H
#define KVX_PLAN_COST_H

#include "plan/plan.h"

/* What one more slice costs, in ns: fabric-lib posts a write of 1 KiB in 90 ns (arXiv 2510.27656);
 * this project's tcp takes about as much for one more part of a message (docs/data-path.md). */
#define KVX_COST_SLICE 90.0
/* What one more piece of a gathering copy costs, in ns, and its rate in bytes per ns: memory that
 * is not in a cache, on one core. */
#define KVX_COST_PIECE 10.0
#define KVX_COST_COPY 6.0

#define KVX_STAGING_BYTES (256u << 10) /* of a buffer that pieces are gathered in */

struct kvx_cost {
	double direct_ns, staged_ns; /* of a layer */
};

/* sources, targets: of a layer; targets may be NULL while they are not known. one_sided: slices
 * have to be contiguous at the receiver too. */
void kvx_plan_cost(const struct kvx_plan *plan, const struct kvx_source *sources,
		   const struct kvx_target *targets, bool one_sided, struct kvx_cost *cost);

/* Could another pool make pieces of this one's planes that are worth gathering? */
bool kvx_cost_may_stage(const struct kvx_shape *shape);

#endif
