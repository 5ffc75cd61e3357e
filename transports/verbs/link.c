/* SPDX-License-Identifier: Apache-2.0 */
#include "wire.h"

#include "base/clock.h"
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HALF_MADE_MAX 1024u
#define OTHER_RAILS_NS (100 * KVX_NS_PER_MS) /* wait for them once one is up */

static int64_t timeout_ns(const struct kvx_transport *transport)
{
	return (int64_t)kvx_option(transport->context->options, connect_timeout_ms) * KVX_NS_PER_MS;
}

static void set_deadline(struct kvx_verbs_link *link, int64_t deadline_ns)
{
	link->deadline_ns = deadline_ns;
	kvx_verbs_timer_set(link->base.transport, deadline_ns);
}

static struct kvx_verbs_link *link_new(struct kvx_transport *transport, bool connector)
{
	struct kvx_verbs_link *link = calloc(1, sizeof(*link));

	if (!link)
		return NULL;
	link->base.ops = &kvx_verbs_transport;
	link->base.transport = transport;
	link->connector = connector;
	kvx_list_init(&link->permits);
	kvx_list_init(&link->keys);
	kvx_list_append(&transport->links, &link->entry);
	set_deadline(link, kvx_now_ns() + timeout_ns(transport));
	return link;
}

int kvx_verbs_connect(struct kvx_transport *transport, const char *address,
		      struct kvx_link **result)
{
	struct kvx_verbs_link *link = link_new(transport, true);

	if (!link)
		return kvx_fail(KVX_E_MEMORY, "verbs: out of memory");
	snprintf(link->name, sizeof(link->name), "%s", address);
	int error = transport->control_ops->connect(transport->control, address, &link->control);
	if (error) {
		kvx_list_remove(&link->entry);
		free(link);
		return error;
	}
	link->control->owner = link;
	*result = &link->base;
	return 0;
}

void kvx_verbs_link_accept(struct kvx_transport *transport, struct kvx_link *control)
{
	struct kvx_verbs_link *link =
		transport->half_made < HALF_MADE_MAX ? link_new(transport, false) : NULL;

	control->owner = link;
	if (!link) /* the other side gives up after its connect_timeout_ms, and closes it */
		return;
	transport->half_made++;
	link->control = control;
	transport->control_ops->explain(control, link->name, sizeof(link->name));
	kvx_verbs_link_introduce(link);
}

static void end_pairs(struct kvx_verbs_link *link)
{
	for (uint32_t i = 0; i < link->base.rails; i++) {
		if (link->rails[i].pair)
			kvx_verbs_pair_end(link->rails[i].pair);
		link->rails[i].state = KVX_VERBS_RAIL_DOWN;
	}
	link->rails_up = 0;
}

void kvx_verbs_disconnect(struct kvx_link *base)
{
	struct kvx_verbs_link *link = (struct kvx_verbs_link *)base;
	struct kvx_transport *transport = base->transport;

	if (!link->connector && !link->known)
		transport->half_made--;
	kvx_verbs_permits_end(link);
	end_pairs(link);
	while (!kvx_list_empty(&link->keys))
		kvx_verbs_keys_free(
			link, kvx_container_of(link->keys.next, struct kvx_verbs_keys, entry));
	if (link->control)
		transport->control_ops->disconnect(link->control);
	for (uint32_t i = 0; i < base->rails; i++)
		free(link->rails[i].why);
	free(link->rails);
	kvx_list_remove(&link->entry);
	free(link);
}

/* -------------------------------------------------------------------------------- the way down */

void kvx_verbs_link_trouble(struct kvx_verbs_link *link)
{
	link->troubled = true;
	link->base.transport->troubled = true;
}

void kvx_verbs_link_fail(struct kvx_verbs_link *link, int code, const char *format, ...)
{
	va_list arguments;

	if (link->state == KVX_VERBS_LINK_DOWN)
		return;
	int length = snprintf(link->text, sizeof(link->text), "verbs %s: ", link->name);
	va_start(arguments, format);
	vsnprintf(link->text + length, sizeof(link->text) - (size_t)length, format, arguments);
	va_end(arguments);
	link->code = code;
	link->state = KVX_VERBS_LINK_DOWN;
	end_pairs(link);
	kvx_verbs_link_trouble(link);
}

/* Why there is no rail: what the first one says. */
static const char *why_no_rail(const struct kvx_verbs_link *link)
{
	return link->base.rails && link->rails[0].why ? link->rails[0].why : "none was made";
}

