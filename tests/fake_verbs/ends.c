/* SPDX-License-Identifier: Apache-2.0 */
#include "ends.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <time.h>

#define PATIENCE_MS 10000

const struct way way_default = {
	.gid_index = 3,
	.far_gid_index = 3,
	.timeout = 10, /* 4 ms */
	.retry_cnt = 3,
	.rnr_retry = 7,
	.min_rnr_timer = 14, /* 1 ms */
	.max_rd_atomic = 4,
	.max_dest_rd_atomic = 4,
	.mtu = IBV_MTU_4096,
	.far_mtu = IBV_MTU_4096,
	.psn = 0xfffffe,
	.far_psn = 0xfffffe,
};

/* --- open and close --- */

struct ibv_context *device_open(const char *name)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct ibv_context *context = NULL;

	for (int i = 0; list[i]; i++)
		if (strcmp(ibv_get_device_name(list[i]), name) == 0)
			context = ibv_open_device(list[i]);
	ibv_free_device_list(list);
	cr_assert_not_null(context, "%s", name);
	return context;
}

struct ibv_qp *qp_create(struct end *end, uint32_t send_max)
{
	struct ibv_qp_init_attr_ex init = {
		.send_cq = end->cq,
		.recv_cq = end->cq,
		.srq = end->srq,
		.cap = {.max_send_wr = send_max, .max_send_sge = 2, .max_inline_data = 64},
		.qp_type = IBV_QPT_RC,
		.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
		.pd = end->pd,
		.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM |
				  IBV_QP_EX_WITH_RDMA_READ | IBV_QP_EX_WITH_SEND_WITH_IMM |
				  IBV_QP_EX_WITH_BIND_MW | IBV_QP_EX_WITH_LOCAL_INV,
	};
	struct ibv_qp *qp = ibv_create_qp_ex(end->context, &init);

	cr_assert_not_null(qp);
	return qp;
}

void end_open(struct end *end, const char *device)
{
	struct ibv_srq_init_attr srq = {.attr = {.max_wr = QUEUE_MAX, .max_sge = 1}};

	memset(end, 0, sizeof(*end));
	end->context = device_open(device);
	end->pd = ibv_alloc_pd(end->context);
	cr_assert_not_null(end->pd);
	end->channel = ibv_create_comp_channel(end->context);
	cr_assert_not_null(end->channel);
	end->cq = ibv_create_cq(end->context, 4 * QUEUE_MAX, end, end->channel, 0);
	cr_assert_not_null(end->cq);
	end->srq = ibv_create_srq(end->pd, &srq);
	cr_assert_not_null(end->srq);
	end->mr = ibv_reg_mr(end->pd, end->memory, sizeof(end->memory), ALL_ACCESS);
	cr_assert_not_null(end->mr);
	end->qp = qp_create(end, QUEUE_MAX);
	end->ex = ibv_qp_to_qp_ex(end->qp);
}

void end_close(struct end *end)
{
	cr_assert_eq(ibv_destroy_qp(end->qp), 0);
	cr_assert_eq(ibv_dereg_mr(end->mr), 0);
	cr_assert_eq(ibv_destroy_srq(end->srq), 0);
	cr_assert_eq(ibv_destroy_cq(end->cq), 0);
	cr_assert_eq(ibv_destroy_comp_channel(end->channel), 0);
	cr_assert_eq(ibv_dealloc_pd(end->pd), 0);
	cr_assert_eq(ibv_close_device(end->context), 0);
}

static void connect_one(struct ibv_qp *qp, struct ibv_qp *far, const struct way *way, bool near)
{
	uint8_t own_gid = near ? way->gid_index : way->far_gid_index;
	uint8_t far_gid = near ? way->far_gid_index : way->gid_index;
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT,
		.port_num = 1,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
		.path_mtu = near ? way->mtu : way->far_mtu,
		.dest_qp_num = far->qp_num,
		.rq_psn = near ? 7 : way->far_psn,
		.sq_psn = near ? way->psn : 7,
		.max_dest_rd_atomic = way->max_dest_rd_atomic,
		.max_rd_atomic = way->max_rd_atomic,
		.min_rnr_timer = way->min_rnr_timer,
		.timeout = way->timeout,
		.retry_cnt = way->retry_cnt,
		.rnr_retry = way->rnr_retry,
		.ah_attr = {.is_global = 1, .port_num = 1, .grh = {.sgid_index = own_gid}},
	};

	cr_assert_eq(ibv_query_gid(far->context, 1, far_gid, &attr.ah_attr.grh.dgid), 0);
	cr_assert_eq(
		ibv_modify_qp(qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
		0);
	attr.qp_state = IBV_QPS_RTR;
	cr_assert_eq(ibv_modify_qp(qp, &attr,
				   IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
					   IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
					   IBV_QP_MIN_RNR_TIMER),
		     0);
	attr.qp_state = IBV_QPS_RTS;
	cr_assert_eq(ibv_modify_qp(qp, &attr,
				   IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
					   IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
					   IBV_QP_MAX_QP_RD_ATOMIC),
		     0);
}

void qp_connect(struct ibv_qp *qp, struct ibv_qp *far, const struct way *way)
{
	connect_one(qp, far, way, true);
	connect_one(far, qp, way, false);
}

void qp_reset(struct ibv_qp *qp)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RESET};

	cr_assert_eq(ibv_modify_qp(qp, &attr, IBV_QP_STATE), 0);
}

