/* SPDX-License-Identifier: Apache-2.0 */
/* What who operates an engine sees and may do (kvxfer/operate.h). */
#include "support/pair.h"

#include <kvxfer/operate.h>

#include <string.h>

#define LAYERS 4u
#define COUNT 8u

static const struct kvx_geometry geometry = {
	.layers = LAYERS, .planes = 2, .blocks = 64, .block_bytes = 1024};

/* Bytes of a request of COUNT blocks. */
#define REQUEST_BYTES ((uint64_t)LAYERS * 2 * COUNT * 1024)

static struct kvx_grant_view grant_view(struct kvx_engine *engine, const struct kvx_grant *grant)
{
	struct kvx_grant_view view;

	cr_assert_eq(kvx_engine_grants(engine, kvx_grant_id(grant) - 1, &view, 1), 1);
	cr_assert_eq(view.id, kvx_grant_id(grant));
	return view;
}

static struct kvx_stream_view stream_view(struct kvx_engine *engine,
					  const struct kvx_stream *stream)
{
	struct kvx_stream_view view;

	cr_assert_eq(kvx_engine_streams(engine, kvx_stream_id(stream) - 1, &view, 1), 1);
	cr_assert_eq(view.id, kvx_stream_id(stream));
	return view;
}

static bool is_fenced(void *argument)
{
	const struct request *request = argument;

	return grant_view(request->pair->receiver, request->grant).fenced;
}

static bool is_drained(void *argument)
{
	const struct request *request = argument;

	return stream_view(request->pair->sender, request->stream).drained;
}

EACH_WAY_TEST(a_request_is_seen_from_its_opening_to_its_end)
{
	struct kvx_layer_view layers[LAYERS + 1];
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, COUNT, TABLE_RANDOM);
	struct kvx_grant_view grant = grant_view(pair.receiver, request.grant);
	cr_assert_eq(grant.state, KVX_STATE_OPEN);
	cr_assert_eq(grant.pool, kvx_pool_id(pair.to));
	cr_assert_eq(grant.blocks, COUNT);
	cr_assert_eq(grant.layers, LAYERS);
	cr_assert_eq(grant.layers_whole, 0);
	cr_assert_eq(grant.bytes, 0);
	cr_assert_eq(grant.end_ms, 0);
	cr_assert_not(grant.fenced);

	expect_ok(kvx_stream_layers_ready(request.stream, 1, 1));
	request_expect_layer(&request, 1);
	grant = grant_view(pair.receiver, request.grant);
	cr_assert_eq(grant.layers_whole, 1);
	cr_assert_eq(grant.bytes, REQUEST_BYTES / LAYERS);
	cr_assert_eq(grant.senders_came, 1);
	cr_assert_str_eq(grant.sender, "sender");
	cr_assert_eq(grant.sender_incarnation, kvx_engine_incarnation(pair.sender));
	cr_assert_eq(kvx_engine_grant_layers(pair.receiver, grant.id, layers, LAYERS + 1),
		     (int)LAYERS);
	cr_assert(layers[1].done && layers[1].arrived == layers[1].target && layers[1].target);
	cr_assert(!layers[0].done && layers[0].arrived == 0 && layers[0].target);
	expect_ok(wait_stream(&pair.drive, request.stream, 1, PATIENCE_MS));
	struct kvx_stream_view stream = stream_view(pair.sender, request.stream);
	cr_assert(stream.accepted && !stream.offered && !stream.drained);
	cr_assert_eq(stream.layers_ready, 1);
	cr_assert_eq(stream.layers_delivered, 1);
	cr_assert_eq(stream.bytes, REQUEST_BYTES / LAYERS);
	cr_assert_str_eq(stream.receiver, "receiver");
	cr_assert_eq(stream.receiver_incarnation, kvx_engine_incarnation(pair.receiver));
	cr_assert_eq(kvx_engine_stream_layers(pair.sender, stream.id, layers, LAYERS + 1),
		     (int)LAYERS);
	cr_assert(layers[1].ready && layers[1].done && !layers[0].ready && !layers[0].done);

	request_run(&request);
	grant = grant_view(pair.receiver, request.grant);
	cr_assert_eq(grant.state, KVX_STATE_COMPLETE);
	cr_assert_eq(grant.bytes, REQUEST_BYTES);
	cr_assert_gt(grant.end_ms, 0);
	cr_assert(drive_until(&pair.drive, is_fenced, &request, PATIENCE_MS));
	stream = stream_view(pair.sender, request.stream);
	cr_assert_eq(stream.state, KVX_STATE_COMPLETE);
	cr_assert_eq(stream.bytes, REQUEST_BYTES);
	uint64_t id = grant.id;
	request_close(&request);
	cr_assert_eq(kvx_engine_grants(pair.receiver, 0, &grant, 1), 0);
	cr_assert_eq(kvx_engine_streams(pair.sender, 0, &stream, 1), 0);
	expect_fail(kvx_engine_grant_layers(pair.receiver, id, layers, 1), KVX_E_INVALID, "grant",
		    "none");
	pair_close(&pair);
}

