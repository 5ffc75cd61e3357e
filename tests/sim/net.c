/* SPDX-License-Identifier: Apache-2.0 */
/* Wires: made, broken, and what both transports share of the seam's operations. */
#include "net.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct net net;

void net_open(void)
{
	uint32_t tempo = sim_below(3);

	net = (struct net){.rails = sim_between(1, SIM_RAILS_MAX),
			   .depth = sim_between(1, 6),
			   .fixed_addresses = sim_percent(50),
			   .late_percent = sim_percent(50) ? 60 : 0};
	net.latency_ns = tempo == 0 ? 2 * US : tempo == 1 ? 20 * US : 300 * US;
	net.jitter_ns = sim_percent(30) ? net.latency_ns * 5 : net.latency_ns;
	kvx_list_init(&net.wires);
}

void net_close(void)
{
	if (!kvx_list_empty(&net.wires))
		sim_broken("a link was not disconnected");
	for (uint32_t i = 0; i < NODES_MAX * SORTS; i++)
		if (net.transports[i / SORTS][i % SORTS])
			sim_broken("a transport was not closed");
}

int64_t net_delay_ns(void)
{
	return net.latency_ns + sim_span(0, net.jitter_ns);
}

bool net_is_cut(uint32_t from, uint32_t to)
{
	return net.cut_until_ns[from][to] > sim_now_ns;
}

/* --- wires --- */

static struct wire *wire_new(uint32_t from, uint32_t to, bool one_sided)
{
	struct wire *wire = calloc(1, sizeof(*wire));

	if (!wire)
		sim_broken("the simulator is out of memory");
	wire->one_sided = one_sided;
	wire->by_copy = sim_percent(50);
	wire->node[CONNECTOR] = from;
	wire->node[ACCEPTOR] = to;
	wire->rail_count = net.rails;
	wire->id = ++net.wire_count;
	for (uint32_t i = 0; i < SIM_RAILS_MAX; i++)
		channel_open(&wire->rails[i].channel);
	channel_open(&wire->messages[CONNECTOR]);
	channel_open(&wire->messages[ACCEPTOR]);
	kvx_list_init(&wire->events);
	kvx_list_append(&net.wires, &wire->entry);
	return wire;
}

void wire_drop_if_unused(struct wire *wire)
{
	struct kvx_list *entry, *next;

	if (wire->end[CONNECTOR] || wire->end[ACCEPTOR] || wire->lent_count)
		return;
	for (uint32_t i = 0; i < SIM_RAILS_MAX; i++)
		channel_clear(&wire->rails[i].channel);
	channel_clear(&wire->messages[CONNECTOR]);
	channel_clear(&wire->messages[ACCEPTOR]);
	kvx_list_for_each (entry, next, &wire->events) {
		kvx_list_remove(entry);
		free(kvx_container_of(entry, struct event, entry));
	}
	kvx_list_remove(&wire->entry);
	free(wire);
}

static struct end *end_new(struct kvx_transport *transport, struct wire *wire, int side)
{
	struct end *end = calloc(1, sizeof(*end));

	if (!end)
		sim_broken("the simulator is out of memory");
	end->link.ops = wire->one_sided ? &sim_nic_transport : &sim_put_transport;
	end->link.transport = transport;
	end->link.rails = wire->rail_count;
	end->wire = wire;
	end->side = side;
	wire->end[side] = end;
	wire->incarnation[side] = transport->context.incarnation;
	kvx_list_append(&transport->ends, &end->entry);
	return end;
}

void end_fail(struct end *end, int code, const char *text, int64_t when_ns)
{
	if (!end || end->failure)
		return;
	end->failure = code;
	end->text = text;
	end->failure_ns = when_ns;
	world_wake(end->wire->node[end->side], when_ns);
}

void wire_break(struct wire *wire, const char *text)
{
	for (int side = 0; side < 2; side++) {
		channel_clear(&wire->messages[side]);
		end_fail(wire->end[side], KVX_E_TRANSPORT, text,
			 sim_now_ns + sim_span(0, 2 * net.latency_ns));
	}
	for (uint32_t i = 0; i < wire->rail_count; i++)
		wire_fail_rail(wire, i);
}

struct wire *net_any_wire(void)
{
	struct kvx_list *entry, *next;
	struct wire *chosen = NULL;
	uint32_t seen = 0;

