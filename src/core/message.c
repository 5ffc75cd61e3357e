/* SPDX-License-Identifier: Apache-2.0 */
#include "core/message.h"

#include "base/error.h"
#include "base/wire.h"

#include <string.h>

static void put_geometry(struct kvx_writer *writer, const struct kvx_geometry *geometry)
{
	kvx_put_u32(writer, geometry->layers);
	kvx_put_u32(writer, geometry->planes);
	kvx_put_u32(writer, geometry->block_bytes);
	kvx_put_u32(writer, geometry->block_tokens);
	kvx_put_text(writer, geometry->dtype);
}

static void get_geometry(struct kvx_reader *reader, struct kvx_geometry *geometry)
{
	geometry->layers = kvx_get_u32(reader);
	geometry->planes = kvx_get_u32(reader);
	geometry->block_bytes = kvx_get_u32(reader);
	geometry->block_tokens = kvx_get_u32(reader);
	kvx_get_text(reader, geometry->dtype, sizeof(geometry->dtype));
}

uint32_t kvx_message_encode(const struct kvx_message *message, uint8_t *bytes)
{
	struct kvx_writer writer = kvx_writer_over(bytes, KVX_MESSAGE_MAX);

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
		kvx_put_u64(&writer, message->stream);
		kvx_put_u32(&writer, message->slot);
		kvx_put_u32(&writer, message->generation);
		kvx_put_u64(&writer, message->key);
		kvx_put_u32(&writer, message->count);
		kvx_put_u32(&writer, message->units);
		kvx_put_u64(&writer, message->hash);
		put_geometry(&writer, &message->geometry);
		break;
	case KVX_MESSAGE_ACCEPT:
		kvx_put_u64(&writer, message->stream);
		kvx_put_u64(&writer, message->hash);
		break;
	case KVX_MESSAGE_REFUSE:
	case KVX_MESSAGE_REVOKE:
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
		message->stream = kvx_get_u64(&reader);
		message->slot = kvx_get_u32(&reader);
		message->generation = kvx_get_u32(&reader);
		message->key = kvx_get_u64(&reader);
		message->count = kvx_get_u32(&reader);
		message->units = kvx_get_u32(&reader);
		message->hash = kvx_get_u64(&reader);
		get_geometry(&reader, &message->geometry);
		break;
	case KVX_MESSAGE_ACCEPT:
		message->stream = kvx_get_u64(&reader);
		message->hash = kvx_get_u64(&reader);
		break;
	case KVX_MESSAGE_REFUSE:
	case KVX_MESSAGE_REVOKE:
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
	default:
		return kvx_fail(KVX_E_PROTOCOL, "message of unknown type %d", (int)message->type);
	}
	if (reader.failed || kvx_reader_left(&reader))
		return kvx_fail(KVX_E_PROTOCOL,
				"message of type %d has a wrong length (%u bytes) or form",
				(int)message->type, length);
	return 0;
}
