/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ready words and waits in streams and graphs, over the driver that is made up. It shows what is
 * put into a stream, and in which order; that a GPU keeps to that order in its memory, only a GPU
 * shows.
 */
#include "cuda/abi.h"
#include "fake_cuda/fake_cuda.h"
#include "support/pair.h"

#include <kvxfer/cuda.h>

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 4u
#define BLOCK_BYTES 4096u
#define SHORT_MS 30u /* in which nothing should happen */

#define DECLARE(name, symbol, arguments) enum kvx_cu_result symbol arguments;
KVX_CU_FUNCTIONS(DECLARE)
KVX_CU_TEST_FUNCTIONS(DECLARE)
#undef DECLARE

#define cu_ok(call) cr_assert_eq((call), KVX_CU_SUCCESS, "%s", #call)
/* The device's primary context is the thread's from here on. */
static void use(int device)
{
	struct kvx_cu_context *context;
	kvx_cu_device handle;

	cu_ok(cuDeviceGet(&handle, device));
	cu_ok(cuDevicePrimaryCtxRetain(&context, handle));
	cu_ok(cuCtxPushCurrent_v2(context));
}

/* The fake looks at its options when the driver is initialised; each test is a process. */
static void driver_init(const char *options)
{
	if (options)
		setenv("FAKE_CUDA_OPTIONS", options, 1);
	cu_ok(cuInit(0));
}

static void set_up(const char *options)
{
	driver_init(options);
	use(0);
}

static struct kvx_cu_stream *stream_new(void)
{
	struct kvx_cu_stream *stream;

	cu_ok(cuStreamCreate(&stream, KVX_CU_STREAM_NON_BLOCKING));
	return stream;
}

static uint32_t *words_new(uint32_t count)
{
	uint32_t *words;

	expect_ok(kvx_cuda_words_alloc(count, &words));
	return words;
}

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* As an engine watches: without a call of the driver. */
static void await(const uint32_t *word, uint32_t value)
{
	for (uint32_t i = 0; load(word) != value; i++) {
		cr_assert(i < PATIENCE_MS, "word is %u, not %u", load(word), value);
		sleep_ms(1);
	}
}

static kvx_cu_ptr block_new(size_t bytes)
{
	kvx_cu_ptr block;

	cu_ok(cuMemAlloc_v2(&block, bytes));
	return block;
}

static const unsigned char *bytes_of(kvx_cu_ptr block)
{
	return fake_cuda_view((const void *)(uintptr_t)block);
}

static void expect_filled(const unsigned char *bytes, size_t count, unsigned value)
{
	for (size_t i = 0; i < count; i++)
		cr_assert_eq(bytes[i], value, "byte %zu is %u, not %u", i, bytes[i], value);
}

/* ------------------------------------------------------------------------------------- words */

Test(words, are_zero_and_at_one_address_for_all_devices, .timeout = 60)
{
	set_up("devices=2");
	for (int device = 0; device < 2; device++) {
		kvx_cu_ptr seen;
		uint32_t type;

		use(device);
		uint32_t *words = words_new(1000);
		cr_assert_eq((uintptr_t)words % sizeof(*words), 0);
		for (uint32_t i = 0; i < 1000; i++)
			cr_assert_eq(words[i], 0);
		for (int other = 0; other < 2; other++) {
			use(other);
			cu_ok(cuMemHostGetDevicePointer_v2(&seen, words, 0));
			cr_assert_eq(seen, (uintptr_t)words);
		}
		cu_ok(cuPointerGetAttribute(&type, KVX_CU_POINTER_MEMORY_TYPE, (uintptr_t)words));
		cr_assert_eq(type, KVX_CU_MEMORY_HOST);
		expect_ok(kvx_cuda_words_free(words));
	}
}

Test(words, are_gone_once_they_are_freed, .timeout = 60)
{
	set_up(NULL);
	/* The first ones bring the device's context and kernels with them, which stay. */
	expect_ok(kvx_cuda_words_free(words_new(1)));
	uint64_t live = fake_cuda_live();
	uint32_t *words = words_new(8);
	cr_assert_eq(fake_cuda_live(), live + 1);
	expect_ok(kvx_cuda_words_free(words));
	cr_assert_eq(fake_cuda_live(), live);
	expect_ok(kvx_cuda_words_free(NULL));
}

