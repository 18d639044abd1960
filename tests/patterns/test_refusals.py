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
BLUR = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16


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


def _with(value: float) -> np.ndarray[Any, Any]:
    """The weights with one wrong element."""
    weight = WEIGHT.copy()
    weight[2, 1, 0, 3] = value
    return weight


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
    "signs joined with a real value": (
        lambda emit, x: conv(
            emit(relax.op.concat([_sign(emit, x), x], 3)), signs(RNG, 4, 3, 3, 16)
        ),
        "it comes from the network's input",
    ),
    "sum of a sign and a real value": (
        lambda emit, x: conv(emit(relax.op.add(_sign(emit, x), x)), WEIGHT),
        "not a sign times a number",
    ),
    "sum of a sign and a bias for each channel": (
        lambda emit, x: conv(emit(relax.op.add(_sign(emit, x), f32(np.arange(8)))), WEIGHT),
        "not a sign times a number",
    ),
    "sign times a map": (
        lambda emit, x: conv(
            emit(relax.op.multiply(_sign(emit, x), emit(relax.op.mean(x, 3, keepdims=True)))),
            WEIGHT,
        ),
        "a sign times a map of scales (1×6×6×1)",
    ),
    "maximum of falling signs": (
        lambda emit, x: conv(
            emit(
                relax.op.nn.max_pool2d(
                    emit(relax.op.multiply(_sign(emit, x), f32(-1.0))), 2, 2, layout="NHWC"
                )
            ),
            WEIGHT,
        ),
        "the maximum of a sign times a negative number",
    ),
    "scaled sign behind a pool": (
        lambda emit, x: conv(
            emit(
                relax.op.nn.max_pool2d(
                    emit(relax.op.multiply(_sign(emit, x), f32(2.0))), 2, 2, layout="NHWC"
                )
            ),
            WEIGHT,
        ),
        "a scaled sign behind nn.max_pool2d",
    ),
    "padded before a pool": (
        lambda emit, x: conv(
            emit(relax.op.nn.max_pool2d(emit(_pad(_sign(emit, x), 1.0)), 2, 2, layout="NHWC")),
            WEIGHT,
        ),
        "padded before nn.max_pool2d",
    ),
    "padded before it is scaled": (
        lambda emit, x: conv(
            emit(relax.op.multiply(emit(_pad(_sign(emit, x), 1.0)), f32(2.0))), WEIGHT
        ),
        "padded before it is scaled",
    ),
    "padded by +1 above and -1 below": (
        lambda emit, x: conv(
            emit(
                _pad(
                    emit(_pad(_sign(emit, x), 1.0, (0, 0, 1, 0, 0, 0, 0, 0))),
                    -1.0,
                    (0, 0, 0, 1, 0, 0, 0, 0),
                )
            ),
            WEIGHT,
        ),
        "padded twice",
    ),
    "padded by the third value of 0 and 1": (
        lambda emit, x: conv(
            emit(
                _pad(
                    emit(relax.op.add(emit(relax.op.multiply(_sign(emit, x), f32(0.5))), f32(0.5))),
                    -1.0,
                )
            ),
            WEIGHT,
        ),
        "padded with -1, a third value",
    ),
    "padded by reflection": (
        lambda emit, x: conv(
            emit(relax.op.nn.pad(_sign(emit, x), [0, 0, 1, 1, 1, 1, 0, 0], pad_mode="reflect")),
            WEIGHT,
        ),
        "not a constant border",
    ),
    "cropped": (
        lambda emit, x: conv(emit(_pad(_sign(emit, x), 0.0, (0, 0, -1, 0, 0, 0, 0, 0))), WEIGHT),
        "cropped by a negative padding",
    ),
    "three levels of weights": (
        lambda emit, x: conv(_sign(emit, x), _with(0.5)),
        "its weights are real: 3 distinct values in output channel 2",
    ),
    "weights with a NaN": (
        lambda emit, x: conv(_sign(emit, x), _with(np.nan)),
        "infinities or NaN",
    ),
    "weights with an infinity": (
        lambda emit, x: conv(_sign(emit, x), _with(np.inf)),
        "infinities or NaN",
    ),
    "box filter of a real value": (
        lambda emit, x: conv(x, np.full((4, 3, 3, 8), 1 / 9, "f4")),
        "its input is real-valued",
    ),
    "blur pool": (
        lambda emit, x: conv(x, np.tile(BLUR.reshape(1, 3, 3, 1), (8, 1, 1, 1)), groups=8),
        "its input is real-valued: it comes from the network's input",
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


def test_does_not_lower_float16_convolutions() -> None:
    def body(emit: Any, x: Any) -> Any:
        last = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        weight = relax.const(WEIGHT.astype(np.float16), "float16")
        return relax.op.nn.conv2d(_sign(emit, x), weight, **last)

    (row,) = _lower(body, SHAPE, dtype="float16").layers
    assert row.reason == "it computes in float16"


#: Linear layers: the body, the reason.
DENSE: dict[str, tuple[Callable[..., Any], str]] = {
    "real input": (
        lambda emit, x: relax.op.matmul(x, relax.const(signs(RNG, 8, 4))),
        "its input is real-valued",
    ),
    "real weights": (
        lambda emit, x: relax.op.matmul(_sign(emit, x), f32(RNG.normal(size=(8, 4)))),
        "its weights are real",
    ),
    "real input and weights": (
        lambda emit, x: relax.op.matmul(x, f32(RNG.normal(size=(8, 4)))),
        "not from a sign; its weights are real",
    ),
    "weights with a NaN": (
        lambda emit, x: relax.op.matmul(_sign(emit, x), f32(np.full((8, 4), np.nan))),
        "infinities or NaN",
    ),
    "a matrix for each row": (
        lambda emit, x: relax.op.matmul(
            emit(relax.op.reshape(_sign(emit, x), (2, 1, 8))), relax.const(signs(RNG, 2, 8, 4))
        ),
        "its constant operand has 3 dimensions",
    ),
    "row scaled by its mean": (
        lambda emit, x: relax.op.matmul(
            emit(relax.op.multiply(_sign(emit, x), f32(np.arange(8)))),
            relax.const(signs(RNG, 8, 4)),
        ),
        "a sign times a scale for each channel",
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_does_not_lower_linear(name: str) -> None:
    body, reason = DENSE[name]
    (row,) = _lower(body, (2, 8)).layers
    assert reason in row.reason


def test_does_not_lower_a_padded_linear() -> None:
    def body(emit: Any, x: Any) -> Any:
        padded = emit(_pad(_sign(emit, x), 1.0, (0, 0, 0, 0, 1, 1, 0, 0)))
        return relax.op.matmul(padded, relax.const(signs(RNG, 8, 4)))

    (row,) = _lower(body).layers
    assert row.reason == "its input is a padded sign"


def test_does_not_lower_sums_that_leave_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xnortvm.patterns.overflow.LIMIT", 2 * 72 - 1)
    (row,) = _lower(lambda emit, x: conv(_sign(emit, x), WEIGHT)).layers
    assert row.reason.startswith("it adds up 72 products of magnitude up to 1, which can leave 32")
    (row,) = _lower(
        lambda emit, x: relax.op.matmul(_sign(emit, x), relax.const(signs(RNG, 72, 4))), (2, 72)
    ).layers
    assert "it adds up 72 products" in row.reason


@pytest.mark.parametrize(("channels", "outputs", "groups"), [(6, 8, 4), (8, 6, 4)])
def test_does_not_pack_channels_that_groups_do_not_divide(
    channels: int, outputs: int, groups: int
) -> None:
    weight = relax.const(ops.pack(signs(RNG, outputs, 1, 1, 2) < 0))
    base = relax.const(np.zeros((1, 1, outputs), np.int32))

    def body(emit: Any, x: Any) -> Any:
        bits = emit(ops.bitpack(x))
        return ops.bconv2d(bits, weight, base, channels=channels, groups=groups)

    with pytest.raises(ValueError, match=f"do not divide into {groups} groups"):
        module(body, (1, 4, 4, channels))
