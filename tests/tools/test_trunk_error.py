# SPDX-License-Identifier: Apache-2.0
"""What a trunk in fp16 does to outputs is said apart from the signs that it changes."""

from __future__ import annotations

import json

import pytest

from xnortvm.tools.trunk_error import main


def test_rounding_alone_is_small_and_signs_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnet18", "--size", "32", "--images", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"] == 13
    assert found["signs"] == 64 * 8 * 8 * 5 + 128 * 4 * 4 * 4 + 256 * 2 * 2 * 4 + 512 * 3
    assert found["signs_that_differ"] < found["signs"] / 10
    assert 0 < found["on_the_same_signs"] < 0.01
    assert found["of"] == 1
