/* SPDX-License-Identifier: Apache-2.0 */
/* Which rail carries how much of a request: by how near its ports are to the memory at both ends,
 * and by their speed. */
#include "verbs.h"

#include <string.h>

#define FAILOVER 1u
#define FULL 255u

_Static_assert(KVX_VERBS_PORTS_MAX <= KVX_HINT_MAX, "a hint has a byte for each port");

static bool is_port(const struct kvx_near *near, const struct kvx_verbs_port *port)
{
	return near->port == port->number && strcmp(near->device, port->device->name) == 0;
}

static const struct kvx_near *find_near(const struct kvx_memory *memory,
					const struct kvx_verbs_port *port)
{
	for (uint32_t i = 0; i < memory->near_count; i++)
		if (is_port(&memory->near[i], port))
			return &memory->near[i];
	return NULL;
}

/* Where the ports that are near are not among those that are used, all are alike. */
static bool knows_near_ports(const struct kvx_transport *transport, const struct kvx_memory *memory)
{
	for (uint32_t i = 0; i < transport->port_count; i++)
		if (find_near(memory, &transport->ports[i]))
			return true;
	return false;
}

uint8_t kvx_verbs_nearness(const struct kvx_transport *transport, const struct kvx_memory *memory,
			   const struct kvx_verbs_port *port)
{
	const struct kvx_near *near = find_near(memory, port);

	if (near)
		return near->weight < FULL ? (uint8_t)(FAILOVER + near->weight) : FULL;
	return knows_near_ports(transport, memory) ? 0 : FULL;
}

uint32_t kvx_verbs_hint(const struct kvx_transport *transport, const struct kvx_memory *memory,
			uint8_t hint[KVX_HINT_MAX])
{
	for (uint32_t i = 0; i < transport->port_count; i++)
		hint[i] = kvx_verbs_nearness(transport, memory, &transport->ports[i]);
	return transport->port_count;
}

/* Of the slower port; 0: not known. */
static uint32_t speed_of(const struct kvx_verbs_rail *rail)
{
	uint32_t remote = rail->link->remote[rail->remote_port].speed_mbps;

	return rail->port->speed_mbps < remote ? rail->port->speed_mbps : remote;
}

/* The worse of both ends. */
static uint8_t nearness_of(const struct kvx_verbs_rail *rail, const struct kvx_memory *memory,
			   const uint8_t *hint, uint32_t hint_bytes)
{
	uint8_t here = kvx_verbs_nearness(rail->link->base.transport, memory, rail->port);
	uint8_t there = rail->remote_port < hint_bytes ? hint[rail->remote_port] : FULL;

	return here < there ? here : there;
}

/* Rails that are up and at least so near share by speed and nearness. Returns how many. */
static uint32_t share_from(const struct kvx_verbs_link *link, const uint8_t *nearness,
			   uint8_t least, struct kvx_shares *shares)
{
	uint32_t best = 1, count = 0;

	for (uint32_t i = 0; i < link->base.rails; i++)
		if (speed_of(&link->rails[i]) > best)
			best = speed_of(&link->rails[i]);
	for (uint32_t i = 0; i < link->base.rails; i++) {
		uint32_t speed = speed_of(&link->rails[i]);
		if (link->rails[i].state != KVX_VERBS_RAIL_UP || nearness[i] < least)
			continue;
		uint64_t weight = (uint64_t)nearness[i] * (speed ? speed : best) / best;
		shares->weight[i] = weight ? (uint8_t)weight : 1;
		count++;
	}
	return count;
}

uint32_t kvx_verbs_share(const struct kvx_link *base, const struct kvx_memory *memory,
			 const uint8_t *hint, uint32_t hint_bytes, struct kvx_shares *shares)
{
	const struct kvx_verbs_link *link = (const struct kvx_verbs_link *)base;
	uint8_t nearness[KVX_RAILS_MAX] = {0};

	memset(shares, 0, sizeof(*shares));
	for (uint32_t i = 0; i < base->rails; i++) {
		nearness[i] = nearness_of(&link->rails[i], memory, hint, hint_bytes);
		if (nearness[i])
			shares->usable |= UINT64_C(1) << i;
	}
	uint32_t count = share_from(link, nearness, FAILOVER + 1, shares);
	return count ? count : share_from(link, nearness, FAILOVER, shares);
}
