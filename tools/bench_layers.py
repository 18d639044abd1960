# SPDX-License-Identifier: Apache-2.0
"""Speed of the packed kernels of common layers, beside what this machine can do at most.

Every result is compared with the reference, exactly, before it is timed.

    python -m xnortvm.tools.bench_layers [--target TARGET] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xnortvm import ops
from xnortvm._tvm import ir, runtime, te, tvm
from xnortvm.errors import VerificationError
from xnortvm.ops import reference
from xnortvm.ops.bconv2d import bconv2d_te
from xnortvm.ops.bdense import bdense_te, dense_form
from xnortvm.ops.dot import form_of, kernel_weights
from xnortvm.schedules import isa_of, schedule_function
from xnortvm.schedules.isa import Isa
from xnortvm.target import Target, resolve
from xnortvm.tools.bench_limit import fastest, measure_limit
from xnortvm.tools.outcome import table
from xnortvm.tools.timing import pinned


class Layer(NamedTuple):
    """A convolution with square kernel and map and "same" padding; ``size`` 0 means dense."""

    kernel: int
    channels: int
    size: int
    outputs: int
    stride: int

    def __str__(self) -> str:
        if not self.size:
            return f"dense {self.channels}→{self.outputs}"
        form = f"{self.kernel}×{self.kernel} {self.channels}→{self.outputs}"
        return f"{form} {self.size}×{self.size}" + (f" s{self.stride}" * (self.stride > 1))


LAYERS = (
    Layer(3, 64, 56, 64, 1),
    Layer(3, 64, 56, 128, 2),
    Layer(3, 128, 28, 128, 1),
    Layer(3, 256, 14, 256, 1),
    Layer(3, 512, 7, 512, 1),
    Layer(1, 64, 56, 128, 2),
    Layer(1, 4096, 0, 4096, 1),
)


class _Kernel(NamedTuple):
    func: Any
    inputs: list[np.ndarray[Any, Any]]
    expected: np.ndarray[Any, Any]
    macs: int


def _placeholders(arrays: Sequence[np.ndarray[Any, Any]]) -> list[Any]:
    return [te.placeholder(array.shape, str(array.dtype)) for array in arrays]


def _scaled(acc: Any, scale: Any) -> Any:
    return te.compute(
        acc.shape, lambda *index: acc(*index).astype("float32") * scale(index[-1]), name="scaled"
    )


def _kernel(layer: Layer, isa: Isa) -> _Kernel:
    """Return a layer with random bits and one float scale per output channel."""
    rng = np.random.default_rng(layer.channels)
    scale = rng.random(layer.outputs, dtype=np.float32)
    if not layer.size:
        a = ops.pack(rng.random((1, layer.channels)) < 0.5)
        w = ops.pack(rng.random((layer.outputs, layer.channels)) < 0.5)
        acc = reference.bdense(a, w, channels=layer.channels)
        inputs = [a, *kernel_weights(w, layer.channels, dense_form(isa, layer.outputs)), scale]
        pa, *pw, ps = _placeholders(inputs)
        out = bdense_te(pa, pw, outputs=layer.outputs, channels=layer.channels, isa=isa)
        func = te.create_prim_func([pa, *pw, ps, _scaled(out, ps)])
        return _Kernel(func, inputs, acc * scale, layer.channels * layer.outputs)
    size, kernel = (layer.size, layer.size), (layer.kernel, layer.kernel)
    pad = layer.kernel // 2
    geometry: dict[str, Any] = {
        "strides": (layer.stride, layer.stride),
        "padding": (pad, pad, pad, pad),
        "dilation": (1, 1),
    }
    a = ops.pack(rng.random((1, *size, layer.channels)) < 0.5)
    signs = rng.choice(np.array([-1, 1], np.int8), (layer.outputs, *kernel, layer.channels))
    w = ops.pack(signs < 0)
    base = ops.border_base(signs, size, **geometry, pad_value=0)
    acc = reference.bconv2d(a, w, channels=layer.channels, **geometry)
    form = form_of(isa, layer.outputs, 1, acc.shape[1] * acc.shape[2])
    inputs = [a, *kernel_weights(w, layer.channels, form), base, scale]
    pa, *pw, pb, ps = _placeholders(inputs)
    out = bconv2d_te(
        pa,
        pw,
        pb,
        outputs=layer.outputs,
        kernel=kernel,
        channels=layer.channels,
        groups=1,
        pad_value=0,
        isa=isa,
        **geometry,
    )
    func = te.create_prim_func([pa, *pw, pb, ps, _scaled(out, ps)])
    return _Kernel(func, inputs, acc * scale, acc.size * signs[0].size)


def _seconds(kernel: _Kernel, name: str, isa: Isa, target: Target) -> float:
    func = schedule_function(kernel.func, isa).with_attr("global_symbol", "layer")
    library = tvm.compile(ir.IRModule({"layer": func}), target.tvm)
    arguments = [runtime.tensor(array) for array in kernel.inputs]
    output = runtime.tensor(np.zeros(kernel.expected.shape, np.float32))
    library["layer"](*arguments, output)
    if not np.array_equal(output.numpy(), kernel.expected.astype(np.float32)):
        raise VerificationError(f"the kernel of {name} differs from its reference")
    return fastest(library, "layer", [*arguments, output])


def rows(
    target: str | Target | None = None, layers: Sequence[Layer] = LAYERS
) -> Iterator[dict[str, Any]]:
    """Yield one row per layer, on one thread of this machine.

    Parameters
    ----------
    target : str or Target, optional
        What the kernels are compiled for; this machine by default.

    Yields
    ------
    dict
        ``layer``, ``microseconds``, ``TBMAC/s`` (10^12 binary multiply-accumulates a second) and
        ``share``, the fraction of `measure_limit`.
    """
    resolved = target if isinstance(target, Target) else resolve(target or "llvm")
    isa = isa_of(resolved)
    limit = measure_limit(isa, resolved)
    for layer in layers:
        kernel = _kernel(layer, isa)
        seconds = _seconds(kernel, str(layer), isa, resolved)
        # A busy machine hides its limit for a while: it is measured next to every layer.
        limit = max(limit, measure_limit(isa, resolved))
        speed = kernel.macs / seconds
        yield {
            "layer": str(layer),
            "microseconds": round(seconds * 1e6, 1),
            "TBMAC/s": round(speed * 1e-12, 3),
            "share": round(speed / limit, 3),
            "limit TBMAC/s": round(limit * 1e-12, 3),
            "isa": isa.name,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 0."""
    parser = argparse.ArgumentParser(prog="bench_layers", description=__doc__)
    parser.add_argument("--target", help="compile for this target instead of this machine")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    args = parser.parse_args(argv)
    with pinned(1):
        found = list(rows(args.target))
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        print(table(list(found[0]), [list(row.values()) for row in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
