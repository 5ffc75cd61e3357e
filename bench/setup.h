/* SPDX-License-Identifier: Apache-2.0 */
/* What both ends have to agree on before the first request. */
#ifndef KVX_BENCH_SETUP_H
#define KVX_BENCH_SETUP_H

#include "blocktable.h"
#include "settings.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct kvx_setup {
	uint32_t layers, planes, block_bytes, block_tokens;
	uint32_t request_blocks; /* blocks of a whole request: of a slot */
	uint32_t slots;          /* disjoint sets of blocks, through which requests rotate */
	uint32_t places;         /* requests that have a ticket at the same time, at most */
	uint32_t lease_ms;
	uint32_t corrupt;
	uint32_t rails; /* ports that each end uses at most; 0: all */
	struct kvx_blocktable_spec table;
	uint64_t seed;
	bool plain_memory;
	bool copy_baseline;
	json_t *payload; /* text, as kvx_payload_open() takes it */
	json_t *options; /* of the engine: an object of texts */
};

json_t *kvx_setup_encode(const struct kvx_setup *setup);

/* Checks every number against the limits. Returns 0 or -1 (kvx_failure_text()). Keeps references;
 * end them with kvx_setup_finish(). */
int kvx_setup_decode(json_t *message, struct kvx_setup *setup);
void kvx_setup_finish(struct kvx_setup *setup);

uint64_t kvx_setup_request_bytes(const struct kvx_setup *setup);
uint64_t kvx_setup_pool_bytes(const struct kvx_setup *setup);

#endif
