/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One lock guards all state below that no comment takes from it. Fields that ibv_* structs begin
 * with are what the program sees.
 */
#ifndef FAKE_VERBS_INTERNAL_H
#define FAKE_VERBS_INTERNAL_H

#include "fake_verbs.h"

#include "base/list.h"

#include <infiniband/verbs.h>
#include <pthread.h>
#include <stdatomic.h>

/* The header maps these names to others; here they are defined. */
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#define PORTS_MAX 4
#define GIDS_MAX 6
#define RECEIVE_SGES_MAX 16
#define EXPORT __attribute__((visibility("default")))

struct fake_qp;

/* --- options.c --- */

enum fake_option {
#define X(name, value) FAKE_##name,
	FAKE_VERBS_OPTIONS(X)
#undef X
		FAKE_OPTIONS
};

uint64_t fake_option(enum fake_option option);
void fake_option_store(enum fake_option option, uint64_t value);
/* Ends the program: a test asked for what cannot be. */
__attribute__((noreturn, format(printf, 1, 2))) void fake_die(const char *format, ...);

/* --- device.c --- */

struct fake_gid {
	union ibv_gid gid;
	enum ibv_gid_type type;
};

struct fake_port {
	bool up;
	uint16_t lid;
	unsigned gid_count;
	struct fake_gid gids[GIDS_MAX];
};

struct fake_device {
	struct ibv_device ibv;
	unsigned index;
	bool roce;
	unsigned gbps;
	unsigned ports;
	bool frozen;
	struct fake_port port[PORTS_MAX]; /* of number 1 is [0] */
	struct fake_verbs_counters counters;
	struct kvx_list contexts;
	struct kvx_list mrs;
	struct kvx_list qps;
};

/* --- event.c --- */

struct fake_event {
	struct kvx_list entry;
	struct ibv_async_event async; /* for a completion channel only element.cq */
	uint32_t *delivered;          /* counts what the program has to acknowledge, or NULL */
};

/* A descriptor that is readable exactly while events wait. */
struct fake_queue {
	struct kvx_list events;
	int fd;
};

bool fake_queue_init(struct fake_queue *queue);
void fake_queue_finish(struct fake_queue *queue);
void fake_queue_push(struct fake_queue *queue, struct ibv_async_event async, uint32_t *delivered);
/* Drops the events that would count there. */
void fake_queue_purge(struct fake_queue *queue, const uint32_t *delivered);
/* Waits for as long as the program has not acknowledged what it was given. */
void fake_acknowledged(const uint32_t *delivered, const uint32_t *completed);

/* Without lock; 0, or -1 with errno, as the real calls. */
int fake_queue_take(struct fake_queue *queue, struct ibv_async_event *async);

struct fake_context {
	struct kvx_list entry;
	struct fake_device *device;
	struct fake_queue async;
	atomic_bool dead;
	unsigned children;
	struct verbs_context verbs; /* its last member is the ibv_context */
};

extern struct fake_device fake_devices[];
extern unsigned fake_device_count;

struct fake_device *fake_device_find(const char *name);
struct fake_context *fake_context(struct ibv_context *context);
/* The port that is reached so, with its device; NULL if none. */
struct fake_port *fake_route(const struct ibv_ah_attr *ah, bool roce, struct fake_device **device);

/* --- nic.c --- */

void fake_lock(void);
void fake_unlock(void);
/* Waits for fake_changed(); releases the lock meanwhile. */
void fake_wait(void);
/* Something that a waiting thread, or the NIC, may wait for. */
void fake_changed(void);
int64_t fake_now_ns(void);
/* The NIC runs while devices are open. */
int fake_nic_hold(void);
void fake_nic_release(void);
/* Has posted requests: the NIC looks at it. */
void fake_qp_activate(struct fake_qp *qp);

/* --- table.c --- */

/* Keys of memory, and numbers of queue pairs: 16 bits of place, 8 bits that differ from the last
 * user of the place. Places are used again as late as possible. */
enum fake_kind { FAKE_NOTHING, FAKE_MR, FAKE_MW, FAKE_QP };

/* 0 if all are in use. */
uint32_t fake_table_add(enum fake_kind kind, void *object);
void fake_table_remove(uint32_t key);
/* Does not look at the last 8 bits. */
void *fake_table_find(uint32_t key, enum fake_kind *kind);
struct fake_qp *fake_qp_find(uint32_t number);

/* --- memory.c --- */

struct fake_pd {
	struct ibv_pd ibv;
	unsigned children;
};

struct fake_mr {
	struct ibv_mr ibv;
	struct kvx_list entry;
	uint64_t iova;
	unsigned access;
	unsigned windows;
	uint8_t *bytes;
	void *map; /* of a dma-buf */
	size_t map_bytes;
	uint64_t file, file_offset; /* of a dma-buf; 0 */
};

struct fake_mw {
	struct ibv_mw ibv;
	struct fake_mr *mr; /* NULL: not bound */
	struct fake_qp *qp;
	uint32_t key; /* of the last bind */
	uint64_t address, bytes;
	unsigned access;
};

struct ibv_mw *fake_alloc_mw(struct ibv_pd *pd, enum ibv_mw_type type);
int fake_dealloc_mw(struct ibv_mw *ibv);
enum ibv_wc_status fake_mw_bind(struct fake_qp *qp, struct ibv_mw *ibv, uint32_t key,
				const struct ibv_mw_bind_info *info);
enum ibv_wc_status fake_mw_invalidate(struct fake_qp *qp, uint32_t key);
/* Where the bytes are that this queue pair may use with that key and access; NULL: it may not. */
uint8_t *fake_memory(struct fake_qp *qp, uint32_t key, uint64_t address, uint64_t bytes,
		     unsigned access, bool remote);

