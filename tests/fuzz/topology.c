/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files and lists that say how a machine looks: the first byte says whether the rest is a machine,
 * a file to override a known machine by, or a list. What was read is looked at whole, and written
 * as a matrix file, which must be read again.
 *
 * XML of hwloc is read by hwloc itself, which is another library; that is the target
 * topology_hwloc, made of this file with WITH_HWLOC 1.
 */
#include "content.h"
#include "target.h"

#include <kvxfer/topology.h>

#ifndef WITH_HWLOC
#define WITH_HWLOC 0
#endif

/* hwloc loses some memory over XML that it refuses. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libhwloc";
}

static const char known_machine[] =
	"kvxfer-topology 1\n"
	"numa 0\n"
	"numa 1\n"
	"gpu 0000:11:00.0 numa=0 model=GPU\n"
	"gpu 0000:21:00.0 numa=1\n"
	"nic 0000:12:00.0 device=mlx5_0 numa=0 speed=400 pcie=504 width=16 state=up "
	"link=ethernet fabric=red\n"
	"nic 0000:22:00.0 device=mlx5_1 port=2 numa=1 speed=400 state=up link=infiniband\n"
	"nic - device=rxe0 interface=lo state=up\n"
	"pair 0000:11:00.0 mlx5_0 PIX 504\n"
	"pair numa0 mlx5_1:2 PHB\n";

static struct kvx_topology *known(void)
{
	static struct kvx_topology *topology;

	if (!topology)
		fuzz_require(kvx_topology_open(fuzz_file(known_machine, strlen(known_machine)),
					       NULL, &topology) == 0,
			     "%s", kvx_error_text());
	return topology;
}

/* The weights of a place's chosen ports add up to 1, and each port is explained. */
static void look_at_place(const struct kvx_topology *topology, uint32_t place)
{
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];
	uint32_t ports = kvx_topology_port_count(topology);
	struct kvx_topology_place shown;
	struct kvx_topology_pair pair;
	double chosen = 0;

	fuzz_require(kvx_topology_place(topology, place, &shown) == 0, "place %u", place);
	for (uint32_t port = 0; port < ports; port++) {
		fuzz_require(kvx_topology_pair(topology, place, port, &pair) == 0, "pair");
		fuzz_require(pair.weight >= 0 && pair.weight <= 1.000001, "weight %f", pair.weight);
		if (pair.use == KVX_USE_CHOSEN)
			chosen += pair.weight;
		fuzz_require(kvx_topology_explain(topology, place, port, text, sizeof(text)),
			     "no sentence for port %u", port);
	}
	fuzz_require(chosen == 0 || (chosen > 0.999 && chosen < 1.001), "shares of %f", chosen);
}

static void look_at_rails(const struct kvx_topology *topology)
{
	struct kvx_topology_rail rails[8];
	char text[KVX_TOPOLOGY_TEXT_MAX + 1];

	(void)kvx_topology_rails(topology, 0, known(), 0, rails, 8);
	(void)kvx_topology_rails(known(), 1, topology, 0, rails, 8);
	(void)kvx_topology_explain_rail(topology, 0, 0, known(), 0, text, sizeof(text));
}

static void look_at_all(const struct kvx_topology *topology)
{
	uint32_t places = kvx_topology_place_count(topology);
	uint32_t ports = kvx_topology_port_count(topology);
	uint32_t boxes = kvx_topology_box_count(topology);
	struct kvx_topology_port port;
	struct kvx_topology_box box;

	for (uint32_t i = 0; i < places; i++)
		look_at_place(topology, i);
	for (uint32_t i = 0; i < ports; i++)
		fuzz_require(kvx_topology_port(topology, i, &port) == 0 && port.box < boxes,
			     "port %u", i);
	for (uint32_t i = 0; i < boxes; i++)
		fuzz_require(
			kvx_topology_box(topology, i, &box) == 0 &&
				(box.parent < i || (i == 0 && box.parent == KVX_TOPOLOGY_NONE)),
			"box %u stands in box %u", i, box.parent);
	for (uint32_t i = 0; kvx_topology_note(topology, i); i++)
		fuzz_require(kvx_topology_note(topology, i)[0], "an empty note");
	if (places)
		look_at_rails(topology);
}

static void expect_written_is_read(const struct kvx_topology *topology)
{
	size_t size = kvx_topology_write(topology, NULL, 0);
	struct kvx_topology *again;
	char *text = malloc(size + 1);

	fuzz_require(text, "no memory");
	fuzz_require(kvx_topology_write(topology, text, size + 1) == size, "another size");
	fuzz_require(kvx_topology_open(fuzz_file(text, size), NULL, &again) == 0, "%s in\n%s",
		     kvx_error_text(), text);
	fuzz_require(kvx_topology_place_count(again) == kvx_topology_place_count(topology) &&
			     kvx_topology_port_count(again) == kvx_topology_port_count(topology),
		     "another machine");
	kvx_topology_close(again);
	free(text);
}

static int open_input(uint8_t kind, const uint8_t *bytes, size_t size,
		      struct kvx_topology **topology)
{
	static const char machine_path[] = "/proc/self/fd/";
	char path[64];

