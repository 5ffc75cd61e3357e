/* SPDX-License-Identifier: Apache-2.0 */
/* Pull: what is offered arrives where the receiver wants it, as if it was pushed. */
#include "support/pulled.h"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 600000u

static const struct kvx_geometry geometry = {
	.layers = 6, .planes = 2, .blocks = 64, .block_bytes = 4096};

static const char *const options[] = {"unit_bytes=16384", NULL};

/* --- whole requests --- */

EACH_WAY_TEST(pull__every_byte_arrives_whenever_layers_get_ready)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	for (uint32_t before = 0; before <= geometry.layers; before++) {
		request_init(&request, &pair, before, 0, geometry.blocks, TABLE_RANDOM);
		request_offer(&request, LEASE_MS);
		if (before)
			expect_ok(kvx_stream_layers_ready(request.stream, 0, before));
		request_grant(&request, LEASE_MS);
		drive_for(&pair.drive, 2);
		request_pull(&request);
		for (uint32_t layer = 0; layer < geometry.layers; layer++) {
			if (layer >= before)
				expect_ok(kvx_stream_layers_ready(request.stream, layer, 1));
			request_expect_layer(&request, layer);
		}
		expect_ok(wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS));
		request_close(&request);
	}
	cr_assert_eq(stats_of(pair.sender).streams_completed, geometry.layers + 1);
	cr_assert_eq(stats_of(pair.sender).streams_failed, 0);
	cr_assert_eq(stats_of(pair.receiver).grants_failed, 0);
	pair_close(&pair);
}

EACH_WAY_TEST(pull__a_layer_that_is_not_ready_does_not_move)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_pulled(&request, &pair, 1, 0, geometry.blocks);
	expect_ok(kvx_stream_layers_ready(request.stream, 2, 1));
	request_expect_layer(&request, 2);
	drive_for(&pair.drive, 20);
	cr_assert_eq(kvx_grant_poll(request.grant, 1), 0);
	cr_assert_eq(kvx_stream_poll(request.stream, 1), 0);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

EACH_WAY_TEST(pull__a_ready_word_is_watched_from_before_the_pull)
{
	struct request request;
	struct pair pair;
	uint32_t word = 7;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	expect_ok(kvx_stream_watch(request.stream, &word));
	__atomic_store_n(&word, 9, __ATOMIC_RELEASE);
	drive_for(&pair.drive, 5);
	request_grant(&request, LEASE_MS);
	request_pull(&request);
	request_expect_layer(&request, 1);
	__atomic_store_n(&word, 7 + geometry.layers, __ATOMIC_RELEASE);
	request_expect_layer(&request, geometry.layers - 1);
	expect_ok(wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS));
	request_close(&request);
	pair_close(&pair);
}

#define MANY 16u

EACH_WAY_TEST(pull__many_at_once_in_any_order)
{
	struct request requests[MANY];
	uint64_t random = random_seed();
	uint32_t order[MANY];
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	random_table(&random, order, 0, MANY);
	for (uint32_t i = 0; i < MANY; i++) {
		request_init(&requests[i], &pair, i, i * 4, 4, TABLE_RANDOM);
		request_offer(&requests[i], LEASE_MS);
		expect_ok(kvx_stream_layers_ready(requests[i].stream, 0, i % geometry.layers + 1));
		request_grant(&requests[i], LEASE_MS);
	}
	for (uint32_t i = 0; i < MANY; i++)
		request_pull(&requests[order[i]]);
	for (uint32_t i = 0; i < MANY; i++) {
		request_run(&requests[i]);
		request_close(&requests[i]);
	}
	pair_close(&pair);
}

EACH_WAY_TEST(pull__an_offer_explains_itself_before_and_after)
{
	struct request request;
	struct pair pair;
	char text[1024];

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	cr_assert_eq(kvx_stream_explain(request.stream, text, sizeof(text)), strlen(text));
	cr_assert(strstr(text, "64 blocks") && strstr(text, "nobody has pulled"), "%s", text);
	request_grant(&request, LEASE_MS);
	request_pull(&request);
	request_run(&request);
	kvx_stream_explain(request.stream, text, sizeof(text));
	cr_assert(strstr(text, "transport: ") && strstr(text, way->transport), "%s", text);
	request_close(&request);
	pair_close(&pair);
}

/* --- parts of what is offered --- */

