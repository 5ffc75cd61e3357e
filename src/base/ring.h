/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of fixed entries between one producer and one consumer that need not trust each other, in
 * memory that both map. Each side keeps its own index to itself and checks what the other publishes
 * on every look; entries are read word by word, once each, so that what was checked is what is
 * used.
 *
 * A side that is about to sleep says so in the ring; the other then rings its doorbell, which is
 * not this module's business. Publishing and saying so are sequentially consistent on both sides:
 * either the sleeper's last look sees the entries (or the room), or the other sees that it sleeps.
 */
#ifndef KVX_BASE_RING_H
#define KVX_BASE_RING_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVX_RING_ENTRY_BYTES 16u

struct kvx_ring_entry {
	_Atomic uint64_t words[2];
};

/* What both sides map: zeroed, aligned to a cache line. The entries follow. */
struct kvx_ring_shared {
	_Alignas(64) _Atomic uint32_t tail; /* producer: entries published ever */
	_Atomic uint32_t starving;          /* producer sets, consumer clears: entries wanted */
	_Alignas(64) _Atomic uint32_t head; /* consumer: entries released ever */
	_Atomic uint32_t sleeping;          /* consumer sets, producer clears */
	_Alignas(64) struct kvx_ring_entry entries[];
};

static_assert(sizeof(struct kvx_ring_entry) == KVX_RING_ENTRY_BYTES, "layout is shared");
static_assert(offsetof(struct kvx_ring_shared, head) == 64, "layout is shared");
static_assert(offsetof(struct kvx_ring_shared, entries) == 128, "layout is shared");

/* One side's view; the producer and the consumer each have their own. Owner: that side's worker. */
struct kvx_ring {
	struct kvx_ring_shared *shared;
	uint32_t capacity;   /* entries; a power of two */
	uint32_t head, tail; /* own index, and the other's as last seen */
	bool broken;         /* the other side published an impossible index */
	bool frozen;         /* consumer: what is published from now on does not count */
};

static inline size_t kvx_ring_bytes(uint32_t capacity)
{
	return sizeof(struct kvx_ring_shared) + (size_t)capacity * KVX_RING_ENTRY_BYTES;
}

void kvx_ring_init(struct kvx_ring *ring, void *shared, uint32_t capacity);

/* The entry of an index, for either side. */
static inline struct kvx_ring_entry *kvx_ring_at(const struct kvx_ring *ring, uint32_t index)
{
	return &ring->shared->entries[index & (ring->capacity - 1)];
}

static inline void kvx_ring_write(const struct kvx_ring *ring, uint32_t index, uint64_t first,
				  uint64_t second)
{
	struct kvx_ring_entry *entry = kvx_ring_at(ring, index);

	atomic_store_explicit(&entry->words[0], first, memory_order_relaxed);
	atomic_store_explicit(&entry->words[1], second, memory_order_relaxed);
}

static inline uint64_t kvx_ring_word(const struct kvx_ring *ring, uint32_t index, uint32_t word)
{
	return atomic_load_explicit(&kvx_ring_at(ring, index)->words[word], memory_order_relaxed);
}

/* Producer: is there room for `entries` from index ring->tail on? False if the ring is broken. */
bool kvx_ring_room(struct kvx_ring *ring, uint32_t entries);

/* Producer: looks how far the consumer has released entries, to ring->head. */
void kvx_ring_look(struct kvx_ring *ring);

/* Producer: gives the consumer the next `entries`. True: it sleeps, ring its doorbell. */
bool kvx_ring_publish(struct kvx_ring *ring, uint32_t entries);

/* Producer: will sleep until there is room. False: there is already. A ring that is at least half
 * empty is room enough for anybody. */
bool kvx_ring_starve(struct kvx_ring *ring, uint32_t entries);

/* Consumer: entries ready from index ring->head on; 0 if the ring is broken. */
uint32_t kvx_ring_filled(struct kvx_ring *ring);

/* Consumer: of them, those behind the first `taken`, which it has read but not released. */
uint32_t kvx_ring_filled_behind(struct kvx_ring *ring, uint32_t taken);

/* Consumer: the producer is gone; what it has published so far is all. */
void kvx_ring_freeze(struct kvx_ring *ring);

/* Consumer: gives the room of the next `entries` back. True: the producer waits for room and now
 * has it, ring its doorbell. */
bool kvx_ring_release(struct kvx_ring *ring, uint32_t entries);

/* Consumer: will sleep until something is published. False: something is there already. */
bool kvx_ring_sleep(struct kvx_ring *ring);

/* Either side: awake again. */
void kvx_ring_unstarve(struct kvx_ring *ring);
void kvx_ring_wake(struct kvx_ring *ring);

#endif
