/* SPDX-License-Identifier: Apache-2.0 */
#include "core/grant.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/peer.h"
#include "core/ticket.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static void take(struct kvx_submission *submission, uint32_t wanted);
static void lease_ended(struct kvx_timer *timer);
static void drain_ended(struct kvx_timer *timer);

static int take_slot(struct kvx_grant *grant)
{
	struct kvx_engine *engine = grant->transfer.engine;

	pthread_mutex_lock(&engine->lock);
	bool found = engine->free_count > 0;
	if (found) {
		grant->slot = engine->free_slots[engine->free_first];
		engine->free_first = (engine->free_first + 1) % KVX_GRANTS_MAX;
		engine->free_count--;
		grant->generation = ++engine->generations[grant->slot];
		kvx_list_append(&engine->grants, &grant->entry);
	}
	pthread_mutex_unlock(&engine->lock);
	return found ? 0
		     : kvx_fail(KVX_E_LIMIT, "grant: %u grants are open, the most there can be",
				KVX_GRANTS_MAX);
}

static void give_slot_back(struct kvx_grant *grant)
{
	struct kvx_engine *engine = grant->transfer.engine;

	pthread_mutex_lock(&engine->lock);
	kvx_list_remove(&grant->entry);
	engine->free_slots[(engine->free_first + engine->free_count++) % KVX_GRANTS_MAX] =
		(uint16_t)grant->slot;
	pthread_mutex_unlock(&engine->lock);
}

static int64_t wall_clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / KVX_NS_PER_MS;
}

/* Which ports are near the pool's memory, for the sender to share by. */
static void give_hint(const struct kvx_engine *engine, const struct kvx_pool *pool,
		      struct kvx_ticket *ticket)
{
	for (uint32_t i = 0; i < engine->transport_count && !ticket->hint_bytes; i++) {
		const struct kvx_engine_transport *transport = &engine->transports[i];
		if (transport->ops->one_sided)
			ticket->hint_bytes = (uint8_t)transport->ops->hint(
				transport->instance, pool->memories[0], ticket->hint);
	}
}

static int write_ticket(struct kvx_grant *grant)
{
	struct kvx_engine *engine = grant->transfer.engine;
	const struct kvx_pool *pool = grant->pool;
	struct kvx_ticket ticket = {
		.incarnation = engine->incarnation,
		.slot = grant->slot,
		.generation = grant->generation,
		.key = grant->key,
		.lease_ms = grant->lease_ms,
		.expires_ms = wall_clock_ms() + grant->lease_ms,
		.geometry = pool->geometry,
		.packed = pool->packed,
		.address = pool->one_sided ? engine->one_sided_address : engine->address,
		.count = grant->image.count,
		.table = grant->table,
	};

	strcpy(ticket.name, engine->name);
	give_hint(engine, pool, &ticket);
	return kvx_ticket_encode(&ticket, &grant->ticket, &grant->ticket_bytes);
}

static int make_grant(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		      uint32_t lease_ms, struct kvx_grant **grant)
{
	struct kvx_grant *made = calloc(1, sizeof(*made));
	const struct kvx_geometry *geometry = &pool->geometry;

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "grant: out of memory");
	kvx_transfer_init(&made->transfer, pool->engine, "grant", geometry->layers);
	made->pool = pool;
	made->submission.take = take;
	made->lease_ms = lease_ms;
	made->lease.expired = lease_ended;
	made->drain.expired = drain_ended;
	made->drain_ms = (uint32_t)pool->engine->options.drain_ms;
	made->opened_ns = kvx_now_ns();
	made->image = (struct kvx_image){
		.planes = geometry->planes, .count = count, .block_bytes = geometry->block_bytes};
	kvx_list_init(&made->entry);
	kvx_list_init(&made->peer_entry);
	kvx_list_init(&made->report_entry);
	kvx_list_init(&made->lent_entry);
	made->table = malloc(count * sizeof(*blocks));
	made->counters = calloc(geometry->layers, sizeof(*made->counters));
	if (!made->table || !made->counters) {
		kvx_grant_free(made);
		return kvx_fail(KVX_E_MEMORY, "grant: out of memory for %u blocks", count);
	}
	if (getrandom(&made->key, sizeof(made->key), 0) != sizeof(made->key)) {
		kvx_grant_free(made);
		return kvx_fail(KVX_E_SYSTEM, "grant: getrandom gives no random bytes");
	}
	memcpy(made->table, blocks, count * sizeof(*blocks));
	made->table_hash = kvx_table_hash(blocks, count);
	*grant = made;
	return 0;
}

