#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvxferctl: what it prints of real engines, what it has them do, and how it fails."""
import contextlib
import http.server
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading

import control
import tap

CTL = sys.argv[4]
DONE, FAILED, USAGE, UNREACHED = range(4)
LIMIT_S = 60
SECRET = "a secret of more than sixteen characters"


def run(*arguments, status=DONE, stdin="", **options):
    """What it prints, on stderr if it is to fail."""
    options.setdefault("env", clean())
    done = subprocess.run(
        [CTL, *map(str, arguments)], input=stdin, capture_output=True, text=True,
        timeout=LIMIT_S, **options,
    )  # fmt: skip
    shown = " ".join(map(str, arguments))
    assert done.returncode == status, (
        f"{shown}: {done.returncode} in place of {status}\n{done.stdout}{done.stderr}"
    )
    if status:
        assert all(line.startswith("kvxferctl: ") for line in done.stderr.splitlines())
        return done.stderr
    assert not done.stderr, f"{shown}: {done.stderr}"
    return done.stdout


def clean(**more):
    return {name: value for name, value in os.environ.items() if "KVX" not in name} | more


def ctl(host, *arguments, **options):
    return run("--socket", host.path, *arguments, **options)


def told(host, *arguments, **options):
    return json.loads(ctl(host, "--json", *arguments, **options))


def rows(text):
    """A table: the cells of each row, by the titles of the columns; told apart by two blanks."""
    title, *lines = text.splitlines()
    names = re.split(r"  +", title.strip())
    found = []
    for line in lines:
        cells = re.split(r"  +", line.strip())
        found.append(dict(zip(names, cells)))
    return found


def pairs(text):
    return dict(re.findall(r"^(\S+(?: \S+)?)  +(.*)$", text, re.M))


def mortal(name):
    """A host that is to be killed."""
    return control.Host(f"name={name}", f"control={control.fresh('s.sock')}", "--fill")


def nothing_open(*hosts):
    for host in hosts:
        opened = host.get("/v1/status")["open"]
        assert not opened["grants"] and not opened["streams"] and not opened["offers"], opened
        assert host.get("/v1/grants") == {"grants": []}
        assert host.get("/v1/streams") == {"streams": []}


# --- what it shows


@tap.case
def the_status_is_a_table_or_the_json_of_the_engine():
    with control.hosts("one") as (host,):
        text, status = ctl(host, "status"), host.get("/v1/status")
        found = pairs(text)
        assert found["engine"].startswith(f"one, kvxfer {status['version']}, process {host.pid}")
        assert found["incarnation"] == status["incarnation"] and found["drain"] == "off"
        assert found["address"] == status["address"]
        assert f"unix:{host.path}" == found["control"]
        for transport in status["transports"]:
            assert re.search(rf"^{transport['name']} +{'on' if transport['on'] else 'off'} ",
                             text, re.M), text  # fmt: skip
        for name in status["stats"]:
            assert re.search(rf"^{name} +\d+$", text, re.M), name
        given = told(host, "status")
        assert given.keys() == status.keys() and given["address"] == status["address"]


@tap.case
def memory_and_pools_are_shown():
    with control.hosts("one", options=("--pool", "hnd", "--pool", "whole")) as (host,):
        pools = host.get("/v1/pools")["pools"]
        assert told(host, "pools")["pools"] == pools
        assert told(host, "regions") == host.get("/v1/regions")
        table = rows(ctl(host, "pools"))
        assert [int(row["id"]) for row in table] == [pool["id"] for pool in pools] == host.pools
        assert [row["layout"] for row in table] == ["HND", "whole"]
        assert [int(row["id"]) for row in rows(ctl(host, "regions"))] == host.regions
        one = pairs(ctl(host, "pools", host.pools[0]))
        assert one["pool"] == f"{pools[0]['id']}, hash {pools[0]['hash']}", one
        assert told(host, "pools", host.pools[0]) == pools[0]


@tap.case
def checksums_are_those_of_the_engine():
    with control.hosts("one") as (host,):
        body = {"blocks": [0, 1, 2, 7]}
        sums = host.post(f"/v1/pools/{host.pools[0]}/checksum", body, 200)["checksums"]
        table = rows(ctl(host, "checksum", host.pools[0], "0-2,7"))
        assert [row["checksum"] for row in table] == sums
        assert told(host, "checksum", host.pools[0], "0-2,7")["checksums"] == sums


@tap.case
def options_are_shown_and_changed():
    with control.hosts("one") as (host,):
        listed = host.get("/v1/options")["options"]
        table = rows(ctl(host, "options"))
        assert [row["option"] for row in table] == [option["name"] for option in listed]
        live = next(option for option in listed if option["live"] and option["kind"] == "number")
        low = int(live["range"].split("..")[0])
        (row,) = rows(ctl(host, "options", f"{live['name']}={low + 1}"))
        assert row["option"] == live["name"] and row["value"] == str(low + 1), row
        assert "KVX_E_INVALID" in ctl(host, "options", "name=x", status=FAILED)
        assert "NAME=VALUE" in ctl(host, "options", "name", status=USAGE)


