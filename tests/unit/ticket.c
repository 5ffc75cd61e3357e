/* SPDX-License-Identifier: Apache-2.0 */
#include "core/ticket.h"

#include "base/error.h"
#include "support/chance.h"

#include <criterion/criterion.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* What follows is padding. */
#define GEOMETRY_BYTES \
	(offsetof(struct kvx_geometry, extra) + sizeof(((struct kvx_geometry *)0)->extra))

static uint32_t table[1 << 16];

static struct kvx_ticket sample(uint32_t count)
{
	struct kvx_ticket ticket = {
		.incarnation = 0x1122334455667788,
		.name = "decode-7",
		.slot = 4095,
		.generation = 3000000000,
		.key = 0x8877665544332211,
		.lease_ms = 60000,
		.expires_ms = 1790000000000,
		.geometry = {.layers = 36,
			     .planes = 2,
			     .blocks = 1 << 16,
			     .block_bytes = 65536,
			     .block_tokens = 16,
			     .dtype = "bf16"},
		.token_first = count > 1 ? 16 : 0,
		.token_end = 16 * count - 3,
		.senders = 4,
		.tail_bytes = 4096,
		.address = "shm:kvxfer-1@boot,tcp:127.0.0.1:4711",
		.count = count,
		.table = table,
	};

	return ticket;
}

static void expect_round_trip(const struct kvx_ticket *ticket)
{
	struct kvx_ticket back;
	uint8_t *bytes;
	size_t size;

	cr_assert_eq(kvx_ticket_encode(ticket, &bytes, &size), 0, "%s", kvx_error_text());
	cr_assert_eq(kvx_ticket_decode(&back, KVX_TICKET_GRANT, bytes, size), 0, "%s",
		     kvx_error_text());
	cr_assert_eq(back.incarnation, ticket->incarnation);
	cr_assert_str_eq(back.name, ticket->name);
	cr_assert_eq(back.slot, ticket->slot);
	cr_assert_eq(back.generation, ticket->generation);
	cr_assert_eq(back.key, ticket->key);
	cr_assert_eq(back.lease_ms, ticket->lease_ms);
	cr_assert_eq(back.expires_ms, ticket->expires_ms);
	cr_assert_eq(memcmp(&back.geometry, &ticket->geometry, GEOMETRY_BYTES), 0);
	cr_assert_eq(back.token_first, ticket->token_first);
	cr_assert_eq(back.token_end, ticket->token_end);
	cr_assert_eq(back.senders, ticket->senders);
	cr_assert_eq(back.tail_bytes, ticket->tail_bytes);
	cr_assert_str_eq(back.address, ticket->address);
	cr_assert_eq(back.count, ticket->count);
	cr_assert_eq(memcmp(back.table, ticket->table, ticket->count * sizeof(uint32_t)), 0);
	kvx_ticket_finish(&back);
	free(bytes);
}

Test(ticket, what_is_encoded_comes_back)
{
	struct kvx_ticket ticket = sample(5);
	const uint32_t blocks[] = {7, 8, 9, 0, 65535};

	memcpy(table, blocks, sizeof(blocks));
	expect_round_trip(&ticket);
	ticket.tail_bytes = 0;
	ticket.name[0] = 0;
	memset(ticket.geometry.dtype, 0, sizeof(ticket.geometry.dtype));
	expect_round_trip(&ticket);
}

Test(ticket, random_tables_come_back)
{
	uint64_t random = random_seed();

	for (int round = 0; round < 200; round++) {
		uint32_t count = random_between(&random, 1, round % 10 ? 300 : 1 << 16);
		struct kvx_ticket ticket = sample(count);
		random_table(&random, table, 0, count);
		expect_round_trip(&ticket);
	}
}

Test(ticket, tables_in_runs_are_small)
{
	struct kvx_ticket ticket = sample(1 << 16);
	uint8_t *bytes;
	size_t size;

	for (uint32_t i = 0; i < 1 << 16; i++)
		table[i] = i;
	expect_round_trip(&ticket);
	cr_assert_eq(kvx_ticket_encode(&ticket, &bytes, &size), 0);
	cr_assert(size < 300, "%zu bytes", size);
	free(bytes);
}

