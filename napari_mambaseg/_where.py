"""Which part of a layer is to be segmented: whole, what is in view, a drawn rectangle, the current slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Shapes

from mambaseg import UserError
from napari_mambaseg._adapt import Reading, Source, labels_shape

__all__ = ["PLACES", "Part", "focus_point", "part_of"]

PLACES = ("whole", "view", "region", "slice")

Box = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Part:
    """A box of a layer's labels.

    Parameters
    ----------
    frames : first and behind the last time point; None: there is no time axis, or all of them
    box : (start, stop) per spatial axis, in voxels; None: all
    """

    frames: tuple[int, int] | None = None
    box: Box | None = None

    def slices(self, source: Source, margin: Sequence[int] | None = None) -> tuple[slice, ...]:
        """The part as slices of the labels' axes.

        Parameters
        ----------
        margin : voxels more on both sides per spatial axis, as far as the layer reaches; None: only the frames are
            chosen, the spatial axes stay whole
        """
        shape = labels_shape(source)
        n_time = len(shape) - len(source.reading.spatial)
        slices = [slice(*self.frames)] if n_time and self.frames else [slice(0, size) for size in shape[:n_time]]
        for axis, size in enumerate(shape[n_time:]):
            if self.box is None or margin is None:
                slices.append(slice(0, size))
            else:
                start, stop = self.box[axis]
                slices.append(slice(max(0, start - margin[axis]), min(size, stop + margin[axis])))
        return tuple(slices)


def part_of(viewer: Any, layer: Any, reading: Reading, place: str, *, all_frames: bool = True) -> Part:
    """What the user pointed at.

    Parameters
    ----------
    place : one of `PLACES`
    all_frames : of a time series every time point, else the one in view

    Raises
    ------
    UserError : there is no rectangle, or what is in view does not touch the layer
    """
    axes = reading.axes.replace("S", "")
    frames = None
    if "T" in axes and not all_frames:
        frame = _current(viewer, layer, axes.index("T"))
        frames = (frame, frame + 1)
    if place == "whole":
        return Part(frames)
    sizes = dict(zip(axes, layer.data[0].shape if layer.multiscale else layer.data.shape, strict=False))
    whole = [(0, int(sizes[letter])) for letter in reading.spatial]
    bounds = {"view": _in_view, "region": _in_rectangle, "slice": _in_slice}[place](viewer, layer)
    box = [_clipped(bounds.get(axes.index(letter)), size)
           for letter, (_, size) in zip(reading.spatial, whole, strict=True)]
    if any(stop <= start for start, stop in box):
        raise UserError(f"Nothing of {layer.name} lies {'in the rectangle' if place == 'region' else 'in view'}; "
                        "move it onto the image, or choose the whole image.")
    return Part(frames, None if box == whole else tuple(box))


def focus_point(viewer: Any, layer: Any, reading: Reading) -> tuple[float, ...]:
    """What the user looks at: the middle of the view, in voxels per spatial axis, within the layer."""
    world = list(viewer.dims.point)
    displayed = viewer.dims.displayed
    camera = getattr(viewer, "scene", viewer).camera  # napari 0.9 moved it
    for axis, value in zip(displayed, camera.center[-len(displayed):], strict=True):
        world[axis] = value
    point = layer.world_to_data(world[-layer.ndim:])
    axes = reading.axes.replace("S", "")
    shape = layer.data[0].shape if layer.multiscale else layer.data.shape
    return tuple(float(np.clip(point[axis], 0, shape[axis] - 1))
                 for axis, letter in enumerate(axes) if letter in "ZYX")


def _current(viewer: Any, layer: Any, axis: int) -> int:
    """Index of the layer along an axis that is at the slider's place."""
    index = round(float(layer.world_to_data(viewer.dims.point[-layer.ndim:])[axis]))
    shape = layer.data[0].shape if layer.multiscale else layer.data.shape
    return int(min(max(index, 0), shape[axis] - 1))


def _displayed(viewer: Any, layer: Any) -> list[int]:
    """Axes of the layer that are on the screen."""
    offset = viewer.dims.ndim - layer.ndim
    return [axis - offset for axis in viewer.dims.displayed if axis >= offset]


def _in_view(viewer: Any, layer: Any) -> dict[int, tuple[float, float]]:
    """Bounds of what the canvas shows, by axis; in 3-D display everything is in view."""
    if viewer.dims.ndisplay == 3:
        return {}
    corners = np.asarray(layer.corner_pixels, dtype=float)
    if layer.multiscale:
        corners = corners * np.asarray(layer.downsample_factors[layer.data_level])[:layer.ndim]
    bounds = {axis: (corners[0, axis], corners[1, axis] + 1) for axis in _displayed(viewer, layer)}
    if all(stop - start <= 1 for start, stop in bounds.values()):  # not drawn yet
        return {}
    return bounds | _in_slice(viewer, layer)


def _in_slice(viewer: Any, layer: Any) -> dict[int, tuple[float, float]]:
    """Bounds of the current slice, by axis."""
    hidden = set(range(layer.ndim)) - set(_displayed(viewer, layer))
    places = {axis: _current(viewer, layer, axis) for axis in hidden}
    return {axis: (place, place + 1) for axis, place in places.items()}


def _in_rectangle(viewer: Any, layer: Any) -> dict[int, tuple[float, float]]:
    """Bounds of the chosen shape, else of the last one drawn, by axis; it counts for every slice."""
    drawn = [other for other in viewer.layers if isinstance(other, Shapes) and len(other.data)]
    chosen = [other for other in drawn if other in viewer.layers.selection or other.selected_data] or drawn[-1:]
    if not chosen:
        raise UserError("No region is drawn yet; draw a rectangle on the image with the tools of the layer Region, or "
                        "choose the whole image.")
    shapes = chosen[-1]
    number = max(shapes.selected_data, default=len(shapes.data) - 1)
    offset = viewer.dims.ndim - shapes.ndim
    points = []
    for corner in np.asarray(shapes.data[number], dtype=float):
        world = list(viewer.dims.point)
        world[offset:] = shapes.data_to_world(corner)
        points.append(layer.world_to_data(world[-layer.ndim:]))
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    return {axis: (low[axis] + 0.5, high[axis] + 0.5) for axis in _displayed(viewer, layer)}


def _clipped(bounds: tuple[float, float] | None, size: int) -> tuple[int, int]:
    """Whole voxels within the layer."""
    if bounds is None:
        return (0, size)
    return max(0, math.floor(bounds[0])), min(size, math.ceil(bounds[1]))
