/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport cuda_ipc between two processes: every byte, its ends, and memory that it cannot reach.
 * A test is the receiver; the sender is a child, forked before the test uses the driver.
 */
#include "cuda/gpu.h"

#include "base/clock.h"
#include "base/error.h"

#include <kvxfer/kvxfer.h>

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCKS 32u
#define TICKET_MAX 4096u
#define TEXT_MAX 1024u
#define LEASE_MS 60000u
#define PATIENCE_MS 20000u
#define OFFSET 12544u /* of a pool in its allocation */
#define MARK 0xa5

TestSuite(ipc, .timeout = 120);

static const struct kvx_geometry geometry = {
	.layers = 8, .planes = 2, .blocks = BLOCKS, .block_bytes = 4096};

enum { POOL_BYTES = 8 * 2 * BLOCKS * 4096 };
_Static_assert(POOL_BYTES <= GPU_MAPPED_BYTES, "a mapping holds a pool");

/* How the memory came to be. */
enum sort { ALLOCATED, MAPPED, OF_A_POOL };

/* One end. */
struct end {
	struct kvx_engine *engine;
	struct kvx_region *region;
	struct kvx_pool *pool;
	char *allocation, *memory;
	uint32_t device;
};

/* The other process, and how it is to be. */
struct sender {
	const char *transports;
	uint32_t device;
	enum sort sort;
	bool leaves; /* in the middle of the next request, with its memory */
	pid_t pid;
	int to, from; /* pipes */
};

/* A request to the sender, and its answer. No ticket: it is to close its pool and region. */
struct order {
	bool leaves;
	uint32_t bytes;
	uint8_t ticket[TICKET_MAX];
};
struct answer {
	int code;
	char text[TEXT_MAX];
};

static void sleep_ms(long time_ms)
{
	nanosleep(&(struct timespec){time_ms / 1000, time_ms % 1000 * 1000000}, NULL);
}

/* --- ends --- */

static char *allocate(uint32_t device, enum sort sort)
{
	const struct gpu_mapping mapping = {
		.device = device, .mapped = true, .accessible = true, .capable = true};
	kvx_cu_ptr address = 0;

	if (sort == MAPPED)
		return gpu_map(&mapping, 1);
	if (sort == ALLOCATED)
		return gpu_alloc(device, POOL_BYTES + OFFSET);
	expect_ok(kvx_cuda_enter(device));
	expect_cu(cuMemAllocAsync(&address, POOL_BYTES, NULL));
	expect_cu(kvx_cuda()->stream_synchronize(NULL));
	kvx_cuda_leave();
	return (char *)(uintptr_t)address;
}

static struct kvx_engine *engine_over(const char *transports)
{
	struct kvx_options *options;
	struct kvx_engine *engine;

	expect_ok(kvx_options_new(&options));
	expect_ok(kvx_options_set(options, "transports", transports));
	expect_ok(kvx_options_set(options, "unit_bytes", "16384"));
	expect_ok(kvx_engine_open(options, &engine));
	kvx_options_free(options);
	return engine;
}

static void end_open(struct end *end, const char *transports, uint32_t device, enum sort sort)
{
	struct kvx_tensor tensors[16];

	end->device = device;
	end->allocation = allocate(device, sort);
	end->memory = end->allocation + (sort == ALLOCATED ? OFFSET : 0);
	end->engine = engine_over(transports);
	expect_ok(kvx_region_register(end->engine, end->memory, POOL_BYTES, &end->region));
	for (uint32_t i = 0; i < 16; i++)
		tensors[i] = (struct kvx_tensor){end->region, i * BLOCKS * 4096u, 0};
	expect_ok(kvx_pool_open(end->engine, &geometry, tensors, &end->pool));
	memset(fake_cuda_view(end->memory), 0, POOL_BYTES);
}

static void end_close(struct end *end)
{
	kvx_engine_close(end->engine);
	gpu_free(end->device, end->allocation);
}

/* --- the sender's process --- */

static struct answer send_request(const struct end *end, const struct order *order)
{
	uint32_t table[BLOCKS];
	struct answer answer = {0};
	struct kvx_stream *stream;

