/* SPDX-License-Identifier: Apache-2.0 */
/* Events, as an engine streams them: server-sent events, one a line for people. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- reading the stream --- */

static void take_field(struct ctl_sse *sse, const char *name, const char *value)
{
	size_t length = strlen(value);

	if (strcmp(name, "event") == 0) {
		snprintf(sse->type, sizeof(sse->type), "%.63s", value);
	} else if (strcmp(name, "data") == 0 && sse->data_bytes + length + 1 < sizeof(sse->data)) {
		memcpy(sse->data + sse->data_bytes, value, length + 1);
		sse->data_bytes += length;
	}
}

/* An empty line ends an event; one that begins with a colon is a comment. */
static void take_line(struct ctl_sse *sse)
{
	char *colon = strchr(sse->line, ':');

	if (!sse->line[0]) {
		if (sse->data_bytes)
			sse->event(sse->context, sse->type, sse->data);
		sse->data_bytes = 0;
		sse->type[0] = 0;
	} else if (colon && colon != sse->line) {
		*colon = 0;
		take_field(sse, sse->line, colon + 1 + (colon[1] == ' '));
	}
}

void ctl_sse_feed(struct ctl_sse *sse, const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (text[i] == '\n') {
			sse->line[sse->line_bytes] = 0;
			sse->line_bytes = 0;
			take_line(sse);
		} else if (text[i] != '\r' && sse->line_bytes + 1 < sizeof(sse->line)) {
			sse->line[sse->line_bytes++] = text[i];
		}
	}
}

/* --- one event as a line --- */

static void write_time(uint64_t time_ms, char *text, size_t size)
{
	time_t seconds = (time_t)(time_ms / 1000);
	struct tm parts;
	char clock[16] = "?";

	if (localtime_r(&seconds, &parts))
		strftime(clock, sizeof(clock), "%H:%M:%S", &parts);
	snprintf(text, size, "%s.%03u", clock, (unsigned)(time_ms % 1000));
}

void ctl_event_line(const char *type, const json_t *data, char *line, size_t size)
{
	const json_t *index = json_object_get(data, "index");
	char clock[24], of[48] = "", part[40] = "";

	if (strcmp(type, "gap") == 0) {
		snprintf(line, size, "%" PRIu64 " events are missing here",
			 ctl_number(data, "missed"));
		return;
	}
	write_time(ctl_number(data, "time_ms"), clock, sizeof(clock));
	if (ctl_number(data, "id"))
		snprintf(of, sizeof(of), "%.16s %" PRIu64, ctl_text(data, "of"),
			 ctl_number(data, "id"));
	if (json_is_integer(index))
		snprintf(part, sizeof(part), " %s %" PRIu64,
			 strncmp(type, "rail", 4) == 0 ? "rail" : "layer",
			 ctl_number(data, "index"));
	else if (json_is_string(index))
		snprintf(part, sizeof(part), " %.16s", json_string_value(index));
	const char *code = ctl_text(data, "code"), *text = ctl_text(data, "text");
	snprintf(line, size, "%6" PRIu64 "  %s  %-16.32s  %s%s%s%s%s%s",
		 ctl_number(data, "sequence"), clock, type, of, part, code[0] ? "  " : "", code,
		 text[0] ? "  " : "", text);
	ctl_clean(line);
}

/* --- the command --- */

struct events {
	const struct ctl *ctl;
	struct ctl_sse sse;
	uint64_t left; /* 0: without end */
	bool is_enough;
};

static void print_event(void *context, const char *type, const char *text)
{
	struct events *events = context;
	char line[CTL_TEXT_MAX];

	if (events->is_enough)
		return;
	/* JSON has no control characters but those of its layout. */
	json_t *data = json_loads(text, 0, NULL);
	if (data && ctl_has(events->ctl, CTL_JSON)) {
		ctl_write_raw(text, strlen(text));
		putchar('\n');
	} else if (data) {
		ctl_event_line(type, data, line, sizeof(line));
		puts(line);
	}
	json_decref(data);
	if (events->left && --events->left == 0)
		events->is_enough = true;
}

static bool take_piece(void *context, const char *data, size_t size)
{
	struct events *events = context;

	ctl_sse_feed(&events->sse, data, size);
	return fflush(stdout) == 0 && !events->is_enough;
}

int ctl_events(struct ctl *ctl)
{
	struct events *events = calloc(1, sizeof(*events));
	struct ctl_call call = {
		.place = ctl->places, .raw = true, .sink = take_piece, .context = events};
	bool follow = ctl_has(ctl, CTL_FOLLOW);
	char query[64] = "";

	if (!events)
		return ctl_fail_memory();
	events->ctl = ctl;
	events->left = ctl_value(ctl, CTL_COUNT, 0);
	events->sse.event = print_event;
	events->sse.context = events;
	/* A stream that is followed begins now, unless it is told to begin earlier. */
	if (!follow || ctl_has(ctl, CTL_AFTER))
		snprintf(query, sizeof(query), "?after=%" PRIu64 "%s", ctl_value(ctl, CTL_AFTER, 0),
			 follow ? "" : "&follow=false");
	ctl_ask(&call, "GET", NULL, "/v1/events%s", query);
	if (!call.result && follow && !events->is_enough)
		call.result = ctl_fail(CTL_UNREACHED, "%s: the engine has ended the events",
				       ctl->places->name);
	ctl_call_free(&call);
	free(events);
	return call.result;
}