/* The grant wants the first of the offered blocks only. */
EACH_WAY_TEST(pull__fewer_tokens_than_are_offered)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	for (uint32_t count = 1; count <= geometry.blocks; count += 9) {
		request_init(&request, &pair, count, 0, geometry.blocks, TABLE_RANDOM);
		blocks_set(pair.to, &geometry, request.to, geometry.blocks, 0x3c);
		request_offer(&request, LEASE_MS);
		request.count = count;
		request_grant(&request, LEASE_MS);
		request_pull(&request);
		request_run(&request);
		cr_assert_eq(blocks_changed(pair.to, &geometry, request.to + count,
					    geometry.blocks - count, 0x3c),
			     0);
		request_close(&request);
	}
	pair_close(&pair);
}

/* --- heads, tokens, tails --- */

#define TOKENS 16u
#define HEAD_BYTES 64u
#define HEADS 4u
#define REQUEST_BLOCKS 12u
#define TAIL_BYTES 512u

/* A pool of heads first .. first + count - 1. */
static struct kvx_pool *heads_pool(struct kvx_engine *engine, uint32_t first, uint32_t count,
				   uint32_t block_tokens)
{
	struct kvx_geometry heads = {.layers = 3,
				     .planes = 2,
				     .blocks = 64,
				     .block_tokens = block_tokens,
				     .layout = KVX_LAYOUT_HND,
				     .heads = count,
				     .head_first = first,
				     .heads_total = HEADS,
				     .head_bytes = HEAD_BYTES};
	struct kvx_pool *pool;

	expect_ok(pool_alloc(engine, &heads, &pool));
	return pool;
}

/* The place of a token's head, counted from the pool's first, in its table's block. */
static uint8_t *head_at(const struct kvx_pool *pool, uint32_t block_tokens, const uint32_t *table,
			uint32_t layer, uint32_t plane, uint32_t token, uint32_t head)
{
	uint8_t *block = block_view(pool, layer, plane, table[token / block_tokens]);

	return block + (size_t)(head * block_tokens + token % block_tokens) * HEAD_BYTES;
}

static uint8_t value_of(uint32_t layer, uint32_t plane, uint32_t token, uint32_t head)
{
	return (uint8_t)(1 + ((layer * 2 + plane) * HEADS + head) * 31 + token * 7 + token / 40);
}

static void fill_heads(const struct kvx_pool *pool, const uint32_t *table, uint32_t tokens,
		       uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < 3 * 2 * tokens * count; i++) {
		uint32_t head = i % count, token = i / count % tokens, tensor = i / count / tokens;
		memset(head_at(pool, TOKENS, table, tensor / 2, tensor % 2, token, head),
		       value_of(tensor / 2, tensor % 2, token, first + head), HEAD_BYTES);
	}
}

/* Bytes that are not the request's tokens from `from` to `to`; others must be zero. */
static uint64_t wrong_heads(const struct kvx_pool *pool, const uint32_t *table,
			    uint32_t block_tokens, uint32_t blocks, uint32_t from, uint32_t to,
			    uint32_t first, uint32_t count)
{
	uint32_t tokens = blocks * block_tokens;
	uint64_t wrong = 0;

	for (uint32_t i = 0; i < 3 * 2 * tokens * count; i++) {
		uint32_t head = i % count, token = i / count % tokens, tensor = i / count / tokens;
		const uint8_t *at =
			head_at(pool, block_tokens, table, tensor / 2, tensor % 2, token, head);
		uint8_t value = token >= from && token < to
					? value_of(tensor / 2, tensor % 2, token, first + head)
					: 0;
		for (uint32_t byte = 0; byte < HEAD_BYTES; byte++)
			wrong += at[byte] != value;
	}
	return wrong;
}

static struct kvx_tail tail_of(struct kvx_engine *engine, int byte)
{
	struct kvx_tail tail = {.bytes = TAIL_BYTES, .offset = 64};

	expect_ok(region_alloc(engine, 4096, &tail.region));
	memset(region_view(tail.region), byte, 4096);
	return tail;
}

/* Ranks of the sender's side, each an engine. */
struct rank {
	struct kvx_engine *engine;
	struct kvx_pool *pool;
	uint32_t table[REQUEST_BLOCKS];
	struct kvx_stream *stream;
};

