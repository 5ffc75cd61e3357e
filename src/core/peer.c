/* SPDX-License-Identifier: Apache-2.0 */
#include "core/peer.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/grant.h"
#include "core/journal.h"
#include "core/offer.h"
#include "core/stream.h"
#include "trace.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void take(struct kvx_submission *submission, uint32_t wanted);
static void handshake_expired(struct kvx_timer *timer);

struct kvx_peer *kvx_peer_new(struct kvx_engine *engine, bool outgoing)
{
	struct kvx_peer *peer = calloc(1, sizeof(*peer));

	if (!peer)
		return NULL;
	peer->engine = engine;
	peer->id = kvx_engine_next_id(engine);
	peer->outgoing = outgoing;
	peer->reach = KVX_REACH_ALL;
	peer->submission.take = take;
	peer->handshake.expired = handshake_expired;
	peer->info.transport = "";
	pthread_mutex_init(&peer->mutex, NULL);
	kvx_event_init(&peer->event);
	kvx_roster_init(&peer->entry);
	kvx_list_init(&peer->streams);
	kvx_list_init(&peer->active);
	kvx_list_init(&peer->feeds);
	kvx_list_init(&peer->pulls);
	kvx_list_init(&peer->pulled);
	kvx_list_init(&peer->draining);
	kvx_list_init(&peer->lent);
	return peer;
}

/* Its id may be older than the newest: that is given when a handle is made. */
void kvx_peer_enlist(struct kvx_peer *peer)
{
	struct kvx_engine *engine = peer->engine;

	pthread_mutex_lock(&engine->lists);
	kvx_roster_insert(&engine->peers, &peer->entry, peer->id);
	pthread_mutex_unlock(&engine->lists);
}

void kvx_peer_free(struct kvx_peer *peer)
{
	while (!kvx_list_empty(&peer->pulls))
		kvx_pull_free(kvx_container_of(peer->pulls.next, struct kvx_pull, peer_entry));
	pthread_mutex_destroy(&peer->mutex);
	kvx_event_finish(&peer->event);
	free(peer->figures);
	free(peer->address);
	free(peer);
}

/* What a transport says, with its name in front; most of its texts begin with it already. */
static void name_transport(const char *transport, const char *said, char *text, size_t size)
{
	size_t length = strlen(transport);
	bool named = strncmp(said, transport, length) == 0 && !isalnum((unsigned char)said[length]);

	snprintf(text, size, "%s%s%s", named ? "" : transport, named ? "" : ": ", said);
}

/* Adds why a transport was not chosen to the story that kvx_peer_info() tells. */
void kvx_peer_tell_why_not(struct kvx_peer *peer, const char *transport, const char *said)
{
	char *why = peer->info.why, text[sizeof(peer->info.why)];
	size_t length = strlen(why);

	name_transport(transport, said, text, sizeof(text));
	pthread_mutex_lock(&peer->mutex);
	snprintf(why + length, sizeof(peer->info.why) - length, "%s%s", length ? "; " : "", text);
	pthread_mutex_unlock(&peer->mutex);
}

/* The chosen one first, then those that were tried before it. */
void kvx_peer_tell_why(struct kvx_peer *peer)
{
	char how[330], text[sizeof(how) + 32], before[sizeof(peer->info.why)];
	const char *transport = peer->link->ops->name;

	peer->link->ops->explain(peer->link, how, sizeof(how));
	name_transport(transport, how, text, sizeof(text));
	strcpy(before, peer->info.why);
	pthread_mutex_lock(&peer->mutex);
	peer->info.transport = transport;
	snprintf(peer->info.why, sizeof(peer->info.why), "%s%s%.120s", text,
		 before[0] ? "; tried before: " : "", before);
	pthread_mutex_unlock(&peer->mutex);
}