/* --- cq.c --- */

struct fake_channel {
	struct ibv_comp_channel ibv;
	struct fake_queue queue;
};

struct fake_cqe {
	struct ibv_wc wc;
	uint32_t released; /* requests of the queue pair whose place is free once this is polled */
	bool send;
};

struct fake_cq {
	struct ibv_cq ibv;
	unsigned users;
	uint32_t capacity;
	struct fake_cqe *ring;
	uint32_t head;
	_Atomic uint32_t count; /* poll looks at it without the lock */
	atomic_int armed;       /* 0, or an enum fake_arm */
	atomic_bool broken;
	uint32_t comp_delivered, async_delivered;

	/* Of null queue pairs, without lock: pushed and polled by one thread. */
	struct fake_cqe *own;
	uint32_t own_head, own_tail;
};

enum fake_arm { FAKE_ARM_NONE, FAKE_ARM_SOLICITED, FAKE_ARM_ANY };

void fake_cq_push(struct fake_cq *cq, const struct fake_cqe *cqe, bool solicited);
/* Of null queue pairs; the second one, without lock, tells a sleeper once all is pushed. */
void fake_cq_push_own(struct fake_cq *cq, const struct fake_cqe *cqe);
void fake_cq_notify_own(struct fake_cq *cq);
void fake_cq_purge(struct fake_cq *cq, uint32_t qp_number);
int fake_poll_cq(struct ibv_cq *ibv, int max, struct ibv_wc *wc);
int fake_req_notify_cq(struct ibv_cq *ibv, int solicited_only);

/* --- srq.c --- */

struct fake_receive {
	uint64_t wr_id;
	int count;
	struct ibv_sge *sges;
};

struct fake_receives {
	uint32_t max, max_sge;
	uint32_t head, count;
	struct fake_receive *ring;
	struct ibv_sge *sges;
};

struct fake_srq {
	struct ibv_srq ibv;
	unsigned users;
	uint32_t limit;
	struct fake_receives receives;
	uint32_t delivered;
};

bool fake_receives_init(struct fake_receives *receives, uint32_t max, uint32_t max_sge);
void fake_receives_finish(struct fake_receives *receives);
/* Takes all or up to the one in *bad. */
int fake_receives_post(struct fake_receives *receives, struct ibv_recv_wr *wr,
		       struct ibv_recv_wr **bad);
bool fake_receives_take(struct fake_receives *receives, struct fake_receive *receive);
/* One was taken: is it time for the event? */
void fake_srq_taken(struct fake_srq *srq);
int fake_post_srq_recv(struct ibv_srq *ibv, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);

/* --- qp.c, modify.c --- */

struct fake_wr {
	uint64_t wr_id;
	int64_t ready_ns;
	enum ibv_wr_opcode opcode;
	unsigned flags;
	uint32_t imm;
	uint32_t key; /* remote, or to invalidate, or of the window */
	uint64_t remote_address;
	struct ibv_mw *mw;
	struct ibv_mw_bind_info bind;
	uint32_t sge_count, inline_bytes;
};

struct fake_qp {
	union {
		struct ibv_qp ibv;
		struct ibv_qp_ex ex;
	};
	struct kvx_list entry;
	struct fake_device *device;
	struct ibv_qp_init_attr init;
	bool extended, null;
	unsigned windows; /* bound to it */
	uint32_t delivered;

	enum ibv_qp_state state;
	struct ibv_qp_attr attr;
	uint32_t sq_psn, rq_psn; /* of the next packet */

	/* The send queue: requests count up, their places are the count modulo the ring. `post` is
	 * held from the first to the last step of a post; the poster writes staged, wrong, posted.
	 */
	pthread_mutex_t post;
	uint32_t staged;
	int wrong; /* errno of what was staged */
	struct fake_wr *ring;
	uint32_t mask;
	struct ibv_sge *sges;
	uint8_t *inlines;
	uint32_t posted, executed;
	_Atomic uint32_t released; /* polled, so that the place is free */

	struct kvx_list active; /* in the NIC's list while posted != executed */
	int64_t wake_ns;
	unsigned tries, rnr_tries;
	uint8_t rnr_code; /* how long the peer wants to be left alone */
	bool met;         /* the first request of the peer has come */

	struct fake_receives receives; /* where there is no shared one */

	/* A null queue pair that has met nothing unusual; and what it did without lock. */
	atomic_bool fast;
	_Atomic uint64_t fast_writes, fast_bytes, fast_posts;
};

struct ibv_qp *fake_create_qp_ex(struct ibv_context *context, struct ibv_qp_init_attr_ex *init);
struct fake_gid *fake_qp_gid(struct fake_qp *qp);
void fake_qp_event(struct fake_qp *qp, enum ibv_event_type type);
/* To the error state: flushes what is outstanding. */
void fake_qp_fail(struct fake_qp *qp);
void fake_qp_flush(struct fake_qp *qp);
/* As fresh: forgets what is outstanding. */
void fake_qp_reset(struct fake_qp *qp);

/* --- post.c --- */

int fake_post_send(struct ibv_qp *ibv, struct ibv_send_wr *wr, struct ibv_send_wr **bad);
int fake_post_recv(struct ibv_qp *ibv, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);
/* The extended functions for these IBV_QP_EX_WITH_... */
void fake_post_init(struct fake_qp *qp, uint64_t operations);

/* --- execute.c --- */

/* Tries the oldest request; false: not now, but at *wake_ns (INT64_MAX: once something changes). */
bool fake_qp_step(struct fake_qp *qp, int64_t *wake_ns);
/* Is the way from one port to the other whole? */
bool fake_is_cut(const struct fake_port *port, const struct fake_port *other);

#endif
