/* SPDX-License-Identifier: Apache-2.0 */
#include "core/feed.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/grant.h"
#include "core/peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void drain_ended(struct kvx_timer *timer);

void kvx_feed_init(struct kvx_feed *feed, struct kvx_grant *grant)
{
	feed->grant = grant;
	feed->drain.expired = drain_ended;
	kvx_list_init(&feed->peer_entry);
	kvx_list_init(&feed->report_entry);
	kvx_list_init(&feed->lent_entry);
}

static struct kvx_engine *engine_of(const struct kvx_feed *feed)
{
	return feed->grant->transfer.engine;
}

struct kvx_feed *kvx_feed_find(struct kvx_grant *grant, const struct kvx_peer *peer)
{
	for (uint32_t i = 0; i < grant->came; i++)
		if (grant->feeds[i].peer == peer || grant->feeds[i].lender == peer)
			return &grant->feeds[i];
	return NULL;
}

/* --- a sender comes --- */

/* Of what this sender would move alone. */
static uint64_t open_hash(const struct kvx_grant *grant, const struct kvx_message *open)
{
	const struct kvx_shape *theirs = &grant->pool->shape;
	struct kvx_shape ours;
	struct kvx_share share;
	struct kvx_image image;

	kvx_shape_of(&open->geometry, &ours);
	kvx_share_alone(&ours, theirs, grant->token_first, grant->token_end, &share);
	kvx_image_make(&image, &ours, theirs, &share, grant->token_first, grant->token_end);
	kvx_image_cut(&image, open->units, open->weighted ? open->weights : NULL);
	return kvx_plan_hash(&grant->pool->geometry, &image, &share, grant->table_hash);
}

static int check_open(struct kvx_grant *grant, const struct kvx_peer *peer,
		      const struct kvx_message *open)
{
	/* First, since what else is wrong tells of the pool. */
	if (open->key != grant->key)
		return kvx_fail(KVX_E_REFUSED, "grant: the ticket's key is not this grant's");
	int error = kvx_geometry_match(&open->geometry, &grant->pool->geometry);
	if (error)
		return error;
	if (!kvx_engine_reaches(peer->engine, kvx_pool_reach(grant->pool, &grant->tail),
				peer->link))
		return kvx_fail(KVX_E_REFUSED, "grant: %s does not move its memory",
				peer->link->ops->name);
	if (kvx_feed_find(grant, peer))
		return kvx_fail(KVX_E_REFUSED,
				"grant: this sender has presented this ticket already");
	if (grant->came == grant->senders)
		return kvx_fail(KVX_E_REFUSED,
				"grant: a sender has presented this ticket already, or as many as "
				"the grant takes (%u)",
				grant->senders);
	if (kvx_transfer_ended(&grant->transfer))
		return kvx_fail(grant->transfer.end < 0 ? grant->transfer.end : KVX_E_REFUSED, "%s",
				grant->transfer.text ? grant->transfer.text
						     : "grant: it has ended");
	if (!open->units || open->units > KVX_UNITS_MAX / grant->senders)
		return kvx_fail(KVX_E_PROTOCOL, "grant: %u units a layer, of at most %u",
				open->units, KVX_UNITS_MAX / grant->senders);
	if (open->tail && !grant->tail.bytes)
		return kvx_fail(KVX_E_REFUSED, "grant: it has no tail, but the stream has");
	uint64_t hash = open_hash(grant, open);
	if (hash != open->hash)
		return kvx_fail(
			KVX_E_PROTOCOL,
			"grant: the sender's plan (%016llx) is not the receiver's (%016llx)",
			(unsigned long long)open->hash, (unsigned long long)hash);
	return 0;
}

static bool lend(struct kvx_feed *feed, struct kvx_peer *peer)
{
	const struct kvx_grant *grant = feed->grant;

	feed->permit = (struct kvx_permit){
		.slot = grant->slot,
		.generation = grant->generation,
		.memories = grant->memories,
		.memory_count = grant->memory_count,
	};
	if (!peer->link->ops->permit(peer->link, &feed->permit))
		return false;
	feed->fence = KVX_FENCE_OPEN;
	feed->lender = peer;
	kvx_list_append(&peer->lent, &feed->lent_entry);
	return true;
}

