/* SPDX-License-Identifier: Apache-2.0 */
/* Life of a queue pair; modify.c has its states. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

#define SEND_OPS                                                                                \
	(IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM | IBV_QP_EX_WITH_SEND | \
	 IBV_QP_EX_WITH_SEND_WITH_IMM | IBV_QP_EX_WITH_RDMA_READ | IBV_QP_EX_WITH_LOCAL_INV |   \
	 IBV_QP_EX_WITH_BIND_MW)

/* --- errors and events --- */

struct fake_gid *fake_qp_gid(struct fake_qp *qp)
{
	return &qp->device->port[qp->attr.port_num - 1].gids[qp->attr.ah_attr.grh.sgid_index];
}

void fake_qp_event(struct fake_qp *qp, enum ibv_event_type type)
{
	struct ibv_async_event event = {.element.qp = &qp->ibv, .event_type = type};

	fake_queue_push(&fake_context(qp->ibv.context)->async, event, &qp->delivered);
}

static void flush_one(struct fake_qp *qp, struct ibv_cq *cq, uint64_t wr_id, bool send)
{
	struct fake_cqe cqe = {
		.wc = {.wr_id = wr_id,
		       .status = IBV_WC_WR_FLUSH_ERR,
		       .opcode = (enum ibv_wc_opcode)0xdead,
		       .qp_num = qp->ibv.qp_num},
		.released = qp->executed,
		.send = send,
	};

	qp->device->counters.flushed++;
	fake_cq_push((struct fake_cq *)cq, &cqe, true);
}

void fake_qp_flush(struct fake_qp *qp)
{
	struct fake_receive receive;

	while (qp->executed != qp->posted) {
		uint64_t wr_id = qp->ring[qp->executed & qp->mask].wr_id;
		qp->executed++;
		flush_one(qp, qp->ibv.send_cq, wr_id, true);
	}
	while (fake_receives_take(&qp->receives, &receive))
		flush_one(qp, qp->ibv.recv_cq, receive.wr_id, false);
}

void fake_qp_fail(struct fake_qp *qp)
{
	if (qp->state == IBV_QPS_ERR)
		return;
	qp->state = IBV_QPS_ERR;
	qp->fast = false;
	kvx_list_remove(&qp->active);
	fake_qp_flush(qp);
	/* Receives of a shared queue are not flushed; this tells that no more will be used. */
	if (qp->ibv.srq)
		fake_qp_event(qp, IBV_EVENT_QP_LAST_WQE_REACHED);
}

void fake_qp_reset(struct fake_qp *qp)
{
	struct fake_receive receive;

	qp->state = IBV_QPS_RESET;
	qp->fast = false;
	kvx_list_remove(&qp->active);
	qp->executed = qp->posted;
	qp->released = qp->posted;
	qp->wake_ns = 0;
	qp->tries = qp->rnr_tries = 0;
	memset(&qp->attr, 0, sizeof(qp->attr));
	while (fake_receives_take(&qp->receives, &receive))
		;
}

/* --- create and destroy --- */

static bool fits(const struct ibv_qp_init_attr *init)
{
	const struct ibv_qp_cap *cap = &init->cap;

	return init->send_cq && init->recv_cq && cap->max_send_wr > 0 &&
	       cap->max_send_wr <= fake_option(FAKE_max_qp_wr) &&
	       cap->max_send_sge <= fake_option(FAKE_max_sge) &&
	       cap->max_inline_data <= fake_option(FAKE_max_inline) &&
	       (init->srq || (cap->max_recv_wr <= fake_option(FAKE_max_qp_wr) &&
			      cap->max_recv_sge <= RECEIVE_SGES_MAX));
}

static void free_queues(struct fake_qp *qp)
{
	free(qp->ring);
	free(qp->sges);
	free(qp->inlines);
	fake_receives_finish(&qp->receives);
}

static bool make_queues(struct fake_qp *qp)
{
	const struct ibv_qp_cap *cap = &qp->init.cap;
	uint32_t places = 1;

	while (places < cap->max_send_wr)
		places *= 2;
	qp->mask = places - 1;
	qp->ring = calloc(places, sizeof(*qp->ring));
	qp->sges = calloc((size_t)places * cap->max_send_sge + 1, sizeof(*qp->sges));
	qp->inlines = calloc((size_t)places * cap->max_inline_data + 1, 1);
	if (qp->ring && qp->sges && qp->inlines &&
	    fake_receives_init(&qp->receives, qp->init.srq ? 0 : cap->max_recv_wr,
			       cap->max_recv_sge))
		return true;
	free(qp->ring);
	free(qp->sges);
	free(qp->inlines);
	return false;
}

static void fill(struct fake_qp *qp, struct ibv_pd *pd)
{
	struct ibv_qp *ibv = &qp->ibv;

	qp->device = fake_context(pd->context)->device;
	qp->null = fake_option(FAKE_null);
	pthread_mutex_init(&qp->post, NULL);
	kvx_list_init(&qp->active);
	ibv->context = pd->context;
	ibv->qp_context = qp->init.qp_context;
	ibv->pd = pd;
	ibv->send_cq = qp->init.send_cq;
	ibv->recv_cq = qp->init.recv_cq;
	ibv->srq = qp->init.srq;
	ibv->qp_type = IBV_QPT_RC;
	ibv->state = IBV_QPS_RESET;
}

