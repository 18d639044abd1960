# SPDX-License-Identifier: Apache-2.0
"""The microbenchmarks hold the instruction that they name, and compute what the bundle expects."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cuda import emulator
from xnortvm.errors import CompileError, MissingDependencyError
from xnortvm.runtime.cuda_compiler import find_cuda_compiler
from xnortvm.tools.gpu_bundle.ceilings import check_pipelined, fatbin
from xnortvm.tools.gpu_bundle.parts import expected
from xnortvm.tools.gpu_bundle.parts.ceilings import ROWS, compared, group_of
from xnortvm.tools.gpu_bundle.source import MMA, WGMMA, source

#: Kernel → mnemonic of SASS on sm_90a, and whether calls stand for it there.
INSTRUCTIONS = {
    "popc": ("POPC", 8),
    "lop3": ("LOP3", 8),
    "iadd3": ("IADD3", 8),
    "xnor_popc": ("POPC", 32),
    "xnor_csa7": ("POPC", 12),
    "mma_b1_and_8x8x128": ("BMMA", 8),
    "mma_b1_and_16x8x256": ("BMMA", 8),
    "mma_s8_16x8x32": ("IMMA", 8),
    "mma_f16_16x8x16": ("HMMA", 8),
    "wgmma_b1_64x64x256": ("BGMMA", 4),
    "wgmma_b1_64x128x256": ("BGMMA", 4),
    "wgmma_b1_64x256x256": ("BGMMA", 4),
    "wgmma_s8_64x256x32": ("IGMMA", 4),
    "wgmma_f16_64x256x16": ("HGMMA", 4),
}
EMULATED = [name for name in ROWS if "_s8_" not in name and "_f16_" not in name]


@pytest.fixture(scope="module")
def image() -> bytes:
    try:
        if find_cuda_compiler().name != "nvcc":
            pytest.skip("needs nvcc")
    except MissingDependencyError:
        pytest.skip("needs nvcc")
    return fatbin(("75", "90a"))


@pytest.fixture(scope="module")
def sass(image: bytes, tmp_path_factory: pytest.TempPathFactory) -> str:
    tools = [shutil.which(name, path=_path()) for name in ("cuobjdump", "nvdisasm")]
    if None in tools:
        pytest.skip("needs cuobjdump and nvdisasm: pip install nvidia-cuda-cuobjdump and -nvdisasm")
    file = tmp_path_factory.mktemp("sass") / "ceilings.fatbin"
    file.write_bytes(image)
    done = subprocess.run(
        [str(tools[0]), "-sass", str(file)],
        env={"PATH": _path()},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _path() -> str:
    wheels = Path(np.__file__).parents[1] / "nvidia"
    folders = [os.environ.get("PATH", ""), *map(str, wheels.glob("*/bin"))]
    return os.pathsep.join([*folders, "/usr/local/cuda/bin"])


def _function(sass: str, arch: str, name: str) -> str:
    part = sass.split(f"arch = {arch}\n")[1].split("\narch = ")[0]
    return part.split(f"Function : {name}\n")[1].split("Function :")[0]


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_machine_code_has_the_instruction_that_is_measured(sass: str, name: str) -> None:
    mnemonic, least = INSTRUCTIONS[name]
    code = _function(sass, "sm_90a", name)
    assert len(re.findall(rf"\b{mnemonic}\b", code)) >= least
    assert "CALL" not in code


@pytest.mark.parametrize("name", [n for n in INSTRUCTIONS if n.startswith("wgmma")])
def test_wgmma_are_not_waited_for_one_by_one(sass: str, name: str) -> None:
    code = _function(sass, "sm_90a", name)
    between = code.split("GMMA.64")[1:-1]
    assert sum("DEPBAR" in text for text in between) <= len(between) // 4 + 1


def test_turing_has_the_xor_form_and_hopper_emulates_it(sass: str) -> None:
    assert len(re.findall(r"BMMA\S*XOR", _function(sass, "sm_75", "mma_b1_xor_8x8x128"))) >= 8
    assert "CALL" in _function(sass, "sm_90a", "mma_b1_xor_8x8x128")
    assert "mma_b1_and_8x8x128" not in sass.split("arch = sm_75\n")[1].split("\narch = ")[0]


def test_serialised_code_is_refused() -> None:
    with pytest.raises(CompileError, match="would not measure"):
        check_pipelined("ptxas info : (C7514) wgmma.mma_async instructions are serialized due to")
    check_pipelined("ptxas info : fine")


def test_every_kernel_of_the_source_has_a_row() -> None:
    kernels = set(re.findall(r"__launch_bounds__\(256\) (\w+)\(", source()))
    assert kernels == {*ROWS, "read", "copy"}
    assert {*MMA, *WGMMA} <= set(ROWS)
    assert {group_of(name) for name in ROWS} == {"cores", "mma", "wgmma"}


@pytest.mark.skipif(not emulator.has_compiler(), reason="needs g++")
@pytest.mark.parametrize("name", EMULATED)
def test_expected_results_are_those_of_the_kernel(name: str) -> None:
    row, loops = ROWS[name], 2
    words = expected.random_words()
    arrays = [
        emulator.aligned(np.array(words, np.uint32)),
        emulator.aligned(np.full(256, 7, np.uint32)),
        emulator.aligned(np.zeros(4, np.uint64)),
        emulator.aligned(np.array([loops], np.int32)),
    ]
    library = emulator.compile_source(_for_emulator(name))
    shared = (128 + row.wgmma) * 128 if row.wgmma else 0
    names = ("source", "out", "stamps", "loops")
    emulator.launch(library, emulator.Launch(name, names, (1, 1, 1), (256, 1, 1), shared), arrays)
    got = arrays[1].tolist()
    assert compared(got, words, row._replace(loops=loops)) == {"checked": True}
    got[77] ^= 1
    assert not compared(got, words, row._replace(loops=loops))["checked"]


def _for_emulator(name: str) -> str:
    """Return one kernel and all helpers, without clocks."""
    text = re.sub(r"^ +(START|STOP)$", "", source(), flags=re.M)
    text = re.sub(r'asm volatile\("mov.u64[^;]*;"[^;]*;', "t = 0;", text)
    text = re.sub(r'asm volatile\("lop3[^;]*;"[^;]*;', "x[j] = x[j] ^ x[(j + 1) % 8] ^ k[j];", text)
    text = re.sub(r'"\n +"', "", text)
    text = text.replace("THREAD", "(blockIdx.x * blockDim.x + threadIdx.x)")
    helpers, *pieces = re.split(r'^(?=extern "C" __global__)', text, flags=re.M)
    for piece in pieces:
        end = emulator._end(piece, 0)
        helpers += piece[end:]
        if f" {name}(" in piece[:end]:
            kernel = piece[:end]
    return f"{helpers}\n{kernel}"


def test_swapped_strides_are_told_from_other_mistakes() -> None:
    row = ROWS["wgmma_b1_64x64x256"]
    words = expected.random_words()
    assert row.other is not None
    said = compared(row.other(words, row.loops), words, row)
    assert said["checked"] is False
    assert "strides" in said["why"]
    assert "documented" in compared([0] * 256, words, row)["why"]


@pytest.mark.parametrize("name", ["mma_s8_16x8x32", "mma_f16_16x8x16"])
def test_products_of_bytes_and_halves_sum_over_every_word(name: str) -> None:
    """Independently: operands as matrices, multiplied by NumPy."""
    words = np.array(expected.random_words(), np.uint32)
    a = np.zeros((16, 8), np.uint32)
    b = np.zeros((8, 8), np.uint32)
    for lane in range(32):
        g, t = divmod(lane, 4)
        for half in range(2):
            for k in range(2):
                a[g + 8 * half, t + 4 * k] = words[lane + 32 * (half + 2 * k)]
            b[g, t + 4 * half] = words[lane + 32 * half + 256]
    if "s8" in name:
        left, right = (((m.view(np.int8).astype(int) & 127) ^ 64) - 64 for m in (a, b))
    else:
        left, right = (1 - 2 * (m.view(np.uint16).astype(int) & 1) for m in (a, b))
    products = left @ right.T
    row = ROWS[name]
    dot = row.results.keywords["dot"]  # type: ignore[attr-defined]
    got = [[dot(x, y) for y in b.tolist()] for x in a.tolist()]
    np.testing.assert_array_equal(products, got)
