#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The API of the control socket, by itself: what it tells, what it refuses, and that
docs/openapi.json describes it."""
import contextlib
import json
import os
import random
import re
import subprocess

import control
import described
import tap
from described import DOCUMENT, hosts

BLOCKS, LAYERS, TOKENS = 64, 4, 16  # of the program under test
LEASE_MS = 60000


def parts(value, of=()):
    """Everything in a JSON value: (path, value)."""
    yield of, value
    if isinstance(value, dict):
        for name, part in value.items():
            yield from parts(part, (*of, name))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from parts(part, (*of, index))


def grant_of(host, blocks, **more):
    return host.post("/v1/grants", {"pool": host.pools[0], "blocks": blocks, "lease_ms": LEASE_MS,
                                    **more})  # fmt: skip


# --- the file


@tap.case
def every_reference_of_the_file_leads_somewhere():
    for path, value in parts(DOCUMENT):
        if path and path[-1] == "$ref":
            assert described.resolve({"$ref": value}), value


@tap.case
def every_schema_of_the_file_is_one():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        described.DIALECT.check_schema(schema)
        assert schema.get("type") != "object" or "additionalProperties" in schema, name
    for path, value in parts(DOCUMENT):
        if isinstance(value, dict) and value.get("type") == "object" and "properties" in value:
            assert value.get("additionalProperties") is False, path


@tap.case
def every_operation_of_the_file_has_a_name_of_its_own():
    names = [value for path, value in parts(DOCUMENT) if path and path[-1] == "operationId"]
    assert len(names) == len(set(names)) == sum(map(len, DOCUMENT["paths"].values()))


@tap.case
def the_file_and_the_server_have_the_same_paths():
    rows = re.findall(r'\{"([A-Z]+)",\s*"([^"]+)",\s*(\w+),\s*(true|false)\}',
                      described.ROUTES.read_text())  # fmt: skip
    routes = {(method, path): takes == "true" for method, path, _, takes in rows}
    assert len(routes) == len(rows) > 20
    assert routes == {
        (method.upper(), path): "requestBody" in operation
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
    }


@tap.case
def the_words_have_the_same_paths():
    text = (tap.SOURCE / "docs" / "control-api.md").read_text()
    told = set()
    for line in text.splitlines():
        if line.startswith("### "):
            told.update(re.findall(r"`([A-Z]+) ([^`?]+)`", line))
    assert told == {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    }


@tap.case
def the_statuses_of_errors_are_those_of_the_words():
    text = (tap.SOURCE / "docs" / "control-api.md").read_text()
    for status, codes in re.findall(r"^\| (\d+) \|(.*)\|$", text, re.MULTILINE):
        response = DOCUMENT["components"]["responses"][f"Problem{status}"]
        content = response["content"]["application/problem+json"]
        code = content["schema"]["properties"].get("code")
        if code and "enum" in code:
            assert set(code["enum"]) == set(re.findall(r"KVX_E_\w+", codes)), status


# --- looking


@tap.case
def status_tells_what_the_engine_is():
    with hosts("one", options=["--pool", "whole", "hnd"]) as [one]:
        status = one.get("/v1/status")
        assert status["name"] == "one" and status["pid"] == one.pid, status
        assert status["address"] == one.address, status
        assert status["control"] == f"unix:{one.path}", status
        assert status["drain"] == "off", status
        assert status["memory"]["regions"] == len(one.regions), status
        assert status["memory"]["registered_bytes"] >= 2 * BLOCKS * 1024 * LAYERS, status
        assert status["memory"]["resident_bytes"] > 0, status
        assert status["open"] == {
            "pools": 2, "grants": 0, "streams": 0, "offers": 0, "peers": 0,
        }  # fmt: skip
        on = {each["name"]: each for each in status["transports"]}
        assert on["shm"]["on"] and on["tcp"]["on"] and not on["verbs"]["on"], on
        assert on["tcp"]["address"] in status["address"], on
        assert all(each["why"] for each in on.values()), on
        assert one.get("/v1/status")["uptime_ms"] >= status["uptime_ms"]
        assert one.get("/v1/status")["incarnation"] == status["incarnation"]


@tap.case
def every_figure_has_its_field():
    header = (tap.SOURCE / "include" / "kvxfer" / "kvxfer.h").read_text()
    body = header.partition("struct kvx_stats {")[2].partition("}")[0]
    with hosts("one") as [one]:
        stats = one.get("/v1/status")["stats"]
        assert list(stats) == re.findall(r"uint64_t (\w+);", body)


@tap.case
def pools_and_regions_tell_their_geometry_and_fill():
    with hosts("one", options=["--pool", "whole", "hnd", "nhd"]) as [one]:
        pools = one.get("/v1/pools")["pools"]
        assert [pool["id"] for pool in pools] == one.pools
        assert [pool["geometry"]["layout"] for pool in pools] == ["whole", "HND", "NHD"]
        assert len({pool["hash"] for pool in pools}) > 1
        for pool in pools:
            assert pool == one.get(f"/v1/pools/{pool['id']}")
            geometry = pool["geometry"]
            assert geometry["layers"] == LAYERS and geometry["blocks"] == BLOCKS, geometry
            assert pool["blocks"] == BLOCKS and pool["granted_blocks"] == 0, pool
            assert pool["layer_block_bytes"] == 2 * 1024 and pool["readable"], pool
        regions = one.get("/v1/regions")["regions"]
        assert [region["id"] for region in regions] == one.regions
        assert all(region["users"] > 0 for region in regions), regions
        grant = grant_of(one, [1, 2, 3])
        pool = one.get(f"/v1/pools/{one.pools[0]}")
        assert pool["granted_blocks"] == 3 and pool["users"] == 1, pool
        one.delete(f"/v1/grants/{grant['id']}")
        assert one.get(f"/v1/pools/{one.pools[0]}")["granted_blocks"] == 0


@tap.case
def an_engine_without_ports_has_no_topology():
    with hosts("one") as [one]:
        one.ask("GET", "/v1/topology").expect_problem(404, "KVX_E_UNSUPPORTED", "topology")


@tap.case
def topology_is_what_kvxfer_topo_writes():
    fake = tap.BUILD / "tests" / "fake_verbs"
    environment = dict(
        os.environ, FAKE_VERBS_DEVICES="fake0:ROCE:100:1:4",
        LD_LIBRARY_PATH=f"{fake}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    )  # fmt: skip
    with hosts("one", options=["transports=verbs,tcp"], env=environment) as [one]:
        told = one.get("/v1/topology")
    program = tap.BUILD / "tools" / "kvxfer-topo"
    if not program.exists():
        raise tap.Skip("this build has no kvxfer-topo")
    done = subprocess.run([program, "--json", "-"], env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert told.keys() == json.loads(done.stdout).keys()
    assert told["machine"] == "this machine" and told["numa_nodes"], told


# --- options


def options_of(host):
    return {option["name"]: option for option in host.get("/v1/options")["options"]}


@tap.case
def live_options_are_changed_all_or_none():
    with hosts("one", options=["drain_ms=70"]) as [one]:
        before = options_of(one)
        assert before["drain_ms"]["value"] == "70" and before["drain_ms"]["live"], before
        assert before["name"]["value"] == "one" and not before["name"]["live"], before
        changed = one.ask("PATCH", "/v1/options", {"drain_ms": "80", "spin_us": "7"}).expect(200)
        assert changed == one.get("/v1/options")
        values = {name: option["value"] for name, option in options_of(one).items()}
        assert values["drain_ms"] == "80" and values["spin_us"] == "7", values
        for body, *words in (
            ({"drain_ms": "90", "name": "two"}, "name"),
            ({"drain_ms": "90", "spin_us": "-1"}, "spin_us"),
            ({"drain_ms": "90", "no_such": "1"}, "no_such"),
            ({"drain_ms": "60001"}, "drain_ms"),
            ({"drain_ms": 90}, "drain_ms", "string"),
        ):
            one.ask("PATCH", "/v1/options", body).expect_problem(400, "KVX_E_INVALID", *words)
            assert options_of(one)["drain_ms"]["value"] == "80", body


@tap.case
def every_option_is_told():
    text = (tap.SOURCE / "docs" / "options.md").read_text()
    with hosts("one") as [one]:
        told = options_of(one)
        named = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
        assert sorted(named) == sorted(told), (named, sorted(told))


# --- what is refused


GRANT = {"blocks": [1], "lease_ms": 1000}
REFUSED = {
    "no pool": ("/v1/grants", GRANT, 400, "KVX_E_INVALID", ["pool", "missing"]),
    "no such pool": ("/v1/grants", {**GRANT, "pool": 999999}, 400, "KVX_E_INVALID", ["999999"]),
    "an unknown field": ("/v1/grants", {**GRANT, "pool": "POOL", "lease": 1}, 400,
                         "KVX_E_INVALID", ["lease"]),
    "a string for a number": ("/v1/grants", {**GRANT, "pool": "7"}, 400, "KVX_E_INVALID",
                              ["pool", "number"]),
    "a fraction": ("/v1/grants", {**GRANT, "pool": 1.5}, 400, "KVX_E_INVALID", ["pool"]),
    "no lease": ("/v1/grants", {"pool": "POOL", "blocks": [1]}, 400, "KVX_E_INVALID",
                 ["lease_ms"]),
    "a lease of a day and more": ("/v1/grants", {**GRANT, "pool": "POOL", "lease_ms": 86400001},
                                  400, "KVX_E_INVALID", ["86400000"]),
    "no blocks": ("/v1/grants", {**GRANT, "pool": "POOL", "blocks": []}, 400, "KVX_E_INVALID",
                  ["grant"]),
    "a block out of range": ("/v1/grants", {**GRANT, "pool": "POOL", "blocks": [3, 64]}, 400,
                             "KVX_E_INVALID", ["grant: ", "block 64"]),
    "a block twice": ("/v1/grants", {**GRANT, "pool": "POOL", "blocks": [3, 3]}, 400,
                      "KVX_E_INVALID", ["block 3"]),
    "a block below 0": ("/v1/grants", {**GRANT, "pool": "POOL", "blocks": [-1]}, 400,
                        "KVX_E_INVALID", ["blocks"]),
    "all blocks held": ("/v1/grants", {**GRANT, "pool": "POOL", "held_blocks": 1}, 400,
                        "KVX_E_INVALID", ["held"]),
    "too many senders": ("/v1/grants", {**GRANT, "pool": "POOL", "senders": 65}, 400,
                         "KVX_E_INVALID", ["senders", "64"]),
    "a tail of no region": ("/v1/grants", {**GRANT, "pool": "POOL", "tail": {
        "region": 999999, "offset": 0, "bytes": 4}}, 400, "KVX_E_INVALID", ["999999"]),
    "a tail without bytes": ("/v1/grants", {**GRANT, "pool": "POOL", "tail": {
        "region": "REGION", "offset": 0}}, 400, "KVX_E_INVALID", ["tail", "bytes"]),
    "a tail that leaves its region": ("/v1/grants", {**GRANT, "pool": "POOL", "tail": {
        "region": "REGION", "offset": 1 << 40, "bytes": 4}}, 400, "KVX_E_INVALID", ["tail"]),
    "a pull that is no list": ("/v1/grants", {**GRANT, "pool": "POOL", "pull": "AAAA"}, 400,
                               "KVX_E_INVALID", ["pull"]),
    "a pull of no tickets": ("/v1/grants", {**GRANT, "pool": "POOL", "pull": [1]}, 400,
                             "KVX_E_INVALID", ["pull", "ticket"]),
    "a pull of no ticket": ("/v1/grants", {**GRANT, "pool": "POOL", "pull": ["AAAA"]}, 400,
                            "KVX_E_TICKET", ["ticket"]),
    "no ticket": ("/v1/streams", {"pool": "POOL", "blocks": [1]}, 400, "KVX_E_INVALID",
                  ["ticket", "missing"]),
    "a ticket that is not base64": ("/v1/streams", {"pool": "POOL", "blocks": [1],
                                                    "ticket": "?"}, 400, "KVX_E_INVALID",
                                    ["ticket", "base64"]),
    "a ticket that is none": ("/v1/streams", {"pool": "POOL", "blocks": [1], "ticket": "AAAA"},
                              400, "KVX_E_TICKET", ["ticket"]),
    "an offer with a ticket": ("/v1/offers", {**GRANT, "pool": "POOL", "ticket": "AAAA"}, 400,
                               "KVX_E_INVALID", ["ticket"]),
    "an offer of no lease": ("/v1/offers", {"pool": "POOL", "blocks": [1]}, 400,
                             "KVX_E_INVALID", ["lease_ms"]),
    "a checksum out of range": ("/v1/pools/POOL/checksum", {"blocks": [64]}, 400,
                                "KVX_E_INVALID", ["64"]),
    "a checksum of no pool": ("/v1/pools/999999/checksum", {"blocks": [1]}, 404,
                              "KVX_E_INVALID", ["pool 999999"]),
    "a host's name": ("/v1/peers", {"address": "tcp:localhost:1"}, 400, "KVX_E_INVALID",
                      ["numbers"]),
    "an IPv6 host without brackets": ("/v1/peers", {"address": "tcp:::1:80"}, 400,
                                      "KVX_E_INVALID", ["numbers"]),
    "no address": ("/v1/peers", {"address": "nonsense"}, 400, "KVX_E_INVALID", ["nonsense"]),
    "no such transport": ("/v1/peers", {"address": "ether:1"}, 400, "KVX_E_INVALID", ["ether"]),
    "a drain of no time": ("/v1/drain", {"deadline_ms": 0}, 400, "KVX_E_INVALID",
                           ["deadline_ms"]),
    "ready of no stream": ("/v1/streams/999999/ready", {"all": True}, 404, "KVX_E_INVALID",
                           ["stream 999999"]),
    "pull of no grant": ("/v1/grants/999999/pull", {"ticket": "AAAA"}, 404, "KVX_E_INVALID",
                         ["grant 999999"]),
}  # fmt: skip


def filled(value, host):
    """POOL and REGION stand for the host's."""
    if isinstance(value, dict):
        return {name: filled(part, host) for name, part in value.items()}
    return {"POOL": host.pools[0], "REGION": host.regions[0]}.get(value, value) \
        if isinstance(value, str) else value  # fmt: skip


