/* SPDX-License-Identifier: Apache-2.0 */
/* Pools and tables of unusual shape and size. */
#include "support/pair.h"

#include <kvxfer/operate.h>
#include <stdlib.h>
#include <string.h>

static void run_shape(const struct way *way, struct kvx_geometry geometry)
{
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	pair_expect_works(&pair, 1);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

EACH_WAY_TEST(as_many_layers_as_there_can_be)
{
	run_shape(way,
		  (struct kvx_geometry){
			  .layers = KVX_LAYERS_MAX, .planes = 2, .blocks = 6, .block_bytes = 512});
}

EACH_WAY_TEST(as_many_planes_as_there_can_be)
{
	run_shape(way, (struct kvx_geometry){.layers = 3,
					     .planes = KVX_PLANES_MAX,
					     .blocks = 33,
					     .block_bytes = 1000});
}

EACH_WAY_TEST(the_smallest_pool)
{
	run_shape(way,
		  (struct kvx_geometry){.layers = 1, .planes = 1, .blocks = 1, .block_bytes = 4});
}

EACH_WAY_TEST(blocks_of_one_latent_plane)
{
	run_shape(way, (struct kvx_geometry){
			       .layers = 6, .planes = 1, .blocks = 64, .block_bytes = 1152 * 16});
}

EACH_WAY_TEST(blocks_larger_than_a_batch)
{
	run_shape(way,
		  (struct kvx_geometry){
			  .layers = 2, .planes = 2, .blocks = 2, .block_bytes = (5 << 20) + 4});
}

EACH_WAY_TEST(odd_sizes)
{
	run_shape(way, (struct kvx_geometry){
			       .layers = 5, .planes = 3, .blocks = 67, .block_bytes = 4 * 1237});
}

/* What the two ends share is the request's geometry, not where blocks lie. */
static void run_over(const struct way *way, uint64_t from_stride, uint64_t to_stride)
{
	const struct kvx_geometry geometry = {
		.layers = 4, .planes = 2, .blocks = 40, .block_bytes = 3072};
	struct pair pair;

	pair_open_engines(&pair, way, NULL);
	pair.geometry = geometry;
	pair.from = from_stride ? pool_over_memory(pair.sender, &geometry, from_stride)
				: pool_interleaved(pair.sender, &geometry, geometry.planes);
	pair.to = to_stride ? pool_over_memory(pair.receiver, &geometry, to_stride)
			    : pool_interleaved(pair.receiver, &geometry, geometry.planes);
	pair_expect_works(&pair, 1);
	pair_close(&pair);
}

EACH_WAY_TEST(packed_into_strided)
{
	run_over(way, 3072, 5000);
}

EACH_WAY_TEST(strided_into_interleaved)
{
	run_over(way, 4096, 0);
}

EACH_WAY_TEST(interleaved_into_packed)
{
	run_over(way, 0, 3072);
}

static uint32_t plane_stride_of(struct kvx_engine *engine)
{
	struct kvx_pool_view view;

	cr_assert_eq(kvx_engine_pools(engine, 0, &view, 1), 1);
	return view.geometry.plane_stride;
}

/* Blocks in order: K and V of all of them are one slice of each unit. */
EACH_WAY_TEST(planes_side_by_side_at_both_ends_move_as_one)
{
	const struct kvx_geometry geometry = {.layers = 4,
					      .planes = 2,
					      .blocks = 40,
					      .block_bytes = 3072},
				  beside = {.layers = 4,
					    .planes = 2,
					    .blocks = 40,
					    .block_bytes = 3072,
					    .plane_stride = 3072};
	struct kvx_stats before, after;
	struct request request;
	struct pair pair;
	char text[512];

	pair_open_engines(&pair, way, NULL);
	pair.geometry = geometry;
	pair.from = pool_interleaved(pair.sender, &geometry, geometry.planes);
	expect_ok(kvx_pool_alloc(pair.receiver, &beside, &pair.to));
	cr_assert_eq(plane_stride_of(pair.sender), 3072, "found in the tensors");
	cr_assert_eq(plane_stride_of(pair.receiver), 3072);
	kvx_engine_stats(pair.sender, &before);
	request_open(&request, &pair, 1, 0, 40, TABLE_IDENTITY);
	request_run(&request);
	kvx_stream_explain(request.stream, text, sizeof(text));
	cr_assert_not_null(strstr(text, "2 planes that move as one"), "%s", text);
	request_close(&request);
	kvx_engine_stats(pair.sender, &after);
	cr_assert_geq(after.units_sent - before.units_sent, 4);
	cr_assert_eq(after.slices_sent - before.slices_sent, after.units_sent - before.units_sent);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

/* Both ends' blocks hold all layers, [block][layer][plane]. */
static void open_over_all_layers(struct pair *pair, const struct way *way,
				 const struct kvx_geometry *geometry)
{
	uint32_t tensors = geometry->layers * geometry->planes;

	pair_open_engines(pair, way, NULL);
	pair->geometry = *geometry;
	pair->from = pool_interleaved(pair->sender, geometry, tensors);
	pair->to = pool_interleaved(pair->receiver, geometry, tensors);
}

/* Of a request of all blocks, whose layers become ready at once. */
static uint64_t slices_over_all_layers(const struct way *way, const struct kvx_geometry *geometry,
				       uint32_t *units)
{
	struct kvx_stats before, after;
	struct request request;
	struct pair pair;

	open_over_all_layers(&pair, way, geometry);
	kvx_engine_stats(pair.sender, &before);
	request_open(&request, &pair, 1, 0, geometry->blocks, TABLE_IDENTITY);
	request_run(&request);
	*units = request_units(&request, 1);
	kvx_engine_stats(pair.sender, &after);
	request_close(&request);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
	return after.slices_sent - before.slices_sent;
}

/* Where the sender writes into the receiver's memory: one slice of what they have before the last
 * block, then each layer's part of that. */
EACH_WAY_TEST(layers_side_by_side_that_are_ready_together_leave_together)
{
	const struct kvx_geometry geometry = {
		.layers = 8, .planes = 2, .blocks = 60, .block_bytes = 2048};
	bool one_sided = strcmp(way->transport, "verbs") == 0;
	uint32_t units;
	uint64_t slices = slices_over_all_layers(way, &geometry, &units);

	cr_assert_eq(slices, one_sided ? units * (1 + 8) : 8 * 60, "%lu", slices);
}

/* Slices of 64 KiB are long enough: the first layers do not wait for the last ones. */
EACH_WAY_TEST(so_many_layers_leave_together_as_make_slices_of_64_kib)
{
	const struct kvx_geometry geometry = {
		.layers = 12, .planes = 2, .blocks = 40, .block_bytes = 5 << 10};
	bool one_sided = strcmp(way->transport, "verbs") == 0;
	uint32_t units;
	uint64_t slices = slices_over_all_layers(way, &geometry, &units);

	/* 7 layers, then the other 5: the blocks of neither follow each other. */
	cr_assert_eq(slices, one_sided ? 2 * (40 - units) + 12 * units : 12 * 40, "%lu", slices);
}

/* Takes the bytes of the second half of a layer's blocks away, or gives them back. */
static void compute_later(const struct request *request, uint32_t layer, char *kept, bool back)
{
	const struct kvx_geometry *geometry = &request->pair->geometry;

	kept += (size_t)layer * geometry->planes * request->count * geometry->block_bytes;
	for (uint32_t plane = 0; plane < geometry->planes; plane++)
		for (uint32_t i = request->count / 2; i < request->count; i++) {
			char *block =
				kvx_pool_block(request->pair->from, layer, plane, request->from[i]);
			char *spot =
				kept + ((size_t)plane * request->count + i) * geometry->block_bytes;
			memcpy(back ? block : spot, back ? spot : block, geometry->block_bytes);
			if (!back)
				memset(block, 0x55, geometry->block_bytes);
		}
}

/* A unit whose tokens are ready in one layer does not take the next layer's with it. */
EACH_WAY_TEST(what_is_not_ready_does_not_leave_with_the_layer_before_it)
{
	const struct kvx_geometry geometry = {
		.layers = 4, .planes = 2, .blocks = 32, .block_tokens = 4, .block_bytes = 1024};
	const struct kvx_stream_options chunked = {.chunk_tokens = 64};
	struct request request;
	struct pair pair;
	size_t bytes;

	open_over_all_layers(&pair, way, &geometry);
	char *kept = calloc(4 * 2 * 32, geometry.block_bytes);
	request_init(&request, &pair, 1, 0, 32, TABLE_IDENTITY);
	request_grant(&request, 60000);
	const void *ticket = kvx_grant_ticket(request.grant, &bytes);
	expect_ok(kvx_stream_open(pair.from, request.from, 32, &chunked, ticket, bytes,
				  &request.stream));
	for (uint32_t layer = 0; layer < 4; layer++)
		compute_later(&request, layer, kept, false);
	expect_ok(kvx_stream_tokens_ready(request.stream, 0, 4, 64));
	compute_later(&request, 0, kept, true);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	for (uint32_t layer = 1; layer < 4; layer++)
		compute_later(&request, layer, kept, true);
	free(kept);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

/* [layer][block][plane], and the extra planes after that. */
Test(shapes, a_pool_of_planes_side_by_side_is_packed_so)
{
	static const struct way any_way = {"loop", true};
	const struct kvx_geometry geometry = {.layers = 2,
					      .planes = 3,
					      .blocks = 5,
					      .block_bytes = 1024,
					      .plane_stride = 1028,
					      .extra_planes = 1,
					      .extra = {{.block_bytes = 64}}};
	struct drive drive = {0};
	struct kvx_engine *engine = engine_open(&drive, &any_way, "engine", NULL);
	struct kvx_pool *pool;

	expect_ok(kvx_pool_alloc(engine, &geometry, &pool));
	char *first = kvx_pool_block(pool, 0, 0, 0);
	for (uint32_t layer = 0; layer < 2; layer++)
		for (uint32_t block = 0; block < 5; block++) {
			char *begin = first + layer * (5 * 3 * 1028 + 5 * 64);
			for (uint32_t plane = 0; plane < 3; plane++)
				cr_assert_eq(kvx_pool_block(pool, layer, plane, block),
					     begin + (block * 3 + plane) * 1028);
			cr_assert_eq(kvx_pool_block(pool, layer, 3, block),
				     begin + 5 * 3 * 1028 + block * 64);
		}
	cr_assert_eq(plane_stride_of(engine), 1028);
	engine_close(&drive, engine);
}

/* A sender whose pool has more blocks, or fewer, than the receiver's. */
EACH_WAY_TEST(pools_of_unlike_size)
{
	const struct kvx_geometry
		small = {.layers = 2, .planes = 2, .blocks = 10, .block_bytes = 512},
		large = {.layers = 2, .planes = 2, .blocks = 1000, .block_bytes = 512};
	const uint32_t from[] = {999, 0, 500}, to[] = {3, 9, 0};
	struct kvx_pool *pool;
	struct kvx_grant *grant;
	struct kvx_stream *stream;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &small, NULL);
	expect_ok(kvx_pool_alloc(pair.sender, &large, &pool));
	for (uint32_t layer = 0; layer < 2; layer++)
		pattern_fill(pool, &large, 5, layer, from, 3);
	expect_ok(kvx_grant_open(pair.to, to, 3, NULL, 10000, &grant));
	const void *ticket = kvx_grant_ticket(grant, &bytes);
	expect_ok(kvx_stream_open(pool, from, 3, NULL, ticket, bytes, &stream));
	expect_ok(kvx_stream_layers_ready(stream, 0, 2));
	expect_ok(wait_grant(&pair.drive, grant, KVX_ALL_LAYERS, PATIENCE_MS));
	for (uint32_t layer = 0; layer < 2; layer++)
		cr_assert_eq(pattern_wrong(pair.to, &small, 5, layer, to, 3), 0);
	pair_close(&pair);
}

#define MILLION (1u << 20)

static void run_million(const struct way *way, enum table kind)
{
	const struct kvx_geometry geometry = {
		.layers = 1, .planes = 1, .blocks = MILLION, .block_bytes = 64};
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, MILLION, kind);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

EACH_TRANSPORT_TEST(a_million_blocks_in_order)
{
	run_million(way, TABLE_IDENTITY);
}

EACH_TRANSPORT_TEST(a_million_blocks_at_random)
{
	run_million(way, TABLE_RANDOM);
}
