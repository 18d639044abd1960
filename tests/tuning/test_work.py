# SPDX-License-Identifier: Apache-2.0
"""The work of tasks is that of the layers that they compute."""

from __future__ import annotations

import numpy as np
import torch

import xnortvm
from tests.tuning.networks import network
from xnortvm.api import lower
from xnortvm.target import resolve
from xnortvm.tuning.space import tasks_for
from xnortvm.tuning.task import Task
from xnortvm.tuning.work import work_of


def tasks(model: torch.nn.Module, x: torch.Tensor) -> list[Task]:
    return tasks_for(lower(model, example_inputs=x), resolve("llvm"))


def test_multiply_accumulates_are_those_of_the_report() -> None:
    model, x = network()
    model.append(torch.nn.Flatten()).append(torch.nn.Linear(32 * 64, 10))
    macs = dict.fromkeys(("binary", "float"), 0)
    for task in tasks(model, x):
        work = work_of(task)
        macs[work.kind] += work.macs * len(task.layers)
    report = xnortvm.explain(model, example_inputs=x)
    assert macs == {"binary": report.binary_macs, "float": report.float_macs}


def test_bytes_are_those_of_inputs_outputs_and_constants() -> None:
    (task,) = tasks(torch.nn.Linear(64, 10), torch.zeros(1, 64))
    assert work_of(task).bytes == 4 * np.sum([64, 64 * 10, 10, 10])
