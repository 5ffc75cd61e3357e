/* SPDX-License-Identifier: Apache-2.0 */
/* How two processes find each other on a unix socket, check that they belong to one user, and
 * share the rings. */
#include "base/clock.h"
#include "base/error.h"
#include "base/wire.h"
#include "shm.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define VERSION 1u
#define BACKLOG 64
/* Few of those half-made at most, so that a burst of peers is greeted before the oldest must go. */
#define CALLBACK_ACCEPTS 32
#define KNOCK_AGAIN_NS (2 * KVX_NS_PER_MS)
#define ACCEPT_AGAIN_NS (100 * KVX_NS_PER_MS)

static const struct shm_medium *medium_of(const struct shm_link *link)
{
	return link->lane.link.transport->medium;
}

/* An abstract name: it needs no folder and vanishes with its last descriptor. */
static socklen_t abstract_address(struct sockaddr_un *address, const char *name)
{
	size_t length = strlen(name);

	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path + 1, name, length);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

uint64_t kvx_shm_random(void)
{
	uint64_t number = 0;

	if (getrandom(&number, sizeof(number), GRND_NONBLOCK) != sizeof(number))
		number = (uint64_t)kvx_now_ns();
	return number;
}

static int fail_descriptor(const char *name, const char *what)
{
	bool limit = errno == EMFILE || errno == ENFILE;

	return kvx_fail(KVX_E_SYSTEM, "%s: %s: %s%s", name, what, strerror(errno),
			limit ? "; raise RLIMIT_NOFILE" : "");
}

static int read_user(const char **list, uint32_t *user)
{
	char *end;
	unsigned long number = strtoul(*list, &end, 10);

	if (!isdigit((unsigned char)**list) || (*end && *end != ',') || number >= UINT32_MAX)
		return kvx_fail(KVX_E_INVALID,
				"option shm_users: \"%.60s\" does not begin with a user's id; give "
				"numbers and commas between them",
				*list);
	*user = (uint32_t)number;
	*list = end + (*end == ',');
	return 0;
}

/* This engine's own user, or one of option shm_users. */
static bool is_allowed(const struct shm_link *link, uint32_t user)
{
	const char *list = link->lane.context->options->shm_users;
	uint32_t other;

	if (user == geteuid())
		return true;
	while (*list && !read_user(&list, &other))
		if (other == user)
			return true;
	return false;
}

/* Notes the peer's process. Fails with KVX_E_REFUSED if its user is not allowed. */
static int check_peer(struct shm_link *link, int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return kvx_fail(KVX_E_SYSTEM, "%s: SO_PEERCRED: %s", shm_name(link),
				strerror(errno));
	link->peer_pid = peer.pid;
	if (!is_allowed(link, peer.uid))
		return kvx_fail(KVX_E_REFUSED,
				"%s: process %d belongs to user %u and process %d to user %u; run "
				"both as one user, allow the other at both ends (option "
				"shm_users), or use another transport",
				shm_name(link), peer.pid, peer.uid, getpid(), geteuid());
	return 0;
}

/* ---------------------------------------------------------------------------------- connector */

