/* SPDX-License-Identifier: Apache-2.0 */
/* Machines as hwloc sees them. Nothing but this file and bind.c knows hwloc. */
#include "topology/source.h"

#include "base/error.h"

#include <errno.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GBPS_PER_GBYTE 8.0

#define PCI_CLASS_VGA 0x0300
#define PCI_CLASS_3D 0x0302
#define PCI_CLASS_DISPLAY_OTHER 0x0380
#define PCI_CLASS_INFINIBAND 0x0207
#define PCI_BASE_NETWORK 0x02
#define PCI_BASE_ACCELERATOR 0x12

#define VENDOR_NVIDIA 0x10de
#define VENDOR_AMAZON 0x1d0f

#define IB_PREFIX_CHARACTERS 19 /* of a GID as hwloc writes it: "fe80:0000:0000:0000" */
#define IB_PREFIX_INITIAL "fe80:0000:0000:0000"
#define IB_STATE_ACTIVE 4

/* The box that stands for an object, kept in its userdata; offset by 1, since 0 is none. */
static void set_box(hwloc_obj_t object, uint32_t box)
{
	object->userdata = (void *)((uintptr_t)box + 1);
}

static bool has_box(hwloc_obj_t object)
{
	return object->userdata != NULL;
}

static uint32_t box_of(hwloc_obj_t object)
{
	return (uint32_t)((uintptr_t)object->userdata - 1);
}

static uint32_t last_box(const struct kvx_machine *machine)
{
	return machine->box_count - 1;
}

/* ------------------------------------------------------------------------ packages, NUMA nodes */

/* Memory of a GPU that the CPU sees as a node of its own, as on Grace. */
static bool is_gpu_memory(hwloc_obj_t node)
{
	return node->subtype && strncmp(node->subtype, "GPUMemory", strlen("GPUMemory")) == 0;
}

static bool is_numa_place(hwloc_obj_t node)
{
	return !is_gpu_memory(node) &&
	       (node->attr->numanode.local_memory || !hwloc_bitmap_iszero(node->cpuset));
}

/* The nearest package, or the machine. */
static uint32_t package_box(hwloc_obj_t object)
{
	while (object->parent && !(object->type == HWLOC_OBJ_PACKAGE && has_box(object)))
		object = object->parent;
	return box_of(object);
}

static int add_packages(struct kvx_machine *machine, hwloc_topology_t hwloc)
{
	hwloc_obj_t root = hwloc_get_root_obj(hwloc), package = NULL;
	const char *host = hwloc_obj_get_info_by_name(root, "HostName");
	struct kvx_box *box = kvx_machine_add_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);

	if (!box)
		return KVX_E_LIMIT;
	kvx_name_set(box->shown.name, host ? host : "machine");
	set_box(root, 0);
	while ((package = hwloc_get_next_obj_by_type(hwloc, HWLOC_OBJ_PACKAGE, package))) {
		if (!(box = kvx_machine_add_box(machine, KVX_BOX_PACKAGE, 0)))
			return KVX_E_LIMIT;
		snprintf(box->shown.name, sizeof(box->shown.name), "package %u",
			 package->logical_index);
		set_box(package, last_box(machine));
	}
	return 0;
}

/* A node with CPUs is a box; memory without CPUs is a place in its package. */
static int add_node(struct kvx_machine *machine, hwloc_obj_t node)
{
	uint32_t parent = package_box(node);

	/* As in a matrix file; a file of XML can leave the number out. */
	if (node->os_index > INT16_MAX)
		return kvx_fail(KVX_E_INVALID,
				"topology: a NUMA node has no number, or one above %d; give the "
				"file as lstopo wrote it",
				INT16_MAX);
	if (!hwloc_bitmap_iszero(node->cpuset)) {
		struct kvx_box *box = kvx_machine_add_box(machine, KVX_BOX_NUMA, parent);
		if (!box)
			return KVX_E_LIMIT;
		box->shown.numa = node->os_index;
		snprintf(box->shown.name, sizeof(box->shown.name), "NUMA node %u", node->os_index);
		parent = last_box(machine);
		set_box(node, parent);
	}
	struct kvx_place *place = kvx_machine_add_place(machine, KVX_PLACE_NUMA, parent);
	if (!place)
		return KVX_E_LIMIT;
	place->shown.numa = node->os_index;
	return 0;
}

