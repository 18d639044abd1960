# SPDX-License-Identifier: Apache-2.0
"""Kernels with inputs and expected outputs, many of which are built together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm

from xnortvm import ops
from xnortvm.ops import reference
from xnortvm.ops.bconv2d import bconv2d_te, conv_form
from xnortvm.ops.bdense import bdense_te, dense_form
from xnortvm.ops.bitpack import bitpack_te, threshold_pack_te
from xnortvm.ops.bsum2d import bsum2d_te
from xnortvm.ops.conv2d import conv2d_te, float_weights
from xnortvm.ops.dense import dense_te
from xnortvm.ops.dot_form import Form
from xnortvm.ops.dot_weights import kernel_weights
from xnortvm.schedules.isa import Isa

te = tvm.te


@dataclass(frozen=True)
class Conv:
    """Parameters of one convolution."""

    channels: int = 64
    outputs: int = 64
    size: tuple[int, int] = (6, 6)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    pad_value: int = 0
    images: int = 1
    masked: bool = False

    @property
    def geometry(self) -> dict[str, Any]:
        return {"strides": self.strides, "padding": self.padding, "dilation": self.dilation}

    @property
    def map(self) -> tuple[int, int]:
        top, left, bottom, right = self.padding
        return (
            ops.output_size(
                self.size[0], self.kernel[0], self.strides[0], top, bottom, self.dilation[0]
            ),
            ops.output_size(
                self.size[1], self.kernel[1], self.strides[1], left, right, self.dilation[1]
            ),
        )

    @property
    def valid(self) -> bool:
        divides = self.channels % self.groups == 0 and self.outputs % self.groups == 0
        return divides and min(self.map) >= 1


GRID: dict[str, list[Any]] = {
    "channels": [1, 31, 32, 33, 64, 65, 96, 300],
    "outputs": [1, 8, 10, 32, 33, 40, 64, 65, 96],
    "size": [(1, 1), (3, 3), (5, 5), (7, 7), (8, 6), (4, 13), (6, 17)],
    "kernel": [(1, 1), (2, 2), (3, 3), (5, 5), (7, 7), (1, 3), (3, 2)],
    "strides": [(1, 1), (2, 2), (3, 3), (1, 2)],
    "padding": [(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3), (1, 0, 2, 1)],
    "dilation": [(1, 1), (2, 2)],
    "groups": [1, 1, 1, 2, 4],
    "pad_value": [0, 0, 1, -1],
    "images": [1, 1, 3],
    "masked": [False, False, True],
}


def sampled(count: int, seed: int) -> list[Conv]:
    """Return valid convolutions from the grid; each value of each parameter takes its turn."""
    draw = random.Random(seed)
    found: list[Conv] = []
    while len(found) < count:
        shuffled = {name: draw.sample(values, len(values)) for name, values in GRID.items()}
        for i in range(max(map(len, GRID.values()))):
            values = {name: order[i % len(order)] for name, order in shuffled.items()}
            if values["groups"] > 1:
                values["channels"] = draw.choice([4, 32, 64, 136])
                values["outputs"] = draw.choice([4, 32, 64, 40])
            conv = Conv(**values)
            if conv.valid:
                found.append(conv)
    return found[:count]


@dataclass
class Case:
    """A PrimFunc, its inputs and what it must return."""

    name: str
    func: Any
    inputs: list[np.ndarray]
    expected: list[np.ndarray]


def _placeholder(name: str, array: np.ndarray) -> Any:
    return te.placeholder(array.shape, str(array.dtype), name=name)


def _epilogue(
    kind: str, acc: Any, expected: np.ndarray, rng: np.random.Generator, isa: Isa
) -> tuple[list[Any], list[Any], list[np.ndarray], list[np.ndarray]]:
    """Return placeholders, results, input arrays and expected arrays of an epilogue."""
    channels = expected.shape[-1]
    if kind == "accumulator":
        return [], [acc], [], [expected]
    if kind == "threshold":
        threshold = rng.integers(-9, 9, channels).astype(np.int32)
        flip = rng.choice(np.array([0, -1], np.int32), channels)
        t, f = _placeholder("t", threshold), _placeholder("f", flip)
        packed = threshold_pack_te(acc, t, f, groups=1, flavour=isa.pack)
        return (
            [t, f],
            [packed],
            [threshold, flip],
            [reference.threshold_pack(expected, threshold, flip)],
        )
    # Multiples of 1/8 keep the float arithmetic exact, whatever its order.
    scale = (rng.integers(-8, 8, channels) / 8).astype(np.float32)
    other = (rng.integers(-64, 64, expected.shape) / 8).astype(np.float32)
    other = other.astype(np.float16) if kind == "fp16 trunk" else other
    s, r = _placeholder("s", scale), _placeholder("r", other)
    scaled = te.compute(acc.shape, lambda *i: acc(*i).astype("float32") * s(i[-1]), name="scaled")
    added = te.compute(acc.shape, lambda *i: scaled(*i) + r(*i).astype("float32"), name="added")
    value = expected.astype(np.float32) * scale + other
    packed = bitpack_te(added, groups=1, zero="+1", flavour=isa.pack)
    bits = reference.bitpack(value)
    if kind == "residual":
        return [s, r], [added], [scale, other], [value]
    if kind == "pack":
        return [s, r], [packed], [scale, other], [bits]
    if kind == "two outputs":
        return [s, r], [added, packed], [scale, other], [value, bits]
    if kind == "fp16 trunk":
        half = te.compute(acc.shape, lambda *i: added(*i).astype("float16"), name="half")
        return [s, r], [half, packed], [scale, other], [value.astype(np.float16), bits]
    raise ValueError(kind)


EPILOGUES = ("accumulator", "threshold", "residual", "pack", "two outputs")


def _signs(rng: np.random.Generator, shape: tuple[int, ...], masked: bool) -> np.ndarray:
    """Return random weights ±1, or -1, 0 and +1 with at least one 0."""
    signs = rng.choice(np.array([-1, 0, 1] if masked else [-1, 1], np.int8), shape)
    if masked:
        signs.reshape(-1)[0] = 0
    return signs


def form_for(conv: Conv, isa: Isa) -> Form:
    """Return how differing bits of a convolution are counted."""
    return conv_form(
        isa,
        channels=conv.channels,
        outputs=conv.outputs,
        kernel=conv.kernel,
        strides=conv.strides,
        dilation=conv.dilation,
        groups=conv.groups,
        pixels=conv.map[0] * conv.map[1],
        masked=conv.masked,
    )


def accumulator(conv: Conv, isa: Isa, a: Any, weights: Sequence[Any], base: Any) -> Any:
    """Return the tensor of a packed convolution's sums."""
    return bconv2d_te(
        a,
        weights,
        base,
        outputs=conv.outputs,
        kernel=conv.kernel,
        channels=conv.channels,
        groups=conv.groups,
        pad_value=conv.pad_value,
        isa=isa,
        masked=conv.masked,
        **conv.geometry,
    )


