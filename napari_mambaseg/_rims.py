"""What shows that something is locked: a rim around what was corrected, a dot on what was confirmed."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from scipy import ndimage

from mambaseg.learn import Corrections
from mambaseg.learn.corrections import CONFIRMED, CORRECTED
from napari_mambaseg._entrance import put_off_tools

__all__ = ["rim_labels", "rim_layer"]

_DOT_PX = 1  # on either side of its middle


def rim_labels(corrections: Corrections) -> NDArray[np.int32]:
    """Labels whose outlines are the rims and dots, (*S).

    Objects corrected keep their number; of classes each corrected region is one. A dot is a small square in the slice
    through the middle of what was confirmed.
    """
    corrected = corrections.state == CORRECTED
    confirmed = corrections.state == CONFIRMED
    if corrections.kind == "instances":
        touched = np.setdiff1d(corrections.labels[corrected], [0])
        seen = np.setdiff1d(corrections.labels[confirmed], [0, *touched])
        rims = np.where(np.isin(corrections.labels, touched), corrections.labels, 0).astype(np.int32)
        pieces = np.where(np.isin(corrections.labels, seen), corrections.labels, 0).astype(np.int32)
    else:
        rims = corrected.astype(np.int32)
        pieces = ndimage.label(confirmed)[0].astype(np.int32)
    n_used = int(rims.max(initial=0))
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        if box is not None:
            rims[_dot(pieces[box] == number, box)] = n_used + number
    return rims


def rim_layer(rims: NDArray[np.int32], name: str, geometry: dict[str, Any]) -> Labels:
    """The layer that draws them, in white; it cannot be painted on."""
    layer = Labels(rims, name=name, opacity=0.9, **geometry)
    layer.colormap = DirectLabelColormap(color_dict={0: (0, 0, 0, 0), None: (1, 1, 1, 1)})
    layer.contour = 1
    layer.editable = False
    put_off_tools(layer)  # for good
    return layer


def _dot(mask: NDArray[np.bool_], box: tuple[slice, ...]) -> tuple[slice, ...]:
    """A square around the voxel of a mask that is nearest to its middle; flat along all but the last two axes."""
    inside = np.argwhere(mask)
    middle = inside[np.argmin(((inside - inside.mean(0)) ** 2).sum(1))] + [side.start for side in box]
    widths = [0] * (mask.ndim - 2) + [_DOT_PX] * 2
    return tuple(slice(max(0, int(at) - width), int(at) + width + 1)
                 for at, width in zip(middle, widths, strict=True))