Test(words, many_allocations_are_told_apart, .timeout = 60)
{
	uint32_t *words[100];

	set_up(NULL);
	struct kvx_cu_stream *stream = stream_new();
	for (uint32_t i = 0; i < 100; i++)
		words[i] = words_new(1 + i % 3);
	for (uint32_t i = 0; i < 100; i += 2)
		expect_ok(kvx_cuda_words_free(words[i]));
	for (uint32_t i = 0; i < 100; i++) {
		uint32_t *last = words[i] + i % 3;
		if (i % 2)
			expect_ok(kvx_cuda_signal_ready(stream, last));
		else
			expect_fail(kvx_cuda_signal_ready(stream, last), KVX_E_INVALID, "freed");
	}
	cu_ok(cuStreamSynchronize(stream));
	for (uint32_t i = 1; i < 100; i += 2) {
		cr_assert_eq(load(words[i] + i % 3), 1);
		expect_ok(kvx_cuda_words_free(words[i]));
	}
}

Test(words, bad_arguments_are_refused, .timeout = 60)
{
	uint32_t *words, *none = NULL;

	set_up(NULL);
	expect_fail(kvx_cuda_words_alloc(0, &none), KVX_E_INVALID, "1 to");
	expect_fail(kvx_cuda_words_alloc(KVX_CUDA_WORDS_MAX + 1, &none), KVX_E_INVALID, "1 to");
	expect_fail(kvx_cuda_words_alloc(1, NULL), KVX_E_INVALID, "address");
	cr_assert_null(none);
	words = words_new(4);
	expect_fail(kvx_cuda_words_free(words + 1), KVX_E_INVALID, "first");
	expect_ok(kvx_cuda_words_free(words));
	expect_fail(kvx_cuda_words_free(words), KVX_E_INVALID, "already");
}

/* A rank that has chosen its device gets no context on another one. */
Test(words, belong_to_the_threads_device_and_leave_its_context, .timeout = 60)
{
	struct kvx_cu_context *before, *after;

	driver_init("devices=2");
	use(1);
	cu_ok(cuCtxGetCurrent(&before));
	uint32_t *words = words_new(4);
	struct kvx_cu_stream *stream = stream_new();
	expect_ok(kvx_cuda_signal_ready(stream, words));
	store(words + 1, KVX_WORD_WHOLE);
	expect_ok(kvx_cuda_wait_layer(stream, words, 1));
	cu_ok(cuStreamSynchronize(stream));
	cu_ok(cuCtxGetCurrent(&after));
	cr_assert_eq(before, after);
	expect_ok(kvx_cuda_words_free(words));
	cu_ok(cuCtxGetCurrent(&after));
	cr_assert_eq(before, after);
}

/* ------------------------------------------------------------------------------------ signal */

Test(signal, comes_after_what_is_in_the_stream, .timeout = 60)
{
	void *pinned;

	set_up("delay_us=20000");
	struct kvx_cu_stream *stream = stream_new();
	uint32_t *word = words_new(1);
	kvx_cu_ptr block = block_new(BLOCK_BYTES);
	cu_ok(cuMemHostAlloc(&pinned, BLOCK_BYTES, 0));
	for (unsigned round = 1; round <= 3; round++) {
		memset(pinned, (int)round, BLOCK_BYTES);
		cu_ok(cuMemcpyAsync(block, (uintptr_t)pinned, BLOCK_BYTES, stream));
		expect_ok(kvx_cuda_signal_ready(stream, word));
		cr_assert_eq(load(word), round - 1, "the call did not wait");
		await(word, round);
		expect_filled(bytes_of(block), BLOCK_BYTES, round);
	}
	expect_ok(kvx_cuda_words_free(word));
}

/* The second replay tells of other layers than the first. */
Test(signal, of_a_graph_counts_on_at_every_replay, .timeout = 60)
{
	struct kvx_cu_graph *graph;
	struct kvx_cu_graph_exec *exec;

	set_up(NULL);
	struct kvx_cu_stream *stream = stream_new();
	uint32_t *word = words_new(1);
	cu_ok(cuStreamBeginCapture_v2(stream, KVX_CU_CAPTURE_GLOBAL));
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		expect_ok(kvx_cuda_signal_ready(stream, word));
	cu_ok(cuStreamEndCapture(stream, &graph));
	cu_ok(cuGraphInstantiateWithFlags(&exec, graph, 0));
	sleep_ms(SHORT_MS);
	cr_assert_eq(load(word), 0, "captured, not done");
	for (uint32_t replay = 1; replay <= 3; replay++) {
		cu_ok(cuGraphLaunch(exec, stream));
		cu_ok(cuStreamSynchronize(stream));
		cr_assert_eq(load(word), replay * LAYERS);
	}
	cu_ok(cuGraphExecDestroy(exec));
	cu_ok(cuGraphDestroy(graph));
	expect_ok(kvx_cuda_words_free(word));
}

