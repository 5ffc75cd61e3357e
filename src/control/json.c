/* SPDX-License-Identifier: Apache-2.0 */
#include "control/json.h"

#include <gnutls/gnutls.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void kvx_json_answer(struct kvx_request *request, unsigned status, json_t *value)
{
	if (value)
		kvx_answer(request, status, value);
	else
		kvx_answer_problem(request, 503, KVX_E_MEMORY, "the answer: out of memory");
}

/* ------------------------------------------------------------------------------------ values */

json_t *kvx_json_appended(json_t *list, json_t *value)
{
	if (json_array_append_new(list, value) == 0)
		return list;
	json_decref(list);
	return NULL;
}

json_t *kvx_json_number(uint64_t number)
{
	return json_integer((json_int_t)number);
}

json_t *kvx_json_hex(uint64_t number)
{
	char text[17];

	snprintf(text, sizeof(text), "%016" PRIx64, number);
	return json_string(text);
}

json_t *kvx_json_code(int code)
{
	return code ? json_string(kvx_error_name(code)) : json_null();
}

json_t *kvx_json_base64(const void *bytes, size_t size)
{
	gnutls_datum_t from = {.data = (unsigned char *)(uintptr_t)bytes, .size = (unsigned)size},
		       to;
	json_t *value;

	if (gnutls_base64_encode2(&from, &to) < 0)
		return NULL;
	value = json_stringn((const char *)to.data, to.size);
	gnutls_free(to.data);
	return value;
}

/* Objects of many fields are made in two halves, so that a line of json_pack() can be read. */
static json_t *joined(json_t *object, json_t *rest)
{
	if (!object || !rest || json_object_update(object, rest)) {
		json_decref(object);
		object = NULL;
	}
	json_decref(rest);
	return object;
}

/* Of an engine; null: none is known. */
static json_t *incarnation_json(uint64_t incarnation)
{
	return incarnation ? kvx_json_hex(incarnation) : json_null();
}

/* From its opening to its end; null: it goes on. */
static json_t *end_json(enum kvx_transfer_state state, uint64_t end_ms)
{
	return state == KVX_STATE_OPEN ? json_null() : kvx_json_number(end_ms);
}

static const char *state_name(enum kvx_transfer_state state)
{
	static const char *const names[] = {"open", "complete", "failed"};

	return names[state];
}

static const char *owner_name(bool of_program)
{
	return of_program ? "program" : "control";
}

/* ----------------------------------------------------------------------------------- memory */

json_t *kvx_json_region(const struct kvx_region_view *view)
{
	return json_pack("{so, so, ss, so, so, ss, so}", "id", kvx_json_number(view->id), "bytes",
			 kvx_json_number(view->bytes), "kind", view->kind, "users",
			 kvx_json_number(view->users), "device", kvx_json_text(view->device),
			 "gpudirect", view->gpudirect, "near", kvx_json_text(view->near));
}

static json_t *extra_json(const struct kvx_geometry *geometry)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < geometry->extra_planes; i++)
		array = kvx_json_appended(
			array,
			json_pack("{so, so}", "block_bytes",
				  kvx_json_number(geometry->extra[i].block_bytes), "token_bytes",
				  kvx_json_number(geometry->extra[i].token_bytes)));
	return array;
}

static json_t *geometry_json(const struct kvx_geometry *geometry)
{
	static const char *const layouts[] = {"whole", "HND", "NHD"};
	json_t *object = json_pack(
		"{so, so, so, so, so, so, so, so}", "layers", kvx_json_number(geometry->layers),
		"planes", kvx_json_number(geometry->planes), "blocks",
		kvx_json_number(geometry->blocks), "block_bytes",
		kvx_json_number(geometry->block_bytes), "block_tokens",
		kvx_json_number(geometry->block_tokens), "dtype", kvx_json_text(geometry->dtype),
		"model", kvx_json_number(geometry->model), "layer_first",
		kvx_json_number(geometry->layer_first));
	json_t *heads =
		json_pack("{ss, so, so, so, so, so, so, so, so}", "layout",
			  layouts[geometry->layout], "heads", kvx_json_number(geometry->heads),
			  "head_first", kvx_json_number(geometry->head_first), "heads_total",
			  kvx_json_number(geometry->heads_total), "head_bytes",
			  kvx_json_number(geometry->head_bytes), "head_stride",
			  kvx_json_number(geometry->head_stride), "token_stride",
			  kvx_json_number(geometry->token_stride), "plane_stride",
			  kvx_json_number(geometry->plane_stride), "extra", extra_json(geometry));

	return joined(object, heads);
}

json_t *kvx_json_pool(const struct kvx_pool_view *view)
{
	return json_pack(
		"{so, so, so, so, so, so, sb, so}", "id", kvx_json_number(view->id), "hash",
		kvx_json_hex(view->hash), "blocks", kvx_json_number(view->geometry.blocks),
		"granted_blocks", kvx_json_number(view->granted_blocks), "layer_block_bytes",
		kvx_json_number(view->layer_block_bytes), "users", kvx_json_number(view->users),
		"readable", (int)view->readable, "geometry", geometry_json(&view->geometry));
}

/* ------------------------------------------------------------------------------------- peers */

#define RAILS_TOLD_MAX 64u

