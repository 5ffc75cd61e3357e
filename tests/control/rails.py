#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the control socket tells of a network that fails: rails that go down and come back, units
that are sent again or come too late, peers that break the protocol, vanish and return. Engines are
joined by a proxy (proxy.py), and each answer is compared with docs/openapi.json."""
import contextlib
import os
import re

import control
import described
import tap
from control import until
from described import hosts
from proxy import Proxy

LAYERS, PLANES, BLOCK = 4, 2, 1024  # of the program under test
BLOCKS = list(range(64))
SIZE = LAYERS * PLANES * len(BLOCKS) * BLOCK
UNIT = 4096  # bytes of a unit
HEADER = 28  # before the bytes of a unit on a data connection
LEASE_MS = 60000
WAIT = "wait_ms=60000"
OPTIONS = ("transports=tcp", "tcp_connections=2", f"unit_bytes={UNIT}")
# A test may stop what a peer says for longer than others may be silent.
PATIENT = ("heartbeat_ms=60000", "connect_timeout_ms=60000")


def samples(host):
    """What GET /metrics has without labels, and the sum over all labels of what has some."""
    found = {}
    for line in host.ask("GET", "/metrics").data.decode().splitlines():
        if line.startswith("kvxfer_"):
            name, labels, value = re.fullmatch(r"kvxfer_(\w+)(\{.*\})? (\S+)", line).groups()
            for key in {name, name + (labels or "")}:
                found[key] = found.get(key, 0) + float(value)
    return found


def expect_samples(host, **wanted):
    found = samples(host)
    tap.expect(
        f"{host.name}: {name} is {found.get(name)} and not {value}"
        for name, value in wanted.items() if found.get(name) != value
    )  # fmt: skip


def counted(port, direction):
    """The sample of the units of a port."""
    return f'units_total{{transport="tcp",port="{port}",direction="{direction}"}}'


@contextlib.contextmanager
def joined(*options):
    """A receiver and a sender that is connected with it through a proxy; the sender's peer."""
    with hosts("decode", "prefill", options=(*OPTIONS, *PATIENT, *options)) as [decode, prefill], \
            Proxy(decode) as proxy:  # fmt: skip
        made = prefill.post("/v1/peers", {"address": proxy.address})
        peer = prefill.get(f"/v1/peers/{made['id']}?{WAIT}")
        assert peer["state"] == "up" and len(peer["rails"]) == 2, peer
        other = decode.get(f"/v1/peers/{peer_of(decode)['id']}?{WAIT}")
        assert other["state"] == "up" and len(other["rails"]) == 2, other
        yield decode, prefill, proxy, peer


def peer_of(host):
    [peer] = host.get("/v1/peers")["peers"]
    return peer


def request(decode, prefill, **more):
    """All blocks of prefill go to decode."""
    grant = decode.post("/v1/grants", {"pool": decode.pools[0], "blocks": BLOCKS,
                                       "lease_ms": LEASE_MS})  # fmt: skip
    stream = prefill.post("/v1/streams", {"pool": prefill.pools[0], "blocks": BLOCKS,
                                          "ticket": grant["ticket"], **more})  # fmt: skip
    return grant, stream


def expect_whole(decode, prefill, grant, stream):
    whole = decode.get(f"/v1/grants/{grant['id']}?{WAIT}")
    sent = prefill.get(f"/v1/streams/{stream['id']}?{WAIT}")
    assert whole["state"] == sent["state"] == "complete", (whole, sent)
    assert whole["bytes"] == sent["bytes"] == SIZE, (whole, sent)
    told = decode.do("compare", decode.pools[0], 0, len(BLOCKS), prefill.name, 0)
    assert told["same"], told


