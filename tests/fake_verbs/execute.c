/* SPDX-License-Identifier: Apache-2.0 */
/* What a request does, at both ends. */
#include "internal.h"

#include <string.h>

#define PSN_MASK 0xffffffu
#define SGES_MAX 64
#define MESSAGE_BYTES_MAX (1u << 30)
/* How often one looks whether an unanswered request without time-out is answered now. */
#define PATIENCE_NS 10000000

/* What comes of a try, besides the enum ibv_wc_status of a request that is done. */
enum { UNANSWERED = -1, NOT_READY = -2, FROZEN = -3 };

/* Local memory of a request. */
struct pieces {
	unsigned count;
	uint64_t bytes;
	struct {
		uint8_t *at;
		uint32_t bytes;
	} piece[SGES_MAX];
};

/* --- local ends --- */

static void add_piece(struct pieces *pieces, uint8_t *at, uint32_t bytes)
{
	pieces->piece[pieces->count].at = at;
	pieces->piece[pieces->count++].bytes = bytes;
	pieces->bytes += bytes;
}

static bool find_pieces(struct fake_qp *qp, const struct ibv_sge *sges, uint32_t count,
			unsigned access, struct pieces *pieces)
{
	pieces->count = 0;
	pieces->bytes = 0;
	for (uint32_t i = 0; i < count && i < SGES_MAX; i++) {
		uint8_t *at =
			fake_memory(qp, sges[i].lkey, sges[i].addr, sges[i].length, access, false);
		if (!at)
			return false;
		add_piece(pieces, at, sges[i].length);
	}
	return true;
}

static bool find_local(struct fake_qp *qp, const struct fake_wr *wr, struct pieces *pieces)
{
	size_t place = (size_t)(wr - qp->ring);
	unsigned access = wr->opcode == IBV_WR_RDMA_READ ? IBV_ACCESS_LOCAL_WRITE : 0;

	if (!(wr->flags & IBV_SEND_INLINE))
		return find_pieces(qp, &qp->sges[place * qp->init.cap.max_send_sge], wr->sge_count,
				   access, pieces);
	pieces->count = 0;
	pieces->bytes = 0;
	add_piece(pieces, qp->inlines + place * qp->init.cap.max_inline_data, wr->inline_bytes);
	return true;
}

static void copy(const struct pieces *pieces, uint8_t *remote, bool to_remote)
{
	for (unsigned i = 0; i < pieces->count; remote += pieces->piece[i++].bytes)
		if (to_remote)
			memmove(remote, pieces->piece[i].at, pieces->piece[i].bytes);
		else
			memmove(pieces->piece[i].at, remote, pieces->piece[i].bytes);
}

/* --- the way --- */

static bool is_meant(struct fake_qp *qp, struct fake_qp *peer)
{
	const struct ibv_ah_attr *back = &peer->attr.ah_attr;

	if (peer->state != IBV_QPS_RTR && peer->state != IBV_QPS_RTS)
		return false;
	if (peer->attr.dest_qp_num != qp->ibv.qp_num || peer->rq_psn != qp->sq_psn)
		return false;
	if (qp->attr.ah_attr.is_global != back->is_global)
		return false;
	/* A RoCE packet's kind is that of its sender's GID. */
	return !back->is_global ||
	       (fake_qp_gid(qp)->type == fake_qp_gid(peer)->type &&
		memcmp(&fake_qp_gid(qp)->gid, &back->grh.dgid, sizeof(union ibv_gid)) == 0);
}

/* 0 and the queue pair that takes the packets, or why nothing comes back. */
static int find_peer(struct fake_qp *qp, struct fake_qp **found)
{
	struct fake_port *own = &qp->device->port[qp->attr.port_num - 1];
	struct fake_device *device = NULL;
	struct fake_port *port = fake_route(&qp->attr.ah_attr, qp->device->roce, &device);
	struct fake_qp *peer = fake_qp_find(qp->attr.dest_qp_num);

	if (!port || !own->up || !port->up || fake_is_cut(own, port))
		return UNANSWERED;
	if (device->frozen)
		return FROZEN;
	if (!peer || peer->device != device || !peer->attr.port_num ||
	    &device->port[peer->attr.port_num - 1] != port || !is_meant(qp, peer))
		return UNANSWERED;
	*found = peer;
	return 0;
}