@tap.case
def what_is_not_valid_is_refused_in_words():
    with hosts("one") as [one]:
        failed = []
        for name, (path, body, status, code, words) in REFUSED.items():
            path = path.replace("POOL", str(one.pools[0]))
            try:
                one.ask("POST", path, filled(body, one)).expect_problem(status, code, *words)
            except AssertionError as error:
                failed.append(f"{name}: {error}")
        tap.expect(failed)
        assert one.get("/v1/grants")["grants"] == []
        assert one.get("/v1/streams")["streams"] == []
        assert one.get(f"/v1/pools/{one.pools[0]}")["users"] == 0


READY_REFUSED = (
    {}, {"first": 0}, {"tokens": 5}, {"all": True, "count": 1}, {"all": True, "tokens": 5},
    {"tail": True, "first": 0}, {"first": 4, "count": 1}, {"first": 3, "count": 2},
    {"count": 0}, {"tail": True}, {"all": False},
)  # fmt: skip


@tap.case
def what_cannot_be_ready_is_refused():
    with hosts("one") as [one]:
        offer = one.post("/v1/offers", {"pool": one.pools[0], "blocks": [1], "lease_ms": LEASE_MS})
        path = f"/v1/streams/{offer['id']}"
        for body in READY_REFUSED:
            one.ask("POST", f"{path}/ready", body).expect_problem(400, "KVX_E_INVALID")
        assert one.get(path)["layers_ready"] == 0


