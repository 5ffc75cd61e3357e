/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs.h"

#include "base/error.h"

#include <sched.h>
#include <signal.h>
#include <string.h>

#define THREADS 4u /* so that one peer that does not answer holds up few others */

static struct kvx_verbs_job *first(const struct kvx_list *list)
{
	return kvx_container_of(list->next, struct kvx_verbs_job, entry);
}

static void *run_jobs(void *context)
{
	struct kvx_verbs_setup *setup = context;

	pthread_mutex_lock(&setup->mutex);
	for (;;) {
		while (kvx_list_empty(&setup->waiting) && !setup->ended)
			pthread_cond_wait(&setup->work, &setup->mutex);
		if (kvx_list_empty(&setup->waiting))
			break;
		struct kvx_verbs_job *job = first(&setup->waiting);
		kvx_list_remove(&job->entry);
		pthread_mutex_unlock(&setup->mutex);
		job->run(job);
		pthread_mutex_lock(&setup->mutex);
		kvx_list_append(&setup->finished, &job->entry);
		kvx_waker_wake(setup->waker);
	}
	pthread_mutex_unlock(&setup->mutex);
	return NULL;
}

static int start_threads(struct kvx_verbs_setup *setup)
{
	sigset_t all, old;
	int error = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (!error && setup->thread_count < THREADS) {
		error = pthread_create(&setup->threads[setup->thread_count], NULL, run_jobs, setup);
		if (error)
			break;
		pthread_setname_np(setup->threads[setup->thread_count++], "kvxfer-verbs");
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return error;
}

int kvx_verbs_setup_open(struct kvx_verbs_setup *setup, struct kvx_waker *waker)
{
	pthread_mutex_init(&setup->mutex, NULL);
	pthread_cond_init(&setup->work, NULL);
	kvx_list_init(&setup->waiting);
	kvx_list_init(&setup->finished);
	setup->waker = waker;
	int error = start_threads(setup);
	if (!error)
		return 0;
	kvx_verbs_setup_close(setup);
	return kvx_fail(KVX_E_SYSTEM, "verbs: cannot start threads: %s", strerror(error));
}

void kvx_verbs_setup_close(struct kvx_verbs_setup *setup)
{
	/* done() may submit more, as the end of a pair whose creation was under way. */
	while (setup->under_way)
		if (!kvx_verbs_setup_progress(setup))
			sched_yield();
	pthread_mutex_lock(&setup->mutex);
	setup->ended = true;
	pthread_cond_broadcast(&setup->work);
	pthread_mutex_unlock(&setup->mutex);
	while (setup->thread_count)
		pthread_join(setup->threads[--setup->thread_count], NULL);
	pthread_cond_destroy(&setup->work);
	pthread_mutex_destroy(&setup->mutex);
}

/*
 * What a driver allocates for a queue pair lies near the thread that asks for it, so the threads go
 * where the engine's own has been bound to. Not to a single CPU, which it may keep busy, and not to
 * a caller's.
 */
static void follow_worker(const struct kvx_verbs_setup *setup)
{
	const struct kvx_transport *transport =
		kvx_container_of(setup, struct kvx_transport, setup);
	cpu_set_t worker, own;

	if (strcmp(transport->context->options->progress, "thread") != 0 ||
	    pthread_getaffinity_np(pthread_self(), sizeof(worker), &worker) ||
	    pthread_getaffinity_np(setup->threads[0], sizeof(own), &own) ||
	    CPU_COUNT(&worker) < 2 || CPU_EQUAL(&worker, &own))
		return;
	for (uint32_t i = 0; i < setup->thread_count; i++)
		pthread_setaffinity_np(setup->threads[i], sizeof(worker), &worker);
}

void kvx_verbs_setup_submit(struct kvx_verbs_setup *setup, struct kvx_verbs_job *job)
{
	follow_worker(setup);
	setup->under_way++;
	pthread_mutex_lock(&setup->mutex);
	kvx_list_append(&setup->waiting, &job->entry);
	pthread_cond_signal(&setup->work);
	pthread_mutex_unlock(&setup->mutex);
}

static struct kvx_verbs_job *next_finished(struct kvx_verbs_setup *setup)
{
	struct kvx_verbs_job *job = NULL;

	pthread_mutex_lock(&setup->mutex);
	if (!kvx_list_empty(&setup->finished)) {
		job = first(&setup->finished);
		kvx_list_remove(&job->entry);
	}
	pthread_mutex_unlock(&setup->mutex);
	return job;
}

int kvx_verbs_setup_progress(struct kvx_verbs_setup *setup)
{
	struct kvx_verbs_job *job;
	int done = 0;

	/* While nothing is under way no lock is taken. */
	for (; setup->under_way && (job = next_finished(setup)); done++) {
		setup->under_way--;
		job->done(job);
	}
	return done;
}

bool kvx_verbs_setup_ready(struct kvx_verbs_setup *setup)
{
	if (!setup->under_way)
		return false;
	pthread_mutex_lock(&setup->mutex);
	bool ready = !kvx_list_empty(&setup->finished);
	pthread_mutex_unlock(&setup->mutex);
	return ready;
}
