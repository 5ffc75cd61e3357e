/* SPDX-License-Identifier: Apache-2.0 */
/* Streams, and offers, which are streams that wait to be pulled. */
#include "control/handlers.h"
#include "control/json.h"
#include "control/listing.h"
#include "control/objects.h"

#include <inttypes.h>
#include <stdlib.h>

#define END_WAIT_MS 10000u /* until nothing reads its blocks, unless the client says otherwise */
#define PROGRESS_MAX (KVX_LAYERS_MAX + 1) /* the layers and the tail */

static bool stream_view_of(struct kvx_engine *engine, uint64_t id, struct kvx_stream_view *view)
{
	return id && kvx_engine_streams(engine, id - 1, view, 1) == 1 && view->id == id;
}

static struct kvx_object *own(struct kvx_request *request, uint64_t id)
{
	return kvx_object_find(kvx_control_objects(request->control), KVX_OBJECT_STREAM, id);
}

/* ---------------------------------------------------------------------------------- looking */

static bool next_stream(const struct kvx_listing *listing, uint64_t *id, json_t **entry)
{
	struct kvx_objects *objects = kvx_control_objects(listing->control);
	struct kvx_layer_view layers[PROGRESS_MAX];
	struct kvx_stream_view view;
	int count = 0;

	do {
		if (kvx_engine_streams(listing->engine, *id, &view, 1) != 1)
			return false;
		*id = view.id;
		if (listing->progress)
			count = kvx_engine_stream_layers(listing->engine, *id, layers,
							 PROGRESS_MAX);
	} while (count < 0); /* it was closed between the two */
	json_t *json = kvx_json_stream(&view, !kvx_object_find(objects, KVX_OBJECT_STREAM, *id));
	if (listing->progress &&
	    json_object_set_new(json, "progress",
				kvx_json_stream_progress(layers, (uint32_t)count))) {
		json_decref(json);
		json = NULL;
	}
	*entry = json;
	return true;
}

void kvx_serve_streams(struct kvx_request *request)
{
	kvx_listing_answer(request, "streams", next_stream, true);
}

static json_t *explained(const struct kvx_stream *stream)
{
	size_t length = kvx_stream_explain(stream, NULL, 0);
	char *text = calloc(1, length + 1);
	json_t *json;

	if (!text)
		return NULL;
	kvx_stream_explain(stream, text, length + 1);
	json = kvx_json_text(text);
	free(text);
	return json;
}

/* With what its handle tells, if it was opened here. */
static json_t *told(struct kvx_request *request, const struct kvx_stream_view *view)
{
	struct kvx_object *object = own(request, view->id);
	json_t *json = kvx_json_stream(view, !object);
	const void *ticket;
	size_t bytes;

	if (!object)
		return json;
	json_object_set_new(json, "explain", explained(object->stream));
	ticket = kvx_offer_ticket(object->stream, &bytes);
	if (ticket)
		json_object_set_new(json, "ticket", kvx_json_base64(ticket, bytes));
	return json;
}

static void answer_stream(struct kvx_request *request, unsigned status, uint64_t id)
{
	struct kvx_stream_view view;

	if (stream_view_of(request->engine, id, &view))
		kvx_json_answer(request, status, told(request, &view));
	else
		kvx_answer_unknown(request, "stream");
}

void kvx_serve_stream(struct kvx_request *request)
{
	struct kvx_layer_view layers[PROGRESS_MAX];
	struct kvx_stream_view view;
	uint64_t wait_ms;
	uint32_t layer;

	if (!stream_view_of(request->engine, request->id, &view)) {
		kvx_answer_gone(request, "stream");
		return;
	}
	request->number = 1;
	if (!kvx_request_number(request, "wait_ms", 0, 0, KVX_CONTROL_WAIT_MAX_MS, &wait_ms) ||
	    !kvx_request_layer(request, view.layers, view.tail_bytes > 0, &layer))
		return;
	int count = kvx_engine_stream_layers(request->engine, request->id, layers, PROGRESS_MAX);
	if (count < 0) {
		kvx_answer_gone(request, "stream");
		return;
	}
	if (!kvx_wait_is_over(view.state, layers, (uint32_t)count, layer) &&
	    kvx_request_waits(request, wait_ms))
		return;
	json_t *json = told(request, &view);
	json_object_set_new(json, "progress", kvx_json_stream_progress(layers, (uint32_t)count));
	kvx_json_answer(request, 200, json);
}

