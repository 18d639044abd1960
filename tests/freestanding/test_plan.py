# SPDX-License-Identifier: Apache-2.0
"""Where tensors lie: none is overwritten while it is needed, and no byte is wasted on the dead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.relax_modules import module
from xnortvm import pipeline
from xnortvm._tvm import relax, relax_transform
from xnortvm.errors import CompileError
from xnortvm.freestanding.kernels import Kernels, aligned, bytes_of
from xnortvm.freestanding.plan import Plan, make_plan
from xnortvm.target import resolve

ALIGNMENT = 64
add, multiply, exp = relax.op.add, relax.op.multiply, relax.op.exp


def plan(body: Any, *shapes: tuple[int, ...], scratch: int = 0) -> Plan:
    """Plan a module, one kernel for each operator, as if every kernel used so much scratch."""
    mod = relax_transform.LegalizeOps()(module(body, *shapes))
    names = [gvar.name_hint for gvar in mod.get_global_vars() if gvar.name_hint != "main"]
    kernels = Kernels("", {name: f"k_{name}" for name in names}, dict.fromkeys(names, scratch))
    return make_plan(mod, kernels, ALIGNMENT)


def chain(length: int) -> Any:
    def body(emit: Any, x: Any) -> Any:
        for _ in range(length):
            x = emit(exp(x))
        return x

    return body


@pytest.mark.parametrize("length", [3, 4, 10])
def test_a_chain_of_any_length_needs_two_tensors(length: int) -> None:
    assert plan(chain(length), (1, 16)).workspace == 2 * 64


def test_an_output_is_written_where_the_caller_wants_it() -> None:
    made = plan(chain(2), (1, 16))
    assert made.steps[-1].pointers[-2] == ("output", 0)
    assert made.steps[0].pointers[0] == ("input", 0)
    assert made.copies == []
    assert made.workspace == 64


def test_every_pointer_is_aligned() -> None:
    made = plan(chain(5), (3, 7), scratch=100)
    places = [place for step in made.steps for place in step.pointers]
    assert all(p.at % ALIGNMENT == 0 for p in places if p.area in ("workspace", "weights"))


def test_a_kernel_does_not_work_in_memory_that_it_reads_or_writes() -> None:
    made = plan(chain(6), (1, 64), scratch=1000)
    for step in made.steps:
        *tensors, scratch = step.pointers
        assert scratch.area == "workspace"
        for place in tensors:
            if place.area == "workspace":
                assert place.at + 256 <= scratch.at or scratch.at + 1000 <= place.at


def test_equal_constants_are_stored_once() -> None:
    def body(emit: Any, x: Any) -> Any:
        for value in (1.0, 2.0, 1.0):
            x = emit(add(x, relax.const(np.full((1, 16), value, np.float32))))
        return x

    made = plan(body, (1, 16))
    assert len(made.weights) == 2 * 64
    found = [p.at for step in made.steps for p in step.pointers if p.area == "weights"]
    assert found == [0, 64, 0]


def test_what_is_no_kernels_output_is_copied() -> None:
    def body(emit: Any, x: Any) -> Any:
        y = emit(exp(x))
        constant = relax.const(np.arange(16, dtype=np.float32))
        return emit(relax.Tuple([y, x, y, constant, emit(relax.op.reshape(y, (4, 4)))]))

    made = plan(body, (1, 16))
    assert [copy.output for copy in made.copies] == [1, 2, 3, 4]
    areas = [copy.source for copy in made.copies]
    assert areas == [("input", 0), ("output", 0), ("weights", 0), ("output", 0)]
    assert {copy.size for copy in made.copies} == {64}


def test_a_view_keeps_alive_what_it_looks_at() -> None:
    def body(emit: Any, x: Any) -> Any:
        early = emit(relax.op.reshape(emit(exp(x)), (4, 4)))
        late = emit(exp(emit(exp(emit(exp(x))))))
        return emit(add(emit(relax.op.reshape(late, (4, 4))), early))

    made = plan(body, (1, 16))
    first, *middle, last = made.steps
    kept = first.pointers[1]
    assert kept in last.pointers[:-1]
    assert all(kept not in step.pointers[:-1] for step in middle)


@pytest.mark.parametrize("seed", range(8))
def test_no_living_tensor_is_overwritten(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def body(emit: Any, *inputs: Any) -> Any:
        values = list(inputs)
        for _ in range(20):
            a, b = (values[i] for i in rng.integers(max(0, len(values) - 6), len(values), 2))
            values.append(emit((add, multiply)[rng.integers(2)](a, b)))
        return values[-1]

    made = plan(body, (int(rng.integers(1, 9)), 16), (1, 16), scratch=int(rng.integers(200)))
    _run(made)


def _run(made: Plan) -> None:
    """Give every written tensor a number; what is read must still hold the number it got."""
    memory = np.zeros(made.workspace, np.int64)
    holds: dict[int, int] = {}
    for number, step in enumerate(made.steps, 1):
        *read, written, scratch = step.pointers
        for place in read:
            if place.area == "workspace":
                assert memory[place.at] == holds[place.at]
        if scratch.area == "workspace" and scratch.at < made.workspace:
            memory[scratch.at] = -number
        if written.area == "workspace":
            memory[written.at : written.at + 64] = number
            holds[written.at] = number


def test_what_is_no_kernel_is_refused_by_name() -> None:
    def body(emit: Any, x: Any) -> Any:
        return emit(relax.op.sort(x))

    mod = module(body, (1, 16))
    with pytest.raises(CompileError, match=r"by relax\.sort, which is no kernel"):
        make_plan(mod, Kernels("", {}, {}), ALIGNMENT)


def test_sizes_are_those_of_numpy() -> None:
    for dtype in ("bool", "int8", "uint16", "float32", "int64"):
        assert bytes_of((3, 5), dtype) == np.zeros((3, 5), dtype).nbytes
    assert bytes_of((), "float32x4") == 16
    assert [aligned(size, 64) for size in (0, 1, 64, 65)] == [0, 64, 64, 128]


def test_a_compiled_network_is_planned_no_larger_than_by_tvm() -> None:
    torch = pytest.importorskip("torch")
    from tests.freestanding.nets import NETS
    from xnortvm import api
    from xnortvm.freestanding.kernels import plain_kernels
    from xnortvm.transform.kernel_rows import planned_activations

    assert torch
    target, net = resolve("rpi4"), NETS["lenet"]()
    graph = api.lower(net.module, example_inputs=net.inputs)
    mod = pipeline.run(graph, pipeline.kernel_phases(target))
    kernels = plain_kernels(mod, target, "net", ALIGNMENT)
    made = make_plan(mod, kernels, ALIGNMENT)
    most = max(kernels.scratch.values())
    assert made.workspace <= planned_activations(mod) + most
