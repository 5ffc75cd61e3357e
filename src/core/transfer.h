/* SPDX-License-Identifier: Apache-2.0 */
/* What a grant and a stream have in common: layers that get done, an end, and threads that wait. */
#ifndef KVX_CORE_TRANSFER_H
#define KVX_CORE_TRANSFER_H

#include "base/event.h"

#include <kvxfer/kvxfer.h>

#include <stdbool.h>

/* Bits of all layers, and of KVX_TAIL. */
#define KVX_LAYER_WORDS ((KVX_TAIL + 64) / 64)

/* In kvx_transfer.end, beside 0 (goes on) and negative codes. */
#define KVX_TRANSFER_COMPLETE 1

/* The worker writes, any thread reads. `end` and `done` are stored with release after what they
 * announce (the text; the bytes of the layer), and loaded with acquire. */
struct kvx_transfer {
	struct kvx_engine *engine;
	const char *what;         /* prefix of texts: "grant" or "stream" */
	_Atomic uint32_t *going;  /* counts it while it goes on; constant */
	uint64_t id;              /* constant once it is listed */
	int64_t opened_ns;        /* constant */
	_Atomic int64_t ended_ns; /* stored before end */
	uint64_t bytes;           /* done, by kvx_figure_add() */
	uint32_t layers;
	bool tail; /* beside them; its bit of done is KVX_TAIL */
	_Atomic int end;
	char *text;      /* why it ended, once end is negative; owned */
	uint32_t *words; /* what is done is mirrored to them, or NULL; the worker's */
	_Atomic uint32_t done_count;
	_Atomic uint64_t done[KVX_LAYER_WORDS];
	struct kvx_event event;     /* a layer is done, or the end */
	struct kvx_event end_event; /* the end: who waits for all layers is not woken for each */
};

/* going: where the engine counts those that go on; it is counted there already. */
void kvx_transfer_init(struct kvx_transfer *transfer, struct kvx_engine *engine, const char *what,
		       _Atomic uint32_t *going, uint32_t layers, bool tail);
void kvx_transfer_finish(struct kvx_transfer *transfer);

static inline bool kvx_transfer_ended(const struct kvx_transfer *transfer)
{
	return atomic_load_explicit(&transfer->end, memory_order_relaxed) != 0;
}

static inline bool kvx_transfer_layer_done(const struct kvx_transfer *transfer, uint32_t layer)
{
	return atomic_load_explicit(&transfer->done[layer / 64], memory_order_acquire) >>
		       (layer % 64) &
	       1;
}

/* The worker: a layer is done (telling it again does nothing); wakes the waiters. The last one
 * completes the transfer. */
void kvx_transfer_finish_layer(struct kvx_transfer *transfer, uint32_t layer);

/* The worker: ends it with a negative code. Returns false if it had ended already. */
bool kvx_transfer_fail(struct kvx_transfer *transfer, int code, const char *text);

/* The worker: from now on, and at once for what is done already. */
void kvx_transfer_mirror(struct kvx_transfer *transfer, uint32_t *words);

/* How many things have to be done: the layers, and the tail. */
static inline uint32_t kvx_transfer_parts(const struct kvx_transfer *transfer)
{
	return transfer->layers + transfer->tail;
}

/* KVX_E_INVALID: there is no such layer, or no tail. */
int kvx_transfer_check_layer(const struct kvx_transfer *transfer, uint32_t layer);

/* The public calls' bodies; any thread. */
int kvx_transfer_poll(struct kvx_transfer *transfer, uint32_t layer);
int kvx_transfer_wait(struct kvx_transfer *transfer, uint32_t layer, uint32_t timeout_ms);

#endif
