/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/source.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

/* Clears the host's bits of an address and returns how many bits the network has. */
static unsigned apply_mask(uint8_t *address, const uint8_t *mask, size_t bytes)
{
	unsigned bits = 0;

	for (size_t i = 0; i < bytes; i++) {
		address[i] &= mask[i];
		bits += (unsigned)__builtin_popcount(mask[i]);
	}
	return bits;
}

/* "10.1.0.0/24"; "" for what reaches no other machine. */
static void print_subnet(const struct ifaddrs *entry, char *text, size_t size)
{
	char shown[INET6_ADDRSTRLEN];
	int family = entry->ifa_addr->sa_family;
	unsigned bits = 0;
	/* Copies, since the addresses of the list are not ours to change. */
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;

	text[0] = 0;
	if (family == AF_INET) {
		memcpy(&v4, entry->ifa_addr, sizeof(v4));
		const struct sockaddr_in *mask = (const void *)entry->ifa_netmask;
		bits = apply_mask((uint8_t *)&v4.sin_addr, (const uint8_t *)&mask->sin_addr,
				  sizeof(v4.sin_addr));
		inet_ntop(AF_INET, &v4.sin_addr, shown, sizeof(shown));
	} else {
		memcpy(&v6, entry->ifa_addr, sizeof(v6));
		const struct sockaddr_in6 *mask = (const void *)entry->ifa_netmask;
		if (IN6_IS_ADDR_LINKLOCAL(&v6.sin6_addr))
			return;
		bits = apply_mask((uint8_t *)&v6.sin6_addr, (const uint8_t *)&mask->sin6_addr,
				  sizeof(v6.sin6_addr));
		inet_ntop(AF_INET6, &v6.sin6_addr, shown, sizeof(shown));
	}
	snprintf(text, size, "%s/%u", shown, bits);
}

static bool is_of(const struct ifaddrs *entry, const struct kvx_topology_port *port, int family)
{
	return entry->ifa_addr && entry->ifa_netmask && entry->ifa_addr->sa_family == family &&
	       !(entry->ifa_flags & IFF_LOOPBACK) && strcmp(entry->ifa_name, port->interface) == 0;
}

static void find_subnet(struct kvx_topology_port *port, const struct ifaddrs *list, int family)
{
	for (; list && !port->fabric[0]; list = list->ifa_next)
		if (is_of(list, port, family))
			print_subnet(list, port->fabric, sizeof(port->fabric));
}

void kvx_subnets_find(struct kvx_machine *machine)
{
	struct ifaddrs *list;

	if (getifaddrs(&list))
		return; /* fabrics stay unknown, which every rail can live with */
	for (uint32_t i = 0; i < machine->port_count; i++) {
		struct kvx_topology_port *port = &machine->ports[i].shown;
		if (port->link != KVX_LINK_ETHERNET || port->fitness != KVX_PORT_FIT)
			continue;
		/* RoCE prefers IPv4. */
		find_subnet(port, list, AF_INET);
		find_subnet(port, list, AF_INET6);
	}
	freeifaddrs(list);
}
