# SPDX-License-Identifier: Apache-2.0
"""What is read of a kernel's epilogue computes what the kernel computes, as NumPy does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm

from tests.ops.kernel_cases import (
    EPILOGUES,
    HOST,
    Case,
    Conv,
    accumulator,
    bconv2d_case,
    bdense_case,
    conv2d_case,
    sampled,
)
from xnortvm import ops
from xnortvm._tvm import te, tirx, topi
from xnortvm.ops import reference
from xnortvm.ops.bconv2d import bconv2d_te
from xnortvm.ops.bitpack import bitpack_te
from xnortvm.ops.bsum2d import bsum2d_te
from xnortvm.schedules.cuda.epilogue import (
    NotElementwiseError,
    base_of,
    narrowed,
    read_anchor,
    read_epilogue,
)
from xnortvm.schedules.isa import gpu

GPU = gpu("sm_80")


def evaluated(func: Any, inputs: list[np.ndarray], count: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of a kernel, each element evaluated from its count by LLVM."""
    func = narrowed(func)
    epilogue = read_epilogue(func)
    given = [param for param in func.params if param not in {o.buffer for o in epilogue.outputs}]
    sums = tirx.decl_buffer(count.shape, str(count.dtype), name="sums")
    index = [tirx.Var(name, "int32") for name in "nyxo"]
    shape = count.shape if count.ndim == 4 else (count.shape[0], 1, 1, count.shape[1])
    at = index if count.ndim == 4 else [index[0], index[3]]
    made, body = [], []
    for output in epilogue.outputs:
        dtype = "int8" if output.packed else str(output.buffer.dtype)
        made.append(tirx.decl_buffer(count.shape, dtype, name=f"out{len(made)}"))
        value = output.element(tirx.BufferLoad(sums, at), tuple(index))
        body.append(tirx.BufferStore(made[-1], value.astype(dtype), at))
    stmt: Any = tirx.SeqStmt(body) if len(body) > 1 else body[0]
    for var, extent in zip(reversed(index), reversed(shape), strict=True):
        stmt = tirx.For(var, tirx.const(0, "int32"), tirx.const(extent, "int32"), 0, stmt)
    whole = tirx.PrimFunc([*given, sums, *made], stmt).with_attr("global_symbol", "main")
    library = tvm.compile(tvm.ir.IRModule({"main": whole}), tvm.target.Target(HOST))
    arrays = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in (*inputs, count)]
    results = [tvm.runtime.tensor(np.full(count.shape, 7, str(each.dtype))) for each in made]
    library["main"](*arrays, *results)
    return [
        ops.pack(result.numpy() != 0, output.groups) if output.packed else result.numpy()
        for result, output in zip(results, epilogue.outputs, strict=True)
    ]


