/* SPDX-License-Identifier: Apache-2.0 */
#include "request.h"

#include "clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_NS (30 * NS_PER_S) /* beyond the lease, for the receiver to say how it ended */
#define DELIVERED_MS 5000u /* from whole at the receiver to delivered at the sender, at most */
#define NAP_NS (100 * NS_PER_MS) /* how long an interrupt may go unseen */

int kvx_request_init(struct kvx_request *request, uint32_t layers)
{
	*request = (struct kvx_request){.layers = layers};
	request->ready_ns = calloc(layers, sizeof(int64_t));
	request->first_ns = calloc(layers, sizeof(int64_t));
	request->whole_ns = calloc(layers, sizeof(int64_t));
	if (request->ready_ns && request->first_ns && request->whole_ns)
		return 0;
	kvx_request_finish(request);
	return kvx_failure_set("sender: out of memory");
}

void kvx_request_finish(struct kvx_request *request)
{
	free(request->ready_ns);
	free(request->first_ns);
	free(request->whole_ns);
	*request = (struct kvx_request){0};
}

static void fail(struct kvx_request *request, int error, const char *text)
{
	request->error = error ? error : KVX_E_SYSTEM;
	snprintf(request->text, sizeof(request->text), "%s", text ? text : "");
}

static int64_t patience_until(const struct kvx_session *session)
{
	return clock_now_ns() + session->endpoint.setup.lease_ms * NS_PER_MS + PATIENCE_NS;
}

bool kvx_request_ask(struct kvx_request *request, struct kvx_session *session, uint32_t place,
		     const struct kvx_round *round)
{
	struct kvx_place *here = &session->places[place];

	kvx_session_clear(session, here);
	request->error = 0;
	memset(request->first_ns, 0, request->layers * sizeof(int64_t));
	request->asked_ns = clock_now_ns();
	json_t *message = json_pack("{ss, si, sI, si, si, sb, sb}", "do", "grant", "place",
				    (int)place, "request", (json_int_t)request->payload, "slot",
				    (int)request->slot, "blocks", (int)request->blocks, "verify",
				    round->verify, "timeline", round->timeline);
	if (kvx_session_ask(session, message) ||
	    !kvx_session_hear(session, here, false, patience_until(session))) {
		fail(request, KVX_E_SYSTEM, kvx_failure_text());
		return false;
	}
	return true;
}

static int open_stream(const struct kvx_request *request, struct kvx_session *session,
		       const struct kvx_channel_bytes *ticket, struct kvx_stream **stream)
{
	const struct kvx_endpoint *endpoint = &session->endpoint;

	return kvx_stream_open(endpoint->pool, kvx_endpoint_blocks(endpoint, request->slot),
			       request->blocks, NULL, ticket->bytes, ticket->size, stream);
}

/* False: interrupted. */
static bool sleep_until(int64_t at_ns)
{
	while (!kvx_interrupted) {
		int64_t now_ns = clock_now_ns();
		if (now_ns >= at_ns)
			return true;
		clock_sleep_until(at_ns - now_ns > NAP_NS ? now_ns + NAP_NS : at_ns);
	}
	return false;
}

/* Tells the engine that layers are ready: by the call, or by the word that it watches. */
struct readiness {
	struct kvx_stream *stream;
	uint32_t *word; /* NULL: by call */
	int64_t *ready_ns;
};

static int tell_ready(const struct readiness *readiness, uint32_t first, uint32_t count)
{
	int64_t now_ns = clock_now_ns();

	for (uint32_t layer = first; layer < first + count; layer++)
		readiness->ready_ns[layer] = now_ns;
	if (!readiness->word)
		return kvx_stream_layers_ready(readiness->stream, first, count);
	__atomic_fetch_add(readiness->word, count, __ATOMIC_RELEASE);
	return 0;
}

