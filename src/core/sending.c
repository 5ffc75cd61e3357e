/* SPDX-License-Identifier: Apache-2.0 */
/* A stream's life in the worker: presented, accepted, delivered, ended. */
#include "base/clock.h"
#include "base/error.h"
#include "core/journal.h"
#include "core/offer.h"
#include "core/peer.h"
#include "core/stream.h"
#include "trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An id is an index into the table, with a sequence above it so that no id is used twice. */
static int name(struct kvx_stream *stream)
{
	struct kvx_engine *engine = stream->transfer.engine;
	uint32_t size = engine->stream_table_size;

	for (uint32_t tried = 0; tried < size; tried++) {
		uint64_t id = engine->stream_sequence++;
		if (engine->stream_table[id % size])
			continue;
		engine->stream_table[id % size] = stream;
		stream->id = id;
		return 0;
	}
	if (size >= KVX_STREAMS_MAX)
		return kvx_fail(KVX_E_LIMIT, "stream: %u streams are open, the most there can be",
				size);
	struct kvx_stream **table =
		calloc(size ? 2 * (size_t)size : 64, sizeof(struct kvx_stream *));
	if (!table)
		return kvx_fail(KVX_E_MEMORY, "stream: out of memory");
	uint32_t larger = size ? 2 * size : 64;
	for (uint32_t i = 0; i < size; i++)
		table[engine->stream_table[i]->id % larger] = engine->stream_table[i];
	free(engine->stream_table);
	engine->stream_table = table;
	engine->stream_table_size = larger;
	return name(stream);
}

struct kvx_stream *kvx_stream_find(struct kvx_engine *engine, const struct kvx_peer *peer,
				   uint64_t id)
{
	uint32_t size = engine->stream_table_size;
	struct kvx_stream *stream = size ? engine->stream_table[id % size] : NULL;

	return stream && stream->id == id && stream->peer == peer ? stream : NULL;
}

void kvx_stream_connect(struct kvx_stream *stream)
{
	struct kvx_engine *engine = stream->transfer.engine;
	/* From its opening, however late the worker takes it up; of an offer, from the pull. */
	int64_t from_ns = stream->offer ? engine->now_ns : stream->transfer.opened_ns;
	int64_t lease_end_ns = from_ns + stream->ticket.lease_ms * KVX_NS_PER_MS;

	kvx_timer_stop(&engine->timers, &stream->lease);
	int error = kvx_timer_start(&engine->timers, &stream->lease, lease_end_ns);
	if (!error)
		error = kvx_peer_for(engine, &stream->ticket,
				     kvx_pool_reach(stream->pool, &stream->tail), &stream->peer);
	if (error) {
		kvx_stream_end(stream, error, kvx_error_text(), false);
		return;
	}
	kvx_list_append(&stream->peer->streams, &stream->peer_entry);
	stream->peer->transfers++;
	if (kvx_peer_is_up(stream->peer))
		kvx_stream_present(stream);
}

void kvx_stream_start(struct kvx_stream *stream)
{
	if (stream->started)
		return;
	stream->started = true;
	kvx_count(stream->transfer.engine, streams_opened, 1);
	kvx_journal_transfer(&stream->transfer, KVX_EVENT_STREAM_OPENED, 0, 0, NULL);
	KVX_TRACE(stream_opened, stream->transfer.id);
	stream->id = UINT64_MAX;
	int error = name(stream);
	if (stream->offer)
		error = kvx_offer_start(stream->offer, error);
	if (error)
		kvx_stream_end(stream, error, kvx_error_text(), false);
	else if (!stream->offer)
		kvx_stream_connect(stream);
}

/* Cuts what it would move alone. */
static void cut(struct kvx_stream *stream)
{
	struct kvx_image image = stream->plan.image;

	kvx_image_cut(&image, stream->units, stream->weighted ? stream->weights : NULL);
	pthread_mutex_lock(&stream->transfer.engine->lock);
	stream->plan.image = image;
	pthread_mutex_unlock(&stream->transfer.engine->lock);
}

