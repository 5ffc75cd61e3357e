/* SPDX-License-Identifier: Apache-2.0 */
/* What a sender's application does. */
#include "request.h"

#include "core/ticket.h"

#include <stdlib.h>

void request_give_source(struct feed *feed)
{
	struct store *store = &node_of(feed->node)->store;

	if (feed->count)
		store_give(store, feed->blocks, feed->count);
	if (feed->has_tail)
		store_give_tail(store, feed->tail);
	feed->count = 0;
	feed->has_tail = false;
	feed->over = true;
}

/* As the ticket, but for its key. */
static int open_forged(const struct request *request, struct feed *feed,
		       const struct kvx_stream_options *options)
{
	struct kvx_ticket ticket;
	uint8_t *bytes;
	size_t size;

	if (kvx_ticket_decode(&ticket, KVX_TICKET_GRANT, request->ticket, request->ticket_bytes))
		sim_broken("ticket: %s", kvx_error_text());
	ticket.key ^= UINT64_C(1) << sim_below(64);
	if (kvx_ticket_encode(&ticket, &bytes, &size))
		sim_broken("ticket: %s", kvx_error_text());
	int error = kvx_stream_open(node_of(feed->node)->store.pool, feed->blocks, feed->count,
				    options, bytes, size, &feed->stream);
	free(bytes);
	kvx_ticket_finish(&ticket);
	return error;
}

int request_open_stream(struct request *request, struct feed *feed)
{
	struct node *node = node_of(feed->node);
	struct kvx_stream_options options = {.chunk_tokens =
						     feed->style == BY_CHUNKS ? feed->chunk : 0};
	int error;

	if (feed->has_tail)
		options.tail = store_tail(&node->store, feed->tail);
	if (request->pull)
		error = kvx_offer_open(node->store.pool, feed->blocks, feed->count, &options,
				       request->lease_ms, &feed->stream);
	else if (feed->forged)
		error = open_forged(request, feed, &options);
	else
		error = kvx_stream_open(node->store.pool, feed->blocks, feed->count, &options,
					request->ticket, request->ticket_bytes, &feed->stream);
	if (error && (error != KVX_E_DRAINING || !node->drains))
		sim_broken("stream: %s", kvx_error_text());
	if (!error && node->drains)
		sim_broken("node %u: it is drained, but opens a stream", node->index);
	if (error) {
		request->must = false;
		request_check_failure(error);
		request_give_source(feed);
		return error;
	}
	feed->deadline_ns = sim_now_ns + request->lease_ms * MS * (request->pull ? 2 : 1);
	world_wake(feed->node, sim_now_ns);
	return 0;
}

/* --- computing --- */

static void fill(const struct request *request, const struct feed *feed, uint32_t layer,
		 uint32_t tokens)
{
	struct store *store = &node_of(feed->node)->store;

	for (uint32_t i = 0; i < feed->count && !(feed->delivered >> layer & 1); i++) {
		const struct part part = {request->id, i, 0, tokens};
		store_fill(store, feed->blocks[i], layer, &part);
	}
}

static void compute_layers(const struct request *request, struct feed *feed)
{
	uint32_t layers = layers_of(request), first = feed->layers_ready;
	uint32_t count = sim_between(1, layers - first);

	for (uint32_t layer = first; layer < first + count; layer++)
		fill(request, feed, layer, request->tokens);
	feed->layers_ready += count;
	if (feed->style == BY_LAYERS) {
		if (kvx_stream_layers_ready(feed->stream, first, count))
			sim_broken("ready: %s", kvx_error_text());
		return;
	}
	if (!feed->watched) {
		if (kvx_stream_watch(feed->stream, &feed->word))
			sim_broken("watch: %s", kvx_error_text());
		feed->watched = true;
	}
	feed->word += count;
}

static void compute_tokens(const struct request *request, struct feed *feed)
{
	uint32_t layers = layers_of(request);

	feed->tokens_ready += feed->chunk;
	if (feed->tokens_ready >= request->tokens) {
		feed->tokens_ready = request->tokens;
		feed->layers_ready = layers;
	}
	for (uint32_t layer = 0; layer < layers; layer++)
		fill(request, feed, layer, feed->tokens_ready);
	/* Of an offer the whole blocks count, which may hold more tokens than the request. */
	if (kvx_stream_tokens_ready(feed->stream, 0, layers,
				    feed->layers_ready ? UINT32_MAX : feed->tokens_ready))
		sim_broken("ready: %s", kvx_error_text());
}

static bool compute(const struct request *request, struct feed *feed)
{
	struct store *store = &node_of(feed->node)->store;

	if (feed->has_tail && !feed->tail_ready &&
	    (feed->layers_ready == layers_of(request) || sim_percent(20))) {
		store_fill_tail(store, feed->tail, request->id);
		feed->tail_ready = true;
		if (kvx_stream_tail_ready(feed->stream))
			sim_broken("ready: %s", kvx_error_text());
	} else if (feed->layers_ready < layers_of(request)) {
		if (feed->style == BY_CHUNKS)
			compute_tokens(request, feed);
		else
			compute_layers(request, feed);
	} else if (sim_percent(10)) {
		/* Telling a layer twice does nothing, whatever its blocks hold by now. */
		if (kvx_stream_layers_ready(feed->stream, 0, 1))
			sim_broken("ready: %s", kvx_error_text());
	} else {
		return false;
	}
	world_wake(feed->node, sim_now_ns);
	return true;
}

static void close_stream(struct request *request, struct feed *feed)
{
	int64_t begin_ns = sim_now_ns;

	if (!feed->end)
		request->must = false;
	world_block(node_of(feed->node));
	kvx_stream_close(feed->stream);
	world_unblock();
	request_check_duration(begin_ns, DRAIN_MS * MS, "closing a stream");
	feed->stream = NULL;
	request_give_source(feed);
}

static void cancel(struct request *request, struct feed *feed)
{
	struct node *node = node_of(feed->node);
	int64_t begin_ns = sim_now_ns;

	sim_trace("request %llu: cancel", (unsigned long long)request->id);
	request->must = false;
	world_block(node);
	if (sim_percent(50))
		kvx_stream_cancel(feed->stream);
	else if (kvx_engine_cancel(node->engine, kvx_stream_id(feed->stream)))
		sim_broken("cancel: %s", kvx_error_text());
	world_unblock();
	request_check_duration(begin_ns, DRAIN_MS * MS, "a cancel");
	request_check_feed(request, feed);
	if (!feed->end)
		sim_broken("request %llu: it goes on after a cancel",
			   (unsigned long long)request->id);
}

bool request_act_feed(struct request *request, struct feed *feed)
{
	if (!feed->stream) {
		bool late = request->closed && sim_percent(50);
		if (feed->lost || late ||
		    (request->closed && (request->pull || !request->ticket))) {
			if (request->closed)
				request_give_source(feed);
			return request->closed;
		}
		if (request->pull || sim_now_ns < feed->due_ns)
			return false;
		request_open_stream(request, feed);
		return true;
	}
	if (feed->end) {
		if (sim_percent(40))
			close_stream(request, feed);
	} else if (!request->patient && sim_below(150) == 0) {
		cancel(request, feed);
	} else if (!request->patient && sim_below(300) == 0) {
		close_stream(request, feed);
	} else {
		return compute(request, feed);
	}
	return true;
}
