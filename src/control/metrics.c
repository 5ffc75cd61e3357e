/* SPDX-License-Identifier: Apache-2.0 */
#include "control/metrics.h"

#include "control/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)
#define US_PER_S UINT64_C(1000000)

#define TEXT_TYPE "text/plain; version=0.0.4; charset=utf-8"
#define OPENMETRICS "application/openmetrics-text"
#define OPENMETRICS_TYPE OPENMETRICS "; version=1.0.0; charset=utf-8"

/* Those that are told apart, and "other". */
#define PORTS_MAX (KVX_PORTS_MAX + 1)

#define VIEWS 16u /* peers looked at together */

/* All figures, read once: what is written of them agrees with itself, whatever happens meanwhile.
 */
struct figures {
	struct kvx_engine *engine;
	struct kvx_metrics metrics;
	struct kvx_drain_view drain;
	uint64_t uptime_ms;
	uint64_t rails_up, rails_down; /* of peers that are up */
	uint32_t port_count;
	struct kvx_port_view ports[PORTS_MAX];
};

/* Numbers are written as integers, since the decimal point is the locale's. */
struct page {
	FILE *out;
	bool openmetrics; /* else Prometheus' text format 0.0.4 */
};

/* --- what a page is made of --- */

enum type { COUNTER, GAUGE, HISTOGRAM, INFO };

/* What the formats call it, and by which suffix a sample's name is longer than its family's. */
static const struct {
	const char *openmetrics, *text, *suffix;
} types[] = {
	[COUNTER] = {"counter", "counter", "_total"},
	[GAUGE] = {"gauge", "gauge", ""},
	[HISTOGRAM] = {"histogram", "histogram", ""},
	[INFO] = {"info", "gauge", "_info"},
};

/* OpenMetrics knows a family by its name, the older format by the name of its samples. unit: ""
 * for a number of things. */
static void begin_family(const struct page *page, enum type type, const char *name,
			 const char *unit, const char *help)
{
	const char *suffix = page->openmetrics ? "" : types[type].suffix;

	fprintf(page->out, "# HELP %s%s %s\n", name, suffix, help);
	fprintf(page->out, "# TYPE %s%s %s\n", name, suffix,
		page->openmetrics ? types[type].openmetrics : types[type].text);
	if (page->openmetrics && unit[0])
		fprintf(page->out, "# UNIT %s %s\n", name, unit);
}

static void write_number(const struct page *page, enum type type, const char *name,
			 const char *unit, const char *help, uint64_t value)
{
	begin_family(page, type, name, unit, help);
	fprintf(page->out, "%s%s %" PRIu64 "\n", name, types[type].suffix, value);
}

static void write_seconds(const struct page *page, enum type type, const char *name,
			  const char *help, uint64_t value_ns)
{
	begin_family(page, type, name, "seconds", help);
	fprintf(page->out, "%s%s %" PRIu64 ".%09" PRIu64 "\n", name, types[type].suffix,
		value_ns / NS_PER_S, value_ns % NS_PER_S);
}

/* As a label's value. A name of an engine may be any bytes, but the formats are UTF-8. */
static void write_escaped(const struct page *page, const char *value)
{
	json_t *whole = json_string(value);
	bool utf8 = whole != NULL;

	json_decref(whole);
	for (; *value; value++) {
		if (*value == '\n')
			fputs("\\n", page->out);
		else if (*value == '"' || *value == '\\')
			fprintf(page->out, "\\%c", *value);
		else
			fputc(utf8 || (unsigned char)*value < 0x80 ? *value : '?', page->out);
	}
}

static void write_label(const struct page *page, const char *before, const char *name,
			const char *value)
{
	fprintf(page->out, "%s%s=\"", before, name);
	write_escaped(page, value);
	fputc('"', page->out);
}

/* --- histograms --- */

/* The engine counts while this reads: a time may be in its bucket and not in `count` yet, so the
 * larger of the two holds. */
