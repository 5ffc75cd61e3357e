#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GET /metrics: what Prometheus reads, what the figures say of requests, and the pages that name
them."""
import itertools
import json
import re
import time

import control
import tap

try:
    from prometheus_client import openmetrics, parser  # noqa: F401
    from prometheus_client.openmetrics import parser as openmetrics_parser
except ImportError:
    parser = None

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"
# What Prometheus sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
TIMES = ("kvxfer_uptime_seconds", "kvxfer_progress_seconds_total")

# The pools of test-control-host.
LAYERS, PLANES, BLOCK_BYTES = 4, 2, 1024
LEASE_MS, WAIT_MS = 60000, 60000


class Scrape:
    """What a host tells. Samples by name and labels."""

    def __init__(self, host, accept=PROMETHEUS):
        if not parser:
            raise tap.Skip("this Python has no prometheus_client (python3-prometheus-client)")
        with host.client() as client:
            answer = client.ask("GET", "/metrics", headers={"Accept": accept} if accept else {})
        assert answer.status == 200, answer.data
        self.kind = answer.headers["Content-Type"]
        self.text = answer.data.decode()
        parse = openmetrics_parser if self.kind == OPENMETRICS else parser
        self.families = list(parse.text_string_to_metric_families(self.text))
        self.samples = {}
        for family in self.families:
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.samples, f"twice: {key}"
                self.samples[key] = sample.value

    def sum(self, name, /, **labels):
        """Over all samples of that name with these labels; a port has none before it is used."""
        known = {family.name for family in self.families}
        assert any(f"kvxfer_{name}".startswith(family) for family in known), name
        return sum(
            value
            for (known, has), value in self.samples.items()
            if known == f"kvxfer_{name}" and labels.items() <= dict(has).items()
        )

    def growing(self):
        """What never falls."""
        ends = ("_total", "_bucket", "_count", "_sum")
        return {key: value for key, value in self.samples.items() if key[0].endswith(ends)}


def scrape_until(host, wanted):
    """The first scrape that is as wanted."""
    deadline = time.monotonic() + control.ANSWER_S
    while not wanted(told := Scrape(host)):
        assert time.monotonic() < deadline, told.text
    return told


def open_request(sender, receiver, blocks, **stream):
    """A grant and its stream."""
    grant = receiver.post(
        "/v1/grants", {"pool": receiver.pools[0], "blocks": blocks, "lease_ms": LEASE_MS}
    )
    made = sender.post(
        "/v1/streams",
        {"pool": sender.pools[0], "blocks": blocks, "ticket": grant["ticket"], **stream},
    )
    return grant, made


def move(sender, receiver, blocks):
    """A request from end to end; how many bytes it has."""
    grant, stream = open_request(sender, receiver, blocks, ready=True)
    for host, kind, made in ((receiver, "grants", grant), (sender, "streams", stream)):
        ended = host.get(f"/v1/{kind}/{made['id']}?wait_ms={WAIT_MS}")
        assert ended["state"] == "complete", ended
        host.delete(f"/v1/{kind}/{made['id']}")
    return len(blocks) * LAYERS * PLANES * BLOCK_BYTES


# --- the formats ---


@tap.case
def prometheus_gets_openmetrics_and_others_the_older_format():
    with control.hosts("one") as (host,):
        new, old = Scrape(host), Scrape(host, accept=None)
        assert new.kind == OPENMETRICS and old.kind == TEXT, (new.kind, old.kind)
        assert Scrape(host, accept="text/html").kind == TEXT
        assert new.text.endswith("# EOF\n") and "# EOF" not in old.text
        assert set(new.samples) == set(old.samples)
        tap.expect(
            f"{key}: {value} and {old.samples[key]}"
            for key, value in new.samples.items()
            if key[0] not in TIMES and value != old.samples[key]
        )


@tap.case
def a_name_is_escaped():
    name = 'a"b\\c {d}=e,'
    with control.hosts(name) as (host,):
        for accept in (PROMETHEUS, None):
            assert Scrape(host, accept).sum("engine_info", name=name) == 1


@tap.case
def a_name_that_is_not_utf8_is_shown_as_far_as_it_goes():
    options = ["name=x\udcff\"", f"control={control.fresh('s.sock')}"]
    with control.Host(*options, errors="surrogateescape") as host:
        for accept in (PROMETHEUS, None):
            assert Scrape(host, accept).sum("engine_info", name='x?"') == 1


@tap.case
def a_name_with_a_newline_is_refused():
    try:
        control.Host("name=a\nb", f"control={control.fresh('s.sock')}").end()
    except control.Refused as refused:
        assert refused.error == "KVX_E_INVALID" and "control character" in refused.text
    else:
        raise AssertionError("it was taken")


@tap.case
def the_engine_tells_who_it_is():
    with control.hosts("one") as (host,):
        scrape, status = Scrape(host), host.get("/v1/status")
        named = {"name": "one", "incarnation": status["incarnation"]}
        assert scrape.sum("engine_info", **named) == 1
        assert scrape.sum("build_info", version=status["version"]) == 1
        assert scrape.sum("registered_bytes") == status["memory"]["registered_bytes"] > 0
        assert scrape.sum("regions") == status["memory"]["regions"] > 0
        assert scrape.sum("uptime_seconds") > 0
        for transport in status["transports"]:
            told = scrape.sum("transport_on", transport=transport["name"])
            assert told == transport["on"], transport


# --- what is counted ---

TABLES = {
    "neighbours": (list(range(16)), 1),  # blocks and how many pieces they make
    "apart": ([1, 3, 5, 9], 4),
    "one block": ([63], 1),
}


@tap.cases_for(itertools.product(("shm", "tcp"), TABLES))
def a_request_is_counted_once_at_both_ends(case):
    transport, table = case
    blocks, pieces = TABLES[table]
    with control.hosts("p", "d", options=[f"transports={transport}"]) as (sender, receiver):
        size = move(sender, receiver, blocks)
        sent, received = Scrape(sender), Scrape(receiver)
        assert sent.sum("bytes_total", direction="sent", transport=transport) == size
        assert received.sum("bytes_total", direction="received", transport=transport) == size
        assert sent.sum("bytes_total") == received.sum("bytes_total") == size
        assert sent.sum("units_total") == received.sum("units_total") == LAYERS
        assert sent.sum("slices_total") == LAYERS * PLANES * pieces
        assert received.sum("slices_total") == 0
        for told in (sent, received):
            for name in ("units_resent", "units_late", "units_duplicate", "protocol_errors"):
                assert told.sum(f"{name}_total") == 0, name


@tap.case
def figures_of_requests_add_up():
    requests = 5
    with control.hosts("p", "d") as (sender, receiver):
        size = sum(move(sender, receiver, [i, i + 20]) for i in range(requests))
        sent, received = Scrape(sender), Scrape(receiver)
        assert sent.sum("bytes_total", direction="sent") == size
        assert received.sum("bytes_total", direction="received") == size
        layers = requests * LAYERS
        for told, counted in (
            (sent, {
                "streams_opened_total": requests, "streams_completed_total": requests,
                "streams_failed_total": 0, "streams_open": 0, "grants_opened_total": 0,
                "layer_latency_seconds_count": layers, "queueing_seconds_count": layers,
                "exposed_seconds_count": requests, "grant_seconds_count": 0,
            }),
            (received, {
                "grants_opened_total": requests, "grants_completed_total": requests,
                "grants_failed_total": 0, "grants_open": 0, "streams_opened_total": 0,
                "layers_whole_total": layers, "grant_seconds_count": requests,
                "fence_seconds_count": 0, "revokes_total": 0, "layer_latency_seconds_count": 0,
            }),
        ):  # fmt: skip
            tap.expect(
                f"{name}: {told.sum(name)}, not {value}"
                for name, value in counted.items()
                if told.sum(name) != value
            )
        # The end is exposed as long as the last layer takes, or longer.
        assert sent.sum("exposed_seconds_sum") > 0
        assert sent.sum("queueing_seconds_sum") <= sent.sum("layer_latency_seconds_sum")


@tap.case
def nothing_falls_while_requests_move():
    with control.hosts("p", "d") as (sender, receiver):
        moved, before = 0, {}
        for turn in range(30):
            blocks = list(range(turn % 7, 64, 1 + turn % 5))
            grant, stream = open_request(sender, receiver, blocks, ready=True)
            moved += len(blocks) * LAYERS * PLANES * BLOCK_BYTES
            for host in (sender, receiver):
                told = Scrape(host)
                last = before.get(host, {})
                grown = told.growing()
                assert last.keys() <= grown.keys()
                tap.expect(
                    f"{host.name}: {key} fell from {value} to {grown[key]}"
                    for key, value in last.items()
                    if grown[key] < value
                )
                assert told.sum("bytes_total") <= moved
                before[host] = grown
            receiver.get(f"/v1/grants/{grant['id']}?wait_ms={WAIT_MS}")
            sender.get(f"/v1/streams/{stream['id']}?wait_ms={WAIT_MS}")
            receiver.delete(f"/v1/grants/{grant['id']}")
            sender.delete(f"/v1/streams/{stream['id']}")
        assert Scrape(sender).sum("bytes_total") == moved
        assert Scrape(receiver).sum("bytes_total") == moved


@tap.case
def what_is_open_is_told():
    with control.hosts("p", "d") as (sender, receiver):
        assert Scrape(sender).sum("peers", state="up") == 0
        grant, stream = open_request(sender, receiver, [1])
        scrape_until(sender, lambda told: told.sum("peers", state="up") == 1)
        assert Scrape(sender).sum("streams_open") == 1
        assert Scrape(receiver).sum("grants_open") == 1
        offer = sender.post(
            "/v1/offers", {"pool": sender.pools[0], "blocks": [2], "lease_ms": LEASE_MS}
        )
        assert Scrape(sender).sum("offers_open") == 1
        for made in (stream, offer):
            sender.delete(f"/v1/streams/{made['id']}")
        receiver.delete(f"/v1/grants/{grant['id']}")
        for name in ("streams_open", "offers_open"):
            assert Scrape(sender).sum(name) == 0, name
        assert Scrape(receiver).sum("grants_open") == 0


@tap.case
def a_revoke_is_counted_and_its_fence_timed():
    with control.hosts("p", "d") as (sender, receiver):
        alone = receiver.post(
            "/v1/grants", {"pool": receiver.pools[0], "blocks": [7], "lease_ms": LEASE_MS}
        )
        receiver.delete(f"/v1/grants/{alone['id']}")
        grant, stream = open_request(sender, receiver, [1, 2])
        ended = receiver.delete(f"/v1/grants/{grant['id']}")
        assert ended["state"] == "failed" and ended["code"] == "KVX_E_REVOKED", ended
        failed = sender.get(f"/v1/streams/{stream['id']}?wait_ms={WAIT_MS}")
        assert failed["state"] == "failed", failed
        told = Scrape(receiver)
        assert told.sum("revokes_total") == told.sum("grants_failed_total") == 2
        assert told.sum("fence_seconds_count") == 2
        assert told.sum("grants_completed_total") == told.sum("bytes_total") == 0
        assert Scrape(sender).sum("streams_failed_total") == 1


@tap.case
def a_peer_that_is_gone_is_counted_as_lost():
    with control.hosts("d") as (receiver,):
        sender = control.Host("name=p", f"control={control.fresh('s.sock')}", "--fill")
        move(sender, receiver, [1])
        assert Scrape(receiver).sum("peers", state="up") == 1
        sender.kill()
        told = scrape_until(receiver, lambda told: told.sum("peers", state="up") == 0)
        assert told.sum("peers_lost_total") == 1


@tap.case
def the_drain_is_in_one_state():
    def state(host):
        told = Scrape(host)
        on = [dict(labels)["state"] for (name, labels), value in told.samples.items()
              if name == "kvxfer_drain_state" and value]  # fmt: skip
        assert len(on) == 1, on
        return on[0]

    with control.hosts("one") as (host,):
        assert state(host) == "off"
        grant = host.post(
            "/v1/grants", {"pool": host.pools[0], "blocks": [0], "lease_ms": LEASE_MS}
        )
        host.post("/v1/drain", {"deadline_ms": 60000}, status=200)
        assert state(host) == "waiting"
        assert 0 < Scrape(host).sum("drain_left_seconds") <= 60
        host.delete(f"/v1/grants/{grant['id']}")
        assert state(host) == "done"
        host.delete("/v1/drain")
        assert state(host) == "off"


# --- the pages ---


def moved():
    """The families of an engine that has sent and received, so that all of them have samples."""
    with control.hosts("p", "d") as (sender, receiver):
        move(sender, receiver, [1])
        return Scrape(sender)


def sample_name(family):
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


@tap.case
def the_page_lists_what_is_served():
    page = (tap.SOURCE / "docs" / "metrics.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| `(kvxfer_\w+)` \| (\w+) \| (.*?) \| (\w*) ?\| (.*) \|$", re.MULTILINE)
    listed = {
        (name, kind, tuple(sorted(re.findall(r"`(\w+)`", labels))), unit, meaning)
        for name, kind, labels, unit, meaning in row.findall(page)
    }
    served = {
        (
            sample_name(family), family.type,
            tuple(sorted({label for sample in family.samples for label in sample.labels} - {"le"})),
            family.unit, family.documentation,
        )
        for family in moved().families
    }  # fmt: skip
    tap.expect(
        [f"not on the page: {entry}" for entry in sorted(served - listed)]
        + [f"not served: {entry}" for entry in sorted(listed - served)]
    )


METRIC = re.compile(r"\b(kvxfer_\w+)(?:\{(.*?)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"(.*?)"')
TARGET = {"instance", "job"}  # labels that Prometheus adds itself


def labels_of(scrape, name):
    """The labels of a sample, each with the values that are served."""
    known = {}
    for (sample, labels), _ in scrape.samples.items():
        if sample == name:
            known.setdefault("", set())
            for label, value in labels:
                known.setdefault(label, set()).add(value)
    return known


def wrong_in(scrape, expression, shown=""):
    """What an expression names that is not served. shown: names of labels in its legend."""
    kept = set()
    for name, matchers in METRIC.findall(expression):
        known = labels_of(scrape, name)
        if not known:
            yield f"{expression}: no {name}"
        kept |= known.keys() | TARGET
        for label, how, value in MATCHER.findall(matchers):
            if label not in known.keys() | TARGET:
                yield f"{expression}: {name} has no {label}"
            elif how == "=" and label in known and value not in known[label]:
                yield f"{expression}: no {label} of {name} is {value}"
    grouped = re.findall(r"\bby \((.*?)\)", expression)
    for label in {word.strip() for group in grouped for word in group.split(",")} - kept:
        yield f"{expression}: nothing has {label}"
    if grouped:
        kept = {word.strip() for group in grouped for word in group.split(",")}
    for label in set(re.findall(r"\{\{(\w+)\}\}", shown)) - kept:
        yield f"{expression}: its legend names {label}"


@tap.case
def the_pages_rules_name_what_is_served():
    page = (tap.SOURCE / "docs" / "metrics.md").read_text(encoding="utf-8")
    rules = re.findall(r"^ +expr: (.+)$", page, re.MULTILINE)
    assert len(rules) > 4
    scrape = moved()
    tap.expect(text for rule in rules for text in wrong_in(scrape, rule))


def dashboard():
    return json.loads((tap.SOURCE / "docs" / "grafana.json").read_text(encoding="utf-8"))


@tap.case
def the_dashboard_has_a_place_for_each_panel():
    board = dashboard()
    panels = board["panels"]
    assert board["schemaVersion"] >= 36, "Grafana 9 or later"
    assert {entry["name"] for entry in board["templating"]["list"]} == {"datasource", "instance"}
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids) > 10
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for at in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert at not in taken, f"{panel['title']} lies on {taken[at]}"
            taken[at] = panel["title"]


@tap.case
def the_dashboard_shows_what_is_served():
    scrape, found, used = moved(), [], set()
    for panel in dashboard()["panels"]:
        targets = panel.get("targets", [])
        assert targets or panel["type"] == "row", panel["title"]
        for target in targets:
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
            assert 'instance=~"$instance"' in target["expr"], target["expr"]
            found += wrong_in(scrape, target["expr"], target["legendFormat"])
            used |= {name for name, _ in METRIC.findall(target["expr"])}
    tap.expect(found)
    assert len(used) > 20, used


tap.main()
