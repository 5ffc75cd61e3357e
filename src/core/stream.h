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
	uint64_t table_hash;      /* of the receiver's table */

	/* The worker's; changed under the engine's lock, since explain() looks. */
	struct kvx_plan plan; /* its runs are constant, its units 0 until the peer is up */

	_Atomic uint64_t ready[KVX_LAYER_WORDS]; /* set by any thread, never cleared */
	_Atomic(const uint32_t *) word;          /* watched, or NULL */
	uint32_t word_start;                     /* constant once word is set */

	/* The worker's. */
	uint64_t id;
	uint64_t hash;         /* of the plan */
	uint64_t usable_rails; /* for units of others too */
	uint32_t word_layers;  /* that the word has told of */
	uint32_t requests;     /* to be acknowledged once nothing is in flight */
	uint32_t targets_known;
	bool units_have_rails; /* a unit belongs to home[unit], and goes elsewhere only while
				  that is down */
	bool presented;
	bool open;                  /* the receiver accepted it */
	bool tell_drained;          /* the receiver waits for it */
	struct kvx_target *targets; /* one-sided: the receiver's tensors; targets_known of them */
	uint8_t home[KVX_UNITS_MAX];
	uint64_t accepted[KVX_LAYER_WORDS]; /* ready layers taken over from `ready` */
	uint64_t pending[KVX_LAYER_WORDS];  /* of them with units not posted */
	uint64_t resent[KVX_LAYER_WORDS];   /* one-sided: layers with units posted again */
	uint64_t held[KVX_LAYER_WORDS];     /* of them: delivered, but maybe still under way */
	struct kvx_posted *posted;          /* one for each layer */
	struct kvx_peer *peer;              /* while the stream goes on */
	struct kvx_peer *drains;            /* over whose link an ended stream drains, or NULL */
	struct kvx_list holding_entry;
	struct kvx_flow flow;
	struct kvx_list peer_entry; /* of its streams, then of the draining ones */
	struct kvx_list active_entry, watch_entry;
	struct kvx_timer lease;
	char why[KVX_ERROR_TEXT_MAX + 1]; /* the peer's, once accepted; under the engine's lock */
};

/* The worker. */

/* The peer is up: present the ticket. */
void kvx_stream_present(struct kvx_stream *stream);

/* The receiver's answers. */
void kvx_stream_layout(struct kvx_stream *stream, const struct kvx_layout_run *runs,
		       uint32_t count);
void kvx_stream_accept(struct kvx_stream *stream, uint64_t hash);
void kvx_stream_delivered(struct kvx_stream *stream, uint32_t first, uint32_t count);

/* Ends a stream that goes on: its blocks are not read any more. tell: the receiver is to know. */
void kvx_stream_end(struct kvx_stream *stream, int code, const char *text, bool tell);

/* Looks at the ready word. Returns whether it told of a layer. */
bool kvx_stream_look(struct kvx_stream *stream);

/* The stream of that id, if it goes on and is the peer's; else NULL. */
struct kvx_stream *kvx_stream_find(struct kvx_engine *engine, const struct kvx_peer *peer,
				   uint64_t id);

/* Tells of the layers that were held, if nothing is in flight any more. Returns whether it did. */
bool kvx_stream_release(struct kvx_stream *stream);

/* Ready layers become pending ones, and the stream takes part in posting once it is open. */
void kvx_stream_activate(struct kvx_stream *stream);

/* units.c: cuts layers into units, now that the rails are known. weighted: they have weights.
 * False: no rail can carry them. */
bool kvx_stream_cut(struct kvx_stream *stream, bool *weighted, uint8_t *weights);

/* The next unit for this rail to post: of the first ready layer that has one. */
bool kvx_stream_next_unit(struct kvx_stream *stream, uint32_t rail, uint32_t *layer,
			  uint32_t *unit);

/* Some rail has units to post. */
bool kvx_stream_pending(const struct kvx_stream *stream);

/* Nothing of an ended stream is in flight any more. */
void kvx_stream_drained(struct kvx_stream *stream);

/* The link that an ended stream drains over is gone. */
void kvx_stream_orphan(struct kvx_stream *stream);

/* Units that this rail carried and that are not known to have arrived are to be posted again. */
void kvx_stream_rail_lost(struct kvx_stream *stream, uint32_t rail);

/* Frees it; the worker knows it no more, or has ended. */
void kvx_stream_free(struct kvx_stream *stream);

#endif