/* Makes the rings and maps them; *fd receives their file. */
static int make_rings(struct shm_link *link, int *fd)
{
	size_t bytes = kvx_lane_shared_bytes();

	*fd = memfd_create("kvxfer-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0)
		return fail_descriptor(shm_name(link), "memfd_create");
	if (ftruncate(*fd, (off_t)bytes) < 0 ||
	    fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		goto fail_file;
	link->shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (link->shared == MAP_FAILED) {
		link->shared = NULL;
		goto fail_file;
	}
	kvx_lane_attach(&link->lane, link->shared);
	return 0;

fail_file:
	kvx_fail(KVX_E_MEMORY, "%s: cannot make the rings: %s", shm_name(link), strerror(errno));
	close(*fd);
	return KVX_E_MEMORY;
}

static int say_hello(struct shm_link *link, int fd)
{
	struct shm_packet packet;
	struct kvx_writer writer = kvx_shm_packet_begin(&packet, SHM_HELLO);
	int error = make_rings(link, &packet.fd);

	if (error)
		return error;
	kvx_put_u64(&writer, medium_of(link)->magic);
	kvx_put_u32(&writer, VERSION);
	kvx_put_u32(&writer, (uint32_t)kvx_lane_shared_bytes());
	error = medium_of(link)->greet(link, &writer);
	if (!error) {
		kvx_shm_packet_end(&packet, &writer);
		error = kvx_shm_packet_send(fd, &packet);
		if (error)
			error = kvx_fail(KVX_E_UNREACHABLE, "%s: %s: hello: %s", shm_name(link),
					 link->name, strerror(error));
	}
	close(packet.fd);
	return error;
}

static int greet(struct shm_link *link, int fd)
{
	int error = check_peer(link, fd);

	if (error)
		return error == KVX_E_REFUSED ? KVX_E_UNREACHABLE : error;
	return say_hello(link, fd);
}

int kvx_shm_knock(struct shm_link *link)
{
	struct sockaddr_un address;
	socklen_t length = abstract_address(&address, link->name);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error;

	if (fd < 0)
		return fail_descriptor(shm_name(link), "socket");
	if (connect(fd, (const struct sockaddr *)&address, length) < 0) {
		if (errno == EAGAIN) {
			close(fd);
			link->retry_ns = kvx_now_ns() + KNOCK_AGAIN_NS;
			return 0;
		}
		error = kvx_fail(KVX_E_UNREACHABLE,
				 "%s: %s: %s; the engine is gone, or in another network namespace",
				 shm_name(link), link->name, strerror(errno));
		goto fail_socket;
	}
	error = greet(link, fd);
	if (error)
		goto fail_socket;
	link->phase = SHM_GREETING;
	return kvx_shm_link_watch(link, fd);

fail_socket:
	close(fd);
	return error;
}

/* What came back for the hello. */
static void welcomed(struct shm_link *link, const struct shm_packet *packet)
{
	const struct kvx_transport_context *context = link->lane.context;
	char text[SHM_PACKET_MAX];

	snprintf(text, sizeof(text), "%s: the peer closed the connection before it answered",
		 shm_name(link));
	if (packet && packet->bytes[0] == SHM_WELCOME) {
		struct kvx_reader reader = kvx_reader_over(packet->bytes + 1, packet->length - 1);
		uint64_t magic = kvx_get_u64(&reader);
		uint32_t version = kvx_get_u32(&reader);
		link->peer_readable = kvx_get_u8(&reader);
		if (!reader.failed && magic == medium_of(link)->magic && version == VERSION) {
			link->phase = SHM_MET;
			link->lane.up = true;
			context->sink->link_up(context->engine, &link->lane.link);
			return;
		}
	}
	if (packet && packet->bytes[0] == SHM_REFUSED) {
		struct kvx_reader reader = kvx_reader_over(packet->bytes + 1, packet->length - 1);
		kvx_get_text(&reader, text, sizeof(text));
	}
	if (packet && (packet->bytes[0] != SHM_REFUSED || !text[0]))
		snprintf(text, sizeof(text), "%s: %s answered what is not a greeting",
			 shm_name(link), link->name);
	kvx_lane_fail(&link->lane, KVX_E_UNREACHABLE, "%s", text);
}

/* ----------------------------------------------------------------------------------- acceptor */

static void drop_half_made(struct shm_link *link)
{
	link->lane.link.transport->half_made_count--;
	kvx_shm_link_free(link);
}

/* Tells the peer why, and the log. */
static void refuse(struct shm_link *link, const char *text)
{
	struct shm_packet packet;
	struct kvx_writer writer = kvx_shm_packet_begin(&packet, SHM_REFUSED);
	char shown[SHM_PACKET_MAX - 8];

	snprintf(shown, sizeof(shown), "%s", text);
	kvx_put_text(&writer, shown);
	kvx_shm_packet_end(&packet, &writer);
	(void)kvx_shm_packet_send(link->pollable.fd, &packet);
	kvx_log_write(link->lane.context->log, KVX_LOG_WARNING, "%s: connection refused", text);
	drop_half_made(link);
}

/* Maps the rings that came with the hello, if they cannot shrink below the mapping. */
static int map_rings(struct shm_link *link, int fd)
{
	size_t bytes = kvx_lane_shared_bytes();
	struct stat status;
	int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &status) < 0 ||
	    status.st_size < (off_t)bytes)
		return kvx_fail(KVX_E_PROTOCOL, "%s: process %d sent no sealed file for the rings",
				shm_name(link), link->peer_pid);
	link->shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (link->shared == MAP_FAILED) {
		link->shared = NULL;
		return kvx_fail(KVX_E_MEMORY, "%s: cannot map the rings of process %d: %s",
				shm_name(link), link->peer_pid, strerror(errno));
	}
	kvx_lane_attach(&link->lane, link->shared);
	return 0;
}

