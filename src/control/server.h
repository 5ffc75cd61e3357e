/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server of the control socket: what its files share. Two threads: the control's runs all of
 * HTTP, TLS and the handlers, and never blocks but for its poll(2); another waits for events of the
 * engine on its behalf while a request is held or a client follows events.
 */
#ifndef KVX_CONTROL_SERVER_H
#define KVX_CONTROL_SERVER_H

#include "base/list.h"
#include "control/listen.h"
#include "control/request.h"
#include "control/secret.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#define KVX_CONNECTIONS_MAX 256u
#define KVX_WAITING_MAX 64u               /* of them: held, or following events */
#define KVX_IDLE_S 10u                    /* a connection that says nothing for so long is closed */
#define KVX_HEADERS_MAX (32u << 10)       /* bytes of a request's */
#define KVX_CONTROL_BYTES_MAX (64u << 20) /* of all bodies and answers */
#define KVX_TICK_MS 10                    /* between looks of held requests, if nothing happens */

enum kvx_daemon { KVX_DAEMON_PLAIN, KVX_DAEMON_TLS, KVX_DAEMONS };

struct kvx_control {
	/* Set when it opens, constant afterwards. */
	struct kvx_engine *engine;
	struct kvx_objects *objects;
	struct kvx_listener local, network; /* fd -1: not asked for */
	char address[KVX_LISTENER_TEXT_MAX * 2];
	char secret_file[KVX_SECRET_PATH_MAX + 1]; /* "": the network is not TLS */
	struct MHD_Daemon *daemons[KVX_DAEMONS];   /* NULL: not needed */
	int wake_fd;                               /* an eventfd */
	pthread_t thread, events_thread;

	/* Any thread. */
	_Atomic bool stopping;
	_Atomic bool woken; /* held requests and followers are to be asked again */

	/* The events' thread sleeps while nobody waits. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool wanted, ending; /* under the lock */

	/* The control's thread. */
	struct kvx_list held;      /* requests */
	struct kvx_list followers; /* of events */
	uint32_t waiting;          /* in both lists */
	uint32_t connections;
	size_t bytes; /* of bodies and answers */
	int64_t tick_ns, object_tick_ns;
	uint64_t newest; /* event that is known to have been */
};

/* One connection's client; from its beginning to its end. */
struct kvx_caller {
	bool network, tls;
	struct kvx_secrets secrets; /* tls: whose tokens are taken */
};

/* A request and its answer. */
struct kvx_exchange {
	struct kvx_request request;
	struct MHD_Connection *connection;
	const struct kvx_caller *caller;
	const struct kvx_route *route; /* NULL: answered before there is one */
	char *body;                    /* as it came; NULL: none yet */
	size_t body_bytes, body_room;
	size_t bytes;   /* counted into the control's */
	bool too_long;  /* the body; what comes of it is thrown away */
	bool holding;   /* the handler wants it held */
	bool suspended; /* it is in the list */
	bool counted;   /* among who waits */
	bool gone;      /* its client has left */
	struct kvx_list entry;
	struct MHD_Response *response; /* NULL: not answered yet */
	unsigned status;
};

static inline struct kvx_exchange *kvx_exchange_of(struct kvx_request *request)
{
	return kvx_container_of(request, struct kvx_exchange, request);
}

/* request.c: what libmicrohttpd calls for each part of a request, and at its end. */
enum MHD_Result kvx_exchange_step(void *context, struct MHD_Connection *connection,
				  const char *path, const char *method, const char *version,
				  const char *data, size_t *data_bytes, void **exchange);
void kvx_exchange_end(void *context, struct MHD_Connection *connection, void **exchange,
		      enum MHD_RequestTerminationCode why);

/* Finds the handler, calls it, and sees that there is an answer or that it is held. */
void kvx_exchange_dispatch(struct kvx_exchange *exchange, const char *method, const char *path);

/* Counts bytes that a request holds in memory. False: they are too many in all. */
bool kvx_exchange_charge(struct kvx_exchange *exchange, size_t bytes);

/* answer.c: the HTTP status of a failed call. */
unsigned kvx_status_of(int code);

/* The text of a problem's body; to be freed. NULL: no memory. */
char *kvx_problem_text(unsigned status, int code, const char *detail);

/* held.c: one more that waits. False: there are too many. */
bool kvx_waiting_begin(struct kvx_control *control);
void kvx_waiting_end(struct kvx_control *control);

/* Suspends what its handler wants held. */
void kvx_held_begin(struct kvx_exchange *exchange);

/* Asks those again whose time has come; `all` if something has happened. */
void kvx_held_ask(struct kvx_control *control, bool all);

/* Answers all of them: the engine closes. */
void kvx_held_finish(struct kvx_control *control);

/* The client of this connection has left. */
void kvx_held_leave(struct kvx_control *control, int fd);

/* The first deadline; KVX_NEVER_NS: none. */
int64_t kvx_held_deadline_ns(const struct kvx_control *control);

/* The body of the thread that waits for the engine's events. */
void *kvx_events_run(void *context);

/* events.c: lets followers go on that have something to get; all, if something has happened. */
void kvx_events_push(struct kvx_control *control, bool all);
void kvx_events_finish(struct kvx_control *control);
void kvx_events_leave(struct kvx_control *control, int fd);
int64_t kvx_events_deadline_ns(const struct kvx_control *control);

/* Writes the descriptors of suspended connections; returns how many. */
uint32_t kvx_held_fds(const struct kvx_control *control, int *fds);
uint32_t kvx_events_fds(const struct kvx_control *control, int *fds);

/* The descriptor of a connection. */
int kvx_connection_fd(struct MHD_Connection *connection);

#endif