@tap.case
def queries_are_checked():
    with hosts("one") as [one]:
        grant = grant_of(one, [1])
        path = f"/v1/grants/{grant['id']}"
        for query in ("wait_ms=600001", "wait_ms=-1", "wait_ms=", "wait_ms=1s", "layer=4",
                      "layer=tail", "layer=first"):  # fmt: skip
            one.ask("GET", f"{path}?{query}").expect_problem(400, "KVX_E_INVALID", query[:5])
        one.ask("DELETE", f"{path}?drain_ms=60001").expect_problem(400, "KVX_E_INVALID")
        assert one.get(path)["state"] == "open"


@tap.case
def unknown_paths_methods_and_ids_are_told():
    with hosts("one") as [one]:
        for path in ("/", "/v1", "/v1/", "/v2/status", "/v1/status/", "/v1/pools/x",
                     "/v1/grants/1/2", "/v1/grants/-1", "/v1/grants/1e3"):  # fmt: skip
            one.ask("GET", path).expect_problem(404)
        for kind in ("pools", "peers", "grants", "streams"):
            for number in ("0", "999999", "9223372036854775807"):
                one.ask("GET", f"/v1/{kind}/{number}").expect_problem(404)
        for kind in ("peers", "grants", "streams"):
            one.ask("DELETE", f"/v1/{kind}/999999").expect_problem(404, "KVX_E_INVALID", kind[:-1])
        for method, path in (("POST", "/v1/status"), ("DELETE", "/v1/grants"), ("PUT", "/v1/drain"),
                             ("PATCH", "/v1/streams/1"), ("GET", "/v1/offers")):  # fmt: skip
            one.ask(method, path, {} if method != "DELETE" and method != "GET" else None)


