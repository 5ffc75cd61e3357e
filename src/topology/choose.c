/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/choose.h"

#define CLASSES (KVX_NEARNESS_SYS + 1)

/* A piece this small, of the GPU's bytes and of the port's, is not worth a connection. */
#define SLIVER (1.0 / 8)
#define NOTHING 1e-9 /* shares below are what rounding left */

/* Groups that overlap are balanced in turn; a tree's are settled after one round, and the second
 * finds nothing to do. */
#define ROUNDS_MAX 32
#define BISECTIONS 60 /* past a double's precision */

static uint32_t port_count(const struct kvx_machine *machine)
{
	return machine->port_count;
}

static struct kvx_topology_pair *pair_at(const struct kvx_machine *machine, uint32_t place,
					 uint32_t port)
{
	return &kvx_machine_pair(machine, place, port)->shown;
}

/* The slower of two speeds of which 0 is not known. */
static double slower(double a, double b)
{
	return a <= 0 || (b > 0 && b < a) ? b : a;
}

double kvx_choose_speed(const struct kvx_machine *machine, uint32_t place, uint32_t port)
{
	return slower(machine->ports[port].shown.speed_gbps,
		      pair_at(machine, place, port)->path_gbps);
}

/* -------------------------------------------------------------------- one place by itself */

static bool is_usable(const struct kvx_machine *machine, uint32_t port)
{
	const struct kvx_topology_port *shown = &machine->ports[port].shown;

	return shown->fitness == KVX_PORT_FIT && shown->state != KVX_PORT_DOWN;
}

struct classes {
	double fastest[CLASSES];
	bool is_present[CLASSES]; /* it has a usable port */
};

static struct classes survey(const struct kvx_machine *machine, uint32_t place)
{
	struct classes classes = {0};

	for (uint32_t i = 0; i < port_count(machine); i++) {
		enum kvx_nearness nearness = pair_at(machine, place, i)->nearness;
		double speed = kvx_choose_speed(machine, place, i);
		if (!is_usable(machine, i))
			continue;
		classes.is_present[nearness] = true;
		if (speed > classes.fastest[nearness])
			classes.fastest[nearness] = speed;
	}
	return classes;
}

static unsigned next_class(const struct classes *classes, unsigned class)
{
	while (class < CLASSES && !classes->is_present[class])
		class ++;
	return class;
}

static void set(struct kvx_topology_pair *pair, enum kvx_port_use use, enum kvx_use_reason reason)
{
	pair->use = use;
	pair->reason = reason;
	pair->weight = 0;
}

/* The place's candidates, as if no other place were there. */
static void assess(const struct kvx_machine *machine, uint32_t place)
{
	struct classes classes = survey(machine, place);
	unsigned best = next_class(&classes, 0), next = next_class(&classes, best + 1);

	for (uint32_t i = 0; i < port_count(machine); i++) {
		struct kvx_topology_pair *pair = pair_at(machine, place, i);
		double speed = kvx_choose_speed(machine, place, i);
		if (machine->ports[i].shown.fitness != KVX_PORT_FIT)
			set(pair, KVX_USE_NONE, KVX_REASON_UNFIT);
		else if (machine->ports[i].shown.state == KVX_PORT_DOWN)
			set(pair, KVX_USE_NONE, KVX_REASON_DOWN);
		else if (speed > 0 && speed * KVX_FAR_SLOWER < classes.fastest[pair->nearness])
			set(pair, KVX_USE_NONE, KVX_REASON_SLOW);
		else if (pair->nearness == best)
			set(pair, KVX_USE_CHOSEN, KVX_REASON_BEST);
		else if (pair->nearness == next)
			set(pair, KVX_USE_FAILOVER, KVX_REASON_NEXT);
		else
			set(pair, KVX_USE_NONE, KVX_REASON_FARTHER);
	}
}

