/* SPDX-License-Identifier: Apache-2.0 */
/* What is found out about RDMA devices by using them. */
#include "doctor/made_up.h"
#include "fake_verbs/fake_verbs.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Whatever was tried, nothing of it is left. */
static void tear_down(void)
{
	struct fake_verbs_counters counters;

	fake_verbs_counters(NULL, &counters);
	cr_assert_eq(counters.contexts + counters.pds + counters.mrs + counters.channels +
			     counters.cqs + counters.srqs + counters.qps,
		     0);
	made_up_tear_down();
}

TestSuite(devices, .init = made_up_set_up, .fini = tear_down);

/* Only the first of a test counts. */
static void check(const char *devices)
{
	setenv("FAKE_VERBS_DEVICES", devices, true);
	kvx_check_rdma(&checkup);
}

static void option(const char *name, const char *value)
{
	cr_assert_eq(kvx_options_set(options, name, value), 0, "%s", kvx_error_text());
}

Test(devices, good_devices_are_fine)
{
	check("fake0:ROCE:100:1:l4,fake1:IB:400:2");
	cr_assert_eq(checkup.device_count, 2);
	expect_told(KVX_SEVERITY_OK, "rdma", "fake0 port 1: active, RoCE, 100 Gb/s");
	expect_told(KVX_SEVERITY_OK, "rdma", "fake1 port 2: active, InfiniBand, 400 Gb/s");
	expect_told(KVX_SEVERITY_OK, "gid",
		    "fake0 port 1: of 4 GIDs an engine uses gid 3, RoCE v2");
	expect_told(KVX_SEVERITY_OK, "mtu", "fake1 port 1: active MTU 4096");
	expect_told(KVX_SEVERITY_OK, "relaxed ordering", "fake0: ");
	expect_told(KVX_SEVERITY_OK, "gpudirect", "fake1: takes memory by dma-buf");
	expect_at_most(KVX_SEVERITY_OK, "rdma");
}

Test(devices, a_port_that_is_down_is_a_warning)
{
	setenv("FAKE_VERBS_DEVICES", "fake0:ROCE:100,fake1:IB:100", true);
	fake_verbs_port("fake0", 1, false);
	fake_verbs_port("fake1", 1, false);
	kvx_check_rdma(&checkup);
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_WARNING, "rdma", "fake0 port 1: down, RoCE");
	cr_assert(strstr(told->action, "ip link set"));
	expect_told(KVX_SEVERITY_WARNING, "rdma", "fake1 port 1: down, InfiniBand");
	for (uint32_t i = 0; i < told_count; i++)
		cr_assert_str_neq(told_findings[i].area, "mtu");
}

Test(devices, a_gid_that_does_not_pass_a_router_is_a_warning)
{
	check("fake0:ROCE:100:1:l");
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_WARNING, "gid", "gid 1, RoCE v2, fe80::");
	cr_assert(strstr(told->action, "IPv4"));
}

Test(devices, a_gid_that_is_not_there_is_an_error_of_the_option)
{
	option("verbs_gid_index", "9");
	check("fake0:ROCE:100:1:4");
	expect_told(KVX_SEVERITY_ERROR, "gid", "verbs_gid_index: there is no GID 9");
}

