/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine with live grants, a live stream and a live offer, and a hostile peer at the other end
 * of its links. The input is a program: its first four bytes choose the pools, then each byte is
 * one thing that the peer or the engine's caller does, with its operands behind it. After each the
 * contract is checked: no byte lands where it was not granted, counters never pass their targets,
 * and whole means whole.
 */
#include "target.h"

#include "inject.h"
#include "plan/plan.h"
#include "plan/unit.h"
#include "session_world.h"

#define STEPS_MAX 400u

enum operation {
	ACCEPT_LINK,
	LINK_UP,
	LINK_DOWN,
	RAIL,
	HELLO,
	RAW,   /* a message of the input's bytes */
	FIELD, /* a message of some type with fields of the input */
	OPEN,
	ACCEPT,
	LAYOUT,
	PULL,
	FRAME, /* bytes of a unit */
	ARRIVED,
	SETTLE,
	CREDIT,
	GRANT,  /* calls of the engine's user */
	STREAM, /* likewise */
	OPERATIONS
};

static struct fuzz_input *program;
static enum operation operation;
static uint32_t units; /* of the last OPEN of the peer */
static struct kvx_image image;

static struct inject_link *link_of(uint8_t number)
{
	return inject.links[number % INJECT_LINKS_MAX];
}

static struct world_grant *grant_of(uint8_t number)
{
	return &world.grants[number % WORLD_GRANTS];
}

/* Says it, with some bytes changed as the input wants. */
static void say(struct inject_link *link, const struct kvx_message *message)
{
	uint8_t bytes[KVX_MESSAGE_MAX];
	uint32_t length = kvx_message_encode(message, bytes);
	uint8_t changes = fuzz_u8(program);

	for (uint8_t i = 0; i < (changes & 3); i++) {
		uint16_t at = fuzz_u16(program);
		bytes[at % length] = fuzz_u8(program);
	}
	if (changes & 4)
		length = 1 + (length - 1) * fuzz_u8(program) / 255;
	if (link)
		inject_say(link, bytes, length);
}

static void hello(struct inject_link *link)
{
	struct kvx_message message = {.type = KVX_MESSAGE_HELLO,
				      .version = KVX_PROTOCOL_VERSION,
				      .incarnation = WORLD_INCARNATION,
				      .heartbeat_ms = 60000,
				      .text = "hostile"};

	say(link, &message);
}

static void raw(struct inject_link *link)
{
	size_t length;
	const uint8_t *bytes = fuzz_bytes(program, fuzz_u8(program), &length);

	if (link)
		inject_say(link, bytes, (uint32_t)length);
}

/* A stream that the engine has presented over the link, or another. */
static uint64_t stream_of(const struct inject_link *link, uint8_t choice)
{
	return choice < 200 && link ? link->open.stream : choice;
}

static void field(struct inject_link *link)
{
	static const enum kvx_message_type types[] = {
		KVX_MESSAGE_WHOLE,   KVX_MESSAGE_REFUSE,  KVX_MESSAGE_REVOKE,
		KVX_MESSAGE_CANCEL,  KVX_MESSAGE_DRAINED, KVX_MESSAGE_RELEASE,
		KVX_MESSAGE_DECLINE, KVX_MESSAGE_BYE,     KVX_MESSAGE_PING};
	struct kvx_message message = {.text = "because"};
	uint8_t choice = fuzz_u8(program), which = fuzz_u8(program);
	const struct world_grant *grant = grant_of(which);

	message.type = types[choice % (sizeof(types) / sizeof(types[0]))];
	message.stream = stream_of(link, which);
	if (message.type == KVX_MESSAGE_RELEASE)
		message.stream = world.offer.offer;
	if (message.type == KVX_MESSAGE_DECLINE)
		message.stream = 5;
	message.key = world.offer.key;
	message.slot = grant->ticket.slot;
	message.generation = grant->ticket.generation;
	message.first = fuzz_u8(program);
	message.count = fuzz_u8(program);
	message.code = -(int)(1 + fuzz_u8(program) % 24);
	if (message.first == 255)
		message.first = KVX_TAIL;
	say(link, &message);
}

/* Of a pool with all heads, or one of them. */
static void their_geometry(uint8_t choice, struct kvx_geometry *geometry)
{
	struct kvx_geometry theirs = world.geometry;

	if (choice & 3 && world.choice.heads) {
		theirs.heads = 1;
		theirs.head_first = choice & 1;
	}
	if (choice & 4)
		theirs.layers = 1;
	if (choice & 8)
		theirs.layer_first = 1;
	if (choice & 16 && world.choice.heads)
		theirs.layout = KVX_LAYOUT_NHD;
	if (choice & 32 && world.choice.heads)
		theirs.block_tokens = 2;
	if (kvx_geometry_complete(&theirs, geometry))
		*geometry = (struct kvx_geometry){0};
}

