/* SPDX-License-Identifier: Apache-2.0 */
/* The sender's half: runs of chunks, and slices on the way through them. */
#include "plan/locate.h"

/* --- runs --- */

/* On the way through the chunks of a table, as a pool counts them: blocks one after another, chunks
 * in each. */
struct walk {
	const uint32_t *next; /* block */
	uint32_t chunks, part;
	uint64_t number;
};

static void walk_on(struct walk *walk)
{
	if (++walk->part < walk->chunks) {
		walk->number++;
		return;
	}
	walk->part = 0;
	walk->number = (uint64_t)*walk->next++ * walk->chunks;
}

uint32_t kvx_plan_runs(const uint32_t *from, uint32_t from_chunks, const uint32_t *to,
		       uint32_t to_chunks, uint32_t chunks, struct kvx_run *runs)
{
	struct walk here = {from, from_chunks, from_chunks - 1, 0};
	struct walk there = {to, to_chunks, to_chunks - 1, 0};
	struct kvx_run run = {0};
	uint32_t made = 0;

	for (uint32_t chunk = 0; chunk < chunks; chunk++) {
		walk_on(&here);
		walk_on(&there);
		if (chunk && here.number == run.from + run.count &&
		    there.number == run.to + run.count) {
			run.count++;
		} else {
			run = (struct kvx_run){chunk, 1, here.number, there.number};
			made++;
		}
		if (runs)
			runs[made - 1] = run;
	}
	return made;
}

