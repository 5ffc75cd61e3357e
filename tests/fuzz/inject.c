/* SPDX-License-Identifier: Apache-2.0 */
#include "inject.h"

#include "base/error.h"
#include "target.h"

struct inject inject;

struct kvx_transport {
	int unused;
};

static struct kvx_transport instance;

void inject_reset(void)
{
	inject = (struct inject){.credit = UINT32_MAX, .usable = UINT64_MAX};
}

/* ------------------------------------------------------------------------------- the target's */

static const struct kvx_sink *sink(void)
{
	return inject.context->sink;
}

static void *engine(void)
{
	return inject.context->engine;
}

static struct inject_link *link_new(uint32_t rails, bool outgoing)
{
	for (uint32_t i = 0; i < INJECT_LINKS_MAX; i++) {
		if (inject.links[i])
			continue;
		struct inject_link *link = calloc(1, sizeof(*link));
		fuzz_require(link, "no memory");
		link->base.ops = inject.ops;
		link->base.transport = &instance;
		link->base.rails = rails;
		link->outgoing = outgoing;
		inject.links[i] = link;
		return link;
	}
	return NULL;
}

struct inject_link *inject_accept(uint32_t rails)
{
	struct inject_link *link = link_new(rails, false);

	if (!link)
		return NULL;
	link->up = true;
	sink()->link_accepted(engine(), &link->base);
	return link;
}

void inject_up(struct inject_link *link)
{
	if (!link->outgoing || link->up || link->down)
		return;
	link->up = true;
	sink()->link_up(engine(), &link->base);
}

void inject_down(struct inject_link *link, int code)
{
	if (link->down)
		return;
	link->down = true;
	sink()->link_down(engine(), &link->base, code, "the target ended it");
}

void inject_say(struct inject_link *link, const void *bytes, uint32_t length)
{
	if (!link->up || link->down || !length)
		return;
	/* Of its own allocation, so that a read beyond it is noticed. */
	void *copy = malloc(length);
	fuzz_require(copy, "no memory");
	memcpy(copy, bytes, length);
	sink()->message(engine(), &link->base, copy, length);
	free(copy);
}

void inject_rail(struct inject_link *link, uint32_t rail, bool up)
{
	if (!link->up || link->down || rail >= link->base.rails || link->rail_down[rail] != up)
		return;
	link->rail_down[rail] = !up;
	sink()->rail_changed(engine(), &link->base, rail, up, "the target changed it");
}

void inject_settle_permit(uint32_t index)
{
	struct kvx_permit *permit = inject.permits[index];

	if (!permit)
		return;
	if (inject.taken_back[index]) {
		inject.permits[index] = NULL;
		sink()->forbidden(engine(), permit);
	} else if (!inject.in_force[index]) {
		inject.in_force[index] = true;
		sink()->permitted(engine(), permit);
	}
}

/* The hardware has read the memory of all its batches. */
void inject_settle_flow(uint32_t index)
{
	struct kvx_flow *flow = inject.flows[index];

	if (!flow)
		return;
	inject.flows[index] = NULL;
	flow->in_flight = 0;
	if (flow->withdrawn)
		sink()->drained(engine(), flow);
}

/* ----------------------------------------------------------------------------------- the seam */

static int open_as(const struct kvx_transport_ops *ops, const struct kvx_transport_context *context,
		   struct kvx_transport **transport)
{
	inject.ops = ops;
	inject.context = context;
	*transport = &instance;
	return 0;
}

static int open_placing(const struct kvx_transport_context *context,
			struct kvx_transport **transport)
{
	return open_as(&inject_transport, context, transport);
}

static int open_one_sided(const struct kvx_transport_context *context,
			  struct kvx_transport **transport)
{
	return open_as(&inject_one_sided_transport, context, transport);
}

static void close_transport(struct kvx_transport *transport)
{
	(void)transport;
	for (uint32_t i = 0; i < INJECT_LINKS_MAX; i++)
		fuzz_require(!inject.links[i], "link %u was not disconnected", i);
	inject.context = NULL;
}

static const char *address(const struct kvx_transport *transport)
{
	(void)transport;
	return "here";
}

static int resolve(const char *text, char *resolved, size_t size)
{
	snprintf(resolved, size, "%s", text);
	return 0;
}

static int connect_link(struct kvx_transport *transport, const char *to, struct kvx_link **link)
{
	(void)transport;
	struct inject_link *made = link_new(INJECT_RAILS_MAX, true);

	if (!made)
		return kvx_fail(KVX_E_UNREACHABLE, "fuzz: %s: too many links", to);
	*link = &made->base;
	return 0;
}

static void disconnect(struct kvx_link *base)
{
	for (uint32_t i = 0; i < INJECT_LINKS_MAX; i++)
		if (inject.links[i] && &inject.links[i]->base == base)
			inject.links[i] = NULL;
	/* forbidden() follows for what was lent over it; another link's comes sooner than it must.
	 */
	for (uint32_t i = 0; i < INJECT_WAITING_MAX; i++)
		inject.taken_back[i] |= inject.permits[i] && inject.permits[i]->state == base;
	free((struct inject_link *)base);
}

static void message(struct kvx_link *base, const void *bytes, uint32_t length)
{
	struct inject_link *link = (struct inject_link *)base;
	struct kvx_message said;

	fuzz_require(length >= 1 && length <= KVX_MESSAGE_MAX, "a message of %u bytes", length);
	fuzz_require(kvx_message_decode(&said, bytes, length) == 0, "the engine said: %s",
		     kvx_error_text());
	if (said.type != KVX_MESSAGE_OPEN)
		return;
	link->open = said;
	link->opens++;
}

