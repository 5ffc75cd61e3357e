/* SPDX-License-Identifier: Apache-2.0 */
/* The threads that wait for drivers: where they run. */
#include "support/devices.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <string.h>

static struct kvx_waker waker;

static void set_up(void)
{
	cpu_set_t cpus;

	cr_assert_eq(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	if (!CPU_ISSET(0, &cpus) || !CPU_ISSET(1, &cpus))
		cr_skip_test("needs CPUs 0 and 1");
	devices_set_up();
	cr_assert_eq(kvx_waker_init(&waker, &poller), 0);
}

static void tear_down(void)
{
	kvx_waker_finish(&waker, &poller);
	devices_tear_down();
}

TestSuite(setup, .init = set_up, .fini = tear_down, .timeout = 30);

static void use_cpus(int count)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	for (int cpu = 0; cpu < count; cpu++)
		CPU_SET(cpu, &cpus);
	cr_assert_eq(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
}

struct look {
	struct kvx_verbs_job job;
	int cpus; /* of the thread that ran it */
	bool done;
};

static void run(struct kvx_verbs_job *job)
{
	cpu_set_t cpus;

	sched_getaffinity(0, sizeof(cpus), &cpus);
	kvx_container_of(job, struct look, job)->cpus = CPU_COUNT(&cpus);
}

static void done(struct kvx_verbs_job *job)
{
	kvx_container_of(job, struct look, job)->done = true;
}

/* CPUs of a thread of set-up, made by a thread with `before`, that is given work by one with
 * `after`. */
static int cpus_of_job(int before, int after)
{
	struct look look = {.job = {.run = run, .done = done}};

	use_cpus(before);
	cr_assert_eq(kvx_verbs_setup_open(&transport.setup, &waker), 0);
	use_cpus(after);
	kvx_verbs_setup_submit(&transport.setup, &look.job);
	kvx_verbs_setup_close(&transport.setup);
	cr_assert(look.done);
	return look.cpus;
}

Test(setup, threads_go_where_the_worker_has_been_bound)
{
	cr_assert_eq(cpus_of_job(1, 2), 2);
}

Test(setup, threads_leave_the_worker_a_cpu_of_its_own)
{
	cr_assert_eq(cpus_of_job(2, 1), 2);
}

Test(setup, threads_do_not_follow_a_caller)
{
	devices_option("progress", "caller");
	cr_assert_eq(cpus_of_job(1, 2), 1);
}
