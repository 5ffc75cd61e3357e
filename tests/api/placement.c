/* SPDX-License-Identifier: Apache-2.0 */
/* Where the engine's own thread runs. hwloc is told of a machine of two NUMA nodes, CPU 0 and fake0
 * at one, CPU 1 and fake1 at the other; memory is on node 0, as everything here. */
#include "support/pair.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BOTH 3 /* CPUs, as a mask */
#define BYTES (1u << 20)
#define LOG_MAX 4095u

#define SETS(mask)                                                                                 \
	" cpuset='" mask "' complete_cpuset='" mask "' nodeset='" mask "' complete_nodeset='" mask \
	"' allowed_cpuset='" mask "' allowed_nodeset='" mask "' "
#define CORE(number, mask)                            \
	"<object type='NUMANode' os_index='" number   \
	"'" SETS(mask) "local_memory='68719476736'/>" \
		       "<object type='PU' os_index='" number "'" SETS(mask) "/>"
#define PORT(number, bus)                                                                        \
	"<object type='Bridge' bridge_type='0-1' depth='0' bridge_pci='0000:[" bus "-" bus "]'>" \
	"<object type='PCIDev' pci_busid='0000:" bus ":00.0'"                                    \
	" pci_type='0207 [15b3:1021] [0000:0000] 00' pci_link_speed='63.0'>"                     \
	"<object type='OSDev' name='fake" number "' osdev_type='3'>"                             \
	"<info name='Port1State' value='4'/></object></object></object>"
#define PACKAGE(number, mask, port)                                                           \
	"<object type='Package' os_index='" number "'" SETS(mask) ">" CORE(number, mask) port \
		"</object>"
#define MACHINE(rest)                                                                   \
	"<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE topology SYSTEM 'hwloc2.dtd'>" \
	"<topology version='2.0'><object type='Machine' os_index='0'" SETS(             \
		"0x3") ">" rest "</object></topology>"

static const char two_nodes[] =
	MACHINE(PACKAGE("0", "0x1", PORT("0", "10")) PACKAGE("1", "0x2", PORT("1", "80")));
static const char ports_between[] =
	MACHINE(PACKAGE("0", "0x1", "") PACKAGE("1", "0x2", "") PORT("0", "10") PORT("1", "80"));

static const struct way verbs = {"verbs", false}, tcp = {"tcp", false}, caller = {"verbs", true};
static struct drive drive;
static char logged[LOG_MAX + 1];

static void use_machine(const char *xml)
{
	char path[64];
	int fd = memfd_create("machine.xml", 0);

	cr_assert_eq(write(fd, xml, strlen(xml)), (ssize_t)strlen(xml));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	setenv("HWLOC_XMLFILE", path, true);
	setenv("HWLOC_THISSYSTEM", "1", true);
}

static cpu_set_t cpus_of_mask(unsigned mask)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	for (unsigned cpu = 0; cpu < 2; cpu++)
		if (mask >> cpu & 1)
			CPU_SET(cpu, &cpus);
	return cpus;
}

static void set_cpus(pid_t thread, unsigned mask)
{
	cpu_set_t cpus = cpus_of_mask(mask);

	cr_assert_eq(sched_setaffinity(thread, sizeof(cpus), &cpus), 0);
}

