/* SPDX-License-Identifier: Apache-2.0 */
#include "core/transfer.h"

#include "base/clock.h"
#include "base/error.h"
#include "core/engine.h"
#include "core/journal.h"

#include <stdlib.h>
#include <string.h>

void kvx_transfer_init(struct kvx_transfer *transfer, struct kvx_engine *engine, const char *what,
		       _Atomic uint32_t *going, uint32_t layers, bool tail)
{
	*transfer = (struct kvx_transfer){.engine = engine,
					  .what = what,
					  .going = going,
					  .layers = layers,
					  .tail = tail,
					  .opened_ns = kvx_now_ns()};
	kvx_event_init(&transfer->event);
	kvx_event_init(&transfer->end_event);
}

void kvx_transfer_finish(struct kvx_transfer *transfer)
{
	kvx_event_finish(&transfer->event);
	kvx_event_finish(&transfer->end_event);
	free(transfer->text);
}

static void tell_end(const struct kvx_transfer *transfer, int end)
{
	bool grant = transfer->going == &transfer->engine->drain.grants;

	if (end == KVX_TRANSFER_COMPLETE)
		kvx_journal_transfer(transfer,
				     grant ? KVX_EVENT_GRANT_COMPLETE : KVX_EVENT_STREAM_COMPLETE,
				     0, 0, NULL);
	else
		kvx_journal_transfer(transfer,
				     grant ? KVX_EVENT_GRANT_FAILED : KVX_EVENT_STREAM_FAILED, 0,
				     end, transfer->text ? transfer->text : kvx_strerror(end));
}

static void store_word(const struct kvx_transfer *transfer, uint32_t index, uint32_t value)
{
	__atomic_store_n(&transfer->words[index], value, __ATOMIC_RELEASE);
}

/* Who waits for a word sees every one of them change in the end. */
static void mirror_end(const struct kvx_transfer *transfer)
{
	for (uint32_t i = 0; transfer->words && i < kvx_transfer_parts(transfer); i++)
		if (!__atomic_load_n(&transfer->words[i], __ATOMIC_RELAXED))
			store_word(transfer, i, KVX_WORD_FAILED);
}

void kvx_transfer_mirror(struct kvx_transfer *transfer, uint32_t *words)
{
	uint32_t layers = transfer->layers;

	transfer->words = words;
	for (uint32_t i = 0; i < kvx_transfer_parts(transfer); i++)
		if (kvx_transfer_layer_done(transfer, i < layers ? i : KVX_TAIL))
			store_word(transfer, i, KVX_WORD_WHOLE);
	if (kvx_transfer_ended(transfer))
		mirror_end(transfer);
}

static void set_end(struct kvx_transfer *transfer, int end)
{
	struct kvx_engine *engine = transfer->engine;
	_Atomic uint32_t *going = transfer->going;

	tell_end(transfer, end);
	atomic_store_explicit(&transfer->ended_ns, engine->now_ns, memory_order_relaxed);
	atomic_store_explicit(&transfer->end, end, memory_order_release);
	mirror_end(transfer);
	kvx_event_notify(&transfer->event);
	kvx_event_notify(&transfer->end_event);
	kvx_drain_leave(engine, going);
}

void kvx_transfer_finish_layer(struct kvx_transfer *transfer, uint32_t layer)
{
	_Atomic uint64_t *word = &transfer->done[layer / 64];
	uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
	uint64_t new = old | UINT64_C(1) << (layer % 64);

	if (old == new)
		return;
	atomic_store_explicit(word, new, memory_order_release);
	if (transfer->words)
		store_word(transfer, layer == KVX_TAIL ? transfer->layers : layer, KVX_WORD_WHOLE);
	uint32_t count = atomic_load_explicit(&transfer->done_count, memory_order_relaxed) + 1;
	atomic_store_explicit(&transfer->done_count, count, memory_order_release);
	if (count == kvx_transfer_parts(transfer))
		set_end(transfer, KVX_TRANSFER_COMPLETE);
	else
		kvx_event_notify(&transfer->event);
}

bool kvx_transfer_fail(struct kvx_transfer *transfer, int code, const char *text)
{
	if (kvx_transfer_ended(transfer))
		return false;
	transfer->text = strdup(text); /* without memory the short text of the code has to do */
	set_end(transfer, code);
	return true;
}

int kvx_transfer_check_layer(const struct kvx_transfer *transfer, uint32_t layer)
{
	if (layer < transfer->layers || (layer == KVX_TAIL && transfer->tail))
		return 0;
	if (layer == KVX_TAIL)
		return kvx_fail(KVX_E_INVALID, "%s: it has no tail", transfer->what);
	return kvx_fail(KVX_E_INVALID, "%s: layer %u: there are %u", transfer->what, layer,
			transfer->layers);
}

int kvx_transfer_poll(struct kvx_transfer *transfer, uint32_t layer)
{
	int error = layer == KVX_ALL_LAYERS ? 0 : kvx_transfer_check_layer(transfer, layer);

	if (error)
		return error;
	if (layer != KVX_ALL_LAYERS && kvx_transfer_layer_done(transfer, layer))
		return 1;
	int end = atomic_load_explicit(&transfer->end, memory_order_acquire);
	if (end >= 0)
		return end;
	return kvx_fail(end, "%s", transfer->text ? transfer->text : kvx_strerror(end));
}

int kvx_transfer_wait(struct kvx_transfer *transfer, uint32_t layer, uint32_t timeout_ms)
{
	if (timeout_ms > KVX_TIMEOUT_MAX_MS)
		return kvx_fail(KVX_E_INVALID, "%s: a time-out of %u ms is longer than %u",
				transfer->what, timeout_ms, KVX_TIMEOUT_MAX_MS);
	struct kvx_event *event = layer == KVX_ALL_LAYERS ? &transfer->end_event : &transfer->event;
	int64_t deadline_ns = kvx_now_ns() + timeout_ms * KVX_NS_PER_MS;
	for (;;) {
		uint32_t seen = kvx_event_sequence(event);
		int result = kvx_transfer_poll(transfer, layer);
		if (result)
			return result > 0 ? 0 : result;
		if (kvx_now_ns() >= deadline_ns)
			return kvx_fail(KVX_E_TIMEDOUT, "%s: %u of %u layers done after %u ms",
					transfer->what, atomic_load(&transfer->done_count),
					transfer->layers, timeout_ms);
		kvx_engine_wait(transfer->engine, event, seen, deadline_ns);
	}
}
