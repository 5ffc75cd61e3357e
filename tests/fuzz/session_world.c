/* SPDX-License-Identifier: Apache-2.0 */
#include "session_world.h"

#include "inject.h"
#include "plan/plan.h"

#include <kvxfer/kvxfer.h>

#define UNTOUCHED 0xee
#define LANDED 0x11
#define LEASE_MS 600000u
#define GRANT_BLOCKS 4u

/* The transports of this build. */
const struct kvx_transport_ops *const kvx_transports[] = {&inject_transport,
							  &inject_one_sided_transport, NULL};

const struct kvx_transport_ops *kvx_transport_find(const char *name)
{
	for (size_t i = 0; kvx_transports[i]; i++)
		if (strcmp(kvx_transports[i]->name, name) == 0)
			return kvx_transports[i];
	return NULL;
}

struct world world;
uint8_t world_to[WORLD_BYTES], world_from[WORLD_BYTES];

static const uint32_t grant_blocks[WORLD_GRANTS][GRANT_BLOCKS] = {{5, 6, 1, 0}, {2, 7, 3, 4}};
static const uint32_t stream_blocks[GRANT_BLOCKS] = {2, 3, 7, 4};

static void ok(int result, const char *what)
{
	fuzz_require(result >= 0, "%s: %s", what, kvx_error_text());
}

/* What a log gets is a line for people. */
FUZZ_UNTRACED static void log_line(void *context, enum kvx_log_level level, const char *line)
{
	(void)context;
	(void)level;
	fuzz_require(line[0], "an empty line");
	for (; *line; line++)
		fuzz_require((uint8_t)*line >= 0x20 && *line != 0x7f, "a control character");
}

/* ----------------------------------------------------------------------------- opening, closing */

static void open_engine(void)
{
	struct kvx_options *options;

	ok(kvx_options_new(&options), "options");
	ok(kvx_options_set(options, "progress", "caller"), "progress");
	ok(kvx_options_set(options, "name", "attacked"), "name");
	ok(kvx_options_set(options, "topology", "off"), "topology");
	ok(kvx_options_set(options, "drain_ms", "0"), "drain_ms");
	ok(kvx_options_set(options, "heartbeat_ms", "60000"), "heartbeat_ms");
	ok(kvx_options_set(options, "staging", world.choice.staging ? "on" : "auto"), "staging");
	ok(kvx_options_set(options, "staging_bytes", "256K"), "staging_bytes");
	ok(kvx_options_set(options, "transports", world.choice.one_sided ? "fuzz1" : "fuzz"),
	   "transports");
	kvx_options_log(options, log_line, NULL);
	ok(kvx_engine_open(options, &world.engine), "engine");
	kvx_options_free(options);
}

static struct kvx_pool *open_pool(uint8_t *memory, struct kvx_region **region)
{
	struct kvx_tensor tensors[WORLD_LAYERS * WORLD_PLANES];
	struct kvx_pool *pool;

	ok(kvx_region_register(world.engine, memory, WORLD_BYTES, region), "region");
	for (uint32_t i = 0; i < WORLD_LAYERS * WORLD_PLANES; i++)
		tensors[i] = (struct kvx_tensor){.region = *region,
						 .offset = (uint64_t)i * WORLD_BLOCKS *
							   WORLD_BLOCK_BYTES};
	ok(kvx_pool_open(world.engine, &world.geometry, tensors, &pool), "pool");
	return pool;
}

void world_open(const struct world_choice *choice)
{
	world = (struct world){.choice = *choice,
			       .geometry = {.layers = WORLD_LAYERS,
					    .planes = WORLD_PLANES,
					    .blocks = WORLD_BLOCKS,
					    .block_tokens = WORLD_BLOCK_TOKENS}};
	if (choice->heads) {
		world.geometry.layout = KVX_LAYOUT_HND;
		world.geometry.heads = world.geometry.heads_total = 2;
		world.geometry.head_bytes = WORLD_BLOCK_BYTES / 2 / WORLD_BLOCK_TOKENS;
	} else {
		world.geometry.block_bytes = WORLD_BLOCK_BYTES;
	}
	memset(world_to, UNTOUCHED, sizeof(world_to));
	memset(world_from, UNTOUCHED, sizeof(world_from));
	inject_reset();
	open_engine();
	world.to = open_pool(world_to, &world.to_region);
	world.from = open_pool(world_from, &world.from_region);
}

FUZZ_UNTRACED static void expect_rest_untouched(void)
{
	for (size_t i = 0; i < WORLD_BYTES; i++) {
		bool landed = false;
		for (uint32_t g = 0; g < WORLD_GRANTS; g++)
			landed |= world.grants[g].landed[i] > 0;
		fuzz_require(landed || world_to[i] == UNTOUCHED, "byte %zu was not granted", i);
		fuzz_require(world_from[i] == UNTOUCHED, "byte %zu of the sender's pool", i);
	}
}

