# SPDX-License-Identifier: Apache-2.0
"""Every model that cannot be read is refused in one sentence that says what to do."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.frontend.nets import Function, export
from xnortvm.errors import MissingDependencyError, ModelError, UnsupportedOperatorError
from xnortvm.frontend import import_model


def refusal(*arguments, error=ModelError):
    """Return the message with which a model is refused; it is one line."""
    with pytest.raises(error) as caught:
        import_model(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message
    return message


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_missing_file(name, tmp_path):
    assert f"no file {tmp_path / name}" in refusal(tmp_path / name)


def test_missing_file_with_a_misspelt_name(tmp_path):
    (tmp_path / "resnet18.onnx").write_bytes(b"x")
    assert "did you mean 'resnet18.onnx'?" in refusal(tmp_path / "resnet81.onnx")


def test_missing_folder(tmp_path):
    assert "no file" in refusal(str(tmp_path / "nowhere" / "net.onnx"))


def test_folder_instead_of_a_file(tmp_path):
    (tmp_path / "net.onnx").mkdir()
    assert "is a folder" in refusal(tmp_path / "net.onnx")


@pytest.mark.parametrize("name", ["net.pth", "net.tflite", "net"])
def test_unknown_suffix(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    message = refusal(tmp_path / name)
    assert ".pt2 and .onnx" in message
    assert "torch.export.save" in message


def damaged(path, content):
    path.write_bytes(content)
    return refusal(path)


def test_empty_files(tmp_path):
    assert "is empty" in damaged(tmp_path / "net.onnx", b"")
    assert "is empty" in damaged(tmp_path / "net.pt2", b"")


def test_text_files(tmp_path):
    text = b"<html>404: not found</html>\n" * 20
    assert "not an ONNX model" in damaged(tmp_path / "net.onnx", text)
    assert "no zip archive" in damaged(tmp_path / "net.pt2", text)


def test_truncated_onnx_file(tmp_path):
    node = helper.make_node("Sign", ["x"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (2,)) for n in "xy"]
    content = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:])
    ).SerializeToString()
    assert "net.onnx" in damaged(tmp_path / "net.onnx", content[: len(content) * 2 // 3])


def test_truncated_and_damaged_pt2_files(tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(export(nn.Linear(2, 2), torch.ones(1, 2)), path)
    content = path.read_bytes()
    assert "no zip archive" in damaged(path, content[: len(content) // 2])
    middle = content.find(b"PK", 200)
    assert "cannot read" in damaged(path, content[:middle] + bytes(400) + content[middle + 400 :])


def test_zip_file_that_is_no_exported_program(tmp_path):
    torch.save({"state": torch.ones(2)}, tmp_path / "net.pt2")
    assert "torch.export.save" in refusal(tmp_path / "net.pt2")


def test_onnx_file_without_a_graph():
    assert "holds no graph" in refusal(onnx.ModelProto())


def test_invalid_onnx_model():
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (2,)) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Sign", ["missing"], ["y"])], "g", values[:1], values[1:]
    )
    assert "not valid ONNX" in refusal(helper.make_model(graph))


def test_external_data_that_is_missing(tmp_path):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (64,)) for n in "xy"]
    tensor = numpy_helper.from_array(np.ones(64, "float32"), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [tensor]
    )
    path = tmp_path / "net.onnx"
    model = helper.make_model(graph)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    unloaded = onnx.load(path, load_external_data=False)
    assert "'w' lies in another file" in refusal(unloaded)
    (tmp_path / "w.bin").unlink()
    assert "external data of" in refusal(path)


@pytest.mark.parametrize("model", [None, 3, {"state": 1}, torch.ones(2), nn.Linear])
def test_objects_that_are_no_models(model):
    assert "pass a torch.nn.Module" in refusal(model)


@pytest.mark.parametrize(("model", "package"), [("net.onnx", "onnx"), ("net.pt2", "torch")])
def test_missing_package_is_named_with_its_install_line(model, package, tmp_path, monkeypatch):
    (tmp_path / model).write_bytes(b"x")
    real = importlib.import_module

    def without(name, *rest):
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    message = refusal(tmp_path / model, error=MissingDependencyError)
    assert f'pip install "xnortvm[{package}]"' in message


def test_example_inputs_are_missing():
    message = refusal(nn.Linear(4, 2))
    assert "example_inputs is missing" in message
    assert "Linear.forward(input" in message


def test_wrong_number_of_example_inputs():
    two = (torch.ones(1, 4), torch.ones(1, 4))
    message = refusal(nn.Linear(4, 2), two)
    assert "has 2 values" in message
    assert "Linear.forward" in message


def test_example_inputs_of_another_kind():
    assert "is a dict" in refusal(nn.Linear(4, 2), {"input": torch.ones(1, 4)})


def test_shape_that_the_model_rejects():
    message = refusal(nn.Linear(4, 2), torch.ones(1, 5))
    assert "float32[1, 5]" in message
    assert "mat1 and mat2 shapes cannot be multiplied" in message


def test_dtype_that_the_model_rejects():
    message = refusal(nn.Linear(4, 2), torch.ones(1, 4, dtype=torch.int32))
    assert "multiplies int32 by float32" in message
    assert "pass inputs of the dtype" in message


class Branching(nn.Module):
    """Takes a branch on a computed value, which torch.export refuses."""

    def forward(self, x):
        if x.sum() > 0:
            return x.sign()
        return x


def test_export_failure_names_the_line_and_what_helps():
    message = refusal(Branching(), torch.ones(3))
    assert "torch.export cannot export Branching" in message
    assert "if x.sum() > 0" in message
    assert "test_errors.py" in message
    assert "what usually helps" in message


class Assigning(nn.Linear):
    """Assigns to the data of its own parameter, and keeps things in attributes."""

    def forward(self, x):
        if not hasattr(self.weight, "latent"):
            self.weight.latent = self.weight.data.clone()
        self.weight.data = self.weight.latent.sign()
        self.last = x
        return super().forward(x)


class Clamping(nn.Linear):
    """Clamps its own parameter in place."""

    def forward(self, x):
        self.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


@pytest.mark.parametrize("cls", [Assigning, Clamping])
def test_writes_through_data_are_read_and_leave_the_module_as_it_was(cls):
    module = cls(3, 2)
    weight = module.weight.detach().clone()
    import_model(module, torch.ones(1, 3))
    assert torch.equal(module.weight.detach(), weight)
    assert not hasattr(module.weight, "latent")
    assert not hasattr(module, "last")
    assert module.training


def test_program_in_training_mode():
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).train()
    message = refusal(export(module, torch.randn(2, 2, 3, 3)))
    assert "training mode" in message
    assert "model.eval()" in message
    dropout = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    assert "training mode" in refusal(export(dropout, torch.randn(2, 3)))


class Stateful(nn.Module):
    """Returns a running sum that it keeps in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


def test_state_between_calls():
    assert "changes its own buffer 'total'" in refusal(Stateful(), torch.ones(3))


def test_dynamic_dimension_other_than_the_batch():
    width = torch.export.Dim("width", min=2, max=64)
    program = export(Function(torch.sign), torch.ones(2, 3, 8), dynamic_shapes=(({2: width},),))
    message = refusal(program)
    assert "input 'inputs_0'" in message
    assert "axis 2" in message


def test_operators_that_tvm_lacks_are_all_named_with_their_layers():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.hypot(x, x)

    class Strange(nn.Module):
        def forward(self, x):
            return torch.cdist(x, x)

    message = refusal(
        nn.Sequential(Odd(), Strange()), torch.ones(3, 3), error=UnsupportedOperatorError
    )
    assert "hypot.default in layer '0'" in message
    assert "_cdist_forward.default in layer '1'" in message
    assert "return torch.cdist(x, x)" in message


def test_importing_the_front_end_loads_neither_torch_nor_onnx():
    import subprocess

    code = "import xnortvm.frontend, sys; sys.exit(any(m in sys.modules for m in ('torch','onnx')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
