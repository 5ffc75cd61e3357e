/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shm transport and a hostile process of the same user: packets on its socket with descriptors
 * of any kind, and whatever it writes into the rings that both map. The input is a program, for the
 * side that connects and for the side that is connected to.
 */
#include "fake_sink.h"
#include "target.h"

#include "base/clock.h"
#include "base/wire.h"
#include "shm/shm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x6d68732d7866766b)
#define ENDS 4u
#define STEPS_MAX 80u
#define SOURCE_BYTES 4096u
#define LINKS_OUT_MAX 4u

/* The hostile side of a link. */
struct end {
	int fd;        /* -1: none */
	uint8_t *ring; /* NULL: no rings; otherwise both of them */
	bool connector;
};

static struct fuzz_input *program;
static struct kvx_poller poller;
static struct kvx_transport_context context;
static struct kvx_transport *transport;
static struct end ends[ENDS];
static uint64_t time_ns;
static uint32_t connects;
static int listener = -1;
static char listener_name[64];
static uint8_t source[SOURCE_BYTES]; /* announced as memory that can be read */
static const uint64_t nonce = 77;

static const struct kvx_options *options(void)
{
	static struct kvx_options *made;

	if (!made)
		fuzz_require(kvx_options_new(&made) == 0, "%s", kvx_error_text());
	return made;
}

static socklen_t address_of(struct sockaddr_un *address, const char *name, size_t length)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path + 1, name, length);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static void listen_for_engine(void)
{
	struct sockaddr_un address;

	if (listener >= 0)
		return;
	snprintf(listener_name, sizeof(listener_name), "kvxfer-fuzz-%d", (int)getpid());
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	fuzz_require(listener >= 0 &&
			     bind(listener, (struct sockaddr *)&address,
				  address_of(&address, listener_name, strlen(listener_name))) ==
				     0 &&
			     listen(listener, 64) == 0,
		     "no unix socket");
}

static void close_end(struct end *end)
{
	if (end->fd >= 0)
		close(end->fd);
	if (end->ring)
		munmap(end->ring, kvx_lane_shared_bytes());
	*end = (struct end){.fd = -1};
}

static void connect_to_engine(struct end *end)
{
	const char *name = kvx_shm_transport.address(transport);
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	close_end(end);
	fuzz_require(fd >= 0, "no socket");
	if (connect(fd, (struct sockaddr *)&address,
		    address_of(&address, name, strcspn(name, "@"))) == 0)
		*end = (struct end){.fd = fd, .connector = true};
	else
		close(fd);
}

static void connect_engine(void)
{
	char address[256];
	struct kvx_link *link;
	const char *boot = strchr(kvx_shm_transport.address(transport), '@');

	snprintf(address, sizeof(address), "%s%s", listener_name, boot);
	if (connects++ < LINKS_OUT_MAX && kvx_shm_transport.connect(transport, address, &link) == 0)
		fuzz_sink_know(link);
}