static uint32_t run_at(const struct kvx_plan *plan, uint32_t chunk)
{
	uint32_t low = 0, high = plan->run_count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;
		if (plan->runs[middle].first <= chunk)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* --- the cursor --- */

/* To the begin of the next plane, from the cursor's on, that has something in the unit. */
static void enter_plane(struct kvx_cursor *cursor, const struct kvx_plan *plan)
{
	const struct kvx_image *image = &plan->image;

	for (; cursor->plane < image->planes; cursor->plane++) {
		struct kvx_segment segment = kvx_segment_of(image, &image->plane[cursor->plane],
							    cursor->token_first, cursor->token_end);
		if (!segment.bytes)
			continue;
		cursor->layers = 1;
		cursor->chunk = segment.chunk;
		cursor->last_chunk = segment.last_chunk;
		cursor->last_grains = segment.last_grains;
		cursor->run = run_at(plan, cursor->chunk);
		cursor->offset = 0;
		return;
	}
}

void kvx_cursor_seek(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint32_t unit)
{
	const struct kvx_image *image = &plan->image;

	*cursor = (struct kvx_cursor){
		.place = kvx_image_unit_place(image, unit),
		.end = kvx_image_unit_place(image, unit + 1),
		.token_first = kvx_image_unit_token(image, unit),
		.token_end = kvx_image_unit_token(image, unit + 1),
	};
	enter_plane(cursor, plan);
}

/* A slice of this size takes the wire longer than the sender takes to post it: 1.3 us at 400
 * Gbit/s, and 90 ns (cost.h). More layers at once would only keep the first of them waiting. */
#define JOINED_BYTES (64u << 10)

uint32_t kvx_plan_join_most(const struct kvx_plan *plan, const struct kvx_cursor *cursor)
{
	const struct kvx_image_plane *plane = &plan->image.plane[0];
	const struct kvx_lay *from = &plan->from[0], *to = &plan->to[0];

	if (cursor->plane || cursor->chunk == cursor->last_chunk || from->chunks != 1 ||
	    to->chunks != 1 || from->piece != plane->chunk_bytes || to->piece != plane->chunk_bytes)
		return 1;
	return (JOINED_BYTES - 1) / plane->chunk_bytes + 1;
}

bool kvx_plan_joins(const struct kvx_plan *plan, const struct kvx_source *source,
		    const struct kvx_source *next_source, const struct kvx_target *target,
		    const struct kvx_target *next_target)
{
	uint32_t bytes = plan->image.plane[0].chunk_bytes;

	return next_source->base == source->base + bytes && next_source->stride == source->stride &&
	       next_source->memory == source->memory && next_target->base == target->base + bytes &&
	       next_target->stride == target->stride && next_target->memory == target->memory;
}

void kvx_cursor_join(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint32_t layers)
{
	const struct kvx_image_plane *plane = &plan->image.plane[0];

	cursor->layers = layers;
	cursor->end = cursor->place +
		      (uint64_t)(cursor->last_chunk - cursor->chunk) * plane->chunk_bytes * layers;
	cursor->last_chunk--;
	cursor->last_grains = plane->chunk_grains;
}

void kvx_cursor_seek_rest(struct kvx_cursor *cursor, const struct kvx_plan *plan, uint32_t unit)
{
	kvx_cursor_seek(cursor, plan, unit);
	cursor->place +=
		(uint64_t)(cursor->last_chunk - cursor->chunk) * plan->image.plane[0].chunk_bytes;
	cursor->chunk = cursor->last_chunk;
	cursor->run = run_at(plan, cursor->chunk);
}

/* The slices that are being made. */
struct filling {
	struct kvx_slice *begin, *next, *end; /* end: of what there is room for */
	const char *local_end;                /* of the last one */
	uint32_t room;                        /* bytes that still may be added */
};

/* What both ends make of the plane that the cursor is in. */
struct stretch {
	const struct kvx_image_plane *plane;
	const struct kvx_lay *from, *to;
	struct kvx_source source;
	struct kvx_target target;
	uint32_t chunk_bytes; /* of all layers that are taken at once */
	bool placed;          /* sources are named; otherwise only the receiver's end matters */
	bool named;           /* targets are; otherwise only the sender's end matters */
	bool whole;           /* a whole chunk is contiguous, at both ends */
	bool joined;          /* and so are the chunks of a run */
};

/* Stands for memory that is not named. */
static char nowhere;

static struct stretch stretch_at(const struct kvx_cursor *cursor, const struct kvx_plan *plan,
				 const struct kvx_source *sources, const struct kvx_target *targets)
{
	uint32_t index = cursor->plane, bytes = plan->image.plane[index].chunk_bytes;
	struct stretch made = {
		.plane = &plan->image.plane[index],
		.from = sources ? &plan->from[index] : &plan->to[index],
		.to = &plan->to[index],
		.chunk_bytes = bytes * cursor->layers,
		.source = sources ? sources[index]
				  : (struct kvx_source){&nowhere, targets[index].stride, NULL},
		.placed = sources != NULL,
		.named = targets != NULL,
	};

	made.whole = made.from->piece == bytes;
	made.joined = kvx_lay_joins(made.from, made.source.stride, bytes, cursor->layers);
	if (!targets)
		return made;
	made.target = targets[index];
	made.whole = made.whole && made.to->piece == bytes;
	made.joined =
		made.joined && kvx_lay_joins(made.to, made.target.stride, bytes, cursor->layers);
	return made;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Where a chunk begins that has this number in its pool. */
static uint64_t chunk_at(const struct kvx_lay *lay, uint64_t number, uint64_t stride)
{
	if (lay->chunks == 1)
		return kvx_lay_chunk(lay, number, 0, stride);
	return kvx_lay_chunk(lay, number / lay->chunks, (uint32_t)(number % lay->chunks), stride);
}

static bool is_full(const struct filling *filling)
{
	return !filling->room || filling->next == filling->end;
}

/* Does it lie behind the last slice at both ends? */
static bool follows(const struct filling *filling, const struct stretch *stretch, uint64_t to)
{
	if (filling->next == filling->begin)
		return false;
	const struct kvx_slice *last = filling->next - 1;
	return last->memory == stretch->source.memory &&
	       (!stretch->named ||
		(last->target == stretch->target.memory && last->offset + last->length == to));
}

/* Adds a slice, or lengthens the last one. */
static inline void add(struct filling *filling, const struct stretch *stretch, uint64_t from,
		       uint64_t to, uint32_t length)
{
	const char *local = stretch->source.base + from;

	to += stretch->target.base;
	filling->room -= length;
	if (local == filling->local_end && follows(filling, stretch, to)) {
		filling->next[-1].length += length;
	} else {
		*filling->next++ = (struct kvx_slice){
			.local = local,
			.memory = stretch->source.memory,
			.length = length,
			.target = stretch->target.memory,
			.offset = to,
		};
	}
	filling->local_end = local + length;
}

/* Without sources the receiver's places stand for them. */
static uint64_t run_source(const struct kvx_run *run, const struct stretch *stretch)
{
	return stretch->placed ? run->from : run->to;
}

/* Adds chunks that are contiguous and are blocks at both ends, as long as the plane has whole ones
 * and there is room. What is most common deserves the shortest way. */
static void add_chunks(struct filling *filling, struct kvx_cursor *cursor,
		       const struct kvx_plan *plan, const struct stretch *stretch)
{
	const struct kvx_run *run = &plan->runs[cursor->run];
	uint32_t chunk_bytes = stretch->chunk_bytes, chunk = cursor->chunk;
	uint64_t offset = cursor->offset;
	uint32_t end =
		cursor->last_chunk + (cursor->last_grains == stretch->plane->chunk_grains ? 1 : 0);

	while (chunk < end && !is_full(filling)) {
		uint32_t within = chunk - run->first, left_of_run = run->count - within;
		uint32_t chunks = 1;
		uint64_t left = chunk_bytes - offset;
		if (left_of_run > 1 && stretch->joined) {
			chunks = smaller(left_of_run, end - chunk);
			left += (uint64_t)(chunks - 1) * chunk_bytes;
		}
		uint32_t length = left < filling->room ? (uint32_t)left : filling->room;
		add(filling, stretch,
		    (run_source(run, stretch) + within) * stretch->source.stride +
			    stretch->from->offset + offset,
		    (run->to + within) * stretch->target.stride + stretch->to->offset + offset,
		    length);
		if (length < left) {
			chunk += (uint32_t)((offset + length) / chunk_bytes);
			offset = (offset + length) % chunk_bytes;
			break;
		}
		offset = 0;
		chunk += chunks;
		run += chunks == left_of_run;
	}
	cursor->run = (uint32_t)(run - plan->runs);
	cursor->chunk = chunk;
	cursor->offset = (uint32_t)offset;
}

/* How many bytes both ends hold contiguously in a chunk of so many grains. */
static uint32_t piece_of(const struct stretch *stretch, uint32_t grains)
{
	const struct kvx_image_plane *plane = stretch->plane;
	bool whole = grains == plane->chunk_grains;
	uint32_t from = whole ? stretch->from->piece : kvx_lay_piece(stretch->from, plane, grains);

	if (!stretch->named)
		return from;
	return smaller(from,
		       whole ? stretch->to->piece : kvx_lay_piece(stretch->to, plane, grains));
}

/* Adds what is left of the cursor's chunk piece by piece, as long as there is room. */
static void add_pieces(struct filling *filling, struct kvx_cursor *cursor,
		       const struct kvx_plan *plan, const struct stretch *stretch)
{
	const struct kvx_image_plane *plane = stretch->plane;
	const struct kvx_run *run = &plan->runs[cursor->run];
	uint32_t within = cursor->chunk - run->first, offset = cursor->offset;
	uint32_t grains =
		cursor->chunk < cursor->last_chunk ? plane->chunk_grains : cursor->last_grains;
	uint32_t end = grains * plane->heads * plane->grain_bytes;
	uint64_t from =
		chunk_at(stretch->from, run_source(run, stretch) + within, stretch->source.stride);
	uint64_t to = chunk_at(stretch->to, run->to + within, stretch->target.stride);
	struct kvx_spot spot = kvx_spot_at(plane, grains, piece_of(stretch, grains), offset);

	while (offset < end && !is_full(filling)) {
		uint32_t length = smaller(spot.piece - spot.rest, filling->room);
		add(filling, stretch, from + kvx_spot_offset(&spot, stretch->from),
		    to + kvx_spot_offset(&spot, stretch->to), length);
		kvx_spot_step(&spot, length);
		offset += length;
	}
	cursor->offset = offset;
	if (offset < end)
		return;
	cursor->offset = 0;
	cursor->chunk++;
	cursor->run += within + 1 == run->count;
}

uint32_t kvx_cursor_fill(struct kvx_cursor *cursor, const struct kvx_plan *plan,
			 const struct kvx_source *sources, const struct kvx_target *targets,
			 struct kvx_slice *slices, uint32_t *bytes)
{
	uint64_t wanted = cursor->end - cursor->place;
	uint32_t room = wanted < KVX_BATCH_BYTES_MAX ? (uint32_t)wanted : KVX_BATCH_BYTES_MAX;
	struct filling filling = {slices, slices, slices + KVX_BATCH_SLICES_MAX, NULL, room};
	struct kvx_cursor at = *cursor;

	while (!is_full(&filling)) {
		struct stretch stretch = stretch_at(&at, plan, sources, targets);
		if (stretch.whole && stretch.from->chunks == 1 && stretch.to->chunks == 1)
			add_chunks(&filling, &at, plan, &stretch);
		while (at.chunk <= at.last_chunk && !is_full(&filling))
			add_pieces(&filling, &at, plan, &stretch);
		if (at.chunk > at.last_chunk) {
			at.plane++;
			enter_plane(&at, plan);
		}
	}
	*bytes = room - filling.room;
	at.place += *bytes;
	*cursor = at;
	return (uint32_t)(filling.next - slices);
}
