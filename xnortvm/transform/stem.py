# SPDX-License-Identifier: Apache-2.0
"""Which layers are the stem, and the first step of their lowering.

The stem is every float convolution that no other layer precedes: its input is an input of the
model, perhaps normalised, padded or rearranged. Its rows of the report say so, and it may be
computed by another method than the other float layers (`xnortvm.stem`).
"""

from __future__ import annotations

from typing import Any

from xnortvm._tvm import IRModule
from xnortvm.graph.dataflow import (
    Builder,
    Graph,
    dtype_of,
    layer_name,
    op_name,
    rebuild,
    shape_of,
    value_of,
    variables,
)
from xnortvm.graph.pointwise import is_pointwise
from xnortvm.ops.stem_conv2d import stem_conv2d
from xnortvm.transform.orders import to_last

#: Operators that only move or pad what they read.
_MOVES = frozenset(
    {
        "relax.permute_dims",
        "relax.reshape",
        "relax.nn.pad",
        "relax.strided_slice",
        "relax.concat",
        "relax.expand_dims",
        "relax.squeeze",
        "relax.astype",
    }
)


def mark_stem(mod: IRModule) -> IRModule:
    """Turn the convolutions of the stem into `stem_conv2d`, which reads the user's own layout."""
    early = _early(Graph(mod["main"]))

    def visit(builder: Builder, var: Any, call: Any) -> Any:
        if var not in early or not _is_ours(call):
            return None
        x, layout = call.args[0], "NHWC"
        before = builder.producer(x)
        if op_name(before) == "relax.permute_dims" and _axes(before) == to_last(4):
            x, layout = before.args[0], "NCHW"
        attrs = call.attrs
        return stem_conv2d(
            x,
            call.args[1],
            strides=[int(s) for s in attrs.strides],
            padding=[int(p) for p in attrs.padding],
            dilation=[int(d) for d in attrs.dilation],
            groups=int(attrs.groups),
            layout=layout,
            layer=layer_name(call, str(var.name)),
        )

    return rebuild(mod, visit)


def _early(graph: Graph) -> set[Any]:
    """Variables that depend on no layer, and layers that read only such."""
    free = set(graph.params)
    found: set[Any] = set()
    for var, expr in graph.bindings:
        if not all(used in free for used in variables(expr)):
            continue
        found.add(var)
        if is_pointwise(expr) or op_name(expr) in _MOVES:
            free.add(var)
    return found


def _axes(call: Any) -> list[int]:
    return [int(axis) for axis in call.attrs.axes] if call.attrs.axes is not None else []


def _is_ours(call: Any) -> bool:
    """Whether this is an NHWC float convolution by constant weights of static shape."""
    return (
        op_name(call) == "relax.nn.conv2d"
        and str(call.attrs.data_layout) == "NHWC"
        and str(call.attrs.kernel_layout) == "OHWI"
        and str(call.attrs.out_layout) in ("", "NHWC")
        and value_of(call.args[1]) is not None
        and shape_of(call.args[0]) is not None
        and {dtype_of(arg) for arg in call.args} == {"float32"}
    )
