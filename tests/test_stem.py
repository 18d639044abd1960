# SPDX-License-Identifier: Apache-2.0
"""``stem=``: the first float convolutions by another method, its error stated, never in silence."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import xnortvm
from tests.relax_modules import conv, f32, module, operators
from xnortvm._tvm import relax
from xnortvm.errors import ModelError, TargetError
from xnortvm.graph.dataflow import Graph
from xnortvm.ops.stem_conv2d import ROUNDING, attributes_of
from xnortvm.report import Report
from xnortvm.stem import METHODS, check_stem, choose_stem
from xnortvm.target import resolve
from xnortvm.transform.stem import mark_stem

RNG = np.random.default_rng(0)


class Net(nn.Module):
    """Stem, batch norm, ReLU, pool, a packed layer, a classifier."""

    def __init__(self, stem: nn.Conv2d) -> None:
        super().__init__()
        self.stem, self.norm = stem, nn.BatchNorm2d(stem.out_channels)
        self.weight = nn.Parameter(torch.randn(32, stem.out_channels, 3, 3))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.stem(x))), 2)
        bits = torch.where(x - 0.5 >= 0, 1.0, -1.0)
        y = nn.functional.conv2d(bits, self.weight.sign(), padding=1)
        return self.head(y.mean((2, 3)))


class Float(nn.Module):
    """A stem alone, behind a normalisation of the image."""

    def __init__(self, stem: nn.Conv2d) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, x: Any) -> Any:
        return torch.relu(self.stem((x - 0.25) / 0.5))


def stem_row(report: Report) -> Any:
    row = report.row("stem")
    assert row is not None
    return row


def stated_error(note: str) -> float:
    found = re.search(r"from float64 ([\d.e+-]+) of the largest output", note)
    assert found, note
    return float(found[1])


#: Methods that this machine has instructions for.
APPROXIMATE = [name for name, method in METHODS.items() if method.needs <= resolve("llvm").features]


@pytest.mark.parametrize("method", APPROXIMATE)
@pytest.mark.parametrize("size", [(1, 3, 40, 40), (2, 3, 33, 47)])
def test_the_compiled_stem_has_the_error_that_the_report_states(
    method: str, size: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    model = Float(nn.Conv2d(3, 33, 7, 2, 3)).eval()
    x = torch.randn(*size)
    compiled = xnortvm.compile(model, example_inputs=x, stem=method)
    row = stem_row(compiled.report)
    assert "the example inputs" in row.note
    assert row.bits_in == METHODS[method].bits
    packed = {"winograd": 4 * 33 * 6 * 6 * 12, "bf16": 2 * 33 * 147, "int8": 33 * 147 + 8 * 33}
    bias = 4 * 33
    assert row.bytes_before == 4 * 33 * 147
    assert abs(row.bytes_after - bias - packed[method]) <= 0.2 * packed[method]
    assert compiled.report.verification is not None
    assert (compiled.report.verification.against == "NumPy") == (method in ROUNDING)
    stated = stated_error(row.note)
    with torch.no_grad():
        expected = model.double()(x.double())
    error = float((compiled(x) - expected).abs().max() / expected.abs().max())
    assert 0 < error < 2.5 * stated + 1e-6


def test_a_network_with_a_winograd_stem_equals_eager() -> None:
    torch.manual_seed(2)
    model = Net(nn.Conv2d(3, 64, 7, 2, 3, bias=False)).eval()
    x = torch.randn(1, 3, 32, 32)
    compiled = xnortvm.compile(model, example_inputs=x, stem="winograd", verify=True)
    expected = model(x).detach()
    assert (compiled(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert stem_row(compiled.report).schedule.startswith("winograd.")
    assert "Winograd's F(" in stem_row(compiled.report).note


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(3, 32, 3, dilation=2), "dilation"),
        (nn.Conv2d(4, 32, 7, groups=2), "groups"),
        (nn.Conv2d(3, 16, 3, 2), "saves too little for a 3×3 kernel of 3 channels with stride 2"),
    ],
)
def test_a_layer_that_the_method_does_not_fit_stays_exact_and_says_why(
    layer: nn.Conv2d, why: str
) -> None:
    model = Float(layer).eval()
    x = torch.randn(1, layer.in_channels, 20, 20)
    compiled = xnortvm.compile(model, example_inputs=x, stem="winograd")
    row = stem_row(compiled.report)
    assert row.note.startswith('computed exactly in spite of stem="winograd"')
    assert why in row.note
    expected = model(x).detach()
    assert (compiled(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_does_not_take_constant_example_inputs_as_data() -> None:
    mod = module(lambda emit, x: conv(x, _weight(8, 7, 7, 3), strides=[2, 2]), (1, 24, 24, 3))
    report = Report()
    choose_stem(mod, "winograd", [np.zeros((1, 24, 24, 3), np.float32)], report)
    new = choose_stem(mod, "winograd", None, report)
    (call,) = [call for _, call in Graph(new["main"]).calls()]
    assert attributes_of(call)["method"] == "winograd"


def test_a_model_without_a_stem_says_so() -> None:
    report = Report()
    mod = module(lambda emit, x: relax.op.nn.relu(x), (1, 4, 4, 3))
    choose_stem(mod, "winograd", None, report)
    assert report.notes == ['stem="winograd" changes nothing: no float convolution reads the input']


def _weight(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def test_the_stem_is_what_no_layer_precedes() -> None:
    def body(emit: Any, x: Any) -> Any:
        last = emit(relax.op.permute_dims(emit(relax.op.multiply(x, f32(2.0))), [0, 2, 3, 1]))
        one = emit(conv(last, _weight(8, 3, 3, 3)))
        two = emit(conv(last, _weight(8, 3, 3, 3)))
        return conv(emit(relax.op.add(one, two)), _weight(8, 3, 3, 8))

    marked = mark_stem(module(body, (1, 3, 9, 9)))
    names = [name for name in operators(marked) if "conv2d" in name]
    assert names == ["xnortvm.stem_conv2d", "xnortvm.stem_conv2d", "nn.conv2d"]
    assert "permute_dims" not in operators(marked)


def test_does_not_take_unknown_methods() -> None:
    with pytest.raises(ModelError, match=r"'winnograd' \(did you mean 'winograd'\?\)"):
        check_stem("winnograd", resolve("llvm"))


@pytest.mark.parametrize(("method", "feature"), [("bf16", "avx512bf16"), ("int8", "avx512vnni")])
def test_does_not_take_methods_without_instructions(method: str, feature: str) -> None:
    with pytest.raises(TargetError, match=rf"needs the instructions {feature}.*exact, winograd$"):
        check_stem(method, resolve("llvm -mcpu=haswell"))
    check_stem(method, resolve("llvm -mcpu=znver4"))


def test_the_range_of_an_int8_image_comes_from_the_example_inputs() -> None:
    if "int8" not in APPROXIMATE:
        pytest.skip("this machine has no vpdpbusd")
    model = Float(nn.Conv2d(3, 32, 3)).eval()
    torch.manual_seed(3)
    x = torch.rand(1, 3, 16, 16)  # the layer reads (x - 0.25) / 0.5: -0.5 to 1.5
    note = stem_row(xnortvm.explain(model, example_inputs=x, stem="int8")).note
    assert "clipped to -0.49" in note or "clipped to -0.5" in note, note
    note = stem_row(xnortvm.explain(model, example_inputs=0 * x, stem="int8")).note
    assert "normal random inputs" in note


def test_does_not_take_methods_on_a_gpu() -> None:
    with pytest.raises(TargetError, match="is for CPUs"):
        check_stem("winograd", resolve("cuda -arch=sm_90"))
