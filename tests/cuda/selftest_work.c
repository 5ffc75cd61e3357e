/* SPDX-License-Identifier: Apache-2.0 */
/* The fake driver: streams, events, graphs, kernels, and how they fail. */
#include "cuda/device.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES 65536u
#define DELAY_US 20000u
#define PTX ".version 7.0\n.entry kvx_signal .entry kvx_wait .entry kvx_gather"

TestSuite(fake_cuda_work, .init = device_open, .fini = device_close, .timeout = 60);

/* What each test uses. */
struct bench {
	struct kvx_cu_stream *stream, *other;
	struct kvx_cu_event *event;
	kvx_cu_ptr memory;
	uint32_t *host;
};

static void bench_open(struct bench *bench)
{
	bench->stream = stream_new();
	bench->other = stream_new();
	expect_cu(cuEventCreate(&bench->event, 0));
	bench->memory = device_new(BYTES);
	bench->host = host_new(BYTES);
}

static void bench_close(struct bench *bench)
{
	fake_cuda_set("delay_us", 0);
	expect_cu(cuStreamDestroy_v2(bench->stream));
	expect_cu(cuStreamDestroy_v2(bench->other));
	expect_cu(cuEventDestroy_v2(bench->event));
	expect_cu(cuMemFree_v2(bench->memory));
	expect_cu(cuMemFreeHost(bench->host));
}

/* --- streams and events --- */

Test(fake_cuda_work, copies_are_done_later_and_in_order)
{
	struct bench bench;
	uint64_t before = fake_cuda_copies();

	bench_open(&bench);
	fake_cuda_set("delay_us", DELAY_US);
	bench.host[0] = 1;
	expect_cu(cuMemcpyAsync(bench.memory, address_of(bench.host), 4, bench.stream));
	expect_cu(cuMemcpyAsync(address_of(bench.host + 1), bench.memory, 4, bench.stream));
	expect_cu(cuMemcpyAsync(bench.memory + 4, address_of(bench.host + 1), 4, bench.stream));
	cr_assert_eq(*view(bench.memory), 0);
	expect_cu_error(cuStreamQuery(bench.stream), NOT_READY);
	expect_cu(cuStreamSynchronize(bench.stream));
	expect_cu(cuStreamQuery(bench.stream));
	cr_assert_eq(bench.host[1], 1);
	cr_assert_eq(view(bench.memory)[1], 1);
	cr_assert_eq(fake_cuda_copies(), before + 3);
	bench_close(&bench);
}

Test(fake_cuda_work, a_batch_is_copied_in_one_call)
{
	enum kvx_cu_result (*batch)(kvx_cu_ptr *, kvx_cu_ptr *, size_t *, size_t,
				    struct kvx_cu_copy_attributes *, size_t *, size_t, size_t *,
				    struct kvx_cu_stream *);
	struct kvx_cu_copy_attributes attributes = {.source_order = KVX_CU_COPY_SOURCE_STREAM};
	kvx_cu_ptr to[64], from[64];
	size_t bytes[64], first = 0, failed;
	struct bench bench;

	bench_open(&bench);
	expect_cu(cuGetProcAddress_v2("cuMemcpyBatchAsync", (void **)&batch, 12080, 0, NULL));
	for (uint32_t i = 0; i < 64; i++) {
		bench.host[i] = i + 1;
		to[i] = bench.memory + (kvx_cu_ptr)(63 - i) * 4;
		from[i] = address_of(bench.host + i);
		bytes[i] = 4;
	}
	expect_cu(batch(to, from, bytes, 64, &attributes, &first, 1, &failed, bench.stream));
	expect_cu_error(batch(to, from, bytes, 64, &attributes, &first, 1, &failed, NULL),
			INVALID_VALUE);
	fake_cuda_set("batch", 2);
	expect_cu_error(batch(to, from, bytes, 64, &attributes, &first, 1, &failed, bench.stream),
			NOT_SUPPORTED);
	expect_cu(cuStreamSynchronize(bench.stream));
	for (uint32_t i = 0; i < 64; i++)
		cr_assert_eq(view(bench.memory)[i], 64 - i);
	bench_close(&bench);
}

