/* SPDX-License-Identifier: Apache-2.0 */
/* What a transport does when its engine drives it: it meets, tells and places what is due. */
#include "net.h"

#include <stdlib.h>
#include <string.h>

#define PLACES 4

static bool is_due(int64_t when_ns, uint32_t from, uint32_t to)
{
	return when_ns <= sim_now_ns && !net_is_cut(from, to);
}

static int64_t due_ns(int64_t when_ns, uint32_t from, uint32_t to)
{
	int64_t cut_ns = net.cut_until_ns[from][to];

	return when_ns > cut_ns ? when_ns : cut_ns;
}

/* --- links --- */

/* Wires that were made to this node, whose link it has to make. */
static int meet(struct kvx_transport *transport)
{
	const struct kvx_transport_context *context = &transport->context;
	struct kvx_list *entry, *next;
	int done = 0;

	kvx_list_for_each (entry, next, &net.wires) {
		struct wire *wire = kvx_container_of(entry, struct wire, entry);
		if (wire->node[ACCEPTOR] != transport->node || wire->met || wire->closed[0] ||
		    net.transports[transport->node][wire->one_sided] != transport ||
		    !is_due(wire->meet_ns, wire->node[0], wire->node[1]))
			continue;
		struct end *end = calloc(1, sizeof(*end));
		if (!end)
			sim_broken("the simulator is out of memory");
		end->link = (struct kvx_link){.ops = wire->one_sided ? &sim_nic_transport
								     : &sim_put_transport,
					      .transport = transport,
					      .rails = wire->rail_count};
		end->wire = wire;
		end->side = ACCEPTOR;
		end->up = true;
		wire->end[ACCEPTOR] = end;
		wire->incarnation[ACCEPTOR] = context->incarnation;
		wire->met = true;
		wire->up_ns = sim_now_ns + net_delay_ns();
		world_wake(wire->node[CONNECTOR], wire->up_ns);
		kvx_list_append(&transport->ends, &end->entry);
		context->sink->link_accepted(context->engine, &end->link);
		done++;
	}
	return done;
}

static int watch(struct end *end, int64_t now_ns)
{
	const struct kvx_transport_context *context = &end->link.transport->context;
	struct wire *wire = end->wire;

	if (!end->up && !end->failure && is_due(wire->up_ns, wire->node[1], wire->node[0])) {
		end->up = true;
		context->sink->link_up(context->engine, &end->link);
		return 1;
	}
	if (!end->up && !end->failure && now_ns >= end->deadline_ns)
		end_fail(end, KVX_E_UNREACHABLE, "sim: nobody answers", now_ns);
	if (!end->failure || end->down || now_ns < end->failure_ns)
		return 0;
	end->down = true;
	context->sink->link_down(context->engine, &end->link, end->failure, end->text);
	return 1;
}

static bool lives(const struct end *end)
{
	return end->up && !end->down;
}

static int tell_rails(struct end *end, int64_t now_ns)
{
	const struct kvx_transport_context *context = &end->link.transport->context;
	struct wire *wire = end->wire;
	int done = 0;

	for (uint32_t i = 0; i < wire->rail_count && lives(end); i++) {
		struct rail *rail = &wire->rails[i];
		if (rail->told[end->side] == rail->epoch || now_ns < rail->tell_ns[end->side])
			continue;
		bool up = ++rail->told[end->side] % 2 == 0;
		context->sink->rail_changed(context->engine, &end->link, i, up,
					    up ? "sim: made anew" : "sim: it broke");
		done++;
	}
	return done;
}

static int take_messages(struct end *end)
{
	const struct kvx_transport_context *context = &end->link.transport->context;
	struct wire *wire = end->wire;
	struct channel *channel = &wire->messages[!end->side];
	uint32_t from = wire->node[!end->side], to = wire->node[end->side];
	uint32_t most = sim_between(1, 8);
	struct packet *packet;
	int done = 0;

	while (lives(end) && !end->failure && most-- && (packet = channel_first(channel)) &&
	       is_due(packet->due_ns, from, to)) {
		uint8_t bytes[KVX_MESSAGE_MAX];
		uint32_t length = packet->length;
		if (length)
			memcpy(bytes, packet->copy, length);
		packet_free(channel, packet);
		if (length)
			context->sink->message(context->engine, &end->link, bytes, length);
		else
			end_fail(end, KVX_E_PEER_LOST, "sim: the other engine closed the link",
				 sim_now_ns);
		done++;
	}
	return done;
}

/* --- bytes that the receiver places --- */

