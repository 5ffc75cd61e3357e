/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rail's queue pair is made in turns. The connecting side creates its end and asks; the accepting
 * side creates and connects its own, binds the windows of the permits that are lent, and answers;
 * the connecting side connects its end, writes no bytes to see whether they arrive, and says that
 * it is ready. A rail that fails begins anew, longer after each failure in a row.
 */
#include "wire.h"

#include "base/clock.h"
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACKOFF_FIRST_NS (50 * KVX_NS_PER_MS)
#define BACKOFF_LAST_NS KVX_NS_PER_S
#define UNPROVEN_MAX 3u /* times in a row that a rail fails without a byte carried */

static uint32_t index_of(const struct kvx_verbs_rail *rail)
{
	return (uint32_t)(rail - rail->link->rails);
}

static void set_due(struct kvx_verbs_rail *rail, int64_t due_ns)
{
	rail->due_ns = due_ns;
	kvx_verbs_timer_set(rail->link->base.transport, due_ns);
}

static void say_broken(const struct kvx_verbs_rail *rail, uint32_t qpn, const char *text)
{
	struct kvx_verbs_message broken = {
		.type = KVX_VERBS_BROKEN, .rail = index_of(rail), .qpn = qpn};

	snprintf(broken.text, sizeof(broken.text), "%.255s", text);
	kvx_verbs_say(rail->link, &broken);
}

static void say_refused(const struct kvx_verbs_rail *rail, uint32_t asked, const char *text)
{
	struct kvx_verbs_message answer = {
		.type = KVX_VERBS_ANSWER, .rail = index_of(rail), .qpn = asked, .refused = true};

	snprintf(answer.text, sizeof(answer.text), "%.255s", text);
	kvx_verbs_say(rail->link, &answer);
}

/* Soon, if it is not the way to the peer that failed; else later and later. */
static void retry_later(struct kvx_verbs_rail *rail)
{
	int64_t now_ns = kvx_now_ns();

	if (rail->path_works) {
		bool at_once = now_ns - rail->up_ns > BACKOFF_FIRST_NS;
		set_due(rail, now_ns + (at_once ? 0 : BACKOFF_FIRST_NS / 2));
		rail->path_works = false;
		rail->backoff_ns = 0;
		return;
	}
	set_due(rail, now_ns + rail->backoff_ns);
	rail->backoff_ns = rail->backoff_ns ? 2 * rail->backoff_ns : BACKOFF_FIRST_NS;
	if (rail->backoff_ns > BACKOFF_LAST_NS)
		rail->backoff_ns = BACKOFF_LAST_NS;
}

void kvx_verbs_rail_fail(struct kvx_verbs_rail *rail, bool tell_peer, const char *format, ...)
{
	struct kvx_verbs_link *link = rail->link;
	struct kvx_verbs_pair *pair = rail->pair;
	bool was_up = rail->state == KVX_VERBS_RAIL_UP;
	char text[KVX_ERROR_TEXT_MAX + 1], port[KVX_VERBS_NAME_MAX + 16];
	va_list arguments;

	if (rail->state == KVX_VERBS_RAIL_DOWN)
		return;
	kvx_verbs_port_name(rail->port, port, sizeof(port));
	int length = snprintf(text, sizeof(text), "%s: ", port);
	va_start(arguments, format);
	vsnprintf(text + length, sizeof(text) - (size_t)length, format, arguments);
	va_end(arguments);
	free(rail->why);
	rail->why = strdup(text);
	rail->state = KVX_VERBS_RAIL_DOWN;
	if (tell_peer && pair && !link->connector && !rail->answered)
		say_refused(rail, pair->remote.qpn, text);
	else if (tell_peer && pair)
		say_broken(rail, pair->remote.qpn, text);
	if (pair)
		kvx_verbs_pair_end(pair);
	if (was_up) {
		rail->lost = true;
		link->rails_up--;
		kvx_verbs_link_trouble(link);
	}
	if (!link->connector)
		return;
	retry_later(rail);
	rail->tried = true;
	rail->proven = false;
	kvx_verbs_link_tried(link);
}

/* Rails that can be made but carry nothing (packets beyond some size are lost on the way, say)
 * would be made anew for ever. */
static void give_up_unproven(struct kvx_verbs_link *link)
{
	for (uint32_t i = 0; i < link->base.rails; i++)
		if (link->rails[i].state == KVX_VERBS_RAIL_UP ||
		    link->rails[i].unproven < UNPROVEN_MAX)
			return;
	kvx_verbs_link_fail(link, KVX_E_TRANSPORT, "no rail carries bytes: %s",
			    link->rails[0].why ? link->rails[0].why : "");
}

void kvx_verbs_rail_unacknowledged(struct kvx_verbs_rail *rail, const char *text)
{
	rail->unproven = rail->proven ? 1 : rail->unproven + 1;
	kvx_verbs_rail_fail(rail, true, "%s", text);
	if (rail->link->state == KVX_VERBS_LINK_UP && rail->link->connector)
		give_up_unproven(rail->link);
}

static void go_up(struct kvx_verbs_rail *rail)
{
	rail->state = KVX_VERBS_RAIL_UP;
	rail->up_ns = kvx_now_ns();
	rail->link->rails_up++;
	if (rail->link->state == KVX_VERBS_LINK_UP)
		rail->link->deadline_ns = KVX_NEVER_NS; /* by which a rail had to be up */
	kvx_verbs_link_trouble(rail->link);
}

