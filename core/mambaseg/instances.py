"""Interior and boundary classes, and back to one label per object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

__all__ = ["BACKGROUND", "BOUNDARY", "INTERIOR", "interior_and_boundary"]

BACKGROUND, INTERIOR, BOUNDARY = 0, 1, 2


def interior_and_boundary(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Three classes from instance labels: 0 background, 1 interior, 2 boundary.

    The boundary is the outermost voxel layer of each object (full connectivity), so objects that touch are kept
    apart by two boundary voxels.

    Parameters
    ----------
    labels : integer, any shape; 0 is background

    Returns
    -------
    uint8, shape of `labels`
    """
    classes = (labels > 0).astype(np.uint8)
    classes[find_boundaries(labels, connectivity=labels.ndim, mode="inner")] = BOUNDARY
    return classes
