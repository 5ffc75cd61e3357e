/* SPDX-License-Identifier: Apache-2.0 */
/* Pull: whichever end goes, at whatever moment, the other learns it at once and why. */
#include "support/pulled.h"
#include "support/sockets.h"

#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LEASE_MS 600000u
#define HEARTBEAT_MS 200
#define SLACK_MS 1500
#define BLOCKS 8u
#define ROUNDS REPEATED(40u)
#define FRESH_ROUNDS 10u
#define MARK 0xa5

static const struct kvx_geometry geometry = {
	.layers = 8, .planes = 2, .blocks = FRESH_ROUNDS * BLOCKS, .block_bytes = 4096};

static const char *const options[] = {"heartbeat_ms=200", "connect_timeout_ms=500",
				      "unit_bytes=16384", "drain_ms=20", NULL};

static int pull_kept(struct request *request, const uint8_t *ticket, size_t bytes)
{
	request_grant(request, LEASE_MS);
	return kvx_grant_pull(request->grant, ticket, bytes);
}

/* --- nobody pulls --- */

EACH_WAY_TEST(pull_end__an_offer_that_nobody_pulls_ends_by_its_lease)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	int64_t begin_ms = now_ms();
	request_offer(&request, 100);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	expect_fail(wait_stream(&pair.drive, request.stream, 0, PATIENCE_MS), KVX_E_LEASE, "offer",
		    "100 ms", "before a pull");
	int64_t took_ms = now_ms() - begin_ms;
	cr_assert(took_ms >= 98 && took_ms < 100 + SLACK_MS, "%d ms", (int)took_ms);
	request_grant(&request, LEASE_MS);
	request_pull(&request);
	expect_grant_ends(&request, KVX_E_REFUSED, KVX_E_REFUSED);
	cr_assert(strstr(kvx_error_text(), "it was closed, or pulled already"), "%s",
		  kvx_error_text());
	request_close(&request);
	pair_close(&pair);
}

/* From the pull on it is the grant's lease that counts, however short the offer's was. */
EACH_WAY_TEST(pull_end__a_pulled_offer_lives_by_the_lease_of_the_grant)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	request_offer(&request, 2000);
	request_grant(&request, LEASE_MS);
	request_pull(&request);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	drive_for(&pair.drive, 2200);
	request_run(&request);
	request_close(&request);

	request_init(&request, &pair, 2, 0, BLOCKS, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	request_grant(&request, 300);
	request_pull(&request);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	expect_grant_ends(&request, KVX_E_LEASE, KVX_E_LEASE);
	expect_stream_ends(&request, KVX_E_LEASE, KVX_E_LEASE);
	request_close(&request);
	pair_close(&pair);
}

/* --- what cannot be pulled --- */

enum gone { CLOSED, CANCELLED, DELIVERED };

static void end_offer(struct request *request, enum gone gone)
{
	if (gone == DELIVERED) {
		request_grant(request, LEASE_MS);
		request_pull(request);
		request_run(request);
		kvx_grant_close(request->grant);
	}
	if (gone == CANCELLED)
		kvx_stream_cancel(request->stream);
	if (gone == CLOSED) {
		kvx_stream_close(request->stream);
		request->stream = NULL;
	}
}

EACH_WAY_TEST(pull_end__an_offer_that_is_over_refuses)
{
	struct request request;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	for (uint32_t round = 0; round < 6; round++) {
		request_init(&request, &pair, round, 0, BLOCKS, TABLE_RANDOM);
		request_offer(&request, LEASE_MS);
		uint8_t *ticket = request_keep_ticket(&request, &bytes);
		end_offer(&request, round % 3);
		expect_ok(pull_kept(&request, ticket, bytes));
		expect_grant_ends(&request, KVX_E_REFUSED, KVX_E_REFUSED);
		cr_assert(strstr(kvx_error_text(), "peer sender: offer") &&
				  strstr(kvx_error_text(), "is not open in sender"),
			  "%s", kvx_error_text());
		free(ticket);
		request_close(&request);
	}
	pair_close(&pair);
}

/* The second grant ends; the first goes on. */
EACH_WAY_TEST(pull_end__an_offer_is_pulled_once)
{
	struct request first, second;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	for (uint32_t round = 0; round < 4; round++) {
		request_pulled(&first, &pair, round, 0, BLOCKS);
		const void *ticket = request_ticket(&first, &bytes);
		if (round % 2) {
			expect_ok(kvx_stream_layers_ready(first.stream, 0, 1));
			request_expect_layer(&first, 0);
		}
		request_init(&second, &pair, 100 + round, BLOCKS, BLOCKS, TABLE_RANDOM);
		expect_ok(pull_kept(&second, ticket, bytes));
		expect_grant_ends(&second, KVX_E_REFUSED, KVX_E_REFUSED);
		request_close(&second);
		request_run(&first);
		request_close(&first);
	}
	pair_close(&pair);
}

