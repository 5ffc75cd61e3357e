/* SPDX-License-Identifier: Apache-2.0 */
/* What tcp promises beyond the seam: strangers on its port, lost connections, where it listens. */
#include "conformance/seam.h"

#include "base/clock.h"
#include "base/list.h"
#include "support/secret_file.h"
#include "tcp/address.h"
#include "tcp/frame.h"
#include "tcp/tcp.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define TOKEN UINT64_C(0x1122334455667788)

static const char *const impatient[] = {"connect_timeout_ms=300", NULL};

/* ------------------------------------------------------------------------------------ strangers */

/* A plain socket that is connected to a side's port. */
static int stranger(const struct side *side)
{
	struct kvx_tcp_address address;
	struct timeval patience = {.tv_sec = 10};
	int fd;

	cr_assert_eq(kvx_tcp_address_parse(side->ops->address(side->transport), true, &address), 0);
	fd = socket(address.socket.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_geq(fd, 0);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address.socket, address.length), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

static void say(int fd, const void *bytes, size_t count)
{
	cr_assert_eq(send(fd, bytes, count, MSG_NOSIGNAL), (ssize_t)count);
}

static void say_preamble(int fd, uint8_t role, uint16_t count, uint64_t token)
{
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];
	struct kvx_tcp_preamble preamble = {.role = role, .count = count, .token = token};

	kvx_tcp_preamble_encode(&preamble, bytes);
	say(fd, bytes, sizeof(bytes));
}

static bool is_closed(int fd)
{
	char byte;
	ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);

	return got == 0 || (got < 0 && errno != EAGAIN);
}

Test(tcp, strangers_disturb_nobody)
{
	struct pair pair;
	char noise[4096];
	int silent, cut, loud, gone;

	pair_open(&pair, "tcp", NULL, 41);
	memset(noise, 0xa5, sizeof(noise));
	silent = stranger(&pair.to);
	cut = stranger(&pair.to);
	say(cut, "kvxtcp", 6);
	loud = stranger(&pair.to);
	say(loud, noise, sizeof(noise));
	gone = stranger(&pair.to);
	close(gone);
	post_unit(&pair, 0, 0, UNIT_BYTES);
	check_whole(&pair, 0);
	PUMP_UNTIL(&pair.from, &pair.to, is_closed(loud));
	cr_assert_not(is_closed(silent));
	cr_assert_eq(pair.to.link_count, 1);
	check_alive(&pair);
	close(silent);
	close(cut);
	close(loud);
	pair_close(&pair);
}

Test(tcp, a_silent_connection_is_closed_after_the_timeout)
{
	struct side side;
	int silent, half;
	int64_t began_ns;

	side_open(&side, &kvx_tcp_transport, impatient);
	began_ns = kvx_now_ns();
	silent = stranger(&side);
	half = stranger(&side);
	say_preamble(half, KVX_TCP_CONTROL, 2, TOKEN);
	PUMP_UNTIL(&side, (struct side *)NULL, is_closed(silent) && is_closed(half));
	cr_assert_gt(kvx_now_ns() - began_ns, 290 * KVX_NS_PER_MS);
	cr_assert_eq(side.link_count, 0);
	close(silent);
	close(half);
	side_close(&side);
}

Test(tcp, half_made_connections_are_bounded_and_the_oldest_goes_first)
{
	enum { COUNT = 300 };
	struct pair pair;
	int fds[COUNT];
	int closed = 0;

	pair_open(&pair, "tcp", NULL, 42);
	for (int i = 0; i < COUNT; i++) {
		fds[i] = stranger(&pair.to);
		if (i % 2)
			say_preamble(fds[i], KVX_TCP_DATA, 2, TOKEN + (uint64_t)i);
		side_pump(&pair.to);
	}
	side_idle(&pair.from, &pair.to, 20 * KVX_NS_PER_MS);
	for (int i = 0; i < COUNT; i++)
		closed += is_closed(fds[i]);
	cr_assert_geq(closed, COUNT - 256);
	cr_assert(is_closed(fds[0]));
	cr_assert_not(is_closed(fds[COUNT - 2]));
	check_alive(&pair);
	side_link(&pair.from, &pair.to, NULL);
	for (int i = 0; i < COUNT; i++)
		close(fds[i]);
	pair_close(&pair);
}

