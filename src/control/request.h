/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request of a client, between the HTTP server (server.c and what it is made of) and the
 * handlers (the routes). A handler runs on the server's thread, looks at the request and either
 * answers it or holds it: then it is asked again when something has happened. Handlers never block.
 */
#ifndef KVX_CONTROL_REQUEST_H
#define KVX_CONTROL_REQUEST_H

#include <kvxfer/operate.h>

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define KVX_CONTROL_BODY_MAX (1u << 20)
#define KVX_CONTROL_WAIT_MAX_MS 600000u

struct kvx_control;

/* Owner: the control's thread, on which all handlers run: what they share needs no lock. */
struct kvx_request {
	struct kvx_control *control;
	struct kvx_engine *engine;
	uint64_t id;  /* from the path, "/v1/grants/{id}"; 0: the path has none */
	json_t *body; /* an object, of methods that have one; borrowed. NULL once it was held */

	/* While it is held. */
	bool expired;        /* its time is up: it has to be answered now */
	int64_t deadline_ns; /* set by kvx_request_hold() */
	uint64_t number;     /* a handler's own, 0 at first */
};

/* Answers the request, or holds it (kvx_request_hold()). Called again while it is held, until it
 * answers. */
typedef void kvx_handler(struct kvx_request *request);

/* A path and a method. Paths: "/v1/grants", "/v1/grants/{id}", "/v1/grants/{id}/pull". */
struct kvx_route {
	const char *method, *path;
	kvx_handler *handle;
	bool body; /* wants a JSON object; others are refused if they have one */
};

/* All of them, ended by a NULL method. */
extern const struct kvx_route kvx_routes[];

/* --- what it asks --- */

/* A parameter of the query; NULL: not given. Valid as long as the request. */
const char *kvx_request_query(struct kvx_request *request, const char *name);

/* The same as a number in low..high, `initial` if it is not given. False: answered already, with
 * what is wrong. */
bool kvx_request_number(struct kvx_request *request, const char *name, uint64_t initial,
			uint64_t low, uint64_t high, uint64_t *number);

/* Likewise true or false. */
bool kvx_request_flag(struct kvx_request *request, const char *name, bool initial, bool *flag);

enum kvx_field_kind {
	KVX_FIELD_NUMBER, /* uint64_t */
	KVX_FIELD_FLAG,   /* bool */
	KVX_FIELD_TEXT,   /* const char *, borrowed from the body */
	KVX_FIELD_BYTES,  /* struct kvx_bytes: base64, at most `high` bytes */
	KVX_FIELD_LIST,   /* json_t *, an array of at most `high` entries, borrowed */
	KVX_FIELD_OBJECT, /* json_t *, borrowed */
};

struct kvx_bytes {
	void *data; /* to be freed */
	size_t size;
};

struct kvx_field {
	const char *name;
	enum kvx_field_kind kind;
	bool needed;
	uint64_t low, high;
	void *value; /* left alone if the field is not given */
};

/* Reads the fields of an object (the body, or one in it) and refuses all others. where: how to name
 * the object in an error, "" for the body. False: answered already; what was read is freed. */
bool kvx_request_fields(struct kvx_request *request, json_t *object, const char *where,
			const struct kvx_field *fields, uint32_t count);

/* A list of numbers below 2^32, as "blocks". NULL: answered already. To be freed. */
uint32_t *kvx_request_blocks(struct kvx_request *request, json_t *list, uint32_t *count);

/* --- how it is answered: once --- */

/* With a body, which is the server's from here on; NULL: without one. */
void kvx_answer(struct kvx_request *request, unsigned status, json_t *body);

/* With text of another type, as the metrics. Copied. */
void kvx_answer_text(struct kvx_request *request, const char *type, const char *text, size_t size);

/* With the problem of a failed call: its code, and kvx_error_text(). */
void kvx_answer_error(struct kvx_request *request, int code);

/* With a problem of the request's own; code: the nearest of enum kvx_error. */
__attribute__((format(printf, 4, 5))) void
kvx_answer_problem(struct kvx_request *request, unsigned status, int code, const char *format, ...);

/* There is nothing of that id: 404. */
void kvx_answer_unknown(struct kvx_request *request, const char *what);

/* Not now: the handler is called again when something has happened, and at last, with `expired`,
 * wait_ms from now. Answers with 503 itself if too many wait. A handler that holds again keeps its
 * first deadline. */
void kvx_request_hold(struct kvx_request *request, uint64_t wait_ms);

/* --- the server --- */

/* What the handlers keep between requests (objects.h). */
struct kvx_objects;
struct kvx_objects *kvx_control_objects(struct kvx_control *control);

/* Any thread: has the handlers of held requests called again soon. */
void kvx_control_wake(struct kvx_control *control);

/* --- the handlers that need more of the server --- */

/* Server-sent events: events.c. */
kvx_handler kvx_events_follow;

#endif
