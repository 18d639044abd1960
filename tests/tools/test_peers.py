# SPDX-License-Identifier: Apache-2.0
"""Peers run the same model, are checked before they are timed, and say why they cannot run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnortvm.errors import ModelError, VerificationError
from xnortvm.tools import contest, peers
from xnortvm.tools.model_arg import Source
from xnortvm.tools.peer_inputs import PeerInputs
from xnortvm.tools.peer_process import PeerError, PeerProcess

torch = pytest.importorskip("torch")

NEEDS = {
    "onnxruntime": ("onnxruntime", "onnxscript"),
    "onnxruntime-int8": ("onnxruntime", "onnxscript", "onnx"),
    "openvino": ("openvino",),
    "openvino-fp32": ("openvino", "onnxscript"),
}


class Binary(torch.nn.Module):
    """Everything that a peer's graph has to express, with small sizes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.first = torch.nn.Parameter(torch.randn(32, 16, 3, 3).sign())
        self.second = torch.nn.Parameter(torch.randn(32, 32, 3, 3).sign() * 0.25)
        self.short = torch.nn.Parameter(torch.randn(32, 16, 1, 1).sign())
        self.norm = torch.nn.BatchNorm2d(32)
        self.slope = torch.nn.PReLU(32, init=-0.3)
        self.dense = torch.nn.Parameter(torch.randn(24, 32 * 4).sign())
        self.gamma = torch.nn.Parameter(torch.rand(32, 8, 1) + 0.5)
        self.last = torch.nn.Linear(24, 10)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, x: Any) -> Any:
        conv = torch.nn.functional.conv2d
        x = torch.relu(self.stem(x))
        bits = torch.where(x >= 0, 1.0, -1.0)  # the zeros behind the ReLU are +1
        y = conv(bits, self.first, stride=2, padding=1) * self.gamma
        y = self.slope(self.norm(y)) + conv(bits, self.short, stride=2)
        z = conv(torch.where(y > 0.5, 1.0, -1.0), self.second, padding=1) + y
        z = torch.nn.functional.avg_pool2d(torch.nn.functional.max_pool2d(z, 2), 2)
        z = torch.where(z.flatten(1) >= 0, 1.0, -1.0)
        return self.last(torch.nn.functional.linear(z, self.dense) / 16)


@pytest.fixture(scope="module")
def model() -> tuple[Source, list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """A model, an input, and what PyTorch makes of it."""
    module = Binary()
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = module(image).numpy()
    return Source("binary", module, (image,)), [image.numpy()], [expected]


@pytest.fixture(scope="module")
def files(model, tmp_path_factory: pytest.TempPathFactory) -> PeerInputs:
    """The model in every form; each is written once for all tests."""
    source, inputs, _ = model
    return PeerInputs(tmp_path_factory.mktemp("peers"), source, inputs)


def prepared(name: str, files: PeerInputs) -> tuple[PeerProcess, str]:
    for package in NEEDS.get(name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    python = peers.interpreters([]).get(name)
    if name == "larq" and python is None:
        pytest.skip(f"no Python with Larq Compute Engine is named in {peers.PYTHON_VARIABLE}")
    files.make(peers.PEERS[name].form)
    process = PeerProcess(name, peers.PEERS[name].engine, python)
    return process, process.prepare(files.folder, 1)


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_computes_what_the_model_computes(name: str, model, files) -> None:
    _, _, expected = model
    process, note = prepared(name, files)
    with process:
        exact = peers.PEERS[name].exact
        agreement = peers.compare(expected, process.outputs(), name, exact=exact)
        assert len(process.run(3)) == 3
    if exact:
        assert agreement.error < 1e-5, note
    assert note


def test_openvino_runs_every_binary_layer_on_bits(files) -> None:
    process, note = prepared("openvino", files)
    with process:
        assert "4 BinaryConvolution" in note


def test_openvino_refuses_groups_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("openvino")

    class Grouped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(32, 16, 3, 3).sign())

        def forward(self, x: Any) -> Any:
            x = torch.where(x >= 0, 1.0, -1.0)
            return torch.nn.functional.conv2d(x, self.weight, groups=2)

    image = torch.randn(1, 32, 6, 6)
    files = PeerInputs(tmp_path, Source("grouped", Grouped(), (image,)), [image.numpy()])
    with pytest.raises(PeerError, match="BinaryConvolution has no groups"):
        prepared("openvino", files)


@pytest.mark.parametrize("pad_value", [1.0, -1.0])
def test_openvino_pads_with_signs_as_we_do(pad_value: float, tmp_path: Path) -> None:
    pytest.importorskip("openvino")

    class Padded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(32, 32, 3, 3).sign())

        def forward(self, x: Any) -> Any:
            x = torch.where(x >= 0, 1.0, -1.0)
            x = torch.nn.functional.pad(x, (1, 1, 1, 1), value=pad_value)
            return torch.nn.functional.conv2d(x, self.weight)

    module, image = Padded(), torch.randn(2, 32, 6, 6)
    files = PeerInputs(tmp_path, Source("padded", module, (image,)), [image.numpy()])
    process, _ = prepared("openvino", files)
    with process:
        peers.compare([module(image).detach().numpy()], process.outputs(), "openvino")


