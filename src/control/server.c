/* SPDX-License-Identifier: Apache-2.0 */
#include "control/server.h"

#include "base/clock.h"
#include "base/error.h"
#include "control/door.h"
#include "control/objects.h"
#include "core/control.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define POOL_BYTES                                                                     \
	(KVX_HEADERS_MAX + (16u << 10)) /* of a connection: headers, and what it sends \
					 */
#define ACCEPTED_AT_ONCE 64
#define OBJECT_TICK_NS KVX_NS_PER_S

/* libmicrohttpd's call for a certificate knows no context; it comes on the control's thread. */
static _Thread_local struct kvx_control *serving;

struct kvx_objects *kvx_control_objects(struct kvx_control *control)
{
	return control->objects;
}

const char *kvx_control_address(const struct kvx_control *control)
{
	return control ? control->address : "";
}

/* The flag first: who reads the descriptor looks at the flag afterwards. */
void kvx_control_wake(struct kvx_control *control)
{
	const uint64_t one = 1;

	if (!atomic_exchange(&control->woken, true))
		(void)!write(control->wake_fd, &one, sizeof(one));
}

int kvx_connection_fd(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

	return info ? info->connect_fd : -1;
}

/* --- connections --- */

static void begin_caller(struct kvx_control *control, struct MHD_Connection *connection, bool tls,
			 void **context)
{
	const union MHD_ConnectionInfo *address =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	struct kvx_caller *caller = calloc(1, sizeof(*caller));

	control->connections++;
	*context = caller;
	if (!caller)
		return;
	caller->tls = tls;
	caller->network = address && address->client_addr->sa_family != AF_UNIX;
	/* Without a secret that can be read there is no token that is right, and no certificate. */
	if (tls && kvx_secrets_read(control->secret_file, &caller->secrets))
		caller->secrets.count = 0;
}

static void end_caller(struct kvx_control *control, void **context)
{
	struct kvx_caller *caller = *context;

	control->connections--;
	*context = NULL;
	if (caller)
		kvx_secrets_forget(&caller->secrets);
	free(caller);
}

static void on_plain(void *control, struct MHD_Connection *connection, void **context,
		     enum MHD_ConnectionNotificationCode what)
{
	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		begin_caller(control, connection, false, context);
	else
		end_caller(control, context);
}

static void on_tls(void *control, struct MHD_Connection *connection, void **context,
		   enum MHD_ConnectionNotificationCode what)
{
	if (what == MHD_CONNECTION_NOTIFY_STARTED)
		begin_caller(control, connection, true, context);
	else
		end_caller(control, context);
}

/* Reads the secret again, so that one that was changed counts for the next connection. GnuTLS says
 * what it takes. */
/* NOLINTNEXTLINE(readability-function-size) */
static int show_certificate(gnutls_session_t session, const struct gnutls_cert_retr_st *information,
			    gnutls_pcert_st **certificates, unsigned *count,
			    gnutls_ocsp_data_st **ocsp, unsigned *ocsp_count, gnutls_privkey_t *key,
			    unsigned *flags)
{
	struct kvx_secrets secrets;

	(void)session;
	(void)information;
	if (kvx_secrets_read(serving->secret_file, &secrets))
		return -1;
	*certificates = gnutls_calloc(1, sizeof(**certificates));
	int error = *certificates ? kvx_secrets_certificate(&secrets, *certificates, key) : -1;
	kvx_secrets_forget(&secrets);
	if (error) {
		gnutls_free(*certificates);
		*certificates = NULL;
		return -1;
	}
	*count = 1;
	*ocsp = NULL;
	*ocsp_count = 0;
	*flags = GNUTLS_CERT_RETR_DEINIT_ALL;
	return 0;
}

static void add(struct kvx_control *control, int fd, const struct sockaddr *address,
		socklen_t length)
{
	const int on = 1;
	bool network = address->sa_family != AF_UNIX;
	bool tls = network && *control->secret_file;

	if (!kvx_door_admit(control, fd, network)) {
		close(fd);
		return;
	}
	if (control->connections >= KVX_CONNECTIONS_MAX) {
		if (!tls)
			kvx_door_refuse(fd, MHD_HTTP_SERVICE_UNAVAILABLE, KVX_E_LIMIT,
					"control: 256 connections are open, the most that may be; "
					"come again later");
		close(fd);
		return;
	}
	if (network)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* Closes it if it cannot take it. */
	MHD_add_connection(control->daemons[tls ? KVX_DAEMON_TLS : KVX_DAEMON_PLAIN], fd, address,
			   length);
}