Test(tcp, another_version_is_answered_with_ours)
{
	struct side side;
	struct kvx_tcp_preamble theirs = {.role = KVX_TCP_CONTROL, .count = 1}, ours;
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];
	int fd;

	side_open(&side, &kvx_tcp_transport, NULL);
	kvx_tcp_preamble_encode(&theirs, bytes);
	bytes[8] = 9;
	fd = stranger(&side);
	say(fd, bytes, sizeof(bytes));
	side_idle(&side, NULL, 20 * KVX_NS_PER_MS);
	cr_assert_eq(recv(fd, bytes, sizeof(bytes), MSG_WAITALL), (ssize_t)sizeof(bytes));
	cr_assert_eq(kvx_tcp_preamble_decode(bytes, &ours), 0);
	cr_assert_eq(ours.role, KVX_TCP_ANSWER);
	cr_assert(is_closed(fd));
	close(fd);
	side_close(&side);
}

/* A peer that joins by the book with one data connection. Returns its link at the side. */
static struct kvx_link *join(struct side *side, int *control, int *data)
{
	uint32_t before = side->link_count;

	*data = stranger(side);
	say_preamble(*data, KVX_TCP_DATA, 1, TOKEN);
	*control = stranger(side);
	say_preamble(*control, KVX_TCP_CONTROL, 1, TOKEN);
	PUMP_UNTIL(side, (struct side *)NULL, side->link_count > before);
	return side->links[before].link;
}

static void check_breach(const void *on_control, const void *on_data, size_t bytes)
{
	struct pair pair;
	struct kvx_link *link;
	int control, data;

	pair_open(&pair, "tcp", NULL, 43);
	link = join(&pair.to, &control, &data);
	if (on_control)
		say(control, on_control, bytes);
	if (on_data)
		say(data, on_data, bytes);
	PUMP_UNTIL(&pair.to, &pair.from, side_log(&pair.to, link)->down);
	cr_assert_eq(side_log(&pair.to, link)->code, KVX_E_PROTOCOL);
	check_alive(&pair);
	close(control);
	close(data);
	pair_close(&pair);
}

Test(tcp, a_breach_of_the_protocol_ends_that_link_alone)
{
	char noise[64];

	memset(noise, 0xa5, sizeof(noise));
	check_breach(NULL, noise, sizeof(noise));
	check_breach(noise, NULL, sizeof(noise));
	check_breach("\0\0", NULL, 2);
}

Test(tcp, a_header_out_of_range_is_refused)
{
	struct kvx_batch batch = {.bytes = 1};
	struct kvx_tcp_header header;
	uint8_t bytes[KVX_TCP_HEADER_BYTES];

	kvx_tcp_header_encode(&batch, bytes);
	cr_assert(kvx_tcp_header_decode(bytes, &header));
	for (size_t i = 0; i < 4; i++) {
		kvx_tcp_header_encode(&batch, bytes);
		bytes[i] ^= 1;
		cr_assert_not(kvx_tcp_header_decode(bytes, &header));
	}
	batch.bytes = 0;
	kvx_tcp_header_encode(&batch, bytes);
	cr_assert_not(kvx_tcp_header_decode(bytes, &header));
	batch.bytes = KVX_BATCH_BYTES_MAX + 1;
	kvx_tcp_header_encode(&batch, bytes);
	cr_assert_not(kvx_tcp_header_decode(bytes, &header));
	batch.bytes = 2;
	batch.place = UINT64_MAX - 1;
	kvx_tcp_header_encode(&batch, bytes);
	cr_assert_not(kvx_tcp_header_decode(bytes, &header));
}

static void check_close_mid_frame(uint32_t piece_bytes)
{
	struct pair pair;
	struct kvx_link *link;
	struct kvx_batch batch = {.unit = {.imm = 5}, .bytes = 5000};
	uint8_t bytes[KVX_TCP_HEADER_BYTES + 100] = {0};
	int control, data;

	pair_open(&pair, "tcp", NULL, 44);
	pair.to.piece_bytes = piece_bytes;
	link = join(&pair.to, &control, &data);
	kvx_tcp_header_encode(&batch, bytes);
	say(data, bytes, sizeof(bytes));
	PUMP_UNTIL(&pair.to, &pair.from, pair.to.units[5].landed == 100);
	close(data);
	close(control);
	PUMP_UNTIL(&pair.to, &pair.from, side_log(&pair.to, link)->down);
	cr_assert_eq(side_log(&pair.to, link)->code, KVX_E_PEER_LOST);
	cr_assert_eq(pair.to.units[5].landed, 100);
	check_alive(&pair);
	pair_close(&pair);
}

