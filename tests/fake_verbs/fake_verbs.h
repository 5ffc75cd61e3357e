/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libibverbs that needs no device: RDMA between queue pairs of one process, in memory, with the
 * rules of reliable connections. A program gets it in the place of the real library through
 * LD_LIBRARY_PATH, or links it; this header is how a test steers it and looks inside.
 *
 * One thread, the "NIC", executes the work requests of all devices: in the order posted on each
 * queue pair, one of each queue pair in turn. Where real devices differ the fake is the strict one:
 * queues hold exactly what was asked for, a completion with an error fills only wr_id, status,
 * qp_num and vendor_err, a bind does not change ibv_mw.rkey, and objects that others depend on are
 * busy (ibv_close_device with objects left, ibv_destroy_qp and ibv_dereg_mr with windows bound).
 *
 * FAKE_VERBS_DEVICES lists the devices, NAME:LAYER:GBPS[:PORTS[:GIDS]] separated by commas. LAYER
 * is ROCE or IB. GIDS, for RoCE, is a string of l (link-local), 4 (IPv4-mapped) and 6 (global
 * IPv6): each gives two entries, RoCE v1 and then v2. "fake0:ROCE:100:1:l4,fake1:ROCE:100:1:l4" is
 * what there is without the variable. FAKE_VERBS_OPTIONS sets options: "delay_us=2000,windows=0".
 * FAKE_VERBS_SYSFS is where ibdev_path begins in place of /sys.
 *
 * All functions may be called from any thread. What names no device, port or option that exists
 * ends the program: it is a mistake in a test.
 */
#ifndef FAKE_VERBS_H
#define FAKE_VERBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What a device can do and how it behaves; X(name, value it begins with). Limits and capabilities
 * count for devices opened and objects made from then on, the others at once.
 *
 * null              queue pairs complete each request inside the post and move no bytes. A write
 *                   without immediate takes no lock, so that the cost of the program above can be
 *                   measured; its queue pair and send completion queue must then be used by one
 *                   thread, and faults are not for this mode
 * windows           memory windows of type 2B
 * extended_post     the ibv_wr_* functions
 * dmabuf            ibv_reg_dmabuf_mr, of any descriptor that can be mapped
 * peer_memory       1: ibv_reg_mr takes addresses that the CPU may not read, as a kernel does that
 *                   knows whose they are; nothing may be moved by them
 * relaxed_ordering  0: the flag is ignored, as by a kernel that does not know it
 * srq_limit         events of a shared receive queue that runs low
 * purge             1: destroying a queue pair takes its completions away too, as some devices do
 * delay_us          from post to execution
 * mtu               active MTU in bytes
 * max_...           as in ibv_device_attr; max_inline in bytes
 * locked_max        bytes that may be registered in all; more fails with ENOMEM
 * fail_registration the n-th registration from now on fails, once
 * fail_errno        and how
 */
#define FAKE_VERBS_OPTIONS(X)             \
	X(null, 0)                        \
	X(windows, 1)                     \
	X(extended_post, 1)               \
	X(dmabuf, 1)                      \
	X(peer_memory, 0)                 \
	X(relaxed_ordering, 1)            \
	X(srq_limit, 1)                   \
	X(purge, 0)                       \
	X(delay_us, 0)                    \
	X(mtu, 4096)                      \
	X(max_mr_size, UINT64_C(1) << 40) \
	X(max_qp, 1024)                   \
	X(max_qp_wr, 16384)               \
	X(max_sge, 16)                    \
	X(max_inline, 220)                \
	X(max_rd_atomic, 16)              \
	X(max_cqe, 1 << 20)               \
	X(max_mw, 16384)                  \
	X(max_srq_wr, 16384)              \
	X(locked_max, UINT64_MAX)         \
	X(fail_registration, 0)           \
	X(fail_errno, 12)

void fake_verbs_set(const char *option, uint64_t value);
uint64_t fake_verbs_get(const char *option);

/* The link of a port: down, its neighbours' requests and its own go unanswered. PORT_ERR and
 * PORT_ACTIVE events tell. */
void fake_verbs_port(const char *device, unsigned number, bool up);

/* The way between two ports, both directions, with no event: requests go unanswered until they run
 * out of retries. A port and itself is a way too. */
void fake_verbs_cut(const char *device, unsigned number, const char *other, unsigned other_number,
		    bool cut);

/* Of a frozen device nothing is executed or answered, and no timer runs out, until it is thawed. */
void fake_verbs_freeze(const char *name, bool frozen);

/* Everything opened on the device up to now fails for good: DEVICE_FATAL, requests are flushed,
 * nothing new can be made. It can be opened anew. */
void fake_verbs_device_fatal(const char *name);

/* The queue pair goes to the error state by itself: QP_FATAL. False if there is none. */
bool fake_verbs_qp_fatal(uint32_t number);

/* The numbers of the device's queue pairs; returns how many there are. */
size_t fake_verbs_qps(const char *name, uint32_t *numbers, size_t max);

/* Regions registered now on the device that share a byte with this memory. */
size_t fake_verbs_registered(const char *name, const void *address, size_t bytes);

struct fake_verbs_counters {
	/* Executed with success, by the device that asked. */
	uint64_t writes; /* with immediate or without */
	uint64_t imms;
	uint64_t reads;
	uint64_t sends;
	uint64_t binds;
	uint64_t invalidations;
	uint64_t bytes;

	uint64_t posts;         /* doorbells: calls that handed over requests */
	uint64_t receives;      /* receive requests used up */
	uint64_t registrations; /* all there ever were */
	uint64_t twice;         /* registrations of memory that was registered already */
	uint64_t relaxed;       /* registrations with relaxed ordering */
	uint64_t registered_bytes;

	uint64_t refused;   /* requests that this device refused to a peer: keys and ranges */
	uint64_t not_ready; /* requests of others that found no receive here */
	uint64_t timeouts;  /* requests of this device that went unanswered once more */
	uint64_t flushed;
	uint64_t overruns; /* completion queues that were too small */

	/* Objects alive. */
	uint64_t contexts, pds, mrs, mws, channels, cqs, srqs, qps;
};

/* Of one device, or of all with NULL. */
void fake_verbs_counters(const char *name, struct fake_verbs_counters *counters);

#endif
