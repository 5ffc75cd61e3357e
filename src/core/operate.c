/* SPDX-License-Identifier: Apache-2.0 */
/* What who operates an engine may do to it, and its figures. */
#include "base/clock.h"
#include "base/error.h"
#include "core/control.h"
#include "core/grant.h"
#include "core/journal.h"
#include "core/peer.h"
#include "core/pool.h"
#include "core/region.h"
#include "core/stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

/* --- commands, which the worker carries out --- */

/* Of the thread that waits for it. */
struct command {
	struct kvx_submission submission;
	struct kvx_engine *engine;
	uint64_t id;
	uint32_t ms, slot;
	int (*run)(struct command *command); /* as every call that can fail */
	int code;
	char text[KVX_ERROR_TEXT_MAX + 1];
	_Atomic bool done;
};

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct command *command = kvx_container_of(submission, struct command, submission);

	(void)wanted;
	command->code = command->run(command);
	if (command->code)
		snprintf(command->text, sizeof(command->text), "%s", kvx_error_text());
	kvx_engine_acknowledge(command->engine, &command->done);
}

static int run_on_worker(struct kvx_engine *engine, struct command *command)
{
	command->submission.take = take;
	command->engine = engine;
	kvx_engine_request(engine, &command->submission, 1, &command->done);
	return command->code ? kvx_fail(command->code, "%s", command->text) : 0;
}

static int fail_unknown(uint64_t grant)
{
	return kvx_fail(KVX_E_INVALID, "grant %" PRIu64 ": there is none of that id", grant);
}

/* A grant that the worker knows cannot go away while it works. */
static int revoke(struct command *command)
{
	struct kvx_grant *grant =
		atomic_load_explicit(&command->engine->slots[command->slot], memory_order_acquire);

	if (!grant || grant->transfer.id != command->id)
		return fail_unknown(command->id); /* it was closed in the meantime */
	atomic_store_explicit(&grant->drain_ms, command->ms, memory_order_relaxed);
	kvx_grant_end(grant, KVX_E_REVOKED, "grant: it was revoked by id");
	return 0;
}

/* Looked up here, so that the worker has no table to search. */
static bool find_slot(struct kvx_engine *engine, uint64_t grant, uint32_t *slot)
{
	pthread_mutex_lock(&engine->lists);
	const struct kvx_roster *entry = kvx_roster_find(&engine->grants, grant);
	if (entry)
		*slot = kvx_container_of(entry, struct kvx_grant, entry)->slot;
	pthread_mutex_unlock(&engine->lists);
	return entry;
}

int kvx_engine_revoke(struct kvx_engine *engine, uint64_t grant, uint32_t drain_ms)
{
	struct command command = {.run = revoke, .id = grant, .ms = drain_ms};

	if (drain_ms > KVX_TIMEOUT_MAX_MS)
		return kvx_fail(KVX_E_INVALID, "grant: a time-out of %u ms is longer than %u",
				drain_ms, KVX_TIMEOUT_MAX_MS);
	if (!find_slot(engine, grant, &command.slot))
		return fail_unknown(grant);
	return run_on_worker(engine, &command);
}

/* Those that have ended are not in the worker's table any more; whether there is one of that id
 * was looked up before. */
static int cancel(struct command *command)
{
	struct kvx_engine *engine = command->engine;

	for (uint32_t i = 0; i < engine->stream_table_size; i++) {
		struct kvx_stream *stream = engine->stream_table[i];
		if (!stream || stream->transfer.id != command->id)
			continue;
		kvx_stream_end(stream, KVX_E_CANCELLED, "stream: it was cancelled by id", true);
		break;
	}
	return 0;
}

int kvx_engine_cancel(struct kvx_engine *engine, uint64_t stream)
{
	struct command command = {.run = cancel, .id = stream};
	struct kvx_layer_view layer;
	int count = kvx_engine_stream_layers(engine, stream, &layer, 1);

	return count < 0 ? count : run_on_worker(engine, &command);
}

static int forget(struct command *command)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &command->engine->peers.list) {
		struct kvx_peer *peer = kvx_container_of(entry, struct kvx_peer, entry.list);
		if (peer->id != command->id)
			continue;
		if (peer->link)
			kvx_peer_condemn(peer, KVX_E_PEER_LOST, "it was told to forget this peer");
		else if (!kvx_peer_is_down(peer))
			kvx_peer_end(peer, KVX_E_PEER_LOST, "peer: told to forget it");
		return 0;
	}
	return kvx_fail(KVX_E_INVALID, "peer %" PRIu64 ": there is none of that id", command->id);
}

