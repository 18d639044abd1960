# SPDX-License-Identifier: Apache-2.0
"""Graphs that must not match, and the sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.relax_modules import conv, f32, module, operators, signs
from xnortvm import ops
from xnortvm._tvm import relax
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.transform.lower_binary import LowerBinary

RNG = np.random.default_rng(0)
WEIGHT = signs(RNG, 4, 3, 3, 8)
SHAPE = (1, 6, 6, 8)


def _lower(body: Callable[..., Any], *shapes: tuple[int, ...], **kwargs: Any) -> Report:
    report = Report()
    mod = module(body, *(shapes or (SHAPE,)), **kwargs)
    after = LowerBinary(report, ZeroPolicy())(mod)
    assert report.num_binary_ops == 0
    assert operators(after) == operators(mod)
    return report


def _pad(x: Any, value: float, widths: tuple[int, ...] = (0, 0, 1, 1, 1, 1, 0, 0)) -> Any:
    return relax.op.nn.pad(x, list(widths), pad_value=value)


def _sign(emit: Any, x: Any) -> Any:
    return emit(ops.sign(x))


REFUSALS: dict[str, tuple[Callable[..., Any], str]] = {
    "real input": (lambda emit, x: conv(x, WEIGHT), "its input is real-valued"),
    "real weights": (
        lambda emit, x: conv(_sign(emit, x), RNG.normal(size=(4, 3, 3, 8)).astype("f4")),
        "its weights are real",
    ),
    "real input and weights": (
        lambda emit, x: conv(x, RNG.normal(size=(4, 3, 3, 8)).astype("f4")),
        "not from a sign; its weights are real",
    ),
    "sum of signs": (
        lambda emit, x: conv(emit(relax.op.add(_sign(emit, x), _sign(emit, x))), WEIGHT),
        "not a sign times a number",
    ),
    "scale per channel": (
        lambda emit, x: conv(emit(relax.op.multiply(_sign(emit, x), f32(np.arange(1, 9)))), WEIGHT),
        "a sign times a scale for each channel",
    ),
    "sign times zero": (
        lambda emit, x: conv(emit(relax.op.multiply(_sign(emit, x), f32(0.0))), WEIGHT),
        "a sign times 0",
    ),
    "third value around the map": (
        lambda emit, x: conv(emit(_pad(_sign(emit, x), 0.5)), WEIGHT),
        "padded with 0.5, a third value",
    ),
    "padded twice": (
        lambda emit, x: conv(emit(_pad(emit(_pad(_sign(emit, x), 1.0)), 0.0)), WEIGHT),
        "padded twice",
    ),
    "padded with one and with zero": (
        lambda emit, x: conv(emit(_pad(_sign(emit, x), 1.0)), WEIGHT, padding=1),
        "padded with ±1 and again with 0",
    ),
    "padded channels": (
        lambda emit, x: conv(
            emit(_pad(_sign(emit, x), 0.0, (0, 0, 0, 0, 0, 0, 1, 1))), signs(RNG, 4, 3, 3, 10)
        ),
        "not a constant border",
    ),
    "sign behind average pooling": (
        lambda emit, x: conv(emit(relax.op.nn.avg_pool2d(_sign(emit, x), layout="NHWC")), WEIGHT),
        "it comes from avg_pool2d (1×6×6×8)",
    ),
    "signs joined with different scales": (
        lambda emit, x: conv(
            emit(
                relax.op.concat(
                    [_sign(emit, x), emit(relax.op.multiply(_sign(emit, x), f32(2.0)))], 3
                )
            ),
            signs(RNG, 4, 3, 3, 16),
        ),
        "joins signs with different scales",
    ),
    "not channels-last": (
        lambda emit, x: relax.op.nn.conv2d(_sign(emit, x), relax.const(signs(RNG, 4, 6, 3, 3))),
        "its layout is not NHWC",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_does_not_lower(name: str) -> None:
    body, reason = REFUSALS[name]
    (row,) = _lower(body).layers
    assert reason in row.reason
    assert "\n" not in row.reason
    assert row.bytes_after == row.bytes_before


def test_does_not_lower_weights_computed_at_run_time() -> None:
    def body(emit: Any, x: Any, w: Any) -> Any:
        last = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        return relax.op.nn.conv2d(_sign(emit, x), emit(ops.sign(w)), **last)

    (row,) = _lower(body, SHAPE, WEIGHT.shape).layers
    assert "computed at run time" in row.reason


def test_does_not_lower_a_product_of_two_inputs() -> None:
    (row,) = _lower(lambda emit, a, b: relax.op.matmul(a, b), (2, 3), (3, 4)).layers
    assert "both depend on the network's input" in row.reason


def test_does_not_lower_float16() -> None:
    def body(emit: Any, x: Any) -> Any:
        weight = relax.const(signs(RNG, 8, 4).astype(np.float16), "float16")
        return relax.op.matmul(_sign(emit, x), weight)

    (row,) = _lower(body, (2, 8), dtype="float16").layers
    assert row.reason == "it computes in float16"
