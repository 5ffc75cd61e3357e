/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of tcp among themselves. A link is one control connection, which carries messages, and
 * some data connections, its rails. Everything here belongs to the worker's thread.
 *
 *	tcp.c         operations, listening, timers
 *	accept.c      the accepting side: from a socket to a link
 *	dial.c        the connecting side: from an address to a link, and lost rails made anew
 *	link.c        messages, failure, reports to the sink, the end of a link
 *	send.c        batches onto a rail
 *	receive.c     frames from a rail into the places that the sink names, tiny ones by a copy
 *	connection.c  one socket and its preamble
 */
#ifndef KVX_TCP_TCP_H
#define KVX_TCP_TCP_H

#include "../transport.h"
#include "address.h"
#include "base/list.h"
#include "base/outbox.h"
#include "frame.h"
#include "secret/tls.h"

#define KVX_TCP_LANDING_BYTES (128u << 10) /* stays in a core's cache; 32 to 256 KiB do as well */

/* Below, an entry of readv() costs more than a second copy: 1.7 times as much time of the receiver
 * with places of 128 bytes, 1.2 with 512, from 1 KiB on as much (loopback, places in no cache). */
#define KVX_TCP_TINY_BYTES 1024u
#define KVX_TCP_INBOX_BYTES 4096u

struct kvx_tcp_link;
struct kvx_tcp_rail;

extern const struct kvx_transport_ops kvx_tcp_transport;

struct kvx_transport {
	const struct kvx_transport_context *context;
	struct kvx_pollable listener;
	int64_t listener_resume_ns; /* when it accepts again after lack of descriptors, or 0 */
	struct kvx_list greetings;  /* accepted sockets without a link, oldest first */
	struct kvx_list halves;     /* accepted links that lack connections, oldest first */
	uint32_t half_made;         /* connections of greetings and halves */
	struct kvx_list links;      /* all others, of both sides */
	struct kvx_list unsent;     /* rails with frames to send at the next progress */
	struct kvx_list unread;     /* rails to read from at the next progress */
	struct kvx_list troubled;   /* links with something to tell the sink at the next progress */
	int64_t timer_ns;           /* when a deadline or retry is due */
	char address[KVX_ADDRESS_MAX + 1];
	uint32_t tiny_bytes; /* places smaller than this on average are filled from landing */
	char landing[KVX_TCP_LANDING_BYTES]; /* takes what the sink refuses, too */
};

struct kvx_tcp_connection {
	struct kvx_pollable pollable; /* fd -1: none */
	struct kvx_transport *transport;
	struct kvx_tcp_link *link; /* NULL: not known yet */
	struct kvx_tcp_rail *rail; /* NULL: not known yet, or the control connection */
	struct kvx_tls *tls;       /* NULL: in the clear */
	uint32_t events;           /* that the poller looks for; 0: it does not know the socket */
	uint8_t preamble[KVX_TCP_PREAMBLE_BYTES]; /* of the other side, as far as it came */
	uint32_t preamble_bytes;
};

#define KVX_TCP_FRAMES_MAX 8u
#define KVX_TCP_PARTS_MAX (4 * (1 + KVX_BATCH_SLICES_MAX))

/* A frame in the making. Its parts are sending.parts[first..end): its header, then its bytes. */
struct kvx_tcp_frame {
	uint8_t header[KVX_TCP_HEADER_BYTES];
	uint32_t first, end;
	const struct kvx_flow *flow;
	char *rest;         /* copy of what was left to send, after withdraw() */
	uint32_t *released; /* of the batch, or NULL */
};

/* Frames that one system call is to send. parts[first..count) is what is left of them. */
struct kvx_tcp_sending {
	struct iovec parts[KVX_TCP_PARTS_MAX];
	uint32_t first, count; /* count 0: nothing is left */
	struct kvx_tcp_frame frames[KVX_TCP_FRAMES_MAX];
	uint32_t frame_count;
	uint32_t bytes; /* of the frames, when they were added */
	bool full;      /* the socket took no more: EPOLLOUT will tell */
};

/* The frame that arrives. */
struct kvx_tcp_receiving {
	uint8_t header[KVX_TCP_HEADER_BYTES];
	uint32_t header_bytes; /* arrived of the next frame's header */
	struct kvx_unit unit;
	uint64_t place; /* of the next byte */
	uint32_t left;  /* bytes of payload */
	bool refused;   /* by the sink: the rest is dropped */
};

