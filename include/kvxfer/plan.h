/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request's streams would do, without any of them: a plan is compiled for a receiver's pool
 * and its senders', and measured. No engine and no memory of a pool is needed.
 *
 *   struct kvx_plan_request request = {.receiver = {...}, .senders = senders, .sender_count = 4};
 *   kvx_plan_report_open(&request, &report);         or why it would be refused
 *   kvx_plan_report_share(report, 0, &share);        what the first sender moves, and in what
 * pieces kvx_plan_report_explain(report, 0, ...);         the same in words
 *   kvx_plan_report_close(report);
 *
 * Nothing here changes after kvx_plan_report_open(); any thread may read. Errors as in kvxfer.h.
 */
#ifndef KVXFER_PLAN_H
#define KVXFER_PLAN_H

#include <kvxfer/kvxfer.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define KVX_PLAN_CLASSES 21u   /* of pieces, by powers of two: 1 B to 1 MiB */
#define KVX_PLAN_RAILS_MAX 64u /* of one sender */

/* One end of a request: a pool, and which blocks of it. */
struct kvx_plan_end {
	struct kvx_geometry geometry;
	uint64_t block_strides[KVX_PLANES_MAX]; /* bytes from block to block, of each plane; 0:
						   packed. Without a plane_stride planes lie apart
						   from each other */
	const uint32_t *blocks; /* in the request's order; as many as its tokens fill */
	uint32_t count;
	uint32_t layer_stride; /* bytes from layer to layer of a block that holds all layers,
				  [block][layer][plane]; 0: layers lie apart. With several planes
				  it takes a plane_stride */
};

struct kvx_plan_request {
	struct kvx_plan_end receiver;
	const struct kvx_plan_end *senders; /* that feed the grant together */
	uint32_t sender_count;              /* 1 to KVX_SENDERS_MAX */
	uint32_t tokens;                    /* 0: as many as the receiver's blocks hold */
	uint32_t held_blocks;               /* that the receiver holds already; below its count */
	uint32_t chunk_tokens;              /* of a prefill in chunks; 0: all at once */
	uint32_t unit_bytes;                /* as option unit_bytes; 0: its default */
	uint32_t rails; /* of each sender, over a transport whose rails have their units, as verbs;
			   0: over one whose rails take units as they come */
	const uint8_t *weights; /* of the rails, 1 to 255; NULL: equal ones */
};

/* Sizes of contiguous pieces of one layer, in bytes. */
struct kvx_plan_pieces {
	uint64_t count;
	uint32_t min_bytes, median_bytes, max_bytes; /* 0 if there are none */
	uint64_t classes[KVX_PLAN_CLASSES];          /* the i-th: of 2^i to 2^(i+1) - 1 bytes */
};

/* What ends a piece where one end's memory does not go on with what moves next. */
enum kvx_plan_reason {
	KVX_PLAN_TABLE,  /* nothing but the table: the next block is not the neighbour */
	KVX_PLAN_HEADS,  /* the next head is there but does not move */
	KVX_PLAN_TOKENS, /* the other end's blocks hold fewer tokens */
	KVX_PLAN_LAYOUT, /* the receiver orders heads and tokens the other way */
	KVX_PLAN_GAPS,   /* a stride leaves bytes between blocks, heads or tokens */
	KVX_PLAN_LAYERS, /* the next layer's part of the block is there */
};

/* "table", "heads", "tokens", "layout", "gaps", "layers". Static. */
const char *kvx_plan_reason_name(enum kvx_plan_reason reason);

/* How one end holds what moves of a plane. */
struct kvx_plan_hold {
	uint32_t piece_bytes; /* contiguous, of the tokens that lie in one block at both ends */
	enum kvx_plan_reason reason;
};

/* What one sender moves of a plane. */
struct kvx_plan_plane {
	uint32_t head_first, heads, heads_total; /* as the model counts them; an undivided plane has
						    one */
	uint32_t token_first, token_end;         /* of the request; equal: nothing */
	uint32_t chunk_bytes;                    /* of the tokens that lie in one block at both */
	struct kvx_plan_hold sender, receiver;
};

/* What one sender does. */
struct kvx_plan_share {
	uint32_t layer_first, layers; /* that move, as the model counts them */
	uint32_t planes;
	uint32_t joined; /* the first so many lie side by side in each block at both ends and move
			    as one: chunk_bytes and piece_bytes are of all together; 0: none */
	struct kvx_plan_plane plane[KVX_PLANES_MAX];
	uint64_t layer_bytes;  /* of one layer; all are alike */
	uint32_t chunk_tokens; /* lie in one block at both ends */
	uint32_t chunks, runs; /* of the request; a run's chunks are neighbours at both ends */
	uint32_t units;        /* of one layer, that have bytes */
	uint64_t rail_bytes[KVX_PLAN_RAILS_MAX]; /* of one layer; all 0 without rails */
	/* Contiguous at both ends: what a transport posts that writes into the receiver's memory.
	 * At the sender alone: what tcp gathers and shm announces. At the receiver alone: what
	 * these scatter into. */
	struct kvx_plan_pieces slices, at_sender, at_receiver;
	uint64_t posted; /* slices that leave in the end, of one layer: direct or out of buffers,
			    with rails contiguous at the receiver too */
	uint32_t layers_joined;      /* so many layers, which lie side by side at both ends, leave
					together if they are ready together; 1: each leaves alone */
	uint64_t posted_together;    /* slices of all layers that are ready at once */
	double direct_ns, staged_ns; /* of the sender in one layer, by the cost model: slice by
					slice, or gathered in a buffer first */
	const char *how;             /* "direct", or "staged" where that is faster; as option
					staging=auto. Static */
};

/* The plans of one request. */
struct kvx_plan_report;

/*
 * Compiles and measures the plans of a request. Everything is copied. Errors, with the same text
 * as the grant or stream that they would end: KVX_E_INVALID (a geometry that is no pool's, a table
 * that does not fit), KVX_E_GEOMETRY (pools that do not match, senders that together do not hold
 * each byte), KVX_E_LIMIT, KVX_E_MEMORY.
 */
int kvx_plan_report_open(const struct kvx_plan_request *request, struct kvx_plan_report **report);

/* NULL does nothing. */
void kvx_plan_report_close(struct kvx_plan_report *report);

/* The sender of that index, counted from 0. KVX_E_INVALID past the last. */
int kvx_plan_report_share(const struct kvx_plan_report *report, uint32_t sender,
			  struct kvx_plan_share *share);

/* The same in words, a sentence a line: what moves, how many bytes each end holds contiguously and
 * what ends a piece there, and how it is cut. At most size - 1 characters and a zero go to text.
 * Returns the length of the whole text; 0 if there is no such sender. */
size_t kvx_plan_report_explain(const struct kvx_plan_report *report, uint32_t sender, char *text,
			       size_t size);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif
