/* SPDX-License-Identifier: Apache-2.0 */
/* Timers in a binary heap. Owner: the worker. */
#ifndef KVX_BASE_TIMER_H
#define KVX_BASE_TIMER_H

#include <stdint.h>

/* Embedded in what it times. Set up with its expired(); zero otherwise. */
struct kvx_timer {
	void (*expired)(struct kvx_timer *timer);
	int64_t deadline_ns;
	uint32_t place; /* in the heap, counted from 1; 0: not running */
};

struct kvx_timers {
	struct kvx_timer **heap; /* heap[0] is not used */
	uint32_t count, size;
};

void kvx_timers_finish(struct kvx_timers *timers);

/* Starts the timer, or moves its deadline. KVX_E_MEMORY. */
int kvx_timer_start(struct kvx_timers *timers, struct kvx_timer *timer, int64_t deadline_ns);

/* Does nothing to a timer that is not running. */
void kvx_timer_stop(struct kvx_timers *timers, struct kvx_timer *timer);

/* The earliest deadline, or KVX_NEVER_NS. */
int64_t kvx_timers_next_ns(const struct kvx_timers *timers);

/* Runs expired() of all whose deadline is not after now, earliest first. Returns how many. */
int kvx_timers_run(struct kvx_timers *timers, int64_t now_ns);

#endif
