/* SPDX-License-Identifier: Apache-2.0 */
/* What each end has: an engine, a pool, and which blocks of it belong to which slot. */
#ifndef KVX_BENCH_ENDPOINT_H
#define KVX_BENCH_ENDPOINT_H

#include "payload.h"
#include "ports.h"
#include "setup.h"

#include <kvxfer/kvxfer.h>

enum kvx_end { KVX_END_SENDER, KVX_END_RECEIVER };

struct kvx_endpoint {
	struct kvx_setup setup;
	struct kvx_payload payload;
	struct kvx_engine *engine;
	struct kvx_ports ports; /* of the engine */
	_Atomic bool opened;    /* it has told of its ports; read by the engine's thread too */
	bool verbose;
	uint32_t verbs_qps, verbs_mtu; /* as those options; mtu 0: auto */
	struct kvx_region *region;     /* plain memory only */
	void *memory;                  /* plain memory only */
	struct kvx_pool *pool;
	uint32_t *table; /* setup.slots times setup.request_blocks */
};

/* What verification found. */
struct kvx_verdict {
	uint64_t bytes;
	uint64_t wrong_bytes;
	/* The first wrong byte, if there is one. */
	struct kvx_pattern_place place;
	uint64_t offset;
	uint8_t expected, found;
};

/* Takes the setup over, also if it fails. verbose: shows the engine's log. Returns 0 or -1
 * (kvx_failure_text()). */
int kvx_endpoint_open(struct kvx_endpoint *endpoint, struct kvx_setup *setup, enum kvx_end end,
		      bool verbose);
void kvx_endpoint_close(struct kvx_endpoint *endpoint);

/* The block table of one end, whole; the caller frees it. */
uint32_t *kvx_endpoint_table(const struct kvx_setup *setup, enum kvx_end end);

/* The blocks of a slot. */
const uint32_t *kvx_endpoint_blocks(const struct kvx_endpoint *endpoint, uint32_t slot);

/* Fills the first `blocks` blocks of a slot with what that request sends. */
void kvx_endpoint_fill(struct kvx_endpoint *endpoint, uint32_t slot, uint64_t request,
		       uint32_t blocks);

/* Checks them, and adds to the verdict. */
void kvx_endpoint_verify(const struct kvx_endpoint *endpoint, uint32_t slot, uint64_t request,
			 uint32_t blocks, struct kvx_verdict *verdict);

/* Damages one byte of a slot, chosen by `index`. */
void kvx_endpoint_corrupt(struct kvx_endpoint *endpoint, uint32_t slot, uint32_t blocks,
			  uint32_t index);

#endif
