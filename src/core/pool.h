/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVX_CORE_POOL_H
#define KVX_CORE_POOL_H

#include "core/engine.h"
#include "core/region.h"
#include "plan/plan.h"

/* Constant after it opened, but for what is under the engine's lock or atomic. */
struct kvx_pool {
	struct kvx_engine *engine;
	struct kvx_roster entry;
	uint64_t id;
	struct kvx_geometry geometry; /* complete */
	struct kvx_shape shape;
	struct kvx_source *sources;         /* [layer][plane] */
	struct kvx_region **regions;        /* [layer][plane] */
	struct kvx_target *targets;         /* [layer][plane]: how peers name the same places */
	const struct kvx_memory **memories; /* that the targets are in, each once */
	uint32_t memory_count;
	struct kvx_region *allocated; /* closed with the pool, or NULL */
	uint32_t reach;               /* transports that move all its memory */
	uint32_t users;               /* open grants and streams; under the engine's lock */
	_Atomic uint64_t *granted;    /* a bit for each block that an open grant holds */
};

static inline const struct kvx_source *kvx_pool_layer(const struct kvx_pool *pool, uint32_t layer)
{
	return pool->sources + (size_t)layer * pool->shape.planes;
}

/* The CPU may read and write it. */
static inline bool kvx_pool_is_touchable(const struct kvx_pool *pool)
{
	return pool->memories[0]->touchable;
}

static inline uint32_t kvx_pool_tensors(const struct kvx_pool *pool)
{
	return pool->shape.layers * pool->shape.planes;
}

/* The longest run of tensors from `first` on that lie alike. Returns the tensor after it. */
struct kvx_layout_run;
uint32_t kvx_pool_layout_run(const struct kvx_pool *pool, uint32_t first,
			     struct kvx_layout_run *run);

/* Of a block in the tensor of that number: [layer][plane]. */
uint32_t kvx_pool_block_bytes(const struct kvx_pool *pool, uint32_t tensor);

/* The tail that a grant or stream is opened with. */
int kvx_pool_check_tail(const struct kvx_pool *pool, const char *what, const struct kvx_tail *tail);

/* Transports that move it and a tail. */
static inline uint32_t kvx_pool_reach(const struct kvx_pool *pool, const struct kvx_tail *tail)
{
	return tail->bytes ? pool->reach & tail->region->reach : pool->reach;
}

/* KVX_E_TRANSPORT: the device that copies its memory has failed. */
int kvx_pool_check_device(const struct kvx_pool *pool, const char *what);

/* Checks a table: not empty, not too long, every block in range. */
int kvx_pool_check_table(const struct kvx_pool *pool, const char *what, const uint32_t *blocks,
			 uint32_t count);

/* Marks blocks[first..count) as granted; fails, marking none, if one is repeated or granted
 * already. */
int kvx_pool_claim(struct kvx_pool *pool, const uint32_t *blocks, uint32_t first, uint32_t count);
void kvx_pool_disclaim(struct kvx_pool *pool, const uint32_t *blocks, uint32_t first,
		       uint32_t count);

/* One more, or one fewer, that keeps the pool from being closed. */
void kvx_pool_use(struct kvx_pool *pool, int change);

void kvx_pool_free(struct kvx_pool *pool);

#endif
