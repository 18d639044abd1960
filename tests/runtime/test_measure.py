# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, profiles and traces: what they count, what they print."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from xnortvm._tvm import relax
from xnortvm.errors import InputError
from xnortvm.runtime.interface import Kernel
from xnortvm.runtime.measure import BenchmarkResult, Profile

from .conftest import compiled_model

X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype("float32")


def test_a_benchmark_counts_its_runs(model):
    result = model.benchmark(repeats=7, warmup=1)
    assert result.runs == 7
    assert 0 < result.min_ms <= result.median_ms
    assert result.min_ms <= result.mean_ms
    assert "ms (milliseconds) per call" in str(result)
    assert "7 calls on 1 thread" in str(result)
    assert json.loads(json.dumps(result.to_json()))["runs"] == 7


def test_a_benchmark_takes_inputs_of_either_kind(model):
    assert model.benchmark([X], repeats=1).runs == 1
    assert model.benchmark([torch.from_numpy(X)], repeats=1).runs == 1
    assert model.benchmark(X, repeats=1).runs == 1


def test_a_benchmark_checks_inputs_and_repeats(model):
    with pytest.raises(InputError, match="must be float32"):
        model.benchmark([X.astype("float64")])
    with pytest.raises(InputError, match="repeats=0"):
        model.benchmark(repeats=0)


def test_the_result_summarises_times():
    result = BenchmarkResult.of([3.0, 1.0, 8.0], num_threads=2)
    assert (result.median_ms, result.min_ms, result.mean_ms) == (3.0, 1.0, 4.0)
    assert "2 threads" in str(result)


def test_a_profile_has_a_row_for_every_kernel(model):
    profile = model.profile([X], repeats=3)
    assert {row.kernel: row.calls for row in profile.rows} == {"add": 2, "relu": 1}
    assert sum(row.share for row in profile.rows) == pytest.approx(1)
    assert profile.total_us == pytest.approx(sum(row.median_us for row in profile.rows))
    text = str(profile)
    assert "µs (microseconds)" in text
    assert "share %" in text
    assert json.loads(json.dumps(profile.to_json()))["runs"] == 3


def test_a_profile_leaves_the_model_as_it_was(model):
    before = model(X)
    model.profile([X], repeats=2)
    np.testing.assert_array_equal(model(X), before)


def test_a_profile_finds_the_slow_kernel():
    def body(builder, x):
        slow = builder.emit(relax.op.matmul(x, x))
        return builder.emit(relax.op.nn.relu(slow))

    rows = compiled_model([("x", (200, 200), "float32")], body).profile(repeats=3).rows
    assert rows[0].kernel == "matmul"
    assert rows[0].share > 0.5


def test_a_profile_joins_layers_and_schedules():
    sites = [("k0", [2.0, 4.0, 3.0]), ("k1", [1.0, 1.0, 1.0]), ("k0", [6.0, 5.0, 7.0])]
    kernels = {"k0": Kernel(("conv1", "conv2", "conv3"), "bconv2d.avx2")}
    profile = Profile.of(sites, kernels)
    first, second = profile.rows
    assert (first.kernel, first.calls, first.median_us) == ("k0", 2, 9.0)
    assert first.layers == ("conv1", "conv2", "conv3")
    assert (second.layers, second.schedule) == ((), "")
    assert "conv1, conv2 +1" in str(profile)


def test_a_trace_has_every_kernel_call_with_its_data(model):
    calls = model.trace([X])
    assert [call.kernel for call in calls] == ["add", "add", "relu"]
    *_, result = calls[-1].args
    np.testing.assert_array_equal(result, model(X))
    np.testing.assert_array_equal(calls[0].args[0], X)
    np.testing.assert_array_equal(calls[1].args[0], calls[0].args[-1])


def test_traced_data_is_not_overwritten_later(model):
    calls = model.trace([X])
    kept = calls[0].args[-1].copy()
    model(np.zeros_like(X))
    np.testing.assert_array_equal(calls[0].args[-1], kept)
