/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"
#include "control/handlers.h"
#include "control/json.h"
#include "control/listing.h"
#include "control/objects.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define END_WAIT_MS 10000u                /* for the fence, unless the client says otherwise */
#define DRAIN_MAX_MS 60000u               /* as option drain_ms */
#define PROGRESS_MAX (KVX_LAYERS_MAX + 1) /* the layers and the tail */

static bool grant_view_of(struct kvx_engine *engine, uint64_t id, struct kvx_grant_view *view)
{
	return id && kvx_engine_grants(engine, id - 1, view, 1) == 1 && view->id == id;
}

static struct kvx_object *own(struct kvx_request *request, uint64_t id)
{
	return kvx_object_find(kvx_control_objects(request->control), KVX_OBJECT_GRANT, id);
}

/* ---------------------------------------------------------------------------------- looking */

static bool next_grant(const struct kvx_listing *listing, uint64_t *id, json_t **entry)
{
	struct kvx_objects *objects = kvx_control_objects(listing->control);
	struct kvx_layer_view layers[PROGRESS_MAX];
	struct kvx_grant_view view;
	int count = 0;

	do {
		if (kvx_engine_grants(listing->engine, *id, &view, 1) != 1)
			return false;
		*id = view.id;
		if (listing->progress)
			count = kvx_engine_grant_layers(listing->engine, *id, layers, PROGRESS_MAX);
	} while (count < 0); /* it was closed between the two */
	json_t *json = kvx_json_grant(&view, !kvx_object_find(objects, KVX_OBJECT_GRANT, *id));
	if (listing->progress &&
	    json_object_set_new(json, "progress",
				kvx_json_grant_progress(layers, (uint32_t)count))) {
		json_decref(json);
		json = NULL;
	}
	*entry = json;
	return true;
}

void kvx_serve_grants(struct kvx_request *request)
{
	kvx_listing_answer(request, "grants", next_grant, true);
}

/* With its ticket, if it was opened here. */
static json_t *told(struct kvx_request *request, const struct kvx_grant_view *view)
{
	struct kvx_object *object = own(request, view->id);
	json_t *json = kvx_json_grant(view, !object);
	size_t bytes;

	if (object) {
		const void *ticket = kvx_grant_ticket(object->grant, &bytes);
		json_object_set_new(json, "ticket", kvx_json_base64(ticket, bytes));
	}
	return json;
}

static void answer_grant(struct kvx_request *request, unsigned status, uint64_t id)
{
	struct kvx_grant_view view;

	if (grant_view_of(request->engine, id, &view))
		kvx_json_answer(request, status, told(request, &view));
	else
		kvx_answer_unknown(request, "grant");
}

void kvx_serve_grant(struct kvx_request *request)
{
	struct kvx_layer_view layers[PROGRESS_MAX];
	struct kvx_grant_view view;
	uint64_t wait_ms;
	uint32_t layer;

	if (!grant_view_of(request->engine, request->id, &view)) {
		kvx_answer_gone(request, "grant");
		return;
	}
	request->number = 1;
	if (!kvx_request_number(request, "wait_ms", 0, 0, KVX_CONTROL_WAIT_MAX_MS, &wait_ms) ||
	    !kvx_request_layer(request, view.layers, view.tail_bytes > 0, &layer))
		return;
	int count = kvx_engine_grant_layers(request->engine, request->id, layers, PROGRESS_MAX);
	if (count < 0) {
		kvx_answer_gone(request, "grant");
		return;
	}
	if (!kvx_wait_is_over(view.state, layers, (uint32_t)count, layer) &&
	    kvx_request_waits(request, wait_ms))
		return;
	json_t *json = told(request, &view);
	json_object_set_new(json, "progress", kvx_json_grant_progress(layers, (uint32_t)count));
	kvx_json_answer(request, 200, json);
}

/* ---------------------------------------------------------------------------------- opening */

/* Tickets of offers. */
struct tickets {
	struct kvx_bytes bytes[KVX_SENDERS_MAX];
	uint32_t count;
};

static void free_tickets(struct tickets *tickets)
{
	for (uint32_t i = 0; i < tickets->count; i++)
		free(tickets->bytes[i].data);
}

