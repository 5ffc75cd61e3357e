/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tcp transport between sockets of loopback that a hostile program writes to: as one that
 * connects, and as one that is connected to. The input is a program: preambles, frames, messages
 * and raw bytes on any of the connections, in any order and cut anywhere, while time passes.
 */
#include "fake_sink.h"
#include "target.h"

#include "base/clock.h"
#include "tcp/tcp.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOCKETS 8u
#define STEPS_MAX 80u
#define PAYLOAD_MAX 4096u
#define LINKS_OUT_MAX 4u

static struct fuzz_input *program;
static struct kvx_poller poller;
static struct kvx_transport_context context;
static struct kvx_transport *transport;
static int sockets[SOCKETS]; /* the hostile ends; -1: none */
static uint64_t token;       /* that the engine said last, when it connected */
static uint64_t time_ns;     /* that has passed beside the clock's */
static uint32_t connects;
static int listener = -1; /* of the hostile program */
static uint16_t listener_port;

static const struct kvx_options *options(void)
{
	static struct kvx_options *made;

	if (made)
		return made;
	fuzz_require(kvx_options_new(&made) == 0 &&
			     kvx_options_set(made, "listen", "127.0.0.1:0") == 0 &&
			     kvx_options_set(made, "tcp_connections", "2") == 0,
		     "%s", kvx_error_text());
	return made;
}

static uint16_t port_of(int fd)
{
	struct sockaddr_in own;
	socklen_t size = sizeof(own);

	fuzz_require(getsockname(fd, (struct sockaddr *)&own, &size) == 0, "getsockname");
	return ntohs(own.sin_port);
}

static void listen_for_engine(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET};

	if (listener >= 0)
		return;
	any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	fuzz_require(listener >= 0 && bind(listener, (struct sockaddr *)&any, sizeof(any)) == 0 &&
			     listen(listener, 64) == 0,
		     "no socket of loopback");
	listener_port = port_of(listener);
}

/* Without a farewell no port stays in use. */
static void close_socket(uint32_t index, bool reset)
{
	const struct linger linger = {.l_onoff = 1};

	if (sockets[index] < 0)
		return;
	if (reset)
		setsockopt(sockets[index], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	close(sockets[index]);
	sockets[index] = -1;
}

static void take_socket(uint32_t index, int fd)
{
	if (fd < 0)
		return;
	close_socket(index, true);
	sockets[index] = fd;
}

static void connect_to_engine(uint32_t index)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	const char *colon = strrchr(kvx_tcp_transport.address(transport), ':');
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port = htons((uint16_t)atoi(colon + 1));
	fuzz_require(fd >= 0, "no socket");
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		take_socket(index, fd);
	else
		close(fd);
}

static void connect_engine(void)
{
	struct kvx_link *link;
	char address[32];

	snprintf(address, sizeof(address), "127.0.0.1:%u", listener_port);
	if (connects++ < LINKS_OUT_MAX && kvx_tcp_transport.connect(transport, address, &link) == 0)
		fuzz_sink_know(link);
}

/* What the engine says is read, and its preamble's token is remembered. */
static void hear(uint32_t index)
{
	uint8_t bytes[4096];
	struct kvx_tcp_preamble preamble;

	if (sockets[index] < 0)
		return;
	ssize_t got = recv(sockets[index], bytes, sizeof(bytes), MSG_DONTWAIT);
	if (got >= (ssize_t)KVX_TCP_PREAMBLE_BYTES &&
	    kvx_tcp_preamble_decode(bytes, &preamble) == 0)
		token = preamble.token;
}