EACH_WAY_TEST(a_grant_is_revoked_by_its_id)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, COUNT, TABLE_IDENTITY);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	expect_ok(kvx_engine_revoke(pair.receiver, kvx_grant_id(request.grant), 100));
	cr_assert(drive_until(&pair.drive, is_fenced, &request, PATIENCE_MS));
	struct kvx_grant_view view = grant_view(pair.receiver, request.grant);
	cr_assert_eq(view.state, KVX_STATE_FAILED);
	cr_assert_eq(view.code, KVX_E_REVOKED);
	cr_assert(strstr(view.text, "by id"), "%s", view.text);
	expect_fail(wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_REVOKED, "revoked by id");
	cr_assert(drive_until(&pair.drive, is_drained, &request, PATIENCE_MS));
	expect_ok(kvx_engine_revoke(pair.receiver, kvx_grant_id(request.grant), 100));
	expect_fail(kvx_engine_revoke(pair.receiver, UINT64_MAX, 100), KVX_E_INVALID, "grant",
		    "none");
	request_close(&request);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

EACH_WAY_TEST(a_stream_is_cancelled_by_its_id)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, COUNT, TABLE_IDENTITY);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	expect_ok(kvx_engine_cancel(pair.sender, kvx_stream_id(request.stream)));
	cr_assert(drive_until(&pair.drive, is_drained, &request, PATIENCE_MS));
	cr_assert_eq(stream_view(pair.sender, request.stream).code, KVX_E_CANCELLED);
	expect_fail(wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_CANCELLED, "by id");
	expect_fail(kvx_engine_cancel(pair.sender, UINT64_MAX), KVX_E_INVALID, "stream", "none");
	request_close(&request);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

static bool has_no_peer(void *argument)
{
	struct kvx_peer_view view;

	return kvx_engine_peers(argument, 0, &view, 1) == 0;
}

