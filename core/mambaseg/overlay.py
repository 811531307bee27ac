"""Labels as outlines over their picture, for people who would rather look."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import expand_labels, find_boundaries

from mambaseg.image import Image

__all__ = ["CLASS_COLOURS", "as_rgb", "class_colours", "instance_colours", "overlay", "shown_slices"]

Rgb = NDArray[np.uint8]
Labels = NDArray[Any]

# Okabe and Ito's palette (doi: jfly.uni-koeln.de/color), brightest first, without black
CLASS_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
                 (204, 121, 167))
# Brighter than the class colours, because an outline is thin; neighbours never share one
_INSTANCE_COLOURS = ((240, 228, 66), (86, 200, 255), (255, 170, 40), (60, 230, 170), (255, 130, 205), (150, 255, 90),
                     (255, 110, 80), (190, 170, 255))

_SHOWN_SIDE = 1200  # small pictures are enlarged towards this many pixels, so that outlines stay thin
_LONGEST_SIDE = 4096  # large ones are thinned out to this
_MAX_SLICES = 6
_NEAR_PX = 8  # objects this close count as neighbours
_FILL = 0.14  # opacity inside an outline
_GAP_PX = 6


def overlay(image: Image, labels: Labels, kind: str = "instances") -> Rgb:
    """The picture with a coloured outline around each object or class.

    Of a time series the first time point is drawn, of a volume up to six slices between the first and the last label.

    Parameters
    ----------
    image : what was segmented
    labels : integers, the image's axes without C
    kind : "instances": neighbours never share a colour; else one colour per class number

    Returns
    -------
    uint8, (row, column, 3)
    """
    frame = next(image.frames())
    truth = labels[0] if image.has_time else labels
    if image.ndim == 2:
        pictures, planes = [as_rgb(frame, image)], [truth]
    else:
        shown = shown_slices(truth)
        whole = as_rgb(frame[:, shown], image)
        pictures, planes = list(whole), [truth[index] for index in shown]
    colours = instance_colours(np.stack(planes)) if kind == "instances" else class_colours(int(labels.max(initial=0)))
    spacing = image.grid.spacing[-2:]
    panels = [_draw(*_scaled(picture, plane, spacing), colours)
              for picture, plane in zip(pictures, planes, strict=True)]
    return _montage(panels)


def class_colours(n_classes: int) -> Rgb:
    """Colour per class number, (n_classes + 1, 3); 0 is black. Okabe and Ito's, repeated where there are more."""
    return np.array([(0, 0, 0), *(CLASS_COLOURS[number % len(CLASS_COLOURS)] for number in range(n_classes))], np.uint8)


def instance_colours(labels: Labels, seed: int = 0) -> Rgb:
    """Colour per object number; shuffled, and never the same for two objects that are close to each other.

    Parameters
    ----------
    labels : integers, (slice, row, column)
    seed : of the shuffling

    Returns
    -------
    uint8, (largest label + 1, 3); row 0 is black
    """
    n_objects = int(labels.max(initial=0))
    near = _neighbours(labels)
    rng = np.random.default_rng(seed)
    wishes = rng.integers(len(_INSTANCE_COLOURS), size=n_objects + 1)
    chosen = np.full(n_objects + 1, -1)
    for number in range(1, n_objects + 1):
        taken = {int(chosen[other]) for other in near.get(number, ())}
        n_tried = max(len(_INSTANCE_COLOURS), len(taken) + 1)
        order = [*((wishes[number] + step) % len(_INSTANCE_COLOURS) for step in range(len(_INSTANCE_COLOURS))),
                 *range(len(_INSTANCE_COLOURS), n_tried)]
        chosen[number] = next(int(colour) for colour in order if colour not in taken)
    return np.array([(0, 0, 0), *(_colour(int(index)) for index in chosen[1:])], np.uint8)


def _colour(index: int) -> tuple[int, ...]:
    """The palette, and after its end as many bright hues as are asked for."""
    if index < len(_INSTANCE_COLOURS):
        return _INSTANCE_COLOURS[index]
    hue = index * 0.618034 % 1.0  # golden ratio: successive hues lie far apart
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.55, 1.0))


def _neighbours(labels: Labels) -> dict[int, set[int]]:
    """Objects that nearly touch in some slice."""
    near: dict[int, set[int]] = {}
    for plane in labels:
        grown = expand_labels(plane, _NEAR_PX / 2)
        for one, other in ((grown[1:], grown[:-1]), (grown[:, 1:], grown[:, :-1]), (grown[1:, 1:], grown[:-1, :-1]),
                           (grown[1:, :-1], grown[:-1, 1:])):
            differ = (one != other) & (one > 0) & (other > 0)
            for a, b in np.unique(np.stack([one[differ], other[differ]], axis=1), axis=0).tolist():
                near.setdefault(a, set()).add(b)
                near.setdefault(b, set()).add(a)
    return near


