/* SPDX-License-Identifier: Apache-2.0 */
#include "plan/describe.h"

#include "plan/cost.h"
#include "plan/cut.h"
#include "plan/locate.h"

#include <string.h>

#define IOV_MAX_AT_ONCE 128

/* --- how a layer is cut --- */

/* Over one-sided transports each rail has its unit of each chunk of a prefill. */
static void cut_by_rail(struct kvx_described_cut *cut, const struct kvx_plan_request *request,
			uint32_t tokens, uint32_t most)
{
	uint32_t rails = request->rails < most ? request->rails : most;

	cut->by_rail = true;
	cut->units = rails * kvx_cut_chunks(tokens, request->chunk_tokens, most / rails);
	for (uint32_t unit = 0; unit < cut->units; unit++) {
		cut->homes[unit] = (uint8_t)(unit % rails);
		cut->weights[unit] = request->weights ? request->weights[unit % rails] : 1;
	}
}

void kvx_describe_cut(struct kvx_described_cut *cut, const struct kvx_described *described,
		      const struct kvx_plan_request *request, uint32_t token_first,
		      uint32_t token_end)
{
	const struct kvx_shape *ours = &described->sender.shape;
	const struct kvx_shape *theirs = &described->receiver.shape;
	uint32_t most = KVX_UNITS_MAX / request->sender_count, tokens = token_end - token_first;
	struct kvx_share alone;
	struct kvx_image image;

	memset(cut, 0, sizeof(*cut));
	if (request->rails) {
		cut_by_rail(cut, request, tokens, most);
		return;
	}
	kvx_share_alone(ours, theirs, token_first, token_end, &alone);
	kvx_image_make(&image, ours, theirs, &alone, token_first, token_end);
	cut->units = kvx_cut_freely(&image, request->unit_bytes,
				    kvx_cut_chunks(tokens, request->chunk_tokens, most), most);
}

void kvx_describe_plan(struct kvx_described *described, uint32_t token_first, uint32_t token_end)
{
	const struct kvx_shape *ours = &described->sender.shape;
	const struct kvx_shape *theirs = &described->receiver.shape;
	const struct kvx_described_cut *cut = &described->cut;
	struct kvx_plan *plan = &described->plan;

	kvx_image_make(&plan->image, ours, theirs, &described->share, token_first, token_end);
	kvx_image_cut(&plan->image, cut->units, cut->by_rail ? cut->weights : NULL);
	kvx_lay_out(&plan->image, ours, &described->share, plan->from);
	kvx_lay_out(&plan->image, theirs, &described->share, plan->to);
	uint32_t tokens = plan->image.chunk_tokens;
	described->chunks = token_end / tokens + (token_end % tokens != 0);
}

/* --- pieces --- */

static void count_pieces(const uint64_t *lengths, struct kvx_plan_pieces *pieces)
{
	uint64_t seen = 0;

	*pieces = (struct kvx_plan_pieces){0};
	for (uint32_t i = 1; i < KVX_LENGTHS; i++)
		pieces->count += lengths[i];
	for (uint32_t i = 1; i < KVX_LENGTHS; i++) {
		uint32_t bytes = i * KVX_ALIGN;
		if (!lengths[i])
			continue;
		if (!seen)
			pieces->min_bytes = bytes;
		if (seen < (pieces->count + 1) / 2)
			pieces->median_bytes = bytes;
		pieces->max_bytes = bytes;
		pieces->classes[31 - __builtin_clz(bytes)] += lengths[i];
		seen += lengths[i];
	}
}

/* Addresses that nobody looks behind: planes that do not lie side by side lie farther apart than
 * any is long. */
static char *made_up(const struct kvx_shape *shape, uint32_t plane)
{
	uint32_t first = plane < shape->abreast ? 0 : plane;

	return (char *)(uintptr_t)(2 * KVX_PLANE_BYTES_MAX * (first + 1) +
				   (uint64_t)(plane - first) * shape->plane_stride);
}

struct ends {
	struct kvx_source sources[KVX_PLANES_MAX], places[KVX_PLANES_MAX];
	struct kvx_target targets[KVX_PLANES_MAX];
};

static void make_ends(const struct kvx_described *described, struct ends *ends)
{
	memset(ends, 0, sizeof(*ends));
	for (uint32_t i = 0; i < described->plan.image.planes; i++) {
		ends->sources[i].base = made_up(&described->sender.shape, i);
		ends->sources[i].stride = described->sender.strides[i];
		ends->places[i].base = made_up(&described->receiver.shape, i);
		ends->places[i].stride = described->receiver.strides[i];
		ends->targets[i].base = (uintptr_t)ends->places[i].base;
		ends->targets[i].stride = described->receiver.strides[i];
	}
}

