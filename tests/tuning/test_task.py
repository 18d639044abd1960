# SPDX-License-Identifier: Apache-2.0
"""Tasks: every kernel once, known by what its code depends on."""

from __future__ import annotations

import pytest
import torch

from tests.tuning.networks import Residual, binary_task, network
from xnortvm.api import lower
from xnortvm.target import resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.transform.group import group_epilogues
from xnortvm.transform.stem import mark_stem
from xnortvm.tuning.space import lower as lower_task
from xnortvm.tuning.space import space_of, task_from_bytes, task_to_bytes
from xnortvm.tuning.task import Key, tasks_of


def test_equal_layers_are_one_task() -> None:
    model, x = network()
    tasks = tasks_of(group_epilogues(mark_stem(lower(model, example_inputs=x))))
    assert [task.layers for task in tasks] == [["0"], ["2", "4"], ["6"]]
    assert tasks[1].key != tasks[2].key  # one packs its result, the other writes floats


def test_a_kernel_with_several_outputs_is_a_task_with_a_space() -> None:
    x = torch.randn(1, 32, 8, 8)
    tasks = tasks_of(group_epilogues(lower(Residual(), example_inputs=x)))
    assert tasks[0].key.epilogue.endswith("-> float32+uint32")
    made = lower_task(tasks[0], resolve("llvm"), None, scheduled=True)
    assert [dtype for _, dtype in made.outputs] == ["float32", "uint32"]
    assert space_of(tasks[0], resolve("llvm")) is not None


def test_the_weights_are_no_part_of_a_key_and_the_geometry_is() -> None:
    layer = Layer(3, 64, 14, 64, 1)
    assert binary_task(layer).key == binary_task(layer).key
    assert binary_task(layer).key != binary_task(layer._replace(stride=2)).key


def test_a_key_survives_json_and_refuses_other_data() -> None:
    key = binary_task(Layer(3, 64, 14, 64, 1)).key
    assert Key.from_json(key.to_json()) == key
    with pytest.raises(ValueError, match="incomplete"):
        Key.from_json({"op": "bconv2d"})


def test_a_task_reaches_another_process_whole() -> None:
    task = binary_task(Layer(1, 64, 0, 32, 1))
    again = task_from_bytes(task.key, task_to_bytes(task))
    assert tasks_of(again.mod)[0].key == task.key
