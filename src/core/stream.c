/* SPDX-License-Identifier: Apache-2.0 */
#include "core/stream.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/geometry.h"
#include "core/offer.h"
#include "core/peer.h"
#include "core/region.h"
#include "core/seal.h"
#include "plan/cost.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static int check_count(const struct kvx_pool *pool, uint32_t count, const struct kvx_ticket *ticket)
{
	uint32_t blocks = kvx_geometry_blocks(&pool->geometry, ticket->token_end);

	if (count == blocks)
		return 0;
	return kvx_fail(KVX_E_INVALID,
			"stream: of %u blocks, but the grant's request of %u tokens fills %u of %u "
			"tokens",
			count, ticket->token_end, blocks, pool->shape.block_tokens);
}

int kvx_stream_check_blocks(const struct kvx_pool *pool, const uint32_t *blocks, uint32_t count)
{
	int error = kvx_pool_check_table(pool, "stream", blocks, count);

	return error ? error : check_repeated(pool, blocks, count);
}

int kvx_stream_check_ticket(const struct kvx_stream *stream, uint32_t count,
			    const struct kvx_ticket *ticket)
{
	const struct kvx_pool *pool = stream->pool;
	uint32_t tail = stream->tail.bytes;
	int error = kvx_geometry_match(&pool->geometry, &ticket->geometry);

	if (!error)
		error = check_count(pool, count, ticket);
	if (error || tail == ticket->tail_bytes)
		return error;
	if (!tail && ticket->senders > 1)
		return 0; /* another sender has it */
	return kvx_fail(KVX_E_INVALID, "stream: a tail of %u bytes, but the grant's has %u", tail,
			ticket->tail_bytes);
}

/* What it would move alone, and the runs, which are the same whatever its share. */
static int make_plan(const struct kvx_stream *stream, const uint32_t *blocks,
		     const struct kvx_ticket *ticket, struct kvx_share *share,
		     struct kvx_plan *plan)
{
	const struct kvx_shape *ours = &stream->pool->shape;
	struct kvx_shape theirs;

	kvx_shape_of(&ticket->geometry, &theirs);
	kvx_share_alone(ours, &theirs, ticket->token_first, ticket->token_end, share);
	kvx_image_make(&plan->image, ours, &theirs, share, ticket->token_first, ticket->token_end);
	uint32_t tokens = plan->image.chunk_tokens;
	uint32_t chunks = ticket->token_end / tokens + (ticket->token_end % tokens != 0);
	uint32_t from = ours->block_tokens / tokens, to = theirs.block_tokens / tokens;
	plan->run_count = kvx_plan_runs(blocks, from, ticket->table, to, chunks, NULL);
	struct kvx_run *runs = malloc(plan->run_count * sizeof(*runs));
	if (!runs)
		return kvx_fail(KVX_E_MEMORY, "stream: out of memory for %u runs of blocks",
				plan->run_count);
	kvx_plan_runs(blocks, from, ticket->table, to, chunks, runs);
	plan->runs = runs;
	kvx_lay_out(&plan->image, ours, share, plan->from);
	kvx_lay_out(&plan->image, &theirs, share, plan->to);
	return 0;
}

bool kvx_stream_wants_staging(const struct kvx_stream *stream, bool one_sided)
{
	const char *option = stream->transfer.engine->options.staging;
	struct kvx_cost cost;

	if (!kvx_pool_is_touchable(stream->pool) || strcmp(option, "off") == 0)
		return false;
	kvx_plan_cost(&stream->plan, kvx_pool_layer(stream->pool, 0), stream->targets, one_sided,
		      &cost);
	return strcmp(option, "on") == 0 || cost.staged_ns < cost.direct_ns;
}

bool kvx_stream_may_want_staging(const struct kvx_stream *stream)
{
	const struct kvx_pool *pool = stream->pool;
	const char *option = stream->transfer.engine->options.staging;

	if (!stream->offer)
		return kvx_stream_wants_staging(stream, true) ||
		       kvx_stream_wants_staging(stream, false);
	return kvx_pool_is_touchable(pool) &&
	       (strcmp(option, "on") == 0 ||
		(strcmp(option, "auto") == 0 && kvx_cost_may_stage(&pool->shape)));
}

