/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Once warm, a stream allocates nothing from layer ready to whole. The allocator's functions are
 * counted here, in their place: the library's calls end up in the program's definitions.
 */
#include "support/pair.h"
#include "support/sanitized.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_bool counting;
static atomic_uint calls;

#ifdef SANITIZED
static const bool counted = false; /* the sanitizer has taken the allocator's place */
#else
static const bool counted = true;

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void __libc_free(void *memory);

static void note_call(void)
{
	if (atomic_load_explicit(&counting, memory_order_relaxed))
		atomic_fetch_add(&calls, 1);
}

void *malloc(size_t size)
{
	note_call();
	return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	note_call();
	return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
	note_call();
	return __libc_realloc(memory, size);
}

void free(void *memory)
{
	if (memory)
		note_call();
	__libc_free(memory);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	note_call();
	return (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
}
#endif

static const struct kvx_geometry geometry = {
	.layers = 64, .planes = 2, .blocks = 64, .block_bytes = 4096};

/* Nothing but the library runs while calls are counted. */
static void move_all(struct pair *pair, struct request *request)
{
	expect_ok(kvx_stream_layers_ready(request->stream, 0, 1));
	expect_ok(wait_grant(&pair->drive, request->grant, 0, PATIENCE_MS));
	expect_ok(wait_stream(&pair->drive, request->stream, 0, PATIENCE_MS));
	atomic_store(&counting, true);
	for (uint32_t layer = 1; layer < geometry.layers; layer++)
		kvx_stream_layers_ready(request->stream, layer, 1);
	int granted = wait_grant(&pair->drive, request->grant, KVX_ALL_LAYERS, PATIENCE_MS);
	int streamed = wait_stream(&pair->drive, request->stream, KVX_ALL_LAYERS, PATIENCE_MS);
	atomic_store(&counting, false);
	expect_ok(granted);
	expect_ok(streamed);
}

EACH_WAY_TEST(a_warm_stream_allocates_nothing)
{
	struct request request;
	struct pair pair;

	if (!counted)
		cr_skip_test("the sanitizer's allocator cannot be replaced");
	if (strcmp(way->transport, "verbs") == 0)
		cr_skip_test("the made-up device allocates its events");
	pair_open(&pair, way, &geometry, NULL);
	pair_expect_works(&pair, 1);
	for (uint64_t id = 2; id < 6; id++) {
		request_open(&request, &pair, id, 0, 64, TABLE_RANDOM);
		move_all(&pair, &request);
		cr_assert_eq(calls, 0, "%u calls of the allocator", calls);
		request_close(&request);
	}
	pair_close(&pair);
}

Test(allocation, calls_are_counted)
{
	if (!counted)
		cr_skip_test("the sanitizer's allocator cannot be replaced");
	struct drive drive = {0};
	struct way way = {"loop", true};
	atomic_store(&counting, true);
	struct kvx_engine *engine = engine_open(&drive, &way, "engine", NULL);
	atomic_store(&counting, false);
	cr_assert(calls > 2, "the library's calls are not seen");
	engine_close(&drive, engine);
}
