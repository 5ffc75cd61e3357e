#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvxfer-doctor on this machine: what it prints, its exit status, and two of them on loopback."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import tap

DOCTOR = pathlib.Path(sys.argv[3])
FAKE_VERBS = sys.argv[4]
SEVERITIES = ("ok", "note", "warning", "error")
STATUS = {"ok": 0, "note": 0, "warning": 1, "error": 2}
FAILED = 3
LIMIT_S = 60


def run(*arguments, prefix=(), **environment):
    return subprocess.run(
        [*map(str, prefix), str(DOCTOR), *map(str, arguments)], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=LIMIT_S, env=dict(os.environ, **environment),
    )  # fmt: skip


def report(*arguments, prefix=(), **environment):
    """Its JSON, whose severity and exit status say the same."""
    done = run("--json", "-", *arguments, prefix=prefix, **environment)
    assert done.stdout, f"exit status {done.returncode}\n{done.stderr}"
    found = json.loads(done.stdout)
    assert done.returncode == STATUS[found["severity"]], (done.returncode, found["severity"])
    return found


def of(found, area):
    return [finding for finding in found["findings"] if finding["area"] == area]


def expect_one(found, area, severity, text):
    same = [f for f in of(found, area) if f["severity"] == severity and text in f["found"]]
    assert same, f"no {severity} of {area} with \"{text}\": {of(found, area)}"
    return same[0]


@contextlib.contextmanager
def listening(*arguments, at="127.0.0.1:0", prefix=()):
    """Its address."""
    process = subprocess.Popen(
        [*prefix, str(DOCTOR), "--listen", at, *arguments], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield process.stdout.readline().split()[-1]
        assert process.poll() is None, f"it has ended: {process.returncode}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def connect(address):
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=LIMIT_S)
    return connection


# --- this node


@tap.case
def every_finding_says_what_to_do():
    found = report()
    assert found["findings"] and found["peer"] is None
    for finding in found["findings"]:
        assert sorted(finding) == ["action", "area", "found", "severity"], finding
        assert finding["severity"] in SEVERITIES, finding
        assert bool(finding["action"]) == (finding["severity"] != "ok"), finding
    worst = max(SEVERITIES.index(finding["severity"]) for finding in found["findings"])
    assert found["severity"] == SEVERITIES[worst]


@tap.case
def the_text_has_a_line_for_each_finding():
    done = run()
    *lines, summary = done.stdout.splitlines()
    for line in lines:
        assert re.match(r"(ok|note|warning|error) +\S", line), line
        assert (" -> " in line) != line.startswith("ok"), line
    counts = [int(number) for number in re.findall(r"\d+", summary)]
    assert sum(counts) == len(lines), summary


@tap.case
def devices_are_found_through_libibverbs():
    environment = {
        "LD_LIBRARY_PATH": ":".join([FAKE_VERBS, os.environ.get("LD_LIBRARY_PATH", "")]),
        "FAKE_VERBS_DEVICES": "fake0:ROCE:100:1:4",
        "FAKE_VERBS_OPTIONS": "locked_max=9000000",
    }
    found = report(**environment)
    expect_one(found, "rdma", "ok", "fake0 port 1: active")
    expect_one(found, "gid", "ok", "RoCE v2")
    finding = expect_one(found, "locked memory", "error", "8 MiB could be locked")
    assert "LimitMEMLOCK" in finding["action"], finding


@tap.case
def a_locked_memory_limit_is_found_by_trying():
    if any(name in DOCTOR.read_bytes() for name in (b"__asan_init", b"__tsan_init")):
        raise tap.Skip("under a sanitizer mlock() does nothing")
    tap.need("prlimit")
    tap.need("setpriv")
    prefix = ["prlimit", "--memlock=1048576"]
    if os.geteuid() == 0:
        prefix += ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    found = report(prefix=prefix, FAKE_VERBS_DEVICES="")
    (finding,) = of(found, "locked memory")
    assert "1 MiB could be locked, and 2 MiB not" in finding["found"], finding
    assert "ulimit -l" in finding["action"], finding


@tap.case
def a_port_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        expect_one(report("--option", f"listen={listen}"), "ports", "error", listen)
        expect_one(report(KVX_LISTEN=listen), "ports", "error", listen)


