/* SPDX-License-Identifier: Apache-2.0 */
/* Captures of streams, and the graphs that they become. */
#include "internal.h"

#include <stdlib.h>

struct kvx_cu_graph {
	struct kvx_list operations;
};

static struct kvx_list captures = {&captures, &captures};
static uint64_t next_id;
static _Thread_local enum kvx_cu_capture_mode thread_mode = KVX_CU_CAPTURE_GLOBAL;

static struct fake_capture *capture_of(struct kvx_list *entry)
{
	return kvx_container_of(entry, struct fake_capture, entry);
}

struct fake_capture *fake_capture_find(uint64_t id)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &captures)
		if (capture_of(entry)->id == id)
			return capture_of(entry);
	return NULL;
}

/* --- who may disturb whom --- */

static bool is_disturbed(const struct fake_capture *capture)
{
	if (thread_mode == KVX_CU_CAPTURE_RELAXED || capture->mode == KVX_CU_CAPTURE_RELAXED)
		return false;
	return pthread_equal(capture->thread, pthread_self()) ||
	       (thread_mode == KVX_CU_CAPTURE_GLOBAL && capture->mode == KVX_CU_CAPTURE_GLOBAL);
}

enum kvx_cu_result fake_capture_guard(void)
{
	enum kvx_cu_result result = KVX_CU_SUCCESS;
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &captures)
		if (is_disturbed(capture_of(entry))) {
			capture_of(entry)->broken = true;
			result = KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED;
		}
	return result;
}

EXPORT enum kvx_cu_result cuThreadExchangeStreamCaptureMode(enum kvx_cu_capture_mode *mode)
{
	enum kvx_cu_capture_mode before = thread_mode;

	if (*mode > KVX_CU_CAPTURE_RELAXED)
		return KVX_CU_ERROR_INVALID_VALUE;
	thread_mode = *mode;
	*mode = before;
	return KVX_CU_SUCCESS;
}

/* --- captures --- */

EXPORT enum kvx_cu_result cuStreamBeginCapture_v2(struct kvx_cu_stream *stream,
						  enum kvx_cu_capture_mode mode)
{
	struct kvx_cu_context *context;
	struct fake_capture *capture;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	/* The default stream cannot be captured. */
	if (!stream)
		return fake_leave(KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	stream = fake_stream_find(context, stream, &result);
	if (!stream)
		return fake_leave(result);
	if (stream->capture)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	capture = calloc(1, sizeof(*capture));
	if (!capture)
		return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
	capture->id = ++next_id;
	capture->origin = stream;
	capture->mode = mode;
	capture->thread = pthread_self();
	kvx_list_init(&capture->operations);
	kvx_list_append(&captures, &capture->entry);
	stream->capture = capture;
	return fake_leave(KVX_CU_SUCCESS);
}

static void free_operations(struct kvx_list *operations)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, operations) {
		kvx_list_remove(entry);
		fake_operation_free(kvx_container_of(entry, struct fake_operation, entry));
	}
}

static void move_operations(struct kvx_list *from, struct kvx_list *to)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, from) {
		kvx_list_remove(entry);
		kvx_list_append(to, entry);
	}
}

/* Of all streams that have become a part of it. */
static void leave_streams(const struct fake_capture *capture)
{
	struct kvx_list *entry, *following;

	for (unsigned i = 0; i < DEVICES_MAX; i++) {
		if (!fake_contexts[i].retained)
			continue;
		kvx_list_for_each (entry, following, &fake_contexts[i].streams) {
			struct kvx_cu_stream *stream =
				kvx_container_of(entry, struct kvx_cu_stream, entry);
			if (stream->capture == capture)
				stream->capture = NULL;
		}
	}
}

static enum kvx_cu_result finish(struct fake_capture *capture, struct kvx_cu_graph **graph)
{
	enum kvx_cu_result result = KVX_CU_SUCCESS;

	*graph = NULL;
	if (capture->broken) {
		result = KVX_CU_ERROR_STREAM_CAPTURE_INVALIDATED;
	} else {
		*graph = calloc(1, sizeof(**graph));
		if (!*graph)
			result = KVX_CU_ERROR_OUT_OF_MEMORY;
	}
	if (*graph) {
		kvx_list_init(&(*graph)->operations);
		move_operations(&capture->operations, &(*graph)->operations);
		fake_counters.live++;
	}
	leave_streams(capture);
	free_operations(&capture->operations);
	kvx_list_remove(&capture->entry);
	free(capture);
	return result;
}

EXPORT enum kvx_cu_result cuStreamEndCapture(struct kvx_cu_stream *stream,
					     struct kvx_cu_graph **graph)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	if (!stream)
		return fake_leave(result);
	if (!stream->capture)
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	if (stream->capture->origin != stream)
		return fake_leave(KVX_CU_ERROR_STREAM_CAPTURE_UNMATCHED);
	return fake_leave(finish(stream->capture, graph));
}

EXPORT enum kvx_cu_result cuStreamIsCapturing(struct kvx_cu_stream *stream,
					      enum kvx_cu_capture_status *status)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	if (stream)
		*status = !stream->capture          ? KVX_CU_CAPTURE_NONE
			  : stream->capture->broken ? KVX_CU_CAPTURE_INVALIDATED
						    : KVX_CU_CAPTURE_ACTIVE;
	return fake_leave(result);
}

/* --- graphs --- */

EXPORT enum kvx_cu_result cuGraphDestroy(struct kvx_cu_graph *graph)
{
	fake_lock();
	free_operations(&graph->operations);
	free(graph);
	fake_counters.live--;
	fake_unlock();
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuGraphInstantiateWithFlags(struct kvx_cu_graph_exec **exec,
						      struct kvx_cu_graph *graph,
						      unsigned long long flags)
{
	struct kvx_list *entry, *following;
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);
	struct kvx_cu_graph_exec *own;

	if (result)
		return result;
	own = flags ? NULL : calloc(1, sizeof(*own));
	if (!own)
		return fake_leave(flags ? KVX_CU_ERROR_INVALID_VALUE : KVX_CU_ERROR_OUT_OF_MEMORY);
	own->users = 1;
	kvx_list_init(&own->operations);
	kvx_list_for_each (entry, following, &graph->operations) {
		struct fake_operation *clone =
			fake_operation_clone(kvx_container_of(entry, struct fake_operation, entry));
		if (!clone) {
			free_operations(&own->operations);
			free(own);
			return fake_leave(KVX_CU_ERROR_OUT_OF_MEMORY);
		}
		kvx_list_append(&own->operations, &clone->entry);
	}
	fake_counters.live++;
	*exec = own;
	return fake_leave(KVX_CU_SUCCESS);
}

void fake_exec_release(struct kvx_cu_graph_exec *exec)
{
	if (--exec->users)
		return;
	free_operations(&exec->operations);
	free(exec);
}

EXPORT enum kvx_cu_result cuGraphExecDestroy(struct kvx_cu_graph_exec *exec)
{
	fake_lock();
	fake_exec_release(exec);
	fake_counters.live--;
	fake_unlock();
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuGraphLaunch(struct kvx_cu_graph_exec *exec,
					struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context;
	struct fake_operation *operation;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	if (!stream)
		return fake_leave(result);
	operation = fake_operation_new(FAKE_GRAPH, 0);
	if (operation) {
		operation->exec = exec;
		exec->users++;
	}
	return fake_leave(fake_stream_put(stream, operation));
}
