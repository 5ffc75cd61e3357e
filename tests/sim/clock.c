/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time and chance. What the library asks the system for is defined here in the system's place, so
 * that nothing real is left in a run: a linker prefers the program's own functions.
 */
#include "sim.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>

/* A number that is no descriptor: writing to it or closing it does nothing. */
#define NO_DESCRIPTOR 0x3fffffff

/* Each look at the clock takes this long, so that no loop over it is endless. */
#define LOOK_NS 20

int64_t sim_now_ns;
void (*sim_sleeper)(int64_t timeout_ns);

static uint64_t state;

void sim_seed(uint64_t seed)
{
	state = seed * UINT64_C(0x9e3779b97f4a7c15) + UINT64_C(0x632be59bd9b4e019);
	sim_now_ns = 1000 * MS;
}

uint64_t sim_random(void)
{
	uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint32_t sim_below(uint32_t end)
{
	return (uint32_t)((sim_random() >> 32) * end >> 32);
}

uint32_t sim_between(uint32_t low, uint32_t high)
{
	return low + sim_below(high - low + 1);
}

int64_t sim_span(int64_t low_ns, int64_t high_ns)
{
	return low_ns + (int64_t)(sim_random() % (uint64_t)(high_ns - low_ns + 1));
}

bool sim_percent(uint32_t percent)
{
	return sim_below(100) < percent;
}

/* --- in the system's place --- */

int clock_gettime(clockid_t clock, struct timespec *now)
{
	(void)clock;
	sim_now_ns += LOOK_NS;
	*now = (struct timespec){.tv_sec = sim_now_ns / (1000 * MS),
				 .tv_nsec = sim_now_ns % (1000 * MS)};
	return 0;
}

ssize_t getrandom(void *buffer, size_t length, unsigned int flags)
{
	(void)flags;
	for (size_t i = 0; i < length; i++)
		((uint8_t *)buffer)[i] = (uint8_t)(sim_random() >> 24);
	return (ssize_t)length;
}

int eventfd(unsigned int count, int flags)
{
	(void)count;
	(void)flags;
	return NO_DESCRIPTOR;
}

int epoll_create1(int flags)
{
	(void)flags;
	return NO_DESCRIPTOR;
}

int epoll_ctl(int poller, int operation, int fd, struct epoll_event *event)
{
	(void)poller;
	(void)operation;
	(void)fd;
	(void)event;
	return 0;
}

int epoll_pwait2(int poller, struct epoll_event *events, int most, const struct timespec *timeout,
		 const sigset_t *signals)
{
	(void)poller;
	(void)events;
	(void)most;
	(void)signals;
	if (sim_sleeper)
		sim_sleeper(timeout->tv_sec * 1000 * MS + timeout->tv_nsec);
	return 0;
}
