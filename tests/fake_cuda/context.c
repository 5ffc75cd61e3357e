/* SPDX-License-Identifier: Apache-2.0 */
/* Primary contexts, and which one is current in a thread. */
#include "internal.h"

#include <unistd.h>

#define CURRENT_MAX 16u

struct kvx_cu_context fake_contexts[DEVICES_MAX];

static _Thread_local struct kvx_cu_context *stack[CURRENT_MAX];
static _Thread_local unsigned depth;

static enum kvx_cu_result enter(struct kvx_cu_context **context, bool unsafe)
{
	enum kvx_cu_result result;

	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	*context = fake_current();
	if (!*context)
		return KVX_CU_ERROR_INVALID_CONTEXT;
	fake_lock();
	result = KVX_CU_ERROR_INVALID_CONTEXT;
	if (!(*context)->retained)
		goto fail;
	result = (enum kvx_cu_result)(*context)->error;
	if (result)
		goto fail;
	result = unsafe ? fake_capture_guard() : KVX_CU_SUCCESS;
	if (result)
		goto fail;
	return KVX_CU_SUCCESS;
fail:
	fake_unlock();
	return result;
}

enum kvx_cu_result fake_enter(struct kvx_cu_context **context)
{
	return enter(context, false);
}

enum kvx_cu_result fake_enter_unsafe(struct kvx_cu_context **context)
{
	return enter(context, true);
}

enum kvx_cu_result fake_leave(enum kvx_cu_result result)
{
	fake_unlock();
	return result;
}

struct kvx_cu_context *fake_current(void)
{
	return depth ? stack[depth - 1] : NULL;
}

EXPORT enum kvx_cu_result cuDevicePrimaryCtxRetain(struct kvx_cu_context **context,
						   kvx_cu_device device)
{
	struct kvx_cu_context *own;

	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	if (!fake_is_device(device))
		return KVX_CU_ERROR_INVALID_DEVICE;
	own = &fake_contexts[device];
	fake_lock();
	while (own->ending)
		fake_wait();
	if (!own->retained++) {
		own->device = (unsigned)device;
		own->standard = NULL;
		kvx_list_init(&own->streams);
		kvx_list_init(&own->events);
		kvx_list_init(&own->modules);
	}
	fake_counters.live++;
	fake_unlock();
	*context = own;
	return KVX_CU_SUCCESS;
}

/* What the program forgot is counted, and given back; of a context that has failed it could give
 * nothing back. */
static void end(struct kvx_cu_context *context)
{
	uint64_t before;

	context->ending = true;
	fake_changed();
	before = fake_counters.live;
	fake_streams_end(context);
	fake_events_end(context);
	fake_modules_end(context);
	fake_ranges_end(context);
	fake_memories_end(context);
	if (!context->error)
		fake_counters.leaked += before - fake_counters.live;
	context->error = KVX_CU_SUCCESS;
	context->ending = false;
	fake_changed();
}

EXPORT enum kvx_cu_result cuDevicePrimaryCtxRelease_v2(kvx_cu_device device)
{
	struct kvx_cu_context *context;

	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	if (!fake_is_device(device))
		return KVX_CU_ERROR_INVALID_DEVICE;
	context = &fake_contexts[device];
	fake_lock();
	if (!context->retained)
		return fake_leave(KVX_CU_ERROR_INVALID_CONTEXT);
	fake_counters.live--;
	if (!--context->retained)
		end(context);
	return fake_leave(KVX_CU_SUCCESS);
}

/* A process that was forked has none of the threads. */
void fake_contexts_leave(void)
{
	if (fake_process != getpid())
		return;
	fake_lock();
	for (unsigned i = 0; i < DEVICES_MAX; i++) {
		if (!fake_contexts[i].retained)
			continue;
		fake_contexts[i].error = KVX_CU_ERROR_DEINITIALIZED;
		fake_changed();
		fake_streams_end(&fake_contexts[i]);
	}
	fake_unlock();
}

EXPORT enum kvx_cu_result cuCtxPushCurrent_v2(struct kvx_cu_context *context)
{
	bool retained;

	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	if (context < fake_contexts || context >= fake_contexts + DEVICES_MAX)
		return KVX_CU_ERROR_INVALID_CONTEXT;
	fake_lock();
	retained = context->retained;
	fake_unlock();
	if (!retained)
		return KVX_CU_ERROR_INVALID_CONTEXT;
	if (depth == CURRENT_MAX)
		fake_die("%u contexts are pushed: one was not popped", depth);
	stack[depth++] = context;
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuCtxPopCurrent_v2(struct kvx_cu_context **context)
{
	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	if (!depth)
		return KVX_CU_ERROR_INVALID_CONTEXT;
	depth--;
	if (context)
		*context = stack[depth];
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuCtxGetCurrent(struct kvx_cu_context **context)
{
	if (!fake_initialized())
		return KVX_CU_ERROR_NOT_INITIALIZED;
	*context = fake_current();
	return KVX_CU_SUCCESS;
}

EXPORT enum kvx_cu_result cuCtxGetDevice(kvx_cu_device *device)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	*device = (kvx_cu_device)context->device;
	return fake_leave(KVX_CU_SUCCESS);
}

EXPORT enum kvx_cu_result cuCtxSynchronize(void)
{
	struct kvx_cu_context *context;
	struct kvx_list *entry, *following;
	enum kvx_cu_result result = fake_enter_unsafe(&context);

	if (result)
		return result;
	/* Streams may come and go while one is waited for. */
again:
	kvx_list_for_each (entry, following, &context->streams) {
		struct kvx_cu_stream *stream = kvx_container_of(entry, struct kvx_cu_stream, entry);
		if ((stream->busy || !kvx_list_empty(&stream->operations)) &&
		    !fake_context_over(context)) {
			fake_wait();
			goto again;
		}
	}
	return fake_leave((enum kvx_cu_result)context->error);
}
