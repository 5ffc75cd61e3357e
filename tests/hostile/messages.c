/* SPDX-License-Identifier: Apache-2.0 */
/* Attacks by what peers say: fields that lie, floods, and answers that nobody asked for. */
#include "hostile/liar.h"

#include "support/chance.h"
#include "support/opening.h"

#include <string.h>
#include <unistd.h>

#define FLOOD 300u

static void lie_about_geometry(struct liar *liar, struct kvx_geometry *geometry)
{
	uint32_t number = (uint32_t)liar_odd_number(liar);

	switch (liar_draw(liar, 8)) {
	case 0:
		geometry->layers = number;
		break;
	case 1:
		geometry->planes = number;
		break;
	case 2:
		geometry->blocks = number;
		break;
	case 3:
		geometry->block_bytes = number;
		break;
	case 4:
		geometry->layer_first = number;
		break;
	case 5:
		geometry->layout = KVX_LAYOUT_HND;
		geometry->heads = geometry->heads_total = number;
		geometry->head_bytes = 4 * liar_draw(liar, 1 << 20);
		break;
	case 6:
		geometry->block_tokens = number;
		break;
	default:
		geometry->extra_planes = 1 + liar_draw(liar, KVX_EXTRA_MAX);
		geometry->extra[0].block_bytes = number;
	}
}

static void lie_about_opening(struct liar *liar, struct kvx_message *open)
{
	uint64_t number = liar_odd_number(liar);

	switch (liar_draw(liar, 9)) {
	case 0:
		open->slot = (uint32_t)number;
		break;
	case 1:
		open->generation += 1 + (uint32_t)number;
		break;
	case 2:
		open->key ^= UINT64_C(1) << liar_draw(liar, 64);
		break;
	case 3:
		open->units = (uint32_t)number;
		break;
	case 4:
		open->hash ^= number | 1;
		break;
	case 5:
		open->tail = !open->tail;
		break;
	case 6:
		open->units = 1 + liar_draw(liar, KVX_UNITS_MAX);
		open->weighted = true;
		for (uint32_t i = 0; i < open->units; i++)
			open->weights[i] = (uint8_t)(number >> i % 57);
		break;
	default:
		lie_about_geometry(liar, &open->geometry);
	}
}

/* Openings of a real ticket in which one thing is wrong. The engine's answers are not read. */
static void wrong_openings(struct liar *liar)
{
	const struct kvx_ticket *ticket = liar_any_ticket(liar);
	struct line line;

	if (!ticket || !line_open(&line, liar, liar_draw(liar, 2), true))
		return;
	for (uint32_t i = 0; i < 50; i++) {
		struct kvx_message open = opening_of(ticket, i, 1 + liar_draw(liar, 8));
		lie_about_opening(liar, &open);
		/* More weights than there is room for cannot be encoded. */
		if (open.weighted && open.units > KVX_UNITS_MAX)
			open.weighted = false;
		if (!line_say(&line, &open))
			break;
	}
	line_close(&line);
}

/* Right openings of one stream, of dead grants and of one that lives, as fast as they go. */
static void flood_of_openings(struct liar *liar)
{
	const struct kvx_ticket *ticket = liar_any_ticket(liar);
	struct line line;

	if (!ticket || !line_open(&line, liar, liar_draw(liar, 2), true))
		return;
	struct kvx_message open = opening_of(ticket, liar_draw(liar, 2), 4);
	for (uint32_t i = 0; i < FLOOD && line_say(&line, &open); i++)
		open.stream += liar_draw(liar, 2);
	line_close(&line);
}

/* Any type, with fields at random. */
static struct kvx_message any_message(struct liar *liar)
{
	const struct kvx_ticket *ticket = liar_any_ticket(liar);
	struct kvx_message message = {
		.type = 1 + liar_draw(liar, KVX_MESSAGE_DECLINE),
		.version = liar_draw(liar, 6),
		.incarnation = liar_odd_number(liar),
		.heartbeat_ms = (uint32_t)liar_odd_number(liar),
		.stream = liar_draw(liar, 3) ? liar_draw(liar, 200) : liar_odd_number(liar),
		.slot = ticket && liar_draw(liar, 2) ? ticket->slot : liar_draw(liar, 5000),
		.generation = ticket && liar_draw(liar, 2) ? ticket->generation : 1,
		.key = liar_odd_number(liar),
		.first = (uint32_t)liar_odd_number(liar),
		.count = (uint32_t)liar_odd_number(liar),
		.part_bytes = liar_draw(liar, KVX_PART_MAX),
		.planes = liar_draw(liar, KVX_PLANES_MAX),
		.code = -(int)liar_draw(liar, 30),
		.text = "what a liar says",
	};

