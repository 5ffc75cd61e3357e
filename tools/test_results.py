#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns meson's testlog.json into lines of result, stage, test and reason, parted by tabs.

The whole output of a program that failed goes to LOGS/STAGE-PROGRAM.log.

usage: test_results.py STAGE TESTLOG LOGS
"""
import json
import pathlib
import re
import sys

TAP_LINE = re.compile(r"^(not )?ok\b[ \d]*-? *(.*?)(?: *# *SKIP\b *(.*))?$")
DURATION = re.compile(r" *\([\d.]+s\)$")
FILTERED = "test was skipped" # what Criterion says of a case that --filter leaves out


def subtests(stdout):
    for line in stdout.splitlines():
        match = TAP_LINE.match(line)
        if match:
            failed, name, reason = match.groups()
            if reason == FILTERED:
                continue
            result = "failed" if failed else "passed" if reason is None else "skipped"
            yield result, DURATION.sub("", name), reason or ""


def results(test):
    """A program that fails without a failed subtest (a crash, a time-out) is one more failure."""
    found = list(subtests(test.get("stdout", "")))
    outcome, status = test["result"], test.get("returncode")
    bad = outcome not in ("OK", "SKIP", "EXPECTEDFAIL")
    if bad and not any(result == "failed" for result, _, _ in found):
        found.append(("failed", "the whole program", f"{outcome}, exit status {status}"))
    if not found and "1.." in test.get("stdout", ""):
        found.append(("failed", "the whole program", "ran no test"))
    if not found: # not TAP: the program is the test
        found.append(("passed", "the whole program", ""))
    return found


def keep_output(test, path):
    output = test.get("stdout", "") + test.get("stderr", "")
    path.write_text(output, encoding="utf-8", errors="replace")


def main():
    stage, path, logs = sys.argv[1:]
    with open(path, encoding="utf-8", errors="replace") as log:
        for line in log:
            test = json.loads(line)
            program = test["name"].rpartition(" / ")[2]
            found = results(test)
            for result, name, reason in found:
                print(result, stage, f"{program}: {name}", reason, sep="\t")
            if any(result == "failed" for result, _, _ in found):
                keep_output(test, pathlib.Path(logs) / f"{stage}-{program}.log")


main()
