/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pull: a stream that is opened without a grant, and waits for one that its ticket is presented
 * for. The receiver sends the grant's ticket to the sender, over a link of its own; from there on
 * it is a stream like any other, so plans, counters, leases, fence and errors are the same.
 */
#ifndef KVX_CORE_OFFER_H
#define KVX_CORE_OFFER_H

#include "base/submission.h"
#include "core/message.h"
#include "core/ticket.h"

struct kvx_peer;
struct kvx_grant;
struct kvx_stream;

/* The longest ticket of a grant that can be pulled for, and what a peer is sent of them before it
 * answers: it waits in the link's queue. */
#define KVX_PULL_TICKET_MAX (KVX_MESSAGE_QUEUE_MAX / 2)

/* What makes a stream an offer. */
struct kvx_offer {
	/* Constant. */
	struct kvx_stream *stream;
	uint64_t id, key;
	uint8_t *ticket;
	size_t ticket_bytes;
	uint32_t count; /* of its blocks */
	uint32_t lease_ms;
	int64_t opened_ns;

	/* The worker's. */
	uint32_t *table;       /* its blocks, until it is aimed at a grant */
	struct kvx_list entry; /* in the engine's offers, until it is pulled or ends; before in its
				  new ones, under its lock */
	struct kvx_peer *puller;
	struct kvx_list puller_entry; /* in the puller's, while the offer's stream goes on */
	uint8_t *grant_ticket;        /* as far as it came, until it is read */
	uint32_t grant_ticket_bytes, grant_ticket_came;
};

/* The worker: takes it up; error: why that fails. Returns the error, if any. */
int kvx_offer_start(struct kvx_offer *offer, int error);

/* The caller's thread, when all of it is written: pulls may find it, also before the worker has
 * taken its submission. */
void kvx_offer_announce(struct kvx_offer *offer);

/* The worker, at the sender: a part of a grant's ticket came; the receiver gives the pull up; its
 * link is gone. */
void kvx_offer_pulled(struct kvx_peer *peer, const struct kvx_message *pull);
void kvx_offer_released(struct kvx_peer *peer, const struct kvx_message *release);
void kvx_offer_puller_lost(struct kvx_offer *offer, int code, const char *text);

/* Its stream ends, however: the receiver is told why, if it knows no stream yet. code 0: it was
 * delivered. */
void kvx_offer_end(struct kvx_stream *stream, int code, const char *text);

/* As kvx_stream_explain(), before it is pulled. */
size_t kvx_offer_explain(const struct kvx_stream *stream, char *text, size_t size);

void kvx_offer_free(struct kvx_offer *offer);

/*
 * One offer that is to feed a grant, at the receiver; the worker's. It lasts until the stream that
 * the offer has become is accepted: from then on that stream's link tells all. Each PULL is
 * answered, by that stream's OPEN or by a DECLINE, so a pull whose grant is over first remains
 * until then: what waits in the link's queue is bounded by what is not answered.
 */
struct kvx_pull {
	struct kvx_grant *grant; /* NULL: it is over, and the offer is to be, or being, told */
	struct kvx_ticket offer;
	uint32_t ticket_bytes;      /* of the grant's ticket */
	bool asked;                 /* the PULL was sent */
	struct kvx_list entry;      /* in the grant's pulls */
	struct kvx_peer *peer;      /* the offer's engine */
	struct kvx_list peer_entry; /* in the peer's pulls */
};

/* The worker, at the receiver: the peer is up, or has answered; a stream of that peer feeds the
 * grant now; it declines; it is gone; the grant is over. */
void kvx_pulls_present(struct kvx_peer *peer);
void kvx_pull_answered(struct kvx_grant *grant, const struct kvx_peer *peer);
void kvx_pull_declined(struct kvx_peer *peer, const struct kvx_message *decline);
void kvx_pull_lost(struct kvx_pull *pull, int code, const char *text);
void kvx_pull_end(struct kvx_pull *pull);

/* Takes it out of its lists. */
void kvx_pull_free(struct kvx_pull *pull);

#endif