@tap.case
def bodies_have_to_be_json_objects_of_their_size():
    with hosts("one") as [one]:
        for raw in (b"", b"{", b"[]", b"1", b'"x"', b"null", b'{"blocks": [1], }', b"\xff\xfe"):
            one.ask("POST", "/v1/grants", raw=raw).expect_problem(400, "KVX_E_INVALID")
        one.ask("POST", "/v1/grants", raw=b"{}", headers={"Content-Type": "text/plain"}
                ).expect_problem(415)  # fmt: skip
        huge = b'{"address": "' + b"x" * (1 << 20) + b'"}'
        one.ask("POST", "/v1/peers", raw=huge).expect_problem(413)
        assert one.get("/v1/status")["name"] == "one"


@tap.case
def a_limit_is_told_as_one():
    with hosts("one") as [one], one.client() as client:
        for _ in range(256):
            client.ask("POST", "/v1/peers", {"address": "tcp:127.0.0.1:1"}).expect(201)
        answer = client.ask("POST", "/v1/peers", {"address": "tcp:127.0.0.1:1"})
        answer.expect_problem(429, "KVX_E_LIMIT", "256")


@tap.case
def so_many_checksums_are_computed_at_once_and_the_next_is_told():
    """A block may be named again and again, so that each takes a while."""
    body = {"blocks": [0] * 50000}
    with hosts("one") as [one], contextlib.ExitStack() as stack:
        path = f"/v1/pools/{one.pools[0]}/checksum"
        clients = [stack.enter_context(one.client()) for _ in range(6)]
        for _ in range(20):  # a machine that does other things may be done with some before
            for client in clients:
                client.send("POST", path, body)
            answers = [client.answer() for client in clients]
            refused = [answer for answer in answers if answer.status != 200]
            assert len({tuple(answer.json["checksums"]) for answer in answers
                        if answer.status == 200}) == 1, answers  # fmt: skip
            if refused:
                break
        assert refused, "six at once were computed"
        for answer in refused:
            answer.expect_problem(429, "KVX_E_LIMIT", "4 are being computed", "ask again")
        one.post(path, {"blocks": [0]}, status=200)


