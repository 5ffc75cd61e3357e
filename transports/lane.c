/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a lane and its sending side. */
#include "lane.h"

#include "base/clock.h"
#include "base/error.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POSTED 512u
#define QUEUE_MIN_BYTES 4096u
#define SPINS_BEFORE_YIELD 2000u
#define PROGRESS_BYTES (2 << 20) /* work of one progress call, about 200 us of copying */

static_assert(POSTED * 3 > KVX_LANE_FORWARD_ENTRIES, "every batch in the ring is remembered");

size_t kvx_lane_shared_bytes(void)
{
	return kvx_ring_bytes(KVX_LANE_FORWARD_ENTRIES) + kvx_ring_bytes(KVX_LANE_BACK_ENTRIES);
}

int kvx_lane_init(struct kvx_lane *lane, bool connector)
{
	kvx_list_init(&lane->entry);
	lane->link.rails = 1;
	if (connector)
		lane->posted = malloc(POSTED * sizeof(*lane->posted));
	else if (lane->ops->begin)
		lane->taken = malloc(KVX_LANE_TAKEN_MAX * sizeof(*lane->taken));
	else
		return 0;
	return lane->posted || lane->taken ? 0 : kvx_fail(KVX_E_MEMORY, "link: out of memory");
}

void kvx_lane_attach(struct kvx_lane *lane, void *shared)
{
	char *back = (char *)shared + kvx_ring_bytes(KVX_LANE_FORWARD_ENTRIES);
	bool connector = lane->posted != NULL;

	kvx_ring_init(connector ? &lane->out : &lane->in, shared, KVX_LANE_FORWARD_ENTRIES);
	kvx_ring_init(connector ? &lane->in : &lane->out, back, KVX_LANE_BACK_ENTRIES);
}

void kvx_lane_finish(struct kvx_lane *lane)
{
	kvx_list_remove(&lane->entry);
	free(lane->posted);
	free(lane->taken);
	free(lane->queue.bytes);
}

void kvx_lane_fail(struct kvx_lane *lane, int code, const char *format, ...)
{
	va_list arguments;

	lane->draining = false;
	if (lane->failure)
		return;
	lane->failure = code;
	va_start(arguments, format);
	vsnprintf(lane->text, sizeof(lane->text), format, arguments);
	va_end(arguments);
}

void kvx_lane_end(struct kvx_lane *lane, int code, const char *format, ...)
{
	va_list arguments;

	if (lane->failure)
		return;
	lane->failure = code;
	lane->draining = lane->up;
	if (lane->up)
		kvx_ring_freeze(&lane->in);
	va_start(arguments, format);
	vsnprintf(lane->text, sizeof(lane->text), format, arguments);
	va_end(arguments);
}

static void publish(struct kvx_lane *lane, uint32_t entries)
{
	if (kvx_ring_publish(&lane->out, entries))
		lane->ops->bell(lane);
}

/* ----------------------------------------------------------------------------------- messages */

static uint32_t message_entries(uint32_t length)
{
	return 1 + (length + KVX_RING_ENTRY_BYTES - 1) / KVX_RING_ENTRY_BYTES;
}

/* False: no room. */
static bool put_message(struct kvx_lane *lane, const uint8_t *bytes, uint32_t length)
{
	struct kvx_ring *ring = &lane->out;
	uint32_t entries = message_entries(length);

	if (!kvx_ring_room(ring, entries))
		return false;
	kvx_ring_write(ring, ring->tail, KVX_LANE_MESSAGE | (uint64_t)length << 32, 0);
	for (uint32_t i = 1; i < entries; i++) {
		uint64_t words[2] = {0};
		uint32_t at = (i - 1) * KVX_RING_ENTRY_BYTES;
		memcpy(words, bytes + at,
		       length - at < sizeof(words) ? length - at : sizeof(words));
		kvx_ring_write(ring, ring->tail + i, words[0], words[1]);
	}
	publish(lane, entries);
	return true;
}