int kvx_grant_open(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count, uint32_t lease_ms,
		   struct kvx_grant **grant)
{
	struct kvx_grant *made = NULL;

	if (!pool || !blocks || !grant)
		return kvx_fail(KVX_E_INVALID, "grant: NULL argument");
	if (!lease_ms || lease_ms > KVX_TIMEOUT_MAX_MS)
		return kvx_fail(KVX_E_INVALID, "grant: a lease of %u ms: must be 1 to %u", lease_ms,
				KVX_TIMEOUT_MAX_MS);
	int error = kvx_pool_check_table(pool, "grant", blocks, count);
	if (error)
		return error;
	error = kvx_pool_claim(pool, blocks, count);
	if (error)
		return error;
	error = make_grant(pool, blocks, count, lease_ms, &made);
	if (error)
		goto fail_make;
	error = take_slot(made);
	if (error)
		goto fail_slot;
	error = write_ticket(made);
	if (error)
		goto fail_ticket;
	kvx_pool_use(pool, 1);
	atomic_store_explicit(&pool->engine->slots[made->slot], made, memory_order_release);
	kvx_engine_submit(pool->engine, &made->submission, KVX_GRANT_START);
	*grant = made;
	return 0;

fail_ticket:
	give_slot_back(made);
fail_slot:
	kvx_grant_free(made);
fail_make:
	kvx_pool_release(pool, blocks, count);
	return error;
}

void kvx_grant_free(struct kvx_grant *grant)
{
	kvx_transfer_finish(&grant->transfer);
	free(grant->counters);
	free(grant->ticket);
	free(grant->table);
	free(grant);
}

const void *kvx_grant_ticket(struct kvx_grant *grant, size_t *bytes)
{
	*bytes = grant->ticket_bytes;
	return grant->ticket;
}

int kvx_grant_wait(struct kvx_grant *grant, uint32_t layer, uint32_t timeout_ms)
{
	return kvx_transfer_wait(&grant->transfer, layer, timeout_ms);
}

int kvx_grant_poll(struct kvx_grant *grant, uint32_t layer)
{
	return kvx_transfer_poll(&grant->transfer, layer);
}

int kvx_grant_fd(struct kvx_grant *grant)
{
	return kvx_event_fd(&grant->transfer.event);
}

int kvx_grant_count(const struct kvx_grant *grant, uint32_t layer, uint32_t *arrived,
		    uint32_t *target)
{
	if (layer >= grant->transfer.layers)
		return kvx_fail(KVX_E_INVALID, "grant: layer %u: there are %u", layer,
				grant->transfer.layers);
	*arrived = atomic_load_explicit(&grant->counters[layer].arrived, memory_order_acquire);
	*target = atomic_load_explicit(&grant->target, memory_order_acquire);
	return 0;
}

int kvx_grant_revoke(struct kvx_grant *grant, uint32_t timeout_ms)
{
	if (timeout_ms > KVX_TIMEOUT_MAX_MS)
		return kvx_fail(KVX_E_INVALID, "grant: a time-out of %u ms is longer than %u",
				timeout_ms, KVX_TIMEOUT_MAX_MS);
	atomic_store_explicit(&grant->drain_ms, timeout_ms, memory_order_relaxed);
	atomic_store_explicit(&grant->fenced, false, memory_order_relaxed);
	kvx_engine_request(grant->transfer.engine, &grant->submission, KVX_GRANT_REVOKE,
			   &grant->fenced);
	return 0;
}

void kvx_grant_close(struct kvx_grant *grant)
{
	if (!grant)
		return;
	kvx_engine_request(grant->transfer.engine, &grant->submission, KVX_GRANT_CLOSE,
			   &grant->closed);
	kvx_pool_release(grant->pool, grant->table, grant->image.count);
	kvx_pool_use(grant->pool, -1);
	give_slot_back(grant);
	kvx_grant_free(grant);
}

