/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine is and has, for people. */
#include "ctl.h"

#include <string.h>

int ctl_show(const struct ctl *ctl, struct ctl_call *call, void (*show)(const json_t *answer))
{
	if (!call->result && ctl_has(ctl, CTL_JSON)) {
		ctl_write_raw(call->text, call->size);
		if (call->size && call->text[call->size - 1] != '\n')
			putchar('\n');
	} else if (!call->result) {
		show(call->answer);
	}
	ctl_call_free(call);
	return call->result;
}

static const char *plural(uint64_t count)
{
	return count == 1 ? "" : "s";
}

/* "2 grants, " */
static void print_count(const json_t *object, const char *name, const char *one, const char *after)
{
	uint64_t count = ctl_number(object, name);

	printf("%" PRIu64 " %s%s%s", count, one, plural(count), after);
}

static void show_transports(const json_t *transports)
{
	static const char *const titles[] = {"transport", "state", "kind", "address", "why", NULL};
	struct ctl_table table;
	const json_t *one;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(transports, i, one)
	{
		ctl_table_add(&table, "%s", ctl_text(one, "name"));
		ctl_table_add(&table, "%s", ctl_flag(one, "on") ? "on" : "off");
		ctl_table_add(&table, "%s", ctl_flag(one, "one_sided") ? "one-sided" : "two-sided");
		ctl_table_add(&table, "%s", ctl_text(one, "address"));
		ctl_table_add(&table, "%s", ctl_text(one, "why"));
	}
	ctl_table_print(&table);
}

static void show_stats(const json_t *stats)
{
	static const char *const titles[] = {"since it opened", ">count", NULL};
	struct ctl_table table;
	const char *name;
	const json_t *value;

	ctl_table_begin(&table, titles);
	json_object_foreach((json_t *)stats, name, value)
	{
		ctl_table_add(&table, "%s", name);
		ctl_table_add(&table, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	}
	ctl_table_print(&table);
}

void ctl_show_status(const json_t *answer)
{
	const json_t *memory = json_object_get(answer, "memory"),
		     *open = json_object_get(answer, "open");

	ctl_pair(stdout, "engine", "%s, kvxfer %s, process %" PRIu64 ", up %s",
		 ctl_text(answer, "name"), ctl_text(answer, "version"), ctl_number(answer, "pid"),
		 ctl_time(ctl_number(answer, "uptime_ms")).text);
	ctl_pair(stdout, "incarnation", "%s", ctl_text(answer, "incarnation"));
	ctl_pair(stdout, "address", "%s", ctl_text(answer, "address"));
	ctl_pair(stdout, "control", "%s", ctl_text(answer, "control"));
	ctl_pair(stdout, "drain", "%s", ctl_text(answer, "drain"));
	ctl_pair(stdout, "memory", "%" PRIu64 " region%s, %s registered, %s staging, %s resident",
		 ctl_number(memory, "regions"), plural(ctl_number(memory, "regions")),
		 ctl_bytes(ctl_number(memory, "registered_bytes")).text,
		 ctl_bytes(ctl_number(memory, "staging_bytes")).text,
		 ctl_bytes(ctl_number(memory, "resident_bytes")).text);
	printf("open           ");
	print_count(open, "pools", "pool", ", ");
	print_count(open, "grants", "grant", ", ");
	print_count(open, "streams", "stream", ", ");
	print_count(open, "offers", "offer", ", ");
	print_count(open, "peers", "peer", "\n\n");
	show_transports(json_object_get(answer, "transports"));
	printf("\n");
	show_stats(json_object_get(answer, "stats"));
}

/* Whether a name stands before the '=' of one of the arguments. */
static bool is_named(const char *name, char **only, uint32_t count)
{
	size_t length = strlen(name);

	for (uint32_t i = 0; i < count; i++)
		if (strncmp(only[i], name, length) == 0 && only[i][length] == '=')
			return true;
	return count == 0;
}

void ctl_show_options(const json_t *answer, char **only, uint32_t count)
{
	static const char *const titles[] = {"option", "change", "value", "kind",
					     "range",  "help",   NULL};
	struct ctl_table table;
	const json_t *one;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(json_object_get(answer, "options"), i, one)
	{
		if (!is_named(ctl_text(one, "name"), only, count))
			continue;
		ctl_table_add(&table, "%s", ctl_text(one, "name"));
		ctl_table_add(&table, "%s", ctl_flag(one, "live") ? "live" : "start");
		ctl_table_add(&table, "%s", ctl_text(one, "value"));
		ctl_table_add(&table, "%s", ctl_text(one, "kind"));
		ctl_table_add(&table, "%s", ctl_text(one, "range"));
		ctl_table_add(&table, "%s", ctl_text(one, "help"));
	}
	ctl_table_print(&table);
}

void ctl_show_regions(const json_t *answer)
{
	static const char *const titles[] = {">id",       ">size",  "kind", "device",
					     "GPUDirect", ">users", "near", NULL};
	struct ctl_table table;
	const json_t *one;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(json_object_get(answer, "regions"), i, one)
	{
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "id"));
		ctl_table_add(&table, "%s", ctl_bytes(ctl_number(one, "bytes")).text);
		ctl_table_add(&table, "%s", ctl_text(one, "kind"));
		ctl_table_add(&table, "%s", ctl_text(one, "device"));
		ctl_table_add(&table, "%s", ctl_text(one, "gpudirect"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "users"));
		ctl_table_add(&table, "%s", ctl_text(one, "near"));
	}
	ctl_table_print(&table);
}