/* False: answered. */
static bool read_tickets(struct kvx_request *request, json_t *list, struct tickets *tickets)
{
	json_t *ticket;
	size_t i;

	json_array_foreach(list, i, ticket)
	{
		struct kvx_bytes *bytes = &tickets->bytes[tickets->count];
		const struct kvx_field field = {"ticket", KVX_FIELD_BYTES,      true,
						1,        KVX_CONTROL_BODY_MAX, bytes};
		json_t *object = json_pack("{sO}", "ticket", ticket);
		bool is_read = kvx_request_fields(request, object, "pull", &field, 1);
		json_decref(object);
		if (!is_read) {
			free_tickets(tickets);
			return false;
		}
		tickets->count++;
	}
	return true;
}

static int pull_all(struct kvx_grant *grant, const struct tickets *tickets)
{
	int error = 0;

	for (uint32_t i = 0; i < tickets->count && !error; i++)
		error = kvx_grant_pull(grant, tickets->bytes[i].data, tickets->bytes[i].size);
	return error;
}

/* A grant whose pull was refused: its blocks are free again when that is answered.
 * request->number: its id. */
static void end_refused(struct kvx_request *request)
{
	struct kvx_objects *objects = kvx_control_objects(request->control);
	struct kvx_object *object = own(request, request->number);
	struct kvx_grant_view view;

	if (!object) {
		kvx_answer_unknown(request, "grant");
		return;
	}
	bool rests = grant_view_of(request->engine, object->id, &view) && kvx_grant_rests(&view);
	if (!rests && kvx_request_waits(request, END_WAIT_MS))
		return;
	kvx_answer_error(request, kvx_fail(object->error, "%s", object->text ? object->text : ""));
	if (rests)
		kvx_object_close(objects, object);
}

static void refuse_pull(struct kvx_request *request, struct kvx_object *object, int error)
{
	object->unwanted = true;
	object->error = error;
	object->text = strdup(kvx_error_text());
	kvx_engine_revoke(request->engine, object->id, 0);
	request->number = object->id;
	end_refused(request);
}

static struct kvx_object *open_grant(struct kvx_request *request, struct kvx_opening *opening,
				     const struct kvx_grant_options *options, uint32_t lease_ms)
{
	struct kvx_objects *objects = kvx_control_objects(request->control);
	struct kvx_object *object;
	int error = kvx_object_new(objects, KVX_OBJECT_GRANT, &object);

	if (error) {
		kvx_answer_error(request, error);
		return NULL;
	}
	error = kvx_grant_open(opening->pool, opening->blocks, opening->count, options, lease_ms,
			       &object->grant);
	if (error) {
		kvx_answer_error(request, error);
		free(object);
		return NULL;
	}
	object->id = kvx_grant_id(object->grant);
	kvx_object_keep(objects, object);
	return object;
}

void kvx_serve_grant_open(struct kvx_request *request)
{
	struct kvx_opening opening = {0};
	uint64_t lease_ms = 0, tokens = 0, held_blocks = 0, senders = 0;
	struct tickets tickets = {.count = 0};
	json_t *list = NULL;
	const struct kvx_field fields[] = {
		KVX_OPENING_FIELDS(&opening),
		{"lease_ms", KVX_FIELD_NUMBER, true, 1, KVX_TIMEOUT_MAX_MS, &lease_ms},
		{"tokens", KVX_FIELD_NUMBER, false, 0, UINT32_MAX, &tokens},
		{"held_blocks", KVX_FIELD_NUMBER, false, 0, UINT32_MAX, &held_blocks},
		{"senders", KVX_FIELD_NUMBER, false, 0, KVX_SENDERS_MAX, &senders},
		{"pull", KVX_FIELD_LIST, false, 1, KVX_SENDERS_MAX, &list},
	};

	if (request->number) {
		end_refused(request);
		return;
	}
	if (!kvx_request_fields(request, request->body, "", fields,
				sizeof(fields) / sizeof(*fields)) ||
	    !read_tickets(request, list, &tickets))
		return;
	if (kvx_opening_begin(request, &opening)) {
		const struct kvx_grant_options options = {.tokens = (uint32_t)tokens,
							  .held_blocks = (uint32_t)held_blocks,
							  .senders = (uint32_t)senders,
							  .tail = opening.tail};
		struct kvx_object *object =
			open_grant(request, &opening, &options, (uint32_t)lease_ms);
		int error = object ? pull_all(object->grant, &tickets) : 0;
		if (error)
			refuse_pull(request, object, error);
		else if (object)
			answer_grant(request, 201, object->id);
		kvx_opening_end(&opening);
	}
	free_tickets(&tickets);
}

