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

static int write_ticket(struct kvx_grant *grant)
{
	struct kvx_engine *engine = grant->transfer.engine;
	struct kvx_ticket ticket = {
		.incarnation = engine->incarnation,
		.slot = grant->slot,
		.generation = grant->generation,
		.key = grant->key,
		.lease_ms = grant->lease_ms,
		.expires_ms = wall_clock_ms() + grant->lease_ms,
		.geometry = grant->pool->geometry,
		.packed = grant->pool->packed,
		.address = engine->address,
		.count = grant->image.count,
		.table = grant->table,
	};

	strcpy(ticket.name, engine->name);
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
	made->opened_ns = kvx_now_ns();
	made->image = (struct kvx_image){geometry->planes, count, geometry->block_bytes, 0};
	kvx_list_init(&made->entry);
	kvx_list_init(&made->peer_entry);
	kvx_list_init(&made->report_entry);
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
	 * lands, this thread lands. So the grant is fenced from here on. */
	if (!kvx_transfer_fail(&grant->transfer, code, text))
		return;
	kvx_count(engine, grants_failed, 1);
	detach(grant);
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

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct kvx_grant *grant = kvx_container_of(submission, struct kvx_grant, submission);
	struct kvx_engine *engine = grant->transfer.engine;

	if (wanted & KVX_GRANT_START)
		start(grant);
	if (wanted & (KVX_GRANT_REVOKE | KVX_GRANT_CLOSE))
		kvx_grant_end(grant, KVX_E_REVOKED,
			      wanted & KVX_GRANT_CLOSE ? "grant: the receiver closed it"
						       : "grant: the receiver revoked it");
	if (wanted & KVX_GRANT_REVOKE)
		kvx_engine_acknowledge(engine, &grant->fenced);
	if (wanted & KVX_GRANT_CLOSE) {
		kvx_grant_report(grant);
		detach(grant);
		atomic_store_explicit(&engine->slots[grant->slot], NULL, memory_order_release);
		kvx_engine_acknowledge(engine, &grant->closed);
	}
}

static int check_open(const struct kvx_grant *grant, const struct kvx_message *open)
{
	int error = kvx_geometry_match(&open->geometry, &grant->pool->geometry);

	if (error)
		return error;
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

int kvx_grant_accept(struct kvx_grant *grant, struct kvx_peer *peer, const struct kvx_message *open)
{
	int error = check_open(grant, open);

	if (error)
		return error;
	struct kvx_image image = grant->image;
	image.units = open->units;
	uint64_t hash = kvx_plan_hash(&grant->pool->geometry, &image, grant->table);
	if (hash != open->hash)
		return kvx_fail(
			KVX_E_PROTOCOL,
			"grant: the sender's plan (%016llx) is not the receiver's (%016llx)",
			(unsigned long long)open->hash, (unsigned long long)hash);
	grant->image = image;
	atomic_store_explicit(&grant->target, image.units, memory_order_release);
	grant->peer = peer;
	grant->stream = open->stream;
	kvx_list_append(&peer->grants, &grant->peer_entry);
	struct kvx_message accept = {
		.type = KVX_MESSAGE_ACCEPT, .stream = open->stream, .hash = hash};
	kvx_peer_say(peer, &accept);
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
