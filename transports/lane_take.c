/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving side of a lane. What stands in the ring was written by the peer: every number is
 * read once and checked. */
#include "lane.h"

#include "base/copy.h"

#include <errno.h>
#include <string.h>

#define PLACES 128

#define COST_MIN 4096u /* of a message or a batch that is dropped, against the bytes of others */

struct batch {
	struct kvx_unit unit;
	uint64_t place;
	uint32_t bytes, count;
	_Atomic uint64_t *state;
};

/* Where in the slices the copying stands. */
struct cursor {
	const struct kvx_lane_slice *slice;
	uint32_t offset; /* in that slice, in bytes */
};

static void release(struct kvx_lane *lane, uint32_t entries)
{
	if (lane->ahead)
		kvx_lane_set_aside(lane, &(struct kvx_lane_taken){.entries = entries});
	else if (kvx_ring_release(&lane->in, entries))
		lane->ops->bell(lane);
}

/* The index of what is to be taken next. */
static uint32_t next_of(const struct kvx_lane *lane)
{
	return lane->in.head + lane->ahead;
}

static uint32_t broke_protocol(struct kvx_lane *lane, const char *what)
{
	kvx_lane_fail(lane, KVX_E_PROTOCOL, "%s: the peer sent %s", lane->link.ops->name, what);
	return COST_MIN;
}

static uint32_t take_message(struct kvx_lane *lane, uint64_t word, uint32_t filled)
{
	const struct kvx_ring *ring = &lane->in;
	uint64_t words[KVX_MESSAGE_MAX / sizeof(uint64_t)];
	uint32_t length = (uint32_t)(word >> 32), at = next_of(lane);
	uint32_t entries = length / KVX_RING_ENTRY_BYTES + (length % KVX_RING_ENTRY_BYTES > 0);

	if (length == 0 || length > KVX_MESSAGE_MAX || entries >= filled)
		return broke_protocol(lane, "a message of impossible length");
	for (uint32_t i = 0; i < entries; i++) {
		words[2 * (size_t)i] = kvx_ring_word(ring, at + 1 + i, 0);
		words[2 * (size_t)i + 1] = kvx_ring_word(ring, at + 1 + i, 1);
	}
	release(lane, 1 + entries);
	lane->context->sink->message(lane->context->engine, &lane->link, words, length);
	return COST_MIN;
}

/* Reads a batch out of the ring; false if it is none. */
static bool read_batch(const struct kvx_lane *lane, uint64_t word, uint32_t filled,
		       struct batch *batch, struct kvx_lane_slice *slices)
{
	const struct kvx_ring *ring = &lane->in;
	uint32_t at = next_of(lane);
	uint64_t sum = 0;

	batch->count = (uint16_t)(word >> 16);
	batch->bytes = (uint32_t)(word >> 32);
	if (batch->count == 0 || batch->count > KVX_BATCH_SLICES_MAX || filled < batch->count + 2 ||
	    batch->bytes > KVX_BATCH_BYTES_MAX)
		return false;
	batch->place = kvx_ring_word(ring, at, 1);
	word = kvx_ring_word(ring, at + 1, 0);
	batch->unit = (struct kvx_unit){(uint32_t)word, (uint32_t)(word >> 32)};
	batch->state = &kvx_ring_at(ring, at + 1)->words[1];
	for (uint32_t i = 0; i < batch->count; i++) {
		word = kvx_ring_word(ring, at + 2 + i, 1);
		slices[i].where = kvx_ring_word(ring, at + 2 + i, 0);
		slices[i].memory = (uint32_t)word;
		slices[i].length = (uint32_t)(word >> 32);
		if (!slices[i].length)
			return false;
		sum += slices[i].length;
	}
	return sum == batch->bytes && batch->place <= UINT64_MAX - sum;
}

void kvx_lane_copy(const struct kvx_lane_piece *pieces, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		if (i + 1 < count)
			kvx_copy_ahead(pieces[i + 1].from, pieces[i + 1].bytes);
		kvx_copy(pieces[i].to, pieces[i].from, pieces[i].bytes);
	}
}

static int move(struct kvx_lane *lane, const struct kvx_lane_piece *pieces, uint32_t count,
		struct kvx_lane_mark *mark)
{
	if (!count)
		return 0;
	return lane->ops->begin ? lane->ops->begin(lane, pieces, count, mark)
				: lane->ops->move(lane, pieces, count);
}

/* Cuts the slices from the cursor on into pieces that fit the places, and moves them. Adds what
 * that was to moved->bytes. Returns 0 or an errno. */
static int fill_places(struct kvx_lane *lane, struct cursor *cursor, const struct iovec *places,
		       int place_count, uint32_t bytes_max, struct kvx_lane_taken *moved)
{
	struct kvx_lane_piece pieces[KVX_LANE_PIECES_MAX];
	uint32_t count = 0, left = bytes_max;
	int error = 0;

	moved->answers++;
	for (int i = 0; i < place_count && !error; i++) {
		char *to = places[i].iov_base;
		size_t room = places[i].iov_len;
		while (room && left && !error) {
			const struct kvx_lane_slice *slice = cursor->slice;
			uintptr_t from = (uintptr_t)slice->from + cursor->offset;
			uint32_t bytes = slice->length - cursor->offset;
			if (bytes > room)
				bytes = (uint32_t)room;
			pieces[count++] = (struct kvx_lane_piece){to, (const char *)from, bytes,
								  slice->memory, slice->remote};
			to += bytes;
			room -= bytes;
			left -= bytes;
			cursor->offset += bytes;
			if (cursor->offset == slice->length)
				*cursor = (struct cursor){slice + 1, 0};
			if (count == KVX_LANE_PIECES_MAX) {
				error = move(lane, pieces, count, &moved->mark);
				count = 0;
			}
		}
	}
	moved->bytes += bytes_max - left;
	return error ? error : move(lane, pieces, count, &moved->mark);
}