static void accept_some(struct kvx_control *control, const struct kvx_listener *listener)
{
	struct sockaddr_storage address = {0};

	for (int i = 0; listener->fd >= 0 && i < ACCEPTED_AT_ONCE; i++) {
		socklen_t length = sizeof(address);
		int fd = accept4(listener->fd, (struct sockaddr *)&address, &length,
				 SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		/* A client of the file system is usually bound to no path, and has no more. */
		if (address.ss_family == AF_UNIX)
			length = sizeof(sa_family_t);
		add(control, fd, (const struct sockaddr *)&address, length);
	}
}

/* --- the thread --- */

enum {
	POLL_WAKE,
	POLL_LOCAL,
	POLL_NETWORK,
	POLL_DAEMONS,
	POLL_CLIENTS = POLL_DAEMONS + KVX_DAEMONS
};

struct polled {
	struct pollfd fds[POLL_CLIENTS + KVX_WAITING_MAX];
	int clients[KVX_WAITING_MAX];
	uint32_t held, count; /* of clients: held ones first */
};

static int daemon_fd(struct MHD_Daemon *daemon)
{
	const union MHD_DaemonInfo *info =
		daemon ? MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;

	return info ? info->epoll_fd : -1;
}

/* A connection of the network that its client has closed looks like one that it has only finished
 * sending on; both count as left. */
static short hangup_of(int fd)
{
	int domain = AF_UNIX;
	socklen_t length = sizeof(domain);

	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
	return domain == AF_UNIX ? 0 : POLLRDHUP;
}

static void collect(struct kvx_control *control, struct polled *polled)
{
	polled->fds[POLL_WAKE] = (struct pollfd){control->wake_fd, POLLIN, 0};
	polled->fds[POLL_LOCAL] = (struct pollfd){control->local.fd, POLLIN, 0};
	polled->fds[POLL_NETWORK] = (struct pollfd){control->network.fd, POLLIN, 0};
	for (unsigned i = 0; i < KVX_DAEMONS; i++)
		polled->fds[POLL_DAEMONS + i] =
			(struct pollfd){daemon_fd(control->daemons[i]), POLLIN, 0};
	polled->held = kvx_held_fds(control, polled->clients);
	polled->count = polled->held + kvx_events_fds(control, polled->clients + polled->held);
	for (uint32_t i = 0; i < polled->count; i++)
		polled->fds[POLL_CLIENTS + i] =
			(struct pollfd){polled->clients[i], hangup_of(polled->clients[i]), 0};
}

static int nap_ms(const struct kvx_control *control)
{
	int64_t now_ns = kvx_now_ns(), until_ns = control->object_tick_ns + OBJECT_TICK_NS;
	int64_t held_ns = kvx_held_deadline_ns(control);
	int64_t events_ns = kvx_events_deadline_ns(control);

	until_ns = held_ns < until_ns ? held_ns : until_ns;
	until_ns = events_ns < until_ns ? events_ns : until_ns;
	int64_t nap = until_ns <= now_ns ? 0 : (until_ns - now_ns) / KVX_NS_PER_MS + 1;
	for (unsigned i = 0; i < KVX_DAEMONS; i++) {
		MHD_UNSIGNED_LONG_LONG timeout;
		if (control->daemons[i] && MHD_get_timeout(control->daemons[i], &timeout) &&
		    (int64_t)timeout < nap)
			nap = (int64_t)timeout;
	}
	return (int)nap;
}

static void see_who_left(struct kvx_control *control, const struct polled *polled)
{
	for (uint32_t i = 0; i < polled->count; i++) {
		if (!polled->fds[POLL_CLIENTS + i].revents)
			continue;
		if (i < polled->held)
			kvx_held_leave(control, polled->clients[i]);
		else
			kvx_events_leave(control, polled->clients[i]);
	}
}

static void run_daemons(struct kvx_control *control)
{
	for (unsigned i = 0; i < KVX_DAEMONS; i++)
		if (control->daemons[i])
			MHD_run(control->daemons[i]);
}

static void step(struct kvx_control *control, struct polled *polled)
{
	uint64_t count;

	collect(control, polled);
	if (poll(polled->fds, POLL_CLIENTS + polled->count, nap_ms(control)) > 0) {
		if (polled->fds[POLL_WAKE].revents)
			(void)!read(control->wake_fd, &count, sizeof(count));
		see_who_left(control, polled);
		if (polled->fds[POLL_LOCAL].revents)
			accept_some(control, &control->local);
		if (polled->fds[POLL_NETWORK].revents)
			accept_some(control, &control->network);
	}
	bool woken = atomic_exchange(&control->woken, false);
	kvx_held_ask(control, woken);
	kvx_events_push(control, woken);
	if (kvx_now_ns() - control->object_tick_ns >= OBJECT_TICK_NS) {
		control->object_tick_ns = kvx_now_ns();
		kvx_objects_tick(control->objects);
	}
	run_daemons(control);
}

static void *run(void *context)
{
	struct kvx_control *control = context;
	struct polled polled;

	serving = control;
	while (!atomic_load(&control->stopping))
		step(control, &polled);
	/* None may be suspended when its daemon is stopped. */
	kvx_held_finish(control);
	kvx_events_finish(control);
	run_daemons(control);
	kvx_held_finish(control);
	kvx_events_finish(control);
	for (unsigned i = 0; i < KVX_DAEMONS; i++)
		if (control->daemons[i])
			MHD_stop_daemon(control->daemons[i]);
	return NULL;
}

/* The application's signals are for its own threads. */
static int start_thread(pthread_t *thread, const char *name, void *(*body)(void *),
			struct kvx_control *control)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int error = pthread_create(thread, NULL, body, control);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (error)
		return kvx_fail(KVX_E_SYSTEM, "control: cannot start its thread: %s",
				strerror(error));
	pthread_setname_np(*thread, name);
	return 0;
}

