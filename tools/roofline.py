# SPDX-License-Identifier: Apache-2.0
"""Draw layers under the roofs of a machine: speed over multiply-accumulates for each byte."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from math import atan2, degrees, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm.errors import MissingDependencyError, OutputError

if TYPE_CHECKING:
    from xnortvm.tools.bench_layers import Point
    from xnortvm.tools.machine import Machine

SUFFIXES = (".png", ".svg", ".pdf")

_INK, _FAINT, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
_KINDS = {
    "binary": ("#0b6e99", "o"),
    "float": ("#d9730d", "s"),
}
_LISTED = 22
# Inches of the plot inside of the axes, nearly.
_WIDTH, _HEIGHT = 6.75, 4.65


def check(file: str) -> None:
    """Refuse what cannot be drawn, before anything is measured.

    Raises
    ------
    OutputError
        When the name has another suffix or its folder does not exist.
    MissingDependencyError
        When matplotlib is not installed.
    """
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"--plot={file} names no kind of picture; end it with {', '.join(SUFFIXES)}"
        )
    if not path.absolute().parent.is_dir():
        raise OutputError(f"--plot={file} cannot be written: {path.parent} is no folder")
    try:
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError(
            f"drawing a roofline needs matplotlib, which cannot be imported ({error}); "
            'run: pip install "xnortvm[plot]"'
        ) from error


def draw(points: Sequence[Point], machine: Machine, isa: str, path: Path, *, title: str) -> None:
    """Draw the kernels that multiply; the others have no place on a roofline.

    Parameters
    ----------
    points : sequence of Point
    machine : Machine
        Whose roofs are drawn.
    isa : str
        The instruction set that the kernels were compiled for.
    path : Path
        Picture to write; the suffix says which kind.
    title : str
        What was measured.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = sorted((p for p in points if p.macs and p.seconds), key=lambda p: -p.seconds)
    with rc_context({"font.size": 9, "font.family": "DejaVu Sans", "svg.hashsalt": "xnortvm"}):
        figure = Figure(figsize=(10.5, 5.6), layout="constrained")
        axes, listing = figure.subplots(1, 2, width_ratios=(2.35, 1))
        _style(axes)
        low = min([*(p.intensity for p in shown), 1.0]) / 4
        high = max([*(p.intensity for p in shown), 1e3]) * 4
        _roofs(axes, machine, isa, low, high)
        _layers(axes, shown)
        _list(listing, shown, machine, isa)
        figure.suptitle(
            f"{title}: speed over arithmetic intensity", x=0.012, ha="left", color=_INK, size=12
        )
        figure.supxlabel(
            f"one core of {machine.cpu}, {machine.hertz / 1e9:.2f} GHz, {isa}; "
            f"limits measured {machine.date}; areas grow with time",
            x=0.012,
            ha="left",
            color=_FAINT,
            size=8,
        )
        date = {"Date": None} if path.suffix.lower() != ".png" else {}
        if path.suffix.lower() == ".pdf":
            date = {"CreationDate": None}
        try:
            figure.savefig(path, dpi=160, metadata=date)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _style(axes: Any) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("multiply-accumulates for each byte of the kernel's arguments", color=_INK)
    axes.set_ylabel("multiply-accumulates a second", color=_INK)
    axes.grid(True, which="major", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_FAINT, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
    axes.yaxis.set_major_formatter(lambda value, _: _count(value))
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"
    )