def shown_slices(labels: Labels, n_most: int = _MAX_SLICES) -> list[int]:
    """Some slices, evenly spread from the first to the last that holds a label (of all where none does).

    Parameters
    ----------
    labels : (slice, row, column)
    n_most : how many at most
    """
    filled = np.flatnonzero(labels.any(axis=(1, 2)))
    first, last = (int(filled[0]), int(filled[-1])) if filled.size else (0, len(labels) - 1)
    if last - first < n_most:
        return list(range(first, last + 1))
    return [round(position) for position in np.linspace(first, last, n_most + 2)[1:-1]]


def as_rgb(frame: NDArray[Any], image: Image) -> Rgb:
    """A picture or slices for the screen: 8-bit colours as they are, anything else stretched to its usual range.

    Parameters
    ----------
    frame : (channel, ...), a time point of `image`, or slices of it

    Returns
    -------
    uint8, (..., 3)
    """
    if image.is_rgb and frame.dtype == np.uint8:
        return np.moveaxis(frame, 0, -1)
    if image.is_rgb:
        stretched = np.moveaxis(_stretch(frame), 0, -1)
    else:  # the brightest channel, as grey
        brightest = np.max([_stretch(channel) for channel in frame], axis=0)
        stretched = np.repeat(brightest[..., np.newaxis], 3, axis=-1)
    return (stretched * 255).round().astype(np.uint8)


def _stretch(values: NDArray[Any]) -> NDArray[np.float32]:
    """Values as 0 to 1 between their 0.5th and 99.8th percentile; NaN and infinities are dark."""
    finite = np.nan_to_num(values.astype(np.float32), nan=-np.inf, neginf=-np.inf, posinf=-np.inf)
    inside = finite[np.isfinite(finite)]
    low, high = np.percentile(inside, (0.5, 99.8)) if inside.size else (0.0, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (finite - np.float32(low)) / np.float32(max(high - low, 1e-12))
    clipped: NDArray[np.float32] = np.clip(scaled, 0.0, 1.0)
    return clipped


def _scaled(picture: Rgb, labels: Labels, spacing: tuple[float, ...]) -> tuple[Rgb, Labels]:
    """Picture and labels enlarged or thinned out for the screen, with square pixels."""
    size = [extent * step / min(spacing) for extent, step in zip(labels.shape, spacing, strict=True)]
    factor = max(1.0, math.floor(_SHOWN_SIDE / max(size))) if max(size) <= _LONGEST_SIDE else _LONGEST_SIDE / max(size)
    factor = min(factor, 8.0)
    index = [np.minimum((np.arange(max(1, round(shown * factor))) + 0.5) * extent / max(1, round(shown * factor)),
                        extent - 1).astype(np.intp)
             for extent, shown in zip(labels.shape, size, strict=True)]
    rows, columns = np.ix_(*index)
    return picture[rows, columns], labels[rows, columns]


def _draw(picture: Rgb, labels: Labels, colours: Rgb) -> Rgb:
    """Outlines two pixels wide and a faint filling."""
    edge = find_boundaries(labels, connectivity=1, mode="inner")
    edge |= find_boundaries(np.where(edge, 0, labels), connectivity=1, mode="inner")
    paint = colours[labels]
    alpha = np.where(edge, 1.0, np.where(labels > 0, _FILL, 0.0)).astype(np.float32)[..., np.newaxis]
    mixed: Rgb = (picture * (1 - alpha) + paint * alpha).round().astype(np.uint8)
    return mixed


def _montage(panels: list[Rgb]) -> Rgb:
    """Panels of one size side by side in rows of three, with a gap."""
    if len(panels) == 1:
        return panels[0]
    n_columns = min(3, len(panels))
    n_rows = math.ceil(len(panels) / n_columns)
    height, width = (side + _GAP_PX for side in panels[0].shape[:2])
    sheet = np.full((n_rows * height - _GAP_PX, n_columns * width - _GAP_PX, 3), 24, np.uint8)
    for index, panel in enumerate(panels):
        row, column = divmod(index, n_columns)
        sheet[row * height:row * height + panel.shape[0], column * width:column * width + panel.shape[1]] = panel
    return sheet
