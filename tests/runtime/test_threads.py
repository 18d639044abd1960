# SPDX-License-Identifier: Apache-2.0
"""Threads: as many as the model was compiled for, and no marks on the process."""

from __future__ import annotations

import os

import numpy as np
import pytest

from xnortvm._tvm import relax
from xnortvm.runtime.threads import use_threads

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
