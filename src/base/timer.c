/* SPDX-License-Identifier: Apache-2.0 */
#include "base/timer.h"

#include "base/clock.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdlib.h>

void kvx_timers_finish(struct kvx_timers *timers)
{
	free(timers->heap);
}

static bool earlier(const struct kvx_timers *timers, uint32_t a, uint32_t b)
{
	return timers->heap[a]->deadline_ns < timers->heap[b]->deadline_ns;
}

static void swap(struct kvx_timers *timers, uint32_t a, uint32_t b)
{
	struct kvx_timer *moved = timers->heap[a];

	timers->heap[a] = timers->heap[b];
	timers->heap[b] = moved;
	timers->heap[a]->place = a;
	timers->heap[b]->place = b;
}

static void settle(struct kvx_timers *timers, uint32_t place)
{
	for (; place > 1 && earlier(timers, place, place / 2); place /= 2)
		swap(timers, place, place / 2);
	for (;;) {
		uint32_t child = 2 * place;
		if (child < timers->count && earlier(timers, child + 1, child))
			child++;
		if (child > timers->count || !earlier(timers, child, place))
			return;
		swap(timers, place, child);
		place = child;
	}
}

static int grow(struct kvx_timers *timers)
{
	uint32_t size = timers->size ? 2 * timers->size : 64;
	struct kvx_timer **heap = realloc(timers->heap, size * sizeof(struct kvx_timer *));

	if (!heap)
		return kvx_fail(KVX_E_MEMORY, "timers: out of memory");
	timers->heap = heap;
	timers->size = size;
	return 0;
}

int kvx_timer_start(struct kvx_timers *timers, struct kvx_timer *timer, int64_t deadline_ns)
{
	if (!timer->place) {
		int error = timers->count + 1 >= timers->size ? grow(timers) : 0;
		if (error)
			return error;
		timer->place = ++timers->count;
		timers->heap[timer->place] = timer;
	}
	timer->deadline_ns = deadline_ns;
	settle(timers, timer->place);
	return 0;
}

void kvx_timer_stop(struct kvx_timers *timers, struct kvx_timer *timer)
{
	uint32_t place = timer->place;

	if (!place)
		return;
	swap(timers, place, timers->count);
	timers->count--;
	timer->place = 0;
	if (place <= timers->count)
		settle(timers, place);
}

int64_t kvx_timers_next_ns(const struct kvx_timers *timers)
{
	return timers->count ? timers->heap[1]->deadline_ns : KVX_NEVER_NS;
}

int kvx_timers_run(struct kvx_timers *timers, int64_t now_ns)
{
	int ran = 0;

	for (; kvx_timers_next_ns(timers) <= now_ns; ran++) {
		struct kvx_timer *timer = timers->heap[1];
		kvx_timer_stop(timers, timer);
		timer->expired(timer);
	}
	return ran;
}
