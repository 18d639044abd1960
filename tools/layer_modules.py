# SPDX-License-Identifier: Apache-2.0
"""Single layers as Relax modules: what `bench --layers` times and `bench-check` counts.

They go through the same phases as a network's layers, so whatever the compiler does to those it
does to these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xnortvm import ops, pipeline
from xnortvm._tvm import BlockBuilder, IRModule, TensorType, ir, relax, tirx
from xnortvm.graph.dataflow import Graph, const, value_of
from xnortvm.ops import reference
from xnortvm.ops.stem_conv2d import stem_conv2d
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.target import Target

Array = np.ndarray[Any, Any]


#: Values that are clamped: the activations of a network with hard tanh.
_CLAMP = (-1.0, 1.0)


def _scaled(emit: Callable[[Any], Any], value: Any, scale: Any, _: Any) -> list[Any]:
    return [emit(relax.op.multiply(value, scale))]


def _clamped(emit: Callable[[Any], Any], value: Any, scale: Any, shift: Any) -> list[Any]:
    return [emit(relax.op.clip(emit(ops.affine(value, scale, shift)), *_CLAMP))]


def _bits(emit: Callable[[Any], Any], value: Any, scale: Any, shift: Any) -> list[Any]:
    return [emit(ops.bitpack(*_clamped(emit, value, scale, shift)))]


def _both(emit: Callable[[Any], Any], value: Any, scale: Any, shift: Any) -> list[Any]:
    (clamped,) = _clamped(emit, value, scale, shift)
    return [clamped, emit(ops.bitpack(clamped))]


#: What follows the accumulator, by how it is called in the name of a layer: from the float value
#: and one scale and shift for each channel to the outputs. Where only bits are wanted, the sign of
#: scale, shift and clamp becomes one comparison with an integer.
EPILOGUES: dict[str, Callable[..., list[Any]]] = {
    "": _scaled,
    "clamped": _clamped,
    "bits": _bits,
    "clamped and bits": _both,
}


class Layer(NamedTuple):
    """A convolution with square kernel and map and "same" padding; ``size`` 0 means dense.

    ``epilogue`` is a key of `EPILOGUES`.
    """

    kernel: int
    channels: int
    size: int
    outputs: int
    stride: int
    epilogue: str = ""

    def __str__(self) -> str:
        behind = f", {self.epilogue}" * bool(self.epilogue)
        if not self.size:
            return f"dense {self.channels}→{self.outputs}{behind}"
        form = f"{self.kernel}×{self.kernel} {self.channels}→{self.outputs}"
        return f"{form} {self.size}×{self.size}" + (f" s{self.stride}" * (self.stride > 1)) + behind


class Built(NamedTuple):
    """A layer with random parameters.

    Attributes
    ----------
    mod : IRModule
        ``main`` computes it from its inputs; nothing is fused into kernels or scheduled.
    inputs : list of ndarray
    expected : ndarray or None
        The result, computed with NumPy; None where an epilogue does more than scale.
    macs : int
    """

    mod: IRModule
    inputs: list[Array]
    expected: Array | None
    macs: int


class KernelCall(NamedTuple):
    """One kernel of a scheduled module and what it is called with."""

    func: Any
    arguments: list[Array]
    output: tuple[tuple[int, ...], str]


def function(inputs: list[Array], body: Callable[..., Any]) -> IRModule:
    """Return a module whose ``main`` computes what ``body(emit, *inputs)`` returns."""
    builder = BlockBuilder()
    params = [
        relax.Var(f"x{i}", TensorType(array.shape, str(array.dtype)))
        for i, array in enumerate(inputs)
    ]
    with builder.function("main", params):
        with builder.dataflow():
            output = builder.emit_output(body(builder.emit, *params))
        builder.emit_func_output(output)
    return builder.get()


def binary_layer(layer: Layer) -> Built:
    """Return packed bits → layer → its epilogue."""
    rng = np.random.default_rng(layer.channels)
    scale: Array = rng.random(layer.outputs, dtype=np.float32)
    kernel = (layer.kernel, layer.kernel)
    lead = (1, layer.size, layer.size) if layer.size else (1,)
    a = ops.pack(rng.random((*lead, layer.channels)) < 0.5)
    if not layer.size:
        w = ops.pack(rng.random((layer.outputs, layer.channels)) < 0.5)
        acc = reference.bdense(a, w, channels=layer.channels)
        macs = layer.channels * layer.outputs

        def call(x: Any) -> Any:
            return ops.bdense(x, const(w), channels=layer.channels, layer=str(layer))
    else:
        pad = layer.kernel // 2
        geometry: dict[str, Any] = {
            "strides": (layer.stride, layer.stride),
            "padding": (pad, pad, pad, pad),
            "dilation": (1, 1),
        }
        signs = rng.choice(np.array([-1, 1], np.int8), (layer.outputs, *kernel, layer.channels))
        w = ops.pack(signs < 0)
        base = ops.border_base(signs, (layer.size, layer.size), **geometry, pad_value=0)
        acc = reference.bconv2d(a, w, channels=layer.channels, **geometry)
        macs = acc.size * signs[0].size

        def call(x: Any) -> Any:
            return ops.bconv2d(
                x,
                const(w),
                const(base),
                channels=layer.channels,
                layer=str(layer),
                **geometry,
            )

    if not layer.epilogue:
        expected, shift = (acc * scale).astype(np.float32), scale
    else:  # scales of both signs, and results on both sides of the clamp
        expected = None
        deviation = np.float32((macs / acc.size) ** 0.5)
        scale = (scale + np.float32(0.5)) * rng.choice(np.array([-1, 1], np.float32), layer.outputs)
        scale, shift = scale / deviation, rng.standard_normal(layer.outputs, dtype=np.float32) / 2

    def body(emit: Callable[[Any], Any], x: Any) -> Any:
        value = emit(relax.op.astype(emit(call(x)), "float32"))
        outputs = EPILOGUES[layer.epilogue](emit, value, const(scale), const(shift))
        return outputs[0] if len(outputs) == 1 else relax.Tuple(outputs)

    mod = pipeline.run(function([a], body), [_fuse()])
    return Built(mod, [a], expected, macs)


def float_layer(layer: Layer) -> Built:
    """Return floats → the same layer in floats → scale, shift and ReLU.

    A first layer (3 channels) reads the image as PyTorch has it, (N, C, H, W).
    """
    rng = np.random.default_rng(layer.channels)
    scale, shift = rng.random((2, layer.outputs), dtype=np.float32)
    shape = (layer.outputs, layer.kernel, layer.kernel, layer.channels)
    weight = rng.standard_normal(shape, dtype=np.float32)
    size = (1, layer.size, layer.size, layer.channels) if layer.size else (1, layer.channels)
    first = bool(layer.size) and layer.channels == 3
    x = rng.standard_normal(size, dtype=np.float32)
    pads, strides = (layer.kernel // 2,) * 4, (layer.stride,) * 2

    def call(emit: Callable[[Any], Any], x: Any) -> Any:
        if not layer.size:
            return emit(relax.op.matmul(x, const(np.ascontiguousarray(weight[:, 0, 0].T))))
        if first:
            return emit(
                stem_conv2d(
                    x,
                    const(weight),
                    strides=list(strides),
                    padding=list(pads),
                    dilation=[1, 1],
                    groups=1,
                    layout="NCHW",
                    layer=str(layer),
                )
            )
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
        given = {"strides": strides, "padding": pads, **layouts}
        return emit(relax.op.nn.conv2d(x, const(weight), **given))

    def body(emit: Callable[[Any], Any], x: Any) -> Any:
        value = emit(ops.affine(call(emit, x), const(scale), const(shift)))
        return emit(relax.op.nn.relu(value))

    inputs = [x.transpose(0, 3, 1, 2) if first else x]
    outputs = (-(-layer.size // layer.stride)) ** 2 if layer.size else 1
    return Built(function(inputs, body), inputs, None, outputs * weight.size)


def _fuse() -> pipeline.Phase:
    """Return the last phase of a network's graph: packed signs become thresholds."""
    return pipeline.graph_phases(Report(), ZeroPolicy())[-1]


