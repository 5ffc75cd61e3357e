/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel's files say of a node, and what is tried on this one. */
#include "doctor/made_up.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(node, .init = made_up_set_up, .fini = made_up_tear_down);

#define GPU "0000:19:00.0"
#define NIC "0000:18:00.0"
#define BRIDGE "0000:17:00.0"
#define CONFIG_BYTES 4096

static void put_device(const char *pci, const char *class, const char *vendor)
{
	put(class, "sys/bus/pci/devices/%s/class", pci);
	put(vendor, "sys/bus/pci/devices/%s/vendor", pci);
}

static void put_gpu(void)
{
	put_device(GPU, "0x030200\n", "0x10de\n");
}

static void put_nic(void)
{
	put_device(NIC, "0x020700\n", "0x15b3\n");
	put("", "sys/bus/pci/devices/%s/infiniband/mlx5_0/node_type", NIC);
}

/* A bridge whose ACS control register holds that; the capability is the second of the list. */
static void put_bridge(const char *pci, uint16_t acs, size_t readable)
{
	unsigned char config[CONFIG_BYTES] = {
		[0x100] = 0x01,
		[0x102] = 0x01,
		[0x103] = 0x15, /* AER, next at 0x150 */
		[0x150] = 0x0d,
		[0x152] = 0x01, /* ACS, the last */
		[0x156] = (unsigned char)acs,
		[0x157] = (unsigned char)(acs >> 8),
	};

	put_device(pci, "0x060400\n", "0x8086\n");
	put_bytes(config, readable, "sys/bus/pci/devices/%s/config", pci);
}

/* ------------------------------------------------------------------------------------- GPUs */

Test(node, without_a_gpu_there_is_one_note)
{
	put_device("0000:00:02.0", "0x030000\n", "0x1a03\n"); /* the server's console */
	kvx_check_gpus(&checkup);
	cr_assert_eq(told_count, 1);
	expect_told(KVX_SEVERITY_NOTE, "gpudirect", "no GPU");
}

Test(node, a_gpu_that_no_nic_can_reach_is_a_warning)
{
	put_gpu();
	put("ffffffff81000000 T dma_buf_get\n", "proc/kallsyms");
	kvx_check_gpus(&checkup);
	cr_assert_eq(checkup.gpu_count, 1);
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_WARNING, "gpudirect", "nvidia_peermem is not loaded");
	cr_assert(strstr(told->found, "1 GPUs, the first " GPU ", whose memory cannot be tried: "));
	cr_assert(strstr(told->action, "modprobe nvidia_peermem"));
}

Test(node, what_makes_gpu_memory_reachable_is_seen)
{
	put_gpu();
	put("", "sys/module/nvidia_peermem/refcnt");
	kvx_check_gpus(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "gpudirect", "nvidia_peermem is loaded");
	put("0 t other\n0 T ib_umem_dmabuf_get_pinned\t[ib_uverbs]\n", "proc/kallsyms");
	kvx_check_gpus(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "gpudirect", "RDMA takes dma-buf");
}

/* ----------------------------------------------------------------------------- peer to peer */

Test(node, acs_that_redirects_between_gpu_and_nic_is_a_warning)
{
	put_gpu();
	put_nic();
	put_bridge(BRIDGE, 0x001d, CONFIG_BYTES);
	put_bridge("0000:16:00.0", 0x0001, CONFIG_BYTES);
	kvx_check_peer_to_peer(&checkup);
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_WARNING, "peer to peer", "ACS of 1 of 2 PCI bridges");
	cr_assert(strstr(told->found, BRIDGE));
	expect_told(KVX_SEVERITY_OK, "peer to peer", "no IOMMU translates");
}

Test(node, acs_that_does_not_redirect_is_fine)
{
	put_gpu();
	put_nic();
	put_bridge(BRIDGE, 0x0011, CONFIG_BYTES);
	kvx_check_peer_to_peer(&checkup);
	expect_told(KVX_SEVERITY_OK, "peer to peer", "none of 1 PCI bridges redirects");
}

Test(node, configuration_space_that_only_root_can_read_is_said)
{
	put_gpu();
	put_nic();
	put_bridge(BRIDGE, 0x001d, 64);
	kvx_check_peer_to_peer(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "peer to peer", "read by root alone");
}

/* A list that leads back to itself, and one that leads past the end. */
Test(node, configuration_space_that_makes_no_sense_ends)
{
	unsigned char config[CONFIG_BYTES] = {
		[0x100] = 0x01, [0x102] = 0x01, [0x103] = 0x10, [0x34] = 0x40, [0x41] = 0x40};

	put_gpu();
	put_nic();
	put_device(BRIDGE, "0x060400\n", "0x8086\n");
	put_bytes(config, sizeof(config), "sys/bus/pci/devices/%s/config", BRIDGE);
	put_bytes(config, sizeof(config), "sys/bus/pci/devices/%s/config", NIC);
	config[0x103] = 0xff;
	put_device("0000:15:00.0", "0x060400\n", "0x8086\n");
	put_bytes(config, sizeof(config), "sys/bus/pci/devices/0000:15:00.0/config");
	kvx_check_peer_to_peer(&checkup);
	expect_told(KVX_SEVERITY_OK, "peer to peer", "none of 2 PCI bridges redirects");
}

