/* SPDX-License-Identifier: Apache-2.0 */
#include "core/engine.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/control.h"
#include "core/grant.h"
#include "core/journal.h"
#include "core/peer.h"
#include "core/pool.h"
#include "core/region.h"
#include "core/stream.h"
#include "secret/secret.h"
#include "topology/topology.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* --- opening --- */

static int name_engine(struct kvx_engine *engine)
{
	char host[128] = "";

	if (strlen(engine->options.name) > KVX_NAME_MAX)
		return kvx_fail(KVX_E_INVALID, "engine: its name is longer than %u characters",
				KVX_NAME_MAX);
	gethostname(host, sizeof(host) - 1);
	if (engine->options.name[0])
		strcpy(engine->name, engine->options.name);
	else
		snprintf(engine->name, sizeof(engine->name), "%.40s-%d", host, (int)getpid());
	for (const char *c = engine->name; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			return kvx_fail(KVX_E_INVALID, "engine: its name has a control character");
	do {
		if (getrandom(&engine->incarnation, sizeof(engine->incarnation), 0) !=
		    sizeof(engine->incarnation))
			return kvx_fail(KVX_E_SYSTEM, "engine: getrandom gives no random bytes");
	} while (!engine->incarnation);
	return 0;
}

static int open_transport(struct kvx_engine *engine, const struct kvx_transport_ops *ops)
{
	struct kvx_engine_transport *transport = &engine->transports[engine->transport_count];

	transport->context = (struct kvx_transport_context){
		.sink = &kvx_engine_sink,
		.engine = engine,
		.poller = &engine->poller,
		.waker = &engine->waker,
		.log = &engine->options.log,
		.options = &engine->options,
		.keyring = engine->keyring,
		.incarnation = engine->incarnation,
		.index = engine->transport_count,
	};
	int error = ops->open(&transport->context, &transport->instance);

	if (error)
		return error;
	transport->ops = ops;
	engine->transport_count++;
	return 0;
}

/* All that work; one that cannot work on this machine is left out, with a line in the log. */
static int open_all_transports(struct kvx_engine *engine)
{
	for (size_t i = 0; kvx_transports[i]; i++) {
		int error = open_transport(engine, kvx_transports[i]);
		if (error && error != KVX_E_UNSUPPORTED)
			return error;
		if (!error)
			continue;
		kvx_log_write(&engine->options.log, KVX_LOG_INFO, "transport %s: left out: %s",
			      kvx_transports[i]->name, kvx_error_text());
		engine->left_out[i] = strdup(kvx_error_text());
	}
	return 0;
}

static int fail_no_transport(const char *name)
{
	char known[128] = "auto for all";

	for (size_t i = 0; kvx_transports[i]; i++) {
		size_t length = strlen(known);
		snprintf(known + length, sizeof(known) - length, ", %s", kvx_transports[i]->name);
	}
	return kvx_fail(KVX_E_UNSUPPORTED,
			"engine: no transport \"%s\" in this build; option transports takes %s",
			name, known);
}

static int open_listed_transports(struct kvx_engine *engine)
{
	char list[KVX_OPTION_TEXT_MAX + 1], *rest = list, *name;

	strcpy(list, engine->options.transports);
	while ((name = strsep(&rest, ","))) {
		const struct kvx_transport_ops *ops = kvx_transport_find(name);
		if (!ops)
			return fail_no_transport(name);
		for (uint32_t i = 0; i < engine->transport_count; i++)
			if (engine->transports[i].ops == ops)
				return kvx_fail(KVX_E_INVALID,
						"engine: transport %s is named twice", name);
		int error = open_transport(engine, ops);
		if (error)
			return error;
	}
	return 0;
}

static void close_transports(struct kvx_engine *engine)
{
	while (engine->transport_count) {
		struct kvx_engine_transport *last = &engine->transports[--engine->transport_count];
		last->ops->close(last->instance);
	}
}

static int open_transports(struct kvx_engine *engine)
{
	int error = strcmp(engine->options.transports, "auto") == 0
			    ? open_all_transports(engine)
			    : open_listed_transports(engine);

	if (!error && !engine->transport_count)
		error = kvx_fail(KVX_E_UNSUPPORTED, "engine: no transport works on this machine");
	if (error)
		close_transports(engine);
	return error;
}

char *kvx_engine_write_address(const struct kvx_engine *engine, uint32_t reach)
{
	size_t room = (size_t)engine->transport_count * (KVX_ADDRESS_MAX + 32), length = 0;
	char *address = calloc(1, room + 1);

	for (uint32_t i = 0; address && i < engine->transport_count; i++) {
		const struct kvx_engine_transport *transport = &engine->transports[i];
		if (!(reach >> i & 1))
			continue;
		length += (size_t)snprintf(address + length, room - length, "%s%s:%s",
					   length ? "," : "", transport->ops->name,
					   transport->ops->address(transport->instance));
	}
	return address;
}

bool kvx_engine_reaches(const struct kvx_engine *engine, uint32_t reach,
			const struct kvx_link *link)
{
	for (uint32_t i = 0; i < engine->transport_count; i++)
		if (engine->transports[i].ops == link->ops)
			return reach >> i & 1;
	return false;
}

static int write_address(struct kvx_engine *engine)
{
	engine->address = kvx_engine_write_address(engine, KVX_REACH_ALL);
	return engine->address ? 0 : kvx_fail(KVX_E_MEMORY, "engine: out of memory");
}

static void init_lists(struct kvx_engine *engine)
{
	pthread_mutex_init(&engine->lists, NULL);
	kvx_drain_init(&engine->drain);
	kvx_roster_init(&engine->regions);
	kvx_roster_init(&engine->pools);
	kvx_roster_init(&engine->grants);
	kvx_roster_init(&engine->streams);
	kvx_roster_init(&engine->peers);
	kvx_list_init(&engine->watched);
	kvx_list_init(&engine->holding);
	kvx_list_init(&engine->offers);
	kvx_list_init(&engine->new_offers);
	pthread_mutex_init(&engine->staging.mutex, NULL);
	pthread_mutex_init(&engine->devices.mutex, NULL);
	kvx_list_init(&engine->reporting);
	for (uint32_t slot = 0; slot < KVX_GRANTS_MAX; slot++)
		engine->free_slots[slot] = (uint16_t)slot;
	engine->free_count = KVX_GRANTS_MAX;
}

/* Only one-sided transports have ports to choose from. */
static bool needs_topology(const struct kvx_engine *engine)
{
	if (strcmp(engine->options.topology, "off") == 0)
		return false;
	for (uint32_t i = 0; i < engine->transport_count; i++)
		if (engine->transports[i].ops->one_sided)
			return true;
	return false;
}

/* Without an override it is a help, not a need. */
static int open_topology(struct kvx_engine *engine)
{
	if (!needs_topology(engine))
		return 0;
	int error = kvx_topology_open(NULL, engine->options.topology, &engine->topology);
	if (!error || strcmp(engine->options.topology, "auto") != 0)
		return error;
	kvx_log_write(&engine->options.log, KVX_LOG_WARNING,
		      "topology: %s: all ports are taken to be alike", kvx_error_text());
	return 0;
}

static int start_thread(struct kvx_engine *engine)
{
	sigset_t all, old;

	/* The application's signals are for its own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int error = pthread_create(&engine->thread, NULL, kvx_worker_run, engine);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (error)
		return kvx_fail(KVX_E_SYSTEM, "engine: cannot start its thread: %s",
				strerror(error));
	pthread_setname_np(engine->thread, "kvxfer");
	return 0;
}

/* --- where its thread runs --- */

static bool has_several_nodes(const struct kvx_topology *topology)
{
	struct kvx_topology_place place;
	uint32_t nodes = 0;

	for (uint32_t p = 0; kvx_topology_place(topology, p, &place) == 0; p++)
		nodes += place.kind == KVX_PLACE_NUMA;
	return nodes > 1;
}

static int fail_node(const struct kvx_engine *engine, const char *what)
{
	return kvx_fail(KVX_E_INVALID,
			"engine: option progress_numa: \"%.64s\" %s; it takes auto, off or the "
			"number of a NUMA node that has CPUs",
			engine->options.progress_numa, what);
}

/* The node that the option names. */
static int find_node(const struct kvx_engine *engine, const struct kvx_topology *topology,
		     uint32_t *numa)
{
	const char *value = engine->options.progress_numa;
	struct kvx_topology_place place;
	struct kvx_topology_box box;
	uint32_t index;
	char *end;
	unsigned long number = strtoul(value, &end, 10);

	if (number >= KVX_TOPOLOGY_NONE ||
	    kvx_topology_place_of_numa(topology, (uint32_t)number, &index))
		return fail_node(engine, "is not a NUMA node of this machine");
	/* Memory without CPUs stands in its package. */
	if (kvx_topology_place(topology, index, &place) ||
	    kvx_topology_box(topology, place.box, &box) || box.numa != number)
		return fail_node(engine, "has no CPUs");
	*numa = (uint32_t)number;
	return 0;
}

static bool is_number(const char *text)
{
	return *text && strspn(text, "0123456789") == strlen(text);
}

/* On the node that the option names, whatever its memory. */
static int start_on_node(struct kvx_engine *engine)
{
	struct kvx_topology *opened = NULL;
	const struct kvx_topology *topology = engine->topology;
	uint32_t numa = KVX_TOPOLOGY_NONE;
	int error = topology ? 0 : kvx_topology_open(NULL, NULL, &opened);

	if (error)
		return error;
	topology = topology ? topology : opened;
	error = find_node(engine, topology, &numa);
	if (!error && engine->threaded) {
		error = start_thread(engine);
		if (!error && has_several_nodes(topology))
			kvx_worker_place(engine, topology, numa, "as option progress_numa says");
	}
	kvx_topology_close(opened);
	return error;
}

/* A machine of one node has nothing to choose from. */
static int start(struct kvx_engine *engine)
{
	const char *numa = engine->options.progress_numa;

	engine->threaded = strcmp(engine->options.progress, "thread") == 0;
	if (is_number(numa))
		return start_on_node(engine);
	if (strcmp(numa, "auto") != 0 && strcmp(numa, "off") != 0)
		return fail_node(engine, "is none of these");
	engine->unplaced = engine->threaded && strcmp(numa, "auto") == 0 && engine->topology &&
			   has_several_nodes(engine->topology);
	return engine->threaded ? start_thread(engine) : 0;
}

static int open_keyring(struct kvx_engine *engine)
{
	return engine->options.secret_file[0]
		       ? kvx_keyring_open(engine->options.secret_file, &engine->keyring)
		       : 0;
}

static int open_engine(struct kvx_engine *engine)
{
	int error = name_engine(engine);

	if (error)
		return error;
	pthread_mutex_init(&engine->lock, NULL);
	kvx_event_init(&engine->acknowledged);
	init_lists(engine);
	error = kvx_poller_init(&engine->poller);
	if (error)
		goto fail_poller;
	error = kvx_waker_init(&engine->waker, &engine->poller);
	if (error)
		goto fail_waker;
	error = open_keyring(engine);
	if (error)
		goto fail_keyring;
	error = open_transports(engine);
	if (error)
		goto fail_transports;
	error = open_topology(engine);
	if (error)
		goto fail_topology;
	error = write_address(engine);
	if (error)
		goto fail_address;
	engine->opened_ns = engine->now_ns = engine->tick_ns = kvx_now_ns();
	engine->beat_ns = (int64_t)engine->options.heartbeat_ms * KVX_NS_PER_MS / 8;
	error = start(engine);
	if (error)
		goto fail_start;
	return 0;

fail_start:
	free(engine->address);
fail_address:
	kvx_topology_close(engine->topology);
fail_topology:
	close_transports(engine);
fail_transports:
	kvx_keyring_close(engine->keyring);
fail_keyring:
	kvx_waker_finish(&engine->waker, &engine->poller);
fail_waker:
	kvx_poller_finish(&engine->poller);
fail_poller:
	kvx_event_finish(&engine->acknowledged);
	pthread_mutex_destroy(&engine->lock);
	pthread_mutex_destroy(&engine->lists);
	pthread_mutex_destroy(&engine->staging.mutex);
	pthread_mutex_destroy(&engine->devices.mutex);
	return error;
}

static void free_left_out(struct kvx_engine *engine)
{
	for (uint32_t i = 0; i < KVX_TRANSPORTS_MAX; i++)
		free(engine->left_out[i]);
}

int kvx_engine_open(const struct kvx_options *options, struct kvx_engine **engine)
{
	struct kvx_options *own = NULL;
	int error = 0;

	if (!engine)
		return kvx_fail(KVX_E_INVALID, "engine: NULL argument");
	if (!options)
		error = kvx_options_new(&own);
	if (error)
		return error;
	struct kvx_engine *made = calloc(1, sizeof(*made));
	if (!made) {
		kvx_options_free(own);
		return kvx_fail(KVX_E_MEMORY, "engine: out of memory");
	}
	made->options = options ? *options : *own;
	kvx_options_free(own);
	error = open_engine(made);
	if (error) {
		free_left_out(made);
		free(made);
		return error;
	}
	kvx_log_write(&made->options.log, KVX_LOG_INFO, "engine %s (%016llx): open at %s",
		      made->name, (unsigned long long)made->incarnation, kvx_engine_address(made));
	error = kvx_control_open(made, &made->control);
	if (error) {
		kvx_engine_close(made);
		return error;
	}
	*engine = made;
	return 0;
}

/* --- closing --- */

static void end_streams(struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &engine->streams.list) {
		struct kvx_stream *stream = kvx_container_of(entry, struct kvx_stream, entry.list);
		kvx_stream_end(stream, KVX_E_CANCELLED, "stream: the sender closed its engine",
			       true);
	}
}

static void end_grants(struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &engine->grants.list) {
		struct kvx_grant *grant = kvx_container_of(entry, struct kvx_grant, entry.list);
		kvx_grant_end(grant, KVX_E_REVOKED, "grant: the receiver closed its engine");
	}
}

