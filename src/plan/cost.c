/* SPDX-License-Identifier: Apache-2.0 */
#include "plan/cost.h"

#include "plan/locate.h"

void kvx_plan_cost(const struct kvx_plan *plan, bool one_sided, struct kvx_cost *cost)
{
	const struct kvx_image *image = &plan->image;

	*cost = (struct kvx_cost){0};
	for (uint32_t i = 0; i < image->planes; i++) {
		const struct kvx_image_plane *plane = &image->plane[i];
		uint32_t grains = image->chunk_tokens / plane->grain_tokens;
		uint64_t bytes = kvx_segment_bytes(plane, image->token_first, image->token_end);
		uint32_t from = kvx_lay_piece(&plan->from[i], plane, grains);
		uint32_t to = kvx_lay_piece(&plan->to[i], plane, grains);
		if (!bytes)
			continue;
		uint64_t gathered = (bytes + from - 1) / from;
		uint64_t scattered = one_sided ? (bytes + to - 1) / to : 0;
		uint64_t direct = gathered > scattered ? gathered : scattered;
		cost->direct_slices += direct;
		cost->staged_slices += scattered;
		cost->direct_ns += (double)direct * KVX_COST_SLICE;
		cost->staged_ns += (double)gathered * KVX_COST_PIECE +
				   (double)bytes / KVX_COST_COPY +
				   (double)scattered * KVX_COST_SLICE;
	}
}
