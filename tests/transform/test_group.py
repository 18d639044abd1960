# SPDX-License-Identifier: Apache-2.0
"""Regions are kernels: every value is computed once, nothing waits for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.relax_modules import accumulator, conv, f32, module, operators, signs
from tests.relax_reference import evaluate
from xnortvm import ops
from xnortvm._tvm import ir, relax
from xnortvm.graph.dataflow import Graph
from xnortvm.transform.group import find_regions, group_epilogues
from xnortvm.transform.lift_constants import lift_constants

RNG = np.random.default_rng(0)
SHAPE = (1, 3, 4, 8)
WEIGHT = signs(RNG, 8, 1, 1, 8)


def _binary(emit: Any, x: Any) -> Any:
    return relax.op.astype(accumulator(emit, x, WEIGHT), "float32")


#: Operators on two earlier values of SHAPE.
STEPS: dict[str, Any] = {
    "binary": lambda emit, a, b: _binary(emit, a),
    "float": lambda emit, a, b: conv(a, RNG.normal(size=(8, 1, 1, 8)).astype(np.float32)),
    "pool": lambda emit, a, b: relax.op.nn.max_pool2d(a, (3, 3), padding=1, layout="NHWC"),
    "add": lambda emit, a, b: relax.op.add(a, b),
    "multiply": lambda emit, a, b: relax.op.multiply(a, f32(0.5)),
    "relu": lambda emit, a, b: relax.op.nn.relu(a),
    "affine": lambda emit, a, b: ops.affine(a, f32([0.5] * 8), f32([1.0] * 8)),
    "gate": lambda emit, a, b: relax.op.multiply(a, emit(relax.op.mean(b, [1, 2], keepdims=True))),
}
choice = st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 20), st.integers(0, 20))


def _main_runs_in_order(mod: Any) -> bool:
    known = set(Graph(mod["main"]).params)
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            used = binding.value.args[1:] if isinstance(binding.value, ir.Call) else ()
            if any(isinstance(a, relax.Var) and a not in known for a in used):
                return False
            known.add(binding.var)
    return True


@settings(max_examples=40, deadline=None)
@given(choices=st.lists(choice, min_size=2, max_size=10))
def test_random_graphs_compute_the_same(choices: list[tuple[str, int, int]]) -> None:
    def body(emit: Any, x: Any) -> Any:
        values = [x]
        for name, first, second in choices:
            a, b = values[-1 - first % len(values)], values[second % len(values)]
            values.append(emit(STEPS[name](emit, a, b)))
        return relax.Tuple(values[-3:])

    before = module(body, SHAPE)
    x = RNG.normal(size=SHAPE).astype(np.float32)
    grouped = group_epilogues(before)
    assert _main_runs_in_order(grouped)
    for after in (grouped, lift_constants(grouped)):
        for result, expected in zip(evaluate(after, x), evaluate(before, x), strict=True):
            np.testing.assert_array_equal(result, expected)


def _kernels(mod: Any) -> dict[str, list[str]]:
    names = [str(gvar.name_hint) for gvar in mod.get_global_vars()]
    return {name: operators(mod, name) for name in names if name != "main"}


def test_residual_block_is_one_kernel_with_two_outputs() -> None:
    def body(emit: Any, x: Any) -> Any:
        total = emit(relax.op.add(emit(_binary(emit, x)), x))
        return relax.Tuple([total, emit(ops.bitpack(total))])

    kernels = _kernels(group_epilogues(module(body, SHAPE)))
    assert kernels["bconv2d_layer"] == ["xnortvm.bconv2d", "astype", "add", "xnortvm.bitpack"]


def test_region_of_a_layer_knows_its_name() -> None:
    def body(emit: Any, x: Any) -> Any:
        return relax.op.nn.relu(emit(_binary(emit, x)))

    regions = set(find_regions(Graph(module(body, SHAPE)["main"])).values())
    assert {region.layer for region in regions if region.is_layer} == {"layer"}


def test_does_not_merge_two_layers() -> None:
    def body(emit: Any, x: Any) -> Any:
        return relax.op.add(emit(_binary(emit, x)), emit(_binary(emit, x)))

    kernels = _kernels(group_epilogues(module(body, SHAPE)))
    anchors = [names.count("xnortvm.bconv2d") for names in kernels.values()]
    assert max(anchors) == 1
    assert sum(anchors) == 2


def test_does_not_take_in_what_waits_for_the_kernel_itself() -> None:
    def body(emit: Any, x: Any) -> Any:
        y = emit(_binary(emit, x))
        gate = emit(relax.op.mean(y, [1, 2], keepdims=True))
        return relax.op.multiply(y, gate)

    kernels = _kernels(group_epilogues(module(body, SHAPE)))
    assert "multiply" not in kernels["bconv2d_layer"]


def test_does_not_take_in_another_shape() -> None:
    def body(emit: Any, x: Any) -> Any:
        y = emit(relax.op.nn.max_pool2d(x, (2, 2), (2, 2), layout="NHWC"))
        return relax.op.add(y, emit(relax.op.nn.avg_pool2d(x, (2, 2), (2, 2), layout="NHWC")))

    kernels = _kernels(group_epilogues(module(body, (1, 4, 4, 8))))
    assert sorted(map(len, kernels.values())) == [1, 2]


def test_input_scale_k_reads_its_input_once() -> None:
    """XNOR-Net's mean |x| is one kernel; x itself is read by others too and stays outside."""

    def body(emit: Any, x: Any) -> Any:
        y = emit(relax.op.nn.relu(x))
        scale = emit(relax.op.mean(emit(relax.op.abs(y)), [3], keepdims=True))
        return emit(relax.op.multiply(y, scale))

    mod = group_epilogues(module(body, SHAPE))
    (kernel,) = (names for name, names in _kernels(mod).items() if name.startswith("mean"))
    assert kernel == ["abs", "mean"]


def test_a_product_of_small_values_is_computed_in_the_kernel_that_adds_it() -> None:
    """t · (sum of the window): one number for each pixel times one for each channel."""

    def body(emit: Any, x: Any) -> Any:
        sums = emit(relax.op.mean(x, [3], keepdims=True))
        rank_one = emit(relax.op.multiply(sums, f32(range(8))))
        return relax.op.add(emit(_binary(emit, x)), rank_one)

    mod = group_epilogues(module(body, SHAPE))
    (kernel,) = (names for name, names in _kernels(mod).items() if name.startswith("bconv2d"))
    assert kernel[-2:] == ["multiply", "add"]
