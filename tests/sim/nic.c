/* SPDX-License-Identifier: Apache-2.0 */
/* The hardware of the one-sided transport: it writes where a permit in force lets it, and tells the
 * engines afterwards. It goes on while engines are stopped. */
#include "net.h"

#include <stdlib.h>
#include <string.h>

struct event *nic_tell(struct wire *wire, int side)
{
	struct event *event = calloc(1, sizeof(*event));

	if (!event)
		sim_broken("the simulator is out of memory");
	event->side = side;
	event->due_ns = sim_now_ns + net_delay_ns();
	kvx_list_append(&wire->events, &event->entry);
	world_wake(wire->node[side], event->due_ns);
	return event;
}

/* --- permits --- */

static struct lent *find_lent(const struct wire *wire, const struct packet *packet)
{
	const struct kvx_transport *transport = net.transports[wire->node[ACCEPTOR]][1];
	struct kvx_list *entry, *next;

	if (!transport || transport->context.incarnation != wire->incarnation[ACCEPTOR])
		return NULL;
	kvx_list_for_each (entry, next, &transport->lents) {
		struct lent *lent = kvx_container_of(entry, struct lent, entry);
		if (lent->wire == wire && lent->permit->slot == packet->slot &&
		    lent->permit->generation == packet->generation)
			return lent;
	}
	return NULL;
}

bool nic_permit(struct kvx_link *link, struct kvx_permit *permit)
{
	struct wire *wire = ((struct end *)link)->wire;
	struct lent *lent = calloc(1, sizeof(*lent));

	if (!lent)
		return false;
	*lent = (struct lent){.permit = permit,
			      .wire = wire,
			      .permitted_ns = sim_now_ns + net_delay_ns(),
			      .forbidden_ns = NEVER};
	permit->state = lent;
	wire->lent_count++;
	kvx_list_append(&link->transport->lents, &lent->entry);
	world_wake(wire->node[ACCEPTOR], lent->permitted_ns);
	return true;
}

static void take_back(struct lent *lent, uint32_t node)
{
	lent->permitted_ns = NEVER;
	if (lent->forbidden_ns == NEVER)
		lent->forbidden_ns = sim_now_ns + (net.dead[node] ? 0 : net_delay_ns());
	world_wake(node, lent->forbidden_ns);
}

void nic_forbid(struct kvx_link *link, struct kvx_permit *permit, bool stopped)
{
	(void)stopped;
	take_back(permit->state, link->transport->node);
}

static int tell_lents(struct kvx_transport *transport, int64_t now_ns)
{
	const struct kvx_transport_context *context = &transport->context;
	struct kvx_list *entry, *next;
	int done = 0;

	kvx_list_for_each (entry, next, &transport->lents) {
		struct lent *lent = kvx_container_of(entry, struct lent, entry);
		struct wire *wire = lent->wire;
		if (!wire->end[ACCEPTOR] || wire->incarnation[ACCEPTOR] != context->incarnation)
			take_back(lent, transport->node);
		if (now_ns >= lent->permitted_ns) {
			lent->permitted_ns = NEVER;
			context->sink->permitted(context->engine, lent->permit);
			done++;
		} else if (now_ns >= lent->forbidden_ns) {
			struct kvx_permit *permit = lent->permit;
			kvx_list_remove(&lent->entry);
			free(lent);
			wire->lent_count--;
			wire_drop_if_unused(wire);
			context->sink->forbidden(context->engine, permit);
			done++;
		}
	}
	return done;
}

/* --- flows --- */

static bool holds(const struct wire *wire, const struct kvx_flow *flow, uint32_t rail)
{
	const struct kvx_list *head = &wire->rails[rail].channel.packets;

	for (const struct kvx_list *entry = head->next; entry != head; entry = entry->next)
		if (kvx_container_of(entry, struct packet, entry)->flow == flow)
			return true;
	head = &wire->events;
	for (const struct kvx_list *entry = head->next; entry != head; entry = entry->next) {
		const struct event *event = kvx_container_of(entry, struct event, entry);
		if (event->flow == flow && event->rail == rail)
			return true;
	}
	return false;
}

