#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The public headers compile alone, in C and C++."""
import tap

C = ("-std=c11", "-x", "c")
CXX = ("-std=c++17", "-x", "c++")
COMPILERS = {"gcc": C, "clang": C, "g++": CXX, "clang++": CXX}
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


@tap.cases_for(COMPILERS)
def public_headers_compile_alone(compiler):
    tap.need(compiler)
    include = tap.SOURCE / "include"
    for header in sorted(include.rglob("*.h")):
        tap.command(
            compiler, *COMPILERS[compiler], *WARNINGS, "-fsyntax-only", "-I", include,
            "-include", header, "/dev/null",
        )


tap.main()
