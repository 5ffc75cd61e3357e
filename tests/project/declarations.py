# SPDX-License-Identifier: Apache-2.0
"""The functions that the public headers declare."""
import re

import tap

FUNCTION = re.compile(r"\b(kvx_\w+)\s*\(")
LINE_MARK = re.compile(r'^# \d+ "([^"]*)"', re.MULTILINE)


def _own_text(text, include):
    """Of preprocessed text what comes from our own headers."""
    parts = LINE_MARK.split(text)
    return "".join(
        body for file, body in zip(parts[1::2], parts[2::2]) if file.startswith(str(include))
    )


def _outermost(text):
    """The text without what stands in braces, where fields and enumerators live."""
    depth, kept = 0, []
    for character in text.replace('extern "C" {', ""):
        depth += character == "{"
        if depth == 0:
            kept.append(character)
        depth -= character == "}"
    return "".join(kept)


def functions():
    include = tap.SOURCE / "include"
    found = set()
    for header in include.rglob("*.h"):
        text = tap.command("gcc", "-std=c11", "-E", "-I", include, "-x", "c", header)
        found.update(FUNCTION.findall(_outermost(_own_text(text, include))))
    return found
