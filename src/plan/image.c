/* SPDX-License-Identifier: Apache-2.0 */
#include "base/wire.h"
#include "plan/locate.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "tables are hashed as they lie in memory");

/* --- planes side by side --- */

/* Do the first planes lie in one row for each head, or in one for each plane? */
static bool rows_lie_evenly(const struct kvx_shape *shape)
{
	const struct kvx_plane *plane = &shape->plane[0];

	if (plane->by_head)
		return shape->plane_stride == (uint64_t)plane->heads * plane->head_stride;
	return plane->heads == 1 || plane->head_stride == plane->grain_bytes;
}

/* Blocks of other sizes have no whole block in common; planes of which some heads or some tokens
 * move have others between them. */
static uint32_t count_joined(const struct kvx_shape *sender, const struct kvx_shape *receiver,
			     const struct kvx_share *share)
{
	uint32_t planes = receiver->abreast;

	if (!planes || sender->abreast != planes ||
	    sender->block_tokens != receiver->block_tokens ||
	    sender->plane[0].by_head != receiver->plane[0].by_head || !rows_lie_evenly(sender) ||
	    !rows_lie_evenly(receiver))
		return 0;
	for (uint32_t i = 0; i < planes; i++)
		if (share->plane[i].heads != sender->plane[i].heads ||
		    share->plane[i].heads != receiver->plane[i].heads ||
		    share->plane[i].token_first != share->plane[0].token_first ||
		    share->plane[i].token_end != share->plane[0].token_end)
			return 0;
	return planes;
}

static void join_shape(struct kvx_shape *shape, uint32_t planes)
{
	struct kvx_plane *plane = &shape->plane[0];

	if (plane->by_head) {
		plane->heads *= planes;
	} else {
		plane->grain_bytes *= plane->heads;
		plane->heads = planes;
		plane->head_stride = shape->plane_stride;
		plane->by_head = true;
	}
	plane->head_first = 0;
}

static void join_share(struct kvx_share *share, const struct kvx_shape *joined, uint32_t planes)
{
	share->plane[0].head_first = 0;
	share->plane[0].heads = joined->plane[0].heads;
	for (uint32_t i = 1; i < planes; i++)
		share->plane[i].token_end = share->plane[i].token_first;
}

/* --- the image --- */

static void make(struct kvx_image *image, const struct kvx_shape *sender,
		 const struct kvx_shape *receiver, const struct kvx_share *share,
		 uint32_t token_first, uint32_t token_end)
{
	uint32_t ours = sender->block_tokens, theirs = receiver->block_tokens;
	uint32_t chunk = ours < theirs ? ours : theirs, first = token_end, end = token_first;

	*image = (struct kvx_image){
		.chunk_tokens = chunk,
		.align = ours < theirs ? theirs : ours,
		.planes = receiver->planes,
	};
	for (uint32_t i = 0; i < image->planes; i++) {
		const struct kvx_plane *plane = &receiver->plane[i];
		uint32_t grains = chunk / plane->grain_tokens;
		image->plane[i] = (struct kvx_image_plane){
			.token_first = share->plane[i].token_first,
			.token_end = share->plane[i].token_end,
			.heads = share->plane[i].heads,
			.grain_bytes = plane->grain_bytes,
			.grain_tokens = plane->grain_tokens,
			.chunk_grains = grains,
			.chunk_bytes = grains * share->plane[i].heads * plane->grain_bytes,
			.by_head = plane->by_head,
		};
		if (share->plane[i].token_first == share->plane[i].token_end)
			continue;
		first = first < share->plane[i].token_first ? first : share->plane[i].token_first;
		end = end > share->plane[i].token_end ? end : share->plane[i].token_end;
	}
	image->token_first = first < end ? first : end;
	image->token_end = end;
}

void kvx_image_make(struct kvx_image *image, const struct kvx_shape *sender,
		    const struct kvx_shape *receiver, const struct kvx_share *share,
		    uint32_t token_first, uint32_t token_end)
{
	uint32_t planes = count_joined(sender, receiver, share);
	struct kvx_shape ours = *sender, theirs = *receiver;
	struct kvx_share joined = *share;

	if (planes) {
		join_shape(&ours, planes);
		join_shape(&theirs, planes);
		join_share(&joined, &theirs, planes);
	}
	make(image, &ours, &theirs, &joined, token_first, token_end);
	image->joined = planes;
}

static uint64_t bytes_before(const struct kvx_image *image, uint32_t token)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < image->planes; i++)
		bytes += kvx_segment_bytes(&image->plane[i], 0, token);
	return bytes;
}

