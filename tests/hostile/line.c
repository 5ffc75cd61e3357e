/* SPDX-License-Identifier: Apache-2.0 */
#include "hostile/liar.h"

#include "base/wire.h"
#include "lane.h"
#include "support/chance.h"
#include "tcp/frame.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SHM_MAGIC UINT64_C(0x6d68732d7866766b)
#define SHM_HELLO 1u
#define SHM_BELL 6u

static const uint64_t nonce = 77;

uint32_t liar_draw(struct liar *liar, uint32_t count)
{
	return random_between(&liar->random, 0, count - 1);
}

uint64_t liar_odd_number(struct liar *liar)
{
	static const uint64_t odd[] = {0,
				       1,
				       63,
				       64,
				       511,
				       512,
				       4095,
				       4096,
				       UINT16_MAX,
				       1 << 20,
				       (1 << 20) + 1,
				       INT32_MAX,
				       UINT32_C(1) << 31,
				       UINT32_MAX,
				       UINT64_C(1) << 32,
				       INT64_MAX,
				       UINT64_C(1) << 63,
				       UINT64_MAX - 3,
				       UINT64_MAX};
	uint32_t drawn = liar_draw(liar, sizeof(odd) / sizeof(*odd) + 2);

	return drawn < sizeof(odd) / sizeof(*odd) ? odd[drawn] : random_next(&liar->random);
}

const struct kvx_ticket *liar_newest(struct liar *liar)
{
	return liar->ticket_count ? &liar->tickets[(liar->ticket_count - 1) % TICKETS_KEPT] : NULL;
}

const struct kvx_ticket *liar_any_ticket(struct liar *liar)
{
	uint32_t count = liar->ticket_count < TICKETS_KEPT ? liar->ticket_count : TICKETS_KEPT;

	return count ? &liar->tickets[liar_draw(liar, count)] : NULL;
}

int liar_dial(struct liar *liar, bool shm)
{
	int type = shm ? SOCK_SEQPACKET | SOCK_NONBLOCK : SOCK_STREAM;
	int fd = socket(shm ? AF_UNIX : AF_INET, type | SOCK_CLOEXEC, 0);
	int failed = shm ? connect(fd, (struct sockaddr *)&liar->unix_, liar->unix_bytes)
			 : connect(fd, (struct sockaddr *)&liar->tcp, sizeof(liar->tcp));

	liar->connections++;
	if (fd >= 0 && failed) {
		close(fd);
		return -1;
	}
	if (fd >= 0)
		fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

bool line_send(int fd, const void *bytes, size_t length)
{
	struct pollfd room = {.fd = fd, .events = POLLOUT};
	const char *next = bytes;

	while (length) {
		ssize_t sent = send(fd, next, length, MSG_NOSIGNAL);
		if (sent < 0 && poll(&room, 1, ANSWER_MS) <= 0)
			return false; /* it does not read, or has closed */
		if (sent < 0 && (room.revents & (POLLERR | POLLHUP)))
			return false;
		next += sent > 0 ? sent : 0;
		length -= sent > 0 ? (size_t)sent : 0;
	}
	return true;
}

bool line_send_fd(int fd, const void *bytes, size_t length, int passed)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {(void *)bytes, length};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (passed >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		*head = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
					 .cmsg_type = SCM_RIGHTS,
					 .cmsg_len = CMSG_LEN(sizeof(int))};
		memcpy(CMSG_DATA(head), &passed, sizeof(passed));
	}
	return sendmsg(fd, &message, MSG_NOSIGNAL) >= 0;
}

size_t line_shm_hello(uint8_t *packet, const void *address, uint32_t ring_bytes)
{
	struct kvx_writer writer = kvx_writer_over(packet, 64);

	kvx_put_u8(&writer, SHM_HELLO);
	kvx_put_u64(&writer, SHM_MAGIC);
	kvx_put_u32(&writer, 1);
	kvx_put_u32(&writer, ring_bytes);
	kvx_put_u64(&writer, (uintptr_t)address);
	kvx_put_u64(&writer, nonce);
	return 1 + 8 + 4 + 4 + 8 + 8;
}

int line_make_rings(struct line *line, bool sealed)
{
	int fd = memfd_create("rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)kvx_lane_shared_bytes()) ||
	    (sealed && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)))
		abort();
	line->shared =
		mmap(NULL, kvx_lane_shared_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (line->shared == MAP_FAILED)
		abort();
	kvx_ring_init(&line->out, line->shared, KVX_LANE_FORWARD_ENTRIES);
	return fd;
}

static bool wait_readable(int fd)
{
	struct pollfd news = {.fd = fd, .events = POLLIN};

	return poll(&news, 1, ANSWER_MS) > 0;
}

