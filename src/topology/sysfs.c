/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel tells of ports beyond what hwloc reads. */
#include "topology/source.h"

#include "base/error.h"
#include "topology/link.h"

#include <dirent.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_MAX 255u
#define VPD_MAX 4096u /* bytes of a card's vital product data that are looked at */
#define STATE_ACTIVE 4
#define STACKED_MAX 8u       /* interfaces on each other: a VLAN on a bond on a port */
#define PREFIX_CHARACTERS 19 /* of a GID: "fe80:0000:0000:0000" */
#define PREFIX_INITIAL "fe80:0000:0000:0000"

/* What NVIDIA writes into the VPD of the NICs that manage NVLink switches. */
#define VPD_MANAGEMENT "SW_MNG"

static void make_path(char path[PATH_MAX], const char *format, va_list arguments)
{
	if (vsnprintf(path, PATH_MAX, format, arguments) >= PATH_MAX)
		path[0] = 0; /* opens nothing */
}

/* The file's bytes and a zero. Returns how many; 0 if there is no such file. */
static size_t read_file(char *bytes, size_t size, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static size_t read_file(char *bytes, size_t size, const char *format, ...)
{
	char path[PATH_MAX];
	va_list arguments;

	va_start(arguments, format);
	make_path(path, format, arguments);
	va_end(arguments);
	FILE *file = fopen(path, "re");
	size_t count = file ? fread(bytes, 1, size - 1, file) : 0;
	if (file)
		fclose(file);
	bytes[count] = 0;
	return count;
}

/* As read_file(), the first line alone. */
#define read_line(text, ...)                                                                      \
	(read_file((text), sizeof(text), __VA_ARGS__) ? ((text)[strcspn((text), "\n")] = 0, true) \
						      : ((text)[0] = 0, false))

/* --------------------------------------------------------------------------------- PCI devices */

/* The last PCI device on the path of a device; KVX_PCI_NONE: there is none. */
static uint64_t pci_of_device(const char *format, ...) __attribute__((format(printf, 1, 2)));

static uint64_t pci_of_device(const char *format, ...)
{
	char path[PATH_MAX], real[PATH_MAX];
	uint64_t pci = KVX_PCI_NONE, found;
	va_list arguments;

	va_start(arguments, format);
	make_path(path, format, arguments);
	va_end(arguments);
	if (!realpath(path, real))
		return KVX_PCI_NONE;
	for (char *rest = real, *part; (part = strtok_r(rest, "/", &rest));)
		if (kvx_pci_parse(part, &found))
			pci = found;
	return pci;
}

static void read_link(const char *root, const char *pci, double *gbps, uint32_t *width)
{
	char speed[TEXT_MAX + 1], lanes[TEXT_MAX + 1];

	if (!read_line(speed, "%s/bus/pci/devices/%s/current_link_speed", root, pci) ||
	    !read_line(lanes, "%s/bus/pci/devices/%s/current_link_width", root, pci))
		return;
	double known = kvx_link_gbps(strtod(speed, NULL), (uint32_t)strtoul(lanes, NULL, 10));
	if (known > 0) {
		*gbps = known;
		*width = (uint32_t)strtoul(lanes, NULL, 10);
	}
}

static void read_links(struct kvx_machine *machine, const char *root)
{
	char pci[KVX_TOPOLOGY_PCI_MAX + 1];

	for (uint32_t i = 0; i < machine->box_count; i++)
		if (machine->boxes[i].shown.pci[0])
			read_link(root, machine->boxes[i].shown.pci, &machine->boxes[i].link_gbps,
				  &machine->boxes[i].width);
	for (uint32_t i = 0; i < machine->port_count; i++) {
		kvx_pci_print(machine->ports[i].pci, pci);
		if (pci[0])
			read_link(root, pci, &machine->ports[i].link_gbps,
				  &machine->ports[i].width);
	}
}

/* Virtual functions have a link to their physical one. */
static void read_function(struct kvx_port *port, const char *root)
{
	char pci[KVX_TOPOLOGY_PCI_MAX + 1], vendor[TEXT_MAX + 1], path[PATH_MAX], vpd[VPD_MAX];

	kvx_pci_print(port->pci, pci);
	if (!pci[0])
		return;
	snprintf(path, sizeof(path), "%s/bus/pci/devices/%s/physfn", root, pci);
	if (access(path, F_OK) == 0)
		port->is_function = true;
	if (read_line(vendor, "%s/bus/pci/devices/%s/vendor", root, pci))
		port->vendor = (uint32_t)strtoul(vendor, NULL, 16);
	size_t size = read_file(vpd, sizeof(vpd), "%s/bus/pci/devices/%s/vpd", root, pci);
	if (port->shown.fitness == KVX_PORT_FIT &&
	    memmem(vpd, size, VPD_MANAGEMENT, strlen(VPD_MANAGEMENT)))
		port->shown.fitness = KVX_PORT_MANAGEMENT;
}

/* -------------------------------------------------------------------------------------- ports */

/* A filter for scandir(): names alone. */
static int is_name(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void free_names(struct dirent **names, int count)
{
	for (int i = 0; i < count; i++)
		free(names[i]);
	if (count >= 0)
		free(names);
}

/* The network interface that a device sits on; "": none is known. */
static void find_interface(const char *root, const char *device, unsigned number,
			   char interface[TEXT_MAX + 1])
{
	char path[PATH_MAX];
	struct dirent **names;

	/* rxe names it itself; others in the table of their addresses. */
	if (read_file(interface, TEXT_MAX + 1, "%s/class/infiniband/%s/parent", root, device) ||
	    read_file(interface, TEXT_MAX + 1, "%s/class/infiniband/%s/ports/%u/gid_attrs/ndevs/0",
		      root, device, number)) {
		interface[strcspn(interface, "\n")] = 0;
		return;
	}
	snprintf(path, sizeof(path), "%s/class/infiniband/%s/device/net", root, device);
	int count = scandir(path, &names, is_name, alphasort);
	if (count > 0)
		snprintf(interface, TEXT_MAX + 1, "%s", names[0]->d_name);
	free_names(names, count);
}

/* The PCI device under an interface, which may sit on another: a VLAN, a bond, a bridge. */
static uint64_t pci_of_interface(const char *root, const char *interface)
{
	char name[TEXT_MAX + 1], path[PATH_MAX];

	snprintf(name, sizeof(name), "%s", interface);
	for (unsigned step = 0; step < STACKED_MAX; step++) {
		uint64_t pci = pci_of_device("%s/class/net/%s/device", root, name);
		if (pci != KVX_PCI_NONE)
			return pci;
		struct dirent **names;
		snprintf(path, sizeof(path), "%s/class/net/%s", root, name);
		int count = scandir(path, &names, is_name, alphasort), lower = 0;
		while (lower < count && strncmp(names[lower]->d_name, "lower_", 6) != 0)
			lower++;
		if (lower < count)
			snprintf(name, sizeof(name), "%s", names[lower]->d_name + 6);
		free_names(names, count);
		if (lower >= count)
			break;
	}
	return KVX_PCI_NONE;
}

static struct kvx_port *find_port(struct kvx_machine *machine, const char *device, unsigned number)
{
	for (uint32_t i = 0; i < machine->port_count; i++)
		if (strcmp(machine->ports[i].shown.name, device) == 0 &&
		    machine->ports[i].shown.number == number)
			return &machine->ports[i];
	return NULL;
}

/* A port that hwloc knows nothing of: it takes the place of the interface that it sits on. */
static struct kvx_port *place_port(struct kvx_machine *machine, const char *root,
				   const char *device, unsigned number)
{
	char interface[TEXT_MAX + 1] = "";
	struct kvx_port under = {.shown.box = 0, .pci = KVX_PCI_NONE}, *port = NULL;

	find_interface(root, device, number, interface);
	uint64_t pci = pci_of_device("%s/class/infiniband/%s/device", root, device);
	if (pci == KVX_PCI_NONE && interface[0])
		pci = pci_of_interface(root, interface);
	for (uint32_t i = 0; pci != KVX_PCI_NONE && i < machine->port_count; i++) {
		if (machine->ports[i].pci != pci)
			continue;
		under = machine->ports[i];
		if (under.shown.fitness == KVX_PORT_NOT_RDMA)
			port = &machine->ports[i]; /* which now has a device */
	}
	if (!port && !(port = kvx_machine_add_port(machine, under.shown.box)))
		return NULL;
	port->pci = pci;
	port->link_gbps = under.link_gbps;
	port->width = under.width;
	port->shown.fitness = KVX_PORT_FIT;
	port->shown.number = number;
	kvx_name_set(port->shown.name, device);
	kvx_name_set(port->shown.interface, interface);
	return port;
}

static enum kvx_port_link link_of(const char *text)
{
	return strcmp(text, "InfiniBand") == 0 ? KVX_LINK_INFINIBAND
	       : strcmp(text, "Ethernet") == 0 ? KVX_LINK_ETHERNET
					       : KVX_LINK_OTHER;
}

static void read_port(struct kvx_port *port, const char *root, const char *device, unsigned number)
{
	char text[TEXT_MAX + 1];

	if (read_line(text, "%s/class/infiniband/%s/ports/%u/state", root, device, number))
		port->shown.state =
			strtol(text, NULL, 10) == STATE_ACTIVE ? KVX_PORT_UP : KVX_PORT_DOWN;
	if (read_line(text, "%s/class/infiniband/%s/ports/%u/rate", root, device, number))
		port->shown.speed_gbps = strtod(text, NULL);
	if (read_line(text, "%s/class/infiniband/%s/ports/%u/link_layer", root, device, number))
		port->shown.link = link_of(text);
	if (port->shown.link == KVX_LINK_INFINIBAND &&
	    read_line(text, "%s/class/infiniband/%s/ports/%u/gids/0", root, device, number) &&
	    strncmp(text, PREFIX_INITIAL, PREFIX_CHARACTERS) != 0)
		snprintf(port->shown.fabric, sizeof(port->shown.fabric), "ib %.*s",
			 PREFIX_CHARACTERS, text);
	if (!port->shown.interface[0]) {
		text[0] = 0;
		find_interface(root, device, number, text);
		kvx_name_set(port->shown.interface, text);
	}
	read_function(port, root);
}

static int read_device(struct kvx_machine *machine, const char *root, const char *device)
{
	char path[PATH_MAX];
	struct dirent **names;
	int error = 0;

	snprintf(path, sizeof(path), "%s/class/infiniband/%s/ports", root, device);
	int count = scandir(path, &names, is_name, versionsort);
	for (int i = 0; i < count && !error; i++) {
		unsigned number = (unsigned)strtoul(names[i]->d_name, NULL, 10);
		struct kvx_port *port = find_port(machine, device, number);
		if (!port && !(port = place_port(machine, root, device, number)))
			error = KVX_E_LIMIT;
		else
			read_port(port, root, device, number);
	}
	free_names(names, count);
	return error;
}

int kvx_sysfs_complete(struct kvx_machine *machine, const char *root)
{
	char path[PATH_MAX];
	struct dirent **names;
	int error = 0;

	read_links(machine, root);
	snprintf(path, sizeof(path), "%s/class/infiniband", root);
	int count = scandir(path, &names, is_name, versionsort);
	for (int i = 0; i < count && !error; i++)
		error = read_device(machine, root, names[i]->d_name);
	free_names(names, count);
	return error;
}
