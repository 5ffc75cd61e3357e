/* SPDX-License-Identifier: Apache-2.0 */
/* What travels, and the channels that keep its order. */
#include "net.h"

#include <stdlib.h>
#include <string.h>

void channel_open(struct channel *channel)
{
	*channel = (struct channel){.last_due_ns = 0};
	kvx_list_init(&channel->packets);
}

struct packet *channel_first(const struct channel *channel)
{
	if (kvx_list_empty(&channel->packets))
		return NULL;
	return kvx_container_of(channel->packets.next, struct packet, entry);
}

void channel_clear(struct channel *channel)
{
	struct packet *packet;

	while ((packet = channel_first(channel)))
		packet_free(channel, packet);
}

struct packet *packet_new(struct channel *channel, uint32_t slices, const void *bytes,
			  uint32_t length)
{
	struct packet *packet = calloc(1, sizeof(*packet) + slices * sizeof(struct kvx_slice));

	if (!packet)
		sim_broken("the simulator is out of memory");
	packet->due_ns = sim_now_ns + net_delay_ns();
	if (packet->due_ns < channel->last_due_ns)
		packet->due_ns = channel->last_due_ns;
	channel->last_due_ns = packet->due_ns;
	packet->length = length;
	if (length) {
		packet->copy = malloc(length);
		if (!packet->copy)
			sim_broken("the simulator is out of memory");
		memcpy(packet->copy, bytes, length);
	}
	kvx_list_append(&channel->packets, &packet->entry);
	channel->count++;
	channel->bytes += length;
	return packet;
}

void packet_free(struct channel *channel, struct packet *packet)
{
	channel->count--;
	channel->bytes -= packet->length;
	kvx_list_remove(&packet->entry);
	free(packet->copy);
	free(packet);
}

void packet_read(const struct packet *packet, uint32_t offset, void *to, uint32_t bytes)
{
	char *next = to;

	if (packet->copy) {
		memcpy(to, packet->copy + offset, bytes);
		return;
	}
	for (const struct kvx_slice *slice = packet->slices; bytes; slice++) {
		if (offset >= slice->length) {
			offset -= slice->length;
			continue;
		}
		uint32_t some = slice->length - offset < bytes ? slice->length - offset : bytes;
		memcpy(next, slice->local + offset, some);
		next += some;
		bytes -= some;
		offset = 0;
	}
}

void packet_give_up(struct packet *packet)
{
	packet->flow = NULL;
	if (packet->copy)
		return;
	uint8_t *copy = malloc(packet->bytes);
	if (!copy)
		sim_broken("the simulator is out of memory");
	packet_read(packet, 0, copy, packet->bytes);
	packet->copy = copy;
}
