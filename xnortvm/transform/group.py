# SPDX-License-Identifier: Apache-2.0
"""An operator and everything elementwise that follows it → one kernel.

A region starts at an anchor (a convolution, a dense layer, a pooling) and takes in the elementwise
operators and bit packings behind it that have the anchor's output shape: scales, batch norm,
PReLU, the residual add, and the sign of the result. What later operators read becomes an output of
the kernel, so a residual block gives the float trunk and the next layer's bits at once. Elementwise
operators that no anchor can take form regions of their own.

Each region becomes a private Relax function with the attribute ``Primitive``, which
``LegalizeOps`` and ``FuseTIR`` turn into one PrimFunc.
"""

from __future__ import annotations

import re
from typing import Any

from xnortvm._tvm import BlockBuilder, IRModule, ir, relax
from xnortvm.graph.dataflow import (
    Builder,
    Graph,
    dtype_of,
    is_const,
    layer_name,
    op_name,
    shape_of,
    value_of,
    variables,
)
from xnortvm.graph.pointwise import is_pointwise

#: Operators that start a kernel, and the short name that the kernel gets from them.
ANCHORS = {
    "relax.xnortvm.bconv2d": "bconv2d",
    "relax.xnortvm.bdense": "bdense",
    "relax.nn.conv2d": "conv2d",
    "relax.xnortvm.stem_conv2d": "conv2d",
    "relax.matmul": "dense",
    "relax.nn.max_pool2d": "max_pool2d",
    "relax.nn.avg_pool2d": "avg_pool2d",
    "relax.xnortvm.bmaxpool2d": "bmaxpool2d",
}

#: Sums and the like over some axes: what they read is computed on the way, if only they read it.
REDUCTIONS = {
    "relax.mean": "mean",
    "relax.sum": "sum",
    "relax.max": "max",
    "relax.min": "min",
}

#: Kinds of kernels that have weights.
LAYER_KINDS = frozenset({"bconv2d", "bdense", "conv2d", "dense"})
BINARY_KINDS = frozenset({"bconv2d", "bdense"})

#: Operators that read a value of the anchor's shape and give packed bits.
PACKS = frozenset({"relax.xnortvm.bitpack", "relax.xnortvm.threshold_pack"})

#: Elementwise operators that cost no more than reading their result would.
_CHEAP = frozenset({"relax.multiply", "relax.add", "relax.subtract"})

#: Attributes of a kernel: the anchor operator, the layer, the regions's number of operators.
KERNEL_OP = "xnortvm.kernel_op"
KERNEL_LAYER = "xnortvm.layer"


def group_epilogues(mod: IRModule) -> IRModule:
    """Move every region into a private function of its own."""
    graph = Graph(mod["main"])
    return _rebuild(mod, graph, find_regions(graph))


class Region:
    """What one kernel computes.

    Attributes
    ----------
    members : dict
        Its variables as keys, in order: a reduction's elementwise operands, the anchor, the rest.
    anchor : Var
    kind, layer : str
        Short name of the anchor's operator; name of the layer in the user's model.
    """

    def __init__(self, anchor: Any, kind: str, layer: str) -> None:
        self.members: dict[Any, None] = {anchor: None}
        self.anchor, self.kind, self.layer = anchor, kind, layer

    @property
    def is_layer(self) -> bool:
        """Whether the anchor is a convolution or a dense layer."""
        return self.kind in LAYER_KINDS


def find_regions(graph: Graph) -> dict[Any, Region]:
    """Assign variables to regions; anchors that come last choose first.

    A residual add has two candidates; it goes to the later one, which then reads the other's
    result from memory.
    """
    owner: dict[Any, Region] = {}
    calls = list(graph.calls())
    for var, call in reversed(calls):
        kind = ANCHORS.get(op_name(call))
        if kind is not None and shape_of(var) is not None and _has_kernel(call):
            _grow(graph, owner, Region(var, kind, _layer(var, call)))
    for var, call in calls:
        kind = REDUCTIONS.get(op_name(call))
        if kind is not None and var not in owner and shape_of(var) is not None:
            region = Region(var, kind, _layer(var, call))
            if _take_operands(graph, owner, region, call):
                _grow(graph, owner, region)
    for var, call in calls:
        alone = is_pointwise(call) or op_name(call) in PACKS
        if var not in owner and alone and shape_of(var) is not None and _is_tensor_code(call):
            kind = "elementwise" if is_pointwise(call) else "bitpack"
            _grow(graph, owner, Region(var, kind, _layer(var, call)))
    return owner


