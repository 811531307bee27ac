"""Objects of one patch pasted into another: augmentation for some tens of pictures of cells.

After Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance segmentation",
arXiv:2012.07177.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["paste_objects"]

_MOST_OBJECTS = 8
_MARGIN_PX = 2  # of the object's surroundings that comes along: its halo in phase contrast
_SOFT_PX = 1.0  # width of the seam
_MOST_HIDDEN = 0.3  # of an object that is already there


def paste_objects(image: NDArray[np.float32], labels: NDArray[Any], other_image: NDArray[np.float32],
                  other_labels: NDArray[Any], random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """A copy of a patch with some objects of another patch on top, each mirrored by chance and at a random place.

    Parameters
    ----------
    image, other_image : (channel, *S), normalised alike
    labels, other_labels : instance numbers, (*S); 0 is background
    random : draws which objects, and where to

    Returns
    -------
    Image and labels, pasted objects numbered after the old ones. An object that would hide more than 0.3 of one that is
    there is left out
    """
    image, labels = image.copy(), labels.copy()
    numbers = np.unique(other_labels[other_labels > 0])
    if not len(numbers):
        return image, labels
    boxes = ndimage.find_objects(np.searchsorted(numbers, np.maximum(other_labels, 0)) + (other_labels > 0))
    chosen = random.permutation(len(numbers))[:random.integers(1, _MOST_OBJECTS + 1)]
    for index in chosen:
        box = tuple(slice(max(0, side.start - 2 * _MARGIN_PX), side.stop + 2 * _MARGIN_PX) for side in boxes[index])
        mask = other_labels[box] == numbers[index]
        mirror = tuple(slice(None, None, -1 if random.random() < 0.5 else 1) for _ in box)
        _paste(image, labels, other_image[(slice(None), *box)][(slice(None), *mirror)], mask[mirror], random)
    return image, labels


def _paste(image: NDArray[np.float32], labels: NDArray[Any], cut: NDArray[np.float32], mask: NDArray[np.bool_],
           random: np.random.Generator) -> None:
    """Put an object at a random place, in place, unless it would hide too much of another."""
    if any(side > size for side, size in zip(mask.shape, labels.shape, strict=True)):
        return
    lower = [int(random.integers(size - side + 1)) for side, size in zip(mask.shape, labels.shape, strict=True)]
    place = tuple(slice(first, first + side) for first, side in zip(lower, mask.shape, strict=True))
    there = labels[place]
    hidden, n_hidden = np.unique(there[mask & (there > 0)], return_counts=True)
    if any(count > _MOST_HIDDEN * np.count_nonzero(labels == number)
           for number, count in zip(hidden, n_hidden, strict=True)):
        return
    around = ndimage.binary_dilation(mask, iterations=_MARGIN_PX) & ((there <= 0) | mask)
    share = np.maximum(ndimage.gaussian_filter(around.astype(np.float32), _SOFT_PX), mask)
    where = (slice(None), *place)
    image[where] += share * (cut - image[where])
    there[mask] = labels.max() + 1
