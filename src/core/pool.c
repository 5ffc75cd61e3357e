/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pool.h"

#include "base/error.h"
#include "core/message.h"
#include "core/region.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t kvx_pool_block_bytes(const struct kvx_pool *pool, uint32_t tensor)
{
	return pool->shape.plane[tensor % pool->shape.planes].block_bytes;
}

static int check_tensor(const struct kvx_pool *pool, uint32_t index,
			const struct kvx_tensor *tensor)
{
	uint32_t layer = index / pool->shape.planes, plane = index % pool->shape.planes;
	uint32_t bytes = kvx_pool_block_bytes(pool, index), blocks = pool->geometry.blocks;
	uint64_t stride = tensor->block_stride ? tensor->block_stride : bytes;
	uint64_t span;

	if (stride < bytes || stride % KVX_ALIGN || tensor->offset % KVX_ALIGN)
		return kvx_fail(
			KVX_E_INVALID,
			"pool: layer %u plane %u: offset %llu and stride %llu must be multiples of "
			"%u, and the stride at least a block's %u bytes",
			layer, plane, (unsigned long long)tensor->offset,
			(unsigned long long)stride, KVX_ALIGN, bytes);
	if (__builtin_mul_overflow(stride, (uint64_t)blocks - 1, &span) ||
	    __builtin_add_overflow(span, bytes, &span) ||
	    __builtin_add_overflow(span, tensor->offset, &span) ||
	    span > tensor->region->memory.bytes)
		return kvx_fail(
			KVX_E_INVALID,
			"pool: layer %u plane %u: %u blocks of stride %llu from offset %llu leave "
			"their region of %zu bytes",
			layer, plane, blocks, (unsigned long long)stride,
			(unsigned long long)tensor->offset, kvx_region_bytes(tensor->region));
	return 0;
}

/* Two tensors share a byte? Equal strides may interleave (K and V side by side in each block). */
static bool tensors_overlap(const struct kvx_pool *pool, uint32_t first, uint32_t second)
{
	const struct kvx_source *a = &pool->sources[first], *b = &pool->sources[second];
	uint32_t blocks = pool->geometry.blocks, bytes = kvx_pool_block_bytes(pool, first);

	if (a->base > b->base)
		return tensors_overlap(pool, second, first);
	uint64_t apart = (uint64_t)(b->base - a->base);
	if (apart >= a->stride * (blocks - 1) + bytes)
		return false;
	if (a->stride != b->stride)
		return true;
	uint64_t within = apart % a->stride;
	return within < bytes ||
	       (within + kvx_pool_block_bytes(pool, second) > a->stride && blocks > 1);
}

static int check_overlap(const struct kvx_pool *pool)
{
	uint32_t count = kvx_pool_tensors(pool), planes = pool->shape.planes;

	for (uint32_t i = 1; i < count; i++)
		for (uint32_t j = 0; j < i; j++)
			if (pool->sources[i].memory == pool->sources[j].memory &&
			    tensors_overlap(pool, i, j))
				return kvx_fail(
					KVX_E_INVALID,
					"pool: layer %u plane %u overlaps layer %u plane %u",
					i / planes, i % planes, j / planes, j % planes);
	return 0;
}

