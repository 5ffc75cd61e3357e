/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers of docs/control-api.md, and what they share. */
#ifndef KVX_CONTROL_HANDLERS_H
#define KVX_CONTROL_HANDLERS_H

#include "control/request.h"

kvx_handler kvx_serve_status, kvx_serve_options, kvx_serve_options_change; /* status.c */
kvx_handler kvx_serve_topology;
kvx_handler kvx_serve_regions, kvx_serve_pools, kvx_serve_pool; /* memory.c */
kvx_handler kvx_serve_checksum;                                 /* checksum.c */
kvx_handler kvx_serve_peers, kvx_serve_peer, kvx_serve_peer_connect, kvx_serve_peer_forget;
kvx_handler kvx_serve_grants, kvx_serve_grant, kvx_serve_grant_open, kvx_serve_grant_end;
kvx_handler kvx_serve_grant_pull;
kvx_handler kvx_serve_streams, kvx_serve_stream, kvx_serve_stream_open, kvx_serve_stream_end;
kvx_handler kvx_serve_stream_ready, kvx_serve_offer_open;
kvx_handler kvx_serve_drain, kvx_serve_drain_begin, kvx_serve_drain_end; /* drain.c */

/* --- looking: false if there is none of that id --- */

bool kvx_pool_view_of(struct kvx_engine *engine, uint64_t id, struct kvx_pool_view *view);

/* --- waiting --- */

/* Whether the request goes on waiting, and if so holds it: wait_ms is above 0 and not over. */
bool kvx_request_waits(struct kvx_request *request, uint64_t wait_ms);

/* In place of a layer's index: `layer` was not asked for. */
#define KVX_LAYER_ANY UINT32_MAX

/* `layer` of the query as an index into the progress of so many layers and a tail, if there is one.
 * False: answered. */
bool kvx_request_layer(struct kvx_request *request, uint32_t layers, bool tail, uint32_t *index);

/* What the client waits for, the end or a layer, has come or cannot come any more. */
bool kvx_wait_is_over(enum kvx_transfer_state state, const struct kvx_layer_view *layers,
		      uint32_t count, uint32_t layer);

/* There is nothing of that id. request->number: this request has seen it, so it was closed in the
 * meantime, and is told how it ended. */
void kvx_answer_gone(struct kvx_request *request, const char *what);

/* --- opening --- */

/* What grants, streams and offers are opened with. */
struct kvx_opening {
	uint64_t pool_id; /* fields of the body: set by kvx_request_fields() */
	json_t *list, *tail_object;
	struct kvx_pool *pool; /* held */
	uint32_t *blocks, count;
	struct kvx_tail tail; /* its region is held */
};

/* Its three rows of a table of fields. */
#define KVX_OPENING_FIELDS(opening)                                                   \
	{"pool", KVX_FIELD_NUMBER, true, 1, INT64_MAX, &(opening)->pool_id},          \
		{"blocks", KVX_FIELD_LIST, true, 1, KVX_TABLE_MAX, &(opening)->list}, \
	{                                                                             \
		"tail", KVX_FIELD_OBJECT, false, 0, 0, &(opening)->tail_object        \
	}

/* Finds what the fields name. False: answered, and nothing is to be ended. */
bool kvx_opening_begin(struct kvx_request *request, struct kvx_opening *opening);
void kvx_opening_end(struct kvx_opening *opening);

#endif
