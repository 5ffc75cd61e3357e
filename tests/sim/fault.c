/* SPDX-License-Identifier: Apache-2.0 */
/* What goes wrong, and to whom it may matter. */
#include "core/grant.h"
#include "plan/unit.h"
#include "request.h"

#include <stdlib.h>
#include <string.h>

/* Shorter stops and cuts than a third of a heartbeat are nobody's death. */
static int64_t harmless_ns(void)
{
	return world.heartbeat_max_ms * MS / 3 < 8 * MS ? world.heartbeat_max_ms * MS / 3 : 8 * MS;
}

void faults_choose(void)
{
	uint32_t kinds = (uint32_t)sim_random() & ((1u << FAULT_KINDS) - 1);

	if (sim_percent(15))
		kinds = 0;
	else if (sim_percent(30))
		kinds = 1u << FAULT_RAIL | 1u << FAULT_REPEAT | 1u << FAULT_FORGED;
	world.faults = kinds;
	world.fault_every_ns = sim_percent(50) ? 200 * US : 2 * MS;
	world.light_left = sim_between(5, 120);
	world.heavy_left = sim_between(1, 4);
}

/* What ends connections or stops time is rare, or nothing would ever become whole. */
static bool spend(void)
{
	bool left = world.heavy_left > 0;

	world.heavy_left -= left;
	return left;
}

static bool happens(enum sim_fault fault)
{
	return world.faults >> fault & 1;
}

static void fault(enum sim_fault fault)
{
	sim_counts.faults[fault]++;
	sim_note(UINT64_C(0xfa) << 56 | fault);
}

/* --- wires --- */

static void fail_rail(void)
{
	struct wire *wire = net_any_wire();

	if (!wire)
		return;
	uint32_t rail = sim_below(wire->rail_count);
	/* One that carries something, where there is one. */
	for (uint32_t i = 0; i < wire->rail_count && !wire->rails[rail].channel.count; i++)
		rail = (rail + 1) % wire->rail_count;
	if (wire->rails[rail].epoch % 2)
		return;
	fault(FAULT_RAIL);
	wire_fail_rail(wire, rail);
}

static void break_wire(void)
{
	struct wire *wire = net_any_wire();

	if (!wire || !spend())
		return;
	fault(FAULT_BREAK);
	sim_trace("wire %llu breaks", (unsigned long long)wire->id);
	world_disturb(wire->node[0], wire->node[1], 5 * MS);
	wire_break(wire, "sim: the wire broke");
}

/* A message that makes no sense. Some look like the beginning of one that does. */
static void send_garbage(void)
{
	struct wire *wire = net_any_wire();
	uint8_t bytes[96];
	uint32_t length = sim_between(1, sizeof(bytes));
	int side = (int)sim_below(2);

	if (!wire || !spend())
		return;
	fault(FAULT_GARBAGE);
	for (uint32_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)sim_random();
	bytes[0] = (uint8_t)sim_below(18);
	world_disturb(wire->node[0], wire->node[1], 5 * MS);
	const struct packet *packet = packet_new(&wire->messages[side], 0, bytes, length);
	world_wake(wire->node[!side], packet->due_ns);
}

static void cut_network(void)
{
	uint32_t a = sim_below(world.node_count), b = sim_below(world.node_count);
	bool harmless = sim_percent(80) || !spend();
	int64_t most_ns = harmless ? harmless_ns() : 3 * world.heartbeat_max_ms * MS;
	int64_t duration_ns = sim_span(1, most_ns);

	if (a == b)
		return;
	fault(FAULT_CUT);
	sim_trace("nodes %u and %u are cut off for %lld us", a, b, (long long)(duration_ns / US));
	if (!harmless)
		world_disturb(a, b, duration_ns);
	net.cut_until_ns[a][b] = sim_now_ns + duration_ns;
	if (sim_percent(70))
		net.cut_until_ns[b][a] = sim_now_ns + duration_ns;
}

/* --- units that are not to be counted --- */

struct forged {
	struct kvx_unit unit;
	uint64_t place;
	uint32_t bytes;
};

static const struct request *any_grant(void)
{
	const struct request *chosen = NULL;
	uint32_t seen = 0;

	for (uint32_t i = 0; i < REQUESTS_MAX; i++)
		if (requests[i].used && requests[i].grant && !sim_below(++seen))
			chosen = &requests[i];
	return chosen;
}

static bool feeds(const struct request *request, uint32_t node)
{
	for (uint32_t i = 0; i < request->feed_count; i++)
		if (request->feeds[i].node == node)
			return true;
	return false;
}

/* A wire to the request's receiver. */
static struct wire *wire_to(const struct request *request, bool of_feed)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &net.wires) {
		struct wire *wire = kvx_container_of(entry, struct wire, entry);
		const struct end *end = wire->end[ACCEPTOR];
		if (wire->node[ACCEPTOR] == request->node && end && end->up && !end->failure &&
		    wire->end[CONNECTOR] && feeds(request, wire->node[CONNECTOR]) == of_feed)
			return wire;
	}
	return NULL;
}

/* A unit that the grant waits for, as its peers would name and place it. False: it waits for none.
 */
static bool choose_unit(const struct kvx_grant *grant, struct forged *forged)
{
	uint32_t layer = sim_below(grant->transfer.layers);
	const struct kvx_counter *counter = kvx_grant_counter(grant, layer);
	uint64_t missing = counter->wanted & ~counter->bits;

	if (!missing)
		return false;
	for (uint32_t skip = sim_below((uint32_t)__builtin_popcountll(missing)); skip; skip--)
		missing &= missing - 1;
	uint32_t unit = (uint32_t)__builtin_ctzll(missing);
	const struct kvx_feed *feed = &grant->feeds[grant->feed_of_unit[unit]];
	forged->place = kvx_image_unit_place(&feed->image, unit - feed->unit_first);
	forged->bytes = (uint32_t)(kvx_image_unit_place(&feed->image, unit + 1 - feed->unit_first) -
				   forged->place);
	forged->unit.generation = grant->generation;
	forged->unit.imm = kvx_imm_pack(grant->slot, grant->generation, layer, unit);
	return true;
}

