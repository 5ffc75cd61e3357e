/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs.h"

#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEND_ROOM 8192u   /* of the completion queue */
#define RECEIVE_BATCH 64u /* receives of one doorbell */
#define ACK_BATCH 128u    /* acknowledging completion events takes a lock */
#define MR_BITS_MAX 62    /* of the largest piece, so that sums of two do not wrap */
#define TEXT_MAX 255u
#define LEFT_OUT_MAX 383u

/* While devices are opened. */
struct opening {
	struct kvx_transport *transport;
	const struct kvx_options *options;
	bool option_wrong; /* something was left out because an option names what it lacks */
	char left_out[LEFT_OUT_MAX + 1]; /* what, and why */
};

static int check_gid_index(const struct kvx_options *options)
{
	const char *text = options->verbs_gid_index;
	char *end;

	if (strcmp(text, "auto") == 0)
		return 0;
	unsigned long index = strtoul(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || index > UINT8_MAX)
		return kvx_fail(KVX_E_INVALID,
				"verbs: option verbs_gid_index: \"%s\" is neither auto nor 0..255",
				text);
	return 0;
}

/* -------------------------------------------------------------------------------------- events */

static void die(struct kvx_verbs_device *device, const char *text)
{
	struct kvx_transport *transport = device->transport;

	if (device->dead)
		return;
	device->dead = true;
	for (uint32_t i = 0; i < transport->port_count; i++)
		if (transport->ports[i].device == device)
			transport->ports[i].up = false;
	kvx_log_write(transport->context->log, KVX_LOG_ERROR, "%s; it is not used any more", text);
	kvx_verbs_device_died(device, text);
}

/* A descriptor that fails would be ready for ever. */
static void events_failed(struct kvx_verbs_device *device, struct kvx_pollable *pollable, int error)
{
	char text[TEXT_MAX + 1];

	kvx_poller_remove(device->transport->context->poller, pollable);
	snprintf(text, sizeof(text), "%s: no more events: %s", device->name, strerror(error));
	die(device, text);
}

static void acknowledge(struct kvx_verbs_device *device)
{
	if (device->events_unacknowledged)
		ibv_ack_cq_events(device->cq, device->events_unacknowledged);
	device->events_unacknowledged = 0;
}

static void channel_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_verbs_device *device =
		kvx_container_of(pollable, struct kvx_verbs_device, channel_ready);
	struct ibv_cq *cq;
	void *context;

	(void)events;
	while (ibv_get_cq_event(device->channel, &cq, &context) == 0)
		device->events_unacknowledged++;
	if (errno != EAGAIN && errno != EINTR)
		events_failed(device, pollable, errno);
	if (device->events_unacknowledged >= ACK_BATCH)
		acknowledge(device);
	kvx_verbs_poll(device);
}

enum subject { PORT, GIDS, PAIR, DEVICE };

struct event_row {
	enum ibv_event_type type;
	enum subject subject;
	const char *text;
};

/* What else there is needs no answer. */
static const struct event_row event_rows[] = {
	{IBV_EVENT_PORT_ERR, PORT, "port error"},
	{IBV_EVENT_PORT_ACTIVE, PORT, "port active"},
	{IBV_EVENT_LID_CHANGE, PORT, "its LID changed"},
	{IBV_EVENT_PKEY_CHANGE, PORT, "its partition keys changed"},
	{IBV_EVENT_CLIENT_REREGISTER, PORT, "the subnet manager started anew"},
	{IBV_EVENT_GID_CHANGE, GIDS, "its GIDs changed"},
	{IBV_EVENT_QP_FATAL, PAIR, "queue pair error"},
	{IBV_EVENT_QP_REQ_ERR, PAIR, "queue pair error: invalid request"},
	{IBV_EVENT_QP_ACCESS_ERR, PAIR, "queue pair error: access violation"},
	{IBV_EVENT_PATH_MIG_ERR, PAIR, "queue pair error: path migration failed"},
	{IBV_EVENT_DEVICE_FATAL, DEVICE, "device error"},
	{IBV_EVENT_CQ_ERR, DEVICE, "completion queue error"},
	{IBV_EVENT_SRQ_ERR, DEVICE, "shared receive queue error"},
};

