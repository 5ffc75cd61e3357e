/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a queue pair, with what each step needs and allows. */
#include "internal.h"

#define PSN_MASK 0xffffffu
#define ACCESS                                                                       \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | \
	 IBV_ACCESS_REMOTE_ATOMIC)

struct step {
	enum ibv_qp_state from, to;
	int required, optional;
};

static const struct step steps[] = {
	{IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0},
	{IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS},
	{IBV_QPS_INIT, IBV_QPS_RTR,
	 IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
		 IBV_QP_MIN_RNR_TIMER,
	 IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX},
	{IBV_QPS_RTR, IBV_QPS_RTS,
	 IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
		 IBV_QP_MAX_QP_RD_ATOMIC,
	 IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
	{IBV_QPS_RTS, IBV_QPS_RTS, 0,
	 IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
};

static bool may_step(enum ibv_qp_state from, enum ibv_qp_state to, int mask)
{
	mask &= ~IBV_QP_STATE;
	if (to == IBV_QPS_RESET || to == IBV_QPS_ERR)
		return mask == 0;
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		if (steps[i].from == from && steps[i].to == to)
			return (mask & steps[i].required) == steps[i].required &&
			       (mask & ~(steps[i].required | steps[i].optional)) == 0;
	return false;
}

static bool is_path_good(const struct fake_qp *qp, const struct ibv_qp_attr *attr)
{
	const struct ibv_ah_attr *ah = &attr->ah_attr;
	const struct fake_port *port;

	if (ah->port_num < 1 || ah->port_num > qp->device->ports)
		return false;
	port = &qp->device->port[ah->port_num - 1];
	if (qp->device->roce && !ah->is_global)
		return false;
	return !ah->is_global || ah->grh.sgid_index < port->gid_count;
}

static bool are_values_good(const struct fake_qp *qp, const struct ibv_qp_attr *attr, int mask)
{
	uint64_t reads_max = fake_option(FAKE_max_rd_atomic);

	if ((mask & IBV_QP_PKEY_INDEX) && attr->pkey_index != 0)
		return false;
	if ((mask & IBV_QP_PORT) && (attr->port_num < 1 || attr->port_num > qp->device->ports))
		return false;
	if ((mask & IBV_QP_ACCESS_FLAGS) && (attr->qp_access_flags & ~(unsigned)ACCESS))
		return false;
	if ((mask & IBV_QP_AV) && !is_path_good(qp, attr))
		return false;
	/* The codes of ibv_mtu are powers of two from 256 bytes on. */
	if ((mask & IBV_QP_PATH_MTU) && (attr->path_mtu < IBV_MTU_256 ||
					 UINT64_C(128) << attr->path_mtu > fake_option(FAKE_mtu)))
		return false;
	if ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) && attr->max_dest_rd_atomic > reads_max)
		return false;
	if ((mask & IBV_QP_MAX_QP_RD_ATOMIC) && attr->max_rd_atomic > reads_max)
		return false;
	return !((mask & IBV_QP_TIMEOUT) && attr->timeout > 31) &&
	       !((mask & IBV_QP_RETRY_CNT) && attr->retry_cnt > 7) &&
	       !((mask & IBV_QP_RNR_RETRY) && attr->rnr_retry > 7) &&
	       !((mask & IBV_QP_MIN_RNR_TIMER) && attr->min_rnr_timer > 31) &&
	       !((mask & IBV_QP_CUR_STATE) && attr->cur_qp_state != qp->state);
}

static void take_values(struct fake_qp *qp, const struct ibv_qp_attr *attr, int mask)
{
	struct ibv_qp_attr *own = &qp->attr;

#define TAKE(bit, field)  \
	if (mask & (bit)) \
	own->field = attr->field
	TAKE(IBV_QP_PKEY_INDEX, pkey_index);
	TAKE(IBV_QP_PORT, port_num);
	TAKE(IBV_QP_ACCESS_FLAGS, qp_access_flags);
	TAKE(IBV_QP_AV, ah_attr);
	TAKE(IBV_QP_PATH_MTU, path_mtu);
	TAKE(IBV_QP_DEST_QPN, dest_qp_num);
	TAKE(IBV_QP_MAX_DEST_RD_ATOMIC, max_dest_rd_atomic);
	TAKE(IBV_QP_MIN_RNR_TIMER, min_rnr_timer);
	TAKE(IBV_QP_TIMEOUT, timeout);
	TAKE(IBV_QP_RETRY_CNT, retry_cnt);
	TAKE(IBV_QP_RNR_RETRY, rnr_retry);
	TAKE(IBV_QP_MAX_QP_RD_ATOMIC, max_rd_atomic);
#undef TAKE
	if (mask & IBV_QP_RQ_PSN)
		qp->rq_psn = attr->rq_psn & PSN_MASK;
	if (mask & IBV_QP_SQ_PSN)
		qp->sq_psn = attr->sq_psn & PSN_MASK;
}

static int modify(struct fake_qp *qp, const struct ibv_qp_attr *attr, int mask)
{
	enum ibv_qp_state to = mask & IBV_QP_STATE ? attr->qp_state : qp->state;

	if (!may_step(qp->state, to, mask) || !are_values_good(qp, attr, mask))
		return EINVAL;
	/* A device that has failed still lets its queue pairs go. */
	if (fake_context(qp->ibv.context)->dead && to != IBV_QPS_ERR && to != IBV_QPS_RESET)
		return EIO;
	if (to == IBV_QPS_ERR) {
		fake_qp_fail(qp);
	} else if (to == IBV_QPS_RESET) {
		fake_qp_reset(qp);
	} else {
		take_values(qp, attr, mask);
		qp->state = to;
		qp->fast = qp->null && to == IBV_QPS_RTS;
	}
	return 0;
}

EXPORT int ibv_modify_qp(struct ibv_qp *ibv, struct ibv_qp_attr *attr, int mask)
{
	struct fake_qp *qp = (struct fake_qp *)ibv;
	int error;

	fake_lock();
	error = modify(qp, attr, mask);
	fake_changed();
	fake_unlock();
	if (!error && (mask & IBV_QP_STATE))
		ibv->state = attr->qp_state;
	return error;
}
