/* SPDX-License-Identifier: Apache-2.0 */
#include "control/objects.h"

#include "base/clock.h"
#include "base/error.h"
#include "control/checksum.h"

#include <stdlib.h>

#define CHAINS 1024u        /* of the table by id */
#define KINDS 3u            /* of objects */
#define PEERS_KEPT_MAX 256u /* opened here at once; the engine itself bounds grants and streams */
#define VIEWS 16u           /* looked at together */
#define ENDED_KEPT 128u     /* more than requests that are held */

/* How something ended. */
struct ended {
	uint64_t id; /* 0: none yet */
	json_t *value;
};

struct kvx_objects {
	struct kvx_engine *engine;
	struct kvx_sums *sums;
	struct ended ended[ENDED_KEPT];
	uint32_t ended_next; /* to be overwritten */
	uint32_t counts[KINDS];
	struct kvx_list chains[CHAINS];
};

int kvx_objects_open(struct kvx_engine *engine, struct kvx_objects **objects)
{
	struct kvx_objects *made = calloc(1, sizeof(*made));

	if (made)
		made->sums = kvx_sums_open();
	if (!made || !made->sums) {
		free(made);
		return kvx_fail(KVX_E_MEMORY, "control: out of memory");
	}
	made->engine = engine;
	for (uint32_t i = 0; i < CHAINS; i++)
		kvx_list_init(&made->chains[i]);
	*objects = made;
	return 0;
}

void kvx_objects_remember(struct kvx_objects *objects, uint64_t id, json_t *ended)
{
	struct ended *entry = &objects->ended[objects->ended_next++ % ENDED_KEPT];

	json_decref(entry->value);
	*entry = (struct ended){id, ended};
}

json_t *kvx_objects_recall(struct kvx_objects *objects, uint64_t id)
{
	for (uint32_t i = 0; i < ENDED_KEPT; i++)
		if (objects->ended[i].id == id)
			return json_incref(objects->ended[i].value);
	return NULL;
}

struct kvx_sums *kvx_objects_sums(struct kvx_objects *objects)
{
	return objects->sums;
}

int kvx_object_new(struct kvx_objects *objects, enum kvx_object_kind kind,
		   struct kvx_object **object)
{
	if (kind == KVX_OBJECT_PEER && objects->counts[kind] >= PEERS_KEPT_MAX)
		return kvx_fail(
			KVX_E_LIMIT,
			"peer: %u were connected over the control socket; forget some first",
			PEERS_KEPT_MAX);
	struct kvx_object *made = calloc(1, sizeof(*made));
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "control: out of memory");
	made->kind = kind;
	*object = made;
	return 0;
}

void kvx_object_keep(struct kvx_objects *objects, struct kvx_object *object)
{
	kvx_list_append(&objects->chains[object->id % CHAINS], &object->entry);
	objects->counts[object->kind]++;
}

struct kvx_object *kvx_object_find(struct kvx_objects *objects, enum kvx_object_kind kind,
				   uint64_t id)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &objects->chains[id % CHAINS]) {
		struct kvx_object *object = kvx_container_of(entry, struct kvx_object, entry);
		if (object->id == id && object->kind == kind)
			return object;
	}
	return NULL;
}

void kvx_object_close(struct kvx_objects *objects, struct kvx_object *object)
{
	if (object->kind == KVX_OBJECT_GRANT)
		kvx_grant_close(object->grant);
	else if (object->kind == KVX_OBJECT_STREAM)
		kvx_stream_close(object->stream);
	else
		kvx_peer_close(object->peer);
	kvx_list_remove(&object->entry);
	objects->counts[object->kind]--;
	free(object->text);
	free(object);
}

/* ----------------------------------------------------------------------- what has ended */

static uint64_t retain_ms(struct kvx_engine *engine)
{
	char text[32] = "";

	kvx_engine_option(engine, "control_retain_ms", text, sizeof(text));
	return strtoull(text, NULL, 10);
}

