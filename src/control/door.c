/* SPDX-License-Identifier: Apache-2.0 */
#include "control/door.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define READ_MAX 8 /* pieces of 4 KiB that are read before a connection is closed */

/* --- connections --- */

/* What the client has sent already is read first: a TCP connection that is closed over unread bytes
 * is reset, and its client may never see the answer. */
static void swallow(int fd)
{
	char bytes[4096];

	for (int i = 0; i < READ_MAX && recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0; i++)
		;
}

void kvx_door_refuse(int fd, unsigned status, int code, const char *detail)
{
	char head[256];
	char *body = kvx_problem_text(status, code, detail);

	swallow(fd);
	if (!body)
		return;
	int length = snprintf(head, sizeof(head),
			      "HTTP/1.1 %u %s\r\nContent-Type: application/problem+json\r\n"
			      "Content-Length: %zu\r\nConnection: close\r\n\r\n",
			      status, MHD_get_reason_phrase_for(status), strlen(body));
	if (send(fd, head, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE) == length)
		(void)!send(fd, body, strlen(body), MSG_DONTWAIT | MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	free(body);
}

static bool is_trusted(uid_t uid)
{
	return uid == geteuid() || uid == 0;
}

static bool find_owner(int fd, bool network, uid_t *uid)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (network)
		return kvx_network_peer(fd, uid);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return false;
	*uid = peer.uid;
	return true;
}

bool kvx_door_admit(const struct kvx_control *control, int fd, bool network)
{
	char detail[128];
	uid_t uid;

	if (network && *control->secret_file)
		return true;
	if (!find_owner(fd, network, &uid)) {
		kvx_door_refuse(fd, MHD_HTTP_FORBIDDEN, KVX_E_REFUSED,
				"control: cannot tell whose process this connection is of; use the "
				"unix socket, or set option secret_file");
		return false;
	}
	if (is_trusted(uid))
		return true;
	snprintf(detail, sizeof(detail),
		 "control: user %u may not get in: only user %u, who runs the engine, and root may",
		 (unsigned)uid, (unsigned)geteuid());
	kvx_door_refuse(fd, MHD_HTTP_FORBIDDEN, KVX_E_REFUSED, detail);
	return false;
}

/* --- requests --- */

static const char *header(const struct kvx_exchange *exchange, const char *name)
{
	return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

static bool has_token(const struct kvx_exchange *exchange)
{
	static const char scheme[] = "Bearer ";
	const char *given = header(exchange, MHD_HTTP_HEADER_AUTHORIZATION);

	return given && strncasecmp(given, scheme, sizeof(scheme) - 1) == 0 &&
	       kvx_secrets_take(&exchange->caller->secrets, given + sizeof(scheme) - 1);
}

static bool is_name_of_here(const char *host)
{
	static const char here[] = "localhost";
	size_t length = sizeof(here) - 1;

	if (isdigit((unsigned char)*host) || *host == '[')
		return true;
	return strncasecmp(host, here, length) == 0 && (!host[length] || host[length] == ':');
}

/* Any page that this user's browser shows may ask it to connect to loopback, and may have a name
 * that resolves to it. */
static bool is_of_page(const struct kvx_exchange *exchange)
{
	const char *host = header(exchange, MHD_HTTP_HEADER_HOST);

	return header(exchange, "Origin") || (host && !is_name_of_here(host));
}

void kvx_door_check(struct kvx_exchange *exchange)
{
	struct kvx_request *request = &exchange->request;

	if (exchange->caller->tls && !has_token(exchange)) {
		kvx_answer_problem(request, MHD_HTTP_UNAUTHORIZED, KVX_E_REFUSED,
				   "control: no token of the cluster's secret; send "
				   "\"Authorization: Bearer TOKEN\" with the one that kvxferctl "
				   "credentials prints");
		if (exchange->response)
			MHD_add_response_header(exchange->response,
						MHD_HTTP_HEADER_WWW_AUTHENTICATE,
						"Bearer realm=\"kvxfer\"");
	} else if (exchange->caller->network && !exchange->caller->tls && is_of_page(exchange)) {
		kvx_answer_problem(request, MHD_HTTP_FORBIDDEN, KVX_E_REFUSED,
				   "control: does not serve pages of a browser; name it by its "
				   "address, and send no Origin");
	}
}