static bool meet_shm(struct line *line)
{
	uint8_t packet[64], answer[320];
	int rings = line_make_rings(line, true);
	size_t length = line_shm_hello(packet, &nonce, (uint32_t)kvx_lane_shared_bytes());
	bool sent = line_send_fd(line->control, packet, length, rings);

	close(rings);
	return sent && wait_readable(line->control) &&
	       recv(line->control, answer, sizeof(answer), 0) > 0 && answer[0] == 2;
}

static bool meet_tcp(struct line *line)
{
	struct kvx_tcp_preamble preamble = {
		.role = KVX_TCP_CONTROL, .count = 1, .token = random_next(&line->liar->random)};
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];

	kvx_tcp_preamble_encode(&preamble, bytes);
	if (!line_send(line->control, bytes, sizeof(bytes)))
		return false;
	line->data = liar_dial(line->liar, false);
	preamble.role = KVX_TCP_DATA;
	kvx_tcp_preamble_encode(&preamble, bytes);
	return line->data >= 0 && line_send(line->data, bytes, sizeof(bytes)) &&
	       wait_readable(line->control) &&
	       recv(line->control, bytes, sizeof(bytes), 0) == sizeof(bytes);
}

bool line_open(struct line *line, struct liar *liar, bool shm, bool greet)
{
	struct kvx_message hello = {.type = KVX_MESSAGE_HELLO,
				    .version = KVX_PROTOCOL_VERSION,
				    .incarnation = random_next(&liar->random) | 1,
				    .heartbeat_ms = 1000,
				    .text = "liar"};

	*line = (struct line){
		.liar = liar, .shm = shm, .control = liar_dial(liar, shm), .data = -1};
	if (line->control < 0)
		return false;
	if (!(shm ? meet_shm(line) : meet_tcp(line)) || (greet && !line_say(line, &hello))) {
		line_close(line);
		return false;
	}
	return true;
}

void line_close(struct line *line)
{
	if (line->control >= 0)
		close(line->control);
	if (line->data >= 0)
		close(line->data);
	if (line->shared)
		munmap(line->shared, kvx_lane_shared_bytes());
	line->control = line->data = -1;
	line->shared = NULL;
}

static bool say_in_ring(struct line *line, const void *bytes, uint32_t length)
{
	uint32_t entries = 1 + (length + KVX_RING_ENTRY_BYTES - 1) / KVX_RING_ENTRY_BYTES;
	uint64_t words[2 * KVX_LANE_FORWARD_ENTRIES] = {0};
	uint8_t bell = SHM_BELL;

	for (int tries = 0; !kvx_ring_room(&line->out, entries); tries++) {
		if (tries == ANSWER_MS || line->out.broken)
			return false;
		usleep(1000);
	}
	memcpy(words, bytes, length);
	kvx_ring_write(&line->out, line->out.tail, KVX_LANE_MESSAGE | (uint64_t)length << 32, 0);
	for (uint32_t i = 1; i < entries; i++)
		kvx_ring_write(&line->out, line->out.tail + i, words[2 * (size_t)i - 2],
			       words[2 * (size_t)i - 1]);
	if (kvx_ring_publish(&line->out, entries))
		return line_send(line->control, &bell, 1);
	return true;
}

bool line_say_bytes(struct line *line, const void *bytes, uint32_t length)
{
	uint8_t framed[2 + UINT16_MAX] = {(uint8_t)length, (uint8_t)(length >> 8)};

	line->liar->messages++;
	if (line->shm)
		return length <= KVX_MESSAGE_MAX && say_in_ring(line, bytes, length);
	memcpy(framed + 2, bytes, length);
	return line_send(line->control, framed, 2 + (size_t)length);
}

bool line_say(struct line *line, const struct kvx_message *message)
{
	uint8_t bytes[KVX_MESSAGE_MAX];

	return line_say_bytes(line, bytes, kvx_message_encode(message, bytes));
}

/* Of tcp; over shm it is enough to wait for it. */
int line_hear(struct line *line)
{
	uint8_t bytes[2 + KVX_MESSAGE_MAX];

	if (line->shm) {
		usleep(2000);
		return KVX_MESSAGE_ACCEPT;
	}
	for (int messages = 0; messages < 3 && wait_readable(line->control); messages++) {
		if (recv(line->control, bytes, 2, MSG_WAITALL) != 2)
			return 0;
		uint32_t length = bytes[0] | (uint32_t)bytes[1] << 8;
		if (length > KVX_MESSAGE_MAX || !length ||
		    recv(line->control, bytes, length, MSG_WAITALL) != (ssize_t)length)
			return 0;
		if (bytes[0] != KVX_MESSAGE_HELLO && bytes[0] != KVX_MESSAGE_PING)
			return bytes[0];
	}
	return 0;
}
