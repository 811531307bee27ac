"""Another voxel grid: nnU-Net's resampling rule for images, logits and labels.

Thick slices are told apart from isotropic voxels: where one axis is more than three times coarser than the finest, the
slices across it are interpolated in 2-D and the coarse axis takes the nearest slice, so that no spline runs through
voxels that lie millimetres apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["resample", "resample_labels", "resampled_shape", "separate_axis"]

_COARSE = 3.0  # largest to smallest spacing beyond which the coarsest axis is treated on its own


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis after a change of spacing: halves round to even, at least one voxel is left."""
    return tuple(max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, new_spacing, strict=True))


def separate_axis(spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """Axis to be resampled apart from the others, None where there is no such axis.

    The source spacing decides if it is anisotropic, else the target spacing. Two equally coarse axes leave nothing to
    single out. Pictures (two axes) have no axis across them.
    """
    if len(spacing) < 3:
        return None
    for values in (spacing, new_spacing):
        if max(values) / min(values) > _COARSE:
            coarsest = [axis for axis, value in enumerate(values) if value == max(values)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample(
    values: NDArray[Any],
    new_shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    order: int = 3,
) -> NDArray[Any]:
    """Images or logits on another grid that spans the same field of view.

    Parameters
    ----------
    values : floating, (channel, *spatial); each channel on its own
    new_shape : voxels per spatial axis of the result
    spacing, new_spacing : voxel size per spatial axis before and after, any unit; only their ratios matter
    order : spline order, 3 for images, 1 for logits

    Returns
    -------
    dtype of `values`, (channel, *new_shape); `values` itself where nothing changes. Never beyond the range of the
    channel (of the slice, where slices are resampled apart): cubic splines overshoot at CT edges.

    Notes
    -----
    nnU-Net (doi:10.1038/s41592-020-01008-z), version 2: half-pixel centres, nearest border, float64, no anti-aliasing.
    """
    if values.shape[1:] == tuple(new_shape):
        return values
    axis = separate_axis(spacing, new_spacing)
    result = np.empty((len(values), *new_shape), dtype=values.dtype)
    for channel, target in zip(values, result, strict=True):
        if axis is None:
            target[...] = _interpolate(channel, new_shape, order)
        else:
            _resample_slices(channel, target, axis, lambda plane, shape: _interpolate(plane, shape, order))
    return result


def resample_labels(
    labels: NDArray[Any], new_shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> NDArray[Any]:
    """Labels on another grid that spans the same field of view.

    Parameters
    ----------
    labels : integer, (*spatial); any values, -1 (outside) among them
    new_shape, spacing, new_spacing : as for `resample`

    Returns
    -------
    dtype of `labels`, (*new_shape); each voxel takes the label whose linearly interpolated mask is largest there. Of
    labels that tie exactly the nearest neighbour's wins, or the smallest.
    """
    if labels.shape == tuple(new_shape):
        return labels
    axis = separate_axis(spacing, new_spacing)
    if axis is None:
        return _interpolate_labels(labels, new_shape)
    result = np.empty(tuple(new_shape), dtype=labels.dtype)
    _resample_slices(labels, result, axis, _interpolate_labels)
    return result


def _resample_slices(values: NDArray[Any], target: NDArray[Any], axis: int, resample_plane: Any) -> None:
    """Fill `target` from the slices of `values` across `axis`: 2-D within a slice, the nearest slice along the axis."""
    planes, targets = np.moveaxis(values, axis, 0), np.moveaxis(target, axis, 0)
    nearest = _nearest(len(planes), len(targets))
    for source in np.unique(nearest):
        plane = planes[source]
        same = plane.shape == targets.shape[1:]
        targets[nearest == source] = plane if same else resample_plane(plane, targets.shape[1:])


def _nearest(n_old: int, n_new: int) -> NDArray[np.intp]:
    """Index of the old voxel that each new voxel's centre falls in."""
    positions = (np.arange(n_new) + 0.5) * n_old / n_new - 0.5
    return np.floor(np.clip(positions, 0, n_old - 1) + 0.5).astype(np.intp)


def _interpolate(values: NDArray[Any], new_shape: Sequence[int], order: int) -> NDArray[np.float64]:
    """Spline interpolation of one channel in float64, clipped to its own range."""
    values = values.astype(np.float64)
    factors = [new / old for new, old in zip(new_shape, values.shape, strict=True)]
    result = np.empty(tuple(new_shape), dtype=np.float64)
    ndimage.zoom(values, factors, output=result, order=order, mode="nearest", grid_mode=True)
    np.clip(result, values.min(), values.max(), out=result)
    return result


def _interpolate_labels(labels: NDArray[Any], new_shape: Sequence[int]) -> NDArray[Any]:
    """The label with the largest interpolated mask, voxel by voxel."""
    nearest = labels[np.ix_(*(_nearest(old, new) for old, new in zip(labels.shape, new_shape, strict=True)))]
    winner, best = nearest.copy(), np.zeros(tuple(new_shape))
    for label in np.unique(labels):
        score = _interpolate(labels == label, new_shape, order=1)
        wins = (score > best) | ((score == best) & (nearest == label))
        winner[wins] = label
        np.maximum(best, score, out=best)
    return winner