Test(tcp, a_sender_that_closes_mid_frame_is_lost)
{
	check_close_mid_frame(0);
	check_close_mid_frame(16);
}

/* ---------------------------------------------------------------------------------- tiny places */

#define SECRET "a secret of the cluster, of enough bytes to be taken for one\n"

/* Options of a pair: staging as told, in the clear or not. */
struct manner {
	char secret_path[SECRET_FILE_PATH], secret_file[SECRET_FILE_PATH + 16];
	const char *options[4];
};

static void manner_make(struct manner *manner, const char *staging, bool encrypted)
{
	*manner = (struct manner){.options = {staging}};
	if (!encrypted)
		return;
	secret_file_make(manner->secret_path, SECRET);
	snprintf(manner->secret_file, sizeof(manner->secret_file), "secret_file=%s",
		 manner->secret_path);
	manner->options[1] = manner->secret_file;
	manner->options[2] = "tcp_encryption=on";
}

static void manner_finish(const struct manner *manner)
{
	if (manner->secret_path[0])
		unlink(manner->secret_path);
}

/* Since it was cleared: what is sent here is not zero. */
static bool landing_was_used(const struct pair *pair)
{
	const char *landing = pair->to.transport->landing;

	for (size_t i = 0; i < KVX_TCP_LANDING_BYTES; i++)
		if (landing[i])
			return true;
	return false;
}

static const char *const staging_options[] = {"staging=off", "staging=auto", "staging=on"};

/* How the sink answers, and from which of these options on that is read through the buffer. */
static const struct {
	uint32_t piece_bytes, answer_bytes, unit_bytes, used_from;
} answers[] = {
	{1, 0, 3000, 1},
	{7, 0, 20000, 1},
	{100, 12345, UNIT_BYTES, 1},
	{128, 0, UNIT_BYTES - 1, 1},
	{128, 128, 20000, 3},
	{255, 0, UNIT_BYTES - 3, 1},
	{300, 65536, UNIT_BYTES, 1},
	{5000, 0, UNIT_BYTES, 2},
	{0, 0, UNIT_BYTES, 3},
	{0, 4096, UNIT_BYTES / 2, 3},
};

static void check_manner(size_t staging, bool encrypted)
{
	struct manner manner;
	struct pair pair;

	manner_make(&manner, staging_options[staging], encrypted);
	pair_open(&pair, "tcp", manner.options, 71);
	pair.to.expected = pair.expected;
	pair.batch_bytes_max = KVX_BATCH_BYTES_MAX;
	for (uint32_t imm = 0; imm < sizeof(answers) / sizeof(answers[0]); imm++) {
		memset(pair.to.transport->landing, 0, KVX_TCP_LANDING_BYTES);
		pair.to.piece_bytes = answers[imm].piece_bytes;
		pair.to.answer_bytes = answers[imm].answer_bytes;
		post_unit(&pair, imm % pair.out->rails, imm, answers[imm].unit_bytes);
		check_whole(&pair, imm);
		/* The end of a large place beside another one may be tiny. */
		if (answers[imm].used_from != 2 || staging != 1)
			cr_assert_eq(landing_was_used(&pair), staging >= answers[imm].used_from,
				     "unit %u, %s", imm, staging_options[staging]);
	}
	pair_close(&pair);
	manner_finish(&manner);
}

Test(tcp, places_of_any_size_are_filled_by_either_way)
{
	for (size_t staging = 0; staging < 3; staging++) {
		check_manner(staging, false);
		check_manner(staging, true);
	}
}

static void check_end_within_a_frame(const char *staging, bool encrypted)
{
	const uint64_t end = 20000, answer = 1000;
	struct manner manner;
	struct pair pair;

	manner_make(&manner, staging, encrypted);
	pair_open(&pair, "tcp", manner.options, 72);
	pair.to.expected = pair.expected;
	pair.to.piece_bytes = 50;
	pair.to.answer_bytes = (uint32_t)answer;
	pair.to.ends_after = end;
	pair.batch_bytes_max = KVX_BATCH_BYTES_MAX;
	post_unit(&pair, 0, 0, UNIT_BYTES);
	PUMP_UNTIL(&pair.from, &pair.to, pair.to.generation);
	check_alive(&pair);
	uint64_t landed = pair.to.units[0].landed;
	cr_assert(landed >= end && landed < end + answer, "%" PRIu64, landed);
	check_bytes(&pair, 0);
	for (size_t i = landed; i < UNIT_BYTES; i++)
		cr_assert_eq(pair.to.image[i], 0, "byte %zu came after the end", i);
	pair_close(&pair);
	manner_finish(&manner);
}

