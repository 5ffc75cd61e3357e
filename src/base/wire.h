/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding of what other processes read: fixed widths, little-endian, field by field. A writer and
 * a reader never pass their end: they remember that they would have, and `failed` is checked once
 * after the last field. Variable-length numbers are LEB128: 7 bits a byte, low ones first.
 */
#ifndef KVX_BASE_WIRE_H
#define KVX_BASE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct kvx_writer {
	uint8_t *next, *end;
	bool failed;
};

struct kvx_reader {
	const uint8_t *next, *end;
	bool failed;
};

static inline struct kvx_writer kvx_writer_over(void *bytes, size_t size)
{
	return (struct kvx_writer){bytes, (uint8_t *)bytes + size, false};
}

static inline struct kvx_reader kvx_reader_over(const void *bytes, size_t size)
{
	return (struct kvx_reader){bytes, (const uint8_t *)bytes + size, false};
}

static inline size_t kvx_reader_left(const struct kvx_reader *reader)
{
	return (size_t)(reader->end - reader->next);
}

static inline void kvx_put_bytes(struct kvx_writer *writer, const void *bytes, size_t count)
{
	if (writer->failed || (size_t)(writer->end - writer->next) < count) {
		writer->failed = true;
		return;
	}
	memcpy(writer->next, bytes, count);
	writer->next += count;
}

static inline void kvx_get_bytes(struct kvx_reader *reader, void *bytes, size_t count)
{
	if (reader->failed || kvx_reader_left(reader) < count) {
		reader->failed = true;
		memset(bytes, 0, count);
		return;
	}
	memcpy(bytes, reader->next, count);
	reader->next += count;
}

static inline void kvx_put_unsigned(struct kvx_writer *writer, uint64_t value, unsigned width)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < width; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
	kvx_put_bytes(writer, bytes, width);
}

static inline uint64_t kvx_get_unsigned(struct kvx_reader *reader, unsigned width)
{
	uint8_t bytes[8];
	uint64_t value = 0;

	kvx_get_bytes(reader, bytes, width);
	for (unsigned i = 0; i < width; i++)
		value |= (uint64_t)bytes[i] << (8 * i);
	return value;
}

static inline void kvx_put_u8(struct kvx_writer *w, uint8_t v)
{
	kvx_put_unsigned(w, v, 1);
}
static inline void kvx_put_u16(struct kvx_writer *w, uint16_t v)
{
	kvx_put_unsigned(w, v, 2);
}
static inline void kvx_put_u32(struct kvx_writer *w, uint32_t v)
{
	kvx_put_unsigned(w, v, 4);
}
static inline void kvx_put_u64(struct kvx_writer *w, uint64_t v)
{
	kvx_put_unsigned(w, v, 8);
}
static inline uint8_t kvx_get_u8(struct kvx_reader *r)
{
	return (uint8_t)kvx_get_unsigned(r, 1);
}
static inline uint16_t kvx_get_u16(struct kvx_reader *r)
{
	return (uint16_t)kvx_get_unsigned(r, 2);
}
static inline uint32_t kvx_get_u32(struct kvx_reader *r)
{
	return (uint32_t)kvx_get_unsigned(r, 4);
}
static inline uint64_t kvx_get_u64(struct kvx_reader *r)
{
	return kvx_get_unsigned(r, 8);
}

static inline void kvx_put_varint(struct kvx_writer *writer, uint64_t value)
{
	for (; value >= 0x80; value >>= 7)
		kvx_put_u8(writer, (uint8_t)(value | 0x80));
	kvx_put_u8(writer, (uint8_t)value);
}

static inline uint64_t kvx_get_varint(struct kvx_reader *reader)
{
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t byte = kvx_get_u8(reader);
		if (shift == 63 && byte > 1)
			break;
		value |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return value;
	}
	reader->failed = true;
	return 0;
}

/* A text of at most 65535 bytes: its length in 16 bits, then its bytes without a zero. */
static inline void kvx_put_text(struct kvx_writer *writer, const char *text)
{
	size_t length = strlen(text);

	if (length > UINT16_MAX)
		writer->failed = true;
	kvx_put_u16(writer, (uint16_t)length);
	kvx_put_bytes(writer, text, length);
}

/* Fails if the text and its zero do not fit size, or if it holds a control character: such texts
 * end up in logs. */
static inline void kvx_get_text(struct kvx_reader *reader, char *text, size_t size)
{
	uint16_t length = kvx_get_u16(reader);

	text[0] = 0;
	if (length >= size) {
		reader->failed = true;
		return;
	}
	kvx_get_bytes(reader, text, length);
	text[length] = 0;
	for (uint16_t i = 0; i < length; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			reader->failed = true;
	if (reader->failed)
		text[0] = 0;
}

#endif
