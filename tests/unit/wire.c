/* SPDX-License-Identifier: Apache-2.0 */
#include "base/wire.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint8_t bytes[1 << 17];

static struct kvx_reader reader_of(const struct kvx_writer *writer)
{
	cr_assert_not(writer->failed);
	return kvx_reader_over(bytes, (size_t)(writer->next - bytes));
}

static void expect_end(const struct kvx_reader *reader)
{
	cr_assert_not(reader->failed);
	cr_assert_eq(kvx_reader_left(reader), 0);
}

Test(wire, numbers_come_back)
{
	struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));

	kvx_put_u8(&writer, 0xfe);
	kvx_put_u16(&writer, 0xfedc);
	kvx_put_u32(&writer, 0xfedcba98);
	kvx_put_u64(&writer, UINT64_C(0xfedcba9876543210));
	struct kvx_reader reader = reader_of(&writer);
	cr_assert_eq(kvx_get_u8(&reader), 0xfe);
	cr_assert_eq(kvx_get_u16(&reader), 0xfedc);
	cr_assert_eq(kvx_get_u32(&reader), 0xfedcba98);
	cr_assert_eq(kvx_get_u64(&reader), UINT64_C(0xfedcba9876543210));
	expect_end(&reader);
}

Test(wire, the_low_byte_comes_first)
{
	struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));

	kvx_put_u32(&writer, 0x04030201);
	for (uint8_t i = 0; i < 4; i++)
		cr_assert_eq(bytes[i], i + 1);
}

Test(wire, a_full_writer_fails_and_writes_nothing_more)
{
	struct kvx_writer writer = kvx_writer_over(bytes, 3);

	bytes[2] = bytes[3] = 0x55;
	kvx_put_u16(&writer, 1);
	kvx_put_u16(&writer, 2);
	kvx_put_u8(&writer, 3);
	cr_assert(writer.failed);
	cr_assert_eq(bytes[2], 0x55);
	cr_assert_eq(bytes[3], 0x55);
}

Test(wire, a_failed_reader_answers_zero_for_ever)
{
	struct kvx_reader reader = kvx_reader_over("\xff\xff\xff", 3);

	cr_assert_eq(kvx_get_u32(&reader), 0);
	cr_assert(reader.failed);
	cr_assert_eq(kvx_get_u8(&reader), 0);
	cr_assert_eq(kvx_get_varint(&reader), 0);
}

static void put_message(struct kvx_writer *writer)
{
	kvx_put_u8(writer, 1);
	kvx_put_u16(writer, 2);
	kvx_put_text(writer, "decode-0");
	kvx_put_varint(writer, 300);
	kvx_put_u64(writer, 4);
	kvx_put_bytes(writer, "abcd", 4);
}

static bool message_is_whole(const void *from, size_t size)
{
	struct kvx_reader reader = kvx_reader_over(from, size);
	char name[16], tail[4];

	kvx_get_u8(&reader);
	kvx_get_u16(&reader);
	kvx_get_text(&reader, name, sizeof(name));
	kvx_get_varint(&reader);
	kvx_get_u64(&reader);
	kvx_get_bytes(&reader, tail, sizeof(tail));
	return !reader.failed;
}

Test(wire, a_message_cut_at_any_length_fails)
{
	struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));

	put_message(&writer);
	size_t size = (size_t)(writer.next - bytes);
	for (size_t cut = 0; cut < size; cut++) {
		/* From the heap, so that the address sanitizer sees a read past the end. */
		void *copy = malloc(cut + !cut);
		memcpy(copy, bytes, cut);
		cr_assert_not(message_is_whole(copy, cut), "cut at %zu", cut);
		free(copy);
	}
	cr_assert(message_is_whole(bytes, size));
}

Test(wire, a_buffer_short_by_any_length_fails)
{
	struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));

	put_message(&writer);
	size_t size = (size_t)(writer.next - bytes);
	for (size_t room = 0; room < size; room++) {
		void *short_buffer = malloc(room + !room);
		writer = kvx_writer_over(short_buffer, room);
		put_message(&writer);
		cr_assert(writer.failed, "room for %zu", room);
		free(short_buffer);
	}
}

Test(wire, varints_grow_by_a_byte_for_each_seven_bits)
{
	for (unsigned bits = 1; bits <= 64; bits++) {
		uint64_t value = UINT64_MAX >> (64 - bits);
		struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));
		kvx_put_varint(&writer, value);
		struct kvx_reader reader = reader_of(&writer);
		cr_assert_eq(kvx_reader_left(&reader), (bits + 6) / 7, "%u bits", bits);
		cr_assert_eq(kvx_get_varint(&reader), value, "%u bits", bits);
		expect_end(&reader);
	}
}

