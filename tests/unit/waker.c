/* SPDX-License-Identifier: Apache-2.0 */
#include "base/waker.h"

#include "base/clock.h"
#include "base/error.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

static struct kvx_poller poller;
static struct kvx_waker waker;

static void open_waker(void)
{
	cr_assert_eq(kvx_poller_init(&poller), 0);
	cr_assert_eq(kvx_waker_init(&waker, &poller), 0);
}

static void close_waker(void)
{
	kvx_waker_finish(&waker, &poller);
	kvx_poller_finish(&poller);
}

static bool is_readable(void)
{
	struct pollfd descriptor = {.fd = waker.pollable.fd, .events = POLLIN};

	return poll(&descriptor, 1, 0) == 1;
}

TestSuite(waker, .init = open_waker, .fini = close_waker, .timeout = 60);

Test(waker, a_worker_that_is_awake_costs_no_write)
{
	kvx_waker_wake(&waker);
	cr_assert_not(is_readable());
}

Test(waker, an_armed_worker_is_woken)
{
	kvx_waker_arm(&waker);
	kvx_waker_wake(&waker);
	cr_assert(is_readable());
}

Test(waker, only_the_first_of_many_writes)
{
	uint64_t count = 0;

	kvx_waker_arm(&waker);
	for (int i = 0; i < 10; i++)
		kvx_waker_wake(&waker);
	cr_assert_eq(read(waker.pollable.fd, &count, sizeof(count)), (ssize_t)sizeof(count));
	cr_assert_eq(count, 1);
}

Test(waker, a_worker_that_stays_awake_after_all_is_not_woken)
{
	kvx_waker_arm(&waker);
	kvx_waker_disarm(&waker);
	kvx_waker_wake(&waker);
	cr_assert_not(is_readable());
}

Test(waker, the_callback_takes_the_wake_up_away)
{
	kvx_waker_arm(&waker);
	kvx_waker_wake(&waker);
	cr_assert_eq(kvx_poller_run(&poller, 0), 1);
	cr_assert_eq(kvx_poller_run(&poller, 0), 0);
}

#define WAKERS 3
#define WORK_EACH 20000

/* Work done by others: each adds to it, then wakes. Relaxed, so that only the waker orders it. */
static _Atomic int work;

static void *add_work(void *argument)
{
	for (int i = 0; i < WORK_EACH; i++) {
		atomic_fetch_add_explicit(&work, 1, memory_order_relaxed);
		kvx_waker_wake(&waker);
	}
	return argument;
}

/* Sleeps until there is more work than seen. Returns false if a wake-up was lost: the sleep lasted
 * to its end although there is work. */
static bool sleep_for_work(int seen)
{
	bool woken = true;

	kvx_waker_arm(&waker);
	if (atomic_load_explicit(&work, memory_order_relaxed) == seen)
		woken = kvx_poller_run(&poller, 10 * KVX_NS_PER_S) > 0;
	kvx_waker_disarm(&waker);
	return woken;
}

Test(waker, no_wake_up_is_lost)
{
	pthread_t threads[WAKERS];
	int seen = 0;

	for (int i = 0; i < WAKERS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, add_work, NULL), 0);
	while (seen < WAKERS * WORK_EACH) {
		cr_assert(sleep_for_work(seen), "asleep with %d of %d done", seen, work);
		seen = atomic_load_explicit(&work, memory_order_relaxed);
	}
	for (int i = 0; i < WAKERS; i++)
		pthread_join(threads[i], NULL);
}
