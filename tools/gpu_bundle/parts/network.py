# SPDX-License-Identifier: Apache-2.0
"""Whole networks that xnortvm compiled: right, and how long they take, kernel by kernel.

python3 -m parts.network BUNDLE RESULT.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from xnortvm.runtime.clock import clock_for

from .models import Entry, each, entries, example, prepare
from .result import write


def measure(entry: Entry) -> dict[str, Any]:
    """Run a network on one image as often as its batch has room, compare, and time it."""
    import numpy as np

    import xnortvm
    from xnortvm.runtime.selftest import compare

    model = xnortvm.load(entry.file)
    images, expected = example(entry)
    batch = entry.row["batch"]
    inputs = [np.repeat(image, batch, 0) for image in images]
    want = [np.repeat(output, batch, 0) for output in expected]
    names = [spec.name for spec in model.outputs]
    differences = compare(names, model(*inputs), want, entry.row["bound"])
    whole = model.benchmark(inputs, repeats=20)
    clock = clock_for(entry.row["arch"])
    kernels = []
    calls = model.live_calls(inputs)
    for symbol, function, tensors in calls:
        seconds, how = clock.time(lambda f=function, t=tensors: f(*t))  # type: ignore[misc]
        about = entry.row["kernels"].get(symbol, {})
        kernels.append({"kernel": symbol, "seconds": seconds, "how": how, **about})
    # Replayed launches are not seen one by one; then the whole call counts.
    total = sum(row["seconds"] for row in kernels)
    slowest = total or whole.median_ms / 1e3
    binary = sum(row["seconds"] for row in kernels if row.get("binary"))
    body = body_of(calls, [bool(row.get("binary")) for row in kernels])
    together = clock.time(lambda: [f(*t) for _, f, t in body]) if body else None
    return {
        "batch": batch,
        "fits": all(d.fits for d in differences) if isfinite(entry.row["bound"]) else None,
        "largest": max(d.largest for d in differences),
        "bound": entry.row["bound"],
        "call_seconds": whole.median_ms / 1e3,
        "kernel_seconds": total,
        "binary_seconds": binary,
        "body_seconds": together.seconds if together else 0.0,
        "body_how": together.how if together else "",
        "images_per_second": batch / slowest,
        "kernels": kernels,
    }


def body_of(calls: Sequence[Any], binary: Sequence[bool]) -> Sequence[Any]:
    """Return the calls from the first binary layer to the last: no stem, no classifier."""
    places = [place for place, is_binary in enumerate(binary) if is_binary]
    return calls[places[0] : places[-1] + 1] if places else []


def main() -> int:
    """Run as a command."""
    bundle = Path(sys.argv[1])

    def work() -> dict[str, Any]:
        found = entries(bundle, "network")
        prepare(bundle)
        return {"rows": dict(each(found, measure))}

    return write(Path(sys.argv[2]), work)


if __name__ == "__main__":
    sys.exit(main())
