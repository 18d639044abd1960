# SPDX-License-Identifier: Apache-2.0
"""A board behind TVM's RPC tracker: borrow it, run a library there, give it back.

Every failure is a `BoardError` that says at which step, and what to do; TVM's own exceptions are
pages of C++ frames.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from xnortvm._tvm_runtime import VirtualMachine, runtime
from xnortvm.errors import BoardError, MissingDependencyError, ModelError, TargetError, near
from xnortvm.runtime.measure import BenchmarkResult
from xnortvm.runtime.noise import without_noise

Array = np.ndarray[Any, Any]

_LIBRARY = "library.so"
_REPEATS = 10
_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
# What the dynamic loader says of a library that is not for this machine.
_FOREIGN = re.compile(r"wrong ELF class|invalid ELF|cannot open shared object|not a mach-o|GLIBC_")
_BIG_CORES = 1


class Tracker(NamedTuple):
    """Where the tracker listens, and the kind of board that is wanted.

    Attributes
    ----------
    host : str
    port : int
    key : str
        Under which boards registered.
    """

    host: str
    port: int
    key: str

    @classmethod
    def of(cls, address: str, key: str) -> Tracker:
        """Read ``HOST:PORT``.

        Raises
        ------
        ModelError
            When that is not what it looks like.
        """
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise ModelError(
                f"--rpc={address} is not the address of a tracker; it is HOST:PORT, such as "
                "192.168.1.10:9190"
            )
        return cls(host.strip("[]"), int(port), key)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


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
    try:
        from tvm import rpc
    except ImportError as error:
        raise MissingDependencyError(
            f'TVM\'s RPC cannot be imported ({error}); run: pip install "xnortvm[rpc]"'
        ) from error
    try:
        # TVM's own client would try for a minute.
        socket.create_connection((tracker.host, tracker.port), _CONNECT_SECONDS).close()
        client = rpc.connect_tracker(tracker.host, tracker.port)
        _wait_for(client, tracker, timeout)
        session = client.request(tracker.key, session_timeout=timeout, max_retry=1)
    except (OSError, RuntimeError) as error:
        if isinstance(error, BoardError):
            raise
        raise BoardError(
            f"no tracker of TVM answers at {tracker} ({_said(error)}); start one there: "
            f"python3 -m tvm.exec.rpc_tracker --host 0.0.0.0 --port {tracker.port}"
        ) from error
    yield session


def _wait_for(client: Any, tracker: Tracker, timeout: float) -> None:
    """Wait until a board of the key is free; without looking first, a request waits for ever."""
    end = time.monotonic() + timeout
    while True:
        state = client.summary()
        keys = {str(s["key"]).removeprefix("server:") for s in state["server_info"]} - {"client"}
        if tracker.key not in keys:
            there = f"it knows {', '.join(sorted(keys))}" if keys else "it knows none"
            raise BoardError(
                f"the tracker at {tracker} knows no board {tracker.key!r}"
                f"{near(tracker.key, keys)}, {there}; start on the board: python3 -m "
                f"tvm.exec.rpc_server --tracker {tracker} --key {tracker.key}"
            )
        if state["queue_info"].get(tracker.key, {}).get("free", 0):
            return
        if time.monotonic() > end:
            raise BoardError(
                f"every board {tracker.key!r} of the tracker at {tracker} is in use by others; "
                "try again, or give a longer --timeout"
            )
        time.sleep(_POLL_SECONDS)


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
        said = _said(error)
        if triple and _FOREIGN.search(str(error)):
            raise TargetError(
                f"the board {tracker.key!r} of the tracker at {tracker} cannot load a library for "
                f"{triple} ({said}); give the --target that the board is"
            ) from error
        raise BoardError(
            f"the board {tracker.key!r} of the tracker at {tracker} was lost {when} ({said}); "
            "its server says why: look at the terminal in which it runs"
        ) from error


def _said(error: BaseException) -> str:
    """Return the line of TVM's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
