"""How far two surfaces are apart: HD95, mean distance and normalised surface Dice, as three libraries define them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

from mambaseg._errors import UserError

__all__ = ["Surface", "SurfaceDistances", "assd", "hd95", "nsd", "umamba_nsd"]


class Surface(StrEnum):
    """What is meant by the surface of a mask and by its 95th percentile.

    deepmind : elements between voxels, weighted with their area; larger of the two directed percentiles
    medpy : voxels with a face neighbour outside; percentile of both directions pooled
    monai : the same voxels; larger of the two directed percentiles
    """

    DEEPMIND = "deepmind"
    MEDPY = "medpy"
    MONAI = "monai"


class _Directed(NamedTuple):
    """From each element of one surface: distance to the other surface, and its area (1 for voxels), by distance."""

    distance: NDArray[np.float64]
    area: NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """All distances between the surfaces of two masks, from which every score follows.

    Parameters
    ----------
    directed : from the true surface to the predicted one, and back; None: both masks are empty
    surface : see `Surface`
    """

    directed: tuple[_Directed, _Directed] | None
    surface: Surface

    @classmethod
    def measure(cls, truth: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float] | None = None,
                surface: Surface | str = Surface.DEEPMIND) -> SurfaceDistances:
        """The distances of two masks; arguments as `hd95`."""
        surface = Surface(surface)
        return cls(_distances(truth, prediction, spacing, surface), surface)

    def hd95(self) -> float:
        """95 % Hausdorff distance; NaN where a mask is empty."""
        pair = self._of_both()
        if pair is None:
            return math.nan
        if self.surface is Surface.MEDPY:
            return float(np.percentile(np.concatenate([directed.distance for directed in pair]), 95))
        if self.surface is Surface.MONAI:
            return max(float(np.percentile(directed.distance, 95)) for directed in pair)
        return max(_weighted_percentile(directed, 0.95) for directed in pair)

    def assd(self) -> float:
        """Average symmetric surface distance; NaN where a mask is empty.

        Mean over both surfaces together, by area; medpy's is the mean of the two directed means.
        """
        pair = self._of_both()
        if pair is None:
            return math.nan
        if self.surface is Surface.MEDPY:
            return float(np.mean([directed.distance.mean() for directed in pair]))
        distance, area = (np.concatenate(parts) for parts in zip(*pair, strict=True))
        return float((distance * area).sum() / area.sum())

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice; NaN where both masks are empty, 0 where one is."""
        if self.directed is None:
            return math.nan
        near = sum(float(directed.area[directed.distance <= tolerance].sum()) for directed in self.directed)
        return near / sum(float(directed.area.sum()) for directed in self.directed)

    def _of_both(self) -> tuple[_Directed, _Directed] | None:
        """The distances where neither mask is empty."""
        pair = self.directed
        return pair if pair is not None and len(pair[0].distance) and len(pair[1].distance) else None


def hd95(truth: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float] | None = None,
         surface: Surface | str = Surface.DEEPMIND) -> float:
    """95 % Hausdorff distance of two masks in the unit of the spacing; NaN where a mask is empty.

    Parameters
    ----------
    truth, prediction : masks of the same shape, 2-D or 3-D; not zero is inside
    spacing : voxel size in array order; None: 1
    surface : see `Surface`

    Raises
    ------
    UserError : shapes differ, or neither 2-D nor 3-D
    """
    return SurfaceDistances.measure(truth, prediction, spacing, surface).hd95()


def assd(truth: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float] | None = None,
         surface: Surface | str = Surface.DEEPMIND) -> float:
    """Average symmetric surface distance in the unit of the spacing; NaN where a mask is empty; see `hd95`."""
    return SurfaceDistances.measure(truth, prediction, spacing, surface).assd()


def nsd(truth: NDArray[Any], prediction: NDArray[Any], tolerance: float, spacing: Sequence[float] | None = None,
        surface: Surface | str = Surface.DEEPMIND) -> float:
    """Normalised surface Dice: share of both surfaces that lies within a tolerance of the other.

    Arguments as `hd95`; `tolerance` in the unit of the spacing. NaN where both masks are empty, 0 where one is.
    medpy has no such score, and its surface gives that of monai.
    """
    return SurfaceDistances.measure(truth, prediction, spacing, surface).nsd(tolerance)


