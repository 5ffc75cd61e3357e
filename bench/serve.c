/* SPDX-License-Identifier: Apache-2.0 */
#include "serve.h"

#include "address.h"
#include "failure.h"
#include "receiver.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTEN_DEFAULT "127.0.0.1:7411"

static int serve_inherited(const struct kvx_settings *settings)
{
	const struct kvx_receiver_policy policy = {.options = &settings->engine_options,
						   .trusted = true,
						   .verbose = settings->verbose};

	/* An interrupt at the terminal reaches both; the sender decides what it means. */
	signal(SIGINT, SIG_IGN);
	return kvx_receiver_serve((int)settings->inherited_fd, &policy) ? 1 : 0;
}

/* The numbers of an end's address, without a zone. */
static void print_host(const struct sockaddr_storage *address, socklen_t length, char *host,
		       socklen_t size)
{
	if (getnameinfo((const struct sockaddr *)address, length, host, size, NULL, 0,
			NI_NUMERICHOST))
		snprintf(host, size, "unknown");
}

/* The engine listens where this program does, and names the address by which the other end found
 * it. */
static void serve_one(int fd, const struct kvx_settings *settings, const char *listen_host)
{
	struct sockaddr_storage here = {0};
	struct sockaddr_storage there = {0};
	socklen_t here_length = sizeof(here);
	socklen_t there_length = sizeof(there);
	char here_host[NI_MAXHOST];
	char there_host[NI_MAXHOST];
	const struct kvx_receiver_policy policy = {
		.options = &settings->engine_options,
		.listen_host = listen_host,
		.advertise_host = here_host,
		.unauthenticated_network = settings->unauthenticated_network,
		.verbose = settings->verbose,
	};

	getsockname(fd, (struct sockaddr *)&here, &here_length);
	getpeername(fd, (struct sockaddr *)&there, &there_length);
	print_host(&here, here_length, here_host, sizeof(here_host));
	print_host(&there, there_length, there_host, sizeof(there_host));
	fprintf(stderr, "session with %s\n", there_host);
	int error = kvx_receiver_serve(fd, &policy);
	fprintf(stderr, "session with %s ended%s%s\n", there_host, error ? ": " : "",
		error ? kvx_failure_text() : "");
}

/* A port of 0 is one that the system chose: say which. */
static void print_listening(int fd, const char *host)
{
	struct sockaddr_storage address = {0};
	socklen_t length = sizeof(address);
	char port[NI_MAXSERV] = "?";

	getsockname(fd, (struct sockaddr *)&address, &length);
	getnameinfo((struct sockaddr *)&address, length, NULL, 0, port, sizeof(port),
		    NI_NUMERICSERV);
	printf(strchr(host, ':') ? "listening on [%s]:%s\n" : "listening on %s:%s\n", host, port);
	fflush(stdout);
}

int kvx_serve_run(const struct kvx_settings *settings)
{
	const char *listen = settings->listen ? settings->listen : LISTEN_DEFAULT;
	char host[256];

	if (settings->inherited_fd)
		return serve_inherited(settings);
	int listener = kvx_address_listen(listen, settings->unauthenticated_network);
	if (listener < 0 || kvx_address_host(listen, host, sizeof(host))) {
		fprintf(stderr, "kvxfer-bench: %s\n", kvx_failure_text());
		return 1;
	}
	print_listening(listener, host);
	for (uint64_t served = 0; !settings->sessions || served < settings->sessions;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0) {
			fprintf(stderr, "kvxfer-bench: cannot accept: %s\n", strerror(errno));
			close(listener);
			return 1;
		}
		serve_one(fd, settings, host);
		close(fd);
		served++;
	}
	close(listener);
	return 0;
}
