/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was opened over the control socket and belongs to nobody else: grants, streams and peers by
 * their ids. A client may leave without a word, so what has ended is closed by itself after option
 * control_retain_ms, and the rest when the control socket closes.
 *
 * Owner: the server's thread, but for kvx_objects_close(), which comes after it has ended.
 */
#ifndef KVX_CONTROL_OBJECTS_H
#define KVX_CONTROL_OBJECTS_H

#include "base/list.h"

#include <jansson.h>
#include <kvxfer/operate.h>
#include <stdbool.h>
#include <stdint.h>

struct kvx_objects;
struct kvx_sums;

enum kvx_object_kind { KVX_OBJECT_GRANT, KVX_OBJECT_STREAM, KVX_OBJECT_PEER };

struct kvx_object {
	struct kvx_list entry;
	enum kvx_object_kind kind;
	uint64_t id;
	union {
		struct kvx_grant *grant;
		struct kvx_stream *stream;
		struct kvx_peer *peer;
	};
	bool unwanted;   /* to be closed as soon as that takes no waiting */
	int error;       /* of an unwanted one: what to answer when it is closed, and why */
	char *text;      /* NULL: there was no memory for it */
	int64_t down_ns; /* of a peer: when it was first seen down; 0: it was not */
};

/* --- for the server --- */

/* KVX_E_MEMORY. */
int kvx_objects_open(struct kvx_engine *engine, struct kvx_objects **objects);

/* Ends and closes all of them; waits for their fences. NULL does nothing. */
void kvx_objects_close(struct kvx_objects *objects);

/* At least once a second: closes what has ended long enough ago. */
void kvx_objects_tick(struct kvx_objects *objects);

/* --- for the handlers --- */

/* Room for what is about to be opened, so that nothing open is ever without an owner: then
 * kvx_object_keep() it, or free() it. KVX_E_LIMIT, KVX_E_MEMORY. */
int kvx_object_new(struct kvx_objects *objects, enum kvx_object_kind kind,
		   struct kvx_object **object);

/* Its handle and id are set. */
void kvx_object_keep(struct kvx_objects *objects, struct kvx_object *object);

/* NULL: none of that kind and id was opened here. */
struct kvx_object *kvx_object_find(struct kvx_objects *objects, enum kvx_object_kind kind,
				   uint64_t id);

/* Closes and frees it. A grant or stream has to be at rest, else this waits. */
void kvx_object_close(struct kvx_objects *objects, struct kvx_object *object);

/* How one ended that a client had closed: other requests may still be held that wait for just that.
 * The value is taken. */
void kvx_objects_remember(struct kvx_objects *objects, uint64_t id, json_t *ended);

/* Likewise; a new reference. NULL: not known, or not any more. */
json_t *kvx_objects_recall(struct kvx_objects *objects, uint64_t id);

/* Checksums that are being computed. */
struct kvx_sums *kvx_objects_sums(struct kvx_objects *objects);

/* Closing it takes no waiting: no byte of it lands any more; nothing reads its blocks any more. */
static inline bool kvx_grant_rests(const struct kvx_grant_view *view)
{
	return view->state == KVX_STATE_COMPLETE ||
	       (view->state == KVX_STATE_FAILED && view->fenced);
}

static inline bool kvx_stream_rests(const struct kvx_stream_view *view)
{
	return view->state == KVX_STATE_COMPLETE ||
	       (view->state == KVX_STATE_FAILED && view->drained);
}

#endif
