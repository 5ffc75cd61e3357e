#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the sender's engine costs for each write over verbs: time, and instructions, which do not
depend on what else runs. The devices are made up and do nothing (fake_verbs, null)."""
import json
import os
import re
import subprocess
import tempfile

import tap

SLICE_COST = tap.BUILD / "bench" / "kvxfer-slice-cost"
FAKE_VERBS = tap.BUILD / "tests" / "fake_verbs"
FORM = ["1000", "2", "1", "verbs"]  # 1000 blocks of 4 KiB a layer, none beside another
INSTRUCTIONS_MAX = 600  # of a write, with those of the fake


def cost(*command):
    """What the command prints and says of itself."""
    if not (FAKE_VERBS / "libibverbs.so.1").exists():
        raise tap.Skip("this build has no devices that are made up")
    environment = {
        **os.environ, "LD_LIBRARY_PATH": str(FAKE_VERBS), "FAKE_VERBS_OPTIONS": "null=1",
    }  # fmt: skip
    done = subprocess.run(
        [*command, SLICE_COST, *FORM], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=250, env=environment,
    )  # fmt: skip
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


def is_optimized():
    options = json.loads((tap.BUILD / "meson-info" / "intro-buildoptions.json").read_text())
    values = {option["name"]: option["value"] for option in options}
    return values["optimization"] not in ("0", "g", "plain")


@tap.case
def the_time_of_a_write_is_told():
    said = cost()
    assert float(re.search(r"([0-9.]+) of them at the sender", said)[1]) > 0, said
    print(f"# {said.strip()}")


@tap.case
def a_write_takes_few_instructions():
    tap.need("valgrind")
    if not is_optimized():
        raise tap.Skip("the build is not optimized")
    with tempfile.TemporaryDirectory() as folder:
        said = cost(
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out",
            "--toggle-collect=step_sender*",
        )  # fmt: skip
    writes = int(re.search(r"(\d+) slices in all", said)[1])
    each = int(re.search(r"Collected : (\d+)", said)[1]) / writes
    print(f"# {each:.0f} instructions for each of {writes} writes")
    assert 0 < each <= INSTRUCTIONS_MAX, f"{each:.0f} instructions, at most {INSTRUCTIONS_MAX}"


tap.main()
