/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines as NCCL describes them: what clouds ship where the hypervisor hides the PCIe tree, and
 * what NCCL_TOPO_DUMP_FILE holds. <cpu> is a NUMA node with one host bridge, a <pci> of the class
 * of bridges is a whole switch, and other <pci> are devices, whose ports are <net> if there are
 * any.
 */
#include "topology/source.h"

#include "base/error.h"
#include "topology/link.h"

#include <expat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCI_CLASS_BRIDGE 0x0604
#define PCI_CLASS_INFINIBAND 0x0207
#define PCI_BASE_NETWORK 0x02
#define PCI_BASE_DISPLAY 0x03
#define PCI_BASE_ACCELERATOR 0x12
#define PORT_NONE UINT32_MAX
#define MBPS_PER_GBPS 1000.0

/* What an element stands for, for those inside it. */
struct frame {
	uint32_t box;
	uint32_t port; /* the NIC's latest */
	bool has_net;  /* that port is of a <net> already */
	uint64_t pci;  /* the device's address */
	double link_gbps;
	uint32_t width;
};

struct reading {
	XML_Parser parser;
	const char *path;
	struct kvx_machine *machine;
	struct frame frames[KVX_XML_DEPTH_MAX + 1];
	unsigned depth; /* of the element that is open; the root's is 0 */
	int error;
};

static const char *attribute(const XML_Char **attributes, const char *name)
{
	for (; *attributes; attributes += 2)
		if (strcmp(attributes[0], name) == 0)
			return attributes[1];
	return "";
}

static void stop(struct reading *reading, int error)
{
	reading->error = error;
	XML_StopParser(reading->parser, XML_FALSE);
}

static void complain(struct reading *reading, const char *what, const char *value)
{
	stop(reading,
	     kvx_fail(KVX_E_INVALID, "topology: %s, line %lu: %s \"%.40s\" is not valid",
		      reading->path, XML_GetCurrentLineNumber(reading->parser), what, value));
}

static void add_cpu(struct reading *reading, struct frame *frame, const XML_Char **attributes)
{
	struct kvx_machine *machine = reading->machine;
	const char *text = attribute(attributes, "numaid");
	char *end;
	long numa = strtol(text, &end, 10);

	if (*end || end == text || numa < -1 || numa > INT16_MAX)
		return complain(reading, "numaid", text);
	if (numa >= 0) {
		struct kvx_box *box = kvx_machine_add_box(machine, KVX_BOX_NUMA, frame->box);
		if (!box)
			return stop(reading, KVX_E_LIMIT);
		box->shown.numa = (uint32_t)numa;
		snprintf(box->shown.name, sizeof(box->shown.name), "NUMA node %ld", numa);
		frame->box = machine->box_count - 1;
		struct kvx_place *place =
			kvx_machine_add_place(machine, KVX_PLACE_NUMA, frame->box);
		if (!place)
			return stop(reading, KVX_E_LIMIT);
		place->shown.numa = (uint32_t)numa;
	}
	struct kvx_box *host = kvx_machine_add_box(machine, KVX_BOX_HOST_BRIDGE, frame->box);
	if (!host)
		return stop(reading, KVX_E_LIMIT);
	kvx_name_set(host->shown.name, "host bridge");
	frame->box = machine->box_count - 1;
}

static void add_switch(struct reading *reading, struct frame *frame)
{
	struct kvx_box *box = kvx_machine_add_box(reading->machine, KVX_BOX_SWITCH, frame->box);

	if (!box)
		return stop(reading, KVX_E_LIMIT);
	box->link_gbps = frame->link_gbps;
	box->width = frame->width;
	kvx_pci_print(frame->pci, box->shown.pci);
	kvx_name_set(box->shown.name, "PCIe switch");
	frame->box = reading->machine->box_count - 1;
}

static void add_gpu(struct reading *reading, const struct frame *frame)
{
	struct kvx_place *place =
		kvx_machine_add_place(reading->machine, KVX_PLACE_GPU, frame->box);

	if (!place)
		return stop(reading, KVX_E_LIMIT);
	place->pci = frame->pci;
	place->link_gbps = frame->link_gbps;
}

static struct kvx_port *add_port(struct reading *reading, struct frame *frame)
{
	struct kvx_port *port = kvx_machine_add_port(reading->machine, frame->box);

	if (!port) {
		stop(reading, KVX_E_LIMIT);
		return NULL;
	}
	port->pci = frame->pci;
	port->link_gbps = frame->link_gbps;
	port->width = frame->width;
	frame->port = reading->machine->port_count - 1;
	return port;
}