static void count_regions(struct kvx_pool *pool, int change)
{
	pthread_mutex_lock(&pool->engine->lock);
	for (uint32_t i = 0; i < kvx_pool_tensors(pool); i++)
		pool->regions[i]->users += (uint32_t)change;
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

/* Bytes from plane to plane of a layer's blocks if these hold all planes side by side, or 0. */
static uint64_t planes_apart(const struct kvx_pool *pool, uint32_t layer)
{
	const struct kvx_source *sources = kvx_pool_layer(pool, layer);
	uint32_t planes = pool->geometry.planes;

	if (planes < 2 || sources[1].base <= sources[0].base)
		return 0;
	uint64_t apart = (uint64_t)(sources[1].base - sources[0].base);
	for (uint32_t i = 1; i < planes; i++)
		if (sources[i].memory != sources[0].memory ||
		    sources[i].stride != sources[0].stride ||
		    sources[i].base != sources[i - 1].base + apart)
			return 0;
	return apart <= sources[0].stride / planes ? apart : 0;
}

/* Finds out whether planes lie side by side, or checks it. */
static int find_plane_stride(struct kvx_pool *pool)
{
	uint32_t given = pool->geometry.plane_stride;
	uint64_t found = planes_apart(pool, 0);

	for (uint32_t layer = 1; layer < pool->shape.layers; layer++)
		if (planes_apart(pool, layer) != found)
			found = 0;
	if (given && given != found)
		return kvx_fail(KVX_E_INVALID,
				"pool: plane_stride %u, but its tensors' blocks do not all hold "
				"their planes side by side and so far apart; leave it 0",
				given);
	if (found <= UINT32_MAX / pool->geometry.planes)
		pool->geometry.plane_stride = (uint32_t)found;
	kvx_shape_of(&pool->geometry, &pool->shape);
	return 0;
}

static int lay(struct kvx_pool *pool, const struct kvx_tensor *tensors)
{
	const struct kvx_memory *first = NULL;

	pool->reach = KVX_REACH_ALL;
	for (uint32_t i = 0; i < kvx_pool_tensors(pool); i++) {
		const struct kvx_tensor *tensor = &tensors[i];
		if (!tensor->region || tensor->region->engine != pool->engine)
			return kvx_fail(KVX_E_INVALID,
					"pool: layer %u plane %u: no region of this engine",
					i / pool->shape.planes, i % pool->shape.planes);
		int error = check_tensor(pool, i, tensor);
		if (error)
			return error;
		const struct kvx_memory *memory = &tensor->region->memory;
		uint64_t stride =
			tensor->block_stride ? tensor->block_stride : kvx_pool_block_bytes(pool, i);
		if (!first)
			first = memory;
		if (memory->kind != first->kind || memory->device != first->device)
			return kvx_fail(KVX_E_INVALID,
					"pool: layer %u plane %u lies in other memory than the "
					"first: all must be the CPU's, or all one device's",
					i / pool->shape.planes, i % pool->shape.planes);
		pool->reach &= tensor->region->reach;
		pool->regions[i] = tensor->region;
		pool->sources[i] = (struct kvx_source){
			.base = memory->address + tensor->offset,
			.stride = stride,
			.memory = memory,
		};
		pool->targets[i] =
			(struct kvx_target){tensor->offset, stride, index_memory(pool, memory)};
	}
	int error = check_overlap(pool);
	return error ? error : find_plane_stride(pool);
}

int kvx_pool_open(struct kvx_engine *engine, const struct kvx_geometry *geometry,
		  const struct kvx_tensor *tensors, struct kvx_pool **pool)
{
	if (!engine || !geometry || !tensors || !pool)
		return kvx_fail(KVX_E_INVALID, "pool: NULL argument");
	struct kvx_geometry complete;
	int error = kvx_geometry_complete(geometry, &complete);
	if (error)
		return error;
	struct kvx_pool *made = calloc(1, sizeof(*made));
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "pool: out of memory");
	made->engine = engine;
	made->geometry = complete;
	kvx_shape_of(&complete, &made->shape);
	uint32_t tensor_count = kvx_pool_tensors(made);
	made->sources = calloc(tensor_count, sizeof(*made->sources));
	made->regions = calloc(tensor_count, sizeof(struct kvx_region *));
	made->granted = calloc((size_t)geometry->blocks / 64 + 1, sizeof(*made->granted));
	made->targets = calloc(tensor_count, sizeof(*made->targets));
	made->memories = calloc(tensor_count, sizeof(const struct kvx_memory *));
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
	kvx_engine_enlist(engine, &engine->pools, &made->entry, &made->id);
	*pool = made;
	return 0;
}

/* Lays out a packed pool. Returns its size in bytes, or 0: more than an address space has. */
static uint64_t pack(const struct kvx_geometry *geometry, const struct kvx_shape *shape,
		     struct kvx_tensor *tensors)
{
	uint64_t end = 0;

	/* 511 layers of 8 planes of 2^32 blocks of 2^32 bytes do not fit; fewer may not either. */
	for (uint32_t i = 0; i < shape->layers * shape->planes; i++) {
		uint32_t plane = i % shape->planes, beside = plane < shape->abreast ? plane : 0;
		uint64_t stride = plane < shape->abreast
					  ? (uint64_t)shape->abreast * shape->plane_stride
					  : shape->plane[plane].block_bytes;
		tensors[i].block_stride = stride;
		tensors[i].offset = beside ? tensors[i - 1].offset + shape->plane_stride : end;
		if (!beside && __builtin_add_overflow(end, geometry->blocks * stride, &end))
			return 0;
	}
	return end;
}

static int pool_over(struct kvx_region *region, const struct kvx_geometry *geometry,
		     struct kvx_tensor *tensors, uint32_t count, struct kvx_pool **pool)
{
	for (uint32_t i = 0; i < count; i++)
		tensors[i].region = region;
	return kvx_pool_open(region->engine, geometry, tensors, pool);
}

int kvx_pool_alloc(struct kvx_engine *engine, const struct kvx_geometry *geometry,
		   struct kvx_pool **pool)
{
	struct kvx_geometry complete;
	struct kvx_shape shape;
	struct kvx_region *region;

