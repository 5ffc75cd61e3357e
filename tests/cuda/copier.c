/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of copies of a GPU: each way to copy, its order, its ends and its failures. */
#include "cuda/copier.h"
#include "cuda/gpu.h"

#include "base/clock.h"
#include "base/error.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define AREA_BYTES (4u << 20)
#define DEADLINE_NS (20 * KVX_NS_PER_S)

TestSuite(copier, .timeout = 120);

/* A copier with memory at both ends of it; of device 1, so that no 0 stands in for it by chance. */
static struct kvx_copier *copier;
static char *there, *here;

static void set_up(void)
{
	there = gpu_alloc(1, AREA_BYTES);
	here = mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(here, MAP_FAILED);
	expect_ok(kvx_memory_cuda.open(1, &copier));
	expect_ok(kvx_memory_cuda.pin(copier, here, AREA_BYTES));
}

static void tear_down(void)
{
	kvx_memory_cuda.unpin(copier, here);
	kvx_memory_cuda.close(copier);
	munmap(here, AREA_BYTES);
	gpu_free(1, there);
}

static uint64_t copied(void)
{
	uint64_t number = 0;

	expect_ok(kvx_memory_cuda.copied(copier, &number));
	return number;
}

static void finish(uint64_t number)
{
	int64_t deadline = kvx_now_ns() + DEADLINE_NS;

	while (copied() < number)
		cr_assert_lt(kvx_now_ns(), deadline);
}

static uint64_t copy(const struct kvx_copy *copies, uint32_t count)
{
	uint64_t number = 0;

	expect_ok(kvx_memory_cuda.copy(copier, copies, count, &number));
	return number;
}

/* Pieces of `bytes` each, that are scattered on one side and packed on the other. */
struct shape {
	uint32_t count, bytes, stride, shift; /* shift: of the scattered ones' first byte */
};

/* Copies packed pieces of the host to scattered ones of the device, and looks at every byte. */
static void expect_scattered(const struct shape *shape)
{
	struct kvx_copy copies[KVX_COPIES_MAX];

	gpu_fill(here, AREA_BYTES, 1);
	gpu_fill(there, AREA_BYTES, 2);
	for (uint32_t i = 0; i < shape->count; i++)
		copies[i] = (struct kvx_copy){there + shape->shift + i * shape->stride,
					      here + i * shape->bytes, shape->bytes};
	finish(copy(copies, shape->count));

	char *expected =
		mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	gpu_fill(expected, AREA_BYTES, 2);
	for (uint32_t i = 0; i < shape->count; i++)
		memcpy(expected + shape->shift + i * shape->stride, here + i * shape->bytes,
		       shape->bytes);
	cr_assert_arr_eq((char *)fake_cuda_view(there), expected, AREA_BYTES);
	munmap(expected, AREA_BYTES);
}

/* And back: scattered pieces of the device to packed ones of the host. */
static void expect_gathered(const struct shape *shape)
{
	struct kvx_copy copies[KVX_COPIES_MAX];
	size_t packed = (size_t)shape->count * shape->bytes;
	const char *view = fake_cuda_view(there);

	gpu_fill(here, AREA_BYTES, 3);
	gpu_fill(there, AREA_BYTES, 4);
	for (uint32_t i = 0; i < shape->count; i++)
		copies[i] =
			(struct kvx_copy){here + i * shape->bytes,
					  there + shape->shift + i * shape->stride, shape->bytes};
	finish(copy(copies, shape->count));
	for (uint32_t i = 0; i < shape->count; i++)
		cr_assert_arr_eq(here + i * shape->bytes, view + shape->shift + i * shape->stride,
				 shape->bytes);

	char *rest =
		mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	gpu_fill(rest, AREA_BYTES, 3);
	cr_assert_arr_eq(here + packed, rest + packed, AREA_BYTES - packed);
	munmap(rest, AREA_BYTES);
}

static void expect_both_ways(uint32_t count, uint32_t bytes, uint32_t shift)
{
	const struct shape shape = {count, bytes, bytes + 4096, shift};

	expect_scattered(&shape);
	expect_gathered(&shape);
}

