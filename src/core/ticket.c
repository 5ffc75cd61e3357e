/* SPDX-License-Identifier: Apache-2.0 */
#include "core/ticket.h"

#include "base/error.h"
#include "core/geometry.h"
#include "plan/plan.h"

#define XXH_INLINE_ALL
#include <stdlib.h>
#include <xxhash.h>

/* "KVXT" */
#define MAGIC 0x5458564bu
/* magic, version, size of the whole */
#define HEAD_BYTES 12u
#define CHECK_BYTES 8u
#define FIXED_MAX_BYTES 4096u
/* A run of the table is a zigzag difference of 33 bits and a length of 24: 5 and 4 bytes of varint.
 */
#define RUN_MAX_BYTES 9u

static void put_table(struct kvx_writer *writer, const uint32_t *table, uint32_t count)
{
	int64_t expected = 0;

	for (uint32_t i = 0, next; i < count; i = next) {
		int64_t difference = (int64_t)table[i] - expected;
		for (next = i + 1; next < count && table[next] == table[next - 1] + 1;)
			next++;
		kvx_put_varint(writer, (uint64_t)difference << 1 ^ (uint64_t)(difference >> 63));
		kvx_put_varint(writer, next - i - 1);
		expected = (int64_t)table[next - 1] + 1;
	}
}

static void get_table(struct kvx_reader *reader, uint32_t *table, uint32_t count)
{
	int64_t expected = 0;

	for (uint32_t i = 0; i < count && !reader->failed;) {
		uint64_t zigzag = kvx_get_varint(reader);
		uint64_t more = kvx_get_varint(reader);
		if (zigzag > UINT64_C(1) << 34 || more >= count - i) {
			reader->failed = true;
			return;
		}
		int64_t first = expected + (int64_t)(zigzag >> 1 ^ -(zigzag & 1));
		if (first < 0 || first + (int64_t)more > UINT32_MAX) {
			reader->failed = true;
			return;
		}
		for (uint64_t end = i + more + 1; i < end; i++)
			table[i] = (uint32_t)first++;
		expected = first;
	}
}

static void put_fields(struct kvx_writer *writer, const struct kvx_ticket *ticket)
{
	kvx_put_u8(writer, (uint8_t)ticket->kind);
	kvx_put_u64(writer, ticket->offer);
	kvx_put_u64(writer, ticket->incarnation);
	kvx_put_text(writer, ticket->name);
	kvx_put_u32(writer, ticket->slot);
	kvx_put_u32(writer, ticket->generation);
	kvx_put_u64(writer, ticket->key);
	kvx_put_u32(writer, ticket->lease_ms);
	kvx_put_u64(writer, (uint64_t)ticket->expires_ms);
	kvx_put_geometry(writer, &ticket->geometry);
	kvx_put_u32(writer, ticket->token_first);
	kvx_put_u32(writer, ticket->token_end);
	kvx_put_u32(writer, ticket->senders);
	kvx_put_u32(writer, ticket->tail_bytes);
	kvx_put_u8(writer, ticket->hint_bytes);
	kvx_put_bytes(writer, ticket->hint, ticket->hint_bytes);
	kvx_put_text(writer, ticket->address);
	kvx_put_u32(writer, ticket->count);
}

int kvx_ticket_encode(const struct kvx_ticket *ticket, uint8_t **bytes, size_t *size)
{
	uint32_t runs = kvx_plan_runs(ticket->table, 1, ticket->table, 1, ticket->count, NULL);
	size_t room = FIXED_MAX_BYTES + (size_t)runs * RUN_MAX_BYTES + CHECK_BYTES;
	uint8_t *made = malloc(room);

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "ticket: out of memory for %zu bytes", room);
	struct kvx_writer writer = kvx_writer_over(made, room);
	kvx_put_u32(&writer, MAGIC);
	kvx_put_u32(&writer, KVX_TICKET_VERSION);
	kvx_put_u32(&writer, 0);
	put_fields(&writer, ticket);
	put_table(&writer, ticket->table, ticket->count);
	*size = (size_t)(writer.next - made) + CHECK_BYTES;
	struct kvx_writer head = kvx_writer_over(made + 8, 4);
	kvx_put_u32(&head, (uint32_t)*size);
	kvx_put_u64(&writer, XXH3_64bits(made, *size - CHECK_BYTES));
	if (writer.failed) {
		free(made);
		return kvx_fail(KVX_E_LIMIT, "ticket: the engine's addresses are too long");
	}
	*bytes = made;
	return 0;
}