void kvx_peer_set_state(struct kvx_peer *peer, enum kvx_peer_state state)
{
	pthread_mutex_lock(&peer->mutex);
	peer->info.state = state;
	pthread_mutex_unlock(&peer->mutex);
	atomic_store_explicit(&peer->state, state, memory_order_release);
	kvx_event_notify(&peer->event);
}

static void end_transfers(struct kvx_peer *peer, int code, const char *text)
{
	while (!kvx_list_empty(&peer->streams))
		kvx_stream_end(kvx_container_of(peer->streams.next, struct kvx_stream, peer_entry),
			       code, text, false);
	while (!kvx_list_empty(&peer->feeds))
		kvx_feed_lost(kvx_container_of(peer->feeds.next, struct kvx_feed, peer_entry), code,
			      text);
	while (!kvx_list_empty(&peer->pulls))
		kvx_pull_lost(kvx_container_of(peer->pulls.next, struct kvx_pull, peer_entry), code,
			      text);
	while (!kvx_list_empty(&peer->pulled))
		kvx_offer_puller_lost(
			kvx_container_of(peer->pulled.next, struct kvx_offer, puller_entry), code,
			text);
}

/* The peer is down for good: a later stream makes a new one. */
void kvx_peer_end(struct kvx_peer *peer, int code, const char *text)
{
	kvx_timer_stop(&peer->engine->timers, &peer->handshake);
	pthread_mutex_lock(&peer->mutex);
	peer->code = code;
	if (peer->info.why != text)
		snprintf(peer->info.why, sizeof(peer->info.why), "%s", text);
	peer->info.transport = "";
	peer->info.rails = 0;
	pthread_mutex_unlock(&peer->mutex);
	peer->trying = false;
	kvx_peer_set_state(peer, KVX_PEER_DOWN);
	kvx_log_write(&peer->engine->options.log, KVX_LOG_INFO,
		      "peer %s (%016" PRIx64 "): down: %s", peer->info.name, peer->info.incarnation,
		      peer->info.why);
	end_transfers(peer, code, peer->info.why);
}

void kvx_peer_say(struct kvx_peer *peer, const struct kvx_message *message)
{
	uint8_t bytes[KVX_MESSAGE_MAX];

	if (!peer->link || peer->condemned)
		return;
	uint32_t length = kvx_message_encode(message, bytes);
	peer->link->ops->message(peer->link, bytes, length);
	peer->said_ns = peer->engine->now_ns;
}

static void handshake_expired(struct kvx_timer *timer)
{
	struct kvx_peer *peer = kvx_container_of(timer, struct kvx_peer, handshake);

	kvx_peer_condemn(peer, KVX_E_UNREACHABLE, "connected, but the peer does not answer");
}

/* So that the other side learns why, if it still listens. */
static void say_bye(struct kvx_peer *peer, const char *why)
{
	struct kvx_message bye = {.type = KVX_MESSAGE_BYE};

	snprintf(bye.text, sizeof(bye.text), "%s", why);
	if (kvx_peer_is_up(peer))
		kvx_peer_say(peer, &bye);
}

static uint64_t hash_of(const char *name)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
	return hash;
}

static void note_lost(const struct kvx_peer *peer, int code, const char *story)
{
	struct kvx_engine *engine = peer->engine;

	engine->lost[engine->lost_count++ % KVX_LOST_MAX] = hash_of(peer->info.name);
	kvx_count(engine, peers_lost, 1);
	kvx_journal_peer(peer, KVX_EVENT_PEER_LOST, 0, code, story);
	KVX_TRACE(peer_lost, peer->id, code);
}

bool kvx_peer_was_lost(const struct kvx_peer *peer)
{
	const struct kvx_engine *engine = peer->engine;
	uint64_t hash = hash_of(peer->info.name);

	for (uint32_t i = 0; i < KVX_LOST_MAX && i < engine->lost_count; i++)
		if (engine->lost[i] == hash)
			return true;
	return false;
}

