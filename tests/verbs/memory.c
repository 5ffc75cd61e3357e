/* SPDX-License-Identifier: Apache-2.0 */
/* Registration with devices. */
#include "support/devices.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

TestSuite(memory, .init = devices_set_up, .fini = devices_tear_down);

static struct kvx_memory memory_of(uint64_t bytes)
{
	void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	cr_assert_neq(address, MAP_FAILED);
	return (struct kvx_memory){.address = address, .bytes = bytes, .fd = -1, .dmabuf = -1};
}

static const struct kvx_verbs_memory *registered(const struct kvx_memory *memory)
{
	return memory->registered[context.index];
}

static struct fake_verbs_counters counters_of(const char *device)
{
	struct fake_verbs_counters counters;

	fake_verbs_counters(device, &counters);
	return counters;
}

Test(memory, memory_is_registered_once_with_each_device)
{
	cr_assert_eq(devices_open("fake0:ROCE:100:2,fake1:ROCE:100"), 0);
	struct kvx_memory memory = memory_of(3 * MIB);
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), 0);
	cr_assert_eq(registered(&memory)->chunks, 1);
	cr_assert_eq(registered(&memory)->windowless, 0);
	for (uint32_t i = 0; i < 2; i++) {
		const char *name = transport.devices[i].name;
		const struct ibv_mr *mr = registered(&memory)->mrs[i];
		cr_assert_eq(mr->pd, transport.devices[i].pd);
		cr_assert_eq(mr->addr, memory.address);
		cr_assert_eq(mr->length, memory.bytes);
		cr_assert_eq(fake_verbs_registered(name, memory.address, memory.bytes), 1);
		cr_assert_eq(counters_of(name).registrations, 1);
		cr_assert_eq(counters_of(name).relaxed, 1);
	}
	kvx_verbs_detach(&transport, &memory);
	cr_assert_null(registered(&memory));
	cr_assert_eq(counters_of(NULL).registered_bytes, 0);
	kvx_verbs_detach(&transport, &memory);
	munmap(memory.address, memory.bytes);
}

Test(memory, memory_is_split_where_a_limit_asks_for_it)
{
	fake_verbs_set("max_mr_size", 5 * MIB);
	cr_assert_eq(devices_open("fake0:ROCE:100,fake1:ROCE:100"), 0);
	struct kvx_memory memory = memory_of(10 * MIB + 4096);
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), 0, "%s", kvx_error_text());
	const struct kvx_verbs_memory *known = registered(&memory);
	cr_assert_eq(known->chunks, 3);
	for (uint32_t device = 0; device < 2; device++)
		for (uint32_t chunk = 0; chunk < 3; chunk++) {
			const struct ibv_mr *mr = known->mrs[device * 3 + chunk];
			cr_assert_eq(mr->pd, transport.devices[device].pd);
			cr_assert_eq(mr->addr, memory.address + chunk * 4 * MIB);
			cr_assert_eq(mr->length, chunk < 2 ? 4 * MIB : 2 * MIB + 4096);
		}
	cr_assert_eq(counters_of(NULL).twice, 0);
	kvx_verbs_detach(&transport, &memory);
	munmap(memory.address, memory.bytes);
}

/* The 3rd of 4 registrations fails: those before it are undone. */
Test(memory, a_failed_registration_leaves_nothing_behind)
{
	fake_verbs_set("max_mr_size", 4 * MIB);
	cr_assert_eq(devices_open("fake0:ROCE:100,fake1:ROCE:100"), 0);
	struct kvx_memory memory = memory_of(8 * MIB);
	fake_verbs_set("fail_registration", 3);
	fake_verbs_set("fail_errno", EFAULT);
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), KVX_E_MEMORY);
	cr_assert_str_eq(kvx_error_text(), "fake1: cannot register 8 MiB: Bad address");
	cr_assert_null(registered(&memory));
	cr_assert_eq(counters_of(NULL).mrs, 0);
	munmap(memory.address, memory.bytes);
}

static void limit_locked(rlim_t bytes)
{
	struct rlimit limit;

	cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
	limit.rlim_cur = bytes;
	cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
}

Test(memory, a_locked_memory_limit_is_named)
{
	static const struct {
		int error;
		rlim_t limit;
		const char *text;
	} cases[] = {
		{ENOMEM, 64 << 10,
		 "fake0: cannot register 3 MiB: locked-memory limit is 64 KiB; raise "
		 "RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)"},
		{EAGAIN, 1536 << 10,
		 "fake0: cannot register 3 MiB: locked-memory limit is 1.5 MiB; raise "
		 "RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)"},
		{EPERM, 0,
		 "fake0: cannot register 3 MiB: locked-memory limit is 0 bytes; raise "
		 "RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)"},
		{ENOMEM, 4 << 20,
		 "fake0: cannot register 3 MiB: Cannot allocate memory; locked-memory limit is 4 "
		 "MiB, for all that is locked; raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)"},
		{EIO, 64 << 10, "fake0: cannot register 3 MiB: Input/output error"},
	};
	struct kvx_memory memory = memory_of(3 * MIB);
	struct rlimit limit;

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_max < 4 << 20)
		cr_skip_test("RLIMIT_MEMLOCK is below 4 MiB");
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		limit_locked(cases[i].limit);
		fake_verbs_set("fail_registration", 1);
		fake_verbs_set("fail_errno", (uint64_t)cases[i].error);
		cr_assert_eq(kvx_verbs_attach(&transport, &memory), KVX_E_MEMORY);
		cr_assert_str_eq(kvx_error_text(), cases[i].text);
	}
	munmap(memory.address, memory.bytes);
}