Test(fake_cuda_work, a_stream_waits_for_another_by_an_event)
{
	struct bench bench;
	float ms;
	struct kvx_cu_event *end;

	bench_open(&bench);
	expect_cu(cuEventCreate(&end, 0));
	fake_cuda_set("delay_us", DELAY_US);
	expect_cu(cuEventQuery(bench.event)); /* nothing was recorded */
	expect_cu(cuEventRecord(bench.event, bench.other));
	expect_cu(cuMemsetD8Async(bench.memory, 0x11, 4, bench.stream));
	bench.host[0] = 9;
	expect_cu(cuMemcpyAsync(bench.memory, address_of(bench.host), 4, bench.stream));
	expect_cu(cuEventRecord(end, bench.stream));
	expect_cu(cuStreamWaitEvent(bench.other, end, 0));
	expect_cu(cuMemcpyAsync(address_of(bench.host + 1), bench.memory, 4, bench.other));
	expect_cu_error(cuEventQuery(end), NOT_READY);
	expect_cu(cuEventSynchronize(end));
	cr_assert_eq(*view(bench.memory), 9);
	expect_cu(cuStreamSynchronize(bench.other));
	cr_assert_eq(bench.host[1], 9);
	expect_cu(cuEventElapsedTime(&ms, bench.event, end));
	cr_assert_geq(ms, 0.5f * DELAY_US / 1000);
	expect_cu(cuEventDestroy_v2(end));
	bench_close(&bench);
}

Test(fake_cuda_work, what_a_destroyed_stream_was_given_is_still_done)
{
	struct kvx_cu_stream *stream = stream_new();
	struct bench bench;

	bench_open(&bench);
	fake_cuda_set("delay_us", DELAY_US);
	bench.host[0] = 3;
	expect_cu(cuMemcpyAsync(bench.memory, address_of(bench.host), 4, stream));
	expect_cu(cuStreamDestroy_v2(stream));
	expect_cu_error(cuStreamQuery(stream), INVALID_HANDLE);
	expect_cu(cuCtxSynchronize());
	cr_assert_eq(*view(bench.memory), 3);
	bench_close(&bench);
}

static void copy_from_stack(void *context)
{
	kvx_cu_ptr memory = *(kvx_cu_ptr *)context;
	uint32_t word = 1;

	close(STDERR_FILENO);
	cuMemcpyAsync(memory, address_of(&word), 4, NULL);
}

Test(fake_cuda_work, an_asynchronous_copy_of_memory_not_pinned_ends_the_program)
{
	struct kvx_cu_stream *standard = NULL;
	kvx_cu_ptr memory = device_new(BYTES);

	/* The default stream's thread is there before the program is copied. */
	expect_cu(cuStreamSynchronize(standard));
	cr_assert_eq(signal_of(copy_from_stack, &memory), SIGABRT);
	expect_cu(cuMemFree_v2(memory));
}

/* After what the library does at the end, and before a sanitizer, which does not know that this
 * process was forked, looks for leaks. */
static void leave(void)
{
	_exit(0);
}

/* As a program that never releases its contexts. The library's threads end with it, whatever they
 * wait for. */
static void exit_with_work(void *context)
{
	struct kvx_cu_context *own;

	(void)context;
	cr_assert_eq(atexit(leave), 0);
	expect_cu(cuInit(0));
	expect_cu(cuDevicePrimaryCtxRetain(&own, 1));
	expect_cu(cuCtxPushCurrent_v2(own));
	expect_cu(cuStreamWaitValue32_v2(stream_new(), address_of(host_new(BYTES)), 1, 0));
	expect_cu(cuStreamDestroy_v2(stream_new()));
	exit(1);
}

