/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/topology.h"

#include "base/error.h"
#include "topology/bind.h"
#include "topology/choose.h"
#include "topology/explain.h"
#include "topology/override.h"
#include "topology/source.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct kvx_topology {
	struct kvx_machine machine;
	struct hwloc_topology *hwloc; /* of this machine, for binding; NULL: of a file */
};

static bool is_given(const char *text)
{
	return text && *text;
}

static int apply_file(struct kvx_machine *machine, const char *path)
{
	struct kvx_machine file = {0};
	int error = kvx_source_file(&file, path);

	if (!error)
		error = kvx_override_machine(machine, &file);
	kvx_machine_finish(&file);
	return error;
}

/* A list has a '='; a path may have one, too, but then it is there. */
static int apply_override(struct kvx_machine *machine, const char *override)
{
	if (!is_given(override) || strcmp(override, "auto") == 0)
		return 0;
	if (strchr(override, '=') && access(override, F_OK) != 0)
		return kvx_override_list(machine, override);
	return apply_file(machine, override);
}

/* A hypervisor that puts all devices side by side hides who is near whom. */
static void note_hidden_tree(struct kvx_machine *machine)
{
	uint32_t gpus = 0, ports = 0;

	if (machine->has_pairs)
		return;
	for (uint32_t i = 0; i < machine->port_count; i++)
		ports += machine->ports[i].shown.fitness == KVX_PORT_FIT;
	for (uint32_t p = 0; p < machine->place_count; p++) {
		if (machine->places[p].shown.kind != KVX_PLACE_GPU)
			continue;
		gpus++;
		for (uint32_t i = 0; i < machine->port_count; i++)
			if (kvx_machine_pair(machine, p, i)->shown.nearness !=
			    kvx_machine_pair(machine, 0, i)->shown.nearness)
				return;
	}
	if (gpus > 1 && ports > 1)
		kvx_machine_note(machine,
				 "all GPUs are equally near to each NIC: the hypervisor "
				 "may hide the PCIe tree; where the cloud ships a topology "
				 "file for NCCL, give it as override");
}

static int open_machine(struct kvx_topology *topology, const char *machine, const char *override)
{
	int error = is_given(machine) ? kvx_source_file(&topology->machine, machine)
				      : kvx_source_here(&topology->machine, &topology->hwloc);

	if (!error)
		error = apply_override(&topology->machine, override);
	if (error)
		return error;
	kvx_choose(&topology->machine);
	note_hidden_tree(&topology->machine);
	return 0;
}

int kvx_topology_open(const char *machine, const char *override, struct kvx_topology **topology)
{
	struct kvx_topology *opened = calloc(1, sizeof(*opened));

	if (!opened)
		return kvx_fail(KVX_E_MEMORY, "topology: no memory");
	int error = open_machine(opened, machine, override);
	if (error) {
		kvx_topology_close(opened);
		return error;
	}
	*topology = opened;
	return 0;
}

void kvx_topology_close(struct kvx_topology *topology)
{
	if (!topology)
		return;
	kvx_hwloc_close(topology->hwloc);
	kvx_machine_finish(&topology->machine);
	free(topology);
}

/* ------------------------------------------------------------------------------ what there is */

uint32_t kvx_topology_place_count(const struct kvx_topology *topology)
{
	return topology->machine.place_count;
}

uint32_t kvx_topology_port_count(const struct kvx_topology *topology)
{
	return topology->machine.port_count;
}

uint32_t kvx_topology_box_count(const struct kvx_topology *topology)
{
	return topology->machine.box_count;
}

static int check(const char *what, uint32_t index, uint32_t count)
{
	return index < count
		       ? 0
		       : kvx_fail(KVX_E_INVALID, "topology: there is no %s %u: the machine has %u",
				  what, index, count);
}

int kvx_topology_place(const struct kvx_topology *topology, uint32_t index,
		       struct kvx_topology_place *place)
{
	int error = check("memory place", index, topology->machine.place_count);

	if (!error)
		*place = topology->machine.places[index].shown;
	return error;
}

int kvx_topology_port(const struct kvx_topology *topology, uint32_t index,
		      struct kvx_topology_port *port)
{
	int error = check("NIC port", index, topology->machine.port_count);

	if (!error)
		*port = topology->machine.ports[index].shown;
	return error;
}

int kvx_topology_box(const struct kvx_topology *topology, uint32_t index,
		     struct kvx_topology_box *box)
{
	int error = check("box", index, topology->machine.box_count);

	if (!error)
		*box = topology->machine.boxes[index].shown;
	return error;
}

const char *kvx_topology_note(const struct kvx_topology *topology, uint32_t index)
{
	return index < topology->machine.note_count ? topology->machine.notes[index] : NULL;
}

/* ------------------------------------------------------------------------------------- choice */

static int check_pair(const struct kvx_topology *topology, uint32_t place, uint32_t port)
{
	int error = check("memory place", place, topology->machine.place_count);

	return error ? error : check("NIC port", port, topology->machine.port_count);
}

int kvx_topology_pair(const struct kvx_topology *topology, uint32_t place, uint32_t port,
		      struct kvx_topology_pair *pair)
{
	int error = check_pair(topology, place, port);

	if (!error)
		*pair = kvx_machine_pair(&topology->machine, place, port)->shown;
	return error;
}

static struct kvx_end end_of(const struct kvx_topology *topology, uint32_t place)
{
	return (struct kvx_end){&topology->machine, place};
}

