/* SPDX-License-Identifier: Apache-2.0 */
/* 8. The receiver counts; nobody guesses: a receiver that tells what cannot be is believed nothing
 * of it. It is made by hand. */
#include "support/pair.h"
#include "support/stranger.h"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 60000u
#define LAYERS 4u
#define PLANES 2u
#define BLOCKS 8u
#define TOKENS 16u /* of a block */

static const struct kvx_geometry geometry = {.layers = LAYERS,
					     .planes = PLANES,
					     .blocks = BLOCKS,
					     .block_tokens = TOKENS,
					     .layout = KVX_LAYOUT_HND,
					     .heads = 4,
					     .heads_total = 4,
					     .head_bytes = 64};

static const char *const options[] = {"unit_bytes=16384", NULL};

static const uint32_t table[BLOCKS] = {0, 1, 2, 3, 4, 5, 6, 7};

/* A sender, and a stranger that it takes for a receiver of all of its blocks. */
struct scene {
	const struct way *way;
	struct drive drive;
	struct kvx_engine *sender;
	struct kvx_pool *pool;
	struct stranger stranger;
	uint8_t *ticket;
	size_t ticket_bytes;
	struct kvx_stream *stream;
	struct kvx_message open; /* the stream's */
};

static void make_ticket(struct scene *scene, const struct kvx_geometry *complete, char *address)
{
	const struct kvx_ticket ticket = {.incarnation = STRANGER_INCARNATION,
					  .name = "stranger",
					  .lease_ms = LEASE_MS,
					  .geometry = *complete,
					  .token_end = BLOCKS * TOKENS,
					  .senders = 1,
					  .address = address,
					  .count = BLOCKS,
					  .table = (uint32_t *)table};

	expect_ok(kvx_ticket_encode(&ticket, &scene->ticket, &scene->ticket_bytes));
}

/* Its OPEN has come; what else has come before is of an earlier one. */
static void open_stream(struct scene *scene)
{
	const struct kvx_message *heard = &scene->stranger.heard;
	bool first = !scene->stranger.up;

	expect_ok(kvx_stream_open(scene->pool, table, BLOCKS, NULL, scene->ticket,
				  scene->ticket_bytes, &scene->stream));
	if (first)
		stranger_greet(&scene->stranger, &scene->drive);
	while (heard->type != KVX_MESSAGE_OPEN || (!first && heard->stream == scene->open.stream))
		cr_assert(stranger_listen(&scene->stranger, &scene->drive,
					  scene->stranger.heard_count + 1));
	scene->open = *heard;
}

static void scene_open(struct scene *scene, const struct way *way)
{
	struct kvx_geometry complete;
	char address[KVX_ADDRESS_MAX + 16];

	*scene = (struct scene){.way = way};
	stranger_serve(&scene->stranger, way->transport, address, sizeof(address));
	scene->sender = engine_open(&scene->drive, way, "sender", options);
	expect_ok(pool_alloc(scene->sender, &geometry, &scene->pool));
	expect_ok(kvx_geometry_complete(&geometry, &complete));
	make_ticket(scene, &complete, address);
	open_stream(scene);
}

static void scene_close(struct scene *scene)
{
	kvx_stream_close(scene->stream);
	stranger_close(&scene->stranger);
	engine_close(&scene->drive, scene->sender);
	free(scene->ticket);
}

static bool is_one_sided(const struct scene *scene)
{
	return scene->stranger.ops->one_sided;
}

/* --- what a receiver says, right in every field --- */

/* The plan of that share, be it one that cannot be. */
static uint64_t hash_of(const struct kvx_message *open, const struct kvx_share *share)
{
	struct kvx_shape shape;
	struct kvx_image image;

	kvx_shape_of(&open->geometry, &shape);
	kvx_image_make(&image, &shape, &shape, share, 0, BLOCKS * TOKENS);
	kvx_image_cut(&image, open->units, open->weighted ? open->weights : NULL);
	return kvx_plan_hash(&open->geometry, &image, share, kvx_table_hash(table, BLOCKS));
}

static struct kvx_message right_accept(const struct scene *scene)
{
	struct kvx_message accept = {.type = KVX_MESSAGE_ACCEPT,
				     .stream = scene->open.stream,
				     .planes = PLANES,
				     .hash = scene->open.hash};
	struct kvx_shape shape;

	kvx_shape_of(&scene->open.geometry, &shape);
	kvx_share_alone(&shape, &shape, 0, BLOCKS * TOKENS, &accept.share);
	cr_assert_eq(hash_of(&scene->open, &accept.share), accept.hash);
	return accept;
}

static void say_layout(struct scene *scene, uint32_t tensors, uint32_t more)
{
	struct kvx_message layout = {.type = KVX_MESSAGE_LAYOUT, .stream = scene->open.stream};

	layout.layout[layout.count++] = (struct kvx_layout_run){.tensors = tensors, .stride = 4096};
	if (more)
		layout.layout[layout.count++] =
			(struct kvx_layout_run){.tensors = more, .stride = 4096};
	stranger_say(&scene->stranger, &layout);
}

static void say_whole(struct scene *scene, uint32_t first, uint32_t count)
{
	stranger_say(&scene->stranger, &(struct kvx_message){.type = KVX_MESSAGE_WHOLE,
							     .stream = scene->open.stream,
							     .first = first,
							     .count = count});
}

static void accept_rightly(struct scene *scene)
{
	struct kvx_message accept = right_accept(scene);

	if (is_one_sided(scene))
		say_layout(scene, LAYERS * PLANES, 0);
	stranger_say(&scene->stranger, &accept);
}