static int add_nodes(struct kvx_machine *machine, hwloc_topology_t hwloc)
{
	hwloc_obj_t node = NULL;
	int error = 0;

	while (!error && (node = hwloc_get_next_obj_by_type(hwloc, HWLOC_OBJ_NUMANODE, node)))
		if (is_numa_place(node))
			error = add_node(machine, node);
	return error;
}

/* Where a device of a normal object stands: in its only NUMA node, otherwise in its package. */
static uint32_t locality_box(hwloc_topology_t hwloc, hwloc_obj_t object)
{
	hwloc_obj_t node = NULL, only = NULL;
	unsigned count = 0;

	while ((node = hwloc_get_next_obj_by_type(hwloc, HWLOC_OBJ_NUMANODE, node))) {
		if (has_box(node) && object->nodeset &&
		    hwloc_bitmap_isset(object->nodeset, node->os_index)) {
			only = node;
			count++;
		}
	}
	return count == 1 ? box_of(only) : package_box(object);
}

/* ---------------------------------------------------------------------------------- devices */

static uint64_t pci_of(hwloc_obj_t device)
{
	const struct hwloc_pcidev_attr_s *attr = &device->attr->pcidev;

	return kvx_pci_make(attr->domain, attr->bus, attr->dev, attr->func);
}

static bool is_os_device(hwloc_obj_t object, hwloc_obj_osdev_type_t type)
{
	return object->type == HWLOC_OBJ_OS_DEVICE && object->attr->osdev.type == type;
}

static bool has_subtype(hwloc_obj_t object, const char *subtype)
{
	return object->subtype && strcmp(object->subtype, subtype) == 0;
}

/* A library that computes on the device has found it. OpenCL's word alone does not count: it also
 * speaks for chips without memory that a NIC could reach. */
static bool has_compute_object(hwloc_obj_t device)
{
	static const char *const subtypes[] = {"CUDA", "NVML", "RSMI", "LevelZero"};

	for (hwloc_obj_t child = device->io_first_child; child; child = child->next_sibling)
		for (size_t i = 0; i < sizeof(subtypes) / sizeof(subtypes[0]); i++)
			if (has_subtype(child, subtypes[i]))
				return true;
	return false;
}

/* A VGA controller draws a screen, most often a server's management console; NVIDIA's compute as
 * well, others must have been found by their library. */
static bool is_gpu(hwloc_obj_t device)
{
	const struct hwloc_pcidev_attr_s *attr = &device->attr->pcidev;

	return attr->class_id == PCI_CLASS_3D || attr->class_id == PCI_CLASS_DISPLAY_OTHER ||
	       attr->class_id >> 8 == PCI_BASE_ACCELERATOR ||
	       (attr->class_id == PCI_CLASS_VGA && attr->vendor_id == VENDOR_NVIDIA) ||
	       has_compute_object(device);
}

static int add_gpu(struct kvx_machine *machine, hwloc_obj_t device, uint32_t box)
{
	struct kvx_place *place = kvx_machine_add_place(machine, KVX_PLACE_GPU, box);
	const char *model = hwloc_obj_get_info_by_name(device, "PCIDevice");

	if (!place)
		return KVX_E_LIMIT;
	for (hwloc_obj_t child = device->io_first_child; child; child = child->next_sibling)
		if (hwloc_obj_get_info_by_name(child, "GPUModel"))
			model = hwloc_obj_get_info_by_name(child, "GPUModel");
	kvx_name_set(place->shown.model, model ? model : "");
	place->pci = pci_of(device);
	place->link_gbps = device->attr->pcidev.linkspeed * GBPS_PER_GBYTE;
	return 0;
}

static bool is_virtual_function(hwloc_obj_t device)
{
	const char *model = hwloc_obj_get_info_by_name(device, "PCIDevice");

	return model && strstr(model, "Virtual Function");
}

static enum kvx_port_link link_of(hwloc_obj_t device)
{
	if (device->attr->pcidev.class_id == PCI_CLASS_INFINIBAND)
		return KVX_LINK_INFINIBAND;
	return device->attr->pcidev.vendor_id == VENDOR_AMAZON ? KVX_LINK_OTHER : KVX_LINK_ETHERNET;
}

/* device: NULL for a port that hangs off no PCI device. */
static struct kvx_port *add_port(struct kvx_machine *machine, hwloc_obj_t device, uint32_t box)
{
	struct kvx_port *port = kvx_machine_add_port(machine, box);

