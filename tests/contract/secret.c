/* SPDX-License-Identifier: Apache-2.0 */
/* Who knows the cluster's secret gets in, and nobody else (docs/security.md). */
#include "support/pair.h"
#include "support/secret_file.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ONE "the first secret of this test\n"
#define OTHER "the other secret of this test\n"

static const struct kvx_geometry geometry = {
	.layers = 3, .planes = 2, .blocks = 32, .block_bytes = 2048};

/* Option secret_file with such a file; "" for none. */
struct secret {
	char path[SECRET_FILE_PATH];
	char option[SECRET_FILE_PATH + 16];
	const char *options[3];
};

static void secret_make(struct secret *secret, const char *text, const char *more)
{
	secret->options[0] = more;
	secret->options[1] = NULL;
	if (!text)
		return;
	secret_file_make(secret->path, text);
	snprintf(secret->option, sizeof(secret->option), "secret_file=%s", secret->path);
	secret->options[0] = secret->option;
	secret->options[1] = more;
	secret->options[2] = NULL;
}

/* A pair whose ends have these secrets. */
static void open_with(struct pair *pair, const struct way *way, const struct secret *sender,
		      const struct secret *receiver)
{
	*pair = (struct pair){.way = way, .geometry = geometry};
	pair->sender = engine_open(&pair->drive, way, "sender", sender->options);
	pair->receiver = engine_open(&pair->drive, way, "receiver", receiver->options);
	expect_ok(pool_alloc(pair->sender, &geometry, &pair->from));
	expect_ok(pool_alloc(pair->receiver, &geometry, &pair->to));
}

static void open_pair(struct pair *pair, const struct way *way, const char *sender,
		      const char *receiver)
{
	struct secret secrets[2];

	secret_make(&secrets[0], sender, NULL);
	secret_make(&secrets[1], receiver, NULL);
	open_with(pair, way, &secrets[0], &secrets[1]);
}

static int open_stream(struct pair *pair, struct request *request)
{
	size_t bytes;
	const void *ticket = kvx_grant_ticket(request->grant, &bytes);

	return kvx_stream_open(pair->from, request->from, request->count, NULL, ticket, bytes,
			       &request->stream);
}

EACH_WAY_TEST(engines_with_one_secret_work_together)
{
	struct pair pair;

	open_pair(&pair, way, ONE, ONE);
	for (uint32_t i = 0; i < 3; i++)
		pair_expect_works(&pair, i + 1);
	pair_close(&pair);
}

/* The new one second everywhere, then first everywhere, then alone: one engine after another. */
EACH_TRANSPORT_TEST(while_a_secret_is_changed_both_are_taken)
{
	static const char *const steps[] = {ONE, ONE OTHER, OTHER ONE, OTHER};
	struct pair pair;

	for (size_t i = 0; i + 1 < sizeof(steps) / sizeof(steps[0]); i++) {
		open_pair(&pair, way, steps[i], steps[i + 1]);
		pair_expect_works(&pair, 1);
		pair_close(&pair);
		open_pair(&pair, way, steps[i + 1], steps[i]);
		pair_expect_works(&pair, 1);
		pair_close(&pair);
	}
}

/* Tickets do not get through, in neither direction. */
static void expect_denied(const struct way *way, const char *sender, const char *receiver,
			  const char *why)
{
	struct request request;
	struct pair pair;

	open_pair(&pair, way, sender, receiver);
	request_init(&request, &pair, 1, 0, 4, TABLE_IDENTITY);
	request_grant(&request, 60000);
	expect_fail(open_stream(&pair, &request), KVX_E_DENIED, "ticket", why, "secret_file");
	kvx_grant_close(request.grant);
	request_free(&request);
	pair_close(&pair);
}

EACH_TRANSPORT_TEST(tickets_of_another_secret_are_refused)
{
	expect_denied(way, ONE, OTHER, "another secret_file");
	expect_denied(way, NULL, ONE, "this engine has none");
	expect_denied(way, ONE, NULL, "not sealed");
}

/* Links that pass through the network: without a ticket in between. */
static void expect_no_link(const struct way *way, const char *sender, const char *receiver,
			   int code)
{
	struct kvx_peer *peer;
	struct pair pair;

	open_pair(&pair, way, sender, receiver);
	expect_ok(kvx_peer_connect(pair.sender, kvx_engine_address(pair.receiver), &peer));
	expect_fail(wait_peer(&pair.drive, peer, PATIENCE_MS), code, way->transport);
	kvx_peer_close(peer);
	pair_close(&pair);
}

static void links_are_refused(const struct way *way)
{
	expect_no_link(way, ONE, OTHER, KVX_E_DENIED);
	expect_no_link(way, ONE, NULL, KVX_E_DENIED);
	expect_no_link(way, NULL, ONE, KVX_E_UNREACHABLE);
}

Test(tcp, links_without_the_secret_are_refused, .timeout = 120)
{
	links_are_refused(&(struct way){"tcp", false});
}

Test(verbs, links_without_the_secret_are_refused, .timeout = 120)
{
	links_are_refused(&(struct way){"verbs", false});
}

EACH_TRANSPORT_TEST(a_sealed_ticket_cannot_be_changed)
{
	struct request request;
	struct pair pair;
	size_t bytes;

	open_pair(&pair, way, ONE, ONE);
	request_init(&request, &pair, 1, 0, 4, TABLE_IDENTITY);
	request_grant(&request, 60000);
	const void *ticket = kvx_grant_ticket(request.grant, &bytes);
	uint8_t *changed = malloc(bytes);
	for (size_t i = 0; i < bytes; i++) {
		memcpy(changed, ticket, bytes);
		changed[i] ^= 0x10;
		expect_fail(kvx_stream_open(pair.from, request.from, request.count, NULL, changed,
					    bytes, &request.stream),
			    KVX_E_DENIED, "ticket");
	}
	for (size_t cut = 1; cut < bytes; cut += 7)
		expect_fail(kvx_stream_open(pair.from, request.from, request.count, NULL, ticket,
					    bytes - cut, &request.stream),
			    KVX_E_DENIED, "ticket");
	free(changed);
	request_stream(&request);
	request_run(&request);
	request_close(&request);
	pair_close(&pair);
}

