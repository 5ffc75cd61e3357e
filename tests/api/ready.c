/* SPDX-License-Identifier: Apache-2.0 */
/* How a sender says that layers are ready: by calls and by a watched word. */
#include "support/pair.h"

#include <pthread.h>
#include <time.h>

static const struct kvx_geometry geometry = {
	.layers = 130, .planes = 1, .blocks = 16, .block_bytes = 1024};

static void open(struct pair *pair, struct request *request, const struct way *way)
{
	pair_open(pair, way, &geometry, NULL);
	request_open(request, pair, 1, 0, geometry.blocks, TABLE_RANDOM);
}

static void expect_all(struct pair *pair, struct request *request)
{
	for (uint32_t layer = 0; layer < geometry.layers; layer++)
		request_expect_layer(request, layer);
	expect_ok(wait_stream(&pair->drive, request->stream, KVX_ALL_LAYERS, PATIENCE_MS));
	cr_assert_eq(stats_of(pair->receiver).units_received,
		     geometry.layers * request_units(request, 1));
	cr_assert_eq(stats_of(pair->receiver).units_duplicate, 0);
}

static void close_both(struct pair *pair, struct request *request)
{
	request_close(request);
	pair_close(pair);
}

EACH_WAY_TEST(layers_may_be_ready_in_any_order)
{
	struct request request;
	struct pair pair;

	open(&pair, &request, way);
	for (uint32_t layer = geometry.layers; layer-- > 0;) {
		expect_ok(kvx_stream_layers_ready(request.stream, layer, 1));
		if (layer % 32 == 0)
			request_expect_layer(&request, layer);
	}
	expect_all(&pair, &request);
	close_both(&pair, &request);
}

EACH_WAY_TEST(telling_a_layer_twice_does_nothing)
{
	struct request request;
	struct pair pair;

	open(&pair, &request, way);
	for (uint32_t layer = 0; layer < geometry.layers; layer++) {
		expect_ok(kvx_stream_layers_ready(request.stream, layer, 1));
		expect_ok(kvx_stream_layers_ready(request.stream, 0, layer + 1));
	}
	expect_all(&pair, &request);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
	close_both(&pair, &request);
}

/* A layer that is not ready is not sent, whatever its neighbours are. */
EACH_WAY_TEST(only_ready_layers_are_sent)
{
	struct request request;
	struct pair pair;

	open(&pair, &request, way);
	expect_ok(kvx_stream_layers_ready(request.stream, 1, 62));
	expect_ok(kvx_stream_layers_ready(request.stream, 65, 64));
	for (uint32_t layer = 1; layer < 129; layer++)
		if (layer != 63 && layer != 64)
			request_expect_layer(&request, layer);
	drive_for(&pair.drive, 20);
	cr_assert_eq(kvx_grant_poll(request.grant, 0), 0);
	cr_assert_eq(kvx_grant_poll(request.grant, 63), 0);
	cr_assert_eq(kvx_grant_poll(request.grant, 64), 0);
	cr_assert_eq(kvx_grant_poll(request.grant, 129), 0);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
	expect_all(&pair, &request);
	close_both(&pair, &request);
}

#define TELLERS 4u

struct teller {
	struct kvx_stream *stream;
	uint32_t first;
	int failures;
};

static void *tell_layers(void *argument)
{
	struct teller *teller = argument;

	for (uint32_t layer = teller->first; layer < geometry.layers; layer += TELLERS)
		teller->failures += kvx_stream_layers_ready(teller->stream, layer, 1) != 0;
	return NULL;
}

EACH_WAY_TEST(many_threads_may_tell)
{
	struct teller tellers[TELLERS];
	pthread_t threads[TELLERS];
	struct request request;
	struct pair pair;

	open(&pair, &request, way);
	for (uint32_t i = 0; i < TELLERS; i++) {
		tellers[i] = (struct teller){request.stream, i, 0};
		cr_assert_eq(pthread_create(&threads[i], NULL, tell_layers, &tellers[i]), 0);
	}
	expect_all(&pair, &request);
	for (uint32_t i = 0; i < TELLERS; i++) {
		pthread_join(threads[i], NULL);
		cr_assert_eq(tellers[i].failures, 0);
	}
	close_both(&pair, &request);
}

/* --- the watched word --- */

struct device {
	uint32_t word;
	uint32_t step;
};

/* Stores as a device would: from elsewhere, skipping values where it is fast. */
static void *count_up(void *argument)
{
	struct device *device = argument;

	for (uint32_t told = 0; told < geometry.layers;) {
		uint32_t step = device->step;
		if (step > geometry.layers - told)
			step = geometry.layers - told;
		told += step;
		__atomic_fetch_add(&device->word, step, __ATOMIC_RELEASE);
		nanosleep(&(struct timespec){0, 20000}, NULL);
	}
	return NULL;
}

static void run_watched(const struct way *way, uint32_t begin, uint32_t step)
{
	struct device device = {begin, step};
	struct request request;
	struct pair pair;
	pthread_t thread;

	open(&pair, &request, way);
	expect_ok(kvx_stream_watch(request.stream, &device.word));
	drive_for(&pair.drive, 5);
	cr_assert_eq(kvx_grant_poll(request.grant, 0), 0, "the first value stands for no layer");
	cr_assert_eq(pthread_create(&thread, NULL, count_up, &device), 0);
	expect_all(&pair, &request);
	pthread_join(thread, NULL);
	close_both(&pair, &request);
}

EACH_WAY_TEST(a_watched_word_tells_layers_in_order)
{
	run_watched(way, 0, 1);
}

EACH_WAY_TEST(a_watched_word_may_skip_values)
{
	run_watched(way, 1000, 7);
}

EACH_WAY_TEST(a_watched_word_may_wrap_around)
{
	run_watched(way, UINT32_MAX - 60, 3);
}

EACH_WAY_TEST(a_watched_word_is_not_watched_past_the_last_layer)
{
	struct device device = {UINT32_MAX, 0};
	struct request request;
	struct pair pair;

	open(&pair, &request, way);
	expect_ok(kvx_stream_watch(request.stream, &device.word));
	__atomic_fetch_add(&device.word, 1000, __ATOMIC_RELEASE);
	expect_all(&pair, &request);
	__atomic_fetch_add(&device.word, 1000, __ATOMIC_RELEASE);
	drive_for(&pair.drive, 20);
	close_both(&pair, &request);
}

Test(ready, words_that_cannot_be_watched_are_refused)
{
	struct way way = {"loop", true};
	_Alignas(8) char memory[16] = {0};
	uint32_t *unaligned = (void *)(memory + 2), *word = (void *)memory;
	struct request request;
	struct pair pair;

	open(&pair, &request, &way);
	expect_fail(kvx_stream_watch(request.stream, NULL), KVX_E_INVALID, "stream", "NULL");
	expect_fail(kvx_stream_watch(request.stream, unaligned), KVX_E_INVALID, "stream",
		    "aligned");
	expect_ok(kvx_stream_watch(request.stream, word));
	expect_fail(kvx_stream_watch(request.stream, word), KVX_E_INVALID, "stream", "already");
	close_both(&pair, &request);
}
