/* SPDX-License-Identifier: Apache-2.0 */
/* Engines, their pools and what moves between them. */
#include "blocktable.h"
#include "clock.h"
#include "pattern.h"
#include "unlike.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED 20

void kvx_unlike_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fprintf(stderr, "kvxfer-unlike-cost: ");
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
	exit(1);
}

void kvx_unlike_check(int result, const char *what)
{
	if (result < 0)
		kvx_unlike_fail("%s: %s", what, kvx_error_text());
}

void *kvx_unlike_calloc(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (!memory)
		kvx_unlike_fail("out of memory for %zu times %zu bytes", count, size);
	return memory;
}

json_t *kvx_unlike_spread(const struct kvx_samples *samples)
{
	return json_pack("{sf, sf, sf}", "median", kvx_samples_median(samples), "min",
			 kvx_samples_percentile(samples, 0), "max",
			 kvx_samples_percentile(samples, 1));
}

static struct kvx_engine *open_engine(const struct kvx_unlike_settings *settings,
				      const char *staging)
{
	struct kvx_options *options;
	struct kvx_engine *engine;

	kvx_unlike_check(kvx_options_new(&options), "options");
	kvx_unlike_check(kvx_options_set(options, "transports", settings->transport), "options");
	kvx_unlike_check(kvx_options_set(options, "progress", "thread"), "options");
	for (uint32_t i = 0; i < settings->option_count; i++)
		kvx_unlike_check(kvx_options_set(options, settings->option_names[i],
						 settings->option_values[i]),
				 "options");
	if (staging)
		kvx_unlike_check(kvx_options_set(options, "staging", staging), "options");
	kvx_unlike_check(kvx_engine_open(options, &engine), "engine");
	kvx_options_free(options);
	return engine;
}

static uint32_t block_bytes(const struct kvx_geometry *geometry)
{
	return geometry->block_tokens * geometry->heads * geometry->head_bytes;
}

/* Packed. together: so many neighbouring planes lie side by side in each block. */
static struct kvx_pool *lay_pool(struct kvx_engine *engine, struct kvx_region *region,
				 const struct kvx_geometry *geometry, uint64_t bytes,
				 uint32_t together)
{
	uint32_t count = geometry->layers * geometry->planes;
	uint64_t stride = bytes * together;
	struct kvx_tensor *tensors = kvx_unlike_calloc(count, sizeof(*tensors));
	struct kvx_pool *pool;

	for (uint32_t i = 0; i < count; i++)
		tensors[i] = (struct kvx_tensor){
			.region = region,
			.offset = i / together * stride * geometry->blocks + i % together * bytes,
			.block_stride = stride};
	kvx_unlike_check(kvx_pool_open(engine, geometry, tensors, &pool), "pool");
	free(tensors);
	return pool;
}

void kvx_unlike_end_open(struct kvx_unlike_end *end, const struct kvx_unlike_settings *settings,
			 const char *staging, const struct kvx_geometry *geometry, uint32_t slots,
			 uint32_t together)
{
	const struct kvx_blocktable_spec random = {.run = 1};
	static uint64_t seed = SEED; /* no two ends have the same table */
	uint64_t bytes = (uint64_t)geometry->blocks * block_bytes(geometry) * geometry->layers *
			 geometry->planes;

	*end = (struct kvx_unlike_end){.geometry = *geometry, .slots = slots};
	end->engine = open_engine(settings, staging);
	end->count = geometry->blocks / slots;
	kvx_unlike_check(kvx_region_alloc(end->engine, bytes, &end->region), "region");
	end->pool = lay_pool(end->engine, end->region, geometry, block_bytes(geometry), together);
	end->table = kvx_blocktable_make(&random, seed++, geometry->blocks);
	if (!end->table)
		kvx_unlike_fail("out of memory for a table of %u blocks", geometry->blocks);
}

void kvx_unlike_end_close(struct kvx_unlike_end *end)
{
	kvx_engine_close(end->engine);
	free(end->table);
	free(end->piece_table);
	*end = (struct kvx_unlike_end){0};
}

/* Of one head of one token within a block, counted in heads. */
static uint32_t place_in_block(const struct kvx_geometry *geometry, uint32_t token, uint32_t head)
{
	return geometry->layout == KVX_LAYOUT_HND ? head * geometry->block_tokens + token
						  : token * geometry->heads + head;
}

/* No entry of the table is beside the one before it, whatever the layout: each next token has
 * another head. */
