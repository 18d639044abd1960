# SPDX-License-Identifier: Apache-2.0
"""Examples for self-tests: inputs whose outputs do not hang on rounding, and an honest bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xnortvm.runtime.interface import TensorSpec
from xnortvm.tools.example_data import ROUNDING, choose, draw
from xnortvm.tools.model_arg import Source


def test_inputs_with_a_sign_close_to_zero_are_passed_over():
    def step(x):
        return np.where(x >= 1.0, 1.0, -1.0).astype("float32")

    values = {0: 1.0, 1: 1.0 + 2**-22, 2: 3.0}
    example = choose(step, lambda seed: [np.float32([values[seed]])])
    assert example.inputs[0] == [3.0]
    assert example.bound == ROUNDING


def test_a_model_that_amplifies_rounding_gets_the_bound_that_it_needs():
    def cancelling(x):
        return (x - np.float32(1)) * np.float32(1000)

    example = choose(cancelling, lambda seed: [np.float32([1.5, 1.001])], tries=2)
    assert ROUNDING < example.bound < 0.1


def test_integers_are_left_as_they_are():
    specs = [TensorSpec("tokens", ("batch", 3), "int64")]
    (tokens,) = draw(specs, Source("m.onnx", Path("m.onnx")), 0)
    assert (tokens.shape, tokens.dtype) == ((1, 3), np.dtype("int64"))
    example = choose(lambda x: (x, x + 1), lambda seed: [tokens])
    assert len(example.outputs) == 2
    assert example.bound == ROUNDING
