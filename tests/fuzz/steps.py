# SPDX-License-Identifier: Apache-2.0
"""The steps that networks are made of: how each is applied, and how hypothesis draws it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.fuzz import layer_steps, other_steps
from tests.fuzz.build import Args, Build
from tests.fuzz.other_steps import MOVES
from tests.fuzz.pointwise import POINTWISE
from tests.fuzz.spec import Step
from tests.idioms.signs import SIGNS
from tests.idioms.weights import WEIGHTS

CHANNELS = [1, 2, 3, 4, 6, 8, 16, 31, 32, 33, 64, 65]


class Rule(NamedTuple):
    """A kind of step.

    Attributes
    ----------
    apply : callable
        Adds to the network; False when no value fits.
    args : strategy
        Of its args.
    """

    apply: Callable[[Build, Step], bool]
    args: st.SearchStrategy[Args]


_bool = st.booleans()
_rare = st.sampled_from([False] * 7 + [True])
_sign_name = st.sampled_from(list(SIGNS))
_channels = st.sampled_from(CHANNELS)


def _two(*values: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.sampled_from(values), min_size=2, max_size=2)


_chain = st.lists(st.sampled_from(list(POINTWISE)), max_size=4)
_layer: dict[str, st.SearchStrategy[Any]] = {
    "sign": _sign_name,
    "weight": st.sampled_from([*WEIGHTS, "Sign", "Sign", "MeanPerFilter"]),
    "zeros": _rare,
    "outputs": _channels,
    "bias": _bool,
    "before": st.lists(st.sampled_from(list(POINTWISE)), max_size=2),
    "after": _chain,
}

STEPS: dict[str, Rule] = {
    "conv": Rule(
        layer_steps.conv,
        st.fixed_dictionaries(
            _layer
            | {
                "kernel": _two(1, 3, 2, 5),
                "stride": _two(1, 2, 3),
                "dilation": _two(1, 1, 2),
                "padding": _two(0, 1, 2),
                "groups": st.sampled_from(["1", "1", "2", "all"]),
                "pad": st.sampled_from([None, None, None, 0, 1, -1]),
                "skew": st.sampled_from([0, 0, 1]),
                "twice": _rare,
                "residual": _bool,
                "k": _rare,
            }
        ),
    ),
    "linear": Rule(
        layer_steps.linear,
        st.fixed_dictionaries(
            _layer | {"flatten": st.sampled_from(["after", "before"]), "rows": _rare}
        ),
    ),
    "again": Rule(layer_steps.again, st.just({})),
    "sign": Rule(other_steps.sign, st.fixed_dictionaries({"sign": _sign_name})),
    "pointwise": Rule(
        other_steps.pointwise, st.fixed_dictionaries({"kind": st.sampled_from(list(POINTWISE))})
    ),
    "pool": Rule(
        other_steps.window,
        st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["max", "average"]),
                "size": st.sampled_from([2, 3]),
                "stride": st.sampled_from([2, 1]),
                "padding": st.sampled_from([0, 1]),
                "ceil": _bool,
                "count": _bool,
            }
        ),
    ),
    "sum": Rule(
        other_steps.add,
        st.fixed_dictionaries(
            {"kind": st.sampled_from(["sum", "sum", "product"]), "y": st.integers(0, 5)}
        ),
    ),
    "concat": Rule(other_steps.concat, st.fixed_dictionaries({"y": st.integers(0, 5)})),
    "move": Rule(other_steps.move, st.fixed_dictionaries({"kind": st.sampled_from(list(MOVES))})),
    "real conv": Rule(
        layer_steps.real_conv, st.fixed_dictionaries(_layer | {"kernel": _two(1, 3)})
    ),
    "transposed": Rule(
        layer_steps.transposed,
        st.fixed_dictionaries(
            _layer
            | {
                "kernel": _two(2, 3, 1),
                "stride": _two(2, 1),
                "padding": _two(0, 1),
                "groups": st.sampled_from(["1", "2"]),
            }
        ),
    ),
    "gate": Rule(other_steps.gate, st.just({})),
    "downsample": Rule(other_steps.downsample, st.fixed_dictionaries({"outputs": _channels})),
}
"""Kind of step by name."""
