# SPDX-License-Identifier: Apache-2.0
"""`xnortvm.tune`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm.api import lower
from xnortvm.errors import ModelError, near
from xnortvm.runtime.tracker import Tracker
from xnortvm.target import resolve
from xnortvm.tuning.boards import BoardRunner
from xnortvm.tuning.find import file_for, shipped_folder, user_folder
from xnortvm.tuning.gpu import GpuRunner
from xnortvm.tuning.modelled import ModelledRunner
from xnortvm.tuning.network import NotTimedError, time_network
from xnortvm.tuning.propose import check_strategy
from xnortvm.tuning.records import Records
from xnortvm.tuning.runner import LocalRunner, Runner
from xnortvm.tuning.search import Options, Search
from xnortvm.tuning.space import tasks_for

if TYPE_CHECKING:
    from xnortvm._tvm import IRModule
    from xnortvm.target import Target
    from xnortvm.tuning.summary import Summary

_log = logging.getLogger("xnortvm.tuning")


def tune(
    model: Any,
    *,
    target: Any = "llvm",
    example_inputs: Any = None,
    num_threads: int | None = None,
    sign_zero: str | None = None,
    trials: int = 64,
    time_limit: float | None = None,
    records: Any = None,
    seed: int = 0,
    strategy: str = "xgboost",
    network: bool | None = None,
    rpc: str | None = None,
    key: str | None = None,
    timeout: float = 30.0,
    runner: str = "local",
    progress: Callable[[Search], None] = lambda _: None,
) -> Records:
    """Measure other schedules of a model's kernels and record the best.

    They are measured on this machine, its GPU for a CUDA target, or on boards of another kind that
    TVM's RPC tracker knows.

    `compile` uses the records by itself. The rule's own decisions are the first candidate and what
    is compared with in the end, so that a tuned kernel is never slower than an untuned one by more
    than the measurement can tell; its outputs are the same bits.

    Parameters
    ----------
    model, target, example_inputs, num_threads, sign_zero
        As in `compile`; the target has to be one that this machine, or the boards, can run.
    trials : int
        Candidates of each kernel.
    time_limit : float, optional
        Seconds for the search; what was measured until then counts.
    records : path, optional
        A ``.jsonl`` file, or a folder that gets one for each CPU or architecture; by default the
        user's own folder, where `compile` looks. What is recorded there is not measured again.
    seed : int
        The same seed and measurements give the same candidates.
    strategy : {"xgboost", "random"}
        How candidates are ranked.
    network : bool, optional
        Whether to compile the model by the rules and with the records in the end, and time both in
        turns; by default when this run measured something.
    rpc, key : str, optional
        The tracker, as ``"HOST:PORT"``, and what boards are registered there as; all that are free
        measure.
    timeout : float
        Seconds for building, and for measuring, one candidate.
    runner : {"local", "model"}
        Who measures: this machine, or, for aarch64 cores that one does not have, an emulator and
        LLVM's scheduling models. Such records say so, and hold for that core only.
    progress : callable
        Called with the running `Search` after each step.

    Returns
    -------
    Records
        All of the file; `Records.summary` says what this run did.

    Raises
    ------
    TargetError
        When this machine, or a board, cannot run code for the target.
    BoardError
        When there is no tracker, or no board of that key.
    ModelError
        When the model cannot be imported, or an argument makes no sense.
    OutputError
        When the file cannot be written.
    MissingDependencyError
        Without xgboost (`pip install "xnortvm[tune]"`), a linker for the target, or what a model
        needs (qemu, llvm-mca, a cross compiler).

    Examples
    --------
    >>> records = tune(model, example_inputs=(x,), time_limit=600)  # doctest: +SKIP
    >>> print(records.summary)  # doctest: +SKIP
    """
    check_strategy(strategy)
    if trials < 1:
        raise ModelError(f"trials={trials} leaves nothing to measure; give at least 1")
    resolved = resolve(target, num_threads=num_threads)
    options = Options(trials, time_limit, seed, strategy, timeout=timeout)
    measuring = _runner(runner, resolved, rpc, key, options)
    measuring.check(resolved)
    path = file_for(user_folder() if records is None else Path(records), resolved)
    store = Records(path)
    graph = lower(model, example_inputs=example_inputs, sign_zero=sign_zero)
    tasks = tasks_for(graph, resolved)
    _log.info("tuning %d kernels for %s; records in %s", len(tasks), resolved.name, path)
    known = Records(file_for(shipped_folder(), resolved))
    store.summary = Search(tasks, resolved, store, options, progress, measuring, known).run()
    if rpc is None:
        _add_network(store.summary, graph, resolved, store, network)
    else:
        store.summary.network_note = "it was measured on boards; xnortvm bench --rpc times it there"
    return store


def _runner(
    name: str, target: Target, rpc: str | None, key: str | None, options: Options
) -> Runner:
    """Return who measures."""
    if name not in RUNNERS:
        raise ModelError(
            f"{name!r} is no runner{near(name, RUNNERS)}; there are {', '.join(RUNNERS)}"
        )
    if rpc is None:
        if key is not None:
            raise ModelError(f"key={key!r} names boards; name their tracker as well, as rpc=")
        return RUNNERS[name](target, options)
    if name != "local":
        raise ModelError(
            f"the runner {name!r} needs no boards; leave out either it or rpc= (--rpc)"
        )
    if not key:
        raise ModelError("rpc= (--rpc) needs key= (--key), what the boards are registered as")
    return BoardRunner(Tracker.of(rpc, key), target.num_threads, options.timeout)


def _local(target: Target, options: Options) -> Runner:
    runners = {"llvm": LocalRunner, "cuda": GpuRunner}
    return runners[target.kind](target.num_threads, options.timeout)


def _model(target: Target, options: Options) -> Runner:
    return ModelledRunner(target, options.timeout)


#: Who can measure, beside boards.
RUNNERS: dict[str, Callable[[Target, Options], Runner]] = {"local": _local, "model": _model}


def _add_network(
    summary: Summary, graph: IRModule, target: Target, records: Records, wanted: bool | None
) -> None:
    """Time the whole network, or say why that was not done."""
    try:
        if wanted is False:
            raise NotTimedError("that was not wanted")
        if not target.is_host:
            raise NotTimedError(f"this machine cannot run code for {target.name}")
        if target.kind == "cuda":
            raise NotTimedError(
                "a call is mostly copies to and from the GPU; `make gpu-bundle` times networks"
            )
        if summary.ended == "interrupted":
            raise NotTimedError("interrupted")
        if wanted is None and not any(row.new for row in summary.rows):
            raise NotTimedError("this run measured nothing new; network=True (--network) does it")
        summary.network = time_network(graph, target, records)
    except NotTimedError as reason:
        summary.network_note = str(reason)
    except KeyboardInterrupt:
        summary.network_note = "interrupted"