def test_an_onnx_file_is_not_run_by_torch(tmp_path: Path) -> None:
    files = PeerInputs(tmp_path, Source("net.onnx", Path("net.onnx")), [])
    with pytest.raises(ModelError, match="torch does not run; use onnxruntime"):
        files.make("torch")


def test_a_pt2_file_is_run_by_torch_and_onnxruntime(tmp_path: Path) -> None:
    module, image = torch.nn.Linear(5, 3).eval(), torch.randn(2, 5)
    torch.export.save(torch.export.export(module, (image,)), tmp_path / "net.pt2")
    files = PeerInputs(tmp_path, Source("net.pt2", tmp_path / "net.pt2"), [image.numpy()])
    for name in ("torch", "onnxruntime"):
        process, _ = prepared(name, files)
        with process:
            peers.compare([module(image).detach().numpy()], process.outputs(), name)


# ---- processes


def test_a_missing_package_is_a_sentence(model, tmp_path: Path) -> None:
    source, inputs, _ = model
    files = PeerInputs(tmp_path, source, inputs)
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    bare = tmp_path / "python"  # a Python that has no PyTorch
    bare.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    files.make("torch")
    with (
        PeerProcess("torch", "torch_eager", bare) as process,
        pytest.raises(PeerError, match=r"cannot run here: it needs a package .*No module named"),
    ):
        process.prepare(tmp_path, 1)


def test_a_python_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    with (
        PeerProcess("torch", "torch_eager", tmp_path / "none") as process,
        pytest.raises(PeerError, match=r"cannot be started.*--peer-python torch=PATH"),
    ):
        process.prepare(tmp_path, 1)