static void run(void)
{
	for (uint32_t i = 0; i < SOCKETS; i++)
		if (sockets[i] < 0)
			take_socket(i, accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	for (int i = 0; i < 3; i++) {
		kvx_poller_run(&poller, 0);
		kvx_tcp_transport.progress(transport, kvx_now_ns() + (int64_t)time_ns);
		fuzz_sink_disconnect(false);
	}
}

static void say(uint32_t index, const void *bytes, size_t size)
{
	if (sockets[index] >= 0)
		(void)!send(sockets[index], bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void say_preamble(uint32_t index)
{
	uint8_t bytes[KVX_TCP_PREAMBLE_BYTES], choice = fuzz_u8(program);
	struct kvx_tcp_preamble preamble = {.role = choice & 3,
					    .index = choice >> 2 & 3,
					    .count = (uint16_t)(choice >> 4 & 3),
					    .token = fuzz_u8(program)};

	if (preamble.role == KVX_TCP_ANSWER)
		preamble.token = token;
	kvx_tcp_preamble_encode(&preamble, bytes);
	if (choice & 64)
		bytes[8] = fuzz_u8(program); /* the version */
	say(index, bytes, choice & 128 ? 10 : sizeof(bytes));
}

static void say_frame(uint32_t index)
{
	static uint8_t payload[PAYLOAD_MAX];
	uint8_t header[KVX_TCP_HEADER_BYTES], how = fuzz_u8(program);
	struct kvx_batch batch = {.unit = {fuzz_u16(program), 1},
				  .bytes = fuzz_u16(program),
				  .place = fuzz_u16(program)};
	uint32_t length = batch.bytes;

	if (how & 1)
		batch.unit.imm |= 1u << 31;
	if (how & 2)
		batch.bytes = fuzz_u32(program);
	if (how & 4)
		batch.place = fuzz_u64(program);
	if (how & 8)
		length = fuzz_u16(program);
	kvx_tcp_header_encode(&batch, header);
	if (how & 16)
		header[fuzz_u8(program) % sizeof(header)] ^= 1;
	say(index, header, how & 32 ? 13 : sizeof(header));
	say(index, payload, length < PAYLOAD_MAX ? length : PAYLOAD_MAX);
}

static void say_message(uint32_t index)
{
	uint8_t bytes[2 + 2048] = {0};
	uint32_t length = fuzz_u16(program) % 2048, kept = length;

	bytes[0] = (uint8_t)length;
	bytes[1] = (uint8_t)(length >> 8);
	if (fuzz_u8(program) & 1)
		kept = length / 2;
	say(index, bytes, 2 + kept);
}

static void say_raw(uint32_t index)
{
	size_t got;
	const uint8_t *bytes = fuzz_bytes(program, fuzz_u8(program), &got);

	say(index, bytes, got);
}

static void post(uint8_t number)
{
	static char local[PAYLOAD_MAX];
	static const struct kvx_memory memory = {.address = local, .bytes = sizeof(local)};
	struct kvx_slice slice = {.local = local, .memory = &memory, .length = 1 + number};
	static struct kvx_flow flow;
	struct kvx_batch batch = {
		.bytes = slice.length, .count = 1, .slices = &slice, .flow = &flow, .last = true};

	for (uint32_t i = 0; i < FUZZ_SINK_LINKS_MAX; i++) {
		struct kvx_link *link = fuzz_sink_links[i];
		if (!link || !((struct kvx_tcp_link *)link)->connector)
			continue;
		(void)kvx_tcp_transport.post(link, number % link->rails, &batch);
		if (number & 128)
			kvx_tcp_transport.withdraw(link, &flow);
	}
}

static void step(void)
{
	uint8_t operation = fuzz_u8(program), index = (operation >> 4) % SOCKETS;

	switch (operation % 11) {
	case 0:
		connect_to_engine(index);
		break;
	case 1:
		say_preamble(index);
		break;
	case 2:
		say_frame(index);
		break;
	case 3:
		say_message(index);
		break;
	case 4:
		say_raw(index);
		break;
	case 5:
		close_socket(index, true);
		break;
	case 6:
		time_ns += fuzz_u8(program) * 100 * KVX_NS_PER_MS;
		break;
	case 7:
		connect_engine();
		break;
	case 8:
		post(fuzz_u8(program));
		break;
	case 9:
		fuzz_sink_refuses = fuzz_u8(program) & 1;
		break;
	default:
		hear(index);
	}
	run();
}

/* A bit for each descriptor that is open. */
static uint64_t open_descriptors(void)
{
	uint64_t bits = 0;

	for (int fd = 0; fd < 64; fd++)
		bits |= (uint64_t)(fcntl(fd, F_GETFD) >= 0) << fd;
	return bits;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_input input = fuzz_input_over(bytes, size);

	program = &input;
	listen_for_engine();
	uint64_t before = open_descriptors();
	memset(sockets, -1, sizeof(sockets));
	fuzz_sink_reset();
	token = time_ns = connects = 0;
	fuzz_require(kvx_poller_init(&poller) == 0, "%s", kvx_error_text());
	context = fuzz_sink_context();
	context.poller = &poller;
	context.options = options();
	fuzz_require(kvx_tcp_transport.open(&context, &transport) == 0, "%s", kvx_error_text());
	for (uint32_t i = 0; i < STEPS_MAX && fuzz_left(&input); i++)
		step();
	fuzz_sink_disconnect(true);
	for (uint32_t i = 0; i < SOCKETS; i++)
		close_socket(i, true);
	kvx_tcp_transport.close(transport);
	kvx_poller_finish(&poller);
	for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;)
		close(fd);
	fuzz_require(open_descriptors() == before, "descriptors %llx are open, before %llx",
		     (unsigned long long)open_descriptors(), (unsigned long long)before);
	return 0;
}

/* --- seeds --- */

#define GIVE(name, ...)                                       \
	do {                                                  \
		static const uint8_t bytes[] = {__VA_ARGS__}; \
		take(name, bytes, sizeof(bytes));             \
	} while (0)

/* An operation on the socket of that number: its number modulo 11, its upper bits the socket's. */
#define AT(operation, socket) \
	(uint8_t)(((socket) << 4) + (((operation) + 110 - ((socket) << 4) % 11) % 11))
#define ROLE(role, index, count) ((role) | (index) << 2 | (count) << 4)
#define LINKED                                                                                \
	AT(0, 0), AT(1, 0), ROLE(1, 0, 2), 1, AT(0, 1), AT(1, 1), ROLE(2, 0, 2), 1, AT(0, 2), \
		AT(1, 2), ROLE(2, 1, 2), 1
/* The engine connects: its connections take sockets 0 to 2; all say their tokens. */
#define DIALLED 7, AT(10, 0), AT(10, 1), AT(10, 2), AT(1, 0), ROLE(3, 0, 2), 0

void fuzz_give_seeds(fuzz_take *take)
{
	GIVE("link", LINKED, AT(3, 0), 5, 0, 0);
	GIVE("frames", LINKED, AT(2, 1), 0, 1, 0, 100, 0, 0, 0, AT(2, 2), 0, 40, 0, 255, 8, 0, 0,
	     AT(2, 1), 1, 1, 0, 9, 0, 0, 0);
	GIVE("split-frame", LINKED, AT(2, 1), 40, 1, 0, 100, 0, 0, 0, 50, 0);
	GIVE("rejoin", LINKED, AT(5, 1), AT(0, 1), AT(1, 1), ROLE(2, 0, 2), 1, AT(0, 3), AT(1, 3),
	     ROLE(2, 0, 2), 1);
	GIVE("half", AT(0, 0), AT(1, 0), ROLE(1, 0, 2), 1, 6, 30);
	GIVE("version", AT(0, 0), AT(1, 0), ROLE(1, 0, 2) | 64, 1, 7);
	GIVE("dial", DIALLED, 8, 9, AT(3, 0), 9, 0, 0, 8, 140);
	GIVE("dial-lost", DIALLED, AT(5, 1), 6, 1, AT(10, 1), AT(1, 1), ROLE(3, 0, 2), 0);
	GIVE("dial-silent", DIALLED, AT(5, 1), 6, 1, 6, 30, 6, 30);
	GIVE("raw", AT(0, 0), AT(4, 0), 24, 'k', 'v', 'x', 't', 'c', 'p', 13, 10, 1, 0, 1, 0, 0, 0,
	     2, 0, 1, 0, 0, 0, 0, 0, 0, 0);
}
