/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process of a soak: an engine with a cache, threads that begin requests with the other peers
 * of its folder, and threads that serve theirs. Peers find each other by their sockets' names in
 * that folder; what is there is asked over a socket, once for each request:
 *
 *	driver                                  server, of another peer
 *	ASK_GRANT or ASK_PULL (its offer) --->  opens a grant
 *	<------------------------------------  its ticket, or why not
 *	the request runs
 *	<------------------------------------  how the grant ended, and the bytes that are wrong
 *
 * ASK_STREAM has the server feed a grant beside the driver; it answers once, at the end.
 */
#ifndef SOAK_PEER_H
#define SOAK_PEER_H

#include "soak/cache.h"

#include <stdatomic.h>

#define DRIVERS 3u
#define SERVERS 8u
#define TAIL_BYTES 4096u
#define NAMES_MAX 16u      /* peers in a folder */
#define TICKET_MAX 8192u   /* bytes */
#define PATIENCE_MS 20000u /* for what must come, on a machine that does other things too */

enum ask_verb { ASK_GRANT, ASK_PULL, ASK_STREAM };

struct ask {
	enum ask_verb verb;
	uint64_t key;
	uint32_t tokens;
	uint32_t senders;
	uint32_t lease_ms;
	uint32_t revoke_us; /* the receiver takes the grant back after that time; 0: never */
	bool tail;
	uint32_t ticket_bytes; /* they follow */
};

struct answer {
	int code;
	uint64_t wrong;        /* bytes of layers reported whole, or that came after the fence */
	uint32_t ticket_bytes; /* they follow */
	char text[KVX_ERROR_TEXT_MAX + 1];
};

/* A distribution of times: 16 buckets for each power of two of us. */
#define TIMES_BUCKETS (28u * 16u)
struct times {
	_Atomic uint32_t buckets[TIMES_BUCKETS];
};

#define KINDS_MAX 16u
#define CODES_MAX 24u /* errors and 0, by -code */

struct peer {
	struct kvx_engine *engine;
	struct cache cache;
	struct kvx_region *tails; /* one for each thread: the drivers', then the servers' */
	const char *folder, *name;
	uint32_t think_us; /* at most so long a driver does nothing between requests */
	int listener;
	atomic_bool paused, drivers_end, servers_end;
	_Atomic uint32_t busy; /* requests that go on in this process */

	_Atomic uint64_t keys;                           /* the next request's */
	_Atomic uint32_t outcomes[KINDS_MAX][CODES_MAX]; /* of the drivers' requests */
	_Atomic uint64_t served, wrong, bytes;           /* bytes: of requests that came whole */
	_Atomic uint32_t unexpected;
	struct times small; /* from ready to delivered, between peers that stay */
};

/* Of one thread. */
struct hand {
	struct peer *peer;
	uint32_t index; /* of its tail */
	uint64_t random;
};

/* Threads. */
void *drive(void *hand);
void *serve(void *hand);
const char *kind_name(uint32_t kind); /* NULL past the last */

/* Whether a peer of that name is there for the whole run. */
bool stays(const char *name);

/* Says what should not have happened on standard error, and counts it. */
void complain(struct peer *peer, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Tail of a thread, its place, and its bytes. */
void *tail_of(struct hand *hand);
struct kvx_tail tail_at(struct hand *hand);
#define TAIL_LAYER 600u /* in pattern_seed() */

/* A socket of a peer: one that listens, or connects. -1 and errno. */
int channel_listen(const char *folder, const char *name);
int channel_dial(const char *folder, const char *name);

/* A head and the bytes that follow it. False: the other side is gone or silent. */
bool channel_send(int fd, const void *head, size_t head_bytes, const void *more, size_t more_bytes);
bool channel_receive(int fd, void *head, size_t head_bytes, void *more, size_t more_bytes);
bool channel_is_cut(int fd);

#endif