static bool hardware_may_write(const struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &engine->streams.list)
		if (kvx_stream_is_read(kvx_container_of(entry, struct kvx_stream, entry.list)))
			return true;
	kvx_list_for_each (entry, next, &engine->grants.list)
		if (!kvx_grant_is_fenced(kvx_container_of(entry, struct kvx_grant, entry.list)))
			return true;
	return false;
}

/* Links are disconnected, but one-sided transports and devices take a moment to end what hardware
 * does. */
static void await_hardware(struct kvx_engine *engine)
{
	while (hardware_may_write(engine)) {
		engine->now_ns = kvx_now_ns();
		for (uint32_t i = 0; i < engine->transport_count; i++)
			engine->transports[i].ops->progress(engine->transports[i].instance,
							    engine->now_ns);
		kvx_devices_progress(engine);
		kvx_poller_run(&engine->poller, KVX_NS_PER_MS);
		kvx_peers_finish(engine); /* who connected in the meantime */
	}
}

static void free_transfers(struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &engine->streams.list)
		kvx_stream_free(kvx_container_of(entry, struct kvx_stream, entry.list));
	kvx_list_for_each (entry, next, &engine->grants.list)
		kvx_grant_free(kvx_container_of(entry, struct kvx_grant, entry.list));
}

