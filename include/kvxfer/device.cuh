/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ready words and waits inside one's own kernels; kvxfer/cuda.h has the same for streams, and the
 * words: kvx_cuda_words_alloc() gives those that are used here, and kvx_stream_watch() and
 * kvx_grant_mirror() say what they stand for. For nvcc, devices of compute capability 7.0 and up.
 *
 * To signal is to say that ALL of the grid's threads have written the layer, so it takes care:
 *
 *   one block     each thread writes; __syncthreads(); one thread calls kvx_signal_ready(word)
 *   any grid      each thread writes; then all threads of all blocks call
 *                 kvx_signal_ready_by_last_block(word, blocks_done)
 *
 * which is this: when a block's threads have met at __syncthreads(), one of them adds the block to
 * a count, with release and acquire; the block that completes the count has every other block's
 * writes behind it, and one of its threads signals.
 *
 * To wait is to keep a place on the device that others may need: a grid that waits must fit on the
 * device beside what it waits for, which is nothing of the device's compute units where layers come
 * by copy engines or a NIC. Where the whole grid waits, let one thread of each block do it:
 *
 *   __shared__ uint32_t state;
 *   if (threadIdx.x == 0)
 *           state = kvx_wait_layer(words, layer);
 *   __syncthreads();
 *   if (state != KVX_WORD_WHOLE)
 *           return;
 *   ... read the layer, not by __ldg() nor through const __restrict__: such loads may be done
 *       before the wait
 */
#ifndef KVXFER_DEVICE_CUH
#define KVXFER_DEVICE_CUH

#include <kvxfer/kvxfer.h>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 700
#error "kvxfer/device.cuh: compute capability 7.0 or later is needed: build with -arch=sm_70 or up"
#endif

#define KVX_SPIN_MIN_NS 32u
#define KVX_SPIN_MAX_NS 1024u

/*
 * Increments a word by one: one more layer is ready, as kvx_cuda_signal_ready().
 *
 * word: one of kvx_cuda_words_alloc(); all its increments come from one device.
 *
 * To be called by ONE thread, after a barrier with those that wrote the layer.
 */
static __device__ __forceinline__ void kvx_signal_ready(uint32_t *word)
{
	/* An addition, so that a replayed graph counts on. Release, so that it is not seen before
	 * what this thread wrote and, by the barrier, saw written; at system scope, since CPU, copy
	 * engines and NIC read next. */
	asm volatile("red.release.sys.add.u32 [%0], 1;" ::"l"(word) : "memory");
}

/*
 * The same by whichever block of a grid ends last.
 *
 * word: as above.
 * blocks_done: a counter in the device's memory, 0 before the first launch, for this kernel alone
 * and not for two launches at once. It is 0 again when the kernel has ended, for the next replay.
 * The grid has fewer than 2^32 blocks.
 *
 * To be called once by ALL threads of ALL blocks, after their last write of the layer, at a place
 * where none of them has returned.
 */
static __device__ __forceinline__ void kvx_signal_ready_by_last_block(uint32_t *word,
								      uint32_t *blocks_done)
{
	uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
	uint32_t before;

	/* Orders the block's writes before what its first thread does next. */
	__syncthreads();
	if (threadIdx.x || threadIdx.y || threadIdx.z)
		return;
	/* Release gives this block's writes to the last block, acquire takes all others' there; at
	 * system scope, as the pool may lie in memory that is not this device's. */
	asm volatile("atom.acq_rel.sys.add.u32 %0, [%1], 1;"
		     : "=r"(before)
		     : "l"(blocks_done)
		     : "memory");
	if (before + 1 < blocks)
		return;
	/* Nobody else looks at it until the next launch, which comes after this one's end. */
	*blocks_done = 0;
	kvx_signal_ready(word);
}

/*
 * What a layer's word says now: KVX_WORD_PENDING, KVX_WORD_WHOLE or KVX_WORD_FAILED.
 *
 * words: as given to kvx_grant_mirror().
 * layer: index of a word: a layer, or the number of layers for the tail.
 *
 * Any thread. After KVX_WORD_WHOLE the layer's bytes are visible to the calling thread, and after
 * a barrier to its block.
 */
static __device__ __forceinline__ uint32_t kvx_layer_state(const uint32_t *words, uint32_t layer)
{
	uint32_t state;

	/* Acquire, so that no read of the layer is done before; at system scope, since it is the
	 * CPU that has stored the word. */
	asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(state) : "l"(words + layer) : "memory");
	return state;
}

/* Waits until a layer's word is not KVX_WORD_PENDING, and returns it. It ends when the grant fails
 * or its lease ends, too. Arguments, threads and visibility as of kvx_layer_state(). */
static __device__ __forceinline__ uint32_t kvx_wait_layer(const uint32_t *words, uint32_t layer)
{
	uint32_t pause_ns = KVX_SPIN_MIN_NS;
	uint32_t state;

	while ((state = kvx_layer_state(words, layer)) == KVX_WORD_PENDING) {
		/* Each look crosses the bus to the host's memory: ever fewer of them. */
		__nanosleep(pause_ns);
		if (pause_ns < KVX_SPIN_MAX_NS)
			pause_ns *= 2;
	}
	return state;
}

#endif
