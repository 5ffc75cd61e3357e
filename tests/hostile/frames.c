/* SPDX-License-Identifier: Apache-2.0 */
/* Attacks by frames of tcp: of a grant that was opened as it should be, of dead ones, of others'.
 */
#include "hostile/liar.h"

#include "base/wire.h"
#include "plan/unit.h"
#include "support/chance.h"
#include "support/opening.h"
#include "tcp/frame.h"

#include <string.h>
#include <unistd.h>

#define PAYLOAD_MAX (1u << 20)

static bool send_frame(struct line *line, const struct kvx_unit *unit, uint64_t place,
		       uint32_t said, uint32_t sent)
{
	static const uint8_t payload[PAYLOAD_MAX];
	const struct kvx_batch batch = {.unit = *unit, .place = place, .bytes = said};
	uint8_t header[KVX_TCP_HEADER_BYTES];

	kvx_tcp_header_encode(&batch, header);
	line->liar->messages++;
	if (liar_draw(line->liar, 10) == 0)
		header[liar_draw(line->liar, sizeof(header))] ^= 1;
	return line_send(line->data, header, sizeof(header)) &&
	       line_send(line->data, payload, sent < PAYLOAD_MAX ? sent : PAYLOAD_MAX);
}

static struct kvx_unit wrong_unit(struct liar *liar, const struct kvx_ticket *ticket)
{
	uint32_t layer = liar_draw(liar, 3) ? liar_draw(liar, 16) : liar_draw(liar, 512);
	uint32_t unit = liar_draw(liar, 3) ? 0 : liar_draw(liar, KVX_UNITS_MAX);
	uint32_t slot = liar_draw(liar, 3) ? ticket->slot : liar_draw(liar, KVX_GRANTS_MAX);
	uint32_t generation = ticket->generation - (liar_draw(liar, 4) == 0);

	return (struct kvx_unit){kvx_imm_pack(slot, generation, layer, unit), generation};
}

/* Of a stream that was accepted. */
static void wrong_frames(struct liar *liar)
{
	const struct kvx_ticket *ticket = liar_newest(liar);
	struct line line;

	if (!ticket || !line_open(&line, liar, false, true))
		return;
	struct kvx_message open = opening_of(ticket, 1, 1 + liar_draw(liar, 4));
	line_say(&line, &open);
	line_hear(&line);
	for (uint32_t i = 0; i < 8; i++) {
		struct kvx_unit unit = wrong_unit(liar, ticket);
		uint64_t place = liar_draw(liar, 2) ? 0 : liar_odd_number(liar);
		uint32_t bytes = liar_draw(liar, 4) ? 1 + liar_draw(liar, 1 << 16)
						    : (uint32_t)liar_odd_number(liar);
		if (!send_frame(&line, &unit, place, bytes, bytes))
			break;
	}
	line_close(&line);
}

/* Nobody opened what they are for. */
static void frames_of_dead_grants(struct liar *liar)
{
	const struct kvx_ticket *ticket = liar_any_ticket(liar);
	struct line line;

	if (!ticket || !line_open(&line, liar, false, true))
		return;
	for (uint32_t i = 0; i < 30; i++) {
		struct kvx_unit unit = {
			kvx_imm_pack(ticket->slot, ticket->generation, liar_draw(liar, 16), 0),
			ticket->generation};
		if (!send_frame(&line, &unit, 0, 4096, 4096))
			break;
	}
	line_close(&line);
}

/* The whole link waits for the rest. */
static void half_a_frame(struct liar *liar)
{
	const struct kvx_ticket *ticket = liar_newest(liar);
	struct line line;

	if (!ticket || !line_open(&line, liar, false, true))
		return;
	struct kvx_message open = opening_of(ticket, 1, 1);
	struct kvx_unit unit = {kvx_imm_pack(ticket->slot, ticket->generation, 0, 0),
				ticket->generation};
	line_say(&line, &open);
	line_hear(&line);
	send_frame(&line, &unit, 0, PAYLOAD_MAX, liar_draw(liar, 1 << 16));
	usleep(2000);
	line_close(&line);
}

static void garbage_frames(struct liar *liar)
{
	uint8_t bytes[256];
	struct line line;

	if (!line_open(&line, liar, false, liar_draw(liar, 2)))
		return;
	for (uint32_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)random_next(&liar->random);
	line_send(line.data, bytes, sizeof(bytes));
	usleep(500);
	line_close(&line);
}

const struct attack attacks_by_frames[] = {
	{"wrong frames", wrong_frames},
	{"frames of dead grants", frames_of_dead_grants},
	{"half a frame", half_a_frame},
	{"garbage for frames", garbage_frames},
	{NULL, NULL},
};