	if (message.type == KVX_MESSAGE_LAYOUT)
		message.count = liar_draw(liar, KVX_LAYOUT_RUNS_MAX);
	if (message.type == KVX_MESSAGE_OPEN && ticket)
		message = opening_of(ticket, 1, 1);
	return message;
}

static void any_messages(struct liar *liar)
{
	uint8_t bytes[KVX_MESSAGE_MAX];
	struct line line;

	if (!line_open(&line, liar, liar_draw(liar, 2), liar_draw(liar, 4)))
		return;
	for (uint32_t i = 0; i < 40; i++) {
		struct kvx_message message = any_message(liar);
		uint32_t length = kvx_message_encode(&message, bytes);
		if (liar_draw(liar, 3) == 0)
			bytes[liar_draw(liar, length)] ^= (uint8_t)(1 << liar_draw(liar, 8));
		if (liar_draw(liar, 6) == 0)
			length = 1 + liar_draw(liar, length);
		if (!line_say_bytes(&line, bytes, length))
			break;
	}
	line_close(&line);
}

/* Tickets in parts that never end, overlap, or are longer than they said. */
static void flood_of_pulls(struct liar *liar)
{
	struct kvx_message pull = {.type = KVX_MESSAGE_PULL,
				   .stream = 1 + liar_draw(liar, 4),
				   .key = random_next(&liar->random),
				   .count = (uint32_t)liar_odd_number(liar),
				   .part_bytes = KVX_PART_MAX};
	struct line line;

	if (!line_open(&line, liar, liar_draw(liar, 2), true))
		return;
	for (uint32_t i = 0; i < FLOOD && line_say(&line, &pull); i++) {
		pull.first += liar_draw(liar, 3) ? KVX_PART_MAX : liar_draw(liar, 2 * KVX_PART_MAX);
		if (liar_draw(liar, 10) == 0)
			pull.key++;
	}
	line_close(&line);
}

static void flood_of_one(struct liar *liar)
{
	static const enum kvx_message_type types[] = {
		KVX_MESSAGE_PING,    KVX_MESSAGE_HELLO,   KVX_MESSAGE_CANCEL, KVX_MESSAGE_DRAINED,
		KVX_MESSAGE_RELEASE, KVX_MESSAGE_DECLINE, KVX_MESSAGE_WHOLE};
	struct kvx_message message = any_message(liar);
	struct line line;

	message.type = types[liar_draw(liar, sizeof(types) / sizeof(*types))];
	message.version = KVX_PROTOCOL_VERSION;
	if (!line_open(&line, liar, liar_draw(liar, 2), true))
		return;
	for (uint32_t i = 0; i < FLOOD && line_say(&line, &message); i++)
		;
	line_close(&line);
}

/* A message longer than any, and one that does not end. */
static void half_a_message(struct liar *liar)
{
	static const uint8_t zeros[UINT16_MAX];
	struct line line;

	if (!line_open(&line, liar, false, liar_draw(liar, 2)))
		return;
	if (liar_draw(liar, 2))
		line_say_bytes(&line, zeros, 1025 + liar_draw(liar, 60000));
	else
		line_send(line.control, "\xff\x03half", 2 + liar_draw(liar, 5));
	usleep(1000);
	line_close(&line);
}

const struct attack attacks_by_messages[] = {
	{"wrong openings", wrong_openings},
	{"flood of openings", flood_of_openings},
	{"any messages", any_messages},
	{"flood of pulls", flood_of_pulls},
	{"flood of one message", flood_of_one},
	{"half a message", half_a_message},
	{NULL, NULL},
};
