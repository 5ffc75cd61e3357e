/* SPDX-License-Identifier: Apache-2.0 */
#include "internal.h"

#include <stdlib.h>

#define FLAGS_ALL (KVX_CU_EVENT_BLOCKING_SYNC | KVX_CU_EVENT_DISABLE_TIMING)

struct kvx_cu_event {
	struct kvx_list entry;
	struct kvx_cu_context *context;
	struct fake_mark *mark; /* of the last record; NULL: none yet */
	uint64_t capture;       /* that the last record was a part of; 0: of none */
	unsigned flags;
};

void fake_mark_release(struct fake_mark *mark)
{
	if (!--mark->users)
		free(mark);
}

/* Of any context: a stream may wait for another device. */
static struct kvx_cu_event *find(struct kvx_cu_event *event)
{
	struct kvx_list *entry, *following;

	for (unsigned i = 0; i < DEVICES_MAX; i++) {
		if (!fake_contexts[i].retained)
			continue;
		kvx_list_for_each (entry, following, &fake_contexts[i].events) {
			struct kvx_cu_event *own =
				kvx_container_of(entry, struct kvx_cu_event, entry);
			if (own == event)
				return own;
		}
	}
	return NULL;
}

EXPORT enum kvx_cu_result cuEventCreate(struct kvx_cu_event **event, unsigned int flags)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);
	struct kvx_cu_event *own;

	if (result)
		return result;
	if (flags & ~(unsigned)FLAGS_ALL)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	own = calloc(1, sizeof(*own));
	if (!own)
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	own->context = context;
	own->flags = flags;
	kvx_list_append(&context->events, &own->entry);
	fake_counters.live++;
	*event = own;
	return fake_leave(KVX_CU_SUCCESS);
}

static void destroy(struct kvx_cu_event *event)
{
	kvx_list_remove(&event->entry);
	if (event->mark)
		fake_mark_release(event->mark);
	free(event);
	fake_counters.live--;
}

/* Also of a context that has failed. */
EXPORT enum kvx_cu_result cuEventDestroy_v2(struct kvx_cu_event *event)
{
	if (!fake_initialized() || !fake_current())
		return KVX_CU_ERROR_INVALID_CONTEXT;
	fake_lock();
	event = find(event);
	if (!event)
		return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
	destroy(event);
	return fake_leave(KVX_CU_SUCCESS);
}

void fake_events_end(struct kvx_cu_context *context)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &context->events)
		destroy(kvx_container_of(entry, struct kvx_cu_event, entry));
}

/* --- what happens in streams --- */

static enum kvx_cu_result record(struct kvx_cu_event *event, struct kvx_cu_stream *stream)
{
	struct fake_operation *operation = fake_operation_new(FAKE_RECORD, 0);
	struct fake_mark *mark = calloc(1, sizeof(*mark));

	if (!operation || !mark) {
		free(operation);
		free(mark);
		return KVX_CU_ERROR_OUT_OF_MEMORY;
	}
	mark->users = 2;
	operation->mark = mark;
	if (event->mark)
		fake_mark_release(event->mark);
	event->mark = mark;
	event->capture = 0;
	return fake_stream_put(stream, operation);
}

EXPORT enum kvx_cu_result cuEventRecord(struct kvx_cu_event *event, struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	event = find(event);
	if (!stream || !event || event->context != context)
		return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
	if (!stream->capture)
		return fake_leave(record(event, stream));
	if (stream->capture->broken)
		return fake_leave(KVX_CU_ERROR_STREAM_CAPTURE_INVALIDATED);
	/* A graph's operations are done in the order of their calls, so this needs none. */
	event->capture = stream->capture->id;
	return fake_leave(KVX_CU_SUCCESS);
}

/* The stream becomes a part of the capture that the event was recorded in. */
static enum kvx_cu_result join_capture(struct kvx_cu_stream *stream, uint64_t id)
{
	struct fake_capture *capture = fake_capture_find(id);

	if (!capture)
		return KVX_CU_ERROR_INVALID_VALUE; /* it is over, and its event never comes */
	if (stream->capture && stream->capture != capture)
		return KVX_CU_ERROR_STREAM_CAPTURE_ISOLATION;
	stream->capture = capture;
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuStreamWaitEvent(struct kvx_cu_stream *stream,
					    struct kvx_cu_event *event, unsigned int flags)
{
	struct kvx_cu_context *context;
	struct fake_operation *operation;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	event = find(event);
	if (!stream || !event)
		return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
	if (flags)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	if (event->capture)
		return fake_leave(join_capture(stream, event->capture));
	if (stream->capture) {
		stream->capture->broken = true;
		return fake_leave(KVX_CU_ERROR_STREAM_CAPTURE_ISOLATION);
	}
	if (!event->mark)
		return fake_leave(KVX_CU_SUCCESS);
	operation = fake_operation_new(FAKE_AWAIT_MARK, 0);
	if (operation) {
		operation->mark = event->mark;
		event->mark->users++;
	}
	return fake_leave(fake_stream_put(stream, operation));
}

/* --- and what the host sees of it --- */

static enum kvx_cu_result find_to_wait(struct kvx_cu_event **event)
{
	*event = find(*event);
	if (!*event)
		return KVX_CU_ERROR_INVALID_HANDLE;
	return (*event)->capture ? KVX_CU_ERROR_CAPTURED_EVENT : KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuEventQuery(struct kvx_cu_event *event)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);

	if (result)
		return result;
	result = find_to_wait(&event);
	if (!result && event->context->error)
		result = (enum kvx_cu_result)event->context->error;
	else if (!result && event->mark && !event->mark->done)
		result = KVX_CU_ERROR_NOT_READY;
	return fake_leave(result);
}

EXPORT enum kvx_cu_result cuEventSynchronize(struct kvx_cu_event *event)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);
	struct fake_mark *mark;

	if (result)
		return result;
	result = find_to_wait(&event);
	if (result || !event->mark)
		return fake_leave(result);
	context = event->context;
	mark = event->mark;
	mark->users++;
	while (!mark->done && !fake_context_over(context))
		fake_wait();
	fake_mark_release(mark);
	return fake_leave((enum kvx_cu_result)context->error);
}

static bool is_timed(const struct kvx_cu_event *event)
{
	return event && event->mark && !event->capture &&
	       !(event->flags & KVX_CU_EVENT_DISABLE_TIMING);
}

EXPORT enum kvx_cu_result cuEventElapsedTime(float *ms, struct kvx_cu_event *start,
					     struct kvx_cu_event *end)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	start = find(start);
	end = find(end);
	if (!is_timed(start) || !is_timed(end))
		return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
	if (!start->mark->done || !end->mark->done)
		return fake_leave(KVX_CU_ERROR_NOT_READY);
	*ms = (float)(end->mark->time_ns - start->mark->time_ns) / 1e6f;
	return fake_leave(KVX_CU_SUCCESS);
}
