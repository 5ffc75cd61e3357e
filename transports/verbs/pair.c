/* SPDX-License-Identifier: Apache-2.0 */
#include "verbs.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define PSN_MASK 0xffffffu
#define HOP_LIMIT 64

static struct kvx_verbs_pair *pair_of(struct kvx_verbs_job *job)
{
	return kvx_container_of(job, struct kvx_verbs_pair, job);
}

/* ------------------------------------------------------------------------- on a setup thread */

static int fail(struct kvx_verbs_pair *pair, const char *tried, int error)
{
	pair->tried = tried;
	pair->error = error ? error : EIO;
	return -1;
}

static struct ibv_qp *create_extended(struct kvx_verbs_pair *pair, struct ibv_qp_init_attr *plain)
{
	const struct kvx_verbs_device *device = pair->port->device;
	struct ibv_qp_init_attr_ex attr = {
		.send_cq = plain->send_cq,
		.recv_cq = plain->recv_cq,
		.srq = plain->srq,
		.cap = plain->cap,
		.qp_type = plain->qp_type,
		.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
		.pd = device->pd,
		.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM |
				  IBV_QP_EX_WITH_RDMA_READ,
	};

	if (device->windows)
		attr.send_ops_flags |= IBV_QP_EX_WITH_BIND_MW | IBV_QP_EX_WITH_LOCAL_INV;
	struct ibv_qp *qp = ibv_create_qp_ex(device->context, &attr);
	if (qp) {
		plain->cap = attr.cap;
		pair->qpx = ibv_qp_to_qp_ex(qp);
	}
	return qp;
}

/* The extended post interface where the provider has it, and inline data where the device takes so
 * much. */
static int create(struct kvx_verbs_pair *pair)
{
	struct kvx_verbs_device *device = pair->port->device;
	uint32_t wrs = pair->sends ? KVX_VERBS_SEND_WRS : KVX_VERBS_WINDOW_WRS;

	for (uint32_t inline_bytes = pair->sends ? KVX_VERBS_INLINE_BYTES : 0;; inline_bytes = 0) {
		struct ibv_qp_init_attr attr = {
			.send_cq = device->cq,
			.recv_cq = device->cq,
			.srq = device->srq,
			.cap = {.max_send_wr = wrs,
				.max_send_sge = 1,
				.max_inline_data = inline_bytes},
			.qp_type = IBV_QPT_RC,
		};
		pair->qp = create_extended(pair, &attr);
		if (!pair->qp)
			pair->qp = ibv_create_qp(device->pd, &attr);
		if (pair->qp) {
			pair->inline_bytes = inline_bytes;
			pair->local.qpn = pair->qp->qp_num;
			return 0;
		}
		if (!inline_bytes)
			return fail(pair, "create a queue pair", errno);
	}
}

static int to_init(struct kvx_verbs_pair *pair)
{
	const struct kvx_options *options = pair->transport->context->options;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.pkey_index = (uint16_t)options->verbs_pkey_index,
		.port_num = pair->port->number,
		.qp_access_flags = pair->sends ? 0
					       : IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
							 IBV_ACCESS_REMOTE_READ,
	};
	int error =
		ibv_modify_qp(pair->qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);

	return error ? fail(pair, "initialise a queue pair", error) : 0;
}

static void run_create(struct kvx_verbs_job *job)
{
	struct kvx_verbs_pair *pair = pair_of(job);

	if (create(pair) == 0)
		to_init(pair);
}

static uint8_t least(uint8_t a, uint8_t b)
{
	return a < b ? a : b;
}

