/* SPDX-License-Identifier: Apache-2.0 */
#include "worker.h"

#include "capacity.h"
#include "child.h"
#include "endpoint.h"
#include "failure.h"
#include "machine.h"

#include <kvxfer/operate.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define BLOCKS_MAX (UINT64_C(1) << 28) /* of the pool */
#define MEMORY_SHARE 0.7               /* of what is available that the pool may take */
#define LOOK_MS 20                     /* how often a drain is looked at */
#define ARGUMENTS_MAX (2 * KVX_ENGINE_OPTIONS_MAX + 16)

static void add_text(json_t *options, const char *name, const char *value)
{
	if (value)
		json_object_set_new(options, name, json_string(value));
}

static json_t *engine_options(const struct kvx_settings *settings)
{
	json_t *options = json_object();

	add_text(options, "transports", settings->transport);
	add_text(options, "name", settings->name);
	add_text(options, "control", settings->control);
	add_text(options, "control_listen", settings->control_listen);
	add_text(options, "secret_file", settings->secret);
	for (uint32_t i = 0; i < settings->engine_options.count; i++) {
		char name[64];
		const char *value;
		if (!kvx_engine_option_split(settings->engine_options.texts[i], name, sizeof(name),
					     &value))
			add_text(options, name, value);
	}
	return options;
}

/* As many requests as fill --pool-bytes, or what memory there is for. */
static int plan_slots(const struct kvx_settings *settings, uint32_t *slots)
{
	const struct kvx_shape *shape = &settings->shape;
	uint64_t available = kvx_machine_available_bytes();
	const struct kvx_capacity capacity = {
		.request_bytes = kvx_shape_request_bytes(shape, shape->blocks),
		.pool_bytes = settings->pool_bytes,
		.available_bytes = (uint64_t)((double)available * MEMORY_SHARE),
		.pools = 1,
		.inflight = 1,
		.blocks = shape->blocks,
		.blocks_max = BLOCKS_MAX,
	};
	uint32_t inflight;

	if (kvx_capacity_plan(&capacity, slots, &inflight))
		return 0;
	return kvx_failure_set("pool: no memory for a request of %llu MiB; %llu MiB are "
			       "available; use fewer --tokens or --blocks",
			       (unsigned long long)(capacity.request_bytes >> 20),
			       (unsigned long long)(capacity.available_bytes >> 20));
}

static int open_worker(const struct kvx_settings *settings, struct kvx_endpoint *endpoint)
{
	const struct kvx_shape *shape = &settings->shape;
	uint32_t slots;

	if (plan_slots(settings, &slots))
		return -1;
	struct kvx_setup setup = {
		.layers = shape->layers,
		.planes = shape->planes,
		.block_bytes = shape->block_bytes,
		.block_tokens = shape->block_tokens,
		.request_blocks = shape->blocks,
		.slots = slots,
		.table = settings->table,
		.seed = settings->fill,
		.plain_memory = settings->plain_memory,
		.payload = json_string("pattern"),
		.options = engine_options(settings),
	};
	if (kvx_endpoint_open(endpoint, &setup, KVX_END_SENDER, settings->verbose))
		return -1;
	for (uint32_t slot = 0; settings->fill && slot < slots; slot++)
		kvx_endpoint_fill(endpoint, slot, slot, shape->blocks);
	return 0;
}

static void print_ready(const struct kvx_endpoint *endpoint)
{
	const struct kvx_setup *setup = &endpoint->setup;

	printf("worker %s: control %s, pool %llu: %u layers, %u planes, %u blocks of %u bytes\n",
	       kvx_engine_name(endpoint->engine), kvx_engine_control(endpoint->engine),
	       (unsigned long long)kvx_pool_id(endpoint->pool), setup->layers, setup->planes,
	       setup->request_blocks * setup->slots, setup->block_bytes);
	fflush(stdout);
}

/* Sessions of the bench are another process, which ends with this one: each has an engine and
 * memory of its own. */
static int start_sessions(const struct kvx_settings *settings, pid_t *child)
{
	char *arguments[ARGUMENTS_MAX] = {"/proc/self/exe", "serve", "--listen",
					  (char *)settings->listen};
	char sessions[24];
	uint32_t count = 4;

	if (settings->unauthenticated_network)
		arguments[count++] = "--unauthenticated-network";
	if (settings->verbose)
		arguments[count++] = "--verbose";
	if (settings->sessions) {
		snprintf(sessions, sizeof(sessions), "%llu",
			 (unsigned long long)settings->sessions);
		arguments[count++] = "--sessions";
		arguments[count++] = sessions;
	}
	for (uint32_t i = 0; i < settings->engine_options.count; i++) {
		arguments[count++] = "--option";
		arguments[count++] = (char *)settings->engine_options.texts[i];
	}
	return kvx_child_start(arguments, KVX_CHILD_INHERIT, KVX_CHILD_INHERIT, child);
}

/* Until nothing goes on, or the deadline. False: a signal came first. */
static bool wait_for_drain(struct kvx_engine *engine, const sigset_t *signals,
			   struct kvx_drain_view *view)
{
	const struct timespec look = {.tv_nsec = LOOK_MS * 1000000L};

	while (view->state == KVX_DRAIN_WAITING) {
		if (sigtimedwait(signals, NULL, &look) > 0)
			return false;
		kvx_engine_drain_state(engine, view);
	}
	return true;
}

static bool drain(struct kvx_engine *engine, uint32_t deadline_ms, const sigset_t *signals)
{
	struct kvx_drain_view view;

	if (kvx_engine_drain(engine, deadline_ms)) {
		fprintf(stderr, "kvxfer-bench: %s\n", kvx_error_text());
		return false;
	}
	kvx_engine_drain_state(engine, &view);
	if (view.state == KVX_DRAIN_WAITING)
		fprintf(stderr,
			"draining for at most %u ms: %u grants, %u streams; a second signal ends "
			"at once\n",
			deadline_ms, view.grants, view.streams);
	if (!wait_for_drain(engine, signals, &view))
		return false;
	if (view.state == KVX_DRAIN_OVERDUE)
		fprintf(stderr, "cut off after %u ms: %u grants, %u streams\n", deadline_ms,
			view.grants, view.streams);
	return true;
}

/* Signals are taken by this thread alone: those of the engine inherit that they are blocked. */
static int live(const struct kvx_settings *settings, const sigset_t *signals)
{
	struct kvx_endpoint endpoint;
	int number;

	if (open_worker(settings, &endpoint))
		return -1;
	print_ready(&endpoint);
	sigwait(signals, &number);
	bool drained = drain(endpoint.engine, (uint32_t)settings->drain_ms, signals);
	/* Closing ends what still goes on. A further signal ends the program. */
	pthread_sigmask(SIG_UNBLOCK, signals, NULL);
	kvx_endpoint_close(&endpoint);
	return drained ? 0 : 1;
}

int kvx_worker_run(const struct kvx_settings *settings)
{
	pid_t sessions = 0;
	sigset_t signals;

	/* Earlier than the signals are blocked, which another program would inherit. */
	if (settings->listen && start_sessions(settings, &sessions)) {
		fprintf(stderr, "kvxfer-bench: %s\n", kvx_failure_text());
		return 1;
	}
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	int status = live(settings, &signals);
	if (status < 0)
		fprintf(stderr, "kvxfer-bench: %s\n", kvx_failure_text());
	kvx_child_stop(sessions);
	return status ? 1 : 0;
}
