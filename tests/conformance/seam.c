/* SPDX-License-Identifier: Apache-2.0 */
/* What the seam promises, on every transport of this build. */
#include "conformance/seam.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAKE_ROUNDS 2000
#define SLEEP_LOST_NS (10 * KVX_NS_PER_S)

/* Otherwise the system's buffers hide that a peer does not take what it is sent. */
static const char *const small_buffers[] = {"tcp_buffer=65536", NULL};

struct transport_name {
	char name[16];
};

/* But for those that move a device's memory alone, which a side has none of: tests/cuda/ipc.c. */
static struct criterion_test_params every_transport(void)
{
	static struct transport_name names[8];
	size_t count = 0;

	for (size_t i = 0; kvx_transports[i]; i++)
		if (!kvx_transports[i]->devices_only)
			snprintf(names[count++].name, sizeof(names[0].name), "%s",
				 kvx_transports[i]->name);
	return cr_make_param_array(struct transport_name, names, count, NULL);
}

/* Where the receiver's worker places every byte, and so may refuse one. */
static void skip_one_sided(const char *transport)
{
	if (kvx_transport_find(transport)->one_sided)
		cr_skip_test("%s does not ask where bytes go", transport);
}

#define TRANSPORT_TEST(title)                    \
	ParameterizedTestParameters(seam, title) \
	{                                        \
		return every_transport();        \
	}                                        \
	ParameterizedTest(struct transport_name *transport, seam, title)

/* --------------------------------------------------------------------------------------- links */

TRANSPORT_TEST(a_link_is_told_once_to_both_sides)
{
	struct pair pair;
	char text[256] = "";

	pair_open(&pair, transport->name, NULL, 1);
	side_idle(&pair.from, &pair.to, 20 * KVX_NS_PER_MS);
	cr_assert_eq(side_log(&pair.from, pair.out)->up, 1);
	cr_assert_eq(side_log(&pair.to, pair.in)->accepted, 1);
	cr_assert_eq(side_log(&pair.to, pair.in)->up, 0);
	cr_assert_eq(pair.from.link_count, 1);
	cr_assert_eq(pair.to.link_count, 1);
	cr_assert_eq(pair.out->rails, pair.in->rails);
	cr_assert(pair.out->rails >= 1 && pair.out->rails <= KVX_RAILS_MAX);
	cr_assert_eq(pair.out->ops, pair.from.ops);
	cr_assert_eq(pair.out->transport, pair.from.transport);
	pair.from.ops->explain(pair.out, text, sizeof(text));
	cr_assert(text[0]);
	pair_close(&pair);
}

TRANSPORT_TEST(an_address_where_nobody_listens_is_unreachable)
{
	const struct kvx_transport_ops *ops = kvx_transport_find(transport->name);
	static const char *const options[] = {"connect_timeout_ms=500", NULL};
	char address[KVX_ADDRESS_MAX + 1];
	struct side side, gone;
	struct kvx_link *link;

	side_open(&side, ops, options);
	side_open(&gone, ops, NULL);
	strcpy(address, ops->address(gone.transport));
	side_close(&gone);
	int64_t began_ns = kvx_now_ns();
	int error = ops->connect(side.transport, address, &link);
	if (error) {
		cr_assert_eq(error, KVX_E_UNREACHABLE);
		cr_assert(kvx_error_text()[0]);
	} else {
		side.links[side.link_count++] = (struct link_log){.link = link};
		PUMP_UNTIL(&side, (struct side *)NULL, side.links[0].down);
		cr_assert_eq(side.links[0].code, KVX_E_UNREACHABLE);
		cr_assert(side.links[0].text[0]);
	}
	cr_assert_lt(kvx_now_ns() - began_ns, 500 * KVX_NS_PER_MS + SLACK_NS);
	side_close(&side);
}

