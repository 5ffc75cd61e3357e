# SPDX-License-Identifier: Apache-2.0
"""The two workers, each a process with an engine, a pool, and the model. A socket between them
carries lines of JSON: requests with their tickets one way, what the prefill did the other way."""
import contextlib
import ctypes
import json
import random
import struct
import sys
import time
import zlib

import backend
import kvxfer
import model

POOL_BLOCKS_SPARE = 24  # more than the longest request fills, so that its blocks lie scattered


class Failed(Exception):
    """A worker cannot go on."""


def prompts(arguments):
    """The requests: lists of tokens. Every fourth fills its last block."""
    draw = random.Random(arguments.seed)
    for number in range(arguments.prompts):
        length = draw.randint(1, arguments.length)
        if number % 4 == 3:
            full = max(length - length % model.BLOCK_TOKENS, model.BLOCK_TOKENS)
            length = min(full, arguments.length)
        yield [draw.randrange(model.Shape.vocabulary) for _ in range(length)]


def open_library(arguments):
    try:
        return kvxfer.Library(arguments.library)
    except OSError as error:
        raise Failed(f"{error}; --library names it, or LD_LIBRARY_PATH its folder") from None


def make_model(arguments):
    back = backend.BACKENDS[arguments.backend](arguments.device, arguments.seed)
    return model.Model(model.Shape(), back, arguments.length + arguments.tokens)


def pool_blocks(made):
    return made.blocks_max + POOL_BLOCKS_SPARE


def geometry(made, arguments):
    """Engines compare it: a request moves only between pools of the same model."""
    shape = made.shape
    return kvxfer.Geometry(
        layers=shape.layers,
        planes=2,
        blocks=pool_blocks(made),
        block_tokens=model.BLOCK_TOKENS,
        dtype=b"f32",
        model=zlib.crc32(repr((shape, arguments.seed)).encode()),
        layout=kvxfer.LAYOUT_NHD,
        heads=shape.kv_heads,
        heads_total=shape.kv_heads,
        head_bytes=shape.head * model.VALUE_BYTES,
    )


class Worker:
    """What both have. All that is opened is closed by the stack."""

    def __init__(self, arguments, role, stack):
        self.arguments, self.role = arguments, role
        self.model = made = make_model(arguments)
        self.back, self.shape = made.back, made.shape
        library = open_library(arguments)
        self.engine = stack.enter_context(
            kvxfer.Engine(library, name=role, transports=arguments.transports)
        )
        form, shape = geometry(made, arguments), self.shape.cache(pool_blocks(made))
        if self.back.on_device or arguments.memory == "own":
            self.cache = self.back.zeros(shape)
            self.back.finish()  # nothing may land before it is zeroed
            address, size = self.back.address(self.cache), form.blocks * self.block_bytes()
            region = stack.enter_context(kvxfer.Region(self.engine, size, address))
            self.pool = stack.enter_context(kvxfer.Pool(self.engine, form, region))
        else:  # the engine's own memory is mapped by the other process: one copy over shm
            self.pool = stack.enter_context(kvxfer.Pool(self.engine, form))
            self.cache = self.back.over(self.pool.address, shape)
        # Each worker has its blocks in another order.
        self.blocks = model.Blocks(form.blocks, random.Random(f"{role} {arguments.seed}"))
        self.tail_form = struct.Struct(f"<i{self.shape.vocabulary}f")
        self.tail = stack.enter_context(kvxfer.Region(self.engine, self.tail_form.size))

    def block_bytes(self):
        """Of one block in all planes of all layers."""
        shape = self.shape
        values = shape.layers * 2 * model.BLOCK_TOKENS * shape.kv_heads * shape.head
        return values * model.VALUE_BYTES

    def say(self, text):
        if self.arguments.verbose:
            print(f"{self.role}: {text}", file=sys.stderr, flush=True)


# --- the socket


def send(channel, message):
    try:
        channel.sendall(json.dumps(message).encode() + b"\n")
    except (ConnectionError, TimeoutError):
        raise Failed("the other worker is gone or silent") from None


