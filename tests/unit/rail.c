/* SPDX-License-Identifier: Apache-2.0 */
/* A rail that carries the same unit of several layers. */
#include "core/peer.h"
#include "core/stream.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define LAYERS 8u
#define UNIT 3u

static struct kvx_stream *stream_new(uint32_t first, uint32_t count)
{
	struct kvx_stream *stream = calloc(1, sizeof(*stream));

	stream->transfer.engine = calloc(1, sizeof(*stream->transfer.engine));
	stream->transfer.layers = LAYERS;
	stream->posted = calloc(LAYERS + 1, sizeof(*stream->posted));
	for (uint32_t layer = first; layer < first + count; layer++)
		stream->posted[layer].bits = UINT64_C(1) << UNIT;
	return stream;
}

static void stream_end(struct kvx_stream *stream)
{
	free(stream->posted);
	free(stream->transfer.engine);
	free(stream);
}

/* The application has the blocks of a layer back: nothing of it leaves any more, also not with
 * others, and those are not forgotten. */
Test(rail, a_layer_that_is_given_up_leaves_with_no_other)
{
	for (uint32_t gone = 2; gone < 6; gone++)
		for (uint32_t joined = 0; joined < 2; joined++) {
			struct kvx_stream *stream = stream_new(2, 4);
			struct kvx_rail rail = {.stream = stream,
						.layer = 2,
						.unit = UNIT,
						.layers = 4,
						.joined = joined};
			kvx_rail_give_up(&rail, stream, gone);
			cr_assert_null(rail.stream);
			cr_assert_eq(stream->pending[0], UINT64_C(0x3c) & ~(UINT64_C(1) << gone));
			cr_assert_eq(stream->resent[0], stream->pending[0]);
			for (uint32_t layer = 0; layer < LAYERS; layer++)
				cr_assert_eq(stream->posted[layer].bits != 0, layer == gone);
			stream_end(stream);
		}
}

Test(rail, what_it_does_not_carry_is_not_given_up)
{
	static const uint32_t others[] = {0, 1, 6, 7, KVX_TAIL};
	struct kvx_stream *stream = stream_new(2, 4), *other = stream_new(2, 4);
	struct kvx_rail rail = {.stream = stream, .layer = 2, .unit = UNIT, .layers = 4};

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		kvx_rail_give_up(&rail, stream, others[i]);
	kvx_rail_give_up(&rail, other, 2);
	cr_assert_eq(rail.stream, stream);
	cr_assert_eq(stream->pending[0] | other->pending[0], 0);
	stream_end(other);
	stream_end(stream);
}

Test(rail, a_unit_that_leaves_alone_is_given_up_alone)
{
	static const uint32_t layers[] = {2, KVX_TAIL};

	for (size_t i = 0; i < 2; i++) {
		struct kvx_stream *stream = stream_new(2, 1);
		struct kvx_rail rail = {
			.stream = stream, .layer = layers[i], .unit = UNIT, .layers = 1};
		kvx_rail_give_up(&rail, stream, layers[i]);
		cr_assert_null(rail.stream);
		cr_assert_eq(stream->pending[0], 0);
		stream_end(stream);
	}
}
