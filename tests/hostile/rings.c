/* SPDX-License-Identifier: Apache-2.0 */
/* Attacks over shm: cursors, entries and descriptors that lie, in memory that both sides map. */
#include "hostile/liar.h"

#include "base/wire.h"
#include "lane.h"
#include "plan/unit.h"
#include "support/chance.h"
#include "support/opening.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SHM_MEMORY 4u
#define SHM_FORGET 5u
#define SHM_BELL 6u
#define MEMORIES 500u /* of a flood */
#define LINKS 3u      /* that announce as many memories as a link may */
#define LINK_MEMORIES 16384u
/* Of all links together they are more than there are addresses. */
#define HUGE_MEMORIES 4u
#define HUGE_BYTES (UINT64_C(1) << 44)

static uint8_t source[1 << 16];

static void ring_bell(struct line *line)
{
	uint8_t bell = SHM_BELL;

	line_send(line->control, &bell, 1);
}

static void announce(struct line *line, uint32_t index, uint64_t bytes, const void *address, int fd)
{
	uint8_t packet[32];
	struct kvx_writer writer = kvx_writer_over(packet, sizeof(packet));

	kvx_put_u8(&writer, SHM_MEMORY);
	kvx_put_u32(&writer, index);
	kvx_put_u64(&writer, bytes);
	kvx_put_u64(&writer, (uintptr_t)address);
	line->liar->messages++;
	for (int tries = 0; !line_send_fd(line->control, packet, 1 + 4 + 8 + 8, fd); tries++) {
		if (tries == ANSWER_MS)
			return;
		usleep(200); /* its queue is full */
	}
}

/* Indices that nobody can have published. */
static void wrong_cursors(struct liar *liar)
{
	struct line line;

	if (!line_open(&line, liar, true, liar_draw(liar, 2)))
		return;
	struct kvx_ring_shared *forward = line.shared;
	struct kvx_ring_shared *back =
		(void *)((char *)line.shared + kvx_ring_bytes(KVX_LANE_FORWARD_ENTRIES));
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t number = (uint32_t)liar_odd_number(liar);
		switch (liar_draw(liar, 4)) {
		case 0:
			atomic_store(&forward->tail, number);
			break;
		case 1:
			atomic_fetch_sub(&forward->tail, 1 + liar_draw(liar, 3));
			break;
		case 2:
			atomic_store(&back->head, number);
			break;
		default:
			atomic_store(&forward->head, number);
			atomic_store(&forward->starving, number);
			atomic_store(&back->sleeping, number);
		}
		ring_bell(&line);
		usleep(500);
	}
	line_close(&line);
}

static uint64_t wrong_head(struct liar *liar)
{
	uint64_t count = liar_draw(liar, 3) ? liar_draw(liar, 140) : liar_draw(liar, 1 << 16);
	uint64_t kind = liar_draw(liar, 5) ? KVX_LANE_BATCH : liar_draw(liar, 256);

	return kind | count << 16 | (uint64_t)(uint32_t)liar_odd_number(liar) << 32;
}

static void wrong_entries(struct liar *liar)
{
	struct line line;

	if (!line_open(&line, liar, true, liar_draw(liar, 2)))
		return;
	announce(&line, 0, sizeof(source), source, -1);
	for (uint32_t i = 0; i < 20 && kvx_ring_room(&line.out, 64); i++) {
		kvx_ring_write(&line.out, line.out.tail, wrong_head(liar), liar_odd_number(liar));
		for (uint32_t j = 1; j < 64; j++)
			kvx_ring_write(&line.out, line.out.tail + j, liar_odd_number(liar),
				       liar_odd_number(liar));
		if (kvx_ring_publish(&line.out, 1 + liar_draw(liar, 64)))
			ring_bell(&line);
		usleep(200);
	}
	line_close(&line);
}

/* One batch of one slice to a grant that may be open. */
static void put_batch(struct line *line, const struct kvx_ticket *ticket, uint64_t place,
		      uint64_t where, uint32_t memory, uint32_t bytes)
{
	struct kvx_ring *ring = &line->out;
	uint32_t imm = kvx_imm_pack(ticket->slot, ticket->generation, 0, 0);

	if (!kvx_ring_room(ring, 3))
		return;
	kvx_ring_write(ring, ring->tail, KVX_LANE_BATCH | 1 << 16 | (uint64_t)bytes << 32, place);
	kvx_ring_write(ring, ring->tail + 1, imm | (uint64_t)ticket->generation << 32,
		       KVX_LANE_FRESH);
	kvx_ring_write(ring, ring->tail + 2, where, memory | (uint64_t)bytes << 32);
	line->liar->messages++;
	if (kvx_ring_publish(ring, 3))
		ring_bell(line);
}

/* The state of a batch changes under the engine's hands, to what it never is too. */
static void juggle_states(struct line *line, uint32_t batches)
{
	for (uint32_t i = 0; i < 2000; i++) {
		uint32_t at = line->out.tail - 3 * (1 + liar_draw(line->liar, batches)) + 1;
		atomic_store(&kvx_ring_at(&line->out, at)->words[1], liar_draw(line->liar, 6));
	}
}