void kvx_serve_grant_pull(struct kvx_request *request)
{
	struct kvx_object *object = own(request, request->id);
	struct kvx_grant_view view;
	struct kvx_bytes ticket = {0};
	const struct kvx_field fields[] = {
		{"ticket", KVX_FIELD_BYTES, true, 1, KVX_CONTROL_BODY_MAX, &ticket}};

	if (!grant_view_of(request->engine, request->id, &view)) {
		kvx_answer_unknown(request, "grant");
		return;
	}
	if (!object) {
		kvx_answer_problem(request, 409, KVX_E_BUSY,
				   "grant %" PRIu64 ": the program opened it, and it alone may "
				   "have it fed",
				   request->id);
		return;
	}
	if (!kvx_request_fields(request, request->body, "", fields, 1))
		return;
	int error = kvx_grant_pull(object->grant, ticket.data, ticket.size);
	free(ticket.data);
	if (error)
		kvx_answer_error(request, error);
	else
		answer_grant(request, 200, request->id);
}

/* ----------------------------------------------------------------------------------- ending */

static uint64_t drain_ms(struct kvx_engine *engine)
{
	char text[32] = "";

	kvx_engine_option(engine, "drain_ms", text, sizeof(text));
	return strtoull(text, NULL, 10);
}

/* It is at rest, so that closing it takes no waiting. */
static void answer_ended(struct kvx_request *request, struct kvx_grant_view *view)
{
	struct kvx_objects *objects = kvx_control_objects(request->control);
	struct kvx_object *object = own(request, view->id);

	if (!object) {
		kvx_json_answer(request, 200, kvx_json_grant(view, true));
		return;
	}
	kvx_object_close(objects, object);
	view->fenced = true;
	json_t *ended = kvx_json_grant(view, false);
	kvx_objects_remember(objects, view->id, json_incref(ended));
	kvx_json_answer(request, 200, ended);
}

/* Its owner, or another client, was faster to close it, and so it is at rest. */
static void answer_ended_by_another(struct kvx_request *request)
{
	json_t *ended = kvx_objects_recall(kvx_control_objects(request->control), request->id);

	if (!request->number) {
		json_decref(ended);
		kvx_answer_unknown(request, "grant");
	} else {
		kvx_answer(request, ended ? 200 : 204, ended);
	}
}

/* request->number: 1 once it was told to end. */
void kvx_serve_grant_end(struct kvx_request *request)
{
	struct kvx_grant_view view;
	uint64_t wait_ms, timeout_ms;

	if (!kvx_request_number(request, "wait_ms", END_WAIT_MS, 0, KVX_CONTROL_WAIT_MAX_MS,
				&wait_ms) ||
	    !kvx_request_number(request, "drain_ms", drain_ms(request->engine), 0, DRAIN_MAX_MS,
				&timeout_ms))
		return;
	if (!request->number &&
	    !kvx_engine_revoke(request->engine, request->id, (uint32_t)timeout_ms))
		request->number = 1;
	if (grant_view_of(request->engine, request->id, &view)) {
		if (kvx_grant_rests(&view))
			answer_ended(request, &view);
		else if (!kvx_request_waits(request, wait_ms))
			kvx_answer_problem(request, 504, KVX_E_TIMEDOUT,
					   "grant %" PRIu64 ": its fence is not closed within "
					   "%" PRIu64 " ms: do not use its blocks yet, and ask "
					   "again",
					   request->id, wait_ms);
	} else {
		answer_ended_by_another(request);
	}
}
