/* SPDX-License-Identifier: Apache-2.0 */
#include "core/stream.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void take(struct kvx_submission *submission, uint32_t wanted);
static void lease_ended(struct kvx_timer *timer);

static int check_repeated(const struct kvx_pool *pool, const uint32_t *blocks, uint32_t count)
{
	uint64_t *seen = calloc((size_t)pool->geometry.blocks / 64 + 1, sizeof(*seen));
	int error = 0;

	if (!seen)
		return kvx_fail(KVX_E_MEMORY, "stream: out of memory");
	for (uint32_t i = 0; i < count && !error; i++) {
		uint64_t bit = UINT64_C(1) << (blocks[i] % 64);
		if (seen[blocks[i] / 64] & bit)
			error = kvx_fail(KVX_E_INVALID, "stream: block %u is repeated, at entry %u",
					 blocks[i], i);
		seen[blocks[i] / 64] |= bit;
	}
	free(seen);
	return error;
}

static int check(const struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		 const struct kvx_ticket *ticket)
{
	int error = kvx_pool_check_table(pool, "stream", blocks, count);

	if (!error)
		error = check_repeated(pool, blocks, count);
	if (!error)
		error = kvx_geometry_match(&pool->geometry, &ticket->geometry);
	if (!error && count != ticket->count)
		error = kvx_fail(KVX_E_INVALID, "stream: of %u blocks, but the grant has %u", count,
				 ticket->count);
	return error;
}

/* The plan of all layers: they have the same image and the same runs. */
static int make_plan(struct kvx_stream *stream, const uint32_t *blocks)
{
	const struct kvx_pool *pool = stream->pool;
	const struct kvx_ticket *ticket = &stream->ticket;
	struct kvx_plan *plan = &stream->plan;
	bool packed = pool->packed && ticket->packed;

	plan->image = (struct kvx_image){.planes = pool->geometry.planes,
					 .count = ticket->count,
					 .block_bytes = pool->geometry.block_bytes};
	plan->run_count = kvx_plan_runs(blocks, ticket->table, ticket->count, packed, NULL);
	struct kvx_run *runs = malloc(plan->run_count * sizeof(*runs));
	if (!runs)
		return kvx_fail(KVX_E_MEMORY, "stream: out of memory for %u runs of blocks",
				plan->run_count);
	kvx_plan_runs(blocks, ticket->table, ticket->count, packed, runs);
	plan->runs = runs;
	stream->table_hash = kvx_table_hash(ticket->table, ticket->count);
	return 0;
}

static int make_stream(struct kvx_pool *pool, const uint32_t *blocks, struct kvx_ticket *ticket,
		       struct kvx_stream **stream)
{
	struct kvx_stream *made = calloc(1, sizeof(*made));
	int error;

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "stream: out of memory");
	kvx_transfer_init(&made->transfer, pool->engine, "stream", pool->geometry.layers);
	made->pool = pool;
	made->submission.take = take;
	made->lease.expired = lease_ended;
	made->ticket = *ticket;
	kvx_list_init(&made->entry);
	kvx_list_init(&made->peer_entry);
	kvx_list_init(&made->active_entry);
	kvx_list_init(&made->watch_entry);
	kvx_list_init(&made->holding_entry);
	made->posted = calloc(pool->geometry.layers, sizeof(*made->posted));
	error = made->posted ? make_plan(made, blocks)
			     : kvx_fail(KVX_E_MEMORY, "stream: out of memory");
	free(made->ticket.table);
	made->ticket.table = ticket->table = NULL;
	ticket->address = NULL; /* the stream's now */
	if (error) {
		kvx_stream_free(made);
		return error;
	}
	*stream = made;
	return 0;
}

