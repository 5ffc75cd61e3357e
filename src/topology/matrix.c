/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/matrix.h"

static const struct {
	const char *name, *text;
} nearness_table[] = {
	[KVX_NEARNESS_PIX] = {"PIX", "same PCIe switch"},
	[KVX_NEARNESS_PXB] = {"PXB", "across several PCIe switches"},
	[KVX_NEARNESS_PHB] = {"PHB", "same host bridge"},
	[KVX_NEARNESS_NODE] = {"NODE", "same NUMA node"},
	[KVX_NEARNESS_SYS] = {"SYS", "across the machine"},
};

const char *kvx_nearness_name(enum kvx_nearness nearness)
{
	return (unsigned)nearness <= KVX_NEARNESS_SYS ? nearness_table[nearness].name : "unknown";
}

const char *kvx_nearness_text(enum kvx_nearness nearness)
{
	return nearness_table[nearness].text;
}

static bool is_pcie(const struct kvx_box *box)
{
	return box->shown.kind == KVX_BOX_HOST_BRIDGE || box->shown.kind == KVX_BOX_BRIDGE ||
	       box->shown.kind == KVX_BOX_SWITCH;
}

/* Parents stand before their children, so the later of two boxes is no ancestor of the other. */
static uint32_t common_ancestor(const struct kvx_machine *machine, uint32_t a, uint32_t b)
{
	while (a != b) {
		uint32_t *later = a > b ? &a : &b;
		*later = machine->boxes[*later].shown.parent;
	}
	return a;
}

/* Ports of bridges on the way from a box up to an ancestor of it, which is left out. */
static uint32_t bridge_ports(const struct kvx_machine *machine, uint32_t box, uint32_t ancestor)
{
	uint32_t count = 0;

	for (; box != ancestor; box = machine->boxes[box].shown.parent)
		count += machine->boxes[box].bridge_ports;
	return count;
}

/* Nothing but PCIe lies between the box and its ancestor, or it is that ancestor. */
static bool hangs_off(const struct kvx_machine *machine, uint32_t box, uint32_t ancestor)
{
	while (box != ancestor && is_pcie(&machine->boxes[box]))
		box = machine->boxes[box].shown.parent;
	return box == ancestor;
}

/* The only NUMA node inside a box, or around it; none if there are several. */
static uint32_t numa_of(const struct kvx_machine *machine, uint32_t box)
{
	uint32_t found = KVX_TOPOLOGY_NONE, count = 0;

	while (is_pcie(&machine->boxes[box]))
		box = machine->boxes[box].shown.parent;
	if (machine->boxes[box].shown.kind == KVX_BOX_NUMA)
		return machine->boxes[box].shown.numa;
	for (uint32_t i = box + 1; i < machine->box_count; i++) {
		if (machine->boxes[i].shown.kind == KVX_BOX_NUMA &&
		    common_ancestor(machine, i, box) == box) {
			found = machine->boxes[i].shown.numa;
			count++;
		}
	}
	return count == 1 ? found : KVX_TOPOLOGY_NONE;
}

/*
 * Of boxes that only the CPU joins. Within a package that holds several NUMA nodes, what is known
 * to belong to the package only may well belong to either node; what is known to belong to the
 * machine only may be anywhere.
 */
static enum kvx_nearness beyond_pcie(const struct kvx_machine *machine, uint32_t ancestor,
				     uint32_t a, uint32_t b)
{
	enum kvx_box_kind kind = machine->boxes[ancestor].shown.kind;

	if (kind == KVX_BOX_NUMA || numa_of(machine, ancestor) != KVX_TOPOLOGY_NONE)
		return KVX_NEARNESS_NODE;
	bool is_direct = hangs_off(machine, a, ancestor) || hangs_off(machine, b, ancestor);
	return kind == KVX_BOX_PACKAGE && is_direct ? KVX_NEARNESS_NODE : KVX_NEARNESS_SYS;
}

static enum kvx_nearness nearness_of(const struct kvx_machine *machine,
				     const struct kvx_place *place, const struct kvx_port *port)
{
	uint32_t a = place->shown.box, b = port->shown.box;
	uint32_t ancestor = common_ancestor(machine, a, b);

	if (a == b && place->pci != KVX_PCI_NONE &&
	    kvx_pci_card(place->pci) == kvx_pci_card(port->pci))
		return KVX_NEARNESS_PIX; /* functions of one device */
	switch (machine->boxes[ancestor].shown.kind) {
	case KVX_BOX_BRIDGE:
	case KVX_BOX_SWITCH:
		/* Two ports of one switch are as near as its ports get. */
		return bridge_ports(machine, a, ancestor) <= 1 &&
				       bridge_ports(machine, b, ancestor) <= 1
			       ? KVX_NEARNESS_PIX
			       : KVX_NEARNESS_PXB;
	case KVX_BOX_HOST_BRIDGE:
		return KVX_NEARNESS_PHB;
	default:
		return beyond_pcie(machine, ancestor, a, b);
	}
}

/* The narrowest so far and one more link; what is not known does not narrow. */
static void narrow(double *gbps, uint32_t *width, double link_gbps, uint32_t link_width)
{
	if (link_gbps > 0 && (*gbps <= 0 || link_gbps < *gbps)) {
		*gbps = link_gbps;
		*width = link_width;
	}
}

static void narrow_up_to(const struct kvx_machine *machine, uint32_t box, uint32_t ancestor,
			 double *gbps, uint32_t *width)
{
	for (; box != ancestor; box = machine->boxes[box].shown.parent)
		narrow(gbps, width, machine->boxes[box].link_gbps, machine->boxes[box].width);
}

/*
 * The narrowest link between a place and a port. A GPU's own link is left out, at both its ends: an
 * idle GPU clocks it down, and all its paths share it, so it decides nothing.
 */
static double path_gbps(const struct kvx_machine *machine, const struct kvx_place *place,
			const struct kvx_port *port)
{
	uint32_t ancestor = common_ancestor(machine, place->shown.box, port->shown.box);
	uint32_t from = place->shown.box, width = 0;
	double gbps = 0;

	narrow(&gbps, &width, port->link_gbps, port->width);
	narrow_up_to(machine, port->shown.box, ancestor, &gbps, &width);
	if (from != ancestor && machine->boxes[from].shown.kind == KVX_BOX_BRIDGE)
		from = machine->boxes[from].shown.parent;
	narrow_up_to(machine, from, ancestor, &gbps, &width);
	return gbps;
}

void kvx_matrix_fill(struct kvx_machine *machine)
{
	if (machine->has_pairs)
		return;
	for (uint32_t i = 0; i < machine->port_count; i++) {
		struct kvx_port *port = &machine->ports[i];
		port->shown.pcie_gbps = port->link_gbps;
		port->shown.pcie_width = port->width;
		narrow_up_to(machine, port->shown.box, 0, &port->shown.pcie_gbps,
			     &port->shown.pcie_width);
		port->shown.numa = numa_of(machine, port->shown.box);
	}
	for (uint32_t p = 0; p < machine->place_count; p++) {
		struct kvx_place *place = &machine->places[p];
		if (place->shown.kind == KVX_PLACE_GPU)
			place->shown.numa = numa_of(machine, place->shown.box);
		for (uint32_t i = 0; i < machine->port_count; i++) {
			struct kvx_topology_pair *pair = &kvx_machine_pair(machine, p, i)->shown;
			pair->nearness = nearness_of(machine, place, &machine->ports[i]);
			pair->path_gbps = path_gbps(machine, place, &machine->ports[i]);
		}
	}
}
