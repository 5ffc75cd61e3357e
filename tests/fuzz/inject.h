/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A transport that does what a fuzz target tells it, and nothing else: the other side of each of
 * its links is the target. It takes the place of the library's transports, keeps the contract of
 * the seam towards the engine, and checks that the engine keeps it.
 *
 * One engine at a time; all of it on one thread.
 */
#ifndef KVX_TESTS_FUZZ_INJECT_H
#define KVX_TESTS_FUZZ_INJECT_H

#include "core/message.h"
#include "transport.h"

#define INJECT_LINKS_MAX 4u
#define INJECT_RAILS_MAX 2u
#define INJECT_WAITING_MAX 8u /* permits, and flows, that something is owed for */

struct inject_link {
	struct kvx_link base;
	bool outgoing; /* the engine connected */
	bool up;       /* the sink knows it as usable */
	bool down;     /* the sink was told so: disconnect() follows */
	bool rail_down[INJECT_RAILS_MAX];
	struct kvx_message open; /* the last OPEN that the engine said, if there is one */
	uint32_t opens;          /* how many */
	uint32_t presented;      /* a bit for each grant that the target said OPEN for over it */
};

/* What the target looks at and sets. */
struct inject {
	const struct kvx_transport_context *context; /* NULL: no engine has it open */
	const struct kvx_transport_ops *ops;         /* which of the two is open */
	struct inject_link *links[INJECT_LINKS_MAX]; /* NULL: free */
	struct kvx_permit *permits[INJECT_WAITING_MAX];
	bool in_force[INJECT_WAITING_MAX]; /* permitted() was called */
	bool taken_back[INJECT_WAITING_MAX];
	struct kvx_flow *flows[INJECT_WAITING_MAX];    /* with batches in flight */
	uint32_t credit;                               /* batches that post() still takes */
	uint64_t usable;                               /* of share() */
	void (*step)(void);                            /* at the next progress(), once */
	void (*posted)(const struct kvx_batch *batch); /* looks at a batch */
};

extern struct inject inject;

/* "fuzz": the receiver's worker places every byte. "fuzz1": one-sided. */
extern const struct kvx_transport_ops inject_transport, inject_one_sided_transport;

/* All that the target set, as at the start. */
void inject_reset(void);

/* From within step(). A new link of somebody who connected; NULL: there are enough. */
struct inject_link *inject_accept(uint32_t rails);
void inject_up(struct inject_link *link);
void inject_down(struct inject_link *link, int code);
void inject_say(struct inject_link *link, const void *bytes, uint32_t length);
void inject_rail(struct inject_link *link, uint32_t rail, bool up);

/* One-sided, from within step(): what is owed for the permit or flow of that index. */
void inject_settle_permit(uint32_t index);
void inject_settle_flow(uint32_t index);

#endif
