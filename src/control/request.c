/* SPDX-License-Identifier: Apache-2.0 */
/* From the parts of a request, as libmicrohttpd brings them, to its handler and its answer. */
#include "control/door.h"
#include "control/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What is longer than a body may be is read and thrown away, so that the client is there to hear
 * why; beyond this it is cut off. */
#define SWALLOWED_MAX (16u << 20)
#define METHODS_MAX 64u

/* --- the route --- */

/* Digits that make a number above 0. */
static bool read_id(const char *text, size_t length, uint64_t *id)
{
	uint64_t number = 0;

	if (!length || text[0] == '0')
		return false;
	for (size_t i = 0; i < length; i++) {
		unsigned digit = (unsigned)(text[i] - '0');
		if (digit > 9 || number > (UINT64_MAX - digit) / 10)
			return false;
		number = number * 10 + digit;
	}
	*id = number;
	return true;
}

static bool matches(const char *pattern, const char *path, uint64_t *id)
{
	while (*pattern) {
		if (*pattern != '{') {
			if (*pattern++ != *path++)
				return false;
			continue;
		}
		size_t length = strcspn(path, "/");
		if (!read_id(path, length, id))
			return false;
		path += length;
		pattern += strlen("{id}");
	}
	return !*path;
}

/* Answers itself where there is none. */
static const struct kvx_route *find_route(struct kvx_exchange *exchange, const char *method,
					  const char *path)
{
	char allowed[METHODS_MAX] = "";

	for (const struct kvx_route *route = kvx_routes; route->method; route++) {
		if (!matches(route->path, path, &exchange->request.id))
			continue;
		if (strcmp(route->method, method) == 0)
			return route;
		size_t length = strlen(allowed);
		snprintf(allowed + length, sizeof(allowed) - length, "%s%s", length ? ", " : "",
			 route->method);
	}
	if (!*allowed) {
		kvx_answer_problem(&exchange->request, MHD_HTTP_NOT_FOUND, KVX_E_INVALID,
				   "%.128s: there is no such path; docs/control-api.md lists them",
				   path);
		return NULL;
	}
	kvx_answer_problem(&exchange->request, MHD_HTTP_METHOD_NOT_ALLOWED, KVX_E_INVALID,
			   "%.128s: does not know %.16s; it knows %s", path, method, allowed);
	if (exchange->response)
		MHD_add_response_header(exchange->response, MHD_HTTP_HEADER_ALLOW, allowed);
	return NULL;
}

/* --- the body --- */

bool kvx_exchange_charge(struct kvx_exchange *exchange, size_t bytes)
{
	struct kvx_control *control = exchange->request.control;

	if (bytes > KVX_CONTROL_BYTES_MAX - control->bytes)
		return false;
	control->bytes += bytes;
	exchange->bytes += bytes;
	return true;
}

static void free_body(struct kvx_exchange *exchange)
{
	json_decref(exchange->request.body);
	exchange->request.body = NULL;
	free(exchange->body);
	exchange->body = NULL;
}

/* Doubles the room, up to the longest body. */
static bool make_room(struct kvx_exchange *exchange, size_t bytes)
{
	size_t room = exchange->body_room ? exchange->body_room : 4096;

	while (room < exchange->body_bytes + bytes)
		room *= 2;
	if (room == exchange->body_room)
		return true;
	char *body = kvx_exchange_charge(exchange, room - exchange->body_room)
			     ? realloc(exchange->body, room)
			     : NULL;
	if (!body)
		return false;
	exchange->body = body;
	exchange->body_room = room;
	return true;
}

/* False: more is not taken at all. */
static bool take_data(struct kvx_exchange *exchange, const char *data, size_t bytes)
{
	if (exchange->body_bytes + bytes > KVX_CONTROL_BODY_MAX) {
		exchange->too_long = true;
		free_body(exchange);
	}
	if (!exchange->too_long && !exchange->response) {
		if (make_room(exchange, bytes))
			memcpy(exchange->body + exchange->body_bytes, data, bytes);
		else
			kvx_answer_problem(&exchange->request, MHD_HTTP_SERVICE_UNAVAILABLE,
					   KVX_E_MEMORY,
					   "control: no memory for the body; ask again later");
	}
	exchange->body_bytes += bytes;
	return exchange->body_bytes <= SWALLOWED_MAX;
}

static bool is_json(struct kvx_exchange *exchange)
{
	static const char json[] = "application/json";
	const char *type = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND,
						       MHD_HTTP_HEADER_CONTENT_TYPE);
	size_t length = sizeof(json) - 1;

	return type && strncasecmp(type, json, length) == 0 &&
	       (!type[length] || type[length] == ';' || type[length] == ' ');
}