	if (!port || !device)
		return port;
	port->pci = pci_of(device);
	port->link_gbps = device->attr->pcidev.linkspeed * GBPS_PER_GBYTE;
	port->vendor = device->attr->pcidev.vendor_id;
	port->is_function = is_virtual_function(device);
	port->shown.link = link_of(device);
	return port;
}

static const char *port_info(hwloc_obj_t rdma, unsigned number, const char *what)
{
	char name[32];

	snprintf(name, sizeof(name), "Port%u%s", number, what);
	return hwloc_obj_get_info_by_name(rdma, name);
}

/* The network interface of a port: the one that says so, or the device's only one. */
static const char *interface_of(hwloc_obj_t device, unsigned number)
{
	const char *only = "";

	for (hwloc_obj_t child = device->io_first_child; child; child = child->next_sibling) {
		const char *said = hwloc_obj_get_info_by_name(child, "Port");
		if (!is_os_device(child, HWLOC_OBJ_OSDEV_NETWORK) || !child->name)
			continue;
		if (said && strtoul(said, NULL, 10) == number)
			return child->name;
		if (!said)
			only = only[0] ? "" : child->name;
	}
	return number == 1 ? only : "";
}

static int add_rdma_port(struct kvx_machine *machine, hwloc_obj_t rdma, hwloc_obj_t device,
			 uint32_t box, unsigned number)
{
	struct kvx_port *port = add_port(machine, device, box);
	const char *state = port_info(rdma, number, "State"),
		   *gid = port_info(rdma, number, "GID0");

	if (!port)
		return KVX_E_LIMIT;
	port->shown.number = number;
	kvx_name_set(port->shown.name, rdma->name ? rdma->name : "");
	if (device)
		kvx_name_set(port->shown.interface, interface_of(device, number));
	if (state)
		port->shown.state =
			strtol(state, NULL, 10) == IB_STATE_ACTIVE ? KVX_PORT_UP : KVX_PORT_DOWN;
	/* The prefix that subnets have unless told otherwise tells nothing. */
	if (gid && port->shown.link == KVX_LINK_INFINIBAND &&
	    strncmp(gid, IB_PREFIX_INITIAL, IB_PREFIX_CHARACTERS) != 0)
		snprintf(port->shown.fabric, sizeof(port->shown.fabric), "ib %.*s",
			 IB_PREFIX_CHARACTERS, gid);
	return 0;
}

/* A port for each that hwloc has the state of; one if it has none. */
static int add_rdma(struct kvx_machine *machine, hwloc_obj_t rdma, hwloc_obj_t device, uint32_t box)
{
	unsigned number = 1;
	int error = 0;

	do
		error = add_rdma_port(machine, rdma, device, box, number++);
	while (!error && number <= KVX_TOPOLOGY_PORTS_MAX && port_info(rdma, number, "State"));
	return error;
}

static int add_nic(struct kvx_machine *machine, hwloc_obj_t device, uint32_t box)
{
	bool is_network = device->attr->pcidev.class_id >> 8 == PCI_BASE_NETWORK, is_rdma = false;
	int error = 0;

	for (hwloc_obj_t child = device->io_first_child; child && !error;
	     child = child->next_sibling) {
		if (!is_os_device(child, HWLOC_OBJ_OSDEV_OPENFABRICS))
			continue;
		is_rdma = true;
		error = add_rdma(machine, child, device, box);
	}
	if (error || is_rdma || !is_network)
		return error;
	struct kvx_port *port = add_port(machine, device, box);
	if (!port)
		return KVX_E_LIMIT;
	port->shown.fitness = KVX_PORT_NOT_RDMA;
	kvx_name_set(port->shown.interface, interface_of(device, 1));
	return 0;
}

static int add_bridge(struct kvx_machine *machine, hwloc_obj_t bridge, uint32_t *box)
{
	bool is_host = bridge->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_HOST;
	struct kvx_box *added =
		kvx_machine_add_box(machine, is_host ? KVX_BOX_HOST_BRIDGE : KVX_BOX_BRIDGE, *box);

	if (!added)
		return KVX_E_LIMIT;
	if (is_host) {
		snprintf(added->shown.name, sizeof(added->shown.name), "host bridge %04x:%02x",
			 (unsigned)bridge->attr->bridge.downstream.pci.domain,
			 (unsigned)bridge->attr->bridge.downstream.pci.secondary_bus);
	} else {
		added->link_gbps = bridge->attr->bridge.upstream.pci.linkspeed * GBPS_PER_GBYTE;
		kvx_pci_print(pci_of(bridge), added->shown.pci);
		kvx_name_set(added->shown.name, "PCIe switch");
	}
	*box = last_box(machine);
	return 0;
}

