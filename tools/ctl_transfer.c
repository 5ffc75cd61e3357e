/* SPDX-License-Identifier: Apache-2.0 */
/* Commands on grants, streams and offers. */
#include "ctl.h"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 30000u
#define TIMEOUT_MS 60000u
#define CLOSE_MS 10000u /* that an engine may take to fence */

/* --- what is common --- */

static void show_ticket(const json_t *answer)
{
	char *text = strdup(ctl_text(answer, "ticket"));

	if (text)
		printf("%s\n", ctl_clean(text));
	free(text);
}

static int show_one(struct ctl *ctl, struct ctl_call *call, void (*show)(const json_t *answer))
{
	if (!call->result && ctl_has(ctl, CTL_TICKET) && !ctl_text(call->answer, "ticket")[0]) {
		ctl_call_free(call);
		return ctl_fail(CTL_FAILED,
				"it has no ticket: those alone have one that were opened "
				"over the control socket");
	}
	return ctl_show(ctl, call, ctl_has(ctl, CTL_TICKET) ? show_ticket : show);
}

static int set_number(json_t *body, const char *name, const struct ctl *ctl, enum ctl_option option)
{
	if (!ctl_has(ctl, option))
		return 0;
	return json_object_set_new(body, name,
				   json_integer((json_int_t)ctl->values[option].number));
}

static int set_tail(json_t *body, const struct ctl *ctl)
{
	json_t *tail;

	if (!ctl_has(ctl, CTL_TAIL))
		return 0;
	return ctl_read_tail(ctl->values[CTL_TAIL].text, &tail) ||
	       json_object_set_new(body, "tail", tail);
}

/* The pool and the blocks, as the first two arguments. NULL: told. */
static json_t *begin_body(const struct ctl *ctl)
{
	json_t *blocks, *body;
	uint64_t pool;

	if (ctl_read_id("pool", ctl->words[0], &pool) || ctl_read_blocks(ctl->words[1], &blocks))
		return NULL;
	body = json_pack("{sI, so}", "pool", (json_int_t)pool, "blocks", blocks);
	if (!body)
		ctl_fail_memory();
	return body;
}

static int give_up(json_t *body)
{
	json_decref(body);
	return CTL_USAGE;
}

static int set_ticket(json_t *body, const char *text)
{
	char *ticket;

	if (ctl_read_ticket(text, &ticket))
		return CTL_USAGE;
	int status = json_object_set_new(body, "ticket", json_string(ticket));
	free(ticket);
	return status;
}

/* Whether what is waited for has neither come nor failed. layer: NULL for all. */
static bool goes_on(const json_t *answer, const char *layer)
{
	const json_t *progress = json_object_get(answer, "progress");
	uint64_t index = ctl_number(answer, "layers");

	if (strcmp(ctl_text(answer, "state"), "open") != 0)
		return false;
	if (layer && strcmp(layer, "tail") != 0)
		ctl_read_number(layer, 0, KVX_LAYERS_MAX, &index);
	return !layer || !ctl_flag(json_array_get(progress, index), "done");
}

static bool has_come(const json_t *answer, const char *layer)
{
	const json_t *progress = json_object_get(answer, "progress");
	uint64_t index = ctl_number(answer, "layers");

	if (!layer)
		return strcmp(ctl_text(answer, "state"), "complete") == 0;
	if (strcmp(layer, "tail") != 0)
		ctl_read_number(layer, 0, KVX_LAYERS_MAX, &index);
	return ctl_flag(json_array_get(progress, index), "done");
}

static int wait_for(struct ctl *ctl, const char *what, void (*show)(const json_t *answer))
{
	struct ctl_call call = {.place = ctl->places};
	const char *layer = ctl->values[CTL_LAYER].text;
	uint64_t id, timeout_ms = ctl_value(ctl, CTL_TIMEOUT, TIMEOUT_MS);
	char path[64];
	int status = 0;

	if (ctl_read_id(what, ctl->words[0], &id))
		return CTL_USAGE;
	snprintf(path, sizeof(path), "/v1/%ss/%" PRIu64, what, id);
	ctl_ask_wait(&call, path, layer, timeout_ms, goes_on);
	if (!call.result && !has_come(call.answer, layer))
		status = goes_on(call.answer, layer)
				 ? ctl_fail(CTL_FAILED,
					    "%s %" PRIu64 " goes on still after %" PRIu64 " ms",
					    what, id, timeout_ms)
				 : ctl_fail(CTL_FAILED, "%s %" PRIu64 " has failed: %s (%s)", what,
					    id, ctl_text(call.answer, "text"),
					    ctl_state_code(call.answer));
	int result = ctl_show(ctl, &call, show);
	return result ? result : status;
}

static int close_one(struct ctl *ctl, const char *what, void (*show)(const json_t *answer))
{
	struct ctl_call call = {.place = ctl->places, .wait_ms = CLOSE_MS};
	uint64_t id, drain_ms = ctl_value(ctl, CTL_DRAIN, 0);
	char query[40] = "";

	if (ctl_read_id(what, ctl->words[0], &id))
		return CTL_USAGE;
	if (ctl_has(ctl, CTL_DRAIN)) {
		call.wait_ms += (uint32_t)drain_ms;
		snprintf(query, sizeof(query), "?drain_ms=%" PRIu64, drain_ms);
	}
	ctl_ask(&call, "DELETE", NULL, "/v1/%ss/%" PRIu64 "%s", what, id, query);
	return ctl_show(ctl, &call, show);
}

