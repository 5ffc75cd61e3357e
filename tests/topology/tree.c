/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/tree.h"

#include "support/chance.h"
#include "topology/choose.h"
#include "topology/matrix.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define BUSES 200u /* every device gets a bus of its own */

uint32_t tree_box(struct kvx_machine *machine, enum kvx_box_kind kind, uint32_t parent)
{
	cr_assert(kvx_machine_add_box(machine, kind, parent));
	return machine->box_count - 1;
}

uint32_t tree_numa(struct kvx_machine *machine, uint32_t parent, uint32_t numa)
{
	uint32_t box = tree_box(machine, KVX_BOX_NUMA, parent);
	struct kvx_place *place = kvx_machine_add_place(machine, KVX_PLACE_NUMA, box);

	cr_assert(place);
	machine->boxes[box].shown.numa = numa;
	place->shown.numa = numa;
	return box;
}

void tree_gpu(struct kvx_machine *machine, uint32_t box, uint64_t pci)
{
	struct kvx_place *place = kvx_machine_add_place(machine, KVX_PLACE_GPU, box);

	cr_assert(place);
	place->pci = pci;
}

void tree_port(struct kvx_machine *machine, uint32_t box, uint64_t pci, double speed_gbps)
{
	struct kvx_port *port = kvx_machine_add_port(machine, box);

	cr_assert(port);
	port->pci = pci;
	port->shown.speed_gbps = speed_gbps;
	snprintf(port->shown.name, sizeof(port->shown.name), "nic%u", machine->port_count - 1);
}

/* A switch below a box: its upstream port and some downstream ones. Returns the upstream port. */
static uint32_t make_switch(struct kvx_machine *machine, uint32_t parent, unsigned depth,
			    uint64_t *random)
{
	uint32_t upstream = tree_box(machine, KVX_BOX_BRIDGE, parent);
	uint32_t ports = random_between(random, 1, 4);

	for (uint32_t i = 0; i < ports; i++) {
		uint32_t downstream = tree_box(machine, KVX_BOX_BRIDGE, upstream);
		if (depth && random_between(random, 0, 3) == 0)
			make_switch(machine, downstream, depth - 1, random);
	}
	return upstream;
}

static void make_package(struct kvx_machine *machine, uint32_t *nodes, uint64_t *random)
{
	uint32_t package = tree_box(machine, KVX_BOX_PACKAGE, 0);
	uint32_t count = random_between(random, 1, 2);

	for (uint32_t n = 0; n < count; n++) {
		uint32_t numa = tree_numa(machine, package, (*nodes)++);
		uint32_t hosts = random_between(random, 1, 3);
		for (uint32_t h = 0; h < hosts; h++) {
			uint32_t host = tree_box(machine, KVX_BOX_HOST_BRIDGE,
						 random_between(random, 0, 5) ? numa : package);
			if (random_between(random, 0, 2))
				make_switch(machine, host, 2, random);
		}
	}
}

static bool can_hold(const struct kvx_machine *machine, uint32_t box)
{
	enum kvx_box_kind kind = machine->boxes[box].shown.kind;

	return kind == KVX_BOX_HOST_BRIDGE || kind == KVX_BOX_BRIDGE;
}

/* A box that devices can stand in. */
static uint32_t some_box(const struct kvx_machine *machine, uint64_t *random)
{
	uint32_t box;

	do
		box = random_between(random, 0, machine->box_count - 1);
	while (!can_hold(machine, box));
	return box;
}

static void upset(struct kvx_port *port, uint64_t *random)
{
	static const double speeds[] = {0, 25, 100, 200, 400};

	port->shown.speed_gbps = speeds[random_between(random, 0, 4)];
	port->shown.state = (enum kvx_port_state)random_between(random, 0, 2);
	if (random_between(random, 0, 7) == 0)
		port->shown.fitness = (enum kvx_port_fitness)random_between(random, 0, 3);
}

void tree_make(struct kvx_machine *machine, const struct tree_settings *settings, uint64_t *random)
{
	uint32_t buses[BUSES], bus = 0, nodes = 0;
	uint32_t packages = random_between(random, 1, 2);

	random_table(random, buses, 1, BUSES);
	tree_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	for (uint32_t i = 0; i < packages; i++)
		make_package(machine, &nodes, random);
	for (uint32_t i = random_between(random, 1, settings->gpus_max); i; i--)
		tree_gpu(machine, some_box(machine, random), kvx_pci_make(0, buses[bus++], 0, 0));
	for (uint32_t i = random_between(random, 1, settings->ports_max); i; i--) {
		tree_port(machine, some_box(machine, random), kvx_pci_make(0, buses[bus++], 0, 0),
			  400);
		if (settings->is_uneven)
			upset(&machine->ports[machine->port_count - 1], random);
	}
}

static void copy_all(struct kvx_machine *copy, const struct kvx_machine *machine, uint64_t *random)
{
	uint32_t places[KVX_TOPOLOGY_PLACES_MAX], ports[KVX_TOPOLOGY_PORTS_MAX];

	random_table(random, places, 0, machine->place_count);
	random_table(random, ports, 0, machine->port_count);
	for (uint32_t i = 0; i < machine->box_count; i++) {
		uint32_t box = tree_box(copy, KVX_BOX_MACHINE, 0);
		copy->boxes[box] = machine->boxes[i];
	}
	for (uint32_t i = 0; i < machine->place_count; i++) {
		struct kvx_place *place = kvx_machine_add_place(copy, KVX_PLACE_GPU, 0);
		cr_assert(place);
		*place = machine->places[places[i]];
	}
	for (uint32_t i = 0; i < machine->port_count; i++) {
		struct kvx_port *port = kvx_machine_add_port(copy, 0);
		cr_assert(port);
		*port = machine->ports[ports[i]];
	}
}

void tree_shuffle(struct kvx_machine *copy, const struct kvx_machine *machine, uint64_t *random)
{
	copy_all(copy, machine, random);
	for (uint32_t i = 0; i < copy->port_count; i++)
		snprintf(copy->ports[i].shown.name, sizeof(copy->ports[i].shown.name), "rdma%u",
			 random_between(random, 0, 1 << 30));
}

void tree_renumber(struct kvx_machine *copy, const struct kvx_machine *machine, uint64_t *random)
{
	uint32_t buses[BUSES], bus = 0;

	random_table(random, buses, 1, BUSES);
	copy_all(copy, machine, random);
	for (uint32_t i = 0; i < copy->place_count; i++)
		if (copy->places[i].shown.kind == KVX_PLACE_GPU)
			copy->places[i].pci = kvx_pci_make(0, buses[bus++], 0, 0);
	for (uint32_t i = 0; i < copy->port_count; i++)
		copy->ports[i].pci = kvx_pci_make(0, buses[bus++], 0, 0);
}

void tree_finish(struct kvx_machine *machine)
{
	cr_assert_eq(kvx_machine_settle(machine), 0);
	kvx_matrix_fill(machine);
	kvx_choose(machine);
}

double tree_load(const struct kvx_machine *machine, uint32_t port)
{
	double load = 0;

	for (uint32_t p = 0; p < machine->place_count; p++) {
		const struct kvx_topology_pair *pair = &kvx_machine_pair(machine, p, port)->shown;
		if (machine->places[p].shown.kind == KVX_PLACE_GPU && pair->use == KVX_USE_CHOSEN)
			load += pair->weight;
	}
	return load;
}