static int read_hello(struct shm_link *link, const struct shm_packet *packet)
{
	struct kvx_reader reader = kvx_reader_over(packet->bytes + 1, packet->length - 1);
	uint64_t magic = kvx_get_u64(&reader);
	uint32_t version = kvx_get_u32(&reader);
	uint32_t bytes = kvx_get_u32(&reader);

	if (packet->bytes[0] != SHM_HELLO || reader.failed || magic != medium_of(link)->magic)
		return kvx_fail(KVX_E_PROTOCOL, "%s: process %d does not speak kvxfer",
				shm_name(link), link->peer_pid);
	if (version != VERSION || bytes != kvx_lane_shared_bytes())
		return kvx_fail(KVX_E_VERSION,
				"%s: process %d speaks version %u with rings of %u bytes, process "
				"%d version %u with %zu; run the same kvxfer at both ends",
				shm_name(link), link->peer_pid, version, bytes, getpid(), VERSION,
				kvx_lane_shared_bytes());
	int error = medium_of(link)->greeted(link, &reader);
	return error ? error : map_rings(link, packet->fd);
}

static void welcome(struct shm_link *link)
{
	const struct kvx_transport_context *context = link->lane.context;
	struct kvx_transport *transport = link->lane.link.transport;
	struct shm_packet packet;
	struct kvx_writer writer = kvx_shm_packet_begin(&packet, SHM_WELCOME);

	kvx_put_u64(&writer, medium_of(link)->magic);
	kvx_put_u32(&writer, VERSION);
	kvx_put_u8(&writer, link->peer_readable);
	kvx_shm_packet_end(&packet, &writer);
	if (kvx_shm_packet_send(link->pollable.fd, &packet)) {
		drop_half_made(link); /* gone already */
		return;
	}
	transport->half_made_count--;
	kvx_list_remove(&link->lane.entry);
	kvx_list_append(&transport->lanes, &link->lane.entry);
	link->phase = SHM_MET;
	link->lane.up = true;
	context->sink->link_accepted(context->engine, &link->lane.link);
}

void kvx_shm_greeted(struct shm_link *link, const struct shm_packet *packet)
{
	if (link->connector)
		welcomed(link, packet);
	else if (!packet)
		drop_half_made(link);
	else if (read_hello(link, packet))
		refuse(link, kvx_error_text());
	else
		welcome(link);
}

/* The oldest half-made connection makes room for a new one. */
static struct shm_link *oldest_half_made(struct kvx_transport *transport)
{
	return (struct shm_link *)kvx_container_of(transport->half_made.next, struct kvx_lane,
						   entry);
}

static void accept_peer(struct kvx_transport *transport, int fd)
{
	if (transport->half_made_count >= SHM_HALF_MADE_MAX)
		drop_half_made(oldest_half_made(transport));

	struct shm_link *link = kvx_shm_link_new(transport, false);
	if (!link) {
		close(fd);
		return;
	}
	link->phase = SHM_GREETING;
	kvx_list_append(&transport->half_made, &link->lane.entry);
	transport->half_made_count++;
	if (kvx_shm_link_watch(link, fd))
		drop_half_made(link);
	else if (check_peer(link, fd))
		refuse(link, kvx_error_text());
}

