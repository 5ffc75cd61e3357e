/* SPDX-License-Identifier: Apache-2.0 */
/* GPU memory as a kind of memory, and the driver beneath it. Each test is a process of its own, and
 * so begins without CUDA. */
#include "cuda/gpu.h"

#include "base/error.h"
#include "support/sanitized.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES 70000u

static const struct kvx_memory_kind *const cuda = &kvx_memory_cuda;

/* --- whose it is --- */

Test(memory, where_nobody_uses_cuda_all_memory_is_the_hosts)
{
	char byte;

	cr_assert_not(kvx_cuda_is_used());
	cr_assert_eq(kvx_memory_kind_of(&byte), &kvx_memory_host);
	cr_assert_eq(fake_cuda_live(), 0);
}

Test(memory, kind_and_device_are_found_out)
{
	for (uint32_t i = 0; i < 2; i++) {
		char *memory = gpu_alloc(i, BYTES);
		uint32_t device = 77;

		cr_assert_eq(kvx_memory_kind_of(memory), cuda);
		cr_assert_eq(kvx_memory_kind_of(memory + BYTES - 1), cuda);
		expect_ok(cuda->check(memory, BYTES, &device));
		cr_assert_eq(device, i);
		gpu_free(i, memory);
		cr_assert_eq(kvx_memory_kind_of(memory), &kvx_memory_host);
	}
}

Test(memory, the_hosts_memory_stays_the_hosts_when_it_is_pinned)
{
	char *memory =
		mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t device = 77;

	expect_ok(kvx_cuda_enter(0));
	expect_cu(kvx_cuda()->mem_host_register(memory, BYTES, KVX_CU_HOST_REGISTER_PORTABLE));
	kvx_cuda_leave();
	cr_assert_eq(kvx_memory_kind_of(memory), &kvx_memory_host);
	expect_ok(kvx_memory_host.check(memory, BYTES, &device));
	cr_assert_eq(device, KVX_DEVICE_NONE);
	cr_assert(kvx_memory_host.touchable);
	cr_assert_not(cuda->touchable);
}