TRANSPORT_TEST(what_is_not_an_address_is_refused)
{
	const struct kvx_transport_ops *ops = kvx_transport_find(transport->name);
	static const char *const wrong[] = {"", ":", "?", "[", "127.0.0.1", "x:99999", "::1:5"};
	char resolved[KVX_ADDRESS_MAX + 1] = "untouched";

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		cr_assert_eq(ops->resolve(wrong[i], resolved, sizeof(resolved)), KVX_E_INVALID,
			     "\"%s\"", wrong[i]);
		cr_assert_str_eq(resolved, "untouched");
	}
}

TRANSPORT_TEST(a_link_given_up_while_it_is_made_is_not_told)
{
	const struct kvx_transport_ops *ops = kvx_transport_find(transport->name);
	struct side from, to;
	struct kvx_link *link;

	side_open(&from, ops, NULL);
	side_open(&to, ops, NULL);
	cr_assert_eq(ops->connect(from.transport, ops->address(to.transport), &link), 0);
	ops->disconnect(link);
	side_idle(&from, &to, 50 * KVX_NS_PER_MS);
	cr_assert_eq(from.link_count, 0);
	cr_assert_eq(to.link_count ? to.links[0].down : 1, 1);
	side_close(&from);
	side_close(&to);
}

static void check_disconnect(struct pair *pair, struct side *leaver, struct kvx_link *left,
			     struct side *other, struct kvx_link *kept)
{
	const char last[] = "farewell";
	struct link_log *log = side_log(other, kept);

	leaver->ops->message(left, last, sizeof(last));
	side_disconnect(leaver, left);
	PUMP_UNTIL(other, leaver, log->down);
	cr_assert_eq(log->messages, 1);
	side_idle(&pair->from, &pair->to, 20 * KVX_NS_PER_MS);
	cr_assert_eq(log->down, 1);
	cr_assert_eq(log->code, KVX_E_PEER_LOST);
	cr_assert(log->text[0]);

	/* A link that is down takes everything and does nothing. */
	other->ops->message(kept, last, sizeof(last));
	other->ops->withdraw(kept, &pair->sources[0].flow);
	if (kept == pair->out)
		cr_assert_not(post_from(pair, 0, 0, &pair->sources[0], 1000));
	side_idle(&pair->from, &pair->to, 5 * KVX_NS_PER_MS);
	cr_assert_eq(log->down, 1);
}

TRANSPORT_TEST(the_acceptor_is_told_once_that_the_connector_left)
{
	struct pair pair;

	pair_open(&pair, transport->name, NULL, 1);
	check_disconnect(&pair, &pair.from, pair.out, &pair.to, pair.in);
	pair_close(&pair);
}

TRANSPORT_TEST(the_connector_is_told_once_that_the_acceptor_left)
{
	struct pair pair;

	pair_open(&pair, transport->name, NULL, 1);
	check_disconnect(&pair, &pair.to, pair.in, &pair.from, pair.out);
	pair_close(&pair);
}

TRANSPORT_TEST(one_links_end_leaves_the_others_alone)
{
	struct pair pair;
	struct side third;
	struct kvx_link *other;

	pair_open(&pair, transport->name, NULL, 7);
	side_open(&third, pair.from.ops, NULL);
	other = side_link(&third, &pair.to, NULL);
	post_unit(&pair, 0, 0, UNIT_BYTES / 2);
	side_disconnect(&third, other);
	post_unit(&pair, 0, 0, UNIT_BYTES);
	check_whole(&pair, 0);
	PUMP_UNTIL(&pair.from, &pair.to, pair.to.links[1].down);
	check_alive(&pair);
	side_close(&third);
	pair_close(&pair);
}

/* ------------------------------------------------------------------------------------ messages */

static uint64_t send_message(struct side *side, struct kvx_link *link, uint64_t *random,
			     uint32_t length, uint64_t hash)
{
	uint8_t bytes[KVX_MESSAGE_MAX];

	for (uint32_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)random_next(random);
	side->ops->message(link, bytes, length);
	/* It was copied. */
	uint64_t sent = message_hash(hash, bytes, length);
	memset(bytes, 0, sizeof(bytes));
	return sent;
}