static void expect_ways(uint64_t single, uint64_t batched, uint64_t gathered, uint64_t looped)
{
	const struct kvx_cuda_ways *ways = kvx_cuda_copier_ways(copier);

	cr_assert_eq(ways->single, single, "single: %llu", (unsigned long long)ways->single);
	cr_assert_eq(ways->batched, batched, "batched: %llu", (unsigned long long)ways->batched);
	cr_assert_eq(ways->gathered, gathered, "gathered: %llu",
		     (unsigned long long)ways->gathered);
	cr_assert_eq(ways->looped, looped, "looped: %llu", (unsigned long long)ways->looped);
}

/* --- the ways --- */

Test(copier, one_piece_is_one_copy)
{
	set_up();
	expect_both_ways(1, 1u << 20, 0);
	expect_both_ways(1, 1, 4095);
	expect_ways(4, 0, 0, 0);
	tear_down();
}

Test(copier, several_pieces_are_one_batch)
{
	set_up();
	expect_both_ways(2, 4096, 0);
	expect_both_ways(8, 512, 0);
	expect_both_ways(64, 16384, 0);
	expect_ways(0, 6, 0, 0);
	tear_down();
}

Test(copier, many_tiny_pieces_are_one_kernel)
{
	set_up();
	uint64_t launches = fake_cuda_launches();
	expect_both_ways(9, 16, 0);
	expect_both_ways(64, 16368, 16);
	expect_both_ways(256, 2048, 0);
	expect_ways(0, 0, 6, 0);
	cr_assert_eq(fake_cuda_launches(), launches + 6);
	tear_down();
}

Test(copier, tiny_pieces_with_unaligned_ends_are_a_batch)
{
	set_up();
	expect_both_ways(100, 1024, 8);
	expect_both_ways(100, 1023, 0);
	expect_ways(0, 4, 0, 0);
	tear_down();
}

Test(copier, without_batches_each_piece_is_a_copy)
{
	fake_cuda_set("batch", 0);
	set_up();
	expect_both_ways(64, 16384, 0);
	expect_both_ways(17, 1000, 3);
	expect_both_ways(100, 1024, 0);
	expect_ways(0, 0, 2, 4);
	tear_down();
}

Test(copier, where_batches_are_refused_each_piece_is_a_copy)
{
	fake_cuda_set("batch", 2);
	set_up();
	expect_both_ways(64, 16384, 0);
	expect_ways(0, 0, 0, 2);
	tear_down();
}

Test(copier, without_kernels_tiny_pieces_are_a_batch)
{
	fake_cuda_set("kernels", 0);
	set_up();
	expect_both_ways(100, 1024, 0);
	expect_ways(0, 2, 0, 0);
	tear_down();
}

Test(copier, without_either_each_piece_is_a_copy)
{
	fake_cuda_set("kernels", 0);
	fake_cuda_set("batch", 0);
	set_up();
	uint64_t copies = fake_cuda_copies();
	expect_both_ways(256, 1024, 0);
	expect_ways(0, 0, 0, 2);
	cr_assert_eq(fake_cuda_copies(), copies + 512);
	tear_down();
}

Test(copier, mappings_side_by_side_are_copied_across_their_seam)
{
	static const struct gpu_mapping mappings[] = {{1, true, true, true}, {1, true, true, true}};
	char *memory = gpu_map(mappings, 2) + GPU_MAPPED_BYTES - 3000;
	struct kvx_copy in, out;

	set_up();
	in = (struct kvx_copy){memory, here, 6000};
	out = (struct kvx_copy){here + 8192, memory, 6000};
	gpu_fill(here, 6000, 8);
	copy(&in, 1);
	finish(copy(&out, 1));
	gpu_expect(here + 8192, 6000, 8);
	tear_down();
}

Test(copier, a_call_has_1_to_256_pieces)
{
	struct kvx_copy copies[KVX_COPIES_MAX + 1] = {0};
	uint64_t number = 77;

	set_up();
	cr_assert_eq(kvx_memory_cuda.copy(copier, copies, 0, &number), KVX_E_INVALID);
	cr_assert_eq(kvx_memory_cuda.copy(copier, copies, KVX_COPIES_MAX + 1, &number),
		     KVX_E_INVALID);
	expect_text("give 1 to 256");
	cr_assert_eq(number, 77);
	cr_assert_eq(copy(&(struct kvx_copy){there, here, 64}, 1), 1);
	finish(1);
	tear_down();
}

/* --- order and ends --- */

