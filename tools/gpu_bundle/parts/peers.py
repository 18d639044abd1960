# SPDX-License-Identifier: Apache-2.0
"""What PyTorch does with the same layers and the same network in fp16 and int8, where it is there.

python3 -m parts.peers BUNDLE RESULT.json layers|network|compiled
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .result import SkipPart, write

_RUNS, _INNER = 9, 10


def layers(bundle: Path, torch: Any) -> dict[str, Any]:
    """Time each convolution in fp16, channels last, and the int8 product of its size."""
    rows: dict[str, Any] = {}
    manifest = json.loads((bundle / "manifest.json").read_text())
    for shape in manifest["layers"]:
        for batch in manifest["batches"]:
            rows[f"{shape['name']} batch {batch}"] = {
                "layer": shape["name"],
                "batch": batch,
                "fp16_conv": _tried(lambda s=shape, b=batch: _fp16(torch, s, b)),  # type: ignore[misc]
                "int8_product": _tried(lambda s=shape, b=batch: _int8(torch, s, b)),  # type: ignore[misc]
            }
    return {"rows": rows}


def _fp16(torch: Any, shape: dict[str, Any], batch: int) -> float:
    form = {"device": "cuda", "dtype": torch.float16}
    conv = torch.nn.Conv2d(
        *(shape["channels"], shape["outputs"], shape["kernel"], shape["stride"]),
        padding=shape["kernel"] // 2,
        bias=False,
        **form,
    ).to(memory_format=torch.channels_last)
    x = torch.randn(batch, shape["channels"], shape["size"], shape["size"], **form)
    x = x.to(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    return _graphed(torch, lambda: conv(x))


def _int8(torch: Any, shape: dict[str, Any], batch: int) -> float:
    """Time the matrix product alone; reading windows and rescaling would come on top."""
    rows = batch * (shape["size"] // shape["stride"]) ** 2
    inner = shape["channels"] * shape["kernel"] ** 2
    a = torch.randint(-128, 128, (rows, inner), dtype=torch.int8, device="cuda")
    b = torch.randint(-128, 128, (shape["outputs"], inner), dtype=torch.int8, device="cuda").t()
    return _graphed(torch, lambda: torch._int_mm(a, b))


def network(bundle: Path, torch: Any, *, compiled: bool = False) -> dict[str, Any]:
    """Time the real-valued network in fp16, channels last, in CUDA graphs; whole, and its body."""
    from xnortvm.models import build, real_twin

    whole = real_twin(build("resnet18")).eval().to("cuda", torch.float16)
    whole = whole.to(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    body = whole.blocks
    rows: dict[str, Any] = {}
    for batch in json.loads((bundle / "manifest.json").read_text())["batches"]:
        image = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.float16)
        map_ = torch.randn(batch, 64, 56, 56, device="cuda", dtype=torch.float16)
        jobs = {"whole": (whole, image), "body": (body, map_)}
        row: dict[str, Any] = {"batch": batch}
        for name, (module, x) in jobs.items():
            x = x.to(memory_format=torch.channels_last)
            call = torch.compile(module) if compiled else module
            row[name] = _tried(lambda c=call, v=x: _graphed(torch, lambda: c(v)))  # type: ignore[misc]
        rows[f"fp16 batch {batch}"] = row
    return {"rows": rows}


def _graphed(torch: Any, call: Callable[[], Any]) -> float:
    """Return the median seconds of a call in a CUDA graph."""
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(_INNER):
                call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(_RUNS):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / _INNER)
    return statistics.median(times[2:])


def _tried(job: Callable[[], float]) -> dict[str, Any]:
    try:
        return {"seconds": job()}
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {said[0]}"}


def _torch() -> Any:
    """Return PyTorch with a GPU.

    Raises
    ------
    SkipPart
        When there is none.
    """
    try:
        import torch
    except ImportError as error:
        raise SkipPart(f"this Python has no PyTorch ({error})") from error
    if not torch.cuda.is_available():
        raise SkipPart(f"PyTorch {torch.__version__} finds no GPU here")
    return torch


def main() -> int:
    """Run as a command."""
    bundle, what = Path(sys.argv[1]), sys.argv[3]

    def work() -> dict[str, Any]:
        torch = _torch()
        jobs: dict[str, Callable[[], dict[str, Any]]] = {
            "layers": lambda: layers(bundle, torch),
            "network": lambda: network(bundle, torch),
            "compiled": lambda: network(bundle, torch, compiled=True),
        }
        return {"torch": torch.__version__, **jobs[what]()}

    return write(Path(sys.argv[2]), work)


if __name__ == "__main__":
    sys.exit(main())