TRANSPORT_TEST(messages_of_every_length_arrive_in_order_both_ways)
{
	struct pair pair;
	uint64_t there = 0, back = 0;

	pair_open(&pair, transport->name, NULL, 3);
	for (uint32_t length = 1; length <= KVX_MESSAGE_MAX; length++) {
		there = send_message(&pair.from, pair.out, &pair.random, length, there);
		back = send_message(&pair.to, pair.in, &pair.random, KVX_MESSAGE_MAX + 1 - length,
				    back);
		if (length % 100 == 0)
			side_idle(&pair.from, &pair.to, KVX_NS_PER_MS);
	}
	PUMP_UNTIL(&pair.from, &pair.to,
		   pair.to.links[0].messages == KVX_MESSAGE_MAX &&
			   pair.from.links[0].messages == KVX_MESSAGE_MAX);
	cr_assert_eq(pair.to.links[0].message_hash, there);
	cr_assert_eq(pair.from.links[0].message_hash, back);
	pair_close(&pair);
}

TRANSPORT_TEST(messages_wait_for_a_slow_peer)
{
	struct pair pair;
	uint64_t hash = 0;
	uint32_t count = KVX_MESSAGE_QUEUE_MAX / (KVX_MESSAGE_MAX + 16);

	pair_open(&pair, transport->name, small_buffers, 3);
	for (uint32_t i = 0; i < count; i++) {
		hash = send_message(&pair.from, pair.out, &pair.random, KVX_MESSAGE_MAX, hash);
		side_pump(&pair.from);
	}
	PUMP_UNTIL(&pair.from, &pair.to, pair.to.links[0].messages == count);
	cr_assert_eq(pair.to.links[0].message_hash, hash);
	pair_close(&pair);
}

TRANSPORT_TEST(a_peer_that_takes_no_messages_is_given_up)
{
	struct pair pair;
	uint64_t hash = 0;

	pair_open(&pair, transport->name, NULL, 3);
	/* Much more than the queue and any buffer of the system hold. */
	for (uint32_t i = 0; i < 65536 && !pair.from.links[0].down; i++) {
		hash = send_message(&pair.from, pair.out, &pair.random, KVX_MESSAGE_MAX, hash);
		if (i % 64 == 0)
			side_pump(&pair.from);
	}
	cr_assert_eq(pair.from.links[0].down, 1);
	cr_assert(pair.from.links[0].text[0]);
	pair_close(&pair);
}

/* ------------------------------------------------------------------------------------- batches */

TRANSPORT_TEST(scattered_slices_land_byte_exact)
{
	struct pair pair;

	pair_open(&pair, transport->name, NULL, 11);
	pair.to.expected = pair.expected;
	for (uint32_t imm = 0; imm < 16; imm++) {
		pair.to.piece_bytes = (uint32_t[]){0, 1000, 4096, 7}[imm % 4];
		pair.batch_bytes_max = imm % 4 == 3 ? 5000 : KVX_BATCH_BYTES_MAX;
		post_unit(&pair, imm % pair.out->rails, imm,
			  imm % 4 == 3 ? 20000 : UNIT_BYTES - imm);
		check_whole(&pair, imm);
	}
	pair_close(&pair);
}

TRANSPORT_TEST(a_single_byte_lands)
{
	struct pair pair;

	pair_open(&pair, transport->name, NULL, 12);
	pair.batch_bytes_max = 1;
	post_unit(&pair, 0, 0, 5);
	check_whole(&pair, 0);
	pair_close(&pair);
}

TRANSPORT_TEST(a_partial_answer_is_asked_again)
{
	struct pair pair;

	skip_one_sided(transport->name);
	pair_open(&pair, transport->name, NULL, 13);
	pair.to.expected = pair.expected;
	for (uint32_t imm = 0; imm < 6; imm++) {
		pair.to.answer_bytes = (uint32_t[]){1, 4095, 65536}[imm % 3];
		pair.to.piece_bytes = imm * 333;
		post_unit(&pair, imm % pair.out->rails, imm, imm % 3 ? UNIT_BYTES : 3000);
		check_whole(&pair, imm);
	}
	pair_close(&pair);
}