/* What the override lists is used as it is, but for ports that are down. */
static void assess_listed(const struct kvx_machine *machine, uint32_t place)
{
	for (uint32_t i = 0; i < port_count(machine); i++) {
		struct kvx_topology_pair *pair = pair_at(machine, place, i);
		if (!kvx_machine_pair(machine, place, i)->is_listed)
			set(pair, KVX_USE_NONE, KVX_REASON_UNLISTED);
		else if (machine->ports[i].shown.state == KVX_PORT_DOWN)
			set(pair, KVX_USE_NONE, KVX_REASON_DOWN);
		else
			set(pair, KVX_USE_CHOSEN, KVX_REASON_LISTED);
	}
}

/* Ports in use of the same card share its PCIe link. */
static double shared_speed(const struct kvx_machine *machine, uint32_t place, uint32_t port,
			   enum kvx_port_use use)
{
	uint64_t card = kvx_pci_card(machine->ports[port].pci);
	unsigned sharing = 0;

	for (uint32_t i = 0; i < port_count(machine); i++)
		sharing += i == port ||
			   (card != KVX_PCI_NONE && kvx_pci_card(machine->ports[i].pci) == card &&
			    pair_at(machine, place, i)->use == use);
	return slower(machine->ports[port].shown.speed_gbps,
		      pair_at(machine, place, port)->path_gbps / sharing);
}

/* Speeds of the ports in that use; one that is not known counts as the fastest that is. Of other
 * ports 0. */
static void speeds_of(const struct kvx_machine *machine, uint32_t place, enum kvx_port_use use,
		      double *speeds)
{
	double fastest = 0;

	for (uint32_t i = 0; i < port_count(machine); i++) {
		speeds[i] = 0;
		if (pair_at(machine, place, i)->use == use)
			speeds[i] = shared_speed(machine, place, i, use);
		if (speeds[i] > fastest)
			fastest = speeds[i];
	}
	for (uint32_t i = 0; i < port_count(machine); i++)
		if (pair_at(machine, place, i)->use == use && speeds[i] <= 0)
			speeds[i] = fastest > 0 ? fastest : 1;
}

static void weigh(const struct kvx_machine *machine, uint32_t place, enum kvx_port_use use)
{
	double speeds[KVX_TOPOLOGY_PORTS_MAX], sum = 0;

	speeds_of(machine, place, use, speeds);
	for (uint32_t i = 0; i < port_count(machine); i++)
		sum += speeds[i];
	for (uint32_t i = 0; i < port_count(machine); i++)
		if (pair_at(machine, place, i)->use == use)
			pair_at(machine, place, i)->weight = speeds[i] / sum;
}

/* ------------------------------------------------------------------- GPUs that share ports */

/*
 * GPUs whose candidates are the same are a group. While groups are balanced, the weights of a
 * group's first GPU hold what the whole group puts on each port, in GPUs' worth of bytes.
 */
struct spread {
	const struct kvx_machine *machine;
	uint16_t first[KVX_TOPOLOGY_PLACES_MAX];   /* of a place's group; itself: it is the first */
	uint16_t members[KVX_TOPOLOGY_PLACES_MAX]; /* of the group, at its first */
	uint16_t order[KVX_TOPOLOGY_PLACES_MAX];   /* firsts, fewest candidates first */
	uint32_t group_count;
	double loads[KVX_TOPOLOGY_PORTS_MAX];   /* of all groups */
	double dropped[KVX_TOPOLOGY_PORTS_MAX]; /* of them what was not worth it */
};

static bool is_spread(const struct kvx_place *place)
{
	return place->shown.kind == KVX_PLACE_GPU && !place->is_listed;
}

static bool is_candidate(const struct kvx_machine *machine, uint32_t place, uint32_t port)
{
	return pair_at(machine, place, port)->use == KVX_USE_CHOSEN;
}

static bool same_candidates(const struct kvx_machine *machine, uint32_t a, uint32_t b)
{
	for (uint32_t i = 0; i < port_count(machine); i++)
		if (is_candidate(machine, a, i) != is_candidate(machine, b, i))
			return false;
	return true;
}

static uint32_t candidate_count(const struct kvx_machine *machine, uint32_t place)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < port_count(machine); i++)
		count += is_candidate(machine, place, i);
	return count;
}

