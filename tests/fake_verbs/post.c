/* SPDX-License-Identifier: Apache-2.0 */
/* Requests on their way into a send queue: staged one by one, then handed over together. */
#include "internal.h"

#include <string.h>

/* A place for one more request, or NULL if there is none: then nothing of this post counts. */
static struct fake_wr *stage(struct fake_qp *qp, enum ibv_wr_opcode opcode, uint64_t wr_id,
			     unsigned flags)
{
	uint32_t count = qp->posted + qp->staged;
	struct fake_wr *wr = &qp->ring[count & qp->mask];

	if (qp->wrong)
		return NULL;
	if (count - qp->released >= qp->init.cap.max_send_wr) {
		qp->wrong = ENOMEM;
		return NULL;
	}
	qp->staged++;
	wr->opcode = opcode;
	wr->wr_id = wr_id;
	wr->flags = flags;
	wr->sge_count = 0;
	wr->inline_bytes = 0;
	return wr;
}

/* Data of the request that was staged last. */
static void stage_sges(struct fake_qp *qp, const struct ibv_sge *sges, size_t count)
{
	uint32_t place = (qp->posted + qp->staged - 1) & qp->mask;
	uint32_t max = qp->init.cap.max_send_sge;

	if (count > max)
		qp->wrong = EINVAL;
	if (qp->wrong)
		return;
	for (size_t i = 0; i < count; i++)
		qp->sges[(size_t)place * max + i] = sges[i];
	qp->ring[place].sge_count = (uint32_t)count;
}

static void stage_inline(struct fake_qp *qp, const void *bytes, size_t count)
{
	uint32_t place = (qp->posted + qp->staged - 1) & qp->mask;
	uint32_t max = qp->init.cap.max_inline_data;
	uint32_t held;

	if (qp->wrong)
		return;
	held = qp->ring[place].inline_bytes;
	if (count > max - held) {
		qp->wrong = ENOMEM;
		return;
	}
	if (count)
		memcpy(qp->inlines + (size_t)place * max + held, bytes, count);
	qp->ring[place].inline_bytes += (uint32_t)count;
	qp->ring[place].flags |= IBV_SEND_INLINE;
}

/* A queue pair of null mode: done at once, in the order of the queue. What meets an error or has
 * to wait sends the rest of it to the NIC, for good. */
static void publish_fast(struct fake_qp *qp)
{
	struct fake_cqe cqe = {.wc = {.opcode = IBV_WC_RDMA_WRITE, .qp_num = qp->ibv.qp_num}};
	uint64_t writes = 0, bytes = 0;
	int64_t wake_ns;

	for (; qp->staged && qp->fast; qp->staged--) {
		uint32_t place = qp->posted & qp->mask;
		const struct fake_wr *wr = &qp->ring[place];
		qp->posted++;
		if (wr->opcode != IBV_WR_RDMA_WRITE) {
			fake_lock();
			if (!fake_qp_step(qp, &wake_ns))
				qp->fast = false;
			fake_unlock();
			continue;
		}
		writes++;
		bytes += wr->sge_count ? qp->sges[(size_t)place * qp->init.cap.max_send_sge].length
				       : wr->inline_bytes;
		qp->executed++;
		if ((wr->flags & IBV_SEND_SIGNALED) || qp->init.sq_sig_all) {
			cqe.wc.wr_id = wr->wr_id;
			fake_cq_push_own((struct fake_cq *)qp->ibv.send_cq, &cqe);
		}
	}
	fake_cq_notify_own((struct fake_cq *)qp->ibv.send_cq);
	/* One writer: no need of a locked addition. */
	atomic_store_explicit(&qp->fast_writes, qp->fast_writes + writes, memory_order_relaxed);
	atomic_store_explicit(&qp->fast_bytes, qp->fast_bytes + bytes, memory_order_relaxed);
	atomic_store_explicit(&qp->fast_posts, qp->fast_posts + 1, memory_order_relaxed);
	atomic_store_explicit(&qp->released, qp->executed, memory_order_relaxed);
}

static void publish_to_nic(struct fake_qp *qp)
{
	int64_t ready_ns = fake_now_ns() + (int64_t)fake_option(FAKE_delay_us) * 1000;

	for (uint32_t i = 0; i < qp->staged; i++)
		qp->ring[(qp->posted + i) & qp->mask].ready_ns = ready_ns;
	qp->posted += qp->staged;
	qp->device->counters.posts++;
	if (qp->state == IBV_QPS_ERR)
		fake_qp_flush(qp);
	else
		fake_qp_activate(qp);
}