TRANSPORT_TEST(refused_bytes_are_dropped_and_the_link_goes_on)
{
	static const char zeros[4096];
	struct pair pair;

	skip_one_sided(transport->name);
	pair_open(&pair, transport->name, NULL, 14);
	pair.to.refused = 1u << 1 | 1u << 4;
	for (uint32_t imm = 0; imm < 6; imm++)
		post_unit(&pair, 0, imm, UNIT_BYTES / 2);
	check_whole(&pair, 0);
	check_whole(&pair, 3);
	check_whole(&pair, 5);
	for (uint32_t imm = 1; imm <= 4; imm += 3) {
		cr_assert_eq(pair.to.units[imm].landed, 0);
		cr_assert_eq(memcmp(pair.to.image + imm * UNIT_BYTES, zeros, sizeof(zeros)), 0);
	}
	pair_close(&pair);
}

TRANSPORT_TEST(a_refusal_takes_effect_within_a_batch)
{
	const uint64_t end = 50001;
	struct pair pair;

	skip_one_sided(transport->name);
	pair_open(&pair, transport->name, NULL, 17);
	pair.to.expected = pair.expected;
	for (uint32_t imm = 0; imm < 6; imm++) {
		char *image = pair.to.image + (size_t)imm * UNIT_BYTES;
		pair.to.piece_bytes = (uint32_t[]){0, 100, 4096}[imm % 3];
		pair.to.answer_bytes = imm < 3 ? 0 : 3333;
		pair.to.refused_from = end;
		post_unit(&pair, 0, imm, UNIT_BYTES);
		PUMP_UNTIL(&pair.from, &pair.to, pair.to.units[imm].landed == end);
		check_alive(&pair);
		cr_assert_eq(pair.to.units[imm].landed, end);
		check_bytes(&pair, imm);
		for (size_t i = end; i < UNIT_BYTES; i++)
			cr_assert_eq(image[i], 0, "unit %u: byte %zu has no place", imm, i);
	}
	pair_close(&pair);
}

TRANSPORT_TEST(a_refusal_takes_effect_within_a_unit)
{
	static const char zeros[4096];
	struct pair pair;

	skip_one_sided(transport->name);
	pair_open(&pair, transport->name, NULL, 15);
	post_unit(&pair, 0, 0, UNIT_BYTES / 2);
	PUMP_UNTIL(&pair.from, &pair.to, pair.to.units[0].landed > 0);
	uint64_t landed = pair.to.units[0].landed;
	pair.to.generation++;
	side_idle(&pair.from, &pair.to, 50 * KVX_NS_PER_MS);
	cr_assert_eq(pair.to.units[0].landed, landed);
	cr_assert_eq(memcmp(pair.to.image + landed, zeros, sizeof(zeros)), 0);
	check_bytes(&pair, 0);
	check_alive(&pair);
	pair_close(&pair);
}

/* Posts on every rail until none takes more. Rail n has the units n * 4 to n * 4 + 3. */
static void post_all_that_fits(struct pair *pair)
{
	for (uint32_t rail = 0; rail < pair->out->rails; rail++) {
		uint32_t imm = rail * 4;
		while (imm < rail * 4 + 4) {
			if (pair->posted[imm] == UNIT_BYTES)
				imm++;
			else if (!post_from(pair, rail, imm, &pair->sources[imm % 2], UNIT_BYTES))
				break;
		}
	}
}

TRANSPORT_TEST(a_stalled_peer_gets_everything_later_in_order)
{
	struct pair pair;

	pair_open(&pair, transport->name, NULL, 16);
	cr_assert_leq(pair.out->rails * 4, UNITS);
	for (int round = 0; round < 50; round++) {
		post_all_that_fits(&pair);
		side_pump(&pair.from);
	}
	cr_assert_eq(landed_bytes(&pair, 0), 0);
	for (uint32_t imm = 0; imm < pair.out->rails * 4; imm++) {
		post_unit(&pair, imm / 4, imm, UNIT_BYTES);
		check_whole(&pair, imm);
	}
	pair_close(&pair);
}