/* Batches from memory that is not there, or not as long, or goes away; of an accepted stream. */
static void wrong_batches(struct liar *liar)
{
	const struct kvx_ticket *ticket = liar_newest(liar);
	struct line line;

	if (!ticket || !line_open(&line, liar, true, true))
		return;
	struct kvx_message open = opening_of(ticket, 1, 1);
	line_say(&line, &open);
	line_hear(&line);
	announce(&line, 0, sizeof(source), source, -1);
	announce(&line, 1, UINT64_C(1) << 40, (void *)(uintptr_t)4096, -1);
	uint32_t kind = liar_draw(liar, 5);
	for (uint32_t i = 0; i < 16; i++) {
		uint64_t place = (uint64_t)i * 4096;
		if (kind == 0)
			put_batch(&line, ticket, place, sizeof(source) - 4, 0, 4096);
		else if (kind == 1)
			put_batch(&line, ticket, place, liar_odd_number(liar), 0, 4096);
		else if (kind == 2)
			put_batch(&line, ticket, place, (uint64_t)i << 20, 1, 4096);
		else if (kind == 3)
			put_batch(&line, ticket, place, 0, 7, 4096);
		else
			put_batch(&line, ticket, place, 0, 0, 4096);
	}
	if (kind == 4)
		juggle_states(&line, 16);
	usleep(1000);
	line_close(&line);
}

/* A file of any kind in place of memory; and one that shrinks when it has been mapped. */
static int wrong_file(struct liar *liar, uint64_t *bytes)
{
	uint32_t kind = liar_draw(liar, 4);
	int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	*bytes = kind == 3 ? UINT64_C(1) << 44 : sizeof(source);
	if (ftruncate(fd, (off_t)*bytes))
		*bytes = sizeof(source);
	if (kind == 1) {
		close(fd);
		fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	}
	if (kind >= 2)
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (kind == 2)
		*bytes *= 2;
	return fd;
}

static void wrong_memory(struct liar *liar)
{
	const struct kvx_ticket *ticket = liar_newest(liar);
	struct line line;
	uint64_t bytes;

	if (!ticket || !line_open(&line, liar, true, true))
		return;
	int fd = wrong_file(liar, &bytes);
	struct kvx_message open = opening_of(ticket, 1, 1);
	line_say(&line, &open);
	line_hear(&line);
	announce(&line, (uint32_t)liar_odd_number(liar), liar_odd_number(liar), source, -1);
	announce(&line, 0, bytes, (void *)(uintptr_t)liar_odd_number(liar), fd);
	(void)!ftruncate(fd, 0);
	put_batch(&line, ticket, 0, 0, 0, 4096);
	put_batch(&line, ticket, 4096, bytes - 4096, 0, 4096);
	usleep(1000);
	close(fd);
	line_close(&line);
}

static void flood_of_memories(struct liar *liar)
{
	struct line line;
	int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (!ftruncate(fd, 4096) &&
	    !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) &&
	    line_open(&line, liar, true, true)) {
		for (uint32_t i = 0; i < MEMORIES; i++)
			announce(&line, i, 4096, source, liar_draw(liar, 2) ? fd : -1);
		usleep(1000);
		line_close(&line);
	}
	close(fd);
}

static int make_memory(uint64_t bytes)
{
	int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (ftruncate(fd, (off_t)bytes) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		abort();
	return fd;
}

/* A line that is silent is lost. */
static void keep_alive(struct line *lines, uint32_t count)
{
	struct kvx_message ping = {.type = KVX_MESSAGE_PING};

	for (uint32_t i = 0; i < count; i++)
		line_say(&lines[i], &ping);
}

bool liar_fill(struct liar *liar, bool addresses, bool (*goes_on)(struct liar *liar))
{
	struct line lines[LINKS];
	uint64_t bytes = addresses ? HUGE_BYTES : 4096;
	uint32_t count = addresses ? HUGE_MEMORIES : LINK_MEMORIES;
	int fd = make_memory(bytes);

	for (uint32_t i = 0; i < LINKS; i++) {
		if (!line_open(&lines[i], liar, true, true))
			return false;
		for (uint32_t j = 0; j < count; j++) {
			announce(&lines[i], j, bytes, source, fd);
			if (j % 256 == 0)
				keep_alive(lines, i + 1);
		}
	}
	usleep(100000); /* the engine reads the last of them */
	printf("filled\n");
	fflush(stdout);
	while (goes_on(liar)) {
		keep_alive(lines, LINKS);
		usleep(20000);
	}
	for (uint32_t i = 0; i < LINKS; i++)
		line_close(&lines[i]);
	return true;
}

static void flood_of_bells(struct liar *liar)
{
	uint8_t forget[] = {SHM_FORGET, 9, 0, 0, 0};
	struct line line;

	if (!line_open(&line, liar, true, true))
		return;
	for (uint32_t i = 0; i < 1000; i++)
		ring_bell(&line);
	line_send(line.control, forget, sizeof(forget));
	usleep(500);
	line_close(&line);
}

const struct attack attacks_by_rings[] = {
	{"wrong cursors", wrong_cursors},
	{"wrong entries", wrong_entries},
	{"wrong batches", wrong_batches},
	{"wrong memory", wrong_memory},
	{"flood of memories", flood_of_memories},
	{"flood of bells", flood_of_bells},
	{NULL, NULL},
};
