/* SPDX-License-Identifier: Apache-2.0 */
#include "doctor.h"

#include "base/error.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define REGISTERED_MIN (UINT64_C(64) << 10) /* what does not even take this takes nothing */
#define PORTS_MAX 255u

struct examination {
	struct kvx_transport *transport; /* what port.c looks its options up in */
	void *memory;                    /* KVX_VERBS_TRIED_MAX bytes that nobody has touched */
	const struct kvx_verbs_piece *piece;

	/* What is done with each device. 0, or an error that ends it. */
	int (*visit)(struct examination *examination, struct ibv_device *found);
	void (*take)(void *context, const struct kvx_verbs_exam *exam);
	void (*take_reach)(void *context, const struct kvx_verbs_reach *reach);
	void *context;
	struct kvx_verbs_port_exam *ports; /* PORTS_MAX of one device */
};

/* --------------------------------------------------------------------------------------- ports */

static void examine_gid(struct kvx_verbs_port *port, struct kvx_verbs_port_exam *exam)
{
	struct ibv_gid_entry entry;

	exam->gid_error = kvx_verbs_port_open(port);
	exam->speed_mbps = port->speed_mbps;
	if (exam->gid_error) {
		snprintf(exam->gid, sizeof(exam->gid), "%s", kvx_error_text());
		return;
	}
	snprintf(exam->gid, sizeof(exam->gid), "%s", port->why);
	snprintf(exam->interface, sizeof(exam->interface), "%s", port->interface);
	if (!exam->is_ethernet)
		return;
	exam->is_gid_local = port->gid.raw[0] == 0xfe && (port->gid.raw[1] & 0xc0) == 0x80;
	exam->is_gid_v1 = ibv_query_gid_ex(port->device->context, port->number, port->gid_index,
					   &entry, 0) == 0 &&
			  entry.gid_type == IBV_GID_TYPE_ROCE_V1;
}

static uint32_t count_gids(const struct kvx_verbs_device *device, uint32_t number, int rows)
{
	static const union ibv_gid none;
	struct ibv_gid_entry entry;
	uint32_t count = 0;

	for (int i = 0; i < rows; i++)
		count += ibv_query_gid_ex(device->context, number, (uint32_t)i, &entry, 0) == 0 &&
			 memcmp(&entry.gid, &none, sizeof(none)) != 0;
	return count;
}

static const char *state_text(enum ibv_port_state state)
{
	switch (state) {
	case IBV_PORT_DOWN:
		return "down";
	case IBV_PORT_INIT:
		return "initialized";
	case IBV_PORT_ARMED:
		return "armed";
	case IBV_PORT_ACTIVE:
		return "active";
	default:
		return "in no state that is known";
	}
}

static void examine_port(struct kvx_verbs_device *device, uint32_t number,
			 const struct ibv_port_attr *attr, struct kvx_verbs_port_exam *exam)
{
	struct kvx_verbs_port port = {.device = device, .number = (uint8_t)number};

	*exam = (struct kvx_verbs_port_exam){
		.number = number,
		.is_ethernet = attr->link_layer == IBV_LINK_LAYER_ETHERNET,
		.is_up = attr->state == IBV_PORT_ACTIVE,
		.is_link_up = attr->state > IBV_PORT_DOWN,
		.state = state_text(attr->state),
		.mtu = 128u << attr->active_mtu,
		.mtu_max = 128u << attr->max_mtu,
		.gid_count = count_gids(device, number, attr->gid_tbl_len),
	};
	examine_gid(&port, exam);
}

static uint32_t examine_ports(struct examination *examination, struct kvx_verbs_device *device,
			      uint32_t count)
{
	const struct kvx_options *options = examination->transport->context->options;
	struct ibv_port_attr attr;
	uint32_t looked_at = 0;

	for (uint32_t number = 1; number <= count; number++)
		if (ibv_query_port(device->context, (uint8_t)number, &attr) == 0)
			device->gid_room += (uint32_t)attr.gid_tbl_len;
	for (uint32_t number = 1; number <= count; number++)
		if (kvx_verbs_is_selected(options, device->name, number) &&
		    ibv_query_port(device->context, (uint8_t)number, &attr) == 0)
			examine_port(device, number, &attr, &examination->ports[looked_at++]);
	return looked_at;
}

/* -------------------------------------------------------------------------------- registration */

