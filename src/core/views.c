/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is open in an engine, as copies for who looks. An object that is in its list while the
 * list's lock is held cannot go away; what of it changes is atomic, or behind a lock of its own.
 */
#include "base/clock.h"
#include "base/error.h"
#include "core/grant.h"
#include "core/peer.h"
#include "core/pool.h"
#include "core/region.h"
#include "core/stream.h"

#include <stdio.h>
#include <string.h>

#define PART_MAX 16u /* copied while the lists are locked once: a few microseconds */

/* Writes the view of an entry. */
struct sort {
	void (*view)(const struct kvx_roster *entry, void *view);
	size_t view_bytes;
};

static uint32_t copy_part(struct kvx_engine *engine, const struct kvx_roster *roster,
			  const struct sort *sort, uint64_t after, void *views, uint32_t capacity)
{
	uint32_t count = 0;

	pthread_mutex_lock(&engine->lists);
	const struct kvx_roster *entry = kvx_roster_after(roster, after);
	for (; entry && count < capacity; entry = kvx_roster_next(roster, entry))
		sort->view(entry, (char *)views + count++ * sort->view_bytes);
	pthread_mutex_unlock(&engine->lists);
	return count;
}

/* All views begin with their ids. */
static int copy(struct kvx_engine *engine, const struct kvx_roster *roster, const struct sort *sort,
		uint64_t after, void *views, uint32_t capacity)
{
	uint32_t count = 0, some;

	if (!views && capacity)
		return kvx_fail(KVX_E_INVALID, "views: no room for %u", capacity);
	do {
		char *next = (char *)views + count * sort->view_bytes;
		uint32_t most = capacity - count < PART_MAX ? capacity - count : PART_MAX;
		some = copy_part(engine, roster, sort, after, next, most);
		count += some;
		if (some)
			after = *(const uint64_t *)(next + (some - 1) * sort->view_bytes);
	} while (some && count < capacity);
	return (int)count;
}

/* --- regions and pools --- */

static const struct kvx_region *region_of(const struct kvx_roster *entry)
{
	return kvx_container_of(entry, struct kvx_region, entry);
}

static uint32_t read_users(struct kvx_engine *engine, const uint32_t *users)
{
	pthread_mutex_lock(&engine->lock);
	uint32_t count = *users;
	pthread_mutex_unlock(&engine->lock);
	return count;
}

static void write_near(const struct kvx_memory *memory, char *text, size_t size)
{
	uint32_t sum = 0;
	size_t length = 0;

	for (uint32_t i = 0; i < memory->near_count; i++)
		sum += memory->near[i].weight;
	for (uint32_t i = 0; i < memory->near_count && length < size; i++) {
		const struct kvx_near *near = &memory->near[i];
		length += (size_t)snprintf(text + length, size - length, "%s%s:%u (share %.2f)",
					   i ? ", " : "", near->device, near->port,
					   sum ? (double)near->weight / sum : 0);
	}
}

static const char *kind_of(const struct kvx_region *region)
{
	if (region->memory.device)
		return region->memory.device->kind->name;
	if (region->memory.dmabuf >= 0)
		return "dmabuf";
	return region->allocated ? "shared" : "host";
}

static void view_region(const struct kvx_roster *entry, void *to)
{
	const struct kvx_region *region = region_of(entry);
	struct kvx_region_view *view = to;

	*view = (struct kvx_region_view){
		.id = region->id,
		.address = region->memory.address,
		.bytes = region->memory.bytes,
		.kind = kind_of(region),
		.users = read_users(region->engine, &region->users),
		.gpudirect = "",
	};
	if (region->memory.device)
		snprintf(view->device, sizeof(view->device), "%u %s", region->memory.device->number,
			 region->memory.device->pci);
	/* What is near, and what reaches it, is found out after it was listed. */
	if (!atomic_load_explicit(&region->attached, memory_order_acquire))
		return;
	write_near(&region->memory, view->near, sizeof(view->near));
	if (region->memory.gpudirect)
		view->gpudirect = region->memory.gpudirect;
}

int kvx_engine_regions(struct kvx_engine *engine, uint64_t after, struct kvx_region_view *views,
		       uint32_t capacity)
{
	static const struct sort sort = {view_region, sizeof(*views)};

	return copy(engine, &engine->regions, &sort, after, views, capacity);
}

static const struct kvx_pool *pool_of(const struct kvx_roster *entry)
{
	return kvx_container_of(entry, struct kvx_pool, entry);
}

static uint32_t granted_blocks(const struct kvx_pool *pool)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i <= pool->geometry.blocks / 64; i++)
		count += (uint32_t)__builtin_popcountll(
			atomic_load_explicit(&pool->granted[i], memory_order_relaxed));
	return count;
}

