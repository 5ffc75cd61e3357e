/* SPDX-License-Identifier: Apache-2.0 */
#include "support/sockets.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

uint16_t tcp_port_of(const char *address)
{
	const char *tcp = strstr(address, "tcp:");

	cr_assert(tcp, "%s", address);
	const char *colon = strrchr(tcp, ':');
	return (uint16_t)atoi(colon + 1);
}

static uint64_t bytes_sent_to(int fd, uint16_t port)
{
	struct sockaddr_in peer;
	struct tcp_info info;
	socklen_t length = sizeof(peer), size = sizeof(info);

	if (getpeername(fd, (struct sockaddr *)&peer, &length) || peer.sin_family != AF_INET ||
	    ntohs(peer.sin_port) != port)
		return 0;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size))
		return 0;
	return 1 + info.tcpi_bytes_acked;
}

int busiest_socket_to(uint16_t port)
{
	uint64_t most = 0;
	int found = -1;

	for (int fd = 0; fd < 1024; fd++) {
		uint64_t sent = bytes_sent_to(fd, port);
		if (sent <= most)
			continue;
		most = sent;
		found = fd;
	}
	return found;
}

static int connect_tcp(const char *address)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(tcp_port_of(address))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
	return fd;
}

/* "shm:NAME@BOOT_ID": NAME is an abstract socket. */
static int connect_unix(const char *address)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	const char *name = strstr(address, "shm:");
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	cr_assert(fd >= 0 && name, "%s", address);
	name += strlen("shm:");
	size_t length = strcspn(name, "@");
	memcpy(to.sun_path + 1, name, length);
	length += offsetof(struct sockaddr_un, sun_path) + 1;
	cr_assert_eq(connect(fd, (struct sockaddr *)&to, (socklen_t)length), 0);
	return fd;
}

int connect_plainly(const char *transport, const char *address)
{
	return strcmp(transport, "tcp") == 0 ? connect_tcp(address) : connect_unix(address);
}

int listen_on_loopback(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0);
	cr_assert_eq(listen(fd, 16), 0);
	return fd;
}

uint16_t port_of(int fd)
{
	struct sockaddr_in own;
	socklen_t length = sizeof(own);

	cr_assert_eq(getsockname(fd, (struct sockaddr *)&own, &length), 0);
	return ntohs(own.sin_port);
}

static uint32_t count_entries(const char *folder)
{
	DIR *entries = opendir(folder);
	uint32_t count = 0;

	cr_assert(entries);
	while (readdir(entries))
		count++;
	closedir(entries);
	return count - 2;
}

uint32_t count_descriptors(void)
{
	return count_entries("/proc/self/fd") - 1; /* the folder's own */
}

uint32_t lowest_free_descriptor(void)
{
	int fd = dup(0);

	cr_assert(fd >= 0);
	close(fd);
	return (uint32_t)fd;
}

uint32_t count_threads(void)
{
	return count_entries("/proc/self/task");
}
