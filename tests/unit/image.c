/* SPDX-License-Identifier: Apache-2.0 */
/* A layer's image: its units, how an end holds it, where a range of it lands, and the hash. */
#include "plan/plan.h"

#include "support/chance.h"

#include <criterion/criterion.h>
#include <string.h>

static struct kvx_geometry geometry_of(uint32_t block_tokens, enum kvx_layout layout,
				       uint32_t heads, uint32_t head_bytes)
{
	struct kvx_geometry complete, geometry = {.layers = 1,
						  .planes = 1,
						  .blocks = 100,
						  .block_tokens = block_tokens,
						  .layout = layout,
						  .heads = heads,
						  .heads_total = heads,
						  .head_bytes = head_bytes};

	cr_assert_eq(kvx_geometry_complete(&geometry, &complete), 0, "%s", kvx_error_text());
	return complete;
}

/* The image of all that both hold of these tokens. */
static struct kvx_image image_of(const struct kvx_geometry *sender,
				 const struct kvx_geometry *receiver, uint32_t first, uint32_t end,
				 struct kvx_share *share)
{
	struct kvx_shape ours, theirs;
	struct kvx_image image;

	kvx_shape_of(sender, &ours);
	kvx_shape_of(receiver, &theirs);
	cr_assert_eq(kvx_share_out(receiver, first, end, sender, 1, share), 0);
	kvx_image_make(&image, &ours, &theirs, share, first, end);
	return image;
}

static struct kvx_image plain_image(uint32_t block_tokens, uint32_t first, uint32_t end)
{
	struct kvx_geometry geometry = geometry_of(block_tokens, KVX_LAYOUT_NHD, 2, 8);
	struct kvx_share share;

	return image_of(&geometry, &geometry, first, end, &share);
}

/* --- units --- */

