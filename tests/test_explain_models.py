# SPDX-License-Identifier: Apache-2.0
"""`explain` works for any model and target, and says everything at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import xnortvm
from tests.frontend.nets import export, onnx_file
from xnortvm._tvm import relax
from xnortvm.errors import UnsupportedOperatorError
from xnortvm.frontend import import_model


class Binary(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        return F.conv2d(torch.where(x >= 0, 1.0, -1.0), self.weight.sign())


class Odd(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.hypot(x, x)


class Strange(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.special.bessel_j0(x)


class Largest(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.topk(x, 3)[0]


class Net(nn.Module):
    """Two binary layers between operators that cannot be compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.odd, self.one = nn.Conv2d(3, 8, 3), Odd(), Binary(8, 8, 3)
        self.strange, self.two, self.top = Strange(), Binary(8, 8, 3), Largest()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        x = self.two(self.strange(self.one(self.odd(self.stem(x)))))
        return self.head(self.top(x.mean((2, 3))))


X = torch.randn(1, 3, 12, 12)


@pytest.fixture(scope="module")
def report() -> Any:
    return xnortvm.explain(Net(), example_inputs=X, target="cuda -arch=sm_90")


def test_unsupported_operators_are_all_listed_with_module_and_line(report: Any) -> None:
    found = [(row["operator"], row["layer"]) for row in report.unsupported]
    assert found == [
        ("hypot.default", "odd"),
        ("special_bessel_j0.default", "strange"),
        ("topk", "top"),
    ]
    for row in report.unsupported:
        assert f"{Path(__file__).name}:" in row["source"]
        assert row["reason"]
    assert str(report).count("cannot be compiled: ") == 4
    assert "3 operators without code" in report.summary()


def test_the_layers_around_them_are_explained(report: Any) -> None:
    assert {row.name: row.binary for row in report.layers} == {
        "stem": False,
        "one": True,
        "two": True,
        "head": False,
    }
    for row in report.layers:
        assert row.source.startswith(f"{__file__}:")
        assert bool(row.reason) == bool(row.hint) == (not row.binary)
    assert f"stem ({report.layers[0].source}): float because" in str(report)


def test_the_report_is_json(report: Any) -> None:
    data = json.loads(json.dumps(report.to_json()))
    assert xnortvm.report.Report.from_json(data).to_json() == data


def test_compile_refuses_them_all_in_one_sentence() -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        xnortvm.compile(Net(), example_inputs=X)
    message = str(caught.value)
    assert "\n" not in message
    for text in ("3 operators", "hypot.default in layer 'odd'", "bessel_j0", "topk in layer 'top'"):
        assert text in message