EACH_WAY_TEST(a_peer_is_seen_with_its_rails_and_forgotten)
{
	struct kvx_peer_view there, here;
	struct kvx_rail_view rails[64];
	struct request request;
	struct pair pair;
	uint64_t sent = 0, received = 0;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, COUNT, TABLE_IDENTITY);
	request_run(&request);
	cr_assert_eq(kvx_engine_peers(pair.sender, 0, &there, 1), 1);
	cr_assert(there.outgoing);
	cr_assert_str_eq(there.info.name, "receiver");
	cr_assert_str_eq(there.info.transport, way->transport);
	cr_assert_eq(there.info.state, KVX_PEER_UP);
	cr_assert_eq(kvx_engine_peers(pair.receiver, 0, &here, 1), 1);
	cr_assert_not(here.outgoing);
	cr_assert_str_eq(here.info.name, "sender");
	int count = kvx_engine_rails(pair.sender, there.id, rails, 64);
	cr_assert_eq(count, (int)there.rails);
	for (int i = 0; i < count; i++) {
		cr_assert(rails[i].up && rails[i].port[0]);
		sent += rails[i].bytes_sent;
	}
	count = kvx_engine_rails(pair.receiver, here.id, rails, 64);
	for (int i = 0; i < count; i++)
		received += rails[i].bytes_received;
	cr_assert_eq(sent, REQUEST_BYTES);
	cr_assert_eq(received, REQUEST_BYTES);
	request_close(&request);

	request_open(&request, &pair, 2, 0, COUNT, TABLE_IDENTITY);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	expect_ok(kvx_engine_forget(pair.sender, there.id));
	expect_fail(wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_PEER_LOST, "forget");
	expect_fail(wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_PEER_LOST, "forget");
	cr_assert(drive_until(&pair.drive, has_no_peer, pair.sender, PATIENCE_MS));
	expect_fail(kvx_engine_forget(pair.sender, there.id), KVX_E_INVALID, "peer", "none");
	request_close(&request);
	pair_expect_works(&pair, 3);
	pair_close(&pair);
}

static uint64_t ports_sum(const struct kvx_engine *engine, bool received)
{
	struct kvx_port_view port;
	uint64_t sum = 0;

	for (uint32_t i = 0; kvx_engine_port(engine, i, &port) == 0; i++)
		sum += received ? port.bytes_received : port.bytes_sent;
	return sum;
}

static uint64_t buckets_sum(const struct kvx_histogram *histogram)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < KVX_HISTOGRAM_BUCKETS; i++)
		sum += histogram->buckets[i];
	return sum;
}

/* Whoever waits for a transfer may run before it is counted off. */
static bool nothing_is_open(void *argument)
{
	const struct pair *pair = argument;
	struct kvx_metrics sender, receiver;

	kvx_engine_metrics(pair->sender, &sender);
	kvx_engine_metrics(pair->receiver, &receiver);
	return !sender.streams_open && !receiver.grants_open;
}

EACH_TRANSPORT_TEST(figures_count_each_byte_once)
{
	struct kvx_metrics sender, receiver;
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	for (uint32_t i = 0; i < 3; i++)
		pair_expect_works(&pair, i + 1);
	cr_assert_eq(ports_sum(pair.sender, false), ports_sum(pair.receiver, true));
	uint64_t before = ports_sum(pair.sender, false);
	request_open(&request, &pair, 9, 0, COUNT, TABLE_RANDOM);
	request_run(&request);
	cr_assert_eq(ports_sum(pair.sender, false) - before, REQUEST_BYTES);
	cr_assert_eq(ports_sum(pair.receiver, true) - before, REQUEST_BYTES);
	cr_assert(drive_until(&pair.drive, nothing_is_open, &pair, PATIENCE_MS));
	kvx_engine_metrics(pair.sender, &sender);
	kvx_engine_metrics(pair.receiver, &receiver);
	cr_assert_eq(sender.layer_latency.count, 4 * LAYERS);
	cr_assert_eq(buckets_sum(&sender.layer_latency), 4 * LAYERS);
	cr_assert_eq(sender.queueing.count, 4 * LAYERS);
	cr_assert_eq(sender.exposed.count, 4);
	cr_assert_gt(sender.layer_latency.sum_ns, 0);
	cr_assert_eq(receiver.grant_time.count, 4);
	cr_assert_eq(receiver.fence_time.count, 0);
	cr_assert_eq(sender.peers_up, 1);
	cr_assert_geq(receiver.registered_bytes, (uint64_t)LAYERS * 2 * 64 * 1024);
	request_close(&request);

	request_open(&request, &pair, 10, 0, COUNT, TABLE_RANDOM);
	expect_ok(kvx_grant_revoke(request.grant, 100));
	kvx_engine_metrics(pair.receiver, &receiver);
	cr_assert_eq(receiver.revokes, 1);
	cr_assert_eq(receiver.fence_time.count, 1);
	request_close(&request);
	pair_close(&pair);
}

