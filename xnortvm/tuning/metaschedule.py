# SPDX-License-Identifier: Apache-2.0
"""Our long-lived workers as builder and runner of TVM's own MetaSchedule.

    from tvm.s_tir import meta_schedule
    from xnortvm.tuning.metaschedule import Workers

    with Workers(target) as workers:
        meta_schedule.tune_tir(
            mod, target, work_dir, max_trials_global=64,
            builder=workers.builder, runner=workers.runner,
        )

MetaSchedule's own builder starts fresh processes for each batch, each of which imports tensor
intrinsics for longer than its time-out on a slow machine; these start once and never import them.
Candidates that crash or hang cost themselves, and times are measured as `xnortvm tune` does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm.s_tir import meta_schedule

from xnortvm._tvm import derived_object, ir
from xnortvm.runtime.link import find_linker
from xnortvm.target import resolve
from xnortvm.tuning.pool import Pool
from xnortvm.tuning.runner import LocalRunner

#: The file in a candidate's own folder; MetaSchedule deletes the folder when it is done with it.
_LIBRARY = "kernel.so"


class Workers:
    """Processes that build, and one that measures; a context manager that ends them.

    Parameters
    ----------
    target : str, dict, tvm.target.Target or xnortvm.target.Target
        One that this machine can run.
    num_threads : int, optional
        Threads of the kernels; a single one is pinned.
    builders : int
        Processes that compile.
    timeout : float
        Seconds for one candidate.

    Attributes
    ----------
    builder : meta_schedule.Builder
    runner : meta_schedule.Runner

    Raises
    ------
    TargetError
        When this machine cannot run code for the target.
    MissingDependencyError
        Without a C compiler.
    """

    def __init__(
        self, target: Any, num_threads: int | None = None, builders: int = 2, timeout: float = 30.0
    ) -> None:
        self.target = resolve(target, num_threads=num_threads)
        self._local = LocalRunner(self.target.num_threads, timeout)
        self._local.check(self.target)
        find_linker()
        self._pool = Pool(builders)
        self._timeout = timeout
        self.builder, self.runner = _Builder(self), _Runner(self)

    def build(self, mods: Sequence[Any]) -> list[dict[str, Any]]:
        """Return for each module where it is built, or its failure."""
        messages: list[dict[str, Any]] = []
        for mod in mods:
            folder = Path(tempfile.mkdtemp(prefix="xnortvm-candidate-"))
            (folder / "module.json").write_text(str(ir.save_json(mod)))
            messages.append(
                {
                    "command": "build_module",
                    "target": self.target.name,
                    "threads": self.target.num_threads,
                    "folder": str(folder),
                }
            )
        answers = self._pool.build(messages, self._timeout)
        return [
            {"path": str(Path(message["folder"]) / _LIBRARY)} | answer
            for message, answer in zip(messages, answers, strict=True)
        ]

    def measure(self, path: str) -> dict[str, Any]:
        """Return the seconds of one call of what was built, or its failure."""
        found = self._local.time(Path(path).parent)
        if found.us is None:
            return {"failure": found.failure}
        return {"seconds": found.us * 1e-6}

    def close(self) -> None:
        """End the processes."""
        self._pool.close()
        self._local.close()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@derived_object
class _Builder(meta_schedule.builder.PyBuilder):  # type: ignore[misc]
    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    def build(self, build_inputs: list[Any]) -> list[Any]:
        """Compile candidates in parallel."""
        found = self.workers.build([each.mod for each in build_inputs])
        return [
            meta_schedule.builder.BuilderResult(
                None if "failure" in each else each["path"], each.get("failure")
            )
            for each in found
        ]


@derived_object
class _Runner(meta_schedule.runner.PyRunner):  # type: ignore[misc]
    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    def run(self, runner_inputs: list[Any]) -> list[Any]:
        """Time candidates one after the other."""
        return [_finished(self.workers.measure(each.artifact_path)) for each in runner_inputs]


def _finished(found: dict[str, Any]) -> Any:
    seconds = [found["seconds"]] if "seconds" in found else None
    result = meta_schedule.runner.RunnerResult(seconds, found.get("failure"))
    return meta_schedule.runner.RunnerFuture(f_done=lambda: True, f_result=lambda: result)
