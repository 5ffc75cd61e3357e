/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that look at an engine, its peers and its drain. */
#include "ctl.h"

#include <string.h>

#define DEADLINE_MS 30000u

static void show_nothing(const json_t *answer)
{
	(void)answer;
}

/* GET of a fixed path. */
static int look(struct ctl *ctl, const char *path, void (*show)(const json_t *answer))
{
	struct ctl_call call = {.place = ctl->places};

	ctl_ask(&call, "GET", NULL, "%s", path);
	return ctl_show(ctl, &call, show);
}

/* The list, or the one whose id is given. */
static int look_one(struct ctl *ctl, const char *what, void (*show)(const json_t *answer),
		    void (*show_one)(const json_t *answer))
{
	struct ctl_call call = {.place = ctl->places};
	uint64_t id;

	if (!ctl->word_count) {
		ctl_ask(&call, "GET", NULL, "/v1/%ss", what);
		return ctl_show(ctl, &call, show);
	}
	if (ctl_read_id(what, ctl->words[0], &id))
		return CTL_USAGE;
	ctl_ask(&call, "GET", NULL, "/v1/%ss/%" PRIu64, what, id);
	return ctl_show(ctl, &call, show_one);
}

int ctl_status(struct ctl *ctl)
{
	return look(ctl, "/v1/status", ctl_show_status);
}

int ctl_topology(struct ctl *ctl)
{
	return look(ctl, "/v1/topology", ctl_show_topology);
}

int ctl_regions(struct ctl *ctl)
{
	return look(ctl, "/v1/regions", ctl_show_regions);
}

int ctl_pools(struct ctl *ctl)
{
	return look_one(ctl, "pool", ctl_show_pools, ctl_show_pool);
}

int ctl_peers(struct ctl *ctl)
{
	return look_one(ctl, "peer", ctl_show_peers, ctl_show_peer);
}

/* {"drain_ms": "200"} of "drain_ms=200". */
static int read_changes(const struct ctl *ctl, json_t *body)
{
	for (uint32_t i = 0; i < ctl->word_count; i++) {
		const char *word = ctl->words[i], *equals = strchr(word, '=');
		if (!equals || equals == word)
			return ctl_fail(CTL_USAGE, "%s: must be NAME=VALUE", word);
		json_t *value = json_string(equals + 1);
		if (!value || json_object_setn_new(body, word, (size_t)(equals - word), value))
			return ctl_fail(CTL_USAGE, "%s: is not UTF-8", word);
	}
	return 0;
}

int ctl_options(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	json_t *body = ctl->word_count ? json_object() : NULL;

	if (body && read_changes(ctl, body)) {
		json_decref(body);
		return CTL_USAGE;
	}
	ctl_ask(&call, body ? "PATCH" : "GET", body, "/v1/options");
	if (!call.result && !ctl_has(ctl, CTL_JSON))
		ctl_show_options(call.answer, ctl->words, ctl->word_count);
	return ctl_show(ctl, &call, show_nothing);
}

static void show_checksums(const json_t *answer)
{
	static const char *const titles[] = {">layer", "checksum", NULL};
	struct ctl_table table;
	const json_t *sum;
	size_t i;

	ctl_table_begin(&table, titles);
	json_array_foreach(json_object_get(answer, "checksums"), i, sum)
	{
		const char *text = json_string_value(sum);
		ctl_table_add(&table, "%zu", i);
		ctl_table_add(&table, "%s", text ? text : "");
	}
	ctl_table_print(&table);
}

int ctl_checksum(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	json_t *blocks;
	uint64_t pool;

	if (ctl_read_id("pool", ctl->words[0], &pool) || ctl_read_blocks(ctl->words[1], &blocks))
		return CTL_USAGE;
	ctl_ask(&call, "POST", json_pack("{so}", "blocks", blocks),
		"/v1/pools/%" PRIu64 "/checksum", pool);
	return ctl_show(ctl, &call, show_checksums);
}

/* --- peers --- */

static bool is_connecting(const json_t *answer, const char *more)
{
	(void)more;
	return strcmp(ctl_text(answer, "state"), "connecting") == 0;
}

