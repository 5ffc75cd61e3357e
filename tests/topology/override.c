/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/topology.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define DATA(name) TOPOLOGY_DATA "/" name

static struct kvx_topology *open_it(const char *machine, const char *override)
{
	struct kvx_topology *topology = NULL;

	cr_assert_eq(kvx_topology_open(machine, override, &topology), 0, "%s", kvx_error_text());
	return topology;
}

/* Compares "mlx5_0 mlx5_1" with the ports that a place uses so. */
static void expect_ports(const struct kvx_topology *topology, uint32_t place, bool is_failover,
			 const char *expected)
{
	struct kvx_topology_choice choices[KVX_TOPOLOGY_PORTS_MAX];
	int count = kvx_topology_choices(topology, place, choices, KVX_TOPOLOGY_PORTS_MAX);
	char shown[256] = "";
	size_t length = 0;

	cr_assert(count >= 0);
	for (int i = 0; i < count; i++)
		if (choices[i].is_failover == is_failover)
			length += (size_t)snprintf(shown + length, sizeof(shown) - length, "%s%s",
						   length ? " " : "", choices[i].device);
	cr_assert_str_eq(shown, expected, "place %u: %s", place, shown);
}

static void expect_gpu(const struct kvx_topology *topology, const char *pci, const char *expected)
{
	uint32_t place = 0;

	cr_assert_eq(kvx_topology_place_of_gpu(topology, pci, &place), 0, "%s", kvx_error_text());
	expect_ports(topology, place, false, expected);
}

static bool explains(const struct kvx_topology *topology, uint32_t place, const char *device,
		     const char *words)
{
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];
	uint32_t port = 0;

	cr_assert_eq(kvx_topology_find_port(topology, device, 1, &port), 0);
	cr_assert_gt(kvx_topology_explain(topology, place, port, text, sizeof(text)), 0);
	return strstr(text, words) != NULL;
}

/* --- lists --- */

Test(override, a_list_says_which_devices_a_place_uses)
{
	struct kvx_topology *topology = open_it(
		DATA("shared-switches.xml"),
		" 0000:12:00.0 = mlx5_7, mlx5_0:1 ;gpu1=0000:15:00.0;*=mlx5_2;numa1=mlx5_6;");
	uint32_t numa;

	expect_gpu(topology, "0000:12:00.0", "mlx5_0 mlx5_7");
	expect_gpu(topology, "13:00.0", "mlx5_1");
	expect_gpu(topology, "0000:73:00.0", "mlx5_2");
	cr_assert_eq(kvx_topology_place_of_numa(topology, 0, &numa), 0);
	expect_ports(topology, numa, false, "mlx5_2");
	expect_ports(topology, numa, true, "");
	cr_assert_eq(kvx_topology_place_of_numa(topology, 1, &numa), 0);
	expect_ports(topology, numa, false, "mlx5_6");
	cr_assert(explains(topology, 0, "mlx5_7", "the override lists it"));
	cr_assert(explains(topology, 0, "mlx5_1", "the override lists other devices"));
	kvx_topology_close(topology);
}

Test(override, places_that_a_list_does_not_name_choose_as_ever)
{
	struct kvx_topology *topology = open_it(DATA("shared-switches.xml"), "GPU0=mlx5_4");

	expect_gpu(topology, "0000:12:00.0", "mlx5_4");
	/* Nobody else wants the switch's ports now. */
	expect_gpu(topology, "0000:13:00.0", "mlx5_0 mlx5_1");
	expect_gpu(topology, "0000:32:00.0", "mlx5_2");
	kvx_topology_close(topology);
}

Test(override, a_listed_port_that_is_down_is_not_used)
{
	struct kvx_topology *topology = open_it(DATA("port-down.xml"), "*=mlx5_0,mlx5_2");

	expect_gpu(topology, "0000:12:00.0", "mlx5_2");
	cr_assert(explains(topology, 0, "mlx5_0", "the port is down"));
	kvx_topology_close(topology);
}

Test(override, a_list_that_is_wrong_says_what_there_is)
{
	static const struct {
		const char *machine, *list, *says;
	} cases[] = {
		{DATA("shared-switches.xml"), "0000:12:00.0=mlx5_9",
		 "no RDMA device \"mlx5_9\" here; there is: mlx5_0, mlx5_1"},
		{DATA("shared-switches.xml"), "*=mlx5_0:2", "no RDMA device \"mlx5_0:2\""},
		{DATA("shared-switches.xml"), "0000:99:00.0=mlx5_0",
		 "no GPU or NUMA node \"0000:99:00.0\""},
		{DATA("shared-switches.xml"), "*=mlx5_0;mlx5_1", "is not PLACE=DEVICE"},
		{DATA("shared-switches.xml"), "GPU0=", "no RDMA device \"\""},
		{DATA("shared-switches.xml"), "=mlx5_0", "no GPU or NUMA node \"\""},
		{DATA("bond.xml"), "*=0000:11:00.1", "is not RDMA-capable"},
		{DATA("displays.xml"), "*=mlx5_0", "there is: none"},
	};
	struct kvx_topology *topology;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(kvx_topology_open(cases[i].machine, cases[i].list, &topology),
			     KVX_E_INVALID, "%s", cases[i].list);
		cr_assert(strstr(kvx_error_text(), cases[i].says), "%s", kvx_error_text());
	}
}

/* --- files --- */

