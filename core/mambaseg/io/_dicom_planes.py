"""Where DICOM slices lie, and the grid that they make together. DICOM's world is LPS in millimetres, as ITK's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import ImageError
from mambaseg.image import Grid

__all__ = ["Plane", "frame_planes", "plane_of", "volume_grid"]

# Scanners round positions to tenths of a millimetre, so slices are never quite even
MAX_UNEVEN = 0.1
MAX_SHEAR = 2e-3


@dataclass(frozen=True)
class Plane:
    """One slice: position of its first pixel and unit vectors along its rows and columns (None: not told), in mm.

    `spacing_yx` is empty where the header tells no pixel size; `scale` is slope and intercept of the values.
    """

    name: str
    position: NDArray[np.float64] | None
    orientation: NDArray[np.float64] | None
    spacing_yx: tuple[float, ...]
    thickness: float
    scale: tuple[float, float]


def plane_of(name: str, header: Any) -> Plane:
    """The plane of a file with one frame."""
    spacing = _vector(header.get("PixelSpacing") or header.get("ImagerPixelSpacing"), 2)
    return _plane(name, header.get("ImagePositionPatient"), header.get("ImageOrientationPatient"), spacing,
                  header, header)


def frame_planes(name: str, header: Any, n_frames: int, notices: list[str]) -> list[Plane]:
    """The planes of a file with many frames: from its functional groups, or stacked upon the file's own plane."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
    if len(frames) == n_frames:
        return [_frame_plane(f"{name} frame {i + 1}", frame, shared) for i, frame in enumerate(frames)]
    first = plane_of(name, header)
    step = first.thickness or 1.0
    notices.append(f"{name} does not say where its {n_frames} frames lie; they are taken as slices {step:g} mm apart.")
    orientation = first.orientation if first.orientation is not None else np.eye(3)[:2]
    start = first.position if first.position is not None else np.zeros(3)
    normal = np.cross(*orientation)
    return [Plane(f"{name} frame {i + 1}", start + i * step * normal, orientation, first.spacing_yx, step, first.scale)
            for i in range(n_frames)]


def _frame_plane(name: str, frame: Any, shared: Any) -> Plane:
    """The plane of one frame; what the frame does not say is shared."""
    groups = {}
    for group in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
                  "PixelValueTransformationSequence"):  # fmt: skip
        groups[group] = (frame.get(group) or shared.get(group) or [{}])[0]
    measures = groups["PixelMeasuresSequence"]
    return _plane(name, groups["PlanePositionSequence"].get("ImagePositionPatient"),
                  groups["PlaneOrientationSequence"].get("ImageOrientationPatient"),
                  _vector(measures.get("PixelSpacing"), 2), measures, groups["PixelValueTransformationSequence"])


def _plane(name: str, position: Any, orientation: Any, spacing: NDArray[np.float64] | None, measures: Any,
           values: Any) -> Plane:
    """Check the numbers of a plane."""
    axes = _vector(orientation, 6)
    if axes is not None:
        axes = axes.reshape(2, 3)
        lengths = np.linalg.norm(axes, axis=1, keepdims=True)
        is_frame = bool((np.abs(lengths - 1) < 0.1).all()) and abs(float(axes[0] @ axes[1])) < 0.1
        axes = axes / lengths if is_frame else None
    sizes = tuple(float(size) for size in spacing) if spacing is not None and (spacing > 0).all() else ()
    slope, intercept = values.get("RescaleSlope", 1), values.get("RescaleIntercept", 0)
    thickness = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0.0)
    scale = (float(1 if slope is None else slope), float(intercept or 0))
    return Plane(name, _vector(position, 3), axes, sizes, abs(thickness), scale)


def _vector(values: Any, n: int) -> NDArray[np.float64] | None:
    """`n` finite numbers, else None."""
    if values is None or isinstance(values, str) or not hasattr(values, "__len__") or len(values) != n:
        return None
    vector = np.array([float(value) for value in values])
    return vector if np.isfinite(vector).all() else None


