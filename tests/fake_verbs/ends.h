/* SPDX-License-Identifier: Apache-2.0 */
/* Two connected queue pairs with what they need, for the fake's own tests. */
#ifndef FAKE_VERBS_ENDS_H
#define FAKE_VERBS_ENDS_H

#include "fake_verbs.h"

#include <infiniband/verbs.h>

#define MEMORY_BYTES 65536
#define QUEUE_MAX 16
#define ALL_ACCESS                                                                   \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | \
	 IBV_ACCESS_MW_BIND)

struct end {
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq; /* of sends and receives */
	struct ibv_srq *srq;
	struct ibv_qp *qp;
	struct ibv_qp_ex *ex;
	struct ibv_mr *mr; /* of memory, with all access */
	uint8_t memory[MEMORY_BYTES];
};

/* How to connect; ends_open() uses way_default. */
struct way {
	uint8_t gid_index, timeout, retry_cnt, rnr_retry, min_rnr_timer;
	uint8_t max_rd_atomic, max_dest_rd_atomic;
	enum ibv_mtu mtu, far_mtu;
	uint8_t far_gid_index;
	uint32_t psn, far_psn; /* what the one side sends with, and what the other expects */
};

extern const struct way way_default;

struct ibv_context *device_open(const char *name);
void end_open(struct end *end, const char *device);
void end_close(struct end *end);
/* Another queue pair of this end. */
struct ibv_qp *qp_create(struct end *end, uint32_t send_max);
void qp_connect(struct ibv_qp *qp, struct ibv_qp *far, const struct way *way);
/* From any state to the first. */
void qp_reset(struct ibv_qp *qp);

/* sender on fake0, receiver on fake1, connected both ways. */
void ends_open(struct end *sender, struct end *receiver, const struct way *way);
/* And nothing is left of them. */
void ends_close(struct end *sender, struct end *receiver);

/* A write from the sender's memory to the same place of the receiver's, signalled. */
int post_write(struct end *sender, struct end *receiver, uint64_t wr_id, uint32_t offset,
	       uint32_t bytes, uint32_t key);
int post_imm(struct end *sender, struct end *receiver, uint64_t wr_id, uint32_t imm);
int post_read(struct end *sender, struct end *receiver, uint32_t bytes);
int post_bind(struct end *end, struct ibv_qp *qp, struct ibv_mw *mw, uint32_t key, uint32_t offset,
	      uint32_t bytes);
int post_invalidate(struct ibv_qp *qp, uint32_t key);
void post_receives(struct end *end, int count);

/* The next completion; fails after some seconds without. */
struct ibv_wc next_completion(struct end *end);
void expect_completion(struct end *end, uint64_t wr_id, enum ibv_wc_status status);
void expect_silence(struct end *end, unsigned time_ms);
/* The next event, acknowledged. */
void expect_event(struct ibv_context *context, enum ibv_event_type type);
void expect_no_event(struct ibv_context *context);
void sleep_ms(unsigned time_ms);
struct fake_verbs_counters counters(const char *device);

#endif
