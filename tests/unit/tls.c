/* SPDX-License-Identifier: Apache-2.0 */
#include "secret/tls.h"

#include "secret/secret.h"
#include "support/chance.h"
#include "support/secret_file.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <kvxfer/kvxfer.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ONE "the first secret of this test\n"
#define OTHER "the other secret of this test\n"

/* Two ends, and who listens in between. */
struct ends {
	int near, far; /* of the two sessions */
	int wire_near, wire_far;
	char paths[2][SECRET_FILE_PATH];
	struct kvx_keyring *rings[2];
	struct kvx_tls *client, *server;
	uint8_t *heard;
	size_t heard_bytes;
};

static void pair_of_sockets(int *one, int *other)
{
	int fds[2], bytes = 8192;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	for (int i = 0; i < 2; i++)
		setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	*one = fds[0];
	*other = fds[1];
}

static void open_ends(struct ends *ends, const char *client, const char *server)
{
	const char *texts[2] = {client, server};

	*ends = (struct ends){0};
	pair_of_sockets(&ends->near, &ends->wire_near);
	pair_of_sockets(&ends->far, &ends->wire_far);
	for (int i = 0; i < 2; i++) {
		secret_file_make(ends->paths[i], texts[i]);
		cr_assert_eq(kvx_keyring_open(ends->paths[i], &ends->rings[i]), 0, "%s",
			     kvx_error_text());
	}
	ends->client = kvx_tls_new(ends->rings[0], ends->near, false);
	ends->server = kvx_tls_new(ends->rings[1], ends->far, true);
	cr_assert(ends->client && ends->server);
	ends->heard = malloc(1 << 24);
	cr_assert(ends->heard);
}

static void close_ends(struct ends *ends)
{
	kvx_tls_free(ends->client);
	kvx_tls_free(ends->server);
	for (int i = 0; i < 2; i++) {
		kvx_keyring_close(ends->rings[i]);
		unlink(ends->paths[i]);
	}
	close(ends->near);
	close(ends->far);
	close(ends->wire_near);
	close(ends->wire_far);
	free(ends->heard);
}

/* Carries what has been said one way to the other end. */
static void carry(struct ends *ends, int from, int to)
{
	uint8_t bytes[1000];
	ssize_t got, sent;

	while ((got = recv(from, bytes, sizeof(bytes), MSG_PEEK)) > 0) {
		sent = send(to, bytes, (size_t)got, MSG_NOSIGNAL);
		if (sent <= 0)
			return;
		cr_assert_eq(recv(from, bytes, (size_t)sent, 0), sent);
		memcpy(ends->heard + ends->heard_bytes, bytes, (size_t)sent);
		ends->heard_bytes += (size_t)sent;
	}
}

static void carry_all(struct ends *ends)
{
	carry(ends, ends->wire_near, ends->wire_far);
	carry(ends, ends->wire_far, ends->wire_near);
}

/* Until both have an outcome: 1 or -1 each. */
static void shake_hands(struct ends *ends, int *client, int *server)
{
	*client = *server = 0;
	for (int i = 0; i < 100 && (!*client || !*server); i++) {
		*client = *client ? *client : kvx_tls_shake_hands(ends->client);
		carry_all(ends);
		*server = *server ? *server : kvx_tls_shake_hands(ends->server);
		carry_all(ends);
	}
}

static void expect_hands_shaken(struct ends *ends)
{
	int client, server;

	shake_hands(ends, &client, &server);
	cr_assert_eq(client, 1, "%s", kvx_tls_reason(ends->client));
	cr_assert_eq(server, 1, "%s", kvx_tls_reason(ends->server));
}

Test(tls, ends_with_one_secret_trust_each_other)
{
	struct ends ends;

	open_ends(&ends, ONE, ONE);
	expect_hands_shaken(&ends);
	close_ends(&ends);
}

Test(tls, another_secret_is_refused_by_both_ends)
{
	struct ends ends;
	int client, server;

	open_ends(&ends, ONE, OTHER);
	shake_hands(&ends, &client, &server);
	cr_assert_eq(client, -1);
	cr_assert_eq(server, -1);
	cr_assert(strstr(kvx_tls_reason(ends.client), "secret"), "%s", kvx_tls_reason(ends.client));
	close_ends(&ends);
}

Test(tls, the_second_secret_of_the_server_is_taken_too)
{
	struct ends ends;

	open_ends(&ends, ONE, OTHER ONE);
	expect_hands_shaken(&ends);
	close_ends(&ends);
}