static const struct event_row *find_row(enum ibv_event_type type)
{
	for (size_t i = 0; i < sizeof(event_rows) / sizeof(event_rows[0]); i++)
		if (event_rows[i].type == type)
			return &event_rows[i];
	return NULL;
}

static struct kvx_verbs_port *find_port(const struct kvx_verbs_device *device, int number)
{
	struct kvx_transport *transport = device->transport;

	for (uint32_t i = 0; i < transport->port_count; i++)
		if (transport->ports[i].device == device && transport->ports[i].number == number)
			return &transport->ports[i];
	return NULL;
}

static void port_event(struct kvx_verbs_device *device, int number, const struct event_row *row)
{
	struct kvx_verbs_port *port = find_port(device, number);
	char name[TEXT_MAX + 1], text[2 * TEXT_MAX];

	if (!port)
		return;
	/* The GID in use may be there still, but no longer the best. */
	if (row->subject == GIDS && kvx_verbs_port_choose_gid(port) == 0)
		kvx_log_write(device->transport->context->log, KVX_LOG_DEBUG, "%s port %u: %s",
			      device->name, port->number, port->why);
	kvx_verbs_port_name(port, name, sizeof(name));
	snprintf(text, sizeof(text), "%s: %s", name, row->text);
	bool up = kvx_verbs_port_refresh(port);
	kvx_verbs_port_changed(port, up, text);
}

/* Acknowledged before anything else is done: whoever destroys a queue pair waits for it. */
static void handle(struct kvx_verbs_device *device, struct ibv_async_event *event)
{
	const struct event_row *row = find_row(event->event_type);
	bool of_pair = row && row->subject == PAIR;
	bool of_port = row && (row->subject == PORT || row->subject == GIDS);
	uint32_t qpn = of_pair ? event->element.qp->qp_num : 0;
	int number = of_port ? event->element.port_num : 0;
	char text[TEXT_MAX + 1];

	ibv_ack_async_event(event);
	if (!row)
		return;
	snprintf(text, sizeof(text), "%s: %s", device->name, row->text);
	if (of_port) {
		port_event(device, number, row);
	} else if (of_pair) {
		struct kvx_verbs_pair *pair = kvx_verbs_pair_by_number(device, qpn);
		if (pair)
			kvx_verbs_pair_failed(pair, text);
	} else {
		die(device, text);
	}
}

static void async_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_verbs_device *device =
		kvx_container_of(pollable, struct kvx_verbs_device, async_ready);
	struct ibv_async_event event;

	(void)events;
	while (ibv_get_async_event(device->context, &event) == 0)
		handle(device, &event);
	if (errno != EAGAIN && errno != EINTR)
		events_failed(device, pollable, errno);
}

void kvx_verbs_device_arm(struct kvx_verbs_device *device)
{
	if (!device->dead)
		ibv_req_notify_cq(device->cq, 0);
}

/* ------------------------------------------------------------------------------------ receives */

/* Receives without room, for an immediate needs none: all alike, so the last n of one chain are a
 * chain of n. Only read once it is made. */
static struct ibv_recv_wr receive_chain[RECEIVE_BATCH];
static pthread_once_t receive_chain_once = PTHREAD_ONCE_INIT;

static void make_receive_chain(void)
{
	for (uint32_t i = 0; i < RECEIVE_BATCH; i++) {
		receive_chain[i].wr_id = KVX_VERBS_RECEIVE_ID;
		receive_chain[i].next = i + 1 < RECEIVE_BATCH ? &receive_chain[i + 1] : NULL;
	}
}

/* Posts all that is due. Returns 0 or errno. */
static int post_receives(struct kvx_verbs_device *device)
{
	while (device->receives_due) {
		uint32_t count =
			device->receives_due < RECEIVE_BATCH ? device->receives_due : RECEIVE_BATCH;
		struct ibv_recv_wr *first = &receive_chain[RECEIVE_BATCH - count], *bad;
		int error = ibv_post_srq_recv(device->srq, first, &bad);
		device->receives_due -= error ? (uint32_t)(bad - first) : count;
		if (error)
			return error;
	}
	return 0;
}