static void open_rank(struct rank *rank, struct drive *drive, const struct way *way, uint32_t index,
		      uint32_t heads, struct kvx_tail *tail, uint64_t *random)
{
	struct kvx_stream_options of_stream = {0};

	rank->engine = engine_open(drive, way, "rank", options);
	rank->pool = heads_pool(rank->engine, index * heads, heads, TOKENS);
	random_table(random, rank->table, index, REQUEST_BLOCKS);
	fill_heads(rank->pool, rank->table, REQUEST_BLOCKS * TOKENS, index * heads, heads);
	if (index == 0 && tail)
		of_stream.tail = *tail = tail_of(rank->engine, 0x77);
	expect_ok(kvx_offer_open(rank->pool, rank->table, REQUEST_BLOCKS, &of_stream, LEASE_MS,
				 &rank->stream));
}

static void pull_rank(struct kvx_grant *grant, const struct rank *rank)
{
	size_t bytes;
	const void *ticket = kvx_offer_ticket(rank->stream, &bytes);

	expect_ok(kvx_grant_pull(grant, ticket, bytes));
}

/* `count` ranks offer HEADS / count heads each; one grant pulls from all of them. */
static void pull_from_ranks(const struct way *way, uint32_t count)
{
	struct kvx_grant_options of_grant = {.senders = count, .tokens = 150, .held_blocks = 1};
	uint32_t heads = HEADS / count, table[REQUEST_BLOCKS];
	uint64_t random = random_seed();
	struct rank ranks[HEADS] = {0};
	struct drive drive = {0};
	struct kvx_grant *grant;
	struct kvx_tail tail;

	struct kvx_engine *receiver = engine_open(&drive, way, "receiver", options);
	struct kvx_pool *pool = heads_pool(receiver, 0, HEADS, TOKENS);
	random_table(&random, table, 20, REQUEST_BLOCKS);
	of_grant.tail = tail_of(receiver, 0);
	for (uint32_t i = 0; i < count; i++)
		open_rank(&ranks[i], &drive, way, i, heads, &tail, &random);
	expect_ok(kvx_grant_open(pool, table, 10, &of_grant, LEASE_MS, &grant));
	for (uint32_t i = count; i-- > 0;) {
		expect_ok(kvx_stream_layers_ready(ranks[i].stream, 0, 3));
		pull_rank(grant, &ranks[i]);
	}
	expect_ok(wait_grant(&drive, grant, 2, PATIENCE_MS));
	cr_assert_eq(kvx_grant_poll(grant, KVX_TAIL), 0);
	expect_ok(kvx_stream_tail_ready(ranks[0].stream));
	expect_ok(wait_grant(&drive, grant, KVX_ALL_LAYERS, PATIENCE_MS));
	cr_assert_eq(wrong_heads(pool, table, TOKENS, 10, TOKENS, 150, 0, HEADS), 0);
	const uint8_t *got = region_view(of_grant.tail.region);
	for (uint32_t i = 0; i < 4096; i++)
		cr_assert_eq(got[i], i >= 64 && i < 64 + TAIL_BYTES ? 0x77 : 0);
	for (uint32_t i = 0; i < count; i++) {
		expect_ok(wait_stream(&drive, ranks[i].stream, KVX_ALL_LAYERS, PATIENCE_MS));
		kvx_stream_close(ranks[i].stream);
		engine_close(&drive, ranks[i].engine);
	}
	kvx_grant_close(grant);
	engine_close(&drive, receiver);
}

EACH_WAY_TEST(pull__one_rank_with_a_held_prefix_a_part_of_a_block_and_a_tail)
{
	pull_from_ranks(way, 1);
}

EACH_WAY_TEST(pull__two_ranks_feed_one_grant)
{
	pull_from_ranks(way, 2);
}

EACH_WAY_TEST(pull__four_ranks_feed_one_grant)
{
	pull_from_ranks(way, 4);
}

/* The receiver holds half of the heads, and blocks of four times as many tokens. */
EACH_WAY_TEST(pull__between_pools_that_differ)
{
	const uint32_t table[] = {5, 3, 7};
	struct kvx_grant_options of_grant = {.tokens = REQUEST_BLOCKS * TOKENS - 5};
	uint64_t random = random_seed();
	struct drive drive = {0};
	struct kvx_grant *grant;
	struct rank rank;

	struct kvx_engine *receiver = engine_open(&drive, way, "receiver", options);
	struct kvx_pool *pool = heads_pool(receiver, 2, 2, 4 * TOKENS);
	open_rank(&rank, &drive, way, 0, HEADS, NULL, &random);
	expect_ok(kvx_grant_open(pool, table, 3, &of_grant, LEASE_MS, &grant));
	pull_rank(grant, &rank);
	expect_ok(kvx_stream_tokens_ready(rank.stream, 0, 3, 40));
	expect_ok(kvx_stream_tokens_ready(rank.stream, 0, 3, of_grant.tokens));
	expect_ok(wait_grant(&drive, grant, KVX_ALL_LAYERS, PATIENCE_MS));
	expect_ok(wait_stream(&drive, rank.stream, KVX_ALL_LAYERS, PATIENCE_MS));
	cr_assert_eq(wrong_heads(pool, table, 4 * TOKENS, 3, 0, of_grant.tokens, 2, 2), 0);
	kvx_stream_close(rank.stream);
	kvx_grant_close(grant);
	engine_close(&drive, rank.engine);
	engine_close(&drive, receiver);
}

