/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp.h"

#include "base/clock.h"
#include "base/error.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Where peers may and can reach this engine. */
static int check_listen(const struct kvx_transport_context *context,
			const struct kvx_tcp_address *listen)
{
	const struct kvx_options *options = context->options;

	if (!kvx_tcp_address_is_loopback(listen) && !context->keyring &&
	    !options->unauthenticated_network)
		return kvx_fail(KVX_E_INVALID,
				"tcp: listen %s: peers are not authenticated; set secret_file to "
				"the cluster's secret, or listen on loopback, or set "
				"unauthenticated_network=on",
				options->listen);
	if (options->tcp_encryption && !context->keyring)
		return kvx_fail(KVX_E_INVALID,
				"tcp: tcp_encryption=on needs a key: set secret_file to the "
				"cluster's secret");
	if (kvx_tcp_address_is_wildcard(listen) && !options->advertise[0])
		return kvx_fail(KVX_E_INVALID,
				"tcp: listen %s: peers cannot connect to a wildcard; set advertise "
				"to the host that they should use",
				options->listen);
	return 0;
}

static int fail_listen(const struct kvx_options *options, const char *what, int error)
{
	char text[128];
	const char *change = error == EADDRINUSE      ? "; choose another port, or 0 for a free one"
			     : error == EADDRNOTAVAIL ? "; listen on an address of this host"
			     : error == EACCES        ? "; choose a port above 1023"
			     : error == EMFILE        ? "; raise RLIMIT_NOFILE"
						      : "";

	return kvx_fail(KVX_E_SYSTEM, "tcp: listen %s: %s: %s%s", options->listen, what,
			kvx_tcp_reason(error, text, sizeof(text)), change);
}

/* Returns the socket. */
static int listen_on(struct kvx_transport *transport, const struct kvx_tcp_address *address)
{
	const struct kvx_options *options = transport->context->options;
	int on = 1, off = 0;
	int fd = socket(address->socket.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return fail_listen(options, "socket", errno);
	kvx_tcp_socket_prepare(transport, fd);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (address->socket.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, (const struct sockaddr *)&address->socket, address->length) == 0 &&
	    listen(fd, SOMAXCONN) == 0)
		return fd;
	int error = fail_listen(options, "bind", errno);
	close(fd);
	return error;
}

/* What address() tells: the host to advertise, or the one listened on, and the port in use. */
static int name_listener(struct kvx_transport *transport)
{
	const struct kvx_options *options = transport->context->options;
	struct kvx_tcp_address bound = {.length = sizeof(bound.socket)};
	char text[KVX_OPTION_TEXT_MAX + 16];

	if (getsockname(transport->listener.fd, (struct sockaddr *)&bound.socket, &bound.length) <
	    0)
		return fail_listen(options, "getsockname", errno);
	if (!options->advertise[0]) {
		kvx_tcp_address_format(&bound, transport->address, sizeof(transport->address));
		return 0;
	}
	bool bare = strchr(options->advertise, ':') && options->advertise[0] != '[';
	snprintf(text, sizeof(text), bare ? "[%s]:%u" : "%s:%u", options->advertise,
		 kvx_tcp_address_port(&bound));
	return kvx_tcp_address_resolve(text, transport->address, sizeof(transport->address));
}

static int start_listening(struct kvx_transport *transport)
{
	const struct kvx_transport_context *context = transport->context;
	struct kvx_tcp_address address;
	int error = kvx_tcp_address_parse(context->options->listen, false, &address);

	if (!error)
		error = check_listen(context, &address);
	if (error)
		return error;
	transport->listener.ready = kvx_tcp_listener_ready;
	transport->listener.fd = listen_on(transport, &address);
	if (transport->listener.fd < 0)
		return transport->listener.fd;
	error = name_listener(transport);
	if (!error)
		error = kvx_poller_add(context->poller, &transport->listener, EPOLLIN);
	if (error)
		close(transport->listener.fd);
	return error;
}

