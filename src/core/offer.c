/* SPDX-License-Identifier: Apache-2.0 */
/* The sender's side of pull. */
#include "core/offer.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/geometry.h"
#include "core/peer.h"
#include "core/seal.h"
#include "core/stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static int write_ticket(struct kvx_stream *stream)
{
	const struct kvx_engine *engine = stream->transfer.engine;
	struct kvx_offer *offer = stream->offer;
	struct kvx_ticket ticket = {
		.kind = KVX_TICKET_OFFER,
		.incarnation = engine->incarnation,
		.offer = offer->id,
		.key = offer->key,
		.lease_ms = offer->lease_ms,
		.geometry = stream->pool->geometry,
		.token_end = stream->tokens,
		.tail_bytes = stream->tail.bytes,
		.address = kvx_engine_write_address(engine,
						    kvx_pool_reach(stream->pool, &stream->tail)),
	};

	if (!ticket.address)
		return kvx_fail(KVX_E_MEMORY, "offer: out of memory for its ticket");
	strcpy(ticket.name, engine->name);
	int error = kvx_ticket_encode(&ticket, &offer->ticket, &offer->ticket_bytes);
	free(ticket.address);
	return error ? error
		     : kvx_ticket_seal(engine->keyring, &offer->ticket, &offer->ticket_bytes);
}

static int make_offer(struct kvx_stream *stream, const uint32_t *blocks, uint32_t count,
		      uint32_t lease_ms)
{
	struct kvx_engine *engine = stream->transfer.engine;
	struct kvx_offer *offer = stream->offer = calloc(1, sizeof(*offer));

	if (offer)
		offer->table = malloc(count * sizeof(*blocks));
	if (!offer || !offer->table)
		return kvx_fail(KVX_E_MEMORY, "offer: out of memory for %u blocks", count);
	if (getrandom(&offer->key, sizeof(offer->key), 0) != sizeof(offer->key))
		return kvx_fail(KVX_E_SYSTEM, "offer: getrandom gives no random bytes");
	kvx_list_init(&offer->entry);
	kvx_list_init(&offer->puller_entry);
	memcpy(offer->table, blocks, count * sizeof(*blocks));
	offer->stream = stream;
	offer->count = count;
	offer->lease_ms = lease_ms;
	offer->opened_ns = kvx_now_ns();
	pthread_mutex_lock(&engine->lock);
	offer->id = ++engine->offer_sequence;
	pthread_mutex_unlock(&engine->lock);
	return write_ticket(stream);
}

void kvx_offer_announce(struct kvx_offer *offer)
{
	struct kvx_engine *engine = offer->stream->transfer.engine;

	pthread_mutex_lock(&engine->lock);
	kvx_list_append(&engine->new_offers, &offer->entry);
	pthread_mutex_unlock(&engine->lock);
}

int kvx_offer_open(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		   const struct kvx_stream_options *options, uint32_t lease_ms,
		   struct kvx_stream **stream)
{
	struct kvx_stream_options none = {0};
	struct kvx_stream *made = NULL;

	if (!pool || !blocks || !stream)
		return kvx_fail(KVX_E_INVALID, "offer: NULL argument");
	if (!lease_ms || lease_ms > KVX_TIMEOUT_MAX_MS)
		return kvx_fail(KVX_E_INVALID, "offer: a lease of %u ms: must be 1 to %u", lease_ms,
				KVX_TIMEOUT_MAX_MS);
	options = options ? options : &none;
	int error = kvx_stream_check_blocks(pool, blocks, count);
	if (!error)
		error = kvx_pool_check_tail(pool, "offer", &options->tail);
	if (!error && (uint64_t)count * pool->shape.block_tokens > UINT32_MAX)
		error = kvx_fail(KVX_E_LIMIT,
				 "offer: %u blocks of %u tokens are more than 2^32 - 1", count,
				 pool->shape.block_tokens);
	if (!error)
		error = kvx_stream_new(pool, options, count * pool->shape.block_tokens, &made);
	if (error)
		return error;
	error = make_offer(made, blocks, count, lease_ms);
	if (error) {
		kvx_stream_discard(made);
		return error;
	}
	if (kvx_stream_may_want_staging(made))
		kvx_staging_prepare(pool->engine);
	kvx_stream_begin(made);
	*stream = made;
	return 0;
}

