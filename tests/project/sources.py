#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rules that hold for every file."""
import json
import pathlib

import tap
import tree

LICENSE_LINE = "SPDX-License-Identifier: Apache-2.0"
COLUMNS_MAX = 100
LINES_MAX = 700


def needs_license_line(path):
    """Markdown is for readers, and files with a dot are settings."""
    return path.suffix != ".md" and not path.name.startswith(".")


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def is_page(path):
    """Its text flows to whatever width the reader has; a string of JSON cannot be broken."""
    return path.suffix in (".md", ".1", ".json")


@tap.case
def every_file_names_its_license():
    tap.expect(
        tree.name(path)
        for path in tree.files()
        if needs_license_line(path) and not any(LICENSE_LINE in line for line in lines(path)[:3])
    )


@tap.case
def c_files_begin_with_their_license():
    tap.expect(
        tree.name(path)
        for path in tree.code()
        if lines(path)[:1] != [f"/* {LICENSE_LINE} */"]
    )


@tap.case
def lines_fit_100_columns():
    tap.expect(
        f"{tree.name(path)}:{number}: {len(line.expandtabs(8))} columns"
        for path in tree.files()
        for number, line in enumerate(lines(path), 1)
        if len(line.expandtabs(8)) > COLUMNS_MAX and not is_page(path)
    )


@tap.case
def no_line_ends_in_blanks():
    tap.expect(
        f"{tree.name(path)}:{number}"
        for path in tree.files()
        for number, line in enumerate(lines(path), 1)
        if line != line.rstrip()
    )


@tap.case
def files_stay_small():
    tap.expect(
        f"{tree.name(path)}: {len(lines(path))} lines"
        for path in tree.code()
        if len(lines(path)) > LINES_MAX
    )


@tap.case
def every_source_file_is_built():
    if not (tap.BUILD / "bench").is_dir():
        raise tap.Skip("this build has no kvxfer-bench")
    targets = json.loads((tap.BUILD / "meson-info" / "intro-targets.json").read_text())
    built = {
        pathlib.Path(source).resolve()
        for target in targets
        for group in target["target_sources"]
        for source in group["sources"]
    }
    # In place of what this build has.
    built.add(tap.SOURCE / "src" / "control" / "absent.c")
    built.add(tap.SOURCE / "src" / "cuda" / "absent.c")
    built.add(tap.SOURCE / "src" / "cuda" / "words_absent.c")
    # Only the build for the thread sanitizer has a runner of its own.
    built.add(tap.SOURCE / "tests" / "support" / "thread_runner.c")
    tap.expect(
        tree.name(path) for path in tree.code() if path.suffix == ".c" and path not in built
    )


tap.main()
