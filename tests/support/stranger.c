/* SPDX-License-Identifier: Apache-2.0 */
#include "support/stranger.h"

#include "base/clock.h"
#include "plan/unit.h"
#include "support/opening.h"

#include <stdio.h>
#include <string.h>

#define INCARNATION STRANGER_INCARNATION

static char zeros[1 << 16];

static void link_up(void *engine, struct kvx_link *link)
{
	struct stranger *stranger = engine;

	(void)link;
	stranger->up = true;
}

static void link_accepted(void *engine, struct kvx_link *link)
{
	struct stranger *stranger = engine;

	stranger->link = link;
	stranger->up = true;
}

static void link_down(void *engine, struct kvx_link *link, int code, const char *text)
{
	struct stranger *stranger = engine;

	(void)link;
	(void)code;
	(void)text;
	stranger->down = true;
}

static void rail_changed(void *engine, struct kvx_link *link, uint32_t rail, bool up,
			 const char *text)
{
	(void)engine;
	(void)link;
	(void)rail;
	(void)up;
	(void)text;
}

static void remember_layout(struct stranger *stranger, const struct kvx_message *layout)
{
	for (uint32_t i = 0; i < layout->count; i++) {
		const struct kvx_layout_run *run = &layout->layout[i];
		for (uint32_t j = 0; j < run->tensors; j++) {
			cr_assert_lt(stranger->target_count, STRANGER_TENSORS_MAX);
			stranger->targets[stranger->target_count++] = (struct kvx_target){
				run->base + j * run->step, run->stride, run->memory};
		}
	}
}

static void message_came(void *engine, struct kvx_link *link, const void *bytes, uint32_t length)
{
	struct stranger *stranger = engine;
	struct kvx_message message;

	(void)link;
	cr_assert_eq(kvx_message_decode(&message, bytes, length), 0, "%s", kvx_error_text());
	if (message.type == KVX_MESSAGE_LAYOUT)
		remember_layout(stranger, &message);
	if (message.type == KVX_MESSAGE_HELLO || message.type == KVX_MESSAGE_PING ||
	    message.type == KVX_MESSAGE_LAYOUT)
		return;
	stranger->heard = message;
	stranger->heard_count++;
}

static int place(void *engine, struct kvx_link *link, const struct kvx_unit *unit, uint64_t place_,
		 uint64_t bytes, struct iovec *iov, int iov_max)
{
	(void)engine;
	(void)link;
	(void)unit;
	(void)place_;
	(void)bytes;
	(void)iov;
	(void)iov_max;
	return 0;
}

static void landed(void *engine, struct kvx_link *link, uint32_t rail, const struct kvx_unit *unit,
		   uint64_t place_, uint64_t bytes)
{
	(void)engine;
	(void)link;
	(void)rail;
	(void)unit;
	(void)place_;
	(void)bytes;
}

static void arrived(void *engine, struct kvx_link *link, uint32_t rail, uint32_t imm)
{
	(void)engine;
	(void)link;
	(void)rail;
	(void)imm;
}

static void permit_changed(void *engine, struct kvx_permit *permit)
{
	(void)engine;
	(void)permit;
}

static void drained(void *engine, struct kvx_flow *flow)
{
	(void)engine;
	(void)flow;
}

static void refused(void *engine, struct kvx_flow *flow, const char *text)
{
	(void)engine;
	(void)flow;
	(void)text;
}

static const struct kvx_sink sink = {
	.link_up = link_up,
	.link_accepted = link_accepted,
	.link_down = link_down,
	.rail_changed = rail_changed,
	.message = message_came,
	.place = place,
	.landed = landed,
	.arrived = arrived,
	.permitted = permit_changed,
	.forbidden = permit_changed,
	.drained = drained,
	.refused = refused,
};

static void step(struct stranger *stranger, struct drive *drive)
{
	kvx_poller_run(&stranger->poller, 0);
	stranger->ops->progress(stranger->transport, kvx_now_ns());
	if (!drive->count || !drive_step(drive))
		sleep_ms(1);
}