static void report_rail(struct kvx_verbs_link *link, uint32_t index)
{
	const struct kvx_transport_context *context = link->base.transport->context;
	struct kvx_verbs_rail *rail = &link->rails[index];
	bool up = rail->state == KVX_VERBS_RAIL_UP;
	char port[KVX_VERBS_NAME_MAX + 16];

	if (rail->told_up && (rail->lost || !up)) {
		rail->told_up = false;
		context->sink->rail_changed(context->engine, &link->base, index, false,
					    rail->why ? rail->why : "not made yet");
	}
	rail->lost = false;
	if (!up || rail->told_up || link->state != KVX_VERBS_LINK_UP)
		return;
	rail->told_up = true;
	kvx_verbs_port_name(rail->port, port, sizeof(port));
	context->sink->rail_changed(context->engine, &link->base, index, true, port);
}

static void report_refusals(struct kvx_verbs_link *link)
{
	const struct kvx_transport_context *context = link->base.transport->context;
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &link->keys) {
		struct kvx_verbs_keys *keys = kvx_container_of(entry, struct kvx_verbs_keys, entry);
		if (!keys->refused)
			continue;
		keys->refused = false;
		context->sink->refused(context->engine, keys->flow,
				       "verbs: the peer gave no key for this memory; the grant was "
				       "revoked");
	}
}

/* While no rail is up there is a deadline. */
static void watch_rails(struct kvx_verbs_link *link)
{
	if (link->rails_up)
		set_deadline(link, KVX_NEVER_NS);
	else if (link->deadline_ns == KVX_NEVER_NS)
		set_deadline(link, kvx_now_ns() + timeout_ns(link->base.transport));
}

void kvx_verbs_link_report(struct kvx_verbs_link *link)
{
	const struct kvx_transport_context *context = link->base.transport->context;

	link->troubled = false;
	if (link->state == KVX_VERBS_LINK_UP) {
		watch_rails(link);
		report_refusals(link);
	}
	for (uint32_t i = 0; i < link->base.rails && link->state == KVX_VERBS_LINK_UP; i++)
		report_rail(link, i);
	if (link->state != KVX_VERBS_LINK_DOWN || link->told)
		return;
	link->told = true;
	if (!link->connector && !link->known) /* the engine never heard of it */
		kvx_verbs_disconnect(&link->base);
	else
		context->sink->link_down(context->engine, &link->base, link->code, link->text);
}

int kvx_verbs_link_expire(struct kvx_verbs_link *link, int64_t now_ns)
{
	int done = 0;

	for (uint32_t i = 0; i < link->base.rails && link->state != KVX_VERBS_LINK_DOWN; i++)
		done += kvx_verbs_rail_expire(&link->rails[i], now_ns);
	if (link->state == KVX_VERBS_LINK_DOWN)
		return done;
	if (now_ns < link->deadline_ns) {
		kvx_verbs_timer_set(link->base.transport, link->deadline_ns);
		return done;
	}
	if (link->state == KVX_VERBS_LINK_UP)
		kvx_verbs_link_fail(link, KVX_E_TRANSPORT, "all rails are down: %s",
				    why_no_rail(link));
	else if (link->rails_up && link->connector)
		kvx_verbs_link_tried(link);
	else
		kvx_verbs_link_fail(link, KVX_E_UNREACHABLE, "not connected in time: %s",
				    why_no_rail(link));
	return done + 1;
}

/* ----------------------------------------------------------------------------------- the way up */

static struct kvx_verbs_remote_port describe(const struct kvx_verbs_port *port)
{
	return (struct kvx_verbs_remote_port){
		.link_layer = port->link_layer,
		.mtu = port->mtu,
		.prefix_bits = port->prefix_bits,
		.up = port->up,
		.lid = port->lid,
		.speed_mbps = port->speed_mbps,
		.gid = port->gid,
	};
}

void kvx_verbs_link_introduce(struct kvx_verbs_link *link)
{
	const struct kvx_transport *transport = link->base.transport;
	struct kvx_verbs_message ports = {.type = KVX_VERBS_PORTS,
					  .version = KVX_VERBS_VERSION,
					  .count = transport->port_count};

	for (uint32_t i = 0; i < transport->port_count; i++)
		ports.ports[i] = describe(&transport->ports[i]);
	kvx_verbs_say(link, &ports);
}

