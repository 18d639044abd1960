# SPDX-License-Identifier: Apache-2.0
"""``bench``: fair turns, checked peers, and tables whose columns say their units."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest

from xnortvm.runtime.timing import Times, pinned, race, sampler
from xnortvm.tools import bench_layers, bench_model, contest, peers

torch = pytest.importorskip("torch")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, object]]]:
    """A contest that is over at once; returns what was asked of it."""
    asked: list[tuple[list[str], dict[str, object]]] = []

    def hold(compiled, source, inputs, names, **options):
        asked.append((list(names), options))
        times = {name: Times(2.0 * (at + 1), 1.0, 2.0, 5) for at, name in enumerate(names)}
        agreements = {name: peers.Agreement(0.0, True, 1.0) for name in names}
        return contest.Contest(3, {"xnortvm": Times(1.0, 1.0, 1.0, 5), **times}, agreements)

    monkeypatch.setattr(contest, "hold", hold)
    return asked


# ---- timing


def test_contestants_take_turns():
    order: list[str] = []
    contestants = {name: sampler(lambda name=name: order.append(name)) for name in "ab"}
    times = race(contestants, repeats=20)
    assert [times[name].runs for name in "ab"] == [20, 20]
    changes = sum(first != second for first, second in itertools.pairwise(order))
    assert changes >= 15


@pytest.mark.parametrize("repeats", [1, 3, 10, 37])
def test_exactly_the_asked_number_of_runs_is_timed(repeats: int):
    assert race({"a": sampler(lambda: None)}, repeats)["a"].runs == repeats


def test_without_a_number_of_runs_it_depends_on_the_time_they_take():
    times = race({"fast": sampler(lambda: None)})["fast"]
    assert times.runs == 2000
    assert 0 <= times.min_ms <= times.median_ms


def test_a_very_slow_contestant_is_timed_a_few_times():
    assert race({"slow": lambda count: [4000.0] * count})["slow"].runs == 3


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs CPU affinity")
def test_one_thread_is_pinned_and_several_are_not():
    before = os.sched_getaffinity(0)
    with pinned(1) as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == before
    with pinned(2) as core:
        assert core is None
        assert os.sched_getaffinity(0) == before


# ---- the command


def test_peers_are_timed_beside_the_model(cli, fake, held):
    ran = cli("bench", "lenet", "--against", "torch", "--repeats", 5)
    assert ran.status == 0
    assert "median ms" in ran.out
    assert "milliseconds" in ran.out
    assert "pinned to core 3" in ran.out
    ((names, options),) = held
    assert names == ["torch"]
    assert (options["num_threads"], options["repeats"], options["isa"]) == (1, 5, "avx2")


def test_results_as_json(cli, fake, held):
    arguments = ("bench", "lenet", "--against", "torch", "--repeats", 5, "--json")
    data = cli(*arguments, "--num-threads", 2, "--peer-python", "torch=/py").data
    assert set(data["engines"]) == {"xnortvm", "torch"}
    assert data["engines"]["xnortvm"]["times_slower"] == 1.0
    assert data["engines"]["torch"]["times_slower"] == 2.0
    assert data["engines"]["torch"]["agreement"]["top1"]
    assert data["num_threads"] == 2
    assert held[0][1]["pythons"] == {"torch": "/py"}
    assert held[0][1]["num_threads"] == 2
    assert fake[0][2]["num_threads"] == 2


def test_all_means_every_peer_once(cli, fake, held):
    assert cli("bench", "lenet", "--against", "all").status == 0
    assert cli("bench", "lenet", "--against", "torch,torch").status == 0
    assert [names for names, _ in held] == [list(peers.PEERS), ["torch"]]


def test_a_peer_with_another_output_makes_the_status_1(cli, fake):
    ran = cli("bench", "lenet", "--against", "torch", "--repeats", 1)
    assert ran.status == 1
    assert "torch: not timed; the peer torch gives outputs of shapes [(1, 10)]" in ran.out


def test_a_compiled_model_is_timed_alone(cli, fake, tmp_path):
    saved = tmp_path / "net.xnor"
    saved.write_text("")
    assert cli("bench", saved, "--repeats", 3).status == 0
    ran = cli("bench", saved, "--against", "torch")
    assert ran.status == 1
    assert "name the .pt2 or .onnx file" in ran.err


def test_a_network_is_timed_with_the_weights_that_it_is_deployed_with(cli, fake, held):
    cli("bench", "lenet")
    layers = [m for m in fake[0][1].modules() if hasattr(m, "binary_weight")]
    assert layers
    assert all(layer.frozen for layer in layers)


def test_layers_prints_the_rows_of_the_kernel_benchmark(cli, monkeypatch):
    from xnortvm.tools.outcome import Outcome

    monkeypatch.setattr(bench_layers, "run", lambda args: Outcome("layers", [1]))
    assert cli("bench", "--layers").out == "layers\n"
    assert cli("bench", "lenet", "--layers", "--json").data == [1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "name a MODEL, or give --layers or --machine"),
        (("lenet", "--plot", "x.png"), "give --layers too"),
        (("lenet", "--machine"), "measures the machine alone"),
        (("--layers", "--plot", "x.jpeg"), "end it with .png, .svg, .pdf"),
        (("--layers", "--plot", "none/x.png"), "none is no folder"),
        (("lenet", "--against", "openvin"), "did you mean 'openvino'"),
        (("lenet", "--against", "torch", "--peer-python", "x"), "write PEER=PATH"),
        (("lenet", "--repeats", "0"), "give at least 1"),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(cli, arguments, reason: str):
    ran = cli("bench", *arguments)
    assert ran.status == 1
    assert reason in ran.err
    assert ran.out == ""


def test_random_inputs_have_the_shape_and_kind_that_the_model_takes(fake):
    import xnortvm

    (value,) = bench_model.example_inputs(xnortvm.load("x"), None)
    assert value.shape == (1, 3)
    assert value.dtype == np.float32