Test(tls, a_secret_that_was_changed_is_taken_from_the_next_connection_on)
{
	struct ends ends;
	int client, server;

	open_ends(&ends, ONE, OTHER);
	secret_file_change(ends.paths[1], OTHER ONE);
	sleep(2); /* the file is looked at once a second */
	shake_hands(&ends, &client, &server);
	cr_assert_eq(client, 1, "%s", kvx_tls_reason(ends.client));
	cr_assert_eq(server, 1, "%s", kvx_tls_reason(ends.server));
	close_ends(&ends);
}

Test(tls, what_is_no_tls_is_refused)
{
	const char *greetings[] = {"GET / HTTP/1.1\r\n\r\n", "kvxtcp\r\nand so on and so on",
				   "\x16\x03\x01\xff\xff"};

	for (size_t i = 0; i < sizeof(greetings) / sizeof(greetings[0]); i++) {
		struct ends ends;
		open_ends(&ends, ONE, ONE);
		cr_assert_gt(send(ends.wire_far, greetings[i], strlen(greetings[i]), 0), 0);
		shutdown(ends.wire_far, SHUT_WR);
		cr_assert_eq(kvx_tls_shake_hands(ends.server), -1);
		cr_assert(kvx_tls_reason(ends.server)[0]);
		close_ends(&ends);
	}
}

/* Sockets of 8 KiB: most sends are cut in the middle. */
Test(tls, parts_arrive_whole_and_in_order_and_nobody_reads_along, .timeout = 60)
{
	static uint8_t sent[1 << 20], got[1 << 20];
	uint64_t chance = random_seed();
	size_t sent_bytes = 0, got_bytes = 0;
	struct ends ends;

	open_ends(&ends, ONE, ONE);
	expect_hands_shaken(&ends);
	for (size_t i = 0; i < sizeof(sent); i++)
		sent[i] = (uint8_t)random_next(&chance);
	while (got_bytes < sizeof(got)) {
		struct iovec parts[5], rooms[3];
		size_t next = sent_bytes, room = got_bytes;
		uint32_t count = 0, room_count = 0;
		for (; count < 5 && next < sizeof(sent); count++) {
			size_t bytes = random_between(&chance, 1, 20000);
			if (bytes > sizeof(sent) - next)
				bytes = sizeof(sent) - next;
			parts[count] = (struct iovec){sent + next, bytes};
			next += bytes;
		}
		ssize_t done = kvx_tls_send_parts(ends.client, parts, count);
		if (done > 0)
			sent_bytes += (size_t)done;
		else
			cr_assert(done == 0 || errno == EAGAIN);
		carry_all(&ends);
		for (; room_count < 3 && room < sizeof(got); room_count++) {
			size_t bytes = random_between(&chance, 1, 9000);
			if (bytes > sizeof(got) - room)
				bytes = sizeof(got) - room;
			rooms[room_count] = (struct iovec){got + room, bytes};
			room += bytes;
		}
		done = kvx_tls_receive_parts(ends.server, rooms, room_count);
		if (done > 0)
			got_bytes += (size_t)done;
		else
			cr_assert(done < 0 && errno == EAGAIN);
	}
	cr_assert(memcmp(sent, got, sizeof(sent)) == 0);
	cr_assert_geq(ends.heard_bytes, sizeof(sent));
	cr_assert_null(memmem(ends.heard, ends.heard_bytes, sent + 5000, 32));
	close_ends(&ends);
}

Test(tls, a_changed_byte_ends_the_connection)
{
	uint8_t bytes[256];
	struct ends ends;

	open_ends(&ends, ONE, ONE);
	expect_hands_shaken(&ends);
	cr_assert_eq(kvx_tls_send(ends.client, "hello", 5), 5);
	ssize_t size = recv(ends.wire_near, bytes, sizeof(bytes), 0);
	cr_assert_gt(size, 5);
	bytes[size / 2] ^= 1;
	cr_assert_eq(send(ends.wire_far, bytes, (size_t)size, 0), size);
	cr_assert_eq(kvx_tls_receive(ends.server, bytes, sizeof(bytes)), -1);
	cr_assert_eq(errno, EPROTO);
	close_ends(&ends);
}

Test(tls, a_connection_that_is_cut_reads_as_its_end)
{
	uint8_t bytes[16];
	struct ends ends;

	open_ends(&ends, ONE, ONE);
	expect_hands_shaken(&ends);
	shutdown(ends.wire_far, SHUT_WR);
	cr_assert_eq(kvx_tls_receive(ends.server, bytes, sizeof(bytes)), 0);
	close_ends(&ends);
}
