/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the seam promises of transports whose bytes land without the receiver's worker: permits, and
 * memory that hardware may still read. A test breaks a rail by a write without permit, which every
 * such transport has to survive.
 */
#include "conformance/seam.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ONE_SIDED_TEST(name)                     \
	static void name(const char *transport); \
	Test(verbs, name, .timeout = 120)        \
	{                                        \
		name("verbs");                   \
	}                                        \
	static void name(const char *transport)

/* Without windows a key stays good for as long as the queue pair lives (docs/rdma.md). */
static void skip_without_windows(void)
{
	const char *options = getenv("FAKE_VERBS_OPTIONS");

	if (options && strstr(options, "windows=0"))
		cr_skip_test("the device has no memory windows, and the peer is not hostile");
}

/* Each byte of the unit is still as it was posted before. */
static void check_unchanged(const struct pair *pair, uint32_t imm)
{
	cr_assert_eq(memcmp(pair->to.image + (size_t)imm * UNIT_BYTES,
			    pair->expected + (size_t)imm * UNIT_BYTES, UNIT_BYTES),
		     0, "unit %u: bytes landed without permit", imm);
}

/* Slices over a source that no permit covers. Returns whether the transport took them. */
static bool post_slices(struct pair *pair, uint32_t rail, uint32_t imm, struct source *source,
			struct kvx_slice slice)
{
	struct kvx_batch batch = {.unit = {.imm = imm, .generation = source->flow.generation},
				  .bytes = slice.length,
				  .count = 1,
				  .slices = &slice,
				  .flow = &source->flow,
				  .last = true};

	slice.local = source->memory.address;
	slice.memory = &source->memory;
	return pair->from.ops->post(pair->out, rail, &batch);
}

/* Writes over unit 0, which has landed, and expects to be refused. */
static void expect_refused(struct pair *pair, struct source *source, struct kvx_slice slice)
{
	PUMP_UNTIL(&pair->from, &pair->to,
		   source->refused || post_slices(pair, 0, 0, source, slice));
	PUMP_UNTIL(&pair->from, &pair->to, source->refused);
	cr_assert_eq(source->refused, 1);
	cr_assert(source->text[0]);
	source_withdraw(pair, source);
	side_idle(&pair->from, &pair->to, 20 * KVX_NS_PER_MS);
	cr_assert_eq(source->refused, 1, "refused() came again: %s", source->text);
	check_unchanged(pair, 0);
}

static const struct kvx_slice over_unit_0 = {.length = 4096};

/* Whatever rails broke come back. */
static void await_rails(struct pair *pair)
{
	const struct link_log *from = side_log(&pair->from, pair->out);

	PUMP_UNTIL(&pair->from, &pair->to, from->rail_up == from->rail_down);
	cr_assert_eq(from->down, 0, "%s", from->text);
	cr_assert_eq(side_log(&pair->to, pair->in)->down, 0);
}

static void check_all_rails(struct pair *pair, uint32_t first_imm)
{
	for (uint32_t rail = 0; rail < pair->out->rails; rail++) {
		post_unit(pair, rail, first_imm + rail, 50000);
		check_whole(pair, first_imm + rail);
	}
}

/* ------------------------------------------------------------------------------------- permits */

ONE_SIDED_TEST(a_permit_is_told_once_when_it_is_in_force_and_when_it_is_not)
{
	struct pair pair;

	pair_open(&pair, transport, NULL, 1);
	check_all_rails(&pair, 0);
	side_idle(&pair.from, &pair.to, 10 * KVX_NS_PER_MS);
	cr_assert_eq(pair.sources[0].lending.permitted, 1);
	cr_assert_eq(pair.sources[0].lending.forbidden, 0);
	side_forbid(&pair.to, pair.in, &pair.sources[0].lending, true);
	side_idle(&pair.from, &pair.to, 10 * KVX_NS_PER_MS);
	cr_assert_eq(pair.sources[0].lending.permitted, 1);
	cr_assert_eq(pair.sources[0].lending.forbidden, 1);
	cr_assert_eq(side_log(&pair.from, pair.out)->rail_down, 0, "a stopped peer was disturbed");
	pair_close(&pair);
}

