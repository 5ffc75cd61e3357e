#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every ```sh block of README.md, CONTRIBUTING.md and docs/, as a reader would: in the source
root, with the programs of the build on PATH, its library found by pkg-config, and an empty HOME.
What is only to be read (sessions, output, commands that install) stands in ```console blocks."""
import os
import re
import tempfile

import tap

FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"sh", "console", "c", "json", "text", ""}
TIMEOUT_S = 120

# A block that fails half way leaves nothing behind that would keep the test waiting.
END_JOBS = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"

PAGES = [tap.SOURCE / "README.md", tap.SOURCE / "CONTRIBUTING.md"]
PAGES += sorted((tap.SOURCE / "docs").rglob("*.md"))


def blocks(page):
    """Language, line number and text of each fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield match.group(1), text.count("\n", 0, match.start()) + 1, match.group(2)


def runnable():
    for page in PAGES:
        if page.is_file():
            for language, line, text in blocks(page):
                if language == "sh":
                    yield f"{page.relative_to(tap.SOURCE)}:{line}", text


def environment(home):
    programs = [str(tap.BUILD / "bench"), str(tap.BUILD / "tools"), str(tap.BUILD / "examples")]
    return {
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PATH": ":".join(programs + [os.environ["PATH"]]),
        "PKG_CONFIG_PATH": str(tap.BUILD / "meson-uninstalled"),
        "LD_LIBRARY_PATH": str(tap.BUILD),
    }


COMMANDS = dict(runnable())


@tap.cases_for(COMMANDS)
def the_command_runs(place):
    with tempfile.TemporaryDirectory(prefix="kvxfer-docs-") as home:
        tap.command("timeout", TIMEOUT_S, "sh", "-eu", "-c", END_JOBS + COMMANDS[place],
                    cwd=tap.SOURCE, env=environment(home))


@tap.case
def every_block_names_a_known_language():
    tap.expect(
        f"{page.relative_to(tap.SOURCE)}:{line}: {language}"
        for page in PAGES
        if page.is_file()
        for language, line, _ in blocks(page)
        if language not in LANGUAGES
    )


@tap.case
def no_command_runs_the_tests_themselves():
    tap.expect(place for place, text in COMMANDS.items() if re.search(r"tools/(test|demo)", text))


@tap.case
def links_between_pages_lead_somewhere():
    broken = []
    for page in filter(lambda page: page.is_file(), PAGES):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(tap.SOURCE)}: {target}")
    tap.expect(broken)


tap.main()
