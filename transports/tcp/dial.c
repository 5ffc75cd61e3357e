/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include "base/clock.h"
#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/random.h>

#define BACKOFF_FIRST_NS (100 * KVX_NS_PER_MS)
#define BACKOFF_LAST_NS (5 * KVX_NS_PER_S)

static int64_t timeout_ns(const struct kvx_transport *transport)
{
	return (int64_t)kvx_option(transport->context->options, connect_timeout_ms) * KVX_NS_PER_MS;
}

/* While the link is made that is the end of it, later it costs the rail a retry. */
static void dial_failed(struct kvx_tcp_connection *connection, int error)
{
	char text[128];

	if (connection->link->state == KVX_TCP_LINK_UP)
		kvx_tcp_rail_lost(connection->rail, error);
	else
		kvx_tcp_link_fail(connection->link, KVX_E_UNREACHABLE, "%s",
				  kvx_tcp_reason(error, text, sizeof(text)));
}

static void refuse_answer(struct kvx_tcp_link *link, int code, unsigned version)
{
	if (code == KVX_E_VERSION)
		kvx_tcp_link_fail(link, code,
				  "the peer speaks version %u of the wire format, this engine "
				  "version %u; run the same release of kvxfer at both ends",
				  version, KVX_TCP_VERSION);
	else
		kvx_tcp_link_fail(link, KVX_E_PROTOCOL,
				  "the answer is not that of a kvxfer engine");
}

/* The other side answers for the whole link, so each rail must have asked. */
static bool all_asked(const struct kvx_tcp_link *link)
{
	for (uint32_t i = 0; i < link->base.rails; i++)
		if (link->rails[i].state != KVX_TCP_RAIL_ASKING)
			return false;
	return true;
}

static void accepted(struct kvx_tcp_connection *connection, bool encrypt)
{
	struct kvx_tcp_link *link = connection->link;
	const struct kvx_transport_context *context = link->base.transport->context;

	link->encrypted = link->encrypted || encrypt;
	if (link->state == KVX_TCP_LINK_UP)
		kvx_tcp_rail_start(connection->rail);
	else if (connection->rail || !all_asked(link))
		refuse_answer(link, KVX_E_PROTOCOL, 0);
	else if (kvx_tcp_link_start(link))
		context->sink->link_up(context->engine, &link->base);
}

static void answer_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_tcp_connection *connection =
		kvx_container_of(pollable, struct kvx_tcp_connection, pollable);
	struct kvx_tcp_preamble answer = {0};
	int got = kvx_tcp_connection_read_preamble(connection);

	(void)events;
	if (got < 0)
		dial_failed(connection, -got);
	if (got <= 0)
		return;
	int error = kvx_tcp_preamble_decode(connection->preamble, &answer);
	if (error || answer.role != KVX_TCP_ANSWER || answer.token != connection->link->token)
		refuse_answer(connection->link, error, answer.version);
	else
		accepted(connection, answer.encrypt);
}

/* Says who connects. Returns 0 or a negative errno. */
static int greet(struct kvx_tcp_connection *connection)
{
	const struct kvx_tcp_link *link = connection->link;
	const struct kvx_tcp_rail *rail = connection->rail;
	struct kvx_tcp_preamble preamble = {
		.role = rail ? KVX_TCP_DATA : KVX_TCP_CONTROL,
		.encrypt = link->encrypted,
		.index = rail ? (uint16_t)(rail - link->rails) : 0,
		.count = (uint16_t)link->base.rails,
		.token = link->token,
	};

	return kvx_tcp_connection_greet(connection, &preamble);
}

static void ask(struct kvx_tcp_connection *connection)
{
	int error = greet(connection);

	if (error) {
		dial_failed(connection, -error);
		return;
	}
	if (connection->rail)
		connection->rail->state = KVX_TCP_RAIL_ASKING;
	kvx_tcp_connection_watch(connection, EPOLLIN, answer_ready);
}

static void shaking_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_tcp_connection *connection =
		kvx_container_of(pollable, struct kvx_tcp_connection, pollable);
	struct kvx_tcp_link *link = connection->link;
	int done = kvx_tcp_connection_shake_hands(connection);

	(void)events;
	if (done > 0)
		ask(connection);
	else if (done < 0 && link->state == KVX_TCP_LINK_UP)
		dial_failed(connection, EPROTO);
	else if (done < 0)
		kvx_tcp_link_fail(link, KVX_E_DENIED, "%s", kvx_tls_reason(connection->tls));
}

