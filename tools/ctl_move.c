/* SPDX-License-Identifier: Apache-2.0 */
/* kvxferctl move: blocks of one engine's pool into another's, end to end, leaving nothing open. */
#include "ctl_move.h"

#include <stdlib.h>
#include <string.h>

#define LEASE_MS 30000u
#define SLICE_MS 500u   /* between looks at the other end while one is waited for */
#define CLOSE_MS 10000u /* for a fence */
#define SETTLE_MS 5000u /* until the other end knows of an end too */

/* --- requests --- */

int move_ask(struct move_end *end, struct ctl_call *call, const char *method, json_t *body,
	     const char *path)
{
	call->place = &end->place;
	call->method = method;
	call->body = body;
	snprintf(call->path, sizeof(call->path), "%s", path);
	ctl_call_all(call, 1);
	if (call->result == CTL_FAILED)
		ctl_fail(0, "%s: %s", end->place.name, call->why);
	else if (call->result)
		ctl_fail(0, "%s", call->why);
	return call->result;
}

/* How the end's grant or stream is after at most wait_ms. */
static int look(struct move_end *end, uint32_t wait_ms, bool stubborn)
{
	struct ctl_call call = {.wait_ms = wait_ms, .stubborn = stubborn};
	char path[CTL_PATH_MAX];

	snprintf(path, sizeof(path), "/v1/%ss/%" PRIu64 "?wait_ms=%u", end->what, end->id, wait_ms);
	int result = move_ask(end, &call, "GET", NULL, path);
	if (!result) {
		json_decref(end->last);
		end->last = json_incref(call.answer);
	}
	ctl_call_free(&call);
	return result;
}

/* Opens what a body says; an interrupt does not end it, or nobody would know what is open. */
static int open_end(struct move_end *end, const char *path, json_t *body)
{
	struct ctl_call call = {.stubborn = true};
	int result = move_ask(end, &call, "POST", body, path);

	if (!result) {
		end->id = ctl_number(call.answer, "id");
		end->last = json_incref(call.answer);
	}
	ctl_call_free(&call);
	return result;
}

/* Not even an interrupt keeps it from being closed. */
static void close_end(struct move_end *end)
{
	struct ctl_call call = {
		.place = &end->place, .method = "DELETE", .stubborn = true, .wait_ms = CLOSE_MS};

	if (!end->id)
		return;
	snprintf(call.path, sizeof(call.path), "/v1/%ss/%" PRIu64, end->what, end->id);
	ctl_call_all(&call, 1);
	/* What the engine does not know any more is closed. */
	if (call.result && call.status != 404)
		ctl_fail(0, "%s %" PRIu64 " may be open still: %s", end->what, end->id, call.why);
	ctl_call_free(&call);
}

/* --- opening --- */

static json_t *body_of(const struct move_end *end)
{
	return json_pack("{sI, sO}", "pool", (json_int_t)end->pool, "blocks", end->blocks);
}

static void set_sender(const struct move *move, json_t *body)
{
	json_object_set_new(body, "ready", json_true());
	if (ctl_has(move->ctl, CTL_CHUNK))
		json_object_set_new(body, "chunk_tokens",
				    json_integer((json_int_t)ctl_value(move->ctl, CTL_CHUNK, 0)));
}

static int open_push(struct move *move)
{
	json_t *body = body_of(&move->to);

	json_object_set_new(body, "lease_ms", json_integer(move->lease_ms));
	int result = open_end(&move->to, "/v1/grants", body);
	if (result)
		return result;
	body = body_of(&move->from);
	set_sender(move, body);
	json_object_set(body, "ticket", json_object_get(move->to.last, "ticket"));
	return open_end(&move->from, "/v1/streams", body);
}

static int open_pull(struct move *move)
{
	json_t *body = body_of(&move->from);

	set_sender(move, body);
	json_object_set_new(body, "lease_ms", json_integer(move->lease_ms));
	int result = open_end(&move->from, "/v1/offers", body);
	if (result)
		return result;
	body = body_of(&move->to);
	json_object_set_new(body, "lease_ms", json_integer(move->lease_ms));
	json_object_set_new(body, "pull",
			    json_pack("[O]", json_object_get(move->from.last, "ticket")));
	return open_end(&move->to, "/v1/grants", body);
}

/* --- waiting --- */

static bool is_state(const struct move_end *end, const char *state)
{
	return strcmp(ctl_text(end->last, "state"), state) == 0;
}

/* Says what has failed at this end. */
static void tell(const struct move_end *end)
{
	if (is_state(end, "failed"))
		ctl_fail(0, "%s: %s %" PRIu64 " has failed: %s (%s)", end->place.name, end->what,
			 end->id, ctl_text(end->last, "text"), ctl_state_code(end->last));
}

