/* SPDX-License-Identifier: Apache-2.0 */
/* Streams: a queue and a thread each. */
#include "internal.h"

#include <signal.h>
#include <stdlib.h>

static struct kvx_list ended = {&ended, &ended}; /* their threads are to be joined */

static bool is_idle(const struct kvx_cu_stream *stream)
{
	return !stream->busy && kvx_list_empty(&stream->operations);
}

/* --- their threads --- */

static void *run(void *argument)
{
	struct kvx_cu_stream *stream = argument;

	fake_lock();
	for (;;) {
		while (kvx_list_empty(&stream->operations) && !stream->closing)
			fake_wait();
		if (kvx_list_empty(&stream->operations))
			break;
		struct fake_operation *operation =
			kvx_container_of(stream->operations.next, struct fake_operation, entry);
		kvx_list_remove(&operation->entry);
		stream->busy = true;
		fake_unlock();
		fake_operation_do(stream, operation);
		fake_lock();
		fake_operation_free(operation);
		stream->busy = false;
		fake_changed();
	}
	kvx_list_remove(&stream->entry);
	kvx_list_append(&ended, &stream->entry);
	fake_changed();
	fake_unlock();
	return NULL;
}

static bool start(struct kvx_cu_stream *stream)
{
	sigset_t all, before;
	bool started;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	started = pthread_create(&stream->thread, NULL, run, stream) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return started;
}

/* A thread in that list has nothing left to do but to release the lock. */
static void join_ended(void)
{
	while (!kvx_list_empty(&ended)) {
		struct kvx_cu_stream *stream =
			kvx_container_of(ended.next, struct kvx_cu_stream, entry);
		kvx_list_remove(&stream->entry);
		fake_unlock();
		pthread_join(stream->thread, NULL);
		free(stream);
		fake_lock();
	}
}

static struct kvx_cu_stream *create(struct kvx_cu_context *context)
{
	struct kvx_cu_stream *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return NULL;
	stream->context = context;
	kvx_list_init(&stream->operations);
	if (!start(stream)) {
		free(stream);
		return NULL;
	}
	kvx_list_append(&context->streams, &stream->entry);
	return stream;
}

/* --- which one is meant --- */

/* NULL, with the result: not a stream, or not one of the current context. */
struct kvx_cu_stream *fake_stream_find(struct kvx_cu_context *current, struct kvx_cu_stream *stream,
				       enum kvx_cu_result *result)
{
	struct kvx_list *entry, *following;

	*result = KVX_CU_SUCCESS;
	if (!stream) {
		if (!current->standard)
			current->standard = create(current);
		if (!current->standard)
			*result = KVX_CU_ERROR_OUT_OF_MEMORY;
		return current->standard;
	}
	kvx_list_for_each (entry, following, &current->streams) {
		struct kvx_cu_stream *own = kvx_container_of(entry, struct kvx_cu_stream, entry);
		if (own == stream && !own->closing)
			return own;
	}
	*result = KVX_CU_ERROR_INVALID_HANDLE;
	return NULL;
}

/* --- use --- */

EXPORT enum kvx_cu_result cuStreamCreateWithPriority(struct kvx_cu_stream **stream,
						     unsigned int flags, int priority)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	(void)priority; /* out of range is not an error for drivers either */
	if (result)
		return result;
	if (flags > KVX_CU_STREAM_NON_BLOCKING)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	join_ended();
	*stream = create(context);
	if (!*stream)
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	fake_counters.live++;
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuStreamCreate(struct kvx_cu_stream **stream, unsigned int flags)
{
	return cuStreamCreateWithPriority(stream, flags, 0);
}

/* Returns at once; what is queued is still done. */
EXPORT enum kvx_cu_result cuStreamDestroy_v2(struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context = fake_current();
	enum kvx_cu_result result;

	/* Also of a context that has failed. */
	if (!fake_initialized() || !context)
		return KVX_CU_ERROR_INVALID_CONTEXT;
	fake_lock();
	if (!context->retained)
		return fake_leave(KVX_CU_ERROR_INVALID_CONTEXT);
	if (!stream)
		return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
	stream = fake_stream_find(context, stream, &result);
	if (!stream)
		return fake_leave(result);
	if (stream->capture)
		return fake_leave(KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	stream->closing = true;
	fake_counters.live--;
	fake_changed();
	join_ended();
	return fake_leave(KVX_CU_SUCCESS);
}

enum kvx_cu_result fake_stream_put(struct kvx_cu_stream *stream, struct fake_operation *operation)
{
	struct fake_capture *capture = stream->capture;

	if (!operation)
		return KVX_CU_ERROR_OUT_OF_MEMORY;
	if (capture && capture->broken) {
		fake_operation_free(operation);
		return KVX_CU_ERROR_STREAM_CAPTURE_INVALIDATED;
	}
	kvx_list_append(capture ? &capture->operations : &stream->operations, &operation->entry);
	fake_changed();
	return KVX_CU_SUCCESS;
}

enum kvx_cu_result fake_stream_wait(struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context = stream->context;

	while (!is_idle(stream) && !fake_context_over(context))
		fake_wait();
	return (enum kvx_cu_result)context->error;
}

/* A stream that is captured does nothing that could be waited for. */
static enum kvx_cu_result find_to_wait(struct kvx_cu_context *context,
				       struct kvx_cu_stream **stream)
{
	enum kvx_cu_result result;

	*stream = fake_stream_find(context, *stream, &result);
	if (!*stream)
		return result;
	if ((*stream)->capture) {
		(*stream)->capture->broken = true;
		return KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	}
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuStreamSynchronize(struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);

	if (result)
		return result;
	result = find_to_wait(context, &stream);
	return fake_leave(result ? result : fake_stream_wait(stream));
}

EXPORT enum kvx_cu_result cuStreamQuery(struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter_unsafe(&context);

	if (result)
		return result;
	result = find_to_wait(context, &stream);
	if (!result && !is_idle(stream))
		result = KVX_CU_ERROR_NOT_READY;
	return fake_leave(result);
}

EXPORT enum kvx_cu_result cuStreamGetCtx(struct kvx_cu_stream *stream,
					 struct kvx_cu_context **context)
{
	struct kvx_list *entry, *following;

	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	if (!stream) {
		*context = fake_current();
		return *context ? KVX_CU_SUCCESS : KVX_CU_ERROR_INVALID_CONTEXT;
	}
	fake_lock();
	for (unsigned i = 0; i < DEVICES_MAX; i++) {
		if (!fake_contexts[i].retained)
			continue;
		kvx_list_for_each (entry, following, &fake_contexts[i].streams)
			if (entry == &stream->entry) {
				*context = &fake_contexts[i];
				return fake_leave(KVX_CU_SUCCESS);
			}
	}
	return fake_leave(KVX_CU_ERROR_INVALID_HANDLE);
}

/* Those that the program destroyed may still be at work. */
void fake_streams_end(struct kvx_cu_context *context)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &context->streams) {
		struct kvx_cu_stream *stream = kvx_container_of(entry, struct kvx_cu_stream, entry);
		if (!stream->closing && stream != context->standard)
			fake_counters.live--;
		stream->closing = true;
	}
	fake_changed();
	while (!kvx_list_empty(&context->streams))
		fake_wait();
	join_ended();
}
