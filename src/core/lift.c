/* SPDX-License-Identifier: Apache-2.0 */
/* The sending half of the data path where the transport cannot read the pool's memory: a device's
 * copy engines bring a unit into buffers, batch by batch and ahead of the wire. */
#include "core/device.h"
#include "core/peer.h"
#include "core/region.h"
#include "core/stream.h"
#include "plan/unit.h"
#include "trace.h"

#include <stdlib.h>

struct kvx_device *kvx_lift_device(const struct kvx_stream *stream, uint32_t layer)
{
	const struct kvx_memory *memory =
		layer == KVX_TAIL ? &stream->tail.region->memory : stream->pool->memories[0];

	const struct kvx_transport_ops *ops = stream->peer->link->ops;

	return ops->one_sided || ops->devices_only ? NULL : memory->device;
}

bool kvx_lift_busy(const struct kvx_rail *rail)
{
	return rail->lift && rail->lift->posted != rail->lift->end;
}

static struct kvx_lifted *entry_at(struct kvx_lift *lift, uint32_t index)
{
	return &lift->entries[index % KVX_LIFTED_MAX];
}

/* Buffers of what the transport has released, or what nobody wants, are free. */
static void take_back(struct kvx_lift *lift)
{
	for (; lift->begin != lift->posted; lift->begin++) {
		struct kvx_lifted *entry = entry_at(lift, lift->begin);
		if (entry->posted && lift->taken_back == lift->released)
			return;
		lift->taken_back += entry->posted;
		kvx_device_give_buffer(entry->device, entry->buffer);
	}
}

/* --- from the device into a buffer --- */

/* The next bytes of the unit, of at most a buffer: copies from where they lie. */
struct gathering {
	const struct kvx_stream *stream;
	uint32_t layer;
	struct kvx_cursor cursor; /* moved */
	char *to;
	uint32_t bytes, slices; /* so far */
};

static uint32_t gather_tail(struct gathering *gathering, struct kvx_copy *copy)
{
	const struct kvx_tail *tail = &gathering->stream->tail;
	struct kvx_cursor *cursor = &gathering->cursor;
	uint32_t bytes = (uint32_t)(cursor->end - cursor->place);

	if (!bytes)
		return 0;
	*copy = (struct kvx_copy){
		gathering->to, tail->region->memory.address + tail->offset + cursor->place, bytes};
	cursor->place += bytes;
	gathering->bytes += bytes;
	return 1;
}

/* Returns how many there are, 0 at the end. */
static uint32_t gather(struct gathering *gathering, struct kvx_copy *copies)
{
	const struct kvx_stream *stream = gathering->stream;
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	uint32_t bytes;

	if (gathering->layer == KVX_TAIL)
		return gather_tail(gathering, copies);
	uint32_t count = kvx_cursor_fill(&gathering->cursor, &stream->plan,
					 kvx_pool_layer(stream->pool, gathering->layer), NULL,
					 slices, &bytes);
	for (uint32_t i = 0; i < count; i++) {
		copies[i] = (struct kvx_copy){gathering->to + gathering->bytes, slices[i].local,
					      slices[i].length};
		gathering->bytes += slices[i].length;
	}
	return count;
}

/* Pieces go to the device as many at once as it takes. False: it took not all of them. */
static bool start_copies(struct gathering *gathering, struct kvx_device *device)
{
	struct kvx_copy copies[KVX_COPIES_MAX];
	const struct kvx_pending pending = {.stream = (struct kvx_stream *)gathering->stream};
	uint32_t count = 0, more;

	_Static_assert(KVX_COPIES_MAX >= 2 * KVX_BATCH_SLICES_MAX, "two fills make one call");
	do {
		more = gather(gathering, copies + count);
		count += more;
		gathering->slices += more;
		if (!count || (more && count <= KVX_COPIES_MAX - KVX_BATCH_SLICES_MAX))
			continue;
		if (!kvx_device_copy(device, copies, count, &pending))
			return false;
		count = 0;
	} while (more);
	return true;
}

static struct kvx_lift *lift_of(struct kvx_rail *rail)
{
	if (!rail->lift)
		rail->lift = calloc(1, sizeof(*rail->lift));
	return rail->lift;
}

