"""Whole pictures brought to a network's own size, as the authors of VM-UNet, VM-UNetV2 and U-Net v2 do, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["resize", "resize_labels", "unresize"]


def resize(values: NDArray[np.float32], shape: Sequence[int], how: str) -> NDArray[np.float32]:
    """Pictures at another size.

    Parameters
    ----------
    values : float32, (..., *spatial); leading axes, channels and slices, are resized one by one
    shape : pixels per spatial axis of the result
    how : "bilinear": half-pixel centres, no smoothing where a picture shrinks, as torchvision did with tensors when
        VM-UNet (arXiv:2402.02491) was trained on skin lesions; "antialias": the same with a triangle as wide as a new
        pixel, as Pillow resizes pictures (U-Net v2 on polyps, arXiv:2311.17791); "cubic": spline of order 3, corner
        pixels on corner pixels, as the authors' script for the abdomen (Synapse) does with `scipy.ndimage.zoom`

    Returns
    -------
    float32, (..., *shape); `values` itself where it has that size
    """
    if values.shape[values.ndim - len(shape):] == tuple(shape):
        return values
    if how == "cubic":
        return _zoom(values, shape, order=3)
    first = values.ndim - len(shape)
    for axis, size in enumerate(shape, first):
        if values.shape[axis] != size:
            matrix = _triangles(values.shape[axis], size, is_smooth=how == "antialias")
            values = np.moveaxis(np.moveaxis(values, axis, -1) @ matrix.T, -1, axis)
    return np.ascontiguousarray(values)


def unresize(values: NDArray[np.float32], shape: Sequence[int], how: str) -> NDArray[np.float32]:
    """Logits of resized pictures, (K, *S), at the pictures' own size, (K, *shape).

    Bilinear; after "cubic" the nearest pixel, as the authors bring their labels back.
    """
    return _zoom(values, shape, order=0) if how == "cubic" else resize(values, shape, "bilinear")


def resize_labels(labels: NDArray[Any], shape: Sequence[int], how: str) -> NDArray[Any]:
    """Labels (..., *spatial) on the grid that `resize` makes: of each new pixel the label nearest to its centre."""
    if how == "cubic":
        return _zoom(labels, shape, order=0)
    first = labels.ndim - len(shape)
    for axis, size in enumerate(shape, first):
        centres = (np.arange(size) + 0.5) * labels.shape[axis] / size
        labels = labels.take(np.floor(centres).astype(np.intp), axis)
    return labels


def _triangles(n_old: int, n_new: int, is_smooth: bool) -> NDArray[np.float32]:
    """Weight of each old pixel in each new one, (new, old); rows sum to 1."""
    width = max(1.0, n_old / n_new) if is_smooth else 1.0
    centres = (np.arange(n_new) + 0.5) * n_old / n_new - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(n_old) - centres[:, None]) / width)
    rows: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return rows


def _zoom(values: NDArray[Any], shape: Sequence[int], order: int) -> NDArray[Any]:
    """Each array of the last axes by SciPy's spline, corner on corner."""
    first = values.ndim - len(shape)
    result = np.empty((*values.shape[:first], *shape), dtype=values.dtype)
    factors = [new / old for new, old in zip(shape, values.shape[first:], strict=True)]
    for index in np.ndindex(values.shape[:first]):
        ndimage.zoom(values[index], factors, output=result[index], order=order)
    return result