/* What the library has to do once for each device does not disturb the capture. */
Test(signal, may_be_captured_at_the_first_use_of_a_device, .timeout = 60)
{
	struct kvx_cu_graph *graph;
	struct kvx_cu_graph_exec *exec;

	set_up("devices=2");
	uint32_t *words = words_new(2);
	use(1);
	struct kvx_cu_stream *stream = stream_new();
	cu_ok(cuStreamBeginCapture_v2(stream, KVX_CU_CAPTURE_GLOBAL));
	expect_ok(kvx_cuda_wait_layer(stream, words, 0));
	expect_ok(kvx_cuda_signal_ready(stream, words + 1));
	cu_ok(cuStreamEndCapture(stream, &graph));
	cu_ok(cuGraphInstantiateWithFlags(&exec, graph, 0));
	store(words, KVX_WORD_WHOLE);
	cu_ok(cuGraphLaunch(exec, stream));
	cu_ok(cuStreamSynchronize(stream));
	cr_assert_eq(load(words + 1), 1);
	cu_ok(cuGraphExecDestroy(exec));
	cu_ok(cuGraphDestroy(graph));
	expect_ok(kvx_cuda_words_free(words));
}

Test(signal, of_two_devices_goes_to_words_of_one_allocation, .timeout = 60)
{
	struct kvx_cu_stream *streams[2];

	set_up("devices=2");
	uint32_t *words = words_new(2);
	for (int device = 0; device < 2; device++) {
		use(device);
		streams[device] = stream_new();
	}
	for (int device = 0; device < 2; device++)
		for (int i = 0; i <= device; i++)
			expect_ok(kvx_cuda_signal_ready(streams[device], words + device));
	await(words, 1);
	await(words + 1, 2);
	expect_ok(kvx_cuda_words_free(words));
}

Test(signal, goes_into_the_default_stream_too, .timeout = 60)
{
	struct kvx_cu_context *context;

	set_up(NULL);
	uint32_t *word = words_new(1);
	expect_ok(kvx_cuda_signal_ready(NULL, word));
	await(word, 1);
	cu_ok(cuCtxPopCurrent_v2(&context));
	expect_fail(kvx_cuda_signal_ready(NULL, word), KVX_E_INVALID, "cudaSetDevice");
	expect_ok(kvx_cuda_words_free(word));
}

Test(signal, bad_arguments_are_refused, .timeout = 60)
{
	uint32_t other = 0;

	set_up(NULL);
	struct kvx_cu_stream *stream = stream_new();
	uint32_t *word = words_new(1);
	uint32_t *odd = (uint32_t *)(void *)((char *)word + 1);
	expect_fail(kvx_cuda_signal_ready(stream, NULL), KVX_E_INVALID, "NULL");
	expect_fail(kvx_cuda_signal_ready(stream, odd), KVX_E_INVALID, "aligned");
	expect_fail(kvx_cuda_signal_ready(stream, &other), KVX_E_INVALID, "kvx_cuda_words_alloc");
	expect_fail(kvx_cuda_signal_ready(stream, word + 1), KVX_E_INVALID, "freed");
	expect_fail(kvx_cuda_signal_ready(stream, word - 1), KVX_E_INVALID, "freed");
	cu_ok(cuStreamDestroy_v2(stream));
	expect_fail(kvx_cuda_signal_ready(stream, word), KVX_E_INVALID, "exists");
	cr_assert_eq(load(word), 0);
	expect_ok(kvx_cuda_words_free(word));
	expect_fail(kvx_cuda_signal_ready(stream, word), KVX_E_INVALID, "freed");
}

