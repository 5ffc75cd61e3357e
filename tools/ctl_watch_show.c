/* SPDX-License-Identifier: Apache-2.0 */
/* What one frame shows of an engine. */
#include "ctl_watch.h"

#include <string.h>

#define INDENT "  "

/* --- rates --- */

static const json_t *find_peer(const json_t *answer, uint64_t id)
{
	const json_t *peer;
	size_t i;

	json_array_foreach(json_object_get(answer, "peers"), i, peer)
	{
		if (ctl_number(peer, "id") == id)
			return peer;
	}
	return NULL;
}

/* What a rail's counter has grown by; false: not known, as of one that was not there before. */
static bool grown(const json_t *rail, const json_t *before, const char *name, uint64_t *bytes)
{
	uint64_t now = ctl_number(rail, name), then = ctl_number(before, name);

	if (!before || now < then || strcmp(ctl_text(rail, "port"), ctl_text(before, "port")) != 0)
		return false;
	*bytes += now - then;
	return true;
}

/* Of bytes since the frame before, in MB/s. */
static struct ctl_short rate(const struct watch_engine *engine, bool is_known, uint64_t bytes)
{
	struct ctl_short made = {"-"};
	int64_t ns = engine->now_ns - engine->before_ns;

	if (is_known && ns > 0)
		snprintf(made.text, sizeof(made.text), "%.1f", (double)bytes * 1000 / (double)ns);
	return made;
}

static struct ctl_short rail_rate(const struct watch_engine *engine, const json_t *rail,
				  const json_t *before, const char *name)
{
	uint64_t bytes = 0;
	bool is_known = grown(rail, before, name, &bytes);

	return rate(engine, is_known, bytes);
}

/* Over all of its rails that are known. */
static struct ctl_short peer_rate(const struct watch_engine *engine, const json_t *peer,
				  const json_t *before, const char *name)
{
	const json_t *rails_before = json_object_get(before, "rails"), *rail;
	uint64_t bytes = 0;
	bool is_known = false;
	size_t i;

	json_array_foreach(json_object_get(peer, "rails"), i, rail)
	{
		is_known |= grown(rail, json_array_get(rails_before, i), name, &bytes);
	}
	return rate(engine, is_known, bytes);
}

static void add_rail(const struct watch_engine *engine, struct ctl_table *table, const json_t *rail,
		     const json_t *before)
{
	ctl_table_add(table, "%s", "");
	ctl_table_add(table, "  rail %s", ctl_text(rail, "port"));
	ctl_table_add(table, "%s", "");
	ctl_table_add(table, "%s", ctl_flag(rail, "up") ? "up" : "down");
	ctl_table_add(table, "weight %" PRIu64, ctl_number(rail, "weight"));
	ctl_table_add(table, "%s", rail_rate(engine, rail, before, "bytes_sent").text);
	ctl_table_add(table, "%s", rail_rate(engine, rail, before, "bytes_received").text);
	ctl_table_add(table, "%" PRIu64, ctl_number(rail, "failures"));
}

static void add_peer(const struct watch_engine *engine, struct ctl_table *table, const json_t *peer)
{
	const json_t *before = find_peer(engine->peers_before, ctl_number(peer, "id")),
		     *rails_before = json_object_get(before, "rails"), *rail;
	size_t i;

	ctl_table_add(table, "%" PRIu64, ctl_number(peer, "id"));
	ctl_table_add(table, "%s", ctl_text(peer, "name"));
	ctl_table_add(table, "%s", ctl_text(peer, "direction"));
	ctl_table_add(table, "%s", ctl_text(peer, "state"));
	ctl_table_add(table, "%s", ctl_text(peer, "transport"));
	ctl_table_add(table, "%s", peer_rate(engine, peer, before, "bytes_sent").text);
	ctl_table_add(table, "%s", peer_rate(engine, peer, before, "bytes_received").text);
	ctl_table_add(table, "%s", "");
	json_array_foreach(json_object_get(peer, "rails"), i, rail)
		add_rail(engine, table, rail, json_array_get(rails_before, i));
}

/* --- tables --- */

