/* SPDX-License-Identifier: Apache-2.0 */
/* Many at once: grants, streams, engines. */
#include "support/pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANY 1000u

EACH_WAY_TEST(a_thousand_requests_open_at_once)
{
	const struct kvx_geometry geometry = {
		.layers = 4, .planes = 2, .blocks = 2 * MANY, .block_bytes = 256};
	struct request *requests = calloc(MANY, sizeof(*requests));
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	for (uint32_t i = 0; i < MANY; i++)
		request_open(&requests[i], &pair, i, 2 * i, 2, TABLE_RANDOM);
	for (uint32_t layer = 0; layer < geometry.layers; layer++)
		for (uint32_t i = MANY; i-- > 0;)
			expect_ok(kvx_stream_layers_ready(requests[i].stream, layer, 1));
	for (uint32_t i = 0; i < MANY; i++)
		request_run(&requests[i]);
	cr_assert_eq(stats_of(pair.receiver).grants_completed, MANY);
	cr_assert_eq(stats_of(pair.sender).streams_completed, MANY);
	for (uint32_t i = 0; i < MANY; i++)
		request_close(&requests[i]);
	pair_close(&pair);
	free(requests);
}

Test(crowd, grants_are_as_many_as_there_can_be)
{
	const struct kvx_geometry geometry = {
		.layers = 1, .planes = 1, .blocks = KVX_GRANTS_MAX + 1, .block_bytes = 4};
	struct kvx_grant **grants = calloc(KVX_GRANTS_MAX, sizeof(struct kvx_grant *)), *more;
	struct way way = {"loop", true};
	struct pair pair;

	pair_open(&pair, &way, &geometry, NULL);
	for (uint32_t i = 0; i < KVX_GRANTS_MAX; i++)
		expect_ok(kvx_grant_open(pair.to, &i, 1, NULL, 60000, &grants[i]));
	uint32_t last = KVX_GRANTS_MAX;
	expect_fail(kvx_grant_open(pair.to, &last, 1, NULL, 60000, &more), KVX_E_LIMIT, "grant",
		    "4096");
	kvx_grant_close(grants[17]);
	expect_ok(kvx_grant_open(pair.to, &last, 1, NULL, 60000, &grants[17]));
	for (uint32_t i = 0; i < KVX_GRANTS_MAX; i++)
		kvx_grant_close(grants[i]);
	pair_close(&pair);
	free(grants);
}

#define PEERS 64u

EACH_WAY_TEST(sixty_four_engines_feed_one)
{
	const struct kvx_geometry geometry = {
		.layers = 3, .planes = 2, .blocks = 4 * PEERS, .block_bytes = 1024};
	struct request *requests = calloc(PEERS, sizeof(*requests));
	struct pair *pairs = calloc(PEERS, sizeof(*pairs));
	struct pair hub;

	pair_open(&hub, way, &geometry, NULL);
	for (uint32_t i = 0; i < PEERS; i++) {
		char name[16];
		snprintf(name, sizeof(name), "peer-%u", i);
		pairs[i] = hub;
		pairs[i].sender = engine_open(&hub.drive, way, name, NULL);
		expect_ok(kvx_pool_alloc(pairs[i].sender, &geometry, &pairs[i].from));
		request_open(&requests[i], &pairs[i], i, 4 * i, 4, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(requests[i].stream, 0, geometry.layers));
	}
	for (uint32_t i = 0; i < PEERS; i++) {
		pairs[i].drive = hub.drive;
		request_run(&requests[i]);
	}
	for (uint32_t i = 0; i < PEERS; i++) {
		request_close(&requests[i]);
		engine_close(&hub.drive, pairs[i].sender);
	}
	pair_close(&hub);
	free(requests);
	free(pairs);
}

/* Names are for people: what tells engines apart is their incarnation. */
EACH_WAY_TEST(two_engines_of_one_name_are_two_peers)
{
	const struct kvx_geometry geometry = {
		.layers = 3, .planes = 2, .blocks = 16, .block_bytes = 1024};
	struct request first, second;
	struct kvx_engine *twin;
	struct pair pair, other;

	pair_open(&pair, way, &geometry, NULL);
	twin = engine_open(&pair.drive, way, "receiver", NULL);
	other = pair;
	other.receiver = twin;
	expect_ok(kvx_pool_alloc(twin, &geometry, &other.to));
	cr_assert_neq(kvx_engine_incarnation(twin), kvx_engine_incarnation(pair.receiver));
	request_open(&first, &pair, 1, 0, 8, TABLE_RANDOM);
	request_open(&second, &other, 2, 8, 8, TABLE_RANDOM);
	request_run(&first);
	request_run(&second);
	request_close(&first);
	request_close(&second);
	engine_close(&pair.drive, twin);
	pair_expect_works(&pair, 3);
	pair_close(&pair);
}

/* Each engine sends to the other and receives from it. */
EACH_WAY_TEST(both_directions_at_once)
{
	const struct kvx_geometry geometry = {
		.layers = 6, .planes = 2, .blocks = 64, .block_bytes = 4096};
	struct request there, back;
	struct pair pair, mirror;

	pair_open(&pair, way, &geometry, NULL);
	mirror = pair;
	mirror.sender = pair.receiver;
	mirror.receiver = pair.sender;
	expect_ok(kvx_pool_alloc(mirror.sender, &geometry, &mirror.from));
	expect_ok(kvx_pool_alloc(mirror.receiver, &geometry, &mirror.to));
	for (uint64_t id = 1; id <= 3; id++) {
		request_open(&there, &pair, id, 0, 64, TABLE_RANDOM);
		request_open(&back, &mirror, 100 + id, 0, 64, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(there.stream, 0, geometry.layers));
		request_run(&back);
		request_run(&there);
		request_close(&back);
		request_close(&there);
	}
	pair_close(&pair);
}
