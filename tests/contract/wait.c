/* SPDX-License-Identifier: Apache-2.0 */
/* 3. No endless wait. */
#include "support/pair.h"

#include <string.h>

#define HEARTBEAT_MS 500
/* What a busy machine may add to a time of the contract. */
#define SLACK_MS 2500

static const struct kvx_geometry geometry = {
	.layers = 4, .planes = 2, .blocks = 16, .block_bytes = 4096};

static const char *const options[] = {"heartbeat_ms=500", NULL};
/* Of engines whose peers are not to be lost, however busy the machine is. */
static const char *const patient[] = {"heartbeat_ms=10000", NULL};
static const char *const impatient[] = {"connect_timeout_ms=1000", NULL};

static struct way other_way(const struct way *way)
{
	return (struct way){way->transport, !way->caller};
}

static void open_request_with(struct pair *pair, struct request *request, const struct way *way,
			      const char *const *engine_options)
{
	pair_open(pair, way, &geometry, engine_options);
	request_open(request, pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(request->stream, 0, 1));
	request_expect_layer(request, 0);
	expect_ok(wait_stream(&pair->drive, request->stream, 0, PATIENCE_MS));
}

static void open_request(struct pair *pair, struct request *request, const struct way *way)
{
	open_request_with(pair, request, way, patient);
}

static void close_request(struct pair *pair, struct request *request)
{
	request_close(request);
	pair_close(pair);
}

EACH_WAY_TEST(contract_3__a_wait_ends_at_its_deadline)
{
	struct request request;
	struct pair pair;

	open_request(&pair, &request, way);
	for (uint32_t timeout_ms = 0; timeout_ms <= 100; timeout_ms += 50) {
		int64_t begin_ms = now_ms();
		expect_fail(kvx_grant_wait(request.grant, 1, timeout_ms), KVX_E_TIMEDOUT, "grant",
			    "1 of 4 layers");
		expect_fail(kvx_stream_wait(request.stream, KVX_ALL_LAYERS, timeout_ms),
			    KVX_E_TIMEDOUT, "stream", "1 of 4 layers");
		int64_t took_ms = now_ms() - begin_ms;
		cr_assert(took_ms >= 2 * (int64_t)timeout_ms - 2 &&
				  took_ms < 2 * timeout_ms + SLACK_MS,
			  "%d ms", (int)took_ms);
	}
	close_request(&pair, &request);
}

EACH_WAY_TEST(contract_3__a_timed_out_transfer_lives_on)
{
	struct request request;
	struct pair pair;

	open_request(&pair, &request, way);
	expect_fail(kvx_grant_wait(request.grant, 1, 10), KVX_E_TIMEDOUT, "grant");
	request_run(&request);
	close_request(&pair, &request);
}

EACH_WAY_TEST(contract_3__a_cancel_ends_the_receivers_wait)
{
	struct request request;
	struct pair pair;

	open_request(&pair, &request, way);
	kvx_stream_cancel(request.stream);
	expect_fail(wait_grant(&pair.drive, request.grant, 1, PATIENCE_MS), KVX_E_CANCELLED,
		    "sender", "cancelled");
	expect_fail(wait_stream(&pair.drive, request.stream, 1, 0), KVX_E_CANCELLED, "cancelled");
	cr_assert_eq(kvx_grant_poll(request.grant, 0), 1, "a whole layer stays whole");
	close_request(&pair, &request);
}

EACH_WAY_TEST(contract_3__a_revoke_ends_the_senders_wait)
{
	struct request request;
	struct pair pair;

	open_request(&pair, &request, way);
	expect_ok(kvx_grant_revoke(request.grant, 1000));
	expect_fail(wait_stream(&pair.drive, request.stream, 1, PATIENCE_MS), KVX_E_REVOKED,
		    "receiver", "revoked");
	expect_fail(kvx_grant_wait(request.grant, 1, 0), KVX_E_REVOKED, "grant", "revoked");
	close_request(&pair, &request);
}

EACH_WAY_TEST(contract_3__the_lease_ends_both_waits)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, patient);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	int64_t begin_ms = now_ms();
	request_grant(&request, 300);
	request_stream(&request);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	expect_fail(wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_LEASE, "grant", "300 ms");
	expect_fail(wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_LEASE, "lease", "300 ms");
	int64_t took_ms = now_ms() - begin_ms;
	cr_assert(took_ms >= 298 && took_ms < 300 + SLACK_MS, "%d ms", (int)took_ms);
	close_request(&pair, &request);
}

