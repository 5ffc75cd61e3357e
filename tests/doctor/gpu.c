/* SPDX-License-Identifier: Apache-2.0 */
/* What is found out about GPUs by using their memory. Driver and RDMA devices are made up. */
#include "doctor/made_up.h"
#include "fake_cuda/fake_cuda.h"
#include "fake_verbs/fake_verbs.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GPU0 "cuda:0 (Fake GPU, 0000:3a:00.0): "
#define GPU1 "cuda:1 (Fake GPU, 0000:4a:00.0): "

static void tear_down(void)
{
	struct fake_verbs_counters counters;

	fake_verbs_counters(NULL, &counters);
	cr_assert_eq(counters.contexts + counters.pds + counters.mrs, 0);
	made_up_tear_down();
}

TestSuite(gpu, .init = made_up_set_up, .fini = tear_down);

static void check(const char *cuda, const char *devices)
{
	setenv("FAKE_CUDA_OPTIONS", cuda, true);
	setenv("FAKE_VERBS_DEVICES", devices, true);
	kvx_check_gpus(&checkup);
}

static uint64_t registrations(void)
{
	struct fake_verbs_counters counters;

	fake_verbs_counters(NULL, &counters);
	return counters.registrations;
}

static uint32_t open_files(void)
{
	uint32_t count = 0;
	DIR *folder = opendir("/proc/self/fd");

	cr_assert(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static void expect_nothing_of(const char *text)
{
	for (uint32_t i = 0; i < told_count; i++)
		cr_assert(!strstr(told_findings[i].found, text), "%s", told_findings[i].found);
}

Test(gpu, each_is_registered_with_each_device)
{
	check("devices=2", "fake0:ROCE:100,fake1:IB:400");
	expect_told(KVX_SEVERITY_OK, "gpudirect", GPU0 "fake0 reaches its memory by dma-buf");
	expect_told(KVX_SEVERITY_OK, "gpudirect", GPU0 "fake1 reaches its memory by dma-buf");
	expect_told(KVX_SEVERITY_OK, "gpudirect", GPU1 "fake0 reaches its memory by dma-buf");
	expect_told(KVX_SEVERITY_OK, "gpudirect", GPU1 "fake1 reaches its memory by dma-buf");
	expect_told(KVX_SEVERITY_OK, "gpudirect", GPU1 "what a NIC writes is ordered by the GPU");
	expect_told(KVX_SEVERITY_OK, "gpudirect", "for shm and tcp (tried");
	expect_at_most(KVX_SEVERITY_OK, "gpudirect");
	cr_assert_eq(registrations(), 4);
	cr_assert_eq(checkup.gpu_count, 2);
	expect_nothing_of("peer memory");
	expect_nothing_of("without memory windows");
}

/* The driver keeps what the first check has made of contexts and modules. */
Test(gpu, all_is_given_back)
{
	check("devices=2", "fake0:ROCE:100");
	uint64_t live = fake_cuda_live();
	uint32_t files = open_files();
	kvx_check_gpus(&checkup);
	cr_assert_eq(fake_cuda_live(), live);
	cr_assert_eq(open_files(), files);
	cr_assert_eq(fake_cuda_leaked(), 0);
}

Test(gpu, a_driver_without_dmabuf_is_a_warning_with_its_reason)
{
	check("devices=1,dmabuf=0", "fake0:ROCE:100");
	const struct told_finding *told = expect_told(KVX_SEVERITY_WARNING, "gpudirect",
						      GPU0 "fake0 does not reach its memory");
	cr_assert(strstr(told->found, "by dma-buf: cuda:0: its driver gives no dma-buf; that needs "
				      "the open kernel modules"));
	cr_assert(strstr(told->found, "by its address: fake0: cannot register 2 MiB: Bad address "
				      "(nvidia_peermem is not loaded)"));
	cr_assert(strstr(told->action, "modprobe nvidia_peermem"));
	expect_told(KVX_SEVERITY_OK, "gpudirect", "for all transports (tried");
	cr_assert_eq(registrations(), 0);
}

Test(gpu, a_device_without_dmabuf_is_a_warning_once)
{
	put("", "sys/module/nvidia_peermem/refcnt");
	fake_verbs_set("dmabuf", 0);
	check("devices=1", "fake0:ROCE:100");
	const struct told_finding *told = expect_told(KVX_SEVERITY_WARNING, "gpudirect",
						      "by dma-buf: fake0: cannot register");
	cr_assert(strstr(told->found, "nvidia_peermem is loaded"));
	uint32_t before = told_count;
	kvx_check_rdma(&checkup);
	for (uint32_t i = before; i < told_count; i++)
		cr_assert_str_neq(told_findings[i].area, "gpudirect");
}

Test(gpu, an_address_that_is_taken_does_as_well)
{
	fake_verbs_set("peer_memory", 1);
	check("devices=1", "fake0:ROCE:100");
	expect_told(KVX_SEVERITY_OK, "gpudirect", "by dma-buf, and by its address (peer memory)");
	fake_verbs_set("dmabuf", 0);
	kvx_check_gpus(&checkup);
	const struct told_finding *told = expect_told(
		KVX_SEVERITY_NOTE, "gpudirect", "by its address (peer memory), and not by dma-buf");
	cr_assert(strstr(told->found, "fake0: cannot register 2 MiB of a dma-buf"));
	expect_at_most(KVX_SEVERITY_NOTE, "gpudirect");
}

Test(gpu, a_kernel_that_binds_no_windows_is_said)
{
	cr_assert_eq(kvx_options_set(options, "verbs_relaxed_ordering", "off"), 0, "%s",
		     kvx_error_text());
	fake_verbs_set("fail_registration", 1);
	fake_verbs_set("fail_errno", EOPNOTSUPP);
	check("devices=1", "fake0:ROCE:100");
	expect_told(KVX_SEVERITY_OK, "gpudirect", "by dma-buf; without memory windows");
}

Test(gpu, only_selected_devices_are_tried)
{
	cr_assert_eq(kvx_options_set(options, "verbs_devices", "fake1"), 0);
	check("devices=1", "fake0:ROCE:100,fake1:ROCE:100");
	expect_told(KVX_SEVERITY_OK, "gpudirect", GPU0 "fake1 reaches");
	expect_nothing_of("fake0");
}

Test(gpu, a_flush_that_is_needed_is_tried)
{
	check("devices=1,ordering=0", "fake0:ROCE:100");
	expect_told(KVX_SEVERITY_OK, "gpudirect", GPU0 "what a NIC writes is flushed");
	cr_assert_eq(fake_cuda_flushes(), 1);
}

Test(gpu, a_flush_that_there_is_not_is_a_warning)
{
	check("devices=1,ordering=0,flush=0", "fake0:ROCE:100");
	const struct told_finding *told = expect_told(KVX_SEVERITY_WARNING, "gpudirect",
						      GPU0 "no bytes of a NIC can be received");
	cr_assert(strstr(told->found, "its driver cannot flush it; update the driver"));
	cr_assert(strstr(told->action, "option transports"));
}

Test(gpu, without_a_device_bytes_are_staged)
{
	check("devices=1,ordering=0,flush=0", "");
	cr_assert_eq(told_count, 1);
	expect_told(KVX_SEVERITY_OK, "gpudirect",
		    "staged in pinned memory of the host for shm and tcp, which are all without");
	cr_assert_eq(fake_cuda_copies(), 2);
	cr_assert_eq(checkup.has_tried_gpus, false);
}

Test(gpu, memory_that_cannot_be_pinned_is_a_warning)
{
	check("devices=1,pin=0", "");
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_WARNING, "gpudirect", GPU0 "its bytes cannot be staged");
	cr_assert(strstr(told->found, "cannot pin 131072 bytes"));
	cr_assert(strstr(told->action, "RLIMIT_MEMLOCK"));
}

Test(gpu, copies_that_fail_are_a_warning)
{
	check("devices=1,fail_after=2", "");
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_WARNING, "gpudirect", GPU0 "its bytes cannot be staged");
	cr_assert(strstr(told->found, "CUDA_ERROR_ILLEGAL_ADDRESS"));
}