const void *kvx_offer_ticket(const struct kvx_stream *stream, size_t *bytes)
{
	if (!stream->offer)
		return NULL;
	*bytes = stream->offer->ticket_bytes;
	return stream->offer->ticket;
}

size_t kvx_offer_explain(const struct kvx_stream *stream, char *text, size_t size)
{
	int length = snprintf(text, size,
			      "%u layers of %u tokens in %u blocks are offered; nobody has pulled "
			      "them yet",
			      stream->transfer.layers, stream->tokens, stream->offer->count);

	return length < 0 ? 0 : (size_t)length;
}

void kvx_offer_free(struct kvx_offer *offer)
{
	if (!offer)
		return;
	free(offer->grant_ticket);
	free(offer->table);
	free(offer->ticket);
	free(offer);
}

/* --- the worker's --- */

int kvx_offer_start(struct kvx_offer *offer, int error)
{
	struct kvx_engine *engine = offer->stream->transfer.engine;

	pthread_mutex_lock(&engine->lock);
	kvx_list_remove(&offer->entry);
	pthread_mutex_unlock(&engine->lock);
	if (error)
		return error;
	kvx_list_append(&engine->offers, &offer->entry);
	return kvx_timer_start(&engine->timers, &offer->stream->lease,
			       offer->opened_ns + offer->lease_ms * KVX_NS_PER_MS);
}

static void decline(struct kvx_peer *peer, uint64_t id, int code, const char *text)
{
	struct kvx_message message = {.type = KVX_MESSAGE_DECLINE, .stream = id, .code = code};

	snprintf(message.text, sizeof(message.text), "%s", text);
	if (kvx_peer_is_up(peer))
		kvx_peer_say(peer, &message);
}

static bool is_meant(const struct kvx_offer *offer, const struct kvx_message *message)
{
	return offer->id == message->stream && offer->key == message->key;
}

static struct kvx_offer *find_in(struct kvx_list *offers, const struct kvx_message *message)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, offers) {
		struct kvx_offer *offer = kvx_container_of(entry, struct kvx_offer, entry);
		if (is_meant(offer, message))
			return offer;
	}
	return NULL;
}

/* Among those that are not pulled yet. Its ticket may be faster than its submission. */
static struct kvx_offer *find(struct kvx_engine *engine, const struct kvx_message *message)
{
	struct kvx_offer *offer = find_in(&engine->offers, message);

	if (offer)
		return offer;
	pthread_mutex_lock(&engine->lock);
	offer = find_in(&engine->new_offers, message);
	pthread_mutex_unlock(&engine->lock);
	if (offer)
		kvx_stream_start(offer->stream);
	return offer && !kvx_transfer_ended(&offer->stream->transfer) ? offer : NULL;
}

/* Among those that this peer pulls. */
static struct kvx_offer *find_pulled(struct kvx_peer *peer, const struct kvx_message *message)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &peer->pulled) {
		struct kvx_offer *offer = kvx_container_of(entry, struct kvx_offer, puller_entry);
		if (is_meant(offer, message))
			return offer;
	}
	return NULL;
}

/* Puts a part of the grant's ticket where it belongs; parts come in order. */
static int collect(struct kvx_offer *offer, const struct kvx_message *pull)
{
	if (!pull->first && !offer->grant_ticket) {
		if (!pull->count || pull->count > KVX_PULL_TICKET_MAX)
			return kvx_fail(KVX_E_PROTOCOL, "offer: a ticket of %u bytes", pull->count);
		offer->grant_ticket = malloc(pull->count);
		if (!offer->grant_ticket)
			return kvx_fail(KVX_E_MEMORY, "offer: out of memory");
		offer->grant_ticket_bytes = pull->count;
	}
	if (pull->first != offer->grant_ticket_came || !pull->part_bytes ||
	    pull->part_bytes > offer->grant_ticket_bytes - offer->grant_ticket_came)
		return kvx_fail(KVX_E_PROTOCOL, "offer: parts of a ticket that do not fit");
	memcpy(offer->grant_ticket + pull->first, pull->part, pull->part_bytes);
	offer->grant_ticket_came += pull->part_bytes;
	return 0;
}

