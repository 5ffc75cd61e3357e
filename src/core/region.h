/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVX_CORE_REGION_H
#define KVX_CORE_REGION_H

#include "core/engine.h"

/* Owner: whoever registered it; `users` is under the engine's lock. */
struct kvx_region {
	struct kvx_engine *engine;
	struct kvx_roster entry;
	uint64_t id;
	struct kvx_memory memory;
	uint32_t reach;        /* transports that move it; constant once it is listed */
	bool allocated;        /* the memory is ours to free */
	_Atomic bool attached; /* what is near to it is known, and constant */
	uint32_t users;        /* tensors of pools that lie over it, and tails */
	struct kvx_submission submission;
	_Atomic bool forgotten;
};

/* As kvx_region_alloc(), on a NUMA node if there is room; -1: anywhere. */
int kvx_region_alloc_near(struct kvx_engine *engine, size_t bytes, int numa,
			  struct kvx_region **region);

/* Frees a region that nothing uses, when the worker has ended or forgotten it. */
void kvx_region_free(struct kvx_region *region);

/* One more, or one fewer, that keeps it from being closed. NULL does nothing. */
void kvx_region_use(struct kvx_region *region, int change);

#endif
