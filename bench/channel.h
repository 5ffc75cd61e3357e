/* SPDX-License-Identifier: Apache-2.0 */
/* The two ends talk in lines of JSON over a stream socket; bytes may follow a line, if it says how
 * many ("follow"). Any thread may send, one receives. */
#ifndef KVX_BENCH_CHANNEL_H
#define KVX_BENCH_CHANNEL_H

#include <jansson.h>
#include <pthread.h>
#include <stddef.h>

#define KVX_CHANNEL_LINE_MAX 65536u         /* bytes; who sends longer lines is cut off */
#define KVX_CHANNEL_FOLLOW_MAX (128u << 20) /* bytes after a line: a ticket with its table */

struct kvx_channel {
	int fd; /* not owned */
	pthread_mutex_t send_lock;
	char *buffer;
	size_t used;    /* bytes in the buffer */
	size_t scanned; /* of these without a newline */
};

/* Returns 0 or -1 (kvx_failure_text()). */
int kvx_channel_init(struct kvx_channel *channel, int fd);
void kvx_channel_finish(struct kvx_channel *channel);

/* Sends an object and releases it. NULL (out of memory) and an end that is gone give -1. */
int kvx_channel_send(struct kvx_channel *channel, json_t *message);

/* The same with bytes after it, 1 to KVX_CHANNEL_FOLLOW_MAX. */
int kvx_channel_send_bytes(struct kvx_channel *channel, json_t *message, const void *bytes,
			   size_t size);

/* What followed a line; the receiver frees bytes. */
struct kvx_channel_bytes {
	void *bytes; /* NULL: nothing */
	size_t size;
};

/* The next object; the caller releases it. follow: NULL if nothing may follow it. NULL: the other
 * end is gone, silent for timeout_ms, or sent something else (kvx_failure_text() says which). */
json_t *kvx_channel_receive(struct kvx_channel *channel, int timeout_ms,
			    struct kvx_channel_bytes *follow);

#endif
