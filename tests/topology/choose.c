/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/choose.h"

#include "support/chance.h"
#include "topology/tree.h"

#include <criterion/criterion.h>
#include <math.h>

#define ROUNDS 3000
#define CLOSE 1e-6

static const struct tree_settings even = {12, 24, false}, uneven = {12, 24, true};

static const struct kvx_topology_pair *pair_at(const struct kvx_machine *machine, uint32_t place,
					       uint32_t port)
{
	return &kvx_machine_pair(machine, place, port)->shown;
}

static bool is_gpu(const struct kvx_machine *machine, uint32_t place)
{
	return machine->places[place].shown.kind == KVX_PLACE_GPU;
}

static bool is_usable(const struct kvx_machine *machine, uint32_t port)
{
	return machine->ports[port].shown.fitness == KVX_PORT_FIT &&
	       machine->ports[port].shown.state != KVX_PORT_DOWN;
}

/* --- on every machine --- */

static void expect_sums(const struct kvx_machine *machine, uint32_t place)
{
	double sums[] = {0, 0, 0};
	bool has_usable = false;

	for (uint32_t i = 0; i < machine->port_count; i++) {
		const struct kvx_topology_pair *pair = pair_at(machine, place, i);
		sums[pair->use] += pair->weight;
		has_usable |= is_usable(machine, i);
		cr_assert((pair->weight > 0) == (pair->use != KVX_USE_NONE));
		if (pair->use != KVX_USE_NONE)
			cr_assert(is_usable(machine, i));
	}
	cr_assert_float_eq(sums[KVX_USE_NONE], 0, 0);
	cr_assert_float_eq(sums[KVX_USE_CHOSEN], has_usable ? 1 : 0, CLOSE);
	cr_assert(sums[KVX_USE_FAILOVER] == 0 || fabs(sums[KVX_USE_FAILOVER] - 1) < CLOSE);
}

/* Ports that are chosen are of one class; none that is usable is nearer. */
static void expect_nearest(const struct kvx_machine *machine, uint32_t place)
{
	for (uint32_t i = 0; i < machine->port_count; i++)
		for (uint32_t k = 0; k < machine->port_count; k++)
			if (pair_at(machine, place, i)->use == KVX_USE_CHOSEN &&
			    is_usable(machine, k))
				cr_assert(pair_at(machine, place, i)->nearness <=
					  pair_at(machine, place, k)->nearness);
}

Test(choose, every_place_uses_usable_ports_of_its_nearest_class)
{
	uint64_t random = random_seed();

	for (int round = 0; round < ROUNDS; round++) {
		struct kvx_machine machine = {0};
		tree_make(&machine, round % 2 ? &even : &uneven, &random);
		tree_finish(&machine);
		for (uint32_t p = 0; p < machine.place_count; p++) {
			expect_sums(&machine, p);
			expect_nearest(&machine, p);
		}
		kvx_machine_finish(&machine);
	}
}

/* A port that a GPU could use as well as those that it does. */
static bool is_candidate(const struct kvx_machine *machine, uint32_t place, uint32_t port)
{
	const struct kvx_topology_pair *pair = pair_at(machine, place, port);

	return pair->use == KVX_USE_CHOSEN || pair->reason == KVX_REASON_SHARED;
}

/* No candidate is idle, and no GPU uses a port that is twice as loaded as another it could use. */
static void expect_balance(const struct kvx_machine *machine, uint32_t place)
{
	for (uint32_t i = 0; i < machine->port_count; i++) {
		if (!is_candidate(machine, place, i))
			continue;
		double load = tree_load(machine, i) / machine->ports[i].shown.speed_gbps;
		cr_assert(load > 0, "port %u is idle", i);
		for (uint32_t k = 0; k < machine->port_count; k++) {
			if (pair_at(machine, place, k)->use != KVX_USE_CHOSEN)
				continue;
			double other = tree_load(machine, k) / machine->ports[k].shown.speed_gbps;
			cr_assert(other <= 2 * load + CLOSE,
				  "GPU %u uses port %u, loaded %g, and not %u, loaded %g", place, k,
				  other, i, load);
		}
	}
}

static void set_speeds(struct kvx_machine *machine, uint64_t *random)
{
	static const double speeds[] = {100, 200, 400};

	for (uint32_t i = 0; i < machine->port_count; i++)
		machine->ports[i].shown.speed_gbps = speeds[random_between(random, 0, 2)];
}

static void expect_all_balanced(const struct kvx_machine *machine)
{
	for (uint32_t p = 0; p < machine->place_count; p++)
		if (is_gpu(machine, p))
			expect_balance(machine, p);
}

