/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs/wire.h"

#include "support/chance.h"

#include <criterion/criterion.h>
#include <string.h>

static const struct kvx_verbs_end end = {.qpn = 0xabcdef,
					 .psn = 0x123456,
					 .mtu = IBV_MTU_4096,
					 .reads_out = 16,
					 .reads_in = 8,
					 .lid = 0xbeef,
					 .gid.raw = {0xfe, 0x80, [15] = 1}};

static struct kvx_verbs_message example(enum kvx_verbs_message_type type)
{
	struct kvx_verbs_message message = {.type = type, .rail = 3};

	switch (type) {
	case KVX_VERBS_PORTS:
		message = (struct kvx_verbs_message){
			.type = type, .version = KVX_VERBS_VERSION, .count = KVX_VERBS_PORTS_MAX};
		for (uint32_t i = 0; i < message.count; i++)
			message.ports[i] = (struct kvx_verbs_remote_port){
				.link_layer = 2,
				.mtu = 5,
				.prefix_bits = 24,
				.up = i % 2,
				.lid = (uint16_t)i,
				.speed_mbps = 400000,
				.gid.raw = {[12] = 10, [15] = (uint8_t)i}};
		break;
	case KVX_VERBS_ASK:
		message.rails = 64, message.local_port = 1, message.remote_port = 2;
		message.end = end;
		break;
	case KVX_VERBS_ANSWER:
		message.qpn = 77, message.end = end;
		break;
	case KVX_VERBS_BROKEN:
		message.qpn = 99;
		strcpy(message.text, "the port is down");
		break;
	case KVX_VERBS_KEYS:
		message = (struct kvx_verbs_message){.type = type,
						     .slot = 4095,
						     .generation = UINT32_MAX,
						     .memories = 44,
						     .pieces = 44,
						     .chunk_shift = 40,
						     .count = KVX_VERBS_KEYS_MAX};
		for (uint32_t i = 0; i < message.count; i++)
			message.keys[i] = (struct kvx_verbs_key){(uint8_t)i, i, i, UINT64_MAX - i,
								 0x1000 + i};
		break;
	case KVX_VERBS_LINK:
		message.rail = 0;
		break;
	default:
		break;
	}
	return message;
}

Test(verbs_wire, messages_come_back_as_they_were)
{
	for (int type = KVX_VERBS_PORTS; type <= KVX_VERBS_BROKEN; type++) {
		struct kvx_verbs_message message = example((enum kvx_verbs_message_type)type), back;
		uint8_t bytes[KVX_VERBS_MESSAGE_MAX];
		uint32_t length = kvx_verbs_encode(&message, bytes);
		cr_assert_eq(kvx_verbs_decode(&back, bytes, length), 0, "type %d: %s", type,
			     kvx_error_text());
		cr_assert_eq(memcmp(&message, &back, sizeof(message)), 0, "type %d", type);
	}
}

Test(verbs_wire, a_message_of_another_length_is_refused)
{
	for (int type = KVX_VERBS_PORTS; type <= KVX_VERBS_BROKEN; type++) {
		struct kvx_verbs_message message = example((enum kvx_verbs_message_type)type), back;
		uint8_t bytes[KVX_VERBS_MESSAGE_MAX + 1] = {0};
		uint32_t length = kvx_verbs_encode(&message, bytes);
		for (uint32_t cut = 0; cut < length; cut++)
			cr_assert_eq(kvx_verbs_decode(&back, bytes, cut), KVX_E_PROTOCOL,
				     "type %d cut to %u of %u bytes", type, cut, length);
		cr_assert_eq(kvx_verbs_decode(&back, bytes, length + 1), KVX_E_PROTOCOL);
	}
}

static void expect_refused(const struct kvx_verbs_message *message)
{
	struct kvx_verbs_message back;
	uint8_t bytes[KVX_VERBS_MESSAGE_MAX];
	uint32_t length = kvx_verbs_encode(message, bytes);

	cr_assert_eq(kvx_verbs_decode(&back, bytes, length), KVX_E_PROTOCOL, "type %d",
		     (int)message->type);
}

Test(verbs_wire, fields_out_of_range_are_refused)
{
	struct kvx_verbs_message message;

	message = example(KVX_VERBS_ASK), message.rail = 64, expect_refused(&message);
	message = example(KVX_VERBS_ASK), message.rails = 0, expect_refused(&message);
	message = example(KVX_VERBS_ASK), message.rails = 65, expect_refused(&message);
	message = example(KVX_VERBS_ASK), message.end.qpn = 1 << 24, expect_refused(&message);
	message = example(KVX_VERBS_ASK), message.end.psn = 1 << 24, expect_refused(&message);
	message = example(KVX_VERBS_ANSWER), message.end.mtu = 6, expect_refused(&message);
	message = example(KVX_VERBS_PORTS), message.ports[9].prefix_bits = 129;
	expect_refused(&message);
	message = example(KVX_VERBS_KEYS), message.slot = 4096, expect_refused(&message);
	message = example(KVX_VERBS_KEYS), message.memories = 0, expect_refused(&message);
	message = example(KVX_VERBS_KEYS), message.pieces = 43, expect_refused(&message);
	message = example(KVX_VERBS_KEYS), message.chunk_shift = 63, expect_refused(&message);
	message = example(KVX_VERBS_KEYS), message.chunk_shift = 4, expect_refused(&message);
	message = example(KVX_VERBS_KEYS), message.keys[7].memory = 44, expect_refused(&message);
	message = example(KVX_VERBS_KEYS), message.keys[7].piece = 44, expect_refused(&message);
	message = example(KVX_VERBS_KEYS), message.keys[7].rail = 64, expect_refused(&message);
}

Test(verbs_wire, another_version_is_told_from_garbage)
{
	struct kvx_verbs_message message = example(KVX_VERBS_PORTS), back;
	uint8_t bytes[KVX_VERBS_MESSAGE_MAX];

	message.version = 7;
	uint32_t length = kvx_verbs_encode(&message, bytes);
	cr_assert_eq(kvx_verbs_decode(&back, bytes, length), 0);
	cr_assert_eq(back.version, 7);
}

/* Whatever the bytes, they are read within their bounds and either make sense or are refused. */
Test(verbs_wire, random_bytes_do_no_harm)
{
	uint64_t random = random_seed();
	uint32_t taken = 0;

	for (int round = 0; round < 200000; round++) {
		uint8_t bytes[KVX_VERBS_MESSAGE_MAX];
		uint32_t length = random_between(&random, 1, 64);
		struct kvx_verbs_message message;
		for (uint32_t i = 0; i < length; i++)
			bytes[i] = (uint8_t)random_next(&random);
		bytes[0] %= KVX_VERBS_BROKEN + 2;
		int result = kvx_verbs_decode(&message, bytes, length);
		cr_assert(result == 0 || result == KVX_E_PROTOCOL);
		taken += result == 0;
	}
	cr_assert_lt(taken, 200000);
}
