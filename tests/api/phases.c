/* SPDX-License-Identifier: Apache-2.0 */
/* Ending things in every phase of their lives. */
#include "support/pair.h"

#include <stdlib.h>
#include <string.h>

static const struct kvx_geometry geometry = {
	.layers = 4, .planes = 2, .blocks = 64, .block_bytes = 8192};

static const char *const options[] = {"unit_bytes=32768", NULL};

enum phase { OPENED, CONNECTING, ACCEPTED, MIDWAY, COMPLETE, PHASES };

static bool is_accepted(void *grant)
{
	uint32_t arrived, target;

	expect_ok(kvx_grant_count(grant, 0, &arrived, &target));
	return target > 0;
}

/* Opens a request and brings it to a phase, about. */
static void reach(struct pair *pair, struct request *request, uint64_t id, enum phase phase)
{
	request_open(request, pair, id, 0, geometry.blocks, TABLE_RANDOM);
	if (phase == CONNECTING)
		drive_step(&pair->drive);
	if (phase >= ACCEPTED)
		cr_assert(drive_until(&pair->drive, is_accepted, request->grant, PATIENCE_MS));
	if (phase == MIDWAY)
		expect_ok(kvx_stream_layers_ready(request->stream, 0, 3));
	if (phase == COMPLETE)
		request_run(request);
	else if (phase == MIDWAY)
		request_expect_layer(request, 0);
}

static int expected(enum phase phase, int code)
{
	return phase == COMPLETE ? 0 : code;
}

EACH_WAY_TEST(a_stream_can_be_cancelled_in_every_phase)
{
	struct request request;
	struct pair pair;

	for (enum phase phase = OPENED; phase < PHASES; phase++) {
		pair_open(&pair, way, &geometry, options);
		reach(&pair, &request, phase, phase);
		kvx_stream_cancel(request.stream);
		kvx_stream_cancel(request.stream);
		cr_assert_eq(wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, 0),
			     expected(phase, KVX_E_CANCELLED), "phase %d", phase);
		if (phase >= ACCEPTED)
			cr_assert_eq(
				wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
				expected(phase, KVX_E_CANCELLED), "phase %d", phase);
		request_close(&request);
		pair_expect_works(&pair, 100);
		pair_close(&pair);
	}
}

EACH_WAY_TEST(a_stream_can_be_closed_in_every_phase)
{
	struct request request;
	struct pair pair;

	for (enum phase phase = OPENED; phase < PHASES; phase++) {
		pair_open(&pair, way, &geometry, options);
		reach(&pair, &request, phase, phase);
		kvx_stream_close(request.stream);
		request.stream = NULL;
		if (phase >= ACCEPTED)
			cr_assert_eq(
				wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
				expected(phase, KVX_E_CANCELLED), "phase %d", phase);
		request_close(&request);
		pair_expect_works(&pair, 100);
		pair_close(&pair);
	}
}

EACH_WAY_TEST(a_grant_can_be_closed_in_every_phase)
{
	struct request request;
	struct pair pair;

	for (enum phase phase = OPENED; phase < PHASES; phase++) {
		pair_open(&pair, way, &geometry, options);
		reach(&pair, &request, phase, phase);
		kvx_grant_close(request.grant);
		request.grant = NULL;
		int result = wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS);
		cr_assert(result == expected(phase, KVX_E_REVOKED) ||
				  (phase < ACCEPTED && result == KVX_E_REFUSED),
			  "phase %d: %s", phase, kvx_error_name(result));
		request_close(&request);
		pair_expect_works(&pair, 100);
		pair_close(&pair);
	}
}