void ctl_show_pools(const json_t *answer)
{
	static const char *const titles[] = {">id",     ">blocks", ">granted", ">layers",
					     ">planes", ">tokens", "layout",   "dtype",
					     ">users",  "hash",    NULL};
	struct ctl_table table;
	const json_t *one;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(json_object_get(answer, "pools"), i, one)
	{
		const json_t *geometry = json_object_get(one, "geometry");
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "id"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "blocks"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "granted_blocks"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(geometry, "layers"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(geometry, "planes"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(geometry, "block_tokens"));
		ctl_table_add(&table, "%s", ctl_text(geometry, "layout"));
		ctl_table_add(&table, "%s", ctl_text(geometry, "dtype"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "users"));
		ctl_table_add(&table, "%s", ctl_text(one, "hash"));
	}
	ctl_table_print(&table);
}

void ctl_show_pool(const json_t *answer)
{
	const json_t *geometry = json_object_get(answer, "geometry"), *one;
	const char *name;
	size_t i;

	ctl_pair(stdout, "pool", "%" PRIu64 ", hash %s", ctl_number(answer, "id"),
		 ctl_text(answer, "hash"));
	ctl_pair(stdout, "blocks", "%" PRIu64 ", %" PRIu64 " of them granted",
		 ctl_number(answer, "blocks"), ctl_number(answer, "granted_blocks"));
	ctl_pair(stdout, "size", "%s for a block in one layer",
		 ctl_bytes(ctl_number(answer, "layer_block_bytes")).text);
	ctl_pair(stdout, "users", "%" PRIu64 " open grants and streams",
		 ctl_number(answer, "users"));
	ctl_pair(stdout, "readable", "%s", ctl_flag(answer, "readable") ? "by the CPU" : "no");
	json_object_foreach((json_t *)geometry, name, one)
	{
		if (json_is_string(one))
			ctl_pair(stdout, name, "%s", json_string_value(one));
		else if (json_is_integer(one))
			ctl_pair(stdout, name, "%" JSON_INTEGER_FORMAT, json_integer_value(one));
	}
	json_array_foreach(json_object_get(geometry, "extra"), i, one)
	{
		ctl_pair(stdout, "extra plane",
			 "%" PRIu64 " bytes of a block, %" PRIu64 " of a token",
			 ctl_number(one, "block_bytes"), ctl_number(one, "token_bytes"));
	}
}

static uint32_t rails_up(const json_t *peer)
{
	const json_t *rail;
	uint32_t up = 0;
	size_t i;

	json_array_foreach(json_object_get(peer, "rails"), i, rail)
	{
		up += ctl_flag(rail, "up");
	}
	return up;
}

void ctl_show_peers(const json_t *answer)
{
	static const char *const titles[] = {">id",        "name",   "direction", "state",
					     ">transfers", ">rails", "transport", ">silent",
					     "address",    NULL};
	struct ctl_table table;
	const json_t *one;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(json_object_get(answer, "peers"), i, one)
	{
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "id"));
		ctl_table_add(&table, "%s", ctl_text(one, "name"));
		ctl_table_add(&table, "%s", ctl_text(one, "direction"));
		ctl_table_add(&table, "%s", ctl_text(one, "state"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "transfers"));
		ctl_table_add(&table, "%u/%zu", rails_up(one),
			      json_array_size(json_object_get(one, "rails")));
		ctl_table_add(&table, "%s", ctl_text(one, "transport"));
		ctl_table_add(&table, "%s", ctl_time(ctl_number(one, "silent_ms")).text);
		ctl_table_add(&table, "%s", ctl_text(one, "address"));
	}
	ctl_table_print(&table);
}

void ctl_show_peer(const json_t *answer)
{
	static const char *const titles[] = {"port",      "state",     ">weight", ">sent",
					     ">received", ">failures", NULL};
	struct ctl_table table;
	const json_t *rail;
	size_t i;

	ctl_pair(stdout, "peer", "%" PRIu64 ", %s, %s, %s", ctl_number(answer, "id"),
		 ctl_text(answer, "name"), ctl_text(answer, "direction"),
		 ctl_text(answer, "state"));
	ctl_pair(stdout, "incarnation", "%s", ctl_text(answer, "incarnation"));
	ctl_pair(stdout, "transport", "%s", ctl_text(answer, "transport"));
	ctl_pair(stdout, "address", "%s", ctl_text(answer, "address"));
	ctl_pair(stdout, "why", "%s", ctl_text(answer, "why"));
	ctl_pair(stdout, "transfers", "%" PRIu64, ctl_number(answer, "transfers"));
	ctl_pair(stdout, "silent", "%s", ctl_time(ctl_number(answer, "silent_ms")).text);
	printf("\n");
	ctl_table_begin(&table, titles);
	json_array_foreach(json_object_get(answer, "rails"), i, rail)
	{
		ctl_table_add(&table, "%s", ctl_text(rail, "port"));
		ctl_table_add(&table, "%s", ctl_flag(rail, "up") ? "up" : "down");
		ctl_table_add(&table, "%" PRIu64, ctl_number(rail, "weight"));
		ctl_table_add(&table, "%s", ctl_bytes(ctl_number(rail, "bytes_sent")).text);
		ctl_table_add(&table, "%s", ctl_bytes(ctl_number(rail, "bytes_received")).text);
		ctl_table_add(&table, "%" PRIu64, ctl_number(rail, "failures"));
	}
	ctl_table_print(&table);
}
