/* SPDX-License-Identifier: Apache-2.0 */
/* The contract, where a request moves in ranges of tokens: chunks, a prefix that is held already, a
 * last block that is not full, and a tail. */
#include "support/ranks.h"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 60000u
#define LAYERS 4u

static const char *const options[] = {"unit_bytes=4096", "spin_us=0", NULL};

/* One rank to one rank: NHD in blocks of 16 to HND in blocks of 32. */
static void open_one(struct ranks *ranks, const struct way *way, uint32_t tokens)
{
	const struct kvx_geometry decode = rank_geometry(KVX_LAYOUT_HND, 32, 0, 8);
	const struct kvx_geometry prefill = rank_geometry(KVX_LAYOUT_NHD, 16, 0, 8);

	ranks_open(ranks, way, options, &decode, &prefill, 1, tokens);
}

static void close_all(struct ranks *ranks)
{
	ranks_end(ranks);
	ranks_close(ranks);
}

/* --- chunks --- */

struct awaited {
	const struct ranks *ranks;
	uint32_t layer, units;
};

static bool have_arrived(void *argument)
{
	const struct awaited *awaited = argument;

	return ranks_arrived(awaited->ranks, awaited->layer) >= awaited->units;
}

static void await_units(struct ranks *ranks, uint32_t layer, uint32_t units)
{
	struct awaited awaited = {ranks, layer, units};

	cr_assert(drive_until(&ranks->drive, have_arrived, &awaited, PATIENCE_MS),
		  "layer %u: %u of %u units", layer, ranks_arrived(ranks, layer), units);
}

/* Blocks are written late: a token that moved before it was told would be noise. */
EACH_WAY_TEST(contract_1__chunks_arrive_before_their_layer_is_whole)
{
	const struct kvx_stream_options chunked = {.chunk_tokens = 64};
	struct ranks ranks;

	open_one(&ranks, way, 256);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream(&ranks, 0, &chunked);
	ranks_await_targets(&ranks);
	uint32_t units = ranks_target(&ranks, 0);
	cr_assert(units >= 4 && units % 4 == 0, "%u units", units);
	for (uint32_t chunk = 1; chunk <= 4; chunk++) {
		ranks_compute(&ranks, (chunk - 1) * 64, chunk * 64);
		for (uint32_t layer = 0; layer < LAYERS; layer++) {
			expect_ok(kvx_stream_tokens_ready(ranks.streams[0], layer, 1, chunk * 64));
			await_units(&ranks, layer, units / 4 * chunk);
		}
		drive_for(&ranks.drive, 20);
		for (uint32_t layer = 0; layer < LAYERS; layer++) {
			cr_assert_eq(ranks_arrived(&ranks, layer), units / 4 * chunk);
			cr_assert_eq(kvx_grant_poll(ranks.grant, layer), chunk == 4);
		}
		cr_assert_eq(ranks_wrong(&ranks, 0, LAYERS, chunk * 64), 0,
			     "other tokens than the first %u have moved", chunk * 64);
	}
	ranks_finish(&ranks);
	close_all(&ranks);
}

/* Chunks that end within a block, or are told by other numbers than were said at the begin: less
 * moves early, but nothing too early. */
EACH_WAY_TEST(contract_1__no_token_moves_before_it_was_said_ready)
{
	struct kvx_stream_options chunked = {.chunk_tokens = 50};
	struct ranks ranks;

	open_one(&ranks, way, 250);
	for (uint32_t step = 7; step < 200; step *= 3) {
		chunked.chunk_tokens = step > 60 ? 0 : 50;
		memset(ranks.prefill[0].drawn.memory, 0x11, ranks.prefill[0].drawn.bytes);
		memset(ranks.decode.drawn.memory, 0x22, ranks.decode.drawn.bytes);
		ranks_grant(&ranks, NULL, LEASE_MS);
		ranks_stream(&ranks, 0, &chunked);
		for (uint32_t tokens = 0; tokens < 250; tokens += step) {
			uint32_t end = tokens + step < 250 ? tokens + step : 250;
			ranks_compute(&ranks, tokens, end);
			expect_ok(kvx_stream_tokens_ready(ranks.streams[0], 0, LAYERS, end));
			/* Fewer were ready before: that takes nothing back. */
			expect_ok(kvx_stream_tokens_ready(ranks.streams[0], 0, LAYERS, 1));
			drive_for(&ranks.drive, 5);
		}
		expect_ok(wait_grant(&ranks.drive, ranks.grant, KVX_ALL_LAYERS, PATIENCE_MS));
		cr_assert_eq(ranks_wrong(&ranks, 0, LAYERS, 250), 0, "steps of %u", step);
		expect_ok(wait_stream(&ranks.drive, ranks.streams[0], KVX_ALL_LAYERS, PATIENCE_MS));
		ranks_end(&ranks);
	}
	ranks_close(&ranks);
}

