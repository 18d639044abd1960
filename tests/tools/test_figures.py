# SPDX-License-Identifier: Apache-2.0
"""Figures of the documentation come from commands, and only from commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xnortvm.errors import ModelError
from xnortvm.tools import figure_tables, figures

ENGINES = {
    "engines": {
        "xnortvm": {"median_ms": 5.0, "min_ms": 4.5, "times_slower": 1.0},
        "torch": {"median_ms": 60.0, "min_ms": 55.0, "times_slower": 12.0},
    }
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Answer every command with `ENGINES`, and remember what was asked."""
    asked: list[tuple[str, ...]] = []

    def measure(command: tuple[str, ...], keep: object = None) -> object:
        asked.append(tuple(command))
        return {**ENGINES, "stem": "winograd" if "winograd" in command else "exact"}

    monkeypatch.setattr(figures, "measure", measure)
    return asked


def test_a_figure_is_replaced_and_the_text_around_it_stays(
    tmp_path: Path, measured: list[tuple[str, ...]]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- figures: resnet18 -->\nold\n<!-- end -->\nafter\n")
    figures.write("resnet18", tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- figures: resnet18 -->\n| engine")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert '| xnortvm, stem="winograd" | 5.00 | 4.50 | 1.00× |' in text
    assert "| torch | 60.00 | 55.00 | 12.00× |" in text
    assert f"`xnortvm {' '.join(measured[0])}`, " in text


def test_writing_twice_gives_one_figure(tmp_path: Path, measured: list[tuple[str, ...]]) -> None:
    page = tmp_path / "README.md"
    page.write_text("<!-- figures: resnet18 -->\n<!-- end -->\n")
    figures.write("resnet18", tmp_path)
    once = page.read_text()
    figures.write("resnet18", tmp_path)
    assert page.read_text() == once
    assert len(measured) == 4  # two commands, twice


def test_does_not_measure_when_the_page_has_no_place_for_it(
    tmp_path: Path, measured: list[tuple[str, ...]]
) -> None:
    (tmp_path / "README.md").write_text("no place\n")
    with pytest.raises(ModelError, match=r"README\.md has no place marked"):
        figures.write("resnet18", tmp_path)
    assert not measured


def test_a_table_of_networks_has_a_row_for_each_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(command: tuple[str, ...], keep: object = None) -> object:
        shared = {"batch": 8 if "--batch" in command else 1, "isa": "avx2", "stem": "exact"}
        threads = 1
        engines = dict(ENGINES["engines"])
        if "--batch" in command:
            del engines["torch"]
        return {**shared, "num_threads": threads, "engines": engines}

    monkeypatch.setattr(figures, "measure", measure)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "performance.md"
    page.write_text("<!-- figures: quicknet -->\n<!-- end -->\n")
    figures.write("quicknet", tmp_path)
    text = page.read_text()
    assert "| batch 1, avx2, 1 thread | 5.00 | 60.00 (12.00×) |" in text
    assert "| batch 8, avx2, 1 thread | 5.00 | – |" in text
    assert text.count("`xnortvm bench quicknet`, and `--against") == 1
    assert '`--target "llvm -mcpu=haswell" --num-threads 2 --against openvino`, 20' in text


def test_results_of_today_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(figures, "_run", lambda command: ran.append(command) or {"n": len(ran)})
    assert figures.measure(("bench", "a"), tmp_path) == {"n": 1}
    assert figures.measure(("bench", "a"), tmp_path) == {"n": 1}
    assert figures.measure(("bench", "b"), tmp_path) == {"n": 2}
    assert figures.measure(("bench", "b")) == {"n": 3}


def test_layers_say_their_unit_and_their_share() -> None:
    row = {"layer": "3×3", "microseconds": 2170.0, "GB/s": 1.84, "share": 0.92, "bound": "compute"}
    binary = {**row, "TBMAC/s": 1.1456, "GMAC/s": None}
    other = {**row, "TBMAC/s": None, "GMAC/s": None}
    lines = figure_tables.layers([[binary, other]])
    assert lines[2] == "| 3×3 | 2170.0 | 1.15 TBMAC/s | 1.8 | 92 % | compute |"
    assert lines[3] == "| 3×3 | 2170.0 |  | 1.8 | 92 % | compute |"


def test_limits_are_one_row_for_each_instruction_set() -> None:
    found = {
        "hertz": 3e9,
        "macs": {"avx2": {"byte": 4e11, "fp32": 5e10}, "sse2": {"fp32": 2e10}},
        "dots": {"int8": 2e11},
        "read": {"L1": 2e11},
    }
    lines = figure_tables.limits([found])
    assert lines[2:4] == ["| avx2 | 0.400 | 0.050 |", "| sse2 |  | 0.020 |"]
    assert lines[-1] == "At 3.00 GHz; int8 dot products 0.200 TMAC/s, L1 200 GB/s."


def test_every_figure_has_its_place_in_the_documentation() -> None:
    for name, figure in figures.FIGURES.items():
        for file in figure.files:
            text = (figures.ROOT / file).read_text()
            assert re.search(rf"<!-- figures: {name} -->\n.*?<!-- end -->", text, re.DOTALL)


COST = {
    "bound": 1.5,
    "float_bound": 0.25,
    "rows": [
        {
            "layer": "conv (2 calls)",
            "kind": "binary",
            "cycles": 1_600_000,
            "instructions": 3_000_000,
            "cycles_per_step": 1.775,
            "cycles_per_mac": None,
            "l1_misses": 1234,
            "l2_misses": 5,
            "spills": 1,
            "share": 0.25,
        },
        {
            "layer": "pool",
            "kind": "other",
            "cycles": 4_800_000,
            "instructions": 3_000_000,
            "cycles_per_step": None,
            "cycles_per_mac": None,
            "l1_misses": 0,
            "l2_misses": 0,
            "spills": 0,
            "share": 0.75,
        },
    ],
    "total": {"instructions": 6_000_000, "cycles": 6_400_000, "spills": 1},
    "shares": {"binary": 0.25, "float": 0.0, "other": 0.75},
    "ms": 4.27,
    "ms_stalled": 9.0,
}


def test_modelled_costs_become_tables() -> None:
    two = {**COST, "bound": 3.0, "rows": [{**COST["rows"][0], "cycles_per_step": 4.5}]}
    one = {**COST, "rows": COST["rows"][:1]}
    layers = figures.FIGURES["arm-layers"].render([{"cores": {"cortex-a72": one, "b": two}}])
    assert layers[2:] == ["| at least | 1.5 | 3.0 |", "| conv (2 calls) | 1.77 | 4.50 |"]
    stem = {**COST["rows"][0], "layer": "float stem", "kind": "float", "cycles_per_mac": 0.3213}
    both = {**COST, "rows": [COST["rows"][0], stem]}
    floats = figures.FIGURES["arm-float"].render([{"cores": {"cortex-a53": both}}])
    assert floats[2:] == ["| at least | 0.250 |", "| stem | 0.321 |"]
    found = [{"model": "net", "cores": {"cortex-a72": COST}}]
    assert figures.FIGURES["arm-networks"].render(found)[2:] == [
        "| net | cortex-a72 | 6.0 M | 6.4 M | 25.0 % | 0.0 % | 75.0 % | 1 | 4.3 | 9.0 |"
    ]
    assert figures.FIGURES["arm-kernels"].render(found)[2:] == [
        "| conv (2 calls) | 25.0 % | 1,600,000 | 3,000,000 | 1.77 | 1,234 | 5 | 1 |",
        "| pool | 75.0 % | 4,800,000 | 3,000,000 |  | 0 | 0 | 0 |",
    ]


def test_modelled_records_are_summed_for_each_core() -> None:
    rows = [
        {"cpu": "b", "decisions": "rule", "rule us": 900.0, "best us": 900.0, "gain": 1.0},
        {"cpu": "b", "decisions": "word", "rule us": 600.0, "best us": 500.0, "gain": 1.2},
    ]
    assert figures.FIGURES["arm-tuned"].render([rows])[2:] == [
        "| b | 2 | 1 | 1.50 | 1.40 | 1.071 | 1.200 |"
    ]


def test_a_caption_of_different_networks_names_every_command() -> None:
    commands = [("bench", "a", "--model-cost", "x"), ("bench", "b", "--model-cost", "x")]
    assert figures._caption(commands) == (
        "`xnortvm bench a --model-cost x`, `xnortvm bench b --model-cost x`"
    )
