"""Augmentation keeps labels labels and shapes shapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from mambaseg.plan import Plan
from mambaseg.train.augment import augmentation, seed_augmentation
from mambaseg.train.colour import OtherLight
from mambaseg.train.sample import loader_patch_size


def plan(patch: tuple[int, ...], n_channels: int = 1) -> Plan:
    ndim = len(patch)
    return Plan(ndim=ndim, patch_size=patch, batch_size=2, features_per_stage=(4, 8), kernel_sizes=((3,) * ndim,) * 2,
                strides=((1,) * ndim, (2,) * ndim), n_blocks_encoder=(1, 1), n_blocks_decoder=(1,),
                transpose=tuple(range(ndim)), normalisation=("zscore",) * n_channels)


def sample(patch: tuple[int, ...], n_channels: int, n_labels: int) -> dict[str, Any]:
    shape = loader_patch_size(patch)
    random = np.random.default_rng(0)
    labels = random.integers(0, n_labels, [-(-n // 8) for n in shape])
    for axis in range(len(shape)):
        labels = labels.repeat(8, axis)
    labels = labels[tuple(slice(n) for n in shape)].astype(np.int32)
    image = np.stack([labels.astype(np.float32)] * n_channels)
    return {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(labels[None])}


@pytest.mark.parametrize(("patch", "n_channels", "instances", "pictures"), [
    ((48, 48), 3, True, True), ((48, 48), 1, False, False), ((16, 32, 32), 1, False, False),
    ((4, 32, 32), 2, False, False)])  # the last is so flat that it runs slice by slice
def test_shapes_and_label_values_survive(patch: tuple[int, ...], n_channels: int, instances: bool,
                                         pictures: bool) -> None:
    seed_augmentation(0)
    transform = augmentation(plan(patch, n_channels), instances, pictures)
    allowed = set(range(9)) | {-1}
    for _ in range(12):
        made = transform(**sample(patch, n_channels, 9))
        assert made["image"].shape == (n_channels, *patch)
        assert made["segmentation"].shape == (1, *patch)
        assert set(np.unique(made["segmentation"].numpy())) <= allowed
        assert torch.isfinite(made["image"]).all()


def test_image_and_labels_turn_together() -> None:
    seed_augmentation(1)
    transform = augmentation(plan((64, 64)), instances=True, pictures=False)
    agreements = []
    for _ in range(20):
        made = transform(**sample((64, 64), 1, 2))
        image, labels = made["image"][0].numpy(), made["segmentation"][0].numpy()
        if labels.min() < labels.max():
            agreements.append(abs(np.corrcoef(image.ravel(), labels.ravel())[0, 1]))
    assert np.median(agreements) > 0.9  # the image was made from the labels


def test_grey_and_inverted_colour_pictures_occur() -> None:
    seed_augmentation(2)
    transform = augmentation(plan((32, 32), 3), instances=True, pictures=True)
    grey = 0
    for _ in range(60):
        given = sample((32, 32), 3, 5)
        given["image"][1] *= -1
        image = transform(**given)["image"]
        grey += int(torch.corrcoef(image[:2].flatten(1))[0, 1] > 0.99)
    assert 0 < grey < 30


def test_photographs_change_their_light_and_pictures_of_cells_do_not_lose_their_labels_to_warping() -> None:
    seed_augmentation(3)
    light = OtherLight()
    image = torch.rand(3, 16, 16) * 255
    means = torch.stack([light(image=image)["image"].mean((1, 2)) for _ in range(20)])
    assert means.std(0).min() > 3  # brighter and darker
    assert (means - means.mean(1, keepdim=True)).std() > 1  # and of other colours
    transform = augmentation(plan((48, 48)), instances=True, pictures=True, small_data=True)
    for _ in range(6):
        made = transform(**sample((48, 48), 1, 9))
        assert set(np.unique(made["segmentation"].numpy())) <= set(range(9))


def test_pictures_seen_as_a_whole_are_not_continued_beyond_their_edge() -> None:
    for fit, outside in (("windows", 0), ("bilinear", -1)):
        seed_augmentation(5)
        transform = augmentation(dataclasses.replace(plan((48, 48), 3), fit=fit), instances=False, pictures=True)
        lowest = [transform(**sample((48, 48), 3, 3))["segmentation"].min().item() for _ in range(12)]
        assert min(lowest) == outside
