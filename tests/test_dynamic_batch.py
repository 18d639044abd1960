# SPDX-License-Identifier: Apache-2.0
"""A dynamic batch: any number of samples gives what PyTorch gives, or the model is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

import xnortvm
from tests import test_structures as structures
from tests.differential import randomize
from tests.frontend.nets import Function, onnx_file
from tests.relax_reference import evaluate
from xnortvm import pipeline
from xnortvm._tvm import BlockBuilder, relax, tirx
from xnortvm.errors import InputError, ModelError
from xnortvm.frontend import import_model
from xnortvm.frontend.batch import one_sample
from xnortvm.patterns import ZeroPolicy
from xnortvm.report import Report

SIZES = (1, 2, 3, 8)


def assert_close(found: Any, expected: Any) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    bound = 1e-5 * max(float(np.abs(expected).max()), 1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def assert_equals_eager(compiled: Any, model: nn.Module, *shapes: tuple[int, ...]) -> None:
    for size in SIZES:
        inputs = [torch.randn(size, *shape) for shape in shapes]
        with torch.no_grad():
            expected = model(*inputs)
        found = compiled(*inputs)
        pairs = (
            zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
        )
        for ours, theirs in pairs:
            assert_close(ours, theirs)


class Everything(nn.Module):
    """Γ of cases 2 to 4, K, residuals, gates, shuffles, reshapes by the batch; odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(10) for _ in range(3))
        self.weights = nn.ParameterList(torch.randn(10, 10, 3, 3) for _ in range(3))
        self.dense = nn.Parameter(torch.randn(7, 10 * 35))
        self.gammas = nn.ParameterList(
            [torch.randn(10, 5, 7), torch.randn(10, 1, 1), torch.randn(1, 5, 7)]
        )
        self.factors = nn.ParameterList(
            [torch.randn(10, 1, 1), torch.randn(1, 5, 1), torch.randn(1, 1, 7)]
        )
        self.prelu = nn.PReLU(10)
        self.rows = nn.Linear(7, 3)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Any) -> Any:
        n = x.shape[0]
        x = self.norms[0](self.stem(x))
        k = F.avg_pool2d(x.abs().mean(1, keepdim=True), 3, 1, 1)
        y = F.conv2d(self.sign(x), self.weights[0].sign(), padding=1) * k + x
        y = self.prelu(self.norms[1](y * self.gammas[0]))
        z = F.conv2d(self.sign(y), self.weights[1].sign(), padding=1)
        z = self.norms[2](z * self.gammas[1] * self.gammas[2])
        z = F.conv2d(self.sign(z), self.weights[2].sign(), padding=1)
        for factor in self.factors:
            z = z * factor
        z = z * torch.sigmoid(z.mean((2, 3), keepdim=True)) + y
        z = z.view(n, 2, 5, 5, 7).transpose(1, 2).reshape(n, 10, 5, 7)
        flat = F.linear(self.sign(z).flatten(1), self.dense.sign())
        rows = self.rows(z.reshape(n * 50, 7))
        return self.head(z.mean((2, 3))), flat, rows

    def sign(self, x: Any) -> Any:
        return torch.where(x >= 0, 1.0, -1.0)


@pytest.fixture(scope="module")
def everything() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = randomize(Everything()).eval()
    return model, xnortvm.compile(
        model, example_inputs=torch.randn(1, 3, 5, 7), dynamic_batch=True, verify=True
    )


def test_kernels_run_on_any_number_of_samples(everything):
    model, compiled = everything
    assert compiled.report.num_binary_ops == 4
    assert_equals_eager(compiled, model, (3, 5, 7))


def test_the_batch_has_a_name_in_the_shapes(everything):
    _, compiled = everything
    assert compiled.inputs[0].shape == ("batch", 3, 5, 7)
    assert [spec.shape for spec in compiled.outputs] == [
        ("batch", 3),
        ("batch", 7),
        ("50·batch", 3),
    ]
    assert "any batch from 1 up" in str(compiled.report)


def test_saved_models_keep_the_batch_open(everything, tmp_path):
    model, compiled = everything
    loaded = xnortvm.load(compiled.save(tmp_path / "net.xnor"))
    assert loaded.inputs == compiled.inputs
    assert_equals_eager(loaded, model, (3, 5, 7))
    with pytest.raises(InputError, match="of at least 1, got 0"):
        loaded(torch.zeros(0, 3, 5, 7))


