/* SPDX-License-Identifier: Apache-2.0 */
/* A seed: nodes are made, take turns while things go wrong, and come to rest. */
#include "world.h"

#include "core/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TURNS_MAX 400000 /* of a seed: more is a loop without end */
#define SETTLE_NS (50 * MS)

struct world world;

void world_wake(uint32_t node, int64_t when_ns)
{
	struct node *woken = &world.nodes[node];

	if (when_ns < woken->wake_ns)
		woken->wake_ns = when_ns;
}

/* --- engines --- */

static void set_option(struct kvx_options *options, const char *name, const char *value)
{
	if (kvx_options_set(options, name, value))
		sim_broken("option %s: %s", name, kvx_error_text());
}

static void set_number(struct kvx_options *options, const char *name, uint32_t value)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", value);
	set_option(options, name, text);
}

static void log_line(void *context, enum kvx_log_level level, const char *line)
{
	(void)context;
	(void)level;
	sim_trace("log %s", line);
}

void world_open_engine(struct node *node)
{
	static const char *const transports[] = {"put", "nic", "nic,put", "put,nic"};
	struct kvx_options *options;
	char name[8];

	snprintf(name, sizeof(name), "node%u", node->index);
	if (kvx_options_new(&options))
		sim_broken("options: %s", kvx_error_text());
	node->heartbeat_ms = world.heartbeat_max_ms >> sim_below(2);
	set_option(options, "name", name);
	set_option(options, "progress", "caller");
	set_option(options, "topology", "off");
	set_option(options, "progress_numa", "off");
	set_option(options, "staging", sim_percent(2) ? "on" : "off");
	set_option(options, "staging_bytes", "262144");
	set_option(options, "transports", transports[world.transports]);
	set_number(options, "heartbeat_ms", node->heartbeat_ms);
	set_number(options, "connect_timeout_ms", CONNECT_MS);
	set_number(options, "drain_ms", DRAIN_MS);
	set_number(options, "unit_bytes", 4096);
	if (sim_verbose)
		kvx_options_log(options, log_line, NULL);
	if (kvx_engine_open(options, &node->engine))
		sim_broken("engine: %s", kvx_error_text());
	kvx_options_free(options);
	node->incarnation = kvx_engine_incarnation(node->engine);
	node->wake_ns = sim_now_ns;
	node->stalled_until_ns = 0;
	node->restart_ns = NEVER;
	node->drains = false;
	node->units = node->grants = node->grants_complete = 0;
	net.dead[node->index] = false;
	store_open(&node->store, node->index, node->engine);
}

void world_disturb(uint32_t a, uint32_t b, int64_t duration_ns)
{
	int64_t until_ns = sim_now_ns + duration_ns + 2 * world.heartbeat_max_ms * MS + 20 * MS;

	if (until_ns > world.disturbed_until_ns[a][b])
		world.disturbed_until_ns[a][b] = world.disturbed_until_ns[b][a] = until_ns;
	requests_disturbed(a, b);
}

void world_disturb_all(uint32_t node, int64_t duration_ns)
{
	for (uint32_t other = 0; other < world.node_count; other++)
		world_disturb(node, other, duration_ns);
}

/* Its process is gone at once; the engine is closed behind everybody's back to free what it had. */
void world_kill(struct node *node, bool silent)
{
	struct grave *grave = &world.graves[world.grave_count++ % GRAVES_MAX];

	int64_t from_ns = sim_now_ns;

	sim_trace("node %u is killed%s", node->index, silent ? ", and nobody is told" : "");
	for (uint32_t i = 0; i < world.node_count; i++)
		if (world.nodes[i].stalled_until_ns > from_ns)
			from_ns = world.nodes[i].stalled_until_ns;
	*grave = (struct grave){node->incarnation,
				from_ns + 2 * node->heartbeat_ms * MS + 5 * MS +
					4 * (world.jitter_ns + net.latency_ns + net.jitter_ns)};
	world_disturb_all(node->index, 4 * world.heartbeat_max_ms * MS);
	requests_bury(node->index);
	net_kill(node->index, silent);
	world.burying = true;
	world_block(node);
	kvx_engine_close(node->engine);
	world_unblock();
	world.burying = false;
	node->engine = NULL;
	node->wake_ns = NEVER;
	store_vanish(&node->store);
}

