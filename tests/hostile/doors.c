/* SPDX-License-Identifier: Apache-2.0 */
/* Attacks that do not come past the door: crowds, half greetings, a byte at a time. */
#include "hostile/liar.h"

#include "lane.h"
#include "support/chance.h"
#include "tcp/frame.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define CROWD 100u /* connections of one round */

/* Held until there are too many; then the oldest go. */
static void hold(struct liar *liar, int fd)
{
	if (fd < 0)
		return;
	int *place = &liar->held[liar->held_count++ % HELD_MAX];
	if (*place >= 0)
		close(*place);
	*place = fd;
}

static void preamble_bytes(struct liar *liar, uint8_t *bytes)
{
	struct kvx_tcp_preamble preamble = {.role = KVX_TCP_CONTROL,
					    .count = 1 + (uint16_t)liar_draw(liar, 4),
					    .token = random_next(&liar->random)};

	kvx_tcp_preamble_encode(&preamble, bytes);
}

void liar_drip(struct liar *liar)
{
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];

	/* Which byte of a preamble is next does not matter after the first wrong one, so most of
	 * them are told the magic's. */
	preamble_bytes(liar, bytes);
	for (uint32_t i = 0; i < HELD_MAX; i++)
		if (liar->held[i] >= 0 && liar_draw(liar, 8) == 0)
			send(liar->held[i], bytes + liar_draw(liar, 2), 1, MSG_NOSIGNAL);
}

static void crowd(struct liar *liar)
{
	bool shm = liar_draw(liar, 2);

	for (uint32_t i = 0; i < CROWD; i++)
		hold(liar, liar_dial(liar, shm));
}

static void half_a_preamble(struct liar *liar)
{
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];
	int fd = liar_dial(liar, false);

	preamble_bytes(liar, bytes);
	if (fd < 0)
		return;
	line_send(fd, bytes, 1 + liar_draw(liar, sizeof(bytes) - 1));
	if (liar_draw(liar, 2))
		hold(liar, fd);
	else
		close(fd);
}

/* A control connection whose data connections never come, or come twice, or of another link. */
static void wrong_connections(struct liar *liar)
{
	struct kvx_tcp_preamble preamble = {.role = KVX_TCP_CONTROL,
					    .count = (uint16_t)liar_draw(liar, 20),
					    .token = random_next(&liar->random)};
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];

	for (uint32_t i = 0; i < 6; i++) {
		int fd = liar_dial(liar, false);
		if (fd < 0)
			return;
		kvx_tcp_preamble_encode(&preamble, bytes);
		if (liar_draw(liar, 4) == 0)
			bytes[8 + liar_draw(liar, 16)] ^= (uint8_t)(1 << liar_draw(liar, 8));
		line_send(fd, bytes, sizeof(bytes));
		hold(liar, fd);
		preamble.role = (uint8_t)(KVX_TCP_CONTROL + liar_draw(liar, 3));
		preamble.index = (uint16_t)liar_draw(liar, 20);
	}
}

/* The whole handshake, again and again, with nothing after it. */
static void endless_handshakes(struct liar *liar)
{
	struct line line;

	for (uint32_t i = 0; i < 10; i++)
		if (line_open(&line, liar, liar_draw(liar, 2), liar_draw(liar, 2)))
			line_close(&line);
}

static void garbage(struct liar *liar)
{
	uint8_t bytes[512];
	bool shm = liar_draw(liar, 2);
	int fd = liar_dial(liar, shm);

	for (uint32_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)random_next(&liar->random);
	if (fd < 0)
		return;
	line_send(fd, bytes, 1 + liar_draw(liar, shm ? 320 : sizeof(bytes)));
	close(fd);
}

/* A greeting over shm with a descriptor that is none for rings. */
static void wrong_rings(struct liar *liar)
{
	uint8_t packet[64];
	struct line line = {.liar = liar, .control = liar_dial(liar, true), .data = -1};
	uint32_t bytes = (uint32_t)kvx_lane_shared_bytes();
	int fds[2], fd = -1, kind = (int)liar_draw(liar, 5);

	if (line.control < 0 || pipe(fds))
		return;
	if (kind == 0)
		fd = line_make_rings(&line, false);
	else if (kind == 1)
		fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
	else if (kind == 2)
		fd = dup(fds[0]);
	else if (kind == 3)
		fd = memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (kind == 3)
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL);
	size_t length = line_shm_hello(
		packet, packet, liar_draw(liar, 2) ? bytes : (uint32_t)liar_odd_number(liar));
	line_send_fd(line.control, packet, length - liar_draw(liar, 3), fd);
	/* What had room when it was looked at has none any more. */
	if (kind == 0)
		(void)!ftruncate(fd, 0);
	close(fds[0]);
	close(fds[1]);
	if (fd >= 0)
		close(fd);
	line_close(&line);
}

const struct attack attacks_on_doors[] = {
	{"crowd", crowd},
	{"half a preamble", half_a_preamble},
	{"wrong connections", wrong_connections},
	{"endless handshakes", endless_handshakes},
	{"garbage", garbage},
	{"wrong rings", wrong_rings},
	{NULL, NULL},
};
