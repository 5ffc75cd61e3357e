/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GET /v1/events: server-sent events. The engine's ring of events is the buffer of all followers:
 * who reads too slowly finds its place overwritten, and is told how many it missed. A follower
 * itself holds a handful of events and one line of text.
 */
#include "base/clock.h"
#include "control/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VIEWS 16u
#define TEXT_MAX 2048u /* an event's text and its escapes fit */
#define ALIVE_NS (10 * KVX_NS_PER_S)
#define STALLED_S 60u /* a follower that takes nothing for so long is closed */
#define PAGE 64u
#define CHUNK 4096u

struct follower {
	struct kvx_control *control;
	struct MHD_Connection *connection;
	bool follow;    /* goes on after what there is now */
	bool suspended; /* has been sent all there is */
	bool ending, gone;
	uint64_t after;   /* the last that was written */
	int64_t alive_ns; /* when a comment is due */
	struct kvx_event_view views[VIEWS];
	uint32_t view, view_count;
	char text[TEXT_MAX]; /* being sent: begin..length */
	size_t begin, length;
	struct kvx_list entry;
};

static const char *const subjects[] = {
#define SUBJECT(name, text, of, help) of,
	KVX_EVENT_TABLE(SUBJECT)
#undef SUBJECT
};

/* --- the text --- */

static const char *const indexed[] = {"layer_whole", "rail_down", "rail_up"};

static json_t *index_of(const struct kvx_event_view *view)
{
	const char *name = kvx_event_name(view->type);

	for (size_t i = 0; i < sizeof(indexed) / sizeof(indexed[0]); i++)
		if (strcmp(name, indexed[i]) == 0)
			return view->index == KVX_TAIL && i == 0 ? json_string("tail")
								 : json_integer(view->index);
	return json_null();
}

/* NULL: no memory. To be freed. */
static char *data_of(const struct kvx_event_view *view)
{
	json_t *text = json_string(view->text);
	json_t *data =
		json_pack("{sI sI ss ss sI so ss? so}", "sequence", (json_int_t)view->sequence,
			  "time_ms", (json_int_t)view->time_ms, "type", kvx_event_name(view->type),
			  "of", subjects[view->type], "id", (json_int_t)view->id, "index",
			  index_of(view), "code", view->code ? kvx_error_name(view->code) : NULL,
			  "text", text ? text : json_string("not UTF-8"));
	char *written = data ? json_dumps(data, JSON_COMPACT) : NULL;

	json_decref(data);
	return written;
}

static void write_event(struct follower *follower, const struct kvx_event_view *view)
{
	char *data = data_of(view);

	follower->length = 0;
	if (data)
		follower->length =
			(size_t)snprintf(follower->text, sizeof(follower->text),
					 "id: %" PRIu64 "\nevent: %s\ndata: %s\n\n", view->sequence,
					 kvx_event_name(view->type), data);
	free(data);
	follower->begin = 0;
	follower->after = view->sequence;
	follower->view++;
}

static void write_gap(struct follower *follower, uint64_t first)
{
	follower->length = (size_t)snprintf(follower->text, sizeof(follower->text),
					    "event: gap\ndata: {\"missed\":%" PRIu64 "}\n\n",
					    first - follower->after - 1);
	follower->begin = 0;
	follower->after = first - 1;
}

static void write_alive(struct follower *follower)
{
	follower->length = (size_t)snprintf(follower->text, sizeof(follower->text), ": alive\n\n");
	follower->begin = 0;
}

/* Makes the next piece of text. False: there is nothing to tell. */
static bool next_text(struct follower *follower)
{
	int64_t now_ns = kvx_now_ns();

	if (follower->view == follower->view_count) {
		int count = kvx_engine_events(follower->control->engine, follower->after,
					      follower->views, VIEWS, 0);
		follower->view = 0;
		follower->view_count = count > 0 ? (uint32_t)count : 0;
	}
	if (follower->view < follower->view_count) {
		const struct kvx_event_view *view = &follower->views[follower->view];
		if (view->sequence > follower->after + 1)
			write_gap(follower, view->sequence);
		else
			write_event(follower, view);
	} else if (follower->follow && now_ns >= follower->alive_ns) {
		write_alive(follower);
	} else {
		return false;
	}
	follower->alive_ns = now_ns + ALIVE_NS;
	return true;
}

/* --- sending --- */

static ssize_t read_more(void *context, uint64_t position, char *buffer, size_t room)
{
	struct follower *follower = context;
	size_t written = 0;

	(void)position;
	if (follower->gone)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	while (!follower->ending && written < room) {
		if (follower->begin == follower->length && !next_text(follower))
			break;
		size_t bytes = follower->length - follower->begin;
		if (bytes > room - written)
			bytes = room - written;
		memcpy(buffer + written, follower->text + follower->begin, bytes);
		follower->begin += bytes;
		written += bytes;
	}
	if (written)
		return (ssize_t)written;
	if (follower->ending || !follower->follow)
		return MHD_CONTENT_READER_END_OF_STREAM;
	follower->suspended = true;
	MHD_suspend_connection(follower->connection);
	return 0;
}

static void end(void *context)
{
	struct follower *follower = context;

	kvx_list_remove(&follower->entry);
	kvx_waiting_end(follower->control);
	free(follower);
}