@tap.case
def a_secret_that_others_can_read_is_an_error():
    with tempfile.TemporaryDirectory(prefix="kvxfer-doctor-") as folder:
        secret = pathlib.Path(folder) / "secret"
        secret.write_bytes(os.urandom(32))
        secret.chmod(0o644)
        finding = expect_one(report("--secret", secret), "secret", "error", "0644")
        assert "chmod 600" in finding["action"]
        secret.chmod(0o600)
        expect_one(report("--secret", secret), "secret", "ok", str(secret))
        fifo = pathlib.Path(folder) / "fifo"
        os.mkfifo(fifo)
        expect_one(report("--secret", fifo), "secret", "error", "no regular file")
        odd = os.fsencode(folder) + b"/\xff"
        assert of(report("--secret", os.fsdecode(odd)), "secret")[0]["severity"] == "error"


@tap.case
def json_goes_to_a_file():
    with tempfile.TemporaryDirectory(prefix="kvxfer-doctor-") as folder:
        path = pathlib.Path(folder) / "report.json"
        done = run("--json", path)
        assert not done.stdout
        assert STATUS[json.loads(path.read_text())["severity"]] == done.returncode
    assert run("--json", "/nowhere/report.json").returncode == FAILED
    assert run("--json", "/dev/full").returncode == FAILED


WRONG = (
    "word", "--no-such-option", "--option listen", "--option =x", "--option no_such=1",
    "--option heartbeat_ms=1", "--listen 127.0.0.1:0 --peer 127.0.0.1:1",
    "--unauthenticated-network", "--listen 0.0.0.0:0", "--listen nonsense",
    "--listen 127.0.0.1:99999",
)  # fmt: skip


@tap.cases_for(WRONG)
def wrong_arguments_are_told(arguments):
    done = run(*arguments.split())
    assert done.returncode == FAILED, done
    assert "kvxfer-doctor: " in done.stderr and not done.stdout, done


@tap.case
def help_states_the_exit_status():
    done = run("--help")
    assert done.returncode == 0 and "Exit status: 0" in done.stdout


# --- two nodes


@tap.case
def a_peer_is_reached_and_measured():
    with listening() as address:
        found = report("--peer", address)
    expect_one(found, "peer", "ok", "reached")
    expect_one(found, "peer", "ok", "path MTU: packets of 65535 bytes pass")
    expect_one(found, "peer", "ok", "tcp: ")
    rail = found["peer"]["rails"][0]
    assert rail["rail"] == "tcp" and rail["gbytes_per_s"] > 0.001, rail
    assert found["peer"]["path_mtu"] == 65535 and found["peer"]["address"] == address


@tap.case
def a_peer_is_reached_over_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        raise tap.Skip(f"no IPv6 here: {error}") from error
    with listening(at="[::1]:0") as address:
        found = report("--peer", address)
    expect_one(found, "peer", "ok", "path MTU: packets of 65535 bytes pass")
    expect_one(found, "peer", "ok", "tcp: ")