EACH_WAY_TEST(pull_end__another_receiver_comes_too_late)
{
	struct pair pair, other;
	struct request first, second;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	other = pair;
	other.receiver = engine_open(&pair.drive, way, "other", options);
	expect_ok(pool_alloc(other.receiver, &geometry, &other.to));
	other.drive = pair.drive;
	request_pulled(&first, &pair, 1, 0, BLOCKS);
	drive_for(&pair.drive, 20);
	const void *ticket = request_ticket(&first, &bytes);
	request_init(&second, &other, 2, BLOCKS, BLOCKS, TABLE_RANDOM);
	expect_ok(pull_kept(&second, ticket, bytes));
	expect_grant_ends(&second, KVX_E_REFUSED, KVX_E_REFUSED);
	request_run(&first);
	request_close(&first);
	request_close(&second);
	engine_close(&pair.drive, other.receiver);
	pair_close(&pair);
}

/* As many as the grant takes have come already: a failure of a pull ends its grant. */
EACH_WAY_TEST(pull_end__one_offer_too_many_ends_the_grant)
{
	struct kvx_engine *third;
	struct kvx_stream *extra;
	struct request request;
	struct kvx_pool *pool;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	third = engine_open(&pair.drive, way, "third", options);
	expect_ok(pool_alloc(third, &geometry, &pool));
	request_pulled(&request, &pair, 1, 0, BLOCKS);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	expect_ok(kvx_offer_open(pool, request.from, BLOCKS, NULL, LEASE_MS, &extra));
	const void *ticket = kvx_offer_ticket(extra, &bytes);
	expect_ok(kvx_grant_pull(request.grant, ticket, bytes));
	expect_grant_ends(&request, KVX_E_REFUSED, KVX_E_REFUSED);
	cr_assert(strstr(kvx_error_text(), "third"), "%s", kvx_error_text());
	expect_stream_ends(&request, KVX_E_REFUSED, KVX_E_REFUSED);
	cr_assert_eq(wait_stream(&pair.drive, extra, 0, PATIENCE_MS), KVX_E_REFUSED);
	kvx_stream_close(extra);
	request_close(&request);
	engine_close(&pair.drive, third);
	pair_close(&pair);
}

EACH_WAY_TEST(pull_end__a_sender_that_is_gone_is_unreachable)
{
	struct request request;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	uint8_t *ticket = request_keep_ticket(&request, &bytes);
	engine_close(&pair.drive, pair.sender);
	expect_ok(pull_kept(&request, ticket, bytes));
	expect_grant_ends(&request, KVX_E_UNREACHABLE, KVX_E_UNREACHABLE);
	cr_assert(strstr(kvx_error_text(), way->transport), "%s", kvx_error_text());
	kvx_grant_close(request.grant);
	request_free(&request);
	free(ticket);
	engine_close(&pair.drive, pair.receiver);
}

EACH_WAY_TEST(pull_end__a_sender_that_was_restarted_is_named_with_both_incarnations)
{
	char was[17], is[17], listen[64] = "listen=127.0.0.1:0";
	const char *const again[] = {listen, NULL};
	struct request request;
	struct kvx_peer *peer;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	uint8_t *ticket = request_keep_ticket(&request, &bytes);
	snprintf(was, sizeof(was), "%016" PRIx64, kvx_engine_incarnation(pair.sender));
	if (strcmp(way->transport, "tcp") == 0)
		snprintf(listen, sizeof(listen), "listen=127.0.0.1:%u",
			 tcp_port_of(kvx_engine_address(pair.sender)));
	engine_close(&pair.drive, pair.sender);
	pair.sender = engine_open(&pair.drive, way, "sender", again);
	expect_ok(pool_alloc(pair.sender, &geometry, &pair.from));
	snprintf(is, sizeof(is), "%016" PRIx64, kvx_engine_incarnation(pair.sender));
	expect_ok(kvx_peer_connect(pair.receiver, kvx_engine_address(pair.sender), &peer));
	expect_ok(wait_peer(&pair.drive, peer, PATIENCE_MS));
	expect_ok(pull_kept(&request, ticket, bytes));
	expect_grant_ends(&request, KVX_E_PEER_RESTARTED, KVX_E_PEER_RESTARTED);
	cr_assert(strstr(kvx_error_text(), was) && strstr(kvx_error_text(), is) &&
			  strstr(kvx_error_text(), "sender"),
		  "%s", kvx_error_text());
	kvx_peer_close(peer);
	kvx_grant_close(request.grant);
	request_free(&request);
	free(ticket);
	pair_close(&pair);
}

