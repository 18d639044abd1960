# SPDX-License-Identifier: Apache-2.0
"""Instructions for an output are counted, and are no more than they were."""

from __future__ import annotations

import pytest

from tests.cuda.machine_code import needs_disassembler
from tests.schedules.cuda.kernels import WHOLE
from xnortvm.schedules.cuda.patch_plan import plan_of
from xnortvm.tools.gpu_bundle.instructions import (
    Code,
    disassemble,
    outputs_of_a_turn,
    problem_of,
    source_of,
)
from xnortvm.tools.gpu_bundle.layers import LAYERS

#: Instructions for an output, as `python -m xnortvm.tools.gpu_bundle.instructions` printed them.
MOST = {
    ("3x3 64-64 56", "bits"): 14.4,
    ("3x3 64-64 56", "clamped and bits"): 21.5,
    ("3x3 64-128 56 s2", "bits"): 10.4,
    ("3x3 128-128 28", "bits"): 10.5,
    ("3x3 256-256 14", "bits"): 11.3,
    ("3x3 256-256 14", "clamped and bits"): 18.8,
    ("3x3 512-512 7", "bits"): 17.0,
}


def test_a_turn_is_the_longest_loop() -> None:
    lines = [
        (0x00, "MOV R1, c[0x0][0x28]"),
        (0x10, "IADD3 R2, R2, 0x1, RZ"),
        (0x20, "@P0 BRA 0x10"),
        (0x30, "@!P1 LDS.128 R4, [R8]"),
        (0x40, "@P2 BRA 0x60"),
        (0x50, "POPC R4, R4"),
        (0x60, "@UP0 BRA.U 0x30"),
        (0x70, "EXIT"),
    ]
    assert Code(lines, 32, 0).turn == ["LDS.128", "BRA", "POPC", "BRA.U"]
    assert Code(lines[:2], 32, 0).turn == []


@needs_disassembler
@pytest.mark.parametrize(("name", "epilogue"), MOST if WHOLE else list(MOST)[:1])
def test_an_output_takes_no_more_instructions_than_it_did(name: str, epilogue: str) -> None:
    (layer,) = (each for each in LAYERS if each.name == name)
    code, plan = disassemble(source_of(layer, epilogue)), plan_of(problem_of(layer))
    assert sum(each.startswith("BGMMA") for each in code.turn) == plan.patch.steps
    assert 0 < len(code.turn) / outputs_of_a_turn(plan) <= MOST[name, epilogue]
    assert code.registers * plan.tile.blocks * 256 <= 65536