static int look(struct ctl *ctl, const char *what, void (*show)(const json_t *answer),
		void (*show_this)(const json_t *answer))
{
	struct ctl_call call = {.place = ctl->places};
	uint64_t id;

	if (!ctl->word_count && ctl_has(ctl, CTL_TICKET))
		return ctl_fail(CTL_USAGE, "--ticket: of which %s? Give its id", what);
	if (!ctl->word_count) {
		ctl_ask(&call, "GET", NULL, "/v1/%ss", what);
		return ctl_show(ctl, &call, show);
	}
	if (ctl_read_id(what, ctl->words[0], &id))
		return CTL_USAGE;
	ctl_ask(&call, "GET", NULL, "/v1/%ss/%" PRIu64, what, id);
	return show_one(ctl, &call, show_this);
}

/* --- grants --- */

int ctl_grants(struct ctl *ctl)
{
	return look(ctl, "grant", ctl_show_grants, ctl_show_grant);
}

static int set_pulls(json_t *body, const struct ctl *ctl)
{
	json_t *list = ctl->pull_count ? json_array() : NULL;

	for (uint32_t i = 0; i < ctl->pull_count; i++) {
		char *ticket;
		if (ctl_read_ticket(ctl->pulls[i], &ticket)) {
			json_decref(list);
			return CTL_USAGE;
		}
		json_array_append_new(list, json_string(ticket));
		free(ticket);
	}
	return list ? json_object_set_new(body, "pull", list) : 0;
}

int ctl_grants_open(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	json_t *body = begin_body(ctl);

	if (!body)
		return CTL_USAGE;
	json_object_set_new(body, "lease_ms",
			    json_integer((json_int_t)ctl_value(ctl, CTL_LEASE, LEASE_MS)));
	if (set_number(body, "tokens", ctl, CTL_TOKENS) ||
	    set_number(body, "held_blocks", ctl, CTL_HELD) ||
	    set_number(body, "senders", ctl, CTL_SENDERS) || set_tail(body, ctl) ||
	    set_pulls(body, ctl))
		return give_up(body);
	ctl_ask(&call, "POST", body, "/v1/grants");
	return show_one(ctl, &call, ctl_show_grant);
}

int ctl_grants_wait(struct ctl *ctl)
{
	return wait_for(ctl, "grant", ctl_show_grant);
}

int ctl_grants_pull(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	json_t *body = json_object();
	uint64_t id;

	if (ctl_read_id("grant", ctl->words[0], &id) || set_ticket(body, ctl->words[1]))
		return give_up(body);
	ctl_ask(&call, "POST", body, "/v1/grants/%" PRIu64 "/pull", id);
	return ctl_show(ctl, &call, ctl_show_grant);
}

int ctl_grants_revoke(struct ctl *ctl)
{
	return close_one(ctl, "grant", ctl_show_grant);
}

/* --- streams and offers --- */

int ctl_streams(struct ctl *ctl)
{
	return look(ctl, "stream", ctl_show_streams, ctl_show_stream);
}

static int set_stream(json_t *body, const struct ctl *ctl)
{
	if (ctl_has(ctl, CTL_READY))
		json_object_set_new(body, "ready", json_true());
	return set_number(body, "chunk_tokens", ctl, CTL_CHUNK) || set_tail(body, ctl);
}

int ctl_streams_open(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	json_t *body = begin_body(ctl);

	if (!body)
		return CTL_USAGE;
	if (set_stream(body, ctl) || set_ticket(body, ctl->words[2]))
		return give_up(body);
	ctl_ask(&call, "POST", body, "/v1/streams");
	return ctl_show(ctl, &call, ctl_show_stream);
}

int ctl_streams_ready(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	json_t *body;
	uint64_t id;

	if (ctl_read_id("stream", ctl->words[0], &id) || ctl_read_layers(ctl->words[1], &body))
		return CTL_USAGE;
	if (set_number(body, "tokens", ctl, CTL_TOKENS))
		return give_up(body);
	ctl_ask(&call, "POST", body, "/v1/streams/%" PRIu64 "/ready", id);
	return ctl_show(ctl, &call, ctl_show_stream);
}

int ctl_streams_wait(struct ctl *ctl)
{
	return wait_for(ctl, "stream", ctl_show_stream);
}

int ctl_streams_cancel(struct ctl *ctl)
{
	return close_one(ctl, "stream", ctl_show_stream);
}

int ctl_offers_open(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	json_t *body = begin_body(ctl);

	if (!body)
		return CTL_USAGE;
	json_object_set_new(body, "lease_ms",
			    json_integer((json_int_t)ctl_value(ctl, CTL_LEASE, LEASE_MS)));
	if (set_stream(body, ctl))
		return give_up(body);
	ctl_ask(&call, "POST", body, "/v1/offers");
	return show_one(ctl, &call, ctl_show_stream);
}