/* It listens, but never answers. */
EACH_TRANSPORT_TEST(pull_end__a_sender_that_does_not_answer_is_unreachable)
{
	struct way driven = {way->transport, true};
	struct request request;
	struct pair pair = {.way = way, .geometry = geometry};

	pair.receiver = engine_open(&pair.drive, way, "receiver", options);
	pair.sender = engine_open(&pair.drive, &driven, "sender", options);
	drive_remove(&pair.drive, pair.sender);
	expect_ok(pool_alloc(pair.sender, &geometry, &pair.from));
	expect_ok(pool_alloc(pair.receiver, &geometry, &pair.to));
	request_pulled(&request, &pair, 1, 0, BLOCKS);
	expect_grant_ends(&request, KVX_E_UNREACHABLE, KVX_E_UNREACHABLE);
	request_close(&request);
	pair_close(&pair);
}

/* --- either end gives up, at any moment --- */

static int64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Lets the pull get somewhere: a number of steps, or a time. */
static void let_it_go_on(struct pair *pair, uint32_t round, uint64_t *random)
{
	if (pair->way->caller) {
		for (uint32_t step = 0; step < round; step++)
			drive_step(&pair->drive);
		return;
	}
	int64_t until_ns = clock_ns() + (int64_t)(random_next(random) % (1 + round * 30000));
	while (clock_ns() < until_ns)
		sched_yield();
}

enum ending { REVOKE, CLOSE_GRANT, CANCEL, CLOSE_STREAM, ENDINGS };

/* The grant ends; the offer's wait does at once, and late bytes land nowhere. */
static void receiver_gives_up(struct request *request, enum ending ending)
{
	struct pair *pair = request->pair;
	bool may_be_whole = true;

	if (ending == REVOKE) {
		expect_ok(kvx_grant_revoke(request->grant, pair->way->caller ? 20 : 1000));
		may_be_whole = kvx_grant_poll(request->grant, KVX_ALL_LAYERS) == 1;
	} else {
		kvx_grant_close(request->grant);
		request->grant = NULL;
	}
	blocks_set(pair->to, &geometry, request->to, request->count, MARK);
	int64_t begin_ms = now_ms();
	int result = wait_stream(&pair->drive, request->stream, KVX_ALL_LAYERS, PATIENCE_MS);
	/* The last: the sender came when the grant was closed. */
	cr_assert((result == 0 && may_be_whole) || result == KVX_E_REVOKED ||
			  result == KVX_E_REFUSED,
		  "%s: %s", kvx_error_name(result), kvx_error_text());
	cr_assert_lt(now_ms() - begin_ms, AT_ONCE_MS);
	if (result == 0)
		return;
	blocks_set(pair->from, &geometry, request->from, request->count, 0);
	begin_ms = now_ms();
	kvx_stream_close(request->stream);
	request->stream = NULL;
	cr_assert_lt(now_ms() - begin_ms, AT_ONCE_MS);
}

/* The offer ends; the grant's wait does at once, and what counts as whole is what was offered. */
static void sender_gives_up(struct request *request, enum ending ending)
{
	struct pair *pair = request->pair;

	if (ending == CANCEL) {
		kvx_stream_cancel(request->stream);
	} else {
		kvx_stream_close(request->stream);
		request->stream = NULL;
	}
	blocks_set(pair->from, &geometry, request->from, request->count, MARK);
	int64_t begin_ms = now_ms();
	int result = wait_grant(&pair->drive, request->grant, KVX_ALL_LAYERS, PATIENCE_MS);
	/* The last: the pull came when the offer was over. */
	cr_assert(result == 0 || result == KVX_E_CANCELLED || result == KVX_E_REFUSED, "%s: %s",
		  kvx_error_name(result), kvx_error_text());
	cr_assert_lt(now_ms() - begin_ms, AT_ONCE_MS);
	for (uint32_t layer = 0; layer < geometry.layers; layer++)
		if (kvx_grant_poll(request->grant, layer) == 1)
			cr_assert_eq(pattern_wrong(pair->to, &geometry, request->id, layer,
						   request->to, request->count),
				     0);
	kvx_grant_close(request->grant);
	request->grant = NULL;
	blocks_set(pair->to, &geometry, request->to, request->count, MARK);
}

