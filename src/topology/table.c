/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix file: one line for each NUMA node, GPU, NIC port and pair of them (docs/topology.md).
 */
#include "topology/source.h"

#include "base/error.h"
#include "topology/matrix.h"
#include "topology/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 1024u
#define WORDS_MAX 16u
#define NO_ADDRESS "-" /* of a port that sits on no PCI device */

static const char *const state_names[] = {"unknown", "up", "down"};
static const char *const link_names[] = {"unknown", "infiniband", "ethernet", "other"};
static const char *const fitness_names[] = {"rdma", "interface", "management", "shadow"};
static const char *const nearness_names[] = {"PIX", "PXB", "PHB", "NODE", "SYS"};

#define COUNT(names) (sizeof(names) / sizeof((names)[0]))

struct line {
	const char *path;
	unsigned number;
	char text[LINE_BYTES];
	char *words[WORDS_MAX];
	unsigned count;
};

static int complain(const struct line *line, const char *what, const char *word)
{
	return kvx_fail(KVX_E_INVALID,
			"topology: %s, line %u: %s \"%.60s\"; docs/topology.md has "
			"the form of a matrix file",
			line->path, line->number, what, word);
}

/* Splits off what follows *rest up to the line's end. False: there is none. */
static bool next_line(struct line *line, const char **rest)
{
	if (!**rest)
		return false;
	size_t length = strcspn(*rest, "\n");
	size_t kept = length < LINE_BYTES ? length : LINE_BYTES - 1;
	memcpy(line->text, *rest, kept);
	line->text[kept] = 0;
	line->text[strcspn(line->text, "#")] = 0;
	*rest += length + ((*rest)[length] == '\n');
	line->number++;
	line->count = 0;
	for (char *at = line->text, *word; (word = strtok_r(at, " \t\r", &at));)
		if (line->count < WORDS_MAX)
			line->words[line->count++] = word;
	return true;
}

/* The index of a name; -1: not one of them. */
static int index_of(const char *const *names, size_t count, const char *word)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(names[i], word) == 0)
			return (int)i;
	return -1;
}

static bool parse_number(const char *word, uint32_t limit, uint32_t *number)
{
	char *end;
	unsigned long value = strtoul(word, &end, 10);

	if (*word < '0' || *word > '9' || *end || value > limit)
		return false;
	*number = (uint32_t)value;
	return true;
}

static bool parse_gbps(const char *word, double *gbps)
{
	char *end;
	double value = strtod(word, &end);

	if (*word < '0' || *word > '9' || *end || !(value >= 0 && value < KVX_GBPS_MAX))
		return false;
	*gbps = value;
	return true;
}

/* ------------------------------------------------------------------------------------ reading */

static int read_numa(struct kvx_machine *machine, const struct line *line)
{
	uint32_t numa;

	if (line->count != 2 || !parse_number(line->words[1], INT16_MAX, &numa))
		return complain(line,
				"not a NUMA node's number:", line->count > 1 ? line->words[1] : "");
	struct kvx_box *box = kvx_machine_add_box(machine, KVX_BOX_NUMA, 0);
	if (!box)
		return KVX_E_LIMIT;
	box->shown.numa = numa;
	snprintf(box->shown.name, sizeof(box->shown.name), "NUMA node %u", numa);
	struct kvx_place *place =
		kvx_machine_add_place(machine, KVX_PLACE_NUMA, machine->box_count - 1);
	if (!place)
		return KVX_E_LIMIT;
	place->shown.numa = numa;
	return 0;
}

/* Whatever a line tells of a GPU or a port by key=value. */
struct values {
	uint32_t numa, box;
	struct kvx_topology_port port;
	char model[KVX_TOPOLOGY_NAME_MAX + 1];
};

static bool set_numa(const struct kvx_machine *machine, struct values *values, const char *word)
{
	if (!parse_number(word, INT16_MAX, &values->numa))
		return false;
	values->box = 0;
	for (uint32_t i = 0; i < machine->box_count; i++)
		if (machine->boxes[i].shown.numa == values->numa)
			values->box = i;
	return values->box != 0;
}

