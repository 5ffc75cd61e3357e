/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the GPUs of tests/fake_cuda. Whatever a driver refuses here fails the test. */
#ifndef KVX_TESTS_CUDA_GPU_H
#define KVX_TESTS_CUDA_GPU_H

#include "cuda/driver.h"
#include "fake_cuda/fake_cuda.h"
#include "memory/kind.h"

#define GPU_MAPPED_BYTES (UINT64_C(2) << 20) /* of a piece of gpu_map() */

/* What the library does not load. */
#define DECLARE(name, symbol, arguments) enum kvx_cu_result symbol arguments;
KVX_CU_TEST_FUNCTIONS(DECLARE)
#undef DECLARE

#define expect_cu(call) cr_assert_eq(call, KVX_CU_SUCCESS)
#define expect_ok(call) cr_assert_eq(call, 0, "%s", kvx_error_text())
#define expect_text(part) cr_assert_not_null(strstr(kvx_error_text(), part), "%s", kvx_error_text())

char *gpu_alloc(uint32_t device, size_t bytes);
void gpu_free(uint32_t device, void *address);

/* One of several allocations that are mapped side by side. */
struct gpu_mapping {
	uint32_t device;
	bool mapped, accessible, capable; /* capable: of GPUDirect RDMA */
};

/* Reserves address space for all of them and maps those that are to be. */
char *gpu_map(const struct gpu_mapping *mappings, uint32_t count);

/* Fills memory with bytes that depend on the place and the seed, and compares it with them. Memory
 * of a device is reached through fake_cuda_view(). */
void gpu_fill(void *address, size_t bytes, uint32_t seed);
void gpu_expect(const void *address, size_t bytes, uint32_t seed);

#endif
