# SPDX-License-Identifier: Apache-2.0
"""A sample of what `make test-arm` runs: kernels and a narrow ResNet-18, exact on ARM."""

from __future__ import annotations

import pytest

from tests.emulated import arm
from xnortvm.emulation import needs
from xnortvm.target import resolve


@pytest.mark.parametrize("name", arm.SAMPLE)
def test_arm_kernels_compute_what_the_reference_computes(name: str) -> None:
    cpu = arm.SAMPLE[name]
    missing = needs.missing(resolve(cpu.target).link)
    if missing:
        pytest.skip(missing)
    (what, wrong), *rest = arm.verdicts(cpu)
    assert what == "a wrong expectation"
    assert not wrong.ok
    assert wrong.text.startswith("1 of ")  # a wrong expectation is noticed
    assert len(rest) > 4
    assert not [f"{program}: {verdict.text}" for program, verdict in rest if not verdict.ok]
