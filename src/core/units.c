/* SPDX-License-Identifier: Apache-2.0 */
/* Which units a stream has, and which rail carries which of them. */
#include "core/peer.h"
#include "core/stream.h"

#include <string.h>

/* Over one-sided transports each rail has its unit of each layer, so that the receiver handles one
 * arrival for each. Returns the number of units. */
static uint32_t share_rails(struct kvx_stream *stream, uint8_t *weights)
{
	const struct kvx_link *link = stream->peer->link;
	struct kvx_shares shares;
	uint32_t units = 0, most = kvx_image_units(&stream->plan.image, 1);

	uint32_t shared = link->ops->share(link, stream->pool->memories[0], stream->ticket.hint,
					   stream->ticket.hint_bytes, &shares);
	for (uint32_t rail = 0; !shared && rail < link->rails; rail++)
		shares.weight[rail] = shares.usable >> rail & 1; /* down, but may come back */
	stream->usable_rails = shares.usable;
	for (uint32_t rail = 0; rail < link->rails && units < most; rail++) {
		if (!shares.weight[rail])
			continue;
		weights[units] = shares.weight[rail];
		stream->home[units++] = (uint8_t)rail;
	}
	return units;
}

bool kvx_stream_cut(struct kvx_stream *stream, bool *weighted, uint8_t *weights)
{
	struct kvx_engine *engine = stream->transfer.engine;
	struct kvx_image image = stream->plan.image;

	*weighted = false;

	stream->units_have_rails = stream->peer->link->ops->one_sided;
	if (stream->units_have_rails) {
		uint32_t units = share_rails(stream, weights);
		if (!units)
			return false;
		*weighted = kvx_image_cut(&image, units, weights);
		if (!*weighted)
			kvx_image_cut(&image, units, NULL);
	} else {
		kvx_image_cut(&image, kvx_image_units(&image, engine->options.unit_bytes), NULL);
	}
	pthread_mutex_lock(&engine->lock);
	stream->plan.image = image;
	pthread_mutex_unlock(&engine->lock);
	stream->hash = kvx_plan_hash(&stream->pool->geometry, &image, stream->table_hash);
	return true;
}

static uint64_t all_units(const struct kvx_stream *stream)
{
	uint32_t units = stream->plan.image.units;

	return units == 64 ? ~UINT64_C(0) : (UINT64_C(1) << units) - 1;
}

/* Units that the rail may carry: its own, and those of rails that are down. */
static uint64_t units_of(const struct kvx_stream *stream, uint32_t rail)
{
	uint64_t units = 0;

	if (!stream->units_have_rails)
		return all_units(stream);
	for (uint32_t unit = 0; unit < stream->plan.image.units; unit++) {
		uint32_t home = stream->home[unit];
		if (home == rail ||
		    (!stream->peer->rails[home].up && stream->usable_rails >> rail & 1))
			units |= UINT64_C(1) << unit;
	}
	return units;
}

bool kvx_stream_next_unit(struct kvx_stream *stream, uint32_t rail, uint32_t *layer, uint32_t *unit)
{
	uint64_t mine = units_of(stream, rail);

	for (uint32_t i = 0; i < KVX_LAYER_WORDS; i++) {
		for (uint64_t pending = stream->pending[i]; pending; pending &= pending - 1) {
			*layer = i * 64 + (uint32_t)__builtin_ctzll(pending);
			uint64_t *posted = &stream->posted[*layer].bits;
			uint64_t left = mine & ~*posted;
			if (!left)
				continue;
			*unit = (uint32_t)__builtin_ctzll(left);
			*posted |= UINT64_C(1) << *unit;
			if (*posted == all_units(stream))
				stream->pending[i] &= ~(UINT64_C(1) << (*layer % 64));
			return true;
		}
	}
	return false;
}

bool kvx_stream_pending(const struct kvx_stream *stream)
{
	for (uint32_t i = 0; i < KVX_LAYER_WORDS; i++)
		if (stream->pending[i])
			return true;
	return false;
}

void kvx_stream_rail_lost(struct kvx_stream *stream, uint32_t rail)
{
	for (uint32_t layer = 0; layer < stream->transfer.layers; layer++) {
		struct kvx_posted *posted = &stream->posted[layer];
		uint64_t bit = UINT64_C(1) << (layer % 64);
		if (!posted->bits || kvx_transfer_layer_done(&stream->transfer, layer) ||
		    stream->held[layer / 64] & bit)
			continue;
		for (uint32_t unit = 0; unit < stream->plan.image.units; unit++) {
			if (!(posted->bits >> unit & 1) || posted->rail[unit] != rail)
				continue;
			posted->bits &= ~(UINT64_C(1) << unit);
			stream->pending[layer / 64] |= bit;
			stream->resent[layer / 64] |= bit;
			kvx_count(stream->transfer.engine, units_resent, 1);
		}
	}
	kvx_stream_activate(stream);
}
