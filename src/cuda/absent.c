/* SPDX-License-Identifier: Apache-2.0 */
/* In place of CUDA, in a build that has none: no memory is a GPU's. */
#include "memory/kind.h"

static bool cuda_owns(const void *address)
{
	(void)address;
	return false;
}

const struct kvx_memory_kind kvx_memory_cuda = {
	.name = "cuda",
	.owns = cuda_owns,
};