	if (kind == 0)
		return kvx_topology_open(fuzz_file(bytes, size), NULL, topology);
	/* The known machine, in a file beside the input's. */
	FILE *file = tmpfile();
	fuzz_require(file && fwrite(known_machine, strlen(known_machine), 1, file) == 1 &&
			     fflush(file) == 0,
		     "no temporary file");
	snprintf(path, sizeof(path), "%s%d", machine_path, fileno(file));
	char *list = fuzz_text(bytes, size);
	int error = kvx_topology_open(path, kind == 1 ? fuzz_file(bytes, size) : list, topology);
	free(list);
	fclose(file);
	return error;
}

static int is_for_hwloc(const uint8_t *bytes, size_t size)
{
	return memmem(bytes, size, "<topology", 9) != NULL;
}

/* A list without '=' would be the name of a file of this machine. */
static int names_a_file(uint8_t kind, const uint8_t *bytes, size_t size)
{
	return kind == 2 && !memchr(bytes, '=', size);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct kvx_topology *topology;

	if (size < 1)
		return 0;
	uint8_t kind = WITH_HWLOC ? 0 : bytes[0] % 3;
	bytes++;
	size--;
	if (is_for_hwloc(bytes, size) != WITH_HWLOC || names_a_file(kind, bytes, size))
		return 0;
	(void)known();
	if (open_input(kind, bytes, size, &topology)) {
		fuzz_require(kvx_error_text()[0], "an error without a text");
		return 0;
	}
	look_at_all(topology);
	expect_written_is_read(topology);
	kvx_topology_close(topology);
	return 0;
}

/* --- seeds --- */

#define GIVE(name, text) take(name, text, sizeof(text) - 1)

static const char known_input[] =
	"\0kvxfer-topology 1\nnuma 0\ngpu 0000:19:00.0 numa=0 model=H\n"
	"nic 0000:18:00.0 device=mlx5_0 port=1 numa=0 speed=400 "
	"pcie=504 width=16 state=up link=infiniband fabric=red kind=rdma\n"
	"nic - interface=lo kind=interface\n"
	"pair 0000:19:00.0 mlx5_0 PIX 504\npair numa0 mlx5_0:1 SYS\n";

static const char nccl[] =
	"\0<system version=\"1\">\n<cpu numaid=\"0\" affinity=\"ff\" arch=\"x86_64\">\n"
	"<pci busid=\"0000:10:00.0\" class=\"0x060400\" link_speed=\"32.0 GT/s PCIe\" "
	"link_width=\"16\">\n<pci busid=\"0000:11:00.0\" class=\"0x030200\" link_width=\"16\">"
	"<gpu dev=\"0\" sm=\"90\"/></pci>\n<pci busid=\"0000:12:00.0\" class=\"0x020700\">"
	"<nic><net name=\"mlx5_0\" dev=\"0\" speed=\"400000\" port=\"1\" guid=\"0x1\"/></nic>"
	"</pci>\n</pci>\n<nic><net name=\"rxe0\" speed=\"10000\" port=\"1\"/></nic>\n"
	"</cpu>\n</system>\n";

static const char hwloc[] =
	"\0<topology version=\"2.0\">\n<object type=\"Machine\" os_index=\"0\" cpuset=\"0x1\" "
	"complete_cpuset=\"0x1\" nodeset=\"0x1\" complete_nodeset=\"0x1\" "
	"allowed_cpuset=\"0x1\" allowed_nodeset=\"0x1\" gp_index=\"1\">\n"
	"<object type=\"NUMANode\" os_index=\"0\" cpuset=\"0x1\" complete_cpuset=\"0x1\" "
	"nodeset=\"0x1\" complete_nodeset=\"0x1\" local_memory=\"4096\" gp_index=\"3\"/>\n"
	"<object type=\"PU\" os_index=\"0\" cpuset=\"0x1\" complete_cpuset=\"0x1\" "
	"nodeset=\"0x1\" complete_nodeset=\"0x1\" gp_index=\"5\"/>\n"
	"<object type=\"Bridge\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"0000:[00-04]\" "
	"gp_index=\"6\">\n<object type=\"PCIDev\" pci_busid=\"0000:01:00.0\" "
	"pci_type=\"0207 [15b3:101e] [0000:0000] 00\" pci_link_speed=\"0.000000\" "
	"gp_index=\"8\">\n<object type=\"OSDev\" name=\"mlx5_0\" osdev_type=\"3\" "
	"gp_index=\"9\"><info name=\"Port1State\" value=\"4\"/></object>\n</object>\n"
	"<object type=\"PCIDev\" pci_busid=\"0000:03:00.0\" "
	"pci_type=\"0302 [10de:2330] [0000:0000] 00\" pci_link_speed=\"0.000000\" "
	"gp_index=\"14\"/>\n</object>\n</object>\n</topology>\n";

void fuzz_give_seeds(fuzz_take *take)
{
	if (WITH_HWLOC) {
		GIVE("hwloc", hwloc);
		return;
	}
	GIVE("matrix", known_input);
	GIVE("nccl", nccl);
	GIVE("override-file", "\1kvxfer-topology 1\ngpu 0000:11:00.0\nnic 0000:12:00.0\n"
			      "pair 0000:11:00.0 0000:12:00.0 SYS 1\n");
	GIVE("override-nccl",
	     "\1<system version=\"1\"><cpu numaid=\"0\"><pci busid=\"0000:11:00.0\" "
	     "class=\"0x030200\"/><pci busid=\"0000:12:00.0\" class=\"0x020700\"/>"
	     "</cpu></system>");
	GIVE("list", "\2 0000:11:00.0 = mlx5_0, mlx5_1:2 ;gpu1=0000:22:00.0;*=mlx5_0;numa1=rxe0;");
}