static void listener_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct kvx_transport *transport =
		kvx_container_of(pollable, struct kvx_transport, listener);

	(void)events;
	for (int i = 0; i < CALLBACK_ACCEPTS; i++) {
		int fd = accept4(pollable->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			accept_peer(transport, fd);
			continue;
		}
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return;
		/* Out of descriptors: what waits stays readable, so do not look for a while. */
		kvx_log_write(transport->context.log, KVX_LOG_WARNING, "%s: accept: %s",
			      transport->medium->ops->name, strerror(errno));
		kvx_poller_change(transport->context.poller, pollable, 0);
		transport->accept_again_ns = kvx_now_ns() + ACCEPT_AGAIN_NS;
		return;
	}
}

/* Whether all of option shm_users can be read. */
static int check_users(const char *list)
{
	uint32_t user;

	while (*list) {
		int error = read_user(&list, &user);
		if (error)
			return error;
	}
	return 0;
}

int kvx_shm_listen(struct kvx_transport *transport)
{
	struct sockaddr_un address;
	char name[SHM_NAME_MAX + 1];
	const char *transport_name = transport->medium->ops->name;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return fail_descriptor(transport_name, "socket");
	if (check_users(transport->context.options->shm_users)) {
		close(fd);
		return KVX_E_INVALID;
	}
	snprintf(name, sizeof(name), "kvxfer-%016llx-%u", (unsigned long long)kvx_shm_random(),
		 geteuid());
	if (bind(fd, (const struct sockaddr *)&address, abstract_address(&address, name)) < 0 ||
	    listen(fd, BACKLOG) < 0) {
		kvx_fail(KVX_E_SYSTEM, "%s: %s: cannot listen: %s", transport_name, name,
			 strerror(errno));
		goto fail_socket;
	}
	snprintf(transport->address, sizeof(transport->address), "%s@%s", name, transport->boot_id);
	transport->listener = (struct kvx_pollable){listener_ready, fd};
	if (kvx_poller_add(transport->context.poller, &transport->listener, EPOLLIN) < 0)
		goto fail_socket;
	return 0;

fail_socket:
	close(fd);
	return KVX_E_SYSTEM;
}

void kvx_shm_unlisten(struct kvx_transport *transport)
{
	while (transport->half_made_count)
		drop_half_made(oldest_half_made(transport));
	kvx_poller_remove(transport->context.poller, &transport->listener);
	close(transport->listener.fd);
}

/* ----------------------------------------------------------------------------------- progress */

static void knock_again(struct shm_link *link, int64_t now_ns)
{
	if (link->phase == SHM_KNOCKING && now_ns >= link->retry_ns) {
		int error = kvx_shm_knock(link);
		if (error)
			kvx_lane_fail(&link->lane, error, "%s", kvx_error_text());
	}
	if (link->phase != SHM_MET && now_ns > link->deadline_ns)
		kvx_lane_fail(&link->lane, KVX_E_UNREACHABLE,
			      "%s: %s: no answer within %llu ms; is the engine stopped?",
			      shm_name(link), link->name,
			      (unsigned long long)kvx_option(link->lane.context->options,
							     connect_timeout_ms));
}

void kvx_shm_meet_progress(struct kvx_transport *transport, int64_t now_ns)
{
	struct kvx_list *entry, *following;

	while (transport->half_made_count && now_ns > oldest_half_made(transport)->deadline_ns)
		drop_half_made(oldest_half_made(transport));
	if (transport->accept_again_ns && now_ns > transport->accept_again_ns) {
		transport->accept_again_ns = 0;
		kvx_poller_change(transport->context.poller, &transport->listener, EPOLLIN);
	}
	kvx_list_for_each (entry, following, &transport->lanes) {
		struct shm_link *link =
			(struct shm_link *)kvx_container_of(entry, struct kvx_lane, entry);
		if (!link->lane.up && !link->lane.failure)
			knock_again(link, now_ns);
	}
}
