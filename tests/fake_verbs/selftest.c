/* SPDX-License-Identifier: Apache-2.0 */
/* The fake without faults: data, keys, queues, states. */
#include "ends.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

/* Large, and of a test's own process. */
static struct end sender, receiver;

static void open_both(void)
{
	ends_open(&sender, &receiver, NULL);
}

static void close_both(void)
{
	ends_close(&sender, &receiver);
}

TestSuite(fake_verbs, .init = open_both, .fini = close_both, .timeout = 60);

static bool has_landed(uint32_t offset, uint32_t bytes)
{
	return memcmp(receiver.memory + offset, sender.memory + offset, bytes) == 0;
}

/* --- requests --- */

Test(fake_verbs, the_immediate_arrives_after_the_bytes_before_it)
{
	struct ibv_wc wc;

	post_receives(&receiver, 1);
	for (uint32_t i = 0; i < 8; i++)
		cr_assert_eq(post_write(&sender, &receiver, i, i * 8192, 8192, receiver.mr->rkey),
			     0);
	cr_assert_eq(post_imm(&sender, &receiver, 8, 0x1234), 0);
	wc = next_completion(&receiver);
	cr_assert(has_landed(0, MEMORY_BYTES));
	cr_assert_eq(wc.status, IBV_WC_SUCCESS);
	cr_assert_eq(wc.opcode, IBV_WC_RECV_RDMA_WITH_IMM);
	cr_assert_eq(wc.wc_flags, IBV_WC_WITH_IMM);
	cr_assert_eq(wc.imm_data, 0x1234);
	cr_assert_eq(wc.byte_len, 100);
	cr_assert_eq(wc.wr_id, 1000);
	cr_assert_eq(wc.qp_num, receiver.qp->qp_num);
	for (uint32_t i = 0; i < 9; i++)
		expect_completion(&sender, i, IBV_WC_SUCCESS);
	cr_assert_eq(counters("fake0").writes, 9);
	cr_assert_eq(counters("fake0").imms, 1);
	cr_assert_eq(counters("fake1").receives, 1);
	expect_silence(&receiver, 5);
}

Test(fake_verbs, extended_posts_do_as_the_others)
{
	struct ibv_qp_ex *ex = sender.ex;
	struct ibv_sge sges[] = {{(uintptr_t)sender.memory, 10, sender.mr->lkey},
				 {(uintptr_t)sender.memory + 10, 20, sender.mr->lkey}};

	post_receives(&receiver, 1);
	ibv_wr_start(ex);
	ex->wr_id = 1;
	ex->wr_flags = 0;
	ibv_wr_rdma_write(ex, receiver.mr->rkey, (uintptr_t)receiver.memory);
	ibv_wr_set_sge_list(ex, 2, sges);
	ibv_wr_rdma_write(ex, receiver.mr->rkey, (uintptr_t)receiver.memory + 30);
	ibv_wr_set_inline_data(ex, sender.memory + 30, 64);
	ex->wr_id = 2;
	ex->wr_flags = IBV_SEND_SIGNALED;
	ibv_wr_rdma_write_imm(ex, receiver.mr->rkey, (uintptr_t)receiver.memory + 94, 7);
	ibv_wr_set_sge(ex, sender.mr->lkey, (uintptr_t)sender.memory + 94, 6);
	cr_assert_eq(ibv_wr_complete(ex), 0);
	expect_completion(&sender, 2, IBV_WC_SUCCESS);
	cr_assert_eq(next_completion(&receiver).imm_data, 7);
	cr_assert(has_landed(0, 100));

	ibv_wr_start(ex);
	ibv_wr_rdma_write(ex, receiver.mr->rkey, (uintptr_t)receiver.memory);
	ibv_wr_abort(ex);
	ibv_wr_start(ex);
	ibv_wr_rdma_write(ex, receiver.mr->rkey, (uintptr_t)receiver.memory);
	ibv_wr_set_inline_data(ex, sender.memory, 65);
	cr_assert_eq(ibv_wr_complete(ex), ENOMEM);
	expect_silence(&sender, 5);
	cr_assert_eq(counters("fake0").writes, 3);
}

