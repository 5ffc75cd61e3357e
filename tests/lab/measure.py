#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Figures of connections and fences over verbs. They are printed and not judged: emulated
processors are slow, and what else the machine does shows."""
import re
import statistics
import sys

import common
import fleet
import tap
from common import shared
from fleet import RECEIVER, SENDER, Worker, fault
from fault import LAYERS, Requests, Tally, transfer

MEASURE = sys.argv[6]  # the program of measure.c
PATIENT = "heartbeat_ms=30000"
CONNECT = "connect_timeout_ms=120000"
LIMIT_S = 150
ROUNDS = 5
DRAIN_MS = 100


def memory_kib(worker):
    """Of the process: resident, and its own without what it shares with the kernel."""
    path = f"/proc/{worker.pid}/smaps_rollup"
    text = shared().run(worker.node, ("cat", path)).expect().out
    return [int(re.search(rf"^{name}: *(\d+) kB", text, re.MULTILINE)[1])
            for name in ("Rss", "Anonymous")]


def connect(receiver, engines, *options):
    """Returns the command and how long it took, in ms."""
    command = (MEASURE, receiver.address, engines, "transports=verbs", "topology=off",
               "unauthenticated_network=on",
               PATIENT, CONNECT, "verbs_receives=64", *options)
    peers = shared().spawn(SENDER, command)
    return peers, float(peers.read_line(LIMIT_S))


@tap.case
def memory_of_a_receiver_and_time_to_connect():
    figures = {}
    with fault.workers():
        for engines, options in ((1, ["verbs_devices=rxe0"]), (64, [])):
            receiver = Worker(RECEIVER, PATIENT, CONNECT)
            peers, took_ms = connect(receiver, engines, *options)
            rails = 2 if options else 4
            figures[engines * rails] = (took_ms, memory_kib(receiver))
            peers.close_input()
            peers.wait(LIMIT_S).expect()
            receiver.quit()
    few, many = figures[2], figures[256]
    print("# queue pairs | connected after ms | resident KiB | of it anonymous KiB")
    for pairs, (took_ms, memory) in figures.items():
        print(f"# {pairs} | {took_ms:.0f} | {memory[0]} | {memory[1]}")
    print(f"# 254 more: resident {many[1][0] - few[1][0]:+} KiB, "
          f"anonymous {many[1][1] - few[1][1]:+} KiB", flush=True)


def revoke_ms(receiver, sender, stopped):
    """From kvx_grant_revoke() to its return, in mid-stream."""
    requests = Requests(sender, receiver, [0]).open()
    requests.ready(LAYERS - 1)
    if stopped:
        sender.stop()
    receiver.send("target 0", f"revoke 0 {DRAIN_MS}")
    before, after = receiver.answers(2)
    after.expect()
    if stopped:
        sender.resume()
    requests.settle()
    sender.call("wait 0 20000").expect("KVX_E_REVOKED")
    requests.close()
    return (after.at - before.at) * 1e3


@tap.case
def time_from_revoke_to_fence():
    """A sender that does not answer is given so many ms to drain."""
    for name, stopped in (("healthy", False), ("stopped", True)):
        with fault.workers():
            receiver, sender = fleet.pair(PATIENT)
            transfer(sender, receiver, Tally("none", "verbs"))
            times = [revoke_ms(receiver, sender, stopped) for _ in range(ROUNDS)]
            shown = " ".join(f"{time:.1f}" for time in times)
            print(f"# revoke with a {name} sender, {DRAIN_MS} ms to drain: median "
                  f"{statistics.median(times):.1f} ms of {shown}", flush=True)
            for worker in (sender, receiver):
                worker.quit()


common.main()
