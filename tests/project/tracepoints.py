#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The library has the tracepoints that docs/tracepoints.md lists."""
import os
import re

import tap

PAGE = (tap.SOURCE / "docs" / "tracepoints.md").read_text(encoding="utf-8")
COMMANDS = (tap.BUILD / "compile_commands.json").read_text(encoding="utf-8")

LISTED = {
    name: arguments.count(",") + 1
    for name, arguments in re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", PAGE, re.MULTILINE)
}
NOTE = re.compile(r"Provider: (\w+)\n\s*Name: (\w+)\n.*\n\s*Arguments: (.*)\n")
PROGRAM = re.compile(r"^bpftrace -e '(.*?)'$", re.MULTILINE | re.DOTALL)
USE = re.compile(r"usdt:\S+:kvxfer:(\w+)(.*?)\}", re.DOTALL)


@tap.case
def the_page_lists_them():
    assert len(LISTED) > 10, LISTED


def need_tracepoints():
    if "base/trace/on" not in COMMANDS:
        raise tap.Skip("this build has no tracepoints (option tracepoints, sys/sdt.h)")


@tap.case
def the_library_has_what_the_page_lists():
    tap.need("readelf")
    need_tracepoints()
    found = NOTE.findall(tap.command("readelf", "-n", tap.BUILD / "libkvxfer.so"))
    assert {provider for provider, _, _ in found} == {"kvxfer"}, found
    counts = {(name, len(arguments.split())) for _, name, arguments in found}
    tap.expect(
        [f"not on the page: {name}, {count} arguments" for name, count in
         sorted(counts - set(LISTED.items()))]
        + [f"not in the library: {name}, {count} arguments" for name, count in
           sorted(set(LISTED.items()) - counts)]
    )  # fmt: skip


@tap.case
def each_is_shown_in_use_with_arguments_that_it_has():
    used = USE.findall(PAGE)
    tap.expect(f"no line for {name}" for name in set(LISTED) - {name for name, _ in used})
    tap.expect(
        f"{name} has no arg{number}"
        for name, body in used
        for number in map(int, re.findall(r"\barg(\d)\b", body))
        if number >= LISTED.get(name, 0)
    )


@tap.case
def bpftrace_takes_what_the_page_shows():
    """Up to the program that it would load into the kernel, with the library's own notes of where
    arguments are."""
    tap.need("bpftrace")
    need_tracepoints()
    if os.geteuid():
        raise tap.Skip("bpftrace runs as root only")
    programs = PROGRAM.findall(PAGE)
    assert len(programs) > len(LISTED), programs
    for program in programs:
        tap.command("bpftrace", "-d", "-e", program, cwd=tap.BUILD)


tap.main()
