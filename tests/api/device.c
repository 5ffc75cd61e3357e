/* SPDX-License-Identifier: Apache-2.0 */
/* Pools in a device's memory, as a program sees them. The device is made up. */
#include "support/pair.h"

#include <kvxfer/operate.h>

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS 64u
#define LAYERS 4u
#define LEASE_MS 20000u

static const struct kvx_geometry geometry = {
	.layers = LAYERS, .planes = 2, .blocks = BLOCKS, .block_bytes = 16384};
static const struct way loop = {"loop", false}, tcp = {"tcp", false}, verbs = {"verbs", false};

static void *of_driver(const char *name)
{
	void *function = dlsym(dlopen("libcuda.so.1", RTLD_NOW), name);

	cr_assert(function, "%s", dlerror());
	return function;
}

static void steer(const char *option, uint64_t value)
{
	((void (*)(const char *, uint64_t))of_driver("fake_cuda_set"))(option, value);
}

static uint64_t copies_done(void)
{
	return ((uint64_t(*)(void))of_driver("fake_cuda_copies"))();
}

static void open_pools(struct pair *pair, const struct way *way, const char *const *options)
{
	cr_assert(memory_is_device());
	pair_open(pair, way, &geometry, options);
}

static const char *explained(const struct kvx_stream *stream)
{
	static char text[1024];

	kvx_stream_explain(stream, text, sizeof(text));
	return text;
}