EACH_WAY_TEST(contract_3__the_lease_ends_a_grant_that_nobody_uses)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_grant(&request, 50);
	expect_fail(wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_LEASE, "0 of 1 senders have come");
	close_request(&pair, &request);
}

/* One engine has its thread, the other is driven by the test until it is "stopped". */
static void open_mixed_with(struct pair *pair, struct request *request, const struct way *way,
			    const char *const *receiver_options)
{
	struct way other = other_way(way);

	*pair = (struct pair){.way = way, .geometry = geometry};
	pair->receiver = engine_open(&pair->drive, way, "receiver", receiver_options);
	pair->sender = engine_open(&pair->drive, &other, "sender", options);
	expect_ok(pool_alloc(pair->sender, &geometry, &pair->from));
	expect_ok(pool_alloc(pair->receiver, &geometry, &pair->to));
	request_open(request, pair, 1, 0, geometry.blocks, TABLE_RANDOM);
}

static void open_mixed(struct pair *pair, struct request *request, const struct way *way)
{
	open_mixed_with(pair, request, way, options);
}

/* When who is stopped now was heard for the last time: between these times. */
struct silence {
	int64_t after_ms, before_ms;
};

/* Each hears the other once more. */
static struct silence exchange_layer(struct pair *pair, struct request *request)
{
	struct silence silence = {.after_ms = now_ms()};

	expect_ok(kvx_stream_layers_ready(request->stream, 0, 1));
	request_expect_layer(request, 0);
	expect_ok(wait_stream(&pair->drive, request->stream, 0, PATIENCE_MS));
	silence.before_ms = now_ms();
	return silence;
}

static void expect_two_heartbeats(struct silence silence)
{
	int64_t most_ms = now_ms() - silence.after_ms, least_ms = now_ms() - silence.before_ms;

	cr_assert(most_ms >= HEARTBEAT_MS && least_ms <= 2 * HEARTBEAT_MS + SLACK_MS, "%d to %d ms",
		  (int)least_ms, (int)most_ms);
}

