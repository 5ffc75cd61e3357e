/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools of a made-up model, drawn at random, and a naive account of what a request must move
 * between them. Nothing here asks the library where a byte lies: each address is worked out from
 * the geometry's description alone, byte by byte.
 *
 * Every word of a cache has a value of its own, a function of the model's layer, the plane, the
 * request's token, the model's head and the word's place in that head. So the receiver can be
 * checked without knowing who sent what.
 */
#ifndef KVX_TESTS_GEOMETRY_H
#define KVX_TESTS_GEOMETRY_H

#include <kvxfer/kvxfer.h>

#include <stdbool.h>

#define DRAWN_SENDERS_MAX 8u
#define DRAWN_LAYERS_MAX 6u
#define DRAWN_TENSORS_MAX (DRAWN_LAYERS_MAX * KVX_PLANES_MAX)

/* A pool in memory of its own, with guard bytes before, between and after its blocks. */
struct drawn_pool {
	struct kvx_geometry geometry; /* as a caller gives it: with fields left 0 */
	uint32_t plane_stride;        /* of planes side by side; 0: they are not */
	struct {
		uint64_t offset, stride; /* of the blocks, in memory */
	} tensors[DRAWN_TENSORS_MAX];    /* plane fastest */
	char *memory;
	uint64_t bytes;
	uint32_t *table; /* the request's blocks, count of them; then all others */
	uint32_t count;
};

struct drawn_request {
	struct drawn_pool receiver, senders[DRAWN_SENDERS_MAX];
	uint32_t sender_count;
	uint32_t tokens;      /* of the request */
	uint32_t held_blocks; /* of the receiver */
};

/* A request between pools that match, whose senders hold together what the receiver lacks. All
 * memory is noise. The request is freed with drawn_free(). */
void drawn_request(struct drawn_request *request, uint64_t *random);
void drawn_free(struct drawn_request *request);

/* Lays out a pool for a request of so many tokens: what its geometry says, in noise. */
void drawn_pool(struct drawn_pool *pool, const struct kvx_geometry *geometry, uint32_t tokens,
		uint64_t *random);
void drawn_pool_free(struct drawn_pool *pool);

/* Tokens first .. end - 1 of the request are computed: their values are written into the pool. */
void drawn_compute(const struct drawn_pool *pool, uint32_t first, uint32_t end);

/* The receiver's memory as it must be when the request is through; freed by the caller. *bytes
 * receives how many of it move. */
char *drawn_expected(const struct drawn_request *request, uint64_t *bytes);

/* Prints the geometries and the request, for whoever has to find out what failed. */
void drawn_print(const struct drawn_request *request);

#endif