Test(fake_verbs, a_place_of_the_send_queue_is_free_once_its_completion_is_polled)
{
	for (uint32_t i = 0; i < QUEUE_MAX; i++)
		cr_assert_eq(post_write(&sender, &receiver, i, 0, 64, receiver.mr->rkey), 0);
	sleep_ms(20);
	cr_assert_eq(post_write(&sender, &receiver, 99, 0, 64, receiver.mr->rkey), ENOMEM);
	expect_completion(&sender, 0, IBV_WC_SUCCESS);
	cr_assert_eq(post_write(&sender, &receiver, QUEUE_MAX, 0, 64, receiver.mr->rkey), 0);
	cr_assert_eq(post_write(&sender, &receiver, 99, 0, 64, receiver.mr->rkey), ENOMEM);
	for (uint32_t i = 1; i <= QUEUE_MAX; i++)
		expect_completion(&sender, i, IBV_WC_SUCCESS);
}

Test(fake_verbs, a_chain_is_posted_up_to_its_first_mistake)
{
	struct ibv_sge sges[3] = {{(uintptr_t)sender.memory, 8, sender.mr->lkey}};
	struct ibv_send_wr wrong = {.sg_list = sges, .num_sge = 3, .opcode = IBV_WR_RDMA_WRITE};
	struct ibv_send_wr right = {
		.wr_id = 5,
		.next = &wrong,
		.sg_list = sges,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = {(uintptr_t)receiver.memory, receiver.mr->rkey},
	};
	struct ibv_send_wr *bad = NULL;

	cr_assert_eq(ibv_post_send(sender.qp, &right, &bad), EINVAL);
	cr_assert_eq(bad, &wrong);
	expect_completion(&sender, 5, IBV_WC_SUCCESS);
	expect_silence(&sender, 5);
}

Test(fake_verbs, reads_bring_bytes)
{
	memset(receiver.memory, 0x5a, 5000);
	cr_assert_eq(post_read(&sender, &receiver, 5000), 0);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
	cr_assert_eq(memcmp(sender.memory, receiver.memory, 5000), 0);
	cr_assert_eq(counters("fake0").reads, 1);
	/* Packets of an answer count, so the next request is in step. */
	cr_assert_eq(post_write(&sender, &receiver, 2, 0, 64, receiver.mr->rkey), 0);
	expect_completion(&sender, 2, IBV_WC_SUCCESS);
}

Test(fake_verbs, sends_fill_receives)
{
	struct ibv_sge sge = {(uintptr_t)receiver.memory + 50, 50, receiver.mr->lkey};
	struct ibv_recv_wr wr = {.wr_id = 3, .sg_list = &sge, .num_sge = 1}, *bad;
	struct ibv_wc wc;

	cr_assert_eq(ibv_post_srq_recv(receiver.srq, &wr, &bad), 0);
	ibv_wr_start(sender.ex);
	sender.ex->wr_flags = 0;
	ibv_wr_send_imm(sender.ex, 9);
	ibv_wr_set_inline_data(sender.ex, sender.memory + 50, 50);
	cr_assert_eq(ibv_wr_complete(sender.ex), 0);
	wc = next_completion(&receiver);
	cr_assert_eq(wc.opcode, IBV_WC_RECV);
	cr_assert_eq(wc.imm_data, 9);
	cr_assert(has_landed(50, 50));
}

Test(fake_verbs, requests_before_the_connection_are_refused)
{
	qp_reset(sender.qp);
	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 64, receiver.mr->rkey), EINVAL);
	qp_reset(receiver.qp);
	qp_connect(sender.qp, receiver.qp, &way_default);
	cr_assert_eq(post_write(&sender, &receiver, 2, 0, 64, receiver.mr->rkey), 0);
	expect_completion(&sender, 2, IBV_WC_SUCCESS);
}

/* --- windows --- */

Test(fake_verbs, a_window_opens_part_of_a_region_to_one_queue_pair)
{
	struct ibv_mw *mw = ibv_alloc_mw(receiver.pd, IBV_MW_TYPE_2);
	uint32_t key;

	cr_assert_not_null(mw);
	key = ibv_inc_rkey(mw->rkey);
	cr_assert_eq(post_bind(&receiver, receiver.qp, mw, key, 4096, 4096), 0);
	expect_completion(&receiver, key, IBV_WC_SUCCESS);
	cr_assert_eq(ibv_dereg_mr(receiver.mr), EBUSY);
	cr_assert_eq(ibv_destroy_qp(receiver.qp), EBUSY);
	cr_assert_eq(post_write(&sender, &receiver, 1, 4096, 4096, key), 0);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
	cr_assert(has_landed(4096, 4096));

	cr_assert_eq(post_invalidate(receiver.qp, key), 0);
	expect_completion(&receiver, key, IBV_WC_SUCCESS);
	memset(receiver.memory, 0, MEMORY_BYTES);
	cr_assert_eq(post_write(&sender, &receiver, 2, 4096, 4096, key), 0);
	expect_completion(&sender, 2, IBV_WC_REM_ACCESS_ERR);
	cr_assert_eq(receiver.memory[4096 + 1], 0);
	expect_event(receiver.context, IBV_EVENT_QP_ACCESS_ERR);
	expect_event(receiver.context, IBV_EVENT_QP_LAST_WQE_REACHED);
	expect_event(sender.context, IBV_EVENT_QP_LAST_WQE_REACHED);
	cr_assert_eq(ibv_dealloc_mw(mw), 0);
}