/* Nothing else is right at a replay, so nothing else is tried. */
Test(signal, without_kernels_is_refused_with_the_reason, .timeout = 60)
{
	set_up("kernels=0");
	struct kvx_cu_stream *stream = stream_new();
	uint32_t *words = words_new(1);
	expect_fail(kvx_cuda_signal_ready(stream, words), KVX_E_UNSUPPORTED, "kernels");
	store(words, KVX_WORD_WHOLE);
	expect_ok(kvx_cuda_wait_layer(stream, words, 0));
	cu_ok(cuStreamSynchronize(stream));
	expect_ok(kvx_cuda_words_free(words));
}

/* -------------------------------------------------------------------------------------- wait */

/* Each with memory operations of streams, and with the kernel that stands in for them. */
#define EACH_WAIT_TEST(name)                                \
	static void name(void);                             \
	Test(wait_by_memory_operation, name, .timeout = 60) \
	{                                                   \
		set_up("memops=1");                         \
		name();                                     \
	}                                                   \
	Test(wait_by_kernel, name, .timeout = 60)           \
	{                                                   \
		set_up("memops=0");                         \
		name();                                     \
	}                                                   \
	static void name(void)

/* What stands behind the wait for each layer begins only when that layer's word has changed,
 * whether the layer is whole or has failed. */
EACH_WAIT_TEST(ends_when_a_layer_is_whole_or_has_failed)
{
	static const uint32_t states[LAYERS] = {KVX_WORD_WHOLE, KVX_WORD_WHOLE, KVX_WORD_FAILED,
						KVX_WORD_FAILED};
	struct kvx_cu_stream *stream = stream_new();
	uint32_t *words = words_new(LAYERS);
	kvx_cu_ptr block = block_new(LAYERS);

	cu_ok(cuMemsetD8Async(block, 0, LAYERS, stream));
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		expect_ok(kvx_cuda_wait_layer(stream, words, layer));
		cu_ok(cuMemsetD8Async(block + layer, 7, 1, stream));
	}
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		sleep_ms(SHORT_MS);
		cr_assert_eq(cuStreamQuery(stream), KVX_CU_ERROR_NOT_READY);
		cr_assert_eq(__atomic_load_n(bytes_of(block) + layer, __ATOMIC_ACQUIRE), 0);
		store(words + layer, states[layer]);
	}
	cu_ok(cuStreamSynchronize(stream));
	expect_filled(bytes_of(block), LAYERS, 7);
	expect_ok(kvx_cuda_words_free(words));
}

EACH_WAIT_TEST(of_a_graph_waits_at_every_replay)
{
	struct kvx_cu_graph *graph;
	struct kvx_cu_graph_exec *exec;
	struct kvx_cu_stream *stream = stream_new();
	uint32_t *words = words_new(2), *word = words + 1;

	cu_ok(cuStreamBeginCapture_v2(stream, KVX_CU_CAPTURE_GLOBAL));
	expect_ok(kvx_cuda_wait_layer(stream, words, 0));
	expect_ok(kvx_cuda_signal_ready(stream, word));
	cu_ok(cuStreamEndCapture(stream, &graph));
	cu_ok(cuGraphInstantiateWithFlags(&exec, graph, 0));
	for (uint32_t replay = 0; replay < 3; replay++) {
		store(words, 0);
		cu_ok(cuGraphLaunch(exec, stream));
		sleep_ms(SHORT_MS);
		cr_assert_eq(load(word), replay);
		store(words, KVX_WORD_WHOLE);
		cu_ok(cuStreamSynchronize(stream));
		cr_assert_eq(load(word), replay + 1);
	}
	cu_ok(cuGraphExecDestroy(exec));
	cu_ok(cuGraphDestroy(graph));
	expect_ok(kvx_cuda_words_free(words));
}

EACH_WAIT_TEST(bad_arguments_are_refused)
{
	static const uint32_t other[LAYERS] = {1, 1, 1, 1};
	struct kvx_cu_stream *stream = stream_new();
	uint32_t *words = words_new(LAYERS);
	const uint32_t *odd = (const uint32_t *)(const void *)((const char *)words + 2);

	expect_fail(kvx_cuda_wait_layer(stream, NULL, 0), KVX_E_INVALID, "NULL");
	expect_fail(kvx_cuda_wait_layer(stream, odd, 0), KVX_E_INVALID, "aligned");
	expect_fail(kvx_cuda_wait_layer(stream, other, 0), KVX_E_INVALID, "kvx_cuda_words_alloc");
	expect_fail(kvx_cuda_wait_layer(stream, words, LAYERS), KVX_E_INVALID, "tail");
	expect_fail(kvx_cuda_wait_layer(stream, words, KVX_ALL_LAYERS), KVX_E_INVALID, "tail");
	cu_ok(cuStreamSynchronize(stream));
	cu_ok(cuStreamDestroy_v2(stream));
	expect_fail(kvx_cuda_wait_layer(stream, words, 0), KVX_E_INVALID, "exists");
	expect_ok(kvx_cuda_words_free(words));
}

