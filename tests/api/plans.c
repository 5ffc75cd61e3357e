/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests between pools that differ, drawn at random: many senders, ranges of tokens, tails,
 * pushed or pulled. When one is through, every byte of the receiver's memory is what the naive
 * account of support/geometry.h says, and each end has counted what it says.
 */
#include "support/drive.h"
#include "support/geometry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEASE_MS 60000u
#define GUARD 64u /* bytes that drawn_pool() leaves at the end */

/* Small units, so that a layer has several of them. Gathered or not must come to the same. */
#define SMALL "unit_bytes=4096", "spin_us=0", "tcp_connections=3"
#define MANNERS_OF_STAGING 3u
static const char *const options[MANNERS_OF_STAGING][6] = {
	{SMALL, "staging=off", NULL},
	{SMALL, "staging=on", "staging_bytes=256K", NULL},
	{SMALL, NULL},
};

struct crew {
	const struct way *way;
	struct drive drive;
	struct kvx_engine *receiver, *senders[DRAWN_SENDERS_MAX];
};

/* A pool of the library over a drawn one, and a tail. */
struct end {
	struct kvx_engine *engine;
	struct drawn_pool *drawn;
	struct kvx_region *region, *tail_region;
	struct kvx_pool *pool;
	struct kvx_tail tail;
	char *tail_memory; /* GUARD bytes, the tail, GUARD bytes; NULL: in the pool's memory */
};

/* How a sender tells what is ready. */
enum manner { AT_ONCE, BY_LAYERS, BY_TOKENS, BY_WORD, MANNERS };

struct feeder {
	struct end end;
	struct kvx_stream *stream;
	enum manner manner;
	uint32_t told; /* layers, or tokens */
	uint32_t order[DRAWN_LAYERS_MAX];
	uint32_t chunk;
	uint32_t word;
	bool tail_first, done;
};

/* A request under way. */
struct trial {
	struct crew *crew;
	struct drawn_request request;
	struct end end; /* the receiver's */
	struct feeder feeders[DRAWN_SENDERS_MAX];
	uint32_t tail_bytes, tail_sender;
	bool pulled; /* the senders offer */
	struct kvx_grant *grant;
	struct kvx_stats before;
	uint64_t sent_before;
};

/* The request that is under way, for tell_what_failed(). */
static const struct trial *moving;

static void tell_what_failed(void)
{
	if (!moving)
		return;
	fprintf(stderr, "%s, ", moving->pulled ? "pulled" : "pushed");
	drawn_print(&moving->request);
}

static bool coin(uint64_t *random)
{
	return random_between(random, 0, 1);
}

/* --- pools --- */

static void open_pool(struct end *end, struct kvx_engine *engine, struct drawn_pool *drawn)
{
	const struct kvx_geometry *geometry = &drawn->geometry;
	uint32_t count = geometry->layers * (geometry->planes + geometry->extra_planes);
	struct kvx_tensor tensors[DRAWN_TENSORS_MAX];

	*end = (struct end){.engine = engine, .drawn = drawn};
	expect_ok(kvx_region_register(engine, drawn->memory, drawn->bytes, &end->region));
	for (uint32_t i = 0; i < count; i++)
		tensors[i] = (struct kvx_tensor){end->region, drawn->tensors[i].offset,
						 drawn->tensors[i].stride};
	expect_ok(kvx_pool_open(engine, geometry, tensors, &end->pool));
}

/* In memory of its own, or behind the pool's blocks. */
static void open_tail(struct end *end, uint32_t bytes, uint64_t *random)
{
	if (bytes <= GUARD && coin(random)) {
		end->tail = (struct kvx_tail){end->region, end->drawn->bytes - GUARD, bytes};
		return;
	}
	end->tail_memory = malloc(2 * GUARD + bytes);
	for (uint32_t i = 0; i < 2 * GUARD + bytes; i++)
		end->tail_memory[i] = (char)random_next(random);
	expect_ok(kvx_region_register(end->engine, end->tail_memory, 2 * GUARD + bytes,
				      &end->tail_region));
	end->tail = (struct kvx_tail){end->tail_region, GUARD, bytes};
}

static char *tail_of(const struct end *end)
{
	return (char *)region_view(end->tail.region) + end->tail.offset;
}

static void close_end(struct end *end)
{
	expect_ok(kvx_pool_close(end->pool));
	expect_ok(kvx_region_close(end->region));
	expect_ok(kvx_region_close(end->tail_region));
	free(end->tail_memory);
}

