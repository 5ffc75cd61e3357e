/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tickets of grants and of offers. Of the first byte bit 0 says which is expected, and bit 1 that
 * the rest is a ticket as it stands; otherwise it is what is between the head and the check sum,
 * which are made for it, since nobody finds a check sum by chance.
 */
#include "target.h"

#include "base/wire.h"
#include "core/ticket.h"
#include "plan/shape.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BODY_MAX 4096u
#define FRAME_BYTES 20u
#define TABLE_MAX (1u << 18) /* entries: more of them take long, and show nothing new */

static const uint8_t magic[] = {'K', 'V', 'X', 'T'};

/* Returns the size of the whole. */
static size_t frame(const uint8_t *body, size_t size, uint8_t *ticket)
{
	struct kvx_writer writer = kvx_writer_over(ticket, size + FRAME_BYTES);

	kvx_put_bytes(&writer, magic, sizeof(magic));
	kvx_put_u32(&writer, KVX_TICKET_VERSION);
	kvx_put_u32(&writer, (uint32_t)(size + FRAME_BYTES));
	kvx_put_bytes(&writer, body, size);
	kvx_put_u64(&writer, XXH3_64bits(ticket, size + FRAME_BYTES - 8));
	return size + FRAME_BYTES;
}

/* What was read is written in the one shortest way, and read again as the same. */
static void expect_stable(const struct kvx_ticket *ticket)
{
	struct kvx_ticket again;
	uint8_t *first, *second;
	size_t first_size, second_size;

	fuzz_require(kvx_ticket_encode(ticket, &first, &first_size) == 0, "%s", kvx_error_text());
	fuzz_require(kvx_ticket_decode(&again, ticket->kind, first, first_size) == 0, "%s",
		     kvx_error_text());
	fuzz_require(again.count == ticket->count &&
			     memcmp(again.table, ticket->table,
				    ticket->count * sizeof(*ticket->table)) == 0 &&
			     strcmp(again.address, ticket->address) == 0,
		     "the table or the address has changed");
	fuzz_require(kvx_ticket_encode(&again, &second, &second_size) == 0, "%s", kvx_error_text());
	fuzz_require(first_size == second_size && memcmp(first, second, first_size) == 0,
		     "%zu bytes, then %zu", first_size, second_size);
	kvx_ticket_finish(&again);
	free(first);
	free(second);
}

static void expect_sane(const struct kvx_ticket *ticket)
{
	struct kvx_shape shape;

	fuzz_require(ticket->count <= KVX_TABLE_MAX && ticket->count <= ticket->geometry.blocks,
		     "%u blocks of %u", ticket->count, ticket->geometry.blocks);
	fuzz_require(ticket->hint_bytes <= KVX_HINT_MAX && ticket->tail_bytes <= KVX_TAIL_MAX,
		     "hint of %u, tail of %u bytes", ticket->hint_bytes, ticket->tail_bytes);
	kvx_shape_of(&ticket->geometry, &shape);
	fuzz_require(shape.planes >= 1 && shape.planes <= KVX_PLANES_MAX, "%u planes",
		     shape.planes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static uint8_t framed[BODY_MAX + FRAME_BYTES];
	struct kvx_ticket ticket;

	if (size < 1 || size > BODY_MAX)
		return 0;
	enum kvx_ticket_kind kind = bytes[0] & 1 ? KVX_TICKET_OFFER : KVX_TICKET_GRANT;
	const uint8_t *whole = bytes + 1;
	size_t whole_size = size - 1;
	if (!(bytes[0] & 2)) {
		whole_size = frame(bytes + 1, size - 1, framed);
		whole = framed;
	}
	if (kvx_ticket_decode(&ticket, kind, whole, whole_size)) {
		fuzz_require(kvx_error_text()[0], "an error without a text");
		return 0;
	}
	fuzz_require(ticket.kind == kind, "another kind");
	expect_sane(&ticket);
	if (ticket.count <= TABLE_MAX)
		expect_stable(&ticket);
	kvx_ticket_finish(&ticket);
	return 0;
}

/* --- seeds --- */

static void give(fuzz_take *take, const char *name, const struct kvx_ticket *ticket)
{
	uint8_t input[BODY_MAX];
	uint8_t *bytes;
	size_t size;

	if (kvx_ticket_encode(ticket, &bytes, &size) || size >= sizeof(input))
		abort();
	input[0] = ticket->kind == KVX_TICKET_OFFER;
	memcpy(input + 1, bytes + 12, size - FRAME_BYTES);
	take(name, input, 1 + size - FRAME_BYTES);
	if (ticket->kind == KVX_TICKET_GRANT && ticket->count < 8) {
		input[0] = 2;
		memcpy(input + 1, bytes, size);
		take("whole", input, 1 + size);
	}
	free(bytes);
}

void fuzz_give_seeds(fuzz_take *take)
{
	struct kvx_geometry whole = {.layers = 4, .planes = 2, .blocks = 64, .block_bytes = 4096};
	struct kvx_geometry heads = {.layers = 2,
				     .planes = 1,
				     .blocks = 8,
				     .block_tokens = 16,
				     .dtype = "bf16",
				     .layout = KVX_LAYOUT_NHD,
				     .heads = 1,
				     .heads_total = 8,
				     .head_bytes = 64,
				     .extra_planes = 1,
				     .extra = {{.token_bytes = 8}}};
	uint32_t table[] = {5, 6, 7, 40, 39, 38, 0, 1, 2, 3, 63};
	char address[] = "shm:kvxfer-0123@boot,tcp:127.0.0.1:4711";
	struct kvx_ticket ticket = {.kind = KVX_TICKET_GRANT,
				    .incarnation = 7,
				    .name = "engine",
				    .slot = 3,
				    .generation = 1,
				    .key = 9,
				    .lease_ms = 60000,
				    .expires_ms = 1,
				    .token_end = 11,
				    .senders = 1,
				    .tail_bytes = 64,
				    .hint_bytes = 2,
				    .hint = {1, 2},
				    .address = address,
				    .count = 11,
				    .table = table};

	(void)kvx_geometry_complete(&whole, &ticket.geometry);
	give(take, "grant", &ticket);
	ticket.count = ticket.token_end = 2;
	give(take, "grant-small", &ticket);
	(void)kvx_geometry_complete(&heads, &ticket.geometry);
	ticket.token_end = 17;
	ticket.token_first = 3;
	give(take, "grant-heads", &ticket);
	ticket = (struct kvx_ticket){.kind = KVX_TICKET_OFFER,
				     .offer = 4,
				     .incarnation = 7,
				     .name = "engine",
				     .key = 9,
				     .lease_ms = 60000,
				     .geometry = ticket.geometry,
				     .token_end = 17,
				     .address = address,
				     .table = table};
	give(take, "offer", &ticket);
}
