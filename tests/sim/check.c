/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold of a request whenever an engine has taken a step. */
#include "request.h"

#include <string.h>

/* Every failure says what was tried, and why it failed. */
void request_check_failure(int code)
{
	const char *text = kvx_error_text();

	if (!kvx_error_name(code) || strlen(text) < 12 || strcmp(text, kvx_strerror(code)) == 0)
		sim_broken("a failure (%d) without a text: \"%s\"", code, text);
}

void request_check_duration(int64_t begin_ns, int64_t most_ns, const char *what)
{
	int64_t slack_ns = 3 * MS + 4 * (net.latency_ns + net.jitter_ns + world.jitter_ns);

	if (sim_now_ns - begin_ns > most_ns + slack_ns)
		sim_broken("%s took %lld us, of at most %lld", what,
			   (long long)((sim_now_ns - begin_ns) / US), (long long)(most_ns / US));
}

static void check_layer(const struct request *request, uint32_t layer, enum content content)
{
	const struct store *store = &world.nodes[request->node].store;

	for (uint32_t i = request->held; i < request->count; i++) {
		const struct part part = {request->id, i, request->token_first, request->tokens};
		store_check(store, request->blocks[i], layer, content, &part,
			    content == WHOLE ? "a layer that was reported whole"
					     : "a granted block");
	}
}

void request_check_blocks(const struct request *request, uint32_t layer)
{
	check_layer(request, layer, request->whole >> layer & 1 ? WHOLE : BETWEEN);
}

static void check_counter(const struct request *request, uint32_t layer, bool whole)
{
	uint32_t arrived, target;

	if (kvx_grant_count(request->grant, layer, &arrived, &target))
		sim_broken("count: %s", kvx_error_text());
	if (arrived > target || (whole && arrived != target))
		sim_broken("request %llu layer %u: %u units of %u were counted%s",
			   (unsigned long long)request->id, layer, arrived, target,
			   whole ? ", and it is whole" : "");
}

static void look_at_layers(struct request *request)
{
	const struct store *store = &world.nodes[request->node].store;

	for (uint32_t layer = 0; layer < layers_of(request); layer++) {
		if (request->whole >> layer & 1 || kvx_grant_poll(request->grant, layer) != 1)
			continue;
		request->whole |= 1u << layer;
		sim_trace("request %llu: layer %u is whole", (unsigned long long)request->id,
			  layer);
		sim_note(request->id << 8 | layer);
		check_counter(request, layer, true);
		if (!request->fenced)
			check_layer(request, layer, WHOLE);
	}
	if (!request->has_tail || request->tail_whole ||
	    kvx_grant_poll(request->grant, KVX_TAIL) != 1)
		return;
	request->tail_whole = true;
	if (request->whole != (1u << layers_of(request)) - 1)
		sim_broken("request %llu: its tail is told before its layers",
			   (unsigned long long)request->id);
	if (!request->fenced)
		store_check_tail(store, request->tail, WHOLE, request->id,
				 "a tail that was reported whole");
}

/* What was counted is what was to be moved: not a byte more. */
static void check_bytes(const struct request *request, bool complete)
{
	const struct node *node = &world.nodes[request->node];
	const struct store *store = &node->store;
	uint64_t id = kvx_grant_id(request->grant);
	struct kvx_grant_view view;
	uint64_t bytes = (uint64_t)layers_of(request) * store->geometry.planes *
				 (request->tokens - request->token_first) * store->heads *
				 store->head_bytes +
			 (request->has_tail ? TAIL_BYTES : 0);

	if (kvx_engine_grants(node->engine, id - 1, &view, 1) != 1 || view.id != id)
		sim_broken("request %llu: its grant is not listed",
			   (unsigned long long)request->id);
	if (complete ? view.bytes != bytes : view.bytes > bytes)
		sim_broken("request %llu: %llu bytes of %llu were counted",
			   (unsigned long long)request->id, (unsigned long long)view.bytes,
			   (unsigned long long)bytes);
}

