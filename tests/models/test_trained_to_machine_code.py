# SPDX-License-Identifier: Apache-2.0
"""From training to machine code: identical predictions, and every binary layer lowered."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import xnortvm
from xnortvm.models import CHECKPOINTS, binarize, binary_layers, load
from xnortvm.models.training import Options, load_data, make_recipe, train


def test_the_shipped_checkpoint_reads_all_test_digits_as_pytorch_does() -> None:
    model = load(CHECKPOINTS / "digits")
    test = load_data("digits").test
    images = test.batch(torch.arange(len(test.labels)), None)
    compiled = xnortvm.compile(model, example_inputs=(images[:60],))
    assert [row.name for row in compiled.report.layers if row.binary] == [*binary_layers(model)]
    with torch.inference_mode():
        expected = model(images)
    actual = np.concatenate([compiled(part.numpy()) for part in images.split(60)])
    assert (actual.argmax(1) == expected.argmax(1).numpy()).all()
    assert np.abs(actual - expected.numpy()).max() < 1e-4
    assert (torch.from_numpy(actual).argmax(1) == test.labels).float().mean() >= 0.97


def test_a_binarized_and_trained_network_is_compiled_whole() -> None:
    data = load_data("digits")
    images = data.test.batch(torch.arange(60), None)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip
    binary = binarize(net, example_inputs=images)
    train(binary, data, make_recipe("short", epochs=1), options=Options(quiet=True))
    compiled = xnortvm.compile(binary.eval(), example_inputs=(images,))
    assert compiled.report.num_binary_ops == len(binary_layers(binary)) == 2
    with torch.inference_mode():
        expected = binary(images)
    assert np.array_equal(compiled(images.numpy()).argmax(1), expected.argmax(1).numpy())
