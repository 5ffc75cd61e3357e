#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lists of the control socket: thousands of entries, parts of them, and what comes and goes while
they are read."""
import contextlib
import itertools
import json

import control
import described
import tap

LEASE_MS = 120000
LAYERS = 4  # of the program under test
MANY = 2500
PROGRESS_MAX = 256  # entries with their layers, in one answer


def offer(client, host):
    """Its id. Offers may share blocks, so there may be any number of them."""
    body = {"pool": host.pools[0], "blocks": [0], "lease_ms": LEASE_MS}
    return client.ask("POST", "/v1/offers", body).expect(201)["id"]


def close(client, one):
    client.ask("DELETE", f"/v1/streams/{one}").expect(200)


@contextlib.contextmanager
def crowd(count=MANY, hosts=control.hosts):
    """A host, a client of it, and the ids of so many offers. To compare thousands of entries with
    the file takes its time, so few of the answers here are."""
    with hosts("one") as [host], host.client() as client:
        yield host, client, [offer(client, host) for _ in range(count)]


def listed(client, query=""):
    """The ids of one answer, and whether there are more."""
    answer = client.ask("GET", f"/v1/streams{query}").expect(200)
    return [stream["id"] for stream in answer["streams"]], "more" in answer


def in_parts(client, limit, progress=False):
    """The parts of a whole list, by `after`."""
    after = 0
    while True:
        query = f"?after={after}&limit={limit}&progress={json.dumps(progress)}"
        answer = client.ask("GET", f"/v1/streams{query}").expect(200)
        assert len(answer["streams"]) == limit or "more" not in answer
        yield answer["streams"]
        if "more" not in answer:
            return
        after = answer["streams"][-1]["id"]


@tap.case
def thousands_come_whole_and_in_parts():
    with crowd() as (_, client, ids):
        assert listed(client) == (ids, False)
        assert listed(client, f"?limit={MANY}") == (ids, False)
        assert listed(client, f"?limit={MANY - 1}") == (ids[:-1], True)
        assert listed(client, f"?after={ids[99]}&limit=7") == (ids[100:107], True)
        assert listed(client, f"?after={ids[-1]}") == ([], False)
        parts = [[one["id"] for one in part] for part in in_parts(client, 500)]
        assert len(parts) == MANY // 500 and sum(parts, []) == ids
        for one in (ids[0], ids[MANY // 2], ids[-1]):
            assert client.ask("GET", f"/v1/streams/{one}").expect(200)["id"] == one


@tap.case
def a_list_goes_on_after_what_was_closed():
    """Parts are asked for while entries come and go: what stays is told once."""
    with crowd() as (host, client, ids):
        stays, goes = ids[::2], iter(ids[1::2])
        seen = []
        for part in in_parts(client, 100):
            seen += [one["id"] for one in part]
            for one in itertools.islice(goes, 49):  # some told already, the last of a part too
                close(client, one)
            offer(client, host)
        assert seen == sorted(set(seen))
        assert set(stays) <= set(seen)
        left, more = listed(client)
        assert not more and set(left) - set(ids) and set(stays) <= set(left)
        assert set(left) == set(stays) | set(goes) | (set(left) - set(ids))


@tap.case
def what_is_closed_while_a_list_is_sent_does_not_break_it():
    """A client that does not read yet gets the rest as it is when it does."""
    with crowd() as (host, client, ids), host.client() as reader:
        reader.send("GET", "/v1/streams")
        gone = ids[-200::2]
        for one in gone:
            close(client, one)
        told = [stream["id"] for stream in reader.answer().expect(200)["streams"]]
        assert told == sorted(set(told)) and set(told) <= set(ids)
        assert set(ids) - set(gone) <= set(told)


@tap.case
def others_are_answered_while_long_lists_are_sent():
    with crowd() as (host, client, ids), contextlib.ExitStack() as stack:
        readers = [stack.enter_context(host.client()) for _ in range(20)]
        for reader in readers:
            reader.send("GET", "/v1/streams")
        # Nobody reads those answers yet, and sockets take a part of them at most.
        for _ in range(10):
            client.ask("GET", "/v1/status").expect(200)
        for reader in readers:
            told = reader.answer().expect(200)["streams"]
            assert [stream["id"] for stream in told] == ids


@tap.case
def a_client_that_leaves_in_the_middle_of_a_list_leaves_nothing_behind():
    with crowd(600) as (host, client, ids):
        for _ in range(300):  # more than there may be connections
            with host.client() as reader:
                reader.send("GET", "/v1/streams?progress=true")
        assert listed(client) == (ids, False)


@tap.case
def progress_is_told_of_each_in_bounded_parts():
    with crowd(PROGRESS_MAX + 10, described.hosts) as (host, client, ids):
        client.ask("POST", f"/v1/streams/{ids[3]}/ready", {"first": 1, "count": 2}).expect(200)
        whole = client.ask("GET", "/v1/streams?progress=true").expect(200)
        assert [one["id"] for one in whole["streams"]] == ids[:PROGRESS_MAX]
        assert whole["more"] is True
        assert all(len(one["progress"]) == LAYERS for one in whole["streams"])
        one = client.ask("GET", f"/v1/streams/{ids[3]}").expect(200)
        assert whole["streams"][3]["progress"] == one["progress"]
        assert [layer["ready"] for layer in one["progress"]] == [False, True, True, False]
        told = itertools.chain.from_iterable(in_parts(client, 100, progress=True))
        assert [one["id"] for one in told] == ids
        plain = client.ask("GET", "/v1/streams?progress=false").expect(200)
        assert not any("progress" in one for one in plain["streams"])
        grants = [
            host.post("/v1/grants", {"pool": host.pools[0], "blocks": [block],
                                     "lease_ms": LEASE_MS})["id"]
            for block in range(5)
        ]  # fmt: skip
        told = host.get("/v1/grants?progress=true")
        assert [one["id"] for one in told["grants"]] == grants and "more" not in told
        for one in told["grants"]:
            assert one["progress"] == host.get(f"/v1/grants/{one['id']}")["progress"]


@tap.case
def what_a_list_does_not_take_is_refused():
    with described.hosts("one") as [host]:
        for kind in ("grants", "streams", "peers"):
            assert host.get(f"/v1/{kind}?after=1&limit=1") == {kind: []}
            for query in ("limit=0", "limit=65537", "after=-1", "after=x"):
                host.ask("GET", f"/v1/{kind}?{query}").expect_problem(400)
        for kind in ("grants", "streams"):
            for query in ("progress=yes", "progress=true&limit=257"):
                host.ask("GET", f"/v1/{kind}?{query}").expect_problem(400)


tap.main()
