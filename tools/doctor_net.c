/* SPDX-License-Identifier: Apache-2.0 */
/* Connections with deadlines, and lines of JSON over them. What comes from the other side is
 * bounded before it is looked at. */
#include "doctor.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 8
#define HOST_MAX 255u
#define SEND_LIMIT_MS 10000

int64_t doctor_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* What is left until then, for poll(). */
static int left_ms(int64_t deadline_ms)
{
	int64_t left = deadline_ms - doctor_now_ms();

	return left > 0 ? (int)left : 0;
}

/* ---------------------------------------------------------------------------------- addresses */

/* getaddrinfo() would take the low 16 bits of a larger number. */
static bool is_port(const char *text)
{
	size_t length = strlen(text);

	return length >= 1 && length <= 5 && strspn(text, "0123456789") == length &&
	       strtoul(text, NULL, 10) <= UINT16_MAX;
}

static bool split(const char *text, char host[HOST_MAX + 1], const char **port)
{
	const char *colon = strrchr(text, ':');
	bool is_bracketed = text[0] == '[' && colon && colon > text + 1 && colon[-1] == ']';
	size_t length = colon ? (size_t)(colon - text) : 0;

	if (!length || !is_port(colon + 1) || (!is_bracketed && memchr(text, ':', length)))
		return false;
	text += is_bracketed;
	length -= is_bracketed ? 2 : 0;
	if (!length || length > HOST_MAX)
		return false;
	memcpy(host, text, length);
	host[length] = 0;
	*port = colon + 1;
	return true;
}

static struct addrinfo *look_up(const char *address, int flags, char why[DOCTOR_TEXT_MAX + 1])
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = flags | AI_NUMERICSERV};
	struct addrinfo *found;
	char host[HOST_MAX + 1];
	const char *port;

	if (!split(address, host, &port)) {
		snprintf(why, DOCTOR_TEXT_MAX + 1,
			 "\"%.100s\" is not HOST:PORT; IPv6 goes in brackets", address);
		return NULL;
	}
	int error = getaddrinfo(host, port, &hints, &found);
	if (!error)
		return found;
	snprintf(why, DOCTOR_TEXT_MAX + 1, "%.100s: %s", address, gai_strerror(error));
	return NULL;
}

/* errno, or 0. */
static int wait_connected(int fd, int timeout_ms)
{
	struct pollfd ready = {.fd = fd, .events = POLLOUT};
	int error = 0;
	socklen_t size = sizeof(error);
	int count = poll(&ready, 1, timeout_ms);

	if (count <= 0)
		return count < 0 ? errno : ETIMEDOUT;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
	return error;
}

static int connect_one(const struct addrinfo *at, int timeout_ms, int *error)
{
	int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0) {
		*error = errno;
		return -1;
	}
	*error = connect(fd, at->ai_addr, at->ai_addrlen) ? errno : 0;
	if (*error == EINPROGRESS)
		*error = wait_connected(fd, timeout_ms);
	if (!*error)
		return fd;
	close(fd);
	return -1;
}

int doctor_connect(const char *address, int timeout_ms, char why[DOCTOR_TEXT_MAX + 1])
{
	struct addrinfo *found = look_up(address, 0, why);
	int64_t deadline_ms = doctor_now_ms() + timeout_ms;
	int fd = -1, error = 0;

	if (!found)
		return -1;
	for (struct addrinfo *at = found; at && fd < 0; at = at->ai_next)
		fd = connect_one(at, left_ms(deadline_ms), &error);
	freeaddrinfo(found);
	if (fd < 0)
		snprintf(why, DOCTOR_TEXT_MAX + 1, "%.100s: cannot connect: %s", address,
			 strerror(error));
	return fd;
}

static bool is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET) {
		const struct sockaddr_in *four = (const void *)address;
		return ntohl(four->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	}
	const struct sockaddr_in6 *six = (const void *)address;
	return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

int doctor_listen_at(const char *address, bool is_network_allowed, char why[DOCTOR_TEXT_MAX + 1])
{
	struct addrinfo *at = look_up(address, AI_PASSIVE, why);
	const int on = 1;

	if (!at)
		return -1;
	if (!is_loopback(at->ai_addr) && !is_network_allowed) {
		freeaddrinfo(at);
		snprintf(why, DOCTOR_TEXT_MAX + 1,
			 "%.100s: beyond loopback anybody who reaches the port could use it; "
			 "--unauthenticated-network allows that",
			 address);
		return -1;
	}
	int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, at->ai_addr, at->ai_addrlen) || listen(fd, BACKLOG)) {
		snprintf(why, DOCTOR_TEXT_MAX + 1, "%.100s: %s", address, strerror(errno));
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(at);
	return fd;
}

