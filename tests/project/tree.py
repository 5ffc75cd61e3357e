# SPDX-License-Identifier: Apache-2.0
"""The files of the project, and what their names say of them."""
import tap

FOLDERS = (
    ".ci", "include", "src", "transports", "bench", "tools", "examples", "tests", "docs",
)

# What Python leaves behind, and inputs of fuzz targets, which are bytes of any kind.
IGNORED = {"__pycache__", "corpus"}


def is_text(path):
    return b"\0" not in path.read_bytes()[:4096]


def files():
    """All files that belong to the project; build folders lie outside these folders."""
    for path in sorted(tap.SOURCE.iterdir()):
        if path.is_file() and path.name != "LICENSE":
            yield path
    for folder in FOLDERS:
        for path in sorted((tap.SOURCE / folder).rglob("*")):
            if path.is_file() and not IGNORED & set(path.parts) and is_text(path):
                yield path


def name(path):
    return path.relative_to(tap.SOURCE).as_posix()


def code():
    return [path for path in files() if path.suffix in (".c", ".h")]
