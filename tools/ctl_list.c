/* SPDX-License-Identifier: Apache-2.0 */
/* kvxferctl list: the engines whose sockets a folder holds. */
#include "ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AT_ONCE 32u
#define LIMIT_MS 2000u /* a stopped engine does not hold the others' answers up for longer */

struct row {
	char *name;
	struct ctl_place place;
	struct ctl_call call;
};

static void ask(struct row *rows, uint32_t count)
{
	struct ctl_call calls[AT_ONCE];

	for (uint32_t i = 0; i < count; i++) {
		calls[i] = (struct ctl_call){
			.place = &rows[i].place, .method = "GET", .limit_ms = LIMIT_MS};
		strcpy(calls[i].path, "/v1/status");
	}
	ctl_call_all(calls, count);
	for (uint32_t i = 0; i < count; i++)
		rows[i].call = calls[i];
}

static void print_table(const struct row *rows, uint32_t count)
{
	static const char *const titles[] = {"socket",   "name",    "version", ">process",
					     ">up",      "drain",   ">pools",  ">grants",
					     ">streams", ">offers", ">peers",  NULL};
	static const char *const open_names[] = {"pools", "grants", "streams", "offers", "peers"};
	struct ctl_table table;

	ctl_table_begin(&table, titles);
	for (uint32_t i = 0; i < count; i++) {
		const json_t *status = rows[i].call.answer, *open = json_object_get(status, "open");
		if (rows[i].call.result)
			continue;
		ctl_table_add(&table, "%s", rows[i].name);
		ctl_table_add(&table, "%s", ctl_text(status, "name"));
		ctl_table_add(&table, "%s", ctl_text(status, "version"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(status, "pid"));
		ctl_table_add(&table, "%s", ctl_time(ctl_number(status, "uptime_ms")).text);
		ctl_table_add(&table, "%s", ctl_text(status, "drain"));
		for (uint32_t k = 0; k < sizeof(open_names) / sizeof(*open_names); k++)
			ctl_table_add(&table, "%" PRIu64, ctl_number(open, open_names[k]));
	}
	ctl_table_print(&table);
}

static json_t *row_json(const struct row *row)
{
	if (row->call.result)
		return json_pack("{ss, sn, ss}", "socket", row->place.name, "status", "error",
				 row->call.why);
	return json_pack("{ss, sO, sn}", "socket", row->place.name, "status", row->call.answer,
			 "error");
}

static int print_json(const struct row *rows, uint32_t count)
{
	json_t *list = json_array(), *root = json_pack("{so}", "sockets", list);

	for (uint32_t i = 0; i < count; i++)
		json_array_append_new(list, row_json(&rows[i]));
	int status = root && !json_dumpf(root, stdout, JSON_INDENT(2)) ? 0 : ctl_fail_memory();
	printf("\n");
	json_decref(root);
	return status;
}

/* Places of the sockets that can be asked; the others are told at once. */
static uint32_t make_rows(const char *folder, char **names, uint32_t count, struct row *rows)
{
	size_t length = strlen(folder);
	uint32_t made = 0;
	char path[CTL_PATH_MAX];

	while (length > 1 && folder[length - 1] == '/')
		length--;
	for (uint32_t i = 0; i < count; i++) {
		int bytes = snprintf(path, sizeof(path), "%.*s/%s", (int)length, folder, names[i]);
		rows[made].name = names[i];
		if (bytes < (int)sizeof(path) && !ctl_place_find(path, NULL, &rows[made].place))
			made++;
	}
	return made;
}

int ctl_list(struct ctl *ctl)
{
	const char *folder = ctl->words[0];
	char **names;
	uint32_t count;
	int status = 0;

	if (!ctl_place_list(folder, &names, &count))
		return ctl_fail(CTL_UNREACHED, "%s: %s", folder, strerror(errno));
	struct row *rows = calloc(count + 1, sizeof(*rows));
	uint32_t made = rows ? make_rows(folder, names, count, rows) : 0;
	for (uint32_t i = 0; i < made; i += AT_ONCE)
		ask(rows + i, made - i < AT_ONCE ? made - i : AT_ONCE);
	if (!rows)
		status = ctl_fail_memory();
	else if (ctl_has(ctl, CTL_JSON))
		status = print_json(rows, made);
	else
		print_table(rows, made);
	for (uint32_t i = 0; i < made; i++) {
		if (rows[i].call.result && !ctl_has(ctl, CTL_JSON))
			ctl_fail(0, "%s", rows[i].call.why);
		ctl_call_free(&rows[i].call);
	}
	for (uint32_t i = 0; i < count; i++)
		free(names[i]);
	free((void *)names);
	free(rows);
	return status;
}
