/* SPDX-License-Identifier: Apache-2.0 */
#include "pattern.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const struct kvx_pattern_place somewhere = {
	.seed = 7, .request = 11, .layer = 3, .plane = 1, .block = 42};

static const size_t sizes[] = {4, 8, 12, 252, 256, 260, 1152, 65536};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

Test(bench_pattern, what_was_filled_verifies)
{
	uint64_t key = kvx_pattern_key(&somewhere);
	size_t first = 0;

	for (size_t i = 0; i < SIZES; i++) {
		uint8_t *bytes = malloc(sizes[i]);
		kvx_pattern_fill(key, bytes, sizes[i]);
		cr_assert_eq(kvx_pattern_verify(key, bytes, sizes[i], &first), 0, "%zu bytes",
			     sizes[i]);
		for (size_t at = 0; at < sizes[i]; at++)
			cr_assert_eq(bytes[at], kvx_pattern_byte(key, at), "byte %zu of %zu", at,
				     sizes[i]);
		free(bytes);
	}
}

Test(bench_pattern, every_single_wrong_byte_is_found_with_its_offset)
{
	uint64_t key = kvx_pattern_key(&somewhere);
	uint8_t bytes[1156];

	kvx_pattern_fill(key, bytes, sizeof(bytes));
	for (size_t at = 0; at < sizeof(bytes); at++) {
		size_t first = SIZE_MAX;
		bytes[at] ^= 1;
		cr_assert_eq(kvx_pattern_verify(key, bytes, sizeof(bytes), &first), 1);
		cr_assert_eq(first, at);
		bytes[at] ^= 1;
	}
}

Test(bench_pattern, all_wrong_bytes_are_counted)
{
	uint64_t key = kvx_pattern_key(&somewhere);
	uint8_t bytes[4096];
	size_t first = 0;

	kvx_pattern_fill(key, bytes, sizeof(bytes));
	for (size_t at = 5; at < sizeof(bytes); at += 100)
		bytes[at] ^= 0xff;
	cr_assert_eq(kvx_pattern_verify(key, bytes, sizeof(bytes), &first), 41);
	cr_assert_eq(first, 5);
}

/* A block of another place has about one byte in 256 right by chance. */
static void assert_is_elsewhere(struct kvx_pattern_place other)
{
	uint8_t bytes[4096];
	size_t first = 0;

	kvx_pattern_fill(kvx_pattern_key(&other), bytes, sizeof(bytes));
	cr_assert_gt(kvx_pattern_verify(kvx_pattern_key(&somewhere), bytes, sizeof(bytes), &first),
		     sizeof(bytes) * 9 / 10);
}

Test(bench_pattern, a_block_of_another_place_is_wrong)
{
	struct kvx_pattern_place other = somewhere;

	other.seed++;
	assert_is_elsewhere(other);
	other = somewhere;
	other.request++;
	assert_is_elsewhere(other);
	other = somewhere;
	other.layer++;
	assert_is_elsewhere(other);
	other = somewhere;
	other.plane = 0;
	assert_is_elsewhere(other);
	other = somewhere;
	other.block++;
	assert_is_elsewhere(other);
}

Test(bench_pattern, bytes_that_moved_within_their_block_are_wrong)
{
	uint64_t key = kvx_pattern_key(&somewhere);
	uint8_t bytes[4096];
	size_t first = 0;

	kvx_pattern_fill(key, bytes, sizeof(bytes));
	memmove(bytes, bytes + 64, sizeof(bytes) - 64);
	cr_assert_gt(kvx_pattern_verify(key, bytes, sizeof(bytes), &first), 3500);
}
