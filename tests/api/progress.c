/* SPDX-License-Identifier: Apache-2.0 */
/* Who drives the engine, and what a caller can sleep on. */
#include "support/pair.h"
#include "support/sockets.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct kvx_geometry geometry = {
	.layers = 4, .planes = 2, .blocks = 16, .block_bytes = 4096};

static const struct way ways[] = {{"loop", true}, {"shm", true}, {"tcp", true}};

Test(progress, caller_driven_engines_make_no_thread, .timeout = 60)
{
	uint32_t threads = count_threads();
	struct pair pair;

	for (int i = 0; i < 3; i++) {
		pair_open(&pair, &ways[i], &geometry, NULL);
		pair_expect_works(&pair, 1);
		cr_assert_eq(count_threads(), threads);
		pair_close(&pair);
	}
}

Test(progress, engines_with_threads_have_one_each_and_end_it)
{
	struct way way = {"tcp", false};
	struct drive none = {0};
	struct pair pair;

	/* A sanitizer starts a thread of its own beside the first. */
	engine_close(&none, engine_open(&none, &way, "first", NULL));
	uint32_t threads = count_threads(), descriptors = count_descriptors();
	pair_open(&pair, &way, &geometry, NULL);
	cr_assert_eq(count_threads(), threads + 2);
	pair_expect_works(&pair, 1);
	cr_assert_eq(count_threads(), threads + 2);
	pair_close(&pair);
	cr_assert_eq(count_threads(), threads);
	cr_assert_eq(count_descriptors(), descriptors);
}

EACH_WAY_TEST(a_closed_engine_leaves_no_descriptor)
{
	uint32_t descriptors = count_descriptors();
	struct pair pair;

	for (uint64_t round = 0; round < 3; round++) {
		pair_open(&pair, way, &geometry, NULL);
		pair_expect_works(&pair, round);
		pair_close(&pair);
		cr_assert_eq(count_descriptors(), descriptors);
	}
}

Test(progress, driving_an_engine_that_has_a_thread_is_refused)
{
	struct way way = {"tcp", false};
	struct drive none = {0};
	struct kvx_engine *engine = engine_open(&none, &way, "threaded", NULL);

	expect_fail(kvx_engine_progress(engine), KVX_E_INVALID, "threaded", "progress=caller");
	cr_assert_eq(kvx_engine_fd(engine), -1);
	engine_close(&none, engine);
}

Test(progress, the_environment_sets_options)
{
	struct kvx_options *options;

	setenv("KVX_PROGRESS", "caller", 1);
	setenv("KVX_NAME", "from-environment", 1);
	setenv("KVX_TRANSPORTS", "loop", 1);
	struct kvx_engine *engine;
	expect_ok(kvx_engine_open(NULL, &engine));
	cr_assert_str_eq(kvx_engine_name(engine), "from-environment");
	cr_assert_eq(kvx_engine_progress(engine) >= 0, 1);
	kvx_engine_close(engine);
	setenv("KVX_HEARTBEAT_MS", "soon", 1);
	expect_fail(kvx_options_new(&options), KVX_E_INVALID, "KVX_HEARTBEAT_MS", "soon");
}

/* An engine that is only driven when its descriptor or its timeout says so. */
static void attend(struct kvx_engine *engine, struct kvx_engine *other)
{
	struct pollfd descriptors[] = {{kvx_engine_fd(engine), POLLIN, 0},
				       {kvx_engine_fd(other), POLLIN, 0}};
	int timeout_ms = kvx_engine_timeout_ms(engine);

	if (kvx_engine_timeout_ms(other) < timeout_ms)
		timeout_ms = kvx_engine_timeout_ms(other);
	cr_assert(timeout_ms >= 0 && timeout_ms <= 1000);
	int ready = poll(descriptors, 2, timeout_ms);
	while (descriptors[0].revents && kvx_engine_progress(engine) > 0)
		;
	while (descriptors[1].revents && kvx_engine_progress(other) > 0)
		;
	if (ready == 0) {
		expect_ok(kvx_engine_progress(engine));
		expect_ok(kvx_engine_progress(other));
	}
}