/* --- both ends of a request --- */

static uint32_t tokens_of(const struct kvx_geometry *geometry)
{
	return geometry->block_tokens ? geometry->block_tokens : 1;
}

static void open_grant(struct trial *trial, uint64_t *random)
{
	const struct drawn_request *request = &trial->request;
	struct end *end = &trial->end;
	bool full =
		request->tokens == request->receiver.count * tokens_of(&request->receiver.geometry);
	struct kvx_grant_options special = {
		.tokens = full && coin(random) ? 0 : request->tokens,
		.held_blocks = request->held_blocks,
		.senders = request->sender_count == 1 && coin(random) ? 0 : request->sender_count,
	};

	open_pool(end, trial->crew->receiver, &trial->request.receiver);
	if (trial->tail_bytes)
		open_tail(end, trial->tail_bytes, random);
	special.tail = end->tail;
	expect_ok(kvx_grant_open(end->pool, end->drawn->table, end->drawn->count, &special,
				 LEASE_MS, &trial->grant));
}

/* Into the grant, or for it: then the grant pulls it later, and may want the begin of it alone. */
static void open_sender(struct trial *trial, struct feeder *feeder,
			const struct kvx_stream_options *special, uint64_t *random)
{
	const struct end *end = &feeder->end;
	const struct drawn_pool *drawn = end->drawn;
	uint32_t more = drawn->geometry.blocks - drawn->count;
	size_t bytes;
	const void *ticket = kvx_grant_ticket(trial->grant, &bytes);

	if (trial->pulled)
		expect_ok(kvx_offer_open(end->pool, drawn->table,
					 drawn->count + random_between(random, 0, more), special,
					 LEASE_MS, &feeder->stream));
	else
		expect_ok(kvx_stream_open(end->pool, drawn->table, drawn->count, special, ticket,
					  bytes, &feeder->stream));
}

static void pull_all(struct trial *trial, uint64_t *random)
{
	uint32_t order[DRAWN_SENDERS_MAX];
	size_t bytes;

	random_table(random, order, 0, trial->request.sender_count);
	for (uint32_t i = 0; i < trial->request.sender_count; i++) {
		const void *ticket = kvx_offer_ticket(trial->feeders[order[i]].stream, &bytes);
		expect_ok(kvx_grant_pull(trial->grant, ticket, bytes));
	}
}

static void open_stream(struct trial *trial, uint32_t index, uint64_t *random)
{
	struct feeder *feeder = &trial->feeders[index];
	struct end *end = &feeder->end;
	struct drawn_pool *drawn = &trial->request.senders[index];
	struct kvx_stream_options special = {0};

	open_pool(end, trial->crew->senders[index], drawn);
	if (trial->tail_bytes && trial->tail_sender == index)
		open_tail(end, trial->tail_bytes, random);
	special.tail = end->tail;
	special.chunk_tokens = coin(random) ? random_between(random, 1, trial->request.tokens) : 0;
	open_sender(trial, feeder, &special, random);
	feeder->manner = (enum manner)random_between(random, 0, MANNERS - 1);
	feeder->chunk = special.chunk_tokens ? special.chunk_tokens
					     : random_between(random, 1, trial->request.tokens);
	feeder->tail_first = coin(random);
	random_table(random, feeder->order, 0, drawn->geometry.layers);
	feeder->word = (uint32_t)random_next(random);
	if (feeder->manner == BY_WORD)
		expect_ok(kvx_stream_watch(feeder->stream, &feeder->word));
	if (feeder->manner != BY_TOKENS)
		drawn_compute(drawn, 0, trial->request.tokens);
}

static void tell_tail(struct trial *trial, struct feeder *feeder)
{
	if (!feeder->end.tail.bytes)
		return;
	memset(tail_of(&feeder->end), 0x5a, trial->tail_bytes);
	expect_ok(kvx_stream_tail_ready(feeder->stream));
}