Test(node, an_iommu_that_translates_is_a_warning_where_a_gpu_and_a_nic_are)
{
	put("BOOT_IMAGE=/vmlinuz root=/dev/sda1 intel_iommu=on iommu=force quiet\n",
	    "proc/cmdline");
	put_nic();
	put("DMA-FQ\n", "sys/bus/pci/devices/%s/iommu_group/type", NIC);
	kvx_check_peer_to_peer(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "peer to peer", "intel_iommu=on iommu=force)");
	put_gpu();
	put("identity\n", "sys/bus/pci/devices/%s/iommu_group/type", GPU);
	kvx_check_peer_to_peer(&checkup);
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_WARNING, "peer to peer", "translates for 1 of 2");
	cr_assert(strstr(told->found, NIC ": DMA-FQ"));
	cr_assert(strstr(told->action, "iommu=pt"));
}

Test(node, relaxed_ordering_that_is_off_in_the_device_is_said)
{
	unsigned char config[CONFIG_BYTES] = {
		[0x34] = 0x40, [0x40] = 0x01, [0x41] = 0x60, [0x60] = 0x10, [0x68] = 0x0f};

	put_nic();
	put_bytes(config, sizeof(config), "sys/bus/pci/devices/%s/config", NIC);
	kvx_check_peer_to_peer(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "relaxed ordering", NIC);
	told_count = 0;
	config[0x68] = 0x1f;
	put_bytes(config, sizeof(config), "sys/bus/pci/devices/%s/config", NIC);
	kvx_check_peer_to_peer(&checkup);
	expect_at_most(KVX_SEVERITY_OK, "relaxed ordering");
}

/* ----------------------------------------------------------------------------------- memory */

Test(node, numa_balancing_matters_where_there_are_nodes)
{
	put("1\n", "proc/sys/kernel/numa_balancing");
	put("0\n", "sys/devices/system/node/online");
	kvx_check_numa(&checkup);
	expect_told(KVX_SEVERITY_OK, "numa balancing", "one NUMA node");
	put("0-1\n", "sys/devices/system/node/online");
	kvx_check_numa(&checkup);
	expect_told(KVX_SEVERITY_WARNING, "numa balancing", "0-1");
	put("0\n", "proc/sys/kernel/numa_balancing");
	kvx_check_numa(&checkup);
	expect_told(KVX_SEVERITY_OK, "numa balancing", "off");
}

Test(node, without_any_huge_pages_there_is_a_note)
{
	put("always madvise [never]\n", "sys/kernel/mm/transparent_hugepage/enabled");
	put("HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n",
	    "proc/meminfo");
	kvx_check_huge_pages(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "huge pages", "none could be mapped");
	put("always [madvise] never\n", "sys/kernel/mm/transparent_hugepage/enabled");
	kvx_check_huge_pages(&checkup);
	expect_told(KVX_SEVERITY_OK, "huge pages", "always [madvise] never");
}

static void limit_locked(rlim_t bytes)
{
	struct rlimit limit;

	cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
	limit.rlim_cur = bytes;
	cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
}

Test(node, too_little_locked_memory_is_an_error_only_with_a_device)
{
	static const char found[] =
		"fake0: 4 MiB could be locked, and 8 MiB not: Cannot allocate memory; the limit is "
		"6 MiB";

	limit_locked(6 << 20);
	kvx_check_lock_limit(&checkup, "fake0", 4 << 20, ENOMEM);
	expect_told(KVX_SEVERITY_NOTE, "locked memory", found);
	checkup.device_count = 1;
	kvx_check_lock_limit(&checkup, "fake0", 4 << 20, ENOMEM);
	const struct told_finding *told = expect_told(KVX_SEVERITY_ERROR, "locked memory", found);
	cr_assert(strstr(told->action, "ulimit -l unlimited"));
	cr_assert(strstr(told->action, "LimitMEMLOCK=infinity"));
	kvx_check_lock_limit(&checkup, "fake0", 0, EPERM);
	expect_told(KVX_SEVERITY_ERROR, "locked memory", "fake0: not even 64 KiB could be locked");
}

Test(node, a_limit_that_binds_is_a_warning_with_a_device)
{
	limit_locked(6 << 20);
	checkup.device_count = 1;
	kvx_check_lock_limit(&checkup, "fake0", 4 << 20, 0);
	expect_told(KVX_SEVERITY_WARNING, "locked memory", "all pools together have to fit");
	kvx_check_lock_limit(&checkup, "fake0", 64 << 20, 0);
	expect_told(KVX_SEVERITY_OK, "locked memory", "does not bind this user");
}

