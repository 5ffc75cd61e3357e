/* SPDX-License-Identifier: Apache-2.0 */
#include "control/handlers.h"
#include "control/json.h"
#include "control/listing.h"
#include "control/objects.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADDRESS_MAX 4096u /* characters of a whole address */
#define HOST_MAX 64u      /* characters of a host that is a number, and a zero */
#define TAKEN_UP_MS 1000u /* until the engine lists a new one, at the most */

static bool is_listed(struct kvx_engine *engine, uint64_t id, struct kvx_peer_view *view)
{
	return id && kvx_engine_peers(engine, id - 1, view, 1) == 1 && view->id == id;
}

/* One that was connected here just now may not be listed yet, because the engine's thread has not
 * taken it up: then this is what is known of it so far. */
static bool peer_view_of(struct kvx_request *request, uint64_t id, struct kvx_peer_view *view)
{
	const struct kvx_object *object =
		kvx_object_find(kvx_control_objects(request->control), KVX_OBJECT_PEER, id);

	if (is_listed(request->engine, id, view))
		return true;
	if (!object)
		return false;
	memset(view, 0, sizeof(*view));
	view->id = id;
	view->outgoing = true;
	kvx_peer_info(object->peer, &view->info);
	return true;
}

static bool next_peer(const struct kvx_listing *listing, uint64_t *id, json_t **entry)
{
	struct kvx_peer_view view;

	if (kvx_engine_peers(listing->engine, *id, &view, 1) != 1)
		return false;
	*id = view.id;
	*entry = kvx_json_peer(listing->engine, &view);
	return true;
}

void kvx_serve_peers(struct kvx_request *request)
{
	kvx_listing_answer(request, "peers", next_peer, false);
}

void kvx_serve_peer(struct kvx_request *request)
{
	struct kvx_peer_view view;
	uint64_t wait_ms;

	if (!kvx_request_number(request, "wait_ms", 0, 0, KVX_CONTROL_WAIT_MAX_MS, &wait_ms))
		return;
	if (!peer_view_of(request, request->id, &view))
		kvx_answer_unknown(request, "peer");
	else if (view.info.state != KVX_PEER_CONNECTING || !kvx_request_waits(request, wait_ms))
		kvx_json_answer(request, 200, kvx_json_peer(request->engine, &view));
}

/* ------------------------------------------------------------------------------- connecting */

/* The host of "HOST:PORT" or "[HOST]:PORT" is a number. */
static bool is_numeric(const char *part, size_t length)
{
	unsigned char number[sizeof(struct in6_addr)];
	bool bracketed = length && part[0] == '[';
	const char *host = part + bracketed;
	const char *end = memchr(host, bracketed ? ']' : ':', length - bracketed);
	char text[HOST_MAX];

	if (!end || (size_t)(end - host) >= sizeof(text))
		return false;
	snprintf(text, sizeof(text), "%.*s", (int)(end - host), host);
	return inet_pton(bracketed ? AF_INET6 : AF_INET, text, number) == 1;
}

/* Looking up a host's name may take seconds, and this thread serves everybody. What is no address
 * at all is left to the engine to tell. */
static bool needs_no_lookup(const char *address)
{
	static const char *const networks[] = {"tcp:", "verbs:"};

	for (const char *part = address; *part;) {
		size_t length = strcspn(part, ",");
		for (size_t i = 0; i < sizeof(networks) / sizeof(*networks); i++) {
			size_t prefix = strlen(networks[i]);
			if (strncmp(part, networks[i], prefix) == 0 &&
			    !is_numeric(part + prefix, length - prefix))
				return false;
		}
		part += length + (part[length] == ',');
	}
	return true;
}

static void connect_to(struct kvx_request *request, const char *address)
{
	struct kvx_objects *objects = kvx_control_objects(request->control);
	struct kvx_peer_view view = {0};
	struct kvx_object *object;
	int error = kvx_object_new(objects, KVX_OBJECT_PEER, &object);

	if (error) {
		kvx_answer_error(request, error);
		return;
	}
	error = kvx_peer_connect(request->engine, address, &object->peer);
	if (error) {
		kvx_answer_error(request, error);
		free(object);
		return;
	}
	object->id = kvx_peer_id(object->peer);
	kvx_object_keep(objects, object);
	peer_view_of(request, object->id, &view);
	if (!view.address[0])
		snprintf(view.address, sizeof(view.address), "%s", address);
	kvx_json_answer(request, 201, kvx_json_peer(request->engine, &view));
}

void kvx_serve_peer_connect(struct kvx_request *request)
{
	const char *address = NULL;
	const struct kvx_field fields[] = {
		{"address", KVX_FIELD_TEXT, true, 1, ADDRESS_MAX, &address}};

	if (!kvx_request_fields(request, request->body, "", fields, 1))
		return;
	if (needs_no_lookup(address))
		connect_to(request, address);
	else
		kvx_answer_problem(request, 400, KVX_E_INVALID,
				   "address: hosts are numbers here, as in \"tcp:192.0.2.1:4711\" "
				   "or \"tcp:[2001:db8::1]:4711\": the address of a status");
}

void kvx_serve_peer_forget(struct kvx_request *request)
{
	struct kvx_objects *objects = kvx_control_objects(request->control);
	struct kvx_object *object = kvx_object_find(objects, KVX_OBJECT_PEER, request->id);
	int error = kvx_engine_forget(request->engine, request->id);

	/* The engine's thread has not taken it up yet. */
	if (error && object && kvx_request_waits(request, TAKEN_UP_MS))
		return;
	if (object)
		kvx_object_close(objects, object);
	if (error && !object)
		kvx_answer_unknown(request, "peer");
	else
		kvx_answer(request, 204, NULL);
}