void doctor_host_of(int fd, bool is_other, char *host, size_t size)
{
	struct sockaddr_storage address = {0};
	socklen_t length = sizeof(address);
	struct sockaddr *socket = (struct sockaddr *)&address;
	int error = is_other ? getpeername(fd, socket, &length) : getsockname(fd, socket, &length);

	if (error || getnameinfo(socket, length, host, (socklen_t)size, NULL, 0, NI_NUMERICHOST))
		snprintf(host, size, "unknown");
}

/* -------------------------------------------------------------------------------------- lines */

static int fail(struct doctor_channel *channel, const char *what, const char *why)
{
	snprintf(channel->why, sizeof(channel->why), "%s%s%s", what, *why ? ": " : "", why);
	return -1;
}

static int send_all(struct doctor_channel *channel, const char *bytes, size_t size)
{
	int64_t deadline_ms = doctor_now_ms() + SEND_LIMIT_MS;

	while (size) {
		struct pollfd ready = {.fd = channel->fd, .events = POLLOUT};
		ssize_t sent = send(channel->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent > 0) {
			bytes += sent;
			size -= (size_t)sent;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return fail(channel, "cannot send", strerror(errno));
		if (poll(&ready, 1, left_ms(deadline_ms)) == 0)
			return fail(channel, "the other side takes nothing", "");
	}
	return 0;
}

int doctor_send(struct doctor_channel *channel, json_t *message)
{
	char *line = message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t length = line ? strlen(line) : 0;

	json_decref(message);
	if (!line)
		return fail(channel, "no memory for a message", "");
	line[length] = '\n'; /* in place of the zero, which is not sent */
	int error = send_all(channel, line, length + 1);
	free(line);
	return error;
}

static json_t *take_line(struct doctor_channel *channel, size_t length)
{
	json_t *message = json_loadb(channel->buffer, length, JSON_REJECT_DUPLICATES, NULL);

	channel->used -= length + 1;
	memmove(channel->buffer, channel->buffer + length + 1, channel->used);
	if (json_is_object(message))
		return message;
	json_decref(message);
	fail(channel, "the other side sent a line that is not an object of JSON", "");
	return NULL;
}

/* Waits until there is something to read. False: not before the deadline. */
static bool wait_readable(const struct doctor_channel *channel, int64_t deadline_ms,
			  const struct doctor_beside *beside)
{
	while (doctor_now_ms() < deadline_ms) {
		struct pollfd ready[2] = {{.fd = channel->fd, .events = POLLIN},
					  {.fd = beside ? beside->fd : -1, .events = POLLIN}};
		if (poll(ready, 2, left_ms(deadline_ms)) < 0 && errno != EINTR)
			return false;
		if (beside && ready[1].revents)
			beside->ready(beside->context);
		if (ready[0].revents)
			return true;
	}
	return false;
}

json_t *doctor_receive(struct doctor_channel *channel, int timeout_ms,
		       const struct doctor_beside *beside)
{
	int64_t deadline_ms = doctor_now_ms() + timeout_ms;

	for (;;) {
		char *newline = memchr(channel->buffer, '\n', channel->used);
		if (newline)
			return take_line(channel, (size_t)(newline - channel->buffer));
		if (channel->used >= channel->line_max) {
			fail(channel, "the other side sent a line that is too long", "");
			return NULL;
		}
		if (!wait_readable(channel, deadline_ms, beside)) {
			fail(channel, "the other side does not answer", "");
			return NULL;
		}
		ssize_t got = recv(channel->fd, channel->buffer + channel->used,
				   channel->line_max - channel->used, MSG_DONTWAIT);
		if (got > 0) {
			channel->used += (size_t)got;
		} else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
			fail(channel, "the other side has gone", got ? strerror(errno) : "");
			return NULL;
		}
	}
}

void doctor_text_of(const json_t *message, const char *key, char *text, size_t size)
{
	const char *value = json_string_value(json_object_get(message, key));

	snprintf(text, size, "%s", value ? value : "");
	for (char *at = text; *at; at++)
		if (*at < ' ' || *at > '~')
			*at = '?';
}
