/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HALF_MADE_MAX 256 /* connections; then the oldest go, so that strangers cannot pile up */
#define CALLBACK_ACCEPTS 64
#define PAUSE_NS (100 * KVX_NS_PER_MS) /* of the listener, when descriptors are short */

/* An accepted socket that has not said yet what it is for. */
struct greeting {
	struct kvx_tcp_connection connection;
	struct kvx_list entry;
	int64_t deadline_ns;
	struct kvx_tcp_address address;
};

static void greeting_free(struct greeting *greeting)
{
	kvx_tcp_connection_close(&greeting->connection);
	greeting->connection.transport->half_made--;
	kvx_list_remove(&greeting->entry);
	free(greeting);
}

static void half_free(struct kvx_tcp_link *link)
{
	link->base.transport->half_made -= link->joined;
	kvx_tcp_link_free(link);
}

static struct greeting *first_greeting(const struct kvx_transport *transport)
{
	return kvx_list_empty(&transport->greetings)
		       ? NULL
		       : kvx_container_of(transport->greetings.next, struct greeting, entry);
}

static struct kvx_tcp_link *first_half(const struct kvx_transport *transport)
{
	return kvx_list_empty(&transport->halves)
		       ? NULL
		       : kvx_container_of(transport->halves.next, struct kvx_tcp_link, entry);
}

/* The deadlines are all equally far from the beginnings, so the oldest is the first that is due. */
static bool drop_oldest(struct kvx_transport *transport, int64_t due_ns)
{
	struct greeting *greeting = first_greeting(transport);
	struct kvx_tcp_link *half = first_half(transport);

	if (greeting && half && half->deadline_ns < greeting->deadline_ns)
		greeting = NULL;
	if (greeting && greeting->deadline_ns <= due_ns)
		greeting_free(greeting);
	else if (!greeting && half && half->deadline_ns <= due_ns)
		half_free(half);
	else
		return false;
	return true;
}

/* ------------------------------------------------------------------------------------- joining */

static struct kvx_tcp_link *find(const struct kvx_list *links, uint64_t token)
{
	const struct kvx_list *entry;

	for (entry = links->next; entry != links; entry = entry->next) {
		struct kvx_tcp_link *link = kvx_container_of(entry, struct kvx_tcp_link, entry);
		if (!link->connector && link->token == token)
			return link;
	}
	return NULL;
}

static int answer(struct kvx_tcp_connection *connection, const struct kvx_tcp_link *link)
{
	struct kvx_tcp_preamble preamble = {
		.role = KVX_TCP_ANSWER,
		.encrypt = link->encrypted,
		.count = (uint16_t)link->base.rails,
		.token = link->token,
	};

	return kvx_tcp_connection_greet(connection, &preamble);
}

/* A link that lost this rail, noticed here or not, gets it back. */
static void rejoin(struct kvx_tcp_link *link, struct kvx_tcp_connection *from, uint32_t index)
{
	struct kvx_tcp_rail *rail = &link->rails[index];

	if (rail->state == KVX_TCP_RAIL_UP)
		kvx_tcp_rail_lost(rail, 0);
	kvx_tcp_connection_move(&rail->connection, from);
	if (answer(&rail->connection, link) == 0)
		kvx_tcp_rail_start(rail);
	else
		kvx_tcp_connection_close(&rail->connection);
}

static void complete(struct kvx_tcp_link *link)
{
	struct kvx_transport *transport = link->base.transport;

	transport->half_made -= link->joined;
	kvx_list_remove(&link->entry);
	if (answer(&link->control, link) != 0 || !kvx_tcp_link_start(link)) {
		kvx_tcp_link_free(link);
		return;
	}
	kvx_list_append(&transport->links, &link->entry);
	transport->context->sink->link_accepted(transport->context->engine, &link->base);
}

static struct kvx_tcp_link *half_new(const struct greeting *greeting,
				     const struct kvx_tcp_preamble *preamble)
{
	struct kvx_transport *transport = greeting->connection.transport;
	struct kvx_tcp_link *link = kvx_tcp_link_new(transport, preamble->count, false);

	if (!link)
		return NULL;
	link->token = preamble->token;
	link->encrypted = transport->context->options->tcp_encryption;
	link->deadline_ns = greeting->deadline_ns;
	link->address = greeting->address;
	kvx_tcp_address_format(&link->address, link->name, sizeof(link->name));
	kvx_list_append(&transport->halves, &link->entry);
	return link;
}

static void join_half(struct greeting *greeting, const struct kvx_tcp_preamble *preamble)
{
	struct kvx_transport *transport = greeting->connection.transport;
	struct kvx_tcp_link *link = find(&transport->halves, preamble->token);
	bool messages_only = transport->context->options->tcp_connections == 0;

	if ((preamble->count == 0) != messages_only)
		return;
	if (!link)
		link = half_new(greeting, preamble);
	if (!link || preamble->count != link->base.rails)
		return;
	struct kvx_tcp_connection *to = preamble->role == KVX_TCP_CONTROL
						? &link->control
						: &link->rails[preamble->index].connection;
	if (to->pollable.fd >= 0)
		return;
	kvx_tcp_connection_move(to, &greeting->connection);
	link->encrypted = link->encrypted || preamble->encrypt;
	transport->half_made++;
	if (++link->joined == link->base.rails + 1)
		complete(link);
}

static void join(struct greeting *greeting, const struct kvx_tcp_preamble *preamble)
{
	struct kvx_transport *transport = greeting->connection.transport;
	struct kvx_tcp_link *link = find(&transport->links, preamble->token);

	if (!link)
		join_half(greeting, preamble);
	else if (preamble->role == KVX_TCP_DATA && preamble->count == link->base.rails &&
		 link->state == KVX_TCP_LINK_UP)
		rejoin(link, &greeting->connection, preamble->index);
}