/* Some of a batch, in as many pieces as the sink likes. */
static void place_some(struct end *end, uint32_t rail, struct packet *packet)
{
	const struct kvx_transport_context *context = &end->link.transport->context;
	struct iovec places[PLACES];
	uint32_t some = packet->bytes - packet->done, begin = packet->done, moved = 0;

	if (sim_percent(30))
		some = sim_between(1, some / KVX_ALIGN) * KVX_ALIGN;
	packet->done += some;
	while (moved < some) {
		int count = context->sink->place(context->engine, &end->link, &packet->unit,
						 packet->place + begin + moved, some - moved,
						 places, (int)sim_between(1, PLACES));
		if (count <= 0)
			break;
		for (int i = 0; i < count && moved < some; i++) {
			uint32_t room = (uint32_t)places[i].iov_len;
			room = room < some - moved ? room : some - moved;
			packet_read(packet, begin + moved, places[i].iov_base, room);
			moved += room;
		}
	}
	if (moved)
		context->sink->landed(context->engine, &end->link, rail, &packet->unit,
				      packet->place + begin, moved);
}

static int take_batches(struct end *end)
{
	struct wire *wire = end->wire;
	uint32_t first = sim_below(wire->rail_count), from = wire->node[0], to = wire->node[1];
	int done = 0;

	for (uint32_t i = 0; i < wire->rail_count; i++) {
		uint32_t index = (first + i) % wire->rail_count;
		struct channel *channel = &wire->rails[index].channel;
		struct packet *packet = channel_first(channel);
		if (!lives(end) || end->failure || !packet || !is_due(packet->due_ns, from, to))
			continue;
		place_some(end, index, packet);
		if (packet->done == packet->bytes) {
			packet_free(channel, packet);
			world_wake(from, sim_now_ns);
		}
		done++;
	}
	return done;
}

int net_progress(struct kvx_transport *transport, int64_t now_ns)
{
	struct kvx_list *entry, *next;
	int done = meet(transport);

	kvx_list_for_each (entry, next, &transport->ends) {
		struct end *end = kvx_container_of(entry, struct end, entry);
		done += watch(end, now_ns);
		done += tell_rails(end, now_ns);
		done += take_messages(end);
		if (end->wire->one_sided)
			done += nic_events(end, now_ns);
		else if (end->side == ACCEPTOR)
			done += take_batches(end);
		done += watch(end, now_ns);
	}
	return done + nic_progress(transport, now_ns);
}

/* --- when there will be something to do --- */

static int64_t earlier(int64_t a_ns, int64_t b_ns)
{
	return a_ns < b_ns ? a_ns : b_ns;
}

static int64_t channel_ns(const struct channel *channel, uint32_t from, uint32_t to)
{
	const struct packet *packet = channel_first(channel);

	return packet ? due_ns(packet->due_ns, from, to) : NEVER;
}

static int64_t end_next_ns(const struct end *end)
{
	const struct wire *wire = end->wire;
	struct kvx_list *entry, *following;
	uint32_t from = wire->node[!end->side], to = wire->node[end->side];
	int64_t next = NEVER;

	if (end->down)
		return NEVER;
	if (end->failure)
		return end->failure_ns;
	if (!end->up)
		return earlier(due_ns(wire->up_ns, from, to), end->deadline_ns);
	next = channel_ns(&wire->messages[!end->side], from, to);
	for (uint32_t i = 0; i < wire->rail_count; i++) {
		const struct rail *rail = &wire->rails[i];
		if (rail->told[end->side] != rail->epoch)
			next = earlier(next, rail->tell_ns[end->side]);
		if (!wire->one_sided && end->side == ACCEPTOR)
			next = earlier(next, channel_ns(&rail->channel, from, to));
	}
	kvx_list_for_each (entry, following, &wire->events) {
		const struct event *event = kvx_container_of(entry, struct event, entry);
		if (event->side == end->side)
			next = earlier(next, event->due_ns);
	}
	return next;
}

static int64_t transport_next_ns(const struct kvx_transport *transport)
{
	const struct kvx_list *head;
	int64_t next = NEVER;

	head = &transport->ends;
	for (const struct kvx_list *entry = head->next; entry != head; entry = entry->next)
		next = earlier(next, end_next_ns(kvx_container_of(entry, struct end, entry)));
	head = &transport->lents;
	for (const struct kvx_list *entry = head->next; entry != head; entry = entry->next) {
		const struct lent *lent = kvx_container_of(entry, struct lent, entry);
		next = earlier(next, earlier(lent->permitted_ns, lent->forbidden_ns));
	}
	head = &transport->draining;
	for (const struct kvx_list *entry = head->next; entry != head; entry = entry->next)
		next = earlier(next, kvx_container_of(entry, struct kvx_flow, draining)->due_ns);
	return next;
}

int64_t net_next_ns(uint32_t node)
{
	struct kvx_list *entry, *following;
	int64_t next = NEVER;

	for (uint32_t sort = 0; sort < SORTS; sort++)
		if (net.transports[node][sort])
			next = earlier(next, transport_next_ns(net.transports[node][sort]));
	kvx_list_for_each (entry, following, &net.wires) {
		const struct wire *wire = kvx_container_of(entry, struct wire, entry);
		if (wire->node[ACCEPTOR] == node && !wire->met && !wire->closed[CONNECTOR] &&
		    net.transports[node][wire->one_sided])
			next = earlier(next, due_ns(wire->meet_ns, wire->node[0], node));
	}
	return next;
}
