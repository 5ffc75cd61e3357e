/* SPDX-License-Identifier: Apache-2.0 */
#include "base/poller.h"

#include "base/clock.h"
#include "base/error.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SOURCES 4

/* An eventfd that counts its callbacks, and may remove another source from within one. */
struct source {
	struct kvx_pollable pollable;
	int ran;
	uint32_t events;
	struct source *removes;
};

static struct kvx_poller poller;
static struct source sources[SOURCES];

static void count(struct kvx_pollable *pollable, uint32_t events)
{
	struct source *source = (struct source *)pollable;

	source->ran++;
	source->events = events;
	if (source->removes)
		kvx_poller_remove(&poller, &source->removes->pollable);
}

static void open_all(void)
{
	cr_assert_eq(kvx_poller_init(&poller), 0);
	for (int i = 0; i < SOURCES; i++) {
		sources[i].pollable.ready = count;
		sources[i].pollable.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		cr_assert_eq(kvx_poller_add(&poller, &sources[i].pollable, EPOLLIN), 0);
	}
}

static void close_all(void)
{
	kvx_poller_finish(&poller);
	for (int i = 0; i < SOURCES; i++)
		close(sources[i].pollable.fd);
}

static void make_ready(struct source *source)
{
	uint64_t one = 1;

	cr_assert_eq(write(source->pollable.fd, &one, sizeof(one)), (ssize_t)sizeof(one));
}

static int ran_in_total(void)
{
	int total = 0;

	for (int i = 0; i < SOURCES; i++)
		total += sources[i].ran;
	return total;
}

TestSuite(poller, .init = open_all, .fini = close_all);

Test(poller, nothing_ready_runs_nothing)
{
	cr_assert_eq(kvx_poller_run(&poller, 0), 0);
	cr_assert_eq(ran_in_total(), 0);
}

Test(poller, a_wait_ends_at_its_deadline)
{
	int64_t begin_ns = kvx_now_ns();

	cr_assert_eq(kvx_poller_run(&poller, 20 * KVX_NS_PER_MS), 0);
	cr_assert_geq(kvx_now_ns() - begin_ns, 20 * KVX_NS_PER_MS);
}

Test(poller, a_ready_descriptor_runs_its_callback)
{
	make_ready(&sources[2]);
	cr_assert_eq(kvx_poller_run(&poller, KVX_NS_PER_S), 1);
	cr_assert_eq(sources[2].ran, 1);
	cr_assert_eq(sources[2].events, (uint32_t)EPOLLIN);
	cr_assert_eq(ran_in_total(), 1);
}

Test(poller, what_stays_ready_runs_again)
{
	make_ready(&sources[0]);
	kvx_poller_run(&poller, 0);
	kvx_poller_run(&poller, 0);
	cr_assert_eq(sources[0].ran, 2);
}

Test(poller, events_can_be_changed)
{
	cr_assert_eq(kvx_poller_change(&poller, &sources[1].pollable, EPOLLOUT), 0);
	cr_assert_eq(kvx_poller_run(&poller, 0), 1);
	cr_assert_eq(sources[1].events, (uint32_t)EPOLLOUT);
	cr_assert_eq(kvx_poller_change(&poller, &sources[1].pollable, 0), 0);
	cr_assert_eq(kvx_poller_run(&poller, 0), 0);
}

Test(poller, a_removed_descriptor_runs_no_more)
{
	make_ready(&sources[0]);
	kvx_poller_remove(&poller, &sources[0].pollable);
	cr_assert_eq(kvx_poller_run(&poller, 0), 0);
}

Test(poller, a_callback_may_remove_itself)
{
	make_ready(&sources[0]);
	sources[0].removes = &sources[0];
	cr_assert_eq(kvx_poller_run(&poller, 0), 1);
	cr_assert_eq(kvx_poller_run(&poller, 0), 0);
	cr_assert_eq(sources[0].ran, 1);
}

Test(poller, an_event_fetched_for_a_removed_descriptor_is_dropped)
{
	/* Both are fetched by one epoll_wait; whichever runs first removes the other. */
	sources[0].removes = &sources[1];
	sources[1].removes = &sources[0];
	make_ready(&sources[0]);
	make_ready(&sources[1]);
	cr_assert_eq(kvx_poller_run(&poller, 0), 1);
	cr_assert_eq(ran_in_total(), 1);
}

Test(poller, adding_a_bad_descriptor_fails_with_its_number)
{
	struct kvx_pollable pollable = {count, 1 << 20};

	cr_assert_eq(kvx_poller_add(&poller, &pollable, EPOLLIN), KVX_E_SYSTEM);
	cr_assert(strstr(kvx_error_text(), "1048576"), "%s", kvx_error_text());
}
