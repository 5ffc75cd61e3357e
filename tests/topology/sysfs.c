/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel's files say, from a folder that looks like sysfs; and this machine itself. */
#include "topology/source.h"
#include "topology/topology.h"
#include "topology/tree.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/kvxfer-sysfs-XXXXXX";

static void make_root(void)
{
	cr_assert(mkdtemp(root));
}

static void remove_root(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -r %s", root);
	cr_assert_eq(system(command), 0);
}

TestSuite(sysfs, .init = make_root, .fini = remove_root);

/* Makes the folders on the way to a file. */
static void make_way(char *path)
{
	for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); at++) {
		*at = 0;
		cr_assert(mkdir(path, 0755) == 0 || errno == EEXIST);
		*at = '/';
	}
}

static void put(const char *content, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(const char *content, const char *format, ...)
{
	char path[PATH_MAX], name[PATH_MAX / 2];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(name, sizeof(name), format, arguments);
	va_end(arguments);
	snprintf(path, sizeof(path), "%s/%s", root, name);
	make_way(path);
	FILE *file = fopen(path, "we");
	cr_assert(file, "%s", path);
	fputs(content, file);
	fclose(file);
}

static void put_link(const char *target, const char *name)
{
	char path[PATH_MAX], full[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	snprintf(full, sizeof(full), "%s/%s", root, target);
	make_way(path);
	cr_assert_eq(symlink(full, path), 0);
}

static void put_port(const char *device, const char *state, const char *rate, const char *link)
{
	put(state, "class/infiniband/%s/ports/1/state", device);
	put(rate, "class/infiniband/%s/ports/1/rate", device);
	put(link, "class/infiniband/%s/ports/1/link_layer", device);
}

/* A machine as hwloc leaves it: a NIC behind a root port, one without an RDMA device, both of NUMA
 * node 0. */
static void make_machine(struct kvx_machine *machine)
{
	tree_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	uint32_t host = tree_box(machine, KVX_BOX_HOST_BRIDGE, tree_numa(machine, 0, 0));
	uint32_t bridge = tree_box(machine, KVX_BOX_BRIDGE, host);

	snprintf(machine->boxes[bridge].shown.pci, sizeof(machine->boxes[bridge].shown.pci),
		 "0000:00:01.0");
	tree_port(machine, bridge, kvx_pci_make(0, 1, 0, 0), 0);
	tree_port(machine, host, kvx_pci_make(0, 0, 3, 0), 0);
	machine->ports[1].shown.fitness = KVX_PORT_NOT_RDMA;
	machine->ports[1].shown.name[0] = 0;
}

static void complete(struct kvx_machine *machine)
{
	cr_assert_eq(kvx_sysfs_complete(machine, root), 0, "%s", kvx_error_text());
	kvx_machine_mark_shadows(machine);
	tree_finish(machine);
}

static const struct kvx_topology_port *find(const struct kvx_machine *machine, const char *device)
{
	for (uint32_t i = 0; i < machine->port_count; i++)
		if (strcmp(machine->ports[i].shown.name, device) == 0)
			return &machine->ports[i].shown;
	cr_assert_fail("no port of %s", device);
	return NULL;
}

Test(sysfs, a_port_gets_its_state_speed_link_and_lanes)
{
	struct kvx_machine machine = {0};

	make_machine(&machine);
	put_port("nic0", "4: ACTIVE\n", "400 Gb/sec (4X NDR)\n", "InfiniBand\n");
	put("fec0:0000:0000:0007:0000:0000:0000:0001\n", "class/infiniband/nic0/ports/1/gids/0");
	put("16.0 GT/s PCIe\n", "bus/pci/devices/0000:01:00.0/current_link_speed");
	put("16\n", "bus/pci/devices/0000:01:00.0/current_link_width");
	put("16.0 GT/s PCIe\n", "bus/pci/devices/0000:00:01.0/current_link_speed");
	put("8\n", "bus/pci/devices/0000:00:01.0/current_link_width");
	complete(&machine);
	const struct kvx_topology_port *port = find(&machine, "nic0");
	cr_assert_eq(port->state, KVX_PORT_UP);
	cr_assert_eq(port->link, KVX_LINK_INFINIBAND);
	cr_assert_float_eq(port->speed_gbps, 400, 0);
	cr_assert_float_eq(port->pcie_gbps, 126, 0.1);
	cr_assert_eq(port->pcie_width, 8);
	cr_assert_str_eq(port->fabric, "ib fec0:0000:0000:0007");
	kvx_machine_finish(&machine);
}

Test(sysfs, a_port_that_is_not_active_is_down)
{
	struct kvx_machine machine = {0};

	make_machine(&machine);
	put_port("nic0", "2: INIT\n", "10 Gb/sec (4X SDR)\n", "InfiniBand\n");
	put("fe80:0000:0000:0000:0000:0000:0000:0001\n", "class/infiniband/nic0/ports/1/gids/0");
	complete(&machine);
	cr_assert_eq(find(&machine, "nic0")->state, KVX_PORT_DOWN);
	cr_assert_str_eq(find(&machine, "nic0")->fabric, "");
	kvx_machine_finish(&machine);
}

Test(sysfs, a_virtual_device_stands_where_its_interface_does)
{
	struct kvx_machine machine = {0};

	/* rxe0 on a VLAN of eth0, which is a virtio device; siw0 on the loopback interface. */
	make_machine(&machine);
	put_port("rxe0", "4: ACTIVE\n", "100 Gb/sec (4X EDR)\n", "Ethernet\n");
	put("eth0.7\n", "class/infiniband/rxe0/parent");
	put("", "devices/pci0000:00/0000:00:03.0/virtio0/net/eth0/mtu");
	put_link("devices/pci0000:00/0000:00:03.0/virtio0", "class/net/eth0/device");
	put_link("class/net/eth0", "class/net/eth0.7/lower_eth0");
	put_port("siw0", "4: ACTIVE\n", "10 Gb/sec (4X SDR)\n", "Ethernet\n");
	put("lo\n", "class/infiniband/siw0/ports/1/gid_attrs/ndevs/0");
	put("", "class/net/lo/mtu");
	complete(&machine);
	cr_assert_eq(machine.port_count, 3, "%u ports", machine.port_count);
	const struct kvx_topology_port *rxe = find(&machine, "rxe0"), *siw = find(&machine, "siw0");
	cr_assert_str_eq(rxe->pci, "0000:00:03.0");
	cr_assert_str_eq(rxe->interface, "eth0.7");
	cr_assert_eq(rxe->fitness, KVX_PORT_FIT);
	cr_assert_eq(rxe->numa, 0);
	cr_assert_str_eq(siw->pci, "");
	cr_assert_str_eq(siw->interface, "lo");
	cr_assert_eq(siw->fitness, KVX_PORT_FIT);
	kvx_machine_finish(&machine);
}

Test(sysfs, two_virtual_devices_share_an_interface)
{
	struct kvx_machine machine = {0};

	make_machine(&machine);
	put_port("rxe0", "4: ACTIVE\n", "100 Gb/sec\n", "Ethernet\n");
	put_port("siw0", "4: ACTIVE\n", "100 Gb/sec\n", "Ethernet\n");
	put("eth0\n", "class/infiniband/rxe0/parent");
	put("eth0\n", "class/infiniband/siw0/parent");
	put("", "devices/pci0000:00/0000:00:03.0/net/eth0/mtu");
	put_link("devices/pci0000:00/0000:00:03.0", "class/net/eth0/device");
	complete(&machine);
	cr_assert_eq(machine.port_count, 3);
	cr_assert_str_eq(find(&machine, "rxe0")->pci, "0000:00:03.0");
	cr_assert_str_eq(find(&machine, "siw0")->pci, "0000:00:03.0");
	kvx_machine_finish(&machine);
}

Test(sysfs, functions_tell_what_they_are)
{
	struct kvx_machine machine = {0};

	/* nic1 is a virtual function of nic0's card; nic2 manages switches. */
	make_machine(&machine);
	tree_port(&machine, machine.ports[0].shown.box, kvx_pci_make(0, 1, 0, 1), 0);
	tree_port(&machine, machine.ports[0].shown.box, kvx_pci_make(0, 1, 0, 2), 0);
	put_port("nic0", "4: ACTIVE\n", "400 Gb/sec\n", "Ethernet\n");
	put_port("nic2", "4: ACTIVE\n", "400 Gb/sec\n", "Ethernet\n");
	put_port("nic3", "4: ACTIVE\n", "400 Gb/sec\n", "InfiniBand\n");
	put("0x15b3\n", "bus/pci/devices/0000:01:00.0/vendor");
	put("0x15b3\n", "bus/pci/devices/0000:01:00.1/vendor");
	put_link("bus/pci/devices/0000:01:00.0", "bus/pci/devices/0000:01:00.1/physfn");
	put("\x82 CX7 V3 SMDL=SW_MNG", "bus/pci/devices/0000:01:00.2/vpd");
	complete(&machine);
	cr_assert_eq(find(&machine, "nic0")->fitness, KVX_PORT_FIT);
	cr_assert_eq(find(&machine, "nic2")->fitness, KVX_PORT_SHADOW);
	cr_assert_eq(find(&machine, "nic3")->fitness, KVX_PORT_MANAGEMENT);
	kvx_machine_finish(&machine);
}

Test(sysfs, a_machine_without_rdma_is_left_as_it_is)
{
	struct kvx_machine machine = {0};

	make_machine(&machine);
	complete(&machine);
	cr_assert_eq(machine.port_count, 2);
	cr_assert_eq(find(&machine, "nic0")->state, KVX_PORT_UNKNOWN);
	kvx_machine_finish(&machine);
}

/* --- this machine --- */

static struct kvx_topology *open_here(void)
{
	struct kvx_topology *topology = NULL;

	cr_assert_eq(kvx_topology_open(NULL, NULL, &topology), 0, "%s", kvx_error_text());
	return topology;
}

Test(sysfs, this_machine_has_memory)
{
	struct kvx_topology *topology = open_here();
	struct kvx_topology_place place;
	bool has_numa = false;

	for (uint32_t p = 0; kvx_topology_place(topology, p, &place) == 0; p++)
		has_numa |= place.kind == KVX_PLACE_NUMA;
	cr_assert(has_numa);
	kvx_topology_close(topology);
}

Test(sysfs, memory_of_this_process_lies_in_a_place)
{
	struct kvx_topology *topology = open_here();
	struct kvx_topology_place place;
	size_t bytes = 1 << 20;
	char *memory = malloc(bytes);
	uint32_t index = KVX_TOPOLOGY_NONE;

	cr_assert(memory);
	/* Untouched, and touched. */
	cr_assert_eq(kvx_topology_place_of_memory(topology, memory, bytes, &index), 0, "%s",
		     kvx_error_text());
	memset(memory, 1, bytes);
	cr_assert_eq(kvx_topology_place_of_memory(topology, memory, bytes, &index), 0);
	cr_assert_eq(kvx_topology_place(topology, index, &place), 0);
	cr_assert_eq(place.kind, KVX_PLACE_NUMA);
	free(memory);
	kvx_topology_close(topology);
}

Test(sysfs, a_thread_is_bound_within_the_cpus_that_it_may_use)
{
	struct kvx_topology *topology = open_here();
	struct kvx_topology_place place;
	cpu_set_t before, after, both;

	cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	for (uint32_t p = 0; kvx_topology_place(topology, p, &place) == 0; p++) {
		if (place.kind != KVX_PLACE_NUMA)
			continue;
		cr_assert_eq(kvx_topology_bind_numa(topology, place.numa), 0, "%s",
			     kvx_error_text());
		cr_assert_eq(sched_getaffinity(0, sizeof(after), &after), 0);
		CPU_AND(&both, &before, &after);
		cr_assert(CPU_COUNT(&after) > 0 && CPU_EQUAL(&both, &after));
	}
	cr_assert_eq(kvx_topology_bind_numa(topology, 100000), KVX_E_INVALID);
	kvx_topology_close(topology);
}
