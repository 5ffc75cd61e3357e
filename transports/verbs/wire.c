/* SPDX-License-Identifier: Apache-2.0 */
#include "wire.h"

#include "base/error.h"
#include "base/wire.h"

#include <string.h>

#define END_BYTES (4 + 4 + 1 + 1 + 1 + 2 + 16)
#define PORT_BYTES (4 + 2 + 4 + 16)
#define KEY_BYTES (1 + 4 + 4 + 8 + 4)

_Static_assert(1 + 4 + 1 + KVX_VERBS_PORTS_MAX * PORT_BYTES <= KVX_VERBS_MESSAGE_MAX, "ports fit");
_Static_assert(1 + 4 * 4 + 1 + 1 + KVX_VERBS_KEYS_MAX * KEY_BYTES <= KVX_VERBS_MESSAGE_MAX,
	       "keys fit");

static void put_port(struct kvx_writer *writer, const struct kvx_verbs_remote_port *port)
{
	kvx_put_u8(writer, port->link_layer);
	kvx_put_u8(writer, port->mtu);
	kvx_put_u8(writer, port->prefix_bits);
	kvx_put_u8(writer, port->up);
	kvx_put_u16(writer, port->lid);
	kvx_put_u32(writer, port->speed_mbps);
	kvx_put_bytes(writer, port->gid.raw, sizeof(port->gid.raw));
}

static void get_port(struct kvx_reader *reader, struct kvx_verbs_remote_port *port)
{
	port->link_layer = kvx_get_u8(reader);
	port->mtu = kvx_get_u8(reader);
	port->prefix_bits = kvx_get_u8(reader);
	port->up = kvx_get_u8(reader);
	port->lid = kvx_get_u16(reader);
	port->speed_mbps = kvx_get_u32(reader);
	kvx_get_bytes(reader, port->gid.raw, sizeof(port->gid.raw));
	if (port->prefix_bits > 128 || port->up > 1)
		reader->failed = true;
}

static void put_end(struct kvx_writer *writer, const struct kvx_verbs_end *end)
{
	kvx_put_u32(writer, end->qpn);
	kvx_put_u32(writer, end->psn);
	kvx_put_u8(writer, end->mtu);
	kvx_put_u8(writer, end->reads_out);
	kvx_put_u8(writer, end->reads_in);
	kvx_put_u16(writer, end->lid);
	kvx_put_bytes(writer, end->gid.raw, sizeof(end->gid.raw));
}

static void get_end(struct kvx_reader *reader, struct kvx_verbs_end *end)
{
	end->qpn = kvx_get_u32(reader);
	end->psn = kvx_get_u32(reader);
	end->mtu = kvx_get_u8(reader);
	end->reads_out = kvx_get_u8(reader);
	end->reads_in = kvx_get_u8(reader);
	end->lid = kvx_get_u16(reader);
	kvx_get_bytes(reader, end->gid.raw, sizeof(end->gid.raw));
	if (end->qpn >> 24 || end->psn >> 24 || end->mtu < IBV_MTU_256 || end->mtu > IBV_MTU_4096)
		reader->failed = true;
}

static void put_keys(struct kvx_writer *writer, const struct kvx_verbs_message *message)
{
	kvx_put_u32(writer, message->slot);
	kvx_put_u32(writer, message->generation);
	kvx_put_u32(writer, message->memories);
	kvx_put_u32(writer, message->pieces);
	kvx_put_u8(writer, (uint8_t)message->chunk_shift);
	kvx_put_u8(writer, (uint8_t)message->count);
	for (uint32_t i = 0; i < message->count; i++) {
		const struct kvx_verbs_key *key = &message->keys[i];
		kvx_put_u8(writer, key->rail);
		kvx_put_u32(writer, key->memory);
		kvx_put_u32(writer, key->piece);
		kvx_put_u64(writer, key->base);
		kvx_put_u32(writer, key->rkey);
	}
}

static void get_keys(struct kvx_reader *reader, struct kvx_verbs_message *message)
{
	message->slot = kvx_get_u32(reader);
	message->generation = kvx_get_u32(reader);
	message->memories = kvx_get_u32(reader);
	message->pieces = kvx_get_u32(reader);
	message->chunk_shift = kvx_get_u8(reader);
	message->count = kvx_get_u8(reader);
	if (message->slot >= KVX_GRANTS_MAX || !message->memories ||
	    message->memories > KVX_VERBS_MEMORIES_MAX || message->pieces < message->memories ||
	    message->pieces > KVX_VERBS_PIECES_MAX || message->chunk_shift > 62 ||
	    UINT64_C(1) << message->chunk_shift < KVX_VERBS_CHUNK_MIN ||
	    message->count > KVX_VERBS_KEYS_MAX)
		reader->failed = true;
	for (uint32_t i = 0; i < message->count && !reader->failed; i++) {
		struct kvx_verbs_key *key = &message->keys[i];
		key->rail = kvx_get_u8(reader);
		key->memory = kvx_get_u32(reader);
		key->piece = kvx_get_u32(reader);
		key->base = kvx_get_u64(reader);
		key->rkey = kvx_get_u32(reader);
		if (key->rail >= KVX_RAILS_MAX || key->memory >= message->memories ||
		    key->piece >= message->pieces)
			reader->failed = true;
	}
}

