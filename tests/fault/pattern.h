/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that say where they belong: no two blocks of all requests hold the same ones. */
#ifndef FAULT_PATTERN_H
#define FAULT_PATTERN_H

#include <stdint.h>

/* Of the index-th block of a request, in one plane of one layer. */
static inline uint64_t pattern_seed(uint64_t key, uint32_t layer, uint32_t plane, uint32_t index)
{
	uint64_t seed = key * UINT64_C(0x9e3779b97f4a7c15) + ((uint64_t)layer << 40) +
			((uint64_t)plane << 32) + index;

	seed = (seed ^ seed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	seed = (seed ^ seed >> 27) * UINT64_C(0x94d049bb133111eb);
	return seed ^ seed >> 31;
}

#define PATTERN_STEP UINT64_C(0xd1342543de82ef95) /* from a word to the next */

/* bytes: a multiple of 8. */
static inline void pattern_fill(uint64_t *words, uint32_t bytes, uint64_t seed)
{
	for (uint32_t i = 0; i < bytes / 8; i++, seed += PATTERN_STEP)
		words[i] = seed;
}

/* How many bytes lie in words that are not the pattern's. */
static inline uint64_t pattern_check(const uint64_t *words, uint32_t bytes, uint64_t seed)
{
	uint64_t wrong = 0;

	for (uint32_t i = 0; i < bytes / 8; i++, seed += PATTERN_STEP)
		wrong += words[i] != seed;
	return wrong * 8;
}

#endif
