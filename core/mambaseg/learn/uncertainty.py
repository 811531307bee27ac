"""What a model is least sure of, so that a user's corrections are spent where they help most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Doubt", "doubt_map", "least_sure"]

_BLOCK_PX = 32  # side of the blocks that a map without objects is divided into
_DOUBTFUL = 0.5  # of a map, from which on a voxel that belongs to no object may be a missed one
_SMALLEST_MISSED_PX = 20


@dataclass(frozen=True)
class Doubt:
    """A place to look at.

    Parameters
    ----------
    centre : voxels per spatial axis
    box : (start, stop) per spatial axis
    score : 0 sure to 1 no idea
    label : number of the object; 0 where none was found
    """

    centre: tuple[float, ...]
    box: tuple[tuple[int, int], ...]
    score: float
    label: int = 0


def doubt_map(probabilities: NDArray[Any], kind: str) -> NDArray[np.float32]:
    """How unsure a model is of each voxel, 0 to 1: one less the distance between the two likeliest answers.

    Parameters
    ----------
    probabilities : (output, *spatial), as `mambaseg.segment` keeps them
    kind : of the model. Objects: foreground against background, since every outline passes through "interior or
        boundary?"; regions: the least sure of them
    """
    if kind == "regions":
        return np.asarray((1 - np.abs(2 * probabilities - 1)).max(0), np.float32)
    if kind == "instances":
        return np.asarray(1 - np.abs(2 * probabilities[0] - 1), np.float32)
    top = np.partition(probabilities, -2, axis=0)[-2:]
    return np.asarray(1 - (top[1] - top[0]), np.float32)


def least_sure(probabilities: NDArray[Any], labels: NDArray[Any], kind: str, n_most: int = 20,
               looked_at: NDArray[np.bool_] | None = None) -> list[Doubt]:
    """Places to correct or confirm, the least sure first.

    Parameters
    ----------
    probabilities : (output, *spatial)
    labels : found in them, (*spatial); object numbers, or classes
    kind : instances: objects, and groups of doubtful voxels that belong to none; else slices of a volume and blocks of
        a picture
    n_most : entries
    looked_at : voxels that the user has corrected or confirmed; what mostly lies in them is left out

    Returns
    -------
    Scores fall; the mean doubt over an object, or the mean over the doubtful tenth of a slice or block
    """
    doubt = doubt_map(probabilities, kind)
    if looked_at is not None:
        doubt = np.where(looked_at, np.float32(0), doubt)
    found = _objects(doubt, labels, looked_at) if kind == "instances" else _parts(doubt)
    found.sort(key=lambda each: -each.score)
    return found[:n_most]


def _objects(doubt: NDArray[np.float32], labels: NDArray[Any], looked_at: NDArray[np.bool_] | None) -> list[Doubt]:
    """Doubt over each object and its nearest surroundings, and over what may be a missed one."""
    missed, n_missed = ndimage.label((doubt > _DOUBTFUL) & (labels == 0))
    sizes = np.bincount(missed.ravel(), minlength=n_missed + 1)
    found = []
    for pieces, is_object in ((labels, True), (missed, False)):
        for number, box in enumerate(ndimage.find_objects(pieces.astype(np.int32)), 1):
            if box is None or (not is_object and sizes[number] < _SMALLEST_MISSED_PX):
                continue
            mask = pieces[box] == number
            if looked_at is not None and 2 * np.count_nonzero(looked_at[box] & mask) > mask.sum():
                continue
            score = float(doubt[box][mask].mean())
            centre = tuple(float(side.start + at) for side, at in zip(box, ndimage.center_of_mass(mask), strict=True))
            found.append(Doubt(centre, tuple((side.start, side.stop) for side in box), score,
                               number if is_object else 0))
    return found


def _parts(doubt: NDArray[np.float32]) -> list[Doubt]:
    """Doubt of each slice of a volume, around its doubtful voxels, or of each block of a picture."""
    sides = (1, *doubt.shape[1:]) if doubt.ndim == 3 else (_BLOCK_PX,) * doubt.ndim
    found = []
    for corner in np.ndindex(*(-(-size // side) for size, side in zip(doubt.shape, sides, strict=True))):
        box = tuple((at * side, min(size, (at + 1) * side))
                    for at, side, size in zip(corner, sides, doubt.shape, strict=True))
        part = doubt[tuple(slice(*side) for side in box)]
        n_counted = max(1, part.size // 10)
        score = float(np.partition(part.ravel(), -n_counted)[-n_counted:].mean())
        if score > 0:
            weight = ndimage.center_of_mass(part.astype(float))
            centre = tuple(start + float(at) for (start, _), at in zip(box, weight, strict=True))
            found.append(Doubt(centre, box, score))
    return found