static bool drain_is_done(void *argument)
{
	struct kvx_drain_view view;

	kvx_engine_drain_state(argument, &view);
	return view.state == KVX_DRAIN_DONE;
}

static bool drain_is_overdue(void *argument)
{
	struct kvx_drain_view view;

	kvx_engine_drain_state(argument, &view);
	return view.state == KVX_DRAIN_OVERDUE;
}

EACH_WAY_TEST(a_drained_engine_ends_what_it_has_and_takes_nothing_new)
{
	struct kvx_drain_view view;
	struct request request, second;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, COUNT, TABLE_IDENTITY);
	expect_ok(kvx_engine_drain(pair.receiver, 60000));
	expect_ok(kvx_engine_drain(pair.sender, 60000));
	kvx_engine_drain_state(pair.receiver, &view);
	cr_assert_eq(view.state, KVX_DRAIN_WAITING);
	cr_assert_eq(view.grants, 1);
	cr_assert(view.left_ms > 0 && view.left_ms <= 60000);
	request_init(&second, &pair, 2, COUNT, COUNT, TABLE_IDENTITY);
	expect_fail(kvx_grant_open(pair.to, second.to, COUNT, NULL, 1000, &second.grant),
		    KVX_E_DRAINING, "receiver", "drained");
	expect_fail(kvx_offer_open(pair.from, second.from, COUNT, NULL, 1000, &second.stream),
		    KVX_E_DRAINING, "sender", "drained");
	request_run(&request);
	cr_assert(drive_until(&pair.drive, drain_is_done, pair.receiver, PATIENCE_MS));
	cr_assert(drive_until(&pair.drive, drain_is_done, pair.sender, PATIENCE_MS));
	expect_ok(kvx_engine_resume(pair.receiver));
	request_grant(&second, 60000);
	size_t bytes;
	const void *ticket = kvx_grant_ticket(second.grant, &bytes);
	expect_fail(
		kvx_stream_open(pair.from, second.from, COUNT, NULL, ticket, bytes, &second.stream),
		KVX_E_DRAINING, "sender", "drained");
	expect_ok(kvx_engine_resume(pair.sender));
	request_stream(&second);
	request_run(&second);
	request_close(&second);
	request_close(&request);
	kvx_engine_drain_state(pair.sender, &view);
	cr_assert_eq(view.state, KVX_DRAIN_OFF);
	cr_assert_eq(view.streams, 0);
	pair_close(&pair);
}

/* The next event of that type. Layers are told within 10 ms, so this looks again and again. */
struct follow {
	struct kvx_engine *engine;
	uint64_t after;
	enum kvx_event_type type;
	struct kvx_event_view event;
};

static bool found(void *argument)
{
	struct follow *follow = argument;

	while (kvx_engine_events(follow->engine, follow->after, &follow->event, 1, 0) == 1) {
		cr_assert_eq(follow->event.sequence, follow->after + 1);
		follow->after = follow->event.sequence;
		if (follow->event.type == follow->type)
			return true;
	}
	return false;
}

static struct kvx_event_view expect_event(struct pair *pair, struct follow *follow,
					  enum kvx_event_type type)
{
	follow->type = type;
	cr_assert(drive_until(&pair->drive, found, follow, PATIENCE_MS), "no %s",
		  kvx_event_name(type));
	return follow->event;
}

EACH_WAY_TEST(an_overdue_drain_ends_nothing)
{
	struct kvx_event_view event;
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, COUNT, TABLE_IDENTITY);
	struct follow follow = {.engine = pair.receiver};
	expect_ok(kvx_engine_events(pair.receiver, 0, &event, 1, 0));
	expect_ok(kvx_engine_drain(pair.receiver, 30));
	cr_assert(drive_until(&pair.drive, drain_is_overdue, pair.receiver, PATIENCE_MS));
	event = expect_event(&pair, &follow, KVX_EVENT_DRAIN_DONE);
	cr_assert_eq(event.code, KVX_E_TIMEDOUT);
	request_run(&request);
	cr_assert(drive_until(&pair.drive, drain_is_done, pair.receiver, PATIENCE_MS));
	request_close(&request);
	pair_close(&pair);
}

