/* SPDX-License-Identifier: Apache-2.0 */
#include "base/wire.h"
#include "shm.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 4 /* room for more than a packet carries, so that too many are noticed */

union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
};

struct kvx_writer kvx_shm_packet_begin(struct shm_packet *packet, enum shm_kind kind)
{
	struct kvx_writer writer = kvx_writer_over(packet->bytes, sizeof(packet->bytes));

	packet->fd = -1;
	kvx_put_u8(&writer, (uint8_t)kind);
	return writer;
}

void kvx_shm_packet_end(struct shm_packet *packet, const struct kvx_writer *writer)
{
	packet->length = (uint32_t)(writer->next - packet->bytes);
}

int kvx_shm_packet_send(int fd, const struct shm_packet *packet)
{
	struct iovec iov = {(void *)packet->bytes, packet->length};
	union control control;
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	memset(&control, 0, sizeof(control));
	if (packet->fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &packet->fd, sizeof(int));
	}
	return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

/* Keeps the first descriptor and closes the others. */
static void take_descriptors(struct msghdr *message, struct shm_packet *packet)
{
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
	     header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
			if (packet->fd < 0)
				packet->fd = fd;
			else
				close(fd);
		}
	}
}

int kvx_shm_packet_receive(int fd, struct shm_packet *packet)
{
	struct iovec iov = {packet->bytes, sizeof(packet->bytes)};
	union control control;
	struct msghdr message = {.msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	packet->fd = -1;
	if (length < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	packet->length = (uint32_t)length;
	take_descriptors(&message, packet);
	if (length > 0)
		return 1;
	if (packet->fd >= 0)
		close(packet->fd);
	return -1;
}