/* --- turns --- */

/* Whoever was lost has been noticed, also by an engine that was stopped meanwhile. */
static void check_graves(const struct node *node)
{
	struct kvx_peer_view views[16];
	int count = kvx_engine_peers(node->engine, 0, views, 16);

	for (uint32_t g = 0; g < world.grave_count && g < GRAVES_MAX; g++) {
		const struct grave *grave = &world.graves[g];
		if (sim_now_ns <= grave->lost_ns)
			continue;
		for (int i = 0; i < count; i++)
			if (views[i].info.incarnation == grave->incarnation &&
			    views[i].info.state == KVX_PEER_UP)
				sim_broken(
					"node %u: a peer that died is up %lld ms after two of its "
					"heartbeats",
					node->index,
					(long long)((sim_now_ns - grave->lost_ns) / MS));
	}
}

static void drive(struct node *node)
{
	int64_t begin_ns = sim_now_ns;
	int done = kvx_engine_progress(node->engine);

	sim_counts.steps++;
	sim_note((uint64_t)begin_ns << 3 ^ node->index ^ (uint64_t)(uint32_t)done << 40);
	if (done < 0)
		sim_broken("node %u: progress: %s", node->index, kvx_error_text());
	if (done) {
		node->wake_ns = sim_now_ns + sim_span(1, world.jitter_ns);
	} else {
		int64_t net_ns = net_next_ns(node->index);
		node->wake_ns = sim_now_ns + kvx_engine_timeout_ms(node->engine) * MS;
		if (net_ns < node->wake_ns)
			node->wake_ns = net_ns > sim_now_ns ? net_ns : sim_now_ns;
		node->wake_ns += sim_span(0, world.jitter_ns / 4);
	}
	if (sim_percent(5))
		check_graves(node);
	requests_check(node);
	if (sim_percent(25))
		store_check_some(&node->store);
}

static int64_t turn_ns(const struct node *node)
{
	if (!node->engine || node == world.blocked)
		return NEVER;
	return node->wake_ns > node->stalled_until_ns ? node->wake_ns : node->stalled_until_ns;
}

/* Whose turn among engines and hardware is next; NULL: the hardware's. */
static struct node *choose(int64_t *when_ns)
{
	struct node *first = NULL;

	*when_ns = nic_next_ns();
	for (uint32_t i = 0; i < world.node_count; i++) {
		struct node *node = &world.nodes[i];
		if (turn_ns(node) >= *when_ns)
			continue;
		*when_ns = turn_ns(node);
		first = node;
	}
	return first;
}

static void advance(int64_t when_ns)
{
	if (when_ns > sim_now_ns)
		sim_now_ns = when_ns;
}

static void turn(struct node *node)
{
	if (node)
		drive(node);
	else
		nic_run();
}

/* A call waits for the blocked node: the others go on until something can happen there. */
static void sleeper(int64_t timeout_ns)
{
	static bool within;
	int64_t until_ns = sim_now_ns + timeout_ns;

	if (within || !world.blocked || world.burying)
		return;
	within = true;
	for (int turns = 0;; turns++) {
		int64_t when_ns, woken_ns = net_next_ns(world.blocked->index);
		struct node *node = choose(&when_ns);
		if (turns > TURNS_MAX)
			sim_broken("node %u: a call does not come back", world.blocked->index);
		if (woken_ns < until_ns)
			until_ns = woken_ns > sim_now_ns ? woken_ns : sim_now_ns;
		if (when_ns > until_ns || (!timeout_ns && turns > 3))
			break;
		advance(when_ns);
		turn(node);
	}
	if (timeout_ns)
		advance(until_ns);
	within = false;
}