EACH_WAY_TEST(engines_can_be_closed_with_everything_open)
{
	struct request *requests = calloc(PHASES, sizeof(*requests));
	struct kvx_peer *peers[2];
	struct pair pair;

	for (int receiver_first = 0; receiver_first < 2; receiver_first++) {
		pair_open(&pair, way, &geometry, options);
		for (uint32_t i = 0; i < PHASES; i++) {
			request_open(&requests[i], &pair, i, i * 12, 12, TABLE_RANDOM);
			expect_ok(kvx_stream_layers_ready(requests[i].stream, 0, i ? i : 1));
		}
		expect_ok(kvx_peer_connect(pair.sender, kvx_engine_address(pair.receiver),
					   &peers[0]));
		expect_ok(kvx_peer_connect(pair.receiver, kvx_engine_address(pair.sender),
					   &peers[1]));
		request_expect_layer(&requests[0], 0);
		engine_close(&pair.drive, receiver_first ? pair.receiver : pair.sender);
		drive_for(&pair.drive, 20);
		engine_close(&pair.drive, receiver_first ? pair.sender : pair.receiver);
		for (uint32_t i = 0; i < PHASES; i++)
			request_free(&requests[i]);
	}
	free(requests);
}

EACH_WAY_TEST(an_engine_can_be_closed_right_after_it_opened)
{
	struct drive drive = {0};

	for (int round = 0; round < 5; round++)
		engine_close(&drive, engine_open(&drive, way, "brief", NULL));
	kvx_engine_close(NULL);
}

EACH_WAY_TEST(a_peer_handle_can_be_closed_in_every_phase)
{
	struct kvx_peer *peer;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	for (enum phase phase = OPENED; phase <= ACCEPTED; phase++) {
		expect_ok(kvx_peer_connect(pair.sender, kvx_engine_address(pair.receiver), &peer));
		if (phase == CONNECTING)
			drive_step(&pair.drive);
		if (phase == ACCEPTED) {
			struct kvx_peer_info info;
			expect_ok(wait_peer(&pair.drive, peer, PATIENCE_MS));
			kvx_peer_info(peer, &info);
			cr_assert_str_eq(info.name, "receiver");
			cr_assert_eq(info.incarnation, kvx_engine_incarnation(pair.receiver));
			cr_assert_eq(info.state, KVX_PEER_UP);
			cr_assert_str_eq(info.transport, way->transport);
			cr_assert(info.rails > 0 && info.why[0]);
		}
		kvx_peer_close(peer);
	}
	kvx_peer_close(NULL);
	pair_expect_works(&pair, 1);
	pair_close(&pair);
}

/* --- in use --- */

EACH_WAY_TEST(pools_and_regions_in_use_are_busy)
{
	struct request request;
	struct kvx_region *region;
	struct kvx_pool *pool;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_open(&request, &pair, 1, 0, 8, TABLE_RANDOM);
	expect_fail(kvx_pool_close(pair.from), KVX_E_BUSY, "pool", "1 grants or streams", "close");
	expect_fail(kvx_pool_close(pair.to), KVX_E_BUSY, "pool", "close");
	request_run(&request);
	expect_fail(kvx_pool_close(pair.to), KVX_E_BUSY, "pool", "close");
	request_close(&request);
	expect_ok(kvx_pool_close(pair.from));
	expect_ok(kvx_pool_close(pair.to));
	expect_ok(kvx_pool_close(NULL));
	expect_ok(region_alloc(pair.sender, 2 * 4 * 64 * 8192, &region));
	struct kvx_tensor tensor = {region, 0, 0};
	struct kvx_geometry flat = {.layers = 1, .planes = 1, .blocks = 64, .block_bytes = 8192};
	expect_ok(kvx_pool_open(pair.sender, &flat, &tensor, &pool));
	expect_fail(kvx_region_close(region), KVX_E_BUSY, "region", "close the pools");
	expect_ok(kvx_pool_close(pool));
	expect_ok(kvx_region_close(region));
	expect_ok(kvx_region_close(NULL));
	pair_close(&pair);
}

/* Memory that goes and comes again at the same addresses is not taken for the old one. */
EACH_WAY_TEST(pools_may_come_and_go_while_the_peers_stay)
{
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	for (uint64_t round = 1; round <= 5; round++) {
		pair_expect_works(&pair, round);
		expect_ok(kvx_pool_close(pair.from));
		expect_ok(kvx_pool_close(pair.to));
		expect_ok(pool_alloc(pair.sender, &geometry, &pair.from));
		expect_ok(pool_alloc(pair.receiver, &geometry, &pair.to));
	}
	cr_assert_eq(stats_of(pair.sender).peers_lost, 0);
	pair_close(&pair);
}