ONE_SIDED_TEST(a_permit_may_be_taken_back_before_it_is_in_force)
{
	struct pair pair;

	pair_open(&pair, transport, NULL, 2);
	for (int pumps = 0; pumps < 8; pumps++) {
		struct lending lending = {.permitted = 0};
		side_lend(&pair.to, pair.in, &lending, 4000 + (uint32_t)pumps, false);
		for (int i = 0; i < pumps; i++)
			side_pump(i % 2 ? &pair.from : &pair.to);
		side_forbid(&pair.to, pair.in, &lending, pumps % 2);
		side_idle(&pair.from, &pair.to, 5 * KVX_NS_PER_MS);
		cr_assert_leq(lending.permitted, 1);
		cr_assert_eq(lending.forbidden, 1);
	}
	await_rails(&pair);
	check_alive(&pair);
	pair_close(&pair);
}

ONE_SIDED_TEST(permits_end_with_their_link)
{
	struct pair pair;
	struct source other;

	pair_open(&pair, transport, NULL, 3);
	source_open(&pair, &other, false);
	check_all_rails(&pair, 0);
	side_disconnect(&pair.to, pair.in);
	PUMP_UNTIL(&pair.to, &pair.from,
		   pair.sources[0].lending.forbidden && other.lending.forbidden);
	/* The sender has not been told, or has: nothing lands. */
	post_slices(&pair, 0, 0, &other, over_unit_0);
	side_idle(&pair.from, &pair.to, 20 * KVX_NS_PER_MS);
	check_unchanged(&pair, 0);
	source_close(&pair, &other);
	pair_close(&pair);
}

ONE_SIDED_TEST(a_permit_that_was_taken_back_ends_with_its_link_only_once)
{
	struct pair pair;

	pair_open(&pair, transport, NULL, 4);
	pair.to.ops->forbid(pair.in, &pair.sources[0].lending.permit, false);
	side_disconnect(&pair.to, pair.in);
	PUMP_UNTIL(&pair.to, &pair.from, pair.sources[0].lending.forbidden);
	side_idle(&pair.from, &pair.to, 20 * KVX_NS_PER_MS);
	cr_assert_eq(pair.sources[0].lending.forbidden, 1);
	pair_close(&pair);
}

/* The sender does not know yet that its permit was taken back: what it writes is refused, and the
 * other flow goes on over the same rail. */
ONE_SIDED_TEST(a_write_without_permit_is_refused_and_others_go_on)
{
	struct pair pair;
	struct source other;

	skip_without_windows();
	pair_open(&pair, transport, NULL, 5);
	source_open(&pair, &other, false);
	check_all_rails(&pair, 0);
	side_forbid(&pair.to, pair.in, &other.lending, false);
	expect_refused(&pair, &other, over_unit_0);
	await_rails(&pair);
	cr_assert_eq(pair.sources[0].refused + pair.sources[1].refused, 0);
	check_all_rails(&pair, 20);
	check_alive(&pair);
	source_close(&pair, &other);
	pair_close(&pair);
}

ONE_SIDED_TEST(a_permit_taken_back_in_mid_stream_lets_nothing_land_any_more)
{
	struct pair pair;
	struct source other;

	for (uint32_t pumps = 0; pumps < 6; pumps++) {
		pair_open(&pair, transport, NULL, 60 + pumps);
		source_open(&pair, &other, false);
		for (uint32_t imm = 0; imm < 8; imm++)
			while (pair.posted[imm] < UNIT_BYTES &&
			       post_from(&pair, 0, imm, &other, UNIT_BYTES))
				;
		for (uint32_t i = 0; i < pumps; i++)
			side_pump(&pair.from);
		side_forbid(&pair.to, pair.in, &other.lending, false);
		memset(pair.to.image, 0x3c, 8 * UNIT_BYTES);
		memset(pair.expected, 0x3c, 8 * UNIT_BYTES);
		side_idle(&pair.from, &pair.to, 30 * KVX_NS_PER_MS);
		for (uint32_t imm = 0; imm < 8; imm++)
			check_unchanged(&pair, imm);
		source_withdraw(&pair, &other);
		await_rails(&pair);
		check_all_rails(&pair, 20);
		source_close(&pair, &other);
		pair_close(&pair);
	}
}

