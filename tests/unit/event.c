/* SPDX-License-Identifier: Apache-2.0 */
#include "base/event.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static struct kvx_event event;

static void init(void)
{
	kvx_event_init(&event);
}

static void finish(void)
{
	kvx_event_finish(&event);
}

TestSuite(event, .init = init, .fini = finish, .timeout = 60);

static bool is_readable(int fd)
{
	struct pollfd descriptor = {.fd = fd, .events = POLLIN};

	return poll(&descriptor, 1, 0) == 1;
}

Test(event, a_wait_ends_at_its_deadline)
{
	int64_t begin_ns = kvx_now_ns(), deadline_ns = begin_ns + 30 * KVX_NS_PER_MS;

	while (kvx_now_ns() < deadline_ns)
		kvx_event_wait(&event, kvx_event_sequence(&event), deadline_ns, 0);
	cr_assert(kvx_now_ns() - begin_ns < 5 * KVX_NS_PER_S);
}

Test(event, a_deadline_that_has_passed_does_not_wait)
{
	kvx_event_wait(&event, kvx_event_sequence(&event), kvx_now_ns() - KVX_NS_PER_S, 0);
	kvx_event_wait(&event, kvx_event_sequence(&event), 0, 0);
}

Test(event, what_was_notified_before_does_not_wait)
{
	uint32_t seen = kvx_event_sequence(&event);

	kvx_event_notify(&event);
	kvx_event_wait(&event, seen, KVX_NEVER_NS, 0);
	cr_assert_neq(kvx_event_sequence(&event), seen);
}

Test(event, the_descriptor_is_one_and_counts)
{
	uint64_t count;
	int fd = kvx_event_fd(&event);

	cr_assert(fd >= 0);
	cr_assert_eq(kvx_event_fd(&event), fd);
	cr_assert_not(is_readable(fd));
	kvx_event_notify(&event);
	kvx_event_notify(&event);
	cr_assert(is_readable(fd));
	cr_assert_eq(read(fd, &count, sizeof(count)), (ssize_t)sizeof(count));
	cr_assert_eq(count, 2);
	cr_assert_not(is_readable(fd));
}

#define STEPS 20000
#define WAITERS 3

static atomic_int value;
static atomic_int lost;

/* Waits for each value in turn; a wake-up that is lost would last until the deadline. */
static void *wait_for_values(void *argument)
{
	while (atomic_load(&value) < STEPS) {
		uint32_t seen = kvx_event_sequence(&event);
		int before = atomic_load(&value);
		int64_t deadline_ns = kvx_now_ns() + 20 * KVX_NS_PER_S;
		if (before >= STEPS)
			break;
		kvx_event_wait(&event, seen, deadline_ns, KVX_NS_PER_US);
		if (kvx_now_ns() >= deadline_ns && atomic_load(&value) != before)
			atomic_fetch_add(&lost, 1);
	}
	return argument;
}

Test(event, no_notification_is_lost)
{
	pthread_t threads[WAITERS];

	for (int i = 0; i < WAITERS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, wait_for_values, NULL), 0);
	for (int i = 0; i < STEPS; i++) {
		atomic_fetch_add(&value, 1);
		kvx_event_notify(&event);
	}
	for (int i = 0; i < WAITERS; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(lost, 0);
}
