# SPDX-License-Identifier: Apache-2.0
"""The command line on the real compiler: a network is compiled, explained, saved and timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

NETWORK = ("lenet", "--input-size", "16", "--seed", "3")


@pytest.fixture
def saved(cli, tmp_path: Path) -> Path:
    path = tmp_path / "lenet.xnor"
    data = cli("compile", *NETWORK, "-o", path, "--json").data
    assert data["verified"] is True
    assert data["report"]["totals"]["binary_layers"] > 0
    return path


def test_a_saved_network_computes_what_pytorch_computes(saved: Path):
    import torch

    import xnortvm
    from xnortvm import models

    network = models.build("lenet", input_size=16, seed=3)
    image = models.random_input(network)
    with torch.inference_mode():
        expected = network(image).numpy()
    result = xnortvm.load(saved)(image.numpy())
    np.testing.assert_allclose(result, expected, atol=1e-5 * np.abs(expected).max())


def test_explain_and_compile_tell_the_same_layers(cli, saved: Path):
    explained = cli("explain", *NETWORK, "--json").data["layers"]
    compiled = cli("explain", saved, "--json").data["layers"]
    assert [(row["name"], row["binary"]) for row in explained] == [
        (row["name"], row["binary"]) for row in compiled
    ]


def test_a_network_is_timed_beside_its_peers(cli):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    arguments = ("bench", *NETWORK, "--against", "torch,onnxruntime", "--repeats", 10)
    data = cli(*arguments, "--profile", "--json").data
    assert set(data["engines"]) == {"xnortvm", "torch", "onnxruntime"}
    assert all(each["agreement"]["top1"] for each in list(data["engines"].values())[1:])
    assert data["profile"]["rows"]


def test_a_damaged_file_is_one_sentence(cli, tmp_path: Path):
    for name in ("net.onnx", "net.pt2", "net.xnor"):
        path = tmp_path / name
        path.write_bytes(b"not a model")
        ran = cli("explain", path, "--quiet")
        assert ran.status == 1
        assert ran.out == ""
        assert ran.err.startswith("xnortvm: error: ")
        assert name in ran.err
        assert ran.err.count("\n") == 1