	if (!engine || !geometry || !pool)
		return kvx_fail(KVX_E_INVALID, "pool: NULL argument");
	int error = kvx_geometry_complete(geometry, &complete);
	if (error)
		return error;
	kvx_shape_of(&complete, &shape);
	uint32_t count = shape.layers * shape.planes;
	struct kvx_tensor *tensors = calloc(count, sizeof(*tensors));
	if (!tensors)
		return kvx_fail(KVX_E_MEMORY, "pool: out of memory");
	uint64_t bytes = pack(&complete, &shape, tensors);
	error = bytes ? kvx_region_alloc(engine, bytes, &region)
		      : kvx_fail(KVX_E_MEMORY, "pool: more bytes than an address space has");
	if (!error) {
		error = pool_over(region, geometry, tensors, count, pool);
		if (error)
			kvx_region_close(region);
		else
			(*pool)->allocated = region;
	}
	free(tensors);
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
	if (layer >= pool->shape.layers || plane >= pool->shape.planes ||
	    block >= pool->geometry.blocks)
		return NULL;
	const struct kvx_source *source = &kvx_pool_layer(pool, layer)[plane];
	return source->base + block * source->stride;
}

int kvx_pool_close(struct kvx_pool *pool)
{
	if (!pool)
		return 0;
	struct kvx_engine *engine = pool->engine;
	uint32_t users = kvx_engine_delist_unused(engine, &pool->entry, &pool->users);
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

int kvx_pool_check_tail(const struct kvx_pool *pool, const char *what, const struct kvx_tail *tail)
{
	if (!tail->bytes)
		return 0;
	if (!tail->region || tail->region->engine != pool->engine)
		return kvx_fail(KVX_E_INVALID, "%s: the tail lies in no region of this engine",
				what);
	if (tail->bytes > KVX_TAIL_MAX || tail->bytes % KVX_ALIGN || tail->offset % KVX_ALIGN ||
	    tail->bytes > tail->region->memory.bytes ||
	    tail->offset > tail->region->memory.bytes - tail->bytes)
		return kvx_fail(KVX_E_INVALID,
				"%s: a tail of %u bytes at offset %llu: must be multiples of %u, "
				"at most %u bytes and within its region of %zu bytes",
				what, tail->bytes, (unsigned long long)tail->offset, KVX_ALIGN,
				KVX_TAIL_MAX, kvx_region_bytes(tail->region));
	if (kvx_pool_reach(pool, tail))
		return 0;
	return kvx_fail(KVX_E_INVALID,
			"%s: what moves the pool's memory does not move the tail's; let both lie "
			"in memory of this CPU, or both in one device's",
			what);
}

int kvx_pool_check_device(const struct kvx_pool *pool, const char *what)
{
	const struct kvx_device *device = pool->memories[0]->device;

	if (!device || !atomic_load_explicit(&device->failed, memory_order_acquire))
		return 0;
	return kvx_fail(KVX_E_TRANSPORT, "%s: %s %u has failed: %s", what, device->kind->name,
			device->number, device->why);
}

int kvx_pool_check_table(const struct kvx_pool *pool, const char *what, const uint32_t *blocks,
			 uint32_t count)
{
	if (!count || count > KVX_TABLE_MAX)
		return kvx_fail(count ? KVX_E_LIMIT : KVX_E_INVALID,
				"%s: a table of %u blocks: must be 1 to %u", what, count,
				KVX_TABLE_MAX);
	int error = kvx_pool_check_device(pool, what);
	if (error)
		return error;
	for (uint32_t i = 0; i < count; i++)
		if (blocks[i] >= pool->geometry.blocks)
			return kvx_fail(KVX_E_INVALID,
					"%s: entry %u is block %u, but the pool has blocks 0 to %u",
					what, i, blocks[i], pool->geometry.blocks - 1);
	return 0;
}

int kvx_pool_claim(struct kvx_pool *pool, const uint32_t *blocks, uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < count; i++) {
		uint64_t bit = UINT64_C(1) << (blocks[i] % 64);
		if (!(atomic_fetch_or(&pool->granted[blocks[i] / 64], bit) & bit))
			continue;
		uint32_t before = first;
		while (blocks[before] != blocks[i])
			before++;
		kvx_pool_disclaim(pool, blocks, first, i);
		return before < i ? kvx_fail(KVX_E_INVALID,
					     "grant: block %u is repeated, as entries %u and %u",
					     blocks[i], before, i)
				  : kvx_fail(KVX_E_INVALID,
					     "grant: block %u (entry %u) is granted already; close "
					     "that grant "
					     "first",
					     blocks[i], i);
	}
	return 0;
}

void kvx_pool_disclaim(struct kvx_pool *pool, const uint32_t *blocks, uint32_t first,
		       uint32_t count)
{
	for (uint32_t i = first; i < count; i++)
		atomic_fetch_and(&pool->granted[blocks[i] / 64],
				 ~(UINT64_C(1) << (blocks[i] % 64)));
}