def _count(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"


def _roofs(axes: Any, machine: Machine, isa: str, low: float, high: float) -> None:
    """Bandwidths rise from the left until they meet the ceilings of arithmetic."""
    binary, fp32 = machine.binary(isa), machine.fp32(isa)
    bottom = min(machine.read.values()) * low
    axes.set_xlim(low, high)
    axes.set_ylim(min(bottom, fp32 / 10), binary * 3)
    shades = ("#3e4c59", "#616e7c", "#7b8794", "#9aa5b1")
    for shade, rate in zip(shades, machine.read.values(), strict=False):
        knee = binary / rate
        axes.plot([low, knee], [low * rate, binary], color=shade, linewidth=1.1, zorder=2)
    _name_roofs(axes, machine, low, shades)
    for rate, kind, label in (
        (binary, "binary", f"binary: {binary / 1e12:.2f} TMAC/s"),
        (fp32, "float", f"float32: {fp32 / 1e9:.0f} GMAC/s"),
    ):
        start = rate / max(machine.read.values())
        axes.plot([start, high], [rate, rate], color=_KINDS[kind][0], linewidth=1.8, zorder=3)
        axes.annotate(
            label,
            (high, rate),
            (-4, 4),
            textcoords="offset points",
            ha="right",
            color=_KINDS[kind][0],
            weight="bold",
        )


def _name_roofs(axes: Any, machine: Machine, low: float, shades: Sequence[str]) -> None:
    """Write each bandwidth along its line; lines that nearly coincide share one name."""
    named: list[tuple[float, list[str], str]] = []
    for shade, (level, rate) in zip(shades, machine.read.items(), strict=False):
        text = f"{level} {rate / 1e9:.0f}"
        if named and named[-1][0] / rate < 1.35:
            named[-1][1].append(text)
        else:
            named.append((rate, [text], shade))
    for position, (rate, texts, shade) in enumerate(named):
        at = low * 2.0 ** (0.6 + 0.25 * position)
        axes.annotate(
            f"{', '.join(texts)} GB/s",
            (at, at * rate),
            (0, 3),
            textcoords="offset points",
            rotation=_angle(axes),
            rotation_mode="anchor",
            color=shade,
            size=8,
        )


def _angle(axes: Any) -> float:
    """Return the angle on the page of lines of slope 1."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    return degrees(atan2(_HEIGHT / log(y1 / y0), _WIDTH / log(x1 / x0)))


def _layers(axes: Any, shown: Sequence[Point]) -> None:
    slowest = shown[0].seconds if shown else 1.0
    for point in shown:
        color, marker = _KINDS[point.kind]
        speed = point.macs / point.seconds
        area = 26 + 160 * point.seconds / slowest
        axes.scatter(
            [point.intensity],
            [speed],
            s=area,
            marker=marker,
            color=color,
            alpha=0.85,
            edgecolor="white",
            linewidth=0.8,
            zorder=5,
        )
    _numbers(axes, shown)


def _numbers(axes: Any, shown: Sequence[Point]) -> None:
    """Number the points; neighbours share a label, and labels step down until none overlap."""
    placed: list[tuple[float, float, float]] = []
    for group in _groups(axes, shown):
        points = [shown[number - 1] for number in group]
        x = min(point.intensity for point in points)
        y = min(point.macs / point.seconds for point in points)
        text = _ranges(group)
        left, top = _page(axes, x, y)
        width, drop = 4.6 * len(text), 8.0
        while any(
            left < right + 3 and left + width > start - 3 and abs(top - drop - at) < 9
            for start, right, at in placed
        ):
            drop += 3
        placed.append((left, left + width, top - drop))
        axes.annotate(
            text,
            (x, y),
            (0, -drop),
            textcoords="offset points",
            va="top",
            color=_INK,
            size=7.5,
            zorder=6,
        )


def _groups(axes: Any, shown: Sequence[Point]) -> list[list[int]]:
    """Return the numbers of points that lie close together on the page, from left to right."""
    places = {
        number: _page(axes, point.intensity, point.macs / point.seconds)
        for number, point in enumerate(shown, 1)
    }
    groups: list[list[int]] = []
    for number in sorted(places, key=lambda each: places[each]):
        x, y = places[number]
        near = [
            g for g in groups if abs(places[g[0]][0] - x) < 26 and abs(places[g[0]][1] - y) < 16
        ]
        if near:
            near[0].append(number)
        else:
            groups.append([number])
    return [sorted(group) for group in groups]


def _page(axes: Any, x: float, y: float) -> tuple[float, float]:
    """Return a place in points on the page, nearly: the layout is not computed yet."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    return (
        72 * _WIDTH * log(x / x0) / log(x1 / x0),
        72 * _HEIGHT * log(y / y0) / log(y1 / y0),
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Write 1, 2, 3, 5 as "1–3, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def _list(axes: Any, shown: Sequence[Point], machine: Machine, isa: str) -> None:
    """Say which number is which layer, with its time and its share of the limit."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(_LISTED + 2, 0)
    columns = (
        (0.0, "left", ""),
        (0.08, "left", "layer"),
        (0.82, "right", "µs"),
        (1.0, "right", "of limit"),
    )
    for x, align, text in columns:
        axes.text(x, 0.5, text, ha=align, va="center", color=_FAINT, size=8)
    for number, point in enumerate(shown[:_LISTED], 1):
        limit, _ = point.limit(machine, isa)
        name = point.name if len(point.name) <= 27 else point.name[:26] + "…"
        cells = (
            str(number),
            name,
            f"{point.seconds * 1e6:.0f}",
            f"{100 * limit / point.seconds:.0f} %",
        )
        for (x, align, _), text in zip(columns, cells, strict=True):
            color = _KINDS[point.kind][0] if x <= 0.08 else _INK
            axes.text(x, number + 0.6, text, ha=align, va="center", color=color, size=8)
    if len(shown) > _LISTED:
        rest = len(shown) - _LISTED
        axes.text(0.08, _LISTED + 1.6, f"and {rest} more", color=_FAINT, size=8, va="center")