ONE_SIDED_TEST(a_flow_without_permit_is_refused)
{
	struct pair pair;
	struct source other;

	pair_open(&pair, transport, NULL, 7);
	source_open(&pair, &other, false);
	check_all_rails(&pair, 0);
	other.flow.generation += 32; /* the low bits are right */
	expect_refused(&pair, &other, over_unit_0);
	await_rails(&pair);
	check_all_rails(&pair, 20);
	source_close(&pair, &other);
	pair_close(&pair);
}

ONE_SIDED_TEST(a_write_beyond_the_permits_memories_is_refused)
{
	static const struct kvx_slice beyond[] = {
		{.length = 4096, .target = 0, .offset = (uint64_t)UNITS * UNIT_BYTES - 4095},
		{.length = 4096, .target = 0, .offset = (uint64_t)UNITS * UNIT_BYTES},
		{.length = 4096, .target = 0, .offset = UINT64_MAX - 100},
		{.length = 4096, .target = 1, .offset = 0},
		{.length = 4096, .target = UINT32_MAX, .offset = 0},
	};
	struct pair pair;
	struct source other;

	for (size_t i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++) {
		pair_open(&pair, transport, NULL, 80 + i);
		source_open(&pair, &other, false);
		check_all_rails(&pair, 0);
		expect_refused(&pair, &other, beyond[i]);
		check_unchanged(&pair, UNITS - 1);
		await_rails(&pair);
		check_all_rails(&pair, 20);
		source_close(&pair, &other);
		pair_close(&pair);
	}
}

/* The rail breaks by the other flow's refused write. */
ONE_SIDED_TEST(a_permit_holds_on_a_rail_that_is_made_anew)
{
	struct pair pair;
	struct source other;

	skip_without_windows();
	pair_open(&pair, transport, NULL, 9);
	for (uint32_t round = 0; round < 3; round++) {
		source_open(&pair, &other, false);
		post_unit(&pair, 0, 0, UNIT_BYTES);
		check_whole(&pair, 0);
		side_forbid(&pair.to, pair.in, &other.lending, false);
		expect_refused(&pair, &other, over_unit_0);
		await_rails(&pair);
		source_close(&pair, &other);
		check_all_rails(&pair, 10 + 10 * round);
	}
	cr_assert_eq(pair.sources[0].lending.permitted, 1);
	cr_assert_eq(pair.sources[0].lending.forbidden, 0);
	side_forbid(&pair.to, pair.in, &pair.sources[0].lending, true);
	pair_close(&pair);
}

ONE_SIDED_TEST(a_permit_may_have_many_memories)
{
	struct pair pair;

	skip_without_windows();
	pair_open_over(&pair, transport, NULL, 10, UNITS);
	for (uint32_t imm = 0; imm < UNITS - 1; imm++)
		post_unit(&pair, imm % pair.out->rails, imm, 100000 + imm);
	for (uint32_t imm = 0; imm < UNITS - 1; imm++)
		check_whole(&pair, imm);
	side_forbid(&pair.to, pair.in, &pair.sources[0].lending, false);
	expect_refused(&pair, &pair.sources[0], over_unit_0);
	pair_close(&pair);
}

/* -------------------------------------------------------------------------------------- flight */

/* Fills rail 0, and lets nobody look at what became of it. */
static void fill_rail(struct pair *pair)
{
	uint32_t imm = 0;

	while (post_from(pair, 0, imm, &pair->sources[0], UNIT_BYTES)) {
		imm += pair->posted[imm] == UNIT_BYTES;
		cr_assert_lt(imm, UNITS - 1, "the rail is never full");
	}
	cr_assert_gt(pair->sources[0].flow.in_flight, 0);
}

ONE_SIDED_TEST(a_flow_drains_when_its_side_disconnects)
{
	struct pair pair;
	struct source *source = &pair.sources[0];

	pair_open(&pair, transport, NULL, 11);
	fill_rail(&pair);
	side_disconnect(&pair.from, pair.out);
	PUMP_UNTIL(&pair.from, (struct side *)NULL, !source->flow.in_flight);
	memset(source->memory.address, 0, SOURCE_BYTES);
	side_idle(&pair.from, &pair.to, 20 * KVX_NS_PER_MS);
	cr_assert_leq(source->drained, 1);
	for (uint32_t imm = 0; imm < UNITS; imm++)
		check_bytes(&pair, imm);
	pair_close(&pair);
}

