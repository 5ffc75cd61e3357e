/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/seam.h"

#include "base/clock.h"
#include "base/list.h"
#include "secret/secret.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define IDLE_PUMPS_MIN 20

uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

uint64_t message_hash(uint64_t hash, const void *bytes, uint32_t length)
{
	const uint8_t *next = bytes;

	hash = (hash ^ length) * UINT64_C(0x100000001b3);
	for (uint32_t i = 0; i < length; i++)
		hash = (hash ^ next[i]) * UINT64_C(0x100000001b3);
	return hash;
}

/* --------------------------------------------------------------------------------------- sink */

static struct link_log *log_new(struct side *side, struct kvx_link *link)
{
	cr_assert_lt(side->link_count, LINKS);
	struct link_log *log = &side->links[side->link_count++];
	*log = (struct link_log){.link = link};
	return log;
}

struct link_log *side_log(struct side *side, const struct kvx_link *link)
{
	for (uint32_t i = side->link_count; i-- > 0;)
		if (side->links[i].link == link)
			return &side->links[i];
	cr_assert_fail("a link that this side does not have");
	return NULL;
}

static void link_up(void *engine, struct kvx_link *link)
{
	side_log(engine, link)->up++;
}

static void link_accepted(void *engine, struct kvx_link *link)
{
	log_new(engine, link)->accepted++;
}

static void link_down(void *engine, struct kvx_link *link, int code, const char *text)
{
	struct link_log *log = side_log(engine, link);

	log->down++;
	log->code = code;
	snprintf(log->text, sizeof(log->text), "%s", text);
}

static void rail_changed(void *engine, struct kvx_link *link, uint32_t rail, bool up,
			 const char *text)
{
	struct link_log *log = side_log(engine, link);

	cr_assert_lt(rail, link->rails);
	cr_assert(text[0]);
	*(up ? &log->rail_up : &log->rail_down) += 1;
}

static void message(void *engine, struct kvx_link *link, const void *bytes, uint32_t length)
{
	struct side *side = engine;
	struct link_log *log = side_log(side, link);

	log->messages++;
	log->message_hash = message_hash(log->message_hash, bytes, length);
	if (side->echo)
		side->ops->message(link, bytes, length);
}

static int place(void *engine, struct kvx_link *link, const struct kvx_unit *unit, uint64_t place,
		 uint64_t bytes, struct iovec *iov, int iov_max)
{
	struct side *side = engine;
	int count = 0;

	side_log(side, link);
	if (unit->imm >= UNITS || unit->generation != side->generation ||
	    side->refused >> unit->imm & 1 || place > UNIT_BYTES || bytes > UNIT_BYTES - place)
		return 0;
	if (side->refused_from && place + bytes > side->refused_from)
		bytes = place < side->refused_from ? side->refused_from - place : 0;
	if (side->answer_bytes && bytes > side->answer_bytes)
		bytes = side->answer_bytes;
	for (; bytes > 0 && count < iov_max; count++) {
		uint64_t piece = bytes;
		if (side->piece_bytes && piece > side->piece_bytes - place % side->piece_bytes)
			piece = side->piece_bytes - place % side->piece_bytes;
		iov[count] =
			(struct iovec){side->image + (size_t)unit->imm * UNIT_BYTES + place, piece};
		place += piece;
		bytes -= piece;
	}
	return count;
}

static void landed(void *engine, struct kvx_link *link, uint32_t rail, const struct kvx_unit *unit,
		   uint64_t place, uint64_t bytes)
{
	struct side *side = engine;
	struct unit_log *log = &side->units[unit->imm];

	side_log(side, link);
	cr_assert_lt(rail, link->rails);
	cr_assert_lt(unit->imm, UNITS);
	cr_assert_gt(bytes, 0);
	if (side->expected) {
		size_t at = (size_t)unit->imm * UNIT_BYTES + place;
		cr_assert_eq(memcmp(side->image + at, side->expected + at, bytes), 0,
			     "unit %u: told of bytes that are not there", unit->imm);
	}
	log->disorder += log->landed > 0 && place != log->next;
	log->landed += bytes;
	log->next = place + bytes;
	log->rail = rail;
	if (side->ends_after && log->landed >= side->ends_after) {
		side->generation++;
		side->ends_after = 0;
	}
}