void world_block(struct node *node)
{
	world.blocked = node;
}

void world_unblock(void)
{
	world.blocked->wake_ns = sim_now_ns;
	world.blocked = NULL;
}

/* --- the end of a seed --- */

static void check_stats(const struct node *node)
{
	struct kvx_stats stats;

	kvx_engine_stats(node->engine, &stats);
	if (stats.units_received != node->units)
		sim_broken("node %u: it counted %llu units, its grants %llu", node->index,
			   (unsigned long long)stats.units_received,
			   (unsigned long long)node->units);
	if (stats.grants_completed != node->grants_complete ||
	    stats.grants_opened != node->grants ||
	    stats.grants_completed + stats.grants_failed != node->grants)
		sim_broken("node %u: %llu grants of %llu were complete, but it counted %llu, %llu "
			   "failed of %llu",
			   node->index, (unsigned long long)node->grants_complete,
			   (unsigned long long)node->grants,
			   (unsigned long long)stats.grants_completed,
			   (unsigned long long)stats.grants_failed,
			   (unsigned long long)stats.grants_opened);
	if (stats.streams_completed + stats.streams_failed != stats.streams_opened)
		sim_broken("node %u: of %llu streams %llu have ended", node->index,
			   (unsigned long long)stats.streams_opened,
			   (unsigned long long)(stats.streams_completed + stats.streams_failed));
}

static void check_peers(const struct node *node)
{
	struct kvx_peer_view views[64];
	int count = kvx_engine_peers(node->engine, 0, views, 64);

	for (int i = 0; i < count; i++) {
		bool known = views[i].info.incarnation == 0;
		for (uint32_t n = 0; n < world.node_count; n++)
			known |= world.nodes[n].engine &&
				 world.nodes[n].incarnation == views[i].info.incarnation;
		if (views[i].info.state == KVX_PEER_DOWN || views[i].transfers || !known)
			sim_broken("node %u: it keeps a peer that is down, has %u transfers or is "
				   "unknown (%s)",
				   node->index, views[i].transfers, views[i].info.why);
	}
}

/* Nothing is open any more, so nothing may be left. */
static void check_nothing_left(const struct node *node)
{
	struct kvx_engine *engine = node->engine;
	struct kvx_grant_view grant;
	struct kvx_stream_view stream;
	struct kvx_metrics metrics;

	kvx_engine_metrics(engine, &metrics);
	if (kvx_engine_grants(engine, 0, &grant, 1) || kvx_engine_streams(engine, 0, &stream, 1) ||
	    metrics.grants_open || metrics.streams_open || metrics.offers_open)
		sim_broken("node %u: grants or streams are left", node->index);
	if (engine->free_count != KVX_GRANTS_MAX)
		sim_broken("node %u: %u slots were not given back", node->index,
			   KVX_GRANTS_MAX - engine->free_count);
	for (uint32_t i = 0; i < engine->stream_table_size; i++)
		if (engine->stream_table[i])
			sim_broken("node %u: the worker still knows a stream", node->index);
	if (!kvx_list_empty(&engine->reporting) || !kvx_list_empty(&engine->holding) ||
	    !kvx_list_empty(&engine->watched) || !kvx_list_empty(&engine->offers) ||
	    !kvx_list_empty(&engine->new_offers))
		sim_broken("node %u: its lists are not empty", node->index);
	check_peers(node);
	check_stats(node);
}

static void check_drain(struct node *node)
{
	struct kvx_drain_view view;

	world_block(node);
	if (kvx_engine_drain(node->engine, 1000))
		sim_broken("drain: %s", kvx_error_text());
	world_unblock();
	kvx_engine_drain_state(node->engine, &view);
	if (view.state != KVX_DRAIN_DONE)
		sim_broken("node %u: %u grants and %u streams go on, but all are closed",
			   node->index, view.grants, view.streams);
}

