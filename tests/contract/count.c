/* SPDX-License-Identifier: Apache-2.0 */
/* 4. Nothing counted twice, nothing lost. */
#include "support/pair.h"
#include "support/sockets.h"
#include "support/stranger.h"

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
