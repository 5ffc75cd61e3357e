/* SPDX-License-Identifier: Apache-2.0 */
/* What a pool may be, which pools match, and who moves what. */
#include "plan/shape.h"

#include "support/chance.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const struct kvx_geometry whole = {
	.layers = 4, .planes = 2, .blocks = 100, .block_bytes = 4096, .block_tokens = 16};

static const struct kvx_geometry divided = {.layers = 4,
					    .planes = 2,
					    .blocks = 100,
					    .block_tokens = 16,
					    .dtype = "bf16",
					    .layout = KVX_LAYOUT_HND,
					    .heads = 8,
					    .heads_total = 8,
					    .head_bytes = 256};

static struct kvx_geometry completed(struct kvx_geometry geometry)
{
	struct kvx_geometry complete;

	cr_assert_eq(kvx_geometry_complete(&geometry, &complete), 0, "%s", kvx_error_text());
	return complete;
}

/* --- what was left 0 --- */

Test(shape, strides_that_are_not_said_are_packed)
{
	struct kvx_geometry geometry = divided;

	struct kvx_geometry complete = completed(geometry);
	cr_assert_eq(complete.token_stride, 256);
	cr_assert_eq(complete.head_stride, 16 * 256);
	cr_assert_eq(complete.block_bytes, 8 * 16 * 256);
	geometry.layout = KVX_LAYOUT_NHD;
	complete = completed(geometry);
	cr_assert_eq(complete.head_stride, 256);
	cr_assert_eq(complete.token_stride, 8 * 256);
	cr_assert_eq(complete.block_bytes, 8 * 16 * 256);
}

Test(shape, one_stride_that_is_said_makes_the_other)
{
	struct kvx_geometry geometry = divided;

	geometry.token_stride = 300;
	cr_assert_eq(completed(geometry).head_stride, 16 * 300);
	geometry.token_stride = 0, geometry.head_stride = 5000;
	cr_assert_eq(completed(geometry).token_stride, 256);
	cr_assert_eq(completed(geometry).block_bytes, 8 * 5000);
	geometry.block_bytes = 7 * 5000 + 16 * 256; /* no padding behind the last head */
	cr_assert_eq(completed(geometry).block_bytes, 7 * 5000 + 16 * 256);
}

Test(shape, extra_planes_are_by_token_or_whole)
{
	struct kvx_geometry geometry = divided;
	struct kvx_shape shape;

	geometry.extra_planes = 2;
	geometry.extra[0].token_bytes = 132;
	geometry.extra[1].block_bytes = 1000;
	struct kvx_geometry complete = completed(geometry);
	cr_assert_eq(complete.extra[0].block_bytes, 16 * 132);
	cr_assert_eq(complete.extra[1].block_bytes, 1000);
	kvx_shape_of(&complete, &shape);
	cr_assert_eq(shape.planes, 4);
	cr_assert_eq(shape.plane[1].heads, 8);
	cr_assert_eq(shape.plane[2].grain_bytes, 132);
	cr_assert_eq(shape.plane[2].grain_tokens, 1);
	cr_assert_eq(shape.plane[2].block_grains, 16);
	cr_assert_eq(shape.plane[3].grain_bytes, 1000);
	cr_assert_eq(shape.plane[3].grain_tokens, 16);
	cr_assert_eq(shape.plane[3].block_grains, 1);
	cr_assert_eq(shape.plane[3].heads_total, 1);
}

Test(shape, what_is_complete_stays_as_it_is)
{
	struct kvx_geometry geometry = divided;

	geometry.extra_planes = 1, geometry.extra[0].token_bytes = 64;
	struct kvx_geometry once = completed(geometry), twice = completed(once);
	cr_assert_eq(memcmp(&once, &twice, sizeof(once)), 0);
	once = completed(whole);
	cr_assert_eq(memcmp(&once, &whole, sizeof(once)), 0);
}

/* --- what is no pool --- */

static void expect_no_pool(struct kvx_geometry geometry, const char *why)
{
	struct kvx_geometry complete = {.layers = 12345};

	cr_assert_eq(kvx_geometry_complete(&geometry, &complete), KVX_E_INVALID, "not refused: %s",
		     why);
	cr_assert(strstr(kvx_error_text(), why), "\"%s\" does not say: %s", kvx_error_text(), why);
	cr_assert_eq(complete.layers, 12345, "written on failure");
}

