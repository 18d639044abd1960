# SPDX-License-Identifier: Apache-2.0
"""Converters to Relax for operators that TVM's importer lacks or reads incompletely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from xnortvm._tvm import relax
from xnortvm.frontend.constant import constant
from xnortvm.graph.dataflow import dtype_of


def _reduction(function: Callable[..., Any]) -> Callable[[fx.Node, Any], Any]:
    """Make a converter of ``op(x, axes, keepdim)``; no axes means all."""

    def convert(node: fx.Node, importer: Any) -> Any:
        x, axes, keepdim = _arguments(node, None, False)
        axes = [axes] if isinstance(axes, int) else axes
        return function(importer.env[x], list(axes) if axes else None, keepdims=keepdim)

    return convert


def _arguments(node: fx.Node, *defaults: Any) -> tuple[Any, ...]:
    """Return positional arguments and keyword arguments, filled up with defaults."""
    names = ("dim", "keepdim")
    given = list(node.args)
    for name, default in list(zip(names, defaults, strict=True))[len(given) - 1 :]:
        given.append(node.kwargs.get(name, default))
    return tuple(given)


def _min_along(node: fx.Node, importer: Any) -> Any:
    """``min(x, dim)``: values and indices."""
    x, axis, keepdim = _arguments(node, None, False)
    value = importer.env[x]
    smallest = importer.block_builder.emit(relax.op.min(value, [axis], keepdims=keepdim))
    place = importer.block_builder.emit(relax.op.argmin(value, axis, keepdims=keepdim))
    return relax.Tuple([smallest, place])


def _max_along(node: fx.Node, importer: Any) -> Any:
    """``max(x, dim)``: values and indices."""
    x, axis, keepdim = _arguments(node, None, False)
    value = importer.env[x]
    largest = importer.block_builder.emit(relax.op.max(value, [axis], keepdims=keepdim))
    place = importer.block_builder.emit(relax.op.argmax(value, axis, keepdims=keepdim))
    return relax.Tuple([largest, place])


def _product(node: fx.Node, importer: Any) -> Any:
    """A matrix product in the dtype of its factors; TVM's converter always makes float32."""
    return relax.op.matmul(*(importer.env[factor] for factor in node.args[:2]))


def _product_and_sum(node: fx.Node, importer: Any) -> Any:
    """``beta · bias + alpha · a @ b``."""
    bias, *factors = (importer.env[arg] for arg in node.args[:3])
    product = importer.block_builder.emit(relax.op.matmul(*factors))
    alpha, beta = (node.kwargs.get(name, 1) for name in ("alpha", "beta"))
    if alpha != 1:
        product = relax.op.multiply(product, constant(np.asarray(alpha, dtype_of(product))))
    if beta == 0:
        return product
    if beta != 1:
        bias = relax.op.multiply(bias, constant(np.asarray(beta, dtype_of(bias))))
    return relax.op.add(product, bias)


def _avg_pool(node: fx.Node, importer: Any) -> Any:
    if len(node.args) > 6 and node.args[6] is not None:
        raise NotImplementedError("divisor_override together with ceil_mode")
    return importer._avg_pool2d(node)


def _index_put(node: fx.Node, importer: Any) -> Any:
    """One index for each axis; TVM's converter and its kernel disagree about the others."""
    x, indices = node.args[:2]
    ranks = {None if index is None else index.meta["val"].dim() for index in indices}
    if len(indices) < x.meta["val"].dim() or None in ranks or len(ranks) > 1:
        raise NotImplementedError("it needs one index of the same rank for each axis")
    return importer._index_put(node)


def _grid_sample(node: fx.Node, importer: Any) -> Any:
    """The grid with its two coordinates in front; TVM's converter leaves them last."""
    x, grid, method, padding, align = node.args
    coordinates = importer.block_builder.emit(
        relax.op.permute_dims(importer.env[grid], [0, 3, 1, 2])
    )
    return relax.op.image.grid_sample(
        importer.env[x],
        coordinates,
        method=("bilinear", "nearest", "bicubic")[method],
        layout="NCHW",
        padding_mode=("zeros", "border", "reflection")[padding],
        align_corners=align,
    )


CONVERTERS: dict[str, Callable[[fx.Node, Any], Any]] = {
    "addmm.default": _product_and_sum,
    "amax.default": _reduction(relax.op.max),
    "amin.default": _reduction(relax.op.min),
    "avg_pool2d.default": _avg_pool,
    "baddbmm.default": _product_and_sum,
    "bmm.default": _product,
    "grid_sampler_2d.default": _grid_sample,
    "index_put.default": _index_put,
    "matmul.default": _product,
    "mm.default": _product,
    "max.dim": _max_along,
    "min.dim": _min_along,
    "prod.dim_int": _reduction(relax.op.prod),
}
"""Operator name to ``converter(node, importer)``."""