def test_timing_takes_a_batch(everything):
    _, compiled = everything
    assert compiled.benchmark(repeats=1, warmup=0, batch=3).runs == 1
    assert compiled.profile(repeats=1).rows


def test_numpy_arrays_of_changing_batch_are_copied_right(everything):
    model, compiled = everything
    for size in (2, 5, 2):
        x = np.random.default_rng(size).standard_normal((size, 5, 7, 3)).astype("float32")
        x = x.transpose(0, 3, 1, 2)  # not contiguous, so it goes through the staging copy
        with torch.no_grad():
            expected = model(torch.from_numpy(x.copy()))
        assert_close(compiled(x)[0], expected[0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 5, 8), r"must be float32 \[batch×3×5×7\], got float32 \[2×3×5×8\]"),
        ((3, 5, 7), r"must be float32 \[batch×3×5×7\]"),
        ((), r"must be float32 \[batch×3×5×7\]"),
    ],
)
def test_wrong_shapes_are_refused(everything, shape, message):
    with pytest.raises(InputError, match=message):
        everything[1](torch.zeros(shape))


@pytest.mark.parametrize("name", structures.CASES)
def test_samples_of_all_structures_are_seen_to_be_independent(name):
    made = structures.CASES[name]
    torch.manual_seed(0)
    model = structures.Network(made).eval()
    x = torch.randn(3, *made.shape[1:])
    imported = one_sample(import_model(model, x, dynamic_batch=True))
    assert imported.batch is not None
    report = Report()
    mod = pipeline.run(imported.mod, pipeline.graph_phases(report, ZeroPolicy()))
    with torch.no_grad():
        expected = model(x)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for sample in range(3):
        found = evaluate(mod, x[sample : sample + 1].numpy())
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours, theirs[sample : sample + 1])
    assert report.num_binary_ops == made.binary


