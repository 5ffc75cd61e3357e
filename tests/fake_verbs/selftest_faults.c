/* SPDX-License-Identifier: Apache-2.0 */
/* The fake's faults, refusals and options. */
#include "ends.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>

static struct end sender, receiver;

static void open_both(void)
{
	ends_open(&sender, &receiver, NULL);
}

static void close_both(void)
{
	ends_close(&sender, &receiver);
}

TestSuite(fake_faults, .init = open_both, .fini = close_both, .timeout = 60);

static void reconnect(const struct way *way)
{
	qp_reset(sender.qp);
	qp_reset(receiver.qp);
	qp_connect(sender.qp, receiver.qp, way);
}

/* One write, and what becomes of it. */
static void write_once(enum ibv_wc_status status)
{
	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 8192, receiver.mr->rkey), 0);
	expect_completion(&sender, 1, status);
}

static enum ibv_qp_state state_of(struct ibv_qp *qp)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;

	cr_assert_eq(ibv_query_qp(qp, &attr, IBV_QP_STATE, &init), 0);
	return attr.qp_state;
}

/* --- refusals --- */

Test(fake_faults, a_refused_write_breaks_both_ends_and_flushes_all)
{
	struct ibv_send_wr *bad, silent = {.wr_id = 2, .opcode = IBV_WR_RDMA_WRITE};

	fake_verbs_freeze("fake0", true);
	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 64, receiver.mr->rkey ^ 1), 0);
	cr_assert_eq(ibv_post_send(sender.qp, &silent, &bad), 0);
	cr_assert_eq(post_write(&sender, &receiver, 3, 0, 64, receiver.mr->rkey), 0);
	expect_silence(&sender, 5);
	fake_verbs_freeze("fake0", false);
	expect_completion(&sender, 1, IBV_WC_REM_ACCESS_ERR);
	expect_completion(&sender, 2, IBV_WC_WR_FLUSH_ERR);
	expect_completion(&sender, 3, IBV_WC_WR_FLUSH_ERR);
	cr_assert_eq(state_of(sender.qp), IBV_QPS_ERR);
	cr_assert_eq(state_of(receiver.qp), IBV_QPS_ERR);
	cr_assert_eq(receiver.memory[1], 0);
	cr_assert_eq(counters("fake1").refused, 1);
	cr_assert_eq(counters("fake0").flushed, 2);
	/* And what is posted afterwards. */
	cr_assert_eq(post_write(&sender, &receiver, 4, 0, 64, receiver.mr->rkey), 0);
	expect_completion(&sender, 4, IBV_WC_WR_FLUSH_ERR);
	reconnect(&way_default);
	write_once(IBV_WC_SUCCESS);
}

Test(fake_faults, keys_are_of_a_protection_domain_and_have_rights)
{
	struct ibv_pd *pd = ibv_alloc_pd(receiver.context);
	struct ibv_mr *foreign = ibv_reg_mr(pd, receiver.memory, 4096, ALL_ACCESS);
	struct ibv_mr *local =
		ibv_reg_mr(receiver.pd, receiver.memory, 4096, IBV_ACCESS_LOCAL_WRITE);
	uint32_t key;

	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 64, foreign->rkey), 0);
	expect_completion(&sender, 1, IBV_WC_REM_ACCESS_ERR);
	reconnect(&way_default);
	cr_assert_eq(post_write(&sender, &receiver, 2, 0, 64, local->rkey), 0);
	expect_completion(&sender, 2, IBV_WC_REM_ACCESS_ERR);
	reconnect(&way_default);
	key = local->rkey;
	ibv_dereg_mr(local);
	cr_assert_eq(post_write(&sender, &receiver, 3, 0, 64, key), 0);
	expect_completion(&sender, 3, IBV_WC_REM_ACCESS_ERR);
	ibv_dereg_mr(foreign);
	ibv_dealloc_pd(pd);
}

Test(fake_faults, local_keys_are_checked_too)
{
	ibv_wr_start(sender.ex);
	sender.ex->wr_id = 1;
	ibv_wr_rdma_write(sender.ex, receiver.mr->rkey, (uintptr_t)receiver.memory);
	ibv_wr_set_sge(sender.ex, sender.mr->lkey, (uintptr_t)sender.memory + 1, MEMORY_BYTES);
	cr_assert_eq(ibv_wr_complete(sender.ex), 0);
	expect_completion(&sender, 1, IBV_WC_LOC_PROT_ERR);
	cr_assert_eq(state_of(receiver.qp), IBV_QPS_RTS);
}

