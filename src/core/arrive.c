/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of the data path: transport -> unit -> counter -> waiter. */
#include "base/clock.h"
#include "base/error.h"
#include "core/grant.h"
#include "core/journal.h"
#include "core/peer.h"
#include "plan/unit.h"
#include "trace.h"

#include <stdio.h>

/* Where a unit belongs: NULL everywhere unless the grant lives, this peer feeds it and the unit is
 * one of that feed's plan. */
struct destination {
	struct kvx_grant *grant;
	struct kvx_feed *feed;
	struct kvx_counter *counter;
	uint32_t layer, unit; /* unit: of the grant */
};

static struct destination find(struct kvx_engine *engine, const struct kvx_peer *peer,
			       const struct kvx_unit *unit)
{
	struct kvx_grant *grant = kvx_grant_find(engine, kvx_imm_slot(unit->imm), unit->generation);
	uint32_t layer = kvx_imm_layer(unit->imm), number = kvx_imm_unit(unit->imm);
	struct destination none = {0};

	if (!grant || !grant->shared_out || kvx_transfer_ended(&grant->transfer))
		return none;
	if (layer >= grant->transfer.layers && (layer != KVX_TAIL || !grant->transfer.tail))
		return none;
	struct kvx_feed *feed = &grant->feeds[grant->feed_of_unit[number]];
	struct kvx_counter *counter = kvx_grant_counter(grant, layer);
	if (feed->peer != peer || !(counter->wanted >> number & 1) ||
	    number - feed->unit_first >= feed->units)
		return none;
	return (struct destination){grant, feed, counter, layer, number};
}

static bool arrived_already(const struct destination *at)
{
	return (at->counter->bits | at->counter->landed) >> at->unit & 1;
}

/* Where it begins and ends in its layer's image; the tail is an image of its own. */
static uint64_t begin_of(const struct destination *at)
{
	return at->layer == KVX_TAIL
		       ? 0
		       : kvx_image_unit_place(&at->feed->image, at->unit - at->feed->unit_first);
}

static uint64_t end_of(const struct destination *at)
{
	return at->layer == KVX_TAIL ? at->grant->tail.bytes
				     : kvx_image_unit_place(&at->feed->image,
							    at->unit - at->feed->unit_first + 1);
}

/* Counts a refused unit once, though its bytes come in many pieces. */
static void refuse(struct kvx_engine *engine, struct kvx_peer *peer, const struct kvx_unit *unit,
		   bool duplicate)
{
	if (peer->refused.imm == unit->imm && peer->refused.generation == unit->generation)
		return;
	peer->refused = *unit;
	if (duplicate)
		kvx_count(engine, units_duplicate, 1);
	else
		kvx_count(engine, units_late, 1);
}

static struct kvx_layer_place place_of(const struct destination *at)
{
	return (struct kvx_layer_place){
		.image = &at->feed->image,
		.lays = at->feed->lays,
		.table = at->grant->table,
		.targets = kvx_pool_layer(at->grant->pool, at->layer),
	};
}

static struct kvx_device *device_of(const struct destination *at)
{
	return at->layer == KVX_TAIL ? at->grant->tail_place.memory->device
				     : at->grant->pool->memories[0]->device;
}

/* Where bytes of a unit belong. */
static int resolve(const struct destination *at, uint64_t place, uint64_t bytes, struct iovec *iov,
		   int iov_max)
{
	if (at->layer == KVX_TAIL) {
		iov[0] = (struct iovec){at->grant->tail_place.base + place, bytes};
		return 1;
	}
	const struct kvx_layer_place layer = place_of(at);
	return kvx_image_resolve(&layer, at->unit - at->feed->unit_first, place, bytes, iov,
				 iov_max);
}

/* The transport writes there until it says that this is settled. Who asks for the end of a unit has
 * asked for all of it: what comes then is refused, lest it be written once the unit has counted. */
static int resolve_for_copies(const struct destination *at, uint64_t place, uint64_t bytes,
			      struct iovec *iov, int iov_max)
{
	int count = resolve(at, place, bytes, iov, iov_max);

	at->grant->landing += count > 0;
	for (int i = 0; i < count; i++)
		place += iov[i].iov_len;
	if (count > 0 && place == end_of(at))
		at->counter->landed |= UINT64_C(1) << at->unit;
	return count;
}