void kvx_verbs_device_refill(struct kvx_verbs_device *device, bool all)
{
	uint32_t quarter = device->receives / 4 + 1;
	uint32_t batch = all ? 1 : quarter < RECEIVE_BATCH ? quarter : RECEIVE_BATCH;
	char text[TEXT_MAX + 1];

	if (device->dead || device->receives_due < batch)
		return;
	int error = post_receives(device);
	if (error) {
		snprintf(text, sizeof(text), "%s: cannot post receives: %s", device->name,
			 strerror(error));
		die(device, text);
	}
}

/* -------------------------------------------------------------------------------- opening them */

static void leave_out(struct opening *opening, const char *text)
{
	size_t length = strlen(opening->left_out);

	snprintf(opening->left_out + length, sizeof(opening->left_out) - length, "%s%s",
		 length ? "; " : "", text);
	kvx_log_write(opening->transport->context->log, KVX_LOG_INFO, "verbs: left out: %s", text);
}

static void log_failure(const struct kvx_verbs_device *device, const char *what, int error)
{
	if (error)
		kvx_log_write(device->transport->context->log, KVX_LOG_ERROR,
			      "%s: cannot destroy the %s: %s", device->name, what, strerror(error));
}

/* What there is of it. */
static void close_device(struct kvx_verbs_device *device)
{
	struct kvx_poller *poller = device->transport->context->poller;

	kvx_poller_remove(poller, &device->async_ready);
	if (device->channel)
		kvx_poller_remove(poller, &device->channel_ready);
	if (device->srq)
		log_failure(device, "shared receive queue", ibv_destroy_srq(device->srq));
	if (device->cq) {
		acknowledge(device);
		log_failure(device, "completion queue", ibv_destroy_cq(device->cq));
	}
	if (device->channel)
		log_failure(device, "completion channel",
			    ibv_destroy_comp_channel(device->channel));
	if (device->pd)
		log_failure(device, "protection domain", ibv_dealloc_pd(device->pd));
	log_failure(device, "context", ibv_close_device(device->context));
}

static int fail_make(const struct kvx_verbs_device *device, const char *what, uint32_t entries,
		     int error)
{
	char text[TEXT_MAX + 1];

	kvx_verbs_shortage_format(error, 0, text, sizeof(text));
	return kvx_fail(error == ENOMEM || error == EAGAIN || error == EPERM ? KVX_E_MEMORY
									     : KVX_E_SYSTEM,
			"%s: cannot make a %s of %u entries: %s; fewer verbs_receives need less",
			device->name, what, entries, text);
}

/* Sends and receives complete in one queue, so that a poll looks at one. */
static int make_queues(struct kvx_verbs_device *device)
{
	uint32_t completions = device->receives + device->send_room;
	struct ibv_srq_init_attr init = {
		/* Some providers refuse 0 elements. */
		.attr = {.max_wr = device->receives, .max_sge = 1},
	};

	device->cq = ibv_create_cq(device->context, (int)completions, device, device->channel, 0);
	if (!device->cq)
		return fail_make(device, "completion queue", completions, errno);
	device->srq = ibv_create_srq(device->pd, &init);
	if (!device->srq)
		return fail_make(device, "shared receive queue", device->receives, errno);
	pthread_once(&receive_chain_once, make_receive_chain);
	device->receives_due = device->receives;
	int error = post_receives(device);
	if (error)
		return kvx_fail(KVX_E_SYSTEM, "%s: cannot post receives: %s", device->name,
				strerror(error));
	return 0;
}

static int watch(struct kvx_verbs_device *device, struct kvx_pollable *pollable, int fd,
		 void (*ready)(struct kvx_pollable *pollable, uint32_t events))
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return kvx_fail(KVX_E_SYSTEM, "%s: event descriptor: %s", device->name,
				strerror(errno));
	*pollable = (struct kvx_pollable){.ready = ready, .fd = fd};
	return kvx_poller_add(device->transport->context->poller, pollable, EPOLLIN);
}

static int make_objects(struct kvx_verbs_device *device)
{
	int error;

	device->pd = ibv_alloc_pd(device->context);
	if (!device->pd)
		return kvx_fail(KVX_E_SYSTEM, "%s: cannot make a protection domain: %s",
				device->name, strerror(errno));
	device->channel = ibv_create_comp_channel(device->context);
	if (!device->channel)
		return kvx_fail(KVX_E_SYSTEM, "%s: cannot make a completion channel: %s",
				device->name, strerror(errno));
	error = make_queues(device);
	if (!error)
		error = watch(device, &device->channel_ready, device->channel->fd, channel_ready);
	if (!error)
		error = watch(device, &device->async_ready, device->context->async_fd, async_ready);
	return error;
}