/* Tells what else is ready. Until then the sender's memory holds noise, which must not move. */
static void tell_more(struct trial *trial, struct feeder *feeder, uint64_t *random)
{
	struct drawn_pool *drawn = feeder->end.drawn;
	uint32_t layers = drawn->geometry.layers, tokens = trial->request.tokens, more;

	if (!feeder->told && feeder->tail_first)
		tell_tail(trial, feeder);
	switch (feeder->manner) {
	case AT_ONCE:
		expect_ok(kvx_stream_layers_ready(feeder->stream, 0, layers));
		feeder->told = layers;
		break;
	case BY_LAYERS:
		expect_ok(
			kvx_stream_layers_ready(feeder->stream, feeder->order[feeder->told++], 1));
		break;
	case BY_TOKENS:
		more = feeder->chunk < tokens - feeder->told ? feeder->chunk
							     : tokens - feeder->told;
		drawn_compute(drawn, feeder->told, feeder->told + more);
		feeder->told += more;
		expect_ok(kvx_stream_tokens_ready(feeder->stream, 0, layers, feeder->told));
		break;
	default:
		more = random_between(random, 1, layers - feeder->told);
		feeder->told += more;
		__atomic_fetch_add(&feeder->word, more, __ATOMIC_RELEASE);
	}
	feeder->done = feeder->told == (feeder->manner == BY_TOKENS ? tokens : layers);
	if (feeder->done && !feeder->tail_first)
		tell_tail(trial, feeder);
}

static void tell_all(struct trial *trial, uint64_t *random)
{
	uint32_t left = trial->request.sender_count;
	bool slowly = !random_between(random, 0, 3);

	while (left) {
		struct feeder *feeder =
			&trial->feeders[random_between(random, 0, trial->request.sender_count - 1)];
		if (feeder->done)
			continue;
		tell_more(trial, feeder, random);
		left -= feeder->done;
		if (slowly && !random_between(random, 0, 3))
			drive_for(&trial->crew->drive, 1);
	}
}

/* --- what must have come of it --- */

static void expect_counts(struct trial *trial)
{
	uint32_t arrived, target, layers = trial->end.drawn->geometry.layers;

	for (uint32_t layer = 0; layer < layers; layer++) {
		expect_ok(kvx_grant_count(trial->grant, layer, &arrived, &target));
		cr_assert(target > 0 && target <= KVX_UNITS_MAX);
		cr_assert_eq(arrived, target, "layer %u: %u units of %u", layer, arrived, target);
	}
	if (trial->tail_bytes) {
		expect_ok(kvx_grant_count(trial->grant, KVX_TAIL, &arrived, &target));
		cr_assert(arrived == 1 && target == 1);
	}
}

static uint64_t bytes_sent(const struct crew *crew)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < DRAWN_SENDERS_MAX; i++)
		bytes += stats_of(crew->senders[i]).bytes_sent;
	return bytes;
}

static void expect_bytes(struct trial *trial, const char *expected, uint64_t moved)
{
	const struct drawn_pool *pool = trial->end.drawn;
	struct kvx_stats stats = stats_of(trial->crew->receiver);

	for (uint64_t i = 0; i < pool->bytes; i++)
		cr_assert(pool->memory[i] == expected[i], "byte %llu is wrong",
			  (unsigned long long)i);
	cr_assert_eq(stats.bytes_received - trial->before.bytes_received, moved);
	cr_assert_eq(bytes_sent(trial->crew) - trial->sent_before, moved);
	cr_assert_eq(stats.layers_whole - trial->before.layers_whole, pool->geometry.layers);
	cr_assert_eq(stats.units_late + stats.units_duplicate, 0);
}

static void expect_tail(const struct trial *trial, const char *before)
{
	const char *memory = trial->end.tail_memory;

	for (uint32_t i = 0; before && i < 2 * GUARD + trial->tail_bytes; i++)
		cr_assert_eq(memory[i],
			     i >= GUARD && i - GUARD < trial->tail_bytes ? 0x5a : before[i],
			     "byte %u of the tail's memory", i);
}

/* Waits for the layers in any order; whole layers come before the tail. */
static void expect_complete(struct trial *trial, uint64_t *random)
{
	uint32_t layers = trial->end.drawn->geometry.layers, order[DRAWN_LAYERS_MAX];
	struct drive *drive = &trial->crew->drive;

	if (trial->tail_bytes && coin(random)) {
		expect_ok(wait_grant(drive, trial->grant, KVX_TAIL, PATIENCE_MS));
		for (uint32_t layer = 0; layer < layers; layer++)
			cr_assert_eq(kvx_grant_poll(trial->grant, layer), 1);
	}
	random_table(random, order, 0, layers);
	for (uint32_t i = 0; i < layers; i++)
		expect_ok(wait_grant(drive, trial->grant, order[i], PATIENCE_MS));
	expect_ok(wait_grant(drive, trial->grant, KVX_ALL_LAYERS, PATIENCE_MS));
	for (uint32_t i = 0; i < trial->request.sender_count; i++)
		expect_ok(
			wait_stream(drive, trial->feeders[i].stream, KVX_ALL_LAYERS, PATIENCE_MS));
}