static uint64_t hash_open(const struct kvx_ticket *ticket, const struct kvx_message *open)
{
	struct kvx_shape ours, theirs;
	struct kvx_share share;

	kvx_shape_of(&ticket->geometry, &theirs);
	kvx_shape_of(&open->geometry, &ours);
	kvx_share_alone(&ours, &theirs, ticket->token_first, ticket->token_end, &share);
	kvx_image_make(&image, &ours, &theirs, &share, ticket->token_first, ticket->token_end);
	kvx_image_cut(&image, open->units, open->weighted ? open->weights : NULL);
	return kvx_plan_hash(&ticket->geometry, &image, &share,
			     kvx_table_hash(ticket->table, ticket->count));
}

/* As a sender that has the grant's ticket. */
static void open_stream(struct inject_link *link)
{
	const struct world_grant *grant = grant_of(fuzz_u8(program));
	struct kvx_message open = {.type = KVX_MESSAGE_OPEN,
				   .stream = fuzz_u8(program),
				   .slot = grant->ticket.slot,
				   .generation = grant->ticket.generation,
				   .key = grant->ticket.key};
	uint8_t choice = fuzz_u8(program);

	if (!grant->grant)
		return;
	their_geometry(fuzz_u8(program), &open.geometry);
	open.units = choice % KVX_UNITS_MAX + 1;
	open.tail = choice & 64;
	open.weighted = choice & 128;
	for (uint32_t i = 0; open.weighted && i < open.units; i++)
		open.weights[i] = (uint8_t)(fuzz_u8(program) | 1);
	if (open.geometry.layers && !kvx_geometry_match(&open.geometry, &grant->ticket.geometry)) {
		open.hash = hash_open(&grant->ticket, &open);
		units = open.units;
	}
	if (link)
		link->presented |= 1u << (grant - world.grants);
	say(link, &open);
}

/* As a receiver that the engine has presented a ticket to. */
static void accept_stream(struct inject_link *link)
{
	struct kvx_message accept = {.type = KVX_MESSAGE_ACCEPT, .planes = WORLD_PLANES};
	struct kvx_shape ours, theirs;
	struct kvx_ticket ticket;
	struct kvx_image made;
	uint8_t *bytes;
	size_t size;

	if (!link || !link->opens)
		return;
	world_forge(0, &bytes, &size);
	if (kvx_ticket_decode(&ticket, KVX_TICKET_GRANT, bytes, size))
		abort();
	kvx_shape_of(&ticket.geometry, &theirs);
	kvx_shape_of(&link->open.geometry, &ours);
	kvx_share_alone(&ours, &theirs, ticket.token_first, ticket.token_end, &accept.share);
	uint8_t fewer = fuzz_u8(program); /* tokens of the share */
	for (uint32_t i = 0; fewer && i < WORLD_PLANES; i++)
		accept.share.plane[i].token_end = fewer % WORLD_BLOCK_TOKENS * WORLD_BLOCK_TOKENS;
	kvx_image_make(&made, &ours, &theirs, &accept.share, ticket.token_first, ticket.token_end);
	kvx_image_cut(&made, link->open.units, link->open.weighted ? link->open.weights : NULL);
	accept.stream = link->open.stream;
	accept.unit_first = fuzz_u8(program);
	accept.hash = kvx_plan_hash(&ticket.geometry, &made, &accept.share,
				    kvx_table_hash(ticket.table, ticket.count));
	kvx_ticket_finish(&ticket);
	free(bytes);
	say(link, &accept);
}

static void layout(struct inject_link *link)
{
	struct kvx_message message = {.type = KVX_MESSAGE_LAYOUT};

	message.stream = stream_of(link, fuzz_u8(program));
	message.count = fuzz_u8(program) % 4;
	for (uint32_t i = 0; i < message.count; i++)
		message.layout[i] = (struct kvx_layout_run){.tensors = fuzz_u8(program),
							    .memory = fuzz_u8(program),
							    .base = fuzz_u8(program),
							    .step = fuzz_u32(program),
							    .stride = fuzz_u16(program)};
	say(link, &message);
}

