/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program's functions stand before libc's: what asks for the wall clock in this process, the
 * engine included, gets the shifted one. They ask the kernel, since libc's functions of these
 * names are what they stand before.
 */
#include "clock.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Written by the worker's thread, read by all; nothing else depends on it. */
static _Atomic int64_t shift_s;

void chaos_clock_shift(int64_t seconds)
{
	atomic_store_explicit(&shift_s, seconds, memory_order_relaxed);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int error = (int)syscall(SYS_clock_gettime, clock, now);

	if (!error && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += atomic_load_explicit(&shift_s, memory_order_relaxed);
	return error;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &precise))
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *seconds)
{
	struct timespec precise;

	clock_gettime(CLOCK_REALTIME, &precise);
	if (seconds)
		*seconds = precise.tv_sec;
	return precise.tv_sec;
}
