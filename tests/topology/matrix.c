/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/matrix.h"

#include "topology/link.h"
#include "topology/tree.h"

#include <criterion/criterion.h>

#define GPU kvx_pci_make(0, 1, 0, 0)
#define NIC kvx_pci_make(0, 2, 0, 0)

/* A machine of boxes, each given by its kind and its parent's place in the row, and one GPU and one
 * port in two of them. */
struct row {
	const char *boxes; /* p: package, n: NUMA node, h: host bridge, b: bridge, s: switch */
	unsigned parents[8];
	unsigned gpu, port;
	enum kvx_nearness nearness;
};

static enum kvx_box_kind kind_of(char letter)
{
	switch (letter) {
	case 'p':
		return KVX_BOX_PACKAGE;
	case 'n':
		return KVX_BOX_NUMA;
	case 'h':
		return KVX_BOX_HOST_BRIDGE;
	case 's':
		return KVX_BOX_SWITCH;
	default:
		return KVX_BOX_BRIDGE;
	}
}

static void make(struct kvx_machine *machine, const struct row *row)
{
	uint32_t numa = 0;

	tree_box(machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	for (unsigned i = 0; row->boxes[i]; i++) {
		if (row->boxes[i] == 'n')
			tree_numa(machine, row->parents[i], numa++);
		else
			tree_box(machine, kind_of(row->boxes[i]), row->parents[i]);
	}
	tree_gpu(machine, row->gpu, GPU);
	tree_port(machine, row->port, NIC, 0);
	cr_assert_eq(kvx_machine_settle(machine), 0);
	kvx_matrix_fill(machine);
}

Test(matrix, the_class_is_that_of_the_nearest_common_ancestor)
{
	static const struct row rows[] = {
		/* Below one port, and below two ports of one switch. */
		{"nhb", {0, 1, 2}, 3, 3, KVX_NEARNESS_PIX},
		{"nhbbbb", {0, 1, 2, 3, 4, 4}, 5, 6, KVX_NEARNESS_PIX},
		{"nhs", {0, 1, 2}, 3, 3, KVX_NEARNESS_PIX},
		/* A switch below a switch. */
		{"nhss", {0, 1, 2, 3}, 3, 4, KVX_NEARNESS_PXB},
		{"nhss", {0, 1, 2, 3}, 4, 3, KVX_NEARNESS_PXB},
		{"nhbbbb", {0, 1, 2, 3, 3, 5}, 4, 6, KVX_NEARNESS_PXB},
		/* Two root ports, and the bus of the bridge itself. */
		{"nhbb", {0, 1, 2, 2}, 3, 4, KVX_NEARNESS_PHB},
		{"nh", {0, 1}, 2, 2, KVX_NEARNESS_PHB},
		/* Two host bridges of a node, of a package with two, of a machine with one. */
		{"nhh", {0, 1, 1}, 2, 3, KVX_NEARNESS_NODE},
		{"pnnhh", {0, 1, 1, 2, 1}, 4, 5, KVX_NEARNESS_NODE},
		{"nhh", {0, 0, 0}, 2, 3, KVX_NEARNESS_NODE},
		/* Two nodes, two packages, and who knows where. */
		{"pnnhh", {0, 1, 1, 2, 3}, 4, 5, KVX_NEARNESS_SYS},
		{"ppnnhh", {0, 0, 1, 2, 3, 4}, 5, 6, KVX_NEARNESS_SYS},
		{"nnhh", {0, 0, 0, 0}, 3, 4, KVX_NEARNESS_SYS},
		{"nnhh", {0, 0, 1, 0}, 3, 4, KVX_NEARNESS_SYS},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvx_machine machine = {0};
		make(&machine, &rows[i]);
		cr_assert_eq(kvx_machine_pair(&machine, 0, 0)->shown.nearness, rows[i].nearness,
			     "row %zu: %s", i,
			     kvx_nearness_name(kvx_machine_pair(&machine, 0, 0)->shown.nearness));
		kvx_machine_finish(&machine);
	}
}

Test(matrix, functions_of_one_device_are_nearest)
{
	struct kvx_machine machine = {0};

	tree_box(&machine, KVX_BOX_MACHINE, KVX_TOPOLOGY_NONE);
	uint32_t host = tree_box(&machine, KVX_BOX_HOST_BRIDGE, tree_numa(&machine, 0, 0));
	tree_gpu(&machine, host, kvx_pci_make(0, 1, 4, 0));
	tree_port(&machine, host, kvx_pci_make(0, 1, 4, 1), 0);
	cr_assert_eq(kvx_machine_settle(&machine), 0);
	kvx_matrix_fill(&machine);
	cr_assert_eq(kvx_machine_pair(&machine, 0, 0)->shown.nearness, KVX_NEARNESS_PIX);
	kvx_machine_finish(&machine);
}

Test(matrix, the_path_is_as_wide_as_its_narrowest_link)
{
	static const struct row row = {"nhbbbbb", {0, 1, 2, 3, 4, 2, 6}, 5, 7, KVX_NEARNESS_PHB};
	struct kvx_machine machine = {0};

	make(&machine, &row);
	machine.ports[0].link_gbps = 504;
	machine.ports[0].width = 16;
	machine.boxes[6].link_gbps = 252;
	machine.boxes[6].width = 8;
	machine.boxes[7].link_gbps = 504;
	machine.boxes[4].link_gbps = 126; /* a port of the GPU's switch, on the way */
	machine.boxes[5].link_gbps = 16;  /* the GPU's own, as the GPU is idle */
	machine.places[0].link_gbps = 16;
	kvx_matrix_fill(&machine);
	cr_assert_float_eq(kvx_machine_pair(&machine, 0, 0)->shown.path_gbps, 126, 0);
	cr_assert_float_eq(kvx_machine_pair(&machine, 1, 0)->shown.path_gbps, 252, 0);
	cr_assert_float_eq(machine.ports[0].shown.pcie_gbps, 252, 0);
	cr_assert_eq(machine.ports[0].shown.pcie_width, 8);
	kvx_machine_finish(&machine);
}

Test(matrix, links_carry_what_their_encoding_leaves)
{
	cr_assert_float_eq(kvx_link_gbps(2.5, 16), 32, 1e-9);
	cr_assert_float_eq(kvx_link_gbps(8, 16), 126.03, 0.01);
	cr_assert_float_eq(kvx_link_gbps(32, 16), 504.12, 0.01);
	cr_assert_float_eq(kvx_link_gbps(64, 16), 968, 0.01);
	cr_assert_float_eq(kvx_link_gbps(0, 16), 0, 0);
	cr_assert_float_eq(kvx_link_gbps(16, 0), 0, 0);
	cr_assert_float_eq(kvx_link_gbps(16, 255), 0, 0);
}

Test(matrix, addresses_are_read_and_written_in_one_form)
{
	static const struct {
		const char *text, *shown; /* NULL: not an address */
	} cases[] = {
		{"0000:18:00.0", "0000:18:00.0"},
		{"18:00.1", "0000:18:00.1"},
		{"00000001:1a:1F.7", "0001:1a:1f.7"},
		{"10000:e1:00.0", "10000:e1:00.0"},
		{"", NULL},
		{"18:00", NULL},
		{"18:00.8", NULL},
		{"18:20.0", NULL},
		{"0:0:0:0.0", NULL},
		{"mlx5_0", NULL},
		{"18:00.0 ", NULL},
		{"123:00.0", NULL},
		{"000000001:18:00.0", NULL},
		{"0000:18:00.0.0", NULL},
		{"a.0", NULL},
		{":a.0", NULL},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t pci;
		char shown[KVX_TOPOLOGY_PCI_MAX + 1];
		cr_assert_eq(kvx_pci_parse(cases[i].text, &pci), cases[i].shown != NULL, "\"%s\"",
			     cases[i].text);
		if (!cases[i].shown)
			continue;
		kvx_pci_print(pci, shown);
		cr_assert_str_eq(shown, cases[i].shown);
	}
}
