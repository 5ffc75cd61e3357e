/* SPDX-License-Identifier: Apache-2.0 */
#include "gemm.cuh"
#include "support.cuh"

#define N 2048u
#define TILE 32u

static float *left, *right, *product;

static __global__ void fill_kernel(float *matrix)
{
	uint32_t at = blockIdx.x * blockDim.x + threadIdx.x;

	matrix[at] = (float)(at % 17) / 17;
}

static __global__ void multiply_kernel(const float *a, const float *b, float *c)
{
	__shared__ float tile_a[TILE][TILE], tile_b[TILE][TILE];
	uint32_t x = threadIdx.x, y = threadIdx.y;
	uint32_t row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x;
	float sum = 0;

	for (uint32_t begin = 0; begin < N; begin += TILE) {
		tile_a[y][x] = a[row * N + begin + x];
		tile_b[y][x] = b[(begin + y) * N + column];
		__syncthreads();
		for (uint32_t i = 0; i < TILE; i++)
			sum += tile_a[y][i] * tile_b[i][x];
		__syncthreads();
	}
	c[row * N + column] = sum;
}

void gemm_open(cudaStream_t stream)
{
	for (float **matrix : {&left, &right, &product}) {
		check_cuda(cudaMalloc(matrix, sizeof(float) * N * N));
		fill_kernel<<<N * N / 256, 256, 0, stream>>>(*matrix);
		check_cuda(cudaGetLastError());
	}
	check_cuda(cudaStreamSynchronize(stream));
}

void gemm_run(cudaStream_t stream)
{
	multiply_kernel<<<dim3(N / TILE, N / TILE), dim3(TILE, TILE), 0, stream>>>(left, right,
										   product);
	check_cuda(cudaGetLastError());
}

const char *gemm_name()
{
	return "own tiles, float, 2048";
}
