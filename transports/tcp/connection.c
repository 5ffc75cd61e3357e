/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

void kvx_tcp_socket_prepare(const struct kvx_transport *transport, int fd)
{
	int on = 1;
	int bytes = (int)transport->context->options->tcp_buffer;

	/* Best effort: without any of these it still works. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (bytes > 0) {
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	}
}

void kvx_tcp_connection_init(struct kvx_tcp_connection *connection, struct kvx_transport *transport)
{
	*connection = (struct kvx_tcp_connection){.pollable = {.fd = -1}, .transport = transport};
}

void kvx_tcp_connection_adopt(struct kvx_tcp_connection *connection, int fd)
{
	connection->pollable.fd = fd;
	connection->preamble_bytes = 0;
}

bool kvx_tcp_connection_watch(struct kvx_tcp_connection *connection, uint32_t events,
			      void (*ready)(struct kvx_pollable *, uint32_t))
{
	struct kvx_poller *poller = connection->transport->context->poller;

	connection->pollable.ready = ready;
	if (connection->events) {
		kvx_tcp_connection_want(connection, events);
		return true;
	}
	if (kvx_poller_add(poller, &connection->pollable, events) != 0)
		return false;
	connection->events = events;
	return true;
}

void kvx_tcp_connection_want(struct kvx_tcp_connection *connection, uint32_t events)
{
	if (connection->events == events)
		return;
	/* Changing what is registered needs no memory and so cannot fail. */
	kvx_poller_change(connection->transport->context->poller, &connection->pollable, events);
	connection->events = events;
}

int kvx_tcp_connection_release(struct kvx_tcp_connection *connection)
{
	int fd = connection->pollable.fd;

	if (connection->events)
		kvx_poller_remove(connection->transport->context->poller, &connection->pollable);
	connection->events = 0;
	connection->pollable.fd = -1;
	return fd;
}

void kvx_tcp_connection_close(struct kvx_tcp_connection *connection)
{
	int fd = kvx_tcp_connection_release(connection);

	if (fd >= 0)
		close(fd);
}

int kvx_tcp_connection_greet(struct kvx_tcp_connection *connection,
			     const struct kvx_tcp_preamble *preamble)
{
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];

	kvx_tcp_preamble_encode(preamble, bytes);
	/* An empty socket buffer has room for so little. */
	ssize_t sent =
		send(connection->pollable.fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0)
		return -errno;
	return sent == (ssize_t)sizeof(bytes) ? 0 : -ENOBUFS;
}

int kvx_tcp_connection_read_preamble(struct kvx_tcp_connection *connection)
{
	ssize_t got =
		recv(connection->pollable.fd, connection->preamble + connection->preamble_bytes,
		     KVX_TCP_PREAMBLE_BYTES - connection->preamble_bytes, MSG_DONTWAIT);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (got == 0)
		return -ECONNRESET;
	connection->preamble_bytes += (uint32_t)got;
	return connection->preamble_bytes == KVX_TCP_PREAMBLE_BYTES;
}

const char *kvx_tcp_reason(int error, char *text, size_t size)
{
	if (error == 0)
		return "closed by the peer";
	const char *known = strerror_r(error, text, size);
	if (known != text)
		strncpy(text, known, size - 1);
	text[size - 1] = 0;
	text[0] = (char)tolower((unsigned char)text[0]);
	return text;
}
