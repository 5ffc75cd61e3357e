/* SPDX-License-Identifier: Apache-2.0 */
/* The plan as JSON. docs/plan.md lists the fields. */
#include "plan.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *number(uint64_t value)
{
	return json_integer((json_int_t)value);
}

static json_t *geometry_json(const struct plan_end *end)
{
	static const char *const layouts[] = {"WHOLE", "HND", "NHD"};
	const struct kvx_geometry *geometry = &end->end.geometry;

	return json_pack(
		"{so, so, so, so, so, so, so, so, so, so, so, ss, ss}", "rank", number(end->rank),
		"layer_first", number(geometry->layer_first), "layers", number(geometry->layers),
		"planes", number(geometry->planes + geometry->extra_planes), "plane_stride",
		number(geometry->plane_stride), "layer_stride", number(end->end.layer_stride),
		"heads", number(geometry->heads), "head_first", number(geometry->head_first),
		"heads_total", number(geometry->heads_total), "head_bytes",
		number(geometry->head_bytes), "block_tokens", number(geometry->block_tokens),
		"layout", layouts[geometry->layout], "dtype", geometry->dtype);
}

/* Classes without pieces are left out. */
static json_t *pieces_json(const struct kvx_plan_pieces *pieces)
{
	json_t *classes = json_array();

	for (uint32_t i = 0; i < KVX_PLAN_CLASSES; i++)
		if (pieces->classes[i])
			json_array_append_new(classes,
					      json_pack("{so, so, so}", "from_bytes",
							number(UINT64_C(1) << i), "to_bytes",
							number((UINT64_C(2) << i) - 1), "count",
							number(pieces->classes[i])));
	return json_pack("{so, so, so, so, so}", "count", number(pieces->count), "min_bytes",
			 number(pieces->min_bytes), "median_bytes", number(pieces->median_bytes),
			 "max_bytes", number(pieces->max_bytes), "classes", classes);
}

static json_t *hold_json(const struct kvx_plan_hold *hold)
{
	return json_pack("{so, ss}", "piece_bytes", number(hold->piece_bytes), "ends_by",
			 kvx_plan_reason_name(hold->reason));
}

static json_t *plane_json(const struct kvx_plan_plane *plane)
{
	return json_pack("{so, so, so, so, so, so, so, so}", "head_first",
			 number(plane->head_first), "heads", number(plane->heads), "heads_total",
			 number(plane->heads_total), "token_first", number(plane->token_first),
			 "token_end", number(plane->token_end), "chunk_bytes",
			 number(plane->chunk_bytes), "sender", hold_json(&plane->sender),
			 "receiver", hold_json(&plane->receiver));
}

static json_t *layer_json(const struct plan *plan, const struct kvx_plan_share *share)
{
	json_t *rails = json_array();

	for (uint32_t i = 0; i < plan->rails; i++)
		json_array_append_new(rails, number(share->rail_bytes[i]));
	return json_pack("{so, so, so, so, so, so, so}", "bytes", number(share->layer_bytes),
			 "units", number(share->units), "posted", number(share->posted), "slices",
			 pieces_json(&share->slices), "at_sender", pieces_json(&share->at_sender),
			 "at_receiver", pieces_json(&share->at_receiver), "rail_bytes", rails);
}

static json_t *request_json(const struct plan *plan, const struct kvx_plan_share *share)
{
	uint64_t layers = share->layers;
	json_t *rails = json_array();

	for (uint32_t i = 0; i < plan->rails; i++)
		json_array_append_new(rails, number(share->rail_bytes[i] * layers));
	return json_pack("{so, so, so, so, so}", "bytes", number(share->layer_bytes * layers),
			 "units", number(share->units * layers), "slices",
			 number(share->posted * layers), "slices_together",
			 number(share->posted_together), "rail_bytes", rails);
}

static json_t *sentences(const struct kvx_plan_report *report, uint32_t sender)
{
	size_t length = kvx_plan_report_explain(report, sender, NULL, 0);
	char *text = malloc(length + 1), *rest = text, *line;
	json_t *array = json_array();

	if (text)
		kvx_plan_report_explain(report, sender, text, length + 1);
	while (text && (line = strsep(&rest, "\n"))) {
		line += strspn(line, " ");
		if (*line)
			json_array_append_new(array, json_string(line));
	}
	free(text);
	return array;
}

static json_t *sender_json(const struct plan *plan, uint32_t index)
{
	struct kvx_plan_share share;
	json_t *planes = json_array();

	kvx_plan_report_share(plan->report, index, &share);
	for (uint32_t i = 0; i < share.planes; i++)
		json_array_append_new(planes, plane_json(&share.plane[i]));
	return json_pack(
		"{so, so, so, so, so, so, so, so, so, so, ss, sf, sf, so, so, so}", "pool",
		number(plan->from[index].pool), "geometry", geometry_json(&plan->from[index]),
		"layer_first", number(share.layer_first), "layers", number(share.layers), "planes",
		planes, "joined_planes", number(share.joined), "joined_layers",
		number(share.layers_joined), "chunk_tokens", number(share.chunk_tokens), "chunks",
		number(share.chunks), "runs", number(share.runs), "how", share.how, "direct_ns",
		share.direct_ns, "staged_ns", share.staged_ns, "layer", layer_json(plan, &share),
		"request", request_json(plan, &share), "explain", sentences(plan->report, index));
}

static void add_senders(const struct plan *plan, json_t *root)
{
	json_t *senders = json_array();
	uint64_t bytes = 0, slices = 0, units = 0;
	struct kvx_plan_share share;

	for (uint32_t i = 0; i < plan->from_count; i++) {
		kvx_plan_report_share(plan->report, i, &share);
		json_array_append_new(senders, sender_json(plan, i));
		bytes += share.layer_bytes * share.layers;
		slices += share.posted * share.layers;
		units += (uint64_t)share.units * share.layers;
	}
	json_object_set_new(root, "senders", senders);
	json_object_set_new(root, "total",
			    json_pack("{so, so, so}", "bytes", number(bytes), "slices",
				      number(slices), "units", number(units)));
}

int plan_write_json(const struct plan *plan, FILE *file)
{
	json_t *weights = json_array();

	for (uint32_t i = 0; i < plan->rails; i++)
		json_array_append_new(weights, number(plan->weights[i]));
	json_t *root = json_pack("{ss, s{so, so, ss, so, so, so}, so, so}", "version",
				 kvx_version(), "request", "tokens", number(plan->tokens),
				 "held_blocks", number(plan->held_blocks), "table", plan->table,
				 "chunk_tokens", number(plan->chunk_tokens), "unit_bytes",
				 number(plan->unit_bytes), "rail_weights", weights, "receiver",
				 geometry_json(&plan->to), "ranks", number(plan->from_all));
	if (root && plan->report)
		add_senders(plan, root);
	if (root && plan->refused)
		json_object_set_new(root, "refused",
				    json_pack("{ss, ss}", "code", kvx_error_name(plan->refused),
					      "text", kvx_error_text()));
	/* A tag that is not UTF-8 leaves no object to write. */
	int error =
		!root || json_dumpf(root, file, JSON_INDENT(2)) != 0 || fputc('\n', file) == EOF;
	json_decref(root);
	return error;
}