/* The socket is connected, or will never be. */
static void dialled_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_tcp_connection *connection =
		kvx_container_of(pollable, struct kvx_tcp_connection, pollable);
	int error = 0;
	socklen_t size = sizeof(error);

	if (getsockopt(connection->pollable.fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		error = errno;
	if (!error && !kvx_tcp_connection_secure(connection, false))
		error = ENOMEM;
	if (error) {
		dial_failed(connection, error);
		return;
	}
	connection->pollable.ready = shaking_ready;
	shaking_ready(pollable, events);
}

/* Returns 0 or a negative errno; the connection is closed by the caller's cleanup. */
static int dial(struct kvx_tcp_connection *connection)
{
	const struct kvx_tcp_address *address = &connection->link->address;
	int fd = socket(address->socket.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	kvx_tcp_connection_adopt(connection, fd);
	kvx_tcp_socket_prepare(connection->transport, fd);
	if (connect(fd, (const struct sockaddr *)&address->socket, address->length) < 0 &&
	    errno != EINPROGRESS)
		return -errno;
	return kvx_tcp_connection_watch(connection, EPOLLOUT, dialled_ready) ? 0 : -ENOSPC;
}

static int dial_all(struct kvx_tcp_link *link)
{
	int error = dial(&link->control);

	for (uint32_t i = 0; i < link->base.rails && !error; i++) {
		link->rails[i].state = KVX_TCP_RAIL_DIALLING;
		error = dial(&link->rails[i].connection);
	}
	return error;
}

static int cannot_dial(const struct kvx_tcp_link *link, int error)
{
	char text[128];
	const char *reason = kvx_tcp_reason(error, text, sizeof(text));

	if (error == EMFILE || error == ENFILE)
		return kvx_fail(KVX_E_SYSTEM, "tcp %s: %s; raise RLIMIT_NOFILE", link->name,
				reason);
	return kvx_fail(KVX_E_UNREACHABLE, "tcp %s: %s", link->name, reason);
}

int kvx_tcp_connect(struct kvx_transport *transport, const char *address, struct kvx_link **result)
{
	struct kvx_tcp_address parsed;
	int error = kvx_tcp_address_parse(address, true, &parsed);

	if (error)
		return error;
	struct kvx_tcp_link *link = kvx_tcp_link_new(
		transport, (uint32_t)transport->context->options->tcp_connections, true);
	if (!link)
		return kvx_fail(KVX_E_MEMORY, "tcp %s: no memory for a link", address);
	link->address = parsed;
	link->encrypted = transport->context->options->tcp_encryption;
	kvx_tcp_address_format(&parsed, link->name, sizeof(link->name));
	link->deadline_ns = kvx_now_ns() + timeout_ns(transport);
	if (getrandom(&link->token, sizeof(link->token), GRND_NONBLOCK) !=
	    (ssize_t)sizeof(link->token)) {
		error = kvx_fail(KVX_E_SYSTEM, "tcp %s: getrandom: no random bytes yet",
				 link->name);
		goto fail_link;
	}
	error = dial_all(link);
	if (error) {
		error = cannot_dial(link, -error);
		goto fail_link;
	}
	kvx_list_append(&transport->links, &link->entry);
	kvx_tcp_timer_set(transport, link->deadline_ns);
	*result = &link->base;
	return 0;

fail_link:
	kvx_tcp_link_free(link);
	return error;
}

void kvx_tcp_dial_later(struct kvx_tcp_rail *rail)
{
	rail->backoff_ns = rail->backoff_ns ? rail->backoff_ns * 2 : BACKOFF_FIRST_NS;
	if (rail->backoff_ns > BACKOFF_LAST_NS)
		rail->backoff_ns = BACKOFF_LAST_NS;
	rail->due_ns = kvx_now_ns() + rail->backoff_ns;
	kvx_tcp_timer_set(rail->connection.link->base.transport, rail->due_ns);
}

static void redial(struct kvx_tcp_rail *rail, int64_t now_ns)
{
	rail->state = KVX_TCP_RAIL_DIALLING;
	rail->due_ns = now_ns + timeout_ns(rail->connection.link->base.transport);
	int error = dial(&rail->connection);
	if (error)
		kvx_tcp_rail_lost(rail, -error);
}

static int expire_rail(struct kvx_tcp_rail *rail, int64_t now_ns)
{
	bool due = rail->due_ns <= now_ns;

	if (rail->state == KVX_TCP_RAIL_UP)
		return 0;
	/* A peer that takes the connection and does not answer is as late as one that does not. */
	if (due && rail->state != KVX_TCP_RAIL_DOWN)
		kvx_tcp_rail_lost(rail, ETIMEDOUT);
	else if (due)
		redial(rail, now_ns);
	kvx_tcp_timer_set(rail->connection.link->base.transport, rail->due_ns);
	return due;
}

int kvx_tcp_dial_expire(struct kvx_tcp_link *link, int64_t now_ns)
{
	int done = 0;

	if (!link->connector || link->state == KVX_TCP_LINK_DOWN)
		return 0;
	if (link->state == KVX_TCP_LINK_UP) {
		for (uint32_t i = 0; i < link->base.rails; i++)
			done += expire_rail(&link->rails[i], now_ns);
		return done;
	}
	if (now_ns < link->deadline_ns) {
		kvx_tcp_timer_set(link->base.transport, link->deadline_ns);
		return 0;
	}
	kvx_tcp_link_fail(link, KVX_E_UNREACHABLE, "no answer within %" PRIu64 " ms",
			  kvx_option(link->base.transport->context->options, connect_timeout_ms));
	return 1;
}
