#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the libraries export."""
import re

import declarations
import tap

SHARED = tap.BUILD / "libkvxfer.so"
STATIC = tap.BUILD / "libkvxfer.a"


def symbols(*arguments):
    """Names that nm prints with an address; a common prefix is not assumed."""
    lines = tap.command("nm", "--defined-only", *arguments).splitlines()
    return {line.split()[2] for line in lines if len(line.split()) == 3}


@tap.case
def the_header_declares_functions():
    assert len(declarations.functions()) > 40


@tap.case
def the_shared_library_exports_what_the_header_declares():
    exported, declared = symbols("-D", SHARED), declarations.functions()
    tap.expect(
        [f"not declared: {name}" for name in sorted(exported - declared)]
        + [f"not exported: {name}" for name in sorted(declared - exported)]
    )


@tap.case
def every_global_name_of_the_static_library_is_ours():
    # _.stapsdt.base is what sys/sdt.h adds for tracepoints.
    tap.expect(
        name
        for name in sorted(symbols("-g", STATIC) - {"_.stapsdt.base"})
        if not name.startswith("kvx_")
    )


@tap.case
def the_soname_is_versioned():
    dynamic = tap.command("readelf", "-d", SHARED)
    assert re.search(r"SONAME.*\[libkvxfer\.so\.0\]", dynamic), dynamic


@tap.case
def the_library_needs_few_others():
    dynamic = tap.command("readelf", "-d", SHARED)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", dynamic))
    tap.expect(needed - {
        "libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2",
        "libibverbs.so.1", "libhwloc.so.15", "libexpat.so.1",
        "libmicrohttpd.so.12", "libgnutls.so.30", "libjansson.so.4",
    })


tap.main()