Test(fake_cuda_end, a_program_may_end_with_work_on_its_way, .timeout = 60)
{
	cr_assert_eq(signal_of(exit_with_work, NULL), 0);
}

/* --- words --- */

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void expect_word(const uint32_t *word, uint32_t value)
{
	while (load(word) != value)
		usleep(100);
}

Test(fake_cuda_work, a_stream_waits_for_a_word_and_writes_one)
{
	struct bench bench;

	bench_open(&bench);
	expect_cu(cuStreamWaitValue32_v2(bench.stream, address_of(bench.host), 5,
					 KVX_CU_WAIT_VALUE_GEQ));
	expect_cu(cuStreamWriteValue32_v2(bench.stream, address_of(bench.host + 1), 6, 0));
	__atomic_store_n(bench.host, 4, __ATOMIC_RELEASE);
	usleep(DELAY_US);
	expect_cu_error(cuStreamQuery(bench.stream), NOT_READY);
	cr_assert_eq(load(bench.host + 1), 0);
	__atomic_store_n(bench.host, 7, __ATOMIC_RELEASE);
	expect_word(bench.host + 1, 6);
	expect_cu_error(cuStreamWriteValue32_v2(bench.stream, address_of(&bench), 1, 0),
			INVALID_VALUE);
	expect_cu(cuStreamSynchronize(bench.stream));
	bench_close(&bench);
}

/* --- kernels --- */

Test(fake_cuda_work, kernels_are_known_by_their_names)
{
	struct {
		uint64_t to, from, bytes;
	} * copies;
	struct kvx_cu_function *function;
	struct kvx_cu_module *own, *module;
	struct bench bench;
	uint64_t launches = fake_cuda_launches(), words = 8;
	uint32_t value = 100, count = 2;
	kvx_cu_ptr word, list;

	bench_open(&bench);
	expect_cu(cuModuleLoadData(&own, FAKE_CUDA_MODULE));
	expect_cu(cuModuleLoadData(&module, PTX));
	expect_cu_error(cuModuleGetFunction(&function, module, FAKE_CUDA_FILL), NOT_FOUND);
	expect_cu_error(cuModuleLoadData(&(struct kvx_cu_module *){0}, "x"), INVALID_IMAGE);
	copies = (void *)(bench.host + 1024);
	word = address_of(bench.host);
	list = address_of(copies);
	copies[0].to = address_of(bench.host + 8);
	copies[0].from = bench.memory + 4;
	copies[0].bytes = 8;
	copies[1].to = bench.memory;
	copies[1].from = bench.memory + 28;
	copies[1].bytes = 4;
	expect_cu(kernel_launch(kernel_find(own, FAKE_CUDA_FILL), bench.stream,
				(void *[]){&bench.memory, &value, &words}));
	expect_cu(kernel_launch(kernel_find(module, "kvx_gather"), bench.stream,
				(void *[]){&list, &count}));
	expect_cu(
		kernel_launch(kernel_find(module, "kvx_signal"), bench.stream, (void *[]){&word}));
	value = 1;
	expect_cu(kernel_launch(kernel_find(module, "kvx_wait"), bench.other,
				(void *[]){&word, &value}));
	expect_word(bench.host, 1);
	cr_assert_eq(bench.host[8], 101);
	cr_assert_eq(bench.host[9], 102);
	cr_assert_eq(*view(bench.memory), 107);
	expect_cu(cuStreamSynchronize(bench.other));
	cr_assert_eq(fake_cuda_launches(), launches + 4);
	expect_cu(cuModuleUnload(own));
	expect_cu(cuModuleUnload(module));
	bench_close(&bench);
}

/* --- graphs --- */

static struct kvx_cu_graph_exec *instantiate(struct kvx_cu_graph *graph)
{
	struct kvx_cu_graph_exec *exec;