static void run(void)
{
	for (int i = 0; i < 3; i++) {
		kvx_poller_run(&poller, 0);
		kvx_shm_transport.progress(transport, kvx_now_ns() + (int64_t)time_ns);
		fuzz_sink_disconnect(false);
	}
	for (uint32_t i = 0; i < ENDS; i++)
		if (ends[i].fd < 0)
			ends[i].fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

/* --- packets --- */

/* A file of so many bytes, sealed or not; 0: a descriptor that is no such file; -1: none. */
static int make_descriptor(uint8_t kind)
{
	static const off_t sizes[] = {0, 64, 4096, 65536};
	int fd;

	if (kind % 4 == 0)
		return -1;
	if (kind % 4 == 1)
		return dup(listener);
	fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	fuzz_require(fd >= 0 && ftruncate(fd, sizes[kind >> 4 & 3]) == 0, "no memory");
	if (kind % 4 == 2)
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
	return fd;
}

static void send_packet(struct end *end, struct shm_packet *packet)
{
	if (packet->length && end->fd >= 0)
		(void)kvx_shm_packet_send(end->fd, packet);
	if (packet->fd >= 0)
		close(packet->fd);
}

/* Some bytes become others. */
static void change(struct shm_packet *packet)
{
	uint8_t changes = fuzz_u8(program);

	for (uint8_t i = 0; i < (changes & 3); i++) {
		uint8_t at = fuzz_u8(program);
		packet->bytes[at % packet->length] = fuzz_u8(program);
	}
	if (changes & 4)
		packet->length = 1 + fuzz_u8(program) % packet->length;
}

static void say_hello(struct end *end)
{
	struct shm_packet packet;
	struct kvx_writer writer = kvx_shm_packet_begin(&packet, SHM_HELLO);
	size_t bytes = kvx_lane_shared_bytes();

	kvx_put_u64(&writer, MAGIC);
	kvx_put_u32(&writer, 1);
	kvx_put_u32(&writer, (uint32_t)bytes);
	kvx_put_u64(&writer, (uintptr_t)&nonce);
	kvx_put_u64(&writer, nonce);
	kvx_shm_packet_end(&packet, &writer);
	change(&packet);
	packet.fd = memfd_create("fuzz-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	fuzz_require(packet.fd >= 0 && ftruncate(packet.fd, (off_t)bytes) == 0 &&
			     fcntl(packet.fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0,
		     "no memory");
	if (end->fd >= 0 && !end->ring) {
		void *ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, packet.fd, 0);
		end->ring = ring == MAP_FAILED ? NULL : ring;
	}
	send_packet(end, &packet);
}

/* Takes the rings that the engine sent, if it has connected. */
static void hear(struct end *end)
{
	struct shm_packet packet;

	if (end->fd < 0 || kvx_shm_packet_receive(end->fd, &packet) <= 0)
		return;
	if (packet.fd < 0)
		return;
	if (!end->ring && packet.bytes[0] == SHM_HELLO) {
		void *ring = mmap(NULL, kvx_lane_shared_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED,
				  packet.fd, 0);
		end->ring = ring == MAP_FAILED ? NULL : ring;
	}
	close(packet.fd);
}

static void say_welcome(struct end *end)
{
	struct shm_packet packet;
	uint8_t refused = fuzz_u8(program);
	struct kvx_writer writer =
		kvx_shm_packet_begin(&packet, refused & 1 ? SHM_REFUSED : SHM_WELCOME);

	if (refused & 1) {
		kvx_put_text(&writer, "shm: go away");
	} else {
		kvx_put_u64(&writer, MAGIC);
		kvx_put_u32(&writer, 1);
		kvx_put_u8(&writer, 1);
	}
	kvx_shm_packet_end(&packet, &writer);
	change(&packet);
	send_packet(end, &packet);
}

static void say_memory(struct end *end)
{
	struct shm_packet packet;
	uint8_t choice = fuzz_u8(program);
	struct kvx_writer writer =
		kvx_shm_packet_begin(&packet, choice & 128 ? SHM_FORGET : SHM_MEMORY);

	kvx_put_u32(&writer, choice & 3);
	if (!(choice & 128)) {
		kvx_put_u64(&writer, choice & 64 ? fuzz_u64(program) : SOURCE_BYTES);
		kvx_put_u64(&writer, choice & 32 ? fuzz_u64(program) : (uintptr_t)source);
	}
	kvx_shm_packet_end(&packet, &writer);
	change(&packet);
	packet.fd = make_descriptor(fuzz_u8(program));
	send_packet(end, &packet);
}

static void say_raw(struct end *end)
{
	struct shm_packet packet;
	size_t got;
	uint8_t kind = fuzz_u8(program);
	const uint8_t *bytes = fuzz_bytes(program, fuzz_u8(program), &got);

	memcpy(packet.bytes, bytes, got);
	packet.length = (uint32_t)got;
	packet.fd = make_descriptor(kind);
	send_packet(end, &packet);
}

/* --- the rings --- */

/* The one that the hostile side writes. */
static struct kvx_ring_shared *ring_of(const struct end *end)
{
	return (void *)(end->connector ? end->ring
				       : end->ring + kvx_ring_bytes(KVX_LANE_FORWARD_ENTRIES));
}

static void write_entry(const struct end *end, uint32_t index, uint64_t first, uint64_t second)
{
	uint32_t entries = end->connector ? KVX_LANE_FORWARD_ENTRIES : KVX_LANE_BACK_ENTRIES;
	struct kvx_ring_entry *entry = &ring_of(end)->entries[index % entries];

	atomic_store(&entry->words[0], first);
	atomic_store(&entry->words[1], second);
}

static void write_batch(const struct end *end)
{
	uint32_t tail = atomic_load(&ring_of(end)->tail), sum = 0;
	uint32_t count = fuzz_u8(program) % 8 + 1, how = fuzz_u8(program);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t length = fuzz_u16(program) % (2 * SOURCE_BYTES);
		uint64_t memory = how & 1 ? fuzz_u8(program) & 3 : 0;
		write_entry(end, tail + 2 + i, how & 2 ? fuzz_u64(program) : 0,
			    memory | (uint64_t)length << 32);
		sum += length;
	}
	if (how & 4)
		sum = fuzz_u32(program);
	write_entry(end, tail,
		    KVX_LANE_BATCH | (uint64_t)(how & 8 ? fuzz_u16(program) : count) << 16 |
			    (uint64_t)sum << 32,
		    0);
	write_entry(end, tail + 1, fuzz_u16(program), KVX_LANE_FRESH);
	atomic_store(&ring_of(end)->tail, tail + count + 2);
}