/* ------------------------------------------------------------------------------------ withdraw */

/* Two streams on the same rail; the second fills it and is given up while its batches are under
 * way, and its memory goes as soon as it may. */
static void check_withdraw(const struct transport_name *transport, int pumps, uint64_t seed)
{
	struct pair pair;
	struct source gone;
	uint32_t last = 4;

	pair_open(&pair, transport->name, pumps % 3 ? small_buffers : NULL, seed);
	source_open(&pair, &gone, seed % 2);
	post_from(&pair, 0, 0, &pair.sources[0], 0);
	while (post_from(&pair, 0, last, &gone, UNIT_BYTES)) {
		last += pair.posted[last] == UNIT_BYTES;
		cr_assert_lt(last, UNITS - 1, "the rail is never full");
	}
	for (int i = 0; i < pumps; i++)
		side_pump(i % 2 ? &pair.from : &pair.to);
	int64_t began_ns = kvx_now_ns();
	source_withdraw(&pair, &gone);
	cr_assert_lt(kvx_now_ns() - began_ns, SLACK_NS);
	memset(gone.memory.address, 0, gone.memory.bytes);
	source_close(&pair, &gone);
	post_unit(&pair, 0, 3, UNIT_BYTES);
	check_whole(&pair, 0);
	check_whole(&pair, 3);
	for (uint32_t imm = 4; imm <= last; imm++)
		check_bytes(&pair, imm);
	cr_assert_eq(side_log(&pair.from, pair.out)->rail_down, 0);
	check_alive(&pair);
	pair_close(&pair);
}

TRANSPORT_TEST(a_withdrawn_stream_is_read_no_more_and_others_go_on)
{
	for (int pumps = 0; pumps < 12; pumps++)
		check_withdraw(transport, pumps, 100 + (uint64_t)pumps);
}

TRANSPORT_TEST(the_sources_are_free_after_a_disconnect)
{
	struct pair pair;

	pair_open(&pair, transport->name, NULL, 21);
	post_all_that_fits(&pair);
	side_disconnect(&pair.from, pair.out);
	PUMP_UNTIL(&pair.from, (struct side *)NULL,
		   !pair.sources[0].flow.in_flight && !pair.sources[1].flow.in_flight);
	memset(pair.sources[0].memory.address, 0, SOURCE_BYTES);
	memset(pair.sources[1].memory.address, 0, SOURCE_BYTES);
	PUMP_UNTIL(&pair.to, &pair.from, pair.to.links[0].down);
	for (uint32_t imm = 0; imm < 16; imm++)
		check_bytes(&pair, imm);
	pair_close(&pair);
}

/* -------------------------------------------------------------------------------------- random */

TRANSPORT_TEST(random_batches_over_all_rails_land_byte_exact)
{
	uint64_t seed = (uint64_t)time(NULL) << 8 | 1;
	uint32_t units[KVX_RAILS_MAX], next = 0;
	struct pair pair;

	pair_open(&pair, transport->name, NULL, seed);
	fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
	for (uint32_t rail = 0; rail < pair.out->rails; rail++)
		units[rail] = next++;
	while (next < UNITS - 1) {
		uint64_t draw = random_next(&pair.random);
		uint32_t rail = (uint32_t)(draw >> 8) % pair.out->rails;
		uint32_t imm = units[rail];
		pair.batch_bytes_max = 1u << (draw >> 16) % 21;
		pair.to.piece_bytes = (uint32_t)(draw >> 24) % 3 * 3001;
		pair.to.answer_bytes = (uint32_t)(draw >> 32) % 3 * 50021;
		uint64_t end = draw % 4 ? UNIT_BYTES : 0;
		bool taken = post_from(&pair, rail, imm, &pair.sources[imm % 2], end);
		if ((taken && !end) || pair.posted[imm] == UNIT_BYTES)
			units[rail] = next++;
		if (draw % 5 < 2)
			side_pump(draw % 5 ? &pair.from : &pair.to);
	}
	pair.batch_bytes_max = 1u << 16; /* what was drawn last may be a byte */
	for (uint32_t rail = 0; rail < pair.out->rails; rail++)
		if (units[rail] < UNITS - 1)
			post_unit(&pair, rail, units[rail], UNIT_BYTES);
	for (uint32_t imm = 0; imm < UNITS; imm++)
		check_whole(&pair, imm);
	check_alive(&pair);
	pair_close(&pair);
}

