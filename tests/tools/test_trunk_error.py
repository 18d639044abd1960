# SPDX-License-Identifier: Apache-2.0
"""What a trunk in fp16 does to outputs is said apart from the signs that it changes."""

from __future__ import annotations

import json

import pytest

from xnortvm.models import CHECKPOINTS
from xnortvm.tools.trunk_error import main


def test_rounding_alone_is_small_and_signs_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resnet18", "--size", "32", "--images", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"] == 13
    assert found["signs"] == 64 * 8 * 8 * 5 + 128 * 4 * 4 * 4 + 256 * 2 * 2 * 4 + 512 * 3
    assert found["signs_that_differ"] < found["signs"] / 10
    assert 0 < found["on_the_same_signs"] < 0.01
    assert found["of"] == 1


def test_a_checkpoint_is_given_its_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(CHECKPOINTS / "digits"), "--images", "30"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tensors"] == 2
    assert 27 <= found["right_with_fp32"] <= found["of"] == 30
    assert abs(found["right_with_fp16"] - found["right_with_fp32"]) <= 1


@pytest.mark.parametrize(
    "arguments", [["no-such-file.safetensors"], [str(CHECKPOINTS / "digits"), "--data", "dogits"]]
)
def test_what_is_not_there_is_said(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    error = capsys.readouterr().err
    assert "error: " in error
    assert "Traceback" not in error
