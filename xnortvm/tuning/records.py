# SPDX-License-Identifier: Apache-2.0
"""Tuning records: one JSON object a line, in one file for each CPU, only ever appended to.

Every measured candidate is a line of kind "trial", so that a run that was cut off goes on where it
was. When a task is done, its best candidate and the rule's decisions are timed again in turns; the
winner, compared bit by bit with the rule's kernel, is a line of kind "best". Only these are
applied.

A line is written by one ``write`` to a file opened for appending, under a lock. A line that a
killed process left half-written, or that is damaged otherwise, is skipped and named; lines of other
versions or targets are kept and not applied.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import functools
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm import __version__
from xnortvm._tvm import installed_version
from xnortvm.errors import OutputError
from xnortvm.schedules.decisions import AnyDecisions, read_decisions
from xnortvm.tuning.task import Key

if TYPE_CHECKING:
    from xnortvm.target import Target
    from xnortvm.tuning.summary import Summary

#: Goes up when the meaning of a line or of decisions changes.
FORMAT = 1

_log = logging.getLogger("xnortvm.tuning")


@functools.cache  # asked for every record, and a look at installed packages takes 0.2 ms
def _tvm_version() -> str:
    return installed_version("apache-tvm") or ""


@dataclass(frozen=True)
class Machine:
    """For what records are valid.

    Attributes
    ----------
    mcpu, isa : str
        Of a GPU its architecture, and "cuda".
    threads : int
    """

    mcpu: str
    isa: str
    threads: int

    @classmethod
    def of(cls, target: Target) -> Machine:
        """Return what records for a target are marked with."""
        return cls(target.arch or target.mcpu, target.isa, target.num_threads)


@dataclass(frozen=True)
class Record:
    """One line.

    Attributes
    ----------
    kind : str
        "trial" or "best".
    key : Key
    target : Machine
    decisions : AnyDecisions
    us : float or None
        Microseconds of one call, the median; None when the candidate failed.
    rule_us : float or None
        Of a "best": the rule's decisions, timed in turns with these.
    noise : float
        Median distance from the median, as a part of it.
    failure : str
        Why there is no time: "crash: …", "timeout: …", "wrong: …".
    trials : int
        Of a "best": how many candidates it was chosen from.
    unit : str
        What `us` is when it is no measured time: modelled cycles, of which model, at which clock.
    where : str
        The machine that measured.
    date, xnortvm, tvm : str
        When, in UTC, and by which versions.
    format : int
    """

    kind: str
    key: Key
    target: Machine
    decisions: AnyDecisions
    us: float | None = None
    rule_us: float | None = None
    noise: float = 0.0
    failure: str = ""
    trials: int = 0
    unit: str = ""
    where: str = ""
    date: str = field(
        default_factory=lambda: dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
    )
    xnortvm: str = __version__
    tvm: str = field(default_factory=lambda: _tvm_version())
    format: int = FORMAT

    @property
    def is_current(self) -> bool:
        """Whether this version of the compiler understands the decisions as they were meant."""
        return (self.format, self.xnortvm, self.tvm) == (FORMAT, __version__, _tvm_version())

    @property
    def gain(self) -> float:
        """How many times faster than the rule; 1 where that is not known."""
        return self.rule_us / self.us if self.us and self.rule_us else 1.0

    def to_line(self) -> str:
        """Return the record as one line of JSON, without its end."""
        data = asdict(self) | {
            "key": self.key.to_json(),
            "decisions": self.decisions.to_json(),
        }
        data = {name: value for name, value in data.items() if value not in (None, "", 0)}
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> Record:
        """Return the record of a line; ValueError when it is damaged."""
        data = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError("it is no JSON object")
        try:
            made = dict(data)
            made["key"] = Key.from_json(data["key"])
            made["target"] = Machine(**data["target"])
            made["decisions"] = read_decisions(data["decisions"])
            record = cls(**made)
        except (KeyError, TypeError) as error:
            raise ValueError(f"it lacks or has unknown fields ({error})") from error
        if record.kind not in ("trial", "best") or not _is_time(record.us):
            raise ValueError("its kind or time is none")
        return record


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 < value < float("inf"))


class Records:
    """The records of one or several files; new ones go to the first.

    Parameters
    ----------
    *paths : path
        Files that need not exist.

    Attributes
    ----------
    records : list of Record
        In the order of the files and lines.
    damaged : list of str
        One sentence for each line that was skipped.
    other : list of str
        Lines of other formats, which are kept as they are.
    summary : Summary or None
        Of the tuning run that returned these records.
    """

    summary: Summary | None = None

    def __init__(self, *paths: str | Path) -> None:
        self.paths = [Path(path) for path in paths]
        self.records: list[Record] = []
        self.damaged: list[str] = []
        self.other: list[str] = []
        for path in self.paths:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            text = path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            self._skip(f"{path} cannot be read ({error.strerror}), so its records are not used")
            return
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                if _format_of(line) != FORMAT:
                    self.other.append(line)
                else:
                    self.records.append(Record.from_line(line))
            except ValueError as error:
                self._skip(f"{path}, line {number} is damaged and skipped: {error}")

    def _skip(self, why: str) -> None:
        self.damaged.append(why)
        _log.warning("%s", why)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def check(self) -> None:
        """Look that the first file can be written, before anything is measured for it.

        Raises
        ------
        OutputError
            When it cannot.
        """
        if self.paths:
            append_line(self.paths[0], "")

    def append(self, record: Record) -> None:
        """Add a record, in the first file at once.

        Raises
        ------
        OutputError
            When the file cannot be written.
        """
        if self.paths:
            append_line(self.paths[0], record.to_line())
        self.records.append(record)

    def of(self, target: Target, kind: str = "best") -> list[Record]:
        """Return the records of one kind that hold for a target and for this version."""
        machine = Machine.of(target)
        return [
            each
            for each in self.records
            if each.kind == kind and each.target == machine and each.is_current
        ]

    def trials(self, key: Key, target: Target, unit: str = "") -> dict[AnyDecisions, Record]:
        """Return what was measured of a task, the last of each, in the order of the lines.

        Those of one unit: times and modelled cycles are no part of one comparison.
        """
        found = [each for each in self.of(target, "trial") if each.key == key]
        return {each.decisions: each for each in found if each.unit == unit}

    def best(self, key: Key, target: Target) -> Record | None:
        """Return the record with the largest gain over the rule, of equals the newest.

        Measured ones go before modelled ones.
        """
        found = [each for each in self.of(target) if each.key == key and each.us]
        return max(found, key=_worth, default=None)

    def all_best(self, target: Target | None = None) -> list[Record]:
        """Return the best record of every kernel, of one target or all, current ones only."""
        machine = None if target is None else Machine.of(target)
        found: dict[tuple[Key, Machine], Record] = {}
        for each in self.records:
            if machine not in (None, each.target):
                continue
            if each.kind == "best" and each.us and each.is_current:
                place = (each.key, each.target)
                known = found.get(place)
                if known is None or _worth(each) >= _worth(known):
                    found[place] = each
        return list(found.values())


def _worth(record: Record) -> tuple[bool, float, str]:
    return not record.unit, record.gain, record.date


def _format_of(line: str) -> Any:
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    return data.get("format")


def append_line(path: Path, line: str) -> None:
    """Append one line to a file, whole or not at all, whoever else appends at the same time.

    An empty line only looks whether that can be done.

    Raises
    ------
    OutputError
        When that fails; says what to do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path) as descriptor:
            size = os.fstat(descriptor).st_size
            if not line:
                return
            text = line.encode() + b"\n"
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                text = b"\n" + text  # the last writer was killed: its half line stays alone
            if os.write(descriptor, text) != len(text):
                os.ftruncate(descriptor, size)
                raise OSError(28, "no space left on the device")
    except OSError as error:
        raise OutputError(
            f"the tuning record cannot be written to {path} ({error.strerror or error}); "
            "free space there, or name another file with records="
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file for appending and lock it; it is still the one at that path."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            here = os.stat(path)
            if (here.st_ino, here.st_dev) == _identity(descriptor):
                yield descriptor
                return
        except FileNotFoundError:
            continue  # it was replaced while we waited
        finally:
            os.close(descriptor)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_ino, status.st_dev


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file of records anew; what was there stays until all of it is written.

    Raises
    ------
    OutputError
        When that fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.writelines(line + "\n" for line in lines)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o644)
                os.replace(name, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error})") from error


def merge(into: Path, paths: Iterable[Path]) -> int:
    """Append the records of other files that a file lacks; return how many they were."""
    known = {each.to_line() for each in Records(into)}
    added = 0
    for path in paths:
        for record in Records(path):
            line = record.to_line()
            if line not in known:
                append_line(into, line)
                known.add(line)
                added += 1
    return added


def prune(path: Path) -> tuple[int, int]:
    """Leave only the best record of every kernel, and what belongs to other versions.

    Returns
    -------
    (int, int)
        Lines before and after.
    """
    records = Records(path)
    best = {each.to_line() for each in records.all_best()}
    kept = [each.to_line() for each in records if not each.is_current or each.to_line() in best]
    before = len(records) + len(records.other) + len(records.damaged)
    kept = list(dict.fromkeys([*kept, *records.other]))
    write_lines(path, kept)
    return before, len(kept)
