/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue of copies of one device (memory/kind.h): a stream of its own, so that nothing that the
 * caller computes waits for it or is waited for.
 */
#ifndef KVX_CUDA_COPIER_H
#define KVX_CUDA_COPIER_H

#include "memory/kind.h"

/* How many calls of copy() went which way. */
struct kvx_cuda_ways {
	uint64_t single;   /* one piece: a copy */
	uint64_t batched;  /* several: one batch, given to the copy engines at once */
	uint64_t gathered; /* many tiny ones: a kernel */
	uint64_t looped;   /* several, where neither is to be had: a copy each */
};

/* The operations of memory/kind.h. */
int kvx_cuda_copier_open(uint32_t device, struct kvx_copier **copier);
void kvx_cuda_copier_close(struct kvx_copier *copier);
int kvx_cuda_copier_pin(struct kvx_copier *copier, void *address, size_t bytes);
void kvx_cuda_copier_unpin(struct kvx_copier *copier, void *address);
int kvx_cuda_copier_copy(struct kvx_copier *copier, const struct kvx_copy *copies, uint32_t count,
			 uint64_t *number);
int kvx_cuda_copier_copied(struct kvx_copier *copier, uint64_t *number);

/* The worker. */
const struct kvx_cuda_ways *kvx_cuda_copier_ways(const struct kvx_copier *copier);

#endif