int kvx_stream_open(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		    const void *ticket, size_t ticket_bytes, struct kvx_stream **stream)
{
	struct kvx_ticket decoded;
	struct kvx_stream *made = NULL;

	if (!pool || !blocks || !ticket || !stream)
		return kvx_fail(KVX_E_INVALID, "stream: NULL argument");
	int error = kvx_ticket_decode(&decoded, ticket, ticket_bytes);
	if (error)
		return error;
	error = check(pool, blocks, count, &decoded);
	if (!error)
		error = make_stream(pool, blocks, &decoded, &made);
	if (error) {
		kvx_ticket_finish(&decoded);
		return error;
	}
	struct kvx_engine *engine = pool->engine;
	pthread_mutex_lock(&engine->lock);
	kvx_list_append(&engine->streams, &made->entry);
	pool->users++;
	pthread_mutex_unlock(&engine->lock);
	kvx_engine_submit(engine, &made->submission, KVX_STREAM_START);
	*stream = made;
	return 0;
}

void kvx_stream_free(struct kvx_stream *stream)
{
	kvx_transfer_finish(&stream->transfer);
	kvx_ticket_finish(&stream->ticket);
	free((void *)stream->plan.runs);
	free(stream->targets);
	free(stream->posted);
	free(stream);
}

static void set_bits(_Atomic uint64_t *words, uint32_t first, uint32_t count)
{
	for (uint32_t layer = first; layer < first + count;) {
		uint32_t bit = layer % 64, some = 64 - bit;
		if (some > first + count - layer)
			some = first + count - layer;
		uint64_t bits = (some == 64 ? ~UINT64_C(0) : (UINT64_C(1) << some) - 1) << bit;
		atomic_fetch_or_explicit(&words[layer / 64], bits, memory_order_release);
		layer += some;
	}
}

int kvx_stream_layers_ready(struct kvx_stream *stream, uint32_t first, uint32_t count)
{
	uint32_t layers = stream->transfer.layers;

	if (first >= layers || !count || count > layers - first)
		return kvx_fail(KVX_E_INVALID, "stream: layers %u and %u more: there are %u", first,
				count ? count - 1 : 0, layers);
	set_bits(stream->ready, first, count);
	kvx_engine_submit(stream->transfer.engine, &stream->submission, KVX_STREAM_READY);
	return 0;
}

int kvx_stream_watch(struct kvx_stream *stream, const uint32_t *word)
{
	const uint32_t *none = NULL;

	if (!word || (uintptr_t)word % sizeof(*word))
		return kvx_fail(KVX_E_INVALID, "stream: the ready word %p is NULL or not aligned",
				(const void *)word);
	if (atomic_load(&stream->word))
		return kvx_fail(KVX_E_INVALID, "stream: a ready word is watched already");
	stream->word_start = __atomic_load_n(word, __ATOMIC_ACQUIRE);
	if (!atomic_compare_exchange_strong(&stream->word, &none, word))
		return kvx_fail(KVX_E_INVALID, "stream: a ready word is watched already");
	kvx_engine_submit(stream->transfer.engine, &stream->submission, KVX_STREAM_WATCH);
	return 0;
}

int kvx_stream_wait(struct kvx_stream *stream, uint32_t layer, uint32_t timeout_ms)
{
	return kvx_transfer_wait(&stream->transfer, layer, timeout_ms);
}

int kvx_stream_poll(struct kvx_stream *stream, uint32_t layer)
{
	return kvx_transfer_poll(&stream->transfer, layer);
}

int kvx_stream_fd(struct kvx_stream *stream)
{
	return kvx_event_fd(&stream->transfer.event);
}

size_t kvx_stream_explain(const struct kvx_stream *stream, char *text, size_t size)
{
	struct kvx_engine *engine = stream->transfer.engine;
	char why[sizeof(stream->why)];

	pthread_mutex_lock(&engine->lock);
	const struct kvx_image copy = stream->plan.image, *image = &copy;
	strcpy(why, stream->why);
	pthread_mutex_unlock(&engine->lock);
	int length = snprintf(text, size,
			      "%u layers of %llu bytes: %u blocks of %u bytes in %u planes, %u "
			      "runs contiguous at both "
			      "ends, %u units a layer; transport: %s",
			      stream->transfer.layers, (unsigned long long)kvx_image_bytes(image),
			      image->count, image->block_bytes, image->planes,
			      stream->plan.run_count, image->units, why[0] ? why : "not connected");
	return length < 0 ? 0 : (size_t)length;
}

