# SPDX-License-Identifier: Apache-2.0
"""What a rule decides can be listed, recorded and applied again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm_ffi

from tests.tuning.networks import binary_task
from xnortvm._tvm import ir, runtime, tvm
from xnortvm.schedules import DECIDED_BY
from xnortvm.schedules.decisions import DECIDED_KEY, DECISIONS, ORIGIN, Decisions
from xnortvm.schedules.isa import ISAS
from xnortvm.schedules.tiling import Tile
from xnortvm.target import resolve
from xnortvm.tools.layer_modules import Layer
from xnortvm.tuning.space import lower, random_inputs, space_of

CPUS = ("llvm -mcpu=znver4", "llvm -mcpu=haswell", "rpi4")
LAYERS = (Layer(3, 64, 14, 64, 1), Layer(3, 32, 13, 48, 2), Layer(1, 256, 0, 128, 1))


def bare(func):
    for mark in (DECISIONS, ORIGIN, DECIDED_KEY, DECIDED_BY):
        func = func.without_attr(mark)
    return func


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_rules_decisions_applied_give_the_rules_code(cpu: str, layer: Layer) -> None:
    task, target = binary_task(layer), resolve(cpu)
    space = space_of(task, target)
    by_rule = lower(task, target, None, scheduled=True).func
    applied = lower(task, target, space.rule, scheduled=True).func
    assert space.legal[0] == space.rule
    assert str(by_rule.attrs[DECIDED_BY]) == "rule"
    assert str(applied.attrs[DECIDED_BY]) == "tuned"
    assert tvm_ffi.structural_equal(bare(by_rule), bare(applied))


def output_of(task, target, decisions):
    made = lower(task, target, decisions, scheduled=True)
    assert str(made.func.attrs[DECIDED_BY]) == "tuned"
    inputs = random_inputs(made)
    library = tvm.compile(ir.IRModule({"k": made.func.with_attr("global_symbol", "k")}), target.tvm)
    outputs = [runtime.tensor(np.zeros(*each)) for each in made.outputs]
    given = [inputs[each] if isinstance(each, int) else each for each in made.arguments]
    library["k"](*map(runtime.tensor, given), *outputs)
    return [each.numpy() for each in outputs]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_legal_decisions_compute_the_same_bits(layer: Layer) -> None:
    task, target = binary_task(layer), resolve("llvm")
    space = space_of(task, target)
    expected = output_of(task, target, space.rule)
    for decisions in space.legal[1 :: max(len(space.legal) // 12, 1)]:
        for ours, rules in zip(output_of(task, target, decisions), expected, strict=True):
            assert np.array_equal(ours, rules), decisions


def test_every_form_of_an_instruction_set_is_in_the_space() -> None:
    task = binary_task(Layer(3, 64, 14, 64, 1))
    forms = {d.form for d in space_of(task, resolve("llvm -mcpu=haswell")).legal}
    assert forms == {"table", "byte"}
    assert "byte" in {d.form for d in space_of(task, resolve("rpi4")).legal}


def test_maps_may_be_computed_wider() -> None:
    space = space_of(binary_task(Layer(3, 64, 13, 64, 1)), resolve("llvm -mcpu=znver4"))
    assert {d.width for d in space.legal} == {13, 14, 15, 16}


def test_illegal_decisions_leave_the_kernel_to_the_rule() -> None:
    task, target = binary_task(Layer(3, 64, 14, 64, 1)), resolve("llvm -mcpu=znver4")
    wrong = Decisions("word", 14, Tile(1, 5, 1), 2)  # 5 does not divide 14
    made = lower(task, target, wrong, scheduled=True).func
    assert str(made.attrs[DECIDED_BY]) == "rule"
    assert tvm_ffi.structural_equal(
        bare(made), bare(lower(task, target, None, scheduled=True).func)
    )


def test_decisions_survive_json() -> None:
    decisions = Decisions("table", 8, Tile(1, 4, 2), 4)
    assert Decisions.from_json(json.loads(json.dumps(decisions.to_json()))) == decisions


@pytest.mark.parametrize("data", [None, {}, {"form": "word", "width": 3, "tile": [1], "block": 1}])
def test_other_data_are_refused(data: object) -> None:
    with pytest.raises(ValueError, match="no decisions"):
        Decisions.from_json(data)


@pytest.mark.parametrize("name", sorted(ISAS))
def test_a_row_can_be_kept_to_each_of_its_forms(name: str) -> None:
    isa = ISAS[name]
    assert isa.forms[-1] == isa.popcount
    for form in isa.forms:
        assert isa.counting(form).forms in ((form,), (form, isa.popcount))