static bool make_rails(struct kvx_verbs_link *link, uint32_t rails)
{
	link->rails = calloc(rails, sizeof(*link->rails));
	if (!link->rails) {
		kvx_verbs_link_fail(link, KVX_E_MEMORY, "out of memory");
		return false;
	}
	for (uint32_t i = 0; i < rails; i++)
		link->rails[i] = (struct kvx_verbs_rail){
			.link = link, .port = &link->base.transport->ports[0], .told_up = true};
	link->base.rails = rails;
	return true;
}

/* The connecting side knows both sides' ports: so many queue pairs for each pair of them. */
static void plan_rails(struct kvx_verbs_link *link)
{
	struct kvx_transport *transport = link->base.transport;
	struct kvx_verbs_remote_port local[KVX_VERBS_PORTS_MAX];
	struct kvx_verbs_match matches[KVX_VERBS_PORTS_MAX];
	uint32_t qps = (uint32_t)transport->context->options->verbs_qps;

	for (uint32_t i = 0; i < transport->port_count; i++)
		local[i] = describe(&transport->ports[i]);
	uint32_t count = kvx_verbs_match(local, transport->port_count, link->remote,
					 link->remote_count, matches);
	if (!count) {
		kvx_verbs_link_fail(
			link, KVX_E_UNREACHABLE,
			"no port of this engine is on a network with one of the peer's");
		return;
	}
	while (count * qps > KVX_RAILS_MAX)
		qps--;
	if (!make_rails(link, count * qps))
		return;
	for (uint32_t i = 0; i < link->base.rails; i++) {
		link->rails[i].port = &transport->ports[matches[i % count].local];
		link->rails[i].remote_port = matches[i % count].remote;
	}
	for (uint32_t i = 0; i < link->base.rails && link->state == KVX_VERBS_LINK_MAKING; i++)
		kvx_verbs_rail_make(&link->rails[i]);
}

static bool all_tried(const struct kvx_verbs_link *link)
{
	for (uint32_t i = 0; i < link->base.rails; i++)
		if (!link->rails[i].tried)
			return false;
	return true;
}

void kvx_verbs_link_tried(struct kvx_verbs_link *link)
{
	const struct kvx_transport_context *context = link->base.transport->context;
	struct kvx_verbs_message up = {.type = KVX_VERBS_LINK};
	int64_t now_ns = kvx_now_ns();

	if (link->state != KVX_VERBS_LINK_MAKING)
		return;
	if (!all_tried(link) && (!link->rails_up || now_ns < link->deadline_ns)) {
		if (link->rails_up && link->deadline_ns > now_ns + OTHER_RAILS_NS)
			set_deadline(link, now_ns + OTHER_RAILS_NS);
		return;
	}
	if (!link->rails_up) {
		kvx_verbs_link_fail(link, KVX_E_UNREACHABLE, "no rail could be made: %s",
				    why_no_rail(link));
		return;
	}
	link->state = KVX_VERBS_LINK_UP;
	watch_rails(link); /* the deadline was that of being made */
	kvx_verbs_say(link, &up);
	kvx_verbs_link_trouble(link);
	context->sink->link_up(context->engine, &link->base);
}

/* -------------------------------------------------------------------------------- the peer's words
 */

static void on_ports(struct kvx_verbs_link *link, const struct kvx_verbs_message *ports)
{
	if (ports->version != KVX_VERBS_VERSION) {
		kvx_verbs_link_fail(link, KVX_E_VERSION,
				    "the peer speaks version %u of the verbs protocol, this engine "
				    "version %u; run the same release of kvxfer at both ends",
				    ports->version, KVX_VERBS_VERSION);
		return;
	}
	if (link->introduced) {
		kvx_verbs_link_fail(link, KVX_E_PROTOCOL, "it told its ports twice");
		return;
	}
	link->introduced = true;
	link->remote_count = ports->count;
	memcpy(link->remote, ports->ports, ports->count * sizeof(ports->ports[0]));
	if (link->connector)
		plan_rails(link);
}

static void on_ask(struct kvx_verbs_link *link, const struct kvx_verbs_message *ask)
{
	if (!link->introduced || ask->local_port >= link->remote_count ||
	    ask->remote_port >= link->base.transport->port_count ||
	    (link->rails && ask->rails != link->base.rails)) {
		kvx_verbs_link_fail(link, KVX_E_PROTOCOL, "it asked for a rail that cannot be");
		return;
	}
	if (link->rails || make_rails(link, ask->rails))
		kvx_verbs_rail_asked(&link->rails[ask->rail], ask);
}

