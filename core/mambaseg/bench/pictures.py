"""Pictures of two kinds, drawn with their truth: bright discs, and grey ones with a bright rim on a grey ground."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["bright", "phase"]


def bright(seed: int, side: int = 128, n_objects: int = 14) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Bright round objects on a dark ground, as in fluorescence; image and object numbers, (side, side)."""
    random = np.random.default_rng([seed, 1])
    labels = _discs(random, side, n_objects)
    light = np.where(labels > 0, 0.7 + 0.3 * random.random(labels.max() + 1)[labels], 0.1)
    return _camera(random, light), labels


def phase(seed: int, side: int = 128, n_objects: int = 14) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Objects as grey as their ground, with a dark seam and a bright halo, as in phase contrast."""
    random = np.random.default_rng([seed, 2])
    labels = _discs(random, side, n_objects)
    depth = ndimage.distance_transform_edt(labels > 0)
    outside = ndimage.distance_transform_edt(labels == 0)
    texture = ndimage.gaussian_filter(random.normal(0, 1, labels.shape), 1.2) * (depth > 0) * 0.25
    light = 0.5 + texture - 0.25 * np.exp(-((depth - 1.5) / 1.5) ** 2) * (depth > 0)
    light += 0.35 * np.exp(-((outside - 1.5) / 1.2) ** 2) * (outside > 0)
    return _camera(random, light), labels


def _discs(random: np.random.Generator, side: int, n_objects: int) -> NDArray[np.int32]:
    """Ellipses that do not overlap, though they may touch."""
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    for _ in range(20 * n_objects):
        cy, cx = random.uniform(6, side - 6, 2)
        ry, rx = random.uniform(6, 10, 2)
        disc = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        if not labels[disc].any():
            labels[disc] = labels.max() + 1
        if labels.max() == n_objects:
            break
    return labels


def _camera(random: np.random.Generator, light: NDArray[Any]) -> NDArray[np.float32]:
    blurred = ndimage.gaussian_filter(light, 0.8)
    return np.asarray(255 * (blurred + random.normal(0, 0.03, light.shape)), np.float32)