Test(fake_faults, reads_keep_to_what_both_ends_agreed_on)
{
	struct way way = way_default;

	way.max_rd_atomic = 8;
	reconnect(&way);
	cr_assert_eq(post_read(&sender, &receiver, 64), 0);
	expect_completion(&sender, 1, IBV_WC_REM_INV_REQ_ERR);
	expect_event(receiver.context, IBV_EVENT_QP_REQ_ERR);
	way.max_rd_atomic = 0;
	reconnect(&way);
	cr_assert_eq(post_read(&sender, &receiver, 64), 0);
	expect_completion(&sender, 1, IBV_WC_LOC_QP_OP_ERR);
}

/* --- receiver not ready --- */

Test(fake_faults, a_receiver_that_is_not_ready_is_tried_again)
{
	cr_assert_eq(post_imm(&sender, &receiver, 1, 5), 0);
	cr_assert_eq(post_imm(&sender, &receiver, 2, 6), 0);
	expect_silence(&sender, 20);
	post_receives(&receiver, 2);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
	expect_completion(&sender, 2, IBV_WC_SUCCESS);
	cr_assert_eq(next_completion(&receiver).imm_data, 5);
	cr_assert_eq(next_completion(&receiver).imm_data, 6);
	cr_assert_gt(counters("fake1").not_ready, 1);
}

Test(fake_faults, a_receiver_that_is_never_ready_ends_the_tries)
{
	struct way way = way_default;

	way.rnr_retry = 2;
	reconnect(&way);
	cr_assert_eq(post_imm(&sender, &receiver, 1, 5), 0);
	expect_completion(&sender, 1, IBV_WC_RNR_RETRY_EXC_ERR);
	cr_assert_eq(counters("fake1").not_ready, 3);
}

/* --- who does not answer --- */

Test(fake_faults, a_peer_that_was_set_up_otherwise_does_not_answer)
{
	struct way way = way_default;

	way.far_psn++;
	reconnect(&way);
	write_once(IBV_WC_RETRY_EXC_ERR);
	cr_assert_eq(counters("fake0").timeouts, 4);
	way = way_default;
	way.far_gid_index = 2; /* RoCE v1, and of the same address */
	reconnect(&way);
	write_once(IBV_WC_RETRY_EXC_ERR);
	way = way_default;
	way.far_mtu = IBV_MTU_1024;
	reconnect(&way);
	write_once(IBV_WC_REM_INV_REQ_ERR);
	reconnect(&way_default);
	qp_reset(receiver.qp);
	write_once(IBV_WC_RETRY_EXC_ERR);
}

Test(fake_faults, a_port_that_goes_down_tells_and_comes_back)
{
	struct ibv_port_attr attr;

	fake_verbs_port("fake0", 1, false);
	expect_event(sender.context, IBV_EVENT_PORT_ERR);
	expect_no_event(receiver.context);
	cr_assert_eq(ibv_query_port(sender.context, 1, &attr), 0);
	cr_assert_eq(attr.state, IBV_PORT_DOWN);
	write_once(IBV_WC_RETRY_EXC_ERR);
	fake_verbs_port("fake0", 1, true);
	expect_event(sender.context, IBV_EVENT_QP_LAST_WQE_REACHED);
	expect_event(sender.context, IBV_EVENT_PORT_ACTIVE);
	reconnect(&way_default);
	write_once(IBV_WC_SUCCESS);
}

Test(fake_faults, a_cut_that_heals_in_time_is_not_noticed)
{
	struct way way = way_default;

	fake_verbs_cut("fake0", 1, "fake1", 1, true);
	write_once(IBV_WC_RETRY_EXC_ERR);
	way.timeout = 14; /* 67 ms */
	way.retry_cnt = 7;
	reconnect(&way);
	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 64, receiver.mr->rkey), 0);
	expect_silence(&sender, 20);
	fake_verbs_cut("fake1", 1, "fake0", 1, false);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
	expect_no_event(receiver.context);
}

Test(fake_faults, a_frozen_device_neither_works_nor_answers)
{
	fake_verbs_freeze("fake1", true);
	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 64, receiver.mr->rkey), 0);
	expect_silence(&sender, 50);
	fake_verbs_freeze("fake1", false);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
}

