/* SPDX-License-Identifier: Apache-2.0 */
/* shm between processes of two users: only where both ends allow it. */
#include "support/pair.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534u
#define LEASE_MS 5000u
#define NO_OTHER_USER 100 /* a status */

static const struct kvx_geometry geometry = {
	.layers = 2, .planes = 1, .blocks = 4, .block_bytes = 65536};
static const uint32_t blocks[] = {0, 1, 2, 3};
static const struct way shm = {"shm", false};

/* The prefill worker, as another user: its exit status is the stream's end without the sign. */
static void prefill(int ticket_fd, const char *allowed)
{
	const char *const options[] = {allowed, NULL};
	struct drive drive = {0};
	struct kvx_stream *stream;
	struct kvx_pool *pool;
	char ticket[4096];

	if (setuid(NOBODY))
		_exit(NO_OTHER_USER);
	struct kvx_engine *engine = engine_open(&drive, &shm, "prefill", options);
	ssize_t bytes = read(ticket_fd, ticket, sizeof(ticket));
	if (bytes <= 0 || kvx_pool_alloc(engine, &geometry, &pool))
		_exit(101);
	memset(kvx_pool_block(pool, 0, 0, 0), 0x6b, 2 * 4 * 65536);
	if (kvx_stream_open(pool, blocks, 4, NULL, ticket, (size_t)bytes, &stream) ||
	    kvx_stream_layers_ready(stream, 0, 2))
		_exit(102);
	_exit(-kvx_stream_wait(stream, KVX_ALL_LAYERS, LEASE_MS));
}

/* How the stream of another user's process ended. */
static int try_as(const char *ours, const char *theirs)
{
	const char *const options[] = {ours, NULL};
	struct drive drive = {0};
	struct kvx_grant *grant;
	struct kvx_pool *pool;
	int ends[2], status;
	size_t bytes;

	if (geteuid() != 0)
		cr_skip_test("only root can be two users");
	cr_assert_eq(pipe(ends), 0);
	pid_t child = fork();
	if (child == 0)
		prefill(ends[0], theirs);
	struct kvx_engine *engine = engine_open(&drive, &shm, "decode", options);
	expect_ok(kvx_pool_alloc(engine, &geometry, &pool));
	expect_ok(kvx_grant_open(pool, blocks, 4, NULL, LEASE_MS, &grant));
	const void *ticket = kvx_grant_ticket(grant, &bytes);
	cr_assert_eq(write(ends[1], ticket, bytes), (ssize_t)bytes);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == NO_OTHER_USER)
		cr_skip_test("there is no other user in this container");
	if (!WEXITSTATUS(status))
		for (uint32_t layer = 0; layer < 2; layer++)
			cr_assert_eq(*(uint8_t *)kvx_pool_block(pool, layer, 0, 3), 0x6b);
	kvx_grant_close(grant);
	engine_close(&drive, engine);
	close(ends[0]);
	close(ends[1]);
	return -WEXITSTATUS(status);
}

Test(users, shm_connects_no_other_user_by_itself, .timeout = 60)
{
	cr_assert_eq(try_as("shm_users=", "shm_users="), KVX_E_UNREACHABLE);
}

Test(users, shm_needs_the_leave_of_both_ends, .timeout = 60)
{
	cr_assert_eq(try_as("shm_users=65534", "shm_users="), KVX_E_UNREACHABLE);
	cr_assert_eq(try_as("shm_users=", "shm_users=0"), KVX_E_UNREACHABLE);
}

Test(users, shm_connects_users_that_allow_each_other, .timeout = 60)
{
	cr_assert_eq(try_as("shm_users=7,65534", "shm_users=0,12"), 0);
}

Test(users, a_list_that_is_none_is_refused)
{
	struct kvx_options *options;
	struct kvx_engine *engine;

	expect_ok(kvx_options_new(&options));
	expect_ok(kvx_options_set(options, "transports", "shm"));
	expect_ok(kvx_options_set(options, "shm_users", "12,root"));
	expect_fail(kvx_engine_open(options, &engine), KVX_E_INVALID, "shm_users", "root");
	kvx_options_free(options);
}
