/* SPDX-License-Identifier: Apache-2.0 */
/* What kvx_plan_report_open() says of requests that are drawn at random, and of a few by hand. */
#include <kvxfer/plan.h>

#include "support/chance.h"
#include "support/geometry.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS 400u
#define BLOCKS 64u
#define TOKENS 16u

static struct kvx_plan_end drawn_end(const struct drawn_pool *pool)
{
	struct kvx_plan_end end = {
		.geometry = pool->geometry, .blocks = pool->table, .count = pool->count};

	end.geometry.plane_stride = pool->plane_stride;
	for (uint32_t i = 0; i < pool->geometry.planes + pool->geometry.extra_planes; i++)
		end.block_strides[i] = pool->tensors[i].stride;
	return end;
}

static uint64_t classes_of(const struct kvx_plan_pieces *pieces)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < KVX_PLAN_CLASSES; i++)
		count += pieces->classes[i];
	return count;
}

/* Its figures fit together, and with the bytes that they are pieces of. */
static void expect_sound(const struct kvx_plan_pieces *pieces, uint64_t bytes)
{
	cr_assert_eq(classes_of(pieces), pieces->count);
	cr_assert_leq(pieces->min_bytes, pieces->median_bytes);
	cr_assert_leq(pieces->median_bytes, pieces->max_bytes);
	cr_assert_leq(pieces->count * pieces->min_bytes, bytes);
	cr_assert_geq(pieces->count * pieces->max_bytes, bytes);
	cr_assert_eq(pieces->count == 0, bytes == 0);
}

static uint64_t expect_sound_share(const struct kvx_plan_share *share, uint32_t rails)
{
	uint64_t by_rail = 0;

	expect_sound(&share->slices, share->layer_bytes);
	expect_sound(&share->at_sender, share->layer_bytes);
	expect_sound(&share->at_receiver, share->layer_bytes);
	cr_assert_leq(share->at_sender.count, share->slices.count);
	cr_assert_leq(share->at_receiver.count, share->slices.count);
	cr_assert_leq(share->runs, share->chunks);
	cr_assert_leq(share->units, KVX_UNITS_MAX);
	cr_assert_eq(share->units == 0, share->layer_bytes == 0);
	cr_assert_str_eq(share->how, share->staged_ns < share->direct_ns ? "staged" : "direct");
	for (uint32_t i = 0; i < KVX_PLAN_RAILS_MAX; i++)
		by_rail += share->rail_bytes[i];
	cr_assert_eq(by_rail, rails ? share->layer_bytes : 0);
	return share->layer_bytes * share->layers;
}

static void expect_words(const struct kvx_plan_report *report, uint32_t sender)
{
	char text[4096], start[16];
	size_t length = kvx_plan_report_explain(report, sender, text, sizeof(text));

	cr_assert_lt(length, sizeof(text));
	cr_assert_eq(strlen(text), length);
	cr_assert_eq(strncmp(text, "plane", 5), 0);
	cr_assert_eq(kvx_plan_report_explain(report, sender, start, sizeof(start)), length);
	cr_assert_eq(strlen(start), sizeof(start) - 1);
	cr_assert_eq(strncmp(start, text, sizeof(start) - 1), 0);
	cr_assert_eq(kvx_plan_report_explain(report, sender, NULL, 0), length);
}

static void expect_drawn(const struct drawn_request *drawn, uint64_t *random)
{
	struct kvx_plan_end senders[DRAWN_SENDERS_MAX];
	struct kvx_plan_request request = {
		.receiver = drawn_end(&drawn->receiver),
		.senders = senders,
		.sender_count = drawn->sender_count,
		.tokens = drawn->tokens,
		.held_blocks = drawn->held_blocks,
		.unit_bytes = random_between(random, 4, 1024) * 1024,
		.chunk_tokens = random_between(random, 0, 100),
		.rails = random_between(random, 0, 4),
	};
	uint8_t weights[] = {1, 255, 7, 30};
	struct kvx_plan_report *report;
	struct kvx_plan_share share;
	uint64_t bytes = 0, expected;

	if (random_between(random, 0, 1))
		request.weights = weights;
	for (uint32_t i = 0; i < drawn->sender_count; i++)
		senders[i] = drawn_end(&drawn->senders[i]);
	cr_assert_eq(kvx_plan_report_open(&request, &report), 0, "%s", kvx_error_text());
	for (uint32_t i = 0; i < drawn->sender_count; i++) {
		cr_assert_eq(kvx_plan_report_share(report, i, &share), 0);
		bytes += expect_sound_share(&share, request.rails);
		expect_words(report, i);
	}
	kvx_plan_report_close(report);
	free(drawn_expected(drawn, &expected));
	cr_assert_eq(bytes, expected, "%llu in place of %llu bytes", (unsigned long long)bytes,
		     (unsigned long long)expected);
}

