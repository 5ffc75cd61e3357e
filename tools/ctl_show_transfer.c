/* SPDX-License-Identifier: Apache-2.0 */
/* Grants, streams and the drain, for people. */
#include "ctl.h"

#define PROGRESS_COLUMNS 64u

const char *ctl_state_code(const json_t *transfer)
{
	return ctl_text(transfer, "code");
}

/* How long it took, or goes on. */
static struct ctl_short time_of(const json_t *transfer)
{
	const json_t *end = json_object_get(transfer, "end_ms");

	return ctl_time(json_is_integer(end) ? ctl_number(transfer, "end_ms")
					     : ctl_number(transfer, "age_ms"));
}

/* A character for each layer, then the tail. */
static void show_progress(const json_t *progress)
{
	char line[PROGRESS_COLUMNS + 1];
	const json_t *layer;
	uint32_t filled = 0;
	const char *name = "layers";
	size_t i;

	json_array_foreach(progress, i, layer)
	{
		bool is_begun = ctl_number(layer, "arrived") || ctl_flag(layer, "ready");
		line[filled++] = ".+#"[ctl_flag(layer, "done") ? 2 : is_begun];
		if (filled < PROGRESS_COLUMNS && i + 1 < json_array_size(progress))
			continue;
		line[filled] = 0;
		ctl_pair(stdout, name, "%s", line);
		name = "";
		filled = 0;
	}
}

static void show_end(const json_t *answer)
{
	const char *code = ctl_state_code(answer);

	ctl_pair(stdout, "state", "%s%s%s", ctl_text(answer, "state"), code[0] ? " " : "", code);
	if (ctl_text(answer, "text")[0])
		ctl_pair(stdout, "why", "%s", ctl_text(answer, "text"));
}

static void show_ticket(const json_t *answer)
{
	if (ctl_text(answer, "ticket")[0])
		ctl_pair(stdout, "ticket", "%s", ctl_text(answer, "ticket"));
}

void ctl_show_grants(const json_t *answer)
{
	static const char *const titles[] = {">id",     ">pool",  "state", ">layers",
					     ">blocks", ">bytes", ">time", ">lease",
					     "owner",   "sender", "why",   NULL};
	struct ctl_table table;
	const json_t *one;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(json_object_get(answer, "grants"), i, one)
	{
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "id"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "pool"));
		ctl_table_add(&table, "%s", ctl_text(one, "state"));
		ctl_table_add(&table, "%" PRIu64 "/%" PRIu64, ctl_number(one, "layers_whole"),
			      ctl_number(one, "layers"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "blocks"));
		ctl_table_add(&table, "%s", ctl_bytes(ctl_number(one, "bytes")).text);
		ctl_table_add(&table, "%s", time_of(one).text);
		ctl_table_add(&table, "%s", ctl_time(ctl_number(one, "lease_ms")).text);
		ctl_table_add(&table, "%s", ctl_text(one, "owner"));
		ctl_table_add(&table, "%s", ctl_text(one, "sender"));
		ctl_table_add(&table, "%s", ctl_text(one, "text"));
	}
	ctl_table_print(&table);
}

void ctl_show_grant(const json_t *answer)
{
	ctl_pair(stdout, "grant", "%" PRIu64 " of pool %" PRIu64 ", opened by %s",
		 ctl_number(answer, "id"), ctl_number(answer, "pool"), ctl_text(answer, "owner"));
	show_end(answer);
	ctl_pair(stdout, "request",
		 "%" PRIu64 " blocks, %" PRIu64 " tokens, %" PRIu64 " blocks held, tail of %s",
		 ctl_number(answer, "blocks"), ctl_number(answer, "tokens"),
		 ctl_number(answer, "held_blocks"),
		 ctl_bytes(ctl_number(answer, "tail_bytes")).text);
	ctl_pair(stdout, "senders", "%" PRIu64 " of %" PRIu64 " came%s%s",
		 ctl_number(answer, "senders_came"), ctl_number(answer, "senders"),
		 ctl_text(answer, "sender")[0] ? ", first " : "", ctl_text(answer, "sender"));
	ctl_pair(stdout, "arrived", "%" PRIu64 " of %" PRIu64 " layers, %s",
		 ctl_number(answer, "layers_whole"), ctl_number(answer, "layers"),
		 ctl_bytes(ctl_number(answer, "bytes")).text);
	show_progress(json_object_get(answer, "progress"));
	ctl_pair(stdout, "time", "%s, lease %s%s", time_of(answer).text,
		 ctl_time(ctl_number(answer, "lease_ms")).text,
		 ctl_flag(answer, "fenced") ? ", fenced" : "");
	show_ticket(answer);
}