def _layer(var: Any, call: Any) -> str:
    attrs = call.attrs
    if isinstance(attrs, ir.attrs.DictAttrs) and "layer" in attrs:
        return str(attrs["layer"])
    return layer_name(call, str(var.name))


def _has_kernel(call: Any) -> bool:
    """Whether the anchor is one that the kernels know: constant 2-D weights for a dense layer."""
    if op_name(call) != "relax.matmul":
        return True
    weight = value_of(call.args[1])
    return weight is not None and weight.ndim == 2


def _is_tensor_code(call: Any) -> bool:
    return any(isinstance(arg, relax.Var) for arg in call.args)


def _grow(graph: Graph, owner: dict[Any, Region], region: Region) -> None:
    shape = shape_of(region.anchor)
    loaded = _widenings(graph, owner, region.anchor)
    region.members = dict.fromkeys([*loaded, *region.members])
    owner.update(dict.fromkeys([*loaded, region.anchor], region))
    if op_name(graph.value[region.anchor]) in PACKS:
        return
    started = False
    for var, call in graph.calls():
        if var.same_as(region.anchor):
            started = True
            continue
        if not started or var in owner or not _fits(graph, region, call, var, shape):
            continue
        added = [
            *_broadcast_operands(graph, owner, region, call, var),
            *_widenings(graph, owner, var),
            var,
        ]
        owner.update(dict.fromkeys(added, region))
        region.members.update(dict.fromkeys(added))
        if _is_cyclic(graph, owner, region):
            for each in added:
                del owner[each], region.members[each]


def _fits(graph: Graph, region: Region, call: Any, var: Any, shape: Any) -> bool:
    used = [arg for arg in call.args if isinstance(arg, relax.Var)]
    if not any(arg in region.members for arg in used):
        return False
    if op_name(call) in PACKS:
        return call.args[0] in region.members and shape_of(call.args[0]) == shape
    # What widens belongs to the kernel that reads it: between the two there is half to carry.
    return is_pointwise(call) and shape_of(var) == shape and not _widens(call)


def _widenings(graph: Graph, owner: dict[Any, Region], var: Any) -> list[Any]:
    """Operands of a call that are fp16 in memory and fp32 for this call alone: converted there."""
    found = []
    for arg in graph.value[var].args:
        source = graph.value.get(arg) if isinstance(arg, relax.Var) else None
        if _widens(source) and arg not in owner and graph.users[arg] == [var]:
            found.append(arg)
    return found


def _widens(call: Any) -> bool:
    """Whether a call makes fp32 of what is fp16 in memory."""
    return op_name(call) == "relax.astype" and (
        dtype_of(call.args[0]),
        str(call.attrs.dtype),
    ) == ("float16", "float32")


def _broadcast_operands(
    graph: Graph, owner: dict[Any, Region], region: Region, call: Any, var: Any
) -> list[Any]:
    """Operands of a call that only spread smaller values over the region: computed there.

    Such as t · (sum of a window), one number for each pixel times one for each channel.
    """
    shape = shape_of(var)
    found = []
    for arg in call.args:
        source = graph.value.get(arg) if isinstance(arg, relax.Var) else None
        if source is None or arg in owner or arg in region.members or graph.users[arg] != [var]:
            continue
        spread = op_name(source) in _CHEAP and shape_of(arg) == shape
        if spread and all(shape_of(used) != shape for used in variables(source)):
            found.append(arg)
    return found


def _take_operands(graph: Graph, owner: dict[Any, Region], region: Region, call: Any) -> bool:
    """Take in the elementwise operators in front of a reduction; False where there are none.

    XNOR-Net's mean |x| reads x once. Values that others read too are there already, and small ones
    that are spread over the operand are no longer small.
    """
    shape = shape_of(call.args[0])
    taken: list[Any] = []
    pending = [call.args[0]]
    while pending:
        var = pending.pop()
        source = graph.value.get(var) if isinstance(var, relax.Var) else None
        if source is None or var in owner or not is_pointwise(source) or shape_of(var) != shape:
            continue
        if any(user is not region.anchor and user not in taken for user in graph.users[var]):
            continue
        taken.append(var)
        pending += [arg for arg in source.args if isinstance(arg, relax.Var)]
    order = {var: place for place, (var, _) in enumerate(graph.bindings)}
    taken.sort(key=order.__getitem__)
    region.members = dict.fromkeys([*taken, region.anchor])
    owner.update(dict.fromkeys(taken, region))
    return bool(taken)