static void set_up(void)
{
	cpu_set_t cpus;

	cr_assert_eq(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	if (!CPU_ISSET(0, &cpus) || !CPU_ISSET(1, &cpus))
		cr_skip_test("needs CPUs 0 and 1");
	set_cpus(0, BOTH);
	use_machine(two_nodes);
	setenv("FAKE_VERBS_DEVICES", "fake0:ROCE:100,fake1:ROCE:100", true);
}

TestSuite(placement, .init = set_up, .timeout = 60);

static unsigned mask_of(pid_t thread)
{
	cpu_set_t cpus;

	cr_assert_eq(sched_getaffinity(thread, sizeof(cpus), &cpus), 0);
	return (unsigned)!!CPU_ISSET(0, &cpus) | (unsigned)!!CPU_ISSET(1, &cpus) << 1;
}

/* The engine's own thread. */
static pid_t find_thread(void)
{
	DIR *tasks = opendir("/proc/self/task");
	pid_t found = 0;

	for (struct dirent *entry; (entry = readdir(tasks));) {
		char path[300], name[32] = "";
		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		FILE *file = fopen(path, "re");
		if (file && fgets(name, sizeof(name), file) && strcmp(name, "kvxfer\n") == 0)
			found = atoi(entry->d_name);
		if (file)
			fclose(file);
	}
	closedir(tasks);
	cr_assert(found);
	return found;
}

static void take_line(void *unused, enum kvx_log_level level, const char *line)
{
	size_t length = strlen(logged);

	(void)unused;
	if (level < KVX_LOG_DEBUG && strstr(line, "its thread"))
		snprintf(logged + length, sizeof(logged) - length, "%s\n", line);
}

static int try_open(const struct way *way, const char *topology, const char *numa,
		    struct kvx_engine **engine)
{
	struct kvx_options *options;

	logged[0] = 0;
	expect_ok(kvx_options_new(&options));
	kvx_options_log(options, take_line, NULL);
	expect_ok(kvx_options_set(options, "name", "engine"));
	expect_ok(kvx_options_set(options, "transports", way->transport));
	expect_ok(kvx_options_set(options, "progress", way->caller ? "caller" : "thread"));
	expect_ok(kvx_options_set(options, "topology", topology));
	expect_ok(kvx_options_set(options, "progress_numa", numa));
	int error = kvx_engine_open(options, engine);
	kvx_options_free(options);
	return error;
}

static struct kvx_engine *open_engine(const struct way *way, const char *topology, const char *numa)
{
	struct kvx_engine *engine;

	expect_ok(try_open(way, topology, numa, &engine));
	return engine;
}

static void register_memory(struct kvx_engine *engine)
{
	struct kvx_region *region;

	expect_ok(kvx_region_alloc(engine, BYTES, &region));
}

/* An engine with a first region: the CPUs its thread may use. */
static unsigned cpus_with_memory(const struct way *way, const char *topology, const char *numa)
{
	struct kvx_engine *engine = open_engine(way, topology, numa);

	register_memory(engine);
	unsigned mask = mask_of(find_thread());
	kvx_engine_close(engine);
	return mask;
}

Test(placement, the_thread_goes_near_the_ports_of_the_first_memory)
{
	struct kvx_engine *engine = open_engine(&verbs, "auto", "auto");

	cr_assert_eq(mask_of(find_thread()), BOTH);
	register_memory(engine);
	cr_assert_eq(mask_of(find_thread()), 1);
	cr_assert_str_eq(logged, "engine engine: its thread is bound to NUMA node 0, near fake0: "
				 "1 of 2 CPUs\n");
	kvx_engine_close(engine);
	cr_assert_eq(mask_of(0), BOTH);
}

/* Where the bytes leave counts, not where the memory is. */
Test(placement, ports_of_another_node_take_the_thread_there)
{
	cr_assert_eq(cpus_with_memory(&verbs, "*=fake1", "auto"), 2);
	cr_assert(strstr(logged, "NUMA node 1, near fake1"), "%s", logged);
}

Test(placement, where_nodes_carry_the_same_it_is_that_of_the_memory)
{
	cr_assert_eq(cpus_with_memory(&verbs, "*=fake1,fake0", "auto"), 1);
}

Test(placement, later_memory_does_not_move_it)
{
	struct kvx_engine *engine = open_engine(&verbs, "*=fake1", "auto");

	register_memory(engine);
	pid_t thread = find_thread();
	cr_assert_eq(mask_of(thread), 2);
	set_cpus(thread, BOTH);
	register_memory(engine);
	cr_assert_eq(mask_of(thread), BOTH);
	kvx_engine_close(engine);
}

Test(placement, a_bound_thread_moves_bytes)
{
	struct kvx_geometry geometry = {
		.layers = 4, .planes = 2, .blocks = 16, .block_bytes = 4096};
	struct pair pair;

	pair_open(&pair, &verbs, &geometry, NULL);
	pair_expect_works(&pair, 1);
	cr_assert_eq(mask_of(find_thread()), 1);
	pair_close(&pair);
}

Test(placement, without_a_port_that_is_near_it_stays)
{
	cr_assert_eq(cpus_with_memory(&tcp, "auto", "auto"), BOTH);
	cr_assert_eq(cpus_with_memory(&verbs, "off", "auto"), BOTH);
	use_machine(ports_between);
	cr_assert_eq(cpus_with_memory(&verbs, "auto", "auto"), BOTH);
	cr_assert_str_eq(logged, "");
}

Test(placement, off_means_off)
{
	cr_assert_eq(cpus_with_memory(&verbs, "auto", "off"), BOTH);
	cr_assert_str_eq(logged, "");
}

Test(placement, a_number_counts_at_once_and_for_every_transport)
{
	static const struct way *const ways[] = {&verbs, &tcp};

	for (int i = 0; i < 2; i++) {
		struct kvx_engine *engine = open_engine(ways[i], "off", "1");
		cr_assert_eq(mask_of(find_thread()), 2);
		cr_assert_str_eq(logged, "engine engine: its thread is bound to NUMA node 1, as "
					 "option progress_numa says: 1 of 2 CPUs\n");
		kvx_engine_close(engine);
	}
	cr_assert_eq(cpus_with_memory(&verbs, "auto", "1"), 2);
}

Test(placement, cpus_that_the_thread_may_not_use_stay_out_of_reach)
{
	set_cpus(0, 1);
	cr_assert_eq(cpus_with_memory(&verbs, "*=fake1", "auto"), 1);
	cr_assert(strstr(logged, "stays on its CPUs (1): NUMA node 1"), "%s", logged);
}

Test(placement, callers_threads_are_never_bound)
{
	static const char *const values[] = {"auto", "1"};

	for (int i = 0; i < 2; i++) {
		struct kvx_engine *engine = open_engine(&caller, "*=fake1", values[i]);
		drive_add(&drive, engine);
		register_memory(engine);
		drive_for(&drive, 10);
		cr_assert_eq(mask_of(0), BOTH);
		cr_assert_str_eq(logged, "");
		engine_close(&drive, engine);
	}
}

Test(placement, a_machine_of_one_node_binds_nothing)
{
	static const char *const values[] = {"auto", "0"};

	unsetenv("HWLOC_XMLFILE");
	setenv("HWLOC_SYNTHETIC", "numa:1 pu:2", true);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(cpus_with_memory(&verbs, "auto", values[i]), BOTH);
		cr_assert_str_eq(logged, "");
	}
}

Test(placement, another_machine_than_this_one_is_told_of)
{
	unsetenv("HWLOC_THISSYSTEM");
	cr_assert_eq(cpus_with_memory(&verbs, "auto", "1"), BOTH);
	cr_assert(strstr(logged, "is not bound to NUMA node 1"), "%s", logged);
	cr_assert(strstr(logged, "HWLOC_XMLFILE"), "%s", logged);
}

Test(placement, nodes_that_do_not_exist_are_refused)
{
	static const char *const values[] = {
		"2", "4294967295", "99999999999999999999", "-1", "1x", "near", ""};
	static const struct way *const ways[] = {&verbs, &tcp, &caller};
	struct kvx_engine *engine;

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		for (int j = 0; j < 3; j++)
			expect_fail(try_open(ways[j], "auto", values[i], &engine), KVX_E_INVALID,
				    "progress_numa", values[i], "auto, off or the number");
}