bool kvx_lift_start(struct kvx_rail *rail, struct kvx_stream *stream, struct kvx_device *device)
{
	struct kvx_lift *lift = lift_of(rail);
	struct gathering gathering = {
		.stream = stream, .layer = rail->layer, .cursor = rail->cursor};
	uint64_t end = rail->cursor.end;

	if (!lift)
		return false;
	take_back(lift);
	if (lift->end - lift->begin == KVX_LIFTED_MAX || kvx_device_is_crowded(device))
		return false;
	uint32_t buffer = kvx_device_take_buffer(device);
	if (!buffer)
		return false;
	gathering.to = kvx_device_buffer(device, buffer);
	if (end - gathering.cursor.place > KVX_BUFFER_BYTES)
		gathering.cursor.end = gathering.cursor.place + KVX_BUFFER_BYTES;
	if (!start_copies(&gathering, device)) {
		kvx_device_give_buffer(device, buffer);
		return false;
	}
	gathering.cursor.end = end;
	struct kvx_lifted *added = entry_at(lift, lift->end++);
	*added = (struct kvx_lifted){
		.stream = stream,
		.device = device,
		.number = device->pending[(device->pending_tail - 1) % KVX_PENDING_MAX].number,
		.buffer = buffer,
		.layer = rail->layer,
		.unit = rail->unit,
		.place = rail->cursor.place,
		.bytes = gathering.bytes,
		.last = gathering.cursor.place == end,
	};
	rail->cursor = gathering.cursor;
	rail->slices += gathering.slices;
	if (added->last) {
		*kvx_stream_unit_slices(stream, rail->layer, rail->unit) = rail->slices;
		rail->stream = NULL;
	}
	return true;
}

/* --- from the buffer to the peer --- */

static bool post(struct kvx_peer *peer, uint32_t rail, const struct kvx_lifted *entry)
{
	struct kvx_stream *stream = entry->stream;
	struct kvx_engine *engine = peer->engine;
	const struct kvx_slice slice = {
		.local = kvx_device_buffer(entry->device, entry->buffer),
		.memory = &entry->device->staging->memory,
		.length = entry->bytes,
	};
	const struct kvx_batch batch = {
		.unit = {kvx_imm_pack(stream->ticket.slot, stream->ticket.generation,
				      kvx_stream_their_layer(stream, entry->layer),
				      stream->unit_first + entry->unit),
			 stream->ticket.generation},
		.place = entry->place,
		.bytes = entry->bytes,
		.count = 1,
		.slices = &slice,
		.flow = &stream->flow,
		.last = entry->last,
		.released = &peer->rails[rail].lift->released,
	};

	if (!peer->link->ops->post(peer->link, rail, &batch))
		return false;
	kvx_count(engine, slices_sent, 1);
	kvx_count(engine, bytes_sent, entry->bytes);
	kvx_count(engine, units_sent, entry->last);
	KVX_TRACE(batch_posted, stream->transfer.id, entry->bytes, 1, rail);
	return true;
}

int kvx_lift_post(struct kvx_peer *peer, uint32_t index)
{
	struct kvx_lift *lift = peer->rails[index].lift;
	int posted = 0;

	for (; lift && lift->posted != lift->end; lift->posted++) {
		struct kvx_lifted *entry = entry_at(lift, lift->posted);
		if (!entry->stream)
			continue;
		if (entry->number > entry->device->copied || !post(peer, index, entry))
			break;
		entry->posted = true;
		posted++;
	}
	if (lift)
		take_back(lift);
	return posted;
}

/* --- ends --- */

void kvx_lift_give_up(struct kvx_rail *rail, const struct kvx_stream *stream, uint32_t layer)
{
	struct kvx_lift *lift = rail->lift;

	for (uint32_t i = lift ? lift->posted : 0; lift && i != lift->end; i++) {
		struct kvx_lifted *entry = entry_at(lift, i);
		if (entry->stream == stream && (layer == KVX_ALL_LAYERS || layer == entry->layer))
			entry->stream = NULL;
	}
}

void kvx_lift_clear(struct kvx_rail *rail)
{
	struct kvx_lift *lift = rail->lift;

	for (; lift && lift->begin != lift->end; lift->begin++) {
		const struct kvx_lifted *entry = entry_at(lift, lift->begin);
		kvx_device_give_buffer(entry->device, entry->buffer);
	}
	if (lift) {
		lift->posted = lift->end;
		lift->taken_back = lift->released;
	}
}

void kvx_lift_free(struct kvx_rail *rail)
{
	kvx_lift_clear(rail);
	free(rail->lift);
	rail->lift = NULL;
}