/* --- of one-sided transports --- */

static void arrived(void *engine, struct kvx_link *link, uint32_t rail, uint32_t imm)
{
	struct side *side = engine;

	side_log(side, link);
	cr_assert_lt(rail, link->rails);
	cr_assert_lt(imm, UNITS);
	side->units[imm].arrivals++;
	side->units[imm].rail = rail;
}

static void permitted(void *engine, struct kvx_permit *permit)
{
	(void)engine;
	kvx_container_of(permit, struct lending, permit)->permitted++;
}

static void forbidden(void *engine, struct kvx_permit *permit)
{
	(void)engine;
	kvx_container_of(permit, struct lending, permit)->forbidden++;
}

static void drained(void *engine, struct kvx_flow *flow)
{
	(void)engine;
	cr_assert_eq(flow->in_flight, 0);
	kvx_container_of(flow, struct source, flow)->drained++;
}

static void refused(void *engine, struct kvx_flow *flow, const char *text)
{
	struct source *source = kvx_container_of(flow, struct source, flow);

	(void)engine;
	source->refused++;
	snprintf(source->text, sizeof(source->text), "%s", text);
}

static const struct kvx_sink sink = {
	.link_up = link_up,
	.link_accepted = link_accepted,
	.link_down = link_down,
	.rail_changed = rail_changed,
	.message = message,
	.place = place,
	.landed = landed,
	.arrived = arrived,
	.permitted = permitted,
	.forbidden = forbidden,
	.drained = drained,
	.refused = refused,
};

/* --------------------------------------------------------------------------------------- side */

static void set_options(struct kvx_options *options, const char *const *settings)
{
	for (; settings && *settings; settings++) {
		char name[64];
		const char *equals = strchr(*settings, '=');
		snprintf(name, sizeof(name), "%.*s", (int)(equals - *settings), *settings);
		cr_assert_eq(kvx_options_set(options, name, equals + 1), 0, "%s", kvx_error_text());
	}
}

static void release(struct side *side)
{
	munmap(side->image, (size_t)UNITS * UNIT_BYTES);
	kvx_keyring_close(side->context.keyring);
	kvx_waker_finish(&side->waker, &side->poller);
	kvx_poller_finish(&side->poller);
	kvx_options_free(side->options);
}