static void on_link(struct kvx_verbs_link *link)
{
	const struct kvx_transport_context *context = link->base.transport->context;

	if (link->state != KVX_VERBS_LINK_MAKING || !link->rails_up) {
		kvx_verbs_link_fail(link, KVX_E_PROTOCOL, "a link without a rail");
		return;
	}
	link->state = KVX_VERBS_LINK_UP;
	watch_rails(link);
	link->known = true;
	link->base.transport->half_made--;
	kvx_verbs_link_trouble(link);
	context->sink->link_accepted(context->engine, &link->base);
}

static struct kvx_verbs_keys *find_slot(struct kvx_verbs_link *link, uint32_t slot)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &link->keys) {
		struct kvx_verbs_keys *keys = kvx_container_of(entry, struct kvx_verbs_keys, entry);
		if (keys->slot == slot)
			return keys;
	}
	return NULL;
}

static struct kvx_verbs_keys *keys_new(struct kvx_verbs_link *link,
				       const struct kvx_verbs_message *message)
{
	size_t bytes = message->pieces * (sizeof(uint64_t) + link->base.rails * sizeof(uint32_t)) +
		       message->memories * sizeof(uint32_t);
	struct kvx_verbs_keys *keys = NULL;

	/* What a peer says must not cost any amount of memory. */
	if (bytes <= KVX_VERBS_KEYS_BYTES_MAX - link->keys_bytes)
		keys = calloc(1, sizeof(*keys));
	if (!keys)
		return NULL;
	keys->bytes = bytes;
	link->keys_bytes += bytes;
	keys->slot = message->slot;
	keys->generation = message->generation;
	keys->memories = message->memories;
	keys->pieces = message->pieces;
	keys->chunk_shift = message->chunk_shift;
	keys->bases = calloc(keys->pieces, sizeof(*keys->bases));
	keys->firsts = malloc(keys->memories * sizeof(*keys->firsts));
	keys->keys = calloc((size_t)keys->pieces * link->base.rails, sizeof(*keys->keys));
	kvx_list_append(&link->keys, &keys->entry);
	if (!keys->bases || !keys->firsts || !keys->keys) {
		kvx_verbs_keys_free(link, keys);
		return NULL;
	}
	memset(keys->firsts, 0xff, keys->memories * sizeof(*keys->firsts));
	return keys;
}

/* A slot that is used again has new keys; there is one set for each at most. */
static void on_keys(struct kvx_verbs_link *link, const struct kvx_verbs_message *message)
{
	struct kvx_verbs_keys *keys = find_slot(link, message->slot);

	if (keys && (keys->generation != message->generation ||
		     keys->memories != message->memories || keys->pieces != message->pieces)) {
		kvx_verbs_keys_free(link, keys);
		keys = NULL;
	}
	if (!keys)
		keys = keys_new(link, message);
	if (!keys) {
		kvx_verbs_link_fail(link, KVX_E_MEMORY, "no room for so many keys");
		return;
	}
	for (uint32_t i = 0; i < message->count; i++) {
		const struct kvx_verbs_key *key = &message->keys[i];
		if (key->rail >= link->base.rails) {
			kvx_verbs_link_fail(link, KVX_E_PROTOCOL, "a key for a rail that is not");
			return;
		}
		keys->bases[key->piece] = key->base;
		keys->keys[key->piece * link->base.rails + key->rail] = key->rkey;
		if (key->piece < keys->firsts[key->memory])
			keys->firsts[key->memory] = key->piece;
	}
}

static void on_broken(struct kvx_verbs_link *link, const struct kvx_verbs_message *broken)
{
	struct kvx_verbs_rail *rail = &link->rails[broken->rail];

	/* What this side's hardware knows of it first: which request was refused, if one was. */
	if (rail->pair)
		kvx_verbs_poll(rail->port->device);
	/* Unless that queue pair has a successor already, which may have no number yet. */
	const struct kvx_verbs_pair *pair = rail->pair;
	if (!pair || (broken->qpn &&
		      (pair->state == KVX_VERBS_PAIR_MAKING || broken->qpn != pair->local.qpn)))
		return;
	rail->path_works = rail->state == KVX_VERBS_RAIL_UP;
	kvx_verbs_rail_fail(rail, false, "the peer: %s", broken->text);
}