static void resume(struct follower *follower)
{
	if (!follower->suspended)
		return;
	follower->suspended = false;
	MHD_resume_connection(follower->connection);
}

/* --- the control's thread --- */

void kvx_events_push(struct kvx_control *control, bool all)
{
	struct kvx_list *entry, *next;
	int64_t now_ns = kvx_list_empty(&control->followers) ? 0 : kvx_now_ns();

	kvx_list_for_each (entry, next, &control->followers) {
		struct follower *follower = kvx_container_of(entry, struct follower, entry);
		if (all || now_ns >= follower->alive_ns)
			resume(follower);
	}
}

void kvx_events_finish(struct kvx_control *control)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &control->followers) {
		struct follower *follower = kvx_container_of(entry, struct follower, entry);
		follower->ending = true;
		resume(follower);
	}
}

void kvx_events_leave(struct kvx_control *control, int fd)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &control->followers) {
		struct follower *follower = kvx_container_of(entry, struct follower, entry);
		if (!follower->suspended || kvx_connection_fd(follower->connection) != fd)
			continue;
		follower->gone = true;
		resume(follower);
	}
}

uint32_t kvx_events_fds(const struct kvx_control *control, int *fds)
{
	uint32_t count = 0;

	for (struct kvx_list *entry = control->followers.next; entry != &control->followers;
	     entry = entry->next) {
		struct follower *follower = kvx_container_of(entry, struct follower, entry);
		if (follower->suspended)
			fds[count++] = kvx_connection_fd(follower->connection);
	}
	return count;
}

int64_t kvx_events_deadline_ns(const struct kvx_control *control)
{
	int64_t first = KVX_NEVER_NS;

	for (struct kvx_list *entry = control->followers.next; entry != &control->followers;
	     entry = entry->next) {
		struct follower *follower = kvx_container_of(entry, struct follower, entry);
		if (follower->suspended && follower->alive_ns < first)
			first = follower->alive_ns;
	}
	return first;
}

/* --- the request --- */

/* The engine's newest event; 0: none yet. */
static uint64_t newest(struct kvx_control *control)
{
	static _Thread_local struct kvx_event_view views[PAGE];
	int count;

	while ((count = kvx_engine_events(control->engine, control->newest, views, PAGE, 0)) > 0)
		control->newest = views[count - 1].sequence;
	return control->newest;
}

/* Where it begins: after what the query or the header names, else now. */
static bool read_after(struct kvx_request *request, uint64_t *after)
{
	const char *last = MHD_lookup_connection_value(kvx_exchange_of(request)->connection,
						       MHD_HEADER_KIND, "Last-Event-ID");
	uint64_t number = newest(request->control);
	char *stop;

	if (last && !kvx_request_query(request, "after")) {
		number = strtoull(last, &stop, 10);
		if (*last < '0' || *last > '9' || *stop) {
			kvx_answer_problem(request, MHD_HTTP_BAD_REQUEST, KVX_E_INVALID,
					   "Last-Event-ID: %.40s: must be the number of an event",
					   last);
			return false;
		}
	}
	return kvx_request_number(request, "after", number, 0, INT64_MAX, after);
}

/* A number that this engine has not reached is of an engine before it: all that this one did was
 * missed, and its oldest events come first. */
static void place(struct follower *follower, uint64_t after)
{
	follower->after = after;
	if (after <= newest(follower->control))
		return;
	follower->after = 0;
	follower->length = (size_t)snprintf(follower->text, sizeof(follower->text),
					    "event: gap\ndata: {\"missed\":null}\n\n");
}

static void answer_too_many(struct kvx_request *request)
{
	kvx_answer_problem(request, MHD_HTTP_SERVICE_UNAVAILABLE, KVX_E_LIMIT,
			   "control: %u requests wait or follow events, the most that may; ask "
			   "again later",
			   KVX_WAITING_MAX);
}

void kvx_events_follow(struct kvx_request *request)
{
	struct kvx_exchange *exchange = kvx_exchange_of(request);
	uint64_t after;
	bool follow;

	if (!read_after(request, &after) || !kvx_request_flag(request, "follow", true, &follow))
		return;
	if (!kvx_waiting_begin(request->control)) {
		answer_too_many(request);
		return;
	}
	struct follower *follower = calloc(1, sizeof(*follower));
	struct MHD_Response *response =
		follower ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, CHUNK, read_more,
							     follower, end)
			 : NULL;
	if (!response) {
		free(follower);
		kvx_waiting_end(request->control);
		kvx_answer_problem(request, MHD_HTTP_SERVICE_UNAVAILABLE, KVX_E_MEMORY,
				   "control: out of memory");
		return;
	}
	follower->control = request->control;
	follower->connection = exchange->connection;
	follower->follow = follow;
	follower->alive_ns = kvx_now_ns() + ALIVE_NS;
	place(follower, after);
	kvx_list_append(&request->control->followers, &follower->entry);
	if (follow)
		MHD_set_connection_option(exchange->connection, MHD_CONNECTION_OPTION_TIMEOUT,
					  STALLED_S);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	exchange->response = response;
	exchange->status = MHD_HTTP_OK;
}