/* The same memory goes from here to there, from there to here, ..., by all ways. */
Test(copier, calls_are_carried_out_in_their_order)
{
	static const uint32_t counts[] = {1, 64, 4, 256, 2};
	struct kvx_copy copies[KVX_COPIES_MAX];
	const uint32_t bytes = 65536, rounds = 15;
	uint64_t number = 0;

	fake_cuda_set("delay_us", 200);
	set_up();
	gpu_fill(here, bytes, 6);
	for (uint32_t i = 0; i < rounds; i++) {
		uint32_t count = counts[i % 5], part = bytes / count;
		char *host = here + (i + 1) / 2 * bytes, *device = there + i / 2 * bytes;

		for (uint32_t k = 0; k < count; k++)
			copies[k] =
				i % 2 ? (struct kvx_copy){host + k * part, device + k * part, part}
				      : (struct kvx_copy){device + k * part, host + k * part, part};
		number = copy(copies, count);
		cr_assert_eq(number, i + 1);
		/* The array was copied. */
		memset(copies, 0xff, sizeof(copies));
	}
	finish(number);
	gpu_expect(there + rounds / 2 * bytes, bytes, 6);
	tear_down();
}

Test(copier, nobody_waits_for_the_device)
{
	struct kvx_copy one;

	set_up();
	fake_cuda_set("delay_us", 300000);
	one = (struct kvx_copy){there, here, 65536};
	gpu_fill(here, 65536, 3);
	int64_t start = kvx_now_ns();
	uint64_t first = copy(&one, 1), second = copy(&one, 1);
	cr_assert_eq(copied(), 0);
	cr_assert_lt(kvx_now_ns() - start, 250 * KVX_NS_PER_MS);
	finish(first);
	gpu_expect(there, 65536, 3);
	cr_assert_eq(copied(), first);
	finish(second);
	cr_assert_geq(kvx_now_ns() - start, 600 * KVX_NS_PER_MS);
	tear_down();
}

Test(copier, more_calls_than_marks_are_known_to_be_done_in_the_end)
{
	struct kvx_copy one;
	const uint64_t calls = 1000;
	uint64_t number = 0, seen = 0;

	set_up();
	fake_cuda_set("delay_us", 100);
	for (uint64_t i = 0; i < calls; i++) {
		one = (struct kvx_copy){there + i * 64, here + i * 64, 64};
		gpu_fill(here + i * 64, 64, (uint32_t)i);
		number = copy(&one, 1);
		cr_assert_eq(number, i + 1);
	}
	while (seen < number) {
		uint64_t now = copied();

		cr_assert(now >= seen && now <= number);
		/* What is called done is there. */
		if (now > seen)
			gpu_expect(there + (now - 1) * 64, 64, (uint32_t)now - 1);
		seen = now;
	}
	tear_down();
}

Test(copier, lists_that_kernels_read_are_not_written)
{
	struct kvx_copy copies[16];
	uint64_t number = 0;

	set_up();
	fake_cuda_set("delay_us", 200);
	for (uint32_t i = 0; i < 100; i++) {
		for (uint32_t k = 0; k < 16; k++) {
			size_t place = (i * 16 + k) * 64;

			copies[k] = (struct kvx_copy){there + place, here + place, 64};
			gpu_fill(here + place, 64, i * 16 + k);
		}
		number = copy(copies, 16);
	}
	const struct kvx_cuda_ways *ways = kvx_cuda_copier_ways(copier);
	cr_assert_eq(ways->gathered + ways->batched, 100);
	cr_assert_geq(ways->gathered, 32);
	cr_assert_gt(ways->batched, 0);
	finish(number);
	for (uint32_t i = 0; i < 1600; i++)
		gpu_expect(there + i * 64, 64, i);
	tear_down();
}

Test(copier, closing_waits_for_what_is_under_way)
{
	struct kvx_copy one;

	set_up();
	fake_cuda_set("delay_us", 100000);
	one = (struct kvx_copy){there, here, 4096};
	gpu_fill(here, 4096, 1);
	gpu_fill(there, 4096, 2);
	copy(&one, 1);
	kvx_memory_cuda.close(copier);
	gpu_expect(there, 4096, 1);
}

/* --- what the caller does meanwhile --- */

struct capturing {
	struct kvx_cu_stream *stream;
	_Atomic bool begun, stop;
	enum kvx_cu_result result;
};

