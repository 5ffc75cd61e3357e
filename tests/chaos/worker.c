/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker of fault tests that can also be pulled from, lives in a time of its own, and shows what
 * it holds. Commands more; those without a use for SLOT take 0:
 *
 *	offer SLOT KEY LEASE_MS   orders the slot's blocks by the key and offers them; fill follows
 *	pull SLOT TICKET          has the slot's grant fed by an offer
 *	clock SLOT SECONDS        from now on the wall clock is so much ahead, or behind
 *	forget SLOT               ends the connections with all peers
 *	state SLOT                what a leak would leave behind
 */
#include "clock.h"

#include "../fault/worker.h"

#include <dirent.h>
#include <kvxfer/operate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Without one if there is no memory to write it. */
static void answer_ticket(const uint8_t *ticket, size_t bytes)
{
	char *text = calloc(2, bytes + 1);

	for (size_t i = 0; text && i < bytes; i++)
		sprintf(text + 2 * i, "%02x", ticket[i]);
	worker_answer(0, "%s", text ? text : "");
	free(text);
}

/* The blocks begin somewhere else with each key. */
static void on_offer(struct worker *worker, uint32_t slot, char *arguments)
{
	uint64_t key = strtoull(arguments, &arguments, 10);
	uint32_t lease_ms = (uint32_t)strtoul(arguments, NULL, 10);
	struct slot *of = &worker->slot[slot];
	size_t bytes;

	for (uint32_t i = 0; i < worker->blocks; i++)
		of->table[i] =
			slot * worker->blocks + (uint32_t)((key % 1000 + i) % worker->blocks);
	int error = kvx_offer_open(worker->pool, of->table, worker->blocks, NULL, lease_ms,
				   &of->stream);
	if (error) {
		worker_answer_result(error);
		return;
	}
	const uint8_t *ticket = kvx_offer_ticket(of->stream, &bytes);
	answer_ticket(ticket, bytes);
}

static void on_pull(struct worker *worker, uint32_t slot, char *arguments)
{
	size_t bytes;
	uint8_t *ticket = worker_ticket(arguments, &bytes);

	if (!ticket)
		return;
	worker_answer_result(kvx_grant_pull(worker->slot[slot].grant, ticket, bytes));
	free(ticket);
}

static void on_clock(struct worker *worker, uint32_t slot, char *arguments)
{
	(void)worker;
	(void)slot;
	chaos_clock_shift(strtoll(arguments, NULL, 10));
	worker_answer(0, "%s", "");
}

#define PEERS_MAX 64u

static void on_forget(struct worker *worker, uint32_t slot, char *arguments)
{
	struct kvx_peer_view *peers = calloc(PEERS_MAX, sizeof(*peers));
	int count = peers ? kvx_engine_peers(worker->engine, 0, peers, PEERS_MAX) : KVX_E_MEMORY;

	(void)slot;
	(void)arguments;
	/* One that is gone by now is not an error. */
	for (int i = 0; i < count; i++)
		kvx_engine_forget(worker->engine, peers[i].id);
	worker_answer(count < 0 ? count : 0, "%d", count);
	free(peers);
}

static uint32_t entries(const char *path)
{
	DIR *folder = opendir(path);
	uint32_t count = 0;

	while (folder && readdir(folder))
		count++;
	if (folder)
		closedir(folder);
	return count;
}

/* Mappings that other processes could see: private ones come and go with malloc(). */
static uint32_t shared_mappings(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	char line[512], permissions[8];
	uint32_t count = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%*s %7s", permissions) == 1)
			count += permissions[3] == 's';
	if (file)
		fclose(file);
	return count;
}

static void on_state(struct worker *worker, uint32_t slot, char *arguments)
{
	static struct kvx_grant_view grants[1];
	static struct kvx_stream_view streams[1];
	static struct kvx_peer_view peers[1];
	struct kvx_pool_view pool = {0};
	struct kvx_metrics metrics;

	(void)slot;
	(void)arguments;
	kvx_engine_pools(worker->engine, 0, &pool, 1);
	kvx_engine_metrics(worker->engine, &metrics);
	worker_answer(0,
		      "descriptors=%u threads=%u mappings=%u grants=%d streams=%d peers=%d "
		      "granted_blocks=%u pool_users=%u grants_open=%u streams_open=%u "
		      "offers_open=%u peers_up=%u peers_connecting=%u regions=%u",
		      entries("/proc/self/fd"), entries("/proc/self/task"), shared_mappings(),
		      kvx_engine_grants(worker->engine, 0, grants, 1),
		      kvx_engine_streams(worker->engine, 0, streams, 1),
		      kvx_engine_peers(worker->engine, 0, peers, 1), pool.granted_blocks,
		      pool.users, metrics.grants_open, metrics.streams_open, metrics.offers_open,
		      metrics.peers_up, metrics.peers_connecting, metrics.regions);
}

const struct worker_command *worker_commands_more(void)
{
	static const struct worker_command commands[] = {
		{"offer", on_offer},   {"pull", on_pull},   {"clock", on_clock},
		{"forget", on_forget}, {"state", on_state}, {NULL, NULL},
	};

	return commands;
}
