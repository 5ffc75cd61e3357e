/* SPDX-License-Identifier: Apache-2.0 */
/* Host memory that other processes of this host can map, read-only. */
#ifndef KVX_MEMORY_MEMORY_H
#define KVX_MEMORY_MEMORY_H

#include "base/slice.h"

/* numa: a node to take it from if there is room, or -1. Sets address, bytes (as asked for), fd and
 * dmabuf; leaves index alone. Zeroed, aligned to 2 MiB.
 * The file can neither change its size nor be made writable by whoever gets the descriptor. Fails
 * with KVX_E_MEMORY or KVX_E_SYSTEM; the text names the limit. */
int kvx_memory_alloc(struct kvx_memory *memory, uint64_t bytes, int numa);
void kvx_memory_free(struct kvx_memory *memory);

#endif