static bool set_name(const char *const *names, size_t count, const char *word, int *value)
{
	*value = index_of(names, count, word);
	return *value >= 0;
}

static bool set_value(const struct kvx_machine *machine, struct values *values, const char *key,
		      const char *word)
{
	struct kvx_topology_port *port = &values->port;
	int named = 0;
	bool is_good = true;

	if (strcmp(key, "numa") == 0)
		return set_numa(machine, values, word);
	if (strcmp(key, "port") == 0)
		return parse_number(word, UINT8_MAX, &port->number) && port->number;
	if (strcmp(key, "width") == 0)
		return parse_number(word, KVX_LANES_MAX, &port->pcie_width);
	if (strcmp(key, "speed") == 0)
		return parse_gbps(word, &port->speed_gbps);
	if (strcmp(key, "pcie") == 0)
		return parse_gbps(word, &port->pcie_gbps);
	if (strcmp(key, "state") == 0) {
		is_good = set_name(state_names, COUNT(state_names), word, &named);
		port->state = (enum kvx_port_state)named;
	} else if (strcmp(key, "link") == 0) {
		is_good = set_name(link_names, COUNT(link_names), word, &named);
		port->link = (enum kvx_port_link)named;
	} else if (strcmp(key, "kind") == 0) {
		is_good = set_name(fitness_names, COUNT(fitness_names), word, &named);
		port->fitness = (enum kvx_port_fitness)named;
	} else if (strcmp(key, "device") == 0) {
		kvx_name_set(port->name, word);
	} else if (strcmp(key, "interface") == 0) {
		kvx_name_set(port->interface, word);
	} else if (strcmp(key, "fabric") == 0) {
		kvx_name_set(port->fabric, word);
	} else if (strcmp(key, "model") == 0) {
		kvx_name_set(values->model, word);
	} else {
		return false;
	}
	return is_good;
}

static int read_values(const struct kvx_machine *machine, const struct line *line,
		       struct values *values)
{
	*values = (struct values){.numa = KVX_TOPOLOGY_NONE, .port.number = 1};
	for (unsigned i = 2; i < line->count; i++) {
		char key[LINE_BYTES];
		size_t length = strcspn(line->words[i], "=");
		if (!line->words[i][length])
			return complain(line, "not KEY=VALUE:", line->words[i]);
		memcpy(key, line->words[i], length);
		key[length] = 0;
		if (!set_value(machine, values, key, line->words[i] + length + 1))
			return complain(line,
					"not a key, or not a value that it takes:", line->words[i]);
	}
	return 0;
}

static int read_gpu(struct kvx_machine *machine, const struct line *line)
{
	struct values values;
	uint64_t pci;

	if (line->count < 2 || !kvx_pci_parse(line->words[1], &pci))
		return complain(line, "not a PCI address:", line->count > 1 ? line->words[1] : "");
	int error = read_values(machine, line, &values);
	if (error)
		return error;
	struct kvx_place *place = kvx_machine_add_place(machine, KVX_PLACE_GPU, values.box);
	if (!place)
		return KVX_E_LIMIT;
	place->pci = pci;
	place->shown.numa = values.numa;
	memcpy(place->shown.model, values.model, sizeof(values.model));
	return 0;
}

static int read_nic(struct kvx_machine *machine, const struct line *line)
{
	struct values values;
	uint64_t pci = KVX_PCI_NONE;

	if (line->count < 2 ||
	    (strcmp(line->words[1], NO_ADDRESS) != 0 && !kvx_pci_parse(line->words[1], &pci)))
		return complain(line, "not a PCI address:", line->count > 1 ? line->words[1] : "");
	int error = read_values(machine, line, &values);
	if (error)
		return error;
	struct kvx_port *port = kvx_machine_add_port(machine, values.box);
	if (!port)
		return KVX_E_LIMIT;
	port->pci = pci;
	port->shown = values.port;
	port->shown.box = values.box;
	port->shown.numa = values.numa;
	return 0;
}