static int check_grant(const struct kvx_offer *offer, const struct kvx_ticket *ticket)
{
	const struct kvx_stream *stream = offer->stream;

	if (ticket->incarnation != offer->puller->info.incarnation)
		return kvx_fail(KVX_E_REFUSED,
				"offer: the grant is another engine's than the one that pulls");
	if (ticket->token_end > stream->tokens)
		return kvx_fail(KVX_E_INVALID,
				"offer: of %u tokens, but the grant's request has %u",
				stream->tokens, ticket->token_end);
	/* The request is the offered one's begin. */
	uint32_t count = kvx_geometry_blocks(&stream->pool->geometry, ticket->token_end);
	return kvx_stream_check_ticket(stream, count, ticket);
}

/* The ticket is whole: the offer becomes a stream into that grant. */
static int become_stream(struct kvx_offer *offer)
{
	struct kvx_keyring *keyring = offer->stream->transfer.engine->keyring;
	size_t bytes = offer->grant_ticket_bytes;
	struct kvx_ticket ticket;

	int error = kvx_ticket_unseal(keyring, offer->grant_ticket, &bytes);
	if (!error)
		error = kvx_ticket_decode(&ticket, KVX_TICKET_GRANT, offer->grant_ticket, bytes);
	if (error)
		return error;
	error = check_grant(offer, &ticket);
	if (!error)
		error = kvx_stream_aim(offer->stream, offer->table, &ticket);
	if (error) {
		kvx_ticket_finish(&ticket);
		return error;
	}
	free(offer->table);
	free(offer->grant_ticket);
	offer->table = NULL;
	offer->grant_ticket = NULL;
	kvx_stream_connect(offer->stream);
	return 0;
}

void kvx_offer_pulled(struct kvx_peer *peer, const struct kvx_message *pull)
{
	struct kvx_engine *engine = peer->engine;
	struct kvx_offer *offer = find(engine, pull);
	char text[192];

	if (!offer) {
		snprintf(text, sizeof(text),
			 "offer: %" PRIu64 " is not open in %s (%016" PRIx64
			 "); it was closed, or pulled already",
			 pull->stream, engine->name, engine->incarnation);
		if (!pull->first)
			decline(peer, pull->stream, KVX_E_REFUSED, text);
		return;
	}
	if (!offer->puller) {
		offer->puller = peer;
		kvx_list_append(&peer->pulled, &offer->puller_entry);
	}
	if (offer->puller != peer) {
		if (!pull->first)
			decline(peer, pull->stream, KVX_E_REFUSED,
				"offer: another receiver pulls it already");
		return;
	}
	int error = collect(offer, pull);
	if (!error && offer->grant_ticket_came == offer->grant_ticket_bytes) {
		kvx_list_remove(&offer->entry);
		error = become_stream(offer);
	}
	if (error)
		kvx_stream_end(offer->stream, error, kvx_error_text(), false);
}

/* A grant that is over before it could say that it pulls releases the offer too. What the receiver
 * has accepted ends over the stream's own link, with the reason. */
void kvx_offer_released(struct kvx_peer *peer, const struct kvx_message *release)
{
	struct kvx_offer *offer = find_pulled(peer, release);

	if (!offer)
		offer = find(peer->engine, release);
	if (offer && (!offer->puller || offer->puller == peer) && !offer->stream->open)
		kvx_stream_end(offer->stream, KVX_E_REVOKED, "offer: the receiver gave the pull up",
			       true);
}

/* Once it is accepted the stream's own link tells whether the receiver is there. */
void kvx_offer_puller_lost(struct kvx_offer *offer, int code, const char *text)
{
	kvx_list_remove(&offer->puller_entry);
	offer->puller = NULL;
	if (!offer->stream->open)
		kvx_stream_end(offer->stream, code, text, true);
}

void kvx_offer_end(struct kvx_stream *stream, int code, const char *text)
{
	struct kvx_offer *offer = stream->offer;

	kvx_list_remove(&offer->entry);
	kvx_list_remove(&offer->puller_entry);
	if (offer->puller && code && !stream->open)
		decline(offer->puller, offer->id, code, text);
	offer->puller = NULL;
}