static uint64_t power_of_two_below(uint64_t bytes)
{
	uint64_t power = bytes ? UINT64_C(1) << (63 - __builtin_clzll(bytes)) : 0;

	if (power > UINT64_C(1) << MR_BITS_MAX)
		return UINT64_C(1) << MR_BITS_MAX;
	return power < KVX_VERBS_CHUNK_MIN ? KVX_VERBS_CHUNK_MIN : power;
}

static uint8_t reads(int limit)
{
	return (uint8_t)(limit < 0 ? 0 : limit > UINT8_MAX ? UINT8_MAX : limit);
}

static uint32_t least(uint64_t a, int b)
{
	return b < 1 ? 1 : a < (uint64_t)b ? (uint32_t)a : (uint32_t)b;
}

static void take_limits(struct kvx_verbs_device *device, const struct ibv_device_attr *attr)
{
	const struct kvx_options *options = device->transport->context->options;
	uint32_t completions;

	device->windows = options->verbs_windows && attr->max_mw > 0 &&
			  (attr->device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B);
	device->reads_out = reads(attr->max_qp_init_rd_atom);
	device->reads_in = reads(attr->max_qp_rd_atom);
	device->mr_bytes_max = power_of_two_below(attr->max_mr_size);
	device->receives = least(options->verbs_receives, attr->max_srq_wr);
	device->receives = least(device->receives, attr->max_cqe / 2);
	completions = least((uint64_t)device->receives + SEND_ROOM, attr->max_cqe);
	device->send_room = completions - device->receives;
}

/* Adds the device's ports that are wanted and usable. Returns how many, or an error. */
static int open_ports(struct opening *opening, struct kvx_verbs_device *device, uint32_t count)
{
	struct kvx_transport *transport = opening->transport;
	struct ibv_port_attr attr;
	int added = 0;

	for (uint32_t number = 1; number <= count; number++)
		if (ibv_query_port(device->context, (uint8_t)number, &attr) == 0)
			device->gid_room += (uint32_t)attr.gid_tbl_len;
	for (uint32_t number = 1; number <= count; number++) {
		struct kvx_verbs_port *port = &transport->ports[transport->port_count];
		if (!kvx_verbs_is_selected(opening->options, device->name, number))
			continue;
		if (transport->port_count == KVX_VERBS_PORTS_MAX) {
			leave_out(opening, "ports past the 32nd; choose by verbs_devices");
			break;
		}
		*port = (struct kvx_verbs_port){.device = device, .number = (uint8_t)number};
		int error = kvx_verbs_port_open(port);
		if (error == KVX_E_MEMORY)
			return error;
		if (error) {
			opening->option_wrong |= error == KVX_E_INVALID;
			leave_out(opening, kvx_error_text());
			continue;
		}
		transport->port_count++;
		added++;
	}
	return added;
}

/* Returns 1 if the device is open, 0 if it is left out, or an error. */
static int set_up_device(struct opening *opening, struct kvx_verbs_device *device)
{
	struct ibv_device_attr attr;
	char text[TEXT_MAX + 1];
	int result = ibv_query_device(device->context, &attr);

	if (result) {
		snprintf(text, sizeof(text), "%s: cannot be looked at: %s", device->name,
			 strerror(result));
		leave_out(opening, text);
		return 0;
	}
	result =
		kvx_verbs_selection_check_ports(opening->options, device->name, attr.phys_port_cnt);
	if (result)
		return result;
	take_limits(device, &attr);
	result = open_ports(opening, device, attr.phys_port_cnt);
	if (result <= 0)
		return result;
	result = make_objects(device);
	return result ? result : 1;
}

/* iWARP's queue pairs cannot be connected by what two ends tell each other; those of other fabrics
 * are not reliable-connected ones. */
static const char *unsuited(const struct ibv_device *device)
{
	if (device->transport_type == IBV_TRANSPORT_IWARP)
		return "iWARP is not supported";
	return device->node_type == IBV_NODE_CA ? NULL : "neither InfiniBand nor RoCE";
}

