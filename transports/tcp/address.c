/* SPDX-License-Identifier: Apache-2.0 */
#include "address.h"

#include "../transport.h"
#include "base/error.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

struct parts {
	char host[KVX_ADDRESS_MAX + 1];
	char port[6];
};

static bool is_port(const char *text)
{
	uint32_t port = 0;

	if (!text[0] || strlen(text) > 5)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		port = port * 10 + (uint32_t)(*text - '0');
	}
	return port <= UINT16_MAX;
}

/* A bare IPv6 address without brackets is refused: its last group would be taken for a port. */
static bool split(const char *text, struct parts *parts)
{
	bool bracketed = text[0] == '[';
	const char *begin = text + bracketed;
	const char *end = bracketed ? strchr(begin, ']') : strchr(begin, ':');

	if (!end || end == begin || (size_t)(end - begin) >= sizeof(parts->host))
		return false;
	const char *colon = end + bracketed;
	if (*colon != ':' || !is_port(colon + 1))
		return false;
	memcpy(parts->host, begin, (size_t)(end - begin));
	parts->host[end - begin] = 0;
	strcpy(parts->port, colon + 1);
	return true;
}

static const struct addrinfo *preferred(const struct addrinfo *found)
{
	for (const struct addrinfo *each = found; each; each = each->ai_next)
		if (each->ai_family == AF_INET)
			return each;
	return found;
}

int kvx_tcp_address_parse(const char *text, bool numeric, struct kvx_tcp_address *address)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				 .ai_flags = AI_NUMERICSERV | (numeric ? AI_NUMERICHOST : 0)};
	struct addrinfo *found;
	struct parts parts;

	if (!split(text, &parts))
		return kvx_fail(KVX_E_INVALID,
				"tcp: address \"%.64s\": not HOST:PORT; write 192.0.2.1:4711, "
				"[2001:db8::1]:4711 or name:4711",
				text);
	int error = getaddrinfo(parts.host, parts.port, &hints, &found);
	if (error)
		return kvx_fail(KVX_E_INVALID, "tcp: address \"%.64s\": %s; %s", text,
				gai_strerror(error),
				numeric ? "use an IP address" : "check the host's name");
	const struct addrinfo *chosen = preferred(found);
	memcpy(&address->socket, chosen->ai_addr, chosen->ai_addrlen);
	address->length = chosen->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

void kvx_tcp_address_format(const struct kvx_tcp_address *address, char *text, size_t size)
{
	char host[KVX_ADDRESS_MAX - 8] = "?";
	const char *form = address->socket.ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u";

	getnameinfo((const struct sockaddr *)&address->socket, address->length, host, sizeof(host),
		    NULL, 0, NI_NUMERICHOST);
	snprintf(text, size, form, host, kvx_tcp_address_port(address));
}

bool kvx_tcp_address_is_loopback(const struct kvx_tcp_address *address)
{
	const struct sockaddr_in *v4 = (const void *)&address->socket;
	const struct sockaddr_in6 *v6 = (const void *)&address->socket;

	if (address->socket.ss_family == AF_INET)
		return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ||
	       (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) &&
		v6->sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
}

bool kvx_tcp_address_is_wildcard(const struct kvx_tcp_address *address)
{
	const struct sockaddr_in *v4 = (const void *)&address->socket;
	const struct sockaddr_in6 *v6 = (const void *)&address->socket;

	if (address->socket.ss_family == AF_INET)
		return v4->sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
}

uint16_t kvx_tcp_address_port(const struct kvx_tcp_address *address)
{
	const struct sockaddr_in *v4 = (const void *)&address->socket;
	const struct sockaddr_in6 *v6 = (const void *)&address->socket;

	return ntohs(address->socket.ss_family == AF_INET ? v4->sin_port : v6->sin6_port);
}

int kvx_tcp_address_resolve(const char *address, char *resolved, size_t size)
{
	char text[KVX_ADDRESS_MAX + 1];
	struct kvx_tcp_address parsed;
	int error = kvx_tcp_address_parse(address, false, &parsed);

	if (error)
		return error;
	if (kvx_tcp_address_port(&parsed) == 0)
		return kvx_fail(KVX_E_INVALID, "tcp: address \"%.64s\": port 0 cannot be reached",
				address);
	kvx_tcp_address_format(&parsed, text, sizeof(text));
	if (strlen(text) >= size)
		return kvx_fail(KVX_E_INVALID, "tcp: address \"%.64s\": longer than %zu characters",
				address, size - 1);
	strcpy(resolved, text);
	return 0;
}