/* Asking: the preamble is sent, the answer has not come. */
enum kvx_tcp_rail_state {
	KVX_TCP_RAIL_DOWN,
	KVX_TCP_RAIL_DIALLING,
	KVX_TCP_RAIL_ASKING,
	KVX_TCP_RAIL_UP
};

struct kvx_tcp_rail {
	struct kvx_tcp_connection connection;
	struct kvx_list unsent; /* in the transport's, or in none */
	struct kvx_list unread; /* likewise: the sink had no room for what comes next */
	enum kvx_tcp_rail_state state;
	int lost;           /* errno of the loss, 0 for a close, to be told; -1: nothing to tell */
	int64_t due_ns;     /* connecting side: retry when down, deadline when dialling */
	int64_t backoff_ns; /* connecting side: until the next retry */
	struct kvx_tcp_sending sending;
	struct kvx_tcp_receiving receiving;
};

enum kvx_tcp_link_state { KVX_TCP_LINK_MAKING, KVX_TCP_LINK_UP, KVX_TCP_LINK_DOWN };

struct kvx_tcp_link {
	struct kvx_link base;
	struct kvx_list entry;   /* of the transport's halves or links */
	struct kvx_list trouble; /* of the transport's troubled links */
	enum kvx_tcp_link_state state;
	bool connector; /* this side connected */
	bool told;      /* the sink knows that it is down */
	bool encrypted; /* data connections too, since one side wants that */
	uint64_t token;
	int64_t deadline_ns; /* of being made */
	struct kvx_tcp_address address;
	char name[KVX_ADDRESS_MAX + 1]; /* the address for people */
	struct kvx_tcp_connection control;
	struct kvx_outbox outbox;
	uint8_t inbox[KVX_TCP_INBOX_BYTES];
	uint32_t inbox_bytes;
	int code; /* why it is down, and text */
	char text[KVX_ERROR_TEXT_MAX + 1];
	uint32_t rails_up;
	uint32_t joined; /* connections that came while it is made; accepting side */
	struct kvx_tcp_rail rails[];
};

/* connection.c */
void kvx_tcp_connection_init(struct kvx_tcp_connection *connection,
			     struct kvx_transport *transport);

/* Takes over a socket, without the poller. */
void kvx_tcp_connection_adopt(struct kvx_tcp_connection *connection, int fd);

/* From now on ready is called on these events. False: the poller refused. */
bool kvx_tcp_connection_watch(struct kvx_tcp_connection *connection, uint32_t events,
			      void (*ready)(struct kvx_pollable *, uint32_t));

/* Changes the events of a watched connection. */
void kvx_tcp_connection_want(struct kvx_tcp_connection *connection, uint32_t events);

/* Another connection, which has none, takes over the socket. */
void kvx_tcp_connection_move(struct kvx_tcp_connection *to, struct kvx_tcp_connection *from);
void kvx_tcp_connection_close(struct kvx_tcp_connection *connection);

/* Where the engine has a secret the two sides prove to each other that they know it before
 * anything else is said. server: this side accepted. False: no memory. */
bool kvx_tcp_connection_secure(struct kvx_tcp_connection *connection, bool server);

/* As kvx_tls_shake_hands(), and has the poller look for what that waits for. 1 without a secret. */
int kvx_tcp_connection_shake_hands(struct kvx_tcp_connection *connection);

/* From now on its bytes are not encrypted. */
void kvx_tcp_connection_unveil(struct kvx_tcp_connection *connection);

/* As send(2), recv(2), sendmsg(2) and readv(2) that do not wait, encrypted or not. */
ssize_t kvx_tcp_connection_send(void *connection, const void *bytes, size_t size);
ssize_t kvx_tcp_connection_receive(struct kvx_tcp_connection *connection, void *bytes, size_t size);
ssize_t kvx_tcp_connection_send_parts(struct kvx_tcp_connection *connection, struct iovec *parts,
				      size_t count);
ssize_t kvx_tcp_connection_receive_parts(struct kvx_tcp_connection *connection, struct iovec *parts,
					 int count);