uint32_t kvx_verbs_encode(const struct kvx_verbs_message *message, uint8_t *bytes)
{
	struct kvx_writer writer = kvx_writer_over(bytes, KVX_VERBS_MESSAGE_MAX);

	kvx_put_u8(&writer, (uint8_t)message->type);
	switch (message->type) {
	case KVX_VERBS_PORTS:
		kvx_put_u32(&writer, message->version);
		kvx_put_u8(&writer, (uint8_t)message->count);
		for (uint32_t i = 0; i < message->count; i++)
			put_port(&writer, &message->ports[i]);
		break;
	case KVX_VERBS_ASK:
		kvx_put_u8(&writer, (uint8_t)message->rail);
		kvx_put_u8(&writer, (uint8_t)message->rails);
		kvx_put_u8(&writer, (uint8_t)message->local_port);
		kvx_put_u8(&writer, (uint8_t)message->remote_port);
		put_end(&writer, &message->end);
		break;
	case KVX_VERBS_ANSWER:
		kvx_put_u8(&writer, (uint8_t)message->rail);
		kvx_put_u32(&writer, message->qpn);
		kvx_put_u8(&writer, message->refused);
		if (message->refused)
			kvx_put_text(&writer, message->text);
		else
			put_end(&writer, &message->end);
		break;
	case KVX_VERBS_READY:
		kvx_put_u8(&writer, (uint8_t)message->rail);
		break;
	case KVX_VERBS_KEYS:
		put_keys(&writer, message);
		break;
	case KVX_VERBS_BROKEN:
		kvx_put_u8(&writer, (uint8_t)message->rail);
		kvx_put_u32(&writer, message->qpn);
		kvx_put_text(&writer, message->text);
		break;
	case KVX_VERBS_LINK:
	case KVX_VERBS_ENGINE:
		break;
	}
	return (uint32_t)(writer.next - bytes);
}

static void get_ports(struct kvx_reader *reader, struct kvx_verbs_message *message)
{
	message->version = kvx_get_u32(reader);
	if (message->version != KVX_VERBS_VERSION) { /* the rest may look different */
		reader->next = reader->end;
		return;
	}
	message->count = kvx_get_u8(reader);
	if (message->count > KVX_VERBS_PORTS_MAX)
		reader->failed = true;
	for (uint32_t i = 0; i < message->count && !reader->failed; i++)
		get_port(reader, &message->ports[i]);
}

int kvx_verbs_decode(struct kvx_verbs_message *message, const void *bytes, uint32_t length)
{
	struct kvx_reader reader = kvx_reader_over(bytes, length);

	memset(message, 0, sizeof(*message));
	message->type = (enum kvx_verbs_message_type)kvx_get_u8(&reader);
	switch (message->type) {
	case KVX_VERBS_PORTS:
		get_ports(&reader, message);
		break;
	case KVX_VERBS_ASK:
		message->rail = kvx_get_u8(&reader);
		message->rails = kvx_get_u8(&reader);
		message->local_port = kvx_get_u8(&reader);
		message->remote_port = kvx_get_u8(&reader);
		get_end(&reader, &message->end);
		if (!message->rails || message->rails > KVX_RAILS_MAX ||
		    message->rail >= message->rails)
			reader.failed = true;
		break;
	case KVX_VERBS_ANSWER:
		message->rail = kvx_get_u8(&reader);
		message->qpn = kvx_get_u32(&reader);
		message->refused = kvx_get_u8(&reader) != 0;
		if (message->refused)
			kvx_get_text(&reader, message->text, sizeof(message->text));
		else
			get_end(&reader, &message->end);
		break;
	case KVX_VERBS_READY:
		message->rail = kvx_get_u8(&reader);
		break;
	case KVX_VERBS_KEYS:
		get_keys(&reader, message);
		break;
	case KVX_VERBS_BROKEN:
		message->rail = kvx_get_u8(&reader);
		message->qpn = kvx_get_u32(&reader);
		kvx_get_text(&reader, message->text, sizeof(message->text));
		break;
	case KVX_VERBS_LINK:
		break;
	default:
		reader.failed = true;
	}
	if (reader.failed || kvx_reader_left(&reader))
		return kvx_fail(KVX_E_PROTOCOL,
				"control connection: a message of type %d has a wrong length (%u "
				"bytes) or form",
				(int)message->type, length);
	return 0;
}
