/* SPDX-License-Identifier: Apache-2.0 */
/* Pull: who has not seen a ticket gets nothing, and disturbs nobody. */
#include "core/offer.h"
#include "support/pulled.h"
#include "support/stranger.h"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 600000u
#define BLOCKS 16u
#define STRANGERS_INCARNATION UINT64_C(0x57a) /* as support/stranger.c says */

static const struct kvx_geometry geometry = {
	.layers = 4, .planes = 2, .blocks = 64, .block_bytes = 4096};

static const char *const options[] = {"heartbeat_ms=200", "connect_timeout_ms=500", NULL};

struct scene {
	struct pair pair;
	struct request request;
	struct kvx_ticket offer;
	struct stranger stranger;
};

/* An offer that waits, and a stranger at the sender's door. */
static void scene_open(struct scene *scene, const struct way *way)
{
	size_t bytes;

	pair_open(&scene->pair, way, &geometry, options);
	request_init(&scene->request, &scene->pair, 1, 0, BLOCKS, TABLE_RANDOM);
	request_offer(&scene->request, LEASE_MS);
	const void *ticket = request_ticket(&scene->request, &bytes);
	expect_ok(kvx_ticket_decode(&scene->offer, KVX_TICKET_OFFER, ticket, bytes));
	stranger_connect(&scene->stranger, &scene->pair.drive, way->transport,
			 kvx_engine_address(scene->pair.sender));
	stranger_hello(&scene->stranger);
}

static void scene_close(struct scene *scene)
{
	stranger_close(&scene->stranger);
	kvx_ticket_finish(&scene->offer);
	request_close(&scene->request);
	pair_close(&scene->pair);
}

/* Nothing happened to the offer. */
static void expect_pull_works(struct scene *scene)
{
	request_grant(&scene->request, LEASE_MS);
	request_pull(&scene->request);
	request_run(&scene->request);
}

static void say(struct scene *scene, enum kvx_message_type type, uint64_t key)
{
	struct kvx_message message = {
		.type = type, .stream = scene->offer.offer, .key = key, .code = KVX_E_REFUSED};

	stranger_say(&scene->stranger, &message);
}

static void say_part(struct scene *scene, uint64_t key, uint32_t count, uint32_t first,
		     uint32_t bytes)
{
	struct kvx_message message = {.type = KVX_MESSAGE_PULL,
				      .stream = scene->offer.offer,
				      .key = key,
				      .count = count,
				      .first = first,
				      .part_bytes = bytes};

	memset(message.part, 'x', bytes);
	stranger_say(&scene->stranger, &message);
}

static void expect_heard(struct scene *scene, uint32_t count, int code, const char *word)
{
	const struct kvx_message *heard = &scene->stranger.heard;

	cr_assert(stranger_listen(&scene->stranger, &scene->pair.drive, count));
	cr_assert_eq(heard->type, KVX_MESSAGE_DECLINE);
	cr_assert_eq(heard->code, code, "%s: %s", kvx_error_name(heard->code), heard->text);
	cr_assert(strstr(heard->text, word), "%s", heard->text);
}

EACH_WAY_TEST(pull_stranger__a_wrong_key_gets_nothing)
{
	struct scene scene;

	scene_open(&scene, way);
	for (uint32_t i = 1; i <= 500; i++) {
		say_part(&scene, scene.offer.key ^ i, KVX_PULL_TICKET_MAX, 0, KVX_PART_MAX);
		say_part(&scene, scene.offer.key ^ i, KVX_PULL_TICKET_MAX, KVX_PART_MAX,
			 KVX_PART_MAX);
		say(&scene, KVX_MESSAGE_RELEASE, scene.offer.key ^ i);
		say(&scene, KVX_MESSAGE_DECLINE, 0);
		expect_heard(&scene, i, KVX_E_REFUSED, "is not open in sender");
	}
	cr_assert_eq(kvx_stream_poll(scene.request.stream, 0), 0);
	expect_pull_works(&scene);
	scene_close(&scene);
}

