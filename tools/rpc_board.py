# SPDX-License-Identifier: Apache-2.0
"""A board behind TVM's RPC tracker: borrow it, run a library there, give it back.

Every failure is a `BoardError` that says at which step, and what to do; TVM's own exceptions are
pages of C++ frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from xnortvm._tvm_runtime import VirtualMachine, runtime
from xnortvm.errors import BoardError, TargetError
from xnortvm.runtime.measure import BenchmarkResult
from xnortvm.runtime.noise import without_noise
from xnortvm.runtime.tracker import FOREIGN, Tracker, request, said

Array = np.ndarray[Any, Any]

_LIBRARY = "library.so"
_REPEATS = 10
_BIG_CORES = 1


class Ran(NamedTuple):
    """What a board computed.

    Attributes
    ----------
    outputs : tuple of ndarray
    latency : BenchmarkResult
        Of calls on the board, without the network.
    """

    outputs: tuple[Array, ...]
    latency: BenchmarkResult


@contextmanager
def borrowed(tracker: Tracker, timeout: float) -> Iterator[Any]:
    """Borrow a board and give it back.

    Parameters
    ----------
    tracker : Tracker
    timeout : float
        Seconds to wait for a free board, and that the session may last.

    Yields
    ------
    tvm.rpc.RPCSession

    Raises
    ------
    BoardError
        When there is no tracker or no such board, or none becomes free.
    """
    board = request(tracker, timeout)
    try:
        session = board.connect(timeout)
    except Exception as error:
        raise BoardError(
            f"the board {tracker.key!r} at {board.address} cannot be reached ({said(error)}), "
            f"though the tracker at {tracker} lists it; look whether its server still runs"
        ) from error
    yield session


def run(
    tracker: Tracker,
    library: bytes,
    inputs: Sequence[Array],
    *,
    triple: str,
    num_threads: int = 1,
    repeats: int | None = None,
    timeout: float = 600.0,
) -> Ran:
    """Upload a library, run it on a board, and time it there.

    Parameters
    ----------
    tracker : Tracker
        With the key of the board.
    library : bytes
        A shared library of `CompiledModel.library`.
    inputs : sequence of ndarray
        Arguments of the model.
    triple : str
        What the library was made for, for messages.
    num_threads : int
        Threads that the kernels use.
    repeats : int, optional
        Timed calls.
    timeout : float
        Seconds for all of it.

    Raises
    ------
    BoardError
        When the board cannot be had or is lost.
    TargetError
        When it is of another architecture.
    """
    with borrowed(tracker, timeout) as session:
        with _step(tracker, "while the library was sent"):
            session.upload(bytearray(library), _LIBRARY)
        with _step(tracker, f"while the library for {triple} was loaded", triple), without_noise():
            device = session.cpu()
            vm = VirtualMachine(session.load_module(_LIBRARY), device)
        with _step(tracker, "while the model ran"):
            if num_threads > 1:
                session.get_function("runtime.config_threadpool")(_BIG_CORES, num_threads)
            vm.set_input("main", *(runtime.tensor(value, device) for value in inputs))
            vm.invoke_stateful("main")
            result = vm.get_outputs("main")
            tensors = [result] if hasattr(result, "numpy") else list(result)
            outputs = tuple(tensor.numpy() for tensor in tensors)
        with _step(tracker, "while the model was timed"):
            timer = vm.time_evaluator(
                "invoke_stateful", device, number=1, repeat=repeats or _REPEATS
            )
            seconds = timer("main").results
    times = [each * 1e3 for each in seconds]
    return Ran(outputs, BenchmarkResult.of(times, num_threads))


@contextmanager
def _step(tracker: Tracker, when: str, triple: str = "") -> Iterator[None]:
    """Turn what TVM raises into one sentence."""
    try:
        yield
    except Exception as error:
        why = said(error)
        if triple and FOREIGN.search(str(error)):
            raise TargetError(
                f"the board {tracker.key!r} of the tracker at {tracker} cannot load a library for "
                f"{triple} ({why}); give the --target that the board is"
            ) from error
        raise BoardError(
            f"the board {tracker.key!r} of the tracker at {tracker} was lost {when} ({why}); "
            "its server says why: look at the terminal in which it runs"
        ) from error