/* ----------------------------------------------------------------------------- connecting side */

void kvx_verbs_rail_make(struct kvx_verbs_rail *rail)
{
	const struct kvx_transport_context *context = rail->link->base.transport->context;

	rail->state = KVX_VERBS_RAIL_MAKING;
	set_due(rail, kvx_now_ns() + (int64_t)kvx_option(context->options, connect_timeout_ms) *
					     KVX_NS_PER_MS);
	if (rail->port->device->dead || !rail->port->up)
		kvx_verbs_rail_fail(rail, false, "the port is down");
	else if (!kvx_verbs_pair_new(rail))
		kvx_verbs_rail_fail(rail, false, "out of memory for a queue pair");
}

static void ask(struct kvx_verbs_rail *rail)
{
	const struct kvx_transport *transport = rail->link->base.transport;
	struct kvx_verbs_message message = {
		.type = KVX_VERBS_ASK,
		.rail = index_of(rail),
		.rails = rail->link->base.rails,
		.local_port = (uint32_t)(rail->port - transport->ports),
		.remote_port = rail->remote_port,
		.end = rail->pair->local,
	};

	kvx_verbs_say(rail->link, &message);
}

void kvx_verbs_rail_answered(struct kvx_verbs_rail *rail, const struct kvx_verbs_message *answer)
{
	struct kvx_verbs_pair *pair = rail->pair;

	if (!pair || pair->state != KVX_VERBS_PAIR_MADE || pair->local.qpn != answer->qpn)
		return; /* to a question that was given up */
	if (answer->refused)
		kvx_verbs_rail_fail(rail, false, "the peer: %s", answer->text);
	else
		kvx_verbs_pair_connect(pair, &answer->end);
}

static void ready(struct kvx_verbs_rail *rail)
{
	struct kvx_verbs_message message = {.type = KVX_VERBS_READY, .rail = index_of(rail)};

	kvx_verbs_say(rail->link, &message);
	rail->tried = true;
	set_due(rail, KVX_NEVER_NS);
	go_up(rail);
	kvx_verbs_link_tried(rail->link);
}

int kvx_verbs_rail_expire(struct kvx_verbs_rail *rail, int64_t now_ns)
{
	if (!rail->link->connector || rail->state == KVX_VERBS_RAIL_UP)
		return 0;
	if (now_ns < rail->due_ns) {
		kvx_verbs_timer_set(rail->link->base.transport, rail->due_ns);
		return 0;
	}
	if (rail->state == KVX_VERBS_RAIL_MAKING)
		kvx_verbs_rail_fail(rail, true, "no answer from the peer in time");
	else
		kvx_verbs_rail_make(rail);
	return 1;
}

/* ------------------------------------------------------------------------------ accepting side */

void kvx_verbs_rail_asked(struct kvx_verbs_rail *rail, const struct kvx_verbs_message *ask)
{
	/* Its old queue pair is of no use any more: the other end is gone. */
	kvx_verbs_rail_fail(rail, false, "the peer makes it anew");
	rail->port = &rail->link->base.transport->ports[ask->remote_port];
	rail->remote_port = ask->local_port;
	rail->answered = false;
	if (rail->port->device->dead || !rail->port->up) {
		say_refused(rail, ask->end.qpn, "its port is down");
		return;
	}
	if (!kvx_verbs_pair_new(rail)) {
		say_refused(rail, ask->end.qpn, "out of memory for a queue pair");
		return;
	}
	rail->state = KVX_VERBS_RAIL_MAKING;
	rail->pair->remote = ask->end;
}

void kvx_verbs_pair_permitted(struct kvx_verbs_pair *pair)
{
	struct kvx_verbs_rail *rail = pair->rail;
	struct kvx_verbs_message answer = {
		.type = KVX_VERBS_ANSWER,
		.rail = index_of(rail),
		.qpn = pair->remote.qpn,
		.end = pair->local,
	};

	kvx_verbs_say(rail->link, &answer);
	rail->answered = true;
}

void kvx_verbs_rail_ready(struct kvx_verbs_rail *rail)
{
	if (rail->state == KVX_VERBS_RAIL_MAKING && rail->pair->state == KVX_VERBS_PAIR_UP)
		go_up(rail);
}

/* ----------------------------------------------------------------------------------- both sides */

static void fail_job(struct kvx_verbs_pair *pair)
{
	kvx_verbs_rail_fail(pair->rail, true, "cannot %s: %s", pair->tried, strerror(pair->error));
}

void kvx_verbs_pair_made(struct kvx_verbs_pair *pair)
{
	if (pair->error)
		fail_job(pair);
	else if (pair->sends)
		ask(pair->rail);
	else
		kvx_verbs_pair_connect(pair, &pair->remote);
}

void kvx_verbs_pair_connected(struct kvx_verbs_pair *pair)
{
	if (pair->error)
		fail_job(pair);
	else if (pair->sends)
		kvx_verbs_probe(pair);
	else
		kvx_verbs_permits_extend(pair);
}

void kvx_verbs_pair_probed(struct kvx_verbs_pair *pair)
{
	if (pair->rail && pair->rail->state == KVX_VERBS_RAIL_MAKING)
		ready(pair->rail);
}