static void tick_grants(struct kvx_objects *objects, uint64_t retained_ms)
{
	struct kvx_grant_view views[VIEWS];
	uint64_t after = 0;
	int count;

	while ((count = kvx_engine_grants(objects->engine, after, views, VIEWS)) > 0) {
		for (int i = 0; i < count; i++) {
			const struct kvx_grant_view *view = &views[i];
			struct kvx_object *object =
				kvx_object_find(objects, KVX_OBJECT_GRANT, view->id);
			if (object && kvx_grant_rests(view) &&
			    (object->unwanted || view->age_ms >= view->end_ms + retained_ms))
				kvx_object_close(objects, object);
		}
		after = views[count - 1].id;
	}
}

static void tick_streams(struct kvx_objects *objects, uint64_t retained_ms)
{
	struct kvx_stream_view views[VIEWS];
	uint64_t after = 0;
	int count;

	while ((count = kvx_engine_streams(objects->engine, after, views, VIEWS)) > 0) {
		for (int i = 0; i < count; i++) {
			const struct kvx_stream_view *view = &views[i];
			struct kvx_object *object =
				kvx_object_find(objects, KVX_OBJECT_STREAM, view->id);
			if (object && kvx_stream_rests(view) &&
			    (object->unwanted || view->age_ms >= view->end_ms + retained_ms))
				kvx_object_close(objects, object);
		}
		after = views[count - 1].id;
	}
}

static void tick_peer(struct kvx_objects *objects, struct kvx_object *object, uint64_t retained_ms)
{
	struct kvx_peer_info info;
	int64_t now_ns = kvx_now_ns();

	kvx_peer_info(object->peer, &info);
	if (info.state != KVX_PEER_DOWN)
		return;
	if (!object->down_ns)
		object->down_ns = now_ns;
	if (now_ns - object->down_ns >= (int64_t)retained_ms * KVX_NS_PER_MS)
		kvx_object_close(objects, object);
}

static void tick_peers(struct kvx_objects *objects, uint64_t retained_ms)
{
	struct kvx_list *entry, *next;

	for (uint32_t i = 0; i < CHAINS; i++) {
		kvx_list_for_each (entry, next, &objects->chains[i]) {
			struct kvx_object *object =
				kvx_container_of(entry, struct kvx_object, entry);
			if (object->kind == KVX_OBJECT_PEER)
				tick_peer(objects, object, retained_ms);
		}
	}
}

void kvx_objects_tick(struct kvx_objects *objects)
{
	uint64_t retained_ms = retain_ms(objects->engine);

	kvx_sums_tick(objects->sums);
	if (objects->counts[KVX_OBJECT_GRANT])
		tick_grants(objects, retained_ms);
	if (objects->counts[KVX_OBJECT_STREAM])
		tick_streams(objects, retained_ms);
	if (objects->counts[KVX_OBJECT_PEER])
		tick_peers(objects, retained_ms);
}

/* ------------------------------------------------------------------------------ the end */

/* Begins to end all of them, so that their fences are waited for together. */
static void end_all(struct kvx_objects *objects)
{
	struct kvx_list *entry, *next;

	for (uint32_t i = 0; i < CHAINS; i++) {
		kvx_list_for_each (entry, next, &objects->chains[i]) {
			const struct kvx_object *object =
				kvx_container_of(entry, struct kvx_object, entry);
			if (object->kind == KVX_OBJECT_GRANT)
				kvx_engine_revoke(objects->engine, object->id, 0);
			else if (object->kind == KVX_OBJECT_STREAM)
				kvx_engine_cancel(objects->engine, object->id);
		}
	}
}

void kvx_objects_close(struct kvx_objects *objects)
{
	struct kvx_list *entry, *next;

	if (!objects)
		return;
	kvx_sums_close(objects->sums);
	end_all(objects);
	for (uint32_t i = 0; i < CHAINS; i++)
		kvx_list_for_each (entry, next, &objects->chains[i])
			kvx_object_close(objects,
					 kvx_container_of(entry, struct kvx_object, entry));
	for (uint32_t i = 0; i < ENDED_KEPT; i++)
		json_decref(objects->ended[i].value);
	free(objects);
}