Test(choose, no_port_is_idle_or_twice_as_loaded_as_another)
{
	uint64_t random = random_seed();

	for (int round = 0; round < ROUNDS; round++) {
		struct kvx_machine machine = {0}, renumbered = {0};
		tree_make(&machine, &even, &random);
		if (round % 2)
			set_speeds(&machine, &random);
		tree_renumber(&renumbered, &machine, &random);
		tree_finish(&machine);
		tree_finish(&renumbered);
		expect_all_balanced(&machine);
		expect_all_balanced(&renumbered);
		kvx_machine_finish(&machine);
		kvx_machine_finish(&renumbered);
	}
}

Test(choose, order_and_names_change_nothing)
{
	uint64_t random = random_seed();

	for (int round = 0; round < ROUNDS; round++) {
		struct kvx_machine machine = {0}, other = {0};
		tree_make(&machine, round % 2 ? &even : &uneven, &random);
		tree_shuffle(&other, &machine, &random);
		tree_finish(&machine);
		tree_finish(&other);
		for (uint32_t p = 0; p < machine.place_count; p++) {
			cr_assert_eq(machine.places[p].pci, other.places[p].pci);
			for (uint32_t i = 0; i < machine.port_count; i++) {
				const struct kvx_topology_pair *a = pair_at(&machine, p, i),
							       *b = pair_at(&other, p, i);
				cr_assert_eq(machine.ports[i].pci, other.ports[i].pci);
				cr_assert_eq(a->nearness, b->nearness);
				cr_assert_eq(a->reason, b->reason);
				cr_assert_float_eq(a->weight, b->weight, 0);
			}
		}
		kvx_machine_finish(&machine);
		kvx_machine_finish(&other);
	}
}

/* --- GPUs and ports of one switch --- */

static void make_pool(struct kvx_machine *machine, uint32_t gpus, uint32_t ports)
{
	tree_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	uint32_t bridge = tree_box(machine, KVX_BOX_SWITCH, tree_numa(machine, 0, 0));

	for (uint32_t i = 0; i < gpus; i++)
		tree_gpu(machine, bridge, kvx_pci_make(0, 1 + i, 0, 0));
	for (uint32_t i = 0; i < ports; i++)
		tree_port(machine, bridge, kvx_pci_make(0, 100 + i, 0, 0), 400);
}

static uint32_t chosen_count(const struct kvx_machine *machine, uint32_t place)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < machine->port_count; i++)
		count += pair_at(machine, place, i)->use == KVX_USE_CHOSEN;
	return count;
}

Test(choose, ports_are_spread_over_gpus)
{
	static const struct {
		uint32_t gpus, ports, chosen_max;
		double load;
	} cases[] = {
		{8, 8, 1, 1},       {8, 4, 1, 2},          {8, 2, 1, 4},   {1, 4, 4, 0.25},
		{2, 8, 4, 0.25},    {4, 8, 2, 0.5},        {3, 2, 2, 1.5}, {8, 3, 2, 8.0 / 3},
		{5, 7, 3, 5.0 / 7}, {1, 32, 32, 1.0 / 32}, {16, 1, 1, 16},
	};

	for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
		struct kvx_machine machine = {0};
		make_pool(&machine, cases[c].gpus, cases[c].ports);
		tree_finish(&machine);
		for (uint32_t p = 0; p < cases[c].gpus; p++)
			cr_assert(chosen_count(&machine, p) <= cases[c].chosen_max,
				  "case %zu: GPU %u has %u ports", c, p, chosen_count(&machine, p));
		for (uint32_t i = 0; i < cases[c].ports; i++)
			cr_assert_float_eq(tree_load(&machine, i), cases[c].load, CLOSE,
					   "case %zu: port %u carries %g", c, i,
					   tree_load(&machine, i));
		kvx_machine_finish(&machine);
	}
}

Test(choose, faster_ports_carry_more)
{
	struct kvx_machine machine = {0};

	make_pool(&machine, 1, 3);
	machine.ports[0].shown.speed_gbps = 400;
	machine.ports[1].shown.speed_gbps = 200;
	machine.ports[2].shown.speed_gbps = 400;
	machine.ports[2].link_gbps = 200; /* the slower of port and path counts */
	tree_finish(&machine);
	cr_assert_float_eq(pair_at(&machine, 0, 0)->weight, 0.5, CLOSE);
	cr_assert_float_eq(pair_at(&machine, 0, 1)->weight, 0.25, CLOSE);
	cr_assert_float_eq(pair_at(&machine, 0, 2)->weight, 0.25, CLOSE);
	kvx_machine_finish(&machine);
}

