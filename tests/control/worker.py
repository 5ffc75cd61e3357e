#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvxfer-bench serve --control: a worker that is driven through its control socket alone."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import control
import tap

BENCH = sys.argv[4]
SHAPE = ["--layers", "4", "--kv-heads", "2", "--head-dim", "64", "--tokens", "64"]
SMALL = ["--transport", "shm,tcp", "--pool-bytes", "1M"] + SHAPE
READY = re.compile(
    r"worker (\S+): control (\S+), pool (\d+): (\d+) layers, (\d+) planes, (\d+) blocks of "
    r"(\d+) bytes\n"
)
LONG_MS = 600000  # that no test waits for


class Worker:
    """A running worker, as an orchestrator has it."""

    def __init__(self, name, *arguments):
        self.path = control.fresh(f"{name}.sock")
        self.process = subprocess.Popen(
            [BENCH, "serve", "--control", self.path, "--name", name, *SMALL, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = []
        while not self.said or not self.said[-1].startswith("worker "):
            self.said.append(self.process.stdout.readline())
            assert self.said[-1], self.process.communicate()
        self.ready = READY.fullmatch(self.said[-1])
        assert self.ready, self.said
        self.client = control.Client(self.path)
        self.pool = self.client.get("/v1/pools")["pools"][0]["id"]

    def signal(self):
        """Tells it to end, and returns when it drains."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.stderr.readline()
        assert said.startswith("draining for at most "), said

    def end(self, status=0):
        """Waits for its end; what it had to say still."""
        said = self.process.communicate(timeout=control.ANSWER_S)[1]
        assert self.process.returncode == status, (self.process.returncode, said)
        assert not self.path.exists(), "it left its socket behind"
        return said

    def grant(self, blocks=(3, 4)):
        body = {"pool": self.pool, "blocks": list(blocks), "lease_ms": 60000}
        return self.client.ask("POST", "/v1/grants", body)

    def stream(self, ticket, blocks=(5, 1)):
        body = {"pool": self.pool, "blocks": list(blocks), "ticket": ticket, "ready": True}
        return self.client.ask("POST", "/v1/streams", body).expect(201)

    def checksums(self, *blocks):
        path = f"/v1/pools/{self.pool}/checksum"
        return self.client.ask("POST", path, {"blocks": blocks}).expect(200)["checksums"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def bench(*arguments, status):
    """What a bench says that ends at once."""
    done = subprocess.run(
        [BENCH, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=control.ANSWER_S,
    )  # fmt: skip
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stderr


@tap.case
def a_worker_says_where_it_is_driven_and_what_it_has():
    with Worker("decode-0") as worker:
        name, where, pool, *shape = worker.ready.groups()
        assert (name, where) == ("decode-0", f"unix:{worker.path}"), worker.said
        assert shape == ["4", "2", "32", "4096"], worker.said
        status = worker.client.get("/v1/status")
        assert (status["name"], status["pid"]) == ("decode-0", worker.process.pid), status
        told = worker.client.get(f"/v1/pools/{pool}")["geometry"]
        assert (told["layers"], told["blocks"], told["block_tokens"]) == (4, 32, 16), told


@tap.case
def a_pool_of_blocks_needs_no_model():
    arguments = ["--control", control.fresh("s.sock"), "--block-size", "4K", "--blocks", "8"]
    process = subprocess.Popen(
        [BENCH, "serve", *arguments, "--layers", "3", "--pool-bytes", "96K"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=control.ANSWER_S)
    assert "3 layers, 1 planes, 8 blocks of 4096 bytes" in said, said
    assert process.returncode == 0, process.returncode


@tap.case
def a_filled_pool_has_bytes_of_its_seed_and_place():
    with Worker("a", "--fill", "7") as a, Worker("b", "--fill", "7") as b, Worker("c") as c:
        assert a.checksums(2, 9) == b.checksums(2, 9)
        assert a.checksums(2) != a.checksums(9)
        assert c.checksums(2) == c.checksums(9) != a.checksums(2)
        assert len(set(a.checksums(2))) == 4, "layers hold the same"


@tap.cases_for(["shm", "tcp"])
def a_request_moves_between_two_workers(transport):
    place = ["--option", f"transports={transport}"]
    with Worker("prefill", "--fill", "3", *place) as prefill, Worker("decode", *place) as decode:
        grant = decode.grant().expect(201)
        prefill.stream(grant["ticket"])
        ended = decode.client.get(f"/v1/grants/{grant['id']}?wait_ms=20000")
        assert (ended["state"], ended["sender"]) == ("complete", "prefill"), ended
        assert decode.checksums(3, 4) == prefill.checksums(5, 1)
        peer, = decode.client.get("/v1/peers")["peers"]
        assert peer["transport"] == transport, peer


@tap.case
def a_signal_lets_go_on_what_is_open():
    with Worker("prefill", "--fill", "3") as prefill:
        with Worker("decode", "--drain", str(LONG_MS)) as decode:
            grant = decode.grant().expect(201)
            decode.signal()
            decode.grant([6]).expect_problem(503, "KVX_E_DRAINING")
            view = decode.client.get("/v1/drain")
            assert (view["state"], view["grants"]) == ("waiting", 1), view
            stream = prefill.stream(grant["ticket"])
            decode.end()
            ended = prefill.client.get(f"/v1/streams/{stream['id']}?wait_ms=20000")
            assert ended["state"] == "complete", ended


@tap.case
def without_anything_open_a_signal_ends_it():
    with Worker("idle", "--drain", str(LONG_MS)) as worker:
        worker.process.send_signal(signal.SIGTERM)
        assert not worker.end()


@tap.case
def at_the_deadline_it_ends_what_goes_on():
    with Worker("prefill") as prefill, Worker("decode", "--drain", "50") as decode:
        grant = decode.grant().expect(201)
        body = {"pool": prefill.pool, "blocks": [5, 1], "ticket": grant["ticket"]}
        stream = prefill.client.ask("POST", "/v1/streams", body).expect(201)
        decode.signal()
        assert decode.end() == "cut off after 50 ms: 1 grants, 0 streams\n"
        ended = prefill.client.get(f"/v1/streams/{stream['id']}?wait_ms=20000")
        assert ended["state"] == "failed", ended


@tap.case
def a_second_signal_ends_at_once():
    with Worker("decode", "--drain", str(LONG_MS)) as worker:
        worker.grant().expect(201)
        worker.signal()
        worker.process.send_signal(signal.SIGINT)
        assert not worker.end(status=1)


@tap.case
def tcp_is_another_way_to_the_same_worker():
    with Worker("decode", "--control-listen", "127.0.0.1:0") as worker:
        ways = dict(way.split(":", 1) for way in worker.ready[2].split(","))
        assert ways["unix"] == str(worker.path), ways
        connection = http.client.HTTPConnection(ways["http"].strip("/"), timeout=control.ANSWER_S)
        connection.request("GET", "/v1/status")
        assert json.loads(connection.getresponse().read())["name"] == "decode"
        connection.close()


@tap.case
def with_a_place_to_listen_it_serves_sessions_too():
    with Worker("both", "--listen", "127.0.0.1:0") as worker:
        while not worker.said[0].startswith("listening on "):
            worker.said.insert(0, worker.process.stdout.readline())
        place = worker.said[0].split()[2]
        form = ["--blocks", "16", "--block-size", "4K", "--requests", "3", "--pool-bytes", "1M"]
        bench("run", "blocks", "--peer", place, "--transport", "tcp", "--verify", *form, status=0)
        assert worker.client.get("/v1/status")["name"] == "both"
        sessions = children(worker.process.pid)
        assert len(sessions) == 1, sessions
        worker.process.send_signal(signal.SIGTERM)
        worker.end()
        assert not pathlib.Path(f"/proc/{sessions[0]}").exists(), "it left a process behind"


def children(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        found += (task / "children").read_text().split()
    return found


@tap.case
def a_place_where_no_socket_can_be_is_an_error_that_names_it():
    occupied = control.fresh("file")
    occupied.write_text("somebody's\n")
    for path in "/nonexistent/folder/x.sock", occupied, "/tmp/" + 200 * "x":
        said = bench("serve", "--control", path, *SMALL, status=1)
        assert said.startswith("kvxfer-bench: ") and str(path)[:60] in said, said
    assert occupied.read_text() == "somebody's\n", "the file is gone"


@tap.case
def a_socket_of_a_living_worker_is_left_alone():
    with Worker("first") as first:
        said = bench("serve", "--control", first.path, *SMALL, status=1)
        assert str(first.path) in said, said
        assert first.client.get("/v1/status")["name"] == "first"


@tap.case
def a_socket_of_a_dead_worker_is_replaced():
    with Worker("dead") as dead:
        path = dead.path
        dead.process.kill()
        dead.process.wait()
        assert path.exists()
    arguments = ["serve", "--control", path, *SMALL]
    with subprocess.Popen([BENCH, *arguments], stdout=subprocess.PIPE, text=True) as next_one:
        with contextlib.closing(control.Client(path)) as client:
            assert READY.fullmatch(next_one.stdout.readline())
            assert client.get("/v1/status")["pid"] == next_one.pid
        os.kill(next_one.pid, signal.SIGTERM)


@tap.cases_for([
    "serve --name x", "serve --fill 3", "serve --drain 100", "serve --control-listen 127.0.0.1:0",
    "serve --secret x", "local blocks --control /tmp/x.sock", "serve --control=",
    "serve --control /tmp/x.sock --fill 0", "serve --control /tmp/x.sock --drain 0",
    "serve --control /tmp/x.sock --blocks 8 --model qwen3-8b",
    "serve --control /tmp/x.sock --model no-such-model",
])  # fmt: skip
def a_command_line_that_is_wrong_is_refused(line):
    said = bench(*line.split(), status=2)
    assert said.strip(), "nothing was said"


tap.main()