void ctl_show_streams(const json_t *answer)
{
	static const char *const titles[] = {">id",    ">pool",    "state",  "kind",
					     ">ready", ">layers",  ">bytes", ">time",
					     "owner",  "receiver", "why",    NULL};
	struct ctl_table table;
	const json_t *one;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(json_object_get(answer, "streams"), i, one)
	{
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "id"));
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "pool"));
		ctl_table_add(&table, "%s", ctl_text(one, "state"));
		ctl_table_add(&table, "%s", ctl_flag(one, "offered") ? "offer" : "stream");
		ctl_table_add(&table, "%" PRIu64, ctl_number(one, "layers_ready"));
		ctl_table_add(&table, "%" PRIu64 "/%" PRIu64, ctl_number(one, "layers_delivered"),
			      ctl_number(one, "layers"));
		ctl_table_add(&table, "%s", ctl_bytes(ctl_number(one, "bytes")).text);
		ctl_table_add(&table, "%s", time_of(one).text);
		ctl_table_add(&table, "%s", ctl_text(one, "owner"));
		ctl_table_add(&table, "%s", ctl_text(one, "receiver"));
		ctl_table_add(&table, "%s", ctl_text(one, "text"));
	}
	ctl_table_print(&table);
}

void ctl_show_stream(const json_t *answer)
{
	ctl_pair(stdout, ctl_flag(answer, "offered") ? "offer" : "stream",
		 "%" PRIu64 " of pool %" PRIu64 ", opened by %s", ctl_number(answer, "id"),
		 ctl_number(answer, "pool"), ctl_text(answer, "owner"));
	show_end(answer);
	ctl_pair(stdout, "request", "%" PRIu64 " tokens, tail of %s", ctl_number(answer, "tokens"),
		 ctl_bytes(ctl_number(answer, "tail_bytes")).text);
	ctl_pair(stdout, "receiver", "%s, %s", ctl_text(answer, "receiver"),
		 ctl_flag(answer, "accepted") ? "has accepted" : "has not accepted");
	ctl_pair(stdout, "delivered", "%" PRIu64 " of %" PRIu64 " layers, %s; %" PRIu64 " ready",
		 ctl_number(answer, "layers_delivered"), ctl_number(answer, "layers"),
		 ctl_bytes(ctl_number(answer, "bytes")).text, ctl_number(answer, "layers_ready"));
	show_progress(json_object_get(answer, "progress"));
	ctl_pair(stdout, "time", "%s%s", time_of(answer).text,
		 ctl_flag(answer, "drained") ? ", drained" : "");
	if (ctl_text(answer, "explain")[0])
		ctl_pair(stdout, "explain", "%s", ctl_text(answer, "explain"));
	show_ticket(answer);
}

void ctl_show_drain(const json_t *answer)
{
	ctl_pair(stdout, "drain", "%s", ctl_text(answer, "state"));
	ctl_pair(stdout, "goes on", "%" PRIu64 " grants, %" PRIu64 " streams",
		 ctl_number(answer, "grants"), ctl_number(answer, "streams"));
	if (ctl_number(answer, "left_ms"))
		ctl_pair(stdout, "deadline", "in %s", ctl_time(ctl_number(answer, "left_ms")).text);
}
