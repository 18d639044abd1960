# SPDX-License-Identifier: Apache-2.0
"""``compile(..., stem=)``: how the first float convolutions are computed, and what that costs.

The stem (`xnortvm.transform.stem`) reads real numbers, so it cannot be packed, and it takes half
of the time of a binary network. Its result need not be exact in the last place to be useful:

========  ============================================  ==================================
method    what it does                                  error, of the largest output
========  ============================================  ==================================
exact     fp32, all products                            3e-7
winograd  fp32, 2 to 4 times fewer products             2e-6
bf16      image and weights with 8 bits of mantissa     3e-3
int8      image in 256 steps, weights in 255            1e-2
========  ============================================  ==================================

The errors are what is usual; the report states the one measured on the example inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, relax_transform
from xnortvm.errors import ModelError, TargetError, near
from xnortvm.frontend.fold import fold_constants
from xnortvm.graph.dataflow import (
    Builder,
    Graph,
    dtype_of,
    op_name,
    rebuild,
    shape_of,
    value_of,
)
from xnortvm.ops import stem_reference as reference
from xnortvm.ops import stem_rows
from xnortvm.ops.stem_conv2d import NAME, attributes_of, axes_of, map_of, quantum_of, stem_conv2d
from xnortvm.ops.winograd_tile import REAL_GAIN, Axis, choose_tile
from xnortvm.report import LayerRow, Report
from xnortvm.target import Target
from xnortvm.transform.stem import mark_stem

Array = np.ndarray[Any, Any]

#: Images of the example inputs that errors are measured on.
MOST_IMAGES = 4


@dataclass(frozen=True)
class Method:
    """How a stem may be computed.

    Attributes
    ----------
    needs : frozenset of str
        Features of a target without which there are no instructions for it.
    bits : str
        Of the image as the kernel reads it.
    plan : callable
        From a call and its image on the example inputs to the attributes of the new call, or a
        sentence that says why the layer stays exact.
    words : callable
        From the new call to what the report says of the method.
    size : callable
        From the new call and the weights to the bytes that these take as compiled.
    """

    needs: frozenset[str]
    bits: str
    plan: Callable[[Any, Array], dict[str, Any] | str]
    words: Callable[[Any], str]
    size: Callable[[Any, Array], int]


def _plan_winograd(call: Any, _: Array) -> dict[str, Any] | str:
    attrs = attributes_of(call)
    outputs, kernel_h, kernel_w, channels = shape_of(call.args[1]) or (0, 0, 0, 0)
    strides = (attrs["strides"][0], attrs["strides"][1])
    tile, gain = choose_tile((kernel_h, kernel_w), strides, map_of(call), channels, outputs)
    if gain < REAL_GAIN:
        stride = "×".join(str(s) for s in dict.fromkeys(strides))
        return (
            f"Winograd's method saves too little for a {kernel_h}×{kernel_w} kernel of "
            f"{channels} channel{'s' * (channels > 1)} with stride {stride}"
        )
    return {"tile": list(tile)}


def _winograd_words(call: Any) -> str:
    axes: tuple[Axis, Axis] = axes_of(call)
    tile = "×".join(str(axis.tile) for axis in axes)
    taps = "×".join(str(axis.taps) for axis in axes)
    phases = axes[0].stride * axes[1].stride
    return f"Winograd's F({tile}, {taps}) in fp32" + (f" on {phases} phases" if phases > 1 else "")


def _plan_int8(_: Any, x: Array) -> dict[str, Any] | str:
    quantum = stem_rows.quantum_of(x)
    return {"scale": quantum.scale, "zero": quantum.zero}


def _int8_words(call: Any) -> str:
    quantum = quantum_of(call)
    low, high = (quantum.scale * (end - quantum.zero) for end in (0, 255))
    return (
        f"8-bit integers (vpdpbusd), the image clipped to {low:.3g} … {high:.3g}, which is the "
        "range of these"
    )


def _winograd_bytes(call: Any, weight: Array) -> int:
    y, x = axes_of(call)
    return 4 * len(weight) * y.points * x.points * y.stride * x.stride * weight.shape[-1]


EXACT = "exact"

METHODS: dict[str, Method] = {
    "winograd": Method(frozenset(), "32", _plan_winograd, _winograd_words, _winograd_bytes),
    "bf16": Method(
        frozenset({"avx512bf16"}),
        "16",
        lambda _call, _image: {},
        lambda _call: "bf16 products (vdpbf16ps) with fp32 sums",
        lambda _call, weight: 2 * weight.size,
    ),
    "int8": Method(
        frozenset({"avx512vnni"}),
        "8",
        _plan_int8,
        _int8_words,
        lambda _call, weight: weight.size + 8 * len(weight),  # scale and zero point of a channel
    ),
}


def check_stem(stem: str, target: Target) -> None:
    """Refuse a method that does not exist or that the target has no instructions for.

    Raises
    ------
    ModelError
        When there is no such method.
    TargetError
        Names the missing instructions and the methods that need none.
    """
    if stem == EXACT:
        return
    if stem not in METHODS:
        known = (EXACT, *METHODS)
        raise ModelError(f"stem is {stem!r}{near(str(stem), known)}; it can be {', '.join(known)}")
    if target.kind != "llvm":
        raise TargetError(f'stem="{stem}" is for CPUs and {target.name} is none; leave it out')
    missing = METHODS[stem].needs - target.features
    if missing:
        others = [name for name, method in METHODS.items() if method.needs <= target.features]
        raise TargetError(
            f'stem="{stem}" needs the instructions {", ".join(sorted(missing))}, which '
            f"{target.name} does not have; choose one of {', '.join((EXACT, *others))}"
        )


def choose_stem(mod: IRModule, stem: str, inputs: Sequence[Any] | None, report: Report) -> IRModule:
    """Compute the layers of the stem by a method, and say in the report what it costs.

    Parameters
    ----------
    mod : IRModule
        After `pipeline.graph_phases`.
    stem : str
        A method that `check_stem` has accepted.
    inputs : sequence of arrays, optional
        Example inputs; without them, or where they are constant, normal random numbers are used.
    report : Report
        Rows of the stem get bits, bytes and a note.

    Returns
    -------
    IRModule
        Layers that the method does not fit stay exact, with a note that says why.
    """
    if stem == EXACT:
        return mod
    method = METHODS[stem]
    mod = mark_stem(mod)
    found = False
    samples = _Samples(mod, inputs)

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        nonlocal found
        if op_name(call) != NAME:
            return None
        found = True
        return _rewritten(call, stem, method, samples, var, report)

    mod = rebuild(mod, visit)
    if not found:
        report.notes.append(f'stem="{stem}" changes nothing: no float convolution reads the input')
    return mod


def _rewritten(
    call: Any, stem: str, method: Method, samples: _Samples, var: Any, report: Report
) -> Any:
    attrs = attributes_of(call)
    row = report.row(attrs["layer"]) or LayerRow(attrs["layer"], "conv2d", binary=False)
    if attrs["groups"] != 1 or set(attrs["dilation"]) != {1}:
        plan: dict[str, Any] | str = "only kernels without groups and dilation are written for it"
    else:
        image = samples.image(var)
        plan = method.plan(call, image)
    if isinstance(plan, str):
        _note(row, f'computed exactly in spite of stem="{stem}": {plan}')
        return None
    attrs.update(method=stem, **plan)
    new = stem_conv2d(*call.args, **attrs)
    weight = value_of(call.args[1])
    assert weight is not None
    args = (attrs["strides"], attrs["padding"])
    right = reference.exact(image, weight, *args, np.float64)
    largest = float(np.abs(right).max()) or 1.0
    errors = [
        float(np.abs(result - right).max()) / largest
        for result in (
            reference.computed(attributes_of(new), image, weight),
            reference.exact(image, weight, *args, np.float32),
        )
    ]
    row.bits_in = method.bits
    row.bytes_after += method.size(new, weight) - weight.nbytes
    _note(
        row,
        f"computed by {method.words(new)}; largest difference from float64 {errors[0]:.1e} of the "
        f"largest output on {samples.words} (plain fp32 sums {errors[1]:.1e})",
    )
    return new


def _note(row: LayerRow, sentence: str) -> None:
    row.note = f"{row.note}; {sentence}" if row.note else sentence


class _Samples:
    """The images that the layers of the stem read when the model runs on the example inputs."""

    def __init__(self, mod: IRModule, inputs: Sequence[Any] | None) -> None:
        self.mod, self.graph = mod, Graph(mod["main"])
        self.rng = np.random.default_rng(0)
        given = inputs is not None and any(np.ptp(array) > 0 for array in inputs if array.size)
        self.words = "the example inputs" if given else _RANDOM
        self.inputs = [
            np.asarray(inputs[i]) if given and inputs is not None else self._random(param)
            for i, param in enumerate(self.graph.params)
        ]

    def image(self, var: Any) -> Array:
        """Return (N, H, W, C) float32, at most `MOST_IMAGES` of them."""
        call = self.graph.value[var]
        value = self._value(call.args[0])[:MOST_IMAGES]
        return value.transpose(0, 2, 3, 1) if str(call.attrs["layout"]) == "NCHW" else value

    def _random(self, var: Any) -> Array:
        return self.rng.standard_normal(shape_of(var) or ()).astype(dtype_of(var))

    def _value(self, x: Any) -> Array:
        for param, array in zip(self.graph.params, self.inputs, strict=True):
            if param.same_as(x):
                return array
        alone = rebuild(self.mod, lambda *_: None, lambda builder, _: builder.new(x))
        bound = {str(p.name): a for p, a in zip(self.graph.params, self.inputs, strict=True)}
        folded = Graph(fold_constants(relax_transform.BindParams("main", bound)(alone))["main"])
        value = value_of(folded.value.get(folded.result, folded.result))
        if value is None:
            self.words = _RANDOM
            return self._random(x)
        return value


_RANDOM = "normal random inputs"