static void view_pool(const struct kvx_roster *entry, void *to)
{
	const struct kvx_pool *pool = pool_of(entry);
	struct kvx_pool_view *view = to;

	*view = (struct kvx_pool_view){
		.id = pool->id,
		.geometry = pool->geometry,
		.hash = kvx_geometry_hash(&pool->geometry),
		.granted_blocks = granted_blocks(pool),
		.users = read_users(pool->engine, &pool->users),
		.readable = kvx_pool_is_touchable(pool) || pool->memories[0]->device,
	};
	for (uint32_t plane = 0; plane < pool->shape.planes; plane++)
		view->layer_block_bytes += kvx_pool_block_bytes(pool, plane);
}

int kvx_engine_pools(struct kvx_engine *engine, uint64_t after, struct kvx_pool_view *views,
		     uint32_t capacity)
{
	static const struct sort sort = {view_pool, sizeof(*views)};

	return copy(engine, &engine->pools, &sort, after, views, capacity);
}

/* --- peers --- */

static struct kvx_peer *peer_of(const struct kvx_roster *entry)
{
	return kvx_container_of(entry, struct kvx_peer, entry);
}

static void view_peer(const struct kvx_roster *entry, void *to)
{
	struct kvx_peer *peer = peer_of(entry);
	struct kvx_peer_view *view = to;
	int64_t heard_ns = kvx_figure_get(peer->heard_ns), now_ns = kvx_now_ns();

	*view = (struct kvx_peer_view){
		.id = peer->id,
		.outgoing = peer->outgoing,
		.transfers = atomic_load_explicit(&peer->transfers, memory_order_relaxed),
	};
	kvx_peer_info(peer, &view->info);
	pthread_mutex_lock(&peer->mutex);
	view->rails = peer->figure_count;
	pthread_mutex_unlock(&peer->mutex);
	if (heard_ns && now_ns > heard_ns)
		view->silent_ms = (uint64_t)((now_ns - heard_ns) / KVX_NS_PER_MS);
	if (peer->address)
		snprintf(view->address, sizeof(view->address), "%s", peer->address);
}

int kvx_engine_peers(struct kvx_engine *engine, uint64_t after, struct kvx_peer_view *views,
		     uint32_t capacity)
{
	static const struct sort sort = {view_peer, sizeof(*views)};

	return copy(engine, &engine->peers, &sort, after, views, capacity);
}

static uint32_t view_rails(struct kvx_peer *peer, struct kvx_rail_view *views, uint32_t capacity)
{
	uint32_t count;

	pthread_mutex_lock(&peer->mutex);
	count = peer->figure_count < capacity ? peer->figure_count : capacity;
	for (uint32_t i = 0; i < count; i++) {
		const struct kvx_rail_figures *rail = &peer->figures[i];
		memcpy(views[i].port, rail->port->port, sizeof(views[i].port));
		views[i].up = peer->info.state == KVX_PEER_UP && kvx_figure_get(rail->up);
		views[i].weight = kvx_figure_get(rail->weight);
		views[i].bytes_sent = kvx_figure_get(rail->bytes_sent);
		views[i].bytes_received = kvx_figure_get(rail->bytes_received);
		views[i].failures = kvx_figure_get(rail->failures);
	}
	pthread_mutex_unlock(&peer->mutex);
	return count;
}

static int fail_unknown(const char *what, uint64_t id)
{
	return kvx_fail(KVX_E_INVALID, "%s %llu: there is none of that id", what,
			(unsigned long long)id);
}

int kvx_engine_rails(struct kvx_engine *engine, uint64_t peer, struct kvx_rail_view *views,
		     uint32_t capacity)
{
	int count = -1;

	pthread_mutex_lock(&engine->lists);
	struct kvx_roster *entry = kvx_roster_find(&engine->peers, peer);
	if (entry)
		count = (int)view_rails(peer_of(entry), views, capacity);
	pthread_mutex_unlock(&engine->lists);
	return count < 0 ? fail_unknown("peer", peer) : count;
}

/* --- grants and streams --- */

static struct kvx_grant *grant_of(const struct kvx_roster *entry)
{
	return kvx_container_of(entry, struct kvx_grant, entry);
}

static uint64_t since_ms(int64_t from_ns, int64_t to_ns)
{
	return to_ns > from_ns ? (uint64_t)((to_ns - from_ns) / KVX_NS_PER_MS) : 0;
}

/* What both have. */
struct transfer_view {
	enum kvx_transfer_state state;
	int code;
	uint64_t age_ms, end_ms;
};