/* Where the place belongs among the firsts: after those with fewer candidates or as many. */
static void insert_group(struct spread *spread, uint32_t place)
{
	uint32_t at = spread->group_count++, count = candidate_count(spread->machine, place);

	for (; at && candidate_count(spread->machine, spread->order[at - 1]) > count; at--)
		spread->order[at] = spread->order[at - 1];
	spread->order[at] = (uint16_t)place;
}

static void find_groups(struct spread *spread)
{
	const struct kvx_machine *machine = spread->machine;

	for (uint32_t p = 0; p < machine->place_count; p++) {
		uint32_t first = 0;
		if (!is_spread(&machine->places[p]) || !candidate_count(machine, p))
			continue;
		while (first < p && !(spread->members[first] && same_candidates(machine, first, p)))
			first++;
		spread->first[p] = (uint16_t)first;
		if (!spread->members[first]++)
			insert_group(spread, first);
	}
}

static bool is_member(const struct spread *spread, uint32_t place, uint32_t first)
{
	return is_spread(&spread->machine->places[place]) && spread->first[place] == first &&
	       candidate_count(spread->machine, place);
}

/* The slowest that any GPU of the group finds each port. */
static void group_speeds(const struct spread *spread, uint32_t first, double *speeds)
{
	double others[KVX_TOPOLOGY_PORTS_MAX];

	speeds_of(spread->machine, first, KVX_USE_CHOSEN, speeds);
	for (uint32_t p = first + 1; p < spread->machine->place_count; p++) {
		if (!is_member(spread, p, first))
			continue;
		speeds_of(spread->machine, p, KVX_USE_CHOSEN, others);
		for (uint32_t i = 0; i < port_count(spread->machine); i++)
			speeds[i] = slower(speeds[i], others[i]);
	}
}

/* What a port takes beyond its load when all are filled to the level, in GPUs' worth for each Gb/s.
 */
static double room(double level, double speed, double load)
{
	return level * speed > load ? level * speed - load : 0;
}

static double level_for(const double *speeds, const double *loads, uint32_t count, double wanted)
{
	double low = 0, high = 0;

	for (uint32_t i = 0; i < count; i++)
		if (speeds[i] > 0 && (loads[i] + wanted) / speeds[i] > high)
			high = (loads[i] + wanted) / speeds[i];
	for (int step = 0; step < BISECTIONS; step++) {
		double level = (low + high) / 2, sum = 0;
		for (uint32_t i = 0; i < count; i++)
			sum += room(level, speeds[i], loads[i]);
		*(sum < wanted ? &low : &high) = level;
	}
	return high;
}

/* Puts the group's bytes where the others leave room, like water. Returns what has moved. */
static double pour(struct spread *spread, uint32_t first)
{
	uint32_t count = port_count(spread->machine);
	double speeds[KVX_TOPOLOGY_PORTS_MAX], moved = 0;

	group_speeds(spread, first, speeds);
	for (uint32_t i = 0; i < count; i++)
		spread->loads[i] -= pair_at(spread->machine, first, i)->weight;
	double level = level_for(speeds, spread->loads, count, spread->members[first]);
	for (uint32_t i = 0; i < count; i++) {
		struct kvx_topology_pair *pair = pair_at(spread->machine, first, i);
		double amount = room(level, speeds[i], spread->loads[i]);
		moved += amount > pair->weight ? amount - pair->weight : 0;
		pair->weight = amount > NOTHING ? amount : 0;
		spread->loads[i] += pair->weight;
	}
	return moved;
}

static void balance(struct spread *spread)
{
	double moved = 1;

	for (int round = 0; round < ROUNDS_MAX && moved > NOTHING * KVX_TOPOLOGY_PORTS_MAX;
	     round++) {
		moved = 0;
		for (uint32_t g = 0; g < spread->group_count; g++)
			moved += pour(spread, spread->order[g]);
	}
}