static int check_frame(const void *bytes, size_t size)
{
	struct kvx_reader reader = kvx_reader_over(bytes, size);
	uint32_t magic = kvx_get_u32(&reader), version = kvx_get_u32(&reader),
		 whole = kvx_get_u32(&reader);

	if (reader.failed || magic != MAGIC)
		return kvx_fail(KVX_E_TICKET, "ticket: these %zu bytes are not a ticket of kvxfer",
				size);
	if (version != KVX_TICKET_VERSION)
		return kvx_fail(
			KVX_E_VERSION,
			"ticket: version %u, this library (%s) reads version %u; use the same "
			"kvxfer at both ends",
			version, KVX_VERSION, KVX_TICKET_VERSION);
	if (whole != size || size < HEAD_BYTES + CHECK_BYTES)
		return kvx_fail(KVX_E_TICKET, "ticket: %zu bytes of %u: it was cut short or padded",
				size, whole);
	struct kvx_reader check =
		kvx_reader_over((const uint8_t *)bytes + size - CHECK_BYTES, CHECK_BYTES);
	if (kvx_get_u64(&check) != XXH3_64bits(bytes, size - CHECK_BYTES))
		return kvx_fail(KVX_E_TICKET,
				"ticket: its check sum is wrong: it was altered on its way");
	return 0;
}

static bool offer_is_sane(const struct kvx_ticket *ticket)
{
	return ticket->kind == KVX_TICKET_OFFER && !ticket->count && !ticket->token_first &&
	       ticket->token_end && !ticket->hint_bytes;
}

static bool is_sane(const struct kvx_ticket *ticket)
{
	if (ticket->tail_bytes > KVX_TAIL_MAX || ticket->tail_bytes % KVX_ALIGN)
		return false;
	if (ticket->kind != KVX_TICKET_GRANT)
		return offer_is_sane(ticket);
	uint32_t blocks = kvx_geometry_blocks(&ticket->geometry, ticket->token_end);
	uint32_t block_tokens = ticket->geometry.block_tokens;

	if (block_tokens && ticket->token_first % block_tokens)
		return false;
	return ticket->token_first < ticket->token_end && ticket->count == blocks &&
	       ticket->count <= KVX_TABLE_MAX && ticket->count <= ticket->geometry.blocks &&
	       ticket->slot < KVX_GRANTS_MAX && ticket->senders &&
	       ticket->senders <= KVX_SENDERS_MAX && !ticket->offer;
}

static void get_fields(struct kvx_reader *reader, struct kvx_ticket *ticket, char *address,
		       size_t address_size)
{
	ticket->kind = (enum kvx_ticket_kind)kvx_get_u8(reader);
	ticket->offer = kvx_get_u64(reader);
	ticket->incarnation = kvx_get_u64(reader);
	kvx_get_text(reader, ticket->name, sizeof(ticket->name));
	ticket->slot = kvx_get_u32(reader);
	ticket->generation = kvx_get_u32(reader);
	ticket->key = kvx_get_u64(reader);
	ticket->lease_ms = kvx_get_u32(reader);
	ticket->expires_ms = (int64_t)kvx_get_u64(reader);
	kvx_get_geometry(reader, &ticket->geometry);
	ticket->token_first = kvx_get_u32(reader);
	ticket->token_end = kvx_get_u32(reader);
	ticket->senders = kvx_get_u32(reader);
	ticket->tail_bytes = kvx_get_u32(reader);
	ticket->hint_bytes = kvx_get_u8(reader);
	if (ticket->hint_bytes > sizeof(ticket->hint))
		reader->failed = true;
	else
		kvx_get_bytes(reader, ticket->hint, ticket->hint_bytes);
	kvx_get_text(reader, address, address_size);
	ticket->count = kvx_get_u32(reader);
	if (!reader->failed && !is_sane(ticket))
		reader->failed = true;
}

int kvx_ticket_decode(struct kvx_ticket *ticket, enum kvx_ticket_kind kind, const void *bytes,
		      size_t size)
{
	static const char *const names[] = {"a grant's, which a sender streams into",
					    "an offer's, which a receiver pulls"};
	char address[FIXED_MAX_BYTES];
	int error = check_frame(bytes, size);

	if (error)
		return error;
	struct kvx_reader reader = kvx_reader_over((const uint8_t *)bytes + HEAD_BYTES,
						   size - HEAD_BYTES - CHECK_BYTES);
	struct kvx_ticket made = {0};
	get_fields(&reader, &made, address, sizeof(address));
	if (reader.failed)
		return kvx_fail(KVX_E_TICKET, "ticket: a field is out of its range");
	if (made.kind != kind)
		return kvx_fail(KVX_E_TICKET, "ticket: it is %s, where %s is wanted",
				names[made.kind], names[kind]);
	made.address = strdup(address);
	made.table = malloc(((size_t)made.count + 1) * sizeof(*made.table));
	if (!made.address || !made.table) {
		kvx_ticket_finish(&made);
		return kvx_fail(KVX_E_MEMORY, "ticket: out of memory for %u blocks", made.count);
	}
	get_table(&reader, made.table, made.count);
	if (reader.failed || kvx_reader_left(&reader)) {
		kvx_ticket_finish(&made);
		return kvx_fail(KVX_E_TICKET, "ticket: its block table is malformed");
	}
	*ticket = made;
	return 0;
}

void kvx_ticket_finish(struct kvx_ticket *ticket)
{
	free(ticket->address);
	free(ticket->table);
}