def bconv2d_case(conv: Conv, isa: Isa, epilogue: str = "accumulator", seed: int = 0) -> Case:
    """Return a packed convolution with random bits."""
    rng = np.random.default_rng(seed)
    per_group = conv.channels // conv.groups
    a = ops.pack(rng.random((conv.images, *conv.size, conv.channels)) < 0.5, conv.groups)
    signs = _signs(rng, (conv.outputs, *conv.kernel, per_group), conv.masked)
    w = ops.pack_weights(signs)
    base = ops.border_base(signs, conv.size, **conv.geometry, pad_value=conv.pad_value)
    weights = kernel_weights(w, per_group, form_for(conv, isa))
    expected = reference.bconv2d(
        a,
        w,
        channels=conv.channels,
        groups=conv.groups,
        pad_value=conv.pad_value,
        **conv.geometry,
    )
    pa, pb = _placeholder("a", a), _placeholder("base", base)
    pw = [_placeholder(f"w{i}", array) for i, array in enumerate(weights)]
    acc = accumulator(conv, isa, pa, pw, pb)
    more, results, arrays, wanted = _epilogue(epilogue, acc, expected, rng, isa)
    func = te.create_prim_func([pa, *pw, pb, *more, *results])
    return Case(f"{conv} {epilogue}", func, [a, *weights, base, *arrays], wanted)


def bdense_case(
    rows: int,
    channels: int,
    outputs: int,
    isa: Isa,
    epilogue: str = "accumulator",
    *,
    masked: bool = False,
) -> Case:
    """Return a packed dense layer with random bits."""
    rng = np.random.default_rng(rows + channels + outputs)
    a = ops.pack(rng.random((rows, channels)) < 0.5)
    signs = _signs(rng, (outputs, channels), masked)
    w = ops.pack_weights(signs)
    weights = kernel_weights(w, channels, dense_form(isa, channels, outputs, masked=masked))
    terms = [np.count_nonzero(signs, axis=1).astype(np.int32)] if masked else []
    pa = _placeholder("a", a)
    pw = [_placeholder(f"w{i}", array) for i, array in enumerate(weights)]
    pt = [_placeholder("terms", array) for array in terms]
    acc = bdense_te(pa, pw, *pt, outputs=outputs, channels=channels, isa=isa)
    expected = reference.bdense(a, w, channels=channels)
    more, results, arrays, wanted = _epilogue(epilogue, acc, expected, rng, isa)
    func = te.create_prim_func([pa, *pw, *pt, *more, *results])
    name = f"bdense {rows}x{channels}x{outputs} {epilogue}"
    return Case(name, func, [a, *weights, *terms, *arrays], wanted)


