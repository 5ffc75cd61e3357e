#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The library's kernels are assembled for every architecture that the toolkit knows, and so is the
text that is built into the library. TAP; where no toolkit is, tests are skipped."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "project"))
import tap

PTX = tap.SOURCE / "src" / "cuda" / "kernels.ptx"
KERNELS = {"kvx_signal", "kvx_wait", "kvx_gather"}
OLDEST = 70


def ptxas():
    """From PATH, from CUDA_HOME, or from where the toolkit is by default."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    path = os.pathsep.join([os.environ.get("PATH", "")] + [f"{home}/bin" for home in homes if home])
    found = shutil.which("ptxas", path=path)
    if not found:
        raise tap.Skip("ptxas of the CUDA toolkit is not installed")
    return found


def architectures(program):
    """Those without a letter: a letter's features are no part of the next one."""
    known = {int(number) for number in re.findall(r"'sm_(\d+)'", tap.command(program, "--help"))}
    return sorted(number for number in known if number >= OLDEST)


def assemble(program, text, number):
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "kernels.ptx"
        source.write_text(text, encoding="utf-8")
        return tap.command(program, f"-arch=sm_{number}", "-v", source, "-o", f"{folder}/cubin")


def built_in():
    """The text of the C string that the build makes of the kernels."""
    script = PTX.with_name("ptx.sed")
    made = tap.command("sed", "-f", script, PTX)
    lines = re.findall(r'^"(.*)\\n";?$', made, re.MULTILINE)
    return "".join(line.replace('\\"', '"').replace("\\\\", "\\") + "\n" for line in lines)


@tap.case
def kernels_are_assembled_for_every_architecture():
    program = ptxas()
    numbers = architectures(program)
    assert numbers, "ptxas names no architecture"
    text = PTX.read_text(encoding="utf-8")
    found = []
    for number in numbers:
        output = assemble(program, text, number)
        kernels = set(re.findall(r"entry function '(\w+)'", output))
        if kernels != KERNELS:
            found.append(f"sm_{number}: {sorted(kernels)}")
        # A kernel that runs beside the caller's own must not need local memory.
        if re.search(r"[1-9]\d* bytes (stack frame|spill)", output):
            found.append(f"sm_{number}: registers were spilled")
    tap.expect(found)


@tap.case
def the_text_in_the_library_is_assembled_too():
    program = ptxas()
    output = assemble(program, built_in(), architectures(program)[0])
    assert set(re.findall(r"entry function '(\w+)'", output)) == KERNELS


@tap.case
def drivers_of_the_oldest_architecture_take_them():
    text = PTX.read_text(encoding="utf-8")
    assert f".target sm_{OLDEST}\n" in text
    assert ".version 7.0\n" in text


@tap.case
def a_mistake_in_a_kernel_is_found():
    program = ptxas()
    text = PTX.read_text(encoding="utf-8").replace("red.release.sys.add.u32", "red.release.u32")
    done = subprocess.run([program, f"-arch=sm_{architectures(program)[0]}", "-", "-o", os.devnull],
                          input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0


tap.main()
