"""What is found so far, on the grid of the picture that the user looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mambaseg.predict.blend import Blend
from mambaseg.prepare import Prepared
from mambaseg.progress import Preview

__all__ = ["Previewer"]


class Previewer:
    """Turns the state of a blend into pieces of the frame, nearest neighbour; costs far less than a window.

    Parameters
    ----------
    prepared : what the windows lie on, and its way back to the frame
    kind : of the model; objects are shown as 1, whether interior or boundary
    bounds : box of the frame, (start, stop) per axis; nothing is shown outside. None: the whole frame
    """

    def __init__(self, prepared: Prepared, kind: str, bounds: Sequence[tuple[int, int]] | None = None) -> None:
        self._kind = kind
        self._crop = prepared.crop
        self._back = np.argsort(prepared.transpose)
        self._bounds = [None if bounds is None else bounds[axis] for axis in prepared.transpose]
        sizes = zip(prepared.array.shape[1:], prepared.shape_after_crop, strict=True)
        self._nearest = [((np.arange(n_after_crop) + 0.5) * size / n_after_crop).astype(np.intp)
                         for size, n_after_crop in sizes]

    def __call__(self, blend: Blend, start: Sequence[int]) -> Preview | None:
        """Where the window at `start` lies in the frame, and what is there so far; None outside the box."""
        labels, first = blend.labels_so_far(start, self._kind)
        begins, picks = [], []
        for axis, (low, _) in enumerate(self._crop):
            begin, end = np.searchsorted(self._nearest[axis], (first[axis], first[axis] + labels.shape[axis]))
            bounds = self._bounds[axis]
            if bounds is not None:
                begin, end = max(begin, bounds[0] - low), min(end, bounds[1] - low)
            if begin >= end:
                return None
            begins.append(int(begin) + low)
            picks.append(self._nearest[axis][begin:end] - first[axis])
        piece: NDArray[np.uint8] = labels[np.ix_(*picks)].transpose(self._back)
        return Preview(piece, tuple(begins[axis] for axis in self._back))
