/* SPDX-License-Identifier: Apache-2.0 */
/* 5. A restart is another peer. */
#include "support/pair.h"
#include "support/sockets.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct kvx_geometry geometry = {
	.layers = 4, .planes = 2, .blocks = 16, .block_bytes = 4096};

/* What is left of an engine that is gone. */
struct relic {
	uint8_t ticket[2048];
	size_t bytes;
	char incarnation[17];
	char listen[64];
};

static void keep(struct relic *relic, const struct kvx_engine *engine, struct kvx_grant *grant)
{
	const void *ticket = kvx_grant_ticket(grant, &relic->bytes);

	cr_assert(relic->bytes <= sizeof(relic->ticket));
	memcpy(relic->ticket, ticket, relic->bytes);
	snprintf(relic->incarnation, sizeof(relic->incarnation), "%016" PRIx64,
		 kvx_engine_incarnation(engine));
	strcpy(relic->listen, "listen=127.0.0.1:0");
	if (strstr(kvx_engine_address(engine), "tcp:"))
		snprintf(relic->listen, sizeof(relic->listen), "listen=127.0.0.1:%u",
			 tcp_port_of(kvx_engine_address(engine)));
}

/* The receiver is closed, and another of its name (and port) takes its place. */
static void restart_receiver(struct pair *pair, const struct relic *relic)
{
	const char *const options[] = {relic->listen, NULL};

	engine_close(&pair->drive, pair->receiver);
	pair->receiver = engine_open(&pair->drive, pair->way, "receiver", options);
	expect_ok(pool_alloc(pair->receiver, &geometry, &pair->to));
}

static void expect_refused(struct pair *pair, struct request *request, const struct relic *relic)
{
	char now[17];

	snprintf(now, sizeof(now), "%016" PRIx64, kvx_engine_incarnation(pair->receiver));
	expect_ok(kvx_stream_open(pair->from, request->from, request->count, NULL, relic->ticket,
				  relic->bytes, &request->stream));
	expect_fail(wait_stream(&pair->drive, request->stream, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_PEER_RESTARTED, "receiver", relic->incarnation, now, "open a new grant");
	kvx_stream_close(request->stream);
	request->stream = NULL;
}

EACH_WAY_TEST(contract_5__a_ticket_of_an_earlier_incarnation_is_refused_naming_both)
{
	struct request request;
	struct relic relic;
	struct kvx_peer *peer;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_grant(&request, 60000);
	keep(&relic, pair.receiver, request.grant);
	restart_receiver(&pair, &relic);
	expect_ok(kvx_peer_connect(pair.sender, kvx_engine_address(pair.receiver), &peer));
	expect_ok(wait_peer(&pair.drive, peer, PATIENCE_MS));
	for (int round = 0; round < 3; round++)
		expect_refused(&pair, &request, &relic);
	pair_expect_works(&pair, 2);
	kvx_peer_close(peer);
	request_free(&request);
	pair_close(&pair);
}

/* tcp finds the successor at the same port by itself. */
Test(tcp, contract_5__the_successor_at_the_same_port_is_not_taken_for_the_old_one)
{
	struct way way = {"tcp", false};
	struct request request;
	struct relic relic;
	struct pair pair;

	pair_open(&pair, &way, &geometry, NULL);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_grant(&request, 60000);
	keep(&relic, pair.receiver, request.grant);
	restart_receiver(&pair, &relic);
	expect_refused(&pair, &request, &relic);
	pair_expect_works(&pair, 2);
	request_free(&request);
	pair_close(&pair);
}

/* Streams that were open end; the sender goes on with the new incarnation at once. */
EACH_WAY_TEST(contract_5__an_open_stream_ends_and_the_new_incarnation_is_served)
{
	struct request request;
	struct relic relic;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	keep(&relic, pair.receiver, request.grant);
	restart_receiver(&pair, &relic);
	int result = wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert(result == KVX_E_PEER_LOST || result == KVX_E_REVOKED, "%s",
		  kvx_error_name(result));
	kvx_stream_close(request.stream);
	pair_expect_works(&pair, 2);
	expect_refused(&pair, &request, &relic);
	request_free(&request);
	pair_close(&pair);
}

/* The sender restarts: a grant that its predecessor began is not taken up, a new one is. */
EACH_WAY_TEST(contract_5__a_restarted_sender_needs_a_new_grant)
{
	struct request request;
	struct kvx_stream *again;
	struct pair pair;
	size_t bytes;

	pair_open(&pair, way, &geometry, NULL);
	request_open(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	request_expect_layer(&request, 0);
	engine_close(&pair.drive, pair.sender);
	int result = wait_grant(&pair.drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert(result == KVX_E_PEER_LOST || result == KVX_E_CANCELLED, "%s",
		  kvx_error_name(result));
	pair.sender = engine_open(&pair.drive, way, "sender", NULL);
	expect_ok(pool_alloc(pair.sender, &geometry, &pair.from));
	const void *ticket = kvx_grant_ticket(request.grant, &bytes);
	expect_ok(kvx_stream_open(pair.from, request.from, request.count, NULL, ticket, bytes,
				  &again));
	expect_fail(wait_stream(&pair.drive, again, 1, PATIENCE_MS), KVX_E_REFUSED, "grant",
		    "presented this ticket already");
	kvx_stream_close(again);
	kvx_grant_close(request.grant);
	pair_expect_works(&pair, 2);
	request_free(&request);
	pair_close(&pair);
}
