# SPDX-License-Identifier: Apache-2.0
"""Another machine than this one."""

from __future__ import annotations

import pytest

from xnortvm import _cpus


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch):
    """Pretend to be another machine: ``host(triple, mcpu, features)``."""

    def pretend(triple: str, mcpu: str, real: dict[str, bool] | None = None) -> None:
        monkeypatch.setattr(_cpus, "host_triple", lambda: triple)
        corrected = _cpus.correct_host(triple, mcpu, real or {})
        monkeypatch.setattr(_cpus, "host_cpu", lambda: corrected)

    return pretend