/* The number of units is known now. A connection that failed was presented to before. */
static bool make_room_for_figures(struct kvx_stream *stream)
{
	free(stream->unit_slices);
	stream->unit_slices = calloc((size_t)(stream->transfer.layers + 1) * stream->units,
				     sizeof(*stream->unit_slices));
	return stream->unit_slices != NULL;
}

void kvx_stream_present(struct kvx_stream *stream)
{
	const struct kvx_ticket *ticket = &stream->ticket;

	if (!kvx_stream_cut(stream)) {
		kvx_stream_end(stream, KVX_E_UNREACHABLE,
			       "stream: no rail joins ports that its memory and the receiver's may "
			       "use; see options topology and verbs_devices",
			       false);
		return;
	}
	cut(stream);
	if (!make_room_for_figures(stream)) {
		kvx_stream_end(stream, KVX_E_MEMORY, "stream: out of memory", false);
		return;
	}
	struct kvx_message open = {
		.type = KVX_MESSAGE_OPEN,
		.stream = stream->id,
		.slot = ticket->slot,
		.generation = ticket->generation,
		.key = ticket->key,
		.units = stream->units,
		.weighted = stream->weighted,
		.tail = stream->transfer.tail,
		.hash = kvx_plan_hash(&stream->pool->geometry, &stream->plan.image, &stream->share,
				      stream->table_hash),
		.geometry = stream->pool->geometry,
	};

	if (stream->weighted)
		memcpy(open.weights, stream->weights, open.units);
	stream->flow.slot = ticket->slot;
	stream->flow.generation = ticket->generation;
	stream->presented = true;
	kvx_peer_say(stream->peer, &open);
}

/* The receiver's tensors, and its tail if this sender has that. */
static uint32_t target_count(const struct kvx_stream *stream)
{
	return stream->theirs.layers * stream->theirs.planes + stream->transfer.tail;
}

void kvx_stream_layout(struct kvx_stream *stream, const struct kvx_layout_run *runs, uint32_t count)
{
	uint32_t tensors = target_count(stream);

	if (!stream->peer->link->ops->one_sided) {
		kvx_peer_condemn(stream->peer, KVX_E_PROTOCOL,
				 "it tells of memory that this transport does not write into");
		return;
	}
	if (!stream->targets)
		stream->targets = calloc(tensors, sizeof(*stream->targets));
	if (!stream->targets) {
		kvx_stream_end(stream, KVX_E_MEMORY, "stream: out of memory", true);
		return;
	}
	for (uint32_t i = 0; i < count; i++) {
		const struct kvx_layout_run *run = &runs[i];
		if (stream->open || !run->tensors ||
		    run->tensors > tensors - stream->targets_known) {
			kvx_peer_condemn(stream->peer, KVX_E_PROTOCOL,
					 "it tells of tensors that do not exist");
			return;
		}
		for (uint32_t j = 0; j < run->tensors; j++)
			stream->targets[stream->targets_known++] = (struct kvx_target){
				run->base + j * run->step, run->stride, run->memory};
	}
}

bool kvx_stream_look(struct kvx_stream *stream)
{
	const uint32_t *word = atomic_load_explicit(&stream->word, memory_order_relaxed);
	uint32_t told = __atomic_load_n(word, __ATOMIC_ACQUIRE) - stream->word_start;
	uint32_t layers = stream->transfer.layers;

	if (told > layers)
		told = layers;
	if (told <= stream->word_layers)
		return false;
	kvx_stream_make_ready(stream, stream->word_layers, told - stream->word_layers, UINT32_MAX);
	stream->word_layers = told;
	if (told == layers)
		kvx_list_remove(&stream->watch_entry);
	kvx_stream_activate(stream);
	return true;
}