def test_a_process_that_dies_is_a_sentence(tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    dying.chmod(0o755)
    with (
        PeerProcess("torch", "torch_eager", dying) as process,
        pytest.raises(PeerError, match="ended with status 3: out of luck"),
    ):
        process.prepare(tmp_path, 1)


def test_interpreters_come_from_the_option_and_the_environment() -> None:
    found = peers.interpreters(["torch=/a"], {peers.PYTHON_VARIABLE: "torch=/b,tvm=/c"})
    assert found == {"torch": "/a", "tvm": "/c"}
    for wrong in ("torch", "torch=", "nothing=/a"):
        with pytest.raises(ModelError, match="write PEER=PATH"):
            peers.interpreters([wrong], {})


def test_peers_are_kept_to_the_instruction_set_that_the_model_was_compiled_for(
    model, files, tmp_path: Path
) -> None:
    (tmp_path / "environment").mkdir()
    shim = tmp_path / "python"
    shim.write_text(f'#!/bin/sh\nenv > {tmp_path}/environment/seen\nexec {sys.executable} "$@"\n')
    shim.chmod(0o755)
    source, inputs, expected = model
    held = contest.hold(
        lambda x: expected[0],
        source,
        inputs,
        ["torch"],
        repeats=1,
        isa="avx2",
        pythons={"torch": str(shim)},
    )
    assert "torch" in held.times
    seen = (tmp_path / "environment" / "seen").read_text().splitlines()
    assert {"ONEDNN_MAX_CPU_ISA=AVX2", "ATEN_CPU_CAPABILITY=avx2", "OMP_NUM_THREADS=1"} <= set(seen)
    assert "cannot be kept to avx2" in peers.restriction_note("onnxruntime", "avx2")
    assert not peers.restriction_note("torch", "avx2")


# ---- comparison


def test_equal_outputs_agree() -> None:
    ours = [np.array([[1.0, 3.0, 2.0]])]
    agreement = peers.compare(ours, [ours[0] + 1e-6], "torch")
    assert agreement.top1
    assert agreement.error < 1e-5
    assert agreement.cosine > 0.999


def test_a_flipped_bit_is_tolerated_while_the_best_class_stays() -> None:
    peers.compare([np.array([[1.0, 3.0]])], [np.array([[1.1, 2.95]])], "torch")


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ([[1.0, 3.0]], [[3.0, 1.0]], "best class"),
        ([[1.0, 3.0]], [[2.0, 4.0]], "disagree by 2.5e-01"),
        ([[2.99, 3.0]], [[3.0, 2.99]], "best class"),
        ([[1.0, np.nan]], [[1.0, 3.0]], "disagree"),
        ([[1.0, 3.0]], [[1.0, 3.0, 2.0]], "shapes"),
    ],
)
def test_a_peer_that_computes_something_else_is_not_timed(ours, theirs, reason: str) -> None:
    with pytest.raises(VerificationError, match=reason):
        peers.compare([np.array(ours)], [np.array(theirs)], "torch")


def test_in_a_batch_a_few_samples_may_have_flips_but_not_most() -> None:
    ours = np.tile([1.0, 3.0, 2.9], (8, 1))
    theirs = ours.copy()
    theirs[3] = [1.0, 2.9, 3.0]  # another best class
    agreement = peers.compare([ours], [theirs], "torch")
    assert not agreement.top1
    theirs[:3] = theirs[3]
    with pytest.raises(VerificationError, match="best class"):
        peers.compare([ours], [theirs], "torch")
    for wrong in ([9.0, 0.0, 0.0], [np.nan, 3.0, 2.9]):
        theirs = ours.copy()
        theirs[3] = wrong
        with pytest.raises(VerificationError, match="disagree"):
            peers.compare([ours], [theirs], "torch")


def test_a_quantised_peer_may_differ_but_not_be_unrelated() -> None:
    ours = [np.array([[1.0, 3.0, -2.0]])]
    peers.compare(ours, [np.array([[2.0, 1.0, -1.0]])], "onnxruntime-int8", exact=False)
    for unrelated in ([[-1.0, -3.0, 2.0]], [[np.nan, 3.0, -2.0]], [[0.0, 0.0, 0.0]]):
        with pytest.raises(VerificationError, match="nothing in common"):
            peers.compare(ours, [np.array(unrelated)], "onnxruntime-int8", exact=False)


# ---- the contest


def test_a_wrong_peer_is_named_and_the_others_are_timed(model) -> None:
    source, inputs, expected = model
    held = contest.hold(lambda x: expected[0] + 100, source, inputs, ["torch"], repeats=2)
    assert held.wrong == ["torch"]
    assert "disagree" in held.absent["torch"]
    assert list(held.times) == ["xnortvm"]
    assert "torch: not timed; the peer torch" in str(held)


def test_peers_that_agree_are_timed_in_the_same_contest(model) -> None:
    source, inputs, expected = model
    held = contest.hold(lambda x: expected[0], source, inputs, ["torch"], repeats=3)
    assert {name: each.runs for name, each in held.times.items()} == {"xnortvm": 3, "torch": 3}
    assert held.to_json()["engines"]["torch"]["agreement"]["error"] == 0.0
    assert "PyTorch" in held.notes["torch"]


def test_peers_are_compared_with_what_an_approximation_approximates(model) -> None:
    source, inputs, expected = model
    held = contest.hold(
        lambda x: expected[0] * 1.01, source, inputs, ["torch"], repeats=1, expected=expected
    )
    assert "torch" in held.times
    assert held.agreements["xnortvm"].error == pytest.approx(0.01, rel=0.1)
