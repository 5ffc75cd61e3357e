/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda/copier.h"

#include "base/error.h"
#include "cuda/driver.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A stream's priority outside of the device's range becomes the nearest in it: the highest here, so
 * that a list of tiny pieces does not wait behind all of what the caller computes. */
#define PRIORITY (-1000)

/* Calls under way that can be told apart; beyond them one event stands for several. */
#define MARKS 256u

/* A copy engine takes one to two microseconds to go from one piece to the next, in which a bus of
 * 25 GB/s could have moved 25 to 50 KB: below half of that the engine mostly starts copies. Up to
 * eight pieces are done sooner than a kernel is started, and leave the processors alone. */
#define TINY_BYTES 16384u
#define TINY_COPIES 8u

/* What keeps 64 KiB of loads under way, as a bus with a delay of two microseconds needs, on a few
 * of a device's hundred processors. */
#define GATHER_BLOCKS 16u
#define GATHER_THREADS 256u
#define GATHER_ALIGNMENT 16u

/* Lists of kernels that are under way; one more goes to the copy engines. */
#define LISTS 32u

struct list {
	uint64_t number; /* of the call that used it last */
	struct kvx_copy *copies;
};

struct mark {
	struct kvx_cu_event *event;
	uint64_t number; /* calls that are done when the event is */
};

/* The worker, but for open and close. */
struct kvx_copier {
	const struct kvx_cu *cu;
	const struct kvx_cuda_device *device;
	uint32_t number; /* of the device */
	struct kvx_cu_stream *stream;
	uint64_t given, done; /* calls */
	struct mark marks[MARKS];
	uint32_t first, used;    /* of the marks, which are a ring */
	struct kvx_copy *memory; /* of the lists, pinned; NULL: nothing is gathered */
	struct list lists[LISTS];
	bool batches;
	bool failed;
	char text[KVX_ERROR_TEXT_MAX + 1]; /* of the failure */
	struct kvx_cuda_ways ways;
};

static_assert(sizeof(struct kvx_copy) == 24, "kernels.ptx reads lists of copies");

/* The last error becomes the copier's for good. */
static int fail_for_good(struct kvx_copier *copier)
{
	copier->failed = true;
	snprintf(copier->text, sizeof(copier->text), "%s", kvx_error_text());
	return KVX_E_TRANSPORT;
}

static int fail_again(const struct kvx_copier *copier)
{
	return kvx_fail(KVX_E_TRANSPORT, "%s", copier->text);
}

static kvx_cu_ptr ptr(const void *address)
{
	return (kvx_cu_ptr)(uintptr_t)address;
}

/* --- opening --- */

static enum kvx_cu_result marks_make(struct kvx_copier *copier)
{
	enum kvx_cu_result result = KVX_CU_SUCCESS;

	for (uint32_t i = 0; i < MARKS && result == KVX_CU_SUCCESS; i++)
		result = copier->cu->event_create(&copier->marks[i].event,
						  KVX_CU_EVENT_DISABLE_TIMING);
	return result;
}

/* Without them nothing is gathered, which is no failure. */
static void lists_make(struct kvx_copier *copier)
{
	size_t bytes = sizeof(struct kvx_copy) * KVX_COPIES_MAX;
	void *memory;

	if (!copier->device->kernels[KVX_CUDA_GATHER] || !copier->device->reads_host_pointers ||
	    copier->cu->mem_host_alloc(&memory, bytes * LISTS,
				       KVX_CU_HOST_ALLOC_PORTABLE | KVX_CU_HOST_ALLOC_DEVICEMAP) !=
		    KVX_CU_SUCCESS)
		return;
	copier->memory = memory;
	for (uint32_t i = 0; i < LISTS; i++)
		copier->lists[i].copies = copier->memory + (size_t)i * KVX_COPIES_MAX;
}

/* In the device's context. Takes down what there is of it; a device that has failed fails this too,
 * and its driver has freed all then. */
static void unmake(struct kvx_copier *copier)
{
	for (uint32_t i = 0; i < MARKS; i++)
		if (copier->marks[i].event)
			copier->cu->event_destroy(copier->marks[i].event);
	if (copier->memory)
		copier->cu->mem_free_host(copier->memory);
	if (copier->stream)
		copier->cu->stream_destroy(copier->stream);
}

