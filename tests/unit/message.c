/* SPDX-License-Identifier: Apache-2.0 */
#include "core/message.h"

#include "support/chance.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* One of each type, with every field that the type carries. */
static const struct kvx_message samples[] = {
	{.type = KVX_MESSAGE_HELLO,
	 .version = KVX_PROTOCOL_VERSION,
	 .incarnation = 0x1122334455667788,
	 .heartbeat_ms = 1000,
	 .text = "decode-7"},
	{.type = KVX_MESSAGE_OPEN,
	 .stream = UINT64_MAX,
	 .slot = 4095,
	 .generation = 77,
	 .key = 0x8877665544332211,
	 .units = 64,
	 .tail = true,
	 .hash = 0x123456789abcdef0,
	 .geometry = {.layers = 36,
		      .planes = 2,
		      .blocks = 7,
		      .block_bytes = 65536,
		      .block_tokens = 16,
		      .dtype = "bf16",
		      .model = 0x1122334455667788,
		      .layer_first = 36,
		      .layout = KVX_LAYOUT_NHD,
		      .heads = 2,
		      .head_first = 4,
		      .heads_total = 8,
		      .head_bytes = 1024,
		      .head_stride = 2048,
		      .token_stride = 4096,
		      .plane_stride = 65540,
		      .extra_planes = 2,
		      .extra = {{256, 16}, {4096, 0}}}},
	{.type = KVX_MESSAGE_ACCEPT,
	 .stream = 3,
	 .unit_first = 32,
	 .planes = 8,
	 .share = {1, 2, {{3, 4, 5, 6}, {7, 8, 9, 10}, [7] = {11, 12, 13, UINT32_MAX}}},
	 .hash = 0xfedcba9876543210},
	{.type = KVX_MESSAGE_REFUSE,
	 .stream = 4,
	 .code = KVX_E_GEOMETRY,
	 .text = "pools do not match"},
	{.type = KVX_MESSAGE_WHOLE, .stream = 5, .first = 510, .count = 1},
	{.type = KVX_MESSAGE_REVOKE,
	 .stream = 6,
	 .code = KVX_E_LEASE,
	 .text = "the lease has ended"},
	{.type = KVX_MESSAGE_CANCEL, .slot = 8, .generation = 9, .text = "the sender cancelled it"},
	{.type = KVX_MESSAGE_PING},
	{.type = KVX_MESSAGE_BYE, .text = "it closed its engine"},
	{.type = KVX_MESSAGE_LAYOUT,
	 .stream = 10,
	 .count = 2,
	 .layout = {{122, 0, 0, 1 << 20, 65536}, {1, 4087, UINT64_MAX - 3, UINT64_MAX, 4}}},
	{.type = KVX_MESSAGE_DRAINED, .slot = 11, .generation = UINT32_MAX},
	{.type = KVX_MESSAGE_OPEN,
	 .stream = 12,
	 .slot = 1,
	 .generation = 2,
	 .key = 3,
	 .units = 3,
	 .weighted = true,
	 .weights = {1, 255, 128},
	 .hash = 5,
	 .geometry = {.layers = 1, .planes = 1, .blocks = 1, .block_bytes = 4}},
};
#define SAMPLES (sizeof(samples) / sizeof(samples[0]))

static uint8_t bytes[KVX_MESSAGE_MAX];

/* On the heap and no longer than it is, so that a sanitizer sees a read past the end. */
static int decode_exactly(struct kvx_message *message, const uint8_t *from, uint32_t length)
{
	uint8_t *exact = malloc(length ? length : 1);

	memcpy(exact, from, length);
	int error = kvx_message_decode(message, exact, length);
	free(exact);
	return error;
}

Test(message, each_type_comes_back)
{
	struct kvx_message back;

	for (size_t i = 0; i < SAMPLES; i++) {
		uint32_t length = kvx_message_encode(&samples[i], bytes);
		cr_assert(length > 0 && length <= KVX_MESSAGE_MAX);
		cr_assert_eq(decode_exactly(&back, bytes, length), 0, "%s", kvx_error_text());
		cr_assert_eq(memcmp(&back, &samples[i], sizeof(back)), 0, "type %d",
			     (int)samples[i].type);
	}
}

Test(message, each_cut_is_refused)
{
	struct kvx_message back;

	for (size_t i = 0; i < SAMPLES; i++) {
		uint32_t length = kvx_message_encode(&samples[i], bytes);
		for (uint32_t cut = 0; cut < length; cut++)
			cr_assert_eq(decode_exactly(&back, bytes, cut), KVX_E_PROTOCOL,
				     "type %d cut to %u", (int)samples[i].type, cut);
		cr_assert_eq(decode_exactly(&back, bytes, length + 1), KVX_E_PROTOCOL);
	}
}

Test(message, unknown_types_are_refused)
{
	struct kvx_message back;

	memset(bytes, 0, sizeof(bytes));
	for (int type = 0; type < 256; type++) {
		if (type >= KVX_MESSAGE_HELLO && type <= KVX_MESSAGE_DRAINED)
			continue;
		bytes[0] = (uint8_t)type;
		cr_assert_eq(decode_exactly(&back, bytes, 64), KVX_E_PROTOCOL);
	}
}

/* What a newer version says after its version is not looked at. */
Test(message, a_greeting_of_another_version_shows_its_version)
{
	struct kvx_message hello = samples[0], back;

	hello.version = 99;
	kvx_message_encode(&hello, bytes);
	cr_assert_eq(decode_exactly(&back, bytes, 5), 0);
	cr_assert_eq(back.version, 99);
}