@tap.case
def what_only_the_program_may_do_is_refused():
    with hosts("one") as [one]:
        number = one.do("grant", one.pools[0], 8, 2, LEASE_MS)["grant"]
        grant = one.get(f"/v1/grants/{number}")
        assert grant["owner"] == "program" and "ticket" not in grant, grant
        offer = one.post("/v1/offers", {"pool": one.pools[0], "blocks": [1], "lease_ms": LEASE_MS})
        one.ask("POST", f"/v1/grants/{number}/pull", {"ticket": offer["ticket"]}).expect_problem(
            409, "KVX_E_BUSY", "program")  # fmt: skip


ODD = (
    None, True, False, 0, 1, 2, 3, 63, 64, -1, 511, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63,
    2**64, 10**30, 0.5, 1e300, "", "AAAA", "====", "x" * 300, "\u00e9\ud83d\ude00", [], [0],
    "tcp:127.0.0.1:1", [1, 2], [[1]], ["AAAA"], [None] * 70, {}, {"a": 1},
    {"region": 1, "offset": 0, "bytes": 4},
)  # fmt: skip
FIELDS = sorted({
    name for schema in DOCUMENT["components"]["schemas"].values()
    for name in schema.get("properties", {})
})  # fmt: skip


def odd_body(chance, schema, host):
    """Fields that the operation knows, mostly, with values that it knows, at times."""
    known = described.resolve(schema).get("properties", {})
    body = {}
    for name in chance.sample(sorted(known), chance.randint(0, len(known))):
        body[name] = chance.choice(ODD)
    if "pool" in known and chance.random() < 0.8:
        body["pool"] = host.pools[0]
    if "blocks" in known and chance.random() < 0.8:
        body["blocks"] = chance.sample(range(BLOCKS), chance.randint(1, 4))
    if "lease_ms" in known and chance.random() < 0.8:
        body["lease_ms"] = chance.randint(1, LEASE_MS)
    if chance.random() < 0.2:
        body[chance.choice(FIELDS)] = chance.choice(ODD)
    return body


