"""How overlapping windows become one array, and logits become classes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Blend", "gaussian_weights", "logits_to_probabilities", "probabilities_to_labels"]


@functools.lru_cache(maxsize=8)
def gaussian_weights(tile: tuple[int, ...]) -> NDArray[np.float32]:
    """Weight of each voxel of a window: a Gaussian bump with a standard deviation of an eighth of the side.

    A voxel near a window's edge was seen with little context, so it counts less than one near its centre.

    Returns
    -------
    float32, shape `tile`, positive, 10 at ``tile // 2``; shared between callers, not to be changed

    Notes
    -----
    nnU-Net's map (doi:10.1038/s41592-020-01008-z) before its rounding to half precision.
    """
    weights = np.full((), 10.0)
    for side in tile:
        profile = np.zeros(side)
        profile[side // 2] = 1.0
        profile = ndimage.gaussian_filter1d(profile, side / 8, mode="constant", truncate=4.0)
        weights = np.multiply.outer(weights, profile / profile.max())
    result: NDArray[np.float32] = np.maximum(weights, np.finfo(np.float32).tiny).astype(np.float32)
    result.flags.writeable = False
    return result


class Blend:
    """A running weighted mean of window outputs on the image grid.

    Memory is one array of the result's size and one of a single class; windows are added in place.

    Parameters
    ----------
    n_classes : channels of a window's output
    shape : voxels per spatial axis of the image
    weights : positive, (*tile), on the device and in the dtype that the sums shall have; `tile` may lack leading axes
        of `shape`
    """

    def __init__(self, n_classes: int, shape: Sequence[int], weights: torch.Tensor) -> None:
        self._weights = weights
        self._n_leading = len(shape) - weights.ndim
        self._shape = tuple(shape)
        self._sums = torch.zeros((n_classes, *shape), dtype=weights.dtype, device=weights.device)
        self._total = torch.zeros(tuple(shape), dtype=weights.dtype, device=weights.device)

    def add(self, logits: torch.Tensor, start: Sequence[int]) -> None:
        """Add a window's output, (class, *tile), whose first voxel is `start`; what sticks out of the image is cut."""
        target, source = overlap(start, self._weights.shape, self._shape)
        weights = self._weights[source]
        self._sums[(slice(None), *target)] += logits[(slice(None), *source)].to(weights.device) * weights
        self._total[target] += weights

    def labels_so_far(self, start: Sequence[int], kind: str) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
        """What the mean would say now where the window at `start` lies, and the first voxel of that place.

        uint8, one axis an axis of the image: classes, the topmost region, or 1 inside an object. The mean differs from
        the sums by a factor above 0, which changes no class.
        """
        target = tuple(part if isinstance(part, slice) else slice(part, part + 1)
                       for part in overlap(start, self._weights.shape, self._shape)[0])
        sums = self._sums[(slice(None), *target)]
        if kind == "regions":
            painted = torch.arange(1, len(sums) + 1, device=sums.device).reshape(-1, *(1,) * (sums.ndim - 1))
            labels = ((sums > 0) * painted).amax(dim=0)
        else:
            labels = sums.argmax(dim=0)
        if kind == "instances":
            labels = labels > 0
        return labels.clamp(max=255).to(torch.uint8).cpu().numpy(), tuple(part.start for part in target)

    def mean(self) -> torch.Tensor:
        """(class, *shape); 0 where no window lies. Ends the use of this object: the sums become the mean."""
        return self._sums.div_(self._total.masked_fill_(self._total == 0, 1))


def overlap(
    start: Sequence[int], tile: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[int | slice, ...], tuple[slice, ...]]:
    """Index of a window in the image and of the image in the window; leading axes without a side are single voxels."""
    n_leading = len(shape) - len(tile)
    inside, within = [], []
    for first, side, size in zip(start[n_leading:], tile, shape[n_leading:], strict=True):
        low, high = max(0, first), min(size, first + side)
        inside.append(slice(low, high))
        within.append(slice(low - first, high - first))
    return (*start[:n_leading], *inside), tuple(within)


def logits_to_probabilities(logits: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """Softmax over the classes, or a sigmoid for each region; in place.

    Parameters
    ----------
    logits : float32, (class or region, *spatial); overwritten
    kind : classes, instances (both softmax) or regions (sigmoid)
    """
    values = torch.from_numpy(logits)
    if kind == "regions":
        values.sigmoid_()
    else:
        values -= values.amax(dim=0, keepdim=True)
        values.exp_()
        values /= values.sum(dim=0, keepdim=True)
    return logits


def probabilities_to_labels(
    probabilities: NDArray[Any], kind: str = "classes", region_order: Sequence[int] | None = None
) -> NDArray[Any]:
    """One label a voxel.

    Parameters
    ----------
    probabilities : floating, (class or region, *spatial)
    kind : classes or instances: the most probable class, the first of equals; regions: the regions above 0.5 are
        painted one after the other, later ones win
    region_order : label of each region, in the order of painting; None: 1, 2, 3, ...

    Returns
    -------
    uint8, or uint16 where a label is above 255; (*spatial)
    """
    if kind != "regions":
        winner: NDArray[Any] = np.argmax(probabilities, axis=0)
        return winner.astype(np.uint8 if len(probabilities) <= 256 else np.uint16)
    order = tuple(region_order) if region_order is not None else tuple(range(1, len(probabilities) + 1))
    labels = np.zeros(probabilities.shape[1:], dtype=np.uint8 if max(order) <= 255 else np.uint16)
    for region, label in zip(probabilities, order, strict=True):
        labels[region > 0.5] = label
    return labels