void ends_open(struct end *sender, struct end *receiver, const struct way *way)
{
	end_open(sender, "fake0");
	end_open(receiver, "fake1");
	qp_connect(sender->qp, receiver->qp, way ? way : &way_default);
	for (int i = 0; i < MEMORY_BYTES; i++)
		sender->memory[i] = (uint8_t)(i * 7 + i / 256);
}

void ends_close(struct end *sender, struct end *receiver)
{
	struct fake_verbs_counters left;

	end_close(sender);
	end_close(receiver);
	fake_verbs_counters(NULL, &left);
	cr_assert_eq(left.contexts + left.pds + left.mrs + left.mws + left.channels + left.cqs +
			     left.srqs + left.qps + left.registered_bytes,
		     0);
}

/* --- requests --- */

static int post(struct ibv_qp *qp, struct ibv_send_wr *wr)
{
	struct ibv_send_wr *bad;

	wr->send_flags |= IBV_SEND_SIGNALED;
	return ibv_post_send(qp, wr, &bad);
}

int post_write(struct end *sender, struct end *receiver, uint64_t wr_id, uint32_t offset,
	       uint32_t bytes, uint32_t key)
{
	struct ibv_sge sge = {(uintptr_t)sender->memory + offset, bytes, sender->mr->lkey};
	struct ibv_send_wr wr = {
		.wr_id = wr_id,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.wr.rdma = {(uintptr_t)receiver->memory + offset, key},
	};

	return post(sender->qp, &wr);
}

int post_imm(struct end *sender, struct end *receiver, uint64_t wr_id, uint32_t imm)
{
	struct ibv_sge sge = {(uintptr_t)sender->memory, 100, sender->mr->lkey};
	struct ibv_send_wr wr = {
		.wr_id = wr_id,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
		.imm_data = imm,
		.wr.rdma = {(uintptr_t)receiver->memory, receiver->mr->rkey},
	};

	return post(sender->qp, &wr);
}

int post_read(struct end *sender, struct end *receiver, uint32_t bytes)
{
	struct ibv_sge sge = {(uintptr_t)sender->memory, bytes, sender->mr->lkey};
	struct ibv_send_wr wr = {
		.wr_id = 1,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_READ,
		.wr.rdma = {(uintptr_t)receiver->memory, receiver->mr->rkey},
	};

	return post(sender->qp, &wr);
}

int post_bind(struct end *end, struct ibv_qp *qp, struct ibv_mw *mw, uint32_t key, uint32_t offset,
	      uint32_t bytes)
{
	struct ibv_send_wr wr = {
		.wr_id = key,
		.opcode = IBV_WR_BIND_MW,
		.bind_mw = {mw,
			    key,
			    {end->mr, (uintptr_t)end->memory + offset, bytes,
			     IBV_ACCESS_REMOTE_WRITE}},
	};

	return post(qp, &wr);
}

int post_invalidate(struct ibv_qp *qp, uint32_t key)
{
	struct ibv_send_wr wr = {.wr_id = key, .opcode = IBV_WR_LOCAL_INV, .invalidate_rkey = key};

	return post(qp, &wr);
}

void post_receives(struct end *end, int count)
{
	for (int i = 0; i < count; i++) {
		struct ibv_recv_wr wr = {.wr_id = 1000}, *bad;
		cr_assert_eq(ibv_post_srq_recv(end->srq, &wr, &bad), 0);
	}
}

/* --- what comes back --- */

void sleep_ms(unsigned time_ms)
{
	struct timespec time = {time_ms / 1000, (long)(time_ms % 1000) * 1000000};

	nanosleep(&time, NULL);
}

struct ibv_wc next_completion(struct end *end)
{
	struct ibv_wc wc = {0};
	int got = 0;

	for (int i = 0; i < PATIENCE_MS && got == 0; i++) {
		got = ibv_poll_cq(end->cq, 1, &wc);
		if (got == 0)
			sleep_ms(1);
	}
	cr_assert_eq(got, 1, "no completion: %d", got);
	return wc;
}

void expect_completion(struct end *end, uint64_t wr_id, enum ibv_wc_status status)
{
	struct ibv_wc wc = next_completion(end);

	cr_assert_eq(wc.status, status, "%s where %s was expected", ibv_wc_status_str(wc.status),
		     ibv_wc_status_str(status));
	cr_assert_eq(wc.wr_id, wr_id, "%d, not %d", (int)wc.wr_id, (int)wr_id);
}

void expect_silence(struct end *end, unsigned time_ms)
{
	struct ibv_wc wc;

	for (unsigned i = 0; i < time_ms; i++) {
		cr_assert_eq(ibv_poll_cq(end->cq, 1, &wc), 0, "a completion came");
		sleep_ms(1);
	}
}

void expect_event(struct ibv_context *context, enum ibv_event_type type)
{
	struct pollfd readable = {context->async_fd, POLLIN, 0};
	struct ibv_async_event event;

	cr_assert_eq(poll(&readable, 1, PATIENCE_MS), 1, "no event: %s", ibv_event_type_str(type));
	cr_assert_eq(ibv_get_async_event(context, &event), 0);
	cr_assert_eq(event.event_type, type, "%s where %s was expected",
		     ibv_event_type_str(event.event_type), ibv_event_type_str(type));
	ibv_ack_async_event(&event);
}

void expect_no_event(struct ibv_context *context)
{
	struct pollfd readable = {context->async_fd, POLLIN, 0};

	cr_assert_eq(poll(&readable, 1, 0), 0);
}

struct fake_verbs_counters counters(const char *device)
{
	struct fake_verbs_counters found;

	fake_verbs_counters(device, &found);
	return found;
}