void nic_hasten(struct wire *wire, uint32_t rail)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &wire->events) {
		struct event *event = kvx_container_of(entry, struct event, entry);
		if (!event->flow || event->rail != rail || event->due_ns <= sim_now_ns)
			continue;
		event->due_ns = sim_now_ns + sim_span(0, net.latency_ns);
		world_wake(wire->node[CONNECTOR], event->due_ns);
	}
}

void nic_flush(struct wire *wire, struct kvx_flow *flow)
{
	struct kvx_list *entry, *next;

	for (uint32_t i = 0; flow && i < wire->rail_count; i++)
		if (holds(wire, flow, i))
			wire_fail_rail(wire, i);
	kvx_list_for_each (entry, next, &wire->events) {
		struct event *event = kvx_container_of(entry, struct event, entry);
		if (!event->flow || (flow && event->flow != flow))
			continue;
		event->flow->state = NULL; /* no wire has anything of it */
		event->flow->due_ns = sim_now_ns;
		kvx_list_remove(entry);
		free(event);
	}
}

static int tell_drained(struct kvx_transport *transport, int64_t now_ns)
{
	const struct kvx_transport_context *context = &transport->context;
	struct kvx_list *entry, *next;
	int done = 0;

	kvx_list_for_each (entry, next, &transport->draining) {
		struct kvx_flow *flow = kvx_container_of(entry, struct kvx_flow, draining);
		struct wire *wire = flow->state;
		if (now_ns < flow->due_ns)
			continue;
		if (wire) {
			/* It takes too long: what carries it is broken. */
			for (uint32_t i = 0; i < wire->rail_count; i++)
				if (holds(wire, flow, i))
					wire_fail_rail(wire, i);
			flow->due_ns = NEVER;
			continue;
		}
		kvx_list_remove(entry);
		flow->in_flight = 0;
		context->sink->drained(context->engine, flow);
		done++;
	}
	return done;
}

int nic_progress(struct kvx_transport *transport, int64_t now_ns)
{
	if (net.transports[transport->node][1] != transport)
		return 0;
	return tell_lents(transport, now_ns) + tell_drained(transport, now_ns);
}

/* --- completions --- */

static void complete(const struct kvx_transport_context *context, struct kvx_flow *flow,
		     bool refused)
{
	if (refused && !flow->withdrawn)
		context->sink->refused(context->engine, flow, "sim: the permit is not in force");
	if (--flow->in_flight || !flow->withdrawn)
		return;
	kvx_list_remove(&flow->draining);
	context->sink->drained(context->engine, flow);
}

int nic_events(struct end *end, int64_t now_ns)
{
	const struct kvx_transport_context *context = &end->link.transport->context;
	struct wire *wire = end->wire;
	struct kvx_list *entry, *next;
	int done = 0;

	kvx_list_for_each (entry, next, &wire->events) {
		struct event *event = kvx_container_of(entry, struct event, entry);
		struct event told = *event;
		if (event->side != end->side || event->due_ns > now_ns || end->down)
			continue;
		kvx_list_remove(entry);
		free(event);
		if (told.flow)
			complete(context, told.flow, told.refused);
		else
			context->sink->arrived(context->engine, &end->link, told.rail, told.imm);
		done++;
	}
	return done;
}

/* --- writing --- */

/* Bytes [done, done + some) of the batch, into the memories that its slices name. False: outside of
 * them. */
static bool write_some(const struct lent *lent, const struct packet *packet, uint32_t some)
{
	uint32_t skip = packet->done, at = packet->done;

	for (uint32_t i = 0; i < packet->count && some; i++) {
		const struct kvx_slice *slice = &packet->slices[i];
		if (skip >= slice->length) {
			skip -= slice->length;
			continue;
		}
		uint32_t bytes = slice->length - skip < some ? slice->length - skip : some;
		if (slice->target >= lent->permit->memory_count)
			return false;
		const struct kvx_memory *memory = lent->permit->memories[slice->target];
		if (slice->offset + slice->length > memory->bytes)
			return false;
		packet_read(packet, at, memory->address + slice->offset + skip, bytes);
		at += bytes;
		some -= bytes;
		skip = 0;
	}
	return true;
}