/* What a transport posts: with targets what is contiguous at both ends, else at the sender. */
static void count_slices(const struct kvx_described *described, const struct ends *ends,
			 const struct kvx_target *targets, uint64_t *lengths)
{
	const struct kvx_plan *plan = &described->plan;
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_cursor cursor;
	uint32_t bytes;

	memset(lengths, 0, (size_t)KVX_LENGTHS * sizeof(*lengths));
	for (uint32_t unit = 0; unit < plan->image.units; unit++) {
		kvx_cursor_seek(&cursor, plan, unit);
		for (uint32_t count; (count = kvx_cursor_fill(&cursor, plan, ends->sources, targets,
							      slices, &bytes));)
			for (uint32_t i = 0; i < count; i++)
				lengths[slices[i].length / KVX_ALIGN]++;
	}
}

/* What leaves of buffers that pieces were gathered in. */
static uint64_t count_gathered(const struct kvx_described *described,
			       const struct kvx_target *targets)
{
	const struct kvx_plan *plan = &described->plan;
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_cursor cursor;
	uint64_t sum = 0;
	uint32_t bytes;

	for (uint32_t unit = 0; unit < plan->image.units; unit++) {
		kvx_cursor_seek(&cursor, plan, unit);
		uint64_t begin = cursor.place, end = cursor.end;
		if (!targets)
			sum += (end - begin + KVX_STAGING_BYTES - 1) / KVX_STAGING_BYTES;
		while (targets && cursor.place < end) {
			uint64_t left = end - cursor.place;
			cursor.end = cursor.place +
				     (left < KVX_STAGING_BYTES ? left : KVX_STAGING_BYTES);
			sum += kvx_cursor_fill(&cursor, plan, NULL, targets, slices, &bytes);
		}
	}
	return sum;
}

static uint64_t count_to_end(const struct kvx_plan *plan, struct kvx_cursor cursor,
			     const struct ends *ends)
{
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	uint64_t sum = 0;
	uint32_t bytes;

	for (uint32_t count; (count = kvx_cursor_fill(&cursor, plan, ends->sources, ends->targets,
						      slices, &bytes));)
		sum += count;
	return sum;
}

/* How many layers leave together from the begin of a unit on. */
static uint32_t joined_at(const struct kvx_described *described, const struct kvx_cursor *cursor)
{
	uint32_t bytes = described->plan.image.plane[0].chunk_bytes;
	uint32_t layers = described->share.layers;

	if (described->sender.layer_stride != bytes || described->receiver.layer_stride != bytes)
		return 1;
	uint32_t most = kvx_plan_join_most(&described->plan, cursor);
	return most < layers ? most : layers;
}

/* Slices of all layers, as many at a time as leave together. */
static void count_together(const struct kvx_described *described, const struct ends *ends,
			   struct kvx_plan_share *share)
{
	const struct kvx_plan *plan = &described->plan;
	struct kvx_cursor begin, cursor;

	share->posted_together = 0;
	for (uint32_t unit = 0; unit < plan->image.units; unit++) {
		kvx_cursor_seek(&begin, plan, unit);
		uint32_t most = joined_at(described, &begin), layers;
		for (uint32_t left = share->layers; left; left -= layers) {
			layers = most < left ? most : left;
			cursor = begin;
			if (layers > 1) {
				kvx_cursor_join(&cursor, plan, layers);
				share->posted_together += count_to_end(plan, cursor, ends);
				kvx_cursor_seek_rest(&cursor, plan, unit);
			}
			share->posted_together += layers * count_to_end(plan, cursor, ends);
		}
		if (most > share->layers_joined)
			share->layers_joined = most;
	}
}

/* Where a batch's bytes land. */
static void count_landings(const struct kvx_described *described, const struct ends *ends,
			   uint32_t unit, uint64_t place, uint64_t end, uint64_t *lengths)
{
	const struct kvx_layer_place layer = {&described->plan.image, described->plan.to,
					      described->receiver.blocks, ends->places};
	struct iovec iov[IOV_MAX_AT_ONCE];

	while (place < end) {
		int count =
			kvx_image_resolve(&layer, unit, place, end - place, iov, IOV_MAX_AT_ONCE);
		for (int i = 0; i < count; i++) {
			lengths[iov[i].iov_len / KVX_ALIGN]++;
			place += iov[i].iov_len;
		}
	}
}

static void count_places(const struct kvx_described *described, const struct ends *ends,
			 uint64_t *lengths)
{
	const struct kvx_image *image = &described->plan.image;

	memset(lengths, 0, (size_t)KVX_LENGTHS * sizeof(*lengths));
	for (uint32_t unit = 0; unit < image->units; unit++) {
		uint64_t unit_end = image->places[unit + 1];
		for (uint64_t place = image->places[unit], end; place < unit_end; place = end) {
			end = place + KVX_BATCH_BYTES_MAX;
			end = end < unit_end ? end : unit_end;
			count_landings(described, ends, unit, place, end, lengths);
		}
	}
}

