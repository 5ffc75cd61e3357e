/* SPDX-License-Identifier: Apache-2.0 */
/* A machine without a driver for GPUs, which most that build the library are. */
#include "cuda/driver.h"

#include "base/error.h"
#include "memory/kind.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <string.h>

static void need_no_driver(void)
{
	if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL))
		cr_skip_test("this machine has a CUDA driver");
}

Test(absent, the_library_says_that_there_is_no_driver)
{
	const struct kvx_cuda_device *device;

	need_no_driver();
	cr_assert_null(kvx_cuda());
	cr_assert_eq(kvx_cuda_device_count(), 0);
	cr_assert_not_null(strstr(kvx_cuda_why(), "no CUDA driver: libcuda.so.1: "), "%s",
			   kvx_cuda_why());
	cr_assert_eq(kvx_cuda_device(0, &device), KVX_E_UNSUPPORTED);
	cr_assert_not_null(strstr(kvx_error_text(), "no CUDA driver"), "%s", kvx_error_text());
}

Test(absent, no_memory_is_a_gpus)
{
	struct kvx_copier *copier;
	uint32_t number;
	char byte;

	need_no_driver();
	cr_assert_not(kvx_cuda_is_used());
	cr_assert_eq(kvx_memory_kind_of(&byte), &kvx_memory_host);
	cr_assert_eq(kvx_memory_cuda.check(&byte, 1, &number), KVX_E_UNSUPPORTED);
	cr_assert_eq(kvx_memory_cuda.open(0, &copier), KVX_E_UNSUPPORTED);
}