static void free_memory(struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &engine->pools.list)
		kvx_pool_free(kvx_container_of(entry, struct kvx_pool, entry.list));
	kvx_list_for_each (entry, next, &engine->regions.list)
		kvx_region_free(kvx_container_of(entry, struct kvx_region, entry.list));
}

void kvx_engine_close(struct kvx_engine *engine)
{
	if (!engine)
		return;
	kvx_control_close(engine->control);
	atomic_store(&engine->stopping, true);
	kvx_waker_wake(&engine->waker);
	if (engine->threaded)
		pthread_join(engine->thread, NULL);
	/* From here on this thread is the worker. What was submitted last still counts. */
	engine->now_ns = kvx_now_ns();
	kvx_submissions_take(&engine->submissions);
	end_streams(engine);
	end_grants(engine);
	kvx_peers_finish(engine);
	await_hardware(engine);
	kvx_devices_finish(engine);
	free_transfers(engine);
	free_memory(engine);
	close_transports(engine);
	kvx_keyring_close(engine->keyring);
	kvx_topology_close(engine->topology);
	kvx_waker_finish(&engine->waker, &engine->poller);
	kvx_poller_finish(&engine->poller);
	kvx_timers_finish(&engine->timers);
	kvx_event_finish(&engine->acknowledged);
	pthread_mutex_destroy(&engine->lock);
	pthread_mutex_destroy(&engine->lists);
	pthread_mutex_destroy(&engine->staging.mutex);
	pthread_mutex_destroy(&engine->devices.mutex);
	kvx_journal_free(engine->journal);
	free_left_out(engine);
	free(engine->staging.next);
	free(engine->stream_table);
	free(engine->address);
	free(engine);
}