/* The peer, the lists and the timer know it no more; transports read its blocks no more. */
static void detach(struct kvx_stream *stream)
{
	struct kvx_engine *engine = stream->transfer.engine;
	struct kvx_peer *peer = stream->peer;

	kvx_timer_stop(&engine->timers, &stream->lease);
	kvx_list_remove(&stream->watch_entry);
	kvx_list_remove(&stream->active_entry);
	kvx_list_remove(&stream->holding_entry);
	kvx_list_remove(&stream->peer_entry);
	if (stream->id != UINT64_MAX && kvx_stream_find(engine, peer, stream->id))
		engine->stream_table[stream->id % engine->stream_table_size] = NULL;
	stream->peer = NULL;
	if (peer)
		peer->transfers--;
	for (uint32_t i = 0; peer && peer->rails && i < peer->link->rails; i++)
		if (peer->rails[i].stream == stream)
			peer->rails[i].stream = NULL;
	for (uint32_t i = 0; peer && peer->rails && i < peer->link->rails; i++)
		kvx_lift_give_up(&peer->rails[i], stream, KVX_ALL_LAYERS);
	if (peer && peer->rails)
		peer->link->ops->withdraw(peer->link, &stream->flow);
	if (peer && stream->flow.in_flight) {
		stream->drains = peer;
		kvx_list_append(&peer->draining, &stream->peer_entry);
	}
	atomic_store_explicit(&stream->still, !kvx_stream_is_read(stream), memory_order_relaxed);
}

static void say_drained(const struct kvx_stream *stream, struct kvx_peer *peer)
{
	struct kvx_message drained = {.type = KVX_MESSAGE_DRAINED,
				      .slot = stream->ticket.slot,
				      .generation = stream->ticket.generation};

	if (kvx_peer_is_up(peer))
		kvx_peer_say(peer, &drained);
}

/* The receiver waits for it. At once, or when nothing is in flight any more. */
static void tell_drained(struct kvx_stream *stream, struct kvx_peer *peer)
{
	stream->tell_drained = stream->presented && stream->units_have_rails;
	if (stream->tell_drained && peer && !stream->flow.in_flight)
		say_drained(stream, peer);
}

static void acknowledge(struct kvx_stream *stream)
{
	struct kvx_engine *engine = stream->transfer.engine;
	uint32_t requests = stream->requests;

	stream->requests = 0;
	if (requests & KVX_STREAM_CANCEL)
		kvx_engine_acknowledge(engine, &stream->cancelled);
	if (requests & KVX_STREAM_CLOSE)
		kvx_engine_acknowledge(engine, &stream->closed);
}

/* It has ended: once nothing reads its blocks, whoever waits for that learns of it. */
static void settle(struct kvx_stream *stream)
{
	if (kvx_stream_is_read(stream))
		return;
	atomic_store_explicit(&stream->still, true, memory_order_release);
	acknowledge(stream);
}

void kvx_stream_drained(struct kvx_stream *stream)
{
	if (stream->drains && stream->tell_drained)
		say_drained(stream, stream->drains);
	kvx_stream_orphan(stream);
	settle(stream);
}

void kvx_stream_lifted(struct kvx_stream *stream)
{
	stream->lifting--;
	if (kvx_transfer_ended(&stream->transfer))
		settle(stream);
}

/* Nothing reads what was gathered any more. */
static void give_buffers(struct kvx_stream *stream)
{
	struct kvx_engine *engine = stream->transfer.engine;

	for (uint32_t i = 0; i <= stream->transfer.layers && stream->staged; i++)
		kvx_staging_give(engine, &stream->posted[i].staged);
}

void kvx_stream_orphan(struct kvx_stream *stream)
{
	kvx_list_remove(&stream->peer_entry);
	stream->drains = NULL;
	if (!stream->flow.in_flight)
		give_buffers(stream);
}

void kvx_stream_end(struct kvx_stream *stream, int code, const char *text, bool tell)
{
	struct kvx_engine *engine = stream->transfer.engine;
	struct kvx_peer *peer = stream->peer;

	if (kvx_transfer_ended(&stream->transfer))
		return;
	detach(stream);
	if (!stream->flow.in_flight)
		give_buffers(stream);
	if (stream->offer)
		kvx_offer_end(stream, code, text);
	kvx_count(engine, streams_failed, 1);
	KVX_TRACE(stream_ended, stream->transfer.id, code);
	if (tell && peer && kvx_peer_is_up(peer)) {
		struct kvx_message cancel = {.type = KVX_MESSAGE_CANCEL,
					     .slot = stream->ticket.slot,
					     .generation = stream->ticket.generation};
		snprintf(cancel.text, sizeof(cancel.text), "%s", text);
		kvx_peer_say(peer, &cancel);
	}
	tell_drained(stream, peer);
	kvx_transfer_fail(&stream->transfer, code, text);
}