static void refuse_write(uint32_t key, uint32_t offset, uint32_t bytes)
{
	cr_assert_eq(post_write(&sender, &receiver, 1, offset, bytes, key), 0);
	expect_completion(&sender, 1, IBV_WC_REM_ACCESS_ERR);
	cr_assert_eq(receiver.memory[offset + 1], 0);
}

Test(fake_verbs, a_window_ends_where_it_was_bound)
{
	struct ibv_mw *mw = ibv_alloc_mw(receiver.pd, IBV_MW_TYPE_2);
	uint32_t key = ibv_inc_rkey(mw->rkey);

	cr_assert_eq(post_bind(&receiver, receiver.qp, mw, key, 4096, 4096), 0);
	expect_completion(&receiver, key, IBV_WC_SUCCESS);
	refuse_write(key, 4096, 4097);
	cr_assert_eq(ibv_dealloc_mw(mw), 0);
}

Test(fake_verbs, a_window_is_of_one_queue_pair)
{
	struct ibv_mw *mw = ibv_alloc_mw(receiver.pd, IBV_MW_TYPE_2);
	struct ibv_qp *other = qp_create(&receiver, 4), *far = qp_create(&sender, 4);
	uint32_t key = ibv_inc_rkey(mw->rkey);

	qp_connect(far, other, &way_default);
	cr_assert_eq(post_bind(&receiver, other, mw, key, 0, 4096), 0);
	expect_completion(&receiver, key, IBV_WC_SUCCESS);
	refuse_write(key, 0, 64);
	cr_assert_eq(ibv_dealloc_mw(mw), 0);
	cr_assert_eq(ibv_destroy_qp(other), 0);
	cr_assert_eq(ibv_destroy_qp(far), 0);
}

static void refuse_bind(uint32_t key_change, uint32_t offset, uint32_t bytes)
{
	struct ibv_mw *mw = ibv_alloc_mw(receiver.pd, IBV_MW_TYPE_2);

	cr_assert_eq(post_bind(&receiver, receiver.qp, mw, mw->rkey ^ key_change, offset, bytes),
		     0);
	expect_completion(&receiver, mw->rkey ^ key_change, IBV_WC_MW_BIND_ERR);
	cr_assert_eq(ibv_dealloc_mw(mw), 0);
	qp_reset(receiver.qp);
	qp_reset(sender.qp);
	qp_connect(sender.qp, receiver.qp, &way_default);
}

Test(fake_verbs, a_bind_needs_a_new_key_and_a_place_in_the_region)
{
	refuse_bind(0, 0, 4096);
	refuse_bind(0x100, 0, 4096);
	refuse_bind(1, 1, MEMORY_BYTES);
	refuse_bind(1, 0, 0);
}

Test(fake_verbs, a_bound_window_is_not_bound_again)
{
	struct ibv_mw *mw = ibv_alloc_mw(receiver.pd, IBV_MW_TYPE_2);

	cr_assert_eq(post_bind(&receiver, receiver.qp, mw, mw->rkey ^ 1, 0, 64), 0);
	expect_completion(&receiver, mw->rkey ^ 1, IBV_WC_SUCCESS);
	cr_assert_eq(post_bind(&receiver, receiver.qp, mw, mw->rkey ^ 2, 0, 64), 0);
	expect_completion(&receiver, mw->rkey ^ 2, IBV_WC_MW_BIND_ERR);
	cr_assert_eq(ibv_dealloc_mw(mw), 0);
}

/* --- regions --- */

