# SPDX-License-Identifier: Apache-2.0
"""The kernel benchmark checks what it times, and joins times with what the layers are."""

from __future__ import annotations

import numpy as np
import pytest

from xnortvm.errors import VerificationError
from xnortvm.target import resolve
from xnortvm.tools import bench_layers, limits, machine
from xnortvm.tools.bench_layers import Point
from xnortvm.tools.layer_modules import Layer

SMALL = (Layer(3, 64, 6, 64, 2), Layer(1, 4096, 0, 640, 1))
MACHINE = machine.Machine(
    cpu="a processor",
    date="2026-01-01",
    isa="avx2",
    hertz=3e9,
    caches={"L1": 32 << 10, "L2": 1 << 20},
    macs={"avx2": {"byte": 4e11, "table": 8e11, "fp32": 5e10}},
    dots={},
    read={"L1": 2e11, "L2": 1e11, "memory": 2e10},
)


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch) -> None:
    monkeypatch.setattr(limits, "SAMPLES", 3)
    monkeypatch.setattr(limits, "SAMPLE_SECONDS", 1e-5)


def test_each_common_layer_has_its_time_work_and_bytes() -> None:
    points = list(bench_layers.common(resolve("llvm"), SMALL))
    assert [point.name for point in points] == ["3×3 64→64 6×6 s2", "dense 4096→640"]
    assert [point.macs for point in points] == [3 * 3 * 64 * 64 * 3 * 3, 4096 * 640]
    for point in points:
        assert point.seconds > 0
        assert point.bytes > point.macs // 64


def test_does_not_time_a_kernel_that_is_wrong(monkeypatch) -> None:
    from xnortvm.tools import layer_modules

    right = layer_modules.reference.bdense
    monkeypatch.setattr(layer_modules.reference, "bdense", lambda *a, **k: right(*a, **k) + 2)
    with pytest.raises(VerificationError, match="dense 4096→640"):
        list(bench_layers.common(resolve("llvm"), SMALL[1:]))


def test_the_limit_is_the_slower_of_computing_and_reading() -> None:
    assert Point("a", "binary", 1.0, 8 * 10**11, 1000).limit(MACHINE, "avx2") == (1.0, "compute")
    assert Point("b", "float", 1.0, 10**11, 1000).limit(MACHINE, "avx2") == (2.0, "compute")
    assert Point("c", "other", 1.0, 0, 4 << 20).limit(MACHINE, "avx2")[1] == "memory"
    seconds, bound = Point("d", "float", 1.0, 10, 1 << 19).limit(MACHINE, "avx2")
    assert bound == "L2"
    assert seconds == (1 << 19) / 1e11


def test_two_threads_share_the_work_and_the_limit() -> None:
    point = Point("a", "binary", 1.0, 8 * 10**11, 1000)
    assert point.limit(MACHINE, "avx2", 2)[0] == point.limit(MACHINE, "avx2")[0] / 2


def test_bytes_of_several_calls_count_where_one_call_fits() -> None:
    assert Point("a", "other", 1.0, 0, 40 << 10, calls=2).limit(MACHINE, "avx2")[1] == "L1"


def test_a_row_has_the_unit_of_its_kind() -> None:
    binary = bench_layers.row(Point("a", "binary", 2.0, 8 * 10**11, 1000), MACHINE, "avx2")
    real = bench_layers.row(Point("b", "float", 1.0, 10**10, 1000, 3), MACHINE, "avx2")
    assert (binary["TBMAC/s"], binary["GMAC/s"], binary["share"]) == (0.4, None, 0.5)
    assert (real["TBMAC/s"], real["GMAC/s"], real["share"]) == (None, 10.0, 0.2)
    assert real["layer"] == "b (3 calls)"


def test_the_layers_of_a_model_are_timed_in_the_network(cli, monkeypatch, tmp_path) -> None:
    pytest.importorskip("torch")
    isa = resolve("llvm").isa
    here = machine.Machine(**{**MACHINE.to_json(), "isa": isa, "macs": {isa: MACHINE.macs["avx2"]}})
    monkeypatch.setattr(bench_layers, "limits_of_this_machine", lambda refresh: here)
    ran = cli("bench", "lenet", "--input-size", 8, "--layers", "--repeats", 2, "--json")
    rows = {row["layer"]: row for row in ran.data}
    assert {"stem.0", "conv.conv", "linear.linear", "fc"} <= set(rows)
    kinds = {name: rows[name]["kind"] for name in ("stem.0", "conv.conv", "linear.linear", "fc")}
    assert list(kinds.values()) == ["float", "binary", "binary", "float"]
    assert all(row["GB/s"] is None or row["GB/s"] > 0 for row in ran.data)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_roofline_is_written_and_names_layers_and_roofs(tmp_path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    from xnortvm.tools import roofline

    points = [
        Point("conv one", "binary", 1e-4, 10**8, 10**6),
        Point("conv two", "binary", 1.1e-4, 10**8, 10**6),
        Point("stem", "float", 1e-3, 10**8, 10**6),
        Point("pool", "other", 1e-5, 0, 10**6),
    ]
    path = tmp_path / f"roofline{suffix}"
    roofline.draw(points, MACHINE, "avx2", path, title="a network")
    start = path.read_bytes()[:8]
    assert start == (b"\x89PNG\r\n\x1a\n" if suffix == ".png" else b"<?xml ve")
    first = path.read_bytes()
    roofline.draw(points, MACHINE, "avx2", path, title="a network")
    assert path.read_bytes() == first


def test_a_plot_that_cannot_be_written_is_refused_before_measuring(tmp_path) -> None:
    from xnortvm.errors import OutputError
    from xnortvm.tools import roofline

    for name in ("roofline.gif", "roofline"):
        with pytest.raises(OutputError, match="no kind of picture"):
            roofline.check(str(tmp_path / name))


def test_neighbours_on_the_roofline_share_a_label() -> None:
    from xnortvm.tools.roofline import _ranges

    assert _ranges([1, 2, 3, 5, 7, 8]) == "1–3, 5, 7, 8"


def test_outputs_of_common_layers_are_compared_exactly() -> None:
    from xnortvm.tools.layer_modules import binary_layer

    built = binary_layer(SMALL[0])
    assert built.expected.dtype == np.float32
    assert built.expected.shape == (1, 3, 3, 64)