/* Hands over what is staged; 0 or an errno. */
static int publish(struct fake_qp *qp)
{
	int error = 0;

	if (qp->fast)
		publish_fast(qp);
	if (qp->fast)
		return 0;
	fake_lock();
	if (qp->state == IBV_QPS_RTS || qp->state == IBV_QPS_ERR)
		publish_to_nic(qp);
	else
		error = EINVAL;
	fake_unlock();
	qp->staged = 0;
	return error;
}

static void begin(struct fake_qp *qp)
{
	if (!qp->null)
		pthread_mutex_lock(&qp->post);
	qp->staged = 0;
	qp->wrong = 0;
}

static void end(struct fake_qp *qp)
{
	if (!qp->null)
		pthread_mutex_unlock(&qp->post);
}

/* --- ibv_post_send --- */

static void stage_data(struct fake_qp *qp, const struct ibv_send_wr *from)
{
	if (from->num_sge < 0)
		qp->wrong = EINVAL;
	else if (!(from->send_flags & IBV_SEND_INLINE))
		stage_sges(qp, from->sg_list, (size_t)from->num_sge);
	else
		for (int i = 0; i < from->num_sge; i++)
			stage_inline(qp, (const void *)(uintptr_t)from->sg_list[i].addr,
				     from->sg_list[i].length);
}

static void stage_request(struct fake_qp *qp, const struct ibv_send_wr *from)
{
	struct fake_wr *wr = stage(qp, from->opcode, from->wr_id, from->send_flags);

	if (!wr)
		return;
	switch (from->opcode) {
	case IBV_WR_RDMA_WRITE:
	case IBV_WR_RDMA_WRITE_WITH_IMM:
	case IBV_WR_RDMA_READ:
		wr->key = from->wr.rdma.rkey;
		wr->remote_address = from->wr.rdma.remote_addr;
		wr->imm = from->imm_data;
		stage_data(qp, from);
		break;
	case IBV_WR_SEND:
	case IBV_WR_SEND_WITH_IMM:
		wr->imm = from->imm_data;
		stage_data(qp, from);
		break;
	case IBV_WR_BIND_MW:
		wr->mw = from->bind_mw.mw;
		wr->key = from->bind_mw.rkey;
		wr->bind = from->bind_mw.bind_info;
		break;
	case IBV_WR_LOCAL_INV:
		wr->key = from->invalidate_rkey;
		break;
	default:
		qp->wrong = EOPNOTSUPP;
	}
}

int fake_post_send(struct ibv_qp *ibv, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct fake_qp *qp = (struct fake_qp *)ibv;
	int wrong, error;

	begin(qp);
	*bad = wr;
	while (wr) {
		uint32_t good = qp->staged;
		stage_request(qp, wr);
		if (qp->wrong) {
			/* Those before it are posted. */
			qp->staged = good;
			break;
		}
		wr = wr->next;
	}
	wrong = qp->wrong;
	error = publish(qp);
	if (!error)
		*bad = wr;
	end(qp);
	return error ? error : wrong;
}

int fake_post_recv(struct ibv_qp *ibv, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct fake_qp *qp = (struct fake_qp *)ibv;
	int error = EINVAL;

	*bad = wr;
	fake_lock();
	if (!ibv->srq && qp->state != IBV_QPS_RESET)
		error = fake_receives_post(&qp->receives, wr, bad);
	if (qp->state == IBV_QPS_ERR)
		fake_qp_flush(qp);
	fake_unlock();
	return error;
}

/* --- ibv_wr_... --- */

static struct fake_wr *stage_extended(struct ibv_qp_ex *ex, enum ibv_wr_opcode opcode)
{
	return stage((struct fake_qp *)ex, opcode, ex->wr_id, ex->wr_flags);
}

static void stage_remote(struct ibv_qp_ex *ex, enum ibv_wr_opcode opcode, uint32_t key,
			 uint64_t address, uint32_t imm)
{
	struct fake_wr *wr = stage_extended(ex, opcode);

	if (wr) {
		wr->key = key;
		wr->remote_address = address;
		wr->imm = imm;
	}
}

