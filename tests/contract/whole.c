/* SPDX-License-Identifier: Apache-2.0 */
/* 1. Complete means whole. */
#include "support/pair.h"

#include <pthread.h>
#include <stdatomic.h>

static const struct kvx_geometry geometry = {.layers = 12,
					     .planes = 2,
					     .blocks = 96,
					     .block_bytes = 12288,
					     .block_tokens = 16,
					     .dtype = "bf16"};

static const char *const options[] = {"unit_bytes=65536", "tcp_connections=4", NULL};

/* Each layer is checked the moment its counter says that it is whole, while later ones come. The
 * blocks hold the previous request's bytes, so what is missing shows. */
static void run_requests(struct pair *pair, enum table kind)
{
	struct request request;

	for (uint64_t id = 1; id <= 5; id++) {
		request_open(&request, pair, id, 0, geometry.blocks, kind);
		request_run(&request);
		request_close(&request);
	}
}

EACH_WAY_TEST(contract_1__a_whole_layer_is_right_while_later_ones_are_in_flight)
{
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	run_requests(&pair, TABLE_RANDOM);
	pair_close(&pair);
}

EACH_WAY_TEST(contract_1__a_whole_layer_is_right_where_blocks_follow_each_other)
{
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	run_requests(&pair, TABLE_IDENTITY);
	pair_close(&pair);
}

EACH_WAY_TEST(contract_1__a_whole_layer_is_right_in_plain_memory_with_strides)
{
	struct pair pair;

	pair_open_engines(&pair, way, options);
	pair.geometry = geometry;
	pair.from = pool_over_memory(pair.sender, &geometry, geometry.block_bytes + 4096);
	pair.to = pool_interleaved(pair.receiver, &geometry, geometry.planes);
	run_requests(&pair, TABLE_RANDOM);
	pair_close(&pair);
}

/* Over one-sided transports several layers leave together. */
EACH_WAY_TEST(contract_1__a_whole_layer_is_right_where_layers_lie_side_by_side)
{
	uint32_t tensors = geometry.layers * geometry.planes;
	struct pair pair;

	pair_open_engines(&pair, way, options);
	pair.geometry = geometry;
	pair.from = pool_interleaved(pair.sender, &geometry, tensors);
	pair.to = pool_interleaved(pair.receiver, &geometry, tensors);
	run_requests(&pair, TABLE_RANDOM);
	pair_close(&pair);
}

#define AT_ONCE 6u

EACH_WAY_TEST(contract_1__whole_layers_of_requests_side_by_side_are_right)
{
	struct request requests[AT_ONCE];
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	for (uint32_t i = 0; i < AT_ONCE; i++)
		request_open(&requests[i], &pair, 100 + i, i * geometry.blocks / AT_ONCE,
			     geometry.blocks / AT_ONCE, TABLE_RANDOM);
	for (uint32_t i = 0; i < AT_ONCE; i++)
		expect_ok(kvx_stream_layers_ready(requests[i].stream, 0, geometry.layers));
	for (uint32_t layer = 0; layer < geometry.layers; layer++)
		for (uint32_t i = 0; i < AT_ONCE; i++)
			request_expect_layer(&requests[i], layer);
	for (uint32_t i = 0; i < AT_ONCE; i++)
		request_close(&requests[i]);
	pair_close(&pair);
}

/* A reader that polls from a thread of its own, without any other synchronisation. */
struct reader {
	struct request *request;
	atomic_uint wrong;
};

static void *read_layers(void *argument)
{
	struct reader *reader = argument;
	struct request *request = reader->request;
	int64_t deadline_ms = now_ms() + PATIENCE_MS;

	for (uint32_t layer = geometry.layers; layer-- > 0;) {
		int result = 0;
		while (!result && now_ms() < deadline_ms)
			result = kvx_grant_poll(request->grant, layer);
		if (result != 1 || pattern_wrong(request->pair->to, &geometry, request->id, layer,
						 request->to, request->count))
			atomic_fetch_add(&reader->wrong, 1);
	}
	return NULL;
}

EACH_TRANSPORT_TEST(contract_1__a_whole_layer_is_visible_to_any_thread_that_polls)
{
	struct request request;
	struct reader reader = {.request = &request};
	struct pair pair;
	pthread_t thread;

	pair_open(&pair, way, &geometry, options);
	request_open(&request, &pair, 7, 0, geometry.blocks, TABLE_RANDOM);
	cr_assert_eq(pthread_create(&thread, NULL, read_layers, &reader), 0);
	for (uint32_t layer = geometry.layers; layer-- > 0;) {
		expect_ok(kvx_stream_layers_ready(request.stream, layer, 1));
		sleep_ms(1);
	}
	pthread_join(thread, NULL);
	cr_assert_eq(reader.wrong, 0, "%u layers were not whole", reader.wrong);
	request_close(&request);
	pair_close(&pair);
}