EACH_TRANSPORT_TEST(contract_3__a_silent_sender_is_lost_within_two_heartbeats)
{
	struct request request;
	struct pair pair;

	open_mixed(&pair, &request, way);
	struct silence silence = exchange_layer(&pair, &request);
	expect_fail(kvx_grant_wait(request.grant, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_PEER_LOST,
		    "sender", "silent", "heartbeats");
	expect_two_heartbeats(silence);
	close_request(&pair, &request);
}

/* It is the heartbeat of the silent one that counts, however rare the other's is. */
EACH_TRANSPORT_TEST(contract_3__a_silent_sender_is_lost_by_its_own_heartbeat)
{
	struct request request;
	struct pair pair;

	open_mixed_with(&pair, &request, way, patient);
	struct silence silence = exchange_layer(&pair, &request);
	expect_fail(kvx_grant_wait(request.grant, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_PEER_LOST,
		    "sender", "silent", "heartbeats");
	expect_two_heartbeats(silence);
	close_request(&pair, &request);
}

EACH_TRANSPORT_TEST(contract_3__a_silent_receiver_is_lost_within_two_heartbeats)
{
	struct way driven = other_way(way);
	struct request request;
	struct pair pair;

	open_mixed(&pair, &request, &driven);
	struct silence silence = exchange_layer(&pair, &request);
	expect_fail(kvx_stream_wait(request.stream, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_PEER_LOST,
		    "receiver", "silent", "heartbeats");
	expect_two_heartbeats(silence);
	close_request(&pair, &request);
}

/* An engine that is stopped itself, for longer than it would wait for a peer that is silent, blames
 * nobody for it; also where its own heartbeat is rare. */
static void stand_still(const struct way *way, const char *const *receiver_options)
{
	struct request request;
	struct pair pair;

	pair = (struct pair){.way = way, .geometry = geometry};
	pair.receiver = engine_open(&pair.drive, way, "receiver", receiver_options);
	pair.sender = engine_open(&pair.drive, way, "sender", options);
	expect_ok(pool_alloc(pair.sender, &geometry, &pair.from));
	expect_ok(pool_alloc(pair.receiver, &geometry, &pair.to));
	request_open(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	exchange_layer(&pair, &request);
	sleep_ms(2 * HEARTBEAT_MS);
	drive_for(&pair.drive, HEARTBEAT_MS / 2);
	request_run(&request);
	cr_assert_eq(stats_of(pair.receiver).peers_lost + stats_of(pair.sender).peers_lost, 0);
	close_request(&pair, &request);
}

#define EACH_CALLER_TEST(name)                      \
	static void name(const struct way *way);    \
	RUN_TEST(loop_caller, name, "loop", true)   \
	RUN_TEST(shm_caller, name, "shm", true)     \
	RUN_TEST(tcp_caller, name, "tcp", true)     \
	RUN_TEST(verbs_caller, name, "verbs", true) \
	static void name(const struct way *way)

EACH_CALLER_TEST(contract_3__an_engine_that_was_stopped_loses_nobody)
{
	stand_still(way, options);
	stand_still(way, patient);
}

/* It looks at its peers less often than a heartbeat, so that it never knows how long they were
 * silent; and it finds out all the same. */
EACH_CALLER_TEST(contract_3__an_engine_that_is_seldom_driven_loses_a_silent_sender)
{
	static const char *const often[] = {"heartbeat_ms=100", NULL};
	struct request request;
	struct pair pair;

	open_request_with(&pair, &request, way, often);
	int64_t deadline_ms = now_ms() + PATIENCE_MS;
	while (!kvx_grant_poll(request.grant, KVX_ALL_LAYERS)) {
		cr_assert(now_ms() < deadline_ms, "it never notices");
		sleep_ms(150);
		expect_ok(kvx_engine_progress(pair.receiver));
	}
	expect_fail(kvx_grant_wait(request.grant, KVX_ALL_LAYERS, 0), KVX_E_PEER_LOST, "silent");
	close_request(&pair, &request);
}

/* Engines that have nothing to say to each other for some heartbeats are not lost. */
EACH_WAY_TEST(contract_3__an_idle_peer_is_not_lost)
{
	struct request request;
	struct pair pair;

	open_request_with(&pair, &request, way, options);
	drive_for(&pair.drive, 3 * HEARTBEAT_MS);
	request_run(&request);
	cr_assert_eq(stats_of(pair.receiver).peers_lost + stats_of(pair.sender).peers_lost, 0);
	close_request(&pair, &request);
}

EACH_WAY_TEST(contract_3__a_closed_sender_ends_the_receivers_wait)
{
	struct request request;
	struct pair pair;

	open_request(&pair, &request, way);
	engine_close(&pair.drive, pair.sender);
	int64_t begin_ms = now_ms();
	int result = wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert(result == KVX_E_CANCELLED || result == KVX_E_PEER_LOST, "%s: %s",
		  kvx_error_name(result), kvx_error_text());
	cr_assert(strstr(kvx_error_text(), "closed its engine"), "%s", kvx_error_text());
	cr_assert_lt(now_ms() - begin_ms, SLACK_MS);
	kvx_grant_close(request.grant);
	request_free(&request);
	engine_close(&pair.drive, pair.receiver);
}

EACH_WAY_TEST(contract_3__a_closed_receiver_ends_the_senders_wait)
{
	struct request request;
	struct pair pair;

	open_request(&pair, &request, way);
	engine_close(&pair.drive, pair.receiver);
	int64_t begin_ms = now_ms();
	int result = wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert(result == KVX_E_REVOKED || result == KVX_E_PEER_LOST, "%s: %s",
		  kvx_error_name(result), kvx_error_text());
	cr_assert(strstr(kvx_error_text(), "closed its engine"), "%s", kvx_error_text());
	cr_assert_lt(now_ms() - begin_ms, SLACK_MS);
	kvx_stream_close(request.stream);
	request_free(&request);
	engine_close(&pair.drive, pair.sender);
}

/* The address and the ticket of an engine that is gone. */
EACH_WAY_TEST(contract_3__nobody_there_is_unreachable)
{
	struct request request;
	struct kvx_peer *peer;
	struct pair pair;
	char address[1024];
	size_t bytes;

	pair_open(&pair, way, &geometry, impatient);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_grant(&request, 60000);
	strcpy(address, kvx_engine_address(pair.receiver));
	uint8_t ticket[1024];
	const void *granted = kvx_grant_ticket(request.grant, &bytes);
	cr_assert(bytes <= sizeof(ticket));
	memcpy(ticket, granted, bytes);
	engine_close(&pair.drive, pair.receiver);
	expect_ok(kvx_stream_open(pair.from, request.from, request.count, NULL, ticket, bytes,
				  &request.stream));
	expect_ok(kvx_peer_connect(pair.sender, address, &peer));
	expect_fail(wait_stream(&pair.drive, request.stream, 0, PATIENCE_MS), KVX_E_UNREACHABLE,
		    way->transport);
	expect_fail(wait_peer(&pair.drive, peer, PATIENCE_MS), KVX_E_UNREACHABLE, way->transport);
	kvx_peer_close(peer);
	kvx_stream_close(request.stream);
	request_free(&request);
	engine_close(&pair.drive, pair.sender);
}

/* It listens, but never answers: the engine is not driven from the start. */
EACH_TRANSPORT_TEST(contract_3__a_peer_that_does_not_answer_is_unreachable)
{
	struct way driven = other_way(way);
	struct drive none = {0}, stopped = {0};

	if (strcmp(way->transport, "cuda_ipc") == 0)
		cr_skip_test("without GPU memory it connects to nobody");
	struct kvx_engine *silent = engine_open(&stopped, &driven, "silent", impatient);
	struct kvx_engine *engine = engine_open(&none, way, "caller", impatient);
	struct kvx_peer *peer;

	expect_ok(kvx_peer_connect(engine, kvx_engine_address(silent), &peer));
	expect_fail(kvx_peer_wait(peer, 50), KVX_E_TIMEDOUT, "peer", "50 ms");
	int64_t begin_ms = now_ms();
	expect_fail(kvx_peer_wait(peer, PATIENCE_MS), KVX_E_UNREACHABLE, way->transport);
	cr_assert_lt(now_ms() - begin_ms, 2 * 1000 + SLACK_MS);
	kvx_peer_close(peer);
	engine_close(&none, engine);
	engine_close(&stopped, silent);
}

EACH_TRANSPORT_TEST(contract_3__a_lost_peer_can_be_reached_again)
{
	struct request request;
	struct pair pair;

	open_mixed(&pair, &request, way);
	exchange_layer(&pair, &request);
	int result = kvx_grant_wait(request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert_eq(result, KVX_E_PEER_LOST);
	int ended = wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert(ended < 0 && ended != KVX_E_TIMEDOUT, "%s", kvx_error_name(ended));
	request_close(&request);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

/* All bytes have left when the sender goes: the receiver learns both in one step, in any order. */
EACH_WAY_TEST(contract_3__a_sender_that_goes_with_its_last_byte_leaves_nobody_waiting)
{
	struct request request;
	struct pair pair;

	for (uint64_t round = 0; round < 20; round++) {
		pair_open(&pair, way, &geometry, patient);
		request_open(&request, &pair, round, 0, 1 + round % 2, TABLE_RANDOM);
		uint32_t arrived, target = 0;
		while (!target) {
			drive_for(&pair.drive, 5);
			expect_ok(kvx_grant_count(request.grant, 0, &arrived, &target));
		}
		drive_for(&pair.drive, 2);
		expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
		for (uint32_t step = 0; way->caller && step < 1 + round % 8; step++)
			kvx_engine_progress(pair.sender);
		engine_close(&pair.drive, pair.sender);
		int result = wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
		cr_assert(result == 0 || result == KVX_E_CANCELLED || result == KVX_E_PEER_LOST,
			  "%s", kvx_error_name(result));
		for (uint32_t layer = 0; layer < geometry.layers; layer++)
			if (kvx_grant_poll(request.grant, layer) == 1)
				request_expect_layer(&request, layer);
		kvx_grant_close(request.grant);
		request_free(&request);
		engine_close(&pair.drive, pair.receiver);
	}
}

/* Its engine was stopped before it took the stream up: the lease has not waited for that. */
Test(loop_caller, contract_3__a_streams_lease_counts_from_its_opening, .timeout = 60)
{
	static const struct kvx_geometry small = {
		.layers = 2, .planes = 1, .blocks = 8, .block_bytes = 1024};
	static const struct way way = {"loop", true};
	struct request request;
	struct pair pair;

	pair_open(&pair, &way, &small, NULL);
	request_init(&request, &pair, 1, 0, 4, TABLE_IDENTITY);
	request_grant(&request, 300);
	drive_remove(&pair.drive, pair.sender);
	request_stream(&request);
	sleep_ms(400);
	drive_add(&pair.drive, pair.sender);
	for (int i = 0; i < 3; i++)
		kvx_engine_progress(pair.sender);
	expect_fail(kvx_stream_poll(request.stream, KVX_ALL_LAYERS), KVX_E_LEASE, "lease");
	request_close(&request);
	pair_close(&pair);
}
