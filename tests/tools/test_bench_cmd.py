# SPDX-License-Identifier: Apache-2.0
"""``bench``: fair turns, checked peers, and tables whose columns say their units."""

from __future__ import annotations

import itertools
import os
import sys
import types

import numpy as np
import pytest

from xnortvm.errors import VerificationError
from xnortvm.tools import bench_cmd, peers
from xnortvm.tools.timing import pinned, race

torch = pytest.importorskip("torch")


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A peer that computes what the fake model computes; returns its thread counts."""
    threads: list[int] = []

    def prepare(source, num_threads: int):
        threads.append(num_threads)
        return lambda inputs: [inputs[0] * 2]

    monkeypatch.setitem(peers.PEERS, "torch", prepare)
    return threads


# ---- timing


def test_contestants_take_turns():
    order: list[str] = []
    contestants = {name: lambda name=name: order.append(name) for name in "ab"}
    times = race(contestants, repeats=20)
    assert [times[name].runs for name in "ab"] == [20, 20]
    changes = sum(first != second for first, second in itertools.pairwise(order))
    assert changes >= 15


@pytest.mark.parametrize("repeats", [1, 3, 10, 37])
def test_exactly_the_asked_number_of_runs_is_timed(repeats: int):
    assert race({"a": lambda: None}, repeats)["a"].runs == repeats


def test_without_a_number_of_runs_it_depends_on_the_time_they_take():
    times = race({"fast": lambda: None})["fast"]
    assert times.runs == 2000
    assert 0 <= times.min_ms <= times.median_ms


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs CPU affinity")
def test_one_thread_is_pinned_and_several_are_not():
    before = os.sched_getaffinity(0)
    with pinned(1) as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
    with pinned(2) as core:
        assert core is None
        assert os.sched_getaffinity(0) == before


# ---- comparison


def test_equal_outputs_agree():
    ours = [np.array([[1.0, 3.0, 2.0]])]
    agreement = peers.compare(ours, [ours[0] + 1e-6], "torch")
    assert agreement.top1
    assert agreement.error < 1e-5


def test_a_flipped_bit_is_tolerated_while_the_best_class_stays():
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
def test_a_peer_that_computes_something_else_is_not_timed(ours, theirs, reason: str):
    with pytest.raises(VerificationError, match=reason):
        peers.compare([np.array(ours)], [np.array(theirs)], "torch")


def test_a_wrong_peer_ends_the_benchmark(cli, fake, monkeypatch):
    prepare = lambda source, threads: lambda inputs: [inputs[0] * -2]  # noqa: E731
    monkeypatch.setitem(peers.PEERS, "torch", prepare)
    ran = cli("bench", "lenet", "--against", "torch")
    assert ran.status == 1
    assert "disagree" in ran.err
    assert ran.out == ""


# ---- the command


def test_peers_are_timed_beside_the_model(cli, fake, doubling):
    ran = cli("bench", "lenet", "--against", "torch", "--repeats", 5)
    assert ran.status == 0
    assert "median ms" in ran.out
    assert "milliseconds" in ran.out
    assert doubling == [1]


def test_results_as_json(cli, fake, doubling):
    arguments = ("bench", "lenet", "--against", "torch", "--repeats", 5, "--json")
    data = cli(*arguments, "--num-threads", 2).data
    assert set(data["engines"]) == {"xnortvm", "torch"}
    assert data["engines"]["xnortvm"]["times_slower"] == 1.0
    assert data["engines"]["torch"]["runs"] == 5
    assert data["engines"]["torch"]["agreement"] == {"error": 0.0, "top1": True}
    assert data["num_threads"] == 2
    assert doubling == [2]
    assert fake[0][2]["num_threads"] == 2


def test_a_compiled_model_is_timed_alone(cli, fake, tmp_path):
    saved = tmp_path / "net.xnor"
    saved.write_text("")
    assert cli("bench", saved, "--repeats", 3).status == 0
    ran = cli("bench", saved, "--against", "torch")
    assert ran.status == 1
    assert "name the .pt2 or .onnx file" in ran.err


def test_torch_does_not_run_onnx_files(cli, fake):
    ran = cli("bench", "net.onnx", "--against", "torch")
    assert ran.status == 1
    assert "use --against onnxruntime" in ran.err


@pytest.mark.parametrize("peer", ["torch", "onnxruntime"])
def test_real_peers_agree_with_eager_pytorch(peer: str, tmp_path):
    if peer == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    from xnortvm.tools.model_arg import Source

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    image = torch.randn(2, 3, 8, 8)
    expected = module(image).detach().numpy()
    program = torch.export.export(module, (image,))
    torch.export.save(program, tmp_path / "net.pt2")
    before = torch.get_num_threads()
    try:
        for source in (
            Source("net", module, (image,)),
            Source("net.pt2", tmp_path / "net.pt2"),
        ):
            (result,) = peers.PEERS[peer](source, 1)([image.numpy()])
            np.testing.assert_allclose(result, expected, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_layers_prints_the_rows_of_the_kernel_benchmark(cli, monkeypatch):
    rows = [{"layer": "64ch 56x56", "TBMAC/s": 1.1}, {"layer": "128ch 28x28", "TBMAC/s": 1.2}]
    module = types.ModuleType("xnortvm.tools.bench_layers")
    module.rows = lambda target: iter(rows)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xnortvm.tools.bench_layers", module)
    ran = cli("bench", "--layers")
    assert ran.status == 0
    assert "64ch 56x56     1.100" in ran.out
    assert cli("bench", "--layers", "--json").data == rows


def test_random_inputs_have_the_shape_and_kind_that_the_model_takes(fake):
    import xnortvm

    (value,) = bench_cmd._inputs(xnortvm.load("x"), None)
    assert value.shape == (1, 3)
    assert value.dtype == np.float32
