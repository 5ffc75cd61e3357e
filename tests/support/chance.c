/* SPDX-License-Identifier: Apache-2.0 */
#include "support/chance.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

uint64_t random_seed(void)
{
	const char *given = getenv("KVX_TEST_SEED");
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	uint64_t seed = given ? strtoull(given, NULL, 10)
			      : (uint64_t)now.tv_sec * 1000000007 + (uint64_t)now.tv_nsec;
	fprintf(stderr, "KVX_TEST_SEED=%" PRIu64 "\n", seed);
	return seed ? seed : 1;
}

uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * UINT64_C(0x2545f4914f6cdd1d) >> 1;
}

uint32_t random_between(uint64_t *state, uint32_t low, uint32_t high)
{
	return low + (uint32_t)(random_next(state) % ((uint64_t)high - low + 1));
}

void random_table(uint64_t *state, uint32_t *table, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		table[i] = first + i;
	for (uint32_t i = count; i > 1; i--) {
		uint32_t other = random_between(state, 0, i - 1), kept = table[i - 1];
		table[i - 1] = table[other];
		table[other] = kept;
	}
}
