/* SPDX-License-Identifier: Apache-2.0 */
/* Which units a stream has, and which rail carries which of them. */
#include "core/peer.h"
#include "core/stream.h"
#include "plan/cut.h"

#include <string.h>

static uint32_t chunks_of(const struct kvx_stream *stream, uint32_t most)
{
	const struct kvx_ticket *ticket = &stream->ticket;

	return kvx_cut_chunks(ticket->token_end - ticket->token_first, stream->chunk_tokens, most);
}

/* Over one-sided transports each rail has its unit of each chunk of a layer, so that the receiver
 * handles one arrival for each. */
static void share_rails(struct kvx_stream *stream, uint32_t most)
{
	const struct kvx_link *link = stream->peer->link;
	struct kvx_shares shares;
	uint32_t units = 0;

	uint32_t shared = link->ops->share(link, stream->pool->memories[0], stream->ticket.hint,
					   stream->ticket.hint_bytes, &shares);
	for (uint32_t rail = 0; !shared && rail < link->rails; rail++)
		shares.weight[rail] = shares.usable >> rail & 1; /* down, but may come back */
	stream->usable_rails = shares.usable;
	for (uint32_t rail = 0; rail < link->rails && units < most; rail++) {
		if (!shares.weight[rail])
			continue;
		stream->weights[units] = shares.weight[rail];
		stream->home[units++] = (uint8_t)rail;
	}
	if (!units)
		return;
	stream->weighted = true;
	stream->units = units * chunks_of(stream, most / units);
	for (uint32_t unit = units; unit < stream->units; unit++) {
		stream->weights[unit] = stream->weights[unit - units];
		stream->home[unit] = stream->home[unit - units];
	}
}

/* All rails take units as they come. */
static void share_freely(struct kvx_stream *stream, uint32_t most)
{
	stream->units = kvx_cut_freely(&stream->plan.image,
				       kvx_option(&stream->transfer.engine->options, unit_bytes),
				       chunks_of(stream, most), most);
}

/* For who looks: the rails' parts of this stream. */
static void note_weights(const struct kvx_stream *stream)
{
	const struct kvx_peer *peer = stream->peer;

	for (uint32_t rail = 0; rail < peer->figure_count; rail++) {
		uint32_t weight = stream->weighted ? 0 : 1;
		for (uint32_t unit = 0; stream->weighted && unit < stream->units; unit++)
			if (stream->home[unit] == rail)
				weight = stream->weights[unit];
		__atomic_store_n(&peer->figures[rail].weight, weight, __ATOMIC_RELAXED);
	}
}

bool kvx_stream_cut(struct kvx_stream *stream)
{
	uint32_t most = KVX_UNITS_MAX / stream->ticket.senders;

	stream->units = 0;
	stream->weighted = false;
	stream->units_have_rails = stream->peer->link->ops->one_sided;
	if (stream->units_have_rails)
		share_rails(stream, most);
	else
		share_freely(stream, most);
	note_weights(stream);
	return stream->units != 0;
}

static uint64_t all_units(const struct kvx_stream *stream, uint32_t layer)
{
	return layer == KVX_TAIL ? 1 : stream->filled;
}

/* Units that the rail may carry: its own, and those of rails that are down. */
static uint64_t units_of(const struct kvx_stream *stream, uint32_t rail)
{
	uint64_t units = 0;

	if (!stream->units_have_rails)
		return ~UINT64_C(0);
	for (uint32_t unit = 0; unit < stream->units; unit++) {
		uint32_t home = stream->home[unit];
		if (home == rail ||
		    (!stream->peer->rails[home].up && stream->usable_rails >> rail & 1))
			units |= UINT64_C(1) << unit;
	}
	return units;
}

/* Units all of whose tokens are ready. */
static uint64_t ready_units(const struct kvx_stream *stream, uint32_t layer)
{
	uint32_t index = layer == KVX_TAIL ? stream->transfer.layers : layer;
	uint32_t tokens = atomic_load_explicit(&stream->ready_tokens[index], memory_order_acquire);
	uint64_t units = 0;

	if (tokens == UINT32_MAX)
		return all_units(stream, layer);
	for (uint32_t unit = 0; unit < stream->units; unit++)
		if (kvx_image_unit_token(&stream->plan.image, unit + 1) <= tokens)
			units |= UINT64_C(1) << unit;
	return units & stream->filled;
}

