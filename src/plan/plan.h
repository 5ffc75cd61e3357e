/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: what a stream does for a layer. Pure functions, no allocation.
 *
 * Both ends see what a sender moves of a layer as its image. A place is an offset into the image.
 * Only places cross the wire; each end maps them to its own memory by its own table, so no peer can
 * name an address. Layers of a request have the same image.
 *
 * An image is cut into units: ranges of tokens, of all planes. A unit is what one rail carries at a
 * time and what the receiver counts. Within a unit lies plane after plane, in a plane chunk after
 * chunk, and in a chunk the heads and grains as the receiver's pool orders them. A chunk is as many
 * tokens as lie in one block at both ends: the smaller of the two blocks.
 *
 * Planes that both ends hold side by side in each block, and that move with all their heads, are
 * joined: the first of them stands for all, as a plane whose heads are those of one after those of
 * the other (HND), or whose heads are the planes (NHD, and blocks that move whole). The others have
 * no tokens then.
 */
#ifndef KVX_PLAN_PLAN_H
#define KVX_PLAN_PLAN_H

#include "base/slice.h"
#include "plan/shape.h"

#include <sys/uio.h>

struct kvx_image_plane {
	uint32_t token_first, token_end; /* none: they are equal */
	uint32_t heads;
	uint32_t grain_bytes, grain_tokens;
	uint32_t chunk_grains, chunk_bytes; /* of a whole chunk */
	bool by_head; /* the order in a chunk: heads outermost, as at the receiver */
};

struct kvx_image {
	uint32_t token_first, token_end; /* of the share: from its first to its last in any plane */
	uint32_t chunk_tokens;
	uint32_t align; /* in tokens: where units may be cut; the larger of the two blocks */
	uint32_t planes;
	uint32_t joined; /* so many of the first; 0: none */
	struct kvx_image_plane plane[KVX_PLANES_MAX];
	uint32_t units;                     /* 1 to KVX_UNITS_MAX; some may be empty */
	uint32_t tokens[KVX_UNITS_MAX + 1]; /* where units begin: their first tokens */
	uint64_t places[KVX_UNITS_MAX + 1];
};

/* What a sender's and a receiver's pool make of a share; not cut yet. token_first and token_end: of
 * the whole request. */
void kvx_image_make(struct kvx_image *image, const struct kvx_shape *sender,
		    const struct kvx_shape *receiver, const struct kvx_share *share,
		    uint32_t token_first, uint32_t token_end);

/* Bytes of all units. */
uint64_t kvx_image_bytes(const struct kvx_image *image);

/* How many units of about unit_bytes there should be of a layer of `bytes`, at most `most`. */
uint32_t kvx_image_units(uint64_t bytes, uint64_t unit_bytes, uint32_t most);

/* Cuts the image into units. weights: of each, 1 to 255, or NULL for equal ones. */
void kvx_image_cut(struct kvx_image *image, uint32_t units, const uint8_t *weights);

/* The first token of a unit; of unit image->units: the end of the share. */
static inline uint32_t kvx_image_unit_token(const struct kvx_image *image, uint32_t unit)
{
	return image->tokens[unit];
}

/* Where a unit begins; of unit image->units: the end of the image. */
static inline uint64_t kvx_image_unit_place(const struct kvx_image *image, uint32_t unit)
{
	return image->places[unit];
}

/* A bit for each unit that has bytes. */
uint64_t kvx_image_filled(const struct kvx_image *image);

/* --- where chunks lie --- */

/* Where the blocks of one plane of one layer lie in this process. */
struct kvx_source {
	char *base;
	uint64_t stride; /* bytes from block to block */
	const struct kvx_memory *memory;
};

/* Where they lie in the receiver's: an index into its list of memories, and offsets there. */
struct kvx_target {
	uint64_t base, stride;
	uint32_t memory;
};

/* How one end's pool holds the image's part of a plane. */
struct kvx_lay {
	uint32_t offset;                     /* of the first of the heads, in its block */
	uint32_t chunks;                     /* of a block */
	uint32_t chunk_stride;               /* bytes from chunk to chunk in a block */
	uint32_t outer_stride, inner_stride; /* in a chunk, in the image's order */
	uint32_t piece; /* of a whole chunk: so many bytes are contiguous here, see locate.h */
};

