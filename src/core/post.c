/* SPDX-License-Identifier: Apache-2.0 */
/* The sending half of the data path: ready layer -> unit -> rail -> slices -> transport. */
#include "base/clock.h"
#include "base/copy.h"
#include "core/peer.h"
#include "core/region.h"
#include "core/stream.h"
#include "plan/unit.h"
#include "trace.h"

#include <string.h>

/* Batches that a rail gets in one step, so that the other peers get their turn. */
#define BATCHES_PER_STEP 8

/* Pieces whose first lines are fetched before their turn. */
#define PIECES_AHEAD 8

/* The layer's first unit leaves. */
static void time_queueing(const struct kvx_stream *stream, uint32_t layer)
{
	struct kvx_engine *engine = stream->transfer.engine;
	int64_t ready_ns = kvx_stream_ready_ns(stream, layer);

	if (ready_ns)
		kvx_histogram_add(&engine->figures.queueing, kvx_now_ns() - ready_ns);
}

/* The rail carries a unit of that layer from now on. */
static void note_assigned(const struct kvx_stream *stream, uint32_t layer, uint32_t unit,
			  uint32_t rail)
{
	uint64_t bits = kvx_stream_posted(stream, layer)->bits;

	if (!(bits & (bits - 1)))
		time_queueing(stream, layer);
	KVX_TRACE(unit_assigned, stream->transfer.id, layer, unit, rail);
}

/* And, where they lie side by side, of the layers behind it. */
static void begin_unit(struct kvx_rail *rail, struct kvx_stream *stream, uint32_t index)
{
	const struct kvx_plan *plan = &stream->plan;

	rail->stream = stream;
	rail->slices = 0;
	rail->gathered = NULL;
	rail->layers = 1;
	rail->joined = false;
	if (rail->layer == KVX_TAIL) {
		rail->cursor = (struct kvx_cursor){.end = stream->tail.bytes};
		return;
	}
	kvx_cursor_seek(&rail->cursor, plan, rail->unit);
	rail->layers = kvx_stream_join_layers(stream, index, rail->layer, rail->unit,
					      kvx_plan_join_most(plan, &rail->cursor));
	if (rail->layers == 1)
		return;
	rail->joined = true;
	kvx_cursor_join(&rail->cursor, plan, rail->layers);
}

/* What is left of the layer's unit once several layers' has left together. */
static void begin_rest(struct kvx_rail *rail)
{
	rail->joined = false;
	kvx_cursor_seek_rest(&rail->cursor, &rail->stream->plan, rail->unit);
}

/* A unit is through: the next layer's is next that left with it. */
static void end_unit(struct kvx_rail *rail)
{
	if (!--rail->layers) {
		rail->stream = NULL;
		return;
	}
	rail->layer++;
	rail->slices = 0;
	begin_rest(rail);
}

/* Nothing more is read of that layer. Others that leave with it, which only a receiver that lies
 * can bring about, are posted again. */
void kvx_rail_give_up(struct kvx_rail *rail, struct kvx_stream *stream, uint32_t layer)
{
	if (rail->stream != stream || layer - rail->layer >= rail->layers)
		return;
	rail->stream = NULL;
	for (uint32_t other = rail->layer; other < rail->layer + rail->layers; other++)
		if (other != layer)
			kvx_stream_post_again(stream, other, rail->unit);
	if (rail->layers > 1)
		kvx_stream_activate(stream);
}

/* Gives an idle rail the next unit of the stream whose turn it is; NULL: there is none. */
static struct kvx_stream *assign(struct kvx_peer *peer, struct kvx_rail *rail)
{
	struct kvx_list *turn, *next;

	kvx_list_for_each (turn, next, &peer->active) {
		struct kvx_stream *stream = kvx_container_of(turn, struct kvx_stream, active_entry);
		uint32_t index = (uint32_t)(rail - peer->rails);
		if (!kvx_stream_next_unit(stream, index, &rail->layer, &rail->unit)) {
			if (!kvx_stream_pending(stream))
				kvx_list_remove(turn);
			continue;
		}
		kvx_list_remove(turn);
		kvx_list_append(&peer->active, turn);
		begin_unit(rail, stream, index);
		for (uint32_t i = 0; i < rail->layers; i++)
			note_assigned(stream, rail->layer + i, rail->unit, index);
		return stream;
	}
	return NULL;
}

/* The tail is one slice. */
static uint32_t fill_tail(struct kvx_cursor *cursor, const struct kvx_stream *stream,
			  struct kvx_slice *slice, uint32_t *bytes)
{
	const struct kvx_memory *memory = &stream->tail.region->memory;

	*bytes = stream->tail.bytes;
	*slice = (struct kvx_slice){
		.local = memory->address + stream->tail.offset,
		.memory = memory,
		.length = *bytes,
	};
	if (stream->targets) {
		const struct kvx_target *target = &stream->targets[stream->targets_known - 1];
		slice->target = target->memory;
		slice->offset = target->base;
	}
	cursor->place = *bytes;
	return 1;
}

/* Copies the next bytes of the unit, which lie in pieces, to one place, and moves the cursor. */
static void gather(struct kvx_cursor *cursor, const struct kvx_stream *stream, uint32_t layer,
		   char *to, uint32_t bytes)
{
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	uint64_t end = cursor->end;
	uint32_t count, some;

	cursor->end = cursor->place + bytes;
	while ((count = kvx_cursor_fill(cursor, &stream->plan, kvx_pool_layer(stream->pool, layer),
					NULL, slices, &some)))
		for (uint32_t i = 0; i < count; to += slices[i++].length) {
			if (i + PIECES_AHEAD < count)
				kvx_copy_ahead(slices[i + PIECES_AHEAD].local,
					       slices[i + PIECES_AHEAD].length);
			memcpy(to, slices[i].local, slices[i].length);
		}
	cursor->end = end;
}

