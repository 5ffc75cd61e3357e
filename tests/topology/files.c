/* SPDX-License-Identifier: Apache-2.0 */
/* What files are taken, and how bad ones are refused. */
#include "topology/topology.h"

#include "support/chance.h"
#include "support/sanitized.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef SANITIZED
/* hwloc loses a few bytes when it gives up on XML whose values make no sense. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libhwloc";
}

/* A list of what was suppressed would count as a report. */
const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
	return "print_suppressions=0";
}

#define CUTS 40 /* of each file */
#define SLOWER 20
#else
#define CUTS 150
#define SLOWER 1
#endif

static char folder[] = "/tmp/kvxfer-topology-XXXXXX";
static char path[sizeof(folder) + 8];

static void make_folder(void)
{
	cr_assert(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/file", folder);
}

static void remove_folder(void)
{
	unlink(path);
	rmdir(folder);
}

TestSuite(files, .init = make_folder, .fini = remove_folder);

static void write_bytes(const char *bytes, size_t size)
{
	FILE *file = fopen(path, "we");

	cr_assert(file);
	cr_assert_eq(fwrite(bytes, 1, size, file), size);
	cr_assert_eq(fclose(file), 0);
}

/* A file of the tests' data; the caller frees it. */
static char *read_data(const char *name, size_t *size)
{
	char data[1024];
	char *bytes = malloc(KVX_TOPOLOGY_FILE_MAX);

	cr_assert(bytes);
	snprintf(data, sizeof(data), "%s/%s", TOPOLOGY_DATA, name);
	FILE *file = fopen(data, "re");
	cr_assert(file, "%s", data);
	*size = fread(bytes, 1, KVX_TOPOLOGY_FILE_MAX, file);
	fclose(file);
	return bytes;
}

/* Opens what write_bytes() wrote. */
static int open_it(void)
{
	struct kvx_topology *topology = NULL;
	int error = kvx_topology_open(path, NULL, &topology);

	cr_assert((topology == NULL) == (error != 0));
	kvx_topology_close(topology);
	return error;
}

#define HEAD "kvxfer-topology 1\n"
#define XML "<?xml version=\"1.0\"?>\n"

Test(files, bad_ones_are_refused_with_what_to_change)
{
	static const struct {
		const char *bytes;
		int error;
		const char *says;
	} cases[] = {
		{"", KVX_E_INVALID, "neither XML"},
		{"hello\n", KVX_E_INVALID, "begins with \"kvxfer-topology 1\""},
		{XML "<html><body/></html>", KVX_E_INVALID, "holds XML of <html>"},
		{XML "<topology version=\"3.0\"></topology>", KVX_E_VERSION,
		 "--export-xml-flags v2"},
		{XML "<topology version=\"2.0\"></topology>", KVX_E_INVALID, "no NUMA node"},
		{XML "<topology></topology>", KVX_E_VERSION, "is of version 1,"},
		{XML "<topology version=\"2.0\"><object type=\"PU\" cpuset=\"0x1\"/></topology>",
		 KVX_E_INVALID, "lacks a set"},
		{XML "<topology version=\"2.0\"><object type=\"PU\" cpuset=\"0x1,\"/></topology>",
		 KVX_E_INVALID, "is not one"},
		{XML "<topology version=\"2.0\"><object type=\"PU\" cpuset=\"0x1\" nodeset=\"0x1\" "
		     "complete_cpuset=\"0x1\" complete_nodeset=\"0x1\"/></topology>",
		 KVX_E_INVALID, "has no number"},
		{XML "<topology version=\"2.0\"><object type=\"Machine\"", KVX_E_INVALID,
		 "cut short"},
		{XML "<topology><a></topology>", KVX_E_INVALID, "line 2"},
		{XML "<!DOCTYPE topology [<!ENTITY a \"b\">]><topology>&a;</topology>",
		 KVX_E_INVALID, "declarations of its own"},
		{XML "<system version=\"1\"></system>", KVX_E_INVALID, "no <cpu>"},
		{XML "<system><cpu numaid=\"x\"/></system>", KVX_E_INVALID, "numaid \"x\""},
		{XML
		 "<system><cpu numaid=\"0\"><pci busid=\"q\" class=\"0x030200\"/></cpu></system>",
		 KVX_E_INVALID, "busid \"q\""},
		{XML "<system><cpu numaid=\"0\"><pci busid=\"0:1.0\"/></cpu></system>",
		 KVX_E_INVALID, "class"},
		{"kvxfer-topology 2\n", KVX_E_VERSION, "--save"},
		{HEAD "gpu x\n", KVX_E_INVALID, "line 2: not a PCI address: \"x\""},
		{HEAD "\n# words\ngpu\n", KVX_E_INVALID, "line 4"},
		{HEAD "numa 99999\n", KVX_E_INVALID, "not a NUMA node's number"},
		{HEAD "gpu 01:00.0 numa=0\n", KVX_E_INVALID, "numa=0"},
		{HEAD "nic 01:00.0 speed=fast\n", KVX_E_INVALID, "speed=fast"},
		{HEAD "nic 01:00.0 speed=nan\n", KVX_E_INVALID, "speed=nan"},
		{HEAD "nic 01:00.0 state=perhaps\n", KVX_E_INVALID, "state=perhaps"},
		{HEAD "nic 01:00.0 color=red\n", KVX_E_INVALID, "color=red"},
		{HEAD "nic 01:00.0 red\n", KVX_E_INVALID, "not KEY=VALUE"},
		{HEAD "switch 1\n", KVX_E_INVALID, "\"switch\""},
		{HEAD "gpu 01:00.0\npair 01:00.0 mlx5_0 PIX\n", KVX_E_INVALID, "no such port"},
		{HEAD "gpu 01:00.0\nnic 02:00.0 device=a\npair 01:00.0 a NEAR\n", KVX_E_INVALID,
		 "NEAR"},
		{HEAD "gpu 01:00.0\nnic 02:00.0 device=a\npair 01:00.0 a PIX wide\n", KVX_E_INVALID,
		 "pair PLACE PORT CLASS"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_bytes(cases[i].bytes, strlen(cases[i].bytes));
		cr_assert_eq(open_it(), cases[i].error, "case %zu: %s", i, kvx_error_text());
		cr_assert(strstr(kvx_error_text(), cases[i].says), "case %zu: %s", i,
			  kvx_error_text());
		cr_assert(strstr(kvx_error_text(), path), "case %zu: %s", i, kvx_error_text());
	}
}

Test(files, what_is_no_file_is_refused)
{
	struct kvx_topology *topology;

	cr_assert_eq(kvx_topology_open("/nowhere/at all", NULL, &topology), KVX_E_INVALID);
	cr_assert(strstr(kvx_error_text(), "No such file"), "%s", kvx_error_text());
	cr_assert_eq(kvx_topology_open("/", NULL, &topology), KVX_E_SYSTEM);
	cr_assert(strstr(kvx_error_text(), "directory"), "%s", kvx_error_text());
	cr_assert_eq(kvx_topology_open("/dev/zero", NULL, &topology), KVX_E_LIMIT);
	cr_assert(strstr(kvx_error_text(), "larger than 32 MiB"), "%s", kvx_error_text());
}

Test(files, bytes_that_are_no_text_are_refused)
{
	write_bytes("<a>\0</a>", 8);
	cr_assert_eq(open_it(), KVX_E_INVALID);
	cr_assert(strstr(kvx_error_text(), "binary"), "%s", kvx_error_text());
}

Test(files, elements_nested_without_end_are_refused)
{
	static char deep[10000 * 3 + 64];

	memcpy(deep, XML, sizeof(XML));
	for (int i = 0; i < 10000; i++)
		memcpy(deep + sizeof(XML) - 1 + 3 * (size_t)i, "<a>", 4);
	write_bytes(deep, strlen(deep));
	cr_assert_eq(open_it(), KVX_E_INVALID);
	cr_assert(strstr(kvx_error_text(), "nested too deep"), "%s", kvx_error_text());
}

Test(files, more_ports_than_the_limit_are_refused)
{
	size_t size = 0, room = 64 * (KVX_TOPOLOGY_PORTS_MAX + 2);
	char *bytes = malloc(room);

	cr_assert(bytes);
	size += (size_t)snprintf(bytes, room, HEAD);
	for (unsigned i = 0; i <= KVX_TOPOLOGY_PORTS_MAX; i++)
		size += (size_t)snprintf(bytes + size, room - size, "nic %x:%02x:00.0 device=a%u\n",
					 i / 256, i % 256, i);
	write_bytes(bytes, size);
	cr_assert_eq(open_it(), KVX_E_LIMIT);
	cr_assert(strstr(kvx_error_text(), "more than 256 NIC ports"), "%s", kvx_error_text());
	free(bytes);
}

static const char *const data[] = {"shared-switches.xml", "dual-port.xml", "nccl-dump.xml",
				   "rails-a.txt"};

/* Cutting is always noticed in XML; a matrix file without its last lines is one, too. */
Test(files, cut_short_anywhere_they_do_no_harm)
{
	uint64_t random = random_seed();

	for (size_t i = 0; i < sizeof(data) / sizeof(data[0]); i++) {
		size_t size;
		char *bytes = read_data(data[i], &size);
		for (int round = 0; round < CUTS; round++) {
			size_t cut = random_between(&random, 0, (uint32_t)size - 4);
			write_bytes(bytes, cut);
			int error = open_it();
			if (strstr(data[i], ".xml"))
				cr_assert(error < 0, "%s cut at %zu is taken", data[i], cut);
		}
		free(bytes);
	}
}

/* Which digits and letters a file holds is nobody's promise. */
Test(files, altered_anywhere_they_do_no_harm)
{
	static const char letters[] = "0123456789abcdefx.:=- \"<>/&,%";
	uint64_t random = random_seed();

	for (size_t i = 0; i < sizeof(data) / sizeof(data[0]); i++) {
		size_t size;
		char *bytes = read_data(data[i], &size);
		for (int round = 0; round < CUTS; round++) {
			size_t at = random_between(&random, 0, (uint32_t)size - 1);
			char kept = bytes[at];
			bytes[at] = letters[random_between(&random, 0, sizeof(letters) - 2)];
			write_bytes(bytes, size);
			int error = open_it();
			cr_assert(error <= 0);
			cr_assert(error == 0 || kvx_error_text()[0]);
			bytes[at] = kept;
		}
		free(bytes);
	}
}

static double milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static double least(double a, double b)
{
	return a < b ? a : b;
}

/* The best of a few tries: others may want the processor, too. */
Test(files, a_large_machine_is_found_and_chosen_for_soon)
{
	double found_ms = INFINITY, chosen_ms = INFINITY;

	for (int i = 0; i < 5; i++) {
		struct kvx_topology *topology;
		double begin = milliseconds();
		cr_assert_eq(
			kvx_topology_open(TOPOLOGY_DATA "/four-nics-each.xml", NULL, &topology), 0);
		double opened = milliseconds();
		kvx_topology_set_state(topology, 0, i % 2 ? KVX_PORT_UP : KVX_PORT_DOWN);
		double chosen = milliseconds();
		found_ms = least(found_ms, opened - begin);
		chosen_ms = least(chosen_ms, chosen - opened);
		kvx_topology_close(topology);
	}
	fprintf(stderr, "8 GPUs, 32 NICs: found in %.2f ms, chosen in %.3f ms\n", found_ms,
		chosen_ms);
	cr_assert(found_ms <= 150 * SLOWER);
	cr_assert(chosen_ms <= 1 * SLOWER);
}
