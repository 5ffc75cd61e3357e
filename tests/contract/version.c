/* SPDX-License-Identifier: Apache-2.0 */
/* An engine of another protocol version is refused, on either side, and told why; nobody else
 * notices. Tickets and the transports' own versions have their tests in api/refuse and
 * conformance/. */
#include "support/pair.h"
#include "support/stranger.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OTHER (KVX_PROTOCOL_VERSION + 1)
#define PREAMBLE_BYTES 24u

static const struct kvx_geometry geometry = {
	.layers = 2, .planes = 1, .blocks = 16, .block_bytes = 4096};

static struct kvx_message hello_of(uint32_t version)
{
	struct kvx_message hello = {.type = KVX_MESSAGE_HELLO,
				    .version = version,
				    .incarnation = 4711,
				    .heartbeat_ms = 60000};

	strcpy(hello.text, "later");
	return hello;
}

EACH_TRANSPORT_TEST(who_connects_with_another_version_is_refused)
{
	struct kvx_message hello = hello_of(OTHER);
	struct stranger stranger;
	struct request request;
	struct pair pair;

	pair_open(&pair, way, &geometry, NULL);
	pair_expect_works(&pair, 1);
	request_init(&request, &pair, 2, 0, 4, TABLE_IDENTITY);
	request_grant(&request, 60000);
	struct kvx_ticket ticket = ticket_of(request.grant);
	stranger_connect(&stranger, &pair.drive, way->transport, kvx_engine_address(pair.receiver));
	stranger_say(&stranger, &hello);
	struct kvx_message open = stranger_open_message(&ticket, 1, 1);
	stranger_say(&stranger, &open);
	cr_assert(stranger_sees_end(&stranger, &pair.drive));
	cr_assert_eq(stranger.heard_count, 0, "it was answered by a message of type %u",
		     stranger.heard.type);
	stranger_close(&stranger);
	kvx_ticket_finish(&ticket);
	/* The ticket is not used up. */
	request_stream(&request);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

/* Accepts one connection and reads its preamble. */
static int accept_one(int listener, uint8_t preamble[PREAMBLE_BYTES])
{
	int fd = accept(listener, NULL, NULL);

	cr_assert(fd >= 0);
	cr_assert_eq(recv(fd, preamble, PREAMBLE_BYTES, MSG_WAITALL), (ssize_t)PREAMBLE_BYTES);
	return fd;
}

/* docs/protocol.md, tcp: a control connection and one of data, then the answer and a greeting. */
static void greet_with(int listener, uint32_t version, int fds[2])
{
	uint8_t preamble[PREAMBLE_BYTES], answer[PREAMBLE_BYTES], bytes[2 + KVX_MESSAGE_MAX];
	struct kvx_message hello = hello_of(version);
	int control = -1;

	for (int i = 0; i < 2; i++) {
		fds[i] = accept_one(listener, preamble);
		if (preamble[10] == 1)
			control = fds[i];
		memcpy(answer, preamble, sizeof(answer));
	}
	answer[10] = 3;
	answer[12] = answer[13] = 0;
	cr_assert_eq(send(control, answer, sizeof(answer), 0), (ssize_t)sizeof(answer));
	uint32_t length = kvx_message_encode(&hello, bytes + 2);
	bytes[0] = (uint8_t)length;
	bytes[1] = (uint8_t)(length >> 8);
	cr_assert_eq(send(control, bytes, 2 + length, MSG_NOSIGNAL), (ssize_t)length + 2);
}

Test(tcp, who_is_connected_to_with_another_version_is_refused, .timeout = 60)
{
	static const struct way way = {"tcp", false};
	const char *const options[] = {"tcp_connections=1", NULL};
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	struct drive drive = {0};
	struct kvx_peer *peer;
	char name[64], ours[32], theirs[32];
	int fds[2], listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(listener, (struct sockaddr *)&address, size), 0);
	cr_assert_eq(listen(listener, 8), 0);
	getsockname(listener, (struct sockaddr *)&address, &size);
	snprintf(name, sizeof(name), "tcp:127.0.0.1:%u", ntohs(address.sin_port));
	snprintf(ours, sizeof(ours), "version %u", KVX_PROTOCOL_VERSION);
	snprintf(theirs, sizeof(theirs), "version %u", OTHER);
	struct kvx_engine *engine = engine_open(&drive, &way, "engine", options);
	expect_ok(kvx_peer_connect(engine, name, &peer));
	greet_with(listener, OTHER, fds);
	expect_fail(wait_peer(&drive, peer, PATIENCE_MS), KVX_E_VERSION, ours, theirs,
		    "the same kvxfer");
	kvx_peer_close(peer);
	engine_close(&drive, engine);
	close(fds[0]);
	close(fds[1]);
	close(listener);
}