Test(override, a_file_says_how_near_things_are)
{
	struct kvx_topology *topology =
		open_it(DATA("guest-flat.xml"), DATA("guest-flat-nccl.xml"));
	struct kvx_topology_port port;
	uint32_t index;

	expect_gpu(topology, "0000:00:08.0", "mlx5_1");
	expect_gpu(topology, "0000:00:09.0", "mlx5_0");
	expect_gpu(topology, "0000:00:0a.0", "mlx5_1");
	expect_gpu(topology, "0000:00:0b.0", "mlx5_0");
	/* Names and states are the machine's, places and links the file's. */
	cr_assert_eq(kvx_topology_find_port(topology, "mlx5_1", 1, &index), 0);
	cr_assert_eq(kvx_topology_port(topology, index, &port), 0);
	cr_assert_eq(port.state, KVX_PORT_UP);
	cr_assert_eq(port.numa, 0);
	cr_assert_float_eq(port.pcie_gbps, 252, 0.1);
	cr_assert_null(kvx_topology_note(topology, 0));
	kvx_topology_close(topology);
}

Test(override, a_matrix_file_says_it_as_well)
{
	struct kvx_topology *topology = open_it(DATA("guest-flat.xml"), DATA("guest-flat.txt"));

	cr_assert_eq(kvx_topology_place_count(topology), 2);
	expect_gpu(topology, "0000:00:08.0", "mlx5_1");
	expect_ports(topology, 0, true, "mlx5_0");
	expect_ports(topology, 1, false, "mlx5_0");
	kvx_topology_close(topology);
}

Test(override, ports_that_a_file_leaves_out_are_told)
{
	struct kvx_topology *topology = open_it(DATA("functions-guest.xml"), "auto");

	cr_assert_null(kvx_topology_note(topology, 0));
	kvx_topology_close(topology);
	topology = open_it(DATA("shared-switches.xml"), DATA("half-of-switches.txt"));
	cr_assert_eq(kvx_topology_port_count(topology), 1);
	cr_assert(strstr(kvx_topology_note(topology, 0), "mlx5_1 port 1 (0000:15:00.0) is not in"));
	kvx_topology_close(topology);
}

Test(override, a_file_of_another_machine_is_refused)
{
	static const struct {
		const char *machine, *file, *says;
	} cases[] = {
		{DATA("guest-flat.xml"), DATA("shared-switches.xml"), "has no GPU 0000:12:00.0"},
		{DATA("displays.xml"), DATA("wrong-node.txt"), "has no NUMA node NUMA9"},
		{DATA("shared-switches.xml"), DATA("nccl-dump.xml"), "has no GPU 0000:11:00.0"},
		{DATA("functions-host.xml"), DATA("wrong-nic.txt"), "has no RDMA port mlx5_9"},
		{DATA("functions-host.xml"), "/nowhere", "cannot open /nowhere"},
	};
	struct kvx_topology *topology;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_assert_eq(kvx_topology_open(cases[i].machine, cases[i].file, &topology),
			     KVX_E_INVALID, "%s", cases[i].file);
		cr_assert(strstr(kvx_error_text(), cases[i].says), "%s", kvx_error_text());
	}
}

/* --- what the rest of the library asks --- */

Test(override, what_does_not_exist_is_refused)
{
	struct kvx_topology *topology = open_it(DATA("bond.xml"), "");
	struct kvx_topology_choice choice;
	struct kvx_topology_place place;
	struct kvx_topology_port port;
	struct kvx_topology_pair pair;
	struct kvx_topology_box box;
	uint32_t index;
	char text[8];

	cr_assert_eq(kvx_topology_place(topology, 2, &place), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_port(topology, 3, &port), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_box(topology, 99, &box), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_pair(topology, 2, 0, &pair), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_choices(topology, 2, &choice, 1), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_explain(topology, 0, 3, text, sizeof(text)), 0);
	cr_assert_eq(kvx_topology_place_of_gpu(topology, "0000:11:00.0", &index), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_place_of_gpu(topology, "GPU", &index), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_place_of_numa(topology, 7, &index), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_find_port(topology, "mlx5_2", 2, &index), KVX_E_INVALID);
	cr_assert_eq(kvx_topology_bind_numa(topology, 0), KVX_E_UNSUPPORTED);
	cr_assert_eq(kvx_topology_place_of_memory(topology, text, 1, &index), KVX_E_UNSUPPORTED);
	kvx_topology_close(topology);
	kvx_topology_close(NULL);
}

Test(override, a_short_buffer_cuts_the_text_and_tells_its_length)
{
	struct kvx_topology *topology = open_it(DATA("bond.xml"), NULL);
	char whole[KVX_TOPOLOGY_TEXT_MAX + 1], cut[12];
	size_t length = kvx_topology_explain(topology, 0, 0, whole, sizeof(whole));

	cr_assert_eq(length, strlen(whole));
	cr_assert_eq(kvx_topology_explain(topology, 0, 0, cut, sizeof(cut)), length);
	cr_assert_eq(strlen(cut), sizeof(cut) - 1);
	cr_assert_eq(strncmp(whole, cut, sizeof(cut) - 1), 0);
	cr_assert_eq(kvx_topology_explain(topology, 0, 0, NULL, 0), length);
	kvx_topology_close(topology);
}

Test(override, a_port_that_goes_down_gives_way_to_the_next)
{
	struct kvx_topology *topology = open_it(DATA("half-as-many-nics.xml"), NULL);
	uint32_t port = 0;

	expect_gpu(topology, "0000:12:00.0", "mlx5_0");
	cr_assert_eq(kvx_topology_find_port(topology, "mlx5_0", 1, &port), 0);
	kvx_topology_set_state(topology, port, KVX_PORT_DOWN);
	expect_gpu(topology, "0000:12:00.0", "mlx5_1");
	cr_assert(explains(topology, 0, "mlx5_0", "the port is down"));
	kvx_topology_set_state(topology, port, KVX_PORT_UP);
	expect_gpu(topology, "0000:12:00.0", "mlx5_0");
	kvx_topology_close(topology);
}