Test(wait, without_kernels_and_memory_operations_is_refused, .timeout = 60)
{
	set_up("kernels=0,memops=0");
	struct kvx_cu_stream *stream = stream_new();
	uint32_t *words = words_new(1);
	expect_fail(kvx_cuda_wait_layer(stream, words, 0), KVX_E_UNSUPPORTED, "kernels");
	expect_ok(kvx_cuda_words_free(words));
}

/* ------------------------------------------------------------------------------ with engines */

static const struct kvx_geometry geometry = {
	.layers = LAYERS, .planes = 2, .blocks = 16, .block_bytes = BLOCK_BYTES};

/* Of the decode side: waits for each layer, and counts those that have ended. */
static void put_waits(struct kvx_cu_stream *stream, const uint32_t *words, uint32_t *ended)
{
	for (uint32_t layer = 0; layer < LAYERS; layer++) {
		expect_ok(kvx_cuda_wait_layer(stream, words, layer));
		expect_ok(kvx_cuda_signal_ready(stream, ended));
	}
}

/* The same graph for one request after another, and no call of the CPU between signal and wait. */
Test(engine, sends_what_a_graph_signals_to_a_stream_that_waits, .timeout = 60)
{
	struct kvx_cu_graph *graph;
	struct kvx_cu_graph_exec *exec;
	struct pair pair;

	set_up(NULL);
	pair_open(&pair, &(struct way){"loop", false}, &geometry, NULL);
	struct kvx_cu_stream *prefill = stream_new(), *decode = stream_new();
	uint32_t *words = words_new(LAYERS + 2), *ready = words + LAYERS, *ended = ready + 1;
	cu_ok(cuStreamBeginCapture_v2(prefill, KVX_CU_CAPTURE_GLOBAL));
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		expect_ok(kvx_cuda_signal_ready(prefill, ready));
	cu_ok(cuStreamEndCapture(prefill, &graph));
	cu_ok(cuGraphInstantiateWithFlags(&exec, graph, 0));
	for (uint32_t round = 1; round <= 3; round++) {
		struct request request;
		request_open(&request, &pair, round, 0, 4, TABLE_RANDOM);
		expect_ok(kvx_grant_mirror(request.grant, words, LAYERS));
		expect_ok(kvx_stream_watch(request.stream, ready));
		put_waits(decode, words, ended);
		sleep_ms(SHORT_MS);
		cr_assert_eq(load(ended), (round - 1) * LAYERS);
		cu_ok(cuGraphLaunch(exec, prefill));
		await(ended, round * LAYERS);
		for (uint32_t layer = 0; layer < LAYERS; layer++) {
			cr_assert_eq(load(words + layer), KVX_WORD_WHOLE);
			request_expect_layer(&request, layer);
		}
		request_close(&request);
	}
	cu_ok(cuGraphExecDestroy(exec));
	cu_ok(cuGraphDestroy(graph));
	pair_close(&pair);
	expect_ok(kvx_cuda_words_free(words));
}

Test(engine, ends_the_waits_of_a_grant_whose_lease_ends, .timeout = 60)
{
	struct request request;
	struct pair pair;

	set_up(NULL);
	pair_open(&pair, &(struct way){"loop", false}, &geometry, NULL);
	struct kvx_cu_stream *decode = stream_new();
	uint32_t *words = words_new(LAYERS + 1), *ended = words + LAYERS;
	request_init(&request, &pair, 1, 0, 4, TABLE_IDENTITY);
	request_grant(&request, 300);
	expect_ok(kvx_grant_mirror(request.grant, words, LAYERS));
	request_stream(&request);
	put_waits(decode, words, ended);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 1));
	await(ended, LAYERS);
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		cr_assert_eq(load(words + layer), layer ? KVX_WORD_FAILED : KVX_WORD_WHOLE);
	cr_assert_eq(kvx_grant_poll(request.grant, 1), KVX_E_LEASE);
	request_close(&request);
	pair_close(&pair);
	expect_ok(kvx_cuda_words_free(words));
}

