/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/machine.h"

#include "base/error.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define PCI_DOMAIN_DIGITS 8 /* some bridges make domains beyond 16 bits */

/* Room grows to the next power of two, so that adding stays cheap. NULL: told. */
static void *grow(void *array, uint32_t count, uint32_t limit, size_t size, const char *what)
{
	if (count >= limit) {
		kvx_fail(KVX_E_LIMIT,
			 "topology: more than %u %s; describe the part of the machine that is used "
			 "in a matrix file",
			 limit, what);
		return NULL;
	}
	if (count & (count - 1))
		return array;
	void *larger = realloc(array, (count ? 2 * (size_t)count : 1) * size);
	if (!larger)
		kvx_fail(KVX_E_MEMORY, "topology: no memory for %u %s", count + 1, what);
	return larger;
}

struct kvx_box *kvx_machine_add_box(struct kvx_machine *machine, enum kvx_box_kind kind,
				    uint32_t parent)
{
	struct kvx_box *boxes = grow(machine->boxes, machine->box_count, KVX_TOPOLOGY_BOXES_MAX,
				     sizeof(*boxes), "boxes");
	if (!boxes)
		return NULL;
	machine->boxes = boxes;
	struct kvx_box *box = &boxes[machine->box_count++];
	*box = (struct kvx_box){
		.shown = {.kind = kind, .parent = parent, .numa = KVX_TOPOLOGY_NONE},
		.bridge_ports = kind == KVX_BOX_SWITCH   ? 2
				: kind == KVX_BOX_BRIDGE ? 1
							 : 0};
	return box;
}

struct kvx_place *kvx_machine_add_place(struct kvx_machine *machine, enum kvx_place_kind kind,
					uint32_t box)
{
	struct kvx_place *places = grow(machine->places, machine->place_count,
					KVX_TOPOLOGY_PLACES_MAX, sizeof(*places), "memory places");
	if (!places)
		return NULL;
	machine->places = places;
	struct kvx_place *place = &places[machine->place_count++];
	*place = (struct kvx_place){.shown = {.kind = kind, .numa = KVX_TOPOLOGY_NONE, .box = box},
				    .pci = KVX_PCI_NONE};
	return place;
}

struct kvx_port *kvx_machine_add_port(struct kvx_machine *machine, uint32_t box)
{
	struct kvx_port *ports = grow(machine->ports, machine->port_count, KVX_TOPOLOGY_PORTS_MAX,
				      sizeof(*ports), "NIC ports");
	if (!ports)
		return NULL;
	machine->ports = ports;
	struct kvx_port *port = &ports[machine->port_count++];
	*port = (struct kvx_port){.shown = {.number = 1, .numa = KVX_TOPOLOGY_NONE, .box = box},
				  .pci = KVX_PCI_NONE};
	return port;
}

void kvx_machine_finish(struct kvx_machine *machine)
{
	free(machine->boxes);
	free(machine->places);
	free(machine->ports);
	free(machine->pairs);
	*machine = (struct kvx_machine){0};
}

static bool is_physical(const struct kvx_port *port)
{
	return port->shown.fitness == KVX_PORT_FIT && !port->is_function;
}

void kvx_machine_mark_shadows(struct kvx_machine *machine)
{
	for (uint32_t i = 0; i < machine->port_count; i++) {
		struct kvx_port *port = &machine->ports[i];
		for (uint32_t k = 0; port->is_function && k < machine->port_count; k++) {
			const struct kvx_port *other = &machine->ports[k];
			if (port->shown.fitness == KVX_PORT_FIT && is_physical(other) &&
			    other->shown.box == port->shown.box && other->vendor == port->vendor)
				port->shown.fitness = KVX_PORT_SHADOW;
		}
	}
}

static int compare_u64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* GPUs by PCI address, then NUMA nodes by number. */
static int compare_places(const void *left, const void *right)
{
	const struct kvx_place *a = left, *b = right;

	if (a->shown.kind != b->shown.kind)
		return a->shown.kind < b->shown.kind ? -1 : 1;
	if (a->shown.kind == KVX_PLACE_NUMA)
		return compare_u64(a->shown.numa, b->shown.numa);
	int order = compare_u64(a->pci, b->pci);
	return order ? order : strverscmp(a->shown.name, b->shown.name);
}

/* Ports without a PCI address come last, by name. */
static int compare_ports(const void *left, const void *right)
{
	const struct kvx_port *a = left, *b = right;
	int order = compare_u64(a->pci, b->pci);

	if (!order)
		order = strverscmp(a->shown.name, b->shown.name);
	if (!order)
		order = compare_u64(a->shown.number, b->shown.number);
	return order ? order : strverscmp(a->shown.interface, b->shown.interface);
}

static void name_places(struct kvx_machine *machine)
{
	uint32_t gpus = 0;

	for (uint32_t i = 0; i < machine->place_count; i++) {
		struct kvx_topology_place *place = &machine->places[i].shown;
		kvx_pci_print(machine->places[i].pci, place->pci);
		if (place->kind == KVX_PLACE_GPU)
			snprintf(place->name, sizeof(place->name), "GPU%u", gpus++);
		else
			snprintf(place->name, sizeof(place->name), "NUMA%u", place->numa);
	}
}

