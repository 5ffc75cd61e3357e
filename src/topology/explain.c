/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/explain.h"

#include "topology/choose.h"
#include "topology/matrix.h"
#include "topology/text.h"

#define RAILS_NAMED 64u /* rails of one pair of places that explanations look at */

/* "mlx5_0 port 1 (0000:18:00.0)", as much of it as there is. */
static void add_port(struct kvx_text *text, const struct kvx_topology_port *port)
{
	if (port->name[0])
		kvx_text_add(text, "%s port %u", port->name, port->number);
	else
		kvx_text_add(text, "%s", port->interface[0] ? port->interface : "NIC");
	if (port->pci[0])
		kvx_text_add(text, " (%s)", port->pci);
}

static void add_nearness(struct kvx_text *text, const struct kvx_topology_pair *pair)
{
	kvx_text_add(text, "%s (%s)", kvx_nearness_name(pair->nearness),
		     kvx_nearness_text(pair->nearness));
}

static void add_speeds(struct kvx_text *text, const struct kvx_topology_port *port,
		       const struct kvx_topology_pair *pair)
{
	if (port->speed_gbps > 0)
		kvx_text_add(text, ", port %.4g Gb/s", port->speed_gbps);
	if (pair->path_gbps > 0)
		kvx_text_add(text, ", PCIe path %.4g Gb/s", pair->path_gbps);
}

static double fastest_of_class(struct kvx_end end, enum kvx_nearness nearness)
{
	double fastest = 0;

	for (uint32_t i = 0; i < end.machine->port_count; i++) {
		const struct kvx_topology_pair *pair =
			&kvx_machine_pair(end.machine, end.place, i)->shown;
		double speed = kvx_choose_speed(end.machine, end.place, i);
		if (pair->nearness == nearness && pair->reason != KVX_REASON_UNFIT &&
		    pair->reason != KVX_REASON_DOWN && speed > fastest)
			fastest = speed;
	}
	return fastest;
}

static const char *unfit_text(enum kvx_port_fitness fitness)
{
	switch (fitness) {
	case KVX_PORT_MANAGEMENT:
		return "a management function, which carries no data";
	case KVX_PORT_SHADOW:
		return "a virtual function of a card whose physical function is used here";
	default:
		return "not RDMA-capable: a network interface without an RDMA device";
	}
}

static void add_unused(struct kvx_text *text, struct kvx_end end, uint32_t index)
{
	const struct kvx_topology_port *port = &end.machine->ports[index].shown;
	const struct kvx_topology_pair *pair =
		&kvx_machine_pair(end.machine, end.place, index)->shown;

	switch (pair->reason) {
	case KVX_REASON_DOWN:
		kvx_text_add(text, "the port is down; see to its cable or switch");
		break;
	case KVX_REASON_SLOW:
		kvx_text_add(text, "%.4g Gb/s is far slower than the best of its class (%.4g Gb/s)",
			     kvx_choose_speed(end.machine, end.place, index),
			     fastest_of_class(end, pair->nearness));
		break;
	case KVX_REASON_UNFIT:
		kvx_text_add(text, "%s", unfit_text(port->fitness));
		break;
	case KVX_REASON_UNLISTED:
		kvx_text_add(text, "the override lists other devices");
		break;
	default:
		add_nearness(text, pair);
		kvx_text_add(text, ", and nearer ports suffice");
	}
}

size_t kvx_explain_pair(struct kvx_end end, uint32_t index, char *text, size_t size)
{
	const struct kvx_topology_port *port = &end.machine->ports[index].shown;
	const struct kvx_topology_pair *pair =
		&kvx_machine_pair(end.machine, end.place, index)->shown;
	struct kvx_text out = kvx_text_over(text, size);

	add_port(&out, port);
	if (pair->use == KVX_USE_NONE) {
		kvx_text_add(&out, ": not used: ");
		add_unused(&out, end, index);
		return out.length;
	}
	kvx_text_add(&out, ": %s: ", pair->use == KVX_USE_CHOSEN ? "chosen" : "kept for failover");
	add_nearness(&out, pair);
	add_speeds(&out, port, pair);
	if (pair->reason == KVX_REASON_LISTED)
		kvx_text_add(&out, "; the override lists it");
	if (pair->reason == KVX_REASON_SHARED)
		kvx_text_add(&out, "; as near as the chosen ones, but left to other GPUs");
	if (pair->reason == KVX_REASON_NEXT)
		kvx_text_add(&out, "; of the next class");
	if (port->state == KVX_PORT_UNKNOWN)
		kvx_text_add(&out, "; its state is not known");
	if (pair->use == KVX_USE_CHOSEN)
		kvx_text_add(&out, "; carries %.0f %% of the bytes", 100 * pair->weight);
	return out.length;
}

static void add_rail(struct kvx_text *text, struct kvx_end remote,
		     const struct kvx_topology_rail *rail)
{
	kvx_text_add(text, "%s rail to ", rail->use == KVX_USE_CHOSEN ? "chosen" : "failover");
	add_port(text, &remote.machine->ports[rail->remote_port].shown);
	if (rail->use == KVX_USE_CHOSEN)
		kvx_text_add(text, " with %.0f %% of the bytes", 100 * rail->weight);
}

size_t kvx_explain_rail(struct kvx_end local, uint32_t index, struct kvx_end remote, char *text,
			size_t size)
{
	const struct kvx_topology_port *port = &local.machine->ports[index].shown;
	const struct kvx_topology_pair *pair =
		&kvx_machine_pair(local.machine, local.place, index)->shown;
	struct kvx_topology_rail rails[RAILS_NAMED];
	uint32_t count = kvx_rails_make(local, remote, rails, RAILS_NAMED), named = 0;
	struct kvx_text out = kvx_text_over(text, size);

	add_port(&out, port);
	kvx_text_add(&out, ": ");
	for (uint32_t i = 0; i < count && i < RAILS_NAMED; i++) {
		if (rails[i].local_port != index)
			continue;
		kvx_text_add(&out, "%s", named++ ? ", " : "");
		add_rail(&out, remote, &rails[i]);
	}
	if (named)
		return out.length;
	kvx_text_add(&out, "not used: ");
	if (pair->use == KVX_USE_NONE && pair->reason != KVX_REASON_FARTHER)
		add_unused(&out, local, index);
	else if (kvx_rails_reach(local, index, remote))
		kvx_text_add(&out, "other rails are nearer at both ends");
	else if (port->fabric[0])
		kvx_text_add(&out, "no common fabric: no usable port there is in %s", port->fabric);
	else
		kvx_text_add(&out, "no common fabric: this port is in none that is known, or of "
				   "another kind of link");
	return out.length;
}
