/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One engine's end of the seam, for tests that drive a transport without an engine: a poller, a
 * waker and a sink that records what it is told and gives places in an image. A test pumps its
 * sides, usually all in one thread.
 *
 * Over a one-sided transport the image is memory that the side lends, and a unit has landed when
 * its arrival is told.
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
#define SLACK_NS INT64_C(1500000000) /* what a busy machine may add to a time */

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
	uint32_t arrivals; /* one-sided: times told */
};

/* A permit for the image, and what its lender was told of it. */
struct lending {
	struct kvx_permit permit;
	uint32_t permitted, forbidden; /* times told */
};

/* Memory that is sent from, the flow of what is, and the permit that it goes by. */
struct source {
	struct kvx_memory memory;
	struct kvx_flow flow;
	struct lending lending;
	uint32_t drained, refused; /* times told */
	char text[512];            /* of the last refusal */
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

	/* The image as memories of equal size, once it is attached: to a one-sided transport. */
	struct kvx_memory memories[UNITS];
	const struct kvx_memory *memory_list[UNITS];
	uint32_t memory_count;

	/* How place() answers. */
	uint32_t piece_bytes;  /* entries are cut at multiples of this; 0: one entry */
	uint32_t answer_bytes; /* at most so many at once; 0: all */
	uint64_t refused;      /* bit n: unit n has no place */
	uint64_t refused_from; /* units have no place from here on; 0: they have */
	uint32_t generation;   /* that is alive */
	uint64_t ends_after;   /* the generation ends once so much of a unit has landed; 0: not */

	/* UNITS * UNIT_BYTES that the image must equal wherever bytes are said to have landed, or
	 * NULL. */
	const char *expected;

	bool echo;       /* messages are sent back */
	bool sleep_lost; /* side_sleep() ran into its timeout */
};

/* Opens with options "name=value", up to a NULL. Fails the test if that fails, and skips it where
 * the transport cannot work. */
void side_open(struct side *side, const struct kvx_transport_ops *ops, const char *const *options);

/* Opens, and returns the transport's error. After an error there is nothing to close. */
int side_try(struct side *side, const struct kvx_transport_ops *ops, const char *const *options);

/* Disconnects what is left, and closes. */
void side_disconnect_all(struct side *side);
void side_close(struct side *side);

/* The image as `count` memories; memory of any sort. One-sided transports know it from then on. */
void side_attach_image(struct side *side, uint32_t count);
void side_attach(struct side *side, struct kvx_memory *memory);
void side_detach(struct side *side, struct kvx_memory *memory);

/* Lends the whole image; a flow of this slot and generation may write into it, or read it. */
void side_lend(struct side *side, struct kvx_link *link, struct lending *lending, uint32_t slot,
	       bool readable);

/* Takes it back, and returns once nothing of it lands any more. */
void side_forbid(struct side *side, struct kvx_link *link, struct lending *lending, bool stopped);

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

/* Pumps for a while, and a number of times however slow the machine is, so that what should not
 * happen has had the chance. */
void side_idle(struct side *first, struct side *second, int64_t time_ns);

/* Two linked sides in one thread, and what was posted from one to the other. */
struct pair {
	struct side from, to;
	struct kvx_link *out, *in;
	struct source sources[2]; /* one mappable, one not */
	uint64_t random;
	uint32_t batch_bytes_max;
	uint64_t posted[UNITS]; /* bytes */
	uint32_t ends[UNITS];   /* batches that ended the unit */
	char *expected;         /* UNITS * UNIT_BYTES */
};

void pair_open(struct pair *pair, const char *transport, const char *const *options, uint64_t seed);

/* The same; the image is `memories` memories. */
void pair_open_over(struct pair *pair, const char *transport, const char *const *options,
		    uint64_t seed, uint32_t memories);
void pair_close(struct pair *pair);

/* Registered memory of the sender with pseudo-random bytes. shared: a sealed memfd, else anonymous.
 * One-sided: with a permit for the whole image, to write, that the sender knows of. */
void source_open(struct pair *pair, struct source *source, bool shared);

/* Lends the permit, and returns once the sender knows of it. */
void source_permit(struct pair *pair, struct source *source, bool readable);

/* Gives its batches up, and returns once their memory is not read any more. */
void source_withdraw(struct pair *pair, struct source *source);

/* Withdraws it, takes its permit back, tells the transport to forget the memory, and unmaps it. */
void source_close(struct pair *pair, struct source *source);

/* Posts the next batch of a unit, of random size. end: bytes that the unit is to have, or 0: it
 * ends with this batch. False: the transport does not take it now. */
bool post_from(struct pair *pair, uint32_t rail, uint32_t imm, struct source *source, uint64_t end);

/* Posts batches until `bytes` bytes of the unit are posted, and pumps for room. */
void post_unit(struct pair *pair, uint32_t rail, uint32_t imm, uint64_t bytes);

/* Bytes of the unit that the receiver was told of. */
uint64_t landed_bytes(const struct pair *pair, uint32_t imm);

/* Nothing that was posted of the unit is missing. */
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
