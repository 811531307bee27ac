"""Which image sizes a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SizeRule"]


@dataclass(frozen=True)
class SizeRule:
    """Sizes that a network takes; every network of fixed strides carries one as `size_rule`.

    Parameters
    ----------
    multiple : every spatial axis must be a multiple of it, and not 0
    square : all spatial axes must be equal
    """

    multiple: int
    square: bool = False

    def fit(self, size: Sequence[int]) -> tuple[int, ...]:
        """Smallest size that the network takes and an image of `size` pixels (any axis order) fits into."""
        ups = tuple(max(1, -(-side // self.multiple)) * self.multiple for side in size)
        return (max(ups),) * len(ups) if self.square else ups

    def check(self, size: Sequence[int]) -> None:
        """Raise ValueError, with the nearest size that works, unless the network takes `size`."""
        if tuple(size) != self.fit(size):
            wanted = f"multiples of {self.multiple}" + (", all equal" if self.square else "")
            given, fitting = (" x ".join(map(str, sides)) for sides in (size, self.fit(size)))
            raise ValueError(f"The network takes sides that are {wanted}, not {given}; pad the image to {fitting}.")