/* One more, and all is done. */
static bool is_last(const struct kvx_transfer *transfer)
{
	return atomic_load(&transfer->done_count) + 1 == kvx_transfer_parts(transfer);
}

/* What a rail is sending again of a layer that has arrived, or would: its blocks are about to be
 * used for something else. */
static void give_up_units(struct kvx_stream *stream, uint32_t layer)
{
	struct kvx_peer *peer = stream->peer;

	stream->pending[layer / 64] &= ~(UINT64_C(1) << (layer % 64));
	for (uint32_t i = 0; peer && peer->rails && i < peer->link->rails; i++)
		kvx_rail_give_up(&peer->rails[i], stream, layer);
	for (uint32_t i = 0; peer && peer->rails && i < peer->link->rails; i++)
		kvx_lift_give_up(&peer->rails[i], stream, layer);
}

/* Its units are delivered: each is counted for the rail that carried it last. */
static void count_units(struct kvx_stream *stream, uint32_t layer)
{
	const struct kvx_posted *posted = kvx_stream_posted(stream, layer);
	const struct kvx_image *image = &stream->plan.image;
	struct kvx_rail_figures *rails = stream->peer ? stream->peer->figures : NULL;

	for (uint64_t left = posted->bits; left && rails; left &= left - 1) {
		uint32_t unit = (uint32_t)__builtin_ctzll(left);
		uint64_t bytes = layer == KVX_TAIL ? stream->tail.bytes
						   : kvx_image_unit_place(image, unit + 1) -
							     kvx_image_unit_place(image, unit);
		kvx_figures_sent(&rails[posted->rail[unit]], bytes,
				 *kvx_stream_unit_slices(stream, layer, unit));
		kvx_figure_add(stream->transfer.bytes, bytes);
	}
}

/* What the transfer takes beyond the compute: from the last layer's ready on. */
static void time_exposed(struct kvx_stream *stream, int64_t now_ns)
{
	int64_t last_ns = 0;

	for (uint32_t i = 0; i <= stream->transfer.layers; i++) {
		int64_t ready_ns = atomic_load_explicit(&stream->ready_ns[i], memory_order_relaxed);
		last_ns = ready_ns > last_ns ? ready_ns : last_ns;
	}
	if (last_ns)
		kvx_histogram_add(&stream->transfer.engine->figures.exposed, now_ns - last_ns);
}

static void take_figures(struct kvx_stream *stream, uint32_t layer)
{
	struct kvx_engine *engine = stream->transfer.engine;

	if (!kvx_stream_posted(stream, layer)->bits)
		return; /* nothing of it is this sender's */
	int64_t now_ns = kvx_now_ns();
	int64_t ready_ns = kvx_stream_ready_ns(stream, layer);
	count_units(stream, layer);
	if (ready_ns)
		kvx_histogram_add(&engine->figures.layer_latency, now_ns - ready_ns);
	if (is_last(&stream->transfer))
		time_exposed(stream, now_ns);
}

/* The layer's blocks are the application's again. Before waiters learn that all is done the stream
 * is detached, since they may free it then. */
static void finish_layer(struct kvx_stream *stream, uint32_t layer)
{
	struct kvx_transfer *transfer = &stream->transfer;

	if (kvx_transfer_layer_done(transfer, layer))
		return;
	give_up_units(stream, layer);
	take_figures(stream, layer);
	KVX_TRACE(layer_delivered, transfer->id, layer);
	kvx_staging_give(transfer->engine, &kvx_stream_posted(stream, layer)->staged);
	if (is_last(transfer)) {
		struct kvx_peer *peer = stream->peer;
		detach(stream);
		if (stream->offer)
			kvx_offer_end(stream, 0, NULL);
		tell_drained(stream, peer);
		kvx_count(transfer->engine, streams_completed, 1);
		KVX_TRACE(stream_ended, transfer->id, 0);
	}
	kvx_transfer_finish_layer(transfer, layer);
}