static void give_up(struct pair *pair, uint32_t round, enum ending ending, uint64_t *random)
{
	uint32_t first = round % ROUNDS * BLOCKS;
	struct request request;

	request_init(&request, pair, round, first, BLOCKS, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	if (round % 3)
		expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
	request_grant(&request, LEASE_MS);
	request_pull(&request);
	let_it_go_on(pair, round, random);
	if (ending == REVOKE || ending == CLOSE_GRANT)
		receiver_gives_up(&request, ending);
	else
		sender_gives_up(&request, ending);
	request_close(&request);
}

static void expect_nothing_late(struct pair *pair)
{
	uint32_t table[ROUNDS * BLOCKS];

	for (uint32_t i = 0; i < ROUNDS * BLOCKS; i++)
		table[i] = i;
	drive_for(&pair->drive, 200);
	cr_assert_eq(blocks_changed(pair->to, &geometry, table, ROUNDS * BLOCKS, MARK), 0);
	pair_expect_works(pair, 1000);
}

static void run_endings(const struct way *way, enum ending ending)
{
	struct kvx_geometry larger = geometry;
	uint64_t random = random_seed();
	struct pair pair;

	for (uint32_t round = 0; round < FRESH_ROUNDS; round++) {
		pair_open(&pair, way, &geometry, options); /* the links are made first */
		give_up(&pair, round, ending, &random);
		pair_close(&pair);
	}
	larger.blocks = ROUNDS * BLOCKS;
	pair_open(&pair, way, &larger, options);
	for (uint32_t round = 0; round < ROUNDS; round++)
		give_up(&pair, round, ending, &random);
	expect_nothing_late(&pair);
	struct kvx_stats sender = stats_of(pair.sender), receiver = stats_of(pair.receiver);
	cr_assert_eq(sender.streams_opened, sender.streams_completed + sender.streams_failed);
	cr_assert_eq(receiver.grants_opened, receiver.grants_completed + receiver.grants_failed);
	cr_assert_eq(sender.peers_lost + receiver.peers_lost, 0);
	cr_assert_eq(sender.protocol_errors + receiver.protocol_errors, 0);
	pair_close(&pair);
}

EACH_WAY_TEST(pull_end__a_revoked_grant_frees_the_offer_at_once)
{
	run_endings(way, REVOKE);
}

EACH_WAY_TEST(pull_end__a_closed_grant_frees_the_offer_at_once)
{
	run_endings(way, CLOSE_GRANT);
}

EACH_WAY_TEST(pull_end__a_cancelled_offer_ends_the_grant_at_once)
{
	run_endings(way, CANCEL);
}

EACH_WAY_TEST(pull_end__a_closed_offer_ends_the_grant_at_once)
{
	run_endings(way, CLOSE_STREAM);
}

/* One of three ranks cancels: the grant and the others' offers end, wherever they are. */
EACH_WAY_TEST(pull_end__one_of_several_offers_ends_all)
{
	struct kvx_grant_options of_grant = {.senders = 3};
	struct kvx_engine *engines[3];
	struct kvx_stream *streams[3];
	struct kvx_pool *pools[3];
	struct request request;
	struct pair pair;
	size_t bytes;

	for (uint32_t came = 0; came < 3; came++) {
		pair_open(&pair, way, &geometry, options);
		request_init(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
		expect_ok(kvx_grant_open(pair.to, request.to, BLOCKS, &of_grant, LEASE_MS,
					 &request.grant));
		for (uint32_t i = 0; i < 3; i++) {
			engines[i] = engine_open(&pair.drive, way, i ? "other" : "leaver", options);
			expect_ok(pool_alloc(engines[i], &geometry, &pools[i]));
			expect_ok(kvx_offer_open(pools[i], request.from, BLOCKS, NULL, LEASE_MS,
						 &streams[i]));
		}
		for (uint32_t i = 0; i <= came; i++) {
			const void *ticket = kvx_offer_ticket(streams[i], &bytes);
			expect_ok(kvx_grant_pull(request.grant, ticket, bytes));
		}
		drive_for(&pair.drive, 20);
		kvx_stream_cancel(streams[0]);
		expect_grant_ends(&request, KVX_E_CANCELLED, KVX_E_REFUSED);
		cr_assert(strstr(kvx_error_text(), "leaver"), "%s", kvx_error_text());
		for (uint32_t i = 1; i <= came; i++) {
			int result = wait_stream(&pair.drive, streams[i], 0, AT_ONCE_MS);
			cr_assert(result == KVX_E_CANCELLED || result == KVX_E_REVOKED, "%s",
				  kvx_error_name(result));
		}
		for (uint32_t i = 0; i < 3; i++)
			engine_close(&pair.drive, engines[i]);
		kvx_grant_close(request.grant);
		request_free(&request);
		pair_close(&pair);
	}
}

/* --- an engine is gone --- */

EACH_WAY_TEST(pull_end__a_closed_sender_ends_the_grant)
{
	struct request request;
	struct pair pair;

	for (uint32_t round = 0; round < 8; round++) {
		pair_open(&pair, way, &geometry, options);
		request_pulled(&request, &pair, round, 0, BLOCKS);
		if (round % 2)
			drive_for(&pair.drive, 5 * round);
		engine_close(&pair.drive, pair.sender);
		int64_t begin_ms = now_ms();
		int result = wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
		cr_assert(result == KVX_E_CANCELLED || result == KVX_E_PEER_LOST ||
				  result == KVX_E_UNREACHABLE,
			  "%s", kvx_error_name(result));
		cr_assert_lt(now_ms() - begin_ms, SLACK_MS);
		kvx_grant_close(request.grant);
		request_free(&request);
		engine_close(&pair.drive, pair.receiver);
	}
}

/* Before that an offer knows of no receiver whose end could be its own. */
static bool is_pulled(void *argument)
{
	const struct request *request = argument;
	char text[512];

	kvx_stream_explain(request->stream, text, sizeof(text));
	return !strstr(text, "nobody has pulled");
}

EACH_WAY_TEST(pull_end__a_closed_receiver_ends_the_offer)
{
	struct request request;
	struct pair pair;

	for (uint32_t round = 0; round < 8; round++) {
		pair_open(&pair, way, &geometry, options);
		pair_expect_works(&pair, 100);
		request_pulled(&request, &pair, round, 0, BLOCKS);
		cr_assert(drive_until(&pair.drive, is_pulled, &request, PATIENCE_MS));
		drive_for(&pair.drive, 5 * round);
		engine_close(&pair.drive, pair.receiver);
		int64_t begin_ms = now_ms();
		int result = wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS);
		cr_assert(result == KVX_E_REVOKED || result == KVX_E_PEER_LOST, "%s",
			  kvx_error_name(result));
		cr_assert_lt(now_ms() - begin_ms, SLACK_MS);
		kvx_stream_close(request.stream);
		request_free(&request);
		engine_close(&pair.drive, pair.sender);
	}
}

static void open_mixed(struct pair *pair, struct request *request, const struct way *sender,
		       const struct way *receiver)
{
	*pair = (struct pair){.way = sender, .geometry = geometry};
	pair->receiver = engine_open(&pair->drive, receiver, "receiver", options);
	pair->sender = engine_open(&pair->drive, sender, "sender", options);
	expect_ok(pool_alloc(pair->sender, &geometry, &pair->from));
	expect_ok(pool_alloc(pair->receiver, &geometry, &pair->to));
	request_pulled(request, pair, 1, 0, BLOCKS);
	expect_ok(kvx_stream_layers_ready(request->stream, 0, 1));
	request_expect_layer(request, 0);
	expect_ok(wait_stream(&pair->drive, request->stream, 0, PATIENCE_MS));
	drive_for(&pair->drive, HEARTBEAT_MS);
	drive_remove(&pair->drive, sender->caller ? pair->sender : pair->receiver);
}

EACH_TRANSPORT_TEST(pull_end__a_silent_sender_is_lost_within_two_heartbeats)
{
	struct way driven = {way->transport, true};
	struct request request;
	struct pair pair;

	open_mixed(&pair, &request, &driven, way);
	int64_t begin_ms = now_ms();
	expect_fail(kvx_grant_wait(request.grant, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_PEER_LOST,
		    "sender", "silent");
	cr_assert_leq(now_ms() - begin_ms, 2 * HEARTBEAT_MS + SLACK_MS);
	request_close(&request);
	pair_close(&pair);
}

EACH_TRANSPORT_TEST(pull_end__a_silent_receiver_is_lost_within_two_heartbeats)
{
	struct way driven = {way->transport, true};
	struct request request;
	struct pair pair;

	open_mixed(&pair, &request, way, &driven);
	int64_t begin_ms = now_ms();
	expect_fail(kvx_stream_wait(request.stream, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_PEER_LOST,
		    "receiver", "silent");
	cr_assert_leq(now_ms() - begin_ms, 2 * HEARTBEAT_MS + SLACK_MS);
	request_close(&request);
	pair_close(&pair);
}

/* Another process: offers, tells its ticket, and waits to be killed. */
static void offer_in_child(const struct way *way, int ticket_to)
{
	struct request request;
	struct pair pair = {.way = way, .geometry = geometry};
	size_t bytes;

	pair.sender = engine_open(&pair.drive, way, "sender", options);
	expect_ok(pool_alloc(pair.sender, &geometry, &pair.from));
	request_init(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	request_offer(&request, LEASE_MS);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	const void *ticket = request_ticket(&request, &bytes);
	cr_assert_eq(write(ticket_to, ticket, bytes), (ssize_t)bytes);
	for (;;)
		pause();
}

static void kill_and_expect_notice(struct request *request, pid_t child)
{
	cr_assert_eq(kill(child, SIGKILL), 0);
	int64_t begin_ms = now_ms();
	int result = wait_grant(&request->pair->drive, request->grant, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert_eq(result, KVX_E_PEER_LOST, "%s: %s", kvx_error_name(result), kvx_error_text());
	cr_assert(strstr(kvx_error_text(), "sender"), "%s", kvx_error_text());
	cr_assert_leq(now_ms() - begin_ms, 2 * HEARTBEAT_MS + SLACK_MS);
	cr_assert_eq(waitpid(child, NULL, 0), child);
}

static void pull_from_killed(const char *transport)
{
	struct way way = {transport, false};
	struct request request = {.count = BLOCKS};
	struct pair pair = {.way = &way, .geometry = geometry};
	uint8_t ticket[4096];
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	pid_t child = fork();
	cr_assert_geq(child, 0);
	if (!child)
		offer_in_child(&way, ends[1]);
	close(ends[1]);
	ssize_t bytes = read(ends[0], ticket, sizeof(ticket));
	cr_assert_gt(bytes, 0);
	pair.receiver = engine_open(&pair.drive, &way, "receiver", options);
	expect_ok(pool_alloc(pair.receiver, &geometry, &pair.to));
	request.pair = &pair;
	request.to = calloc(BLOCKS, sizeof(uint32_t));
	for (uint32_t i = 0; i < BLOCKS; i++)
		request.to[i] = i;
	expect_ok(pull_kept(&request, ticket, (size_t)bytes));
	expect_ok(wait_grant(&pair.drive, request.grant, 0, PATIENCE_MS));
	kill_and_expect_notice(&request, child);
	kvx_grant_close(request.grant);
	request_free(&request);
	close(ends[0]);
	engine_close(&pair.drive, pair.receiver);
}

Test(shm, pull_end__a_killed_sender_is_noticed)
{
	pull_from_killed("shm");
}

Test(tcp, pull_end__a_killed_sender_is_noticed)
{
	pull_from_killed("tcp");
}

/* --- nothing is left behind --- */

EACH_WAY_TEST(pull_end__thousands_of_offers_leave_nothing_behind)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	pair_expect_works(&pair, 1);
	request_pulled(&request, &pair, 2, 0, BLOCKS); /* links in both directions */
	request_run(&request);
	request_close(&request);
	uint32_t descriptors = count_descriptors();
	for (uint32_t i = 0; i < 3000; i++) {
		uint32_t block = i % geometry.blocks;
		struct kvx_stream *stream;
		expect_ok(kvx_offer_open(pair.from, &block, 1, NULL, LEASE_MS, &stream));
		kvx_stream_close(stream);
	}
	for (uint32_t i = 0; i < 300; i++) {
		request_init(&request, &pair, i, i % geometry.blocks, 1, TABLE_IDENTITY);
		request_offer(&request, LEASE_MS);
		request_grant(&request, LEASE_MS);
		request_pull(&request);
		if (i % 2)
			expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
		if (i % 4 == 3)
			expect_ok(wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS,
					     PATIENCE_MS));
		request_close(&request);
	}
	drive_for(&pair.drive, 50);
	cr_assert_eq(count_descriptors(), descriptors, "descriptors were left over");
	expect_ok(kvx_pool_close(pair.from));
	expect_ok(kvx_pool_close(pair.to));
	pair_close(&pair);
}