int kvx_engine_forget(struct kvx_engine *engine, uint64_t peer)
{
	return run_on_worker(engine, &(struct command){.run = forget, .id = peer});
}

static int drain(struct command *command)
{
	return kvx_drain_begin(command->engine, command->ms);
}

int kvx_engine_drain(struct kvx_engine *engine, uint32_t deadline_ms)
{
	if (!deadline_ms || deadline_ms > KVX_TIMEOUT_MAX_MS)
		return kvx_fail(KVX_E_INVALID, "drain: a deadline of %u ms: must be 1 to %u",
				deadline_ms, KVX_TIMEOUT_MAX_MS);
	return run_on_worker(engine, &(struct command){.run = drain, .ms = deadline_ms});
}

static int resume(struct command *command)
{
	kvx_drain_end(command->engine);
	return 0;
}

int kvx_engine_resume(struct kvx_engine *engine)
{
	return run_on_worker(engine, &(struct command){.run = resume});
}

/* --- the engine --- */

static const char *why_not(const struct kvx_engine *engine, uint32_t index)
{
	if (engine->left_out[index])
		return engine->left_out[index];
	return "option transports does not name it";
}

int kvx_engine_transport(const struct kvx_engine *engine, uint32_t index,
			 struct kvx_transport_view *view)
{
	for (uint32_t i = 0; i <= index; i++)
		if (!kvx_transports[i])
			return kvx_fail(KVX_E_INVALID, "transport %u: there are %u", index, i);
	const struct kvx_transport_ops *ops = kvx_transports[index];
	*view = (struct kvx_transport_view){.name = ops->name, .one_sided = ops->one_sided};
	for (uint32_t i = 0; i < engine->transport_count; i++) {
		const struct kvx_engine_transport *transport = &engine->transports[i];
		if (transport->ops != ops)
			continue;
		view->on = true;
		snprintf(view->address, sizeof(view->address), "%s",
			 ops->address(transport->instance));
	}
	snprintf(view->why, sizeof(view->why), "%s",
		 !view->on                                         ? why_not(engine, index)
		 : strcmp(engine->options.transports, "auto") == 0 ? "it works on this machine"
								   : "option transports names it");
	return 0;
}

const struct kvx_topology *kvx_engine_topology(const struct kvx_engine *engine)
{
	return engine->topology;
}

uint64_t kvx_engine_uptime_ms(const struct kvx_engine *engine)
{
	return (uint64_t)((kvx_now_ns() - engine->opened_ns) / KVX_NS_PER_MS);
}

int kvx_engine_option(const struct kvx_engine *engine, const char *name, char *text, size_t size)
{
	return kvx_option_text(&engine->options, name, text, size);
}

int kvx_engine_set_option(struct kvx_engine *engine, const char *name, const char *value)
{
	return kvx_option_change(&engine->options, name, value);
}

const char *kvx_engine_control(const struct kvx_engine *engine)
{
	return engine->control ? kvx_control_address(engine->control) : "";
}

#define PIECE_BYTES 4096u

/* Whoever asks for a checksum knows that nothing is written meanwhile, but often from elsewhere: a
 * thread sanitizer cannot know it. */
__attribute__((no_sanitize("thread"))) static void
read_words(uint32_t *to, const volatile uint32_t *from, uint32_t bytes)
{
	for (uint32_t i = 0; i < bytes / sizeof(*to); i++)
		to[i] = from[i];
}

/* What the CPU cannot read, the device brings. */
static int read_piece(const struct kvx_device *device, const char *from, uint32_t *piece,
		      uint32_t bytes)
{
	if (!device) {
		read_words(piece, (const volatile uint32_t *)(const void *)from, bytes);
		return 0;
	}
	return device->kind->transfer(device->number,
				      &(struct kvx_copy){(char *)piece, from, bytes}, 1);
}

static int add_block(XXH3_state_t *state, const struct kvx_device *device, const char *block,
		     uint32_t bytes)
{
	uint32_t piece[PIECE_BYTES / sizeof(uint32_t)];

	for (uint32_t done = 0; done < bytes; done += PIECE_BYTES) {
		uint32_t some = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
		int error = read_piece(device, block + done, piece, some);
		if (error)
			return error;
		XXH3_64bits_update(state, piece, some);
	}
	return 0;
}

