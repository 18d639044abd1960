# SPDX-License-Identifier: Apache-2.0
"""Float sums in steps: the numbers of a step, and kernels made of them, emulated."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.ops.kernel_cases import Conv, conv2d_case, dense_case
from tests.schedules.emulated import check_emulated
from xnortvm._tvm import ir, tvm
from xnortvm.emulation import mca, needs, network
from xnortvm.emulation.program import INPUT, OUTPUT, Program
from xnortvm.emulation.run import emulate
from xnortvm.schedules import DECIDED_BY, schedule_function
from xnortvm.schedules.conv_like import choices_of
from xnortvm.schedules.decisions import DECISIONS
from xnortvm.schedules.fmla import function_of
from xnortvm.schedules.isa import isa_of
from xnortvm.schedules.steps import (
    ACTIVATIONS,
    LANES,
    REGISTERS,
    WEIGHTS,
    WRITTEN,
    Access,
    Sums,
    best_step,
)
from xnortvm.schedules.tiling import Tile
from xnortvm.target import resolve

CORES = ("cortex-a53", "cortex-a55")
FLOAT_EPILOGUES = ("two outputs", "residual", "pack", "accumulator")


def stem(size: int, columns: int, kernel: int, stride: int, channels: int = 3) -> Sums:
    """Return the sums of a convolution of an image (N, C, H, W); axes n, y, x, o, ky, kx, c."""
    image = ((1, 0, 0, 0), (0, 0, stride, 0), (0, 0, 0, stride), (0,) * 4)
    taps = ((0, 0, 1, 0), (0, 0, 0, 1), (0, 1, 0, 0))
    written = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, LANES), *[(0,) * 4] * 3)
    weight = ((0,) * 5,) * 3 + ((1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 0))
    return Sums(
        Access((1, columns, columns, 64), written),
        Access((1, channels, size, size), image + taps),
        Access((16, kernel, kernel, channels, LANES), weight),
        4,
        (kernel, kernel, channels),
    )


def pointwise(channels: int) -> Sums:
    """Return the sums of a 1×1 convolution of 28×28 pixels (N, H, W, C)."""
    pixel = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))
    none = (0,) * 4
    weight = ((0,) * 5,) * 3 + ((1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 1, 0))
    return Sums(
        Access((1, 28, 28, 64), (*pixel, (0, 0, 0, LANES), none, none, none)),
        Access((1, 28, 28, channels), (*pixel, none, none, none, (0, 0, 0, 1))),
        Access((16, 1, 1, channels, LANES), weight),
        4,
        (1, 1, channels),
    )


def computed(sums: Sums, tile: Tile) -> np.ndarray:
    """Run a step on arrays that hold the numbers of their elements; return what was written."""
    step = best_step(sums, tile)
    assert step is not None
    accesses = {WRITTEN: sums.written, ACTIVATIONS: sums.activations, WEIGHTS: sums.weights}
    flat = {name: np.arange(np.prod(each.shape)) for name, each in accesses.items()}
    starts = [
        (flat[name], np.ravel_multi_index(place, accesses[name].shape))
        for name, place in step.pointers
    ]
    pointers = starts[step.accumulators :]
    vectors = []
    for load in step.loads:
        array, start = pointers[load.pointer]
        assert start + load.distance + LANES <= len(array)
        vectors.append(array[start + load.distance :][:LANES])
    found = np.zeros(np.prod(sums.written.shape))
    for product in step.products:
        at = starts[product.accumulator][1]
        scalar = vectors[product.activations][product.lane]
        found[at : at + LANES] += scalar * vectors[product.weights]
    return found.reshape(sums.written.shape), step.taps


@pytest.mark.parametrize("tile", [Tile(1, 14, 1), Tile(1, 4, 2), Tile(2, 2, 2)], ids=str)
def test_a_step_of_a_stem_multiplies_every_tap_with_every_pixel(tile: Tile) -> None:
    sums = stem(230, 112, 7, 2)
    found, taps = computed(sums, tile)
    assert taps == (1, 7, 1)
    image, weight = (np.arange(np.prod(a.shape)).reshape(a.shape) for a in sums[1:3])
    expected = np.zeros(sums.written.shape)
    for y, x, kx in np.ndindex(tile.rows, tile.columns, 7):
        for vector in range(tile.vectors):
            expected[0, y, x, LANES * vector :][:LANES] += (
                image[0, 0, 2 * y, 2 * x + kx] * weight[vector, 0, kx, 0]
            )
    np.testing.assert_array_equal(found, expected)


def test_a_step_of_a_1x1_layer_takes_neighbouring_channels() -> None:
    sums = pointwise(64)
    found, taps = computed(sums, Tile(1, 7, 2))
    assert taps == (1, 1, 4)
    image, weight = (np.arange(np.prod(a.shape)).reshape(a.shape) for a in sums[1:3])
    expected = np.zeros(sums.written.shape)
    for x, vector in np.ndindex(7, 2):
        expected[0, 0, x, LANES * vector :][:LANES] = image[0, 0, x, :4] @ weight[vector, 0, 0, :4]
    np.testing.assert_array_equal(found, expected)


def test_neighbouring_pixels_share_the_vectors_of_a_row() -> None:
    step = best_step(stem(230, 112, 7, 2), Tile(1, 14, 1))
    assert step is not None
    assert len(step.products) == 14 * 7
    assert len(step.loads) == 9 + 7  # 33 floats, 7 vectors of weights
    assert step.registers == 14 + 9 + 7 <= REGISTERS


def test_no_step_takes_more_registers_than_there_are() -> None:
    assert best_step(pointwise(64), Tile(1, 8, 2)) is not None  # 16 + 8 + 8: all of them
    assert best_step(pointwise(64), Tile(1, 4, 4)) is None


def test_rows_shorter_than_a_vector_have_no_step() -> None:
    assert best_step(pointwise(3), Tile(1, 1, 2)) is None


def test_sums_of_every_tile_are_added_up_in_one_order() -> None:
    sums = stem(230, 112, 7, 2)
    assert sums.order == (0, 2, 1)  # whatever the step, kx is the innermost axis
    assert pointwise(64).order == (0, 1, 2)


def test_equal_steps_are_one_function() -> None:
    step = best_step(stem(230, 112, 7, 2), Tile(1, 14, 1))
    assert step is not None
    name, code = function_of(step.accumulators, step.loads, step.products)
    assert (name, code) == function_of(step.accumulators, step.loads, step.products)
    assert name not in function_of(step.accumulators, step.loads, step.products[:-1])[1]


@pytest.mark.parametrize(
    ("sums", "tile", "cycles"),
    [
        (stem(230, 112, 7, 2), Tile(1, 14, 1), 98 + 16 + 4),
        (pointwise(64), Tile(1, 8, 2), 64 + 16 + 4),
        (pointwise(64), Tile(1, 7, 2), 56 + 15 + 4),
    ],
    ids=("stem", "8 pixels", "7 pixels"),
)
def test_the_model_takes_the_cycles_of_docs_arm(sums: Sums, tile: Tile, cycles: int) -> None:
    reason = needs.missing_for_costs()
    if reason:
        pytest.skip(reason)
    step = best_step(sums, tile)
    assert step is not None
    first = step.accumulators
    body = [f"ldr q{first + i}, [x0, #{16 * i}]" for i in range(len(step.loads))]
    body += [
        f"fmla v{p.accumulator}.4s, v{first + p.weights}.4s, v{first + p.activations}.s[{p.lane}]"
        for p in step.products
    ]
    assert mca.model([body], "cortex-a53")[0] == pytest.approx(cycles, abs=0.5)
    spread = body[len(step.loads) :]
    for i, load in enumerate(body[: len(step.loads)]):
        spread.insert(4 * i, load)
    assert mca.model([spread], "cortex-a53")[0] > 1.5 * cycles


@pytest.mark.parametrize("core", CORES)
def test_kernels_in_steps_are_exact(core: str) -> None:
    target = resolve(f"llvm -mcpu={core}")
    isa = isa_of(target)
    images = [
        Conv(3, 64, (30, 28), (7, 7), (2, 2), (3, 3, 3, 3)),
        Conv(1, 8, (12, 12), (5, 5), padding=(2, 2, 2, 2)),
        Conv(3, 33, (11, 16), images=2),
        Conv(3, 16, (23, 23), (11, 11), (4, 4), (2, 2, 2, 2)),
    ]
    convs = [
        Conv(64, 128, (14, 14), (1, 1), padding=(0, 0, 0, 0)),
        Conv(32, 40, (7, 7), strides=(2, 2)),
        Conv(20, 16, (5, 9), (3, 2), dilation=(1, 2)),
        Conv(3, 16, (8, 8)),
        Conv(5, 12, (6, 6), (1, 1), padding=(0, 0, 0, 0)),
        Conv(16, 32, (6, 6), groups=4),  # channels of several groups in one tile
    ]
    cases = [
        conv2d_case(conv, isa, FLOAT_EPILOGUES[i % 4], seed=i, channels_last=False)
        for i, conv in enumerate(images)
    ]
    cases += [
        conv2d_case(conv, isa, FLOAT_EPILOGUES[i % 4], seed=i) for i, conv in enumerate(convs)
    ]
    cases += [dense_case((1,), 64, 1000, isa), dense_case((2, 5), 36, 10, isa)]
    cases = cases if core == "cortex-a53" else cases[::5]
    done = check_emulated(cases, target, isa)
    without = [case.name for case in done if "xnortvm_fmla_" not in case.func.script()]
    left = ["groups=4"] if core == "cortex-a53" else ["groups=4", "dense (1,)"]
    assert without == [case.name for case in cases if any(each in case.name for each in left)]


def test_all_tiles_round_alike() -> None:
    target = resolve("llvm -mcpu=cortex-a53")
    reason = needs.missing(target.link)
    if reason:
        pytest.skip(reason)
    isa = isa_of(target)
    conv = Conv(3, 32, (12, 16), (5, 5), (2, 2), (2, 2, 2, 2))
    case = conv2d_case(conv, isa, channels_last=False)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(array.shape, dtype=np.float32) for array in case.inputs]
    legal = list(choices_of(case.func, isa).legal())
    programs, functions = [], {}
    for i, decisions in enumerate(legal[:: len(legal) // 6]):
        wanted = case.func.with_attr({DECISIONS: json.dumps(decisions.to_json())})
        func = schedule_function(wanted, isa)
        assert func.attrs[DECIDED_BY] == "tuned"
        functions[f"k{i}"] = func.with_attr("global_symbol", f"k{i}")
        program = Program(str(decisions))
        slots = [program.add(INPUT, array) for array in inputs]
        program.calls.append((f"k{i}", [*slots, program.add(OUTPUT, case.expected[0])]))
        programs.append(program)
    with_steps = ["xnortvm_fmla" in func.script() for func in functions.values()]
    assert any(with_steps)
    assert not all(with_steps)
    ran = emulate(programs, network.library(functions, target), target)
    first, *others = (next(iter(each.outputs.values())) for each in ran)
    assert np.abs(first).max() > 1
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_steps_are_inlined_into_loops_of_several_threads() -> None:
    target = resolve("llvm -mcpu=cortex-a53", num_threads=4)
    isa = isa_of(target)
    conv = Conv(64, 64, (8, 8), (1, 1), padding=(0, 0, 0, 0))
    func = schedule_function(conv2d_case(conv, isa, "residual").func, isa, num_threads=4)
    assert "T.parallel" in func.script()
    library = tvm.compile(ir.IRModule({"k": func.with_attr("global_symbol", "k")}), target.tvm)
    text = "".join(str(each.inspect_source("asm")) for each in (library.mod, *library.mod.imports))
    assert "fmla" in text
    assert "xnortvm_fmla" not in text


def test_other_cores_leave_the_order_to_llvm() -> None:
    for core in ("cortex-a72", "cortex-a76", "neoverse-n1"):
        assert not isa_of(resolve(f"llvm -mcpu={core}")).steps
    assert not isa_of(resolve("llvm -mcpu=cortex-a53 -mtriple=armv7l-linux-gnueabihf")).steps
