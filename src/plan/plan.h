/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: what a stream does for a layer. Pure functions, no allocation.
 *
 * Both ends see a layer of a request as its image: plane after plane, and in each plane the blocks
 * in the request's order, block_bytes each. A place is an offset into the image. Only places cross
 * the wire; each end maps them to its own memory by its own table, so no peer can name an address.
 *
 * An image is cut at block boundaries into units; a unit is what one rail carries at a time and
 * what the receiver counts. Units are of about equal size, or have weights.
 */
#ifndef KVX_PLAN_PLAN_H
#define KVX_PLAN_PLAN_H

#include "base/slice.h"

#include <kvxfer/kvxfer.h>

#include <stdbool.h>
#include <sys/uio.h>

/* The image of a layer; the same for all layers of a request. */
struct kvx_image {
	uint32_t planes;
	uint32_t count; /* blocks of the request */
	uint32_t block_bytes;
	uint32_t units;                    /* 1 to KVX_UNITS_MAX, at most planes * count */
	uint16_t until[KVX_UNITS_MAX + 1]; /* where units begin, as parts of until[units] */
};

static inline uint64_t kvx_image_bytes(const struct kvx_image *image)
{
	return (uint64_t)image->planes * image->count * image->block_bytes;
}

/* How many units an image has if each is to be about unit_bytes large. */
uint32_t kvx_image_units(const struct kvx_image *image, uint64_t unit_bytes);

/* Cuts the image into units, at most one for each block of each plane. weights: of each, 1 to 255,
 * or NULL for equal ones. False: with these weights a unit would be empty. */
bool kvx_image_cut(struct kvx_image *image, uint32_t units, const uint8_t *weights);

/* Where a unit begins; of unit image->units: the end of the image. */
uint64_t kvx_image_unit_place(const struct kvx_image *image, uint32_t unit);

/* Blocks that follow each other at both ends: request indices first .. first + count - 1 are blocks
 * from .. at the sender and to .. at the receiver. */
struct kvx_run {
	uint32_t first, count;
	uint32_t from, to;
};

/* How many runs two tables make, and writes them unless runs is NULL. packed: blocks that are
 * neighbours are contiguous at both ends; otherwise each block is a run of its own. */
uint32_t kvx_plan_runs(const uint32_t *from, const uint32_t *to, uint32_t count, bool packed,
		       struct kvx_run *runs);

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

struct kvx_plan {
	struct kvx_image image;
	const struct kvx_run *runs;
	uint32_t run_count;
};

/* A position in a layer's image, on its way through the runs. */
struct kvx_cursor {
	uint64_t place, end; /* end: of the unit */
	uint32_t plane;
	uint32_t run;
	uint64_t offset; /* bytes into the run */
};

/* At the begin of a unit. */
void kvx_cursor_seek(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint32_t unit);

/* Makes at most KVX_BATCH_SLICES_MAX slices of at most KVX_BATCH_BYTES_MAX in all, from the cursor
 * on, and moves it. sources: one for each plane of the layer; targets: likewise, or NULL where the
 * receiver places the bytes. *bytes receives their sum. Returns their number, 0 at the end of the
 * unit. */
uint32_t kvx_cursor_fill(struct kvx_cursor *cursor, const struct kvx_plan *plan,
			 const struct kvx_source *sources, const struct kvx_target *targets,
			 struct kvx_slice *slices, uint32_t *bytes);

/* The receiver's side: where `bytes` at `place` go, by the receiver's table. The range lies within
 * the image. Neighbours are merged. Returns the number of entries, which may cover only the first
 * bytes. */
int kvx_image_resolve(const struct kvx_image *image, const uint32_t *table,
		      const struct kvx_source *targets, uint64_t place, uint64_t bytes,
		      struct iovec *iov, int iov_max);

/* What both sides must have computed alike: over the geometry, the units and the hash of the
 * receiver's table. */
uint64_t kvx_table_hash(const uint32_t *to, uint32_t count);
uint64_t kvx_plan_hash(const struct kvx_geometry *geometry, const struct kvx_image *image,
		       uint64_t table_hash);

#endif
