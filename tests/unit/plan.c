/* SPDX-License-Identifier: Apache-2.0 */
#include "plan/plan.h"

#include "support/chance.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 64u /* of the pools here */

static struct kvx_image image_of(uint32_t planes, uint32_t count, uint32_t block_bytes)
{
	return (struct kvx_image){.planes = planes, .count = count, .block_bytes = block_bytes};
}

/* --- units --- */

Test(plan, units_are_about_as_large_as_asked)
{
	static const struct {
		uint32_t planes, count, block_bytes;
		uint64_t unit_bytes;
		uint32_t units;
	} cases[] = {
		{1, 1, 4, 4096, 1},           {1, 4, 4096, 4096, 4},
		{1, 4, 4096, 4097, 4},        {1, 4, 4096, 8192, 2},
		{1, 4, 4096, 1, 4},           {2, 4, 4096, 1, 8},
		{2, 512, 65536, 1 << 20, 64}, {8, 1 << 20, 4096, 4096, 64},
		{1, 1, 1 << 20, 4096, 1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvx_image image =
			image_of(cases[i].planes, cases[i].count, cases[i].block_bytes);
		cr_assert_eq(kvx_image_units(&image, cases[i].unit_bytes), cases[i].units,
			     "case %zu", i);
	}
}

/* Whole blocks, no unit empty, nothing left out. Returns the sizes' spread, in bytes. */
static uint64_t expect_units_partition(const struct kvx_image *image)
{
	uint64_t smallest = UINT64_MAX, largest = 0;

	cr_assert_eq(kvx_image_unit_place(image, 0), 0);
	cr_assert_eq(kvx_image_unit_place(image, image->units), kvx_image_bytes(image));
	for (uint32_t unit = 0; unit < image->units; unit++) {
		uint64_t begin = kvx_image_unit_place(image, unit),
			 end = kvx_image_unit_place(image, unit + 1);
		cr_assert(end > begin, "unit %u is empty", unit);
		cr_assert_eq(begin % image->block_bytes, 0, "unit %u is not cut at a block", unit);
		smallest = end - begin < smallest ? end - begin : smallest;
		largest = end - begin > largest ? end - begin : largest;
	}
	return largest - smallest;
}

static struct kvx_image random_image(uint64_t *random)
{
	return image_of(random_between(random, 1, KVX_PLANES_MAX), random_between(random, 1, 5000),
			4 * random_between(random, 1, 50000));
}

Test(plan, units_cover_the_image_and_are_cut_at_blocks)
{
	uint64_t random = random_seed();

	for (int round = 0; round < 2000; round++) {
		struct kvx_image image = random_image(&random);
		uint32_t units = kvx_image_units(&image, random_between(&random, 4096, 1 << 26));
		cr_assert(units >= 1 && units <= KVX_UNITS_MAX);
		cr_assert(kvx_image_cut(&image, units, NULL));
		cr_assert_eq(image.units, units);
		cr_assert(expect_units_partition(&image) <= image.block_bytes);
	}
}

static uint32_t random_weights(uint64_t *random, uint8_t *weights)
{
	uint32_t units = random_between(random, 1, KVX_UNITS_MAX);

	for (uint32_t unit = 0; unit < units; unit++)
		weights[unit] = (uint8_t)random_between(random, 1, 255);
	return units;
}

static uint32_t sum_of(const uint8_t *weights, uint32_t units)
{
	uint32_t sum = 0;

	for (uint32_t unit = 0; unit < units; unit++)
		sum += weights[unit];
	return sum;
}

/* Each border is the weighted one, rounded down to a block: a unit is off by less than a block. */
Test(plan, weighted_units_cover_the_image_and_are_as_large_as_their_weights)
{
	uint64_t random = random_seed();
	uint8_t weights[KVX_UNITS_MAX];
	uint32_t cut = 0;

	for (int round = 0; round < 2000; round++) {
		struct kvx_image image = random_image(&random);
		uint64_t blocks = (uint64_t)image.planes * image.count, before = 0;
		uint32_t units = random_weights(&random, weights), sum = sum_of(weights, units);
		if (!kvx_image_cut(&image, units, weights))
			continue;
		cut++;
		cr_assert_eq(image.units, units);
		expect_units_partition(&image);
		for (uint32_t unit = 0; unit < units; unit++) {
			cr_assert_eq(kvx_image_unit_place(&image, unit),
				     blocks * before / sum * image.block_bytes);
			before += weights[unit];
		}
	}
	cr_assert(cut > 500, "only %u images were cut", cut);
}

Test(plan, a_cut_is_refused_exactly_where_a_unit_would_be_empty)
{
	uint64_t random = random_seed();
	uint8_t weights[KVX_UNITS_MAX];
	uint32_t refused = 0;

	for (int round = 0; round < 2000; round++) {
		struct kvx_image image = image_of(1, random_between(&random, 1, 200), 4096);
		uint32_t units = random_weights(&random, weights), sum = sum_of(weights, units);
		bool empty = false;
		for (uint32_t unit = 0, before = 0; unit < units; unit++) {
			uint32_t end = before + weights[unit];
			empty |= image.count * before / sum == image.count * end / sum;
			before = end;
		}
		cr_assert_eq(kvx_image_cut(&image, units, weights), !empty);
		refused += empty;
	}
	cr_assert(refused > 100 && refused < 1900, "%u refused", refused);
}

Test(plan, equal_weights_cut_as_no_weights_do)
{
	uint8_t weights[KVX_UNITS_MAX];

	memset(weights, 200, sizeof(weights));
	for (uint32_t units = 1; units <= KVX_UNITS_MAX; units++) {
		struct kvx_image equal = image_of(2, 37, 4096), weighted = equal;
		cr_assert(kvx_image_cut(&equal, units, NULL));
		cr_assert(kvx_image_cut(&weighted, units, weights));
		for (uint32_t unit = 0; unit <= units; unit++)
			cr_assert_eq(kvx_image_unit_place(&equal, unit),
				     kvx_image_unit_place(&weighted, unit));
	}
}

Test(plan, the_largest_image_does_not_overflow)
{
	struct kvx_image image = image_of(KVX_PLANES_MAX, KVX_TABLE_MAX, 1u << 31);
	uint8_t weights[KVX_UNITS_MAX];

	cr_assert(kvx_image_cut(&image, KVX_UNITS_MAX, NULL));
	cr_assert_eq(expect_units_partition(&image), 0);
	memset(weights, 255, sizeof(weights));
	weights[0] = 1;
	cr_assert(kvx_image_cut(&image, KVX_UNITS_MAX, weights));
	cr_assert_gt(expect_units_partition(&image), 0);
}

/* --- runs --- */

Test(plan, neighbours_at_both_ends_make_a_run)
{
	const uint32_t from[] = {4, 5, 6, 9, 10, 2, 3}, to[] = {0, 1, 2, 3, 7, 8, 9};
	struct kvx_run runs[7];

	cr_assert_eq(kvx_plan_runs(from, to, 7, true, runs), 4);
	const struct kvx_run expected[] = {{0, 3, 4, 0}, {3, 1, 9, 3}, {4, 1, 10, 7}, {5, 2, 2, 8}};
	cr_assert_eq(memcmp(runs, expected, sizeof(expected)), 0);
	cr_assert_eq(kvx_plan_runs(from, to, 7, true, NULL), 4);
	cr_assert_eq(kvx_plan_runs(from, to, 7, false, runs), 7);
}

/* --- slices --- */

/* Both pools of a request, and what the plan makes of it. */
struct world {
	struct kvx_plan plan;
	uint32_t from[BLOCKS], to[BLOCKS];
	struct kvx_run runs[BLOCKS];
	struct kvx_source sources[KVX_PLANES_MAX], targets[KVX_PLANES_MAX];
	struct kvx_target named[KVX_PLANES_MAX]; /* the targets, as offsets into their memory */
	char *memory[2];
	uint64_t plane_bytes;
};

static void world_make(struct world *world, uint64_t *random)
{
	struct kvx_image *image = &world->plan.image;
	bool packed = random_between(random, 0, 1);

	*image = image_of(random_between(random, 1, KVX_PLANES_MAX),
			  random_between(random, 1, BLOCKS), 4 * random_between(random, 1, 3000));
	kvx_image_cut(image, kvx_image_units(image, random_between(random, 1, 100000)), NULL);
	random_table(random, world->from, 0, BLOCKS);
	random_table(random, world->to, 0, BLOCKS);
	for (uint32_t i = 1; i < image->count; i++) { /* some neighbours */
		if (random_between(random, 0, 2))
			continue;
		uint32_t next_from = world->from[i - 1] + 1, next_to = world->to[i - 1] + 1;
		for (uint32_t k = i; k < BLOCKS; k++) {
			if (world->from[k] == next_from)
				world->from[k] = world->from[i], world->from[i] = next_from;
			if (world->to[k] == next_to)
				world->to[k] = world->to[i], world->to[i] = next_to;
		}
	}
	uint64_t stride = image->block_bytes + (packed ? 0 : 4 * random_between(random, 0, 9));
	world->plane_bytes = stride * BLOCKS;
	for (int side = 0; side < 2; side++)
		world->memory[side] = calloc(image->planes, world->plane_bytes);
	for (uint32_t plane = 0; plane < image->planes; plane++) {
		world->sources[plane] = (struct kvx_source){
			world->memory[0] + plane * world->plane_bytes, stride, NULL};
		world->targets[plane] = (struct kvx_source){
			world->memory[1] + plane * world->plane_bytes, stride, NULL};
		world->named[plane] =
			(struct kvx_target){plane * world->plane_bytes, stride, 7 - plane};
	}
	world->plan.runs = world->runs;
	world->plan.run_count =
		kvx_plan_runs(world->from, world->to, image->count, packed, world->runs);
}

static void world_free(struct world *world)
{
	free(world->memory[0]);
	free(world->memory[1]);
}

/* Where a place of the image lies, computed the plain way. */
static char *address_at(const struct kvx_image *image, const uint32_t *table,
			const struct kvx_source *planes, uint64_t place)
{
	uint64_t piece = place / image->block_bytes;

	return planes[piece / image->count].base +
	       table[piece % image->count] * planes[piece / image->count].stride +
	       place % image->block_bytes;
}

/* A slice's bytes are those of consecutive places: it crosses no run and nothing is skipped. */
static void expect_slice(const struct world *world, const struct kvx_slice *slice, uint64_t place)
{
	const struct kvx_image *image = &world->plan.image;

	for (uint64_t at = 0; at < slice->length;
	     at += image->block_bytes - (place + at) % image->block_bytes)
		cr_assert_eq(slice->local + at,
			     address_at(image, world->from, world->sources, place + at));
	cr_assert_eq(slice->local + slice->length - 1,
		     address_at(image, world->from, world->sources, place + slice->length - 1));
}

/* The same at the other end, named by memory and offset. */
static void expect_target(const struct world *world, const struct kvx_slice *slice, uint64_t place)
{
	const struct kvx_image *image = &world->plan.image;
	const char *begin = world->memory[1] + slice->offset;
	uint64_t plane = place / image->block_bytes / image->count;

	cr_assert_eq(slice->target, world->named[plane].memory);
	for (uint64_t at = 0; at < slice->length;
	     at += image->block_bytes - (place + at) % image->block_bytes)
		cr_assert_eq(begin + at, address_at(image, world->to, world->targets, place + at));
	cr_assert_eq(begin + slice->length - 1,
		     address_at(image, world->to, world->targets, place + slice->length - 1));
}

/* Returns how many slices the unit has. */
static uint32_t walk_unit(const struct world *world, uint32_t unit)
{
	const struct kvx_image *image = &world->plan.image;
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	uint64_t place = kvx_image_unit_place(image, unit);
	struct kvx_cursor cursor;
	uint32_t count, bytes, total = 0;

	kvx_cursor_seek(&cursor, &world->plan, unit);
	while ((count = kvx_cursor_fill(&cursor, &world->plan, world->sources, world->named, slices,
					&bytes))) {
		uint64_t sum = 0;
		cr_assert(count <= KVX_BATCH_SLICES_MAX && bytes <= KVX_BATCH_BYTES_MAX);
		for (uint32_t i = 0; i < count; i++) {
			cr_assert(slices[i].length > 0);
			expect_slice(world, &slices[i], place + sum);
			expect_target(world, &slices[i], place + sum);
			sum += slices[i].length;
		}
		cr_assert_eq(sum, bytes);
		place += sum;
		total += count;
		cr_assert_eq(cursor.place, place);
	}
	cr_assert_eq(place, kvx_image_unit_place(image, unit + 1));
	return total;
}

Test(plan, slices_cover_every_byte_once_and_in_order, .timeout = 60)
{
	uint64_t random = random_seed();
	struct world world;

	for (int round = 0; round < 300; round++) {
		world_make(&world, &random);
		uint32_t slices = 0;
		for (uint32_t unit = 0; unit < world.plan.image.units; unit++)
			slices += walk_unit(&world, unit);
		cr_assert(slices >= world.plan.run_count * world.plan.image.planes);
		world_free(&world);
	}
}

Test(plan, a_run_longer_than_a_batch_is_cut)
{
	struct kvx_run run = {0, 2, 0, 0};
	struct kvx_plan plan = {image_of(1, 2, 3u << 20), &run, 1};
	struct kvx_source source = {(char *)4096, 3u << 20, NULL};
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_cursor cursor;
	uint32_t bytes, batches = 0;

	cr_assert(kvx_image_cut(&plan.image, 1, NULL));
	kvx_cursor_seek(&cursor, &plan, 0);
	while (kvx_cursor_fill(&cursor, &plan, &source, NULL, slices, &bytes)) {
		cr_assert_eq(bytes, KVX_BATCH_BYTES_MAX);
		cr_assert_eq(slices[0].local, (char *)4096 + batches * (size_t)KVX_BATCH_BYTES_MAX);
		batches++;
	}
	cr_assert_eq(batches, 6);
}

/* --- the receiver's side --- */

/* Follows an answer of resolve() byte by byte. Returns how many bytes it covers. */
static uint64_t expect_resolved(const struct world *world, uint64_t place, const struct iovec *iov,
				int count)
{
	uint64_t covered = 0;

	for (int i = 0; i < count; i++)
		for (size_t at = 0; at < iov[i].iov_len; at += 4, covered += 4)
			cr_assert_eq((char *)iov[i].iov_base + at,
				     address_at(&world->plan.image, world->to, world->targets,
						place + covered));
	return covered;
}

Test(plan, resolve_finds_each_place, .timeout = 60)
{
	uint64_t random = random_seed();
	struct iovec iov[40];
	struct world world;

	for (int round = 0; round < 500; round++) {
		world_make(&world, &random);
		uint32_t words = (uint32_t)(kvx_image_bytes(&world.plan.image) / 4);
		uint64_t place = 4 * (uint64_t)random_between(&random, 0, words - 1);
		uint64_t bytes =
			4 * (uint64_t)random_between(&random, 1, words - (uint32_t)(place / 4));
		int room = (int)random_between(&random, 1, 40);
		int count = kvx_image_resolve(&world.plan.image, world.to, world.targets, place,
					      bytes, iov, room);
		cr_assert(count >= 1 && count <= room);
		uint64_t covered = expect_resolved(&world, place, iov, count);
		cr_assert(covered <= bytes && (covered == bytes || count == room));
		world_free(&world);
	}
}

Test(plan, resolve_merges_neighbours)
{
	const uint32_t table[] = {3, 4, 5, 1};
	struct kvx_image image = image_of(1, 4, 1024);
	struct kvx_source target = {(char *)65536, 1024, NULL};
	struct iovec iov[4];

	cr_assert_eq(kvx_image_resolve(&image, table, &target, 0, 4096, iov, 4), 2);
	cr_assert_eq(iov[0].iov_len, 3072);
	cr_assert_eq(iov[1].iov_base, (char *)65536 + 1024);
}

/* --- hash --- */

Test(plan, the_hash_depends_on_all_that_both_sides_must_agree_on)
{
	const struct kvx_geometry geometry = {4, 2, 16, 4096, 16, "bf16"};
	const uint8_t weights[] = {1, 1, 2, 1, 1, 1};
	struct kvx_image image = image_of(2, 3, 4096), altered;
	struct kvx_geometry other;
	uint32_t table[] = {1, 2, 3};
	uint64_t tables = kvx_table_hash(table, 3);

	kvx_image_cut(&image, 6, NULL);
	uint64_t hash = kvx_plan_hash(&geometry, &image, tables);
	cr_assert_eq(kvx_plan_hash(&geometry, &image, tables), hash);
	other = geometry, other.layers++;
	cr_assert_neq(kvx_plan_hash(&other, &image, tables), hash);
	other = geometry, other.block_tokens++;
	cr_assert_neq(kvx_plan_hash(&other, &image, tables), hash);
	other = geometry, other.dtype[0] = 'f';
	cr_assert_neq(kvx_plan_hash(&other, &image, tables), hash);
	other = geometry, other.blocks++;
	cr_assert_eq(kvx_plan_hash(&other, &image, tables), hash, "pools may differ in size");
	altered = image, kvx_image_cut(&altered, 5, NULL);
	cr_assert_neq(kvx_plan_hash(&geometry, &altered, tables), hash);
	altered = image, kvx_image_cut(&altered, 6, weights);
	cr_assert_neq(kvx_plan_hash(&geometry, &altered, tables), hash);
	altered = image, altered.planes = 1;
	cr_assert_neq(kvx_plan_hash(&geometry, &altered, tables), hash);
	altered = image, altered.block_bytes += 4;
	cr_assert_neq(kvx_plan_hash(&geometry, &altered, tables), hash);
	table[2] = 4;
	cr_assert_neq(kvx_plan_hash(&geometry, &image, kvx_table_hash(table, 3)), hash);
}