static void write_histogram(const struct page *page, const char *name, const char *help,
			    const struct kvx_histogram *histogram)
{
	uint64_t sum = 0;

	begin_family(page, HISTOGRAM, name, "seconds", help);
	for (uint32_t i = 0; i < KVX_HISTOGRAM_BUCKETS; i++) {
		uint64_t bound_us = UINT64_C(1) << i;
		sum += histogram->buckets[i];
		fprintf(page->out, "%s_bucket{le=\"%" PRIu64 ".%06" PRIu64 "\"} %" PRIu64 "\n",
			name, bound_us / US_PER_S, bound_us % US_PER_S, sum);
	}
	uint64_t count = histogram->count > sum ? histogram->count : sum;
	fprintf(page->out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, count);
	fprintf(page->out, "%s_count %" PRIu64 "\n", name, count);
	fprintf(page->out, "%s_sum %" PRIu64 ".%09" PRIu64 "\n", name, histogram->sum_ns / NS_PER_S,
		histogram->sum_ns % NS_PER_S);
}

static void write_times(const struct page *page, const struct kvx_metrics *metrics)
{
	write_histogram(page, "kvxfer_layer_latency_seconds",
			"Streams: from a layer's ready until the receiver has it.",
			&metrics->layer_latency);
	write_histogram(page, "kvxfer_queueing_seconds",
			"Streams: from a layer's ready until its first unit is posted.",
			&metrics->queueing);
	write_histogram(page, "kvxfer_exposed_seconds",
			"Streams: from the last layer's ready until the end of the stream.",
			&metrics->exposed);
	write_histogram(page, "kvxfer_grant_seconds", "Grants: from opening to whole.",
			&metrics->grant_time);
	write_histogram(page, "kvxfer_fence_seconds",
			"Grants that are not whole: from the end until no byte lands any more.",
			&metrics->fence_time);
}

/* --- ports --- */

struct port_figure {
	const char *direction; /* NULL: it has none */
	size_t offset;         /* in struct kvx_port_view */
};

#define SENT(field)                                           \
	{                                                     \
		"sent", offsetof(struct kvx_port_view, field) \
	}
#define RECEIVED(field)                                           \
	{                                                         \
		"received", offsetof(struct kvx_port_view, field) \
	}

static void write_port(const struct page *page, const char *name, const struct kvx_port_view *port,
		       const struct port_figure *figure)
{
	uint64_t value;

	memcpy(&value, (const char *)port + figure->offset, sizeof(value));
	fputs(name, page->out);
	fputs("_total", page->out);
	write_label(page, "{", "transport", port->transport);
	write_label(page, ",", "port", port->port);
	if (figure->direction)
		write_label(page, ",", "direction", figure->direction);
	fprintf(page->out, "} %" PRIu64 "\n", value);
}

static void write_ports(const struct page *page, const struct figures *figures)
{
	static const struct {
		const char *name, *unit, *help;
		struct port_figure figures[2];
		uint32_t count;
	} families[] = {
		{"kvxfer_bytes",
		 "bytes",
		 "Bytes of units that the receiver has, each counted once.",
		 {SENT(bytes_sent), RECEIVED(bytes_received)},
		 2},
		{"kvxfer_slices",
		 "",
		 "Slices of units that the receiver has.",
		 {SENT(slices_sent)},
		 1},
		{"kvxfer_units",
		 "",
		 "Units that the receiver has, each counted once.",
		 {SENT(units_sent), RECEIVED(units_received)},
		 2},
		{"kvxfer_rail_failures",
		 "",
		 "Times that a rail of the port went down.",
		 {{NULL, offsetof(struct kvx_port_view, failures)}},
		 1},
	};

	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		begin_family(page, COUNTER, families[i].name, families[i].unit, families[i].help);
		for (uint32_t port = 0; port < figures->port_count; port++)
			for (uint32_t j = 0; j < families[i].count; j++)
				write_port(page, families[i].name, &figures->ports[port],
					   &families[i].figures[j]);
	}
}

/* --- counters and gauges of the engine --- */

static void write_units(const struct page *page, const struct kvx_stats *stats)
{
	write_number(page, COUNTER, "kvxfer_units_resent", "",
		     "Units posted again after a rail failed.", stats->units_resent);
	write_number(page, COUNTER, "kvxfer_units_duplicate", "",
		     "Units that arrived again and were not counted again.",
		     stats->units_duplicate);
	write_number(page, COUNTER, "kvxfer_units_late", "",
		     "Units for a grant that has ended: refused and never counted.",
		     stats->units_late);
	write_number(page, COUNTER, "kvxfer_layers_whole", "", "Layers of grants that are whole.",
		     stats->layers_whole);
}

