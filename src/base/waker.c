/* SPDX-License-Identifier: Apache-2.0 */
#include "base/waker.h"

#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void drain(struct kvx_pollable *pollable, uint32_t events)
{
	uint64_t count;

	(void)events;
	(void)!read(pollable->fd, &count, sizeof(count));
}

int kvx_waker_init(struct kvx_waker *waker, struct kvx_poller *poller)
{
	waker->sleeping = 0;
	waker->pollable.ready = drain;
	waker->pollable.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (waker->pollable.fd < 0)
		return kvx_fail(KVX_E_SYSTEM, "eventfd: %s", strerror(errno));
	int error = kvx_poller_add(poller, &waker->pollable, EPOLLIN);
	if (error)
		close(waker->pollable.fd);
	return error;
}

void kvx_waker_finish(struct kvx_waker *waker, struct kvx_poller *poller)
{
	kvx_poller_remove(poller, &waker->pollable);
	close(waker->pollable.fd);
}

void kvx_waker_arm(struct kvx_waker *waker)
{
	/* Sequentially consistent on both sides: either the worker's last look sees the work, or
	 * the waker sees that it sleeps. */
	atomic_exchange(&waker->sleeping, 1);
}

void kvx_waker_disarm(struct kvx_waker *waker)
{
	atomic_store_explicit(&waker->sleeping, 0, memory_order_relaxed);
}

void kvx_waker_wake(struct kvx_waker *waker)
{
	uint64_t one = 1;

	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&waker->sleeping, memory_order_relaxed) &&
	    atomic_exchange(&waker->sleeping, 0))
		(void)!write(waker->pollable.fd, &one, sizeof(one));
}
