/* SPDX-License-Identifier: Apache-2.0 */
#include "base/outbox.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define KEPT_BYTES                                                                     \
	4096u /* room that an empty queue keeps, so that short messages never allocate \
	       */

void kvx_outbox_init(struct kvx_outbox *outbox, uint32_t bytes_max)
{
	*outbox = (struct kvx_outbox){.bytes_max = bytes_max};
}

void kvx_outbox_finish(struct kvx_outbox *outbox)
{
	free(outbox->bytes);
	outbox->bytes = NULL;
	outbox->begin = outbox->end = outbox->size = 0;
}

/* Makes room for `size` bytes in all, doubling, so that a long queue is not copied at each call. */
static bool grow(struct kvx_outbox *outbox, uint32_t size)
{
	uint32_t doubled = outbox->size ? outbox->size : KEPT_BYTES;

	while (doubled < size)
		doubled *= 2;
	if (doubled == outbox->size)
		return true;
	uint8_t *bytes = realloc(outbox->bytes, doubled);
	if (!bytes)
		return false;
	outbox->bytes = bytes;
	outbox->size = doubled;
	return true;
}

uint8_t *kvx_outbox_reserve(struct kvx_outbox *outbox, uint32_t length)
{
	uint32_t waiting = kvx_outbox_bytes(outbox);

	if (length > outbox->bytes_max - waiting)
		return NULL;
	if (outbox->size - outbox->end < length && outbox->begin > 0) {
		memmove(outbox->bytes, outbox->bytes + outbox->begin, waiting);
		outbox->begin = 0;
		outbox->end = waiting;
	}
	if (!grow(outbox, outbox->end + length))
		return NULL;
	uint8_t *room = outbox->bytes + outbox->end;
	outbox->end += length;
	return room;
}

int kvx_outbox_flush(struct kvx_outbox *outbox,
		     ssize_t (*send)(void *to, const void *bytes, size_t size), void *to)
{
	while (outbox->begin < outbox->end) {
		ssize_t sent = send(to, outbox->bytes + outbox->begin, kvx_outbox_bytes(outbox));
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
		outbox->begin += (uint32_t)sent;
	}
	outbox->begin = outbox->end = 0;
	if (outbox->size > KEPT_BYTES)
		kvx_outbox_finish(outbox);
	return 0;
}
