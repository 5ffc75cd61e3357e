/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Something that threads wait for: a futex, and an eventfd for those who ask for one. Notifying
 * costs no system call while nobody waits. The condition itself lives elsewhere, in an atomic: read
 * it, and where it does not hold, wait with the sequence read before.
 */
#ifndef KVX_BASE_EVENT_H
#define KVX_BASE_EVENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct kvx_event {
	_Atomic uint32_t sequence; /* grows with each notification */
	_Atomic bool waited_for;   /* waiters set it, the notification that wakes them clears it */
	_Atomic int fd;            /* -1 until asked for */
};

void kvx_event_init(struct kvx_event *event);
void kvx_event_finish(struct kvx_event *event);

/* After the condition was made true. Any thread. */
void kvx_event_notify(struct kvx_event *event);

static inline uint32_t kvx_event_sequence(struct kvx_event *event)
{
	return atomic_load(&event->sequence);
}

/* Returns when the sequence is not `seen` any more, or at the deadline, or for no reason at all.
 * Looks for spin_ns before it sleeps: what comes soon then costs neither side a system call. */
void kvx_event_wait(struct kvx_event *event, uint32_t seen, int64_t deadline_ns, int64_t spin_ns);

/* The eventfd, made at the first call; KVX_E_SYSTEM. Any thread. */
int kvx_event_fd(struct kvx_event *event);

#endif