	kvx_list_for_each (entry, next, &net.wires) {
		struct wire *wire = kvx_container_of(entry, struct wire, entry);
		const struct end *a = wire->end[0], *b = wire->end[1];
		if (a && b && a->up && b->up && !a->failure && !b->failure && !sim_below(++seen))
			chosen = wire;
	}
	return chosen;
}

/* --- rails --- */

/* A batch's sender does not carry it any more, but some of it may be on its way. */
static void flush_packet(struct wire *wire, uint32_t rail, struct packet *packet, bool survives)
{
	if (packet->flow && wire->one_sided) {
		struct event *event = nic_tell(wire, CONNECTOR);
		event->flow = packet->flow;
		event->rail = rail;
	}
	if (!survives) {
		packet_free(&wire->rails[rail].channel, packet);
		return;
	}
	packet_give_up(packet);
	sim_counts.faults[FAULT_LATE]++;
}

static void flush_rail(struct wire *wire, uint32_t index)
{
	const struct rail *rail = &wire->rails[index];
	struct kvx_list *entry, *next;
	uint32_t survive = 0;

	if (sim_percent(net.late_percent))
		survive = sim_below(rail->channel.count + 1);
	kvx_list_for_each (entry, next, &rail->channel.packets) {
		struct packet *packet = kvx_container_of(entry, struct packet, entry);
		flush_packet(wire, index, packet, survive > 0);
		survive -= survive > 0;
	}
	nic_hasten(wire, index);
}

void wire_fail_rail(struct wire *wire, uint32_t index)
{
	struct rail *rail = &wire->rails[index];

	if (rail->epoch % 2)
		return;
	sim_trace("wire %llu rail %u fails", (unsigned long long)wire->id, index);
	flush_rail(wire, index);
	rail->epoch++;
	rail->back_ns = sim_now_ns + sim_span(10 * US, sim_percent(20) ? 30 * MS : 500 * US);
	for (int side = 0; side < 2; side++) {
		rail->tell_ns[side] = sim_now_ns + sim_span(0, 3 * net.latency_ns);
		if (wire->end[side])
			world_wake(wire->node[side], rail->tell_ns[side]);
	}
}

/* --- of the seam --- */

static int open_transport(const struct kvx_transport_context *context,
			  struct kvx_transport **transport, uint32_t sort)
{
	struct kvx_transport *made = calloc(1, sizeof(*made));

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "sim: out of memory");
	made->context = *context;
	made->node = (uint32_t)(context->options->name[4] - '0'); /* "nodeN" */
	kvx_list_init(&made->ends);
	kvx_list_init(&made->lents);
	kvx_list_init(&made->draining);
	if (net.fixed_addresses)
		snprintf(made->address, sizeof(made->address), "%u", made->node);
	else
		snprintf(made->address, sizeof(made->address), "%u-%016llx", made->node,
			 (unsigned long long)context->incarnation);
	net.transports[made->node][sort] = made;
	*transport = made;
	return 0;
}

static int open_put(const struct kvx_transport_context *context, struct kvx_transport **transport)
{
	return open_transport(context, transport, 0);
}

static int open_nic(const struct kvx_transport_context *context, struct kvx_transport **transport)
{
	return open_transport(context, transport, 1);
}

static void close_transport(struct kvx_transport *transport)
{
	if (!kvx_list_empty(&transport->ends) || !kvx_list_empty(&transport->lents) ||
	    !kvx_list_empty(&transport->draining))
		sim_broken("a transport is closed with links, permits or flows that are open");
	if (transport->attached)
		sim_broken("a transport is closed with memory attached");
	for (uint32_t sort = 0; sort < SORTS; sort++)
		if (net.transports[transport->node][sort] == transport)
			net.transports[transport->node][sort] = NULL;
	free(transport);
}

static const char *address_of(const struct kvx_transport *transport)
{
	return transport->address;
}

static int resolve(const char *address, char *resolved, size_t size)
{
	snprintf(resolved, size, "%s", address);
	return 0;
}

static int connect_to(struct kvx_transport *transport, const char *address, struct kvx_link **link)
{
	uint32_t sort = net.transports[transport->node][1] == transport;
	uint32_t to = (uint32_t)(address[0] - '0');
	const struct kvx_transport *there = to < NODES_MAX ? net.transports[to][sort] : NULL;
	bool answers = there && !net.dead[to] && strcmp(there->address, address) == 0;

	if (!answers && sim_percent(50))
		return kvx_fail(KVX_E_UNREACHABLE, "sim: nobody listens at %s", address);
	struct wire *wire = wire_new(transport->node, to, sort == 1);
	struct end *end = end_new(transport, wire, CONNECTOR);
	end->deadline_ns =
		sim_now_ns + (int64_t)transport->context.options->connect_timeout_ms * MS;
	wire->meet_ns = answers ? sim_now_ns + net_delay_ns() : NEVER;
	wire->up_ns = NEVER;
	world_wake(to, wire->meet_ns);
	*link = &end->link;
	return 0;
}