static struct transfer_view view_transfer(const struct kvx_transfer *transfer, char *text,
					  size_t size)
{
	int end = atomic_load_explicit(&transfer->end, memory_order_acquire);
	struct transfer_view view = {.age_ms = since_ms(transfer->opened_ns, kvx_now_ns())};

	view.state = !end ? KVX_STATE_OPEN : end > 0 ? KVX_STATE_COMPLETE : KVX_STATE_FAILED;
	if (end)
		view.end_ms = since_ms(transfer->opened_ns, transfer->ended_ns);
	if (end && !view.end_ms)
		view.end_ms = 1; /* 0 says that it goes on */
	if (end < 0) {
		view.code = end;
		snprintf(text, size, "%s", transfer->text ? transfer->text : kvx_strerror(end));
	}
	return view;
}

/* Of its layers, without the tail. */
static uint32_t layers_done(const struct kvx_transfer *transfer)
{
	uint32_t done = atomic_load_explicit(&transfer->done_count, memory_order_acquire);
	bool tail = transfer->tail && kvx_transfer_layer_done(transfer, KVX_TAIL);

	return done > tail ? done - tail : 0;
}

static void view_grant(const struct kvx_roster *entry, void *to)
{
	const struct kvx_grant *grant = grant_of(entry);
	struct kvx_engine *engine = grant->transfer.engine;
	struct kvx_grant_view *view = to;

	*view = (struct kvx_grant_view){
		.id = grant->transfer.id,
		.pool = grant->pool->id,
		.blocks = grant->count,
		.tokens = grant->token_end,
		.held_blocks = grant->token_first / grant->pool->shape.block_tokens,
		.senders = grant->senders,
		.senders_came = grant->came,
		.layers = grant->transfer.layers,
		.layers_whole = layers_done(&grant->transfer),
		.tail_bytes = grant->tail.bytes,
		.lease_ms = grant->lease_ms,
		.bytes = kvx_figure_get(grant->transfer.bytes),
		.fenced = atomic_load_explicit(&grant->still, memory_order_acquire),
	};
	const struct transfer_view transfer =
		view_transfer(&grant->transfer, view->text, sizeof(view->text));
	view->state = transfer.state;
	view->code = transfer.code;
	view->age_ms = transfer.age_ms;
	view->end_ms = transfer.end_ms;
	if (!view->senders_came)
		return;
	pthread_mutex_lock(&engine->lock);
	strcpy(view->sender, grant->feeds[0].name);
	view->sender_incarnation = grant->feeds[0].incarnation;
	pthread_mutex_unlock(&engine->lock);
}

int kvx_engine_grants(struct kvx_engine *engine, uint64_t after, struct kvx_grant_view *views,
		      uint32_t capacity)
{
	static const struct sort sort = {view_grant, sizeof(*views)};

	return copy(engine, &engine->grants, &sort, after, views, capacity);
}

static struct kvx_stream *stream_of(const struct kvx_roster *entry)
{
	return kvx_container_of(entry, struct kvx_stream, entry);
}

static bool is_ready(const struct kvx_stream *stream, uint32_t index)
{
	return atomic_load_explicit(&stream->ready_tokens[index], memory_order_acquire) ==
	       UINT32_MAX;
}

static void view_stream(const struct kvx_roster *entry, void *to)
{
	const struct kvx_stream *stream = stream_of(entry);
	struct kvx_engine *engine = stream->transfer.engine;
	struct kvx_stream_view *view = to;

	*view = (struct kvx_stream_view){
		.id = stream->transfer.id,
		.pool = stream->pool->id,
		.offered = stream->offer != NULL,
		.accepted = atomic_load_explicit(&stream->open, memory_order_acquire),
		.drained = atomic_load_explicit(&stream->still, memory_order_acquire),
		.tokens = stream->tokens,
		.layers = stream->transfer.layers,
		.layers_delivered = layers_done(&stream->transfer),
		.tail_bytes = stream->tail.bytes,
		.bytes = kvx_figure_get(stream->transfer.bytes),
	};
	for (uint32_t layer = 0; layer < view->layers; layer++)
		view->layers_ready += is_ready(stream, layer);
	const struct transfer_view transfer =
		view_transfer(&stream->transfer, view->text, sizeof(view->text));
	view->state = transfer.state;
	view->code = transfer.code;
	view->age_ms = transfer.age_ms;
	view->end_ms = transfer.end_ms;
	view->drained = view->drained && view->state != KVX_STATE_OPEN;
	pthread_mutex_lock(&engine->lock);
	strcpy(view->receiver, stream->ticket.name);
	view->receiver_incarnation = stream->ticket.incarnation;
	pthread_mutex_unlock(&engine->lock);
}

