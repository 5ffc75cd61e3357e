/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVX_CORE_STREAM_H
#define KVX_CORE_STREAM_H

#include "core/message.h"
#include "core/pool.h"
#include "core/ticket.h"
#include "core/transfer.h"

enum {
	KVX_STREAM_START = 1,
	KVX_STREAM_READY = 2,
	KVX_STREAM_WATCH = 4,
	KVX_STREAM_CANCEL = 8,
	KVX_STREAM_CLOSE = 16,
};

/* What was posted of one layer: a bit for each unit. */
struct kvx_posted {
	uint64_t bits;
	uint8_t rail[KVX_UNITS_MAX]; /* that carried the unit last */
};

/* Made by its opener, then owned by the worker; what is constant or atomic anybody may use. */
struct kvx_stream {
	struct kvx_transfer transfer; /* first */
	struct kvx_list entry;        /* in the engine, under its lock */
	struct kvx_submission submission;
	_Atomic bool cancelled, closed; /* answers to requests */

	/* Constant. */
	struct kvx_pool *pool;
	struct kvx_ticket ticket; /* without its table */
	struct kvx_plan plan;
	uint64_t hash;

	_Atomic uint64_t ready[KVX_LAYER_WORDS]; /* set by any thread, never cleared */
	_Atomic(const uint32_t *) word;          /* watched, or NULL */
	uint32_t word_start;                     /* constant once word is set */

	/* The worker's. */
	uint64_t id;
	uint32_t word_layers;               /* that the word has told of */
	uint64_t accepted[KVX_LAYER_WORDS]; /* ready layers taken over from `ready` */
	uint64_t pending[KVX_LAYER_WORDS];  /* of them with units not posted */
	struct kvx_posted *posted;          /* one for each layer */
	struct kvx_peer *peer;              /* while the stream goes on */
	bool open;                          /* the receiver accepted it */
	struct kvx_list peer_entry, active_entry, watch_entry;
	struct kvx_timer lease;
	char why[KVX_ERROR_TEXT_MAX + 1]; /* the peer's, once accepted; under the engine's lock */
};

/* The worker. */

/* The peer is up: present the ticket. */
void kvx_stream_present(struct kvx_stream *stream);

/* The receiver's answers. */
void kvx_stream_accept(struct kvx_stream *stream, uint64_t hash);
void kvx_stream_delivered(struct kvx_stream *stream, uint32_t first, uint32_t count);

/* Ends a stream that goes on: its blocks are not read any more. tell: the receiver is to know. */
void kvx_stream_end(struct kvx_stream *stream, int code, const char *text, bool tell);

/* Looks at the ready word. Returns whether it told of a layer. */
bool kvx_stream_look(struct kvx_stream *stream);

/* The stream of that id, if it goes on and is the peer's; else NULL. */
struct kvx_stream *kvx_stream_find(struct kvx_engine *engine, const struct kvx_peer *peer,
				   uint64_t id);

/* The next unit to post: of the first ready layer that has one. */
bool kvx_stream_next_unit(struct kvx_stream *stream, uint32_t *layer, uint32_t *unit);

/* Units that this rail carried and that are not known to have arrived are to be posted again. */
void kvx_stream_rail_lost(struct kvx_stream *stream, uint32_t rail);

/* Frees it; the worker knows it no more, or has ended. */
void kvx_stream_free(struct kvx_stream *stream);

#endif