/* False: no number is left. */
static bool enter(struct fake_qp *qp)
{
	bool entered;

	fake_lock();
	if (qp->device->counters.qps < fake_option(FAKE_max_qp))
		qp->ibv.qp_num = fake_table_add(FAKE_QP, qp);
	entered = qp->ibv.qp_num != 0;
	if (entered) {
		qp->ibv.handle = qp->ibv.qp_num;
		kvx_list_append(&qp->device->qps, &qp->entry);
		qp->device->counters.qps++;
		((struct fake_pd *)qp->ibv.pd)->children++;
		((struct fake_cq *)qp->ibv.send_cq)->users++;
		((struct fake_cq *)qp->ibv.recv_cq)->users++;
		if (qp->ibv.srq)
			((struct fake_srq *)qp->ibv.srq)->users++;
	}
	fake_unlock();
	return entered;
}

static struct fake_qp *create(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct fake_qp *qp;
	int error = EOPNOTSUPP;

	if (init->qp_type != IBV_QPT_RC)
		goto fail;
	error = EIO;
	if (fake_context(pd->context)->dead)
		goto fail;
	error = EINVAL;
	if (!fits(init))
		goto fail;
	error = ENOMEM;
	qp = calloc(1, sizeof(*qp));
	if (!qp)
		goto fail;
	qp->init = *init;
	if (!make_queues(qp))
		goto fail_queues;
	fill(qp, pd);
	if (!enter(qp))
		goto fail_enter;
	return qp;
fail_enter:
	pthread_mutex_destroy(&qp->post);
	free_queues(qp);
fail_queues:
	free(qp);
fail:
	errno = error;
	return NULL;
}

EXPORT struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
	struct fake_qp *qp = create(pd, init);

	return qp ? &qp->ibv : NULL;
}

struct ibv_qp *fake_create_qp_ex(__attribute__((unused)) struct ibv_context *context,
				 struct ibv_qp_init_attr_ex *init)
{
	struct ibv_qp_init_attr basic;
	struct fake_qp *qp;

	if (!(init->comp_mask & IBV_QP_INIT_ATTR_PD) ||
	    (init->comp_mask & ~(IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS))) {
		errno = EINVAL;
		return NULL;
	}
	if ((init->comp_mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS) &&
	    (!fake_option(FAKE_extended_post) || (init->send_ops_flags & ~(uint64_t)SEND_OPS))) {
		errno = EOPNOTSUPP;
		return NULL;
	}
	memcpy(&basic, init, sizeof(basic));
	qp = create(init->pd, &basic);
	if (qp && (init->comp_mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS))
		fake_post_init(qp, init->send_ops_flags);
	return qp ? &qp->ibv : NULL;
}

EXPORT struct ibv_qp_ex *ibv_qp_to_qp_ex(struct ibv_qp *ibv)
{
	struct fake_qp *qp = (struct fake_qp *)ibv;

	return qp->extended ? &qp->ex : NULL;
}

EXPORT int ibv_query_qp(struct ibv_qp *ibv, struct ibv_qp_attr *attr,
			__attribute__((unused)) int mask, struct ibv_qp_init_attr *init)
{
	struct fake_qp *qp = (struct fake_qp *)ibv;

	fake_lock();
	*attr = qp->attr;
	attr->qp_state = attr->cur_qp_state = qp->state;
	attr->sq_psn = qp->sq_psn;
	attr->rq_psn = qp->rq_psn;
	attr->cap = qp->init.cap;
	*init = qp->init;
	fake_unlock();
	return 0;
}

static void leave(struct fake_qp *qp)
{
	struct fake_verbs_counters *counters = &qp->device->counters;

	fake_table_remove(qp->ibv.qp_num);
	kvx_list_remove(&qp->entry);
	kvx_list_remove(&qp->active);
	counters->qps--;
	counters->writes += qp->fast_writes;
	counters->bytes += qp->fast_bytes;
	counters->posts += qp->fast_posts;
	((struct fake_pd *)qp->ibv.pd)->children--;
	((struct fake_cq *)qp->ibv.send_cq)->users--;
	((struct fake_cq *)qp->ibv.recv_cq)->users--;
	if (qp->ibv.srq)
		((struct fake_srq *)qp->ibv.srq)->users--;
	if (fake_option(FAKE_purge)) {
		fake_cq_purge((struct fake_cq *)qp->ibv.send_cq, qp->ibv.qp_num);
		fake_cq_purge((struct fake_cq *)qp->ibv.recv_cq, qp->ibv.qp_num);
	}
}

EXPORT int ibv_destroy_qp(struct ibv_qp *ibv)
{
	struct fake_qp *qp = (struct fake_qp *)ibv;

	fake_lock();
	if (qp->windows) {
		fake_unlock();
		return EBUSY;
	}
	leave(qp);
	fake_queue_purge(&fake_context(ibv->context)->async, &qp->delivered);
	fake_acknowledged(&qp->delivered, &ibv->events_completed);
	fake_unlock();
	pthread_mutex_destroy(&qp->post);
	free_queues(qp);
	free(qp);
	return 0;
}