/* ---------------------------------------------------------------------------------- opening */

/* Of a stream the ticket is set, of an offer the lease. */
struct opening {
	struct kvx_opening common;
	uint64_t chunk_tokens, lease_ms;
	bool ready;
	struct kvx_bytes ticket;
};

static int open_stream(const struct opening *opening, struct kvx_stream **stream)
{
	const struct kvx_opening *common = &opening->common;
	const struct kvx_stream_options options = {.chunk_tokens = (uint32_t)opening->chunk_tokens,
						   .tail = common->tail};

	if (opening->ticket.data)
		return kvx_stream_open(common->pool, common->blocks, common->count, &options,
				       opening->ticket.data, opening->ticket.size, stream);
	return kvx_offer_open(common->pool, common->blocks, common->count, &options,
			      (uint32_t)opening->lease_ms, stream);
}

static void open_and_answer(struct kvx_request *request, const struct opening *opening)
{
	struct kvx_objects *objects = kvx_control_objects(request->control);
	struct kvx_object *object;
	struct kvx_stream_view view;

	int error = kvx_object_new(objects, KVX_OBJECT_STREAM, &object);

	if (error) {
		kvx_answer_error(request, error);
		return;
	}
	error = open_stream(opening, &object->stream);
	if (error) {
		kvx_answer_error(request, error);
		free(object);
		return;
	}
	object->id = kvx_stream_id(object->stream);
	kvx_object_keep(objects, object);
	if (opening->ready && stream_view_of(request->engine, object->id, &view))
		kvx_stream_layers_ready(object->stream, 0, view.layers);
	answer_stream(request, 201, object->id);
}

static void open_common(struct kvx_request *request, struct opening *opening)
{
	if (kvx_opening_begin(request, &opening->common)) {
		open_and_answer(request, opening);
		kvx_opening_end(&opening->common);
	}
	free(opening->ticket.data);
}

void kvx_serve_stream_open(struct kvx_request *request)
{
	struct opening opening = {0};
	const struct kvx_field fields[] = {
		KVX_OPENING_FIELDS(&opening.common),
		{"ticket", KVX_FIELD_BYTES, true, 1, KVX_CONTROL_BODY_MAX, &opening.ticket},
		{"chunk_tokens", KVX_FIELD_NUMBER, false, 0, UINT32_MAX, &opening.chunk_tokens},
		{"ready", KVX_FIELD_FLAG, false, 0, 0, &opening.ready},
	};

	if (kvx_request_fields(request, request->body, "", fields,
			       sizeof(fields) / sizeof(*fields)))
		open_common(request, &opening);
}

void kvx_serve_offer_open(struct kvx_request *request)
{
	struct opening opening = {0};
	const struct kvx_field fields[] = {
		KVX_OPENING_FIELDS(&opening.common),
		{"lease_ms", KVX_FIELD_NUMBER, true, 1, KVX_TIMEOUT_MAX_MS, &opening.lease_ms},
		{"chunk_tokens", KVX_FIELD_NUMBER, false, 0, UINT32_MAX, &opening.chunk_tokens},
		{"ready", KVX_FIELD_FLAG, false, 0, 0, &opening.ready},
	};

	if (kvx_request_fields(request, request->body, "", fields,
			       sizeof(fields) / sizeof(*fields)))
		open_common(request, &opening);
}

/* ------------------------------------------------------------------------------------ ready */

#define COUNT_NONE UINT64_MAX /* not given */

struct readiness {
	uint64_t first, count, tokens;
	bool all, tail;
};

static bool is_sound(struct kvx_request *request, const struct readiness *ready)
{
	bool has_range = ready->count != COUNT_NONE;
	bool has_rest = ready->first != COUNT_NONE || ready->tokens != COUNT_NONE;

	if (ready->all ? has_range || has_rest : !(has_range || (ready->tail && !has_rest))) {
		kvx_answer_problem(request, 400, KVX_E_INVALID,
				   "ready: needs first and count, or all, or tail");
		return false;
	}
	return true;
}

