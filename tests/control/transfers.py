#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole requests between engines that are driven through their control sockets alone: what was
moved is compared byte by byte, and each answer with docs/openapi.json."""
import contextlib
import itertools

import control
import described
import tap
from described import hosts

LAYERS, TOKENS = 4, 16  # of the program under test: layers, and tokens of a block
BLOCK = 1024  # bytes in one plane
LEASE_MS = 60000
WAIT = "wait_ms=60000"
TRANSPORTS = ("shm", "tcp")


@contextlib.contextmanager
def pair(*options):
    with hosts("decode", "prefill", options=options) as both:
        yield both


def over(transport):
    return pair(f"transports={transport}")


def grant_of(host, blocks, **more):
    body = {"pool": host.pools[0], "blocks": blocks, "lease_ms": LEASE_MS, **more}
    return host.post("/v1/grants", body)


def stream_of(host, blocks, grant, **more):
    body = {"pool": host.pools[0], "blocks": blocks, "ticket": grant["ticket"], **more}
    return host.post("/v1/streams", body)


def offer_of(host, blocks, **more):
    body = {"pool": host.pools[0], "blocks": blocks, "lease_ms": LEASE_MS, **more}
    return host.post("/v1/offers", body)


def ready(host, stream, **what):
    return host.post(f"/v1/streams/{stream['id']}/ready", what, status=200)


def sums(host, blocks):
    body = {"blocks": blocks}
    return host.post(f"/v1/pools/{host.pools[0]}/checksum", body, status=200)["checksums"]


def ended(host, kind, thing, state="complete"):
    found = host.get(f"/v1/{kind}/{thing['id']}?{WAIT}")
    assert found["state"] == state, found
    return found


def expect_moved(decode, first, prefill, there, count):
    """Blocks that follow each other hold what prefill has filled its own with."""
    told = decode.do("compare", decode.pools[0], first, count, prefill.name, there)
    assert told["same"], told
    here, origin = range(first, first + count), range(there, there + count)
    assert sums(decode, list(here)) == sums(prefill, list(origin))


def expect_untouched(host, first, count):
    told = host.do("compare", host.pools[0], first, count, host.name, first)
    assert told["same"], told


# --- whole requests


@tap.cases_for(TRANSPORTS)
def a_request_is_pushed(transport):
    with over(transport) as [decode, prefill]:
        grant = grant_of(decode, [4, 5, 6])
        assert grant["state"] == "open" and grant["tokens"] == 3 * TOKENS, grant
        assert grant["owner"] == "control" and not grant["fenced"], grant
        stream = stream_of(prefill, [20, 21, 22], grant)
        assert stream["receiver"] == "decode" and not stream["offered"], stream
        ready(prefill, stream, first=0, count=LAYERS)
        whole = ended(decode, "grants", grant)
        sent = ended(prefill, "streams", stream)
        assert whole["layers_whole"] == sent["layers_delivered"] == LAYERS, (whole, sent)
        assert whole["bytes"] == sent["bytes"] == 3 * LAYERS * 2 * BLOCK, (whole, sent)
        assert whole["sender"] == "prefill" and whole["end_ms"] is not None, whole
        assert whole["sender_incarnation"] == prefill.get("/v1/status")["incarnation"], whole
        assert all(part["done"] and part["arrived"] == part["target"] > 0
                   for part in whole["progress"]), whole  # fmt: skip
        assert all(part["done"] for part in sent["progress"]), sent
        assert transport in sent["explain"], sent
        expect_moved(decode, 4, prefill, 20, 3)
        expect_untouched(decode, 7, 20)
        stats = decode.get("/v1/status")["stats"]
        assert stats["grants_completed"] == 1 and stats["bytes_received"] == whole["bytes"]
        for host, kind, thing in ((decode, "grants", grant), (prefill, "streams", stream)):
            assert host.delete(f"/v1/{kind}/{thing['id']}")["state"] == "complete"
            host.ask("GET", f"/v1/{kind}/{thing['id']}").expect_problem(404)
            assert host.get(f"/v1/{kind}")[kind] == []


@tap.cases_for(TRANSPORTS)
def a_request_is_pulled(transport):
    with over(transport) as [decode, prefill]:
        offers = [offer_of(prefill, [9, 10], ready=True), offer_of(prefill, [11, 12])]
        assert all(offer["offered"] and offer["ticket"] for offer in offers), offers
        assert prefill.get("/v1/status")["open"]["offers"] == 2
        early = grant_of(decode, [1, 2], pull=[offers[0]["ticket"]])
        late = grant_of(decode, [3, 4])
        pulled = decode.post(f"/v1/grants/{late['id']}/pull", {"ticket": offers[1]["ticket"]},
                             status=200)  # fmt: skip
        assert pulled["id"] == late["id"] and pulled["state"] == "open", pulled
        ready(prefill, offers[1], all=True)
        for grant, offer in zip((early, late), offers):
            ended(decode, "grants", grant)
            assert ended(prefill, "streams", offer)["receiver"] == "decode"
        expect_moved(decode, 1, prefill, 9, 4)


@tap.case
def the_program_that_opened_a_grant_is_fed_by_the_socket():
    with pair() as [decode, prefill]:
        told = decode.do("grant", decode.pools[0], 8, 2, LEASE_MS)
        stream = stream_of(prefill, [30, 31], told, ready=True)
        ended(prefill, "streams", stream)
        assert ended(decode, "grants", {"id": told["grant"]})["owner"] == "program"
        expect_moved(decode, 8, prefill, 30, 2)


@tap.case
def pools_with_other_layouts_exchange_what_both_hold():
    with pair("--pool", "hnd", "nhd") as [decode, prefill]:
        grant = grant_of(decode, [0, 1])
        body = {"pool": prefill.pools[1], "blocks": [5, 6], "ticket": grant["ticket"],
                "ready": True}  # fmt: skip
        stream = prefill.post("/v1/streams", body)
        assert ended(decode, "grants", grant)["bytes"] == 2 * LAYERS * 2 * BLOCK
        ended(prefill, "streams", stream)
        assert decode.do("compare", decode.pools[0], 0, 2, "prefill", 5)["blocks"] == 0


# --- parts of requests


@tap.case
def chunks_of_a_prefill_become_ready_one_after_another():
    with pair() as [decode, prefill]:
        grant = grant_of(decode, [0, 1, 2])
        stream = stream_of(prefill, [40, 41, 42], grant, chunk_tokens=TOKENS)
        for tokens in (TOKENS, 2 * TOKENS):
            told = ready(prefill, stream, first=0, count=LAYERS, tokens=tokens)
            assert told["layers_ready"] == 0 and told["state"] == "open", told
        progress = decode.get(f"/v1/grants/{grant['id']}")["progress"]
        assert not any(layer["done"] for layer in progress), progress
        told = ready(prefill, stream, first=0, count=2, tokens=3 * TOKENS)
        assert told["layers_ready"] == 2, told
        for layer in (0, 1):
            found = decode.get(f"/v1/grants/{grant['id']}?{WAIT}&layer={layer}")
            assert found["progress"][layer]["done"] and found["state"] == "open", found
        ready(prefill, stream, count=LAYERS)
        ended(decode, "grants", grant)
        expect_moved(decode, 0, prefill, 40, 3)


@tap.case
def a_last_block_in_part_is_told_in_tokens():
    with pair("--pool", "hnd") as [decode, prefill]:
        grant = grant_of(decode, [0, 1], tokens=TOKENS + 4)
        assert grant["tokens"] == TOKENS + 4 and grant["blocks"] == 2, grant
        ended(prefill, "streams", stream_of(prefill, [5, 6], grant, ready=True))
        ended(decode, "grants", grant)
        expect_moved(decode, 0, prefill, 5, 1)
        assert decode.do("compare", decode.pools[0], 1, 1, "prefill", 6)["blocks"] == 0


@tap.cases_for(TRANSPORTS)
def a_tail_follows_the_layers(transport):
    """Tails lie in the pool's region, where layer 0 has its first plane."""
    with over(transport) as [decode, prefill]:
        def tail(host, block):
            return {"region": host.regions[0], "offset": block * BLOCK, "bytes": BLOCK}

        def move(block, there):
            grant = grant_of(decode, [0], tail=tail(decode, block))
            assert grant["tail_bytes"] == BLOCK, grant
            stream = stream_of(prefill, [1], grant, ready=True, tail=tail(prefill, there))
            layer = decode.get(f"/v1/grants/{grant['id']}?{WAIT}&layer={LAYERS - 1}")
            assert layer["state"] == "open" and layer["layers_whole"] <= LAYERS, layer
            told = decode.get(f"/v1/grants/{grant['id']}?wait_ms=1&layer=tail")
            assert not told["progress"][LAYERS]["done"], told
            ready(prefill, stream, tail=True)
            told = decode.get(f"/v1/grants/{grant['id']}?{WAIT}&layer=tail")
            assert told["progress"][LAYERS]["done"], told
            ended(decode, "grants", grant)
            ended(prefill, "streams", stream)
            decode.delete(f"/v1/grants/{grant['id']}")

        filled = grant_of(decode, [60])
        stream_of(prefill, [50], filled, ready=True)
        ended(decode, "grants", filled)
        expect_moved(decode, 60, prefill, 50, 1)
        decode.delete(f"/v1/grants/{filled['id']}")
        move(60, 7)
        here, there = sums(decode, [60]), sums(prefill, [50])
        assert here[0] != there[0] and here[1:] == there[1:], (here, there)
        move(60, 50)
        expect_moved(decode, 60, prefill, 50, 1)