static void show_peers(const struct watch_engine *engine, uint32_t rows_max, FILE *file)
{
	static const char *const titles[] = {">peer",          "name",      "direction",
					     "state",          "transport", ">sent MB/s",
					     ">received MB/s", ">failures", NULL};
	const json_t *peers = json_object_get(engine->answers[WATCH_PEERS], "peers"), *peer;
	struct ctl_table table;
	size_t i, shown = 0;

	if (!json_array_size(peers))
		return;
	ctl_table_begin(&table, titles);
	json_array_foreach(peers, i, peer)
	{
		if (table.count / table.columns >= rows_max)
			break;
		add_peer(engine, &table, peer);
		shown++;
	}
	ctl_table_end(&table, file, INDENT, 0);
	if (shown < json_array_size(peers))
		fprintf(file, INDENT "... and %zu more\n", json_array_size(peers) - shown);
}

static void add_transfer(struct ctl_table *table, const json_t *one, const char *done,
			 const char *other)
{
	bool is_ended = json_is_integer(json_object_get(one, "end_ms"));
	uint64_t layers = ctl_number(one, "layers");

	ctl_table_add(table, "%" PRIu64, ctl_number(one, "id"));
	ctl_table_add(table, "%s", ctl_flag(one, "offered") ? "offer" : "");
	ctl_table_add(table, "%s", ctl_text(one, "state"));
	ctl_table_add(table, "%s", ctl_bar(ctl_number(one, done), layers).text);
	ctl_table_add(table, "%" PRIu64 "/%" PRIu64, ctl_number(one, done), layers);
	ctl_table_add(table, "%s", ctl_bytes(ctl_number(one, "bytes")).text);
	ctl_table_add(table, "%s", ctl_time(ctl_number(one, is_ended ? "end_ms" : "age_ms")).text);
	ctl_table_add(table, "%s", ctl_text(one, other));
	ctl_table_add(table, "%s", ctl_text(one, "code"));
}

static bool is_open(const json_t *one)
{
	return strcmp(ctl_text(one, "state"), "open") == 0;
}

/* Those that go on first, then the others, each the newest first. */
static void show_transfers(const json_t *list, const char *const *titles, const char *done,
			   const char *other, uint32_t rows_max, FILE *file)
{
	struct ctl_table table;
	size_t size = json_array_size(list), shown = 0;

	if (!size)
		return;
	ctl_table_begin(&table, titles);
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = size; i > 0 && shown < rows_max; i--) {
			const json_t *one = json_array_get(list, i - 1);
			if (is_open(one) != (pass == 0))
				continue;
			add_transfer(&table, one, done, other);
			shown++;
		}
	}
	ctl_table_end(&table, file, INDENT, 0);
	if (shown < size)
		fprintf(file, INDENT "... and %zu more\n", size - shown);
}

static void show_head(const struct watch_engine *engine, FILE *file)
{
	const json_t *status = engine->answers[WATCH_STATUS],
		     *memory = json_object_get(status, "memory");
	char drain[64];

	snprintf(drain, sizeof(drain), "drain %.40s", ctl_text(status, "drain"));
	if (status)
		ctl_pair(file, ctl_text(status, "name"),
			 "kvxfer %s, process %" PRIu64 ", up %s, %s, %s registered, %s resident",
			 ctl_text(status, "version"), ctl_number(status, "pid"),
			 ctl_time(ctl_number(status, "uptime_ms")).text, drain,
			 ctl_bytes(ctl_number(memory, "registered_bytes")).text,
			 ctl_bytes(ctl_number(memory, "resident_bytes")).text);
	if (engine->why[0])
		ctl_pair(file, "", "%s", engine->why);
}

void watch_show_engine(const struct watch_engine *engine, uint32_t rows_max, FILE *file)
{
	static const char *const grants[] = {">grant", "",      "state",  "progress", ">layers",
					     ">bytes", ">time", "sender", "code",     NULL};
	static const char *const streams[] = {">stream", "",      "state",    "progress", ">layers",
					      ">bytes",  ">time", "receiver", "code",     NULL};
	uint64_t count = engine->event_count,
		 kept = count < WATCH_EVENTS_KEPT ? count : WATCH_EVENTS_KEPT;

	show_head(engine, file);
	show_peers(engine, rows_max, file);
	show_transfers(json_object_get(engine->answers[WATCH_GRANTS], "grants"), grants,
		       "layers_whole", "sender", rows_max, file);
	show_transfers(json_object_get(engine->answers[WATCH_STREAMS], "streams"), streams,
		       "layers_delivered", "receiver", rows_max, file);
	for (uint64_t i = count - kept; i < count; i++)
		fprintf(file, INDENT "%s\n", engine->events[i % WATCH_EVENTS_KEPT]);
}
