/* SPDX-License-Identifier: Apache-2.0 */
/* Wakes a worker that sleeps on its poller: an eventfd that is written only when it really sleeps.
 */
#ifndef KVX_BASE_WAKER_H
#define KVX_BASE_WAKER_H

#include "base/poller.h"

#include <stdatomic.h>

struct kvx_waker {
	struct kvx_pollable pollable;
	_Atomic uint32_t sleeping; /* the worker sets it, whoever wakes clears it */
};

int kvx_waker_init(struct kvx_waker *waker, struct kvx_poller *poller);
void kvx_waker_finish(struct kvx_waker *waker, struct kvx_poller *poller);

/* The worker: announces that it will sleep. Look for work once more after this, then sleep. */
void kvx_waker_arm(struct kvx_waker *waker);
void kvx_waker_disarm(struct kvx_waker *waker);

/* Any thread, after publishing the work. A system call only if the worker sleeps. */
void kvx_waker_wake(struct kvx_waker *waker);

#endif
