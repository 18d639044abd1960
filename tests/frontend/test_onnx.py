# SPDX-License-Identifier: Apache-2.0
"""ONNX models of every exporter and opset arrive complete and compute what PyTorch computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.frontend.nets import (
    Function,
    assert_same,
    assert_same_graph,
    calls,
    constants,
    onnx_file,
    operators,
    outputs,
)
from xnortvm.errors import ModelError, UnsupportedOperatorError
from xnortvm.frontend import import_model
from xnortvm.graph.dataflow import is_const


@pytest.fixture(scope="module")
def legacy(model, tmp_path_factory):
    return onnx_file(*model[:2], tmp_path_factory.mktemp("legacy") / "net.onnx", opset_version=17)


@pytest.fixture(scope="module")
def dynamo(model, tmp_path_factory):
    return onnx_file(*model[:2], tmp_path_factory.mktemp("dynamo") / "net.onnx", dynamo=True)


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_file_computes_what_eager_computes(exporter, model, request):
    imported = import_model(request.getfixturevalue(exporter))
    assert imported.kind == "onnx"
    assert_same(outputs(imported, model[1])[0], model[2])


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_model_in_memory_gives_the_graph_of_the_file(exporter, request):
    path = request.getfixturevalue(exporter)
    proto = onnx.load(path)
    before = proto.SerializeToString()
    assert_same_graph(import_model(proto), import_model(str(path)))
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("opset", [13, 14, 16, 18, 20])
def test_older_and_newer_opsets_compute_what_eager_computes(opset, model, tmp_path):
    path = onnx_file(*model[:2], tmp_path / "net.onnx", opset_version=opset)
    assert_same(outputs(import_model(path), model[1])[0], model[2])


def test_newest_opset_of_the_dynamo_exporter(model, tmp_path):
    path = onnx_file(*model[:2], tmp_path / "net.onnx", dynamo=True, opset_version=23)
    assert_same(outputs(import_model(path), model[1])[0], model[2])


def test_external_data_is_read(model, legacy, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(
        onnx.load(legacy),
        path,
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
        convert_attribute=False,
    )
    assert_same_graph(import_model(path), import_model(legacy))


def test_initialisers_listed_as_inputs_are_constants(legacy):
    proto = onnx.load(legacy)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    imported = import_model(proto)
    assert len(imported.input_names) == 1
    assert_same_graph(imported, import_model(legacy))


def test_input_and_output_names_are_those_of_the_model(model, tmp_path):
    path = onnx_file(
        *model[:2], tmp_path / "net.onnx", input_names=["image.1"], output_names=["logits/2"]
    )
    imported = import_model(path)
    assert imported.input_names == ("image.1",)
    assert [str(param.name) for param in imported.mod["main"].params] == ["image_1"]
    assert imported.output_names == ("logits/2",)
    assert imported.structure == "logits/2"


@pytest.mark.parametrize("dynamo", [False, True])
def test_symbolic_batch_runs_at_every_batch(dynamo, model, tmp_path):
    module, x, _ = model
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {}
    axes = {} if dynamo else {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    path = onnx_file(module, x, tmp_path / "net.onnx", dynamo=dynamo, **shapes, **axes)
    imported = import_model(path)
    for batch in (1, 3):
        y = torch.randn(batch, *x.shape[1:])
        with torch.no_grad():
            assert_same(outputs(imported, y)[0], module(y))


def test_example_inputs_fix_a_dynamic_shape(model, tmp_path):
    module, x, expected = model
    path = onnx_file(
        module, x, tmp_path / "net.onnx", input_names=["x"], dynamic_axes={"x": [0, 2, 3]}
    )
    imported = import_model(path, (x,))
    (param,) = imported.mod["main"].params
    assert [int(dim.value) for dim in param.ty.shape.values] == list(x.shape)
    assert_same(outputs(imported, x)[0], expected)


class Padded(nn.Module):
    """Pads by -1 with sizes that the exporter writes as a chain of shape operators."""

    def forward(self, x):
        x = nn.functional.pad(x.sign(), (1, 1, 1, 1), value=-1)
        return x.view(x.size(0), x.size(1), -1).mean(2)


@pytest.mark.parametrize("opset", [13, 17])
def test_computed_pads_become_numbers(opset, tmp_path):
    x = torch.randn(2, 3, 4, 5)
    path = onnx_file(Padded(), x, tmp_path / "pad.onnx", opset_version=opset)
    imported = import_model(path)
    assert operators(imported) == ["sign", "nn.pad", "reshape", "mean"]
    assert_same(outputs(imported, x)[0], Padded()(x))


def small_model(nodes, inputs, initialisers=(), opset=17, domains=(), outputs=("y",), shape=None):
    """A model of these nodes with float inputs ``{name: shape}``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in outputs],
        [numpy_helper.from_array(value, name) for name, value in dict(initialisers).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


QONNX = "qonnx.custom_op.general"


@pytest.mark.parametrize("domain", [QONNX, "finn.custom_op.general", "onnx.brevitas"])
def test_bipolar_quantisers_become_where(domain):
    weight = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    proto = small_model(
        [
            helper.make_node("BipolarQuant", ["x", "one"], ["a"], domain=domain),
            helper.make_node("BipolarQuant", ["w", "scale"], ["b"], domain=domain),
            helper.make_node("MatMul", ["a", "b"], ["y"]),
        ],
        {"x": (2, 4)},
        {"w": weight, "one": np.float32(1), "scale": np.float32(0.25)},
        domains=[domain],
    )
    imported = import_model(proto)
    assert operators(imported) == ["greater_equal", "where", "matmul"]
    assert is_const(calls(imported, "matmul")[0].args[1])
    x = np.array([[-1, 0, 2, -0.5], [0, 0, 0, 3]], "float32")
    expected = np.where(x >= 0, 1, -1) @ np.where(weight >= 0, 0.25, -0.25)
    assert_same(outputs(imported, x)[0], expected.astype("float32"))


def test_quantisers_of_more_bits_round_and_clip():
    proto = small_model(
        [helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], domain=QONNX, signed=1, narrow=1)],
        {"x": (8,)},
        {"s": np.float32(0.5), "z": np.float32(0), "b": np.float32(3)},
        domains=[QONNX],
    )
    x = np.array([-9, -1.2, -0.25, 0, 0.25, 0.75, 1.3, 9], "float32")
    expected = np.clip(np.round(x / 0.5), -3, 3) * 0.5
    assert_same(outputs(import_model(proto), x)[0], expected.astype("float32"))