	for (uint32_t i = 0; i < BLOCKS; i++)
		table[i] = i;
	gpu_fill(end->memory, POOL_BYTES, 7);
	expect_ok(kvx_stream_open(end->pool, table, BLOCKS, NULL, order->ticket, order->bytes,
				  &stream));
	expect_ok(kvx_stream_layers_ready(stream, 0, geometry.layers));
	answer.code = kvx_stream_wait(stream, KVX_ALL_LAYERS, PATIENCE_MS);
	if (answer.code)
		snprintf(answer.text, sizeof(answer.text), "%s", kvx_error_text());
	else
		kvx_stream_explain(stream, answer.text, sizeof(answer.text));
	kvx_stream_close(stream);
	return answer;
}

static struct answer close_memory(const struct end *end)
{
	struct answer answer = {kvx_pool_close(end->pool), ""};

	if (!answer.code)
		answer.code = kvx_region_close(end->region);
	return answer;
}

/* What was posted is being copied when the memory is freed. */
static struct answer leave_midway(const struct end *end, struct order *order, int in)
{
	uint32_t table[BLOCKS];
	struct kvx_stream *stream;

	for (uint32_t i = 0; i < BLOCKS; i++)
		table[i] = i;
	expect_ok(kvx_stream_open(end->pool, table, BLOCKS, NULL, order->ticket, order->bytes,
				  &stream));
	expect_ok(kvx_stream_layers_ready(stream, 0, geometry.layers));
	cr_assert_eq(read(in, order, sizeof(*order)), sizeof(*order));
	kvx_stream_close(stream);
	struct answer answer = close_memory(end);
	gpu_free(end->device, end->allocation);
	return answer;
}

static void run_sender(const struct sender *sender, int in, int out)
{
	struct order order;
	struct end end;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	end_open(&end, sender->transports, sender->device, sender->sort);
	while (read(in, &order, sizeof(order)) == sizeof(order)) {
		struct answer answer = order.leaves  ? leave_midway(&end, &order, in)
				       : order.bytes ? send_request(&end, &order)
						     : close_memory(&end);
		if (write(out, &answer, sizeof(answer)) != sizeof(answer))
			break;
	}
	kvx_engine_close(end.engine);
	_exit(0);
}

static struct sender sender_start(const char *transports, uint32_t device, enum sort sort)
{
	struct sender sender = {.transports = transports, .device = device, .sort = sort};
	int down[2], up[2];

	cr_assert(pipe(down) == 0 && pipe(up) == 0);
	sender.pid = fork();
	cr_assert_geq(sender.pid, 0);
	if (!sender.pid) {
		close(down[1]);
		close(up[0]);
		run_sender(&sender, down[0], up[1]);
	}
	close(down[0]);
	close(up[1]);
	sender.to = down[1];
	sender.from = up[0];
	return sender;
}

static void order(const struct sender *sender, struct kvx_grant *grant)
{
	struct order order = {0};
	size_t bytes = 0;

	if (grant) {
		const void *ticket = kvx_grant_ticket(grant, &bytes);
		cr_assert_leq(bytes, TICKET_MAX);
		memcpy(order.ticket, ticket, bytes);
	}
	order.leaves = sender->leaves;
	order.bytes = (uint32_t)bytes;
	cr_assert_eq(write(sender->to, &order, sizeof(order)), sizeof(order));
}

static struct answer answer_of(const struct sender *sender)
{
	struct answer answer = {.code = KVX_E_SYSTEM};

	cr_assert_eq(read(sender->from, &answer, sizeof(answer)), sizeof(answer));
	return answer;
}