static int read_things(struct kvx_machine *machine, struct line *line, const char *rest)
{
	int error = 0;

	while (!error && next_line(line, &rest)) {
		const char *word = line->count ? line->words[0] : "";
		if (!*word || strcmp(word, "pair") == 0)
			continue;
		if (strcmp(word, "numa") == 0)
			error = read_numa(machine, line);
		else if (strcmp(word, "gpu") == 0)
			error = read_gpu(machine, line);
		else if (strcmp(word, "nic") == 0)
			error = read_nic(machine, line);
		else
			error = complain(
				line, "a line begins with numa, gpu, nic or pair, not with", word);
	}
	return error;
}

static int read_pair(const struct kvx_machine *machine, const struct line *line)
{
	int nearness = line->count < 4
			       ? -1
			       : index_of(nearness_names, COUNT(nearness_names), line->words[3]);
	double gbps = 0;
	bool is_found = false;

	if (nearness < 0 || line->count > 5 ||
	    (line->count == 5 && !parse_gbps(line->words[4], &gbps)))
		return complain(line, "not \"pair PLACE PORT CLASS [Gb/s]\":",
				line->count > 3 ? line->words[3] : line->words[0]);
	for (uint32_t p = 0; p < machine->place_count; p++) {
		for (uint32_t i = 0; i < machine->port_count; i++) {
			struct kvx_topology_pair *pair = &kvx_machine_pair(machine, p, i)->shown;
			if (!kvx_place_is(&machine->places[p], line->words[1]) ||
			    !kvx_port_is(&machine->ports[i], line->words[2]))
				continue;
			is_found = true;
			pair->nearness = (enum kvx_nearness)nearness;
			if (line->count == 5)
				pair->path_gbps = gbps;
		}
	}
	return is_found ? 0 : complain(line, "no such place or no such port:", line->words[2]);
}

/* What a file says nothing of. */
static void set_defaults(const struct kvx_machine *machine)
{
	for (uint32_t p = 0; p < machine->place_count; p++) {
		for (uint32_t i = 0; i < machine->port_count; i++) {
			struct kvx_topology_pair *pair = &kvx_machine_pair(machine, p, i)->shown;
			uint32_t numa = machine->places[p].shown.numa;
			pair->nearness =
				numa != KVX_TOPOLOGY_NONE && numa == machine->ports[i].shown.numa
					? KVX_NEARNESS_NODE
					: KVX_NEARNESS_SYS;
			pair->path_gbps = machine->ports[i].shown.pcie_gbps;
		}
	}
}

static int read_pairs(const struct kvx_machine *machine, struct line *line, const char *rest)
{
	int error = 0;

	while (!error && next_line(line, &rest))
		if (line->count && strcmp(line->words[0], "pair") == 0)
			error = read_pair(machine, line);
	return error;
}

int kvx_table_read(struct kvx_machine *machine, const struct kvx_content *content)
{
	struct line line = {.path = content->path};
	const char *rest = content->bytes;
	struct kvx_box *box = kvx_machine_add_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);

	if (!box)
		return KVX_E_LIMIT;
	kvx_name_set(box->shown.name, "machine");
	while (next_line(&line, &rest) && !line.count)
		;
	if (line.count != 2 || strcmp(line.words[0], "kvxfer-topology") != 0)
		return complain(&line, "a matrix file begins with \"kvxfer-topology 1\", not with",
				line.count ? line.words[0] : "");
	if (strcmp(line.words[1], "1") != 0)
		return kvx_fail(KVX_E_VERSION,
				"topology: %s is a matrix file of version %s, and this build reads "
				"version 1; write it with this kvxfer-topo --save",
				content->path, line.words[1]);
	unsigned first = line.number;
	int error = read_things(machine, &line, rest);
	if (!error)
		error = kvx_machine_settle(machine);
	if (error)
		return error;
	machine->has_pairs = true;
	set_defaults(machine);
	line.number = first;
	return read_pairs(machine, &line, rest);
}