@tap.case
def several_senders_feed_one_grant():
    """They are of one name, so they have filled their blocks with the same."""
    with hosts("decode", "prefill", "prefill") as [decode, *senders]:
        grant = grant_of(decode, list(range(8)), senders=2)
        assert grant["senders"] == 2 and grant["senders_came"] == 0, grant
        streams = [stream_of(senders[0], list(range(30, 38)), grant, ready=True)]
        assert not decode.get(f"/v1/grants/{grant['id']}?wait_ms=1")["layers_whole"]
        streams.append(stream_of(senders[1], list(range(30, 38)), grant, ready=True))
        whole = ended(decode, "grants", grant)
        assert whole["senders_came"] == 2 and whole["bytes"] == 8 * LAYERS * 2 * BLOCK, whole
        sent = [ended(host, "streams", stream)["bytes"] for host, stream in zip(senders, streams)]
        assert sum(sent) == whole["bytes"] and all(sent), sent
        expect_moved(decode, 0, senders[0], 30, 8)


@tap.case
def several_offers_feed_one_grant():
    with hosts("decode", "prefill", "prefill") as [decode, *senders]:
        offers = [offer_of(host, list(range(8)), ready=True) for host in senders]
        grant = grant_of(decode, list(range(8)), senders=2,
                         pull=[offer["ticket"] for offer in offers])  # fmt: skip
        ended(decode, "grants", grant)
        expect_moved(decode, 0, senders[0], 0, 8)


