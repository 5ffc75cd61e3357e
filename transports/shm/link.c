/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/error.h"
#include "base/wire.h"
#include "shm.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void kvx_shm_bell(struct kvx_lane *lane)
{
	struct shm_packet packet;
	struct kvx_writer writer = kvx_shm_packet_begin(&packet, SHM_BELL);

	/* If it does not fit, the peer has packets to read and wakes up anyway. */
	kvx_shm_packet_end(&packet, &writer);
	(void)kvx_shm_packet_send(((struct shm_link *)lane)->pollable.fd, &packet);
}

static void unwatch(struct shm_link *link)
{
	if (link->pollable.fd < 0)
		return;
	kvx_poller_remove(link->lane.context->poller, &link->pollable);
	close(link->pollable.fd);
	link->pollable.fd = -1;
}

void kvx_shm_silence(struct kvx_lane *lane)
{
	unwatch((struct shm_link *)lane);
}

static void handle_packet(struct shm_link *link, const struct shm_packet *packet)
{
	switch (packet->bytes[0]) {
	case SHM_BELL:
		return;
	case SHM_MEMORY:
		if (!link->connector) {
			kvx_shm_memory_announced(link, packet);
			return;
		}
		break;
	case SHM_FORGET:
		if (!link->connector) {
			kvx_shm_memory_forgotten(link, packet);
			return;
		}
		break;
	case SHM_FORGOTTEN:
		if (link->connector) {
			kvx_shm_memory_closed(link, packet);
			return;
		}
		break;
	}
	kvx_lane_fail(&link->lane, KVX_E_PROTOCOL, "%s: process %d sent a packet of unknown kind",
		      shm_name(link), link->peer_pid);
}

uint32_t kvx_shm_link_read(struct shm_link *link)
{
	struct shm_packet packet;
	uint32_t count = 0;

	for (; count < SHM_PACKETS_AT_ONCE && !link->lane.failure; count++) {
		int received = kvx_shm_packet_receive(link->pollable.fd, &packet);
		if (received < 0)
			kvx_lane_end(&link->lane, KVX_E_PEER_LOST,
				     "%s: process %d ended or closed the link", shm_name(link),
				     link->peer_pid);
		if (received <= 0)
			break;
		handle_packet(link, &packet);
		if (packet.fd >= 0)
			close(packet.fd);
	}
	return count;
}

static void socket_ready(struct kvx_pollable *pollable, uint32_t events)
{
	struct shm_link *link = kvx_container_of(pollable, struct shm_link, pollable);
	struct shm_packet packet;

	if (link->watching_room && (events & EPOLLOUT)) {
		link->watching_room = false;
		kvx_poller_change(link->lane.context->poller, pollable, EPOLLIN);
		if (link->connector)
			kvx_shm_forget_pending(link);
		else
			kvx_shm_close_forgotten(link);
	}
	if (link->phase == SHM_MET) {
		kvx_shm_link_read(link);
		return;
	}
	int received = kvx_shm_packet_receive(pollable->fd, &packet);
	if (received == 0)
		return;
	kvx_shm_greeted(link, received < 0 ? NULL : &packet);
	if (received > 0 && packet.fd >= 0)
		close(packet.fd);
}

int kvx_shm_link_watch(struct shm_link *link, int fd)
{
	link->pollable.fd = fd;

	int error = kvx_poller_add(link->lane.context->poller, &link->pollable, EPOLLIN);
	if (error) {
		close(fd);
		link->pollable.fd = -1;
	}
	return error;
}

struct shm_link *kvx_shm_link_new(struct kvx_transport *transport, bool connector)
{
	struct shm_link *link = calloc(1, sizeof(*link));

	if (!link) {
		kvx_fail(KVX_E_MEMORY, "%s: link: out of memory", transport->medium->ops->name);
		return NULL;
	}
	link->lane.link.ops = transport->medium->ops;
	link->lane.link.transport = transport;
	link->lane.ops = &transport->medium->lane;
	link->lane.context = &transport->context;
	link->pollable = (struct kvx_pollable){socket_ready, -1};
	link->connector = connector;
	link->deadline_ns =
		kvx_now_ns() +
		(int64_t)kvx_option(transport->context.options, connect_timeout_ms) * KVX_NS_PER_MS;
	if (kvx_lane_init(&link->lane, connector)) {
		free(link);
		return NULL;
	}
	return link;
}

void kvx_shm_link_free(struct shm_link *link)
{
	unwatch(link);
	kvx_shm_untrace(link);
	kvx_shm_memories_finish(link);
	if (link->shared)
		munmap(link->shared, kvx_lane_shared_bytes());
	kvx_lane_finish(&link->lane);
	free(link);
}
