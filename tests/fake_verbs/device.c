/* SPDX-License-Identifier: Apache-2.0 */
#include "internal.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES_MAX 16
#define MESSAGE_BYTES_MAX (1u << 30)
/* Codes of InfiniBand's PortInfo. */
#define WIDTH_4X 2
#define PHYSICAL_POLLING 2
#define PHYSICAL_LINK_UP 5

struct fake_device fake_devices[DEVICES_MAX];
unsigned fake_device_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* --- the list of devices --- */

static void fill_gid(struct fake_gid *gid, const struct fake_device *device, unsigned port,
		     char family, enum ibv_gid_type type)
{
	uint8_t *raw = gid->gid.raw;

	gid->type = type;
	switch (family) {
	case 'l':
		memcpy(raw, (uint8_t[16]){0xfe, 0x80, [8] = 0, 0xfa, 0xce, 0xff, 0xfe}, 16);
		break;
	case '4':
		memcpy(raw, (uint8_t[16]){[10] = 0xff, 0xff, 10, 200}, 16);
		break;
	case '6':
		memcpy(raw, (uint8_t[16]){0x20, 0x01, 0x0d, 0xb8}, 16);
		break;
	default:
		fake_die("%s: GIDs are l, 4 or 6, not %c", device->ibv.name, family);
	}
	raw[14] = (uint8_t)(device->index + 1);
	raw[15] = (uint8_t)port;
}

static void fill_port(struct fake_device *device, unsigned number, const char *gids)
{
	struct fake_port *port = &device->port[number - 1];

	port->up = true;
	if (!device->roce) {
		port->lid = (uint16_t)(device->index * PORTS_MAX + number);
		fill_gid(&port->gids[port->gid_count++], device, number, 'l', IBV_GID_TYPE_IB);
		return;
	}
	for (; *gids; gids++) {
		if (port->gid_count + 2 > GIDS_MAX)
			fake_die("%s: too many GIDs", device->ibv.name);
		fill_gid(&port->gids[port->gid_count++], device, number, *gids,
			 IBV_GID_TYPE_ROCE_V1);
		fill_gid(&port->gids[port->gid_count++], device, number, *gids,
			 IBV_GID_TYPE_ROCE_V2);
	}
}

static void fill_device(struct fake_device *device, char *text)
{
	char *rest, *name = strtok_r(text, ":", &rest), *layer = strtok_r(NULL, ":", &rest);
	char *gbps = strtok_r(NULL, ":", &rest), *ports = strtok_r(NULL, ":", &rest);
	char *gids = strtok_r(NULL, ":", &rest);
	const char *sysfs = getenv("FAKE_VERBS_SYSFS");

	if (!name || !layer || !gbps)
		fake_die("FAKE_VERBS_DEVICES: NAME:LAYER:GBPS[:PORTS[:GIDS]]");
	device->index = fake_device_count;
	device->roce = strcmp(layer, "ROCE") == 0;
	device->gbps = (unsigned)strtoul(gbps, NULL, 10);
	device->ports = ports ? (unsigned)strtoul(ports, NULL, 10) : 1;
	if (device->ports < 1 || device->ports > PORTS_MAX)
		fake_die("%s: 1 to %d ports", name, PORTS_MAX);
	device->ibv.node_type = IBV_NODE_CA;
	device->ibv.transport_type = IBV_TRANSPORT_IB;
	snprintf(device->ibv.name, sizeof(device->ibv.name), "%s", name);
	snprintf(device->ibv.dev_name, sizeof(device->ibv.dev_name), "uverbs%u", device->index);
	snprintf(device->ibv.dev_path, sizeof(device->ibv.dev_path),
		 "%s/class/infiniband_verbs/uverbs%u", sysfs ? sysfs : "/sys", device->index);
	snprintf(device->ibv.ibdev_path, sizeof(device->ibv.ibdev_path), "%s/class/infiniband/%s",
		 sysfs ? sysfs : "/sys", name);
	kvx_list_init(&device->contexts);
	kvx_list_init(&device->mrs);
	kvx_list_init(&device->qps);
	for (unsigned number = 1; number <= device->ports; number++)
		fill_port(device, number, gids ? gids : "l4");
}

static void fill_devices(void)
{
	const char *environment = getenv("FAKE_VERBS_DEVICES");
	char *text = strdup(environment ? environment : "fake0:ROCE:100,fake1:ROCE:100"), *rest;

	if (!text)
		fake_die("no memory");
	for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
		if (fake_device_count == DEVICES_MAX)
			fake_die("FAKE_VERBS_DEVICES: at most %d", DEVICES_MAX);
		fill_device(&fake_devices[fake_device_count], one);
		fake_device_count++;
	}
	free(text);
}