/* Each gets the offer that it has the key of, and no other, declined. */
EACH_WAY_TEST(pull_stranger__parts_that_do_not_fit_end_their_offer_alone)
{
	static const struct {
		uint32_t count, first, bytes;
	} parts[] = {
		{0, 0, 1},                        /* of a ticket of no bytes */
		{KVX_PULL_TICKET_MAX + 1, 0, 10}, /* of one that is too long */
		{UINT32_MAX, 0, KVX_PART_MAX},    /* likewise */
		{1000, 500, 100},                 /* the first part is missing */
		{100, 0, 101},                    /* longer than the whole */
		{100, 0, 0},                      /* empty */
		{50, 0, 50},                      /* whole, but no ticket */
	};
	struct kvx_stream *victim;
	struct scene scene;
	size_t bytes;

	scene_open(&scene, way);
	struct kvx_ticket kept = scene.offer;
	for (uint32_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		struct kvx_ticket offer;
		expect_ok(kvx_offer_open(scene.pair.from, scene.request.from, BLOCKS, NULL,
					 LEASE_MS, &victim));
		const void *ticket = kvx_offer_ticket(victim, &bytes);
		expect_ok(kvx_ticket_decode(&offer, KVX_TICKET_OFFER, ticket, bytes));
		scene.offer = offer;
		say_part(&scene, offer.key, parts[i].count, parts[i].first, parts[i].bytes);
		int code = parts[i].count == 50 ? KVX_E_TICKET : KVX_E_PROTOCOL;
		expect_heard(&scene, i + 1, code, "ticket");
		cr_assert_eq(wait_stream(&scene.pair.drive, victim, 0, PATIENCE_MS), code);
		kvx_stream_close(victim);
		kvx_ticket_finish(&offer);
	}
	scene.offer = kept;
	expect_pull_works(&scene);
	scene_close(&scene);
}

EACH_WAY_TEST(pull_stranger__parts_that_overlap_end_the_offer)
{
	struct scene scene;

	scene_open(&scene, way);
	say_part(&scene, scene.offer.key, 5000, 0, 900);
	say_part(&scene, scene.offer.key, 5000, 900, 900);
	say_part(&scene, scene.offer.key, 5000, 1799, 900);
	say_part(&scene, scene.offer.key, 5000, 2699, 900);
	expect_heard(&scene, 1, KVX_E_PROTOCOL, "do not fit");
	expect_stream_ends(&scene.request, KVX_E_PROTOCOL, KVX_E_PROTOCOL);
	scene_close(&scene);
}

/* A part that is longer than its message is a broken message. */
EACH_WAY_TEST(pull_stranger__a_part_beyond_its_message_ends_the_link)
{
	struct kvx_message pull = {.type = KVX_MESSAGE_PULL, .count = 2000, .part_bytes = 10};
	uint8_t bytes[KVX_MESSAGE_MAX] = {0};
	struct scene scene;

	scene_open(&scene, way);
	uint32_t length = kvx_message_encode(&pull, bytes);
	bytes[length - 10 - 4] = 11;
	stranger_say_bytes(&scene.stranger, bytes, length);
	cr_assert(stranger_sees_end(&scene.stranger, &scene.pair.drive));
	cr_assert_eq(stats_of(scene.pair.sender).protocol_errors, 1);
	expect_pull_works(&scene);
	scene_close(&scene);
}

/* Half a ticket, and then nothing: the offer ends with the link, and nobody else can have it. */
EACH_WAY_TEST(pull_stranger__who_begins_to_pull_and_goes_ends_the_offer)
{
	struct scene scene;

	scene_open(&scene, way);
	say_part(&scene, scene.offer.key, 5000, 0, 900);
	stranger_flush(&scene.stranger);
	drive_for(&scene.pair.drive, 20);
	request_grant(&scene.request, LEASE_MS);
	request_pull(&scene.request);
	expect_grant_ends(&scene.request, KVX_E_REFUSED, KVX_E_REFUSED);
	cr_assert_eq(kvx_stream_poll(scene.request.stream, 0), 0);
	stranger_say(&scene.stranger, &(struct kvx_message){.type = KVX_MESSAGE_BYE});
	stranger_flush(&scene.stranger);
	expect_stream_ends(&scene.request, KVX_E_PEER_LOST, KVX_E_PEER_LOST);
	scene_close(&scene);
}

/* Even with the key: what another receiver pulls is that receiver's. */
EACH_WAY_TEST(pull_stranger__what_another_pulls_cannot_be_pulled_or_released)
{
	struct scene scene;

	scene_open(&scene, way);
	request_grant(&scene.request, LEASE_MS);
	request_pull(&scene.request);
	expect_ok(kvx_stream_layers_ready(scene.request.stream, 0, 1));
	request_expect_layer(&scene.request, 0);
	say_part(&scene, scene.offer.key, 100, 0, 100);
	say(&scene, KVX_MESSAGE_RELEASE, scene.offer.key);
	expect_heard(&scene, 1, KVX_E_REFUSED, "pulled already");
	request_run(&scene.request);
	scene_close(&scene);
}

/* A DECLINE counts only from the engine that was asked. */
EACH_WAY_TEST(pull_stranger__a_strangers_decline_ends_nothing)
{
	struct stranger other;
	struct scene scene;

	scene_open(&scene, way);
	request_grant(&scene.request, LEASE_MS);
	drive_remove(&scene.pair.drive, scene.pair.sender);
	request_pull(&scene.request);
	stranger_connect(&other, &scene.pair.drive, way->transport,
			 kvx_engine_address(scene.pair.receiver));
	stranger_hello(&other);
	stranger_say(&other, &(struct kvx_message){.type = KVX_MESSAGE_DECLINE,
						   .stream = scene.offer.offer,
						   .code = KVX_E_REFUSED});
	stranger_flush(&other);
	drive_for(&scene.pair.drive, 20);
	cr_assert_eq(kvx_grant_poll(scene.request.grant, 0), 0);
	if (way->caller)
		drive_add(&scene.pair.drive, scene.pair.sender);
	request_run(&scene.request);
	stranger_close(&other);
	scene_close(&scene);
}