EACH_TRANSPORT_TEST(offers_are_sealed_too)
{
	struct request request;
	struct pair pair, stranger;
	size_t bytes;

	open_pair(&pair, way, ONE, ONE);
	open_pair(&stranger, way, OTHER, OTHER);
	request_init(&request, &pair, 1, 0, 4, TABLE_RANDOM);
	expect_ok(kvx_offer_open(pair.from, request.from, request.count, NULL, 60000,
				 &request.stream));
	const void *ticket = kvx_offer_ticket(request.stream, &bytes);
	struct kvx_grant *other;
	expect_ok(kvx_grant_open(stranger.to, request.to, request.count, NULL, 60000, &other));
	expect_fail(kvx_grant_pull(other, ticket, bytes), KVX_E_DENIED, "ticket");
	kvx_grant_close(other);
	request_grant(&request, 60000);
	expect_ok(kvx_grant_pull(request.grant, ticket, bytes));
	request_run(&request);
	request_close(&request);
	pair_close(&stranger);
	pair_close(&pair);
}

static const struct way tcp = {"tcp", false};

Test(tcp, encrypted_data_arrives_whole, .timeout = 120)
{
	struct secret secrets[2];
	struct request request;
	struct pair pair;
	char text[1024];

	secret_make(&secrets[0], ONE, NULL);
	secret_make(&secrets[1], ONE, "tcp_encryption=on"); /* one side's wish suffices */
	open_with(&pair, &tcp, &secrets[0], &secrets[1]);
	for (uint32_t i = 0; i < 20; i++) {
		request_open(&request, &pair, i, 0, 32, TABLE_RANDOM);
		request_run(&request);
		kvx_stream_explain(request.stream, text, sizeof(text));
		cr_assert(strstr(text, "encrypted"), "%s", text);
		request_close(&request);
	}
	pair_close(&pair);
}

Test(tcp, encryption_needs_a_secret, .timeout = 60)
{
	struct kvx_engine *engine;
	const char *const options[] = {"tcp_encryption=on", NULL};

	expect_fail(engine_try(&tcp, "engine", options, &engine), KVX_E_INVALID, "tcp_encryption",
		    "secret_file");
}

Test(tcp, only_with_a_secret_it_listens_beyond_loopback, .timeout = 60)
{
	struct secret secret;
	struct kvx_engine *engine;
	struct drive drive = {0};

	secret_make(&secret, NULL, "listen=0.0.0.0:0");
	expect_fail(engine_try(&tcp, "engine", secret.options, &engine), KVX_E_INVALID, "listen",
		    "secret_file");
	secret_make(&secret, ONE, "listen=0.0.0.0:0");
	expect_fail(engine_try(&tcp, "engine", secret.options, &engine), KVX_E_INVALID,
		    "advertise");
	const char *const options[] = {secret.option, "listen=0.0.0.0:0", "advertise=127.0.0.1",
				       NULL};
	engine = engine_open(&drive, &tcp, "engine", options);
	engine_close(&drive, engine);
}

Test(tcp, a_bad_file_is_refused_and_told, .timeout = 60)
{
	struct secret secret;
	struct kvx_engine *engine;

	secret_make(&secret, "short\n", NULL);
	expect_fail(engine_try(&tcp, "engine", secret.options, &engine), KVX_E_INVALID, "secret",
		    "16 to 255");
	secret_make(&secret, ONE, NULL);
	cr_assert_eq(chmod(secret.path, 0644), 0);
	expect_fail(engine_try(&tcp, "engine", secret.options, &engine), KVX_E_INVALID, "secret",
		    "chmod 600");
	const char *const missing[] = {"secret_file=/nonexistent/secret", NULL};
	expect_fail(engine_try(&tcp, "engine", missing, &engine), KVX_E_INVALID, "secret",
		    "/nonexistent/secret");
}

/* Says something in the clear to the engine's port. Returns what it answers, up to its close. */
static size_t talk(struct pair *pair, const void *bytes, size_t size, uint8_t *answer, size_t room)
{
	const char *port = strrchr(kvx_engine_address(pair->receiver), ':') + 1;
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_port = htons((uint16_t)atoi(port)),
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t answered = 0;
	ssize_t got;

	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
	while ((got = recv(fd, answer + answered, room - answered, 0)) > 0)
		answered += (size_t)got;
	close(fd);
	return answered;
}

/* The preamble of docs/protocol.md, which an engine without a secret answers. */
Test(tcp, nothing_is_told_to_who_does_not_begin_with_the_handshake, .timeout = 60)
{
	uint8_t preamble[24] = "kvxtcp\r\n", answer[256];
	struct pair pair;

	open_pair(&pair, &tcp, ONE, ONE);
	preamble[8] = 1;  /* version */
	preamble[10] = 1; /* control */
	preamble[14] = 2; /* data connections */
	size_t size = talk(&pair, preamble, sizeof(preamble), answer, sizeof(answer));
	cr_assert_leq(size, 7, "an alert at most, not %zu bytes", size);
	cr_assert_eq(stats_of(pair.receiver).protocol_errors, 0, "nothing was parsed");
	pair_expect_works(&pair, 1);
	pair_close(&pair);
}
