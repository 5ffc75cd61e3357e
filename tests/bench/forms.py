#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The forms of kvxfer-bench that others rely upon: what they take, print and return."""
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

import tap

BENCH = tap.BUILD / "bench" / "kvxfer-bench"
FAKE_VERBS = tap.BUILD / "tests" / "fake_verbs"
SMALL = ["--pool-bytes", "32M"]
BLOCKS = ["blocks", "--block-size", "64K", "--blocks", "128", "--seconds", "1"] + SMALL
STREAM = ["stream", "--model", "qwen3-8b", "--tokens", "256", "--block-tokens", "16"] + SMALL
NO_SUCH_PORTS = {
    "--device fake0,fake1 --rails 3": "rails: there are 2 of 3 ports",
    "--device mlx5_0": "there is no device mlx5_0",
    "--gid-index 200": "there is no GID 200",
}
FIELDS = {
    "workload": str, "transport": str, "model": (str, type(None)), "block_bytes": int,
    "blocks": int, "layers": int, "bytes": int, "seconds": (int, float),
    "gbytes_per_s": (int, float), "requests": int, "verify": str, "errors": int,
    "latency_us": (dict, type(None)), "exposed_us": (dict, type(None)),
    "exposed_ideal_us": (int, float, type(None)), "hidden_fraction": (int, float, type(None)),
    "request_fixed_us": (dict, type(None)), "engine_ns_per_slice": (int, float, type(None)),
    "cpu_seconds": dict, "baseline": (dict, type(None)), "entropy_bits_per_byte": (int, float),
    "version": str,
}  # fmt: skip


def bench(*arguments, status=0, **variables):
    """Runs the bench; what is on stdout and on stderr."""
    done = subprocess.run(
        [str(BENCH), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=110, env={**os.environ, **variables},
    )  # fmt: skip
    shown = " ".join(map(str, arguments))
    assert done.returncode == status, f"{shown}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout, done.stderr


def result(*arguments, status=0, **variables):
    """The JSON object, which is all that stdout holds, with every field of its type."""
    report = json.loads(bench(*arguments, "--json", "-", status=status, **variables)[0])
    tap.expect(f"no {name}" for name in FIELDS if name not in report)
    tap.expect(
        f"{name} is {report[name]!r}"
        for name, kinds in FIELDS.items()
        if not isinstance(report[name], kinds)
    )
    return report


@tap.cases_for(["shm", "tcp", "loop"])
def local_blocks_arrive_verified(transport):
    for table in "identity", "runs:4", "random":
        report = result("local", *BLOCKS, "--transport", transport, "--table", table, "--verify")
        assert report["transport"] == transport and report["workload"] == "blocks"
        assert report["verify"] == "ok" and report["errors"] == 0
        assert report["block_bytes"] == 65536 and report["blocks"] == 128
        assert report["bytes"] == report["requests"] * 128 * 65536 > 0
        assert report["entropy_bits_per_byte"] > 7.9
        assert set(report["latency_us"]) == {"p50", "p90", "p99", "p999", "max"}


@tap.cases_for(["shm", "tcp", "loop"])
def local_stream_arrives_verified(transport):
    form = ["--transport", transport, "--layer-us", "300", "--requests", "8", "--inflight", "4"]
    report = result("local", *STREAM, *form, "--verify")
    assert report["model"] == "qwen3-8b" and report["layers"] == 36
    assert report["requests"] == 8 and report["verify"] == "ok" and report["errors"] == 0
    assert report["bytes"] == 8 * 36 * 256 * 4096
    assert set(report["exposed_us"]) == {"p50", "p99"} == set(report["request_fixed_us"])
    assert report["exposed_ideal_us"] > 0 and 0 <= report["hidden_fraction"] <= 1


@tap.cases_for(["shm", "tcp"])
def local_latency_is_measured(transport):
    form = ["--transport", transport, "--block-size", "64K", "--seconds", "1"] + SMALL
    report = result("local", "latency", *form)
    assert 0 < report["latency_us"]["p50"] <= report["latency_us"]["max"]
    assert report["verify"] == "off" and report["baseline"] is None


@tap.case
def shm_is_measured_beside_memcpy():
    report = result("local", *BLOCKS, "--transport", "shm", "--baseline")
    assert report["baseline"]["name"] == "memcpy" and report["baseline"]["ratio"] > 0


@tap.case
def tcp_is_measured_beside_iperf3():
    tap.need("iperf3")
    report = result("local", *BLOCKS, "--transport", "tcp", "--baseline")
    assert report["baseline"]["name"] == "iperf3" and report["baseline"]["gbytes_per_s"] > 0


def verbs(run, *arguments, **options):
    """Both ends over devices that are made up, which join the queue pairs of one process."""
    if not (FAKE_VERBS / "libibverbs.so.1").exists():
        raise tap.Skip("this build has no devices that are made up")
    form = ["local", *BLOCKS, "--transport", "verbs", "--one-process"]
    return run(*form, *arguments, LD_LIBRARY_PATH=str(FAKE_VERBS), **options)


@tap.case
def verbs_tells_its_rails_queue_pairs_and_gids():
    report = verbs(result, "--layers", "4", "--qps", "3", "--verify")
    assert report["transport"] == "verbs" and report["verify"] == "ok" and not report["errors"]
    assert (report["rails"], report["queue_pairs"]) == (2, 6)
    assert report["completions_per_request"] == 4 * 6
    for name in "ports", "receiver_ports":
        assert [port.split(",")[0] for port in report[name]] == [
            "fake0 port 1: gid 3", "fake1 port 1: gid 3",
        ], report[name]  # fmt: skip


@tap.case
def verbs_uses_the_devices_rails_and_gid_that_are_named():
    options = ["--device", "fake1,fake0", "--rails", "1", "--gid-index", "1", "--qps", "1"]
    report = verbs(result, *options)
    assert (report["rails"], report["queue_pairs"]) == (1, 1)
    assert report["completions_per_request"] == 1
    assert len(report["ports"]) == len(report["receiver_ports"]) == 1
    assert report["ports"][0].startswith("fake1 port 1: gid 1, "), report["ports"]
    assert report["ports"][0].split(";")[0].endswith("option verbs_gid_index"), report["ports"]


@tap.cases_for(list(NO_SUCH_PORTS))
def ports_that_are_not_there_are_an_error_that_names_them(options):
    said = verbs(bench, *options.split(), status=1)[1]
    text = NO_SUCH_PORTS[options]
    assert text in said, said


@tap.case
def without_perftest_the_package_is_named():
    said = verbs(bench, "--baseline", PATH="/nonexistent")[1]
    assert "has no ib_write_bw; install the package perftest" in said, said


@tap.case
def the_engine_alone_is_measured_over_loop():
    report = result("local", *BLOCKS, "--transport", "loop", "--no-copy")
    assert report["engine_ns_per_slice"] > 0


@tap.case
def a_stream_may_be_told_by_a_watched_word():
    form = ["--transport", "shm", "--layer-us", "100", "--requests", "2", "--ready", "word"]
    assert result("local", *STREAM, *form, "--verify")["verify"] == "ok"


@tap.case
def damaged_bytes_are_found():
    report = result("local", *BLOCKS, "--transport", "shm", "--verify", "--corrupt", "3", status=1)
    assert report["verify"] == "failed" and report["wrong_bytes"] == 3


@tap.case
def a_file_is_replayed_and_its_entropy_told():
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"ab" * 50000)
        file.flush()
        form = ["--transport", "shm", "--payload", file.name]
        report = result("local", *BLOCKS, *form)
    assert abs(report["entropy_bits_per_byte"] - 1) < 0.01


