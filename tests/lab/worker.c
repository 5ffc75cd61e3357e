/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker of fault tests that can be a hostile sender: it writes with keys that it was not given,
 * or not any more. All else it does as the library does. It runs with progress=caller, so that
 * nobody else touches what it changes.
 *
 *	keys SLOT          waits for the keys of the slot's stream and keeps a copy
 *	forge SLOT MASK    waits for them and flips these bits of each
 *	replay SLOT        waits for them and puts the copy in their place
 */
#include "../fault/worker.h"
#include "base/clock.h"
#include "core/peer.h"
#include "core/stream.h"
#include "verbs/verbs.h"

#include <stdlib.h>
#include <string.h>

#define LIMIT_NS (10 * KVX_NS_PER_S)
#define KEYS_MAX 1024

static uint32_t copy[KEYS_MAX];

/* The keys that the receiver has given for a stream. NULL: not yet. */
static struct kvx_verbs_keys *find(const struct kvx_stream *stream)
{
	struct kvx_list *entry, *next;

	if (!stream->open)
		return NULL;
	struct kvx_verbs_link *link = (struct kvx_verbs_link *)stream->peer->link;
	kvx_list_for_each (entry, next, &link->keys) {
		struct kvx_verbs_keys *keys = kvx_container_of(entry, struct kvx_verbs_keys, entry);
		if (keys->slot == stream->ticket.slot &&
		    keys->generation == stream->ticket.generation)
			return keys;
	}
	return NULL;
}

/* Returns how many there are, 0: none has come. */
static uint32_t wait_for_keys(struct worker *worker, uint32_t slot, uint32_t **keys)
{
	const struct kvx_stream *stream = worker->slot[slot].stream;
	int64_t deadline_ns = kvx_now_ns() + LIMIT_NS;

	while (kvx_now_ns() < deadline_ns && !kvx_transfer_ended(&stream->transfer)) {
		kvx_engine_progress(worker->engine);
		struct kvx_verbs_keys *found = find(stream);
		if (!found)
			continue;
		uint32_t count = found->pieces * stream->peer->link->rails;
		*keys = found->keys;
		return count <= KEYS_MAX ? count : 0;
	}
	return 0;
}

static void answer(uint32_t count)
{
	worker_answer(count ? 0 : KVX_E_TIMEDOUT, "%u keys", count);
}

static void on_keys(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t *keys, count = wait_for_keys(worker, slot, &keys);

	(void)arguments;
	if (count)
		memcpy(copy, keys, count * sizeof(*keys));
	answer(count);
}

static void on_forge(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t *keys, count = wait_for_keys(worker, slot, &keys);
	uint32_t mask = (uint32_t)strtoul(arguments, NULL, 16);

	for (uint32_t i = 0; i < count; i++)
		keys[i] ^= mask;
	answer(count);
}

static void on_replay(struct worker *worker, uint32_t slot, char *arguments)
{
	uint32_t *keys, count = wait_for_keys(worker, slot, &keys);

	(void)arguments;
	if (count)
		memcpy(keys, copy, count * sizeof(*keys));
	answer(count);
}

const struct worker_command *worker_commands_more(void)
{
	static const struct worker_command commands[] = {
		{"keys", on_keys}, {"forge", on_forge}, {"replay", on_replay}, {NULL, NULL}};

	return commands;
}
