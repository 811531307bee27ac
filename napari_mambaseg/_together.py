"""Several arrays of one shape as the channels of one image, without copying them before they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Together"]


class Together:
    """Arrays side by side along a new axis; sliced like an array, and made one by `numpy.asarray`.

    Parameters
    ----------
    arrays : of one shape; NumPy or anything that is sliced lazily
    axis : where the new axis goes
    """

    def __init__(self, arrays: Sequence[Any], axis: int = 0) -> None:
        self.arrays = tuple(arrays)
        self.axis = axis
        first = self.arrays[0].shape
        self.shape: tuple[int, ...] = (*first[:axis], len(self.arrays), *first[axis:])
        self.dtype = np.result_type(*(array.dtype for array in self.arrays))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What the array takes once it is made."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_lazy(self) -> bool:
        """Whether reading one of them means computing or loading it."""
        return not all(isinstance(array, np.ndarray) for array in self.arrays)

    def __len__(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """A part; whole numbers and slices, an axis each."""
        given = index if isinstance(index, tuple) else (index,)
        given = (*given, *(slice(None),) * (self.ndim - len(given)))
        chosen, rest = given[self.axis], (*given[:self.axis], *given[self.axis + 1:])
        if not isinstance(chosen, slice):
            return self.arrays[chosen][rest]
        axis = sum(isinstance(each, slice) for each in given[:self.axis])
        return Together([array[rest] for array in self.arrays[chosen]], axis)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it in memory; always a copy."""
        return np.stack([np.asarray(array) for array in self.arrays], self.axis, dtype=dtype, casting="unsafe")