/* -------------------------------------------------------------------------- without a device */

Test(absent, all_is_refused_where_there_is_no_device, .timeout = 60)
{
	uint32_t word = 0, *words = NULL;

	setenv("FAKE_CUDA_OPTIONS", "absent=1", 1);
	expect_fail(kvx_cuda_words_alloc(1, &words), KVX_E_UNSUPPORTED, "NO_DEVICE");
	expect_fail(kvx_cuda_signal_ready(NULL, &word), KVX_E_UNSUPPORTED, "NO_DEVICE");
	expect_fail(kvx_cuda_wait_layer(NULL, &word, 0), KVX_E_UNSUPPORTED, "NO_DEVICE");
	expect_fail(kvx_cuda_words_free(&word), KVX_E_UNSUPPORTED, "NO_DEVICE");
	expect_ok(kvx_cuda_words_free(NULL));
	cr_assert_null(words);
}

/* ------------------------------------------------------------------------------------ stress */

#define ROUNDS 2000u
#define SLOTS 8u /* blocks that are filled in turn */
#define BLOCK_WORDS (BLOCK_BYTES / sizeof(uint32_t))

struct watcher {
	uint32_t *word, *checked; /* that is watched; one for each round, told when it is checked */
	kvx_cu_ptr blocks;
	uint64_t wrong; /* words */
};

static kvx_cu_ptr block_of(const struct watcher *watcher, uint32_t round)
{
	return watcher->blocks + (kvx_cu_ptr)(round % SLOTS) * BLOCK_BYTES;
}

/* Sees (old, new), as an engine does. */
static void *watch(void *argument)
{
	struct watcher *watcher = argument;

	for (uint32_t seen = 0; seen < ROUNDS;)
		for (uint32_t now = load(watcher->word); seen < now; seen++) {
			const uint32_t *words = (const void *)bytes_of(block_of(watcher, seen));
			for (uint32_t i = 0; i < BLOCK_WORDS; i++)
				watcher->wrong += words[i] != seen * BLOCK_WORDS + i;
			store(watcher->checked + seen, KVX_WORD_WHOLE);
		}
	return NULL;
}

static void fill(struct kvx_cu_function *function, struct kvx_cu_stream *stream, kvx_cu_ptr block,
		 uint32_t value)
{
	uint64_t words = BLOCK_WORDS;
	void *parameters[] = {&block, &value, &words};

	cu_ok(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
}

/* All of it stands in the stream from the beginning: nothing but the words keeps its order, since a
 * block is filled anew when the device has seen that the one before was checked. */
Test(stress, bytes_are_there_when_the_word_is_seen, .timeout = 120)
{
	struct watcher watcher = {0};
	struct kvx_cu_module *module;
	struct kvx_cu_function *function;
	pthread_t thread;

	set_up(NULL);
	cu_ok(cuModuleLoadData(&module, FAKE_CUDA_MODULE));
	cu_ok(cuModuleGetFunction(&function, module, FAKE_CUDA_FILL));
	struct kvx_cu_stream *stream = stream_new();
	watcher.word = words_new(1);
	watcher.checked = words_new(ROUNDS);
	watcher.blocks = block_new((size_t)SLOTS * BLOCK_BYTES);
	cr_assert_eq(pthread_create(&thread, NULL, watch, &watcher), 0);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		if (round >= SLOTS)
			expect_ok(kvx_cuda_wait_layer(stream, watcher.checked, round - SLOTS));
		fill(function, stream, block_of(&watcher, round), round * BLOCK_WORDS);
		expect_ok(kvx_cuda_signal_ready(stream, watcher.word));
	}
	cu_ok(cuStreamSynchronize(stream));
	pthread_join(thread, NULL);
	cr_assert_eq(load(watcher.word), ROUNDS);
	cr_assert_eq(watcher.wrong, 0, "%lu words were not there", (unsigned long)watcher.wrong);
	expect_ok(kvx_cuda_words_free(watcher.word));
	expect_ok(kvx_cuda_words_free(watcher.checked));
}