@tap.case
def blocks_that_are_held_already_stay_as_they_are():
    with pair() as [decode, prefill]:
        grant = grant_of(decode, [10, 11, 12], held_blocks=1)
        assert grant["held_blocks"] == 1, grant
        stream_of(prefill, [20, 21, 22], grant, ready=True)
        assert ended(decode, "grants", grant)["bytes"] == 2 * LAYERS * 2 * BLOCK
        expect_untouched(decode, 10, 1)
        expect_moved(decode, 11, prefill, 21, 2)


# --- waiting


@tap.case
def a_wait_ends_with_the_layer_or_its_time():
    with pair() as [decode, prefill]:
        grant = grant_of(decode, [0])
        path = f"/v1/grants/{grant['id']}"
        assert decode.get(f"{path}?wait_ms=20")["state"] == "open"
        stream = stream_of(prefill, [1], grant)
        with decode.client() as waiter, prefill.client() as other, decode.client() as last:
            waiter.send("GET", f"{path}?{WAIT}&layer=2")
            other.send("GET", f"/v1/streams/{stream['id']}?{WAIT}&layer=2")
            last.send("GET", f"{path}?{WAIT}")
            ready(prefill, stream, first=0, count=3)
            found, sent = waiter.answer().expect(200), other.answer().expect(200)
            assert found["progress"][2]["done"] and not found["progress"][3]["done"], found
            assert found["state"] == sent["state"] == "open", (found, sent)
            assert sent["progress"][2] == {"ready": True, "done": True}, sent
            assert sent["progress"][3] == {"ready": False, "done": False}, sent
            ready(prefill, stream, first=3, count=1)
            assert last.answer().expect(200)["state"] == "complete"
        assert decode.get(f"{path}?{WAIT}&layer=3")["state"] == "complete"