static void check_deadline(const struct node *node, int64_t deadline_ns, const char *what,
			   const struct request *request)
{
	if (deadline_ns < node->stalled_until_ns)
		deadline_ns = node->stalled_until_ns;
	if (sim_now_ns > deadline_ns + 3 * MS + 3 * world.jitter_ns)
		sim_broken("request %llu: the %s goes on %lld us after its lease",
			   (unsigned long long)request->id, what,
			   (long long)((sim_now_ns - deadline_ns) / US));
}

static void ended(struct request *request, int code, const char *what)
{
	request_check_failure(code);
	sim_trace("request %llu: %s: %s", (unsigned long long)request->id, what, kvx_error_text());
	sim_note(request->id << 16 | (uint64_t)-code);
	if (request->must)
		sim_broken("request %llu, which nothing disturbed, has failed: %s: %s",
			   (unsigned long long)request->id, what, kvx_error_text());
	if (request->code >= 0)
		request->code = code;
}

void request_check_grant(struct request *request)
{
	const struct node *node = &world.nodes[request->node];

	if (request->end)
		return;
	look_at_layers(request);
	request->end = kvx_grant_poll(request->grant, KVX_ALL_LAYERS);
	if (request->end == KVX_E_LEASE && sim_now_ns < request->deadline_ns)
		sim_broken("request %llu: its lease ended %lld us too early",
			   (unsigned long long)request->id,
			   (long long)((request->deadline_ns - sim_now_ns) / US));
	if (request->end < 0) {
		ended(request, request->end, "grant");
		check_bytes(request, false);
	} else if (request->end > 0) {
		sim_trace("request %llu: complete", (unsigned long long)request->id);
		if (request->whole != (1u << layers_of(request)) - 1 ||
		    request->tail_whole != request->has_tail)
			sim_broken("request %llu: complete, but not all layers are whole",
				   (unsigned long long)request->id);
		check_bytes(request, true);
		if (request->code == 0)
			request->code = 1;
	} else {
		check_deadline(node, request->deadline_ns, "grant", request);
		for (uint32_t layer = 0; layer < layers_of(request); layer++)
			check_counter(request, layer, false);
	}
}

/* --- the sender's half --- */

static void spoil(const struct feed *feed, uint32_t layer)
{
	struct store *store = &world.nodes[feed->node].store;

	for (uint32_t i = 0; i < feed->count; i++)
		store_spoil(store, feed->blocks[i], layer);
}

/* A layer that is delivered is the application's again, which uses it at once; and its only sender
 * has the receiver's word that it is whole there. */
static void delivered(const struct request *request, struct feed *feed, uint32_t layer)
{
	feed->delivered |= 1u << layer;
	if (request->grant && request->feed_count == 1 && !request->fenced &&
	    kvx_grant_poll(request->grant, layer) != 1)
		sim_broken("request %llu: layer %u is delivered, but not whole",
			   (unsigned long long)request->id, layer);
	sim_trace("request %llu: layer %u is delivered", (unsigned long long)request->id, layer);
	spoil(feed, layer);
}

void request_check_feed(struct request *request, struct feed *feed)
{
	const struct node *node = &world.nodes[feed->node];
	uint32_t layers = layers_of(request);

	if (feed->end)
		return;
	for (uint32_t layer = 0; layer < layers; layer++)
		if (!(feed->delivered >> layer & 1) && kvx_stream_poll(feed->stream, layer) == 1)
			delivered(request, feed, layer);
	feed->end = kvx_stream_poll(feed->stream, KVX_ALL_LAYERS);
	if (feed->forged && (feed->end > 0 || feed->delivered))
		sim_broken("request %llu: a sender that never saw the key fed it",
			   (unsigned long long)request->id);
	if (feed->end < 0)
		ended(request, feed->end, "stream");
	else if (feed->end > 0 && feed->delivered != (1u << layers) - 1)
		sim_broken("request %llu: a stream is complete without all its layers",
			   (unsigned long long)request->id);
	else if (!feed->end)
		check_deadline(node, feed->deadline_ns, "stream", request);
}
