# SPDX-License-Identifier: Apache-2.0
"""Where records lie, and the decisions that `compile` takes from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xnortvm._cache import user_cache
from xnortvm.tuning.nearest import neighbours
from xnortvm.tuning.records import Record, Records
from xnortvm.tuning.task import Choose, Key, decide

if TYPE_CHECKING:
    from xnortvm._tvm import IRModule
    from xnortvm.schedules.decisions import AnyDecisions
    from xnortvm.target import Target

#: Environment variable: a file or folder of records, or "off".
VARIABLE = "XNORTVM_RECORDS"
_OFF = frozenset({"off", "0", "false", "no", "none"})


def user_folder() -> Path:
    """Return the folder in which a user's own records lie."""
    return user_cache("records")


def shipped_folder() -> Path:
    """Return the folder of the records that come with the package."""
    import xnortvm.schedules

    return Path(xnortvm.schedules.__file__).parent / "records"


def file_for(place: str | Path, target: Target) -> Path:
    """Return the file for a target: the place itself, or ``<cpu>.jsonl`` where it is a folder."""
    path = Path(place)
    name = target.arch or target.mcpu or target.isa
    return path if path.suffix == ".jsonl" else path / f"{name}.jsonl"


def find_records(records: Any, target: Target) -> Records | None:
    """Return the records that apply.

    Parameters
    ----------
    records : Records, path, bool or None
        A path is a ``.jsonl`` file or a folder with one for each CPU. None is what the variable
        ``XNORTVM_RECORDS`` names, else the user's and the shipped records; False is none.
    target : Target
    """
    if isinstance(records, Records):
        return records
    if records is None or records is True:
        named = os.environ.get(VARIABLE, "")
        if named.lower() in _OFF:
            return None
        records = named or None
    if records is False:
        return None
    places = [user_folder(), shipped_folder()] if records is None else [records]
    return Records(*(file_for(place, target) for place in places))


def chooser(records: Records, target: Target) -> Choose | None:
    """Return what gives kernels the decisions of their best records; None without any.

    A kernel without a record gets those of the nearest one (`nearest`). Records that say that the
    rule is best leave the kernel to the rule.
    """
    known = {each.key: each for each in records.all_best(target)}
    if not known:
        return None

    def choose(key: Key) -> tuple[AnyDecisions, str] | None:
        record = known.get(key)
        if record is not None:
            return None if record.gain <= 1.0 else (record.decisions, _named("tuned", record))
        near = next(iter(neighbours(key, known.values())), None)
        if near is None or near.gain <= 1.0:
            return None
        taken = near.decisions.transferred()
        origin = f"{_named('nearest', near)} ({near.key.sizes})"
        return None if taken is None else (taken, origin)

    return choose


def choosing(records: Any, target: Target) -> Choose | None:
    """Return what gives kernels the decisions of the records of `find_records`; None without."""
    found = find_records(records, target)
    return None if found is None else chooser(found, target)


def deciding(records: Any, target: Target) -> Callable[[IRModule], IRModule] | None:
    """Return the pass that applies the records of `find_records`, None without any."""
    choose = choosing(records, target)
    return None if choose is None else decide(choose)


def _named(origin: str, record: Record) -> str:
    return f"{origin}, modelled" if record.unit else origin
