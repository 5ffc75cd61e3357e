/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that wait: suspended, so that libmicrohttpd does nothing for them, and asked again when
 * the engine has recorded an event, every 10 ms (a fence is no event), and at their deadline.
 */
#include "base/clock.h"
#include "control/server.h"

#define EVENTS_AT_ONCE 64u
/* How long the control may have to wait for its other thread when it closes. */
#define EVENTS_WAIT_MS 50u

/* --- who waits --- */

bool kvx_waiting_begin(struct kvx_control *control)
{
	if (control->waiting == KVX_WAITING_MAX)
		return false;
	if (control->waiting++ == 0) {
		pthread_mutex_lock(&control->lock);
		control->wanted = true;
		pthread_cond_signal(&control->changed);
		pthread_mutex_unlock(&control->lock);
	}
	return true;
}

void kvx_waiting_end(struct kvx_control *control)
{
	if (--control->waiting)
		return;
	pthread_mutex_lock(&control->lock);
	control->wanted = false;
	pthread_mutex_unlock(&control->lock);
}

/* --- the thread that waits for events on their behalf --- */

/* False: the control closes. */
static bool wait_until_wanted(struct kvx_control *control)
{
	pthread_mutex_lock(&control->lock);
	while (!control->wanted && !control->ending)
		pthread_cond_wait(&control->changed, &control->lock);
	bool ending = control->ending;
	pthread_mutex_unlock(&control->lock);
	return !ending;
}

void *kvx_events_run(void *context)
{
	static _Thread_local struct kvx_event_view views[EVENTS_AT_ONCE];
	struct kvx_control *control = context;
	uint64_t after = 0;

	while (wait_until_wanted(control)) {
		int count = kvx_engine_events(control->engine, after, views, EVENTS_AT_ONCE,
					      EVENTS_WAIT_MS);
		if (count > 0) {
			after = views[count - 1].sequence;
			kvx_control_wake(control);
		}
	}
	return NULL;
}

/* --- held requests --- */

void kvx_request_hold(struct kvx_request *request, uint64_t wait_ms)
{
	struct kvx_exchange *exchange = kvx_exchange_of(request);

	if (!exchange->counted && !kvx_waiting_begin(request->control)) {
		kvx_answer_problem(request, MHD_HTTP_SERVICE_UNAVAILABLE, KVX_E_LIMIT,
				   "control: %u requests wait or follow events, the most that may; "
				   "ask again later, or without wait_ms",
				   KVX_WAITING_MAX);
		return;
	}
	if (!exchange->counted)
		request->deadline_ns = kvx_now_ns() + (int64_t)wait_ms * KVX_NS_PER_MS;
	exchange->counted = true;
	exchange->holding = true;
}

void kvx_held_begin(struct kvx_exchange *exchange)
{
	exchange->suspended = true;
	kvx_list_append(&exchange->request.control->held, &exchange->entry);
	MHD_suspend_connection(exchange->connection);
}

/* libmicrohttpd takes the answer when it comes to this connection again. */
static void resume(struct kvx_exchange *exchange)
{
	exchange->suspended = false;
	kvx_list_remove(&exchange->entry);
	MHD_resume_connection(exchange->connection);
}

static void ask(struct kvx_exchange *exchange, int64_t now_ns)
{
	struct kvx_request *request = &exchange->request;

	request->expired = now_ns >= request->deadline_ns;
	exchange->holding = false;
	exchange->route->handle(request);
	if (!exchange->response && (request->expired || !exchange->holding))
		kvx_answer_problem(request, MHD_HTTP_GATEWAY_TIMEOUT, KVX_E_TIMEDOUT,
				   "%s: its time has passed", exchange->route->path);
	if (exchange->response || exchange->gone)
		resume(exchange);
}

void kvx_held_ask(struct kvx_control *control, bool all)
{
	struct kvx_list *entry, *next;
	int64_t now_ns = kvx_now_ns();

	if (kvx_list_empty(&control->held))
		return;
	all = all || now_ns - control->tick_ns >= KVX_TICK_MS * KVX_NS_PER_MS;
	if (all)
		control->tick_ns = now_ns;
	kvx_list_for_each (entry, next, &control->held) {
		struct kvx_exchange *exchange = kvx_container_of(entry, struct kvx_exchange, entry);
		if (all || now_ns >= exchange->request.deadline_ns)
			ask(exchange, now_ns);
	}
}

void kvx_held_finish(struct kvx_control *control)
{
	while (!kvx_list_empty(&control->held)) {
		struct kvx_exchange *exchange =
			kvx_container_of(control->held.next, struct kvx_exchange, entry);
		kvx_answer_problem(&exchange->request, MHD_HTTP_SERVICE_UNAVAILABLE,
				   KVX_E_CANCELLED, "control: the engine is being closed");
		resume(exchange);
	}
}

/* What it waited for goes on without it. */
void kvx_held_leave(struct kvx_control *control, int fd)
{
	struct kvx_list *entry, *next;

	kvx_list_for_each (entry, next, &control->held) {
		struct kvx_exchange *exchange = kvx_container_of(entry, struct kvx_exchange, entry);
		if (kvx_connection_fd(exchange->connection) != fd)
			continue;
		exchange->gone = true;
		resume(exchange);
	}
}

uint32_t kvx_held_fds(const struct kvx_control *control, int *fds)
{
	uint32_t count = 0;

	for (struct kvx_list *entry = control->held.next; entry != &control->held;
	     entry = entry->next)
		fds[count++] = kvx_connection_fd(
			kvx_container_of(entry, struct kvx_exchange, entry)->connection);
	return count;
}

int64_t kvx_held_deadline_ns(const struct kvx_control *control)
{
	int64_t first = kvx_list_empty(&control->held)
				? KVX_NEVER_NS
				: control->tick_ns + KVX_TICK_MS * KVX_NS_PER_MS;

	for (struct kvx_list *entry = control->held.next; entry != &control->held;
	     entry = entry->next) {
		int64_t deadline_ns =
			kvx_container_of(entry, struct kvx_exchange, entry)->request.deadline_ns;
		if (deadline_ns < first)
			first = deadline_ns;
	}
	return first;
}
