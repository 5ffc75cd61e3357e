/* SPDX-License-Identifier: Apache-2.0 */
/* Out of descriptors, out of address space: a clear error, and an engine that works afterwards. */
#include "support/pair.h"
#include "support/sanitized.h"
#include "support/sockets.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static const struct kvx_geometry geometry = {
	.layers = 2, .planes = 2, .blocks = 16, .block_bytes = 4096};

static const char *const options[] = {"connect_timeout_ms=1000", NULL};

static struct rlimit limit_to(__rlimit_resource_t resource, rlim_t amount)
{
	struct rlimit before, now;

	cr_assert_eq(getrlimit(resource, &before), 0);
	now = before;
	now.rlim_cur = amount;
	cr_assert_eq(setrlimit(resource, &now), 0);
	return before;
}

/* --- descriptors --- */

static void expect_descriptor_error(int error)
{
	cr_assert_eq(error, KVX_E_SYSTEM, "%s: %s", kvx_error_name(error), kvx_error_text());
	cr_assert(strstr(kvx_error_text(), "open files") ||
			  strstr(kvx_error_text(), "RLIMIT_NOFILE"),
		  "%s", kvx_error_text());
}

/* However few there are, opening fails cleanly or works. */
EACH_WAY_TEST(engines_open_or_explain_with_few_descriptors)
{
	uint32_t descriptors = count_descriptors(), free_from = lowest_free_descriptor(),
		 failed = 0;
	struct kvx_engine *engine;

	for (uint32_t more = 0; more < 16; more++) {
		struct rlimit before = limit_to(RLIMIT_NOFILE, free_from + more);
		int error = engine_try(way, "narrow", options, &engine);
		cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
		if (error == 0) {
			kvx_engine_close(engine);
		} else {
			expect_descriptor_error(error);
			failed++;
		}
		cr_assert_eq(count_descriptors(), descriptors, "with %u more", more);
	}
	cr_assert(failed > 0 && failed < 16, "%u failed", failed);
}

static void narrow(struct pair *pair, uint32_t more, uint64_t id)
{
	struct rlimit before = limit_to(RLIMIT_NOFILE, lowest_free_descriptor() + more);
	struct request request;

	request_open(&request, pair, id, 0, 16, TABLE_RANDOM);
	expect_ok(kvx_stream_layers_ready(request.stream, 0, geometry.layers));
	int result = wait_stream(&pair->drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS);
	cr_assert(result == 0 || result == KVX_E_UNREACHABLE, "with %u more: %s: %s", more,
		  kvx_error_name(result), kvx_error_text());
	if (result)
		cr_assert(strlen(kvx_error_text()) > 20, "%s", kvx_error_text());
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	request_close(&request);
}

/* Links are made, or refused with a reason; with enough descriptors again they are made. */
EACH_WAY_TEST(links_are_made_or_refused_with_few_descriptors)
{
	struct pair pair;

	for (uint32_t more = 0; more < 10; more++) {
		pair_open(&pair, way, &geometry, options);
		narrow(&pair, more, 1);
		pair_expect_works(&pair, 2);
		pair_close(&pair);
	}
}

EACH_WAY_TEST(pools_and_events_explain_without_descriptors)
{
	struct kvx_region *region;
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	request_open(&request, &pair, 1, 0, 16, TABLE_RANDOM);
	drive_for(&pair.drive, 50);
	struct rlimit before = limit_to(RLIMIT_NOFILE, lowest_free_descriptor());
	int alloc = kvx_region_alloc(pair.sender, 1 << 20, &region);
	expect_descriptor_error(alloc);
	int fd = kvx_grant_fd(request.grant);
	expect_descriptor_error(fd);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

/* --- address space --- */

#ifndef SANITIZED

static uint64_t address_space_bytes(void)
{
	FILE *status = fopen("/proc/self/statm", "r");
	unsigned long pages = 0;

	cr_assert(status && fscanf(status, "%lu", &pages) == 1);
	fclose(status);
	return (uint64_t)pages * 4096;
}

EACH_WAY_TEST(a_pool_that_does_not_fit_the_address_space_is_explained)
{
	const struct kvx_geometry large = {
		.layers = 32, .planes = 2, .blocks = 1024, .block_bytes = 65536};
	struct kvx_pool *pool;
	struct pair pair;

	pair_open(&pair, way, &geometry, options);
	/* Each thread that allocates for the first time takes 128 MiB of addresses. */
	struct rlimit before = limit_to(RLIMIT_AS, address_space_bytes() + (UINT64_C(3) << 30));
	expect_fail(kvx_pool_alloc(pair.sender, &large, &pool), KVX_E_MEMORY, "4294967296 bytes",
		    "RLIMIT_AS");
	pair_expect_works(&pair, 1);
	cr_assert_eq(setrlimit(RLIMIT_AS, &before), 0);
	pair_expect_works(&pair, 2);
	pair_close(&pair);
}

/* The receiver cannot map the sender's pool: it reads it otherwise, or says so. */
Test(shm, a_peers_pool_that_does_not_fit_the_address_space, .timeout = 60)
{
	const struct kvx_geometry large = {
		.layers = 8, .planes = 2, .blocks = 256, .block_bytes = 65536};
	struct way way = {"shm", false};
	struct request request;
	struct pair pair;

	pair_open(&pair, &way, &large, options);
	request_open(&request, &pair, 1, 0, 16, TABLE_RANDOM);
	struct rlimit before = limit_to(RLIMIT_AS, address_space_bytes() + (96 << 20));
	expect_ok(kvx_stream_layers_ready(request.stream, 0, large.layers));
	int result = wait_stream(&pair.drive, request.stream, KVX_ALL_LAYERS, PATIENCE_MS);
	if (result)
		cr_assert(strlen(kvx_error_text()) > 20, "%s", kvx_error_text());
	else
		request_run(&request);
	cr_assert_eq(setrlimit(RLIMIT_AS, &before), 0);
	request_close(&request);
	request_open(&request, &pair, 2, 0, 256, TABLE_RANDOM);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

#endif

/* Nothing that moves over these transports needs locked memory. */
EACH_WAY_TEST(no_memory_has_to_be_locked)
{
	struct pair pair;

	limit_to(RLIMIT_MEMLOCK, 0);
	pair_open(&pair, way, &geometry, options);
	pair_expect_works(&pair, 1);
	pair_close(&pair);
}
