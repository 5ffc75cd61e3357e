/* SPDX-License-Identifier: Apache-2.0 */
/* 2. No late byte. */
#include "support/pair.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS REPEATED(120u)
#define ROUND_BLOCKS 8u
#define MARK 0xa5

static const struct kvx_geometry geometry = {
	.layers = 8, .planes = 2, .blocks = ROUNDS * ROUND_BLOCKS, .block_bytes = 4096};

static const char *const options[] = {"unit_bytes=16384", "tcp_connections=4", "drain_ms=20", NULL};

enum ending { REVOKE, CLOSE };

static int64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Lets some of the bytes move: a number of steps, or a time. */
static void let_some_move(struct pair *pair, uint64_t *random)
{
	if (pair->way->caller) {
		for (uint64_t steps = random_next(random) % 40; steps > 0; steps--)
			drive_step(&pair->drive);
		return;
	}
	/* A sleep would be longer than a whole request. */
	int64_t until_ns = clock_ns() + (int64_t)(random_next(random) % 300000);
	while (clock_ns() < until_ns)
		sched_yield();
}

/* Ends the grant at a random moment; the blocks are the receiver's from then on. */
static void end_midway(struct pair *pair, struct request *request, uint32_t round,
		       enum ending ending, uint64_t *random)
{
	request_open(request, pair, round, round * ROUND_BLOCKS, ROUND_BLOCKS, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(request->stream, 0, geometry.layers));
	let_some_move(pair, random);
	if (ending == REVOKE) {
		/* Nobody drives the sender meanwhile, so that it does not stop by itself. */
		expect_ok(kvx_grant_revoke(request->grant, pair->way->caller ? 20 : 1000));
	} else {
		kvx_grant_close(request->grant);
		request->grant = NULL;
	}
	blocks_set(pair->to, &geometry, request->to, request->count, MARK);
}

/* Whatever was under way has had its time. The pattern of every round is as it was set. */
static void expect_untouched(struct pair *pair, struct request *requests)
{
	uint64_t changed = 0;

	drive_for(&pair->drive, 1000);
	for (uint32_t round = 0; round < ROUNDS; round++)
		changed += blocks_changed(pair->to, &geometry, requests[round].to,
					  requests[round].count, MARK);
	cr_assert_eq(changed, 0, "%llu bytes landed late", (unsigned long long)changed);
}

/* How each stream ended: delivered just before, or told why. */
static uint32_t count_ended(struct pair *pair, struct request *requests)
{
	uint32_t ended = 0;

	for (uint32_t round = 0; round < ROUNDS; round++) {
		int result = wait_stream(&pair->drive, requests[round].stream, KVX_ALL_LAYERS,
					 PATIENCE_MS);
		cr_assert(result == 0 || result == KVX_E_REVOKED || result == KVX_E_REFUSED,
			  "%s: %s", kvx_error_name(result), kvx_error_text());
		ended += result != 0;
	}
	return ended;
}

static void run_rounds(const struct way *way, enum ending ending)
{
	struct request *requests = calloc(ROUNDS, sizeof(*requests));
	uint64_t random = random_seed();
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	for (uint32_t round = 0; round < ROUNDS; round++)
		end_midway(&pair, &requests[round], round, ending, &random);
	expect_untouched(&pair, requests);
	cr_assert(count_ended(&pair, requests) > 0, "nothing was under way when the grants ended");
	for (uint32_t round = 0; round < ROUNDS; round++)
		request_close(&requests[round]);
	pair_expect_works(&pair, 1000);
	pair_close(&pair);
	free(requests);
}

EACH_WAY_TEST(contract_2__no_late_byte_after_revoke)
{
	run_rounds(way, REVOKE);
}

EACH_WAY_TEST(contract_2__no_late_byte_after_close)
{
	run_rounds(way, CLOSE);
}

/* One large request whose transfer is surely under way, with the slot reused at once: a late byte
 * would be counted for the next grant or land in its blocks. */
EACH_WAY_TEST(contract_2__blocks_are_the_next_grants_at_once)
{
	struct request first, second;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	for (uint64_t round = 0; round < 10; round++) {
		request_open(&first, &pair, 2 * round, 0, geometry.blocks, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(first.stream, 0, geometry.layers));
		expect_ok(wait_grant(&pair.drive, first.grant, 0, PATIENCE_MS));
		kvx_grant_close(first.grant);
		first.grant = NULL;
		kvx_stream_cancel(first.stream); /* its blocks are filled anew */
		request_open(&second, &pair, 2 * round + 1, 0, geometry.blocks, TABLE_RANDOM);
		request_run(&second);
		request_close(&second);
		request_close(&first);
	}
	pair_close(&pair);
}

EACH_WAY_TEST(contract_2__the_fence_holds_when_the_grant_had_ended_already)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_open(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
	expect_ok(wait_grant(&pair.drive, request.grant, 0, PATIENCE_MS));
	kvx_stream_cancel(request.stream);
	int result = wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert(result == KVX_E_CANCELLED || result == 0, "%s", kvx_error_name(result));
	expect_ok(kvx_grant_revoke(request.grant, 0));
	expect_ok(kvx_grant_revoke(request.grant, 0));
	blocks_set(pair.to, &geometry, request.to, request.count, MARK);
	drive_for(&pair.drive, 100);
	cr_assert_eq(blocks_changed(pair.to, &geometry, request.to, request.count, MARK), 0);
	request_close(&request);
	pair_close(&pair);
}

/* The other direction: what the sender took back is not read into a layer that counts as whole. */
EACH_WAY_TEST(contract_2__a_cancelled_sender_may_reuse_its_blocks)
{
	uint64_t random = random_seed();
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	pair_expect_works(&pair, 1000); /* so that each stream is presented before its end */
	for (uint64_t round = 0; round < ROUNDS; round++) {
		request_open(&request, &pair, round, 0, 8 * ROUND_BLOCKS, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
		let_some_move(&pair, &random);
		kvx_stream_cancel(request.stream);
		blocks_set(pair.from, &geometry, request.from, request.count, MARK);
		int result = wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
		cr_assert(result == 0 || result == KVX_E_CANCELLED, "%s", kvx_error_name(result));
		for (uint32_t layer = 0; layer < geometry.layers; layer++)
			if (kvx_grant_poll(request.grant, layer) == 1)
				cr_assert_eq(pattern_wrong(pair.to, &geometry, round, layer,
							   request.to, request.count),
					     0, "round %d: layer %u", (int)round, layer);
		request_close(&request);
	}
	pair_close(&pair);
}