/* In the kernel this asks the network for the peer's hardware address, and may wait for it. */
static int to_receive(struct kvx_verbs_pair *pair)
{
	const struct kvx_options *options = pair->transport->context->options;
	const struct kvx_verbs_end *local = &pair->local, *remote = &pair->remote;
	bool ethernet = pair->port->link_layer == IBV_LINK_LAYER_ETHERNET;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = (enum ibv_mtu)least(local->mtu, remote->mtu),
		.dest_qp_num = remote->qpn,
		.rq_psn = remote->psn,
		.max_dest_rd_atomic = least(local->reads_in, remote->reads_out),
		.min_rnr_timer = (uint8_t)options->verbs_rnr_timer,
		.ah_attr = {.sl = (uint8_t)options->verbs_service_level,
			    .port_num = pair->port->number,
			    .dlid = remote->lid},
	};

	if (ethernet || memcmp(local->gid.raw, remote->gid.raw, 8) != 0) {
		attr.ah_attr.is_global = 1;
		attr.ah_attr.grh = (struct ibv_global_route){
			.dgid = remote->gid,
			.sgid_index = pair->port->gid_index,
			.hop_limit = HOP_LIMIT,
			.traffic_class = (uint8_t)options->verbs_traffic_class,
		};
	}
	int error = ibv_modify_qp(pair->qp, &attr,
				  IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
					  IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
					  IBV_QP_MIN_RNR_TIMER);
	return error ? fail(pair, "reach the peer's port", error) : 0;
}

static int to_send(struct kvx_verbs_pair *pair)
{
	const struct kvx_options *options = pair->transport->context->options;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTS,
		.sq_psn = pair->local.psn,
		.timeout = (uint8_t)options->verbs_timeout,
		/* Of either 7 would be for ever; of retry_cnt in soft-RoCE alone. */
		.retry_cnt = (uint8_t)options->verbs_retries,
		.rnr_retry = (uint8_t)options->verbs_rnr_retries,
		.max_rd_atomic = least(pair->local.reads_out, pair->remote.reads_in),
	};
	int error = ibv_modify_qp(pair->qp, &attr,
				  IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
					  IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);

	return error ? fail(pair, "enable sends", error) : 0;
}

static void run_connect(struct kvx_verbs_job *job)
{
	struct kvx_verbs_pair *pair = pair_of(job);

	if (to_receive(pair) == 0)
		to_send(pair);
}

/* The error state first, so that nothing lands while the rest goes. */
static void run_destroy(struct kvx_verbs_job *job)
{
	struct kvx_verbs_pair *pair = pair_of(job);
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	if (pair->qp)
		ibv_modify_qp(pair->qp, &attr, IBV_QP_STATE);
	kvx_verbs_windows_free(pair);
	if (pair->qp)
		ibv_destroy_qp(pair->qp);
}

/* ----------------------------------------------------------------------------- on the worker */

static bool enter(struct kvx_transport *transport, struct kvx_verbs_pair *pair)
{
	for (uint32_t tried = 0; tried < KVX_VERBS_PAIRS_MAX; tried++) {
		uint32_t id = transport->pair_sequence++;
		struct kvx_verbs_pair **slot = &transport->pairs[id % KVX_VERBS_PAIRS_MAX];
		if (*slot || id == (uint32_t)(KVX_VERBS_RECEIVE_ID >> 32))
			continue;
		*slot = pair;
		pair->id = id;
		return true;
	}
	return false;
}

struct kvx_verbs_pair *kvx_verbs_pair_of(const struct kvx_transport *transport, uint64_t wr_id)
{
	uint32_t id = (uint32_t)(wr_id >> 32);
	struct kvx_verbs_pair *pair = transport->pairs[id % KVX_VERBS_PAIRS_MAX];

	return pair && pair->id == id ? pair : NULL;
}

static struct kvx_list *bucket(struct kvx_transport *transport, uint32_t qpn)
{
	return &transport->by_qpn[qpn % (sizeof(transport->by_qpn) / sizeof(transport->by_qpn[0]))];
}

struct kvx_verbs_pair *kvx_verbs_pair_by_number(const struct kvx_verbs_device *device, uint32_t qpn)
{
	struct kvx_list *head = bucket(device->transport, qpn), *entry, *next;

	kvx_list_for_each (entry, next, head) {
		struct kvx_verbs_pair *pair =
			kvx_container_of(entry, struct kvx_verbs_pair, by_qpn);
		if (pair->local.qpn == qpn && pair->port->device == device)
			return pair;
	}
	return NULL;
}

