/* SPDX-License-Identifier: Apache-2.0 */
#include "core/grant.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/journal.h"
#include "core/offer.h"
#include "core/peer.h"
#include "core/region.h"
#include "core/seal.h"
#include "core/ticket.h"
#include "trace.h"

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
		if (transport->ops->one_sided && pool->reach >> i & 1)
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
		.token_first = grant->token_first,
		.token_end = grant->token_end,
		.senders = grant->senders,
		.tail_bytes = grant->tail.bytes,
		.address = kvx_engine_write_address(engine, kvx_pool_reach(pool, &grant->tail)),
		.count = grant->count,
		.table = grant->table,
	};

	if (!ticket.address)
		return kvx_fail(KVX_E_MEMORY, "grant: out of memory for its ticket");
	strcpy(ticket.name, engine->name);
	give_hint(engine, pool, &ticket);
	int error = kvx_ticket_encode(&ticket, &grant->ticket, &grant->ticket_bytes);
	free(ticket.address);
	return error ? error
		     : kvx_ticket_seal(engine->keyring, &grant->ticket, &grant->ticket_bytes);
}

/* Options are copied before they are completed. */
static int complete_options(const struct kvx_pool *pool, uint32_t count,
			    const struct kvx_grant_options *given,
			    struct kvx_grant_options *options)
{
	uint64_t block_tokens = pool->shape.block_tokens, most = count * block_tokens;

	*options = given ? *given : (struct kvx_grant_options){0};
	if (most > UINT32_MAX)
		return kvx_fail(KVX_E_LIMIT, "grant: %u blocks of %u tokens are more than 2^32 - 1",
				count, pool->shape.block_tokens);
	if (!options->tokens)
		options->tokens = (uint32_t)most;
	if (!options->senders)
		options->senders = 1;
	if (options->tokens > most || options->tokens <= most - block_tokens)
		return kvx_fail(KVX_E_INVALID,
				"grant: a request of %u tokens does not fill %u blocks of %u: must "
				"be %u to %u",
				options->tokens, count, pool->shape.block_tokens,
				(uint32_t)(most - block_tokens + 1), (uint32_t)most);
	if (options->held_blocks >= count)
		return kvx_fail(KVX_E_INVALID,
				"grant: %u of its %u blocks are held already: at least one must "
				"not be",
				options->held_blocks, count);
	if (options->senders > KVX_SENDERS_MAX)
		return kvx_fail(KVX_E_INVALID, "grant: %u senders: must be at most %u",
				options->senders, KVX_SENDERS_MAX);
	return kvx_pool_check_tail(pool, "grant", &options->tail);
}

/* The memories that its senders may write into. */
static int list_memories(struct kvx_grant *grant)
{
	const struct kvx_pool *pool = grant->pool;

	grant->memories = malloc((pool->memory_count + 1) * sizeof(const struct kvx_memory *));
	if (!grant->memories)
		return kvx_fail(KVX_E_MEMORY, "grant: out of memory");
	memcpy((void *)grant->memories, (const void *)pool->memories,
	       pool->memory_count * sizeof(const struct kvx_memory *));
	grant->memory_count = pool->memory_count;
	if (!grant->tail.bytes)
		return 0;
	const struct kvx_memory *memory = &grant->tail.region->memory;
	grant->tail_place = (struct kvx_source){memory->address + grant->tail.offset, 0, memory};
	for (uint32_t i = 0; i < grant->memory_count; i++)
		if (grant->memories[i] == memory)
			return 0;
	grant->memories[grant->memory_count++] = memory;
	return 0;
}