/* A part of a ticket, for the offer. */
static void pull(struct inject_link *link)
{
	struct kvx_message message = {
		.type = KVX_MESSAGE_PULL, .stream = world.offer.offer, .key = world.offer.key};
	uint8_t first = fuzz_u8(program), length = fuzz_u8(program);
	uint8_t *bytes;
	size_t size;

	world_forge(1, &bytes, &size);
	message.first = first < size ? first : (uint32_t)size;
	message.count = (uint32_t)size;
	message.part_bytes = length ? length : KVX_PART_MAX;
	if (message.part_bytes > size - message.first)
		message.part_bytes = (uint32_t)size - message.first;
	memcpy(message.part, bytes + message.first, message.part_bytes);
	free(bytes);
	say(link, &message);
}

/* One frame, which comes in reads of at most `read` bytes, as a transport would place it. */
static void deliver(struct inject_link *link, uint32_t rail, const struct kvx_unit *unit,
		    uint64_t place, uint64_t bytes, uint64_t read)
{
	const struct kvx_sink *sink = inject.context->sink;
	void *engine = inject.context->engine;
	struct iovec parts[4];

	while (bytes && !link->down) {
		uint64_t moved = 0;
		int count = sink->place(engine, &link->base, unit, place, bytes, parts, 4);
		fuzz_require(count <= 4, "%d places", count);
		for (int i = 0; i < count && moved < read; i++) {
			size_t part = parts[i].iov_len;
			fuzz_require(part && part <= bytes - moved, "a place of %zu bytes", part);
			if (part > read - moved)
				part = read - moved;
			uint32_t grants = world_landing(parts[i].iov_base, part);
			fuzz_require((grants & ~link->presented) == 0,
				     "bytes of somebody who feeds no such grant");
			moved += part;
		}
		if (!moved)
			return;
		sink->landed(engine, &link->base, rail, unit, place, moved);
		place += moved;
		bytes -= moved;
	}
}

static void frame(struct inject_link *link)
{
	const struct world_grant *grant = grant_of(fuzz_u8(program));
	uint8_t layer = fuzz_u8(program), number = fuzz_u8(program), how = fuzz_u8(program);
	struct kvx_unit unit = {kvx_imm_pack(grant->ticket.slot, grant->ticket.generation,
					     layer == 255 ? KVX_TAIL : layer,
					     number % KVX_UNITS_MAX),
				grant->ticket.generation};
	uint64_t place = 0, bytes = WORLD_TAIL_BYTES;

	if (layer != 255 && units) { /* right */
		place = kvx_image_unit_place(&image, number % units);
		bytes = kvx_image_unit_place(&image, number % units + 1) - place;
	}
	if (how & 1)
		place += (uint64_t)(int64_t)(int8_t)fuzz_u8(program);
	if (how & 2)
		bytes = fuzz_u16(program);
	if (how & 4)
		unit.generation += fuzz_u8(program);
	if (how & 8)
		unit.imm = fuzz_u32(program);
	if (how & 16)
		place = fuzz_u64(program);
	if (!link || !link->up || link->down || link->outgoing || inject.ops->one_sided)
		return;
	if (place > UINT64_MAX - bytes || bytes > KVX_BATCH_BYTES_MAX)
		return; /* transports refuse these themselves */
	deliver(link, how >> 7 ? link->base.rails - 1 : 0, &unit, place, bytes,
		how & 32 ? 40 : UINT64_MAX);
}

static void arrived(struct inject_link *link)
{
	const struct world_grant *grant = grant_of(fuzz_u8(program));
	uint8_t layer = fuzz_u8(program), number = fuzz_u8(program);
	uint32_t imm = kvx_imm_pack(grant->ticket.slot, grant->ticket.generation,
				    layer == 255 ? KVX_TAIL : layer, number % KVX_UNITS_MAX);

	if (number >= 128)
		imm = fuzz_u32(program);
	if (link && link->up && !link->down && !link->outgoing && inject.ops->one_sided)
		inject.context->sink->arrived(inject.context->engine, &link->base, 0, imm);
}

static void settle(uint8_t which)
{
	if (which & 1)
		inject_settle_permit(which / 2 % INJECT_WAITING_MAX);
	else
		inject_settle_flow(which / 2 % INJECT_WAITING_MAX);
}