static void on_rail(struct kvx_verbs_link *link, const struct kvx_verbs_message *message)
{
	if (message->rail >= link->base.rails) {
		kvx_verbs_link_fail(link, KVX_E_PROTOCOL, "a rail that does not exist");
		return;
	}
	struct kvx_verbs_rail *rail = &link->rails[message->rail];
	if (message->type == KVX_VERBS_BROKEN)
		on_broken(link, message);
	else if (message->type == KVX_VERBS_ANSWER)
		kvx_verbs_rail_answered(rail, message);
	else
		kvx_verbs_rail_ready(rail);
}

/* Which side says what. */
static bool out_of_place(const struct kvx_verbs_link *link, enum kvx_verbs_message_type type)
{
	switch (type) {
	case KVX_VERBS_ASK:
	case KVX_VERBS_READY:
	case KVX_VERBS_LINK:
		return link->connector;
	case KVX_VERBS_ANSWER:
	case KVX_VERBS_KEYS:
		return !link->connector;
	default:
		return false;
	}
}

static void on_message(struct kvx_verbs_link *link, const struct kvx_verbs_message *message)
{
	switch (message->type) {
	case KVX_VERBS_PORTS:
		on_ports(link, message);
		break;
	case KVX_VERBS_ASK:
		on_ask(link, message);
		break;
	case KVX_VERBS_LINK:
		on_link(link);
		break;
	case KVX_VERBS_KEYS:
		on_keys(link, message);
		break;
	default:
		on_rail(link, message);
	}
}

void kvx_verbs_link_hear(struct kvx_verbs_link *link, const void *bytes, uint32_t length)
{
	const struct kvx_transport_context *context = link->base.transport->context;
	struct kvx_verbs_message message;

	if (link->state == KVX_VERBS_LINK_DOWN)
		return;
	if (*(const uint8_t *)bytes == KVX_VERBS_ENGINE && link->state == KVX_VERBS_LINK_UP &&
	    length > 1)
		context->sink->message(context->engine, &link->base, (const uint8_t *)bytes + 1,
				       length - 1);
	else if (kvx_verbs_decode(&message, bytes, length))
		kvx_verbs_link_fail(link, KVX_E_PROTOCOL, "%s", kvx_error_text());
	else if (out_of_place(link, message.type))
		kvx_verbs_link_fail(link, KVX_E_PROTOCOL, "a message of type %d out of place",
				    (int)message.type);
	else
		on_message(link, &message);
}

/* ------------------------------------------------------------------------------------ our words */

void kvx_verbs_say(struct kvx_verbs_link *link, const struct kvx_verbs_message *message)
{
	uint8_t bytes[KVX_VERBS_MESSAGE_MAX];

	if (link->control)
		link->control->ops->message(link->control, bytes, kvx_verbs_encode(message, bytes));
}

/* Also when the link is down, as long as the control connection is not: so the peer learns why. */
void kvx_verbs_message(struct kvx_link *base, const void *bytes, uint32_t length)
{
	struct kvx_verbs_link *link = (struct kvx_verbs_link *)base;
	uint8_t wrapped[KVX_VERBS_MESSAGE_MAX] = {KVX_VERBS_ENGINE};

	memcpy(wrapped + 1, bytes, length);
	if (link->control)
		link->control->ops->message(link->control, wrapped, length + 1);
}

void kvx_verbs_rail_port(const struct kvx_link *base, uint32_t rail, char *text, size_t size)
{
	const struct kvx_verbs_port *port = ((const struct kvx_verbs_link *)base)->rails[rail].port;

	snprintf(text, size, "%s:%u", port->device->name, port->number);
}

void kvx_verbs_explain(const struct kvx_link *base, char *text, size_t size)
{
	const struct kvx_verbs_link *link = (const struct kvx_verbs_link *)base;
	int length = snprintf(text, size, "%u queue pair%s to %s", base->rails,
			      base->rails == 1 ? "" : "s", link->name);

	for (uint32_t i = 0; i < base->rails && length > 0 && (size_t)length < size; i++) {
		const struct kvx_verbs_port *port = link->rails[i].port;
		bool first = true;
		for (uint32_t j = 0; j < i && first; j++)
			first = link->rails[j].port != port;
		if (first)
			length += snprintf(text + length, size - (size_t)length,
					   "%s %s port %u (%s)", i ? "," : ":", port->device->name,
					   port->number, port->why);
	}
}
