/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine tells, as JSON: one place for the fields of docs/control-api.md. Each returns a
 * new value, NULL without memory. */
#ifndef KVX_CONTROL_JSON_H
#define KVX_CONTROL_JSON_H

#include "control/request.h"
#include "json/text.h"

/* Answers with the value, or, if it could not be made, with 503. */
void kvx_json_answer(struct kvx_request *request, unsigned status, json_t *value);

/* A list with one more value; NULL if either is. Both are taken. */
json_t *kvx_json_appended(json_t *list, json_t *value);

/* Counts and ids; JSON's numbers of jansson are signed, and nothing counted reaches 2^63. */
json_t *kvx_json_number(uint64_t number);

/* 16 hexadecimal digits: incarnations, hashes. */
json_t *kvx_json_hex(uint64_t number);

/* The name of an error; null: no error. */
json_t *kvx_json_code(int code);

/* Tickets. */
json_t *kvx_json_base64(const void *bytes, size_t size);

json_t *kvx_json_region(const struct kvx_region_view *view);
json_t *kvx_json_pool(const struct kvx_pool_view *view);
json_t *kvx_json_peer(struct kvx_engine *engine, const struct kvx_peer_view *view);

/* of_program: the program opened it itself. */
json_t *kvx_json_grant(const struct kvx_grant_view *view, bool of_program);
json_t *kvx_json_stream(const struct kvx_stream_view *view, bool of_program);

/* How far the layers of a grant, or of a stream, are. */
json_t *kvx_json_grant_progress(const struct kvx_layer_view *views, uint32_t count);
json_t *kvx_json_stream_progress(const struct kvx_layer_view *views, uint32_t count);

json_t *kvx_json_drain(const struct kvx_drain_view *view);
const char *kvx_json_drain_state(enum kvx_drain_state state);

#endif
