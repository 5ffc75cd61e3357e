/* SPDX-License-Identifier: Apache-2.0 */
/* The side of a request that begins it: kinds of requests, drawn at random, and how they must end.
 */
#include "soak/peer.h"

#include "fault/pattern.h"
#include "support/chance.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LEASE_MS 10000u /* below PATIENCE_MS: what nobody comes for ends by it */
#define ENDED_LEASE_MS 3000u
#define TOGETHER_LEASE_MS 6000u
#define SHORT_LEASE_MS 40u
#define REVOKE_US_MAX 3000u
#define CHUNK_TOKENS 64u

enum end { WHOLE, CANCELLED, REVOKED, LEASED, DROPPED };

struct kind {
	const char *name;
	uint32_t weight; /* of all: how often */
	uint32_t tokens_min, tokens_max;
	bool pull, tail, chunks, watched, together;
	enum end end;
};

static const struct kind kinds[] = {
	{"push small", 30, 1, 64, .end = WHOLE},
	{"push large", 6, 512, 1500, .end = WHOLE},
	{"push in chunks", 6, 65, 1000, .chunks = true},
	{"push with a tail", 8, 1, 300, .tail = true},
	{"push by a watched word", 6, 1, 300, .watched = true},
	{"pull small", 12, 1, 64, .pull = true},
	{"pull large", 3, 512, 1500, .pull = true},
	{"pull with a tail", 5, 1, 300, .pull = true, .tail = true},
	{"two senders", 8, 33, 500, .together = true},
	{"cancelled", 4, 64, 1000, .end = CANCELLED},
	{"cancelled pull", 2, 64, 1000, .pull = true, .end = CANCELLED},
	{"revoked", 4, 64, 1000, .end = REVOKED},
	{"revoked pull", 2, 64, 1000, .pull = true, .end = REVOKED},
	{"lease ends", 3, 1, 300, .end = LEASED},
	{"dropped", 3, 1, 1000, .end = DROPPED},
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))
_Static_assert(KINDS <= KINDS_MAX, "kinds");

const char *kind_name(uint32_t kind)
{
	return kind < KINDS ? kinds[kind].name : NULL;
}

static const struct kind *draw_kind(uint64_t *random)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < KINDS; i++)
		sum += kinds[i].weight;
	uint32_t drawn = random_between(random, 0, sum - 1);
	const struct kind *kind = kinds;
	for (; drawn >= kind->weight; kind++)
		drawn -= kind->weight;
	return kind;
}

/* Another peer of the folder than this one and `not`. False: there is none. */
static bool draw_peer(struct hand *hand, const char * not, char *name)
{
	char names[NAMES_MAX][KVX_NAME_MAX + 1];
	uint32_t count = 0;
	DIR *folder = opendir(hand->peer->folder);

	for (struct dirent *entry; folder && count < NAMES_MAX && (entry = readdir(folder));)
		if (entry->d_name[0] != '.' && strcmp(entry->d_name, hand->peer->name) != 0 &&
		    strcmp(entry->d_name, not ) != 0)
			snprintf(names[count++], sizeof(*names), "%.*s", (int)KVX_NAME_MAX,
				 entry->d_name);
	if (folder)
		closedir(folder);
	if (count)
		strcpy(name, names[random_between(&hand->random, 0, count - 1)]);
	return count > 0;
}

struct request {
	struct hand *hand;
	const struct kind *kind;
	uint64_t key;
	uint32_t tokens;
	struct cache_table table;
	char to[KVX_NAME_MAX + 1], beside[KVX_NAME_MAX + 1]; /* beside: of two senders the other */
	int channel, beside_channel;                         /* -1: none */
	struct kvx_stream *stream;
	uint8_t ticket[TICKET_MAX];
	uint32_t ticket_bytes;
	int own, other; /* how the stream and the grant ended */
	bool alone;     /* of two senders the other never came */
	char own_text[KVX_ERROR_TEXT_MAX + 1], other_text[KVX_ERROR_TEXT_MAX + 1];
	uint64_t took_us;
};

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void own_ended(struct request *request, int code)
{
	request->own = code;
	snprintf(request->own_text, sizeof(request->own_text), "%s", code ? kvx_error_text() : "");
}

/* What the server says next; a server that is gone is a peer that is lost. */
static void hear(struct request *request, int channel, void *more, size_t more_bytes)
{
	struct answer answer;

	if (!channel_receive(channel, &answer, sizeof(answer), more, more_bytes)) {
		answer = (struct answer){.code = KVX_E_PEER_LOST};
		snprintf(answer.text, sizeof(answer.text), "its process: %s", strerror(errno));
	}
	request->other = answer.code;
	request->ticket_bytes = answer.ticket_bytes;
	snprintf(request->other_text, sizeof(request->other_text), "%s", answer.text);
	atomic_fetch_add(&request->hand->peer->wrong, answer.wrong);
}

