# SPDX-License-Identifier: Apache-2.0
"""torch.compile(backend=...): state is bound, results agree, refusals are loud."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import xnortvm.api
from xnortvm.torch_backend import backend


class Net(torch.nn.Module):
    """Parameters, buffers, two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.register_buffer("gain", torch.arange(1.0, 5.0).reshape(4, 1, 1))

    def forward(self, x: Any, bias: Any) -> Any:
        y = self.norm(self.conv(x)) * self.gain + bias
        return y.relu(), y


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def seen(monkeypatch) -> dict[str, Any]:
    """Replace the compiler by one that remembers what it was asked for and runs eagerly."""
    remembered: dict[str, Any] = {}

    def compile_eagerly(model: Any, *, example_inputs: Any, **options: Any) -> Any:
        remembered.update(model=model, inputs=example_inputs, options=options)
        return model

    monkeypatch.setattr(xnortvm.api, "compile", compile_eagerly)
    return remembered


def test_parameters_and_buffers_are_bound(seen):
    net = Net().eval()
    x, bias = torch.randn(1, 3, 6, 6), torch.randn(1)
    with torch.inference_mode():
        result = torch.compile(net, backend=backend)(x, bias)
        expected = net(x, bias)
    assert [tuple(value.shape) for value in seen["inputs"]] == [(1, 3, 6, 6), (1,)]
    assert sum(node.op == "placeholder" for node in seen["model"].graph.nodes) == 2
    for got, want in zip(result, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_options_reach_the_compiler(seen):
    with torch.inference_mode():
        torch.compile(Net().eval(), backend=backend, options={"target": "rpi4", "num_threads": 2})(
            torch.randn(1, 3, 6, 6), torch.randn(1)
        )
    assert seen["options"] == {"target": "rpi4", "num_threads": 2}


def test_gradients_are_refused(seen):
    with pytest.raises(BackendCompilerFailed, match=r"ModelError: .*inference_mode"):
        torch.compile(Net(), backend=backend)(torch.randn(1, 3, 6, 6), torch.randn(1))


def test_dynamic_shapes_are_refused(seen):
    compiled = torch.compile(Net().eval(), backend=backend, dynamic=True)
    with (
        torch.inference_mode(),
        pytest.raises(BackendCompilerFailed, match=r"ModelError: .*dynamic=False"),
    ):
        compiled(torch.randn(2, 3, 6, 7), torch.randn(1))


def test_a_graph_that_cannot_be_compiled_raises():
    class Sorts(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.svdvals(x)

    with torch.inference_mode(), pytest.raises(BackendCompilerFailed, match="Error: "):
        torch.compile(Sorts(), backend=backend)(torch.randn(3, 3))


def test_the_real_compiler_agrees_with_eager():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten())
    net = net.eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        result = torch.compile(net, backend=backend)(x)
        torch.testing.assert_close(result, net(x), rtol=1e-5, atol=1e-5)