/* All that was sent has left; bytes that came and that the poller does not tell of. */
static inline bool kvx_tcp_connection_is_flushed(const struct kvx_tcp_connection *connection)
{
	return !connection->tls || kvx_tls_is_flushed(connection->tls);
}

static inline size_t kvx_tcp_connection_pending(const struct kvx_tcp_connection *connection)
{
	return connection->tls ? kvx_tls_pending(connection->tls) : 0;
}

/* Sends a preamble on a connection that has sent nothing yet. Returns 0 or the negative errno. */
int kvx_tcp_connection_greet(struct kvx_tcp_connection *connection,
			     const struct kvx_tcp_preamble *preamble);

/* Reads the other side's preamble and no byte beyond. Returns 1 when it is whole, 0 not yet, or the
 * negative errno (-ECONNRESET for a close). */
int kvx_tcp_connection_read_preamble(struct kvx_tcp_connection *connection);

/* Options that every socket gets, before it connects or listens. */
void kvx_tcp_socket_prepare(const struct kvx_transport *transport, int fd);

/* "connection reset by peer"; 0: "closed by the peer". Valid until the next call. */
const char *kvx_tcp_reason(int error, char *text, size_t size);

/* tcp.c: progress() looks at deadlines at due_ns at the latest. */
void kvx_tcp_timer_set(struct kvx_transport *transport, int64_t due_ns);

/* accept.c */
void kvx_tcp_listener_ready(struct kvx_pollable *pollable, uint32_t events);

/* Ends half-made connections that are due, and accepts again after a pause. */
int kvx_tcp_accept_expire(struct kvx_transport *transport, int64_t now_ns);
void kvx_tcp_accept_finish(struct kvx_transport *transport);

/* dial.c */
int kvx_tcp_connect(struct kvx_transport *transport, const char *address, struct kvx_link **result);

/* Makes a lost rail anew after a while, longer each time in a row. */
void kvx_tcp_dial_later(struct kvx_tcp_rail *rail);

/* Gives up what took too long, and retries lost rails that are due. */
int kvx_tcp_dial_expire(struct kvx_tcp_link *link, int64_t now_ns);

/* link.c. In no list of the transport yet. NULL: no memory. */
struct kvx_tcp_link *kvx_tcp_link_new(struct kvx_transport *transport, uint32_t rails,
				      bool connector);
void kvx_tcp_link_free(struct kvx_tcp_link *link);

/* The connections are there: watches them, state up. False, with the link failed: the poller
 * refused. */
bool kvx_tcp_link_start(struct kvx_tcp_link *link);

/* The link is over: closes its connections now and tells the sink at the next progress. The text
 * gets "tcp ADDRESS: " in front. The first failure counts. */
void kvx_tcp_link_fail(struct kvx_tcp_link *link, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Tells the sink what is to tell. Not from within an operation. */
void kvx_tcp_link_report(struct kvx_tcp_link *link);

/* The rail's connection is over. error: errno, or 0 for a close by the peer. Told at the next
 * progress; the connecting side makes it anew. */
void kvx_tcp_rail_lost(struct kvx_tcp_rail *rail, int error);

/* A new connection for a lost rail: watches it and tells the sink. */
void kvx_tcp_rail_start(struct kvx_tcp_rail *rail);

void kvx_tcp_message(struct kvx_link *base, const void *bytes, uint32_t length);
void kvx_tcp_disconnect(struct kvx_link *base);
void kvx_tcp_explain(const struct kvx_link *base, char *text, size_t size);

/* send.c */
bool kvx_tcp_post(struct kvx_link *base, uint32_t index, const struct kvx_batch *batch);
void kvx_tcp_withdraw(struct kvx_link *base, struct kvx_flow *flow);
void kvx_tcp_sender_ready(struct kvx_pollable *pollable, uint32_t events);

/* Sends the frames that post() took since. */
void kvx_tcp_send(struct kvx_tcp_rail *rail);

/* What is left is lost. */
void kvx_tcp_sending_clear(struct kvx_tcp_sending *sending);

/* receive.c */
void kvx_tcp_receiver_ready(struct kvx_pollable *pollable, uint32_t events);

/* Reads from the rails that the sink had no room for. */
int kvx_tcp_receive_again(struct kvx_transport *transport);

#endif