/* ----------------------------------------------------------------------------------- greetings */

static void refuse(struct greeting *greeting, int error, const struct kvx_tcp_preamble *theirs)
{
	struct kvx_transport *transport = greeting->connection.transport;
	struct kvx_tcp_preamble ours = {.role = KVX_TCP_ANSWER, .count = 1};
	char name[KVX_ADDRESS_MAX + 1];

	kvx_tcp_address_format(&greeting->address, name, sizeof(name));
	if (error != KVX_E_VERSION) {
		kvx_log_write(transport->context->log, KVX_LOG_INFO,
			      "tcp %s: connection refused: not a kvxfer engine", name);
		return;
	}
	/* So that the other side can tell its user. */
	kvx_tcp_connection_greet(&greeting->connection, &ours);
	kvx_log_write(transport->context->log, KVX_LOG_WARNING,
		      "tcp %s: connection refused: the peer speaks version %u of the wire format, "
		      "this engine version %u",
		      name, theirs->version, KVX_TCP_VERSION);
}

static void greeting_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct greeting *greeting =
		kvx_container_of(pollable, struct greeting, connection.pollable);
	struct kvx_tcp_preamble preamble = {0};
	int got = kvx_tcp_connection_read_preamble(&greeting->connection);

	(void)events;
	if (got == 0)
		return;
	if (got > 0) {
		int error = kvx_tcp_preamble_decode(greeting->connection.preamble, &preamble);
		if (error || preamble.role == KVX_TCP_ANSWER)
			refuse(greeting, error, &preamble);
		else
			join(greeting, &preamble);
	}
	greeting_free(greeting);
}

/* Before it has proved to know the secret nothing that it says is looked at. */
static void shaking_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct greeting *greeting =
		kvx_container_of(pollable, struct greeting, connection.pollable);
	struct kvx_tcp_connection *connection = &greeting->connection;
	char name[KVX_ADDRESS_MAX + 1];
	int done = kvx_tcp_connection_shake_hands(connection);

	(void)events;
	if (done > 0)
		kvx_tcp_connection_watch(connection, EPOLLIN, greeting_ready);
	if (done >= 0)
		return;
	kvx_tcp_address_format(&greeting->address, name, sizeof(name));
	kvx_log_write(connection->transport->context->log, KVX_LOG_WARNING,
		      "tcp %s: connection refused: %s", name, kvx_tls_reason(connection->tls));
	greeting_free(greeting);
}

static void greeting_new(struct kvx_transport *transport, int fd,
			 const struct kvx_tcp_address *address)
{
	struct greeting *greeting = malloc(sizeof(*greeting));

	if (!greeting) {
		close(fd);
		return;
	}
	kvx_tcp_connection_init(&greeting->connection, transport);
	kvx_tcp_connection_adopt(&greeting->connection, fd);
	kvx_tcp_socket_prepare(transport, fd);
	greeting->address = *address;
	greeting->deadline_ns = kvx_now_ns() + (int64_t)kvx_option(transport->context->options,
								   connect_timeout_ms) *
						       KVX_NS_PER_MS;
	kvx_list_append(&transport->greetings, &greeting->entry);
	if (++transport->half_made > HALF_MADE_MAX)
		drop_oldest(transport, KVX_NEVER_NS);
	kvx_tcp_timer_set(transport, greeting->deadline_ns);
	if (!kvx_tcp_connection_secure(&greeting->connection, true) ||
	    !kvx_tcp_connection_watch(&greeting->connection, EPOLLIN,
				      greeting->connection.tls ? shaking_ready : greeting_ready))
		greeting_free(greeting);
}

/* Without this a listener that cannot accept would keep the worker awake. */
static void pause_listener(struct kvx_transport *transport, int error)
{
	char text[128];

	kvx_poller_change(transport->context->poller, &transport->listener, 0);
	transport->listener_resume_ns = kvx_now_ns() + PAUSE_NS;
	kvx_tcp_timer_set(transport, transport->listener_resume_ns);
	kvx_log_write(transport->context->log, KVX_LOG_WARNING,
		      "tcp %s: cannot accept connections: %s", transport->address,
		      kvx_tcp_reason(error, text, sizeof(text)));
}

void kvx_tcp_listener_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_transport *transport =
		kvx_container_of(pollable, struct kvx_transport, listener);

	(void)events;
	for (int i = 0; i < CALLBACK_ACCEPTS; i++) {
		struct kvx_tcp_address address = {.length = sizeof(address.socket)};
		int fd = accept4(pollable->fd, (struct sockaddr *)&address.socket, &address.length,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			greeting_new(transport, fd, &address);
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			 errno == ENOMEM) {
			pause_listener(transport, errno);
			return;
		} else if (errno == EAGAIN)
			return;
	}
}

int kvx_tcp_accept_expire(struct kvx_transport *transport, int64_t now_ns)
{
	int done = 0;

	while (drop_oldest(transport, now_ns))
		done++;
	if (first_greeting(transport))
		kvx_tcp_timer_set(transport, first_greeting(transport)->deadline_ns);
	if (first_half(transport))
		kvx_tcp_timer_set(transport, first_half(transport)->deadline_ns);
	if (!transport->listener_resume_ns)
		return done;
	if (transport->listener_resume_ns > now_ns) {
		kvx_tcp_timer_set(transport, transport->listener_resume_ns);
		return done;
	}
	transport->listener_resume_ns = 0;
	kvx_poller_change(transport->context->poller, &transport->listener, EPOLLIN);
	return done + 1;
}

void kvx_tcp_accept_finish(struct kvx_transport *transport)
{
	while (drop_oldest(transport, KVX_NEVER_NS))
		;
}