static int open_device(struct opening *opening, struct ibv_device *found)
{
	struct kvx_transport *transport = opening->transport;
	struct kvx_verbs_device *device = &transport->devices[transport->device_count];
	const char *name = ibv_get_device_name(found), *reason = unsuited(found);
	char text[TEXT_MAX + 1];

	if (!reason && transport->device_count == KVX_VERBS_DEVICES_MAX)
		reason = "there are too many devices; choose by verbs_devices";
	if (reason) {
		snprintf(text, sizeof(text), "%s: %s", name, reason);
		leave_out(opening, text);
		return 0;
	}
	memset(device, 0, sizeof(*device));
	device->transport = transport;
	device->index = transport->device_count;
	device->async_ready.fd = -1;
	snprintf(device->name, sizeof(device->name), "%s", name);
	device->context = ibv_open_device(found);
	if (!device->context && (errno == EMFILE || errno == ENFILE))
		return kvx_fail(KVX_E_SYSTEM,
				"%s: cannot be opened: %s; raise RLIMIT_NOFILE or fs.file-max",
				name, strerror(errno));
	if (!device->context) {
		snprintf(text, sizeof(text),
			 "%s: cannot be opened: %s; see to the rights of "
			 "/dev/infiniband",
			 name, strerror(errno));
		leave_out(opening, text);
		return 0;
	}
	int result = set_up_device(opening, device);
	if (result <= 0)
		close_device(device);
	else
		transport->device_count++;
	return result < 0 ? result : 0;
}

/* mlx5_10 follows mlx5_9. */
static int by_name(const void *a, const void *b)
{
	struct ibv_device *const *left = a, *const *right = b;

	return strverscmp(ibv_get_device_name(*left), ibv_get_device_name(*right));
}

static void log_port(const struct kvx_verbs_port *port)
{
	kvx_log_write(port->device->transport->context->log, KVX_LOG_INFO,
		      "%s port %u: %s; %u Mbit/s, mtu %u, %s, %s", port->device->name, port->number,
		      port->why, port->speed_mbps, 128u << port->mtu, port->up ? "up" : "down",
		      port->device->windows ? "memory windows" : "no memory windows");
}

static int open_listed(struct opening *opening, struct ibv_device **list, int count)
{
	struct kvx_transport *transport = opening->transport;

	qsort(list, (size_t)count, sizeof(struct ibv_device *), by_name);
	int error = kvx_verbs_selection_check(opening->options, list, count);
	for (int i = 0; i < count && !error; i++)
		if (kvx_verbs_is_selected(opening->options, ibv_get_device_name(list[i]), 0))
			error = open_device(opening, list[i]);
	if (error)
		return error;
	if (!count)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"verbs: there is no RDMA device; load its driver, or try soft-RoCE "
				"(rdma link add NAME type rxe netdev INTERFACE)");
	if (!transport->port_count)
		return kvx_fail(opening->option_wrong ? KVX_E_INVALID : KVX_E_UNSUPPORTED,
				"verbs: no port is usable: %s", opening->left_out);
	transport->chunk_bytes = transport->devices[0].mr_bytes_max;
	for (uint32_t i = 1; i < transport->device_count; i++)
		if (transport->devices[i].mr_bytes_max < transport->chunk_bytes)
			transport->chunk_bytes = transport->devices[i].mr_bytes_max;
	for (uint32_t i = 0; i < transport->port_count; i++)
		log_port(&transport->ports[i]);
	return 0;
}

int kvx_verbs_devices_open(struct kvx_transport *transport)
{
	struct opening opening = {.transport = transport, .options = transport->context->options};
	int count, error = check_gid_index(opening.options);

	if (error)
		return error;
	struct ibv_device **list = ibv_get_device_list(&count);
	if (!list)
		return kvx_fail(KVX_E_UNSUPPORTED,
				"verbs: RDMA devices cannot be listed: %s; load the kernel module "
				"ib_uverbs",
				strerror(errno));
	error = open_listed(&opening, list, count);
	ibv_free_device_list(list);
	if (error)
		kvx_verbs_devices_close(transport);
	return error;
}

void kvx_verbs_devices_close(struct kvx_transport *transport)
{
	while (transport->device_count)
		close_device(&transport->devices[--transport->device_count]);
	transport->port_count = 0;
}
