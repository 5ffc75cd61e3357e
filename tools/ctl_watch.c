/* SPDX-License-Identifier: Apache-2.0 */
/* kvxferctl watch: what engines do, frame by frame. */
#include "ctl_watch.h"
#include "ctl.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INTERVAL_MS 1000u
#define LIMIT_MS 2000u /* a stopped engine does not stop the view */
#define STEP_NS INT64_C(100000000)
#define ROWS_PLAIN 32u /* of each table, where there is no terminal whose height tells */

static const char *const paths[WATCH_CALLS] = {
	[WATCH_STATUS] = "/v1/status", [WATCH_PEERS] = "/v1/peers",
	[WATCH_GRANTS] = "/v1/grants", [WATCH_STREAMS] = "/v1/streams",
	[WATCH_EVENTS] = "/v1/events",
};

struct watch {
	struct ctl *ctl;
	struct watch_engine *engines;
	struct ctl_call *calls; /* WATCH_CALLS of each engine */
	uint32_t count;
	bool is_terminal;
};

/* --- asking --- */

/* Layers are shown by the bars; told as events they would leave no room for others. */
static void keep_event(void *context, const char *type, const char *text)
{
	struct watch_engine *engine = context;
	json_t *data = json_loads(text, 0, NULL);

	if (strcmp(type, "layer_whole") != 0)
		ctl_event_line(type, data,
			       engine->events[engine->event_count++ % WATCH_EVENTS_KEPT],
			       WATCH_LINE);
	if (ctl_number(data, "sequence"))
		engine->after = ctl_number(data, "sequence");
	json_decref(data);
}

static void prepare(const struct watch *watch)
{
	for (uint32_t i = 0; i < watch->count * WATCH_CALLS; i++) {
		const struct watch_engine *engine = &watch->engines[i / WATCH_CALLS];
		uint32_t which = i % WATCH_CALLS;
		struct ctl_call *call = &watch->calls[i];
		*call = (struct ctl_call){.place = engine->place,
					  .method = "GET",
					  .limit_ms = LIMIT_MS,
					  .raw = which == WATCH_EVENTS};
		if (which == WATCH_EVENTS)
			snprintf(call->path, sizeof(call->path),
				 "%s?after=%" PRIu64 "&follow=false", paths[which], engine->after);
		else
			strcpy(call->path, paths[which]);
	}
}

/* The answers become the engine's; those before stay, for the difference. */
static void take_answers(struct watch_engine *engine, struct ctl_call *calls)
{
	struct ctl_call *events = &calls[WATCH_EVENTS];

	json_decref(engine->peers_before);
	engine->peers_before = engine->answers[WATCH_PEERS];
	engine->answers[WATCH_PEERS] = NULL;
	engine->before_ns = engine->now_ns;
	engine->now_ns = ctl_now_ns();
	engine->why[0] = 0;
	for (uint32_t i = 0; i < WATCH_CALLS; i++) {
		json_decref(engine->answers[i]);
		engine->answers[i] = calls[i].result ? NULL : json_incref(calls[i].answer);
		if (calls[i].result && !engine->why[0])
			snprintf(engine->why, sizeof(engine->why), "%s", calls[i].why);
	}
	if (!events->result && events->text)
		ctl_sse_feed(&engine->sse, events->text, events->size);
	for (uint32_t i = 0; i < WATCH_CALLS; i++)
		ctl_call_free(&calls[i]);
}

static void ask(struct watch *watch)
{
	prepare(watch);
	ctl_call_all(watch->calls, watch->count * WATCH_CALLS);
	for (uint32_t i = 0; i < watch->count; i++)
		take_answers(&watch->engines[i], &watch->calls[(size_t)i * WATCH_CALLS]);
}

/* --- showing --- */