@tap.case
def metrics_and_any_path_come_as_they_are():
    with control.hosts("one") as (host,):
        assert "\n# TYPE kvxfer_" in ctl(host, "metrics")
        assert json.loads(ctl(host, "get", "/v1/pools")) == host.get("/v1/pools")
        assert "(KVX_E_" in ctl(host, "get", "/v1/pools/999", status=FAILED)
        assert "must begin with /" in ctl(host, "get", "v1", status=USAGE)
        assert "%20" in ctl(host, "get", "/v1/a b", status=USAGE)


@tap.case
def the_topology_is_shown_or_its_absence_told():
    with control.hosts("one") as (host,):
        answer = host.ask("GET", "/v1/topology")
        if answer.status == 404:
            detail = answer.json["detail"]
            assert detail in ctl(host, "topology", status=FAILED)
    places = [{"name": "NUMA 0", "numa": 0, "class": "NODE", "explain": ["a reason"],
               "chosen": [{"name": "mlx5_0", "port": 1, "weight": 0.5}],
               "failover": [{"name": "mlx5_1", "port": 1}]}]  # fmt: skip
    nics = [{"name": "mlx5_0", "port": 1, "state": "up", "link": "ethernet", "speed_gbps": 100,
             "pcie_gbps": None, "pci": "0000:19:00.0", "fabric": ""}]  # fmt: skip
    topology = {"gpus": [], "numa_nodes": places, "nics": nics, "notes": ["a note"]}
    with Fake({("GET", "/v1/topology"): topology}) as fake:
        text = ctl(fake, "topology")
        assert re.search(r"^NUMA 0 +0 +NODE +mlx5_0:1 50 % +mlx5_1:1$", text, re.M), text
        assert re.search(r"^mlx5_0:1 +up +ethernet +100 Gb/s +\? +0000:19:00.0$", text, re.M), text
        assert "a reason" in text and "a note" in text


@tap.case
def peers_are_connected_shown_and_forgotten():
    with control.hosts("one", "two") as (one, two):
        text = ctl(one, "peers", "connect", two.address, "--wait", 10000)
        found = pairs(text)
        (peer,) = one.get("/v1/peers")["peers"]
        assert found["peer"] == f"{peer['id']}, two, outgoing, up", text
        (row,) = rows(ctl(one, "peers"))
        assert row["name"] == "two" and row["state"] == "up" and row["id"] == str(peer["id"])
        (row,) = rows(ctl(two, "peers"))
        assert row["direction"] == "incoming" and row["name"] == "one", row
        assert told(one, "peers", peer["id"])["rails"] == peer["rails"]
        for rail in peer["rails"]:
            assert re.search(rf"^{re.escape(rail['port'])} +up ", ctl(one, "peers", peer["id"]),
                             re.M)  # fmt: skip
        assert ctl(one, "peers", "forget", peer["id"]) == ""
        assert "KVX_E_" in ctl(one, "peers", "forget", 4711, status=FAILED)
        assert "KVX_E_" in ctl(one, "peers", "connect", "nonsense", status=FAILED)


@tap.case
def a_peer_that_does_not_come_is_a_failure():
    with control.hosts("one") as (one,), socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"tcp:127.0.0.1:{nobody.getsockname()[1]}"
        text = ctl(one, "peers", "connect", address, "--wait", 1, status=FAILED)
        assert "the peer is" in text or "KVX_E_" in text, text


# --- transfers


@tap.case
def a_request_is_driven_by_hand():
    with control.hosts("from", "to") as (sender, receiver):
        pools = (receiver.pools[0], sender.pools[0])
        ticket = ctl(receiver, "grants", "open", pools[0], "4-7", "--lease", 60000, "--ticket")
        (row,) = rows(ctl(receiver, "grants"))
        assert row["state"] == "open" and row["blocks"] == "4" and row["owner"] == "control", row
        grant = int(row["id"])
        assert ctl(receiver, "grants", grant, "--ticket") == ticket
        stream = told(sender, "streams", "open", pools[1], "0-3", "-", stdin=ticket)["id"]
        text = ctl(receiver, "grants", "wait", grant, "--timeout", 1, status=FAILED)
        assert "goes on still after 1 ms" in text, text
        ctl(sender, "streams", "ready", stream, "0-1")
        part = pairs(ctl(receiver, "grants", "wait", grant, "--layer", 1))
        assert part["state"] == "open" and part["layers"][1] == "#", part
        done = told(sender, "streams", "wait", stream, "--layer", 1)
        assert [layer["ready"] for layer in done["progress"]] == [True, True, False, False], done
        assert "goes on still" in ctl(
            sender, "streams", "wait", stream, "--layer", 2, "--timeout", 1, status=FAILED
        )
        ctl(sender, "streams", "ready", stream, "all")
        whole = pairs(ctl(receiver, "grants", "wait", grant))
        assert whole["state"] == "complete" and whole["layers"] == "####", whole
        assert pairs(ctl(sender, "streams", "wait", stream))["delivered"].startswith("4 of 4")
        compared = receiver.do("compare", pools[0], 4, 4, "from", 0)
        assert compared["same"], compared
        ctl(sender, "streams", "cancel", stream)
        ctl(receiver, "grants", "revoke", grant)
        nothing_open(sender, receiver)


