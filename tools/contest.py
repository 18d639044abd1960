# SPDX-License-Identifier: Apache-2.0
"""A compiled model against other engines: every peer is checked first, then all take turns."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xnortvm.errors import MissingDependencyError, ModelError, VerificationError
from xnortvm.runtime.timing import Sampler, Times, pinned, race, sampler
from xnortvm.tools import peers
from xnortvm.tools.model_arg import Source
from xnortvm.tools.outcome import table
from xnortvm.tools.peer_inputs import PeerInputs
from xnortvm.tools.peer_process import PeerError, PeerProcess

OURS = "xnortvm"

_log = logging.getLogger("xnortvm.tools.bench")


@dataclass
class Contest:
    """Who took part, how fast it was, and who did not take part and why.

    Attributes
    ----------
    core : int or None
        The core that all were pinned to.
    times : dict of str to Times
        Ours first.
    agreements : dict of str to Agreement
        Of every peer that was timed.
    notes : dict of str to str
        Version and kind of the engine.
    absent : dict of str to str
        Why a peer was not timed.
    wrong : list of str
        Those of them whose output was not that of the model.
    """

    core: int | None = None
    times: dict[str, Times] = field(default_factory=dict)
    agreements: dict[str, peers.Agreement] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        mine = self.times[OURS]
        engines = {
            name: {
                **each.to_json(),
                "times_slower": each.median_ms / mine.median_ms,
                "times_slower_min": each.min_ms / mine.min_ms,
                "agreement": _json(self.agreements.get(name)),
                "note": self.notes.get(name, ""),
            }
            for name, each in self.times.items()
        }
        return {"core": self.core, "engines": engines, "absent": self.absent}

    def __str__(self) -> str:
        """Return a table and what explains it."""
        mine = self.times[OURS]
        rows = [
            (
                name,
                each.median_ms,
                each.min_ms,
                each.runs,
                f"{each.median_ms / mine.median_ms:.2f}×",
                f"{each.min_ms / mine.min_ms:.2f}×",
                self._difference(name),
            )
            for name, each in self.times.items()
        ]
        head = ["engine", "median ms", "min ms", "runs", "median/ours", "min/ours", "difference"]
        lines = [table(head, rows), "", "ms are milliseconds."]
        if self.agreements:
            lines[-1] += (
                " Engines took turns, each in a process of its own"
                + (f", all pinned to core {self.core}." if self.core is not None else ".")
                + "\ndifference: largest one to our output, relative to the largest output, "
                "checked before timing."
            )
        lines += [f"  {name}: {note}" for name, note in self.notes.items()]
        lines += [f"  {name}: not timed; {reason}" for name, reason in self.absent.items()]
        return "\n".join(lines)

    def _difference(self, name: str) -> str | None:
        """Of a quantised engine, which is expected to differ, the cosine says more."""
        agreement = self.agreements.get(name)
        if agreement is None:
            return None
        if name == OURS or peers.PEERS[name].exact:
            return f"{agreement.error:.0e}"
        return f"quantised: cosine {agreement.cosine:.2f}"


def _json(agreement: peers.Agreement | None) -> dict[str, Any] | None:
    return agreement.to_json() if agreement else None


def outputs_of(compiled: Any, inputs: Sequence[np.ndarray[Any, Any]]) -> peers.Outputs:
    """Run a compiled model once and return its outputs as a list."""
    result = compiled(*inputs)
    return list(result) if isinstance(result, tuple) else [result]


def hold(
    compiled: Any,
    source: Source | None,
    inputs: Sequence[np.ndarray[Any, Any]],
    names: Sequence[str],
    *,
    num_threads: int = 1,
    isa: str = "",
    target: str = "llvm",
    repeats: int | None = None,
    pythons: Mapping[str, str] | None = None,
    expected: peers.Outputs | None = None,
) -> Contest:
    """Time a compiled model and its peers.

    Parameters
    ----------
    compiled : CompiledModel
    source : Source or None
        What it was compiled from; needed where there are peers.
    inputs : sequence of ndarray
        Arguments of a call.
    names : sequence of str
        Rows of `xnortvm.tools.peers.PEERS`.
    num_threads : int
        Threads of every engine; a single one is pinned.
    isa : str
        Instruction set that the model was compiled for; peers are kept to it where they can be.
    target : str
        What TVM's default pipeline compiles for.
    repeats : int, optional
        Timed calls of each.
    pythons : mapping of str to str, optional
        Interpreters of peers that have one of their own.
    expected : list of ndarray, optional
        What peers have to compute, where ours is an approximation of it; ours by default.

    Returns
    -------
    Contest
        A peer that is not installed, cannot express the model or is wrong is in `absent`.
    """
    outputs = outputs_of(compiled, inputs)
    contest = Contest()
    if expected is not None:
        contest.agreements[OURS] = peers.compare(expected, outputs, OURS, exact=False)
        outputs = expected
    samplers: dict[str, Sampler] = {OURS: sampler(lambda: compiled(*inputs))}
    with contextlib.ExitStack() as stack:
        contest.core = stack.enter_context(pinned(num_threads))
        if names:
            assert source is not None
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="xnortvm-bench-"))
            files = PeerInputs(Path(folder), source, inputs, target)
            for name in names:
                python = (pythons or {}).get(name)
                process = stack.enter_context(
                    PeerProcess(name, peers.PEERS[name].engine, python, peers.RESTRICTIONS.get(isa))
                )
                if _enters(contest, process, files, outputs, num_threads):
                    samplers[name] = process.run
                    contest.notes[name] += peers.restriction_note(name, isa)
        contest.times = race(samplers, repeats)
    return contest


def _enters(
    contest: Contest,
    process: PeerProcess,
    files: PeerInputs,
    outputs: peers.Outputs,
    num_threads: int,
) -> bool:
    """Prepare and check one peer; say whether it takes part."""
    name = process.name
    peer = peers.PEERS[name]
    _log.info("preparing %s", name)
    try:
        files.make(peer.form)
        note = process.prepare(files.folder, num_threads)
        agreement = peers.compare(outputs, process.outputs(), name, exact=peer.exact)
    except VerificationError as error:
        contest.wrong.append(name)
        contest.absent[name] = str(error)
        _log.error("%s", error)
        return False
    except (PeerError, ModelError, MissingDependencyError) as error:
        contest.absent[name] = str(error)
        _log.warning("%s", error)
        return False
    contest.agreements[name], contest.notes[name] = agreement, note
    return True