/* --- long tables --- */

static struct kvx_geometry tiny(uint32_t blocks)
{
	return (struct kvx_geometry){.layers = 1, .planes = 1, .blocks = blocks, .block_bytes = 16};
}

static void pull_long_table(const struct way *way, uint32_t blocks)
{
	struct kvx_geometry small = tiny(blocks);
	struct request request;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &small, NULL);
	request_pulled(&request, &pair, 1, 0, blocks);
	kvx_grant_ticket(request.grant, &bytes);
	cr_assert_gt(bytes, 2 * (size_t)blocks); /* of many messages */
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

EACH_WAY_TEST(pull__a_table_of_5000_blocks_each_alone)
{
	pull_long_table(way, 5000);
}

EACH_WAY_TEST(pull__a_table_of_100000_blocks_each_alone)
{
	pull_long_table(way, 100000);
}

#define LONG_ONES 6u
#define LONG_BLOCKS 60000u

/* More bytes of tickets than a link's queue holds: they wait for each other. */
EACH_WAY_TEST(pull__long_tables_to_one_sender_at_once)
{
	struct kvx_geometry small = tiny(LONG_ONES * LONG_BLOCKS);
	struct request requests[LONG_ONES];
	struct pair pair;

	pair_open(&pair, way, &small, NULL);
	for (uint32_t i = 0; i < LONG_ONES; i++)
		request_pulled(&requests[i], &pair, i, i * LONG_BLOCKS, LONG_BLOCKS);
	/* One of them is given up while it waits. */
	kvx_grant_close(requests[3].grant);
	requests[3].grant = NULL;
	for (uint32_t i = 0; i < LONG_ONES; i++) {
		if (requests[i].grant)
			request_run(&requests[i]);
		else
			expect_stream_ends(&requests[i], KVX_E_REVOKED, KVX_E_REFUSED);
		request_close(&requests[i]);
	}
	pair_close(&pair);
}

