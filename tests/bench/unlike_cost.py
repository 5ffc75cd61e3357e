#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvxfer-unlike-cost on requests so small that its figures say nothing: what it takes, checks and
returns."""
import json
import os
import subprocess

import tap

UNLIKE_COST = tap.BUILD / "bench" / "kvxfer-unlike-cost"
FAKE_VERBS = tap.BUILD / "tests" / "fake_verbs"
LAYERS, TOKENS = 3, 256
SMALL = [
    "--layers", str(LAYERS), "--tokens", str(TOKENS), "--opens", "20", "--pairs", "2",
    "--pool-bytes", "4M",
]  # fmt: skip
HEAD = 256 * TOKENS * LAYERS * 2  # bytes of a request's head, with K and V
WRONG = [
    "", "tp", "walk loop", "tp loop shm", "tp loop --pairs 0", "tp loop --layers 512",
    "tp loop --tokens 100", "tp loop --pool-bytes 1X", "tp loop --option staging",
    "tp loop --frobnicate",
]  # fmt: skip


def unlike_cost(*arguments, status=0, **variables):
    """What is on stdout and on stderr."""
    done = subprocess.run(
        [str(UNLIKE_COST), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=110, env={**os.environ, **variables},
    )  # fmt: skip
    shown = " ".join(arguments)
    assert done.returncode == status, f"{shown}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout, done.stderr


def rows_of(command, transport):
    """The rows of the report, which is all that stdout holds."""
    variables = {}
    if transport == "verbs":
        if not (FAKE_VERBS / "libibverbs.so.1").exists():
            raise tap.Skip("this build has no devices that are made up")
        variables["LD_LIBRARY_PATH"] = str(FAKE_VERBS)
    out, _ = unlike_cost(command, transport, *SMALL, "--json", "-", **variables)
    report = json.loads(out)
    assert (report["command"], report["transport"]) == (command, transport), report
    assert len(report["load"]) == 2 and report["version"]
    return report["rows"]


def is_spread(value):
    return 0 < value["min"] <= value["median"] <= value["max"]


@tap.cases_for(["loop", "shm", "tcp", "verbs"])
def opening_is_measured_for_each_table(transport):
    rows = rows_of("open", transport)
    assert [row["table"] for row in rows] == ["contiguous", "runs of 16", "alone"] * 2, rows
    assert len({row["pools"] for row in rows}) == 2, rows
    for row in rows:
        assert row["verified_bytes"] == HEAD and row["opens"] == 20, row
        for name in "grant_open_us", "stream_open_us", "accepted_us", "ticket_floor_us":
            assert is_spread(row[name]), row
    for table in 0, 3:
        ticket_bytes = [row["ticket_bytes"] for row in rows[table : table + 3]]
        assert 0 < ticket_bytes[0] <= ticket_bytes[2], ticket_bytes


@tap.cases_for(["loop", "shm", "tcp", "verbs"])
def other_tp_is_measured_beside_the_matching_one(transport):
    rows = rows_of("tp", transport)
    assert [row["name"] for row in rows] == [
        "two of TP4 to one of TP2", "one of TP2 to one of TP4",
    ], rows  # fmt: skip
    for row, heads in zip(rows, (4, 2)):
        assert row["verified_bytes"] == row["requests"] * heads * HEAD >= 4 << 20, row
        assert row["pairs"] == 2 and row["slices"] and row["beside_slices"], row
        assert is_spread(row["gbytes_per_s"]) and is_spread(row["beside_gbytes_per_s"]), row
        assert is_spread(row["ratio"]) and "transport: " + transport in row["explain"], row
        assert "bare_ratio" not in row, row


@tap.cases_for(["loop", "shm", "tcp", "verbs"])
def the_worst_case_is_measured_beside_a_slice_for_each_piece(transport):
    rows = rows_of("worst", transport)
    names = [row["name"] for row in rows]
    assert names == ["as the engine decides", "staging off", "staging on"], names
    pieces = LAYERS * 2 * TOKENS * 2
    for row in rows:
        assert row["verified_bytes"] == row["requests"] * HEAD >= 4 << 20, row
        assert row["beside_slices"] == pieces, row
        assert is_spread(row["ratio"]), row
        assert is_spread(row["bare_gbytes_per_s"]) and is_spread(row["bare_ratio"]), row
        rate, bare = row["gbytes_per_s"], row["bare_gbytes_per_s"]
        least, most = rate["min"] / bare["max"], rate["max"] / bare["min"]
        assert least * 0.99 <= row["bare_ratio"]["median"] <= most * 1.01, row
    assert rows[1]["slices"] == pieces > rows[2]["slices"], rows


@tap.cases_for(["loop", "shm", "tcp", "verbs"])
def layers_side_by_side_are_measured_beside_layers_apart(transport):
    row, = rows_of("layers", transport)
    assert (row["name"], row["beside"]) == ("all layers in a block", "one layer in a block"), row
    assert row["verified_bytes"] == row["requests"] * HEAD >= 4 << 20, row
    # Neighbours are rare in random tables.
    alone = LAYERS * TOKENS // 16
    assert 0.8 * alone < row["beside_slices"] <= alone, row
    assert (row["slices"] < 0.7 * alone) == (transport == "verbs"), row
    assert is_spread(row["ratio"]), row


@tap.cases_for(["open", "tp", "layers", "worst"])
def damaged_bytes_are_found(command):
    out, said = unlike_cost(command, "loop", *SMALL, "--corrupt", status=1)
    assert "1 of " in said and "bytes are wrong" in said, said
    assert "ratio" not in out, out


@tap.cases_for(WRONG)
def a_command_line_that_is_wrong_is_refused(line):
    out, said = unlike_cost(*line.split(), status=2)
    assert not out and said.strip(), "nothing was said"


@tap.case
def an_option_that_no_engine_has_is_an_error_that_names_it():
    said = unlike_cost("tp", "loop", "--option", "frobnicate=1", status=1)[1]
    assert "frobnicate" in said, said


@tap.case
def the_table_is_printed_where_no_json_is():
    out, _ = unlike_cost("tp", "loop", *SMALL)
    assert out.count("; ratio ") == 2 and "load of the machine: " in out, out


tap.main()
