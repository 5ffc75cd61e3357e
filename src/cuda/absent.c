/* SPDX-License-Identifier: Apache-2.0 */
/* In place of CUDA, in a build that has none: no memory is a GPU's. */
#include "base/error.h"
#include "memory/kind.h"

static bool cuda_owns(const void *address)
{
	(void)address;
	return false;
}

static int cuda_available(void)
{
	return kvx_fail(KVX_E_UNSUPPORTED,
			"this build has no CUDA; configure it with -Dcuda=enabled");
}

static int cuda_count(uint32_t *count)
{
	*count = 0;
	return cuda_available();
}

const struct kvx_memory_kind kvx_memory_cuda = {
	.name = "cuda",
	.owns = cuda_owns,
	.count = cuda_count,
	.available = cuda_available,
};