static void expect_way(const struct way *way, const char *words)
{
	struct request request;
	struct pair pair;

	open_pools(&pair, way, NULL);
	request_open(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	request_run(&request);
	cr_assert(strstr(explained(request.stream), words), "%s", explained(request.stream));
	request_close(&request);
	pair_close(&pair);
}

Test(device, a_stream_tells_that_it_is_staged_and_where)
{
	expect_way(&loop, "staged in pinned memory by cuda 0 (");
	expect_way(&tcp, "staged in pinned memory by cuda 0 (");
}

Test(device, a_stream_over_verbs_tells_how_hardware_reaches_the_memory)
{
	expect_way(&verbs, "GPUDirect by dma-buf");
}

/* Where the device orders no writes of others, it is asked to show them: once for each layer. */
Test(device, what_hardware_wrote_is_flushed_once_for_each_layer)
{
	uint64_t (*flushes)(void) = (uint64_t(*)(void))of_driver("fake_cuda_flushes");
	struct request request;
	struct pair pair;

	steer("ordering", 0);
	open_pools(&pair, &verbs, NULL);
	request_open(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	request_run(&request);
	cr_assert_eq(flushes(), LAYERS);
	request_close(&request);
	pair_close(&pair);
}

/* The engines have tcp beside verbs, and take it. */
Test(device, memory_that_hardware_does_not_reach_is_staged)
{
	static const char *const both[] = {"transports=verbs,tcp", NULL};
	struct request request;
	struct pair pair;

	steer("dmabuf", 0);
	open_pools(&pair, &verbs, both);
	request_open(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	request_run(&request);
	cr_assert(strstr(explained(request.stream), "staged"), "%s", explained(request.stream));
	request_close(&request);
	pair_close(&pair);
}

/* Copies fail while a request is under way: both ends learn of it, and so does whoever comes later
 * where it was noticed. */
static void expect_failure(struct pair *pair, uint64_t copies)
{
	struct request request;
	uint32_t table[] = {0};
	struct kvx_grant *grant;

	steer("fail_after", copies);
	request_open(&request, pair, 1, 0, BLOCKS, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, LAYERS));
	int grant_end = wait_grant(&pair->drive, request.grant, KVX_ALL_LAYERS, PATIENCE_MS);
	int stream_end = wait_stream(&pair->drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert(grant_end == KVX_E_TRANSPORT || stream_end == KVX_E_TRANSPORT, "%d, %d",
		  grant_end, stream_end);
	cr_assert(grant_end < 0 && stream_end < 0);
	request_close(&request);
	struct kvx_pool *failed = stream_end == KVX_E_TRANSPORT ? pair->from : pair->to;
	expect_fail(kvx_grant_open(failed, table, 1, NULL, LEASE_MS, &grant), KVX_E_TRANSPORT,
		    "cuda 0 has failed", "ILLEGAL_ADDRESS");
}

Test(device, a_device_that_fails_ends_what_it_copies_for)
{
	struct pair pair;

	open_pools(&pair, &tcp, NULL);
	expect_failure(&pair, 20);
	pair_close(&pair);
}

/* Revoked while copies are slow: when that returns none of them lands any more. */
Test(device, no_late_byte_out_of_slow_copies, .timeout = 60)
{
	struct request request;
	struct pair pair;

	open_pools(&pair, &loop, NULL);
	steer("delay_us", 200);
	for (uint32_t round = 0; round < 16; round++) {
		request_open(&request, &pair, round + 1, 0, BLOCKS, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(request.stream, 0, LAYERS));
		drive_for(&pair.drive, 10 * round);
		expect_ok(kvx_grant_revoke(request.grant, 0));
		blocks_set(pair.to, &geometry, request.to, BLOCKS, 0x5a);
		drive_for(&pair.drive, 20);
		cr_assert_eq(blocks_changed(pair.to, &geometry, request.to, BLOCKS, 0x5a), 0);
		request_close(&request);
	}
	pair_close(&pair);
}

/* Closing waits for copies that read the blocks: the caller may free them afterwards. */
Test(device, a_cancelled_stream_reads_nothing_any_more, .timeout = 60)
{
	struct request request;
	struct pair pair;

	open_pools(&pair, &loop, NULL);
	steer("delay_us", 500);
	for (uint32_t round = 1; round < 10; round++) {
		request_open(&request, &pair, round + 1, 0, BLOCKS, TABLE_RANDOM);
		expect_ok(kvx_stream_layers_ready(request.stream, 0, LAYERS));
		drive_for(&pair.drive, round);
		expect_ok(kvx_grant_revoke(request.grant, 0)); /* nothing is copied there */
		kvx_stream_cancel(request.stream);
		uint64_t done = copies_done();
		drive_for(&pair.drive, 10);
		cr_assert_eq(copies_done(), done);
		request_close(&request);
	}
	steer("delay_us", 0);
	pair_expect_works(&pair, 99);
	pair_close(&pair);
}

Test(device, checksums_of_a_pool_are_those_of_its_bytes)
{
	uint64_t device_sums[LAYERS], host_sums[LAYERS];
	struct request request;
	struct kvx_pool *host;
	struct pair pair;

	open_pools(&pair, &loop, NULL);
	request_open(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	expect_ok(kvx_pool_alloc(pair.sender, &geometry, &host));
	for (uint32_t layer = 0; layer < LAYERS; layer++)
		for (uint32_t plane = 0; plane < 2; plane++)
			for (uint32_t i = 0; i < BLOCKS; i++)
				memcpy(kvx_pool_block(host, layer, plane, i),
				       block_view(pair.from, layer, plane, i),
				       geometry.block_bytes);
	expect_ok(kvx_pool_checksum(pair.from, request.from, BLOCKS, device_sums));
	expect_ok(kvx_pool_checksum(host, request.from, BLOCKS, host_sums));
	cr_assert_arr_eq(device_sums, host_sums, sizeof(host_sums));
	request_close(&request);
	pair_close(&pair);
}

/* The last region of the engine, which is the pool's. */
static struct kvx_region_view last_region(struct kvx_engine *engine)
{
	struct kvx_region_view views[8];
	int count = kvx_engine_regions(engine, 0, views, 8);

	cr_assert(count > 0 && count <= 8, "%d", count);
	return views[count - 1];
}

Test(device, a_region_tells_its_device_and_what_reaches_it)
{
	struct kvx_region_view view;
	struct pair pair;

	open_pools(&pair, &verbs, NULL);
	view = last_region(pair.sender);
	cr_assert_str_eq(view.kind, "cuda");
	cr_assert_str_eq(view.device, "0 0000:3a:00.0");
	cr_assert_str_eq(view.gpudirect, "dma-buf");
	pair_close(&pair);
	open_pools(&pair, &tcp, NULL);
	view = last_region(pair.sender);
	cr_assert_str_eq(view.kind, "cuda");
	cr_assert_str_eq(view.gpudirect, "");
	pair_close(&pair);
}

Test(device, a_pool_of_two_sorts_of_memory_is_refused)
{
	struct kvx_region *device, *host;
	struct kvx_tensor tensors[2] = {0};
	struct kvx_geometry two = {.layers = 1, .planes = 2, .blocks = 1, .block_bytes = 4096};
	struct kvx_pool *pool;
	struct pair pair;

	open_pools(&pair, &loop, NULL);
	expect_ok(region_alloc(pair.sender, 4096, &device));
	expect_ok(kvx_region_alloc(pair.sender, 4096, &host));
	tensors[0].region = device;
	tensors[1].region = host;
	expect_fail(kvx_pool_open(pair.sender, &two, tensors, &pool), KVX_E_INVALID,
		    "layer 0 plane 1", "one device's");
	pair_close(&pair);
}

/* As most engines have it: the first token is the CPU's. */
static void run_with_host_tail(const struct way *way)
{
	struct kvx_tail tails[2];
	struct request request;
	struct pair pair;

	open_pools(&pair, way, NULL);
	for (int i = 0; i < 2; i++) {
		tails[i] = (struct kvx_tail){.bytes = 1024};
		expect_ok(
			kvx_region_alloc(i ? pair.receiver : pair.sender, 4096, &tails[i].region));
		memset(kvx_region_address(tails[i].region), i ? 0 : 0x77, 4096);
	}
	request_init(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	const struct kvx_grant_options granted = {.tail = tails[1]};
	const struct kvx_stream_options streamed = {.tail = tails[0]};
	size_t size;
	expect_ok(kvx_grant_open(pair.to, request.to, BLOCKS, &granted, LEASE_MS, &request.grant));
	const void *ticket = kvx_grant_ticket(request.grant, &size);
	expect_ok(kvx_stream_open(pair.from, request.from, BLOCKS, &streamed, ticket, size,
				  &request.stream));
	expect_ok(kvx_stream_tail_ready(request.stream));
	request_run(&request);
	const uint8_t *bytes = kvx_region_address(tails[1].region);
	cr_assert(bytes[0] == 0x77 && bytes[1023] == 0x77 && bytes[1024] == 0);
	request_close(&request);
	pair_close(&pair);
}

Test(device, a_tail_may_lie_in_memory_of_the_host)
{
	run_with_host_tail(&loop);
	run_with_host_tail(&tcp);
	run_with_host_tail(&verbs);
}

Test(device, words_tell_what_becomes_of_each_layer)
{
	uint32_t words[LAYERS + 1];
	struct request request;
	struct pair pair;

	memset(words, 0xff, sizeof(words));
	open_pools(&pair, &tcp, NULL);
	request_open(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	expect_fail(kvx_grant_mirror(request.grant, NULL, LAYERS), KVX_E_INVALID, "NULL");
	expect_fail(kvx_grant_mirror(request.grant, words, LAYERS - 1), KVX_E_INVALID, "3 words");
	expect_ok(kvx_grant_mirror(request.grant, words, LAYERS + 1));
	expect_fail(kvx_grant_mirror(request.grant, words, LAYERS), KVX_E_INVALID, "already");
	expect_ok(kvx_stream_layers_ready(request.stream, 0, 2));
	for (uint32_t layer = 0; layer < 2; layer++)
		request_expect_layer(&request, layer);
	drive_for(&pair.drive, 5);
	cr_assert(words[0] == KVX_WORD_WHOLE && words[1] == KVX_WORD_WHOLE);
	cr_assert(words[2] == KVX_WORD_PENDING && words[3] == KVX_WORD_PENDING);
	expect_ok(kvx_grant_revoke(request.grant, 0));
	cr_assert(words[0] == KVX_WORD_WHOLE && words[2] == KVX_WORD_FAILED &&
		  words[3] == KVX_WORD_FAILED && words[LAYERS] == KVX_WORD_PENDING);
	request_close(&request);
	pair_close(&pair);
}

static void expect_no_tail(int result, const char *object)
{
	expect_fail(result, KVX_E_INVALID, object,
		    "what moves the pool's memory does not move the tail's",
		    "both in one device's");
}

/* Over cuda_ipc GPUs copy from each other's memory, and nothing else. */
Test(device, a_tail_that_the_pools_transport_does_not_move_is_refused)
{
	const struct way ipc = {"cuda_ipc", false};
	struct kvx_region *host[2], *device;
	struct kvx_stream *stream;
	struct kvx_grant *grant;
	struct request request;
	struct pair pair;
	size_t bytes;

	open_pools(&pair, &ipc, NULL);
	request_open(&request, &pair, 1, 0, BLOCKS, TABLE_RANDOM);
	expect_ok(kvx_region_alloc(pair.receiver, 4096, &host[0]));
	expect_ok(kvx_region_alloc(pair.sender, 4096, &host[1]));
	expect_ok(region_alloc(pair.receiver, 4096, &device));
	struct kvx_grant_options granted = {.tail = {.region = host[0], .bytes = 64}};
	const struct kvx_stream_options streamed = {.tail = {.region = host[1], .bytes = 64}};
	const void *ticket = kvx_grant_ticket(request.grant, &bytes);
	expect_no_tail(
		kvx_stream_open(pair.from, request.from, BLOCKS, &streamed, ticket, bytes, &stream),
		"stream");
	expect_no_tail(
		kvx_offer_open(pair.from, request.from, BLOCKS, &streamed, LEASE_MS, &stream),
		"offer");
	request_run(&request);
	request_close(&request);
	expect_no_tail(
		kvx_grant_open(pair.to, (const uint32_t[]){0}, 1, &granted, LEASE_MS, &grant),
		"grant");
	granted.tail.region = device;
	expect_ok(kvx_grant_open(pair.to, (const uint32_t[]){0}, 1, &granted, LEASE_MS, &grant));
	kvx_grant_close(grant);
	pair_close(&pair);
}
