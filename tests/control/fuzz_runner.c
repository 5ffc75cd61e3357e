/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the fuzz target without libFuzzer: its seeds, and so many random changes of them.
 *
 *	test-control-fuzz ROUNDS
 */
#include "fuzz.h"

#include "support/chance.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 4096u

static size_t pick(uint64_t *state, size_t below)
{
	return random_next(state) % below;
}

/* Bytes that mean something in a request. */
static uint8_t byte_of(uint64_t *state)
{
	static const char likely[] = "0123456789{}[]\":,/?&=-. \n\\etruefalsn";

	return pick(state, 4) ? (uint8_t)likely[pick(state, sizeof(likely) - 1)]
			      : (uint8_t)random_next(state);
}

/* Takes the place of a byte, goes before it, removes some, or copies some of them elsewhere. */
static size_t change(uint64_t *state, uint8_t *data, size_t size)
{
	size_t at = size ? pick(state, size) : 0, rest = size - at;
	size_t length = 1 + pick(state, 16);

	switch (pick(state, 4)) {
	case 0:
		if (size)
			data[at] = byte_of(state);
		return size;
	case 1:
		if (size == INPUT_MAX)
			return size;
		memmove(data + at + 1, data + at, rest);
		data[at] = byte_of(state);
		return size + 1;
	case 2:
		length = length > rest ? rest : length;
		memmove(data + at, data + at + length, rest - length);
		return size - length;
	default:
		length = length > rest ? rest : length;
		if (length)
			memmove(data + pick(state, size - length + 1), data + at, length);
		return size;
	}
}

int main(int argc, char **argv)
{
	uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
	uint64_t state = random_seed();
	uint8_t data[INPUT_MAX];
	unsigned seeds = 0;

	for (; fuzz_seeds[seeds]; seeds++)
		LLVMFuzzerTestOneInput((const uint8_t *)fuzz_seeds[seeds],
				       strlen(fuzz_seeds[seeds]));
	printf("1..1\n");
	for (uint64_t round = 0; round < rounds; round++) {
		const char *from = fuzz_seeds[pick(&state, seeds)];
		size_t size = strlen(from);
		memcpy(data, from, size);
		for (size_t i = pick(&state, 6); i; i--)
			size = change(&state, data, size);
		LLVMFuzzerTestOneInput(data, size);
	}
	printf("ok 1 - %" PRIu64 " inputs end with an answer\n", rounds);
	return 0;
}