Test(fake_faults, requests_can_be_slow)
{
	fake_verbs_set("delay_us", 500000);
	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 64, receiver.mr->rkey), 0);
	expect_silence(&sender, 10);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
}

/* --- what breaks --- */

Test(fake_faults, a_broken_device_flushes_and_makes_nothing)
{
	struct ibv_context *again;
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT};
	struct ibv_device_attr device;

	fake_verbs_freeze("fake0", true);
	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 64, receiver.mr->rkey), 0);
	fake_verbs_device_fatal("fake0");
	fake_verbs_freeze("fake0", false);
	expect_completion(&sender, 1, IBV_WC_WR_FLUSH_ERR);
	expect_event(sender.context, IBV_EVENT_DEVICE_FATAL);
	cr_assert_null(ibv_alloc_pd(sender.context));
	cr_assert_eq(errno, EIO);
	cr_assert_eq(ibv_query_device(sender.context, &device), EIO);
	qp_reset(sender.qp);
	cr_assert_eq(
		ibv_modify_qp(sender.qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
		EINVAL);
	attr.port_num = 1;
	cr_assert_eq(
		ibv_modify_qp(sender.qp, &attr,
			      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
		EIO);
	again = device_open("fake0");
	cr_assert_eq(ibv_query_device(again, &device), 0);
	cr_assert_eq(ibv_close_device(again), 0);
	cr_assert_eq(ibv_close_device(sender.context), EBUSY);
}

Test(fake_faults, a_queue_pair_can_break_by_itself)
{
	uint32_t numbers[4];

	cr_assert_eq(fake_verbs_qps("fake0", numbers, 4), 1);
	cr_assert_eq(numbers[0], sender.qp->qp_num);
	cr_assert(fake_verbs_qp_fatal(numbers[0]));
	cr_assert_not(fake_verbs_qp_fatal(0));
	expect_event(sender.context, IBV_EVENT_QP_FATAL);
	cr_assert_eq(state_of(sender.qp), IBV_QPS_ERR);
	cr_assert_eq(state_of(receiver.qp), IBV_QPS_RTS);
}

Test(fake_faults, a_completion_queue_that_is_too_small_is_noticed)
{
	struct ibv_cq *whole = receiver.cq;
	struct ibv_wc wc;
	struct ibv_qp *qp;

	receiver.cq = ibv_create_cq(receiver.context, 2, NULL, NULL, 0);
	qp = qp_create(&receiver, 4);
	qp_reset(sender.qp);
	qp_connect(sender.qp, qp, &way_default);
	post_receives(&receiver, 3);
	for (uint32_t i = 0; i < 3; i++)
		cr_assert_eq(post_imm(&sender, &receiver, i, i), 0);
	expect_event(receiver.context, IBV_EVENT_CQ_ERR);
	cr_assert_eq(ibv_poll_cq(receiver.cq, 1, &wc), -1);
	cr_assert_eq(state_of(qp), IBV_QPS_ERR);
	cr_assert_eq(counters("fake1").overruns, 1);
	cr_assert_eq(ibv_destroy_qp(qp), 0);
	cr_assert_eq(ibv_destroy_cq(receiver.cq), 0);
	receiver.cq = whole;
}

/* --- states --- */

static void expect_modify(struct ibv_qp_attr attr, int mask, int error)
{
	cr_assert_eq(ibv_modify_qp(sender.qp, &attr, mask), error);
}

Test(fake_faults, a_step_needs_its_attributes_and_takes_no_others)
{
	const int init = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
	const int ready = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
			  IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT,
				   .port_num = 1,
				   .path_mtu = IBV_MTU_4096,
				   .ah_attr = {.is_global = 1, .port_num = 1}};

	qp_reset(sender.qp);
	expect_modify(attr, init & ~IBV_QP_ACCESS_FLAGS, EINVAL);
	expect_modify(attr, init | IBV_QP_TIMEOUT, EINVAL);
	expect_modify(attr, init, 0);
	attr.qp_state = IBV_QPS_RTS;
	expect_modify(attr, ready, EINVAL);
	attr.qp_state = IBV_QPS_RTR;
	expect_modify(attr, ready & ~IBV_QP_MIN_RNR_TIMER, EINVAL);
	attr.ah_attr.is_global = 0;
	expect_modify(attr, ready, EINVAL);
	attr.ah_attr.is_global = 1;
	attr.ah_attr.grh.sgid_index = 4;
	expect_modify(attr, ready, EINVAL);
	attr.ah_attr.grh.sgid_index = 3;
	fake_verbs_set("mtu", 1024);
	expect_modify(attr, ready, EINVAL);
	attr.path_mtu = IBV_MTU_1024;
	expect_modify(attr, ready, 0);
}