/* Whole, so that whoever takes it would count it. In the middle of another batch it would be a gap
 * in that one. */
static void put_forged(struct wire *wire, const struct forged *forged)
{
	struct rail *rail = &wire->rails[sim_below(wire->rail_count)];
	uint8_t *junk;

	if (!kvx_list_empty(&rail->channel.packets))
		return;
	junk = malloc(forged->bytes);
	if (!junk)
		sim_broken("the simulator is out of memory");
	memset(junk, 0x66, forged->bytes);
	struct packet *packet = packet_new(&rail->channel, 0, junk, forged->bytes);
	free(junk);
	packet->unit = forged->unit;
	packet->place = forged->place;
	packet->bytes = forged->bytes;
	packet->last = true;
	world_wake(wire->node[ACCEPTOR], packet->due_ns);
}

static void tell_forged(struct wire *wire, const struct forged *forged)
{
	struct event *event = nic_tell(wire, ACCEPTOR);

	event->imm = forged->unit.imm;
	event->rail = sim_below(wire->rail_count);
}

/* A unit of a grant that this peer does not feed, or of one that was in its slot before. */
static void forge(void)
{
	const struct request *request = any_grant();
	bool stranger = sim_percent(50);
	struct wire *wire = request ? wire_to(request, !stranger) : NULL;
	struct forged forged;

	if (!wire || !choose_unit(request->grant, &forged))
		return;
	fault(FAULT_FORGED);
	if (!stranger) {
		uint32_t generation = --forged.unit.generation;
		forged.unit.imm =
			kvx_imm_pack(request->grant->slot, generation,
				     kvx_imm_layer(forged.unit.imm), kvx_imm_unit(forged.unit.imm));
	}
	if (wire->one_sided)
		tell_forged(wire, &forged);
	else
		put_forged(wire, &forged);
}

/* An arrival that is told again. */
static void repeat(void)
{
	struct wire *wire = net_any_wire();
	struct kvx_list *entry, *next;

	if (!wire || !wire->one_sided)
		return;
	kvx_list_for_each (entry, next, &wire->events) {
		const struct event *event = kvx_container_of(entry, struct event, entry);
		if (event->flow)
			continue;
		fault(FAULT_REPEAT);
		struct event *again = nic_tell(wire, ACCEPTOR);
		again->rail = event->rail;
		again->imm = event->imm;
		return;
	}
}

/* --- nodes --- */

static void stall(void)
{
	struct node *node = &world.nodes[sim_below(world.node_count)];
	bool harmless = sim_percent(80) || !spend();
	int64_t most_ns = harmless ? harmless_ns() : 4 * world.heartbeat_max_ms * MS;
	int64_t duration_ns = sim_span(1, most_ns);

	if (!node->engine || node->stalled_until_ns > sim_now_ns)
		return;
	fault(FAULT_STALL);
	sim_trace("node %u is stopped for %lld us", node->index, (long long)(duration_ns / US));
	node->stalled_until_ns = sim_now_ns + duration_ns;
	requests_stalled(node->index, duration_ns);
	if (!harmless)
		world_disturb_all(node->index, duration_ns);
	/* Who was lost before is noticed later. */
	for (uint32_t g = 0; g < world.grave_count && g < GRAVES_MAX; g++)
		world.graves[g].lost_ns +=
			duration_ns + (harmless ? 0 : 2 * world.heartbeat_max_ms * MS);
}

static void kill_node(void)
{
	struct node *node = &world.nodes[sim_below(world.node_count)];

	if (!node->engine || !spend())
		return;
	fault(FAULT_KILL);
	world_kill(node, sim_percent(50));
	if (happens(FAULT_RESTART))
		node->restart_ns = sim_now_ns + sim_span(0, 20 * MS);
}

static void restart(void)
{
	for (uint32_t i = 0; i < world.node_count; i++) {
		struct node *node = &world.nodes[i];
		if (node->engine || node->restart_ns > sim_now_ns)
			continue;
		fault(FAULT_RESTART);
		sim_trace("node %u is started again", i);
		world_disturb_all(i, 2 * world.heartbeat_max_ms * MS);
		world_open_engine(node);
	}
}

void faults_happen(void)
{
	static void (*const kinds[])(void) = {
		[FAULT_RAIL] = fail_rail,       [FAULT_BREAK] = break_wire,
		[FAULT_CUT] = cut_network,      [FAULT_STALL] = stall,
		[FAULT_KILL] = kill_node,       [FAULT_RESTART] = restart,
		[FAULT_GARBAGE] = send_garbage, [FAULT_FORGED] = forge,
		[FAULT_REPEAT] = repeat,
	};
	static const uint32_t percents[] = {
		[FAULT_RAIL] = 60,   [FAULT_BREAK] = 4,   [FAULT_CUT] = 15,
		[FAULT_STALL] = 15,  [FAULT_KILL] = 3,    [FAULT_RESTART] = 100,
		[FAULT_GARBAGE] = 4, [FAULT_FORGED] = 40, [FAULT_REPEAT] = 60,
	};

	for (uint32_t kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++)
		if ((kind == FAULT_RESTART || world.light_left) && happens((enum sim_fault)kind) &&
		    sim_percent(percents[kind]))
			kinds[kind]();
	world.light_left -= world.light_left > 0;
}
