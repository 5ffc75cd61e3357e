/* SPDX-License-Identifier: Apache-2.0 */
/* 8. The receiver counts; nobody guesses. */
#include "support/pair.h"
#include "support/stranger.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static const struct kvx_geometry geometry = {
	.layers = 4, .planes = 2, .blocks = 64, .block_bytes = 4096};

static const char *const options[] = {"unit_bytes=65536", NULL};

#define UNITS 8u /* 2 * 64 * 4096 / 65536 */

static bool has_target(void *grant)
{
	uint32_t arrived, target;

	expect_ok(kvx_grant_count(grant, 0, &arrived, &target));
	return target > 0;
}

EACH_WAY_TEST(contract_8__targets_are_known_before_the_first_byte_moves)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_grant(&request, 60000);
	cr_assert_not(has_target(request.grant), "nobody has presented the ticket");
	request_stream(&request);
	cr_assert(drive_until(&pair.drive, has_target, request.grant, PATIENCE_MS));
	uint32_t units = request_units(&request, UNITS);
	for (uint32_t layer = 0; layer < geometry.layers; layer++) {
		uint32_t arrived, target;
		expect_ok(kvx_grant_count(request.grant, layer, &arrived, &target));
		cr_assert_eq(target, units);
		cr_assert_eq(arrived, 0);
	}
	cr_assert_eq(stats_of(pair.receiver).bytes_received, 0);
	cr_assert_eq(stats_of(pair.sender).bytes_sent, 0);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

