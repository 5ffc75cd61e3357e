/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include "base/copy.h"

#include <errno.h>

#define PARTS_MAX 256             /* places asked for at once: 1 MiB of 4 KiB blocks */
#define CALLBACK_BYTES (4u << 20) /* read per callback, so that one peer cannot starve others */

/* Places whose lines are fetched before their turn: they are in no cache, and apart from each other
 * (128 bytes each: 2.5 GB/s with it, 1.9 without). */
#define PLACES_AHEAD 8
#define LINE_BYTES 64u

/* Where the next read goes, parts[first..end): the frame that is under way, then the header of the
 * one after it. Tiny places are parts[0..first): what is read for them goes through the landing
 * buffer. */
struct aim {
	struct iovec parts[PARTS_MAX + 2];
	int first, end;
	uint32_t payload; /* bytes of the frame under way */
	size_t bytes;     /* in all; 0: the sink has no room now */
};

/* Cuts what the sink answered to what was asked. */
static void take_places(struct aim *aim, int count, uint32_t left)
{
	for (; aim->end < count && aim->payload < left; aim->end++) {
		struct iovec *part = &aim->parts[aim->end];
		if (part->iov_len > left - aim->payload)
			part->iov_len = left - aim->payload;
		aim->payload += (uint32_t)part->iov_len;
	}
}

static void aim_landing(struct kvx_transport *transport, struct aim *aim, uint32_t left)
{
	aim->payload = left < sizeof(transport->landing) ? left : sizeof(transport->landing);
	aim->first = aim->end;
	aim->parts[aim->end++] = (struct iovec){transport->landing, aim->payload};
}

/* Where the next of the frame's bytes go; as the sink's place(). */
static int ask(struct kvx_tcp_rail *rail, struct aim *aim, uint32_t bytes)
{
	const struct kvx_tcp_receiving *receiving = &rail->receiving;
	const struct kvx_transport_context *context = rail->connection.transport->context;

	return context->sink->place(context->engine, &rail->connection.link->base, &receiving->unit,
				    receiving->place, bytes, aim->parts, PARTS_MAX);
}

static void aim_payload(struct kvx_tcp_rail *rail, struct aim *aim)
{
	struct kvx_tcp_receiving *receiving = &rail->receiving;
	struct kvx_transport *transport = rail->connection.transport;
	int count = receiving->refused ? 0 : ask(rail, aim, receiving->left);

	if (count == KVX_PLACE_LATER)
		return;
	receiving->refused = count <= 0;
	take_places(aim, count, receiving->left);
	if (receiving->refused ||
	    (aim->end > 1 && (uint64_t)aim->end * transport->tiny_bytes > aim->payload))
		aim_landing(transport, aim, receiving->left);
}

static void aim_read(struct kvx_tcp_rail *rail, struct aim *aim)
{
	struct kvx_tcp_receiving *receiving = &rail->receiving;

	aim->first = aim->end = 0;
	aim->payload = 0;
	if (receiving->left)
		aim_payload(rail, aim);
	aim->bytes = aim->payload;
	if (aim->payload == receiving->left) {
		struct iovec *header = &aim->parts[aim->end++];
		header->iov_base = receiving->header + receiving->header_bytes;
		header->iov_len = KVX_TCP_HEADER_BYTES - receiving->header_bytes;
		aim->bytes += header->iov_len;
	}
}

static void payload_came(struct kvx_tcp_rail *rail, uint32_t bytes)
{
	struct kvx_tcp_receiving *receiving = &rail->receiving;
	const struct kvx_transport_context *context = rail->connection.transport->context;
	uint64_t place = receiving->place;

	receiving->place += bytes;
	receiving->left -= bytes;
	if (!receiving->refused)
		context->sink->landed(context->engine, &rail->connection.link->base,
				      (uint32_t)(rail - rail->connection.link->rails),
				      &receiving->unit, place, bytes);
}

static void fetch(const struct iovec *place)
{
	for (size_t at = 0; at < place->iov_len && at < KVX_COPY_AHEAD_BYTES; at += LINE_BYTES)
		__builtin_prefetch((char *)place->iov_base + at, 1);
}

/* Copies the first of these bytes to the places. Returns how many had one. */
static uint32_t scatter(const struct iovec *places, int count, const char *from, uint32_t bytes)
{
	uint32_t done = 0;

	for (int i = 0; i < count && done < bytes; i++) {
		uint32_t left = bytes - done;
		uint32_t some = places[i].iov_len < left ? (uint32_t)places[i].iov_len : left;
		if (i + PLACES_AHEAD < count)
			fetch(&places[i + PLACES_AHEAD]);
		kvx_copy(places[i].iov_base, from + done, some);
		done += some;
	}
	kvx_copy_fence();
	return done;
}