void world_close(void)
{
	for (uint32_t i = 0; i < WORLD_STREAMS; i++)
		world_stream_close(i);
	for (uint32_t i = 0; i < WORLD_GRANTS; i++)
		world_grant_close(i);
	kvx_engine_close(world.engine);
	expect_rest_untouched();
}

/* -------------------------------------------------------------------------------------- grants */

static uint8_t *block_of(uint8_t *map, uint32_t layer, uint32_t plane, uint32_t block)
{
	return map + ((layer * WORLD_PLANES + plane) * WORLD_BLOCKS + block) * WORLD_BLOCK_BYTES;
}

/* The first tokens of a block; where it moves whole, all of it. */
static void mark_tokens(uint8_t *block, uint32_t tokens)
{
	uint32_t token_bytes = WORLD_BLOCK_BYTES / 2 / WORLD_BLOCK_TOKENS;

	if (!world.choice.heads || tokens >= WORLD_BLOCK_TOKENS) {
		memset(block, 1, WORLD_BLOCK_BYTES);
		return;
	}
	memset(block, 1, (size_t)tokens * token_bytes);
	memset(block + WORLD_BLOCK_BYTES / 2, 1, (size_t)tokens * token_bytes);
}

FUZZ_UNTRACED static void mark(struct world_grant *grant, uint32_t index)
{
	for (uint32_t i = world.choice.held_blocks; i < GRANT_BLOCKS; i++) {
		uint32_t block = grant_blocks[index][i];
		if (i * WORLD_BLOCK_TOKENS >= world.choice.tokens)
			break;
		for (uint32_t tensor = 0; tensor < WORLD_LAYERS * WORLD_PLANES; tensor++) {
			uint32_t layer = tensor / WORLD_PLANES, plane = tensor % WORLD_PLANES;
			memset(block_of(grant->granted, layer, plane, block), 1, WORLD_BLOCK_BYTES);
			mark_tokens(block_of(grant->expected, layer, plane, block),
				    world.choice.tokens - i * WORLD_BLOCK_TOKENS);
		}
	}
	if (world.choice.tail && index == 0)
		memset(grant->granted + WORLD_POOL_BYTES, 1, WORLD_TAIL_BYTES);
}

/* What landed for an earlier one does not count for this. */
FUZZ_UNTRACED static void forget_landed(struct world_grant *grant)
{
	for (size_t i = 0; i < WORLD_BYTES; i++)
		grant->landed[i] = grant->landed[i] > 0;
}

void world_grant_open(uint32_t index)
{
	struct world_grant *grant = &world.grants[index];
	uint32_t count = (world.choice.tokens + WORLD_BLOCK_TOKENS - 1) / WORLD_BLOCK_TOKENS;
	struct kvx_grant_options options = {
		.tokens = world.choice.tokens,
		.held_blocks = world.choice.held_blocks,
		.senders = world.choice.senders,
	};
	size_t size;

	if (grant->grant)
		return;
	if (world.choice.tail && index == 0)
		options.tail =
			(struct kvx_tail){world.to_region, WORLD_POOL_BYTES, WORLD_TAIL_BYTES};
	ok(kvx_grant_open(world.to, grant_blocks[index], count, &options, LEASE_MS, &grant->grant),
	   "grant");
	const void *ticket = kvx_grant_ticket(grant->grant, &size);
	ok(kvx_ticket_decode(&grant->ticket, KVX_TICKET_GRANT, ticket, size), "ticket");
	grant->over = false;
	memset(grant->granted, 0, sizeof(grant->granted));
	memset(grant->expected, 0, sizeof(grant->expected));
	memset(grant->arrived, 0, sizeof(grant->arrived));
	mark(grant, index);
	forget_landed(grant);
}

void world_grant_revoke(uint32_t index)
{
	struct world_grant *grant = &world.grants[index];

	if (!grant->grant)
		return;
	ok(kvx_grant_revoke(grant->grant, 0), "revoke");
	grant->over = true;
}

void world_grant_close(uint32_t index)
{
	struct world_grant *grant = &world.grants[index];

	if (!grant->grant)
		return;
	kvx_grant_close(grant->grant);
	kvx_ticket_finish(&grant->ticket);
	grant->grant = NULL;
}

static struct world_grant *grant_of(size_t offset)
{
	for (uint32_t i = 0; i < WORLD_GRANTS; i++)
		if (world.grants[i].grant && !world.grants[i].over &&
		    world.grants[i].granted[offset])
			return &world.grants[i];
	return NULL;
}

/* Bytes of this grant are marked with 2. */
FUZZ_UNTRACED uint32_t world_landing(uint8_t *address, size_t bytes)
{
	uint32_t grants = 0;

	fuzz_require(address >= world_to && bytes <= WORLD_BYTES &&
			     (size_t)(address - world_to) <= WORLD_BYTES - bytes,
		     "%zu bytes beyond the pool", bytes);
	for (size_t i = 0; i < bytes; i++) {
		size_t offset = (size_t)(address - world_to) + i;
		struct world_grant *grant = grant_of(offset);
		fuzz_require(grant, "byte %zu is not granted", offset);
		grant->landed[offset] = 2;
		grants |= 1u << (grant - world.grants);
		address[i] = LANDED;
	}
	return grants;
}

