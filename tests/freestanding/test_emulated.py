# SPDX-License-Identifier: Apache-2.0
"""Freestanding models for other machines, run in qemu: the outputs are those of this one."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")

import xnortvm  # noqa: E402
from tests.freestanding.harness import WARNINGS, run  # noqa: E402
from tests.freestanding.nets import NETS  # noqa: E402
from xnortvm.freestanding.object_file import read_object  # noqa: E402

#: What examples allow (1e-4), divided by this, is what other machines may differ by here.
STRICTER = 10


class Board(NamedTuple):
    """A target, what runs its programs, a cross compiler, and zig's name of it with musl."""

    target: str
    emulator: str
    gcc: str
    zig: str


BOARDS = {
    "aarch64": Board("rpi4", "qemu-aarch64", "aarch64-linux-gnu-gcc", "aarch64-linux-musl"),
    "armv7": Board("armv7", "qemu-arm", "arm-linux-gnueabihf-gcc", "arm-linux-musleabihf"),
    "riscv64": Board(
        "llvm -mtriple=riscv64-linux-musl -mcpu=generic-rv64 -mattr=+m,+a,+f,+d,+c -mabi=lp64d",
        "qemu-riscv64",
        "riscv64-linux-gnu-gcc",
        "riscv64-linux-musl",
    ),
}
#: Every kind of output on both ARM boards. gcc links a program with glibc, zig with musl.
CASES = [
    ("aarch64", "gcc", "cifar"),
    ("aarch64", "gcc", "several"),
    ("aarch64", "zig", "integers"),
    ("armv7", "gcc", "several"),
    ("armv7", "zig", "lenet"),
    ("armv7", "zig", "several"),
    ("armv7", "zig", "integers"),
    ("riscv64", "zig", "lenet"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders by target and network, each compiled once."""
    made: dict[tuple[str, str], Path] = {}

    def get(target: str, name: str) -> Path:
        if (target, name) not in made:
            net = NETS[name]()
            folder = tmp_path_factory.mktemp("arm") / name
            compiled = xnortvm.compile(net.module, target=target, example_inputs=net.inputs)
            compiled.save_freestanding(folder, prefix=name)
            made[target, name] = folder
        return made[target, name]

    return get


def _compiler(board: Board, kind: str, tmp_path: Path) -> list[str]:
    """Return a C compiler that can link a program, or skip."""
    if shutil.which(board.emulator) is None:
        pytest.skip(f"no {board.emulator} (Debian, Ubuntu: sudo apt install qemu-user)")
    if kind == "zig":
        if importlib.util.find_spec("ziglang") is None:
            pytest.skip('no zig (pip install "xnortvm[cross]")')
        return [sys.executable, "-m", "ziglang", "cc", "-target", board.zig]
    if shutil.which(board.gcc) is None:
        pytest.skip(f"no {board.gcc}")
    (tmp_path / "empty.c").write_text("#include <stdio.h>\nint main(void) { return 0; }\n")
    try:
        run(board.gcc, "-static", "empty.c", "-o", "empty", cwd=tmp_path)
    except AssertionError:
        pytest.skip(f"{board.gcc} has no C library")
    return [board.gcc]


@pytest.mark.parametrize(("machine", "kind", "name"), CASES)
def test_a_static_program_computes_what_this_machine_computes(
    saved: Any, tmp_path: Path, machine: str, kind: str, name: str
) -> None:
    board = BOARDS[machine]
    compiler = _compiler(board, kind, tmp_path)
    folder = saved(board.target, name)
    header = (folder / f"{name}_expected.h").read_text()
    (tmp_path / f"{name}_expected.h").write_text(
        re.sub(r"(_TOLERANCE .*)", rf"\1 / {STRICTER}", header)
    )
    for file in ("main.c", f"{name}.h", f"{name}.o"):
        shutil.copy(folder / file, tmp_path)
    run(
        *compiler,
        *WARNINGS,
        "-O1",
        "-static",
        "main.c",
        f"{name}.o",
        "-lm",
        "-o",
        "e",
        cwd=tmp_path,
    )
    assert run(board.emulator, tmp_path / "e").startswith("0 of ")


@pytest.mark.parametrize(
    "target", ["rpi4", "armv7", "llvm -mtriple=aarch64-unknown-none-elf -mcpu=cortex-a53"]
)
def test_the_object_needs_memory_functions_at_most(saved: Any, target: str) -> None:
    elf = read_object((saved(target, "linear") / "linear.o").read_bytes())
    assert elf is not None
    assert elf.undefined <= {"memset", "memcpy", "memmove"}
    assert elf.state == 0