Test(tcp, what_ends_while_it_lands_gets_no_byte_more)
{
	for (size_t staging = 0; staging < 3; staging++) {
		check_end_within_a_frame(staging_options[staging], false);
		check_end_within_a_frame(staging_options[staging], true);
	}
}

/* A frame of 5000 bytes, of which 1000 come first. */
static void check_frame_in_two(const char *staging, bool refuse)
{
	enum { FIRST = 1000, ALL = 5000, AWAY = 16 };
	const char *const options[] = {staging, NULL};
	struct kvx_batch batch = {.unit = {.imm = 5}, .bytes = ALL};
	uint8_t frame[KVX_TCP_HEADER_BYTES + ALL];
	const uint8_t *payload = frame + KVX_TCP_HEADER_BYTES;
	struct pair pair;
	int control, data;

	pair_open(&pair, "tcp", options, 73);
	char *image = pair.to.image + (size_t)5 * UNIT_BYTES, zeros[ALL] = {0};
	join(&pair.to, &control, &data);
	memset(frame, 0xa5, sizeof(frame));
	kvx_tcp_header_encode(&batch, frame);
	pair.to.piece_bytes = 30;
	say(data, frame, KVX_TCP_HEADER_BYTES + FIRST);
	PUMP_UNTIL(&pair.to, &pair.from, pair.to.units[5].landed == FIRST);
	cr_assert_eq(memcmp(image, payload, FIRST), 0);
	/* From here on there is no place, or another. */
	pair.to.refused = refuse ? 1u << 5 : 0;
	pair.to.image += (size_t)AWAY * UNIT_BYTES;
	say(data, payload + FIRST, ALL - FIRST);
	batch.unit.imm = 6;
	kvx_tcp_header_encode(&batch, frame);
	say(data, frame, sizeof(frame));
	PUMP_UNTIL(&pair.to, &pair.from, pair.to.units[6].landed == ALL);
	cr_assert_eq(pair.to.units[5].landed, refuse ? FIRST : ALL);
	cr_assert_eq(memcmp(image + FIRST, zeros, ALL - FIRST), 0);
	image += (size_t)AWAY * UNIT_BYTES;
	cr_assert_eq(memcmp(image + FIRST, refuse ? (uint8_t *)zeros : payload, ALL - FIRST), 0);
	cr_assert_eq(memcmp(image + UNIT_BYTES, payload, ALL), 0);
	pair.to.image -= (size_t)AWAY * UNIT_BYTES;
	close(control);
	close(data);
	pair_close(&pair);
}

Test(tcp, what_has_come_is_told_and_what_comes_goes_where_it_may_by_then)
{
	for (size_t staging = 0; staging < 3; staging++) {
		check_frame_in_two(staging_options[staging], false);
		check_frame_in_two(staging_options[staging], true);
	}
}

/* ------------------------------------------------------------------------------- false listeners
 */

/* Connects a side to a listener of ours, which says these bytes on every connection and, if asked
 * to, closes. Returns how the link went down. */
static const struct link_log *connect_to_false_listener(struct side *side, const void *bytes,
							size_t count, bool closes)
{
	struct kvx_tcp_address address = {.length = sizeof(address.socket)};
	char text[KVX_ADDRESS_MAX + 1];
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct kvx_link *link;

	cr_assert_eq(kvx_tcp_address_parse("127.0.0.1:0", true, &address), 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&address.socket, address.length), 0);
	cr_assert_eq(listen(listener, 16), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&address.socket, &address.length), 0);
	kvx_tcp_address_format(&address, text, sizeof(text));
	side_open(side, &kvx_tcp_transport, impatient);
	cr_assert_eq(side->ops->connect(side->transport, text, &link), 0);
	side->links[side->link_count++] = (struct link_log){.link = link};
	while (!side->links[0].down) {
		int fd = accept(listener, NULL, NULL);
		if (fd >= 0 && count)
			send(fd, bytes, count, MSG_NOSIGNAL);
		if (fd >= 0 && closes)
			close(fd);
		side_pump(side);
	}
	close(listener);
	cr_assert_eq(side->links[0].down, 1);
	cr_assert_eq(side->links[0].up, 0);
	return &side->links[0];
}