#define EXPECT_NO_POOL(base, change, why)        \
	do {                                     \
		struct kvx_geometry made = base; \
		change;                          \
		expect_no_pool(made, why);       \
	} while (0)

Test(shape, counts_that_cannot_be_are_refused)
{
	EXPECT_NO_POOL(whole, made.layers = 0, "0 layers");
	EXPECT_NO_POOL(whole, made.layers = KVX_LAYERS_MAX + 1, "512 layers");
	EXPECT_NO_POOL(whole, made.layer_first = 65536, "layer_first 65536");
	EXPECT_NO_POOL(whole, made.planes = 0, "0 planes");
	EXPECT_NO_POOL(whole, made.planes = KVX_PLANES_MAX + 1, "9 planes");
	EXPECT_NO_POOL(whole, made.planes = UINT32_MAX, "4294967295 planes");
	EXPECT_NO_POOL(whole, made.extra_planes = KVX_EXTRA_MAX + 1, "5 extra");
	EXPECT_NO_POOL(whole, made.extra_planes = UINT32_MAX, "4294967295 extra");
	EXPECT_NO_POOL(whole, (made.planes = 5, made.extra_planes = 4), "5 planes and 4 extra");
	EXPECT_NO_POOL(whole, made.blocks = 0, "no blocks");
	EXPECT_NO_POOL(whole, memset(made.dtype, 'x', sizeof(made.dtype)), "dtype");
}

Test(shape, blocks_that_move_whole_have_a_size_and_nothing_else)
{
	EXPECT_NO_POOL(whole, made.block_bytes = 0, "blocks of 0 bytes");
	EXPECT_NO_POOL(whole, made.block_bytes = 4098, "blocks of 4098 bytes");
	EXPECT_NO_POOL(whole, made.heads = 1, "no heads");
	EXPECT_NO_POOL(whole, made.head_first = 1, "no heads");
	EXPECT_NO_POOL(whole, made.heads_total = 1, "no heads");
	EXPECT_NO_POOL(whole, made.head_bytes = 4, "no heads");
	EXPECT_NO_POOL(whole, made.head_stride = 4, "no heads");
	EXPECT_NO_POOL(whole, made.token_stride = 4, "no heads");
}

Test(shape, heads_that_cannot_be_are_refused)
{
	EXPECT_NO_POOL(divided, made.layout = (enum kvx_layout)3, "layout 3");
	EXPECT_NO_POOL(divided, made.block_tokens = 0, "block_tokens");
	EXPECT_NO_POOL(divided, made.heads = 0, "0 heads");
	EXPECT_NO_POOL(divided, made.heads = 9, "9 heads from head 0 on, of 8");
	EXPECT_NO_POOL(divided, made.head_first = 1, "8 heads from head 1 on, of 8");
	EXPECT_NO_POOL(divided, made.head_first = UINT32_MAX, "from head 4294967295 on");
	EXPECT_NO_POOL(divided, made.heads_total = 65537, "of 65537");
	EXPECT_NO_POOL(divided, made.head_bytes = 0, "head_bytes 0");
	EXPECT_NO_POOL(divided, made.head_bytes = 6, "head_bytes 6");
	EXPECT_NO_POOL(divided, made.head_stride = 4098, "head_stride 4098");
	EXPECT_NO_POOL(divided, made.token_stride = 258, "token_stride 258");
}

Test(shape, heads_and_tokens_that_overlap_or_leave_the_block_are_refused)
{
	EXPECT_NO_POOL(divided, made.token_stride = 252, "overlap");
	EXPECT_NO_POOL(divided, made.head_stride = 16 * 256 - 4, "overlap");
	EXPECT_NO_POOL(divided, made.block_bytes = 8 * 16 * 256 - 4, "leave the block");
	EXPECT_NO_POOL(divided, made.block_bytes = 8 * 16 * 256 + 2, "multiple of 4");
	EXPECT_NO_POOL(divided, made.layout = KVX_LAYOUT_NHD; made.token_stride = 2044, "overlap");
	EXPECT_NO_POOL(divided, made.block_tokens = 1u << 21, "below 4 GiB");
	EXPECT_NO_POOL(divided, made.head_stride = 1u << 31, "below 4 GiB");
	EXPECT_NO_POOL(divided, (made.block_tokens = UINT32_MAX, made.head_bytes = UINT32_MAX - 3),
		       "blocks of 18446744052234715140 bytes");
}

