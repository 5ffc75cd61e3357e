/* SPDX-License-Identifier: Apache-2.0 */
#include "plan/shape.h"

#include "base/error.h"
#include "base/wire.h"

#define XXH_INLINE_ALL
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define HEADS_MAX 65536u
#define LAYER_FIRST_MAX 65535u

static uint32_t larger(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* --- what a pool may be --- */

static int check_counts(const struct kvx_geometry *geometry)
{
	if (!geometry->layers || geometry->layers > KVX_LAYERS_MAX)
		return kvx_fail(KVX_E_INVALID, "pool: %u layers: must be 1 to %u", geometry->layers,
				KVX_LAYERS_MAX);
	if (geometry->layer_first > LAYER_FIRST_MAX)
		return kvx_fail(KVX_E_INVALID, "pool: layer_first %u: must be at most %u",
				geometry->layer_first, LAYER_FIRST_MAX);
	if (!geometry->planes || geometry->planes > KVX_PLANES_MAX ||
	    geometry->extra_planes > KVX_EXTRA_MAX ||
	    kvx_geometry_planes(geometry) > KVX_PLANES_MAX)
		return kvx_fail(KVX_E_INVALID,
				"pool: %u planes and %u extra ones: must be 1 to %u, of which at "
				"most %u extra ones",
				geometry->planes, geometry->extra_planes, KVX_PLANES_MAX,
				KVX_EXTRA_MAX);
	if (!geometry->blocks)
		return kvx_fail(KVX_E_INVALID, "pool: no blocks");
	if (!memchr(geometry->dtype, 0, sizeof(geometry->dtype)))
		return kvx_fail(KVX_E_INVALID, "pool: dtype is not zero-terminated");
	return 0;
}

static int check_whole(const struct kvx_geometry *geometry)
{
	if (!geometry->block_bytes || geometry->block_bytes % KVX_ALIGN)
		return kvx_fail(KVX_E_INVALID, "pool: blocks of %u bytes: must be a multiple of %u",
				geometry->block_bytes, KVX_ALIGN);
	if (geometry->heads || geometry->head_first || geometry->heads_total ||
	    geometry->head_bytes || geometry->head_stride || geometry->token_stride)
		return kvx_fail(KVX_E_INVALID,
				"pool: blocks that move whole (no layout) have no heads; set "
				"layout to HND or NHD");
	return 0;
}

static int check_heads(const struct kvx_geometry *geometry)
{
	if (geometry->layout != KVX_LAYOUT_HND && geometry->layout != KVX_LAYOUT_NHD)
		return kvx_fail(KVX_E_INVALID, "pool: layout %d does not exist",
				(int)geometry->layout);
	if (!geometry->block_tokens)
		return kvx_fail(KVX_E_INVALID, "pool: a layout needs block_tokens");
	if (!geometry->heads || geometry->heads_total > HEADS_MAX ||
	    geometry->heads > geometry->heads_total ||
	    geometry->head_first > geometry->heads_total - geometry->heads)
		return kvx_fail(KVX_E_INVALID,
				"pool: %u heads from head %u on, of %u: must be at least 1, within "
				"the model's at most %u",
				geometry->heads, geometry->head_first, geometry->heads_total,
				HEADS_MAX);
	if (!geometry->head_bytes || geometry->head_bytes % KVX_ALIGN ||
	    geometry->head_stride % KVX_ALIGN || geometry->token_stride % KVX_ALIGN)
		return kvx_fail(KVX_E_INVALID,
				"pool: head_bytes %u, head_stride %u, token_stride %u: must be "
				"multiples of %u, and head_bytes not 0",
				geometry->head_bytes, geometry->head_stride, geometry->token_stride,
				KVX_ALIGN);
	return 0;
}

static int refuse_block(uint64_t bytes)
{
	return kvx_fail(KVX_E_INVALID,
			"pool: blocks of %llu bytes or more: must be a multiple of %u below 4 GiB",
			(unsigned long long)bytes, KVX_ALIGN);
}

/* Strides that were left 0 are packed; none may make heads or tokens overlap, or leave the block.
 */
static int complete_heads(struct kvx_geometry *geometry)
{
	bool by_head = geometry->layout == KVX_LAYOUT_HND;
	uint32_t *inner = by_head ? &geometry->token_stride : &geometry->head_stride;
	uint32_t *outer = by_head ? &geometry->head_stride : &geometry->token_stride;
	uint64_t inner_count = by_head ? geometry->block_tokens : geometry->heads;
	uint64_t outer_count = by_head ? geometry->heads : geometry->block_tokens;

	if (!*inner)
		*inner = geometry->head_bytes;
	uint64_t row = inner_count * *inner, step = *outer ? *outer : row;
	if (step > UINT32_MAX)
		return refuse_block(step);
	uint64_t row_used = (inner_count - 1) * *inner + geometry->head_bytes;
	uint64_t used = (outer_count - 1) * step + row_used;
	uint64_t block = geometry->block_bytes ? geometry->block_bytes : outer_count * step;

	if (*inner < geometry->head_bytes || step < row_used || used > block)
		return kvx_fail(KVX_E_INVALID,
				"pool: %u heads of %u bytes and %u tokens overlap, or leave the "
				"block of %llu bytes, with head_stride %u and token_stride %u",
				geometry->heads, geometry->head_bytes, geometry->block_tokens,
				(unsigned long long)block, geometry->head_stride,
				geometry->token_stride);
	if (block > UINT32_MAX || block % KVX_ALIGN)
		return refuse_block(block);
	*outer = (uint32_t)step;
	geometry->block_bytes = (uint32_t)block;
	return 0;
}

/* A block's planes side by side; how far apart blocks are is not known here. */
static int check_plane_stride(const struct kvx_geometry *geometry)
{
	uint32_t stride = geometry->plane_stride;

	if (!stride || (stride >= geometry->block_bytes && stride % KVX_ALIGN == 0 &&
			geometry->planes > 1 && stride <= UINT32_MAX / geometry->planes))
		return 0;
	return kvx_fail(KVX_E_INVALID,
			"pool: plane_stride %u of %u planes of blocks of %u bytes: must be 0 where "
			"planes do not lie side by side in each block, else a multiple of %u, at "
			"least such a block, and all planes together below 4 GiB",
			stride, geometry->planes, geometry->block_bytes, KVX_ALIGN);
}

static int complete_extra(const struct kvx_geometry *geometry, uint32_t index,
			  struct kvx_extra *extra)
{
	uint64_t used = (uint64_t)extra->token_bytes * geometry->block_tokens;

	if (extra->token_bytes && !geometry->block_tokens)
		return kvx_fail(KVX_E_INVALID,
				"pool: extra plane %u has token_bytes, but block_tokens is not "
				"said",
				index);
	uint64_t block = extra->block_bytes ? extra->block_bytes : used;
	if (!block || block > UINT32_MAX || block < used || block % KVX_ALIGN ||
	    extra->token_bytes % KVX_ALIGN)
		return kvx_fail(KVX_E_INVALID,
				"pool: extra plane %u: blocks of %llu bytes, tokens of %u: must be "
				"multiples of %u, and a block hold its %u tokens",
				index, (unsigned long long)block, extra->token_bytes, KVX_ALIGN,
				geometry->block_tokens);
	extra->block_bytes = (uint32_t)block;
	return 0;
}

int kvx_geometry_complete(const struct kvx_geometry *geometry, struct kvx_geometry *complete)
{
	struct kvx_geometry made = *geometry;
	int error = check_counts(&made);

	if (!error && made.layout == KVX_LAYOUT_WHOLE)
		error = check_whole(&made);
	else if (!error)
		error = check_heads(&made);
	if (!error && made.layout != KVX_LAYOUT_WHOLE)
		error = complete_heads(&made);
	if (!error)
		error = check_plane_stride(&made);
	for (uint32_t i = 0; !error && i < made.extra_planes; i++)
		error = complete_extra(&made, i, &made.extra[i]);
	if (!error)
		*complete = made;
	return error;
}

/* --- normal form --- */

static struct kvx_plane undivided(uint32_t block_tokens, uint32_t block_bytes, uint32_t token_bytes)
{
	uint32_t grains = token_bytes ? block_tokens : 1;
	uint32_t bytes = token_bytes ? token_bytes : block_bytes;

	return (struct kvx_plane){
		.heads = 1,
		.heads_total = 1,
		.grain_bytes = bytes,
		.grain_tokens = block_tokens / grains,
		.block_grains = grains,
		.block_bytes = block_bytes,
		.head_stride = bytes,
		.grain_stride = bytes,
	};
}

void kvx_shape_of(const struct kvx_geometry *geometry, struct kvx_shape *shape)
{
	uint32_t tokens = larger(geometry->block_tokens, 1);

	*shape = (struct kvx_shape){
		.layers = geometry->layers,
		.layer_first = geometry->layer_first,
		.block_tokens = tokens,
		.planes = kvx_geometry_planes(geometry),
		.abreast = geometry->plane_stride ? geometry->planes : 0,
		.plane_stride = geometry->plane_stride,
	};
	for (uint32_t i = 0; i < geometry->planes; i++)
		shape->plane[i] = geometry->layout == KVX_LAYOUT_WHOLE
					  ? undivided(tokens, geometry->block_bytes, 0)
					  : (struct kvx_plane){
						    .heads = geometry->heads,
						    .head_first = geometry->head_first,
						    .heads_total = geometry->heads_total,
						    .grain_bytes = geometry->head_bytes,
						    .grain_tokens = 1,
						    .block_grains = tokens,
						    .block_bytes = geometry->block_bytes,
						    .head_stride = geometry->head_stride,
						    .grain_stride = geometry->token_stride,
						    .by_head = geometry->layout == KVX_LAYOUT_HND,
					    };
	for (uint32_t i = 0; i < geometry->extra_planes; i++)
		shape->plane[geometry->planes + i] = undivided(
			tokens, geometry->extra[i].block_bytes, geometry->extra[i].token_bytes);
}

/* --- matching --- */

uint64_t kvx_geometry_hash(const struct kvx_geometry *geometry)
{
	uint8_t bytes[128];
	struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));
	bool whole = geometry->layout == KVX_LAYOUT_WHOLE;

	kvx_put_bytes(&writer, geometry->dtype, strnlen(geometry->dtype, sizeof(geometry->dtype)));
	kvx_put_u8(&writer, 0);
	kvx_put_u64(&writer, geometry->model);
	kvx_put_u32(&writer, geometry->planes);
	kvx_put_u8(&writer, whole);
	kvx_put_u32(&writer, whole ? geometry->block_bytes : geometry->head_bytes);
	kvx_put_u32(&writer, whole ? geometry->block_tokens : geometry->heads_total);
	kvx_put_u32(&writer, geometry->extra_planes);
	for (uint32_t i = 0; i < geometry->extra_planes && i < KVX_EXTRA_MAX; i++) {
		const struct kvx_extra *extra = &geometry->extra[i];
		kvx_put_u32(&writer, extra->token_bytes);
		kvx_put_u32(&writer, extra->token_bytes ? 0 : extra->block_bytes);
		kvx_put_u32(&writer, extra->token_bytes ? 0 : geometry->block_tokens);
	}
	return XXH3_64bits(bytes, (size_t)(writer.next - bytes));
}

