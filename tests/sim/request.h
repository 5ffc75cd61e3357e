/* SPDX-License-Identifier: Apache-2.0 */
/* One request as its applications see it, at both ends. */
#ifndef KVX_TESTS_SIM_REQUEST_H
#define KVX_TESTS_SIM_REQUEST_H

#include "world.h"

/* How a sender tells that it has computed something. */
enum style { BY_LAYERS, BY_CHUNKS, BY_WORD, STYLES };

/* A sender's half. */
struct feed {
	uint32_t node;
	struct kvx_stream *stream; /* NULL: not yet, or not any more */
	bool over;                 /* it will not be opened (again) */
	bool lost;                 /* the ticket does not come to where it should */
	bool forged;               /* it comes with another key */
	int64_t due_ns;            /* the ticket comes */
	uint32_t blocks[BLOCKS_MAX], count;
	bool has_tail;
	uint32_t tail;
	enum style style;
	uint32_t chunk;
	uint32_t word;
	bool watched;
	uint32_t layers_ready, tokens_ready;
	bool tail_ready;
	uint32_t delivered; /* a bit for each layer */
	int end;
	int64_t deadline_ns;
};

struct request {
	bool used;
	uint64_t id;
	bool pull;
	uint32_t node; /* the receiver's */
	uint32_t tokens, token_first, held;
	uint32_t lease_ms;
	struct feed feeds[SENDERS_MAX];
	uint32_t feed_count;
	struct kvx_grant *grant;
	bool closed; /* it is not open any more, or never will be */
	uint32_t blocks[BLOCKS_MAX], count;
	bool has_tail;
	uint32_t tail;
	bool patient; /* its applications give nothing up */
	bool must;    /* nothing stands in the way of its becoming whole */
	bool fenced;  /* the application has its blocks back */
	uint32_t whole;
	bool tail_whole;
	int end;
	int64_t deadline_ns;
	uint8_t *ticket;
	size_t ticket_bytes;
	int code; /* of its end, for the sums */
};

extern struct request requests[REQUESTS_MAX];

static inline struct node *node_of(uint32_t index)
{
	return &world.nodes[index];
}

static inline uint32_t layers_of(const struct request *request)
{
	return node_of(request->node)->store.geometry.layers;
}

/* sender.c */
int request_open_stream(struct request *request, struct feed *feed);
bool request_act_feed(struct request *request, struct feed *feed); /* false: nothing to do */
void request_give_source(struct feed *feed);                       /* it is over */

/* check.c */

/* A call that waits does so for at most this long beyond what it was told. */
void request_check_duration(int64_t begin_ns, int64_t most_ns, const char *what);
void request_check_grant(struct request *request);
void request_check_feed(struct request *request, struct feed *feed);
void request_check_blocks(const struct request *request, uint32_t layer);
void request_check_failure(int code); /* that a call has told just now */

#endif
