/* SPDX-License-Identifier: Apache-2.0 */
/* What transports report: links, rails and messages. Bytes are arrive.c's. */
#include "base/clock.h"
#include "base/error.h"
#include "core/grant.h"
#include "core/journal.h"
#include "core/offer.h"
#include "core/peer.h"
#include "core/stream.h"
#include "trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The range of option heartbeat_ms: what another engine can announce. */
#define HEARTBEAT_MIN_MS 10u
#define HEARTBEAT_MAX_MS 60000u

static void say_hello(struct kvx_peer *peer)
{
	struct kvx_engine *engine = peer->engine;
	struct kvx_message hello = {
		.type = KVX_MESSAGE_HELLO,
		.version = KVX_PROTOCOL_VERSION,
		.incarnation = engine->incarnation,
		.heartbeat_ms = (uint32_t)engine->options.heartbeat_ms,
	};

	strcpy(hello.text, engine->name);
	kvx_peer_say(peer, &hello);
}

/* Figures of an earlier link of this peer are part of their ports' already. */
static bool allocate_figures(struct kvx_peer *peer)
{
	struct kvx_engine *engine = peer->engine;
	struct kvx_link *link = peer->link;
	struct kvx_rail_figures *old = peer->figures;
	struct kvx_rail_figures *figures = calloc(link->rails, sizeof(*figures));
	char name[64];

	for (uint32_t i = 0; figures && i < link->rails; i++) {
		link->ops->port(link, i, name, sizeof(name));
		figures[i].port = kvx_figures_port(&engine->figures, link->ops->name, name);
		figures[i].up = true;
	}
	pthread_mutex_lock(&peer->mutex);
	peer->figures = figures;
	peer->figure_count = figures ? link->rails : 0;
	peer->info.rails = link->rails;
	pthread_mutex_unlock(&peer->mutex);
	free(old);
	return figures != NULL;
}

static bool allocate_rails(struct kvx_peer *peer)
{
	uint32_t rails = peer->link->rails;

	if (!allocate_figures(peer))
		return false;
	if (!peer->outgoing) {
		peer->arrivals = calloc(rails, sizeof(*peer->arrivals));
		return peer->arrivals != NULL;
	}
	peer->rails = calloc(rails, sizeof(*peer->rails));
	peer->rail_count = rails;
	for (uint32_t i = 0; peer->rails && i < rails; i++)
		peer->rails[i].up = true;
	return peer->rails != NULL;
}

static void link_up(void *engine, struct kvx_link *link)
{
	struct kvx_peer *peer = link->owner;

	(void)engine;
	if (peer->condemned)
		return;
	if (!allocate_rails(peer)) {
		kvx_peer_condemn(peer, KVX_E_MEMORY, "out of memory");
		return;
	}
	kvx_peer_arm_handshake(peer);
	say_hello(peer);
}

static void link_accepted(void *context, struct kvx_link *link)
{
	struct kvx_engine *engine = context;
	struct kvx_peer *peer = kvx_peer_new(engine, false);

	link->owner = peer;
	if (!peer) { /* nothing to condemn */
		link->refused = engine->refused;
		engine->refused = link;
		return;
	}
	peer->link = link;
	kvx_peer_enlist(peer);
	engine->incoming_count++;
	if (engine->incoming_count > KVX_PEERS_MAX) {
		kvx_peer_condemn(peer, KVX_E_LIMIT, "no room for another peer");
		return;
	}
	if (!allocate_rails(peer)) {
		kvx_peer_condemn(peer, KVX_E_MEMORY, "out of memory");
		return;
	}
	kvx_peer_arm_handshake(peer);
	say_hello(peer);
}

static void link_down(void *engine, struct kvx_link *link, int code, const char *text)
{
	struct kvx_peer *peer = link->owner;

	(void)engine;
	if (peer)
		kvx_peer_condemn(peer, code, text);
}

/* The figures first: who sees the event finds them as it tells. */
static void note_rail(struct kvx_peer *peer, uint32_t index, bool up, const char *text)
{
	struct kvx_engine *engine = peer->engine;

	if (up) {
		kvx_figure_add(engine->figures.rails_back, 1);
		KVX_TRACE(rail_up, peer->id, index);
	} else {
		kvx_count(engine, rails_lost, 1);
		KVX_TRACE(rail_down, peer->id, index);
	}
	if (peer->figures) {
		struct kvx_rail_figures *rail = &peer->figures[index];
		__atomic_store_n(&rail->up, up, __ATOMIC_RELAXED);
		kvx_figure_add(rail->failures, !up);
		kvx_figure_add(rail->port->failures, !up);
	}
	kvx_journal_peer(peer, up ? KVX_EVENT_RAIL_UP : KVX_EVENT_RAIL_DOWN, index, 0, text);
}

