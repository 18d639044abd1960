# SPDX-License-Identifier: Apache-2.0
"""What one core can do at most: xor, popcount and add in registers, in a kernel made for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xnortvm._tvm import IRModule, Schedule, ir, runtime, te, tvm
from xnortvm.ops.dot import differing, differing_bits, form_of
from xnortvm.schedules.isa import Isa
from xnortvm.target import Target

# Accumulators; each has a register of activations too, so that only weights are loaded.
CHAINS = 4
ROUNDS, WORDS = 64, 16 * 31
SAMPLES, SAMPLE_SECONDS = 300, 5e-4


def _register_loop(isa: Isa) -> Any:
    """Return a PrimFunc of ROUNDS · CHAINS · lanes sums over WORDS words, scheduled."""
    x = te.placeholder((ROUNDS, CHAINS, isa.lanes), "uint32", name="x")
    w = te.placeholder((WORDS, isa.lanes), "uint32", name="w")

    form = form_of(isa, isa.lanes, groups=1, pixels=1)

    def step(index: Sequence[Any], at: Sequence[Any]) -> Any:
        return differing([w], form, isa, x(*index), w[at[0], index[2]], index[2])

    total = differing_bits((ROUNDS, CHAINS, isa.lanes), (WORDS,), step, form, isa, "limit")
    sch = Schedule(IRModule({"main": te.create_prim_func([x, w, total])}))
    count = sch.get_sblock("count")
    rounds, chain, lane, outer = sch.get_loops(count)
    sch.reorder(rounds, outer, chain, lane)
    blocks = [(count, outer, chain, lane)]
    if isa.popcount == "byte":
        inner = sch.get_sblock("bytes")
        sch.compute_at(inner, outer, preserve_unit_loops=True)
        *_, chain, lane, _, words = sch.get_loops(inner)
        sch.reorder(words, chain, lane)
        blocks.append((inner, words, chain, lane))
    for block, reduction, chains, lanes in blocks:
        sch.vectorize(lanes)
        sch.unroll(chains)
        init = sch.decompose_reduction(block, reduction)
        sch.vectorize(sch.get_loops(init)[-1])
        sch.unroll(sch.get_loops(init)[-2])
    return sch.mod["main"].with_attr("global_symbol", "limit")


def measure_limit(isa: Isa, target: Target) -> float:
    """Return binary multiply-accumulates a second of one core of this machine.

    A loop of xor, popcount and add over weights from the first cache, everything else in
    registers: no kernel that counts differing bits in this way is faster.
    """
    library = tvm.compile(ir.IRModule({"limit": _register_loop(isa)}), target.tvm)
    rng = np.random.default_rng(0)
    x, w = (
        runtime.tensor(rng.integers(0, 2**32, shape, dtype=np.uint32))
        for shape in ((ROUNDS, CHAINS, isa.lanes), (WORDS, isa.lanes))
    )
    out = runtime.tensor(np.zeros((ROUNDS, CHAINS, isa.lanes), np.uint32))
    library["limit"](x, w, out)
    differing = np.bitwise_count(x.numpy()[:, :, None] ^ w.numpy()).sum(axis=2, dtype=np.uint32)
    assert np.array_equal(out.numpy(), differing)
    return ROUNDS * CHAINS * isa.lanes * WORDS * 32 / fastest(library, "limit", [x, w, out])


def fastest(library: Any, name: str, arguments: Sequence[Any]) -> float:
    """Return the seconds of one call, the best of many samples.

    A sample is shorter than the time slices of the operating system, so that some samples run
    without interruption on a busy machine.
    """
    once = library.mod.time_evaluator(name, tvm.cpu(), number=1, repeat=10)
    number = max(1, int(SAMPLE_SECONDS / float(once(*arguments).min)))
    timer = library.mod.time_evaluator(name, tvm.cpu(), number=number, repeat=SAMPLES)
    return float(timer(*arguments).min)