Test(report, bytes_are_those_that_a_naive_account_moves)
{
	uint64_t random = random_seed();

	for (uint32_t i = 0; i < DRAWS; i++) {
		struct drawn_request drawn;
		drawn_request(&drawn, &random);
		expect_drawn(&drawn, &random);
		drawn_free(&drawn);
	}
}

/* --- by hand --- */

static uint32_t in_order[BLOCKS], apart[BLOCKS];

/* A rank of a model of 8 heads of 256 bytes, in 4 layers. */
static struct kvx_plan_end rank_of(uint32_t heads, uint32_t first, enum kvx_layout layout,
				   const uint32_t *blocks)
{
	for (uint32_t i = 0; i < BLOCKS; i++) {
		in_order[i] = i;
		apart[i] = (BLOCKS - 1 - i) * 5 % BLOCKS;
	}
	return (struct kvx_plan_end){
		.geometry =
			{
				.layers = 4,
				.planes = 2,
				.blocks = BLOCKS,
				.block_tokens = TOKENS,
				.layout = layout,
				.heads = heads,
				.head_first = first,
				.heads_total = 8,
				.head_bytes = 256,
			},
		.blocks = blocks,
		.count = BLOCKS,
	};
}

static struct kvx_plan_share share_of(struct kvx_plan_end sender, struct kvx_plan_end receiver)
{
	struct kvx_plan_request request = {
		.receiver = receiver, .senders = &sender, .sender_count = 1};
	struct kvx_plan_report *report;
	struct kvx_plan_share share;

	cr_assert_eq(kvx_plan_report_open(&request, &report), 0, "%s", kvx_error_text());
	cr_assert_eq(kvx_plan_report_share(report, 0, &share), 0);
	cr_assert_eq(kvx_plan_report_share(report, 1, &share), KVX_E_INVALID);
	cr_assert_eq(kvx_plan_report_explain(report, 1, NULL, 0), 0);
	kvx_plan_report_close(report);
	return share;
}

static void expect_hold(const struct kvx_plan_hold *hold, uint32_t bytes,
			enum kvx_plan_reason reason)
{
	cr_assert_eq(hold->piece_bytes, bytes);
	cr_assert_eq(hold->reason, reason, "%s", kvx_plan_reason_name(hold->reason));
}

Test(report, alike_pools_move_whole_runs_of_blocks)
{
	struct kvx_plan_share share = share_of(rank_of(8, 0, KVX_LAYOUT_HND, in_order),
					       rank_of(8, 0, KVX_LAYOUT_HND, in_order));

	expect_hold(&share.plane[0].sender, 8 * TOKENS * 256, KVX_PLAN_TABLE);
	expect_hold(&share.plane[1].receiver, 8 * TOKENS * 256, KVX_PLAN_TABLE);
	cr_assert_str_eq(share.how, "direct");
	cr_assert_eq(share.runs, 1);
	/* 4 MiB in units of 1 MiB, each with half of its bytes in either plane. */
	cr_assert_eq(share.units, 4);
	cr_assert_eq(share.slices.count, 8);
	cr_assert_eq(share.slices.min_bytes, 1 << 19);
	cr_assert_eq(share.slices.classes[19], 8);
}

Test(report, a_subset_of_the_heads_ends_pieces_at_the_end_that_has_more)
{
	struct kvx_plan_share share = share_of(rank_of(4, 0, KVX_LAYOUT_HND, in_order),
					       rank_of(2, 2, KVX_LAYOUT_HND, apart));

	expect_hold(&share.plane[0].sender, 2 * TOKENS * 256, KVX_PLAN_HEADS);
	expect_hold(&share.plane[0].receiver, 2 * TOKENS * 256, KVX_PLAN_TABLE);
	cr_assert_eq(share.plane[0].head_first, 2);
	cr_assert_eq(share.plane[0].heads, 2);
	cr_assert_eq(share.slices.count, 2 * BLOCKS);
	cr_assert_eq(share.slices.median_bytes, 2 * TOKENS * 256);
}