static bool parse_body(struct kvx_exchange *exchange)
{
	struct kvx_request *request = &exchange->request;
	json_error_t error;

	json_t *body =
		json_loadb(exchange->body, exchange->body_bytes, JSON_REJECT_DUPLICATES, &error);
	free(exchange->body);
	exchange->body = NULL;
	if (!body) {
		kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID,
				   "body: malformed JSON, line %d, column %d: %.200s", error.line,
				   error.column, error.text);
		return false;
	}
	request->body = body;
	if (!json_is_object(body)) {
		kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID,
				   "body: is JSON, but no object; write {\"name\": value, ...}");
		return false;
	}
	return true;
}

/* Whether the route has the body that it wants; answered if not. */
static bool check_body(struct kvx_exchange *exchange)
{
	struct kvx_request *request = &exchange->request;

	if (exchange->too_long) {
		kvx_answer_problem(request, MHD_HTTP_CONTENT_TOO_LARGE, KVX_E_LIMIT,
				   "body: %zu bytes: at most %u", exchange->body_bytes,
				   KVX_CONTROL_BODY_MAX);
		return false;
	}
	if (!exchange->route->body) {
		if (exchange->body_bytes)
			kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID,
					   "body: %s %s takes none", exchange->route->method,
					   exchange->route->path);
		return !exchange->body_bytes;
	}
	if (!exchange->body_bytes) {
		kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID,
				   "body: %s %s takes a JSON object, and there is none",
				   exchange->route->method, exchange->route->path);
		return false;
	}
	if (!is_json(exchange)) {
		kvx_answer_problem(request, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, KVX_E_INVALID,
				   "body: must be JSON; say so with Content-Type: "
				   "application/json");
		return false;
	}
	return parse_body(exchange);
}

/* --- the exchange --- */

void kvx_exchange_dispatch(struct kvx_exchange *exchange, const char *method, const char *path)
{
	struct kvx_request *request = &exchange->request;

	exchange->route = find_route(exchange, method, path);
	if (!exchange->route || !check_body(exchange))
		return;
	exchange->route->handle(request);
	free_body(exchange);
	if (!exchange->response && !exchange->holding)
		kvx_answer_problem(request, MHD_HTTP_INTERNAL_SERVER_ERROR, KVX_E_SYSTEM,
				   "%s %s: has no answer", method, exchange->route->path);
}

static struct kvx_exchange *begin(struct kvx_control *control, struct MHD_Connection *connection)
{
	struct kvx_exchange *exchange = calloc(1, sizeof(*exchange));
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	if (!exchange || !info || !info->socket_context) {
		free(exchange);
		return NULL;
	}
	exchange->request.control = control;
	exchange->request.engine = control->engine;
	exchange->connection = connection;
	exchange->caller = info->socket_context;
	kvx_list_init(&exchange->entry);
	kvx_door_check(exchange);
	return exchange;
}

static enum MHD_Result reply(struct kvx_exchange *exchange)
{
	if (exchange->gone || !exchange->response)
		return MHD_NO;
	return MHD_queue_response(exchange->connection, exchange->status, exchange->response);
}

/* libmicrohttpd says what it takes. */
/* NOLINTNEXTLINE(readability-function-size) */
enum MHD_Result kvx_exchange_step(void *context, struct MHD_Connection *connection,
				  const char *path, const char *method, const char *version,
				  const char *data, size_t *data_bytes, void **exchange)
{
	struct kvx_exchange *own = *exchange;

	(void)version;
	if (!own) {
		/* Who must not get in is told so before a body is read. */
		*exchange = own = begin(context, connection);
		return own && own->response ? reply(own) : own ? MHD_YES : MHD_NO;
	}
	if (*data_bytes) {
		bool taken = take_data(own, data, *data_bytes);
		*data_bytes = 0;
		return taken ? MHD_YES : MHD_NO;
	}
	if (!own->response && !own->route)
		kvx_exchange_dispatch(own, method, path);
	if (!own->response && own->holding && !own->gone) {
		kvx_held_begin(own);
		return MHD_YES;
	}
	return reply(own);
}

void kvx_exchange_end(void *context, struct MHD_Connection *connection, void **exchange,
		      enum MHD_RequestTerminationCode why)
{
	struct kvx_exchange *own = *exchange;

	(void)context;
	(void)connection;
	(void)why;
	if (!own)
		return;
	*exchange = NULL;
	kvx_list_remove(&own->entry);
	if (own->counted)
		kvx_waiting_end(own->request.control);
	if (own->response)
		MHD_destroy_response(own->response);
	own->request.control->bytes -= own->bytes;
	free_body(own);
	free(own);
}