Test(wire, a_varint_beyond_64_bits_fails)
{
	static const uint8_t too_large[] = {0xff, 0xff, 0xff, 0xff, 0xff,
					    0xff, 0xff, 0xff, 0xff, 0x02};
	static const uint8_t too_long[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
					   0x80, 0x80, 0x80, 0x80, 0x00};
	struct kvx_reader reader = kvx_reader_over(too_large, sizeof(too_large));

	cr_assert_eq(kvx_get_varint(&reader), 0);
	cr_assert(reader.failed);
	reader = kvx_reader_over(too_long, sizeof(too_long));
	cr_assert_eq(kvx_get_varint(&reader), 0);
	cr_assert(reader.failed);
}

Test(wire, texts_come_back)
{
	static const char *const texts[] = {"", "a", "decode-0", "gr\xc3\xbc\xc3\x9f"};
	char text[16];

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));
		kvx_put_text(&writer, texts[i]);
		struct kvx_reader reader = reader_of(&writer);
		kvx_get_text(&reader, text, sizeof(text));
		expect_end(&reader);
		cr_assert_str_eq(text, texts[i]);
	}
}

Test(wire, a_cut_text_fails)
{
	char text[16] = "before";
	struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));

	kvx_put_text(&writer, "decode-0");
	struct kvx_reader reader = kvx_reader_over(bytes, (size_t)(writer.next - bytes) - 1);
	kvx_get_text(&reader, text, sizeof(text));
	cr_assert(reader.failed);
	cr_assert_str_empty(text);
}

Test(wire, a_text_needs_room_for_its_zero)
{
	char text[8];
	struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));

	kvx_put_text(&writer, "1234567");
	struct kvx_reader reader = reader_of(&writer);
	kvx_get_text(&reader, text, 8);
	expect_end(&reader);
	reader = reader_of(&writer);
	kvx_get_text(&reader, text, 7);
	cr_assert(reader.failed);
	cr_assert_str_empty(text);
}

Test(wire, a_text_with_a_control_character_fails)
{
	char text[8];

	for (unsigned character = 0; character < 256; character++) {
		struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));
		uint8_t content[] = {'a', (uint8_t)character, 'b'};
		kvx_put_u16(&writer, sizeof(content));
		kvx_put_bytes(&writer, content, sizeof(content));
		struct kvx_reader reader = reader_of(&writer);
		kvx_get_text(&reader, text, sizeof(text));
		bool control = character < 0x20 || character == 0x7f;
		cr_assert_eq(reader.failed, control, "character %u", character);
	}
}

Test(wire, a_text_longer_than_its_length_can_tell_fails)
{
	char *text = malloc(UINT16_MAX + 2);

	memset(text, 'x', UINT16_MAX + 1);
	text[UINT16_MAX + 1] = 0;
	struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));
	kvx_put_text(&writer, text);
	cr_assert(writer.failed);
	text[UINT16_MAX] = 0;
	writer = kvx_writer_over(bytes, sizeof(bytes));
	kvx_put_text(&writer, text);
	cr_assert_not(writer.failed);
	free(text);
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *state ^ *state >> 29;
}

/* KVX_TEST_SEED repeats a run that failed. */
static uint64_t seed(void)
{
	const char *given = getenv("KVX_TEST_SEED");
	uint64_t value = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);

	fprintf(stderr, "KVX_TEST_SEED=%" PRIu64 "\n", value);
	return value;
}

/* One field of a kind and value that both come from the state. */
static void put_random(struct kvx_writer *writer, uint64_t *state)
{
	unsigned width = 1u << (next_random(state) & 3);
	uint64_t value = next_random(state) >> (next_random(state) & 63);

	if (next_random(state) & 1)
		kvx_put_varint(writer, value);
	else
		kvx_put_unsigned(writer, value, width);
}

static void expect_random(struct kvx_reader *reader, uint64_t *state)
{
	unsigned width = 1u << (next_random(state) & 3);
	uint64_t value = next_random(state) >> (next_random(state) & 63);

	if (next_random(state) & 1)
		cr_assert_eq(kvx_get_varint(reader), value);
	else
		cr_assert_eq(kvx_get_unsigned(reader, width),
			     value & UINT64_MAX >> (64 - 8 * width));
}

Test(wire, random_fields_come_back)
{
	uint64_t first = seed();

	for (uint64_t round = 0; round < 2000; round++) {
		uint64_t putting = first + round, getting = first + round;
		int fields = (int)(round % 50);
		struct kvx_writer writer = kvx_writer_over(bytes, sizeof(bytes));
		for (int i = 0; i < fields; i++)
			put_random(&writer, &putting);
		struct kvx_reader reader = reader_of(&writer);
		for (int i = 0; i < fields; i++)
			expect_random(&reader, &getting);
		expect_end(&reader);
	}
}

Test(wire, random_bytes_are_read_without_passing_the_end)
{
	uint64_t state = seed();

	for (int round = 0; round < 20000; round++) {
		size_t size = next_random(&state) % 40;
		uint8_t *noise = malloc(size + !size);
		for (size_t i = 0; i < size; i++)
			noise[i] = (uint8_t)next_random(&state);
		message_is_whole(noise, size);
		free(noise);
	}
}
