# SPDX-License-Identifier: Apache-2.0
"""Outputs of tensor-core kernels are stored as vectors, and computed once."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest

from tests.cuda.emulator import cuda_target, device_source, has_compiler, lower
from tests.cuda.machine_code import disassemble, needs_disassembler
from tests.ops.kernel_cases import Conv, bconv2d_case
from tests.schedules.cuda.kernels import WHOLE, check
from xnortvm.schedules.cuda import mma, wgmma_conv, wgmma_gemm
from xnortvm.schedules.cuda.direct import direct
from xnortvm.schedules.cuda.epilogue import narrowed
from xnortvm.schedules.cuda.tile import tile
from xnortvm.schedules.isa import gpu

FAMILIES = {"wgmma_conv": (wgmma_conv, "sm_90a"), "wgmma_gemm": (wgmma_gemm, "sm_90a")}
FAMILIES |= {f"mma {arch}": (mma, arch) for arch in ("sm_75", "sm_80", "sm_90")}


def machine_code(family: ModuleType, arch: str, conv: Conv, kind: str) -> Counter[str]:
    made = family.make(narrowed(bconv2d_case(conv, gpu(arch), kind).func), arch)
    target = cuda_target(arch)
    _, device = lower(made, target)
    code, _ = disassemble(device_source(device, target), arch)
    # Every access of sm_75 has "SYS".
    return Counter(name.replace(".CONSTANT", "").replace(".SYS", "") for name in code)


@needs_disassembler
@pytest.mark.parametrize("name", FAMILIES if WHOLE else ["wgmma_conv", "mma sm_80"])
def test_floats_and_bits_are_computed_once_and_floats_stored_as_vectors(name: str) -> None:
    family, arch = FAMILIES[name]
    conv = Conv(128, 128, (28, 28), images=8)
    floats, both = (machine_code(family, arch, conv, k) for k in ("residual", "two outputs"))
    assert both["FFMA"] == floats["FFMA"] == 4 * floats["STG.E.128"] > 0
    assert floats["STG.E"] == 0
    assert both["STG.E.128"] == floats["STG.E.128"]
    assert 0 < both["STG.E"] <= both["STG.E.128"]  # a word for each 32 floats
    # The residual, the scale and the table of borders are vectors too.
    assert floats["LDG.E"] == 0
    assert floats["LDG.E.128"] >= floats["STG.E.128"]


@needs_disassembler
def test_channels_that_are_no_multiple_of_4_are_stored_one_by_one() -> None:
    code = machine_code(mma, "sm_80", Conv(128, 66, (28, 28)), "residual")
    assert code["STG.E.128"] == 0
    assert code["STG.E"] == code["FFMA"] > 0


@needs_disassembler
@pytest.mark.parametrize("name", FAMILIES if WHOLE else ["wgmma_conv", "mma sm_80"])
def test_a_trunk_in_fp16_moves_8_bytes_at_a_time(name: str) -> None:
    family, arch = FAMILIES[name]
    code = machine_code(family, arch, Conv(128, 128, (28, 28), images=8), "fp16 trunk")
    assert code["STG.E.64"] == code["FFMA"] / 4 > 0
    assert code["LDG.E.64"] == code["STG.E.64"]
    assert code["LDG.E.U16"] == code["STG.E.U16"] == code["STG.E.128"] == 0
    assert sum(n for op, n in code.items() if op.startswith("F2F")) >= code["FFMA"] / 2


#: From the family to how its kernel is made.
KERNELS = {
    "tile": lambda func: tile(func),
    "direct": lambda func: direct(func),
    **{
        name: lambda func, f=family, a=arch: f.make(func, a)
        for name, (family, arch) in FAMILIES.items()
    },
}


@pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")
@pytest.mark.parametrize("name", KERNELS if WHOLE else ["tile", "wgmma_conv", "mma sm_80"])
def test_a_trunk_in_fp16_is_rounded_once_and_its_signs_are_those_before(name: str) -> None:
    """With channels that fill a tile, that fill it in part, and that are no multiple of 4."""
    arch = name.split(" ")[-1] if "mma " in name else "sm_90a"
    for conv in (Conv(128, 64, (5, 6)), Conv(128, 40, (4, 4)), Conv(128, 33, (3, 4))):
        check(bconv2d_case(conv, gpu(arch), "fp16 trunk"), KERNELS[name], arch)