void kvx_peer_condemn(struct kvx_peer *peer, int code, const char *text)
{
	char story[KVX_ERROR_TEXT_MAX + 1], said[KVX_ERROR_TEXT_MAX + 1];

	if (peer->condemned)
		return;
	if (code == KVX_E_PROTOCOL)
		kvx_count(peer->engine, protocol_errors, 1);
	snprintf(said, sizeof(said), "it ended the link: %.400s", text);
	say_bye(peer, said);
	if (peer->outgoing && !kvx_peer_is_up(peer)) {
		peer->code = code;
		kvx_peer_tell_why_not(peer, peer->link->ops->name, text);
		peer->trying = true;
	} else {
		const char *name = peer->greeted ? peer->info.name : "that has not said its name";
		name_transport(peer->link->ops->name, text, said, sizeof(said));
		snprintf(story, sizeof(story), "peer %s (%016" PRIx64 "): %.300s", name,
			 peer->info.incarnation, said);
		if (peer->greeted)
			note_lost(peer, code, story);
		kvx_peer_end(peer, code, story);
	}
	peer->condemned = true;
}

/* --- the worker's step --- */

/* We were stopped ourselves: silence meanwhile says nothing about the peers. */
static void forgive(struct kvx_engine *engine, int64_t stopped_ns)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &engine->peers.list) {
		struct kvx_peer *peer = kvx_container_of(entry, struct kvx_peer, entry.list);
		kvx_figure_add(peer->heard_ns, stopped_ns);
		if (peer->heard_ns > engine->now_ns)
			kvx_peer_heard(peer);
	}
}

static int beat(struct kvx_peer *peer, int64_t heartbeat_ns)
{
	struct kvx_engine *engine = peer->engine;
	int64_t silent_ns = engine->now_ns - peer->heard_ns;
	char text[96];

	if (!kvx_peer_is_up(peer) || peer->condemned)
		return 0;
	/* Looked at every eighth of a heartbeat: noticed before two are over. */
	if (silent_ns > peer->silence_ns - peer->silence_ns / 8) {
		snprintf(text, sizeof(text), "silent for %" PRId64 " ms, two of its heartbeats",
			 silent_ns / KVX_NS_PER_MS);
		kvx_peer_condemn(peer, KVX_E_PEER_LOST, text);
		return 1;
	}
	if (engine->now_ns - peer->said_ns < heartbeat_ns / 2)
		return 0;
	kvx_peer_say(peer, &(struct kvx_message){.type = KVX_MESSAGE_PING});
	return 1;
}

int kvx_peers_tick(struct kvx_engine *engine)
{
	int64_t heartbeat_ns = (int64_t)engine->options.heartbeat_ms * KVX_NS_PER_MS;
	int64_t since_ns = engine->now_ns - engine->tick_ns;
	struct kvx_list *entry, *next;
	int done = 0;

	if (since_ns < engine->beat_ns)
		return 0;
	engine->tick_ns = engine->now_ns;
	/* For longer than the shortest heartbeat, however long ours is. The time of two looks
	 * counts all the same: who is gone is noticed also by an engine that is stopped again and
	 * again. */
	if (since_ns > 8 * engine->beat_ns)
		forgive(engine, since_ns - 2 * engine->beat_ns);
	kvx_list_for_each (entry, next, &engine->peers.list)
		done += beat(kvx_container_of(entry, struct kvx_peer, entry.list), heartbeat_ns);
	return done;
}

static void disconnect(struct kvx_peer *peer)
{
	if (peer->link)
		peer->link->ops->disconnect(peer->link);
	/* The transport tells of each when it is over; the peer may be gone by then. */
	while (!kvx_list_empty(&peer->draining))
		kvx_stream_orphan(
			kvx_container_of(peer->draining.next, struct kvx_stream, peer_entry));
	while (!kvx_list_empty(&peer->lent))
		kvx_feed_orphan(kvx_container_of(peer->lent.next, struct kvx_feed, lent_entry));
	peer->link = NULL;
	peer->condemned = false;
	for (uint32_t i = 0; peer->rails && i < peer->rail_count; i++)
		kvx_lift_free(&peer->rails[i]);
	free(peer->rails);
	free(peer->arrivals);
	peer->rails = NULL;
	peer->arrivals = NULL;
}