def odd_path(chance, path):
    number = chance.choice((chance.randint(1, 40), chance.choice((0, 2**63, "x", "-1", "%00"))))
    path = path.replace("{id}", str(number))
    query = [
        f"{name}={chance.choice(('0', '1', '5', '-1', 'tail', '', 'x', '%ff', '1' * 30))}"
        for name in ("wait_ms", "layer", "drain_ms", "after") if chance.random() < 0.3
    ]  # fmt: skip
    return path + ("?" + "&".join(query) if query else "")


@tap.case
def whatever_a_client_asks_for_is_answered_as_described():
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    operations = [
        (method.upper(), path, operation)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items() if path != "/v1/events"
    ]  # fmt: skip
    with hosts("one") as [one], one.client() as client:
        for turn in range(1500):
            method, path, operation = chance.choice(operations)
            path, body = odd_path(chance, path), None
            if "requestBody" in operation:
                content = operation["requestBody"]["content"]["application/json"]
                body = odd_body(chance, content["schema"], one)
            try:
                client.ask(method, path, body)
            except (AssertionError, OSError) as error:
                raise AssertionError(f"seed {seed}, turn {turn}: {method} {path} {body}: {error}")
        one.delete("/v1/drain")
        for kind in ("grants", "streams"):
            for left in one.get(f"/v1/{kind}")[kind]:
                one.delete(f"/v1/{kind}/{left['id']}")
        assert one.get(f"/v1/pools/{one.pools[0]}")["users"] == 0


# --- drain


@tap.case
def a_drained_engine_takes_nothing_new_and_ends_when_all_has_ended():
    with hosts("one") as [one]:
        grant = grant_of(one, [1])
        off = {"state": "off", "grants": 1, "streams": 0, "left_ms": 0}
        assert one.get("/v1/drain") == off
        drain = one.post("/v1/drain", {"deadline_ms": LEASE_MS}, status=200)
        assert drain["state"] == "waiting" and drain["grants"] == 1, drain
        assert 0 < drain["left_ms"] <= LEASE_MS, drain
        assert one.get("/v1/status")["drain"] == "waiting"
        for path in ("/v1/grants", "/v1/offers"):
            body = {"pool": one.pools[0], "blocks": [5], "lease_ms": LEASE_MS}
            one.ask("POST", path, body).expect_problem(503, "KVX_E_DRAINING")
        body = {"pool": one.pools[0], "blocks": [5], "ticket": grant["ticket"]}
        one.ask("POST", "/v1/streams", body).expect_problem(503, "KVX_E_DRAINING")
        assert one.do("grant", one.pools[0], 9, 1, LEASE_MS)["error"] == "KVX_E_DRAINING"
        assert one.get("/v1/drain?wait_ms=1")["state"] == "waiting"
        with one.client() as waiter:
            waiter.send("GET", "/v1/drain?wait_ms=60000")
            one.delete(f"/v1/grants/{grant['id']}")
            done = waiter.answer().expect(200)
            assert done["state"] == "done" and done["grants"] == 0, done
        assert one.delete("/v1/drain")["state"] == "off"
        one.delete(f"/v1/grants/{grant_of(one, [5])['id']}")