static void remember(struct kvx_flow *flow)
{
	for (uint32_t i = 0; i < INJECT_WAITING_MAX; i++)
		if (inject.flows[i] == flow)
			return;
	for (uint32_t i = 0; i < INJECT_WAITING_MAX; i++) {
		if (inject.flows[i])
			continue;
		inject.flows[i] = flow;
		return;
	}
	flow->in_flight = 0; /* no room: it is over at once */
}

static bool post(struct kvx_link *base, uint32_t rail, const struct kvx_batch *batch)
{
	struct inject_link *link = (struct inject_link *)base;

	fuzz_require(link->outgoing && rail < base->rails, "rail %u of %u", rail, base->rails);
	fuzz_require(!batch->flow->withdrawn, "a batch of a flow that was withdrawn");
	if (!link->up || link->down || link->rail_down[rail] || !inject.credit)
		return false;
	inject.credit--;
	inject.posted(batch);
	if (base->ops->one_sided) {
		batch->flow->in_flight++;
		remember(batch->flow);
	}
	return true;
}

static void withdraw(struct kvx_link *base, struct kvx_flow *flow)
{
	(void)base;
	flow->withdrawn = true;
}

static void forget(struct kvx_transport *transport, const struct kvx_memory *memory)
{
	(void)transport;
	(void)memory;
}

/* Left to itself, when somebody waits, it brings to an end what is owed. */
static int progress(struct kvx_transport *transport, int64_t now_ns)
{
	void (*step)(void) = inject.step;
	int done = step != NULL;

	(void)transport;
	(void)now_ns;
	inject.step = NULL;
	if (step) {
		step();
		return done;
	}
	for (uint32_t i = 0; i < INJECT_WAITING_MAX; i++) {
		done += inject.permits[i] && inject.taken_back[i];
		if (inject.permits[i] && inject.taken_back[i])
			inject_settle_permit(i);
		done += inject.flows[i] && inject.flows[i]->withdrawn;
		if (inject.flows[i] && inject.flows[i]->withdrawn)
			inject_settle_flow(i);
	}
	return done;
}

static bool arm(struct kvx_transport *transport)
{
	(void)transport;
	for (uint32_t i = 0; i < INJECT_WAITING_MAX; i++)
		if (inject.permits[i] || inject.flows[i])
			return true;
	return inject.step != NULL;
}

static void explain(const struct kvx_link *link, char *text, size_t size)
{
	(void)link;
	snprintf(text, size, "bytes of a fuzzer");
}

static void port(const struct kvx_link *link, uint32_t rail, char *text, size_t size)
{
	(void)link;
	snprintf(text, size, "port%u", rail);
}

/* --- one-sided --- */

static int attach(struct kvx_transport *transport, struct kvx_memory *memory)
{
	(void)transport;
	(void)memory;
	return 0;
}

static void detach(struct kvx_transport *transport, struct kvx_memory *memory)
{
	(void)transport;
	(void)memory;
}

static uint32_t hint(const struct kvx_transport *transport, const struct kvx_memory *memory,
		     uint8_t bytes[KVX_HINT_MAX])
{
	(void)transport;
	(void)memory;
	bytes[0] = 7;
	return 1;
}

static uint32_t share(const struct kvx_link *link, const struct kvx_memory *memory,
		      const uint8_t *bytes, uint32_t count, struct kvx_shares *shares)
{
	(void)memory;
	(void)bytes;
	fuzz_require(count <= KVX_HINT_MAX, "a hint of %u bytes", count);
	*shares = (struct kvx_shares){.usable = inject.usable};
	for (uint32_t i = 0; i < link->rails; i++)
		shares->weight[i] = (uint8_t)(i + 1);
	return link->rails;
}

static bool permit_link(struct kvx_link *base, struct kvx_permit *permit)
{
	fuzz_require(!((struct inject_link *)base)->outgoing, "a permit for a link of connect()");
	for (uint32_t i = 0; i < INJECT_WAITING_MAX; i++) {
		if (inject.permits[i])
			continue;
		permit->state = base;
		inject.permits[i] = permit;
		inject.in_force[i] = inject.taken_back[i] = false;
		return true;
	}
	return false;
}

static void forbid(struct kvx_link *base, struct kvx_permit *permit, bool stopped)
{
	(void)base;
	(void)stopped;
	for (uint32_t i = 0; i < INJECT_WAITING_MAX; i++)
		inject.taken_back[i] |= inject.permits[i] == permit;
}

#define OPS_OF_ALL                                                                                 \
	.close = close_transport, .address = address, .resolve = resolve, .connect = connect_link, \
	.disconnect = disconnect, .message = message, .post = post, .withdraw = withdraw,          \
	.forget = forget, .progress = progress, .arm = arm, .explain = explain, .port = port

const struct kvx_transport_ops inject_transport = {
	.name = "fuzz", .open = open_placing, OPS_OF_ALL};

const struct kvx_transport_ops inject_one_sided_transport = {
	.name = "fuzz1",
	.open = open_one_sided,
	.one_sided = true,
	OPS_OF_ALL,
	.attach = attach,
	.detach = detach,
	.hint = hint,
	.share = share,
	.permit = permit_link,
	.forbid = forbid,
};