/* --- opening --- */

/* Our own descriptors are polled, and ours alone, so there is no listening socket in it. Without
 * MHD_USE_ERROR_LOG it writes nothing anywhere. */
static int start_daemon(struct kvx_control *control, enum kvx_daemon kind)
{
	bool tls = kind == KVX_DAEMON_TLS;
	const struct MHD_OptionItem secure[] = {
		{MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)(uintptr_t)show_certificate},
		{MHD_OPTION_HTTPS_PRIORITIES, 0, "NORMAL:-VERS-ALL:+VERS-TLS1.3"},
		{MHD_OPTION_END, 0, NULL},
	};
	const struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};

	control->daemons[kind] = MHD_start_daemon(
		MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME |
			(tls ? (unsigned)MHD_USE_TLS : 0),
		0, NULL, NULL, kvx_exchange_step, control, MHD_OPTION_NOTIFY_COMPLETED,
		kvx_exchange_end, control, MHD_OPTION_NOTIFY_CONNECTION, tls ? on_tls : on_plain,
		control, MHD_OPTION_CONNECTION_LIMIT, KVX_CONNECTIONS_MAX,
		MHD_OPTION_CONNECTION_TIMEOUT, KVX_IDLE_S, MHD_OPTION_STRICT_FOR_CLIENT, 1,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES, MHD_OPTION_ARRAY,
		tls ? secure : none, MHD_OPTION_END);
	if (control->daemons[kind])
		return 0;
	return kvx_fail(KVX_E_SYSTEM, "control: libmicrohttpd %s cannot start a server%s",
			MHD_get_version(), tls ? " with TLS" : "");
}

static void stop_daemons(struct kvx_control *control)
{
	for (unsigned i = 0; i < KVX_DAEMONS; i++)
		if (control->daemons[i])
			MHD_stop_daemon(control->daemons[i]);
}

static int start_daemons(struct kvx_control *control)
{
	bool tls = control->network.fd >= 0 && *control->secret_file;
	int error = control->local.fd >= 0 || !tls ? start_daemon(control, KVX_DAEMON_PLAIN) : 0;

	if (!error && tls)
		error = start_daemon(control, KVX_DAEMON_TLS);
	if (error)
		stop_daemons(control);
	return error;
}

