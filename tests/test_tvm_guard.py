# SPDX-License-Identifier: Apache-2.0
"""The version guard: versions of TVM that crash are refused with the command that repairs it."""

from __future__ import annotations

import logging

import pytest

from xnortvm import _tvm_runtime
from xnortvm.errors import VersionError

GOOD = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Pretend that other versions are installed: ``install({"apache-tvm": "0.28.0"})``."""

    def pretend(versions: dict[str, str | None]) -> None:
        monkeypatch.setattr(_tvm_runtime, "installed_version", (GOOD | versions).get)

    return pretend


@pytest.mark.parametrize(
    "versions",
    [{}, {"apache-tvm": "0.27.1"}, {"apache-tvm": "0.27"}, {"apache-tvm-ffi": "0.1.14.post0"}],
)
def test_versions_that_work_are_accepted(install, versions: dict[str, str]):
    install(versions)
    _tvm_runtime.check_versions()


@pytest.mark.parametrize(
    ("versions", "fix"),
    [
        ({"apache-tvm": "0.26.0"}, 'pip install "apache-tvm==0.27.0.post1"'),
        ({"apache-tvm": "0.28.0.dev3"}, 'pip install "apache-tvm==0.27.0.post1"'),
        ({"apache-tvm": None}, "apache-tvm is not installed; run: pip install"),
        ({"apache-tvm-ffi": "0.1.15"}, 'pip install "apache-tvm-ffi>=0.1.14.post0,<0.1.15"'),
        ({"apache-tvm-ffi": "0.1.15.post2"}, "crashes the process"),
        ({"apache-tvm-ffi": "0.2.0"}, "apache-tvm-ffi 0.2.0 is installed"),
        ({"apache-tvm-ffi": "0.1.13"}, "pip install"),
    ],
)
def test_versions_that_do_not_work_are_refused_with_the_fix(install, versions, fix: str):
    install(versions)
    with pytest.raises(VersionError) as caught:
        _tvm_runtime.check_versions()
    assert fix in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_the_pins_agree_with_the_package_metadata():
    """pyproject.toml and the guard say the same."""
    from pathlib import Path

    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    for pin in _tvm_runtime.PINS:
        assert f'"{pin.install}"' in text


def test_tvm_is_quiet():
    assert logging.getLogger("tvm").getEffectiveLevel() == logging.WARNING


def test_every_public_name_exists():
    assert [name for name in _tvm_runtime.__all__ if not hasattr(_tvm_runtime, name)] == []