Test(report, the_other_order_leaves_a_token_of_a_head)
{
	struct kvx_plan_share share = share_of(rank_of(8, 0, KVX_LAYOUT_HND, in_order),
					       rank_of(8, 0, KVX_LAYOUT_NHD, in_order));

	cr_assert_str_eq(share.how, "staged");
	expect_hold(&share.plane[0].sender, 256, KVX_PLAN_LAYOUT);
	expect_hold(&share.plane[0].receiver, 8 * TOKENS * 256, KVX_PLAN_TABLE);
	cr_assert_eq(share.slices.count, 2 * 8 * BLOCKS * TOKENS);
	cr_assert_eq(share.at_receiver.count, 8);
}

Test(report, larger_blocks_keep_a_head_apart_from_the_next)
{
	struct kvx_plan_end receiver = rank_of(8, 0, KVX_LAYOUT_HND, in_order);

	receiver.geometry.block_tokens = 4 * TOKENS;
	receiver.count = BLOCKS / 4;
	struct kvx_plan_share share = share_of(rank_of(8, 0, KVX_LAYOUT_HND, in_order), receiver);
	expect_hold(&share.plane[0].sender, 8 * TOKENS * 256, KVX_PLAN_TABLE);
	expect_hold(&share.plane[0].receiver, TOKENS * 256, KVX_PLAN_TOKENS);
	cr_assert_eq(share.chunk_tokens, TOKENS);
	cr_assert_eq(share.chunks, BLOCKS);
}

Test(report, strides_leave_gaps)
{
	struct kvx_plan_end blocks = rank_of(8, 0, KVX_LAYOUT_HND, in_order), heads = blocks,
			    tokens = rank_of(8, 0, KVX_LAYOUT_NHD, in_order);

	blocks.block_strides[0] = blocks.block_strides[1] = 8 * TOKENS * 256 + 64;
	heads.geometry.head_stride = TOKENS * 256 + 64;
	tokens.geometry.token_stride = 8 * 256 + 64;
	struct kvx_plan_share share = share_of(blocks, heads);
	expect_hold(&share.plane[0].sender, 8 * TOKENS * 256, KVX_PLAN_GAPS);
	expect_hold(&share.plane[0].receiver, TOKENS * 256, KVX_PLAN_GAPS);
	share = share_of(tokens, tokens);
	expect_hold(&share.plane[0].sender, 8 * 256, KVX_PLAN_GAPS);
}

Test(report, what_an_engine_would_refuse_is_refused)
{
	struct kvx_plan_end sender = rank_of(8, 0, KVX_LAYOUT_HND, in_order), good = sender;
	struct kvx_plan_request request = {
		.receiver = sender, .senders = &sender, .sender_count = 1};
	struct kvx_plan_report *report = NULL;
	uint32_t twice[BLOCKS] = {0};

	sender.geometry.heads = 4;
	cr_assert_eq(kvx_plan_report_open(&request, &report), KVX_E_GEOMETRY);
	cr_assert(strstr(kvx_error_text(), "holds head 4"), "%s", kvx_error_text());
	strcpy(sender.geometry.dtype, "fp8");
	cr_assert_eq(kvx_plan_report_open(&request, &report), KVX_E_GEOMETRY);
	cr_assert(strstr(kvx_error_text(), "dtype"), "%s", kvx_error_text());
	sender = good;
	sender.blocks = twice;
	cr_assert_eq(kvx_plan_report_open(&request, &report), KVX_E_INVALID);
	cr_assert(strstr(kvx_error_text(), "stream: block 0 is repeated"));
	sender = good;
	sender.count--;
	cr_assert_eq(kvx_plan_report_open(&request, &report), KVX_E_INVALID);
	sender = good;
	sender.block_strides[1] = 4;
	cr_assert_eq(kvx_plan_report_open(&request, &report), KVX_E_INVALID);
	sender = good;
	request.held_blocks = BLOCKS;
	cr_assert_eq(kvx_plan_report_open(&request, &report), KVX_E_INVALID);
	request.held_blocks = 0;
	request.rails = KVX_PLAN_RAILS_MAX + 1;
	cr_assert_eq(kvx_plan_report_open(&request, &report), KVX_E_INVALID);
	request.rails = 0;
	request.sender_count = 0;
	cr_assert_eq(kvx_plan_report_open(&request, &report), KVX_E_INVALID);
	cr_assert_null(report);
	kvx_plan_report_close(NULL);
}