/* Nobody finds it any more: late completions are for nobody. */
static void leave(struct kvx_verbs_pair *pair)
{
	struct kvx_verbs_pair **slot = &pair->transport->pairs[pair->id % KVX_VERBS_PAIRS_MAX];

	if (*slot == pair)
		*slot = NULL;
	kvx_list_remove(&pair->by_qpn);
}

static void done_destroy(struct kvx_verbs_pair *pair)
{
	kvx_verbs_posted_clear(pair);
	kvx_verbs_windows_die(pair);
	free(pair->posted);
	free(pair);
}

/* What a finished job leads to, unless the pair was given up meanwhile. */
static void finish_job(struct kvx_verbs_job *job)
{
	struct kvx_verbs_pair *pair = pair_of(job);

	pair->busy = false;
	if (pair->state == KVX_VERBS_PAIR_DYING && pair->done != done_destroy)
		kvx_verbs_pair_run(pair, run_destroy, done_destroy);
	else
		pair->done(pair);
}

void kvx_verbs_pair_run(struct kvx_verbs_pair *pair, void (*run)(struct kvx_verbs_job *),
			void (*done)(struct kvx_verbs_pair *pair))
{
	pair->busy = true;
	pair->done = done;
	pair->job.run = run;
	pair->job.done = finish_job;
	kvx_verbs_setup_submit(&pair->transport->setup, &pair->job);
}

static void done_create(struct kvx_verbs_pair *pair)
{
	pair->state = KVX_VERBS_PAIR_MADE;
	if (!pair->error)
		kvx_list_append(bucket(pair->transport, pair->local.qpn), &pair->by_qpn);
	kvx_verbs_pair_made(pair);
}

static void done_connect(struct kvx_verbs_pair *pair)
{
	if (!pair->error)
		pair->state = KVX_VERBS_PAIR_UP;
	kvx_verbs_pair_connected(pair);
}

static bool describe(struct kvx_verbs_pair *pair)
{
	const struct kvx_verbs_port *port = pair->port;

	pair->local = (struct kvx_verbs_end){
		.mtu = port->mtu,
		.reads_out = port->device->reads_out,
		.reads_in = port->device->reads_in,
		.lid = port->lid,
		.gid = port->gid,
	};
	if (getrandom(&pair->local.psn, sizeof(pair->local.psn), 0) != sizeof(pair->local.psn))
		return false;
	pair->local.psn &= PSN_MASK;
	return true;
}

bool kvx_verbs_pair_new(struct kvx_verbs_rail *rail)
{
	struct kvx_verbs_link *link = rail->link;
	struct kvx_verbs_pair *pair = calloc(1, sizeof(*pair));

	if (!pair)
		return false;
	pair->transport = link->base.transport;
	pair->port = rail->port;
	pair->sends = link->connector;
	pair->room = pair->ring_size = pair->sends ? KVX_VERBS_SEND_WRS : KVX_VERBS_WINDOW_WRS;
	pair->posted = calloc(pair->ring_size, sizeof(*pair->posted));
	kvx_list_init(&pair->by_qpn);
	kvx_list_init(&pair->windows_spare);
	kvx_list_init(&pair->windows_due);
	kvx_list_init(&pair->windows_used);
	kvx_list_init(&pair->windows_new);
	if (!pair->posted || !describe(pair) || !enter(pair->transport, pair)) {
		free(pair->posted);
		free(pair);
		return false;
	}
	pair->rail = rail;
	rail->pair = pair;
	kvx_verbs_pair_run(pair, run_create, done_create);
	return true;
}

void kvx_verbs_pair_connect(struct kvx_verbs_pair *pair, const struct kvx_verbs_end *remote)
{
	pair->remote = *remote;
	pair->state = KVX_VERBS_PAIR_CONNECTING;
	kvx_verbs_pair_run(pair, run_connect, done_connect);
}

void kvx_verbs_pair_end(struct kvx_verbs_pair *pair)
{
	pair->rail->pair = NULL;
	pair->rail = NULL;
	pair->state = KVX_VERBS_PAIR_DYING;
	leave(pair);
	if (!pair->busy)
		kvx_verbs_pair_run(pair, run_destroy, done_destroy);
}
