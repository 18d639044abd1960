# SPDX-License-Identifier: Apache-2.0
"""Tables of the documentation: from the JSON of commands to the lines of a Markdown table."""

from __future__ import annotations

from typing import Any


def engines(found: list[Any]) -> list[str]:
    """Ours with every stem, then the peers as they ran beside the first."""
    first, *_ = found
    rows = {_ours(data): data["engines"]["xnortvm"] for data in reversed(found)}
    rows |= {name: each for name, each in first["engines"].items() if name != "xnortvm"}
    exact = first["engines"]["xnortvm"]["median_ms"]
    lines = ["| engine, one thread | median ms | fastest ms | time |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {each['median_ms']:.2f} | {each['min_ms']:.2f} "
        f"| {each['median_ms'] / exact:.2f}× |"
        for name, each in rows.items()
    ]
    return lines


def _ours(data: Any) -> str:
    return "xnortvm" if data["stem"] == "exact" else f'xnortvm, stem="{data["stem"]}"'


def layers(found: list[Any]) -> list[str]:
    """One row per kernel; binary and float speeds share a column and say their unit."""
    (rows,) = found
    lines = ["| layer | µs | speed | GB/s | share | bound by |", "|---|--:|--:|--:|--:|---|"]
    for row in rows:
        speed = ""
        for unit in ("TBMAC/s", "GMAC/s"):
            if row[unit] is not None:
                speed = f"{row[unit]:.3g} {unit}"
        lines.append(
            f"| {row['layer']} | {row['microseconds']:.1f} | {speed} | {row['GB/s']:.1f} "
            f"| {100 * row['share']:.0f} % | {row['bound']} |"
        )
    return lines


def limits(found: list[Any]) -> list[str]:
    """One row per instruction set, one column per step, in 10^12 multiply-accumulates a second."""
    (machine,) = found
    steps = list(dict.fromkeys(step for each in machine["macs"].values() for step in each))
    lines = ["| TMAC/s | " + " | ".join(steps) + " |", "|---|" + "--:|" * len(steps)]
    for isa, rates in machine["macs"].items():
        cells = (f"{rates[step] * 1e-12:.3f}" if step in rates else "" for step in steps)
        lines.append(f"| {isa} | " + " | ".join(cells) + " |")
    rest = [
        f"{name} dot products {rate * 1e-12:.3f} TMAC/s" for name, rate in machine["dots"].items()
    ]
    rest += [f"{level} {rate * 1e-9:.0f} GB/s" for level, rate in machine["read"].items()]
    return [*lines, "", f"At {machine['hertz'] * 1e-9:.2f} GHz; {', '.join(rest)}."]


def networks(found: list[Any]) -> list[str]:
    """One row per configuration, one column per engine: milliseconds, and times ours."""
    engines = list(dict.fromkeys(name for data in found for name in data["engines"]))
    lines = ["| median ms | " + " | ".join(engines) + " |", "|---|" + "--:|" * len(engines)]
    for data in found:
        cells = []
        for name in engines:
            each = data["engines"].get(name)
            ratio = "" if name == "xnortvm" or not each else f" ({each['times_slower']:.2f}×)"
            cells.append(f"{each['median_ms']:.2f}{ratio}" if each else "–")
        threads = "1 thread" if data["num_threads"] == 1 else f"{data['num_threads']} threads"
        stem = "" if data["stem"] == "exact" else f", {data['stem']} stem"
        lines.append(
            f"| batch {data['batch']}, {data['isa']}, {threads}{stem} | " + " | ".join(cells) + " |"
        )
    return lines


def arm_layers(found: list[Any]) -> list[str]:
    """One row per binary layer, one column per core: modelled cycles for 128 MACs."""
    return _by_core(found, "cycles for 128 binary MACs", "binary", "bound", "cycles_per_step")


def arm_float(found: list[Any]) -> list[str]:
    """One row per float layer, one column per core: modelled cycles for a MAC."""
    return _by_core(found, "cycles for a float MAC", "float", "float_bound", "cycles_per_mac")


def _by_core(found: list[Any], title: str, kind: str, bound: str, figure: str) -> list[str]:
    (cores,) = (data["cores"] for data in found)
    digits = {"bound": 1, "float_bound": 3}[bound]
    least = " | ".join(f"{core[bound]:.{digits}f}" for core in cores.values())
    lines = [
        f"| {title} | " + " | ".join(cores) + " |",
        "|---|" + "--:|" * len(cores),
        f"| at least | {least} |",
    ]
    for rows in zip(*(core["rows"] for core in cores.values()), strict=True):
        if rows[0]["kind"] == kind:
            cells = " | ".join(f"{row[figure]:.{max(digits, 2)}f}" for row in rows)
            lines.append(f"| {rows[0]['layer'].removeprefix('float ')} | {cells} |")
    return lines


def arm_networks(found: list[Any]) -> list[str]:
    """One row per network and core: the sum over all kernels and the share of each kind."""
    figures = "instructions | cycles | binary | float | other | spills | ms | waiting"
    lines = [f"| network | core | {figures} |", "|---|---|" + "--:|" * 8]
    for data in found:
        for name, core in data["cores"].items():
            total = core["total"]
            shares = " | ".join(f"{100 * share:.1f} %" for share in core["shares"].values())
            millions = " | ".join(f"{total[key] / 1e6:.1f} M" for key in ("instructions", "cycles"))
            times = f"{core['ms']:.1f} | {core['ms_stalled']:.1f}"
            lines.append(
                f"| {data['model']} | {name} | {millions} | {shares} | {total['spills']} "
                f"| {times} |"
            )
    return lines


def arm_kernels(found: list[Any]) -> list[str]:
    """One row per kernel of a network on one core."""
    (core,) = (core for data in found for core in data["cores"].values())
    lines = [
        "| kernel | share | cycles | instructions | per MACs | L1 misses | L2 misses | spills |",
        "|---|" + "--:|" * 7,
    ]
    for row in core["rows"]:
        speed = row["cycles_per_step"] or row["cycles_per_mac"]
        lines.append(
            f"| {row['layer']} | {100 * row['share']:.1f} % | {row['cycles']:,} "
            f"| {row['instructions']:,} | {'' if speed is None else f'{speed:.2f}'} "
            f"| {row['l1_misses']:,} | {row['l2_misses']:,} | {row['spills']} |"
        )
    return lines


def arm_tuned(found: list[Any]) -> list[str]:
    """One row per core: its modelled records, each kernel once."""
    heads = "kernels | another tile wins | sum by the rules, ms | tuned | gain | largest gain"
    lines = [
        f"| core | {heads} |",
        "|---|" + "--:|" * 6,
    ]
    for rows in found:
        (core,) = {row["cpu"] for row in rows}
        winners = [row["gain"] for row in rows if row["decisions"] != "rule"]
        before, after = (sum(row[key] for row in rows) / 1e3 for key in ("rule us", "best us"))
        lines.append(
            f"| {core} | {len(rows)} | {len(winners)} | {before:.2f} | {after:.2f} "
            f"| {before / after:.3f} | {max(winners, default=1.0):.3f} |"
        )
    return lines