/* Packets of a message count, also those of a READ's answer. */
static void advance(struct fake_qp *qp, struct fake_qp *peer, uint64_t bytes)
{
	uint64_t packet = UINT64_C(128) << qp->attr.path_mtu;
	uint32_t count = (uint32_t)(bytes ? (bytes + packet - 1) / packet : 1);

	qp->sq_psn = (qp->sq_psn + count) & PSN_MASK;
	peer->rq_psn = qp->sq_psn;
	if (!peer->met && peer->state == IBV_QPS_RTR)
		fake_qp_event(peer, IBV_EVENT_COMM_EST);
	peer->met = true;
}

/* --- the remote end --- */

/* The peer refuses, and both ends break. */
static int refuse(struct fake_qp *peer, enum ibv_event_type event, enum ibv_wc_status status)
{
	peer->device->counters.refused++;
	fake_qp_event(peer, event);
	fake_qp_fail(peer);
	return (int)status;
}

static bool take_receive(struct fake_qp *peer, struct fake_receive *receive)
{
	struct fake_srq *srq = (struct fake_srq *)peer->ibv.srq;

	if (!fake_receives_take(srq ? &srq->receives : &peer->receives, receive)) {
		peer->device->counters.not_ready++;
		return false;
	}
	peer->device->counters.receives++;
	if (srq)
		fake_srq_taken(srq);
	return true;
}

static void complete_receive(struct fake_qp *qp, struct fake_qp *peer, const struct fake_wr *wr,
			     const struct fake_receive *receive, uint64_t bytes)
{
	bool write = wr->opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
	struct fake_cqe cqe = {
		.wc = {.wr_id = receive->wr_id,
		       .opcode = write ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV,
		       .byte_len = (uint32_t)bytes,
		       .qp_num = peer->ibv.qp_num,
		       .src_qp = qp->ibv.qp_num},
	};

	if (wr->opcode != IBV_WR_SEND) {
		cqe.wc.imm_data = wr->imm;
		cqe.wc.wc_flags = IBV_WC_WITH_IMM;
	}
	fake_cq_push((struct fake_cq *)peer->ibv.recv_cq, &cqe, wr->flags & IBV_SEND_SOLICITED);
}

static int execute_write(struct fake_qp *qp, struct fake_qp *peer, const struct fake_wr *wr,
			 const struct pieces *local)
{
	bool with_imm = wr->opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
	struct fake_receive receive;
	uint8_t *remote = NULL;

	if (!(peer->attr.qp_access_flags & IBV_ACCESS_REMOTE_WRITE))
		return refuse(peer, IBV_EVENT_QP_REQ_ERR, IBV_WC_REM_INV_REQ_ERR);
	/* The key of a write without bytes is not looked at. */
	if (local->bytes) {
		remote = fake_memory(peer, wr->key, wr->remote_address, local->bytes,
				     IBV_ACCESS_REMOTE_WRITE, true);
		if (!remote)
			return refuse(peer, IBV_EVENT_QP_ACCESS_ERR, IBV_WC_REM_ACCESS_ERR);
	}
	if (with_imm && !take_receive(peer, &receive))
		return NOT_READY;
	if (remote && !qp->null)
		copy(local, remote, true);
	if (with_imm)
		complete_receive(qp, peer, wr, &receive, local->bytes);
	qp->device->counters.writes++;
	qp->device->counters.imms += with_imm;
	return IBV_WC_SUCCESS;
}

static int execute_read(struct fake_qp *qp, struct fake_qp *peer, const struct fake_wr *wr,
			const struct pieces *local)
{
	uint8_t *remote = NULL;

	if (qp->attr.max_rd_atomic == 0)
		return IBV_WC_LOC_QP_OP_ERR;
	/* A requester that may have more reads outstanding than the peer keeps state for will. */
	if (!(peer->attr.qp_access_flags & IBV_ACCESS_REMOTE_READ) ||
	    qp->attr.max_rd_atomic > peer->attr.max_dest_rd_atomic)
		return refuse(peer, IBV_EVENT_QP_REQ_ERR, IBV_WC_REM_INV_REQ_ERR);
	if (local->bytes) {
		remote = fake_memory(peer, wr->key, wr->remote_address, local->bytes,
				     IBV_ACCESS_REMOTE_READ, true);
		if (!remote)
			return refuse(peer, IBV_EVENT_QP_ACCESS_ERR, IBV_WC_REM_ACCESS_ERR);
	}
	if (remote && !qp->null)
		copy(local, remote, false);
	qp->device->counters.reads++;
	return IBV_WC_SUCCESS;
}