/* --- a part of the request --- */

EACH_WAY_TEST(contract_1__the_rest_of_the_last_block_stays_untouched)
{
	struct ranks ranks;

	ranks_open_four(&ranks, way, options, 3 * 16 + 5);
	ranks_compute(&ranks, 0, 3 * 16 + 5);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream_all(&ranks);
	ranks_finish(&ranks); /* looks at all blocks, and at every byte of them */
	close_all(&ranks);
}

EACH_WAY_TEST(contract_1__held_blocks_stay_untouched)
{
	const struct kvx_grant_options special = {.held_blocks = 5};
	struct ranks ranks;

	ranks_open_four(&ranks, way, options, 8 * 16 + 1);
	ranks_compute(&ranks, 0, 8 * 16 + 1);
	ranks_grant(&ranks, &special, LEASE_MS);
	ranks_stream_all(&ranks);
	ranks_finish(&ranks);
	cr_assert_eq(stats_of(ranks.decode.engine).bytes_received,
		     (3u * 16 + 1) * 8 * 64 * 2 * LAYERS);
	close_all(&ranks);
}

/* Two requests share a prefix, which another grant may even own as a whole. */
EACH_WAY_TEST(contract_2__held_blocks_may_be_granted_several_times_at_once)
{
	const struct kvx_grant_options special = {.held_blocks = 2};
	const struct drawn_pool *drawn;
	struct kvx_grant *first, *owner;
	struct kvx_stream *stream;
	struct ranks ranks;
	uint32_t table[4];

	open_one(&ranks, way, 8 * 32);
	ranks_compute(&ranks, 0, 8 * 32);
	drawn = &ranks.decode.drawn;
	ranks.tokens = 4 * 32;
	ranks.decode.drawn.count = 4;
	ranks.prefill[0].drawn.count = 8;
	ranks_grant(&ranks, &special, LEASE_MS);
	first = ranks.grant;
	ranks_stream(&ranks, 0, NULL);
	stream = ranks.streams[0];
	memcpy(table, drawn->table, 2 * sizeof(*table)); /* the prefix, then blocks of its own */
	memcpy(table + 2, drawn->table + 4, 2 * sizeof(*table));
	uint32_t *whole = drawn->table;
	ranks.decode.drawn.table = table;
	ranks_grant(&ranks, &special, LEASE_MS);
	ranks_stream(&ranks, 0, NULL);
	expect_ok(kvx_grant_open(ranks.decode.pool, table, 2, NULL, LEASE_MS, &owner));
	expect_fail(kvx_grant_open(ranks.decode.pool, table + 1, 2, NULL, LEASE_MS, &owner),
		    KVX_E_INVALID, "granted already", "close that grant");
	ranks_finish(&ranks); /* of the first one nothing has been told ready */
	ranks_end(&ranks);
	ranks.decode.drawn.table = whole;
	expect_ok(kvx_stream_layers_ready(stream, 0, LAYERS));
	expect_ok(wait_grant(&ranks.drive, first, KVX_ALL_LAYERS, PATIENCE_MS));
	expect_ok(wait_stream(&ranks.drive, stream, KVX_ALL_LAYERS, PATIENCE_MS));
	kvx_grant_close(first);
	kvx_stream_close(stream);
	kvx_grant_close(owner);
	ranks_expect_works(&ranks);
	ranks_close(&ranks);
}

/* --- the tail --- */

static struct kvx_tail tail_of(const struct rank *rank, uint32_t bytes)
{
	return (struct kvx_tail){rank->tail, 64, bytes};
}

static void grant_with_tail(struct ranks *ranks, uint32_t bytes)
{
	const struct kvx_grant_options special = {.tail = tail_of(&ranks->decode, bytes)};

	memset(region_view(ranks->decode.tail), 0x33, RANKS_TAIL_BYTES);
	ranks_grant(ranks, &special, LEASE_MS);
}