struct fake_device *fake_device_find(const char *name)
{
	pthread_once(&once, fill_devices);
	for (unsigned i = 0; i < fake_device_count; i++)
		if (strcmp(fake_devices[i].ibv.name, name) == 0)
			return &fake_devices[i];
	fake_die("no device %s", name);
}

EXPORT struct ibv_device **ibv_get_device_list(int *count)
{
	struct ibv_device **list;

	pthread_once(&once, fill_devices);
	list = calloc(fake_device_count + 1, sizeof(struct ibv_device *));
	for (unsigned i = 0; list && i < fake_device_count; i++)
		list[i] = &fake_devices[i].ibv;
	if (count)
		*count = list ? (int)fake_device_count : 0;
	return list;
}

EXPORT void ibv_free_device_list(struct ibv_device **list)
{
	free(list);
}

EXPORT const char *ibv_get_device_name(struct ibv_device *device)
{
	return device->name;
}

EXPORT int ibv_get_device_index(struct ibv_device *device)
{
	return (int)((struct fake_device *)device)->index;
}

EXPORT __be64 ibv_get_device_guid(struct ibv_device *device)
{
	return htobe64(UINT64_C(0x00face0000000000) | ((struct fake_device *)device)->index);
}

/* --- an open device --- */

struct fake_context *fake_context(struct ibv_context *context)
{
	return kvx_container_of(verbs_get_ctx(context), struct fake_context, verbs);
}

static enum ibv_mtu mtu_code(uint64_t bytes)
{
	for (int code = IBV_MTU_256; code <= IBV_MTU_4096; code++)
		if (bytes == UINT64_C(128) << code)
			return (enum ibv_mtu)code;
	fake_die("mtu is 256, 512, 1024, 2048 or 4096");
}

/* Gbit/s of a link of width 4X, as active_speed tells it. */
static uint8_t speed_code(unsigned gbps)
{
	static const struct {
		unsigned gbps;
		uint8_t code;
	} speeds[] = {{10, 1}, {20, 2}, {40, 4}, {56, 16}, {100, 32}, {200, 64}, {400, 128}};

	for (size_t i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++)
		if (speeds[i].gbps == gbps)
			return speeds[i].code;
	fake_die("GBPS is 10, 20, 40, 56, 100, 200 or 400, not %u", gbps);
}

static int query_port(struct ibv_context *context, uint8_t number, struct ibv_port_attr *attr,
		      size_t size)
{
	struct fake_device *device = fake_context(context)->device;
	struct ibv_port_attr all = {
		.max_mtu = IBV_MTU_4096,
		.active_mtu = mtu_code(fake_option(FAKE_mtu)),
		.max_msg_sz = MESSAGE_BYTES_MAX,
		.pkey_tbl_len = 1,
		.active_width = WIDTH_4X,
		.active_speed = speed_code(device->gbps),
		.link_layer = device->roce ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND,
	};
	struct fake_port *port;

	if (fake_context(context)->dead)
		return EIO;
	if (number < 1 || number > device->ports)
		return EINVAL;
	port = &device->port[number - 1];
	fake_lock();
	all.state = port->up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
	fake_unlock();
	all.phys_state = all.state == IBV_PORT_ACTIVE ? PHYSICAL_LINK_UP : PHYSICAL_POLLING;
	all.gid_tbl_len = (int)port->gid_count;
	all.lid = port->lid;
	memset(attr, 0, size);
	memcpy(attr, &all, size < sizeof(all) ? size : sizeof(all));
	return 0;
}

/* What programs call that were built against the first versions: the struct ended before flags. */
EXPORT int ibv_query_port(struct ibv_context *context, uint8_t number,
			  struct _compat_ibv_port_attr *attr)
{
	return query_port(context, number, (struct ibv_port_attr *)attr,
			  offsetof(struct ibv_port_attr, flags));
}

