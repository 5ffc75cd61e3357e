#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""examples/pd_transformer: its binding agrees with the header, its tokens with those of one
process, and one wrong byte is noticed. The third argument is the shared library."""
import contextlib
import ctypes
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import tap

LIBRARY = pathlib.Path(sys.argv[3]).resolve()
EXAMPLE = tap.SOURCE / "examples" / "pd_transformer"
END_S = 60
ROW = re.compile(r"^ *(\d+) +8 +(\d+) +(\d+) +(\d) +([\d.]+) +(yes|no)$", re.MULTILINE)
TAIL_BYTES = 4 + 4 * 1000  # a token, and the logits of each
TOKEN_BYTES = 8 * 2 * 2 * 32 * 4  # layers, planes, heads, values, bytes

sys.path.insert(0, str(EXAMPLE))
import kvxfer  # noqa: E402


def need_numpy():
    if not importlib.util.find_spec("numpy"):
        raise tap.Skip("numpy is not installed (python3-numpy)")


def begin(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-B", EXAMPLE / "pd_transformer.py", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


def transform(*arguments, status=0, **environment):
    """Its output, and what it wrote to standard error."""
    process = begin("--library", LIBRARY, *arguments, **environment)
    try:
        out, said = process.communicate(timeout=END_S)
    finally:
        process.kill()
    assert process.returncode == status, f"{process.returncode}\n{out}{said}"
    assert "Traceback" not in said, said
    return out, said


# --- the binding and the header


def header_says(folder, lines):
    """What a program prints that has these statements and the public header."""
    source, program = pathlib.Path(folder, "say.c"), pathlib.Path(folder, "say")
    source.write_text("\n".join([
        "#include <kvxfer/kvxfer.h>", "#include <stdio.h>", "int main(void)", "{", *lines,
        "return 0;", "}",
    ]))  # fmt: skip
    tap.command("cc", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-I", tap.SOURCE / "include",
                source, LIBRARY, f"-Wl,-rpath,{LIBRARY.parent}", "-o", program)  # fmt: skip
    return tap.command(program).splitlines()


def same(lines, expected):
    """The header's values of expressions are the binding's."""
    with tempfile.TemporaryDirectory(prefix="kvx-binding-") as folder:
        found = header_says(folder, [f'printf("%lld\\n", (long long)({line}));' for line in lines])
    tap.expect(
        f"{line}: {value} in the header, {mine} in the binding"
        for line, value, mine in zip(lines, found, expected, strict=True)
        if int(value) != mine
    )


@tap.case
def structures_are_those_of_the_header():
    tap.need("cc")
    lines, expected = [], []
    for name, structure in kvxfer.STRUCTURES.items():
        lines.append(f"sizeof(struct {name})")
        expected.append(ctypes.sizeof(structure))
        for field, *_ in structure._fields_:
            lines.append(f"offsetof(struct {name}, {field})")
            expected.append(getattr(structure, field).offset)
            lines.append(f"sizeof(((struct {name} *)NULL)->{field})")
            expected.append(getattr(structure, field).size)
    assert len(lines) > 100, len(lines)
    same(lines, expected)


@tap.case
def constants_are_those_of_the_header():
    tap.need("cc")
    same(
        ["KVX_ALL_LAYERS", "KVX_TAIL", "KVX_LAYOUT_WHOLE", "KVX_LAYOUT_HND", "KVX_LAYOUT_NHD"],
        [kvxfer.ALL_LAYERS, kvxfer.TAIL,
         kvxfer.LAYOUT_WHOLE, kvxfer.LAYOUT_HND, kvxfer.LAYOUT_NHD],
    )  # fmt: skip


# Of what functions return; a pointer to anything is one.
TYPES = {ctypes.c_int: "int", ctypes.c_size_t: "size_t", ctypes.c_void_p: "", ctypes.c_char_p: ""}
POINTER_CLASS = 5  # of gcc and clang


def written(kind):
    """A value of a type, in C. An integer is not constant, so that narrowing it is an error."""
    texts = {ctypes.c_void_p: "(void *)0", ctypes.c_char_p: '(char *)""'}
    return texts.get(kind) or f"values.{kind.__name__}"


@tap.case
def functions_take_and_return_what_the_header_says():
    tap.need("cc")
    lines = ["struct { int c_int; unsigned c_uint; size_t c_ulong; } values = {0, 0, 0};",
             "(void)values;"]  # fmt: skip
    for name, (returned, *taken) in kvxfer.FUNCTIONS.items():
        call = f"{name}({', '.join(map(written, taken))})"
        lines.append(f"if (0) (void){call};")
        if returned:
            kind = TYPES[returned]
            same_type = f"__builtin_types_compatible_p(__typeof__({call}), {kind})"
            is_pointer = f"__builtin_classify_type({call}) == {POINTER_CLASS}"
            check = same_type if kind else is_pointer
            lines.append(f'_Static_assert({check}, "{name}");')
    with tempfile.TemporaryDirectory(prefix="kvx-binding-") as folder:
        header_says(folder, lines)


def moved(library, lease_ms, serve):
    """What a pool holds after serve(grant, source), where block 1 was granted and block 3 of the
    source is full of sevens."""
    shape = kvxfer.Geometry(layers=1, planes=1, blocks=4, block_bytes=64)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(kvxfer.Engine(library, transports="loop"))
        source, target = [stack.enter_context(kvxfer.Pool(engine, shape)) for _ in range(2)]
        ctypes.memset(source.address + 3 * 64, 7, 64)
        grant = stack.enter_context(kvxfer.Grant(target, [1], lease_ms))
        serve(grant, source)
        return ctypes.string_at(target.address, 4 * 64)


@tap.case
def the_binding_moves_bytes_within_a_process():
    def serve(grant, source):
        with kvxfer.Stream(source, [3], grant.ticket()) as stream:
            assert not grant.poll(0)
            stream.layers_ready(0)
            grant.wait(kvxfer.ALL_LAYERS, 5000)
            assert grant.poll(0)
            stream.wait(kvxfer.ALL_LAYERS, 5000)
            assert "loop" in stream.explain(), stream.explain()

    expected = bytes(64) + 64 * b"\7" + bytes(128)
    assert moved(kvxfer.Library(LIBRARY), 5000, serve) == expected


def expect_error(name, words, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except kvxfer.Error as error:
        assert error.name == name and words in error.text, error
        return
    raise AssertionError(f"{name} was expected")


@tap.case
def what_fails_raises_the_text_of_the_library():
    library = kvxfer.Library(LIBRARY)

    def serve(grant, source):
        expect_error("KVX_E_TICKET", "ticket", kvxfer.Stream, source, [3], b"no ticket")
        expect_error("KVX_E_INVALID", "block 4", kvxfer.Grant, source, [4], 100)
        expect_error("KVX_E_TIMEDOUT", "", grant.wait, 0, 1)
        expect_error("KVX_E_LEASE", "lease", grant.wait, 0, 5000)

    moved(library, 50, serve)
    expect_error("KVX_E_INVALID", "colour", kvxfer.Engine, library, colour="red")


# --- the program


@tap.cases_for(["shm", "tcp --memory own"])
def tokens_are_those_of_one_process(form):
    need_numpy()
    arguments = "--prompts 4 --length 50 --tokens 8 --verbose --transports".split()
    out, _ = transform(*arguments, *form.split())
    assert out.endswith("\n4 of 4 prompts: tokens equal\n"), out
    rows = ROW.findall(out)
    assert len(rows) == 4 and {row[-1] for row in rows} == {"yes"}, out
    for tokens, blocks, count, early, exposed, _ in rows:
        assert int(blocks) == -(-int(tokens) // 16), out
        assert int(count) == int(tokens) * TOKEN_BYTES + TAIL_BYTES, out
        assert int(early) < 8 and float(exposed) >= 0, out
    lengths = [int(row[0]) for row in rows]
    assert any(length % 16 for length in lengths) and not all(n % 16 for n in lengths), lengths
    assert any(int(row[3]) > 0 for row in rows), f"no layer came while the prefill computed\n{out}"
    tables = re.findall(r"prefill blocks (\[.*\])\n  decode blocks  (\[.*\])", out)
    assert len(tables) == 4 and all(there != here for there, here in tables), out
    assert len(re.findall(f"transport: {form.split()[0]}:", out)) == 4, out


@tap.case
def one_wrong_byte_of_a_request_changes_its_tokens():
    need_numpy()
    out, _ = transform(*"--prompts 3 --length 50 --tokens 8 --corrupt".split())
    assert [row[-1] for row in ROW.findall(out)] == ["no"] * 3, out
    assert out.endswith("\n3 of 3 prompts: tokens differ\n"), out


@tap.cases_for(["shm", "tcp"])
def a_prefill_worker_that_is_killed_is_noticed(transport):
    need_numpy()
    process = begin("--library", LIBRARY, "--transports", transport, "--verbose",
                    "--layer-ms", "200", "--prompts", "1", "--length", "40")  # fmt: skip
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("decode: layer 1 "):
                break
        else:
            raise AssertionError(f"it ended by itself\n{''.join(said)}")
        pids = dict(re.findall(r"^(prefill|decode): process (\d+)$", "".join(said), re.MULTILINE))
        os.kill(int(pids["prefill"]), signal.SIGKILL)
        begun = time.monotonic()
        out, rest = process.communicate(timeout=END_S)
    finally:
        process.kill()
        process.wait()
    took_s, text = time.monotonic() - begun, "".join(said) + rest
    assert process.returncode == 1 and not out, f"{process.returncode}\n{out}{text}"
    assert took_s < 10, f"the lease is 10 s, and it took {took_s} s\n{text}"
    assert "Traceback" not in text, text
    assert re.search(r"decode worker \d+: prompt 0: KVX_E_PEER_LOST: .", rest), text
    assert "the prefill worker was ended by SIGKILL" in rest, text
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids.values()), "a worker is left"


@tap.cases_for(["numpy", "torch"])
def what_is_not_installed_is_named(module):
    with tempfile.TemporaryDirectory(prefix="kvx-absent-") as folder:
        pathlib.Path(folder, f"{module}.py").write_text("raise ImportError\n")
        out, said = transform("--backend", module, status=1, PYTHONPATH=folder)
    assert not out and len(said.splitlines()) == 1, said
    assert {"numpy": "python3-numpy", "torch": "install PyTorch"}[module] in said, said


@tap.case
def a_library_that_is_not_there_is_named():
    need_numpy()
    out, said = transform("--library", "/nowhere/libkvxfer.so.0", status=1)
    assert not out and len(said.splitlines()) == 1, said
    assert "/nowhere/libkvxfer.so.0" in said and "--library" in said, said


tap.main()
