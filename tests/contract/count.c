/* SPDX-License-Identifier: Apache-2.0 */
/* 4. Nothing counted twice, nothing lost. */
#include "support/pair.h"
#include "support/ranks.h"
#include "support/sockets.h"
#include "support/stranger.h"

#include <kvxfer/operate.h>

#include <string.h>
#include <sys/socket.h>

static const struct kvx_geometry geometry = {
	.layers = 16, .planes = 2, .blocks = 64, .block_bytes = 16384};

static const char *const options[] = {"unit_bytes=131072", "tcp_connections=4", NULL};

#define UNITS 16u /* 2 * 64 * 16384 / 131072 */

static void expect_counters(struct request *request, uint32_t wanted, uint32_t units)
{
	uint32_t arrived, target;

	for (uint32_t layer = 0; layer < geometry.layers; layer++) {
		expect_ok(kvx_grant_count(request->grant, layer, &arrived, &target));
		cr_assert_eq(arrived, wanted, "layer %u: %u units of %u", layer, arrived, target);
		cr_assert_eq(target, units);
	}
}

EACH_WAY_TEST(contract_4__each_unit_is_counted_once)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_open(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_run(&request);
	uint32_t units = request_units(&request, UNITS);
	expect_counters(&request, units, units);
	struct kvx_stats sent = stats_of(pair.sender), received = stats_of(pair.receiver);
	cr_assert_eq(received.units_received, units * geometry.layers);
	cr_assert_eq(received.layers_whole, geometry.layers);
	cr_assert_eq(received.units_duplicate + received.units_late, 0);
	cr_assert_eq(received.bytes_received, 16u * 2 * 64 * 16384);
	cr_assert_eq(sent.units_sent, units * geometry.layers);
	cr_assert_eq(sent.bytes_sent, received.bytes_received);
	cr_assert_eq(sent.units_resent, 0);
	if (!memory_is_device()) /* what is staged leaves in buffers */
		cr_assert_eq(sent.slices_sent, 16u * 2 * 64);
	cr_assert_eq(sent.streams_completed + received.grants_completed, 2);
	request_close(&request);
	pair_close(&pair);
}

/* The data connection that has sent most is cut; its units come over the others. */
static void cut_a_connection(struct pair *pair)
{
	int fd = busiest_socket_to(tcp_port_of(kvx_engine_address(pair->receiver)));

	cr_assert(fd >= 0, "no data connection found");
	cr_assert_eq(shutdown(fd, SHUT_RDWR), 0);
}