void kvx_lay_out(const struct kvx_image *image, const struct kvx_shape *shape,
		 const struct kvx_share *share, struct kvx_lay lays[KVX_PLANES_MAX]);

/* --- the sender's side --- */

/* Chunks that follow each other at both ends: chunks first .. first + count - 1 of the request are
 * from .. at the sender and to .. at the receiver, each counted through all blocks of a pool. */
struct kvx_run {
	uint32_t first, count;
	uint64_t from, to;
};

/* How many runs two tables make of `chunks` chunks, of which a block has from_chunks and to_chunks,
 * and writes them unless runs is NULL. */
uint32_t kvx_plan_runs(const uint32_t *from, uint32_t from_chunks, const uint32_t *to,
		       uint32_t to_chunks, uint32_t chunks, struct kvx_run *runs);

struct kvx_plan {
	struct kvx_image image;
	struct kvx_lay from[KVX_PLANES_MAX], to[KVX_PLANES_MAX];
	const struct kvx_run *runs; /* over all chunks of the request, whatever the share */
	uint32_t run_count;
};

/* A position in a layer's image, on its way through the runs. */
struct kvx_cursor {
	uint64_t place, end;             /* end: of the unit */
	uint32_t token_first, token_end; /* of the unit */
	uint32_t plane;
	uint32_t layers;                  /* whose chunks it takes at once */
	uint32_t chunk, run;              /* run: that chunk is in */
	uint32_t offset;                  /* bytes into the chunk */
	uint32_t last_chunk, last_grains; /* of the plane in the unit */
};

/* At the begin of a unit. */
void kvx_cursor_seek(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint32_t unit);

/* --- layers side by side --- */

/* Where in each block a layer's part of the first plane is followed by the next layer's, at both
 * ends, several layers' chunks are one slice. Units are counted layer by layer, and a unit's last
 * slice tells of it, so that the last chunk leaves alone: first what several layers have before it,
 * then the rest of one after the other. */

/* How many layers leave together at most, from a cursor at the begin of a unit on. */
uint32_t kvx_plan_join_most(const struct kvx_plan *plan, const struct kvx_cursor *cursor);

/* Do two layers lie so? sources, targets: of the first plane of the one and of the next. */
bool kvx_plan_joins(const struct kvx_plan *plan, const struct kvx_source *source,
		    const struct kvx_source *next_source, const struct kvx_target *target,
		    const struct kvx_target *next_target);

/* From the begin of a unit: what so many layers have before the last chunk. */
void kvx_cursor_join(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint32_t layers);

/* At what is left of each of them then. */
void kvx_cursor_seek_rest(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint32_t unit);

/* --- slices --- */

/* Makes at most KVX_BATCH_SLICES_MAX slices of at most KVX_BATCH_BYTES_MAX in all, from the cursor
 * on, and moves it. sources: one for each plane of the layer, or NULL: slices have no local then,
 * and end where the receiver's memory does; targets: likewise, or NULL where the receiver places
 * the bytes. What follows each other at both ends is one slice. *bytes receives their sum. Returns
 * their number, 0 at the end of the unit. */
uint32_t kvx_cursor_fill(struct kvx_cursor *cursor, const struct kvx_plan *plan,
			 const struct kvx_source *sources, const struct kvx_target *targets,
			 struct kvx_slice *slices, uint32_t *bytes);

/* --- the receiver's side --- */

/* Where a layer of an image lies at the receiver. targets: of each plane of the layer. */
struct kvx_layer_place {
	const struct kvx_image *image;
	const struct kvx_lay *lays;
	const uint32_t *table;
	const struct kvx_source *targets;
};

/* Where `bytes` at `place` of a unit go. The range lies within the unit. Neighbours are merged.
 * Returns the number of entries, which may cover only the first bytes. */
int kvx_image_resolve(const struct kvx_layer_place *layer, uint32_t unit, uint64_t place,
		      uint64_t bytes, struct iovec *iov, int iov_max);

/* What both sides must have computed alike: over what the geometries must have in common, the
 * image, the share and the hash of the receiver's table. When a stream opens it is that of what the
 * sender would move alone; when all senders have come, that of its true share. */
uint64_t kvx_table_hash(const uint32_t *to, uint32_t count);
uint64_t kvx_plan_hash(const struct kvx_geometry *geometry, const struct kvx_image *image,
		       const struct kvx_share *share, uint64_t table_hash);

#endif
