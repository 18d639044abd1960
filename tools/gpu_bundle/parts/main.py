# SPDX-License-Identifier: Apache-2.0
"""Run every part in a process of its own, put together what they found, print a table.

bash run.sh [--out FOLDER] [--only PART …] [--list]
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xnortvm._cuda_archs import runs_on

from . import chip, table

BUNDLE = Path(__file__).resolve().parent.parent
MANIFEST = "manifest.json"
_NO_GPU, _BAD_BUNDLE = 2, 3


class Part(NamedTuple):
    """One process.

    Attributes
    ----------
    module : str
        Of `parts`.
    argument : str
        What it does of what it can do.
    seconds : int
        After which it is ended.
    """

    module: str
    argument: str = ""
    seconds: int = 120


def parts_of(manifest: dict[str, Any]) -> dict[str, Part]:
    """Return the parts by name, in order."""
    families = dict.fromkeys(row["family"] for row in manifest["models"] if row["kind"] == "exact")
    return {
        **{f"ceilings:{g}": Part("ceilings", g) for g in ("cores", "mma", "wgmma", "memory")},
        **{f"exact:{family}": Part("exact", family, 180) for family in families},
        "times": Part("times", "", 300),
        "network": Part("network", "", 300),
        "tune": Part("tune", "", 360),
        "torch:layers": Part("peers", "layers", 240),
        "torch:network": Part("peers", "network", 240),
        "torch:compiled": Part("peers", "compiled", 420),
    }


def damaged(manifest: dict[str, Any]) -> list[str]:
    """Return the files that are missing or are not what the manifest says."""
    wrong = []
    for name, expected in manifest["sha256"].items():
        path = BUNDLE / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            wrong.append(name)
    return wrong


def run_part(part: Part, arches: Sequence[str], earlier: Path) -> dict[str, Any]:
    """Run a part and return what it wrote, or how it ended."""
    with tempfile.TemporaryDirectory(prefix="gpu-bundle-") as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", f"parts.{part.module}", str(BUNDLE), str(result)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(BUNDLE), str(BUNDLE / "site")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TVM_USE_RUNTIME_LIB": "1",
            "GPU_BUNDLE_ARCHES": ",".join(arches),
            "GPU_BUNDLE_EARLIER": str(earlier),
        }
        start = time.monotonic()
        try:
            done = subprocess.run(
                [*command, part.argument],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=part.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"status": "failed", "why": f"it took longer than {part.seconds} s"}
        data = read_result(result, done.returncode, done.stderr)
        return {**data, "seconds_of_process": round(time.monotonic() - start, 2)}


def read_result(result: Path, status: int, said: str) -> dict[str, Any]:
    """Return what a part wrote; where it wrote nothing, how its process ended."""
    try:
        data = json.loads(result.read_text())
    except (OSError, ValueError):
        data = None
    if isinstance(data, dict):
        return data
    last = ([line for line in said.splitlines() if line.strip()] or ["it said nothing"])[-1]
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return {"status": "failed", "why": f"its process was ended by {name}; {last}"}
    return {"status": "failed", "why": f"its process ended with status {status}; {last}"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-result"), help="folder of results")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="some parts only")
    parser.add_argument("--list", action="store_true", help="print the parts and end")
    args = parser.parse_args(argv)
    manifest = json.loads((BUNDLE / MANIFEST).read_text())
    parts = parts_of(manifest)
    if args.list:
        print("\n".join(parts))
        return 0
    unknown = [name for name in args.only if name not in parts]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; --list prints them")
    wrong = damaged(manifest)
    if wrong:
        print(f"the bundle is damaged: {wrong[0]} is not what was packed; copy it again")
        return _BAD_BUNDLE
    device = run_part(Part("chip"), (), Path())
    arches = ["cpu"]
    if device["status"] == "done":
        capability = (device["chip"]["major"], device["chip"]["minor"])
        arches += [a for a in manifest["arches"] if runs_on(a, capability)]
    elif manifest["arches"] != ["cpu"]:
        print(f"the GPU cannot be used: {device['why'].removeprefix('CudaError: ')}")
        return _NO_GPU
    result: dict[str, Any] = {
        "format": 1,
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "bundle": {key: manifest[key] for key in ("date", "versions", "arches", "left_out")},
        "host": chip.host(),
        "nvidia_smi": chip.smi(),
        "chip": device.get("chip"),
        "parts": {},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "result.json"
    for name in args.only or parts:
        print(f"{name} …", end=" ", flush=True)
        found = run_part(parts[name], arches, file.resolve())
        result["parts"][name] = found
        print(found["status"] + (f": {found['why']}" if "why" in found else ""), flush=True)
        # After each part, so that what was found survives whatever comes.
        file.write_text(json.dumps(result, indent=1))
    result["nvidia_smi_after"] = chip.smi()
    file.write_text(json.dumps(result, indent=1))
    text = table.render(result)
    (args.out / "result.md").write_text(text)
    print(f"\n{text}\nwritten: {file}, {args.out / 'result.md'}")
    return int(not table.good(result))


if __name__ == "__main__":
    sys.exit(main())