/* --- with a whole ticket --- */

static void say_ticket(struct scene *scene, uint64_t incarnation, const char *address,
		       const struct kvx_geometry *of, uint32_t blocks)
{
	uint32_t table[2 * BLOCKS];
	struct kvx_ticket ticket = {.incarnation = incarnation,
				    .name = "stranger",
				    .lease_ms = LEASE_MS,
				    .geometry = *of,
				    .token_end = blocks,
				    .senders = 1,
				    .address = (char *)address,
				    .count = blocks,
				    .table = table};
	uint8_t *bytes;
	size_t size;

	for (uint32_t i = 0; i < blocks; i++)
		table[i] = i;
	expect_ok(kvx_ticket_encode(&ticket, &bytes, &size));
	cr_assert(size <= KVX_PART_MAX);
	struct kvx_message pull = {.type = KVX_MESSAGE_PULL,
				   .stream = scene->offer.offer,
				   .key = scene->offer.key,
				   .count = (uint32_t)size,
				   .part_bytes = (uint32_t)size};
	memcpy(pull.part, bytes, size);
	free(bytes);
	stranger_say(&scene->stranger, &pull);
}

/* The sender finds what the receiver should have found. */
EACH_WAY_TEST(pull_stranger__a_ticket_that_does_not_fit_ends_the_offer_with_the_reason)
{
	static const struct {
		uint64_t incarnation;
		bool geometry;
		uint32_t blocks;
		int code;
		const char *word;
	} cases[] = {
		{STRANGERS_INCARNATION + 1, false, BLOCKS, KVX_E_REFUSED, "another engine's"},
		{STRANGERS_INCARNATION, true, BLOCKS, KVX_E_GEOMETRY, "8192"},
		{STRANGERS_INCARNATION, false, BLOCKS + 1, KVX_E_INVALID, "17"},
		{STRANGERS_INCARNATION, false, BLOCKS, KVX_E_UNREACHABLE, "no transport in common"},
		{STRANGERS_INCARNATION, false, BLOCKS / 2, KVX_E_UNREACHABLE, "no transport"},
	};
	struct scene scene;

	for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		scene_open(&scene, way);
		struct kvx_geometry of = scene.offer.geometry;
		of.block_bytes = cases[i].geometry ? 8192 : of.block_bytes;
		say_ticket(&scene, cases[i].incarnation, "nowhere:at all", &of, cases[i].blocks);
		expect_heard(&scene, 1, cases[i].code, cases[i].word);
		expect_stream_ends(&scene.request, cases[i].code, cases[i].code);
		scene_close(&scene);
	}
}

/* --- half of a ticket --- */

/* The first part of a long ticket, and a question that is answered once that part was taken in. */
static void begin_to_pull(struct scene *scene)
{
	say_part(scene, scene->offer.key, 5000, 0, 900);
	say_part(scene, scene->offer.key ^ 1, 5000, 0, 900);
	expect_heard(scene, 1, KVX_E_REFUSED, "is not open in sender");
}

EACH_WAY_TEST(pull_stranger__what_another_begins_to_pull_is_refused_in_these_words)
{
	struct scene scene;

	scene_open(&scene, way);
	begin_to_pull(&scene);
	request_grant(&scene.request, LEASE_MS);
	request_pull(&scene.request);
	expect_fail(wait_grant(&scene.pair.drive, scene.request.grant, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_REFUSED, "peer sender", "another receiver pulls it already");
	cr_assert_eq(kvx_stream_poll(scene.request.stream, 0), 0);
	scene_close(&scene);
}

/* Before it has said all of its ticket, or any. */
EACH_WAY_TEST(pull_stranger__a_pull_that_is_given_up_ends_the_offer)
{
	for (uint32_t parts = 0; parts < 2; parts++) {
		struct scene scene;
		scene_open(&scene, way);
		if (parts)
			begin_to_pull(&scene);
		say(&scene, KVX_MESSAGE_RELEASE, scene.offer.key);
		expect_fail(wait_stream(&scene.pair.drive, scene.request.stream, KVX_ALL_LAYERS,
					PATIENCE_MS),
			    KVX_E_REVOKED, "offer", "the receiver gave the pull up");
		if (parts)
			expect_heard(&scene, 2, KVX_E_REVOKED, "gave the pull up");
		scene_close(&scene);
	}
}