void kvx_unlike_end_cut(struct kvx_unlike_end *end, uint32_t first, uint32_t heads)
{
	const struct kvx_geometry *geometry = &end->geometry;
	uint32_t per_block = geometry->block_tokens * geometry->heads;
	uint32_t blocks = end->count * end->slots, next = 0;
	struct kvx_geometry pieces = {
		.layers = geometry->layers,
		.planes = geometry->planes,
		.blocks = blocks * per_block,
		.block_bytes = geometry->head_bytes,
	};

	end->piece_pool = lay_pool(end->engine, end->region, &pieces, pieces.block_bytes, 1);
	end->piece_count = end->count * geometry->block_tokens * heads;
	end->piece_table =
		kvx_unlike_calloc((size_t)end->piece_count * end->slots, sizeof(*end->piece_table));
	for (uint32_t i = 0; i < blocks; i++)
		for (uint32_t turn = 0; turn < heads; turn++)
			for (uint32_t token = 0; token < geometry->block_tokens; token++)
				end->piece_table[next++] =
					end->table[i] * per_block +
					place_in_block(geometry, token,
						       first - geometry->head_first +
							       (token + turn) % heads);
}

/* Where one block of a request lies, and whose it is. */
struct place {
	uint32_t layer, plane, slot, index;
};

static uint64_t key_of(const struct kvx_geometry *geometry, const struct place *place,
		       uint32_t token, uint32_t head)
{
	uint32_t of_request = place->index * geometry->block_tokens + token;
	struct kvx_pattern_place pattern = {
		.seed = SEED,
		.request = place->slot,
		.layer = place->layer,
		.plane = place->plane,
		.block = of_request * geometry->heads_total + geometry->head_first + head,
	};

	return kvx_pattern_key(&pattern);
}

static uint64_t fill_block(const struct kvx_geometry *geometry, const struct place *place,
			   char *block)
{
	for (uint32_t token = 0; token < geometry->block_tokens; token++)
		for (uint32_t head = 0; head < geometry->heads; head++)
			kvx_pattern_fill(key_of(geometry, place, token, head),
					 block + (size_t)place_in_block(geometry, token, head) *
							 geometry->head_bytes,
					 geometry->head_bytes);
	return 0;
}

static uint64_t count_wrong(const struct kvx_geometry *geometry, const struct place *place,
			    char *block)
{
	uint64_t wrong = 0;
	size_t first;

	for (uint32_t token = 0; token < geometry->block_tokens; token++)
		for (uint32_t head = 0; head < geometry->heads; head++)
			wrong += kvx_pattern_verify(
				key_of(geometry, place, token, head),
				block + (size_t)place_in_block(geometry, token, head) *
						geometry->head_bytes,
				geometry->head_bytes, &first);
	return wrong;
}

/* Visits each block of each request and returns the sum of what the visits return. */
static uint64_t for_each_block(const struct kvx_unlike_end *end,
			       uint64_t (*visit)(const struct kvx_geometry *geometry,
						 const struct place *place, char *block))
{
	const struct kvx_geometry *geometry = &end->geometry;
	uint64_t sum = 0;

	for (uint32_t layer = 0; layer < geometry->layers; layer++)
		for (uint32_t plane = 0; plane < geometry->planes; plane++)
			for (uint32_t i = 0; i < end->slots * end->count; i++) {
				struct place place = {layer, plane, i / end->count, i % end->count};
				sum += visit(
					geometry, &place,
					kvx_pool_block(end->pool, layer, plane, end->table[i]));
			}
	return sum;
}

void kvx_unlike_end_fill(const struct kvx_unlike_end *end)
{
	for_each_block(end, fill_block);
}

static void open_stream(const struct kvx_unlike_end *end, bool by_pieces, uint32_t slot,
			const void *ticket, size_t bytes, struct kvx_stream **stream)
{
	const uint32_t *table = by_pieces ? end->piece_table + (size_t)slot * end->piece_count
					  : end->table + (size_t)slot * end->count;

	kvx_unlike_check(kvx_stream_open(by_pieces ? end->piece_pool : end->pool, table,
					 by_pieces ? end->piece_count : end->count, NULL, ticket,
					 bytes, stream),
			 "stream");
}

static struct kvx_grant *open_grant(const struct kvx_unlike_way *way, uint32_t slot)
{
	const struct kvx_unlike_end *end = way->receiver;
	const struct kvx_grant_options options = {.senders = way->sender_count};
	const uint32_t *table = way->by_pieces ? end->piece_table + (size_t)slot * end->piece_count
					       : end->table + (size_t)slot * end->count;
	struct kvx_grant *grant;

