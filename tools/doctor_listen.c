/* SPDX-License-Identifier: Apache-2.0 */
/* The side that answers. Whoever is connected may make it open an engine and receive bytes into a
 * pool of its own, one session after another; nothing else. */
#include "doctor.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REQUEST_MAX 1024u   /* bytes of a line that is asked */
#define FIRST_LIMIT_MS 5000 /* a stranger says nothing, or something else */
#define NEXT_LIMIT_MS 60000 /* several transfers may lie between two lines */
#define SESSION_LIMIT_MS 600000
#define HOST_MAX 255u

struct session {
	const struct doctor *doctor;
	struct doctor_channel *channel;
	struct doctor_echo echo;
	struct doctor_end end;
};

static json_t *refusal(const char *code, const char *text)
{
	json_t *message = json_pack("{s:s, s:s}", "code", code, "error", text);

	return message ? message : json_pack("{s:s}", "error", "out of memory");
}

static int set(struct kvx_options *options, const char *name, const char *value)
{
	return options ? kvx_options_set(options, name, value) : -1;
}

/* The engine listens where the session's connection came in: that much is reachable. */
static struct kvx_options *options_for(const struct session *session, const char *transport)
{
	struct kvx_options *options = doctor_options(session->doctor);
	char host[HOST_MAX + 1], listen[HOST_MAX + 8];

	doctor_host_of(session->channel->fd, false, host, sizeof(host));
	snprintf(listen, sizeof(listen), strchr(host, ':') ? "[%s]:0" : "%s:0", host);
	if (set(options, "transports", transport) || set(options, "listen", listen) ||
	    set(options, "progress", "thread") || set(options, "topology", "off") ||
	    set(options, "unauthenticated_network",
		session->doctor->unauthenticated_network ? "on" : "off")) {
		kvx_options_free(options);
		return NULL;
	}
	return options;
}

static json_t *answer_hello(const struct session *session)
{
	return json_pack("{s:i, s:s, s:i, s:s}", "kvxfer_doctor", 1, "version", kvx_version(),
			 "udp_port", (int)session->echo.port, "token", session->echo.token);
}

static json_t *answer_open(struct session *session, const json_t *request)
{
	char transport[DOCTOR_NAME_MAX + 1];

	doctor_text_of(request, "transport", transport, sizeof(transport));
	if (strcmp(transport, "tcp") != 0 && strcmp(transport, "verbs") != 0)
		return refusal("KVX_E_INVALID", "the transport is tcp or verbs");
	doctor_end_close(&session->end);
	struct kvx_options *options = options_for(session, transport);
	int error = options ? doctor_end_open(&session->end, options) : KVX_E_INVALID;
	if (error)
		return refusal(kvx_error_name(error), kvx_error_text());
	return json_pack("{s:s}", "address", kvx_engine_address(session->end.engine));
}

static json_t *answer_grant(struct session *session, const json_t *request)
{
	json_int_t blocks = json_integer_value(json_object_get(request, "blocks"));

	if (!session->end.engine)
		return refusal("KVX_E_INVALID", "no engine is open");
	if (blocks < 1 || blocks > DOCTOR_BLOCKS)
		return refusal("KVX_E_INVALID", "there are not so many blocks");
	char *ticket = doctor_end_grant(&session->end, (uint32_t)blocks);
	json_t *answer = ticket ? json_pack("{s:s}", "ticket", ticket)
				: refusal("KVX_E_SYSTEM", kvx_error_text());
	free(ticket);
	return answer;
}

/* NULL: it was nothing that is answered. */
static json_t *answer(struct session *session, const json_t *request)
{
	char asked[DOCTOR_NAME_MAX + 1];

	doctor_text_of(request, "ask", asked, sizeof(asked));
	if (strcmp(asked, "hello") == 0)
		return answer_hello(session);
	if (strcmp(asked, "open") == 0)
		return answer_open(session, request);
	if (strcmp(asked, "grant") == 0)
		return answer_grant(session, request);
	return NULL;
}

/* Until the other side has said all; why it ended is in the channel. */
static void answer_all(struct session *session)
{
	const struct doctor_beside beside = {session->echo.fd, doctor_echo_answer, &session->echo};
	int64_t end_ms = doctor_now_ms() + SESSION_LIMIT_MS;
	int limit_ms = FIRST_LIMIT_MS;

	while (doctor_now_ms() < end_ms) {
		json_t *request = doctor_receive(session->channel, limit_ms, &beside);
		if (!request)
			return;
		json_t *said = answer(session, request);
		json_decref(request);
		if (!said) {
			doctor_send(session->channel,
				    refusal("KVX_E_PROTOCOL", "it asks nothing that is known"));
			snprintf(session->channel->why, sizeof(session->channel->why),
				 "it asked nothing that is known");
			return;
		}
		if (doctor_send(session->channel, said))
			return;
		limit_ms = NEXT_LIMIT_MS;
	}
	snprintf(session->channel->why, sizeof(session->channel->why), "its time is up");
}

static void serve(const struct doctor *doctor, int fd)
{
	static struct doctor_channel channel;
	struct session session = {.doctor = doctor, .channel = &channel};
	char host[HOST_MAX + 1];

	channel = (struct doctor_channel){.fd = fd, .line_max = REQUEST_MAX};
	doctor_host_of(fd, true, host, sizeof(host));
	fprintf(stderr, "session with %s\n", host);
	if (doctor_echo_open(&session.echo, fd))
		snprintf(channel.why, sizeof(channel.why), "no socket to answer probes: %s",
			 strerror(errno));
	else
		answer_all(&session);
	doctor_echo_close(&session.echo);
	doctor_end_close(&session.end);
	fprintf(stderr, "session with %s ended: %s\n", host, channel.why);
}

static void print_listening(int fd)
{
	struct sockaddr_storage address = {0};
	socklen_t length = sizeof(address);
	char host[HOST_MAX + 1] = "?", port[NI_MAXSERV] = "?";

	getsockname(fd, (struct sockaddr *)&address, &length);
	getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port, sizeof(port),
		    NI_NUMERICHOST | NI_NUMERICSERV);
	printf(strchr(host, ':') ? "listening on [%s]:%s\n" : "listening on %s:%s\n", host, port);
	fflush(stdout);
}

int doctor_listen_run(const struct doctor *doctor)
{
	char why[DOCTOR_TEXT_MAX + 1];
	int listener = doctor_listen_at(doctor->listen, doctor->unauthenticated_network, why);

	if (listener < 0) {
		fprintf(stderr, "kvxfer-doctor: %s\n", why);
		return 3;
	}
	print_listening(listener);
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			serve(doctor, fd);
			close(fd);
		} else if (errno != EINTR && errno != ECONNABORTED) {
			fprintf(stderr, "kvxfer-doctor: cannot accept: %s\n", strerror(errno));
			close(listener);
			return 3;
		}
	}
}
