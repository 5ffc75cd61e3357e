/* SPDX-License-Identifier: Apache-2.0 */
/* The engine: what all of the core shares. Who owns what is said at each group of fields. */
#ifndef KVX_CORE_ENGINE_H
#define KVX_CORE_ENGINE_H

#include "base/event.h"
#include "base/list.h"
#include "base/roster.h"
#include "base/submission.h"
#include "base/timer.h"
#include "core/device.h"
#include "core/drain.h"
#include "core/figures.h"
#include "core/staging.h"
#include "core/transfer.h"
#include "transport.h"

#include <kvxfer/kvxfer.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define KVX_STREAMS_MAX 65536u /* open at once in one engine */
#define KVX_PEERS_MAX 4096u    /* that connected to one engine */
#define KVX_LOST_MAX 64u       /* names of lost peers that are remembered */

struct kvx_control;
struct kvx_journal;
struct kvx_keyring;

#define KVX_REACH_ALL UINT32_MAX

struct kvx_engine_transport {
	const struct kvx_transport_ops *ops;
	struct kvx_transport *instance;
	struct kvx_transport_context context;
};

struct kvx_engine {
	/* Set when it opens, constant afterwards. */
	struct kvx_options options;
	char name[KVX_NAME_MAX + 1];
	uint64_t incarnation;
	char *address;
	struct kvx_engine_transport transports[KVX_TRANSPORTS_MAX];
	uint32_t transport_count;
	struct kvx_topology *topology;      /* NULL: not needed, off or not to be had */
	char *left_out[KVX_TRANSPORTS_MAX]; /* why, for each of the build; NULL: it is in */
	struct kvx_keyring *keyring;        /* NULL: no secret */
	int64_t opened_ns;
	struct kvx_control *control; /* NULL: off */

	/* Any thread. */
	struct kvx_submissions submissions;
	struct kvx_waker waker;
	struct kvx_event acknowledged; /* a submission that somebody waits for was done */
	_Atomic bool stopping;
	bool threaded;         /* has its own thread; constant */
	_Atomic bool unplaced; /* its thread goes near the NICs of the first region that has any;
				  set when it opens, cleared by who registers that */
	_Atomic(struct kvx_grant *)
		slots[KVX_GRANTS_MAX]; /* set by the opener, cleared by the worker */

	/* Under lock, which is held for a few instructions only, never over a transport. */
	pthread_mutex_t lock;
	struct kvx_list new_offers; /* that the worker has not taken yet */
	uint64_t offer_sequence;
	uint32_t generations[KVX_GRANTS_MAX];
	uint16_t free_slots[KVX_GRANTS_MAX]; /* a queue, so that a slot rests longest before its
						reuse */
	uint32_t free_first, free_count;

	/* Under lists, which is held while somebody who looks copies a few entries: openers and
	 * closers take it, the worker for peers that come and go. */
	pthread_mutex_t lists;
	struct kvx_roster regions, pools, grants, streams;
	struct kvx_roster peers; /* in both directions; the worker reads it without the lock, since
				  it alone changes it */
	uint64_t last_id;
	uint32_t region_count; /* ever made */
	struct kvx_devices devices;

	struct kvx_drain drain;
	_Atomic(struct kvx_journal *) journal; /* NULL: nobody has asked for events */
	struct kvx_figures figures;

