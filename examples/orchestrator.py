#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An orchestrator: it owns no byte of KV cache, and drives workers through their control sockets.

Each request is a number of blocks. The orchestrator keeps account of which blocks of each worker
are free, opens a grant at a decode worker and a stream at a prefill worker, tells layer by layer
that the prefill has computed it, hears of the end by events, compares checksums of both ends, and
closes both. Meanwhile it drains one prefill worker, as before a restart, and kills a decode worker.
What that worker had is done again at another.

    examples/orchestrator.py --bench build/bench/kvxfer-bench --transports tcp
    examples/orchestrator.py --socket prefill=/run/kvxfer/a.sock --socket decode=/run/kvxfer/b.sock

docs/control-api.md describes the requests that are made here."""
import argparse
import collections
import contextlib
import http.client
import json
import queue
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

CALL_S = 20  # one request to a worker, also one that waits for a fence
SILENCE_S = 25  # of an event stream: a comment comes every 10 s
START_S = 20
END_MS = 3000  # what a worker may let go on when it is told to end
LEASE_MS = 20000
ATTEMPTS_MAX = 5  # at one request
AGAIN = {  # another worker may take what failed by these
    "KVX_E_PEER_LOST", "KVX_E_PEER_RESTARTED", "KVX_E_UNREACHABLE", "KVX_E_TRANSPORT",
    "KVX_E_DRAINING", "KVX_E_LIMIT", "KVX_E_MEMORY",
}  # fmt: skip


class Lost(Exception):
    """The worker does not answer any more."""


class Refused(Exception):
    """The worker answered with a problem: its code, and its own text."""

    def __init__(self, problem):
        super().__init__(problem.get("detail", ""))
        self.code = problem.get("code")


class Control(http.client.HTTPConnection):
    """HTTP over a unix socket; kept open from call to call. One thread at a time uses it."""

    def __init__(self, path, timeout_s=CALL_S):
        super().__init__("kvxfer", timeout=timeout_s)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def call(self, method, path, body=None):
        """The answer, an object. A worker closes a connection that was quiet for some time, so
        what fails over an old one is asked once more over a new one."""
        text = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        for is_new in (self.sock is None, True):
            try:
                self.request(method, path, text, headers)
                response = self.getresponse()
                answer = json.loads(response.read() or "{}")
                break
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if is_new or isinstance(error, TimeoutError):
                    raise Lost(f"{self.path}: {method} {path}: {error!r}") from None
        if response.status >= 400:
            raise Refused(answer)
        return answer

    def events(self):
        """What happens from now on. The first is None: it has begun."""
        self.request("GET", "/v1/events")
        response = self.getresponse()
        yield None
        for line in response:
            field, _, value = line.decode().rstrip().partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                yield {"type": kind, **json.loads(value)}


class Worker:
    """A worker: what is known of it, and the threads that deal with it alone."""

    def __init__(self, role, path, process=None):
        self.role, self.path, self.process, self.control = role, path, process, Control(path)
        self.name = self.control.call("GET", "/v1/status")["name"]
        pools = self.control.call("GET", "/v1/pools")["pools"]
        if role not in ("prefill", "decode") or not pools:
            raise SystemExit(f"{path}: not ROLE=PATH of a prefill or decode worker with a pool")
        self.pool = pools[0]
        self.layers = self.pool["geometry"]["layers"]
        self.free = set(range(self.pool["blocks"]))
        self.state, self.placed = "up", 0  # draining, drained, overdue, lost
        self.requests = {}  # that are open there, by the id of their grant or stream
        self.computing = queue.Queue()  # streams, in the order in which they are computed

    def follow(self, news):
        """Its events become news, and at last that it is lost."""
        events = Control(self.path, SILENCE_S).events()
        next(events)

        def read():
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                for event in events:
                    news.put((self, event))
            news.put((self, {"type": "lost"}))

        threading.Thread(target=read, daemon=True).start()

    def compute(self, layer_s):
        """Stands for the model: computes the layers of one request after another."""

        def run():
            control = Control(self.path)
            while True:
                ready = f"/v1/streams/{self.computing.get()}/ready"
                # Of a stream that has failed there is an event.
                with contextlib.suppress(Lost, Refused):
                    for layer in range(self.layers):
                        time.sleep(layer_s)
                        control.call("POST", ready, {"first": layer, "count": 1})

        threading.Thread(target=run, daemon=True).start()


class Request:
    def __init__(self, number, count):
        self.number, self.count, self.attempts = number, count, 0  # count: of blocks
        self.ends = {}  # worker: (path of its grant or stream, blocks)
        self.complete = set()  # workers that told so


class Orchestrator:
    def __init__(self, workers, sizes, layer_s, draw):
        self.workers, self.news = workers, queue.Queue()
        self.outcome, self.reasons = collections.Counter(), collections.Counter()
        self.random, self.total = draw, len(sizes)
        self.waiting = collections.deque(Request(*pair) for pair in enumerate(sizes))
        for worker in workers:
            worker.follow(self.news)
            if worker.role == "prefill":
                worker.compute(layer_s)

    def run(self, deadline_s, drain, kill):
        """drain, kill: workers, or None."""
        end = time.monotonic() + deadline_s
        while self.waiting or any(w.requests or w.state == "draining" for w in self.workers):
            if time.monotonic() > end:
                raise SystemExit(f"not done in {deadline_s} s: {dict(self.outcome)}")
            share = self.outcome["finished"] / self.total
            with contextlib.suppress(queue.Empty, Lost):  # that one is lost becomes news
                self.place()
                if drain and drain.state == "up" and share >= 1 / 3:
                    drain.state = "draining"  # what is open there goes on; it gets nothing new
                    self.ask(drain, "POST", "/v1/drain", {"deadline_ms": LEASE_MS})
                # The one that is killed has something to lose.
                if kill and kill.requests and share >= 2 / 3 and kill.process.poll() is None:
                    kill.process.kill()
                self.hear(*self.news.get(timeout=0.2))

    def ask(self, worker, method, path, body=None):
        try:
            return worker.control.call(method, path, body)
        except Lost:
            worker.state = "lost"
            self.news.put((worker, {"type": "lost"}))
            raise

    # --- a request: placed, opened, heard of, finished or closed

    def place(self):
        """Opens what waits, as far as there are blocks."""
        for _ in range(len(self.waiting)):
            request = self.waiting.popleft()
            decode, prefill = self.idlest("decode", request), self.idlest("prefill", request)
            if decode and prefill:
                self.open(request, decode, prefill)
            elif {w.role for w in self.workers if w.state == "up"} == {"decode", "prefill"}:
                self.waiting.append(request)
            else:
                self.fail(request, "no worker is left")

    def idlest(self, role, request):
        able = (w for w in self.workers if w.role == role and w.state == "up")
        roomy = (w for w in able if len(w.free) >= request.count)
        return min(roomy, key=lambda worker: len(worker.requests), default=None)

    def open(self, request, decode, prefill):
        """The grant first: its ticket says where the stream goes."""
        request.attempts += 1
        try:
            grant = self.take(request, decode, "/v1/grants", {"lease_ms": LEASE_MS})
            ticket = {"ticket": grant["ticket"]}
            stream = self.take(request, prefill, "/v1/streams", ticket)
        except Refused as refusal:
            self.outcome["refused"] += 1
            self.again(request, refusal.code, str(refusal))
        except Lost as loss:
            self.again(request, "KVX_E_PEER_LOST", str(loss))
        else:
            prefill.computing.put(stream["id"])

    def take(self, request, worker, path, body):
        """Opens a grant or stream of free blocks."""
        blocks = self.random.sample(sorted(worker.free), request.count)
        body = {"pool": worker.pool["id"], "blocks": blocks, **body}
        try:
            answer = self.ask(worker, "POST", path, body)
        except Refused as refusal:
            if refusal.code == "KVX_E_DRAINING":  # somebody else does that
                worker.state = "draining"
            raise
        worker.free -= set(blocks)
        worker.requests[answer["id"]] = request
        worker.placed += 1
        request.ends[worker] = (f"{path}/{answer['id']}", blocks)
        return answer

    def hear(self, worker, event):
        """What a worker has told. Of requests that are closed nothing is heard any more."""
        kind, request = event["type"], worker.requests.get(event.get("id"))
        if kind == "lost":
            self.lose(worker)
        elif kind == "drain_done":
            self.look_at_drain(worker)
        elif kind == "gap":  # more was told than was read in time: ask
            for request in list(worker.requests.values()):
                now = self.ask(worker, "GET", request.ends[worker][0])
                self.hear(worker, {**now, "type": f"grant_{now['state']}"})
            self.look_at_drain(worker)
        elif request and kind in ("grant_complete", "stream_complete"):
            request.complete.add(worker)
            if len(request.complete) == 2:
                self.finish(request)
        elif request and kind in ("grant_failed", "stream_failed"):
            self.again(request, event["code"], event["text"])

    def finish(self, request):
        """It is whole at both ends: they must hold the same."""
        sums = []
        for worker, (_, blocks) in request.ends.items():
            path = f"/v1/pools/{worker.pool['id']}/checksum"
            sums.append(self.ask(worker, "POST", path, {"blocks": blocks})["checksums"])
        layer_bytes = worker.pool["layer_block_bytes"] * request.count
        self.close(request)
        self.outcome["finished"] += 1
        self.outcome["bytes verified"] += layer_bytes * len(sums[0])
        self.outcome["bytes wrong"] += layer_bytes * sum(a != b for a, b in zip(*sums))

    def close(self, request):
        """At both ends. DELETE waits for the fence, after which the blocks are free."""
        ends, request.ends, request.complete = request.ends, {}, set()
        for worker, (path, blocks) in ends.items():
            worker.requests.pop(int(path.rpartition("/")[2]), None)
            if worker.state != "lost":
                with contextlib.suppress(Lost):
                    self.ask(worker, "DELETE", path)
                    worker.free |= set(blocks)

    def again(self, request, code, text):
        """A request that failed by its worker goes to another one."""
        self.close(request)
        if code in AGAIN and request.attempts < ATTEMPTS_MAX:
            self.outcome["retried"] += 1
            self.waiting.append(request)
        else:
            self.fail(request, f"{code}: {text}")

    def fail(self, request, reason):
        print(f"request {request.number}: {reason}", file=sys.stderr)
        self.outcome["failed"] += 1
        self.reasons[reason.partition(":")[0]] += 1

    # --- a worker: drained, lost; all of them

    def look_at_drain(self, worker):
        state = self.ask(worker, "GET", "/v1/drain")["state"]
        worker.state = {"waiting": "draining", "done": "drained", "off": "up"}.get(state, state)

    def lose(self, worker):
        """What it had is placed again, also what it had whole already."""
        worker.state = "lost"
        for request in set(worker.requests.values()):
            self.again(request, "KVX_E_PEER_LOST", f"{worker.name} is gone")

    def report(self):
        """Prints the table. True: all requests finished, and no byte was wrong."""
        for worker in self.workers:
            print(f"{worker.name:<12} {worker.role:<8} {worker.state:<8} {worker.placed:>4} placed")
        for name in "finished", "retried", "failed", "refused", "bytes verified", "bytes wrong":
            print(f"{name:<16} {self.outcome[name]:>12}")
        for reason, count in sorted(self.reasons.items()):
            print(f"  failed: {reason:<24} {count:>4}")
        return self.outcome["finished"] == self.total and not self.outcome["bytes wrong"]


def start(arguments, path, role, index):
    """A worker's process, which has said that it is ready, or has ended."""
    command = [
        arguments.bench, "serve", "--control", path, "--name", f"{role}-{index}",
        "--transport", arguments.transports, "--drain", str(END_MS), "--pool-bytes", "4M",
        "--layers", "8", "--kv-heads", "2", "--head-dim", "64", "--tokens", "256",
    ]  # fmt: skip
    if role == "prefill":  # each with other bytes, so that nothing is right by chance
        command += ["--fill", str(2 * arguments.seed + index)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    select.select([process.stdout], [], [], START_S)
    return process


def end(process):
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_MS / 1000 + START_S)
    process.kill()  # does nothing to one that has ended
    process.wait()


