/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses of tcp: "HOST:PORT", with an IPv6 address in brackets. */
#ifndef KVX_TCP_ADDRESS_H
#define KVX_TCP_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct kvx_tcp_address {
	struct sockaddr_storage socket;
	socklen_t length; /* bytes of socket */
};

/* Parses and resolves. numeric: takes no host name, and so never blocks. A name that has addresses
 * of both kinds gives an IPv4 one, at the listening and at the connecting side alike. Fails with
 * KVX_E_INVALID. */
int kvx_tcp_address_parse(const char *text, bool numeric, struct kvx_tcp_address *address);

/* "127.0.0.1:4711", "[::1]:4711". Cut short where size does not do; KVX_ADDRESS_MAX + 1 does. */
void kvx_tcp_address_format(const struct kvx_tcp_address *address, char *text, size_t size);

bool kvx_tcp_address_is_loopback(const struct kvx_tcp_address *address);
bool kvx_tcp_address_is_wildcard(const struct kvx_tcp_address *address);
uint16_t kvx_tcp_address_port(const struct kvx_tcp_address *address);

/* The operation of the seam: numbers in place of names. */
int kvx_tcp_address_resolve(const char *address, char *resolved, size_t size);

#endif
