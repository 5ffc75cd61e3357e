/* SPDX-License-Identifier: Apache-2.0 */
/* Arithmetic of places that both sides' halves of the plan share. */
#ifndef KVX_PLAN_LOCATE_H
#define KVX_PLAN_LOCATE_H

#include "plan/plan.h"

/* Bytes of a plane within the tokens first .. end - 1 of the image. */
static inline uint64_t kvx_segment_bytes(const struct kvx_image_plane *plane, uint32_t first,
					 uint32_t end)
{
	first = first < plane->token_first ? plane->token_first : first;
	end = end > plane->token_end ? plane->token_end : end;
	if (end <= first)
		return 0;
	uint64_t grains = ((uint64_t)end - first + plane->grain_tokens - 1) / plane->grain_tokens;
	return grains * plane->heads * plane->grain_bytes;
}

/* The chunks of a plane that a unit has. Only the last one may be cut short. */
struct kvx_segment {
	uint32_t chunk, last_chunk, last_grains;
	uint64_t bytes; /* 0: the unit has nothing of this plane */
};

static inline struct kvx_segment kvx_segment_of(const struct kvx_image *image,
						const struct kvx_image_plane *plane, uint32_t first,
						uint32_t end)
{
	first = first < plane->token_first ? plane->token_first : first;
	end = end > plane->token_end ? plane->token_end : end;
	if (end <= first || !plane->heads)
		return (struct kvx_segment){0};
	uint32_t chunk = first / image->chunk_tokens, last = (end - 1) / image->chunk_tokens;
	uint32_t grains = (end - 1 - last * image->chunk_tokens) / plane->grain_tokens + 1;
	uint64_t bytes = (uint64_t)(last - chunk) * plane->chunk_bytes +
			 (uint64_t)grains * plane->heads * plane->grain_bytes;

	return (struct kvx_segment){chunk, last, grains, bytes};
}

static inline uint32_t kvx_row_bytes(const struct kvx_image_plane *plane, uint32_t grains)
{
	return (plane->by_head ? grains : plane->heads) * plane->grain_bytes;
}

/* Of how many bytes the pieces are that one end holds contiguously in a chunk of so many grains:
 * the whole chunk, a row of it, or one grain of one head. */
static inline uint32_t kvx_lay_piece(const struct kvx_lay *lay, const struct kvx_image_plane *plane,
				     uint32_t grains)
{
	uint32_t outer = plane->by_head ? plane->heads : grains;
	uint32_t row = kvx_row_bytes(plane, grains);

	if (row > plane->grain_bytes && lay->inner_stride != plane->grain_bytes)
		return plane->grain_bytes;
	if (outer > 1 && lay->outer_stride != row)
		return row;
	return outer * row;
}

/* Where a chunk begins, in a pool whose blocks lie `stride` apart: the part-th of a block. */
static inline uint64_t kvx_lay_chunk(const struct kvx_lay *lay, uint64_t block, uint32_t part,
				     uint64_t stride)
{
	return block * stride + (uint64_t)part * lay->chunk_stride + lay->offset;
}

/* Do chunks of so many layers side by side fill their blocks, and these a pool in which they lie
 * `stride` apart? */
static inline bool kvx_lay_joins(const struct kvx_lay *lay, uint64_t stride, uint32_t chunk_bytes,
				 uint32_t layers)
{
	return lay->piece == chunk_bytes && stride == (uint64_t)lay->chunks * chunk_bytes * layers;
}

/* On the way through the pieces of a chunk. */
struct kvx_spot {
	uint32_t outer, inner, rest; /* rest: bytes into the piece */
	uint32_t inners;             /* pieces of a row */
	uint32_t piece;
};

/* At the offset-th byte of a chunk of so many grains. */
static inline struct kvx_spot kvx_spot_at(const struct kvx_image_plane *plane, uint32_t grains,
					  uint32_t piece, uint32_t offset)
{
	uint32_t row = kvx_row_bytes(plane, grains);
	struct kvx_spot spot = {.inners = piece < row ? row / piece : 1, .piece = piece};

	if (offset) {
		spot.rest = offset % piece;
		spot.inner = offset / piece % spot.inners;
		spot.outer = offset / piece / spot.inners;
	}
	return spot;
}

static inline uint64_t kvx_spot_offset(const struct kvx_spot *spot, const struct kvx_lay *lay)
{
	return (uint64_t)spot->outer * lay->outer_stride +
	       (uint64_t)spot->inner * lay->inner_stride + spot->rest;
}

/* By at most the rest of the piece. */
static inline void kvx_spot_step(struct kvx_spot *spot, uint32_t bytes)
{
	spot->rest += bytes;
	if (spot->rest < spot->piece)
		return;
	spot->rest = 0;
	if (++spot->inner < spot->inners)
		return;
	spot->inner = 0;
	spot->outer++;
}

#endif
