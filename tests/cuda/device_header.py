#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvxfer/device.cuh compiles without a warning wherever there is nvcc, for each architecture that
it knows, and its fences are in what comes out: they cannot be seen to work without a GPU."""
import os
import pathlib
import re
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "project"))
import tap  # noqa: E402

KERNELS = tap.SOURCE / "tests" / "cuda" / "device.cu"
OLDEST = 70
STRICT = ("-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror")
LANGUAGES = ("c++14", "c++17", "c++20")

# What each kernel does, in this order.
INSTRUCTIONS = {
    "one_block_signals": ("st.global.u32", "bar.sync", "red.release.sys.add.u32"),
    "last_block_signals": (
        "st.global.u32", "bar.sync", "atom.acq_rel.sys.add.u32", "st.global.u32",
        "red.release.sys.add.u32",
    ),
    "each_block_waits": ("ld.acquire.sys.u32", "nanosleep", "bar.sync", "ld.global.u32"),
    "state_is_looked_at": ("ld.acquire.sys.u32", "setp"),
}


def nvcc():
    """Where CUDA's own variables, PATH or its usual folder have it."""
    folders = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    paths = [folder + "/bin" for folder in folders]
    paths += [os.environ["PATH"], "/usr/local/cuda/bin"]
    found = shutil.which("nvcc", path=":".join(paths))
    if not found:
        raise tap.Skip("nvcc is not installed")
    return found


def architectures():
    listed = tap.command(nvcc(), "--list-gpu-arch").split()
    numbers = (int(name.removeprefix("compute_")) for name in listed)
    return sorted(number for number in numbers if number >= OLDEST)


def compiled(*arguments, source=KERNELS):
    """What nvcc wrote."""
    with tempfile.TemporaryDirectory(prefix="kvxfer-device-") as folder:
        output = pathlib.Path(folder) / "output"
        tap.command(nvcc(), "-I", tap.SOURCE / "include", *arguments, "-o", output, source)
        return output.read_bytes()


@tap.case
def every_architecture_compiles_without_a_warning():
    numbers = architectures()
    assert numbers
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    assert compiled(*STRICT, "--threads=2", *codes, "-c")


@tap.cases_for(LANGUAGES)
def the_language_may_be(standard):
    assert compiled(*STRICT, f"-std={standard}", f"-arch=compute_{architectures()[0]}", "-ptx")


@tap.cases_for(INSTRUCTIONS)
def fences_and_scopes_are_there(kernel):
    text = compiled(f"-arch=compute_{architectures()[0]}", "-ptx").decode()
    body = re.search(rf"\.entry {kernel}\(.*?^}}", text, re.DOTALL | re.MULTILINE).group()
    rest = body
    for instruction in INSTRUCTIONS[kernel]:
        assert instruction in rest, f"{instruction} is missing, or not in its place:\n{body}"
        rest = rest.split(instruction, 1)[1]


@tap.case
def older_devices_are_refused_with_the_reason():
    """The compiler of the day may know none of them, so the architecture is made up."""
    with tempfile.TemporaryDirectory(prefix="kvxfer-device-") as folder:
        source = pathlib.Path(folder) / "old.cu"
        source.write_text(
            "#ifdef __CUDA_ARCH__\n#undef __CUDA_ARCH__\n#define __CUDA_ARCH__ 600\n#endif\n"
            "#include <kvxfer/device.cuh>\n"
        )
        try:
            compiled("-c", source=source)
        except AssertionError as error:
            assert "compute capability 7.0" in str(error), error
        else:
            raise AssertionError("it compiled")


tap.main()