static void sender_end(struct sender *sender)
{
	int status = 0;

	close(sender->to);
	cr_assert_eq(waitpid(sender->pid, &status, 0), sender->pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", (unsigned)status);
	close(sender->from);
}

static void sender_kill(struct sender *sender)
{
	kill(sender->pid, SIGKILL);
	cr_assert_eq(waitpid(sender->pid, NULL, 0), sender->pid);
	close(sender->to);
	close(sender->from);
}

/* --- the receiver --- */

static struct kvx_grant *grant_open(const struct end *end)
{
	uint32_t table[BLOCKS];
	struct kvx_grant *grant;

	for (uint32_t i = 0; i < BLOCKS; i++)
		table[i] = i;
	expect_ok(kvx_grant_open(end->pool, table, BLOCKS, NULL, LEASE_MS, &grant));
	return grant;
}

/* The request comes whole, over that transport. */
static void expect_works(const struct end *end, const struct sender *sender, const char *transport)
{
	memset(fake_cuda_view(end->memory), 0, POOL_BYTES);
	struct kvx_grant *grant = grant_open(end);

	order(sender, grant);
	expect_ok(kvx_grant_wait(grant, KVX_ALL_LAYERS, PATIENCE_MS));
	gpu_expect(end->memory, POOL_BYTES, 7);
	struct answer answer = answer_of(sender);
	cr_assert_eq(answer.code, 0, "%s", answer.text);
	char wanted[64];
	snprintf(wanted, sizeof(wanted), "transport: %s:", transport);
	cr_assert(strstr(answer.text, wanted), "%s", answer.text);
	kvx_grant_close(grant);
}

static void run_pair(uint32_t from, uint32_t to)
{
	struct sender sender = sender_start("cuda_ipc", from, ALLOCATED);
	struct end end;

	end_open(&end, "cuda_ipc", to, ALLOCATED);
	for (uint32_t i = 0; i < 3; i++)
		expect_works(&end, &sender, "cuda_ipc");
	sender_end(&sender);
	end_close(&end);
}

Test(ipc, every_byte_is_right_on_one_gpu)
{
	run_pair(0, 0);
}

Test(ipc, every_byte_is_right_between_two_gpus)
{
	run_pair(0, 1);
}

/* What the receiver's engine has open, streams and events included. */
static uint64_t live_of_engine(uint64_t before)
{
	return fake_cuda_live() - before;
}

Test(ipc, memory_that_its_sender_closes_is_closed_here_by_then)
{
	struct sender sender = sender_start("cuda_ipc", 0, ALLOCATED);
	struct end end;

	end_open(&end, "cuda_ipc", 0, ALLOCATED);
	uint64_t before = fake_cuda_live();
	expect_works(&end, &sender, "cuda_ipc");
	cr_assert_eq(live_of_engine(before), 1);
	order(&sender, NULL);
	cr_assert_eq(answer_of(&sender).code, 0);
	cr_assert_eq(live_of_engine(before), 0);
	sender_end(&sender);
	end_close(&end);
}

/* Copies are slow, and the sender gives up while they are under way. */
Test(ipc, memory_stays_open_while_copies_read_it)
{
	struct sender leaving = sender_start("cuda_ipc", 0, ALLOCATED);
	struct sender other = sender_start("cuda_ipc", 0, ALLOCATED);
	struct end end;

	leaving.leaves = true;
	end_open(&end, "cuda_ipc", 0, ALLOCATED);
	expect_works(&end, &other, "cuda_ipc");
	fake_cuda_set("delay_us", 500);
	struct kvx_grant *grant = grant_open(&end);
	uint64_t copies = fake_cuda_copies();
	order(&leaving, grant);
	while (fake_cuda_copies() < copies + 3)
		sleep_ms(0);
	order(&leaving, NULL);
	cr_assert_eq(answer_of(&leaving).code, 0);
	cr_assert_eq(kvx_grant_wait(grant, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_CANCELLED);
	kvx_grant_close(grant);
	fake_cuda_set("delay_us", 0);
	expect_works(&end, &other, "cuda_ipc");
	sender_end(&other); /* first: it has the other's pipe open too */
	sender_end(&leaving);
	end_close(&end);
}

/* --- fences --- */

static uint64_t count_changed(const struct end *end)
{
	const uint8_t *bytes = fake_cuda_view(end->memory);
	uint64_t changed = 0;

	for (uint32_t i = 0; i < POOL_BYTES; i++)
		changed += bytes[i] != MARK;
	return changed;
}

/* The grant ends while copies are slow, and the blocks are used at once. */
static void end_while_copies_are_slow(bool close)
{
	struct sender sender = sender_start("cuda_ipc", 0, ALLOCATED);
	struct end end;

	end_open(&end, "cuda_ipc", 1, ALLOCATED);
	expect_works(&end, &sender, "cuda_ipc");
	fake_cuda_set("delay_us", 400);
	for (uint32_t round = 0; round < 8; round++) {
		struct kvx_grant *grant = grant_open(&end);
		uint64_t copies = fake_cuda_copies();
		order(&sender, grant);
		while (fake_cuda_copies() < copies + 1 + 12 * round)
			sleep_ms(0);
		if (close)
			kvx_grant_close(grant);
		else
			expect_ok(kvx_grant_revoke(grant, 1000));
		memset(fake_cuda_view(end.memory), MARK, POOL_BYTES);
		copies = fake_cuda_copies();
		sleep_ms(60);
		cr_assert_eq(count_changed(&end), 0, "round %u", round);
		cr_assert_eq(fake_cuda_copies(), copies);
		if (!close)
			kvx_grant_close(grant);
		cr_assert_lt(answer_of(&sender).code, 0);
	}
	fake_cuda_set("delay_us", 0);
	expect_works(&end, &sender, "cuda_ipc");
	sender_end(&sender);
	end_close(&end);
}

Test(ipc, no_byte_lands_after_revoke)
{
	end_while_copies_are_slow(false);
}

Test(ipc, no_byte_lands_after_close)
{
	end_while_copies_are_slow(true);
}

Test(ipc, an_engine_closes_only_when_its_copies_have_ended)
{
	struct sender sender = sender_start("cuda_ipc", 0, ALLOCATED);
	struct end end;

	end_open(&end, "cuda_ipc", 0, ALLOCATED);
	fake_cuda_set("delay_us", 2000);
	struct kvx_grant *grant = grant_open(&end);
	order(&sender, grant);
	while (!fake_cuda_copies())
		sleep_ms(0);
	kvx_engine_close(end.engine);
	memset(fake_cuda_view(end.memory), MARK, POOL_BYTES);
	sleep_ms(50);
	cr_assert_eq(count_changed(&end), 0);
	cr_assert_lt(answer_of(&sender).code, 0);
	sender_end(&sender);
	gpu_free(end.device, end.allocation);
}

/* --- failures --- */

Test(ipc, a_sender_that_is_killed_midway_ends_the_grant_and_nothing_else)
{
	struct sender killed = sender_start("cuda_ipc", 0, ALLOCATED);
	struct sender other = sender_start("cuda_ipc", 1, ALLOCATED);
	struct end end;

	end_open(&end, "cuda_ipc", 0, ALLOCATED);
	expect_works(&end, &other, "cuda_ipc");
	uint64_t live = fake_cuda_live();
	fake_cuda_set("delay_us", 1000);
	struct kvx_grant *grant = grant_open(&end);
	uint64_t copies = fake_cuda_copies();
	order(&killed, grant);
	while (fake_cuda_copies() < copies + 5)
		sleep_ms(0);
	sender_kill(&killed);
	cr_assert_eq(kvx_grant_wait(grant, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_PEER_LOST);
	for (uint32_t layer = 0; layer < geometry.layers; layer++)
		if (kvx_grant_poll(grant, layer) == 1)
			gpu_expect(end.memory + layer * 2 * BLOCKS * 4096, 2 * BLOCKS * 4096, 7);
	kvx_grant_close(grant);
	memset(fake_cuda_view(end.memory), MARK, POOL_BYTES);
	sleep_ms(60);
	cr_assert_eq(count_changed(&end), 0);
	cr_assert_eq(fake_cuda_live(), live);
	fake_cuda_set("delay_us", 0);
	expect_works(&end, &other, "cuda_ipc");
	sender_end(&other);
	end_close(&end);
}

Test(ipc, a_gpu_that_fails_ends_the_grant_with_the_reason)
{
	struct sender sender = sender_start("cuda_ipc", 0, ALLOCATED);
	struct end end;

	end_open(&end, "cuda_ipc", 0, ALLOCATED);
	fake_cuda_set("fail_after", 30);
	struct kvx_grant *grant = grant_open(&end);
	order(&sender, grant);
	cr_assert_eq(kvx_grant_wait(grant, KVX_ALL_LAYERS, PATIENCE_MS), KVX_E_TRANSPORT);
	expect_text("CUDA_ERROR_ILLEGAL_ADDRESS");
	expect_ok(kvx_grant_revoke(grant, 1000));
	kvx_grant_close(grant);
	cr_assert_lt(answer_of(&sender).code, 0);
	kvx_engine_close(end.engine);
	sender_end(&sender);
}

/* --- memory that it does not reach --- */

static void run_over_shm(enum sort from, enum sort to)
{
	struct sender sender = sender_start("cuda_ipc,shm", 0, from);
	struct end end;

	end_open(&end, "cuda_ipc,shm", 0, to);
	expect_works(&end, &sender, "shm");
	sender_end(&sender);
	kvx_engine_close(end.engine);
}

Test(ipc, a_sender_of_mapped_memory_goes_over_shm)
{
	run_over_shm(MAPPED, ALLOCATED);
}

Test(ipc, a_sender_of_a_pools_memory_goes_over_shm)
{
	run_over_shm(OF_A_POOL, ALLOCATED);
}

Test(ipc, a_receiver_of_mapped_memory_is_reached_over_shm)
{
	run_over_shm(ALLOCATED, MAPPED);
}

Test(ipc, memory_that_can_be_opened_goes_over_the_better_transport)
{
	struct sender sender = sender_start("cuda_ipc,shm", 0, ALLOCATED);
	struct end end;

	end_open(&end, "cuda_ipc,shm", 0, ALLOCATED);
	expect_works(&end, &sender, "cuda_ipc");
	sender_end(&sender);
	end_close(&end);
}

Test(ipc, a_peer_without_gpu_memory_is_connected_over_shm)
{
	struct kvx_engine *engine = engine_over("cuda_ipc,shm"),
			  *other = engine_over("cuda_ipc,shm");
	struct kvx_peer_info info;
	struct kvx_peer *peer;

	expect_ok(kvx_peer_connect(engine, kvx_engine_address(other), &peer));
	expect_ok(kvx_peer_wait(peer, PATIENCE_MS));
	kvx_peer_info(peer, &info);
	cr_assert_str_eq(info.transport, "shm");
	kvx_peer_close(peer);
	kvx_engine_close(engine);
	kvx_engine_close(other);
}

/* --- handles --- */

Test(ipc, a_handle_is_of_one_allocation_and_says_why_there_is_none)
{
	const struct gpu_mapping mapping = {
		.device = 0, .mapped = true, .accessible = true, .capable = true};
	uint8_t handle[KVX_HANDLE_BYTES];
	uint64_t offset = 0;
	char *memory = gpu_alloc(0, 65536), *base;

	expect_ok(kvx_memory_cuda.share(memory + 4096, 61440, handle, &offset));
	cr_assert_eq(offset, 4096);
	cr_assert_eq(kvx_memory_cuda.reach(0, handle, 4096, &base), KVX_E_TRANSPORT);
	expect_text("cannot open");
	memset(handle, 0x5a, sizeof(handle));
	cr_assert_eq(kvx_memory_cuda.reach(1, handle, 4096, &base), KVX_E_TRANSPORT);
	gpu_free(0, memory);
	cr_assert_eq(kvx_memory_cuda.share(gpu_map(&mapping, 1), 4096, handle, &offset),
		     KVX_E_UNSUPPORTED);
	expect_text("cuMemMap");
	cr_assert_eq(kvx_memory_cuda.share(allocate(0, OF_A_POOL), 4096, handle, &offset),
		     KVX_E_UNSUPPORTED);
	expect_text("cudaMallocAsync");
	fake_cuda_set("ipc", 0);
	memory = gpu_alloc(0, 65536);
	cr_assert_eq(kvx_memory_cuda.share(memory, 4096, handle, &offset), KVX_E_UNSUPPORTED);
	expect_text("lets no other process open it");
	gpu_free(0, memory);
}

/* A sender that tells of more than its allocation has. */
Test(ipc, what_goes_past_an_allocations_end_is_not_opened)
{
	uint8_t handle[KVX_HANDLE_BYTES];
	int down[2], up[2];
	char *base;

	cr_assert(pipe(down) == 0 && pipe(up) == 0);
	pid_t child = fork();
	if (!child) {
		uint64_t offset;
		expect_ok(kvx_memory_cuda.share(gpu_alloc(0, 65536), 65536, handle, &offset));
		cr_assert_eq(write(up[1], handle, sizeof(handle)), sizeof(handle));
		(void)!read(down[0], handle, 1);
		_exit(0);
	}
	cr_assert_eq(read(up[0], handle, sizeof(handle)), sizeof(handle));
	cr_assert_gt(kvx_cuda_device_count(), 0);
	expect_ok(kvx_cuda_enter(0));
	kvx_cuda_leave();
	uint64_t live = fake_cuda_live();
	cr_assert_eq(kvx_memory_cuda.reach(0, handle, UINT64_C(1) << 40, &base), KVX_E_TRANSPORT);
	expect_text("has 65536 bytes");
	cr_assert_eq(fake_cuda_live(), live);
	expect_ok(kvx_memory_cuda.reach(0, handle, 65536, &base));
	cr_assert_eq(fake_cuda_live(), live + 1);
	kvx_memory_cuda.leave(0, base);
	cr_assert_eq(fake_cuda_live(), live);
	cr_assert_eq(write(down[1], "x", 1), 1);
	cr_assert_eq(waitpid(child, NULL, 0), child);
}
