"""A simulated user, who knows the truth and corrects the worst first; for measuring, not for users."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambaseg.metrics.matching import overlaps

__all__ = ["correct_objects", "correct_region", "correct_slices", "stroke"]

SURROUNDINGS_PX = 8  # how far around an object the user wipes away what is wrong, and vouches for the background


def correct_objects(truth: NDArray[Any], found: NDArray[Any], n_objects: int, seed: int = 0,
                    already: NDArray[Any] | None = None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Corrections of the worst objects: each is painted as it is, and the background around it wiped clean.

    Parameters
    ----------
    truth, found : object numbers on one grid
    n_objects : true objects to correct, those with the lowest IoU first, to a tenth; equals in random order
    already : corrections made before; their objects are left alone

    Returns
    -------
    corrections (0 not looked at, v + 1), and all labels as the user leaves them
    """
    corrections = np.zeros(truth.shape, np.int32) if already is None else already.astype(np.int32)
    apart = np.where(found > 0, found + corrections.max(), 0)  # a new answer may use the number of a corrected object
    labels = np.where(corrections > 0, corrections - 1, apart).astype(np.int32)
    table = overlaps(truth, found)
    best = np.zeros(len(table.truth_ids))
    np.maximum.at(best, table.truth_index, table.iou)
    order = np.lexsort((np.random.default_rng(seed).random(len(best)), best.round(1)))
    left = [i for i in order if not (corrections[truth == table.truth_ids[i]] > 1).any()]
    number = int(max(labels.max(initial=0), 1))
    for i in left[:n_objects]:
        number += 1
        mine = truth == table.truth_ids[i]
        around = ndimage.binary_dilation(mine, iterations=SURROUNDINGS_PX) & (truth == 0)
        labels[around], corrections[around] = 0, 1
        labels[mine], corrections[mine] = number, number + 1
    return corrections, labels


def correct_region(truth: NDArray[Any], found: NDArray[Any], n_objects: int,
                   seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Corrections of a square part of a picture: all its objects are put right, then "this region is right".

    Parameters
    ----------
    truth, found : object numbers on one grid, (y, x)
    n_objects : that the square holds whole, at least; it grows around a random object until it does

    Returns
    -------
    As `correct_objects`; objects that the edge of the square cuts are not looked at
    """
    boxes = ndimage.find_objects(truth)
    whole = [(number, box) for number, box in enumerate(boxes, 1) if box is not None]
    _, start = whole[int(np.random.default_rng(seed).integers(len(whole)))]
    centre = [(side.start + side.stop) // 2 for side in start]
    for half in range(8, 2 * max(truth.shape), 4):
        area = tuple(slice(max(0, c - half), min(size, c + half))
                     for c, size in zip(centre, truth.shape, strict=True))
        inside = [number for number, box in whole
                  if all(a.start <= b.start and b.stop <= a.stop for a, b in zip(area, box, strict=True))]
        if len(inside) >= min(n_objects, len(whole)):
            break
    known = np.zeros(truth.shape, bool)
    known[area] = True
    known &= (truth == 0) | np.isin(truth, inside)
    offset = int(found.max(initial=0))
    labels = np.where(known, np.where(truth > 0, truth + offset, 0), found).astype(np.int32)
    return np.where(known, labels + 1, 0).astype(np.int32), labels


def correct_slices(truth: NDArray[Any], found: NDArray[Any], n_slices: int, axis: int = 0) -> NDArray[np.int32]:
    """Corrections of the slices with the most wrong voxels: each slice is right as a whole afterwards."""
    wrong = np.moveaxis(truth != found, axis, 0).reshape(truth.shape[axis], -1).sum(1)
    corrections = np.zeros(truth.shape, np.int32)
    for at in np.argsort(-wrong, kind="stable")[:n_slices]:
        index = (slice(None),) * axis + (int(at),)
        corrections[index] = truth[index] + 1
    return corrections


def stroke(truth: NDArray[Any], found: NDArray[Any], n_strokes: int, radius: int = 5,
           seed: int = 0) -> NDArray[np.int32]:
    """Round dabs of a brush in the middle of the largest wrong parts; each says what is true under it.

    Parameters
    ----------
    truth, found : classes on one grid
    """
    corrections = np.zeros(truth.shape, np.int32)
    wrong = truth != found
    grid = np.indices(truth.shape)
    for _ in range(n_strokes):
        depth = ndimage.distance_transform_edt(wrong)
        if not depth.any():
            break
        at = np.unravel_index(int(depth.argmax()), depth.shape)
        near = sum((axis - centre) ** 2 for axis, centre in zip(grid, at, strict=True)) <= radius**2
        dab = near & (truth == truth[at])
        corrections[dab] = truth[at] + 1
        wrong &= ~ndimage.binary_dilation(dab, iterations=2 * radius)
    return corrections