@tap.case
def a_rail_goes_down_and_comes_back():
    with joined() as (decode, prefill, proxy, peer), \
            control.Events(decode.client(), "?after=0") as at_decode, \
            control.Events(prefill.client(), "?after=0") as at_prefill:  # fmt: skip
        ids = {decode: peer_of(decode)["id"], prefill: peer["id"]}
        expect_samples(prefill, rails_lost_total=0, **{'rails{state="up"}': 2})
        proxy.opened.clear()  # so that it stays away until that has been seen
        proxy.rail(1).cut()
        for host, events in ((decode, at_decode), (prefill, at_prefill)):
            down = events.until("rail_down")[-1][2]
            described.expect_valid(down, described.component("Event"))
            assert (down["of"], down["id"], down["index"]) == ("peer", ids[host], 1), down
            assert "data connection 1" in down["text"] and down["code"] is None, down
            now = host.get(f"/v1/peers/{ids[host]}")
            assert [rail["up"] for rail in now["rails"]] == [True, False], now
            assert [rail["failures"] for rail in now["rails"]] == [0, 1], now
            assert now["state"] == "up", now
            expect_samples(host, rails_lost_total=1, rails_back_total=0, rail_failures_total=1,
                           **{'rails{state="up"}': 1, 'rails{state="down"}': 1})  # fmt: skip
        proxy.opened.set()
        for host, events in ((decode, at_decode), (prefill, at_prefill)):
            up = events.until("rail_up")[-1][2]
            described.expect_valid(up, described.component("Event"))
            assert (up["of"], up["id"], up["index"]) == ("peer", ids[host], 1), up
            assert "made anew" in up["text"], up
            now = host.get(f"/v1/peers/{ids[host]}")
            assert all(rail["up"] for rail in now["rails"]), now
            assert [rail["failures"] for rail in now["rails"]] == [0, 1], now
            expect_samples(host, rails_lost_total=1, rails_back_total=1, rail_failures_total=1,
                           peers_lost_total=0, **{'rails{state="up"}': 2, 'rails{state="down"}': 0}
                           )  # fmt: skip
        expect_whole(decode, prefill, *request(decode, prefill, ready=True))


@tap.case
def units_of_a_rail_that_fails_are_sent_again_and_counted_once():
    """The rail brings a few whole units and a part of one, and then no more."""
    with joined() as (decode, prefill, proxy, peer):
        cut = proxy.rail(1)
        cut.hold(2 * (UNIT + HEADER) + 100)
        grant, stream = request(decode, prefill, ready=True)
        cut.until_held()
        until(lambda: samples(decode)[counted(1, "received")] == 2)
        assert prefill.get(f"/v1/streams/{stream['id']}")["state"] == "open"
        proxy.opened.clear()  # the other rail has to carry it all
        cut.cut()
        expect_whole(decode, prefill, grant, stream)
        sent, received = samples(prefill), samples(decode)
        assert sent["units_resent_total"] > 0 == received["units_resent_total"], sent
        assert sent["bytes_total"] == received["bytes_total"] == SIZE, (sent, received)
        assert sent["units_total"] == received["units_total"], (sent, received)
        # The part is one too if it is read after the unit has come over the other rail.
        assert received["units_duplicate_total"] in (2, 3), received
        for host, way in ((prefill, "bytes_sent"), (decode, "bytes_received")):
            rails = peer_of(host)["rails"]
            assert sum(rail[way] for rail in rails) == SIZE, rails
            assert [rail["failures"] for rail in rails] == [0, 1], rails
        for name, direction in ((prefill, "sent"), (decode, "received")):
            ports = {
                key: value for key, value in samples(name).items()
                if key.startswith("bytes_total{") and f'direction="{direction}"' in key
            }  # fmt: skip
            assert ports and sum(ports.values()) == SIZE, ports
        stats = prefill.get("/v1/status")["stats"]
        assert stats["units_resent"] == sent["units_resent_total"], stats
        again = stats["units_sent"] - sent["units_total"]
        assert stats["rails_lost"] == 1 and again == stats["units_resent"], (stats, sent)


@tap.case
def a_rail_has_a_weight_once_a_stream_has_used_it():
    with joined() as (decode, prefill, _, peer):
        assert [rail["weight"] for rail in peer["rails"]] == [0, 0], peer
        expect_whole(decode, prefill, *request(decode, prefill, ready=True))
        assert all(rail["weight"] > 0 for rail in peer_of(prefill)["rails"])
        assert all(rail["weight"] == 0 for rail in peer_of(decode)["rails"])


