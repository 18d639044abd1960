# SPDX-License-Identifier: Apache-2.0
"""Cases of `tests.ops.kernel_cases`, scheduled and run on an emulated AArch64 processor."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.ops.kernel_cases import Case, scheduled
from xnortvm.emulation import needs, network
from xnortvm.emulation.program import INPUT, OUTPUT, Program
from xnortvm.emulation.run import emulate
from xnortvm.schedules import schedule_function
from xnortvm.schedules.isa import Isa
from xnortvm.target import Target


def check_emulated(cases: list[Case], target: Target, isa: Isa) -> list[Case]:
    """Compare every output exactly with what is expected; return the scheduled cases."""
    reason = needs.missing(target.link)
    if reason:
        pytest.skip(reason)
    cases = scheduled(cases, partial(schedule_function, isa=isa, num_threads=1))
    programs, functions = [], {}
    for i, case in enumerate(cases):
        program = Program(case.name)
        slots = [program.add(INPUT, np.ascontiguousarray(array)) for array in case.inputs]
        slots += [program.add(OUTPUT, np.full_like(array, 77)) for array in case.expected]
        program.calls.append((f"kernel{i}", slots))
        programs.append(program)
        functions[f"kernel{i}"] = case.func.with_attr("global_symbol", f"kernel{i}")
    for case, ran in zip(
        cases, emulate(programs, network.library(functions, target), target), strict=True
    ):
        assert ran.complaint == "", case.name
        for output, expected in zip(ran.outputs.values(), case.expected, strict=True):
            np.testing.assert_array_equal(output, expected, err_msg=case.name)
    return cases
