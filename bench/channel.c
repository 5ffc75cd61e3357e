/* SPDX-License-Identifier: Apache-2.0 */
#include "channel.h"

#include "failure.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define SEND_TIMEOUT_S 30 /* an end that takes nothing for so long is gone */

int kvx_channel_init(struct kvx_channel *channel, int fd)
{
	const struct timeval timeout = {.tv_sec = SEND_TIMEOUT_S};
	const int on = 1;

	*channel = (struct kvx_channel){.fd = fd, .buffer = malloc(KVX_CHANNEL_LINE_MAX)};
	if (!channel->buffer)
		return kvx_failure_set("channel: out of memory");
	pthread_mutex_init(&channel->send_lock, NULL);
	/* A socket pair has neither; that is fine. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	return 0;
}

void kvx_channel_finish(struct kvx_channel *channel)
{
	if (!channel->buffer)
		return;
	free(channel->buffer);
	channel->buffer = NULL;
	pthread_mutex_destroy(&channel->send_lock);
}

static int send_all(int fd, const char *bytes, size_t size, int flags)
{
	while (size) {
		ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL | flags);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return kvx_failure_set("channel: cannot send: %s", strerror(errno));
		bytes += sent;
		size -= (size_t)sent;
	}
	return 0;
}

int kvx_channel_send_bytes(struct kvx_channel *channel, json_t *message, const void *bytes,
			   size_t size)
{
	if (size)
		json_object_set_new(message, "follow", json_integer((json_int_t)size));
	char *line = message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t length = line ? strlen(line) : 0;

	json_decref(message);
	if (!line)
		return kvx_failure_set("channel: out of memory for a message");
	line[length] = '\n'; /* the zero is not sent */
	pthread_mutex_lock(&channel->send_lock);
	int error = send_all(channel->fd, line, length + 1, size ? MSG_MORE : 0);
	error = error ? error : send_all(channel->fd, bytes, size, 0);
	pthread_mutex_unlock(&channel->send_lock);
	free(line);
	return error;
}

int kvx_channel_send(struct kvx_channel *channel, json_t *message)
{
	return kvx_channel_send_bytes(channel, message, NULL, 0);
}

/* At least one byte, or nothing after an interrupt; -1: no more will come. */
static ssize_t receive_some(const struct kvx_channel *channel, char *bytes, size_t size,
			    int timeout_ms)
{
	struct pollfd ready = {.fd = channel->fd, .events = POLLIN};
	int count = poll(&ready, 1, timeout_ms);

	if (count < 0 && errno == EINTR)
		return 0;
	if (count == 0)
		return kvx_failure_set("channel: the other end was silent for %d ms", timeout_ms);
	ssize_t got = recv(channel->fd, bytes, size, 0);
	if (got < 0 && errno == EINTR)
		return 0;
	if (got < 0)
		return kvx_failure_set("channel: cannot receive: %s", strerror(errno));
	if (got == 0)
		return kvx_failure_set("channel: the other end has gone");
	return got;
}

static void drop_front(struct kvx_channel *channel, size_t size)
{
	channel->used -= size;
	channel->scanned = 0;
	memmove(channel->buffer, channel->buffer + size, channel->used);
}

static json_t *take_line(struct kvx_channel *channel, size_t length)
{
	json_t *message = json_loadb(channel->buffer, length, JSON_REJECT_DUPLICATES, NULL);

	drop_front(channel, length + 1);
	if (json_is_object(message))
		return message;
	json_decref(message);
	kvx_failure_set("channel: a line that is not an object of JSON");
	return NULL;
}

static json_t *receive_line(struct kvx_channel *channel, int timeout_ms)
{
	for (;;) {
		char *from = channel->buffer + channel->scanned;
		char *newline = memchr(from, '\n', channel->used - channel->scanned);
		if (newline)
			return take_line(channel, (size_t)(newline - channel->buffer));
		channel->scanned = channel->used;
		if (channel->used == KVX_CHANNEL_LINE_MAX) {
			kvx_failure_set("channel: a line longer than %u bytes",
					KVX_CHANNEL_LINE_MAX);
			return NULL;
		}
		ssize_t got = receive_some(channel, channel->buffer + channel->used,
					   KVX_CHANNEL_LINE_MAX - channel->used, timeout_ms);
		if (got < 0)
			return NULL;
		channel->used += (size_t)got;
	}
}

static int receive_follow(struct kvx_channel *channel, int timeout_ms, size_t size,
			  struct kvx_channel_bytes *follow)
{
	char *bytes = malloc(size);
	size_t have = channel->used < size ? channel->used : size;

	if (!bytes)
		return kvx_failure_set("channel: no memory for %zu bytes", size);
	memcpy(bytes, channel->buffer, have);
	drop_front(channel, have);
	while (have < size) {
		ssize_t got = receive_some(channel, bytes + have, size - have, timeout_ms);
		if (got < 0) {
			free(bytes);
			return -1;
		}
		have += (size_t)got;
	}
	*follow = (struct kvx_channel_bytes){bytes, size};
	return 0;
}

json_t *kvx_channel_receive(struct kvx_channel *channel, int timeout_ms,
			    struct kvx_channel_bytes *follow)
{
	json_t *message = receive_line(channel, timeout_ms);
	json_int_t size = json_integer_value(json_object_get(message, "follow"));

	if (!message)
		return NULL;
	if (follow)
		*follow = (struct kvx_channel_bytes){0};
	if (size == 0)
		return message;
	if (follow && size > 0 && size <= (json_int_t)KVX_CHANNEL_FOLLOW_MAX &&
	    receive_follow(channel, timeout_ms, (size_t)size, follow) == 0)
		return message;
	if (!follow || size < 0 || size > (json_int_t)KVX_CHANNEL_FOLLOW_MAX)
		kvx_failure_set("channel: bytes that nobody asked for");
	json_decref(message);
	return NULL;
}
