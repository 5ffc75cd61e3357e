/* SPDX-License-Identifier: Apache-2.0 */
/* The engine's loop. One thread at a time runs it: the engine's own, or the caller's. */
#include "base/clock.h"
#include "base/error.h"
#include "core/engine.h"
#include "core/grant.h"
#include "core/peer.h"
#include "core/stream.h"
#include "topology/topology.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

/* Timers of transports and heartbeats are looked at this often at least. */
#define NAP_NS (100 * KVX_NS_PER_MS)
#define STEPS_UNPOLLED_MAX 8
#define REPORT_NS KVX_NS_PER_MS

static int look_at_ready_words(struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;
	int told = 0;

	kvx_list_for_each (entry, next, &engine->watched)
		told += kvx_stream_look(kvx_container_of(entry, struct kvx_stream, watch_entry));
	return told;
}

static int release_held_layers(struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;
	int released = 0;

	kvx_list_for_each (entry, next, &engine->holding)
		released += kvx_stream_release(
			kvx_container_of(entry, struct kvx_stream, holding_entry));
	return released;
}

static int post_slices(struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;
	int posted = 0;

	engine->lifts_wait = false;
	kvx_list_for_each (entry, next, &engine->peers.list) {
		struct kvx_peer *peer = kvx_container_of(entry, struct kvx_peer, entry.list);
		if (peer->rails && !peer->condemned)
			posted += kvx_peer_post(peer);
	}
	return posted;
}

/* Looking at descriptors is a system call: while shared memory keeps the engine busy, only now and
 * then. */
static int progress_transports(struct kvx_engine *engine)
{
	int done = 0;

	for (uint32_t i = 0; i < engine->transport_count; i++)
		done += engine->transports[i].ops->progress(engine->transports[i].instance,
							    engine->now_ns);
	if (done && ++engine->steps_unpolled < STEPS_UNPOLLED_MAX)
		return done;
	engine->steps_unpolled = 0;
	return done + kvx_poller_run(&engine->poller, 0);
}

/* A message for each layer would wake the sender's engine that often, at the cost of this one's
 * time. So while bytes keep coming, layers are reported together; the end of a request is at once.
 */
static int report_whole_layers(struct kvx_engine *engine, bool busy)
{
	int reported = 0;

	if (busy && !engine->report_at_once && engine->now_ns - engine->report_ns < REPORT_NS)
		return 0;
	engine->report_at_once = false;
	engine->report_ns = engine->now_ns;
	for (; !kvx_list_empty(&engine->reporting); reported++)
		kvx_feed_report(
			kvx_container_of(engine->reporting.next, struct kvx_feed, report_entry));
	return reported;
}

int kvx_worker_step(struct kvx_engine *engine)
{
	int done = 0, moved;

	engine->now_ns = kvx_now_ns();
	done += look_at_ready_words(engine);
	done += kvx_submissions_take(&engine->submissions);
	done += kvx_devices_progress(engine);
	done += post_slices(engine);
	done += moved = progress_transports(engine);
	done += release_held_layers(engine);
	done += report_whole_layers(engine, moved > 0);
	done += kvx_timers_run(&engine->timers, engine->now_ns);
	done += kvx_peers_tick(engine);
	done += kvx_peers_reap(engine);
	if (done)
		kvx_count(engine, progress_ns, (uint64_t)(kvx_now_ns() - engine->now_ns));
	return done;
}

bool kvx_worker_arm(struct kvx_engine *engine)
{
	bool work = false;

	kvx_waker_arm(&engine->waker);
	for (uint32_t i = 0; i < engine->transport_count; i++)
		work |= engine->transports[i].ops->arm(engine->transports[i].instance);
	return work || kvx_submissions_waiting(&engine->submissions) ||
	       atomic_load(&engine->stopping);
}

int64_t kvx_worker_nap_ns(const struct kvx_engine *engine)
{
	int64_t nap_ns = kvx_timers_next_ns(&engine->timers) - kvx_now_ns();
	int64_t watch_ns = (int64_t)kvx_option(&engine->options, watch_us) * KVX_NS_PER_US;

	if (nap_ns > NAP_NS)
		nap_ns = NAP_NS;
	if (nap_ns > engine->beat_ns)
		nap_ns = engine->beat_ns;
	if (nap_ns > watch_ns && (engine->lifts_wait || !kvx_list_empty(&engine->watched)))
		nap_ns = watch_ns;
	return nap_ns < 0 ? 0 : nap_ns;
}

