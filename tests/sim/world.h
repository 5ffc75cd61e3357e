/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes, what their memory holds, what applications do on them, and whose turn it is. */
#ifndef KVX_TESTS_SIM_WORLD_H
#define KVX_TESTS_SIM_WORLD_H

#include "net.h"

#include <kvxfer/operate.h>

#define BLOCKS_MAX 20u
#define LAYERS_MAX 5u
#define TAILS_MAX 6u
#define REQUESTS_MAX 12u /* at once */
#define SENDERS_MAX 3u
#define GRAVES_MAX 8u
#define CONNECT_MS 1000
#define DRAIN_MS 40

/* ------------------------------------------------------------------------------ memory.c */

/* The words of a block, or of a tail. */
enum content {
	SCRIBBLED, /* the application's own, which nobody else may change */
	WHOLE,     /* a request's */
	BETWEEN,   /* each word one or the other */
};

struct block {
	bool busy;      /* a grant or a stream has it */
	bool untouched; /* nobody writes it, so it has to stay as it was scribbled */
	uint32_t epoch; /* of what was scribbled there */
};

/* What a node's pool is laid over. */
struct store {
	uint32_t node;
	uint8_t *memory;
	uint32_t bytes;
	struct kvx_geometry geometry;
	uint32_t block_tokens, heads, head_first, head_bytes; /* blocks that move whole have one */
	uint32_t block_bytes, stride;                         /* from block to block */
	uint32_t step;                                        /* from tensor to tensor */
	struct block blocks[BLOCKS_MAX];
	struct block tails[TAILS_MAX];
	uint32_t epoch;
	struct kvx_region *region;
	struct kvx_pool *pool;
};

/* Which part of a request a block holds. */
struct part {
	uint64_t request;
	uint32_t ordinal;                /* in the request's table */
	uint32_t token_first, token_end; /* of the request */
};

#define TAIL_BYTES 64u

void store_shape(void); /* of a seed: what all nodes' pools have in common */
void store_open(struct store *store, uint32_t node, struct kvx_engine *engine);
void store_close(struct store *store);  /* the pool and the region, which nobody may use */
void store_vanish(struct store *store); /* after its engine */
bool store_covers(const struct store *from, const struct store *to);
uint32_t store_blocks(const struct store *store, uint32_t tokens);

/* Takes free blocks, which have to be as they were scribbled. False: there are not as many. */
bool store_take(struct store *store, uint32_t count, uint32_t *blocks);
void store_give(struct store *store, const uint32_t *blocks, uint32_t count);
bool store_take_tail(struct store *store, uint32_t *tail);
void store_give_tail(struct store *store, uint32_t tail);
struct kvx_tail store_tail(const struct store *store, uint32_t tail);

void store_scribble(struct store *store, uint32_t block);
void store_scribble_tail(struct store *store, uint32_t tail);
void store_check(const struct store *store, uint32_t block, uint32_t layer, enum content content,
		 const struct part *part, const char *what);
void store_check_tail(const struct store *store, uint32_t tail, enum content content,
		      uint64_t request, const char *what);
void store_check_some(const struct store *store); /* an untouched block, by chance */
void store_check_all(const struct store *store);

/* What a sender computes; and what it overwrites with something else. */
void store_fill(struct store *store, uint32_t block, uint32_t layer, const struct part *part);
void store_fill_tail(struct store *store, uint32_t tail, uint64_t request);
void store_spoil(struct store *store, uint32_t block, uint32_t layer);

/* ----------------------------------------------------------------------------- world.c */

struct node {
	uint32_t index;
	struct kvx_engine *engine; /* NULL: dead */
	uint64_t incarnation;
	uint32_t heartbeat_ms;
	int64_t wake_ns, stalled_until_ns;
	int64_t restart_ns; /* NEVER: not dead, or for good */
	bool drains;
	struct store store;
	uint64_t units; /* counted in grants that are closed */
	uint64_t grants, grants_complete;
};

/* An engine that is gone. */
struct grave {
	uint64_t incarnation;
	int64_t lost_ns; /* all have noticed by then */
};

struct world {
	uint32_t node_count;
	struct node nodes[NODES_MAX];
	int64_t jitter_ns;
	uint32_t heartbeat_max_ms;
	uint32_t faults;                 /* a bit for each kind that happens in this seed */
	uint32_t light_left, heavy_left; /* faults that may still happen */
	int64_t fault_every_ns, app_every_ns;
	int64_t app_pause_ns; /* grows while applications have nothing to do */
	int64_t fault_ns, app_ns;
	int64_t disturbed_until_ns[NODES_MAX][NODES_MAX];
	struct grave graves[GRAVES_MAX];
	uint32_t grave_count;
	struct node *blocked; /* whose engine a call drives */
	bool burying;
	bool all_placed;     /* nobody writes without the receiver's engine */
	uint32_t transports; /* which of them engines have */
};
extern struct world world;

void world_run(void); /* a seed */

/* Around each call that may drive the node's engine until something has happened. */
void world_block(struct node *node);
void world_unblock(void);

/* Not all requests between them need to become whole. */
void world_disturb(uint32_t a, uint32_t b, int64_t duration_ns);
void world_disturb_all(uint32_t node, int64_t duration_ns);
void world_open_engine(struct node *node);
void world_kill(struct node *node, bool silent);

/* --------------------------------------------------------------------------- request.c */

void requests_open(void);
bool requests_act(void);                /* an application does something, or finds nothing to do */
void requests_check(struct node *node); /* after each step of its engine */
void requests_disturbed(uint32_t a, uint32_t b); /* those between them may fail */
void requests_stalled(uint32_t node, int64_t duration_ns);
void requests_bury(uint32_t node); /* its handles are void */
bool requests_idle(void);          /* none is open */

/* fault.c */
void faults_choose(void);
void faults_happen(void);

#endif
