/* SPDX-License-Identifier: Apache-2.0 */
/* Regions and pools. */
#include "control/handlers.h"
#include "control/json.h"

#define VIEWS 16u /* looked at together */

void kvx_serve_regions(struct kvx_request *request)
{
	struct kvx_region_view views[VIEWS];
	json_t *array = json_array();
	uint64_t after = 0;
	int count;

	while ((count = kvx_engine_regions(request->engine, after, views, VIEWS)) > 0) {
		for (int i = 0; i < count; i++)
			array = kvx_json_appended(array, kvx_json_region(&views[i]));
		after = views[count - 1].id;
	}
	kvx_json_answer(request, 200, json_pack("{so}", "regions", array));
}

void kvx_serve_pools(struct kvx_request *request)
{
	struct kvx_pool_view views[VIEWS];
	json_t *array = json_array();
	uint64_t after = 0;
	int count;

	while ((count = kvx_engine_pools(request->engine, after, views, VIEWS)) > 0) {
		for (int i = 0; i < count; i++)
			array = kvx_json_appended(array, kvx_json_pool(&views[i]));
		after = views[count - 1].id;
	}
	kvx_json_answer(request, 200, json_pack("{so}", "pools", array));
}

bool kvx_pool_view_of(struct kvx_engine *engine, uint64_t id, struct kvx_pool_view *view)
{
	return id && kvx_engine_pools(engine, id - 1, view, 1) == 1 && view->id == id;
}

void kvx_serve_pool(struct kvx_request *request)
{
	struct kvx_pool_view view;

	if (kvx_pool_view_of(request->engine, request->id, &view))
		kvx_json_answer(request, 200, kvx_json_pool(&view));
	else
		kvx_answer_unknown(request, "pool");
}