Test(image, units_are_about_as_large_as_asked)
{
	static const struct {
		uint64_t bytes, unit_bytes;
		uint32_t most, units;
	} cases[] = {
		{0, 4096, 64, 1},       {4, 4096, 64, 1},        {4096, 4096, 64, 1},
		{4100, 4096, 64, 2},    {1 << 20, 4096, 64, 64}, {1 << 20, 65536, 64, 16},
		{1 << 20, 65536, 5, 5}, {UINT64_MAX, 1, 64, 64}, {UINT64_MAX, UINT64_MAX, 64, 1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_assert_eq(kvx_image_units(cases[i].bytes, cases[i].unit_bytes, cases[i].most),
			     cases[i].units, "case %zu", i);
}

Test(image, units_are_cut_between_blocks_and_cover_the_tokens)
{
	uint64_t random = random_seed();
	uint8_t weights[KVX_UNITS_MAX];

	for (int round = 0; round < 2000; round++) {
		uint32_t align = random_between(&random, 1, 100);
		uint32_t first = align * random_between(&random, 0, 50);
		uint32_t end = first + random_between(&random, 1, 5000);
		uint32_t units = random_between(&random, 1, KVX_UNITS_MAX), sum = 0, before = 0;
		struct kvx_image image = plain_image(align, first, end);
		for (uint32_t unit = 0; unit < units; unit++)
			sum += weights[unit] = (uint8_t)random_between(&random, 1, 255);
		kvx_image_cut(&image, units, weights);
		uint32_t blocks = (end - first + align - 1) / align;
		for (uint32_t unit = 0; unit < units; unit++) {
			uint32_t token = kvx_image_unit_token(&image, unit);
			cr_assert_eq(token, first + (uint64_t)blocks * before / sum * align);
			cr_assert_eq(kvx_image_unit_place(&image, unit),
				     (token - first) * UINT64_C(16));
			before += weights[unit];
		}
		cr_assert_eq(kvx_image_unit_token(&image, units), end);
		cr_assert_eq(kvx_image_unit_place(&image, units), kvx_image_bytes(&image));
	}
}

Test(image, units_are_cut_at_blocks_of_both_ends)
{
	struct kvx_geometry sender = geometry_of(16, KVX_LAYOUT_HND, 2, 8);
	struct kvx_geometry receiver = geometry_of(64, KVX_LAYOUT_HND, 2, 8);
	struct kvx_share share;
	struct kvx_image image = image_of(&sender, &receiver, 64, 300, &share);

	cr_assert_eq(image.chunk_tokens, 16);
	kvx_image_cut(&image, 3, NULL);
	cr_assert_eq(kvx_image_unit_token(&image, 1), 128);
	cr_assert_eq(kvx_image_unit_token(&image, 2), 192);
	image = image_of(&receiver, &sender, 16, 300, &share);
	kvx_image_cut(&image, 5, NULL);
	cr_assert_eq(kvx_image_unit_token(&image, 0), 16);
	cr_assert_eq(kvx_image_unit_token(&image, 1), 64);
	cr_assert_eq(kvx_image_unit_token(&image, 5), 300);
}

Test(image, equal_weights_cut_as_no_weights_do)
{
	uint8_t weights[KVX_UNITS_MAX];

	memset(weights, 200, sizeof(weights));
	for (uint32_t units = 1; units <= KVX_UNITS_MAX; units++) {
		struct kvx_image equal = plain_image(16, 0, 600), weighted = equal;
		kvx_image_cut(&equal, units, NULL);
		kvx_image_cut(&weighted, units, weights);
		for (uint32_t unit = 0; unit <= units; unit++) {
			cr_assert_eq(equal.tokens[unit], weighted.tokens[unit]);
			cr_assert_eq(equal.places[unit], weighted.places[unit]);
		}
	}
}

Test(image, units_beyond_the_blocks_are_empty)
{
	struct kvx_image image = plain_image(16, 0, 40);
	uint64_t filled = 0;

	kvx_image_cut(&image, KVX_UNITS_MAX, NULL);
	filled = kvx_image_filled(&image);
	cr_assert_eq(__builtin_popcountll(filled), 3);
	cr_assert(filled >> 63, "the last one has the end");
}

/* Of eight that hold the same each moves an eighth: all its units have bytes. */
Test(image, units_divide_the_share_and_not_the_request)
{
	struct kvx_geometry rank = geometry_of(16, KVX_LAYOUT_NHD, 1, 64);
	struct kvx_geometry senders[8] = {rank, rank, rank, rank, rank, rank, rank, rank};
	struct kvx_share shares[8];
	struct kvx_shape shape;
	struct kvx_image image;

	kvx_shape_of(&rank, &shape);
	cr_assert_eq(kvx_share_out(&rank, 0, 1024, senders, 8, shares), 0);
	kvx_image_make(&image, &shape, &shape, &shares[3], 0, 1024);
	kvx_image_cut(&image, 4, NULL);
	cr_assert_eq(kvx_image_filled(&image), 0xf);
	cr_assert_eq(kvx_image_unit_token(&image, 0), 384);
	cr_assert_eq(kvx_image_unit_token(&image, 4), 512);
	cr_assert_eq(kvx_image_bytes(&image), UINT64_C(128) * 64);
	cr_assert_eq(kvx_share_out(&rank, 0, 16, senders, 8, shares), 0);
	kvx_image_make(&image, &shape, &shape, &shares[3], 0, 16);
	kvx_image_cut(&image, 4, NULL);
	cr_assert_eq(kvx_image_filled(&image), 0, "nothing of one block");
	cr_assert_eq(kvx_image_bytes(&image), 0);
}

/* --- how an end holds it --- */

static uint32_t piece_of(const struct kvx_geometry *sender, const struct kvx_geometry *receiver,
			 bool at_sender)
{
	struct kvx_share share;
	struct kvx_image image = image_of(sender, receiver, 0, 64, &share);
	struct kvx_lay lays[KVX_PLANES_MAX];
	struct kvx_shape shape;

	kvx_shape_of(at_sender ? sender : receiver, &shape);
	kvx_lay_out(&image, &shape, &share, lays);
	return lays[0].piece;
}

Test(image, pieces_are_as_large_as_an_end_allows)
{
	struct kvx_geometry hnd = geometry_of(16, KVX_LAYOUT_HND, 8, 32), half = hnd;
	struct kvx_geometry nhd = geometry_of(16, KVX_LAYOUT_NHD, 8, 32), wide = hnd, part = nhd;
	struct kvx_geometry large = geometry_of(64, KVX_LAYOUT_HND, 8, 32);

	cr_assert_eq(piece_of(&hnd, &hnd, true), 8 * 16 * 32);
	cr_assert_eq(piece_of(&nhd, &hnd, false), 8 * 16 * 32);
	cr_assert_eq(piece_of(&nhd, &hnd, true), 32);
	cr_assert_eq(piece_of(&hnd, &nhd, true), 32);
	half.heads = 4, half.block_bytes /= 2;
	cr_assert_eq(piece_of(&hnd, &half, true), 4 * 16 * 32, "heads are outermost");
	part.heads = 4, part.token_stride /= 2, part.block_bytes /= 2;
	cr_assert_eq(piece_of(&nhd, &part, true), 4 * 32);
	cr_assert_eq(piece_of(&nhd, &part, false), 4 * 16 * 32);
	cr_assert_eq(piece_of(&hnd, &large, false), 16 * 32);
	cr_assert_eq(piece_of(&hnd, &large, true), 8 * 16 * 32);
	wide.head_stride += 4;
	cr_assert_eq(piece_of(&wide, &hnd, true), 16 * 32);
}

/* --- where a range lands --- */

Test(image, neighbours_are_one_entry)
{
	const uint32_t table[] = {3, 4, 5, 1};
	struct kvx_geometry geometry = geometry_of(16, KVX_LAYOUT_NHD, 1, 64);
	struct kvx_source target = {(char *)65536, 1024, NULL};
	struct kvx_lay lays[KVX_PLANES_MAX];
	struct kvx_share share;
	struct kvx_shape shape;
	struct iovec iov[4];
	struct kvx_image image = image_of(&geometry, &geometry, 0, 64, &share);

	kvx_shape_of(&geometry, &shape);
	kvx_image_cut(&image, 1, NULL);
	kvx_lay_out(&image, &shape, &share, lays);
	struct kvx_layer_place layer = {&image, lays, table, &target};
	cr_assert_eq(kvx_image_resolve(&layer, 0, 0, 4096, iov, 4), 2);
	cr_assert_eq(iov[0].iov_base, (char *)65536 + 3072);
	cr_assert_eq(iov[0].iov_len, 3072);
	cr_assert_eq(iov[1].iov_base, (char *)65536 + 1024);
	cr_assert_eq(iov[1].iov_len, 1024);
	cr_assert_eq(kvx_image_resolve(&layer, 0, 1000, 2500, iov, 1), 1);
	cr_assert_eq(iov[0].iov_base, (char *)65536 + 3072 + 1000);
	cr_assert_eq(iov[0].iov_len, 2072, "what does not fit is left out");
	cr_assert_eq(kvx_image_resolve(&layer, 0, 4096, 0, iov, 4), 0);
}

/* --- hash --- */

/* All that the hash is made of. */
struct agreed {
	struct kvx_geometry geometry;
	struct kvx_share share;
	struct kvx_image image;
	uint32_t table[3];
};

static uint64_t hash_of(const struct agreed *agreed)
{
	return kvx_plan_hash(&agreed->geometry, &agreed->image, &agreed->share,
			     kvx_table_hash(agreed->table, 3));
}

#define EXPECT_OTHER_HASH(change)                                                \
	do {                                                                     \
		struct agreed other = agreed;                                    \
		change;                                                          \
		cr_assert_neq(hash_of(&other), hash_of(&agreed), "%s", #change); \
	} while (0)

Test(image, the_hash_depends_on_all_that_both_sides_must_agree_on)
{
	const uint8_t weights[] = {1, 2, 1};
	struct agreed agreed = {.geometry = geometry_of(16, KVX_LAYOUT_HND, 8, 32),
				.table = {1, 2, 3}};

	agreed.image = image_of(&agreed.geometry, &agreed.geometry, 0, 40, &agreed.share);
	kvx_image_cut(&agreed.image, 3, NULL);
	EXPECT_OTHER_HASH(other.geometry.model++);
	EXPECT_OTHER_HASH(other.geometry.dtype[0] = 'f');
	EXPECT_OTHER_HASH(other.share.layer_first++);
	EXPECT_OTHER_HASH(other.share.layers++);
	EXPECT_OTHER_HASH(other.share.plane[0].head_first++);
	EXPECT_OTHER_HASH(other.share.plane[0].heads--);
	EXPECT_OTHER_HASH(other.share.plane[0].token_first++);
	EXPECT_OTHER_HASH(other.share.plane[0].token_end++);
	EXPECT_OTHER_HASH(other.image.token_first++);
	EXPECT_OTHER_HASH(other.image.token_end++);
	EXPECT_OTHER_HASH(other.image.chunk_tokens /= 2);
	EXPECT_OTHER_HASH(other.image.align *= 2);
	EXPECT_OTHER_HASH(other.image.plane[0].by_head = false);
	EXPECT_OTHER_HASH(kvx_image_cut(&other.image, 2, NULL));
	EXPECT_OTHER_HASH(kvx_image_cut(&other.image, 3, weights));
	EXPECT_OTHER_HASH(other.table[2]++);
	struct agreed same = agreed;
	same.geometry.blocks++;
	same.geometry.layers++;
	cr_assert_eq(hash_of(&same), hash_of(&agreed), "pools may differ in size");
}
