# SPDX-License-Identifier: Apache-2.0
"""Threads: as many as the model was compiled for, and no marks on the process."""

from __future__ import annotations

import os

import numpy as np
import pytest

from xnortvm._tvm import IRModule, Schedule, relax, runtime, te, tirx, tvm
from xnortvm.runtime.threads import use_threads
from xnortvm.target import resolve

from .conftest import compiled_model

affinity = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")


@affinity
def test_two_threads_leave_affinity_and_environment_as_they_were():
    before = os.sched_getaffinity(0), dict(os.environ)
    use_threads(2)
    assert (os.sched_getaffinity(0), dict(os.environ)) == before


def test_models_for_one_and_two_threads_work_side_by_side():
    def body(builder, x):
        return builder.emit(relax.op.nn.relu(x))

    inputs = [("x", (64, 64), "float32")]
    one, two = compiled_model(inputs, body), compiled_model(inputs, body, num_threads=2)
    x = np.random.default_rng(0).standard_normal((64, 64)).astype("float32")
    for _ in range(3):
        np.testing.assert_array_equal(one(x), two(x))
    assert (one.num_threads, two.num_threads) == (1, 2)


def test_parallel_loops_run_on_as_many_threads_as_asked():
    """The loop notes which thread ran each piece; TVM alone would use one of two cores."""
    pieces = te.compute((8,), lambda _: tirx.call_extern("uint64", "pthread_self"), name="pieces")
    sch = Schedule(IRModule({"pieces": te.create_prim_func([pieces])}))
    sch.work_on("pieces")
    sch.parallel(sch.get_loops(sch.get_sblock("pieces"))[0])
    func = sch.mod["pieces"].with_attr("global_symbol", "pieces")
    library = tvm.compile(IRModule({"pieces": func}), resolve("llvm").tvm)
    ran_on = runtime.tensor(np.zeros(8, np.uint64))
    for count in (2, os.cpu_count() or 2, 2):
        use_threads(count)
        library["pieces"](ran_on)
        assert len(set(ran_on.numpy())) == count
