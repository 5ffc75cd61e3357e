#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Planted bugs: each breaks the engine in one place, and the simulator has to notice. The mutated
file is compiled with the build's own command and linked before the library, whose own copy of it is
then left out."""
import concurrent.futures
import functools
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import mutation_table
import tap

PROGRAM = pathlib.Path(sys.argv[3]).resolve()
SEEDS = (300, 3000, 10000)
RUN_SECONDS_MAX = 300


@functools.cache
def compile_commands():
    entries = json.loads((tap.BUILD / "compile_commands.json").read_text(encoding="utf-8"))
    return {str((pathlib.Path(entry["directory"]) / entry["file"]).resolve()): entry
            for entry in entries}


@functools.cache
def link_command():
    tap.need("ninja")
    target = PROGRAM.relative_to(tap.BUILD)
    commands = tap.command("ninja", "-C", tap.BUILD, "-t", "commands", target).splitlines()
    return shlex.split(next(line for line in reversed(commands) if f"-o {target}" in line))


def replace_after(words, flag, value):
    at = words.index(flag) + 1
    return words[:at] + [str(value)] + words[at + 1:]


def mutated_source(mutation):
    path = tap.SOURCE / mutation.file
    text = path.read_text(encoding="utf-8")
    for old, new in mutation.changes:
        if text.count(old) != 1:
            raise AssertionError(f"{mutation.file}: {text.count(old)} times: {old}")
        text = text.replace(old, new)
    return path, text


def build(mutation, folder):
    path, text = mutated_source(mutation)
    source = folder / path.name
    source.write_text(text, encoding="utf-8")
    words = shlex.split(compile_commands()[str(path)]["command"])
    words = replace_after(words, "-o", folder / "mutated.o")
    words = replace_after(words, "-c", source)
    for flag in ("-MF", "-MQ"):
        words = replace_after(words, flag, folder / "mutated.d") if flag in words else words
    tap.command(*words, "-g0", "-Wno-error", cwd=tap.BUILD)
    words = replace_after(link_command(), "-o", folder / "mutant")
    tap.command(words[0], folder / "mutated.o", *words[1:], cwd=tap.BUILD)
    return folder / "mutant"


def run(program, limits=SEEDS):
    """The first seed that fails, and how; None if none does."""
    first = 1
    for last in limits:
        done = subprocess.run(
            [program, "--first", str(first), "--seeds", str(last + 1 - first)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=RUN_SECONDS_MAX, check=False)
        if done.returncode < 0:
            return f"it crashed (signal {-done.returncode}) in seeds {first}..{last}"
        if done.returncode:
            return done.stdout.splitlines()[-2]
        first = last + 1
    return None


def attempt(mutation):
    with tempfile.TemporaryDirectory() as folder:
        return run(build(mutation, pathlib.Path(folder)))


POOL = concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1))
ATTEMPTS = {
    mutation.name: POOL.submit(attempt, mutation) for mutation in mutation_table.MUTATIONS
}


@tap.cases_for(ATTEMPTS)
def is_caught(name):
    caught = ATTEMPTS[name].result()
    if not caught:
        raise AssertionError(f"{name}: {SEEDS[-1]} seeds did not notice")
    print(f"# {caught[:180]}")


@tap.case
def the_engine_itself_passes():
    tap.expect(line for line in [run(PROGRAM, SEEDS[:2])] if line)


tap.main()
