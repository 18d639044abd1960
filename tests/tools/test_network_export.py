# SPDX-License-Identifier: Apache-2.0
"""The network as other engines read it: signs instead of bits, everything by its float meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnortvm.errors import ModelError
from xnortvm.frontend import import_model
from xnortvm.tools.engines.network import Network
from xnortvm.tools.network_export import export_network, matched

torch = pytest.importorskip("torch")


class Convolution(torch.nn.Module):
    """A sign, a binary convolution with zero padding, and something behind it."""

    def __init__(self, zero: str = "+1", behind: Any = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = torch.nn.Parameter(torch.randn(8, 40, 3, 3).sign() * 0.5)
        self.zero, self.behind = zero, behind

    def forward(self, x: Any) -> Any:
        positive = x >= 0 if self.zero == "+1" else x > 0
        x = torch.where(positive, 1.0, -1.0)
        return self.behind(torch.nn.functional.conv2d(x, self.weight, stride=2, padding=1))


def exported(module: Any, shape: tuple[int, ...] = (2, 40, 6, 5)) -> Network:
    return export_network(matched(import_model(module, (torch.randn(shape),)).mod))


def test_a_binary_layer_has_its_signs_and_geometry() -> None:
    module = Convolution()
    network = exported(module)
    (layer,) = [node for node in network.nodes if node.op == "bconv2d"]
    assert (layer.attrs["strides"], layer.attrs["padding"]) == ([2, 2], [1, 1, 1, 1])
    assert (layer.attrs["pad_value"], layer.attrs["zero"]) == (0, "+1")
    assert layer.shape == [2, 3, 3, 8]
    weight = network.arrays[layer.inputs[1]]
    expected = module.weight.detach().sign().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(weight, expected)
    assert weight.dtype == np.int8


@pytest.mark.parametrize("zero", ["+1", "-1"])
def test_the_meaning_of_zero_is_kept(zero: str) -> None:
    (layer,) = [node for node in exported(Convolution(zero)).nodes if node.op == "bconv2d"]
    assert layer.attrs["zero"] == zero


def test_every_input_of_a_node_comes_before_it() -> None:
    network = exported(Convolution())
    known = {node.name for node in network.inputs}
    for node in network.nodes:
        assert set(node.inputs) <= known, node.name
        known.add(node.name)
    assert set(network.outputs) <= known


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    network = exported(Convolution())
    network.save(tmp_path)
    again = Network.load(tmp_path)
    assert (again.inputs, again.nodes, again.outputs) == (
        network.inputs,
        network.nodes,
        network.outputs,
    )
    for name, value in network.arrays.items():
        assert np.array_equal(again.arrays[name], value)
        assert again.arrays[name].dtype == value.dtype


def test_an_operator_without_a_row_is_named() -> None:
    with pytest.raises(ModelError, match=r"is computed by relax\.cumsum"):
        exported(Convolution(behind=lambda x: torch.cumsum(x, 3)))
