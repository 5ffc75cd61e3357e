# SPDX-License-Identifier: Apache-2.0
"""What is broken on purpose: a name, the file, and pairs of its text and what comes instead."""
import collections

Mutation = collections.namedtuple("Mutation", "name file changes")


def mutation(name, file, *texts):
    return Mutation(name, file, list(zip(texts[::2], texts[1::2])))


ARRIVE = "src/core/arrive.c"
FEED = "src/core/feed.c"
GRANT = "src/core/grant.c"
PEER = "src/core/peer.c"
PLAN = "src/plan/plan.c"
POST = "src/core/post.c"
SENDING = "src/core/sending.c"
UNITS = "src/core/units.c"

MUTATIONS = [
    mutation("a grant that has ended still takes bytes", ARRIVE,
             "!grant->shared_out || kvx_transfer_ended(&grant->transfer))",
             "!grant->shared_out)",
             "if (feed->peer != peer || ", "if ((feed->peer && feed->peer != peer) || "),
    mutation("a revoke does not wait for the permit to be taken back", GRANT,
             "if (grant->feeds[i].fence != KVX_FENCE_CLOSED)",
             "if (grant->feeds[i].fence == KVX_FENCE_OPEN)"),
    mutation("the sender's time to stop is not kept", FEED,
             "engine->now_ns + wait_ns))", "engine->now_ns + 50 * wait_ns))"),
    mutation("a unit that comes twice is counted twice", ARRIVE,
             "(at->counter->bits | at->counter->landed) >> at->unit & 1;",
             "(at->counter->bits | at->counter->landed) >> at->unit & 0;"),
    mutation("the generation of an arrival is not checked", ARRIVE,
             "kvx_imm_unit(imm)) == imm)", "kvx_imm_unit(imm)))"),
    mutation("the generation of a unit's bytes is not checked", GRANT,
             "return grant && grant->generation == generation ? grant : NULL;",
             "return generation || grant ? grant : NULL;"),
    mutation("any peer may feed a grant", ARRIVE,
             "if (feed->peer != peer || ", "if ("),
    mutation("the ticket's key is not checked", FEED,
             "if (open->key != grant->key)", "if (!open->key)"),
    mutation("a lease ends late", GRANT,
             "&grant->lease, lease_end_ns(grant)))",
             "&grant->lease, lease_end_ns(grant) + 20 * KVX_NS_PER_MS))"),
    mutation("a lease ends early", GRANT,
             "return grant->opened_ns + grant->lease_ms * KVX_NS_PER_MS;",
             "return grant->opened_ns + (grant->lease_ms - 1) * KVX_NS_PER_MS;"),
    mutation("a stream's lease is not watched", SENDING,
             "from_ns + stream->ticket.lease_ms * KVX_NS_PER_MS;",
             "from_ns + 3 * stream->ticket.lease_ms * KVX_NS_PER_MS;"),
    mutation("a counter's target lacks a unit", FEED,
             "counter->wanted |= units;",
             "counter->wanted |= units & (units - 1) ? units & (units - 1) : units;"),
    mutation("a layer is reported before its last unit", ARRIVE,
             "if ((counter->bits & part) != part)",
             "if (__builtin_popcountll(counter->bits & part) + 1 < __builtin_popcountll(part))"),
    mutation("a grant with several senders begins when the first has come", FEED,
             "bool all = grant->came == grant->senders;", "bool all = grant->came == 1;"),
    mutation("a tail is told before the layers", ARRIVE,
             "grant->transfer.layers)\n		finish(grant, KVX_TAIL);",
             "grant->transfer.layers || counter->arrived)\n		finish(grant, KVX_TAIL);"),
    mutation("tokens that are not ready are sent", UNITS,
             "if (tokens == UINT32_MAX)", "if (tokens)"),
    mutation("silence is not noticed within two heartbeats", PEER,
             "if (silent_ns > peer->silence_ns - peer->silence_ns / 8) {",
             "if (silent_ns > 2 * peer->silence_ns) {"),
    mutation("a slot is not given back", GRANT,
             "	use(grant, -1);\n	give_slot_back(grant);", "	use(grant, -1);"),
    mutation("the units of a lost rail are not sent again", UNITS,
             "kvx_stream_posted(stream, layer)->bits &= ~(UINT64_C(1) << unit);", ";"),
    mutation("a delivered layer is sent again", SENDING,
             "stream->pending[layer / 64] &= ~(UINT64_C(1) << (layer % 64));", ";"),
    mutation("a layer that is told twice is sent twice", SENDING,
             "!kvx_transfer_layer_done(&stream->transfer, layer))", "stream->open)"),
    mutation("a layer is given back while it is sent again", SENDING,
             "(stream->resent[layer / 64] & bit) || !stream->flow.in_flight)",
             "(stream->resent[layer / 64] & bit) || stream->flow.accepted)"),
    mutation("a cancel does not wait for the hardware", SENDING,
             "	if (!kvx_stream_is_read(stream))\n		acknowledge(stream);\n}",
             "	acknowledge(stream);\n}"),
    mutation("granted blocks may be granted again", "src/core/pool.c",
             "if (!(atomic_fetch_or(&pool->granted[blocks[i] / 64], bit) & bit))",
             "if (atomic_fetch_or(&pool->granted[blocks[i] / 64], bit) || bit)"),
    mutation("an engine that is drained takes new grants", "src/core/drain.c",
             "if (!atomic_load(&engine->drain.on))",
             "if (!atomic_load(&engine->drain.on) || going == &engine->drain.grants)"),
    mutation("a failure has no text", "src/core/transfer.c",
             "transfer->text = strdup(text);", "transfer->text = text ? NULL : strdup(text);"),
    mutation("a peer's end ends nothing that went on over it", PEER,
             "while (!kvx_list_empty(&peer->feeds))",
             "while (!kvx_list_empty(&peer->feeds) && code != KVX_E_PEER_LOST)"),
    mutation("layers that lie apart leave together", PLAN,
             "next_target->base == target->base + bytes", "next_target->base != target->base"),
    mutation("what layers have side by side leaves for the first of them only", PLAN,
             "plane->chunk_bytes * layers;", "plane->chunk_bytes * 1;"),
    mutation("of layers that leave together the first one is told of alone", POST,
             "if (!--rail->layers) {", "if (!(rail->layers = 0)) {"),
    mutation("the rest of a layer that left with others is another unit's", POST,
             "kvx_cursor_seek_rest(&rail->cursor, &rail->stream->plan, rail->unit);",
             "kvx_cursor_seek_rest(&rail->cursor, &rail->stream->plan, 0);"),
    mutation("layers that left together are not posted again when their rail fails", UNITS,
             "take_unit(stream, layer + joined, unit, rail);",
             "take_unit(stream, layer + joined, unit, rail + 1);"),
]
