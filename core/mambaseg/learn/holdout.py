"""What is kept aside from a fine-tuning, chosen before it begins: whole objects, slices or blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambaseg.train.sample import UNLABELLED

__all__ = ["Split", "Unit", "split", "units"]

_FEWEST = 3  # of fewer units none is kept aside
_BLOCKS = 5  # along the longest axis of a densely labelled picture


@dataclass(frozen=True)
class Unit:
    """Something that is judged as a whole.

    Parameters
    ----------
    example : index of its example
    mask : boolean, (*spatial) on the image's grid: the object with the labelled surroundings nearest to it, or a slice
    label : number of the object; 0 for slices and blocks
    """

    example: int
    mask: NDArray[np.bool_]
    label: int = 0


@dataclass(frozen=True)
class Split:
    """Sparse labels to learn from, and the units kept aside.

    Parameters
    ----------
    labels : one array an example, `UNLABELLED` where not known or kept aside
    judged : units that the score before and after is taken on; training never sees them
    stopping : units that early stopping looks at; disjoint from the others, empty where there are few
    """

    labels: list[NDArray[np.int32]]
    judged: list[Unit]
    stopping: list[Unit]


def split(labels: Sequence[NDArray[np.int32]], instances: bool, share: float = 0.2, seed: int = 0) -> Split:
    """Keep a share of the units aside.

    Parameters
    ----------
    labels : sparse labels of each example
    share : of the units that are judged, at least one of three; half as many more for early stopping from ten on
    """
    found = [unit for index, array in enumerate(labels) for unit in units(array, instances, index)]
    order = np.random.default_rng(seed).permutation(len(found))
    n_judged = max(1, round(share * len(found))) if len(found) >= _FEWEST and share > 0 else 0
    n_stopping = round(share * len(found) / 2) if len(found) >= 2 * _BLOCKS and share > 0 else 0
    judged = [found[i] for i in order[:n_judged]]
    stopping = [found[i] for i in order[n_judged:n_judged + n_stopping]]
    kept = [array.copy() for array in labels]
    for unit in (*judged, *stopping):
        kept[unit.example][unit.mask] = UNLABELLED
    return Split(kept, judged, stopping)


def units(labels: NDArray[np.int32], instances: bool, example: int = 0) -> list[Unit]:
    """The units of one example: its objects, its labelled slices, or separate labelled parts."""
    known = labels != UNLABELLED
    if not known.any():
        return []
    if instances:
        return _objects(labels, known, example)
    slices = _slices(known) if labels.ndim == 3 else None
    return [Unit(example, mask) for mask in (slices or _parts(known))]


def _objects(labels: NDArray[np.int32], known: NDArray[np.bool_], example: int) -> list[Unit]:
    """Each object with the labelled background that is nearer to it than to any other."""
    ids = np.unique(labels[labels > 0])
    if not len(ids):
        return []
    nearest = ndimage.distance_transform_edt(labels <= 0, return_distances=False, return_indices=True)
    owner = labels[tuple(nearest)]
    return [Unit(example, known & (owner == label), int(label)) for label in ids]


def _slices(known: NDArray[np.bool_]) -> list[NDArray[np.bool_]] | None:
    """Labelled slices across the axis along which fewest are labelled; None where the labels are no slices."""
    counts = [int(known.any(axis=tuple(a for a in range(3) if a != axis)).sum()) for axis in range(3)]
    axis = int(np.argmin(counts))
    at = np.flatnonzero(known.any(axis=tuple(a for a in range(3) if a != axis)))
    masks = []
    groups = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
    if len(groups) < _FEWEST:  # neighbouring slices are alike: a block of them is one unit
        groups = [part for part in np.array_split(at, min(_BLOCKS, len(at))) if len(part)]
    for group in groups:
        mask = np.zeros_like(known)
        index = (slice(None),) * axis + (group,)
        mask[index] = known[index]
        masks.append(mask)
    return masks


def _parts(known: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Connected labelled parts, or blocks of a single one along its longest axis."""
    pieces, n_pieces = ndimage.label(known)
    if n_pieces >= _FEWEST:
        return [pieces == number for number in range(1, n_pieces + 1)]
    at = np.argwhere(known)
    extent = np.ptp(at, axis=0)
    axis = int(np.argmax(extent))
    edges = np.linspace(at[:, axis].min(), at[:, axis].max() + 1, _BLOCKS + 1)
    along = np.arange(known.shape[axis]).reshape([-1 if a == axis else 1 for a in range(known.ndim)])
    masks = [known & (along >= low) & (along < high) for low, high in pairwise(edges)]
    return [mask for mask in masks if mask.any()]