/* --- why pieces end --- */

static struct kvx_plan_hold hold_of(const struct kvx_described *described,
				    const struct kvx_described_end *end, const struct kvx_lay *lays,
				    uint32_t plane)
{
	const struct kvx_image_plane *moved = &described->plan.image.plane[plane];
	const struct kvx_plane *held = &end->shape.plane[plane];
	const struct kvx_lay *lay = &lays[plane];
	bool joined = plane < described->plan.image.joined;
	bool some = moved->heads<held->heads, parts = lay->chunks> 1;
	uint32_t row = kvx_row_bytes(moved, moved->chunk_grains);
	enum kvx_plan_reason reason = some ? KVX_PLAN_HEADS : KVX_PLAN_GAPS;

	if (lay->piece < row)
		reason = held->by_head != moved->by_head && !joined ? KVX_PLAN_LAYOUT
								    : KVX_PLAN_GAPS;
	else if (lay->piece < moved->chunk_bytes && moved->by_head)
		reason = parts ? KVX_PLAN_TOKENS : KVX_PLAN_GAPS;
	else if (end->strides[plane] == (uint64_t)lay->chunks * moved->chunk_bytes &&
		 lay->piece == moved->chunk_bytes)
		reason = KVX_PLAN_TABLE;
	else if (!plane && end->layer_stride == moved->chunk_bytes &&
		 lay->piece == moved->chunk_bytes)
		reason = KVX_PLAN_LAYERS;
	return (struct kvx_plan_hold){lay->piece, reason};
}

/* --- the whole --- */

static void describe_planes(const struct kvx_described *described, struct kvx_plan_share *share)
{
	const struct kvx_plan *plan = &described->plan;

	for (uint32_t i = 0; i < share->planes; i++) {
		uint32_t moved = i < plan->image.joined ? 0 : i; /* stands for it in the image */
		share->plane[i] = (struct kvx_plan_plane){
			.head_first = described->share.plane[i].head_first,
			.heads = described->share.plane[i].heads,
			.heads_total = described->receiver.shape.plane[i].heads_total,
			.token_first = described->share.plane[i].token_first,
			.token_end = described->share.plane[i].token_end,
			.chunk_bytes = plan->image.plane[moved].chunk_bytes,
			.sender = hold_of(described, &described->sender, plan->from, moved),
			.receiver = hold_of(described, &described->receiver, plan->to, moved),
		};
	}
}

void kvx_describe_share(const struct kvx_described *described, uint64_t *lengths,
			struct kvx_plan_share *share)
{
	const struct kvx_image *image = &described->plan.image;
	bool one_sided = described->cut.by_rail;
	struct kvx_cost cost;
	struct ends ends;

	make_ends(described, &ends);
	kvx_plan_cost(&described->plan, ends.sources, ends.targets, one_sided, &cost);
	*share = (struct kvx_plan_share){
		.layer_first = described->receiver.shape.layer_first + described->share.layer_first,
		.layers = described->share.layers,
		.planes = image->planes,
		.joined = image->joined,
		.layer_bytes = kvx_image_bytes(image),
		.chunk_tokens = image->chunk_tokens,
		.chunks = described->chunks,
		.runs = described->plan.run_count,
		.units = (uint32_t)__builtin_popcountll(kvx_image_filled(image)),
		.direct_ns = cost.direct_ns,
		.staged_ns = cost.staged_ns,
		.how = cost.staged_ns < cost.direct_ns ? "staged" : "direct",
	};
	describe_planes(described, share);
	for (uint32_t unit = 0; described->cut.by_rail && unit < image->units; unit++)
		share->rail_bytes[described->cut.homes[unit]] +=
			image->places[unit + 1] - image->places[unit];
	count_slices(described, &ends, ends.targets, lengths);
	count_pieces(lengths, &share->slices);
	count_slices(described, &ends, NULL, lengths);
	count_pieces(lengths, &share->at_sender);
	count_places(described, &ends, lengths);
	count_pieces(lengths, &share->at_receiver);
	bool staged = cost.staged_ns < cost.direct_ns;
	if (staged)
		share->posted = count_gathered(described, one_sided ? ends.targets : NULL);
	else
		share->posted = one_sided ? share->slices.count : share->at_sender.count;
	share->layers_joined = 1;
	share->posted_together = share->posted * share->layers;
	if (one_sided && !staged)
		count_together(described, &ends, share);
}
