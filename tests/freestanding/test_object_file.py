# SPDX-License-Identifier: Apache-2.0
"""Object files and C text: what is read from them, and what is written into them."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.freestanding.harness import WARNINGS, compiler, run
from xnortvm.errors import CompileError
from xnortvm.freestanding import c_text, export
from xnortvm.freestanding.object_file import ElfObject, Section, read_object
from xnortvm.freestanding.samples import sample_inputs
from xnortvm.runtime.interface import TensorSpec

needs_cc = pytest.mark.skipif(compiler() is None, reason="no C compiler")


@needs_cc
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_symbols_and_sizes_are_those_of_binutils(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(
        "extern int far(void); static int near(void) { return 3; }\n"
        "int state; const int table[5] = {1}; int f(void) { return far() + near() + state; }\n"
    )
    run("cc", "-O0", "-c", "a.c", cwd=tmp_path)
    found = read_object((tmp_path / "a.o").read_bytes())
    if found is None:
        pytest.skip("this machine's objects are not ELF")
    assert {"far"} <= found.undefined
    assert found.defined == {"state", "table", "f"}
    assert found.state == 4
    assert found.constants >= 20
    assert found.code > 0


@pytest.mark.parametrize(
    "data", [b"", b"\x7fELF", b"MZ" + bytes(80), b"\x7fELF\x02\x02" + bytes(80)]
)
def test_what_is_no_elf_file_of_little_endian_is_none(data: bytes) -> None:
    assert read_object(data) is None


@pytest.mark.parametrize("data", [b"\x7fELF\x01\x01", b"\x7fELF\x02\x01" + bytes(20)])
def test_a_truncated_file_is_none(data: bytes) -> None:
    assert read_object(data) is None


def _object(undefined: set[str], defined: set[str] | None = None, state: int = 0) -> ElfObject:
    sections = [Section(".bss", state, True, True, False)]
    names = {"net_run", "net_workspace_bytes"} if defined is None else defined
    return ElfObject(sections, frozenset(names), frozenset(undefined))


@pytest.mark.parametrize(
    "name", ["memset", "expf", "tanh", "erff", "__aeabi_memset", "__udivti3", "__addsf3"]
)
def test_memory_maths_and_arithmetic_are_allowed(name: str) -> None:
    export.check_symbols(_object({name}), "net")


@pytest.mark.parametrize(
    "name", ["malloc", "TVMFFIErrorSetRaisedFromCStrParts", "pthread_create", "printf", "expfx"]
)
def test_anything_else_is_refused_by_name(name: str) -> None:
    with pytest.raises(CompileError, match=f"needs {name}, which no freestanding system offers"):
        export.check_symbols(_object({"memset", name}), "net")


def test_state_and_foreign_global_symbols_are_refused() -> None:
    with pytest.raises(CompileError, match="needs 8 bytes of variables"):
        export.check_symbols(_object(set(), state=8), "net")
    with pytest.raises(CompileError, match="the object file defines kernel, net_run where"):
        export.check_symbols(_object(set(), {"net_run", "kernel"}), "net")


@needs_cc
def test_names_of_tensors_cannot_break_the_header(tmp_path: Path) -> None:
    names = ['a"b', "a*/b", "/*", "a\\", "a\nb", "größe", "??/", "%s", ""]
    specs = [TensorSpec(name, (1, 2), "float32") for name in names]
    text = c_text.header(
        "net",
        specs,
        [TensorSpec("y", (), "bool")],
        about="*/ int x;",
        alignment=64,
        workspace=1,
        needs=(),
    )
    (tmp_path / "net.h").write_text(text)
    (tmp_path / "use.c").write_text('#include "net.h"\nconst char *name = NET_INPUT0_NAME;\n')
    run("cc", *WARNINGS, "-c", "use.c", cwd=tmp_path)


@needs_cc
def test_expected_values_of_every_dtype_come_through_c_exactly(tmp_path: Path) -> None:
    arrays: list[Any] = [
        np.array([0.1, -0.0, 1e-45, 3.4e38, np.inf, -np.inf, np.nan], np.float32),
        np.array([0.1, 5e-324, 1.7e308], np.float64),
        np.array([-(2**63), 2**63 - 1, -5], np.int64),
        np.array([2**64 - 1, 2**63], np.uint64),
        np.array([2**32 - 1], np.uint32),
        np.array([-128, 127], np.int8),
        np.array([True, False]),
    ]
    (tmp_path / "net_expected.h").write_text(c_text.expected_header("net", arrays))
    writes = "".join(
        f"fwrite(net_expected{i}, sizeof *net_expected{i}, NET_EXPECTED{i}_COUNT, stdout);"
        for i in range(len(arrays))
    )
    (tmp_path / "use.c").write_text(
        f'#include <stdio.h>\n#include "net_expected.h"\nint main(void) {{ {writes} return 0; }}\n'
    )
    run("cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "use.c", "-o", "use", cwd=tmp_path)
    run("sh", "-c", "./use > out", cwd=tmp_path)
    out = (tmp_path / "out").read_bytes()
    for array in arrays:
        found = np.frombuffer(out[: array.nbytes], array.dtype)
        np.testing.assert_array_equal(found, array)
        out = out[array.nbytes :]
    assert out == b""


def test_large_outputs_are_sampled_evenly() -> None:
    text = c_text.expected_header("net", [np.arange(5000, dtype=np.int32)])
    assert "#define NET_EXPECTED0_STRIDE 5\n" in text
    assert "#define NET_EXPECTED0_COUNT 1000\n" in text
    assert " 4995," in text


def test_samples_are_those_of_the_generator() -> None:
    state, wanted = 1, []
    for _ in range(7):
        state = (state * 1664525 + 1013904223) % 2**32
        wanted.append(state >> 8)
    specs = [TensorSpec("a", (2, 2), "float32"), TensorSpec("b", (), "int32")]
    specs += [TensorSpec("empty", (0,), "float32"), TensorSpec("c", (2,), "bool")]
    a, b, _, c = sample_inputs(specs)
    np.testing.assert_array_equal(a.ravel(), np.float32(wanted[:4]) / np.float32(2**23) - 1)
    assert b == wanted[4] >> 22
    np.testing.assert_array_equal(c, np.array(wanted[5:7]) >> 23)


def test_32_bit_objects_are_read_too() -> None:
    names = b"\0.text\0"
    header = b"\x7fELF\x01\x01" + bytes(10)
    header += struct.pack("<HHIIIIIHHHHHH", 1, 40, 1, 0, 0, 52, 0, 52, 0, 0, 40, 2, 1)
    sections = struct.pack("<10I", 1, 1, 6, 0, 0, 24, 0, 0, 4, 0)
    sections += struct.pack("<10I", 0, 3, 0, 0, 132, len(names), 0, 0, 1, 0)
    found = read_object(header + sections + names)
    assert found is not None
    assert found.code == 24