static void forget_nonsense(uint32_t *width, double *gbps)
{
	if (*width > KVX_LANES_MAX)
		*width = 0;
	if (!(*gbps > 0 && *gbps < KVX_GBPS_MAX))
		*gbps = 0;
}

int kvx_machine_settle(struct kvx_machine *machine)
{
	for (uint32_t i = 0; i < machine->box_count; i++)
		forget_nonsense(&machine->boxes[i].width, &machine->boxes[i].link_gbps);
	for (uint32_t i = 0; i < machine->port_count; i++) {
		struct kvx_port *port = &machine->ports[i];
		forget_nonsense(&port->width, &port->link_gbps);
		forget_nonsense(&port->shown.pcie_width, &port->shown.speed_gbps);
	}
	if (machine->place_count)
		qsort(machine->places, machine->place_count, sizeof(*machine->places),
		      compare_places);
	if (machine->port_count)
		qsort(machine->ports, machine->port_count, sizeof(*machine->ports), compare_ports);
	name_places(machine);
	for (uint32_t i = 0; i < machine->port_count; i++)
		kvx_pci_print(machine->ports[i].pci, machine->ports[i].shown.pci);
	/* One more than needed, so that no machine asks for nothing. */
	size_t cells = (size_t)machine->place_count * machine->port_count + 1;
	machine->pairs = calloc(cells, sizeof(*machine->pairs));
	if (!machine->pairs)
		return kvx_fail(KVX_E_MEMORY, "topology: no memory for a matrix of %u x %u",
				machine->place_count, machine->port_count);
	return 0;
}

void kvx_machine_note(struct kvx_machine *machine, const char *format, ...)
{
	va_list arguments;

	if (machine->note_count == KVX_NOTES_MAX)
		return;
	va_start(arguments, format);
	vsnprintf(machine->notes[machine->note_count], sizeof(machine->notes[0]), format,
		  arguments);
	va_end(arguments);
	machine->note_count++;
}

/* Hexadecimal digits, at most `digits` of them. Returns what follows them; NULL: there are none. */
static const char *parse_hex(const char *text, unsigned digits, uint32_t *value)
{
	const char *start = text;

	for (*value = 0; isxdigit((unsigned char)*text) && (size_t)(text - start) < digits; text++)
		*value = *value << 4 |
			 (uint32_t)(isdigit((unsigned char)*text) ? *text - '0'
								  : (*text | 0x20) - 'a' + 10);
	return text == start ? NULL : text;
}

bool kvx_pci_parse(const char *text, uint64_t *pci)
{
	uint32_t parts[3] = {0}, function, count = 0;

	do {
		if (count == 3 || !(text = parse_hex(text, PCI_DOMAIN_DIGITS, &parts[count++])))
			return false;
	} while (*text++ == ':');
	if (count < 2 || text[-1] != '.' || !(text = parse_hex(text, 1, &function)) || *text)
		return false;
	uint32_t domain = count == 3 ? parts[0] : 0, bus = parts[count - 2],
		 device = parts[count - 1];
	if (bus > 0xff || device > 0x1f || function > 7)
		return false;
	*pci = kvx_pci_make(domain, bus, device, function);
	return true;
}

void kvx_pci_print(uint64_t pci, char *text)
{
	text[0] = 0;
	if (pci != KVX_PCI_NONE)
		snprintf(text, KVX_TOPOLOGY_PCI_MAX + 1, "%04x:%02x:%02x.%x", (unsigned)(pci >> 16),
			 (unsigned)(pci >> 8 & 0xff), (unsigned)(pci >> 3 & 0x1f),
			 (unsigned)(pci & 7));
}

bool kvx_place_is(const struct kvx_place *place, const char *word)
{
	uint64_t pci;

	if (kvx_pci_parse(word, &pci))
		return pci == place->pci;
	return strcasecmp(word, place->shown.name) == 0;
}

bool kvx_port_is(const struct kvx_port *port, const char *word)
{
	char full[KVX_TOPOLOGY_NAME_MAX + 16];
	uint64_t pci;

	if (kvx_pci_parse(word, &pci))
		return pci == port->pci;
	snprintf(full, sizeof(full), "%s:%u", port->shown.name, port->shown.number);
	return port->shown.name[0] &&
	       (strcmp(word, port->shown.name) == 0 || strcmp(word, full) == 0);
}

void kvx_name_set(char name[KVX_TOPOLOGY_NAME_MAX + 1], const char *text)
{
	size_t length = 0;

	for (; text[length] && length < KVX_TOPOLOGY_NAME_MAX; length++) {
		name[length] = text[length];
		if (text[length] < 0x20 || text[length] >= 0x7f)
			name[length] = '?';
	}
	name[length] = 0;
}
