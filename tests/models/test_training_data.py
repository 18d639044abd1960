# SPDX-License-Identifier: Apache-2.0
"""Promises of the data sets: the same images for everyone, and clear words about bad files."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xnortvm.errors import DataError
from xnortvm.models.training import load_data
from xnortvm.models.training.augment import flip, shift
from xnortvm.models.training.data import derive_seed, test_batches, train_batches
from xnortvm.models.training.image_folder import FolderSplit, image_folder, random_box
from xnortvm.models.training.shapes import render, shapes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- batches


def test_an_epoch_has_each_image_once_and_in_an_order_of_its_own() -> None:
    split = load_data("digits").train
    split.labels = torch.arange(len(split.labels))
    first, again, second, other = (
        torch.cat([labels for _, labels in train_batches(split, 64, seed, epoch)])
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert len(first.unique()) == len(first) == 22 * 64
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_an_epoch_can_be_entered_at_any_batch() -> None:
    split = load_data("digits").train
    whole = list(train_batches(split, 256, 3, 1))
    rest = list(train_batches(split, 256, 3, 1, start=2))
    assert len(rest) == len(whole) - 2
    for (images, labels), (expected, expected_labels) in zip(rest, whole[2:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, expected_labels)


def test_processes_share_each_batch() -> None:
    split = load_data("digits").train
    whole = [labels for _, labels in train_batches(split, 64, 0, 0)]
    parts = [
        [labels for _, labels in train_batches(split, 64, 0, 0, rank=rank, world=2)]
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([parts[0][5], parts[1][5]]), whole[5])


def test_all_test_images_are_seen_once_by_any_number_of_processes() -> None:
    split = load_data("digits").test
    count = sum(
        len(labels)
        for rank in range(7)
        for _, labels in test_batches(split, 10, rank=rank, world=7)
    )
    assert count == len(split.labels)


def test_seeds_do_not_depend_on_the_order_of_arguments_only() -> None:
    assert len({derive_seed(a, b) for a in range(30) for b in range(30)}) == 900


def test_shift_moves_each_image_within_its_range_and_fills_with_zeros() -> None:
    image = torch.zeros(1, 2, 5, 6)
    image[0, :, 2, 3] = torch.tensor([1.0, 2.0])
    images = shift(1)(image.expand(200, -1, -1, -1), generator())
    assert images.shape == (200, 2, 5, 6)
    assert set(images.sum((2, 3)).flatten().tolist()) == {1.0, 2.0}
    places = {tuple(place) for place in images[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(y, x) for y in (1, 2, 3) for x in (2, 3, 4)}


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.arange(6.0).reshape(1, 1, 2, 3).expand(400, -1, -1, -1)
    mirrored = flip(images, generator())
    share = (mirrored[:, 0, 0, 0] == 2).float().mean()
    assert 0.4 < share < 0.6
    assert set(mirrored[:, 0, 1, 1].tolist()) == {4.0}


# ---- sets


def test_digits_are_split_once_and_for_all() -> None:
    data = load_data("digits")
    assert (len(data.train.labels), len(data.test.labels)) == (1437, 360)
    assert data.test.labels[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    images = data.train.batch(torch.arange(1437), None)
    assert abs(images.mean().item()) < 0.05
    assert abs(images.std().item() - 1) < 0.05


def test_shapes_are_the_same_on_every_machine() -> None:
    images = render(np.arange(20), (16, 16), (0, 1))
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "0e911dfd16a18177"


def test_a_shape_does_not_depend_on_how_many_are_made() -> None:
    few, one = shapes(12, 30, 10), render(np.array([17]), (12, 12), (0, 1))
    assert torch.equal(few.train.images[17], torch.from_numpy(one[0]))
    assert few.train.labels[17] == 7
    assert not torch.equal(few.train.images[:10], few.test.images)
    assert few.train.labels.bincount().tolist() == [3] * 10


def test_shapes_can_have_the_size_of_imagenet() -> None:
    data = shapes((224, 160), 2, 1)
    assert data.train.batch(torch.arange(2), 0).shape == (2, 3, 224, 160)


def test_shapes_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(DataError, match="at least 8×8 pixels"):
        shapes(4)


def cifar_files(folder: Path, binary: bool) -> None:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        pixels = random.integers(0, 256, (4, 3072), dtype=np.uint8)
        labels = random.integers(0, 10, 4)
        if binary:
            records = np.concatenate([labels[:, None].astype(np.uint8), pixels], 1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            content = {b"data": pixels, b"labels": labels.tolist()}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def test_both_forms_of_cifar10_are_read_alike(tmp_path: Path) -> None:
    cifar_files(tmp_path / "py" / "cifar-10-batches-py", binary=False)
    cifar_files(tmp_path / "bin", binary=True)
    one, other = (load_data("cifar10", tmp_path / name) for name in ("py", "bin"))
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.test.labels, other.test.labels)
    assert one.train.images.shape == (20, 3, 32, 32)


def test_bad_cifar10_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_data("cifar10", tmp_path / "none")
    with pytest.raises(DataError, match="holds no CIFAR-10"):
        load_data("cifar10", tmp_path)
    cifar_files(tmp_path / "c", binary=True)
    (tmp_path / "c" / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"data_batch_3\.bin is damaged: 5 bytes"):
        load_data("cifar10", tmp_path / "c")
    (tmp_path / "c" / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3\.bin"):
        load_data("cifar10", tmp_path / "c")


def test_a_cifar10_pickle_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    cifar_files(tmp_path / "c", binary=False)
    (tmp_path / "c" / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil()}, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_1 is damaged: it asks for"):
        load_data("cifar10", tmp_path / "c")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny ImageNet: two classes, images of several sizes and modes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = random.integers(0, 100, (30 + k, 40, 3), dtype=np.uint8) + 100 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                path = tmp_path / split / name / f"{k}.{'png' if k % 2 else 'JPEG'}"
                (image.convert("L") if k == 1 else image).save(path)
    return tmp_path


def test_a_folder_of_images_gives_normalised_crops(folder: Path) -> None:
    data = load_data("imagenet", folder, (24, 16))
    assert data.classes == ("ant", "bee")
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    images = data.train.batch(torch.tensor([0, 11, 1]), 5)
    assert images.shape == (3, 3, 24, 16)
    assert torch.equal(images, data.train.batch(torch.tensor([0, 11, 1]), 5))
    assert not torch.equal(images, data.train.batch(torch.tensor([0, 11, 1]), 6))
    assert images[1].mean() > images[0].mean() + 1
    still = data.test.batch(torch.tensor([1]), None)
    assert torch.equal(still, data.test.batch(torch.tensor([1]), None))
    seen = [labels for _, labels in train_batches(data.train, 4, 0, 0)]
    assert len(torch.cat(seen)) == 12


def test_crops_lie_within_the_image() -> None:
    for size in ((40, 30), (300, 3), (1, 1)):
        for seed in range(50):
            left, top, right, bottom = random_box(size, generator(seed))
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]


def test_bad_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none does not exist"):
        image_folder(tmp_path / "none")
    (folder / "train" / "cat").mkdir()
    with pytest.raises(DataError, match="1 are in one of them only, such as 'cat'"):
        image_folder(folder)
    with pytest.raises(DataError, match="holds no images"):
        FolderSplit(folder / "train", ["cat"], (8, 8), 1)
    (folder / "empty" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="train is empty"):
        image_folder(folder / "empty")


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / "train" / "ant" / "0.JPEG").write_bytes(b"no image")
    data = image_folder(folder, 16)
    with pytest.raises(DataError, match=r"ant/0\.JPEG cannot be read"):
        data.train.batch(torch.tensor([0]), None)


def test_unknown_and_contradictory_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'digit' \(did you mean 'digits'"):
        load_data("digit")
    with pytest.raises(DataError, match="none are downloaded"):
        load_data("cifar10")
    with pytest.raises(DataError, match="needs no files"):
        load_data("digits", tmp_path)
    with pytest.raises(DataError, match="have one size"):
        load_data("digits", input_size=16)
