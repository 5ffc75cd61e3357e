/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that speaks kvxfer's protocol and lies. It goes past the door of tcp or of shm by raw
 * sockets, as far as it takes for each lie. Sees the library's internals, for their encoders alone.
 */
#ifndef HOSTILE_LIAR_H
#define HOSTILE_LIAR_H

#include "base/ring.h"
#include "core/message.h"
#include "core/ticket.h"

#include <netinet/in.h>
#include <sys/un.h>

#define TICKETS_KEPT 32u /* newest last; all but the newest are of grants that are dead */
#define HELD_MAX 600u    /* connections that say nothing, or little */
#define ANSWER_MS 100    /* that an answer is waited for */

struct liar {
	uint64_t random;
	struct sockaddr_in tcp; /* the engine's doors */
	struct sockaddr_un unix_;
	socklen_t unix_bytes;
	struct kvx_ticket tickets[TICKETS_KEPT];
	uint32_t ticket_count;
	int held[HELD_MAX]; /* dripping: told a byte at a time */
	uint32_t held_count;
	uint64_t connections, messages;
};

/* A link that the engine takes for a peer's. */
struct line {
	struct liar *liar;
	bool shm;
	int control; /* or the unix socket; -1: there is none */
	int data;    /* tcp */
	void *shared;
	struct kvx_ring out; /* shm: ours to the engine */
};

/* line.c: both doors. False: the engine had enough and closed. */
int liar_dial(struct liar *liar, bool shm);
bool line_open(struct line *line, struct liar *liar, bool shm, bool greet);
void line_close(struct line *line);
bool line_say(struct line *line, const struct kvx_message *message);
bool line_say_bytes(struct line *line, const void *bytes, uint32_t length);
bool line_send(int fd, const void *bytes, size_t length);

/* shm: a packet with a descriptor, or -1. */
bool line_send_fd(int fd, const void *bytes, size_t length, int passed);

/* Waits for the answer to an OPEN: its type, or 0 for none. */
int line_hear(struct line *line);

/* The rings' memfd, sealed or not. */
int line_make_rings(struct line *line, bool sealed);
size_t line_shm_hello(uint8_t *packet, const void *nonce, uint32_t ring_bytes);

/* A ticket: the newest one, or any. NULL: there is none yet. */
const struct kvx_ticket *liar_newest(struct liar *liar);
const struct kvx_ticket *liar_any_ticket(struct liar *liar);

uint32_t liar_draw(struct liar *liar, uint32_t count); /* 0 .. count - 1 */

/* A number such as those that break things. */
uint64_t liar_odd_number(struct liar *liar);

/* Attacks, one round each. */
struct attack {
	const char *name;
	void (*run)(struct liar *liar);
};
extern const struct attack attacks_on_doors[], attacks_by_messages[], attacks_by_frames[],
	attacks_by_rings[]; /* each up to one without a name */

/* Has the engine map as many memories as it will, or as large ones, and holds them for as long as
 * goes_on says. False: it was not let in. */
bool liar_fill(struct liar *liar, bool addresses, bool (*goes_on)(struct liar *liar));

/* Each held connection that drips is told its next byte. */
void liar_drip(struct liar *liar);

#endif
