/* SPDX-License-Identifier: Apache-2.0 */
/* A matrix product that keeps a device's compute units busy: cuBLAS's where the toolkit has it
 * (gemm_cublas.cu), else one of our own (gemm_tiled.cu). */
#ifndef GPU_GEMM_CUH
#define GPU_GEMM_CUH

#include <cuda_runtime.h>

/* Matrices on the current device. */
void gemm_open(cudaStream_t stream);
void gemm_run(cudaStream_t stream);

/* What it is, for who reads the figures. */
const char *gemm_name();

#endif