def open_workers(arguments, stack):
    """Those that are given, or two of each role, which end with the stack."""
    for text in arguments.socket:
        role, _, path = text.partition("=")
        yield Worker(role, path)
    if arguments.socket:
        return
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="kvxfer-"))
    for role, index in ("prefill", 0), ("prefill", 1), ("decode", 0), ("decode", 1):
        path = f"{folder}/{role}-{index}.sock"
        process = start(arguments, path, role, index)
        stack.callback(end, process)
        yield Worker(role, path, process)


def choose(workers, role, name):
    """The worker of that name; without one the last of one's own."""
    found = [w for w in workers if w.role == role and (w.name == name if name else w.process)]
    if name not in (None, "none") and not found:
        raise SystemExit(f"there is no {role} worker {name}")
    return found[-1] if found else None


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--bench", default="kvxfer-bench", help="program of the workers that are started")
    add("--transports", default="auto", help="theirs: shm, tcp, a list or auto")
    add("--socket", action="append", default=[], metavar="ROLE=PATH", help="one that runs already")
    add("--requests", type=int, default=40)
    add("--blocks", type=int, default=16, help="of a request, at most")
    add("--compute-us", type=float, default=500, help="time of a layer")
    add("--drain", metavar="NAME", help="prefill worker to be drained; none")
    add("--kill", metavar="NAME", help="decode worker to be killed, of those started; none")
    add("--seed", type=int, default=1)
    add("--deadline", type=float, default=60, metavar="SECONDS", help="for all requests")
    return parser.parse_args()


def main():
    arguments = parse()
    with contextlib.ExitStack() as stack:
        workers = list(open_workers(arguments, stack))
        if len({worker.pool["hash"] for worker in workers}) > 1:
            raise SystemExit("the workers' pools are not alike")
        drain = choose(workers, "prefill", arguments.drain)
        kill = choose(workers, "decode", arguments.kill)
        if kill and not kill.process:
            raise SystemExit(f"{kill.name} was started by somebody else, who may kill it")
        draw = random.Random(arguments.seed)
        sizes = [draw.randint(1, arguments.blocks) for _ in range(arguments.requests)]
        orchestrator = Orchestrator(workers, sizes, arguments.compute_us / 1e6, draw)
        orchestrator.run(arguments.deadline, drain, kill)
        return 0 if orchestrator.report() and (not drain or drain.state == "drained") else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("orchestrator: ended by a signal"))
    try:
        sys.exit(main())
    except (Lost, Refused, OSError) as error:
        sys.exit(f"orchestrator: {error}")