@tap.case
def who_waits_is_told_of_a_revoke_even_if_the_grant_is_gone_by_then():
    with pair() as [decode, prefill], contextlib.ExitStack() as stack:
        grant = grant_of(decode, [0])
        stream = stream_of(prefill, [1], grant)
        path = f"/v1/grants/{grant['id']}"
        waiters = [stack.enter_context(decode.client()) for _ in range(8)]
        for waiter, query in zip(waiters, itertools.cycle((WAIT, f"{WAIT}&layer=1"))):
            waiter.send("GET", f"{path}?{query}")
        control.until(lambda: prefill.get(f"/v1/streams/{stream['id']}")["accepted"])
        revoked = decode.delete(path)
        assert revoked["state"] == "failed" and revoked["code"] == "KVX_E_REVOKED", revoked
        assert revoked["fenced"] and revoked["text"], revoked
        for waiter in waiters:
            answer = waiter.answer()
            if answer.status == 404:  # it came too late: there was none of that id any more
                continue
            assert answer.expect(200)["code"] == "KVX_E_REVOKED", answer.json
        decode.ask("GET", path).expect_problem(404)
        failed = ended(prefill, "streams", stream, "failed")
        assert failed["code"] == "KVX_E_REVOKED" and failed["drained"], failed
        assert decode.get(f"/v1/pools/{decode.pools[0]}")["granted_blocks"] == 0


@tap.case
def two_clients_may_race_to_revoke():
    with pair() as [decode, _]:
        for _ in range(50):
            grant = grant_of(decode, [0])
            with decode.client() as one, decode.client() as two:
                one.send("DELETE", f"/v1/grants/{grant['id']}")
                two.send("DELETE", f"/v1/grants/{grant['id']}")
                statuses = sorted((one.answer().status, two.answer().status))
            assert statuses in ([200, 200], [200, 404]), statuses
        assert decode.get("/v1/grants")["grants"] == []


@tap.case
def the_programs_grants_are_revoked_by_their_id_and_stay_its_own():
    with pair() as [decode, prefill]:
        told = decode.do("grant", decode.pools[0], 8, 2, LEASE_MS)
        path = f"/v1/grants/{told['grant']}"
        for _ in range(2):
            revoked = decode.delete(path)
            assert revoked["code"] == "KVX_E_REVOKED" and revoked["fenced"], revoked
            assert revoked["owner"] == "program", revoked
        assert decode.get(path)["state"] == "failed"
        stream = stream_of(prefill, [1, 2], told, ready=True)
        assert ended(prefill, "streams", stream, "failed")["text"]
        expect_untouched(decode, 8, 2)
        decode.do("close", told["grant"])
        decode.ask("GET", path).expect_problem(404)


@tap.case
def a_stream_that_is_cancelled_ends_its_grant():
    with pair() as [decode, prefill]:
        grant = grant_of(decode, [0])
        stream = stream_of(prefill, [1], grant)
        ready(prefill, stream, first=0, count=1)
        decode.get(f"/v1/grants/{grant['id']}?{WAIT}&layer=0")
        gone = prefill.delete(f"/v1/streams/{stream['id']}")
        assert gone["code"] == "KVX_E_CANCELLED" and gone["drained"], gone
        prefill.ask("GET", f"/v1/streams/{stream['id']}").expect_problem(404)
        failed = ended(decode, "grants", grant, "failed")
        assert failed["code"] == "KVX_E_CANCELLED" and failed["layers_whole"] == 1, failed


@tap.case
def a_lease_ends_a_grant_that_nobody_feeds():
    with pair() as [decode, _]:
        grant = grant_of(decode, [0], lease_ms=20)
        failed = ended(decode, "grants", grant, "failed")
        assert failed["code"] == "KVX_E_LEASE" and "lease" in failed["text"], failed


