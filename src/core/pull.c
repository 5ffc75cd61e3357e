/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's side of pull. */
#include "base/error.h"
#include "core/grant.h"
#include "core/offer.h"
#include "core/peer.h"
#include "core/seal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Handed to the worker by who pulls, and waits. */
struct request {
	struct kvx_submission submission;
	struct kvx_pull *pull;
	_Atomic bool taken;
};

static void take(struct kvx_submission *submission, uint32_t wanted);

static int check(const struct kvx_grant *grant, const struct kvx_ticket *offer)
{
	int error = kvx_geometry_match(&offer->geometry, &grant->pool->geometry);

	if (error)
		return error;
	if (offer->token_end < grant->token_end)
		return kvx_fail(KVX_E_INVALID,
				"pull: the grant is of %u tokens, but %u are offered; open it with "
				"its option tokens or fewer blocks",
				grant->token_end, offer->token_end);
	/* Of several senders another may have it. */
	if (offer->tail_bytes != grant->tail.bytes && (offer->tail_bytes || grant->senders == 1))
		return kvx_fail(KVX_E_INVALID,
				"pull: a tail of %u bytes is offered, but the grant's has %u",
				offer->tail_bytes, grant->tail.bytes);
	if (grant->ticket_bytes > KVX_PULL_TICKET_MAX)
		return kvx_fail(KVX_E_LIMIT,
				"pull: the grant's ticket has %zu bytes, at most %u can be sent; "
				"let the sender push, or take blocks that are neighbours",
				grant->ticket_bytes, KVX_PULL_TICKET_MAX);
	return 0;
}

int kvx_grant_pull(struct kvx_grant *grant, const void *ticket, size_t ticket_bytes)
{
	struct kvx_pull *pull;

	if (!grant || !ticket)
		return kvx_fail(KVX_E_INVALID, "pull: NULL argument");
	pull = calloc(1, sizeof(*pull));
	if (!pull)
		return kvx_fail(KVX_E_MEMORY, "pull: out of memory");
	kvx_list_init(&pull->entry);
	kvx_list_init(&pull->peer_entry);
	int error = kvx_ticket_unseal(grant->transfer.engine->keyring, ticket, &ticket_bytes);
	if (!error)
		error = kvx_ticket_decode(&pull->offer, KVX_TICKET_OFFER, ticket, ticket_bytes);
	if (!error)
		error = check(grant, &pull->offer);
	if (error) {
		kvx_pull_free(pull);
		return error;
	}
	pull->grant = grant;
	pull->ticket_bytes = (uint32_t)grant->ticket_bytes;
	struct request request = {.submission.take = take, .pull = pull};
	kvx_engine_request(grant->transfer.engine, &request.submission, 1, &request.taken);
	return 0;
}

void kvx_pull_free(struct kvx_pull *pull)
{
	kvx_list_remove(&pull->entry);
	kvx_list_remove(&pull->peer_entry);
	kvx_ticket_finish(&pull->offer);
	free(pull);
}

/* --- the worker's --- */

static struct kvx_pull *find(struct kvx_peer *peer, uint64_t offer)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &peer->pulls) {
		struct kvx_pull *pull = kvx_container_of(entry, struct kvx_pull, peer_entry);
		if (pull->offer.offer == offer)
			return pull;
	}
	return NULL;
}

/* A DECLINE names the offer alone, so nobody else may pull it over this link meanwhile. */
static int find_peer(const struct kvx_pull *pull, struct kvx_peer **peer)
{
	const struct kvx_grant *grant = pull->grant;
	int error = kvx_peer_for(grant->transfer.engine, &pull->offer,
				 kvx_pool_reach(grant->pool, &grant->tail), peer);

	if (!error && find(*peer, pull->offer.offer))
		error = kvx_fail(KVX_E_REFUSED,
				 "pull: this engine pulls offer %llu of peer %s already",
				 (unsigned long long)pull->offer.offer, pull->offer.name);
	return error;
}

