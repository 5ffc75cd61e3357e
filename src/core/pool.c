/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pool.h"

#include "base/error.h"
#include "core/message.h"
#include "core/region.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_geometry(const struct kvx_geometry *geometry)
{
	if (!geometry->layers || geometry->layers > KVX_LAYERS_MAX)
		return kvx_fail(KVX_E_INVALID, "pool: %u layers: must be 1 to %u", geometry->layers,
				KVX_LAYERS_MAX);
	if (!geometry->planes || geometry->planes > KVX_PLANES_MAX)
		return kvx_fail(KVX_E_INVALID, "pool: %u planes: must be 1 to %u", geometry->planes,
				KVX_PLANES_MAX);
	if (!geometry->blocks)
		return kvx_fail(KVX_E_INVALID, "pool: no blocks");
	if (!geometry->block_bytes || geometry->block_bytes % KVX_ALIGN)
		return kvx_fail(KVX_E_INVALID, "pool: blocks of %u bytes: must be a multiple of %u",
				geometry->block_bytes, KVX_ALIGN);
	if (!memchr(geometry->dtype, 0, sizeof(geometry->dtype)))
		return kvx_fail(KVX_E_INVALID, "pool: dtype is not zero-terminated");
	return 0;
}

static uint32_t tensor_count(const struct kvx_geometry *geometry)
{
	return geometry->layers * geometry->planes;
}

static int check_tensor(const struct kvx_engine *engine, const struct kvx_geometry *geometry,
			uint32_t index, const struct kvx_tensor *tensor)
{
	uint32_t layer = index / geometry->planes, plane = index % geometry->planes;
	uint64_t stride = tensor->block_stride ? tensor->block_stride : geometry->block_bytes;
	uint64_t span;

	if (!tensor->region || tensor->region->engine != engine)
		return kvx_fail(KVX_E_INVALID, "pool: layer %u plane %u: no region of this engine",
				layer, plane);
	if (stride < geometry->block_bytes || stride % KVX_ALIGN || tensor->offset % KVX_ALIGN)
		return kvx_fail(
			KVX_E_INVALID,
			"pool: layer %u plane %u: offset %llu and stride %llu must be multiples of "
			"%u, and the stride at least a block's %u bytes",
			layer, plane, (unsigned long long)tensor->offset,
			(unsigned long long)stride, KVX_ALIGN, geometry->block_bytes);
	if (__builtin_mul_overflow(stride, (uint64_t)geometry->blocks - 1, &span) ||
	    __builtin_add_overflow(span, geometry->block_bytes, &span) ||
	    __builtin_add_overflow(span, tensor->offset, &span) ||
	    span > tensor->region->memory.bytes)
		return kvx_fail(
			KVX_E_INVALID,
			"pool: layer %u plane %u: %u blocks of stride %llu from offset %llu leave "
			"their region of %zu bytes",
			layer, plane, geometry->blocks, (unsigned long long)stride,
			(unsigned long long)tensor->offset, kvx_region_bytes(tensor->region));
	return 0;
}

/* Two tensors share a byte? Equal strides may interleave (K and V side by side in each block). */
static bool tensors_overlap(const struct kvx_geometry *geometry, const struct kvx_source *a,
			    const struct kvx_source *b)
{
	if (a->base > b->base)
		return tensors_overlap(geometry, b, a);
	uint64_t apart = (uint64_t)(b->base - a->base);
	if (apart >= a->stride * (geometry->blocks - 1) + geometry->block_bytes)
		return false;
	if (a->stride != b->stride)
		return true;
	uint64_t within = apart % a->stride;
	return within < geometry->block_bytes ||
	       (within + geometry->block_bytes > a->stride && geometry->blocks > 1);
}

static int check_overlap(const struct kvx_pool *pool)
{
	const struct kvx_geometry *geometry = &pool->geometry;
	uint32_t count = tensor_count(geometry);

	for (uint32_t i = 1; i < count; i++)
		for (uint32_t j = 0; j < i; j++)
			if (pool->sources[i].memory == pool->sources[j].memory &&
			    tensors_overlap(geometry, &pool->sources[i], &pool->sources[j]))
				return kvx_fail(
					KVX_E_INVALID,
					"pool: layer %u plane %u overlaps layer %u plane %u",
					i / geometry->planes, i % geometry->planes,
					j / geometry->planes, j % geometry->planes);
	return 0;
}

static void count_regions(struct kvx_pool *pool, int change)
{
	pthread_mutex_lock(&pool->engine->lock);
	for (uint32_t i = 0; i < tensor_count(&pool->geometry); i++)
		pool->regions[i]->pools += (uint32_t)change;
	pthread_mutex_unlock(&pool->engine->lock);
}

