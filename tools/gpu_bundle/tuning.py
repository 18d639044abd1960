# SPDX-License-Identifier: Apache-2.0
"""Candidates of the key shapes, built before: what a search of `xnortvm tune` would try there.

A machine with a GPU and no compiler cannot search. It times what was built here (`parts/tune.py`),
and `records.py` makes tuning records of its result.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm import models
from xnortvm.api import lower
from xnortvm.errors import CompileError
from xnortvm.schedules.cuda.decisions import GpuDecisions
from xnortvm.schedules.decisions import AnyDecisions
from xnortvm.target import Target, resolve
from xnortvm.tools.gpu_bundle.cases import dense
from xnortvm.tuning import timing
from xnortvm.tuning.pool import Pool
from xnortvm.tuning.records import Machine, Record
from xnortvm.tuning.space import Space, space_of, task_to_bytes, tasks_for
from xnortvm.tuning.task import Task

_log = logging.getLogger("xnortvm.tools.gpu_bundle")

#: Batches of ResNet-18, the ones with the most to gain first.
BATCHES = (256, 64, 1)
#: Rows, inputs and outputs of the dense layer.
_DENSE = 4096
#: Tiles of a family, spread over all that are legal; a GPU is lent by the minute.
_MOST = {"wgmma_gemm": 9, "wgmma_conv": 6, "mma_and": 5, "mma_xor": 12, "tile": 2}
_FOLDER = "models/tune"
_TIMEOUT = 300.0


def key_tasks(batches: Sequence[int], target: Target) -> Iterator[Task]:
    """Yield the packed kernels of the dense layer and of ResNet-18."""
    network = models.build("resnet18", sign_zero="+1").eval()
    image = models.random_input(network, batch=1, seed=3)
    images = (image.repeat(batch, 1, 1, 1) for batch in BATCHES if batch in batches)
    sources = [dense(_DENSE, _DENSE, _DENSE), *((network, (each,)) for each in images)]
    for module, inputs in sources:
        graph = lower(module, example_inputs=inputs, sign_zero="+1")
        yield from (task for task in tasks_for(graph, target) if task.key.op.startswith("b"))


def chosen(space: Space) -> list[AnyDecisions]:
    """Return the candidates of a space that travel, the rule's first."""
    families: dict[str, list[AnyDecisions]] = {}
    for each in space.legal:
        name = each.family if isinstance(each, GpuDecisions) else ""
        families.setdefault(name, []).append(each)
    found = [space.rule]
    for name, tiles in families.items():
        step = max(len(tiles) / _MOST.get(name, 4), 1.0)
        found += [tiles[int(i * step)] for i in range(int(len(tiles) / step))]
    return list(dict.fromkeys(found))


def build(tasks: Iterable[Task], target: Target, arch: str) -> tuple[dict[str, bytes], list[Any]]:
    """Build the candidates of tasks.

    Returns
    -------
    files : dict of str to bytes
        By name in the bundle.
    rows : list of dict
        Of its manifest.
    """
    files: dict[str, bytes] = {}
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="xnortvm-gpu-bundle-") as folder,
        Pool(len(os.sched_getaffinity(0))) as pool,
    ):
        for number, task in enumerate(tasks):
            space = space_of(task, target)
            if space is None:
                continue
            _log.info("building candidates of %s", task.key)
            place = Path(folder) / f"{number}"
            decisions = _built(task, target, chosen(space), place, pool)
            name = f"{_FOLDER}/{arch}/{number}"
            for path in sorted(place.rglob("*")):
                if path.is_file():
                    files[f"{name}/{path.relative_to(place)}"] = path.read_bytes()
            rows.append(
                {
                    "name": f"{arch}/{task.key} {task.key.epilogue}",
                    "kind": "tune",
                    "family": "tune",
                    "target": target.name,
                    "arch": arch,
                    "file": name,
                    "example": "",
                    "expected": _expected(task, Path(folder) / f"{number}-here"),
                    "candidates": [each.to_json() for each in decisions],
                    "record": _record(task, target, space),
                }
            )
    return files, rows


def _built(
    task: Task, target: Target, candidates: Sequence[AnyDecisions], place: Path, pool: Pool
) -> list[AnyDecisions]:
    """Build candidates in the folders ``c0``, ``c1``, … of a place; return those that could be."""
    source = _source(task, place)
    messages: list[dict[str, Any]] = [
        {
            "command": "build",
            "task": str(source),
            "target": target.name,
            "threads": 1,
            "decisions": each.to_json(),
            "folder": str(place / f"try{number}"),
        }
        for number, each in enumerate(candidates)
    ]
    built: list[AnyDecisions] = []
    for each, message, answer in zip(
        candidates, messages, pool.build(messages, _TIMEOUT), strict=True
    ):
        if "failure" in answer:
            if not built:
                raise CompileError(f"{task.key} cannot be built: {answer['failure']}")
            _log.warning("%s, %s is left out: %s", task.key, each, answer["failure"])
            continue
        Path(message["folder"]).rename(place / f"c{len(built)}")
        built.append(each)
    source.unlink()
    return built


def _source(task: Task, place: Path) -> Path:
    place.mkdir()
    path = place / "task.json"
    path.write_bytes(task_to_bytes(task))
    return path


def _expected(task: Task, place: Path) -> str:
    """Return the digest of the outputs by this CPU where they are integers, else ""."""
    from xnortvm.tuning import worker

    here = resolve("llvm")
    space = space_of(task, here)
    if space is None:
        return ""
    folder = place / "c0"
    message = {"target": here.name, "threads": 1, "decisions": space.rule.to_json()}
    worker.build({**message, "task": str(_source(task, place)), "folder": str(folder)})
    loaded = timing.Loaded(folder, timing.Here(), 1)
    outputs = [output.numpy() for output in loaded.outputs]
    whole = all(np.array_equal(each, np.rint(each)) for each in outputs)
    return loaded.digest() if whole else ""


def _record(task: Task, target: Target, space: Space) -> dict[str, Any]:
    """Return the record of a task without what is measured, as plain data."""
    made = Record("best", task.key, Machine.of(target), space.rule, us=1.0, rule_us=1.0)
    data: dict[str, Any] = json.loads(made.to_line())
    return data