Test(shape, extra_planes_that_cannot_be_are_refused)
{
	EXPECT_NO_POOL(whole, made.extra_planes = 1, "extra plane 0");
	EXPECT_NO_POOL(whole, (made.extra_planes = 1, made.extra[0].block_bytes = 6),
		       "blocks of 6 bytes");
	EXPECT_NO_POOL(whole, (made.extra_planes = 1, made.extra[0].token_bytes = 6),
		       "tokens of 6");
	EXPECT_NO_POOL(whole,
		       (made.extra_planes = 1, made.extra[0].token_bytes = 64,
			made.extra[0].block_bytes = 1020),
		       "hold its 16 tokens");
	EXPECT_NO_POOL(
		whole,
		(made.extra_planes = 1, made.extra[0].token_bytes = 64, made.block_tokens = 0),
		"block_tokens is not said");
	EXPECT_NO_POOL(whole, (made.extra_planes = 1, made.extra[0].token_bytes = 1u << 28),
		       "blocks of 4294967296 bytes");
}

Test(shape, the_largest_pools_are_pools)
{
	struct kvx_geometry geometry = whole;

	geometry.block_bytes = UINT32_MAX - 3;
	geometry.blocks = geometry.block_tokens = UINT32_MAX;
	completed(geometry);
	geometry = divided;
	geometry.heads = geometry.heads_total = 65536;
	geometry.head_bytes = 4;
	geometry.block_tokens = 16383;
	cr_assert_eq(completed(geometry).block_bytes, 4294705152u);
}

/* --- matching --- */

static void expect_mismatch(struct kvx_geometry sender, struct kvx_geometry receiver,
			    const char *why)
{
	cr_assert_eq(kvx_geometry_match(&sender, &receiver), KVX_E_GEOMETRY, "matches: %s", why);
	cr_assert(strstr(kvx_error_text(), why), "\"%s\" does not say: %s", kvx_error_text(), why);
}

#define EXPECT_MISMATCH(base, change, why)                         \
	do {                                                       \
		struct kvx_geometry other = completed(base), made; \
		made = other;                                      \
		change;                                            \
		expect_mismatch(made, other, why);                 \
		expect_mismatch(other, made, why);                 \
	} while (0)

/* These must be equal, so the hash tells them apart too. */
#define EXPECT_UNLIKE(base, change, why)                                                           \
	do {                                                                                       \
		struct kvx_geometry like = completed(base), made;                                  \
		made = like;                                                                       \
		change;                                                                            \
		cr_assert_neq(kvx_geometry_hash(&made), kvx_geometry_hash(&like), "same hash: %s", \
			      why);                                                                \
		EXPECT_MISMATCH(base, change, why);                                                \
	} while (0)

Test(shape, what_must_be_equal_and_is_not_is_refused)
{
	struct kvx_geometry extra = divided;

	EXPECT_UNLIKE(divided, strcpy(made.dtype, "fp8"), "(dtype)");
	EXPECT_UNLIKE(divided, made.model = 7, "(model)");
	EXPECT_UNLIKE(divided, made.planes = 1, "(planes)");
	EXPECT_UNLIKE(divided, made.heads_total = 16, "(heads of the model)");
	EXPECT_UNLIKE(divided, made.head_bytes = 128, "(heads of the model)");
	EXPECT_UNLIKE(whole, made.block_bytes = 8192, "(blocks, which move whole)");
	EXPECT_UNLIKE(whole, made.block_tokens = 32, "(blocks, which move whole)");
	extra.extra_planes = 2;
	extra.extra[0].token_bytes = 64;
	extra.extra[1].block_bytes = 640;
	EXPECT_UNLIKE(extra, made.extra_planes = 1, "(planes)");
	EXPECT_UNLIKE(extra, made.extra[0].token_bytes = 68, "(planes)");
	EXPECT_UNLIKE(extra, made.extra[1].block_bytes = 644, "(planes)");
	EXPECT_UNLIKE(extra, made.block_tokens = 32, "(planes)");
	expect_mismatch(completed(whole),
			completed((struct kvx_geometry){
				.layers = 4,
				.planes = 2,
				.blocks = 100,
				.block_tokens = 16,
				.layout = KVX_LAYOUT_NHD,
				.heads = 1,
				.heads_total = 1,
				.head_bytes = 256,
			}),
			"(layout: one has none)");
}