static bool wait_for(struct stranger *stranger, struct drive *drive, const uint32_t *count,
		     uint32_t wanted, const bool *flag)
{
	int64_t deadline_ms = now_ms() + PATIENCE_MS;

	while ((count && *count < wanted) || (flag && !*flag)) {
		if (now_ms() > deadline_ms || (stranger->down && flag != &stranger->down))
			return false;
		step(stranger, drive);
	}
	return true;
}

/* The address of one transport among an engine's. */
static void address_of(const char *addresses, const char *transport, char *address, size_t size)
{
	const char *found = strstr(addresses, transport);

	cr_assert(found && found[strlen(transport)] == ':', "%s: %s", transport, addresses);
	found += strlen(transport) + 1;
	snprintf(address, size, "%.*s", (int)strcspn(found, ","), found);
}

static void open_transport(struct stranger *stranger, const char *transport)
{
	if (strcmp(transport, "cuda_ipc") == 0)
		cr_skip_test("a stranger has no GPU memory, without which nobody connects");
	*stranger = (struct stranger){.ops = kvx_transport_find(transport)};
	expect_ok(kvx_options_new(&stranger->options));
	expect_ok(kvx_poller_init(&stranger->poller));
	expect_ok(kvx_waker_init(&stranger->waker, &stranger->poller));
	stranger->context = (struct kvx_transport_context){
		.sink = &sink,
		.engine = stranger,
		.poller = &stranger->poller,
		.waker = &stranger->waker,
		.log = &stranger->log,
		.options = stranger->options,
		.incarnation = INCARNATION,
	};
	expect_ok(stranger->ops->open(&stranger->context, &stranger->transport));
	stranger->memory = (struct kvx_memory){
		.address = zeros, .bytes = sizeof(zeros), .fd = -1, .dmabuf = -1};
	if (stranger->ops->one_sided)
		expect_ok(stranger->ops->attach(stranger->transport, &stranger->memory));
}

void stranger_connect(struct stranger *stranger, struct drive *drive, const char *transport,
		      const char *addresses)
{
	char address[KVX_ADDRESS_MAX + 1];

	open_transport(stranger, transport);
	address_of(addresses, transport, address, sizeof(address));
	expect_ok(stranger->ops->connect(stranger->transport, address, &stranger->link));
	cr_assert(wait_for(stranger, drive, NULL, 0, &stranger->up), "no link over %s", transport);
}

void stranger_serve(struct stranger *stranger, const char *transport, char *address, size_t size)
{
	open_transport(stranger, transport);
	stranger->serves = true;
	snprintf(address, size, "%s:%s", transport, stranger->ops->address(stranger->transport));
}

void stranger_greet(struct stranger *stranger, struct drive *drive)
{
	cr_assert(wait_for(stranger, drive, NULL, 0, &stranger->up), "nobody has connected");
	stranger_hello(stranger);
}

void stranger_close(struct stranger *stranger)
{
	struct drive nobody = {0};

	if (!stranger->serves) /* who serves posts nothing */
		stranger->ops->withdraw(stranger->link, &stranger->flow);
	stranger->ops->disconnect(stranger->link);
	while (stranger->flow.in_flight)
		step(stranger, &nobody);
	stranger->ops->forget(stranger->transport, &stranger->memory);
	if (stranger->ops->one_sided)
		stranger->ops->detach(stranger->transport, &stranger->memory);
	stranger->ops->close(stranger->transport);
	kvx_waker_finish(&stranger->waker, &stranger->poller);
	kvx_poller_finish(&stranger->poller);
	kvx_options_free(stranger->options);
}

void stranger_say_bytes(struct stranger *stranger, const void *bytes, uint32_t length)
{
	stranger->ops->message(stranger->link, bytes, length);
}

void stranger_say(struct stranger *stranger, const struct kvx_message *message)
{
	uint8_t bytes[KVX_MESSAGE_MAX];
	uint32_t length = kvx_message_encode(message, bytes);

	if (message->type == KVX_MESSAGE_OPEN) {
		stranger->flow.slot = message->slot;
		stranger->flow.generation = message->generation;
		stranger->units = message->units;
	}

	stranger_say_bytes(stranger, bytes, length);
}

