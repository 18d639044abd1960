# SPDX-License-Identifier: Apache-2.0
"""How long does each kernel take on the shapes of ResNet-18?

python3 -m parts.times BUNDLE RESULT.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from xnortvm.runtime.clock import clock_for

from .models import Entry, each, entries, prepare
from .result import write


def measure(entry: Entry) -> dict[str, Any]:
    """Time every kernel of a model by itself, on the tensors that it was called with."""
    import xnortvm

    model = xnortvm.load(entry.file)
    clock = clock_for(entry.row["arch"])
    kernels = []
    for symbol, function, tensors in model.live_calls():
        seconds, how = clock.time(lambda f=function, t=tensors: f(*t))  # type: ignore[misc]
        about = entry.row["kernels"].get(symbol, {})
        kernels.append({"kernel": symbol, "seconds": seconds, "how": how, **about})
    layers = [row["seconds"] for row in kernels if row.get("layers")]
    return {
        **{key: entry.row[key] for key in ("layer", "batch", "macs")},
        "seconds": sum(layers),
        "kernels": kernels,
    }


def main() -> int:
    """Run as a command."""
    bundle = Path(sys.argv[1])

    def work() -> dict[str, Any]:
        found = entries(bundle, "times")
        prepare(bundle)
        return {"rows": dict(each(found, measure))}

    return write(Path(sys.argv[2]), work)


if __name__ == "__main__":
    sys.exit(main())
