/* SPDX-License-Identifier: Apache-2.0 */
/* 6. One peer's failure stays its own. */
#include "support/pair.h"
#include "support/sockets.h"
#include "support/stranger.h"

#include <string.h>
#include <unistd.h>

static const struct kvx_geometry geometry = {
	.layers = 8, .planes = 2, .blocks = 64, .block_bytes = 8192};

static const char *const options[] = {"heartbeat_ms=10000", "unit_bytes=65536", NULL};
/* So that a neighbour that stalls is lost soon. */
static const char *const stalling_options[] = {"heartbeat_ms=500", "unit_bytes=65536", NULL};

#define HALF 32u /* blocks of each of two requests */

/* A second sender to the pair's receiver, with half a request under way. */
struct neighbour {
	struct pair pair;
	struct request request;
};

static void neighbour_open(struct neighbour *neighbour, struct pair *pair, const struct way *way,
			   const char *const *its_options)
{
	struct pair *own = &neighbour->pair;

	*own = *pair;
	own->drive.count = 0;
	own->sender = engine_open(&pair->drive, way, "neighbour", its_options);
	own->drive = pair->drive;
	expect_ok(pool_alloc(own->sender, &geometry, &own->from));
	request_open(&neighbour->request, own, 99, HALF, HALF, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(neighbour->request.stream, 0, geometry.layers / 2));
	request_expect_layer(&neighbour->request, 0);
}

/* Begins a request, lets the failure happen in its midst, and ends it: with every byte right. */
static void run_beside(struct pair *pair, void (*failure)(struct pair *pair, void *argument),
		       void *argument)
{
	struct request request;

	for (uint64_t id = 1; id <= 3; id++) {
		request_open(&request, pair, id, 0, HALF, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers / 2));
		request_expect_layer(&request, 0);
		if (id == 2)
			failure(pair, argument);
		request_run(&request);
		request_close(&request);
	}
}

static void close_engine(struct pair *pair, void *argument)
{
	struct neighbour *neighbour = argument;

	engine_close(&pair->drive, neighbour->pair.sender);
	neighbour->pair.sender = NULL;
}