static void close_all(void)
{
	for (uint32_t i = 0; i < world.node_count; i++) {
		struct node *node = &world.nodes[i];
		if (!node->engine)
			continue;
		store_check_all(&node->store);
		check_nothing_left(node);
		check_drain(node);
		world_block(node);
		store_close(&node->store);
		world_unblock();
	}
	for (uint32_t i = 0; i < world.node_count; i++) {
		struct node *node = &world.nodes[i];
		if (!node->engine)
			continue;
		world_block(node);
		kvx_engine_close(node->engine);
		node->engine = NULL;
		world_unblock();
		node->wake_ns = NEVER;
		store_vanish(&node->store);
	}
}

/* --- a seed --- */

static void open_world(void)
{
	static const int64_t jitters_ns[] = {5 * US, 50 * US, 500 * US};
	static const uint32_t heartbeats_ms[] = {60, 100, 400, 1000};

	world = (struct world){.node_count = sim_between(2, NODES_MAX),
			       .jitter_ns = jitters_ns[sim_below(3)],
			       .heartbeat_max_ms = heartbeats_ms[sim_below(4)],
			       .app_every_ns = sim_percent(50) ? 30 * US : 300 * US};
	world.transports = sim_below(4);
	world.all_placed = world.transports == 0;
	sim_sleeper = sleeper;
	net_open();
	faults_choose();
	store_shape();
	requests_open();
	for (uint32_t i = 0; i < world.node_count; i++) {
		world.nodes[i].index = i;
		world_open_engine(&world.nodes[i]);
	}
	world.app_pause_ns = world.app_every_ns;
	world.app_ns = world.fault_ns = sim_now_ns;
}

static void take_turn(void)
{
	int64_t when_ns;
	struct node *node = choose(&when_ns);

	if (world.app_ns <= when_ns && world.app_ns <= world.fault_ns) {
		advance(world.app_ns);
		world.app_pause_ns += world.app_pause_ns / 8;
		if (requests_act() || world.app_pause_ns > 10 * MS)
			world.app_pause_ns = world.app_every_ns;
		world.app_ns = sim_now_ns + sim_span(0, 2 * world.app_pause_ns);
	} else if (world.fault_ns < when_ns) {
		advance(world.fault_ns);
		world.fault_ns = sim_now_ns + sim_span(0, 2 * world.fault_every_ns);
		faults_happen();
	} else {
		advance(when_ns);
		turn(node);
	}
}

static int64_t next_ns(void)
{
	int64_t when_ns;

	choose(&when_ns);
	return when_ns > sim_now_ns ? when_ns : sim_now_ns;
}

static int64_t rest_until_ns(void)
{
	int64_t until_ns = sim_now_ns;

	for (uint32_t i = 0; i < NODES_MAX * NODES_MAX; i++) {
		int64_t disturbed_ns = world.disturbed_until_ns[i / NODES_MAX][i % NODES_MAX];
		until_ns = disturbed_ns > until_ns ? disturbed_ns : until_ns;
	}
	for (uint32_t g = 0; g < GRAVES_MAX; g++)
		if (world.graves[g].lost_ns > until_ns)
			until_ns = world.graves[g].lost_ns;
	return until_ns + SETTLE_NS;
}

void world_run(void)
{
	int64_t begin_ns;
	int turns = 0;

	open_world();
	begin_ns = sim_now_ns;
	while (!requests_idle() && turns++ < TURNS_MAX)
		take_turn();
	if (turns >= TURNS_MAX)
		sim_broken("requests go on without end");
	/* What is under way comes to rest: who is gone is noticed. */
	world.app_ns = NEVER;
	world.fault_ns = NEVER;
	int64_t rest_ns = rest_until_ns();
	for (turns = 0; next_ns() < rest_ns && turns < TURNS_MAX; turns++)
		take_turn();
	close_all();
	net_close();
	sim_counts.seconds += (double)(sim_now_ns - begin_ns) / 1e9;
}
