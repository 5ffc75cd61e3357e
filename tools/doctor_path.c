/* SPDX-License-Identifier: Apache-2.0 */
/* How large a packet may be on the way to the peer: probes of many sizes that nobody may cut into
 * pieces, which the peer answers. An answer is smaller than its probe, so that nobody gets more
 * bytes sent to him than he sent. */
#include "doctor.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define PACKET_MAX 65535u
#define PACKET_MIN 576u /* what every host of IPv4 takes */
#define HEADERS_4 28u   /* IPv4 and UDP */
#define HEADERS_6 48u
#define TRIES 3
#define WAIT_MS 200
#define ANSWER_MAX (DOCTOR_TOKEN_CHARACTERS + 8u) /* token, a space, the size */

static_assert(IP_PMTUDISC_PROBE == IPV6_PMTUDISC_PROBE, "one value serves both");

static void set_port(struct sockaddr_storage *address, uint16_t port)
{
	if (address->ss_family == AF_INET6)
		((struct sockaddr_in6 *)address)->sin6_port = htons(port);
	else
		((struct sockaddr_in *)address)->sin_port = htons(port);
}

static uint16_t port_of(const struct sockaddr_storage *address)
{
	return ntohs(address->ss_family == AF_INET6
			     ? ((const struct sockaddr_in6 *)address)->sin6_port
			     : ((const struct sockaddr_in *)address)->sin_port);
}

/* ------------------------------------------------------------------------------ who answers */

static int make_token(char token[DOCTOR_TOKEN_CHARACTERS + 1])
{
	uint64_t random;

	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -1;
	snprintf(token, DOCTOR_TOKEN_CHARACTERS + 1, "%016llx", (unsigned long long)random);
	return 0;
}

int doctor_echo_open(struct doctor_echo *echo, int session)
{
	struct sockaddr_storage here = {0};
	socklen_t here_length = sizeof(here), length = sizeof(echo->peer);

	*echo = (struct doctor_echo){.fd = -1};
	if (getpeername(session, (struct sockaddr *)&echo->peer, &length) ||
	    getsockname(session, (struct sockaddr *)&here, &here_length) || make_token(echo->token))
		return -1;
	set_port(&here, 0);
	echo->fd = socket(here.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (echo->fd < 0)
		return -1;
	if (bind(echo->fd, (struct sockaddr *)&here, here_length) ||
	    getsockname(echo->fd, (struct sockaddr *)&here, &here_length)) {
		doctor_echo_close(echo);
		return -1;
	}
	echo->port = port_of(&here);
	return 0;
}

void doctor_echo_close(struct doctor_echo *echo)
{
	if (echo->fd >= 0)
		close(echo->fd);
	echo->fd = -1;
}

static const void *host_of(const struct sockaddr_storage *address, size_t *size)
{
	const struct sockaddr_in *four = (const void *)address;
	const struct sockaddr_in6 *six = (const void *)address;

	if (address->ss_family == AF_INET6) {
		*size = sizeof(six->sin6_addr);
		return &six->sin6_addr;
	}
	*size = sizeof(four->sin_addr);
	return &four->sin_addr;
}

static bool is_same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	size_t size;
	const void *host = host_of(a, &size);

	return a->ss_family == b->ss_family && memcmp(host, host_of(b, &size), size) == 0;
}

void doctor_echo_answer(void *context)
{
	static char probe[PACKET_MAX];
	const struct doctor_echo *echo = context;
	struct sockaddr_storage from = {0};
	socklen_t length = sizeof(from);
	char answer[ANSWER_MAX + 1];

	ssize_t got = recvfrom(echo->fd, probe, sizeof(probe), MSG_DONTWAIT,
			       (struct sockaddr *)&from, &length);
	if (got < (ssize_t)ANSWER_MAX || !is_same_host(&from, &echo->peer) ||
	    memcmp(probe, echo->token, DOCTOR_TOKEN_CHARACTERS) != 0)
		return;
	int size = snprintf(answer, sizeof(answer), "%s %zd", echo->token, got);
	/* One that is lost is asked for again. */
	sendto(echo->fd, answer, (size_t)size, MSG_DONTWAIT, (struct sockaddr *)&from, length);
}