/* --- the worker's --- */

struct kvx_grant *kvx_grant_find(struct kvx_engine *engine, uint32_t slot, uint32_t generation)
{
	struct kvx_grant *grant = slot < KVX_GRANTS_MAX ? atomic_load_explicit(&engine->slots[slot],
									       memory_order_acquire)
							: NULL;

	return grant && grant->generation == generation ? grant : NULL;
}

static int64_t lease_end_ns(const struct kvx_grant *grant)
{
	return grant->opened_ns + grant->lease_ms * KVX_NS_PER_MS;
}

static void start(struct kvx_grant *grant)
{
	struct kvx_engine *engine = grant->transfer.engine;

	kvx_count(engine, grants_opened, 1);
	if (kvx_transfer_ended(&grant->transfer))
		return;
	if (kvx_timer_start(&engine->timers, &grant->lease, lease_end_ns(grant)))
		kvx_grant_end(grant, KVX_E_MEMORY, "grant: out of memory for its lease");
}

static void detach(struct kvx_grant *grant)
{
	kvx_timer_stop(&grant->transfer.engine->timers, &grant->lease);
	kvx_list_remove(&grant->report_entry);
	kvx_list_remove(&grant->peer_entry);
	grant->peer = NULL;
}

void kvx_grant_end(struct kvx_grant *grant, int code, const char *text)
{
	struct kvx_engine *engine = grant->transfer.engine;
	struct kvx_peer *peer = grant->peer;

	/* A complete grant is still its peer's until the sender is told. */
	kvx_grant_report(grant);
	/* kvx_arrival_place() refuses an ended grant, and no byte is under way outside of it: what
	 * lands, this thread lands. So the grant is fenced from here on, but for a permit that a
	 * one-sided transport holds. */
	if (!kvx_transfer_fail(&grant->transfer, code, text))
		return;
	kvx_count(engine, grants_failed, 1);
	detach(grant);
	kvx_grant_fence(grant);
	if (!peer || !kvx_peer_is_up(peer))
		return;
	struct kvx_message revoke = {
		.type = KVX_MESSAGE_REVOKE, .stream = grant->stream, .code = code};
	snprintf(revoke.text, sizeof(revoke.text), "%s", text);
	kvx_peer_say(peer, &revoke);
}

static void end_lease(struct kvx_grant *grant)
{
	char text[128];

	snprintf(text, sizeof(text),
		 "grant: its lease of %u ms has ended with %u of %u layers whole", grant->lease_ms,
		 atomic_load(&grant->transfer.done_count), grant->transfer.layers);
	kvx_grant_end(grant, KVX_E_LEASE, text);
}

static void lease_ended(struct kvx_timer *timer)
{
	end_lease(kvx_container_of(timer, struct kvx_grant, lease));
}

void kvx_grant_cancel(struct kvx_grant *grant, const char *text)
{
	/* The sender watches the lease too, and may be a moment ahead of this engine's timer. */
	if (kvx_now_ns() >= lease_end_ns(grant))
		end_lease(grant);
	else
		kvx_grant_end(grant, KVX_E_CANCELLED, text);
}

/* --- the fence of one-sided transports --- */

static void close_fence(struct kvx_grant *grant, bool stopped)
{
	kvx_timer_stop(&grant->transfer.engine->timers, &grant->drain);
	grant->fence = KVX_FENCE_CLOSING;
	grant->lender->link->ops->forbid(grant->lender->link, &grant->permit, stopped);
}

static void drain_ended(struct kvx_timer *timer)
{
	close_fence(kvx_container_of(timer, struct kvx_grant, drain), false);
}

static void start_drain(struct kvx_grant *grant)
{
	struct kvx_engine *engine = grant->transfer.engine;
	int64_t wait_ns = atomic_load_explicit(&grant->drain_ms, memory_order_relaxed) *
			  (int64_t)KVX_NS_PER_MS;

	grant->fence = KVX_FENCE_DRAINING;
	kvx_timer_stop(&engine->timers, &grant->drain);
	if (!wait_ns || kvx_timer_start(&engine->timers, &grant->drain, engine->now_ns + wait_ns))
		close_fence(grant, false);
}

