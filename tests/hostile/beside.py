# SPDX-License-Identifier: Apache-2.0
"""A healthy pair, and a liar that attacks its receiver."""
import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import time

import fault
from fault import Requests, Worker

SLOTS = range(fault.SLOTS - 1)  # of the healthy pair
BAIT = fault.SLOTS - 1  # the slot whose tickets the liar gets
BAIT_S = 0.02  # between two of them


def engine(mode):
    """The receiver listens at both doors, whichever the sender comes by."""
    return dataclasses.replace(mode, options=("transports=shm,tcp",))


def resources(pid):
    """Resident memory of its own and addresses used, in KiB, mappings, descriptors."""
    root = pathlib.Path("/proc", str(pid))
    status = (root / "status").read_text()
    return {
        "anonymous_kib": int(re.search(r"^RssAnon:\s*(\d+)", status, re.MULTILINE)[1]),
        "address_kib": int(re.search(r"^VmSize:\s*(\d+)", status, re.MULTILINE)[1]),
        "mappings": (root / "maps").read_bytes().count(b"\n"),
        "descriptors": len(os.listdir(root / "fd")),
    }


def engine_cpu_s(pid):
    """That the engine's thread has used, whatever else its process does."""
    for task in pathlib.Path("/proc", str(pid), "task").iterdir():
        if (task / "comm").read_text() == "kvxfer\n":
            return int((task / "schedstat").read_text().split()[0]) / 1e9
    raise AssertionError(f"process {pid} has no thread of an engine")


def renice(pid, niceness):
    """Where the scheduler groups processes by session (sched_autogroup), niceness within a session
    says nothing to other sessions: the group has its own."""
    os.setpriority(os.PRIO_PROCESS, pid, niceness)
    for task in pathlib.Path("/proc", str(pid), "task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(task.name), niceness)
    with contextlib.suppress(FileNotFoundError):
        pathlib.Path("/proc", str(pid), "autogroup").write_text(str(niceness))


def bait(receiver):
    """Another grant for the liar; the one before is closed and its ticket dead."""
    receiver.call(f"close {BAIT}").expect()
    return receiver.call(f"grant {BAIT} {fault.new_key()} 5000").expect().text


class Liar:
    """The hostile process. It gets tickets that are its own, so that its lies come past the key."""

    def __init__(self, program, receiver, seed, prefix=()):
        self.receiver = receiver
        self.process = subprocess.Popen(
            [*prefix, program, receiver.address, str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True)
        self.pid = self.process.pid
        self.bait()

    def bait(self):
        self.process.stdin.write(bait(self.receiver).encode() + b"\n")

    def end(self):
        """Returns how often it did what."""
        assert self.process.poll() is None, f"the liar ended with {self.process.returncode}"
        self.process.stdin.close()
        said = self.process.stdout.read().decode()
        assert self.process.wait(fault.ANSWER_S) == 0, f"the liar ended: {self.process.returncode}"
        self.process.stdout.close()
        lines = (line.split(" ", 1) for line in said.splitlines())
        return {name: int(count) for count, name in lines}

    def reap(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def rounds_for(seconds, sender, receiver, tally, liar=None):
    """Requests one after another for a time; yields how long each round took, in seconds. Every
    byte is verified by the tally."""
    end_s = time.monotonic() + seconds
    bait_s = 0
    while time.monotonic() < end_s:
        if time.monotonic() > bait_s:
            liar.bait() if liar else bait(receiver)
            bait_s = time.monotonic() + BAIT_S
        yield Requests(sender, receiver, SLOTS).open().finish(tally)
    receiver.call(f"close {BAIT}").expect()


def newcomer_gets_in(mode, receiver, tally, blocks):
    newcomer = Worker(mode, blocks=blocks)
    Requests(newcomer, receiver, SLOTS).open().finish(tally)
    newcomer.quit()