static void stream_with_tail(struct ranks *ranks, uint32_t index, uint32_t bytes)
{
	const struct kvx_stream_options special = {.tail = tail_of(&ranks->prefill[index], bytes)};

	memset(region_view(ranks->prefill[index].tail), 0x44, RANKS_TAIL_BYTES);
	ranks_stream(ranks, index, &special);
}

static void expect_tail(const struct ranks *ranks, uint32_t bytes)
{
	const uint8_t *memory = region_view(ranks->decode.tail);

	for (uint32_t i = 0; i < RANKS_TAIL_BYTES; i++)
		cr_assert_eq(memory[i], i >= 64 && i < 64 + bytes ? 0x44 : 0x33, "byte %u is %02x",
			     i, memory[i]);
}

EACH_WAY_TEST(contract_1__the_tail_is_reported_last_whenever_it_was_told)
{
	struct ranks ranks;

	ranks_open_four(&ranks, way, options, 100);
	ranks_compute(&ranks, 0, 100);
	grant_with_tail(&ranks, 1000);
	for (uint32_t i = 0; i < 4; i++) {
		if (i == 1)
			stream_with_tail(&ranks, i, 1000);
		else
			ranks_stream(&ranks, i, NULL);
	}
	expect_ok(kvx_stream_tail_ready(ranks.streams[1]));
	await_units(&ranks, KVX_TAIL, 1);
	for (uint32_t layer = LAYERS; layer-- > 0;) {
		drive_for(&ranks.drive, 10);
		cr_assert_eq(kvx_grant_poll(ranks.grant, KVX_TAIL), 0, "layer %u is missing",
			     layer);
		cr_assert_eq(kvx_grant_poll(ranks.grant, KVX_ALL_LAYERS), 0);
		for (uint32_t i = 0; i < 4; i++)
			ranks_ready(&ranks, i, layer, 1);
	}
	expect_ok(wait_grant(&ranks.drive, ranks.grant, KVX_TAIL, PATIENCE_MS));
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		cr_assert_eq(kvx_grant_poll(ranks.grant, layer), 1);
	cr_assert_eq(kvx_grant_poll(ranks.grant, KVX_ALL_LAYERS), 1);
	expect_tail(&ranks, 1000);
	ranks_finish(&ranks);
	expect_ok(wait_stream(&ranks.drive, ranks.streams[1], KVX_TAIL, PATIENCE_MS));
	close_all(&ranks);
}

EACH_WAY_TEST(contract_1__a_request_waits_for_its_tail)
{
	struct ranks ranks;

	open_one(&ranks, way, 100);
	ranks_compute(&ranks, 0, 100);
	grant_with_tail(&ranks, 4);
	stream_with_tail(&ranks, 0, 4);
	ranks_ready(&ranks, 0, 0, LAYERS);
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		expect_ok(wait_grant(&ranks.drive, ranks.grant, layer, PATIENCE_MS));
		expect_ok(wait_stream(&ranks.drive, ranks.streams[0], layer, PATIENCE_MS));
	}
	drive_for(&ranks.drive, 20);
	cr_assert_eq(kvx_grant_poll(ranks.grant, KVX_TAIL), 0);
	cr_assert_eq(kvx_grant_poll(ranks.grant, KVX_ALL_LAYERS), 0);
	cr_assert_eq(kvx_stream_poll(ranks.streams[0], KVX_ALL_LAYERS), 0);
	cr_assert_eq(ranks_target(&ranks, KVX_TAIL), 1);
	cr_assert_eq(ranks_arrived(&ranks, KVX_TAIL), 0);
	expect_tail(&ranks, 0);
	expect_ok(kvx_stream_tail_ready(ranks.streams[0]));
	expect_ok(kvx_stream_tail_ready(ranks.streams[0])); /* twice: does nothing */
	expect_ok(wait_grant(&ranks.drive, ranks.grant, KVX_ALL_LAYERS, PATIENCE_MS));
	expect_ok(wait_stream(&ranks.drive, ranks.streams[0], KVX_ALL_LAYERS, PATIENCE_MS));
	expect_tail(&ranks, 4);
	close_all(&ranks);
}