/* All addresses that the fake makes up are those of lo. */
Test(devices, the_mtu_of_the_port_goes_with_that_of_the_interface)
{
	static const struct {
		const char *interface;
		uint64_t active;
		enum kvx_severity severity;
		const char *text;
	} cases[] = {
		{"1500", 1024, KVX_SEVERITY_NOTE, "active MTU 1024 of 4096, because lo has 1500"},
		{"9000", 4096, KVX_SEVERITY_OK, "active MTU 4096, over lo with 9000"},
		{"9000", 1024, KVX_SEVERITY_WARNING, "takes 9000, which is enough for 4096"},
		{"4200", 4096, KVX_SEVERITY_OK, "active MTU 4096"},
		{"1500", 4096, KVX_SEVERITY_ERROR, "full packets do not leave"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		told_count = 0;
		put(cases[i].interface, "sys/class/net/lo/mtu");
		fake_verbs_set("mtu", cases[i].active);
		check("fake0:ROCE:100:1:4");
		expect_told(cases[i].severity, "mtu", cases[i].text);
	}
}

Test(devices, the_largest_registration_is_found_by_trying)
{
	setenv("FAKE_VERBS_DEVICES", "fake0:ROCE:100", true);
	fake_verbs_set("locked_max", 9 << 20);
	kvx_check_rdma(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "locked memory",
		    "fake0: 8 MiB could be locked, and 16 MiB not: Cannot allocate memory");
	told_count = 0;
	fake_verbs_set("locked_max", 4096);
	kvx_check_rdma(&checkup);
	expect_told(KVX_SEVERITY_ERROR, "locked memory", "not even 64 KiB could be locked");
}

/* The second registration is the one with relaxed ordering. */
Test(devices, a_device_without_relaxed_ordering_is_a_note)
{
	setenv("FAKE_VERBS_DEVICES", "fake0:ROCE:100", true);
	fake_verbs_set("fail_registration", 2);
	fake_verbs_set("fail_errno", EOPNOTSUPP);
	kvx_check_rdma(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "relaxed ordering", "Operation not supported");
	expect_at_most(KVX_SEVERITY_WARNING, "locked memory");
}

Test(devices, a_device_without_dmabuf_matters_where_there_is_a_gpu)
{
	setenv("FAKE_VERBS_DEVICES", "fake0:ROCE:100", true);
	fake_verbs_set("dmabuf", 0);
	kvx_check_rdma(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "gpudirect", "fake0: does not take memory by dma-buf");
	checkup.gpu_count = 1;
	kvx_check_rdma(&checkup);
	expect_told(KVX_SEVERITY_WARNING, "gpudirect", "fake0: does not take memory by dma-buf");
}

Test(devices, a_device_without_windows_is_a_note)
{
	setenv("FAKE_VERBS_DEVICES", "fake0:ROCE:100", true);
	fake_verbs_set("windows", 0);
	kvx_check_rdma(&checkup);
	expect_told(KVX_SEVERITY_NOTE, "rdma", "fake0: no memory windows");
}

Test(devices, only_what_is_selected_is_looked_at)
{
	option("verbs_devices", "fake1:2");
	check("fake0:ROCE:100,fake1:ROCE:100:2");
	cr_assert_eq(checkup.device_count, 1);
	expect_told(KVX_SEVERITY_OK, "rdma", "fake1 port 2");
	for (uint32_t i = 0; i < told_count; i++)
		cr_assert(!strstr(told_findings[i].found, "fake0") &&
			  !strstr(told_findings[i].found, "port 1"));
}

Test(devices, a_device_that_is_not_there_is_an_error)
{
	option("verbs_devices", "mlx5_7");
	check("fake0:ROCE:100");
	expect_told(KVX_SEVERITY_ERROR, "rdma", "there is no device mlx5_7; there are: fake0");
}

Test(devices, a_port_that_is_not_there_is_an_error)
{
	option("verbs_devices", "fake0:2");
	check("fake0:ROCE:100");
	expect_told(KVX_SEVERITY_ERROR, "rdma", "fake0 has no port 2");
}

Test(devices, without_a_device_there_is_one_note)
{
	check("");
	cr_assert_eq(told_count, 1);
	cr_assert_eq(checkup.device_count, 0);
	expect_told(KVX_SEVERITY_NOTE, "rdma", "no RDMA device");
}

Test(devices, a_device_that_only_the_kernel_knows_is_an_error)
{
	put("4: ACTIVE\n", "sys/class/infiniband/mlx5_0/ports/1/state");
	check("");
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_ERROR, "rdma", "libibverbs lists none");
	cr_assert(strstr(told->action, "/dev/infiniband"));
}

Test(devices, an_engine_is_opened_over_them)
{
	check("fake0:ROCE:100");
	kvx_check_ports(&checkup);
	expect_told(KVX_SEVERITY_OK, "ports", "transport verbs");
}