/* The memory's place in the list; it is added where it is new. */
static uint32_t index_memory(struct kvx_pool *pool, const struct kvx_memory *memory)
{
	for (uint32_t i = pool->memory_count; i-- > 0;)
		if (pool->memories[i] == memory)
			return i;
	pool->memories[pool->memory_count] = memory;
	return pool->memory_count++;
}

static int lay(struct kvx_pool *pool, const struct kvx_tensor *tensors)
{
	const struct kvx_geometry *geometry = &pool->geometry;

	pool->packed = true;
	for (uint32_t i = 0; i < tensor_count(geometry); i++) {
		const struct kvx_tensor *tensor = &tensors[i];
		int error = check_tensor(pool->engine, geometry, i, tensor);
		if (error)
			return error;
		uint64_t stride =
			tensor->block_stride ? tensor->block_stride : geometry->block_bytes;
		pool->packed = pool->packed && stride == geometry->block_bytes;
		pool->one_sided = pool->one_sided || tensor->region->memory.dmabuf >= 0;
		pool->regions[i] = tensor->region;
		pool->sources[i] = (struct kvx_source){
			.base = tensor->region->memory.address + tensor->offset,
			.stride = stride,
			.memory = &tensor->region->memory,
		};
		pool->targets[i] = (struct kvx_target){tensor->offset, stride,
						       index_memory(pool, &tensor->region->memory)};
	}
	return check_overlap(pool);
}

int kvx_pool_open(struct kvx_engine *engine, const struct kvx_geometry *geometry,
		  const struct kvx_tensor *tensors, struct kvx_pool **pool)
{
	if (!engine || !geometry || !tensors || !pool)
		return kvx_fail(KVX_E_INVALID, "pool: NULL argument");
	int error = check_geometry(geometry);
	if (error)
		return error;
	struct kvx_pool *made = calloc(1, sizeof(*made));
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "pool: out of memory");
	made->engine = engine;
	made->geometry = *geometry;
	made->sources = calloc(tensor_count(geometry), sizeof(*made->sources));
	made->regions = calloc(tensor_count(geometry), sizeof(struct kvx_region *));
	made->granted = calloc((size_t)geometry->blocks / 64 + 1, sizeof(*made->granted));
	made->targets = calloc(tensor_count(geometry), sizeof(*made->targets));
	made->memories = calloc(tensor_count(geometry), sizeof(const struct kvx_memory *));
	if (!made->sources || !made->regions || !made->granted || !made->targets || !made->memories)
		error = kvx_fail(KVX_E_MEMORY, "pool: out of memory for %u blocks",
				 geometry->blocks);
	else
		error = lay(made, tensors);
	if (error) {
		kvx_pool_free(made);
		return error;
	}
	count_regions(made, 1);
	pthread_mutex_lock(&engine->lock);
	kvx_list_append(&engine->pools, &made->entry);
	pthread_mutex_unlock(&engine->lock);
	*pool = made;
	return 0;
}

static int pool_over(struct kvx_region *region, const struct kvx_geometry *geometry,
		     struct kvx_pool **pool)
{
	uint64_t plane_bytes = (uint64_t)geometry->blocks * geometry->block_bytes;
	struct kvx_tensor *tensors = calloc(tensor_count(geometry), sizeof(*tensors));

	if (!tensors)
		return kvx_fail(KVX_E_MEMORY, "pool: out of memory");
	for (uint32_t i = 0; i < tensor_count(geometry); i++)
		tensors[i] = (struct kvx_tensor){.region = region, .offset = i * plane_bytes};
	int error = kvx_pool_open(region->engine, geometry, tensors, pool);
	free(tensors);
	return error;
}

int kvx_pool_alloc(struct kvx_engine *engine, const struct kvx_geometry *geometry,
		   struct kvx_pool **pool)
{
	struct kvx_region *region;
	uint64_t bytes;

	if (!engine || !geometry || !pool)
		return kvx_fail(KVX_E_INVALID, "pool: NULL argument");
	int error = check_geometry(geometry);
	if (error)
		return error;
	if (__builtin_mul_overflow((uint64_t)geometry->blocks * geometry->block_bytes,
				   (uint64_t)tensor_count(geometry), &bytes))
		return kvx_fail(KVX_E_MEMORY, "pool: more bytes than an address space has");
	error = kvx_region_alloc(engine, bytes, &region);
	if (error)
		return error;
	error = pool_over(region, geometry, pool);
	if (error)
		kvx_region_close(region);
	else
		(*pool)->allocated = region;
	return error;
}

uint32_t kvx_pool_layout_run(const struct kvx_pool *pool, uint32_t first,
			     struct kvx_layout_run *run)
{
	const struct kvx_target *targets = pool->targets;
	uint32_t tensors = kvx_pool_tensors(pool), next = first + 1;