int ctl_peers_connect(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	char path[64];

	if (ctl_ask(&call, "POST", json_pack("{ss}", "address", ctl->words[0]), "/v1/peers"))
		return ctl_show(ctl, &call, ctl_show_peer);
	uint64_t wait_ms = ctl_value(ctl, CTL_WAIT_TIME, 0);
	snprintf(path, sizeof(path), "/v1/peers/%" PRIu64, ctl_number(call.answer, "id"));
	if (ctl_has(ctl, CTL_WAIT_TIME))
		ctl_ask_wait(&call, path, NULL, wait_ms, is_connecting);
	const char *state = ctl_text(call.answer, "state");
	int status = 0;
	if (ctl_has(ctl, CTL_WAIT_TIME) && !call.result && strcmp(state, "up") != 0)
		status = ctl_fail(CTL_FAILED, "the peer is %s after %" PRIu64 " ms: %s", state,
				  wait_ms, ctl_text(call.answer, "why"));
	int result = ctl_show(ctl, &call, ctl_show_peer);
	return result ? result : status;
}

int ctl_peers_forget(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	uint64_t id;

	if (ctl_read_id("peer", ctl->words[0], &id))
		return CTL_USAGE;
	ctl_ask(&call, "DELETE", NULL, "/v1/peers/%" PRIu64, id);
	ctl_call_free(&call);
	return call.result;
}

/* --- drain --- */

static bool is_draining(const json_t *answer, const char *more)
{
	(void)more;
	return strcmp(ctl_text(answer, "state"), "waiting") == 0;
}

int ctl_drain(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};
	uint64_t deadline_ms = ctl_value(ctl, CTL_DEADLINE, DEADLINE_MS);
	int status = 0;

	ctl_ask(&call, "POST", json_pack("{sI}", "deadline_ms", (json_int_t)deadline_ms),
		"/v1/drain");
	/* The engine tells when the deadline has passed, so the wait may last a little longer. */
	if (!call.result && ctl_has(ctl, CTL_WAIT))
		ctl_ask_wait(&call, "/v1/drain", NULL, deadline_ms + 5000, is_draining);
	if (!call.result && ctl_has(ctl, CTL_WAIT) &&
	    strcmp(ctl_text(call.answer, "state"), "done") != 0)
		status = ctl_fail(CTL_FAILED,
				  "the drain is %s: %" PRIu64 " grants and %" PRIu64
				  " streams go on",
				  ctl_text(call.answer, "state"), ctl_number(call.answer, "grants"),
				  ctl_number(call.answer, "streams"));
	int result = ctl_show(ctl, &call, ctl_show_drain);
	return result ? result : status;
}

int ctl_resume(struct ctl *ctl)
{
	struct ctl_call call = {.place = ctl->places};

	ctl_ask(&call, "DELETE", NULL, "/v1/drain");
	return ctl_show(ctl, &call, ctl_show_drain);
}

/* --- as it comes --- */

static bool write_piece(void *context, const char *data, size_t size)
{
	bool *is_line_ended = context;

	/* The line is ended where the answer is, not where a piece of it is. */
	*is_line_ended = data[size - 1] == '\n';
	ctl_write_raw(data, size);
	return fflush(stdout) == 0;
}

static int get(struct ctl *ctl, const char *path)
{
	bool is_line_ended = true;
	struct ctl_call call = {
		.place = ctl->places, .raw = true, .sink = write_piece, .context = &is_line_ended};

	ctl_ask(&call, "GET", NULL, "%s", path);
	if (!is_line_ended)
		putchar('\n');
	ctl_call_free(&call);
	return call.result;
}

int ctl_metrics(struct ctl *ctl)
{
	return get(ctl, "/metrics");
}

int ctl_get(struct ctl *ctl)
{
	const char *path = ctl->words[0];

	if (path[0] != '/')
		return ctl_fail(CTL_USAGE, "%s: must begin with /, as /v1/status", path);
	for (const char *one = path; *one; one++)
		if (*one <= ' ' || *one > '~' || *one == '#')
			return ctl_fail(CTL_USAGE, "%s: holds what no path may: write it as %%20",
					path);
	return get(ctl, path);
}

int ctl_credentials(struct ctl *ctl)
{
	char token[KVX_TOKEN_MAX + 1], pinned[KVX_TOKEN_MAX + 1];

	if (!ctl_has(ctl, CTL_SECRET))
		return ctl_fail(CTL_USAGE, "credentials: needs --secret FILE");
	if (kvx_control_credentials(ctl->values[CTL_SECRET].text, token, pinned))
		return ctl_fail(CTL_FAILED, "%s", kvx_error_text());
	printf("TOKEN=%s\nPINNED=%s\n", token, pinned);
	return 0;
}