/* Byte by byte run by run: both ends are lists. */
static void scatter(const struct pieces *from, const struct pieces *to)
{
	unsigned target = 0;
	uint32_t filled = 0;

	for (unsigned i = 0; i < from->count; i++)
		for (uint32_t done = 0; done < from->piece[i].bytes;) {
			uint32_t some = from->piece[i].bytes - done;
			if (filled == to->piece[target].bytes) {
				target++;
				filled = 0;
				continue;
			}
			if (some > to->piece[target].bytes - filled)
				some = to->piece[target].bytes - filled;
			memmove(to->piece[target].at + filled, from->piece[i].at + done, some);
			filled += some;
			done += some;
		}
}

static int execute_send(struct fake_qp *qp, struct fake_qp *peer, const struct fake_wr *wr,
			const struct pieces *local)
{
	struct fake_receive receive;
	struct pieces target;

	if (!take_receive(peer, &receive))
		return NOT_READY;
	if (!find_pieces(peer, receive.sges, (uint32_t)receive.count, IBV_ACCESS_LOCAL_WRITE,
			 &target))
		return refuse(peer, IBV_EVENT_QP_ACCESS_ERR, IBV_WC_REM_OP_ERR);
	if (target.bytes < local->bytes)
		return refuse(peer, IBV_EVENT_QP_REQ_ERR, IBV_WC_REM_INV_REQ_ERR);
	if (!qp->null)
		scatter(local, &target);
	complete_receive(qp, peer, wr, &receive, local->bytes);
	qp->device->counters.sends++;
	return IBV_WC_SUCCESS;
}

static int execute_remote(struct fake_qp *qp, const struct fake_wr *wr)
{
	struct fake_qp *peer = NULL;
	struct pieces local;
	int outcome;

	if (!find_local(qp, wr, &local))
		return IBV_WC_LOC_PROT_ERR;
	if (local.bytes > MESSAGE_BYTES_MAX)
		return IBV_WC_LOC_LEN_ERR;
	outcome = find_peer(qp, &peer);
	if (outcome)
		return outcome;
	/* Packets of another size than the peer's are not what it can take. */
	if (peer->attr.path_mtu != qp->attr.path_mtu &&
	    local.bytes > UINT64_C(128)
				  << (peer->attr.path_mtu < qp->attr.path_mtu ? peer->attr.path_mtu
									      : qp->attr.path_mtu))
		return refuse(peer, IBV_EVENT_QP_REQ_ERR, IBV_WC_REM_INV_REQ_ERR);
	if (wr->opcode == IBV_WR_RDMA_READ)
		outcome = execute_read(qp, peer, wr, &local);
	else if (wr->opcode == IBV_WR_SEND || wr->opcode == IBV_WR_SEND_WITH_IMM)
		outcome = execute_send(qp, peer, wr, &local);
	else
		outcome = execute_write(qp, peer, wr, &local);
	if (outcome == NOT_READY)
		qp->rnr_code = peer->attr.min_rnr_timer;
	if (outcome == IBV_WC_SUCCESS) {
		qp->device->counters.bytes += local.bytes;
		advance(qp, peer, local.bytes);
	}
	return outcome;
}

static int execute(struct fake_qp *qp, const struct fake_wr *wr)
{
	int outcome;

	switch (wr->opcode) {
	case IBV_WR_BIND_MW:
		outcome = fake_mw_bind(qp, wr->mw, wr->key, &wr->bind);
		qp->device->counters.binds += outcome == IBV_WC_SUCCESS;
		return outcome;
	case IBV_WR_LOCAL_INV:
		outcome = fake_mw_invalidate(qp, wr->key);
		qp->device->counters.invalidations += outcome == IBV_WC_SUCCESS;
		return outcome;
	default:
		return execute_remote(qp, wr);
	}
}