	/* The worker's. */
	pthread_t thread;
	struct kvx_poller poller;
	struct kvx_timers timers;
	struct kvx_link *refused;    /* links of peers for which there was no memory */
	uint32_t incoming_count;     /* peers that connected to this engine */
	uint32_t lost_count;         /* peers that were lost */
	uint64_t lost[KVX_LOST_MAX]; /* hashes of names of peers lost last */
	struct kvx_list watched;     /* streams whose ready word is looked at */
	bool lifts_wait;             /* a rail has bytes to lift, and no buffer for them */
	struct kvx_staging staging;
	struct kvx_list offers;    /* that nobody has pulled yet */
	struct kvx_list holding;   /* streams with delivered layers that are not told of yet */
	bool report_at_once;       /* a grant is complete */
	int64_t report_ns;         /* when layers were reported last */
	struct kvx_list reporting; /* feeds with arrived layers that their sender was not told of */
	struct kvx_stream **stream_table; /* by the low bits of a stream's id */
	uint32_t stream_table_size;
	uint64_t stream_sequence;
	uint32_t steps_unpolled; /* since descriptors were looked at */
	int64_t now_ns;          /* when the step under way began */
	int64_t beat_ns; /* between looks at heartbeats: an eighth of the shortest, own or peers' */
	int64_t tick_ns; /* when heartbeats were looked at last */
	struct kvx_stats stats; /* written by the worker alone, with kvx_count() */
};

/* Which transports move some memory, as bits: transport i of the engine is bit i. */

/* Where peers find the engine over these transports; the caller frees it. NULL: no memory. */
char *kvx_engine_write_address(const struct kvx_engine *engine, uint32_t reach);

/* Is the link's transport one of them? */
bool kvx_engine_reaches(const struct kvx_engine *engine, uint32_t reach,
			const struct kvx_link *link);

/* Any thread: an object with a new id goes into one of the lists; it comes out again. */
void kvx_engine_enlist(struct kvx_engine *engine, struct kvx_roster *roster,
		       struct kvx_roster *entry, uint64_t *id);
void kvx_engine_delist(struct kvx_engine *engine, struct kvx_roster *entry);
uint64_t kvx_engine_next_id(struct kvx_engine *engine);

/* The same, unless it has users, which are under the engine's lock. Returns how many it has. */
uint32_t kvx_engine_delist_unused(struct kvx_engine *engine, struct kvx_roster *entry,
				  const uint32_t *users);

/* Single writer, so no locked instruction is needed; readers see each figure whole. */
#define kvx_count(engine, field, amount) \
	__atomic_store_n(&(engine)->stats.field, (engine)->stats.field + (amount), __ATOMIC_RELAXED)

/* Any thread: hands the submission to the worker and wakes it. */
void kvx_engine_submit(struct kvx_engine *engine, struct kvx_submission *submission,
		       uint32_t wanted);

/* Any thread: the same, and returns when the worker has set *done. The worker never blocks, so this
 * takes a step of its, not more. Where the caller drives the engine, it drives it. */
void kvx_engine_request(struct kvx_engine *engine, struct kvx_submission *submission,
			uint32_t wanted, _Atomic bool *done);

/* The worker: ends a kvx_engine_request(). The object may be freed from here on. */
void kvx_engine_acknowledge(struct kvx_engine *engine, _Atomic bool *done);

/* Waits for the event until the deadline, or drives the engine if nobody else does. May return
 * early. */
void kvx_engine_wait(struct kvx_engine *engine, struct kvx_event *event, uint32_t seen,
		     int64_t deadline_ns);

/* worker.c: one step: everything that can be done now. Returns how much it was. */
int kvx_worker_step(struct kvx_engine *engine);

/* Announces that the worker sleeps, then looks for work once more: true: there is some. What comes
 * later makes the poller ready. */
bool kvx_worker_arm(struct kvx_engine *engine);

/* How long it may sleep at most. */
int64_t kvx_worker_nap_ns(const struct kvx_engine *engine);

/* Sleeps until there is work, or the deadline, or for the longest nap. Returns how many descriptors
 * were ready. */
int kvx_worker_sleep(struct kvx_engine *engine, int64_t deadline_ns);

/* The body of the engine's thread. */
void *kvx_worker_run(void *context);

/* Not the worker: has the engine's own thread bind itself to a NUMA node, as far as it may use that
 * node's CPUs, and returns when it has. What came of it is in the log; reason: why there. */
void kvx_worker_place(struct kvx_engine *engine, const struct kvx_topology *topology, uint32_t numa,
		      const char *reason);

#endif
