/* SPDX-License-Identifier: Apache-2.0 */
#include "support/pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEASE_MS 60000u

void pair_open_engines(struct pair *pair, const struct way *way, const char *const *options)
{
	*pair = (struct pair){.way = way};
	pair->receiver = engine_open(&pair->drive, way, "receiver", options);
	pair->sender = engine_open(&pair->drive, way, "sender", options);
}

void pair_open(struct pair *pair, const struct way *way, const struct kvx_geometry *geometry,
	       const char *const *options)
{
	pair_open_engines(pair, way, options);
	pair->geometry = *geometry;
	expect_ok(pool_alloc(pair->sender, geometry, &pair->from));
	expect_ok(pool_alloc(pair->receiver, geometry, &pair->to));
}

void pair_close(struct pair *pair)
{
	engine_close(&pair->drive, pair->sender);
	engine_close(&pair->drive, pair->receiver);
}

/* --- pools --- */

static struct kvx_region *plain_region(struct kvx_engine *engine, size_t bytes)
{
	struct kvx_region *region;

	expect_ok(kvx_region_register(engine, memory_alloc(bytes), bytes, &region));
	return region;
}

struct kvx_pool *pool_over_memory(struct kvx_engine *engine, const struct kvx_geometry *geometry,
				  uint64_t stride_bytes)
{
	uint32_t tensors = geometry->layers * geometry->planes;
	uint64_t plane_bytes = stride_bytes * geometry->blocks;
	struct kvx_region *region = plain_region(engine, plane_bytes * tensors);
	struct kvx_tensor *list = calloc(tensors, sizeof(*list));
	struct kvx_pool *pool;

	for (uint32_t i = 0; i < tensors; i++)
		list[i] = (struct kvx_tensor){region, i * plane_bytes, stride_bytes};
	expect_ok(kvx_pool_open(engine, geometry, list, &pool));
	free(list);
	return pool;
}

struct kvx_pool *pool_interleaved(struct kvx_engine *engine, const struct kvx_geometry *geometry,
				  uint32_t together)
{
	uint32_t tensors = geometry->layers * geometry->planes;
	uint64_t stride_bytes = (uint64_t)geometry->block_bytes * together;
	struct kvx_region *region =
		plain_region(engine, stride_bytes * geometry->blocks * (tensors / together));
	struct kvx_tensor *list = calloc(tensors, sizeof(*list));
	struct kvx_pool *pool;

	for (uint32_t i = 0; i < tensors; i++)
		list[i] =
			(struct kvx_tensor){region,
					    i / together * stride_bytes * geometry->blocks +
						    i % together * (uint64_t)geometry->block_bytes,
					    stride_bytes};
	expect_ok(kvx_pool_open(engine, geometry, list, &pool));
	free(list);
	return pool;
}

/* --- patterns --- */