static void start(struct kvx_pull *pull)
{
	struct kvx_grant *grant = pull->grant;
	struct kvx_peer *peer;
	int error = find_peer(pull, &peer);

	if (error) {
		kvx_pull_free(pull);
		kvx_grant_end(grant, error, kvx_error_text());
		return;
	}
	pull->peer = peer;
	kvx_list_append(&grant->pulls, &pull->entry);
	kvx_list_append(&peer->pulls, &pull->peer_entry);
	if (kvx_transfer_ended(&grant->transfer))
		kvx_pull_end(pull);
	else if (kvx_peer_is_up(peer))
		kvx_pulls_present(peer);
}

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct request *request = kvx_container_of(submission, struct request, submission);
	struct kvx_engine *engine = request->pull->grant->transfer.engine;

	(void)wanted;
	start(request->pull);
	kvx_engine_acknowledge(engine, &request->taken);
}

/* Says the grant's ticket, in parts. */
static void ask(struct kvx_pull *pull)
{
	struct kvx_message message = {
		.type = KVX_MESSAGE_PULL,
		.stream = pull->offer.offer,
		.key = pull->offer.key,
		.count = pull->ticket_bytes,
	};

	pull->asked = true;
	pull->peer->asked_bytes += pull->ticket_bytes;
	while (message.first < message.count) {
		uint32_t left = message.count - message.first;
		message.part_bytes = left < KVX_PART_MAX ? left : KVX_PART_MAX;
		memcpy(message.part, pull->grant->ticket + message.first, message.part_bytes);
		kvx_peer_say(pull->peer, &message);
		message.first += message.part_bytes;
	}
}

static void release(const struct kvx_pull *pull)
{
	kvx_peer_say(pull->peer, &(struct kvx_message){.type = KVX_MESSAGE_RELEASE,
						       .stream = pull->offer.offer,
						       .key = pull->offer.key});
}

/* As many as the link's queue is sure to hold, in their order. */
void kvx_pulls_present(struct kvx_peer *peer)
{
	struct kvx_list *entry, *next;
	bool full = false;

	kvx_list_for_each (entry, next, &peer->pulls) {
		struct kvx_pull *pull = kvx_container_of(entry, struct kvx_pull, peer_entry);
		if (pull->asked)
			continue;
		if (!pull->grant) {
			release(pull);
			kvx_pull_free(pull);
			continue;
		}
		full |= pull->ticket_bytes > KVX_PULL_TICKET_MAX - peer->asked_bytes;
		if (!full)
			ask(pull);
	}
}

/* The peer has said what becomes of it. */
static void settle(struct kvx_pull *pull)
{
	struct kvx_peer *peer = pull->peer;

	if (pull->asked)
		peer->asked_bytes -= pull->ticket_bytes;
	kvx_pull_free(pull);
	kvx_pulls_present(peer);
}

void kvx_pull_answered(struct kvx_grant *grant, const struct kvx_peer *peer)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &grant->pulls) {
		struct kvx_pull *pull = kvx_container_of(entry, struct kvx_pull, entry);
		if (pull->offer.incarnation != peer->info.incarnation || !pull->asked)
			continue;
		settle(pull);
		return;
	}
}

void kvx_pull_declined(struct kvx_peer *peer, const struct kvx_message *decline)
{
	struct kvx_pull *pull = find(peer, decline->stream);
	char text[KVX_ERROR_TEXT_MAX + 1];

	if (!pull || !pull->asked)
		return;
	struct kvx_grant *grant = pull->grant;
	settle(pull);
	snprintf(text, sizeof(text), "peer %s: %.400s", peer->info.name, decline->text);
	if (grant)
		kvx_grant_end(grant, decline->code, text);
}

void kvx_pull_lost(struct kvx_pull *pull, int code, const char *text)
{
	struct kvx_grant *grant = pull->grant;

	kvx_pull_free(pull);
	if (grant)
		kvx_grant_end(grant, code, text);
}

void kvx_pull_end(struct kvx_pull *pull)
{
	kvx_list_remove(&pull->entry);
	pull->grant = NULL;
	if (!kvx_peer_is_up(pull->peer))
		return; /* it is told when it is up */
	release(pull);
	if (!pull->asked)
		kvx_pull_free(pull);
}
