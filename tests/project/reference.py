#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The reference pages say what the library's tables say."""
import difflib

import tap


@tap.cases_for(["options", "errors"])
def the_page_equals_the_table(page):
    program = tap.BUILD / "tools" / "kvxfer-reference"
    path = tap.SOURCE / "docs" / f"{page}.md"
    expected = tap.command(program, page).splitlines()
    found = path.read_text(encoding="utf-8").splitlines()
    tap.expect(
        difflib.unified_diff(found, expected, f"docs/{page}.md", f"kvxfer-reference {page}",
                             lineterm="")
    )


tap.main()