/* --------------------------------------------------------------------------------------- sleep */

struct sleeper {
	pthread_t thread;
	struct side *side;
	_Atomic bool stop;
};

static void *sleep_and_work(void *context)
{
	struct sleeper *sleeper = context;

	while (!sleeper->stop)
		side_sleep(sleeper->side, SLEEP_LOST_NS);
	return NULL;
}

static void exchange(struct pair *pair)
{
	const struct side *from = &pair->from;
	uint8_t byte = 1;

	for (uint32_t round = 1; round <= WAKE_ROUNDS && !from->sleep_lost; round++) {
		from->ops->message(pair->out, &byte, 1);
		while (from->links[0].messages < round && !from->sleep_lost)
			side_sleep(&pair->from, SLEEP_LOST_NS);
	}
}

TRANSPORT_TEST(a_sleeping_side_is_woken_every_time)
{
	struct pair pair;
	struct sleeper sleeper = {.side = &pair.to};
	uint8_t byte = 1;

	pair_open(&pair, transport->name, NULL, 31);
	pair.to.echo = true;
	cr_assert_eq(pthread_create(&sleeper.thread, NULL, sleep_and_work, &sleeper), 0);
	exchange(&pair);
	sleeper.stop = true;
	pair.from.ops->message(pair.out, &byte, 1);
	for (int i = 0; i < 10; i++)
		side_pump(&pair.from);
	pthread_join(sleeper.thread, NULL);
	cr_assert_not(pair.from.sleep_lost, "the connecting side overslept");
	cr_assert_not(pair.to.sleep_lost, "the accepting side overslept");
	cr_assert_geq(pair.from.links[0].messages, WAKE_ROUNDS);
	pair_close(&pair);
}

/* The sender sleeps whenever a rail is full, the receiver whenever it has nothing. */
static void stream_asleep(struct pair *pair)
{
	for (uint32_t imm = 0; imm < UNITS - 1; imm++) {
		uint32_t rail = imm % pair->out->rails;
		while (pair->posted[imm] < UNIT_BYTES && !pair->from.sleep_lost)
			if (!post_from(pair, rail, imm, &pair->sources[imm % 2], UNIT_BYTES))
				side_sleep(&pair->from, SLEEP_LOST_NS);
	}
}

TRANSPORT_TEST(a_sender_that_sleeps_on_full_rails_is_woken)
{
	struct pair pair;
	struct sleeper sleeper = {.side = &pair.to};
	uint8_t byte = 1;

	pair_open(&pair, transport->name, small_buffers, 32);
	pair.batch_bytes_max = KVX_BATCH_BYTES_MAX;
	cr_assert_eq(pthread_create(&sleeper.thread, NULL, sleep_and_work, &sleeper), 0);
	stream_asleep(&pair);
	sleeper.stop = true;
	pair.from.ops->message(pair.out, &byte, 1);
	for (int i = 0; i < 10; i++)
		side_pump(&pair.from);
	pthread_join(sleeper.thread, NULL);
	cr_assert_not(pair.from.sleep_lost, "the sender overslept");
	cr_assert_not(pair.to.sleep_lost, "the receiver overslept");
	for (uint32_t imm = 0; imm < UNITS - 1; imm++)
		check_whole(&pair, imm);
	pair_close(&pair);
}