/* A complete grant's sender has to stop too: what it sent again after a rail failed may be under
 * way, though nobody waits for it. */
void kvx_grant_fence(struct kvx_grant *grant)
{
	/* Where the peer is not up its link is about to be disconnected, which fences too. */
	if (grant->fence != KVX_FENCE_OPEN || !grant->lender || !kvx_peer_is_up(grant->lender) ||
	    grant->lender->condemned)
		return;
	if (grant->drained)
		close_fence(grant, true);
	else
		start_drain(grant);
}

void kvx_grant_drained(struct kvx_grant *grant)
{
	grant->drained = true;
	if (grant->fence == KVX_FENCE_DRAINING)
		close_fence(grant, true);
}

void kvx_grant_orphan(struct kvx_grant *grant)
{
	kvx_timer_stop(&grant->transfer.engine->timers, &grant->drain);
	kvx_list_remove(&grant->lent_entry);
	grant->lender = NULL;
	grant->fence = KVX_FENCE_CLOSING;
}

static void acknowledge(struct kvx_grant *grant)
{
	struct kvx_engine *engine = grant->transfer.engine;
	uint32_t requests = grant->requests;

	grant->requests = 0;
	if (requests & KVX_GRANT_REVOKE)
		kvx_engine_acknowledge(engine, &grant->fenced);
	if (requests & KVX_GRANT_CLOSE) {
		atomic_store_explicit(&engine->slots[grant->slot], NULL, memory_order_release);
		kvx_engine_acknowledge(engine, &grant->closed);
	}
}

void kvx_grant_forbidden(struct kvx_grant *grant)
{
	kvx_list_remove(&grant->lent_entry);
	grant->lender = NULL;
	grant->fence = KVX_FENCE_CLOSED;
	acknowledge(grant);
}

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct kvx_grant *grant = kvx_container_of(submission, struct kvx_grant, submission);

	if (wanted & KVX_GRANT_START)
		start(grant);
	if (wanted & (KVX_GRANT_REVOKE | KVX_GRANT_CLOSE))
		kvx_grant_end(grant, KVX_E_REVOKED,
			      wanted & KVX_GRANT_CLOSE ? "grant: the receiver closed it"
						       : "grant: the receiver revoked it");
	if (wanted & KVX_GRANT_REVOKE && grant->fence == KVX_FENCE_DRAINING)
		start_drain(grant); /* by the deadline of who revokes */
	if (wanted & KVX_GRANT_CLOSE) {
		kvx_grant_report(grant);
		detach(grant);
	}
	grant->requests |= wanted & (KVX_GRANT_REVOKE | KVX_GRANT_CLOSE);
	if (grant->fence == KVX_FENCE_CLOSED)
		acknowledge(grant);
}

static int check_open(const struct kvx_grant *grant, const struct kvx_peer *peer,
		      const struct kvx_message *open)
{
	int error = kvx_geometry_match(&open->geometry, &grant->pool->geometry);

	if (error)
		return error;
	if (grant->pool->one_sided && !peer->link->ops->one_sided)
		return kvx_fail(KVX_E_REFUSED,
				"grant: its memory is a device's, which %s does not reach",
				peer->link->ops->name);
	if (open->key != grant->key)
		return kvx_fail(KVX_E_REFUSED, "grant: the ticket's key is not this grant's");
	if (grant->target)
		return kvx_fail(KVX_E_REFUSED, "grant: a sender has presented this ticket already");
	if (kvx_transfer_ended(&grant->transfer))
		return kvx_fail(grant->transfer.end < 0 ? grant->transfer.end : KVX_E_REFUSED, "%s",
				grant->transfer.text ? grant->transfer.text
						     : "grant: it has ended");
	if (open->count != grant->image.count)
		return kvx_fail(KVX_E_GEOMETRY, "grant: of %u blocks, but the stream has %u",
				grant->image.count, open->count);
	if (!open->units || open->units > kvx_image_units(&grant->image, 1))
		return kvx_fail(KVX_E_PROTOCOL,
				"grant: %u units in a layer of %u blocks and %u planes",
				open->units, grant->image.count, grant->image.planes);
	return 0;
}