/* ------------------------------------------------------------------------------------ writing */

/* A blank would end the word, and a '#' the line. */
static void add_word(struct kvx_text *text, const char *word)
{
	for (; *word; word++)
		kvx_text_add(text, "%c", strchr(" #", *word) ? '_' : *word);
}

static void add_value(struct kvx_text *text, const char *key, const char *value)
{
	if (!*value)
		return;
	kvx_text_add(text, " %s=", key);
	add_word(text, value);
}

static void add_numa(struct kvx_text *text, uint32_t numa)
{
	if (numa != KVX_TOPOLOGY_NONE)
		kvx_text_add(text, " numa=%u", numa);
}

static void write_nic(struct kvx_text *text, const struct kvx_topology_port *port)
{
	kvx_text_add(text, "nic %s", port->pci[0] ? port->pci : NO_ADDRESS);
	add_value(text, "device", port->name);
	kvx_text_add(text, " port=%u", port->number);
	add_value(text, "interface", port->interface);
	add_numa(text, port->numa);
	if (port->speed_gbps > 0)
		kvx_text_add(text, " speed=%.6g", port->speed_gbps);
	if (port->pcie_gbps > 0)
		kvx_text_add(text, " pcie=%.6g", port->pcie_gbps);
	if (port->pcie_width)
		kvx_text_add(text, " width=%u", port->pcie_width);
	kvx_text_add(text, " state=%s link=%s kind=%s", state_names[port->state],
		     link_names[port->link], fitness_names[port->fitness]);
	add_value(text, "fabric", port->fabric);
	kvx_text_add(text, "\n");
}

/* A port that is an interface alone, on no PCI device, has no name there; nobody chooses it. */
static void write_pair(struct kvx_text *text, const struct kvx_topology_place *place,
		       const struct kvx_topology_port *port, const struct kvx_topology_pair *pair)
{
	if (!port->name[0] && !port->pci[0])
		return;
	if (place->kind == KVX_PLACE_GPU)
		kvx_text_add(text, "pair %s", place->pci);
	else
		kvx_text_add(text, "pair numa%u", place->numa);
	kvx_text_add(text, " ");
	add_word(text, port->name[0] ? port->name : port->pci);
	if (port->name[0])
		kvx_text_add(text, ":%u", port->number);
	kvx_text_add(text, " %s", kvx_nearness_name(pair->nearness));
	if (pair->path_gbps > 0)
		kvx_text_add(text, " %.6g", pair->path_gbps);
	kvx_text_add(text, "\n");
}

size_t kvx_table_write(const struct kvx_machine *machine, char *text, size_t size)
{
	struct kvx_text out = kvx_text_over(text, size);

	kvx_text_add(&out, "kvxfer-topology 1\n");
	for (uint32_t p = 0; p < machine->place_count; p++)
		if (machine->places[p].shown.kind == KVX_PLACE_NUMA)
			kvx_text_add(&out, "numa %u\n", machine->places[p].shown.numa);
	for (uint32_t p = 0; p < machine->place_count; p++) {
		const struct kvx_topology_place *place = &machine->places[p].shown;
		if (place->kind != KVX_PLACE_GPU)
			continue;
		kvx_text_add(&out, "gpu %s", place->pci);
		add_numa(&out, place->numa);
		add_value(&out, "model", place->model);
		kvx_text_add(&out, "\n");
	}
	for (uint32_t i = 0; i < machine->port_count; i++)
		write_nic(&out, &machine->ports[i].shown);
	for (uint32_t p = 0; p < machine->place_count; p++)
		for (uint32_t i = 0; i < machine->port_count; i++)
			write_pair(&out, &machine->places[p].shown, &machine->ports[i].shown,
				   &kvx_machine_pair(machine, p, i)->shown);
	return out.length;
}