void kvx_stream_cancel(struct kvx_stream *stream)
{
	atomic_store_explicit(&stream->cancelled, false, memory_order_relaxed);
	kvx_engine_request(stream->transfer.engine, &stream->submission, KVX_STREAM_CANCEL,
			   &stream->cancelled);
}

void kvx_stream_close(struct kvx_stream *stream)
{
	if (!stream)
		return;
	struct kvx_engine *engine = stream->transfer.engine;
	kvx_engine_request(engine, &stream->submission, KVX_STREAM_CLOSE, &stream->closed);
	pthread_mutex_lock(&engine->lock);
	kvx_list_remove(&stream->entry);
	stream->pool->users--;
	pthread_mutex_unlock(&engine->lock);
	kvx_stream_free(stream);
}

/* --- the worker's --- */

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

static void start(struct kvx_stream *stream)
{
	struct kvx_engine *engine = stream->transfer.engine;
	int64_t lease_end_ns = engine->now_ns + stream->ticket.lease_ms * KVX_NS_PER_MS;

	kvx_count(engine, streams_opened, 1);
	stream->id = UINT64_MAX;
	int error = name(stream);
	if (!error)
		error = kvx_timer_start(&engine->timers, &stream->lease, lease_end_ns);
	if (!error)
		error = kvx_peer_for(engine, &stream->ticket, stream->pool->one_sided,
				     &stream->peer);
	if (error) {
		kvx_stream_end(stream, error, kvx_error_text(), false);
		return;
	}
	kvx_list_append(&stream->peer->streams, &stream->peer_entry);
	if (kvx_peer_is_up(stream->peer))
		kvx_stream_present(stream);
}

void kvx_stream_present(struct kvx_stream *stream)
{
	const struct kvx_ticket *ticket = &stream->ticket;
	uint8_t weights[KVX_UNITS_MAX];
	bool weighted;

	if (!kvx_stream_cut(stream, &weighted, weights)) {
		kvx_stream_end(stream, KVX_E_UNREACHABLE,
			       "stream: no rail joins ports that its memory and the receiver's may "
			       "use; see options topology and verbs_devices",
			       false);
		return;
	}
	struct kvx_message open = {
		.type = KVX_MESSAGE_OPEN,
		.stream = stream->id,
		.slot = ticket->slot,
		.generation = ticket->generation,
		.key = ticket->key,
		.count = stream->plan.image.count,
		.units = stream->plan.image.units,
		.weighted = weighted,
		.hash = stream->hash,
		.geometry = stream->pool->geometry,
	};

	if (weighted)
		memcpy(open.weights, weights, open.units);
	stream->flow.slot = ticket->slot;
	stream->flow.generation = ticket->generation;
	stream->presented = true;
	kvx_peer_say(stream->peer, &open);
}

