# SPDX-License-Identifier: Apache-2.0
"""The default CPU rule computes what the plain loops compute, in vectors, and never fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from xnortvm._tvm import (
    BlockBuilder,
    IRModule,
    TensorType,
    relax,
    relax_transform,
    runtime,
    te,
    tirx,
    topi,
    tvm,
)
from xnortvm.ops.bitpack import bitpack_te, threshold_pack_te
from xnortvm.ops.bmaxpool2d import bmaxpool2d_te
from xnortvm.ops.bsum2d import bsum2d_te
from xnortvm.ops.conv2d import conv2d_te
from xnortvm.schedules import cpu_default
from xnortvm.schedules.isa import ISAS
from xnortvm.target import resolve

op = relax.op
F = "float32"
HOST = resolve("llvm")
ISA = ISAS[HOST.isa]


def _fused(shapes: list[tuple[int, ...]], body: Callable[..., Any]) -> Any:
    """Return the PrimFunc that TVM's own legalisation and fusion make of one expression."""
    builder = BlockBuilder()
    params = [relax.Var(f"x{i}", TensorType(shape, F)) for i, shape in enumerate(shapes)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(body(*params)))
        builder.emit_func_output(result)
    mod = relax_transform.LegalizeOps()(builder.get())
    mod = relax_transform.AnnotateTIROpPattern()(mod)
    mod = relax_transform.FuseTIR()(relax_transform.FuseOps()(mod))
    (func,) = (func for _, func in mod.functions_items() if isinstance(func, tirx.PrimFunc))
    return func


def _placeholder(shape: tuple[int, ...], name: str = "x", dtype: str = F) -> Any:
    return te.placeholder(shape, dtype, name=name)


def _pack(channels: int, groups: int = 1) -> Any:
    x = _placeholder((1, 5, 7, channels))
    return te.create_prim_func([x, bitpack_te(x, groups=groups, zero="+1", flavour=ISA.pack)])


def _threshold_pack(channels: int) -> Any:
    x = _placeholder((1, 5, 7, channels), dtype="int32")
    t, flip = (_placeholder((channels,), name, "int32") for name in ("t", "flip"))
    words = threshold_pack_te(x, t, flip, groups=1, flavour=ISA.pack)
    return te.create_prim_func([x, t, flip, words])


def _pool_and_pack(channels: int, sums_too: bool = False) -> Any:
    x, b = _placeholder((2, 12, 12, channels)), _placeholder((channels,), "b")
    pool = topi.nn.pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "max", layout="NHWC")
    moved = te.compute(pool.shape, lambda n, y, i, c: pool[n, y, i, c] + b[c], name="moved")
    words = bitpack_te(moved, groups=1, zero="+1", flavour=ISA.pack)
    return te.create_prim_func([x, b, pool, *([moved] if sums_too else []), words])


def _add_and_pack(channels: int) -> Any:
    x, y = _placeholder((1, 6, 6, channels)), _placeholder((1, 6, 6, channels), "y")
    total = te.compute(x.shape, lambda *i: x(*i) + y(*i), name="total")
    scaled = te.compute(x.shape, lambda *i: total(*i) * tirx.const(2, F) - y(*i), name="scaled")
    words = bitpack_te(scaled, groups=1, zero="-1", flavour=ISA.pack)
    return te.create_prim_func([x, y, total, words])


def _binary_pool() -> Any:
    a = _placeholder((1, 12, 12, 2), "a", "uint32")
    numbers: dict[str, Any] = {"size": (6, 6), "pool_size": (3, 3), "strides": (2, 2)}
    pool = bmaxpool2d_te(a, **numbers, padding=(1, 1, 1, 1), dilation=(1, 1))
    return te.create_prim_func([a, pool])