class Small(nn.Module):
    """A binary convolution and a linear layer behind a flatten by ``view``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Parameter(torch.randn(6, 5, 3, 3))
        self.fc = nn.Linear(6 * 12, 3)

    def forward(self, x: Any) -> Any:
        x = F.conv2d(torch.where(x >= 0, 1.0, -1.0), self.conv.sign(), padding=1)
        return self.fc(x.view(x.size(0), -1))


def _pt2(model: nn.Module, x: torch.Tensor, folder: Path) -> Any:
    program = torch.export.export(model, (x,), dynamic_shapes=({0: Dim("n", max=8)},))
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2"


WAYS: dict[str, Callable[[nn.Module, torch.Tensor, Path], Any]] = {
    "pt2": _pt2,
    "auto": lambda model, x, _: torch.export.export(model, (x,), dynamic_shapes=({0: Dim.AUTO},)),
    "onnx-legacy": lambda model, x, folder: onnx_file(
        model, x, folder / "n.onnx", input_names=["x"], dynamic_axes={"x": {0: "n"}}
    ),
    "onnx-dynamo": lambda model, x, folder: onnx_file(
        model, x, folder / "n.onnx", dynamo=True, dynamic_shapes=({0: Dim("n")},)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_models_exported_with_a_dynamic_batch_have_one(way, tmp_path):
    torch.manual_seed(0)
    model = Small().eval()
    compiled = xnortvm.compile(WAYS[way](model, torch.randn(2, 5, 3, 4), tmp_path))
    assert isinstance(compiled.inputs[0].shape[0], str)
    assert_equals_eager(compiled, model, (5, 3, 4))
    if way == "pt2":
        with pytest.raises(InputError, match="a batch from 1 to 8, got 9"):
            compiled(torch.zeros(9, 5, 3, 4))


def test_onnx_examples_fix_the_batch_unless_it_is_to_stay_open(tmp_path):
    path = WAYS["onnx-legacy"](Small().eval(), torch.randn(2, 5, 3, 4), tmp_path)
    example = torch.randn(4, 5, 3, 4).numpy()
    assert one_sample(import_model(path, example)).batch is None
    imported = one_sample(import_model(path, example, dynamic_batch=True))
    assert imported.batch is not None
    assert imported.batch.name == "n"


def test_relax_modules_keep_their_batch():
    builder = BlockBuilder()
    x = relax.Var("x", relax.TensorType((tirx.Var("n", "int64"), 5), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.add(x, x))
        builder.emit_func_output(y)
    compiled = xnortvm.compile(builder.get())
    assert compiled.inputs[0].shape == ("n", 5)
    assert_close(compiled(np.ones((3, 5), "float32")), np.full((3, 5), 2.0))


def test_inputs_without_the_batch_are_shared_by_all_samples():
    model = Function(lambda x, table: torch.relu(x * table + x))
    x, table = torch.randn(4, 7), torch.randn(1, 7)
    compiled = xnortvm.compile(model, example_inputs=(x, table), dynamic_batch=True)
    assert [spec.has_batch for spec in compiled.inputs] == [True, False]
    for size in SIZES:
        x = torch.randn(size, 7)
        assert_close(compiled(x, table), model(x, table))


def test_inputs_of_different_batch_are_refused():
    model = Function(lambda x, y: torch.cat([x, y], 1))
    compiled = xnortvm.compile(
        model, example_inputs=(torch.ones(2, 3), torch.ones(2, 4)), dynamic_batch=True
    )
    with pytest.raises(InputError, match=r"same batch, but .* has 2, .* has 3"):
        compiled(torch.ones(2, 3), torch.ones(3, 4))


#: Networks whose samples meet, and what the refusal says.
MIXING: dict[str, tuple[Callable[[Any], Any], str]] = {
    "mean": (lambda x: x - x.mean(0), "mean .*works along the batch"),
    "mean of all": (lambda x: x / x.abs().mean(), "mean .*works on all dimensions"),
    "expert weights": (
        lambda x: F.conv2d(x.reshape(1, -1, 4, 4), torch.ones(1, 1, 1, 1).expand(1, 1, 1, 1)),
        "dynamic",
    ),
    "flip": (lambda x: x.flip(0), "works along the batch"),
    "first": (lambda x: x + x[:1], "selects samples|cannot be dynamic"),
    "transposed": (lambda x: x.transpose(0, 1), "moves the batch"),
    "gram": (lambda x: x.flatten(1) @ x.flatten(1).t(), "moves the batch|samples"),
    "size as a number": (
        lambda x: x / x.shape[0],
        "cannot be compiled: div|computes with the batch size",
    ),
    "softmax": (lambda x: x.softmax(0), "works along the batch"),
}


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_meet_are_refused(name):
    forward, message = MIXING[name]
    with pytest.raises(ModelError, match=message):
        xnortvm.compile(
            Function(forward), example_inputs=torch.randn(2, 3, 4, 4), dynamic_batch=True
        )


def test_a_batch_that_forward_fixes_is_refused_with_the_line():
    model = Function(lambda x: x.reshape(2, 12) * 2)
    with pytest.raises(
        ModelError, match=r"dynamic dimension.*specialized it to be a constant \(2\)"
    ):
        xnortvm.compile(model, example_inputs=torch.randn(2, 3, 4), dynamic_batch=True)


def test_models_exported_with_a_fixed_batch_are_refused():
    program = torch.export.export(Small().eval(), (torch.randn(2, 5, 3, 4),))
    with pytest.raises(ModelError, match="exported with a fixed batch"):
        xnortvm.compile(program, dynamic_batch=True)
    with pytest.raises(ModelError, match="dynamic_shapes is for a torch"):
        xnortvm.compile(program, dynamic_shapes=({0: Dim("n")},))


def test_dynamic_height_is_refused_with_what_to_do():
    with pytest.raises(ModelError, match=r"axis 2, and only the batch \(axis 0\) may be dynamic"):
        xnortvm.compile(
            Function(torch.relu),
            example_inputs=torch.randn(2, 3, 4, 4),
            dynamic_shapes=(({2: Dim("height")},),),
        )


def test_outputs_that_are_no_function_of_the_batch_are_refused():
    with pytest.raises(ModelError, match="does not depend on an input"):
        xnortvm.compile(
            Function(lambda x: (x + 1, torch.zeros(x.shape[0], 3))),
            example_inputs=torch.randn(2, 3),
            dynamic_batch=True,
        )