Test(ticket, extreme_block_numbers_come_back)
{
	const uint32_t blocks[] = {UINT32_MAX - 1, 0, UINT32_MAX - 3, UINT32_MAX - 2, 1};
	struct kvx_ticket ticket = sample(5);

	ticket.geometry.blocks = UINT32_MAX;
	memcpy(table, blocks, sizeof(blocks));
	expect_round_trip(&ticket);
}

/* On the heap and no longer than it is, so that a sanitizer sees a read past the end. */
static int decode_exactly(const uint8_t *from, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1);
	struct kvx_ticket back;

	memcpy(exact, from, size);
	int error = kvx_ticket_decode(&back, KVX_TICKET_GRANT, exact, size);
	if (!error)
		kvx_ticket_finish(&back);
	free(exact);
	return error;
}

Test(ticket, each_cut_and_each_altered_byte_is_refused)
{
	struct kvx_ticket ticket = sample(64);
	uint64_t random = random_seed();
	uint8_t *bytes;
	size_t size;

	random_table(&random, table, 0, 64);
	cr_assert_eq(kvx_ticket_encode(&ticket, &bytes, &size), 0);
	for (size_t cut = 0; cut < size; cut++)
		cr_assert_eq(decode_exactly(bytes, cut), KVX_E_TICKET, "cut to %zu", cut);
	for (size_t at = 0; at < size; at++) {
		for (uint32_t change = 1; change < 256; change++) {
			bytes[at] ^= (uint8_t)change;
			cr_assert_eq(decode_exactly(bytes, size),
				     at >= 4 && at < 8 ? KVX_E_VERSION : KVX_E_TICKET, "byte %zu",
				     at);
			bytes[at] ^= (uint8_t)change;
		}
	}
	cr_assert_eq(decode_exactly(bytes, size), 0);
	free(bytes);
}

/* By somebody who can compute the check sum: encoding checks nothing. */
static void expect_forgery_refused(const struct kvx_ticket *ticket)
{
	uint8_t *bytes;
	size_t size;

	cr_assert_eq(kvx_ticket_encode(ticket, &bytes, &size), 0, "%s", kvx_error_text());
	cr_assert_eq(decode_exactly(bytes, size), KVX_E_TICKET);
	free(bytes);
}

Test(ticket, forged_fields_are_refused)
{
	struct kvx_ticket forged;

	for (uint32_t i = 0; i < 32; i++)
		table[i] = i;
	forged = sample(32), forged.geometry.layers = 0;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.geometry.layers = KVX_LAYERS_MAX + 1;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.geometry.planes = 0;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.geometry.planes = KVX_PLANES_MAX + 1;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.geometry.blocks = 0;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.geometry.blocks = 31;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.geometry.block_bytes = 0;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.geometry.block_bytes = 4097;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.geometry.plane_stride = 65538;
	expect_forgery_refused(&forged);
	forged = sample(32), forged.token_first = 24; /* in the middle of a block */
	expect_forgery_refused(&forged);
	forged = sample(32), forged.slot = KVX_GRANTS_MAX;
	expect_forgery_refused(&forged);
	forged = sample(0);
	expect_forgery_refused(&forged);
	forged = sample(32), forged.address = "tcp:127.0.0.1:4711\nlog line";
	expect_forgery_refused(&forged);
	forged = sample(32), forged.name[1] = '\t';
	expect_forgery_refused(&forged);
}

Test(ticket, a_table_past_the_last_block_number_is_refused)
{
	struct kvx_ticket forged = sample(2);

	table[0] = UINT32_MAX; /* with its neighbour 0 a run that wraps around */
	table[1] = 0;
	expect_forgery_refused(&forged);
}

Test(ticket, garbage_is_refused, .timeout = 60)
{
	uint64_t random = random_seed();
	uint8_t bytes[512];

	for (int round = 0; round < 100000; round++) {
		size_t size = random_between(&random, 0, sizeof(bytes));
		for (size_t i = 0; i < size; i++)
			bytes[i] = (uint8_t)random_next(&random);
		cr_assert_eq(decode_exactly(bytes, size), KVX_E_TICKET);
	}
}