int kvx_worker_sleep(struct kvx_engine *engine, int64_t deadline_ns)
{
	int done = 0;

	if (!kvx_worker_arm(engine)) {
		int64_t nap_ns = kvx_worker_nap_ns(engine), left_ns = deadline_ns - kvx_now_ns();
		if (nap_ns > left_ns)
			nap_ns = left_ns > 0 ? left_ns : 0;
		kvx_poller_wait(&engine->poller, nap_ns);
		engine->now_ns = kvx_now_ns(); /* what the callbacks see */
		done = kvx_poller_dispatch(&engine->poller);
	}
	kvx_waker_disarm(&engine->waker);
	return done;
}

void *kvx_worker_run(void *context)
{
	struct kvx_engine *engine = context;
	int64_t busy_ns = kvx_now_ns();

	/* The default slack of 50 us would stretch the naps between looks at ready words. */
	prctl(PR_SET_TIMERSLACK, 1000UL);
	while (!atomic_load_explicit(&engine->stopping, memory_order_acquire)) {
		if (kvx_worker_step(engine)) {
			busy_ns = engine->now_ns;
		} else if (engine->now_ns - busy_ns >=
			   (int64_t)kvx_option(&engine->options, spin_us) * KVX_NS_PER_US) {
			if (kvx_worker_sleep(engine, KVX_NEVER_NS))
				busy_ns = engine->now_ns;
		} else {
			sched_yield(); /* whoever needs this core has work */
		}
	}
	return NULL;
}

/* --- where the engine's own thread runs --- */

/* Of the thread that waits for it. */
struct placement {
	struct kvx_submission submission;
	struct kvx_engine *engine;
	const struct kvx_topology *topology;
	uint32_t numa;
	int error;                         /* the worker's answer */
	char text[KVX_ERROR_TEXT_MAX + 1]; /* with it */
	_Atomic bool done;
};

/* The worker: binds itself. */
static void take_placement(struct kvx_submission *submission, uint32_t wanted)
{
	struct placement *placement = kvx_container_of(submission, struct placement, submission);

	(void)wanted;
	placement->error = kvx_topology_bind_numa(placement->topology, placement->numa);
	if (placement->error)
		snprintf(placement->text, sizeof(placement->text), "%s", kvx_error_text());
	kvx_engine_acknowledge(placement->engine, &placement->done);
}

/* The CPUs that the engine's thread may use; none where the kernel knows of more than the set has
 * room for. */
static void read_cpus(const struct kvx_engine *engine, cpu_set_t *cpus)
{
	if (pthread_getaffinity_np(engine->thread, sizeof(*cpus), cpus))
		CPU_ZERO(cpus);
}

void kvx_worker_place(struct kvx_engine *engine, const struct kvx_topology *topology, uint32_t numa,
		      const char *reason)
{
	struct placement placement = {.submission.take = take_placement,
				      .engine = engine,
				      .topology = topology,
				      .numa = numa};
	const struct kvx_log *log = &engine->options.log;
	cpu_set_t before, after;

	read_cpus(engine, &before);
	kvx_engine_request(engine, &placement.submission, 1, &placement.done);
	read_cpus(engine, &after);
	if (placement.error)
		kvx_log_write(log, KVX_LOG_WARNING,
			      "engine %s: its thread is not bound to NUMA node %u, %s: %s",
			      engine->name, numa, reason, placement.text);
	else if (CPU_EQUAL(&before, &after) && CPU_COUNT(&after))
		kvx_log_write(log, KVX_LOG_INFO,
			      "engine %s: its thread stays on its CPUs (%d): NUMA node %u, %s, has "
			      "all of them or none",
			      engine->name, CPU_COUNT(&after), numa, reason);
	else
		kvx_log_write(log, KVX_LOG_INFO,
			      "engine %s: its thread is bound to NUMA node %u, %s: %d of %d CPUs",
			      engine->name, numa, reason, CPU_COUNT(&after), CPU_COUNT(&before));
}
