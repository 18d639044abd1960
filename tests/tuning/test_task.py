# SPDX-License-Identifier: Apache-2.0
"""Tasks: every kernel once, known by what its code depends on."""

from __future__ import annotations

import pytest

from tests.tuning.networks import binary_task, network
from xnortvm.api import lower
from xnortvm.tools.layer_modules import Layer
from xnortvm.transform.group import group_epilogues
from xnortvm.transform.stem import mark_stem
from xnortvm.tuning.space import task_from_bytes, task_to_bytes
from xnortvm.tuning.task import Key, tasks_of


def test_equal_layers_are_one_task() -> None:
    model, x = network()
    tasks = tasks_of(group_epilogues(mark_stem(lower(model, example_inputs=x))))
    assert [task.layers for task in tasks] == [["0"], ["2", "4"], ["6"]]
    assert tasks[1].key != tasks[2].key  # one packs its result, the other writes floats


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