static int tell_ready(struct kvx_stream *stream, const struct readiness *ready, uint32_t layers)
{
	uint32_t first = ready->first == COUNT_NONE ? 0 : (uint32_t)ready->first;
	uint32_t count = ready->all ? layers : (uint32_t)ready->count;
	int error = 0;

	if (ready->tokens != COUNT_NONE)
		error = kvx_stream_tokens_ready(stream, first, count, (uint32_t)ready->tokens);
	else if (ready->all || ready->count != COUNT_NONE)
		error = kvx_stream_layers_ready(stream, first, count);
	return error || !ready->tail ? error : kvx_stream_tail_ready(stream);
}

void kvx_serve_stream_ready(struct kvx_request *request)
{
	struct kvx_object *object = own(request, request->id);
	struct readiness ready = {COUNT_NONE, COUNT_NONE, COUNT_NONE, false, false};
	struct kvx_stream_view view;
	const struct kvx_field fields[] = {
		{"first", KVX_FIELD_NUMBER, false, 0, KVX_LAYERS_MAX - 1, &ready.first},
		{"count", KVX_FIELD_NUMBER, false, 1, KVX_LAYERS_MAX, &ready.count},
		{"tokens", KVX_FIELD_NUMBER, false, 1, UINT32_MAX, &ready.tokens},
		{"all", KVX_FIELD_FLAG, false, 0, 0, &ready.all},
		{"tail", KVX_FIELD_FLAG, false, 0, 0, &ready.tail},
	};

	if (!stream_view_of(request->engine, request->id, &view)) {
		kvx_answer_unknown(request, "stream");
		return;
	}
	if (!object) {
		kvx_answer_problem(request, 409, KVX_E_BUSY,
				   "stream %" PRIu64 ": the program opened it, and it alone knows "
				   "what is computed",
				   request->id);
		return;
	}
	if (!kvx_request_fields(request, request->body, "", fields,
				sizeof(fields) / sizeof(*fields)) ||
	    !is_sound(request, &ready))
		return;
	int error = tell_ready(object->stream, &ready, view.layers);
	if (error)
		kvx_answer_error(request, error);
	else
		answer_stream(request, 200, request->id);
}

/* ----------------------------------------------------------------------------------- ending */

/* It is at rest, so that closing it takes no waiting. */
static void answer_ended(struct kvx_request *request, struct kvx_stream_view *view)
{
	struct kvx_objects *objects = kvx_control_objects(request->control);
	struct kvx_object *object = own(request, view->id);

	if (!object) {
		kvx_json_answer(request, 200, kvx_json_stream(view, true));
		return;
	}
	kvx_object_close(objects, object);
	view->drained = true;
	json_t *ended = kvx_json_stream(view, false);
	kvx_objects_remember(objects, view->id, json_incref(ended));
	kvx_json_answer(request, 200, ended);
}

/* Its owner, or another client, was faster to close it, and so it is at rest. */
static void answer_ended_by_another(struct kvx_request *request)
{
	json_t *ended = kvx_objects_recall(kvx_control_objects(request->control), request->id);

	if (!request->number) {
		json_decref(ended);
		kvx_answer_unknown(request, "stream");
	} else {
		kvx_answer(request, ended ? 200 : 204, ended);
	}
}

/* request->number: 1 once it was told to end. */
void kvx_serve_stream_end(struct kvx_request *request)
{
	struct kvx_stream_view view;
	uint64_t wait_ms;

	if (!kvx_request_number(request, "wait_ms", END_WAIT_MS, 0, KVX_CONTROL_WAIT_MAX_MS,
				&wait_ms))
		return;
	if (!request->number && !kvx_engine_cancel(request->engine, request->id))
		request->number = 1;
	if (stream_view_of(request->engine, request->id, &view)) {
		if (kvx_stream_rests(&view))
			answer_ended(request, &view);
		else if (!kvx_request_waits(request, wait_ms))
			kvx_answer_problem(request, 504, KVX_E_TIMEDOUT,
					   "stream %" PRIu64 ": its blocks are still read after "
					   "%" PRIu64 " ms: do not use them yet, and ask again",
					   request->id, wait_ms);
	} else {
		answer_ended_by_another(request);
	}
}