static int pace_due(const struct readiness *readiness, const struct kvx_round *round,
		    uint32_t layers)
{
	int64_t begin_ns = clock_now_ns();
	int error = 0;

	for (uint32_t layer = 0; layer < layers && !error; layer++) {
		if (!sleep_until(begin_ns + (layer + 1) * round->layer_ns))
			return KVX_E_CANCELLED;
		error = tell_ready(readiness, layer, 1);
	}
	return error;
}

static int pace_delivered(const struct readiness *readiness, const struct kvx_round *round,
			  uint32_t layers, uint32_t lease_ms)
{
	int error = 0;

	for (uint32_t layer = 0; layer < layers && !error; layer++) {
		if (!sleep_until(clock_now_ns() + round->layer_ns))
			return KVX_E_CANCELLED;
		error = tell_ready(readiness, layer, 1);
		if (!error)
			error = kvx_stream_wait(readiness->stream, layer, lease_ms);
	}
	return error;
}

static int pace(const struct readiness *readiness, const struct kvx_round *round,
		const struct kvx_setup *setup)
{
	switch (round->pace) {
	case KVX_PACE_DUE:
		return pace_due(readiness, round, setup->layers);
	case KVX_PACE_DELIVERED:
		return pace_delivered(readiness, round, setup->layers, setup->lease_ms);
	case KVX_PACE_AT_ONCE:
		break;
	}
	return tell_ready(readiness, 0, setup->layers);
}

static void take_times(const struct kvx_session *session, json_t *array, int64_t *times,
		       uint32_t layers)
{
	for (uint32_t layer = 0; array && layer < layers; layer++) {
		int64_t there_ns = json_integer_value(json_array_get(array, layer));
		times[layer] = there_ns ? there_ns - session->clock_offset_ns : 0;
	}
}

static void take_end(struct kvx_request *request, const struct kvx_session *session, json_t *ended)
{
	int error = (int)json_integer_value(json_object_get(ended, "error"));

	if (error)
		fail(request, error, json_string_value(json_object_get(ended, "text")));
	take_times(session, json_object_get(ended, "whole"), request->whole_ns, request->layers);
	take_times(session, json_object_get(ended, "first"), request->first_ns, request->layers);
}

/* Both ends have to agree that it is whole. */
static void confirm_delivered(struct kvx_request *request, struct kvx_stream *stream)
{
	int error = kvx_stream_wait(stream, KVX_ALL_LAYERS, DELIVERED_MS);

	if (error)
		fail(request, error, kvx_error_text());
}

/* The lease may end before the request's turn comes. */
static bool has_ended(struct kvx_session *session, const struct kvx_place *place)
{
	pthread_mutex_lock(&session->lock);
	bool ended = place->ended;
	pthread_mutex_unlock(&session->lock);
	return ended;
}

bool kvx_request_stream(struct kvx_request *request, struct kvx_session *session, uint32_t place,
			const struct kvx_round *round)
{
	struct kvx_place *here = &session->places[place];
	uint32_t word = 0;
	struct readiness readiness = {.ready_ns = request->ready_ns,
				      .word = round->ready_word ? &word : NULL};

	if (has_ended(session, here)) {
		take_end(request, session, here->ended);
		return true;
	}
	request->opened_ns = clock_now_ns();
	int error = open_stream(request, session, &here->ticket, &readiness.stream);
	if (!error && readiness.word)
		error = kvx_stream_watch(readiness.stream, readiness.word);
	if (!error)
		error = pace(&readiness, round, &session->endpoint.setup);
	if (error) {
		fail(request, error, kvx_error_text());
		kvx_stream_close(readiness.stream);
		readiness.stream = NULL;
		kvx_session_ask(session,
				json_pack("{ss, si}", "do", "cancel", "place", (int)place));
	}
	bool heard = kvx_session_hear(session, here, true, patience_until(session));
	if (heard && !request->error) {
		take_end(request, session, here->ended);
		if (!request->error)
			confirm_delivered(request, readiness.stream);
	}
	kvx_stream_close(readiness.stream);
	return heard;
}
