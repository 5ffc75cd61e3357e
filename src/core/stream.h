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
	uint32_t staged;             /* chain of the buffers that it was gathered in */
	uint8_t rail[KVX_UNITS_MAX]; /* that carried the unit last */
};

/* Made by its opener, then owned by the worker; what is constant or atomic anybody may use. */
struct kvx_stream {
	struct kvx_transfer transfer; /* first */
	struct kvx_roster entry;      /* in the engine, under its lock */
	struct kvx_submission submission;
	_Atomic bool cancelled, closed; /* answers to requests */

	/* Constant. */
	struct kvx_pool *pool;
	uint32_t tokens; /* at most, of the request */
	uint32_t chunk_tokens;
	struct kvx_tail tail;
	struct kvx_offer *offer; /* NULL: it was opened into a grant */

	/* Constant once it is aimed at a grant, under the engine's lock; before that the worker's.
	 */
	struct kvx_ticket ticket; /* without its table */
	struct kvx_shape theirs;  /* the receiver's pool */
	uint64_t table_hash;      /* of the receiver's table */
	uint32_t layer_shift;     /* from this pool's layers to the receiver's, modulo 2^32 */

	/* The worker's; changed under the engine's lock, since explain() looks. */
	struct kvx_plan plan; /* its runs are constant; of what the sender would move alone until
				 it is accepted */

	/* Any thread sets them: how many tokens of each layer are ready, and which layers have
	 * more of them than the worker knows of. The last layer is the tail. */
	_Atomic uint32_t *ready_tokens;
	_Atomic int64_t *ready_ns; /* when all of it was told; 0: not yet. For figures */
	_Atomic uint64_t ready[KVX_LAYER_WORDS];
	_Atomic(const uint32_t *) word; /* watched, or NULL */
	uint32_t word_start;            /* constant once word is set */

	/* The worker's. */
	uint64_t id;
	uint64_t usable_rails; /* for units of others too */
	uint32_t word_layers;  /* that the word has told of */
	uint32_t requests;     /* to be acknowledged once nothing is in flight */
	uint32_t targets_known;
	bool staged;                     /* its pieces are gathered first */
	const struct kvx_device *lifted; /* that copies them, or NULL; under the engine's lock */
	bool units_have_rails; /* a unit belongs to home[unit], and goes elsewhere only while
				  that is down */
	bool started, presented;
	_Atomic bool open;          /* the receiver accepted it; any thread reads */
	_Atomic bool still;         /* it has ended and nothing reads its blocks; likewise */
	bool tell_drained;          /* the receiver waits for it */
	struct kvx_share share;     /* once it is accepted */
	uint32_t unit_first;        /* the grant's number of unit 0 */
	uint64_t filled;            /* units with bytes */
	struct kvx_target *targets; /* one-sided: the receiver's tensors, then its tail;
				       targets_known of them */
	uint32_t units;             /* as proposed */
	bool weighted;
	uint8_t weights[KVX_UNITS_MAX];
	uint8_t home[KVX_UNITS_MAX];
	uint64_t pending[KVX_LAYER_WORDS]; /* ready layers with units not posted */
	uint64_t resent[KVX_LAYER_WORDS];  /* one-sided: layers with units posted again */
	uint64_t held[KVX_LAYER_WORDS];    /* of them: delivered, but maybe still under way */
	struct kvx_posted *posted;         /* one for each layer, and the tail's */
	uint32_t *unit_slices;             /* of each unit of each layer, once it is posted */
	struct kvx_peer *peer;             /* while the stream goes on */
	struct kvx_peer *drains;           /* over whose link an ended stream drains, or NULL */
	struct kvx_list holding_entry;
	struct kvx_flow flow;
	uint32_t lifting;           /* calls of copy() that read its blocks */
	struct kvx_list peer_entry; /* of its streams, then of the draining ones */
	struct kvx_list active_entry, watch_entry;
	struct kvx_timer lease;
	char why[KVX_ERROR_TEXT_MAX + 1]; /* the peer's, once accepted; under the engine's lock */
};

/* The steps of opening one: check; make it; aim it at a grant, whose ticket's parts become the
 * stream's; hand it to the worker. tokens: that its blocks hold. */
int kvx_stream_check_blocks(const struct kvx_pool *pool, const uint32_t *blocks, uint32_t count);
int kvx_stream_new(struct kvx_pool *pool, const struct kvx_stream_options *options, uint32_t tokens,
		   struct kvx_stream **stream);
int kvx_stream_check_ticket(const struct kvx_stream *stream, uint32_t count,
			    const struct kvx_ticket *ticket);
