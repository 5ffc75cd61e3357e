/* SPDX-License-Identifier: Apache-2.0 */
#include "core/staging.h"

#include "base/error.h"
#include "core/engine.h"
#include "core/region.h"

#include <stdlib.h>

void kvx_staging_prepare(struct kvx_engine *engine)
{
	struct kvx_staging *staging = &engine->staging;
	struct kvx_region *region;

	pthread_mutex_lock(&staging->mutex);
	if (!atomic_load_explicit(&staging->region, memory_order_relaxed)) {
		if (kvx_region_alloc(engine, engine->options.staging_bytes, &region))
			kvx_log_write(&engine->options.log, KVX_LOG_WARNING,
				      "staging: no buffers, so tiny pieces leave one by one: %s",
				      kvx_error_text());
		else
			atomic_store_explicit(&staging->region, region, memory_order_release);
	}
	pthread_mutex_unlock(&staging->mutex);
}

/* All buffers are free at first. */
static void make_chain(struct kvx_engine *engine, const struct kvx_region *region)
{
	struct kvx_staging *staging = &engine->staging;
	uint32_t count = (uint32_t)(kvx_region_bytes(region) / KVX_STAGING_BYTES);

	staging->next = calloc(count + 1, sizeof(*staging->next));
	if (!staging->next)
		return;
	staging->count = count;
	staging->free = 1;
	for (uint32_t i = 1; i < count; i++)
		staging->next[i] = i + 1;
}

const struct kvx_memory *kvx_staging_memory(const struct kvx_engine *engine)
{
	const struct kvx_region *region =
		atomic_load_explicit(&engine->staging.region, memory_order_acquire);

	return region ? &region->memory : NULL;
}

char *kvx_staging_take(struct kvx_engine *engine, uint32_t *chain)
{
	struct kvx_staging *staging = &engine->staging;
	const struct kvx_region *region =
		atomic_load_explicit(&staging->region, memory_order_acquire);

	if (!region)
		return NULL;
	if (!staging->next)
		make_chain(engine, region);
	uint32_t taken = staging->free;
	if (!taken)
		return NULL;
	staging->free = staging->next[taken];
	staging->next[taken] = *chain;
	*chain = taken;
	return region->memory.address + (uint64_t)(taken - 1) * KVX_STAGING_BYTES;
}

void kvx_staging_give(struct kvx_engine *engine, uint32_t *chain)
{
	struct kvx_staging *staging = &engine->staging;

	while (*chain) {
		uint32_t given = *chain;
		*chain = staging->next[given];
		staging->next[given] = staging->free;
		staging->free = given;
	}
}
