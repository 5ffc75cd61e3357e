/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/uio.h>
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

/* Takes the socket out. */
static int release(struct kvx_tcp_connection *connection)
{
	int fd = connection->pollable.fd;

	if (connection->events)
		kvx_poller_remove(connection->transport->context->poller, &connection->pollable);
	connection->events = 0;
	connection->pollable.fd = -1;
	return fd;
}

void kvx_tcp_connection_move(struct kvx_tcp_connection *to, struct kvx_tcp_connection *from)
{
	kvx_tcp_connection_adopt(to, release(from));
	to->tls = from->tls;
	from->tls = NULL;
}

void kvx_tcp_connection_close(struct kvx_tcp_connection *connection)
{
	int fd = release(connection);

	kvx_tcp_connection_unveil(connection);
	if (fd >= 0)
		close(fd);
}

bool kvx_tcp_connection_secure(struct kvx_tcp_connection *connection, bool server)
{
	struct kvx_keyring *keyring = connection->transport->context->keyring;

	if (keyring)
		connection->tls = kvx_tls_new(keyring, connection->pollable.fd, server);
	return !keyring || connection->tls;
}

int kvx_tcp_connection_shake_hands(struct kvx_tcp_connection *connection)
{
	int done = connection->tls ? kvx_tls_shake_hands(connection->tls) : 1;

	if (!done)
		kvx_tcp_connection_want(connection,
					kvx_tls_wants_room(connection->tls) ? EPOLLOUT : EPOLLIN);
	return done;
}

void kvx_tcp_connection_unveil(struct kvx_tcp_connection *connection)
{
	kvx_tls_free(connection->tls);
	connection->tls = NULL;
}

ssize_t kvx_tcp_connection_send(void *connection, const void *bytes, size_t size)
{
	struct kvx_tcp_connection *own = connection;

	return own->tls ? kvx_tls_send(own->tls, bytes, size)
			: send(own->pollable.fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

ssize_t kvx_tcp_connection_receive(struct kvx_tcp_connection *connection, void *bytes, size_t size)
{
	return connection->tls ? kvx_tls_receive(connection->tls, bytes, size)
			       : recv(connection->pollable.fd, bytes, size, MSG_DONTWAIT);
}

ssize_t kvx_tcp_connection_send_parts(struct kvx_tcp_connection *connection, struct iovec *parts,
				      size_t count)
{
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};

	return connection->tls
		       ? kvx_tls_send_parts(connection->tls, parts, count)
		       : sendmsg(connection->pollable.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

ssize_t kvx_tcp_connection_receive_parts(struct kvx_tcp_connection *connection, struct iovec *parts,
					 int count)
{
	return connection->tls ? kvx_tls_receive_parts(connection->tls, parts, (size_t)count)
			       : readv(connection->pollable.fd, parts, count);
}

int kvx_tcp_connection_greet(struct kvx_tcp_connection *connection,
			     const struct kvx_tcp_preamble *preamble)
{
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];

	kvx_tcp_preamble_encode(preamble, bytes);
	/* An empty socket buffer has room for so little. */
	ssize_t sent = kvx_tcp_connection_send(connection, bytes, sizeof(bytes));
	if (sent < 0)
		return -errno;
	return sent == (ssize_t)sizeof(bytes) && kvx_tcp_connection_is_flushed(connection)
		       ? 0
		       : -ENOBUFS;
}

int kvx_tcp_connection_read_preamble(struct kvx_tcp_connection *connection)
{
	ssize_t got = kvx_tcp_connection_receive(
		connection, connection->preamble + connection->preamble_bytes,
		KVX_TCP_PREAMBLE_BYTES - connection->preamble_bytes);

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