int kvx_stream_aim(struct kvx_stream *stream, const uint32_t *blocks, struct kvx_ticket *ticket);
void kvx_stream_begin(struct kvx_stream *stream);

/* In place of the last step: frees one that cannot be opened. */
void kvx_stream_discard(struct kvx_stream *stream);

/* By option staging and the cost model. one_sided: the receiver does not place the bytes. */
bool kvx_stream_wants_staging(const struct kvx_stream *stream, bool one_sided);

/* Before its transport, or an offer's other end, is known. */
bool kvx_stream_may_want_staging(const struct kvx_stream *stream);

/* How many tokens of layers are ready, from any thread. */
void kvx_stream_make_ready(struct kvx_stream *stream, uint32_t first, uint32_t count,
			   uint32_t tokens);

/* The worker. */

/* What threads wanted of it; its lease has ended. */
void kvx_stream_take(struct kvx_submission *submission, uint32_t wanted);
void kvx_stream_lease_ended(struct kvx_timer *timer);

/* Takes it up: once, when it was submitted, or when somebody pulls it already. */
void kvx_stream_start(struct kvx_stream *stream);

/* It is aimed at a grant: go to that engine. */
void kvx_stream_connect(struct kvx_stream *stream);

/* The peer is up: present the ticket. */
void kvx_stream_present(struct kvx_stream *stream);

/* The receiver's answers. */
void kvx_stream_layout(struct kvx_stream *stream, const struct kvx_layout_run *runs,
		       uint32_t count);
void kvx_stream_accept(struct kvx_stream *stream, const struct kvx_message *accept);
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

/* What was posted of a layer, or of KVX_TAIL. */
static inline struct kvx_posted *kvx_stream_posted(const struct kvx_stream *stream, uint32_t layer)
{
	return &stream->posted[layer == KVX_TAIL ? stream->transfer.layers : layer];
}

/* When all of a layer was told ready; 0: not yet. */
static inline int64_t kvx_stream_ready_ns(const struct kvx_stream *stream, uint32_t layer)
{
	return atomic_load_explicit(
		&stream->ready_ns[layer == KVX_TAIL ? stream->transfer.layers : layer],
		memory_order_relaxed);
}

/* How many slices a posted unit was. */
static inline uint32_t *kvx_stream_unit_slices(const struct kvx_stream *stream, uint32_t layer,
					       uint32_t unit)
{
	size_t index = layer == KVX_TAIL ? stream->transfer.layers : layer;

	return &stream->unit_slices[index * stream->units + unit];
}

/* The receiver's number of a layer. */
static inline uint32_t kvx_stream_their_layer(const struct kvx_stream *stream, uint32_t layer)
{
	return layer == KVX_TAIL ? layer : layer + stream->layer_shift;
}

/* units.c: how layers are to be cut into units, now that the rails are known. False: no rail can
 * carry them. */
bool kvx_stream_cut(struct kvx_stream *stream);

/* The next unit for this rail to post: of the first ready layer that has one. */
bool kvx_stream_next_unit(struct kvx_stream *stream, uint32_t rail, uint32_t *layer,
			  uint32_t *unit);

/* The same unit of the next layers, at most `most` with that one: those that may leave, and lie
 * side by side with it, are taken. Returns how many leave together. */
uint32_t kvx_stream_join_layers(struct kvx_stream *stream, uint32_t rail, uint32_t layer,
				uint32_t unit, uint32_t most);

/* A unit that is taken is to be posted again; what was posted of it may be under way. */
void kvx_stream_post_again(struct kvx_stream *stream, uint32_t layer, uint32_t unit);

/* Some rail has units to post. */
bool kvx_stream_pending(const struct kvx_stream *stream);

/* Nothing of an ended stream is in flight any more. */
void kvx_stream_drained(struct kvx_stream *stream);

/* A device has done a copy that reads its blocks. */
void kvx_stream_lifted(struct kvx_stream *stream);

/* Does hardware, or a device, read its blocks? */
static inline bool kvx_stream_is_read(const struct kvx_stream *stream)
{
	return stream->flow.in_flight || stream->lifting;
}

/* The link that an ended stream drains over is gone. */
void kvx_stream_orphan(struct kvx_stream *stream);

/* Units that this rail carried and that are not known to have arrived are to be posted again. */
void kvx_stream_rail_lost(struct kvx_stream *stream, uint32_t rail);

/* Frees it; the worker knows it no more, or has ended. */
void kvx_stream_free(struct kvx_stream *stream);

#endif
