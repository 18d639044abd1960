# SPDX-License-Identifier: Apache-2.0
"""A client of TVM's RPC tracker whose every step ends: what boards there are, and one of them.

TVM's own client retries for a minute where nobody listens, waits for ever where a tracker hangs or
no board is free, and does not say which board it got.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from xnortvm.errors import BoardError, MissingDependencyError, ModelError, near

_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.5
#: What the dynamic loader says of a library that is not for this machine.
FOREIGN = re.compile(r"wrong ELF class|invalid ELF|cannot open shared object|not a mach-o|GLIBC_")


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


class Board(NamedTuple):
    """A board that the tracker gave to this process.

    Attributes
    ----------
    host : str
    port : int
    match : str
        The password of one session.
    """

    host: str
    port: int
    match: str

    @property
    def address(self) -> str:
        """The same for all sessions."""
        return f"{self.host}:{self.port}"

    def connect(self, seconds: float) -> Any:
        """Return a ``tvm.rpc.RPCSession``, which the board ends after so many seconds."""
        from tvm import rpc

        return rpc.connect(self.host, self.port, self.match, session_timeout=seconds)


class Boards(NamedTuple):
    """The boards of a key.

    Attributes
    ----------
    addresses : list of str
        Of all that are registered.
    free : int
        How many of them nobody uses.
    """

    addresses: list[str]
    free: int


def boards(tracker: Tracker) -> Boards:
    """Return what boards there are.

    Raises
    ------
    BoardError
        When there is no tracker, or no board of that key.
    """
    with _connected(tracker) as ask:
        return _boards(tracker, ask)


def request(tracker: Tracker, timeout: float) -> Board:
    """Take a board; it has to be connected to within seconds, or the tracker gets it back.

    Parameters
    ----------
    tracker : Tracker
    timeout : float
        Seconds to wait for a free one.

    Raises
    ------
    BoardError
        When there is no tracker or no such board, or none becomes free.
    """
    from tvm.rpc.base import TrackerCode

    end = time.monotonic() + timeout
    with _connected(tracker) as ask:
        while not _boards(tracker, ask).free:
            if time.monotonic() > end:
                raise BoardError(
                    f"every board {tracker.key!r} of the tracker at {tracker} is in use by others; "
                    "try again, or give a longer --timeout"
                )
            time.sleep(_POLL_SECONDS)
        host, port, match = ask([TrackerCode.REQUEST, tracker.key, "", 1])
    return Board(str(host), int(port), str(match))


def _boards(tracker: Tracker, ask: Any) -> Boards:
    from tvm.rpc.base import TrackerCode

    state = ask([TrackerCode.SUMMARY])
    servers = [(str(s["key"]).removeprefix("server:"), s) for s in state["server_info"]]
    keys = {key for key, _ in servers} - {"client"}
    if tracker.key not in keys:
        there = f"it knows {', '.join(sorted(keys))}" if keys else "it knows none"
        raise BoardError(
            f"the tracker at {tracker} knows no board {tracker.key!r}"
            f"{near(tracker.key, keys)}, {there}; start on the board: python3 -m "
            f"tvm.exec.rpc_server --tracker {tracker} --key {tracker.key}"
        )
    addresses = [":".join(map(str, s["addr"])) for key, s in servers if key == tracker.key]
    return Boards(addresses, int(state["queue_info"].get(tracker.key, {}).get("free", 0)))


@contextmanager
def _connected(tracker: Tracker) -> Iterator[Any]:
    """Yield a function that asks the tracker."""
    try:
        from tvm.rpc import base
    except ImportError as error:
        raise MissingDependencyError(
            f'TVM\'s RPC cannot be imported ({error}); run: pip install "xnortvm[rpc]"'
        ) from error

    def ask(question: list[Any]) -> Any:
        base.sendjson(tube, question)
        code, answer = base.recvjson(tube)
        if code != base.TrackerCode.SUCCESS:
            raise OSError(f"it refused: {answer}")
        return answer

    try:
        with socket.create_connection((tracker.host, tracker.port), _CONNECT_SECONDS) as tube:
            tube.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            if struct.unpack("<i", base.recvall(tube, 4))[0] != base.RPC_TRACKER_MAGIC:
                raise OSError("another program answers there")
            yield ask
    except BoardError:
        raise
    except (OSError, ValueError, struct.error) as error:
        raise BoardError(
            f"no tracker of TVM answers at {tracker} ({said(error)}); start one there: "
            f"python3 -m tvm.exec.rpc_tracker --host 0.0.0.0 --port {tracker.port}"
        ) from error


def said(error: BaseException) -> str:
    """Return the line of TVM's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
