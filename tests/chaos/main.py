# SPDX-License-Identifier: Apache-2.0
"""Requests between real processes while faults happen to them: see docs/chaos.md. Takes what test
programs take (fault.py), then the options of tests/chaos/chaos."""
import argparse
import contextlib
import random
import sys
import time
import traceback

import tap
from cluster import Cluster
from faults import FAULTS
from load import Tally

TRANSPORTS = ("shm", "tcp", "cable")
CLUSTER_FAULTS_MAX = 25  # that one cluster lives through
CALM, END = "first requests", "clean at the end"
FAILURES_MAX = 5


def arguments():
    parser = argparse.ArgumentParser(prog="tests/chaos/chaos", description=__doc__.split(":")[0])
    parser.add_argument("--requests", type=int, default=10**9, help="as many, then it ends")
    parser.add_argument("--seconds", type=float, default=60, help="so long, then it ends")
    parser.add_argument("--seed", type=int, help="of the order of faults (default: a random one)")
    parser.add_argument("--transports", default=",".join(TRANSPORTS),
                        help="a choice of shm, tcp, and cable: tcp between two network namespaces")
    parser.add_argument("--faults", default="", help="only those whose name holds this text")
    parser.add_argument("--tap", action="store_true", help="results as a test of the suite")
    chosen = parser.parse_args(sys.argv[5:])
    chosen.transports = chosen.transports.split(",")
    if unknown := set(chosen.transports) - set(TRANSPORTS):
        parser.error(f"no such transport: {', '.join(unknown)}")
    if chosen.seed is None:
        chosen.seed = random.SystemRandom().randrange(1 << 31)
    return chosen


class Chaos:
    def __init__(self, chosen):
        self.chosen = chosen
        self.end = time.monotonic() + chosen.seconds
        self.tallies = {}
        self.failures = []  # (tally, text)
        self.skipped = {}  # reasons by transport
        self.decks = {}

    def tally(self, name, transport):
        return self.tallies.setdefault((name, transport), Tally(name, transport))

    def faults(self, transport):
        return [
            one for one in FAULTS if transport in one.transports and self.chosen.faults in one.name
        ]

    def deal(self, transport):
        """Every fault once, in random order, before any comes again."""
        if not self.decks.get(transport):
            self.decks[transport] = self.faults(transport)
            random.shuffle(self.decks[transport])
        return self.decks[transport].pop()

    def requests(self):
        return sum(tally.requests for tally in self.tallies.values())

    def over(self):
        """Not before each fault was tried."""
        if len(self.failures) >= FAILURES_MAX:
            return True
        if self.requests() < self.chosen.requests and time.monotonic() < self.end:
            return False
        return all(
            (one.name, transport) in self.tallies
            for transport in self.chosen.transports
            if transport not in self.skipped
            for one in self.faults(transport)
        )

    def run(self):
        random.seed(self.chosen.seed)
        while not self.over():
            open_transports = [one for one in self.chosen.transports if one not in self.skipped]
            if not open_transports:
                return
            for transport in open_transports:
                if not self.over():
                    self.live(transport)

    def live(self, transport):
        """A cluster, from its begin to its end."""
        options = random.choice(((), (), ("tcp_buffer=64K",), ("tcp_connections=4",)))
        tally = self.tally(CALM, transport)
        try:
            with contextlib.ExitStack() as stack:
                cluster = Cluster(transport, options).open(stack)
                tally.tried += 1
                cluster.feel(tally)
                for _ in range(min(CLUSTER_FAULTS_MAX, len(self.faults(transport)))):
                    if self.over():
                        break
                    one = self.deal(transport)
                    tally = self.tally(one.name, transport)
                    tally.tried += 1
                    one.try_once(cluster, tally)
                tally = self.tally(END, transport)
                tally.tried += 1
                cluster.finish(tally)
        except tap.Skip as reason:
            self.skipped[transport] = str(reason)
            del self.tallies[tally.name, transport]
        except AssertionError as error:
            self.failures.append((tally, str(error)))
            print(f"{tally.name}, {transport}: {error}", file=sys.stderr)
            traceback.print_exc()


HEAD = ("fault", "transport", "tried", "requests", "finished", "ends with an error",
        "longest wait", "MB verified", "bytes wrong")


def row(tally):
    failed = ", ".join(
        f"{name.removeprefix('KVX_E_')} {count}" for name, count in sorted(tally.failed.items())
    )
    return (tally.name, tally.transport, tally.tried, tally.requests, tally.finished,
            failed or "-", f"{tally.longest_s:.2f} s", f"{tally.bytes_verified / 1e6:.0f}",
            tally.bytes_wrong)


def table(chaos):
    order = {name: number for number, name in
             enumerate([CALM, *(one.name for one in FAULTS), END])}
    rows = sorted(chaos.tallies.values(), key=lambda one: (order[one.name], one.transport))
    total = Tally("all", "all")
    for tally in rows:
        for name in ("tried", "requests", "finished", "bytes_verified", "bytes_wrong"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        total.failed.update(tally.failed)
        total.longest_s = max(total.longest_s, tally.longest_s)
    for cells in (HEAD, ("---",) * len(HEAD), *map(row, rows), row(total)):
        yield "| " + " | ".join(map(str, cells)) + " |"
    for transport, reason in chaos.skipped.items():
        yield f"SKIP {transport}: {reason}"


def report_tap(chaos):
    points = list(chaos.tallies)
    print(f"1..{len(points) + len(chaos.skipped)}")
    failed = {(tally.name, tally.transport) for tally, _ in chaos.failures}
    for number, (name, transport) in enumerate(points, 1):
        print(f"{'not ' if (name, transport) in failed else ''}ok {number} - {name}: {transport}")
    for number, (transport, reason) in enumerate(chaos.skipped.items(), len(points) + 1):
        print(f"ok {number} - faults: {transport} # SKIP {reason}")


def main():
    chosen = arguments()
    mark = "# " if chosen.tap else ""
    print(f"{mark}seed {chosen.seed}", flush=True)
    chaos = Chaos(chosen)
    chaos.run()
    for line in table(chaos):
        print(mark + line)
    if chosen.tap:
        report_tap(chaos)
    sys.exit(bool(chaos.failures) or chaos.requests() == 0 and not chaos.skipped)


main()
