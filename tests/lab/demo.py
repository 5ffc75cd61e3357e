#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The command of the README that shows RDMA without hardware."""
import sys

import tap

sys.path.append(str(tap.SOURCE / "tests" / "lab"))

import image


@tap.case
def the_demo_moves_a_request_over_rdma():
    if tap.BUILD != tap.SOURCE / "build":
        raise tap.Skip("it builds into build/, which is not this build")
    try:
        image.check_machine()
    except image.CannotRun as reason:
        raise tap.Skip(str(reason)) from reason
    said = tap.command(tap.SOURCE / "tools" / "demo", "--rdma", cwd=tap.SOURCE)
    assert "0 wrong" in said and "transport  verbs: " in said, said


tap.main()
