# SPDX-License-Identifier: Apache-2.0
"""Real processes for fault tests: workers that are driven by lines, and what became of requests.

A test program gets the source root, the build folder, the worker and the percentage of rounds."""
import atexit
import collections
import contextlib
import dataclasses
import itertools
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import tap

WORKER = sys.argv[3]
PERCENT = int(sys.argv[4])  # of the rounds; less than 100 where a sanitizer makes workers slow
# What a machine may add to a time that the contract bounds: once in a while, and always.
STALL_S = 3.0 * max(1, 100 // PERCENT)
SLACK_S = 0.4 * max(1, 100 // PERCENT)
HEARTBEAT_MS = 200 if PERCENT == 100 else 500
NOTICED_S = 2 * HEARTBEAT_MS / 1000
ANSWER_S = 30  # a worker that takes longer hangs
LOG_LINES = 40
SLOTS = 4
LAYERS = 16

_keys = itertools.count(random.SystemRandom().randrange(1 << 40))
_living = set()


@dataclasses.dataclass(frozen=True)
class Mode:
    """How a pair of workers is connected."""

    name: str
    memory: str
    options: tuple

    def __str__(self):
        return self.name


SHM = Mode("shm mapped pools", "mapped", ("transports=shm",))
SHM_PLAIN = Mode("shm process_vm_readv", "plain", ("transports=shm",))
TCP = Mode("tcp IPv4", "mapped", ("transports=tcp",))
TCP6 = Mode("tcp IPv6", "plain", ("transports=tcp", "listen=[::1]:0"))
MODES = (SHM, SHM_PLAIN, TCP, TCP6)


def new_key():
    """No two requests have the same, so that bytes of an earlier one are wrong."""
    return next(_keys)


def rounds(full):
    return max(2, full * PERCENT // 100)


def attempts(full, tally):
    """Rounds of a fault at random moments, and more of them until one has hit something."""
    for number in itertools.count():
        if number >= rounds(full) and (tally.failed or number >= 10 * full):
            return
        yield number


def moment(longest_s):
    time.sleep(random.uniform(0, longest_s))


def need_ipv6(mode):
    if mode is not TCP6:
        return
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        raise tap.Skip(f"no IPv6 on loopback: {error}") from error


class Answer(collections.namedtuple("Answer", "result at text")):
    """at: seconds of time.monotonic()."""

    @property
    def ok(self):
        return self.result == "ok"

    def numbers(self):
        return [int(word) for word in self.text.split()]

    def expect(self, *results):
        if self.result not in (results or ("ok",)):
            raise AssertionError(f"{self.result}: {self.text}: expected {results or 'ok'}")
        return self


class Worker:
    """One process with an engine. Ends with this one in any case: the worker asks for that."""

    def __init__(
        self, mode, *options, prefix=(), block_bytes=53256, blocks=10, slots=SLOTS
    ):
        arguments = [*prefix, WORKER, mode.memory]
        arguments += [str(n) for n in (LAYERS, 2, slots, blocks, block_bytes)]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*arguments, *mode.options, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            bufsize=0,
            start_new_session=True,
        )
        _living.add(self)
        self.pid = self.process.pid
        self._read, self._said = b"", []
        self.incarnation, self.address = self._answer().expect().text.split(" ", 1)
        self.start_counts = self.counts()

    def tcp_port(self):
        return int(self.address.rpartition("tcp:")[2].partition(",")[0].rpartition(":")[2])

    # Commands. Those given together are carried out with nothing between them.

    def send(self, *lines):
        self._said = [line[:40] for line in lines]
        self.process.stdin.write("".join(line + "\n" for line in lines).encode())

    def _answer(self):
        deadline = time.monotonic() + ANSWER_S
        while b"\n" not in self._read:
            left = max(0, deadline - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                raise AssertionError(f"worker {self.pid} does not answer: {self._said}")
            got = os.read(self.process.stdout.fileno(), 1 << 16)
            if not got:
                raise AssertionError(f"worker {self.pid} ended: {self.process.wait(ANSWER_S)}")
            self._read += got
        line, _, self._read = self._read.partition(b"\n")
        result, at, text = line.decode().split(" ", 2)
        return Answer(result, int(at) / 1e9, text)

    def answers(self, count):
        return [self._answer() for _ in range(count)]

    def call(self, *lines):
        """The answer to the last line; the others must succeed."""
        self.send(*lines)
        for _ in lines[1:]:
            self._answer().expect()
        return self._answer()

    def each(self, command, slots, *arguments):
        """One command for several slots; the answers by slot."""
        self.send(*(" ".join(map(str, (command, slot, *arguments))) for slot in slots))
        return dict(zip(slots, self.answers(len(slots))))

    def counts(self):
        """Descriptors, threads, requests."""
        return self.call("counts").numbers()

    def stats(self):
        return {k: int(v) for k, v in (f.split("=") for f in self.call("stats").text.split())}

    # Faults.

    def stop(self):
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        return time.monotonic()

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    def kill(self):
        """Returns when; the process may live on for a moment."""
        at = time.monotonic()
        self.process.kill()
        return at

    # Ends.

    def expect_no_leak(self):
        """All is back to what it was at the start, a while after its peers have gone."""
        deadline = time.monotonic() + 5 + STALL_S
        while self.counts() != self.start_counts and time.monotonic() < deadline:
            time.sleep(0.02)
        if self.counts() != self.start_counts:
            raise AssertionError(
                f"worker {self.pid} had {self.start_counts} descriptors, threads and requests, "
                f"and now {self.counts()}"
            )

    def quit(self):
        """Closes its engine. Sanitizers have their say through the exit status."""
        self.process.stdin.close()
        if self.process.wait(ANSWER_S):
            raise AssertionError(f"worker {self.pid} ended with {self.process.returncode}")
        self.reap()

    def show_log(self):
        """What its engine and a sanitizer said of late."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()
        print(f"worker {self.pid}:", *lines[-LOG_LINES:], sep="\n  ", file=sys.stderr)

    def reap(self):
        _living.discard(self)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            with contextlib.suppress(OSError):
                pipe.close()


@atexit.register
def _end_all():
    for worker in list(_living):
        worker.reap()


@contextlib.contextmanager
def workers():
    """Whatever happens, no process outlives the test."""
    try:
        yield
    except AssertionError:
        for worker in _living:
            worker.show_log()
        raise
    finally:
        _end_all()


class Tally:
    """What became of requests under one fault."""

    head_printed = False

    def __init__(self, fault, mode):
        self.fault, self.mode = fault, mode
        self.tried = self.finished = self.bytes_wrong = 0
        self.failed = collections.Counter()
        self.shortest = {}  # by the time that was allowed

    def took(self, seconds, allowed_s):
        """A time that the contract bounds. Any may be long because the machine stalls; the
        shortest, which report() looks at, shows what the library needs."""
        assert seconds < allowed_s + STALL_S, f"{seconds:.3f} s, not {allowed_s:.3f} s"
        self.shortest[allowed_s] = min(seconds, self.shortest.get(allowed_s, seconds))

    def outcome(self, answer, *results):
        """Of a request: finished, or ended with one of these errors and a text."""
        answer.expect("ok", *results)
        self.finished += answer.ok
        if not answer.ok:
            self.failed[answer.result] += 1
            assert answer.text, f"{answer.result} without an explanation"
        return answer

    def verify(self, answer):
        layers, wrong = answer.expect().numbers()
        self.bytes_wrong += wrong
        return layers

    def report(self):
        if not Tally.head_printed:
            print("# fault | transport | tried | finished | failed with | bytes wrong")
            Tally.head_printed = True
        failed = ", ".join(f"{name} {count}" for name, count in self.failed.items()) or "-"
        print(
            f"# {self.fault} | {self.mode} | {self.tried} | {self.finished} | {failed} | "
            f"{self.bytes_wrong}",
            flush=True,
        )
        assert self.bytes_wrong == 0, f"{self.bytes_wrong} bytes are wrong"
        for allowed_s, seconds in self.shortest.items():
            late = f"{seconds:.3f} s at best, expected {allowed_s:.3f} s"
            assert seconds < allowed_s + SLACK_S, late


class Requests:
    """Requests from a sender to a receiver, one in each slot."""

    def __init__(self, sender, receiver, slots=range(SLOTS)):
        self.sender, self.receiver, self.slots = sender, receiver, list(slots)
        self.keys, self.tickets = {}, {}

    def open(self, lease_ms=60000):
        """Returns once the receiver has accepted all: it now knows whose end ends them."""
        self.offer(lease_ms)
        deadline = time.monotonic() + ANSWER_S
        while "0" in (answer.text for answer in self.receiver.each("target", self.slots).values()):
            assert time.monotonic() < deadline, "not accepted"
        return self

    def offer(self, lease_ms=60000):
        for slot in self.slots:
            self.keys[slot] = new_key()
            grant = self.receiver.call(f"grant {slot} {self.keys[slot]} {lease_ms}").expect()
            self.tickets[slot] = grant.text
            self.present(slot)

    def present(self, slot):
        self.sender.call(f"stream {slot} {self.keys[slot]} {self.tickets[slot]}").expect()

    def ready(self, layers=LAYERS):
        """All slots at once. Does not wait for the answers: see settle()."""
        self.sender.send(*(f"ready {slot} 0 {layers}" for slot in self.slots))
        return self

    def settle(self):
        for answer in self.sender.answers(len(self.slots)):
            answer.expect()

    def finish(self, tally):
        """All complete, and every byte is right. Returns the seconds it took."""
        begin = time.monotonic()
        self.ready().settle()
        self.receiver.send(*(f"wait {slot} 20000" for slot in self.slots))
        self.sender.send(*(f"wait {slot} 20000" for slot in self.slots))
        for side in (self.receiver, self.sender):
            ends = [answer.expect().at for answer in side.answers(len(self.slots))]
        tally.finished += len(self.slots)
        self.verify(tally)
        self.close()
        return max(ends) - begin

    def verify(self, tally, slots=None):
        """Layers reported whole are right. Returns how many there are."""
        return sum(
            tally.verify(self.receiver.call(f"whole {slot} {self.keys[slot]}"))
            for slot in (self.slots if slots is None else slots)
        )

    def close(self):
        self.sender.each("close", self.slots)
        self.receiver.each("close", self.slots)


def transfer(sender, receiver, tally):
    """One round of requests without a fault. Returns the seconds from ready to delivered."""
    return Requests(sender, receiver).open().finish(tally)


def typical(sender, receiver, tally):
    """As transfer(), once memory is in place: the time in which a fault hits something."""
    return min(transfer(sender, receiver, tally) for _ in range(3))


def need_programs(*programs):
    for program in programs:
        if not shutil.which(program):
            raise tap.Skip(f"{program} is not installed")