Test(shape, pools_with_nothing_in_common_are_refused)
{
	EXPECT_MISMATCH(divided, made.layer_first = 4, "(no layer in common)");
	EXPECT_MISMATCH(divided, (made.heads = 4, other.heads = 4, other.head_first = 4),
			"(no head in common)");
	EXPECT_MISMATCH(divided, made.block_tokens = 24,
			"(tokens of a block: one must be a multiple of the other)");
}

Test(shape, pools_that_differ_otherwise_match)
{
	struct kvx_geometry sender = divided, receiver = completed(divided);

	sender.layers = 2, sender.layer_first = 3;
	sender.blocks = 7;
	sender.block_tokens = 48;
	sender.layout = KVX_LAYOUT_NHD;
	sender.heads = 2, sender.head_first = 6;
	sender.token_stride = 1024;
	sender = completed(sender);
	cr_assert_eq(kvx_geometry_match(&sender, &receiver), 0, "%s", kvx_error_text());
	cr_assert_eq(kvx_geometry_match(&receiver, &sender), 0, "%s", kvx_error_text());
	cr_assert_eq(kvx_geometry_hash(&sender), kvx_geometry_hash(&receiver));
	cr_assert_eq(kvx_geometry_hash(&divided), kvx_geometry_hash(&receiver), "0 filled in");
}

Test(shape, a_mismatch_is_told_with_both_geometries)
{
	struct kvx_geometry sender = divided, receiver = divided;

	sender.layer_first = 80, receiver.layout = KVX_LAYOUT_NHD;
	receiver.heads = 2, receiver.head_first = 4;
	receiver.model = 0xabc;
	expect_mismatch(completed(sender), completed(receiver), "(model)");
	cr_assert(strstr(kvx_error_text(), "sender has layers 80..83, 2 planes, blocks of 16 tokens"
					   " HND, heads 0..7 of 8 of 256 bytes, dtype \"bf16\";"),
		  "%s", kvx_error_text());
	cr_assert(strstr(kvx_error_text(), "receiver has layers 0..3, 2 planes, blocks of 16 tokens"
					   " NHD, heads 4..5 of 8 of 256 bytes, dtype \"bf16\", "
					   "model abc"),
		  "%s", kvx_error_text());
}

/* The longest text of one still leaves room for the other. */
Test(shape, the_longest_geometries_are_both_told)
{
	struct kvx_geometry sender = {.layers = 511,
				      .layer_first = 65535,
				      .planes = 4,
				      .blocks = 1,
				      .block_tokens = UINT32_MAX,
				      .block_bytes = UINT32_MAX - 3,
				      .dtype = "elevenchars",
				      .model = UINT64_MAX,
				      .extra_planes = 4};

	for (uint32_t i = 0; i < 4; i++)
		sender.extra[i].block_bytes = UINT32_MAX - 3;
	sender = completed(sender);
	struct kvx_geometry receiver = sender;
	receiver.block_bytes -= 4;
	expect_mismatch(sender, receiver, "; receiver has layers 65535..66045, 4 planes");
	cr_assert(strstr(kvx_error_text(), "of 4294967288 bytes"), "%s", kvx_error_text());
}

/* --- shares --- */

#define SENDERS 8u

static struct kvx_geometry rank_of(uint32_t layer, uint32_t layers, uint32_t head, uint32_t heads)
{
	struct kvx_geometry rank = divided;

	rank.layer_first = layer, rank.layers = layers;
	rank.head_first = head, rank.heads = heads;
	return completed(rank);
}

static void expect_share(const struct kvx_share *share, uint32_t plane, uint32_t layer,
			 uint32_t layers, uint32_t head, uint32_t heads, uint32_t first,
			 uint32_t end)
{
	cr_assert_eq(share->layer_first, layer);
	cr_assert_eq(share->layers, layers);
	cr_assert_eq(share->plane[plane].head_first, head);
	cr_assert_eq(share->plane[plane].heads, heads);
	cr_assert_eq(share->plane[plane].token_first, first, "from token %u on",
		     share->plane[plane].token_first);
	cr_assert_eq(share->plane[plane].token_end, end, "up to token %u",
		     share->plane[plane].token_end);
}

