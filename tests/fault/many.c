/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker whose grants several others feed. Commands more:
 *
 *	grant_many SLOT LEASE_MS SENDERS
 *	offer SLOT LEASE_MS
 *	pull SLOT TICKET
 *
 * The pools are alike, so the senders share the request's blocks. An offer's are filled by another
 * command; the grant that pulls is open already.
 */
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void answer_ticket(const uint8_t *ticket, size_t bytes)
{
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
	if (error) {
		worker_answer_result(error);
		return;
	}
	size_t bytes;
	const uint8_t *ticket = kvx_grant_ticket(of->grant, &bytes);
	answer_ticket(ticket, bytes);
}

/* The slot's blocks, first one first. */
static void on_offer(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t lease_ms = (uint32_t)strtoul(arguments, NULL, 10);
	struct slot *of = &worker->slot[slot];

	for (uint32_t i = 0; i < worker->blocks; i++)
		of->table[i] = slot * worker->blocks + i;
	int error = kvx_offer_open(worker->pool, of->table, worker->blocks, NULL, lease_ms,
				   &of->stream);
	if (error) {
		worker_answer_result(error);
		return;
	}
	size_t bytes;
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

const struct worker_command *worker_commands_more(void)
{
	static const struct worker_command commands[] = {
		{"grant_many", on_grant_many},
		{"offer", on_offer},
		{"pull", on_pull},
		{NULL, NULL},
	};

	return commands;
}
