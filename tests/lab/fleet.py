# SPDX-License-Identifier: Apache-2.0
"""The workers of tests/fault, in the lab's nodes."""
import contextlib
import pathlib
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "fault")]

import fault
import lab
from common import shared

RECEIVER, SENDER = lab.NODES  # the nodes of either
HOSTILE = sys.argv[5]  # the worker of worker.c
BLOCK_BYTES = 8200


class Worker(fault.Worker):
    """One in a node, with the transport verbs. `at` of its answers is by that node's clock."""

    program = fault.WORKER

    def __init__(self, node, *options, prefix=(), block_bytes=BLOCK_BYTES, blocks=10):
        arguments = [*prefix, self.program, "mapped"]
        arguments += [fault.LAYERS, 2, fault.SLOTS, blocks, block_bytes, "transports=verbs"]
        arguments += [f"listen={lab.address(node, 'mgmt')}:0", "unauthenticated_network=on"]
        arguments += ["topology=off", *options]  # both rails, wherever the memory is
        self.node = node
        self._said = []
        self.process = shared().spawn(node, arguments)
        fault._living.add(self)
        opened = self._answer().expect()
        self.pid = self.process.pid
        self.incarnation, self.address = opened.text.split(" ", 1)
        self.start_counts = self.counts()

    def send(self, *lines):
        self._said = [line[:40] for line in lines]
        self.process.write("".join(line + "\n" for line in lines))

    def _answer(self):
        try:
            line = self.process.read_line(fault.ANSWER_S)
        except lab.LabError as error:
            raise AssertionError(f"{self._said}: {error}") from error
        result, at, text = line.rstrip("\n").split(" ", 2)
        return fault.Answer(result, int(at) / 1e9, text)

    def stop(self):
        self.process.signal(signal.SIGSTOP)
        stopped = f"until grep -q '^State:.T' /proc/{self.pid}/status; do :; done"
        shared().run(self.node, stopped).expect()
        return time.monotonic()

    def resume(self):
        self.process.signal(signal.SIGCONT)

    def kill(self):
        at = time.monotonic()
        self.process.kill()
        return at

    def quit(self):
        self.process.close_input()
        code = self.process.wait(fault.ANSWER_S).code
        assert code == 0, f"worker {self.pid} of node {self.node} ended with {code}"
        self.reap()

    def show_log(self):
        lines = self.process.err.splitlines()[-fault.LOG_LINES:]
        print(f"worker {self.pid} of node {self.node}:", *lines, sep="\n  ", file=sys.stderr)

    def reap(self):
        fault._living.discard(self)
        with contextlib.suppress(lab.LabError):  # the lab may have ended before
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()


def pair(*options, **more):
    """A receiver and a sender."""
    return Worker(RECEIVER, *options, **more), Worker(SENDER, *options, **more)