int kvx_engine_streams(struct kvx_engine *engine, uint64_t after, struct kvx_stream_view *views,
		       uint32_t capacity)
{
	static const struct sort sort = {view_stream, sizeof(*views)};

	return copy(engine, &engine->streams, &sort, after, views, capacity);
}

/* The layers, then the tail: the entry of that index. */
static uint32_t part_of(const struct kvx_transfer *transfer, uint32_t index)
{
	return index < transfer->layers ? index : KVX_TAIL;
}

static uint32_t part_count(const struct kvx_transfer *transfer, uint32_t capacity)
{
	uint32_t count = kvx_transfer_parts(transfer);

	return count < capacity ? count : capacity;
}

static int view_grant_layers(const struct kvx_grant *grant, struct kvx_layer_view *views,
			     uint32_t capacity)
{
	uint32_t count = part_count(&grant->transfer, capacity);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t layer = part_of(&grant->transfer, i);
		const struct kvx_counter *counter = kvx_grant_counter(grant, layer);
		views[i] = (struct kvx_layer_view){
			.done = kvx_transfer_layer_done(&grant->transfer, layer),
			.arrived = atomic_load_explicit(&counter->arrived, memory_order_acquire),
			.target = atomic_load_explicit(&counter->target, memory_order_acquire),
		};
	}
	return (int)count;
}

int kvx_engine_grant_layers(struct kvx_engine *engine, uint64_t id, struct kvx_layer_view *views,
			    uint32_t capacity)
{
	int count = -1;

	pthread_mutex_lock(&engine->lists);
	struct kvx_roster *entry = kvx_roster_find(&engine->grants, id);
	if (entry)
		count = view_grant_layers(grant_of(entry), views, capacity);
	pthread_mutex_unlock(&engine->lists);
	return count < 0 ? fail_unknown("grant", id) : count;
}

static int view_stream_layers(const struct kvx_stream *stream, struct kvx_layer_view *views,
			      uint32_t capacity)
{
	uint32_t count = part_count(&stream->transfer, capacity);

	for (uint32_t i = 0; i < count; i++)
		views[i] = (struct kvx_layer_view){
			.ready = is_ready(stream, i),
			.done = kvx_transfer_layer_done(&stream->transfer,
							part_of(&stream->transfer, i)),
		};
	return (int)count;
}

int kvx_engine_stream_layers(struct kvx_engine *engine, uint64_t id, struct kvx_layer_view *views,
			     uint32_t capacity)
{
	int count = -1;

	pthread_mutex_lock(&engine->lists);
	struct kvx_roster *entry = kvx_roster_find(&engine->streams, id);
	if (entry)
		count = view_stream_layers(stream_of(entry), views, capacity);
	pthread_mutex_unlock(&engine->lists);
	return count < 0 ? fail_unknown("stream", id) : count;
}

/* --- objects by id, and ids of objects --- */

int kvx_pool_hold(struct kvx_engine *engine, uint64_t id, struct kvx_pool **pool)
{
	pthread_mutex_lock(&engine->lists);
	struct kvx_roster *entry = kvx_roster_find(&engine->pools, id);
	struct kvx_pool *found = entry ? kvx_container_of(entry, struct kvx_pool, entry) : NULL;
	if (found)
		kvx_pool_use(found, 1);
	pthread_mutex_unlock(&engine->lists);
	if (!found)
		return fail_unknown("pool", id);
	*pool = found;
	return 0;
}

void kvx_pool_release(struct kvx_pool *pool)
{
	if (pool)
		kvx_pool_use(pool, -1);
}

int kvx_region_hold(struct kvx_engine *engine, uint64_t id, struct kvx_region **region)
{
	pthread_mutex_lock(&engine->lists);
	struct kvx_roster *entry = kvx_roster_find(&engine->regions, id);
	struct kvx_region *found = entry ? kvx_container_of(entry, struct kvx_region, entry) : NULL;
	kvx_region_use(found, 1);
	pthread_mutex_unlock(&engine->lists);
	if (!found)
		return fail_unknown("region", id);
	*region = found;
	return 0;
}

void kvx_region_release(struct kvx_region *region)
{
	kvx_region_use(region, -1);
}

uint64_t kvx_peer_id(const struct kvx_peer *peer)
{
	return peer->id;
}

uint64_t kvx_grant_id(const struct kvx_grant *grant)
{
	return grant->transfer.id;
}

uint64_t kvx_stream_id(const struct kvx_stream *stream)
{
	return stream->transfer.id;
}

uint64_t kvx_pool_id(const struct kvx_pool *pool)
{
	return pool->id;
}

uint64_t kvx_region_id(const struct kvx_region *region)
{
	return region->id;
}
