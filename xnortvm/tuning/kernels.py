# SPDX-License-Identifier: Apache-2.0
"""The kernels of a model with the decisions of its records; a record that is no longer legal goes.

Form and width are decided before a kernel is scheduled, and whether a tile is legal is known only
then. So a kernel whose decisions were refused is made again, as if it had no record.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from xnortvm import pipeline
from xnortvm._tvm import IRModule, tirx
from xnortvm.schedules import DECIDED_BY
from xnortvm.schedules.decisions import DECIDED_KEY, DECISIONS, ORIGIN, decisions_of
from xnortvm.target import Target
from xnortvm.tuning.task import Choose, Key, decide

_log = logging.getLogger("xnortvm.tuning")


def kernels_of(
    graph: IRModule, target: Target, choose: Choose | None, dump_dir: str | Path | None = None
) -> IRModule:
    """Return the scheduled kernels of a model.

    Parameters
    ----------
    graph : IRModule
        After the phases that do not know the target.
    target : Target
    choose : callable, optional
        The rules' decisions without.
    dump_dir : path, optional
        See `pipeline.run`.
    """
    refused: set[Key] = set()

    def legal(key: Key) -> Any:
        return None if choose is None or key in refused else choose(key)

    apply = None if choose is None else decide(legal)
    while True:
        kernels = pipeline.run(graph, pipeline.kernel_phases(target, apply), dump_dir)
        found = _refused(kernels)
        if not found:
            return kernels
        for key, decisions in found.items():
            _log.warning(
                "the record of %s is not used: its decisions (%s) are not legal in this version; "
                "tune again",
                key,
                decisions,
            )
        refused |= found.keys()


def _refused(kernels: IRModule) -> dict[Key, str]:
    """Return the kernels with a record of their own that the rule decided all the same."""
    found = {}
    for func in kernels.functions.values():
        attrs = func.attrs or {}
        is_own = DECISIONS in attrs and str(attrs[ORIGIN]).startswith("tuned")
        if isinstance(func, tirx.PrimFunc) and is_own and str(attrs[DECIDED_BY]) == "rule":
            key = Key.from_json(json.loads(str(attrs[DECIDED_KEY])))
            found[key] = str(decisions_of(func))
    return found
