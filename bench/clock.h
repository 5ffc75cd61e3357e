/* SPDX-License-Identifier: Apache-2.0 */
/* Monotonic time, which all processes of one machine share. */
#ifndef KVX_BENCH_CLOCK_H
#define KVX_BENCH_CLOCK_H

#include <errno.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

static inline int64_t clock_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static inline struct timespec clock_timespec(int64_t at_ns)
{
	return (struct timespec){at_ns / NS_PER_S, at_ns % NS_PER_S};
}

static inline void clock_sleep_until(int64_t at_ns)
{
	struct timespec at = clock_timespec(at_ns);

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
		;
}

#endif
