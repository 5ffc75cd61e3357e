/* SPDX-License-Identifier: Apache-2.0 */
#include "core/message.h"

#include "base/error.h"
#include "core/geometry.h"

#include <string.h>

static void put_share(struct kvx_writer *writer, const struct kvx_share *share, uint32_t planes)
{
	kvx_put_u32(writer, share->layer_first);
	kvx_put_u32(writer, share->layers);
	kvx_put_u32(writer, planes);
	for (uint32_t i = 0; i < planes; i++) {
		kvx_put_u32(writer, share->plane[i].head_first);
		kvx_put_u32(writer, share->plane[i].heads);
		kvx_put_u32(writer, share->plane[i].token_first);
		kvx_put_u32(writer, share->plane[i].token_end);
	}
}

static void get_share(struct kvx_reader *reader, struct kvx_message *message)
{
	struct kvx_share *share = &message->share;

	share->layer_first = kvx_get_u32(reader);
	share->layers = kvx_get_u32(reader);
	message->planes = kvx_get_u32(reader);
	if (message->planes > KVX_PLANES_MAX)
		reader->failed = true;
	for (uint32_t i = 0; i < message->planes && !reader->failed; i++) {
		share->plane[i].head_first = kvx_get_u32(reader);
		share->plane[i].heads = kvx_get_u32(reader);
		share->plane[i].token_first = kvx_get_u32(reader);
		share->plane[i].token_end = kvx_get_u32(reader);
	}
}

static void put_run(struct kvx_writer *writer, const struct kvx_layout_run *run)
{
	kvx_put_u32(writer, run->tensors);
	kvx_put_u32(writer, run->memory);
	kvx_put_u64(writer, run->base);
	kvx_put_u64(writer, run->step);
	kvx_put_u64(writer, run->stride);
}

static void get_layout(struct kvx_reader *reader, struct kvx_message *message)
{
	message->count = kvx_get_u32(reader);
	if (message->count > KVX_LAYOUT_RUNS_MAX)
		reader->failed = true;
	for (uint32_t i = 0; i < message->count && !reader->failed; i++) {
		struct kvx_layout_run *run = &message->layout[i];
		run->tensors = kvx_get_u32(reader);
		run->memory = kvx_get_u32(reader);
		run->base = kvx_get_u64(reader);
		run->step = kvx_get_u64(reader);
		run->stride = kvx_get_u64(reader);
	}
}

static bool get_flag(struct kvx_reader *reader)
{
	uint8_t flag = kvx_get_u8(reader);

	if (flag > 1)
		reader->failed = true;
	return flag == 1;
}

static void get_weights(struct kvx_reader *reader, struct kvx_message *message)
{
	message->weighted = get_flag(reader);
	if (message->weighted && message->units > KVX_UNITS_MAX)
		reader->failed = true;
	for (uint32_t i = 0; message->weighted && !reader->failed && i < message->units; i++) {
		message->weights[i] = kvx_get_u8(reader);
		if (!message->weights[i])
			reader->failed = true;
	}
}

static void put_open(struct kvx_writer *writer, const struct kvx_message *message)
{
	kvx_put_u64(writer, message->stream);
	kvx_put_u32(writer, message->slot);
	kvx_put_u32(writer, message->generation);
	kvx_put_u64(writer, message->key);
	kvx_put_u32(writer, message->units);
	kvx_put_u8(writer, message->weighted);
	if (message->weighted)
		kvx_put_bytes(writer, message->weights, message->units);
	kvx_put_u8(writer, message->tail);
	kvx_put_u64(writer, message->hash);
	kvx_put_geometry(writer, &message->geometry);
}

static void put_pull(struct kvx_writer *writer, const struct kvx_message *message)
{
	kvx_put_u64(writer, message->stream);
	kvx_put_u64(writer, message->key);
	kvx_put_u32(writer, message->count);
	kvx_put_u32(writer, message->first);
	kvx_put_u32(writer, message->part_bytes);
	kvx_put_bytes(writer, message->part, message->part_bytes);
}

uint32_t kvx_message_encode(const struct kvx_message *message, uint8_t *bytes)
{
	struct kvx_writer writer = kvx_writer_over(bytes, KVX_MESSAGE_MAX);

	_Static_assert(1 + 8 + 4 + KVX_LAYOUT_RUNS_MAX * 32 <= KVX_MESSAGE_MAX, "a layout fits");
	_Static_assert(1 + 2 * 8 + 3 * 4 + KVX_PART_MAX <= KVX_MESSAGE_MAX, "a part fits");
	_Static_assert(KVX_ERROR_TEXT_MAX + 64 < KVX_MESSAGE_MAX, "a text and its frame fit");
	kvx_put_u8(&writer, (uint8_t)message->type);
	switch (message->type) {
	case KVX_MESSAGE_HELLO:
		kvx_put_u32(&writer, message->version);
		kvx_put_u64(&writer, message->incarnation);
		kvx_put_u32(&writer, message->heartbeat_ms);
		kvx_put_text(&writer, message->text);
		break;
	case KVX_MESSAGE_OPEN:
		put_open(&writer, message);
		break;
	case KVX_MESSAGE_ACCEPT:
		kvx_put_u64(&writer, message->stream);
		kvx_put_u32(&writer, message->unit_first);
		put_share(&writer, &message->share, message->planes);
		kvx_put_u64(&writer, message->hash);
		break;
	case KVX_MESSAGE_REFUSE:
	case KVX_MESSAGE_REVOKE:
	case KVX_MESSAGE_DECLINE:
		kvx_put_u64(&writer, message->stream);
		kvx_put_u8(&writer, (uint8_t)-message->code);
		kvx_put_text(&writer, message->text);
		break;
	case KVX_MESSAGE_WHOLE:
		kvx_put_u64(&writer, message->stream);
		kvx_put_u32(&writer, message->first);
		kvx_put_u32(&writer, message->count);
		break;
	case KVX_MESSAGE_CANCEL:
		kvx_put_u32(&writer, message->slot);
		kvx_put_u32(&writer, message->generation);
		kvx_put_text(&writer, message->text);
		break;
	case KVX_MESSAGE_BYE:
		kvx_put_text(&writer, message->text);
		break;
	case KVX_MESSAGE_PING:
		break;
	case KVX_MESSAGE_LAYOUT:
		kvx_put_u64(&writer, message->stream);
		kvx_put_u32(&writer, message->count);
		for (uint32_t i = 0; i < message->count; i++)
			put_run(&writer, &message->layout[i]);
		break;
	case KVX_MESSAGE_DRAINED:
		kvx_put_u32(&writer, message->slot);
		kvx_put_u32(&writer, message->generation);
		break;
	case KVX_MESSAGE_PULL:
		put_pull(&writer, message);
		break;
	case KVX_MESSAGE_RELEASE:
		kvx_put_u64(&writer, message->stream);
		kvx_put_u64(&writer, message->key);
		break;
	}
	return (uint32_t)(writer.next - bytes);
}

