/* SPDX-License-Identifier: Apache-2.0 */
/* A sender, a receiver, their pools, and requests between them whose every byte is known. */
#ifndef KVX_TESTS_PAIR_H
#define KVX_TESTS_PAIR_H

#include "support/drive.h"

struct pair {
	const struct way *way;
	struct drive drive;
	struct kvx_engine *sender, *receiver;
	struct kvx_geometry geometry; /* of both pools */
	struct kvx_pool *from, *to;
};

/* Engines "sender" and "receiver" with these options, pools of the geometry. */
void pair_open(struct pair *pair, const struct way *way, const struct kvx_geometry *geometry,
	       const char *const *options);

/* The same over pools that the caller makes. */
void pair_open_engines(struct pair *pair, const struct way *way, const char *const *options);
void pair_close(struct pair *pair);

/* A pool over plain memory: blocks of a plane stride_bytes apart, planes and layers one after the
 * other. The memory lives as long as the process. */
struct kvx_pool *pool_over_memory(struct kvx_engine *engine, const struct kvx_geometry *geometry,
				  uint64_t stride_bytes);

/* So many neighbouring tensors side by side within each block: all planes of a layer, as vLLM's
 * [block][K or V], or of all layers. */
struct kvx_pool *pool_interleaved(struct kvx_engine *engine, const struct kvx_geometry *geometry,
				  uint32_t together);

/* Every word of a block depends on the request, layer, plane, index in the request and offset. */
void pattern_fill(const struct kvx_pool *pool, const struct kvx_geometry *geometry,
		  uint64_t request, uint32_t layer, const uint32_t *table, uint32_t count);

/* How many words of the layer are not the request's. */
uint64_t pattern_wrong(const struct kvx_pool *pool, const struct kvx_geometry *geometry,
		       uint64_t request, uint32_t layer, const uint32_t *table, uint32_t count);

/* All layers' blocks of the table are set to a byte; and how many bytes have changed since. */
void blocks_set(const struct kvx_pool *pool, const struct kvx_geometry *geometry,
		const uint32_t *table, uint32_t count, int byte);
uint64_t blocks_changed(const struct kvx_pool *pool, const struct kvx_geometry *geometry,
			const uint32_t *table, uint32_t count, int byte);

/* One request: a grant at the receiver, a stream at the sender. */
struct request {
	struct pair *pair;
	uint64_t id;
	uint32_t count;
	uint32_t *from, *to; /* block tables */
	struct kvx_grant *grant;
	struct kvx_stream *stream;
};

enum table { TABLE_IDENTITY, TABLE_RANDOM };

/* Blocks first .. first + count - 1 of both pools, in order or shuffled, filled at the sender. */
void request_init(struct request *request, struct pair *pair, uint64_t id, uint32_t first,
		  uint32_t count, enum table kind);
void request_grant(struct request *request, uint32_t lease_ms);
void request_stream(struct request *request);

/* All of it. */
void request_open(struct request *request, struct pair *pair, uint64_t id, uint32_t first,
		  uint32_t count, enum table kind);

/* All layers are ready and come whole, at both ends, with every byte right. */
void request_run(struct request *request);

/* Units of each layer, once the sender is connected: by their size, or as many as there are rails.
 */
uint32_t request_units(const struct request *request, uint32_t by_size);

/* Waits for the receiver's layer and checks its bytes. */
void request_expect_layer(struct request *request, uint32_t layer);

void request_close(struct request *request);

/* Frees its tables: grant and stream are closed, or void because their engines are. */
void request_free(struct request *request);

/* Opens, runs and closes one: the pair works. */
void pair_expect_works(struct pair *pair, uint64_t id);

#endif