static void close_trial(struct trial *trial, bool grant_first)
{
	if (grant_first)
		kvx_grant_close(trial->grant);
	for (uint32_t i = 0; i < trial->request.sender_count; i++)
		kvx_stream_close(trial->feeders[i].stream);
	if (!grant_first)
		kvx_grant_close(trial->grant);
	for (uint32_t i = 0; i < trial->request.sender_count; i++)
		close_end(&trial->feeders[i].end);
	close_end(&trial->end);
}

static void run_trial(struct crew *crew, uint64_t *random)
{
	struct trial trial = {.crew = crew};
	uint32_t order[DRAWN_SENDERS_MAX];
	char *tail_before = NULL;
	uint64_t moved;

	drawn_request(&trial.request, random);
	trial.pulled = coin(random);
	moving = &trial;
	trial.before = stats_of(crew->receiver);
	trial.sent_before = bytes_sent(crew);
	trial.tail_bytes =
		coin(random) ? 0 : 4 * random_between(random, 1, coin(random) ? 16 : 999);
	trial.tail_sender = random_between(random, 0, trial.request.sender_count - 1);
	open_grant(&trial, random);
	char *expected = drawn_expected(&trial.request, &moved);
	if (trial.end.tail_memory) {
		tail_before = malloc(2 * GUARD + trial.tail_bytes);
		memcpy(tail_before, trial.end.tail_memory, 2 * GUARD + trial.tail_bytes);
	} else if (trial.tail_bytes) {
		memset(expected + trial.end.tail.offset, 0x5a, trial.tail_bytes);
	}
	random_table(random, order, 0, trial.request.sender_count);
	for (uint32_t i = 0; i < trial.request.sender_count; i++)
		open_stream(&trial, order[i], random);
	bool late = trial.pulled && coin(random); /* all is ready before */
	if (trial.pulled && !late)
		pull_all(&trial, random);
	tell_all(&trial, random);
	if (late)
		pull_all(&trial, random);
	expect_complete(&trial, random);
	expect_counts(&trial);
	expect_bytes(&trial, expected, moved + trial.tail_bytes);
	expect_tail(&trial, tail_before);
	close_trial(&trial, coin(random));
	free(expected);
	free(tail_before);
	moving = NULL;
	drawn_free(&trial.request);
}

static void run_trials(const struct way *way, uint32_t count)
{
	uint64_t random = random_seed();

	for (uint32_t staging = 0; staging < MANNERS_OF_STAGING; staging++) {
		struct crew crew = {.way = way};
		crew.receiver = engine_open(&crew.drive, way, "receiver", options[staging]);
		for (uint32_t i = 0; i < DRAWN_SENDERS_MAX; i++)
			crew.senders[i] = engine_open(&crew.drive, way, "sender", options[staging]);
		for (uint32_t i = 0; i < count / MANNERS_OF_STAGING; i++)
			run_trial(&crew, &random);
		for (uint32_t i = 0; i < DRAWN_SENDERS_MAX; i++)
			engine_close(&crew.drive, crew.senders[i]);
		engine_close(&crew.drive, crew.receiver);
	}
}

#define DRAWS_TEST(suite, transport, caller, count)                                      \
	Test(suite, every_byte_of_drawn_requests_lands_where_it_belongs, .timeout = 120, \
	     .fini = tell_what_failed)                                                   \
	{                                                                                \
		run_trials(&(struct way){transport, caller}, count);                     \
	}

DRAWS_TEST(loop, "loop", false, REPEATED(3000))
DRAWS_TEST(loop_caller, "loop", true, REPEATED(3000))
DRAWS_TEST(shm, "shm", false, REPEATED(500))
DRAWS_TEST(shm_caller, "shm", true, REPEATED(500))
DRAWS_TEST(tcp, "tcp", false, REPEATED(500))
DRAWS_TEST(tcp_caller, "tcp", true, REPEATED(500))
DRAWS_TEST(verbs, "verbs", false, REPEATED(300))
DRAWS_TEST(verbs_caller, "verbs", true, REPEATED(300))