static void expect_end(struct scene *scene, const char *words)
{
	expect_fail(wait_stream(&scene->drive, scene->stream, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_PROTOCOL, words);
}

/* --- lies --- */

enum lie {
	MORE_PLANES,
	UNITS_PAST_THE_LAST,
	ANOTHER_NUMBER,
	MORE_LAYERS,
	LATER_LAYERS,
	MORE_HEADS,
	MORE_TOKENS,
	A_PART_OF_A_BLOCK,
	LIES
};

/* The plan's number is that of the lie, so that it is the lie itself that has to be found. */
static void tell_lie(const struct scene *scene, enum lie lie, struct kvx_message *accept)
{
	struct kvx_share *share = &accept->share;

	switch (lie) {
	case MORE_PLANES:
		accept->planes++;
		return;
	case UNITS_PAST_THE_LAST:
		accept->unit_first = KVX_UNITS_MAX;
		return;
	case ANOTHER_NUMBER:
		accept->hash ^= 1;
		return;
	case MORE_LAYERS:
		share->layers++;
		break;
	case LATER_LAYERS:
		share->layer_first++;
		break;
	case MORE_HEADS:
		share->plane[1].heads++;
		break;
	case MORE_TOKENS:
		share->plane[0].token_end += TOKENS;
		break;
	default:
		share->plane[0].token_first = TOKENS / 2;
	}
	accept->hash = hash_of(&scene->open, share);
}

/* Only the stream ends; the next one of the same sender is accepted rightly. */
EACH_WAY_TEST(contract_8__a_receiver_that_accepts_another_plan_ends_that_stream_alone)
{
	struct scene scene;

	scene_open(&scene, way);
	for (enum lie lie = MORE_PLANES; lie < LIES; lie++) {
		struct kvx_message accept = right_accept(&scene);
		tell_lie(&scene, lie, &accept);
		if (is_one_sided(&scene))
			say_layout(&scene, LAYERS * PLANES, 0);
		stranger_say(&scene.stranger, &accept);
		expect_end(&scene, "the receiver accepted another plan");
		kvx_stream_close(scene.stream);
		open_stream(&scene);
	}
	accept_rightly(&scene);
	say_whole(&scene, 0, LAYERS);
	expect_ok(wait_stream(&scene.drive, scene.stream, KVX_ALL_LAYERS, PATIENCE_MS));
	cr_assert_eq(stats_of(scene.sender).streams_failed, LIES);
	cr_assert_eq(stats_of(scene.sender).protocol_errors, 0);
	cr_assert_not(scene.stranger.down);
	scene_close(&scene);
}

/* Where hardware writes the sender has to know where to. */
static void contract_8__an_accept_without_all_of_the_layout_is_another_plan(const struct way *way)
{
	struct scene scene;

	scene_open(&scene, way);
	cr_assert(is_one_sided(&scene));
	struct kvx_message accept = right_accept(&scene);
	say_layout(&scene, LAYERS * PLANES - 1, 0);
	stranger_say(&scene.stranger, &accept);
	expect_end(&scene, "the receiver accepted another plan");
	scene_close(&scene);
}

RUN_TEST(verbs, contract_8__an_accept_without_all_of_the_layout_is_another_plan, "verbs", false)
RUN_TEST(verbs_caller, contract_8__an_accept_without_all_of_the_layout_is_another_plan, "verbs",
	 true)

/* What ends the link too: nothing that this receiver says is worth anything. */
static void expect_link_ends(struct scene *scene, const char *words)
{
	expect_end(scene, words);
	cr_assert(stranger_sees_end(&scene->stranger, &scene->drive));
	cr_assert_eq(stats_of(scene->sender).protocol_errors, 1);
	scene_close(scene);
}

EACH_WAY_TEST(contract_8__a_layout_that_cannot_be_ends_the_link)
{
	static const uint32_t tensors[][2] = {
		{0, 0}, {LAYERS * PLANES + 1, 0}, {LAYERS * PLANES, 1}, {UINT32_MAX, 0}, {4, 5}};
	struct scene scene;

	for (uint32_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++) {
		scene_open(&scene, way);
		say_layout(&scene, tensors[i][0], tensors[i][1]);
		expect_link_ends(&scene, is_one_sided(&scene)
						 ? "it tells of tensors that do not exist"
						 : "it tells of memory that this transport does "
						   "not write into");
	}
}

/* One that comes late would move the memory that the sender writes into. */
EACH_WAY_TEST(contract_8__a_layout_after_the_accept_ends_the_link)
{
	struct scene scene;

	scene_open(&scene, way);
	accept_rightly(&scene);
	say_layout(&scene, 1, 0);
	expect_link_ends(&scene, "it tells of");
}

EACH_WAY_TEST(contract_8__layers_that_do_not_exist_are_not_delivered)
{
	static const uint32_t layers[][2] = {{LAYERS, 1},   {0, LAYERS + 1}, {LAYERS - 1, 2},
					     {1, LAYERS},   {UINT32_MAX, 1}, {0, UINT32_MAX},
					     {KVX_TAIL, 1}, {UINT32_MAX, 2}};
	struct scene scene;

	for (uint32_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++) {
		scene_open(&scene, way);
		accept_rightly(&scene);
		say_whole(&scene, 0, LAYERS - 1);
		expect_ok(wait_stream(&scene.drive, scene.stream, LAYERS - 2, PATIENCE_MS));
		say_whole(&scene, layers[i][0], layers[i][1]);
		expect_end(&scene, "it reports layers that do not exist");
		cr_assert_eq(kvx_stream_poll(scene.stream, 0), 1, "what was delivered stays so");
		cr_assert_eq(kvx_stream_poll(scene.stream, LAYERS - 1), KVX_E_PROTOCOL);
		expect_link_ends(&scene, "it reports layers");
	}
}