def counts(conv: Conv, a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return how many bits differ, where padding by 0 reads as bits 0."""
    per_group = conv.channels // conv.groups
    signs = ops.unpack_weights(w, per_group)
    total = np.count_nonzero(signs, axis=(1, 2, 3)).astype(np.int32)
    dots = reference.bconv2d(
        a,
        w,
        channels=conv.channels,
        groups=conv.groups,
        pad_value=conv.pad_value or 1,
        **conv.geometry,
    )
    return ((total - dots) // 2).astype(np.int32)


def check(case: Case, count: np.ndarray) -> None:
    for got, wanted in zip(evaluated(case.func, case.inputs, count), case.expected, strict=True):
        np.testing.assert_array_equal(got, wanted, err_msg=case.name)


@pytest.mark.parametrize("kind", EPILOGUES)
def test_epilogues_of_convolutions_are_exact(kind) -> None:
    for seed, conv in enumerate(sampled(2, seed=4)):
        case = bconv2d_case(conv, GPU, kind, seed=seed)
        check(case, counts(conv, case.inputs[0], case.inputs[1]))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", EPILOGUES)
def test_epilogues_of_dense_layers_are_exact(kind, masked) -> None:
    case = bdense_case(3, 65, 33, GPU, kind, masked=masked)
    signs = ops.unpack_weights(case.inputs[1], 65)
    total = np.count_nonzero(signs, axis=1).astype(np.int32)
    dots = reference.bdense(case.inputs[0], case.inputs[1], channels=65)
    check(case, (total - dots) // 2)


def test_epilogues_of_float_layers_are_exact() -> None:
    conv = Conv(8, 16)
    plain, fused = (conv2d_case(conv, GPU, kind) for kind in ("accumulator", "two outputs"))
    check(fused, plain.expected[0])


def test_bits_of_groups_start_words_of_their_own() -> None:
    rng = np.random.default_rng(0)
    conv = Conv(32, 40)
    case = bconv2d_case(conv, GPU)
    a, w, base = case.inputs
    pa, pw, pb = (te.placeholder(x.shape, str(x.dtype), f"p{i}") for i, x in enumerate(case.inputs))
    acc = accumulator(conv, GPU, pa, [pw], pb)
    shift = (rng.integers(-9, 9, 40) / 2).astype(np.float32)
    ps = te.placeholder(shift.shape, "float32", "shift")
    value = topi.add(topi.cast(acc, "float32"), ps)
    packed = bitpack_te(value, groups=4, zero="-1", flavour=GPU.pack)
    func = te.create_prim_func([pa, pw, pb, ps, packed])
    expected = reference.bitpack(case.expected[0] + shift, groups=4, zero="-1")
    check(Case("groups", func, [a, w, base, shift], [expected]), counts(conv, a, w))


GAMMAS = {
    "α": [(1, 1, 1, 40)],
    "dense": [(1, 6, 6, 40)],
    "α ⊗ β": [(1, 1, 1, 40), (1, 6, 6, 1)],
    "α ⊗ β ⊗ γ": [(1, 1, 1, 40), (1, 6, 1, 1), (1, 1, 6, 1)],
}


@pytest.mark.parametrize("gamma", GAMMAS)
def test_scale_factors_of_all_four_shapes_are_read(gamma) -> None:
    """With batch norm, PReLU and a residual behind them; two outputs, floats and bits."""
    rng = np.random.default_rng(1)
    conv = Conv(32, 40, images=2)
    case = bconv2d_case(conv, GPU)
    shapes = [*GAMMAS[gamma], (40,), (40,), (40,), (2, 6, 6, 40)]
    constants = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    *factors, scale, shift, slope, other = constants
    arrays = [*case.inputs, *constants]
    pa, pw, pb, *ps = (te.placeholder(x.shape, str(x.dtype), f"p{i}") for i, x in enumerate(arrays))
    acc = accumulator(conv, GPU, pa, [pw], pb)
    *pf, p_scale, p_shift, p_slope, p_other = ps
    value = topi.cast(acc, "float32")
    wanted = case.expected[0].astype(np.float32)
    for placeholder, factor in zip(pf, factors, strict=True):
        value, wanted = topi.multiply(value, placeholder), wanted * factor
    value = topi.add(topi.multiply(value, p_scale), p_shift)
    wanted = wanted * scale + shift
    positive = topi.greater(value, tirx.const(0.0, "float32"))
    value = topi.where(positive, value, topi.multiply(value, p_slope))
    wanted = np.where(wanted > 0, wanted, wanted * slope)
    value, wanted = topi.add(value, p_other), wanted + other
    packed = bitpack_te(value, groups=1, zero="+1", flavour=GPU.pack)
    func = te.create_prim_func([pa, pw, pb, *ps, value, packed])
    floats, bits = evaluated(func, arrays, counts(conv, *arrays[:2]))
    np.testing.assert_allclose(floats, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)
    np.testing.assert_array_equal(bits, reference.bitpack(floats))
    reads = {buffer.name for buffer in read_epilogue(narrowed(func)).reads}
    assert reads == {f"p{i}" for i in range(2, len(arrays))}


def test_a_problem_survives_as_an_attribute() -> None:
    for conv in sampled(6, seed=5):
        anchor = read_anchor(bconv2d_case(conv, GPU).func)
        problem = anchor.problem
        assert anchor.op == "bconv2d"
        assert problem is not None
        assert [buffer.name for buffer in anchor.operands] == ["a", "w0"]
        assert (problem.map, problem.padding) == (conv.map, conv.padding)
        assert (problem.channels * problem.groups, problem.masked) == (conv.channels, conv.masked)


def test_a_sum_behind_the_anchor_is_refused() -> None:
    rng = np.random.default_rng(0)
    a = ops.pack(rng.random((1, 6, 6, 64)) < 0.5)
    pa = te.placeholder(a.shape, "uint32", "a")
    numbers = {"channels": 64, "outputs": 64, "kernel": (3, 3), "groups": 1, "pad_value": 0}
    sums = bsum2d_te(pa, (6, 6, 1), offset=0, **numbers, **Conv().geometry)
    case = bconv2d_case(Conv(), GPU)
    pw, pb = (te.placeholder(x.shape, str(x.dtype), f"p{i}") for i, x in enumerate(case.inputs[1:]))
    acc = accumulator(Conv(), GPU, pa, [pw], pb)
    value = topi.add(topi.cast(acc, "float32"), sums)
    with pytest.raises(NotElementwiseError, match="is a sum behind the anchor"):
        read_epilogue(narrowed(te.create_prim_func([pa, pw, pb, value])))


@pytest.mark.parametrize("kind", EPILOGUES)
def test_the_table_of_corrections_is_found(kind: str) -> None:
    func = bconv2d_case(Conv(64, 32, (4, 4)), GPU, kind).func
    assert str(func.params[base_of(func)].name) == "base"


def test_a_dense_layer_has_no_table_of_corrections() -> None:
    with pytest.raises(NotElementwiseError, match="table of corrections"):
        base_of(bdense_case(2, 64, 32, GPU).func)


def test_a_sum_that_is_read_twice_keeps_its_own_bits() -> None:
    a, w = (te.placeholder(shape, "uint32") for shape in ((1, 4, 4, 2), (8, 3, 3, 2)))
    base = te.placeholder((1, 1, 8), "int32", name="base")
    form = {"outputs": 8, "kernel": (3, 3), "channels": 64, "strides": (1, 1)}
    form |= {"padding": (0,) * 4, "dilation": (1, 1), "groups": 1, "pad_value": 1}
    acc = bconv2d_te(a, [w], base, isa=GPU, **form)
    (count,) = (each for each in acc.op.input_tensors if each.name == "count")
    both = te.compute(acc.shape, lambda *i: acc(*i) + count(*i), name="both")
    with pytest.raises(NotElementwiseError, match="table of corrections"):
        base_of(te.create_prim_func([a, w, base, both]))
