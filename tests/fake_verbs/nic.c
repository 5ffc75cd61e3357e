/* SPDX-License-Identifier: Apache-2.0 */
/* The lock, and the thread that executes what is posted. */
#include "internal.h"

#include <sched.h>
#include <time.h>

#define YIELDS_MAX 100

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t change = PTHREAD_COND_INITIALIZER;
static uint64_t changes;
static atomic_uint waiters; /* threads of the program that want the lock */
static struct kvx_list active = {&active, &active};
static bool stopping;

/* Of who opens and closes devices. */
static pthread_mutex_t holders_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned holders;
static pthread_t thread;

void fake_lock(void)
{
	waiters++;
	pthread_mutex_lock(&lock);
	waiters--;
}

void fake_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

void fake_wait(void)
{
	pthread_cond_wait(&change, &lock);
}

void fake_changed(void)
{
	changes++;
	pthread_cond_broadcast(&change);
}

int64_t fake_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void fake_qp_activate(struct fake_qp *qp)
{
	if (qp->posted == qp->executed || !kvx_list_empty(&qp->active))
		return;
	kvx_list_append(&active, &qp->active);
	fake_changed();
}

static void sleep_until(int64_t wake_ns)
{
	struct timespec time = {wake_ns / 1000000000, wake_ns % 1000000000};

	if (wake_ns == INT64_MAX)
		pthread_cond_wait(&change, &lock);
	else
		pthread_cond_timedwait(&change, &lock, &time);
}

/* A mutex is not fair: without this the program's threads would wait while there is work. */
static void let_others_in(void)
{
	pthread_mutex_unlock(&lock);
	for (int i = 0; waiters && i < YIELDS_MAX; i++)
		sched_yield();
	pthread_mutex_lock(&lock);
}

/* One request of each queue pair in turn. Returns whether any was done; else when to look again. */
static bool run_all(int64_t *wake_ns)
{
	struct kvx_list turn;
	bool done = false;

	*wake_ns = INT64_MAX;
	kvx_list_init(&turn);
	while (!kvx_list_empty(&active)) {
		struct kvx_list *entry = active.next;
		kvx_list_remove(entry);
		kvx_list_append(&turn, entry);
	}
	while (!kvx_list_empty(&turn)) {
		struct fake_qp *qp = kvx_container_of(turn.next, struct fake_qp, active);
		int64_t own_ns = INT64_MAX;
		kvx_list_remove(&qp->active);
		done |= fake_qp_step(qp, &own_ns);
		*wake_ns = own_ns < *wake_ns ? own_ns : *wake_ns;
		if (qp->posted != qp->executed && kvx_list_empty(&qp->active))
			kvx_list_append(&active, &qp->active);
		let_others_in();
	}
	return done;
}

static void *run(__attribute__((unused)) void *argument)
{
	pthread_mutex_lock(&lock);
	while (!stopping) {
		uint64_t before = changes;
		int64_t wake_ns;
		if (!run_all(&wake_ns) && before == changes && !stopping)
			sleep_until(wake_ns);
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void init_change(void)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&change, &attr);
	pthread_condattr_destroy(&attr);
}

int fake_nic_hold(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int error = 0;

	pthread_once(&once, init_change);
	pthread_mutex_lock(&holders_lock);
	if (holders == 0) {
		stopping = false;
		error = pthread_create(&thread, NULL, run, NULL);
	}
	holders += error == 0;
	pthread_mutex_unlock(&holders_lock);
	errno = error;
	return error;
}

void fake_nic_release(void)
{
	pthread_mutex_lock(&holders_lock);
	if (--holders == 0) {
		fake_lock();
		stopping = true;
		fake_changed();
		fake_unlock();
		pthread_join(thread, NULL);
	}
	pthread_mutex_unlock(&holders_lock);
}
