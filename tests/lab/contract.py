#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The contract's tests over the kernel's verbs, where elsewhere the suite has a made-up device.
Both engines are in one process, over one device of a node; half of the programs run in each."""
import concurrent.futures
import re
import sys

import common
import lab
import tap

PROGRAMS = {path.rpartition("test-contract-")[2]: path for path in sys.argv[3:]}
LIMIT_S = 240
PATIENT = "KVX_HEARTBEAT_MS=5000"  # an emulated node may stand still for a while

_started = {}


def start_all():
    """In each node one after the other, beginning with the first case."""
    nodes = common.shared()
    for node in lab.NODES:
        in_turn = concurrent.futures.ThreadPoolExecutor(1)
        for name in list(PROGRAMS)[node::len(lab.NODES)]:
            command = ("env", "KVX_VERBS_DEVICES=rxe0", PATIENT, PROGRAMS[name],
                       "--tap=/dev/stdout", "-j1", "--filter=verbs*/*")
            _started[name] = in_turn.submit(nodes.run, node, command, LIMIT_S)
        in_turn.shutdown(wait=False)


@tap.cases_for(PROGRAMS)
def over_soft_roce(name):
    if not _started:
        start_all()
    result = _started[name].result()
    # Tests of other transports are told as skipped, as are those that this one has nothing for.
    tests = re.findall(r"^(ok|not ok) - (verbs\S+)(.*)$", result.out, re.MULTILINE)
    tested = [test for test in tests if "# SKIP" not in test[2]]
    print(f"# {name}: {len(tested)} tests, {len(tests) - len(tested)} skipped", flush=True)
    failed = [test for state, test, _ in tested if state != "ok"]
    assert tested and not failed and result.code == 0, f"{failed}\n{result}"


common.main()
