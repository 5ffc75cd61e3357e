/* SPDX-License-Identifier: Apache-2.0 */
#include "base/outbox.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIMIT (64u << 10)

static ssize_t send_to(void *fd, const void *bytes, size_t size)
{
	return send(*(int *)fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static struct kvx_outbox outbox;
static int near_fd, far_fd;

static void open_all(void)
{
	int fds[2], small = 4096;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	near_fd = fds[0];
	far_fd = fds[1];
	setsockopt(near_fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	kvx_outbox_init(&outbox, LIMIT);
}

static void close_all(void)
{
	kvx_outbox_finish(&outbox);
	close(near_fd);
	close(far_fd);
}

TestSuite(outbox, .init = open_all, .fini = close_all);

/* Queues bytes that count up from *next. */
static bool queue(uint32_t length, uint8_t *next)
{
	uint8_t *room = kvx_outbox_reserve(&outbox, length);

	for (uint32_t i = 0; room && i < length; i++)
		room[i] = (*next)++;
	return room;
}

/* Reads what is there and checks that it counts up. Returns the bytes. */
static uint32_t take(uint8_t *next)
{
	uint8_t bytes[1000];
	ssize_t got = recv(far_fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	for (ssize_t i = 0; i < got; i++)
		cr_assert_eq(bytes[i], (*next)++);
	return got > 0 ? (uint32_t)got : 0;
}

Test(outbox, allocates_nothing_before_it_is_used)
{
	cr_assert_eq(outbox.bytes, NULL);
	cr_assert_eq(kvx_outbox_flush(&outbox, send_to, &near_fd), 0);
	cr_assert_eq(outbox.bytes, NULL);
}

Test(outbox, bytes_come_out_in_order_whatever_the_socket_takes)
{
	uint8_t in = 0, out = 0;
	uint32_t queued = 0, taken = 0;

	for (uint32_t length = 1; length < 3000; length += 7) {
		queued += queue(length, &in) ? length : 0;
		cr_assert_eq(kvx_outbox_flush(&outbox, send_to, &near_fd), 0);
		taken += take(&out);
	}
	cr_assert_gt(kvx_outbox_bytes(&outbox), 0, "the socket took all: nothing was tested");
	while (taken < queued) {
		uint32_t got = take(&out);
		cr_assert_eq(kvx_outbox_flush(&outbox, send_to, &near_fd), 0);
		cr_assert(got > 0 || kvx_outbox_bytes(&outbox) > 0);
		taken += got;
	}
	cr_assert_eq(kvx_outbox_bytes(&outbox), 0);
	cr_assert_eq(take(&out), 0);
}

Test(outbox, the_limit_holds_and_leaves_what_is_queued)
{
	uint8_t in = 0;

	cr_assert(queue(LIMIT - 10, &in));
	cr_assert_not(queue(11, &in));
	cr_assert_eq(kvx_outbox_bytes(&outbox), LIMIT - 10);
	cr_assert(queue(10, &in));
	cr_assert_not(queue(1, &in));
	cr_assert_not(queue(UINT32_MAX, &in));
	cr_assert_eq(kvx_outbox_bytes(&outbox), LIMIT);
}

Test(outbox, gives_memory_back_when_a_long_queue_is_sent)
{
	uint8_t in = 0, out = 0;

	cr_assert(queue(LIMIT, &in));
	while (kvx_outbox_bytes(&outbox) > 0) {
		cr_assert_eq(kvx_outbox_flush(&outbox, send_to, &near_fd), 0);
		take(&out);
	}
	cr_assert_eq(outbox.bytes, NULL);
}

Test(outbox, a_broken_socket_is_an_errno_and_no_signal)
{
	uint8_t in = 0;

	close(far_fd);
	far_fd = -1;
	cr_assert(queue(5, &in));
	cr_assert_eq(kvx_outbox_flush(&outbox, send_to, &near_fd), -EPIPE);
}