static void write_transfers(const struct page *page, const struct kvx_metrics *metrics)
{
	const struct kvx_stats *stats = &metrics->stats;

	write_number(page, COUNTER, "kvxfer_grants_opened", "", "Grants opened.",
		     stats->grants_opened);
	write_number(page, COUNTER, "kvxfer_grants_completed", "", "Grants that became whole.",
		     stats->grants_completed);
	write_number(page, COUNTER, "kvxfer_grants_failed", "",
		     "Grants that ended before they were whole.", stats->grants_failed);
	write_number(page, COUNTER, "kvxfer_revokes", "",
		     "Grants that this engine ended before they were whole.", metrics->revokes);
	write_number(page, GAUGE, "kvxfer_grants_open", "", "Grants that go on.",
		     metrics->grants_open);
	write_number(page, COUNTER, "kvxfer_streams_opened", "", "Streams opened, with offers.",
		     stats->streams_opened);
	write_number(page, COUNTER, "kvxfer_streams_completed", "",
		     "Streams of which all is delivered.", stats->streams_completed);
	write_number(page, COUNTER, "kvxfer_streams_failed", "",
		     "Streams that ended before all was delivered.", stats->streams_failed);
	write_number(page, GAUGE, "kvxfer_streams_open", "", "Streams that go on.",
		     metrics->streams_open);
	write_number(page, GAUGE, "kvxfer_offers_open", "", "Offers that nobody has pulled yet.",
		     metrics->offers_open);
}

static void write_peers(const struct page *page, const struct figures *figures)
{
	const struct kvx_metrics *metrics = &figures->metrics;
	const struct kvx_stats *stats = &metrics->stats;

	begin_family(page, GAUGE, "kvxfer_peers", "", "Connections with peers, by state.");
	fprintf(page->out, "kvxfer_peers{state=\"up\"} %" PRIu32 "\n", metrics->peers_up);
	fprintf(page->out, "kvxfer_peers{state=\"connecting\"} %" PRIu32 "\n",
		metrics->peers_connecting);
	write_number(page, COUNTER, "kvxfer_peers_lost", "",
		     "Connections with peers that have ended.", stats->peers_lost);
	begin_family(page, GAUGE, "kvxfer_rails", "", "Rails of peers that are up, by state.");
	fprintf(page->out, "kvxfer_rails{state=\"up\"} %" PRIu64 "\n", figures->rails_up);
	fprintf(page->out, "kvxfer_rails{state=\"down\"} %" PRIu64 "\n", figures->rails_down);
	write_number(page, COUNTER, "kvxfer_rails_lost", "", "Rails that went down.",
		     stats->rails_lost);
	write_number(page, COUNTER, "kvxfer_rails_back", "", "Rails that came up again.",
		     metrics->rails_back);
	write_number(page, COUNTER, "kvxfer_protocol_errors", "",
		     "Connections closed because the other side broke the protocol.",
		     stats->protocol_errors);
}

static void write_memory(const struct page *page, const struct kvx_metrics *metrics)
{
	write_number(page, GAUGE, "kvxfer_regions", "", "Registered regions of memory.",
		     metrics->regions);
	write_number(page, GAUGE, "kvxfer_registered_bytes", "bytes",
		     "Memory of all registered regions.", metrics->registered_bytes);
	write_number(page, GAUGE, "kvxfer_staging_bytes", "bytes",
		     "Memory that small pieces are gathered in.", metrics->staging_bytes);
}

