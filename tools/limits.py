# SPDX-License-Identifier: Apache-2.0
"""Kernels that do one thing as fast as a core can: what no other kernel is faster than.

Each is a loop over words in the first cache whose other operands stay in registers::

    for k:                       words, loaded once for all chains
      for chain:                 unrolled: independent sums, to hide latencies
        sum[chain] += step(x[chain], w[k])

A step is a table row: what it computes in one lane, and how many multiply-accumulates that is.
Sums wrap around; every result is compared with NumPy before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xnortvm._tvm import IRModule, Schedule, ir, runtime, te, tirx, tvm
from xnortvm.errors import VerificationError
from xnortvm.ops.intrinsics_dot import INSTRUCTIONS, LLVM_BF16, dot, dot_sum
from xnortvm.ops.registry import register_tir_op
from xnortvm.schedules.isa import Isa
from xnortvm.target import Target

Array = np.ndarray[Any, Any]

ROUNDS, WORDS = 64, 16 * 31
SAMPLES, SAMPLE_SECONDS = 300, 5e-4


class Step(NamedTuple):
    """One way to multiply and accumulate.

    Attributes
    ----------
    what : str
        In words.
    dtype : str
        Of one lane of the operands and sums.
    macs : int
        Multiply-accumulates of one lane.
    parts : int
        Vectors that one step reads of each operand.
    compute : callable
        From the parts of x and of w to one expression for each sum.
    check : callable
        The same on NumPy arrays.
    chains : dict of int to tuple of int
        For 16 and for 32 vector registers, how many chains to try.
    """

    what: str
    dtype: str
    macs: int
    parts: int
    compute: Callable[[list[Any], list[Any]], list[Any]]
    check: Callable[[list[Array], list[Array]], list[Array]]
    chains: dict[int, tuple[int, ...]]


def _lookup_lanes(value: Any) -> int:
    return int(tvm.DataType(str(value.ty.dtype)).lanes)


_SHUFFLES = {
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}


def _lower_lookup(call: Any) -> Any:
    row, index = call.args
    lanes = _lookup_lanes(row)
    dtype = f"int8x{lanes}"
    found = tirx.call_llvm_pure_intrin(
        dtype, _SHUFFLES[lanes], tirx.reinterpret(dtype, row), tirx.reinterpret(dtype, index)
    )
    return tirx.reinterpret(f"uint8x{lanes}", found)


register_tir_op("tirx.xnortvm_limit_lookup", _lower_lookup, vectorizable=True)


def _lookup(row: Any, index: Any) -> Any:
    return tirx.call_intrin("uint8", ir.Op.get("tirx.xnortvm_limit_lookup"), row, index)


def _numpy_lookup(x: list[Array], w: list[Array]) -> list[Array]:
    """``pshufb``: within 16 bytes, the byte whose number the low half of the index is."""
    row, index = x[0], w[0]
    lane = np.arange(row.shape[-1]) // 16 * 16
    row, index = np.broadcast_arrays(row, index)
    return [np.take_along_axis(row, lane + (index & 15), axis=-1) * (index < 128)]


def _carry_save(x: list[Any], w: list[Any]) -> list[Any]:
    """Sum and carry of three xors, from a1, a1^a2, a1^a3, a1^a2^a3 of both operands."""
    one, two, three, all_ = (a ^ b for a, b in zip(x, w, strict=True))
    return [all_, one ^ (two & three)]


#: By name; "binary" ones count differing bits.
STEPS: dict[str, Step] = {
    "word": Step(
        "xor, popcount of words, add",
        "uint32",
        32,
        1,
        lambda x, w: [tirx.popcount(x[0] ^ w[0])],
        lambda x, w: [np.bitwise_count(x[0] ^ w[0])],
        {16: (4,), 32: (4,)},
    ),
    "word-carry-save": Step(
        "popcounts of sum and carry of three words",
        "uint32",
        96,
        4,
        lambda x, w: [tirx.popcount(each) for each in _carry_save(x, w)],
        lambda x, w: [np.bitwise_count(each) for each in _carry_save(x, w)],
        {16: (2,), 32: (4,)},
    ),
    "byte": Step(
        "xor, popcount of bytes, add",
        "uint8",
        8,
        1,
        lambda x, w: [tirx.popcount(x[0] ^ w[0])],
        lambda x, w: [np.bitwise_count(x[0] ^ w[0])],
        {16: (4,), 32: (4,)},
    ),
    "byte-carry-save": Step(
        "byte popcounts of sum and carry of three words",
        "uint8",
        24,
        4,
        lambda x, w: [tirx.popcount(each) for each in _carry_save(x, w)],
        lambda x, w: [np.bitwise_count(each) for each in _carry_save(x, w)],
        {16: (2, 4), 32: (2, 4)},
    ),
    "table": Step(
        "four bits looked up in a row of popcounts, add",
        "uint8",
        4,
        1,
        lambda x, w: [_lookup(x[0], w[0])],
        _numpy_lookup,
        {16: (3, 7), 32: (3, 10)},
    ),
    "fp32": Step(
        "fused multiply-add",
        "float32",
        2,
        2,
        lambda x, w: [x[0] * w[0], x[0] * w[1]],
        lambda x, w: [x[0] * w[0], x[0] * w[1]],
        {16: (5,), 32: (6,)},
    ),
}


def steps_of(isa: Isa, target: Target) -> list[str]:
    """Return the names of the steps that make sense on an instruction set."""
    names = ["byte", "byte-carry-save", "fp32"]
    if isa.popcount == "word":
        names = ["word", "word-carry-save", *names]
    if target.triple.startswith("x86_64") and isa.name != "sse2":
        names.append("table")
    return names


def _register_loop(
    step: Step, isa: Isa, chains: int, sums: int
) -> tuple[Any, tuple[int, ...], tuple[int, ...]]:
    """Return the scheduled PrimFunc and the shapes of its operands."""
    lanes = isa.vector_bits // int(tvm.DataType(step.dtype).bits)
    x = te.placeholder((ROUNDS, chains, step.parts, lanes), step.dtype, name="x")
    w = te.placeholder((WORDS, step.parts, lanes), step.dtype, name="w")
    k = te.reduce_axis((0, WORDS), "k")

    def element(r: Any, c: Any, s: Any, lane: Any) -> Any:
        parts = step.compute(
            [x[r, c, p, lane] for p in range(step.parts)],
            [w[k, p, lane] for p in range(step.parts)],
        )
        value = parts[0] if len(parts) == 1 else tirx.Select(s == 0, parts[0], parts[1])
        return te.sum(value.astype(step.dtype), axis=k)

    total = te.compute((ROUNDS, chains, sums, lanes), element, name="total")
    sch = Schedule(IRModule({"main": te.create_prim_func([x, w, total])}))
    block = sch.get_sblock("total")
    rounds, chain, kind, lane, word = sch.get_loops(block)
    sch.reorder(rounds, word, chain, kind, lane)
    for loop in (chain, kind):
        sch.unroll(loop)
    sch.vectorize(lane)
    init = sch.decompose_reduction(block, word)
    *_, chain, kind, lane = sch.get_loops(init)
    for loop in (chain, kind):
        sch.unroll(loop)
    sch.vectorize(lane)
    func = sch.mod["main"].with_attr("global_symbol", "limit")
    return func, (ROUNDS, chains, step.parts, lanes), (WORDS, step.parts, lanes)


def measure_step(name: str, isa: Isa, target: Target) -> float:
    """Return multiply-accumulates a second of one core of this machine.

    Parameters
    ----------
    name : str
        Row of `STEPS`.
    isa : Isa
        Gives the width and number of vectors.
    target : Target
        What the kernel is compiled for; this machine has to run it.
    """
    counts = STEPS[name].chains[16 if isa.vector_registers < 32 else 32]
    return max(_measure_chains(name, isa, target, chains) for chains in counts)


def _measure_chains(name: str, isa: Isa, target: Target, chains: int) -> float:
    step = STEPS[name]
    rng = np.random.default_rng(0)
    sums = len(step.check(*([np.zeros(16, step.dtype)] * step.parts for _ in range(2))))
    func, x_shape, w_shape = _register_loop(step, isa, chains, sums)
    library = tvm.compile(ir.IRModule({"limit": func}), target.tvm)
    if step.dtype == "float32":
        x, w = (rng.random(shape, dtype=np.float32) for shape in (x_shape, w_shape))
    else:
        high = np.iinfo(step.dtype).max
        x, w = (rng.integers(0, high, s, step.dtype, endpoint=True) for s in (x_shape, w_shape))
    out = runtime.tensor(np.zeros((*x_shape[:2], sums, x_shape[3]), step.dtype))
    arguments = [runtime.tensor(x), runtime.tensor(w), out]
    library["limit"](*arguments)
    _check(name, step, x, w, out.numpy())
    macs = x_shape[0] * x_shape[1] * WORDS * x_shape[3] * step.macs  # of all sums
    return macs / fastest(library, "limit", arguments)


def _check(name: str, step: Step, x: Array, w: Array, out: Array) -> None:
    """Compare the first rounds with NumPy."""
    few = 2
    parts = range(step.parts)
    values = step.check([x[:few, :, None, p] for p in parts], [w[None, None, :, p] for p in parts])
    sums = np.stack([each.sum(axis=2, dtype=step.dtype) for each in values], axis=2)
    same = np.allclose(sums, out[:few], rtol=1e-4) if step.dtype == "float32" else None
    if same is False or (same is None and not np.array_equal(sums, out[:few])):
        raise VerificationError(
            f"the kernel that measures the limit of {name} computes something else; "
            "report it with the output of `xnortvm doctor`"
        )


class Dot(NamedTuple):
    """An instruction that multiplies and adds neighbours within the words of a 512-bit vector.

    Attributes
    ----------
    feature : str
        LLVM's name of what a CPU needs.
    kind : str
        Row of `xnortvm.ops.intrinsics_dot.INSTRUCTIONS`.
    ones : int
        A word whose numbers are all 1.
    """

    feature: str
    kind: str
    ones: int


#: By the type of the operands.
DOTS = {
    "int8": Dot("avx512vnni", "u8s8", 0x01010101),
    "bf16": Dot("avx512bf16", "bf16", 0x3F803F80),
}
_DOT_LANES = 16


def measure_dot(name: str, target: Target) -> float:
    """Return multiply-accumulates a second of a row of `DOTS`, one core of this machine."""
    row, chains = DOTS[name], 12
    instruction = INSTRUCTIONS[row.kind]
    x = te.placeholder((ROUNDS, chains, _DOT_LANES), "int32", name="x")
    w = te.placeholder((WORDS, _DOT_LANES), "int32", name="w")
    k = te.reduce_axis((0, WORDS), "k")
    total = te.compute(
        x.shape,
        lambda r, c, lane: dot_sum(dot(x[r, c, lane], w[k, lane], row.kind), axis=k),
        name="total",
    )
    func = _chained(te.create_prim_func([x, w, total]), LLVM_BF16 if name == "bf16" else "")
    library = tvm.compile(ir.IRModule({"limit": func}), target.tvm)
    words = [np.full([int(d) for d in each.shape], row.ones, np.int32) for each in (x, w)]
    out = runtime.tensor(np.zeros(words[0].shape, instruction.sums))
    arguments = [*map(runtime.tensor, words), out]
    library["limit"](*arguments)
    if not (out.numpy() == WORDS * instruction.count).all():
        raise VerificationError(f"the kernel that measures the limit of {name} is wrong")
    macs = out.numpy().size * WORDS * instruction.count
    return macs / fastest(library, "limit", arguments)


def _chained(func: Any, llvm: str = "") -> Any:
    """Schedule a sum over k of (rounds, chains, lanes): chains unrolled, lanes vectors."""
    sch = Schedule(IRModule({"main": func}))
    block = sch.get_sblock("total")
    outer, chain, lane, word = sch.get_loops(block)
    sch.reorder(outer, word, chain, lane)
    sch.unroll(chain)
    sch.vectorize(lane)
    init = sch.decompose_reduction(block, word)
    sch.unroll(sch.get_loops(init)[-2])
    sch.vectorize(sch.get_loops(init)[-1])
    if llvm:
        sch.annotate(outer, "pragma_import_llvm", llvm)
    return sch.mod["main"].with_attr("global_symbol", "limit")


def measure_read(size: int, isa: Isa, target: Target) -> float:
    """Return bytes a second at which one core reads an array of ``size`` bytes again and again."""
    chains, lanes = 8, isa.lanes
    words = max(size // (4 * chains * lanes), 1)
    rounds = max(1, (1 << 20) // size)
    x = te.placeholder((words, chains, lanes), "uint32", name="x")
    k = te.reduce_axis((0, words), "k")
    total = te.compute(
        (rounds, chains, lanes), lambda _, c, lane: te.sum(x[k, c, lane], axis=k), name="total"
    )
    func = _chained(te.create_prim_func([x, total]))
    library = tvm.compile(ir.IRModule({"limit": func}), target.tvm)
    values = np.random.default_rng(0).integers(0, 1 << 32, (words, chains, lanes), np.uint32)
    out = runtime.tensor(np.zeros((rounds, chains, lanes), np.uint32))
    arguments = [runtime.tensor(values), out]
    library["limit"](*arguments)
    if not (out.numpy() == values.sum(axis=0, dtype=np.uint32)).all():
        raise VerificationError("the kernel that measures bandwidth computes something else")
    return rounds * values.nbytes / fastest(library, "limit", arguments)


_CLOCK_STEPS, _CLOCK_CYCLES = 20000, 2


def measure_clock(target: Target) -> float:
    """Return cycles a second, from a chain of additions and xors that depend on each other."""
    mix = te.comm_reducer(lambda x, y: (x + y) ^ y, lambda t: tirx.const(0, t), name="chain")
    x = te.placeholder((1,), "uint32", name="x")
    k = te.reduce_axis((0, _CLOCK_STEPS), "k")
    out = te.compute((1,), lambda i: mix(x[i], axis=k), name="out")
    func = te.create_prim_func([x, out]).with_attr("global_symbol", "clock")
    library = tvm.compile(ir.IRModule({"clock": func}), target.tvm)
    step = 0x9E3779B9
    arguments = [
        runtime.tensor(np.array([step], np.uint32)),
        runtime.tensor(np.zeros(1, np.uint32)),
    ]
    library["clock"](*arguments)
    value = 0
    for _ in range(_CLOCK_STEPS):
        value = ((value + step) & 0xFFFFFFFF) ^ step
    if int(arguments[1].numpy()[0]) != value:
        raise VerificationError("the kernel that measures the clock computes something else")
    return _CLOCK_STEPS * _CLOCK_CYCLES / fastest(library, "clock", arguments)


def fastest(library: Any, name: str, arguments: Sequence[Any]) -> float:
    """Return the seconds of one call, the best of many samples.

    A sample is shorter than the time slices of the operating system, so that some samples run
    without interruption on a busy machine.
    """
    once = library.mod.time_evaluator(name, tvm.cpu(), number=1, repeat=3)
    seconds = float(once(*arguments).min)
    number = max(1, int(SAMPLE_SECONDS / seconds))
    samples = SAMPLES if seconds < 4 * SAMPLE_SECONDS else max(SAMPLES // 20, 1)
    timer = library.mod.time_evaluator(name, tvm.cpu(), number=number, repeat=samples)
    return float(timer(*arguments).min)