EACH_WAY_TEST(pull__a_table_that_is_too_long_is_refused_at_once)
{
	struct kvx_geometry small = tiny(200000);
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &small, NULL);
	request_init(&request, &pair, 1, 0, small.blocks, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	request_grant(&request, LEASE_MS);
	expect_fail(request_try_pull(&request), KVX_E_LIMIT, "ticket", "let the sender push");
	kvx_grant_close(request.grant);
	/* Neighbours are written as one run. */
	for (uint32_t i = 0; i < small.blocks; i++)
		request.to[i] = i;
	request_grant(&request, LEASE_MS);
	request_pull(&request);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

/* --- refused at once --- */

EACH_WAY_TEST(pull__tickets_of_grants_and_offers_are_told_apart)
{
	struct request request;
	struct kvx_stream *stream;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	request_grant(&request, LEASE_MS);
	const void *ticket = kvx_grant_ticket(request.grant, &bytes);
	expect_fail(kvx_grant_pull(request.grant, ticket, bytes), KVX_E_TICKET,
		    "a grant's, which a sender streams into", "an offer's");
	expect_ok(kvx_stream_open(pair.from, request.from, request.count, NULL, ticket, bytes,
				  &stream));
	cr_assert_null(kvx_offer_ticket(stream, &bytes));
	kvx_stream_close(stream);
	ticket = request_ticket(&request, &bytes);
	expect_fail(kvx_stream_open(pair.from, request.from, request.count, NULL, ticket, bytes,
				    &stream),
		    KVX_E_TICKET, "an offer's, which a receiver pulls", "a grant's");
	request_close(&request);
	pair_close(&pair);
}

static void try_altered(struct request *request)
{
	size_t bytes;
	uint8_t *ticket = request_keep_ticket(request, &bytes);

	for (size_t i = 0; i < bytes; i++) {
		ticket[i] ^= 0x10;
		int result = kvx_grant_pull(request->grant, ticket, bytes);
		cr_assert(result == KVX_E_TICKET || result == KVX_E_VERSION, "byte %zu: %s", i,
			  kvx_error_name(result));
		ticket[i] ^= 0x10;
		cr_assert_eq(kvx_grant_pull(request->grant, ticket, i), KVX_E_TICKET);
	}
	free(ticket);
}

EACH_WAY_TEST(pull__what_does_not_fit_is_refused_at_once_and_both_ends_live_on)
{
	struct kvx_geometry other = geometry;
	struct request request;
	struct pair pair;
	struct kvx_pool *unlike;
	struct kvx_grant *grant;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	other.block_bytes = 8192;
	expect_ok(pool_alloc(pair.receiver, &other, &unlike));
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request.count = 8;
	request_offer(&request, LEASE_MS);
	const void *ticket = request_ticket(&request, &bytes);

	expect_ok(kvx_grant_open(unlike, request.to, 8, NULL, LEASE_MS, &grant));
	expect_fail(kvx_grant_pull(grant, ticket, bytes), KVX_E_GEOMETRY, "4096", "8192");
	kvx_grant_close(grant);

	expect_ok(kvx_grant_open(pair.to, request.to, 9, NULL, LEASE_MS, &grant));
	expect_fail(kvx_grant_pull(grant, ticket, bytes), KVX_E_INVALID, "9 tokens", "8 are");
	kvx_grant_close(grant);

	struct kvx_grant_options with_tail = {.tail = tail_of(pair.receiver, 0)};
	expect_ok(kvx_grant_open(pair.to, request.to, 8, &with_tail, LEASE_MS, &grant));
	expect_fail(kvx_grant_pull(grant, ticket, bytes), KVX_E_INVALID, "tail", "512");
	kvx_grant_close(grant);

	request_grant(&request, LEASE_MS);
	expect_fail(kvx_grant_pull(NULL, ticket, bytes), KVX_E_INVALID, "NULL");
	expect_fail(kvx_grant_pull(request.grant, NULL, 0), KVX_E_INVALID, "NULL");
	try_altered(&request);
	request_pull(&request);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

EACH_WAY_TEST(pull__offers_that_cannot_be_are_refused)
{
	struct kvx_stream_options with_tail = {.tail = {.bytes = 6}};
	const uint32_t twice[] = {1, 2, 1}, outside[] = {1, 64};
	struct kvx_stream *stream;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	expect_fail(kvx_offer_open(NULL, twice, 2, NULL, 1, &stream), KVX_E_INVALID, "NULL");
	expect_fail(kvx_offer_open(pair.from, twice, 2, NULL, 0, &stream), KVX_E_INVALID, "lease");
	expect_fail(kvx_offer_open(pair.from, twice, 2, NULL, KVX_TIMEOUT_MAX_MS + 1, &stream),
		    KVX_E_INVALID, "lease");
	expect_fail(kvx_offer_open(pair.from, twice, 3, NULL, 1, &stream), KVX_E_INVALID,
		    "block 1 is repeated");
	expect_fail(kvx_offer_open(pair.from, outside, 2, NULL, 1, &stream), KVX_E_INVALID, "64");
	expect_fail(kvx_offer_open(pair.from, twice, 0, NULL, 1, &stream), KVX_E_INVALID, "0");
	cr_assert(kvx_offer_open(pair.from, twice, 2, &with_tail, 1, &stream) < 0);
	pair_close(&pair);
}

/* A DECLINE names the offer alone, so one pull of it at a time waits for an answer. */
EACH_TRANSPORT_TEST(pull__an_offer_that_is_being_pulled_is_refused_to_another_grant)
{
	static const char *const patient[] = {"unit_bytes=16384", "connect_timeout_ms=60000", NULL};
	const struct way driven = {way->transport, true};
	struct kvx_grant *first;
	struct request request;
	struct pair pair;

	pair_open(&pair, &driven, &geometry, patient);
	drive_remove(&pair.drive, pair.sender); /* which answers nothing */
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request.count = 8;
	request_offer(&request, LEASE_MS);
	request_grant(&request, LEASE_MS);
	request_pull(&request);
	first = request.grant;
	expect_ok(kvx_grant_open(pair.to, request.to + 8, 8, NULL, LEASE_MS, &request.grant));
	request_pull(&request);
	expect_fail(wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_REFUSED, "this engine pulls offer", "peer sender", "already");
	kvx_grant_close(request.grant);
	request.grant = first; /* which has noticed nothing */
	cr_assert_eq(kvx_grant_poll(first, KVX_ALL_LAYERS), 0);
	drive_add(&pair.drive, pair.sender);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}