Test(gpu, neither_driver_nor_device_is_a_note)
{
	check("absent=1", "fake0:ROCE:100");
	cr_assert_eq(told_count, 1);
	expect_told(KVX_SEVERITY_NOTE, "gpudirect", "no GPU");
}

Test(gpu, a_device_without_a_driver_has_the_reason)
{
	put("0x030200\n", "sys/bus/pci/devices/0000:19:00.0/class");
	put("0x10de\n", "sys/bus/pci/devices/0000:19:00.0/vendor");
	put("", "sys/module/nvidia_peermem/refcnt");
	check("absent=1", "fake0:ROCE:100");
	cr_assert_eq(told_count, 1);
	const struct told_finding *told =
		expect_told(KVX_SEVERITY_NOTE, "gpudirect", "cannot be tried: cuInit");
	cr_assert(strstr(told->found, "CUDA_ERROR_NO_DEVICE"));
	cr_assert(strstr(told->action, "see to the driver"));
}

Test(gpu, one_of_another_vendor_is_told_of_beside_the_drivers)
{
	put("0x030200\n", "sys/bus/pci/devices/0000:19:00.0/class");
	put("0x10de\n", "sys/bus/pci/devices/0000:19:00.0/vendor");
	put("0x120000\n", "sys/bus/pci/devices/0000:29:00.0/class");
	put("0x1002\n", "sys/bus/pci/devices/0000:29:00.0/vendor");
	check("devices=1", "fake0:ROCE:100");
	expect_told(
		KVX_SEVERITY_WARNING, "gpudirect",
		"1 GPUs, the first 0000:29:00.0, whose memory cannot be tried: the library knows");
	expect_told(KVX_SEVERITY_OK, "gpudirect", GPU0 "fake0 reaches");
	cr_assert_eq(checkup.gpu_count, 2);
}