/* Text, line by line: to a terminal over what stood there before, no more than fits. */
static void put_frame(const struct watch *watch, const char *text, uint32_t columns, uint32_t rows)
{
	uint32_t row = 0;

	if (watch->is_terminal)
		fputs("\033[H", stdout);
	while (*text && (!watch->is_terminal || ++row < rows)) {
		size_t bytes = strcspn(text, "\n"), shown = bytes;
		if (watch->is_terminal) {
			size_t cut = ctl_cut(text, columns);
			shown = cut < bytes ? cut : bytes;
		}
		printf("%.*s%s\n", (int)shown, text, watch->is_terminal ? "\033[K" : "");
		text += bytes + (text[bytes] == '\n');
	}
	fputs(watch->is_terminal ? "\033[J" : "\n", stdout);
	fflush(stdout);
}

static uint32_t rows_of_a_table(const struct watch *watch, uint32_t rows)
{
	uint32_t fixed = 5 + WATCH_EVENTS_KEPT, each = rows / watch->count;

	if (!watch->is_terminal)
		return ROWS_PLAIN;
	return each > fixed + 9 ? (each - fixed) / 3 : 3;
}

static int show(const struct watch *watch)
{
	uint32_t columns, rows;
	char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);

	if (!file)
		return ctl_fail_memory();
	ctl_terminal(&columns, &rows);
	for (uint32_t i = 0; i < watch->count; i++)
		watch_show_engine(&watch->engines[i], rows_of_a_table(watch, rows), file);
	if (fclose(file) == 0)
		put_frame(watch, text, columns, rows);
	free(text);
	return 0;
}

/* In steps, because an interrupt may come just before one begins. */
static void sleep_until(int64_t end_ns)
{
	int64_t left_ns;

	while (!ctl_stopped() && (left_ns = end_ns - ctl_now_ns()) > 0) {
		struct timespec step = {.tv_nsec = left_ns < STEP_NS ? left_ns : STEP_NS};
		nanosleep(&step, NULL);
	}
}

static bool is_any_reached(const struct watch *watch)
{
	for (uint32_t i = 0; i < watch->count; i++)
		if (!watch->engines[i].why[0])
			return true;
	return false;
}

static int run(struct watch *watch)
{
	int64_t interval_ns = (int64_t)ctl_value(watch->ctl, CTL_INTERVAL, INTERVAL_MS) * 1000000,
		next_ns = ctl_now_ns();
	uint64_t left = ctl_value(watch->ctl, CTL_COUNT, UINT64_MAX);
	int status = 0;

	while (left-- && !ctl_stopped() && !status) {
		ask(watch);
		if (ctl_stopped())
			break;
		status = show(watch);
		next_ns += interval_ns;
		if (left)
			sleep_until(next_ns);
		if (next_ns < ctl_now_ns())
			next_ns = ctl_now_ns();
	}
	return status;
}

static int watch_all(struct watch *watch)
{
	for (uint32_t i = 0; i < watch->count; i++) {
		watch->engines[i].place = &watch->ctl->places[i];
		watch->engines[i].sse.event = keep_event;
		watch->engines[i].sse.context = &watch->engines[i];
	}
	ctl_stop_catch();
	/* A screen of its own, without cursor; what stood before is there again afterwards. */
	if (watch->is_terminal)
		fputs("\033[?1049h\033[?25l", stdout);
	int status = run(watch);
	if (watch->is_terminal)
		fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	if (!status && !ctl_stopped() && !is_any_reached(watch))
		status = ctl_fail(CTL_UNREACHED, "%s", watch->engines[0].why);
	return status;
}

int ctl_watch(struct ctl *ctl)
{
	struct watch watch = {.ctl = ctl, .count = ctl->place_count};
	uint32_t columns, rows;

	watch.engines = calloc(watch.count, sizeof(*watch.engines));
	watch.calls = calloc((size_t)watch.count * WATCH_CALLS, sizeof(*watch.calls));
	watch.is_terminal = ctl_terminal(&columns, &rows);
	int status = watch.engines && watch.calls ? watch_all(&watch) : ctl_fail_memory();
	for (uint32_t i = 0; watch.engines && i < watch.count; i++) {
		json_decref(watch.engines[i].peers_before);
		for (uint32_t k = 0; k < WATCH_CALLS; k++)
			json_decref(watch.engines[i].answers[k]);
	}
	free(watch.calls);
	free(watch.engines);
	return status;
}
