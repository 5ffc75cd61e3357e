/* SPDX-License-Identifier: Apache-2.0 */
#include "support/ranks.h"

#include "core/grant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEASE_MS 60000u

struct kvx_geometry rank_geometry(enum kvx_layout layout, uint32_t block_tokens, uint32_t head,
				  uint32_t heads)
{
	return (struct kvx_geometry){
		.layers = 4,
		.planes = 2,
		.blocks = 1, /* drawn_pool() says how many */
		.block_tokens = block_tokens,
		.layout = layout,
		.heads = heads,
		.head_first = head,
		.heads_total = 8,
		.head_bytes = 64,
		.dtype = "bf16",
	};
}

/* --- engines and pools --- */

static void open_rank(struct ranks *ranks, struct rank *rank, const char *name,
		      const char *const *options, const struct kvx_geometry *geometry)
{
	uint64_t random = random_seed();
	struct kvx_tensor tensors[DRAWN_TENSORS_MAX];
	struct kvx_region *region;

	rank->engine = engine_open(&ranks->drive, ranks->way, name, options);
	drawn_pool(&rank->drawn, geometry, ranks->tokens, &random);
	expect_ok(
		kvx_region_register(rank->engine, rank->drawn.memory, rank->drawn.bytes, &region));
	for (uint32_t i = 0; i < geometry->layers * (geometry->planes + geometry->extra_planes);
	     i++)
		tensors[i] = (struct kvx_tensor){region, rank->drawn.tensors[i].offset,
						 rank->drawn.tensors[i].stride};
	expect_ok(kvx_pool_open(rank->engine, &rank->drawn.geometry, tensors, &rank->pool));
	expect_ok(region_alloc(rank->engine, RANKS_TAIL_BYTES, &rank->tail));
}

void rank_open(struct ranks *ranks, uint32_t index, const char *const *options,
	       const struct kvx_geometry *geometry)
{
	char name[16];

	cr_assert_lt(index, RANKS_MAX);
	snprintf(name, sizeof(name), "prefill-%u", index);
	open_rank(ranks, &ranks->prefill[index], name, options, geometry);
}

void ranks_open(struct ranks *ranks, const struct way *way, const char *const *options,
		const struct kvx_geometry *decode, const struct kvx_geometry *prefill,
		uint32_t count, uint32_t tokens)
{
	*ranks = (struct ranks){.way = way, .count = count, .tokens = tokens};
	open_rank(ranks, &ranks->decode, "decode", options, decode);
	for (uint32_t i = 0; i < count; i++)
		rank_open(ranks, i, options, &prefill[i]);
}

void ranks_open_four(struct ranks *ranks, const struct way *way, const char *const *options,
		     uint32_t tokens)
{
	const struct kvx_geometry decode = rank_geometry(KVX_LAYOUT_HND, 16, 0, 8);
	struct kvx_geometry prefill[4];

	for (uint32_t i = 0; i < 4; i++)
		prefill[i] = rank_geometry(KVX_LAYOUT_NHD, 16, 2 * i, 2);
	ranks_open(ranks, way, options, &decode, prefill, 4, tokens);
}

static void close_rank(struct ranks *ranks, struct rank *rank)
{
	if (!rank->engine)
		return;
	engine_close(&ranks->drive, rank->engine);
	drawn_pool_free(&rank->drawn);
	*rank = (struct rank){0};
}

void ranks_lose(struct ranks *ranks, uint32_t index)
{
	ranks->streams[index] = NULL; /* its engine frees it */
	close_rank(ranks, &ranks->prefill[index]);
}

void ranks_close(struct ranks *ranks)
{
	for (uint32_t i = 0; i < RANKS_MAX; i++)
		close_rank(ranks, &ranks->prefill[i]);
	close_rank(ranks, &ranks->decode);
	free(ranks->before);
}

/* --- a request --- */

void ranks_grant(struct ranks *ranks, const struct kvx_grant_options *special, uint32_t lease_ms)
{
	struct kvx_grant_options options = special ? *special : (struct kvx_grant_options){0};
	const struct drawn_pool *drawn = &ranks->decode.drawn;

	options.tokens = ranks->tokens;
	options.senders = options.senders ? options.senders : ranks->count;
	ranks->held_blocks = options.held_blocks;
	free(ranks->before);
	ranks->before = malloc(drawn->bytes);
	memcpy(ranks->before, drawn->memory, drawn->bytes);
	expect_ok(kvx_grant_open(ranks->decode.pool, drawn->table, drawn->count, &options, lease_ms,
				 &ranks->grant));
}

int ranks_try_stream(struct ranks *ranks, uint32_t index, const struct kvx_stream_options *special,
		     struct kvx_stream **stream)
{
	const struct rank *rank = &ranks->prefill[index];
	size_t bytes;
	const void *ticket = kvx_grant_ticket(ranks->grant, &bytes);

	return kvx_stream_open(rank->pool, rank->drawn.table, rank->drawn.count, special, ticket,
			       bytes, stream);
}

void ranks_stream(struct ranks *ranks, uint32_t index, const struct kvx_stream_options *special)
{
	expect_ok(ranks_try_stream(ranks, index, special, &ranks->streams[index]));
}

void ranks_stream_all(struct ranks *ranks)
{
	for (uint32_t i = 0; i < ranks->count; i++)
		ranks_stream(ranks, i, NULL);
}