static void run_with_a_cut(const struct way *way)
{
	struct request request;
	struct pair pair;
	uint64_t round = 1;

	pair_open(&pair, way, &geometry, options);
	/* More, if all had arrived each time before the cut. */
	for (; round <= 8 || !stats_of(pair.sender).units_resent; round++) {
		cr_assert_leq(round, 100, "nothing had to be sent again");
		request_open(&request, &pair, round, 0, geometry.blocks, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
		request_expect_layer(&request, 1 + (uint32_t)round % 8);
		cut_a_connection(&pair);
		request_run(&request);
		expect_counters(&request, UNITS, UNITS);
		struct kvx_stats received = stats_of(pair.receiver);
		cr_assert_eq(received.layers_whole, round * geometry.layers);
		cr_assert_eq(received.units_received, round * geometry.layers * UNITS);
		request_close(&request);
		drive_for(&pair.drive, 50); /* the connection may come back */
	}
	struct kvx_stats sent = stats_of(pair.sender);
	cr_assert(sent.rails_lost > 0);
	cr_assert_eq(sent.streams_completed, round - 1);
	pair_close(&pair);
}

Test(tcp, contract_4__a_cut_connection_loses_and_doubles_nothing, .timeout = 120)
{
	run_with_a_cut(&(struct way){"tcp", false});
}

Test(tcp_caller, contract_4__a_cut_connection_loses_and_doubles_nothing, .timeout = 120)
{
	run_with_a_cut(&(struct way){"tcp", true});
}

/* Bytes are on their way when the grant is revoked; the receiver is not driven in between. */
static void revoke_what_is_under_way(const char *transport)
{
	struct way way = {transport, true};
	struct request request;
	struct pair pair;
	uint32_t arrived, target = 0;

	pair_open(&pair, &way, &geometry, options);
	request_open(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	while (!target) {
		drive_for(&pair.drive, 1);
		expect_ok(kvx_grant_count(request.grant, 0, &arrived, &target));
	}
	drive_for(&pair.drive, 5);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
	for (int sent = 0; sent<4; sent += stats_of(pair.sender).slices_sent> 0)
		expect_ok(kvx_engine_progress(pair.sender));
	expect_ok(kvx_grant_revoke(request.grant, 0));
	struct kvx_stats before = stats_of(pair.receiver);
	drive_for(&pair.drive, 100);
	struct kvx_stats after = stats_of(pair.receiver);
	cr_assert(after.units_late > 0);
	cr_assert_eq(after.units_received, before.units_received);
	cr_assert_eq(after.layers_whole, before.layers_whole);
	cr_assert_eq(after.bytes_received, before.bytes_received);
	request_close(&request);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

Test(loop_caller, contract_4__a_late_arrival_is_reported_and_not_credited)
{
	revoke_what_is_under_way("loop");
}

Test(shm_caller, contract_4__a_late_arrival_is_reported_and_not_credited)
{
	revoke_what_is_under_way("shm");
}

Test(tcp_caller, contract_4__a_late_arrival_is_reported_and_not_credited)
{
	revoke_what_is_under_way("tcp");
}

static bool has_late_units(void *engine)
{
	return stats_of(engine).units_late > 0;
}

/* The slot's next grant has the same low bits in its immediate, but another generation. Where only
 * those low bits come with a write, it is by its permit that a dead generation is refused, and what
 * a permitted write may still lie about are the bits. */
EACH_WAY_TEST(contract_4__an_arrival_for_a_dead_generation_never_hits_the_next_grant)
{
	struct request request = {0};
	struct stranger stranger;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_grant(&request, 60000);
	struct kvx_ticket ticket = ticket_of(request.grant);
	stranger_connect(&stranger, &pair.drive, way->transport, kvx_engine_address(pair.receiver));
	stranger_hello(&stranger);
	struct kvx_message open = stranger_open_message(&ticket, 1, UNITS);
	stranger_say(&stranger, &open);
	cr_assert(stranger_listen(&stranger, &pair.drive, 1));
	cr_assert_eq(stranger.heard.type, KVX_MESSAGE_ACCEPT);
	blocks_set(pair.to, &geometry, request.to, request.count, 0x77);
	bool only_low_bits = strcmp(way->transport, "verbs") == 0;
	ticket.generation += only_low_bits ? 1 : 32; /* 32: the same five low bits */
	stranger_post(&stranger, &pair.drive, &ticket, 0, 0, 0, 65536);
	stranger_post(&stranger, &pair.drive, &ticket, 0, 0, 65536, 65536);
	cr_assert(drive_until(&pair.drive, has_late_units, pair.receiver, PATIENCE_MS));
	cr_assert_eq(stats_of(pair.receiver).units_late, 1);
	expect_counters(&request, 0, UNITS);
	if (!only_low_bits)
		cr_assert_eq(blocks_changed(pair.to, &geometry, request.to, request.count, 0x77),
			     0);
	stranger_close(&stranger);
	kvx_ticket_finish(&ticket);
	request_close(&request);
	pair_close(&pair);
}

/* --- four senders --- */

#define RANKS_TOKENS 1024u
#define RANKS_LAYERS 8u
#define CONNECTIONS 4u

/* Small units in many layers: when a connection is cut some have arrived that the sender has not
 * heard of. */
static const char *const options_of_four[] = {"unit_bytes=16384", "tcp_connections=4", NULL};

/* A connection that was cut comes back: none is missing when the next one is. */
static bool all_rails_are_up(void *argument)
{
	const struct ranks *ranks = argument;
	struct kvx_rail_view rails[CONNECTIONS];
	struct kvx_peer_view peer;

	for (uint32_t i = 0; i < ranks->count; i++) {
		cr_assert_eq(kvx_engine_peers(ranks->prefill[i].engine, 0, &peer, 1), 1);
		int count = kvx_engine_rails(ranks->prefill[i].engine, peer.id, rails, CONNECTIONS);
		cr_assert_eq(count, (int)CONNECTIONS);
		for (uint32_t k = 0; k < CONNECTIONS; k++)
			if (!rails[k].up)
				return false;
	}
	return true;
}

/* Of one sender, whichever has sent most. */
static void cut_a_connection_of_four(const struct ranks *ranks)
{
	int fd = busiest_socket_to(tcp_port_of(kvx_engine_address(ranks->decode.engine)));

	cr_assert(fd >= 0, "no data connection found");
	cr_assert_eq(shutdown(fd, SHUT_RDWR), 0);
}

static uint64_t resent(const struct ranks *ranks)
{
	uint64_t units = 0;

	for (uint32_t i = 0; i < ranks->count; i++)
		units += stats_of(ranks->prefill[i].engine).units_resent;
	return units;
}

/* All that was counted, since the engines opened. */
static void expect_ranks_counted(const struct ranks *ranks, uint64_t rounds)
{
	struct kvx_stats received = stats_of(ranks->decode.engine);
	uint32_t units = ranks_target(ranks, 0);

	cr_assert_gt(units, 4 * CONNECTIONS);
	for (uint32_t layer = 0; layer < RANKS_LAYERS; layer++) {
		cr_assert_eq(ranks_target(ranks, layer), units);
		cr_assert_eq(ranks_arrived(ranks, layer), units, "layer %u: %u units of %u", layer,
			     ranks_arrived(ranks, layer), units);
	}
	cr_assert_eq(received.units_received, rounds * RANKS_LAYERS * units);
	cr_assert_eq(received.layers_whole, rounds * RANKS_LAYERS);
	cr_assert_eq(received.grants_completed, rounds);
}

/* While a layer's units leave, or before the next ones do: what a rail takes then is sent again. */
static void cut_midway(struct ranks *ranks, uint64_t round)
{
	uint32_t whole = (uint32_t)round / 2 % 2, ready = round % 2 ? RANKS_LAYERS : whole + 1;

	for (uint32_t i = 0; i < ranks->count; i++)
		ranks_ready(ranks, i, 0, ready);
	expect_ok(wait_grant(&ranks->drive, ranks->grant, whole, PATIENCE_MS));
	cut_a_connection_of_four(ranks);
}

static void open_four(struct ranks *ranks, const struct way *way)
{
	struct kvx_geometry decode = rank_geometry(KVX_LAYOUT_HND, 16, 0, 8), prefill[4];

	decode.layers = RANKS_LAYERS;
	for (uint32_t i = 0; i < 4; i++) {
		prefill[i] = rank_geometry(KVX_LAYOUT_NHD, 16, 2 * i, 2);
		prefill[i].layers = RANKS_LAYERS;
	}
	ranks_open(ranks, way, options_of_four, &decode, prefill, 4, RANKS_TOKENS);
}

static bool some_came_twice(const struct ranks *ranks)
{
	return resent(ranks) && stats_of(ranks->decode.engine).units_duplicate;
}

static void run_four_with_a_cut(const struct way *way)
{
	struct ranks ranks;
	uint64_t round = 1;

	open_four(&ranks, way);
	ranks_compute(&ranks, 0, RANKS_TOKENS);
	/* More, if all had arrived each time before the cut. */
	for (; round <= 4 || !some_came_twice(&ranks); round++) {
		cr_assert_leq(round, 100, "nothing came twice");
		memset(ranks.decode.drawn.memory, 0x77, ranks.decode.drawn.bytes);
		ranks_grant(&ranks, NULL, 60000);
		ranks_stream_all(&ranks);
		ranks_await_targets(&ranks);
		cut_midway(&ranks, round);
		ranks_finish(&ranks);
		expect_ranks_counted(&ranks, round);
		ranks_end(&ranks);
		cr_assert(drive_until(&ranks.drive, all_rails_are_up, &ranks, PATIENCE_MS),
			  "a connection that was cut did not come back");
	}
	ranks_close(&ranks);
}

Test(tcp, contract_4__a_cut_connection_of_one_of_four_senders_loses_and_doubles_nothing,
     .timeout = 120)
{
	run_four_with_a_cut(&(struct way){"tcp", false});
}

Test(tcp_caller, contract_4__a_cut_connection_of_one_of_four_senders_loses_and_doubles_nothing,
     .timeout = 120)
{
	run_four_with_a_cut(&(struct way){"tcp", true});
}