static int describe_heads(const struct kvx_geometry *geometry, char *text, size_t size)
{
	if (geometry->layout == KVX_LAYOUT_WHOLE)
		return snprintf(text, size, "of %u bytes", geometry->block_bytes);
	return snprintf(text, size, "%s, heads %u..%u of %u of %u bytes",
			geometry->layout == KVX_LAYOUT_HND ? "HND" : "NHD", geometry->head_first,
			geometry->head_first + geometry->heads - 1, geometry->heads_total,
			geometry->head_bytes);
}

static void describe(const struct kvx_geometry *geometry, char *text, size_t size)
{
	char heads[80];
	int length;

	describe_heads(geometry, heads, sizeof(heads));
	length = snprintf(text, size,
			  "layers %u..%u, %u planes, blocks of %u tokens %s, dtype \"%s\"",
			  geometry->layer_first, geometry->layer_first + geometry->layers - 1,
			  geometry->planes, geometry->block_tokens, heads, geometry->dtype);
	if (geometry->model && (size_t)length < size)
		length += snprintf(text + length, size - (size_t)length, ", model %llx",
				   (unsigned long long)geometry->model);
	for (uint32_t i = 0; i < geometry->extra_planes && (size_t)length < size; i++)
		length += snprintf(text + length, size - (size_t)length, ", extra %u/%u",
				   geometry->extra[i].block_bytes, geometry->extra[i].token_bytes);
}