static void rail_changed(void *context, struct kvx_link *link, uint32_t index, bool up,
			 const char *text)
{
	struct kvx_engine *engine = context;
	struct kvx_peer *peer = link->owner;
	struct kvx_list *entry, *next;

	if (!peer)
		return;
	kvx_log_write(&engine->options.log, KVX_LOG_WARNING, "peer %s: rail %u over %s: %s: %s",
		      peer->info.name, index, link->ops->name, up ? "up" : "down", text);
	pthread_mutex_lock(&peer->mutex);
	peer->info.rails += up ? 1 : UINT32_MAX;
	pthread_mutex_unlock(&peer->mutex);
	note_rail(peer, index, up, text);
	if (!peer->rails || peer->condemned)
		return;
	peer->rails[index].up = up;
	if (up)
		return;
	peer->rails[index].stream = NULL;
	kvx_lift_clear(&peer->rails[index]);
	kvx_list_for_each (entry, next, &peer->streams)
		kvx_stream_rail_lost(kvx_container_of(entry, struct kvx_stream, peer_entry), index);
}

/* --- messages --- */

static void go_up(struct kvx_peer *peer)
{
	struct kvx_list *entry, *next;

	kvx_timer_stop(&peer->engine->timers, &peer->handshake);
	kvx_peer_tell_why(peer);
	kvx_peer_set_state(peer, KVX_PEER_UP);
	kvx_log_write(&peer->engine->options.log, KVX_LOG_INFO, "peer %s (%016" PRIx64 "): up: %s",
		      peer->info.name, peer->info.incarnation, peer->info.why);
	kvx_journal_peer(peer, kvx_peer_was_lost(peer) ? KVX_EVENT_PEER_BACK : KVX_EVENT_PEER_UP, 0,
			 0, peer->info.name);
	KVX_TRACE(peer_up, peer->id);
	kvx_list_for_each (entry, next, &peer->streams)
		kvx_stream_present(kvx_container_of(entry, struct kvx_stream, peer_entry));
	kvx_pulls_present(peer);
}

static void on_hello(struct kvx_peer *peer, const struct kvx_message *hello)
{
	char text[160];

	if (hello->version != KVX_PROTOCOL_VERSION) {
		snprintf(text, sizeof(text),
			 "it speaks protocol version %u, this engine version %u; use "
			 "the same kvxfer at both ends",
			 hello->version, KVX_PROTOCOL_VERSION);
		kvx_peer_condemn(peer, KVX_E_VERSION, text);
		return;
	}
	if (peer->greeted || !hello->incarnation || hello->heartbeat_ms < HEARTBEAT_MIN_MS ||
	    hello->heartbeat_ms > HEARTBEAT_MAX_MS) {
		kvx_peer_condemn(peer, KVX_E_PROTOCOL, "a greeting out of place or range");
		return;
	}
	peer->greeted = true;
	peer->silence_ns = 2 * (int64_t)hello->heartbeat_ms * KVX_NS_PER_MS;
	if (peer->engine->beat_ns > peer->silence_ns / 16)
		peer->engine->beat_ns = peer->silence_ns / 16;
	pthread_mutex_lock(&peer->mutex);
	strcpy(peer->info.name, hello->text);
	peer->info.incarnation = hello->incarnation;
	pthread_mutex_unlock(&peer->mutex);
	if (peer->expected && peer->expected != hello->incarnation) {
		kvx_peer_end_restarted(peer, hello->incarnation);
		peer->condemned = true;
		return;
	}
	go_up(peer);
}

static void on_open(struct kvx_peer *peer, const struct kvx_message *open)
{
	struct kvx_grant *grant = kvx_grant_find(peer->engine, open->slot, open->generation);
	int error = grant ? kvx_feed_accept(grant, peer, open)
			  : kvx_fail(KVX_E_REFUSED,
				     "grant: slot %u generation %u is not open in %s (%016" PRIx64
				     "); it was closed",
				     open->slot, open->generation, peer->engine->name,
				     peer->engine->incarnation);

	if (!error) {
		kvx_pull_answered(grant, peer);
		return;
	}
	struct kvx_message refuse = {
		.type = KVX_MESSAGE_REFUSE, .stream = open->stream, .code = error};
	snprintf(refuse.text, sizeof(refuse.text), "%s", kvx_error_text());
	kvx_peer_say(peer, &refuse);
}

static void on_drained(struct kvx_peer *peer, const struct kvx_message *drained)
{
	struct kvx_grant *grant = kvx_grant_find(peer->engine, drained->slot, drained->generation);

	struct kvx_feed *feed = grant ? kvx_feed_find(grant, peer) : NULL;
	if (feed && feed->lender == peer)
		kvx_feed_drained(feed);
}

static void on_cancel(struct kvx_peer *peer, const struct kvx_message *cancel)
{
	struct kvx_grant *grant = kvx_grant_find(peer->engine, cancel->slot, cancel->generation);
	char text[KVX_ERROR_TEXT_MAX + 1];

	struct kvx_feed *feed = grant ? kvx_feed_find(grant, peer) : NULL;
	if (!feed || feed->peer != peer)
		return; /* it has ended in the meantime */
	if (grant->shared_out && !feed->layers_left)
		return; /* it had done its part, and did not know yet */
	snprintf(text, sizeof(text), "peer %s: %.400s", peer->info.name, cancel->text);
	kvx_grant_cancel(grant, text);
}

