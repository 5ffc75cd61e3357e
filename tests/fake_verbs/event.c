/* SPDX-License-Identifier: Apache-2.0 */
#include "internal.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

bool fake_queue_init(struct fake_queue *queue)
{
	kvx_list_init(&queue->events);
	queue->fd = eventfd(0, EFD_CLOEXEC);
	return queue->fd >= 0;
}

static struct fake_event *first(struct fake_queue *queue)
{
	return kvx_container_of(queue->events.next, struct fake_event, entry);
}

/* Under the lock the descriptor is readable if and only if there are events, so neither this nor
 * the write in fake_queue_push() can block, whatever flags the program has set. */
static void drop(struct fake_queue *queue, struct fake_event *event)
{
	uint64_t value;

	kvx_list_remove(&event->entry);
	free(event);
	if (kvx_list_empty(&queue->events) && read(queue->fd, &value, sizeof(value)) < 0)
		fake_die("an event's descriptor was read by somebody else");
}

void fake_queue_finish(struct fake_queue *queue)
{
	while (!kvx_list_empty(&queue->events))
		drop(queue, first(queue));
	close(queue->fd);
}

void fake_queue_push(struct fake_queue *queue, struct ibv_async_event async, uint32_t *delivered)
{
	struct fake_event *event = malloc(sizeof(*event));
	uint64_t one = 1;

	if (!event)
		fake_die("no memory for an event");
	event->async = async;
	event->delivered = delivered;
	if (kvx_list_empty(&queue->events) && write(queue->fd, &one, sizeof(one)) < 0)
		fake_die("an event's descriptor was closed");
	kvx_list_append(&queue->events, &event->entry);
}

void fake_queue_purge(struct fake_queue *queue, const uint32_t *delivered)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &queue->events) {
		struct fake_event *event = kvx_container_of(entry, struct fake_event, entry);
		if (event->delivered == delivered)
			drop(queue, event);
	}
}

static bool try_take(struct fake_queue *queue, struct ibv_async_event *async)
{
	bool found;

	fake_lock();
	found = !kvx_list_empty(&queue->events);
	if (found) {
		struct fake_event *event = first(queue);
		*async = event->async;
		if (event->delivered)
			(*event->delivered)++;
		drop(queue, event);
	}
	fake_unlock();
	return found;
}

int fake_queue_take(struct fake_queue *queue, struct ibv_async_event *async)
{
	struct pollfd readable = {queue->fd, POLLIN, 0};

	while (!try_take(queue, async)) {
		if (fcntl(queue->fd, F_GETFL) & O_NONBLOCK) {
			errno = EAGAIN;
			return -1;
		}
		if (poll(&readable, 1, -1) < 0)
			return -1;
	}
	return 0;
}

void fake_acknowledged(const uint32_t *delivered, const uint32_t *completed)
{
	while (*delivered != *completed)
		fake_wait();
}

EXPORT int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	return fake_queue_take(&fake_context(context)->async, event);
}

EXPORT void ibv_ack_async_event(struct ibv_async_event *event)
{
	fake_lock();
	switch (event->event_type) {
	case IBV_EVENT_CQ_ERR:
		event->element.cq->async_events_completed++;
		break;
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
	case IBV_EVENT_QP_LAST_WQE_REACHED:
	case IBV_EVENT_COMM_EST:
		event->element.qp->events_completed++;
		break;
	case IBV_EVENT_SRQ_ERR:
	case IBV_EVENT_SRQ_LIMIT_REACHED:
		event->element.srq->events_completed++;
		break;
	default: /* Events of a port or device belong to no object. */
		break;
	}
	fake_changed();
	fake_unlock();
}
