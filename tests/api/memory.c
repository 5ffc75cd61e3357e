/* SPDX-License-Identifier: Apache-2.0 */
/* What an engine needs beside its pools. */
#include "support/pair.h"
#include "support/sanitized.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef SANITIZED
static const bool measurable = false; /* the sanitizer keeps memory of its own for each byte */
#else
static const bool measurable = true;
#endif

#define PEERS 64u
#define GRANTS 1000u
#define BLOCKS 512u
#define MOST_KIB (16u * 1024)

static long resident_kib(void)
{
	FILE *status = fopen("/proc/self/status", "r");
	char line[128];
	long kib = 0;

	cr_assert(status);
	while (fgets(line, sizeof(line), status))
		if (strncmp(line, "VmRSS:", 6) == 0)
			kib = atol(line + 6);
	fclose(status);
	return kib;
}

/* The child: 64 engines that connect and stay until the parent closes its end of the pipe. */
static void hold_peers(const char *transport, const char *address, int told, int until)
{
	struct way way = {transport, true};
	struct drive drive = {0};
	struct kvx_peer *peers[PEERS];
	char end;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (uint32_t i = 0; i < PEERS; i++) {
		struct kvx_engine *engine = engine_open(&drive, &way, "peer", NULL);
		if (kvx_peer_connect(engine, address, &peers[i]))
			_exit(1);
	}
	for (uint32_t i = 0; i < PEERS; i++)
		if (wait_peer(&drive, peers[i], PATIENCE_MS))
			_exit(2);
	if (write(told, "x", 1) != 1)
		_exit(3);
	while (read(until, &end, 1) < 0)
		drive_for(&drive, 20);
	_exit(0);
}

static pid_t start_peers(const char *transport, const char *address, int *told, int *until)
{
	int there[2], back[2];

	cr_assert(pipe2(there, O_CLOEXEC) == 0 && pipe2(back, O_CLOEXEC | O_NONBLOCK) == 0);
	pid_t child = fork();
	cr_assert(child >= 0);
	if (child == 0) {
		close(back[1]);
		hold_peers(transport, address, there[1], back[0]);
	}
	close(there[1]);
	close(back[0]);
	*told = there[0];
	*until = back[1];
	return child;
}

static void expect_modest(const char *transport)
{
	const struct kvx_geometry geometry = {
		.layers = 36, .planes = 2, .blocks = GRANTS * BLOCKS, .block_bytes = 4};
	struct way way = {transport, false};
	struct kvx_grant **grants = calloc(GRANTS, sizeof(struct kvx_grant *));
	uint32_t *table = calloc(GRANTS * BLOCKS, sizeof(*table));
	struct drive none = {0};
	struct kvx_pool *pool;
	int told, until, status;
	char ready;

	if (!measurable)
		cr_skip_test("a sanitizer's own memory would be measured");
	for (uint32_t i = 0; i < GRANTS * BLOCKS; i++)
		table[i] = (i * 7919u) % (GRANTS * BLOCKS);
	long before_kib = resident_kib();
	struct kvx_engine *engine = engine_open(&none, &way, "hub", NULL);
	long bare_kib = resident_kib();
	expect_ok(kvx_pool_alloc(engine, &geometry, &pool));
	before_kib += resident_kib() - bare_kib;
	pid_t child = start_peers(transport, kvx_engine_address(engine), &told, &until);
	cr_assert_eq(read(told, &ready, 1), 1, "the peers did not connect");
	for (uint32_t i = 0; i < GRANTS; i++)
		expect_ok(
			kvx_grant_open(pool, table + i * BLOCKS, BLOCKS, NULL, 60000, &grants[i]));
	long used_kib = resident_kib() - before_kib;
	fprintf(stderr, "%s: %ld KiB for %u peers and %u grants of %u blocks, %u layers\n",
		transport, used_kib, PEERS, GRANTS, BLOCKS, geometry.layers);
	close(until);
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the peers ended with %x", status);
	cr_assert_leq(used_kib, MOST_KIB);
	engine_close(&none, engine);
	close(told);
	free(grants);
	free(table);
}

Test(shm, sixty_four_peers_and_a_thousand_grants_need_little_memory, .timeout = 90)
{
	expect_modest("shm");
}

Test(tcp, sixty_four_peers_and_a_thousand_grants_need_little_memory, .timeout = 90)
{
	expect_modest("tcp");
}