int kvx_cuda_copier_open(uint32_t device, struct kvx_copier **copier)
{
	struct kvx_copier *made = calloc(1, sizeof(*made));
	enum kvx_cu_result result;
	int error;

	if (!made)
		return kvx_fail(KVX_E_MEMORY, "cuda:%u: out of memory for a queue of copies",
				device);
	error = kvx_cuda_device(device, &made->device);
	if (error)
		goto fail_memory;
	error = kvx_cuda_enter(device);
	if (error)
		goto fail_memory;
	made->cu = kvx_cuda();
	made->number = device;
	made->batches = made->cu->mem_copy_batch_async != NULL;

	result = made->cu->stream_create_with_priority(&made->stream, KVX_CU_STREAM_NON_BLOCKING,
						       PRIORITY);
	if (result == KVX_CU_SUCCESS)
		result = marks_make(made);
	if (result != KVX_CU_SUCCESS) {
		error = kvx_cuda_fail(KVX_E_TRANSPORT, result,
				      "cuda:%u: cannot make a queue of copies", device);
		goto fail_made;
	}
	lists_make(made);
	kvx_cuda_leave();
	*copier = made;
	return 0;

fail_made:
	unmake(made);
	kvx_cuda_leave();
fail_memory:
	free(made);
	return error;
}

void kvx_cuda_copier_close(struct kvx_copier *copier)
{
	if (kvx_cuda_enter(copier->number) == 0) {
		copier->cu->stream_synchronize(copier->stream);
		unmake(copier);
		kvx_cuda_leave();
	}
	free(copier);
}

/* --- memory of the host --- */

int kvx_cuda_copier_pin(struct kvx_copier *copier, void *address, size_t bytes)
{
	int error = kvx_cuda_enter(copier->number);

	if (error)
		return error;
	enum kvx_cu_result result = copier->cu->mem_host_register(
		address, bytes, KVX_CU_HOST_REGISTER_PORTABLE | KVX_CU_HOST_REGISTER_DEVICEMAP);
	kvx_cuda_leave();
	return result == KVX_CU_SUCCESS
		       ? 0
		       : kvx_cuda_fail(KVX_E_MEMORY, result,
				       "cuda:%u: cannot pin %zu bytes of the host at %p",
				       copier->number, bytes, address);
}

void kvx_cuda_copier_unpin(struct kvx_copier *copier, void *address)
{
	if (kvx_cuda_enter(copier->number) == 0) {
		/* Of copies that are still under way. */
		copier->cu->stream_synchronize(copier->stream);
		copier->cu->mem_host_unregister(address);
		kvx_cuda_leave();
	}
}

/* --- what is done --- */

static int marks_reap(struct kvx_copier *copier)
{
	while (copier->used > 0) {
		struct mark *mark = &copier->marks[copier->first];
		enum kvx_cu_result result = copier->cu->event_query(mark->event);

		if (result == KVX_CU_ERROR_NOT_READY)
			break;
		if (result != KVX_CU_SUCCESS) {
			(void)kvx_cuda_fail(KVX_E_TRANSPORT, result,
					    "cuda:%u: copies between it and the host failed",
					    copier->number);
			return fail_for_good(copier);
		}
		copier->done = mark->number;
		copier->first = (copier->first + 1) % MARKS;
		copier->used--;
	}
	return 0;
}

int kvx_cuda_copier_copied(struct kvx_copier *copier, uint64_t *number)
{
	if (copier->failed)
		return fail_again(copier);
	if (copier->used > 0) {
		int error = kvx_cuda_enter(copier->number);
		if (error)
			return fail_for_good(copier);
		error = marks_reap(copier);
		kvx_cuda_leave();
		if (error)
			return error;
	}
	*number = copier->done;
	return 0;
}

/* --- the ways to copy --- */

static enum kvx_cu_result copy_each(struct kvx_copier *copier, const struct kvx_copy *copies,
				    uint32_t count)
{
	enum kvx_cu_result result = KVX_CU_SUCCESS;

	for (uint32_t i = 0; i < count && result == KVX_CU_SUCCESS; i++)
		result = copier->cu->mem_copy_async(ptr(copies[i].to), ptr(copies[i].from),
						    copies[i].bytes, copier->stream);
	return result;
}

static enum kvx_cu_result copy_batch(struct kvx_copier *copier, const struct kvx_copy *copies,
				     uint32_t count)
{
	struct kvx_cu_copy_attributes attributes = {
		.source_order = KVX_CU_COPY_SOURCE_STREAM,
		.flags = KVX_CU_COPY_OVERLAP_WITH_COMPUTE,
	};
	kvx_cu_ptr to[KVX_COPIES_MAX], from[KVX_COPIES_MAX];
	size_t bytes[KVX_COPIES_MAX], first = 0, failed;

	for (uint32_t i = 0; i < count; i++) {
		to[i] = ptr(copies[i].to);
		from[i] = ptr(copies[i].from);
		bytes[i] = copies[i].bytes;
	}
	return copier->cu->mem_copy_batch_async(to, from, bytes, count, &attributes, &first, 1,
						&failed, copier->stream);
}

