/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/rails.h"

#include "topology/choose.h"

#include <string.h>

#define TIER_NONE UINT32_MAX

/* Two ends, and which of their ports' properties say who reaches whom. */
struct span {
	struct kvx_end ends[2]; /* local, remote */
	bool uses_fabric;       /* otherwise not known, or subnets that are routed to each other */
	bool uses_link;
	bool is_used[2][KVX_TOPOLOGY_PORTS_MAX]; /* by a rail already */
};

static const struct kvx_topology_port *port_at(struct kvx_end end, uint32_t port)
{
	return &end.machine->ports[port].shown;
}

static const struct kvx_topology_pair *pair_at(struct kvx_end end, uint32_t port)
{
	return &kvx_machine_pair(end.machine, end.place, port)->shown;
}

/* The further away, the higher; chosen ports are lowest. */
static uint32_t tier_of(struct kvx_end end, uint32_t port)
{
	const struct kvx_topology_pair *pair = pair_at(end, port);

	if (pair->use == KVX_USE_CHOSEN)
		return 0;
	if (pair->use == KVX_USE_FAILOVER || pair->reason == KVX_REASON_FARTHER)
		return 1 + (uint32_t)pair->nearness;
	return TIER_NONE;
}

static bool knows_fabrics(struct kvx_end end)
{
	for (uint32_t i = 0; i < end.machine->port_count; i++)
		if (tier_of(end, i) != TIER_NONE && port_at(end, i)->fabric[0])
			return true;
	return false;
}

static bool knows_links(struct kvx_end end)
{
	for (uint32_t i = 0; i < end.machine->port_count; i++)
		if (tier_of(end, i) != TIER_NONE && port_at(end, i)->link == KVX_LINK_UNKNOWN)
			return false;
	return true;
}

/* All usable ports that have a fabric have a subnet, "10.1.0.0/24". */
static bool has_subnets_alone(struct kvx_end end)
{
	for (uint32_t i = 0; i < end.machine->port_count; i++)
		if (tier_of(end, i) != TIER_NONE && port_at(end, i)->fabric[0] &&
		    !strchr(port_at(end, i)->fabric, '/'))
			return false;
	return true;
}

static bool joins(const struct span *span, uint32_t local, uint32_t remote)
{
	const struct kvx_topology_port *l = port_at(span->ends[0], local),
				       *r = port_at(span->ends[1], remote);

	return (!span->uses_link || l->link == r->link) &&
	       (!span->uses_fabric || (l->fabric[0] && strcmp(l->fabric, r->fabric) == 0));
}

static bool any_joins(const struct span *span)
{
	for (uint32_t l = 0; l < span->ends[0].machine->port_count; l++)
		for (uint32_t r = 0; r < span->ends[1].machine->port_count; r++)
			if (tier_of(span->ends[0], l) != TIER_NONE &&
			    tier_of(span->ends[1], r) != TIER_NONE && joins(span, l, r))
				return true;
	return false;
}

/* Subnets of which none is at both ends are taken to be routed to each other: racks often have a
 * subnet each, or each cable one. */
static struct span span_of(struct kvx_end local, struct kvx_end remote)
{
	struct span span = {.ends = {local, remote},
			    .uses_fabric = knows_fabrics(local) && knows_fabrics(remote),
			    .uses_link = knows_links(local) && knows_links(remote)};

	if (span.uses_fabric && has_subnets_alone(local) && has_subnets_alone(remote))
		span.uses_fabric = any_joins(&span);
	return span;
}

/* Do two ports of one end reach the same ports? Then one fabric holds both. */
static bool same_fabric(const struct span *span, unsigned end, uint32_t a, uint32_t b)
{
	const struct kvx_topology_port *pa = port_at(span->ends[end], a),
				       *pb = port_at(span->ends[end], b);

	return (!span->uses_link || pa->link == pb->link) &&
	       (!span->uses_fabric || strcmp(pa->fabric, pb->fabric) == 0);
}

/* A fabric, told by one local port: the nearest ports in it at both ends. */
struct fabric {
	uint32_t port;
	uint32_t tiers[2];
	bool is_used[2]; /* that end has none left that no rail uses, so these serve again */
	uint32_t cost;   /* of both tiers; TIER_NONE if an end has no port, or none is new */
};

static bool is_in(const struct span *span, unsigned end, const struct fabric *fabric, uint32_t port)
{
	return end ? joins(span, fabric->port, port) : same_fabric(span, 0, fabric->port, port);
}

static uint32_t lowest_tier(const struct span *span, unsigned end, const struct fabric *fabric)
{
	uint32_t lowest = TIER_NONE;

	for (uint32_t i = 0; i < span->ends[end].machine->port_count; i++) {
		uint32_t tier = tier_of(span->ends[end], i);
		if (is_in(span, end, fabric, i) && span->is_used[end][i] == fabric->is_used[end] &&
		    tier < lowest)
			lowest = tier;
	}
	return lowest;
}

