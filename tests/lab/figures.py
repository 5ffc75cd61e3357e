#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Figures of verbs between the lab's two nodes, all in one boot: kvxfer-bench in turns with
ib_write_bw over one rail, and the completions of a request over both rails. Nothing is judged by
its time: the exit status says whether everything ran."""
import argparse
import json
import pathlib
import shutil
import sys

sys.dont_write_bytecode = True  # nothing is written into the source tree

import image
import lab

CANNOT_RUN = 77
SENDER, RECEIVER = lab.NODES
PORT = 7411
RUN_LIMIT_S = 300
ONE_RAIL = ("--device", "rxe0", "--qps", "1")
# Blocks of a request, so that one has 4 MiB; and the least ratio to aim at.
RATES = {"64K": (64, 0.95), "4K": (1024, 0.90)}
LAYERS, QPS = 6, 2


def arguments():
    parser = argparse.ArgumentParser(
        prog="tests/lab/figures.py",
        description=__doc__,
        epilog="Exit status: 0 if everything ran, 1 if not, 77 if this machine cannot.",
    )
    parser.add_argument("--build", type=pathlib.Path, default="build", metavar="FOLDER",
                        help="where kvxfer-bench was built (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5, metavar="S",
                        help="transfer time of each rate, a fifth in each of its five rounds "
                        "(default: %(default)s)")
    parser.add_argument("--cache", metavar="FOLDER", default=image.CACHE,
                        help="where the kernel is kept (default: build/lab)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE",
                        help="also writes the results of all runs as a list")
    return parser.parse_args()


def measure(nodes, bench, *options):
    """The result of one run of the bench."""
    line = (bench, "run", "blocks", "--peer", f"{lab.address(RECEIVER, 'mgmt')}:{PORT}",
            "--transport", "verbs", "--pool-bytes", "32M", "--json", "-", *options)
    done = nodes.run(SENDER, tuple(map(str, line)), RUN_LIMIT_S).expect()
    result = json.loads(done.out)
    if "--baseline" in options and not result["baseline"]:
        raise AssertionError(f"ib_write_bw was not measured\n{done.err}")
    return result


def rate_row(size, aim, result):
    ratios = " ".join(f"{ratio:.2f}" for ratio in result["baseline_ratios"])
    return (f"{size:>5}  {result['gbytes_per_s'] * 1e3:8.1f}  "
            f"{result['baseline']['gbytes_per_s'] * 1e3:11.1f}  {result['baseline']['ratio']:5.2f}"
            f"  {aim:5.2f}   {ratios}")


def measure_rates(nodes, bench, seconds):
    results = []
    print("one rail, one queue pair: MB/s, and the median of the ratios of pairs\n"
          "block    kvxfer  ib_write_bw  ratio    aim   pairs")
    for size, (blocks, aim) in RATES.items():
        result = measure(nodes, bench, *ONE_RAIL, "--block-size", size, "--blocks", blocks,
                         "--seconds", seconds, "--baseline")
        print(rate_row(size, aim, result), flush=True)
        results.append(result)
    return results


def measure_completions(nodes, bench):
    results = []
    print("\nboth rails: completions at the receiver for a request\n"
          "blocks  layers  queue pairs  completions")
    for blocks in 8, 32, 128:
        result = measure(nodes, bench, "--option=topology=off", "--qps", QPS,
                         "--layers", LAYERS, "--blocks", blocks, "--block-size", "4K",
                         "--requests", 8, "--verify")
        print(f"{blocks:6}  {LAYERS:6}  {result['queue_pairs']:11}  "
              f"{result['completions_per_request']:11.2f}", flush=True)
        results.append(result)
    return results


def main():
    options = arguments()
    bench = (options.build / "bench" / "kvxfer-bench").resolve()
    for program in bench, "ib_write_bw":
        if not shutil.which(program):
            raise image.CannotRun(f"needs {program}: build it, or install the package perftest")
    with lab.Lab(cache=options.cache) as nodes:
        server = nodes.spawn(RECEIVER, (str(bench), "serve", "--unauthenticated-network",
                                        "--listen", f"{lab.address(RECEIVER, 'mgmt')}:{PORT}"))
        server.wait_for_text("listening on")
        results = measure_rates(nodes, bench, options.seconds)
        results += measure_completions(nodes, bench)
        server.kill()
        server.wait()
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


lab.end_on_signals()
try:
    main()
except image.CannotRun as reason:
    print(f"tests/lab/figures.py: {reason}", file=sys.stderr)
    sys.exit(CANNOT_RUN)
except (lab.LabError, AssertionError) as error:
    print(f"tests/lab/figures.py: {error}", file=sys.stderr)
    sys.exit(1)