void stranger_hello(struct stranger *stranger)
{
	struct kvx_message hello = {.type = KVX_MESSAGE_HELLO,
				    .version = KVX_PROTOCOL_VERSION,
				    .incarnation = INCARNATION,
				    .heartbeat_ms = 60000};

	strcpy(hello.text, "stranger");
	stranger_say(stranger, &hello);
}

struct kvx_message stranger_open_message(const struct kvx_ticket *ticket, uint64_t stream,
					 uint32_t units)
{
	return opening_of(ticket, stream, units);
}

/* Which block of which plane a place is in, where blocks move whole: units are ranges of blocks,
 * and in a unit lies plane after plane. */
static void find_block(const struct stranger *stranger, const struct kvx_ticket *ticket,
		       uint64_t piece, uint32_t *plane, uint32_t *block)
{
	uint32_t planes = ticket->geometry.planes, unit = 0, first = 0, end = 0;

	while ((uint64_t)planes * end <= piece) {
		unit++;
		first = end;
		end = (uint32_t)((uint64_t)ticket->count * unit / stranger->units);
	}
	piece -= (uint64_t)planes * first;
	*plane = (uint32_t)(piece / (end - first));
	*block = first + (uint32_t)(piece % (end - first));
}

/* A slice for each block. */
static uint32_t make_slices(const struct stranger *stranger, const struct kvx_ticket *ticket,
			    uint32_t layer, uint64_t place_, uint32_t bytes,
			    struct kvx_slice *slices)
{
	const struct kvx_geometry *geometry = &ticket->geometry;
	uint32_t count = 0, length, plane, block;

	for (uint32_t done = 0; done < bytes; done += length, count++) {
		uint64_t within = (place_ + done) % geometry->block_bytes;
		find_block(stranger, ticket, (place_ + done) / geometry->block_bytes, &plane,
			   &block);
		const struct kvx_target *target =
			&stranger->targets[layer * geometry->planes + plane];
		length = geometry->block_bytes - (uint32_t)within;
		if (length > bytes - done)
			length = bytes - done;
		cr_assert_lt(count, KVX_BATCH_SLICES_MAX);
		slices[count] = (struct kvx_slice){
			.local = zeros + done,
			.memory = &stranger->memory,
			.length = length,
			.target = target->memory,
			.offset = target->base + ticket->table[block] * target->stride + within,
		};
	}
	return count;
}

void stranger_post(struct stranger *stranger, struct drive *drive, const struct kvx_ticket *ticket,
		   uint32_t layer, uint32_t unit, uint64_t place_, uint32_t bytes)
{
	struct kvx_slice slices[KVX_BATCH_SLICES_MAX];
	struct kvx_batch batch = {
		.unit = {kvx_imm_pack(ticket->slot, ticket->generation, layer, unit),
			 ticket->generation},
		.place = place_,
		.bytes = bytes,
		.slices = slices,
		.flow = &stranger->flow,
		.last = true,
	};
	int64_t deadline_ms = now_ms() + PATIENCE_MS;

	cr_assert(bytes <= sizeof(zeros));
	batch.count = make_slices(stranger, ticket, layer, place_, bytes, slices);
	while (!stranger->ops->post(stranger->link, 0, &batch)) {
		cr_assert(now_ms() < deadline_ms && !stranger->down);
		step(stranger, drive);
	}
	step(stranger, drive);
}

void stranger_flush(struct stranger *stranger)
{
	struct drive nobody = {0};

	for (int i = 0; i < 5; i++)
		step(stranger, &nobody);
}

bool stranger_listen(struct stranger *stranger, struct drive *drive, uint32_t count)
{
	return wait_for(stranger, drive, &stranger->heard_count, count, NULL);
}

bool stranger_sees_end(struct stranger *stranger, struct drive *drive)
{
	return wait_for(stranger, drive, NULL, 0, &stranger->down);
}

struct kvx_ticket ticket_of(struct kvx_grant *grant)
{
	struct kvx_ticket ticket;
	size_t bytes;
	const void *granted = kvx_grant_ticket(grant, &bytes);

	expect_ok(kvx_ticket_decode(&ticket, KVX_TICKET_GRANT, granted, bytes));
	return ticket;
}