int kvx_stream_aim(struct kvx_stream *stream, const uint32_t *blocks, struct kvx_ticket *ticket)
{
	struct kvx_engine *engine = stream->transfer.engine;
	struct kvx_plan plan = {0};
	struct kvx_share share;

	int error = make_plan(stream, blocks, ticket, &share, &plan);
	if (error)
		return error;
	stream->table_hash = kvx_table_hash(ticket->table, ticket->count);
	free(ticket->table);
	ticket->table = NULL;
	kvx_shape_of(&ticket->geometry, &stream->theirs);
	stream->layer_shift = stream->pool->shape.layer_first - stream->theirs.layer_first;
	pthread_mutex_lock(&engine->lock);
	stream->ticket = *ticket;
	stream->plan = plan;
	stream->share = share;
	pthread_mutex_unlock(&engine->lock);
	return 0;
}

int kvx_stream_new(struct kvx_pool *pool, const struct kvx_stream_options *options, uint32_t tokens,
		   struct kvx_stream **stream)
{
	struct kvx_engine *engine = pool->engine;
	uint32_t parts = pool->geometry.layers + 1;
	int error = kvx_drain_enter(engine, &engine->drain.streams);

	if (error)
		return error;
	struct kvx_stream *made = calloc(1, sizeof(*made));
	if (!made) {
		kvx_drain_leave(engine, &engine->drain.streams);
		return kvx_fail(KVX_E_MEMORY, "stream: out of memory");
	}
	kvx_transfer_init(&made->transfer, engine, "stream", &engine->drain.streams,
			  pool->geometry.layers, options->tail.bytes != 0);
	made->pool = pool;
	made->submission.take = kvx_stream_take;
	made->lease.expired = kvx_stream_lease_ended;
	made->chunk_tokens = options->chunk_tokens;
	made->tail = options->tail;
	made->tokens = tokens;
	kvx_roster_init(&made->entry);
	kvx_list_init(&made->peer_entry);
	kvx_list_init(&made->active_entry);
	kvx_list_init(&made->watch_entry);
	kvx_list_init(&made->holding_entry);
	made->posted = calloc(parts, sizeof(*made->posted));
	made->ready_tokens = calloc(parts, sizeof(*made->ready_tokens));
	made->ready_ns = calloc(parts, sizeof(*made->ready_ns));
	if (!made->posted || !made->ready_tokens || !made->ready_ns) {
		kvx_stream_discard(made);
		return kvx_fail(KVX_E_MEMORY, "stream: out of memory");
	}
	*stream = made;
	return 0;
}

void kvx_stream_discard(struct kvx_stream *stream)
{
	kvx_drain_leave(stream->transfer.engine, stream->transfer.going);
	kvx_stream_free(stream);
}

void kvx_stream_begin(struct kvx_stream *stream)
{
	struct kvx_engine *engine = stream->transfer.engine;

	kvx_pool_use(stream->pool, 1);
	kvx_region_use(stream->tail.region, 1);
	kvx_engine_enlist(engine, &engine->streams, &stream->entry, &stream->transfer.id);
	/* From here on the worker may find it. */
	if (stream->offer)
		kvx_offer_announce(stream->offer);
	kvx_engine_submit(engine, &stream->submission, KVX_STREAM_START);
}