Test(message, codes_that_do_not_exist_become_a_refusal)
{
	struct kvx_message refuse = samples[3], back;

	refuse.code = -200;
	uint32_t length = kvx_message_encode(&refuse, bytes);
	cr_assert_eq(decode_exactly(&back, bytes, length), 0);
	cr_assert_eq(back.code, KVX_E_REFUSED);
	refuse.code = 0;
	length = kvx_message_encode(&refuse, bytes);
	cr_assert_eq(decode_exactly(&back, bytes, length), 0);
	cr_assert_eq(back.code, KVX_E_REFUSED);
}

Test(message, the_longest_text_fits)
{
	struct kvx_message bye = {.type = KVX_MESSAGE_BYE}, back;

	memset(bye.text, 'x', KVX_ERROR_TEXT_MAX);
	uint32_t length = kvx_message_encode(&bye, bytes);
	cr_assert_eq(decode_exactly(&back, bytes, length), 0);
	cr_assert_str_eq(back.text, bye.text);
}

Test(message, names_and_texts_with_control_characters_are_refused)
{
	struct kvx_message hello = samples[0], back;

	hello.text[2] = '\n';
	uint32_t length = kvx_message_encode(&hello, bytes);
	cr_assert_eq(decode_exactly(&back, bytes, length), KVX_E_PROTOCOL);
}

/* --- lists whose lengths a peer chooses --- */

#define WEIGHTED_AT (1 + 8 + 4 + 4 + 8 + 4) /* in OPEN: after the number of units */
#define RUNS_AT (1 + 8)                     /* in LAYOUT: their number */

Test(message, the_longest_lists_fit)
{
	struct kvx_message open = samples[1], layout = {.type = KVX_MESSAGE_LAYOUT}, back;

	open.weighted = true;
	memset(open.weights, 7, sizeof(open.weights));
	uint32_t length = kvx_message_encode(&open, bytes);
	cr_assert_eq(decode_exactly(&back, bytes, length), 0, "%s", kvx_error_text());
	cr_assert_eq(memcmp(&back, &open, sizeof(back)), 0);
	layout.count = KVX_LAYOUT_RUNS_MAX;
	for (uint32_t i = 0; i < layout.count; i++)
		layout.layout[i] = (struct kvx_layout_run){i + 1, i, i << 20, i, i * 3};
	length = kvx_message_encode(&layout, bytes);
	cr_assert_eq(decode_exactly(&back, bytes, length), 0, "%s", kvx_error_text());
	cr_assert_eq(memcmp(&back, &layout, sizeof(back)), 0);
}

/* The number says more than there is room for: nothing is written past the end. */
Test(message, lists_longer_than_there_is_room_for_are_refused)
{
	static const uint32_t numbers[] = {KVX_LAYOUT_RUNS_MAX + 1, 1u << 27, UINT32_MAX};
	struct kvx_message open = samples[1], layout = samples[9], back;
	uint32_t length;

	open.weighted = true;
	memset(open.weights, 7, sizeof(open.weights));
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		kvx_message_encode(&layout, bytes);
		memset(bytes + RUNS_AT + 4, 1, sizeof(bytes) - RUNS_AT - 4);
		memcpy(bytes + RUNS_AT, &numbers[i], 4);
		for (length = RUNS_AT; length <= sizeof(bytes); length++)
			cr_assert_eq(decode_exactly(&back, bytes, length), KVX_E_PROTOCOL);
		kvx_message_encode(&open, bytes);
		uint32_t units = numbers[i] < KVX_UNITS_MAX ? KVX_UNITS_MAX + 1 : numbers[i];
		memset(bytes + WEIGHTED_AT + 1, 1, sizeof(bytes) - WEIGHTED_AT - 1);
		memcpy(bytes + WEIGHTED_AT - 4, &units, 4);
		for (length = WEIGHTED_AT; length <= sizeof(bytes); length++)
			cr_assert_eq(decode_exactly(&back, bytes, length), KVX_E_PROTOCOL);
	}
}

Test(message, a_weight_of_nothing_and_a_flag_that_is_none_are_refused)
{
	struct kvx_message open = samples[SAMPLES - 1], back;
	uint32_t length = kvx_message_encode(&open, bytes);

	cr_assert_eq(bytes[WEIGHTED_AT], 1);
	bytes[WEIGHTED_AT] = 2;
	cr_assert_eq(decode_exactly(&back, bytes, length), KVX_E_PROTOCOL);
	open.weights[1] = 0;
	length = kvx_message_encode(&open, bytes);
	cr_assert_eq(decode_exactly(&back, bytes, length), KVX_E_PROTOCOL);
}

/* Whatever is decoded is encoded to the same bytes, so nothing is read that is not there. */
Test(message, garbage_is_refused_or_understood, .timeout = 60)
{
	uint64_t random = random_seed();
	struct kvx_message back;

	for (int round = 0; round < 100000; round++) {
		const struct kvx_message *sample =
			&samples[random_between(&random, 0, SAMPLES - 1)];
		uint8_t again[KVX_MESSAGE_MAX];
		uint32_t length = kvx_message_encode(sample, bytes);
		if (round % 2)
			length = random_between(&random, 0, 200);
		for (uint32_t flips = random_between(&random, 1, 4); length && flips > 0; flips--)
			bytes[random_between(&random, 0, length - 1)] =
				(uint8_t)random_next(&random);
		/* A code that a newer peer may know becomes one that this engine knows. */
		if (decode_exactly(&back, bytes, length) || back.type == KVX_MESSAGE_HELLO ||
		    back.type == KVX_MESSAGE_REFUSE || back.type == KVX_MESSAGE_REVOKE ||
		    back.type == KVX_MESSAGE_DECLINE)
			continue;
		cr_assert_eq(kvx_message_encode(&back, again), length);
		cr_assert_eq(memcmp(again, bytes, length), 0);
	}
}
