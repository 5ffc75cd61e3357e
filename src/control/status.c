/* SPDX-License-Identifier: Apache-2.0 */
/* The engine as a whole: status, options, topology. */
#include "control/handlers.h"
#include "control/json.h"
#include "json/topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OPTION_VALUE_MAX 1024u /* characters of a value, and a zero */

/* ----------------------------------------------------------------------------------- status */

/* Of this process, the second number of the line; 0 if /proc does not tell. */
static uint64_t resident_bytes(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	char line[128] = "";
	char *pages = NULL;

	if (!file)
		return 0;
	if (fgets(line, sizeof(line), file))
		pages = strchr(line, ' ');
	fclose(file);
	return pages ? strtoull(pages, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static json_t *transports_json(struct kvx_engine *engine)
{
	json_t *array = json_array();
	struct kvx_transport_view view;

	for (uint32_t i = 0; kvx_engine_transport(engine, i, &view) == 0; i++)
		array = kvx_json_appended(array,
					  json_pack("{ss, sb, sb, so, so}", "name", view.name, "on",
						    (int)view.on, "one_sided", (int)view.one_sided,
						    "address", kvx_json_text(view.address), "why",
						    kvx_json_text(view.why)));
	return array;
}

static json_t *stats_json(const struct kvx_stats *stats)
{
	static const struct {
		const char *name;
		size_t offset;
	} fields[] = {
#define FIELD(name) {#name, offsetof(struct kvx_stats, name)}
		FIELD(bytes_sent),      FIELD(bytes_received),    FIELD(slices_sent),
		FIELD(units_sent),      FIELD(units_resent),      FIELD(units_received),
		FIELD(units_duplicate), FIELD(units_late),        FIELD(layers_whole),
		FIELD(grants_opened),   FIELD(grants_completed),  FIELD(grants_failed),
		FIELD(streams_opened),  FIELD(streams_completed), FIELD(streams_failed),
		FIELD(peers_lost),      FIELD(rails_lost),        FIELD(protocol_errors),
		FIELD(progress_ns),
#undef FIELD
	};
	json_t *object = json_object();

	_Static_assert(sizeof(fields) / sizeof(*fields) * sizeof(uint64_t) == sizeof(*stats),
		       "each figure has its field");
	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		json_object_set_new(object, fields[i].name,
				    kvx_json_number(*(const uint64_t *)((const char *)stats +
									fields[i].offset)));
	return object;
}

static uint64_t count_pools(struct kvx_engine *engine)
{
	struct kvx_pool_view views[16];
	uint64_t after = 0, pools = 0;
	int count;

	for (; (count = kvx_engine_pools(engine, after, views, 16)) > 0; pools += (uint64_t)count)
		after = views[count - 1].id;
	return pools;
}

/* What goes on. */
static json_t *open_json(struct kvx_engine *engine, const struct kvx_metrics *metrics)
{
	return json_pack("{so, so, so, so, so}", "pools", kvx_json_number(count_pools(engine)),
			 "grants", kvx_json_number(metrics->grants_open), "streams",
			 kvx_json_number(metrics->streams_open), "offers",
			 kvx_json_number(metrics->offers_open), "peers",
			 kvx_json_number(metrics->peers_up));
}

static json_t *memory_json(const struct kvx_metrics *metrics)
{
	return json_pack("{so, so, so, so}", "regions", kvx_json_number(metrics->regions),
			 "registered_bytes", kvx_json_number(metrics->registered_bytes),
			 "staging_bytes", kvx_json_number(metrics->staging_bytes), "resident_bytes",
			 kvx_json_number(resident_bytes()));
}

void kvx_serve_status(struct kvx_request *request)
{
	struct kvx_engine *engine = request->engine;
	struct kvx_metrics metrics;
	struct kvx_drain_view drain;

	kvx_engine_metrics(engine, &metrics);
	kvx_engine_drain_state(engine, &drain);
	kvx_json_answer(request, 200,
			json_pack("{ss, so, so, so, so, so, so, ss, so, so, so, so}", "version",
				  kvx_version(), "name", kvx_json_text(kvx_engine_name(engine)),
				  "incarnation", kvx_json_hex(kvx_engine_incarnation(engine)),
				  "pid", kvx_json_number((uint64_t)getpid()), "uptime_ms",
				  kvx_json_number(kvx_engine_uptime_ms(engine)), "address",
				  kvx_json_text(kvx_engine_address(engine)), "control",
				  kvx_json_text(kvx_engine_control(engine)), "drain",
				  kvx_json_drain_state(drain.state), "memory",
				  memory_json(&metrics), "transports", transports_json(engine),
				  "open", open_json(engine, &metrics), "stats",
				  stats_json(&metrics.stats)));
}

/* --------------------------------------------------------------------------------- topology */

void kvx_serve_topology(struct kvx_request *request)
{
	const struct kvx_topology *topology = kvx_engine_topology(request->engine);

	if (topology)
		kvx_json_answer(request, 200, kvx_topology_json(topology, "this machine"));
	else
		kvx_answer_problem(request, 404, KVX_E_UNSUPPORTED,
				   "topology: this engine has none: no transport that it uses "
				   "chooses ports, or option topology is off");
}

/* ---------------------------------------------------------------------------------- options */

static json_t *option_json(struct kvx_engine *engine, const struct kvx_option_info *info)
{
	char value[OPTION_VALUE_MAX] = "";

	kvx_engine_option(engine, info->name, value, sizeof(value));
	return json_pack("{ss, so, ss, ss, sb, ss}", "name", info->name, "value",
			 kvx_json_text(value), "kind", info->kind, "range", info->range, "live",
			 (int)kvx_option_is_live(info->name), "help", info->help);
}

void kvx_serve_options(struct kvx_request *request)
{
	json_t *array = json_array();
	struct kvx_option_info info;

	for (uint32_t i = 0; kvx_option_describe(i, &info) == 0; i++)
		array = kvx_json_appended(array, option_json(request->engine, &info));
	kvx_json_answer(request, 200, json_pack("{so}", "options", array));
}

/* Whether all of them could be set, without setting any. False: answered. */
static bool are_valid(struct kvx_request *request)
{
	struct kvx_options *trial;
	const char *name;
	json_t *value;
	int error = kvx_options_new(&trial);

	if (error) {
		kvx_answer_error(request, error);
		return false;
	}
	json_object_foreach(request->body, name, value)
	{
		if (!json_is_string(value)) {
			kvx_answer_problem(request, 400, KVX_E_INVALID,
					   "%.64s: must be a string: values are text, as in the "
					   "environment",
					   name);
			goto refused;
		}
		error = kvx_options_set(trial, name, json_string_value(value));
		/* The engine refuses one that is not live, in its own words. */
		if (!error && !kvx_option_is_live(name))
			error = kvx_engine_set_option(request->engine, name,
						      json_string_value(value));
		if (error) {
			kvx_answer_error(request, error);
			goto refused;
		}
	}
	kvx_options_free(trial);
	return true;

refused:
	kvx_options_free(trial);
	return false;
}

void kvx_serve_options_change(struct kvx_request *request)
{
	const char *name;
	json_t *value;

	if (!are_valid(request))
		return;
	json_object_foreach(request->body, name, value)
	{
		int error = kvx_engine_set_option(request->engine, name, json_string_value(value));
		if (error) {
			kvx_answer_error(request, error);
			return;
		}
	}
	kvx_serve_options(request);
}
