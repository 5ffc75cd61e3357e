/* SPDX-License-Identifier: Apache-2.0 */
/* Copies, fills and words that are put into streams. */
#include "internal.h"

#define VALUE_ALIGNMENT 4u

/* --- copies --- */

static void expect_known(uint64_t address, const char *function)
{
	if (!fake_range_find(address))
		fake_die("%s: host memory at %#llx is not pinned", function,
			 (unsigned long long)address);
}

static struct fake_operation *copy_new(kvx_cu_ptr to, kvx_cu_ptr from, size_t bytes, bool pageable)
{
	struct fake_operation *operation = fake_operation_new(FAKE_COPY, bytes ? 1 : 0);

	if (operation && bytes)
		operation->copies[0] = (struct fake_copy){to, from, bytes};
	if (operation)
		operation->pageable = pageable;
	return operation;
}

/* Also between memory that is not pinned. */
EXPORT enum kvx_cu_result cuMemcpy(kvx_cu_ptr to, kvx_cu_ptr from, size_t bytes)
{
	struct kvx_cu_context *context;
	struct kvx_cu_stream *stream;
	enum kvx_cu_result result = fake_enter_unsafe(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, NULL, &result);
	if (stream)
		result = fake_stream_put(stream, copy_new(to, from, bytes, true));
	return fake_leave(result ? result : fake_stream_wait(stream));
}

EXPORT enum kvx_cu_result cuMemcpyAsync(kvx_cu_ptr to, kvx_cu_ptr from, size_t bytes,
					struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	if (!stream)
		return fake_leave(result);
	expect_known(to, "cuMemcpyAsync");
	expect_known(from, "cuMemcpyAsync");
	return fake_leave(fake_stream_put(stream, copy_new(to, from, bytes, false)));
}

static bool has_attributes(const struct kvx_cu_copy_attributes *attributes, const size_t *firsts,
			   size_t attribute_count, size_t count)
{
	if (!attribute_count || attribute_count > count || firsts[0])
		return false;
	for (size_t i = 0; i < attribute_count; i++)
		if (attributes[i].source_order < KVX_CU_COPY_SOURCE_STREAM ||
		    attributes[i].source_order > KVX_CU_COPY_SOURCE_ANY ||
		    attributes[i].flags > KVX_CU_COPY_OVERLAP_WITH_COMPUTE || firsts[i] >= count ||
		    (i && firsts[i] <= firsts[i - 1]))
			return false;
	return true;
}

/* By cuGetProcAddress() alone, with the arguments of 12.8. */
enum kvx_cu_result cuMemcpyBatchAsync(kvx_cu_ptr *to, kvx_cu_ptr *from, size_t *bytes, size_t count,
				      struct kvx_cu_copy_attributes *attributes,
				      size_t *attribute_firsts, size_t attribute_count,
				      size_t *failed, struct kvx_cu_stream *stream)
{
	struct kvx_cu_context *context;
	struct fake_operation *operation;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	if (failed)
		*failed = SIZE_MAX;
	if (fake_option(FAKE_batch) > 1)
		return fake_leave(KVX_CU_ERROR_NOT_SUPPORTED);
	/* Drivers refuse the default stream. */
	if (!stream || !count || count > UINT32_MAX ||
	    !has_attributes(attributes, attribute_firsts, attribute_count, count))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	stream = fake_stream_find(context, stream, &result);
	if (!stream)
		return fake_leave(result);
	if (stream->capture)
		return fake_leave(KVX_CU_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	operation = fake_operation_new(FAKE_COPY, (uint32_t)count);
	for (size_t i = 0; operation && i < count; i++) {
		expect_known(to[i], "cuMemcpyBatchAsync");
		expect_known(from[i], "cuMemcpyBatchAsync");
		operation->copies[i] = (struct fake_copy){to[i], from[i], bytes[i]};
	}
	return fake_leave(fake_stream_put(stream, operation));
}

EXPORT enum kvx_cu_result cuMemsetD8Async(kvx_cu_ptr address, unsigned char value, size_t bytes,
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
	operation = fake_operation_new(FAKE_SET, 0);
	if (operation) {
		operation->address = address;
		operation->bytes = bytes;
		operation->value = value;
	}
	return fake_leave(fake_stream_put(stream, operation));
}

/* --- words --- */

static enum kvx_cu_result put_word(enum fake_operation_kind kind, struct kvx_cu_stream *stream,
				   kvx_cu_ptr address, uint32_t value, unsigned int flags)
{
	struct kvx_cu_context *context;
	struct fake_operation *operation;
	enum kvx_cu_result result = fake_enter(&context);

	if (result)
		return result;
	stream = fake_stream_find(context, stream, &result);
	if (!stream)
		return fake_leave(result);
	if (!fake_option(FAKE_memops))
		return fake_leave(KVX_CU_ERROR_NOT_SUPPORTED);
	if (address % VALUE_ALIGNMENT || !fake_range_find(address))
		return fake_leave(KVX_CU_ERROR_INVALID_VALUE);
	operation = fake_operation_new(kind, 0);
	if (operation) {
		operation->address = address;
		operation->value = value;
		operation->flags = flags;
	}
	return fake_leave(fake_stream_put(stream, operation));
}

EXPORT enum kvx_cu_result cuStreamWriteValue32_v2(struct kvx_cu_stream *stream, kvx_cu_ptr address,
						  uint32_t value, unsigned int flags)
{
	if (flags > KVX_CU_WRITE_VALUE_NO_MEMORY_BARRIER)
		return KVX_CU_ERROR_INVALID_VALUE;
	return put_word(FAKE_WRITE, stream, address, value, flags);
}

EXPORT enum kvx_cu_result cuStreamWaitValue32_v2(struct kvx_cu_stream *stream, kvx_cu_ptr address,
						 uint32_t value, unsigned int flags)
{
	if ((flags & ~(unsigned)KVX_CU_WAIT_VALUE_FLUSH) > KVX_CU_WAIT_VALUE_AND)
		return KVX_CU_ERROR_INVALID_VALUE;
	return put_word(FAKE_AWAIT_WORD, stream, address, value, flags);
}