def umamba_nsd(truth: NDArray[Any], prediction: NDArray[Any], tolerance: float,
               spacing: Sequence[float] | None = None) -> float:
    """NSD as the U-Mamba authors report it: 1 where both masks are empty, 0 where the truth is.

    A picture counts as a volume of one slice, spacing 1, so its two flat faces are surface as well and raise the score
    (0.88 where the contour itself scores 0.39, in one example). Arguments as `nsd`.
    """
    if not np.any(truth):
        return float(not np.any(prediction))
    if truth.ndim == 2:
        truth, prediction = truth[..., None], prediction[..., None]
        spacing = (*(spacing or (1.0, 1.0)), 1.0)
    return nsd(truth, prediction, tolerance, spacing)


def _distances(truth: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float] | None,
               surface: Surface) -> tuple[_Directed, _Directed] | None:
    """Distances from the true surface to the predicted one and back; None where both masks are empty."""
    if truth.shape != prediction.shape or truth.ndim not in (2, 3):
        raise UserError(f"Surfaces of masks of shapes {truth.shape} and {prediction.shape} cannot be compared; "
                        "give two pictures or two volumes on the same grid.")
    scale = (1.0,) * truth.ndim if spacing is None else tuple(float(side) for side in spacing)
    inside = (truth != 0) | (prediction != 0)
    if not inside.any():
        return None
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    # a layer of outside all around closes surfaces where a mask meets the picture's edge
    masks = [np.pad(mask[box] != 0, 1) for mask in (truth, prediction)]
    areas = [_surface_areas(mask, scale) if surface is Surface.DEEPMIND else _border(mask) for mask in masks]
    return _to_other(areas[0], areas[1], scale), _to_other(areas[1], areas[0], scale)


def _border(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 in voxels of the mask with a face neighbour outside, NaN elsewhere."""
    return np.where(mask & ~ndimage.binary_erosion(mask), 1.0, np.nan)


def _surface_areas(mask: NDArray[np.bool_], scale: tuple[float, ...]) -> NDArray[np.float64]:
    """Area (length, in 2-D) of the surface between each 2 x 2 (x 2) voxels; NaN where there is none."""
    corners = tuple(side - 1 for side in mask.shape)
    code = np.zeros(corners, dtype=np.intp)
    for bit, offset in enumerate(product((0, 1), repeat=mask.ndim)):
        code |= mask[tuple(slice(start, start + side) for start, side in zip(offset, corners, strict=True))].astype(
            np.intp) << bit
    return _area_table(scale)[code]


@lru_cache(maxsize=64)
def _area_table(scale: tuple[float, ...]) -> NDArray[np.float64]:
    """Area for each of the 2^(2^n) ways in which the voxels around a corner can be inside or outside."""
    n_voxels = 2 ** len(scale)
    table = np.full(2 ** n_voxels, np.nan)
    for code in range(1, len(table) - 1):
        cube = np.array([code >> bit & 1 for bit in range(n_voxels)], dtype=np.float32).reshape((2,) * len(scale))
        table[code] = _length(cube, scale) if len(scale) == 2 else _area(cube, scale)
    return table


def _area(cube: NDArray[np.float32], scale: tuple[float, ...]) -> float:
    """Marching cubes; where five or more of the voxels are inside, of those that are not: no side is preferred."""
    cube = 1 - cube if cube.sum() > 4 else cube
    vertices, faces, _, _ = marching_cubes(cube, 0.5, spacing=scale, method="lorensen")
    return float(mesh_surface_area(vertices, faces))


def _length(square: NDArray[np.float32], scale: tuple[float, ...]) -> float:
    """Marching squares, one corner of a voxel cut off per diagonal: the line joins the middles of two sides."""
    rows_differ, columns_differ = square[0] != square[1], square[:, 0] != square[:, 1]
    diagonal = math.hypot(*scale) / 2
    if rows_differ.all() and columns_differ.all():
        return 2 * diagonal
    if rows_differ.all():
        return scale[1]
    return scale[0] if columns_differ.all() else diagonal


def _to_other(area: NDArray[np.float64], other: NDArray[np.float64], scale: tuple[float, ...]) -> _Directed:
    here, there = ~np.isnan(area), ~np.isnan(other)
    if not there.any():
        return _Directed(np.full(np.count_nonzero(here), np.inf), area[here])
    distance = ndimage.distance_transform_edt(~there, sampling=scale)[here]
    order = np.argsort(distance, kind="stable")
    return _Directed(distance[order], area[here][order])


def _weighted_percentile(directed: _Directed, share: float) -> float:
    """The distance within which `share` of the area lies."""
    reached = np.cumsum(directed.area) / directed.area.sum()
    return float(directed.distance[min(int(np.searchsorted(reached, share)), len(reached) - 1)])