/* Copies as much as the sink has places for; adds to moved what that is. Returns 0, an errno, or
 * KVX_PLACE_LATER with nothing moved. */
static int copy_batch(struct kvx_lane *lane, const struct batch *batch,
		      const struct kvx_lane_slice *slices, struct kvx_lane_taken *moved)
{
	const struct kvx_transport_context *context = lane->context;
	struct cursor cursor = {slices, 0};
	struct iovec places[PLACES];
	int error = 0;

	while (moved->bytes < batch->bytes && !error) {
		uint32_t left = batch->bytes - moved->bytes;
		int count = context->sink->place(context->engine, &lane->link, &batch->unit,
						 batch->place + moved->bytes, left, places, PLACES);
		if (count == KVX_PLACE_LATER && !moved->bytes)
			return count;
		if (count <= 0)
			break;
		error = fill_places(lane, &cursor, places, count, left, moved);
	}
	kvx_copy_fence();
	return error;
}

/* A batch that this side holds busy is to be looked at again, unless it is withdrawn meanwhile: who
 * does that waits for it to be done. */
static void put_back(const struct batch *batch)
{
	uint64_t expected = KVX_LANE_BUSY;

	if (!atomic_compare_exchange_strong(batch->state, &expected, KVX_LANE_FRESH))
		atomic_store_explicit(batch->state, KVX_LANE_DONE, memory_order_release);
}

/* Copies a batch that this side holds busy, and reports it unless it was withdrawn meanwhile.
 * False: there is no room for it now. */
static bool finish_batch(struct kvx_lane *lane, const struct batch *batch,
			 const struct kvx_lane_slice *slices)
{
	struct kvx_lane_taken moved = {0};
	int error = copy_batch(lane, batch, slices, &moved);

	if (error == KVX_PLACE_LATER) {
		put_back(batch);
		return false;
	}
	bool counts = atomic_exchange_explicit(batch->state, KVX_LANE_DONE, memory_order_acq_rel) ==
		      KVX_LANE_BUSY;
	release(lane, batch->count + 2);
	if (!counts)
		return true;
	if (error == ESRCH)
		kvx_lane_fail(lane, KVX_E_PEER_LOST, "%s: the peer's process has ended",
			      lane->link.ops->name);
	else if (error)
		kvx_lane_fail(lane, KVX_E_TRANSPORT,
			      "%s: cannot read the sender's memory: %s; let it allocate the pool "
			      "with kvx_pool_alloc(), or set kernel.yama.ptrace_scope to 0",
			      lane->link.ops->name, strerror(error));
	else if (moved.bytes)
		lane->context->sink->landed(lane->context->engine, &lane->link, 0, &batch->unit,
					    batch->place, moved.bytes);
	return true;
}

/* Begins to copy a batch that this side holds busy; kvx_lane_settle() reports it. What a peer that
 * is gone has left behind does not count: its memory may be gone too. */
static bool begin_batch(struct kvx_lane *lane, const struct batch *batch,
			const struct kvx_lane_slice *slices)
{
	struct kvx_lane_taken taken = {
		.entries = batch->count + 2,
		.state = batch->state,
		.unit = batch->unit,
		.place = batch->place,
	};
	int error = lane->failure ? 0 : copy_batch(lane, batch, slices, &taken);

	if (error == KVX_PLACE_LATER) {
		put_back(batch);
		return false;
	}
	kvx_lane_set_aside(lane, &taken);
	return true;
}

static uint32_t take_batch(struct kvx_lane *lane, uint64_t word, uint32_t filled)
{
	struct kvx_lane_slice slices[KVX_BATCH_SLICES_MAX];
	struct batch batch;
	uint64_t expected = KVX_LANE_FRESH;

	if (lane->posted || !read_batch(lane, word, filled, &batch, slices))
		return broke_protocol(lane, "a batch that does not add up");
	if (!atomic_compare_exchange_strong(batch.state, &expected, KVX_LANE_BUSY)) {
		release(lane, batch.count + 2);
		return COST_MIN;
	}

	int unresolved = lane->ops->resolve(lane, slices, batch.count);
	if (unresolved) {
		put_back(&batch);
		return unresolved < 0 ? COST_MIN : 0;
	}
	if (!(lane->taken ? begin_batch : finish_batch)(lane, &batch, slices))
		return 0;
	return batch.bytes > COST_MIN ? batch.bytes : COST_MIN;
}

uint32_t kvx_lane_take(struct kvx_lane *lane)
{
	if (!lane->up || (lane->failure && !lane->draining) || kvx_lane_is_full(lane))
		return 0;

	uint32_t filled = kvx_ring_filled_behind(&lane->in, lane->ahead);
	if (!filled)
		return 0;

	uint64_t word = kvx_ring_word(&lane->in, next_of(lane), 0);
	switch (word & 0xff) {
	case KVX_LANE_MESSAGE:
		return take_message(lane, word, filled);
	case KVX_LANE_BATCH:
		return take_batch(lane, word, filled);
	default:
		return broke_protocol(lane, "an entry of no known kind");
	}
}
