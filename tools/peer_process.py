# SPDX-License-Identifier: Apache-2.0
"""One process for each engine, which sleeps until it is told to do something."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm.errors import XnortvmError

_TOOLS = Path(__file__).resolve().parent
_SERVE = "import sys; sys.path.insert(0, sys.argv[1]); from engines.worker import serve; serve()"
_PATIENCE = 900.0  # seconds; an engine that compiles a network for longer will not be waited for


class PeerError(XnortvmError, RuntimeError):
    """The process of an engine failed, or cannot run this model."""


class PeerProcess:
    """A running engine; use it as a context manager.

    Parameters
    ----------
    name : str
        The peer, for messages.
    engine : str
        Module of `xnortvm.tools.engines`.
    python : path-like, optional
        Interpreter with the engine's packages; this one by default.
    environment : mapping of str to str, optional
        Variables beside those of this process.
    """

    def __init__(
        self,
        name: str,
        engine: str,
        python: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.engine = name, engine
        self._environment = dict(environment or {})
        self._python = os.fspath(python or sys.executable)
        self._process: subprocess.Popen[str] | None = None
        self._log = Path()

    def __enter__(self) -> PeerProcess:
        """Return this process; it is started by `prepare`."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what it never read is lost with it
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def prepare(self, folder: Path, num_threads: int) -> str:
        """Load, compile and run the model of a folder once.

        Returns
        -------
        str
            What a reader of the times should know about this engine.

        Raises
        ------
        PeerError
            When the engine is not installed, cannot express the model, or fails.
        """
        self._log = folder / f"{self.name}.log"
        environment = {
            **os.environ,
            **self._environment,
            "OMP_NUM_THREADS": str(num_threads),
            "PYTHONUNBUFFERED": "1",
        }
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    [self._python, "-c", _SERVE, str(_TOOLS)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=environment,
                )
        except OSError as error:
            raise PeerError(
                f"the Python of the peer {self.name} cannot be started: {self._python}: "
                f"{error.strerror}; name it with --peer-python {self.name}=PATH"
            ) from error
        message = {"engine": self.engine, "folder": str(folder), "num_threads": num_threads}
        return str(self._ask({"do": "prepare", **message})["note"])

    def outputs(self) -> list[np.ndarray[Any, Any]]:
        """Run once and return the outputs."""
        with np.load(self._ask({"do": "outputs"})["file"]) as stored:
            return [stored[f"arr_{index}"] for index in range(len(stored.files))]

    def run(self, times: int) -> list[float]:
        """Run once to warm up, then some times; return the milliseconds of each."""
        return [float(ms) for ms in self._ask({"do": "run", "times": times})["ms"]]

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        ready, _, _ = select.select([self._process.stdout], [], [], _PATIENCE)
        if not ready:
            self._process.kill()
            raise PeerError(
                f"the peer {self.name} did not answer within {_PATIENCE:.0f} seconds "
                f"({message['do']}); leave it out of --against"
            )
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "cannot" in answer:
            raise PeerError(f"the peer {self.name} cannot run here: {answer['cannot']}")
        if "failed" in answer:
            raise PeerError(f"the peer {self.name} failed ({message['do']}): {answer['failed']}")
        return answer

    def _died(self) -> PeerError:
        assert self._process is not None
        status = self._process.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        lines = self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        return PeerError(f"the process of the peer {self.name} ended with {how}: {lines[-1]}")
