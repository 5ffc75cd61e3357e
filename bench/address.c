/* SPDX-License-Identifier: Apache-2.0 */
#include "address.h"

#include "clock.h"
#include "failure.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 8
#define REFUSED_NS_MAX (10 * NS_PER_S) /* who was started with this end listens by then */
#define AGAIN_NS (50 * NS_PER_MS)

static int split(const char *text, char *host, size_t size, const char **port)
{
	const char *colon = strrchr(text, ':');
	bool is_bracketed = text[0] == '[' && colon && colon > text + 1 && colon[-1] == ']';
	size_t length = colon ? (size_t)(colon - text) : 0;

	if (!length || !colon[1] || (!is_bracketed && memchr(text, ':', length)))
		return kvx_failure_set(
			"address: \"%.100s\" is not HOST:PORT; IPv6 goes in brackets", text);
	text += is_bracketed;
	length -= is_bracketed ? 2 : 0;
	if (length >= size)
		return kvx_failure_set("address: the host's name is too long");
	memcpy(host, text, length);
	host[length] = 0;
	*port = colon + 1;
	return 0;
}

int kvx_address_host(const char *text, char *host, size_t size)
{
	const char *port;

	return split(text, host, size, &port);
}

static struct addrinfo *look_up(const char *text, int flags)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
	struct addrinfo *found;
	const char *port = NULL;
	char host[256];

	if (split(text, host, sizeof(host), &port))
		return NULL;
	int error = getaddrinfo(host, port, &hints, &found);
	if (!error)
		return found;
	kvx_failure_set("address %s: %s", text, gai_strerror(error));
	return NULL;
}

/* To the first that takes it. -1: errno of the last. */
static int connect_to_any(const struct addrinfo *found)
{
	for (const struct addrinfo *at = found; at; at = at->ai_next) {
		int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, 0);
		if (fd < 0)
			continue;
		if (connect(fd, at->ai_addr, at->ai_addrlen) == 0)
			return fd;
		int error = errno;
		close(fd);
		errno = error;
	}
	return -1;
}

int kvx_address_connect(const char *text)
{
	int64_t deadline_ns = clock_now_ns() + REFUSED_NS_MAX;
	struct addrinfo *found = look_up(text, 0);
	int fd;

	if (!found)
		return -1;
	while ((fd = connect_to_any(found)) < 0 && errno == ECONNREFUSED &&
	       clock_now_ns() < deadline_ns)
		clock_sleep_until(clock_now_ns() + AGAIN_NS);
	if (fd < 0)
		kvx_failure_set("peer %s: cannot connect: %s; is kvxfer-bench serve running there?",
				text, strerror(errno));
	freeaddrinfo(found);
	return fd;
}

static bool is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *four = (const struct sockaddr_in *)address;
		return ntohl(four->sin_addr.s_addr) >> 24 == 127;
	}
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;
	return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

int kvx_address_listen(const char *text, int is_network_allowed)
{
	struct addrinfo *at = look_up(text, AI_PASSIVE);
	const int on = 1;

	if (!at)
		return -1;
	if (!is_loopback(at->ai_addr) && !is_network_allowed) {
		freeaddrinfo(at);
		return kvx_failure_set("listen %s: beyond loopback anybody who reaches the port "
				       "could use it; --unauthenticated-network allows that",
				       text);
	}
	int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, at->ai_addr, at->ai_addrlen) || listen(fd, BACKLOG)) {
		kvx_failure_set("listen %s: %s", text, strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(at);
	return fd;
}

int kvx_address_free_port(uint16_t *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    getsockname(fd, (struct sockaddr *)&address, &length)) {
		kvx_failure_set("address: no free port: %s", strerror(errno));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	close(fd);
	*port = ntohs(address.sin_port);
	return 0;
}