def receive(lines):
    """The next message; None: there is none, because the other end is closed or silent."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        line = lines.readline()
        if line.endswith("\n"):
            return json.loads(line)
    return None


# --- prefill


def prefill(arguments, channel, stack):
    worker = Worker(arguments, "prefill", stack)
    requests = channel.makefile("r")
    while request := receive(requests):  # until the decode worker is done, or gone
        send(channel, prefill_one(worker, request))


def prefill_one(worker, request):
    arguments, prompt = worker.arguments, request["prompt"]
    blocks = worker.blocks.take(model.blocks_for(len(prompt)))
    told_ns = []
    ticket = bytes.fromhex(request["ticket"])
    with kvxfer.Stream(worker.pool, blocks, ticket, worker.tail) as stream:

        def on_layer(layer):
            time.sleep(arguments.layer_ms / 1000)
            told_ns.append(time.monotonic_ns())
            stream.layers_ready(layer)  # it moves while the next one computes

        logits = worker.model.prefill(prompt, worker.cache, blocks, on_layer)
        first = int(worker.back.xp.argmax(logits))
        tail = worker.tail_form.pack(first, *logits.tolist())
        ctypes.memmove(worker.tail.address, tail, len(tail))
        done_ns = time.monotonic_ns()
        stream.tail_ready()
        # The receiver's lease ends this too; from its end on the blocks are free here.
        stream.wait(kvxfer.ALL_LAYERS, arguments.lease_ms + 1000)
        way = stream.explain()
    worker.blocks.give(blocks)
    return {"blocks": blocks, "last_layer_ns": told_ns[-1], "done_ns": done_ns, "way": way}


# --- decode


def decode(arguments, channel, stack):
    worker = Worker(arguments, "decode", stack)
    decoder = model.Decoder(worker.model, worker.cache)
    channel.settimeout(arguments.lease_ms / 1000 + 1)
    answers = channel.makefile("r")
    for number, prompt in enumerate(prompts(arguments)):
        try:
            result = decode_one(worker, decoder, channel, answers, prompt)
        except (kvxfer.Error, Failed) as error:
            raise Failed(f"prompt {number}: {error}") from None
        print(json.dumps(result), flush=True)


def decode_one(worker, decoder, channel, answers, prompt):
    arguments, before = worker.arguments, worker.engine.stats().bytes_received
    length = len(prompt)
    blocks = worker.blocks.take(model.blocks_for(length + arguments.tokens))
    granted = blocks[: model.blocks_for(length)]  # the others get what is generated
    with kvxfer.Grant(worker.pool, granted, arguments.lease_ms, length, worker.tail) as grant:
        send(channel, {"prompt": prompt, "ticket": grant.ticket().hex()})
        whole_ns = []
        for layer in range(worker.shape.layers):
            grant.wait(layer, arguments.lease_ms + 1000)
            whole_ns.append(time.monotonic_ns())
            worker.say(f"layer {layer} of {length} tokens is whole")
        grant.wait(kvxfer.TAIL, arguments.lease_ms + 1000)
        end_ns = time.monotonic_ns()
    first, *logits = worker.tail_form.unpack(
        ctypes.string_at(worker.tail.address, worker.tail_form.size)
    )
    if logits[first] != max(logits):
        raise Failed(f"the tail says that token {first} follows, and its logits do not")
    if arguments.corrupt:
        corrupt(worker, granted[len(granted) // 2])
    tokens = decoder.generate(first, length, blocks, arguments.tokens)
    worker.blocks.give(blocks)
    answer = receive(answers)
    if answer is None:
        raise Failed("the prefill worker is gone or silent")
    return {
        "tokens": tokens,
        "bytes": worker.engine.stats().bytes_received - before,
        "early": sum(ns < answer["last_layer_ns"] for ns in whole_ns),
        "exposed_ms": (end_ns - answer["done_ns"]) / 1e6,
        "blocks": [answer["blocks"], granted],
        "way": answer["way"],
    }


def corrupt(worker, block):
    """One bit of one byte in layer 0's K of a block: the exponent of a small value, which is a
    huge one then."""
    xp, values = worker.back.xp, worker.cache[0, 0, block, 0].reshape(-1)
    smallest = int(xp.argmin(abs(values)))
    octets = values.view(xp.uint8)
    octets[smallest * model.VALUE_BYTES + 3] ^= 0x40