Test(memory, relaxed_ordering_is_dropped_where_it_is_refused)
{
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	struct kvx_memory memory = memory_of(MIB);
	fake_verbs_set("fail_registration", 1);
	fake_verbs_set("fail_errno", EINVAL);
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), 0);
	cr_assert_eq(counters_of("fake0").relaxed, 0);
	kvx_verbs_detach(&transport, &memory);

	devices_option("verbs_relaxed_ordering", "off");
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), 0);
	cr_assert_eq(counters_of("fake0").relaxed, 0);
	cr_assert_eq(counters_of("fake0").registrations, 2);
	kvx_verbs_detach(&transport, &memory);
	munmap(memory.address, memory.bytes);
}

Test(memory, a_dead_device_is_passed_over)
{
	cr_assert_eq(devices_open("fake0:ROCE:100,fake1:ROCE:100"), 0);
	struct kvx_memory memory = memory_of(MIB);
	fake_verbs_device_fatal("fake0");
	devices_run_until(&told.deaths, 1);
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), 0);
	cr_assert_null(registered(&memory)->mrs[0]);
	cr_assert(registered(&memory)->mrs[1]);
	kvx_verbs_detach(&transport, &memory);
	munmap(memory.address, memory.bytes);
}

/* --- dma-buf --- */

/* The fake takes any file for one. The last page of it is not the memory's. */
static struct kvx_memory dmabuf_of(uint64_t bytes, uint64_t offset)
{
	struct kvx_memory memory = memory_of(bytes);

	memory.dmabuf = memfd_create("dmabuf", MFD_CLOEXEC);
	memory.dmabuf_offset = offset;
	cr_assert_geq(memory.dmabuf, 0);
	cr_assert_eq(ftruncate(memory.dmabuf, (off_t)(offset + bytes)), 0);
	return memory;
}

static void free_dmabuf(struct kvx_memory *memory)
{
	close(memory->dmabuf);
	munmap(memory->address, memory->bytes);
}

Test(memory, a_dmabuf_is_registered_by_its_descriptor)
{
	fake_verbs_set("max_mr_size", 4 * MIB);
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	struct kvx_memory memory = dmabuf_of(6 * MIB, 8192);
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), 0, "%s", kvx_error_text());
	cr_assert_eq(registered(&memory)->chunks, 2);
	cr_assert_eq(registered(&memory)->windowless, 0);
	cr_assert_eq(registered(&memory)->mrs[1]->length, 2 * MIB);
	cr_assert_eq(counters_of("fake0").twice, 0);
	cr_assert_eq(fake_verbs_registered("fake0", memory.address, memory.bytes), 0);
	kvx_verbs_detach(&transport, &memory);
	free_dmabuf(&memory);
}

Test(memory, a_device_that_takes_no_dmabuf_is_named)
{
	fake_verbs_set("dmabuf", 0);
	cr_assert_eq(devices_open("fake0:ROCE:100"), 0);
	struct kvx_memory memory = dmabuf_of(MIB, 0);
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), KVX_E_MEMORY);
	cr_assert_str_eq(kvx_error_text(),
			 "fake0: cannot register 1 MiB of a dma-buf: Operation not supported; the "
			 "device does not take dma-buf: use a driver and a kernel that do, or "
			 "leave the device out of verbs_devices");
	free_dmabuf(&memory);
}

/* Linux takes IBV_ACCESS_MW_BIND for host memory, but not in UVERBS_METHOD_REG_DMABUF_MR. */
Test(memory, a_dmabuf_does_without_windows_where_they_are_refused)
{
	cr_assert_eq(devices_open("fake0:ROCE:100,fake1:ROCE:100"), 0);
	struct kvx_memory memory = dmabuf_of(MIB, 0);
	devices_option("verbs_relaxed_ordering", "off");
	fake_verbs_set("fail_registration", 2);
	fake_verbs_set("fail_errno", EINVAL);
	cr_assert_eq(kvx_verbs_attach(&transport, &memory), 0, "%s", kvx_error_text());
	cr_assert_eq(registered(&memory)->windowless, 1u << 1);
	cr_assert(registered(&memory)->mrs[0] && registered(&memory)->mrs[1]);
	kvx_verbs_detach(&transport, &memory);
	free_dmabuf(&memory);
}
