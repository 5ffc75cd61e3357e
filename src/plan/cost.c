/* SPDX-License-Identifier: Apache-2.0 */
#include "plan/cost.h"

#include "plan/locate.h"

/* How many pieces one end holds so many bytes in, whose blocks lie `stride` apart; 0: not known.
 * Chunks that fill their blocks go on through a run, of which a share has as many as of chunks. */
static uint64_t pieces_of(const struct kvx_plan *plan, uint32_t plane, const struct kvx_lay *lay,
			  uint64_t stride, uint64_t bytes)
{
	const struct kvx_image_plane *moved = &plan->image.plane[plane];
	const struct kvx_run *last = &plan->runs[plan->run_count - 1];
	uint64_t pieces = (bytes + lay->piece - 1) / lay->piece;

	if (!kvx_lay_joins(lay, stride, moved->chunk_bytes, 1))
		return pieces;
	uint64_t chunks = (uint64_t)last->first + last->count;
	return (pieces * plan->run_count + chunks - 1) / chunks;
}

void kvx_plan_cost(const struct kvx_plan *plan, const struct kvx_source *sources,
		   const struct kvx_target *targets, bool one_sided, struct kvx_cost *cost)
{
	const struct kvx_image *image = &plan->image;

	*cost = (struct kvx_cost){0};
	for (uint32_t i = 0; i < image->planes; i++) {
		uint64_t bytes =
			kvx_segment_bytes(&image->plane[i], image->token_first, image->token_end);
		uint64_t stride = targets ? targets[i].stride : 0;
		if (!bytes)
			continue;
		uint64_t gathered = pieces_of(plan, i, &plan->from[i], sources[i].stride, bytes);
		uint64_t scattered =
			one_sided ? pieces_of(plan, i, &plan->to[i], stride, bytes) : 0;
		uint64_t direct = gathered > scattered ? gathered : scattered;
		cost->direct_ns += (double)direct * KVX_COST_SLICE;
		cost->staged_ns += (double)gathered * KVX_COST_PIECE +
				   (double)bytes / KVX_COST_COPY +
				   (double)scattered * KVX_COST_SLICE;
	}
}

bool kvx_cost_may_stage(const struct kvx_shape *shape)
{
	for (uint32_t i = 0; i < shape->planes; i++) {
		const struct kvx_plane *plane = &shape->plane[i];
		if ((plane->heads > 1 || plane->block_grains > 1) &&
		    plane->grain_bytes / KVX_COST_COPY + KVX_COST_PIECE < KVX_COST_SLICE)
			return true;
	}
	return false;
}