/* errno, or 0. */
static int try_register(struct ibv_pd *pd, void *memory, uint64_t bytes, unsigned access)
{
	struct ibv_mr *mr = ibv_reg_mr(pd, memory, bytes, access);

	if (!mr)
		return errno;
	ibv_dereg_mr(mr);
	return 0;
}

/* A descriptor that is none: a driver that takes dma-bufs says so, others that they do not. */
static int try_dmabuf(struct ibv_pd *pd, const void *memory)
{
	struct ibv_mr *mr = ibv_reg_dmabuf_mr(pd, 0, REGISTERED_MIN, (uintptr_t)memory, -1,
					      IBV_ACCESS_LOCAL_WRITE);

	if (!mr)
		return errno;
	ibv_dereg_mr(mr);
	return 0;
}

static void examine_memory(const struct examination *examination, struct ibv_pd *pd,
			   struct kvx_verbs_exam *exam)
{
	const unsigned access =
		IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;

	for (uint64_t bytes = KVX_VERBS_TRIED_MAX; bytes >= REGISTERED_MIN; bytes /= 2) {
		int error = try_register(pd, examination->memory, bytes, access);
		if (!error) {
			exam->registered = bytes;
			break;
		}
		exam->register_error = error;
	}
	exam->relaxed_error = try_register(pd, examination->memory, REGISTERED_MIN,
					   access | IBV_ACCESS_RELAXED_ORDERING);
	exam->dmabuf_error = try_dmabuf(pd, examination->memory);
}

/* ------------------------------------------------------------------------------------- devices */

static bool has_windows(const struct ibv_device_attr *attr)
{
	return attr->max_mw > 0 && (attr->device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B);
}

static int examine_open(struct examination *examination, struct kvx_verbs_device *device,
			struct kvx_verbs_exam *exam)
{
	struct ibv_device_attr attr;
	int error = ibv_query_device(device->context, &attr);

	if (error) {
		exam->open_error = error;
		return 0;
	}
	error = kvx_verbs_selection_check_ports(examination->transport->context->options,
						device->name, attr.phys_port_cnt);
	if (error)
		return error;
	exam->has_windows = has_windows(&attr);
	exam->port_count = examine_ports(examination, device, attr.phys_port_cnt);
	exam->ports = examination->ports;
	struct ibv_pd *pd = ibv_alloc_pd(device->context);
	if (!pd) {
		exam->open_error = errno;
		return 0;
	}
	examine_memory(examination, pd, exam);
	ibv_dealloc_pd(pd);
	return 0;
}

/* NULL: it is not. */
static const char *why_left_out(const struct ibv_device *found)
{
	if (found->transport_type == IBV_TRANSPORT_IWARP)
		return "iWARP is not supported";
	return found->node_type == IBV_NODE_CA ? NULL : "neither InfiniBand nor RoCE";
}

static int examine_device(struct examination *examination, struct ibv_device *found)
{
	struct kvx_verbs_exam exam = {.name = ibv_get_device_name(found)};
	struct kvx_verbs_device device = {.transport = examination->transport};
	int error = 0;

	exam.left_out = why_left_out(found);
	if (!exam.left_out) {
		snprintf(device.name, sizeof(device.name), "%s", exam.name);
		device.context = ibv_open_device(found);
		if (!device.context)
			exam.open_error = errno;
	}
	if (device.context) {
		error = examine_open(examination, &device, &exam);
		ibv_close_device(device.context);
	}
	if (!error)
		examination->take(examination->context, &exam);
	return error;
}

/* --------------------------------------------------------------------------------- one piece */

/* By one of the two ways. False: `why` says what was answered. */
static bool try_piece(struct kvx_verbs_device *device, const struct kvx_verbs_piece *piece,
		      int dmabuf, bool *windowless, char why[KVX_VERBS_WHY_MAX + 1])
{
	const struct kvx_memory memory = {
		.address = piece->address,
		.bytes = piece->bytes,
		.fd = -1,
		.dmabuf = dmabuf,
		.dmabuf_offset = piece->dmabuf_offset,
	};
	struct kvx_verbs_memory *known = calloc(1, sizeof(*known) + sizeof(struct ibv_mr *));

	if (!known) {
		snprintf(why, KVX_VERBS_WHY_MAX + 1, "%s", strerror(ENOMEM));
		return false;
	}
	known->chunks = 1;
	bool is_taken = kvx_verbs_register(device, &memory, known) == 0;
	if (is_taken)
		ibv_dereg_mr(known->mrs[0]);
	else
		snprintf(why, KVX_VERBS_WHY_MAX + 1, "%s", kvx_error_text());
	*windowless = is_taken && known->windowless;
	free(known);
	return is_taken;
}