static int listen_where(struct kvx_control *control, const char *path, const char *address)
{
	struct kvx_secrets secrets;
	int error = 0;

	if (*address && *control->secret_file) {
		error = kvx_secrets_read(control->secret_file, &secrets);
		if (error)
			return error;
		kvx_secrets_forget(&secrets);
	}
	if (*path)
		error = kvx_listen_local(path, kvx_engine_name(control->engine), &control->local);
	if (!error && *address)
		error = kvx_listen_network(address, *control->secret_file, &control->network);
	if (error)
		kvx_listener_close(&control->local);
	else
		snprintf(control->address, sizeof(control->address), "%s%s%s", control->local.text,
			 *path && *address ? "," : "", control->network.text);
	return error;
}

static void stop_threads(struct kvx_control *control)
{
	pthread_mutex_lock(&control->lock);
	control->ending = true;
	pthread_cond_signal(&control->changed);
	pthread_mutex_unlock(&control->lock);
	pthread_join(control->events_thread, NULL);
}

/* The events' thread first: the other one is what clients see. */
static int start(struct kvx_control *control)
{
	struct kvx_event_view first;
	int error = kvx_engine_events(control->engine, 0, &first, 1, 0); /* recorded from now on */

	if (error < 0)
		return error;
	error = start_thread(&control->events_thread, "kvxfer-events", kvx_events_run, control);
	if (error)
		return error;
	error = start_thread(&control->thread, "kvxfer-control", run, control);
	if (error)
		stop_threads(control);
	return error;
}

static int open_control(struct kvx_control *control, const char *path, const char *address)
{
	int error = listen_where(control, path, address);

	if (error)
		return error;
	control->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (control->wake_fd < 0) {
		error = kvx_fail(KVX_E_SYSTEM, "control: eventfd: %s", strerror(errno));
		goto fail_wake;
	}
	error = start_daemons(control);
	if (error)
		goto fail_daemons;
	error = kvx_objects_open(control->engine, &control->objects);
	if (error)
		goto fail_objects;
	error = start(control);
	if (error)
		goto fail_start;
	return 0;

fail_start:
	kvx_objects_close(control->objects);
fail_objects:
	stop_daemons(control);
fail_daemons:
	close(control->wake_fd);
fail_wake:
	kvx_listener_close(&control->network);
	kvx_listener_close(&control->local);
	return error;
}

static int check_progress(struct kvx_engine *engine)
{
	char progress[16];
	int error = kvx_engine_option(engine, "progress", progress, sizeof(progress));

	if (error || strcmp(progress, "thread") == 0)
		return error;
	return kvx_fail(KVX_E_INVALID,
			"control: an engine that its caller drives has no control socket; set "
			"option progress to thread, or control and control_listen to nothing");
}

int kvx_control_open(struct kvx_engine *engine, struct kvx_control **control)
{
	char path[KVX_SECRET_PATH_MAX + 1], address[KVX_SECRET_PATH_MAX + 1];
	int error = kvx_engine_option(engine, "control", path, sizeof(path));

	error = error ? error
		      : kvx_engine_option(engine, "control_listen", address, sizeof(address));
	if (error)
		return error;
	if (!*path && !*address) {
		*control = NULL;
		return 0;
	}
	error = check_progress(engine);
	if (error)
		return error;
	struct kvx_control *made = calloc(1, sizeof(*made));
	if (!made)
		return kvx_fail(KVX_E_MEMORY, "control: out of memory");
	made->engine = engine;
	made->local.fd = made->network.fd = -1;
	kvx_list_init(&made->held);
	kvx_list_init(&made->followers);
	pthread_mutex_init(&made->lock, NULL);
	pthread_cond_init(&made->changed, NULL);
	error = kvx_engine_option(engine, "secret_file", made->secret_file,
				  sizeof(made->secret_file));
	error = error ? error : open_control(made, path, address);
	if (error) {
		pthread_cond_destroy(&made->changed);
		pthread_mutex_destroy(&made->lock);
		free(made);
		return error;
	}
	*control = made;
	return 0;
}

void kvx_control_close(struct kvx_control *control)
{
	if (!control)
		return;
	atomic_store(&control->stopping, true);
	kvx_control_wake(control);
	pthread_join(control->thread, NULL);
	stop_threads(control);
	kvx_objects_close(control->objects);
	kvx_listener_close(&control->network);
	kvx_listener_close(&control->local);
	close(control->wake_fd);
	pthread_cond_destroy(&control->changed);
	pthread_mutex_destroy(&control->lock);
	free(control);
}