EACH_WAY_TEST(contract_6__a_peer_that_closes_disturbs_nobody)
{
	struct neighbour neighbour;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	neighbour_open(&neighbour, &pair, way, options);
	run_beside(&pair, close_engine, &neighbour);
	int result = wait_grant(&pair.drive, neighbour.request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
	request_free(&neighbour.request);
	cr_assert(result == KVX_E_PEER_LOST || result == KVX_E_CANCELLED, "%s",
		  kvx_error_name(result));
	pair_close(&pair);
}

/* Only the neighbour is driven by the test, and not any more. */
static void stop_driving(struct pair *pair, void *argument)
{
	struct neighbour *neighbour = argument;

	drive_remove(&pair->drive, neighbour->pair.sender);
	drive_for(&pair->drive, 1500);
}

EACH_WAY_TEST(contract_6__a_peer_that_stalls_disturbs_nobody)
{
	struct way stalling = {way->transport, true};
	struct neighbour neighbour;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	neighbour_open(&neighbour, &pair, &stalling, stalling_options);
	run_beside(&pair, stop_driving, &neighbour);
	expect_fail(wait_grant(&pair.drive, neighbour.request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_PEER_LOST, "neighbour", "silent");
	cr_assert_eq(stats_of(pair.receiver).peers_lost, 1);
	kvx_engine_close(neighbour.pair.sender);
	request_free(&neighbour.request);
	pair_close(&pair);
}

/* --- peers that break the protocol --- */

static void talk(struct pair *pair, const void *bytes, uint32_t length, bool greet)
{
	struct stranger stranger;

	stranger_connect(&stranger, &pair->drive, pair->way->transport,
			 kvx_engine_address(pair->receiver));
	if (greet)
		stranger_hello(&stranger);
	stranger_say_bytes(&stranger, bytes, length);
	cr_assert(stranger_sees_end(&stranger, &pair->drive), "the link did not end");
	stranger_close(&stranger);
}

static void talk_garbage(struct pair *pair, void *argument)
{
	uint64_t random = random_seed();
	uint8_t bytes[KVX_MESSAGE_MAX];

	(void)argument;
	for (int round = 0; round < 10; round++) {
		uint32_t length = 1 + (uint32_t)(random_next(&random) % sizeof(bytes));
		for (uint32_t i = 0; i < length; i++)
			bytes[i] = (uint8_t)random_next(&random);
		bytes[0] |= 0x80; /* no type of a message */
		talk(pair, bytes, length, round % 2);
	}
}

static void send_a_unit_with_a_gap(struct pair *pair, void *argument)
{
	struct request request;
	struct stranger stranger;

	(void)argument;
	request_init(&request, pair, 50, HALF, HALF, TABLE_RANDOM);
	request_grant(&request, 60000);
	struct kvx_ticket ticket = ticket_of(request.grant);
	stranger_connect(&stranger, &pair->drive, pair->way->transport,
			 kvx_engine_address(pair->receiver));
	stranger_hello(&stranger);
	struct kvx_message open = stranger_open_message(&ticket, 1, 1);
	stranger_say(&stranger, &open);
	cr_assert(stranger_listen(&stranger, &pair->drive, 1));
	stranger_post(&stranger, &pair->drive, &ticket, 0, 0, 0, 8192);
	stranger_post(&stranger, &pair->drive, &ticket, 0, 0, 65536, 8192);
	cr_assert(stranger_sees_end(&stranger, &pair->drive), "the link did not end");
	expect_fail(wait_grant(&pair->drive, request.grant, 0, PATIENCE_MS), KVX_E_PROTOCOL,
		    "stranger", "gap");
	stranger_close(&stranger);
	kvx_ticket_finish(&ticket);
	request_close(&request);
}

EACH_WAY_TEST(contract_6__a_peer_that_talks_garbage_disturbs_nobody)
{
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	run_beside(&pair, talk_garbage, NULL);
	cr_assert_eq(stats_of(pair.receiver).protocol_errors, 10);
	pair_close(&pair);
}

EACH_WAY_TEST(contract_6__a_peer_that_leaves_gaps_disturbs_nobody)
{
	struct pair pair;

	if (strcmp(way->transport, "verbs") == 0)
		cr_skip_test("the receiver of a verbs write does not see what was written");
	pair_open(&pair, way, &geometry, options);
	run_beside(&pair, send_a_unit_with_a_gap, NULL);
	cr_assert_eq(stats_of(pair.receiver).protocol_errors, 1);
	pair_close(&pair);
}

/* The receiver learns of the last byte and of the good-bye in one step. */
static void leave_with_the_last_byte(struct pair *pair, void *argument)
{
	const uint32_t block = geometry.blocks - 1;
	struct kvx_message bye = {.type = KVX_MESSAGE_BYE, .text = "done"};
	struct drive nobody = {0};
	struct stranger stranger;
	struct kvx_grant *grant;

	(void)argument;
	for (uint32_t round = 0; round < 20; round++) {
		expect_ok(kvx_grant_open(pair->to, &block, 1, NULL, 60000, &grant));
		struct kvx_ticket ticket = ticket_of(grant);
		stranger_connect(&stranger, &pair->drive, pair->way->transport,
				 kvx_engine_address(pair->receiver));
		stranger_hello(&stranger);
		struct kvx_message open = stranger_open_message(&ticket, 1, 1);
		stranger_say(&stranger, &open);
		cr_assert(stranger_listen(&stranger, &pair->drive, 1));
		drive_for(&pair->drive, 2);
		for (uint32_t layer = 0; layer < geometry.layers; layer++)
			stranger_post(&stranger, &nobody, &ticket, layer, 0, 0, 2 * 8192);
		stranger_say(&stranger, &bye);
		stranger_flush(&stranger);
		int result = wait_grant(&pair->drive, grant, KVX_ALL_LAYERS, PATIENCE_MS);
		cr_assert(result == 0 || result == KVX_E_PEER_LOST, "%s", kvx_error_name(result));
		cr_assert(stranger_sees_end(&stranger, &pair->drive));
		stranger_close(&stranger);
		kvx_ticket_finish(&ticket);
		kvx_grant_close(grant);
	}
}

EACH_WAY_TEST(contract_6__a_peer_that_leaves_with_its_last_byte_disturbs_nobody)
{
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	run_beside(&pair, leave_with_the_last_byte, NULL);
	pair_close(&pair);
}

/* --- programs that are no engines --- */

#define GUESTS 64

static void visit(struct pair *pair, void *argument)
{
	uint64_t random = random_seed();
	int guests[GUESTS];

	(void)argument;
	for (int i = 0; i < GUESTS; i++) {
		uint8_t bytes[200];
		for (size_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = (uint8_t)random_next(&random);
		guests[i] =
			connect_plainly(pair->way->transport, kvx_engine_address(pair->receiver));
		if (i % 3) /* the others say nothing */
			cr_assert(write(guests[i], bytes, i % 3 == 1 ? sizeof(bytes) : 5) > 0);
		if (i % 2) {
			close(guests[i]);
			guests[i] = -1;
		}
		drive_for(&pair->drive, 1);
	}
	drive_for(&pair->drive, 100);
	for (int i = 0; i < GUESTS; i++)
		if (guests[i] >= 0)
			close(guests[i]);
}

static void run_with_guests(const char *transport, bool caller)
{
	struct way way = {transport, caller};
	struct pair pair;

	pair_open(&pair, &way, &geometry, options);
	pair_expect_works(&pair, 10);
	uint32_t descriptors = count_descriptors();
	run_beside(&pair, visit, NULL);
	drive_for(&pair.drive, 700); /* past connect_timeout_ms */
	cr_assert_eq(count_descriptors(), descriptors, "descriptors were left over");
	pair_close(&pair);
}

Test(tcp, contract_6__connections_that_are_no_engines_disturb_nobody)
{
	run_with_guests("tcp", false);
}

Test(tcp_caller, contract_6__connections_that_are_no_engines_disturb_nobody)
{
	run_with_guests("tcp", true);
}

Test(shm, contract_6__connections_that_are_no_engines_disturb_nobody)
{
	run_with_guests("shm", false);
}

Test(shm_caller, contract_6__connections_that_are_no_engines_disturb_nobody)
{
	run_with_guests("shm", true);
}
