/* SPDX-License-Identifier: Apache-2.0 */
/* A plan in sentences. */
#include "plan/cost.h"
#include "plan/describe.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct writing {
	char *text;
	size_t size, length; /* length: of the whole text, also of what has no room */
};

__attribute__((format(printf, 2, 3))) static void say(struct writing *writing, const char *format,
						      ...)
{
	size_t room = writing->length < writing->size ? writing->size - writing->length : 0;
	va_list arguments;

	va_start(arguments, format);
	int length =
		vsnprintf(room ? writing->text + writing->length : NULL, room, format, arguments);
	va_end(arguments);
	if (length > 0)
		writing->length += (size_t)length;
}

static void say_heads(struct writing *writing, const struct kvx_plan_plane *plane)
{
	if (plane->heads_total == 1)
		say(writing, "all");
	else if (plane->heads == 1)
		say(writing, "head %u of %u", plane->head_first, plane->heads_total);
	else
		say(writing, "heads %u to %u of %u", plane->head_first,
		    plane->head_first + plane->heads - 1, plane->heads_total);
}

/* The order of heads and tokens is told of the sender alone: what moves is ordered as the receiver
 * has it. */
static void say_reason(struct writing *writing, const struct kvx_plan_share *share, uint32_t plane,
		       const struct kvx_shape *shape, enum kvx_plan_reason reason)
{
	const struct kvx_plane *held = &shape->plane[plane];
	uint32_t heads = share->plane[plane].heads;

	switch (reason) {
	case KVX_PLAN_TABLE:
		say(writing, "and goes on from a block to its neighbour");
		break;
	case KVX_PLAN_HEADS:
		say(writing, "because it holds %u heads, of which %u move%s", held->heads, heads,
		    heads == 1 ? "s" : "");
		break;
	case KVX_PLAN_TOKENS:
		say(writing, "because its blocks hold %u tokens, the other end's %u",
		    shape->block_tokens, share->chunk_tokens);
		break;
	case KVX_PLAN_LAYOUT:
		say(writing, "because it holds %s, the receiver %s", held->by_head ? "HND" : "NHD",
		    held->by_head ? "NHD" : "HND");
		break;
	case KVX_PLAN_LAYERS:
		say(writing, "and goes on with the next layer");
		break;
	default:
		say(writing, "because its strides leave gaps");
	}
}

static void say_end(struct writing *writing, const struct kvx_plan_share *share, uint32_t plane,
		    const char *name, const struct kvx_shape *shape,
		    const struct kvx_plan_hold *hold)
{
	say(writing, "  the %s holds %u bytes together, ", name, hold->piece_bytes);
	say_reason(writing, share, plane, shape, hold->reason);
	say(writing, "\n");
}

static void say_planes(struct writing *writing, const struct kvx_plan_share *share, uint32_t first,
		       uint32_t end, const struct kvx_shape *sender,
		       const struct kvx_shape *receiver)
{
	const struct kvx_plan_plane *plane = &share->plane[first];

	if (end - first > 1)
		say(writing, "planes %u to %u%s: ", first, end - 1,
		    first < share->joined ? ", side by side at both ends" : "");
	else
		say(writing, "plane %u: ", first);
	if (plane->token_first == plane->token_end) {
		say(writing, "nothing: other senders hold the same\n");
		return;
	}
	say_heads(writing, plane);
	say(writing, ", tokens %u to %u\n", plane->token_first, plane->token_end - 1);
	say_end(writing, share, first, "sender", sender, &plane->sender);
	say_end(writing, share, first, "receiver", receiver, &plane->receiver);
}

static void say_cut(struct writing *writing, const struct kvx_plan_share *share)
{
	bool by_rail = false;

	for (uint32_t i = 0; i < KVX_PLAN_RAILS_MAX; i++)
		by_rail = by_rail || share->rail_bytes[i];
	say(writing,
	    "tables: %u chunks of %u tokens, each in one block at both ends, make %u run%s of "
	    "neighbours at both ends\n",
	    share->chunks, share->chunk_tokens, share->runs, share->runs == 1 ? "" : "s");
	say(writing, "units: %u in a layer, %s\n", share->units,
	    by_rail ? "each a rail's own" : "which rails take as they come");
	say(writing,
	    "%s: by the cost model a layer costs the sender %.1f us slice by slice (%.0f ns each), "
	    "and %.1f us gathered in a buffer first (%.0f ns a piece, %.0f bytes a ns)\n",
	    share->how, share->direct_ns / 1e3, KVX_COST_SLICE, share->staged_ns / 1e3,
	    KVX_COST_PIECE, KVX_COST_COPY);
	say(writing, "posted: %llu slice%s of a layer\n", (unsigned long long)share->posted,
	    share->posted == 1 ? "" : "s");
	if (share->layers_joined > 1)
		say(writing,
		    "layers: %u at a time if they are ready together, since they lie side by side "
		    "at both ends: %llu slices of all %u\n",
		    share->layers_joined, (unsigned long long)share->posted_together,
		    share->layers);
}

size_t kvx_describe_words(const struct kvx_plan_share *share, const struct kvx_shape *sender,
			  const struct kvx_shape *receiver, char *text, size_t size)
{
	struct writing writing = {text, size, 0};

	if (size)
		text[0] = 0;
	for (uint32_t first = 0, end; first < share->planes; first = end) {
		for (end = first + 1; end < share->planes && end != share->joined; end++)
			if (memcmp(&share->plane[first], &share->plane[end],
				   sizeof(share->plane[0])) != 0)
				break;
		say_planes(&writing, share, first, end, sender, receiver);
	}
	if (share->layer_bytes)
		say_cut(&writing, share);
	return writing.length;
}
