/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs.h"

#include "base/error.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 255u

/* A port's GID table, and the addresses of this host's interfaces. */
struct gids {
	struct ibv_gid_entry *entries; /* of all the device's ports */
	struct kvx_verbs_gid *rows;    /* of the port */
	uint32_t count;
	struct ifaddrs *addresses;
};

void kvx_verbs_port_name(const struct kvx_verbs_port *port, char *text, size_t size)
{
	snprintf(text, size, "%s port %u", port->device->name, port->number);
}

/* Codes of InfiniBand's PortInfo, a bit each; 0: not known. */
static uint32_t speed_mbps(const struct ibv_port_attr *attr)
{
	static const uint32_t lane_mbps[8] = {2500,  5000,  10000, 10000,
					      14000, 25000, 50000, 100000};
	static const uint32_t lanes[8] = {1, 4, 8, 12, 2};

	if (!attr->active_speed || !attr->active_width)
		return 0;
	return lane_mbps[__builtin_ctz(attr->active_speed)] *
	       lanes[__builtin_ctz(attr->active_width)];
}

static uint8_t mtu_of(const struct kvx_options *options, const struct ibv_port_attr *attr)
{
	unsigned long bytes = strtoul(options->verbs_mtu, NULL, 10); /* auto: 0 */

	for (uint8_t code = IBV_MTU_256; code < attr->active_mtu; code++)
		if (bytes == 128ul << code)
			return code;
	return (uint8_t)attr->active_mtu;
}

static void take_attributes(struct kvx_verbs_port *port, const struct ibv_port_attr *attr)
{
	bool ethernet = attr->link_layer == IBV_LINK_LAYER_ETHERNET;

	port->link_layer = ethernet ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND;
	port->lid = attr->lid;
	port->mtu = mtu_of(port->device->transport->context->options, attr);
	port->speed_mbps = speed_mbps(attr);
	port->up = attr->state == IBV_PORT_ACTIVE;
}

static bool holds(const struct ifaddrs *address, const union ibv_gid *gid)
{
	const struct sockaddr *socket = address->ifa_addr;

	if (!socket)
		return false;
	if (socket->sa_family == AF_INET6)
		return memcmp(gid->raw,
			      &((const struct sockaddr_in6 *)(const void *)socket)->sin6_addr,
			      16) == 0;
	return socket->sa_family == AF_INET &&
	       IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)gid->raw) &&
	       memcmp(gid->raw + 12, &((const struct sockaddr_in *)(const void *)socket)->sin_addr,
		      4) == 0;
}

/* The interface's address that the GID was made from; NULL: it has none such. */
static const struct ifaddrs *find_address(const struct ifaddrs *addresses, const char *interface,
					  const union ibv_gid *gid)
{
	for (; addresses; addresses = addresses->ifa_next)
		if (strcmp(addresses->ifa_name, interface) == 0 && holds(addresses, gid))
			return addresses;
	return NULL;
}

static uint8_t prefix_of(const struct ifaddrs *address)
{
	const uint8_t *mask;
	size_t bytes;
	uint8_t bits = 0;

	if (!address || !address->ifa_netmask)
		return 0;
	if (address->ifa_addr->sa_family == AF_INET) {
		mask = (const uint8_t *)&(
			       (const struct sockaddr_in *)(const void *)address->ifa_netmask)
			       ->sin_addr;
		bytes = sizeof(struct in_addr);
	} else {
		mask = (const uint8_t *)&(
			       (const struct sockaddr_in6 *)(const void *)address->ifa_netmask)
			       ->sin6_addr;
		bytes = sizeof(struct in6_addr);
	}
	for (size_t i = 0; i < bytes; i++)
		bits = (uint8_t)(bits + __builtin_popcount(mask[i]));
	return bits;
}

static void name_interface(uint32_t index, char name[IF_NAMESIZE])
{
	if (!index || !if_indextoname(index, name))
		name[0] = 0;
}

/* A GID with a higher index does not fit a path. */
static void take_gid(struct gids *gids, const struct ibv_gid_entry *entry)
{
	char interface[IF_NAMESIZE];

	if (entry->gid_index > UINT8_MAX)
		return;
	name_interface(entry->ndev_ifindex, interface);
	gids->rows[gids->count++] = (struct kvx_verbs_gid){
		.index = entry->gid_index,
		.type = entry->gid_type == IBV_GID_TYPE_ROCE_V2   ? KVX_VERBS_GID_ROCE_V2
			: entry->gid_type == IBV_GID_TYPE_ROCE_V1 ? KVX_VERBS_GID_ROCE_V1
								  : KVX_VERBS_GID_IB,
		.gid = entry->gid,
		.interface = entry->ndev_ifindex,
		.own = find_address(gids->addresses, interface, &entry->gid),
	};
}

static void gids_finish(struct gids *gids)
{
	if (gids->addresses)
		freeifaddrs(gids->addresses);
	free(gids->rows);
	free(gids->entries);
}

