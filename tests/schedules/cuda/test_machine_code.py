# SPDX-License-Identifier: Apache-2.0
"""Every family, epilogue and odd shape is native code on every architecture that has the family."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cuda.machine_code import codes_of, needs_disassembler
from tests.ops.kernel_cases import EPILOGUES, Case, Conv, bconv2d_case, bdense_case
from tests.schedules.cuda.kernels import CONVS, DENSE, UNPACKED, WHOLE
from tests.schedules.cuda.test_wgmma_conv import CONVS as PATCHES
from xnortvm.schedules.cuda.dispatch import FAMILIES
from xnortvm.schedules.cuda.epilogue import narrowed
from xnortvm.schedules.isa import gpu

MAKE = {family.name: family.make for family in FAMILIES}
CORES = ("sm_75", "sm_80", "sm_90a", "sm_120")
PACKED = ("threshold", "pack", "two outputs")

#: What computes the sums, by family and architecture.
NATIVE: dict[tuple[str, str], str] = {
    **{(family, arch): "POPC" for family in ("gemv", "tile", "direct") for arch in CORES},
    ("mma_xor", "sm_75"): "BMMA.88128.XOR",
    **{("mma_xor", arch): "BMMA.168256.XOR" for arch in ("sm_80", "sm_86", "sm_89")},
    ("mma_and", "sm_90"): "BMMA.168256.AND",
    ("wgmma_gemm", "sm_90a"): "BGMMA",
    ("wgmma_conv", "sm_90a"): "BGMMA",
}

#: Convolutions beside those of all families, some of their own.
SHAPES: dict[str, dict[str, Conv]] = {
    "gemv": {"1x1": Conv(96, 40, (1, 1), (1, 1), padding=(0,) * 4, images=2)},
    "tile": {name: conv for name, conv in CONVS.items() if conv.groups == 1},
    "direct": {**CONVS, "depthwise": Conv(24, 24, (5, 7), groups=24), "zeros": Conv(masked=True)},
    "wgmma_conv": PATCHES,
}
#: A kernel in which ptxas keeps few registers, for more blocks, and puts one pair into memory once.
TIGHT = ("mma_and", "dilation, padding by -1")
PAIR = {"LDL": 1, "STL": 1}
ROWS = {"batch 1": (1, 300, 33), "3 rows": (3, 4608, 64)}


def cases(family: str, arch: str, kind: str) -> Iterator[tuple[str, Case]]:
    """Return the cases of a family with one epilogue."""
    for name, conv in SHAPES.get(family, CONVS).items():
        joins = family.startswith(("mma", "wgmma")) and name == UNPACKED
        if not (joins and kind in PACKED):
            yield name, bconv2d_case(conv, gpu(arch), kind)
    if family != "wgmma_conv":
        for name, shape in (ROWS if family == "gemv" else DENSE).items():
            yield name, bdense_case(*shape, gpu(arch), kind)


SAMPLED = [("gemv", "sm_120", "pack"), ("direct", "sm_75", "two outputs")]
GRID = [(family, arch, kind) for family, arch in NATIVE for kind in EPILOGUES]


@needs_disassembler
@pytest.mark.parametrize(("family", "arch", "kind"), GRID if WHOLE else SAMPLED)
def test_kernels_are_native_without_calls_and_spills(family: str, arch: str, kind: str) -> None:
    chosen = list(cases(family, arch, kind))[: None if WHOLE else 3]
    funcs = {f"k{n}": MAKE[family](narrowed(case.func), arch) for n, (_, case) in enumerate(chosen)}
    codes = codes_of(funcs, arch)
    wrong = {}
    for number, (name, _) in enumerate(chosen):
        code = codes[f"k{number}_kernel"]
        assert code.count(NATIVE[family, arch]), name
        if kind in PACKED and NATIVE[family, arch] == "POPC":
            assert code.count("VOTE"), name
        found = {foreign: count for foreign, count in code.foreign.items() if count}
        if found and not ((family, name) == TIGHT and found == PAIR):
            wrong[name] = found
    assert not wrong