static bool ranges_meet(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count)
{
	return a < b + b_count && b < a + a_count;
}

static bool extras_match(const struct kvx_geometry *a, const struct kvx_geometry *b)
{
	for (uint32_t i = 0; i < a->extra_planes; i++)
		if (a->extra[i].token_bytes != b->extra[i].token_bytes ||
		    (!a->extra[i].token_bytes &&
		     (a->extra[i].block_bytes != b->extra[i].block_bytes ||
		      a->block_tokens != b->block_tokens)))
			return false;
	return true;
}

static const char *mismatch(const struct kvx_geometry *a, const struct kvx_geometry *b)
{
	bool whole = a->layout == KVX_LAYOUT_WHOLE;
	uint32_t larger_block = larger(a->block_tokens, b->block_tokens);
	uint32_t smaller_block = smaller(a->block_tokens, b->block_tokens);

	if (strcmp(a->dtype, b->dtype) != 0)
		return "dtype";
	if (a->model != b->model)
		return "model";
	if (a->planes != b->planes || a->extra_planes != b->extra_planes || !extras_match(a, b))
		return "planes";
	if (whole != (b->layout == KVX_LAYOUT_WHOLE))
		return "layout: one has none";
	if (whole && (a->block_bytes != b->block_bytes || a->block_tokens != b->block_tokens))
		return "blocks, which move whole";
	if (!whole && (a->heads_total != b->heads_total || a->head_bytes != b->head_bytes))
		return "heads of the model";
	if (!whole && larger_block % smaller_block)
		return "tokens of a block: one must be a multiple of the other";
	if (!ranges_meet(a->layer_first, a->layers, b->layer_first, b->layers))
		return "no layer in common";
	if (!whole && !ranges_meet(a->head_first, a->heads, b->head_first, b->heads))
		return "no head in common";
	return NULL;
}