EXPORT int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	struct fake_context *own = fake_context(context);
	bool windows = fake_option(FAKE_windows);

	if (own->dead)
		return EIO;
	*attr = (struct ibv_device_attr){
		.fw_ver = "fake",
		.node_guid = ibv_get_device_guid(context->device),
		.sys_image_guid = ibv_get_device_guid(context->device),
		.max_mr_size = fake_option(FAKE_max_mr_size),
		.page_size_cap = 4096,
		.max_qp = (int)fake_option(FAKE_max_qp),
		.max_qp_wr = (int)fake_option(FAKE_max_qp_wr),
		.device_cap_flags =
			IBV_DEVICE_RC_RNR_NAK_GEN | IBV_DEVICE_PORT_ACTIVE_EVENT |
			(windows ? IBV_DEVICE_MEM_WINDOW_TYPE_2B | IBV_DEVICE_MEM_MGT_EXTENSIONS
				 : 0),
		.max_sge = (int)fake_option(FAKE_max_sge),
		.max_sge_rd = (int)fake_option(FAKE_max_sge),
		.max_cq = 65536,
		.max_cqe = (int)fake_option(FAKE_max_cqe),
		.max_mr = 65536,
		.max_pd = 65536,
		.max_qp_rd_atom = (int)fake_option(FAKE_max_rd_atomic),
		.max_qp_init_rd_atom = (int)fake_option(FAKE_max_rd_atomic),
		.max_res_rd_atom =
			(int)(fake_option(FAKE_max_rd_atomic) * fake_option(FAKE_max_qp)),
		.atomic_cap = IBV_ATOMIC_NONE,
		.max_mw = windows ? (int)fake_option(FAKE_max_mw) : 0,
		.max_srq = 65536,
		.max_srq_wr = (int)fake_option(FAKE_max_srq_wr),
		.max_srq_sge = RECEIVE_SGES_MAX,
		.max_pkeys = 1,
		.local_ca_ack_delay = 15,
		.phys_port_cnt = (uint8_t)own->device->ports,
	};
	return 0;
}

static int query_device_ex(struct ibv_context *context,
			   __attribute__((unused)) const struct ibv_query_device_ex_input *input,
			   struct ibv_device_attr_ex *attr, size_t size)
{
	struct ibv_device_attr_ex all = {.phys_port_cnt_ex = fake_context(context)->device->ports};
	int error = ibv_query_device(context, &all.orig_attr);

	if (error)
		return error;
	all.device_cap_flags_ex = all.orig_attr.device_cap_flags;
	memset(attr, 0, size);
	memcpy(attr, &all, size < sizeof(all) ? size : sizeof(all));
	return 0;
}

static void fill_operations(struct verbs_context *verbs)
{
	struct ibv_context_ops *ops = &verbs->context.ops;

	verbs->sz = sizeof(*verbs);
	verbs->query_port = query_port;
	verbs->query_device_ex = query_device_ex;
	verbs->create_qp_ex = fake_create_qp_ex;
	verbs->context.abi_compat = __VERBS_ABI_IS_EXTENDED;
	ops->poll_cq = fake_poll_cq;
	ops->req_notify_cq = fake_req_notify_cq;
	ops->post_srq_recv = fake_post_srq_recv;
	ops->post_send = fake_post_send;
	ops->post_recv = fake_post_recv;
	if (fake_option(FAKE_windows)) {
		ops->alloc_mw = fake_alloc_mw;
		ops->dealloc_mw = fake_dealloc_mw;
	}
}

EXPORT struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	struct fake_context *context = calloc(1, sizeof(*context));

	if (!context)
		return NULL;
	if (!fake_queue_init(&context->async))
		goto fail_queue;
	if (fake_nic_hold())
		goto fail_nic;
	fill_operations(&context->verbs);
	context->device = (struct fake_device *)device;
	context->verbs.context.device = device;
	context->verbs.context.cmd_fd = -1;
	context->verbs.context.async_fd = context->async.fd;
	context->verbs.context.num_comp_vectors = 1;
	pthread_mutex_init(&context->verbs.context.mutex, NULL);
	fake_lock();
	kvx_list_append(&context->device->contexts, &context->entry);
	context->device->counters.contexts++;
	fake_unlock();
	return &context->verbs.context;
fail_nic:
	fake_queue_finish(&context->async);
fail_queue:
	free(context);
	return NULL;
}

EXPORT int ibv_close_device(struct ibv_context *ibv)
{
	struct fake_context *context = fake_context(ibv);

	fake_lock();
	if (context->children) {
		fake_unlock();
		return EBUSY;
	}
	kvx_list_remove(&context->entry);
	context->device->counters.contexts--;
	fake_queue_finish(&context->async);
	fake_unlock();
	fake_nic_release();
	pthread_mutex_destroy(&ibv->mutex);
	free(context);
	return 0;
}
