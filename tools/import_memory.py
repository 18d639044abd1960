# SPDX-License-Identifier: Apache-2.0
"""``python -m xnortvm.tools.import_memory``: seconds and memory that an import takes.

Memory is the peak of the process above what it held before, the model itself included in the
latter; Linux only. Run it once per model: a process's peak says nothing about a second import.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xnortvm.tools import model_arg

_MIB = 1 << 20


def measure(model: Any, example_inputs: Any) -> dict[str, float]:
    """Import a model and say what that took.

    Parameters
    ----------
    model, example_inputs
        As in `xnortvm.compile`.

    Returns
    -------
    dict of str to float
        ``seconds``; ``peak_mib`` above what the process held before.
    """
    from xnortvm.frontend import import_model

    _warm(isinstance(model, Path) and model.suffix == ".onnx")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    start = time.perf_counter()
    import_model(model, example_inputs)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": (_status("VmHWM") - before) / 1024}


def _warm(is_onnx: bool) -> None:
    """Import a small model: loading the packages that do it is not what is measured."""
    from xnortvm.frontend import import_model

    if is_onnx:
        from onnx import TensorProto, helper

        x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 4)) for n in "xy")
        nodes = [
            helper.make_node("Constant", [], ["c"], value_floats=[2.0]),
            helper.make_node("Neg", ["c"], ["n"]),
            helper.make_node("Mul", ["x", "n"], ["y"]),
        ]
        graph = helper.make_graph(nodes, "small", [x], [y])
        opset = helper.make_opsetid("", 17)
        import_model(helper.make_model(graph, opset_imports=[opset], ir_version=8))
    else:
        import torch

        model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
        import_model(model, torch.zeros(1, 1, 2, 2))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Print what the import of MODEL takes, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    model_arg.add_arguments(parser)
    source = model_arg.find_source(parser.parse_args(argv))
    found = measure(source.model, source.example_inputs)
    if isinstance(source.model, Path):
        size = source.model.stat().st_size
        size += sum(p.stat().st_size for p in source.model.parent.glob(f"{source.model.name}.*"))
    else:
        tensors = [*source.model.parameters(), *source.model.buffers()]
        size = sum(t.numel() * t.element_size() for t in tensors)
    found["model_mib"] = size / _MIB
    found["times_the_model"] = found["peak_mib"] / found["model_mib"]
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
