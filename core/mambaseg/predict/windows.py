"""Where a network looks: one grid of overlapping windows over the whole image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

__all__ = ["window_grid", "window_starts"]


def window_starts(size: int, tile: int, step: float = 0.5) -> tuple[int, ...]:
    """First voxel of each window along one axis.

    Parameters
    ----------
    size : voxels of the image
    tile : voxels of a window
    step : largest distance of neighbouring windows as a share of the window, in (0, 1]

    Returns
    -------
    ascending; the first window starts at 0 and the last one ends at `size`, evenly spread between. An image smaller
    than the window gets one window that sticks out, by the odd voxel more at the high side: its start is negative.

    Notes
    -----
    nnU-Net's rule (doi:10.1038/s41592-020-01008-z); halves round to even.
    """
    if not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], not {step}")
    if size <= tile:
        return (-((tile - size) // 2),)
    n_windows = math.ceil((size - tile) / (tile * step)) + 1
    distance = (size - tile) / (n_windows - 1)
    return tuple(round(distance * k) for k in range(n_windows))


def window_grid(
    shape: Sequence[int],
    tile: Sequence[int],
    step: float = 0.5,
    box: Sequence[tuple[int, int]] | None = None,
    focus: Sequence[float] | None = None,
) -> list[tuple[int, ...]]:
    """First voxels of all windows over an image.

    Parameters
    ----------
    shape : voxels per spatial axis
    tile : voxels per axis of a window; fewer axes than `shape` for slice-wise work, then the leading axes of the image
        are walked voxel by voxel
    step : see `window_starts`
    box : (start, stop) per spatial axis; only windows that touch it. The grid does not move, so that a part is
        predicted as it is in the whole
    focus : point in voxels; nearest windows first. None: row by row

    Returns
    -------
    one start per spatial axis for each window
    """
    n_leading = len(shape) - len(tile)
    tile = (*(1,) * n_leading, *tile)
    axes = [tuple(range(size)) for size in shape[:n_leading]]
    axes += [window_starts(size, side, step) for size, side in zip(shape[n_leading:], tile[n_leading:], strict=True)]
    if box is not None:
        axes = [tuple(start for start in starts if start < high and start + side > low)
                for starts, side, (low, high) in zip(axes, tile, box, strict=True)]
    starts = list(product(*axes))
    if focus is not None:
        centre = [point - (side - 1) / 2 for point, side in zip(focus, tile, strict=True)]
        starts.sort(key=lambda start: math.dist(start, centre))
    return starts
