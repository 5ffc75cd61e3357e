/* SPDX-License-Identifier: Apache-2.0 */
#include "base/timer.h"

#include "base/clock.h"
#include "support/chance.h"

#include <criterion/criterion.h>

#define TIMERS 500

struct alarm {
	struct kvx_timer timer; /* first */
	int64_t wanted_ns;      /* the model: 0 is not running */
	int expired;
};

static struct kvx_timers timers;
static struct alarm alarms[TIMERS];
static int64_t last_ns;

static void note(struct kvx_timer *timer)
{
	struct alarm *alarm = (struct alarm *)timer;

	cr_assert(alarm->wanted_ns, "a timer that was stopped expired");
	cr_assert_eq(timer->deadline_ns, alarm->wanted_ns);
	cr_assert(timer->deadline_ns >= last_ns, "not the earliest first");
	last_ns = timer->deadline_ns;
	alarm->wanted_ns = 0;
	alarm->expired++;
}

static void init(void)
{
	for (int i = 0; i < TIMERS; i++)
		alarms[i] = (struct alarm){.timer.expired = note};
}

static void finish(void)
{
	kvx_timers_finish(&timers);
}

TestSuite(timer, .init = init, .fini = finish);

static int64_t earliest(void)
{
	int64_t earliest_ns = KVX_NEVER_NS;

	for (int i = 0; i < TIMERS; i++)
		if (alarms[i].wanted_ns && alarms[i].wanted_ns < earliest_ns)
			earliest_ns = alarms[i].wanted_ns;
	return earliest_ns;
}

static int due(int64_t now_ns)
{
	int count = 0;

	for (int i = 0; i < TIMERS; i++)
		count += alarms[i].wanted_ns && alarms[i].wanted_ns <= now_ns;
	return count;
}

Test(timer, none_runs_at_first)
{
	cr_assert_eq(kvx_timers_next_ns(&timers), KVX_NEVER_NS);
	cr_assert_eq(kvx_timers_run(&timers, KVX_NEVER_NS - 1), 0);
	kvx_timer_stop(&timers, &alarms[0].timer);
}

/* A thousand steps of starting, moving, stopping and running against a plain list. */
Test(timer, the_heap_agrees_with_a_plain_list)
{
	uint64_t random = random_seed();
	int64_t now_ns = 1;

	for (int step = 0; step < 30000; step++) {
		struct alarm *alarm = &alarms[random_between(&random, 0, TIMERS - 1)];
		uint32_t action = random_between(&random, 0, 99);
		if (action < 60) {
			alarm->wanted_ns = now_ns + random_between(&random, 0, 1000);
			cr_assert_eq(kvx_timer_start(&timers, &alarm->timer, alarm->wanted_ns), 0);
		} else if (action < 90) {
			alarm->wanted_ns = 0;
			kvx_timer_stop(&timers, &alarm->timer);
		} else {
			now_ns += random_between(&random, 0, 100);
			int wanted = due(now_ns);
			last_ns = 0;
			cr_assert_eq(kvx_timers_run(&timers, now_ns), wanted);
		}
		if (step % 16 == 0)
			cr_assert_eq(kvx_timers_next_ns(&timers), earliest());
	}
}

static void start_again(struct kvx_timer *timer)
{
	struct alarm *alarm = (struct alarm *)timer;

	if (++alarm->expired < 3)
		kvx_timer_start(&timers, timer, timer->deadline_ns + 10);
	kvx_timer_stop(&timers, &alarms[1].timer);
}

Test(timer, an_expiry_may_start_and_stop_timers)
{
	alarms[0].timer.expired = start_again;
	kvx_timer_start(&timers, &alarms[0].timer, 100);
	kvx_timer_start(&timers, &alarms[1].timer, 105);
	cr_assert_eq(kvx_timers_run(&timers, 110), 2);
	cr_assert_eq(alarms[0].expired, 2);
	cr_assert_eq(kvx_timers_next_ns(&timers), 120);
	cr_assert_eq(alarms[1].expired, 0);
}