EACH_WAY_TEST(events_tell_a_request_in_order)
{
	struct kvx_event_view event;
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	struct follow receiver = {.engine = pair.receiver}, sender = {.engine = pair.sender};
	expect_ok(kvx_engine_events(pair.receiver, 0, &event, 1, 0));
	expect_ok(kvx_engine_events(pair.sender, 0, &event, 1, 0));
	request_open(&request, &pair, 1, 0, COUNT, TABLE_IDENTITY);
	event = expect_event(&pair, &receiver, KVX_EVENT_GRANT_OPENED);
	cr_assert_eq(event.id, kvx_grant_id(request.grant));
	event = expect_event(&pair, &receiver, KVX_EVENT_PEER_UP);
	cr_assert_str_eq(event.text, "sender");
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		expect_ok(kvx_stream_layers_ready(request.stream, layer, 1));
		event = expect_event(&pair, &receiver, KVX_EVENT_LAYER_WHOLE);
		cr_assert_eq(event.index, layer);
		cr_assert_eq(event.id, kvx_grant_id(request.grant));
	}
	event = expect_event(&pair, &receiver, KVX_EVENT_GRANT_COMPLETE);
	cr_assert_eq(event.id, kvx_grant_id(request.grant));
	event = expect_event(&pair, &sender, KVX_EVENT_STREAM_OPENED);
	cr_assert_eq(event.id, kvx_stream_id(request.stream));
	event = expect_event(&pair, &sender, KVX_EVENT_STREAM_COMPLETE);
	cr_assert_gt(event.time_ms, UINT64_C(1700000000000));
	request_close(&request);

	request_open(&request, &pair, 2, 0, COUNT, TABLE_IDENTITY);
	expect_ok(kvx_grant_revoke(request.grant, 100));
	event = expect_event(&pair, &receiver, KVX_EVENT_GRANT_FAILED);
	cr_assert_eq(event.code, KVX_E_REVOKED);
	cr_assert(strstr(event.text, "revoked"), "%s", event.text);
	event = expect_event(&pair, &sender, KVX_EVENT_STREAM_FAILED);
	cr_assert_eq(event.code, KVX_E_REVOKED);
	request_close(&request);
	/* A replay from the beginning tells the same. */
	receiver.after = 0;
	event = expect_event(&pair, &receiver, KVX_EVENT_GRANT_OPENED);
	cr_assert_eq(event.sequence, 1);
	pair_close(&pair);
}

EACH_TRANSPORT_TEST(a_peer_that_is_lost_and_its_successor_are_told)
{
	struct kvx_event_view event;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	struct follow follow = {.engine = pair.receiver};
	expect_ok(kvx_engine_events(pair.receiver, 0, &event, 1, 0));
	pair_expect_works(&pair, 1);
	event = expect_event(&pair, &follow, KVX_EVENT_PEER_UP);
	uint64_t id = event.id;
	engine_close(&pair.drive, pair.sender);
	event = expect_event(&pair, &follow, KVX_EVENT_PEER_LOST);
	cr_assert_eq(event.id, id);
	cr_assert_eq(event.code, KVX_E_PEER_LOST);
	pair.sender = engine_open(&pair.drive, way, "sender", NULL);
	expect_ok(pool_alloc(pair.sender, &geometry, &pair.from));
	pair_expect_works(&pair, 2);
	event = expect_event(&pair, &follow, KVX_EVENT_PEER_BACK);
	cr_assert_str_eq(event.text, "sender");
	cr_assert_neq(event.id, id);
	pair_close(&pair);
}

