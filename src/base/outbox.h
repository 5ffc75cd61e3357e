/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes on their way to a non-blocking stream socket: a queue bounded in bytes, for messages and
 * frames that the socket does not take at once. Small ones are kept in one page, more is allocated
 * while it is needed and given back when all is sent. Owner: the worker's thread.
 *
 *	uint8_t *room = kvx_outbox_reserve(&outbox, 2 + length);
 *	if (!room)
 *		the peer does not read: give it up
 *	encode into room, all of it
 *	if (kvx_outbox_flush(&outbox, send, to) < 0)
 *		the connection is broken
 *	ask the poller for EPOLLOUT as long as kvx_outbox_bytes() is not 0
 */
#ifndef KVX_BASE_OUTBOX_H
#define KVX_BASE_OUTBOX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct kvx_outbox {
	uint8_t *bytes;      /* room for size bytes; NULL until the first is queued */
	uint32_t begin, end; /* of what waits, in bytes */
	uint32_t size;       /* bytes allocated */
	uint32_t bytes_max;  /* longest queue, in bytes */
};

/* Allocates nothing yet. bytes_max: at most 2^30. */
void kvx_outbox_init(struct kvx_outbox *outbox, uint32_t bytes_max);

/* What still waits is lost. */
void kvx_outbox_finish(struct kvx_outbox *outbox);

/* Queues `length` bytes that the caller writes to the returned address before the next call. NULL,
 * and nothing queued: more than bytes_max would wait, or no memory. */
uint8_t *kvx_outbox_reserve(struct kvx_outbox *outbox, uint32_t length);

/* Gives a connection what it takes without waiting; send is as send(2), with errno. Returns 0 (also
 * if bytes are left), or the errno of the failed send, negative. */
int kvx_outbox_flush(struct kvx_outbox *outbox,
		     ssize_t (*send)(void *to, const void *bytes, size_t size), void *to);

/* Bytes that wait. */
static inline uint32_t kvx_outbox_bytes(const struct kvx_outbox *outbox)
{
	return outbox->end - outbox->begin;
}

#endif
