"""An image is looked at again only around what is labelled in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mambaseg.image import Image
from mambaseg.models import Model
from mambaseg.progress import Progress, ProgressCallback, always
from mambaseg.segmentation import Segmentation, segment

__all__ = ["box_around", "segment_around"]


def segment_around(model: Model, image: Image, box: Sequence[tuple[int, int]], update: Progress, device: str = "auto",
                   progress: ProgressCallback | None = None, keep_probabilities: bool = False) -> Segmentation:
    """`mambaseg.segment` of a part; `update` is reported again for every window, so that it can be cancelled there."""
    return segment(image, model, device=device, roi=list(box), keep_probabilities=keep_probabilities,
                   progress=always(progress, update))


def box_around(mask: NDArray[np.bool_], model: Model) -> list[tuple[int, int]]:
    """Bounding box with a quarter of a patch around it, for what sticks out; `mask` holds something."""
    box = []
    margin = max(model.plan.patch_size) // 4
    for axis, size in enumerate(mask.shape):
        at = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append((max(0, int(at[0]) - margin), min(size, int(at[-1]) + 1 + margin)))
    return box
