/* SPDX-License-Identifier: Apache-2.0 */
/* What is one slice, and slices at the end of the largest pools. */
#include "plan/plan.h"

#include <criterion/criterion.h>
#include <string.h>

#define FAR (UINT64_C(1) << 32) /* between planes that do not lie side by side */

/* Packed blocks, from and to. */
struct ends {
	struct kvx_geometry from, to;
	uint32_t from_table[16], to_table[16];
	uint32_t first, end; /* tokens */
	struct kvx_plan plan;
	struct kvx_run runs[64];
	struct kvx_source sources[KVX_PLANES_MAX];
	struct kvx_target targets[KVX_PLANES_MAX];
};

static struct kvx_geometry end_of(enum kvx_layout layout, uint32_t tokens, uint32_t heads)
{
	return (struct kvx_geometry){.layers = 1,
				     .planes = 1,
				     .blocks = 1000,
				     .block_tokens = tokens,
				     .layout = layout,
				     .heads = heads,
				     .heads_total = 8,
				     .head_bytes = 32};
}

static void plan_ends(struct ends *ends)
{
	struct kvx_geometry from, to;
	struct kvx_shape ours, theirs;
	struct kvx_share share;
	struct kvx_image *image = &ends->plan.image;

	cr_assert_eq(kvx_geometry_complete(&ends->from, &from), 0, "%s", kvx_error_text());
	cr_assert_eq(kvx_geometry_complete(&ends->to, &to), 0, "%s", kvx_error_text());
	kvx_shape_of(&from, &ours);
	kvx_shape_of(&to, &theirs);
	cr_assert_eq(kvx_share_out(&to, ends->first, ends->end, &from, 1, &share), 0, "%s",
		     kvx_error_text());
	kvx_image_make(image, &ours, &theirs, &share, ends->first, ends->end);
	kvx_image_cut(image, 1, NULL);
	kvx_lay_out(image, &ours, &share, ends->plan.from);
	kvx_lay_out(image, &theirs, &share, ends->plan.to);
	ends->plan.runs = ends->runs;
	ends->plan.run_count = kvx_plan_runs(
		ends->from_table, ours.block_tokens / image->chunk_tokens, ends->to_table,
		theirs.block_tokens / image->chunk_tokens,
		(uint32_t)(((uint64_t)ends->end + image->chunk_tokens - 1) / image->chunk_tokens),
		ends->runs);
	for (uint32_t i = 0; i < image->planes; i++) {
		uint64_t base = i * (from.plane_stride ? from.plane_stride : FAR);
		uint64_t step = from.plane_stride ? from.plane_stride * image->planes : 0;
		ends->sources[i] = (struct kvx_source){(char *)4096 + base,
						       step ? step : from.block_bytes, NULL};
		base = i * (to.plane_stride ? to.plane_stride : FAR);
		step = to.plane_stride ? to.plane_stride * image->planes : 0;
		ends->targets[i] = (struct kvx_target){base, step ? step : to.block_bytes, 0};
	}
}

static uint32_t count_slices(struct ends *ends, bool targets)
{
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_cursor cursor;
	uint32_t bytes, count, sum = 0;

	plan_ends(ends);
	kvx_cursor_seek(&cursor, &ends->plan, 0);
	while ((count = kvx_cursor_fill(&cursor, &ends->plan, ends->sources,
					targets ? ends->targets : NULL, slices, &bytes)))
		sum += count;
	return sum;
}

#define HND KVX_LAYOUT_HND
#define NHD KVX_LAYOUT_NHD

