# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.fuzz.run 300``: compare random binary networks with PyTorch.

Several processes draw networks, each from a seed of its own. Failures are shrunk and saved; run
one again with ``python -m tests.fuzz.run SPEC.json``, and keep it in ``tests/fuzz/regressions``.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("build/fuzz")


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign or replay specs; 0 when everything came out right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="*", default=["1000"], help="a number of networks, or saved specs"
    )
    parser.add_argument("--seed", type=int, help="draw the same networks again")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="gets failing specs")
    parser.add_argument(
        "--keep-going", action="store_true", help="look for other failures after the first"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.what[0].isdigit():
        return _replay([Path(each) for each in options.what])
    count = int(options.what[0])
    seed = secrets.randbelow(1 << 24) if options.seed is None else options.seed
    if options.worker:
        return _work(count, seed, options.folder, options.keep_going)
    return _spread(count, seed, options)


def _spread(count: int, seed: int, options: argparse.Namespace) -> int:
    """Start the workers, wait, and say what they saw."""
    start = time.monotonic()
    print(f"{count} networks with --seed {seed}", flush=True)
    share = -(-count // options.workers)
    folders = [options.folder / f"worker{i}" for i in range(options.workers)]
    workers = []
    for i, folder in enumerate(folders):
        (folder / "tally.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.fuzz.run", str(share), "--worker"]
        command += ["--seed", str(seed + 1_000_000 * i), "--folder", str(folder)]
        command += ["--keep-going"] if options.keep_going else []
        workers.append(subprocess.Popen(command))
    codes = [worker.wait() for worker in workers]
    distinct: set[str] = set()
    counts: Counter[str] = Counter()
    failures = []
    for folder, code in zip(folders, codes, strict=True):
        if not (folder / "tally.json").exists():
            failures.append(f"a process ended with {code} at {folder / 'current.json'}")
            continue
        tally = json.loads((folder / "tally.json").read_text())
        distinct |= set(tally["distinct"])
        counts.update(tally["counts"])
        failures += tally["failures"]
    minutes = (time.monotonic() - start) / 60
    print(f"{len(distinct)} different networks came out right in {minutes:.1f} minutes")
    for name, number in sorted(counts.items()):
        print(f"  {number:6d}  {name}")
    for failure in failures:
        print(f"FAILED {failure}")
    if failures:
        return 1
    if len(distinct) < count - count // 100:
        print(f"only {len(distinct)} of {count} networks were different")
        return 1
    return 0


def _work(count: int, seed: int, folder: Path, keep_going: bool) -> int:
    import torch

    from tests.fuzz.campaign import run

    torch.set_num_threads(1)
    tally = run(count, seed, folder, _teller(folder.name), keep_going)
    data = {
        "distinct": sorted(tally.distinct),
        "counts": tally.counts,
        "failures": list(tally.failures.values()),
    }
    (folder / "tally.json").write_text(json.dumps(data))
    return 1 if tally.failures else 0


def _teller(name: str) -> Callable[[str], None]:
    return lambda line: print(f"{name}: {line}", flush=True)


def _replay(paths: list[Path]) -> int:
    from tests.fuzz.compare import Skipped, check
    from tests.fuzz.spec import Spec

    bad = 0
    for path in paths:
        try:
            outcome = check(Spec.load(path))
        except Exception as error:
            bad += 1
            print(f"{path}: {type(error).__name__}: {error}")
            continue
        said = outcome.reason if isinstance(outcome, Skipped) else f"right, {outcome.binary} binary"
        print(f"{path}: {said}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
