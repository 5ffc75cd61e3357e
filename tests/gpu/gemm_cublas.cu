/* SPDX-License-Identifier: Apache-2.0 */
#include "gemm.cuh"
#include "support.cuh"

#include <cublas_v2.h>
#include <cuda_fp16.h>

#define N 8192

#define check_cublas(call)                                                         \
	do {                                                                       \
		cublasStatus_t check_status = (call);                              \
		check_true(check_status == CUBLAS_STATUS_SUCCESS, "%s: %d", #call, \
			   (int)check_status);                                     \
	} while (0)

static cublasHandle_t handle;
static __half *left, *right, *product;

static __global__ void fill_kernel(__half *matrix)
{
	size_t at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

	matrix[at] = __float2half((float)(at % 17) / 17);
}

void gemm_open(cudaStream_t stream)
{
	check_cublas(cublasCreate(&handle));
	for (__half **matrix : {&left, &right, &product}) {
		check_cuda(cudaMalloc(matrix, sizeof(__half) * N * N));
		fill_kernel<<<N * N / 256, 256, 0, stream>>>(*matrix);
		check_cuda(cudaGetLastError());
	}
	check_cuda(cudaStreamSynchronize(stream));
}

void gemm_run(cudaStream_t stream)
{
	const float one = 1, zero = 0;

	check_cublas(cublasSetStream(handle, stream));
	check_cublas(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, N, N, N, &one, left, CUDA_R_16F,
				  N, right, CUDA_R_16F, N, &zero, product, CUDA_R_16F, N,
				  CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

const char *gemm_name()
{
	return "cuBLAS, half, 8192";
}
