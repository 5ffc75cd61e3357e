/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLBACK_READS 16 /* of the control connection, so that one peer cannot starve others */

static void rail_init(struct kvx_tcp_rail *rail, struct kvx_tcp_link *link)
{
	kvx_tcp_connection_init(&rail->connection, link->base.transport);
	rail->connection.link = link;
	rail->connection.rail = rail;
	rail->lost = -1;
	kvx_list_init(&rail->unsent);
	kvx_list_init(&rail->unread);
}

struct kvx_tcp_link *kvx_tcp_link_new(struct kvx_transport *transport, uint32_t rails,
				      bool connector)
{
	struct kvx_tcp_link *link = calloc(1, sizeof(*link) + rails * sizeof(link->rails[0]));

	if (!link)
		return NULL;
	link->base.ops = &kvx_tcp_transport;
	link->base.transport = transport;
	link->base.rails = rails;
	link->connector = connector;
	kvx_list_init(&link->entry);
	kvx_list_init(&link->trouble);
	kvx_tcp_connection_init(&link->control, transport);
	link->control.link = link;
	kvx_outbox_init(&link->outbox, KVX_MESSAGE_QUEUE_MAX);
	for (uint32_t i = 0; i < rails; i++)
		rail_init(&link->rails[i], link);
	return link;
}

static void rail_close(struct kvx_tcp_rail *rail)
{
	kvx_tcp_connection_close(&rail->connection);
	kvx_tcp_sending_clear(&rail->sending);
	kvx_list_remove(&rail->unsent);
	kvx_list_remove(&rail->unread);
	rail->receiving = (struct kvx_tcp_receiving){0};
	rail->state = KVX_TCP_RAIL_DOWN;
}

/* The control connection first: its last messages should come before the loss of the rails. */
static void close_connections(struct kvx_tcp_link *link)
{
	kvx_tcp_connection_close(&link->control);
	for (uint32_t i = 0; i < link->base.rails; i++)
		rail_close(&link->rails[i]);
	link->rails_up = 0;
}

void kvx_tcp_link_free(struct kvx_tcp_link *link)
{
	close_connections(link);
	kvx_list_remove(&link->entry);
	kvx_list_remove(&link->trouble);
	kvx_outbox_finish(&link->outbox);
	free(link);
}

static void trouble(struct kvx_tcp_link *link)
{
	kvx_list_remove(&link->trouble);
	kvx_list_append(&link->base.transport->troubled, &link->trouble);
}

void kvx_tcp_link_fail(struct kvx_tcp_link *link, int code, const char *format, ...)
{
	va_list arguments;

	if (link->state == KVX_TCP_LINK_DOWN)
		return;
	int length = snprintf(link->text, sizeof(link->text), "tcp %s: ", link->name);
	va_start(arguments, format);
	vsnprintf(link->text + length, sizeof(link->text) - (size_t)length, format, arguments);
	va_end(arguments);
	link->code = code;
	link->state = KVX_TCP_LINK_DOWN;
	close_connections(link);
	trouble(link);
}

static void fail_by_errno(struct kvx_tcp_link *link, int code, const char *what, int error)
{
	char text[128];

	kvx_tcp_link_fail(link, code, "%s%s", what, kvx_tcp_reason(error, text, sizeof(text)));
}

/* -------------------------------------------------------------------------------- messages */