Test(shape, one_sender_that_holds_all_moves_all)
{
	struct kvx_geometry receiver = rank_of(2, 2, 4, 2), sender = rank_of(0, 4, 0, 8);
	struct kvx_share share;

	cr_assert_eq(kvx_share_out(&receiver, 16, 100, &sender, 1, &share), 0);
	expect_share(&share, 0, 0, 2, 4, 2, 16, 100);
	expect_share(&share, 1, 0, 2, 4, 2, 16, 100);
}

Test(shape, stages_and_ranks_of_unequal_size_move_what_they_hold)
{
	struct kvx_geometry receiver = rank_of(1, 3, 2, 5),
			    senders[] = {rank_of(0, 3, 0, 3), rank_of(3, 1, 0, 8),
					 rank_of(0, 3, 3, 5)};
	struct kvx_share shares[3];

	cr_assert_eq(kvx_share_out(&receiver, 0, 100, senders, 3, shares), 0, "%s",
		     kvx_error_text());
	expect_share(&shares[0], 0, 0, 2, 2, 1, 0, 100);
	expect_share(&shares[1], 0, 2, 1, 2, 5, 0, 100);
	expect_share(&shares[2], 1, 0, 2, 3, 4, 0, 100);
}

/* A latent that all of eight ranks hold: each moves an eighth of the tokens, in whole blocks. */
Test(shape, replicas_share_by_tokens)
{
	struct kvx_geometry latent = {.layers = 4,
				      .planes = 1,
				      .blocks = 100,
				      .block_tokens = 64,
				      .layout = KVX_LAYOUT_NHD,
				      .heads = 1,
				      .heads_total = 1,
				      .head_bytes = 1152};
	struct kvx_geometry receiver = completed(latent), senders[SENDERS];
	struct kvx_share shares[SENDERS];

	latent.block_tokens = 16;
	for (uint32_t i = 0; i < SENDERS; i++)
		senders[i] = completed(latent);
	cr_assert_eq(kvx_share_out(&receiver, 64, 64 * 17 - 5, senders, SENDERS, shares), 0);
	for (uint32_t i = 0; i < SENDERS; i++)
		expect_share(&shares[i], 0, 0, 4, 0, 1, 64 + i * 128,
			     i + 1 < SENDERS ? 64 + (i + 1) * 128 : 64 * 17 - 5);
	/* The sender's blocks are the larger ones. */
	receiver.block_tokens = 16;
	senders[7].block_tokens = 64;
	cr_assert_eq(kvx_share_out(&receiver, 16, 64 * 9, senders, SENDERS, shares), 0);
	expect_share(&shares[0], 0, 0, 4, 0, 1, 16, 64);
	expect_share(&shares[7], 0, 0, 4, 0, 1, 64 * 7, 64 * 9);
}

Test(shape, more_replicas_than_blocks_leave_some_without_a_share)
{
	struct kvx_geometry receiver = rank_of(0, 4, 0, 8), senders[SENDERS];
	struct kvx_share shares[SENDERS];
	uint32_t next = 0, empty = 0;

	for (uint32_t i = 0; i < SENDERS; i++)
		senders[i] = receiver;
	cr_assert_eq(kvx_share_out(&receiver, 0, 40, senders, SENDERS, shares), 0);
	for (uint32_t i = 0; i < SENDERS; i++) {
		cr_assert_eq(shares[i].plane[0].token_first, next);
		cr_assert(shares[i].plane[0].token_end >= next);
		empty += shares[i].plane[0].token_end == next;
		next = shares[i].plane[0].token_end;
	}
	cr_assert_eq(next, 40);
	cr_assert_eq(empty, SENDERS - 3);
}

/* Heads are divided, what is not divided by heads is shared. */
Test(shape, an_extra_plane_is_shared_by_the_ranks_of_a_stage)
{
	struct kvx_geometry rank = divided, senders[4];
	struct kvx_share shares[4];

	rank.extra_planes = 1, rank.extra[0].token_bytes = 128;
	struct kvx_geometry receiver = completed(rank);
	for (uint32_t i = 0; i < 4; i++) {
		rank.heads = 4, rank.head_first = i % 2 * 4;
		rank.layers = i < 2 ? 1 : 3, rank.layer_first = i < 2 ? 0 : 1;
		senders[i] = completed(rank);
	}
	cr_assert_eq(kvx_share_out(&receiver, 0, 64, senders, 4, shares), 0, "%s",
		     kvx_error_text());
	for (uint32_t i = 0; i < 4; i++) {
		uint32_t layer = i < 2 ? 0 : 1, layers = i < 2 ? 1 : 3;
		expect_share(&shares[i], 1, layer, layers, i % 2 * 4, 4, 0, 64);
		expect_share(&shares[i], 2, layer, layers, 0, 1, i % 2 * 32, i % 2 * 32 + 32);
	}
}

