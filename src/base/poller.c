/* SPDX-License-Identifier: Apache-2.0 */
#include "base/poller.h"

#include "base/clock.h"
#include "base/error.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int kvx_poller_init(struct kvx_poller *poller)
{
	poller->event_count = 0;
	poller->fd = epoll_create1(EPOLL_CLOEXEC);
	return poller->fd < 0 ? kvx_fail(KVX_E_SYSTEM, "epoll_create1: %s", strerror(errno)) : 0;
}

void kvx_poller_finish(struct kvx_poller *poller)
{
	close(poller->fd);
}

static int control(struct kvx_poller *poller, int operation, struct kvx_pollable *pollable,
		   uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = pollable};

	if (epoll_ctl(poller->fd, operation, pollable->fd, &event) < 0)
		return kvx_fail(KVX_E_SYSTEM, "epoll_ctl: descriptor %d: %s", pollable->fd,
				strerror(errno));
	return 0;
}

int kvx_poller_add(struct kvx_poller *poller, struct kvx_pollable *pollable, uint32_t events)
{
	return control(poller, EPOLL_CTL_ADD, pollable, events);
}

int kvx_poller_change(struct kvx_poller *poller, struct kvx_pollable *pollable, uint32_t events)
{
	return control(poller, EPOLL_CTL_MOD, pollable, events);
}

void kvx_poller_remove(struct kvx_poller *poller, struct kvx_pollable *pollable)
{
	epoll_ctl(poller->fd, EPOLL_CTL_DEL, pollable->fd, NULL);
	for (int i = 0; i < poller->event_count; i++)
		if (poller->events[i].data.ptr == pollable)
			poller->events[i].data.ptr = NULL;
}

void kvx_poller_wait(struct kvx_poller *poller, int64_t timeout_ns)
{
	struct timespec timeout = {.tv_sec = timeout_ns / KVX_NS_PER_S,
				   .tv_nsec = timeout_ns % KVX_NS_PER_S};
	int count = epoll_pwait2(poller->fd, poller->events, KVX_POLLER_EVENTS, &timeout, NULL);

	if (count < 0 && errno == ENOSYS) /* Linux before 5.11 */
		count = epoll_wait(poller->fd, poller->events, KVX_POLLER_EVENTS,
				   (int)((timeout_ns + KVX_NS_PER_MS - 1) / KVX_NS_PER_MS));
	poller->event_count = count < 0 ? 0 : count;
}

int kvx_poller_dispatch(struct kvx_poller *poller)
{
	int ran = 0;

	for (int i = 0; i < poller->event_count; i++) {
		struct kvx_pollable *pollable = poller->events[i].data.ptr;
		if (!pollable)
			continue;
		pollable->ready(pollable, poller->events[i].events);
		ran++;
	}
	poller->event_count = 0;
	return ran;
}

int kvx_poller_run(struct kvx_poller *poller, int64_t timeout_ns)
{
	kvx_poller_wait(poller, timeout_ns);
	return kvx_poller_dispatch(poller);
}