FUZZ_UNTRACED static void look_at_layer(struct world_grant *grant, uint32_t index)
{
	uint32_t layer = index < WORLD_LAYERS ? index : KVX_TAIL, arrived, target;
	const size_t layer_bytes = WORLD_POOL_BYTES / WORLD_LAYERS;

	if (kvx_grant_count(grant->grant, layer, &arrived, &target))
		return;
	fuzz_require(arrived <= target && arrived >= grant->arrived[index],
		     "%u units, then %u of %u", grant->arrived[index], arrived, target);
	grant->arrived[index] = arrived;
	if (kvx_grant_poll(grant->grant, layer) != 1)
		return;
	fuzz_require(target && arrived == target, "whole with %u units of %u", arrived, target);
	if (world.choice.one_sided || index == WORLD_LAYERS)
		return; /* there the bytes are the hardware's business */
	for (size_t i = index * layer_bytes; i < (index + 1) * layer_bytes; i++)
		fuzz_require(!grant->expected[i] || grant->landed[i] == 2,
			     "layer %u is whole without byte %zu", index, i);
}

void world_look(void)
{
	struct kvx_stats stats;

	for (uint32_t i = 0; i < WORLD_GRANTS; i++)
		for (uint32_t layer = 0; world.grants[i].grant && layer <= WORLD_LAYERS; layer++)
			look_at_layer(&world.grants[i], layer);
	kvx_engine_stats(world.engine, &stats);
	fuzz_require(stats.grants_completed + stats.grants_failed <= stats.grants_opened &&
			     stats.streams_completed + stats.streams_failed <= stats.streams_opened,
		     "more ended than were opened");
}

/* ------------------------------------------------------------------------------------- streams */

/* As kvx_ticket_encode() wants it. */
static struct kvx_ticket forged(uint32_t slot, enum kvx_ticket_kind kind)
{
	static char address[] = "fuzz:there,fuzz1:there";
	static uint32_t table[GRANT_BLOCKS] = {1, 0, 6, 7};
	struct kvx_ticket ticket = {
		.kind = kind,
		.incarnation = WORLD_INCARNATION,
		.name = "hostile",
		.key = 99,
		.lease_ms = LEASE_MS,
		.token_end = world.choice.tokens,
		.tail_bytes = world.choice.tail ? WORLD_TAIL_BYTES : 0,
		.address = address,
		.table = table,
	};

	ok(kvx_geometry_complete(&world.geometry, &ticket.geometry), "geometry");
	if (kind == KVX_TICKET_OFFER) {
		ticket.offer = 5;
		return ticket;
	}
	ticket.slot = slot;
	ticket.generation = 1;
	ticket.senders = world.choice.senders;
	ticket.token_first = world.choice.held_blocks * WORLD_BLOCK_TOKENS;
	ticket.count = (world.choice.tokens + WORLD_BLOCK_TOKENS - 1) / WORLD_BLOCK_TOKENS;
	return ticket;
}

void world_forge(uint32_t slot, uint8_t **bytes, size_t *size)
{
	struct kvx_ticket ticket = forged(slot, KVX_TICKET_GRANT);

	ok(kvx_ticket_encode(&ticket, bytes, size), "ticket");
}

void world_forge_offer(uint8_t **bytes, size_t *size)
{
	struct kvx_ticket ticket = forged(0, KVX_TICKET_OFFER);

	ok(kvx_ticket_encode(&ticket, bytes, size), "ticket");
}

void world_stream_open(uint32_t index, const void *ticket, size_t size)
{
	uint32_t count = (world.choice.tokens + WORLD_BLOCK_TOKENS - 1) / WORLD_BLOCK_TOKENS;
	struct kvx_stream_options options = {0};

	if (world.streams[index])
		return;
	if (world.choice.tail)
		options.tail =
			(struct kvx_tail){world.from_region, WORLD_POOL_BYTES, WORLD_TAIL_BYTES};
	if (index != 1) {
		(void)kvx_stream_open(world.from, stream_blocks, count, &options, ticket, size,
				      &world.streams[index]);
		return;
	}
	ok(kvx_offer_open(world.from, stream_blocks, count, &options, LEASE_MS, &world.streams[1]),
	   "offer");
	const void *offered = kvx_offer_ticket(world.streams[1], &size);
	ok(kvx_ticket_decode(&world.offer, KVX_TICKET_OFFER, offered, size), "offer's ticket");
}

void world_stream_close(uint32_t index)
{
	if (!world.streams[index])
		return;
	kvx_stream_close(world.streams[index]);
	world.streams[index] = NULL;
	if (index == 1)
		kvx_ticket_finish(&world.offer);
}
