#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `meson install` gives, and that a program outside the tree can use it."""
import os
import pathlib
import tempfile

import tap

PROGRAM = r"""
#include <kvxfer/kvxfer.h>
#include <string.h>

int main(void)
{
	struct kvx_options *options;

	if (kvx_options_new(&options))
		return 1;
	kvx_options_free(options);
	return strcmp(kvx_version(), KVX_VERSION) != 0;
}
"""

scratch = tempfile.TemporaryDirectory(prefix="kvxfer-install-")
root = pathlib.Path(scratch.name) / "root"
work = pathlib.Path(scratch.name) / "work"
work.mkdir()
tap.command("meson", "install", "-C", tap.BUILD, "--no-rebuild", "--quiet", "--destdir", root)


def installed(name):
    """The one installed file of that name; its folder is the distribution's choice."""
    found = list(root.rglob(name))
    assert len(found) == 1, f"{name}: {len(found)} installed"
    return found[0]


def package(*arguments):
    environment = dict(
        os.environ,
        PKG_CONFIG_SYSROOT_DIR=str(root),
        PKG_CONFIG_PATH=str(installed("kvxfer.pc").parent),
    )
    return tap.command("pkg-config", *arguments, "kvxfer", env=environment).split()


def compile_program(name, *flags):
    (work / "program.c").write_text(PROGRAM)
    program = work / name
    tap.command("gcc", "-std=c11", "-o", program, work / "program.c", *flags, cwd=work)
    return program


@tap.cases_for(["kvxfer.h", "topology.h", "doctor.h", "plan.h", "cuda.h", "device.cuh",
                "libkvxfer.so", "libkvxfer.so.0", "libkvxfer.so.0.1.0", "libkvxfer.a",
                "kvxfer.pc", "kvxfer-bench", "kvxfer-bench.1", "kvxfer-topo", "kvxfer-topo.1",
                "kvxfer-doctor", "kvxfer-doctor.1", "kvxfer-plan", "kvxfer-plan.1"])
def is_installed(name):
    if name.startswith("kvxfer-") and not (tap.BUILD / "bench").is_dir():
        raise tap.Skip("this build has no programs")
    installed(name)


@tap.case
def kvxferctl_is_installed_with_its_page_and_completion():
    if not (tap.BUILD / "tools" / "kvxferctl").is_file():
        raise tap.Skip("this build has no kvxferctl")
    folders = sorted(path.parent.name for path in root.rglob("kvxferctl"))
    assert folders == ["bin", "completions"], folders
    installed("kvxferctl.1")


@tap.case
def nothing_internal_is_installed():
    tap.expect(path for path in root.rglob("*.h") if path.parent.name != "kvxfer")
    tap.expect(path for path in root.rglob("kvxfer-reference"))


@tap.case
def every_program_has_a_man_page():
    programs = [path.name for path in root.rglob("bin/*")]
    tap.expect(name for name in programs if not list(root.rglob(f"man1/{name}.1")))


@tap.case
def the_package_tells_the_version_of_the_library():
    version = package("--modversion")[0]
    assert installed("libkvxfer.so." + version)


@tap.case
def a_program_links_with_the_shared_library():
    program = compile_program("shared", *package("--cflags", "--libs"))
    libraries = installed("libkvxfer.so.0").parent
    tap.command(program, env=dict(os.environ, LD_LIBRARY_PATH=str(libraries)))


@tap.case
def a_program_links_with_the_static_library():
    """What the library needs itself stays shared: distributions pack not all of it otherwise."""
    required = [word for word in package("--print-requires-private") if word[0].isalpha()]
    needed = tap.command("pkg-config", "--libs", *required).split()
    program = compile_program(
        "static", *package("--cflags"), installed("libkvxfer.a"), *needed, "-pthread"
    )
    assert "libkvxfer" not in tap.command("readelf", "-d", program)
    tap.command(program)


tap.main()