uint64_t kvx_image_bytes(const struct kvx_image *image)
{
	return bytes_before(image, image->token_end);
}

uint32_t kvx_image_units(uint64_t bytes, uint64_t unit_bytes, uint32_t most)
{
	uint64_t units = bytes / unit_bytes + (bytes % unit_bytes != 0);

	return (uint32_t)(units < 1 ? 1 : units > most ? most : units);
}

/* Where a unit begins that has so many of `whole` parts before it: units are cut between blocks of
 * both ends. */
static uint32_t cut_at(const struct kvx_image *image, uint32_t parts, uint32_t whole)
{
	if (!parts)
		return image->token_first;
	uint64_t from = image->token_first / image->align;
	uint64_t pieces = (image->token_end + (uint64_t)image->align - 1) / image->align - from;
	uint64_t token = (from + pieces * parts / whole) * image->align;

	if (token < image->token_first)
		return image->token_first;
	return token < image->token_end ? (uint32_t)token : image->token_end;
}

void kvx_image_cut(struct kvx_image *image, uint32_t units, const uint8_t *weights)
{
	uint32_t whole = 0, parts = 0;

	for (uint32_t unit = 0; unit < units; unit++)
		whole += weights ? weights[unit] : 1;
	image->units = units;
	for (uint32_t unit = 0; unit <= units; unit++) {
		image->tokens[unit] = cut_at(image, parts, whole);
		image->places[unit] = bytes_before(image, image->tokens[unit]);
		if (unit < units)
			parts += weights ? weights[unit] : 1;
	}
}

uint64_t kvx_image_filled(const struct kvx_image *image)
{
	uint64_t filled = 0;

	for (uint32_t unit = 0; unit < image->units; unit++)
		if (image->places[unit + 1] > image->places[unit])
			filled |= UINT64_C(1) << unit;
	return filled;
}

static void lay_out(const struct kvx_image *image, const struct kvx_shape *shape,
		    const struct kvx_share *share, struct kvx_lay lays[KVX_PLANES_MAX])
{
	for (uint32_t i = 0; i < image->planes; i++) {
		const struct kvx_plane *plane = &shape->plane[i];
		uint32_t grains = image->plane[i].chunk_grains;
		bool by_head = image->plane[i].by_head;
		lays[i] = (struct kvx_lay){
			.offset = (share->plane[i].head_first - plane->head_first) *
				  plane->head_stride,
			.chunks = shape->block_tokens / image->chunk_tokens,
			.chunk_stride = grains * plane->grain_stride,
			.outer_stride = by_head ? plane->head_stride : plane->grain_stride,
			.inner_stride = by_head ? plane->grain_stride : plane->head_stride,
		};
		lays[i].piece = kvx_lay_piece(&lays[i], &image->plane[i], grains);
	}
}

void kvx_lay_out(const struct kvx_image *image, const struct kvx_shape *shape,
		 const struct kvx_share *share, struct kvx_lay lays[KVX_PLANES_MAX])
{
	struct kvx_shape rows = *shape;
	struct kvx_share joined = *share;

	if (image->joined) {
		join_shape(&rows, image->joined);
		join_share(&joined, &rows, image->joined);
	}
	lay_out(image, &rows, &joined, lays);
}

/* --- where bytes of a unit land --- */

struct landing {
	struct iovec *begin, *next, *end; /* end: of what there is room for */
	char *last_end;                   /* where the last entry ends */
	uint64_t left;                    /* bytes that have no place yet */
};

/* False: no entry is left for it. */
static inline bool land(struct landing *landing, char *address, uint64_t bytes)
{
	if (address == landing->last_end && landing->next > landing->begin)
		landing->next[-1].iov_len += bytes;
	else if (landing->next < landing->end)
		*landing->next++ = (struct iovec){address, bytes};
	else
		return false;
	landing->last_end = address + bytes;
	landing->left -= bytes;
	return true;
}

/* What is left of a chunk, from offset on, piece by piece. */
static bool land_pieces(struct landing *landing, const struct kvx_lay *lay,
			const struct kvx_image_plane *plane, uint32_t grains, uint32_t offset,
			char *chunk)
{
	uint32_t end = grains * plane->heads * plane->grain_bytes;
	uint32_t piece =
		grains == plane->chunk_grains ? lay->piece : kvx_lay_piece(lay, plane, grains);
	struct kvx_spot spot = kvx_spot_at(plane, grains, piece, offset);

	while (offset < end && landing->left) {
		uint32_t length = piece - spot.rest;
		if (length > landing->left)
			length = (uint32_t)landing->left;
		if (!land(landing, chunk + kvx_spot_offset(&spot, lay), length))
			return false;
		kvx_spot_step(&spot, length);
		offset += length;
	}
	return true;
}