static bool is_tiny(const struct kvx_copy *copies, uint32_t count)
{
	uintptr_t ends = 0;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < count; i++) {
		ends |= (uintptr_t)copies[i].to | (uintptr_t)copies[i].from;
		bytes += copies[i].bytes;
	}
	return count > TINY_COPIES && bytes < (uint64_t)count * TINY_BYTES &&
	       ends % GATHER_ALIGNMENT == 0;
}

/* A list that no kernel reads any more, or NULL. */
static struct list *list_free(struct kvx_copier *copier)
{
	struct list *list = &copier->lists[copier->ways.gathered % LISTS];

	return copier->memory && list->number <= copier->done ? list : NULL;
}

static enum kvx_cu_result copy_gathered(struct kvx_copier *copier, struct list *list,
					const struct kvx_copy *copies, uint32_t count)
{
	kvx_cu_ptr copies_there = ptr(list->copies);
	void *parameters[] = {&copies_there, &count};

	memcpy(list->copies, copies, count * sizeof(copies[0]));
	list->number = copier->given + 1;
	return copier->cu->launch_kernel(copier->device->kernels[KVX_CUDA_GATHER],
					 count < GATHER_BLOCKS ? count : GATHER_BLOCKS, 1, 1,
					 GATHER_THREADS, 1, 1, 0, copier->stream, parameters, NULL);
}

static enum kvx_cu_result copy_any_way(struct kvx_copier *copier, const struct kvx_copy *copies,
				       uint32_t count)
{
	enum kvx_cu_result result;

	if (count == 1) {
		copier->ways.single++;
		return copy_each(copier, copies, count);
	}
	struct list *list = is_tiny(copies, count) ? list_free(copier) : NULL;
	if (list) {
		result = copy_gathered(copier, list, copies, count);
		copier->ways.gathered++;
		return result;
	}
	if (copier->batches) {
		result = copy_batch(copier, copies, count);
		if (result != KVX_CU_ERROR_NOT_SUPPORTED) {
			copier->ways.batched++;
			return result;
		}
		/* The driver has the function, but not for this device. */
		copier->batches = false;
	}
	copier->ways.looped++;
	return copy_each(copier, copies, count);
}

/* Marks the end of the queue as the end of all calls so far. Where all marks are under way the last
 * one moves on: calls that it stood for are then known to be done a little later than they are. */
static enum kvx_cu_result mark_end(struct kvx_copier *copier)
{
	if (copier->used < MARKS)
		copier->used++;
	struct mark *mark = &copier->marks[(copier->first + copier->used - 1) % MARKS];
	mark->number = ++copier->given;
	return copier->cu->event_record(mark->event, copier->stream);
}

static int copy_entered(struct kvx_copier *copier, const struct kvx_copy *copies, uint32_t count)
{
	/* Only where there is need of what it frees. */
	if (copier->used == MARKS || copier->given - copier->done >= LISTS) {
		int error = marks_reap(copier);
		if (error)
			return error;
	}
	enum kvx_cu_result result = copy_any_way(copier, copies, count);
	if (result == KVX_CU_SUCCESS)
		result = mark_end(copier);
	if (result == KVX_CU_SUCCESS)
		return 0;
	(void)kvx_cuda_fail(KVX_E_TRANSPORT, result,
			    "cuda:%u: cannot copy %u pieces between it and the host, the first "
			    "of %llu bytes from %p to %p",
			    copier->number, count, (unsigned long long)copies[0].bytes,
			    (const void *)copies[0].from, (void *)copies[0].to);
	return fail_for_good(copier);
}

int kvx_cuda_copier_copy(struct kvx_copier *copier, const struct kvx_copy *copies, uint32_t count,
			 uint64_t *number)
{
	if (copier->failed)
		return fail_again(copier);
	if (count == 0 || count > KVX_COPIES_MAX)
		return kvx_fail(KVX_E_INVALID, "cuda:%u: %u copies in one call; give 1 to %u",
				copier->number, count, KVX_COPIES_MAX);
	int error = kvx_cuda_enter(copier->number);
	if (error)
		return fail_for_good(copier);
	error = copy_entered(copier, copies, count);
	kvx_cuda_leave();
	if (!error)
		*number = copier->given;
	return error;
}

const struct kvx_cuda_ways *kvx_cuda_copier_ways(const struct kvx_copier *copier)
{
	return &copier->ways;
}
