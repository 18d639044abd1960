# SPDX-License-Identifier: Apache-2.0
"""Records: none is lost, none is applied where it does not belong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from xnortvm.errors import OutputError
from xnortvm.schedules.decisions import Decisions
from xnortvm.schedules.tiling import Tile
from xnortvm.target import resolve
from xnortvm.tuning.find import VARIABLE, chooser, file_for, find_records, shipped_folder
from xnortvm.tuning.records import Machine, Record, Records, append_line, merge, prune
from xnortvm.tuning.task import Key

HERE = resolve("llvm -mcpu=znver4")
KEY = Key("bconv2d", ((1, 14, 14, 2), (64, 3, 3, 2)), "strides=1,1", "astype -> float32")
DECISIONS = Decisions("word", 14, Tile(1, 7, 1), 2)


def record(**changes) -> Record:
    made = Record("best", KEY, Machine.of(HERE), DECISIONS, us=8.0, rule_us=10.0)
    return replace(made, **changes)


def written(path: Path, *records: Record) -> Records:
    for each in records:
        append_line(path, each.to_line())
    return Records(path)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    records = [record(), record(kind="trial", us=None, rule_us=None, failure="crash: SIGSEGV")]
    assert list(written(tmp_path / "r.jsonl", *records)) == records


def test_two_processes_that_write_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.jsonl"
    code = (
        "import sys; from pathlib import Path; from xnortvm.tuning.records import append_line\n"
        "for i in range(300): append_line(Path(sys.argv[1]), sys.argv[2] * 500 + str(i))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(path)]
    both = [subprocess.Popen([*command, name], env=environment) for name in "ab"]
    assert [each.wait() for each in both] == [0, 0]
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(name * 500 + str(i) for name in "ab" for i in range(300))


def test_a_rewrite_between_two_appends_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    written(path, record())
    prune(path)
    assert len(written(path, record(us=7.0))) == 2


def test_a_line_cut_off_by_kill_is_skipped_and_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    written(path, record())
    with path.open("a") as file:
        file.write(record(us=7.5).to_line()[:100])
    records = written(path, record(us=7.0))
    assert [each.us for each in records] == [8.0, 7.0]
    assert len(records.damaged) == 1
    assert "line 2 is damaged and skipped" in records.damaged[0]


@pytest.mark.parametrize(
    "line", ["[1]", "null", '{"format":1}', '{"format":1,"kind":"best","us":-1}', "\x00\xff{"]
)
def test_damaged_lines_never_stop_the_reader(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.jsonl"
    append_line(path, line)
    records = written(path, record())
    assert (len(records), len(records.damaged)) == (1, 1)


@pytest.mark.parametrize("wrong", [{"us": "fast"}, {"us": 0}, {"kind": "good"}, {"colour": 1}])
def test_fields_without_meaning_make_a_line_damaged(tmp_path: Path, wrong: dict) -> None:
    path = tmp_path / "r.jsonl"
    append_line(path, json.dumps(json.loads(record().to_line()) | wrong))
    assert len(Records(path).damaged) == 1


def test_other_versions_and_targets_are_kept_and_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    others = [
        record(xnortvm="0.0.1"),
        record(tvm="0.26"),
        record(target=replace(Machine.of(HERE), mcpu="znver3")),
        record(target=replace(Machine.of(HERE), threads=2)),
    ]
    written(path, *others)
    append_line(path, '{"format":2,"whatever":"it means"}')
    assert Records(path).best(KEY, HERE) is None
    assert chooser(Records(path), HERE) is None
    prune(path)
    assert set(others) <= set(Records(path))
    assert Records(path).other == ['{"format":2,"whatever":"it means"}']


def test_the_largest_gain_is_applied(tmp_path: Path) -> None:
    slow_machine = record(us=80.0, rule_us=88.0)
    records = written(tmp_path / "r.jsonl", record(), slow_machine)
    assert records.best(KEY, HERE) == record()
    assert chooser(records, HERE)(KEY) == (DECISIONS, "tuned")


def test_a_record_that_found_the_rule_best_leaves_the_kernel_to_the_rule(tmp_path: Path) -> None:
    records = written(tmp_path / "r.jsonl", record(us=10.0))
    assert chooser(records, HERE)(KEY) is None


def test_merging_twice_adds_nothing(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    written(one, record())
    written(two, record(), record(us=7.0))
    assert merge(one, [two]) == 1
    assert merge(one, [two]) == 0
    assert [each.us for each in Records(one)] == [8.0, 7.0]


def test_pruning_leaves_the_best_of_each_kernel(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    other = replace(KEY, epilogue="-> int32")
    written(path, record(us=9.0), record(), record(kind="trial"), record(key=other, us=9.9))
    append_line(path, "damaged")
    assert prune(path) == (5, 2)
    assert [each.us for each in Records(path)] == [8.0, 9.9]


def test_a_full_disk_is_said_in_one_sentence() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with pytest.raises(OutputError, match="cannot be written to /dev/full"):
        append_line(Path("/dev/full"), record().to_line())


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written to .*name another file"):
        append_line(tmp_path / "file" / "r.jsonl", "{}")


def test_a_read_only_file_is_said_and_still_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.jsonl")
        written(path, record())
        path.chmod(0o444)
        Path(folder).chmod(0o755)
        with _unprivileged():
            with pytest.raises(OutputError, match=r"Permission denied.* name another file"):
                Records(path).check()
            with pytest.raises(OutputError, match="Permission denied"):
                append_line(path, "{}")
            assert len(Records(path)) == 1


@contextlib.contextmanager
def _unprivileged() -> Iterator[None]:
    """Be somebody for whom permissions count: root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    written(path, record())
    before = path.read_bytes()
    Records(path).check()
    assert path.read_bytes() == before


def test_a_folder_holds_one_file_for_each_cpu(tmp_path: Path) -> None:
    assert file_for(tmp_path, HERE) == tmp_path / "znver4.jsonl"
    assert file_for(tmp_path / "my.jsonl", HERE) == tmp_path / "my.jsonl"
    assert file_for(tmp_path, resolve("rpi4")) == tmp_path / "cortex-a72.jsonl"


def test_records_can_be_chosen_and_switched_off(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "znver4.jsonl"
    written(path, record())
    assert find_records(False, HERE) is None
    assert len(find_records(tmp_path, HERE)) == len(find_records(str(path), HERE)) == 1
    monkeypatch.setenv(VARIABLE, "off")
    assert find_records(None, HERE) is None
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert len(find_records(None, HERE)) == 1
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    append_line(tmp_path / "cache/xnortvm/records/znver4.jsonl", record(us=2.0).to_line())
    assert find_records(None, HERE).best(KEY, HERE).us == 2.0


@pytest.mark.parametrize("path", sorted(shipped_folder().glob("*.jsonl")), ids=lambda p: p.stem)
def test_shipped_records_are_winners_of_the_cpu_that_names_their_file(path: Path) -> None:
    records = Records(path)
    assert not records.damaged
    assert {each.kind for each in records} == {"best"}
    assert {each.target.mcpu for each in records} == {path.stem}
    assert len({(each.key, each.target) for each in records}) == len(records)
    modelled = path.stem.startswith("cortex")
    assert all(each.unit.startswith("modelled cycles") == modelled for each in records)
    assert all(each.gain >= 1.0 for each in records)
