/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KV cache of one end, as kernels see it: a prefill stand-in writes it layer by layer, and a
 * decode stand-in checks every word. Values tell requests, layers, planes, blocks and words apart,
 * and each request has other blocks, so that what is old, early, late or elsewhere is wrong.
 *
 * The request's number is in the device's memory: a graph that is replayed counts it on, and so
 * serves all requests.
 */
#ifndef GPU_CACHE_CUH
#define GPU_CACHE_CUH

#include "support.cuh"

#define MARK 0x6d61726bu

enum cache_side { SENDER, RECEIVER };

/* Of one request. */
struct verdict {
	uint32_t states[KVX_LAYERS_MAX]; /* 1 << KVX_WORD_...: what a block found in its word */
	uint32_t wrong[KVX_LAYERS_MAX];  /* words of the layer, of which one is this: */
	uint32_t at[KVX_LAYERS_MAX], is[KVX_LAYERS_MAX];
};

/* Passed to kernels by value. */
struct cache {
	uint32_t *base;
	struct shape shape;
	uint32_t side;
	uint32_t *request;     /* in the device's memory, as the others */
	uint32_t *blocks_done; /* of kvx_signal_ready_by_last_block() */
	struct verdict *verdict;
};

/* The pool's memory is the device's. */
void cache_open(struct cache *cache, const struct side *side, enum cache_side which);

/* Which of the pool's blocks a request has: index is below the count, which is below the prime. */
static inline __host__ __device__ uint32_t block_of(const struct shape *shape, uint32_t side,
						    uint32_t request, uint32_t index)
{
	return (index * (side ? 11 : 7) + request * 13 + side * 5) % shape->blocks;
}

/* The table of a request, to be freed. */
uint32_t *cache_blocks(const struct cache *cache, uint32_t request);

/* Words of one layer of a request, which `at` counts: plane, block, word. */
static inline __host__ __device__ uint32_t layer_words(const struct shape *shape)
{
	return shape->planes * shape->count * (shape->block_bytes / 4);
}

static inline __host__ __device__ uint32_t value_of(uint32_t request, uint32_t layer, uint32_t at)
{
	uint32_t value = request * 2654435761u ^ layer * 2246822519u ^ at * 3266489917u;

	value = (value ^ value >> 15) * 2246822519u;
	return value ^ value >> 13;
}

/* All of these put work into a stream, and may be captured. */

/* Begins the next request, the first of which is 1: forgets what was found of the last one. */
void cache_begin(const struct cache *cache, cudaStream_t stream);

/* Keeps one thread block busy for a while, as a layer's computation would the device. */
void cache_compute(uint32_t ns, cudaStream_t stream);

void cache_fill(const struct cache *cache, uint32_t layer, cudaStream_t stream);

/* The kernel that fills signals too. */
void cache_fill_and_signal(const struct cache *cache, uint32_t layer, uint32_t *word,
			   cudaStream_t stream);

/* Checks a layer, if its word says that it is whole. */
void cache_check(const struct cache *cache, uint32_t layer, const uint32_t *words,
		 cudaStream_t stream);

/* The kernel that checks waits first. */
void cache_wait_and_check(const struct cache *cache, uint32_t layer, const uint32_t *words,
			  cudaStream_t stream);

/* Overwrites the request's blocks; counts, as wrong, words that are not as this left them. */
void cache_mark(const struct cache *cache, uint32_t layer, cudaStream_t stream);
void cache_check_marks(const struct cache *cache, uint32_t layer, cudaStream_t stream);

/* What was found, when the stream is done. */
void cache_verdict(const struct cache *cache, struct verdict *verdict, cudaStream_t stream);

#endif
