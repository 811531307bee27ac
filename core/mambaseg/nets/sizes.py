"""Which image sizes a network takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SizeRule"]


@dataclass(frozen=True)
class SizeRule:
    """Sizes that a network takes; every network of fixed strides carries one as `size_rule`.

    Parameters
    ----------
    multiple : every spatial axis must be a multiple of it, and not 0; one number for all axes, or one for each
    square : all spatial axes must be equal
    least_cells : the sides over `multiple`, multiplied, must be at least this: an instance norm at the bottom has no
        statistics of a single value
    exact : the one size that the network was built for; empty: there is none
    """

    multiple: int | tuple[int, ...]
    square: bool = False
    least_cells: int = 1
    exact: tuple[int, ...] = ()

    def fit(self, size: Sequence[int]) -> tuple[int, ...]:
        """Smallest size that the network takes and an image of `size` pixels (any axis order) fits into.

        A network built for one size has that size whatever the image: larger ones are seen window by window.
        """
        if self.exact:
            return self.exact
        steps = self._steps(len(size))
        cells = [max(1, -(-side // step)) for side, step in zip(size, steps, strict=True)]
        while math.prod(cells) < self.least_cells:
            cells[-1] += 1
        ups = tuple(n * step for n, step in zip(cells, steps, strict=True))
        return (max(ups),) * len(ups) if self.square else ups

    def check(self, size: Sequence[int]) -> None:
        """Raise ValueError, with the nearest size that works, unless the network takes `size`."""
        if self.exact and len(self.exact) != len(size):
            raise ValueError(f"The network takes images of {len(self.exact)} axes, not {len(size)}.")
        if tuple(size) != self.fit(size):
            given, fitting = (" x ".join(map(str, sides)) for sides in (size, self.fit(size)))
            if self.exact:
                raise ValueError(f"The network takes images of {fitting} only, not {given}.")
            steps = self.multiple if isinstance(self.multiple, int) else " x ".join(map(str, self.multiple))
            wanted = f"multiples of {steps}" + (", all equal" if self.square else "")
            raise ValueError(f"The network takes sides that are {wanted}, not {given}; pad the image to {fitting}.")

    def _steps(self, ndim: int) -> tuple[int, ...]:
        """What each axis must be a multiple of."""
        if isinstance(self.multiple, int):
            return (self.multiple,) * ndim
        if len(self.multiple) != ndim:
            raise ValueError(f"The network takes images of {len(self.multiple)} axes, not {ndim}.")
        return self.multiple