/* A wake-up that got lost would cost a nap of up to 100 ms each time. */
static void run_by_descriptors(const char *transport)
{
	struct way way = {transport, true};
	struct request request;
	struct pair pair;

	pair_open(&pair, &way, &geometry, NULL);
	int64_t begin_ms = now_ms();
	for (uint64_t id = 1; id <= 100; id++) {
		request_open(&request, &pair, id, 0, 4, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
		while (kvx_stream_poll(request.stream, KVX_ALL_LAYERS) == 0)
			attend(pair.sender, pair.receiver);
		cr_assert_eq(kvx_grant_poll(request.grant, KVX_ALL_LAYERS), 1);
		for (uint32_t layer = 0; layer < geometry.layers; layer++)
			request_expect_layer(&request, layer);
		request_close(&request);
	}
	cr_assert(now_ms() - begin_ms < 9000, "%d ms for 100 requests", (int)(now_ms() - begin_ms));
	pair_close(&pair);
}

Test(loop_caller, the_engines_descriptor_tells_when_to_drive, .timeout = 60)
{
	run_by_descriptors("loop");
}

Test(shm_caller, the_engines_descriptor_tells_when_to_drive, .timeout = 60)
{
	run_by_descriptors("shm");
}

Test(tcp_caller, the_engines_descriptor_tells_when_to_drive, .timeout = 60)
{
	run_by_descriptors("tcp");
}

/* --- event descriptors of transfers --- */

static bool becomes_readable(struct drive *drive, int fd)
{
	int64_t deadline_ms = now_ms() + PATIENCE_MS;
	struct pollfd descriptor = {fd, POLLIN, 0};

	while (now_ms() < deadline_ms) {
		if (poll(&descriptor, 1, drive->count ? 0 : 100) == 1)
			return true;
		drive_step(drive);
	}
	return false;
}

static void clear(int fd)
{
	uint64_t count;

	cr_assert_eq(read(fd, &count, sizeof(count)), (ssize_t)sizeof(count));
	cr_assert(count > 0);
}

EACH_WAY_TEST(event_descriptors_tell_of_each_layer)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, 16, TABLE_RANDOM);
	int grant_fd = kvx_grant_fd(request.grant), stream_fd = kvx_stream_fd(request.stream);
	expect_ok(grant_fd);
	expect_ok(stream_fd);
	cr_assert_eq(kvx_grant_fd(request.grant), grant_fd);
	for (uint32_t layer = 0; layer < geometry.layers; layer++) {
		expect_ok(kvx_stream_layers_ready(request.stream, layer, 1));
		cr_assert(becomes_readable(&pair.drive, grant_fd), "layer %u", layer);
		clear(grant_fd);
		cr_assert_eq(kvx_grant_poll(request.grant, layer), 1);
		cr_assert(becomes_readable(&pair.drive, stream_fd), "layer %u", layer);
		clear(stream_fd);
		cr_assert_eq(kvx_stream_poll(request.stream, layer), 1);
	}
	request_close(&request);
	pair_close(&pair);
}

EACH_WAY_TEST(event_descriptors_tell_of_the_end)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, 16, TABLE_RANDOM);
	int grant_fd = kvx_grant_fd(request.grant), stream_fd = kvx_stream_fd(request.stream);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	cr_assert(becomes_readable(&pair.drive, grant_fd));
	cr_assert(becomes_readable(&pair.drive, stream_fd));
	clear(grant_fd);
	clear(stream_fd);
	kvx_stream_cancel(request.stream);
	cr_assert(becomes_readable(&pair.drive, stream_fd));
	cr_assert(becomes_readable(&pair.drive, grant_fd));
	cr_assert_eq(kvx_grant_poll(request.grant, KVX_ALL_LAYERS), KVX_E_CANCELLED);
	request_close(&request);
	pair_close(&pair);
}

/* --- logs --- */

static void note(void *context, enum kvx_log_level level, const char *line)
{
	cr_assert(level <= KVX_LOG_DEBUG);
	cr_assert(line[0] && !strchr(line, '\n'));
	(*(int *)context)++;
}

Test(progress, lines_go_to_the_callers_log)
{
	struct kvx_options *options;
	struct kvx_engine *engine;
	int lines = 0;

	expect_ok(kvx_options_new(&options));
	expect_ok(kvx_options_set(options, "progress", "caller"));
	kvx_options_log(options, note, &lines);
	expect_ok(kvx_engine_open(options, &engine));
	kvx_options_free(options);
	cr_assert(lines > 0);
	kvx_engine_close(engine);
}