static const struct way loop = {"loop", false};

Test(operate, a_reader_that_is_too_slow_finds_a_gap, .timeout = 120)
{
	static struct kvx_event_view events[64];
	struct pair pair;
	uint64_t last = 0;
	int count;

	pair_open(&pair, &loop, &geometry, NULL);
	expect_ok(kvx_engine_events(pair.receiver, 0, events, 1, 0));
	for (uint32_t i = 0; last <= KVX_EVENTS_KEPT + 64; i++) {
		struct request request;
		request_open(&request, &pair, i, 0, COUNT, TABLE_IDENTITY);
		request_run(&request);
		request_close(&request);
		while ((count = kvx_engine_events(pair.receiver, last, events, 64, 0)) > 0)
			last = events[count - 1].sequence;
	}
	count = kvx_engine_events(pair.receiver, 1, events, 64, 0);
	cr_assert_eq(count, 64);
	cr_assert_eq(events[0].sequence, last - KVX_EVENTS_KEPT + 1, "the oldest that is kept");
	for (int i = 1; i < count; i++)
		cr_assert_eq(events[i].sequence, events[i - 1].sequence + 1);
	cr_assert_eq(kvx_engine_events(pair.receiver, last, events, 64, 20), 0);
	pair_close(&pair);
}

Test(operate, lists_come_in_parts_in_the_order_of_ids, .timeout = 120)
{
	struct kvx_grant *grants[100];
	struct kvx_grant_view views[7];
	struct pair pair;
	uint64_t after = 0;
	uint32_t seen = 0;
	int count;

	pair_open(&pair, &loop, &geometry, NULL);
	struct kvx_geometry wide = geometry;
	struct kvx_pool *pool;
	wide.blocks = 100;
	expect_ok(pool_alloc(pair.receiver, &wide, &pool));
	for (uint32_t i = 0; i < 100; i++)
		expect_ok(kvx_grant_open(pool, &i, 1, NULL, 60000, &grants[i]));
	while ((count = kvx_engine_grants(pair.receiver, after, views, 7)) > 0)
		for (int i = 0; i < count; i++, seen++) {
			cr_assert_gt(views[i].id, after);
			cr_assert_eq(views[i].id, kvx_grant_id(grants[seen]));
			after = views[i].id;
		}
	cr_assert_eq(seen, 100);
	struct kvx_pool_view pools[4];
	cr_assert_eq(kvx_engine_pools(pair.receiver, 0, pools, 4), 2);
	cr_assert_eq(pools[1].id, kvx_pool_id(pool));
	cr_assert_eq(pools[1].granted_blocks, 100);
	cr_assert_eq(pools[1].users, 100);
	cr_assert_eq(pools[1].layer_block_bytes, 2048);
	cr_assert_eq(pools[1].hash, kvx_geometry_hash(&wide));
	for (uint32_t i = 0; i < 100; i++)
		kvx_grant_close(grants[i]);
	cr_assert_eq(kvx_engine_pools(pair.receiver, pools[0].id, pools, 4), 1);
	cr_assert_eq(pools[0].granted_blocks, 0);
	pair_close(&pair);
}

Test(operate, a_pool_that_is_held_is_not_closed, .timeout = 60)
{
	struct kvx_region_view regions[2];
	struct kvx_region *region, *found;
	struct kvx_pool *held;
	struct pair pair;

	pair_open(&pair, &loop, &geometry, NULL);
	uint64_t id = kvx_pool_id(pair.to);
	expect_ok(kvx_pool_hold(pair.receiver, id, &held));
	cr_assert_eq(held, pair.to);
	expect_fail(kvx_pool_close(pair.to), KVX_E_BUSY, "pool");
	kvx_pool_release(held);
	expect_ok(kvx_pool_close(pair.to));
	expect_fail(kvx_pool_hold(pair.receiver, id, &held), KVX_E_INVALID, "pool", "none");
	expect_ok(region_alloc(pair.receiver, 4096, &region));
	cr_assert_eq(kvx_engine_regions(pair.receiver, 0, regions, 2), 1);
	cr_assert_eq(regions[0].id, kvx_region_id(region));
	cr_assert_eq(regions[0].bytes, 4096);
	cr_assert_str_eq(regions[0].kind, "shared");
	expect_ok(kvx_region_hold(pair.receiver, regions[0].id, &found));
	expect_fail(kvx_region_close(region), KVX_E_BUSY, "region");
	kvx_region_release(found);
	expect_ok(kvx_region_close(region));
	pair_close(&pair);
}