@tap.case
def a_request_has_a_tail_and_tokens():
    with control.hosts("from", "to") as (sender, receiver):
        tail = f"{receiver.regions[0]}:0:4096"
        opened = told(receiver, "grants", "open", receiver.pools[0], "4-7", "--tokens", 50,
                      "--held", 1, "--senders", 1, "--tail", tail)  # fmt: skip
        assert opened["tokens"] == 50 and opened["held_blocks"] == 1, opened
        assert opened["tail_bytes"] == 4096
        ctl(receiver, "grants", "revoke", opened["id"], "--drain", 10)
        nothing_open(receiver)


@tap.case
def a_request_comes_in_chunks_and_its_tail_last():
    """Tails lie in the pools, where layer 0 has its first plane."""
    with control.hosts("from", "to") as (sender, receiver):
        pool = receiver.pools[0]
        sums = told(receiver, "checksum", pool, "56-59")["checksums"]
        ticket = ctl(receiver, "grants", "open", pool, "0-3", "--ticket",
                     "--tail", f"{receiver.regions[0]}:{56 * 1024}:4096")  # fmt: skip
        (row,) = rows(ctl(receiver, "grants"))
        stream = told(sender, "streams", "open", sender.pools[0], "20-23", "-", "--chunk", 16,
                      "--tail", f"{sender.regions[0]}:{60 * 1024}:4096", stdin=ticket)  # fmt: skip
        assert (stream["tail_bytes"], stream["tokens"]) == (4096, 64), stream
        stream = stream["id"]
        late = ("--timeout", 1)
        ctl(sender, "streams", "ready", stream, "0-3", "--tokens", 16)
        part = told(sender, "streams", stream)
        assert part["layers_ready"] == 0 and part["state"] == "open", part
        text = ctl(sender, "streams", "wait", stream, "--layer", 0, *late, status=FAILED)
        assert "goes on still" in text, text
        ctl(sender, "streams", "ready", stream, "0-1", "--tokens", 64)
        ctl(sender, "streams", "wait", stream, "--layer", 1)
        assert told(sender, "streams", stream)["layers_ready"] == 2
        ctl(sender, "streams", "ready", stream, "all")
        part = told(sender, "streams", "wait", stream, "--layer", 3)
        assert part["progress"][4] == {"ready": False, "done": False}, part
        for host, kind, which in ((sender, "streams", stream), (receiver, "grants", row["id"])):
            text = ctl(host, kind, "wait", which, "--layer", "tail", *late, status=FAILED)
            assert "goes on still" in text, text
        ctl(sender, "streams", "ready", stream, "tail")
        for host, kind, which in ((sender, "streams", stream), (receiver, "grants", row["id"])):
            whole = told(host, kind, "wait", which, "--layer", "tail")
            assert whole["progress"][4]["done"], whole
            assert pairs(ctl(host, kind, "wait", which))["state"] == "complete"
        compared = receiver.do("compare", pool, 0, 4, "from", 20)
        assert compared["same"], compared
        now = told(receiver, "checksum", pool, "56-59")["checksums"]
        assert now[0] != sums[0] and now[1:] == sums[1:], (sums, now)
        ctl(sender, "streams", "cancel", stream)
        ctl(receiver, "grants", "revoke", row["id"])
        nothing_open(sender, receiver)


@tap.case
def an_offer_is_pulled():
    for late in (False, True):
        with control.hosts("from", "to") as (sender, receiver):
            ticket = ctl(sender, "offers", "open", sender.pools[0], "0-3", "--ready", "--ticket")
            file = control.fresh("ticket")
            file.write_text(ticket)
            (row,) = rows(ctl(sender, "streams"))
            assert row["kind"] == "offer", row
            more = () if late else ("--pull", f"@{file}")
            grant = told(receiver, "grants", "open", receiver.pools[0], "8-11", *more)["id"]
            if late:
                ctl(receiver, "grants", "pull", grant, ticket.strip())
            assert pairs(ctl(receiver, "grants", "wait", grant))["state"] == "complete"
            ctl(sender, "streams", "wait", row["id"])
            ctl(sender, "streams", "cancel", row["id"])
            ctl(receiver, "grants", "revoke", grant)
            nothing_open(sender, receiver)


