"""The painted marker stain: where it goes, and which pictures it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mambaseg.train.augment import seed_augmentation
from mambaseg.train.stain import MarkerStain


def tissue(dark_nuclei: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """A normalised colour picture of round nuclei, and their instance numbers."""
    y, x = np.mgrid[:128, :128]
    labels = np.zeros((128, 128), np.int32)
    for number, (cy, cx) in enumerate([(r, c) for r in range(16, 128, 32) for c in range(16, 128, 32)], 1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < 64] = number
    sign = -1.0 if dark_nuclei else 1.0
    image = np.stack([sign * gain * (labels > 0) for gain in (1.5, 1.2, 0.6)])
    image += np.random.default_rng(0).normal(0, 0.1, image.shape)
    image = (image - image.mean((1, 2), keepdims=True)) / image.std((1, 2), keepdims=True)
    return torch.from_numpy(image.astype(np.float32)), torch.from_numpy(labels[None])


def contrast(image: torch.Tensor, labels: torch.Tensor) -> float:
    """Brightness of the ground less that of the nuclei."""
    inside = labels[0] > 0
    return float(image[:, ~inside].mean() - image[:, inside].mean())


def test_the_marker_darkens_the_ground_more_than_the_nuclei() -> None:
    seed_augmentation(0)
    image, labels = tissue()
    losses = []
    for _ in range(20):
        made = MarkerStain()(image=image.clone(), segmentation=labels)
        losses.append(contrast(image, labels) - contrast(made["image"], labels))
        assert torch.equal(made["segmentation"], labels)
        torch.testing.assert_close(made["image"].mean((1, 2)), torch.zeros(3), atol=1e-4, rtol=0)
        torch.testing.assert_close(made["image"].std((1, 2)), torch.ones(3), atol=1e-3, rtol=0)
    assert min(losses) > 0
    assert np.median(losses) > 0.5  # dark alone no longer means nucleus


def test_the_marker_is_brown_or_red() -> None:
    seed_augmentation(1)
    image, labels = tissue()
    for _ in range(10):
        marker = MarkerStain().get_parameters(image=image, segmentation=labels)["marker"]
        red, green, blue = marker.mean((1, 2)).tolist()
        assert red < green
        assert red < blue


@pytest.mark.parametrize("picture", [
    tissue(dark_nuclei=False),  # fluorescence
    (tissue()[0][:1].expand(3, -1, -1), tissue()[1]),  # grey
    (tissue()[0][:1], tissue()[1]),  # one channel
    (tissue()[0], torch.zeros_like(tissue()[1])),  # nothing labelled
])
def test_other_pictures_pass_unchanged(picture: tuple[torch.Tensor, torch.Tensor]) -> None:
    seed_augmentation(2)
    image, labels = picture
    assert torch.equal(MarkerStain()(image=image, segmentation=labels)["image"], image)