/* False: too much waits already, or no memory. */
static bool queue_message(struct kvx_lane_queue *queue, const void *bytes, uint16_t length)
{
	uint32_t need = queue->end - queue->begin + (uint32_t)sizeof(length) + length;

	if (need > KVX_MESSAGE_QUEUE_MAX)
		return false;
	if (queue->begin) {
		memmove(queue->bytes, queue->bytes + queue->begin, queue->end - queue->begin);
		queue->end -= queue->begin;
		queue->begin = 0;
	}
	if (need > queue->size) {
		uint32_t size = queue->size ? 2 * queue->size : QUEUE_MIN_BYTES;
		void *grown = realloc(queue->bytes, size);
		if (!grown)
			return false;
		queue->bytes = grown;
		queue->size = size;
	}
	memcpy(queue->bytes + queue->end, &length, sizeof(length));
	memcpy(queue->bytes + queue->end + sizeof(length), bytes, length);
	queue->end = need;
	return true;
}

int kvx_lane_flush(struct kvx_lane *lane)
{
	struct kvx_lane_queue *queue = &lane->queue;
	int count = 0;

	for (; queue->begin < queue->end; count++) {
		uint16_t length;
		memcpy(&length, queue->bytes + queue->begin, sizeof(length));
		if (!put_message(lane, queue->bytes + queue->begin + sizeof(length), length))
			return count;
		queue->begin += (uint32_t)sizeof(length) + length;
	}
	if (queue->bytes) {
		free(queue->bytes);
		*queue = (struct kvx_lane_queue){0};
	}
	return count;
}

void kvx_lane_message(struct kvx_link *link, const void *bytes, uint32_t length)
{
	struct kvx_lane *lane = (struct kvx_lane *)link;

	if (!lane->up || lane->failure)
		return;
	if (!lane->queue.bytes && put_message(lane, bytes, length))
		return;
	if (!queue_message(&lane->queue, bytes, (uint16_t)length))
		kvx_lane_fail(lane, KVX_E_TRANSPORT,
			      "%s: the peer takes no messages: %u KiB wait; is it stopped?",
			      link->ops->name, KVX_MESSAGE_QUEUE_MAX >> 10);
}

/* ------------------------------------------------------------------------------------ batches */

/* Forgets batches that the consumer has released. */
static void forget_posted(struct kvx_lane *lane)
{
	for (; lane->posted_head != lane->posted_tail; lane->posted_head++) {
		const struct kvx_lane_posted *posted = &lane->posted[lane->posted_head % POSTED];
		if ((int32_t)(posted->at - lane->out.head) >= 0)
			return;
		if (!posted->released)
			continue;
		++*posted->released;
		lane->awaited--;
	}
}

/* Remembers whose batch stands at ring index `at`. */
static void remember_posted(struct kvx_lane *lane, const struct kvx_batch *batch, uint32_t at)
{
	forget_posted(lane);
	lane->awaited += batch->released != NULL;
	lane->posted[lane->posted_tail++ % POSTED] =
		(struct kvx_lane_posted){batch->flow, at, batch->released};
}

static void put_batch(struct kvx_lane *lane, const struct kvx_batch *batch)
{
	const struct kvx_ring *ring = &lane->out;
	uint32_t at = ring->tail;

	kvx_ring_write(ring, at++,
		       KVX_LANE_BATCH | (uint64_t)batch->count << 16 | (uint64_t)batch->bytes << 32,
		       batch->place);
	kvx_ring_write(ring, at++, batch->unit.imm | (uint64_t)batch->unit.generation << 32,
		       KVX_LANE_FRESH);
	for (const struct kvx_slice *slice = batch->slices; slice < batch->slices + batch->count;
	     slice++) {
		const struct kvx_memory *memory = slice->memory;
		uint64_t where = (uintptr_t)slice->local;
		uint64_t index = 0;
		if (!lane->by_address) {
			where -= (uintptr_t)memory->address;
			index = memory->index;
		}
		kvx_ring_write(ring, at++, where, index | (uint64_t)slice->length << 32);
	}
}

bool kvx_lane_post(struct kvx_link *link, uint32_t rail, const struct kvx_batch *batch)
{
	struct kvx_lane *lane = (struct kvx_lane *)link;
	uint32_t entries = batch->count + 2;

	(void)rail;
	if (!lane->up || lane->failure || !lane->posted)
		return false;
	/* Messages that wait go first, lest batches starve them. */
	if (lane->queue.bytes || !kvx_ring_room(&lane->out, entries)) {
		lane->wanted = entries;
		return false;
	}
	remember_posted(lane, batch, lane->out.tail);
	put_batch(lane, batch);
	publish(lane, entries);
	return true;
}