@tap.case
def a_transfer_that_fails_is_told():
    with control.hosts("to") as (receiver,):
        grant = told(receiver, "grants", "open", receiver.pools[0], "0", "--lease", 1)["id"]
        text = ctl(receiver, "grants", "wait", grant, status=FAILED)
        assert "has failed" in text and "KVX_E_LEASE" in text, text
        text = ctl(receiver, "grants", "open", receiver.pools[0], "9999", status=FAILED)
        assert "KVX_E_INVALID" in text and "9999" in text, text
        assert "KVX_E_" in ctl(receiver, "grants", 4711, status=FAILED)


@tap.case
def an_engine_is_drained_and_resumed():
    with control.hosts("one") as (host,):
        grant = told(host, "grants", "open", host.pools[0], "0")["id"]
        assert pairs(ctl(host, "drain"))["drain"] == "waiting"
        refused = ctl(host, "grants", "open", host.pools[0], "1", status=FAILED)
        assert "KVX_E_DRAINING" in refused
        text = ctl(host, "drain", "--wait", "--deadline", 1, status=FAILED)
        assert "overdue" in text and "1 grants" in text, text
        ctl(host, "grants", "revoke", grant)
        assert pairs(ctl(host, "drain", "--wait"))["drain"] == "done"
        assert pairs(ctl(host, "resume"))["drain"] == "off"
        told(host, "grants", "open", host.pools[0], "1")


# --- move


def move(sender, receiver, *arguments, **options):
    return run("move", "--from", sender.path, "--to", receiver.path, "--blocks", "0-3",
               "--to-blocks", "4-7", *arguments, **options)  # fmt: skip


@tap.cases_for(["shm", "tcp"])
def blocks_are_moved_end_to_end(transport):
    with control.hosts("from", "to", options=(f"transports={transport}",)) as (sender, receiver):
        for more in ((), ("--pull",), ("--chunk", "16")):
            found = pairs(move(sender, receiver, "--verify", *more))
            size = 4 * host_layers(sender) * layer_block(sender)
            assert f"({size} bytes)" in found["moved"] and "MB/s" in found["moved"], found
            assert found["transport"] == transport, found
            assert found["verified"].startswith(f"{host_layers(sender)} layers"), found
            nothing_open(sender, receiver)
        moved = json.loads(move(sender, receiver, "--json", "--from-pool", sender.pools[0],
                                "--to-pool", receiver.pools[0], "--lease", 5000))  # fmt: skip
        assert moved["bytes"] == size and moved["transport"] == transport, moved
        assert moved["grant"]["state"] == moved["stream"]["state"] == "complete"
        assert moved["grant"]["lease_ms"] == 5000 and not moved["verified"]


def host_layers(host):
    return host.get("/v1/pools")["pools"][0]["geometry"]["layers"]


def layer_block(host):
    return host.get("/v1/pools")["pools"][0]["layer_block_bytes"]


@tap.cases_for(["from", "to"])
def a_move_against_a_drained_engine_leaves_nothing_open(which):
    for more in ((), ("--pull",)):
        with control.hosts("from", "to") as (sender, receiver):
            ctl(sender if which == "from" else receiver, "drain", "--wait")
            text = move(sender, receiver, *more, status=FAILED)
            assert "KVX_E_DRAINING" in text, text
            nothing_open(sender, receiver)


@tap.case
def a_move_that_cannot_be_begun_says_why():
    with control.hosts("from", "to", options=("--pool", "whole", "--pool", "hnd")) as two:
        sender, receiver = two
        text = move(sender, receiver, status=USAGE)
        assert "has 2 pools" in text and "--from-pool" in text, text
        pools = ("--from-pool", sender.pools[0], "--to-pool")
        text = move(sender, receiver, *pools, receiver.pools[1], "--verify", status=USAGE)
        assert "not alike" in text, text
        text = move(sender, receiver, *pools, 4711, status=FAILED)
        assert "has no pool 4711" in text, text
        text = move(sender, receiver, *pools, receiver.pools[0], "--to-blocks", "4-6",
                    status=FAILED)  # fmt: skip
        assert "KVX_E_" in text, text
        nothing_open(sender, receiver)
        gone = mortal("gone")
        gone.kill()
        text = move(sender, gone, *pools, 1, status=UNREACHED)
        assert "has ended" in text, text
        nothing_open(sender)


@tap.case
def an_interrupted_move_leaves_nothing_open():
    """The sender never gets anywhere: it is made up."""
    stream = {"id": 7, "state": "open"}
    with control.hosts("to") as (receiver,):
        pool = receiver.get("/v1/pools")
        answers = {("GET", "/v1/pools"): pool, ("POST", "/v1/streams"): (201, stream),
                   ("GET", "/v1/streams/7"): stream, ("DELETE", "/v1/streams/7"): stream,
                   ("GET", "/v1/peers"): {"peers": []}}  # fmt: skip
        with Fake(answers) as sender:
            process = subprocess.Popen(
                [CTL, "move", "--from", sender.path, "--to", receiver.path, "--blocks", "0-3",
                 "--to-blocks", "4-7"], stderr=subprocess.PIPE, text=True, env=clean(),
            )  # fmt: skip
            sender.until(("GET", "/v1/streams/7"))
            assert receiver.get("/v1/status")["open"]["grants"] == 1
            process.send_signal(signal.SIGINT)
            _, text = process.communicate(timeout=LIMIT_S)
            assert process.returncode == FAILED and "interrupted" in text, text
            assert ("DELETE", "/v1/streams/7") in sender.asked
            nothing_open(receiver)