class Host:
    """A network namespace; unshare becomes cat, which ends with the pipe."""

    def __init__(self, stack):
        holder = subprocess.Popen(
            ("unshare", "--net", "cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(holder.communicate)
        with contextlib.suppress(BrokenPipeError):
            holder.stdin.write(b"up\n")
            holder.stdin.flush()
        if holder.stdout.readline() != b"up\n":
            raise tap.Skip("network namespaces are not permitted here")
        self.pid = holder.pid
        self.prefix = ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def run(self, *command):
        return tap.command(*self.prefix, *command)


@tap.case
def a_path_that_takes_less_than_this_node_believes_is_a_warning():
    """A cable whose far end drops what is larger than its own MTU, and tells nobody."""
    for program in ("ip", "unshare", "nsenter"):
        tap.need(program)
    with contextlib.ExitStack() as stack:
        hosts = near, far = Host(stack), Host(stack)
        try:
            near.run("ip", "link", "add", "name", "cable", "type", "veth",
                     "peer", "name", "cable", "netns", far.pid)
        except AssertionError as error:
            raise tap.Skip(f"no veth here: {error}") from error
        for number, host in enumerate(hosts, 1):
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "address", "add", f"192.0.2.{number}/24", "dev", "cable")
            host.run("ip", "link", "set", "cable", "up")
        far.run("ip", "link", "set", "cable", "mtu", 1400)
        listener = stack.enter_context(listening(
            "--unauthenticated-network", at="192.0.2.2:7412", prefix=far.prefix
        ))
        found = report("--peer", listener, prefix=near.prefix)
    warning = expect_one(found, "peer", "warning", "packets of 1400 bytes pass, and 1500 do not")
    assert "MTU" in warning["action"], warning
    expect_one(found, "peer", "ok", "tcp: ")


@tap.case
def a_listener_answers_one_after_another():
    with listening() as address:
        for _ in range(3):
            expect_one(report("--peer", address), "peer", "ok", "tcp: ")


@tap.case
def nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    finding = expect_one(report("--peer", address), "peer", "error", "cannot connect")
    assert "--listen" in finding["action"], finding
    expect_one(report("--peer", "nonsense"), "peer", "error", "is not HOST:PORT")


@tap.case
def a_listener_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        found = report("--peer", f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - begin < 15
    expect_one(found, "peer", "error", "does not answer")


def answering(line):
    """A listener that says that line, whatever it is asked, and its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer():
        with server, server.accept()[0] as connection, contextlib.suppress(OSError):
            while connection.recv(65536):
                connection.sendall(line)

    threading.Thread(target=answer, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


HELLO = {"kvxfer_doctor": 1, "version": "0.1.0", "udp_port": 9, "token": "0" * 16}
STRANGE = {
    "no JSON": b"\0\xff\n",
    "no object": b"[1, 2]\n",
    "something else": b'{"kvxfer_doctor": 7}\n',
    "a line without an end": b"x" * 300000,
    "keys twice": b'{"a": 1, "a": 2}\n',
    "deep": b"[" * 60000 + b"\n",
}


@tap.cases_for(STRANGE)
def an_answer_is_not_one(what):
    found = report("--peer", answering(STRANGE[what]))
    assert any(f["severity"] == "error" for f in of(found, "peer")), of(found, "peer")


@tap.case
def an_answer_that_begins_well_goes_on_badly():
    odd = dict(HELLO, ticket="zz", version="\x1b[31m" + "v" * 5000)
    found = report("--peer", answering(json.dumps(odd).encode() + b"\n"))
    assert "\x1b" not in json.dumps(found) and "?[31m" in json.dumps(found)
    expect_one(found, "peer", "warning", "path MTU: no packet")
    expect_one(found, "peer", "error", "tcp: does not reach the peer")


GARBAGE = {
    "no JSON": b"GET / HTTP/1.1\r\n\r\n",
    "bytes": bytes(range(256)) * 64,
    "a long line": b"{" + b" " * 100000,
    "an unknown request": b'{"ask": "reboot"}\n',
    "numbers for words": b'{"ask": 7, "transport": []}\n',
    "a transport that is none": b'{"ask": "open", "transport": "../../etc"}\n',
    "a grant before an engine": b'{"ask": "grant", "blocks": 1}\n',
    "nothing at all": b"",
}


@tap.case
def garbage_does_not_disturb_a_listener():
    with listening() as address:
        for content in GARBAGE.values():
            with connect(address) as stranger, contextlib.suppress(OSError):
                stranger.sendall(content)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(65536):
                    pass
        expect_one(report("--peer", address), "peer", "ok", "tcp: ")


def ask(connection, **request):
    connection.sendall(json.dumps(request).encode() + b"\n")
    return json.loads(connection.makefile("r").readline())


@tap.case
def a_listener_refuses_what_it_cannot_do():
    with listening() as address, connect(address) as asking:
        assert ask(asking, ask="hello")["kvxfer_doctor"] == 1
        assert "tcp or verbs" in ask(asking, ask="open", transport="shm")["error"]
        assert "address" in ask(asking, ask="open", transport="tcp")
        for blocks in (0, -1, 65, 1 << 40, "many", None):
            assert "blocks" in ask(asking, ask="grant", blocks=blocks)["error"]
        assert ask(asking, ask="grant", blocks=64)["ticket"]


@tap.case
def a_silent_stranger_does_not_hold_a_listener_for_long():
    with listening() as address, connect(address) as stranger:
        begin = time.monotonic()
        assert stranger.recv(1) == b""  # it is shown the door
        assert time.monotonic() - begin < 15
        expect_one(report("--peer", address), "peer", "ok", "tcp: ")


@tap.case
def probes_of_strangers_are_not_answered():
    with listening() as address, connect(address) as asking:
        hello = ask(asking, ask="hello")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.5)
            probe.connect((address.split(":")[0], hello["udp_port"]))
            probe.send(b"f" * 500)
            try:
                raise AssertionError(f"answered: {probe.recv(100)}")
            except TimeoutError:
                pass
            probe.send(hello["token"].encode() + b"\0" * 484)
            assert probe.recv(100) == hello["token"].encode() + b" 500"


assert shutil.which(str(DOCTOR)), DOCTOR
tap.main()
