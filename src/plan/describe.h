/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan comes to: it is run through without memory, and its pieces are counted. Pure
 * functions, no allocation. */
#ifndef KVX_PLAN_DESCRIBE_H
#define KVX_PLAN_DESCRIBE_H

#include "plan/plan.h"

#include <kvxfer/plan.h>

/* Pieces by their length in units of KVX_ALIGN; none is longer than a batch. */
#define KVX_LENGTHS (KVX_BATCH_BYTES_MAX / KVX_ALIGN + 1)

#define KVX_PLANE_BYTES_MAX (UINT64_C(1) << 48) /* of all blocks of one plane of one layer */

/* One end in normal form. */
struct kvx_described_end {
	struct kvx_shape shape;
	uint64_t strides[KVX_PLANES_MAX];
	uint32_t layer_stride; /* 0: layers lie apart */
	const uint32_t *blocks;
};

/* How a layer is cut. */
struct kvx_described_cut {
	uint32_t units;
	bool by_rail; /* unit u is rail homes[u]'s; otherwise the rails take them as they come */
	uint8_t weights[KVX_UNITS_MAX], homes[KVX_UNITS_MAX];
};

/* One sender's plan and its ends. */
struct kvx_described {
	struct kvx_described_end sender, receiver;
	struct kvx_share share;
	struct kvx_plan plan;
	uint32_t chunks; /* of the request */
	struct kvx_described_cut cut;
};

/* Cuts a layer as a stream does that is one of `senders`. */
void kvx_describe_cut(struct kvx_described_cut *cut, const struct kvx_described *described,
		      const struct kvx_plan_request *request, uint32_t token_first,
		      uint32_t token_end);

/* Makes the plan but its runs: those follow, as many as described->chunks at most. */
void kvx_describe_plan(struct kvx_described *described, uint32_t token_first, uint32_t token_end);

/* The figures of a plan. lengths: KVX_LENGTHS numbers to count in. */
void kvx_describe_share(const struct kvx_described *described, uint64_t *lengths,
			struct kvx_plan_share *share);

/* A share in words, a sentence a line, as kvx_plan_report_explain(). */
size_t kvx_describe_words(const struct kvx_plan_share *share, const struct kvx_shape *sender,
			  const struct kvx_shape *receiver, char *text, size_t size);

#endif