/* --- its end --- */

static enum ibv_wc_opcode completion_of(enum ibv_wr_opcode opcode)
{
	switch (opcode) {
	case IBV_WR_BIND_MW:
		return IBV_WC_BIND_MW;
	case IBV_WR_LOCAL_INV:
		return IBV_WC_LOCAL_INV;
	case IBV_WR_RDMA_READ:
		return IBV_WC_RDMA_READ;
	case IBV_WR_SEND:
	case IBV_WR_SEND_WITH_IMM:
		return IBV_WC_SEND;
	default:
		return IBV_WC_RDMA_WRITE;
	}
}

static void complete(struct fake_qp *qp, const struct fake_wr *wr, enum ibv_wc_status status)
{
	struct fake_cq *cq = (struct fake_cq *)qp->ibv.send_cq;
	bool failed = status != IBV_WC_SUCCESS;
	struct fake_cqe cqe = {
		.wc = {.wr_id = wr->wr_id,
		       .status = status,
		       .opcode = failed ? (enum ibv_wc_opcode)0xdead : completion_of(wr->opcode),
		       .qp_num = qp->ibv.qp_num},
		.released = ++qp->executed,
		.send = true,
	};

	qp->wake_ns = 0;
	qp->tries = qp->rnr_tries = 0;
	if (failed || (wr->flags & IBV_SEND_SIGNALED) || qp->init.sq_sig_all) {
		if (qp->fast && !failed)
			fake_cq_push_own(cq, &cqe);
		else
			fake_cq_push(cq, &cqe, false);
	}
	if (failed)
		fake_qp_fail(qp);
}

/* From the code of min_rnr_timer, as the InfiniBand specification has it, in units of 10 us. */
static int64_t rnr_ns(uint8_t code)
{
	static const uint16_t units[] = {
		65535, 1,    2,    3,    4,    6,     8,     12,    16,    24,    32,
		48,    64,   96,   128,  192,  256,   384,   512,   768,   1024,  1536,
		2048,  3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
	};

	return (int64_t)units[code] * 10000;
}

/* Both return whether the request is done, with an error. */

static bool not_ready(struct fake_qp *qp, const struct fake_wr *wr)
{
	const unsigned for_ever = 7;

	if (qp->attr.rnr_retry != for_ever && qp->rnr_tries++ >= qp->attr.rnr_retry) {
		complete(qp, wr, IBV_WC_RNR_RETRY_EXC_ERR);
		return true;
	}
	qp->tries = 0;
	qp->wake_ns = fake_now_ns() + rnr_ns(qp->rnr_code);
	return false;
}

static bool unanswered(struct fake_qp *qp, const struct fake_wr *wr)
{
	if (qp->attr.timeout == 0) {
		qp->wake_ns = fake_now_ns() + PATIENCE_NS;
		return false;
	}
	if (qp->tries++ > qp->attr.retry_cnt) {
		complete(qp, wr, IBV_WC_RETRY_EXC_ERR);
		return true;
	}
	qp->device->counters.timeouts++;
	qp->wake_ns = fake_now_ns() + (INT64_C(4096) << qp->attr.timeout);
	return false;
}

bool fake_qp_step(struct fake_qp *qp, int64_t *wake_ns)
{
	const struct fake_wr *wr = &qp->ring[qp->executed & qp->mask];
	int64_t start_ns = wr->ready_ns > qp->wake_ns ? wr->ready_ns : qp->wake_ns;
	bool done = true;
	int outcome;

	*wake_ns = INT64_MAX;
	if (qp->device->frozen)
		return false;
	if (start_ns > fake_now_ns()) {
		*wake_ns = start_ns;
		return false;
	}
	outcome = execute(qp, wr);
	if (outcome == FROZEN)
		return false;
	if (outcome == NOT_READY)
		done = not_ready(qp, wr);
	else if (outcome == UNANSWERED)
		done = unanswered(qp, wr);
	else
		complete(qp, wr, (enum ibv_wc_status)outcome);
	if (!done)
		*wake_ns = qp->wake_ns;
	return done;
}
