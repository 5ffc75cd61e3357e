/* SPDX-License-Identifier: Apache-2.0 */
#include "cache.cuh"

#include <kvxfer/device.cuh>

#include <stdlib.h>

/* Few blocks: a grid that waits has to fit on the smallest device. */
#define BLOCKS 16u
#define THREADS 256u

static __device__ uint32_t *word_at(const struct cache &cache, uint32_t request, uint32_t layer,
				    uint32_t at)
{
	const struct shape &shape = cache.shape;
	uint32_t words = shape.block_bytes / 4;
	uint32_t plane = at / words / shape.count;
	uint32_t block = block_of(&shape, cache.side, request, at / words % shape.count);
	uint64_t place = ((uint64_t)layer * shape.planes + plane) * shape.blocks + block;

	return cache.base + place * words + at % words;
}

static __device__ void fill_layer(const struct cache &cache, uint32_t layer)
{
	uint32_t request = *cache.request;

	for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < layer_words(&cache.shape);
	     at += gridDim.x * blockDim.x)
		*word_at(cache, request, layer, at) = value_of(request, layer, at);
}

static __device__ void found_wrong(const struct cache &cache, uint32_t layer, uint32_t at,
				   uint32_t is)
{
	if (atomicAdd(&cache.verdict->wrong[layer], 1))
		return;
	cache.verdict->at[layer] = at;
	cache.verdict->is[layer] = is;
}

/* state: what the layer's word said to this block. */
static __device__ void check_layer(const struct cache &cache, uint32_t layer, uint32_t state)
{
	uint32_t request = *cache.request;

	if (threadIdx.x == 0)
		atomicOr(&cache.verdict->states[layer], 1u << state);
	if (state != KVX_WORD_WHOLE)
		return;
	for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < layer_words(&cache.shape);
	     at += gridDim.x * blockDim.x) {
		uint32_t is = *word_at(cache, request, layer, at);
		if (is != value_of(request, layer, at))
			found_wrong(cache, layer, at, is);
	}
}

static __global__ void begin_kernel(struct cache cache)
{
	*cache.request += 1;
}

static __global__ void compute_kernel(uint32_t ns)
{
	uint64_t begin, now;

	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
	do
		asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
	while (now - begin < ns);
}

static __global__ void fill_kernel(struct cache cache, uint32_t layer)
{
	fill_layer(cache, layer);
}

static __global__ void fill_and_signal_kernel(struct cache cache, uint32_t layer, uint32_t *word)
{
	fill_layer(cache, layer);
	kvx_signal_ready_by_last_block(word, cache.blocks_done);
}

static __global__ void check_kernel(struct cache cache, uint32_t layer, const uint32_t *words)
{
	__shared__ uint32_t state;

	if (threadIdx.x == 0)
		state = kvx_layer_state(words, layer);
	__syncthreads();
	check_layer(cache, layer, state);
}

static __global__ void wait_and_check_kernel(struct cache cache, uint32_t layer,
					     const uint32_t *words)
{
	__shared__ uint32_t state;

	if (threadIdx.x == 0)
		state = kvx_wait_layer(words, layer);
	__syncthreads();
	check_layer(cache, layer, state);
}

static __global__ void mark_kernel(struct cache cache, uint32_t layer)
{
	uint32_t request = *cache.request;

	for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < layer_words(&cache.shape);
	     at += gridDim.x * blockDim.x)
		*word_at(cache, request, layer, at) = MARK ^ at;
}

static __global__ void check_marks_kernel(struct cache cache, uint32_t layer)
{
	uint32_t request = *cache.request;

	for (uint32_t at = blockIdx.x * blockDim.x + threadIdx.x; at < layer_words(&cache.shape);
	     at += gridDim.x * blockDim.x) {
		uint32_t is = *word_at(cache, request, layer, at);
		if (is != (MARK ^ at))
			found_wrong(cache, layer, at, is);
	}
}

void cache_open(struct cache *cache, const struct side *side, enum cache_side which)
{
	uint32_t *counters;

	cache->base = (uint32_t *)side->address;
	cache->shape = side->shape;
	cache->side = which;
	check_cuda(cudaMalloc(&counters, 2 * sizeof(*counters)));
	cache->request = counters;
	cache->blocks_done = counters + 1;
	check_cuda(cudaMalloc(&cache->verdict, sizeof(*cache->verdict)));
	check_cuda(cudaMemsetAsync(counters, 0, 2 * sizeof(*counters), side->stream));
	check_cuda(cudaStreamSynchronize(side->stream));
}

uint32_t *cache_blocks(const struct cache *cache, uint32_t request)
{
	uint32_t *blocks = (uint32_t *)calloc(cache->shape.count, sizeof(*blocks));

	check_true(blocks, "out of memory");
	for (uint32_t i = 0; i < cache->shape.count; i++)
		blocks[i] = block_of(&cache->shape, cache->side, request, i);
	return blocks;
}

void cache_begin(const struct cache *cache, cudaStream_t stream)
{
	check_cuda(cudaMemsetAsync(cache->verdict, 0, sizeof(*cache->verdict), stream));
	begin_kernel<<<1, 1, 0, stream>>>(*cache);
	check_cuda(cudaGetLastError());
}

void cache_compute(uint32_t ns, cudaStream_t stream)
{
	compute_kernel<<<1, 1, 0, stream>>>(ns);
	check_cuda(cudaGetLastError());
}

void cache_fill(const struct cache *cache, uint32_t layer, cudaStream_t stream)
{
	fill_kernel<<<BLOCKS, THREADS, 0, stream>>>(*cache, layer);
	check_cuda(cudaGetLastError());
}

void cache_fill_and_signal(const struct cache *cache, uint32_t layer, uint32_t *word,
			   cudaStream_t stream)
{
	fill_and_signal_kernel<<<BLOCKS, THREADS, 0, stream>>>(*cache, layer, word);
	check_cuda(cudaGetLastError());
}

void cache_check(const struct cache *cache, uint32_t layer, const uint32_t *words,
		 cudaStream_t stream)
{
	check_kernel<<<BLOCKS, THREADS, 0, stream>>>(*cache, layer, words);
	check_cuda(cudaGetLastError());
}

void cache_wait_and_check(const struct cache *cache, uint32_t layer, const uint32_t *words,
			  cudaStream_t stream)
{
	wait_and_check_kernel<<<BLOCKS, THREADS, 0, stream>>>(*cache, layer, words);
	check_cuda(cudaGetLastError());
}

void cache_mark(const struct cache *cache, uint32_t layer, cudaStream_t stream)
{
	mark_kernel<<<BLOCKS, THREADS, 0, stream>>>(*cache, layer);
	check_cuda(cudaGetLastError());
}

void cache_check_marks(const struct cache *cache, uint32_t layer, cudaStream_t stream)
{
	check_marks_kernel<<<BLOCKS, THREADS, 0, stream>>>(*cache, layer);
	check_cuda(cudaGetLastError());
}

void cache_verdict(const struct cache *cache, struct verdict *verdict, cudaStream_t stream)
{
	check_cuda(cudaMemcpyAsync(verdict, cache->verdict, sizeof(*verdict),
				   cudaMemcpyDeviceToHost, stream));
	check_cuda(cudaStreamSynchronize(stream));
}