/* What is contiguous at the receiver, of at most a buffer; where that places the bytes itself, all
 * of it. */
static uint32_t fill_targets(const struct kvx_rail *rail, const struct kvx_stream *stream,
			     const struct kvx_target *targets, struct kvx_slice *slices,
			     uint32_t *bytes)
{
	struct kvx_cursor cursor = rail->cursor;

	if (cursor.end - cursor.place > KVX_STAGING_BYTES)
		cursor.end = cursor.place + KVX_STAGING_BYTES;
	if (targets)
		return kvx_cursor_fill(&cursor, &stream->plan, NULL, targets, slices, bytes);
	*bytes = slices[0].length = (uint32_t)(cursor.end - cursor.place);
	return 1;
}

/* Slices out of a buffer. A batch that the transport did not take was gathered already. 0: no
 * buffer is free. */
static uint32_t fill_staged(struct kvx_rail *rail, struct kvx_cursor *cursor,
			    const struct kvx_stream *stream, const struct kvx_target *targets,
			    struct kvx_slice *slices, uint32_t *bytes)
{
	struct kvx_engine *engine = stream->transfer.engine;
	uint32_t count = fill_targets(rail, stream, targets, slices, bytes);

	if (!rail->gathered) {
		rail->gathered =
			kvx_staging_take(engine, &kvx_stream_posted(stream, rail->layer)->staged);
		if (!rail->gathered)
			return 0;
		rail->after = *cursor;
		gather(&rail->after, stream, rail->layer, rail->gathered, *bytes);
	}
	const char *next = rail->gathered;
	for (uint32_t i = 0; i < count; next += slices[i++].length) {
		slices[i].local = next;
		slices[i].memory = kvx_staging_memory(engine);
	}
	*cursor = rail->after;
	return count;
}

/* The next slices of the unit that the rail carries. */
static uint32_t fill(struct kvx_rail *rail, struct kvx_cursor *cursor,
		     const struct kvx_stream *stream, struct kvx_slice *slices, uint32_t *bytes)
{
	const struct kvx_target *targets = NULL;
	uint32_t count = 0, layer = rail->layer;

	if (layer == KVX_TAIL)
		return fill_tail(cursor, stream, slices, bytes);
	if (stream->targets)
		targets = stream->targets +
			  (size_t)kvx_stream_their_layer(stream, layer) * stream->theirs.planes;
	if (stream->staged)
		count = fill_staged(rail, cursor, stream, targets, slices, bytes);
	if (!count)
		count = kvx_cursor_fill(cursor, &stream->plan, kvx_pool_layer(stream->pool, layer),
					targets, slices, bytes);
	return count;
}

static bool post_batch(struct kvx_peer *peer, uint32_t index, struct kvx_stream *stream)
{
	struct kvx_engine *engine = peer->engine;
	struct kvx_rail *rail = &peer->rails[index];
	struct kvx_cursor cursor = rail->cursor;
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_batch batch = {
		.unit = {kvx_imm_pack(stream->ticket.slot, stream->ticket.generation,
				      kvx_stream_their_layer(stream, rail->layer),
				      stream->unit_first + rail->unit),
			 stream->ticket.generation},
		.place = cursor.place,
		.slices = slices,
		.flow = &stream->flow,
	};
	batch.count = fill(rail, &cursor, stream, slices, &batch.bytes);
	bool end = cursor.place == cursor.end;
	batch.last = end && !rail->joined;
	if (!peer->link->ops->post(peer->link, index, &batch))
		return false;
	rail->cursor = cursor;
	rail->gathered = NULL;
	kvx_count(engine, slices_sent, batch.count);
	kvx_count(engine, bytes_sent, batch.bytes);
	KVX_TRACE(batch_posted, stream->transfer.id, batch.bytes, batch.count, index);
	rail->slices += batch.count;
	if (batch.last) {
		*kvx_stream_unit_slices(stream, rail->layer, rail->unit) = rail->slices;
		kvx_count(engine, units_sent, 1);
		end_unit(rail);
	} else if (end) {
		begin_rest(rail);
	}
	return true;
}

/* The next batch of the unit that the rail carries leaves, or is brought to where it can leave. */
static bool advance(struct kvx_peer *peer, uint32_t index, struct kvx_stream *stream)
{
	struct kvx_rail *rail = &peer->rails[index];
	struct kvx_device *device = kvx_lift_device(stream, rail->layer);

	if (!device)
		return !kvx_lift_busy(rail) && post_batch(peer, index, stream);
	bool started = kvx_lift_start(rail, stream, device);
	peer->engine->lifts_wait |= !started;
	return started;
}

int kvx_peer_post(struct kvx_peer *peer)
{
	int posted = 0;

	for (uint32_t i = 0; i < peer->link->rails; i++) {
		struct kvx_rail *rail = &peer->rails[i];
		posted += rail->up ? kvx_lift_post(peer, i) : 0;
		for (int batches = 0; rail->up && batches < BATCHES_PER_STEP; batches++) {
			struct kvx_stream *stream =
				rail->stream ? rail->stream : assign(peer, rail);
			if (!stream || !advance(peer, i, stream))
				break;
			posted++;
		}
	}
	return posted;
}
