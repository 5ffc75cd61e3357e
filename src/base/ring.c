/* SPDX-License-Identifier: Apache-2.0 */
#include "base/ring.h"

void kvx_ring_init(struct kvx_ring *ring, void *shared, uint32_t capacity)
{
	*ring = (struct kvx_ring){.shared = shared, .capacity = capacity};
}

/* Looks at the consumer's index; false if it is none that it can have. */
static bool look_at_head(struct kvx_ring *ring)
{
	/* Acquire: what the consumer read of the released entries happened before we overwrite. */
	uint32_t head = atomic_load_explicit(&ring->shared->head, memory_order_seq_cst);

	if (ring->tail - head > ring->tail - ring->head)
		ring->broken = true;
	else
		ring->head = head;
	return !ring->broken;
}

static uint32_t room_of(const struct kvx_ring *ring)
{
	return ring->capacity - (ring->tail - ring->head);
}

bool kvx_ring_room(struct kvx_ring *ring, uint32_t entries)
{
	if (room_of(ring) >= entries)
		return !ring->broken;
	return look_at_head(ring) && room_of(ring) >= entries;
}

void kvx_ring_look(struct kvx_ring *ring)
{
	(void)look_at_head(ring);
}

bool kvx_ring_publish(struct kvx_ring *ring, uint32_t entries)
{
	struct kvx_ring_shared *shared = ring->shared;

	ring->tail += entries;
	atomic_store_explicit(&shared->tail, ring->tail, memory_order_seq_cst);
	return atomic_load_explicit(&shared->sleeping, memory_order_seq_cst) &&
	       atomic_exchange_explicit(&shared->sleeping, 0, memory_order_seq_cst);
}

bool kvx_ring_starve(struct kvx_ring *ring, uint32_t entries)
{
	/* Woken at half: a sleep per batch would cost more than the batch. */
	atomic_store_explicit(&ring->shared->starving, ring->capacity / 2, memory_order_seq_cst);
	return !kvx_ring_room(ring, entries) && !ring->broken;
}

static void look_at_tail(struct kvx_ring *ring)
{
	uint32_t tail = atomic_load_explicit(&ring->shared->tail, memory_order_seq_cst);

	if (tail - ring->head > ring->capacity || tail - ring->head < ring->tail - ring->head)
		ring->broken = true;
	else
		ring->tail = tail;
}

uint32_t kvx_ring_filled_behind(struct kvx_ring *ring, uint32_t taken)
{
	if (ring->tail - ring->head == taken && !ring->frozen)
		look_at_tail(ring);
	return ring->broken ? 0 : ring->tail - ring->head - taken;
}

uint32_t kvx_ring_filled(struct kvx_ring *ring)
{
	return kvx_ring_filled_behind(ring, 0);
}

void kvx_ring_freeze(struct kvx_ring *ring)
{
	if (!ring->frozen)
		look_at_tail(ring);
	ring->frozen = true;
}

bool kvx_ring_release(struct kvx_ring *ring, uint32_t entries)
{
	struct kvx_ring_shared *shared = ring->shared;

	ring->head += entries;
	atomic_store_explicit(&shared->head, ring->head, memory_order_seq_cst);

	uint32_t wanted = atomic_load_explicit(&shared->starving, memory_order_seq_cst);
	if (!wanted)
		return false;

	uint32_t tail = atomic_load_explicit(&shared->tail, memory_order_relaxed);
	return ring->capacity - (tail - ring->head) >= wanted &&
	       atomic_exchange_explicit(&shared->starving, 0, memory_order_seq_cst);
}

bool kvx_ring_sleep(struct kvx_ring *ring)
{
	atomic_store_explicit(&ring->shared->sleeping, 1, memory_order_seq_cst);
	return !kvx_ring_filled(ring) && !ring->broken;
}

void kvx_ring_unstarve(struct kvx_ring *ring)
{
	atomic_store_explicit(&ring->shared->starving, 0, memory_order_relaxed);
}

void kvx_ring_wake(struct kvx_ring *ring)
{
	atomic_store_explicit(&ring->shared->sleeping, 0, memory_order_relaxed);
}
