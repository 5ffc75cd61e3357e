/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranks of a prefill, each an engine of its own, that feed one rank of a decode: one request
 * between their pools, whose every byte is known by the naive account of support/geometry.h.
 */
#ifndef KVX_TESTS_RANKS_H
#define KVX_TESTS_RANKS_H

#include "support/drive.h"
#include "support/geometry.h"

#define RANKS_MAX 8u
#define RANKS_TAIL_BYTES 4096u

/* A rank's engine and pool, and memory for a tail. */
struct rank {
	struct kvx_engine *engine;
	struct drawn_pool drawn;
	struct kvx_pool *pool;
	struct kvx_region *tail; /* of RANKS_TAIL_BYTES */
};

struct ranks {
	const struct way *way;
	struct drive drive;
	uint32_t count; /* of prefill */
	struct rank decode, prefill[RANKS_MAX];
	uint32_t tokens, held_blocks; /* of the request */
	char *before;                 /* decode's memory, as it was when the grant opened */
	struct kvx_grant *grant;
	struct kvx_stream *streams[RANKS_MAX];
};

/* Of 8 heads of 64 bytes, in 4 layers of 2 planes. */
struct kvx_geometry rank_geometry(enum kvx_layout layout, uint32_t block_tokens, uint32_t head,
				  uint32_t heads);

/* Engines "decode" and "prefill-0" .., and pools for a request of so many tokens. */
void ranks_open(struct ranks *ranks, const struct way *way, const char *const *options,
		const struct kvx_geometry *decode, const struct kvx_geometry *prefill,
		uint32_t count, uint32_t tokens);

/* Four ranks of two heads each, in NHD, to one of all heads, in HND. */
void ranks_open_four(struct ranks *ranks, const struct way *way, const char *const *options,
		     uint32_t tokens);
void ranks_close(struct ranks *ranks);

/* One more rank of prefill; or another in place of one that ranks_lose() took away. */
void rank_open(struct ranks *ranks, uint32_t index, const char *const *options,
	       const struct kvx_geometry *geometry);
void ranks_lose(struct ranks *ranks, uint32_t index);

/* A grant for the request, for as many senders as there are ranks; special: NULL, or what else it
 * has. The stream of a rank, with or without options. */
void ranks_grant(struct ranks *ranks, const struct kvx_grant_options *special, uint32_t lease_ms);
int ranks_try_stream(struct ranks *ranks, uint32_t index, const struct kvx_stream_options *special,
		     struct kvx_stream **stream);
void ranks_stream(struct ranks *ranks, uint32_t index, const struct kvx_stream_options *special);
void ranks_stream_all(struct ranks *ranks);

/* The mirror image: the rank offers all blocks of its table, and decode pulls them for the grant.
 */
void ranks_offer(struct ranks *ranks, uint32_t index, const struct kvx_stream_options *special);
int ranks_try_pull(struct ranks *ranks, uint32_t index);
void ranks_pull(struct ranks *ranks, uint32_t index);

/* All ranks have computed these tokens. What is not computed is noise. */
void ranks_compute(struct ranks *ranks, uint32_t first, uint32_t end);

/* How many bytes of decode's memory are not as they must be when the request's first `tokens`
 * tokens have landed in these layers, and nothing else has in them. */
uint64_t ranks_wrong(const struct ranks *ranks, uint32_t layer, uint32_t layers, uint32_t tokens);

/* A rank tells that layers are ready. */
void ranks_ready(struct ranks *ranks, uint32_t index, uint32_t layer, uint32_t layers);

/* Waits until so many senders have come, so that the next is the last whatever the machine does. */
void ranks_await_came(struct ranks *ranks, uint32_t senders);

/* All ranks have come, and decode knows what is to arrive. */
void ranks_await_targets(struct ranks *ranks);

/* The rest is ready, and comes whole at all ends. */
void ranks_finish(struct ranks *ranks);

/* Grant and streams are closed. */
void ranks_end(struct ranks *ranks);

/* Another request of all ranks runs from begin to end. */
void ranks_expect_works(struct ranks *ranks);

/* Units that have arrived of a layer (or KVX_TAIL), and the target. */
uint32_t ranks_arrived(const struct ranks *ranks, uint32_t layer);
uint32_t ranks_target(const struct ranks *ranks, uint32_t layer);

#endif
