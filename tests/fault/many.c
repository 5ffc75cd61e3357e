/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker whose grants several others feed. One command more:
 *
 *	grant_many SLOT LEASE_MS SENDERS
 *
 * The pools are alike, so the senders share the request's blocks.
 */
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

static void answer_ticket(struct kvx_grant *grant)
{
	size_t bytes;
	const uint8_t *ticket = kvx_grant_ticket(grant, &bytes);
	char *text = calloc(2, bytes + 1);

	for (size_t i = 0; text && i < bytes; i++)
		sprintf(text + 2 * i, "%02x", ticket[i]);
	worker_answer(text ? 0 : KVX_E_MEMORY, "%s", text ? text : "");
	free(text);
}

/* The slot's blocks, last one first: another order than the senders'. */
static void on_grant_many(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t lease_ms = (uint32_t)strtoul(arguments, &arguments, 10);
	const struct kvx_grant_options special = {.senders =
							  (uint32_t)strtoul(arguments, NULL, 10)};
	struct slot *of = &worker->slot[slot];

	for (uint32_t i = 0; i < worker->blocks; i++)
		of->table[i] = (slot + 1) * worker->blocks - 1 - i;
	int error = kvx_grant_open(worker->pool, of->table, worker->blocks, &special, lease_ms,
				   &of->grant);
	if (error)
		worker_answer_result(error);
	else
		answer_ticket(of->grant);
}

const struct worker_command worker_commands_more[] = {
	{"grant_many", on_grant_many},
	{NULL, NULL},
};