static void reach_piece(const struct examination *examination, struct kvx_verbs_device *device)
{
	const struct kvx_verbs_piece *piece = examination->piece;
	struct kvx_verbs_reach reach = {.name = device->name};
	struct ibv_device_attr attr;
	bool ignored;

	device->transport->chunk_bytes = piece->bytes;
	device->windows = device->transport->context->options->verbs_windows &&
			  ibv_query_device(device->context, &attr) == 0 && has_windows(&attr);
	device->pd = ibv_alloc_pd(device->context);
	if (!device->pd)
		return;
	if (piece->dmabuf >= 0)
		reach.by_dmabuf =
			try_piece(device, piece, piece->dmabuf, &reach.is_windowless, reach.dmabuf);
	reach.by_address = try_piece(device, piece, -1, &ignored, reach.address);
	ibv_dealloc_pd(device->pd);
	examination->take_reach(examination->context, &reach);
}

static int examine_reach(struct examination *examination, struct ibv_device *found)
{
	struct kvx_verbs_device device = {.transport = examination->transport};

	if (why_left_out(found))
		return 0;
	snprintf(device.name, sizeof(device.name), "%s", ibv_get_device_name(found));
	device.context = ibv_open_device(found);
	if (device.context) {
		reach_piece(examination, &device);
		ibv_close_device(device.context);
	}
	return 0;
}

/* ---------------------------------------------------------------------------------- all of them
 */

static int by_name(const void *a, const void *b)
{
	struct ibv_device *const *left = a, *const *right = b;

	return strverscmp(ibv_get_device_name(*left), ibv_get_device_name(*right));
}

static int examine_listed(struct examination *examination, struct ibv_device **list, int count)
{
	const struct kvx_options *options = examination->transport->context->options;
	int error = kvx_verbs_selection_check(options, list, count);

	qsort(list, (size_t)count, sizeof(struct ibv_device *), by_name);
	for (int i = 0; i < count && !error; i++)
		if (kvx_verbs_is_selected(options, ibv_get_device_name(list[i]), 0))
			error = examination->visit(examination, list[i]);
	return error ? error : count;
}

static int examine_all(struct examination *examination)
{
	int count = 0;
	struct ibv_device **list = ibv_get_device_list(&count);

	if (!list)
		return kvx_fail(KVX_E_UNSUPPORTED, "verbs: RDMA devices cannot be listed: %s",
				strerror(errno));
	int result = examine_listed(examination, list, count);
	ibv_free_device_list(list);
	return result;
}

static int examine(const struct kvx_options *options, struct examination *examination)
{
	const struct kvx_transport_context parts = {.log = &options->log, .options = options};
	int result = KVX_E_MEMORY;

	examination->transport = calloc(1, sizeof(*examination->transport));
	examination->ports = calloc(PORTS_MAX, sizeof(*examination->ports));
	if (!examination->transport || !examination->ports) {
		kvx_fail(KVX_E_MEMORY, "verbs: no memory to look at devices");
	} else {
		examination->transport->context = &parts;
		result = examine_all(examination);
	}
	free(examination->ports);
	free(examination->transport);
	return result;
}

int kvx_verbs_examine(const struct kvx_options *options,
		      void (*take)(void *context, const struct kvx_verbs_exam *exam), void *context)
{
	void *memory = mmap(NULL, KVX_VERBS_TRIED_MAX, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return kvx_fail(KVX_E_MEMORY, "verbs: no address space to register: %s",
				strerror(errno));
	struct examination examination = {
		.memory = memory,
		.visit = examine_device,
		.take = take,
		.context = context,
	};
	int result = examine(options, &examination);
	munmap(memory, KVX_VERBS_TRIED_MAX);
	return result;
}

int kvx_verbs_examine_piece(const struct kvx_options *options, const struct kvx_verbs_piece *piece,
			    void (*take)(void *context, const struct kvx_verbs_reach *reach),
			    void *context)
{
	struct examination examination = {
		.piece = piece,
		.visit = examine_reach,
		.take_reach = take,
		.context = context,
	};

	return examine(options, &examination);
}