Test(tcp, an_answer_of_another_version_names_both)
{
	struct kvx_tcp_preamble answer = {.role = KVX_TCP_ANSWER, .count = 1};
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES];
	struct side side;
	const struct link_log *log;

	kvx_tcp_preamble_encode(&answer, bytes);
	bytes[8] = 9;
	log = connect_to_false_listener(&side, bytes, sizeof(bytes), false);
	cr_assert_eq(log->code, KVX_E_VERSION);
	cr_assert(strstr(log->text, "version 9"), "%s", log->text);
	cr_assert(strstr(log->text, "version 1;"), "%s", log->text);
	side_close(&side);
}

Test(tcp, a_peer_that_is_not_kvxfer_is_a_protocol_error)
{
	struct side side;

	cr_assert_eq(
		connect_to_false_listener(&side, "HTTP/1.1 400 Bad Request\r\n", 26, false)->code,
		KVX_E_PROTOCOL);
	side_close(&side);
}

Test(tcp, a_peer_that_closes_at_once_is_unreachable)
{
	struct side side;

	cr_assert_eq(connect_to_false_listener(&side, "", 0, true)->code, KVX_E_UNREACHABLE);
	side_close(&side);
}

Test(tcp, a_peer_that_says_nothing_is_unreachable_in_time)
{
	struct side side;
	int64_t began_ns = kvx_now_ns();
	const struct link_log *log = connect_to_false_listener(&side, "", 0, false);

	cr_assert_eq(log->code, KVX_E_UNREACHABLE);
	cr_assert(strstr(log->text, "300 ms"), "%s", log->text);
	cr_assert_lt(kvx_now_ns() - began_ns, 300 * KVX_NS_PER_MS + SLACK_NS);
	side_close(&side);
}

/* --------------------------------------------------------------------------------- lost sockets */

static int rail_fd(struct kvx_link *link, uint32_t rail)
{
	return ((struct kvx_tcp_link *)link)->rails[rail].connection.pollable.fd;
}

static void check_rail_returns(struct kvx_link *(*victim)(struct pair *))
{
	struct pair pair;
	struct link_log *from, *to;

	pair_open(&pair, "tcp", NULL, 51);
	from = side_log(&pair.from, pair.out);
	to = side_log(&pair.to, pair.in);
	for (uint32_t imm = 0; imm < 3; imm++) {
		shutdown(rail_fd(victim(&pair), 0), SHUT_RDWR);
		PUMP_UNTIL(&pair.from, &pair.to, from->rail_down == imm + 1);
		cr_assert_not(post_from(&pair, 0, 10 + imm, &pair.sources[0], UNIT_BYTES));
		post_unit(&pair, 1, imm, UNIT_BYTES);
		check_whole(&pair, imm);
		PUMP_UNTIL(&pair.from, &pair.to,
			   from->rail_up == imm + 1 && to->rail_up == imm + 1);
		cr_assert_eq(to->rail_down, imm + 1);
		post_unit(&pair, 0, 20 + imm, UNIT_BYTES);
		check_whole(&pair, 20 + imm);
	}
	check_alive(&pair);
	pair_close(&pair);
}

static struct kvx_link *sender(struct pair *pair)
{
	return pair->out;
}

static struct kvx_link *receiver(struct pair *pair)
{
	return pair->in;
}

Test(tcp, a_lost_rail_is_made_anew)
{
	check_rail_returns(sender);
	check_rail_returns(receiver);
}

Test(tcp, a_link_whose_rails_are_all_lost_goes_down)
{
	struct pair pair;

	pair_open(&pair, "tcp", NULL, 52);
	for (uint32_t rail = 0; rail < pair.in->rails; rail++)
		shutdown(rail_fd(pair.in, rail), SHUT_RDWR);
	PUMP_UNTIL(&pair.from, &pair.to, pair.from.links[0].down && pair.to.links[0].down);
	cr_assert_eq(pair.from.links[0].code, KVX_E_PEER_LOST);
	cr_assert_eq(pair.to.links[0].code, KVX_E_PEER_LOST);
	pair_close(&pair);
}

