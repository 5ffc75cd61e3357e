#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seeds of the simulator keep every promise, and replay exactly."""
import subprocess
import sys

import tap

PROGRAM, SEEDS = sys.argv[3:5]
REPLAYED = (1, 7, 42, 1009, 65537)


@tap.case
def every_seed_keeps_the_contract():
    print("# " + tap.command(PROGRAM, "--seeds", SEEDS).strip().replace("\n", "\n# "))


@tap.case
def a_seed_replays_exactly():
    for seed in REPLAYED:
        first = tap.command(PROGRAM, "--seed", seed)
        tap.expect(["a trace without a digest"] if "digest" not in first else [])
        tap.expect([f"seed {seed}: two traces"] if tap.command(PROGRAM, "--seed", seed) != first
                   else [])


@tap.case
def a_seed_does_not_depend_on_those_before_it():
    alone = tap.command(PROGRAM, "--seed", 5)
    after = tap.command(PROGRAM, "--seeds", 5, "--verbose")
    digest = [line for line in alone.splitlines() if "digest" in line]
    tap.expect(line for line in digest if line not in after.splitlines())


@tap.case
def different_seeds_are_different_runs():
    digests = {
        line.split()[-1]
        for line in tap.command(PROGRAM, "--seeds", 50, "--verbose").splitlines()
        if "digest" in line
    }
    tap.expect([f"{len(digests)} digests of 50 seeds"] if len(digests) != 50 else [])


@tap.case
def wrong_arguments_are_refused():
    for arguments in ([], ["--seeds"], ["--seeds", "1", "more"], ["--unknown"]):
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
        tap.expect([f"{arguments}: status {done.returncode}"] if done.returncode != 2 else [])


tap.main()