static void flush(struct kvx_tcp_link *link)
{
	struct kvx_tcp_connection *control = &link->control;
	int error = kvx_outbox_flush(&link->outbox, kvx_tcp_connection_send, control);

	if (!error && control->tls && !kvx_tls_flush(control->tls))
		error = -EPROTO;
	if (error) {
		fail_by_errno(link, KVX_E_PEER_LOST, "", -error);
		return;
	}
	bool more = kvx_outbox_bytes(&link->outbox) || !kvx_tcp_connection_is_flushed(control);
	kvx_tcp_connection_want(control, more ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void kvx_tcp_message(struct kvx_link *base, const void *bytes, uint32_t length)
{
	struct kvx_tcp_link *link = (struct kvx_tcp_link *)base;

	if (link->state != KVX_TCP_LINK_UP)
		return;
	uint32_t waiting = kvx_outbox_bytes(&link->outbox);
	uint8_t *room = kvx_outbox_reserve(&link->outbox, KVX_TCP_LENGTH_BYTES + length);
	if (!room) {
		kvx_tcp_link_fail(link, KVX_E_PEER_LOST,
				  "the peer takes no messages: %u bytes are queued", waiting);
		return;
	}
	room[0] = (uint8_t)length;
	room[1] = (uint8_t)(length >> 8);
	memcpy(room + KVX_TCP_LENGTH_BYTES, bytes, length);
	if (waiting == 0)
		flush(link);
}

/* Hands up the whole messages of the inbox and keeps the rest. */
static void deliver(struct kvx_tcp_link *link)
{
	const struct kvx_transport_context *context = link->base.transport->context;
	uint32_t begin = 0;

	while (link->inbox_bytes - begin >= KVX_TCP_LENGTH_BYTES) {
		const uint8_t *message = link->inbox + begin;
		uint32_t length = message[0] | (uint32_t)message[1] << 8;
		if (length < 1 || length > KVX_TCP_MESSAGE_MAX) {
			kvx_tcp_link_fail(link, KVX_E_PROTOCOL,
					  "control connection: a message of %u bytes", length);
			return;
		}
		if (link->inbox_bytes - begin < KVX_TCP_LENGTH_BYTES + length)
			break;
		begin += KVX_TCP_LENGTH_BYTES + length;
		context->sink->message(context->engine, &link->base, message + KVX_TCP_LENGTH_BYTES,
				       length);
		if (link->state != KVX_TCP_LINK_UP)
			return;
	}
	link->inbox_bytes -= begin;
	memmove(link->inbox, link->inbox + begin, link->inbox_bytes);
}

/* One read. False: there is no more for now, or the link is over. */
static bool receive(struct kvx_tcp_link *link)
{
	size_t room = sizeof(link->inbox) - link->inbox_bytes;
	ssize_t got =
		kvx_tcp_connection_receive(&link->control, link->inbox + link->inbox_bytes, room);

	if (got > 0) {
		link->inbox_bytes += (uint32_t)got;
		deliver(link);
		return link->state == KVX_TCP_LINK_UP && ((size_t)got == room || link->control.tls);
	}
	if (got == 0)
		fail_by_errno(link, KVX_E_PEER_LOST, "", 0);
	else if (errno != EAGAIN && errno != EINTR)
		fail_by_errno(link, KVX_E_PEER_LOST, "", errno);
	return false;
}

static void control_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_tcp_link *link =
		kvx_container_of(pollable, struct kvx_tcp_connection, pollable)->link;

	if (events & EPOLLOUT)
		flush(link);
	if (!(events & ~(uint32_t)EPOLLOUT))
		return;
	for (int i = 0; link->state == KVX_TCP_LINK_UP &&
			(i < CALLBACK_READS || kvx_tcp_connection_pending(&link->control));
	     i++)
		if (!receive(link))
			return;
}

/* ----------------------------------------------------------------------------------- states */

static bool watch_rail(struct kvx_tcp_rail *rail)
{
	rail->state = KVX_TCP_RAIL_UP;
	rail->backoff_ns = 0;
	if (!rail->connection.link->encrypted)
		kvx_tcp_connection_unveil(&rail->connection);
	return kvx_tcp_connection_watch(&rail->connection, EPOLLIN,
					rail->connection.link->connector ? kvx_tcp_sender_ready
									 : kvx_tcp_receiver_ready);
}

bool kvx_tcp_link_start(struct kvx_tcp_link *link)
{
	bool watched = kvx_tcp_connection_watch(&link->control, EPOLLIN, control_ready);

	for (uint32_t i = 0; i < link->base.rails; i++)
		watched = watch_rail(&link->rails[i]) && watched;
	link->state = KVX_TCP_LINK_UP;
	link->rails_up = link->base.rails;
	if (!watched)
		kvx_tcp_link_fail(link, KVX_E_SYSTEM, "epoll takes no more descriptors");
	return watched;
}

static void tell_rail(struct kvx_tcp_rail *rail, bool up, const char *reason)
{
	struct kvx_tcp_link *link = rail->connection.link;
	const struct kvx_transport_context *context = link->base.transport->context;
	uint32_t index = (uint32_t)(rail - link->rails);
	char text[KVX_ERROR_TEXT_MAX + 1];

	snprintf(text, sizeof(text), "tcp %s: data connection %u: %s", link->name, index, reason);
	context->sink->rail_changed(context->engine, &link->base, index, up, text);
}

void kvx_tcp_rail_start(struct kvx_tcp_rail *rail)
{
	/* Its loss is told before its return. */
	kvx_tcp_link_report(rail->connection.link);
	if (rail->connection.link->state != KVX_TCP_LINK_UP)
		return;
	rail->connection.link->rails_up++;
	if (watch_rail(rail))
		tell_rail(rail, true, "made anew");
	else
		kvx_tcp_rail_lost(rail, ENOSPC);
}

void kvx_tcp_rail_lost(struct kvx_tcp_rail *rail, int error)
{
	struct kvx_tcp_link *link = rail->connection.link;

	if (rail->state == KVX_TCP_RAIL_UP) {
		rail->lost = error;
		link->rails_up--;
		trouble(link);
	}
	rail_close(rail);
	if (link->connector)
		kvx_tcp_dial_later(rail);
}

/* The last rail is gone. What the peer said before it left is heard first. */
static void last_rail_lost(struct kvx_tcp_link *link)
{
	int error = 0;

	for (uint32_t i = 0; i < link->base.rails; i++)
		if (link->rails[i].lost >= 0)
			error = link->rails[i].lost;
	for (int i = 0; i < CALLBACK_READS && link->state == KVX_TCP_LINK_UP; i++)
		if (!receive(link))
			break;
	fail_by_errno(link, KVX_E_PEER_LOST, "last data connection: ", error);
}

void kvx_tcp_link_report(struct kvx_tcp_link *link)
{
	const struct kvx_transport_context *context = link->base.transport->context;

	/* First: the sink's answers may make more trouble. */
	kvx_list_remove(&link->trouble);
	if (link->state == KVX_TCP_LINK_UP && link->base.rails && link->rails_up == 0)
		last_rail_lost(link);
	for (uint32_t i = 0; i < link->base.rails && link->state == KVX_TCP_LINK_UP; i++) {
		struct kvx_tcp_rail *rail = &link->rails[i];
		char text[128];
		if (rail->lost < 0)
			continue;
		const char *reason = kvx_tcp_reason(rail->lost, text, sizeof(text));
		rail->lost = -1;
		tell_rail(rail, false, reason);
	}
	if (link->state == KVX_TCP_LINK_DOWN && !link->told) {
		link->told = true;
		context->sink->link_down(context->engine, &link->base, link->code, link->text);
	}
}

/* Sends what is queued as far as the socket takes it. Unread bytes would turn the close into a
 * reset, which could overtake it. */
static void say_farewell(struct kvx_tcp_link *link)
{
	char unread[KVX_TCP_INBOX_BYTES];

	kvx_outbox_flush(&link->outbox, kvx_tcp_connection_send, &link->control);
	for (int i = 0; i < CALLBACK_READS; i++)
		if (kvx_tcp_connection_receive(&link->control, unread, sizeof(unread)) <= 0)
			return;
}

void kvx_tcp_disconnect(struct kvx_link *base)
{
	struct kvx_tcp_link *link = (struct kvx_tcp_link *)base;

	if (link->state == KVX_TCP_LINK_UP)
		say_farewell(link);
	kvx_tcp_link_free(link);
}

void kvx_tcp_explain(const struct kvx_link *base, char *text, size_t size)
{
	const struct kvx_tcp_link *link = (const struct kvx_tcp_link *)base;

	if (!base->rails) /* it carries messages for another transport */
		snprintf(text, size, "%s", link->name);
	else
		snprintf(text, size, "%u %sconnection%s to %s", base->rails,
			 link->encrypted ? "encrypted " : "", base->rails == 1 ? "" : "s",
			 link->name);
}