static int make_grant(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		      const struct kvx_grant_options *options, uint32_t lease_ms,
		      struct kvx_grant **grant)
{
	struct kvx_grant *made = calloc(1, sizeof(*made));
	uint32_t layers = pool->geometry.layers;

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "grant: out of memory");
	kvx_transfer_init(&made->transfer, pool->engine, "grant", &pool->engine->drain.grants,
			  layers, options->tail.bytes != 0);
	made->pool = pool;
	made->submission.take = take;
	made->lease_ms = lease_ms;
	made->lease.expired = lease_ended;
	made->drain_ms = (uint32_t)kvx_option(&pool->engine->options, drain_ms);
	made->opened_ns = kvx_now_ns();
	made->count = count;
	made->token_first = options->held_blocks * pool->shape.block_tokens;
	made->token_end = options->tokens;
	made->tail = options->tail;
	made->senders = options->senders;
	kvx_roster_init(&made->entry);
	kvx_list_init(&made->pulls);
	made->table = malloc(count * sizeof(*blocks));
	made->counters = calloc(layers + 1, sizeof(*made->counters));
	made->feeds = calloc(made->senders, sizeof(*made->feeds));
	if (!made->table || !made->counters || !made->feeds || list_memories(made)) {
		kvx_grant_free(made);
		return kvx_fail(KVX_E_MEMORY, "grant: out of memory for %u blocks", count);
	}
	for (uint32_t i = 0; i < made->senders; i++)
		kvx_feed_init(&made->feeds[i], made);
	if (getrandom(&made->key, sizeof(made->key), 0) != sizeof(made->key)) {
		kvx_grant_free(made);
		return kvx_fail(KVX_E_SYSTEM, "grant: getrandom gives no random bytes");
	}
	memcpy(made->table, blocks, count * sizeof(*blocks));
	made->table_hash = kvx_table_hash(blocks, count);
	*grant = made;
	return 0;
}

/* The pool and the tail's region stay open while the grant is. */
static void use(const struct kvx_grant *grant, int change)
{
	kvx_pool_use(grant->pool, change);
	kvx_region_use(grant->tail.region, change);
}

int kvx_grant_open(struct kvx_pool *pool, const uint32_t *blocks, uint32_t count,
		   const struct kvx_grant_options *options, uint32_t lease_ms,
		   struct kvx_grant **grant)
{
	struct kvx_grant_options complete;
	struct kvx_grant *made = NULL;

	if (!pool || !blocks || !grant)
		return kvx_fail(KVX_E_INVALID, "grant: NULL argument");
	if (!lease_ms || lease_ms > KVX_TIMEOUT_MAX_MS)
		return kvx_fail(KVX_E_INVALID, "grant: a lease of %u ms: must be 1 to %u", lease_ms,
				KVX_TIMEOUT_MAX_MS);
	struct kvx_engine *engine = pool->engine;
	int error = kvx_pool_check_table(pool, "grant", blocks, count);
	if (!error)
		error = complete_options(pool, count, options, &complete);
	if (!error)
		error = kvx_drain_enter(engine, &engine->drain.grants);
	if (error)
		return error;
	error = kvx_pool_claim(pool, blocks, complete.held_blocks, count);
	if (error)
		goto fail_claim;
	error = make_grant(pool, blocks, count, &complete, lease_ms, &made);
	if (error)
		goto fail_make;
	error = take_slot(made);
	if (error)
		goto fail_slot;
	error = write_ticket(made);
	if (error)
		goto fail_ticket;
	use(made, 1);
	kvx_engine_enlist(engine, &engine->grants, &made->entry, &made->transfer.id);
	atomic_store_explicit(&engine->slots[made->slot], made, memory_order_release);
	kvx_engine_submit(engine, &made->submission, KVX_GRANT_START);
	*grant = made;
	return 0;

fail_ticket:
	give_slot_back(made);
fail_slot:
	kvx_grant_free(made);
fail_make:
	kvx_pool_disclaim(pool, blocks, complete.held_blocks, count);
fail_claim:
	kvx_drain_leave(engine, &engine->drain.grants);
	return error;
}

void kvx_grant_free(struct kvx_grant *grant)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &grant->pulls)
		kvx_pull_free(kvx_container_of(entry, struct kvx_pull, entry));
	kvx_transfer_finish(&grant->transfer);
	free(grant->counters);
	free(grant->feeds);
	free((void *)grant->memories);
	free(grant->ticket);
	free(grant->table);
	free(grant->refusal);
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
	int error = kvx_transfer_check_layer(&grant->transfer, layer);

	if (error)
		return error;
	const struct kvx_counter *counter = kvx_grant_counter(grant, layer);
	*arrived = atomic_load_explicit(&counter->arrived, memory_order_acquire);
	*target = atomic_load_explicit(&counter->target, memory_order_acquire);
	return 0;
}

