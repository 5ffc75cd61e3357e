/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/override.h"

#include "base/error.h"
#include "topology/matrix.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --------------------------------------------------------------------------------------- list */

/* The machine's devices, as many as fit, to choose from. */
static void name_devices(const struct kvx_machine *machine, char *text, size_t size)
{
	size_t length = 0;

	snprintf(text, size, "none");
	for (uint32_t i = 0; i < machine->port_count && length < size; i++)
		if (machine->ports[i].shown.fitness != KVX_PORT_NOT_RDMA)
			length += (size_t)snprintf(
				text + length, size - length, "%s%s", length ? ", " : "",
				machine->ports[i].shown.name[0] ? machine->ports[i].shown.name
								: machine->ports[i].shown.pci);
}

static int list_device(const struct kvx_machine *machine, uint32_t place, const char *word)
{
	char names[KVX_TOPOLOGY_TEXT_MAX + 1];
	bool is_found = false;

	for (uint32_t i = 0; i < machine->port_count; i++) {
		if (!kvx_port_is(&machine->ports[i], word))
			continue;
		if (machine->ports[i].shown.fitness == KVX_PORT_NOT_RDMA)
			return kvx_fail(
				KVX_E_INVALID,
				"topology: override: %.60s is not RDMA-capable; list an RDMA "
				"device (ls /sys/class/infiniband)",
				word);
		kvx_machine_pair(machine, place, i)->is_listed = true;
		is_found = true;
	}
	if (is_found)
		return 0;
	name_devices(machine, names, sizeof(names));
	return kvx_fail(KVX_E_INVALID,
			"topology: override: no RDMA device \"%.60s\" here; there is: %s", word,
			names);
}

/* Takes blanks from both ends. */
static char *trim(char *word)
{
	while (isspace((unsigned char)*word))
		word++;
	for (size_t end = strlen(word); end && isspace((unsigned char)word[end - 1]); end--)
		word[end - 1] = 0;
	return word;
}

static int list_devices(struct kvx_machine *machine, uint32_t place, const char *devices)
{
	char *copy = strdup(devices);
	int error = copy ? 0 : kvx_fail(KVX_E_MEMORY, "topology: no memory for the override");

	for (char *rest = copy, *word; !error && (word = strsep(&rest, ","));)
		error = list_device(machine, place, trim(word));
	free(copy);
	machine->places[place].is_listed = true;
	return error;
}

/* One "PLACE=DEVICES". Places that are listed already stay as they are for "*". */
static int list_entry(struct kvx_machine *machine, char *entry)
{
	char *devices = strchr(entry, '=');
	bool is_found = false;
	int error = 0;

	if (!devices)
		return kvx_fail(KVX_E_INVALID,
				"topology: override: \"%.60s\" is not PLACE=DEVICE,DEVICE, as "
				"\"0000:19:00.0=mlx5_0,mlx5_1;*=mlx5_2\"",
				entry);
	*devices++ = 0;
	char *word = trim(entry);
	bool is_rest = strcmp(word, "*") == 0;
	for (uint32_t p = 0; p < machine->place_count && !error; p++) {
		if (is_rest ? machine->places[p].is_listed
			    : !kvx_place_is(&machine->places[p], word))
			continue;
		is_found = true;
		error = list_devices(machine, p, devices);
	}
	if (error || is_found || is_rest)
		return error;
	return kvx_fail(
		KVX_E_INVALID,
		"topology: override: no GPU or NUMA node \"%.60s\" here; name one by its PCI "
		"address or as NUMA0 (kvxfer-topo shows them), or * for all others",
		word);
}

static int list_entries(struct kvx_machine *machine, const char *list, bool is_rest)
{
	char *copy = strdup(list);
	int error = copy ? 0 : kvx_fail(KVX_E_MEMORY, "topology: no memory for the override");

	for (char *rest = copy, *entry; !error && (entry = strsep(&rest, ";"));) {
		entry = trim(entry);
		if (*entry && (*entry == '*') == is_rest)
			error = list_entry(machine, entry);
	}
	free(copy);
	return error;
}

int kvx_override_list(struct kvx_machine *machine, const char *list)
{
	int error = list_entries(machine, list, false);

	return error ? error : list_entries(machine, list, true);
}

/* --------------------------------------------------------------------------------------- file */

static const struct kvx_place *find_place(const struct kvx_machine *machine,
					  const struct kvx_place *wanted)
{
	for (uint32_t p = 0; p < machine->place_count; p++) {
		const struct kvx_place *place = &machine->places[p];
		if (place->shown.kind == wanted->shown.kind && place->pci == wanted->pci &&
		    (place->shown.kind == KVX_PLACE_GPU || place->shown.numa == wanted->shown.numa))
			return place;
	}
	return NULL;
}

/* Is a port of the machine the one that the file means? Where the file has no name, all ports of
 * the card's function are. */
static bool is_meant(const struct kvx_port *port, const struct kvx_port *meant)
{
	if (port->shown.fitness == KVX_PORT_NOT_RDMA)
		return false;
	if (meant->pci != KVX_PCI_NONE && port->pci != KVX_PCI_NONE && port->pci != meant->pci)
		return false;
	if (!meant->shown.name[0])
		return meant->pci != KVX_PCI_NONE && port->pci == meant->pci;
	return strcmp(port->shown.name, meant->shown.name) == 0 &&
	       port->shown.number == meant->shown.number;
}

