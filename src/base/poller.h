/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors to sleep on: epoll(7), and a callback for each. Owner: the worker's thread. */
#ifndef KVX_BASE_POLLER_H
#define KVX_BASE_POLLER_H

#include <stdint.h>
#include <sys/epoll.h>

#define KVX_POLLER_EVENTS 64

/* Embedded in what owns the descriptor. ready() may remove its own pollable and others. */
struct kvx_pollable {
	void (*ready)(struct kvx_pollable *pollable, uint32_t events);
	int fd;
};

struct kvx_poller {
	int fd;                                       /* the epoll descriptor */
	struct epoll_event events[KVX_POLLER_EVENTS]; /* of the run under way */
	int event_count;                              /* 0 outside a run */
};

int kvx_poller_init(struct kvx_poller *poller);
void kvx_poller_finish(struct kvx_poller *poller);

/* Level-triggered. events: EPOLLIN, EPOLLOUT. fd and ready of the pollable are set by the caller.
 */
int kvx_poller_add(struct kvx_poller *poller, struct kvx_pollable *pollable, uint32_t events);
int kvx_poller_change(struct kvx_poller *poller, struct kvx_pollable *pollable, uint32_t events);

/* Call before closing the descriptor. No callback follows, not even for events already fetched. */
void kvx_poller_remove(struct kvx_poller *poller, struct kvx_pollable *pollable);

/* Waits at most timeout_ns (0: not at all) for events, and runs their callbacks. Returns how many
 * ran. */
int kvx_poller_run(struct kvx_poller *poller, int64_t timeout_ns);

/* The two halves of it. */
void kvx_poller_wait(struct kvx_poller *poller, int64_t timeout_ns);
int kvx_poller_dispatch(struct kvx_poller *poller);

#endif