/* A sender that gives up before its connection is up is not known to the receiver, so then it is
 * the lease that ends the wait. */
static uint32_t lease_ms_of(const struct kind *kind)
{
	if (kind->end == LEASED)
		return SHORT_LEASE_MS;
	if (kind->together)
		return TOGETHER_LEASE_MS; /* the other sender may have no blocks to spare */
	return kind->end == WHOLE ? LEASE_MS : ENDED_LEASE_MS;
}

static struct ask ask_of(const struct request *request)
{
	const struct kind *kind = request->kind;
	uint64_t *random = &request->hand->random;

	return (struct ask){
		.verb = kind->pull ? ASK_PULL : ASK_GRANT,
		.key = request->key,
		.tokens = request->tokens,
		.senders = kind->together ? 2 : 1,
		.lease_ms = lease_ms_of(kind),
		.revoke_us = kind->end == REVOKED ? random_between(random, 1, REVOKE_US_MAX) : 0,
		.tail = kind->tail,
	};
}

static struct kvx_stream_options options_of(const struct request *request)
{
	return (struct kvx_stream_options){
		.chunk_tokens = request->kind->chunks ? CHUNK_TOKENS : 0,
		.tail = request->kind->tail ? tail_at(request->hand) : (struct kvx_tail){0},
	};
}

/* The receiver has a grant, and this engine a stream that feeds it. False: one of them has not. */
static bool open_both(struct request *request)
{
	const struct kvx_stream_options options = options_of(request);
	struct kvx_pool *pool = request->hand->peer->cache.pool;
	struct ask ask = ask_of(request);
	const void *offer = NULL;
	size_t bytes = 0;

	if (request->kind->pull) {
		own_ended(request, kvx_offer_open(pool, request->table.blocks, request->table.count,
						  &options, LEASE_MS, &request->stream));
		if (request->own)
			return false;
		offer = kvx_offer_ticket(request->stream, &bytes);
	}
	ask.ticket_bytes = (uint32_t)bytes;
	channel_send(request->channel, &ask, sizeof(ask), offer, bytes);
	hear(request, request->channel, request->ticket, sizeof(request->ticket));
	if (request->other || request->kind->pull)
		return !request->other;
	own_ended(request,
		  kvx_stream_open(pool, request->table.blocks, request->table.count, &options,
				  request->ticket, request->ticket_bytes, &request->stream));
	return !request->own;
}

/* Another peer feeds the grant too. */
static void ask_other_sender(struct request *request)
{
	struct ask ask = ask_of(request);

	ask.verb = ASK_STREAM;
	ask.ticket_bytes = request->ticket_bytes;
	if (draw_peer(request->hand, request->to, request->beside))
		request->beside_channel =
			channel_dial(request->hand->peer->folder, request->beside);
	if (request->beside_channel >= 0)
		channel_send(request->beside_channel, &ask, sizeof(ask), request->ticket,
			     request->ticket_bytes);
	else
		kvx_stream_cancel(request->stream);
	request->alone = request->beside_channel < 0;
}

static void hear_other_sender(struct request *request)
{
	struct answer answer;

	if (request->beside_channel < 0)
		return;
	if (channel_receive(request->beside_channel, &answer, sizeof(answer), NULL, 0))
		request->alone = answer.code == KVX_E_LIMIT;
	close(request->beside_channel);
}

/* word: for who has the engine watch it; valid until the stream is closed. */
static void tell_ready(struct request *request, _Atomic uint32_t *word)
{
	const struct kind *kind = request->kind;
	struct kvx_stream *stream = request->stream;

	if (kind->watched) {
		kvx_stream_watch(stream, (const uint32_t *)word);
		for (uint32_t layer = 0; layer < CACHE_LAYERS; layer++)
			atomic_fetch_add_explicit(word, 1, memory_order_release);
	} else if (kind->chunks) {
		for (uint32_t tokens = CHUNK_TOKENS; tokens < request->tokens + CHUNK_TOKENS;
		     tokens += CHUNK_TOKENS)
			kvx_stream_tokens_ready(stream, 0, CACHE_LAYERS, tokens);
	} else if (random_next(&request->hand->random) & 1) {
		kvx_stream_layers_ready(stream, 0, CACHE_LAYERS);
	} else {
		for (uint32_t layer = 0; layer < CACHE_LAYERS; layer++)
			kvx_stream_layers_ready(stream, layer, 1);
	}
	if (kind->tail)
		kvx_stream_tail_ready(stream);
}

