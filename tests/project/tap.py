# SPDX-License-Identifier: Apache-2.0
"""Tests of the project itself, as TAP. A test is a function marked @case: its name is the sentence.
Programs get the source root and the build folder as arguments."""
import pathlib
import shutil
import subprocess
import sys
import traceback

SOURCE = pathlib.Path(sys.argv[1]).resolve()
BUILD = pathlib.Path(sys.argv[2]).resolve()

_cases = []


class Skip(Exception):
    pass


def case(function):
    _cases.append((function.__name__, function))
    return function


def cases_for(values):
    """One case for each value, told apart by the value's text."""

    def mark(function):
        for value in values:
            name = f"{function.__name__}: {value}"
            _cases.append((name, lambda value=value: function(value)))
        return function

    return mark


def need(program):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed")


def command(*arguments, **options):
    """Runs a command and returns its output; fails with all that it wrote."""
    arguments = [str(argument) for argument in arguments]
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        **options,
    )
    if done.returncode:
        shown = " ".join(arguments)
        raise AssertionError(f"{shown}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def expect(findings):
    """Fails with the list of findings unless it is empty."""
    findings = list(findings)
    if findings:
        raise AssertionError("\n".join(str(finding) for finding in findings))


def _run(number, name, function):
    try:
        function()
    except Skip as reason:
        print(f"ok {number} - {name} # SKIP {reason}", flush=True)
        return True
    except Exception as error:
        text = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        print(f"not ok {number} - {name}", flush=True)
        # meson shows what a program of this protocol writes here, and nothing else of it.
        print(f"{name}:\n{text}", file=sys.stderr, flush=True)
        return False
    print(f"ok {number} - {name}", flush=True)
    return True


def main():
    print(f"1..{len(_cases)}")
    good = [_run(number, *entry) for number, entry in enumerate(_cases, 1)]
    sys.exit(not all(good))