	expect_cu(cuGraphInstantiateWithFlags(&exec, graph, 0));
	expect_cu(cuGraphDestroy(graph));
	return exec;
}

/* The other stream takes part by an event. */
Test(fake_cuda_work, a_graph_does_anew_what_was_captured)
{
	struct kvx_cu_graph_exec *exec;
	struct kvx_cu_function *signal;
	struct kvx_cu_module *module;
	struct kvx_cu_graph *graph;
	enum kvx_cu_capture_status status;
	struct bench bench;
	kvx_cu_ptr word;

	bench_open(&bench);
	word = address_of(bench.host);
	expect_cu(cuModuleLoadData(&module, PTX));
	signal = kernel_find(module, "kvx_signal");
	expect_cu(cuStreamBeginCapture_v2(bench.stream, KVX_CU_CAPTURE_GLOBAL));
	expect_cu(cuMemcpyAsync(bench.memory, address_of(bench.host + 1), 4, bench.stream));
	expect_cu(cuEventRecord(bench.event, bench.stream));
	expect_cu(cuStreamWaitEvent(bench.other, bench.event, 0));
	expect_cu(kernel_launch(signal, bench.other, (void *[]){&word}));
	expect_cu(cuStreamIsCapturing(bench.other, &status));
	cr_assert_eq(status, KVX_CU_CAPTURE_ACTIVE);
	expect_cu(cuStreamEndCapture(bench.stream, &graph));
	expect_cu(cuStreamIsCapturing(bench.other, &status));
	cr_assert_eq(status, KVX_CU_CAPTURE_NONE);
	exec = instantiate(graph);
	usleep(DELAY_US);
	cr_assert_eq(load(bench.host), 0);
	for (uint32_t i = 1; i <= 3; i++) {
		bench.host[1] = i * 10;
		expect_cu(cuGraphLaunch(exec, bench.stream));
		expect_word(bench.host, i);
		cr_assert_eq(*view(bench.memory), i * 10);
	}
	expect_cu(cuGraphExecDestroy(exec));
	expect_cu(cuModuleUnload(module));
	bench_close(&bench);
}

static void *query(void *context)
{
	struct bench *bench = context;
	struct kvx_cu_context *own;

	expect_cu(cuStreamGetCtx(bench->stream, &own));
	expect_cu(cuCtxPushCurrent_v2(own));
	expect_cu_error(cuEventQuery(bench->event), STREAM_CAPTURE_UNSUPPORTED);
	return NULL;
}

static void *query_relaxed(void *context)
{
	struct bench *bench = context;
	enum kvx_cu_capture_mode mode = KVX_CU_CAPTURE_RELAXED;
	struct kvx_cu_context *own;

	expect_cu(cuThreadExchangeStreamCaptureMode(&mode));
	cr_assert_eq(mode, KVX_CU_CAPTURE_GLOBAL);
	expect_cu(cuStreamGetCtx(bench->stream, &own));
	expect_cu(cuCtxPushCurrent_v2(own));
	expect_cu(cuEventQuery(bench->event));
	return NULL;
}

static void in_thread(void *(*act)(void *), struct bench *bench)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, act, bench), 0);
	cr_assert_eq(pthread_join(thread, NULL), 0);
}

Test(fake_cuda_work, a_query_breaks_captures_of_others_unless_its_thread_is_relaxed)
{
	struct kvx_cu_graph *graph;
	struct bench bench;

	bench_open(&bench);
	expect_cu(cuStreamBeginCapture_v2(bench.stream, KVX_CU_CAPTURE_GLOBAL));
	in_thread(query_relaxed, &bench);
	expect_cu(cuMemsetD8Async(bench.memory, 1, 4, bench.stream));
	in_thread(query, &bench);
	expect_cu_error(cuMemsetD8Async(bench.memory, 1, 4, bench.stream),
			STREAM_CAPTURE_INVALIDATED);
	expect_cu_error(cuStreamEndCapture(bench.stream, &graph), STREAM_CAPTURE_INVALIDATED);
	cr_assert_null(graph);
	expect_cu(cuMemsetD8Async(bench.memory, 1, 4, bench.stream));
	expect_cu(cuStreamSynchronize(bench.stream)); /* before its memory goes */
	bench_close(&bench);
}

