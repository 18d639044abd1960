# SPDX-License-Identifier: Apache-2.0
"""Every family of kernels that takes a model gets into the bundle, not only the chosen one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ops.kernel_cases import bdense_case
from xnortvm.errors import MissingDependencyError
from xnortvm.runtime.cuda_compiler import find_cuda_compiler
from xnortvm.schedules.cuda.dispatch import (
    FAMILIES,
    families_for,
    make_kernel,
    with_tile,
    without,
)
from xnortvm.schedules.cuda.weights import PREPARED, WeightLayout
from xnortvm.schedules.cuda.wgmma_tile import Tile
from xnortvm.schedules.isa import gpu
from xnortvm.tools.gpu_bundle.build import build
from xnortvm.tools.gpu_bundle.cases import cases
from xnortvm.tools.gpu_bundle.layers import BATCHES, LAYERS


def test_families_can_be_left_out_for_a_while() -> None:
    names = [family.name for family in families_for(None, "sm_90a")]
    assert "direct" in names
    with without(["direct"]), without(["no such family"]):
        assert "direct" not in [family.name for family in families_for(None, "sm_90a")]
    assert [family.name for family in families_for(None, "sm_90a")] == names


def test_the_last_families_are_those_that_take_everything() -> None:
    assert [family.name for family in FAMILIES[-2:]] == ["direct", "fallback"]


def test_names_are_unique_and_every_layer_is_timed_at_every_batch() -> None:
    found = list(cases())
    assert len({case.name for case in found}) == len(found)
    times = {(case.layer, case.batch) for case in found if case.kind == "times"}
    layers = {(layer.name, batch) for layer in LAYERS for batch in BATCHES}
    assert times == layers | {("gemm 4096-4096", 4096), ("gemm 256-1024", 50176)}
    assert {case.kind for case in found} == {"exact", "times", "network"}


def test_a_model_is_compiled_by_each_family_that_takes_it(tmp_path: Path) -> None:
    try:
        find_cuda_compiler()
    except MissingDependencyError:
        pytest.skip("needs nvcc or NVRTC")
    chosen = [case for case in cases() if case.name == "convolution-c64_14"]
    build(tmp_path / "b", chosen, targets=["cuda -arch=sm_80"], pythons=(), ceilings=("75",))
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    families = [row["name"].split("+")[1] for row in manifest["models"]]
    assert families[0].startswith("mma")
    assert families[-1] == "direct"
    assert len(set(families)) == len(families) >= 3
    assert manifest["arches"] == ["sm_80"]
    for row in manifest["models"]:
        schedules = {k["schedule"] for k in row["kernels"].values() if k["binary"]}
        assert schedules == {f"{row['name'].split('+')[1]}.sm_80"}


def test_a_product_is_compiled_with_the_tiles_of_its_family(tmp_path: Path) -> None:
    try:
        find_cuda_compiler()
    except MissingDependencyError:
        pytest.skip("needs nvcc or NVRTC")
    (case,) = (case for case in cases() if case.name == "tiles-gemm_odd")
    family, tile = case.tiles[-1]
    case = case._replace(kind="times", tiles=(("mma_xor", tile), (family, tile)))
    with without(["mma_and", "tile"]):
        build(tmp_path / "b", [case], targets=["h200"], pythons=(), ceilings=("75",))
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    names = [row["name"].partition("+")[2] for row in manifest["models"]]
    assert names == ["wgmma_gemm", "direct", "wgmma_gemm_64x4x2x0"]


def test_tiles_are_those_of_the_family_alone() -> None:
    func = bdense_case(64, 512, 64, gpu("sm_90a")).func
    with with_tile("wgmma_gemm", Tile(64, 3)):
        made, family = make_kernel(func, "sm_90a")
        assert family == "wgmma_gemm"
        layout = WeightLayout.from_json(str(made.attrs[PREPARED]))
        assert layout.tile == 64
        assert make_kernel(func, "sm_80")[1] == "mma_xor"
    assert WeightLayout.from_json(str(make_kernel(func, "sm_90a")[0].attrs[PREPARED])).tile == 32
