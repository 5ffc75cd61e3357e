/* SPDX-License-Identifier: Apache-2.0 */
/* What peers of a soak say to each other beside kvxfer: packets over unix sockets. */
#include "soak/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static int channel_open(const char *folder, const char *name, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "%s/%s", folder, name);
	return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
}

int channel_listen(const char *folder, const char *name)
{
	struct sockaddr_un address;
	int fd = channel_open(folder, name, &address);

	unlink(address.sun_path);
	/* Several threads accept: who comes late finds nothing. */
	if (fd >= 0 && (fcntl(fd, F_SETFL, O_NONBLOCK) ||
			bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 64))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int channel_dial(const char *folder, const char *name)
{
	struct sockaddr_un address;
	int fd = channel_open(folder, name, &address);
	struct timeval patience = {.tv_sec = 2 * PATIENCE_MS / 1000};

	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		close(fd);
		return -1;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

bool channel_send(int fd, const void *head, size_t head_bytes, const void *more, size_t more_bytes)
{
	struct iovec parts[2] = {{(void *)head, head_bytes}, {(void *)more, more_bytes}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)(head_bytes + more_bytes);
}

bool channel_receive(int fd, void *head, size_t head_bytes, void *more, size_t more_bytes)
{
	struct iovec parts[2] = {{head, head_bytes}, {more, more_bytes}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

	errno = 0; /* 0 afterwards: the other side has closed it */
	return recvmsg(fd, &message, 0) >= (ssize_t)head_bytes;
}

bool channel_is_cut(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLHUP | POLLERR));
}
