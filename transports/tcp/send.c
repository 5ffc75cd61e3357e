/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void kvx_tcp_sending_clear(struct kvx_tcp_sending *sending)
{
	free(sending->rest);
	sending->rest = NULL;
	sending->first = sending->count = 0;
}

/* The header, then the slices; those that adjoin in memory become one part. */
static void frame_batch(struct kvx_tcp_sending *sending, const struct kvx_batch *batch)
{
	struct iovec *part = sending->parts;

	kvx_tcp_header_encode(batch, sending->header);
	*part = (struct iovec){sending->header, sizeof(sending->header)};
	for (uint32_t i = 0; i < batch->count; i++) {
		const struct kvx_slice *slice = &batch->slices[i];
		if (i > 0 && slice->local == (char *)part->iov_base + part->iov_len)
			part->iov_len += slice->length;
		else
			*++part = (struct iovec){(char *)slice->local, slice->length};
	}
	sending->first = 0;
	sending->count = (uint32_t)(part - sending->parts) + 1;
	sending->begun = false;
	sending->stream = batch->stream;
}

static void advance(struct kvx_tcp_sending *sending, size_t sent)
{
	struct iovec *part = &sending->parts[sending->first];
	const struct iovec *end = &sending->parts[sending->count];

	for (; part < end && sent >= part->iov_len; part++)
		sent -= part->iov_len;
	if (part == end) {
		kvx_tcp_sending_clear(sending);
		return;
	}
	part->iov_base = (char *)part->iov_base + sent;
	part->iov_len -= sent;
	sending->first = (uint32_t)(part - sending->parts);
	sending->begun = true;
}

/* Gives the socket what it takes. False: the rail is lost. */
static bool flush(struct kvx_tcp_rail *rail)
{
	struct kvx_tcp_sending *sending = &rail->sending;
	struct msghdr message = {.msg_iov = sending->parts + sending->first,
				 .msg_iovlen = sending->count - sending->first};
	ssize_t sent = sendmsg(rail->connection.pollable.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent > 0)
		advance(sending, (size_t)sent);
	else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
		kvx_tcp_rail_lost(rail, errno);
		return false;
	}
	return true;
}

bool kvx_tcp_post(struct kvx_link *base, uint32_t index, const struct kvx_batch *batch)
{
	struct kvx_tcp_link *link = (struct kvx_tcp_link *)base;
	struct kvx_tcp_rail *rail = &link->rails[index];

	if (link->state != KVX_TCP_LINK_UP || rail->state != KVX_TCP_RAIL_UP || rail->sending.count)
		return false;
	frame_batch(&rail->sending, batch);
	if (flush(rail) && rail->sending.count)
		kvx_tcp_connection_want(&rail->connection, EPOLLIN | EPOLLOUT);
	return true;
}

/* The peer has nothing to say on a data connection: readable is the end, or an error. */
static void look_for_end(struct kvx_tcp_rail *rail)
{
	char byte;
	ssize_t got = recv(rail->connection.pollable.fd, &byte, 1, MSG_DONTWAIT);

	if (got > 0)
		kvx_tcp_link_fail(rail->connection.link, KVX_E_PROTOCOL,
				  "bytes on a data connection from its receiving side");
	else if (got == 0)
		kvx_tcp_rail_lost(rail, 0);
	else if (errno != EAGAIN && errno != EINTR)
		kvx_tcp_rail_lost(rail, errno);
}

/* EPOLLOUT is wanted until it comes and nothing waits any more: while the engine keeps the socket
 * full, no call is spent on changing that. */
void kvx_tcp_sender_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_tcp_rail *rail =
		kvx_container_of(pollable, struct kvx_tcp_rail, connection.pollable);

	if (events & ~(uint32_t)EPOLLOUT) {
		look_for_end(rail);
		if (rail->state != KVX_TCP_RAIL_UP ||
		    rail->connection.link->state != KVX_TCP_LINK_UP)
			return;
	}
	if (!(events & EPOLLOUT))
		return;
	if (rail->sending.count)
		flush(rail);
	else
		kvx_tcp_connection_want(&rail->connection, EPOLLIN);
}

/* What the peer must still get of a frame that it has begun to read is copied, so that the stream's
 * memory is free at once. */
static bool detach(struct kvx_tcp_sending *sending)
{
	size_t bytes = 0;

	if (sending->rest)
		return true;
	for (uint32_t i = sending->first; i < sending->count; i++)
		bytes += sending->parts[i].iov_len;
	char *rest = malloc(bytes);
	if (!rest)
		return false;
	char *next = rest;
	for (uint32_t i = sending->first; i < sending->count; i++) {
		memcpy(next, sending->parts[i].iov_base, sending->parts[i].iov_len);
		next += sending->parts[i].iov_len;
	}
	sending->rest = rest;
	sending->parts[0] = (struct iovec){rest, bytes};
	sending->first = 0;
	sending->count = 1;
	return true;
}

void kvx_tcp_withdraw(struct kvx_link *base, const void *stream)
{
	struct kvx_tcp_link *link = (struct kvx_tcp_link *)base;

	for (uint32_t i = 0; i < base->rails; i++) {
		struct kvx_tcp_sending *sending = &link->rails[i].sending;
		if (!sending->count || sending->stream != stream)
			continue;
		if (!sending->begun)
			kvx_tcp_sending_clear(sending);
		else if (!detach(sending))
			kvx_tcp_rail_lost(&link->rails[i], ENOMEM);
	}
}
