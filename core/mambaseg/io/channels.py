"""One image from several files, one for each channel: how nnU-Net keeps examinations of several sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mambaseg._errors import ImageError
from mambaseg.image import Image
from mambaseg.io import read
from mambaseg.io._guard import file_name

__all__ = ["read_channels"]


def read_channels(paths: Sequence[str | Path], names: Sequence[str] = ()) -> Image:
    """The image of one file, or of several that hold a channel each, in this order.

    Parameters
    ----------
    paths : at least one; several must be grey and lie on one grid (nnU-Net: origins may differ)
    names : of the channels; empty: as the files say

    Raises
    ------
    ImageError : a file cannot be read, shapes or spacings differ, or one of several files holds more than one channel
    """
    images = [read(path) for path in paths]
    first = images[0]
    if len(images) == 1:
        return replace(first, channel_names=tuple(names)) if len(names) == first.n_channels else first
    for path, image in zip(paths, images, strict=True):
        if image.n_channels > 1 or image.has_time:
            raise ImageError(f"{file_name(Path(path))} holds several channels or time points; with one file a channel, "
                             "each holds a single one.")
        if image.grid.shape != first.grid.shape or not np.allclose(image.grid.spacing, first.grid.spacing, rtol=1e-3):
            raise ImageError(f"{file_name(Path(path))} has {image.grid.shape} voxels with spacing "
                             f"{_rounded(image.grid.spacing)}, but {file_name(Path(paths[0]))} has {first.grid.shape} "
                             f"with {_rounded(first.grid.spacing)}; the channels of a case lie on one grid.")
    data = np.stack([next(image.frames())[0] for image in images])
    axes = "C" + first.axes.replace("C", "")
    return Image(data, axes, first.grid, tuple(names), False, first.source, first.metadata)


def _rounded(spacing: Sequence[float]) -> tuple[float, ...]:
    """Six digits are enough for people."""
    return tuple(float(f"{side:.6g}") for side in spacing)
