"""Pasted objects are whole, numbered on, and hide little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mambaseg.train.paste import paste_objects


def squares(shape: tuple[int, ...], value: float) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Nine squares (cubes) of 4 voxels a side and one brightness."""
    labels = np.zeros(shape, np.int32)
    for number in range(9):
        corner = (*(2,) * (len(shape) - 2), 3 + 10 * (number // 3), 3 + 10 * (number % 3))
        labels[tuple(slice(first, first + 4) for first in corner)] = number + 1
    return np.where(labels > 0, value, 0.0).astype(np.float32)[None], labels


@pytest.mark.parametrize("shape", [(32, 32), (8, 32, 32)])
def test_pasted_objects_keep_their_size_and_brightness(shape: tuple[int, ...]) -> None:
    image, labels = squares(shape, 1.0)
    other, other_labels = squares(shape, 5.0)
    before = image.copy(), labels.copy()
    seen = 0
    for seed in range(12):
        made, found = paste_objects(image, labels, other, other_labels, np.random.default_rng(seed))
        new = np.unique(found[found > 9])
        seen += len(new)
        assert new.tolist() == list(range(10, 10 + len(new)))
        for number in new:
            assert np.count_nonzero(found == number) <= 4 ** len(shape)
            assert np.median(made[0][found == number]) > 3  # neighbours' soft seams take much of it
        for number in range(1, 10):  # at most the limit is hidden at a time
            assert np.count_nonzero(found == number) >= 0.7**3 * 4 ** len(shape)
    assert seen > 12
    assert np.array_equal(image, before[0])
    assert np.array_equal(labels, before[1])


def test_nothing_to_paste_changes_nothing() -> None:
    image, labels = squares((32, 32), 1.0)
    made, found = paste_objects(image, labels, image, np.zeros_like(labels), np.random.default_rng(0))
    assert np.array_equal(made, image)
    assert np.array_equal(found, labels)