void kvx_stream_layout(struct kvx_stream *stream, const struct kvx_layout_run *runs, uint32_t count)
{
	uint32_t tensors = kvx_pool_tensors(stream->pool);

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

void kvx_stream_activate(struct kvx_stream *stream)
{
	bool any = false;

	for (uint32_t i = 0; i < KVX_LAYER_WORDS; i++) {
		uint64_t ready = atomic_load_explicit(&stream->ready[i], memory_order_acquire);
		stream->pending[i] |= ready & ~stream->accepted[i];
		stream->accepted[i] = ready;
		any = any || stream->pending[i];
	}
	if (any && stream->open && kvx_list_empty(&stream->active_entry))
		kvx_list_append(&stream->peer->active, &stream->active_entry);
}

void kvx_stream_accept(struct kvx_stream *stream, uint64_t hash)
{
	struct kvx_engine *engine = stream->transfer.engine;

	if (stream->open)
		return;
	if (hash != stream->hash ||
	    (stream->units_have_rails && stream->targets_known != kvx_pool_tensors(stream->pool))) {
		kvx_stream_end(stream, KVX_E_PROTOCOL, "stream: the receiver accepted another plan",
			       true);
		return;
	}
	pthread_mutex_lock(&engine->lock);
	strcpy(stream->why, stream->peer->info.why);
	pthread_mutex_unlock(&engine->lock);
	stream->open = true;
	stream->flow.accepted = true;
	kvx_stream_activate(stream);
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
	set_bits(stream->ready, stream->word_layers, told - stream->word_layers);
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
	if (!peer || !peer->rails)
		return;
	for (uint32_t i = 0; i < peer->link->rails; i++)
		if (peer->rails[i].stream == stream)
			peer->rails[i].stream = NULL;
	peer->link->ops->withdraw(peer->link, &stream->flow);
	if (stream->flow.in_flight) {
		stream->drains = peer;
		kvx_list_append(&peer->draining, &stream->peer_entry);
	}
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

void kvx_stream_drained(struct kvx_stream *stream)
{
	if (stream->drains && stream->tell_drained)
		say_drained(stream, stream->drains);
	kvx_stream_orphan(stream);
	acknowledge(stream);
}

void kvx_stream_orphan(struct kvx_stream *stream)
{
	kvx_list_remove(&stream->peer_entry);
	stream->drains = NULL;
}

void kvx_stream_end(struct kvx_stream *stream, int code, const char *text, bool tell)
{
	struct kvx_engine *engine = stream->transfer.engine;
	struct kvx_peer *peer = stream->peer;

	if (kvx_transfer_ended(&stream->transfer))
		return;
	detach(stream);
	kvx_count(engine, streams_failed, 1);
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

/* The layer's blocks are the application's again. Before waiters learn that all is done the stream
 * is detached, since they may free it then. */
static void finish_layer(struct kvx_stream *stream, uint32_t layer)
{
	struct kvx_transfer *transfer = &stream->transfer;

	if (kvx_transfer_layer_done(transfer, layer))
		return;
	if (atomic_load(&transfer->done_count) + 1 == transfer->layers) {
		struct kvx_peer *peer = stream->peer;
		detach(stream);
		tell_drained(stream, peer);
		kvx_count(transfer->engine, streams_completed, 1);
	}
	kvx_transfer_finish_layer(transfer, layer);
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
	uint32_t layers = stream->transfer.layers;

	if (stream->flow.in_flight)
		return false;
	kvx_list_remove(&stream->holding_entry);
	for (uint32_t layer = 0; layer < layers; layer++) {
		uint64_t bit = UINT64_C(1) << (layer % 64);
		if (!(stream->held[layer / 64] & bit))
			continue;
		stream->held[layer / 64] &= ~bit;
		bool last = atomic_load(&stream->transfer.done_count) + 1 == layers;
		finish_layer(stream, layer);
		if (last)
			break; /* it may be gone */
	}
	return true;
}

void kvx_stream_delivered(struct kvx_stream *stream, uint32_t first, uint32_t count)
{
	struct kvx_transfer *transfer = &stream->transfer;

	if (count > transfer->layers || first > transfer->layers - count) {
		kvx_peer_condemn(stream->peer, KVX_E_PROTOCOL,
				 "it reports layers that do not exist");
		return;
	}
	for (uint32_t layer = first; layer < first + count; layer++) {
		bool last = atomic_load(&transfer->done_count) + 1 == transfer->layers;
		if (kvx_transfer_layer_done(transfer, layer) || hold(stream, layer))
			continue;
		finish_layer(stream, layer);
		if (last)
			return; /* it may be gone */
	}
}

static void lease_ended(struct kvx_timer *timer)
{
	struct kvx_stream *stream = kvx_container_of(timer, struct kvx_stream, lease);
	char text[128];

	snprintf(text, sizeof(text),
		 "stream: the lease of %u ms has ended with %u of %u layers delivered",
		 stream->ticket.lease_ms, atomic_load(&stream->transfer.done_count),
		 stream->transfer.layers);
	/* The receiver is not told: its own clock ends the grant, for the same reason. */
	kvx_stream_end(stream, KVX_E_LEASE, text, false);
}

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct kvx_stream *stream = kvx_container_of(submission, struct kvx_stream, submission);
	struct kvx_engine *engine = stream->transfer.engine;

	if (wanted & KVX_STREAM_START)
		start(stream);
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
	if (!stream->flow.in_flight)
		acknowledge(stream);
}