ONE_SIDED_TEST(a_flow_drains_when_the_other_side_disconnects)
{
	struct pair pair;

	pair_open(&pair, transport, NULL, 12);
	fill_rail(&pair);
	side_disconnect(&pair.to, pair.in);
	PUMP_UNTIL(&pair.from, &pair.to, pair.from.links[0].down);
	source_withdraw(&pair, &pair.sources[0]);
	cr_assert_eq(pair.sources[0].refused, 0, "%s", pair.sources[0].text);
	pair_close(&pair);
}

ONE_SIDED_TEST(a_flow_that_is_withdrawn_by_disconnect_drains_once)
{
	struct pair pair;
	struct source *source = &pair.sources[0];

	pair_open(&pair, transport, NULL, 13);
	fill_rail(&pair);
	pair.from.ops->withdraw(pair.out, &source->flow);
	bool drains = source->flow.in_flight > 0;
	side_disconnect(&pair.from, pair.out);
	PUMP_UNTIL(&pair.from, (struct side *)NULL, !source->flow.in_flight);
	side_idle(&pair.from, &pair.to, 20 * KVX_NS_PER_MS);
	cr_assert_eq(source->drained, drains);
	pair_close(&pair);
}

/* --------------------------------------------------------------------------------------- reads */

static void post_read(struct pair *pair, uint32_t rail, struct source *source,
		      const struct kvx_slice *slice)
{
	struct kvx_batch batch = {.unit = {.imm = 1, .generation = source->flow.generation},
				  .bytes = slice->length,
				  .count = 1,
				  .slices = slice,
				  .flow = &source->flow,
				  .last = true,
				  .read = true};

	PUMP_UNTIL(&pair->from, &pair->to,
		   source->refused || pair->from.ops->post(pair->out, rail, &batch));
}

/* A source that the other side's image may be read into, and that may not write there. */
static void reader_open(struct pair *pair, struct source *reader)
{
	source_open(pair, reader, false);
	side_forbid(&pair->to, pair->in, &reader->lending, true);
	reader->lending = (struct lending){.permitted = 0};
	reader->flow.slot += 2000;
	source_permit(pair, reader, true);
}

/* More reads than a queue pair may have outstanding. */
#define TOGETHER 8u
#define BEGIN_BYTES 60000u
#define WHOLE_BYTES 64000u

/* The begin of a unit leaves as a part of unit 0. */
static void post_begin(struct pair *pair, struct source *source, uint32_t unit)
{
	struct kvx_slice slice = {.local = source->memory.address + (size_t)unit * 100,
				  .memory = &source->memory,
				  .length = BEGIN_BYTES,
				  .offset = (uint64_t)unit * UNIT_BYTES};
	struct kvx_batch batch = {.unit = {.imm = 0, .generation = pair->to.generation},
				  .bytes = slice.length,
				  .count = 1,
				  .slices = &slice,
				  .flow = &source->flow};

	PUMP_UNTIL(&pair->from, &pair->to, pair->from.ops->post(pair->out, 0, &batch));
	memcpy(pair->expected + slice.offset, slice.local, slice.length);
	pair->posted[unit] = slice.length;
}

ONE_SIDED_TEST(units_that_leave_together_have_landed_when_they_are_counted)
{
	struct pair pair;

	pair_open(&pair, transport, NULL, 14);
	struct source *source = &pair.sources[0];
	for (uint32_t unit = 0; unit < TOGETHER; unit++)
		post_begin(&pair, source, unit);
	for (uint32_t unit = 0; unit < TOGETHER; unit++) {
		while (pair.posted[unit] < WHOLE_BYTES)
			PUMP_UNTIL(&pair.from, &pair.to,
				   post_from(&pair, 0, unit, source, WHOLE_BYTES));
		check_whole(&pair, unit);
	}
	check_alive(&pair);
	pair_close(&pair);
}