static struct fabric fabric_of(const struct span *span, uint32_t port)
{
	struct fabric fabric = {.port = port, .cost = TIER_NONE};

	for (unsigned end = 0; end < 2; end++) {
		fabric.tiers[end] = lowest_tier(span, end, &fabric);
		fabric.is_used[end] = fabric.tiers[end] == TIER_NONE;
		if (fabric.is_used[end])
			fabric.tiers[end] = lowest_tier(span, end, &fabric);
	}
	if (fabric.tiers[0] != TIER_NONE && fabric.tiers[1] != TIER_NONE &&
	    !(fabric.is_used[0] && fabric.is_used[1]))
		fabric.cost = fabric.tiers[0] + fabric.tiers[1];
	return fabric;
}

static bool is_first_of_fabric(const struct span *span, uint32_t port)
{
	for (uint32_t i = 0; i < port; i++)
		if (same_fabric(span, 0, i, port))
			return false;
	return true;
}

struct collector {
	struct span *span;
	struct kvx_topology_rail *rails;
	uint32_t count, capacity;
	enum kvx_port_use use;
	double weight; /* of the fabric whose rails are being laid */
};

static void collect(void *context, uint32_t local, uint32_t remote, double length)
{
	struct collector *collector = context;

	if (collector->count < collector->capacity)
		collector->rails[collector->count] = (struct kvx_topology_rail){
			local, remote, collector->use, length * collector->weight};
	collector->count++;
}

/* Shares of one end's ports of that tier in that fabric, adding up to 1. Returns what they were of
 * all of the place's bytes. */
static double shares(const struct span *span, const struct fabric *fabric, unsigned end,
		     double *share)
{
	struct kvx_end at = span->ends[end];
	double sum = 0;

	for (uint32_t i = 0; i < at.machine->port_count; i++) {
		share[i] = 0;
		if (is_in(span, end, fabric, i) && tier_of(at, i) == fabric->tiers[end] &&
		    span->is_used[end][i] == fabric->is_used[end])
			share[i] = fabric->tiers[end] ? 1 : pair_at(at, i)->weight;
		sum += share[i];
	}
	for (uint32_t i = 0; i < at.machine->port_count; i++)
		share[i] /= sum;
	return sum;
}

/* Joins the ports of a fabric share to share. */
static void join(const struct fabric *fabric, struct collector *collector)
{
	const struct span *span = collector->span;
	double local[KVX_TOPOLOGY_PORTS_MAX], remote[KVX_TOPOLOGY_PORTS_MAX];
	double here = shares(span, fabric, 0, local), there = shares(span, fabric, 1, remote);

	collector->weight = here < there ? here : there;
	kvx_choose_overlay(local, span->ends[0].machine->port_count, remote,
			   span->ends[1].machine->port_count, collect, collector);
}

static void even_out(struct collector *collector, uint32_t first)
{
	uint32_t end =
		collector->count < collector->capacity ? collector->count : collector->capacity;
	double sum = 0;

	for (uint32_t i = first; i < end; i++)
		sum += collector->rails[i].weight;
	for (uint32_t i = first; i < end; i++)
		collector->rails[i].weight /= sum;
}

/* Joins what is nearest of what no rail uses yet. */
static void join_nearest(struct collector *collector, enum kvx_port_use use)
{
	const struct span *span = collector->span;
	uint32_t nearest = TIER_NONE, count = span->ends[0].machine->port_count,
		 first = collector->count;

	collector->use = use;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t cost = fabric_of(span, i).cost;
		nearest = cost < nearest ? cost : nearest;
	}
	for (uint32_t i = 0; nearest != TIER_NONE && i < count; i++) {
		struct fabric fabric = fabric_of(span, i);
		if (fabric.cost == nearest && is_first_of_fabric(span, i))
			join(&fabric, collector);
	}
	even_out(collector, first);
}

uint32_t kvx_rails_make(struct kvx_end local, struct kvx_end remote,
			struct kvx_topology_rail *rails, uint32_t capacity)
{
	struct span span = span_of(local, remote);
	struct collector collector = {.span = &span, .rails = rails, .capacity = capacity};

	join_nearest(&collector, KVX_USE_CHOSEN);
	for (uint32_t i = 0; i < collector.count && i < capacity; i++) {
		span.is_used[0][rails[i].local_port] = true;
		span.is_used[1][rails[i].remote_port] = true;
	}
	join_nearest(&collector, KVX_USE_FAILOVER);
	return collector.count;
}

bool kvx_rails_reach(struct kvx_end local, uint32_t port, struct kvx_end remote)
{
	struct span span = span_of(local, remote);

	for (uint32_t i = 0; i < remote.machine->port_count; i++)
		if (tier_of(remote, i) != TIER_NONE && joins(&span, port, i))
			return true;
	return false;
}
