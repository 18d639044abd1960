# SPDX-License-Identifier: Apache-2.0
"""Promises of saved models: they come back as they were, and damage is said clearly."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from xnortvm.errors import ModelError, OutputError
from xnortvm.models import (
    CHECKPOINTS,
    SCALES,
    binarize,
    build,
    freeze_,
    load,
    random_input,
    real_twin,
    save,
)
from xnortvm.models.files import write_atomically


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond `room` bytes, as the kernel does it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_saved_model_comes_back_with_the_same_output(
    scale: str, frozen: bool, tmp_path: Path
) -> None:
    model = build("lenet", input_size=8, channels=(4, 8), hidden=16, scale=scale)
    if frozen:
        freeze_(model)
    x = random_input(model, batch=3)
    save(model, tmp_path / "net", trained={"test_accuracy": 0.5})
    for name in ("net", "net.safetensors", "net.json"):
        assert torch.equal(load(tmp_path / name)(x), model(x))


def test_the_json_says_what_rebuilds_the_model_and_how_it_was_trained(tmp_path: Path) -> None:
    model = build("lenet", input_size=(8, 9), scale="dense")
    path = save(model, tmp_path / "net.safetensors", trained={"data": "digits"})
    note = json.loads(path.with_suffix(".json").read_text())
    assert note["network"] == "lenet"
    assert note["options"] == {"input_size": [8, 9], "scale": "dense"}
    assert note["trained"] == {"data": "digits"}


def test_the_weights_alone_are_enough(tmp_path: Path) -> None:
    model = build("lenet", input_size=8)
    path = save(model, tmp_path / "net")
    path.with_suffix(".json").unlink()
    x = random_input(model)
    assert torch.equal(load(path)(x), model(x))


def test_a_real_twin_comes_back_without_binary_layers(tmp_path: Path) -> None:
    twin = real_twin(build("lenet", input_size=8)).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load(save(twin, tmp_path / "net"))(x), twin(x))


def test_a_binarized_network_comes_back_from_its_base(tmp_path: Path) -> None:
    base = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 2))
    x = torch.randn(2, 3, 8, 8)
    model = binarize(base, example_inputs=x).eval()
    path = save(model, tmp_path / "net")
    assert torch.equal(load(path, base=base)(x), model(x))
    with pytest.raises(ModelError, match=r"binarized torch.*Sequential.*pass base="):
        load(path)
    with pytest.raises(ModelError, match="no layer '1'"):
        load(path, base=nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_the_shipped_checkpoint_is_small_and_of_case_4() -> None:
    files = list(CHECKPOINTS.glob("*"))
    assert {path.name for path in files} == {"digits.safetensors", "digits.json"}
    assert sum(path.stat().st_size for path in files) < 1_000_000
    assert load(CHECKPOINTS / "digits").conv.conv.scale.name == "channel×height×width"


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.safetensors does not exist"):
        load(tmp_path / "none")
    with pytest.raises(ModelError, match="not the name of a checkpoint"):
        load(tmp_path / "none.pth")


def test_a_cut_checkpoint_is_damaged(tmp_path: Path) -> None:
    path = save(build("lenet", input_size=8), tmp_path / "net")
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=f"net.safetensors is damaged: {size} bytes"):
            load(path)


def test_a_single_wrong_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    path = save(build("lenet", input_size=8), tmp_path / "net")
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelError, match="its weights are not those that were saved"):
        load(path)


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="does not say of which network"):
        load(tmp_path / "other")
    (tmp_path / "other.json").write_text("{")
    with pytest.raises(ModelError, match=r"description of .* is damaged"):
        load(tmp_path / "other")
    (tmp_path / "other.json").write_text('{"format": 7}')
    with pytest.raises(ModelError, match="has format 7"):
        load(tmp_path / "other")


def test_another_input_size_names_the_layer_and_both_sizes(tmp_path: Path) -> None:
    for scale in ("dense", "channel×spatial", "channel×height×width"):
        path = save(build("lenet", input_size=8, scale=scale), tmp_path / "net")
        message = r"layer 'conv\.conv': .* maps of 4×4 .* built for 8×8"
        with pytest.raises(ModelError, match=message):
            load(path, input_size=16)


def test_running_on_another_size_names_the_layer_and_both_sizes() -> None:
    model = build("resnet18-cifar", width=4, input_size=16)
    message = r"layer 'blocks\.0\.body\.0\.conv': .* maps of 16×16 but got one of 24×24"
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(1, 3, 24, 24))


def test_case_1_fits_another_input_size(tmp_path: Path) -> None:
    model = build("resnet18-cifar", scale="channel", width=4, input_size=16)
    bigger = load(save(model, tmp_path / "net"), input_size=24)
    assert bigger(torch.zeros(1, 3, 24, 24)).shape == (1, 10)


def test_wrong_number_of_classes_is_said(tmp_path: Path) -> None:
    path = save(build("lenet", input_size=8), tmp_path / "net")
    with pytest.raises(ModelError, match="trained for 10 classes and the network has 7"):
        load(path, num_classes=7)


def test_a_model_that_cannot_be_rebuilt_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not say how to rebuild"):
        save(nn.Linear(2, 2), tmp_path / "net")


def test_a_full_disk_loses_no_checkpoint(tmp_path: Path) -> None:
    first = build("lenet", input_size=8, seed=1)
    path = save(first, tmp_path / "net")
    with full_disk(50_000), pytest.raises(OutputError, match="its former content is unharmed"):
        save(build("lenet", input_size=8, seed=2), path)
    x = random_input(first)
    assert torch.equal(load(path)(x), first(x))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.safetensors"]


def test_a_full_disk_at_the_last_moment_loses_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OutputError, match="No space left on device; its former content"):
        write_atomically(path, "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory; nothing was written"):
        write_atomically(tmp_path / "none" / "file", b"x")
