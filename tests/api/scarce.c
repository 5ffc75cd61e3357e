/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two engines meet while one allocation fails, each allocation in turn: the request completes or
 * ends with an error, nothing is left of it, and the next one works. The allocator's functions
 * stand here in libc's place: the library's calls end up in the program's definitions.
 */
#include "support/pair.h"
#include "support/sanitized.h"

#include <dirent.h>
#include <kvxfer/operate.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define HELD_MS 5000
#define LEASE_MS 60 /* most attempts last so long */
#define ALLOCATIONS_MAX 500

/* Allocations left until one fails; below 0: none does. Any thread counts. */
static atomic_int left = -1;

#ifdef SANITIZED
static const bool replaced = false; /* the sanitizer has taken the allocator's place */
#else
static const bool replaced = true;

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

static bool fails(void)
{
	return atomic_load_explicit(&left, memory_order_relaxed) >= 0 &&
	       atomic_fetch_sub(&left, 1) == 0;
}

void *malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
	return fails() ? NULL : __libc_realloc(memory, size);
}
#endif

static const struct kvx_geometry geometry = {
	.layers = 4, .planes = 2, .blocks = 8, .block_bytes = 4096};

/* Descriptors, and mappings that others could see. */
static uint32_t held(void)
{
	DIR *folder = opendir("/proc/self/fd");
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512], permissions[8];
	uint32_t count = 0;

	while (readdir(folder))
		count++;
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%*s %7s", permissions) == 1)
			count += permissions[3] == 's';
	closedir(folder);
	fclose(maps);
	return count;
}

/* A connection that was half made is kept for connect_timeout_ms. */
static bool nothing_is_left(void *argument)
{
	const uint32_t *before = argument;

	return held() == *before;
}

/* They end their connections with each other, so that they have to meet again. */
static bool nobody_is_connected(void *argument)
{
	struct pair *pair = argument;
	struct kvx_engine *engines[] = {pair->sender, pair->receiver};
	struct kvx_peer_view peer;
	uint32_t count = 0;

	for (uint32_t i = 0; i < 2; i++) {
		if (kvx_engine_peers(engines[i], 0, &peer, 1) == 0)
			continue;
		kvx_engine_forget(engines[i], peer.id);
		count++;
	}
	return count == 0;
}

/* Whatever it comes to, it does so before its lease has ended for long. */
static void try_request(struct pair *pair, struct request *request)
{
	size_t bytes;

	if (kvx_grant_open(pair->to, request->to, request->count, NULL, LEASE_MS, &request->grant) <
	    0)
		return;
	const void *ticket = kvx_grant_ticket(request->grant, &bytes);
	if (ticket && kvx_stream_open(pair->from, request->from, request->count, NULL, ticket,
				      bytes, &request->stream) == 0)
		expect_ok(kvx_stream_layers_ready(request->stream, 0, geometry.layers));
	int code = wait_grant(&pair->drive, request->grant, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert_neq(code, KVX_E_TIMEDOUT);
	cr_assert_neq(code, KVX_E_LIMIT, "%s", kvx_error_text());
	if (!request->stream)
		return;
	code = wait_stream(&pair->drive, request->stream, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert_neq(code, KVX_E_TIMEDOUT);
	cr_assert_neq(code, KVX_E_LIMIT, "%s", kvx_error_text());
}

EACH_TRANSPORT_TEST(an_allocation_that_fails_while_engines_meet_leaves_nothing)
{
	struct request request;
	struct pair pair;
	bool failed = true;
	int nth = 0;

	if (!replaced)
		cr_skip_test("the sanitizer's allocator cannot be replaced");
	if (strcmp(way->transport, "verbs") == 0)
		cr_skip_test("the made-up device allocates, too");
	pair_open(&pair, way, &geometry, (const char *const[]){"connect_timeout_ms=300", NULL});
	pair_expect_works(&pair, 1);
	cr_assert(drive_until(&pair.drive, nobody_is_connected, &pair, PATIENCE_MS));
	uint32_t before = held();
	for (; failed; nth++) {
		cr_assert_lt(nth, ALLOCATIONS_MAX);
		request_init(&request, &pair, 2, 0, 8, TABLE_RANDOM);
		atomic_store(&left, nth);
		try_request(&pair, &request);
		failed = atomic_exchange(&left, -1) < 0;
		request_close(&request);
		cr_assert(drive_until(&pair.drive, nobody_is_connected, &pair, PATIENCE_MS));
		cr_assert(drive_until(&pair.drive, nothing_is_left, &before, HELD_MS),
			  "allocation %d: %u descriptors and mappings, then %u", nth, before,
			  held());
		pair_expect_works(&pair, 3);
		cr_assert(drive_until(&pair.drive, nobody_is_connected, &pair, PATIENCE_MS));
	}
	cr_assert_gt(nth, 5, "the library's allocations are not seen");
	pair_close(&pair);
}