/* Batches that a sender has not let go of are not read any more. */
static void drop_batches(struct wire *wire, const struct kvx_flow *flow)
{
	struct kvx_list *entry, *next;

	for (uint32_t i = 0; i < wire->rail_count; i++) {
		struct channel *channel = &wire->rails[i].channel;
		kvx_list_for_each (entry, next, &channel->packets) {
			struct packet *packet = kvx_container_of(entry, struct packet, entry);
			if (!packet->flow || (flow && packet->flow != flow))
				continue;
			if (packet->copy)
				packet->flow = NULL;
			else
				packet_free(channel, packet);
		}
	}
}

static void disconnect(struct kvx_link *link)
{
	struct end *end = (struct end *)link;
	struct wire *wire = end->wire;

	if (end->side == CONNECTOR) {
		for (uint32_t i = 0; wire->one_sided && i < wire->rail_count; i++)
			flush_rail(wire, i);
		if (wire->one_sided)
			nic_flush(wire, NULL);
		drop_batches(wire, NULL);
	} else {
		for (uint32_t i = 0; i < wire->rail_count; i++)
			flush_rail(wire, i);
	}
	wire->closed[end->side] = true;
	wire->end[end->side] = NULL;
	channel_clear(&wire->messages[!end->side]);
	if (net.dead[wire->node[end->side]])
		;
	else if (sim_percent(20))
		end_fail(wire->end[!end->side], KVX_E_PEER_LOST, "sim: the connection was reset",
			 sim_now_ns + net_delay_ns());
	else
		packet_new(&wire->messages[end->side], 0, NULL, 0);
	if (wire->end[!end->side])
		world_wake(wire->node[!end->side], sim_now_ns + 2 * net.latency_ns);
	kvx_list_remove(&end->entry);
	free(end);
	wire_drop_if_unused(wire);
}

static void message(struct kvx_link *link, const void *bytes, uint32_t length)
{
	struct end *end = (struct end *)link;
	struct wire *wire = end->wire;
	struct channel *channel = &wire->messages[end->side];

	if (!end->up || end->failure || net.dead[wire->node[end->side]])
		return;
	if (channel->bytes + length > KVX_MESSAGE_QUEUE_MAX) {
		end_fail(end, KVX_E_TRANSPORT, "sim: the peer takes no messages", sim_now_ns);
		return;
	}
	const struct packet *packet = packet_new(channel, 0, bytes, length);
	world_wake(wire->node[!end->side], packet->due_ns);
}

static bool post(struct kvx_link *link, uint32_t index, const struct kvx_batch *batch)
{
	struct end *end = (struct end *)link;
	struct wire *wire = end->wire;
	struct rail *rail = &wire->rails[index];

	if (!end->up || end->failure || rail->epoch % 2 || rail->told[CONNECTOR] != rail->epoch ||
	    rail->channel.count >= net.depth)
		return false;
	struct packet *packet = packet_new(&rail->channel, batch->count, NULL, 0);
	packet->unit = batch->unit;
	packet->place = batch->place;
	packet->bytes = batch->bytes;
	packet->last = batch->last;
	packet->flow = batch->flow;
	packet->slot = batch->flow->slot;
	packet->generation = batch->flow->generation;
	packet->count = batch->count;
	memcpy(packet->slices, batch->slices, batch->count * sizeof(*batch->slices));
	if (wire->one_sided) {
		batch->flow->in_flight++;
	} else {
		if (wire->by_copy)
			packet_give_up(packet);
		packet->flow = batch->flow;
		world_wake(wire->node[ACCEPTOR], packet->due_ns);
	}
	return true;
}

static void withdraw_put(struct kvx_link *link, struct kvx_flow *flow)
{
	drop_batches(((struct end *)link)->wire, flow);
	flow->withdrawn = true;
}

static void withdraw_nic(struct kvx_link *link, struct kvx_flow *flow)
{
	struct end *end = (struct end *)link;
	struct kvx_transport *transport = link->transport;

	flow->withdrawn = true;
	if (!flow->in_flight)
		return;
	flow->state = end->wire;
	flow->due_ns = sim_now_ns + (int64_t)kvx_option(transport->context.options, drain_ms) * MS;
	kvx_list_append(&transport->draining, &flow->draining);
	if (net.dead[transport->node])
		nic_flush(end->wire, flow);
}