/* The machine's port where the file puts it. */
static int adopt_port(struct kvx_machine *merged, const struct kvx_port *port,
		      const struct kvx_port *meant)
{
	struct kvx_port *added = kvx_machine_add_port(merged, meant->shown.box);

	if (!added)
		return KVX_E_LIMIT;
	*added = *port;
	added->shown.box = meant->shown.box;
	added->shown.numa = meant->shown.numa;
	if (meant->link_gbps > 0) {
		added->link_gbps = meant->link_gbps;
		added->width = meant->width;
	}
	if (meant->shown.pcie_gbps > 0) {
		added->shown.pcie_gbps = meant->shown.pcie_gbps;
		added->shown.pcie_width = meant->shown.pcie_width;
	}
	if (port->shown.speed_gbps <= 0)
		added->shown.speed_gbps = meant->shown.speed_gbps;
	if (meant->shown.fabric[0])
		memcpy(added->shown.fabric, meant->shown.fabric, sizeof(added->shown.fabric));
	return 0;
}

static int adopt_ports(struct kvx_machine *merged, const struct kvx_machine *machine,
		       const struct kvx_machine *file)
{
	for (uint32_t i = 0; i < file->port_count; i++) {
		const struct kvx_port *meant = &file->ports[i];
		bool is_found = false;
		int error = 0;
		if (meant->shown.fitness == KVX_PORT_NOT_RDMA)
			continue;
		for (uint32_t k = 0; k < machine->port_count && !error; k++) {
			if (!is_meant(&machine->ports[k], meant))
				continue;
			is_found = true;
			error = adopt_port(merged, &machine->ports[k], meant);
		}
		if (error)
			return error;
		if (!is_found)
			return kvx_fail(
				KVX_E_INVALID,
				"topology: override: this machine has no RDMA port %s %s; take "
				"it out of the file, or give the file of this machine",
				meant->shown.name, meant->shown.pci);
	}
	return 0;
}

static int adopt_places(struct kvx_machine *merged, const struct kvx_machine *machine,
			const struct kvx_machine *file)
{
	for (uint32_t p = 0; p < file->place_count; p++) {
		const struct kvx_place *meant = &file->places[p];
		const struct kvx_place *place = find_place(machine, meant);
		if (!place)
			return kvx_fail(
				KVX_E_INVALID,
				"topology: override: this machine has no %s %s; take it out of "
				"the file, or give the file of this machine",
				meant->shown.kind == KVX_PLACE_GPU ? "GPU" : "NUMA node",
				meant->shown.kind == KVX_PLACE_GPU ? meant->shown.pci
								   : meant->shown.name);
		struct kvx_place *added =
			kvx_machine_add_place(merged, meant->shown.kind, meant->shown.box);
		if (!added)
			return KVX_E_LIMIT;
		added->pci = meant->pci;
		added->link_gbps = meant->link_gbps;
		added->shown.numa = meant->shown.numa;
		memcpy(added->shown.model, place->shown.model, sizeof(added->shown.model));
	}
	return 0;
}

static int adopt_boxes(struct kvx_machine *merged, const struct kvx_machine *file)
{
	for (uint32_t i = 0; i < file->box_count; i++) {
		struct kvx_box *box = kvx_machine_add_box(merged, file->boxes[i].shown.kind,
							  file->boxes[i].shown.parent);
		if (!box)
			return KVX_E_LIMIT;
		*box = file->boxes[i];
	}
	return 0;
}

static void adopt_pairs(const struct kvx_machine *merged, const struct kvx_machine *file)
{
	for (uint32_t p = 0; p < merged->place_count; p++) {
		/* Both are in the same order. */
		for (uint32_t i = 0; i < merged->port_count; i++)
			for (uint32_t k = 0; k < file->port_count; k++)
				if (is_meant(&merged->ports[i], &file->ports[k]))
					*kvx_machine_pair(merged, p, i) =
						*kvx_machine_pair(file, p, k);
	}
}

static void note_left_out(struct kvx_machine *merged, const struct kvx_machine *machine)
{
	for (uint32_t i = 0; i < machine->port_count; i++) {
		bool is_there = machine->ports[i].shown.fitness != KVX_PORT_FIT;
		for (uint32_t k = 0; k < merged->port_count; k++)
			is_there |= is_meant(&merged->ports[k], &machine->ports[i]);
		if (!is_there)
			kvx_machine_note(
				merged, "%s port %u (%s) is not in the override's file: not used",
				machine->ports[i].shown.name, machine->ports[i].shown.number,
				machine->ports[i].shown.pci);
	}
}

int kvx_override_machine(struct kvx_machine *machine, const struct kvx_machine *file)
{
	struct kvx_machine merged = {.has_pairs = file->has_pairs};
	int error = adopt_boxes(&merged, file);

	if (!error)
		error = adopt_places(&merged, machine, file);
	if (!error)
		error = adopt_ports(&merged, machine, file);
	if (!error)
		error = kvx_machine_settle(&merged);
	if (error) {
		kvx_machine_finish(&merged);
		return error;
	}
	kvx_matrix_fill(&merged);
	if (merged.has_pairs)
		adopt_pairs(&merged, file);
	note_left_out(&merged, machine);
	kvx_machine_finish(machine);
	*machine = merged;
	return 0;
}