@pytest.mark.parametrize("way", ["pt2", "onnx", "relax"])
def test_every_kind_of_model_is_explained(way: str, tmp_path: Path) -> None:
    model = nn.Sequential(Binary(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    source: Any = export(model, X)
    if way == "pt2":
        torch.export.save(source, tmp_path / "net.pt2")
        source = tmp_path / "net.pt2"
    elif way == "onnx":
        source = onnx_file(model, X, tmp_path / "net.onnx", dynamo=True)
    else:
        source = import_model(source).mod
    rows = xnortvm.explain(source).layers
    assert [row.binary for row in rows] == [True, False]
    assert [row.name for row in rows][1] == "2"
    assert rows[1].hint
    if way == "onnx":
        assert __file__ in rows[0].source


def onnx_model(*nodes: Any, weight: tuple[int, ...] = (4, 3, 3, 3)) -> Any:
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))]
    made = [helper.make_empty_tensor_value_info("y")]
    signs = np.where(np.arange(np.prod(weight)) % 3, 1, -1).reshape(weight).astype("float32")
    graph = helper.make_graph(list(nodes), "g", values, made, [numpy_helper.from_array(signs, "w")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own.domain", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def test_unsupported_operators_of_onnx_are_all_listed() -> None:
    model = onnx_model(
        helper.make_node("Sign", ["x"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["c"], name="first"),
        helper.make_node("Det", ["c"], ["d"], name="det"),
        helper.make_node("MelWeightMatrix", ["d"] * 5, ["y"], name="mel"),
    )
    with pytest.raises(UnsupportedOperatorError, match=r"Det in layer 'det'.*MelWeightMatrix"):
        xnortvm.compile(model)


def test_layers_before_an_unknown_onnx_operator_are_explained() -> None:
    model = onnx_model(
        helper.make_node("Sign", ["x"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["c"], name="first"),
        helper.make_node("Det", ["c"], ["y"], name="det"),
    )
    report = xnortvm.explain(model)
    assert [row["operator"] for row in report.unsupported] == ["Det"]
    assert [(row.name, row.binary) for row in report.layers] == [("first", True)]


def test_operators_of_unknown_domains_are_named() -> None:
    node = helper.make_node("Fancy", ["x"], ["y"], name="node7", domain="own.domain")
    with pytest.raises(UnsupportedOperatorError, match=r"own\.domain\.Fancy in layer 'node7'"):
        xnortvm.explain(onnx_model(node))


class Layered(nn.Module):
    """One operator in a layer called ``odd``."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.odd = odd

    def forward(self, x: Any) -> Any:
        return self.odd(x)


class Inverse(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.linalg.inv(x)


class Assigned(nn.Module):
    def forward(self, x: Any) -> Any:
        y = x.clone()
        y[:, torch.tensor([0, 2])] = 1
        return y


@pytest.mark.parametrize(
    ("layer", "shape", "operator"),
    [
        (nn.Fold((4, 4), (2, 2), stride=2), (2, 12, 4), "col2im.default"),
        (Inverse(), (2, 3, 3), "linalg_inv_ex.default"),
        (Assigned(), (2, 4, 3), "index_put.default"),
    ],
)
def test_what_pytorch_would_take_apart_is_refused_by_its_name(
    layer: nn.Module, shape: tuple[int, ...], operator: str
) -> None:
    model, x = Layered(layer), torch.randn(shape)
    with pytest.raises(UnsupportedOperatorError, match=f"{operator} in layer 'odd'") as caught:
        xnortvm.compile(model, example_inputs=x)
    assert "\n" not in str(caught.value)
    (row,) = xnortvm.explain(model, example_inputs=x).unsupported
    assert (row["operator"], row["layer"]) == (operator, "odd")
    assert row["reason"]
    if not isinstance(layer, nn.Fold):
        assert f"{Path(__file__).name}:" in row["source"]


class Placed(nn.Module):
    """Kernels that TVM writes as one opaque block, around a binary layer."""

    def forward(self, x: Any) -> Any:
        places = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
        y = torch.zeros(2, 8).scatter(1, places, x)
        y = F.linear(torch.where(y >= 0, 1.0, -1.0), torch.ones(3, 8))
        return torch.bucketize(x, torch.tensor([-0.5, 0.0, 0.5])), y


def test_kernels_without_blocks_are_compiled_as_they_are() -> None:
    x = torch.randn(2, 4)
    compiled = xnortvm.compile(Placed(), example_inputs=x)
    assert compiled.report.verification is not None
    assert compiled.report.num_binary_ops == 1
    assert all(map(torch.equal, compiled(x), Placed()(x)))


def test_a_result_of_another_shape_than_pytorch_s_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from xnortvm.frontend.torch_converters import CONVERTERS

    monkeypatch.setitem(
        CONVERTERS,
        "tanh.default",
        lambda node, importer: relax.op.permute_dims(importer.env[node.args[0]]),
    )
    model = nn.Tanh()
    with pytest.raises(UnsupportedOperatorError, match=r"tanh.*shape \[3, 2\] instead of \[2, 3\]"):
        xnortvm.compile(model, example_inputs=torch.randn(2, 3))


@pytest.mark.parametrize("name", ["cumsum", "argsort", "sort"])
def test_operators_that_tvm_imports_and_cannot_build_are_refused(name: str) -> None:
    class Scan(nn.Module):
        def forward(self, x: Any) -> Any:
            y = getattr(x, name)(-1)
            return y[0] if isinstance(y, tuple) else y

    with pytest.raises(UnsupportedOperatorError, match="TVM has no code for it here"):
        xnortvm.compile(Scan(), example_inputs=X)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(3, 4, 3),
        nn.ConvTranspose2d(3, 4, 3),
        nn.Conv1d(3, 4, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_float_layer_has_a_reason_and_a_hint(layer: nn.Module) -> None:
    shapes = {nn.Conv3d: (1, 3, 5, 5, 5), nn.Conv1d: (1, 3, 9)}
    x = torch.randn(shapes.get(type(layer), (1, 3, 8, 8)))
    rows = xnortvm.explain(layer, example_inputs=x).layers
    assert rows
    for row in rows:
        assert row.reason
        assert row.hint