/* What option staging says of the receiver: smaller places are read through the landing buffer. */
static uint32_t tiny_bytes(const struct kvx_options *options)
{
	if (strcmp(options->staging, "off") == 0)
		return 0;
	return strcmp(options->staging, "on") == 0 ? UINT32_MAX : KVX_TCP_TINY_BYTES;
}

static int tcp_open(const struct kvx_transport_context *context, struct kvx_transport **result)
{
	struct kvx_transport *transport = calloc(1, sizeof(*transport));

	if (!transport)
		return kvx_fail(KVX_E_MEMORY, "tcp: no memory for the transport");
	transport->context = context;
	transport->tiny_bytes = tiny_bytes(context->options);
	transport->timer_ns = KVX_NEVER_NS;
	kvx_list_init(&transport->greetings);
	kvx_list_init(&transport->halves);
	kvx_list_init(&transport->links);
	kvx_list_init(&transport->unsent);
	kvx_list_init(&transport->unread);
	kvx_list_init(&transport->troubled);
	int error = start_listening(transport);
	if (error) {
		free(transport);
		return error;
	}
	*result = transport;
	return 0;
}

static void tcp_close(struct kvx_transport *transport)
{
	kvx_poller_remove(transport->context->poller, &transport->listener);
	close(transport->listener.fd);
	kvx_tcp_accept_finish(transport);
	free(transport);
}

static const char *tcp_address(const struct kvx_transport *transport)
{
	return transport->address;
}

/* Slices are copied by the kernel while they are sent: nothing is known of memory. */
static void tcp_forget(struct kvx_transport *transport, const struct kvx_memory *memory)
{
	(void)transport;
	(void)memory;
}

void kvx_tcp_timer_set(struct kvx_transport *transport, int64_t due_ns)
{
	if (due_ns < transport->timer_ns)
		transport->timer_ns = due_ns;
}

static int run_timers(struct kvx_transport *transport, int64_t now_ns)
{
	struct kvx_list *entry, *following;

	transport->timer_ns = KVX_NEVER_NS;
	int done = kvx_tcp_accept_expire(transport, now_ns);
	kvx_list_for_each (entry, following, &transport->links)
		done += kvx_tcp_dial_expire(kvx_container_of(entry, struct kvx_tcp_link, entry),
					    now_ns);
	return done;
}

static int tcp_progress(struct kvx_transport *transport, int64_t now_ns)
{
	int done = 0;

	for (; !kvx_list_empty(&transport->unsent); done++)
		kvx_tcp_send(kvx_container_of(transport->unsent.next, struct kvx_tcp_rail, unsent));
	if (now_ns >= transport->timer_ns)
		done += run_timers(transport, now_ns);
	done += kvx_tcp_receive_again(transport);
	for (; !kvx_list_empty(&transport->troubled); done++)
		kvx_tcp_link_report(
			kvx_container_of(transport->troubled.next, struct kvx_tcp_link, trouble));
	return done;
}

/* All the rest makes a socket ready; timers do well with the progress() calls of a sleeper. */
static bool tcp_arm(struct kvx_transport *transport)
{
	return !kvx_list_empty(&transport->troubled) || !kvx_list_empty(&transport->unsent) ||
	       !kvx_list_empty(&transport->unread);
}

/* Which network interface carries a connection is the kernel's choice. */
static void tcp_port(const struct kvx_link *link, uint32_t rail, char *text, size_t size)
{
	(void)link;
	snprintf(text, size, "%u", rail);
}

const struct kvx_transport_ops kvx_tcp_transport = {
	.name = "tcp",
	.open = tcp_open,
	.close = tcp_close,
	.address = tcp_address,
	.resolve = kvx_tcp_address_resolve,
	.connect = kvx_tcp_connect,
	.disconnect = kvx_tcp_disconnect,
	.message = kvx_tcp_message,
	.post = kvx_tcp_post,
	.withdraw = kvx_tcp_withdraw,
	.forget = tcp_forget,
	.progress = tcp_progress,
	.arm = tcp_arm,
	.explain = kvx_tcp_explain,
	.port = tcp_port,
};