/* Takes all that came into the landing buffer to its places. Nothing stays: no revoke could take it
 * back. The sink is asked anew after each group that it was told of, as that may have ended the
 * grant, or the link. */
static void land(struct kvx_tcp_rail *rail, struct aim *aim, uint32_t bytes)
{
	struct kvx_tcp_receiving *receiving = &rail->receiving;
	const char *from = rail->connection.transport->landing;

	for (int count = aim->first; bytes && rail->state == KVX_TCP_RAIL_UP;) {
		uint32_t some = bytes;
		receiving->refused = count <= 0;
		if (!receiving->refused)
			some = scatter(aim->parts, count, from, bytes);
		payload_came(rail, some);
		from += some;
		bytes -= some;
		if (bytes && rail->state == KVX_TCP_RAIL_UP)
			count = ask(rail, aim, bytes);
	}
}

/* False: the peer broke the protocol. */
static bool header_came(struct kvx_tcp_receiving *receiving, uint32_t bytes)
{
	struct kvx_tcp_header header;

	receiving->header_bytes += bytes;
	if (receiving->header_bytes < KVX_TCP_HEADER_BYTES)
		return true;
	if (!kvx_tcp_header_decode(receiving->header, &header))
		return false;
	receiving->header_bytes = 0;
	receiving->unit = header.unit;
	receiving->place = header.place;
	receiving->left = header.bytes;
	receiving->refused = false;
	return true;
}

static void bytes_came(struct kvx_tcp_rail *rail, struct aim *aim, size_t bytes)
{
	uint32_t payload = bytes < aim->payload ? (uint32_t)bytes : aim->payload;

	if (payload && aim->first)
		land(rail, aim, payload);
	else if (payload)
		payload_came(rail, payload);
	if (bytes > payload && !header_came(&rail->receiving, (uint32_t)(bytes - payload)))
		kvx_tcp_link_fail(rail->connection.link, KVX_E_PROTOCOL,
				  "data connection: not the header of a frame");
}

/* No more than `most` bytes. */
static void cut(struct aim *aim, size_t most)
{
	if (aim->bytes <= most)
		return;
	int end = aim->end;
	aim->bytes = most;
	for (aim->end = aim->first; aim->end < end && most; aim->end++) {
		struct iovec *part = &aim->parts[aim->end];
		if (part->iov_len > most)
			part->iov_len = most;
		most -= part->iov_len;
	}
}

/* The poller would tell of what the socket holds, but never of what is decrypted already. */
static void wait_for_room(struct kvx_tcp_rail *rail)
{
	if (kvx_list_empty(&rail->unread))
		kvx_list_append(&rail->connection.transport->unread, &rail->unread);
}

/* One read of at most that many bytes. Returns how many if there may be more to read, else 0. */
static size_t receive(struct kvx_tcp_rail *rail, size_t most)
{
	struct aim aim;

	aim_read(rail, &aim);
	if (!aim.bytes) {
		wait_for_room(rail);
		return 0;
	}
	cut(&aim, most);
	ssize_t got = kvx_tcp_connection_receive_parts(&rail->connection, aim.parts + aim.first,
						       aim.end - aim.first);
	if (got > 0) {
		bytes_came(rail, &aim, (size_t)got);
		return (size_t)got == aim.bytes ? aim.bytes : 0;
	}
	if (got == 0)
		kvx_tcp_rail_lost(rail, 0);
	else if (errno != EAGAIN && errno != EINTR)
		kvx_tcp_rail_lost(rail, errno);
	return 0;
}

void kvx_tcp_receiver_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_tcp_rail *rail =
		kvx_container_of(pollable, struct kvx_tcp_rail, connection.pollable);

	(void)events;
	for (size_t done = 0;;) {
		/* What is decrypted already nobody would tell of; more is for the next time. */
		size_t most = done < CALLBACK_BYTES ? CALLBACK_BYTES
						    : kvx_tcp_connection_pending(&rail->connection);
		size_t bytes = most ? receive(rail, most) : 0;
		if (bytes == 0 || rail->state != KVX_TCP_RAIL_UP)
			return;
		done += bytes;
	}
}

int kvx_tcp_receive_again(struct kvx_transport *transport)
{
	struct kvx_list again;
	int count = 0;

	kvx_list_init(&again);
	while (!kvx_list_empty(&transport->unread)) {
		struct kvx_list *entry = transport->unread.next;
		kvx_list_remove(entry);
		kvx_list_append(&again, entry);
	}
	while (!kvx_list_empty(&again)) {
		struct kvx_tcp_rail *rail =
			kvx_container_of(again.next, struct kvx_tcp_rail, unread);
		kvx_list_remove(&rail->unread);
		kvx_tcp_receiver_ready(&rail->connection.pollable, EPOLLIN);
		count += kvx_list_empty(&rail->unread);
	}
	return count;
}
