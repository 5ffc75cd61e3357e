#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the control socket costs the data path, and how soon it answers.

The workload `blocks` runs, and windows in which the receiver's socket is asked for its status so
many times a second take turns with windows in which it is not. Both windows of a pair have the same
machine around them, so their ratio is what is looked at; its median is told. Beside the bandwidth,
which suffers from whatever else wants a core, there is the time that the engine's thread itself
spends on each MiB, and where the machine counts them, its instructions.

Then an idle worker is asked for its status, and for grants, one after another."""
import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20
WAIT_S = 60  # for a program to begin or to end
GRANT_BLOCKS = 16
ENGINE_THREAD = "kvxfer"
CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


def request(method, path, body=None):
    """Its bytes."""
    text = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: kvxfer\r\n"
    if text:
        head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    return head.encode() + b"\r\n" + text


class Client:
    """A connection that is kept, with as little of its own as can be."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(str(path))

    def ask(self, method, path, body=None):
        """The answer, and the time until it was there, in us."""
        answer, took_us = self.send(request(method, path, body))
        return json.loads(answer), took_us

    def send(self, data):
        """The same with the bytes of a request, for bytes."""
        began = time.perf_counter_ns()
        self.socket.sendall(data)
        status, answer = self.receive()
        took_us = (time.perf_counter_ns() - began) / 1e3
        if status >= 300:
            raise SystemExit(f"{data.decode()}{answer.decode()}")
        return answer, took_us

    def receive(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.more()
        head, _, body = data.partition(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        while len(body) < int(length[1]):
            body += self.more()
        return int(head.split()[1]), body

    def more(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise SystemExit("the control socket was closed")
        return data


def spread(times_us):
    times_us = sorted(times_us)
    return {
        "p50": round(times_us[len(times_us) // 2], 1),
        "p99": round(times_us[len(times_us) * 99 // 100], 1),
    }


# --- latency


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def measure_latency(arguments, folder):
    path = folder / "worker.sock"
    command = [arguments.bench, "serve", "--control", path, "--transport", arguments.transport,
               "--tokens", "256", "--pool-bytes", "64M"]  # fmt: skip
    with running(command, stdout=subprocess.PIPE, text=True) as worker:
        if not worker.stdout.readline():
            raise SystemExit("the worker did not start")
        client = Client(path)
        pool = client.ask("GET", "/v1/pools")[0]["pools"][0]["id"]
        body = {"pool": pool, "blocks": list(range(GRANT_BLOCKS)), "lease_ms": WAIT_S * 1000}
        status_us, grant_us = [], []
        for _ in range(arguments.asks):
            status_us.append(client.ask("GET", "/v1/status")[1])
        for _ in range(arguments.asks):
            grant, took_us = client.ask("POST", "/v1/grants", body)
            grant_us.append(took_us)
            client.ask("DELETE", f"/v1/grants/{grant['id']}")
    return {"status": spread(status_us), "grant": spread(grant_us)}


# --- the data path


def engine_thread(pid):
    """The folder in /proc of the thread that drives the engine of a process."""
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == ENGINE_THREAD:
            return task
    raise SystemExit(f"process {pid} has no engine with a thread of its own")


def keep_apart(thread, processes):
    """Gives a thread a CPU of its own, as far as these processes go."""
    own, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise SystemExit("there is one CPU only")
    for process in processes:
        for task in os.listdir(f"/proc/{process}/task"):
            os.sched_setaffinity(int(task), [own] if task == thread.name else others)


def counts_instructions():
    """Whether perf can count them here."""
    if not shutil.which("perf"):
        return False
    command = ["perf", "stat", "-x,", "-e", "instructions:u", "true"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return bool(re.search(r"^\d+,,instructions", said, re.MULTILINE))


class Counter:
    """Instructions of a thread during a window."""

    def __init__(self, thread, seconds):
        command = ["perf", "stat", "-x,", "-e", "instructions:u", "-t", thread.name, "--",
                   "sleep", str(seconds)]  # fmt: skip
        self.perf = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def read(self):
        return int(self.perf.communicate(timeout=WAIT_S)[1].split(",")[0])


def ask_often(path, rate, seconds, pipe):
    """Of another process: asks at a pace, and tells how long each took."""
    client, times_us, status = Client(path), [], request("GET", "/v1/status")
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        times_us.append(client.send(status)[1])
        due = max(due + 1 / rate, time.perf_counter() - 1)  # what is more than 1 s late is left out
    pipe.send(times_us)


class Load:
    """The workload, and what its receiver's engine tells of itself."""

    def __init__(self, arguments, process, folder):
        self.arguments, self.process = arguments, process
        self.path, self.client, pid = self.find_receiver(folder)
        self.thread = engine_thread(pid)
        if arguments.pin:
            keep_apart(self.thread, [process.pid, pid, os.getpid()])
        self.has_instructions = counts_instructions()
        self.asked_us = []
        self.asked_s = 0.0

    def find_receiver(self, folder):
        """Both ends have a socket in the folder; the sender is the process that was started."""
        for path in folder.glob("*.sock"):
            client = Client(path)
            pid = client.ask("GET", "/v1/status")[0]["pid"]
            if pid != self.process.pid:
                return path, client, pid
        raise SystemExit("the receiver has no control socket")

    def snapshot(self):
        stats = self.client.ask("GET", "/v1/status")[0]["stats"]
        cpu_ns = int((self.thread / "schedstat").read_text().split()[0])
        return time.perf_counter(), stats["bytes_received"], cpu_ns, stats["progress_ns"]

    def window(self, is_asked):
        """What a window of time gives: bandwidth, and what each MiB costs."""
        seconds = self.arguments.window
        here, there = multiprocessing.Pipe(duplex=False)
        asker = multiprocessing.Process(
            target=ask_often, args=(self.path, self.arguments.rate, seconds, there)
        )
        before = self.snapshot()
        counter = Counter(self.thread, seconds) if self.has_instructions else None
        if is_asked:
            asker.start()
        time.sleep(seconds)
        after = self.snapshot()
        if is_asked:
            self.asked_us += here.recv()
            self.asked_s += seconds
            asker.join()
        elapsed_s, size, cpu_ns, progress_ns = (b - a for a, b in zip(before, after))
        if not size:
            raise SystemExit("nothing moved during a window; is it too short?")
        return {
            "gbytes_per_s": size / elapsed_s / 1e9,
            "cpu_ns_per_mib": cpu_ns / (size / MIB),
            "progress_ns_per_mib": progress_ns / (size / MIB),
            "instructions_per_mib": counter.read() / (size / MIB) if counter else None,
        }

    def measure(self):
        pairs = []
        for number in range(self.arguments.pairs):
            first = number % 2 == 1  # which of a pair comes first alternates
            windows = {is_asked: self.window(is_asked) for is_asked in (first, not first)}
            pairs.append((windows[False], windows[True]))
        return {name: compare(pairs, name) for name in pairs[0][0]}


def compare(pairs, name):
    if pairs[0][0][name] is None:
        return None
    ratios = [asked[name] / quiet[name] for quiet, asked in pairs]
    return {
        "without": statistics.median(quiet[name] for quiet, _ in pairs),
        "with": statistics.median(asked[name] for _, asked in pairs),
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


def measure_load(arguments, folder):
    seconds = str(2 * arguments.pairs * (arguments.window + 1) + 30)  # it is ended earlier
    command = [
        arguments.bench, "local", "blocks", "--transport", arguments.transport,
        "--option", f"control={folder}/", "--pool-bytes", arguments.pool_bytes,
        "--seconds", seconds, "--json", "-",
    ]  # fmt: skip
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with running(command, **streams) as process:
        said = []
        for line in process.stderr:  # up to the first second of the measurement
            said.append(line)
            if re.match(r" *1 ", line):
                break
        else:
            raise SystemExit("".join(said))
        load = Load(arguments, process, folder)
        result = load.measure()
    result["requests_per_s"] = len(load.asked_us) / load.asked_s
    result["status_us"] = spread(load.asked_us)
    return result


# --- the report


ROWS = {
    "gbytes_per_s": ("bandwidth, GB/s", "{:.3f}"),
    "cpu_ns_per_mib": ("engine's thread, ns of CPU time for each MiB", "{:.0f}"),
    "progress_ns_per_mib": ("engine's steps, ns for each MiB", "{:.0f}"),
    "instructions_per_mib": ("engine's thread, instructions for each MiB", "{:.0f}"),
}


def report(arguments, load, latency):
    asked = f"{load['requests_per_s']:.0f} requests/s"
    print(f"{arguments.transport}, median of {arguments.pairs} pairs of {arguments.window} s")
    print(f"{'':<46}{'none':>12}{asked:>18}{'ratio':>9}")
    for name, (text, form) in ROWS.items():
        row = load[name]
        if row is None:
            print(f"{text:<46}{'not counted here':>30}")
            continue
        values = form.format(row["without"]), form.format(row["with"])
        print(f"{text:<46}{values[0]:>12}{values[1]:>18}{row['ratio']:>9.4f}")
    print(f"{'latency, us':<46}{'median':>12}{'p99':>18}")
    for text, times in (
        ("GET /v1/status, idle worker", latency["status"]),
        (f"POST /v1/grants of {GRANT_BLOCKS} blocks, idle worker", latency["grant"]),
        ("GET /v1/status, under this load", load["status_us"]),
    ):
        print(f"{text:<46}{times['p50']:>12}{times['p99']:>18}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--bench", default="build/bench/kvxfer-bench", help="program that is measured")
    add("--transport", default="shm")
    add("--rate", type=float, default=1000, help="requests a second")
    add("--pairs", type=int, default=60)
    add("--window", type=float, default=0.25, help="seconds of each half of a pair")
    add("--pool-bytes", default="256M")
    add("--pin", action="store_true", help="the receiver's engine has a CPU of its own")
    add("--asks", type=int, default=2000, help="for the latency of an idle worker, of each kind")
    add("--json", metavar="FILE", help="the result as one JSON object")
    return parser.parse_args()


def main():
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="kvxfer-") as name:
        folder = pathlib.Path(name)
        latency = measure_latency(arguments, folder)
        load = measure_load(arguments, folder)
    report(arguments, load, latency)
    if arguments.json:
        result = {"transport": arguments.transport, "pairs": arguments.pairs,
                  "window_s": arguments.window, "pinned": arguments.pin, "cores": os.cpu_count(),
                  "load": load, "latency_us": latency}  # fmt: skip
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