static void expect_no_shares(const struct kvx_geometry *receiver,
			     const struct kvx_geometry *senders, uint32_t count, const char *why)
{
	struct kvx_share shares[SENDERS];

	cr_assert_eq(kvx_share_out(receiver, 0, 64, senders, count, shares), KVX_E_GEOMETRY);
	cr_assert(strstr(kvx_error_text(), why), "\"%s\" does not say: %s", kvx_error_text(), why);
}

Test(shape, what_no_sender_holds_is_named)
{
	struct kvx_geometry receiver = rank_of(0, 4, 0, 8);
	struct kvx_geometry heads[] = {rank_of(0, 4, 0, 3), rank_of(0, 4, 4, 4)};
	struct kvx_geometry layers[] = {rank_of(0, 1, 0, 8), rank_of(2, 2, 0, 8)};
	struct kvx_geometry corner[] = {rank_of(0, 4, 4, 4), rank_of(0, 3, 0, 4)};

	expect_no_shares(&receiver, heads, 2,
			 "of plane 0 none of its 2 senders holds head 3 of layer 0");
	expect_no_shares(&receiver, layers, 2, "holds head 0 of layer 1");
	expect_no_shares(&receiver, corner, 2, "holds head 0 of layer 3");
	expect_no_shares(&receiver, heads, 1, "none of its 1 senders holds head 3 of layer 0");
	receiver = rank_of(2, 2, 2, 4);
	expect_no_shares(&receiver, corner, 2, "holds head 2 of layer 3");
}

Test(shape, parts_that_overlap_are_named)
{
	struct kvx_geometry receiver = rank_of(0, 4, 0, 8);
	struct kvx_geometry heads[] = {rank_of(0, 4, 0, 5), rank_of(0, 4, 4, 4)};
	struct kvx_geometry layers[] = {rank_of(0, 2, 0, 8), rank_of(2, 2, 0, 8),
					rank_of(1, 3, 0, 8)};

	expect_no_shares(&receiver, heads, 2, "senders 0 and 1 hold parts of plane 0");
	expect_no_shares(&receiver, layers, 3, "senders 0 and 2 hold parts of plane 0");
	/* What the receiver does not hold is nobody's business. */
	receiver = rank_of(0, 4, 5, 3);
	struct kvx_geometry outside[] = {rank_of(0, 4, 3, 5), rank_of(0, 4, 4, 4)};
	struct kvx_share shares[2];
	cr_assert_eq(kvx_share_out(&receiver, 0, 64, outside, 2, shares), 0);
	expect_share(&shares[0], 0, 0, 4, 5, 3, 0, 32);
	expect_share(&shares[1], 0, 0, 4, 5, 3, 32, 64);
}

Test(shape, the_latest_tokens_do_not_overflow)
{
	struct kvx_geometry receiver = completed(whole), senders[SENDERS];
	struct kvx_share shares[SENDERS];
	uint64_t random = random_seed();

	for (int round = 0; round < 1000; round++) {
		uint32_t count = random_between(&random, 1, SENDERS);
		uint32_t end = UINT32_MAX - random_between(&random, 0, 70);
		uint32_t next = end - random_between(&random, 1, 1000000);
		receiver.block_tokens = 1u << random_between(&random, 0, 31);
		next -= next % receiver.block_tokens;
		for (uint32_t i = 0; i < count; i++)
			senders[i] = receiver;
		cr_assert_eq(kvx_share_out(&receiver, next, end, senders, count, shares), 0);
		for (uint32_t i = 0; i < count; i++) {
			cr_assert_eq(shares[i].plane[1].token_first, next);
			cr_assert(shares[i].plane[1].token_end >= next);
			next = shares[i].plane[1].token_end;
		}
		cr_assert_eq(next, end);
	}
}