static int judge(struct move *move)
{
	/* One end knows before the other. */
	if (is_state(&move->from, "open"))
		look(&move->from, SETTLE_MS, false);
	if (is_state(&move->to, "open"))
		look(&move->to, SETTLE_MS, false);
	if (is_state(&move->from, "complete") && is_state(&move->to, "complete"))
		return 0;
	tell(&move->from);
	tell(&move->to);
	if (ctl_stopped())
		return ctl_fail(CTL_FAILED, "interrupted");
	return is_state(&move->from, "failed") || is_state(&move->to, "failed")
		       ? CTL_FAILED
		       : ctl_fail(CTL_FAILED, "the two ends do not agree that all has moved");
}

static int wait_ends(struct move *move)
{
	int64_t limit_ns = ctl_now_ns() + (move->lease_ms + INT64_C(10000)) * 1000000;
	int result = 0;

	while (!result && is_state(&move->from, "open") && is_state(&move->to, "open")) {
		if (ctl_stopped())
			return ctl_fail(CTL_FAILED, "interrupted");
		if (ctl_now_ns() > limit_ns)
			return ctl_fail(CTL_FAILED, "it has no end, though its lease has passed");
		result = look(&move->from, SLICE_MS, false);
		if (!result && is_state(&move->from, "open"))
			result = look(&move->to, 0, false);
	}
	move->end_ns = ctl_now_ns();
	return result ? result : judge(move);
}

/* --- telling --- */

static int report(const struct move *move)
{
	uint64_t bytes = ctl_number(move->to.last, "bytes");
	double ms = (double)(move->end_ns - move->begin_ns) / 1e6,
	       rate = (double)bytes / 1000 / (ms > 0 ? ms : 1);
	const char *transport = move->transport[0] ? move->transport : "?";

	if (!ctl_has(move->ctl, CTL_JSON)) {
		ctl_pair(stdout, "moved", "%s (%" PRIu64 " bytes) in %.1f ms: %.1f MB/s",
			 ctl_bytes(bytes).text, bytes, ms, rate);
		ctl_pair(stdout, "transport", "%s", transport);
		if (ctl_has(move->ctl, CTL_VERIFY))
			ctl_pair(stdout, "verified", "%zu layers, equal at both ends",
				 move->layers_verified);
		return 0;
	}
	json_t *root = json_pack("{sI, sf, sf, ss, sb, sO, sO}", "bytes", (json_int_t)bytes, "ms",
				 ms, "mb_per_s", rate, "transport", transport, "verified",
				 ctl_has(move->ctl, CTL_VERIFY), "grant", move->to.last, "stream",
				 move->from.last);
	int error = !root || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	json_decref(root);
	printf("\n");
	return error ? ctl_fail_memory() : 0;
}

/* --- the command --- */

static int prepare_end(struct ctl *ctl, struct move_end *end, enum ctl_option where,
		       enum ctl_option blocks)
{
	const char *names[] = {ctl_option_infos[where].name, ctl_option_infos[blocks].name};

	if (!ctl_has(ctl, where) || !ctl_has(ctl, blocks))
		return ctl_fail(CTL_USAGE, "move: needs --%s", names[ctl_has(ctl, where)]);
	int status = ctl_place_find(ctl->values[where].text,
				    strncmp(ctl->values[where].text, "http://", 7) == 0
					    ? NULL
					    : ctl->values[CTL_SECRET].text,
				    &end->place);
	return status ? status : ctl_read_blocks(ctl->values[blocks].text, &end->blocks);
}

static int carry(struct move *move)
{
	int status;

	move->begin_ns = ctl_now_ns();
	status = ctl_has(move->ctl, CTL_PULL_MOVE) ? open_pull(move) : open_push(move);
	if (!status)
		status = wait_ends(move);
	/* Until the grant is closed nobody else writes into its blocks. */
	if (!status && ctl_has(move->ctl, CTL_VERIFY))
		status = move_verify(move);
	if (!status)
		move_find_transport(move);
	close_end(&move->from);
	close_end(&move->to);
	return status ? status : report(move);
}

int ctl_move(struct ctl *ctl)
{
	struct move move = {.ctl = ctl,
			    .lease_ms = (int64_t)ctl_value(ctl, CTL_LEASE, LEASE_MS),
			    .from = {.what = "stream"},
			    .to = {.what = "grant"}};
	int status = prepare_end(ctl, &move.from, CTL_FROM, CTL_BLOCKS);

	ctl_stop_catch();
	if (!status)
		status = prepare_end(ctl, &move.to, CTL_TO, CTL_TO_BLOCKS);
	if (!status)
		status = move_find_pool(ctl, &move.from, CTL_FROM_POOL);
	if (!status)
		status = move_find_pool(ctl, &move.to, CTL_TO_POOL);
	if (!status && ctl_has(ctl, CTL_VERIFY))
		status = move_check_alike(&move);
	if (!status)
		status = carry(&move);
	for (int i = 0; i < 2; i++) {
		struct move_end *end = i ? &move.to : &move.from;
		json_decref(end->blocks);
		json_decref(end->geometry);
		json_decref(end->last);
	}
	return status;
}
