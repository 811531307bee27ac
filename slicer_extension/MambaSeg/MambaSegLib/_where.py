"""Which part of a volume is meant: a region, a slice, what the slice views show; and where the user looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slicer
from mambaseg import UserError
from MambaSegLib._adapt import Box, Source, matrix_of

__all__ = ["focus_of", "red_slice", "region_box", "slice_box", "slice_views", "view_box"]

_RIM = 1e-6  # voxels; what rounding may add
_CORNERS = np.array([*np.ndindex(2, 2, 2)]) * 2 - 1


def region_box(source: Source, node: Any) -> Box:
    """Voxels whose centres lie in the box around a region node, (start, stop) per k, j, i.

    Raises
    ------
    UserError : none of them lies in the volume
    """
    half = np.zeros(3)
    node.GetSizeWorld(half)
    half /= 2
    to_world = matrix_of(node.GetObjectToWorldMatrix())
    to_world[:3, :3] /= np.linalg.norm(to_world[:3, :3], axis=0)  # the size is one in the world already
    box = _box_around(source, to_world @ np.c_[_CORNERS * half, np.ones(8)].T)
    if box is None:
        raise UserError(f"The region {node.GetName()} holds no voxel of {source.name}; move or enlarge it.")
    return box


def slice_box(source: Source, node: Any) -> Box:
    """The slice of the volume that a slice view shows; of an oblique view the one that is nearest in its middle.

    Raises
    ------
    UserError : the view lies beside the volume
    """
    view = matrix_of(node.GetSliceToRAS())
    normal = view[:3, 2] / np.linalg.norm(view[:3, 2])
    centre = _centre(source)
    point = centre - ((centre - view[:3, 3]) @ normal) * normal
    directions = source.ijk_to_world[:3, :3] / np.linalg.norm(source.ijk_to_world[:3, :3], axis=0)
    axis = int(np.abs(normal @ directions).argmax())
    index = round(float((np.linalg.inv(source.ijk_to_world) @ [*point, 1])[axis]))
    box = [(0, size) for size in source.shape]
    if not 0 <= index < source.shape[2 - axis]:
        raise UserError(f"The slice view {node.GetName()} lies beside {source.name}; scroll to a slice of it.")
    box[2 - axis] = (index, index + 1)
    return tuple(box)


def view_box(source: Source, nodes: Sequence[Any]) -> Box:
    """What lies within the frames of all slice views, through all of their slices, (start, stop) per k, j, i.

    Of an oblique view the box around what it shows.

    Raises
    ------
    UserError : no slice view is open, or nothing of the volume is in view
    """
    if not nodes:
        raise UserError("No slice view is open; choose a layout with one, for example Four-Up, or segment the whole "
                        "image.")
    reach = np.linalg.norm(source.ijk_to_world[:3, :3] @ source.shape[::-1])  # mm; farther than any voxel
    found = tuple((0, size) for size in source.shape)
    for node in nodes:
        to_world = matrix_of(node.GetXYToRAS())
        width, height = node.GetDimensions()[:2]
        corners = np.array([(x * width - 0.5, y * height - 0.5, 0, 1) for x in (0, 1) for y in (0, 1)]).T
        plane = (to_world @ corners)[:3]
        normal = matrix_of(node.GetSliceToRAS())[:3, 2:3]
        normal = normal / np.linalg.norm(normal)
        middle = _centre(source)[:, None] - plane.mean(1, keepdims=True)
        plane = plane + normal * (normal.T @ middle)  # moved along the normal to where the volume lies
        ends = np.hstack([plane - reach * normal, plane + reach * normal])
        box = _box_around(source, np.vstack([ends, np.ones(ends.shape[1])]))
        found = () if box is None or not found else _shared(found, box)
    if not found:
        raise UserError(f"Nothing of {source.name} lies in the slice views; move them onto it, or segment the whole "
                        "image.")
    return found


def focus_of(source: Source) -> tuple[float, ...] | None:
    """Voxel (k, j, i) in the middle of the red slice view, where the user looks; None without such a view."""
    node = _red()
    if node is None:
        return None
    middle = np.linalg.inv(source.ijk_to_world) @ matrix_of(node.GetSliceToRAS())[:, 3]
    return tuple(float(np.clip(at, 0, size - 1)) for at, size in zip(middle[2::-1], source.shape, strict=True))


def red_slice() -> Any:
    """The red slice view.

    Raises
    ------
    UserError : there is none
    """
    node = _red()
    if node is None:
        raise UserError("There is no red slice view to take the slice from; choose a layout with one, for example "
                        "Four-Up.")
    return node


def slice_views() -> list[Any]:
    """The slice views that are in the layout now."""
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNodeByClass(index, "vtkMRMLSliceNode")
             for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode"))]
    return [node for node in nodes if node.IsMappedInLayout() and min(node.GetDimensions()[:2]) > 0]


def _red() -> Any:
    return slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceNode")


def _centre(source: Source) -> NDArray[np.float64]:
    """Middle of the volume in the world."""
    return (source.ijk_to_world @ [*((np.array(source.shape[::-1]) - 1) / 2), 1])[:3]


def _box_around(source: Source, world: NDArray[np.float64]) -> Box | None:
    """Voxels whose centres lie in the box around points (4, n) of the world; None: not one."""
    ijk = (np.linalg.inv(source.ijk_to_world) @ world)[:3]
    first = np.ceil(ijk.min(1) - _RIM).astype(int)
    last = np.floor(ijk.max(1) + _RIM).astype(int)
    box = tuple((max(0, int(a)), min(size, int(b) + 1))
                for a, b, size in zip(first[::-1], last[::-1], source.shape, strict=True))
    return box if all(start < stop for start, stop in box) else None


def _shared(one: Box, other: Box) -> Box:
    """What two boxes have in common; empty: nothing."""
    box = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return box if all(start < stop for start, stop in box) else ()
