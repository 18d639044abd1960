# SPDX-License-Identifier: Apache-2.0
"""Hypothesis draws specs."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.spec import Spec, Step
from tests.fuzz.steps import CHANNELS, STEPS
from tests.fuzz.ways import OPSETS, WAYS

#: Most networks are mostly binary layers.
_OPS = ["conv"] * 8 + ["linear"] * 2 + ["pointwise", "pool", "sum", "concat", "move"] * 2
_OPS += [name for name in STEPS if name not in _OPS]


def _step(op: str) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(op), st.sampled_from([0, 0, 0, 1, 2, 3]), STEPS[op].args)


_steps = st.sampled_from(_OPS).flatmap(_step)
_enter = st.lists(st.sampled_from(["real conv", "sign", "pool"]).flatmap(_step), max_size=1)


def _exportable(step: Step) -> Step:
    """ONNX has no copysign."""
    if step.args.get("sign") != "copysign":
        return step
    return Step(step.op, step.x, step.args | {"sign": "sign"})


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Random networks of one to eight steps, one of them at least a binary layer."""
    batch = draw(st.sampled_from([1, 2, 3]))
    shape = st.one_of(
        st.tuples(st.sampled_from(CHANNELS), st.integers(1, 7), st.integers(1, 7)),
        st.tuples(st.sampled_from(CHANNELS), st.integers(3, 9)),
        st.tuples(st.sampled_from(CHANNELS)),
    )
    maps = st.tuples(st.sampled_from(CHANNELS), st.integers(3, 7), st.integers(3, 7))
    first = draw(st.one_of(maps, maps, maps, shape))
    inputs = [list(first)]
    if draw(st.sampled_from([False, False, True])):
        inputs.append(draw(st.sampled_from([list(first), draw(shape)])))
    way = draw(st.sampled_from(list(WAYS)))
    layer = "conv" if len(first) > 1 else "linear"
    steps = [*draw(_enter), draw(_step(layer)), *draw(st.lists(_steps, max_size=6))]
    if way.startswith("onnx"):
        steps = [_exportable(step) for step in steps]
    return Spec(
        inputs=[[batch, *each] for each in inputs],
        steps=steps,
        way=way,
        opset=draw(st.sampled_from(OPSETS[way])) if way in OPSETS else 0,
        params=draw(st.sampled_from(["normal", "few"])),
        data=draw(st.sampled_from(["normal", "few"])),
        seed=draw(st.integers(0, 2**16)),
        verify=draw(st.sampled_from([False, False, True])),
    )
