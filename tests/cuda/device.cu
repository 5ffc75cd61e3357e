/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels as an engine's author writes them with kvxfer/device.cuh: device_header.py compiles them
 * for each architecture and looks at what the compiler made of the fences. */
#include <kvxfer/cuda.h>
#include <kvxfer/device.cuh>

extern "C" __global__ void one_block_signals(uint32_t *block, uint32_t value, uint32_t *word)
{
	block[threadIdx.x] = value;
	__syncthreads();
	if (threadIdx.x == 0)
		kvx_signal_ready(word);
}

extern "C" __global__ void last_block_signals(uint32_t *layer, uint32_t value, uint32_t *word,
					      uint32_t *blocks_done)
{
	layer[blockIdx.x * blockDim.x + threadIdx.x] = value;
	kvx_signal_ready_by_last_block(word, blocks_done);
}

extern "C" __global__ void each_block_waits(const uint32_t *words, uint32_t layer,
					    const uint32_t *bytes, uint32_t *sums)
{
	__shared__ uint32_t state;

	if (threadIdx.x == 0)
		state = kvx_wait_layer(words, layer);
	__syncthreads();
	if (state == KVX_WORD_WHOLE)
		atomicAdd(&sums[blockIdx.x], bytes[blockIdx.x * blockDim.x + threadIdx.x]);
}

extern "C" __global__ void state_is_looked_at(const uint32_t *words, uint32_t layer,
					      uint32_t *failures)
{
	if (kvx_layer_state(words, layer) == KVX_WORD_FAILED)
		atomicAdd(failures, 1);
}

/* Streams of the runtime convert to those of the public header by themselves. */
int signal_after_kernel(cudaStream_t stream, uint32_t *layer, uint32_t *word)
{
	one_block_signals<<<1, 32, 0, stream>>>(layer, 1, word);
	return kvx_cuda_signal_ready(stream, word);
}

int kernel_after_wait(cudaStream_t stream, const uint32_t *words, uint32_t *failures)
{
	int error = kvx_cuda_wait_layer(stream, words, 0);

	if (!error)
		state_is_looked_at<<<1, 1, 0, stream>>>(words, 0, failures);
	return error;
}