int kvx_grant_mirror(struct kvx_grant *grant, uint32_t *words, uint32_t count)
{
	uint32_t parts = kvx_transfer_parts(&grant->transfer);
	uint32_t *none = NULL;

	if (!words || (uintptr_t)words % sizeof(*words))
		return kvx_fail(KVX_E_INVALID, "grant: the words %p are NULL or not aligned",
				(const void *)words);
	if (count < parts)
		return kvx_fail(KVX_E_INVALID,
				"grant: %u words, but it has %u layers%s: one word is needed for "
				"each",
				count, grant->transfer.layers,
				grant->transfer.tail ? " and a tail" : "");
	if (atomic_load(&grant->words))
		return kvx_fail(KVX_E_INVALID, "grant: it is mirrored already");
	for (uint32_t i = 0; i < count; i++)
		__atomic_store_n(&words[i], KVX_WORD_PENDING, __ATOMIC_RELAXED);
	if (!atomic_compare_exchange_strong(&grant->words, &none, words))
		return kvx_fail(KVX_E_INVALID, "grant: it is mirrored already");
	kvx_engine_submit(grant->transfer.engine, &grant->submission, KVX_GRANT_MIRROR);
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
	kvx_pool_disclaim(grant->pool, grant->table,
			  grant->token_first / grant->pool->shape.block_tokens, grant->count);
	kvx_engine_delist(grant->transfer.engine, &grant->entry);
	use(grant, -1);
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
	kvx_journal_transfer(&grant->transfer, KVX_EVENT_GRANT_OPENED, 0, 0, NULL);
	KVX_TRACE(grant_opened, grant->transfer.id, grant->count);
	if (kvx_transfer_ended(&grant->transfer))
		return;
	if (kvx_timer_start(&engine->timers, &grant->lease, lease_end_ns(grant)))
		kvx_grant_end(grant, KVX_E_MEMORY, "grant: out of memory for its lease");
}

static void detach(struct kvx_grant *grant)
{
	struct kvx_list *entry, *next;

	kvx_timer_stop(&grant->transfer.engine->timers, &grant->lease);
	for (uint32_t i = 0; i < grant->came; i++)
		kvx_feed_detach(&grant->feeds[i]);
	kvx_list_for_each (entry, next, &grant->pulls)
		kvx_pull_end(kvx_container_of(entry, struct kvx_pull, entry));
}

static void tell_end(struct kvx_grant *grant, int code, const char *text)
{
	struct kvx_message revoke = {.type = KVX_MESSAGE_REVOKE, .code = code};

	snprintf(revoke.text, sizeof(revoke.text), "%s", text);
	for (uint32_t i = 0; i < grant->came; i++) {
		const struct kvx_feed *feed = &grant->feeds[i];
		revoke.stream = feed->stream;
		if (feed->peer && kvx_peer_is_up(feed->peer))
			kvx_peer_say(feed->peer, &revoke);
	}
}

void kvx_grant_end(struct kvx_grant *grant, int code, const char *text)
{
	struct kvx_engine *engine = grant->transfer.engine;

	/* A complete grant is still its peers' until the senders are told. */
	for (uint32_t i = 0; i < grant->came; i++)
		kvx_feed_report(&grant->feeds[i]);
	/* kvx_arrival_place() refuses an ended grant, and no byte is under way outside of it: what
	 * lands, this thread lands. So the grant is fenced from here on, but for permits that a
	 * one-sided transport holds, and copies that a device has begun. */
	if (!kvx_transfer_fail(&grant->transfer, code, text))
		return;
	kvx_count(engine, grants_failed, 1);
	KVX_TRACE(grant_ended, grant->transfer.id, code);
	if (code == KVX_E_REVOKED)
		kvx_figure_add(engine->figures.revokes, 1);
	tell_end(grant, code, text);
	detach(grant);
	kvx_grant_fence(grant);
}

