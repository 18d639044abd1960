# SPDX-License-Identifier: Apache-2.0
"""The result as tables for people, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_UNITS = {
    "op/s": (1e12, "TOPS"),
    "instruction/s": (1e12, "T/s"),
    "byte/s": (1e9, "GB/s"),
    "s": (1e-6, "µs"),
}


def good(result: dict[str, Any]) -> bool:
    """Whether no part failed and everything that was compared is right."""
    for part in result["parts"].values():
        if part["status"] == "failed":
            return False
        for row in part.get("rows", {}).values():
            wrong = False in (row.get("checked"), row.get("exact"), row.get("fits"))
            if wrong or "error" in row:
                return False
    return True


def render(result: dict[str, Any]) -> str:
    """Return all tables; a part that found nothing says why."""
    chip = result["chip"] or {}
    smi = result["nvidia_smi"]
    lines = [
        f"# {chip.get('name', 'no GPU')}, {result['date'][:10]}",
        "",
        f"driver {smi.get('driver_version', 'unknown')}, CUDA {chip.get('cuda_of_driver', '-')}, "
        f"{chip.get('sms', '-')} SMs, clock now {smi.get('clocks.sm', 'unknown')} of "
        f"{smi.get('clocks.max.sm', 'unknown')}, memory {smi.get('clocks.mem', 'unknown')}, power "
        f"{smi.get('power.limit', 'unknown')}; Python {result['host']['python']}; versions "
        + ", ".join(f"{k} {v}" for k, v in result["bundle"]["versions"].items()),
        "",
    ]
    for title, prefix, body in _SECTIONS:
        parts = {n: p for n, p in result["parts"].items() if n.split(":")[0] == prefix}
        if not parts:
            continue
        lines += [f"## {title}", ""]
        for name, part in parts.items():
            if "why" in part:
                lines += [f"{name} {part['status']}: {part['why']}", ""]
        rows = {n: r for part in parts.values() for n, r in part.get("rows", {}).items()}
        if rows:
            lines += [*body(rows, result), ""]
    if result["bundle"]["left_out"]:
        lines += ["## Not in the bundle", ""]
        lines += [f"* {name}: {why}" for name, why in result["bundle"]["left_out"].items()] + [""]
    return "\n".join(lines)


def grid(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def binary_ceiling(result: dict[str, Any]) -> tuple[str, float] | None:
    """Return the fastest binary instruction whose results were right, and its operations/s."""
    found = [
        (name, row["rate"])
        for name, row in _ceilings(result).items()
        if ("_b1_" in name or name.startswith("xnor_")) and row.get("checked")
    ]
    return max(found, key=lambda each: each[1], default=None)


def _ceilings(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, part in result["parts"].items():
        if name.startswith("ceilings:"):
            rows |= part.get("rows", {})
    return rows


def _said(row: dict[str, Any]) -> str:
    return str(row.get("error") or row.get("skipped") or "")


def _ceiling_rows(rows: dict[str, Any], _result: dict[str, Any]) -> list[str]:
    cells = []
    for name, row in rows.items():
        if "rate" not in row:
            cells.append((name, "-", "-", "-", _said(row)))
            continue
        size, unit = _UNITS[row["unit"]]
        clock = row.get("per_clock_and_sm")
        cells.append(
            (
                name,
                f"{row['rate'] / size:,.2f} {unit}",
                f"{clock:,.0f}" if clock else "-",
                f"{row['hertz'] / 1e9:.2f} GHz" if row.get("hertz") else "-",
                "right" if row["checked"] else f"WRONG: {row['why']}",
            )
        )
    return grid(("what", "rate", "per clock and SM", "clock", "results"), cells)


def _exact_rows(rows: dict[str, Any], _result: dict[str, Any]) -> list[str]:
    def cells(name: str, row: dict[str, Any]) -> Sequence[Any]:
        if "exact" not in row:
            return name, row["family"], row["arch"], _said(row), "-"
        said = "exact" if not row["largest"] else f"within {row['largest']:.1g}"
        verdict = said if row["exact"] else f"WRONG by {row['largest']:.1g}, allowed {row['bound']}"
        return name, row["family"], row["arch"], verdict, row["poisoned"]

    head = ("case", "family", "arch", "outputs", "tensors filled with noise")
    return grid(head, [cells(*item) for item in rows.items()])


def _time_rows(rows: dict[str, Any], result: dict[str, Any]) -> list[str]:
    ceiling = binary_ceiling(result)
    peers = result["parts"].get("torch:layers", {}).get("rows", {})
    cells = []
    for name, row in rows.items():
        if "seconds" not in row or not row["seconds"]:
            cells.append((name, row.get("target", ""), _said(row), *["-"] * 4))
            continue
        rate = 2 * row["macs"] / row["seconds"]
        peer = peers.get(f"{row['layer']} batch {row['batch']}", {})
        cells.append(
            (
                name,
                row["target"],
                f"{row['seconds'] * 1e6:.1f}",
                f"{rate / 1e12:.1f}",
                f"{100 * rate / ceiling[1]:.0f} %" if ceiling else "-",
                *(_microseconds(peer.get(key)) for key in ("fp16_conv", "int8_product")),
            )
        )
    head = ("layer", "target", "µs", "TOPS", "of ceiling", "fp16 µs", "int8 product µs")
    note = [f"The ceiling is that of {ceiling[0]}, measured above.", ""] if ceiling else []
    return note + grid(head, cells)


#: An fp16 trunk is not compared: see docs/cuda.md.
_FITS = {True: "right", None: "not compared"}


def _fp16_body(batch: int | None, result: dict[str, Any]) -> str:
    """Return what PyTorch takes for the same body in fp16: the faster of eager and compiled."""
    found = []
    for how in ("network", "compiled"):
        rows = result["parts"].get(f"torch:{how}", {}).get("rows", {})
        seconds = rows.get(f"fp16 batch {batch}", {}).get("body", {}).get("seconds")
        found += [(seconds, {"network": "eager"}.get(how, how))] if seconds else []
    return f"{min(found)[0] * 1e6:,.0f} {min(found)[1]}" if found else "-"


def _network_rows(rows: dict[str, Any], result: dict[str, Any]) -> list[str]:
    def cells(name: str, row: dict[str, Any]) -> Sequence[Any]:
        if "fits" not in row:
            return name, row["target"], _said(row), *["-"] * 6
        return (
            *(name, row["target"]),
            _FITS.get(row["fits"]) or f"WRONG by {row['largest']:.1g}",
            *(f"{row[key] * 1e6:,.0f}" if row.get(key) else "-" for key in _NETWORK_TIMES),
            _fp16_body(row.get("batch"), result),
            f"{row['images_per_second']:,.0f}" if row["images_per_second"] else "-",
        )

    times = "call µs", "kernels µs", "binary µs", "body µs"
    head = ("network", "target", "outputs", *times, "body in fp16 µs", "images/s")
    return grid(head, [cells(*item) for item in rows.items()])


def _tune_rows(rows: dict[str, Any], _result: dict[str, Any]) -> list[str]:
    def cells(name: str, row: dict[str, Any]) -> Sequence[Any]:
        failed = [trial for trial in row.get("trials", []) if trial["failure"]]
        count = f"{len(row.get('trials', []))}, {len(failed)} failed"
        record = row.get("record")
        if record is None:
            return name, count, _said(row), *["-"] * 4
        outputs = "right" if row["exact"] else "WRONG"
        tile = record["decisions"].get("tile", {})
        tile = ", ".join(f"{k} {v}" for k, v in tile.items()) if isinstance(tile, dict) else tile
        gain = record["rule_us"] / record["us"]
        made = f"{record['decisions'].get('family', '')} {tile}"
        return name, count, outputs, record["rule_us"], record["us"], f"{gain:.3f}", made

    head = ("kernel", "candidates", "outputs", "rule µs", "best µs", "gain", "best")
    return grid(head, [cells(*item) for item in rows.items()])


_NETWORK_TIMES = ("call_seconds", "kernel_seconds", "binary_seconds", "body_seconds")


def _torch_rows(rows: dict[str, Any], _result: dict[str, Any]) -> list[str]:
    keys = [key for row in rows.values() for key in row if isinstance(row[key], dict)]
    keys = list(dict.fromkeys(keys))
    return grid(
        ("PyTorch", *(f"{key} µs" for key in keys)),
        [(name, *(_microseconds(row.get(key)) for key in keys)) for name, row in rows.items()],
    )


def _microseconds(found: dict[str, Any] | None) -> str:
    if not found:
        return "-"
    return f"{found['seconds'] * 1e6:,.1f}" if "seconds" in found else str(found["error"])


_SECTIONS = (
    ("What the chip can do", "ceilings", _ceiling_rows),
    ("Exactness", "exact", _exact_rows),
    ("Kernels on the shapes of ResNet-18", "times", _time_rows),
    ("Whole networks", "network", _network_rows),
    ("Tiles", "tune", _tune_rows),
    ("PyTorch, in CUDA graphs", "torch", _torch_rows),
)
