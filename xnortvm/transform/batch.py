# SPDX-License-Identifier: Apache-2.0
"""Kernels of one sample → kernels of any number of samples.

A model with a dynamic batch is compiled for one sample, which `xnortvm.frontend.batch` has proved
to be all that there is to know, and this pass repeats every scheduled kernel for each sample:

    for n in range(batch):      # the outermost loop; nothing inside of it changes
        kernel, with dimension 0 of x moved by n · (dimension 0 of one sample)

So the tiles, and with them the time for each sample, are those of batch 1, whatever the schedule.
Dimension 0 holds whole samples one after the other; it need not be the batch itself, as in
``view(batch * rows, columns)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xnortvm._tvm import (
    IRModule,
    TensorLoad,
    TensorRegion,
    ir,
    relax,
    relax_transform,
    tirx,
    typed_global_var,
)
from xnortvm.errors import CompileError
from xnortvm.frontend.imported import Batch
from xnortvm.graph.dataflow import Builder, Graph, op_name, variables
from xnortvm.graph.tir import replaced, rewrite


class AddBatch:
    """The pass: gives ``main`` and its kernels a symbolic number of samples.

    Parameters
    ----------
    batch : Batch
        Name and range of the dimension, and the inputs that have it.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __call__(self, mod: IRModule) -> IRModule:
        """Return the module for any number of samples.

        Parameters
        ----------
        mod : IRModule
            Scheduled, for one sample.
        """
        # Views have to be known as such: a kernel in a loop no longer looks like a reshape.
        mod = relax_transform.RewriteDataflowReshape()(mod)
        return _Rewriter(mod, self.batch).run()


class _Rewriter:
    """One run of the pass."""

    def __init__(self, mod: IRModule, batch: Batch) -> None:
        self.mod = mod
        self.graph = Graph(mod["main"])
        self.size = tirx.Var(batch.name, "int64")
        self.batch = batch
        self.functions: dict[Any, Any] = {}
        self.kernels: dict[tuple[Any, tuple[bool, ...]], Any] = {}
        self.many: set[Any] = set()  # new variables that hold all samples

    def run(self) -> IRModule:
        builder = Builder()
        params = []
        for param in self.graph.params:
            has_batch = str(param.name) in self.batch.inputs
            new = relax.Var(str(param.name), self._type(param.ty) if has_batch else param.ty)
            builder.env[param] = new
            params.append(new)
            if has_batch:
                self.many.add(new)
        with builder.block.function("main", params, attrs=self._attributes()):
            with builder.block.dataflow():
                for var, old in self.graph.bindings:
                    expr = self._rewritten(builder.new(old), var)
                    atom = isinstance(expr, relax.Var | relax.Tuple)
                    builder.env[var] = expr if atom else builder.emit(expr, str(var.name))
                    if any(used in self.many for used in variables(expr)):
                        self.many.add(builder.env[var])
                output = builder.block.emit_output(builder.new(self.graph.result))
            builder.block.emit_func_output(output)
        main = builder.block.get()["main"]
        functions = {typed_global_var("main", main): main, **self.functions}
        return IRModule(functions, attrs=self.mod.attrs)

    def _attributes(self) -> dict[str, Any]:
        func = self.mod["main"]
        attrs = dict(func.attrs.items()) if func.attrs else {}
        attrs["tir_var_lower_bound"] = {self.batch.name: self.batch.low}
        if self.batch.high is not None:
            attrs["tir_var_upper_bound"] = {self.batch.name: self.batch.high}
        return attrs

    def _type(self, ty: Any) -> Any:
        """Return the type of all samples, given the type of one."""
        return relax.TensorType(_scaled(ty.shape.values, self.size), ty.dtype)

    def _rewritten(self, expr: Any, var: Any) -> Any:
        """Return an expression over new variables, for all samples where one of them is."""
        if not isinstance(expr, ir.Call):
            return expr
        if op_name(expr) == "relax.call_tir":
            return self._kernel_call(expr)
        if not any(used in self.many for used in variables(expr)):
            return expr
        if op_name(expr) == "relax.reshape":
            return relax.op.reshape(expr.args[0], _scaled(var.ty.shape.values, self.size))
        raise CompileError(
            f"{op_name(expr) or expr.op} has no form for a dynamic batch; export the model with "
            "a fixed batch size, or report this with the model"
        )

    def _kernel_call(self, call: Any) -> Any:
        gvar, args = call.args[0], list(call.args[1].fields)
        flags = tuple(arg in self.many for arg in args)
        if not any(flags):
            self.functions.setdefault(gvar, self.mod[gvar])
            return call
        function = self.mod[gvar]
        flags += (True,) * (len(function.params) - len(flags))
        key = (gvar, flags)
        if key not in self.kernels:
            made = over_samples(function, flags, len(args))
            name = str(gvar.name_hint)
            copies = sum(str(known.name_hint) == name for known, _ in self.kernels)
            new = typed_global_var(f"{name}_{copies + 1}" if copies else name, made)
            self.kernels[key], self.functions[new] = new, made
        (result,) = call.ty_args
        fields = result.fields if isinstance(result, relax.TupleType) else [result]
        outputs = [self._type(field) for field in fields]
        return relax.call_tir(self.kernels[key], relax.Tuple([*args, self.size]), outputs)


def _scaled(dims: Sequence[Any], size: Any) -> list[Any]:
    """Multiply dimension 0 by a number of samples."""
    first = int(dims[0])
    return [size if first == 1 else size * tirx.IntImm("int64", first), *dims[1:]]


def over_samples(func: Any, many: Sequence[bool], inputs: int) -> Any:
    """Return a kernel that computes what `func` does for each of several samples.

    Parameters
    ----------
    func : tirx.PrimFunc
        For one sample; scheduled or not.
    many : sequence of bool
        Which of its parameters hold one tensor for each sample, along dimension 0.
    inputs : int
        How many of its parameters are inputs.

    Returns
    -------
    tirx.PrimFunc
        With one more input behind the others, the number of samples, int64.
    """
    size, index = tirx.Var("batch", "int64"), tirx.Var("sample", "int64")
    moved: dict[Any, tuple[Any, Any]] = {}
    params = []
    for old, is_many in zip(func.params, many, strict=True):
        new = old
        if is_many:
            first = int(old.shape[0])
            new = tirx.decl_buffer(_scaled(old.shape, size), old.dtype, old.name)
            moved[old] = new, index if first == 1 else index * tirx.IntImm("int64", first)
        params.append(new)

    def move(node: Any) -> Any:
        if isinstance(node, TensorLoad) and node.source in moved:
            buffer, start = moved[node.source]
            first, *rest = node.indices
            return tirx.BufferLoad(buffer, [start + first, *rest])
        if isinstance(node, tirx.BufferStore) and node.buffer in moved:
            buffer, start = moved[node.buffer]
            first, *rest = node.indices
            return tirx.BufferStore(buffer, node.value, [start + first, *rest])
        if isinstance(node, TensorRegion) and node.source in moved:
            buffer, start = moved[node.source]
            first, *rest = node.region
            first = ir.Range.from_min_extent(start + first.min, first.extent)
            return tirx.BufferRegion(buffer, [first, *rest])
        return node

    params.insert(inputs, size)
    block = func.body.block
    zero = tirx.IntImm("int64", 0)
    loop = tirx.For(index, zero, size, tirx.ForKind.SERIAL, rewrite(block.body, move))
    body = replaced(func.body, block=replaced(block, body=loop))
    attrs = dict((func.attrs or {}).items())
    return tirx.PrimFunc(params, body, func.ret_type).with_attr(attrs)