Test(node, locking_is_tried_without_a_device_too)
{
	kvx_check_locked_memory(&checkup);
	cr_assert_eq(told_count, 1);
	cr_assert(strstr(told_findings[0].found, "mlock: "));
	expect_at_most(KVX_SEVERITY_NOTE, "locked memory");
}

/* ------------------------------------------------------------------------------------ clock */

Test(node, a_clock_that_is_a_device_is_a_warning)
{
	put("hpet\n", "sys/devices/system/clocksource/clocksource0/current_clocksource");
	kvx_check_clock(&checkup);
	expect_told(KVX_SEVERITY_WARNING, "clock", "source hpet");
	cr_assert_eq(told_count, 2);
}

Test(node, io_uring_is_never_more_than_a_note)
{
	kvx_check_io_uring(&checkup);
	cr_assert_eq(told_count, 1);
	expect_at_most(KVX_SEVERITY_NOTE, "io_uring");
}

/* ------------------------------------------------------------------------------------ ports */

Test(node, a_port_that_is_taken_is_an_error_that_names_it)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char listen_at[32];

	cr_assert_eq(bind(fd, (struct sockaddr *)&address, length), 0);
	cr_assert_eq(listen(fd, 1), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	snprintf(listen_at, sizeof(listen_at), "127.0.0.1:%u", ntohs(address.sin_port));
	cr_assert_eq(kvx_options_set(options, "listen", listen_at), 0);
	kvx_check_ports(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "ports", listen_at);
	close(fd);
	kvx_check_ports(&checkup);
	expect_told(KVX_SEVERITY_OK, "ports", listen_at);
}

Test(node, listening_beyond_loopback_is_refused_as_the_engine_does)
{
	cr_assert_eq(kvx_options_set(options, "listen", "0.0.0.0:0"), 0);
	kvx_check_ports(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "ports", "unauthenticated_network");
}

/* ----------------------------------------------------------------------------------- secret */

static const char *secret_of(const char *content, mode_t mode)
{
	static char path[128];

	put(content, "secret");
	snprintf(path, sizeof(path), "%s/secret", checkup.root);
	cr_assert_eq(chmod(path, mode), 0);
	return path;
}

Test(node, a_secret_is_its_owners_alone)
{
	kvx_check_secret(&checkup);
	cr_assert_eq(told_count, 0);
	checkup.secret = secret_of("0123456789", 0600);
	kvx_check_secret(&checkup);
	expect_told(KVX_SEVERITY_OK, "secret", "mode 0600");
	checkup.secret = secret_of("0123456789", 0640);
	kvx_check_secret(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "secret", "mode 0640");
	checkup.secret = secret_of("", 0400);
	kvx_check_secret(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "secret", "is empty");
	checkup.secret = checkup.root;
	kvx_check_secret(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "secret", "is no regular file");
	checkup.secret = "/nowhere/secret";
	kvx_check_secret(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "secret", "No such file");
}

/* Outside the suite, whose folder a skipped test would leave behind. */
Test(secret, of_somebody_else_is_an_error)
{
	if (geteuid() != 0)
		cr_skip("only root can give a file away");
	made_up_set_up();
	checkup.secret = secret_of("0123456789", 0600);
	cr_assert_eq(chown(checkup.secret, 65534, 65534), 0);
	kvx_check_secret(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "secret", "belongs to somebody else");
	made_up_tear_down();
}

/* ------------------------------------------------------------------------------ all of them */

Test(node, an_empty_node_gets_an_answer_in_every_area)
{
	static const char *const areas[] = {"gpudirect",    "locked memory", "huge pages",
					    "peer to peer", "clock",         "numa balancing",
					    "io_uring",     "ports"};

	kvx_checkup_run(&checkup);
	for (size_t i = 0; i < sizeof(areas) / sizeof(areas[0]); i++) {
		uint32_t k = 0;
		while (k < told_count && strcmp(told_findings[k].area, areas[i]) != 0)
			k++;
		cr_assert(k < told_count, "nothing of %s", areas[i]);
	}
}

Test(node, the_worst_finding_is_returned)
{
	enum kvx_severity worst = KVX_SEVERITY_OK;

	cr_assert_eq(kvx_doctor_run(NULL, NULL, NULL, NULL), KVX_E_INVALID);
	int result = kvx_doctor_run(options, "/nowhere/secret", take_finding, NULL);
	for (uint32_t i = 0; i < told_count; i++)
		if (told_findings[i].severity > worst)
			worst = told_findings[i].severity;
	cr_assert_eq(result, (int)worst);
	cr_assert_eq(worst, KVX_SEVERITY_ERROR);
	cr_assert(kvx_doctor_run(NULL, NULL, take_finding, NULL) >= 0, "%s", kvx_error_text());
}

Test(node, severities_have_names)
{
	cr_assert_str_eq(kvx_severity_name(KVX_SEVERITY_OK), "ok");
	cr_assert_str_eq(kvx_severity_name(KVX_SEVERITY_ERROR), "error");
	cr_assert_str_eq(kvx_severity_name((enum kvx_severity)77), "unknown");
}