@tap.case
def a_sender_that_dies_ends_the_grants_that_it_feeds_and_no_others():
    with hosts("decode", "steady") as [decode, steady]:
        prefill = described.Host("name=prefill", f"control={control.fresh('s.sock')}", "--fill")
        doomed, safe = grant_of(decode, [0]), grant_of(decode, [1])
        stream = stream_of(prefill, [0], doomed)
        other = stream_of(steady, [7], safe)
        ready(prefill, stream, first=0, count=1)
        decode.get(f"/v1/grants/{doomed['id']}?{WAIT}&layer=0")
        prefill.kill()
        failed = ended(decode, "grants", doomed, "failed")
        assert failed["code"] == "KVX_E_PEER_LOST" and failed["text"], failed
        ready(steady, other, all=True)
        ended(decode, "grants", safe)
        expect_moved(decode, 1, steady, 7, 1)


# --- what becomes of what has ended


def expect_gone(host, path):
    """Nothing tells when it is closed, so it is asked for again and again."""
    for _ in range(3000):
        if host.ask("GET", f"{path}?wait_ms=10").status == 404:
            return
    raise AssertionError(f"{path} is still there")


@tap.case
def what_has_ended_is_kept_and_then_closed():
    with pair() as [decode, prefill]:
        grant = grant_of(decode, [0])
        stream = stream_of(prefill, [1], grant, ready=True)
        ended(decode, "grants", grant)
        ended(prefill, "streams", stream)
        body = {"pool": decode.pools[0], "blocks": [0], "lease_ms": LEASE_MS}
        decode.ask("POST", "/v1/grants", body).expect_problem(400, "KVX_E_INVALID", "block 0")
        for host, path in ((decode, f"/v1/grants/{grant['id']}"),
                           (prefill, f"/v1/streams/{stream['id']}")):  # fmt: skip
            assert host.get(path)["owner"] == "control"
            host.ask("PATCH", "/v1/options", {"control_retain_ms": "0"}).expect(200)
            expect_gone(host, path)
        assert grant_of(decode, [0])["id"] > grant["id"]


@tap.case
def a_pull_that_is_refused_leaves_no_grant():
    with pair() as [decode, prefill]:
        offer = offer_of(prefill, [1])
        body = {"pool": decode.pools[0], "blocks": [0, 1], "lease_ms": LEASE_MS}
        for tickets in (["AAAA"], [offer["ticket"]], [offer["ticket"], "AAAA"]):
            answer = decode.ask("POST", "/v1/grants", {**body, "pull": tickets})
            assert answer.status == 400, answer.data
            assert decode.get("/v1/grants")["grants"] == []
        assert grant_of(decode, [0, 1])["state"] == "open"


@tap.case
def ids_are_never_used_twice():
    with pair() as [decode, prefill]:
        seen = [*decode.pools, *decode.regions]
        for _ in range(20):
            grant = grant_of(decode, [0])
            offer = offer_of(decode, [1])
            peer = decode.post("/v1/peers", {"address": prefill.address})
            seen += [grant["id"], offer["id"], peer["id"]]
            decode.delete(f"/v1/grants/{grant['id']}")
            decode.delete(f"/v1/streams/{offer['id']}")
            decode.delete(f"/v1/peers/{peer['id']}", 204)
        assert len(set(seen)) == len(seen), seen
        assert seen[4:] == sorted(seen[4:]), seen


# --- errors that two engines make


@tap.case
def errors_of_two_engines_have_their_class():
    with hosts("decode", "shm", options=["--pool", "whole", "hnd", "transports=shm"]) as \
            [decode, prefill], hosts("tcp", options=["transports=tcp"]) as [remote]:  # fmt: skip
        grant = grant_of(decode, [0])
        body = {"pool": prefill.pools[1], "blocks": [0], "ticket": grant["ticket"]}
        problem = prefill.ask("POST", "/v1/streams", body)
        problem.expect_problem(409, "KVX_E_GEOMETRY", "pool")
        body["pool"] = prefill.pools[0]
        prefill.ask("POST", "/v1/streams", {**body, "blocks": [0, 1]}).expect_problem(
            400, "KVX_E_INVALID")  # fmt: skip
        # That there is no way to the receiver is found in the background.
        stream = stream_of(remote, [0], grant)
        assert ended(remote, "streams", stream, "failed")["code"] == "KVX_E_UNREACHABLE"
        cut = control.ticket(grant["ticket"])[:-4]
        body = {"pool": prefill.pools[0], "blocks": [0], "ticket": control.base64.b64encode(
            cut).decode()}  # fmt: skip
        prefill.ask("POST", "/v1/streams", body).expect_problem(400, "KVX_E_TICKET", "ticket")
        # A ticket of what has ended is refused by the receiver: that is no failed request.
        decode.delete(f"/v1/grants/{grant['id']}")
        stream = stream_of(prefill, [0], grant, ready=True)
        failed = ended(prefill, "streams", stream, "failed")
        assert failed["code"] and failed["text"], failed


