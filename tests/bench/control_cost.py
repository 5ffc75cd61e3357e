#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench/control_cost.py measures what the control socket costs: it runs, and reports all of it.
What it measures depends on the machine, so nothing of that is asserted."""
import json
import sys
import tempfile

import tap

PROGRAM = tap.SOURCE / "bench" / "control_cost.py"
BENCH = tap.BUILD / "bench" / "kvxfer-bench"
FORM = ["--pairs", "2", "--window", "0.3", "--pool-bytes", "64M", "--asks", "50"]


@tap.cases_for(["shm", "tcp"])
def the_cost_is_measured_and_told(transport):
    with tempfile.NamedTemporaryFile() as file:
        form = ["--bench", BENCH, "--transport", transport, *FORM, "--json", file.name]
        said = tap.command(sys.executable, "-B", PROGRAM, *form)
        report = json.load(file)
    for row in "bandwidth", "engine's thread", "POST /v1/grants", "GET /v1/status, idle":
        assert row in said, said
    load = report["load"]
    for name in "gbytes_per_s", "cpu_ns_per_mib", "progress_ns_per_mib":
        assert load[name]["with"] > 0 and load[name]["without"] > 0, load
        assert load[name]["ratio"] > 0 and len(load[name]["ratios"]) == 2, load
    assert load["requests_per_s"] > 0, load
    for times in load["status_us"], *report["latency_us"].values():
        assert 0 < times["p50"] <= times["p99"], report


tap.main()
