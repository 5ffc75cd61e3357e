/* SPDX-License-Identifier: Apache-2.0 */
#include "round.h"

#include "clock.h"
#include "request.h"

#include <stdlib.h>
#include <string.h>

#define TICK_NS (100 * NS_PER_MS)
#define FAILURES_MAX 16u /* more than so many, and the round ends: it will not get better */

volatile sig_atomic_t kvx_interrupted;

/* One thread for each place; the fields of round and rotation are shared under `lock`. */
struct running {
	struct kvx_round *round;
	struct kvx_session *session;
	struct kvx_rotation *rotation;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	sem_t inflight;
	uint32_t threads;
	bool broken;
	char why[KVX_FAILURE_TEXT_MAX + 1];
};

struct worker {
	struct running *running;
	uint32_t place;
	pthread_t thread;
	struct kvx_request request;
};

static bool may_start(const struct running *running)
{
	const struct kvx_round *round = running->round;

	if (kvx_interrupted || running->broken || round->failed > FAILURES_MAX)
		return false;
	if (round->requests_max && round->started >= round->requests_max)
		return false;
	return !round->elapsed_ns_max || !round->begin_ns ||
	       clock_now_ns() - round->begin_ns < round->elapsed_ns_max;
}

/* Takes the next slot, if another request may begin. */
static bool take(struct running *running, struct kvx_request *request)
{
	pthread_mutex_lock(&running->lock);
	bool taken = may_start(running);
	if (taken) {
		running->round->started++;
		request->slot = kvx_rotation_take(running->rotation);
		request->payload = running->rotation->payloads[request->slot];
		request->blocks = running->round->blocks;
	}
	pthread_mutex_unlock(&running->lock);
	return taken;
}

static void account(struct kvx_round *round, const struct kvx_request *request,
		    const struct kvx_setup *setup)
{
	int64_t whole_ns = request->error ? 0 : request->whole_ns[request->layers - 1];

	if (request->error) {
		round->failed++;
		return;
	}
	round->completed++;
	round->bytes += kvx_setup_request_bytes(setup) / setup->request_blocks * request->blocks;
	if (whole_ns > round->end_ns)
		round->end_ns = whole_ns;
}

static void give_back(struct running *running, const struct kvx_request *request)
{
	pthread_mutex_lock(&running->lock);
	kvx_rotation_give_back(running->rotation, request->slot);
	/* What was stopped on purpose is neither done nor failed. */
	if (!(kvx_interrupted && request->error)) {
		account(running->round, request, &running->session->endpoint.setup);
		running->round->ended(running->round->context, request);
	}
	pthread_mutex_unlock(&running->lock);
}

static void begin(struct running *running)
{
	pthread_mutex_lock(&running->lock);
	if (!running->round->begin_ns)
		running->round->begin_ns = clock_now_ns();
	pthread_mutex_unlock(&running->lock);
}

static void run_one(struct worker *worker)
{
	struct running *running = worker->running;
	struct kvx_request *request = &worker->request;
	bool usable = kvx_request_ask(request, running->session, worker->place, running->round);

	sem_wait(&running->inflight);
	begin(running);
	if (usable)
		usable = kvx_request_stream(request, running->session, worker->place,
					    running->round);
	sem_post(&running->inflight);
	if (!usable) {
		pthread_mutex_lock(&running->lock);
		running->broken = true;
		memcpy(running->why, kvx_failure_text(), strlen(kvx_failure_text()) + 1);
		pthread_mutex_unlock(&running->lock);
	}
	give_back(running, request);
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct running *running = worker->running;

	while (take(running, &worker->request))
		run_one(worker);
	pthread_mutex_lock(&running->lock);
	running->threads--;
	pthread_cond_signal(&running->ended);
	pthread_mutex_unlock(&running->lock);
	return NULL;
}

static int start_worker(struct running *running, struct worker *worker, uint32_t place)
{
	pthread_attr_t attributes;

	*worker = (struct worker){.running = running, .place = place};
	if (kvx_request_init(&worker->request, running->session->endpoint.setup.layers))
		return -1;
	/* There may be two thousand of them. */
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 128u << 10);
	int error = pthread_create(&worker->thread, &attributes, work, worker);
	pthread_attr_destroy(&attributes);
	if (!error)
		return 0;
	kvx_request_finish(&worker->request);
	return kvx_failure_set("sender: cannot start a thread: %s", strerror(error));
}

static void wait_for_workers(struct running *running)
{
	pthread_mutex_lock(&running->lock);
	while (running->threads) {
		struct timespec at = clock_timespec(clock_now_ns() + TICK_NS);
		pthread_cond_clockwait(&running->ended, &running->lock, CLOCK_MONOTONIC, &at);
		running->round->tick(running->round->context);
	}
	pthread_mutex_unlock(&running->lock);
}

static uint32_t places_of(const struct kvx_round *round, const struct kvx_setup *setup)
{
	uint32_t places = round->inflight * (round->prefetch ? 2 : 1);

	if (places > setup->places)
		places = setup->places;
	return places > setup->slots ? setup->slots : places;
}

static int run_workers(struct running *running, struct worker *workers, uint32_t count)
{
	uint32_t started = 0;
	int error = 0;

	running->threads = count;
	for (; started < count && !error; started++)
		error = start_worker(running, &workers[started], started);
	pthread_mutex_lock(&running->lock);
	/* The one that did not start is not there to count itself down. */
	started -= error ? 1 : 0;
	running->threads -= count - started;
	running->broken |= error != 0;
	pthread_mutex_unlock(&running->lock);
	wait_for_workers(running);
	for (uint32_t i = 0; i < started; i++) {
		pthread_join(workers[i].thread, NULL);
		kvx_request_finish(&workers[i].request);
	}
	if (running->broken && !error)
		error = kvx_failure_set("%s", running->why);
	return error;
}

int kvx_round_run(struct kvx_round *round, struct kvx_session *session,
		  struct kvx_rotation *rotation)
{
	uint32_t count = places_of(round, &session->endpoint.setup);
	struct running running = {.round = round, .session = session, .rotation = rotation};
	struct worker *workers = calloc(count, sizeof(*workers));

	if (!workers)
		return kvx_failure_set("sender: out of memory");
	pthread_mutex_init(&running.lock, NULL);
	pthread_cond_init(&running.ended, NULL);
	sem_init(&running.inflight, 0, round->inflight);
	int error = run_workers(&running, workers, count);
	sem_destroy(&running.inflight);
	pthread_cond_destroy(&running.ended);
	pthread_mutex_destroy(&running.lock);
	free(workers);
	return error;
}