def _convolution(channels: int, outputs: int, groups: int) -> Any:
    x = _placeholder((1, 9, 10, channels))
    lanes = ISA.lanes
    w = _placeholder((-(-outputs // lanes), 3, 3, channels // groups, lanes), "w")
    numbers: dict[str, Any] = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}
    y = conv2d_te(x, w, outputs=outputs, groups=groups, isa=ISA, **numbers)
    return te.create_prim_func([x, w, topi.nn.relu(y)])


def _pool(shape: tuple[int, ...], kind: str, size: int, stride: int, pad: int) -> Any:
    operator = {"max": op.nn.max_pool2d, "avg": op.nn.avg_pool2d}[kind]
    return _fused(
        [shape],
        lambda x: operator(x, (size,) * 2, (stride,) * 2, (pad,) * 4, layout="NHWC"),
    )


def _window_of_sums(shape: tuple[int, int, int], words: int) -> Any:
    """Bits of each pixel, then those of windows of 1×2 with stride 2."""
    _, rows, columns = shape
    a = _placeholder((*shape, words), "a", "uint32")
    form: dict[str, Any] = {"kernel": (1, 2), "strides": (1, 2), "dilation": (1, 1)}
    form |= {"padding": (0, 0, 0, 0), "groups": 1, "pad_value": 0, "offset": 0, "outputs": 1}
    size = (rows, (columns - 2) // 2 + 1, 1)
    return te.create_prim_func([a, bsum2d_te(a, size, channels=32 * words - 1, **form)])


KERNELS: dict[str, Callable[[], Any]] = {
    "chain": lambda: _fused(
        [(1, 6, 6, 64), (1, 6, 6, 64), (1, 1, 1, 64)],
        lambda x, y, b: op.nn.relu(op.add(op.multiply(op.add(x, y), b), b)),
    ),
    "chain-33-channels": lambda: _fused(
        [(1, 6, 6, 33), (1, 1, 1, 33)], lambda x, b: op.nn.relu(op.add(x, b))
    ),
    "chain-3-channels": lambda: _fused(
        [(1, 20, 20, 3), (1, 1, 1, 3)], lambda x, b: op.nn.relu(op.add(x, b))
    ),
    "flat-odd": lambda: _fused([(7, 143)], lambda x: op.nn.relu(op.add(x, x))),
    "flat-even": lambda: _fused([(3, 8, 33, 8)], lambda x: op.nn.relu(op.add(x, x))),
    "scalar": lambda: _fused([()], lambda x: op.add(x, x)),
    "max-pool": lambda: _pool((1, 12, 12, 64), "max", 3, 2, 1),
    "max-pool-33-channels": lambda: _pool((2, 11, 11, 33), "max", 3, 2, 1),
    "max-pool-1-channel": lambda: _pool((1, 12, 12, 1), "max", 2, 2, 0),
    "avg-pool": lambda: _pool((1, 12, 12, 64), "avg", 2, 2, 0),
    "avg-pool-padded": lambda: _pool((1, 12, 12, 40), "avg", 3, 2, 1),
    "global-mean": lambda: _fused([(1, 7, 7, 512)], lambda x: op.mean(x, [1, 2])),
    "global-mean-kept": lambda: _fused([(2, 9, 9, 33)], lambda x: op.mean(x, [1, 2], True)),
    "mean-nchw": lambda: _fused([(1, 64, 7, 7)], lambda x: op.mean(x, [2, 3])),
    "mean-last": lambda: _fused([(1, 9, 9, 256)], lambda x: op.mean(x, [3], True)),
    "max-last": lambda: _fused([(5, 1000)], lambda x: op.max(x, [1])),
    "sum-all": lambda: _fused([(1, 9, 9, 64)], lambda x: op.sum(op.abs(x))),
    "softmax": lambda: _fused([(9, 1000)], lambda x: op.nn.softmax(x)),
    "softmax-odd": lambda: _fused([(9, 1001)], lambda x: op.nn.softmax(x)),
    "layer-norm": lambda: _fused(
        [(9, 64), (64,), (64,)], lambda x, g, b: op.nn.layer_norm(x, g, b, [-1])
    ),
    "image-to-nhwc": lambda: _fused([(1, 3, 20, 20)], lambda x: op.permute_dims(x, [0, 2, 3, 1])),
    "to-nhwc": lambda: _fused([(2, 64, 8, 24)], lambda x: op.permute_dims(x, [0, 2, 3, 1])),
    "to-nchw": lambda: _fused([(2, 24, 16, 64)], lambda x: op.permute_dims(x, [0, 3, 1, 2])),
    "to-nchw-odd": lambda: _fused([(1, 7, 7, 65)], lambda x: op.permute_dims(x, [0, 3, 1, 2])),
    "transpose-and-add": lambda: _fused(
        [(1, 64, 8, 8), (64,)], lambda x, b: op.add(op.permute_dims(x, [0, 2, 3, 1]), b)
    ),
    "concat": lambda: _fused(
        [(1, 6, 6, 64), (1, 6, 6, 32)], lambda x, y: op.concat([x, y], axis=3)
    ),
    "concat-odd": lambda: _fused(
        [(1, 6, 6, 33), (1, 6, 6, 31)], lambda x, y: op.concat([x, y], axis=3)
    ),
    "concat-rows": lambda: _fused(
        [(1, 3, 6, 64), (1, 4, 6, 64)], lambda x, y: op.concat([x, y], axis=1)
    ),
    "pad": lambda: _fused([(1, 6, 6, 64)], lambda x: op.nn.pad(x, [0, 0, 1, 2, 2, 1, 0, 0])),
    "pad-channels": lambda: _fused([(1, 6, 6, 62)], lambda x: op.nn.pad(x, [0] * 6 + [1, 1])),
    "strided-slice": lambda: _fused(
        [(1, 8, 8, 64)], lambda x: op.strided_slice(x, [1, 2], [0, 1], [8, 8], [2, 2])
    ),
    "channel-slice": lambda: _fused(
        [(1, 8, 8, 64)], lambda x: op.strided_slice(x, [3], [3], [61], [2])
    ),
    "broadcast": lambda: _fused([(1, 1, 1, 64)], lambda x: op.broadcast_to(x, (1, 6, 6, 64))),
    "sigmoid": lambda: _fused([(1, 6, 6, 64)], op.sigmoid),
    "pack-64": lambda: _pack(64),
    "pack-33": lambda: _pack(33),
    "pack-300": lambda: _pack(300),
    "pack-groups": lambda: _pack(96, 2),
    "threshold-pack-64": lambda: _threshold_pack(64),
    "threshold-pack-33": lambda: _threshold_pack(33),
    "threshold-pack-512": lambda: _threshold_pack(512),
    "pool-and-pack": lambda: _pool_and_pack(64),
    "pool-and-pack-33": lambda: _pool_and_pack(33),
    "pool-two-floats-and-pack": lambda: _pool_and_pack(96, sums_too=True),
    "add-and-pack": lambda: _add_and_pack(64),
    "add-and-pack-512": lambda: _add_and_pack(512),
    "binary-pool": _binary_pool,
    "depthwise": lambda: _convolution(32, 32, 32),
    "depthwise-odd": lambda: _convolution(33, 33, 33),
    "grouped": lambda: _convolution(32, 64, 4),
    "window-of-sums": lambda: _window_of_sums((3, 1, 3), 1),
    "windows-of-sums": lambda: _window_of_sums((1, 5, 6), 3),
}


def _arguments(func: Any) -> list[Any]:
    random = np.random.default_rng(0)
    arrays = []
    for param in func.params:
        buffer = func.buffer_map.get(param, param) if hasattr(func, "buffer_map") else param
        shape, dtype = tuple(int(n) for n in buffer.shape), str(buffer.dtype)
        values = random.standard_normal(shape) * (1 if dtype == F else 100)
        arrays.append(
            runtime.tensor(np.asarray(values).astype("int64").astype(dtype))
            if dtype != F
            else runtime.tensor(np.asarray(values, dtype))
        )
    return arrays


def _run(func: Any) -> list[np.ndarray[Any, Any]]:
    library = tvm.tirx.build(IRModule({"main": func.with_attr("global_symbol", "main")}), HOST.tvm)
    arguments = _arguments(func)
    library["main"](*arguments)
    return [argument.numpy() for argument in arguments]


@cache
def _plain(name: str) -> list[np.ndarray[Any, Any]]:
    return _run(KERNELS[name]())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_computes_what_the_plain_loops_compute(name, threads, monkeypatch):
    monkeypatch.setattr(cpu_default, "MIN_PARALLEL", 1)
    scheduled = cpu_default.schedule(KERNELS[name](), ISA, threads)
    for got, want in zip(_run(scheduled), _plain(name), strict=True):
        if got.dtype == np.float32:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("isa", ["avx512vpopcntdq", "sse2", "generic"])
@pytest.mark.parametrize("name", ["chain", "max-pool", "mean-last", "pool-and-pack", "to-nchw"])
def test_other_vector_lengths_compute_the_same(name, isa):
    scheduled = cpu_default.schedule(KERNELS[name](), ISAS[isa], 1)
    for got, want in zip(_run(scheduled), _plain(name), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(KERNELS) - {"scalar"}))
def test_the_first_attempt_applies_to_every_usual_kernel(name, monkeypatch):
    for threads in (1, 2):
        monkeypatch.setattr(cpu_default, "MIN_PARALLEL", 1)
        sch = cpu_default.Schedule(KERNELS[name]())
        cpu_default._nested(sch, ISA, threads)


@pytest.mark.parametrize(
    "name",
    [
        "chain",
        "chain-33-channels",
        "flat-even",
        "max-pool",
        "avg-pool",
        "global-mean",
        "mean-last",
        "softmax",
        "to-nhwc",
        "to-nchw",
        "concat",
        "pad",
        "broadcast",
        "grouped",
        "depthwise",
    ],
)
def test_usual_kernels_are_vectorised(name):
    assert "T.vectorized" in cpu_default.schedule(KERNELS[name](), ISA, 1).script()


def test_elementwise_chains_have_no_intermediate_buffers():
    script = cpu_default.schedule(KERNELS["chain"](), ISA, 1).script()
    assert "alloc_buffer" not in script


def test_pooled_rows_are_packed_in_the_same_nest():
    sch = cpu_default.Schedule(KERNELS["pool-and-pack"]())
    cpu_default._nested(sch, ISA, 1)
    pool, pack = sch.get_sblock("pool_max_update"), sch.get_sblock("pack")
    outer = [str(sch.get(sch.get_loops(block)[2]).loop_var) for block in (pool, pack)]
    assert outer[0] == outer[1]


def test_loops_are_parallel_only_with_threads_and_enough_work():
    func = _fused([(1, 64, 64, 64)], lambda x: op.nn.relu(op.add(x, x)))
    small = _fused([(1, 4, 4, 64)], lambda x: op.nn.relu(op.add(x, x)))
    assert "T.parallel" not in cpu_default.schedule(func, ISA, 1).script()
    assert "T.parallel" in cpu_default.schedule(func, ISA, 2).script()
    assert "T.parallel" not in cpu_default.schedule(small, ISA, 2).script()


def test_what_cannot_be_scheduled_comes_back_unchanged(monkeypatch):
    func = KERNELS["chain"]()

    def fails(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(cpu_default, "_inline", fails)
    assert cpu_default.schedule(func, ISA, 1).same_as(func)


def test_falls_back_to_single_nests_before_giving_up(monkeypatch):
    def fails(*_: Any) -> None:
        raise RuntimeError("no")

    func = KERNELS["chain"]()
    attempts = (fails, cpu_default._each_alone, cpu_default._inlined)
    monkeypatch.setattr(cpu_default, "_ATTEMPTS", tuple(attempts))
    assert "T.vectorized" in cpu_default.schedule(func, ISA, 1).script()