static void forget(struct kvx_transport *transport, const struct kvx_memory *memory)
{
	(void)transport;
	(void)memory;
}

static bool arm(struct kvx_transport *transport)
{
	(void)transport;
	return false; /* the world drives an engine whenever something is due */
}

static void explain(const struct kvx_link *link, char *text, size_t size)
{
	snprintf(text, size, "%u made-up rails", link->rails);
}

static void port(const struct kvx_link *link, uint32_t rail, char *text, size_t size)
{
	(void)link;
	snprintf(text, size, "port%u", rail);
}

static int attach(struct kvx_transport *transport, struct kvx_memory *memory)
{
	transport->attached++;
	memory->registered[transport->context.index] = transport;
	return 0;
}

static void detach(struct kvx_transport *transport, struct kvx_memory *memory)
{
	transport->attached--;
	memory->registered[transport->context.index] = NULL;
}

static uint32_t hint(const struct kvx_transport *transport, const struct kvx_memory *memory,
		     uint8_t bytes[KVX_HINT_MAX])
{
	(void)memory;
	bytes[0] = (uint8_t)transport->node;
	return 1;
}

/* Shares that are uneven, so that units are too. */
static uint32_t share(const struct kvx_link *link, const struct kvx_memory *memory,
		      const uint8_t *bytes, uint32_t count, struct kvx_shares *shares)
{
	const struct wire *wire = ((const struct end *)link)->wire;
	uint32_t shared = 0;

	(void)memory;
	*shares = (struct kvx_shares){.usable = (UINT64_C(1) << link->rails) - 1};
	for (uint32_t i = 0; i < link->rails; i++) {
		if (wire->rails[i].epoch % 2)
			continue;
		shares->weight[i] = (uint8_t)(1 + (i + (count ? bytes[0] : 0)) % 3);
		shared++;
	}
	return shared;
}

const struct kvx_transport_ops sim_put_transport = {
	.name = "put",
	.open = open_put,
	.close = close_transport,
	.address = address_of,
	.resolve = resolve,
	.connect = connect_to,
	.disconnect = disconnect,
	.message = message,
	.post = post,
	.withdraw = withdraw_put,
	.forget = forget,
	.progress = net_progress,
	.arm = arm,
	.explain = explain,
	.port = port,
};

const struct kvx_transport_ops sim_nic_transport = {
	.name = "nic",
	.one_sided = true,
	.open = open_nic,
	.close = close_transport,
	.address = address_of,
	.resolve = resolve,
	.connect = connect_to,
	.disconnect = disconnect,
	.message = message,
	.post = post,
	.withdraw = withdraw_nic,
	.forget = forget,
	.progress = net_progress,
	.arm = arm,
	.explain = explain,
	.port = port,
	.attach = attach,
	.detach = detach,
	.hint = hint,
	.share = share,
	.permit = nic_permit,
	.forbid = nic_forbid,
};

const struct kvx_transport_ops *const kvx_transports[] = {&sim_nic_transport, &sim_put_transport,
							  NULL};

const struct kvx_transport_ops *kvx_transport_find(const char *name)
{
	for (size_t i = 0; kvx_transports[i]; i++)
		if (strcmp(kvx_transports[i]->name, name) == 0)
			return kvx_transports[i];
	return NULL;
}

/* --- faults --- */

/* The machine is gone, and what it would have had to send again. */
static void forget_sent(struct wire *wire, int side)
{
	channel_clear(&wire->messages[side]);
	for (uint32_t i = 0; side == CONNECTOR && i < wire->rail_count; i++)
		channel_clear(&wire->rails[i].channel);
}

void net_kill(uint32_t node, bool silent)
{
	struct kvx_list *entry, *next;

	net.dead[node] = true;
	kvx_list_for_each (entry, next, &net.wires) {
		struct wire *wire = kvx_container_of(entry, struct wire, entry);
		for (int side = 0; side < 2; side++) {
			if (wire->node[side] != node || !wire->end[side])
				continue;
			for (uint32_t i = 0; i < wire->rail_count; i++)
				flush_rail(wire, i);
			wire->closed[side] = true;
			if (silent)
				forget_sent(wire, side);
			else
				end_fail(wire->end[!side], KVX_E_PEER_LOST,
					 "sim: the connection was reset",
					 sim_now_ns + net_delay_ns());
		}
	}
}
