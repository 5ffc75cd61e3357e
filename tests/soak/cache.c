/* SPDX-License-Identifier: Apache-2.0 */
#include "soak/cache.h"

#include "fault/pattern.h"
#include "support/chance.h"

#include <string.h>
#include <sys/mman.h>

#define HEADS 4u
#define HEAD_BYTES 128u
#define MARK 0xee

static int open_plain(struct cache *cache, struct kvx_engine *engine, size_t plane_bytes)
{
	struct kvx_tensor tensors[CACHE_LAYERS * CACHE_PLANES];
	size_t bytes = CACHE_LAYERS * CACHE_PLANES * plane_bytes;

	cache->memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (cache->memory == MAP_FAILED)
		return KVX_E_MEMORY;
	int error = kvx_region_register(engine, cache->memory, bytes, &cache->region);
	if (error)
		return error;
	for (uint32_t i = 0; i < CACHE_LAYERS * CACHE_PLANES; i++)
		tensors[i] = (struct kvx_tensor){cache->region, i * plane_bytes, 0};
	return kvx_pool_open(engine, &cache->geometry, tensors, &cache->pool);
}

int cache_open(struct cache *cache, struct kvx_engine *engine, struct cache_kind kind)
{
	uint32_t block_tokens = kind.wide ? 2 * CACHE_BLOCK_TOKENS_MIN : CACHE_BLOCK_TOKENS_MIN;
	uint32_t blocks = CACHE_TOKENS / block_tokens;
	size_t plane_bytes = (size_t)CACHE_TOKENS * HEADS * HEAD_BYTES;

	*cache = (struct cache){
		.geometry = {.layers = CACHE_LAYERS,
			     .planes = CACHE_PLANES,
			     .blocks = blocks,
			     .block_tokens = block_tokens,
			     .dtype = "bf16",
			     .layout = kind.wide ? KVX_LAYOUT_HND : KVX_LAYOUT_NHD,
			     .heads = HEADS,
			     .heads_total = HEADS,
			     .head_bytes = HEAD_BYTES},
		.free = blocks,
	};
	pthread_mutex_init(&cache->lock, NULL);
	int error = kind.plain ? open_plain(cache, engine, plane_bytes)
			       : kvx_pool_alloc(engine, &cache->geometry, &cache->pool);
	/* Resident from the start, so that what grows later is a leak. */
	for (uint32_t i = 0; !error && i < CACHE_LAYERS * CACHE_PLANES; i++)
		memset(kvx_pool_block(cache->pool, i / CACHE_PLANES, i % CACHE_PLANES, 0), MARK,
		       plane_bytes);
	return error;
}

int cache_close(struct cache *cache)
{
	int error = kvx_pool_close(cache->pool);

	if (!error)
		error = kvx_region_close(cache->region);
	return error;
}

bool cache_take(struct cache *cache, uint64_t *random, uint32_t tokens, struct cache_table *table)
{
	uint32_t block_tokens = cache->geometry.block_tokens, blocks = cache->geometry.blocks;
	uint32_t wanted = (tokens + block_tokens - 1) / block_tokens;

	pthread_mutex_lock(&cache->lock);
	bool enough = wanted <= cache->free;
	table->count = 0;
	/* Half of the requests lie in runs of blocks, the others anywhere. */
	bool runs = random_next(random) & 1;
	uint32_t block = random_between(random, 0, blocks - 1);
	while (enough && table->count < wanted) {
		if (!cache->used[block]) {
			cache->used[block] = true;
			table->blocks[table->count++] = block;
		}
		block = (block + (runs ? 1 : random_between(random, 1, 7))) % blocks;
	}
	cache->free -= table->count;
	pthread_mutex_unlock(&cache->lock);
	return enough;
}

void cache_give(struct cache *cache, const struct cache_table *table)
{
	pthread_mutex_lock(&cache->lock);
	for (uint32_t i = 0; i < table->count; i++)
		cache->used[table->blocks[i]] = false;
	cache->free += table->count;
	pthread_mutex_unlock(&cache->lock);
}

/* Of one head of one token. */
static uint64_t *words_of(struct cache *cache, const struct cache_table *table, uint32_t layer,
			  uint32_t plane, uint32_t token, uint32_t head)
{
	uint32_t block_tokens = cache->geometry.block_tokens, within = token % block_tokens;
	char *block =
		kvx_pool_block(cache->pool, layer, plane, table->blocks[token / block_tokens]);
	uint32_t index = cache->geometry.layout == KVX_LAYOUT_HND ? head * block_tokens + within
								  : within * HEADS + head;

	return (uint64_t *)(void *)(block + (size_t)index * HEAD_BYTES);
}

void cache_fill(struct cache *cache, const struct cache_table *table, uint64_t key, uint32_t tokens)
{
	for (uint32_t layer = 0; layer < CACHE_LAYERS; layer++)
		for (uint32_t plane = 0; plane < CACHE_PLANES; plane++)
			for (uint32_t i = 0; i < tokens * HEADS; i++)
				pattern_fill(
					words_of(cache, table, layer, plane, i / HEADS, i % HEADS),
					HEAD_BYTES, pattern_seed(key, layer, plane, i));
}

uint64_t cache_wrong(struct cache *cache, const struct cache_table *table, uint64_t key,
		     uint32_t tokens, uint32_t layer)
{
	uint64_t wrong = 0;

	for (uint32_t plane = 0; plane < CACHE_PLANES; plane++)
		for (uint32_t i = 0; i < tokens * HEADS; i++)
			wrong += pattern_check(
				words_of(cache, table, layer, plane, i / HEADS, i % HEADS),
				HEAD_BYTES, pattern_seed(key, layer, plane, i));
	return wrong;
}

void cache_mark(struct cache *cache, const struct cache_table *table)
{
	size_t block_bytes = (size_t)cache->geometry.block_tokens * HEADS * HEAD_BYTES;

	for (uint32_t i = 0; i < CACHE_LAYERS * CACHE_PLANES; i++)
		for (uint32_t j = 0; j < table->count; j++)
			memset(kvx_pool_block(cache->pool, i / CACHE_PLANES, i % CACHE_PLANES,
					      table->blocks[j]),
			       MARK, block_bytes);
}

uint64_t cache_changed(struct cache *cache, const struct cache_table *table)
{
	size_t block_bytes = (size_t)cache->geometry.block_tokens * HEADS * HEAD_BYTES;
	uint64_t changed = 0;

	for (uint32_t i = 0; i < CACHE_LAYERS * CACHE_PLANES; i++) {
		for (uint32_t j = 0; j < table->count; j++) {
			const uint8_t *block = kvx_pool_block(cache->pool, i / CACHE_PLANES,
							      i % CACHE_PLANES, table->blocks[j]);
			for (size_t k = 0; k < block_bytes; k++)
				changed += block[k] != MARK;
		}
	}
	return changed;
}