def test_quantiser_with_a_computed_scale_is_refused():
    proto = small_model(
        [
            helper.make_node("ReduceMax", ["x"], ["s"], keepdims=0),
            helper.make_node("BipolarQuant", ["x", "s"], ["y"], domain=QONNX, name="q"),
        ],
        {"x": (4,)},
        domains=[QONNX],
    )
    with pytest.raises(UnsupportedOperatorError, match=r"BipolarQuant node 'q'.*'s'"):
        import_model(proto)


def test_branch_with_a_known_condition_is_taken():
    then = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, (3,))],
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, (3,))],
    )
    for condition, expected in ((True, "negative"), (False, "abs")):
        proto = small_model(
            [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
            {"x": (3,)},
            {"c": np.array(condition)},
        )
        assert operators(import_model(proto)) == [expected]


def test_large_computed_weights_fold_too():
    weight = np.random.default_rng(1).standard_normal((64, 300)).astype("float32")
    proto = small_model(
        [
            helper.make_node("Sign", ["w"], ["s"]),
            helper.make_node("ReduceMean", ["w"], ["m"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["s", "m"], ["v"]),
            helper.make_node("Transpose", ["v"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["y"]),
        ],
        {"x": (1, 300)},
        {"w": weight},
    )
    imported = import_model(proto)
    assert operators(imported) == ["matmul"]
    expected = (np.sign(weight) * weight.mean(1, keepdims=True)).T
    np.testing.assert_allclose(constants(imported)[0], expected, rtol=1e-6)


def test_scalar_constants_keep_their_rank(tmp_path):
    x = torch.randn(2, 3, 4)
    path = onnx_file(Function(lambda x: x[:, 1] * 2), x, tmp_path / "select.onnx")
    assert_same(outputs(import_model(path), x)[0], x[:, 1] * 2)


def test_operator_that_tvm_lacks_is_named_with_its_layer():
    proto = small_model(
        [helper.make_node("Det", ["x"], ["y"], name="/block/act/Det")], {"x": (3, 3)}
    )
    with pytest.raises(UnsupportedOperatorError, match=r"Det in layer 'block.act'.*no rule"):
        import_model(proto)


def test_all_unknown_operators_are_listed():
    proto = small_model(
        [
            helper.make_node("Foo", ["x"], ["a"], domain="my.ops", name="first"),
            helper.make_node("Bar", ["a"], ["y"], domain="my.ops", name="second"),
        ],
        {"x": (3,)},
        domains=["my.ops"],
    )
    with pytest.raises(
        UnsupportedOperatorError, match=r"my.ops.Foo in layer 'first'.*; my.ops.Bar in"
    ):
        import_model(proto)


def test_dynamic_height_is_refused_by_name_and_axis():
    proto = small_model([helper.make_node("Sign", ["x"], ["y"])], {"x": ("n", 3, "h", 8)})
    with pytest.raises(ModelError, match=r"input 'x' has a dynamic dimension 'h' at axis 2"):
        import_model(proto)


def test_input_without_a_shape_is_refused():
    proto = small_model([helper.make_node("Sign", ["x"], ["y"])], {"x": None})
    with pytest.raises(ModelError, match=r"input 'x' .* has no shape"):
        import_model(proto)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((np.zeros((2, 3), "float32"),) * 2, r"2 values .* 1 inputs \(x\)"),
        (np.zeros((2, 4), "float32"), r"float32\[2, 4\] .* takes float32\['n', 3\]"),
        (np.zeros((2, 3), "float64"), r"float64\[2, 3\]"),
    ],
    ids=["count", "shape", "dtype"],
)
def test_wrong_examples_are_refused(example, message):
    proto = small_model([helper.make_node("Sign", ["x"], ["y"])], {"x": ("n", 3)})
    with pytest.raises(ModelError, match=message):
        import_model(proto, example)