static void write_drain(const struct page *page, const struct kvx_drain_view *drain)
{
	static const char *const states[] = {
		[KVX_DRAIN_OFF] = "off",
		[KVX_DRAIN_WAITING] = "waiting",
		[KVX_DRAIN_DONE] = "done",
		[KVX_DRAIN_OVERDUE] = "overdue",
	};

	begin_family(page, GAUGE, "kvxfer_drain_state", "",
		     "1 for the state of the drain, 0 for the others.");
	for (uint32_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		fprintf(page->out, "kvxfer_drain_state{state=\"%s\"} %d\n", states[i],
			(uint32_t)drain->state == i);
	write_seconds(page, GAUGE, "kvxfer_drain_left_seconds",
		      "Time until the drain's deadline; 0 if it is past, or there is no drain.",
		      drain->left_ms * (NS_PER_S / 1000));
}

static void write_engine(const struct page *page, const struct figures *figures)
{
	const struct kvx_engine *engine = figures->engine;
	struct kvx_transport_view transport;
	char incarnation[17];

	snprintf(incarnation, sizeof(incarnation), "%016" PRIx64, kvx_engine_incarnation(engine));
	begin_family(page, INFO, "kvxfer_build", "", "The library.");
	write_label(page, "kvxfer_build_info{", "version", kvx_version());
	fputs("} 1\n", page->out);
	begin_family(page, INFO, "kvxfer_engine", "", "The engine.");
	write_label(page, "kvxfer_engine_info{", "name", kvx_engine_name(engine));
	write_label(page, ",", "incarnation", incarnation);
	fputs("} 1\n", page->out);
	begin_family(page, GAUGE, "kvxfer_transport_on", "",
		     "1 for each transport of the build that the engine uses, 0 for the others.");
	for (uint32_t i = 0; kvx_engine_transport(engine, i, &transport) == 0; i++) {
		write_label(page, "kvxfer_transport_on{", "transport", transport.name);
		fprintf(page->out, "} %d\n", transport.on);
	}
	write_seconds(page, GAUGE, "kvxfer_uptime_seconds", "Time since the engine opened.",
		      figures->uptime_ms * (NS_PER_S / 1000));
	write_seconds(page, COUNTER, "kvxfer_progress_seconds",
		      "Time that the engine's thread worked.", figures->metrics.stats.progress_ns);
}

/* --- a request --- */

/* Rails of a peer that has gone are not down for a time: there are none any more. */
static void count_rails(struct kvx_engine *engine, struct figures *figures)
{
	struct kvx_peer_view views[VIEWS];
	uint64_t after = 0;
	int count;

	while ((count = kvx_engine_peers(engine, after, views, VIEWS)) > 0) {
		for (int i = 0; i < count; i++) {
			uint32_t all = views[i].rails, up = views[i].info.rails;
			if (views[i].info.state != KVX_PEER_UP)
				continue;
			figures->rails_up += up;
			figures->rails_down += all > up ? all - up : 0;
		}
		after = views[count - 1].id;
	}
}

static void read_figures(struct kvx_engine *engine, struct figures *figures)
{
	figures->engine = engine;
	kvx_engine_metrics(engine, &figures->metrics);
	kvx_engine_drain_state(engine, &figures->drain);
	count_rails(engine, figures);
	figures->uptime_ms = kvx_engine_uptime_ms(engine);
	while (figures->port_count < PORTS_MAX &&
	       kvx_engine_port(engine, figures->port_count, &figures->ports[figures->port_count]) ==
		       0)
		figures->port_count++;
}

static void write_page(const struct page *page, const struct figures *figures)
{
	write_engine(page, figures);
	write_ports(page, figures);
	write_units(page, &figures->metrics.stats);
	write_transfers(page, &figures->metrics);
	write_times(page, &figures->metrics);
	write_peers(page, figures);
	write_memory(page, &figures->metrics);
	write_drain(page, &figures->drain);
	if (page->openmetrics)
		fputs("# EOF\n", page->out);
}

/* Prometheus asks for both formats, and prefers this one. */
static bool wants_openmetrics(struct kvx_request *request)
{
	const char *accept = MHD_lookup_connection_value(kvx_exchange_of(request)->connection,
							 MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);

	return accept && strcasestr(accept, OPENMETRICS);
}

/* The text has a bound: the families above, with at most PORTS_MAX labels of ports each. */
void kvx_metrics_serve(struct kvx_request *request)
{
	struct figures *figures = calloc(1, sizeof(*figures));
	struct page page = {.openmetrics = wants_openmetrics(request)};
	char *text = NULL;
	size_t size = 0;

	if (figures)
		page.out = open_memstream(&text, &size);
	if (!page.out) {
		kvx_answer_problem(request, 503, KVX_E_MEMORY, "metrics: out of memory");
		free(figures);
		return;
	}
	read_figures(request->engine, figures);
	write_page(&page, figures);
	bool written = !ferror(page.out);
	if (fclose(page.out) == 0 && written)
		kvx_answer_text(request, page.openmetrics ? OPENMETRICS_TYPE : TEXT_TYPE, text,
				size);
	else
		kvx_answer_problem(request, 503, KVX_E_MEMORY, "metrics: out of memory");
	free(text);
	free(figures);
}
