/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the fuzz target of the handlers (tests/fuzz/control.c) without libFuzzer: its seeds, and so
 * many random changes of them.
 *
 *	test-control-fuzz ROUNDS
 */
#include "fuzz/target.h"
#include "support/chance.h"

#include <inttypes.h>

#define INPUT_MAX 4096u
#define SEEDS_MAX 64u

static struct {
	const void *bytes;
	size_t size;
} seeds[SEEDS_MAX];
static unsigned seed_count;

static void take_seed(const char *name, const void *bytes, size_t size)
{
	fuzz_require(seed_count < SEEDS_MAX, "no room for %s", name);
	seeds[seed_count].bytes = bytes;
	seeds[seed_count++].size = size;
}

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

	fuzz_give_seeds(take_seed);
	for (unsigned i = 0; i < seed_count; i++)
		LLVMFuzzerTestOneInput(seeds[i].bytes, seeds[i].size);
	printf("1..1\n");
	for (uint64_t round = 0; round < rounds; round++) {
		size_t from = pick(&state, seed_count), size = seeds[from].size;
		memcpy(data, seeds[from].bytes, size);
		for (size_t i = pick(&state, 6); i; i--)
			size = change(&state, data, size);
		LLVMFuzzerTestOneInput(data, size);
	}
	printf("ok 1 - %" PRIu64 " inputs end with an answer\n", rounds);
	return 0;
}
