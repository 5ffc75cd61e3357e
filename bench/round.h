/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A round: requests of one kind, some in flight at the same time, that rotate through the slots of
 * the pools. Rounds are what is timed; filling, verifying and baselines come between them.
 */
#ifndef KVX_BENCH_ROUND_H
#define KVX_BENCH_ROUND_H

#include "session.h"

#include <semaphore.h>
#include <signal.h>

/* When the layers of a request become ready. */
enum kvx_pace {
	KVX_PACE_AT_ONCE,   /* all at the start */
	KVX_PACE_DUE,       /* one after each layer_ns, as if it were computed */
	KVX_PACE_DELIVERED, /* each layer_ns after the one before was delivered */
};

/* What happened to a request. Times on the sender's clock. */
struct kvx_request {
	uint64_t payload; /* the number that its bytes are made of */
	uint32_t slot;
	uint32_t blocks;
	int error; /* 0 or a code of the library; then text says why */
	char text[KVX_ERROR_TEXT_MAX + 1];
	int64_t asked_ns;  /* for the grant */
	int64_t opened_ns; /* the stream's opening began, ticket in hand */
	int64_t *ready_ns; /* each layer */
	int64_t *first_ns; /* 0: not looked for */
	int64_t *whole_ns;
	uint32_t layers;
};

struct kvx_round {
	/* What to do. */
	uint32_t blocks;        /* of each request */
	uint32_t requests_max;  /* 0: no limit */
	int64_t elapsed_ns_max; /* no request begins later; 0: no limit */
	uint32_t inflight;
	bool prefetch; /* get the next tickets while the requests before are under way */
	bool verify;
	bool timeline;
	bool ready_word;
	enum kvx_pace pace;
	int64_t layer_ns;
	/* Called for each request when it has ended, one at a time; and about ten times a second.
	 */
	void (*ended)(void *context, const struct kvx_request *request);
	void (*tick)(void *context);
	void *context;

	/* What came of it. */
	uint32_t started;
	uint32_t completed;
	uint32_t failed;
	uint64_t bytes;   /* whole at the receiver */
	int64_t begin_ns; /* the first stream's opening; 0: none */
	int64_t end_ns;   /* the last was whole */
};

/* Set by a signal: begin nothing more. */
extern volatile sig_atomic_t kvx_interrupted;

/* The slots, in the order in which rounds use them. */
struct kvx_rotation {
	uint32_t *free_slots; /* a ring */
	uint32_t count;
	uint32_t head;
	uint32_t used;
	uint64_t *payloads; /* what each slot was filled with */
};

/* Returns 0 or -1 (kvx_failure_text()). */
int kvx_rotation_init(struct kvx_rotation *rotation, uint32_t slots);
void kvx_rotation_finish(struct kvx_rotation *rotation);

/* The slot that the index-th request of the next round will use. */
uint32_t kvx_rotation_ahead(const struct kvx_rotation *rotation, uint32_t index);

/* The next slot, for a request; some must be free. And its return. */
uint32_t kvx_rotation_take(struct kvx_rotation *rotation);
void kvx_rotation_give_back(struct kvx_rotation *rotation, uint32_t slot);

/* Returns 0, also if requests failed, or -1 if the session broke (kvx_failure_text()). */
int kvx_round_run(struct kvx_round *round, struct kvx_session *session,
		  struct kvx_rotation *rotation);

#endif