/* The last to come is refused with the number of those that have a tail. */
static void expect_tails_refused(const struct way *way, uint32_t tails, const char *words)
{
	struct ranks ranks;

	ranks_open_four(&ranks, way, options, 100);
	grant_with_tail(&ranks, 64);
	for (uint32_t i = 0; i < 4; i++) {
		if (i >= 4 - tails)
			stream_with_tail(&ranks, i, 64);
		else
			ranks_stream(&ranks, i, NULL);
		if (i < 3)
			ranks_await_came(&ranks, i + 1);
	}
	expect_fail(wait_stream(&ranks.drive, ranks.streams[3], KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_GEOMETRY, "decode", words, "exactly one");
	cr_assert_eq(ranks_target(&ranks, 0), 0);
	close_all(&ranks);
}

EACH_TRANSPORT_TEST(contract_7__a_tail_that_no_sender_has_is_refused)
{
	expect_tails_refused(way, 0, "0 of its 4 senders have a tail");
}

EACH_TRANSPORT_TEST(contract_7__a_tail_that_two_senders_have_is_refused)
{
	expect_tails_refused(way, 2, "2 of its 4 senders have a tail");
}

/* --- options that cannot be --- */

static const struct way any_way = {"loop", true};

static void expect_no_grant(struct ranks *ranks, struct kvx_grant_options special,
			    const char *reason, const char *change)
{
	const struct drawn_pool *drawn = &ranks->decode.drawn;
	struct kvx_grant *grant;

	expect_fail(kvx_grant_open(ranks->decode.pool, drawn->table, drawn->count, &special,
				   LEASE_MS, &grant),
		    KVX_E_INVALID, "grant", reason, change);
}

Test(ranges, contract_7__grants_of_impossible_options_are_refused)
{
	struct kvx_grant_options tail = {0};
	struct ranks ranks;

	open_one(&ranks, &any_way, 5 * 32);
	expect_no_grant(&ranks, (struct kvx_grant_options){.tokens = 161}, "161 tokens",
			"must be 129 to 160");
	expect_no_grant(&ranks, (struct kvx_grant_options){.tokens = 128}, "128 tokens",
			"must be 129 to 160");
	expect_no_grant(&ranks, (struct kvx_grant_options){.held_blocks = 5}, "5 of its 5 blocks",
			"at least one must not be");
	expect_no_grant(&ranks, (struct kvx_grant_options){.senders = 65}, "65 senders",
			"at most 64");
	tail.tail = (struct kvx_tail){NULL, 0, 4};
	expect_no_grant(&ranks, tail, "tail", "no region of this engine");
	tail.tail.region = ranks.prefill[0].tail;
	expect_no_grant(&ranks, tail, "tail", "no region of this engine");
	tail.tail = (struct kvx_tail){ranks.decode.tail, 0, 6};
	expect_no_grant(&ranks, tail, "6 bytes", "multiples of 4");
	tail.tail = (struct kvx_tail){ranks.decode.tail, 2, 4};
	expect_no_grant(&ranks, tail, "offset 2", "multiples of 4");
	tail.tail = (struct kvx_tail){ranks.decode.tail, 4096, 4};
	expect_no_grant(&ranks, tail, "offset 4096", "within its region of 4096");
	tail.tail = (struct kvx_tail){ranks.decode.tail, UINT64_MAX - 3, 8};
	expect_no_grant(&ranks, tail, "8 bytes", "within its region of 4096");
	tail.tail = (struct kvx_tail){ranks.decode.tail, 0, KVX_TAIL_MAX + 4};
	expect_no_grant(&ranks, tail, "1048580 bytes", "at most 1048576");
	ranks_expect_works(&ranks);
	ranks_close(&ranks);
}

static void expect_no_stream(struct ranks *ranks, struct kvx_tail tail, const char *reason,
			     const char *change)
{
	const struct kvx_stream_options special = {.tail = tail};
	struct kvx_stream *stream;

	expect_fail(ranks_try_stream(ranks, 0, &special, &stream), KVX_E_INVALID, "stream", reason,
		    change);
}

Test(ranges, contract_7__streams_of_impossible_options_are_refused)
{
	struct ranks ranks;

	open_one(&ranks, &any_way, 5 * 32);
	ranks_grant(&ranks, NULL, LEASE_MS);
	expect_no_stream(&ranks, tail_of(&ranks.prefill[0], 8), "a tail of 8 bytes",
			 "the grant's has 0");
	ranks_stream_all(&ranks);
	expect_fail(kvx_stream_tail_ready(ranks.streams[0]), KVX_E_INVALID, "stream", "no tail");
	expect_fail(kvx_stream_wait(ranks.streams[0], KVX_TAIL, 0), KVX_E_INVALID, "no tail");
	expect_fail(kvx_grant_wait(ranks.grant, KVX_TAIL, 0), KVX_E_INVALID, "grant", "no tail");
	expect_fail(kvx_stream_tokens_ready(ranks.streams[0], 2, 3, 16), KVX_E_INVALID, "layers 2",
		    "there are 4");
	expect_fail(kvx_stream_tokens_ready(ranks.streams[0], 0, 0, 16), KVX_E_INVALID, "stream",
		    "there are 4");
	ranks_compute(&ranks, 0, 160);
	ranks_finish(&ranks);
	ranks_end(&ranks);
	grant_with_tail(&ranks, 64);
	expect_no_stream(&ranks, (struct kvx_tail){0}, "a tail of 0 bytes", "the grant's has 64");
	expect_no_stream(&ranks, tail_of(&ranks.prefill[0], 68), "a tail of 68 bytes",
			 "the grant's has 64");
	expect_no_stream(&ranks, tail_of(&ranks.decode, 64), "tail", "no region of this engine");
	expect_no_stream(&ranks, (struct kvx_tail){ranks.prefill[0].tail, 4090, 64}, "offset 4090",
			 "multiples of 4");
	ranks.prefill[0].drawn.count--;
	expect_no_stream(&ranks, tail_of(&ranks.prefill[0], 64), "of 9 blocks", "fills 10");
	ranks.prefill[0].drawn.count++;
	stream_with_tail(&ranks, 0, 64);
	expect_ok(kvx_stream_tail_ready(ranks.streams[0]));
	ranks_finish(&ranks);
	expect_tail(&ranks, 64);
	close_all(&ranks);
}

/* --- all of it together --- */

#define CHUNK 64u
#define HELD_BLOCKS 3u /* of 32 tokens: a chunk and a half */
#define PART_TOKENS 250u
#define PART_TAIL_BYTES 1000u
#define TAIL_RANK 1u

/* Four ranks of two heads each, NHD in blocks of 16, to one of all heads, HND in blocks of 32. */
static void open_together(struct ranks *ranks, const struct way *way)
{
	const struct kvx_geometry decode = rank_geometry(KVX_LAYOUT_HND, 32, 0, 8);
	struct kvx_geometry prefill[4];

	for (uint32_t i = 0; i < 4; i++)
		prefill[i] = rank_geometry(KVX_LAYOUT_NHD, 16, 2 * i, 2);
	ranks_open(ranks, way, options, &decode, prefill, 4, PART_TOKENS);
	for (uint32_t i = 0; i < 4; i++)
		memset(region_view(ranks->prefill[i].tail), 0x44, RANKS_TAIL_BYTES);
	memset(region_view(ranks->decode.tail), 0x33, RANKS_TAIL_BYTES);
}

static void feed_together(struct ranks *ranks, bool pulled)
{
	for (uint32_t i = 0; i < 4; i++) {
		struct kvx_stream_options special = {.chunk_tokens = CHUNK};
		if (i == TAIL_RANK)
			special.tail = tail_of(&ranks->prefill[i], PART_TAIL_BYTES);
		if (pulled)
			ranks_offer(ranks, i, &special);
		else
			ranks_stream(ranks, i, &special);
	}
	for (uint32_t i = 4; pulled && i-- > 0;)
		ranks_pull(ranks, i);
}

/* Chunks are computed late, so that what moves too early would be noise. */
static void compute_in_chunks(struct ranks *ranks)
{
	for (uint32_t first = 0; first < PART_TOKENS; first += CHUNK) {
		uint32_t end = first + CHUNK < PART_TOKENS ? first + CHUNK : PART_TOKENS;
		ranks_compute(ranks, first, end);
		for (uint32_t i = 0; i < 4; i++)
			expect_ok(kvx_stream_tokens_ready(ranks->streams[i], 0, LAYERS, end));
		for (uint32_t layer = 0; layer < LAYERS && end < PART_TOKENS; layer++) {
			if (end > HELD_BLOCKS * 32)
				await_units(ranks, layer, 1);
			else
				cr_assert_eq(ranks_arrived(ranks, layer), 0, "what is held moved");
			cr_assert_eq(kvx_grant_poll(ranks->grant, layer), 0);
		}
	}
}

static void run_together(const struct way *way, bool pulled)
{
	struct kvx_grant_options special = {.held_blocks = HELD_BLOCKS};
	struct ranks ranks;

	open_together(&ranks, way);
	special.tail = tail_of(&ranks.decode, PART_TAIL_BYTES);
	ranks_grant(&ranks, &special, LEASE_MS);
	feed_together(&ranks, pulled);
	expect_ok(kvx_stream_tail_ready(ranks.streams[TAIL_RANK]));
	ranks_await_targets(&ranks);
	cr_assert_eq(ranks_target(&ranks, KVX_TAIL), 1);
	compute_in_chunks(&ranks);
	ranks_finish(&ranks); /* looks at all blocks, and at every byte of them */
	expect_tail(&ranks, PART_TAIL_BYTES);
	cr_assert_eq(stats_of(ranks.decode.engine).bytes_received,
		     (PART_TOKENS - HELD_BLOCKS * 32) * 8 * 64 * 2 * LAYERS + PART_TAIL_BYTES);
	close_all(&ranks);
}

EACH_WAY_TEST(contract_1__a_held_prefix_chunks_a_part_of_a_block_and_a_tail_together)
{
	run_together(way, false);
}

EACH_WAY_TEST(contract_1__the_same_all_together_pulled)
{
	run_together(way, true);
}

/* --- more that cannot be --- */

/* Of several senders one alone has the tail, and that one is the grant's. */
EACH_TRANSPORT_TEST(contract_7__a_tail_of_another_size_is_refused_among_several_senders)
{
	struct ranks ranks;

	ranks_open_four(&ranks, way, options, 100);
	ranks_compute(&ranks, 0, 100);
	grant_with_tail(&ranks, 64);
	expect_no_stream(&ranks, tail_of(&ranks.prefill[0], 68), "a tail of 68 bytes",
			 "the grant's has 64");
	for (uint32_t i = 0; i < 2; i++) {
		const struct kvx_stream_options wrong = {
			.tail = tail_of(&ranks.prefill[i], i ? 60 : 68)};
		ranks_offer(&ranks, i, &wrong);
		expect_fail(ranks_try_pull(&ranks, i), KVX_E_INVALID, "pull",
			    i ? "a tail of 60 bytes is offered" : "a tail of 68 bytes is offered",
			    "the grant's has 64");
		kvx_stream_close(ranks.streams[i]);
		ranks.streams[i] = NULL;
	}
	cr_assert_eq(kvx_grant_poll(ranks.grant, KVX_ALL_LAYERS), 0);
	stream_with_tail(&ranks, 0, 64); /* the others have none, pushed or pulled */
	ranks_stream(&ranks, 1, NULL);
	for (uint32_t i = 2; i < 4; i++) {
		ranks_offer(&ranks, i, NULL);
		ranks_pull(&ranks, i);
	}
	expect_ok(kvx_stream_tail_ready(ranks.streams[0]));
	ranks_finish(&ranks);
	expect_tail(&ranks, 64);
	close_all(&ranks);
}

/* Tokens are counted in 32 bits. */
Test(ranges, contract_7__more_tokens_than_can_be_counted_are_refused)
{
	const struct kvx_geometry huge = {.layers = 1,
					  .planes = 1,
					  .blocks = 2,
					  .block_bytes = 64,
					  .block_tokens = UINT32_MAX};
	const uint32_t table[] = {1, 0};
	struct drive drive = {0};
	struct kvx_stream *stream;
	struct kvx_grant *grant;
	struct kvx_pool *pool;

	struct kvx_engine *engine = engine_open(&drive, &any_way, "decode", NULL);
	expect_ok(pool_alloc(engine, &huge, &pool));
	expect_fail(kvx_grant_open(pool, table, 2, NULL, LEASE_MS, &grant), KVX_E_LIMIT,
		    "grant: 2 blocks of 4294967295 tokens", "more than 2^32 - 1");
	expect_fail(kvx_offer_open(pool, table, 2, NULL, LEASE_MS, &stream), KVX_E_LIMIT,
		    "offer: 2 blocks of 4294967295 tokens", "more than 2^32 - 1");
	expect_ok(kvx_grant_open(pool, table, 1, NULL, LEASE_MS, &grant));
	kvx_grant_close(grant);
	expect_ok(kvx_offer_open(pool, table, 1, NULL, LEASE_MS, &stream));
	kvx_stream_close(stream);
	engine_close(&drive, engine);
}