# --- events


def of_grant(events, grant):
    return [
        (data["type"], data["index"])
        for _, _, data in events
        if data.get("of") == "grant" and data["id"] == grant["id"]
    ]


def expect_events_valid(events):
    for number, name, data in events:
        if name == "gap":
            described.expect_valid(data, described.component("Gap"))
        else:
            described.expect_valid(data, described.component("Event"))
            assert number == data["sequence"] and name == data["type"], (number, name, data)


@tap.cases_for(TRANSPORTS)
def events_tell_a_request_in_order(transport):
    with over(transport) as [decode, prefill], control.Events(decode.client()) as follower, \
            control.Events(prefill.client()) as sender:  # fmt: skip
        grant = grant_of(decode, [0])
        stream = stream_of(prefill, [1], grant)
        for layer in range(LAYERS):
            ready(prefill, stream, first=layer, count=1)
            decode.get(f"/v1/grants/{grant['id']}?{WAIT}&layer={layer}")
        events = follower.until("grant_complete")
        expect_events_valid(events)
        assert of_grant(events, grant) == [
            ("grant_opened", None), *(("layer_whole", layer) for layer in range(LAYERS)),
            ("grant_complete", None),
        ]  # fmt: skip
        assert "peer_up" in [name for _, name, _ in events], events
        numbers = [number for number, _, _ in events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), numbers
        told = sender.until("stream_complete")
        expect_events_valid(told)
        names = [name for _, name, data in told if data["of"] == "stream"]
        assert names == ["stream_opened", "stream_complete"], names
        assert {data["id"] for _, _, data in told if data["of"] == "stream"} == {stream["id"]}
        # Again from the middle: the same ones, by the query as by the header.
        middle = numbers[len(numbers) // 2]
        for query, headers in ((f"&after={middle}", None), ("", {"Last-Event-ID": str(middle)})):
            with control.Events(decode.client(), f"?follow=false{query}", headers) as again:
                replayed = list(again)
            assert replayed[: len(events)] == [e for e in events if e[0] > middle], replayed


@tap.case
def a_failure_is_an_event_with_its_code_and_text():
    with pair() as [decode, _], control.Events(decode.client()) as follower:
        grant = grant_of(decode, [0])
        ended_as = decode.delete(f"/v1/grants/{grant['id']}")
        failed = follower.until("grant_failed")[-1][2]
        assert failed["id"] == grant["id"] and failed["code"] == "KVX_E_REVOKED", failed
        assert failed["text"] == ended_as["text"][:191], (failed, ended_as)


@tap.case
def events_that_are_gone_leave_a_gap():
    with pair() as [decode, _], decode.client() as client:
        with control.Events(decode.client()):
            body = {"pool": decode.pools[0], "blocks": [0], "lease_ms": LEASE_MS}
            for _ in range(2100):  # two events each; 4096 are kept
                grant = client.ask("POST", "/v1/grants", body).expect(201)
                client.ask("DELETE", f"/v1/grants/{grant['id']}").expect(200)
        with control.Events(decode.client(), "?after=1&follow=false") as replay:
            events = list(replay)
        expect_events_valid(events)
        assert events[0][1] == "gap" and events[0][0] is None, events[0]
        assert events[1][0] == events[0][2]["missed"] + 2, events[:2]
        assert [event[1] for event in events[1:]].count("gap") == 0
        assert events[-1][2]["id"] == grant["id"] and len(events) <= 4097


# --- the end of all


@tap.case
def every_operation_was_asked_for():
    tap.expect(sorted(described.MOVES - described.answered))


tap.main()
