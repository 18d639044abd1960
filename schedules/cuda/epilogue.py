# SPDX-License-Identifier: Apache-2.0
"""What a fused kernel computes of each sum, as expressions that a template puts where it likes.

Fusion leaves a kernel as blocks: the sum of the anchor, then elementwise blocks and packs. A
template computes the sum in its own way, in registers. `read_epilogue` gives it the rest: for each
output a function from the sum and the indices to the element, or to the bit of a packed output.

Examples
--------
>>> epilogue = read_epilogue(func)  # doctest: +SKIP
>>> for output in epilogue.outputs:  # doctest: +SKIP
...     value = output.element(count, (n, y, x, o))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from xnortvm._tvm import ir, tirx, tvm_ffi
from xnortvm.errors import CompileError
from xnortvm.ops.problem import PROBLEM, Problem
from xnortvm.schedules.blocks import ANCHORS
from xnortvm.schedules.cuda.fused import (
    Block,
    blocks_of,
    extents_of,
    is_reduced,
    loads_of,
    params_of,
)

PrimExpr = Any

#: Loads an element of a parameter: from the buffer and the indices to an expression.
Load = Callable[[Any, list[Any]], PrimExpr]


class NotElementwiseError(CompileError):
    """A kernel computes more behind its sum than elements and bits; no template applies."""


@dataclass(frozen=True)
class Output:
    """One output of a kernel.

    Attributes
    ----------
    buffer : tirx.Buffer
        A parameter of the function: ``buffer[n, y, x, o]``, or ``[m, o]`` of a dense layer. Packed,
        the last index counts words: G · ceil(O / G / 32) of them.
    packed : bool
    element : callable
        From the anchor's sum and the indices (n, y, x, o) to the element of the output. A dense
        layer has y = x = 0, and n counts its rows. The sum of a packed anchor is ``count``, the
        number of bits that differ (int32, positions outside the image read as `Problem` says): the
        correction ``base − 2·count`` is part of the expression. The sum of a float anchor is the
        float32 product alone. Indices are int32, o < O: bits that pad a word are not asked for,
        and are 0.

        For packed outputs it is a bool, true where the value is −1. Channel o is bit
        ``o % (O / G) % 32`` of word ``o // (O / G) · ceil(O / G / 32) + o % (O / G) // 32``.

        A third argument, `Load`, says how parameters are loaded, for templates that load vectors.
    groups : int
        G, of a packed output: of the layer that reads it.
    shape : tuple of int
        Of the elements: the buffer's, with O in place of the words of packed bits.
    """

    buffer: Any
    packed: bool
    element: Callable[..., PrimExpr]
    groups: int = 1
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Epilogue:
    """What is computed of the sums.

    Attributes
    ----------
    outputs : list of Output
    reads : list of tirx.Buffer
        Parameters that the elements read, beside the anchor's own.
    """

    outputs: list[Output]
    reads: list[Any]


@dataclass(frozen=True)
class Anchor:
    """The sum that a template computes.

    Attributes
    ----------
    op : str
        ``"bconv2d"``, ``"bdense"``, ``"conv2d"`` or ``"dense"``.
    problem : Problem or None
        Of packed anchors.
    floats : Problem or None
        Of float anchors, where the sum is as plain as a packed one.
    operands : list of tirx.Buffer
        Parameters that the sum reads: the activations, then the weights. Something that is
        computed before the sum, such as a padded image, is none.
    """

    op: str
    problem: Problem | None
    operands: list[Any]
    floats: Problem | None = None


@dataclass(frozen=True)
class Reduction:
    """The sum of a kernel as it is written, for templates that compute it as it is written.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
    extents : tuple of int
        Of the reduction axes.
    first : expression
        What the sum starts with.
    step : callable
        From the sum so far, its indices and those of the reduction axes to the next sum.
    """

    shape: tuple[int, ...]
    dtype: str
    extents: tuple[int, ...]
    first: PrimExpr
    step: Callable[[PrimExpr, tuple[PrimExpr, ...], tuple[PrimExpr, ...]], PrimExpr]


def narrowed(func: Any) -> Any:
    """Return the function with 32-bit indices, which is what kernels compute with.

    Raises
    ------
    CompileError
        When a tensor has 2³¹ elements or more.
    """
    module = ir.IRModule({"main": func.with_attr("global_symbol", "main")})
    try:
        narrow = tirx.transform.ForceNarrowIndexToInt32()(module)["main"]
    except Exception as error:
        raise CompileError(
            "a tensor of this layer has more than 2147483647 elements, which kernels for CUDA do "
            "not count; use a smaller batch"
        ) from error
    symbol = (func.attrs or {}).get("global_symbol")
    if symbol is None:
        return narrow.without_attr("global_symbol")
    return narrow.with_attr("global_symbol", symbol)


def read_anchor(func: Any) -> Anchor:
    """Return the sum of a function with one anchor; indices as they are in `func`.

    Raises
    ------
    NotElementwiseError
        When there is no anchor or more than one.
    """
    found = _anchor(blocks_of(func))
    if found is None or found.role not in ANCHORS:
        raise NotElementwiseError("the kernel has no convolution or dense layer")
    mark = found.node.annotations.get(PROBLEM)
    params = params_of(func)
    loads = loads_of(found.value)
    others = [load for load in dict.fromkeys(loads) if not load.same_as(found.buffer)]
    operands = [load for load in others if load in params]
    problem = None if mark is None else Problem.from_json(str(mark))
    if problem is not None and not problem.packed:
        return Anchor(found.role, None, operands, problem)
    return Anchor(found.role, problem, operands)


def base_of(func: Any) -> int:
    """Return the number of the parameter `base` where a sum is read as ``base − 2·sum`` alone.

    Raises
    ------
    NotElementwiseError
        When the sum or the parameter is read elsewhere too.
    """
    blocks, params = blocks_of(func), params_of(func)
    anchor = _anchor(blocks)
    readers = [b for b in blocks if anchor is not None and anchor.buffer in loads_of(b.value)]
    readers = [block for block in readers if block is not anchor]
    found = [load for block in readers for load in loads_of(block.value) if load in params]
    if [block.role for block in readers] == ["accumulator"] and len(found) == 1:
        reads = [load for block in blocks for load in loads_of(block.value)]
        if reads.count(found[0]) == 1:
            return next(i for i, param in enumerate(func.params) if param.same_as(found[0]))
    raise NotElementwiseError("the sum is not read through a table of corrections alone")


def read_epilogue(func: Any) -> Epilogue:
    """Return what a function computes of its sums: one anchor, or else one reduction, or none.

    Parameters
    ----------
    func : tirx.PrimFunc
        A kernel as `FuseTIR` leaves it, with 32-bit indices (`narrowed`).

    Raises
    ------
    NotElementwiseError
        When it computes something else.
    """
    blocks = blocks_of(func)
    anchor = _anchor(blocks)
    made = {block.buffer: block for block in blocks}
    params = params_of(func)
    own = set(loads_of(anchor.value)) if anchor is not None else set()
    dtype = "float32" if anchor is None else str(anchor.buffer.dtype)
    outputs: list[Output] = []
    reads: dict[Any, None] = {}
    for param in params:
        block = made.get(param)
        if block is None:
            continue
        reader = _Reader(made, anchor)
        if block.role == "pack":
            outputs.append(_packed(reader, block))
        else:
            outputs.append(Output(param, False, _element_of(reader, param), 1, extents_of(param)))
        dry = tuple(tirx.Var(f"i{axis}", "int32") for axis in range(len(block.axes)))
        outputs[-1].element(tirx.Var("acc", dtype), dry)
        reads.update(dict.fromkeys(reader.params))
    return Epilogue(outputs, [buffer for buffer in params if buffer in reads and buffer not in own])


def read_reduction(func: Any) -> Reduction | None:
    """Return the sum of a kernel, what is computed before it included; None without a sum.

    Raises
    ------
    NotElementwiseError
        When there are several sums.
    """
    blocks = blocks_of(func)
    anchor = _anchor(blocks)
    if anchor is None or not any(map(is_reduced, anchor.node.iter_vars)):
        return None
    reader = _Reader({block.buffer: block for block in blocks}, anchor)
    spatial = list(anchor.indices)
    reduced = [axis.var for axis in anchor.node.iter_vars if is_reduced(axis)]
    kept = [axis.var for axis in anchor.node.iter_vars if not is_reduced(axis)]
    if len(kept) != len(spatial) or not all(map(_same, kept, spatial)):
        raise NotElementwiseError(f"{anchor.node.name_hint} stores its sums in another order")

    def step(acc: Any, at: tuple[Any, ...], steps: tuple[Any, ...]) -> Any:
        axes = dict(zip([*kept, *reduced], [*at, *steps], strict=True))
        return reader.expression(anchor.value, axes, _Place(acc, list(at)))

    return Reduction(
        tuple(int(extent) for extent in anchor.buffer.shape),
        str(anchor.buffer.dtype),
        tuple(int(a.dom.extent) for a in anchor.node.iter_vars if is_reduced(a)),
        anchor.node.init.value,
        step,
    )


class _Place(NamedTuple):
    """An element that is computed: its sum, its indices, and how parameters are loaded."""

    acc: Any
    at: list[Any]
    load: Load = tirx.BufferLoad


class _Reader:
    """Follows loads back to the sum and to parameters."""

    def __init__(self, made: dict[Any, Block], anchor: Block | None) -> None:
        self.made, self.anchor = made, anchor
        self.params: dict[Any, None] = {}

    def value(self, buffer: Any, index: list[Any], place: _Place) -> Any:
        """Return ``buffer[index]`` as an expression of the sum of an element."""
        if self.anchor is not None and buffer.same_as(self.anchor.buffer):
            if not all(_same(one, other) for one, other in zip(index, place.at, strict=True)):
                raise NotElementwiseError(
                    f"an element of {buffer.name} is computed from the sum at another position"
                )
            return place.acc
        block = self.made.get(buffer)
        if block is None:
            self.params[buffer] = None
            return place.load(buffer, index)
        if any(map(is_reduced, block.node.iter_vars)):
            raise NotElementwiseError(f"{block.node.name_hint} is a sum behind the anchor")
        if not all(one.same_as(axis) for one, axis in zip(block.indices, block.axes, strict=True)):
            raise NotElementwiseError(f"{block.node.name_hint} stores in another order")
        return self.expression(block.value, dict(zip(block.axes, index, strict=True)), place)

    def expression(self, value: Any, axes: dict[Any, Any], place: _Place) -> Any:
        """Return an expression with its axes replaced and its loads followed."""
        done: dict[Any, Any] = {}
        refused: list[NotElementwiseError] = []  # an exception must not leave the callback

        def load(node: Any) -> Any:
            key = (node.source, tuple(map(str, node.indices)))
            if key not in done:
                try:
                    done[key] = self.value(node.source, list(node.indices), place)
                except NotElementwiseError as error:
                    refused.append(error)
                    return node
            return done[key]

        def axis(var: Any) -> Any:
            return axes.get(var, var)

        replaced = tvm_ffi.structural_map(value, [(ir.TensorLoad, load), (tirx.Var, axis)])
        if refused:
            raise refused[0]
        return replaced


def _element_of(reader: _Reader, buffer: Any) -> Callable[..., Any]:
    def element(acc: Any, indices: tuple[Any, ...], load: Load = tirx.BufferLoad) -> Any:
        at = _positions(reader, indices)
        return reader.value(buffer, at, _Place(acc, at, load))

    return element


def _packed(reader: _Reader, pack: Block) -> Output:
    """Return the bits of a pack, whose channels may go through a padded copy."""
    source = next(iter(dict.fromkeys(loads_of(pack.value))))
    padded = reader.made.get(source)
    if padded is not None and padded.role == "pack_pad":
        source = next(iter(dict.fromkeys(loads_of(padded.value))))
    or_zero = bool(int(pack.node.annotations["xnortvm.or_zero"]))

    def bit(acc: Any, indices: tuple[Any, ...], load: Load = tirx.BufferLoad) -> Any:
        at = _positions(reader, indices)
        value = reader.value(source, at, _Place(acc, at, load))
        if isinstance(value, tirx.Select) and _is_sign(value):
            return value.condition
        zero = tirx.const(0, str(value.ty.dtype))
        return value <= zero if or_zero else value < zero

    groups = int(pack.node.annotations["xnortvm.groups"])
    return Output(pack.buffer, True, bit, groups, extents_of(source))


def indices_in(buffer: Any, index: Sequence[Any]) -> Sequence[Any]:
    """Return where (n, y, x, o) lies in a parameter: that of a dense layer has (n, o)."""
    return index if len(buffer.shape) == len(index) else (index[0], index[-1])


def _is_sign(value: Any) -> bool:
    """Whether a selection is -1 or 0: a threshold."""
    chosen = value.true_value, value.false_value
    return all(isinstance(each, tirx.IntImm) for each in chosen) and [
        int(each) for each in chosen
    ] == [-1, 0]


def _positions(reader: _Reader, indices: tuple[Any, ...]) -> list[Any]:
    at = [tirx.const(each, "int32") if isinstance(each, int) else each for each in indices]
    if reader.anchor is None or len(reader.anchor.buffer.shape) == len(at):
        return at
    return [at[0], at[-1]]


def _same(one: Any, other: Any) -> bool:
    return bool(one.same_as(other)) or bool(tvm_ffi.structural_equal(one, other))


def _anchor(blocks: list[Block]) -> Block | None:
    """Return the anchor, else the only reduction; None without any."""
    found = [block for block in blocks if block.role in ANCHORS]
    found = found or [b for b in blocks if any(map(is_reduced, b.node.iter_vars))]
    if len(found) > 1:
        raise NotElementwiseError(f"a kernel has one sum, and this one has {len(found)}")
    return found[0] if found else None
