# SPDX-License-Identifier: Apache-2.0
"""The command as a whole: exit statuses, one sentence for what goes wrong, JSON alone on stdout."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import pytest

from xnortvm import __version__
from xnortvm.errors import TargetError
from xnortvm.tools.cli import COMMANDS
from xnortvm.tools.outcome import table


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(cli, command: str):
    ran = cli(command, "--help")
    assert ran.status == 0
    assert "--json" in ran.out
    assert command in cli("--help").out


def test_the_version_is_the_package_s(cli):
    assert cli("--version").out == f"xnortvm {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "COMMAND"),
        (("compiel",), "invalid choice: 'compiel'"),
        (("compile",), "MODEL"),
        (("compile", "resnet18"), "-o/--output"),
        (("explain",), "MODEL"),
        (("targets", "--frobnicate"), "--frobnicate"),
        (("bench", "resnet18", "--repeats", "many"), "invalid int value: 'many'"),
    ],
)
def test_wrong_arguments_end_with_status_2(cli, arguments, reason: str):
    ran = cli(*arguments)
    assert ran.status == 2
    assert reason in ran.err
    assert ran.out == ""


needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="networks need torch")

FAILURES = [
    (("targets", "rpi9"), "did you mean 'rpi5'"),
    (("targets", "--cpus", "--triple", "vax-linux"), "unknown architecture 'vax'"),
    pytest.param(
        ("compile", "resnet81", "-o", "x.xnor"), "did you mean 'resnet18'", marks=needs_torch
    ),
    (("compile", "resnet18", "-o", "x.xnor", "--target", "lvm"), "did you mean 'llvm'"),
    pytest.param(
        ("compile", "resnet18", "-o", "x.xnor", "--scale", "caseX"),
        "cannot be built",
        marks=needs_torch,
    ),
    pytest.param(
        ("compile", "resnet18", "-o", "x.xnor", "--batch", "0"), "--batch=0", marks=needs_torch
    ),
    (("compile", "net.txt", "-o", "x.xnor"), "none of .pt2, .onnx, .xnor"),
    (("compile", "lenet", "-o", "."), "the folder holds other files"),
    (("compile", "lenet", "-o", "no/such/x.xnor"), "does not exist"),
    (("explain", "no/such/model"), "there is no such file"),
    (("bench",), "name a MODEL, or give --layers"),
    (("bench", "lenet", "--target", "rpi4"), "cannot be timed here"),
    (("bench", "--layers", "--target", "rpi4"), "cannot be timed here"),
    (("bench", "lenet", "--repeats", "0"), "--repeats=0"),
    (("bench", "lenet", "--num-threads", "0"), "num_threads=0"),
    (("bench", "lenet", "--against", "torhc"), "did you mean 'torch'"),
]


@pytest.mark.parametrize(("arguments", "reason"), FAILURES)
def test_a_failure_is_one_sentence_and_status_1(cli, fake, arguments, reason: str):
    ran = cli(*arguments, "--quiet")
    assert ran.status == 1
    assert ran.err.startswith("xnortvm: error: ")
    assert ran.err.count("\n") == 1
    assert reason in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert not [call for call in fake if call[0] == "compile"]


def test_a_failure_prints_no_json(cli, fake):
    assert cli("compile", "resnet81", "-o", "x.xnor", "--json").out == ""


def test_traceback_shows_where_an_error_was_raised(cli):
    with pytest.raises(TargetError):
        cli("targets", "rpi9", "--traceback")


def test_an_interrupt_ends_quietly(cli, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["targets"], "run", interrupt)
    ran = cli("targets")
    assert ran.status == 130
    assert "Traceback" not in ran.err


def test_a_reader_that_goes_away_is_no_error(monkeypatch: pytest.MonkeyPatch):
    """As in ``xnortvm targets | head -1``."""
    import os
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; sys.stdout.write('x' * 200000); "
        "from xnortvm.tools.cli import main; sys.exit(main(['targets']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def test_logging_is_left_as_it_was(cli):
    logger = logging.getLogger("xnortvm")
    before = (logger.level, list(logger.handlers))
    cli("targets")
    assert (logger.level, list(logger.handlers)) == before


def test_a_table_aligns_numbers_to_the_right():
    text = table(["name", "ms", "note"], [["a", 1.5, None], ["bb", 10.25, "x"]])
    assert text.splitlines() == [
        "name      ms  note",
        "----  ------  ----",
        "a      1.500  -",
        "bb    10.250  x",
    ]


def test_a_table_without_rows_is_its_heading():
    assert table(["name"], []) == "name\n----"