int side_try(struct side *side, const struct kvx_transport_ops *ops, const char *const *options)
{
	static _Atomic uint64_t incarnation = 0x5eed000000000000;

	*side = (struct side){.ops = ops};
	cr_assert_eq(kvx_options_new(&side->options), 0);
	set_options(side->options, options);
	cr_assert_eq(kvx_poller_init(&side->poller), 0);
	cr_assert_eq(kvx_waker_init(&side->waker, &side->poller), 0);
	side->image = mmap(NULL, (size_t)UNITS * UNIT_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cr_assert_neq(side->image, MAP_FAILED);
	side->context = (struct kvx_transport_context){
		.sink = &sink,
		.engine = side,
		.poller = &side->poller,
		.waker = &side->waker,
		.log = &side->log,
		.options = side->options,
		.incarnation = (uint64_t)getpid() << 16 ^ ++incarnation,
	};
	if (side->options->secret_file[0])
		cr_assert_eq(kvx_keyring_open(side->options->secret_file, &side->context.keyring),
			     0, "%s", kvx_error_text());
	int error = ops->open(&side->context, &side->transport);
	if (error)
		release(side);
	return error;
}

void side_open(struct side *side, const struct kvx_transport_ops *ops, const char *const *options)
{
	int error = side_try(side, ops, options);

	if (error == KVX_E_UNSUPPORTED)
		cr_skip_test("%s", kvx_error_text());
	cr_assert_eq(error, 0, "%s", kvx_error_text());
}

void side_disconnect(struct side *side, struct kvx_link *link)
{
	struct link_log *log = side_log(side, link);

	side->ops->disconnect(link);
	log->link = NULL;
}

void side_disconnect_all(struct side *side)
{
	for (uint32_t i = 0; i < side->link_count; i++)
		if (side->links[i].link)
			side_disconnect(side, side->links[i].link);
}

void side_close(struct side *side)
{
	side_disconnect_all(side);
	for (uint32_t i = 0; i < side->memory_count; i++)
		side_detach(side, &side->memories[i]);
	side->ops->close(side->transport);
	release(side);
}

int side_pump(struct side *side)
{
	return kvx_poller_run(&side->poller, 0) +
	       side->ops->progress(side->transport, kvx_now_ns());
}

void side_sleep(struct side *side, int64_t timeout_ns)
{
	if (side_pump(side))
		return;
	kvx_waker_arm(&side->waker);
	if (!side->ops->arm(side->transport) && kvx_poller_run(&side->poller, timeout_ns) == 0)
		side->sleep_lost = true;
	kvx_waker_disarm(&side->waker);
	side->ops->progress(side->transport, kvx_now_ns());
}

void side_idle(struct side *first, struct side *second, int64_t time_ns)
{
	int64_t end = kvx_now_ns() + time_ns;

	for (int pumps = 0; pumps < IDLE_PUMPS_MIN || kvx_now_ns() < end; pumps++) {
		int done = side_pump(first);
		if (second)
			done += side_pump(second);
		if (!done)
			usleep(200);
	}
}

struct kvx_link *side_link(struct side *from, struct side *to, struct kvx_link **accepted)
{
	char address[KVX_ADDRESS_MAX + 1];
	struct kvx_link *link;
	uint32_t before = to->link_count;

	cr_assert_eq(from->ops->resolve(to->ops->address(to->transport), address, sizeof(address)),
		     0, "%s", kvx_error_text());
	cr_assert_eq(from->ops->connect(from->transport, address, &link), 0, "%s",
		     kvx_error_text());
	struct link_log *log = log_new(from, link);
	PUMP_UNTIL(from, to, (log->up && to->link_count > before) || log->down);
	cr_assert_eq(log->down, 0, "%s", log->text);
	if (accepted)
		*accepted = to->links[before].link;
	return link;
}

/* ------------------------------------------------------------------------------------- permits */

void side_attach(struct side *side, struct kvx_memory *memory)
{
	if (side->ops->one_sided)
		cr_assert_eq(side->ops->attach(side->transport, memory), 0, "%s", kvx_error_text());
}

void side_detach(struct side *side, struct kvx_memory *memory)
{
	side->ops->forget(side->transport, memory);
	if (side->ops->one_sided)
		side->ops->detach(side->transport, memory);
}

void side_attach_image(struct side *side, uint32_t count)
{
	uint64_t bytes = (uint64_t)UNITS * UNIT_BYTES / count;

	for (uint32_t i = 0; i < count; i++) {
		side->memories[i] = (struct kvx_memory){.address = side->image + i * bytes,
							.bytes = bytes,
							.fd = -1,
							.index = 1000 + i,
							.dmabuf = -1};
		side_attach(side, &side->memories[i]);
		side->memory_list[i] = &side->memories[i];
	}
	side->memory_count = count;
}

void side_lend(struct side *side, struct kvx_link *link, struct lending *lending, uint32_t slot,
	       bool readable)
{
	lending->permit = (struct kvx_permit){.slot = slot,
					      .generation = side->generation,
					      .memories = side->memory_list,
					      .memory_count = side->memory_count,
					      .readable = readable};
	cr_assert(side->ops->permit(link, &lending->permit));
}

void side_forbid(struct side *side, struct kvx_link *link, struct lending *lending, bool stopped)
{
	side->ops->forbid(link, &lending->permit, stopped);
	PUMP_UNTIL(side, (struct side *)NULL, lending->forbidden);
}