static void wr_rdma_write(struct ibv_qp_ex *ex, uint32_t key, uint64_t address)
{
	stage_remote(ex, IBV_WR_RDMA_WRITE, key, address, 0);
}

static void wr_rdma_write_imm(struct ibv_qp_ex *ex, uint32_t key, uint64_t address, __be32 imm)
{
	stage_remote(ex, IBV_WR_RDMA_WRITE_WITH_IMM, key, address, imm);
}

static void wr_rdma_read(struct ibv_qp_ex *ex, uint32_t key, uint64_t address)
{
	stage_remote(ex, IBV_WR_RDMA_READ, key, address, 0);
}

static void wr_send(struct ibv_qp_ex *ex)
{
	stage_remote(ex, IBV_WR_SEND, 0, 0, 0);
}

static void wr_send_imm(struct ibv_qp_ex *ex, __be32 imm)
{
	stage_remote(ex, IBV_WR_SEND_WITH_IMM, 0, 0, imm);
}

static void wr_local_inv(struct ibv_qp_ex *ex, uint32_t key)
{
	stage_remote(ex, IBV_WR_LOCAL_INV, key, 0, 0);
}

static void wr_bind_mw(struct ibv_qp_ex *ex, struct ibv_mw *mw, uint32_t key,
		       const struct ibv_mw_bind_info *info)
{
	struct fake_wr *wr = stage_extended(ex, IBV_WR_BIND_MW);

	if (wr) {
		wr->mw = mw;
		wr->key = key;
		wr->bind = *info;
	}
}

static void wr_set_sge(struct ibv_qp_ex *ex, uint32_t key, uint64_t address, uint32_t bytes)
{
	stage_sges((struct fake_qp *)ex, &(struct ibv_sge){address, bytes, key}, 1);
}

static void wr_set_sge_list(struct ibv_qp_ex *ex, size_t count, const struct ibv_sge *sges)
{
	stage_sges((struct fake_qp *)ex, sges, count);
}

static void wr_set_inline_data(struct ibv_qp_ex *ex, void *bytes, size_t count)
{
	stage_inline((struct fake_qp *)ex, bytes, count);
}

static void wr_set_inline_data_list(struct ibv_qp_ex *ex, size_t count,
				    const struct ibv_data_buf *list)
{
	for (size_t i = 0; i < count; i++)
		stage_inline((struct fake_qp *)ex, list[i].addr, list[i].length);
}

static void wr_start(struct ibv_qp_ex *ex)
{
	begin((struct fake_qp *)ex);
}

static int wr_complete(struct ibv_qp_ex *ex)
{
	struct fake_qp *qp = (struct fake_qp *)ex;
	int error = qp->wrong ? qp->wrong : publish(qp);

	end(qp);
	return error;
}

static void wr_abort(struct ibv_qp_ex *ex)
{
	end((struct fake_qp *)ex);
}

void fake_post_init(struct fake_qp *qp, uint64_t operations)
{
	struct ibv_qp_ex *ex = &qp->ex;

	qp->extended = true;
	/* Only what was asked for is there, as with real providers. */
	if (operations & IBV_QP_EX_WITH_RDMA_WRITE)
		ex->wr_rdma_write = wr_rdma_write;
	if (operations & IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM)
		ex->wr_rdma_write_imm = wr_rdma_write_imm;
	if (operations & IBV_QP_EX_WITH_RDMA_READ)
		ex->wr_rdma_read = wr_rdma_read;
	if (operations & IBV_QP_EX_WITH_SEND)
		ex->wr_send = wr_send;
	if (operations & IBV_QP_EX_WITH_SEND_WITH_IMM)
		ex->wr_send_imm = wr_send_imm;
	if (operations & IBV_QP_EX_WITH_LOCAL_INV)
		ex->wr_local_inv = wr_local_inv;
	if (operations & IBV_QP_EX_WITH_BIND_MW)
		ex->wr_bind_mw = wr_bind_mw;
	ex->wr_set_sge = wr_set_sge;
	ex->wr_set_sge_list = wr_set_sge_list;
	ex->wr_set_inline_data = wr_set_inline_data;
	ex->wr_set_inline_data_list = wr_set_inline_data_list;
	ex->wr_start = wr_start;
	ex->wr_complete = wr_complete;
	ex->wr_abort = wr_abort;
}