@tap.case
def two_ends_that_were_started_apart_meet():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen([BENCH, "serve", "--listen", place], stdout=subprocess.DEVNULL)
    try:
        for workload in BLOCKS, STREAM + ["--requests", "2", "--layer-us", "100"]:
            form = ["--peer", place, "--transport", "tcp", "--verify"]
            assert result("run", *workload, *form)["verify"] == "ok"
    finally:
        server.terminate()
        server.wait(20)


@tap.case
def ten_models_and_more_are_known():
    names = [line.split()[0] for line in bench("--model", "list")[0].splitlines() if line.strip()]
    known = {"qwen3-8b", "qwen3-32b", "llama-3.1-8b", "llama-3.1-70b", "deepseek-v3"}
    assert len(names) >= 10 and known <= set(names), names


@tap.cases_for([
    "local", "local walk", "local blocks --blocks 0", "local blocks --table runs:x",
    "local blocks --block-size 10", "local blocks --frobnicate", "run blocks",
    "local stream --model no-such-model", "local stream --layer-us -1",
    "local blocks --transport tcp --device mlx5_0", "local blocks --qps 17",
    "local blocks --gid-index first", "local blocks --rails 0", "serve --rails 1",
    "serve --one-process", "run blocks --peer 127.0.0.1:1 --one-process",
])  # fmt: skip
def a_command_line_that_is_wrong_is_refused(line):
    out, said = bench(*line.split(), status=2)
    assert not out and said.strip(), "nothing was said"


@tap.case
def an_unreachable_peer_is_an_error_that_names_it():
    said = bench("run", *BLOCKS, "--peer", "127.0.0.1:1", "--transport", "tcp", status=1)[1]
    assert "127.0.0.1:1" in said, said


@tap.case
def an_interrupt_reports_and_leaves_no_process():
    running = subprocess.Popen(
        [BENCH, "local", *BLOCKS, "--seconds", "60", "--transport", "shm", "--json", "-"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    said = itertools.takewhile(lambda line: not re.match(r" *1 ", line), running.stderr)
    head = "".join(said)  # up to the line of the first second
    os.kill(running.pid, signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert out and json.loads(out)["requests"] > 0 and running.returncode == 1, head
    deadline = time.monotonic() + 10
    while processes_of(running.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = processes_of(running.pid)
    assert not left, f"processes {left} are left"


def processes_of(session):
    stats = pathlib.Path("/proc").glob("[0-9]*/stat")
    return [stat.parent.name for stat in stats if session_of(stat) == session]


def session_of(stat):
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[3])
    except (OSError, IndexError):
        return None


tap.main()
