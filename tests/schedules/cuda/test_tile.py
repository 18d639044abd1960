# SPDX-License-Identifier: Apache-2.0
"""The machine code of the CUDA cores' products is what their rates are computed from."""

from __future__ import annotations

import pytest

from tests.cuda.machine_code import code_of, count, needs_disassembler
from tests.ops.kernel_cases import Conv, bconv2d_case
from tests.schedules.cuda.kernels import WHOLE
from xnortvm.schedules.cuda.epilogue import narrowed
from xnortvm.schedules.cuda.tile import VECTOR, Tile, tile
from xnortvm.schedules.isa import gpu

ARCHES = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120"]


@needs_disassembler
@pytest.mark.parametrize("masked", [False, True] if WHOLE else [False])
@pytest.mark.parametrize("rows", [4, 8] if WHOLE else [8])
@pytest.mark.parametrize("arch", ARCHES if WHOLE else ["sm_75", "sm_120"])
def test_four_words_are_one_popc_and_ten_lop3(arch: str, rows: int, masked: bool) -> None:
    """Four exclusive ors, with the mask where there is one, and three full adders of two LOP3."""
    made = Tile(rows, 2, 9, carry_save=True)
    func = narrowed(bconv2d_case(Conv(128, 128, (28, 28), masked=masked), gpu(arch)).func)
    code = code_of(tile(func, arch, made), arch)
    code.check()
    loop = code.loop_with("POPC", "LDS")
    vectors = rows + made.columns * (2 if masked else 1)
    turns, rest = divmod(count(loop, "LDS", ".128"), vectors)
    assert rest == 0
    assert turns
    assert count(loop, "LDS") == turns * vectors
    assert count(loop, "POPC") == turns * rows * made.columns
    assert count(loop, "LOP3") == 10 * count(loop, "POPC")
    assert code.count("LDG", ".128")
    assert code.count("STS", ".128")


@needs_disassembler
@pytest.mark.parametrize("arch", ARCHES if WHOLE else ["sm_90a"])
def test_word_by_word_each_has_one_lop3_and_one_popc(arch: str) -> None:
    made = Tile(8, 2, 9, carry_save=False)
    func = narrowed(bconv2d_case(Conv(128, 128, (28, 28)), gpu(arch)).func)
    loop = code_of(tile(func, arch, made), arch).loop_with("POPC", "LDS")
    assert count(loop, "LOP3") == count(loop, "POPC") == made.rows * made.columns * VECTOR