int kvx_arrival_place(void *context, struct kvx_link *link, const struct kvx_unit *unit,
		      uint64_t place, uint64_t bytes, struct iovec *iov, int iov_max)
{
	struct kvx_engine *engine = context;
	struct kvx_peer *peer = link->owner;
	struct destination at = find(engine, peer, unit);

	if (!at.grant || arrived_already(&at)) {
		refuse(engine, peer, unit, at.grant != NULL);
		return 0;
	}
	uint64_t end = end_of(&at);
	if (place < begin_of(&at) || place > end || bytes > end - place)
		return 0; /* not the plan's; landed() never completes it */
	if (link->ops->asynchronous)
		return resolve_for_copies(&at, place, bytes, iov, iov_max);
	struct kvx_device *device = device_of(&at);
	if (device) {
		const struct kvx_awaited asked = {link, *unit, place, bytes};
		return kvx_land_place(device, &asked, iov, iov_max);
	}
	return resolve(&at, place, bytes, iov, iov_max);
}

void kvx_arrival_settled(void *context, const struct kvx_unit *unit, uint32_t answers)
{
	struct kvx_grant *grant =
		kvx_grant_find(context, kvx_imm_slot(unit->imm), unit->generation);

	/* It is there until its fence is closed, which waits for this. */
	if (!grant)
		return;
	grant->landing -= answers;
	if (!grant->landing && kvx_transfer_ended(&grant->transfer))
		kvx_grant_acknowledge(grant);
}

/* The sender's part of a layer is there. */
static void finish_part(const struct destination *at)
{
	struct kvx_engine *engine = at->grant->transfer.engine;
	struct kvx_feed *feed = at->feed;

	feed->arrived[at->layer / 64] |= UINT64_C(1) << (at->layer % 64);
	if (--feed->layers_left == 0)
		engine->report_at_once = true;
	if (kvx_list_empty(&feed->report_entry))
		kvx_list_append(&engine->reporting, &feed->report_entry);
}

static void finish(struct kvx_grant *grant, uint32_t layer)
{
	struct kvx_engine *engine = grant->transfer.engine;

	/* Figures first: who sees the layer whole may look at them. */
	if (layer != KVX_TAIL)
		kvx_count(engine, layers_whole, 1);
	KVX_TRACE(layer_whole, grant->transfer.id, layer);
	if (atomic_load_explicit(&grant->transfer.done_count, memory_order_relaxed) + 1 ==
	    kvx_transfer_parts(&grant->transfer)) {
		kvx_count(engine, grants_completed, 1);
		kvx_histogram_add(&engine->figures.grant_time,
				  kvx_now_ns() - grant->transfer.opened_ns);
		KVX_TRACE(grant_ended, grant->transfer.id, 0);
	}
	kvx_journal_transfer(&grant->transfer, KVX_EVENT_LAYER_WHOLE, layer, 0, NULL);
	kvx_transfer_finish_layer(&grant->transfer, layer);
}

/* The tail is reported last, whenever it came. */
static void finish_tail(struct kvx_grant *grant)
{
	const struct kvx_counter *counter = kvx_grant_counter(grant, KVX_TAIL);

	if (grant->transfer.tail && counter->bits == counter->wanted &&
	    atomic_load_explicit(&grant->transfer.done_count, memory_order_relaxed) ==
		    grant->transfer.layers)
		finish(grant, KVX_TAIL);
}

static struct kvx_rail_figures *figures_of(const struct kvx_peer *peer, uint32_t rail)
{
	return rail < peer->figure_count ? &peer->figures[rail] : NULL;
}

/* A bit, not a sum: a unit that was sent twice is counted once. */
static void credit(const struct destination *at, struct kvx_rail_figures *rail)
{
	struct kvx_grant *grant = at->grant;
	struct kvx_counter *counter = at->counter;
	uint64_t bytes = end_of(at) - begin_of(at);
	uint64_t part = at->layer == KVX_TAIL ? counter->wanted : at->feed->wanted;

	counter->bits |= UINT64_C(1) << at->unit;
	atomic_store_explicit(&counter->arrived, (uint32_t)__builtin_popcountll(counter->bits),
			      memory_order_release);
	kvx_count(grant->transfer.engine, units_received, 1);
	kvx_figures_received(rail, bytes);
	kvx_figure_add(grant->transfer.bytes, bytes);
	KVX_TRACE(unit_counted, grant->transfer.id, at->layer, at->unit, bytes);
	if ((counter->bits & part) != part)
		return;
	finish_part(at);
	if (counter->bits != counter->wanted)
		return;
	if (at->layer != KVX_TAIL)
		finish(grant, at->layer);
	finish_tail(grant);
	if (kvx_transfer_ended(&grant->transfer))
		kvx_grant_fence(grant);
}