/* Layers that this sender has a part of. */
static bool is_shared(const struct kvx_stream *stream, uint32_t layer)
{
	uint32_t index = kvx_stream_their_layer(stream, layer) - stream->share.layer_first;

	return layer == KVX_TAIL || (stream->filled && index < stream->share.layers);
}

void kvx_stream_activate(struct kvx_stream *stream)
{
	if (!stream->open)
		return;
	for (uint32_t i = 0; i < KVX_LAYER_WORDS; i++) {
		if (!atomic_load_explicit(&stream->ready[i], memory_order_relaxed))
			continue;
		uint64_t ready =
			atomic_exchange_explicit(&stream->ready[i], 0, memory_order_acquire);
		for (; ready; ready &= ready - 1) {
			uint32_t layer = i * 64 + (uint32_t)__builtin_ctzll(ready);
			KVX_TRACE(layer_ready, stream->transfer.id, layer);
			if (is_shared(stream, layer) &&
			    !kvx_transfer_layer_done(&stream->transfer, layer))
				stream->pending[i] |= ready & -ready;
		}
	}
	if (kvx_stream_pending(stream) && kvx_list_empty(&stream->active_entry))
		kvx_list_append(&stream->peer->active, &stream->active_entry);
}

/* Pieces are gathered where that is faster, or wanted, and there are buffers. */
static bool is_staged(const struct kvx_stream *stream)
{
	const struct kvx_engine *engine = stream->transfer.engine;

	return kvx_staging_memory(engine) && kvx_stream_wants_staging(stream, stream->targets);
}

/* Makes the plan of the share that the receiver gives it. False: that cannot be. */
static bool take_share(struct kvx_stream *stream, const struct kvx_message *accept)
{
	const struct kvx_ticket *ticket = &stream->ticket;
	const struct kvx_shape *ours = &stream->pool->shape;
	struct kvx_plan plan = stream->plan;

	if (accept->planes != stream->theirs.planes ||
	    accept->unit_first > KVX_UNITS_MAX - stream->units ||
	    !kvx_share_within(&accept->share, &stream->share, accept->planes,
			      plan.image.chunk_tokens) ||
	    (stream->units_have_rails && stream->targets_known != target_count(stream)))
		return false;
	kvx_image_make(&plan.image, ours, &stream->theirs, &accept->share, ticket->token_first,
		       ticket->token_end);
	kvx_image_cut(&plan.image, stream->units, stream->weighted ? stream->weights : NULL);
	kvx_lay_out(&plan.image, ours, &accept->share, plan.from);
	kvx_lay_out(&plan.image, &stream->theirs, &accept->share, plan.to);
	if (accept->hash !=
	    kvx_plan_hash(&stream->pool->geometry, &plan.image, &accept->share, stream->table_hash))
		return false;
	pthread_mutex_lock(&stream->transfer.engine->lock);
	stream->plan = plan;
	stream->share = accept->share;
	stream->staged = is_staged(stream);
	stream->lifted = kvx_lift_device(stream, 0);
	strcpy(stream->why, stream->peer->info.why);
	pthread_mutex_unlock(&stream->transfer.engine->lock);
	stream->unit_first = accept->unit_first;
	stream->filled = kvx_image_filled(&plan.image);
	return true;
}

void kvx_stream_accept(struct kvx_stream *stream, const struct kvx_message *accept)
{
	struct kvx_transfer *transfer = &stream->transfer;

	if (stream->open)
		return;
	if (!take_share(stream, accept)) {
		kvx_stream_end(stream, KVX_E_PROTOCOL, "stream: the receiver accepted another plan",
			       true);
		return;
	}
	stream->open = true;
	KVX_TRACE(stream_accepted, stream->transfer.id, stream->units);
	stream->flow.accepted = true;
	for (uint32_t layer = 0; layer < transfer->layers; layer++)
		if (!is_shared(stream, layer))
			finish_layer(stream, layer);
	if (!kvx_transfer_ended(transfer))
		kvx_stream_activate(stream);
}

