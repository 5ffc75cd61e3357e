#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A transformer prefills in one process and decodes in another; kvxfer moves its KV cache layer by
layer while the prefill computes. The tokens must be those of one process that does both.

    examples/pd_transformer/pd_transformer.py --library build/libkvxfer.so.0 --transports tcp
    examples/pd_transformer/pd_transformer.py --backend torch --device cuda
    examples/pd_transformer/pd_transformer.py --corrupt

docs/pd-transformer.md follows a request through the files of this folder."""
import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys

sys.dont_write_bytecode = True  # nothing is left in the source tree

import backend  # noqa: E402
import kvxfer  # noqa: E402
import model  # noqa: E402
import workers  # noqa: E402

END_S = 10  # for a worker to end once the other one has


def at_least(least):
    def number(text):
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--transports", default="auto", help="of the engines: shm, tcp, a list or auto")
    add("--backend", choices=sorted(backend.BACKENDS), default="numpy")
    add("--device", help="of torch: cpu, cuda or cuda:1; cuda unless said otherwise")
    add("--prompts", type=at_least(1), default=4, help="how many")
    add("--length", type=at_least(1), default=160, help="tokens of a prompt, at most")
    add("--tokens", type=at_least(2), default=16, help="generated for each prompt")
    add("--seed", type=at_least(0), default=1, help="of weights, prompts and block tables")
    add("--library", metavar="PATH", help="libkvxfer.so.0; where the system's loader finds it")
    add("--memory", choices=["engine", "own"], default="engine",
        help="of the cache; own: the back end's, registered, as a GPU's always is")  # fmt: skip
    add("--corrupt", action="store_true", help="change one byte of each request before decoding")
    add("--layer-ms", type=at_least(0), default=0, help="added to each layer of the prefill")
    add("--lease-ms", type=at_least(1), default=10000, help="of a grant")
    add("--verbose", action="store_true")
    add("--role", choices=["prefill", "decode"], help=argparse.SUPPRESS)
    add("--channel", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device is None:
        arguments.device = "cuda" if arguments.backend == "torch" else "cpu"
    return arguments


# --- the two workers' processes


def start(role, end, **options):
    """This program again, as one of the workers, with its end of the socket."""
    command = [sys.executable, __file__, *sys.argv[1:], "--role", role]
    return subprocess.Popen(
        [*command, "--channel", str(end.fileno())],
        stdin=subprocess.DEVNULL, pass_fds=[end.fileno()], **options,
    )  # fmt: skip


def be(arguments):
    """A worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    work = workers.prefill if arguments.role == "prefill" else workers.decode
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(socket.socket(fileno=arguments.channel))
        work(arguments, channel, stack)


def how_ended(status):
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def run_workers(arguments):
    """What the decode worker tells of each prompt."""
    here, there = socket.socketpair()
    with contextlib.ExitStack() as stack:
        processes = {}
        for role, end, out in ("prefill", here, None), ("decode", there, subprocess.PIPE):
            with end:  # it has only one holder, so that each worker sees the other one's end
                process = processes[role] = start(role, end, stdout=out)
            stack.callback(process.wait)
            stack.callback(process.kill)  # does nothing to one that has ended
            if arguments.verbose:
                print(f"{role}: process {process.pid}", file=sys.stderr, flush=True)
        with processes["decode"].stdout as lines:
            results = [json.loads(line) for line in lines if line.endswith(b"\n")]
        ends = []
        for role in "decode", "prefill":
            with contextlib.suppress(subprocess.TimeoutExpired):
                processes[role].wait(END_S)
            status = processes[role].poll()
            if status is None:
                ends.append(f"the {role} worker did not end")
            elif status:
                ends.append(f"the {role} worker {how_ended(status)}")
    if ends:
        raise workers.Failed("; ".join(ends))
    return results


# --- one process that does both, and the comparison


def alone(arguments, made):
    """The tokens of each prompt, without any engine. Here too a request's blocks lie scattered."""
    cache = made.back.zeros(made.shape.cache(workers.pool_blocks(made)))
    decoder = model.Decoder(made, cache)
    free = model.Blocks(workers.pool_blocks(made), random.Random(f"alone {arguments.seed}"))
    for prompt in workers.prompts(arguments):
        blocks = free.take(model.blocks_for(len(prompt) + arguments.tokens))
        logits = made.prefill(prompt, cache, blocks, lambda layer: None)
        first = int(made.back.xp.argmax(logits))
        yield prompt, decoder.generate(first, len(prompt), blocks, arguments.tokens)
        free.give(blocks)


COLUMNS = (
    "prompt tokens", "layers", "blocks", "bytes moved", "layers early", "exposed ms", "tokens equal"
)  # fmt: skip


def row(values):
    return "  ".join(f"{value:>{len(name)}}" for name, value in zip(COLUMNS, values))


def tell_more(number, result, expected):
    prefill_blocks, decode_blocks = result["blocks"]
    print(f"prompt {number}: {result['way']}")
    print(f"  prefill blocks {prefill_blocks}\n  decode blocks  {decode_blocks}")
    print(f"  generated {result['tokens']}\n  expected  {expected}")


def compare(arguments, made, results):
    """Prints the table. True: it is as it should be."""
    print(row(COLUMNS))
    equal = 0
    for number, (result, (prompt, expected)) in enumerate(zip(results, alone(arguments, made))):
        same = result["tokens"] == expected
        equal += same
        print(row([
            len(prompt), made.shape.layers, model.blocks_for(len(prompt)), result["bytes"],
            result["early"], f"{result['exposed_ms']:.2f}", "yes" if same else "no",
        ]))  # fmt: skip
        if arguments.verbose:
            tell_more(number, result, expected)
    count = arguments.prompts
    if arguments.corrupt:
        print("one byte of each request was changed after it had arrived")
        print(f"{count - equal} of {count} prompts: tokens differ")
        return equal == 0 and len(results) == count
    print(f"{equal} of {count} prompts: tokens equal")
    return len(results) == equal == count


def main():
    arguments = parse()
    if arguments.role:
        return be(arguments)
    library = workers.open_library(arguments)
    made = workers.make_model(arguments)
    results = run_workers(arguments)
    shape = made.shape
    print(f"kvxfer {library.version().decode()}, {made.back.name} on {arguments.device}")
    print(
        f"model: {shape.layers} layers, {shape.heads} heads, {shape.kv_heads} kv heads of"
        f" {shape.head}, {shape.vocabulary} tokens, blocks of {model.BLOCK_TOKENS}"
    )
    return 0 if compare(arguments, made, results) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("pd_transformer: ended by a signal"))
    name = "pd_transformer"
    if "--role" in sys.argv:
        name += f": {sys.argv[sys.argv.index('--role') + 1]} worker {os.getpid()}"
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (kvxfer.Error, backend.Missing, workers.Failed, OSError) as error:
        sys.exit(f"{name}: {error}")
