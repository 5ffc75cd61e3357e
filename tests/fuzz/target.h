/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What fuzz targets share. A target is one file with two functions: what libFuzzer, or corpus.c in
 * its place, calls with each input; and the seeds that its corpus begins with, made from what the
 * library itself encodes. What must hold and does not aborts.
 */
#ifndef KVX_TESTS_FUZZ_TARGET_H
#define KVX_TESTS_FUZZ_TARGET_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Takes one seed; the name becomes a file's. */
typedef void fuzz_take(const char *name, const void *bytes, size_t size);

/* Gives all seeds of the target, the same ones at each call. */
void fuzz_give_seeds(fuzz_take *take);

#define fuzz_require(condition, ...)                                                    \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
			fprintf(stderr, __VA_ARGS__);                                   \
			fputc('\n', stderr);                                            \
			abort();                                                        \
		}                                                                       \
	} while (0)

/* Of a target's own checks: what the fuzzer shall not learn from, and what would slow it down. */
#if defined(__clang__)
#define FUZZ_UNTRACED __attribute__((no_sanitize("coverage")))
#else
#define FUZZ_UNTRACED
#endif

/* An input that is a program: numbers are taken from it one after another, zeros after its end. */
struct fuzz_input {
	const uint8_t *next, *end;
};

static inline struct fuzz_input fuzz_input_over(const uint8_t *bytes, size_t size)
{
	return (struct fuzz_input){bytes, bytes + size};
}

static inline size_t fuzz_left(const struct fuzz_input *input)
{
	return (size_t)(input->end - input->next);
}

static inline uint64_t fuzz_number(struct fuzz_input *input, unsigned bytes)
{
	uint64_t number = 0;

	for (unsigned i = 0; i < bytes && input->next < input->end; i++)
		number |= (uint64_t)*input->next++ << (8 * i);
	return number;
}

static inline uint8_t fuzz_u8(struct fuzz_input *input)
{
	return (uint8_t)fuzz_number(input, 1);
}
static inline uint16_t fuzz_u16(struct fuzz_input *input)
{
	return (uint16_t)fuzz_number(input, 2);
}
static inline uint32_t fuzz_u32(struct fuzz_input *input)
{
	return (uint32_t)fuzz_number(input, 4);
}
static inline uint64_t fuzz_u64(struct fuzz_input *input)
{
	return fuzz_number(input, 8);
}

/* The next bytes of it, at most `size`; *got: how many there are. */
static inline const uint8_t *fuzz_bytes(struct fuzz_input *input, size_t size, size_t *got)
{
	const uint8_t *bytes = input->next;

	*got = size < fuzz_left(input) ? size : fuzz_left(input);
	input->next += *got;
	return bytes;
}

#endif