static void on_stream_message(struct kvx_peer *peer, const struct kvx_message *message)
{
	struct kvx_stream *stream = kvx_stream_find(peer->engine, peer, message->stream);
	char text[KVX_ERROR_TEXT_MAX + 1];

	if (!stream)
		return; /* it has ended in the meantime */
	switch (message->type) {
	case KVX_MESSAGE_ACCEPT:
		kvx_stream_accept(stream, message);
		break;
	case KVX_MESSAGE_LAYOUT:
		kvx_stream_layout(stream, message->layout, message->count);
		break;
	case KVX_MESSAGE_WHOLE:
		kvx_stream_delivered(stream, message->first, message->count);
		break;
	default:
		snprintf(text, sizeof(text), "peer %s: %.400s", peer->info.name, message->text);
		kvx_stream_end(stream, message->code, text, false);
	}
}

/* From who connected. */
static void on_request(struct kvx_peer *peer, const struct kvx_message *message)
{
	switch (message->type) {
	case KVX_MESSAGE_OPEN:
		on_open(peer, message);
		break;
	case KVX_MESSAGE_DRAINED:
		on_drained(peer, message);
		break;
	case KVX_MESSAGE_PULL:
		kvx_offer_pulled(peer, message);
		break;
	case KVX_MESSAGE_RELEASE:
		kvx_offer_released(peer, message);
		break;
	default:
		on_cancel(peer, message);
	}
}

static void message_arrived(void *context, struct kvx_link *link, const void *bytes,
			    uint32_t length)
{
	struct kvx_peer *peer = link->owner;
	struct kvx_message message;

	(void)context;
	if (!peer || peer->condemned)
		return;
	kvx_peer_heard(peer);
	if (kvx_message_decode(&message, bytes, length)) {
		kvx_peer_condemn(peer, KVX_E_PROTOCOL, kvx_error_text());
		return;
	}
	if (!peer->greeted && message.type != KVX_MESSAGE_HELLO) {
		kvx_peer_condemn(peer, KVX_E_PROTOCOL, "it did not begin with a greeting");
		return;
	}
	switch (message.type) {
	case KVX_MESSAGE_HELLO:
		on_hello(peer, &message);
		break;
	case KVX_MESSAGE_OPEN:
	case KVX_MESSAGE_CANCEL:
	case KVX_MESSAGE_DRAINED:
	case KVX_MESSAGE_PULL:
	case KVX_MESSAGE_RELEASE:
		if (peer->outgoing)
			kvx_peer_condemn(peer, KVX_E_PROTOCOL,
					 "a message that only who connects may send");
		else
			on_request(peer, &message);
		break;
	case KVX_MESSAGE_BYE:
		kvx_peer_condemn(peer, KVX_E_PEER_LOST, message.text);
		break;
	case KVX_MESSAGE_PING:
		break;
	case KVX_MESSAGE_DECLINE:
		kvx_pull_declined(peer, &message);
		break;
	default:
		on_stream_message(peer, &message);
	}
}

static int place(void *engine, struct kvx_link *link, const struct kvx_unit *unit, uint64_t place,
		 uint64_t bytes, struct iovec *iov, int iov_max)
{
	struct kvx_peer *peer = link->owner;

	return peer && !peer->condemned && peer->arrivals
		       ? kvx_arrival_place(engine, link, unit, place, bytes, iov, iov_max)
		       : 0;
}

static void arrived(void *engine, struct kvx_link *link, uint32_t rail, uint32_t imm)
{
	struct kvx_peer *peer = link->owner;

	if (peer && !peer->condemned && peer->arrivals)
		kvx_arrival_counted(engine, link, rail, imm);
}

static void permitted(void *engine, struct kvx_permit *permit)
{
	(void)engine;
	kvx_feed_permitted(kvx_container_of(permit, struct kvx_feed, permit));
}

static void forbidden(void *engine, struct kvx_permit *permit)
{
	(void)engine;
	kvx_feed_forbidden(kvx_container_of(permit, struct kvx_feed, permit));
}

static void drained(void *engine, struct kvx_flow *flow)
{
	(void)engine;
	kvx_stream_drained(kvx_container_of(flow, struct kvx_stream, flow));
}

static void refused(void *engine, struct kvx_flow *flow, const char *text)
{
	(void)engine;
	kvx_stream_end(kvx_container_of(flow, struct kvx_stream, flow), KVX_E_REVOKED, text, true);
}

const struct kvx_sink kvx_engine_sink = {
	.link_up = link_up,
	.link_accepted = link_accepted,
	.link_down = link_down,
	.rail_changed = rail_changed,
	.message = message_arrived,
	.place = place,
	.settled = kvx_arrival_settled,
	.landed = kvx_arrival_landed,
	.arrived = arrived,
	.permitted = permitted,
	.forbidden = forbidden,
	.drained = drained,
	.refused = refused,
};