Test(operate, only_live_options_change_while_the_engine_is_open, .timeout = 60)
{
	struct kvx_option_info info;
	struct pair pair;
	char text[64];

	pair_open(&pair, &loop, &geometry, NULL);
	expect_ok(kvx_engine_set_option(pair.sender, "drain_ms", "250"));
	expect_ok(kvx_engine_option(pair.sender, "drain_ms", text, sizeof(text)));
	cr_assert_str_eq(text, "250");
	expect_fail(kvx_engine_set_option(pair.sender, "drain_ms", "many"), KVX_E_INVALID,
		    "drain_ms", "many");
	expect_fail(kvx_engine_set_option(pair.sender, "name", "other"), KVX_E_INVALID, "name",
		    "fixed");
	expect_fail(kvx_engine_set_option(pair.sender, "nothing", "1"), KVX_E_INVALID, "nothing");
	expect_fail(kvx_engine_option(pair.sender, "nothing", text, sizeof(text)), KVX_E_INVALID,
		    "nothing");
	uint32_t live = 0;
	for (uint32_t i = 0; kvx_option_describe(i, &info) == 0; i++)
		live += kvx_option_is_live(info.name);
	cr_assert_gt(live, 0);
	cr_assert_not(kvx_option_is_live("transports"));
	pair_expect_works(&pair, 1);
	pair_close(&pair);
}

Test(operate, transports_tell_why_they_are_on_or_off, .timeout = 60)
{
	struct kvx_transport_view view;
	struct pair pair;
	bool on = false;
	uint32_t count = 0;

	pair_open(&pair, &loop, &geometry, NULL);
	for (; kvx_engine_transport(pair.sender, count, &view) == 0; count++) {
		cr_assert(view.why[0]);
		cr_assert_eq(view.on, strcmp(view.name, "loop") == 0);
		cr_assert_eq(view.on, view.address[0] != 0);
		on |= view.on;
	}
	cr_assert(on && count > 1);
	cr_assert_str_eq(kvx_engine_control(pair.sender), "");
	pair_close(&pair);
}

Test(operate, checksums_are_equal_at_both_ends_of_a_request, .timeout = 60)
{
	uint64_t there[LAYERS], here[LAYERS];
	struct request request;
	struct pair pair;
	uint32_t beyond = 64;

	pair_open(&pair, &loop, &geometry, NULL);
	request_open(&request, &pair, 1, 0, COUNT, TABLE_RANDOM);
	expect_ok(kvx_pool_checksum(pair.to, request.to, COUNT, here));
	expect_ok(kvx_pool_checksum(pair.from, request.from, COUNT, there));
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		cr_assert_neq(here[layer], there[layer]);
	request_run(&request);
	expect_ok(kvx_pool_checksum(pair.to, request.to, COUNT, here));
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		cr_assert_eq(here[layer], there[layer]);
	*(char *)block_view(pair.to, 2, 1, request.to[3]) ^= 1;
	expect_ok(kvx_pool_checksum(pair.to, request.to, COUNT, here));
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		cr_assert_eq(here[layer] == there[layer], layer != 2);
	expect_fail(kvx_pool_checksum(pair.to, &beyond, 1, here), KVX_E_INVALID, "block 64");
	request_close(&request);
	pair_close(&pair);
}
