#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The man pages are well-formed."""
import os

import tap

PAGES = sorted(path.name for path in (tap.SOURCE / "docs" / "man").glob("*.1"))


@tap.cases_for(PAGES)
def the_man_page_has_no_warnings(name):
    tap.need("man")
    page = tap.SOURCE / "docs" / "man" / name
    environment = dict(os.environ, LC_ALL="C.UTF-8", MANROFFSEQ="", MANWIDTH="80")
    # What is formatted goes nowhere, so that the output holds the warnings alone.
    script = 'exec man --warnings -E UTF-8 -l -Tutf8 -Z "$1" 2>&1 >/dev/null'
    warnings = tap.command("sh", "-c", script, "sh", page, env=environment)
    assert not warnings, warnings


@tap.case
def there_are_man_pages():
    assert PAGES


tap.main()
