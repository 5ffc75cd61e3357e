/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One engine's end of the seam, for tests that drive a transport without an engine: a poller, a
 * waker and a sink that records what it is told and gives places in an image. A test pumps its
 * sides, usually all in one thread.
 */
#ifndef KVX_TESTS_SEAM_H
#define KVX_TESTS_SEAM_H

#include "transport.h"

#include <kvxfer/kvxfer.h>

#define UNITS 64u               /* imm of a unit: below this */
#define UNIT_BYTES (2u << 20)   /* of the layer image that each unit has here */
#define SOURCE_BYTES (1u << 20) /* of each source of a pair */
#define LINKS 8u                /* a side remembers */
#define PATIENCE_NS INT64_C(20000000000)

/* What a side was told about a link. */
struct link_log {
	struct kvx_link *link;
	int up, accepted, down; /* times told */
	int code;               /* of link_down */
	char text[512];
	uint32_t rail_down, rail_up; /* times told */
	uint32_t messages;
	uint64_t message_hash; /* of lengths and bytes in order */
};

/* What a side got for a unit. */
struct unit_log {
	uint64_t landed;   /* bytes */
	uint64_t next;     /* place that must land next, when in order */
	uint32_t rail;     /* of the last */
	uint32_t disorder; /* reports that were not where the last one ended */
};

struct side {
	const struct kvx_transport_ops *ops;
	struct kvx_transport *transport;
	struct kvx_transport_context context;
	struct kvx_poller poller;
	struct kvx_waker waker;
	struct kvx_log log;
	struct kvx_options *options;
	struct link_log links[LINKS];
	uint32_t link_count;
	struct unit_log units[UNITS];
	char *image; /* UNITS * UNIT_BYTES; zero where nothing has landed */

	/* How place() answers. */
	uint32_t piece_bytes;  /* entries are cut at multiples of this; 0: one entry */
	uint32_t answer_bytes; /* at most so many at once; 0: all */
	uint64_t refused;      /* bit n: unit n has no place */
	uint32_t generation;   /* that is alive */

	bool echo;       /* messages are sent back */
	bool sleep_lost; /* side_sleep() ran into its timeout */
};

/* Opens with options "name=value", up to a NULL. Fails the test if that fails. */
void side_open(struct side *side, const struct kvx_transport_ops *ops, const char *const *options);

/* Opens, and returns the transport's error. After an error there is nothing to close. */
int side_try(struct side *side, const struct kvx_transport_ops *ops, const char *const *options);

/* Disconnects what is left, and closes. */
void side_close(struct side *side);

struct link_log *side_log(struct side *side, const struct kvx_link *link);
void side_disconnect(struct side *side, struct kvx_link *link);

/* Lets the side work once. Returns how many things it did. */
int side_pump(struct side *side);

/* Works once, or sleeps until there is work. */
void side_sleep(struct side *side, int64_t timeout_ns);

/* Links `from` to `to` and returns once both know. */
struct kvx_link *side_link(struct side *from, struct side *to, struct kvx_link **accepted);

/* Pumps until the condition holds; fails the test after PATIENCE_NS. Second side: may be NULL. */
#define PUMP_UNTIL(first, second, condition)                                         \
	do {                                                                         \
		int64_t patience_ = kvx_now_ns() + PATIENCE_NS;                      \
		while (!(condition)) {                                               \
			cr_assert_lt(kvx_now_ns(), patience_, "never: " #condition); \
			side_pump(first);                                            \
			if (second)                                                  \
				side_pump(second);                                   \
		}                                                                    \
	} while (0)

/* Pumps for a while, so that what should not happen has had the time. */
void side_idle(struct side *first, struct side *second, int64_t time_ns);

/* Registered memory with pseudo-random bytes. shared: a sealed memfd, else anonymous. */
void source_open(struct kvx_memory *memory, uint64_t bytes, bool shared);

/* Tells the side's transport to forget it, and unmaps it. */
void source_close(struct side *side, struct kvx_memory *memory);

/* Two linked sides in one thread, and what was posted from one to the other. */
struct pair {
	struct side from, to;
	struct kvx_link *out, *in;
	struct kvx_memory sources[2]; /* one mappable, one not */
	uint64_t random;
	uint32_t batch_bytes_max;
	uint64_t posted[UNITS]; /* bytes */
	char *expected;         /* UNITS * UNIT_BYTES */
};

void pair_open(struct pair *pair, const char *transport, const char *const *options, uint64_t seed);
void pair_close(struct pair *pair);

/* Posts the next batch of a unit, of random size; the stream is the memory. False: the transport
 * does not take it now. */
bool post_from(struct pair *pair, uint32_t rail, uint32_t imm, const struct kvx_memory *memory);

/* Posts batches until `bytes` bytes of the unit are posted, and pumps for room. */
void post_unit(struct pair *pair, uint32_t rail, uint32_t imm, uint64_t bytes);

bool has_landed(const struct pair *pair, uint32_t imm);

/* What has landed of the unit is right. */
void check_bytes(const struct pair *pair, uint32_t imm);

/* The unit lands whole and right, and nothing beyond it. */
void check_whole(struct pair *pair, uint32_t imm);

/* The link is up and carries bytes, by the last unit, which is kept for this. */
void check_alive(struct pair *pair);

/* The message hash with one more message. */
uint64_t message_hash(uint64_t hash, const void *bytes, uint32_t length);

/* xorshift. */
uint64_t random_next(uint64_t *state);

#endif
