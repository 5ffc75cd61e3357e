/* SPDX-License-Identifier: Apache-2.0 */
/* The contract, where several senders feed one grant. */
#include "support/pair.h"
#include "support/ranks.h"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 60000u
#define TOKENS 320u
#define LAYERS 4u

static const char *const options[] = {"unit_bytes=4096", "drain_ms=20", "spin_us=0", NULL};

static void open_four(struct ranks *ranks, const struct way *way)
{
	ranks_open_four(ranks, way, options, TOKENS);
	ranks_compute(ranks, 0, TOKENS);
}

static void expect_nothing_moved(struct ranks *ranks)
{
	drive_for(&ranks->drive, 30);
	cr_assert_eq(stats_of(ranks->decode.engine).bytes_received, 0);
	for (uint32_t i = 0; i < ranks->count; i++)
		cr_assert_eq(stats_of(ranks->prefill[i].engine).bytes_sent, 0);
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		cr_assert_eq(ranks_arrived(ranks, layer), 0);
	cr_assert_eq(ranks_wrong(ranks, 0, LAYERS, 0), 0, "bytes were written");
}

/* --- all have to come --- */

EACH_WAY_TEST(contract_8__no_byte_moves_before_all_senders_have_come)
{
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_grant(&ranks, NULL, LEASE_MS);
	for (uint32_t i = 0; i < 3; i++) {
		ranks_stream(&ranks, i, NULL);
		ranks_ready(&ranks, i, 0, LAYERS);
		expect_nothing_moved(&ranks);
		cr_assert_eq(ranks_target(&ranks, 0), 0, "the total is not known yet");
	}
	ranks_stream(&ranks, 3, NULL);
	ranks_finish(&ranks);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

EACH_WAY_TEST(contract_8__targets_of_all_senders_are_known_before_the_first_byte_moves)
{
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream_all(&ranks);
	ranks_await_targets(&ranks);
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		cr_assert(ranks_target(&ranks, layer) >= ranks.count);
		cr_assert_eq(ranks_target(&ranks, layer), ranks_target(&ranks, 0));
	}
	expect_nothing_moved(&ranks);
	ranks_finish(&ranks);
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		cr_assert_eq(ranks_arrived(&ranks, layer), ranks_target(&ranks, layer));
	ranks_end(&ranks);
	ranks_close(&ranks);
}

/* --- one of them ends --- */

enum ending { CANCEL, CLOSE_STREAM, CLOSE_ENGINE };

static void end_one(struct ranks *ranks, uint32_t index, enum ending ending)
{
	switch (ending) {
	case CANCEL:
		kvx_stream_cancel(ranks->streams[index]);
		break;
	case CLOSE_STREAM:
		kvx_stream_close(ranks->streams[index]);
		ranks->streams[index] = NULL;
		break;
	default:
		ranks_lose(ranks, index);
	}
}

/* A wait ends with the name of who ended it. An engine that closes is gone soon, perhaps before its
 * last words are heard. */
static void expect_end(int result, enum ending ending, const char *name, const char *word)
{
	expect_error(result,
		     ending == CLOSE_ENGINE && result == KVX_E_PEER_LOST ? KVX_E_PEER_LOST
									 : KVX_E_CANCELLED,
		     name, word, NULL);
}

/* So do those of the other senders. */
static void expect_ended_by(struct ranks *ranks, const char *name, enum ending ending)
{
	expect_end(wait_grant(&ranks->drive, ranks->grant, KVX_ALL_LAYERS, PATIENCE_MS), ending,
		   name, "peer");
	for (uint32_t i = 0; i < ranks->count; i++) {
		if (!ranks->streams[i] || (i == 2 && ending == CANCEL))
			continue;
		expect_end(
			wait_stream(&ranks->drive, ranks->streams[i], KVX_ALL_LAYERS, PATIENCE_MS),
			ending, name, "decode");
	}
}