void kvx_choose_overlay(
	const double *left, uint32_t left_count, const double *right, uint32_t right_count,
	void (*overlap)(void *context, uint32_t left, uint32_t right, double length), void *context)
{
	uint32_t l = 0, r = 0;
	double left_rest = left_count ? left[0] : 0, right_rest = right_count ? right[0] : 0;

	while (l < left_count && r < right_count) {
		double length = left_rest < right_rest ? left_rest : right_rest;
		if (length > NOTHING)
			overlap(context, l, r, length);
		left_rest -= length;
		right_rest -= length;
		/* What rounding leaves of an interval goes to nobody. */
		bool left_ends = left_rest <= NOTHING, right_ends = right_rest <= NOTHING;
		if (left_ends)
			left_rest = ++l < left_count ? left[l] : 0;
		if (right_ends)
			right_rest = ++r < right_count ? right[r] : 0;
	}
}

struct dealing {
	const struct kvx_machine *machine;
	uint16_t members[KVX_TOPOLOGY_PLACES_MAX];
};

static void deal_piece(void *context, uint32_t member, uint32_t port, double length)
{
	struct dealing *dealing = context;

	pair_at(dealing->machine, dealing->members[member], port)->weight = length;
}

/* Leaves out what is not worth a connection. Of no place and of no port more than a sliver goes, so
 * that ports stay about as loaded as they were. */
static void drop_slivers(struct spread *spread, uint32_t place)
{
	const struct kvx_machine *machine = spread->machine;
	double dropped = 0, kept = 0;

	for (uint32_t i = 0; i < port_count(machine); i++) {
		struct kvx_topology_pair *pair = pair_at(machine, place, i);
		if (dropped + pair->weight <= SLIVER &&
		    spread->dropped[i] + pair->weight <= SLIVER * spread->loads[i]) {
			dropped += pair->weight;
			spread->dropped[i] += pair->weight;
			pair->weight = 0;
		}
		kept += pair->weight;
	}
	for (uint32_t i = 0; i < port_count(machine); i++)
		pair_at(machine, place, i)->weight /= kept;
}

/* Deals what the group puts on each port to its GPUs, in order, so that each gets few ports. */
static void deal(struct spread *spread, uint32_t first)
{
	const struct kvx_machine *machine = spread->machine;
	double amounts[KVX_TOPOLOGY_PORTS_MAX], ones[KVX_TOPOLOGY_PLACES_MAX];
	struct dealing dealing = {.machine = machine};
	uint32_t count = 0;

	for (uint32_t i = 0; i < port_count(machine); i++) {
		amounts[i] = pair_at(machine, first, i)->weight;
		pair_at(machine, first, i)->weight = 0;
	}
	for (uint32_t p = first; p < machine->place_count; p++) {
		if (is_member(spread, p, first)) {
			ones[count] = 1;
			dealing.members[count++] = (uint16_t)p;
		}
	}
	kvx_choose_overlay(ones, count, amounts, port_count(machine), deal_piece, &dealing);
	for (uint32_t m = 0; m < count; m++)
		drop_slivers(spread, dealing.members[m]);
}

/* What is left to other GPUs stands by. Only now: until here `use` says who the candidates are. */
static void stand_by(const struct spread *spread)
{
	const struct kvx_machine *machine = spread->machine;

	for (uint32_t p = 0; p < machine->place_count; p++)
		for (uint32_t i = 0; is_spread(&machine->places[p]) && i < port_count(machine); i++)
			if (is_candidate(machine, p, i) && pair_at(machine, p, i)->weight <= 0)
				set(pair_at(machine, p, i), KVX_USE_FAILOVER, KVX_REASON_SHARED);
}

void kvx_choose(struct kvx_machine *machine)
{
	struct spread spread = {.machine = machine};

	for (uint32_t p = 0; p < machine->place_count; p++) {
		if (machine->places[p].is_listed)
			assess_listed(machine, p);
		else
			assess(machine, p);
	}
	find_groups(&spread);
	balance(&spread);
	for (uint32_t g = 0; g < spread.group_count; g++)
		deal(&spread, spread.order[g]);
	stand_by(&spread);
	for (uint32_t p = 0; p < machine->place_count; p++) {
		if (!is_spread(&machine->places[p]))
			weigh(machine, p, KVX_USE_CHOSEN);
		weigh(machine, p, KVX_USE_FAILOVER);
	}
}