def bsum2d_case(conv: Conv, offset: int = 0, seed: int = 0) -> Case:
    """Return a sum over windows of random bits."""
    rng = np.random.default_rng(seed)
    a = ops.pack(rng.random((conv.images, *conv.size, conv.channels)) < 0.5, conv.groups)
    numbers = {
        "channels": conv.channels,
        "outputs": conv.outputs,
        "kernel": conv.kernel,
        "groups": conv.groups,
        "pad_value": conv.pad_value,
        "offset": offset,
    }
    sums = reference.bsum2d(a, **numbers, **conv.geometry)
    expected = (sums if conv.groups > 1 else sums[..., :1]).astype(np.float32)
    pa = _placeholder("a", a)
    result = bsum2d_te(pa, expected.shape[1:], **numbers, **conv.geometry)
    func = te.create_prim_func([pa, result])
    return Case(f"bsum2d {conv} + {offset}", func, [a], [expected])


def conv2d_case(
    conv: Conv,
    isa: Isa,
    epilogue: str = "accumulator",
    seed: int = 0,
    *,
    channels_last: bool = True,
) -> Case:
    """Return a float convolution of small integers, which floats add exactly."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 8, (conv.images, *conv.size, conv.channels)).astype(np.float32)
    shape = (conv.outputs, *conv.kernel, conv.channels // conv.groups)
    w = rng.integers(-8, 8, shape).astype(np.float32)
    blocked = float_weights(w, isa)
    expected = reference.conv2d(x, w, groups=conv.groups, **conv.geometry)
    x = x if channels_last else x.transpose(0, 3, 1, 2)
    px, pw = _placeholder("x", x), _placeholder("w", blocked)
    acc = conv2d_te(
        px,
        pw,
        outputs=conv.outputs,
        groups=conv.groups,
        isa=isa,
        channels_last=channels_last,
        **conv.geometry,
    )
    more, results, arrays, wanted = _epilogue(epilogue, acc, expected, rng, isa)
    func = te.create_prim_func([px, pw, *more, *results])
    order = "" if channels_last else " NCHW"
    return Case(f"float {conv}{order} {epilogue}", func, [x, blocked, *arrays], wanted)


def dense_case(lead: tuple[int, ...], inputs: int, outputs: int, isa: Isa) -> Case:
    """Return a float dense layer of small integers."""
    rng = np.random.default_rng(inputs + outputs)
    x = rng.integers(-8, 8, (*lead, inputs)).astype(np.float32)
    w = rng.integers(-8, 8, (outputs, inputs)).astype(np.float32)
    blocked = float_weights(w, isa)
    px, pw = _placeholder("x", x), _placeholder("w", blocked)
    result = dense_te(px, pw, outputs=outputs, isa=isa)
    func = te.create_prim_func([px, pw, result])
    return Case(f"dense {lead}x{inputs}x{outputs}", func, [x, blocked], [x @ w.T])


HOST = {"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()}


def build(cases: Iterable[Case], target: dict[str, Any] | None = None) -> Any:
    """Build all cases into one library, with the functions ``case0``, ``case1``, …."""
    functions = {
        f"case{i}": case.func.with_attr("global_symbol", f"case{i}") for i, case in enumerate(cases)
    }
    return tvm.compile(tvm.ir.IRModule(functions), tvm.target.Target(target or HOST))


def check(cases: list[Case], target: dict[str, Any] | None = None) -> None:
    """Build and run the cases; compare every output exactly with what is expected."""
    library = build(cases, target)
    for i, case in enumerate(cases):
        inputs = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in case.inputs]
        outputs = [
            tvm.runtime.tensor(np.full(array.shape, 77, array.dtype)) for array in case.expected
        ]
        library[f"case{i}"](*inputs, *outputs)
        for output, expected in zip(outputs, case.expected, strict=True):
            np.testing.assert_array_equal(output.numpy(), expected, err_msg=case.name)


def scheduled(cases: list[Case], schedule: Callable[[Any], Any]) -> list[Case]:
    """Return the cases with scheduled functions."""
    return [replace(case, func=schedule(case.func)) for case in cases]
