/* SPDX-License-Identifier: Apache-2.0 */
/* How many units a layer is cut into. */
#ifndef KVX_PLAN_CUT_H
#define KVX_PLAN_CUT_H

#include "plan/plan.h"

/* Ranges of a prefill's tokens that get ready one after another, at most `most` of them.
 * chunk_tokens: 0 for all at once. */
static inline uint32_t kvx_cut_chunks(uint32_t tokens, uint32_t chunk_tokens, uint32_t most)
{
	uint32_t chunks = chunk_tokens ? tokens / chunk_tokens + (tokens % chunk_tokens != 0) : 1;

	return chunks < most ? chunks : most;
}

/* Where any rail takes any unit: as many for each chunk, of about unit_bytes. image: of what the
 * sender would move alone. */
static inline uint32_t kvx_cut_freely(const struct kvx_image *image, uint64_t unit_bytes,
				      uint32_t chunks, uint32_t most)
{
	uint32_t tokens = image->token_end - image->token_first;
	uint32_t pieces = tokens / image->align + (tokens % image->align != 0);
	uint32_t units = kvx_image_units(kvx_image_bytes(image), unit_bytes, most);

	units = (units + chunks - 1) / chunks * chunks;
	units = units > most ? units - chunks : units;
	return units < pieces ? units : pieces;
}

#endif