int kvx_geometry_match(const struct kvx_geometry *sender, const struct kvx_geometry *receiver)
{
	const char *reason = mismatch(sender, receiver);
	char ours[200], theirs[200];

	if (!reason)
		return 0;
	describe(sender, ours, sizeof(ours));
	describe(receiver, theirs, sizeof(theirs));
	return kvx_fail(KVX_E_GEOMETRY, "pools do not match (%s): sender has %s; receiver has %s",
			reason, ours, theirs);
}

/* --- shares --- */

static void intersect(uint32_t a, uint32_t a_count, uint32_t b, uint32_t b_count, uint32_t *first,
		      uint32_t *count)
{
	uint32_t end = smaller(a + a_count, b + b_count);

	*first = larger(a, b);
	*count = end > *first ? end - *first : 0;
}

/* What both hold, of all tokens. */
static void meet(const struct kvx_shape *sender, const struct kvx_shape *receiver,
		 struct kvx_share *share)
{
	intersect(sender->layer_first, sender->layers, receiver->layer_first, receiver->layers,
		  &share->layer_first, &share->layers);
	share->layer_first -= receiver->layer_first;
	for (uint32_t i = 0; i < receiver->planes; i++)
		intersect(sender->plane[i].head_first, sender->plane[i].heads,
			  receiver->plane[i].head_first, receiver->plane[i].heads,
			  &share->plane[i].head_first, &share->plane[i].heads);
}

void kvx_share_alone(const struct kvx_shape *sender, const struct kvx_shape *receiver,
		     uint32_t token_first, uint32_t token_end, struct kvx_share *share)
{
	meet(sender, receiver, share);
	for (uint32_t i = 0; i < receiver->planes; i++) {
		share->plane[i].token_first = token_first;
		share->plane[i].token_end = token_end;
	}
}

static bool range_within(uint32_t first, uint32_t count, uint32_t whole_first, uint32_t whole_count)
{
	return first >= whole_first && count <= whole_count &&
	       first - whole_first <= whole_count - count;
}

bool kvx_share_within(const struct kvx_share *share, const struct kvx_share *whole, uint32_t planes,
		      uint32_t chunk_tokens)
{
	if (!range_within(share->layer_first, share->layers, whole->layer_first, whole->layers))
		return false;
	for (uint32_t i = 0; i < planes; i++) {
		uint32_t first = share->plane[i].token_first, end = share->plane[i].token_end;
		if (!range_within(share->plane[i].head_first, share->plane[i].heads,
				  whole->plane[i].head_first, whole->plane[i].heads) ||
		    first < whole->plane[i].token_first || first > end ||
		    end > whole->plane[i].token_end || (first < end && first % chunk_tokens))
			return false;
	}
	return true;
}

static bool alike(const struct kvx_share *a, const struct kvx_share *b, uint32_t plane)
{
	return a->layer_first == b->layer_first && a->layers == b->layers &&
	       a->plane[plane].head_first == b->plane[plane].head_first &&
	       a->plane[plane].heads == b->plane[plane].heads;
}

