/* SPDX-License-Identifier: Apache-2.0 */
#include "core/drain.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/engine.h"
#include "core/journal.h"

#include <stdio.h>

static struct kvx_engine *engine_of(struct kvx_drain *drain)
{
	return kvx_container_of(drain, struct kvx_engine, drain);
}

/* The worker: whether the last one has ended. */
static void look(struct kvx_drain *drain)
{
	struct kvx_engine *engine = engine_of(drain);
	int state = atomic_load_explicit(&drain->state, memory_order_relaxed);

	if ((state != KVX_DRAIN_WAITING && state != KVX_DRAIN_OVERDUE) ||
	    atomic_load(&drain->grants) || atomic_load(&drain->streams))
		return;
	kvx_timer_stop(&engine->timers, &drain->timer);
	atomic_store_explicit(&drain->state, KVX_DRAIN_DONE, memory_order_release);
	kvx_journal_engine(engine, KVX_EVENT_DRAIN_DONE, 0, "no grant or stream goes on");
}

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	(void)wanted;
	look(kvx_container_of(submission, struct kvx_drain, submission));
}

static void overdue(struct kvx_timer *timer)
{
	struct kvx_drain *drain = kvx_container_of(timer, struct kvx_drain, timer);
	char text[96];

	atomic_store_explicit(&drain->state, KVX_DRAIN_OVERDUE, memory_order_release);
	snprintf(text, sizeof(text), "past its deadline: %u grants and %u streams go on",
		 atomic_load(&drain->grants), atomic_load(&drain->streams));
	kvx_journal_engine(engine_of(drain), KVX_EVENT_DRAIN_DONE, KVX_E_TIMEDOUT, text);
}

void kvx_drain_init(struct kvx_drain *drain)
{
	drain->submission.take = take;
	drain->timer.expired = overdue;
}

int kvx_drain_enter(struct kvx_engine *engine, _Atomic uint32_t *going)
{
	atomic_fetch_add(going, 1);
	if (!atomic_load(&engine->drain.on))
		return 0;
	kvx_drain_leave(engine, going);
	return kvx_fail(KVX_E_DRAINING,
			"engine %s: it is being drained and takes no new grants or streams; use "
			"another, or resume it",
			engine->name);
}

void kvx_drain_leave(struct kvx_engine *engine, _Atomic uint32_t *going)
{
	if (atomic_fetch_sub(going, 1) == 1 && atomic_load(&engine->drain.on))
		kvx_engine_submit(engine, &engine->drain.submission, 1);
}

int kvx_drain_begin(struct kvx_engine *engine, uint32_t deadline_ms)
{
	struct kvx_drain *drain = &engine->drain;
	int64_t deadline_ns = engine->now_ns + deadline_ms * KVX_NS_PER_MS;

	kvx_timer_stop(&engine->timers, &drain->timer);
	int error = kvx_timer_start(&engine->timers, &drain->timer, deadline_ns);
	if (error)
		return error;
	atomic_store(&drain->on, true);
	atomic_store_explicit(&drain->deadline_ns, deadline_ns, memory_order_relaxed);
	atomic_store_explicit(&drain->state, KVX_DRAIN_WAITING, memory_order_release);
	look(drain);
	return 0;
}

void kvx_drain_end(struct kvx_engine *engine)
{
	kvx_timer_stop(&engine->timers, &engine->drain.timer);
	atomic_store_explicit(&engine->drain.state, KVX_DRAIN_OFF, memory_order_release);
	atomic_store(&engine->drain.on, false);
}

void kvx_engine_drain_state(struct kvx_engine *engine, struct kvx_drain_view *view)
{
	struct kvx_drain *drain = &engine->drain;
	int64_t left_ns =
		atomic_load_explicit(&drain->deadline_ns, memory_order_relaxed) - kvx_now_ns();

	view->state =
		(enum kvx_drain_state)atomic_load_explicit(&drain->state, memory_order_acquire);
	view->grants = atomic_load(&drain->grants);
	view->streams = atomic_load(&drain->streams);
	view->left_ms = view->state == KVX_DRAIN_WAITING && left_ns > 0
				? (uint32_t)(left_ns / KVX_NS_PER_MS + 1)
				: 0;
}
