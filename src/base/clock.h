/* SPDX-License-Identifier: Apache-2.0 */
/* Monotonic time. Deadlines are points on this clock in nanoseconds; wall-clock jumps do not move
 * them. */
#ifndef KVX_BASE_CLOCK_H
#define KVX_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define KVX_NS_PER_US INT64_C(1000)
#define KVX_NS_PER_MS INT64_C(1000000)
#define KVX_NS_PER_S INT64_C(1000000000)
#define KVX_NEVER_NS INT64_MAX

static inline int64_t kvx_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * KVX_NS_PER_S + now.tv_nsec;
}

static inline void kvx_cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
