/* SPDX-License-Identifier: Apache-2.0 */
/* The lock, its one condition, and what is counted under it. */
#include "internal.h"

#include <time.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

struct fake_counters fake_counters;

void fake_lock(void)
{
	pthread_mutex_lock(&mutex);
}

void fake_unlock(void)
{
	pthread_mutex_unlock(&mutex);
}

void fake_wait(void)
{
	pthread_cond_wait(&condition, &mutex);
}

void fake_changed(void)
{
	pthread_cond_broadcast(&condition);
}

int64_t fake_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

#define X(name)                                      \
	EXPORT uint64_t fake_cuda_##name(void)       \
	{                                            \
		fake_lock();                         \
		uint64_t value = fake_counters.name; \
		fake_unlock();                       \
		return value;                        \
	}
X(copies)
X(launches)
X(flushes)
X(live)
X(leaked)
#undef X