/* --- all senders have come --- */

size_t kvx_feed_names(const struct kvx_grant *grant, char *text, size_t size)
{
	size_t length = 0;

	for (uint32_t i = 0; i < grant->came && length < size; i++)
		length += (size_t)snprintf(text + length, size - length, "%s%u is %s",
					   i ? ", " : "", i, grant->feeds[i].name);
	return length;
}

/* Texts of the plan know the senders by the order in which they came. */
static int name_senders(const struct kvx_grant *grant, int error)
{
	char why[KVX_ERROR_TEXT_MAX + 1], names[KVX_ERROR_TEXT_MAX + 1] = "";

	if (grant->senders == 1)
		return error;
	snprintf(why, sizeof(why), "%s", kvx_error_text());
	kvx_feed_names(grant, names, sizeof(names));
	return kvx_fail(error, "%s; sender %s", why, names);
}

/* Divides the request among them. Fails if their parts do not make it whole. */
static int share_out(struct kvx_grant *grant)
{
	struct kvx_geometry senders[KVX_SENDERS_MAX];
	struct kvx_share shares[KVX_SENDERS_MAX];
	uint32_t tails = 0;

	for (uint32_t i = 0; i < grant->came; i++) {
		senders[i] = grant->feeds[i].geometry;
		tails += grant->feeds[i].tail;
	}
	int error = kvx_share_out(&grant->pool->geometry, grant->token_first, grant->token_end,
				  senders, grant->came, shares);
	if (!error && grant->tail.bytes && tails != 1)
		error = kvx_fail(KVX_E_GEOMETRY,
				 "grant: %u of its %u senders have a tail: exactly one must", tails,
				 grant->came);
	for (uint32_t i = 0; !error && i < grant->came; i++)
		grant->feeds[i].share = shares[i];
	return error ? name_senders(grant, error) : 0;
}

static void want(struct kvx_feed *feed, uint32_t layer, uint64_t units)
{
	struct kvx_counter *counter = kvx_grant_counter(feed->grant, layer);

	counter->wanted |= units;
	feed->layers_left++;
}

/* Its plan, its units' numbers, and what is to arrive of it. */
static void plan(struct kvx_feed *feed, uint32_t unit_first)
{
	struct kvx_grant *grant = feed->grant;
	struct kvx_shape shape;

	kvx_shape_of(&feed->geometry, &shape);
	kvx_image_make(&feed->image, &shape, &grant->pool->shape, &feed->share, grant->token_first,
		       grant->token_end);
	kvx_image_cut(&feed->image, feed->units, feed->weighted ? feed->weights : NULL);
	kvx_lay_out(&feed->image, &grant->pool->shape, &feed->share, feed->lays);
	feed->hash = kvx_plan_hash(&grant->pool->geometry, &feed->image, &feed->share,
				   grant->table_hash);
	feed->unit_first = unit_first;
	feed->wanted = kvx_image_filled(&feed->image) << unit_first;
	memset(&grant->feed_of_unit[unit_first], (int)(feed - grant->feeds), feed->units);
	for (uint32_t i = 0; feed->wanted && i < feed->share.layers; i++)
		want(feed, feed->share.layer_first + i, feed->wanted);
	if (feed->tail)
		want(feed, KVX_TAIL, UINT64_C(1) << unit_first);
}

/* How peers name the places of the pool's tensors, as few runs, and then the tail's. */
static void say_layout(const struct kvx_feed *feed)
{
	const struct kvx_grant *grant = feed->grant;
	const struct kvx_pool *pool = grant->pool;
	struct kvx_message layout = {.type = KVX_MESSAGE_LAYOUT, .stream = feed->stream};
	uint32_t tensors = kvx_pool_tensors(pool);

	for (uint32_t first = 0, next; first < tensors; first = next) {
		struct kvx_layout_run *run = &layout.layout[layout.count++];
		next = kvx_pool_layout_run(pool, first, run);
		if (layout.count < KVX_LAYOUT_RUNS_MAX && next < tensors)
			continue;
		kvx_peer_say(feed->peer, &layout);
		layout.count = 0;
	}
	if (!feed->tail)
		return;
	layout.layout[0] = (struct kvx_layout_run){.tensors = 1, .base = grant->tail.offset};
	while (grant->memories[layout.layout[0].memory] != grant->tail_place.memory)
		layout.layout[0].memory++;
	layout.count = 1;
	kvx_peer_say(feed->peer, &layout);
}

