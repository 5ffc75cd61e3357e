/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* So much is sent at once; less waits for the next progress(), so that small frames, which cost a
 * system call each otherwise, go together. */
#define ENOUGH_BYTES (256u << 10)

void kvx_tcp_sending_clear(struct kvx_tcp_sending *sending)
{
	for (uint32_t i = 0; i < sending->frame_count; i++) {
		free(sending->frames[i].rest);
		if (sending->frames[i].released)
			++*sending->frames[i].released;
	}
	sending->first = sending->count = sending->frame_count = sending->bytes = 0;
	sending->full = false;
}

static bool has_room(const struct kvx_tcp_sending *sending, const struct kvx_batch *batch)
{
	return sending->frame_count < KVX_TCP_FRAMES_MAX &&
	       KVX_TCP_PARTS_MAX - sending->count > batch->count;
}

/* The header, then the slices; those that adjoin in memory become one part. */
static void add_frame(struct kvx_tcp_sending *sending, const struct kvx_batch *batch)
{
	struct kvx_tcp_frame *frame = &sending->frames[sending->frame_count++];
	struct iovec *part = &sending->parts[sending->count];

	kvx_tcp_header_encode(batch, frame->header);
	frame->flow = batch->flow;
	frame->rest = NULL;
	frame->released = batch->released;
	frame->first = sending->count;
	*part = (struct iovec){frame->header, sizeof(frame->header)};
	for (uint32_t i = 0; i < batch->count; i++) {
		const struct kvx_slice *slice = &batch->slices[i];
		if (i > 0 && slice->local == (char *)part->iov_base + part->iov_len)
			part->iov_len += slice->length;
		else
			*++part = (struct iovec){(char *)slice->local, slice->length};
	}
	frame->end = sending->count = (uint32_t)(part - sending->parts) + 1;
	sending->bytes += batch->bytes;
}

/* Withdrawn parts are empty, and passed over here. */
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
}

/* Gives the socket what it takes. False: the rail is lost. */
static bool flush(struct kvx_tcp_rail *rail)
{
	struct kvx_tcp_sending *sending = &rail->sending;
	ssize_t sent =
		kvx_tcp_connection_send_parts(&rail->connection, sending->parts + sending->first,
					      sending->count - sending->first);

	if (sent > 0)
		advance(sending, (size_t)sent);
	else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
		kvx_tcp_rail_lost(rail, errno);
		return false;
	}
	return true;
}

void kvx_tcp_send(struct kvx_tcp_rail *rail)
{
	kvx_list_remove(&rail->unsent);
	if (!flush(rail) ||
	    (!rail->sending.count && kvx_tcp_connection_is_flushed(&rail->connection)))
		return;
	rail->sending.full = rail->sending.count;
	kvx_tcp_connection_want(&rail->connection, EPOLLIN | EPOLLOUT);
}

bool kvx_tcp_post(struct kvx_link *base, uint32_t index, const struct kvx_batch *batch)
{
	struct kvx_tcp_link *link = (struct kvx_tcp_link *)base;
	struct kvx_tcp_rail *rail = &link->rails[index];
	struct kvx_tcp_sending *sending = &rail->sending;

	if (link->state != KVX_TCP_LINK_UP || rail->state != KVX_TCP_RAIL_UP || sending->full ||
	    !has_room(sending, batch))
		return false;
	add_frame(sending, batch);
	if (sending->bytes >= ENOUGH_BYTES)
		kvx_tcp_send(rail);
	else if (kvx_list_empty(&rail->unsent))
		kvx_list_append(&base->transport->unsent, &rail->unsent);
	return true;
}

/* The peer has nothing to say on a data connection: readable is the end, or an error. */
static void look_for_end(struct kvx_tcp_rail *rail)
{
	char byte;
	ssize_t got = kvx_tcp_connection_receive(&rail->connection, &byte, 1);

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
	if (rail->sending.count || !kvx_tcp_connection_is_flushed(&rail->connection))
		kvx_tcp_send(rail);
	else
		kvx_tcp_connection_want(&rail->connection, EPOLLIN);
}

static size_t bytes_of(const struct iovec *parts, uint32_t count)
{
	size_t bytes = 0;

	for (uint32_t i = 0; i < count; i++)
		bytes += parts[i].iov_len;
	return bytes;
}

/* The peer has got the frame's first byte, so it must get the rest: from a copy, so that the
 * stream's memory is free at once. */
static bool detach(struct kvx_tcp_frame *frame, struct iovec *parts, uint32_t count)
{
	size_t bytes = bytes_of(parts, count);

	if (frame->rest || !bytes)
		return true;
	char *next = frame->rest = malloc(bytes);
	if (!next)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		memcpy(next, parts[i].iov_base, parts[i].iov_len);
		parts[i].iov_base = next;
		next += parts[i].iov_len;
	}
	return true;
}

/* False: no memory to do it. */
static bool withdraw_frame(struct kvx_tcp_sending *sending, struct kvx_tcp_frame *frame)
{
	struct iovec *parts = &sending->parts[frame->first];
	uint32_t count = frame->end - frame->first;

	if (sending->first >= frame->end)
		return true; /* sent */
	if (sending->first < frame->first ||
	    (sending->first == frame->first && parts[0].iov_len == sizeof(frame->header))) {
		for (uint32_t i = 0; i < count; i++)
			parts[i].iov_len = 0;
		return true;
	}
	count = frame->end - sending->first;
	return detach(frame, &sending->parts[sending->first], count);
}

void kvx_tcp_withdraw(struct kvx_link *base, struct kvx_flow *flow)
{
	struct kvx_tcp_link *link = (struct kvx_tcp_link *)base;

	for (uint32_t i = 0; i < base->rails; i++) {
		struct kvx_tcp_rail *rail = &link->rails[i];
		struct kvx_tcp_sending *sending = &rail->sending;
		bool done = true;
		for (uint32_t j = 0; j < sending->frame_count; j++)
			if (sending->frames[j].flow == flow)
				done = withdraw_frame(sending, &sending->frames[j]) && done;
		if (!done)
			kvx_tcp_rail_lost(rail, ENOMEM);
		else if (sending->count)
			advance(sending, 0);
		if (!sending->count)
			kvx_list_remove(&rail->unsent);
	}
}