Test(tcp, a_failed_send_is_told_at_the_next_progress)
{
	struct pair pair;

	pair_open(&pair, "tcp", NULL, 53);
	shutdown(rail_fd(pair.out, 0), SHUT_RDWR);
	cr_assert(post_from(&pair, 0, 0, &pair.sources[0], UNIT_BYTES));
	cr_assert_eq(pair.from.links[0].rail_down, 0);
	cr_assert(pair.from.ops->arm(pair.from.transport));
	pair.from.ops->progress(pair.from.transport, kvx_now_ns());
	cr_assert_eq(pair.from.links[0].rail_down, 1);
	pair_close(&pair);
}

/* -------------------------------------------------------------------------------------- listening
 */

static void check_listen(int code, const char *text, const char *const *options)
{
	struct side side;

	cr_assert_eq(side_try(&side, &kvx_tcp_transport, options), code);
	cr_assert(strstr(kvx_error_text(), text), "%s", kvx_error_text());
}

Test(tcp, what_it_cannot_listen_on_is_refused_with_what_to_change)
{
	check_listen(KVX_E_INVALID, "unauthenticated_network=on",
		     (const char *const[]){"listen=0.0.0.0:0", NULL});
	check_listen(KVX_E_INVALID, "set advertise",
		     (const char *const[]){"listen=0.0.0.0:0", "unauthenticated_network=on", NULL});
	check_listen(KVX_E_INVALID, "HOST:PORT", (const char *const[]){"listen=127.0.0.1", NULL});
	check_listen(
		KVX_E_SYSTEM, "address of this host",
		(const char *const[]){"listen=192.0.2.1:0", "unauthenticated_network=on", NULL});
}

Test(tcp, a_port_in_use_is_refused)
{
	struct side side;
	char listen_here[64];

	side_open(&side, &kvx_tcp_transport, NULL);
	snprintf(listen_here, sizeof(listen_here), "listen=%s", side.ops->address(side.transport));
	check_listen(KVX_E_SYSTEM, "choose another port", (const char *const[]){listen_here, NULL});
	side_close(&side);
}

Test(tcp, a_wildcard_tells_the_advertised_host)
{
	struct pair pair;
	static const char *const options[] = {"listen=0.0.0.0:0", "advertise=localhost",
					      "unauthenticated_network=on", NULL};
	char resolved[KVX_ADDRESS_MAX + 1];

	if (kvx_tcp_transport.resolve("localhost:1", resolved, sizeof(resolved)) != 0)
		cr_skip_test("localhost does not resolve on this machine");
	pair_open(&pair, "tcp", options, 61);
	const char *address = pair.to.ops->address(pair.to.transport);
	cr_assert_eq(strncmp(address, "127.0.0.1:", 10), 0, "%s", address);
	check_alive(&pair);
	pair_close(&pair);
}

Test(tcp, ipv6_works)
{
	struct pair pair;
	struct side side;
	static const char *const options[] = {"listen=[::1]:0", "tcp_connections=4", NULL};

	if (side_try(&side, &kvx_tcp_transport, options) != 0)
		cr_skip_test("no IPv6 on this machine");
	side_close(&side);
	pair_open(&pair, "tcp", options, 62);
	cr_assert_eq(strncmp(pair.to.ops->address(pair.to.transport), "[::1]:", 6), 0);
	cr_assert_eq(pair.out->rails, 4);
	post_unit(&pair, 3, 0, UNIT_BYTES);
	check_whole(&pair, 0);
	pair_close(&pair);
}

Test(tcp, lack_of_descriptors_delays_but_loses_nothing)
{
	struct pair pair;
	struct kvx_link *link;
	struct rlimit limit, tight;
	int fd;

	pair_open(&pair, "tcp", NULL, 63);
	fd = stranger(&pair.to);
	getrlimit(RLIMIT_NOFILE, &limit);
	tight = limit;
	tight.rlim_cur = (rlim_t)fd + 1;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
	cr_assert_eq(pair.from.ops->connect(pair.from.transport,
					    pair.to.ops->address(pair.to.transport), &link),
		     KVX_E_SYSTEM);
	cr_assert(strstr(kvx_error_text(), "RLIMIT_NOFILE"), "%s", kvx_error_text());
	say_preamble(fd, KVX_TCP_CONTROL, 1, TOKEN);
	side_idle(&pair.from, &pair.to, 20 * KVX_NS_PER_MS);
	check_alive(&pair);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	side_link(&pair.from, &pair.to, NULL);
	close(fd);
	pair_close(&pair);
}
