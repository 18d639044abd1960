# SPDX-License-Identifier: Apache-2.0
"""``trunk=``: floats between kernels in fp16, stated in the report, verified, never in silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import xnortvm
from xnortvm import api, pipeline
from xnortvm import verify as verification
from xnortvm.errors import ModelError, TargetError
from xnortvm.frontend import import_model
from xnortvm.graph.dataflow import Graph, op_name
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report
from xnortvm.runtime.build import build
from xnortvm.runtime.module import CompiledModel
from xnortvm.target import resolve
from xnortvm.transform.group import group_epilogues
from xnortvm.transform.half_trunk import halve_trunk, is_rounding
from xnortvm.trunk import choose_trunk
from xnortvm.verify.bounds import misrounded

CUDA = "cuda -arch=sm_90a"


def sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


class Residual(torch.nn.Module):
    """Two binary convolutions with shortcuts, a mean, a float classifier."""

    def __init__(self, scale: float = 0.05) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.randn(32, 32, 3, 3) for _ in range(2))
        self.last = torch.nn.Linear(32, 10)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            y = torch.nn.functional.conv2d(sign(x - 0.1), weight.sign(), padding=1)
            x = x + y * self.scale
        return self.last(x.mean((2, 3)))


class Chain(torch.nn.Module):
    """Bits alone travel between its kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(torch.randn(32, 32) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = torch.nn.functional.linear(sign(x), weight.sign())
        return x


@pytest.fixture(scope="module")
def model() -> Residual:
    torch.manual_seed(0)
    return Residual().eval()


IMAGE = torch.randn(2, 32, 6, 6, generator=torch.Generator().manual_seed(1))


def test_the_report_states_the_error_and_what_is_exact(model: Residual) -> None:
    report = xnortvm.explain(model, example_inputs=IMAGE, target=CUDA, trunk="fp16")
    (note,) = (note for note in report.notes if "trunk=" in note)
    assert "2 tensors between kernels are stored as fp16, 9,216 bytes in place of 18,432" in note
    assert "2^-11 of itself" in note
    assert "beyond 65504 becomes an infinity" in note
    assert "signs that a kernel packs beside such a tensor are those before it is rounded" in note
    assert not xnortvm.explain(model, example_inputs=IMAGE, target=CUDA).notes


def test_without_floats_between_kernels_it_says_that_nothing_changes() -> None:
    x = torch.zeros(1, 32)
    report = xnortvm.explain(Chain().eval(), example_inputs=x, target=CUDA, trunk="fp16")
    assert any("changes nothing: no kernel of a binary layer" in note for note in report.notes)


def test_cpus_and_unknown_formats_are_refused(model: Residual) -> None:
    for call in (xnortvm.compile, xnortvm.explain):
        with pytest.raises(TargetError, match=r'trunk="fp16" is for GPUs and .* is a CPU; leave'):
            call(model, example_inputs=IMAGE, trunk="fp16")
        with pytest.raises(ModelError, match=r"trunk is 'fp61', did you mean|trunk is 'fp61'"):
            call(model, example_inputs=IMAGE, target=CUDA, trunk="fp61")


def graph_of(model: torch.nn.Module) -> Any:
    return api.lower(model, example_inputs=IMAGE)


def test_signs_beside_the_trunk_are_those_before_rounding(model: Residual) -> None:
    """What is rounded leaves its kernel and is read there by nothing."""
    graph, stored = halve_trunk(graph_of(model))
    assert stored == [(2, 6, 6, 32)] * 2
    kernels = group_epilogues(graph)
    rounded = 0
    for gvar in kernels.get_global_vars():
        if str(gvar.name_hint) != "main":
            inner = Graph(kernels[gvar])
            for var, call in inner.calls():
                if is_rounding(call):
                    users = [inner.value.get(user) for user in inner.users[var]]
                    assert not [op_name(user) for user in users if op_name(user)]
                    rounded += 1
    assert rounded == 2


def test_does_not_round_what_a_model_returns_or_a_float_layer_multiplies() -> None:
    class Ends(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(32, 32))
            self.last = torch.nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.nn.functional.linear(sign(x), self.weight.sign()) * 0.3
            return y, self.last(y * 0.7)

    graph = api.lower(Ends().eval(), example_inputs=torch.zeros(1, 32))
    assert halve_trunk(graph)[1] == []


def verified(model: torch.nn.Module) -> Report:
    """Verify a model with a trunk in fp16 on this CPU, as `compile` does where there is a GPU."""
    report = Report()
    target = resolve("llvm")
    imported = import_model(model, IMAGE)
    phases = pipeline.graph_phases(report, ZeroPolicy())
    exposed = verification.expose(imported.mod)
    lowered = pipeline.run(exposed.mod, phases[:-1])
    graph = pipeline.run(verification.drop(lowered, exposed), phases[-1:])
    graph = choose_trunk(graph, "fp16", report)
    kernels = pipeline.run(graph, pipeline.kernel_phases(target))
    compiled = CompiledModel.from_built(build(kernels, target, None), report)
    made = verification.Lowered(exposed, lowered, graph, None)
    verification.verify(compiled, made, imported.twin, report)
    return report


def test_verification_knows_of_the_rounding(model: Residual) -> None:
    report = verified(model)
    assert report.verification is not None
    assert report.verification.binary_layers == 2
    assert any(
        "because what travels between kernels is rounded by trunk=" in note for note in report.notes
    )


def test_values_beyond_fp16_are_infinite_and_verification_agrees() -> None:
    torch.manual_seed(0)
    report = verified(Residual(scale=1e4).eval())
    assert report.verification is not None
    assert report.verification.kernels >= 3


def test_a_rounding_is_one_of_a_number_within_the_bound() -> None:
    exact = np.float32([1, 1.0004, -3, 7e4, np.nan, 1e-9])
    right = exact.astype(np.float16)
    assert not misrounded(right, exact, 1e-6).any()
    off = np.nextafter(right[:3], np.float16(np.inf))
    assert misrounded(off, exact[:3], 1e-6).all()
    # Half way between two numbers, both are right.
    between = np.float32([1 + 2**-11])
    for value in (1, 1 + 2**-10):
        assert not misrounded(np.float16([value]), between, 1e-6).any()
    assert misrounded(np.float16([65504]), np.float32([7e4]), 1).all()
