# SPDX-License-Identifier: Apache-2.0
"""Tuning on an emulated arm64 board behind the tracker: compiled here, measured there.

Times of an emulator mean nothing; that the whole way works does. Skipped like `test_deploy`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import xnortvm
from xnortvm.errors import TargetError
from xnortvm.tuning.records import Records

from ..tools.stand_in import script
from ..tools.trackers import running_tracker
from ..tuning.networks import network
from .root import Root, find_root

FOUND = find_root()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(isinstance(FOUND, str), reason=str(FOUND)),
]


def test_a_model_is_tuned_on_a_board_of_another_architecture(tmp_path: Path) -> None:
    root = FOUND
    assert isinstance(root, Root)
    wrapper, path = tmp_path / "python3", tmp_path / "r.jsonl"
    script(wrapper, f'#!/bin/sh\nexec {shlex.join(root.command())} "$@"\n')
    model, x = network()
    options = {"example_inputs": x, "trials": 2, "strategy": "random", "timeout": 120.0}
    with running_tracker() as tracker:
        server = Path(__file__).with_name("rpc_server.py")
        tracker.serve("rpi4", [*root.command(), server, wrapper])
        options |= {"rpc": tracker.address, "key": "rpi4", "records": path}
        found = xnortvm.tune(model[:3], target="rpi4", **options)
        assert [each.failure for each in found] == [""] * len(found)
        assert {each.kind for each in found} == {"trial", "best"}
        assert {each.target.mcpu for each in Records(path)} == {"cortex-a72"}
        assert all(each.where.startswith("rpi4 at 127.0.0.1:") for each in found)
        with pytest.raises(TargetError, match=r"cannot load a library for x86_64"):
            xnortvm.tune(model[:3], target="x86-64-v3", **options)