/* --- failures --- */

Test(fake_cuda_work, after_the_copy_that_fails_all_of_the_context_does)
{
	struct kvx_cu_context *context;
	struct kvx_cu_stream *stream;
	kvx_cu_ptr memory;
	uint32_t *host;

	expect_cu(cuDevicePrimaryCtxRetain(&context, 1));
	expect_cu(cuCtxPushCurrent_v2(context));
	stream = stream_new();
	memory = device_new(BYTES);
	host = host_new(BYTES);
	fake_cuda_set("fail_after", 2);
	expect_cu(cuMemsetD8Async(memory, 1, 4, stream));
	expect_cu(cuMemcpyAsync(address_of(host), memory, 4, stream));
	expect_cu(cuMemcpyAsync(address_of(host + 1), memory, 4, stream));
	expect_cu_error(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
	cr_assert(host[0] == 0x01010101 && host[1] == 0);
	expect_cu_error(cuMemAlloc_v2(&memory, BYTES), ILLEGAL_ADDRESS);
	expect_cu(cuCtxPopCurrent_v2(NULL));
	expect_cu(cuDevicePrimaryCtxRelease_v2(1));
	expect_cu(cuDevicePrimaryCtxRetain(&context, 1));
	expect_cu(cuCtxPushCurrent_v2(context));
	expect_cu(cuMemFree_v2(device_new(BYTES)));
	expect_cu(cuCtxPopCurrent_v2(NULL));
	expect_cu(cuDevicePrimaryCtxRelease_v2(1));
}

Test(fake_cuda_work, freed_memory_is_an_illegal_address)
{
	struct kvx_cu_context *context;
	struct kvx_cu_stream *stream;
	kvx_cu_ptr memory;
	uint32_t *host;

	expect_cu(cuDevicePrimaryCtxRetain(&context, 1));
	expect_cu(cuCtxPushCurrent_v2(context));
	stream = stream_new();
	memory = device_new(BYTES);
	host = host_new(BYTES);
	expect_cu(cuStreamWaitValue32_v2(stream, address_of(host), 1, KVX_CU_WAIT_VALUE_EQ));
	expect_cu(cuMemcpyAsync(address_of(host + 1), memory, 4, stream));
	expect_cu(cuMemFree_v2(memory));
	__atomic_store_n(host, 1, __ATOMIC_RELEASE);
	expect_cu_error(cuStreamSynchronize(stream), ILLEGAL_ADDRESS);
	expect_cu(cuCtxPopCurrent_v2(NULL));
	expect_cu(cuDevicePrimaryCtxRelease_v2(1));
}

/* A stream that waits for what never comes does not keep the program. */
Test(fake_cuda_work, the_end_of_a_context_ends_what_waits)
{
	uint64_t leaked = fake_cuda_leaked();
	struct kvx_cu_context *context;
	struct kvx_cu_stream *stream;
	uint32_t *host;

	expect_cu(cuDevicePrimaryCtxRetain(&context, 1));
	expect_cu(cuCtxPushCurrent_v2(context));
	stream = stream_new();
	host = host_new(BYTES);
	expect_cu(cuStreamWaitValue32_v2(stream, address_of(host), 1, KVX_CU_WAIT_VALUE_EQ));
	expect_cu(cuStreamDestroy_v2(stream));
	expect_cu(cuCtxPopCurrent_v2(NULL));
	expect_cu(cuDevicePrimaryCtxRelease_v2(1));
	cr_assert_eq(fake_cuda_leaked(), leaked + 1);
}
