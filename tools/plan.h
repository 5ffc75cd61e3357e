/* SPDX-License-Identifier: Apache-2.0 */
/* kvxfer-plan: what its parts share. They see the public headers alone. */
#ifndef KVX_TOOLS_PLAN_H
#define KVX_TOOLS_PLAN_H

#include <kvxfer/plan.h>
#include <stdbool.h>
#include <stdio.h>

#define PLAN_RANKS_MAX 1024u /* of one model */
#define PLAN_RANK_ALL UINT32_MAX

/* A model's cache, and the ranks that divide it among them. */
struct plan_pool {
	uint32_t layer_first, layers; /* that the ranks hold together */
	uint32_t head_first, heads, heads_total;
	uint32_t planes, head_bytes, block_tokens;
	uint32_t block_bytes, head_stride, token_stride; /* 0: packed */
	uint32_t plane_stride, layer_stride;             /* side by side in a block; 0: apart */
	uint32_t block_stride;                           /* bytes from block to block; 0: packed */
	uint32_t blocks;                                 /* 0: as many as the request takes */
	uint32_t id;                                     /* the geometry's model */
	enum kvx_layout layout;
	char dtype[12];
	uint32_t extra_planes;
	struct kvx_extra extra[KVX_EXTRA_MAX];
	uint32_t tp, pp; /* ranks: tp of each of pp stages */
	uint32_t rank;   /* PLAN_RANK_ALL: not said */
};

/* One end as the report takes it, and whose it is. */
struct plan_end {
	struct kvx_plan_end end;
	uint32_t pool; /* the --sender that it is from */
	uint32_t rank;
};

/* What the command line asks for. */
struct plan {
	struct plan_pool receiver, senders[KVX_SENDERS_MAX];
	uint32_t sender_count;
	uint32_t tokens, held_blocks, chunk_tokens, unit_bytes;
	const char *table;
	uint32_t run; /* of the tables: blocks that stay neighbours; 0: all */
	uint32_t rails;
	uint8_t weights[KVX_PLAN_RAILS_MAX];
	const char *json;

	/* Made of it. */
	struct plan_end to, from[KVX_SENDERS_MAX];
	uint32_t from_count, from_all;  /* senders that hold part of it, of so many ranks */
	struct kvx_plan_report *report; /* NULL: refused, with the library's code and text */
	int refused;
};

/* Prints a line to stderr and returns 1. */
int plan_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "model=llama-3.1-70b,tp=4,layout=NHD", or "@FILE" with the same as a JSON object. Returns 0, or 1
 * after a line that says what to change. */
int plan_pool_read(const char *what, const char *text, struct plan_pool *pool);
int plan_pool_set(const char *what, struct plan_pool *pool, const char *key, const char *value);
int plan_pool_read_file(const char *what, const char *path, struct plan_pool *pool);

/* Without leading or trailing blanks or signs, min to max. */
bool plan_number(const char *text, uint32_t min, uint32_t max, uint32_t *number);

/* The geometry of one rank, without its number of blocks. */
void plan_pool_rank(const struct plan_pool *pool, uint32_t rank, struct kvx_geometry *geometry);

/* Prints the models by name. */
void plan_models(FILE *file);

/* Writes the whole of it to a stream and returns 0, or 1 if the writing failed. */
int plan_write_text(const struct plan *plan, FILE *file);
int plan_write_json(const struct plan *plan, FILE *file);

#endif
