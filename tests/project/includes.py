#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The direction of dependencies: which folder may include what (docs/architecture.md)."""
import re

import tap
import tree

SEAM = "transports/transport.h"

# Folder of the including file: what it may include besides its own folder and <kvxfer/...>.
ALLOWED = {
    "include": (),
    "src/base": (),
    "src/plan": ("src/base/",),
    "src/memory": ("src/base/", SEAM),
    "src/cuda": ("src/base/", "src/memory/kind.h"),
    "src/topology": ("src/base/",),
    "src/secret": ("src/base/",),
    "src/core": ("src/base/", "src/secret/", "src/plan/", "src/memory/", "src/topology/", SEAM),
    "src/json": (),
    "src/doctor": ("src/base/", "src/memory/kind.h", "transports/verbs/doctor.h"),
    "src/control": ("src/base/", "src/secret/", "src/json/", "src/core/control.h"),
    "transports": ("src/base/", "src/secret/", "src/memory/kind.h"),
    "bench": (),
    "tools": ("src/json/",),
    "examples": (),
    "tests": ("src/", "transports/", "bench/"),
}

# Built into programs too: it sees public headers alone, as they do.
SHARED = ("json/text.h", "json/topology.h")

# Third-party headers live in one folder each, so that dropping one touches one folder.
THIRD_PARTY = {
    "cuda": ("tests",),
    "xxhash.h": ("src/core", "src/plan", "tests"),
    "hwloc": ("src/topology", "tests"),
    "numa.h": ("src/topology",),
    "expat.h": ("src/topology",),
    "sys/sdt.h": ("src/base/trace",),
    "infiniband/": ("transports/verbs", "tests"),
    "jansson.h": ("bench", "tools", "src/control", "src/json"),
    "microhttpd.h": ("src/control",),
    "gnutls/": ("src/control", "src/secret"),
    "curl/": ("tools",),
    "criterion/": ("tests",),
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def folder_of(name):
    """The longest folder of the table that holds the file."""
    return max((folder for folder in ALLOWED if name.startswith(folder + "/")), key=len)


def is_own(name, target):
    """A transport has its folder, the seam and what transports share beside it; src/core/grant.c
    has src/core."""
    if name.startswith("transports/"):
        return "/" not in target.removeprefix("transports/") or (
            target.startswith(name.rpartition("/")[0] + "/") and name.count("/") == 2
        )
    return target.startswith(folder_of(name) + "/")


def resolve(path, text):
    """The included file's name in the tree, as the compiler finds it. Of the two headers for
    tracepoints one stands for both."""
    roots = (path.parent, tap.SOURCE / "src", tap.SOURCE / "src" / "base" / "trace" / "on",
             tap.SOURCE / "transports", tap.SOURCE / "tests", tap.SOURCE / "bench", tap.SOURCE)
    for root in roots:
        if (root / text).is_file():
            return tree.name((root / text).resolve())
    return None


def finding(path, text):
    name, target = tree.name(path), resolve(path, text)
    if target is None:
        return f'{name}: "{text}" is not in the tree'
    if is_own(name, target) or target.startswith(ALLOWED[folder_of(name)]):
        return None
    return f"{name}: must not include {target}"


@tap.case
def dependencies_point_one_way():
    found = (
        finding(path, text)
        for path in tree.code()
        for kind, text in includes(path)
        if kind == '"'
    )
    tap.expect(text for text in found if text)


@tap.case
def transports_do_not_know_each_other_nor_the_engine():
    tap.expect(
        f"{tree.name(path)}: {text}"
        for path in tree.code()
        if tree.name(path).startswith("transports/")
        for kind, text in includes(path)
        if text.startswith(("core/", "plan/"))
    )


@tap.case
def programs_see_public_headers_alone():
    tap.expect(
        f"{tree.name(path)}: {text}"
        for path in tree.code()
        if tree.name(path).startswith(("bench/", "tools/", "examples/"))
        for kind, text in includes(path)
        if kind == '"' and "/" in text and not (
            tree.name(path).startswith("tools/") and text in SHARED
        )
    )


@tap.case
def third_party_headers_stay_in_their_folder():
    tap.expect(
        f"{tree.name(path)}: <{text}>"
        for path in tree.code()
        for kind, text in includes(path)
        for header, folders in THIRD_PARTY.items()
        if kind == "<" and text.startswith(header)
        and not tree.name(path).startswith(tuple(folder + "/" for folder in folders))
    )


tap.main()
