/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine under attack: what it owns, what of that a peer may touch, and what the target has
 * made of tickets that it gave it. Every byte that the engine lets in is checked here.
 */
#ifndef KVX_TESTS_FUZZ_SESSION_WORLD_H
#define KVX_TESTS_FUZZ_SESSION_WORLD_H

#include "core/message.h"
#include "core/ticket.h"
#include "target.h"

#define WORLD_LAYERS 2u
#define WORLD_PLANES 2u
#define WORLD_BLOCKS 8u
#define WORLD_BLOCK_BYTES 128u
#define WORLD_BLOCK_TOKENS 4u
#define WORLD_TAIL_BYTES 64u
#define WORLD_POOL_BYTES (WORLD_LAYERS * WORLD_PLANES * WORLD_BLOCKS * WORLD_BLOCK_BYTES)
#define WORLD_BYTES (WORLD_POOL_BYTES + WORLD_TAIL_BYTES) /* of a region: pool, tail */
#define WORLD_INCARNATION UINT64_C(0x57a)                 /* of the hostile peer */
#define WORLD_GRANTS 2u
#define WORLD_STREAMS 3u

/* What the first bytes of an input choose. */
struct world_choice {
	bool one_sided, heads, tail, staging;
	uint32_t senders;
	uint32_t held_blocks;
	uint32_t tokens;
};

/* A grant of the engine, and what has come of it. */
struct world_grant {
	struct kvx_grant *grant; /* NULL: closed */
	struct kvx_ticket ticket;
	bool over;                     /* revoked: no byte may land */
	uint8_t granted[WORLD_BYTES];  /* bytes that may land */
	uint8_t expected[WORLD_BYTES]; /* that must have, when all is whole */
	uint8_t landed[WORLD_BYTES];
	uint32_t arrived[WORLD_LAYERS + 1]; /* at the last look */
};

struct world {
	struct world_choice choice;
	struct kvx_engine *engine;
	struct kvx_geometry geometry;
	struct kvx_region *to_region, *from_region;
	struct kvx_pool *to, *from;
	struct world_grant grants[WORLD_GRANTS];
	struct kvx_stream *streams[WORLD_STREAMS]; /* into a grant of ours, offered, both again */
	struct kvx_ticket offer;                   /* of streams[1] */
};

extern struct world world;
extern uint8_t world_to[WORLD_BYTES], world_from[WORLD_BYTES];

void world_open(const struct world_choice *choice);

/* Closes everything; nothing but what was granted may have changed. */
void world_close(void);

void world_grant_open(uint32_t index);
void world_grant_close(uint32_t index);
void world_grant_revoke(uint32_t index);

/* index 0: into a ticket that the target made; 1: an offer. */
void world_stream_open(uint32_t index, const void *ticket, size_t size);
void world_stream_close(uint32_t index);

/* A ticket of a grant of the hostile peer for the pool of the streams; the caller frees it. */
void world_forge(uint32_t slot, uint8_t **bytes, size_t *size);

/* A ticket of an offer of the hostile peer, likewise. */
void world_forge_offer(uint8_t **bytes, size_t *size);

/* The engine gave room to bytes of a peer: it had to be granted. Fills it. Returns a bit for each
 * grant that it belongs to. */
uint32_t world_landing(uint8_t *address, size_t bytes);

/* Counters never pass their targets nor fall, and whole means whole. */
void world_look(void);

#endif
