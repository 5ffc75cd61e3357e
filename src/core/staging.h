/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffers that tiny pieces of a layer are gathered in, so that few large slices leave. A buffer is
 * a layer's until that layer is delivered: transports read it until then. When none is free, pieces
 * leave one by one.
 */
#ifndef KVX_CORE_STAGING_H
#define KVX_CORE_STAGING_H

#include "plan/cost.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct kvx_engine;
struct kvx_memory;

struct kvx_staging {
	pthread_mutex_t mutex; /* of those who make the region; the worker never takes it */
	_Atomic(struct kvx_region *) region;

	/* The worker's. Buffers are numbered from 1; each names the next of its chain, or 0. */
	uint32_t *next;
	uint32_t count, free;
};

/* Not the worker: makes the buffers, at the first call. Without memory there are none. */
void kvx_staging_prepare(struct kvx_engine *engine);

/* The worker: a buffer, put before those of the chain. NULL: none is free. */
char *kvx_staging_take(struct kvx_engine *engine, uint32_t *chain);

/* The memory of all buffers, once there are any; NULL: none. */
const struct kvx_memory *kvx_staging_memory(const struct kvx_engine *engine);

/* Gives a chain back. */
void kvx_staging_give(struct kvx_engine *engine, uint32_t *chain);

#endif
