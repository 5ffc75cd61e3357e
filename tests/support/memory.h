/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where tests have their pools: in memory of the host, or, with KVX_TEST_MEMORY=cuda, in a made-up
 * device's, which a test reaches only through what these return: the engine must not touch it.
 */
#ifndef KVX_TESTS_MEMORY_H
#define KVX_TESTS_MEMORY_H

#include <kvxfer/kvxfer.h>

#include <stdbool.h>

/* Pools and regions lie in a device's memory. */
bool memory_is_device(void);

/* As kvx_pool_alloc() and kvx_region_alloc(). A device's memory lives as long as the process. */
int pool_alloc(struct kvx_engine *engine, const struct kvx_geometry *geometry,
	       struct kvx_pool **pool);
int region_alloc(struct kvx_engine *engine, size_t bytes, struct kvx_region **region);

/* Zeroed memory of either sort, page-aligned, that is not registered yet. */
void *memory_alloc(size_t bytes);

/* Where the test may read and write what lies at an address of either sort. */
void *memory_view(const void *address);

/* As kvx_pool_block() and kvx_region_address(), through memory_view(). */
void *block_view(const struct kvx_pool *pool, uint32_t layer, uint32_t plane, uint32_t block);
void *region_view(const struct kvx_region *region);

#endif