/* On the way through the chunks of a segment, in the blocks of a table. */
struct trip {
	uint32_t chunk, offset; /* offset: bytes into the chunk */
	uint32_t block, part;   /* the part-th chunk of the block-th entry */
};

static void next_chunk(struct trip *trip, const struct kvx_lay *lay)
{
	trip->offset = 0;
	trip->chunk++;
	if (++trip->part < lay->chunks)
		return;
	trip->part = 0;
	trip->block++;
}

/* From the rest-th byte of a plane's segment to its end. */
static bool land_segment(struct landing *landing, const struct kvx_lay *lay,
			 const struct kvx_image_plane *plane, const struct kvx_segment *segment,
			 const uint32_t *table, const struct kvx_source *target, uint64_t rest)
{
	uint32_t chunk = segment->chunk + (uint32_t)(rest / plane->chunk_bytes);
	struct trip trip = {chunk, (uint32_t)(rest % plane->chunk_bytes), chunk / lay->chunks,
			    chunk % lay->chunks};
	uint32_t whole_end =
		segment->last_chunk + (segment->last_grains == plane->chunk_grains ? 1 : 0);

	if (lay->piece < plane->chunk_bytes)
		whole_end = segment->chunk;
	for (; trip.chunk <= segment->last_chunk && landing->left; next_chunk(&trip, lay)) {
		char *begin = target->base +
			      kvx_lay_chunk(lay, table[trip.block], trip.part, target->stride);
		if (trip.chunk < whole_end) {
			uint64_t length = plane->chunk_bytes - trip.offset;
			length = length < landing->left ? length : landing->left;
			if (!land(landing, begin + trip.offset, length))
				return false;
			continue;
		}
		uint32_t grains = trip.chunk < segment->last_chunk ? plane->chunk_grains
								   : segment->last_grains;
		if (!land_pieces(landing, lay, plane, grains, trip.offset, begin))
			return false;
	}
	return true;
}

int kvx_image_resolve(const struct kvx_layer_place *layer, uint32_t unit, uint64_t place,
		      uint64_t bytes, struct iovec *iov, int iov_max)
{
	const struct kvx_image *image = layer->image;
	struct landing landing = {iov, iov, iov + iov_max, NULL, bytes};
	uint64_t rest = place - image->places[unit];

	for (uint32_t i = 0; i < image->planes && landing.left; i++) {
		const struct kvx_image_plane *plane = &image->plane[i];
		struct kvx_segment segment =
			kvx_segment_of(image, plane, image->tokens[unit], image->tokens[unit + 1]);
		if (rest >= segment.bytes) {
			rest -= segment.bytes;
			continue;
		}
		if (!land_segment(&landing, &layer->lays[i], plane, &segment, layer->table,
				  &layer->targets[i], rest))
			break;
		rest = 0;
	}
	return (int)(landing.next - iov);
}

uint64_t kvx_table_hash(const uint32_t *to, uint32_t count)
{
	return XXH3_64bits(to, (size_t)count * sizeof(*to));
}

uint64_t kvx_plan_hash(const struct kvx_geometry *geometry, const struct kvx_image *image,
		       const struct kvx_share *share, uint64_t table_hash)
{
	uint8_t fixed[64 + 24 * KVX_PLANES_MAX + 4 * KVX_UNITS_MAX];
	struct kvx_writer writer = kvx_writer_over(fixed, sizeof(fixed));

	kvx_put_u64(&writer, kvx_geometry_hash(geometry));
	kvx_put_u64(&writer, table_hash);
	kvx_put_u32(&writer, image->token_first);
	kvx_put_u32(&writer, image->token_end);
	kvx_put_u32(&writer, image->chunk_tokens);
	kvx_put_u32(&writer, image->align);
	kvx_put_u8(&writer, (uint8_t)image->joined);
	kvx_put_u32(&writer, share->layer_first);
	kvx_put_u32(&writer, share->layers);
	for (uint32_t i = 0; i < image->planes; i++) {
		kvx_put_u32(&writer, share->plane[i].head_first);
		kvx_put_u32(&writer, share->plane[i].heads);
		kvx_put_u32(&writer, share->plane[i].token_first);
		kvx_put_u32(&writer, share->plane[i].token_end);
		kvx_put_u8(&writer, image->plane[i].by_head);
	}
	kvx_put_u32(&writer, image->units);
	for (uint32_t unit = 1; unit < image->units; unit++)
		kvx_put_u32(&writer, image->tokens[unit]);
	return XXH3_64bits(fixed, (size_t)(writer.next - fixed));
}
