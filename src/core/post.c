/* SPDX-License-Identifier: Apache-2.0 */
/* The sending half of the data path: ready layer -> unit -> rail -> slices -> transport. */
#include "core/peer.h"
#include "core/stream.h"
#include "plan/unit.h"

/* Batches that a rail gets in one step, so that the other peers get their turn. */
#define BATCHES_PER_STEP 8

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
		stream->posted[rail->layer].rail[rail->unit] = (uint8_t)index;
		kvx_list_remove(turn);
		kvx_list_append(&peer->active, turn);
		kvx_cursor_seek(&rail->cursor, &stream->plan, rail->unit);
		rail->stream = stream;
		return stream;
	}
	return NULL;
}

static bool post_batch(struct kvx_peer *peer, uint32_t index, struct kvx_stream *stream)
{
	struct kvx_engine *engine = peer->engine;
	struct kvx_rail *rail = &peer->rails[index];
	struct kvx_cursor cursor = rail->cursor;
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_batch batch = {
		.unit = {kvx_imm_pack(stream->ticket.slot, stream->ticket.generation, rail->layer,
				      rail->unit),
			 stream->ticket.generation},
		.place = cursor.place,
		.slices = slices,
		.flow = &stream->flow,
	};
	size_t first_plane = (size_t)rail->layer * stream->pool->geometry.planes;

	batch.count = kvx_cursor_fill(
		&cursor, &stream->plan, kvx_pool_layer(stream->pool, rail->layer),
		stream->targets ? stream->targets + first_plane : NULL, slices, &batch.bytes);
	batch.last = cursor.place == cursor.end;
	if (!peer->link->ops->post(peer->link, index, &batch))
		return false;
	rail->cursor = cursor;
	kvx_count(engine, slices_sent, batch.count);
	kvx_count(engine, bytes_sent, batch.bytes);
	if (batch.last) {
		rail->stream = NULL;
		kvx_count(engine, units_sent, 1);
	}
	return true;
}

int kvx_peer_post(struct kvx_peer *peer)
{
	int posted = 0;

	for (uint32_t i = 0; i < peer->link->rails; i++) {
		struct kvx_rail *rail = &peer->rails[i];
		for (int batches = 0; rail->up && batches < BATCHES_PER_STEP; batches++) {
			struct kvx_stream *stream =
				rail->stream ? rail->stream : assign(peer, rail);
			if (!stream || !post_batch(peer, i, stream))
				break;
			posted++;
		}
	}
	return posted;
}
