/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of GPUs between processes: the operations of memory/kind.h. */
#ifndef KVX_CUDA_SHARE_H
#define KVX_CUDA_SHARE_H

#include "memory/kind.h"

int kvx_cuda_available(void);
int kvx_cuda_share(const void *address, size_t bytes, uint8_t handle[KVX_HANDLE_BYTES],
		   uint64_t *offset);
int kvx_cuda_reach(uint32_t device, const uint8_t handle[KVX_HANDLE_BYTES], uint64_t bytes,
		   char **base);
void kvx_cuda_leave_shared(uint32_t device, char *base);

#endif