static void end_lease(struct kvx_grant *grant)
{
	char text[KVX_ERROR_TEXT_MAX + 1], names[KVX_ERROR_TEXT_MAX / 2] = "";

	if (grant->came && grant->senders > 1)
		kvx_feed_names(grant, names, sizeof(names));
	if (grant->came < grant->senders)
		snprintf(text, sizeof(text),
			 "grant: its lease of %u ms has ended: %u of %u senders have come%s%s%s%s",
			 grant->lease_ms, grant->came, grant->senders, *names ? ": " : "", names,
			 grant->refusal ? "; one was refused: " : "",
			 grant->refusal ? grant->refusal : "");
	else
		snprintf(text, sizeof(text),
			 "grant: its lease of %u ms has ended with %u of %u layers whole",
			 grant->lease_ms, atomic_load(&grant->transfer.done_count),
			 grant->transfer.layers);
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

/* It has ended: once its fences are closed nothing lands any more. */
static void settle(struct kvx_grant *grant)
{
	struct kvx_transfer *transfer = &grant->transfer;

	if (grant->still || !kvx_grant_is_fenced(grant))
		return;
	if (transfer->end < 0)
		kvx_histogram_add(&transfer->engine->figures.fence_time,
				  kvx_now_ns() - transfer->ended_ns);
	KVX_TRACE(fence_closed, transfer->id);
	atomic_store_explicit(&grant->still, true, memory_order_release);
}

void kvx_grant_fence(struct kvx_grant *grant)
{
	for (uint32_t i = 0; i < grant->came; i++)
		kvx_feed_fence(&grant->feeds[i]);
	settle(grant);
}

bool kvx_grant_is_fenced(const struct kvx_grant *grant)
{
	for (uint32_t i = 0; i < grant->came; i++)
		if (grant->feeds[i].fence != KVX_FENCE_CLOSED)
			return false;
	return !grant->landing;
}

void kvx_grant_acknowledge(struct kvx_grant *grant)
{
	struct kvx_engine *engine = grant->transfer.engine;
	uint32_t requests = grant->requests;

	if (!kvx_grant_is_fenced(grant))
		return;
	if (kvx_transfer_ended(&grant->transfer))
		settle(grant);
	grant->requests = 0;
	if (requests & KVX_GRANT_REVOKE)
		kvx_engine_acknowledge(engine, &grant->fenced);
	if (requests & KVX_GRANT_CLOSE) {
		atomic_store_explicit(&engine->slots[grant->slot], NULL, memory_order_release);
		kvx_engine_acknowledge(engine, &grant->closed);
	}
}

static void take(struct kvx_submission *submission, uint32_t wanted)
{
	struct kvx_grant *grant = kvx_container_of(submission, struct kvx_grant, submission);

	if (wanted & KVX_GRANT_START)
		start(grant);
	if (wanted & KVX_GRANT_MIRROR)
		kvx_transfer_mirror(&grant->transfer, atomic_load(&grant->words));
	if (wanted & (KVX_GRANT_REVOKE | KVX_GRANT_CLOSE))
		kvx_grant_end(grant, KVX_E_REVOKED,
			      wanted & KVX_GRANT_CLOSE ? "grant: the receiver closed it"
						       : "grant: the receiver revoked it");
	for (uint32_t i = 0; i < grant->came; i++) {
		struct kvx_feed *feed = &grant->feeds[i];
		if (wanted & KVX_GRANT_REVOKE && feed->fence == KVX_FENCE_DRAINING)
			kvx_feed_drain(feed); /* by the deadline of who revokes */
		if (wanted & KVX_GRANT_CLOSE)
			kvx_feed_report(feed);
	}
	if (wanted & KVX_GRANT_CLOSE)
		detach(grant);
	grant->requests |= wanted & (KVX_GRANT_REVOKE | KVX_GRANT_CLOSE);
	kvx_grant_acknowledge(grant);
}