@tap.case
def what_comes_after_the_end_of_a_grant_is_counted_as_late():
    with joined() as (decode, prefill, proxy, _):
        for index in (0, 1):
            proxy.rail(index).hold()
        grant, stream = request(decode, prefill, ready=True)
        for index in (0, 1):
            proxy.rail(index).until_held()
        gone = decode.delete(f"/v1/grants/{grant['id']}")
        assert gone["code"] == "KVX_E_REVOKED" and gone["fenced"] and not gone["bytes"], gone
        for index in (0, 1):
            proxy.rail(index).release()
        failed = prefill.get(f"/v1/streams/{stream['id']}?{WAIT}")
        assert failed["code"] == "KVX_E_REVOKED", failed
        # The next request goes behind what is late, so that has come when this is whole.
        expect_whole(decode, prefill, *request(decode, prefill, ready=True))
        found = samples(decode)
        assert found["units_late_total"] > 0, found
        assert found["bytes_total"] == SIZE and found["units_duplicate_total"] == 0, found
        assert found["protocol_errors_total"] == found["peers_lost_total"] == 0, found


@contextlib.contextmanager
def over_verbs(**fake):
    """An engine with NICs that tests made up. They are of one process, so it is its own peer,
    through a proxy for what is said beside the NICs."""
    folder = tap.BUILD / "tests" / "fake_verbs"
    if not (folder / "libibverbs.so.1").exists():
        raise tap.Skip("this build has no verbs")
    environment = dict(
        os.environ, LD_LIBRARY_PATH=f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        FAKE_VERBS_OPTIONS=",".join(f"{name}={value}" for name, value in fake.items()),
    )  # fmt: skip
    options = ("transports=verbs", "verbs_listen=127.0.0.1:0", *PATIENT)
    with hosts("self", options=options, env=environment) as [host], Proxy(host) as proxy:
        made = host.post("/v1/peers", {"address": proxy.address})
        peer = host.get(f"/v1/peers/{made['id']}?{WAIT}")
        assert peer["state"] == "up" and peer["transport"] == "verbs", peer
        yield host, proxy


def halves(host):
    """A grant of one half of the pool and a stream of the other, of which a layer is ready."""
    half = len(BLOCKS) // 2
    grant = host.post("/v1/grants", {"pool": host.pools[0], "blocks": BLOCKS[:half],
                                     "lease_ms": LEASE_MS})  # fmt: skip
    stream = host.post("/v1/streams", {"pool": host.pools[0], "blocks": BLOCKS[half:],
                                       "ticket": grant["ticket"]})  # fmt: skip
    host.post(f"/v1/streams/{stream['id']}/ready", {"first": 0, "count": 1}, status=200)
    return grant, stream


@tap.case
def a_fence_that_is_not_closed_in_time_says_that_the_blocks_must_be_kept():
    """The sender's word that it has stopped does not come, nor is the time over that it has."""
    with over_verbs() as (host, proxy):
        grant, stream = halves(host)
        path = f"/v1/grants/{grant['id']}"
        host.get(f"{path}?{WAIT}&layer=0")
        proxy.control.hold()
        for _ in range(2):
            host.ask("DELETE", f"{path}?wait_ms=1&drain_ms=60000").expect_problem(
                504, "KVX_E_TIMEDOUT", "do not use its blocks yet", "ask again")  # fmt: skip
            left = host.get(path)
            assert left["state"] == "failed" and not left["fenced"], left
            pool = host.get(f"/v1/pools/{host.pools[0]}")
            assert pool["granted_blocks"] == len(BLOCKS) // 2, pool
        proxy.control.release()
        gone = host.delete(path)
        assert gone["code"] == "KVX_E_REVOKED" and gone["fenced"], gone
        assert host.get(f"/v1/pools/{host.pools[0]}")["granted_blocks"] == 0
        failed = host.get(f"/v1/streams/{stream['id']}?{WAIT}")
        assert failed["code"] == "KVX_E_REVOKED", failed


@tap.case
def a_stream_that_is_still_read_says_that_the_blocks_must_be_kept():
    """The NIC begins to read some time after it was told to."""
    with over_verbs(delay_us=2000000) as (host, _):
        _, stream = halves(host)
        path = f"/v1/streams/{stream['id']}"
        until(lambda: host.get("/v1/status")["stats"]["units_sent"])
        host.ask("DELETE", f"{path}?wait_ms=1").expect_problem(
            504, "KVX_E_TIMEDOUT", "do not use them yet", "ask again")  # fmt: skip
        left = host.get(path)
        assert left["code"] == "KVX_E_CANCELLED" and not left["drained"], left
        gone = host.delete(path)
        assert gone["code"] == "KVX_E_CANCELLED" and gone["drained"], gone