static void forget(struct kvx_peer *peer)
{
	kvx_timer_stop(&peer->engine->timers, &peer->handshake);
	kvx_engine_delist(peer->engine, &peer->entry);
	peer->engine->incoming_count -= !peer->outgoing;
	kvx_peer_free(peer);
}

/* So that who connected learns of it at once, and nothing of the link is left. */
static int disconnect_refused(struct kvx_engine *engine)
{
	int done = 0;

	for (; engine->refused; done++) {
		struct kvx_link *link = engine->refused;
		engine->refused = link->refused;
		link->ops->disconnect(link);
	}
	return done;
}

int kvx_peers_reap(struct kvx_engine *engine)
{
	struct kvx_list *entry, *next;
	int done = disconnect_refused(engine);

	kvx_list_for_each (entry, next, &engine->peers.list) {
		struct kvx_peer *peer = kvx_container_of(entry, struct kvx_peer, entry.list);
		if (peer->condemned) {
			disconnect(peer);
			done++;
		}
		if (peer->trying) {
			kvx_peer_try_next(peer);
			done++;
		}
		if (peer->state == KVX_PEER_DOWN && !peer->link && !peer->held)
			forget(peer);
	}
	return done;
}

void kvx_peers_finish(struct kvx_engine *engine)
{
	disconnect_refused(engine);
	while (!kvx_list_empty(&engine->peers.list)) {
		struct kvx_peer *peer =
			kvx_container_of(engine->peers.list.next, struct kvx_peer, entry.list);
		say_bye(peer, "it closed its engine");
		disconnect(peer);
		forget(peer);
	}
}

/* --- handles --- */

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct kvx_peer *peer = kvx_container_of(submission, struct kvx_peer, submission);

	if (wanted & KVX_PEER_START) {
		peer->held = true;
		peer->trying = true;
		kvx_peer_enlist(peer);
	}
	if (wanted & KVX_PEER_RELEASE)
		peer->held = false; /* freed when it is down */
}

int kvx_peer_wait(struct kvx_peer *peer, uint32_t timeout_ms)
{
	if (timeout_ms > KVX_TIMEOUT_MAX_MS)
		return kvx_fail(KVX_E_INVALID, "peer: a time-out of %u ms is longer than %u",
				timeout_ms, KVX_TIMEOUT_MAX_MS);
	int64_t deadline_ns = kvx_now_ns() + timeout_ms * KVX_NS_PER_MS;
	for (;;) {
		uint32_t seen = kvx_event_sequence(&peer->event);
		struct kvx_peer_info info;
		switch (atomic_load_explicit(&peer->state, memory_order_acquire)) {
		case KVX_PEER_UP:
			return 0;
		case KVX_PEER_DOWN:
			kvx_peer_info(peer, &info);
			return kvx_fail(peer->code, "%s", info.why);
		default:
			break;
		}
		if (kvx_now_ns() >= deadline_ns)
			return kvx_fail(KVX_E_TIMEDOUT, "peer at %.200s: not up after %u ms",
					peer->address, timeout_ms);
		kvx_engine_wait(peer->engine, &peer->event, seen, deadline_ns);
	}
}

void kvx_peer_info(const struct kvx_peer *peer, struct kvx_peer_info *info)
{
	struct kvx_peer *locked = (struct kvx_peer *)peer;

	pthread_mutex_lock(&locked->mutex);
	*info = peer->info;
	pthread_mutex_unlock(&locked->mutex);
}

void kvx_peer_close(struct kvx_peer *peer)
{
	if (peer)
		kvx_engine_submit(peer->engine, &peer->submission, KVX_PEER_RELEASE);
}
