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
from xnortvm.schedules.cuda import patch_plan, wgmma_conv
from xnortvm.schedules.cuda.dispatch import families_for, make_kernel
from xnortvm.schedules.cuda.epilogue import Anchor, NotElementwiseError, narrowed, read_anchor
from xnortvm.schedules.isa import gpu
from xnortvm.tools.gpu_bundle.layers import BATCHES, LAYERS, Layer

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
    "pairs of pixels": Conv(64, 64, (7, 9), images=2),
    "pairs of pixels, stride 2": Conv(64, 128, (9, 7), strides=(2, 2), images=2),
    "four pixels": Conv(32, 33, (6, 5), images=8),
    "3 words": Conv(96, 40, (5, 6)),
    "5 words, strides 1 and 3": Conv(150, 32, (7, 11), strides=(1, 3)),
    "6 words, stride 2": Conv(192, 32, (5, 9), strides=(2, 2)),
    "12 words": Conv(384, 48, (5, 5)),
    "16 words, stride 2": Conv(512, 32, (7, 7), strides=(2, 2)),
    "groups": Conv(128, 64, (6, 6), groups=2),
    "groups of one word, strides 2 and 1": Conv(96, 96, (7, 6), groups=3, strides=(2, 1)),
    "dilation and stride": Conv(
        32, 32, (9, 8), dilation=(3, 1), strides=(2, 2), padding=(2, 0, 3, 1)
    ),
    "padding on one side": Conv(64, 32, (6, 6), strides=(2, 2), padding=(0, 0, 1, 1), images=2),
    "wide padding": Conv(64, 32, (3, 3), kernel=(2, 2), padding=(3, 3, 3, 3), images=2),
    "one row": Conv(33, 32, (3, 9), kernel=(1, 7), padding=(0, 3, 0, 3)),
    "taps far apart": Conv(
        32, 32, (9, 19), kernel=(2, 2), dilation=(3, 3), strides=(4, 4), padding=(0,) * 4
    ),
    "7x7 of an image": Conv(
        3, 64, (9, 9), kernel=(7, 7), strides=(2, 2), padding=(3,) * 4, pad_value=1
    ),
}
#: What `make test` runs; the rest is left to `make test-cuda`.
FEW = (
    "several turns of a block",
    "padding by 1, 2x3",
    "pairs of pixels",
    "pairs of pixels, stride 2",
    "four pixels",
    "12 words",
    "groups",
)
SAMPLED = [(name, EPILOGUES[(i + 1) % len(EPILOGUES)]) for i, name in enumerate(FEW)]
GRID = [(name, kind) for name in CONVS for kind in EPILOGUES]

REFUSED = {
    "no taps": Conv(128, 64, kernel=(1, 1), padding=(0,) * 4),
    "fill up with zeros": Conv(128, 64, pad_value=-1),
    "do not fit": Conv(2048, 64, kernel=(5, 5), padding=(2,) * 4),
    "need a mask": Conv(128, 64, masked=True),
    "do not fill words": Conv(80, 64, groups=2),
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


def family(conv: Conv) -> str:
    """Return what the table chooses."""
    return families_for(read_anchor(bconv2d_case(conv, gpu(ARCH)).func), ARCH)[0].name


def test_the_table_takes_it_where_few_positions_are_wasted() -> None:
    assert family(Conv(64, 64, (6, 6))) == "wgmma_conv"
    assert family(Conv(64, 64, (12, 12), strides=(2, 2))) == "wgmma_conv"
    assert family(Conv(64, 64, (6, 6), kernel=(1, 1), padding=(0,) * 4)) == "wgmma_gemm"
    assert family(Conv(64, 64, (2, 2), images=9)) == "wgmma_gemm"  # 9 positions for 4 pixels
    assert family(Conv(64, 64, (5, 5))) == "mma_and"
    assert family(Conv(64, 16, (8, 8))) == "mma_and"


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_every_layer_of_resnet_is_computed_so(layer: Layer, batch: int) -> None:
    pad = layer.kernel // 2
    problem = Problem(
        *(batch, layer.size, layer.size, layer.channels, layer.outputs),
        kernel=(layer.kernel, layer.kernel),
        strides=(layer.stride, layer.stride),
        padding=(pad, pad, pad, pad),
    )
    plan = patch_plan.plan_of(problem)
    assert 2 * (plan.shared + 1024) <= 227 << 10
    assert plan.blocks * plan.column_tiles <= patch_plan.MULTIPROCESSORS * patch_plan.BLOCKS
    # As many columns share a patch as there is work for: few where blocks would idle.
    assert plan.tile.columns == (
        min(layer.outputs, 128) if batch == 256 and layer.size > 7 else plan.tile.columns
    )
    assert batch > 1 or plan.tile.columns == 32
    anchor = Anchor("bconv2d", problem, [None, None])
    assert families_for(anchor, ARCH)[0].name == "wgmma_conv"


MACHINE_CODE = {
    "pairs of pixels": (Conv(64, 64, (56, 56)), 64),
    "stride 2": (Conv(128, 256, (28, 28), strides=(2, 2)), 128),
    "whole chunks": (Conv(256, 256, (14, 14)), 128),
}


@needs_disassembler
@pytest.mark.parametrize("name", MACHINE_CODE if WHOLE else list(MACHINE_CODE)[:1])
def test_the_machine_code_is_native(name: str) -> None:
    conv, columns = MACHINE_CODE[name]
    tile = patch_plan.Tile(columns)
    for kind in EPILOGUES if WHOLE else ["threshold"]:
        func = narrowed(bconv2d_case(conv, gpu(ARCH), kind).func)
        problem = read_anchor(func).problem
        target = cuda_target(ARCH)
        _, device = lower(wgmma_conv.make(func, ARCH, tile, blocks=1), target)
        code, said = disassemble(device_source(device, target), ARCH)
        ops = Counter(code)
        products = sum(count for op, count in ops.items() if op.startswith("BGMMA"))
        assert products == patch_plan.plan_of(problem, tile).patch.steps
        assert not [op for op in ops if re.match(r"CALL|IMMA", op)]
        assert any(op.startswith("LDGSTS") for op in ops)
        assert "C7510" not in said
        assert int(re.findall(r"Used (\d+) registers", said)[0]) <= 128  # two blocks
        assert int(re.findall(r"(\d+) bytes spill stores", said)[0]) <= 8
        assert "used 3 barriers" in said


def test_a_kernel_is_made_by_the_table() -> None:
    assert make_kernel(bconv2d_case(Conv(64, 64, (6, 6)), gpu(ARCH)).func, ARCH)[1] == "wgmma_conv"
