# SPDX-License-Identifier: Apache-2.0
"""``trunk="fp16"`` on the emulator: rounded where the graph says, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.cuda.emulator import has_compiler
from tests.cuda.network import emulate, scheduled
from tests.cuda.test_networks import Net, random_net
from xnortvm import api
from xnortvm._tvm import IRModule
from xnortvm.errors import VerificationError
from xnortvm.runtime.trace import KernelCall
from xnortvm.transform.half_trunk import halve_trunk
from xnortvm.verify.kernels import check_kernels

pytestmark = pytest.mark.skipif(not has_compiler(), reason="the emulator compiles with g++")

Run = tuple[IRModule, list[KernelCall], list[np.ndarray]]


@pytest.fixture(scope="module", params=["sm_80", "sm_90a"])
def run(request: pytest.FixtureRequest) -> Run:
    """The graph, the calls of its kernels on the emulator, and the inputs."""
    x = torch.randn(2, 3, 19, 19, generator=torch.Generator().manual_seed(5))
    net: Net = random_net()
    graph, stored = halve_trunk(api.lower(net, example_inputs=x))
    assert len(stored) == 4
    calls: list[KernelCall] = []
    inputs = [x.numpy().copy()]
    emulate(scheduled(graph, f"cuda -arch={request.param}"), inputs, request.param, calls)
    return graph, calls, inputs


def test_every_kernel_rounds_as_numpy_does(run: Run) -> None:
    graph, calls, inputs = run
    halves = [a for call in calls for a in call.args if a.dtype == np.float16]
    assert len(halves) == 8  # each is written once and read once
    ran = check_kernels(graph, calls, inputs)
    assert ran.kernels == len(calls)
    assert len(ran.accumulators) == 5


def test_a_value_that_is_no_rounding_is_found(run: Run) -> None:
    graph, calls, inputs = run
    place, call = next((i, c) for i, c in enumerate(calls) if c.args[-1].dtype == np.float16)
    wrong = call.args[-1].copy()
    worst = np.unravel_index(np.abs(wrong).argmin(), wrong.shape)
    wrong[worst] += np.float16(np.abs(wrong).max() / 1024)
    changed = [*calls[:place], call._replace(args=(*call.args[:-1], wrong)), *calls[place + 1 :]]
    with pytest.raises(VerificationError, match=r"1 of \d+ values differ"):
        check_kernels(graph, changed, inputs)
