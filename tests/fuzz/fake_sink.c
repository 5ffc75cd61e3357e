/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_sink.h"

#include "target.h"

#define ARENA_BYTES (KVX_BATCH_BYTES_MAX + 4096u)
#define PARTS_MAX 8

bool fuzz_sink_refuses;
int fuzz_sink_error;
struct kvx_link *fuzz_sink_links[FUZZ_SINK_LINKS_MAX];
bool fuzz_sink_ended[FUZZ_SINK_LINKS_MAX];

static char arena[ARENA_BYTES];
static uint64_t room; /* bytes that the last place() gave room to, and that were not reported */
static struct kvx_log log;

void fuzz_sink_reset(void)
{
	fuzz_sink_refuses = false;
	fuzz_sink_error = 0;
	room = 0;
	memset(fuzz_sink_links, 0, sizeof(fuzz_sink_links));
	memset(fuzz_sink_ended, 0, sizeof(fuzz_sink_ended));
}

void fuzz_sink_know(struct kvx_link *link)
{
	for (uint32_t i = 0; i < FUZZ_SINK_LINKS_MAX; i++) {
		if (fuzz_sink_links[i])
			continue;
		fuzz_sink_links[i] = link;
		fuzz_sink_ended[i] = false;
		return;
	}
	fuzz_require(false, "more than %u links", FUZZ_SINK_LINKS_MAX);
}

void fuzz_sink_disconnect(bool all)
{
	for (uint32_t i = 0; i < FUZZ_SINK_LINKS_MAX; i++) {
		struct kvx_link *link = fuzz_sink_links[i];
		if (!link || !(all || fuzz_sink_ended[i]))
			continue;
		fuzz_sink_links[i] = NULL;
		link->ops->disconnect(link);
	}
}

static uint32_t index_of(const struct kvx_link *link)
{
	for (uint32_t i = 0; i < FUZZ_SINK_LINKS_MAX; i++)
		if (fuzz_sink_links[i] == link)
			return i;
	return FUZZ_SINK_LINKS_MAX;
}

/* Only of links that it knows, and not after their end. */
static void expect_alive(const struct kvx_link *link, const char *what)
{
	uint32_t index = index_of(link);

	if (link->ops->disconnect) /* a lane alone is no link of a transport */
		fuzz_require(index < FUZZ_SINK_LINKS_MAX && !fuzz_sink_ended[index],
			     "%s of a link that has ended", what);
}

static void link_up(void *engine, struct kvx_link *link)
{
	static const char hello[] = "hello";

	(void)engine;
	expect_alive(link, "link_up");
	link->ops->message(link, hello, sizeof(hello));
}

static void link_accepted(void *engine, struct kvx_link *link)
{
	fuzz_sink_know(link);
	link_up(engine, link);
}

static void link_down(void *engine, struct kvx_link *link, int code, const char *text)
{
	(void)engine;
	expect_alive(link, "link_down");
	fuzz_require(code < 0 && text && text[0], "link_down without a reason");
	fuzz_sink_ended[index_of(link)] = true;
}

static void rail_changed(void *engine, struct kvx_link *link, uint32_t rail, bool up,
			 const char *text)
{
	(void)engine;
	(void)up;
	expect_alive(link, "rail_changed");
	fuzz_require(rail < link->rails && text, "rail %u of %u", rail, link->rails);
}

static void message(void *engine, struct kvx_link *link, const void *bytes, uint32_t length)
{
	uint32_t sum = 0;

	(void)engine;
	expect_alive(link, "a message");
	fuzz_require(length >= 1 && length <= KVX_MESSAGE_MAX + 64, "%u bytes", length);
	for (uint32_t i = 0; i < length; i++)
		sum += ((const uint8_t *)bytes)[i];
	if (sum % 3 == 0 && link->ops->message)
		link->ops->message(link, bytes,
				   length < KVX_MESSAGE_MAX ? length : KVX_MESSAGE_MAX);
}

/* Some units have no place, others have small ones, or only some of what is asked for. */
static int place(void *engine, struct kvx_link *link, const struct kvx_unit *unit, uint64_t at,
		 uint64_t bytes, struct iovec *iov, int iov_max)
{
	uint32_t piece = unit->imm % 1000 ? unit->imm % 1000 : KVX_BATCH_BYTES_MAX;
	int count = 0;

	(void)engine;
	expect_alive(link, "place");
	fuzz_require(bytes >= 1 && bytes <= KVX_BATCH_BYTES_MAX && at <= UINT64_MAX - bytes,
		     "%llu bytes at %llu", (unsigned long long)bytes, (unsigned long long)at);
	room = 0;
	if (fuzz_sink_refuses || unit->imm >> 31)
		return 0;
	for (; count < iov_max && count < PARTS_MAX && room < bytes; count++) {
		uint64_t part = piece < bytes - room ? piece : bytes - room;
		iov[count] = (struct iovec){arena + room, part};
		room += part;
	}
	return count;
}

static void landed(void *engine, struct kvx_link *link, uint32_t rail, const struct kvx_unit *unit,
		   uint64_t at, uint64_t bytes)
{
	(void)engine;
	(void)unit;
	(void)at;
	expect_alive(link, "landed");
	fuzz_require(rail < link->rails, "rail %u of %u", rail, link->rails);
	fuzz_require(bytes && bytes <= KVX_BATCH_BYTES_MAX, "%llu bytes",
		     (unsigned long long)bytes);
	room = 0;
}

static const struct kvx_sink sink = {
	.link_up = link_up,
	.link_accepted = link_accepted,
	.link_down = link_down,
	.rail_changed = rail_changed,
	.message = message,
	.place = place,
	.landed = landed,
};

struct kvx_transport_context fuzz_sink_context(void)
{
	return (struct kvx_transport_context){.sink = &sink, .log = &log};
}
