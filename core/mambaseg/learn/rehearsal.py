"""What a network goes over again while it learns something new, so that it does not forget what it knew.

A package holds no pictures. Where the parent's own data are at hand they are taken; else scenes are drawn: round things
of every size, brightness and colour on every ground. Nobody labels them: the former network's answers are the lesson.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambaseg.learn.examples import prepare_image
from mambaseg.models import Model
from mambaseg.plan import Plan
from mambaseg.prepare import prepare
from mambaseg.train.dataset import open_dataset
from mambaseg.train.sample import UNLABELLED, Case

__all__ = ["rehearsal_cases"]

_N_PICTURES = 16


def rehearsal_cases(model: Model, parent_data: Path | str | None, share: float, weight: float, seed: int) -> list[Case]:
    """Cases without any label, for distillation only.

    Parameters
    ----------
    parent_data : data set folder of the parent's kind; some of its training images are taken. None: drawn scenes
    share : of all patches that shall come from these cases, in [0, 1)
    weight : of all other cases together
    """
    if share <= 0:
        return []
    arrays = list(_images(model, parent_data, seed) if parent_data is not None else _scenes(model, seed))
    each = weight * share / (1 - share) / len(arrays)
    return [Case("rehearsal", array, np.full(array.shape[1:], UNLABELLED, np.int32), each) for array in arrays]


def _images(model: Model, folder: Path | str, seed: int) -> Iterator[NDArray[np.float32]]:
    files = open_dataset(Path(folder), model.kind == "instances").train
    for at in np.random.default_rng(seed).permutation(len(files))[:_N_PICTURES]:
        array = prepare_image(files[at].read()[0], model)[0].array
        yield array if array.ndim - 1 == model.plan.ndim else array[:, array.shape[1] // 2]


def _scenes(model: Model, seed: int) -> Iterator[NDArray[np.float32]]:
    """Drawn scenes of the patch's size, normalised as the plan says."""
    for number in range(_N_PICTURES):
        random = np.random.default_rng([seed, number])
        scene = _scene(random, model.plan.patch_size, model.n_channels)
        yield prepare(_in_units(scene, model.plan), None, model.plan).array


def _scene(random: np.random.Generator, shape: tuple[int, ...], n_channels: int) -> NDArray[np.float32]:
    """Ellipsoids of one size, 0 to 1, (channel, *shape): brighter or darker than their ground, or of another hue."""
    inside = np.zeros(shape)
    radius = np.exp(random.uniform(np.log(4), np.log(max(6, min(shape) / 6))))
    n_objects = int(np.clip(random.uniform(0.1, 0.35) * np.prod(shape) / (2 * radius) ** len(shape), 3, 300))
    grid = np.indices(shape)
    for _ in range(n_objects):
        centre = [random.uniform(0, side) for side in shape]
        radii = radius * random.uniform(0.7, 1.4, len(shape))
        reach = tuple(slice(max(0, int(c - r) - 1), int(c + r) + 2) for c, r in zip(centre, radii, strict=True))
        away = sum(((axis[reach] - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
        inside[reach] = np.maximum(inside[reach], (away < 1) * random.uniform(0.5, 1))
    texture = ndimage.gaussian_filter(random.normal(0, 1, shape), random.uniform(1, 3))
    inside *= 1 + random.uniform(0, 0.3) * texture / max(float(texture.std()), 1e-6)
    is_grey = n_channels == 1 or random.random() < 0.5
    ground, things = (np.repeat(random.uniform(0, 1, 1 if is_grey else n_channels), n_channels if is_grey else 1)
                      for _ in range(2))
    blurred = ndimage.gaussian_filter(inside, random.uniform(0.5, 1.5))
    noise = random.normal(0, random.uniform(0.005, 0.05), (1 if is_grey else n_channels, *shape))
    span = (slice(None), *(None,) * len(shape))
    return np.asarray((ground[span] + (things - ground)[span] * blurred + noise).clip(0, 1), np.float32)


def _in_units(scene: NDArray[np.float32], plan: Plan) -> NDArray[np.float32]:
    """A scene in the units that the plan's normalisation expects: 8 bits, or those of the data set's own statistics."""
    if not plan.intensities or "ct" not in plan.normalisation:
        return 255 * scene
    low, high = (np.array([channel.get(name, end) for channel in plan.intensities], np.float32)
                 for name, end in (("percentile_00_5", 0.0), ("percentile_99_5", 255.0)))
    span = (slice(None), *(None,) * (scene.ndim - 1))
    return low[span] + (high - low)[span] * scene