Test(slices, what_is_contiguous_at_both_ends_is_one_slice)
{
	static const struct {
		struct {
			enum kvx_layout layout;
			uint32_t tokens, heads;
		} from, to;
		uint32_t end, neighbours, alone, in_place;
	} cases[] = {
		/* alike: runs of blocks; a part of the last block breaks into heads */
		{{HND, 16, 8}, {HND, 16, 8}, 128, 1, 8, 1},
		{{NHD, 16, 8}, {NHD, 16, 8}, 120, 1, 8, 1},
		{{HND, 16, 8}, {HND, 16, 8}, 120, 8, 15, 8},
		/* half the heads: a slice for each block, or for each token */
		{{HND, 16, 8}, {HND, 16, 4}, 128, 8, 8, 8},
		{{HND, 16, 4}, {HND, 16, 4}, 128, 1, 8, 1},
		{{NHD, 16, 8}, {NHD, 16, 4}, 128, 128, 128, 128},
		/* other blocks: tokens stay neighbours unless heads lie between them, which
		 * is not so where the last head's end the larger block */
		{{NHD, 16, 8}, {NHD, 64, 8}, 128, 1, 8, 1},
		{{NHD, 64, 8}, {NHD, 16, 8}, 128, 1, 8, 1},
		{{HND, 16, 8}, {HND, 64, 8}, 128, 63, 64, 1},
		{{HND, 64, 8}, {HND, 16, 8}, 128, 63, 64, 63},
		/* other order: a slice for each head of each token */
		{{HND, 16, 8}, {NHD, 16, 8}, 128, 1024, 1024, 1024},
		{{NHD, 16, 8}, {HND, 16, 8}, 128, 1024, 1024, 1024},
		/* one head: the order does not matter */
		{{HND, 16, 1}, {NHD, 16, 1}, 128, 1, 8, 1},
		{{HND, 16, 1}, {HND, 64, 1}, 128, 1, 8, 1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ends ends = {.end = cases[i].end};
		ends.from = end_of(cases[i].from.layout, cases[i].from.tokens, cases[i].from.heads);
		ends.to = end_of(cases[i].to.layout, cases[i].to.tokens, cases[i].to.heads);
		for (uint32_t k = 0; k < 16; k++)
			ends.from_table[k] = 10 + k, ends.to_table[k] = 20 + k;
		cr_assert_eq(count_slices(&ends, true), cases[i].neighbours, "case %zu: %u", i,
			     count_slices(&ends, true));
		cr_assert_eq(count_slices(&ends, false), cases[i].in_place, "case %zu: %u", i,
			     count_slices(&ends, false));
		for (uint32_t k = 0; k < 16; k++)
			ends.to_table[k] = 40 - 2 * k;
		if (cases[i].from.tokens > cases[i].to.tokens || cases[i].from.tokens == 16)
			for (uint32_t k = 0; k < 16; k++)
				ends.from_table[k] = 50 - 2 * k;
		cr_assert_eq(count_slices(&ends, true), cases[i].alone, "case %zu alone: %u", i,
			     count_slices(&ends, true));
	}
}

/* K and V: side by side in each block, or not. */
Test(slices, planes_side_by_side_at_both_ends_are_one_slice)
{
	struct end {
		enum kvx_layout layout;
		uint32_t heads;
		bool beside;
	};
	static const struct {
		struct end from, to;
		uint32_t end, joined, neighbours, alone, in_place;
	} cases[] = {
		{{HND, 8, true}, {HND, 8, true}, 128, 2, 1, 8, 1},
		{{NHD, 8, true}, {NHD, 8, true}, 128, 2, 1, 8, 1},
		{{KVX_LAYOUT_WHOLE, 0, true}, {KVX_LAYOUT_WHOLE, 0, true}, 128, 2, 1, 8, 1},
		/* part of the last block: K and V break there, in HND each into heads */
		{{NHD, 8, true}, {NHD, 8, true}, 120, 2, 2, 9, 2},
		{{HND, 8, true}, {HND, 8, true}, 120, 2, 16, 23, 16},
		/* at one end only */
		{{HND, 8, true}, {HND, 8, false}, 128, 0, 16, 16, 16},
		{{HND, 8, false}, {HND, 8, true}, 128, 0, 16, 16, 2},
		{{HND, 8, false}, {HND, 8, false}, 128, 0, 2, 16, 2},
		/* some heads, or another order */
		{{HND, 8, true}, {HND, 4, true}, 128, 0, 16, 16, 16},
		{{HND, 1, true}, {NHD, 1, true}, 128, 0, 16, 16, 16},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ends ends = {.end = cases[i].end};
		struct kvx_geometry *both[] = {&ends.from, &ends.to};
		const struct end *given[] = {&cases[i].from, &cases[i].to};
		for (uint32_t k = 0; k < 2; k++) {
			*both[k] = end_of(given[k]->layout, 16, given[k]->heads);
			both[k]->planes = 2;
			both[k]->plane_stride = given[k]->beside ? 16 * given[k]->heads * 32 : 0;
			if (given[k]->heads)
				continue;
			both[k]->heads_total = both[k]->head_bytes = 0;
			both[k]->block_bytes = both[k]->plane_stride = 4096;
		}
		for (uint32_t k = 0; k < 16; k++)
			ends.from_table[k] = 10 + k, ends.to_table[k] = 20 + k;
		uint32_t neighbours = count_slices(&ends, true);
		cr_assert_eq(ends.plan.image.joined, cases[i].joined, "case %zu", i);
		cr_assert_eq(neighbours, cases[i].neighbours, "case %zu: %u", i, neighbours);
		cr_assert_eq(count_slices(&ends, false), cases[i].in_place, "case %zu", i);
		for (uint32_t k = 0; k < 16; k++)
			ends.to_table[k] = 40 - 2 * k;
		cr_assert_eq(count_slices(&ends, true), cases[i].alone, "case %zu: %u", i,
			     count_slices(&ends, true));
	}
}

/* Neighbours in one memory only are two slices. */
Test(slices, no_slice_crosses_from_one_memory_into_another)
{
	struct kvx_memory memories[2];
	struct kvx_source sources[2] = {{(char *)4096, 64, &memories[0]},
					{(char *)4096 + 64, 64, &memories[0]}};
	struct kvx_target targets[2] = {{0, 64, 3}, {64, 64, 3}};
	struct kvx_geometry geometry = {.layers = 1, .planes = 2, .blocks = 1, .block_bytes = 64};
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	const uint32_t table[] = {0};
	struct kvx_run run;
	struct kvx_plan plan = {.runs = &run,
				.run_count = kvx_plan_runs(table, 1, table, 1, 1, &run)};
	struct kvx_cursor cursor;
	struct kvx_share share;
	struct kvx_shape shape;
	uint32_t bytes;

	kvx_shape_of(&geometry, &shape);
	cr_assert_eq(kvx_share_out(&geometry, 0, 1, &geometry, 1, &share), 0);
	kvx_image_make(&plan.image, &shape, &shape, &share, 0, 1);
	kvx_image_cut(&plan.image, 1, NULL);
	kvx_lay_out(&plan.image, &shape, &share, plan.from);
	kvx_lay_out(&plan.image, &shape, &share, plan.to);
	for (uint32_t other = 0; other < 4; other++) {
		sources[1].memory = &memories[other & 1];
		targets[1].memory = other & 2 ? 5 : 3;
		kvx_cursor_seek(&cursor, &plan, 0);
		cr_assert_eq(kvx_cursor_fill(&cursor, &plan, sources, targets, slices, &bytes),
			     other ? 2 : 1);
		cr_assert_eq(bytes, 128);
		kvx_cursor_seek(&cursor, &plan, 0);
		cr_assert_eq(kvx_cursor_fill(&cursor, &plan, sources, NULL, slices, &bytes),
			     other & 1 ? 2 : 1);
	}
}

/* --- the largest numbers --- */

/* One plane of one head: a byte's place tells its token, and that its block. */
static void expect_far(struct ends *ends, uint64_t skip)
{
	uint64_t token_bytes = ends->from.block_bytes / ends->from.block_tokens;
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_cursor cursor;
	uint32_t bytes, count;

	plan_ends(ends);
	cr_assert_eq(kvx_image_bytes(&ends->plan.image), (ends->end - ends->first) * token_bytes);
	kvx_cursor_seek(&cursor, &ends->plan, 0);
	cr_assert_eq(cursor.end, kvx_image_bytes(&ends->plan.image));
	for (uint64_t place = 0; place < skip; place += bytes) {
		count = kvx_cursor_fill(&cursor, &ends->plan, ends->sources, ends->targets, slices,
					&bytes);
		cr_assert(count);
		uint64_t at = place;
		for (uint32_t i = 0; i < count; i++) {
			uint64_t token = ends->first + at / token_bytes, rest = at % token_bytes;
			uint64_t from = ends->from_table[token / ends->from.block_tokens] *
						ends->sources[0].stride +
					token % ends->from.block_tokens * token_bytes + rest;
			uint64_t to = ends->to_table[token / ends->to.block_tokens] *
					      ends->targets[0].stride +
				      token % ends->to.block_tokens * token_bytes + rest;
			cr_assert_eq(slices[i].local, ends->sources[0].base + from);
			cr_assert_eq(slices[i].offset, to);
			at += slices[i].length;
		}
		cr_assert_eq(at, place + bytes);
	}
}

Test(slices, blocks_of_4_gib_at_the_end_of_the_largest_pool)
{
	struct ends ends = {.from = {.layers = 1,
				     .planes = 1,
				     .blocks = UINT32_MAX,
				     .block_bytes = UINT32_MAX - 3},
			    .from_table = {3, 5, 6},
			    .to_table = {UINT32_MAX - 1, UINT32_MAX - 5, UINT32_MAX - 4},
			    .end = 3};

	ends.from.block_tokens = 1;
	ends.to = ends.from;
	expect_far(&ends, 3 * (uint64_t)(UINT32_MAX - 3));
	ends.from.block_tokens = ends.to.block_tokens = 0;
	plan_ends(&ends);
	cr_assert_eq(kvx_image_bytes(&ends.plan.image), 3 * (uint64_t)(UINT32_MAX - 3));
}

/* A block of as many tokens as there can be, moved whole though the request ends within it. */
Test(slices, a_block_of_4_billion_tokens_moves_whole)
{
	static const uint32_t tokens[] = {1, UINT32_MAX / 2, UINT32_MAX - 1, UINT32_MAX};

	for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
		struct ends ends = {.from = {.layers = 1,
					     .planes = 1,
					     .blocks = 1,
					     .block_bytes = 4096,
					     .block_tokens = UINT32_MAX},
				    .end = tokens[i]};
		ends.to = ends.from;
		cr_assert_eq(count_slices(&ends, true), 1);
		cr_assert_eq(kvx_image_bytes(&ends.plan.image), 4096);
	}
}

Test(slices, requests_of_4_billion_tokens)
{
	struct ends ends = {.from = end_of(NHD, 1u << 29, 1), .end = UINT32_MAX};

	ends.from.heads_total = 1, ends.from.head_bytes = 4;
	ends.from.block_bytes = 1u << 31;
	ends.to = ends.from;
	ends.to.block_tokens = 1u << 28, ends.to.block_bytes = 1u << 30;
	for (uint32_t i = 0; i < 16; i++)
		ends.from_table[i] = 2 * i, ends.to_table[i] = 40 - i;
	expect_far(&ends, 1 << 22);
	ends.first = UINT32_MAX - (1u << 28) + 1;
	expect_far(&ends, ((uint64_t)(1u << 28) - 1) * 4);
	struct ends back = {.from = ends.to, .to = ends.from, .end = UINT32_MAX};
	memcpy(back.from_table, ends.to_table, sizeof(back.from_table));
	memcpy(back.to_table, ends.from_table, sizeof(back.to_table));
	back.first = UINT32_MAX - (1u << 29) + 1;
	expect_far(&back, ((uint64_t)(1u << 29) - 1) * 4);
}
