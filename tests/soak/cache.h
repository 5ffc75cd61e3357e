/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer's KV cache in a soak: blocks that are taken at random and given back, and bytes that say
 * where they belong, whatever the layout. Any thread may call anything here.
 */
#ifndef SOAK_CACHE_H
#define SOAK_CACHE_H

#include <kvxfer/kvxfer.h>

#include <pthread.h>
#include <stdbool.h>

#define CACHE_LAYERS 8u
#define CACHE_PLANES 2u
#define CACHE_TOKENS 4096u
#define CACHE_BLOCK_TOKENS_MIN 16u

/* Peers of another kind have another layout and number of tokens in a block; and memory that others
 * can map, or plain one. */
struct cache_kind {
	bool wide;  /* blocks of 32 tokens, [head][token]; else of 16, [token][head] */
	bool plain; /* memory that others cannot map */
};

struct cache {
	struct kvx_geometry geometry;
	struct kvx_pool *pool;
	struct kvx_region *region; /* of plain memory; else NULL */
	void *memory;
	pthread_mutex_t lock;
	uint32_t free; /* under the lock */
	bool used[CACHE_TOKENS / CACHE_BLOCK_TOKENS_MIN];
};

/* A request's blocks. */
struct cache_table {
	uint32_t blocks[CACHE_TOKENS / CACHE_BLOCK_TOKENS_MIN];
	uint32_t count;
};

int cache_open(struct cache *cache, struct kvx_engine *engine, struct cache_kind kind);

/* All grants and streams of it are closed. */
int cache_close(struct cache *cache);

/* Blocks for so many tokens; false: there are not as many. */
bool cache_take(struct cache *cache, uint64_t *random, uint32_t tokens, struct cache_table *table);
void cache_give(struct cache *cache, const struct cache_table *table);

/* The request's values in all layers; and the bytes of a layer that are not as they must be. */
void cache_fill(struct cache *cache, const struct cache_table *table, uint64_t key,
		uint32_t tokens);
uint64_t cache_wrong(struct cache *cache, const struct cache_table *table, uint64_t key,
		     uint32_t tokens, uint32_t layer);

/* All bytes of the blocks are set to one that no request writes, and how many have changed. */
void cache_mark(struct cache *cache, const struct cache_table *table);
uint64_t cache_changed(struct cache *cache, const struct cache_table *table);

#endif