	kvx_unlike_check(kvx_grant_open(way->by_pieces ? end->piece_pool : end->pool, table,
					way->by_pieces ? end->piece_count : end->count, &options,
					KVX_UNLIKE_LEASE_MS, &grant),
			 "grant");
	return grant;
}

/* In the receiver's order, so that what is written to a block lies together. */
static void copy_block(const struct kvx_geometry *from, const char *source,
		       const struct kvx_geometry *to, char *target)
{
	uint32_t skipped = to->head_first - from->head_first, bytes = to->head_bytes;

	for (uint32_t head = 0; head < to->heads; head++)
		for (uint32_t token = 0; token < to->block_tokens; token++)
			memcpy(target + (size_t)place_in_block(to, token, head) * bytes,
			       source + (size_t)place_in_block(from, token, skipped + head) * bytes,
			       bytes);
}

/* Of one sender, whose heads contain the receiver's. */
static double copy_bare(const struct kvx_unlike_way *way, uint32_t slot)
{
	const struct kvx_unlike_end *sender = way->senders[0], *receiver = way->receiver;
	const uint32_t *from = sender->table + (size_t)slot * sender->count;
	const uint32_t *to = receiver->table + (size_t)slot * receiver->count;
	int64_t began_ns = clock_now_ns();

	for (uint32_t layer = 0; layer < receiver->geometry.layers; layer++)
		for (uint32_t plane = 0; plane < receiver->geometry.planes; plane++)
			for (uint32_t i = 0; i < receiver->count; i++)
				copy_block(&sender->geometry,
					   kvx_pool_block(sender->pool, layer, plane, from[i]),
					   &receiver->geometry,
					   kvx_pool_block(receiver->pool, layer, plane, to[i]));
	return (double)(clock_now_ns() - began_ns) / NS_PER_S;
}

double kvx_unlike_way_send(const struct kvx_unlike_way *way, uint32_t slot, char *explain)
{
	struct kvx_stream *streams[KVX_UNLIKE_SENDERS_MAX];
	size_t bytes;

	if (way->bare)
		return copy_bare(way, slot);
	struct kvx_grant *grant = open_grant(way, slot);
	const void *ticket = kvx_grant_ticket(grant, &bytes);
	int64_t began_ns = clock_now_ns();

	for (uint32_t i = 0; i < way->sender_count; i++) {
		const struct kvx_unlike_end *sender = way->senders[i];
		open_stream(sender, way->by_pieces, slot, ticket, bytes, &streams[i]);
		kvx_unlike_check(kvx_stream_layers_ready(streams[i], 0, sender->geometry.layers),
				 "layers ready");
	}
	kvx_unlike_check(kvx_grant_wait(grant, KVX_ALL_LAYERS, KVX_UNLIKE_LEASE_MS), "grant");
	int64_t ended_ns = clock_now_ns();
	for (uint32_t i = 0; i < way->sender_count; i++) {
		kvx_unlike_check(kvx_stream_wait(streams[i], KVX_ALL_LAYERS, KVX_UNLIKE_LEASE_MS),
				 "stream");
		if (explain && i == 0)
			kvx_stream_explain(streams[i], explain, KVX_UNLIKE_EXPLAIN_MAX);
		kvx_stream_close(streams[i]);
	}
	kvx_grant_close(grant);
	return (double)(ended_ns - began_ns) / NS_PER_S;
}

uint64_t kvx_unlike_way_verify(const struct kvx_unlike_way *way, bool corrupt, char *explain)
{
	const struct kvx_unlike_end *receiver = way->receiver;
	const struct kvx_geometry *geometry = &receiver->geometry;
	uint64_t bytes = (uint64_t)receiver->slots * receiver->count * block_bytes(geometry) *
			 geometry->layers * geometry->planes;

	memset(kvx_region_address(receiver->region), 0, kvx_region_bytes(receiver->region));
	for (uint32_t slot = 0; slot < receiver->slots; slot++)
		kvx_unlike_way_send(way, slot, explain);
	if (corrupt)
		*(char *)kvx_pool_block(receiver->pool, 0, 0, receiver->table[0]) ^= 1;
	uint64_t wrong = for_each_block(receiver, count_wrong);
	if (wrong)
		kvx_unlike_fail("%llu of %llu bytes are wrong at the receiver",
				(unsigned long long)wrong, (unsigned long long)bytes);
	return bytes;
}

uint64_t kvx_unlike_way_slices(const struct kvx_unlike_way *way)
{
	uint64_t slices = 0;

	for (uint32_t i = 0; i < way->sender_count; i++) {
		struct kvx_stats stats;
		kvx_engine_stats(way->senders[i]->engine, &stats);
		slices += stats.slices_sent;
	}
	return slices;
}
