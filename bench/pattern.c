/* SPDX-License-Identifier: Apache-2.0 */
#include "pattern.h"

#include <endian.h>
#include <string.h>

#define WORD sizeof(uint64_t)
#define CHUNK_WORDS 32u /* words that are compared before the outcome is looked at */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= UINT64_C(0xe9846af9b1a615d);
	x ^= x >> 32;
	x *= UINT64_C(0xe9846af9b1a615d);
	return x ^ x >> 28;
}

/* One multiplication for each word: the key is mixed well already, and filling has to keep up with
 * the memory. */
static inline uint64_t word_at(uint64_t key, uint64_t index)
{
	uint64_t x = key + index * UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 32) * UINT64_C(0xd6e8feb86659fd93);
	return htole64(x ^ x >> 29);
}

uint64_t kvx_pattern_key(const struct kvx_pattern_place *place)
{
	uint64_t key = mix(place->seed + UINT64_C(0x632be59bd9b4e019));

	key = mix(key + place->request);
	key = mix(key + ((uint64_t)place->layer << 32 | place->plane));
	return mix(key + place->block);
}

uint8_t kvx_pattern_byte(uint64_t key, size_t offset)
{
	uint64_t word = word_at(key, offset / WORD);
	uint8_t bytes[WORD];

	memcpy(bytes, &word, WORD);
	return bytes[offset % WORD];
}

void kvx_pattern_fill(uint64_t key, void *bytes, size_t size)
{
	char *to = bytes;
	size_t words = size / WORD;

	for (size_t i = 0; i < words; i++) {
		uint64_t word = word_at(key, i);
		memcpy(to + i * WORD, &word, WORD);
	}
	uint64_t tail = word_at(key, words);
	memcpy(to + words * WORD, &tail, size % WORD);
}

static size_t count_wrong(uint64_t key, const uint8_t *bytes, size_t from, size_t to, size_t *first)
{
	size_t wrong = 0;

	for (size_t offset = from; offset < to; offset++) {
		if (bytes[offset] == kvx_pattern_byte(key, offset))
			continue;
		if (wrong++ == 0)
			*first = offset;
	}
	return wrong;
}

static uint64_t chunk_difference(uint64_t key, const char *bytes, size_t index)
{
	uint64_t difference = 0;

	for (size_t i = index; i < index + CHUNK_WORDS; i++) {
		uint64_t word;
		memcpy(&word, bytes + i * WORD, WORD);
		difference |= word ^ word_at(key, i);
	}
	return difference;
}

size_t kvx_pattern_verify(uint64_t key, const void *bytes, size_t size, size_t *first)
{
	const size_t chunk_bytes = CHUNK_WORDS * WORD;
	size_t wrong = 0;
	size_t offset = 0;
	size_t found = 0;

	while (offset < size) {
		size_t length = size - offset < chunk_bytes ? size - offset : chunk_bytes;
		size_t more = 0;
		if (length < chunk_bytes || chunk_difference(key, bytes, offset / WORD))
			more = count_wrong(key, bytes, offset, offset + length, &found);
		if (more && !wrong)
			*first = found;
		wrong += more;
		offset += length;
	}
	return wrong;
}