# --- events and the live view


@tap.case
def events_are_told_and_followed():
    with control.hosts("one") as (host,):
        ctl(host, "events")
        process = subprocess.Popen(
            [CTL, "--socket", host.path, "events", "--follow", "--after", "0", "--count", "2"],
            stdout=subprocess.PIPE, text=True, env=clean(),
        )  # fmt: skip
        grant = told(host, "grants", "open", host.pools[0], "0")["id"]
        ctl(host, "grants", "revoke", grant)
        text, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == DONE
        opened, failed = text.splitlines()
        assert f"grant_opened      grant {grant}" in opened, text
        assert f"grant_failed      grant {grant}" in failed and "KVX_E_REVOKED" in failed, text
        assert ctl(host, "events") == text
        assert ctl(host, "events", "--after", 1) == failed + "\n"
        lines = [json.loads(line) for line in ctl(host, "events", "--json").splitlines()]
        assert [line["sequence"] for line in lines] == [1, 2]
        assert ctl(host, "events", "--count", 1) == opened + "\n"


@tap.case
def following_ends_with_the_engine():
    with contextlib.ExitStack() as stack:
        (host,) = stack.enter_context(control.hosts("one"))
        process = subprocess.Popen(
            [CTL, "--socket", host.path, "events", "--follow", "--after", "0"], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean(),
        )  # fmt: skip
        told(host, "grants", "open", host.pools[0], "0")
        assert "grant_opened" in process.stdout.readline()
        stack.close()
        _, text = process.communicate(timeout=LIMIT_S)
        assert process.returncode == UNREACHED and "ended" in text, text


@tap.case
def the_live_view_shows_rates_and_progress():
    with control.hosts("from", "to") as (sender, receiver):
        grant = told(receiver, "grants", "open", receiver.pools[0], "4-7")
        file = control.fresh("ticket")
        file.write_text(grant["ticket"])
        stream = told(sender, "streams", "open", sender.pools[0], "0-3", f"@{file}")["id"]
        ctl(sender, "streams", "ready", stream, "0-1")
        ctl(receiver, "grants", "wait", grant["id"], "--layer", 1)
        text = run("--socket", sender.path, "--socket", receiver.path, "watch", "--count", 2,
                   "--interval", "0.1")  # fmt: skip
        frames = text.split("\n\n")[:2]
        assert len(frames) == 2 and "\033" not in text, text
        for frame in frames:
            assert re.search(r"^from +kvxfer .*, process \d+, up .*, drain off, ", frame, re.M)
            assert re.search(r"^to +kvxfer ", frame, re.M), frame
            bars = re.findall(r"open +\[#{8}-{8}\] +2/4 ", frame)
            assert len(bars) == 2, frame
            assert "grant_opened" in frame and "stream_opened" in frame, frame
            assert "layer_whole" not in frame, frame
        assert re.search(r"rail \S+ +up +weight \d+ +- +- +0$", frames[0], re.M), frames[0]
        assert re.search(r"rail \S+ +up +weight \d+ +0\.0 +0\.0 +0$", frames[1], re.M), frames[1]


@tap.case
def the_live_view_survives_an_engine():
    with control.hosts("one") as (one,):
        two = mortal("two")
        two.kill()
        text = run("--socket", one.path, "--socket", two.path, "watch", "--count", 1)
        assert re.search(r"^one +kvxfer", text, re.M) and "has ended" in text, text
        assert "has ended" in run("--socket", two.path, "watch", "--count", 1, status=UNREACHED)