static void take_unit(struct kvx_stream *stream, uint32_t layer, uint32_t unit, uint32_t rail)
{
	struct kvx_posted *posted = kvx_stream_posted(stream, layer);

	posted->bits |= UINT64_C(1) << unit;
	posted->rail[unit] = (uint8_t)rail;
}

bool kvx_stream_next_unit(struct kvx_stream *stream, uint32_t rail, uint32_t *layer, uint32_t *unit)
{
	uint64_t mine = units_of(stream, rail);

	for (uint32_t i = 0; i < KVX_LAYER_WORDS; i++) {
		for (uint64_t pending = stream->pending[i]; pending; pending &= pending - 1) {
			*layer = i * 64 + (uint32_t)__builtin_ctzll(pending);
			struct kvx_posted *posted = kvx_stream_posted(stream, *layer);
			uint64_t left = ready_units(stream, *layer) & ~posted->bits;
			uint64_t next = left & mine;
			if (next) {
				*unit = (uint32_t)__builtin_ctzll(next);
				take_unit(stream, *layer, *unit, rail);
				left &= ~(UINT64_C(1) << *unit);
			}
			if (!left)
				stream->pending[i] &= ~(UINT64_C(1) << (*layer % 64));
			if (next)
				return true;
		}
	}
	return false;
}

/* What is posted again may be given up at any time, so that it leaves alone. */
static bool may_join(const struct kvx_stream *stream, uint32_t layer, uint32_t unit)
{
	if (layer >= stream->transfer.layers ||
	    !(stream->pending[layer / 64] & ~stream->resent[layer / 64] &
	      UINT64_C(1) << (layer % 64)))
		return false;
	return (ready_units(stream, layer) & ~kvx_stream_posted(stream, layer)->bits) >> unit & 1;
}

static bool lie_side_by_side(const struct kvx_stream *stream, uint32_t layer)
{
	const struct kvx_target *targets =
		stream->targets +
		(size_t)kvx_stream_their_layer(stream, layer) * stream->theirs.planes;

	return kvx_plan_joins(&stream->plan, kvx_pool_layer(stream->pool, layer),
			      kvx_pool_layer(stream->pool, layer + 1), targets,
			      targets + stream->theirs.planes);
}

uint32_t kvx_stream_join_layers(struct kvx_stream *stream, uint32_t rail, uint32_t layer,
				uint32_t unit, uint32_t most)
{
	uint32_t joined = 1;

	if (!stream->targets || stream->staged || stream->resent[layer / 64] >> (layer % 64) & 1)
		return 1;
	for (; joined < most; joined++) {
		if (!may_join(stream, layer + joined, unit) ||
		    !lie_side_by_side(stream, layer + joined - 1))
			break;
		take_unit(stream, layer + joined, unit, rail);
	}
	return joined;
}

bool kvx_stream_pending(const struct kvx_stream *stream)
{
	for (uint32_t i = 0; i < KVX_LAYER_WORDS; i++)
		if (stream->pending[i])
			return true;
	return false;
}

void kvx_stream_post_again(struct kvx_stream *stream, uint32_t layer, uint32_t unit)
{
	uint64_t bit = UINT64_C(1) << (layer % 64);

	kvx_stream_posted(stream, layer)->bits &= ~(UINT64_C(1) << unit);
	stream->pending[layer / 64] |= bit;
	stream->resent[layer / 64] |= bit;
	kvx_count(stream->transfer.engine, units_resent, 1);
}

static void layer_lost(struct kvx_stream *stream, uint32_t layer, uint32_t rail)
{
	struct kvx_posted *posted = kvx_stream_posted(stream, layer);
	uint64_t bit = UINT64_C(1) << (layer % 64);

	if (!posted->bits || kvx_transfer_layer_done(&stream->transfer, layer) ||
	    stream->held[layer / 64] & bit)
		return;
	for (uint32_t unit = 0; unit < stream->units; unit++)
		if (posted->bits >> unit & 1 && posted->rail[unit] == rail)
			kvx_stream_post_again(stream, layer, unit);
}

void kvx_stream_rail_lost(struct kvx_stream *stream, uint32_t rail)
{
	for (uint32_t layer = 0; layer < stream->transfer.layers; layer++)
		layer_lost(stream, layer, rail);
	if (stream->transfer.tail)
		layer_lost(stream, KVX_TAIL, rail);
	kvx_stream_activate(stream);
}
