/* SPDX-License-Identifier: Apache-2.0 */
#include "core/journal.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/engine.h"
#include "core/peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LAYER_NS (10 * KVX_NS_PER_MS) /* readers look for layers this often */
#define WORDS (sizeof(struct kvx_event_view) / sizeof(uint64_t))

_Static_assert(sizeof(struct kvx_event_view) % sizeof(uint64_t) == 0, "is copied by words");

/* A record. The worker clears `sequence`, writes the words, and sets it; a reader that finds the
 * same sequence before and after it has read the words has read them whole (a seqlock). */
struct record {
	_Atomic uint64_t sequence;
	_Atomic uint64_t words[WORDS];
};

struct kvx_journal {
	_Atomic uint64_t last;  /* sequence; the worker writes it after the record */
	struct kvx_event event; /* of all but layers */
	struct record records[KVX_EVENTS_KEPT];
};

const char *kvx_event_name(enum kvx_event_type type)
{
	switch (type) {
#define NAME(name, text, of, help) \
	case name:                 \
		return text;
		KVX_EVENT_TABLE(NAME)
#undef NAME
	}
	return NULL;
}

struct kvx_journal *kvx_journal_new(void)
{
	struct kvx_journal *journal = calloc(1, sizeof(*journal));

	if (journal)
		kvx_event_init(&journal->event);
	return journal;
}

void kvx_journal_free(struct kvx_journal *journal)
{
	if (!journal)
		return;
	kvx_event_finish(&journal->event);
	free(journal);
}

static uint64_t wall_clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)(now.tv_nsec / KVX_NS_PER_MS);
}

static void write_record(struct kvx_journal *journal, const struct kvx_event_view *view)
{
	struct record *record = &journal->records[view->sequence % KVX_EVENTS_KEPT];
	uint64_t words[WORDS];

	memcpy(words, view, sizeof(words));
	atomic_store_explicit(&record->sequence, 0, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (size_t i = 0; i < WORDS; i++)
		atomic_store_explicit(&record->words[i], words[i], memory_order_relaxed);
	atomic_store_explicit(&record->sequence, view->sequence, memory_order_release);
	atomic_store_explicit(&journal->last, view->sequence, memory_order_release);
}

static void add(struct kvx_engine *engine, struct kvx_event_view *view, const char *text)
{
	struct kvx_journal *journal = atomic_load_explicit(&engine->journal, memory_order_acquire);

	if (!journal)
		return;
	view->sequence = atomic_load_explicit(&journal->last, memory_order_relaxed) + 1;
	view->time_ms = wall_clock_ms();
	snprintf(view->text, sizeof(view->text), "%s", text ? text : "");
	write_record(journal, view);
	/* Waking somebody is a system call: not for each layer. */
	if (view->type != KVX_EVENT_LAYER_WHOLE)
		kvx_event_notify(&journal->event);
}

void kvx_journal_transfer(const struct kvx_transfer *transfer, enum kvx_event_type type,
			  uint32_t index, int code, const char *text)
{
	add(transfer->engine,
	    &(struct kvx_event_view){
		    .type = type, .id = transfer->id, .index = index, .code = code},
	    text);
}

void kvx_journal_peer(const struct kvx_peer *peer, enum kvx_event_type type, uint32_t index,
		      int code, const char *text)
{
	add(peer->engine,
	    &(struct kvx_event_view){.type = type, .id = peer->id, .index = index, .code = code},
	    text);
}

void kvx_journal_engine(struct kvx_engine *engine, enum kvx_event_type type, int code,
			const char *text)
{
	add(engine, &(struct kvx_event_view){.type = type, .code = code}, text);
}

/* False: it has been overwritten. */
static bool read_record(struct kvx_journal *journal, uint64_t sequence, struct kvx_event_view *view)
{
	struct record *record = &journal->records[sequence % KVX_EVENTS_KEPT];
	uint64_t words[WORDS];

	if (atomic_load_explicit(&record->sequence, memory_order_acquire) != sequence)
		return false;
	for (size_t i = 0; i < WORDS; i++)
		words[i] = atomic_load_explicit(&record->words[i], memory_order_relaxed);
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&record->sequence, memory_order_relaxed) != sequence)
		return false;
	memcpy(view, words, sizeof(*view));
	return true;
}

uint32_t kvx_journal_read(struct kvx_journal *journal, uint64_t after, struct kvx_event_view *views,
			  uint32_t capacity)
{
	uint64_t last = atomic_load_explicit(&journal->last, memory_order_acquire);
	uint64_t next = after + 1;
	uint32_t count = 0;

	if (last >= KVX_EVENTS_KEPT && next <= last - KVX_EVENTS_KEPT)
		next = last - KVX_EVENTS_KEPT + 1;
	for (; next <= last && count < capacity; next++)
		count += read_record(journal, next, &views[count]);
	return count;
}

void kvx_journal_wait(struct kvx_journal *journal, uint64_t after, int64_t deadline_ns)
{
	uint32_t seen = kvx_event_sequence(&journal->event);
	int64_t look_ns = kvx_now_ns() + LAYER_NS;

	if (atomic_load_explicit(&journal->last, memory_order_acquire) <= after)
		kvx_event_wait(&journal->event, seen, look_ns < deadline_ns ? look_ns : deadline_ns,
			       0);
}

int kvx_engine_events(struct kvx_engine *engine, uint64_t after, struct kvx_event_view *views,
		      uint32_t capacity, uint32_t timeout_ms)
{
	struct kvx_journal *none = NULL, *journal = atomic_load(&engine->journal);
	int64_t deadline_ns = kvx_now_ns() + timeout_ms * KVX_NS_PER_MS;
	uint32_t count;

	if (timeout_ms > KVX_TIMEOUT_MAX_MS || (capacity && !views))
		return kvx_fail(KVX_E_INVALID,
				"events: a time-out of %u ms is longer than %u, or "
				"there is no room for %u views",
				timeout_ms, KVX_TIMEOUT_MAX_MS, capacity);
	if (!journal) {
		journal = kvx_journal_new();
		if (!journal)
			return kvx_fail(KVX_E_MEMORY, "events: out of memory");
		if (!atomic_compare_exchange_strong(&engine->journal, &none, journal)) {
			kvx_journal_free(journal); /* another thread was first */
			journal = none;
		}
	}
	while (!(count = kvx_journal_read(journal, after, views, capacity)) && capacity &&
	       kvx_now_ns() < deadline_ns)
		kvx_journal_wait(journal, after, deadline_ns);
	return (int)count;
}
