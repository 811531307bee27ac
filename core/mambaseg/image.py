"""Image: pixels that know their axes, their size in the world and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "Image"]


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: the spatial axes only, in the array's order (z, y, x) or (y, x).

    Parameters
    ----------
    shape : voxels per spatial axis
    spacing : distance of voxel centres per spatial axis, array order, in `unit`
    unit : "mm", "um" or "px" (not known)
    origin_xyz : world position of the first voxel's centre, x first, in `unit`; ITK's LPS frame for medical files
    direction : row-major direction cosines as ITK keeps them (columns are the x, y, z index axes)
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str = "px"
    origin_xyz: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()


@dataclass(frozen=True)
class Image:
    """Pixels with named axes.

    Parameters
    ----------
    data : any numeric dtype, axes as `axes` says
    axes : subset of "TCZYX" in this order; "Y" and "X" always there. RGB pictures have C of length 3 and `is_rgb`
    grid : the spatial axes' geometry
    channel_names : one a channel; empty: not known
    is_rgb : the channels are the red, green and blue of a colour picture
    source : file name it was read from, for messages; None for arrays
    metadata : what a writer of the same family wants back (format name, header fields), never identity of a patient
    """

    data: NDArray[Any]
    axes: str
    grid: Grid
    channel_names: tuple[str, ...] = ()
    is_rgb: bool = False
    source: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_array(cls, array: NDArray[Any], axes: str | None = None, spacing: tuple[float, ...] | None = None,
                   unit: str = "px") -> Image:
        """An image from a bare array; `axes` may be in any order ("YXC"), None guesses."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        raise NotImplementedError

    @property
    def n_channels(self) -> int:
        """Length of the channel axis, 1 where there is none."""
        raise NotImplementedError

    def frames(self) -> Iterator[NDArray[Any]]:
        """Each time point as (channel, *spatial); one for an image without a time axis."""
        raise NotImplementedError