@tap.case
def a_drain_past_its_deadline_is_told_and_ends_nothing():
    with hosts("one") as [one]:
        with control.Events(one.client(), "?after=0") as events:
            grant = grant_of(one, [1])
            one.post("/v1/drain", {"deadline_ms": 20}, status=200)
            assert one.get("/v1/drain?wait_ms=60000")["state"] == "overdue"
            assert events.until("drain_done")[-1][2]["of"] == "engine"
        assert one.get(f"/v1/grants/{grant['id']}")["state"] == "open"
        assert one.post("/v1/drain", {"deadline_ms": LEASE_MS}, status=200)["state"] == "waiting"
        one.delete("/v1/drain")
        assert one.get("/v1/drain")["state"] == "off"
        one.delete(f"/v1/grants/{grant['id']}")


@tap.case
def an_idle_engine_is_drained_at_once():
    with hosts("one") as [one]:
        one.post("/v1/drain", {"deadline_ms": LEASE_MS}, status=200)
        assert one.get("/v1/drain?wait_ms=60000")["state"] == "done"


# --- peers


@tap.case
def peers_are_connected_looked_at_and_forgotten():
    for transport in ("shm", "tcp"):
        with hosts("near", "far", options=[f"transports={transport}"]) as [near, far]:
            made = near.post("/v1/peers", {"address": far.address})
            path = f"/v1/peers/{made['id']}"
            assert made["direction"] == "outgoing", made
            peer = near.get(f"{path}?wait_ms=60000")
            status = far.get("/v1/status")
            assert peer["state"] == "up" and peer["name"] == "far", peer
            assert peer["incarnation"] == status["incarnation"], peer
            assert peer["transport"] == transport and peer["why"], peer
            assert peer["rails"] and all(rail["up"] for rail in peer["rails"]), peer
            assert [each["id"] for each in near.get("/v1/peers")["peers"]] == [made["id"]]
            [other] = far.get("/v1/peers")["peers"]
            assert other["direction"] == "incoming" and other["name"] == "near", other
            assert near.get("/v1/status")["open"]["peers"] == 1
            with control.Events(far.client(), "?after=0") as events:
                near.delete(path, 204)
                lost = events.until("peer_lost")[-1][2]
                assert lost["of"] == "peer" and lost["id"] == other["id"], lost
            assert near.ask("DELETE", path).status in (204, 404)


def expect_dropped(host, path):
    """Nothing tells when a peer that is down is dropped."""
    control.until(lambda: host.ask("GET", path).status == 404)


@tap.case
def a_peer_that_cannot_be_reached_is_down_and_says_why():
    with hosts("one") as [one]:
        made = one.post("/v1/peers", {"address": "tcp:127.0.0.1:1"})
        path = f"/v1/peers/{made['id']}"
        peer = one.get(f"{path}?wait_ms=600000")  # longer than this client waits
        assert peer["state"] == "down" and peer["id"] == made["id"], peer
        assert "127.0.0.1:1" in peer["why"] and "refused" in peer["why"].lower(), peer
        assert peer["rails"] == [] and peer["address"] == "tcp:127.0.0.1:1", peer
        one.delete(path, 204)
        expect_dropped(one, path)


@tap.case
def a_peer_that_is_down_is_dropped_by_itself():
    with hosts("one", options=["control_retain_ms=0"]) as [one]:
        made = one.post("/v1/peers", {"address": "tcp:127.0.0.1:1"})
        expect_dropped(one, f"/v1/peers/{made['id']}")


@tap.case
def a_peer_that_dies_is_lost():
    with hosts("near") as [near], control.Events(near.client(), "?after=0") as events:
        far = described.Host("name=far", f"control={control.fresh('s.sock')}")
        made = near.post("/v1/peers", {"address": far.address})
        assert near.get(f"/v1/peers/{made['id']}?wait_ms=60000")["state"] == "up"
        assert events.until("peer_up")[-1][2]["id"] == made["id"]
        far.kill()
        lost = events.until("peer_lost")[-1][2]
        assert lost["id"] == made["id"] and lost["code"] == "KVX_E_PEER_LOST", lost


# --- the end of all


@tap.case
def metrics_are_served():
    with hosts("one") as [one]:
        assert b"kvx" in one.ask("GET", "/metrics").data


@tap.case
def events_are_served():
    with hosts("one") as [one]:
        grant_of(one, [1])
        assert one.ask("GET", "/v1/events?after=0&follow=false").status == 200


@tap.case
def every_operation_was_asked_for():
    everything = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    }
    tap.expect(sorted(everything - described.MOVES - described.answered))


tap.main()