/* --- options --- */

Test(fake_faults, capabilities_can_be_missing)
{
	struct ibv_srq_attr attr = {.srq_limit = 1};
	struct ibv_qp_init_attr_ex init = {
		.send_cq = sender.cq,
		.recv_cq = sender.cq,
		.cap = {.max_send_wr = 1},
		.qp_type = IBV_QPT_RC,
		.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
		.pd = sender.pd,
		.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE,
	};
	struct ibv_device_attr device;
	struct ibv_context *poor;
	struct ibv_pd *pd;

	fake_verbs_set("windows", 0);
	fake_verbs_set("extended_post", 0);
	fake_verbs_set("srq_limit", 0);
	cr_assert_eq(fake_verbs_get("windows"), 0);
	poor = device_open("fake0");
	pd = ibv_alloc_pd(poor);
	cr_assert_eq(ibv_query_device(poor, &device), 0);
	cr_assert_eq(device.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B, 0);
	cr_assert_null(ibv_alloc_mw(pd, IBV_MW_TYPE_2));
	cr_assert_null(ibv_create_qp_ex(sender.context, &init));
	cr_assert_eq(errno, EOPNOTSUPP);
	cr_assert_eq(ibv_modify_srq(sender.srq, &attr, IBV_SRQ_LIMIT), EOPNOTSUPP);
	ibv_dealloc_pd(pd);
	ibv_close_device(poor);
}

Test(fake_faults, completions_of_a_destroyed_queue_pair_stay_or_go)
{
	struct ibv_qp *first = sender.qp;

	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 64, receiver.mr->rkey), 0);
	while (counters("fake0").writes < 1)
		sleep_ms(1);
	sender.qp = qp_create(&sender, QUEUE_MAX);
	cr_assert_eq(ibv_destroy_qp(first), 0);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
	qp_reset(receiver.qp);
	qp_connect(sender.qp, receiver.qp, &way_default);
	cr_assert_eq(post_write(&sender, &receiver, 2, 0, 64, receiver.mr->rkey), 0);
	while (counters("fake0").writes < 2)
		sleep_ms(1);
	fake_verbs_set("purge", 1);
	first = sender.qp;
	sender.qp = qp_create(&sender, QUEUE_MAX);
	cr_assert_eq(ibv_destroy_qp(first), 0);
	expect_silence(&sender, 2);
}

Test(fake_null, requests_are_done_inside_the_post, .timeout = 60)
{
	struct ibv_wc wc[4];

	fake_verbs_set("null", 1);
	ends_open(&sender, &receiver, NULL);
	for (int round = 0; round < 1000; round++) {
		cr_assert_eq(post_write(&sender, &receiver, 1, 0, 4096, receiver.mr->rkey), 0);
		post_receives(&receiver, 1);
		cr_assert_eq(post_imm(&sender, &receiver, 2, 3), 0);
		cr_assert_eq(ibv_poll_cq(sender.cq, 4, wc), 2);
		cr_assert_eq(wc[0].wr_id, 1);
		cr_assert_eq(wc[1].wr_id, 2);
		cr_assert_eq(ibv_poll_cq(receiver.cq, 4, wc), 1);
		cr_assert_eq(wc[0].imm_data, 3);
	}
	cr_assert_eq(receiver.memory[1], 0);
	cr_assert_eq(counters("fake0").writes, 2000);
	/* No receive: this and what follows is the NIC's, in order. */
	cr_assert_eq(post_imm(&sender, &receiver, 3, 4), 0);
	cr_assert_eq(post_write(&sender, &receiver, 4, 0, 4096, receiver.mr->rkey), 0);
	cr_assert_eq(ibv_poll_cq(sender.cq, 4, wc), 0);
	post_receives(&receiver, 1);
	expect_completion(&sender, 3, IBV_WC_SUCCESS);
	expect_completion(&sender, 4, IBV_WC_SUCCESS);
	ends_close(&sender, &receiver);
}