def volume_grid(name: str, planes: list[Plane], size_yx: tuple[int, int], notices: list[str],
                as_picture: bool = False) -> tuple[list[int], Grid]:
    """The order of the slices along their normal, and the grid that they make.

    Raises
    ------
    ImageError : slices point in different directions, lie in one place, or are not evenly spaced
    """
    first = planes[0]
    lacks_place = any(plane.position is None or plane.orientation is None for plane in planes)
    if as_picture or (lacks_place and len(planes) == 1):
        return [0], _picture_grid(name, first, size_yx, notices)
    if lacks_place:
        raise ImageError(f"{name} holds {len(planes)} slices, but not all say where they lie. Give one file by itself.")
    spacing_yx = first.spacing_yx or (1.0, 1.0)
    if not first.spacing_yx:
        notices.append(f"{name} gives no pixel size; 1 mm is taken.")
    _check_alike(name, planes)
    axes = np.array(first.orientation)
    normal = np.cross(axes[0], axes[1])
    positions = np.array([plane.position for plane in planes])
    order = [int(i) for i in np.argsort(positions @ normal, kind="stable")]
    if len(planes) == 1:
        step = (first.thickness or 1.0) * normal
        notices.append(f"{name} is a single slice; its thickness is taken as {first.thickness or 1.0:g} mm.")
    else:
        step = _step(name, [planes[i] for i in order], positions[order], normal)
        if np.linalg.norm(np.cross(step / np.linalg.norm(step), normal)) > MAX_SHEAR:
            notices.append(f"The slices of {name} are sheared against each other (tilted gantry); "
                           "they are kept as they lie.")
    affine = np.eye(4)
    affine[:3, :3] = np.array([axes[0] * spacing_yx[1], axes[1] * spacing_yx[0], step]).T
    affine[:3, 3] = positions[order[0]]
    return order, Grid.from_affine((len(planes), *size_yx), affine, "mm", is_of_patient=True)


def _picture_grid(name: str, plane: Plane, size_yx: tuple[int, int], notices: list[str]) -> Grid:
    """A picture with no place in the world."""
    if plane.spacing_yx:
        return Grid(size_yx, plane.spacing_yx, "mm")
    notices.append(f"{name} gives no pixel size; sizes are in pixels.")
    return Grid(size_yx, (1.0, 1.0))


def _check_alike(name: str, planes: list[Plane]) -> None:
    """All slices are parallel and have pixels of one size."""
    first = planes[0]
    for plane in planes[1:]:
        if not np.allclose(np.array(plane.orientation), np.array(first.orientation), atol=1e-2):
            raise ImageError(f"The slices of {name} point in different directions ({first.name}, {plane.name}). "
                             "Put those of one direction into a folder of their own.")
        if not np.allclose(plane.spacing_yx or (1.0, 1.0), first.spacing_yx or (1.0, 1.0), rtol=1e-3):
            raise ImageError(f"The slices of {name} have pixels of different size ({first.name}, {plane.name}). "
                             "Put those of one size into a folder of their own.")


def _step(name: str, planes: list[Plane], positions: NDArray[np.float64],
          normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vector from one slice to the next, the same for all."""
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    if gaps.min() < 1e-3 * max(usual, 1e-3):
        i = int(np.argmin(gaps))
        raise ImageError(f"{name} has two slices in one place ({planes[i].name}, {planes[i + 1].name}). "
                         "Take the second out, or give one time point or phase only.")
    step = (positions[-1] - positions[0]) / len(gaps)
    even = positions[0] + np.arange(len(positions))[:, np.newaxis] * step
    if np.linalg.norm(positions - even, axis=1).max() > MAX_UNEVEN * usual:
        i = int(np.argmax(np.abs(gaps - usual)))
        raise ImageError(f"The slices of {name} are not evenly spaced: {usual:g} mm apart, but {gaps[i]:g} mm between "
                         f"{planes[i].name} and {planes[i + 1].name}. Add the missing slices, or resample the series.")
    along = (step @ normal) * normal
    return along if np.linalg.norm(step - along) < MAX_SHEAR * np.linalg.norm(step) else np.array(step)