/* In the midst: the first layer is whole, and the second one of some senders. */
static void end_one_in_the_midst(const struct way *way, enum ending ending)
{
	const struct kvx_geometry geometry = rank_geometry(KVX_LAYOUT_NHD, 16, 4, 2);
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream_all(&ranks);
	for (uint32_t i = 0; i < 4; i++)
		ranks_ready(&ranks, i, 0, i == 2 ? 1 : 2);
	expect_ok(wait_grant(&ranks.drive, ranks.grant, 0, PATIENCE_MS));
	end_one(&ranks, 2, ending);
	expect_ended_by(&ranks, "prefill-2", ending);
	cr_assert_eq(kvx_grant_poll(ranks.grant, 0), 1, "a whole layer stays whole");
	cr_assert_eq(ranks_wrong(&ranks, 0, 1, TOKENS), 0);
	expect_end(kvx_grant_poll(ranks.grant, 1), ending, "prefill-2", "peer");
	ranks_end(&ranks);
	if (ending == CLOSE_ENGINE) {
		rank_open(&ranks, 2, options, &geometry);
		ranks_compute(&ranks, 0, TOKENS);
	}
	ranks_expect_works(&ranks);
	ranks_close(&ranks);
}

EACH_WAY_TEST(contract_3__a_cancel_of_one_of_four_ends_all_waits)
{
	end_one_in_the_midst(way, CANCEL);
}

EACH_WAY_TEST(contract_3__a_close_of_one_of_four_ends_all_waits)
{
	end_one_in_the_midst(way, CLOSE_STREAM);
}

EACH_WAY_TEST(contract_3__the_end_of_one_engine_of_four_ends_all_waits)
{
	end_one_in_the_midst(way, CLOSE_ENGINE);
}

/* Two of four have come: the end of one is the grant's end too. */
static void end_one_before_all_came(const struct way *way, enum ending ending)
{
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_expect_works(&ranks); /* so that all are connected */
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream(&ranks, 0, NULL);
	ranks_stream(&ranks, 2, NULL);
	drive_for(&ranks.drive, 30);
	end_one(&ranks, 2, ending);
	expect_ended_by(&ranks, "prefill-2", ending);
	/* Who comes later learns the same. */
	ranks_stream(&ranks, 1, NULL);
	expect_end(wait_stream(&ranks.drive, ranks.streams[1], KVX_ALL_LAYERS, PATIENCE_MS), ending,
		   "prefill-2", "decode");
	ranks_end(&ranks);
	ranks_close(&ranks);
}

EACH_WAY_TEST(contract_3__a_cancel_before_all_came_ends_the_grant)
{
	end_one_before_all_came(way, CANCEL);
}

EACH_WAY_TEST(contract_3__the_end_of_an_engine_before_all_came_ends_the_grant)
{
	end_one_before_all_came(way, CLOSE_ENGINE);
}