static bool overlap(const struct kvx_share *a, const struct kvx_share *b, uint32_t plane)
{
	return ranges_meet(a->layer_first, a->layers, b->layer_first, b->layers) &&
	       ranges_meet(a->plane[plane].head_first, a->plane[plane].heads,
			   b->plane[plane].head_first, b->plane[plane].heads);
}

/* The first head of a layer that nobody holds, or the one after the last. The layer is counted as
 * the receiver's pool does. */
static uint32_t first_gap(const struct kvx_plane *held, const struct kvx_share *shares,
			  uint32_t count, uint32_t plane, uint32_t layer)
{
	uint32_t head = held->head_first, end = head + held->heads, i = 0;

	while (head < end && i < count) {
		const struct kvx_share *share = &shares[i++];
		if (layer - share->layer_first >= share->layers ||
		    head - share->plane[plane].head_first >= share->plane[plane].heads)
			continue;
		head = share->plane[plane].head_first + share->plane[plane].heads;
		i = 0;
	}
	return head;
}

static int tell_gap(const struct kvx_shape *receiver, const struct kvx_share *shares,
		    uint32_t count, uint32_t plane)
{
	const struct kvx_plane *held = &receiver->plane[plane];
	uint32_t layer = 0, head = first_gap(held, shares, count, plane, 0);

	while (head == held->head_first + held->heads && ++layer < receiver->layers)
		head = first_gap(held, shares, count, plane, layer);
	return kvx_fail(KVX_E_GEOMETRY,
			"grant: of plane %u none of its %u senders holds head %u of layer %u; open "
			"it with as many senders as the prefill has ranks",
			plane, count, head, receiver->layer_first + layer);
}

/* The part of the tokens that the index-th of `count` holders moves. */
static void split_tokens(uint32_t token_first, uint32_t token_end, uint32_t align, uint32_t index,
			 uint32_t count, uint32_t *first, uint32_t *end)
{
	uint64_t from = token_first / align,
		 pieces = (token_end + (uint64_t)align - 1) / align - from;

	*first = larger(token_first, (uint32_t)((from + pieces * index / count) * align));
	uint64_t last = (from + pieces * (index + 1) / count) * align;
	*end = last < token_end ? (uint32_t)last : token_end;
	if (*end < *first)
		*end = *first;
}

/* One plane: who holds the same shares it, and all together hold everything once. */
static int share_plane(const struct kvx_shape *receiver, uint32_t plane, uint32_t token_first,
		       uint32_t token_end, uint32_t align, uint32_t count, struct kvx_share *shares)
{
	const struct kvx_plane *held = &receiver->plane[plane];
	uint64_t covered = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t index = 0, holders = 0;
		for (uint32_t j = 0; j < count; j++) {
			bool same = alike(&shares[i], &shares[j], plane);
			if (!same && overlap(&shares[i], &shares[j], plane))
				return kvx_fail(KVX_E_GEOMETRY,
						"grant: senders %u and %u hold parts of plane %u "
						"that overlap but are not the same; two ranks must "
						"hold the same layers and heads, or none in common",
						i, j, plane);
			index += same && j < i;
			holders += same;
		}
		split_tokens(token_first, token_end, align, index, holders,
			     &shares[i].plane[plane].token_first,
			     &shares[i].plane[plane].token_end);
		if (!index)
			covered += (uint64_t)shares[i].layers * shares[i].plane[plane].heads;
	}
	return covered == (uint64_t)receiver->layers * held->heads
		       ? 0
		       : tell_gap(receiver, shares, count, plane);
}

int kvx_share_out(const struct kvx_geometry *receiver, uint32_t token_first, uint32_t token_end,
		  const struct kvx_geometry *senders, uint32_t count, struct kvx_share *shares)
{
	struct kvx_shape own, shape;
	int error = 0;

	kvx_shape_of(receiver, &own);
	uint32_t align = own.block_tokens;
	for (uint32_t i = 0; i < count; i++) {
		kvx_shape_of(&senders[i], &shape);
		align = larger(align, shape.block_tokens);
		meet(&shape, &own, &shares[i]);
	}
	for (uint32_t plane = 0; plane < own.planes && !error; plane++)
		error = share_plane(&own, plane, token_first, token_end, align, count, shares);
	return error;
}
