/* SPDX-License-Identifier: Apache-2.0 */
/* The sender's side of the channel: asks the receiver, and hands what it tells to who waits. */
#ifndef KVX_BENCH_SESSION_H
#define KVX_BENCH_SESSION_H

#include "channel.h"
#include "endpoint.h"
#include "failure.h"

#include <stdbool.h>

/* A request that has a ticket or asked for one. Under the session's lock. */
struct kvx_place {
	pthread_cond_t changed;
	/* What the receiver said of the request that is there now: */
	struct kvx_channel_bytes ticket;
	json_t *ended; /* NULL: not yet */
};

struct kvx_session {
	struct kvx_channel channel;
	pthread_t reader;
	pthread_mutex_t lock;
	pthread_cond_t replied;
	/* Under the lock: */
	json_t *reply;
	struct kvx_place *places;
	uint32_t place_count;
	bool broken;
	char why[KVX_FAILURE_TEXT_MAX + 1]; /* of broken */
	/* The main thread's: */
	struct kvx_endpoint endpoint;
	bool open;
	char receiver_machine[256];
	uint64_t receiver_available_bytes;
	char receiver_address[1024]; /* of its engine */
	json_t *receiver_ports;      /* what it told of them, or NULL */
	int64_t clock_offset_ns;     /* receiver's clock minus this one's */
	int64_t clock_error_ns;
};

/* Greets the other end of a connected stream socket; with is_remote also compares the clocks.
 * Returns 0 or -1 (kvx_failure_text()). */
int kvx_session_open(struct kvx_session *session, int fd, bool is_remote);

/* Says goodbye and frees everything. The socket stays the caller's. */
void kvx_session_close(struct kvx_session *session);

/* Makes both endpoints, in place of those that were there. Takes the setup over. */
int kvx_session_setup(struct kvx_session *session, struct kvx_setup *setup, bool verbose);

/* Sends a command whose reply is awaited later. */
int kvx_session_ask(struct kvx_session *session, json_t *message);

/* The reply of that kind; the caller releases it. NULL: kvx_failure_text(). */
json_t *kvx_session_reply(struct kvx_session *session, const char *event);

/* Both. */
json_t *kvx_session_call(struct kvx_session *session, const char *command);

/* Empties a place for its next request. */
void kvx_session_clear(struct kvx_session *session, struct kvx_place *place);

/* Waits until the place has its ticket or has heard the end; with for_end only that counts. Returns
 * false if the session broke or the deadline passed (kvx_failure_text()). */
bool kvx_session_hear(struct kvx_session *session, struct kvx_place *place, bool for_end,
		      int64_t deadline_ns);

#endif