ONE_SIDED_TEST(read_batches_land_in_the_readers_memory)
{
	const uint32_t reads = 200, bytes = 4000;
	struct source source;
	struct pair pair;

	skip_without_windows();
	pair_open(&pair, transport, NULL, 14);
	for (uint32_t i = 0; i < UNIT_BYTES; i++)
		pair.to.image[i] = (char)random_next(&pair.random);
	reader_open(&pair, &source);
	for (uint32_t i = 0; i < reads; i++) {
		struct kvx_slice slice = {.local = source.memory.address + (size_t)i * bytes,
					  .memory = &source.memory,
					  .length = bytes,
					  .offset = (uint64_t)(reads - 1 - i) * bytes};
		post_read(&pair, 0, &source, &slice);
	}
	PUMP_UNTIL(&pair.from, &pair.to, pair.from.units[1].landed == reads * bytes);
	for (uint32_t i = 0; i < reads; i++)
		cr_assert_eq(memcmp(source.memory.address + (size_t)i * bytes,
				    pair.to.image + (size_t)(reads - 1 - i) * bytes, bytes),
			     0, "read %u", i);
	cr_assert_eq(pair.to.units[1].arrivals, 0);
	side_forbid(&pair.to, pair.in, &source.lending, false);
	struct kvx_slice late = {.local = source.memory.address,
				 .memory = &source.memory,
				 .length = 64,
				 .offset = UNIT_BYTES};
	memset(source.memory.address, 0x11, 64);
	post_read(&pair, 0, &source, &late);
	PUMP_UNTIL(&pair.from, &pair.to, source.refused);
	cr_assert_eq(source.memory.address[0], 0x11);
	source_withdraw(&pair, &source);
	await_rails(&pair);
	check_alive(&pair);
	source_close(&pair, &source);
	pair_close(&pair);
}

/* A permit to write is none to read, and the other way around. */
ONE_SIDED_TEST(a_permit_is_for_one_direction)
{
	struct source reader, writer;
	struct pair pair;

	skip_without_windows();
	pair_open(&pair, transport, NULL, 15);
	check_all_rails(&pair, 0);
	source_open(&pair, &reader, false);
	reader_open(&pair, &writer);
	expect_refused(&pair, &writer, over_unit_0);
	await_rails(&pair);
	struct kvx_slice slice = {
		.local = reader.memory.address, .memory = &reader.memory, .length = 64};
	memset(reader.memory.address, 0x11, 64);
	post_read(&pair, 0, &reader, &slice);
	PUMP_UNTIL(&pair.from, &pair.to, reader.refused);
	cr_assert_eq(reader.memory.address[0], 0x11);
	source_withdraw(&pair, &reader);
	await_rails(&pair);
	check_all_rails(&pair, 20);
	source_close(&pair, &reader);
	source_close(&pair, &writer);
	pair_close(&pair);
}

/* -------------------------------------------------------------------------------------- shares */

/* The weights are of the usable rails, and told how many there are. */
static void check_shares(struct pair *pair, const uint8_t *hint, uint32_t hint_bytes)
{
	struct kvx_shares shares;
	uint32_t with_share = 0;

	memset(&shares, 0xff, sizeof(shares));
	uint32_t told = pair->from.ops->share(pair->out, &pair->sources[0].memory, hint, hint_bytes,
					      &shares);
	for (uint32_t rail = 0; rail < pair->out->rails; rail++)
		with_share += shares.weight[rail] > 0;
	cr_assert_gt(told, 0);
	cr_assert_eq(told, with_share);
}

ONE_SIDED_TEST(rails_have_shares_whatever_the_hint)
{
	uint8_t hint[KVX_HINT_MAX];
	struct pair pair;

	pair_open(&pair, transport, NULL, 16);
	check_shares(&pair, NULL, 0);
	uint32_t bytes = pair.to.ops->hint(pair.to.transport, &pair.to.memories[0], hint);
	cr_assert_leq(bytes, KVX_HINT_MAX);
	check_shares(&pair, hint, bytes);
	for (int round = 0; round < 1000; round++) {
		for (uint32_t i = 0; i < sizeof(hint); i++)
			hint[i] = (uint8_t)random_next(&pair.random);
		bytes = (uint32_t)(random_next(&pair.random) % (KVX_HINT_MAX + 1));
		check_shares(&pair, hint, bytes);
	}
	pair_close(&pair);
}
