/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that connect to an engine and are none. */
#include "support/pair.h"
#include "support/sockets.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct kvx_geometry geometry = {
	.layers = 2, .planes = 2, .blocks = 16, .block_bytes = 4096};

static const char *const options[] = {"connect_timeout_ms=1000", NULL};

#define EACH_SOCKET_TEST(name)                     \
	static void name(const struct way *way);   \
	Test(shm, name, .timeout = 60)             \
	{                                          \
		name(&(struct way){"shm", false}); \
	}                                          \
	Test(tcp, name, .timeout = 60)             \
	{                                          \
		name(&(struct way){"tcp", false}); \
	}                                          \
	static void name(const struct way *way)

static void send_all(int fd, const void *bytes, size_t count)
{
	/* It may hang up in between. */
	for (size_t sent = 0; sent < count;) {
		ssize_t some = send(fd, (const char *)bytes + sent, count - sent, MSG_NOSIGNAL);
		if (some <= 0)
			return;
		sent += (size_t)some;
	}
}

/* The engine hangs up within its connect_timeout_ms, and some. */
static void expect_hung_up(int fd)
{
	int64_t deadline_ms = now_ms() + 5000;
	char bytes[4096];

	for (;;) {
		struct pollfd descriptor = {fd, POLLIN, 0};
		cr_assert(now_ms() < deadline_ms, "it keeps the connection");
		if (poll(&descriptor, 1, 100) == 1 && recv(fd, bytes, sizeof(bytes), 0) <= 0)
			return;
	}
}

EACH_SOCKET_TEST(one_that_says_nothing_is_hung_up_on)
{
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	int fd = connect_plainly(way->transport, kvx_engine_address(pair.receiver));
	expect_hung_up(fd);
	close(fd);
	pair_expect_works(&pair, 1);
	pair_close(&pair);
}

EACH_SOCKET_TEST(one_that_talks_garbage_is_hung_up_on)
{
	uint64_t random = random_seed();
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	for (int round = 0; round < 50; round++) {
		uint8_t bytes[512];
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)random_next(&random);
		int fd = connect_plainly(way->transport, kvx_engine_address(pair.receiver));
		send_all(fd, bytes, 1 + random_next(&random) % sizeof(bytes));
		if (round == 0)
			expect_hung_up(fd);
		close(fd);
	}
	pair_expect_works(&pair, 1);
	cr_assert_eq(stats_of(pair.receiver).peers_lost, 0);
	pair_close(&pair);
}

static bool has_descriptors(void *count)
{
	return count_descriptors() == *(uint32_t *)count;
}

EACH_SOCKET_TEST(one_that_leaves_in_the_middle_of_a_word_is_forgotten)
{
	uint32_t descriptors;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	pair_expect_works(&pair, 1);
	descriptors = count_descriptors();
	for (int round = 0; round < 20; round++) {
		int fd = connect_plainly(way->transport, kvx_engine_address(pair.receiver));
		send_all(fd, "kvxf", 1 + (size_t)round % 4);
		close(fd);
	}
	cr_assert(drive_until(&pair.drive, has_descriptors, &descriptors, PATIENCE_MS),
		  "%u descriptors, %u before", count_descriptors(), descriptors);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

#define CROWD 400

/* More than the engine holds half-made: new ones that are engines still get through. */
EACH_SOCKET_TEST(a_crowd_that_says_nothing_keeps_nobody_out)
{
	static int fds[CROWD];
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	for (int i = 0; i < CROWD; i++)
		fds[i] = connect_plainly(way->transport, kvx_engine_address(pair.receiver));
	pair_expect_works(&pair, 1);
	for (int i = 0; i < CROWD; i++)
		close(fds[i]);
	pair_close(&pair);
}

/* What our engine connects to is no engine. */
Test(tcp, a_listener_that_is_no_engine_is_unreachable, .timeout = 60)
{
	struct way way = {"tcp", false};
	struct drive none = {0};
	struct kvx_engine *engine = engine_open(&none, &way, "engine", options);
	int fd = listen_on_loopback();
	struct kvx_peer *peer;
	char address[64];

	snprintf(address, sizeof(address), "tcp:127.0.0.1:%u", port_of(fd));
	expect_ok(kvx_peer_connect(engine, address, &peer));
	expect_fail(kvx_peer_wait(peer, PATIENCE_MS), KVX_E_UNREACHABLE, "tcp", address + 4);
	kvx_peer_close(peer);
	close(fd);
	expect_ok(kvx_peer_connect(engine, address, &peer));
	expect_fail(kvx_peer_wait(peer, PATIENCE_MS), KVX_E_UNREACHABLE, "tcp", address + 4);
	kvx_peer_close(peer);
	engine_close(&none, engine);
}