/* One batch takes the consumer about 100 us; it holds nothing that this thread could hold. */
static void wait_until_done(const _Atomic uint64_t *state)
{
	for (uint32_t spins = 0; atomic_load_explicit(state, memory_order_acquire) != KVX_LANE_DONE;
	     spins++) {
		if (spins < SPINS_BEFORE_YIELD)
			kvx_cpu_relax();
		else
			sched_yield();
	}
}

void kvx_lane_withdraw(struct kvx_lane *lane, const struct kvx_flow *flow, bool wait)
{
	for (uint32_t i = lane->posted_head; i != lane->posted_tail; i++) {
		const struct kvx_lane_posted *posted = &lane->posted[i % POSTED];
		if ((flow && posted->flow != flow) || (int32_t)(posted->at - lane->out.head) < 0)
			continue;
		_Atomic uint64_t *state = &kvx_ring_at(&lane->out, posted->at + 1)->words[1];
		if (atomic_exchange_explicit(state, KVX_LANE_WITHDRAWN, memory_order_acq_rel) ==
			    KVX_LANE_BUSY &&
		    wait)
			wait_until_done(state);
	}
}

/* ----------------------------------------------------------------------------------- progress */

/* Undoes arm(), sends what waited, and notices room that post() lacked. */
static int begin(struct kvx_lane *lane)
{
	int count = lane->taken ? kvx_lane_settle(lane) : 0;

	if (lane->asleep) {
		kvx_ring_wake(&lane->in);
		kvx_ring_unstarve(&lane->out);
		lane->asleep = false;
	}
	if (lane->failure)
		return count;
	if (lane->awaited) {
		kvx_ring_look(&lane->out);
		forget_posted(lane);
	}
	if (lane->queue.bytes)
		count += kvx_lane_flush(lane);
	if (lane->wanted && kvx_ring_room(&lane->out, lane->wanted)) {
		lane->wanted = 0;
		count++;
	}
	return count;
}

/* The next call begins with the lane that follows. */
static void begin_after(struct kvx_list *lanes, struct kvx_list *following)
{
	if (following == lanes)
		return;
	kvx_list_remove(lanes);
	kvx_list_append(following, lanes);
}

/* Takes turns between the lanes until nothing is left or enough was done. */
static int take_turns(struct kvx_list *lanes)
{
	struct kvx_list *entry, *following;
	int64_t budget = PROGRESS_BYTES;
	int count = 0, before;

	do {
		before = count;
		kvx_list_for_each (entry, following, lanes) {
			struct kvx_lane *lane = kvx_container_of(entry, struct kvx_lane, entry);
			uint32_t cost = kvx_lane_take(lane);
			count += cost > 0;
			budget -= cost;
			if (budget > 0)
				continue;
			begin_after(lanes, following);
			return count;
		}
	} while (count > before);
	return count;
}

static int tell_failure(struct kvx_lane *lane)
{
	if (lane->out.broken || lane->in.broken)
		kvx_lane_fail(lane, KVX_E_PROTOCOL, "%s: the peer broke the ring",
			      lane->link.ops->name);
	if (!lane->failure || lane->down || (lane->draining && kvx_ring_filled(&lane->in)))
		return 0;
	lane->draining = false;
	lane->down = true;
	lane->ops->silence(lane);
	lane->context->sink->link_down(lane->context->engine, &lane->link, lane->failure,
				       lane->text);
	return 1;
}

int kvx_lane_progress(struct kvx_list *lanes)
{
	struct kvx_list *entry, *following;
	int count = 0;

	kvx_list_for_each (entry, following, lanes)
		count += begin(kvx_container_of(entry, struct kvx_lane, entry));
	count += take_turns(lanes);
	kvx_list_for_each (entry, following, lanes)
		count += tell_failure(kvx_container_of(entry, struct kvx_lane, entry));
	return count;
}

bool kvx_lane_arm(struct kvx_list *lanes)
{
	struct kvx_list *entry, *following;

	kvx_list_for_each (entry, following, lanes) {
		struct kvx_lane *lane = kvx_container_of(entry, struct kvx_lane, entry);
		if (lane->down)
			continue;
		if (lane->failure)
			return true;
		if (!lane->up)
			continue;
		lane->asleep = true;
		if (!kvx_ring_sleep(&lane->in))
			return true;
		uint32_t wanted =
			lane->queue.bytes ? message_entries(KVX_MESSAGE_MAX) : lane->wanted;
		if (wanted && !kvx_ring_starve(&lane->out, wanted))
			return true;
	}
	return false;
}