Test(memory, what_nobody_may_read_is_not_taken_for_the_hosts)
{
	char *memory = mmap(NULL, 3 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t device;

	expect_ok(kvx_memory_host.check(memory, 3 * 4096, &device));
	cr_assert_eq(mprotect(memory + 2 * 4096, 4096, PROT_NONE), 0);
	cr_assert_eq(kvx_memory_host.check(memory, 3 * 4096, &device), KVX_E_INVALID);
	expect_text("cannot read it");
	expect_ok(kvx_memory_host.check(memory, 2 * 4096, &device));
}

/* --- where there is no GPU --- */

Test(memory, without_a_device_all_says_why)
{
	const struct kvx_cuda_device *known;
	char byte;

	fake_cuda_set("absent", 1);
	cr_assert_null(kvx_cuda());
	cr_assert_eq(kvx_cuda_device_count(), 0);
	cr_assert_not_null(strstr(kvx_cuda_why(), "CUDA_ERROR_NO_DEVICE"), "%s", kvx_cuda_why());
	cr_assert_not_null(strstr(kvx_cuda_why(), "CUDA_VISIBLE_DEVICES"), "%s", kvx_cuda_why());
	cr_assert_eq(kvx_cuda_device(0, &known), KVX_E_UNSUPPORTED);
	expect_text("CUDA_ERROR_NO_DEVICE");
	cr_assert_eq(kvx_cuda_enter(0), KVX_E_UNSUPPORTED);
	cr_assert_eq(kvx_memory_kind_of(&byte), &kvx_memory_host);
}

Test(memory, a_device_that_there_is_not_is_refused)
{
	const struct kvx_cuda_device *known;

	cr_assert_eq(kvx_cuda_device_count(), 2);
	cr_assert_eq(kvx_cuda_device(2, &known), KVX_E_INVALID);
	expect_text("there are 2");
}

static void in_a_child(char *memory)
{
	const struct kvx_cuda_device *known;
	uint32_t device;

	cr_assert_null(kvx_cuda());
	cr_assert_not_null(strstr(kvx_cuda_why(), "forked"));
	cr_assert_eq(kvx_cuda_device(0, &known), KVX_E_UNSUPPORTED);
	expect_text("forked");
	cr_assert_eq(cuda->check(memory, BYTES, &device), KVX_E_UNSUPPORTED);
	expect_text("forked");

	const struct kvx_memory_kind *kind = kvx_memory_kind_of(memory);
	cr_assert_eq(kind, &kvx_memory_host);
	cr_assert_eq(kind->check(memory, BYTES, &device), KVX_E_INVALID);
	expect_text("forked");
}

Test(memory, a_forked_process_is_told_that_it_has_no_cuda)
{
	SKIP_FORKS();
	char *memory = gpu_alloc(0, BYTES);
	int status;
	pid_t child = fork();

	if (child == 0) {
		in_a_child(memory);
		/* Not _exit(): a sanitizer would miss the parent's threads here. */
		syscall(SYS_exit_group, 0);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
	gpu_free(0, memory);
}

/* --- ranges --- */

Test(memory, a_range_that_leaves_its_allocation_is_refused)
{
	char *memory = gpu_alloc(0, BYTES);
	uint32_t device = 77;

	cr_assert_eq(cuda->check(memory, (size_t)1 << 30, &device), KVX_E_INVALID);
	expect_text("not mapped memory of a GPU");
	cr_assert_eq(device, 77);
}

Test(memory, mappings_side_by_side_are_one_range)
{
	static const struct gpu_mapping mappings[] = {
		{1, true, true, true}, {1, true, true, true}, {1, true, true, true}};
	char *memory = gpu_map(mappings, 3);
	uint32_t device;

	cr_assert_eq(kvx_memory_kind_of(memory), cuda);
	expect_ok(cuda->check(memory, 3 * GPU_MAPPED_BYTES, &device));
	cr_assert_eq(device, 1);
	expect_ok(cuda->check(memory + 1, 3 * GPU_MAPPED_BYTES - 2, &device));
}

Test(memory, a_hole_between_mappings_is_found)
{
	static const struct gpu_mapping mappings[] = {
		{0, true, true, true}, {0, false, false, false}, {0, true, true, true}};
	char *memory = gpu_map(mappings, 3);
	uint32_t device;

	cr_assert_eq(cuda->check(memory, 3 * GPU_MAPPED_BYTES, &device), KVX_E_INVALID);
	expect_text("from byte 2097152 on it is not mapped memory");
	expect_ok(cuda->check(memory, GPU_MAPPED_BYTES, &device));
	expect_ok(cuda->check(memory + 2 * GPU_MAPPED_BYTES, GPU_MAPPED_BYTES, &device));
}

Test(memory, a_range_on_two_devices_is_refused)
{
	static const struct gpu_mapping mappings[] = {{0, true, true, true}, {1, true, true, true}};
	char *memory = gpu_map(mappings, 2);
	uint32_t device;

	cr_assert_eq(cuda->check(memory, 2 * GPU_MAPPED_BYTES, &device), KVX_E_INVALID);
	expect_text("begins on cuda:0, and from byte 2097152 on it is on cuda:1");
}

Test(memory, a_mapping_that_the_device_may_not_touch_is_refused)
{
	static const struct gpu_mapping mappings[] = {{0, true, true, true},
						      {0, true, false, true}};
	char *memory = gpu_map(mappings, 2);
	uint32_t device;

	if (!kvx_cuda()->mem_get_access)
		cr_skip_test("this driver has no cuMemGetAccess()");
	cr_assert_eq(cuda->check(memory, 2 * GPU_MAPPED_BYTES, &device), KVX_E_INVALID);
	expect_text("cuMemSetAccess()");
}

/* --- dma-buf --- */

/* Exports a range and looks whether its bytes are there. */
static void expect_exported(char *memory, size_t bytes)
{
	uint64_t offset = UINT64_MAX;
	int fd = -1;

	gpu_fill(memory, bytes, 5);
	expect_ok(cuda->export_dmabuf(memory, bytes, &fd, &offset));
	cr_assert_lt(offset, (uint64_t)sysconf(_SC_PAGESIZE));
	/* What stands in for the buffer is a file, and its position is where the buffer begins. */
	char *there = mmap(NULL, offset + bytes, PROT_READ, MAP_SHARED, fd, lseek(fd, 0, SEEK_CUR));
	cr_assert_neq(there, MAP_FAILED);
	gpu_expect(there + offset, bytes, 5);
	munmap(there, offset + bytes);
	close(fd);
}

Test(memory, a_dma_buf_holds_the_range)
{
	char *memory = gpu_alloc(0, 64 * 4096);

	expect_exported(memory, 64 * 4096);
	expect_exported(memory + 3 * 4096, 4096);
	expect_exported(memory + 4096 + 256, 9000);
}

Test(memory, a_dma_buf_is_had_without_the_flag_for_pci_too)
{
	fake_cuda_set("pcie", 0);
	expect_exported(gpu_alloc(1, BYTES), BYTES);
}

static void expect_not_exported(const void *memory, size_t bytes, const char *text)
{
	uint64_t offset = 7;
	int fd = -7;

	cr_assert_eq(cuda->export_dmabuf(memory, bytes, &fd, &offset), KVX_E_UNSUPPORTED);
	expect_text(text);
	cr_assert_eq(fd, -7);
	cr_assert_eq(offset, 7);
}

Test(memory, a_driver_without_dma_bufs_says_what_it_needs)
{
	fake_cuda_set("dmabuf", 0);
	expect_not_exported(gpu_alloc(0, BYTES), BYTES, "open kernel modules");
}

Test(memory, memory_of_a_pool_is_taken_but_not_exported)
{
	struct kvx_cu_stream *stream;
	kvx_cu_ptr address;
	uint32_t device;

	expect_ok(kvx_cuda_enter(0));
	expect_cu(kvx_cuda()->stream_create(&stream, KVX_CU_STREAM_NON_BLOCKING));
	expect_cu(cuMemAllocAsync(&address, BYTES, stream));
	expect_cu(kvx_cuda()->stream_synchronize(stream));
	kvx_cuda_leave();
	const void *memory = (const void *)(uintptr_t)address;
	cr_assert_eq(kvx_memory_kind_of(memory), cuda);
	expect_ok(cuda->check(memory, BYTES, &device));
	expect_not_exported(memory, BYTES, "cudaMallocAsync");
}

Test(memory, mappings_are_exported_if_they_were_made_for_it)
{
	static const struct gpu_mapping capable = {0, true, true, true},
					other = {0, true, true, false};

	expect_exported(gpu_map(&capable, 1), GPU_MAPPED_BYTES);
	expect_not_exported(gpu_map(&other, 1), GPU_MAPPED_BYTES, "gpuDirectRDMACapable");
}

/* --- flushes --- */

Test(memory, nothing_is_flushed_where_the_device_keeps_order)
{
	fake_cuda_set("ordering", KVX_CU_WRITES_ORDERING_OWNER);
	expect_ok(cuda->flush(0));
	cr_assert_eq(fake_cuda_flushes(), 0);
}

Test(memory, what_has_no_order_is_flushed)
{
	fake_cuda_set("ordering", KVX_CU_WRITES_ORDERING_NONE);
	expect_ok(cuda->flush(0));
	expect_ok(cuda->flush(1));
	cr_assert_eq(fake_cuda_flushes(), 2);
}

Test(memory, neither_order_nor_flush_is_an_error)
{
	fake_cuda_set("ordering", KVX_CU_WRITES_ORDERING_NONE);
	fake_cuda_set("flush", 0);
	cr_assert_eq(cuda->flush(0), KVX_E_UNSUPPORTED);
	expect_text("no certain order");
}

/* --- devices --- */

Test(memory, a_device_tells_its_address_as_the_kernel_writes_it)
{
	char pci[KVX_PCI_TEXT_BYTES], model[64];

	expect_ok(cuda->describe(0, pci, model, sizeof(model)));
	cr_assert_str_eq(pci, "0000:3a:00.0");
	cr_assert_gt(strlen(model), 0);
	expect_ok(cuda->describe(1, pci, model, sizeof(model)));
	cr_assert_str_eq(pci, "0000:4a:00.0");
	cr_assert_eq(cuda->describe(2, pci, model, sizeof(model)), KVX_E_INVALID);
}

static void *opener(void *argument)
{
	const struct kvx_cuda_device *known = NULL;

	(void)argument;
	expect_ok(kvx_cuda_device(0, &known));
	return (void *)(uintptr_t)known;
}

Test(memory, a_context_is_retained_once_and_kernels_are_loaded_once)
{
	pthread_t threads[4];
	void *devices[4];

	for (uint32_t i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, opener, NULL), 0);
	for (uint32_t i = 0; i < 4; i++) {
		pthread_join(threads[i], &devices[i]);
		cr_assert_eq(devices[i], devices[0]);
	}
	cr_assert_eq(fake_cuda_live(), 2, "a context and a module, and not %llu",
		     (unsigned long long)fake_cuda_live());
	for (uint32_t i = 0; i < KVX_CUDA_KERNELS; i++)
		cr_assert_not_null(((const struct kvx_cuda_device *)devices[0])->kernels[i]);
}

Test(memory, a_driver_that_takes_no_kernels_has_all_else)
{
	const struct kvx_cuda_device *known;

	fake_cuda_set("kernels", 0);
	expect_ok(kvx_cuda_device(0, &known));
	for (uint32_t i = 0; i < KVX_CUDA_KERNELS; i++)
		cr_assert_null(known->kernels[i]);
}

Test(memory, words_of_streams_are_tried)
{
	const struct kvx_cuda_device *known;

	expect_ok(kvx_cuda_device(0, &known));
	cr_assert(known->has_stream_memory_operations);
	fake_cuda_set("memops", 0);
	expect_ok(kvx_cuda_device(1, &known));
	cr_assert_not(known->has_stream_memory_operations);
	cr_assert_eq(fake_cuda_live(), 4, "two contexts and two modules, and not %llu",
		     (unsigned long long)fake_cuda_live());
}

Test(memory, the_callers_context_stays_current)
{
	const struct kvx_cuda_device *devices[2];
	struct kvx_cu_context *context = (struct kvx_cu_context *)&devices;

	for (uint32_t i = 0; i < 2; i++)
		expect_ok(kvx_cuda_device(i, &devices[i]));
	expect_cu(kvx_cuda()->ctx_get_current(&context));
	cr_assert_null(context);
	expect_ok(kvx_cuda_enter(0));
	expect_ok(kvx_cuda_enter(1));
	expect_cu(kvx_cuda()->ctx_get_current(&context));
	cr_assert_eq(context, devices[1]->context);
	kvx_cuda_leave();
	expect_cu(kvx_cuda()->ctx_get_current(&context));
	cr_assert_eq(context, devices[0]->context);
	kvx_cuda_leave();
	expect_cu(kvx_cuda()->ctx_get_current(&context));
	cr_assert_null(context);
}

Test(memory, captures_are_safe_from_a_thread_only_while_it_is_inside)
{
	enum kvx_cu_capture_mode mode = KVX_CU_CAPTURE_THREAD_LOCAL;

	expect_ok(kvx_cuda_enter(0));
	expect_ok(kvx_cuda_enter(0));
	kvx_cuda_leave();
	expect_cu(kvx_cuda()->thread_exchange_capture_mode(&mode));
	cr_assert_eq(mode, KVX_CU_CAPTURE_RELAXED);
	expect_cu(kvx_cuda()->thread_exchange_capture_mode(&mode));
	kvx_cuda_leave();
	expect_cu(kvx_cuda()->thread_exchange_capture_mode(&mode));
	cr_assert_eq(mode, KVX_CU_CAPTURE_GLOBAL);
}

Test(memory, an_error_has_its_name_and_what_to_change)
{
	cr_assert_not_null(kvx_cuda());
	cr_assert_eq(kvx_cuda_fail(KVX_E_MEMORY, KVX_CU_ERROR_OUT_OF_MEMORY, "cuda:%u: no %s", 3u,
				   "room"),
		     KVX_E_MEMORY);
	expect_text("cuda:3: no room: CUDA_ERROR_OUT_OF_MEMORY 2 (");
	expect_text("make the pools smaller");
}

/* --- copies that are waited for --- */

Test(memory, any_memory_of_the_host_is_copied_from_and_to)
{
	char *memory = gpu_alloc(1, BYTES), *host = malloc(BYTES), *back = calloc(1, BYTES);
	const struct kvx_copy there[] = {{memory, host, 1000},
					 {memory + 1000, host + 1000, BYTES - 1000}},
			      here = {back + 1, memory + 1, BYTES - 1};

	gpu_fill(host, BYTES, 9);
	expect_ok(cuda->transfer(1, there, 2));
	gpu_expect(memory, BYTES, 9);
	expect_ok(cuda->transfer(1, &here, 1));
	cr_assert_eq(back[0], 0);
	cr_assert_arr_eq(back + 1, host + 1, BYTES - 1);
	free(host);
	free(back);
}

Test(memory, a_copy_that_fails_is_explained)
{
	char *memory = gpu_alloc(0, BYTES), byte = 0;
	const struct kvx_copy copy = {memory, &byte, 1};

	fake_cuda_set("fail_after", 1);
	cr_assert_eq(cuda->transfer(0, &copy, 1), KVX_E_TRANSPORT);
	expect_text("CUDA_ERROR_ILLEGAL_ADDRESS");
	expect_text("restart the process");
}