static json_t *rail_json(const struct kvx_rail_view *view)
{
	return json_pack("{so, sb, so, so, so, so}", "port", kvx_json_text(view->port), "up",
			 (int)view->up, "weight", kvx_json_number(view->weight), "bytes_sent",
			 kvx_json_number(view->bytes_sent), "bytes_received",
			 kvx_json_number(view->bytes_received), "failures",
			 kvx_json_number(view->failures));
}

static json_t *rails_json(struct kvx_engine *engine, uint64_t peer)
{
	struct kvx_rail_view views[RAILS_TOLD_MAX];
	int count = kvx_engine_rails(engine, peer, views, RAILS_TOLD_MAX);
	json_t *array = json_array();

	for (int i = 0; i < count; i++)
		array = kvx_json_appended(array, rail_json(&views[i]));
	return array;
}

json_t *kvx_json_peer(struct kvx_engine *engine, const struct kvx_peer_view *view)
{
	static const char *const states[] = {"connecting", "up", "down"};

	return json_pack(
		"{so, ss, so, so, ss, ss, so, so, so, so, so}", "id", kvx_json_number(view->id),
		"direction", view->outgoing ? "outgoing" : "incoming", "name",
		kvx_json_text(view->info.name), "incarnation",
		incarnation_json(view->info.incarnation), "state", states[view->info.state],
		"transport", view->info.transport ? view->info.transport : "", "address",
		kvx_json_text(view->address), "why", kvx_json_text(view->info.why), "transfers",
		kvx_json_number(view->transfers), "silent_ms", kvx_json_number(view->silent_ms),
		"rails", rails_json(engine, view->id));
}

/* ------------------------------------------------------------------------ grants and streams */

json_t *kvx_json_grant(const struct kvx_grant_view *view, bool of_program)
{
	json_t *object = json_pack(
		"{so, so, ss, so, so, so, so, so, so, so}", "id", kvx_json_number(view->id), "pool",
		kvx_json_number(view->pool), "state", state_name(view->state), "code",
		kvx_json_code(view->code), "text", kvx_json_text(view->text), "blocks",
		kvx_json_number(view->blocks), "tokens", kvx_json_number(view->tokens),
		"held_blocks", kvx_json_number(view->held_blocks), "senders",
		kvx_json_number(view->senders), "senders_came",
		kvx_json_number(view->senders_came));
	json_t *rest = json_pack(
		"{so, so, so, so, so, so, so, sb, so, so, ss}", "layers",
		kvx_json_number(view->layers), "layers_whole", kvx_json_number(view->layers_whole),
		"tail_bytes", kvx_json_number(view->tail_bytes), "lease_ms",
		kvx_json_number(view->lease_ms), "age_ms", kvx_json_number(view->age_ms), "end_ms",
		end_json(view->state, view->end_ms), "bytes", kvx_json_number(view->bytes),
		"fenced", (int)view->fenced, "sender", kvx_json_text(view->sender),
		"sender_incarnation", incarnation_json(view->sender_incarnation), "owner",
		owner_name(of_program));

	return joined(object, rest);
}

json_t *kvx_json_stream(const struct kvx_stream_view *view, bool of_program)
{
	json_t *object = json_pack(
		"{so, so, ss, so, so, sb, sb, sb, so, so}", "id", kvx_json_number(view->id), "pool",
		kvx_json_number(view->pool), "state", state_name(view->state), "code",
		kvx_json_code(view->code), "text", kvx_json_text(view->text), "offered",
		(int)view->offered, "accepted", (int)view->accepted, "drained", (int)view->drained,
		"tokens", kvx_json_number(view->tokens), "layers", kvx_json_number(view->layers));
	json_t *rest = json_pack(
		"{so, so, so, so, so, so, so, so, ss}", "layers_ready",
		kvx_json_number(view->layers_ready), "layers_delivered",
		kvx_json_number(view->layers_delivered), "tail_bytes",
		kvx_json_number(view->tail_bytes), "age_ms", kvx_json_number(view->age_ms),
		"end_ms", end_json(view->state, view->end_ms), "bytes",
		kvx_json_number(view->bytes), "receiver", kvx_json_text(view->receiver),
		"receiver_incarnation", incarnation_json(view->receiver_incarnation), "owner",
		owner_name(of_program));

	return joined(object, rest);
}

json_t *kvx_json_grant_progress(const struct kvx_layer_view *views, uint32_t count)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < count; i++)
		array = kvx_json_appended(array,
					  json_pack("{sb, so, so}", "done", (int)views[i].done,
						    "arrived", kvx_json_number(views[i].arrived),
						    "target", kvx_json_number(views[i].target)));
	return array;
}

json_t *kvx_json_stream_progress(const struct kvx_layer_view *views, uint32_t count)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < count; i++)
		array = kvx_json_appended(array, json_pack("{sb, sb}", "ready", (int)views[i].ready,
							   "done", (int)views[i].done));
	return array;
}

/* ------------------------------------------------------------------------------------- drain */

const char *kvx_json_drain_state(enum kvx_drain_state state)
{
	static const char *const names[] = {"off", "waiting", "done", "overdue"};

	return names[state];
}

json_t *kvx_json_drain(const struct kvx_drain_view *view)
{
	return json_pack("{ss, so, so, so}", "state", kvx_json_drain_state(view->state), "grants",
			 kvx_json_number(view->grants), "streams", kvx_json_number(view->streams),
			 "left_ms", kvx_json_number(view->left_ms));
}