/* Bytes have come into the device's ring. The unit is counted when they are where they belong. */
static void take_away(struct kvx_device *device, const struct destination *at,
		      const struct kvx_arriving *arriving)
{
	struct kvx_arriving whither = *arriving;
	struct kvx_layer_place layer;

	if (at->layer == KVX_TAIL) {
		whither.tail = at->grant->tail_place.base;
	} else {
		layer = place_of(at);
		whither.layer = &layer;
	}
	if (arriving->whole)
		at->counter->landed |= UINT64_C(1) << at->unit;
	kvx_land(device, &whither);
}

void kvx_arrival_landed(void *context, struct kvx_link *link, uint32_t rail,
			const struct kvx_unit *unit, uint64_t place, uint64_t bytes)
{
	struct kvx_engine *engine = context;
	struct kvx_peer *peer = link->owner;
	struct kvx_rail_arrival *arrival = &peer->arrivals[rail];
	struct destination at = find(engine, peer, unit);

	kvx_peer_heard(peer);
	/* A unit of copies that have come to their end is on its way no more. */
	if (at.grant && link->ops->asynchronous)
		at.counter->landed &= ~(UINT64_C(1) << at.unit);
	if (!at.grant || arrived_already(&at))
		return;
	kvx_count(engine, bytes_received, bytes);
	if (place == begin_of(&at))
		*arrival = (struct kvx_rail_arrival){*unit, place};
	if (arrival->unit.imm != unit->imm || arrival->unit.generation != unit->generation ||
	    arrival->next != place) {
		kvx_peer_condemn(peer, KVX_E_PROTOCOL, "a unit arrived with a gap in it");
		return;
	}
	arrival->next += bytes;
	const struct kvx_arriving arriving = {
		.grant = at.grant,
		.peer = peer,
		.rail = rail,
		.unit_index = at.unit - at.feed->unit_first,
		.unit = *unit,
		.place = place,
		.bytes = bytes,
		.whole = arrival->next == end_of(&at),
	};
	struct kvx_device *device =
		link->ops->one_sided || link->ops->asynchronous ? NULL : device_of(&at);
	if (device)
		take_away(device, &at, &arriving);
	else if (arriving.whole)
		credit(&at, figures_of(peer, rail));
}

void kvx_arrival_copied(struct kvx_engine *engine, const struct kvx_pending *pending)
{
	struct destination at = find(engine, pending->peer, &pending->unit);

	if (!at.grant)
		return;
	at.counter->landed &= ~(UINT64_C(1) << at.unit);
	if (!arrived_already(&at))
		credit(&at, figures_of(at.feed->peer, pending->rail));
}

/* What hardware wrote into a device's memory is made visible to the device: once for a layer,
 * before its last unit is counted. False: the device cannot, and the grant has ended. */
static bool make_visible(const struct destination *at)
{
	const struct kvx_device *device = device_of(at);

	if (!device || (at->counter->bits | UINT64_C(1) << at->unit) != at->counter->wanted ||
	    !device->kind->flush(device->number))
		return true;
	kvx_grant_end(at->grant, KVX_E_TRANSPORT, kvx_error_text());
	return false;
}

void kvx_arrival_counted(void *context, struct kvx_link *link, uint32_t rail, uint32_t imm)
{
	struct kvx_engine *engine = context;
	struct kvx_peer *peer = link->owner;
	const struct kvx_grant *grant =
		atomic_load_explicit(&engine->slots[kvx_imm_slot(imm)], memory_order_acquire);
	/* The rest of the generation, if the low bits are right: a permit of another generation is
	 * not in force any more. */
	struct kvx_unit unit = {imm, grant ? grant->generation : 0};
	struct destination at = {0};

	kvx_peer_heard(peer);
	if (grant && kvx_imm_pack(grant->slot, grant->generation, kvx_imm_layer(imm),
				  kvx_imm_unit(imm)) == imm)
		at = find(engine, peer, &unit);
	if (!at.grant || arrived_already(&at)) {
		refuse(engine, peer, &unit, at.grant != NULL);
		return;
	}
	kvx_count(engine, bytes_received, end_of(&at) - begin_of(&at));
	if (make_visible(&at))
		credit(&at, figures_of(peer, rail));
}
