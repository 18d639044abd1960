# SPDX-License-Identifier: Apache-2.0
"""Direct convolutions on Hopper's warpgroup tensor cores count exactly, and are native code."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.cuda.emulator import cuda_target, device_source, has_compiler, lower
from tests.cuda.machine_code import disassemble, needs_disassembler
from tests.ops.kernel_cases import EPILOGUES, Conv, bconv2d_case
from tests.schedules.cuda.kernels import WHOLE, check
from xnortvm.ops.problem import Problem
from xnortvm.schedules.cuda import wgmma_conv
from xnortvm.schedules.cuda.dispatch import families_for, make_kernel
from xnortvm.schedules.cuda.epilogue import NotElementwiseError, narrowed, read_anchor
from xnortvm.schedules.isa import gpu

ARCH = "sm_90a"
needs_gxx = pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")

CONVS = {
    "zero padding, an odd number of chunks": Conv(128, 64, (6, 6), images=2),
    "several turns of a block": Conv(256, 128, (9, 9), images=3),
    "dilation": Conv(512, 40, (5, 9), dilation=(2, 1), padding=(2, 1, 2, 1)),
    "padding by 1, 2x3": Conv(
        250, 65, (7, 5), kernel=(2, 3), padding=(1, 0, 2, 1), pad_value=1, images=2
    ),
    "no padding, 5x5, batch of 8": Conv(128, 33, (6, 7), kernel=(5, 5), padding=(0,) * 4, images=8),
    "K = 4608": Conv(512, 32, (4, 4)),
    "padding by -1 that is none": Conv(256, 32, (6, 5), padding=(0,) * 4, pad_value=-1),
}
SAMPLED = [(name, EPILOGUES[(i + 1) % len(EPILOGUES)]) for i, name in enumerate(CONVS)]
GRID = [(name, kind) for name in CONVS for kind in EPILOGUES]

REFUSED = {
    "a stride": Conv(128, 64, strides=(2, 1)),
    "groups": Conv(256, 64, groups=2),
    "16 bytes": Conv(64, 64),
    "odd number of chunks": Conv(384, 64),
    "no taps": Conv(128, 64, kernel=(1, 1), padding=(0,) * 4),
    "fill up with zeros": Conv(128, 64, pad_value=-1),
    "do not fit": Conv(2048, 64, kernel=(5, 5), padding=(2,) * 4),
    "need a mask": Conv(128, 64, masked=True),
}


@needs_gxx
@pytest.mark.parametrize(("name", "kind"), GRID if WHOLE else SAMPLED)
def test_convolutions_are_exact(name: str, kind: str) -> None:
    case = bconv2d_case(CONVS[name], gpu(ARCH), kind)
    check(case, lambda func: wgmma_conv.make(func, ARCH, blocks=1), ARCH)


@needs_gxx
@pytest.mark.parametrize("blocks", [2, 3])
def test_blocks_share_the_tiles(blocks: int) -> None:
    case = bconv2d_case(CONVS["several turns of a block"], gpu(ARCH), "threshold")
    check(case, lambda func: wgmma_conv.make(func, ARCH, blocks=blocks), ARCH, early=True)


@pytest.mark.parametrize("why", REFUSED)
def test_does_not_take_what_has_no_patch(why: str) -> None:
    func = narrowed(bconv2d_case(REFUSED[why], gpu(ARCH)).func)
    with pytest.raises(NotElementwiseError, match=why):
        wgmma_conv.make(func, ARCH)
    assert not wgmma_conv.takes(read_anchor(func))


def test_only_hoppers_own_architecture_has_it() -> None:
    with pytest.raises(NotElementwiseError, match="sm_90 has no wgmma"):
        wgmma_conv.make(narrowed(bconv2d_case(Conv(128, 64), gpu("sm_90")).func), "sm_90")


def test_the_table_takes_it_where_there_is_work_for_the_chip() -> None:
    def family(images: int) -> str:
        anchor = read_anchor(bconv2d_case(Conv(128, 64, (6, 6), images=images), gpu(ARCH)).func)
        return families_for(anchor, ARCH)[0].name

    assert family(300) == "wgmma_conv"
    assert family(2) == "wgmma_gemm"


@pytest.mark.parametrize(("channels", "size"), [(128, 28), (256, 14), (512, 7)])
def test_layers_of_resnet_keep_their_weights_in_shared_memory(channels: int, size: int) -> None:
    problem = Problem(256, size, size, channels, channels, kernel=(3, 3), padding=(1, 1, 1, 1))
    patch = wgmma_conv.patch_of(problem)
    assert patch.columns == 128
    assert patch.steps * 256 - 9 * channels in (0, 128)
    assert 2 * (patch.shared + 1024) <= 227 << 10


@needs_disassembler
def test_the_machine_code_is_native() -> None:
    for kind in EPILOGUES if WHOLE else ["threshold"]:
        func = narrowed(bconv2d_case(Conv(256, 256, (14, 14)), gpu(ARCH), kind).func)
        target = cuda_target(ARCH)
        _, device = lower(wgmma_conv.make(func, ARCH), target)
        code, said = disassemble(device_source(device, target), ARCH)
        ops = Counter(code)
        assert sum(count for op, count in ops.items() if op.startswith("BGMMA")) == 9
        assert not [op for op in ops if re.match(r"CALL|IMMA|LDL|STL", op)]
        assert any(op.startswith("LDGSTS.E.BYPASS.128") for op in ops)
        assert " 0 bytes spill stores" in said
        assert "C7510" not in said
        assert int(re.findall(r"Used (\d+) registers", said)[0]) <= 128  # two blocks
        assert "used 3 barriers" in said


def test_a_kernel_is_made_by_the_table() -> None:
    case = bconv2d_case(Conv(128, 64, (6, 6), images=300), gpu(ARCH))
    assert make_kernel(case.func, ARCH)[1] == "wgmma_conv"