static void run_request(struct request *request)
{
	_Atomic uint32_t word = 0;
	uint64_t begin_us = now_us();
	enum end end = request->kind->end;

	/* All layers but the last are ready, so the lease has to end it. */
	if (end == LEASED)
		kvx_stream_layers_ready(request->stream, 0, CACHE_LAYERS - 1);
	else
		tell_ready(request, &word);
	if (end == CANCELLED) {
		usleep(random_between(&request->hand->random, 1, REVOKE_US_MAX));
		kvx_stream_cancel(request->stream);
	}
	if (end != DROPPED) {
		own_ended(request, kvx_stream_wait(request->stream, KVX_ALL_LAYERS, PATIENCE_MS));
		request->took_us = now_us() - begin_us;
	}
	kvx_stream_close(request->stream);
	request->stream = NULL;
}

/* How a request between peers that stay may end, at either side: as its kind says, or whole because
 * that came first. Who comes when the other has ended already is refused. */
static bool is_own_end(enum end end, int code)
{
	switch (end) {
	case WHOLE:
		return code == 0;
	case CANCELLED:
	case DROPPED:
		return code == 0 || code == KVX_E_CANCELLED || code == KVX_E_LEASE ||
		       code == KVX_E_REFUSED;
	case REVOKED:
		return code == 0 || code == KVX_E_REVOKED || code == KVX_E_REFUSED;
	case LEASED:
		return code == KVX_E_LEASE || code == KVX_E_REFUSED;
	}
	return false;
}

/* Of a peer that goes nothing is known but that its requests end. */
static bool is_expected(const struct request *request, int code)
{
	bool stay = stays(request->hand->peer->name) && stays(request->to) &&
		    (!request->kind->together || stays(request->beside));

	if (request->alone)
		return code == KVX_E_CANCELLED || code == KVX_E_LEASE || code == KVX_E_PEER_LOST;
	if (stay)
		return is_own_end(request->kind->end, code);
	return code != KVX_E_TIMEDOUT && code != KVX_E_PROTOCOL && code != KVX_E_INVALID &&
	       code != KVX_E_TICKET && code != KVX_E_VERSION && code != KVX_E_GEOMETRY;
}

static void record_time(struct times *times, uint64_t us)
{
	uint32_t octave = 0;

	while (us >> octave >= 32 && octave < 27)
		octave++;
	uint64_t bucket = octave * 16 + (us >> octave);
	atomic_fetch_add(&times->buckets[bucket < TIMES_BUCKETS ? bucket : TIMES_BUCKETS - 1], 1);
}

static void tally(struct request *request)
{
	struct peer *peer = request->hand->peer;
	int code = request->own ? request->own : request->other;

	atomic_fetch_add(&peer->outcomes[request->kind - kinds][code < 0 ? -code : 0], 1);
	/* A server that has no blocks or no hand to spare refuses. */
	if (request->other == KVX_E_LIMIT)
		return;
	if (!code)
		atomic_fetch_add(&peer->bytes, (uint64_t)request->tokens * 8192);
	if (!code && request->kind == kinds && stays(peer->name) && stays(request->to))
		record_time(&peer->small, request->took_us);
	if (!is_expected(request, request->own) || !is_expected(request, request->other))
		complain(peer,
			 "%s: %s of %u tokens with %s %s: sender %s \"%s\", receiver %s \"%s\"",
			 peer->name, request->kind->name, request->tokens, request->to,
			 request->beside, kvx_error_name(request->own), request->own_text,
			 kvx_error_name(request->other), request->other_text);
}

static void drive_once(struct hand *hand)
{
	struct peer *peer = hand->peer;
	const struct kind *kind = draw_kind(&hand->random);
	struct request request = {
		.hand = hand,
		.kind = kind,
		.key = atomic_fetch_add(&peer->keys, 1),
		.tokens = random_between(&hand->random, kind->tokens_min, kind->tokens_max),
		.beside_channel = -1,
	};

	if (!draw_peer(hand, "", request.to) ||
	    !cache_take(&peer->cache, &hand->random, request.tokens, &request.table))
		return;
	request.channel = channel_dial(peer->folder, request.to);
	if (request.channel >= 0) {
		cache_fill(&peer->cache, &request.table, request.key, request.tokens);
		if (kind->tail)
			pattern_fill(tail_of(hand), TAIL_BYTES,
				     pattern_seed(request.key, TAIL_LAYER, 0, 0));
		if (open_both(&request)) {
			if (kind->together)
				ask_other_sender(&request);
			run_request(&request);
			hear(&request, request.channel, NULL, 0);
		}
		kvx_stream_close(request.stream);
		hear_other_sender(&request);
		tally(&request);
		close(request.channel);
	}
	cache_give(&peer->cache, &request.table);
}

void *drive(void *argument)
{
	struct hand *hand = argument;
	struct peer *peer = hand->peer;

	while (!atomic_load(&peer->drivers_end)) {
		usleep(1 + random_between(&hand->random, 0, peer->think_us));
		atomic_fetch_add(&peer->busy, 1);
		if (!atomic_load(&peer->paused))
			drive_once(hand);
		atomic_fetch_sub(&peer->busy, 1);
	}
	return NULL;
}