static void add_pci(struct reading *reading, struct frame *frame, const XML_Char **attributes)
{
	const char *busid = attribute(attributes, "busid"), *class = attribute(attributes, "class");
	unsigned long kind = strtoul(class, NULL, 16) >> 8;

	if (!kvx_pci_parse(busid, &frame->pci))
		return complain(reading, "busid", busid);
	if (!*class)
		return complain(reading, "class", class);
	frame->width = (uint32_t)strtoul(attribute(attributes, "link_width"), NULL, 10);
	frame->link_gbps =
		kvx_link_gbps(strtod(attribute(attributes, "link_speed"), NULL), frame->width);
	if (kind == PCI_CLASS_BRIDGE)
		return add_switch(reading, frame);
	if (kind >> 8 == PCI_BASE_DISPLAY || kind >> 8 == PCI_BASE_ACCELERATOR)
		return add_gpu(reading, frame);
	if (kind >> 8 != PCI_BASE_NETWORK)
		return;
	struct kvx_port *port = add_port(reading, frame);
	if (port && kind == PCI_CLASS_INFINIBAND)
		port->shown.link = KVX_LINK_INFINIBAND;
}

/* A port of the NIC around it, whose first port is there already. frame is the NIC's. */
static void add_net(struct reading *reading, struct frame *frame, const XML_Char **attributes)
{
	unsigned long number = strtoul(attribute(attributes, "port"), NULL, 10);
	struct kvx_port *port;

	if (frame->port == PORT_NONE || frame->has_net)
		port = add_port(reading, frame);
	else
		port = &reading->machine->ports[frame->port];
	if (!port)
		return;
	frame->has_net = true;
	kvx_name_set(port->shown.name, attribute(attributes, "name"));
	port->shown.number = number && number < UINT8_MAX ? (uint32_t)number : 1;
	double speed_mbps = strtod(attribute(attributes, "speed"), NULL);
	port->shown.speed_gbps = speed_mbps > 0 ? speed_mbps / MBPS_PER_GBPS : 0;
}

static void XMLCALL begin_element(void *context, const XML_Char *name, const XML_Char **attributes)
{
	struct reading *reading = context;

	if (reading->error)
		return;
	struct frame *frame = &reading->frames[reading->depth + 1],
		     *outer = &reading->frames[reading->depth];
	*frame = *outer;
	reading->depth++;
	if (strcmp(name, "cpu") == 0) {
		add_cpu(reading, frame, attributes);
	} else if (strcmp(name, "pci") == 0) {
		frame->port = PORT_NONE;
		frame->has_net = false;
		add_pci(reading, frame, attributes);
	} else if (strcmp(name, "net") == 0) {
		add_net(reading, outer, attributes);
	}
}

static void XMLCALL end_element(void *context, const XML_Char *name)
{
	struct reading *reading = context;

	(void)name;
	reading->depth--;
}

static int check(const struct kvx_machine *machine, const char *path)
{
	if (!machine->place_count && !machine->port_count)
		return kvx_fail(KVX_E_INVALID,
				"topology: %s: no <cpu> and no <pci> in <system>; give the file as "
				"the cloud ships it or as NCCL_TOPO_DUMP_FILE has it",
				path);
	return 0;
}

int kvx_nccl_read(struct kvx_machine *machine, const struct kvx_content *content)
{
	struct reading *reading = calloc(1, sizeof(*reading));
	struct kvx_box *box = kvx_machine_add_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	int error;

	if (!reading || !box || !(reading->parser = XML_ParserCreate(NULL))) {
		free(reading);
		return kvx_fail(KVX_E_MEMORY, "topology: no memory to read %s", content->path);
	}
	kvx_name_set(box->shown.name, "machine");
	reading->path = content->path;
	reading->machine = machine;
	reading->frames[0] = (struct frame){.port = PORT_NONE, .pci = KVX_PCI_NONE};
	XML_SetUserData(reading->parser, reading);
	XML_SetElementHandler(reading->parser, begin_element, end_element);
	/* Well-formed: it has been checked. */
	if (XML_Parse(reading->parser, content->bytes, (int)content->size, 1) == XML_STATUS_OK)
		error = check(machine, content->path);
	else
		error = reading->error ? reading->error
				       : kvx_fail(KVX_E_INVALID, "topology: %s is not valid XML",
						  content->path);
	XML_ParserFree(reading->parser);
	free(reading);
	return error;
}