/* How peers name the places of the pool's tensors, as few runs. */
static void say_layout(struct kvx_grant *grant)
{
	const struct kvx_pool *pool = grant->pool;
	struct kvx_message layout = {.type = KVX_MESSAGE_LAYOUT, .stream = grant->stream};
	uint32_t tensors = kvx_pool_tensors(pool);

	for (uint32_t first = 0, next; first < tensors; first = next) {
		struct kvx_layout_run *run = &layout.layout[layout.count++];
		next = kvx_pool_layout_run(pool, first, run);
		if (layout.count < KVX_LAYOUT_RUNS_MAX && next < tensors)
			continue;
		kvx_peer_say(grant->peer, &layout);
		layout.count = 0;
	}
}

static void say_accept(struct kvx_grant *grant)
{
	struct kvx_message accept = {
		.type = KVX_MESSAGE_ACCEPT, .stream = grant->stream, .hash = grant->hash};

	kvx_peer_say(grant->peer, &accept);
}

void kvx_grant_permitted(struct kvx_grant *grant)
{
	if (!grant->peer)
		return; /* it has ended in the meantime */
	say_layout(grant);
	say_accept(grant);
}

static bool lend(struct kvx_grant *grant, struct kvx_peer *peer)
{
	const struct kvx_pool *pool = grant->pool;

	grant->permit = (struct kvx_permit){
		.slot = grant->slot,
		.generation = grant->generation,
		.memories = pool->memories,
		.memory_count = pool->memory_count,
	};
	if (!peer->link->ops->permit(peer->link, &grant->permit))
		return false;
	grant->fence = KVX_FENCE_OPEN;
	grant->lender = peer;
	kvx_list_append(&peer->lent, &grant->lent_entry);
	return true;
}

int kvx_grant_accept(struct kvx_grant *grant, struct kvx_peer *peer, const struct kvx_message *open)
{
	int error = check_open(grant, peer, open);

	if (error)
		return error;
	struct kvx_image image = grant->image;
	if (!kvx_image_cut(&image, open->units, open->weighted ? open->weights : NULL))
		return kvx_fail(KVX_E_PROTOCOL, "grant: the sender's plan has units without bytes");
	uint64_t hash = kvx_plan_hash(&grant->pool->geometry, &image, grant->table_hash);
	if (hash != open->hash)
		return kvx_fail(
			KVX_E_PROTOCOL,
			"grant: the sender's plan (%016llx) is not the receiver's (%016llx)",
			(unsigned long long)open->hash, (unsigned long long)hash);
	if (peer->link->ops->one_sided && !lend(grant, peer))
		return kvx_fail(KVX_E_MEMORY, "grant: out of memory");
	grant->image = image;
	atomic_store_explicit(&grant->target, image.units, memory_order_release);
	grant->peer = peer;
	grant->stream = open->stream;
	grant->hash = hash;
	kvx_list_append(&peer->grants, &grant->peer_entry);
	if (!peer->link->ops->one_sided) /* else once the permit is in force */
		say_accept(grant);
	return 0;
}

void kvx_grant_report(struct kvx_grant *grant)
{
	uint32_t layers = grant->transfer.layers;

	if (kvx_list_empty(&grant->report_entry))
		return;
	kvx_list_remove(&grant->report_entry);
	for (uint32_t layer = 0, first; layer < layers; layer++) {
		for (first = layer;
		     layer < layers && kvx_transfer_layer_done(&grant->transfer, layer) &&
		     !(grant->reported[layer / 64] >> (layer % 64) & 1);
		     layer++)
			grant->reported[layer / 64] |= UINT64_C(1) << (layer % 64);
		if (layer == first)
			continue;
		struct kvx_message whole = {.type = KVX_MESSAGE_WHOLE,
					    .stream = grant->stream,
					    .first = first,
					    .count = layer - first};
		kvx_peer_say(grant->peer, &whole);
	}
	if (grant->transfer.end == KVX_TRANSFER_COMPLETE)
		detach(grant);
}
