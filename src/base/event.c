/* SPDX-License-Identifier: Apache-2.0 */
#include "base/event.h"

#include "base/clock.h"
#include "base/error.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

void kvx_event_init(struct kvx_event *event)
{
	event->sequence = 0;
	event->waited_for = false;
	event->fd = -1;
}

void kvx_event_finish(struct kvx_event *event)
{
	if (event->fd >= 0)
		close(event->fd);
}

void kvx_event_notify(struct kvx_event *event)
{
	uint64_t one = 1;

	/* Sequentially consistent with kvx_event_wait(): a waiter sees the new sequence or is seen.
	 */
	atomic_fetch_add(&event->sequence, 1);
	if (atomic_load(&event->waited_for) && atomic_exchange(&event->waited_for, false))
		syscall(SYS_futex, &event->sequence, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	int fd = atomic_load(&event->fd);
	if (fd >= 0)
		(void)!write(fd, &one, sizeof(one));
}

static bool changes(struct kvx_event *event, uint32_t seen, int64_t until_ns)
{
	do {
		if (atomic_load_explicit(&event->sequence, memory_order_acquire) != seen)
			return true;
		sched_yield();
	} while (kvx_now_ns() < until_ns);
	return false;
}

void kvx_event_wait(struct kvx_event *event, uint32_t seen, int64_t deadline_ns, int64_t spin_ns)
{
	int64_t spun_ns = kvx_now_ns() + spin_ns;
	struct timespec deadline = {.tv_sec = deadline_ns / KVX_NS_PER_S,
				    .tv_nsec = deadline_ns % KVX_NS_PER_S};

	if (changes(event, seen, spun_ns < deadline_ns ? spun_ns : deadline_ns))
		return;
	atomic_store(&event->waited_for, true);
	/* FUTEX_WAIT_BITSET: its time-out is a point on CLOCK_MONOTONIC. */
	if (atomic_load(&event->sequence) == seen)
		syscall(SYS_futex, &event->sequence, FUTEX_WAIT_BITSET_PRIVATE, seen, &deadline,
			NULL, FUTEX_BITSET_MATCH_ANY);
}

int kvx_event_fd(struct kvx_event *event)
{
	int none = -1;
	int fd = atomic_load(&event->fd);

	if (fd >= 0)
		return fd;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return kvx_fail(KVX_E_SYSTEM, "event descriptor: %s", strerror(errno));
	if (!atomic_compare_exchange_strong(&event->fd, &none, fd)) {
		close(fd);
		return none;
	}
	return fd;
}