@tap.case
def who_breaks_the_protocol_is_counted_and_told():
    with joined() as (decode, prefill, proxy, peer), \
            control.Events(decode.client(), "?after=0") as at_decode, \
            control.Events(prefill.client(), "?after=0") as at_prefill:  # fmt: skip
        expect_samples(decode, protocol_errors_total=0)
        proxy.control.far.sendall(b"\1\0\xff")  # a message of one byte, which is no message
        lost = at_decode.until("peer_lost")[-1][2]
        assert lost["code"] == "KVX_E_PROTOCOL" and "prefill" in lost["text"], lost
        assert decode.get("/v1/status")["stats"]["protocol_errors"] == 1
        expect_samples(decode, protocol_errors_total=1, peers_lost_total=1)
        # The other side has broken nothing.
        lost = at_prefill.until("peer_lost")[-1][2]
        assert lost["id"] == peer["id"] and lost["code"] == "KVX_E_PEER_LOST", lost
        expect_samples(prefill, protocol_errors_total=0, peers_lost_total=1)


@tap.case
def a_peer_that_does_not_answer_yet_is_connecting():
    with hosts("decode", "prefill", options=(*OPTIONS, *PATIENT)) as [decode, prefill], \
            Proxy(decode) as proxy:  # fmt: skip
        proxy.opened.clear()
        made = prefill.post("/v1/peers", {"address": proxy.address})
        path = f"/v1/peers/{made['id']}"
        assert prefill.get(f"{path}?wait_ms=1")["state"] == "connecting"
        expect_samples(prefill, **{'peers{state="connecting"}': 1, 'peers{state="up"}': 0,
                                   'rails{state="up"}': 0, 'rails{state="down"}': 0})  # fmt: skip
        proxy.opened.set()
        assert prefill.get(f"{path}?{WAIT}")["state"] == "up"
        expect_samples(prefill, **{'peers{state="connecting"}': 0, 'peers{state="up"}': 1,
                                   'rails{state="up"}': 2})  # fmt: skip


@tap.case
def a_peer_of_a_name_that_was_lost_is_told_as_back():
    """At who connects to it, and at whom it connects to."""
    with hosts("steady", options=OPTIONS) as [steady], \
            control.Events(steady.client(), "?after=0") as events:  # fmt: skip
        def begin():
            return described.Host("name=mortal", f"control={control.fresh('s.sock')}", *OPTIONS)

        def outgoing(mortal):
            return steady.post("/v1/peers", {"address": mortal.address})["id"]

        def incoming(mortal):
            mortal.post("/v1/peers", {"address": steady.address})

        first = "peer_up"
        for connect in (outgoing, incoming):
            mortal = begin()
            known = connect(mortal)
            seen = events.until(first)
            assert {name for _, name, _ in seen} & {"peer_up", "peer_back"} == {first}, seen
            described.expect_valid(seen[-1][2], described.component("Event"))
            assert seen[-1][2]["text"] == "mortal" and known in (None, seen[-1][2]["id"]), seen
            incarnation = mortal.get("/v1/status")["incarnation"]
            assert steady.get(f"/v1/peers/{seen[-1][2]['id']}")["incarnation"] == incarnation
            mortal.kill()
            assert events.until("peer_lost")[-1][2]["id"] == seen[-1][2]["id"]
            first = "peer_back"
        expect_samples(steady, peers_lost_total=2)


@tap.case
def memory_that_pieces_are_gathered_in_is_told():
    size = 1 << 20
    with hosts("decode", "prefill", options=("staging=on", f"staging_bytes={size}")) as \
            [decode, prefill]:  # fmt: skip
        expect_samples(prefill, staging_bytes=0)
        expect_whole(decode, prefill, *request(decode, prefill, ready=True))
        expect_samples(prefill, staging_bytes=size)
        expect_samples(decode, staging_bytes=0)
        assert prefill.get("/v1/status")["memory"]["staging_bytes"] == size


tap.main()
