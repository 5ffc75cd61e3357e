/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool's geometry in normal form, and which part of a request each sender moves. Pure functions,
 * no allocation.
 *
 * Every plane, however it is described, is blocks of grains of heads. A grain is what is not
 * divided along the tokens: one token, or a whole block where blocks move whole. A plane that is
 * not divided by heads has one head.
 */
#ifndef KVX_PLAN_SHAPE_H
#define KVX_PLAN_SHAPE_H

#include <kvxfer/kvxfer.h>

#include <stdbool.h>
#include <stddef.h>

struct kvx_plane {
	uint32_t heads, head_first;
	uint32_t heads_total;
	uint32_t grain_bytes;  /* of one grain of one head */
	uint32_t grain_tokens; /* of one grain */
	uint32_t block_grains;
	uint32_t block_bytes;
	uint32_t head_stride, grain_stride; /* bytes */
	bool by_head;                       /* heads are outermost */
};

struct kvx_shape {
	uint32_t layers, layer_first;
	uint32_t block_tokens; /* 1 where it is not said */
	uint32_t planes;       /* with the extra ones */
	uint32_t abreast;      /* the first so many lie side by side in each block; 0: none do */
	uint32_t plane_stride; /* bytes from one of these to the next */
	struct kvx_plane plane[KVX_PLANES_MAX];
};

/* What one sender moves of a request: of these layers, counted as the receiver's pool does, and of
 * each plane these heads, as the model counts them, of these tokens. */
struct kvx_share {
	uint32_t layer_first, layers;
	struct {
		uint32_t head_first, heads;
		uint32_t token_first, token_end;
	} plane[KVX_PLANES_MAX];
};

static inline uint32_t kvx_geometry_planes(const struct kvx_geometry *geometry)
{
	return geometry->planes + geometry->extra_planes;
}

/* A copy with what was left 0 filled in. KVX_E_INVALID if it describes no pool. */
int kvx_geometry_complete(const struct kvx_geometry *geometry, struct kvx_geometry *complete);

/* Of a complete geometry. */
void kvx_shape_of(const struct kvx_geometry *geometry, struct kvx_shape *shape);

/* Can a request move between these two, as far as one sender is concerned? Else KVX_E_GEOMETRY,
 * with both in the text and what is wrong. */
int kvx_geometry_match(const struct kvx_geometry *sender, const struct kvx_geometry *receiver);

/* What a sender moves if it is the only one. */
void kvx_share_alone(const struct kvx_shape *sender, const struct kvx_shape *receiver,
		     uint32_t token_first, uint32_t token_end, struct kvx_share *share);

/* A share lies within another, and begins where chunks of so many tokens do. */
bool kvx_share_within(const struct kvx_share *share, const struct kvx_share *whole, uint32_t planes,
		      uint32_t chunk_tokens);

/* Divides a request of tokens token_first .. token_end - 1 of the receiver's pool among senders:
 * what only one holds is its; what several hold alike they share by tokens. shares: one for each
 * sender. KVX_E_GEOMETRY: some part is held by none, or two hold parts that overlap otherwise. */
int kvx_share_out(const struct kvx_geometry *receiver, uint32_t token_first, uint32_t token_end,
		  const struct kvx_geometry *senders, uint32_t count, struct kvx_share *shares);

#endif