def kernels_of(mod: IRModule, target: Target) -> IRModule:
    """Return a module after the phases that make kernels for a target."""
    return pipeline.run(mod, pipeline.kernel_phases(target))


def kernel_calls(mod: IRModule, inputs: list[Array], run: Callable[[KernelCall], Any]) -> Any:
    """Call the kernels of a scheduled module in order and return what ``main`` returns.

    Parameters
    ----------
    run : callable
        Runs one kernel and returns its output array; several outputs are not supported.
    """
    graph = Graph(mod["main"])
    known: dict[Any, Array] = dict(zip(graph.params, inputs, strict=True))

    def array(expr: Any) -> Array:
        value = value_of(expr)
        return known[expr] if value is None else value

    for var, call in graph.bindings:
        if isinstance(call, relax.Var):
            known[var] = array(call)
            continue
        assert isinstance(call, ir.Call)
        (ty,) = call.ty_args
        shape = tuple(int(dim) for dim in ty.shape.values)
        fields = call.args[1].fields if isinstance(call.args[1], relax.Tuple) else [call.args[1]]
        func = mod[call.args[0]]
        assert isinstance(func, tirx.PrimFunc)
        dtype = str(ty.dtype.dtype if hasattr(ty.dtype, "dtype") else ty.dtype)
        known[var] = run(KernelCall(func, [array(field) for field in fields], (shape, dtype)))
    return array(graph.result)
