"""Geometry of medical files: between RAS and LPS, and grids of the spatial part of a matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mambaseg.image import Grid

__all__ = ["grid_lps", "ras_lps", "ras_of"]


def ras_lps(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same matrix with the other of the two frames for its world, (4, 4); x and y change sign."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def ras_of(grid: Grid) -> NDArray[np.float64]:
    """Voxel-to-RAS matrix of a grid, (4, 4); a grid of two axes lies at z = 0 with slices of thickness 1."""
    affine = np.eye(4)
    n = grid.ndim
    affine[:n, :n] = grid.affine_xyz[:n, :n]
    affine[:n, 3] = grid.affine_xyz[:n, n]
    return ras_lps(affine)


def grid_lps(shape: tuple[int, ...], affine_lps: NDArray[np.float64], unit: str, is_of_patient: bool) -> Grid:
    """The grid of a (4, 4) matrix; a picture of two axes keeps the x and y part where that is a plane of its own."""
    if len(shape) == 3:
        return Grid.from_affine(shape, affine_lps, unit, is_of_patient)
    spacing_xyz = np.linalg.norm(affine_lps[:3, :2], axis=0)
    plane = np.eye(3)
    plane[:2, :2] = affine_lps[:2, :2]
    plane[:2, 2] = affine_lps[:2, 3]
    if np.allclose(np.linalg.norm(plane[:2, :2], axis=0), spacing_xyz, rtol=1e-4):
        return Grid.from_affine(shape, plane, unit)
    return Grid(shape, tuple(spacing_xyz[::-1]), unit)