static void *capture(void *argument)
{
	struct capturing *capturing = argument;
	struct kvx_cu_graph *graph = NULL;
	const struct kvx_cuda_device *device;

	expect_ok(kvx_cuda_device(1, &device));
	expect_cu(kvx_cuda()->ctx_push_current(device->context));
	expect_cu(kvx_cuda()->stream_create(&capturing->stream, KVX_CU_STREAM_NON_BLOCKING));
	expect_cu(cuStreamBeginCapture_v2(capturing->stream, KVX_CU_CAPTURE_GLOBAL));
	capturing->begun = true;
	while (!capturing->stop)
		sched_yield();
	capturing->result = cuStreamEndCapture(capturing->stream, &graph);
	if (capturing->result == KVX_CU_SUCCESS)
		expect_cu(cuGraphDestroy(graph));
	expect_cu(kvx_cuda()->stream_destroy(capturing->stream));
	return NULL;
}

Test(copier, a_capture_of_the_callers_is_not_spoilt)
{
	struct capturing capturing = {0};
	pthread_t thread;

	set_up();
	cr_assert_eq(pthread_create(&thread, NULL, capture, &capturing), 0);
	while (!capturing.begun)
		sched_yield();
	expect_both_ways(1, 4096, 0);
	expect_both_ways(64, 16384, 0);
	expect_both_ways(100, 1024, 0);
	tear_down();
	capturing.stop = true;
	pthread_join(thread, NULL);
	expect_cu(capturing.result);
}

/* --- failures --- */

Test(copier, a_failure_is_explained_and_stays)
{
	struct kvx_copy one;
	uint64_t number = 77;
	int error = 0;

	set_up();
	fake_cuda_set("fail_after", 3);
	one = (struct kvx_copy){there, here, 4096};
	int64_t deadline = kvx_now_ns() + DEADLINE_NS;
	while (!error && kvx_now_ns() < deadline) {
		error = kvx_memory_cuda.copy(copier, &one, 1, &number);
		if (!error)
			error = kvx_memory_cuda.copied(copier, &number);
	}
	cr_assert_eq(error, KVX_E_TRANSPORT);
	expect_text("cuda:1: ");
	expect_text("CUDA_ERROR_ILLEGAL_ADDRESS");

	char text[KVX_ERROR_TEXT_MAX + 1];
	snprintf(text, sizeof(text), "%s", kvx_error_text());
	number = 77;
	cr_assert_eq(kvx_memory_cuda.copied(copier, &number), KVX_E_TRANSPORT);
	cr_assert_str_eq(kvx_error_text(), text);
	(void)kvx_fail(KVX_E_INVALID, "another");
	cr_assert_eq(kvx_memory_cuda.copy(copier, &one, 1, &number), KVX_E_TRANSPORT);
	cr_assert_str_eq(kvx_error_text(), text);
	cr_assert_eq(number, 77);
	kvx_memory_cuda.close(copier);
}

Test(copier, memory_that_cannot_be_pinned_is_an_error)
{
	struct kvx_copier *opened;

	fake_cuda_set("pin", 0);
	expect_ok(kvx_memory_cuda.open(0, &opened));
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_eq(kvx_memory_cuda.pin(opened, memory, 4096), KVX_E_MEMORY);
	expect_text("cannot pin 4096 bytes");
	kvx_memory_cuda.close(opened);
}

Test(copier, a_device_that_there_is_not_has_no_copier)
{
	struct kvx_copier *opened = NULL;

	cr_assert_eq(kvx_memory_cuda.open(2, &opened), KVX_E_INVALID);
	cr_assert_null(opened);
}

/* --- leaks --- */

Test(copier, what_was_opened_is_given_back)
{
	set_up();
	tear_down();
	/* The device's context and the kernels stay. */
	uint64_t live = fake_cuda_live();
	for (uint32_t i = 0; i < 20; i++) {
		set_up();
		expect_both_ways(100, 1024, 0);
		tear_down();
	}
	cr_assert_eq(fake_cuda_live(), live);
}

Test(copier, a_million_tiny_copies_leave_nothing)
{
	struct kvx_copy copies[250];
	uint64_t number = 0;

	set_up();
	uint64_t live = fake_cuda_live(), before = fake_cuda_copies();
	for (uint32_t i = 0; i < 250; i++)
		copies[i] = (struct kvx_copy){there + i * 64, here + i * 32, 32};
	for (uint32_t i = 0; i < 4000; i++) {
		number = copy(copies, 250);
		while (number - copied() > 64)
			sched_yield();
	}
	finish(number);
	cr_assert_eq(fake_cuda_copies() - before, 1000000);
	cr_assert_eq(fake_cuda_live(), live);
	tear_down();
}