/* What the peer does, from within the transport's progress(). */
static void peer_step(void)
{
	uint8_t number = fuzz_u8(program);
	struct inject_link *link = link_of(number);

	switch (operation) {
	case ACCEPT_LINK:
		(void)inject_accept(1 + number % INJECT_RAILS_MAX);
		break;
	case LINK_UP:
		if (link)
			inject_up(link);
		break;
	case LINK_DOWN:
		if (link)
			inject_down(link, KVX_E_PEER_LOST);
		break;
	case RAIL:
		if (link)
			inject_rail(link, number / 4 % INJECT_RAILS_MAX, number >> 7);
		break;
	case HELLO:
		hello(link);
		break;
	case RAW:
		raw(link);
		break;
	case FIELD:
		field(link);
		break;
	case OPEN:
		open_stream(link);
		break;
	case ACCEPT:
		accept_stream(link);
		break;
	case LAYOUT:
		layout(link);
		break;
	case PULL:
		pull(link);
		break;
	case FRAME:
		frame(link);
		break;
	case ARRIVED:
		arrived(link);
		break;
	case SETTLE:
		settle(number);
		break;
	default:
		inject.credit = number;
		inject.usable = number & 64 ? 1 : UINT64_MAX;
	}
}

/* --- the engine's user --- */

static void use_grant(uint8_t choice)
{
	uint32_t index = choice & 1;
	uint8_t *bytes;
	size_t size;

	switch (choice / 2 % 4) {
	case 0:
		world_grant_revoke(index);
		break;
	case 1:
		world_grant_close(index);
		break;
	case 2:
		world_grant_open(index);
		break;
	default:
		world_forge_offer(&bytes, &size);
		if (world.grants[index].grant)
			(void)kvx_grant_pull(world.grants[index].grant, bytes, size);
		free(bytes);
	}
}

static void use_stream(uint8_t choice)
{
	uint32_t index = choice % WORLD_STREAMS;
	struct kvx_stream *stream = world.streams[index];
	char text[256];
	uint8_t *bytes;
	size_t size;

	if (!stream) {
		world_forge(index, &bytes, &size);
		world_stream_open(index, bytes, size);
		free(bytes);
		return;
	}
	switch (choice / WORLD_STREAMS % 6) {
	case 0:
		kvx_stream_cancel(stream);
		break;
	case 1:
		world_stream_close(index);
		break;
	case 2:
		(void)kvx_stream_layers_ready(stream, choice & 1, 1);
		break;
	case 3:
		(void)kvx_stream_tokens_ready(stream, 0, WORLD_LAYERS, choice / 16);
		break;
	case 4:
		(void)kvx_stream_tail_ready(stream);
		break;
	default:
		(void)kvx_stream_explain(stream, text, sizeof(text));
	}
}

/* What the engine sends lies in its blocks, or where it gathers. */
static void look_at_batch(const struct kvx_batch *batch)
{
	uint64_t bytes = 0;

	fuzz_require(batch->count && batch->count <= KVX_BATCH_SLICES_MAX, "%u slices",
		     batch->count);
	for (uint32_t i = 0; i < batch->count; i++) {
		const struct kvx_slice *slice = &batch->slices[i];
		const char *begin = slice->memory->address;
		fuzz_require(slice->length && slice->local >= begin &&
				     slice->length <= slice->memory->bytes &&
				     (uint64_t)(slice->local - begin) <=
					     slice->memory->bytes - slice->length,
			     "slice %u of %u bytes lies outside", i, slice->length);
		bytes += slice->length;
	}
	fuzz_require(bytes == batch->bytes && bytes <= KVX_BATCH_BYTES_MAX, "%u bytes",
		     batch->bytes);
}

static void choose(struct world_choice *choice)
{
	uint8_t flags = fuzz_u8(program);
	uint32_t tokens = fuzz_u8(program) % 16 + 1;

	*choice = (struct world_choice){
		.one_sided = flags & 1,
		.heads = flags & 2,
		.tail = flags & 4,
		.staging = flags & 8,
		.senders = flags & 16 ? 2 : 1,
		.tokens = tokens,
		.held_blocks = flags & 32 && tokens > WORLD_BLOCK_TOKENS,
	};
}

static void step(void)
{
	operation = fuzz_u8(program) % OPERATIONS;
	if (operation == GRANT)
		use_grant(fuzz_u8(program));
	else if (operation == STREAM)
		use_stream(fuzz_u8(program));
	else
		inject.step = peer_step;
	if (kvx_engine_progress(world.engine) < 0)
		abort();
	world_look();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_input input = fuzz_input_over(bytes, size);
	struct world_choice choice;

	program = &input;
	units = 0;
	choose(&choice);
	world_open(&choice);
	inject.posted = look_at_batch;
	world_grant_open(0);
	use_stream(0);
	use_stream(1);
	(void)kvx_engine_progress(world.engine); /* the stream begins to connect: link 0 */
	for (uint32_t i = 0; i < STEPS_MAX && fuzz_left(program); i++)
		step();
	inject.step = NULL;
	world_close();
	return 0;
}