/* --------------------------------------------------------------------------------- who asks */

struct probing {
	int fd;
	const char *token;
	uint32_t headers; /* of a packet, bytes */
};

static bool is_answer(const struct probing *probing, const char *answer, ssize_t size,
		      uint32_t payload)
{
	char expected[ANSWER_MAX + 1];
	int length = snprintf(expected, sizeof(expected), "%s %u", probing->token, payload);

	return size == length && memcmp(answer, expected, (size_t)length) == 0;
}

static bool wait_answer(const struct probing *probing, uint32_t payload)
{
	int64_t deadline_ms = doctor_now_ms() + WAIT_MS;
	char answer[ANSWER_MAX];

	for (int64_t left; (left = deadline_ms - doctor_now_ms()) > 0;) {
		struct pollfd ready = {.fd = probing->fd, .events = POLLIN};
		if (poll(&ready, 1, (int)left) <= 0)
			continue;
		ssize_t got = recv(probing->fd, answer, sizeof(answer), MSG_DONTWAIT);
		if (is_answer(probing, answer, got, payload))
			return true;
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			return false; /* the peer's host says that nobody is there */
	}
	return false;
}

/* Does a packet of that size come through? */
static bool passes(const struct probing *probing, uint32_t packet)
{
	static char probe[PACKET_MAX];
	uint32_t payload = packet - probing->headers;

	memcpy(probe, probing->token, DOCTOR_TOKEN_CHARACTERS);
	for (int i = 0; i < TRIES; i++) {
		ssize_t sent = send(probing->fd, probe, payload, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EMSGSIZE)
			return false; /* this host's own interface does not take it */
		if (sent == (ssize_t)payload && wait_answer(probing, payload))
			return true;
	}
	return false;
}

/* The largest of the usual sizes, and of what this host takes for right. */
static uint32_t find_largest(const struct probing *probing, uint32_t local)
{
	static const uint32_t usual[] = {9000, 4200, 4096, 2048, 1500, 1480, 1450, 1400, 1280};
	uint32_t smallest = local < PACKET_MIN ? local : PACKET_MIN;

	if (!passes(probing, smallest))
		return 0;
	if (passes(probing, local))
		return local;
	for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
		if (usual[i] < local && passes(probing, usual[i]))
			return usual[i];
	return smallest;
}

/* DF is set and what the kernel has learnt of the path is not looked at. */
static int set_up(const struct probing *probing, int family, uint32_t *local)
{
	bool is_6 = family == AF_INET6;
	int level = is_6 ? IPPROTO_IPV6 : IPPROTO_IP;
	int probe = IP_PMTUDISC_PROBE;
	int mtu = 0;
	socklen_t size = sizeof(mtu);

	if (setsockopt(probing->fd, level, is_6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &probe,
		       sizeof(probe)))
		return -1;
	if (getsockopt(probing->fd, level, is_6 ? IPV6_MTU : IP_MTU, &mtu, &size))
		return -1;
	if (mtu <= (int)(probing->headers + ANSWER_MAX))
		return -1;
	*local = mtu > (int)PACKET_MAX ? PACKET_MAX : (uint32_t)mtu;
	return 0;
}

int doctor_path_try(int session, uint16_t port, const char *token, struct doctor_path *path)
{
	struct sockaddr_storage peer = {0};
	socklen_t length = sizeof(peer);
	uint32_t local;

	if (getpeername(session, (struct sockaddr *)&peer, &length))
		return -1;
	set_port(&peer, port);
	struct probing probing = {
		.fd = socket(peer.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
		.token = token,
		.headers = peer.ss_family == AF_INET6 ? HEADERS_6 : HEADERS_4,
	};
	if (probing.fd < 0)
		return -1;
	int error = connect(probing.fd, (struct sockaddr *)&peer, length) ||
		    set_up(&probing, peer.ss_family, &local);
	if (!error)
		*path = (struct doctor_path){local, find_largest(&probing, local)};
	close(probing.fd);
	return error ? -1 : 0;
}
