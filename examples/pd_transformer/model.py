# SPDX-License-Identifier: Apache-2.0
"""A small decoder-only transformer with a paged KV cache: grouped-query attention, rotary
positions, RMSNorm, SwiGLU. Its weights are random, from a seed."""
import dataclasses
import math

BLOCK_TOKENS = 16
VALUE_BYTES = 4  # float32


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int = 8
    heads: int = 8
    kv_heads: int = 2
    head: int = 32  # values of one head of one token
    inner: int = 384  # of the feed-forward part
    vocabulary: int = 1000

    @property
    def width(self):
        return self.heads * self.head

    def cache(self, blocks):
        """Of the KV cache: a block holds [token][head], and plane 0 is K, plane 1 V."""
        return (self.layers, 2, blocks, BLOCK_TOKENS, self.kv_heads, self.head)


def blocks_for(tokens):
    return -(-tokens // BLOCK_TOKENS)


class Blocks:
    """Which blocks of a cache are free. A request gets any of them, in no order."""

    def __init__(self, count, draw):
        self.free, self.draw = set(range(count)), draw

    def take(self, count):
        taken = self.draw.sample(sorted(self.free), count)
        self.free -= set(taken)
        return taken

    def give(self, blocks):
        self.free |= set(blocks)


class Model:
    """positions: most tokens of a request, its prompt and what is generated."""

    def __init__(self, shape, back, positions):
        self.shape, self.back, self.xp = shape, back, back.xp
        self.blocks_max = blocks_for(positions)
        width, head = shape.width, shape.head
        # Queries are drawn larger than the rest, so that attention is sharp and the tokens depend
        # on what is in the cache.
        self.layers = [
            {
                "query": back.normal((width, width), 3 / math.sqrt(width)),
                "key_value": back.normal((width, 2 * shape.kv_heads * head), 1 / math.sqrt(width)),
                "out": back.normal((width, width), 1 / math.sqrt(width)),
                "gate": back.normal((width, shape.inner), 1 / math.sqrt(width)),
                "up": back.normal((width, shape.inner), 1 / math.sqrt(width)),
                "down": back.normal((shape.inner, width), 1 / math.sqrt(shape.inner)),
            }
            for _ in range(shape.layers)
        ]
        self.embedding = back.normal((shape.vocabulary, width), 1)
        self.head = back.normal((width, shape.vocabulary), 1 / math.sqrt(width))
        self._tables(BLOCK_TOKENS * self.blocks_max)

    def _tables(self, positions):
        """The angles of each position, and what each position may look at: 0, or -inf for what
        comes after it."""
        back, half = self.back, self.shape.head // 2
        angles = [[p / 10000 ** (i / half) for i in range(half)] for p in range(positions)]
        self.cosines = back.floats([[math.cos(angle) for angle in row] for row in angles])
        self.sines = back.floats([[math.sin(angle) for angle in row] for row in angles])
        self.unseen = back.floats(
            [[0.0 if k <= q else -math.inf for k in range(positions)] for q in range(positions)]
        )

    # --- parts of a layer; x is [token][width]

    def norm(self, x):
        return x / self.xp.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)

    def _rotate(self, x, positions):
        """x is [token][head][value]: pairs of values are turned by the position's angles."""
        half = self.shape.head // 2
        first, second = x[:, :, :half], x[:, :, half:]
        cosine, sine = self.cosines[positions][:, None, :], self.sines[positions][:, None, :]
        turned = (first * cosine - second * sine, second * cosine + first * sine)
        return self.xp.concatenate(turned, axis=-1)

    def project(self, weights, x, positions):
        """Query, key and value of each token, as [token][head][value]."""
        shape, x = self.shape, self.norm(x)
        query = (x @ weights["query"]).reshape(-1, shape.heads, shape.head)
        both = (x @ weights["key_value"]).reshape(-1, 2, shape.kv_heads, shape.head)
        key = self._rotate(both[:, 0], positions)
        return self._rotate(query, positions), key, both[:, 1]

    def attend(self, weights, query, key, value, unseen):
        """unseen: [token of query][token of key], added to the scores. Heads of the queries share
        those of keys and values in groups."""
        shape, swap = self.shape, self.xp.swapaxes
        count, group = query.shape[0], shape.heads // shape.kv_heads
        query = swap(query, 0, 1).reshape(shape.kv_heads, group * count, shape.head)
        scores = query @ swap(swap(key, 0, 1), 1, 2) / math.sqrt(shape.head)
        scores = scores.reshape(shape.kv_heads, group, count, -1) + unseen
        scores = self.xp.exp(scores - self.xp.amax(scores, axis=-1, keepdims=True))
        scores = scores / scores.sum(axis=-1, keepdims=True)
        mixed = scores.reshape(shape.kv_heads, group * count, -1) @ swap(value, 0, 1)
        mixed = swap(mixed.reshape(shape.heads, count, shape.head), 0, 1)
        return mixed.reshape(count, shape.width) @ weights["out"]

    def feed_forward(self, weights, x):
        x = self.norm(x)
        gate = x @ weights["gate"]
        return (gate / (1 + self.xp.exp(-gate)) * (x @ weights["up"])) @ weights["down"]

    # --- a request

    def prefill(self, prompt, cache, blocks, on_layer):
        """Puts K and V of all tokens of the prompt into these blocks of a cache. on_layer(layer) is
        called once a layer's are there. Returns the logits of the last position."""
        back, count = self.back, len(prompt)
        positions = back.integers(list(range(count)))
        places = back.integers([blocks[p // BLOCK_TOKENS] for p in range(count)])
        offsets = back.integers([p % BLOCK_TOKENS for p in range(count)])
        x = self.embedding[back.integers(prompt)]
        for layer, weights in enumerate(self.layers):
            query, key, value = self.project(weights, x, positions)
            cache[layer, 0][places, offsets] = key
            cache[layer, 1][places, offsets] = value
            back.after(lambda layer=layer: on_layer(layer))
            x = x + self.attend(weights, query, key, value, self.unseen[:count, :count])
            x = x + self.feed_forward(weights, x)
        logits = (self.norm(x[-1:]) @ self.head)[0]
        back.finish()
        return logits


class Decoder:
    """Generates greedily, one token after another, from the KV in a cache. Its step has the same
    addresses and sizes each time, so a GPU can replay it: what a request does not fill of the
    block table is masked. Made while the cache is not used yet."""

    def __init__(self, model, cache):
        self.model, self.cache, back = model, cache, model.back
        self.token, self.position = back.integers([0]), back.integers([0])
        self.table = back.integers([0] * model.blocks_max)
        self.step = back.record(self._step)

    def _step(self):
        model, shape = self.model, self.model.shape
        position, table = self.position, self.table
        place, offset = table[position // BLOCK_TOKENS], position % BLOCK_TOKENS
        held = (-1, shape.kv_heads, shape.head)
        x = model.embedding[self.token]
        for layer, weights in enumerate(model.layers):
            keys, values = self.cache[layer, 0], self.cache[layer, 1]
            query, key, value = model.project(weights, x, position)
            keys[place, offset] = key
            values[place, offset] = value
            x = x + model.attend(
                weights, query, keys[table].reshape(held), values[table].reshape(held),
                model.unseen[position],
            )  # fmt: skip
            x = x + model.feed_forward(weights, x)
        self.token[:] = model.xp.argmax((model.norm(x) @ model.head)[0])
        self.position[:] = position + 1

    def generate(self, first, length, blocks, count):
        """count tokens, the first among them, after a prompt of that length whose KV is in these
        blocks; they have room for the others."""
        integers = self.model.back.integers
        self.table[:] = 0
        self.table[: len(blocks)] = integers(blocks)
        self.token[:], self.position[:] = first, length
        tokens = [first]
        while len(tokens) < count:
            self.step()
            tokens.append(int(self.token[0]))
        return tokens