static void write_message(const struct end *end)
{
	uint32_t tail = atomic_load(&ring_of(end)->tail), length = fuzz_u16(program) % 2048;

	write_entry(end, tail, KVX_LANE_MESSAGE | (uint64_t)length << 32, 0);
	atomic_store(&ring_of(end)->tail, tail + 1 + (length + 15) / 16);
}

static void write_ring(const struct end *end)
{
	if (!end->ring)
		return;
	switch (fuzz_u8(program) % 4) {
	case 0:
		write_batch(end);
		break;
	case 1:
		write_message(end);
		break;
	case 2:
		write_entry(end, fuzz_u16(program), fuzz_u64(program), fuzz_u64(program));
		break;
	default: /* any word of both rings' heads */
		((_Atomic uint32_t *)(void *)end->ring)[fuzz_u8(program) % 32] = fuzz_u32(program);
	}
}

/* --- the program --- */

static void post(uint8_t number)
{
	static char local[64];
	static const struct kvx_memory memory = {.address = local, .bytes = 64, .fd = -1};
	struct kvx_slice slice = {.local = local, .memory = &memory, .length = 1 + number % 64};
	static struct kvx_flow flow;
	struct kvx_batch batch = {
		.bytes = slice.length, .count = 1, .slices = &slice, .flow = &flow, .last = true};

	for (uint32_t i = 0; i < FUZZ_SINK_LINKS_MAX; i++) {
		struct kvx_link *link = fuzz_sink_links[i];
		if (!link || !((struct shm_link *)link)->connector)
			continue;
		(void)kvx_shm_transport.post(link, 0, &batch);
		if (number & 128)
			kvx_shm_transport.withdraw(link, &flow);
	}
	if (number & 64)
		kvx_shm_transport.forget(transport, &memory);
}

static void step(void)
{
	uint8_t operation = fuzz_u8(program);
	struct end *end = &ends[operation / 16 % ENDS];

	switch (operation % 16 % 13) {
	case 0:
		connect_to_engine(end);
		break;
	case 1:
		say_hello(end);
		break;
	case 2:
		say_memory(end);
		break;
	case 3:
		say_raw(end);
		break;
	case 4:
	case 5:
		write_ring(end);
		break;
	case 6:
		time_ns += fuzz_u8(program) * 100 * KVX_NS_PER_MS;
		break;
	case 7:
		connect_engine();
		break;
	case 8:
		hear(end);
		break;
	case 9:
		say_welcome(end);
		break;
	case 10:
		close_end(end);
		break;
	case 11:
		post(fuzz_u8(program));
		break;
	default:
		(void)kvx_shm_transport.arm(transport);
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
	for (uint32_t i = 0; i < ENDS; i++)
		ends[i] = (struct end){.fd = -1};
	fuzz_sink_reset();
	time_ns = connects = 0;
	fuzz_require(kvx_poller_init(&poller) == 0, "%s", kvx_error_text());
	context = fuzz_sink_context();
	context.poller = &poller;
	context.options = options();
	fuzz_require(kvx_shm_transport.open(&context, &transport) == 0, "%s", kvx_error_text());
	for (uint32_t i = 0; i < STEPS_MAX && fuzz_left(&input); i++)
		step();
	fuzz_sink_disconnect(true);
	for (uint32_t i = 0; i < ENDS; i++)
		close_end(&ends[i]);
	kvx_shm_transport.close(transport);
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

#define MET 0, 1, 0
#define DIALLED 7, 8, 9, 0, 0

void fuzz_give_seeds(fuzz_take *take)
{
	GIVE("message", MET, 4, 1, 20, 0);
	GIVE("mapped", MET, 2, 0, 0, 34, 4, 0, 1, 0, 64, 0, 64, 0, 5, 0);
	GIVE("read", MET, 2, 0, 0, 0, 4, 0, 0, 0, 64, 0, 5, 0, 2, 128, 0, 0);
	GIVE("beyond", MET, 2, 0, 0, 0, 4, 0, 0, 2, 64, 0, 255, 255, 0, 0, 0, 0, 0, 0, 5, 0);
	GIVE("unannounced", MET, 4, 0, 0, 1, 64, 0, 3, 5, 0);
	GIVE("index", MET, 4, 3, 0, 255, 255, 255, 255);
	GIVE("dialled", DIALLED, 11, 4, 4, 1, 9, 0, 11, 200);
	GIVE("refused", 7, 8, 9, 1, 0);
	GIVE("late", 7, 6, 30, 0, 6, 30);
	GIVE("two", MET, 16, 17, 0, 18, 0, 0, 34, 20, 0, 0, 0, 9, 0, 1, 0, 10);
	GIVE("raw", 0, 3, 34, 3, 1, 2, 3);
}