int kvx_stream_open(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		    const struct kvx_stream_options *options, const void *ticket,
		    size_t ticket_bytes, struct kvx_stream **stream)
{
	struct kvx_stream_options none = {0};
	struct kvx_ticket decoded;
	struct kvx_stream *made = NULL;

	if (!pool || !blocks || !ticket || !stream)
		return kvx_fail(KVX_E_INVALID, "stream: NULL argument");
	int error = kvx_ticket_unseal(pool->engine->keyring, ticket, &ticket_bytes);
	if (!error)
		error = kvx_ticket_decode(&decoded, KVX_TICKET_GRANT, ticket, ticket_bytes);
	if (error)
		return error;
	options = options ? options : &none;
	error = kvx_stream_check_blocks(pool, blocks, count);
	if (!error)
		error = kvx_pool_check_tail(pool, "stream", &options->tail);
	if (!error)
		error = kvx_stream_new(pool, options, decoded.token_end, &made);
	if (!error)
		error = kvx_stream_check_ticket(made, count, &decoded);
	if (!error)
		error = kvx_stream_aim(made, blocks, &decoded);
	if (error) {
		kvx_ticket_finish(&decoded);
		if (made)
			kvx_stream_discard(made);
		return error;
	}
	if (kvx_stream_may_want_staging(made))
		kvx_staging_prepare(made->transfer.engine);
	kvx_stream_begin(made);
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
	free(stream->ready_tokens);
	free(stream->ready_ns);
	free(stream->unit_slices);
	kvx_offer_free(stream->offer);
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

/* When all of a layer was told ready first. now_ns: 0: not all of it is. */
static void note_ready(struct kvx_stream *stream, uint32_t layer, int64_t now_ns)
{
	if (now_ns && !atomic_load_explicit(&stream->ready_ns[layer], memory_order_relaxed))
		atomic_store_explicit(&stream->ready_ns[layer], now_ns, memory_order_relaxed);
}

/* How many tokens are ready only grows; the words tell the worker where to look. */
void kvx_stream_make_ready(struct kvx_stream *stream, uint32_t first, uint32_t count,
			   uint32_t tokens)
{
	int64_t now_ns = tokens == UINT32_MAX ? kvx_now_ns() : 0;

	for (uint32_t layer = first; layer < first + count; layer++) {
		_Atomic uint32_t *ready = &stream->ready_tokens[layer];
		note_ready(stream, layer, now_ns);
		uint32_t old = atomic_load_explicit(ready, memory_order_relaxed);
		while (old < tokens && !atomic_compare_exchange_weak_explicit(ready, &old, tokens,
									      memory_order_release,
									      memory_order_relaxed))
			;
	}
	set_bits(stream->ready, first, count);
}

int kvx_stream_tokens_ready(struct kvx_stream *stream, uint32_t first, uint32_t count,
			    uint32_t tokens)
{
	uint32_t layers = stream->transfer.layers;

	if (first >= layers || !count || count > layers - first)
		return kvx_fail(KVX_E_INVALID, "stream: layers %u and %u more: there are %u", first,
				count ? count - 1 : 0, layers);
	if (tokens >= stream->tokens)
		tokens = UINT32_MAX;
	kvx_stream_make_ready(stream, first, count, tokens);
	kvx_engine_submit(stream->transfer.engine, &stream->submission, KVX_STREAM_READY);
	return 0;
}

int kvx_stream_layers_ready(struct kvx_stream *stream, uint32_t first, uint32_t count)
{
	return kvx_stream_tokens_ready(stream, first, count, UINT32_MAX);
}

int kvx_stream_tail_ready(struct kvx_stream *stream)
{
	int error = kvx_transfer_check_layer(&stream->transfer, KVX_TAIL);

	if (error)
		return error;
	note_ready(stream, stream->transfer.layers, kvx_now_ns());
	atomic_store_explicit(&stream->ready_tokens[stream->transfer.layers], UINT32_MAX,
			      memory_order_release);
	set_bits(stream->ready, KVX_TAIL, 1);
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

/* Which way bytes take to the transport. */
static void describe_way(const struct kvx_stream *stream, char *text, size_t size)
{
	const struct kvx_memory *memory = stream->pool->memories[0];

	if (stream->lifted)
		snprintf(text, size, "staged in pinned memory by %s %u (%s)",
			 stream->lifted->kind->name, stream->lifted->number, stream->lifted->pci);
	else if (memory->device && memory->gpudirect)
		snprintf(text, size, "direct from %s %u (%s), GPUDirect by %s",
			 memory->device->kind->name, memory->device->number, memory->device->pci,
			 memory->gpudirect);
	else
		snprintf(text, size, "%s", stream->staged ? "gathered first" : "direct");
}

size_t kvx_stream_explain(const struct kvx_stream *stream, char *text, size_t size)
{
	struct kvx_engine *engine = stream->transfer.engine;
	char why[sizeof(stream->why)], way[128];

	pthread_mutex_lock(&engine->lock);
	const struct kvx_image copy = stream->plan.image, *image = &copy;
	uint32_t layers = stream->share.layers, runs = stream->plan.run_count;
	describe_way(stream, way, sizeof(way));
	strcpy(why, stream->why);
	pthread_mutex_unlock(&engine->lock);
	if (!image->planes) /* it is not aimed at a grant yet */
		return kvx_offer_explain(stream, text, size);
	uint32_t last = image->token_end ? image->token_end - 1 : 0;
	int length =
		snprintf(text, size,
			 "%u layers of %llu bytes: tokens %u..%u in %u planes%s, %u runs of %u "
			 "tokens or more contiguous at both ends, %u units a layer, %s; transport: "
			 "%s",
			 layers, (unsigned long long)kvx_image_bytes(image), image->token_first,
			 last, image->planes, image->joined ? " that move as one" : "", runs,
			 image->chunk_tokens, image->units, way, why[0] ? why : "not connected");
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
	kvx_engine_delist(engine, &stream->entry);
	kvx_pool_use(stream->pool, -1);
	kvx_region_use(stream->tail.region, -1);
	kvx_stream_free(stream);
}