static int sum_layer(const struct kvx_pool *pool, uint32_t layer, const uint32_t *blocks,
		     uint32_t count, uint64_t *sum)
{
	const struct kvx_device *device = pool->memories[0]->device;
	XXH3_state_t state;
	int error = 0;

	XXH3_64bits_reset(&state);
	for (uint32_t plane = 0; plane < pool->shape.planes; plane++)
		for (uint32_t i = 0; i < count && !error; i++)
			error = add_block(&state, device,
					  kvx_pool_block(pool, layer, plane, blocks[i]),
					  kvx_pool_block_bytes(pool, plane));
	*sum = XXH3_64bits_digest(&state);
	return error;
}

int kvx_pool_checksum(const struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		      uint64_t *sums)
{
	if (!pool || !blocks || !sums)
		return kvx_fail(KVX_E_INVALID, "checksum: NULL argument");
	int error = kvx_pool_check_table(pool, "checksum", blocks, count);
	if (error)
		return error;
	if (!kvx_pool_is_touchable(pool) && !pool->memories[0]->device)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"checksum: the pool lies in a device's memory, which this CPU "
				"does not read");
	for (uint32_t layer = 0; layer < pool->shape.layers && !error; layer++)
		error = sum_layer(pool, layer, blocks, count, &sums[layer]);
	return error;
}

/* --- figures --- */

static void count_regions(struct kvx_engine *engine, struct kvx_metrics *metrics)
{
	struct kvx_list *entry, *next;

	pthread_mutex_lock(&engine->lists);
	kvx_list_for_each (entry, next, &engine->regions.list) {
		metrics->regions++;
		metrics->registered_bytes +=
			kvx_container_of(entry, struct kvx_region, entry.list)->memory.bytes;
	}
	pthread_mutex_unlock(&engine->lists);
}

static void count_peers(struct kvx_engine *engine, struct kvx_metrics *metrics)
{
	struct kvx_list *entry, *next;

	pthread_mutex_lock(&engine->lists);
	kvx_list_for_each (entry, next, &engine->peers.list) {
		struct kvx_peer *peer = kvx_container_of(entry, struct kvx_peer, entry.list);
		int state = atomic_load_explicit(&peer->state, memory_order_relaxed);
		metrics->peers_up += state == KVX_PEER_UP;
		metrics->peers_connecting += state == KVX_PEER_CONNECTING;
	}
	pthread_mutex_unlock(&engine->lists);
}

static void count_offers(struct kvx_engine *engine, struct kvx_metrics *metrics)
{
	struct kvx_list *entry, *next;

	pthread_mutex_lock(&engine->lists);
	kvx_list_for_each (entry, next, &engine->streams.list) {
		const struct kvx_stream *stream =
			kvx_container_of(entry, struct kvx_stream, entry.list);
		metrics->offers_open += stream->offer && !kvx_transfer_ended(&stream->transfer);
	}
	pthread_mutex_unlock(&engine->lists);
}

void kvx_engine_metrics(struct kvx_engine *engine, struct kvx_metrics *metrics)
{
	const struct kvx_figures *figures = &engine->figures;
	const struct kvx_memory *staging = kvx_staging_memory(engine);

	*metrics = (struct kvx_metrics){
		.rails_back = kvx_figure_get(figures->rails_back),
		.revokes = kvx_figure_get(figures->revokes),
		.grants_open = atomic_load(&engine->drain.grants),
		.streams_open = atomic_load(&engine->drain.streams),
		.staging_bytes = staging ? staging->bytes : 0,
	};
	kvx_engine_stats(engine, &metrics->stats);
	kvx_histogram_copy(&figures->layer_latency, &metrics->layer_latency);
	kvx_histogram_copy(&figures->queueing, &metrics->queueing);
	kvx_histogram_copy(&figures->exposed, &metrics->exposed);
	kvx_histogram_copy(&figures->grant_time, &metrics->grant_time);
	kvx_histogram_copy(&figures->fence_time, &metrics->fence_time);
	count_regions(engine, metrics);
	count_peers(engine, metrics);
	count_offers(engine, metrics);
}

int kvx_engine_port(const struct kvx_engine *engine, uint32_t index, struct kvx_port_view *view)
{
	uint32_t count = atomic_load_explicit(&engine->figures.port_count, memory_order_acquire);

	if (index >= count)
		return kvx_fail(KVX_E_INVALID, "port %u: there are %u", index, count);
	kvx_port_copy(&engine->figures.ports[index], view);
	return 0;
}
