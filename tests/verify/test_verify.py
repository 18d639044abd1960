# SPDX-License-Identifier: Apache-2.0
"""`compile` verifies what it made: it finds what is wrong, names it, and finds nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xnortvm
from tests.frontend.nets import export, onnx_file
from tests.verify.nets import Chain, Function, cancelling, sign
from xnortvm import api
from xnortvm._tvm import ir, relax
from xnortvm.errors import ModelError, VerificationError
from xnortvm.frontend import import_model, onnx_twin
from xnortvm.graph.dataflow import const, op_name, rebuild, value_of

X = torch.linspace(-3, 3, 192).reshape(1, 3, 8, 8).sin()


def checked(model: Any, *inputs: Any, **options: Any) -> Any:
    """Compile, and return what was verified; it must have been."""
    if isinstance(model, nn.Module):
        options["example_inputs"] = inputs
    report = xnortvm.compile(model, **options).report
    assert report.verification is not None, report.notes
    return report


def test_the_default_on_this_host_is_to_verify() -> None:
    report = checked(Chain(), X)
    assert report.verification.binary_layers == 4
    assert report.verification.signs_near_zero == 0
    assert report.verification.against == "PyTorch"
    assert any("the integers of 4 binary layers are exact" in note for note in report.notes)
    assert set(report.seconds) == {"import", "passes", "build", "verify"}
    assert report.to_json() == xnortvm.report.Report.from_json(report.to_json()).to_json()


def test_verifying_does_not_change_what_is_compiled() -> None:
    plain = xnortvm.compile(Chain(), example_inputs=X, verify=False)
    assert plain.report.verification is None
    assert plain.library == xnortvm.compile(Chain(), example_inputs=X).library


def test_nothing_is_verified_for_another_machine() -> None:
    other = xnortvm.compile(Chain(), target="llvm -mcpu=cortex-a72", example_inputs=X)
    assert other.report.verification is None


@pytest.mark.parametrize("way", ["pt2", "onnx-legacy", "onnx-dynamo", "relax"])
def test_every_kind_of_model_has_a_source_to_compare_with(way: str, tmp_path: Path) -> None:
    model = Chain(gamma=True).eval()
    source: Any
    if way == "pt2":
        source = export(model, X)
    elif way == "relax":
        source = import_model(model, (X,)).mod
    else:
        dynamo = {"dynamo": True} if way == "onnx-dynamo" else {"opset_version": 17}
        source = onnx_file(model, X, tmp_path / "net.onnx", **dynamo)
    report = checked(source)
    assert report.verification.binary_layers == 4
    against = {"pt2": "PyTorch", "relax": "the imported Relax module"}
    assert report.verification.against == against.get(way, "ONNX Runtime")


def test_onnx_models_are_compared_without_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_twin, "_runtime", lambda: None)
    report = checked(onnx_file(Chain().eval(), X, tmp_path / "net.onnx", opset_version=17))
    assert report.verification.against == "onnx.reference"


def flip_a_bit(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the build flip one bit of the packed weights of one layer."""
    real = api.build

    def build(mod: Any, *others: Any, **options: Any) -> Any:
        seen = [0]

        def visit(_: Any, __: Any, call: Any) -> Any:
            name = str(call.args[0]) if op_name(call) == "relax.call_tir" else ""
            if "bconv2d" not in name and "bdense" not in name:
                return None
            seen[0] += 1
            if seen[0] - 1 != number:
                return None
            fields = list(call.args[1].fields)
            words = value_of(fields[1])
            assert words is not None
            words = words.copy()
            words.flat[words.size // 3] ^= 1
            fields[1] = const(words)
            args = [call.args[0], relax.Tuple(fields)]
            return ir.Call(call.op, args, call.attrs, call.ty_args)

        return real(rebuild(mod, visit), *others, **options)

    monkeypatch.setattr(api, "build", build)


@pytest.mark.parametrize("gamma", [False, True], ids=["thresholds", "gamma"])
@pytest.mark.parametrize("number", range(4))
def test_one_wrong_bit_of_a_packed_weight_is_found_and_its_layer_named(
    number: int, gamma: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_a_bit(monkeypatch, number)
    names = ("convolution_1", "convolution_2", "mm", "mm_1")
    with pytest.raises(VerificationError, match=rf"layer {names[number]} is wrong: \d+ of"):
        xnortvm.compile(Chain(gamma), example_inputs=X)


def test_a_wrong_pass_is_found_and_the_layer_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.patterns import BinaryWeights, conv2d

    real = conv2d.binary_weights

    def turned(weights: Any) -> Any:
        found = real(weights)
        if not isinstance(found, BinaryWeights):
            return found
        return replace(found, signs=np.roll(found.signs, 1, axis=0))

    monkeypatch.setattr(conv2d, "binary_weights", turned)
    with pytest.raises(VerificationError, match="layer convolution_1 differs from PyTorch"):
        xnortvm.compile(Chain(), example_inputs=X)


def test_a_wrong_threshold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.transform import threshold

    real = threshold.encode

    def shifted(*arguments: Any) -> Any:
        limit, flip = real(*arguments)
        return limit + 4, flip

    monkeypatch.setattr(threshold, "encode", shifted)
    with pytest.raises(VerificationError, match="the input of layer convolution_2 is wrong"):
        xnortvm.compile(Chain(), example_inputs=X)


def test_a_wrong_float_pass_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.transform import affine

    real = affine._merge
    monkeypatch.setattr(
        affine, "_merge", lambda scales, scale: real(scales, scale * np.float32(1.001))
    )
    model = Function(
        lambda m, x: F.linear(sign(x), m.one.weight.sign()) * m.one.bias * 0.3,
        one=nn.Linear(64, 64),
    )
    with pytest.raises(VerificationError, match="although every binary layer agrees"):
        xnortvm.compile(model, example_inputs=torch.randn(2, 64))


def test_a_wrong_import_is_found_and_the_layer_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.frontend import torch_relax

    real = torch_relax.CONVERTERS["mm.default"]
    monkeypatch.setitem(
        torch_relax.CONVERTERS,
        "mm.default",
        lambda node, importer: relax.op.multiply(
            importer.block_builder.emit(real(node, importer)), relax.const(1.001)
        ),
    )
    with pytest.raises(VerificationError, match=r"(layer mm|input of layer mm_1|output 0)"):
        xnortvm.compile(Chain(), example_inputs=X)


def test_an_output_of_another_size_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.frontend import torch_converters, torch_relax

    def largest(node: Any, importer: Any) -> Any:
        return relax.op.max(importer.env[node.args[0]], [1])

    monkeypatch.setitem(torch_converters.CONVERTERS, "tanh.default", largest)
    monkeypatch.setattr(torch_relax, "_check_shape", lambda *_: None)
    with pytest.raises(VerificationError, match=r"shape \[2\], and PyTorch gives \[2, 3\]"):
        xnortvm.compile(nn.Tanh(), example_inputs=torch.randn(2, 3))


def test_a_model_that_does_something_else_under_export_is_found() -> None:
    def forward(module: Any, x: Any) -> Any:
        y = F.linear(sign(x), module.one.weight.sign())
        return y if torch.compiler.is_exporting() else y + 1

    model = Function(forward, one=nn.Linear(64, 8))
    with pytest.raises(VerificationError, match="something else under export"):
        xnortvm.compile(model, example_inputs=torch.randn(2, 64))


@pytest.mark.parametrize(
    "between",
    [lambda x: x, lambda x: F.max_pool2d(x, 2), lambda x: F.pad(x, (1, 1, 1, 1), value=1.0)],
    ids=["plain", "pooled", "padded"],
)
def test_signs_within_rounding_of_zero_are_no_alarm(between: Any) -> None:
    stem, x = cancelling()
    model = Function(
        lambda m, x: m.last(F.conv2d(between(sign(m.stem(x))), m.one.weight.sign())),
        stem=stem,
        one=nn.Conv2d(64, 8, 3),
        last=nn.Conv2d(8, 4, 1),
    )
    report = checked(model, x)
    assert report.verification.signs_near_zero > 100
    assert "signs lie within rounding of 0" in report.notes[-1]


@pytest.mark.parametrize(
    "jump", [torch.floor, sign, lambda x: x.argmax(1, keepdim=True).float().expand_as(x)]
)
def test_other_jumps_within_rounding_are_no_alarm_and_are_said(jump: Any) -> None:
    stem, x = cancelling()
    model = Function(lambda m, x: m.one(jump(m.stem(x))), stem=stem, one=nn.Conv2d(64, 8, 3))
    assert "an operator jumps or cancels" in checked(model, x).notes[-1]


def test_a_wrong_layer_behind_signs_near_zero_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    flip_a_bit(monkeypatch, 0)
    stem, x = cancelling()
    model = Function(
        lambda m, x: F.conv2d(sign(m.stem(x)), m.one.weight.sign()),
        stem=stem,
        one=nn.Conv2d(64, 8, 3),
    )
    with pytest.raises(VerificationError, match="convolution_1 is wrong"):
        xnortvm.compile(model, example_inputs=x)


def test_constant_examples_are_replaced_by_random_numbers() -> None:
    assert checked(Chain(), torch.zeros(1, 3, 8, 8)).verification.inputs == "random inputs"
    assert checked(Chain(), X).verification.inputs == "the example inputs"


def test_zeros_of_torch_sign_are_counted() -> None:
    model = Function(
        lambda m, x: F.conv2d(torch.sign(m.norm(m.stem(x))), m.one.weight.sign()),
        stem=nn.Conv2d(3, 8, 3, bias=False),
        norm=nn.BatchNorm2d(8, eps=0.0),
        one=nn.Conv2d(8, 8, 3),
    )
    model.stem.weight.data.fill_(1.0)
    model.norm.running_mean.fill_(27.0)
    ones = torch.ones(1, 3, 8, 8)  # a window of them adds up to the mean
    report = checked(model, ones, verify=(ones,))
    assert report.verification.zeros == 288
    assert "verify met 288 zeros in 288 signs" in report.notes[-1]


def test_given_inputs_must_fit() -> None:
    with pytest.raises(ModelError, match="needs one array for each of the 1 inputs"):
        xnortvm.compile(Chain(), example_inputs=X, verify=(X, X))
    with pytest.raises(ModelError, match=r"takes float32 \[1×3×8×8\]"):
        xnortvm.compile(Chain(), example_inputs=X, verify=X[:, :, 1:])


def test_large_models_are_verified_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_VERIFIED_MACS", 1e3)
    report = xnortvm.compile(Chain(), example_inputs=X).report
    assert report.verification is None
    assert "verify=True" in report.notes[-1]
    assert checked(Chain(), X, verify=True)


def odd(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Networks that are unlike the usual ones."""
    rows = torch.randn(2, 7, 32)
    linear = {"a": nn.Linear(32, 32), "b": nn.Linear(32, 32)}
    made: dict[str, tuple[Any, dict[str, nn.Module], tuple[torch.Tensor, ...]]] = {
        "attention": (
            lambda m, x: F.softmax(
                F.linear(sign(x), m.a.weight.sign())
                @ F.linear(sign(x), m.b.weight.sign()).transpose(1, 2),
                -1,
            ),
            linear,
            (rows,),
        ),
        "norm_and_gelu": (
            lambda m, x: F.gelu(m.n(F.linear(sign(m.n(x)), m.a.weight.sign()))),
            {**linear, "n": nn.LayerNorm(32)},
            (rows,),
        ),
        "embedding": (
            lambda m, i: F.linear(sign(m.e(i)).flatten(1), m.a.weight.sign()),
            {"e": nn.Embedding(100, 16), "a": nn.Linear(48, 8)},
            (torch.tensor([[1, 99, 50], [7, 3, 3]]),),
        ),
        "dictionary": (
            lambda m, x: {"a": F.linear(sign(x), m.a.weight.sign()), "input": x},
            linear,
            (rows,),
        ),
        "scalar": (lambda m, x: F.linear(sign(x), m.a.weight.sign()).sum(), linear, (rows,)),
        "no_parameters": (lambda m, x: sign(x) * 2, {}, (rows,)),
        "classes": (lambda m, x: m.a(sign(x)).argmax(-1), linear, (rows,)),
        "not_a_number": (
            lambda m, x: F.linear(sign(x), m.a.weight.sign()) * torch.tensor([float("nan")] * 32),
            linear,
            (rows,),
        ),
        "half": (lambda m, x: m.a(x.half()), {"a": nn.Linear(32, 8).half()}, (rows,)),
        "double": (lambda m, x: m.a(x.double()), {"a": nn.Linear(32, 8).double()}, (rows,)),
        "volume": (
            lambda m, x: m.a(sign(x)),
            {"a": nn.Conv3d(3, 4, 3)},
            (torch.randn(1, 3, 5, 5, 5),),
        ),
        "transposed": (lambda m, x: m.a(sign(x)), {"a": nn.ConvTranspose2d(3, 4, 2, 2)}, (X,)),
        "shuffled": (
            lambda m, x: F.pixel_shuffle(F.conv2d(sign(x), m.a.weight.sign(), groups=2), 2),
            {"a": nn.Conv2d(8, 16, 3, groups=2)},
            (torch.randn(1, 8, 5, 5),),
        ),
        "amplified": (
            lambda m, x: m.n(m.a(x)),
            {"a": nn.Conv2d(3, 8, 3), "n": offset_norm()},
            (X.abs() * 255,),
        ),
        "one_direction": (  # thousands of equal products, as in networks before their training
            lambda m, x: F.conv2d(sign(x + 1), m.a.weight.sign().abs() * 0.000501, padding=1),
            {"a": nn.Conv2d(2048, 8, 3)},
            (torch.randn(1, 2048, 2, 2),),
        ),
    }
    function, modules, inputs = made[name]
    return Function(function, **modules).eval(), inputs


def offset_norm() -> nn.Module:
    """A batch norm that takes away nearly all of what it reads."""
    norm = nn.BatchNorm2d(8)
    norm.running_mean.fill_(1000.0)  # type: ignore[union-attr,operator]
    norm.running_var.fill_(1e-4)  # type: ignore[union-attr,operator]
    return norm


@pytest.mark.parametrize(
    "name",
    [
        *("attention", "norm_and_gelu", "embedding", "dictionary", "scalar", "no_parameters"),
        *("classes", "not_a_number", "half", "double", "volume", "transposed", "shuffled"),
        *("amplified", "one_direction"),
    ],
)
def test_unusual_networks_are_no_alarm(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = odd(name)
    checked(model, *inputs)


def test_a_dynamic_batch_is_verified_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.verify import source

    compared = []
    real = source._compare_samples
    monkeypatch.setattr(
        source, "_compare_samples", lambda *given: compared.append(1) or real(*given)
    )
    report = checked(Chain(), X, dynamic_batch=True)
    assert report.verification.binary_layers == 4
    assert compared


def test_a_sample_that_a_batch_gets_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from xnortvm.runtime import running

    real = running.run_samples

    def run_samples(*given: Any) -> Any:
        outputs = real(*given)
        for output in outputs:
            output[2:] += 1
        return outputs

    monkeypatch.setattr(running, "run_samples", run_samples)
    with pytest.raises(VerificationError, match="sample 2 of a batch of 3 differs"):
        xnortvm.compile(Chain(), example_inputs=X, dynamic_batch=True)