/* The layer is whole at the receiver; but if a unit of it was posted twice, the second write may be
 * under way, and would put there whatever the blocks hold by then. */
static bool hold(struct kvx_stream *stream, uint32_t layer)
{
	uint64_t bit = UINT64_C(1) << (layer % 64);

	if (!(stream->resent[layer / 64] & bit) || !stream->flow.in_flight)
		return false;
	stream->held[layer / 64] |= bit;
	if (kvx_list_empty(&stream->holding_entry))
		kvx_list_append(&stream->transfer.engine->holding, &stream->holding_entry);
	return true;
}

bool kvx_stream_release(struct kvx_stream *stream)
{
	if (stream->flow.in_flight)
		return false;
	kvx_list_remove(&stream->holding_entry);
	for (uint32_t layer = 0; layer <= KVX_TAIL; layer++) {
		uint64_t bit = UINT64_C(1) << (layer % 64);
		if (!(stream->held[layer / 64] & bit))
			continue;
		stream->held[layer / 64] &= ~bit;
		bool last = is_last(&stream->transfer);
		finish_layer(stream, layer);
		if (last)
			break; /* it may be gone */
	}
	return true;
}

void kvx_stream_delivered(struct kvx_stream *stream, uint32_t first, uint32_t count)
{
	struct kvx_transfer *transfer = &stream->transfer;
	bool tail = first == KVX_TAIL && count == 1 && transfer->tail;

	if (!tail) {
		first -= stream->layer_shift;
		if (count > transfer->layers || first > transfer->layers - count) {
			kvx_peer_condemn(stream->peer, KVX_E_PROTOCOL,
					 "it reports layers that do not exist");
			return;
		}
	}
	for (uint32_t layer = first; layer < first + count; layer++) {
		bool last = is_last(transfer);
		if (kvx_transfer_layer_done(transfer, layer) || hold(stream, layer))
			continue;
		finish_layer(stream, layer);
		if (last)
			return; /* it may be gone */
	}
}

void kvx_stream_lease_ended(struct kvx_timer *timer)
{
	struct kvx_stream *stream = kvx_container_of(timer, struct kvx_stream, lease);
	char text[128];

	if (stream->offer && !stream->ticket.lease_ms)
		snprintf(text, sizeof(text), "offer: the lease of %u ms has ended before a pull",
			 stream->offer->lease_ms);
	else
		snprintf(text, sizeof(text),
			 "stream: the lease of %u ms has ended with %u of %u layers delivered",
			 stream->ticket.lease_ms, atomic_load(&stream->transfer.done_count),
			 stream->transfer.layers);
	/* The receiver is not told: its own clock ends the grant, for the same reason. */
	kvx_stream_end(stream, KVX_E_LEASE, text, false);
}

void kvx_stream_take(struct kvx_submission *submission, uint32_t wanted)
{
	struct kvx_stream *stream = kvx_container_of(submission, struct kvx_stream, submission);
	struct kvx_engine *engine = stream->transfer.engine;

	if (wanted & KVX_STREAM_START)
		kvx_stream_start(stream);
	if (wanted & KVX_STREAM_WATCH && !kvx_transfer_ended(&stream->transfer))
		kvx_list_append(&engine->watched, &stream->watch_entry);
	if (wanted & KVX_STREAM_READY && !kvx_transfer_ended(&stream->transfer))
		kvx_stream_activate(stream);
	if (wanted & (KVX_STREAM_CANCEL | KVX_STREAM_CLOSE))
		kvx_stream_end(stream, KVX_E_CANCELLED,
			       wanted & KVX_STREAM_CLOSE ? "stream: the sender closed it"
							 : "stream: the sender cancelled it",
			       true);
	stream->requests |= wanted & (KVX_STREAM_CANCEL | KVX_STREAM_CLOSE);
	if (!kvx_stream_is_read(stream))
		acknowledge(stream);
}
