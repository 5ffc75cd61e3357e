#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The control socket's door: who gets in, what it says to bad requests, and what it bears."""
import contextlib
import json
import os
import pathlib
import resource
import socket
import stat
import threading

import control
import tap
from control import NOBODY, Events, Host, Refused, as_nobody, connect
from control import expect_refused, fresh, hosts, until

STATUS = b"GET /v1/status HTTP/1.1\r\nHost: kvxfer\r\n\r\n"
LONG_MS = 600000  # longer than any test
EVENTS_KEPT = 4096
WAITING_MAX = 64
MIB = 1 << 20
BYTES_MAX = 64 * MIB  # of all bodies and answers under way


def resident(host):
    """Bytes of memory that the host has touched."""
    for line in pathlib.Path(f"/proc/{host.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def expect_growth(host, before, limit):
    """It has not taken more memory than that."""
    grown = resident(host) - before
    assert grown < limit or control.SANITIZED, f"{grown} bytes"


def speak(path, data):
    """Sends bytes and returns all that comes back until the server closes the connection."""
    with connect(path) as bare:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            bare.sendall(data)
            bare.shutdown(socket.SHUT_WR)
        return read_all(bare)


def read_all(bare):
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := bare.recv(65536):
            found += piece
    return found


def status_of(answer):
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.") else None


def open_grant(host, blocks=(0,), lease_ms=LONG_MS):
    return host.post("/v1/grants", {"pool": host.pools[0], "blocks": list(blocks),
                                    "lease_ms": lease_ms})  # fmt: skip


# --- requests that are no requests ---


def header(size):
    return b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * size + b"\r\n\r\n"


# What is sent, and the status of the answer; None: the connection is closed without one.
NOT_HTTP = (
    (b"\0\0\0\0\r\n\r\n", None),
    (b"nonsense\r\n\r\n", None),
    (b"\x80" * 4096 + b"\r\n\r\n", None),
    (b"GET /v1/status\r\n\r\n", 400),
    (b"GET /v1/status HTTP/1.1\r\nnocolon\r\n\r\n", 400),
    (b"GET /v1/status HTTP/1.1\r\n\r\n", 400),
    (b"POST /v1/drain HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
    (b"POST /v1/drain HTTP/1.1\r\nHost: x\r\nContent-Length: 5x\r\n\r\n", 400),
    (b"POST /v1/drain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"GET " + b"/x" * 30000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (header(MIB), 431),
    (b"GET /v1/status HTTP/9.9\r\nHost: x\r\n\r\n", 505),
)


@tap.case
def malformed_http_is_refused_and_the_next_client_is_served():
    with hosts("a") as (host,):
        for data, status in NOT_HTTP:
            answer = speak(host.path, data)
            assert status_of(answer) == status, (data[:80], status, answer[:200])
            assert status or not answer, (data[:80], answer[:200])
            assert host.get("/v1/status")["name"] == "a"
        assert status_of(speak(host.path, header(32000))) == 200


@tap.case
def random_bytes_are_never_taken_for_a_request():
    with hosts("a") as (host,):
        for size in (1, 10, 300, 4096):
            data = os.urandom(size) + b"\r\n\r\n"
            answer = speak(host.path, data)
            assert status_of(answer) == 400 or not answer, (data, answer[:200])
        assert host.get("/v1/status")["name"] == "a"


@tap.case
def malformed_json_is_told_with_its_place():
    with hosts("a") as (host,), host.client() as client:
        for raw in (
            b"{", b"[]", b"1", b'"x"', b"null", b"{\"a\":1,\"a\":2}", b"\xff\xfe", b"{} {}",
            b"[" * 100000, b'{"a":' * 100000, b'{"pool":1e999}', b'{"pool":"\\u0000"}', b"\0" * 9,
            b'{"pool":99999999999999999999}',
        ):  # fmt: skip
            client.ask("POST", "/v1/grants", raw=raw).expect_problem(400, "KVX_E_INVALID", "body")
        client.get("/v1/status")


@tap.case
def paths_and_methods_that_are_none():
    with hosts("a") as (host,), host.client() as client:
        for path in ("/", "/v1", "/v1/grants/", "/v1/grants/x", "/v1/grants/-1", "/v1/grants/0",
                     "/v1/grants/1/", "/v1/grants/" + "9" * 40, "/v1/grants/1/x", "/V1/status",
                     "/v1/status/../options", "//v1/status"):  # fmt: skip
            client.ask("GET", path).expect_problem(404, "KVX_E_INVALID")
        client.ask("GET", "/v1/grants/77").expect_problem(404, "KVX_E_INVALID", "77")
        for method, path, allowed in (
            ("DELETE", "/v1/status", {"GET"}),
            ("PUT", "/v1/grants", {"GET", "POST"}),
            ("OPTIONS", "/v1/grants/1", {"GET", "DELETE"}),
            ("BREW", "/v1/drain", {"GET", "POST", "DELETE"}),
        ):  # fmt: skip
            answer = client.ask(method, path)
            answer.expect_problem(405, "KVX_E_INVALID", method)
            assert set(answer.headers["Allow"].split(", ")) == allowed, answer.headers["Allow"]


@tap.case
def bodies_that_do_not_belong():
    with hosts("a") as (host,), host.client() as client:
        client.ask("GET", "/v1/status", {"a": 1}).expect_problem(400, "KVX_E_INVALID", "none")
        client.ask("POST", "/v1/grants").expect_problem(400, "KVX_E_INVALID", "object")
        for kind in ("text/plain", "application/jsonp", "application/x-www-form-urlencoded"):
            client.ask(
                "POST", "/v1/drain", raw=b'{"deadline_ms": 1000}', headers={"Content-Type": kind}
            ).expect_problem(415, "KVX_E_INVALID", "application/json")
        client.ask(
            "POST", "/v1/drain", raw=b'{"deadline_ms": 1000}',
            headers={"Content-Type": "application/json; charset=utf-8"},
        ).expect(200)  # fmt: skip


@tap.case
def fields_unknown_missing_of_the_wrong_type_or_out_of_range():
    good = {"pool": 0, "blocks": [0], "lease_ms": 1000}
    with hosts("a") as (host,), host.client() as client:
        good["pool"] = host.pools[0]
        for changed, word in (
            ({"colour": 1}, "colour"), ({"pool": None}, "pool"), ({"pool": "1"}, "pool"),
            ({"pool": 1.5}, "pool"), ({"pool": -1}, "pool"), ({"pool": True}, "pool"),
            ({"blocks": 3}, "blocks"), ({"blocks": ["0"]}, "blocks"), ({"blocks": [-1]}, "blocks"),
            ({"blocks": [1 << 32]}, "blocks"), ({"blocks": [0.5]}, "blocks"),
            ({"lease_ms": 0}, "lease"), ({"lease_ms": 1 << 40}, "lease"),
            ({"senders": 65}, "sender"), ({"tail": []}, "tail"), ({"tail": {"x": 1}}, "tail"),
            ({"blocks": [64]}, "block"), ({"blocks": [1, 1]}, "block"),
            ({"pull": ["!!!!"]}, "pull"), ({"pull": [1], "blocks": [1]}, "pull"),
        ):  # fmt: skip
            answer = client.ask("POST", "/v1/grants", good | changed)
            answer.expect_problem(400, None, word)
        for missing in good:
            asked = {name: value for name, value in good.items() if name != missing}
            client.ask("POST", "/v1/grants", asked).expect_problem(400, "KVX_E_INVALID", missing)
        for query in ("wait_ms=x", "wait_ms=-1", "wait_ms=600001", "wait_ms=", "wait_ms=1e3"):
            client.ask("GET", "/v1/drain?" + query).expect_problem(400, "KVX_E_INVALID", "wait_ms")
        until(lambda: client.get("/v1/grants") == {"grants": []})
        client.ask("POST", "/v1/grants", good).expect(201)


@tap.case
def a_body_of_10_MiB_is_refused_and_takes_no_memory():
    with hosts("a") as (host,), host.client() as client:
        client.get("/v1/status")
        before = resident(host)
        for _ in range(5):
            answer = client.ask("POST", "/v1/grants", raw=b" " * (10 * MIB))
            answer.expect_problem(413, "KVX_E_LIMIT", 10 * MIB)
        client.ask("POST", "/v1/grants", raw=b" " * MIB).expect_problem(400)
        expect_growth(host, before, 8 * MIB)


@tap.case
def endless_bodies_are_cut_off():
    head = b"POST /v1/grants HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with hosts("a") as (host,), connect(host.path) as bare:
        bare.sendall(head)
        sent = 0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 64 * MIB:
                bare.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
        assert sent < 64 * MIB
        host.get("/v1/status")


@tap.case
def bodies_under_way_have_a_bound_together():
    """Each of these bodies lacks its last byte."""
    head = b"POST /v1/grants HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % MIB
    with hosts("a") as (host,), host.client() as client, contextlib.ExitStack() as stack:
        client.get("/v1/status")
        before = resident(host)
        held = [stack.enter_context(connect(host.path)) for _ in range(BYTES_MAX // MIB)]
        for bare in held:
            bare.sendall(head + b" " * (MIB - 1))
        until(lambda: client.ask("GET", "/v1/status").status == 503)
        client.ask("GET", "/v1/status").expect_problem(503, "KVX_E_MEMORY", "ask again later")
        answer = client.ask("POST", "/v1/grants", {"pool": host.pools[0]})
        answer.expect_problem(503, "KVX_E_MEMORY", "body")
        expect_growth(host, before, BYTES_MAX + 16 * MIB)
        # The program's own calls are none of its business.
        host.do("close", host.do("grant", host.pools[0], 0, 1, LONG_MS)["grant"])
        held[0].sendall(b" ")
        held[0].shutdown(socket.SHUT_WR)
        assert status_of(read_all(held[0])) == 400
        client.get("/v1/status")


# --- many, slow and vanishing clients ---


@tap.case
def idle_connections_are_closed_and_others_are_served_again():
    """Half of them have asked for something before they fall silent."""
    wanted = 10000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted + 100:
        raise tap.Skip(f"{wanted} connections need more descriptors than this user's {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 100), hard))
    with hosts("a") as (host,), contextlib.ExitStack() as stack:
        follower = stack.enter_context(Events(host))
        kept = stack.enter_context(host.client())
        kept.get("/v1/status")
        before = resident(host)
        idle = []
        for number in range(wanted):
            idle.append(stack.enter_context(connect(host.path)))
            if number % 2:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    idle[-1].sendall(STATUS)
        # Those above the limit are told so at once, those below when the idle time is over.
        told = [read_all(bare) for bare in idle]
        refused = sum(status_of(answer) == 503 for answer in told)
        served = sum(status_of(answer) == 200 for answer in told)
        silent = sum(answer == b"" for answer in told)
        assert served >= 100 and silent >= 100, (refused, served, silent)
        assert refused + served + silent == wanted, (refused, served, silent)
        expect_growth(host, before, 64 * MIB)
        assert host.get("/v1/status")["name"] == "a"
        # Who follows events is told that the engine lives.
        host.do("grant", host.pools[0], 0, 1, LONG_MS)
        follower.until("grant_opened")
        assert follower.comments > 0


class Mover:
    """Moves requests from one host to another over connections that it keeps, and compares what
    has come byte by byte."""

    COUNT = 24  # blocks

    def __init__(self, sender, receiver, stack):
        self.sender, self.receiver = sender, receiver
        self.clients = [stack.enter_context(host.client()) for host in (sender, receiver)]
        self.moves = 0

    def move(self):
        sending, receiving = self.clients
        first, there = self.moves % 7, (3 * self.moves) % 31
        grant = receiving.ask("POST", "/v1/grants", {
            "pool": self.receiver.pools[0], "blocks": list(range(first, first + self.COUNT)),
            "lease_ms": LONG_MS,
        }).expect(201)  # fmt: skip
        stream = sending.ask("POST", "/v1/streams", {
            "pool": self.sender.pools[0], "blocks": list(range(there, there + self.COUNT)),
            "ticket": grant["ticket"], "ready": True,
        }).expect(201)  # fmt: skip
        for client, path in ((receiving, f"/v1/grants/{grant['id']}"),
                             (sending, f"/v1/streams/{stream['id']}")):  # fmt: skip
            ended = client.get(f"{path}?wait_ms={LONG_MS}")
            assert ended["state"] == "complete", ended
            client.ask("DELETE", path).expect(200)
        told = self.receiver.do("compare", self.receiver.pools[0], first, self.COUNT,
                                self.sender.name, there)  # fmt: skip
        assert told["same"], (self.moves, told)
        self.moves += 1


def send_bad_json(_, client):
    for _ in range(200):
        client.ask("POST", "/v1/grants", raw=b'{"pool": [[[').expect_problem(400)


def send_big_bodies(_, client):
    for _ in range(8):
        client.ask("POST", "/v1/grants", raw=b" " * (10 * MIB)).expect_problem(413)


def make_events(host, client):
    """More than the followers' buffers take."""
    body = {"pool": host.pools[0], "blocks": [63], "lease_ms": LONG_MS}
    for _ in range(1200):
        grant = client.ask("POST", "/v1/grants", body).expect(201)
        client.ask("DELETE", f"/v1/grants/{grant['id']}").expect(200)


def leave_in_the_middle(host, _):
    """At times there are too many of them."""
    for turn in range(200):
        data = (STATUS[:20], b"\0" * 500, os.urandom(500) + b"\r\n\r\n", STATUS)[turn % 4]
        with connect(host.path) as bare, contextlib.suppress(BrokenPipeError):
            bare.sendall(data)


ACTORS = (send_bad_json, send_big_bodies, make_events, leave_in_the_middle)


@tap.cases_for(("shm", "tcp"))
def transfers_are_whole_whatever_clients_do_meanwhile(transport):
    failed = []

    def run(actor, host, client):
        try:
            actor(host, client)
        except Exception as error:
            failed.append(f"{actor.__name__} at {host.name}: {error!r}")

    options = [f"transports={transport}", "heartbeat_ms=10000"]
    with hosts("p", "d", options=options) as both, \
            contextlib.ExitStack() as stack:  # fmt: skip
        mover = Mover(*both, stack)
        mover.move()
        # Before there are too many.
        clients = [
            (host, actor, stack.enter_context(host.client())) for host in both for actor in ACTORS
        ]
        for _, _, client in clients:
            client.get("/v1/status")
        for host in both:
            for _ in range(4):  # they never read
                follower = stack.enter_context(connect(host.path))
                follower.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            for number in range(230):
                idle = stack.enter_context(connect(host.path))
                if number % 2:
                    idle.sendall(STATUS)
        threads = [
            threading.Thread(target=run, args=(actor, host, client))
            for host, actor, client in clients
        ]
        for thread in threads:
            thread.start()
        while mover.moves < 20 or any(thread.is_alive() for thread in threads):
            mover.move()
        for thread in threads:
            thread.join()
        tap.expect(failed)
        for client in mover.clients:
            assert client.get("/v1/grants") == {"grants": []}
            stats = client.get("/v1/status")["stats"]
            assert stats["peers_lost"] == stats["units_late"] == stats["streams_failed"] == 0, stats
        print(f"# {mover.moves} requests", flush=True)


@tap.case
def a_slow_reader_of_events_gets_a_gap_and_goes_on():
    pairs = 4000
    with hosts("a") as (host,), Events(host) as slow, Events(host) as fast:
        # The fast one reads meanwhile.
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(fast.until("drain_done")))
        reader.start()
        before = resident(host)
        for _ in range(pairs):
            grant = host.do("grant", host.pools[0], 0, 1, LONG_MS)["grant"]
            host.do("close", grant)
        expect_growth(host, before, 16 * MIB)
        host.post("/v1/drain", {"deadline_ms": 1000}, 200)
        found = slow.until("drain_done")
        reader.join()
        gaps = [data["missed"] for _, name, data in found if name == "gap"]
        assert gaps and all(missed > 0 for missed in gaps), gaps
        last = found[0][0] - 1
        for number, name, data in found:
            if name == "gap":
                last += data["missed"]
            else:
                assert number == last + 1 == data["sequence"], (number, last)
                last = number
        assert len(found) - len(gaps) + sum(gaps) >= 2 * pairs
        assert seen[-1][0] == found[-1][0]


@tap.case
def events_are_replayed_from_a_number_and_a_gap_tells_what_is_gone():
    with hosts("a") as (host,):
        for _ in range(3):
            host.do("close", host.do("grant", host.pools[0], 0, 1, LONG_MS)["grant"])
        with Events(host, "?after=0&follow=false") as events:
            found = list(events)
        assert [number for number, _, _ in found] == list(range(1, len(found) + 1)), found
        assert {name for _, name, _ in found} >= {"grant_opened", "grant_failed"}
        with Events(host, "?follow=false", headers={"Last-Event-ID": "2"}) as events:
            assert list(events) == found[2:]
        with Events(host, "?follow=false") as events:
            assert list(events) == []
        # What another engine has numbered says nothing about this one's.
        with Events(host, "?follow=false&after=1000000") as events:
            replayed = list(events)
        assert replayed[0] == (None, "gap", {"missed": None}) and replayed[1:] == found
        for query in ("after=x", "after=-1", "follow=maybe"):
            host.ask("GET", "/v1/events?" + query).expect_problem(400, "KVX_E_INVALID")
        host.ask("GET", "/v1/events", headers={"Last-Event-ID": "x"}).expect_problem(400)


@tap.case
def clients_that_leave_in_the_middle_leave_nothing_behind():
    with hosts("a") as (host,):
        grant = open_grant(host)["id"]
        wait = f"GET /v1/grants/{grant}?wait_ms={LONG_MS} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        follow = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"
        body = b"POST /v1/grants HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        for data in (STATUS[:20], body, wait, follow):
            for _ in range(3 * WAITING_MAX):
                with connect(host.path) as bare, contextlib.suppress(BrokenPipeError):
                    bare.sendall(data)
        # Their places are free again.
        with contextlib.ExitStack() as stack:
            for _ in range(WAITING_MAX):
                until(lambda: try_to_follow(host, stack))
        assert host.get(f"/v1/grants/{grant}")["state"] == "open"


def try_to_follow(host, stack):
    client = host.client()
    client.send("GET", "/v1/events")
    response = client.connection.getresponse()
    if response.status == 200:
        stack.enter_context(client)
        return True
    assert response.status == 503, response.status
    client.close()
    return False


@tap.case
def only_so_many_may_wait_and_the_next_is_told():
    with hosts("a") as (host,), contextlib.ExitStack() as stack:
        grant = open_grant(host)["id"]
        path = f"/v1/grants/{grant}?wait_ms={LONG_MS}"
        waiting = [stack.enter_context(host.client()) for _ in range(WAITING_MAX)]
        for client in waiting:
            client.send("GET", path)
        until(lambda: host.ask("GET", f"/v1/grants/{grant}?wait_ms=1").status == 503)
        host.ask("GET", path).expect_problem(503, "KVX_E_LIMIT")
        host.ask("GET", "/v1/events").expect_problem(503, "KVX_E_LIMIT")
        host.get(f"/v1/grants/{grant}")
        host.delete(f"/v1/grants/{grant}?wait_ms=0")
        for client in waiting:
            ended = client.answer().expect(200)
            assert ended["state"] == "failed" and ended["code"] == "KVX_E_REVOKED", ended


@tap.case
def two_clients_that_race_to_revoke_one_grant_are_both_answered():
    with hosts("a") as (host,), host.client() as one, host.client() as other:
        for _ in range(50):
            path = f"/v1/grants/{open_grant(host)['id']}"
            for client in (one, other):
                client.send("DELETE", path)
            answers = [client.answer() for client in (one, other)]
            assert 200 in [answer.status for answer in answers]
            for answer in answers:
                if answer.status == 200:
                    assert answer.json["code"] == "KVX_E_REVOKED" and answer.json["fenced"]
                else:
                    answer.expect_problem(404)
        assert host.get("/v1/grants") == {"grants": []}


@tap.case
def requests_one_behind_the_other_on_one_connection_are_all_answered():
    with hosts("a") as (host,), connect(host.path) as bare:
        bare.sendall(STATUS * 20 + STATUS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert read_all(bare).count(b"HTTP/1.1 200 OK") == 21


@tap.case
def an_engine_closes_while_clients_wait_and_follow():
    with hosts("a") as (host,), contextlib.ExitStack() as stack:
        grant = open_grant(host)["id"]
        followers = [stack.enter_context(Events(host)) for _ in range(WAITING_MAX // 2)]
        waiting = [stack.enter_context(host.client()) for _ in range(WAITING_MAX // 2)]
        for client in waiting:
            client.send("GET", f"/v1/grants/{grant}?wait_ms={LONG_MS}")
        until(lambda: host.ask("GET", f"/v1/grants/{grant}?wait_ms=1").status == 503)
        stack.enter_context(connect(host.path))
        half = stack.enter_context(connect(host.path))
        half.sendall(STATUS[:20])
        host.do("reopen")
        for client in waiting:
            client.answer().expect_problem(503, "KVX_E_CANCELLED", "closed")
        for follower in followers:
            list(follower)
        assert read_all(half) == b""
        assert host.get("/v1/grants") == {"grants": []}


# --- the socket of the file system ---


@tap.case
def the_socket_has_mode_0600_and_goes_with_its_engine():
    for umask in (0, 0o777):
        path = fresh("s.sock")
        before = os.umask(umask)
        try:
            host = Host(f"control={path}", "name=a")
        finally:
            os.umask(before)
        with host:
            assert stat.S_IMODE(path.stat().st_mode) & ~0o600 == 0, oct(path.stat().st_mode)
            assert host.told["control"] == f"unix:{path}"
            assert host.get("/v1/status")["control"] == host.told["control"]
        assert not path.exists()


@tap.case
def a_folder_gets_a_socket_called_after_the_engine():
    folder = fresh("").parent
    with Host(f"control={folder}/", "name=decode-0") as host:
        assert host.path == f"{folder}/decode-0.sock"
        host.get("/v1/status")
    expect_refused("KVX_E_INVALID", "name", f"control={folder}/", "name=../x")
    expect_refused("KVX_E_SYSTEM", "folder", f"control={folder}/none/", "name=a")
    expect_refused("KVX_E_INVALID", "characters", f"control={folder}/{'x' * 120}")


@tap.case
def a_dead_engines_socket_is_replaced_and_a_living_ones_is_not():
    path = fresh("s.sock")
    Host(f"control={path}", "name=dead").kill()
    assert path.is_socket()
    with Host(f"control={path}", "name=living") as host:
        expect_refused("KVX_E_BUSY", str(path), f"control={path}", "name=thief")
        assert host.get("/v1/status")["name"] == "living"


@tap.case
def of_engines_that_begin_at_once_on_a_dead_ones_socket_one_gets_it():
    path = fresh("s.sock")
    Host(f"control={path}", "name=dead").kill()
    opened, refused = [], []

    def begin(number):
        try:
            opened.append(Host(f"control={path}", f"name=n{number}"))
        except Refused as error:
            refused.append(error.error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1 and refused == ["KVX_E_BUSY"] * 7, (opened, refused)
    with opened[0] as host:
        assert host.get("/v1/status")["name"] == host.name


@tap.case
def what_is_no_socket_or_not_its_own_is_left_alone():
    path = fresh("file")
    path.write_text("precious")
    expect_refused("KVX_E_INVALID", "no socket", f"control={path}")
    assert path.read_text() == "precious"
    path = fresh("s.sock")
    with Host(f"control={path}", "name=a"):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"
    if os.geteuid() == 0:
        path = fresh("s.sock")
        with socket.socket(socket.AF_UNIX) as bare:
            bare.bind(str(path))
        os.chown(path, NOBODY, NOBODY)
        expect_refused("KVX_E_INVALID", f"user {NOBODY}", f"control={path}")


@tap.case
def an_engine_that_its_caller_drives_has_none():
    expect_refused("KVX_E_INVALID", "progress", f"control={fresh('s')}", "progress=caller")


@tap.case
def another_users_process_does_not_get_in():
    with hosts("a") as (host,):
        path = pathlib.Path(host.path)
        for folder in (path.parent, path.parent.parent):
            folder.chmod(0o755)
        ask = lambda: speak(host.path, STATUS).decode()  # noqa: E731
        assert as_nobody(ask) == "PermissionError"
        path.chmod(0o666)
        told = as_nobody(ask)
        assert status_of(told.encode()) == 403, told
        problem = json.loads(told.partition("\r\n\r\n")[2])
        assert problem["code"] == "KVX_E_REFUSED" and str(NOBODY) in problem["detail"], problem
        drain = b'{"deadline_ms":1000}'
        head = (
            b"POST /v1/drain HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(drain)
        )
        as_nobody(lambda: speak(host.path, head + drain).decode())
        assert host.get("/v1/drain")["state"] == "off"


@tap.case
def an_engine_of_another_user_answers_its_user_and_root():
    if os.geteuid() != 0:
        raise tap.Skip("another user's process can be started by root alone")
    path = fresh("s.sock")
    for folder in (path.parent, path.parent.parent):
        folder.chmod(0o755)
    os.chown(path.parent, NOBODY, NOBODY)
    reachable = os.access(control.HOST, os.X_OK) and as_nobody(
        lambda: os.access(control.HOST, os.X_OK)
    )
    if reachable is not True:
        raise tap.Skip("the build folder is not readable for other users")
    with Host(f"control={path}", "name=a", user=NOBODY, group=NOBODY) as host:
        assert host.get("/v1/status")["pid"] == host.pid
        assert as_nobody(lambda: status_of(speak(host.path, STATUS))) == 200


tap.main()