/* Only the one that stalls is driven by the test, and not any more. */
EACH_WAY_TEST(contract_3__one_of_four_that_stalls_ends_all_waits)
{
	const struct kvx_geometry geometry = rank_geometry(KVX_LAYOUT_NHD, 16, 4, 2);
	const struct way stalling = {way->transport, true};
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_lose(&ranks, 2);
	ranks.way = &stalling;
	rank_open(&ranks, 2, options, &geometry);
	ranks_compute(&ranks, 0, TOKENS);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream_all(&ranks);
	ranks_await_targets(&ranks);
	drive_remove(&ranks.drive, ranks.prefill[2].engine);
	expect_fail(wait_grant(&ranks.drive, ranks.grant, KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_PEER_LOST, "prefill-2", "silent");
	for (uint32_t i = 0; i < 4; i++)
		if (i != 2)
			expect_fail(wait_stream(&ranks.drive, ranks.streams[i], KVX_ALL_LAYERS,
						PATIENCE_MS),
				    KVX_E_PEER_LOST, "prefill-2", "decode");
	drive_add(&ranks.drive, ranks.prefill[2].engine);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

EACH_WAY_TEST(contract_6__a_sender_that_has_done_its_part_may_leave)
{
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream_all(&ranks);
	for (uint32_t leaver = 0; leaver < 3; leaver++) {
		ranks_ready(&ranks, leaver, 0, LAYERS);
		expect_ok(wait_stream(&ranks.drive, ranks.streams[leaver], KVX_ALL_LAYERS,
				      PATIENCE_MS));
		if (leaver == 0)
			end_one(&ranks, leaver, CLOSE_STREAM);
		else
			ranks_lose(&ranks, leaver);
		drive_for(&ranks.drive, 20);
		cr_assert_eq(kvx_grant_poll(ranks.grant, KVX_ALL_LAYERS), 0);
	}
	ranks_finish(&ranks);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

/* More ranks hold the same than there are blocks: those that come first and third have no part. */
static void open_alike(struct ranks *ranks, const struct way *way)
{
	const struct kvx_geometry whole = rank_geometry(KVX_LAYOUT_NHD, 16, 0, 8);
	const struct kvx_geometry prefill[] = {whole, whole, whole, whole};

	ranks_open(ranks, way, options, &whole, prefill, 4, 20); /* 2 blocks */
	ranks_compute(ranks, 0, 20);
	ranks_grant(ranks, NULL, LEASE_MS);
}

EACH_WAY_TEST(contract_6__a_sender_that_has_no_part_may_leave)
{
	struct ranks ranks;

	open_alike(&ranks, way);
	for (uint32_t i = 0; i < 4; i++) {
		ranks_stream(&ranks, i, NULL);
		ranks_await_came(&ranks, i + 1);
	}
	ranks_await_targets(&ranks);
	expect_ok(wait_stream(&ranks.drive, ranks.streams[0], KVX_ALL_LAYERS, PATIENCE_MS));
	expect_ok(wait_stream(&ranks.drive, ranks.streams[2], KVX_ALL_LAYERS, PATIENCE_MS));
	cr_assert_eq(kvx_stream_poll(ranks.streams[1], KVX_ALL_LAYERS), 0);
	cr_assert_eq(kvx_stream_poll(ranks.streams[3], KVX_ALL_LAYERS), 0);
	ranks_lose(&ranks, 0);
	end_one(&ranks, 2, CLOSE_STREAM);
	ranks_finish(&ranks);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

/* It cancels before it has heard that it has none. */
EACH_WAY_TEST(contract_6__a_sender_that_has_no_part_may_cancel)
{
	const struct kvx_geometry whole = rank_geometry(KVX_LAYOUT_NHD, 16, 0, 8);
	const struct way slow = {way->transport, true};
	struct ranks ranks;

	open_alike(&ranks, way);
	ranks_lose(&ranks, 0);
	ranks.way = &slow;
	rank_open(&ranks, 0, options, &whole);
	ranks_compute(&ranks, 0, 20);
	for (uint32_t i = 0; i < 4; i++) {
		ranks_stream(&ranks, i, NULL);
		ranks_await_came(&ranks, i + 1);
		if (i == 2)
			drive_remove(&ranks.drive, ranks.prefill[0].engine);
	}
	ranks_await_targets(&ranks);
	kvx_stream_cancel(ranks.streams[0]);
	drive_add(&ranks.drive, ranks.prefill[0].engine);
	drive_for(&ranks.drive, 50);
	kvx_stream_close(ranks.streams[0]);
	ranks.streams[0] = NULL;
	ranks_finish(&ranks);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

/* --- who is refused --- */

EACH_TRANSPORT_TEST(contract_7__a_fifth_sender_is_refused)
{
	const struct kvx_geometry geometry = rank_geometry(KVX_LAYOUT_NHD, 16, 0, 2);
	struct ranks ranks;

	open_four(&ranks, way);
	rank_open(&ranks, 4, options, &geometry);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream_all(&ranks);
	ranks_await_targets(&ranks);
	ranks_stream(&ranks, 4, NULL);
	expect_fail(wait_stream(&ranks.drive, ranks.streams[4], KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_REFUSED, "decode", "as many as the grant takes", "4");
	kvx_stream_close(ranks.streams[4]);
	ranks.streams[4] = NULL;
	ranks_finish(&ranks);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

EACH_TRANSPORT_TEST(contract_7__the_same_engine_twice_is_refused)
{
	struct kvx_stream *twice;
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream(&ranks, 1, NULL);
	expect_ok(ranks_try_stream(&ranks, 1, NULL, &twice));
	expect_fail(wait_stream(&ranks.drive, twice, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_REFUSED,
		    "decode", "this sender has presented this ticket already");
	kvx_stream_close(twice);
	for (uint32_t i = 0; i < 4; i++)
		if (i != 1)
			ranks_stream(&ranks, i, NULL);
	ranks_finish(&ranks);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

/* The last one to come is refused, and one that fits may come in its place. */
static void expect_unfit(const struct way *way, const struct kvx_geometry *unfit,
			 const char *const words[3])
{
	struct ranks ranks;

	open_four(&ranks, way);
	rank_open(&ranks, 4, options, unfit);
	ranks_grant(&ranks, NULL, LEASE_MS);
	for (uint32_t i = 0; i < 3; i++)
		ranks_stream(&ranks, i, NULL);
	ranks_await_came(&ranks, 3);
	ranks_stream(&ranks, 4, NULL);
	expect_fail(wait_stream(&ranks.drive, ranks.streams[4], KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_GEOMETRY, words[0], words[1], words[2]);
	kvx_stream_close(ranks.streams[4]);
	ranks.streams[4] = NULL;
	cr_assert_eq(kvx_grant_poll(ranks.grant, KVX_ALL_LAYERS), 0);
	ranks_compute(&ranks, 0, TOKENS);
	ranks_stream(&ranks, 3, NULL);
	ranks_finish(&ranks);
	ranks_end(&ranks);
	ranks_close(&ranks);
}

EACH_TRANSPORT_TEST(contract_7__senders_that_lack_a_head_together_are_refused)
{
	const struct kvx_geometry geometry = rank_geometry(KVX_LAYOUT_NHD, 16, 4, 2);

	expect_unfit(way, &geometry, (const char *const[]){"plane 0", "head 6", "layer 0"});
}

EACH_TRANSPORT_TEST(contract_7__senders_that_lack_a_layer_together_are_refused)
{
	struct kvx_geometry geometry = rank_geometry(KVX_LAYOUT_NHD, 16, 6, 2);

	geometry.layers = 3;
	expect_unfit(way, &geometry, (const char *const[]){"plane 0", "head 6", "layer 3"});
}

EACH_TRANSPORT_TEST(contract_7__senders_that_overlap_but_are_not_alike_are_refused)
{
	const struct kvx_geometry geometry = rank_geometry(KVX_LAYOUT_HND, 32, 5, 3);

	expect_unfit(way, &geometry,
		     (const char *const[]){"overlap", "plane 0", "the same layers and heads"});
}

/* Nobody can tell which of two is the wrong one, so whoever waits is told of both. */
EACH_TRANSPORT_TEST(contract_7__an_unfit_sender_that_came_first_is_named)
{
	const struct kvx_geometry unfit = rank_geometry(KVX_LAYOUT_HND, 32, 5, 3);
	struct ranks ranks;

	open_four(&ranks, way);
	rank_open(&ranks, 4, options, &unfit);
	ranks_grant(&ranks, NULL, 2000);
	ranks_stream(&ranks, 4, NULL);
	ranks_await_came(&ranks, 1);
	for (uint32_t i = 0; i < 2; i++) {
		ranks_stream(&ranks, i, NULL);
		ranks_await_came(&ranks, 2 + i);
	}
	ranks_stream(&ranks, 2, NULL);
	expect_fail(wait_stream(&ranks.drive, ranks.streams[2], KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_GEOMETRY, "senders 0 and 3", "overlap", "0 is prefill-4",
		    "3 is prefill-2");
	expect_fail(wait_grant(&ranks.drive, ranks.grant, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_LEASE,
		    "3 of 4 senders have come: 0 is prefill-4", "one was refused", "overlap",
		    "3 is prefill-2");
	ranks_end(&ranks);
	ranks_close(&ranks);
}

/* --- the lease --- */

EACH_WAY_TEST(contract_3__the_lease_ends_while_senders_are_missing)
{
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_grant(&ranks, NULL, 1500);
	ranks_stream(&ranks, 0, NULL);
	ranks_stream(&ranks, 3, NULL);
	int64_t begin_ms = now_ms();
	expect_fail(wait_grant(&ranks.drive, ranks.grant, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_LEASE,
		    "1500 ms", "2 of 4 senders have come");
	cr_assert(now_ms() - begin_ms < 4000);
	for (uint32_t i = 0; i < 4; i += 3)
		expect_fail(
			wait_stream(&ranks.drive, ranks.streams[i], KVX_ALL_LAYERS, PATIENCE_MS),
			KVX_E_LEASE, "lease", "1500 ms");
	ranks_end(&ranks);
	ranks_expect_works(&ranks);
	ranks_close(&ranks);
}

/* --- restarts --- */

EACH_WAY_TEST(contract_5__one_of_four_that_restarts_needs_a_new_grant)
{
	const struct kvx_geometry geometry = rank_geometry(KVX_LAYOUT_NHD, 16, 2, 2);
	struct ranks ranks;

	open_four(&ranks, way);
	ranks_grant(&ranks, NULL, LEASE_MS);
	ranks_stream_all(&ranks);
	ranks_await_targets(&ranks);
	ranks_ready(&ranks, 1, 0, 1);
	ranks_lose(&ranks, 1);
	expect_end(wait_grant(&ranks.drive, ranks.grant, KVX_ALL_LAYERS, PATIENCE_MS), CLOSE_ENGINE,
		   "prefill-1", "peer");
	rank_open(&ranks, 1, options, &geometry);
	ranks_compute(&ranks, 0, TOKENS);
	ranks_stream(&ranks, 1, NULL);
	expect_fail(wait_stream(&ranks.drive, ranks.streams[1], KVX_ALL_LAYERS, PATIENCE_MS),
		    KVX_E_REFUSED, "decode", "presented this ticket already");
	ranks_end(&ranks);
	ranks_expect_works(&ranks);
	ranks_close(&ranks);
}

/* --- no late byte --- */

#define ROUNDS REPEATED(60u)
#define ROUND_BLOCKS 8u
#define MARK 0xa5

/* Every round has blocks of its own at the receiver. */
static void open_rounds(struct ranks *ranks, const struct way *way)
{
	struct kvx_geometry prefill[4];
	struct kvx_geometry decode = rank_geometry(KVX_LAYOUT_HND, 16, 0, 8);

	decode.block_bytes = 8 * 64 * 16;
	for (uint32_t i = 0; i < 4; i++)
		prefill[i] = rank_geometry(KVX_LAYOUT_NHD, 16, 2 * i, 2);
	ranks_open(ranks, way, options, &decode, prefill, 4, ROUNDS * ROUND_BLOCKS * 16);
	ranks->tokens = ROUND_BLOCKS * 16;
	ranks->decode.drawn.count = ROUND_BLOCKS;
	for (uint32_t i = 0; i < 4; i++)
		ranks->prefill[i].drawn.count = ROUND_BLOCKS;
	ranks_compute(ranks, 0, ranks->tokens);
}

static void let_some_move(struct ranks *ranks, uint64_t *random)
{
	for (uint32_t steps = random_between(random, 0, 40); steps > 0; steps--) {
		if (ranks->way->caller)
			drive_step(&ranks->drive);
		else
			sleep_ms(steps % 40 == 0);
	}
}

/* The grant ends at a random moment; the blocks are the receiver's from then on. */
static bool end_midway(struct ranks *ranks, uint64_t *random, bool revoke)
{
	const struct drawn_pool *drawn = &ranks->decode.drawn;
	bool ended = false;

	ranks_grant(ranks, NULL, LEASE_MS);
	ranks_stream_all(ranks);
	if (random_between(random, 0, 3))
		ranks_await_targets(ranks);
	for (uint32_t i = 0; i < 4; i++)
		ranks_ready(ranks, i, 0, LAYERS);
	let_some_move(ranks, random);
	if (revoke) {
		expect_ok(kvx_grant_revoke(ranks->grant, ranks->way->caller ? 20 : 1000));
	} else {
		kvx_grant_close(ranks->grant);
		ranks->grant = NULL;
	}
	blocks_set(ranks->decode.pool, &drawn->geometry, drawn->table, drawn->count, MARK);
	for (uint32_t i = 0; i < 4; i++) {
		int result =
			wait_stream(&ranks->drive, ranks->streams[i], KVX_ALL_LAYERS, PATIENCE_MS);
		cr_assert(result == 0 || result == KVX_E_REVOKED || result == KVX_E_REFUSED,
			  "%s: %s", kvx_error_name(result), kvx_error_text());
		ended = ended || result;
	}
	ranks_end(ranks);
	return ended;
}

static void run_rounds(const struct way *way, bool revoke)
{
	uint64_t random = random_seed(), changed;
	struct ranks ranks;
	uint32_t ended = 0;

	open_rounds(&ranks, way);
	struct drawn_pool *drawn = &ranks.decode.drawn;
	uint32_t *table = drawn->table;
	for (uint32_t round = 0; round < ROUNDS; round++) {
		drawn->table = table + (size_t)round * ROUND_BLOCKS;
		ended += end_midway(&ranks, &random, revoke);
	}
	drive_for(&ranks.drive, 300);
	changed = blocks_changed(ranks.decode.pool, &drawn->geometry, table, ROUNDS * ROUND_BLOCKS,
				 MARK);
	cr_assert_eq(changed, 0, "%llu bytes landed late", (unsigned long long)changed);
	cr_assert(ended > 0, "nothing was under way when the grants ended");
	drawn->table = table;
	ranks_expect_works(&ranks);
	ranks_close(&ranks);
}

EACH_WAY_TEST(contract_2__no_late_byte_of_four_senders_after_revoke)
{
	run_rounds(way, true);
}

EACH_WAY_TEST(contract_2__no_late_byte_of_four_senders_after_close)
{
	run_rounds(way, false);
}
