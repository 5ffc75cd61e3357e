# SPDX-License-Identifier: Apache-2.0
"""Drives a soak: peers that stay, visitors that come and go, and samples of those that stay."""
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

STAYERS = 3  # of each transport
VISITORS = 2  # at once
# bit 0: wide blocks, [head][token]; bit 1: memory that others cannot map.
KINDS = (0, 2, 1, 3)
ANSWER_S = 60
SETTLE_S = 25  # until leases have ended of what visitors left behind


@dataclasses.dataclass
class Settings:
    """Of one run."""

    worker: str
    seconds: float
    transports: tuple
    seed: int
    interval_s: float
    quiet_points: int = 10
    think_us: int = 20000
    niceness: int = 0
    heartbeat_ms: int = 500


class Failed(AssertionError):
    """The run itself could not go on."""


class Peer:
    """One process. Ends with this one in any case: it asks for that."""

    def __init__(self, group, name, kind):
        settings = group.settings
        self.group, self.name = group, name
        self.log, self.closed_s = tempfile.TemporaryFile(), 0
        self.process = subprocess.Popen(
            [settings.worker, str(group.folder), name, str(kind), str(group.next_seed()),
             str(settings.think_us), f"transports={group.transport}",
             f"heartbeat_ms={settings.heartbeat_ms}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
            preexec_fn=lambda: os.nice(settings.niceness),
        )
        self.pid = self.process.pid
        self._read = b""

    def line(self):
        deadline = time.monotonic() + ANSWER_S
        while b"\n" not in self._read:
            left = max(0, deadline - time.monotonic())
            ready = select.select([self.process.stdout], [], [], left)[0]
            got = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not got:
                raise Failed(f"{self.name} does not answer: {self.said()}")
            self._read += got
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def tell(self, word):
        self.process.stdin.write(word.encode() + b"\n")

    def figures(self):
        self.tell("figures")
        return json.loads(self.line())

    def said(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def resources(self):
        """What a leak would show in: KiB and counts."""
        root = pathlib.Path("/proc", str(self.pid))
        status = (root / "status").read_text()
        return {
            "rss_kib": int(re.search(r"^VmRSS:\s*(\d+)", status, re.MULTILINE)[1]),
            "anonymous_kib": int(re.search(r"^RssAnon:\s*(\d+)", status, re.MULTILINE)[1]),
            "mappings": (root / "maps").read_bytes().count(b"\n"),
            "descriptors": len(os.listdir(root / "fd")),
            "threads": len(os.listdir(root / "task")),
        }

    def reap(self):
        """After its end. Returns what it complained of."""
        self.process.stdin.close()
        self.process.stdout.close()
        said = self.said()
        self.log.close()
        return [line for line in said.splitlines() if line]

    def begin_close(self):
        """Its engine closes, while others go on: some of its requests may wait for them."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.closed_s = time.monotonic()

    def has_ended(self):
        if self.process.poll() is None and time.monotonic() > self.closed_s + ANSWER_S:
            self.process.kill()
            self.process.wait()
        return self.process.poll() is not None

    def end(self):
        """Once it has ended: its complaints, among them an exit status that is none."""
        complaints = self.reap()
        if self.process.returncode and not complaints:
            complaints = [f"{self.name} ended with {self.process.returncode}"]
        return complaints

    def kill(self):
        self.process.kill()
        self.process.wait()
        return self.reap()


class Visitor:
    """A place where processes come, do something for a while, and go in one of four ways."""

    LIFE_S = (0.2, 4.0)
    ABSENT_S = (0.0, 1.0)

    def __init__(self, group, number):
        self.group, self.name = group, f"visitor-{number}"
        self.peer, self.stopped, self.leaving = None, False, False
        self.next_s = 0
        self._rest(self.ABSENT_S)

    def _rest(self, limits_s):
        self.next_s = time.monotonic() + self.group.random.uniform(*limits_s)

    def step(self):
        chance = self.group.random
        if self.leaving:
            self._see_end()
        elif time.monotonic() < self.next_s:
            return
        elif self.peer is None:
            self.peer = Peer(self.group, self.name, chance.choice(KINDS))
            self._rest(self.LIFE_S)
        elif not self.stopped and chance.random() < 0.25:
            os.kill(self.peer.pid, signal.SIGSTOP)
            self.stopped = True
            # It is silent for longer than two heartbeats, or for less.
            self._rest((0.1, 4 * self.group.settings.heartbeat_ms / 1000))
        elif self.stopped and chance.random() < 0.7:
            self._resume()
            self._rest(self.LIFE_S)
        else:
            self.leave(gently=not self.stopped and chance.random() < 0.5)

    def _resume(self):
        os.kill(self.peer.pid, signal.SIGCONT)
        self.stopped = False

    def leave(self, gently):
        """Begins to; step() sees the end of it."""
        if self.peer is None or self.leaving:
            return
        if gently and self.stopped:
            self._resume()
        self.leaving = gently
        if gently:
            self.peer.begin_close()
        else:
            self._gone("killed", self.peer.kill())

    def _see_end(self):
        if self.peer.has_ended():
            self._gone("closed", self.peer.end())

    def _gone(self, how, complaints):
        self.group.complaints += complaints
        (self.group.folder / self.name).unlink(missing_ok=True)
        self.group.ends[how] += 1
        self.peer, self.stopped, self.leaving = None, False, False
        self._rest(self.ABSENT_S)


class Group:
    """The peers of one transport, that know only each other."""

    def __init__(self, settings, transport, folder):
        self.settings, self.transport = settings, transport
        self.folder = folder / transport
        self.folder.mkdir()
        self.random = random.Random(f"{settings.seed} {transport}")
        self.complaints, self.ends = [], collections.Counter()
        self.stayers = [
            Peer(self, f"s{number}", KINDS[number % len(KINDS)]) for number in range(STAYERS)
        ]
        for peer in self.stayers:
            if (line := peer.line()) != "ready":
                raise Failed(f"{peer.name}: {line}")
        self.visitors = [Visitor(self, number) for number in range(VISITORS)]

    def next_seed(self):
        return self.random.randrange(1, 1 << 30)

    def tell(self, word):
        for peer in self.stayers:
            peer.tell(word)

    def send_visitors_away(self):
        for visitor in self.visitors:
            visitor.leave(gently=self.random.random() < 0.5)

    def has_visitors(self):
        for visitor in self.visitors:
            if visitor.leaving:
                visitor.step()
        return any(visitor.peer for visitor in self.visitors)

    def close(self):
        """Those that stay, at the end."""
        for peer in self.stayers:
            peer.begin_close()
        while not all([peer.has_ended() for peer in self.stayers]):
            time.sleep(0.02)
        for peer in self.stayers:
            self.complaints += peer.end()

    def kill(self):
        for peer in [*self.stayers, *(v.peer for v in self.visitors if v.peer)]:
            if peer.process.poll() is None:
                peer.process.kill()
                peer.process.wait()


FIGURES = ("grants", "streams", "peers", "regions", "staging_bytes", "times", "p50_us", "p99_us",
           "protocol_errors", "peers_lost", "served", "wrong", "unexpected", "bytes", "busy")
FIELDS = ("time_s", "transport", "name", "point", "rss_kib", "anonymous_kib", "mappings",
          "descriptors", "threads", *FIGURES, "requests", "load")


class Soak:
    """One run: its rows are samples, as FIELDS say; a point is "load" or "quiet"."""

    def __init__(self, settings, on_rows=lambda rows: None):
        self.settings, self.on_rows = settings, on_rows
        self.rows, self.complaints = [], []
        self.outcomes, self.ends = collections.Counter(), collections.Counter()
        self.wrong = self.bytes = 0
        self.groups = []

    def run(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="kvxfer-soak-"))
        try:
            for transport in self.settings.transports:
                self.groups.append(Group(self.settings, transport, folder))
            self._run()
            for group in self.groups:
                group.close()
                self.complaints += group.complaints
                self.ends += group.ends
        finally:
            for group in self.groups:
                group.kill()
            shutil.rmtree(folder)
        return self

    def _run(self):
        settings = self.settings
        self.begin_s = time.monotonic()
        # Each tenth of the time ends with a quiet point; the first shows what is there anyway.
        quiet = [settings.seconds * (n + 1) / settings.quiet_points
                 for n in range(settings.quiet_points)]
        sample_s = settings.interval_s
        while quiet:
            time.sleep(0.02)
            for group in self.groups:
                for visitor in group.visitors:
                    visitor.step()
            now_s = time.monotonic() - self.begin_s
            if now_s >= quiet[0]:
                quiet.pop(0)
                self._quiet_point(is_last=not quiet)
                sample_s = time.monotonic() - self.begin_s + settings.interval_s
            elif now_s >= sample_s:
                sample_s += settings.interval_s
                self._sample("load")

    def _sample(self, point, keep=True):
        rows = []
        for group in self.groups:
            for peer in group.stayers:
                figures = peer.figures()
                if peer.process.poll() is not None:
                    raise Failed(f"{peer.name} ended: {peer.said()}")
                rows.append({
                    "time_s": round(time.monotonic() - self.begin_s, 1),
                    "transport": group.transport, "name": peer.name, "point": point,
                    **peer.resources(), **{name: figures[name] for name in FIGURES},
                    "requests": sum(figures["outcomes"].values()),
                    "load": round(os.getloadavg()[0], 2),
                    "outcomes": figures["outcomes"],
                })
        if keep:
            self.rows += rows
            self.on_rows(rows)
            self._add_up(rows)
        return rows

    def _add_up(self, rows):
        """The figures of those that stay only grow, so the latest say all."""
        self.outcomes = collections.Counter()
        for row in rows:
            self.outcomes.update(row["outcomes"])
        self.wrong = sum(row["wrong"] for row in rows)
        self.bytes = sum(row["bytes"] for row in rows)

    def _quiet_point(self, is_last):
        """Nobody drives, visitors are gone: what is there now is what is always there."""
        for group in self.groups:
            group.tell("pause")
            group.send_visitors_away()
        while any([group.has_visitors() for group in self.groups]):
            time.sleep(0.02)
        first = {row["name"] + row["transport"]: row
                 for row in self.rows if row["point"] == "quiet"}
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            time.sleep(0.1)
            rows = self._sample("quiet", keep=False)
            if all(self._is_settled(row, first.get(row["name"] + row["transport"]))
                   for row in rows):
                break
        self._sample("quiet")
        if not is_last:
            for group in self.groups:
                group.tell("resume")

    @staticmethod
    def _is_settled(row, before):
        objects = row["busy"] + row["grants"] + row["streams"]
        peers = 2 * (STAYERS - 1) if before is None else before["peers"]
        return not objects and row["peers"] <= peers and (
            before is None or row["descriptors"] <= before["descriptors"])


def describe(settings):
    return (f"{settings.seconds / 60:g} minutes, {', '.join(settings.transports)}, "
            f"seed {settings.seed}")


def fail(text):
    print(text, file=sys.stderr)
    sys.exit(1)