@tap.case
def an_interrupt_restores_the_terminal():
    with control.hosts("one") as (host,):
        here, there = pty.openpty()
        process = subprocess.Popen([CTL, "--socket", host.path, "watch", "--interval", "0.1"],
                                   stdin=there, stdout=there, stderr=there, env=clean())
        os.close(there)
        text = b""
        while text.count(b"\033[H") < 2:
            text += os.read(here, 4096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # Linux' way to say that the other end is closed
            while part := os.read(here, 4096):
                text += part
        os.close(here)
        assert process.wait(LIMIT_S) == DONE
        assert text.startswith(b"\033[?1049h\033[?25l") and b"one" in text
        assert text.endswith(b"\033[?25h\033[?1049l"), text[-80:]


@tap.case
def a_folder_is_listed():
    folder = control.fresh("")
    with contextlib.ExitStack() as stack:
        hosts = [control.Host(f"name={name}", f"control={folder}/")
                 for name in ("decode", "prefill", "gone")]  # fmt: skip
        stack.enter_context(hosts[0])
        ctl(hosts[0], "drain", "--wait")
        hosts[2].kill()
        done = subprocess.run([CTL, "list", f"{folder}/"], capture_output=True, text=True)
        table = rows(done.stdout)
        assert [(row["name"], row["drain"]) for row in table] == [
            ("decode", "done"), ("prefill", "off"),
        ], done.stdout  # fmt: skip
        assert done.returncode == DONE and "has ended" in done.stderr, done
        listed = json.loads(run("list", folder, "--json"))["sockets"]
        assert [part["status"] and part["status"]["pid"] for part in listed] == [
            hosts[0].pid, None, hosts[1].pid,
        ]  # fmt: skip
        assert "has ended" in listed[1]["error"]
        # A folder stands for its one engine; the dead one's socket does not count.
        text = run("--socket", folder, "status", status=USAGE)
        assert "decode.sock, prefill.sock" in text, text
        hosts[1].kill()
        assert "decode," in run("--socket", folder, "status")
        assert "decode," in run("status", env=clean(KVXFERCTL_SOCKET=str(folder)))


# --- getting in


@tap.case
def over_tcp_the_secret_opens():
    secret, wrong = control.fresh("secret"), control.fresh("wrong")
    for path, text in ((secret, SECRET), (wrong, SECRET[::-1])):
        path.write_text(text + "\n")
        path.chmod(0o600)
    with control.Host("name=one", "control_listen=127.0.0.1:0", f"secret_file={secret}",
                      f"control={control.fresh('s')}") as host:  # fmt: skip
        url = next(part for part in host.told["control"].split(",") if part.startswith("https"))
        assert "one," in run("--url", url, "--secret", secret, "status")
        assert "needs the cluster's secret" in run("--url", url, "status", status=USAGE)
        text = run("--url", url, "--secret", wrong, "status", status=UNREACHED)
        assert "not that of this secret" in text, text
        lines = run("credentials", "--secret", secret)
        assert re.fullmatch(r"TOKEN=[\w+/=-]+\nPINNED=sha256//[\w+/=]+\n", lines), lines
        tap.need("curl")
        script = 'eval "$1"; exec curl -s --insecure --pinnedpubkey "$PINNED" ' \
                 '-H "Authorization: Bearer $TOKEN" "$2/v1/status"'  # fmt: skip
        answer = tap.command("sh", "-c", script, "sh", lines, url)
        assert json.loads(answer)["name"] == "one"


@tap.case
def over_loopback_no_secret_is_needed():
    with control.Host("name=one", "control_listen=127.0.0.1:0") as host:
        url = host.told["control"]
        assert "one," in run("--url", url, "status")
        assert "one," in run("--socket", f"{url}/", "status")
    text = run("--url", url, "status", status=UNREACHED)
    assert "control_listen" in text, text


@tap.case
def who_cannot_get_in_learns_why():
    host = mortal("one")
    path = pathlib.Path(host.path)
    text = run("--socket", path.with_name("none"), "status", status=UNREACHED)
    assert "No such file" in text and "is the engine running" in text, text
    host.kill()
    assert "has ended" in ctl(host, "status", status=UNREACHED)
    text = run("--socket", path.parent, "status", status=UNREACHED)
    assert "only what dead ones left behind" in text, text
    plain = path.with_name("plain")
    plain.write_text("")
    text = run("--socket", plain, "status", status=USAGE)
    assert "neither a socket nor a folder" in text, text


@tap.case
def another_user_is_told_to_be_the_engines():
    if os.geteuid():
        raise tap.Skip("only root can try as another user")
    with control.hosts("one") as (host,):
        place = pathlib.Path("/tmp") / f"kvx-ctl-{os.getpid()}"
        place.mkdir(mode=0o755)
        try:
            program = shutil.copy(CTL, place)
            os.symlink(host.path, place / "link")
            done = subprocess.run(
                [program, "--socket", str(place / "link"), "status"], capture_output=True,
                text=True, user=65534, env=clean(LD_LIBRARY_PATH=str(tap.BUILD)),
            )  # fmt: skip
            if done.returncode == 127:
                raise tap.Skip("another user cannot read the build folder")
            assert done.returncode == UNREACHED, done
            assert "be the engine's user, or root" in done.stderr, done
        finally:
            shutil.rmtree(place)


WRONG = {
    "no command": ([], "which command"),
    "no such command": (["stop"], "no such command"),
    "no such second word": (["offers", "close"], "no such command"),
    "no engine": (["status"], "--socket"),
    "no such option": (["status", "--colour"], "no option of status"),
    "another's option": (["status", "--lease", "1"], "no option of status"),
    "an option before the command": (["--lease", "1", "status"], "before a command"),
    "no value": (["grants", "open", "1", "0", "--lease"], "needs a value"),
    "no argument": (["checksum"], "needs POOL BLOCKS"),
    "too much": (["status", "7"], "more than it takes"),
    "no number": (["drain", "--deadline", "soon"], "must be a number"),
    "out of range": (["grants", "open", "1", "0", "--lease", "0"], "from 1 to 86400000"),
    "no seconds": (["watch", "--interval", "0"], "seconds"),
    "no layer": (["grants", "wait", "1", "--layer", "x"], "or tail"),
    "no file of a secret": (["credentials"], "--secret"),
    "no end": (["move"], "--from"),
    "no blocks": (["move", "--from", "x"], "--blocks"),
    "a URL in part": (["--url", "http://host/v1?x", "status"], "http://HOST:PORT"),
}


@tap.cases_for(WRONG)
def what_is_wrong_is_told_in_one_line(name):
    arguments, words = WRONG[name]
    text = run(*arguments, status=USAGE)
    assert words in text and text.count("\n") == 1, text


WRONG_THERE = {
    "an id": (["pools", "x"], "is not the id of a pool"),
    "blocks": (["checksum", "1", "3-1"], "range such as 0-15"),
    "many blocks": (["checksum", "1", "0-4000000000"], "more blocks than a request"),
    "a tail": (["grants", "open", "1", "0", "--tail", "1:2"], "REGION:OFFSET:BYTES"),
    "layers": (["streams", "ready", "1", "some"], "all or tail"),
    "a ticket": (["grants", "pull", "1", "no ticket"], "must be base64"),
    "a file": (["grants", "pull", "1", "@/nowhere"], "/nowhere"),
    "two engines": (["--socket", "x", "status"], "speaks to 1 engine"),
}


@tap.cases_for(WRONG_THERE)
def what_is_wrong_is_told_before_the_engine_is_asked(name):
    arguments, words = WRONG_THERE[name]
    with Fake({}) as fake:
        text = ctl(fake, *arguments, status=USAGE)
        assert words in text and text.count("\n") == 1, text
        assert not fake.asked


# --- what an engine might say


class Fake:
    """A server on a unix socket that answers as it is told: {(method, path): JSON, bytes, or
    (status, either)}."""

    def __init__(self, answers):
        self.path, self.asked = str(control.fresh("s.sock")), []
        self.changed = threading.Condition()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = self.command, self.path.partition("?")[0]
                status, body = 404, {"detail": "there is none"}
                if asked in answers:
                    found = answers[asked]
                    status, body = found if isinstance(found, tuple) else (200, found)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                with fake.changed:
                    fake.asked.append(asked)
                    fake.changed.notify_all()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = do_PATCH = answer

            def address_string(self):
                return "client"

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A client that leaves is no matter."""

        self.server = Server(self.path, Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def until(self, asked):
        with self.changed:
            assert self.changed.wait_for(lambda: asked in self.asked, LIMIT_S), self.asked

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


EVIL = "a\033[2Jb\u009b2Jc\u202ed\ne"


@tap.case
def what_an_engine_says_cannot_play_with_the_terminal():
    peer = {"id": 1, "name": EVIL, "why": EVIL, "state": EVIL, "rails": [{"port": EVIL}]}
    grant = {"id": 1, "state": EVIL, "text": EVIL, "sender": EVIL, "ticket": EVIL, "code": EVIL}
    event = {"sequence": 1, "time_ms": 1, "id": 1, "of": EVIL, "text": EVIL, "code": EVIL}
    events = f"event: {EVIL[:5]}\ndata: {json.dumps(event)}\n\n".encode()
    answers = {("GET", "/v1/status"): {"name": EVIL, "address": EVIL, "stats": {EVIL: 1}},
               ("GET", "/v1/peers"): {"peers": [peer]}, ("GET", "/v1/peers/1"): peer,
               ("GET", "/v1/grants"): {"grants": [grant]}, ("GET", "/v1/grants/1"): grant,
               ("GET", "/v1/pools/1"): {"geometry": {EVIL: EVIL}}, ("GET", "/v1/events"): events,
               ("GET", "/v1/streams"): {"streams": [grant]},
               ("GET", "/v1/pools"): (400, {"detail": EVIL, "code": EVIL})}  # fmt: skip
    with Fake(answers) as fake:
        for arguments in (["status"], ["peers"], ["peers", 1], ["grants"], ["grants", 1],
                          ["grants", 1, "--ticket"], ["pools", 1], ["events"],
                          ["watch", "--count", 1]):  # fmt: skip
            text = ctl(fake, *arguments)
            assert not re.search("[\033\u009b\u202e]", text), repr(text)
            assert "a?[2Jb" in text or arguments == ["events"], repr(text)
        text = ctl(fake, "pools", status=FAILED)
        assert "a?[2Jb?2Jc?d e" in text and text.count("\n") == 1, repr(text)


@tap.case
def an_answer_that_is_none_is_a_failure():
    answers = {("GET", "/v1/status"): b"<html>", ("GET", "/v1/pools"): [],
               ("GET", "/v1/grants"): {"grants": [7, None, {"id": -1}]},
               ("GET", "/v1/peers"): (500, b""), ("GET", "/v1/regions"): {"regions": {"a": 1}},
               ("GET", "/v1/streams"): (401, {"detail": "no"}),
               ("GET", "/v1/options"): b'{"a":' * 5000}  # fmt: skip
    with Fake(answers) as fake:
        assert "is no JSON" in ctl(fake, "status", status=FAILED)
        assert "is no JSON" in ctl(fake, "options", status=FAILED)
        assert "status 500" in ctl(fake, "peers", status=FAILED)
        assert "kvxferctl: no\n" == ctl(fake, "streams", status=UNREACHED)
        for what in ("pools", "grants", "regions"):
            ctl(fake, what)


# --- help, man page, completion


def commands():
    """Each command's options, as --help tells them."""
    found = {}
    for line in run("--help").split("Every command:")[0].splitlines():
        if match := re.match(r"  ([a-z]+(?: [a-z]+)?)(?= [A-Z\[]|  )", line):
            found[match[1]] = []
        elif match := re.match(r"      --([a-z-]+)", line):
            found[list(found)[-1]].append(match[1])
    return found


def global_options():
    return re.findall(r"^  --([a-z-]+)", run("--help"), re.M)


@tap.case
def help_tells_every_command_its_options():
    found = commands()
    assert len(found) > 25 and {"socket", "url", "secret", "json", "help"} <= set(global_options())
    for name, options in found.items():
        text = run(*name.split(), "--help")
        assert re.findall(r"^      --([a-z-]+)", text, re.M) == options, text
    assert run("--version").startswith("kvxferctl ")


@tap.case
def the_man_page_lists_what_help_lists():
    page = (tap.SOURCE / "docs" / "man" / "kvxferctl.1").read_text().replace("\\\n", "")
    heads = re.findall(r"^\.TP\n\.BI?R? (.*)", page.replace("\\-", "-"), re.M)
    listed = {re.match(r'"?([a-z]+(?: [a-z]+)?)\b', head)[1]: head
              for head in heads if re.match(r'"?[a-z]', head)}  # fmt: skip
    found = commands()
    assert set(listed) == set(found), set(listed) ^ set(found)
    for name, options in found.items():
        shown = set(re.findall(r"--([a-z-]+)", listed[name])) - {"secret"}
        assert shown == set(options), (name, shown, options)
    options = {match[1] for head in heads if (match := re.match(r"--([a-z-]+)", head))}
    wanted = set(global_options()) | {one for many in found.values() for one in many}
    assert options == wanted, options ^ wanted


def complete(*words):
    """What bash would offer for the last word. A word that begins with = stands apart there."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kvxferctl; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    file = tap.SOURCE / "tools" / "completion" / "kvxferctl.bash"
    text = tap.command("bash", "-c", script, "bash", file, CTL, *words, env=clean())
    return [line for line in text.splitlines() if line]


@tap.case
def bash_completes_words_sockets_and_ids():
    tap.need("bash")
    with control.hosts("one") as (host,):
        at = ("--socket", host.path)
        assert set(complete("")) == {name.split()[0] for name in commands()}
        assert complete("dr") == ["drain"]
        assert set(complete(*at, "gr")) == {"grants"}
        assert complete(*at, "offers", "") == ["open"]
        grant = str(told(host, "grants", "open", host.pools[0], "0")["id"])
        assert set(complete(*at, "grants", "")) == {"open", "pull", "revoke", "wait", grant}
        assert complete(*at, "grants", "revoke", "") == [grant]
        assert complete("--socket", "=", host.path, "grants", "revoke", "") == [grant]
        assert complete(*at, "pools", "") == [str(host.pools[0])]
        assert complete(*at, "grants", "open", "") == [str(host.pools[0])]
        assert complete(*at, "options", "drain") == ["drain_ms="]
        assert complete(*at, "grants", "open", "--le") == ["--lease="]
        assert set(complete("drain", "--")) == {
            f"--{name}" for name in ("wait", "json", "help", "version")
        } | {f"--{name}=" for name in ("deadline", "socket", "url", "secret")}
        folder = str(pathlib.Path(host.path).parent)
        (pathlib.Path(folder) / "s.txt").write_text("")
        assert complete("--socket", folder + "/s") == [host.path]
        assert complete("--socket", "=", folder + "/s") == [host.path]
        assert complete("move", "--from", folder[:-1]) == [folder + "/"]
        # What others have named is no command.
        with socket.socket(socket.AF_UNIX) as named:
            os.chdir(folder)
            name = "$(touch touched)"
            named.bind(name)
            assert complete("--socket", "$") == [name]
        listed = {"options": [{"name": name, "value": "1", "live": True}]}
        with Fake({("GET", "/v1/options"): listed}) as fake:
            complete("--socket", fake.path, "options", "")
        assert not os.path.exists("touched")
        os.chdir("/")
    # An engine that is gone leaves nothing to complete, and says nothing.
    assert complete(*at, "grants", "revoke", "") == []


tap.main()