static int visit(struct kvx_machine *machine, hwloc_topology_t hwloc, hwloc_obj_t object,
		 uint32_t box)
{
	int error = 0;

	if (object->type == HWLOC_OBJ_BRIDGE)
		error = add_bridge(machine, object, &box);
	else if (object->type == HWLOC_OBJ_PCI_DEVICE && is_gpu(object))
		error = add_gpu(machine, object, box);
	else if (object->type == HWLOC_OBJ_PCI_DEVICE)
		error = add_nic(machine, object, box);
	else if (is_os_device(object, HWLOC_OBJ_OSDEV_OPENFABRICS))
		return add_rdma(machine, object, NULL, box);
	else if (object->io_first_child)
		box = locality_box(hwloc, object);
	/* What is inside a PCI device has been looked at with it. */
	if (object->type == HWLOC_OBJ_PCI_DEVICE)
		return error;
	for (hwloc_obj_t child = object->io_first_child; child && !error;
	     child = child->next_sibling)
		error = visit(machine, hwloc, child, box);
	for (hwloc_obj_t child = object->first_child; child && !error; child = child->next_sibling)
		error = visit(machine, hwloc, child, box);
	return error;
}

static int convert(struct kvx_machine *machine, hwloc_topology_t hwloc)
{
	int error = add_packages(machine, hwloc);

	if (!error)
		error = add_nodes(machine, hwloc);
	return error ? error : visit(machine, hwloc, hwloc_get_root_obj(hwloc), 0);
}

/* ----------------------------------------------------------------------------------- loading */

/* Without what would start a GPU's or a display's library, without libpciaccess, which reads the
 * names of all devices there are into memory and keeps them (the kernel's files say as much), and
 * without what is not looked at. */
static int set_up(hwloc_topology_t hwloc)
{
	static const char *const unwanted[] = {"cuda",   "nvml", "rsmi", "levelzero",
					       "opencl", "gl",   "pci"};

	for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
		hwloc_topology_set_components(hwloc, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
					      unwanted[i]);
	if (hwloc_topology_set_io_types_filter(hwloc, HWLOC_TYPE_FILTER_KEEP_IMPORTANT) ||
	    hwloc_topology_set_cache_types_filter(hwloc, HWLOC_TYPE_FILTER_KEEP_NONE) ||
	    hwloc_topology_set_icache_types_filter(hwloc, HWLOC_TYPE_FILTER_KEEP_NONE))
		return kvx_fail(KVX_E_SYSTEM, "topology: hwloc cannot be set up: %s",
				strerror(errno));
	return 0;
}

static int load(struct kvx_machine *machine, hwloc_topology_t hwloc, const char *what)
{
	if (hwloc_topology_load(hwloc))
		return kvx_fail(KVX_E_INVALID,
				"topology: hwloc cannot load %s: %s; see what lstopo makes of it",
				what, strerror(errno));
	return convert(machine, hwloc);
}

int kvx_hwloc_read(struct kvx_machine *machine, const struct kvx_content *content)
{
	hwloc_topology_t hwloc;

	if (hwloc_topology_init(&hwloc))
		return kvx_fail(KVX_E_MEMORY, "topology: no memory for hwloc");
	int error = set_up(hwloc);
	/* hwloc counts the zero at the end. */
	if (!error && hwloc_topology_set_xmlbuffer(hwloc, content->bytes, (int)content->size + 1))
		error = kvx_fail(
			KVX_E_INVALID,
			"topology: %s: hwloc does not take this XML: %s; write it with lstopo "
			"of hwloc 2",
			content->path, strerror(errno));
	if (!error)
		error = load(machine, hwloc, content->path);
	hwloc_topology_destroy(hwloc);
	return error;
}

int kvx_hwloc_discover(struct kvx_machine *machine, struct hwloc_topology **hwloc)
{
	hwloc_topology_t opened;

	if (hwloc_topology_init(&opened))
		return kvx_fail(KVX_E_MEMORY, "topology: no memory for hwloc");
	int error = set_up(opened);
	if (!error)
		error = load(machine, opened, "this machine");
	if (error) {
		hwloc_topology_destroy(opened);
		return error;
	}
	*hwloc = opened;
	return 0;
}

void kvx_hwloc_close(struct hwloc_topology *hwloc)
{
	if (hwloc)
		hwloc_topology_destroy(hwloc);
}
