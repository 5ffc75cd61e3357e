#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""examples/orchestrator.py drives four workers: it drains one, kills one, and loses no request."""
import os
import re
import signal
import subprocess
import sys
import tempfile

import tap

BENCH = sys.argv[3]
EXAMPLE = tap.SOURCE / "examples" / "orchestrator.py"
END_S = 100
SHAPE = ["--layers", "8", "--kv-heads", "2", "--head-dim", "64", "--tokens", "64"]


def orchestrate(*arguments, status=0):
    """Its table: how each worker ended, and the counts. Nothing of it may be left."""
    with tempfile.TemporaryDirectory(prefix="kvx-orchestrator-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-B", EXAMPLE, "--bench", BENCH, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": folder}, start_new_session=True,
        )  # fmt: skip
        try:
            out, said = process.communicate(timeout=END_S)
            left = processes_of(process.pid)
        finally:
            for pid in processes_of(process.pid):
                os.kill(pid, signal.SIGKILL)
        files = [str(path) for path in os.listdir(folder)]
    assert process.returncode == status, f"{process.returncode}\n{out}{said}"
    assert not left and not files, f"processes {left} and files {files} are left"
    states = dict(re.findall(r"^(\S+) +(?:prefill|decode) +(\w+) ", out, re.MULTILINE))
    counts = re.findall(r"^(\w+(?: \w+)?) +(\d+)$", out, re.MULTILINE)
    return states, {name: int(count) for name, count in counts}


def processes_of(session):
    """The processes of a session that have not ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(name))
    return found


@tap.cases_for(["shm", "tcp"])
def a_drain_and_a_kill_lose_no_request(transport):
    states, counts = orchestrate("--transports", transport)
    assert states == {
        "prefill-0": "up", "prefill-1": "drained", "decode-0": "up", "decode-1": "lost",
    }, states  # fmt: skip
    assert counts["finished"] == 40 and counts["failed"] == 0, counts
    assert counts["retried"] > 0, "the one that was killed had nothing to lose"
    assert counts["bytes verified"] > 0 and counts["bytes wrong"] == 0, counts


@tap.cases_for(["shm", "tcp"])
def without_them_nothing_is_done_twice(transport):
    form = ["--transports", transport, "--kill", "none", "--drain", "none", "--requests", "20"]
    states, counts = orchestrate(*form, "--compute-us", "0", "--seed", "7")
    assert set(states.values()) == {"up"} and len(states) == 4, states
    assert counts["finished"] == 20, counts
    assert counts["retried"] == counts["failed"] == counts["refused"] == 0, counts
    assert counts["bytes verified"] > 0 and counts["bytes wrong"] == 0, counts


@tap.case
def requests_are_the_same_for_the_same_seed():
    form = ["--kill", "none", "--drain", "none", "--requests", "8", "--compute-us", "0"]
    verified = [orchestrate(*form, "--seed", seed)[1]["bytes verified"] for seed in "445"]
    assert verified[0] == verified[1] != verified[2], verified


@tap.case
def a_request_that_no_worker_has_blocks_for_ends_at_the_deadline():
    form = ["--blocks", "1000", "--requests", "2", "--deadline", "1"]
    _, counts = orchestrate(*form, status=1)
    assert not counts, counts


@tap.case
def workers_that_run_already_are_driven_too():
    with tempfile.TemporaryDirectory(prefix="kvx-orchestrator-") as folder:
        workers, sockets = [], []
        for role in "prefill", "decode":
            path = f"{folder}/{role}.sock"
            command = [BENCH, "serve", "--control", path, "--pool-bytes", "2M", "--name", role]
            command += ["--fill", "5"] if role == "prefill" else []
            worker = subprocess.Popen([*command, *SHAPE], stdout=subprocess.PIPE, text=True)
            workers.append(worker)
            sockets += ["--socket", f"{role}={path}"]
        try:
            for worker in workers:
                assert worker.stdout.readline().startswith("worker ")
            states, counts = orchestrate(*sockets, "--requests", "6", "--blocks", "4")
            assert states == {"prefill": "up", "decode": "up"}, states
            assert counts["finished"] == 6 and counts["bytes wrong"] == 0, counts
            form = ["--requests", "12", "--drain", "prefill"]
            states, counts = orchestrate(*sockets, *form, status=1)
            assert states == {"prefill": "drained", "decode": "up"}, states
            assert 4 <= counts["finished"] < 12 and counts["bytes wrong"] == 0, counts
            assert counts["finished"] + counts["failed"] == 12, counts
        finally:
            for worker in workers:
                worker.terminate()
                worker.communicate(timeout=END_S)
                assert worker.returncode == 0, worker.returncode


tap.main()