static void expect_refused(const struct kvx_plan_request *request, int code, const char *words)
{
	struct kvx_plan_report *report = NULL;

	cr_assert_eq(kvx_plan_report_open(request, &report), code, "%s", words);
	cr_assert(strstr(kvx_error_text(), words), "%s", kvx_error_text());
	cr_assert_null(report);
}

Test(report, what_is_too_much_is_refused)
{
	struct kvx_plan_end sender = rank_of(8, 0, KVX_LAYOUT_HND, in_order);
	const struct kvx_plan_request good = {
		.receiver = sender, .senders = &sender, .sender_count = 1};
	const uint8_t weights[] = {1, 2, 0};
	struct kvx_plan_request request = good;
	struct kvx_plan_report *report;

	cr_assert_eq(kvx_plan_report_open(&good, &report), 0, "%s", kvx_error_text());
	kvx_plan_report_close(report);
	request.rails = 3;
	request.weights = weights;
	expect_refused(&request, KVX_E_INVALID, "plan: rail 2 has weight 0");
	request.rails = 2; /* of the third nothing is asked */
	cr_assert_eq(kvx_plan_report_open(&request, &report), 0, "%s", kvx_error_text());
	kvx_plan_report_close(report);
	request = good;
	request.rails = KVX_PLAN_RAILS_MAX + 1;
	expect_refused(&request, KVX_E_INVALID, "65 rails");
	request = good;
	request.sender_count = KVX_SENDERS_MAX + 1;
	expect_refused(&request, KVX_E_INVALID, "65 senders: must be 1 to 64");
	request = good;
	request.receiver.block_strides[1] = (UINT64_C(1) << 48) / BLOCKS;
	cr_assert_eq(kvx_plan_report_open(&request, &report), 0, "%s", kvx_error_text());
	kvx_plan_report_close(report);
	request.receiver.block_strides[1] += 4;
	expect_refused(&request, KVX_E_INVALID, "grant: plane 1: 64 blocks");
	cr_assert(strstr(kvx_error_text(), "no plane larger than 2^48 bytes"));
}

Test(report, tables_that_do_not_fit_are_refused)
{
	struct kvx_plan_end sender = rank_of(8, 0, KVX_LAYOUT_HND, in_order), good_sender = sender;
	const struct kvx_plan_request good = {
		.receiver = sender, .senders = &sender, .sender_count = 1};
	struct kvx_plan_request request = good;

	sender.count = BLOCKS - 1;
	expect_refused(&request, KVX_E_INVALID,
		       "stream: of 63 blocks, but the grant's request of 1024 tokens fills 64");
	sender.count = 0;
	expect_refused(&request, KVX_E_INVALID, "stream: a table of 0 blocks");
	sender.count = KVX_TABLE_MAX + 1; /* never looked at */
	expect_refused(&request, KVX_E_LIMIT, "stream: a table of ");
	sender = good_sender;
	sender.blocks = NULL;
	expect_refused(&request, KVX_E_INVALID, "stream: a table of 64 blocks");
	sender = good_sender;
	request.receiver.count = KVX_TABLE_MAX + 1;
	expect_refused(&request, KVX_E_LIMIT, "grant: a table of ");
	request.receiver.count = 0;
	expect_refused(&request, KVX_E_INVALID, "grant: a table of 0 blocks");
	request = good;
	request.receiver.geometry.blocks = BLOCKS / 2;
	expect_refused(&request, KVX_E_INVALID, "entry 32 is block 32");
	request = good;
	request.tokens = (BLOCKS - 1) * TOKENS;
	expect_refused(&request, KVX_E_INVALID, "a request of 1008 tokens does not fill 64 blocks");
	request.tokens = BLOCKS * TOKENS + 1;
	expect_refused(&request, KVX_E_INVALID, "a request of 1025 tokens does not fill 64 blocks");
	request = good;
	request.held_blocks = BLOCKS;
	expect_refused(&request, KVX_E_INVALID, "64 of its 64 blocks are held already");
}

Test(report, more_tokens_than_can_be_counted_are_refused)
{
	const uint32_t table[] = {0, 1};
	const struct kvx_plan_end huge = {.geometry = {.layers = 1,
						       .planes = 1,
						       .blocks = 2,
						       .block_bytes = 64,
						       .block_tokens = UINT32_MAX},
					  .blocks = table,
					  .count = 2};
	struct kvx_plan_request request = {.receiver = huge, .senders = &huge, .sender_count = 1};

	expect_refused(&request, KVX_E_LIMIT,
		       "grant: 2 blocks of 4294967295 tokens are more than 2^32 - 1");
}