/* Once all senders have come, and a one-sided transport's permit is in force. */
static void say_accept(const struct kvx_feed *feed)
{
	struct kvx_message accept = {
		.type = KVX_MESSAGE_ACCEPT,
		.stream = feed->stream,
		.unit_first = feed->unit_first,
		.planes = feed->grant->pool->shape.planes,
		.share = feed->share,
		.hash = feed->hash,
	};

	if (!feed->grant->shared_out || !feed->peer)
		return;
	if (feed->peer->link->ops->one_sided) {
		if (!feed->permitted)
			return;
		say_layout(feed);
	}
	kvx_peer_say(feed->peer, &accept);
}

/* The first layer's last: who sees that sees them all. */
static void tell_targets(const struct kvx_grant *grant)
{
	for (uint32_t i = grant->transfer.layers + 1; i-- > 0;) {
		struct kvx_counter *counter = &grant->counters[i];
		atomic_store_explicit(&counter->target,
				      (uint32_t)__builtin_popcountll(counter->wanted),
				      memory_order_release);
	}
}

static void begin(struct kvx_grant *grant)
{
	uint32_t units = 0;

	grant->shared_out = true;
	for (uint32_t i = 0; i < grant->came; i++) {
		plan(&grant->feeds[i], units);
		units += grant->feeds[i].units;
	}
	tell_targets(grant);
	for (uint32_t i = 0; i < grant->came; i++)
		say_accept(&grant->feeds[i]);
}

static void take_in(struct kvx_feed *feed, const struct kvx_peer *peer,
		    const struct kvx_message *open)
{
	pthread_mutex_lock(&engine_of(feed)->lock);
	strcpy(feed->name, peer->info.name);
	feed->incarnation = peer->info.incarnation;
	pthread_mutex_unlock(&engine_of(feed)->lock);
	feed->stream = open->stream;
	feed->geometry = open->geometry;
	feed->tail = open->tail;
	feed->units = open->units;
	feed->weighted = open->weighted;
	memcpy(feed->weights, open->weights, sizeof(feed->weights));
}

static int accept(struct kvx_grant *grant, struct kvx_peer *peer, const struct kvx_message *open)
{
	int error = check_open(grant, peer, open);

	if (error)
		return error;
	struct kvx_feed *feed = &grant->feeds[grant->came];
	take_in(feed, peer, open);
	grant->came++;
	bool all = grant->came == grant->senders;
	if (all)
		error = share_out(grant);
	if (!error && peer->link->ops->one_sided && !lend(feed, peer))
		error = kvx_fail(KVX_E_MEMORY, "grant: out of memory");
	if (error) {
		grant->came--;
		return error;
	}
	feed->peer = peer;
	kvx_list_append(&peer->feeds, &feed->peer_entry);
	peer->transfers++;
	if (all)
		begin(grant);
	return 0;
}

int kvx_feed_accept(struct kvx_grant *grant, struct kvx_peer *peer, const struct kvx_message *open)
{
	int error = accept(grant, peer, open);

	/* Who waits should learn of it, should nobody come in its place. */
	if (error && open->key == grant->key) {
		free(grant->refusal);
		grant->refusal = strdup(kvx_error_text());
	}
	return error;
}

void kvx_feed_permitted(struct kvx_feed *feed)
{
	feed->permitted = true;
	say_accept(feed);
}

/* --- while bytes arrive --- */