/* --- looking --- */

const char *kvx_engine_name(const struct kvx_engine *engine)
{
	return engine->name;
}

uint64_t kvx_engine_incarnation(const struct kvx_engine *engine)
{
	return engine->incarnation;
}

const char *kvx_engine_address(const struct kvx_engine *engine)
{
	return engine->address;
}

void kvx_engine_stats(const struct kvx_engine *engine, struct kvx_stats *stats)
{
	const uint64_t *from = (const uint64_t *)&engine->stats;
	uint64_t *to = (uint64_t *)stats;

	_Static_assert(sizeof(*stats) % sizeof(uint64_t) == 0, "nothing but 64-bit figures");
	for (size_t i = 0; i < sizeof(*stats) / sizeof(uint64_t); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

/* --- lists --- */

void kvx_engine_enlist(struct kvx_engine *engine, struct kvx_roster *roster,
		       struct kvx_roster *entry, uint64_t *id)
{
	pthread_mutex_lock(&engine->lists);
	*id = ++engine->last_id;
	kvx_roster_insert(roster, entry, *id);
	pthread_mutex_unlock(&engine->lists);
}

uint64_t kvx_engine_next_id(struct kvx_engine *engine)
{
	pthread_mutex_lock(&engine->lists);
	uint64_t id = ++engine->last_id;
	pthread_mutex_unlock(&engine->lists);
	return id;
}

void kvx_engine_delist(struct kvx_engine *engine, struct kvx_roster *entry)
{
	pthread_mutex_lock(&engine->lists);
	kvx_roster_remove(entry);
	pthread_mutex_unlock(&engine->lists);
}

uint32_t kvx_engine_delist_unused(struct kvx_engine *engine, struct kvx_roster *entry,
				  const uint32_t *users)
{
	pthread_mutex_lock(&engine->lists);
	pthread_mutex_lock(&engine->lock);
	uint32_t count = *users;
	pthread_mutex_unlock(&engine->lock);
	if (!count)
		kvx_roster_remove(entry);
	pthread_mutex_unlock(&engine->lists);
	return count;
}

/* --- progress and waiting --- */

int kvx_engine_progress(struct kvx_engine *engine)
{
	if (engine->threaded)
		return kvx_fail(
			KVX_E_INVALID,
			"engine %s has its own thread; open it with progress=caller to drive it",
			engine->name);
	kvx_waker_disarm(&engine->waker);
	int done = kvx_worker_step(engine);
	/* From here on kvx_engine_fd() tells of what comes next. */
	return done ? done : kvx_worker_arm(engine);
}

int kvx_engine_fd(const struct kvx_engine *engine)
{
	return engine->threaded ? -1 : engine->poller.fd;
}

int kvx_engine_timeout_ms(const struct kvx_engine *engine)
{
	/* A wait, revoke or close has driven it since the last kvx_engine_progress(): its
	 * descriptor tells of nothing until the next. */
	if (!atomic_load_explicit(&engine->waker.sleeping, memory_order_relaxed))
		return 0;
	return (int)((kvx_worker_nap_ns(engine) + KVX_NS_PER_MS - 1) / KVX_NS_PER_MS);
}

void kvx_engine_submit(struct kvx_engine *engine, struct kvx_submission *submission,
		       uint32_t wanted)
{
	kvx_submit(&engine->submissions, submission, wanted);
	kvx_waker_wake(&engine->waker);
}

void kvx_engine_request(struct kvx_engine *engine, struct kvx_submission *submission,
			uint32_t wanted, _Atomic bool *done)
{
	kvx_engine_submit(engine, submission, wanted);
	for (;;) {
		uint32_t seen = kvx_event_sequence(&engine->acknowledged);
		if (atomic_load_explicit(done, memory_order_acquire))
			return;
		kvx_engine_wait(engine, &engine->acknowledged, seen, kvx_now_ns() + KVX_NS_PER_S);
	}
}

void kvx_engine_acknowledge(struct kvx_engine *engine, _Atomic bool *done)
{
	atomic_store_explicit(done, true, memory_order_release);
	kvx_event_notify(&engine->acknowledged);
}

void kvx_engine_wait(struct kvx_engine *engine, struct kvx_event *event, uint32_t seen,
		     int64_t deadline_ns)
{
	if (engine->threaded)
		kvx_event_wait(event, seen, deadline_ns,
			       (int64_t)kvx_option(&engine->options, spin_us) * KVX_NS_PER_US);
	else if (!kvx_worker_step(engine))
		kvx_worker_sleep(engine, deadline_ns);
}
