# SPDX-License-Identifier: Apache-2.0
"""Layers keep the names that they have in the user's model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.frontend.nets import WAYS, Function, calls, net
from xnortvm._tvm import relax, relax_transform
from xnortvm.frontend import import_model
from xnortvm.frontend.names import (
    LayerBuilder,
    LayerCounter,
    identifier,
    keep_layer,
    layer_name,
    span,
)
from xnortvm.frontend.onnx_names import OnnxNames

LAYERS = ("nn.conv2d", "matmul")


@pytest.mark.parametrize("way", WAYS)
def test_calls_carry_the_module_path(way, tmp_path):
    module, x = net()
    imported = WAYS[way](module, x, tmp_path)
    names = [layer_name(call) for call in calls(imported, *LAYERS)]
    assert names == ["stem", "layer1.0", "layer1.1.0", "fc"]
    norms = [layer_name(call) for call in calls(imported, "nn.batch_norm")]
    assert norms == ["layer1.0.bn", "layer1.1.0.bn"]


def test_sources_tell_file_and_line():
    module, x = net()
    sources = import_model(module, x).sources
    assert {"stem", "layer1.0", "layer1.1.0", "fc"} <= set(sources)
    file, line = sources["layer1.0"].rsplit(":", 1)
    assert file.endswith("nets.py")
    assert int(line) > 0


class Shared(nn.Module):
    """Calls one convolution twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.conv(self.conv(x).sign())


@pytest.mark.parametrize("way", WAYS)
def test_second_call_of_a_shared_module_is_numbered(way, tmp_path):
    imported = WAYS[way](Shared(), torch.randn(1, 2, 3, 3), tmp_path)
    assert [layer_name(call) for call in calls(imported, "nn.conv2d")] == ["conv", "conv#2"]


def test_layer_of_the_models_own_forward_is_named_after_its_operator():
    weight = torch.randn(3, 2, 1, 1)
    imported = import_model(
        Function(lambda x: nn.functional.conv2d(x, weight)), torch.ones(1, 2, 3, 3)
    )
    assert [layer_name(call) for call in calls(imported, "nn.conv2d")] == ["convolution"]


def test_names_survive_passes_that_keep_the_call():
    module, x = net()
    mod = import_model(module, x).mod
    for transform in (
        relax_transform.Normalize(),
        relax_transform.CanonicalizeBindings(),
        relax_transform.EliminateCommonSubexpr(),
        relax_transform.DeadCodeElimination(),
    ):
        mod = transform(mod)
    names = [
        layer_name(binding)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.name == "relax.nn.conv2d"
    ]
    assert names == ["stem", "layer1.0", "layer1.1.0"]


def test_variable_name_stands_in_where_a_pass_dropped_the_span():
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    binding = relax.VarBinding(
        relax.Var("layer1_0_conv", relax.TensorType((2,), "float32")), relax.op.sign(x)
    )
    assert layer_name(binding) == "layer1_0_conv"
    assert layer_name(binding.value) == "relax.sign"


def test_builder_names_nested_calls_too():
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    builder = LayerBuilder()
    builder.where = span("block.conv", 7)
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(relax.op.add(relax.op.sign(x), relax.op.abs(x)))
            output = builder.emit_output(y)
        builder.emit_func_output(output)
    bindings = builder.get()["main"].body.blocks[0].bindings
    assert [layer_name(binding.value) for binding in bindings[:3]] == ["block.conv"] * 3
    assert bindings[0].value.span.line == 7


def test_replaced_call_keeps_its_layer():
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    old = relax.Call(relax.op.sign(x).op, [x], None, None, span("a.b"))
    assert layer_name(keep_layer(relax.op.abs(x), old)) == "a.b"


def test_counter_numbers_repetitions():
    counter = LayerCounter()
    assert [counter.unique(name) for name in "aba"] == ["a", "b", "a#2"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [("layer1.0.conv1#2", "layer1_0_conv1_2"), ("0.weight", "_0_weight"), ("x", "x")],
)
def test_identifiers_are_valid_names(layer, expected):
    assert identifier(layer) == expected
    assert expected.isidentifier()


class Node:
    """What `OnnxNames` reads of a node."""

    metadata_props = ()
    op_type = "Conv"
    output = ("y",)

    def __init__(self, name):
        self.name = name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/features/features.0/features.0.1/Conv", "features.0.1"),
        ("/stem/Conv", "stem"),
        ("/blocks.3/conv_1/Conv", "blocks.3.conv"),
        ("/Stored/Conv", "rows.Stored"),
        ("/Conv_1", "/Conv_1"),
        ("model/conv2d/Conv2D", "model/conv2d/Conv2D"),
        ("", "Conv → y"),
    ],
)
def test_onnx_node_names_become_module_paths(name, expected):
    names = OnnxNames(["blocks.3.conv.weight", "rows.Stored.weight", "layer1.0.conv1.weight"])
    assert names.layer(Node(name)) == expected
