/* SPDX-License-Identifier: Apache-2.0 */
/* What handlers share. */
#include "control/handlers.h"

#include "control/objects.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------------------------- waiting */

bool kvx_request_waits(struct kvx_request *request, uint64_t wait_ms)
{
	if (!wait_ms || request->expired)
		return false;
	kvx_request_hold(request, wait_ms);
	return true;
}

bool kvx_request_layer(struct kvx_request *request, uint32_t layers, bool tail, uint32_t *index)
{
	const char *text = kvx_request_query(request, "layer");
	uint64_t layer = KVX_LAYER_ANY;

	if (text && strcmp(text, "tail") == 0) {
		if (!tail) {
			kvx_answer_problem(request, 400, KVX_E_INVALID,
					   "layer: the request has no tail");
			return false;
		}
		layer = layers;
	} else if (text && !kvx_request_number(request, "layer", 0, 0, layers - 1, &layer)) {
		return false;
	}
	*index = (uint32_t)layer;
	return true;
}

bool kvx_wait_is_over(enum kvx_transfer_state state, const struct kvx_layer_view *layers,
		      uint32_t count, uint32_t layer)
{
	return state != KVX_STATE_OPEN || (layer < count && layers[layer].done);
}

void kvx_answer_gone(struct kvx_request *request, const char *what)
{
	struct kvx_objects *objects = kvx_control_objects(request->control);
	json_t *ended = request->number ? kvx_objects_recall(objects, request->id) : NULL;

	if (ended)
		kvx_answer(request, 200, ended);
	else
		kvx_answer_unknown(request, what);
}

/* ---------------------------------------------------------------------------------- opening */

/* "tail": {"region": id, "offset": 0, "bytes": 4096} */
static bool begin_tail(struct kvx_request *request, struct kvx_opening *opening)
{
	uint64_t region = 0, offset = 0, bytes = 0;
	const struct kvx_field fields[] = {
		{"region", KVX_FIELD_NUMBER, true, 1, INT64_MAX, &region},
		{"offset", KVX_FIELD_NUMBER, true, 0, INT64_MAX, &offset},
		{"bytes", KVX_FIELD_NUMBER, true, 1, KVX_TAIL_MAX, &bytes},
	};

	if (!kvx_request_fields(request, opening->tail_object, "tail", fields, 3))
		return false;
	int error = kvx_region_hold(request->engine, region, &opening->tail.region);
	if (error) {
		kvx_answer_error(request, error);
		return false;
	}
	opening->tail.offset = offset;
	opening->tail.bytes = (uint32_t)bytes;
	return true;
}

bool kvx_opening_begin(struct kvx_request *request, struct kvx_opening *opening)
{
	opening->blocks = kvx_request_blocks(request, opening->list, &opening->count);
	if (!opening->blocks)
		return false;
	if (opening->tail_object && !begin_tail(request, opening))
		goto fail;
	int error = kvx_pool_hold(request->engine, opening->pool_id, &opening->pool);
	if (error) {
		kvx_answer_error(request, error);
		goto fail;
	}
	return true;

fail:
	kvx_opening_end(opening);
	return false;
}

/* What is open keeps its pool and its tail's region itself. */
void kvx_opening_end(struct kvx_opening *opening)
{
	if (opening->tail.region)
		kvx_region_release(opening->tail.region);
	if (opening->pool)
		kvx_pool_release(opening->pool);
	free(opening->blocks);
}
