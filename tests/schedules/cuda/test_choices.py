# SPDX-License-Identifier: Apache-2.0
"""Every tile that tuning may try computes what a CPU does, with the weights that it asks for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.cuda.emulator import Program, has_compiler
from tests.ops.kernel_cases import Conv, bconv2d_case
from tests.schedules.cuda.kernels import WHOLE
from tests.schedules.test_decisions import output_of
from tests.tuning.networks import binary_task
from xnortvm import models
from xnortvm.api import lower as to_graph
from xnortvm.ops.problem import Problem
from xnortvm.schedules import DECIDED_BY
from xnortvm.schedules.cuda import choices, mma, patch_plan
from xnortvm.schedules.cuda.decisions import GpuDecisions
from xnortvm.schedules.cuda.dispatch import legal, make_kernel, make_wanted
from xnortvm.schedules.cuda.gemm import Gemm
from xnortvm.schedules.cuda.wgmma_tile import Tile
from xnortvm.schedules.decisions import read_decisions
from xnortvm.schedules.isa import gpu
from xnortvm.target import resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.tuning.space import lower, random_inputs, space_of, tasks_for
from xnortvm.tuning.task import Task

LAYER = Layer(3, 128, 6, 72, 1)
#: ResNet-18's convolutions.
SHAPES = [(64, 56), (128, 28), (256, 14), (512, 7)]


def candidates(layer: Layer, arch: str) -> list[GpuDecisions]:
    space = space_of(binary_task(layer), resolve(f"cuda -arch={arch}"))
    assert space is not None
    return space.legal  # type: ignore[return-value]


def sampled() -> list[tuple[str, GpuDecisions]]:
    """Of each family some tile that its rule does not take here, or all."""
    found = []
    for arch in ("sm_75", "sm_90a"):
        legal = candidates(LAYER, arch)
        families = dict.fromkeys(each.family for each in legal)
        for family in families:
            tiles = [each for each in legal if each.family == family]
            if arch == "sm_75" and family == "tile":
                continue  # the same as that of the other
            found += [(arch, each) for each in (tiles if WHOLE else tiles[-1:])]
    return found


@pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")
@pytest.mark.parametrize(("arch", "decisions"), sampled(), ids=str)
def test_a_candidate_gives_the_bits_of_a_cpu(arch: str, decisions: GpuDecisions) -> None:
    check(binary_task(LAYER), arch, decisions)


@pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")
def test_thresholds_that_differ_by_position_read_scalars() -> None:
    form = {"padding": 1, "scale": "channel×height×width", "map_size": 6, "sign_zero": "+1"}
    layers = models.BinaryConv2d(64, 64, 3, **form), models.BinaryConv2d(64, 32, 1, scale="none")
    net = models.randomize_(torch.nn.Sequential(*layers), seed=1).eval()
    target = resolve("cuda -arch=sm_90a")
    graph = to_graph(net, example_inputs=torch.randn(1, 64, 6, 6), sign_zero="+1")
    task, *_ = tasks_for(graph, target)
    func = lower(task, target, None, scheduled=False).func
    assert () in [tuple(param.shape) for param in func.params]
    rules = {each.family: each for each in reversed(space_of(task, target).legal)}
    for family in ("mma_and", "tile"):
        check(task, "sm_90a", rules[family])


def check(task: Task, arch: str, decisions: GpuDecisions) -> None:
    """Compare a candidate in the emulator with the kernel of this CPU."""
    here = resolve("llvm")
    made = lower(task, resolve(f"cuda -arch={arch}"), decisions, scheduled=True)
    assert str(made.func.attrs[DECIDED_BY]) == "tuned"
    inputs = random_inputs(made)
    given = [inputs[each] if isinstance(each, int) else each for each in made.arguments]
    outputs = Program(made.func, arch).run(*(np.require(each, requirements="C") for each in given))
    expected = output_of(task, here, space_of(task, here).rule)
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90", "sm_90a", "sm_120"])
def test_the_rule_comes_first_and_no_candidate_twice(arch: str) -> None:
    func = bconv2d_case(Conv(64, 64, (8, 8)), gpu(arch)).func
    found = legal(func, arch)
    assert found[0].family == make_kernel(func, arch)[1]
    assert len(set(found)) == len(found) > 20
    assert make_wanted(func, arch, found[-1]) is not None


def test_families_that_a_rule_finds_too_large_may_be_tried() -> None:
    found = {each.family for each in candidates(LAYER, "sm_90a")}
    assert found == {"wgmma_conv", "wgmma_gemm", "mma_and", "tile"}
    assert {each.family for each in candidates(LAYER, "sm_120")} == {"tile"}


def test_float_sums_stay_with_the_family_of_the_rule() -> None:
    from tests.tuning.test_gpu import float_task

    space = space_of(float_task(), resolve("cuda -arch=sm_90a"))
    assert space is not None
    assert {each.family for each in space.legal} == {"tile"}
    assert len(space.legal) > 10


def test_what_is_not_legal_is_refused() -> None:
    func = bconv2d_case(Conv(64, 64, (8, 8)), gpu("sm_75")).func
    hopper = GpuDecisions.of("wgmma_gemm", Tile(64))
    large = GpuDecisions.of("mma_xor", mma.TILES[0]._replace(rows=128))
    for wanted in (hopper, large, GpuDecisions("tile"), GpuDecisions("none")):
        assert make_wanted(func, "sm_75", wanted) is None


@pytest.mark.parametrize(("channels", "size"), SHAPES)
def test_tiles_fit_the_chip(channels: int, size: int) -> None:
    problem = Problem(256, size, size, channels, channels, kernel=(3, 3), padding=(1,) * 4)
    for each in choices.tiles_of("mma_and", problem):
        assert each.stage.size * 4 * each.stages <= 48 << 10
        assert each.threads <= 1024
    gemm = Gemm.of(problem)
    for each in choices.tiles_of("wgmma_gemm", problem):
        assert each.blocks * (each.shared(gemm) + 1024) <= 228 << 10
        assert each.columns <= 256
    for each in choices.tiles_of("wgmma_conv", problem):
        shared = patch_plan.plan_of(problem, each).shared
        assert each.blocks * (shared + 1024) <= 227 << 10


def test_decisions_survive_json_and_are_readable() -> None:
    made = GpuDecisions.of("mma_and", mma.TILES[1])
    assert read_decisions(json.loads(json.dumps(made.to_json()))) == made
    assert str(made) == "mma_and, warps 4×1, rows 32, columns 64, words 16, stages 4"
    assert made.numbers["warps 0"] == 2.0
    gemv = GpuDecisions.of("gemv", None)
    assert read_decisions(gemv.to_json()) == gemv
    for tile in ({}, {"tile": [1]}, {"tile": None}, {"tile": {"rows": "x"}}):
        with pytest.raises(ValueError, match="no decisions of a kernel for GPUs"):
            read_decisions({"family": "tile", **tile})
