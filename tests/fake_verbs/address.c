/* SPDX-License-Identifier: Apache-2.0 */
/* GIDs, pkeys, and which port they lead to. */
#include "internal.h"

#include <string.h>

#define LOOPBACK_INTERFACE 1
#define PKEY_DEFAULT 0xffff

/* As sysfs tells it: v1 stands for InfiniBand's own too. */
enum gid_type_sysfs { GID_TYPE_IB_ROCE_V1, GID_TYPE_ROCE_V2 };

int ibv_query_gid_type(struct ibv_context *context, uint8_t port, unsigned index,
		       enum gid_type_sysfs *type);

static struct fake_gid *find_gid(struct ibv_context *context, uint32_t number, uint32_t index)
{
	struct fake_context *own = fake_context(context);

	if (number < 1 || number > own->device->ports ||
	    index >= own->device->port[number - 1].gid_count) {
		errno = EINVAL;
		return NULL;
	}
	return &own->device->port[number - 1].gids[index];
}

EXPORT int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	struct fake_gid *found = find_gid(context, port, (uint32_t)index);

	if (!found)
		return -1;
	*gid = found->gid;
	return 0;
}

EXPORT int ibv_query_gid_type(struct ibv_context *context, uint8_t port, unsigned index,
			      enum gid_type_sysfs *type)
{
	struct fake_gid *found = find_gid(context, port, index);

	if (!found)
		return -1;
	*type = found->type == IBV_GID_TYPE_ROCE_V2 ? GID_TYPE_ROCE_V2 : GID_TYPE_IB_ROCE_V1;
	return 0;
}

EXPORT int _ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index,
			     struct ibv_gid_entry *entry, uint32_t flags, size_t size)
{
	struct fake_gid *found = find_gid(context, port, index);

	if (!found || flags || size != sizeof(*entry))
		return EINVAL;
	*entry = (struct ibv_gid_entry){
		.gid = found->gid,
		.gid_index = index,
		.port_num = port,
		.gid_type = found->type,
		.ndev_ifindex = found->type == IBV_GID_TYPE_IB ? 0 : LOOPBACK_INTERFACE,
	};
	return 0;
}

EXPORT ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries,
				    size_t max, uint32_t flags, size_t size)
{
	size_t count = 0;

	for (uint32_t port = 1; port <= fake_context(context)->device->ports; port++)
		for (uint32_t index = 0;
		     index < fake_context(context)->device->port[port - 1].gid_count; index++) {
			if (count == max ||
			    _ibv_query_gid_ex(context, port, index, &entries[count], flags, size))
				return -EINVAL;
			count++;
		}
	return (ssize_t)count;
}

EXPORT int ibv_query_pkey(__attribute__((unused)) struct ibv_context *context,
			  __attribute__((unused)) uint8_t port, int index, __be16 *pkey)
{
	if (index != 0) {
		errno = EINVAL;
		return -1;
	}
	*pkey = PKEY_DEFAULT;
	return 0;
}

EXPORT int ibv_get_pkey_index(__attribute__((unused)) struct ibv_context *context,
			      __attribute__((unused)) uint8_t port, __be16 pkey)
{
	return pkey == PKEY_DEFAULT ? 0 : -1;
}

static bool leads_to(const struct ibv_ah_attr *ah, const struct fake_port *port)
{
	if (!ah->is_global)
		return ah->dlid == port->lid;
	for (unsigned i = 0; i < port->gid_count; i++)
		if (memcmp(&ah->grh.dgid, &port->gids[i].gid, sizeof(union ibv_gid)) == 0)
			return true;
	return false;
}

struct fake_port *fake_route(const struct ibv_ah_attr *ah, bool roce, struct fake_device **device)
{
	for (unsigned i = 0; i < fake_device_count; i++)
		for (unsigned n = 0; n < fake_devices[i].ports; n++)
			if (fake_devices[i].roce == roce &&
			    leads_to(ah, &fake_devices[i].port[n])) {
				*device = &fake_devices[i];
				return &fake_devices[i].port[n];
			}
	return NULL;
}
