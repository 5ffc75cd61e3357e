/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The payload: each byte depends on where it belongs, so that a byte that is lost, stale or at
 * another place is found. Looks random, so that nothing on the way can compress it.
 */
#ifndef KVX_BENCH_PATTERN_H
#define KVX_BENCH_PATTERN_H

#include <stddef.h>
#include <stdint.h>

/* Where a block belongs. block: its index in the request, not in a pool. */
struct kvx_pattern_place {
	uint64_t seed;
	uint64_t request;
	uint32_t layer;
	uint32_t plane;
	uint32_t block;
};

/* The key of a block's bytes. */
uint64_t kvx_pattern_key(const struct kvx_pattern_place *place);

/* The byte at an offset of the block with that key. */
uint8_t kvx_pattern_byte(uint64_t key, size_t offset);

/* Fills a block of `size` bytes. */
void kvx_pattern_fill(uint64_t key, void *bytes, size_t size);

/* Returns how many bytes are wrong; if any, *first receives the offset of the first. */
size_t kvx_pattern_verify(uint64_t key, const void *bytes, size_t size, size_t *first);

#endif