def _is_cyclic(graph: Graph, owner: dict[Any, Region], region: Region) -> bool:
    """Whether something that the region reads depends on the region."""
    pending = [
        arg
        for var in region.members
        for arg in variables(graph.value[var])
        if owner.get(arg) is not region
    ]
    seen: set[Any] = set()
    while pending:
        var = pending.pop()
        if var in seen or var not in graph.value:
            continue
        seen.add(var)
        other = owner.get(var)
        if other is region:
            return True
        group = other.members if other is not None else {var: None}
        seen.update(group)
        pending += [arg for v in group for arg in variables(graph.value[v])]
    return False


def in_order(graph: Graph, owner: dict[Any, Region]) -> list[Any]:
    """List regions and variables without one, everything after what it reads."""
    order: list[Any] = []
    done: set[Any] = set(graph.params)
    for wanted, _ in graph.bindings:
        stack = [wanted]
        while stack:
            current = stack[-1]
            if current in done:
                stack.pop()
                continue
            region = owner.get(current)
            members = list(region.members) if region is not None else [current]
            needed = [
                arg
                for member in members
                for arg in variables(graph.value[member])
                if arg not in done and (region is None or arg not in region.members)
            ]
            if needed:
                stack += needed
                continue
            stack.pop()
            done.update(members)
            order.append(current if region is None else region)
    return order


def outputs_of(graph: Graph, region: Region) -> list[Any]:
    """Variables of a region that something outside of it reads, in order."""
    return [
        var
        for var in region.members
        if any(user not in region.members for user in graph.users[var])
    ]


def _rebuild(mod: IRModule, graph: Graph, owner: dict[Any, Region]) -> IRModule:
    builder = Builder()
    func = mod["main"]
    params = [relax.Var(str(param.name), param.ty) for param in graph.params]
    builder.env = dict(zip(graph.params, params, strict=True))
    names: dict[str, int] = {}
    attrs = dict(func.attrs.items()) if func.attrs else None
    with builder.block.function("main", params, attrs=attrs):
        with builder.block.dataflow():
            for item in in_order(graph, owner):
                if isinstance(item, Region):
                    _emit_region(builder, graph, item, names)
                    continue
                expr = builder.new(graph.value[item])
                atom = isinstance(expr, (relax.Var, relax.Tuple)) or is_const(expr)
                builder.env[item] = expr if atom else builder.emit(expr, str(item.name))
            output = builder.block.emit_output(builder.new(graph.result))
        builder.block.emit_func_output(output)
    return relax.transform.DeadCodeElimination(["main"])(builder.block.get())


def _emit_region(builder: Builder, graph: Graph, region: Region, names: dict[str, int]) -> None:
    outputs = outputs_of(graph, region)
    inputs = list(
        dict.fromkeys(
            arg
            for var in region.members
            for arg in variables(graph.value[var])
            if arg not in region.members
        )
    )
    name = _kernel_name(region, names)
    function = _region_function(graph, region, inputs, outputs)
    gvar = builder.block.add_func(function, name)
    call = builder.block.emit(relax.Call(gvar, [builder.env[arg] for arg in inputs]), name)
    for i, var in enumerate(outputs):
        one = len(outputs) == 1
        builder.env[var] = (
            call if one else builder.block.emit(relax.TupleGetItem(call, i), str(var.name))
        )


def _kernel_name(region: Region, names: dict[str, int]) -> str:
    name = f"{region.kind}_{re.sub(r'[^0-9a-zA-Z_]', '_', region.layer)}"
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}_{names[name]}"


def _region_function(graph: Graph, region: Region, inputs: list[Any], outputs: list[Any]) -> Any:
    inner = Builder()
    inner.block = BlockBuilder()
    params = [relax.Var(str(arg.name), arg.ty) for arg in inputs]
    inner.env = dict(zip(inputs, params, strict=True))
    attrs = {"Primitive": 1, KERNEL_OP: region.kind, KERNEL_LAYER: region.layer}
    with inner.block.function("kernel", params, attrs=attrs, private=True):
        with inner.block.dataflow():
            for var in region.members:
                inner.env[var] = inner.emit(inner.new(graph.value[var]), str(var.name))
            made = [inner.env[var] for var in outputs]
            result = made[0] if len(made) == 1 else relax.Tuple(made)
            output = inner.block.emit_output(result)
        inner.block.emit_func_output(output)
    return inner.block.get()["kernel"]
