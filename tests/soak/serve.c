/* SPDX-License-Identifier: Apache-2.0 */
/* The side of a request that another peer began. */
#include "soak/peer.h"

#include "fault/pattern.h"
#include "support/chance.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LATE_US 3000u /* that a byte which is late has time to land in */

static struct answer answer_of(int code)
{
	struct answer answer = {.code = code};

	if (code)
		snprintf(answer.text, sizeof(answer.text), "%s", kvx_error_text());
	return answer;
}

/* Bytes of what is reported whole that are not the request's. */
static uint64_t check(struct hand *hand, const struct ask *ask, const struct cache_table *table,
		      struct kvx_grant *grant)
{
	uint64_t wrong = 0;

	for (uint32_t layer = 0; layer < CACHE_LAYERS; layer++)
		if (kvx_grant_poll(grant, layer) == 1)
			wrong += cache_wrong(&hand->peer->cache, table, ask->key, ask->tokens,
					     layer);
	if (ask->tail && kvx_grant_poll(grant, KVX_TAIL) == 1)
		wrong += pattern_check(tail_of(hand), TAIL_BYTES,
				       pattern_seed(ask->key, TAIL_LAYER, 0, 0));
	return wrong;
}

/* Waits until the grant ends, or who asked for it is gone. */
static int await_end(struct kvx_grant *grant, int channel, uint32_t lease_ms)
{
	int result = KVX_E_TIMEDOUT;

	for (uint32_t waited_ms = 0; result == KVX_E_TIMEDOUT && waited_ms < lease_ms + PATIENCE_MS;
	     waited_ms += 100) {
		result = kvx_grant_wait(grant, KVX_ALL_LAYERS, 100);
		if (result == KVX_E_TIMEDOUT && channel_is_cut(channel))
			kvx_grant_revoke(grant, 100);
	}
	return result;
}

/* The fence: what is written here afterwards stays. */
static uint64_t check_fence(struct hand *hand, const struct cache_table *table)
{
	cache_mark(&hand->peer->cache, table);
	usleep(LATE_US);
	return cache_changed(&hand->peer->cache, table);
}

static struct answer run_grant(struct hand *hand, const struct ask *ask,
			       const struct cache_table *table, struct kvx_grant *grant,
			       int channel)
{
	uint64_t late = 0;

	if (ask->revoke_us) {
		usleep(ask->revoke_us);
		kvx_grant_revoke(grant, 100);
	}
	struct answer answer = answer_of(await_end(grant, channel, ask->lease_ms));
	uint64_t wrong = check(hand, ask, table, grant);
	if (answer.code == KVX_E_TIMEDOUT)
		complain(hand->peer, "a grant does not end: %s", answer.text);
	if (answer.code == KVX_E_REVOKED)
		late = check_fence(hand, table);
	kvx_grant_close(grant);
	if (answer.code)
		late += check_fence(hand, table);
	if (wrong || late)
		complain(hand->peer, "%llu bytes wrong, %llu late", (unsigned long long)wrong,
			 (unsigned long long)late);
	answer.wrong = wrong + late;
	return answer;
}

static void serve_grant(struct hand *hand, const struct ask *ask, const void *offer, int channel)
{
	struct peer *peer = hand->peer;
	const struct kvx_grant_options special = {.tokens = ask->tokens,
						  .senders = ask->senders,
						  .tail = ask->tail ? tail_at(hand)
								    : (struct kvx_tail){0}};
	struct cache_table table;
	struct kvx_grant *grant = NULL;
	const void *ticket = NULL;
	size_t bytes = 0;
	struct answer answer = {.code = KVX_E_LIMIT, .text = "no blocks are free"};

	if (cache_take(&peer->cache, &hand->random, ask->tokens, &table))
		answer = answer_of(kvx_grant_open(peer->cache.pool, table.blocks, table.count,
						  &special, ask->lease_ms, &grant));
	if (grant && ask->verb == ASK_PULL)
		answer = answer_of(kvx_grant_pull(grant, offer, ask->ticket_bytes));
	if (grant && ask->verb == ASK_GRANT)
		ticket = kvx_grant_ticket(grant, &bytes);
	answer.ticket_bytes = (uint32_t)bytes;
	bool heard = channel_send(channel, &answer, sizeof(answer), ticket, bytes);
	if (grant && !answer.code && heard) {
		answer = run_grant(hand, ask, &table, grant, channel);
		channel_send(channel, &answer, sizeof(answer), NULL, 0);
	} else {
		kvx_grant_close(grant);
	}
	cache_give(&peer->cache, &table);
}

static void serve_stream(struct hand *hand, const struct ask *ask, const void *ticket, int channel)
{
	struct peer *peer = hand->peer;
	struct cache_table table;
	struct kvx_stream *stream = NULL;
	struct answer answer = {.code = KVX_E_LIMIT, .text = "no blocks are free"};

	if (cache_take(&peer->cache, &hand->random, ask->tokens, &table)) {
		cache_fill(&peer->cache, &table, ask->key, ask->tokens);
		answer = answer_of(kvx_stream_open(peer->cache.pool, table.blocks, table.count,
						   NULL, ticket, ask->ticket_bytes, &stream));
	}
	if (stream) {
		kvx_stream_layers_ready(stream, 0, CACHE_LAYERS);
		answer = answer_of(kvx_stream_wait(stream, KVX_ALL_LAYERS, PATIENCE_MS));
	}
	kvx_stream_close(stream);
	cache_give(&peer->cache, &table);
	channel_send(channel, &answer, sizeof(answer), NULL, 0);
}

static void serve_channel(struct hand *hand, int channel)
{
	static _Thread_local uint8_t ticket[TICKET_MAX];
	struct ask ask;

	if (!channel_receive(channel, &ask, sizeof(ask), ticket, sizeof(ticket)) ||
	    ask.ticket_bytes > sizeof(ticket))
		return;
	if (ask.verb == ASK_STREAM)
		serve_stream(hand, &ask, ticket, channel);
	else
		serve_grant(hand, &ask, ticket, channel);
	atomic_fetch_add(&hand->peer->served, 1);
}

void *serve(void *argument)
{
	struct hand *hand = argument;
	struct peer *peer = hand->peer;
	struct pollfd door = {.fd = peer->listener, .events = POLLIN};

	while (!atomic_load(&peer->servers_end)) {
		if (poll(&door, 1, 100) <= 0)
			continue;
		atomic_fetch_add(&peer->busy, 1);
		int channel = accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC);
		if (channel >= 0) {
			serve_channel(hand, channel);
			close(channel);
		}
		atomic_fetch_sub(&peer->busy, 1);
	}
	return NULL;
}