/* A write that is refused breaks its rail; what no sender waits for is only dropped. */
static void refuse(struct wire *wire, uint32_t rail, struct packet *packet)
{
	struct kvx_flow *flow = packet->flow;

	packet_free(&wire->rails[rail].channel, packet);
	if (!flow)
		return;
	struct event *event = nic_tell(wire, CONNECTOR);
	event->flow = flow;
	event->rail = rail;
	event->refused = true;
	sim_counts.faults[FAULT_REFUSED]++;
	wire_fail_rail(wire, rail);
}

static void land(struct wire *wire, uint32_t rail)
{
	struct channel *channel = &wire->rails[rail].channel;
	struct packet *packet = channel_first(channel);
	const struct lent *lent = find_lent(wire, packet);
	uint32_t some = packet->bytes - packet->done;

	if (sim_percent(30))
		some = sim_between(1, some / KVX_ALIGN) * KVX_ALIGN;
	if (!lent || !write_some(lent, packet, some)) {
		refuse(wire, rail, packet);
		return;
	}
	sim_trace("wire %llu rail %u: %u bytes of unit %08x land%s", (unsigned long long)wire->id,
		  rail, some, packet->unit.imm, packet->flow ? "" : ", late");
	packet->done += some;
	if (packet->done < packet->bytes) {
		packet->due_ns = sim_now_ns + net_delay_ns() / 4;
		return;
	}
	if (packet->last) {
		struct event *event = nic_tell(wire, ACCEPTOR);
		event->rail = rail;
		event->imm = packet->unit.imm;
		event->due_ns = sim_now_ns + sim_span(0, net.latency_ns);
	}
	if (packet->flow) {
		struct event *event = nic_tell(wire, CONNECTOR);
		int64_t cut_ns = net.cut_until_ns[wire->node[ACCEPTOR]][wire->node[CONNECTOR]];
		event->flow = packet->flow;
		event->rail = rail;
		event->due_ns = event->due_ns > cut_ns ? event->due_ns : cut_ns;
	}
	packet_free(channel, packet);
}

static int64_t write_ns(const struct wire *wire, uint32_t rail)
{
	const struct packet *packet = channel_first(&wire->rails[rail].channel);
	int64_t cut_ns = net.cut_until_ns[wire->node[0]][wire->node[1]];

	if (!wire->one_sided || !packet || !wire->end[ACCEPTOR] || net.dead[wire->node[1]])
		return NEVER;
	return packet->due_ns > cut_ns ? packet->due_ns : cut_ns;
}

/* A rail that comes back has lost what was on its way. */
static void mend(struct wire *wire, uint32_t index)
{
	struct rail *rail = &wire->rails[index];

	if (rail->epoch % 2 == 0 || rail->back_ns > sim_now_ns)
		return;
	channel_clear(&rail->channel);
	rail->epoch++;
	for (int side = 0; side < 2; side++) {
		int64_t tell_ns = sim_now_ns + sim_span(0, 2 * net.latency_ns);
		if (tell_ns > rail->tell_ns[side])
			rail->tell_ns[side] = tell_ns;
		if (wire->end[side])
			world_wake(wire->node[side], rail->tell_ns[side]);
	}
}

void nic_run(void)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &net.wires) {
		struct wire *wire = kvx_container_of(entry, struct wire, entry);
		for (uint32_t i = 0; i < wire->rail_count; i++) {
			if (write_ns(wire, i) <= sim_now_ns)
				land(wire, i);
			mend(wire, i);
		}
	}
}

int64_t nic_next_ns(void)
{
	struct kvx_list *entry, *following;
	int64_t next = NEVER;

	kvx_list_for_each (entry, following, &net.wires) {
		const struct wire *wire = kvx_container_of(entry, struct wire, entry);
		for (uint32_t i = 0; i < wire->rail_count; i++) {
			int64_t write = write_ns(wire, i);
			next = write < next ? write : next;
			if (wire->rails[i].epoch % 2 && wire->rails[i].back_ns < next)
				next = wire->rails[i].back_ns;
		}
	}
	return next;
}