Test(fake_verbs, regions_are_counted)
{
	static uint8_t memory[8192];
	struct ibv_mr *one = ibv_reg_mr(sender.pd, memory, 4096, 0);
	struct ibv_mr *two = ibv_reg_mr(sender.pd, memory + 4096, 4096, 0);
	struct ibv_mr *again;

	cr_assert(one && two);
	cr_assert_eq(counters("fake0").twice, 0);
	cr_assert_eq(fake_verbs_registered("fake0", memory, sizeof(memory)), 2);
	cr_assert_eq(fake_verbs_registered("fake1", memory, sizeof(memory)), 0);
	again = ibv_reg_mr(sender.pd, memory + 4095, 1, IBV_ACCESS_RELAXED_ORDERING);
	cr_assert_not_null(again);
	cr_assert_eq(counters("fake0").twice, 1);
	cr_assert_eq(counters("fake0").relaxed, 1);
	cr_assert_eq(ibv_dealloc_pd(sender.pd), EBUSY);
	ibv_dereg_mr(one);
	ibv_dereg_mr(two);
	ibv_dereg_mr(again);
	cr_assert_eq(fake_verbs_registered("fake0", memory, sizeof(memory)), 0);
}

static void expect_no_mr(void *address, size_t bytes, int access, int error)
{
	errno = 0;
	cr_assert_null(ibv_reg_mr(sender.pd, address, bytes, access));
	cr_assert_eq(errno, error, "%s, not %s", strerror(errno), strerror(error));
}

Test(fake_verbs, registrations_fail_as_told)
{
	static uint8_t memory[8192];
	struct ibv_mr *mr;

	fake_verbs_set("fail_registration", 2);
	fake_verbs_set("fail_errno", EAGAIN);
	mr = ibv_reg_mr(sender.pd, memory, 10, 0);
	cr_assert_not_null(mr);
	expect_no_mr(memory, 10, 0, EAGAIN);
	ibv_dereg_mr(mr);
	mr = ibv_reg_mr(sender.pd, memory, 10, 0);
	cr_assert_not_null(mr);
	ibv_dereg_mr(mr);
	expect_no_mr(memory, 10, IBV_ACCESS_REMOTE_WRITE, EINVAL);
	fake_verbs_set("locked_max", 2 * MEMORY_BYTES + 4096);
	expect_no_mr(memory, 4097, 0, ENOMEM);
	fake_verbs_set("max_mr_size", 4096);
	expect_no_mr(memory, 4097, 0, EINVAL);
	mr = ibv_reg_mr(sender.pd, memory, 4096, 0);
	cr_assert_not_null(mr);
	ibv_dereg_mr(mr);
}

Test(fake_verbs, memory_that_is_not_there_is_not_registered)
{
	void *memory = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(memory, MAP_FAILED);
	munmap((uint8_t *)memory + 4096, 4096);
	expect_no_mr(memory, 8192, 0, EFAULT);
	munmap(memory, 4096);
}

Test(fake_verbs, a_descriptor_is_a_region)
{
	int fd = memfd_create("dmabuf", 0);
	uint8_t *memory;
	struct ibv_mr *mr;

	cr_assert_eq(ftruncate(fd, 16384), 0);
	memory = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	errno = 0;
	cr_assert_null(ibv_reg_dmabuf_mr(receiver.pd, 4096, 16384, 0, fd, ALL_ACCESS));
	cr_assert_eq(errno, EINVAL);
	/* Addresses of the region begin where the program wants: at the receiver's memory. */
	mr = ibv_reg_dmabuf_mr(receiver.pd, 4096 + ((uintptr_t)receiver.memory & 4095), 8192,
			       (uintptr_t)receiver.memory, fd, ALL_ACCESS);
	cr_assert_not_null(mr);
	cr_assert_eq(post_write(&sender, &receiver, 1, 0, 8192, mr->rkey), 0);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
	cr_assert_eq(
		memcmp(memory + 4096 + ((uintptr_t)receiver.memory & 4095), sender.memory, 8192),
		0);
	ibv_dereg_mr(mr);
	fake_verbs_set("dmabuf", 0);
	cr_assert_null(ibv_reg_dmabuf_mr(receiver.pd, 0, 4096, 0, fd, ALL_ACCESS));
	cr_assert_eq(errno, EOPNOTSUPP);
	munmap(memory, 16384);
	close(fd);
}

/* --- queues --- */