static int gids_read(struct gids *gids, const struct kvx_verbs_port *port)
{
	const struct kvx_verbs_device *device = port->device;

	*gids = (struct gids){
		.entries = calloc(device->gid_room + 1, sizeof(*gids->entries)),
		.rows = calloc(device->gid_room + 1, sizeof(*gids->rows)),
	};
	if (!gids->entries || !gids->rows) {
		gids_finish(gids);
		return kvx_fail(KVX_E_MEMORY, "%s port %u: no memory for its GID table",
				device->name, port->number);
	}
	/* Without them all is well, but no address is known to be in use. */
	if (getifaddrs(&gids->addresses) < 0)
		gids->addresses = NULL;
	ssize_t count =
		ibv_query_gid_table(device->context, gids->entries, device->gid_room + 1, 0);
	if (count < 0) {
		gids_finish(gids);
		return kvx_fail(KVX_E_UNSUPPORTED, "%s port %u: its GID table cannot be read: %s",
				device->name, port->number, strerror((int)-count));
	}
	for (ssize_t i = 0; i < count; i++)
		if (gids->entries[i].port_num == port->number)
			take_gid(gids, &gids->entries[i]);
	return 0;
}

static void take_choice(struct kvx_verbs_port *port, const struct gids *gids,
			const struct kvx_verbs_gid *chosen, const char *reason)
{
	static const char *const types[] = {
		[KVX_VERBS_GID_IB] = "InfiniBand",
		[KVX_VERBS_GID_ROCE_V1] = "RoCE v1",
		[KVX_VERBS_GID_ROCE_V2] = "RoCE v2",
	};
	char address[INET6_ADDRSTRLEN];

	port->gid = chosen->gid;
	port->gid_index = (uint8_t)chosen->index;
	name_interface(chosen->interface, port->interface);
	port->prefix_bits = prefix_of(find_address(gids->addresses, port->interface, &chosen->gid));
	kvx_verbs_gid_format(&chosen->gid, address, sizeof(address));
	snprintf(port->why, sizeof(port->why), "gid %u, %s, %s%s%s: %.68s", chosen->index,
		 types[chosen->type], address, port->interface[0] ? " of " : "", port->interface,
		 reason);
}

int kvx_verbs_port_choose_gid(struct kvx_verbs_port *port)
{
	const char *option = port->device->transport->context->options->verbs_gid_index;
	int wanted = strcmp(option, "auto") == 0 ? -1 : (int)strtoul(option, NULL, 10);
	char reason[TEXT_MAX + 1];
	struct gids gids;
	int error = gids_read(&gids, port);

	if (error)
		return error;
	int chosen = kvx_verbs_gid_choose(gids.rows, gids.count, wanted, reason, sizeof(reason));
	if (chosen >= 0)
		take_choice(port, &gids, &gids.rows[chosen], reason);
	else
		error = kvx_fail(wanted < 0 ? KVX_E_UNSUPPORTED : KVX_E_INVALID, "%s port %u: %s%s",
				 port->device->name, port->number,
				 wanted < 0 ? "" : "option verbs_gid_index: ", reason);
	gids_finish(&gids);
	return error;
}

int kvx_verbs_port_open(struct kvx_verbs_port *port)
{
	const struct kvx_verbs_device *device = port->device;
	uint64_t pkey = device->transport->context->options->verbs_pkey_index;
	struct ibv_port_attr attr;
	int error = ibv_query_port(device->context, port->number, &attr);

	if (error)
		return kvx_fail(KVX_E_UNSUPPORTED, "%s port %u: cannot be looked at: %s",
				device->name, port->number, strerror(error));
	if (pkey >= attr.pkey_tbl_len)
		return kvx_fail(KVX_E_INVALID,
				"%s port %u: option verbs_pkey_index: there is no partition key "
				"%llu; there are %u",
				device->name, port->number, (unsigned long long)pkey,
				attr.pkey_tbl_len);
	take_attributes(port, &attr);
	return kvx_verbs_port_choose_gid(port);
}

/* Most events leave the GID alone: then the table is not read. */
static bool has_gid(const struct kvx_verbs_port *port)
{
	struct ibv_gid_entry entry;

	return ibv_query_gid_ex(port->device->context, port->number, port->gid_index, &entry, 0) ==
		       0 &&
	       memcmp(&entry.gid, &port->gid, sizeof(entry.gid)) == 0;
}

bool kvx_verbs_port_refresh(struct kvx_verbs_port *port)
{
	struct ibv_port_attr attr;

	if (port->device->dead || ibv_query_port(port->device->context, port->number, &attr) != 0) {
		port->up = false;
		return false;
	}
	take_attributes(port, &attr);
	if (!has_gid(port) && kvx_verbs_port_choose_gid(port) != 0) {
		kvx_log_write(port->device->transport->context->log, KVX_LOG_WARNING, "%s",
			      kvx_error_text());
		port->up = false;
	}
	return port->up;
}