	*run = (struct kvx_layout_run){
		.memory = targets[first].memory,
		.base = targets[first].base,
		.step = next < tensors ? targets[next].base - targets[first].base : 0,
		.stride = targets[first].stride,
	};
	while (next < tensors && targets[next].memory == run->memory &&
	       targets[next].stride == run->stride &&
	       targets[next].base - targets[next - 1].base == run->step)
		next++;
	run->tensors = next - first;
	return next;
}

void *kvx_pool_block(const struct kvx_pool *pool, uint32_t layer, uint32_t plane, uint32_t block)
{
	const struct kvx_geometry *geometry = &pool->geometry;

	if (layer >= geometry->layers || plane >= geometry->planes || block >= geometry->blocks)
		return NULL;
	const struct kvx_source *source = &kvx_pool_layer(pool, layer)[plane];
	return source->base + block * source->stride;
}

int kvx_pool_close(struct kvx_pool *pool)
{
	if (!pool)
		return 0;
	struct kvx_engine *engine = pool->engine;
	pthread_mutex_lock(&engine->lock);
	uint32_t users = pool->users;
	if (!users)
		kvx_list_remove(&pool->entry);
	pthread_mutex_unlock(&engine->lock);
	if (users)
		return kvx_fail(KVX_E_BUSY,
				"pool: %u grants or streams of it are open; close them first",
				users);
	struct kvx_region *allocated = pool->allocated;
	count_regions(pool, -1);
	kvx_pool_free(pool);
	return kvx_region_close(allocated);
}

void kvx_pool_free(struct kvx_pool *pool)
{
	free(pool->granted);
	free((void *)pool->memories);
	free(pool->targets);
	free(pool->regions);
	free(pool->sources);
	free(pool);
}

void kvx_pool_use(struct kvx_pool *pool, int change)
{
	pthread_mutex_lock(&pool->engine->lock);
	pool->users += (uint32_t)change;
	pthread_mutex_unlock(&pool->engine->lock);
}

int kvx_pool_check_table(const struct kvx_pool *pool, const char *what, const uint32_t *blocks,
			 uint32_t count)
{
	if (!count || count > KVX_TABLE_MAX)
		return kvx_fail(count ? KVX_E_LIMIT : KVX_E_INVALID,
				"%s: a table of %u blocks: must be 1 to %u", what, count,
				KVX_TABLE_MAX);
	for (uint32_t i = 0; i < count; i++)
		if (blocks[i] >= pool->geometry.blocks)
			return kvx_fail(KVX_E_INVALID,
					"%s: entry %u is block %u, but the pool has blocks 0 to %u",
					what, i, blocks[i], pool->geometry.blocks - 1);
	return 0;
}

int kvx_pool_claim(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint64_t bit = UINT64_C(1) << (blocks[i] % 64);
		if (!(atomic_fetch_or(&pool->granted[blocks[i] / 64], bit) & bit))
			continue;
		uint32_t first = 0;
		while (blocks[first] != blocks[i])
			first++;
		kvx_pool_release(pool, blocks, i);
		return first < i ? kvx_fail(KVX_E_INVALID,
					    "grant: block %u is repeated, as entries %u and %u",
					    blocks[i], first, i)
				 : kvx_fail(KVX_E_INVALID,
					    "grant: block %u (entry %u) is granted already; close "
					    "that grant "
					    "first",
					    blocks[i], i);
	}
	return 0;
}

void kvx_pool_release(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		atomic_fetch_and(&pool->granted[blocks[i] / 64],
				 ~(UINT64_C(1) << (blocks[i] % 64)));
}

static void describe(const struct kvx_geometry *geometry, char *text, size_t size)
{
	snprintf(text, size, "%u layers, %u planes, blocks of %u bytes and %u tokens, dtype \"%s\"",
		 geometry->layers, geometry->planes, geometry->block_bytes, geometry->block_tokens,
		 geometry->dtype);
}

int kvx_geometry_match(const struct kvx_geometry *sender, const struct kvx_geometry *receiver)
{
	char ours[160], theirs[160];

	if (sender->layers == receiver->layers && sender->planes == receiver->planes &&
	    sender->block_bytes == receiver->block_bytes &&
	    sender->block_tokens == receiver->block_tokens &&
	    strcmp(sender->dtype, receiver->dtype) == 0)
		return 0;
	describe(sender, ours, sizeof(ours));
	describe(receiver, theirs, sizeof(theirs));
	return kvx_fail(KVX_E_GEOMETRY, "pools do not match: sender has %s; receiver has %s", ours,
			theirs);
}