size_t kvx_topology_explain(const struct kvx_topology *topology, uint32_t place, uint32_t port,
			    char *text, size_t size)
{
	if (check_pair(topology, place, port))
		return 0;
	return kvx_explain_pair(end_of(topology, place), port, text, size);
}

int kvx_topology_rails(const struct kvx_topology *local, uint32_t local_place,
		       const struct kvx_topology *remote, uint32_t remote_place,
		       struct kvx_topology_rail *rails, uint32_t capacity)
{
	int error = check("memory place", local_place, local->machine.place_count);

	if (!error)
		error = check("memory place", remote_place, remote->machine.place_count);
	return error ? error
		     : (int)kvx_rails_make(end_of(local, local_place), end_of(remote, remote_place),
					   rails, capacity);
}

size_t kvx_topology_explain_rail(const struct kvx_topology *local, uint32_t local_place,
				 uint32_t local_port, const struct kvx_topology *remote,
				 uint32_t remote_place, char *text, size_t size)
{
	if (check_pair(local, local_place, local_port) ||
	    check("memory place", remote_place, remote->machine.place_count))
		return 0;
	return kvx_explain_rail(end_of(local, local_place), local_port,
				end_of(remote, remote_place), text, size);
}

size_t kvx_topology_write(const struct kvx_topology *topology, char *text, size_t size)
{
	return kvx_table_write(&topology->machine, text, size);
}

static uint32_t write_choices(const struct kvx_machine *machine, uint32_t place,
			      enum kvx_port_use use, struct kvx_topology_choice *choices,
			      uint32_t capacity)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < machine->port_count; i++) {
		const struct kvx_topology_pair *pair = &kvx_machine_pair(machine, place, i)->shown;
		const struct kvx_topology_port *port = &machine->ports[i].shown;
		if (pair->use != use)
			continue;
		if (count < capacity)
			choices[count] = (struct kvx_topology_choice){
				.device = port->name,
				.fabric = port->fabric,
				.number = port->number,
				.port = i,
				.is_failover = use == KVX_USE_FAILOVER,
				.nearness = pair->nearness,
				.weight = pair->weight,
			};
		count++;
	}
	return count;
}

int kvx_topology_choices(const struct kvx_topology *topology, uint32_t place,
			 struct kvx_topology_choice *choices, uint32_t capacity)
{
	int error = check("memory place", place, topology->machine.place_count);

	if (error)
		return error;
	uint32_t chosen = write_choices(&topology->machine, place, KVX_USE_CHOSEN, choices,
					capacity),
		 written = chosen < capacity ? chosen : capacity;
	return (int)(chosen + write_choices(&topology->machine, place, KVX_USE_FAILOVER,
					    choices + written, capacity - written));
}

int kvx_topology_place_of_gpu(const struct kvx_topology *topology, const char *pci, uint32_t *place)
{
	uint64_t wanted;

	if (!kvx_pci_parse(pci, &wanted))
		return kvx_fail(KVX_E_INVALID, "topology: \"%.40s\" is not a PCI address", pci);
	for (uint32_t p = 0; p < topology->machine.place_count; p++) {
		if (topology->machine.places[p].pci == wanted) {
			*place = p;
			return 0;
		}
	}
	return kvx_fail(
		KVX_E_INVALID,
		"topology: no GPU %s; kvxfer-topo shows what is found: a matrix file given as "
		"option topology can add it",
		pci);
}

int kvx_topology_place_of_numa(const struct kvx_topology *topology, uint32_t numa, uint32_t *place)
{
	for (uint32_t p = 0; p < topology->machine.place_count; p++) {
		const struct kvx_topology_place *shown = &topology->machine.places[p].shown;
		if (shown->kind == KVX_PLACE_NUMA && shown->numa == numa) {
			*place = p;
			return 0;
		}
	}
	return kvx_fail(KVX_E_INVALID, "topology: no NUMA node %u; kvxfer-topo shows what is found",
			numa);
}

int kvx_topology_find_port(const struct kvx_topology *topology, const char *device, uint32_t number,
			   uint32_t *port)
{
	for (uint32_t i = 0; i < topology->machine.port_count; i++) {
		const struct kvx_topology_port *shown = &topology->machine.ports[i].shown;
		if (strcmp(shown->name, device) == 0 && shown->number == number) {
			*port = i;
			return 0;
		}
	}
	return kvx_fail(KVX_E_INVALID, "topology: no RDMA device %.60s with a port %u", device,
			number);
}

void kvx_topology_set_state(struct kvx_topology *topology, uint32_t port, enum kvx_port_state state)
{
	topology->machine.ports[port].shown.state = state;
	kvx_choose(&topology->machine);
}

/* ------------------------------------------------------------------------------------- binding */

static int need_here(const struct kvx_topology *topology)
{
	return topology->hwloc ? 0
			       : kvx_fail(KVX_E_UNSUPPORTED,
					  "topology: it describes another machine than this one");
}

int kvx_topology_bind_numa(const struct kvx_topology *topology, uint32_t numa)
{
	int error = need_here(topology);

	return error ? error : kvx_bind_numa(topology->hwloc, numa);
}

int kvx_topology_place_of_memory(const struct kvx_topology *topology, const void *address,
				 size_t bytes, uint32_t *place)
{
	uint32_t numa;
	int error = need_here(topology);

	if (!error)
		error = kvx_bind_numa_of(topology->hwloc, address, bytes, &numa);
	return error ? error : kvx_topology_place_of_numa(topology, numa, place);
}
