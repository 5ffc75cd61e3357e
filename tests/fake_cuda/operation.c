/* SPDX-License-Identifier: Apache-2.0 */
/* What a stream is given to do, and how its thread does it. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_US 50u

struct fake_operation *fake_operation_new(enum fake_operation_kind kind, uint32_t copies)
{
	struct fake_operation *operation =
		calloc(1, sizeof(*operation) + copies * sizeof(operation->copies[0]));

	if (!operation)
		return NULL;
	operation->kind = kind;
	operation->count = copies;
	return operation;
}

struct fake_operation *fake_operation_clone(const struct fake_operation *operation)
{
	struct fake_operation *clone = fake_operation_new(operation->kind, operation->count);

	if (!clone)
		return NULL;
	memcpy(clone, operation, sizeof(*clone) + operation->count * sizeof(operation->copies[0]));
	if (clone->mark)
		clone->mark->users++;
	if (clone->exec)
		clone->exec->users++;
	return clone;
}

void fake_operation_free(struct fake_operation *operation)
{
	if (operation->mark)
		fake_mark_release(operation->mark);
	if (operation->exec)
		fake_exec_release(operation->exec);
	free(operation);
}

/* --- failure --- */

void fake_context_fail(struct kvx_cu_context *context, enum kvx_cu_result error)
{
	if (!context->error)
		context->error = error;
	fake_changed();
}

bool fake_context_over(struct kvx_cu_context *context)
{
	return context->error || context->ending;
}

/* --- copies --- */

/* Is this the copy that the option means? */
static bool is_to_fail(void)
{
	uint64_t countdown = fake_option(FAKE_fail_after);

	if (countdown)
		fake_option_store(FAKE_fail_after, countdown - 1);
	return countdown == 1;
}

static char *resolve_end(uint64_t address, uint64_t bytes, bool pageable, struct fake_range **range)
{
	*range = NULL;
	if (pageable && !fake_range_touches(address, bytes))
		return (char *)(uintptr_t)address;
	return fake_resolve(address, bytes, range);
}

bool fake_copy_do(struct kvx_cu_stream *stream, const struct fake_copy *copy, bool pageable)
{
	struct fake_range *to_range = NULL, *from_range = NULL;
	char *to = NULL, *from = NULL;
	bool done = false;

	if (fake_option(FAKE_delay_us))
		usleep((useconds_t)fake_option(FAKE_delay_us));
	fake_lock();
	if (fake_context_over(stream->context)) {
		fake_unlock();
		return true;
	}
	if (!is_to_fail()) {
		to = resolve_end(copy->to, copy->bytes, pageable, &to_range);
		from = resolve_end(copy->from, copy->bytes, pageable, &from_range);
	}
	fake_unlock();
	if (to && from) {
		memmove(to, from, copy->bytes);
		done = true;
	}
	fake_lock();
	if (to_range)
		fake_release(to_range);
	if (from_range)
		fake_release(from_range);
	fake_counters.copies += done;
	fake_unlock();
	return done;
}

/* --- words --- */

/* Words are shared with threads that run meanwhile. */
static bool write_word(uint64_t address, uint32_t value)
{
	struct fake_range *range;
	uint32_t *word;

	fake_lock();
	word = (uint32_t *)(void *)fake_resolve(address, sizeof(*word), &range);
	fake_unlock();
	if (!word)
		return false;
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	fake_lock();
	fake_release(range);
	fake_unlock();
	return true;
}

static bool is_reached(uint32_t word, uint32_t value, uint32_t flags)
{
	switch (flags & ~(uint32_t)KVX_CU_WAIT_VALUE_FLUSH) {
	case KVX_CU_WAIT_VALUE_GEQ:
		return (int32_t)(word - value) >= 0;
	case KVX_CU_WAIT_VALUE_EQ:
		return word == value;
	default:
		return word & value;
	}
}

bool fake_await_word(struct kvx_cu_stream *stream, uint64_t address, uint32_t value, uint32_t flags)
{
	struct fake_range *range;
	uint32_t *word;

	fake_lock();
	word = (uint32_t *)(void *)fake_resolve(address, sizeof(*word), &range);
	fake_unlock();
	if (!word)
		return false;
	while (!is_reached(__atomic_load_n(word, __ATOMIC_ACQUIRE), value, flags) &&
	       !fake_context_over(stream->context))
		usleep(POLL_US);
	fake_lock();
	fake_release(range);
	fake_unlock();
	return true;
}

/* --- all of them --- */

static bool set(const struct fake_operation *operation)
{
	struct fake_range *range;
	char *bytes;

	fake_lock();
	bytes = fake_resolve(operation->address, operation->bytes, &range);
	fake_unlock();
	if (!bytes)
		return false;
	memset(bytes, (int)operation->value, operation->bytes);
	fake_lock();
	fake_release(range);
	fake_unlock();
	return true;
}

static void finish_mark(struct fake_mark *mark)
{
	fake_lock();
	mark->time_ns = fake_now_ns();
	mark->done = true;
	fake_changed();
	fake_unlock();
}

static void await_mark(struct kvx_cu_stream *stream, struct fake_mark *mark)
{
	fake_lock();
	while (!mark->done && !fake_context_over(stream->context))
		fake_wait();
	fake_unlock();
}

static bool copy_all(struct kvx_cu_stream *stream, const struct fake_operation *operation)
{
	for (uint32_t i = 0; i < operation->count; i++)
		if (!fake_copy_do(stream, &operation->copies[i], operation->pageable))
			return false;
	return true;
}

static void launch_graph(struct kvx_cu_stream *stream, struct kvx_cu_graph_exec *exec)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, &exec->operations)
		fake_operation_do(stream, kvx_container_of(entry, struct fake_operation, entry));
}

static void free_memory(uint64_t address)
{
	struct fake_range *range;

	fake_lock();
	range = fake_range_at(address, FAKE_POOLED);
	if (range)
		fake_range_remove(range);
	fake_unlock();
}

void fake_operation_do(struct kvx_cu_stream *stream, struct fake_operation *operation)
{
	bool done = true;

	if (operation->kind == FAKE_RECORD) {
		finish_mark(operation->mark);
		return;
	}
	if (fake_context_over(stream->context))
		return;
	if (operation->kind == FAKE_COPY)
		done = copy_all(stream, operation);
	else if (operation->kind == FAKE_SET)
		done = set(operation);
	else if (operation->kind == FAKE_WRITE)
		done = write_word(operation->address, operation->value);
	else if (operation->kind == FAKE_AWAIT_WORD)
		done = fake_await_word(stream, operation->address, operation->value,
				       operation->flags);
	else if (operation->kind == FAKE_AWAIT_MARK)
		await_mark(stream, operation->mark);
	else if (operation->kind == FAKE_LAUNCH)
		done = fake_kernel_do(stream, operation->kernel, operation->parameters);
	else if (operation->kind == FAKE_GRAPH)
		launch_graph(stream, operation->exec);
	else
		free_memory(operation->address);
	if (done)
		return;
	fake_lock();
	fake_context_fail(stream->context, KVX_CU_ERROR_ILLEGAL_ADDRESS);
	fake_unlock();
}