/* Arrivals never pass the target and never fall, whoever looks when. */
EACH_WAY_TEST(contract_8__counters_only_grow_towards_their_target)
{
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_open(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
	for (uint32_t last = 0, target = 0; !target || last < target;) {
		uint32_t arrived;
		expect_ok(kvx_grant_count(request.grant, geometry.layers - 1, &arrived, &target));
		cr_assert(arrived >= last && (!target || arrived <= target));
		last = arrived;
		drive_for(&pair.drive, 1);
	}
	request_expect_layer(&request, geometry.layers - 1);
	request_close(&request);
	pair_close(&pair);
}

/* A sender whose OPEN differs in one respect from what the ticket asks for. */
static void expect_open_refused(struct pair *pair, struct request *request,
				const struct kvx_message *open, int code, const char *words)
{
	struct stranger stranger;

	stranger_connect(&stranger, &pair->drive, pair->way->transport,
			 kvx_engine_address(pair->receiver));
	stranger_hello(&stranger);
	stranger_say(&stranger, open);
	cr_assert(stranger_listen(&stranger, &pair->drive, 1), "%s: no answer", words);
	cr_assert_eq(stranger.heard.type, KVX_MESSAGE_REFUSE);
	cr_assert_eq(stranger.heard.code, code, "%s: %s", kvx_error_name(stranger.heard.code),
		     stranger.heard.text);
	cr_assert(strstr(stranger.heard.text, words), "%s", stranger.heard.text);
	cr_assert_eq(stranger.heard.stream, open->stream);
	cr_assert_not(has_target(request->grant));
	stranger_close(&stranger);
}

EACH_WAY_TEST(contract_8__another_plan_is_refused)
{
	struct request request;
	struct kvx_message open;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_grant(&request, 60000);
	struct kvx_ticket ticket = ticket_of(request.grant);
	open = stranger_open_message(&ticket, 17, UNITS), open.hash ^= 1;
	expect_open_refused(&pair, &request, &open, KVX_E_PROTOCOL, "plan");
	open = stranger_open_message(&ticket, 17, UNITS), open.units = 4;
	expect_open_refused(&pair, &request, &open, KVX_E_PROTOCOL, "plan");
	ticket.table[3] ^= 1;
	open = stranger_open_message(&ticket, 17, UNITS);
	expect_open_refused(&pair, &request, &open, KVX_E_PROTOCOL, "plan");
	open = stranger_open_message(&ticket, 17, UNITS), open.units = 0;
	expect_open_refused(&pair, &request, &open, KVX_E_PROTOCOL, "0 units");
	open = stranger_open_message(&ticket, 17, UNITS), open.units = KVX_UNITS_MAX + 1;
	expect_open_refused(&pair, &request, &open, KVX_E_PROTOCOL, "65 units");
	open = stranger_open_message(&ticket, 17, UNITS), open.tail = true;
	expect_open_refused(&pair, &request, &open, KVX_E_REFUSED, "tail");
	open = stranger_open_message(&ticket, 17, UNITS), open.geometry.planes++;
	expect_open_refused(&pair, &request, &open, KVX_E_GEOMETRY, "3 planes");
	open = stranger_open_message(&ticket, 17, UNITS), open.key ^= 1;
	open.geometry.planes++; /* nobody learns of the pool without the key */
	expect_open_refused(&pair, &request, &open, KVX_E_REFUSED, "key");
	open = stranger_open_message(&ticket, 17, UNITS), open.generation++;
	expect_open_refused(&pair, &request, &open, KVX_E_REFUSED, "not open");
	open = stranger_open_message(&ticket, 17, UNITS), open.slot = UINT32_MAX;
	expect_open_refused(&pair, &request, &open, KVX_E_REFUSED, "not open");
	kvx_ticket_finish(&ticket);
	request_stream(&request); /* the right one still works */
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

/* --- of several senders --- */

/* Units have numbers below 64, whoever they are of; and no sender moves by another plan. What is
 * refused leaves the grant to those that fit. */
EACH_WAY_TEST(contract_8__another_plan_of_one_of_two_senders_is_refused)
{
	const struct kvx_grant_options of_two = {.senders = 2};
	struct request request;
	struct stranger stranger;
	struct kvx_message open;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	expect_ok(
		kvx_grant_open(pair.to, request.to, request.count, &of_two, 60000, &request.grant));
	request_stream(&request);
	struct kvx_ticket ticket = ticket_of(request.grant);
	open = stranger_open_message(&ticket, 17, KVX_UNITS_MAX / 2 + 1);
	expect_open_refused(&pair, &request, &open, KVX_E_PROTOCOL,
			    "33 units a layer, of at most 32");
	open = stranger_open_message(&ticket, 17, KVX_UNITS_MAX / 2), open.hash ^= 1;
	expect_open_refused(&pair, &request, &open, KVX_E_PROTOCOL, "is not the receiver's");
	open = stranger_open_message(&ticket, 17, KVX_UNITS_MAX / 2);
	stranger_connect(&stranger, &pair.drive, way->transport, kvx_engine_address(pair.receiver));
	stranger_hello(&stranger);
	stranger_say(&stranger, &open);
	cr_assert(stranger_listen(&stranger, &pair.drive, 1));
	cr_assert_eq(stranger.heard.type, KVX_MESSAGE_ACCEPT, "%s", stranger.heard.text);
	cr_assert_lt(stranger.heard.unit_first, KVX_UNITS_MAX);
	cr_assert(has_target(request.grant));
	stranger_close(&stranger);
	kvx_ticket_finish(&ticket);
	request_close(&request);
	pair_close(&pair);
}

/* --- memory that a transport does not reach --- */

/* The engine listens for RDMA, but the pool's memory is a device's that the NIC does not reach. A
 * ticket of it names no such address; who comes that way all the same is refused. */
Test(target, contract_8__a_sender_over_what_does_not_move_the_memory_is_refused, .timeout = 60)
{
	const struct way both = {"verbs,tcp", true}, way = {"verbs", true};
	struct request request;
	struct kvx_message open;
	struct pair pair;

	void *driver = dlopen("libcuda.so.1", RTLD_NOW);
	void (*steer)(const char *, uint64_t) =
		driver ? (void (*)(const char *, uint64_t))dlsym(driver, "fake_cuda_set") : NULL;
	if (!steer)
		cr_skip_test("no made-up device");
	steer("dmabuf", 0);
	setenv("KVX_TEST_MEMORY", "cuda", 1); /* of this test's process alone */
	pair_open(&pair, &both, &geometry, options);
	request_init(&request, &pair, 1, 0, geometry.blocks, TABLE_RANDOM);
	request_grant(&request, 60000);
	struct kvx_ticket ticket = ticket_of(request.grant);
	cr_assert_not(strstr(ticket.address, "verbs:"), "%s", ticket.address);
	open = stranger_open_message(&ticket, 17, UNITS);
	pair.way = &way;
	expect_open_refused(&pair, &request, &open, KVX_E_REFUSED,
			    "grant: verbs does not move its memory");
	pair.way = &both;
	kvx_ticket_finish(&ticket);
	request_stream(&request);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}