static uint32_t word_of(uint64_t block_seed, uint32_t word)
{
	return (uint32_t)((block_seed + word) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

static uint64_t seed_of(uint64_t request, uint32_t layer, uint32_t plane, uint32_t index)
{
	uint64_t seed = request * UINT64_C(0xd6e8feb86659fd93) + layer;

	seed = (seed ^ seed >> 29) * UINT64_C(0xbf58476d1ce4e5b9) + plane;
	seed = (seed ^ seed >> 31) * UINT64_C(0x94d049bb133111eb) + index;
	return (seed ^ seed >> 30) * UINT64_C(0x2545f4914f6cdd1d);
}

void pattern_fill(const struct kvx_pool *pool, const struct kvx_geometry *geometry,
		  uint64_t request, uint32_t layer, const uint32_t *table, uint32_t count)
{
	uint32_t words = geometry->block_bytes / sizeof(uint32_t);

	for (uint32_t plane = 0; plane < geometry->planes; plane++) {
		for (uint32_t i = 0; i < count; i++) {
			uint32_t *block = block_view(pool, layer, plane, table[i]);
			uint64_t seed = seed_of(request, layer, plane, i);
			for (uint32_t word = 0; word < words; word++)
				block[word] = word_of(seed, word);
		}
	}
}

uint64_t pattern_wrong(const struct kvx_pool *pool, const struct kvx_geometry *geometry,
		       uint64_t request, uint32_t layer, const uint32_t *table, uint32_t count)
{
	uint32_t words = geometry->block_bytes / sizeof(uint32_t);
	uint64_t wrong = 0;

	for (uint32_t plane = 0; plane < geometry->planes; plane++) {
		for (uint32_t i = 0; i < count; i++) {
			const uint32_t *block = block_view(pool, layer, plane, table[i]);
			uint64_t seed = seed_of(request, layer, plane, i);
			for (uint32_t word = 0; word < words; word++)
				wrong += block[word] != word_of(seed, word);
		}
	}
	return wrong;
}

void blocks_set(const struct kvx_pool *pool, const struct kvx_geometry *geometry,
		const uint32_t *table, uint32_t count, int byte)
{
	for (uint32_t layer = 0; layer < geometry->layers; layer++)
		for (uint32_t plane = 0; plane < geometry->planes; plane++)
			for (uint32_t i = 0; i < count; i++)
				memset(block_view(pool, layer, plane, table[i]), byte,
				       geometry->block_bytes);
}

static uint64_t bytes_unlike(const uint8_t *bytes, uint32_t count, int byte)
{
	uint64_t unlike = 0;

	for (uint32_t i = 0; i < count; i++)
		unlike += bytes[i] != (uint8_t)byte;
	return unlike;
}

uint64_t blocks_changed(const struct kvx_pool *pool, const struct kvx_geometry *geometry,
			const uint32_t *table, uint32_t count, int byte)
{
	uint64_t changed = 0;

	for (uint32_t layer = 0; layer < geometry->layers; layer++)
		for (uint32_t plane = 0; plane < geometry->planes; plane++)
			for (uint32_t i = 0; i < count; i++)
				changed += bytes_unlike(block_view(pool, layer, plane, table[i]),
							geometry->block_bytes, byte);
	return changed;
}

/* --- requests --- */

static void make_table(uint32_t *table, uint32_t first, uint32_t count, enum table kind,
		       uint64_t seed)
{
	for (uint32_t i = 0; i < count; i++)
		table[i] = first + i;
	for (uint32_t i = count; kind == TABLE_RANDOM && i > 1; i--) {
		uint32_t other = (uint32_t)(random_next(&seed) % i), kept = table[i - 1];
		table[i - 1] = table[other];
		table[other] = kept;
	}
}

void request_init(struct request *request, struct pair *pair, uint64_t id, uint32_t first,
		  uint32_t count, enum table kind)
{
	*request = (struct request){.pair = pair, .id = id, .count = count};
	request->from = calloc(count, sizeof(uint32_t));
	request->to = calloc(count, sizeof(uint32_t));
	make_table(request->from, first, count, kind, 2 * id + 1);
	make_table(request->to, first, count, kind, 2 * id + 2);
	for (uint32_t layer = 0; layer < pair->geometry.layers; layer++)
		pattern_fill(pair->from, &pair->geometry, id, layer, request->from, count);
}

void request_grant(struct request *request, uint32_t lease_ms)
{
	expect_ok(kvx_grant_open(request->pair->to, request->to, request->count, NULL, lease_ms,
				 &request->grant));
}

void request_stream(struct request *request)
{
	size_t bytes;
	const void *ticket = kvx_grant_ticket(request->grant, &bytes);

	expect_ok(kvx_stream_open(request->pair->from, request->from, request->count, NULL, ticket,
				  bytes, &request->stream));
}

void request_open(struct request *request, struct pair *pair, uint64_t id, uint32_t first,
		  uint32_t count, enum table kind)
{
	request_init(request, pair, id, first, count, kind);
	request_grant(request, LEASE_MS);
	request_stream(request);
}

uint32_t request_units(const struct request *request, uint32_t by_size)
{
	char text[1024];
	const char *found;
	uint32_t units = 0;

	kvx_stream_explain(request->stream, text, sizeof(text));
	found = strstr(text, " units a layer");
	while (found && found > text && found[-1] != ' ')
		found--;
	cr_assert(found && sscanf(found, "%u units", &units) == 1 && units, "%s", text);
	if (strcmp(request->pair->way->transport, "verbs") != 0)
		cr_assert_eq(units, by_size);
	return units;
}

void request_expect_layer(struct request *request, uint32_t layer)
{
	struct pair *pair = request->pair;

	expect_ok(wait_grant(&pair->drive, request->grant, layer, PATIENCE_MS));
	cr_assert_eq(pattern_wrong(pair->to, &pair->geometry, request->id, layer, request->to,
				   request->count),
		     0, "request %d: layer %u is not right", (int)request->id, layer);
}

void request_run(struct request *request)
{
	struct pair *pair = request->pair;

	expect_ok(kvx_stream_layers_ready(request->stream, 0, pair->geometry.layers));
	for (uint32_t layer = 0; layer < pair->geometry.layers; layer++)
		request_expect_layer(request, layer);
	expect_ok(wait_grant(&pair->drive, request->grant, KVX_ALL_LAYERS, PATIENCE_MS));
	expect_ok(wait_stream(&pair->drive, request->stream, KVX_ALL_LAYERS, PATIENCE_MS));
}

void request_close(struct request *request)
{
	kvx_stream_close(request->stream);
	kvx_grant_close(request->grant);
	request_free(request);
}

void request_free(struct request *request)
{
	free(request->from);
	free(request->to);
}

void pair_expect_works(struct pair *pair, uint64_t id)
{
	struct request request;

	request_open(&request, pair, id, 0, pair->geometry.blocks, TABLE_RANDOM);
	request_run(&request);
	request_close(&request);
}
