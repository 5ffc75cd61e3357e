/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of the data path: transport -> unit -> counter -> waiter. */
#include "core/grant.h"
#include "core/peer.h"
#include "plan/unit.h"

#include <stdio.h>

/* The grant that a unit is for, if it lives and this peer feeds it. */
static struct kvx_grant *grant_of(struct kvx_engine *engine, const struct kvx_peer *peer,
				  const struct kvx_unit *unit)
{
	struct kvx_grant *grant = kvx_grant_find(engine, kvx_imm_slot(unit->imm), unit->generation);

	if (!grant || grant->peer != peer || kvx_transfer_ended(&grant->transfer))
		return NULL;
	if (kvx_imm_layer(unit->imm) >= grant->transfer.layers ||
	    kvx_imm_unit(unit->imm) >= grant->image.units)
		return NULL;
	return grant;
}

static bool arrived_already(const struct kvx_grant *grant, const struct kvx_unit *unit)
{
	return grant->counters[kvx_imm_layer(unit->imm)].bits >> kvx_imm_unit(unit->imm) & 1;
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

int kvx_arrival_place(void *context, struct kvx_link *link, const struct kvx_unit *unit,
		      uint64_t place, uint64_t bytes, struct iovec *iov, int iov_max)
{
	struct kvx_engine *engine = context;
	struct kvx_peer *peer = link->owner;
	struct kvx_grant *grant = grant_of(engine, peer, unit);

	if (!grant || arrived_already(grant, unit)) {
		refuse(engine, peer, unit, grant != NULL);
		return 0;
	}
	uint64_t end = kvx_image_unit_place(&grant->image, kvx_imm_unit(unit->imm) + 1);
	if (place < kvx_image_unit_place(&grant->image, kvx_imm_unit(unit->imm)) || place > end ||
	    bytes > end - place)
		return 0; /* not the plan's; landed() never completes it */
	return kvx_image_resolve(&grant->image, grant->table,
				 kvx_pool_layer(grant->pool, kvx_imm_layer(unit->imm)), place,
				 bytes, iov, iov_max);
}

/* A bit, not a sum: a unit that was sent twice is counted once. */
static void credit(struct kvx_grant *grant, uint32_t layer, uint32_t unit)
{
	struct kvx_engine *engine = grant->transfer.engine;
	struct kvx_counter *counter = &grant->counters[layer];

	counter->bits |= UINT64_C(1) << unit;
	uint32_t arrived = (uint32_t)__builtin_popcountll(counter->bits);
	atomic_store_explicit(&counter->arrived, arrived, memory_order_release);
	kvx_count(engine, units_received, 1);
	if (arrived < grant->image.units)
		return;
	/* Figures first: who sees the layer whole may look at them. */
	kvx_count(engine, layers_whole, 1);
	if (atomic_load_explicit(&grant->transfer.done_count, memory_order_relaxed) + 1 ==
	    grant->transfer.layers)
		kvx_count(engine, grants_completed, 1);
	kvx_transfer_finish_layer(&grant->transfer, layer);
	if (kvx_transfer_ended(&grant->transfer)) {
		engine->report_at_once = true;
		kvx_grant_fence(grant);
	}
	if (kvx_list_empty(&grant->report_entry))
		kvx_list_append(&engine->reporting, &grant->report_entry);
}

void kvx_arrival_landed(void *context, struct kvx_link *link, uint32_t rail,
			const struct kvx_unit *unit, uint64_t place, uint64_t bytes)
{
	struct kvx_engine *engine = context;
	struct kvx_peer *peer = link->owner;
	struct kvx_rail_arrival *arrival = &peer->arrivals[rail];
	struct kvx_grant *grant = grant_of(engine, peer, unit);

	kvx_peer_heard(peer);
	if (!grant || arrived_already(grant, unit))
		return;
	kvx_count(engine, bytes_received, bytes);
	uint32_t index = kvx_imm_unit(unit->imm);
	if (place == kvx_image_unit_place(&grant->image, index))
		*arrival = (struct kvx_rail_arrival){*unit, place};
	if (arrival->unit.imm != unit->imm || arrival->unit.generation != unit->generation ||
	    arrival->next != place) {
		kvx_peer_condemn(peer, KVX_E_PROTOCOL, "a unit arrived with a gap in it");
		return;
	}
	arrival->next += bytes;
	if (arrival->next == kvx_image_unit_place(&grant->image, index + 1))
		credit(grant, kvx_imm_layer(unit->imm), index);
}

void kvx_arrival_counted(void *context, struct kvx_link *link, uint32_t rail, uint32_t imm)
{
	struct kvx_engine *engine = context;
	struct kvx_peer *peer = link->owner;
	struct kvx_grant *grant =
		atomic_load_explicit(&engine->slots[kvx_imm_slot(imm)], memory_order_acquire);
	/* The rest of the generation, if the low bits are right: a permit of another generation is
	 * not in force any more. */
	struct kvx_unit unit = {imm, grant ? grant->generation : 0};

	(void)rail;
	kvx_peer_heard(peer);
	if (grant && kvx_imm_pack(grant->slot, grant->generation, kvx_imm_layer(imm),
				  kvx_imm_unit(imm)) != imm)
		grant = NULL;
	if (grant)
		grant = grant_of(engine, peer, &unit);
	if (!grant || arrived_already(grant, &unit)) {
		refuse(engine, peer, &unit, grant != NULL);
		return;
	}
	uint32_t index = kvx_imm_unit(imm);
	kvx_count(engine, bytes_received,
		  kvx_image_unit_place(&grant->image, index + 1) -
			  kvx_image_unit_place(&grant->image, index));
	credit(grant, kvx_imm_layer(imm), index);
}
