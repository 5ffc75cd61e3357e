#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvxfer-plan: what it says of requests between pools that differ, and what it refuses."""
import json
import math
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import tap

PLAN = pathlib.Path(sys.argv[3])
LLAMA = "model=llama-3.1-70b"
MLA = "model=deepseek-v3"
LAYERS, HEADS, HEAD, TOKENS = 80, 8, 256, 16
REFUSED = 2


def plan(*arguments, status=0):
    """Runs the program; what is on stdout, or on stderr if the arguments are to be wrong."""
    done = subprocess.run(
        [str(PLAN), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    shown = " ".join(map(str, arguments))
    assert done.returncode == status, f"{shown}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stderr if status == 1 else done.stdout


def found(receiver, sender, *arguments, status=0):
    return json.loads(plan("--receiver", receiver, "--sender", sender, "--json", "-", *arguments,
                           status=status))  # fmt: skip


def expect_sound(told):
    """Figures that say the same in two ways agree."""
    for sender in told["senders"]:
        layer, request, layers = sender["layer"], sender["request"], sender["layers"]
        weights = told["request"]["rail_weights"]
        for ends in ("slices", "at_sender", "at_receiver"):
            pieces = layer[ends]
            assert sum(part["count"] for part in pieces["classes"]) == pieces["count"], pieces
            low = sum(part["count"] * part["from_bytes"] for part in pieces["classes"])
            high = sum(part["count"] * part["to_bytes"] for part in pieces["classes"])
            assert low <= layer["bytes"] <= high, pieces
            assert pieces["min_bytes"] <= pieces["median_bytes"] <= pieces["max_bytes"], pieces
        for what in ("bytes", "units"):
            assert request[what] == layers * layer[what]
        assert request["slices"] == layers * layer["posted"]
        if sender["joined_layers"] == 1:
            assert request["slices_together"] == request["slices"]
        else:
            assert sender["how"] == "direct" and weights
            assert layers * layer["units"] < request["slices_together"]
        if sender["how"] == "direct":
            place = "slices" if told["request"]["rail_weights"] else "at_sender"
            assert layer["posted"] == layer[place]["count"]
        else:
            assert layer["units"] <= layer["posted"] < layer["slices"]["count"]
        assert len(layer["rail_bytes"]) == len(weights)
        assert sum(layer["rail_bytes"]) == (layer["bytes"] if weights else 0)
        faster = "staged" if sender["staged_ns"] < sender["direct_ns"] else "direct"
        assert sender["how"] == faster and sender["explain"]
    for what in ("bytes", "slices", "units"):
        total = sum(sender["request"][what] for sender in told["senders"])
        assert told["total"][what] == total, what
    return told


# Receiver, sender, more arguments; then what is expected: bytes of the request, ranks that hold
# part of it, slices of each sender's layer, bytes of the first slice, why it ends at both ends.
ALL = LAYERS * 2 * 8192 * HEAD  # bytes of one head
CASES = {
    "TP4 to TP8": (
        f"{LLAMA},tp=8", f"{LLAMA},tp=4", [],
        ALL, 1, 2 * 512, TOKENS * HEAD, "heads", "table",
    ),
    "TP4 to TP8, the last rank": (
        f"{LLAMA},tp=8,rank=7", f"{LLAMA},tp=4", [],
        ALL, 1, 2 * 512, TOKENS * HEAD, "heads", "table",
    ),
    "TP4 to TP2": (
        f"{LLAMA},tp=2", f"{LLAMA},tp=4", [],
        4 * ALL, 2, 2 * 512, 2 * TOKENS * HEAD, "table", "heads",
    ),
    "PP4 to PP2": (
        f"{LLAMA},pp=2", f"{LLAMA},pp=4", [],
        HEADS * ALL // 2, 2, 2 * 512, HEADS * TOKENS * HEAD, "table", "table",
    ),
    "heads held twice": (
        f"{LLAMA},tp=8", f"{LLAMA},tp=16", [],
        ALL, 2, 512, TOKENS * HEAD, "table", "table",
    ),
    "MLA, TP8 to TP1": (
        MLA, f"{MLA},tp=8", [],
        61 * 8192 * 1152, 8, 512 // 8, TOKENS * 1152, "table", "table",
    ),
    "blocks of 16 to 64": (
        f"{LLAMA},tokens=64", LLAMA, [],
        HEADS * ALL, 1, 2 * 512 * HEADS, TOKENS * HEAD, "table", "tokens",
    ),
    "blocks of 64 to 16": (
        LLAMA, f"{LLAMA},tokens=64", [],
        HEADS * ALL, 1, 2 * 512 * HEADS, TOKENS * HEAD, "tokens", "table",
    ),
    "HND to NHD": (
        f"{LLAMA},layout=NHD", f"{LLAMA},layout=HND", ["--tokens", 160],
        HEADS * ALL * 160 // 8192, 1, 2 * 160 * HEADS, HEAD, "layout", "table",
    ),
    "NHD to HND": (
        f"{LLAMA},layout=HND", f"{LLAMA},layout=NHD", ["--tokens", 160],
        HEADS * ALL * 160 // 8192, 1, 2 * 160 * HEADS, HEAD, "layout", "table",
    ),
    "NHD, TP4 to TP8": (
        f"{LLAMA},tp=8,layout=NHD", f"{LLAMA},tp=4,layout=NHD", ["--tokens", 160],
        ALL * 160 // 8192, 1, 2 * 160, HEAD, "heads", "table",
    ),
    "gaps": (
        f"{LLAMA},block_stride=40000", f"{LLAMA},block_stride=65536", ["--table", "identity"],
        HEADS * ALL, 1, 2 * 512, HEADS * TOKENS * HEAD, "gaps", "gaps",
    ),
    "blocks that move whole": (
        "layers=4,planes=1,layout=whole,block=4096", "layers=4,planes=1,layout=whole,block=4096",
        [], 4 * 512 * 4096, 1, 512, 4096, "table", "table",
    ),
    "runs of 4": (
        f"{LLAMA},tp=8", f"{LLAMA},tp=8", ["--table", "runs:4"],
        ALL, 1, 2 * 128, 4 * TOKENS * HEAD, "table", "table",
    ),
    "a prefix that is held, and a last block in part": (
        f"{LLAMA},tp=8", f"{LLAMA},tp=8", ["--held", 2, "--tokens", 100],
        ALL * (100 - 32) // 8192, 1, 2 * 5, TOKENS * HEAD, "table", "table",
    ),
}  # fmt: skip


@tap.cases_for(CASES)
def a_request_is_planned(name):
    receiver, sender, arguments, size, ranks, slices, piece, at_sender, at_receiver = CASES[name]
    told = expect_sound(found(receiver, sender, *arguments))
    assert told["total"]["bytes"] == size, told["total"]
    assert len(told["senders"]) == ranks
    for part in told["senders"]:
        held = part["planes"][0]
        assert part["layer"]["slices"]["count"] == slices, part["layer"]["slices"]
        assert part["layer"]["slices"]["max_bytes"] == piece, part["layer"]["slices"]
        assert held["sender"]["ends_by"] == at_sender, held
        assert held["receiver"]["ends_by"] == at_receiver, held


@tap.cases_for(CASES)
def the_text_tells_the_same(name):
    receiver, sender, arguments, size, *_ = CASES[name]
    text = plan("--receiver", receiver, "--sender", sender, *arguments)
    told = found(receiver, sender, *arguments)
    assert f"total     {size} bytes" in text, text
    for part in told["senders"]:
        for sentence in part["explain"]:
            assert sentence in text, sentence


@tap.case
def senders_that_hold_the_same_share_its_tokens():
    told = expect_sound(found(MLA, f"{MLA},tp=8", "--held", "3", "--tokens", "5000"))
    ranges = [
        (part["planes"][0]["token_first"], part["planes"][0]["token_end"])
        for part in told["senders"]
    ]
    assert ranges[0][0] == 3 * TOKENS and ranges[-1][1] == 5000
    assert all(before[1] == after[0] for before, after in zip(ranges, ranges[1:])), ranges


@tap.case
def tiny_pieces_are_gathered():
    assert found(LLAMA, LLAMA)["senders"][0]["how"] == "direct"
    assert found(LLAMA, f"{LLAMA},layout=NHD")["senders"][0]["how"] == "staged"
    # Where the sender writes into the receiver's memory, that has to be contiguous too.
    assert found(f"{LLAMA},layout=NHD", LLAMA, "--rails", 1)["senders"][0]["how"] == "staged"
    assert found(f"{LLAMA},token_stride=512", LLAMA, "--rails", 1)["senders"][0]["how"] == "direct"
    # Blocks of one token are tiny, unless they are neighbours.
    tiny = f"{LLAMA},tp=8,tokens=1"
    for rails in (["--rails", 1], []):
        for table, how in (("random", "staged"), ("identity", "direct")):
            told = found(tiny, f"{tiny},rank=0", "--table", table, *rails)["senders"][0]
            assert (told["layer"]["slices"]["max_bytes"] > 256) == (how == "direct"), told
            # With rails what was gathered is as tiny at the receiver.
            assert told["how"] == ("direct" if rails else how), told


@tap.case
def planes_side_by_side_at_both_ends_are_joined():
    beside = f"{LLAMA},plane_stride=32768"
    told = expect_sound(found(beside, beside, "--table", "runs:8"))["senders"][0]
    apart = expect_sound(found(beside, LLAMA, "--table", "runs:8"))["senders"][0]
    assert (told["joined_planes"], apart["joined_planes"]) == (2, 0)
    assert told["geometry"]["plane_stride"] == 32768 and apart["geometry"]["plane_stride"] == 0
    # 512 blocks: by eights with K and V in one piece, or K and V of each alone.
    assert told["layer"]["slices"]["count"] == 64 and apart["layer"]["slices"]["count"] == 1024
    assert [plane["chunk_bytes"] for plane in told["planes"]] == [65536, 65536]
    assert told["explain"][0].startswith("planes 0 to 1, side by side at both ends: ")


@tap.case
def layers_side_by_side_at_both_ends_leave_together():
    """K and V of one head are 8 KiB of a block: 8 layers make 64."""
    rank = f"{LLAMA},tp=8,plane_stride=4096"
    beside = f"{rank},layer_stride=8192"

    def told(receiver, sender, *arguments):
        told = expect_sound(found(receiver, sender, "--table", "random", *arguments))["senders"][0]
        return told["joined_layers"], told["request"]["slices"], told["request"]["slices_together"]

    alone = 512 * LAYERS
    # 511 blocks of 8 layers at a time, and the last one of each layer; two rails have two such.
    assert told(beside, beside, "--rails", 1) == (8, alone, 511 * 10 + LAYERS)
    assert told(beside, beside, "--rails", 2) == (8, alone, 510 * 10 + 2 * LAYERS)
    # Not at both ends; where the receiver places the bytes; with gaps.
    for ends in ((beside, rank), (rank, beside), (rank, rank)):
        assert told(*ends, "--rails", 1) == (1, alone, alone)
    assert told(beside, beside) == (1, alone, alone)
    gaps = f"{rank},layer_stride=8196"
    assert told(gaps, gaps, "--rails", 1) == (1, alone, alone)
    # 12 layers: 8, then 4.
    some = f"{beside},layers=12"
    assert told(some, some, "--rails", 1) == (8, 512 * 12, 511 * 2 + 12)
    # All layers of neighbours are one piece, up to what a batch holds.
    some = f"{beside},layers=8"
    held = found(some, some, "--rails", 1, "--table", "identity")["senders"][0]
    assert held["request"]["slices_together"] == 511 * 8 * 8192 // (1 << 20) + 1 + 8
    assert [end["ends_by"] for end in (held["planes"][0]["sender"], held["planes"][0]["receiver"])
            ] == ["layers", "layers"]
    assert held["geometry"]["layer_stride"] == 8192
    assert any(line.startswith("layers: 8 at a time ") for line in held["explain"])


@tap.case
def rails_carry_bytes_by_their_weights():
    for rails, weights in (("4", [1, 1, 1, 1]), ("3,1", [3, 1]), ("1", [1])):
        told = expect_sound(found(LLAMA, LLAMA, "--rails", rails))
        assert told["request"]["rail_weights"] == weights
        layer = told["senders"][0]["layer"]
        assert layer["units"] == len(weights)
        for weight, carried in zip(weights, layer["rail_bytes"]):
            share = layer["bytes"] * weight / sum(weights)
            assert math.isclose(carried, share, rel_tol=0.01), (carried, share)


@tap.case
def units_follow_their_size_and_the_prefill():
    def units(*arguments):
        return found(f"{LLAMA},tp=8", f"{LLAMA},tp=8", *arguments)["senders"][0]["layer"]["units"]

    assert units() == 4  # 4 MiB of 1 MiB
    assert units("--unit-bytes", 1 << 19) == 8
    assert units("--chunk-tokens", 8192 // 6 + 1) == 6
    assert units("--rails", 2, "--chunk-tokens", 2048) == 8


@tap.case
def a_pool_may_be_given_as_json():
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "pool.json"
        file.write_text('{"tp": 4, "model": "llama-3.1-70b", "extra": ["4096", "0/64"]}')
        text = f"{LLAMA},tp=4,extra=4096,extra=0/64"
        assert found(f"@{file}", f"@{file}") == found(text, text)
        for wrong, why in (
            ("[1]", "holds no JSON object"), ("{", "line 1"), ('{"tp": 1.5}', "tp: must be"),
        ):  # fmt: skip
            file.write_text(wrong)
            assert why in plan("--receiver", f"@{file}", status=1)


@tap.case
def json_goes_into_a_file():
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "plan.json"
        arguments = ("--receiver", LLAMA, "--sender", LLAMA, "--json")
        assert plan(*arguments, file) == ""
        assert json.loads(file.read_text()) == found(LLAMA, LLAMA)
        text = plan(*arguments, pathlib.Path(folder) / "none" / "plan.json", status=1)
        assert text.startswith("kvxfer-plan: ") and text.count("\n") == 1, text
    if pathlib.Path("/dev/full").exists():
        assert "cannot be written" in plan(*arguments, "/dev/full", status=1)


REFUSALS = {
    "another dtype": (f"{LLAMA},dtype=fp8", LLAMA, [], "KVX_E_GEOMETRY", "(dtype)"),
    "another model": (f"{LLAMA},id=1", LLAMA, [], "KVX_E_GEOMETRY", "(model)"),
    "another head": ("model=gpt-oss-120b", "model=qwen3-8b", [], "KVX_E_GEOMETRY", "heads of the"),
    "blocks of 16 and 24": (f"{LLAMA},tokens=24", LLAMA, [], "KVX_E_GEOMETRY", "a multiple"),
    "no layer in common": (
        f"{LLAMA},layers=0-9", f"{LLAMA},layers=10-19", [], "KVX_E_GEOMETRY", "no layer in common",
    ),
    "a rank that is missing": (
        f"{LLAMA},tp=2", f"{LLAMA},tp=4,rank=1", [], "KVX_E_GEOMETRY", "holds head 0 of layer 0",
    ),
    "a layer that is missing": (
        f"{LLAMA},layers=0-30", f"{LLAMA},layers=0-29", [], "KVX_E_GEOMETRY", "of layer 30",
    ),
    "parts that overlap": (
        LLAMA, f"{LLAMA},heads=0-4/8", ["--sender", f"{LLAMA},heads=4-7/8"],
        "KVX_E_GEOMETRY", "overlap",
    ),
    "too few blocks": (f"{LLAMA},blocks=9", LLAMA, [], "KVX_E_INVALID", "has blocks 0 to 8"),
    "all held": (LLAMA, LLAMA, ["--held", 512], "KVX_E_INVALID", "512 of its 512 blocks are held"),
    "strides that overlap": (
        LLAMA, f"{LLAMA},head_stride=4", [], "KVX_E_INVALID", "head_stride 4",
    ),
    "layers that overlap": (
        LLAMA, f"{LLAMA},plane_stride=32768,layer_stride=65532", [],
        "KVX_E_INVALID", "layer_stride 65532: must be 0",
    ),
    "layers of planes that lie apart": (
        f"{LLAMA},layer_stride=65536", LLAMA, [], "KVX_E_INVALID", "have a plane_stride",
    ),
    "layers of no whole words": (
        LLAMA, f"{LLAMA},plane_stride=32768,layer_stride=65538", [],
        "KVX_E_INVALID", "a multiple of 4",
    ),
    "blocks that overlap": (
        f"{LLAMA},plane_stride=32768,layer_stride=65536,block_stride=65536", LLAMA, [],
        "KVX_E_INVALID", "blocks of 5242880 bytes, 65536 apart",
    ),
}  # fmt: skip


@tap.cases_for(REFUSALS)
def what_the_library_refuses_is_told_in_its_words(name):
    receiver, sender, arguments, code, words = REFUSALS[name]
    told = found(receiver, sender, *arguments, status=REFUSED)
    assert told["refused"]["code"] == code, told["refused"]
    assert words in told["refused"]["text"], told["refused"]
    assert "senders" not in told
    text = plan("--receiver", receiver, "--sender", sender, *arguments, status=REFUSED)
    assert f"refused   {code}: {told['refused']['text']}" in text, text


WRONG = {
    "no receiver": (["--sender", LLAMA], "--receiver is missing"),
    "no sender": (["--receiver", LLAMA], "--sender is missing"),
    "no such model": (["--receiver", "model=none"], "--models lists them"),
    "no such key": (["--receiver", "colour=red"], "known are model, layers"),
    "no value": (["--receiver", "layers"], "is not KEY=VALUE"),
    "not a number": (["--receiver", f"{LLAMA},tp=two"], "tp=two: must be a number"),
    "not a layout": (["--receiver", f"{LLAMA},layout=HDN"], "must be HND, NHD or WHOLE"),
    "not a range": (["--receiver", f"{LLAMA},layers=9-3"], "layers=9-3: must be"),
    "not heads": (["--receiver", "heads=2-3"], "heads=2-3: must be"),
    "nothing said": (["--receiver", "tp=2"], "give model=NAME"),
    "no heads": (["--receiver", "layers=2"], "give model=NAME, or heads=N"),
    "ranks that do not divide": (["--receiver", f"{LLAMA},tp=3"], "does not divide 8 heads"),
    "more stages than layers": (["--receiver", f"{LLAMA},pp=81"], "there are 80 layers"),
    "no such rank": (["--receiver", f"{LLAMA},tp=2,rank=2"], "there are ranks 0 to 1"),
    "too many ranks": (["--receiver", f"{LLAMA},tp=2048"], "must make 1 to 1024 ranks"),
    "too many senders": (["--receiver", MLA, "--sender", f"{MLA},tp=65"], "name some by rank=R"),
    "no such file": (["--receiver", "@/nowhere"], "/nowhere"),
    "a block too large": (
        ["--receiver", "layers=1,heads=1000,head=100000,tokens=100,layout=WHOLE"], "4 GiB"),
    "no such table": (["--table", "none"], "identity, random or runs:N"),
    "no runs": (["--table", "runs:0"], "identity, random or runs:N"),
    "no rails": (["--rails", "0"], "must be 1 to 64"),
    "a rail without weight": (["--rails", "1,0"], "must be 1 to 64"),
    "no tokens": (["--tokens", "0"], "--tokens=0: must be a number"),
    "too many tokens": (
        ["--receiver", LLAMA, "--sender", LLAMA, "--tokens", 4294967295], "at most 16777216",
    ),
}  # fmt: skip


@tap.cases_for(WRONG)
def what_cannot_be_done_is_told_in_one_line(name):
    arguments, words = WRONG[name]
    text = plan(*arguments, status=1)
    assert text.startswith("kvxfer-plan: ") and text.count("\n") == 1, text
    assert words in text, text


SESSION = re.compile(r"^```console\n\$ kvxfer-plan (.*?[^\\])\n(.*?)^```$", re.M | re.S)


@tap.case
def the_page_shows_what_the_program_prints():
    page = (tap.SOURCE / "docs" / "plan.md").read_text()
    sessions = SESSION.findall(page)
    assert len(sessions) > 1
    for command, shown in sessions:
        words = shlex.split(command.replace("\\\n", ""))
        status = REFUSED if "refused" in shown else 0
        # What is left out stands as "...".
        for part in shown.split("...\n"):
            assert part in plan(*words, status=status), f"{command}\n{part}"


@tap.case
def it_knows_itself_and_its_models():
    assert plan("--version").startswith("kvxfer-plan ")
    assert "--receiver=POOL" in plan("--help")
    models = plan("--models").splitlines()[1:]
    assert [line.split()[0] for line in models] == [
        "qwen3-8b", "llama-3.1-8b", "llama-3.1-70b", "deepseek-v3", "gpt-oss-120b",
    ]  # fmt: skip
    for line in models:
        expect_sound(found(f"model={line.split()[0]}", f"model={line.split()[0]}"))


tap.main()
