/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvxfer-unlike-cost: what it costs to move requests between pools that are not alike. All engines
 * are in this process, each with its own thread. What fails ends the program, with its reason.
 */
#ifndef KVX_BENCH_UNLIKE_H
#define KVX_BENCH_UNLIKE_H

#include "statistics.h"

#include <jansson.h>
#include <kvxfer/kvxfer.h>
#include <stdbool.h>

#define KVX_UNLIKE_OPTIONS_MAX 16u
#define KVX_UNLIKE_SENDERS_MAX 2u
#define KVX_UNLIKE_BLOCK_TOKENS 16u
#define KVX_UNLIKE_LEASE_MS 600000u
#define KVX_UNLIKE_EXPLAIN_MAX 1024u

struct kvx_unlike_settings {
	const char *command; /* "open", "tp", "layers", "worst" */
	const char *transport;
	const char *json;                                 /* path, "-" or NULL */
	const char *option_names[KVX_UNLIKE_OPTIONS_MAX]; /* of the engines */
	const char *option_values[KVX_UNLIKE_OPTIONS_MAX];
	uint32_t option_count;
	uint64_t layers, tokens; /* of a request */
	uint64_t opens, pairs;   /* that are measured */
	uint64_t pool_bytes;     /* that requests rotate through at the receiver, at least */
	bool corrupt;
};

/* One engine and its pool. Slots are disjoint sets of its blocks, one for each request in turn. */
struct kvx_unlike_end {
	struct kvx_engine *engine;
	struct kvx_region *region;
	struct kvx_pool *pool;
	struct kvx_geometry geometry;
	uint32_t *table; /* of slots * count blocks, a request's tokens in their order */
	uint32_t count, slots;

	/* The same memory as blocks of one head of one token; NULL if not asked for. */
	struct kvx_pool *piece_pool;
	uint32_t *piece_table;
	uint32_t piece_count;
};

/* How requests move. */
struct kvx_unlike_way {
	const struct kvx_unlike_end *receiver;
	const struct kvx_unlike_end *senders[KVX_UNLIKE_SENDERS_MAX];
	uint32_t sender_count;
	bool by_pieces;
	bool bare; /* without an engine: this thread copies each piece, of one sender */
};

/* Does nothing if result is not negative. */
void kvx_unlike_check(int result, const char *what);
void kvx_unlike_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Zeroed; never NULL. */
void *kvx_unlike_calloc(size_t count, size_t size);

/* An end of that many slots of random blocks. staging: the engine's option, or NULL. together: so
 * many neighbouring planes lie side by side in each block. */
void kvx_unlike_end_open(struct kvx_unlike_end *end, const struct kvx_unlike_settings *settings,
			 const char *staging, const struct kvx_geometry *geometry, uint32_t slots,
			 uint32_t together);
void kvx_unlike_end_close(struct kvx_unlike_end *end);

/* Lays the pool of pieces over the end, of the heads first .. first + heads - 1 of the model, and
 * orders them so that none is beside the next in a block of either layout; heads: 2 or more. */
void kvx_unlike_end_cut(struct kvx_unlike_end *end, uint32_t first, uint32_t heads);

/* Writes the bytes of all its requests. */
void kvx_unlike_end_fill(const struct kvx_unlike_end *end);

/* Sends one request and returns the seconds from the first stream's opening, ticket in hand, to all
 * layers whole. explain: what the first stream says of itself, KVX_UNLIKE_EXPLAIN_MAX; or NULL. */
double kvx_unlike_way_send(const struct kvx_unlike_way *way, uint32_t slot, char *explain);

/* Clears the receiver's memory, sends the request of each slot and checks every byte. Returns their
 * number. explain: as above. */
uint64_t kvx_unlike_way_verify(const struct kvx_unlike_way *way, bool corrupt, char *explain);

/* Slices that its senders sent so far. */
uint64_t kvx_unlike_way_slices(const struct kvx_unlike_way *way);

/* {"median", "min", "max"} */
json_t *kvx_unlike_spread(const struct kvx_samples *samples);

/* The subcommands: print their table and append to rows. */
void kvx_unlike_open(const struct kvx_unlike_settings *settings, json_t *rows);
void kvx_unlike_tp(const struct kvx_unlike_settings *settings, json_t *rows);
void kvx_unlike_layers(const struct kvx_unlike_settings *settings, json_t *rows);
void kvx_unlike_worst(const struct kvx_unlike_settings *settings, json_t *rows);

#endif