static void tell_arrived(struct kvx_feed *feed, uint32_t first, uint32_t count)
{
	struct kvx_message whole = {
		.type = KVX_MESSAGE_WHOLE, .stream = feed->stream, .first = first, .count = count};

	if (feed->peer)
		kvx_peer_say(feed->peer, &whole);
}

static bool take_arrived(struct kvx_feed *feed, uint32_t layer)
{
	uint64_t bit = UINT64_C(1) << (layer % 64);

	if (!(feed->arrived[layer / 64] & ~feed->reported[layer / 64] & bit))
		return false;
	feed->reported[layer / 64] |= bit;
	return true;
}

void kvx_feed_report(struct kvx_feed *feed)
{
	uint32_t layers = feed->grant->transfer.layers;

	if (kvx_list_empty(&feed->report_entry))
		return;
	kvx_list_remove(&feed->report_entry);
	for (uint32_t layer = 0, first; layer < layers; layer++) {
		for (first = layer; layer < layers && take_arrived(feed, layer);)
			layer++;
		if (layer > first)
			tell_arrived(feed, first, layer - first);
	}
	if (take_arrived(feed, KVX_TAIL))
		tell_arrived(feed, KVX_TAIL, 1);
	if (!feed->layers_left)
		kvx_feed_detach(feed);
}

void kvx_feed_detach(struct kvx_feed *feed)
{
	kvx_list_remove(&feed->report_entry);
	kvx_list_remove(&feed->peer_entry);
	if (feed->peer)
		feed->peer->transfers--;
	feed->peer = NULL;
}

void kvx_feed_lost(struct kvx_feed *feed, int code, const char *text)
{
	if (feed->grant->shared_out && !feed->layers_left)
		kvx_feed_detach(feed);
	else
		kvx_grant_end(feed->grant, code, text);
}

/* --- the fence of one-sided transports --- */

static void close_fence(struct kvx_feed *feed, bool stopped)
{
	kvx_timer_stop(&engine_of(feed)->timers, &feed->drain);
	feed->fence = KVX_FENCE_CLOSING;
	feed->lender->link->ops->forbid(feed->lender->link, &feed->permit, stopped);
}

static void drain_ended(struct kvx_timer *timer)
{
	close_fence(kvx_container_of(timer, struct kvx_feed, drain), false);
}

void kvx_feed_drain(struct kvx_feed *feed)
{
	struct kvx_engine *engine = engine_of(feed);
	int64_t wait_ns = atomic_load_explicit(&feed->grant->drain_ms, memory_order_relaxed) *
			  (int64_t)KVX_NS_PER_MS;

	feed->fence = KVX_FENCE_DRAINING;
	kvx_timer_stop(&engine->timers, &feed->drain);
	if (!wait_ns || kvx_timer_start(&engine->timers, &feed->drain, engine->now_ns + wait_ns))
		close_fence(feed, false);
}

/* A complete grant's senders have to stop too: what they sent again after a rail failed may be
 * under way, though nobody waits for it. */
void kvx_feed_fence(struct kvx_feed *feed)
{
	/* Where the peer is not up its link is about to be disconnected, which fences too. */
	if (feed->fence != KVX_FENCE_OPEN || !feed->lender || !kvx_peer_is_up(feed->lender) ||
	    feed->lender->condemned)
		return;
	if (feed->drained)
		close_fence(feed, true);
	else
		kvx_feed_drain(feed);
}

void kvx_feed_drained(struct kvx_feed *feed)
{
	feed->drained = true;
	if (feed->fence == KVX_FENCE_DRAINING)
		close_fence(feed, true);
}

void kvx_feed_orphan(struct kvx_feed *feed)
{
	kvx_timer_stop(&engine_of(feed)->timers, &feed->drain);
	kvx_list_remove(&feed->lent_entry);
	feed->lender = NULL;
	feed->fence = KVX_FENCE_CLOSING;
}

void kvx_feed_forbidden(struct kvx_feed *feed)
{
	kvx_list_remove(&feed->lent_entry);
	feed->lender = NULL;
	feed->fence = KVX_FENCE_CLOSED;
	kvx_grant_acknowledge(feed->grant);
}
