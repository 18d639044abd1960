# SPDX-License-Identifier: Apache-2.0
"""Our matched network → `xnortvm.tools.engines.network`, for engines that assemble their own graph.

The Relax module is read between lowering and fusion: binary layers are found and their weights
packed, and every other operator still means what the user wrote. Bits become signs again: an
engine reads the sign of x where our packed operator reads its bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xnortvm import ops, pipeline
from xnortvm._tvm import IRModule, relax
from xnortvm.errors import ModelError
from xnortvm.graph.dataflow import Graph, op_name, shape_of, value_of
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.tools.engines.network import Network, Node


class _Bits(NamedTuple):
    """Packed bits: the signs of a float value, and what its zeros count as."""

    source: str
    zero: str


def matched(mod: IRModule) -> IRModule:
    """Return an imported module with its binary layers lowered and nothing fused.

    Parameters
    ----------
    mod : IRModule
        What `xnortvm.frontend.import_model` returned.
    """
    phases = pipeline.graph_phases(Report(), ZeroPolicy())
    last = [phase.name for phase in phases].index("lower")
    return pipeline.run(mod, phases[: last + 1])


def export_network(mod: IRModule) -> Network:
    """Return the network of a module that `matched` returned.

    Raises
    ------
    ModelError
        When an operator has no float meaning that engines could share; names it and its place.
    """
    return _Export(Graph(mod["main"])).network


class _Export:
    def __init__(self, graph: Graph) -> None:
        self.network = Network()
        self.values: dict[Any, Any] = {}
        self.nodes: dict[str, Node] = {}
        for param in graph.params:
            self.values[param] = str(param.name)
            node = Node(str(param.name), "input", [], list(shape_of(param) or ()))
            self.network.inputs.append(node)
            self.nodes[node.name] = node
        for var, expr in graph.bindings:
            self.values[var] = self._value(var, expr)
        fields = graph.result
        while isinstance(fields, relax.Var) and isinstance(graph.value.get(fields), relax.Tuple):
            fields = graph.value[fields]
        parts = fields.fields if isinstance(fields, relax.Tuple) else [fields]
        self.network.outputs = [self.name(part) for part in parts]

    def _value(self, var: Any, expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return self.values[expr]
        if isinstance(expr, relax.Tuple):
            return expr
        name = op_name(expr)
        if name in _SPECIAL:
            return _SPECIAL[name](self, var, expr)
        if name in _PLAIN:
            op, names = _PLAIN[name]
            attrs = {key: _plain(expr.attrs[key]) for key in names}
            return self.emit(var, op, [self.name(arg) for arg in expr.args], attrs)
        raise ModelError(
            f"the network cannot be written down for other engines: {var.name} is computed by "
            f"{name or type(expr).__name__}, which has no row in network_export.py"
        )

    def name(self, expr: Any) -> str:
        """Return the name of a float value; a constant gets a node of its own."""
        value = value_of(expr)
        if value is not None:
            return self.constant(value)
        found = self.values[expr]
        if isinstance(found, _Bits):
            raise ModelError(
                f"the network cannot be written down for other engines: the packed bits "
                f"{expr.name} are read by an operator that is no binary layer"
            )
        return str(found)

    def constant(self, value: np.ndarray[Any, Any]) -> str:
        """Add a constant; integers become floats, which hold accumulators exactly."""
        name = f"constant{len(self.network.arrays)}"
        kept = value if value.dtype in (np.int8, np.float32) else value.astype(np.float32)
        self.network.arrays[name] = kept
        return self.add(Node(name, "constant", [], list(value.shape)))

    def add(self, node: Node) -> str:
        """Add a node; its name has to be new."""
        assert node.name not in self.nodes
        self.nodes[node.name] = node
        self.network.nodes.append(node)
        return node.name

    def emit(
        self,
        var: Any,
        op: str,
        inputs: list[str],
        attrs: dict[str, Any] | None = None,
        layer: str = "",
        suffix: str = "",
    ) -> str:
        """Add an operator whose result has the shape of a variable."""
        name = f"{var.name}{suffix}"
        while name in self.nodes:
            name += "_"
        shape = list(shape_of(var) or ())
        return self.add(Node(name, op, inputs, shape, attrs or {}, layer))


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "value"):
        return value.value
    return [_plain(part) for part in value]


_BINARY_OPS = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
_UNARY_OPS = ("sigmoid", "tanh", "negative", "abs", "sqrt", "exp", "sign")
_POOL = ("pool_size", "strides", "padding", "dilation", "ceil_mode")

#: From a Relax operator to ours and the attributes that are copied.
_PLAIN: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"relax.{op}": (op, ()) for op in (*_BINARY_OPS, *_UNARY_OPS)},
    "relax.nn.relu": ("relu", ()),
    "relax.nn.prelu": ("prelu", ()),
    "relax.xnortvm.affine": ("affine", ()),
    "relax.matmul": ("matmul", ()),
    "relax.nn.max_pool2d": ("max_pool2d", _POOL),
    "relax.nn.avg_pool2d": ("avg_pool2d", (*_POOL, "count_include_pad")),
}


def _astype(export: _Export, _var: Any, call: Any) -> str:
    return export.name(call.args[0])  # every value is a float here


def _permute(export: _Export, var: Any, call: Any) -> str:
    axes = tuple(int(axis) for axis in call.attrs.axes or ())
    kinds = {(0, 2, 3, 1): "to_nhwc", (0, 3, 1, 2): "to_nchw"}
    if axes not in kinds:
        raise ModelError(
            f"the network cannot be written down for other engines: {var.name} permutes its axes "
            f"as {axes}, only images change their layout there"
        )
    return export.emit(var, kinds[axes], [export.name(call.args[0])])


def _reshape(export: _Export, var: Any, call: Any) -> Any:
    source = export.values.get(call.args[0])
    shape = list(shape_of(var) or ())
    if isinstance(source, _Bits):
        before = shape_of(call.args[0]) or ()
        channels = export.nodes[source.source].shape[-1]
        full = [*shape[:-1], shape[-1] * channels // before[-1]]
        node = Node(f"{var.name}_flat", "reshape", [source.source], full, {"shape": full})
        return _Bits(export.add(node), source.zero)
    return export.emit(var, "reshape", [export.name(call.args[0])], {"shape": shape})


def _mean(export: _Export, var: Any, call: Any) -> str:
    attrs = {"axes": _plain(call.attrs.axis), "keepdims": bool(call.attrs.keepdims)}
    return export.emit(var, "mean", [export.name(call.args[0])], attrs)


def _conv2d(export: _Export, var: Any, call: Any) -> str:
    if (str(call.attrs.data_layout), str(call.attrs.kernel_layout)) != ("NHWC", "OHWI"):
        raise ModelError(
            f"the network cannot be written down for other engines: the convolution {var.name} is "
            f"in the layout {call.attrs.data_layout}"
        )
    attrs = {key: _plain(call.attrs[key]) for key in ("strides", "padding", "dilation", "groups")}
    return export.emit(var, "conv2d", [export.name(arg) for arg in call.args], attrs, str(var.name))


def _bitpack(export: _Export, _var: Any, call: Any) -> _Bits:
    return _Bits(export.name(call.args[0]), str(call.attrs["zero"]))


def _bmaxpool2d(export: _Export, var: Any, call: Any) -> _Bits:
    """The largest sign is the sign of the largest."""
    source: _Bits = export.values[call.args[0]]
    shape = [*(shape_of(var) or ())[:3], export.nodes[source.source].shape[-1]]
    attrs = {key: _plain(call.attrs[key]) for key in _POOL}
    node = Node(f"{var.name}_pooled", "max_pool2d", [source.source], shape, attrs)
    return _Bits(export.add(node), source.zero)


def _bconv2d(export: _Export, var: Any, call: Any) -> str:
    bits: _Bits = export.values[call.args[0]]
    attrs = {key: _plain(call.attrs[key]) for key in ("strides", "padding", "dilation", "groups")}
    pad_value = int(call.attrs["pad_value"])
    per_group = int(call.attrs["channels"]) // attrs["groups"]
    packed = value_of(call.args[1])
    assert packed is not None
    signs = _signs(packed, per_group)
    attrs |= {"pad_value": pad_value, "zero": bits.zero}
    inputs = [bits.source, export.constant(signs)]
    name = export.emit(var, "bconv2d", inputs, attrs, str(call.attrs["layer"]))
    if not int(call.attrs["offset"]):
        return name
    # Activations v + offset: what the offset adds depends on how much of the kernel is inside.
    size = (shape_of(call.args[0]) or ())[1:3]
    geometry = {key: tuple(attrs[key]) for key in ("strides", "padding", "dilation")}
    plain = ops.border_base(signs, size, pad_value=pad_value, **geometry)  # type: ignore[arg-type]
    table = value_of(call.args[2])
    assert table is not None
    extra = _expand(table - plain, signs.shape[1:3], size, geometry)
    return export.emit(var, "add", [name, export.constant(extra)], suffix="_offset")


def _signs(packed: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any]:
    signs = ops.unpack_weights(packed, channels)
    if not signs.all():
        raise ModelError(
            "the network has weights that are 0 or groups of few channels, which other engines "
            "have no packed form for; it cannot be compared with them"
        )
    return signs


def _expand(
    table: np.ndarray[Any, Any],
    kernel: tuple[int, ...],
    size: tuple[int, ...],
    geometry: dict[str, Any],
) -> np.ndarray[Any, Any]:
    """From one entry for each class of rows and columns to one for each position."""
    if table.shape[:2] == (1, 1):
        return np.asarray(table[0, 0], np.float32)
    padding = geometry["padding"]
    axes = [
        ops.border_classes(
            size[i],
            kernel[i],
            geometry["strides"][i],
            padding[i],
            padding[2 + i],
            geometry["dilation"][i],
        )
        for i in (0, 1)
    ]
    rows, columns = ([c.of(p) for p in range(c.size)] for c in axes)
    return np.asarray(table[np.ix_(rows, columns)][None], np.float32)


def _bdense(export: _Export, var: Any, call: Any) -> str:
    bits: _Bits = export.values[call.args[0]]
    packed = value_of(call.args[1])
    assert packed is not None
    signs = _signs(packed, int(call.attrs["channels"]))
    inputs = [bits.source, export.constant(signs)]
    return export.emit(var, "bdense", inputs, {"zero": bits.zero}, str(call.attrs["layer"]))


_SPECIAL: dict[str, Callable[[_Export, Any, Any], Any]] = {
    "relax.astype": _astype,
    "relax.permute_dims": _permute,
    "relax.reshape": _reshape,
    "relax.mean": _mean,
    "relax.nn.conv2d": _conv2d,
    "relax.xnortvm.bitpack": _bitpack,
    "relax.xnortvm.bmaxpool2d": _bmaxpool2d,
    "relax.xnortvm.bconv2d": _bconv2d,
    "relax.xnortvm.bdense": _bdense,
}
