# SPDX-License-Identifier: Apache-2.0
"""Transfer: kernels without a record get the decisions of those that are like them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tvm_ffi

import xnortvm
from tests.schedules.test_decisions import bare
from tests.tuning.networks import binary_task, network
from xnortvm.api import lower as lower_model
from xnortvm.schedules import DECIDED_BY
from xnortvm.schedules.decisions import Decisions
from xnortvm.schedules.tiling import Tile
from xnortvm.target import resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.transform.group import group_epilogues
from xnortvm.transform.stem import mark_stem
from xnortvm.tuning.find import chooser
from xnortvm.tuning.nearest import FARTHEST, distance, neighbours, worth_trying
from xnortvm.tuning.records import Machine, Record, Records
from xnortvm.tuning.search import Options, Search
from xnortvm.tuning.space import lower, space_of
from xnortvm.tuning.task import Key, tasks_of

HERE = resolve("llvm -mcpu=znver4")
ATTRIBUTES = "channels=64 offset=0 padding=1,1,1,1 strides=1,1"
KEY = Key("bconv2d", ((1, 28, 28, 2), (64, 3, 3, 2)), ATTRIBUTES, "less bitpack -> uint32")
TILE = Decisions("word", 28, Tile(7, 1, 2), 2)


def sized(rows: int, words: int, channels: int, **changes) -> Key:
    attributes = ATTRIBUTES.replace("=64", f"={32 * words}")
    shapes = ((1, rows, rows, words), (channels, 3, 3, words))
    return replace(KEY, shapes=shapes, attributes=attributes, **changes)


def winner(key: Key, gain: float = 1.1, **changes) -> Record:
    made = Record("best", key, Machine.of(HERE), TILE, us=100.0 / gain, rule_us=100.0)
    return replace(made, **changes)


def of(*records: Record) -> Records:
    found = Records()
    found.records = list(records)
    return found


def test_a_distance_adds_up_what_sizes_differ_by() -> None:
    assert distance(KEY, KEY) == 0
    assert distance(KEY, sized(28, 2, 128)) == 1
    assert distance(sized(56, 2, 64), sized(28, 4, 128)) == 5 > FARTHEST
    strided = replace(KEY, attributes=ATTRIBUTES.replace("strides=1,1", "strides=2,2"))
    assert distance(KEY, strided) == 2
    assert distance(KEY, replace(KEY, epilogue="multiply add bitpack -> uint32")) == 0


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, op="conv2d"),
        replace(KEY, epilogue="-> float32"),
        replace(KEY, attributes=ATTRIBUTES.replace("offset=0", "offset=1")),
        replace(KEY, shapes=((1, 56), (56, 2))),
    ],
)
def test_kernels_of_another_kind_have_no_distance(other: Key) -> None:
    assert distance(KEY, other) is None
    assert neighbours(KEY, [winner(other)]) == []


def test_the_nearest_winner_decides_and_is_named() -> None:
    near, far = sized(28, 2, 128), sized(28, 4, 64)
    choose = chooser(of(winner(far), winner(near)), HERE)
    assert distance(KEY, far) == 2
    assert choose(KEY) == (
        replace(winner(near).decisions, width=0),
        "nearest (1×28×28×2 * 128×3×3×2)",
    )


def test_a_record_of_the_kernel_itself_goes_before_the_nearest() -> None:
    own = winner(KEY, decisions=Decisions("word", 28, Tile(1, 7, 1), 2))
    assert chooser(of(own, winner(sized(28, 2, 128))), HERE)(KEY) == (own.decisions, "tuned")
    rule_is_best = winner(KEY, gain=1.0)
    assert chooser(of(rule_is_best, winner(sized(28, 2, 128))), HERE)(KEY) is None


def test_where_the_nearest_found_the_rule_best_the_rule_decides() -> None:
    nearest, behind = winner(sized(28, 2, 128), gain=1.0), winner(sized(28, 2, 256))
    assert chooser(of(nearest, behind), HERE)(KEY) is None


def test_records_that_are_too_far_away_are_not_asked() -> None:
    assert chooser(of(winner(sized(7, 4, 256))), HERE)(KEY) is None


def test_only_tile_and_block_are_taken_over_and_only_where_they_are_legal() -> None:
    task, target = binary_task(Layer(3, 64, 13, 64, 1)), HERE
    rule = space_of(task, target).rule
    assert rule.width == 14  # wider than the map
    theirs = Decisions("word", 0, Tile(1, 2, 1), rule.block)
    taken = lower(task, target, theirs, scheduled=True).func
    same = lower(task, target, replace(theirs, width=14), scheduled=True).func
    assert str(taken.attrs[DECIDED_BY]) == "tuned"
    assert tvm_ffi.structural_equal(bare(taken), bare(same))
    by_rule = bare(lower(task, target, None, scheduled=True).func)
    for wrong in (replace(theirs, tile=Tile(1, 5, 1)), replace(theirs, form="table")):
        left = lower(task, target, wrong, scheduled=True).func
        assert str(left.attrs[DECIDED_BY]) == "rule"
        assert tvm_ffi.structural_equal(bare(left), by_rule)


def test_near_winners_are_candidates_right_after_the_rule(tmp_path) -> None:
    target, task = resolve("llvm"), binary_task(Layer(3, 32, 8, 32, 1))
    legal = space_of(task, target).legal
    wanted = legal[-1] if legal[-1].width == legal[0].width else legal[5]
    near = replace(task.key, shapes=((1, 16, 8, 1), task.key.shapes[1]))
    record = Record("best", near, Machine.of(target), wanted, us=1.0, rule_us=2.0)
    assert worth_trying(legal, [record]) == [replace(wanted, width=legal[0].width)]
    path = tmp_path / "r.jsonl"
    run = Search([task], target, Records(path), Options(trials=2, builders=1), known=of(record))
    run.run()
    tried = [each.decisions for each in Records(path) if each.kind == "trial"]
    assert tried == [legal[0], replace(wanted, width=legal[0].width)]


def test_the_report_says_what_was_taken_from_the_nearest_record() -> None:
    model, x = network()
    target = resolve("llvm")
    grouped = group_epilogues(mark_stem(lower_model(model, example_inputs=x)))
    task = next(each for each in tasks_of(grouped) if each.key.op == "bconv2d")
    other = next(d for d in space_of(task, target).legal[1:] if d.width == 8)
    near = replace(task.key, shapes=((1, 16, 16, 1), task.key.shapes[1]))
    record = Record("best", near, Machine.of(target), other, us=1.0, rule_us=2.0)
    tuned = xnortvm.compile(model, example_inputs=x, target=target, records=of(record))
    found = {row.name: row.decided_by for row in tuned.report.layers}
    assert found == dict.fromkeys("06", "rule") | dict.fromkeys(
        "24", "nearest (1×16×16×1 * 32×3×3×1)"
    )
    assert "nearest (1×16×16×1" in str(tuned.report)
    assert tuned.report.verification is not None
