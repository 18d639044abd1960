# SPDX-License-Identifier: Apache-2.0
"""Operators that TVM's importer lacks or misreads, written with ones that it gets right."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def rewrite_operators(module: fx.GraphModule) -> None:
    """Apply the rules of `RULES` to every node of a graph."""
    graph = module.graph
    for node in list(graph.nodes):
        rule = RULES.get(node.target) if node.op == "call_function" else None
        if rule is None:
            continue
        with graph.inserting_before(node):
            new = rule(_Maker(module, node), *node.args, **node.kwargs)
        if isinstance(new, tuple):
            for user in list(node.users):
                user.replace_all_uses_with(new[user.args[1]])
                graph.erase_node(user)
            graph.erase_node(node)
        elif new is not None:
            node.replace_all_uses_with(new)
            graph.erase_node(node)


class _Maker:
    """Makes the nodes that replace one node."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self._module = module
        self._node = node

    def __call__(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        made = self._module.graph.call_function(target, args, kwargs)
        values = fx.map_arg(args, lambda arg: arg.meta["val"])
        made.meta = {**self._node.meta, "val": target(*values, **kwargs)}
        return made

    def constant(self, value: torch.Tensor) -> fx.Node:
        name = f"number_{self._node.name}_{len(self._module._buffers)}"
        self._module.register_buffer(name, value, persistent=False)
        made = self._module.graph.get_attr(name)
        like = self._node.meta["val"]
        like = like[0] if isinstance(like, tuple | list) else like
        made.meta = {**self._node.meta, "val": like.new_empty(value.shape)}
        made.meta["val"] = made.meta["val"].to(value.dtype)
        return made


def _shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(node.meta["val"].shape)


def _adaptive_max_pool(make: _Maker, x: fx.Node, size: Any) -> tuple[fx.Node, ...] | None:
    """One output per window of equal size."""
    extents = _shape(x)[-2:]
    if any(extent % out for extent, out in zip(extents, size, strict=True)):
        return None
    window = [extent // out for extent, out in zip(extents, size, strict=True)]
    pooled = make(aten.max_pool2d_with_indices.default, x, window, window)
    return tuple(make(operator.getitem, pooled, place) for place in range(2))


def _avg_pool(
    make: _Maker,
    x: fx.Node,
    window: Sequence[int],
    stride: Any = (),
    padding: Any = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> fx.Node | None:
    """The sum of a window by another divisor than its size."""
    if divisor is None or ceil_mode:
        return None
    pooled = make(aten.avg_pool2d.default, x, list(window), list(stride), list(padding))
    return make(aten.mul.Tensor, pooled, math.prod(window) / divisor)


def _copysign(make: _Maker, magnitude: fx.Node, sign: fx.Node) -> fx.Node:
    positive = make(aten.abs.default, magnitude)
    negative = make(aten.neg.default, positive)
    return make(aten.where.self, make(aten.lt.Scalar, sign, 0), negative, positive)


def _signbit(make: _Maker, x: fx.Node) -> fx.Node:
    return make(aten.lt.Scalar, x, 0)


def _elu(
    make: _Maker, x: fx.Node, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> fx.Node | None:
    """ELU with the factors of SELU, which TVM's importer does not read."""
    if scale == 1 and input_scale == 1:
        return None
    scaled = make(aten.mul.Tensor, x, input_scale)
    return make(aten.mul.Tensor, make(aten.elu.default, scaled, alpha), scale)


def _group_norm(
    make: _Maker, x: fx.Node, weight: Any, bias: Any, *sizes: Any
) -> tuple[fx.Node, ...] | None:
    """Scale and shift that are not there: 1 and 0."""
    if weight is not None and bias is not None:
        return None
    channels, dtype = _shape(x)[1], x.meta["val"].dtype
    weight = make.constant(torch.ones(channels, dtype=dtype)) if weight is None else weight
    bias = make.constant(torch.zeros(channels, dtype=dtype)) if bias is None else bias
    normed = make(aten.native_group_norm.default, x, weight, bias, *sizes)
    return tuple(make(operator.getitem, normed, place) for place in range(3))


def _index(make: _Maker, x: fx.Node, indices: Sequence[fx.Node | None]) -> fx.Node | None:
    """Index vectors of neighbouring axes that vary independently: one selection for each."""
    places = [place for place, index in enumerate(indices) if index is not None]
    used = [index for index in indices if index is not None]
    if places != list(range(places[0], places[-1] + 1)) or any(_is_mask(i) for i in used):
        return None
    rank = max(len(_shape(index)) for index in used)
    shapes = [(1,) * (rank - len(_shape(index))) + _shape(index) for index in used]
    varying = [[axis for axis, extent in enumerate(shape) if extent != 1] for shape in shapes]
    order = [axis for axes in varying for axis in axes]
    if order != sorted(set(order)):
        return None
    result = x
    for place, index in zip(places, used, strict=True):
        flat = make(aten.view.default, index, [math.prod(_shape(index))])
        positive = make(aten.remainder.Scalar, flat, _shape(x)[place])
        result = make(aten.index_select.default, result, place, positive)
    selected = [max(extents) for extents in zip(*shapes, strict=True)]
    before, after = _shape(x)[: places[0]], _shape(x)[places[-1] + 1 :]
    return make(aten.view.default, result, [*before, *selected, *after])


def _is_mask(index: fx.Node) -> bool:
    return index.meta["val"].dtype in (torch.bool, torch.uint8)


def _index_put(
    make: _Maker, x: fx.Node, indices: Any, values: fx.Node, accumulate: bool = False
) -> fx.Node | None:
    """``x[mask] = number``."""
    mask = indices[0] if len(indices) == 1 else None
    if mask is None or not _is_mask(mask) or accumulate:
        return None
    if _shape(mask) != _shape(x) or values.meta["val"].numel() != 1:
        return None
    number = values if values.meta["val"].dim() == 0 else make(aten.view.default, values, [])
    return make(aten.where.self, mask, number, x)


def _nearest(make: _Maker, x: fx.Node, size: Any = None, factors: Any = None) -> fx.Node | None:
    """Nearest neighbours where the factor is not whole: PyTorch rounds down."""
    result = x
    extents = _shape(x)[2:]
    wanted = _shape(make._node)[2:]
    if not all(isinstance(extent, int) for extent in (*extents, *wanted)):
        return None
    if all(out % extent == 0 for extent, out in zip(extents, wanted, strict=True)):
        return None
    for axis, extent in enumerate(extents):
        line = torch.arange(extent, dtype=torch.float64).view(1, 1, extent)
        options = {"size": size[axis]} if size else {"scale_factor": factors[axis]}
        indices = torch.nn.functional.interpolate(line, **options).long().flatten()
        result = make(aten.index_select.default, result, axis + 2, make.constant(indices))
    return result


def _var_mean(
    make: _Maker, x: fx.Node, axes: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[fx.Node, ...]:
    axes = list(range(len(_shape(x)))) if axes is None else axes
    variance = make(aten.var.correction, x, axes, correction=correction, keepdim=keepdim)
    return variance, make(aten.mean.dim, x, axes, keepdim)


RULES: dict[Any, Callable[..., fx.Node | tuple[fx.Node, ...] | None]] = {
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.copysign.Tensor: _copysign,
    aten.elu.default: _elu,
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten.native_group_norm.default: _group_norm,
    aten.signbit.default: _signbit,
    aten.upsample_nearest2d.vec: _nearest,
    aten.var_mean.correction: _var_mean,
}
"""A rule returns the node that takes the place of the old one (a tuple: of its items), None to
leave it. The sign of a zero is taken for plus: comparing with 0 is what a packed bit can hold.
"""