static void get_code(struct kvx_reader *reader, struct kvx_message *message)
{
	int code = -(int)kvx_get_u8(reader);

	/* A newer peer may know more codes. */
	message->code = strcmp(kvx_error_name(code), "KVX_E_UNKNOWN") == 0 || code == 0
				? KVX_E_REFUSED
				: code;
	kvx_get_text(reader, message->text, sizeof(message->text));
}

static void get_open(struct kvx_reader *reader, struct kvx_message *message)
{
	message->stream = kvx_get_u64(reader);
	message->slot = kvx_get_u32(reader);
	message->generation = kvx_get_u32(reader);
	message->key = kvx_get_u64(reader);
	message->units = kvx_get_u32(reader);
	get_weights(reader, message);
	message->tail = get_flag(reader);
	message->hash = kvx_get_u64(reader);
	kvx_get_geometry(reader, &message->geometry);
}

static void get_pull(struct kvx_reader *reader, struct kvx_message *message)
{
	message->stream = kvx_get_u64(reader);
	message->key = kvx_get_u64(reader);
	message->count = kvx_get_u32(reader);
	message->first = kvx_get_u32(reader);
	message->part_bytes = kvx_get_u32(reader);
	if (message->part_bytes > KVX_PART_MAX)
		reader->failed = true;
	else
		kvx_get_bytes(reader, message->part, message->part_bytes);
}

int kvx_message_decode(struct kvx_message *message, const void *bytes, uint32_t length)
{
	struct kvx_reader reader = kvx_reader_over(bytes, length);

	memset(message, 0, sizeof(*message));
	message->type = (enum kvx_message_type)kvx_get_u8(&reader);
	switch (message->type) {
	case KVX_MESSAGE_HELLO:
		message->version = kvx_get_u32(&reader);
		if (!reader.failed && message->version != KVX_PROTOCOL_VERSION)
			return 0; /* the rest may look different; the caller refuses by the version
				   */
		message->incarnation = kvx_get_u64(&reader);
		message->heartbeat_ms = kvx_get_u32(&reader);
		kvx_get_text(&reader, message->text, KVX_NAME_MAX + 1);
		break;
	case KVX_MESSAGE_OPEN:
		get_open(&reader, message);
		break;
	case KVX_MESSAGE_ACCEPT:
		message->stream = kvx_get_u64(&reader);
		message->unit_first = kvx_get_u32(&reader);
		get_share(&reader, message);
		message->hash = kvx_get_u64(&reader);
		break;
	case KVX_MESSAGE_REFUSE:
	case KVX_MESSAGE_REVOKE:
	case KVX_MESSAGE_DECLINE:
		message->stream = kvx_get_u64(&reader);
		get_code(&reader, message);
		break;
	case KVX_MESSAGE_WHOLE:
		message->stream = kvx_get_u64(&reader);
		message->first = kvx_get_u32(&reader);
		message->count = kvx_get_u32(&reader);
		break;
	case KVX_MESSAGE_CANCEL:
		message->slot = kvx_get_u32(&reader);
		message->generation = kvx_get_u32(&reader);
		kvx_get_text(&reader, message->text, sizeof(message->text));
		break;
	case KVX_MESSAGE_BYE:
		kvx_get_text(&reader, message->text, sizeof(message->text));
		break;
	case KVX_MESSAGE_PING:
		break;
	case KVX_MESSAGE_LAYOUT:
		message->stream = kvx_get_u64(&reader);
		get_layout(&reader, message);
		break;
	case KVX_MESSAGE_DRAINED:
		message->slot = kvx_get_u32(&reader);
		message->generation = kvx_get_u32(&reader);
		break;
	case KVX_MESSAGE_PULL:
		get_pull(&reader, message);
		break;
	case KVX_MESSAGE_RELEASE:
		message->stream = kvx_get_u64(&reader);
		message->key = kvx_get_u64(&reader);
		break;
	default:
		return kvx_fail(KVX_E_PROTOCOL, "message of unknown type %d", (int)message->type);
	}
	if (reader.failed || kvx_reader_left(&reader))
		return kvx_fail(KVX_E_PROTOCOL,
				"message of type %d has a wrong length (%u bytes) or form",
				(int)message->type, length);
	return 0;
}