Test(choose, ports_of_a_card_share_its_link)
{
	struct kvx_machine machine = {0};

	make_pool(&machine, 1, 1);
	machine.ports[0].link_gbps = 400;
	tree_port(&machine, machine.ports[0].shown.box, kvx_pci_make(0, 50, 0, 0), 400);
	tree_port(&machine, machine.ports[0].shown.box, kvx_pci_make(0, 50, 0, 1), 400);
	machine.ports[1].link_gbps = machine.ports[2].link_gbps = 400;
	tree_finish(&machine);
	/* By address the card of two ports comes first. */
	cr_assert_float_eq(pair_at(&machine, 0, 0)->weight, 0.25, CLOSE);
	cr_assert_float_eq(pair_at(&machine, 0, 1)->weight, 0.25, CLOSE);
	cr_assert_float_eq(pair_at(&machine, 0, 2)->weight, 0.5, CLOSE);
	kvx_machine_finish(&machine);
}

Test(choose, a_gpu_leaves_a_near_port_to_one_that_has_no_other)
{
	struct kvx_machine machine = {0};

	/* GPU 0 and port 0 share a switch; GPU 1 hangs off the host bridge, as port 1 does. */
	tree_box(&machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	uint32_t host = tree_box(&machine, KVX_BOX_HOST_BRIDGE, tree_numa(&machine, 0, 0));
	uint32_t bridge = tree_box(&machine, KVX_BOX_SWITCH, host);
	tree_gpu(&machine, bridge, kvx_pci_make(0, 1, 0, 0));
	tree_gpu(&machine, host, kvx_pci_make(0, 2, 0, 0));
	tree_port(&machine, bridge, kvx_pci_make(0, 3, 0, 0), 400);
	tree_port(&machine, host, kvx_pci_make(0, 4, 0, 0), 400);
	tree_finish(&machine);
	cr_assert_eq(pair_at(&machine, 0, 0)->use, KVX_USE_CHOSEN);
	cr_assert_eq(pair_at(&machine, 1, 0)->reason, KVX_REASON_SHARED);
	cr_assert_eq(pair_at(&machine, 1, 1)->use, KVX_USE_CHOSEN);
	kvx_machine_finish(&machine);
}

Test(choose, ports_far_slower_than_the_best_of_their_class_are_left_out)
{
	struct kvx_machine machine = {0};

	make_pool(&machine, 1, 3);
	machine.ports[0].link_gbps = 504;
	machine.ports[1].link_gbps = 31.5;
	machine.ports[2].shown.speed_gbps = 100; /* a quarter is not far slower */
	tree_finish(&machine);
	cr_assert_eq(pair_at(&machine, 0, 0)->use, KVX_USE_CHOSEN);
	cr_assert_eq(pair_at(&machine, 0, 1)->reason, KVX_REASON_SLOW);
	cr_assert_eq(pair_at(&machine, 0, 2)->use, KVX_USE_CHOSEN);
	kvx_machine_finish(&machine);
}

Test(choose, a_link_that_goes_down_brings_the_next_class)
{
	struct kvx_machine machine = {0};

	tree_box(&machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	uint32_t near = tree_numa(&machine, 0, 0), far = tree_numa(&machine, 0, 1);
	tree_port(&machine, near, kvx_pci_make(0, 1, 0, 0), 100);
	tree_port(&machine, far, kvx_pci_make(0, 2, 0, 0), 100);
	tree_finish(&machine);
	cr_assert_eq(pair_at(&machine, 0, 0)->use, KVX_USE_CHOSEN);
	cr_assert_eq(pair_at(&machine, 0, 1)->use, KVX_USE_FAILOVER);
	cr_assert_eq(pair_at(&machine, 1, 1)->use, KVX_USE_CHOSEN);
	machine.ports[0].shown.state = KVX_PORT_DOWN;
	kvx_choose(&machine);
	cr_assert_eq(pair_at(&machine, 0, 0)->reason, KVX_REASON_DOWN);
	cr_assert_eq(pair_at(&machine, 0, 1)->use, KVX_USE_CHOSEN);
	machine.ports[0].shown.state = KVX_PORT_UP;
	kvx_choose(&machine);
	cr_assert_eq(pair_at(&machine, 0, 0)->use, KVX_USE_CHOSEN);
	kvx_machine_finish(&machine);
}

Test(choose, a_machine_without_ports_or_gpus_is_no_trouble)
{
	struct kvx_machine machine = {0}, empty = {0};

	make_pool(&machine, 2, 0);
	tree_finish(&machine);
	cr_assert_eq(machine.port_count, 0);
	kvx_machine_finish(&machine);
	make_pool(&empty, 0, 2);
	tree_finish(&empty);
	cr_assert_eq(pair_at(&empty, 0, 0)->use, KVX_USE_CHOSEN);
	kvx_machine_finish(&empty);
}