void ranks_offer(struct ranks *ranks, uint32_t index, const struct kvx_stream_options *special)
{
	const struct rank *rank = &ranks->prefill[index];

	expect_ok(kvx_offer_open(rank->pool, rank->drawn.table, rank->drawn.count, special,
				 LEASE_MS, &ranks->streams[index]));
}

int ranks_try_pull(struct ranks *ranks, uint32_t index)
{
	size_t bytes;
	const void *ticket = kvx_offer_ticket(ranks->streams[index], &bytes);

	return kvx_grant_pull(ranks->grant, ticket, bytes);
}

void ranks_pull(struct ranks *ranks, uint32_t index)
{
	expect_ok(ranks_try_pull(ranks, index));
}

void ranks_compute(struct ranks *ranks, uint32_t first, uint32_t end)
{
	for (uint32_t i = 0; i < RANKS_MAX; i++)
		if (ranks->prefill[i].engine)
			drawn_compute(&ranks->prefill[i].drawn, first, end);
}

void ranks_ready(struct ranks *ranks, uint32_t index, uint32_t layer, uint32_t layers)
{
	expect_ok(kvx_stream_layers_ready(ranks->streams[index], layer, layers));
}

static bool has_targets(void *argument)
{
	return ranks_target(argument, 0) > 0;
}

void ranks_await_came(struct ranks *ranks, uint32_t senders)
{
	for (uint32_t waited = 0; ranks->grant->came < senders && waited < PATIENCE_MS; waited += 5)
		drive_for(&ranks->drive, 5);
}

void ranks_await_targets(struct ranks *ranks)
{
	cr_assert(drive_until(&ranks->drive, has_targets, ranks, PATIENCE_MS),
		  "not all senders were accepted");
}

void ranks_finish(struct ranks *ranks)
{
	uint32_t layers = ranks->decode.drawn.geometry.layers;

	for (uint32_t i = 0; i < RANKS_MAX; i++)
		if (ranks->streams[i])
			ranks_ready(ranks, i, 0, layers);
	for (uint32_t layer = 0; layer < layers; layer++) {
		expect_ok(wait_grant(&ranks->drive, ranks->grant, layer, PATIENCE_MS));
		cr_assert_eq(ranks_wrong(ranks, layer, 1, ranks->tokens), 0,
			     "layer %u is not right", layer);
	}
	expect_ok(wait_grant(&ranks->drive, ranks->grant, KVX_ALL_LAYERS, PATIENCE_MS));
	for (uint32_t i = 0; i < RANKS_MAX; i++)
		if (ranks->streams[i])
			expect_ok(wait_stream(&ranks->drive, ranks->streams[i], KVX_ALL_LAYERS,
					      PATIENCE_MS));
}

void ranks_end(struct ranks *ranks)
{
	kvx_grant_close(ranks->grant);
	ranks->grant = NULL;
	for (uint32_t i = 0; i < RANKS_MAX; i++) {
		kvx_stream_close(ranks->streams[i]);
		ranks->streams[i] = NULL;
	}
}

void ranks_expect_works(struct ranks *ranks)
{
	memset(ranks->decode.drawn.memory, 0x77, ranks->decode.drawn.bytes);
	ranks_compute(ranks, 0, ranks->tokens);
	ranks_grant(ranks, NULL, LEASE_MS);
	ranks_stream_all(ranks);
	ranks_finish(ranks);
	ranks_end(ranks);
}

/* --- what has come --- */

/* Of one block in one plane of one layer. */
static uint64_t block_wrong(const struct ranks *ranks, const char *expected, const char *block,
			    uint64_t bytes)
{
	const char *memory = ranks->decode.drawn.memory;
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < bytes; i++)
		wrong += block[i] != expected[block - memory + (ptrdiff_t)i];
	return wrong;
}

uint64_t ranks_wrong(const struct ranks *ranks, uint32_t layer, uint32_t layers, uint32_t tokens)
{
	const struct drawn_pool *drawn = &ranks->decode.drawn;
	const struct kvx_geometry *geometry = &drawn->geometry;
	uint64_t wrong = 0, moved;
	uint64_t bytes = (uint64_t)geometry->heads * geometry->head_bytes * geometry->block_tokens;
	struct drawn_request request = {
		.receiver = *drawn, .tokens = tokens, .held_blocks = ranks->held_blocks};

	request.receiver.memory = ranks->before;
	char *expected = drawn_expected(&request, &moved);
	for (uint32_t i = layer; i < layer + layers; i++)
		for (uint32_t plane = 0; plane < geometry->planes; plane++)
			for (uint32_t block = 0; block < geometry->blocks; block++)
				wrong += block_wrong(
					ranks, expected,
					block_view(ranks->decode.pool, i, plane, block), bytes);
	free(expected);
	return wrong;
}

uint32_t ranks_arrived(const struct ranks *ranks, uint32_t layer)
{
	uint32_t arrived, target;

	expect_ok(kvx_grant_count(ranks->grant, layer, &arrived, &target));
	return arrived;
}

uint32_t ranks_target(const struct ranks *ranks, uint32_t layer)
{
	uint32_t arrived, target;

	expect_ok(kvx_grant_count(ranks->grant, layer, &arrived, &target));
	return target;
}