Test(fake_verbs, an_armed_queue_tells_once)
{
	struct pollfd readable = {receiver.channel->fd, POLLIN, 0};
	struct ibv_cq *cq = NULL;
	void *context = NULL;

	fcntl(receiver.channel->fd, F_SETFL, O_NONBLOCK);
	cr_assert_eq(ibv_get_cq_event(receiver.channel, &cq, &context), -1);
	cr_assert_eq(errno, EAGAIN);
	cr_assert_eq(ibv_req_notify_cq(receiver.cq, 0), 0);
	post_receives(&receiver, 2);
	cr_assert_eq(post_imm(&sender, &receiver, 1, 0), 0);
	cr_assert_eq(post_imm(&sender, &receiver, 2, 0), 0);
	cr_assert_eq(poll(&readable, 1, 5000), 1);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
	expect_completion(&sender, 2, IBV_WC_SUCCESS);
	cr_assert_eq(ibv_get_cq_event(receiver.channel, &cq, &context), 0);
	cr_assert_eq(cq, receiver.cq);
	cr_assert_eq(context, &receiver);
	cr_assert_eq(poll(&readable, 1, 0), 0);
	cr_assert_eq(ibv_destroy_comp_channel(receiver.channel), EBUSY);
	ibv_ack_cq_events(receiver.cq, 1);
}

Test(fake_verbs, solicited_only_waits_for_those)
{
	struct pollfd readable = {receiver.channel->fd, POLLIN, 0};
	struct ibv_cq *cq;
	void *context;

	cr_assert_eq(ibv_req_notify_cq(receiver.cq, 1), 0);
	post_receives(&receiver, 2);
	cr_assert_eq(post_imm(&sender, &receiver, 1, 0), 0);
	expect_completion(&sender, 1, IBV_WC_SUCCESS);
	cr_assert_eq(poll(&readable, 1, 0), 0);
	ibv_wr_start(sender.ex);
	sender.ex->wr_flags = IBV_SEND_SOLICITED;
	ibv_wr_rdma_write_imm(sender.ex, 0, 0, 0);
	cr_assert_eq(ibv_wr_complete(sender.ex), 0);
	cr_assert_eq(ibv_get_cq_event(receiver.channel, &cq, &context), 0);
	ibv_ack_cq_events(cq, 1);
}

Test(fake_verbs, a_shared_receive_queue_holds_what_was_asked_for_and_tells_when_it_runs_low)
{
	struct ibv_srq_attr attr = {.srq_limit = 2};
	struct ibv_recv_wr wr = {0}, *bad = NULL;

	post_receives(&receiver, QUEUE_MAX);
	cr_assert_eq(ibv_post_srq_recv(receiver.srq, &wr, &bad), ENOMEM);
	cr_assert_eq(bad, &wr);
	cr_assert_eq(ibv_destroy_srq(receiver.srq), EBUSY);
	cr_assert_eq(ibv_destroy_cq(receiver.cq), EBUSY);
	cr_assert_eq(ibv_modify_srq(receiver.srq, &attr, IBV_SRQ_LIMIT), 0);
	for (uint32_t i = 0; i < QUEUE_MAX; i++) {
		if (i == QUEUE_MAX - 2)
			expect_no_event(receiver.context);
		cr_assert_eq(post_imm(&sender, &receiver, i, i), 0);
		cr_assert_eq(next_completion(&receiver).imm_data, i);
	}
	expect_event(receiver.context, IBV_EVENT_SRQ_LIMIT_REACHED);
	expect_no_event(receiver.context);
}

/* --- threads --- */

static void *write_many(void *far)
{
	struct end *own = far == &receiver ? &sender : &receiver;

	for (uint32_t i = 0; i < 500; i++) {
		cr_assert_eq(post_imm(own, far, i, i), 0);
		/* Its own completion and the other's arrival, in either order. */
		next_completion(own);
		next_completion(own);
		post_receives(own, 1);
	}
	return NULL;
}

Test(fake_verbs, both_ends_may_work_at_once)
{
	struct way way = way_default;
	pthread_t thread;

	qp_reset(sender.qp);
	qp_reset(receiver.qp);
	way.rnr_retry = 7;
	qp_connect(sender.qp, receiver.qp, &way);
	post_receives(&sender, 4);
	post_receives(&receiver, 4);
	cr_assert_eq(pthread_create(&thread, NULL, write_many, &receiver), 0);
	write_many(&sender);
	pthread_join(thread, NULL);
	cr_assert_eq(counters(NULL).imms, 1000);
}
